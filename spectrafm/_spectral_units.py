"""Units of axes, fluxes and errors, air and vacuum, and the Doppler shift.

Every conversion is reduced to a factor that is worked out once per unit, so
that thousands of spectra cost no more than their arithmetic.
"""

import math
import re
import reprlib
from functools import lru_cache

import astropy.units as u
import numpy as np
from astropy.constants import c as _LIGHT
from astropy.constants import h as _PLANCK
from astropy.units.function import FunctionUnitBase

from ._numerics import split_mask
from .exceptions import InputTypeError, InputValueError, SpectraFMError

__all__ = [
    "FWHM_OVER_SIGMA",
    "RYDBERG",
    "SPEED_OF_LIGHT",
    "air_to_vacuum",
    "axis_to_angstrom",
    "check_spectral_axis",
    "doppler_factor",
    "flux_rule",
    "in_unit",
    "plain_numbers",
    "radial_velocity",
    "sigma_factor",
]

#: Speed of light in vacuum [km/s].
SPEED_OF_LIGHT = _LIGHT.to_value(u.km / u.s)
#: Rydberg constant of hydrogen [1 / Angstrom, vacuum].
RYDBERG = 1.0967758e-3
#: Full width at half maximum of a Gaussian, in standard deviations.
FWHM_OVER_SIGMA = math.sqrt(8 * math.log(2))

# shorter wavelengths are quoted in vacuum by everyone, and Morton (2000) does not hold there
_SHORTEST_AIR = 2000.0

_PHOTON = _PLANCK * _LIGHT / u.ph
_FLUX, _LUMINOSITY = u.erg / u.s / u.cm**2 / u.AA, u.erg / u.s / u.AA
# unit, the power of the wavelength to divide by, the constant to multiply by, what comes out, and what
# must stand in the unit where its dimension alone has another meaning too
_DENSITIES = (
    (u.W / u.m**2 / u.Hz, 2, _LIGHT, _FLUX, None),
    (u.W / u.Hz, 2, _LIGHT, _LUMINOSITY, ("frequency", -1)),
    (u.mgy, 2, _LIGHT * u.AB / u.mgy, _FLUX, None),
    (u.W / u.m**2 / u.eV, 2, _PLANCK * _LIGHT, _FLUX, ("energy", -1)),
    (u.W / u.m**2 * u.m, 2, 1, _FLUX, ("length", 1)),
    (u.W / u.m**2, 1, 1, _FLUX, None),
    (u.W, 1, 1, _LUMINOSITY, None),
    (u.ph / u.s / u.m**2 / u.AA, 1, _PHOTON, _FLUX, None),
    (u.ph / u.s / u.m**2 / u.Hz, 3, _PHOTON * _LIGHT, _FLUX, ("frequency", -1)),
    (u.ph / u.s / u.m**2 / u.eV, 3, _PHOTON * _PLANCK * _LIGHT, _FLUX, None),
    (u.ph / u.s / u.m**2 * u.m, 3, _PHOTON, _FLUX, ("length", 1)),
)
# what may stand beside a flux density: per solid angle, beam or pixel
_SPATIAL = (u.rad, u.beam, u.pix)
_POWER = {"std": 1, "var": 2, "ivar": -2}
_DOPPLER = {"optical": u.doppler_optical, "radio": u.doppler_radio, "relativistic": u.doppler_relativistic}


@lru_cache(maxsize=256)
def _axis_rule(unit):
    """Return ``(direct, factor)``: wavelength is factor * value, or factor / value."""
    if isinstance(unit, u.UnrecognizedUnit):
        raise InputValueError(
            f"the spectral axis is in {unit.to_string()!r}, a unit that astropy does not know; give numbers with one "
            "that it knows, for example wavelength.data * u.AA"
        )
    try:
        # whatever the user has enabled
        with u.set_enabled_equivalencies([]):
            return True, unit.to(u.AA)
    except u.UnitsError:
        pass
    try:
        return False, unit.to(u.AA, 1.0, u.spectral())
    except u.UnitsError:
        raise InputValueError(
            f"the spectral axis is in {unit.to_string() or 'no unit'!r}, which does not tell wavelengths; "
            "expected a length, frequency, energy or wavenumber, or a velocity with its rest_value"
        ) from None


