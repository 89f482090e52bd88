"""Files of spectra: what specutils reads, and the common kinds that it does not.

Files of surveys are read by their loaders in specutils. Plain tables, VOTables, images and files of
IRAF, of which it knows no more than the units, are read here by the names that the field uses. What
is assumed is said in words, and what cannot be known, such as a unit that a file does not give, is
asked for.
"""

import re
import warnings
from contextlib import contextmanager
from lzma import LZMAError
from os import PathLike
from pathlib import Path

import numpy as np

from . import adapters
from ._files.apogee import apogee_spectra
from ._files.contents import OWN_UNITS, SpectrumFile, first_line, in_air
from ._files.foreign import foreign_problem
from ._files.image_axes import axis_notes, gives_wavelengths
from ._files.images import image_spectra, with_companions
from ._files.table_columns import known_columns
from ._files.tables import is_votable, read_tables, table_spectra
from ._files.units import ANGSTROM, likely_unit, unit_problem
from ._files.unread import unread_problem
from ._pixel_quality import policy_bits, unusable
from ._star_names import common_name
from ._warning_filters import catch_warnings, taking_turns
from .exceptions import InputTypeError, InputValueError, SpectraFMWarning

__all__ = ["read_spectra"]

# formats of specutils of any table, and with those of any image with a linear axis, and what is tried on any file
_TABLES = {"tabular-fits", "ECSV", "ASCII", "IPAC"}
_IMAGES = {"wcs1d-fits", "iraf"}
_PLAIN = _TABLES | _IMAGES | {"JWST x1d MIRI MRS"}
# what astropy warns of where a file is cut off
_CUT_OFF = re.compile("truncated|Error validating header|corrupt", re.IGNORECASE)
# how files of FITS end in their names
_FITS_NAMES = re.compile(r"\.(fits?|fts)(\.(gz|bz2|xz|z|fz))?$")
# what is said of options that the file, or its survey, tells
_TOLD = {
    "medium": "wavelengths are in {}, as the file says",
    "mask_policy": "bad pixels are those of the mask policy {}, unless another is given",
    "resolving_power": "its resolving power is {:.0f}, that of its survey, unless another is given",
}
# a mask that leaves out a larger share than this may be the wrong way round
_MOST_MASKED = 0.5
# between these, in Angstrom, are spectra of stars
_LEAST, _MOST = 100, 1e6


def read_spectra(
    path,
    *,
    file_format=None,
    wavelength_unit=None,
    flux_unit=None,
    merge_orders=False,
    medium=None,
    radial_velocity=None,
    resolving_power=None,
    mask_policy=None,
    notes=None,
):
    """Read the spectra of a file: what specutils reads, and plain tables, VOTables and images.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    file_format : str, optional
        Format, as specutils names it, or as `astropy.table.Table` does.
    wavelength_unit, flux_unit : str or `~astropy.units.UnitBase`, optional
        Units, text as astropy writes them, of what has none in the file; they override those of the file.
    merge_orders : bool, optional
        The spectra in the file are orders or arms of one star, and are merged
        (`~spectrafm.adapters.merge_orders`). Of several arms with the same number of rows, as of
        DESI, the rows are as many stars, each merged from its arms.
    medium, radial_velocity, resolving_power, mask_policy
        As in `~spectrafm.adapters.to_arrays`, for all spectra of the file.
    notes : list of str, optional
        Gets what was assumed, and what was left out, in words, in place of warnings.

    Returns
    -------
    list of SpectrumArrays
        One a star, which `spectrafm.SpectraFM.infer` takes.

    Raises
    ------
    InputValueError
        The file cannot be read, or a unit is not known; the message says what is in the file, and
        what to do.
    InputTypeError
        The path is none, or a unit is neither text nor a unit.
    InputTypeError, InputValueError
        As of `~spectrafm.adapters.to_arrays`.

    Warns
    -----
    SpectraFMWarning
        For each assumption, in the same words for all files of a kind, unless ``notes`` is given.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from spectrafm.spectrum_files import read_spectra
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "star.csv"
    ...     _ = path.write_text("wavelength_nm,flux,error\\n500,1.0,0.1\\n501,0.9,0.1\\n502,1.1,0.1\\n")
    ...     notes = []
    ...     [star] = read_spectra(path, notes=notes)
    >>> star.wavelength
    array([5000., 5010., 5020.])
    >>> notes[0]
    "read as a table: wavelength in 'wavelength_nm', flux in 'flux', standard deviations in 'error'"
    """
    from astropy.units import UnitsWarning

    spectrum_options = {
        "medium": medium,
        "radial_velocity": radial_velocity,
        "resolving_power": resolving_power,
        "mask_policy": mask_policy,
    }
    if not isinstance(path, str | PathLike):
        raise InputTypeError(
            f"path: got {type(path).__name__}, expected the path of one file; of several files, one after the other: "
            "stars = [star for path in paths for star in read_spectra(path)]"
        )
    units = {"wavelength": _unit_text("wavelength", wavelength_unit), "flux": _unit_text("flux", flux_unit)}
    file = SpectrumFile(Path(path), None, file_format, units, merge_orders)
    with taking_turns():
        try:
            with catch_warnings():
                # units that are not known are told of where they matter
                warnings.simplefilter("ignore", UnitsWarning)
                stars, said = _read(file, spectrum_options)
        except InputValueError as error:
            raise InputValueError(f"{path}: {error}") from error
        if notes is not None:
            notes += said
        for note in said if notes is None else ():
            warnings.warn(note, SpectraFMWarning, stacklevel=2)
    return stars


