"""What files of spectra hold, on its way to `spectrafm.adapters.from_arrays`, and the names that tell it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .._spectral_units import flux_rule
from .._star_names import star_names
from ..exceptions import InputValueError

__all__ = [
    "ANGSTROM",
    "GOOD_MASKS",
    "KINDS",
    "NAMES",
    "OWN_UNITS",
    "UNITS",
    "WORDS",
    "Contents",
    "SpectrumFile",
    "first_line",
    "from_log10",
    "further_note",
    "header_names",
    "kind_of",
    "plain_name",
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
#: Names of columns and extensions by what these hold, as of `plain_name`, those first that are taken first.
NAMES = {
    "wavelength": ("wavelength", "wave", "lambda", "lam", "wl", "wavelengths"),
    "log": ("loglam", "loglambda", "logwave", "logwavelength"),
    "flux": (
        *("flux", "fluxes", "fluxreduced", "fluxdensity", "flam", "flambda", "normflux", "fluxnorm"),
        *("spectrum", "spec"),
    ),
    "sigma": (
        *("err", "error", "errors", "sigma", "uncertainty", "uncert", "unc", "std", "stddev", "noise", "eflux"),
        *("errreduced", "fluxerr", "fluxerror", "errflux", "sigmaflux", "fluxsigma", "fluxunc", "fluxuncertainty"),
    ),
    "var": ("var", "variance", "fluxvar", "varflux", "fluxvariance", "err2", "error2", "sigma2", "sigma^2", "sigma**2"),
    "ivar": (
        *("ivar", "invvar", "inversevariance", "fluxivar", "ivarflux"),
        *("1/sigma^2", "1/sigma**2", "sigma**-2", "sigma^-2"),
    ),
    # 0 where a pixel is good
    "mask": (
        *("mask", "andmask", "dq", "dataquality", "qual", "quality", "flag", "flags", "bad", "isbad"),
        *("badpix", "badpixel", "badpixels", "bpm", "pixmask", "badpixelmask"),
    ),
}
#: Those of masks that are something else, or 1 where a pixel is good: they are not used, and that is said.
GOOD_MASKS = ("ormask", "good", "isgood", "goodpix", "goodpixel", "goodpixels", "goodmask", "valid", "ok")
# words of what is neither the flux of a star nor belongs to it as its errors do
_OTHER = (
    *GOOD_MASKS,
    *("sky", "background", "bkg", "model", "bestfit", "fit", "template", "residual", "residuals", "continuum", "cont"),
    *("blaze", "flat", "telluric", "response", "resp", "sensitivity", "throughput", "transmission", "snr"),
    *("resolution", "lsf", "psf", "fwhm", "weight", "weights", "exptime"),
)
#: What words in names mean, where a name is more than one word.
KINDS = {name: kind for kind, names in NAMES.items() for name in names} | dict.fromkeys(_OTHER, "other")
KINDS |= {"stat": "var", "sig": "sigma"} | dict.fromkeys(("data", "sci", "science", "primary"), "flux")
#: What is said where Angstrom is assumed.
ANGSTROM = "no unit of wavelength in its header: Angstrom is assumed; give wavelength_unit= otherwise"
#: What is said where units are given for a format that has its own.
OWN_UNITS = "wavelength_unit= and flux_unit= are not used: its format has units of its own"
# wavelengths up to here are in micrometres or nanometres rather than in Angstrom
_MOST_UM, _MOST_NM = 30, 2500
# log10 of wavelengths in Angstrom, natural logarithms of which are larger from 400 Angstrom on
_MOST_LOG10 = 6.0


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
    table_options : str
        Arguments with which `astropy.table.Table.read` reads its text.
    """

    path: Path
    hdus: object = None
    file_format: str | None = None
    units: dict = field(default_factory=dict)
    merge: bool = False
    damage: str = ""
    causes: dict = field(default_factory=dict)
    table_options: str = "format='ascii'"

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
    defaults : dict
        Options of `~spectrafm.adapters.from_arrays` that hold where no others are given: ``medium``,
        ``resolving_power`` or ``mask_policy``, as far as the file, or its survey, tells them.
    """

    arrays: dict
    notes: list
    defaults: dict = field(default_factory=dict)


def plain_name(name):
    """Write a name without capitals and what separates words.

    Parameters
    ----------
    name : str
        Of a column or an extension.

    Returns
    -------
    str
        A number that is set apart stays so: ``err_2`` is that of a second spectrum, ``err2`` a square.
    """
    return re.sub(r"[\s_.:](?!\d+$)|-(?=[a-z])", "", name.strip().lower())


def kind_of(name):
    """Tell what a column or an extension holds by the words of its name.

    Parameters
    ----------
    name : str
        Its name.

    Returns
    -------
    kind : str or None
        A key of `NAMES`, or "other"; None where no word is known.
    rest : list of str
        Words that are not known.
    """
    if (whole := KINDS.get(plain_name(name))) is not None:
        return whole, []
    words = re.findall("[a-z0-9]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower())
    kinds = [KINDS[word] for word in words if word in KINDS]
    rest = [word for word in words if word not in KINDS]
    of_axis = {"wavelength", "log"} & {*kinds} and {"sigma", "var", "ivar", "mask"} & {*kinds}
    if "other" in kinds or of_axis:
        return "other", rest
    # errors of the flux are no flux
    kinds = [kind for kind in kinds if kind != "flux"] or kinds
    return (kinds[-1] if kinds else None), rest


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


def header_names(headers, n_star):
    """Find the names of stars in headers, by the keywords that are for them.

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
        if names := star_names({"header": header}, n_star):
            return names
    return None


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
