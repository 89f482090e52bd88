"""Units of axes, fluxes and errors, air and vacuum, and the Doppler shift.

Every conversion is reduced to a factor that is worked out once per unit, so
that thousands of spectra cost no more than their arithmetic.
"""

from functools import lru_cache

import astropy.units as u
import numpy as np
from astropy.constants import c as _LIGHT
from astropy.units.function import FunctionUnitBase

from .exceptions import InputTypeError, InputValueError

__all__ = [
    "SPEED_OF_LIGHT",
    "air_to_vacuum",
    "axis_to_angstrom",
    "check_spectral_axis",
    "doppler_factor",
    "flux_rule",
    "sigma_factor",
]

#: Speed of light in vacuum [km/s].
SPEED_OF_LIGHT = _LIGHT.to_value(u.km / u.s)

_LIGHT_ANGSTROM_HZ = _LIGHT.to_value(u.AA * u.Hz)
# shorter wavelengths are quoted in vacuum by everyone, and Morton (2000) does not hold there
_SHORTEST_AIR = 2000.0

_ERG_S = u.erg / u.s
_PER_FREQUENCY = (
    (u.W / u.m**2 / u.Hz, _ERG_S / u.cm**2 / u.AA),
    (u.ph / u.s / u.m**2 / u.Hz, u.ph / u.s / u.cm**2 / u.AA),
    (u.W / u.Hz, _ERG_S / u.AA),
)
# what may stand beside a flux density: per solid angle, beam or pixel
_SPATIAL = (u.rad, u.beam, u.pix)
_POWER = {"std": 1, "var": 2, "ivar": -2}
_DOPPLER = {"optical": u.doppler_optical, "radio": u.doppler_radio, "relativistic": u.doppler_relativistic}


@lru_cache(maxsize=256)
def _axis_rule(unit):
    """Return ``(direct, factor)``: wavelength is factor * value, or factor / value."""
    try:
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
        Its unit: length, frequency, energy, wavenumber, or speed.
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
    spectral_axis : `~astropy.units.Quantity`
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
        wavelength = axis_to_angstrom(np.array(spectral_axis.value), spectral_axis.unit)
    except InputValueError as error:
        raise InputValueError(f"spectral_axis: {error}") from None
    steps = np.diff(wavelength)
    if not ((wavelength > 0).all() and ((steps > 0).all() or (steps < 0).all())):
        raise InputValueError(
            "spectral_axis: some values are not positive, repeat, or go up and down; expected wavelengths, "
            "frequencies or the like in ascending or descending order"
        )
    return wavelength


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


@lru_cache(maxsize=256)
def flux_rule(unit):
    """Say how a flux becomes one per wavelength.

    Parameters
    ----------
    unit : `~astropy.units.UnitBase` or None
        Unit of the flux.

    Returns
    -------
    per_frequency : bool
        Whether values are divided by the square of the wavelength [Angstrom].
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
        return False, 1.0, ""
    if isinstance(unit, u.UnrecognizedUnit):
        return False, 1.0, unit.to_string()
    if isinstance(unit, FunctionUnitBase) or unit in (u.mag, u.dex, u.dB):
        raise InputValueError(
            f"the flux is in {unit.to_string()!r}, which is logarithmic; give it in a linear unit "
            "(for example flux.physical, or 10**(-0.4 * magnitude))"
        )
    if unit.is_equivalent(u.one):
        return False, unit.to(u.one), ""
    for per_frequency, per_wavelength in _PER_FREQUENCY:
        rest = (unit / per_frequency).decompose()
        # an energy has the dimension of a luminosity per frequency, and is none
        is_energy = per_frequency == u.W / u.Hz and "Hz" not in unit.to_string()
        if is_energy or not all(base in _SPATIAL for base in rest.bases):
            continue
        factor = rest.scale * _LIGHT_ANGSTROM_HZ * (per_frequency * u.Hz / u.AA).to(per_wavelength)
        for base, power in zip(rest.bases, rest.powers, strict=True):
            per_wavelength = per_wavelength * base**power
        return True, factor, per_wavelength.to_string()
    return False, 1.0, unit.to_string()


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
    if unit is None or (power == 1 and unit is flux_unit):
        return 1.0
    try:
        if isinstance(flux_unit, u.IrreducibleUnit) and unit.to_string() == (flux_unit**power).to_string():
            # two unregistered units of the same name do not convert into each other
            return 1.0
        return unit.to(flux_unit**power) ** (1 / power)
    except (u.UnitsError, ValueError):
        raise InputValueError(
            f"the uncertainty ({kind}) is in {unit.to_string()!r}, which does not fit "
            f"a flux in {flux_unit.to_string()!r}; give it in the unit of the flux"
        ) from None