def axis_to_angstrom(values, unit, rest=None, convention=None):
    """Convert a spectral axis to wavelengths.

    Parameters
    ----------
    values : numpy.ndarray
        The axis, any shape.
    unit : `~astropy.units.UnitBase`
        Its unit: length, frequency, energy, wavenumber, or speed; or the logarithm of one.
    rest : `~astropy.units.Quantity`, optional
        Wavelength (or frequency, energy) of zero velocity, for an axis in
        units of speed.
    convention : {"relativistic", "optical", "radio"}, optional
        Meaning of the velocities; relativistic when left out.

    Returns
    -------
    numpy.ndarray
        Wavelengths [Angstrom], a new float64 array of the same shape.

    Raises
    ------
    InputValueError
        The unit does not tell wavelengths.
    """
    values = np.array(values, dtype=np.float64)
    if isinstance(unit, FunctionUnitBase):
        values, unit = unit.to_physical(values), unit.physical_unit
    if unit.physical_type == "speed":
        if rest is None:
            raise InputValueError(
                f"the spectral axis is in {unit.to_string()!r} without a rest wavelength; "
                "make the Spectrum with rest_value= and velocity_convention="
            )
        convention = convention or "relativistic"
        return (values * unit).to_value(u.AA, _DOPPLER[convention](u.Quantity(rest)))
    direct, factor = _axis_rule(unit)
    with np.errstate(divide="ignore"):
        return values * factor if direct else factor / values


def check_spectral_axis(spectral_axis):
    """Return where spectra are wanted.

    Parameters
    ----------
    spectral_axis : `~astropy.units.Quantity` or `~astropy.table.Column`
        ``(n_pixel,)`` wavelengths, frequencies, energies or wavenumbers, in vacuum.

    Returns
    -------
    numpy.ndarray
        ``(n_pixel,)`` float64 [Angstrom].

    Raises
    ------
    InputTypeError
        It has no unit, or another number of dimensions.
    InputValueError
        It has another unit, values that are no wavelengths, or neither ascends nor descends.
    """
    if getattr(spectral_axis, "unit", None) is None or np.ndim(spectral_axis) != 1 or not len(spectral_axis):
        raise InputTypeError(
            f"spectral_axis: got {type(spectral_axis).__name__} of shape {np.shape(spectral_axis)}; expected a "
            "Quantity of shape (n_pixel,), for example numpy.linspace(15200, 16900, 5000) * u.AA"
        )
    try:
        values, mask = split_mask(spectral_axis)
        wavelength = axis_to_angstrom(np.where(mask, np.nan, values.value), values.unit)
    except InputValueError as error:
        raise InputValueError(f"spectral_axis: {error}") from None
    steps = np.diff(wavelength)
    if not ((wavelength > 0).all() and ((steps > 0).all() or (steps < 0).all())):
        raise InputValueError(
            "spectral_axis: some values are not positive, repeat, or go up and down, or are masked; expected "
            "wavelengths, frequencies or the like in ascending or descending order"
        )
    return wavelength


def in_unit(name, value, own, unit):
    """Return numbers in another unit.

    Parameters
    ----------
    name : str
        What they are, for the error message.
    value : array_like
        Numbers; what is under a mask is converted, too.
    own : `~astropy.units.UnitBase`
        Their unit.
    unit : str or `~astropy.units.UnitBase`
        The one wanted.

    Returns
    -------
    array_like
        Plain numbers.

    Raises
    ------
    InputValueError
        They cannot be converted.
    """
    wanted = u.Unit(unit)
    # a logarithm in plain dex is a common spelling of the same number
    if own == u.dex and isinstance(wanted, u.function.logarithmic.DexUnit):
        return value
    try:
        return u.Quantity(np.ma.getdata(value), own, subok=True).to_value(wanted)
    except (ValueError, TypeError):
        raise InputValueError(
            f"{name}: unit {own}, expected {unit or 'none'}; convert it, or give plain numbers in that"
        ) from None


