"""From an intrinsic spectrum to one as an instrument sees it, in torch.

Convolutions on a grid that is even in ln(wavelength) are products in Fourier space,
and so is a Doppler shift: however many there are, they cost one transform there and
one back. Everything is batched, each star with values of its own, and differentiable
in all of them.
"""

from functools import lru_cache

import numpy as np
import torch

from .._spectral_units import FWHM_OVER_SIGMA, SPEED_OF_LIGHT
from ..exceptions import InputValueError

__all__ = ["gaussian_transfer", "macroturbulence_transfer", "observe", "rotation_transfer"]

# the table of the transform of rotation: where it ends, and its nodes in a unit
_ROTATION_END, _ROTATION_NODES = 1024, 16
# share of the grid that is added so that its ends do not meet
_PADDING = 0.125


def gaussian_transfer(frequency, variance):
    """Return the Fourier transform of a normal distribution.

    Parameters
    ----------
    frequency : torch.Tensor
        Cycles per step of the grid.
    variance : torch.Tensor
        Variance of the distribution, in steps squared; broadcast against ``frequency``.

    Returns
    -------
    torch.Tensor
        Real transfer function, 1 at zero frequency.
    """
    return torch.exp(-2 * torch.pi**2 * frequency**2 * variance)


@lru_cache(maxsize=4)
def _rotation_table(limb_darkening):
    """Return value and slope of the transform of rotation at even nodes, each ``(n_node,)`` float64."""
    from scipy.special import jv

    w = np.arange(_ROTATION_END * _ROTATION_NODES + 2) / _ROTATION_NODES
    w[0] = 1.0
    cosine = (np.sin(w) - w * np.cos(w)) / w**3
    value = 2 * (1 - limb_darkening) * jv(1, w) / w + 2 * limb_darkening * cosine
    slope = -2 * (1 - limb_darkening) * jv(2, w) / w + 2 * limb_darkening * (np.sin(w) / w**2 - 3 * cosine / w)
    value[0], slope[0] = 1 - limb_darkening / 3, 0.0
    return value / value[0], slope / value[0]


def rotation_transfer(frequency, vsini, limb_darkening=0.6):
    r"""Return the Fourier transform of the profile of rotation.

    The profile is that of a rigidly rotating sphere with a linear law of limb darkening
    (Gray 2005, The Observation and Analysis of Stellar Photospheres, equation 18.14).
    With :math:`w = 2\pi f v` its transform is

    .. math::

        \frac{2 (1 - \epsilon) J_1(w) / w + 2 \epsilon (\sin w - w \cos w) / w^3}{1 - \epsilon / 3},

    taken from a table by cubic interpolation, which is exact to 1e-7.

    Parameters
    ----------
    frequency : torch.Tensor
        Cycles per step of the grid.
    vsini : torch.Tensor
        Projected equatorial velocity, in steps; broadcast against ``frequency``.
    limb_darkening : float, optional
        Coefficient of limb darkening.

    Returns
    -------
    torch.Tensor
        Real transfer function, 1 at zero frequency. Beyond the table, above w of 1024,
        it stays at its last value, of order 1e-5.
    """
    at = (2 * torch.pi * _ROTATION_NODES * frequency * vsini).clamp(0, _ROTATION_END * _ROTATION_NODES)
    value, slope = (torch.as_tensor(a, dtype=at.dtype, device=at.device) for a in _rotation_table(limb_darkening))
    node = at.detach().floor().long()
    t, h = at - node, 1 / _ROTATION_NODES
    v0, v1, s0, s1 = value[node], value[node + 1], slope[node] * h, slope[node + 1] * h
    return v0 + t * (s0 + t * (3 * (v1 - v0) - 2 * s0 - s1 + t * (2 * (v0 - v1) + s0 + s1)))


def macroturbulence_transfer(frequency, vmacro):
    r"""Return the Fourier transform of the profile of radial-tangential macroturbulence.

    Half of the surface moves radially and half tangentially, both with a Gaussian
    distribution of velocities :math:`\exp(-v^2 / \zeta^2)` (Gray 2005, chapter 17).
    Integrated over a disc without limb darkening the transform is
    :math:`(1 - e^{-a}) / a` with :math:`a = (\pi f \zeta)^2`.

    Parameters
    ----------
    frequency : torch.Tensor
        Cycles per step of the grid.
    vmacro : torch.Tensor
        The velocity zeta, in steps; broadcast against ``frequency``.

    Returns
    -------
    torch.Tensor
        Real transfer function, 1 at zero frequency.
    """
    a = (torch.pi * frequency * vmacro) ** 2
    small = a < 1e-3
    # slopes of values that are not used must be finite too
    safe = torch.where(small, torch.ones_like(a), a)
    return torch.where(small, 1 - a / 2 + a**2 / 6, -torch.expm1(-safe) / safe)


