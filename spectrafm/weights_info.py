"""What travels with the weights so that a prediction can be reproduced and judged."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .exceptions import CheckpointError
from .quantities import Quantity, get_quantity, register_quantity

__all__ = ["Domain", "WeightsInfo"]


@dataclass
class Domain:
    """Spectra of one kind that weights were trained on, and how the weights do on them.

    Attributes
    ----------
    name : str
        Name of the kind: an instrument, or a window.
    labels : tuple of str
        Labels that are told from such spectra.
    normalizer : dict
        Settings of the normaliser, see `spectrafm.continuum.normalizer_from_dict`.
    flux_kind : str
        ``"relative_sed"`` or ``"continuum_normalized"``.
    wavelength_range : tuple of float
        [Angstrom, vacuum] where the training spectra have pixels; others are not used.
    spacing_range : tuple of float
        Smallest and largest median pixel spacing in ln(wavelength) of the training spectra.
    min_pixels : int
        Fewer good pixels than this are flagged.
    min_coverage : float
        A smaller share of the wavelength range than this is flagged.
    min_snr : float
        Signal-to-noise ratio per pixel below which a spectrum is flagged.
    label_ranges : dict
        Range of each training label; predictions outside are flagged.
    usual_errors : dict
        Per label, the error above which a prediction is flagged; for a label
        that is modelled by its logarithm, the relative error.
    calibration : dict
        Per label, factors on the predicted error: ``{"with_sigma": f, "without_sigma": g}``.
    density_threshold : float
        Distance of the embedding above which a spectrum is flagged.
    thresholds : dict
        Per statistic of `spectrafm.diagnostics`, the value above which a spectrum is
        flagged; a statistic that is not there flags nothing.
    expected : dict
        Per statistic that is judged against stars alike, coefficients by feature of the
        logarithm of its usual value; its threshold is on the value over that.
    predicts_flux : bool
        Whether flux can be asked for.
    """

    name: str
    labels: tuple
    normalizer: dict = field(default_factory=lambda: {"name": "median"})
    flux_kind: str = "relative_sed"
    wavelength_range: tuple = (0.0, float("inf"))
    spacing_range: tuple = (0.0, float("inf"))
    min_pixels: int = 1
    min_coverage: float = 0.9
    min_snr: float = 0.0
    label_ranges: dict = field(default_factory=dict)
    usual_errors: dict = field(default_factory=dict)
    calibration: dict = field(default_factory=dict)
    density_threshold: float = float("inf")
    thresholds: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)
    predicts_flux: bool = False

    def __post_init__(self):
        """Check the names, and turn lists of JSON into tuples."""
        self.labels = tuple(self.labels)
        self.wavelength_range, self.spacing_range = tuple(self.wavelength_range), tuple(self.spacing_range)
        for name in self.labels:
            get_quantity(name, "labels")

    def fits(self, arrays):
        """Say how well a spectrum fits in.

        Parameters
        ----------
        arrays : SpectrumArrays
            The spectrum.

        Returns
        -------
        tuple
            Larger is better: whether the spacing of its pixels is right, and how many
            of its good pixels lie in the range.
        """
        n_inside = np.count_nonzero(arrays.good & self.inside(arrays.wavelength))
        low, high = self.spacing_range
        return n_inside > 0 and low <= arrays.spacing <= high, n_inside

    def inside(self, wavelength):
        """Return which wavelengths are in the range.

        Parameters
        ----------
        wavelength : numpy.ndarray
            [Angstrom, vacuum].

        Returns
        -------
        numpy.ndarray
            bool, of the same shape.
        """
        low, high = self.wavelength_range
        return (wavelength >= low) & (wavelength <= high)


@dataclass
class WeightsInfo:
    """Facts about a set of weights, kept beside them in ``spectrafm.json``.

    Attributes
    ----------
    name : str
        Name of the weights.
    domains : tuple of Domain
        Kinds of spectra that they read.
    known : tuple of str
        Quantities that may be given.
    training_data, license, citation, package_version : str
        Provenance.
    fine_tuning : dict
        Of fine-tuned weights: their base, method, settings, scores and history.
    quantities : tuple of Quantity
        Quantities to register, as the registry may not know them.
    """

    name: str
    domains: tuple
    known: tuple = ()
    training_data: str = ""
    license: str = ""
    citation: str = ""
    package_version: str = ""
    fine_tuning: dict = field(default_factory=dict)
    quantities: tuple = ()

    def __post_init__(self):
        """Check the names."""
        self.known = tuple(self.known)
        self.quantities = tuple(Quantity(**q) if isinstance(q, dict) else q for q in self.quantities)
        for quantity in self.quantities:
            register_quantity(quantity)
        self.domains = tuple(Domain(**d) if isinstance(d, dict) else d for d in self.domains)
        for name in self.known:
            get_quantity(name, "known")

    @property
    def labels(self):
        """Labels of all domains, in their order."""
        return tuple(dict.fromkeys(name for domain in self.domains for name in domain.labels))

    def domain_of(self, arrays):
        """Return the number of the domain that a spectrum is of.

        Parameters
        ----------
        arrays : SpectrumArrays
            The spectrum.

        Returns
        -------
        int
            That with most of its pixels, of those for whose sampling it is right; or of
            all where there is none.
        """
        return max(range(len(self.domains)), key=lambda i: self.domains[i].fits(arrays))

    def write(self, path):
        """Write as JSON.

        Parameters
        ----------
        path : str or pathlib.Path
            The file.
        """
        Path(path).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path):
        """Read what `write` wrote.

        Parameters
        ----------
        path : str or pathlib.Path
            The file.

        Returns
        -------
        WeightsInfo

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or has fields this version does not know.
        """
        try:
            return cls(**json.loads(Path(path).read_text()))
        except FileNotFoundError as error:
            raise CheckpointError(f"folder: {path} not found; expected weights saved by SpectraFM.save") from error
        except (json.JSONDecodeError, TypeError) as error:
            raise CheckpointError(f"folder: {path} is damaged or of another version ({error})") from error
