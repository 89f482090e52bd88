"""Statistics of spectra whose labels should not be used."""

from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.table import MaskedColumn, Table

from ._numerics import DIFFERENCE_TO_NOISE, neighbour_differences
from ._spectral_units import SPEED_OF_LIGHT, air_to_vacuum
from ._tokens import flux_name
from .flags import Flag
from .stellarperceptron.tokens import evenly

__all__ = ["STATISTICS", "Diagnosis", "diagnose_batch", "diagnosis_table"]

#: Flag that each statistic sets where it is larger than its threshold.
STATISTICS = {
    "distance": Flag.UNUSUAL_SPECTRUM,
    "reduced_chi2": Flag.POOR_RECONSTRUCTION,
    "rv_significance": Flag.WRONG_VELOCITY,
    "rv_error": Flag.UNUSUAL_SPECTRUM,
    "double_lines": Flag.UNUSUAL_SPECTRUM,
    "emission": Flag.EMISSION_OR_SPIKES,
    "saturation": Flag.SATURATED,
}

_DESCRIPTIONS = {
    "distance": "Distance of the embedding from those of the training stars",
    "reduced_chi2": "Reduced chi square of the model's own spectrum",
    "rv_significance": "Radial velocity over its error",
    "rv_error": "Error of the radial velocity, large where lines are not found",
    "double_lines": "One and the contrast of a second set of lines",
    "emission": "Height of the highest pixels over that of the highest tenth",
    "saturation": "Share of pixels in plateaus at the largest value",
    "strangeness": "Largest of the statistics over their thresholds",
}
# pixels of a star whose flux is asked for
_N_PIXEL = 96
# neither models nor instruments are better than this, relative to the continuum; a pixel counts up to so much
_FLUX_FLOOR, _LARGEST_Z2 = 0.04, 100.0
# velocities that training stars have anyway [km / s]
_VELOCITY_FLOOR = 5.0
# how far a velocity may be from that of the other medium [km / s], however badly it is known
_MEDIUM_REACH = 20.0
# share of the pixels that may lie above what counts as the highest; what counts as high; a rise that means nothing
_HIGHEST, _HIGH, _SMALLEST_RISE = 0.005, 0.9, 0.01
# pixels whose noise is taken together; that beyond which they are not looked at, and in units of that of the star
_BLOCK, _NOISY, _TIMES_NOISY = 48, 0.25, 4.0
# pixels of one value side by side that make a plateau
_PLATEAU = 3
# where the lines of a second star are looked for [km / s], and where nothing but chance is
_SECOND, _FAR = (25.0, 170.0), (200.0, 1500.0)
# labels that say which stars are alike
_LABELS = ("teff", "logg", "fe_h", "vsini")


