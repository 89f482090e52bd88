"""What spectra are divided by before a model sees them.

Training and inference share ``divisor``; its settings travel with the weights.
Neither normaliser looks at the errors, and neither clips lines or noise, so that
the noise of a spectrum does not change its continuum.
"""

import dataclasses
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy.ndimage import correlate1d

from .exceptions import ConfigError
from .flags import Flag

__all__ = ["ContinuumNormalizer", "MedianScaler", "median_scale", "normalizer_from_dict"]

_FWHM_OVER_SIGMA = np.sqrt(8 * np.log(2))
# bins a standard deviation of the kernel, and where the kernel ends
_BINS_PER_SIGMA, _KERNEL_END = 8, 4
# share of the kernel's variance that is added to that of the pixels: slopes
# stay tame where few pixels, or pixels on one side only, are in reach
_RIDGE = 0.01
_MAX_ROUNDS = 5


def median_scale(flux, good):
    """Return the median of the good flux of each star.

    Parameters
    ----------
    flux : numpy.ndarray
        ``(..., n_pixel)``.
    good : numpy.ndarray
        ``(..., n_pixel)`` bool.

    Returns
    -------
    numpy.ndarray
        ``(...,)``, NaN where there is no good pixel.
    """
    flux = np.asarray(flux)
    good = np.asarray(good) & np.isfinite(flux)
    if flux.shape[-1] == 0:
        return np.full(flux.shape[:-1], np.nan)
    ordered = np.sort(np.where(good, flux, np.inf), axis=-1)
    n_good = good.sum(axis=-1, keepdims=True)
    low, high = ((np.maximum(n_good, 1) - 1) // 2, n_good // 2)
    high = np.minimum(high, flux.shape[-1] - 1)
    middle = [np.take_along_axis(ordered, at, axis=-1) for at in (low, high)]
    with np.errstate(invalid="ignore", over="ignore"):
        median = np.where(n_good > 0, (middle[0] + middle[1]) / 2, np.nan)
    return median[..., 0]


class _Normalizer:
    """What both normalisers share: settings as a dictionary, and the division."""

    name: ClassVar[str]

    def __call__(self, arrays):
        """Normalise one spectrum.

        Parameters
        ----------
        arrays : SpectrumArrays
            The spectrum; it is not modified.

        Returns
        -------
        SpectrumArrays
            Flux and sigma divided, ``flux_unit`` "", pixels whose divisor is
            not positive marked bad; with `Flag.NO_GOOD_PIXELS` if none is left.
        """
        by = self.divisor(arrays.wavelength[None], arrays.flux[None], arrays.good[None])[0]
        with np.errstate(invalid="ignore"):
            by = np.where(np.isfinite(by) & (by > 0), by, np.nan)
        good = arrays.good & np.isfinite(by)
        flags = arrays.flags
        if not good.any() and not flags & Flag.BAD_INPUT:
            flags |= int(Flag.NO_GOOD_PIXELS)
        with np.errstate(over="ignore"):
            flux, sigma = arrays.flux / by, arrays.sigma / by
        return replace(arrays, flux=flux, sigma=sigma, good=good, flux_unit="", flags=int(flags))

    def to_dict(self):
        """Return the settings, ready for JSON.

        Returns
        -------
        dict
            ``name`` and every setting.
        """
        return {"name": self.name} | dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings):
        """Return what `to_dict` describes.

        Parameters
        ----------
        settings : dict
            As `to_dict` returns; settings left out have their defaults.

        Returns
        -------
        ContinuumNormalizer or MedianScaler

        Raises
        ------
        ConfigError
            The name is another one, a setting is not known, or has a bad value.
        """
        settings = dict(settings)
        name = settings.pop("name", cls.name)
        known = [field.name for field in dataclasses.fields(cls)]
        stray = sorted(set(settings) - set(known))
        if name != cls.name or stray:
            raise ConfigError(
                f"normalizer: name {name!r}, settings {stray or sorted(settings)}; "
                f"expected name {cls.name!r} and settings of {known}"
            )
        return cls(**settings)


