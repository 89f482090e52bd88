"""What files of spectra hold, on its way to `spectrafm.adapters.from_arrays`."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ._spectral_units import flux_rule
from ._star_names import star_names
from .exceptions import InputValueError

__all__ = [
    "ANGSTROM",
    "GOOD_MASKS",
    "MASKS",
    "UNITS",
    "WORDS",
    "Contents",
    "SpectrumFile",
    "first_line",
    "further_note",
    "header_names",
    "take_mask",
    "with_units",
]

#: Spellings of units of wavelengths, in small letters, that astropy does not know, or knows in others.
UNITS = {"nm": "nm", "um": "um", "micron": "um", "microns": "um"} | dict.fromkeys(
    ("a", "aa", "ang", "angstrom", "angstroms", "\u00e5", "\u212b"), "Angstrom"
)
UNITS |= dict.fromkeys(("\u00b5m", "\u03bcm"), "um")
#: What is in a column, or an extension.
WORDS = {
    "wavelength": "wavelength",
    "flux": "flux",
    "sigma": "standard deviations",
    "var": "variances",
    "ivar": "inverse variances",
    "mask": "mask",
}
#: Names, without what separates words, of what is 0 where a pixel is good, in the order in which they are looked for.
MASKS = (
    *("mask", "andmask", "dq", "dataquality", "qual", "quality", "flag", "flags", "bad", "isbad"),
    *("badpix", "badpixel", "badpixels", "bpm", "pixmask", "badpixelmask"),
)
#: Those of what is something else, or 1 where a pixel is good: it is not used, and that is said.
GOOD_MASKS = ("ormask", "good", "isgood", "goodpix", "goodpixel", "goodpixels", "goodmask", "valid", "ok")
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


def further_note(first, others):
    """Name the spectra that are not read.

    Parameters
    ----------
    first : str
        The place that is read.
    others : list of str
        Places that are not.

    Returns
    -------
    list of str
        A note, or nothing.
    """
    if not others:
        return []
    return [
        f"only the spectrum in {first} is read, and not those in {', '.join(others)}; give merge_orders=True where "
        "all are of one star"
    ]


def header_names(headers, n_star):
    """Find the names of stars in headers, or in what else a file says of itself.

    Parameters
    ----------
    headers : iterable of dict
        Headers of FITS, or the meta of tables, those first that are believed first.
    n_star : int
        Number of stars.

    Returns
    -------
    list of (str or None) or None
        As of `star_names`.
    """
    for header in headers:
        if names := star_names({"header": header}, n_star) or star_names(header, n_star):
            return names
    return None


def take_mask(values, name, notes):
    """Take a mask that fits the flux and holds booleans or bits; say so where there is one that does not.

    Parameters
    ----------
    values : dict of numpy.ndarray
        ``flux``, and ``mask``, which is taken out where it cannot be used.
    name : str
        What the mask is called.
    notes : list of str
        What was assumed; gets why a mask is not used.
    """
    if "mask" not in values:
        return
    mask = np.ma.asarray(values["mask"])
    if mask.dtype.kind in "SU" and set(np.ravel(mask.astype(str).filled("True"))) <= {"True", "False"}:
        # of pandas
        values["mask"] = mask = mask.astype(str) == "True"
    is_number = mask.dtype.kind in "biuf"
    numbers = np.nan_to_num(mask.filled(0).astype(float)) if is_number else None
    if np.shape(mask) != np.shape(values["flux"]):
        problem = "its shape does not fit the flux"
    elif not is_number or (numbers != np.trunc(numbers)).any():
        problem = "it does not hold booleans, or bits"
    else:
        return
    del values["mask"]
    notes.append(f"mask {name!r} is not used: {problem}")


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
