"""What files of spectra hold, on its way to `spectrafm.adapters.from_arrays`."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .exceptions import InputValueError

__all__ = ["ANGSTROM", "UNITS", "WORDS", "Contents", "SpectrumFile", "first_line", "with_units"]

#: Spellings of units of wavelengths, in small letters, that astropy does not know, or knows in others.
UNITS = {"nm": "nm", "um": "um", "micron": "um", "microns": "um"} | dict.fromkeys(
    ("a", "aa", "ang", "angstrom", "angstroms"), "Angstrom"
)
#: What is in a column, or an extension.
WORDS = {
    "wavelength": "wavelength",
    "flux": "flux",
    "sigma": "standard deviations",
    "ivar": "inverse variances",
    "mask": "mask",
}
#: What is said where Angstrom is assumed.
ANGSTROM = "no unit of wavelength in its header: Angstrom is assumed; give wavelength_unit= otherwise"
# wavelengths up to here are in micrometres or nanometres rather than in Angstrom
_MOST_UM, _MOST_NM = 30, 2500


@dataclass
class SpectrumFile:
    """A file while it is read.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    hdus : `~astropy.io.fits.HDUList` or None
        What is in it, if it is FITS.
    file_format : str or None
        Format that was given.
    units : dict
        Units of ``"wavelength"`` and ``"flux"`` that were given, or None.
    merge : bool
        Whether all spectra in it are of one star.
    damage : str
        What astropy says of a file that is cut off, or "".
    causes : dict of str
        Why a place in it cannot be read.
    """

    path: Path
    hdus: object = None
    file_format: str | None = None
    units: dict = field(default_factory=dict)
    merge: bool = False
    damage: str = ""
    causes: dict = field(default_factory=dict)

    def image(self, number):
        """Read an image.

        Parameters
        ----------
        number : int
            Of the HDU.

        Returns
        -------
        numpy.ndarray or None
            None where it cannot be read; `causes` says why.
        """
        try:
            return self.hdus[number].data
        # what is cut off fails in many ways
        except Exception as error:
            self.causes[f"HDU {number}"] = first_line(error)
            return None


@dataclass
class Contents:
    """What a table or an image holds, and what was assumed.

    Attributes
    ----------
    arrays : dict
        Arguments of `~spectrafm.adapters.from_arrays`.
    notes : list of str
        What was assumed, in words.
    in_air : bool
        Whether the file says that its wavelengths are in air.
    """

    arrays: dict
    notes: list
    in_air: bool = False


def first_line(error):
    """Shorten what an error says.

    Parameters
    ----------
    error : Exception
        Any.

    Returns
    -------
    str
        The first line, or the kind of error where it says nothing.
    """
    text = str(error).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__


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
        A unit that is none, or none of the wavelengths.
    """
    from astropy import units as u

    found = {}
    for what in ("wavelength", "flux"):
        given, text = file.units.get(what), file.units.get(what) or own[what]
        if what == "wavelength":
            text = UNITS.get(text.lower(), text)
        found[what] = u.Unit(text, parse_strict="silent")
        unknown = isinstance(found[what], u.UnrecognizedUnit)
        if given and unknown:
            raise InputValueError(
                f"{what}_unit: {text!r}; expected a unit as astropy writes it, for example "
                f"{'nm' if what == 'wavelength' else 'erg/(s cm2 Angstrom)'!r}"
            )
        if what == "wavelength" and (unknown or not text):
            low, high = np.ma.min(values[what]), np.ma.max(values[what])
            likely = "um" if high < _MOST_UM else "nm" if high < _MOST_NM else "Angstrom"
            problem = f"{text!r}, which it gives as" if text else "it does not give"
            raise InputValueError(
                f"{problem} the unit of its wavelengths, from {low:.6g} to {high:.6g}{', is not known' * bool(text)}; "
                f"give it, for example wavelength_unit={likely!r}"
            )
        told = UNITS.get(own[what].lower(), own[what]) if what == "wavelength" else own[what]
        if not text:
            notes.append("no unit of the flux in it: taken as relative flux per wavelength; give flux_unit= otherwise")
        elif given and told and found[what] != u.Unit(told, parse_strict="silent"):
            notes.append(f"unit of the {what}: {text}, as given, and not {told} as in it")
    return Contents(values | {what: _quantity(values[what], unit) for what, unit in found.items()}, notes)


def _quantity(values, unit):
    """Return values with a unit, known or not, and with their mask if they have one, as `from_arrays` takes them."""
    from astropy import units as u
    from astropy.utils.masked import Masked

    if isinstance(values, np.ma.MaskedArray):
        plain = values.filled(np.nan) if values.dtype.kind == "f" else values.data
        return Masked(u.Quantity(plain, unit), mask=values.mask)
    return u.Quantity(values, unit)