@dataclass
class Diagnosis:
    """Statistics of spectra of one kind, and what they are judged by.

    Attributes
    ----------
    values : dict of str to numpy.ndarray
        Statistic -> ``(n_star,)``; the larger, the stranger; NaN where it cannot be computed.
        ``distance`` of the embedding from those of the training stars; ``reduced_chi2`` of
        the data from the model's own spectrum; ``rv_significance``, the velocity over its
        error; ``rv_error`` [km / s], how well the model can measure the velocity: badly where it
        does not find the lines that it expects; ``double_lines``, 1 and the contrast of a second
        set of lines; ``emission``, how far the highest pixels lie above the median, over how far the
        highest tenth does; ``saturation``, share of pixels in plateaus at the largest value.
    features : dict of str to numpy.ndarray
        ``(n_star,)`` what the usual values of statistics depend on.
    velocity, velocity_error : numpy.ndarray
        ``(n_star,)`` [km / s]; NaN where not measured.
    wavelength : numpy.ndarray
        ``(n_star,)`` middle one of the good wavelengths [Angstrom, vacuum]; NaN where there are none.
    """

    values: dict
    features: dict
    velocity: np.ndarray
    velocity_error: np.ndarray
    wavelength: np.ndarray

    def relative(self, expected):
        """Return statistics over their usual values for stars alike.

        Parameters
        ----------
        expected : dict
            As `spectrafm.weights_info.Domain.expected`.

        Returns
        -------
        dict of str to numpy.ndarray
            ``(n_star,)`` each; as they are where nothing is expected.
        """
        found = dict(self.values)
        for name, coefficients in expected.items():
            if name in found:
                unknown = np.full_like(self.wavelength, np.nan)
                usual = sum(c * self.features.get(k, unknown) for k, c in coefficients.items())
                found[name] = found[name] / np.exp(usual)
        return found

    def ratios(self, domain):
        """Return statistics over their thresholds.

        Parameters
        ----------
        domain : Domain
            Has the thresholds.

        Returns
        -------
        dict of str to numpy.ndarray
            ``(n_star,)`` each, above 1 where flagged; NaN where there is no threshold.
        """
        thresholds = {"distance": domain.density_threshold} | domain.thresholds
        relative = self.relative(domain.expected)
        return {name: relative[name] / thresholds.get(name, np.nan) for name in STATISTICS}

    def strangeness(self, domain):
        """Return the largest of the ratios.

        Parameters
        ----------
        domain : Domain
            Has the thresholds.

        Returns
        -------
        numpy.ndarray
            ``(n_star,)``; NaN where nothing can be computed.
        """
        return np.fmax.reduce(list(self.ratios(domain).values()))

    def flags(self, domain):
        """Return the flags of what is above its threshold.

        Parameters
        ----------
        domain : Domain
            Has the thresholds.

        Returns
        -------
        numpy.ndarray
            ``(n_star,)`` `~spectrafm.flags.Flag` bits.
        """
        flag = np.zeros(len(self.wavelength), dtype=np.int64)
        for name, ratio in self.ratios(domain).items():
            flag |= np.where(ratio > 1, int(STATISTICS[name]), 0)
        moving = (flag & Flag.WRONG_VELOCITY) != 0
        if moving.any():
            flag |= np.where(moving & self._is_medium(), int(Flag.WRONG_MEDIUM), 0)
        return flag

    def _is_medium(self):
        """Return whether the velocity is that of air wavelengths taken for vacuum, or of the reverse."""
        there = np.isfinite(self.wavelength)
        ratio = np.ones_like(self.wavelength)
        ratio[there] = air_to_vacuum(self.wavelength[there]) / self.wavelength[there]
        expected = SPEED_OF_LIGHT * (ratio - 1)
        off = np.abs(np.abs(self.velocity) - expected)
        return (expected > 0) & (off < np.minimum(2 * np.hypot(self.velocity_error, _VELOCITY_FLOOR), _MEDIUM_REACH))


