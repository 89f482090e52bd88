"""What says that a spectrum, and with it its labels, should not be believed."""

from dataclasses import dataclass

import numpy as np
import torch
from astropy import units as u
from astropy.table import MaskedColumn, Table

from ._spectral_units import SPEED_OF_LIGHT, air_to_vacuum
from ._tokens import flux_name, star_batches
from .flags import Flag
from .stellarperceptron.tokens import evenly

__all__ = ["STATISTICS", "Diagnosis", "adapt_thresholds", "diagnose_batch", "diagnosis_table", "set_thresholds"]

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
# velocities that training stars have anyway [km / s], and those that count as at rest
_VELOCITY_FLOOR, _AT_REST = 5.0, 15.0
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
# thresholds are never lower than this: where no good star has any, one is not yet bad
_LEAST = {"rv_significance": 1.0, "saturation": 0.01}
# statistics that are judged against what is usual for stars alike, and labels that say which are alike
_CONDITIONAL, _LABELS = ("reduced_chi2", "rv_error", "double_lines"), ("teff", "logg", "fe_h", "vsini")
# stars of each source that set thresholds, fewest of a kind, and the share of them that may be flagged
_N_STAR, _FEWEST, _SHARE = 1000, 20, 0.015
_SEED = 31
# few stars do not show how far good ones reach
_MARGIN = 1.2


