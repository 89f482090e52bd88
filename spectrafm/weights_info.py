"""Facts stored with the weights, so that a prediction can be reproduced and judged."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ._storage import write_json
from .exceptions import CheckpointError, InputTypeError, InputValueError
from .quantities import (
    BUILT_IN,
    QUANTITIES,
    Quantity,
    column_unit,
    get_quantity,
    register_quantity,
    registered_on_success,
    same_units,
)

__all__ = ["LARGE_ERROR", "Domain", "WeightsInfo"]

#: Errors this many times the median of usual stars are flagged as large.
LARGE_ERROR = 5.0


@dataclass
class Domain:
    """Spectra of one kind that weights were trained on, and the accuracy of the weights for them.

    Attributes
    ----------
    name : str
        Name of the kind: an instrument, or a window.
    labels : tuple of str
        Labels that such spectra give.
    normalizer : dict
        Settings of the normaliser, see `spectrafm.continuum.normalizer_from_dict`.
    flux_kind : str
        ``"relative_sed"`` or ``"continuum_normalized"``.
    wavelength_range : tuple of float
        [Angstrom, vacuum] where the training spectra have pixels; others are not used.
    spacing_range : tuple of float
        Smallest and largest median pixel spacing in ln(wavelength) of the training spectra;
        the smallest is that of the real training spectra if there are any.
    highest_power : float
        Largest resolving power of the training spectra, of the real ones if there are any;
        infinite for no limit. Finer spectra are smoothed, see `degraded`.
    lowest_power : float
        Smallest resolving power of the training spectra; a lower one, if given, is flagged.
    min_pixels : int
        Fewer good pixels than this are flagged.
    min_coverage : float
        A smaller share of the wavelength range than this is flagged.
    min_snr : float
        Signal-to-noise ratio per pixel below which a spectrum is flagged.
    largest_snr : float
        Largest signal-to-noise ratio per pixel in training; smaller flux errors are raised, see
        `with_error_floor`.
    label_ranges : dict
        Range of each training label; predictions outside are flagged.
    usual_errors : dict
        Per label, the predicted error, before ``calibration``, above which a prediction is
        flagged; for a label that is modelled by its logarithm, the relative error.
    calibration : dict
        Per label, factors on the predicted error: ``{"with_sigma": f, "without_sigma": g}``.
    smallest_errors : dict
        Per label, the smallest error that is told: true labels whose own errors are larger than the
        predicted ones cannot say whether these are right. 0 for a label without an entry.
    in_common : dict
        Per label, the fraction of the error variance shared by all subsets of pixels, which averaging does not
        reduce; 1 for a label without an entry. Only for models that read subsets.
    unproven : tuple of str
        Labels whose errors were calibrated on synthetic stars only: they do not include the
        mismatch between real and synthetic spectra.
    density_threshold : float
        Distance of the embedding above which a spectrum is flagged.
    thresholds : dict
        Per statistic of `spectrafm.diagnostics`, the value above which a spectrum is
        flagged; a statistic without an entry flags nothing.
    expected : dict
        Per statistic that is compared with similar stars, coefficients by feature of the
        logarithm of its usual value; its threshold is on the ratio to that value.
    predicts_flux : bool
        Whether the weights predict flux.
    smallest_given : float
        Smallest error of known quantities in training, in standard deviations of the quantity;
        smaller errors are treated as 0. Infinite if known quantities never had errors.
    bridges : int
        Longest gap [pixels] that is interpolated, see `SpectrumArrays.gaps_filled`.
    """

    name: str
    labels: tuple
    normalizer: dict = field(default_factory=lambda: {"name": "median"})
    flux_kind: str = "relative_sed"
    wavelength_range: tuple = (0.0, float("inf"))
    spacing_range: tuple = (0.0, float("inf"))
    highest_power: float = float("inf")
    lowest_power: float = 0.0
    min_pixels: int = 1
    min_coverage: float = 0.9
    min_snr: float = 0.0
    largest_snr: float = float("inf")
    label_ranges: dict = field(default_factory=dict)
    usual_errors: dict = field(default_factory=dict)
    calibration: dict = field(default_factory=dict)
    smallest_errors: dict = field(default_factory=dict)
    in_common: dict = field(default_factory=dict)
    unproven: tuple = ()
    density_threshold: float = float("inf")
    thresholds: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)
    predicts_flux: bool = False
    smallest_given: float = 0.0
    bridges: int = 0

    def __post_init__(self):
        """Check the names, and turn lists of JSON into tuples."""
        self.labels, self.unproven = tuple(self.labels), tuple(self.unproven)
        self.wavelength_range, self.spacing_range = tuple(self.wavelength_range), tuple(self.spacing_range)
        for name in self.labels:
            get_quantity(name, "labels")

    def fits(self, arrays):
        """Return how well the domain fits a spectrum.

        Parameters
        ----------
        arrays : SpectrumArrays
            The spectrum.

        Returns
        -------
        tuple
            Larger is better: whether the spacing of its good pixels in the range is right,
            and how many there are.
        """
        inside = self.cut(arrays)
        low, high = self.spacing_range
        low = 0.0 if np.isfinite(self.highest_power) else low
        return inside.n_good > 0 and low <= inside.spacing <= high, inside.n_good

    def degraded(self, arrays):
        """Return a spectrum that is not finer than the training spectra.

        Parameters
        ----------
        arrays : SpectrumArrays
            Not normalised.

        Returns
        -------
        SpectrumArrays
            Smoothed to the largest resolving power of the training (`SpectrumArrays.smoothed`)
            if its pixels are finer than any in training, or if its resolving power is known to
            be higher and its pixels are not coarse. If its resolving power is known and lower,
            and a resolution element has more pixels than in any training spectrum, pixels are
            averaged and the resolving power stays. Otherwise the same.
        """
        power = self.highest_power
        if not np.isfinite(power):
            return arrays
        # numbers for the same instrument differ by some per cent
        inside = self.cut(arrays)
        target = arrays.resolving_power if arrays.resolving_power < power else power
        # compared by the width of pixels in resolution elements
        finer = inside.spacing * target < self.spacing_range[0] * power or arrays.resolving_power > 1.05 * power
        # pixels as wide as half a resolution element smooth a spectrum themselves
        if not (finer and inside.n_good) or inside.spacing > 0.5 / power:
            return arrays
        return arrays.smoothed(target)

    def with_error_floor(self, arrays):
        """Return a spectrum with errors that are no smaller than those of the training spectra.

        Parameters
        ----------
        arrays : SpectrumArrays
            The spectrum.

        Returns
        -------
        SpectrumArrays
            The same or, if its signal-to-noise ratio exceeds ``largest_snr``, with all errors multiplied by one
            factor, so that the ratio equals ``largest_snr``.
        """
        snr = arrays.snr
        if not snr > self.largest_snr:
            return arrays
        return dataclasses.replace(arrays, sigma=arrays.sigma * (snr / self.largest_snr))

    def as_network_input(self, arrays, most):
        """Return the form of a spectrum that the network reads.

        Parameters
        ----------
        arrays : SpectrumArrays
            The spectrum, cut and normalised.
        most : int or float
            Largest number of pixels that it reads at once.

        Returns
        -------
        SpectrumArrays
            With errors from `with_error_floor`, narrow gaps interpolated, and at most ``most`` pixels.
        """
        return self.with_error_floor(arrays).gaps_filled(self.bridges).subsampled(most)

    def cut(self, arrays):
        """Return a spectrum in which only pixels in the range are good.

        Parameters
        ----------
        arrays : SpectrumArrays
            The spectrum.

        Returns
        -------
        SpectrumArrays
        """
        return dataclasses.replace(arrays, good=arrays.good & self.inside(arrays.wavelength))

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

    def outside_range(self, name, values):
        """Return which values of a quantity no training star had.

        Parameters
        ----------
        name : str
            Its name; without an entry in ``label_ranges`` no value is beyond.
        values : numpy.ndarray
            In the unit of the registry; NaN is not beyond.

        Returns
        -------
        numpy.ndarray
            bool, of the same shape.
        """
        low, high = self.label_ranges.get(name, (-np.inf, np.inf))
        return (values < low) | (values > high)

    def error_factors(self, label):
        """Return the factors on the predicted errors of a label.

        Parameters
        ----------
        label : str
            Its name.

        Returns
        -------
        dict of str to float
            ``with_sigma`` and ``without_sigma``; 1 for a label without an entry in ``calibration``.
        """
        return {"with_sigma": 1.0, "without_sigma": 1.0} | self.calibration.get(label, {})

    def calibrated_errors(self, labels, errors, has_sigma):
        """Return predicted errors, scaled by the factors from held-out stars, and none that these cannot prove.

        Parameters
        ----------
        labels : sequence of str
            Names of the labels; one without an entry in ``calibration`` keeps its errors.
        errors : numpy.ndarray
            ``(n_star, n_label)`` as predicted, in the units of the registry.
        has_sigma : numpy.ndarray
            ``(n_star,)`` bool, whether the spectra came with flux errors.

        Returns
        -------
        numpy.ndarray
            ``(n_star, n_label)`` errors.
        """
        factors = np.ones(np.shape(errors))
        for column, name in enumerate(labels):
            factor = self.error_factors(name)
            factors[:, column] = np.where(has_sigma, factor["with_sigma"], factor["without_sigma"])
        # NaN stays NaN
        return np.maximum(errors * factors, [self.smallest_errors.get(name, 0.0) for name in labels])


@dataclass
class WeightsInfo:
    """Facts about a set of weights, stored with them in ``spectrafm.json``.

    Attributes
    ----------
    name : str
        Name of the weights.
    domains : tuple of Domain
        Kinds of spectra that they read.
    known : tuple of str
        Quantities that may be given.
    training_data, license, citation : str
        Provenance.
    package_version : str
        Version of spectrafm that made them.
    fine_tuning : dict
        Of fine-tuned weights: their base, method, settings, scores and history.
    quantities : tuple of Quantity
        Quantities to register, as the registry may not know them.
    splits : dict or None
        By name of the source of real stars, how stars were set aside of training: name of the data set (``data``),
        ``seed`` and ``fraction`` of `spectrafm.training.split_stars`. Empty if no real star was trained on, None if
        that is not known.
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
    splits: dict | None = None

    def __post_init__(self):
        """Check the names."""
        self.known = tuple(self.known)
        for name, split in (self.splits or {}).items():
            if not isinstance(split, dict) or set(split) != {"data", "seed", "fraction"}:
                raise InputTypeError(f"splits: {split!r} of {name!r}, expected a dictionary of data, seed and fraction")
        self.quantities = _made("quantities", Quantity, self.quantities)
        with registered_on_success():
            self.register()
            self.domains = _made("domains", Domain, self.domains)
            for name in self.known:
                get_quantity(name, "known")

    def __setstate__(self, state):
        """Register quantities where weights are unpickled, as where they are loaded."""
        self.__dict__.update(state)
        with registered_on_success():
            self.register()

    def register(self):
        """Make the quantities known to the registry, where they are not yet.

        Raises
        ------
        CheckpointError
            A quantity is registered with another unit than that of these weights.
        """
        for quantity in self.quantities:
            known = QUANTITIES.get(quantity.name)
            if known is None:
                register_quantity(quantity)
            elif not same_units(known, quantity):
                raise CheckpointError(f"quantities: {_other_unit(self.name, quantity, known)}")

    @property
    def labels(self):
        """Labels of all domains, in their order."""
        return tuple(dict.fromkeys(name for domain in self.domains for name in domain.labels))

    def number_of(self, name):
        """Return the number of the domain with a name.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        int

        Raises
        ------
        InputValueError
            There is no such domain; the message lists all domains.
        """
        names = [domain.name for domain in self.domains]
        if name not in names:
            raise InputValueError(f"domain: unknown {name!r}; these weights know {', '.join(names)}")
        return names.index(name)

    def domain_of(self, arrays):
        """Return the number of the domain that a spectrum belongs to.

        Parameters
        ----------
        arrays : SpectrumArrays
            The spectrum.

        Returns
        -------
        int
            The domain with most of its pixels, among domains that fit its sampling; if none
            does, among all.
        """
        return max(range(len(self.domains)), key=lambda i: self.domains[i].fits(arrays))

    def assign_domains(self, spectra):
        """Return spectra as these weights can read them.

        Parameters
        ----------
        spectra : sequence of SpectrumArrays
            The spectra.

        Returns
        -------
        spectra : list of SpectrumArrays
            Spectra that are finer than the training spectra of their domain are smoothed, see
            `Domain.degraded`.
        domains : numpy.ndarray
            ``(n_star,)`` int, the number of the domain of each.

        Raises
        ------
        CheckpointError
            As `register`: the registry has other units by now.
        """
        # since these weights were loaded, quantities may have been forgotten, and registered anew
        self.register()
        numbers = np.array([self.domain_of(arrays) for arrays in spectra], dtype=int)
        return [self.domains[i].degraded(a) for i, a in zip(numbers, spectra, strict=True)], numbers

    def describe(self, n_parameter, weights_hash=""):
        """Describe the weights and their ranges in words.

        Parameters
        ----------
        n_parameter : int
            Number of parameters of their network.
        weights_hash : str, optional
            First digits of the SHA-256 of their files.

        Returns
        -------
        str
            Several lines.
        """
        lines = [
            f"SpectraFM weights {self.name!r}, {n_parameter:,} parameters, sha256 {weights_hash or '-'}",
            f"  labels: {', '.join(self.labels)}",
            f"  may be given (known=): {', '.join(self.known) or 'nothing'}",
        ]
        for domain in self.domains:
            (low, high), (fine, coarse) = domain.wavelength_range, domain.spacing_range
            lines += [
                f"  {domain.name}: {domain.flux_kind.replace('_', ' ')}, {low:.0f}-{high:.0f} Angstrom, vacuum, "
                f"rest frame, pixels of {fine:.2g}-{coarse:.2g} in ln(wavelength)",
                f"    normaliser: {domain.normalizer}",
                f"    errors calibrated on synthetic stars alone: {', '.join(domain.unproven) or 'none'}",
                "    range of the training labels:",
            ]
            lines += [
                f"      {name}: {domain.label_ranges[name][0]:.5g} to {domain.label_ranges[name][1]:.5g} "
                f"{column_unit(name) or ''}".rstrip()
                if name in domain.label_ranges
                else f"      {name}"
                for name in domain.labels
            ]
        lines += [f"  trained on: {self.training_data}", f"  license: {self.license}", f"  cite: {self.citation}"]
        if self.package_version:
            lines += [f"  made by spectrafm {self.package_version}"]
        return "\n".join(lines)

    def write(self, path):
        """Write as JSON.

        Parameters
        ----------
        path : str or pathlib.Path
            The file.
        """
        write_json(path, _everywhere(dataclasses.asdict(self), _in_words))

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
            The file is missing, damaged, or has fields this version does not know, or a quantity of it is
            registered with another unit.
        """
        try:
            return cls(**_everywhere(json.loads(Path(path).read_text()), _out_of_words))
        except FileNotFoundError as error:
            raise CheckpointError(f"folder: {path} not found; expected weights saved by SpectraFM.save") from error
        except CheckpointError as error:
            raise CheckpointError(f"folder: {path}: {error}") from None
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"folder: {path} is damaged or of another version ({error})") from error


def _other_unit(name, quantity, known):
    """Say that weights have a quantity in another unit than it is registered in, and what to do."""
    own, registered = (f"in {one.unit}" if one.unit else "without a unit" for one in (quantity, known))
    if quantity.name in BUILT_IN:
        remedy = "use them with the version of spectrafm that made them"
    else:
        remedy = (
            f"call spectrafm.quantities.forget_quantity({quantity.name!r}) and try again; other weights with that "
            "name will ask for the same, or fine-tune again with one unit in all"
        )
    return f"{quantity.name!r} is {own} in the weights {name!r}, but registered {registered}; {remedy}"


def _made(name, kind, given):
    """Return objects of a kind, from such or from dictionaries of their fields."""
    made = tuple(kind(**one) if isinstance(one, dict) else one for one in given)
    strange = [one for one in made if not isinstance(one, kind)]
    if strange:
        raise InputTypeError(f"{name}: {strange[0]!r}, expected each a {kind.__name__}, or a dictionary of its fields")
    return made


def _everywhere(value, change):
    """Return nested lists and dictionaries with all that is in them changed."""
    if isinstance(value, dict):
        return {k: _everywhere(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_everywhere(v, change) for v in value]
    return change(value)


def _in_words(value):
    """Return the name of a number that JSON does not have, and anything else as it is."""
    return str(float(value)) if isinstance(value, float) and not np.isfinite(value) else value


def _out_of_words(value):
    """Return the number that `_in_words` made a name of, and anything else as it is."""
    return float(value) if value in ("inf", "-inf", "nan") else value