def diagnose_batch(fm, number, arrays, prepared, perception):
    """Return the statistics of some spectra of one kind.

    Parameters
    ----------
    fm : SpectraFM
        The weights.
    number : int
        Number of the domain.
    arrays : sequence of SpectrumArrays
        The spectra as they came.
    prepared : sequence of SpectrumArrays
        The same, smoothed if that was necessary, cut and normalised.
    perception : Perception
        Of these, without anything else known.

    Returns
    -------
    Diagnosis
    """
    domain, n_star = fm.info.domains[number], len(prepared)
    flux = _padded([a.flux[a.good] for a in prepared])
    noise = _noise(flux)
    n_good = np.array([a.n_good for a in prepared])
    places = [a.wavelength[a.good] for a in prepared]
    low, middle, high = np.array([w[[0, len(w) // 2, -1]] if len(w) else (np.nan,) * 3 for w in places]).T
    given_noise = _quantile(_padded([a.sigma[a.good] for a in prepared]), 0.5)
    features = {
        "one": np.ones(n_star),
        "ln_noise": np.log(np.clip(np.where(np.isfinite(given_noise), given_noise, noise), 1e-3, 1.0)),
        "ln_span": np.log(np.clip(high - low, 30.0, None)),
        "ln_pixels": np.log(np.clip(n_good, 1, None)),
    }
    needed = {name.removeprefix("ln_") for coefficients in domain.expected.values() for name in coefficients}
    labels = [name for name in (*_LABELS, "rv_offset") if name in {*domain.labels, *needed}]
    labels = [name for name in labels if name in fm.model.vocabulary]
    nothing = np.full(n_star, np.nan)
    velocity, velocity_error = nothing, nothing
    # labels cost time: not where nothing is made of them
    if "rv_offset" in labels or domain.expected:
        values, errors = fm.predict_labels(perception, labels) if labels else np.empty((2, n_star, 0))
        errors = domain.calibrated_errors(labels, errors, np.array([a.has_sigma for a in prepared]))
        for name, value, error in zip(labels, values.T, errors.T, strict=True):
            if name == "rv_offset":
                velocity, velocity_error = value, error
            else:
                value = np.clip(value, *domain.label_ranges.get(name, (-np.inf, np.inf)))
                is_log = name in fm.model.vocabulary.log
                features[f"ln_{name}" if is_log else name] = np.log(value) if is_log else value
    statistics = {
        "distance": fm.distances(perception, domain.name),
        "reduced_chi2": _reduced_chi2(fm, domain, prepared, perception, noise) if domain.predicts_flux else nothing,
        "rv_significance": np.abs(velocity) / np.hypot(velocity_error, _VELOCITY_FLOOR),
        "rv_error": velocity_error,
        "double_lines": np.array([_double_lines(a) for a in prepared]) if "rv_offset" in labels else nothing,
        "emission": _emission(flux, noise),
        "saturation": _saturation(_padded([star.flux[star.good] for star in map(domain.cut, arrays)])),
    }
    return Diagnosis(statistics, features, velocity, velocity_error, middle)


def diagnosis_table(diagnoses, labels):
    """Put the statistics of all stars into a table.

    Parameters
    ----------
    diagnoses : sequence of (numpy.ndarray, Domain, Diagnosis)
        Rows of the stars of each batch, and what was found.
    labels : `~astropy.table.QTable`
        From `spectrafm.SpectraFM.infer`, of all of the stars.

    Returns
    -------
    `~astropy.table.Table`
        See `spectrafm.SpectraFM.diagnose`.
    """
    columns = {name: np.full(len(labels), np.nan) for name in (*STATISTICS, "strangeness")}
    for rows, domain, diagnosis in diagnoses:
        for name, values in (diagnosis.values | {"strangeness": diagnosis.strangeness(domain)}).items():
            columns[name][rows] = values
    table = Table({"identifier": np.array(labels["identifier"])}, meta=dict(labels.meta))
    for name, values in columns.items():
        table[name] = MaskedColumn(values, mask=~np.isfinite(values), description=_DESCRIPTIONS[name])
    table["rv_error"].unit = u.km / u.s
    table["flag"] = np.array(labels["flag"])
    return table


def _padded(rows):
    """Return rows of different lengths as one array, filled up with NaN."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def _quantile(values, share):
    """Return a quantile of the finite values of each row; numpy's own is slow where there is NaN."""
    n_known = np.isfinite(values).sum(axis=1)
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    place = share * np.maximum(n_known - 1, 0)
    low = np.floor(place).astype(int)
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan), axis=1)
    below, above = (
        np.take_along_axis(ordered, np.minimum(k, values.shape[1] - 1)[:, None], axis=1)[:, 0]
        for k in (low, np.minimum(low + 1, np.maximum(n_known - 1, 0)))
    )
    return below + (place - low) * (above - below)


def _noise(flux):
    """Return the noise of each star, from what a pixel differs from its neighbours but one (Stoehr et al. 2008)."""
    return DIFFERENCE_TO_NOISE * _quantile(neighbour_differences(flux), 0.5)


def _blockwise_noise(flux):
    """Return the noise at each pixel, that of the block of pixels which it is in, ``(n_star, n_pixel)``."""
    n_star, n_pixel = flux.shape
    n_block = -(-n_pixel // _BLOCK)
    differences = np.full((n_star, n_block * _BLOCK), np.nan)
    differences[:, 2 : n_pixel - 2] = neighbour_differences(flux)
    blocks = differences.reshape(n_star * n_block, _BLOCK)
    noise = DIFFERENCE_TO_NOISE * _quantile(blocks, 0.5)
    # of few pixels, a line would be the noise
    noise[np.isfinite(blocks).sum(axis=1) < _BLOCK / 2] = np.nan
    return noise.reshape(n_star, n_block).repeat(_BLOCK, axis=1)[:, :n_pixel]


def _emission(flux, noise):
    """Return how far the highest pixels of each star lie above its median, over how far its higher ones do.

    Pixels with far more noise than others do not count: there the star has hardly any flux, and its continuum is lost.
    """
    if flux.shape[1] > 4:
        most = np.maximum(_NOISY, _TIMES_NOISY * np.nan_to_num(noise, nan=np.inf))
        flux = np.where(_blockwise_noise(flux) > most[:, None], np.nan, flux)
    median, high, highest = (_quantile(flux, share) for share in (0.5, _HIGH, 1 - _HIGHEST))
    return (highest - median) / (high - median + np.nan_to_num(noise, nan=0.0) + _SMALLEST_RISE)


def _saturation(flux):
    """Return the share of pixels in plateaus at the largest value of each star, ``(n_star,)``."""
    known = np.isfinite(flux)
    n_known = known.sum(axis=1)
    largest = np.where(known, flux, -np.inf).max(axis=1, initial=-np.inf)
    # a spectrum without noise, divided by its continuum, has plateaus too: at one
    full = known & (flux >= largest[:, None] * (1 - 1e-6)) & (largest > 0)[:, None] & (largest != 1)[:, None]
    runs = np.lib.stride_tricks.sliding_window_view(np.pad(full, ((0, 0), (_PLATEAU, _PLATEAU))), _PLATEAU, axis=1)
    starts = runs.all(axis=2)  # (n_star, n_pixel + _PLATEAU + 1)
    inside = np.zeros_like(full)
    for shift in range(_PLATEAU):
        inside |= starts[:, _PLATEAU - shift : _PLATEAU - shift + full.shape[1]]
    return np.where(n_known > 0, inside.sum(axis=1) / np.maximum(n_known, 1), np.nan)


def _reduced_chi2(fm, domain, prepared, perception, noise):
    """Return how badly the spectra that the model sees fit the data, at some pixels of each star."""
    shape = (len(prepared), _N_PIXEL)
    wavelength = np.full(shape, np.mean(domain.wavelength_range))
    flux, sigma = np.full((2, *shape), np.nan)
    for row, star in enumerate(prepared):
        chosen = np.flatnonzero(evenly(star.good, _N_PIXEL))
        if len(chosen):
            here = row, slice(0, len(chosen))
            wavelength[here], flux[here], sigma[here] = star.wavelength[chosen], star.flux[chosen], star.sigma[chosen]
    names = np.full(_N_PIXEL, flux_name(fm.model.vocabulary, domain.flux_kind))
    model, _ = fm.model.request(perception, names, wavelength)
    sigma = np.where(np.isfinite(sigma), sigma, np.nan_to_num(noise, nan=0.0)[:, None])
    # the model's own errors are left out: it gives large ones to spectra that it does not understand
    z2 = np.minimum((flux - model) ** 2 / (sigma**2 + _FLUX_FLOOR**2), _LARGEST_Z2)
    n_known = np.isfinite(z2).sum(axis=1)
    return np.where(n_known > 0, np.nansum(z2, axis=1) / np.maximum(n_known, 1), np.nan)


def _double_lines(star):
    """Return 1 and the contrast of the second peak of the autocorrelation; NaN where lines could not be apart."""
    if star.n_good < 200:
        return np.nan
    place = np.log(star.wavelength[star.good])
    step = np.median(np.diff(place))
    n_pixel = int((place[-1] - place[0]) / step) + 1
    velocity = step * SPEED_OF_LIGHT * np.arange(n_pixel)
    near, far = ((velocity > low) & (velocity < high) for low, high in (_SECOND, _FAR))
    # twice the pixels of the closest pair
    if n_pixel > 4 * star.n_good or velocity[1] > _SECOND[0] / 2 or not (near.any() and far.any()):
        return np.nan
    depth = 1 - np.interp(place[0] + step * np.arange(n_pixel), place, star.flux[star.good])
    depth = np.clip(depth, -0.5, 1.0)
    # a power of two is much faster than most numbers
    power = np.abs(np.fft.rfft(depth - depth.mean(), 2 ** int(np.ceil(np.log2(2 * n_pixel))))) ** 2
    correlation = np.fft.irfft(power)[:n_pixel] / (n_pixel - np.arange(n_pixel))
    # noise is in the first only
    scale = max(2 * correlation[1] - correlation[2], correlation[1])
    if not scale > 0:
        return np.nan
    lowest = np.minimum.accumulate(correlation[1:])
    rise = (correlation[1:] - lowest)[near[1:]].max()
    # from one, so that the ratio of two small contrasts means nothing
    return 1 + rise / (correlation[far].std() + 0.02 * scale)