def observe(
    flux,
    wavelength,
    base_resolving_power,
    *,
    resolving_power=None,
    vsini=None,
    vmacro=None,
    radial_velocity=None,
    limb_darkening=0.6,
    at=None,
):
    """Return spectra as an instrument sees them.

    Beyond its ends a spectrum counts as its mirror image: do not use what lies within
    the reach of the broadening and of the shift from an end.

    Parameters
    ----------
    flux : torch.Tensor
        ``(..., n_pixel)``, normalised by its continuum. Half precision is computed, and
        comes back, as single.
    wavelength : array_like
        ``(n_pixel,)`` float64 [Angstrom], even in the logarithm.
    base_resolving_power : float
        Resolving power of ``flux``: wavelength over the full width at half maximum of
        its Gaussian line spread function.
    resolving_power : float or torch.Tensor, optional
        That of the instrument, for all or ``(...)``; as it is when left out.
    vsini : float or torch.Tensor, optional
        Projected velocity of rotation [km / s], for all or ``(...)``.
    vmacro : float or torch.Tensor, optional
        Radial-tangential macroturbulence [km / s], for all or ``(...)``.
    radial_velocity : float or torch.Tensor, optional
        Velocity [km / s], positive when receding, for all or ``(...)``.
    limb_darkening : float, optional
        Coefficient of linear limb darkening, for the rotation.
    at : array_like, optional
        ``(n_target,)`` or ``(..., n_target)`` wavelengths [Angstrom] to give the flux
        at; those of the grid when left out. Values are those of a cubic spline in
        ln(wavelength) at points: the averaging over a pixel of the instrument is part of its
        resolving power.

    Returns
    -------
    torch.Tensor
        ``(..., n_pixel)`` or ``(..., n_target)``.

    Raises
    ------
    InputValueError
        A resolving power above that of ``flux``, a negative velocity of broadening, a
        radial velocity not below the speed of light, wavelengths outside the grid, a
        grid that is not even, or shapes that do not fit.
    """
    flux = flux.float() if flux.dtype in (torch.float16, torch.bfloat16) else flux
    start, step = _log_grid(wavelength, flux.shape[-1])
    given = {
        "resolving_power": resolving_power,
        "vsini": vsini,
        "vmacro": vmacro,
        "radial_velocity": radial_velocity,
    }
    given = {name: _column(name, value, flux) for name, value in given.items() if value is not None}
    if not given and at is None:
        return flux
    padded = _pad(flux)  # (..., n_padded)
    n_padded, pixel = padded.shape[-1], SPEED_OF_LIGHT * step
    frequency = torch.arange(n_padded // 2 + 1, dtype=flux.dtype, device=flux.device) / n_padded
    spectrum = torch.fft.rfft(padded)  # (..., n_frequency)
    if "resolving_power" in given:
        power = given["resolving_power"]
        most = f"a positive number up to {base_resolving_power:g}, that of the spectra before"
        _refuse(~((power > 0) & (power <= base_resolving_power * (1 + 1e-6))), power, "resolving_power", most)
        variance = (power**-2 - base_resolving_power**-2) / (FWHM_OVER_SIGMA * step) ** 2
        spectrum = spectrum * gaussian_transfer(frequency, variance)
    if "vsini" in given:
        _refuse(~(given["vsini"] >= 0), given["vsini"], "vsini", "a velocity of 0 km/s or more")
        spectrum = spectrum * rotation_transfer(frequency, given["vsini"] / pixel, limb_darkening)
    if "vmacro" in given:
        _refuse(~(given["vmacro"] >= 0), given["vmacro"], "vmacro", "a velocity of 0 km/s or more")
        spectrum = spectrum * macroturbulence_transfer(frequency, given["vmacro"] / pixel)
    if "radial_velocity" in given:
        beta = given["radial_velocity"] / SPEED_OF_LIGHT
        _refuse(~(beta.abs() < 1), given["radial_velocity"], "radial_velocity", "a speed below that of light")
        # the logarithm of the Doppler factor sqrt((1 + b) / (1 - b)) is artanh b
        phase = (2 * torch.pi / step) * frequency * torch.atanh(beta)
        spectrum = spectrum * torch.complex(torch.cos(phase), -torch.sin(phase))
    if at is None:
        return torch.fft.irfft(spectrum, n_padded)[..., : flux.shape[-1]]
    # from values to the coefficients of the cubic B-spline through them
    spectrum = spectrum * (3 / (2 + torch.cos(2 * torch.pi * frequency)))
    return _spline(torch.fft.irfft(spectrum, n_padded), *_positions(at, start, step, flux))


def _log_grid(wavelength, n_pixel):
    """Return first value and step of an even grid of ln(wavelength)."""
    wavelength = np.asarray(wavelength, dtype=np.float64)
    if wavelength.shape != (n_pixel,) or n_pixel < 16:
        raise InputValueError(
            f"wavelength: shape {wavelength.shape} for spectra of {n_pixel} pixels; expected one each, 16 at least"
        )
    start, end = np.log(wavelength[[0, -1]])
    step, middle = (end - start) / (n_pixel - 1), n_pixel // 2
    off = abs(np.log(wavelength[middle]) - start - step * middle)
    # also refuses NaN
    if not (step > 0 and off < 0.05 * step):
        raise InputValueError("wavelength: not even in its logarithm; make it with numpy.geomspace")
    return start, step


def _column(name, value, flux):
    """Return a parameter of the stars as ``(..., 1)``."""
    value = torch.as_tensor(value, dtype=flux.dtype, device=flux.device)
    if value.ndim and value.shape != flux.shape[:-1]:
        raise InputValueError(
            f"{name}: shape {tuple(value.shape)} for spectra of shape {tuple(flux.shape)}; "
            f"expected a number or {tuple(flux.shape[:-1])}"
        )
    return value[..., None]


def _refuse(bad, value, name, expected):
    if bad.any():
        raise InputValueError(f"{name}: {value[bad].flatten()[0].item():g}; expected {expected}")


def _pad(flux):
    """Append mirror images of both ends that blend into each other, ``(..., n_padded)``."""
    from scipy.fft import next_fast_len

    n_pixel = flux.shape[-1]
    n_extra = next_fast_len(n_pixel + int(_PADDING * n_pixel), real=True) - n_pixel
    ramp = torch.arange(1, n_extra + 1, dtype=flux.dtype, device=flux.device) / (n_extra + 1)
    weight = (0.5 * torch.pi * ramp).cos() ** 2
    after = flux[..., -1 - n_extra : -1].flip(-1)
    before = flux[..., 1 : 1 + n_extra].flip(-1)
    return torch.cat((flux, weight * after + (1 - weight) * before), dim=-1)


def _positions(at, start, step, flux):
    """Return whole and fractional pixel of wavelengths, both ``(n_target,)`` or ``(..., n_target)``."""
    at = torch.as_tensor(at, dtype=torch.float64)
    if at.ndim != 1 and at.shape[:-1] != flux.shape[:-1]:
        raise InputValueError(
            f"at: shape {tuple(at.shape)} for spectra of shape {tuple(flux.shape)}; "
            "expected (n_target,), or such a row for each spectrum"
        )
    position = (torch.log(at) - start) / step
    end = flux.shape[-1] - 1
    outside = ~((position > -1e-6) & (position < end + 1e-6))
    lowest, highest = np.exp(start), np.exp(start + step * end)
    _refuse(outside, at, "at", f"wavelengths from {lowest:.2f} to {highest:.2f} Angstrom")
    whole = position.floor().clamp(0, end)
    return whole.long().to(flux.device), (position - whole).to(flux)


def _spline(coefficient, whole, t):
    """Evaluate a cubic B-spline whose coefficients are periodic, ``(..., n_target)``."""
    n_padded = coefficient.shape[-1]
    s = 1 - t
    weights = (s**3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * s**2 + 3 * s**3, t**3)
    total = 0
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        index = (whole + offset) % n_padded
        taken = coefficient[..., index] if index.ndim == 1 else coefficient.gather(-1, index)
        total = total + weight / 6 * taken
    return total
