"""Units of what files hold: those in the file, those that were given, and logarithms of wavelengths."""

import numpy as np

from .._spectral_units import flux_rule
from ..exceptions import InputValueError
from .contents import Contents
from .names import UNITS

__all__ = ["ANGSTROM", "from_log10", "likely_unit", "unit_problem", "with_units"]

#: What is said where Angstrom is assumed.
ANGSTROM = "no unit of wavelength in its header: Angstrom is assumed; give wavelength_unit= otherwise"
# wavelengths up to here are in micrometres or nanometres rather than in Angstrom
_MOST_UM, _MOST_NM = 30, 2500
# log10 of wavelengths in Angstrom, natural logarithms of which are larger from 400 Angstrom on
_LEAST_LOG10, _MOST_LOG10 = 2.5, 6.0


def from_log10(values, unit, called):
    """Turn log10 of wavelengths into wavelengths.

    Parameters
    ----------
    values : array_like
        The logarithms.
    unit : str
        Of the wavelengths.
    called : str
        What they are called, for the message.

    Returns
    -------
    numpy.ndarray
        Wavelengths in this unit.

    Raises
    ------
    InputValueError
        They would be longer than any spectrum of a star: these are natural logarithms.
    """
    from astropy import units as u

    values = np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    scale = u.Unit(UNITS.get(unit.lower(), unit), parse_strict="silent")
    scale = scale.to(u.AA) if scale.is_equivalent(u.AA) else 1.0
    largest = np.max(values, where=np.isfinite(values), initial=-np.inf)
    if largest + np.log10(scale) > _MOST_LOG10:
        raise InputValueError(
            f"{called} goes up to {largest:.6g}: as log10 this is a wavelength of 1e{largest:.4g} {unit}, as a natural "
            f"logarithm one of {np.exp(min(largest, 700)):.6g} {unit}; if it is natural logarithms, read the file in "
            "Python, and give numpy.exp of it with its unit to spectrafm.adapters.from_arrays"
        )
    with np.errstate(over="ignore"):
        return 10**values


def likely_unit(wavelengths):
    """Tell the unit that wavelengths of stars are likely to be in.

    Parameters
    ----------
    wavelengths : array_like
        Numbers.

    Returns
    -------
    {"um", "nm", "Angstrom"}
    """
    high = np.ma.max(wavelengths)
    return "um" if high < _MOST_UM else "nm" if high < _MOST_NM else "Angstrom"


def unit_problem(wavelengths, text):
    """Say that the unit of wavelengths is not known, and how it is given.

    Parameters
    ----------
    wavelengths : array_like
        Numbers.
    text : str
        What the file gives as the unit, "" where it gives none.

    Returns
    -------
    str
        What came, and what to do, in words.
    """
    low, high = np.ma.min(wavelengths), np.ma.max(wavelengths)
    problem = f"{text!r}, which it gives as" if text else "it does not give"
    may_be_log10 = low > _LEAST_LOG10 and high < _MOST_LOG10
    logarithms = "; where they are log10 of Angstrom, wavelength_unit='dex(Angstrom)'" * bool(may_be_log10)
    return (
        f"{problem} the unit of its wavelengths, from {low:.6g} to {high:.6g}{', is not known' * bool(text)}; "
        f"give it, for example wavelength_unit={likely_unit(wavelengths)!r}{logarithms}"
    )


def with_units(values, own, file, notes):
    """Give spectra their units: those given, or those of the file.

    Parameters
    ----------
    values : dict of numpy.ndarray
        ``wavelength``, ``flux`` and others.
    own : dict of str
        Units of ``wavelength`` and ``flux`` in the file, or "".
    file : SpectrumFile
        The file, with the units that were given.
    notes : list of str
        What was assumed so far; what is assumed here is appended.

    Returns
    -------
    Contents
        The spectra.

    Raises
    ------
    InputValueError
        A unit that is none, or none of the wavelengths, or a flux in a logarithmic one.
    """
    from astropy import units as u
    from astropy.units.function import FunctionUnitBase

    found = {}
    for what in ("wavelength", "flux"):
        given, text = file.units.get(what), file.units.get(what) or own[what]
        if what == "wavelength":
            text = UNITS.get(text.lower(), text)
        found[what] = u.Unit(text, parse_strict="silent")
        if isinstance(found[what], FunctionUnitBase):
            found[what] = _linear(what, found[what], values, notes)
        unknown = isinstance(found[what], u.UnrecognizedUnit)
        if given and unknown:
            raise InputValueError(
                f"{what}_unit: {text!r}; expected a unit as astropy writes it, for example "
                f"{'nm' if what == 'wavelength' else 'erg/(s cm2 Angstrom)'!r}"
            )
        if what == "wavelength" and (unknown or not text):
            raise InputValueError(unit_problem(values[what], text))
        told = UNITS.get(own[what].lower(), own[what]) if what == "wavelength" else own[what]
        if not text:
            notes.append("no unit of the flux in it: taken as relative flux per wavelength; give flux_unit= otherwise")
        elif given and told and found[what] != u.Unit(told, parse_strict="silent"):
            notes.append(f"unit of the {what}: {text}, as given, and not {told} as in it")
    return Contents(values | {what: _quantity(values[what], unit) for what, unit in found.items()}, notes)


def _linear(what, unit, values, notes):
    """Turn logarithms into wavelengths, and return the unit of these; refuse those of the flux."""
    if what == "flux":
        # it says what to give
        flux_rule(unit)
    plain = unit.to_physical(np.ma.getdata(values[what]).astype(float))
    values[what] = np.ma.array(plain, mask=values[what].mask) if np.ma.isMaskedArray(values[what]) else plain
    notes.append(f"wavelengths are logarithms, in {unit}")
    return unit.physical_unit


def _quantity(values, unit):
    """Return values with a unit, known or not, and with their mask if they have one, as `from_arrays` takes them."""
    from astropy import units as u
    from astropy.utils.masked import Masked

    if isinstance(values, np.ma.MaskedArray):
        plain = values.filled(np.nan) if values.dtype.kind == "f" else values.data
        return Masked(u.Quantity(plain, unit), mask=values.mask)
    return u.Quantity(values, unit)
