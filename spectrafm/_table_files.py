"""Spectra in tables: ASCII, FITS or VOTable, read by the names of their columns."""

import re
import warnings

import numpy as np

from ._file_contents import UNITS, WORDS, first_line, with_units
from ._spectral_units import sigma_factor
from ._star_names import star_names
from .exceptions import InputValueError

__all__ = ["column_in_air", "further_notes", "is_votable", "known_columns", "left_out", "read_tables", "table_spectra"]

# names of columns, without what is no letter
_LOG_WAVELENGTH = ("loglam", "loglambda", "logwave", "logwavelength")
_WAVELENGTH = ("wavelength", "wave", "lambda", "lam", "wl", "wavelengths")
_FLUX = ("flux", "fluxes", "fluxreduced", "fluxdensity", "flam", "flambda", "normflux", "fluxnorm", "spectrum", "spec")
_SIGMA = (
    *("err", "error", "errors", "sigma", "uncertainty", "unc", "std", "stddev", "noise", "eflux", "errreduced"),
    *("fluxerr", "fluxerror", "errflux", "sigmaflux", "fluxsigma", "fluxunc", "fluxuncertainty"),
)
_IVAR = ("ivar", "invvar", "inversevariance", "fluxivar", "ivarflux")
_MASK = ("mask", "andmask")
_NAMES = {"log": _LOG_WAVELENGTH, "flux": _FLUX, "sigma": _SIGMA, "ivar": _IVAR, "mask": _MASK}
# how VOTables begin, and end in their names
_VOTABLE, _VOTABLE_NAMES = (b"<?xml", b"<VOTABLE"), (".vot", ".votable", ".xml")


def is_votable(path):
    """Tell VOTables.

    Parameters
    ----------
    path : pathlib.Path
        A file.

    Returns
    -------
    bool
        Its name ends like that of a VOTable, or it begins like one.
    """
    if path.name.lower().removesuffix(".gz").endswith(_VOTABLE_NAMES):
        return True
    return _begins_with(path, _VOTABLE)


def _begins_with(path, starts):
    with path.open("rb") as opened:
        return opened.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(starts)


def read_tables(file):
    """Read the tables of a file.

    Parameters
    ----------
    file : SpectrumFile
        The file; its `causes` get what cannot be read.

    Returns
    -------
    dict of `~astropy.table.Table`
        By place, "" where there is but one: those with a wavelength and a flux, or all where there is none of them.
    """
    if file.hdus is not None:
        found = _of_fits(file)
    elif file.file_format == "votable" or (file.file_format is None and is_votable(file.path)):
        found = _of_votable(file)
    else:
        found = _of_text(file)
    spectral = {place: table for place, table in found.items() if {"wavelength", "flux"} <= set(known_columns(table))}
    return spectral or found


def _of_fits(file):
    from astropy import units as u
    from astropy.io import fits
    from astropy.table import Table

    found = {}
    for number, hdu in enumerate(file.hdus):
        if not isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
            continue
        try:
            with warnings.catch_warnings():
                # units that are not known are told of where they matter
                warnings.simplefilter("ignore", u.UnitsWarning)
                table = Table.read(hdu)
        # what is cut off fails in many ways
        except Exception as error:
            file.causes[f"HDU {number}"] = first_line(error)
            continue
        for column, name in enumerate(table.colnames):
            table[name].meta["ucd"] = str(hdu.header.get(f"TUCD{column + 1}", ""))
        found[f"HDU {number}" + f" {hdu.name}" * bool(hdu.name)] = table
    return found


def _of_votable(file):
    from astropy import units as u
    from astropy.io import votable

    try:
        with warnings.catch_warnings():
            # most VOTables break the standard somewhere
            warnings.simplefilter("ignore", votable.exceptions.VOWarning)
            warnings.simplefilter("ignore", u.UnitsWarning)
            parsed = votable.parse(str(file.path)).iter_tables()
            tables = [table.to_table(use_names_over_ids=True) for table in parsed]
    # what is none, or cut off, fails in many ways
    except Exception as error:
        file.causes["its VOTable"] = first_line(error)
        return {}
    return {f"table {number}" if len(tables) > 1 else "": table for number, table in enumerate(tables)}