def _unit_text(what, unit):
    """Return a unit that was given as astropy writes it."""
    from astropy import units as u
    from astropy.units.function import FunctionUnitBase

    if unit is None or isinstance(unit, str):
        return unit
    if isinstance(unit, u.UnitBase | FunctionUnitBase):
        # one without a dimension is one, too
        return unit.to_string() or "1"
    raise InputTypeError(
        f"{what}_unit: got {unit!r}; expected text or a unit, for example {'nm' if what == 'wavelength' else 'Jy'!r} "
        f"or astropy.units.{'nm' if what == 'wavelength' else 'Jy'}"
    )


class _NotReadError(Exception):
    """What specutils says where it does not read a file."""


def _read(file, spectrum_options):
    """Return the stars of a file, and what was assumed."""
    if file.path.is_dir():
        raise InputValueError("it is a folder; give the files in it")
    if not file.path.exists():
        raise InputValueError("there is no such file")
    try:
        with _opened(file):
            groups, notes = _groups(file, spectrum_options)
            for group in groups:
                _check_wavelengths(group)
    # compressed files have errors of their own where they are damaged
    except (OSError, EOFError, LZMAError) as error:
        raise InputValueError(f"it cannot be read: {getattr(error, 'strerror', None) or first_line(error)}") from error
    if not any(groups):
        raise InputValueError("there is no spectrum in it")
    notes += [f"{place} cannot be read ({cause})" for place, cause in file.causes.items()]
    if file.damage:
        notes.append(f"the file may be cut off: {file.damage}")
    if file.merge:
        return _merged(groups, notes), notes
    return [star for group in groups for star in group], notes


def _check_wavelengths(stars):
    """Refuse wavelengths that are logarithms, or in another unit than the file says."""
    for star in stars:
        if not np.size(star.wavelength):
            continue
        low, high = np.min(star.wavelength), np.max(star.wavelength)
        if high < _LEAST or low > _MOST:
            raise InputValueError(
                f"its wavelengths are from {low:.6g} to {high:.6g} Angstrom by the units in it, where no spectrum of a "
                "star is; give their unit as wavelength_unit=, which is 'dex(Angstrom)' for log10 of Angstrom"
            )


