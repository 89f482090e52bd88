"""Normalisers: spectra are divided by a median or a continuum before a model reads them.

Training and inference share ``divisor``; its settings are saved with the weights.
Neither normaliser uses the flux errors, and neither clips lines or noise, so that
the noise of a spectrum does not change its continuum.
"""

import dataclasses
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from ._numerics import MAD_TO_STD
from ._spectral_units import FWHM_OVER_SIGMA
from .exceptions import ConfigError
from .flags import Flag
from .stellarperceptron.tokens import as_native

__all__ = ["UNNORMALISED", "ContinuumNormalizer", "MedianScaler", "median_scale", "normalizer_from_dict"]

#: Why no pixel of a star is good after it was normalised, though some were before.
UNNORMALISED = (
    "its continuum, the mean or median of its flux, is not positive, so that it cannot be normalised; where a "
    "continuum was subtracted from it, give it as it was before, or add 1 where it had been divided by that continuum"
)

# bins a standard deviation of the kernel, and where the kernel ends
_BINS_PER_SIGMA, _KERNEL_END = 8, 4
# bins that are smoothed in one product of matrices
_BLOCK = 64
# share of the kernel's variance that is added to that of the pixels: slopes
# stay tame where few pixels, or pixels on one side only, are in reach
_RIDGE = 0.01
# a pixel so many times as bright as the divisor is a placeholder
_ABSURD = 1e4
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
    flux = torch.from_numpy(as_native(flux).copy())
    return _median(flux, torch.from_numpy(np.array(good, dtype=bool)) & torch.isfinite(flux)).numpy()


def _median(flux, good):
    """Return the median of the good values of each star, ``(...,)``, NaN where there are none."""
    n_pixel = flux.shape[-1]
    if n_pixel == 0:
        return flux.new_full(flux.shape[:-1], torch.nan)
    ordered = torch.where(good, flux, torch.inf).sort(dim=-1).values
    n_good = good.sum(dim=-1, keepdim=True)
    low, high = (n_good.clamp(min=1) - 1) // 2, (n_good // 2).clamp(max=n_pixel - 1)
    median = (ordered.gather(-1, low) + ordered.gather(-1, high)) / 2
    return torch.where(n_good > 0, median, torch.nan)[..., 0]


