"""What travels with the weights so that a prediction can be reproduced and judged."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from .exceptions import CheckpointError
from .quantities import get_quantity

__all__ = ["WeightsInfo"]


@dataclass
class WeightsInfo:
    """Facts about a set of weights, kept beside them in ``spectrafm.json``.

    Attributes
    ----------
    name : str
        Name of the weights.
    labels : tuple of str
        Labels returned by default.
    known : tuple of str
        Quantities that may be given.
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
    training_data, license, citation, package_version : str
        Provenance.
    """

    name: str
    labels: tuple
    known: tuple = ()
    normalizer: dict = field(default_factory=lambda: {"name": "median"})
    flux_kind: str = "relative_sed"
    wavelength_range: tuple = (0.0, float("inf"))
    spacing_range: tuple = (0.0, float("inf"))
    min_pixels: int = 1
    min_snr: float = 0.0
    label_ranges: dict = field(default_factory=dict)
    usual_errors: dict = field(default_factory=dict)
    calibration: dict = field(default_factory=dict)
    density_threshold: float = float("inf")
    training_data: str = ""
    license: str = ""
    citation: str = ""
    package_version: str = ""

    def __post_init__(self):
        """Check the names."""
        self.labels, self.known = tuple(self.labels), tuple(self.known)
        self.wavelength_range, self.spacing_range = tuple(self.wavelength_range), tuple(self.spacing_range)
        for name in (*self.labels, *self.known):
            get_quantity(name, "labels")

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