@contextmanager
def _opened(file):
    """Open a file while it is read, if it is FITS."""
    from astropy.io import fits

    with file.path.open("rb") as opened:
        is_fits = opened.read(9) == b"SIMPLE  =" or bool(_FITS_NAMES.search(file.path.name.lower()))
    with catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            file.hdus = fits.open(file.path, memmap=False)
            # reads all headers
            len(file.hdus)
        # what is no FITS, or cut off, fails in many ways
        except Exception as error:
            if is_fits:
                raise InputValueError(
                    f"it is FITS that cannot be read ({first_line(error)}): the file may be cut off"
                ) from error
            file.hdus = None
    for warning in caught if file.hdus else ():
        if _CUT_OFF.search(str(warning.message)):
            file.damage = first_line(warning.message)
    if file.hdus is None:
        yield
        return
    with file.hdus:
        yield


def _groups(file, spectrum_options):
    """Return the stars of each spectrum, table or image in a file, and what was assumed."""
    formats, given = _all_formats(file), any(file.units.values())
    of_survey = not formats <= _PLAIN
    is_plain = all(name in _PLAIN or name.lower().startswith(("ascii", "votable")) for name in formats)
    if file.hdus is None and is_plain and (problem := foreign_problem(file.path)):
        raise InputValueError(problem)
    contents, reason = apogee_spectra(file, formats) if of_survey else _contents(file, spectrum_options), ""
    if not contents and (of_survey or not (given or _is_table(file))):
        is_air = spectrum_options["medium"] is None and in_air(file.headers)
        told = {"medium": "air"} if is_air else {}
        try:
            groups, notes = _by_specutils(file, spectrum_options | told)
        except _NotReadError as error:
            contents = _contents(file, spectrum_options) if of_survey else []
            reason = "" if is_votable(file.path) else f"specutils cannot read it ({error}); "
        else:
            # loaders of surveys know the units of what they read
            notes += [_TOLD[name].format(value) for name, value in told.items()]
            return groups, notes + [OWN_UNITS] * given
    if not contents:
        raise InputValueError(unread_problem(file, reason))
    groups, notes = [], []
    for one in contents:
        told = {name: value for name, value in one.defaults.items() if spectrum_options[name] is None}
        one.notes += [_TOLD[name].format(value) for name, value in told.items()]
        options = spectrum_options | told
        groups.append(adapters.from_arrays(**one.arrays, **options))
        one.notes += _mask_notes(one.arrays.get("mask"), options["mask_policy"])
        notes += [note for note in one.notes if note not in notes]
    return groups, notes


def _contents(file, options):
    """Return what plain tables and images hold."""
    tables = read_tables(file)
    # wavelengths that are told pixel by pixel go before those of a header
    if any({"wavelength", "flux"} <= set(known_columns(table)) for table in tables.values()):
        return table_spectra(file, tables, options)
    return image_spectra(file) or table_spectra(file, tables, options)


def _mask_notes(mask, mask_policy):
    """Say where a mask leaves out so much that it may be the wrong way round."""
    if mask is None:
        return []
    bits, mask = policy_bits(mask_policy), np.ma.filled(mask, True)
    with np.errstate(invalid="ignore"):
        bad = mask != 0 if bits is None or mask.dtype.kind == "b" else (mask.astype(np.int64) & bits) != 0
    share = np.max(np.mean(bad, axis=-1))
    if share <= _MOST_MASKED:
        return []
    return [f"its mask leaves out {100 * share:.0f} % of the pixels of a star; if 1 means good in it, invert it"]


def _merged(groups, notes):
    """Return the one star of a file, or one a row where there are arms with a row a star."""
    if len(groups) == 1 or {len(group) for group in groups} in ({1}, set()) or len({len(g) for g in groups}) > 1:
        return [adapters.merge_orders([star for group in groups for star in group])]
    notes.append(f"{len(groups)} arms of {len(groups[0])} rows: each row is a star, merged from its arms")
    stars = []
    for row, arms in enumerate(zip(*groups, strict=True)):
        name = common_name([arm.identifier for arm in arms]) or str(row)
        try:
            stars.append(adapters.merge_orders(arms, identifier=name))
        except InputValueError as error:
            stars.append(unusable(str(error), name))
    return stars