@dataclass
class Diagnosis:
    """Statistics of spectra of one kind, and what they are judged by.

    Attributes
    ----------
    values : dict of str to numpy.ndarray
        Statistic -> ``(n_star,)``; the larger, the stranger; NaN where it cannot be told.
        ``distance`` of the embedding from those of the training stars; ``reduced_chi2`` of
        the data from the model's own spectrum; ``rv_significance``, the velocity over its
        error; ``rv_error`` [km / s], how well the model can tell the velocity: badly where it
        does not find the lines that it expects; ``double_lines``, 1 and the contrast of a second
        set of lines; ``emission``, how far the highest pixels lie above the median, over how far the
        highest tenth does; ``saturation``, share of pixels in plateaus at the largest value.
    features : dict of str to numpy.ndarray
        ``(n_star,)`` what the usual values of statistics depend on.
    velocity, velocity_error : numpy.ndarray
        ``(n_star,)`` [km / s]; NaN where not told.
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
            ``(n_star,)``; NaN where nothing can be told.
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
    told = _quantile(_padded([a.sigma[a.good] for a in prepared]), 0.5)
    features = {
        "one": np.ones(n_star),
        "ln_noise": np.log(np.clip(np.where(np.isfinite(told), told, noise), 1e-3, 1.0)),
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
    return 1.482602 / np.sqrt(6) * _quantile(_differences(flux), 0.5)


def _differences(flux):
    """Return the size of what pixels differ from their neighbours but one, ``(n_star, n_pixel - 4)``."""
    return np.abs(2 * flux[:, 2:-2] - flux[:, :-4] - flux[:, 4:])


def _blockwise_noise(flux):
    """Return the noise at each pixel, that of the block of pixels which it is in, ``(n_star, n_pixel)``."""
    n_star, n_pixel = flux.shape
    n_block = -(-n_pixel // _BLOCK)
    differences = np.full((n_star, n_block * _BLOCK), np.nan)
    differences[:, 2 : n_pixel - 2] = _differences(flux)
    blocks = differences.reshape(n_star * n_block, _BLOCK)
    noise = 1.482602 / np.sqrt(6) * _quantile(blocks, 0.5)
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


def set_thresholds(fm, calibration, share=_SHARE):
    """Set the thresholds of the statistics, in place, from stars that nothing was trained on.

    All of them together flag no more than a share of the good stars: of the real ones,
    and of the synthetic ones, of each domain.

    Parameters
    ----------
    fm : SpectraFM
        Weights; ``thresholds``, ``expected`` and ``density_threshold`` of their domains change.
    calibration : dict of str to (source, source)
        From `spectrafm.training.train.build_stream`; the second of each pair is used.
    share : float, optional
        Share of the good stars that may be flagged.
    """
    groups = {}
    for key, (_, source) in enumerate(calibration.values()):
        spectra, values, _ = source.examples(_N_STAR, torch.Generator().manual_seed(_SEED + key))
        is_real = not hasattr(getattr(source, "source", None), "emulator")
        velocity = values.get("rv_offset", np.zeros(len(spectra)))
        for star, number, its in zip(*fm.info.assign_domains(spectra), velocity, strict=True):
            # that of another domain, where these weights do not read its kind
            if fm.info.domains[number].fits(star)[0] and not abs(its) > _AT_REST:
                groups.setdefault(number, {}).setdefault(is_real, []).append(star)
    for number, kinds in groups.items():
        domain = fm.info.domains[number]
        domain.thresholds, domain.expected = {}, {name: {} for name in _CONDITIONAL}
        found = [_diagnose_all(fm, number, stars) for stars in kinds.values() if len(stars) >= _FEWEST]
        if not found:
            domain.expected = {}
            continue
        domain.expected = _expectations([d for some in found for d in some])
        kinds = [_joined([d.relative(domain.expected) for d in some]) for some in found]
        thresholds = _thresholds(kinds, share)
        domain.density_threshold = thresholds.pop("distance", domain.density_threshold)
        domain.thresholds = thresholds


def adapt_thresholds(fm, spectra, share=_SHARE):
    """Let the stars that weights were fine-tuned on count as good ones, in place.

    Parameters
    ----------
    fm : SpectraFM
        Fine-tuned weights; ``thresholds``, ``expected`` and ``density_threshold`` of their
        only domain change.
    spectra : list of SpectrumArrays
        Good stars, not normalised.
    share : float, optional
        Share of them that may be flagged.
    """
    [domain] = fm.info.domains
    # what is usual for stars alike is told by labels that these weights may not know
    domain.thresholds, domain.expected = {}, {}
    values = _joined([d.values for d in _diagnose_all(fm, 0, spectra)])
    thresholds = {name: _MARGIN * limit for name, limit in _thresholds([values], share).items()}
    domain.density_threshold = thresholds.pop("distance", domain.density_threshold)
    domain.thresholds = thresholds


def _diagnose_all(fm, number, stars, batch_size=128):
    """Return a diagnosis of each batch; stars of similar length go together."""
    found = []
    for _, rows in star_batches(stars, np.full(len(stars), number), batch_size):
        some = [stars[row] for row in rows]
        prepared = [fm.prepare(a, number) for a in some]
        found.append(diagnose_batch(fm, number, some, prepared, fm.perceive(prepared, number)))
    return found


def _joined(dictionaries):
    return {name: np.concatenate([d[name] for d in dictionaries]) for name in dictionaries[0]}


def _expectations(diagnoses):
    """Return, by statistic, coefficients of the logarithm of its usual value on the features."""
    values = _joined([d.values for d in diagnoses])
    features = _joined([d.features for d in diagnoses])
    columns = np.stack(list(features.values()), axis=1)
    expected = {}
    for name in _CONDITIONAL:
        with np.errstate(divide="ignore"):
            y = np.log(values[name])
        known = np.isfinite(y) & np.isfinite(columns).all(axis=1)
        if known.sum() < 10 * columns.shape[1]:
            continue
        x, y = columns[known], y[known]
        mean, keep = x.mean(axis=0), np.ones(len(y), dtype=bool)
        mean[0] = 0.0
        for _ in range(5):
            centred = x[keep] - mean
            square = centred.T @ centred + 1e-3 * np.eye(len(mean))
            fit = np.linalg.solve(square, centred.T @ y[keep])
            off = np.abs(y - (x - mean) @ fit)
            # stars of which nothing can be told do not decide what is usual
            keep = off <= 6 * np.median(off)
        fit[0] -= mean @ fit
        expected[name] = dict(zip(features, fit.tolist(), strict=True))
    return expected


def _thresholds(kinds, share):
    """Return thresholds, at one quantile of each statistic, such that few stars of any kind are above some of them."""
    known = {
        name: [values[name][np.isfinite(values[name])] for values in kinds if np.isfinite(values[name]).any()]
        for name in STATISTICS
    }
    known = {name: arrays for name, arrays in known.items() if arrays}
    found = {}
    for level in 1 - share * np.geomspace(1.0, 0.05, 40):
        found = {
            name: max(_LEAST.get(name, 0.0), *(float(np.quantile(array, level)) for array in arrays))
            for name, arrays in known.items()
        }
        flagged = [np.any([values[name] > limit for name, limit in found.items()], axis=0) for values in kinds]
        if all(f.mean() <= share for f in flagged):
            break
    return {name: limit for name, limit in found.items() if np.isfinite(limit) and limit > 0}