@dataclass(frozen=True)
class MedianScaler(_Normalizer):
    """Divide by the median of the good flux: for relative spectral energy distributions.

    The shape of the spectrum stays. A median that is not positive leaves no
    good pixel.
    """

    name: ClassVar[str] = "median"

    def divisor(self, wavelength, flux, good):
        """Return what spectra are divided by.

        Parameters
        ----------
        wavelength : numpy.ndarray
            Not used.
        flux : numpy.ndarray
            ``(n_star, n_pixel)``.
        good : numpy.ndarray
            ``(n_star, n_pixel)`` bool.

        Returns
        -------
        numpy.ndarray
            ``(n_star, 1)``; NaN where there is no good pixel.
        """
        return median_scale(flux, good)[..., None]


@dataclass(frozen=True)
class ContinuumNormalizer(_Normalizer):
    r"""Divide by a smooth local mean of the flux.

    The divisor is a local linear regression on :math:`x = \ln\lambda`: at each
    wavelength a straight line is fitted to the good pixels around it, weighted
    with a Gaussian of x, and its value there is taken. It follows the response
    of the instrument and the slope of the star, also at the edges and beside
    gaps, and needs no grid. It is a mean, so it lies below the true continuum
    where lines crowd: normalised spectra scatter around 1.

    The divisor is linear in the flux and does not look at the errors; noise is
    averaged and not selected, so that its expectation does not depend on the
    signal-to-noise ratio. Only spikes are left out, above and below alike: pixels
    whose relative deviation exceeds ``clip * (1 + 5 s)``, where ``s`` is the robust
    scatter of the star's own pixels. Neither lines nor noise reach that far.

    Parameters
    ----------
    width : float, optional
        Full width at half maximum of the Gaussian, in ln(wavelength): the same
        velocity on every instrument. 0.03 is 9000 km/s, 480 Angstrom at 1.6
        microns and 150 Angstrom at 5000 Angstrom.
    clip : float, optional
        Relative deviation of a spike.

    Raises
    ------
    ConfigError
        A setting out of range.
    """

    name: ClassVar[str] = "continuum"

    width: float = 0.03
    clip: float = 2.0

    def __post_init__(self):
        """Check the settings."""
        for name, low, high in (("width", 1e-4, 10.0), ("clip", 1.0, np.inf)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not low <= value <= high:
                raise ConfigError(f"normalizer: {name}={value!r}; expected a number from {low} to {high}")

    def divisor(self, wavelength, flux, good):
        """Return what spectra are divided by.

        Parameters
        ----------
        wavelength : numpy.ndarray
            ``(n_star, n_pixel)`` or ``(n_pixel,)`` [Angstrom].
        flux : numpy.ndarray
            ``(n_star, n_pixel)``; each star on its own, whatever its batch mates.
        good : numpy.ndarray
            ``(n_star, n_pixel)`` bool, pixels to use.

        Returns
        -------
        numpy.ndarray
            ``(n_star, n_pixel)`` float64, for bad pixels too; NaN far from
            any good pixel. It may be zero or negative where the flux is.
        """
        flux = np.asarray(flux, dtype=np.float64)
        use = np.asarray(good) & np.isfinite(flux)
        if flux.size == 0 or not use.any():
            return np.full(flux.shape, np.nan)
        # one scale a star keeps sums far from underflow, whatever the unit
        scale = np.max(np.abs(flux), axis=-1, keepdims=True, initial=0, where=use)
        scale = np.where(scale > 0, scale, 1.0)
        flux = np.where(use, flux, 0.0) / scale
        smooth = _Smoother(np.broadcast_to(wavelength, flux.shape), use, self.width / _FWHM_OVER_SIGMA)
        for _ in range(_MAX_ROUNDS):
            continuum = smooth(flux, use)
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                deviation = np.abs(flux / continuum - 1)
                sound = use & (continuum > 0)
                scatter = 1.4826 * median_scale(deviation, sound)[..., None]
                spike = sound & (deviation > self.clip * (1 + 5 * scatter))
            if not spike.any():
                break
            use = use & ~spike
        return continuum * scale


class _Smoother:
    """Local linear regression of batches, through bins of ln(wavelength).

    Within a bin the weight of the Gaussian is one number, but each pixel enters
    with its own position: a straight line comes out exactly. Bins lie at
    multiples of their width, the same for all spectra.
    """

    def __init__(self, wavelength, use, sigma):
        self.sigma, self.bin_width = sigma, sigma / _BINS_PER_SIGMA
        with np.errstate(invalid="ignore", divide="ignore"):
            at = np.log(wavelength) / self.bin_width  # (n_star, n_pixel)
        at = np.where(np.isfinite(at), at, np.min(at, where=use, initial=np.inf))
        # pixels that are bad and beyond the good ones need no bins of their own
        at = np.clip(at, np.min(at, where=use, initial=np.inf) - 1, np.max(at, where=use, initial=-np.inf) + 1)
        first = np.floor(at.min()) - 1
        self.bin = (np.floor(at) - first).astype(np.intp)
        self.n_bin = int(self.bin.max()) + 2
        self.offset = (at - first - self.bin - 0.5) * self.bin_width  # from the middle of the bin
        # for interpolation between the middles of bins
        self.left = (np.floor(at - 0.5) - first).astype(np.intp)
        self.weight = at - first - 0.5 - self.left
        taps = np.arange(-_KERNEL_END * _BINS_PER_SIGMA, _KERNEL_END * _BINS_PER_SIGMA + 1)
        self.kernel = np.exp(-0.5 * (taps / _BINS_PER_SIGMA) ** 2)
        self.distance = taps * self.bin_width

    def __call__(self, flux, use):
        """Return the smooth flux at every pixel, ``(n_star, n_pixel)``."""
        n_star = len(flux)
        flat = (np.arange(n_star)[:, None] * self.n_bin + self.bin)[use]
        u, f = self.offset[use], flux[use]

        def binned(weights):
            return np.bincount(flat, weights, n_star * self.n_bin).reshape(n_star, self.n_bin)

        def spread(power, array):
            return correlate1d(array, self.kernel * self.distance**power, axis=-1, mode="constant")

        one, u1, u2, f0, f1 = (binned(w) for w in (np.ones_like(u), u, u * u, f, u * f))
        s0 = spread(0, one)
        s1 = spread(1, one) + spread(0, u1)
        s2 = spread(2, one) + 2 * spread(1, u1) + spread(0, u2)
        t0, t1 = spread(0, f0), spread(1, f0) + spread(0, f1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_x, mean_f = s1 / s0, t0 / s0
            variance = s2 / s0 - mean_x**2
            slope = (t1 / s0 - mean_x * mean_f) / (variance + _RIDGE * self.sigma**2)
            value = mean_f - slope * mean_x  # (n_star, n_bin), in the middle of each bin
        left, right = (np.take_along_axis(value, at, axis=1) for at in (self.left, self.left + 1))
        return (1 - self.weight) * left + self.weight * right


_KINDS = {kind.name: kind for kind in (ContinuumNormalizer, MedianScaler)}


def normalizer_from_dict(settings):
    """Return the normaliser that a dictionary describes.

    Parameters
    ----------
    settings : dict
        ``{"name": "continuum"}`` or ``{"name": "median"}``, with any settings.

    Returns
    -------
    ContinuumNormalizer or MedianScaler

    Raises
    ------
    ConfigError
        Unknown name or setting.
    """
    name = settings.get("name") if isinstance(settings, dict) else settings
    if not isinstance(settings, dict) or name not in _KINDS:
        raise ConfigError(f"normalizer: {name!r}; expected a dictionary with name one of {', '.join(_KINDS)}")
    return _KINDS[name].from_dict(settings)