def _by_specutils(file, spectrum_options):
    """Return the stars of each spectrum that specutils finds, and what it leaves out."""
    from specutils import Spectrum, SpectrumList

    first, told = None, {"format": file.file_format} if file.file_format else {}
    for kind in (Spectrum, SpectrumList):
        try:
            with catch_warnings():
                if file.hdus is None and {*_formats(file, kind)} <= _PLAIN - _TABLES:
                    # it is refused, after formats that it is not were tried
                    warnings.simplefilter("ignore")
                found = kind.read(str(file.path), **told)
        # loaders raise whatever their parsing runs into
        except Exception as error:
            first = first or error
            continue
        if not hasattr(found, "mask"):
            return _split(found, spectrum_options, file.merge)
        notes = _complete(found, file)
        return [adapters.to_arrays(found, **spectrum_options)], notes
    raise _NotReadError(first_line(first)) from first


def _split(spectra, spectrum_options, merge):
    """Return the stars of each member of a list of spectra, and a note where they are arms of several stars."""
    stars = adapters.to_arrays(spectra, **spectrum_options)
    sizes = [one.flux.size // one.flux.shape[one.spectral_axis_index] for one in spectra]
    ends = np.cumsum(sizes)
    several = not merge and len(sizes) > 1 and len({*sizes}) == 1 and sizes[0] > 1
    note = f"{len(sizes)} arms of {sizes[0]} stars are as many rows: give merge_orders=True to merge the arms of a star"
    return [stars[end - size : end] for size, end in zip(sizes, ends, strict=True)], [note] if several else []


def _all_formats(file):
    """Return the formats that specutils takes a file for: those beyond the plain ones are of surveys."""
    from specutils import Spectrum, SpectrumList

    return {*_formats(file, Spectrum), *_formats(file, SpectrumList)}


def _is_table(file):
    """Tell a table with units: specutils would go by these alone, and take a continuum for a flux."""
    from specutils import Spectrum

    formats = set() if file.file_format else {*_formats(file, Spectrum)}
    if not formats or not formats <= _TABLES:
        return False
    return any(column.unit is not None for table in read_tables(file).values() for column in table.itercols())


def _formats(file, kind):
    """Return the formats that specutils takes a file for as a spectrum, or the one that is given."""
    from astropy.io.registry import identify_format

    if file.file_format:
        return [file.file_format]
    name = str(file.path)
    try:
        with catch_warnings():
            # those of formats that it is not
            warnings.simplefilter("ignore")
            return identify_format("read", kind, name, None, [name], {})
    # whatever looking into it runs into
    except Exception:
        return []


def _complete(spectrum, file):
    """Give the spectrum of an image the mask and the errors that specutils leaves out; return notes."""
    from specutils import Spectrum

    # what a survey has is left to its loader
    formats, header = {*_formats(file, Spectrum)}, spectrum.meta.get("header", {})
    image = file.hdus and formats & _IMAGES
    if image and formats <= _PLAIN and not gives_wavelengths(header, spectrum.spectral_axis):
        raise InputValueError(unread_problem(file, ""))
    if not (image and "wcs1d-fits" in formats):
        return []
    notes = []
    notes += axis_notes(header)
    if not header.get("CUNIT1") and "WAT1_001" not in header and str(spectrum.spectral_axis.unit) == "Angstrom":
        if likely_unit(spectrum.spectral_axis.value) != "Angstrom":
            raise InputValueError(unit_problem(spectrum.spectral_axis.value, ""))
        notes.append(ANGSTROM)
    known = {"flux": spectrum.data}
    known |= {"sigma": spectrum.uncertainty.array} if spectrum.uncertainty is not None else {}
    known |= {"mask": spectrum.mask} if spectrum.mask is not None else {}
    found = with_companions(file, 0, known, [0], notes)
    for kind in ({"sigma", "ivar"} & set(found)) - set(known):
        _add(spectrum, kind, found[kind])
    spectrum.mask = found.get("mask")
    return notes


def _add(spectrum, kind, values):
    """Give a spectrum errors."""
    from astropy.nddata import InverseVariance, StdDevUncertainty

    spectrum.uncertainty = (InverseVariance if kind == "ivar" else StdDevUncertainty)(values)