def plain_numbers(name, values, unit, *, masked=False):
    """Return numbers of an argument in a unit.

    Parameters
    ----------
    name : str
        Name of the argument, for error messages.
    values : float, array_like, `~astropy.units.Quantity` or `~astropy.table.Column`
        Without a unit, they are in ``unit`` already; in a list, each number for itself.
    unit : str or `~astropy.units.UnitBase`
        The unit wanted. Plain ``dex`` is accepted for any logarithm.
    masked : bool, optional
        Some may be masked: they are NaN.

    Returns
    -------
    numpy.ndarray
        float64, of the same shape.

    Raises
    ------
    InputTypeError
        These are no numbers.
    InputValueError
        The unit is another one, or some of them are masked.
    """
    try:
        numbers, mask = _numbers_and_mask(name, values, unit)
    except SpectraFMError:
        raise
    except (TypeError, ValueError):
        raise InputTypeError(
            f"{name}: {reprlib.repr(values)}; expected numbers, plain in {unit or 'no unit'} or with a unit"
        ) from None
    if not masked and mask.any():
        raise InputValueError(
            f"{name}: {np.count_nonzero(mask)} of {np.size(mask)} masked; expected a number everywhere; leave masked "
            "rows out, or fill them in"
        )
    return np.where(mask, np.nan, numbers)


def _numbers_and_mask(name, values, unit):
    """Return float64 numbers in a unit, and which are masked; others than ours are errors that these are no numbers."""
    if isinstance(values, list | tuple) and any(hasattr(one, "unit") or hasattr(one, "mask") for one in values):
        units = [one.unit for one in values if getattr(one, "unit", None) is not None]
        if any(not one.is_equivalent(units[0]) for one in units):
            raise InputTypeError(f"{name}: {reprlib.repr(values)}; expected one unit for all of them")
        numbers, masks = zip(*(_numbers_and_mask(name, one, unit) for one in values), strict=True)
        return np.stack(numbers), np.stack(masks)
    given, mask = split_mask(values)
    if (own := getattr(given, "unit", None)) is not None:
        given = in_unit(name, getattr(given, "value", given), own, unit)
    plain = np.asarray(given)
    objects = plain.flat if plain.dtype.kind == "O" else ()
    # text that reads as a number is as likely something else
    if plain.dtype.kind in "bSUMm" or any(isinstance(one, str | bytes | bool) for one in objects):
        raise TypeError
    numbers = np.array(given, dtype=np.float64)
    return numbers, np.broadcast_to(mask, numbers.shape)


def air_to_vacuum(wavelength):
    """Convert wavelengths in air to vacuum (Morton 2000, ApJS 130, 403, equation 8).

    Parameters
    ----------
    wavelength : numpy.ndarray
        Wavelengths in dry air at standard pressure and temperature [Angstrom].
        Below 2000 Angstrom they count as vacuum wavelengths already.

    Returns
    -------
    numpy.ndarray
        Wavelengths in vacuum [Angstrom].
    """
    from specutils.utils.wcs_utils import air_to_vac

    vacuum = np.array(wavelength, dtype=np.float64)
    in_air = vacuum >= _SHORTEST_AIR
    if in_air.any():
        vacuum[in_air] = air_to_vac(vacuum[in_air] * u.AA, method="Morton2000").value
    return vacuum


def doppler_factor(velocity):
    """Return observed over rest wavelength, ``sqrt((1 + v/c) / (1 - v/c))``.

    Parameters
    ----------
    velocity : array_like
        Radial velocity [km/s], positive when receding.

    Returns
    -------
    numpy.ndarray
        The factor 1 + z; NaN where the speed is not below that of light.
    """
    beta = np.asarray(velocity, dtype=np.float64) / SPEED_OF_LIGHT
    beta = np.where(np.abs(beta) < 1, beta, np.nan)
    return np.sqrt((1 + beta) / (1 - beta))