def _of_text(file):
    from astropy.io.ascii import InconsistentTableError
    from astropy.table import Table

    if file.file_format is None and _begins_with(file.path, b"<"):
        # astropy would look for tables in HTML
        return {}
    kind = "ascii.ecsv" if file.path.suffix.lower() == ".ecsv" else (file.file_format or "ascii")
    for attempt in dict.fromkeys((kind, "ascii")):
        try:
            table = Table.read(file.path, format=attempt)
        # what is no table fails in many ways
        except Exception:
            continue
        # where lines differ in length a guess takes each for a word
        if len(table.columns) > 1 or "," not in table.colnames[0]:
            return {"": table}
    # guesses say nothing that helps
    likely = "ascii.csv" if file.path.suffix.lower() == ".csv" else "ascii.basic"
    try:
        Table.read(file.path, format=likely, guess=False)
    except InconsistentTableError as error:
        # with one column, or none, it is no table
        if not re.search(r"columns \([01]\)", first_line(error)):
            file.causes["its table"] = first_line(error)
    # no table at all
    except Exception:
        return {}
    return {}


def known_columns(table):
    """Find the columns of a table that are understood.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.

    Returns
    -------
    dict of str
        Their names by kind: wavelength, log, flux, sigma, ivar, mask.
    """
    found = {}
    plain = {re.sub("[^a-z]", "", name.lower()): name for name in reversed(table.colnames)}
    for kind, names in _NAMES.items():
        if known := [plain[name] for name in names if name in plain]:
            found[kind] = known[0]
    if axes := [name for name in table.colnames if _split_unit(name) is not None]:
        found["wavelength"] = axes[0]
    if "wavelength" not in found and "log" in found:
        found["wavelength"] = found["log"]
    else:
        found.pop("log", None)
    if not found and re.fullmatch("(col[0-9]+ ?)+", " ".join(table.colnames)) and 2 <= len(table.colnames) <= 3:
        # nothing but numbers: in the order that everybody has them
        found = dict(zip(("wavelength", "flux", "sigma"), table.colnames, strict=False))
    return found


def _split_unit(name):
    """Return the unit in the name of a column of wavelengths, "" where there is none; None for other columns."""
    words = [word for word in re.split("[^a-z]+", name.lower()) if word]
    if not words or words[0] not in _WAVELENGTH or len(words) > 2:
        return None
    return UNITS.get(words[1]) if len(words) == 2 else ""


def column_in_air(table):
    """Tell whether a table says that its wavelengths are in air.

    Parameters
    ----------
    table : `~astropy.table.Table`
        As of `read_tables`.

    Returns
    -------
    bool
        The UCD of the column of wavelengths is that of wavelengths in air.
    """
    name = known_columns(table).get("wavelength")
    words = str(table[name].meta.get("ucd", "")).lower().split(";") if name else []
    return {"em.wl", "obs.atmos"} <= set(words)


def further_notes(first, tables):
    """Name the spectra that are not read.

    Parameters
    ----------
    first : str
        The place that is read.
    tables : dict of `~astropy.table.Table`
        As of `read_tables`.

    Returns
    -------
    list of str
        A note, or nothing.
    """
    others = [
        place for place, table in tables.items() if place != first and {"wavelength", "flux"} <= {*known_columns(table)}
    ]
    if not others:
        return []
    return [
        f"only the spectrum in {first} is read, and not those in {', '.join(others)}; give merge_orders=True where "
        "all are of one star"
    ]