class _Normalizer:
    """Settings as a dictionary, and the division, which both normalisers share."""

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
            not positive, and those ten thousand times as bright as it, marked bad; with
            `Flag.NO_GOOD_PIXELS` if none of them is left.
        """
        by = self.divisor(arrays.wavelength[None], arrays.flux[None], arrays.good[None])[0]
        with np.errstate(invalid="ignore", over="ignore"):
            by = np.where(np.isfinite(by) & (by > 0), by, np.nan)
            flux, sigma = arrays.flux / by, arrays.sigma / by
            good = arrays.good & (np.abs(flux) < _ABSURD)
        flags = arrays.flags
        if not good.any() and not flags & (Flag.BAD_INPUT | Flag.NO_OVERLAP):
            flags |= int(Flag.NO_GOOD_PIXELS)
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
        """Return the normaliser that `to_dict` describes.

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
            Another name, an unknown setting, or a bad value.
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

    The shape of the spectrum is kept. If the median is not positive, no pixel is good.
    """

    name: ClassVar[str] = "median"

    def without_clipping(self):
        """Return itself.

        Returns
        -------
        MedianScaler
        """
        return self

    def divisor(self, wavelength, flux, good):
        """Return the median or continuum by which spectra are divided.

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
    with a Gaussian of x, and evaluated there. It follows the response
    of the instrument and the slope of the star, also at the edges and beside
    gaps, and needs no grid. It is a mean, so it lies below the true continuum
    where lines are dense: normalised spectra scatter around 1.

    The divisor is linear in the flux and ignores the flux errors; noise is
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
        Relative deviation of a spike; infinite for none.

    Raises
    ------
    ConfigError
        A setting out of range.
    """

    name: ClassVar[str] = "continuum"

    def without_clipping(self):
        """Return the same normaliser for spectra without noise.

        Returns
        -------
        ContinuumNormalizer
        """
        return replace(self, clip=np.inf)

    width: float = 0.03
    clip: float = 2.0

    def __post_init__(self):
        """Check the settings."""
        for name, low, high in (("width", 1e-4, 10.0), ("clip", 1.0, np.inf)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not low <= value <= high:
                raise ConfigError(f"normalizer: {name}={value!r}; expected a number from {low} to {high}")

    def divisor(self, wavelength, flux, good):
        """Return the median or continuum by which spectra are divided.

        Parameters
        ----------
        wavelength : numpy.ndarray or torch.Tensor
            ``(n_star, n_pixel)`` or ``(n_pixel,)`` [Angstrom], float64.
        flux : numpy.ndarray or torch.Tensor
            ``(n_star, n_pixel)``; stars do not affect each other.
        good : numpy.ndarray or torch.Tensor
            ``(n_star, n_pixel)`` bool, pixels to use.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            ``(n_star, n_pixel)``, for bad pixels too; NaN far from any good pixel. It
            may be zero or negative where the flux is. Arrays are computed in float64,
            tensors on their device and in their precision.
        """
        if not isinstance(flux, torch.Tensor):
            flux = np.asarray(flux, dtype=np.float64)
            at = np.broadcast_to(np.asarray(wavelength, dtype=np.float64), flux.shape)
            arrays = (at, flux, np.asarray(good, dtype=bool))
            return self.divisor(*(torch.from_numpy(a.copy()) for a in arrays)).numpy()
        use = good & torch.isfinite(flux)
        if not use.any():
            return torch.full_like(flux, torch.nan)
        # one scale a star keeps sums far from underflow, whatever the unit
        scale = torch.where(use, flux.abs(), 0.0).amax(dim=-1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1.0)
        flux = torch.where(use, flux, 0.0) / scale
        smooth = _Smoother(wavelength.expand_as(flux), use, self.width / FWHM_OVER_SIGMA, flux.dtype)
        for _ in range(_MAX_ROUNDS):
            continuum = smooth(flux, use)
            if self.clip == np.inf:
                break
            deviation = (flux / continuum - 1).abs()
            sound = use & (continuum > 0)
            if bool((use & ~sound).any()):
                # far below zero are either spikes or the flux itself: the distance from the rest of the star decides
                typical = torch.where(use, flux, torch.nan).nanmedian(dim=-1, keepdim=True).values
                deviation = torch.where(sound, deviation, (flux / typical - 1).abs())
                sound = use & (sound | (typical > 0))
            scatter = MAD_TO_STD * torch.where(sound, deviation, torch.nan).nanmedian(dim=-1, keepdim=True).values
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

    def __init__(self, wavelength, use, sigma, dtype):
        self.sigma, self.bin_width = sigma, sigma / _BINS_PER_SIGMA
        at = torch.log(wavelength) / self.bin_width  # (n_star, n_pixel)
        # pixels that are bad and beyond the good ones need no bins of their own
        lowest = torch.where(use, at, torch.inf).amin()
        highest = torch.where(use, at, -torch.inf).amax()
        at = torch.where(torch.isfinite(at), at, lowest).clamp(lowest - 1, highest + 1)
        first = torch.floor(at.min()) - 1
        self.bin = (torch.floor(at) - first).long()
        self.n_bin = int(self.bin.max()) + 2
        # from the middle of the bin
        self.offset = ((at - first - self.bin - 0.5) * self.bin_width).to(dtype)
        # for interpolation between the middles of bins
        self.left = (torch.floor(at - 0.5) - first).long()
        self.weight = (at - first - 0.5 - self.left).to(dtype)
        reach = _KERNEL_END * _BINS_PER_SIGMA
        taps = torch.arange(-reach, reach + 1, dtype=dtype, device=at.device)
        kernel, distance = torch.exp(-0.5 * (taps / _BINS_PER_SIGMA) ** 2), taps * self.bin_width
        self.kernels = torch.stack([kernel * distance**power for power in range(3)])  # (3, n_tap)

    def __call__(self, flux, use):
        """Return the smooth flux at every pixel, ``(n_star, n_pixel)``."""
        one, u = use.to(flux), self.offset
        flux = torch.where(use, flux, 0.0)
        pixels = torch.stack((one, one * u, one * u * u, flux, u * flux))  # (5, n_star, n_pixel)
        binned = flux.new_zeros(5, len(flux), self.n_bin)
        binned.scatter_add_(2, self.bin.expand_as(pixels), pixels)
        one, u1, u2, f0, f1 = _convolve(binned, self.kernels)  # each (n_star, 3, n_bin)
        s0 = one[:, 0]
        s1 = one[:, 1] + u1[:, 0]
        s2 = one[:, 2] + 2 * u1[:, 1] + u2[:, 0]
        t0, t1 = f0[:, 0], f0[:, 1] + f1[:, 0]
        mean_x, mean_f = s1 / s0, t0 / s0
        variance = s2 / s0 - mean_x**2
        slope = (t1 / s0 - mean_x * mean_f) / (variance + _RIDGE * self.sigma**2)
        value = mean_f - slope * mean_x  # (n_star, n_bin), in the middle of each bin
        left, right = (value.gather(1, at) for at in (self.left, self.left + 1))
        return (1 - self.weight) * left + self.weight * right


def _convolve(rows, kernels):
    """Correlate rows ``(..., n_bin)`` with kernels ``(n_kernel, n_tap)``: ``(..., n_kernel, n_bin)``.

    As products of matrices, block by block: ten times faster on CPUs than a convolution.
    """
    (n_kernel, n_tap), n_bin = kernels.shape, rows.shape[-1]
    n_block = -(-n_bin // _BLOCK)
    windows = nn.functional.pad(rows, (n_tap // 2, n_block * _BLOCK - n_bin + n_tap // 2))
    windows = windows.unfold(-1, _BLOCK + n_tap - 1, _BLOCK)  # (..., n_block, n_window)
    tap = torch.arange(windows.shape[-1], device=rows.device)[:, None] - torch.arange(_BLOCK, device=rows.device)
    inside = (tap >= 0) & (tap < n_tap)
    band = torch.where(inside, kernels[:, tap.clamp(0, n_tap - 1)], 0.0)  # (n_kernel, n_window, _BLOCK)
    spread = windows @ band.transpose(0, 1).flatten(1)  # (..., n_block, n_kernel * _BLOCK)
    spread = spread.unflatten(-1, (n_kernel, _BLOCK)).transpose(-3, -2)
    return spread.flatten(-2)[..., :n_bin]


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