def radial_velocity(factor):
    """Return the velocity of a Doppler factor, the inverse of `doppler_factor`.

    Parameters
    ----------
    factor : array_like
        Observed over rest wavelength, positive.

    Returns
    -------
    numpy.ndarray
        Radial velocity [km/s], positive when receding.
    """
    square = np.asarray(factor, dtype=np.float64) ** 2
    return SPEED_OF_LIGHT * (square - 1) / (square + 1)


@lru_cache(maxsize=256)
def flux_rule(unit):
    """Say how a flux becomes one per wavelength.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase` or None
        Unit of the flux.

    Returns
    -------
    power : int
        The power of the wavelength [Angstrom] that values are divided by.
    factor : float
        What values are multiplied by.
    name : str
        Unit of the result.

    Raises
    ------
    InputValueError
        The unit is logarithmic.
    """
    if unit is None or "arbitrary" in unit.to_string().lower():
        return 0, 1.0, ""
    if isinstance(unit, u.UnrecognizedUnit):
        return 0, 1.0, unit.to_string()
    if isinstance(unit, FunctionUnitBase) or unit in (u.mag, u.dex, u.dB):
        raise InputValueError(
            f"the flux is in {unit.to_string()!r}, which is logarithmic; give it in a linear unit "
            "(for example flux.physical, or 10**(-0.4 * magnitude))"
        )
    if unit.is_equivalent(u.one):
        return 0, unit.to(u.one), ""
    for density, power, constant, per_wavelength, needed in _DENSITIES:
        rest = (unit / density).decompose()
        if not all(base in _SPATIAL for base in rest.bases) or not (needed is None or _stands_in(unit, *needed)):
            continue
        factor = (rest.scale * constant * density / u.AA**power).to_value(per_wavelength)
        for base, exponent in zip(rest.bases, rest.powers, strict=True):
            per_wavelength = per_wavelength * base**exponent
        return power, factor, per_wavelength.to_string()
    return 0, 1.0, unit.to_string()


def _stands_in(unit, physical_type, sign):
    """Tell whether a unit is written with a part of this physical type, to the power 1 or -1."""
    parts = zip(unit.bases, unit.powers, strict=True)
    return any(part.physical_type == physical_type and power == sign for part, power in parts)


@lru_cache(maxsize=256)
def sigma_factor(kind, unit, flux_unit):
    """Return what a standard deviation is multiplied by to be in the unit of the flux.

    Parameters
    ----------
    kind : {"std", "var", "ivar"}
        What the unit is of: standard deviation, variance, inverse variance.
    unit : `~astropy.units.UnitBase` or None
        Unit of the uncertainty; None is that of the flux.
    flux_unit : `~astropy.units.UnitBase` or None
        Unit of the flux.

    Returns
    -------
    float
        The factor.

    Raises
    ------
    InputValueError
        The units do not belong together.
    """
    power = _POWER[kind]
    flux_unit = u.dimensionless_unscaled if flux_unit is None else flux_unit
    if unit is None or (power == 1 and unit is flux_unit) or _is_same_unknown(unit, flux_unit, power):
        return 1.0
    try:
        with u.set_enabled_equivalencies([]):
            return unit.to(flux_unit**power) ** (1 / power)
    except (u.UnitsError, ValueError):
        raise InputValueError(
            f"the uncertainty ({kind}) is in {unit.to_string()!r}, which does not fit "
            f"a flux in {flux_unit.to_string()!r}; give it in the unit of the flux"
        ) from None


def _is_same_unknown(unit, flux_unit, power):
    """Tell by its name whether a unit is a power of that of the flux: units that no registry has do not convert."""
    if not any(isinstance(one, u.IrreducibleUnit) for one in (unit, flux_unit)):
        return False
    unit, flux_unit = (re.sub(r"[\s()]", "", one.to_string().lower()).replace("**", "^") for one in (unit, flux_unit))
    if power == 1:
        return unit == flux_unit
    names = [f"{flux_unit}{sign}{power}" for sign in ("^", "")]
    names += [f"1/{flux_unit}{sign}{-power}" for sign in ("^", "")] * (power < 0)
    return unit in names