def table_spectra(file, tables):
    """Read the spectra of plain tables.

    Parameters
    ----------
    file : SpectrumFile
        The file.
    tables : dict of `~astropy.table.Table`
        As of `read_tables`.

    Returns
    -------
    list of Contents
        Of the first table that is understood, or of all where they are of one star.

    Raises
    ------
    InputValueError
        A unit that is none, or text among numbers.
    """
    tables = {place: table for place, table in tables.items() if {"wavelength", "flux"} <= set(known_columns(table))}
    if not file.merge:
        return [_spectra(file, place, table, further_notes(place, tables)) for place, table in [*tables.items()][:1]]
    # beside what was added up already, LAMOST has the single exposures
    sums = [place for place in tables if " COADD" in place]
    others = [place for place in tables if place not in sums] if sums else []
    note = f"of its tables {', '.join(sums)} are read, which are sums of exposures, and not {', '.join(others)}"
    return [
        _spectra(file, place, table, [note] if others and place == sums[0] else [])
        for place, table in tables.items()
        if place not in others
    ]


def _spectra(file, place, table, further):
    """Return the spectra of a plain table."""
    names = known_columns(table)
    values = {kind: _cells(table[column]) for kind, column in names.items() if kind != "log"}
    if texts := [names[kind] for kind, value in values.items() if value.dtype.kind not in "biuf"]:
        raise InputValueError(f"not numbers alone in the columns {', '.join(texts)} of its table; correct them")
    n_pixel = len(values["wavelength"]) if np.ndim(values["wavelength"]) == 1 else None
    if np.ndim(values["flux"]) == 2 and np.shape(values["flux"])[1] != n_pixel == len(values["flux"]):
        # a column a star
        values = {kind: value.T for kind, value in values.items()}
    notes = [
        f"read as a table{f' ({place})' * bool(place)}: "
        + ", ".join(f"{words} in {names[kind]!r}" for kind, words in WORDS.items() if kind in values),
        *further,
    ]
    if "sigma" in values and "ivar" in values:
        del values["ivar"]
        notes.append(f"errors are those in {names['sigma']!r}; {names['ivar']!r} is not used")
    notes += _convert_errors(values, {kind: table[names[kind]] for kind in values})
    if "log" in names:
        own = file.units["wavelength"] or "Angstrom"
        values["wavelength"] = 10 ** np.asarray(values["wavelength"], dtype=float)
        notes.append(f"{names['log']!r} is taken as log10 of wavelengths in {own}")
    else:
        own = str(table[names["wavelength"]].unit or "") or _split_unit(names["wavelength"]) or ""
    found = with_units(values, {"wavelength": own, "flux": str(table[names["flux"]].unit or "")}, file, notes)
    n_star = len(values["flux"]) if np.ndim(values["flux"]) == 2 else 1
    for header in [table.meta, file.hdus[0].header] if file.hdus else [table.meta]:
        if star := star_names({"header": header}, n_star):
            found.arrays["identifier"] = star
            break
    found.in_air = column_in_air(table)
    return found


def _convert_errors(values, columns):
    """Bring errors to the unit that the file has for the flux, or take them out; return a note of that."""
    notes = []
    for kind, power in (("sigma", 1), ("ivar", -2)):
        if kind not in values or columns["flux"].unit is None:
            continue
        try:
            factor = sigma_factor("std" if power == 1 else kind, columns[kind].unit, columns["flux"].unit)
        except InputValueError:
            del values[kind]
            notes.append(left_out(columns[kind].name))
        else:
            values[kind] = values[kind] * factor**power
    return notes


def left_out(name):
    """Say that errors are not used.

    Parameters
    ----------
    name : str
        Name of their column.

    Returns
    -------
    str
        A note.
    """
    return f"column {name!r} is left out: its shape or its unit does not fit the flux"


def _cells(column):
    """Return the values of a column: those of its one cell, where there is one."""
    values = np.ma.asarray(column[0] if len(column) == 1 and np.ndim(column[0]) else column)
    return values if values.mask.any() else np.asarray(values)
