"""Spectra in tables: ASCII, FITS or VOTable, read by the names of their columns."""

import re
import warnings
from dataclasses import replace

import numpy as np

from ._file_contents import (
    GOOD_MASKS,
    MASKS,
    UNITS,
    WORDS,
    first_line,
    further_note,
    header_names,
    take_mask,
    with_units,
)
from ._pixel_quality import order_starts
from ._spectral_units import sigma_factor
from ._star_names import star_names
from .exceptions import InputValueError

__all__ = ["is_votable", "known_columns", "read_tables", "table_spectra"]

# names of columns, without what separates words
_LOG_WAVELENGTH = ("loglam", "loglambda", "logwave", "logwavelength")
_WAVELENGTH = ("wavelength", "wave", "lambda", "lam", "wl", "wavelengths")
_FLUX = ("flux", "fluxes", "fluxreduced", "fluxdensity", "flam", "flambda", "normflux", "fluxnorm", "spectrum", "spec")
_SIGMA = (
    *("err", "error", "errors", "sigma", "uncertainty", "unc", "std", "stddev", "noise", "eflux", "errreduced"),
    *("fluxerr", "fluxerror", "errflux", "sigmaflux", "fluxsigma", "fluxunc", "fluxuncertainty"),
)
_VAR = ("var", "variance", "fluxvar", "varflux", "fluxvariance", "err2", "error2", "sigma2", "sigma^2", "sigma**2")
_IVAR = (
    "ivar",
    "invvar",
    "inversevariance",
    "fluxivar",
    "ivarflux",
    "1/sigma^2",
    "1/sigma**2",
    "sigma**-2",
    "sigma^-2",
)
_NAMES = {"log": _LOG_WAVELENGTH, "flux": _FLUX, "sigma": _SIGMA, "var": _VAR, "ivar": _IVAR, "mask": MASKS}
# errors are taken from the first of these that is there; their unit is that of the flux to this power
_ERRORS = {"sigma": ("std", 1), "var": ("var", 2), "ivar": ("ivar", -2)}
# columns of as many stars that are no wavelength where they have no unit
_AXES = ("spectralaxis", "frequency", "freq", "energy", "wavenumber")
# how VOTables begin, and end in their names
_VOTABLE, _VOTABLE_NAMES = (b"<?xml", b"<VOTABLE"), (".vot", ".votable", ".xml")
# a number of Fortran in double precision, and what begins a line of words beside #
_FORTRAN = re.compile(r"(?<![\w.+-])([-+]?\d+\.?\d*|[-+]?\.\d+)[dD]([-+]?\d+)(?![\w.])")
_COMMENTS = ";%!"
# what may be errors, and is not understood
_ERROR_LIKE = re.compile("^(?!wave|lam|sky).*(err|sig|unc|var|std)")
# bytes that are looked at
_LOOK = 65536


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
        By place, "" where there is but one: those with a wavelength and a flux by their names, or else by their
        units, or all where there is none of them.
    """
    if file.hdus is not None:
        found = _of_fits(file)
    elif file.file_format == "votable" or (file.file_format is None and is_votable(file.path)):
        found = _of_votable(file)
    else:
        found = _of_text(file)
    return _spectral(found, by_unit=False) or _spectral(found, by_unit=True) or found


def _spectral(tables, by_unit):
    """Return the tables that have wavelengths and fluxes."""
    return {
        place: table for place, table in tables.items() if {"wavelength", "flux"} <= set(known_columns(table, by_unit))
    }


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
    source = _astropy_lines(file)
    if file.causes:
        return {}
    kind = "ascii.ecsv" if file.path.suffix.lower() == ".ecsv" else (file.file_format or "ascii")
    for attempt in dict.fromkeys((kind, "ascii")):
        try:
            table = Table.read(source, format=attempt)
            if len(table.columns) == 1 and ";" in table.colnames[0]:
                table = Table.read(source, format="ascii", delimiter=";")
        # what is no table fails in many ways
        except Exception:
            continue
        # where lines differ in length a guess takes each for a word
        if len(table.columns) > 1 or "," not in table.colnames[0]:
            return {"": table}
    # guesses say nothing that helps
    likely = "ascii.csv" if file.path.suffix.lower() == ".csv" else "ascii.basic"
    try:
        Table.read(source, format=likely, guess=False)
    except InconsistentTableError as error:
        # with one column, or none, it is no table
        if not re.search(r"columns \([01]\)", first_line(error)):
            file.causes["its table"] = first_line(error)
    # no table at all
    except Exception:
        return {}
    return {}


def _astropy_lines(file):
    """Return a file of text as lines that astropy understands, or its path where it does as it is."""
    with file.path.open("rb") as opened:
        start = opened.read(_LOOK)
    if b"\0" in start or file.path.suffix.lower() == ".ecsv":
        return file.path
    text = start.decode(errors="replace").lstrip("\ufeff \t\r\n")
    # a semicolon may separate columns
    is_comment = text[:1] in _COMMENTS if text[:1] != ";" else not re.search(r"(?m)^[^;\n]+;", text)
    # pandas writes the number of the row before columns with names, and no name for it
    is_index = not is_comment and re.match(r"[,;\t][^\W\d]", start.decode(errors="replace"))
    is_count = re.match(r"(?:\s*[*#].*\n)*\s*\d+(?:[ \t,]+\d+)?[ \t]*\r?\n", text)
    if not (text and (is_comment or is_index or is_count or _FORTRAN.search(text))):
        return file.path
    lines = file.path.read_text(errors="replace").removeprefix("\ufeff").splitlines()
    if is_comment:
        lines = [re.sub(rf"^(\s*)[{_COMMENTS}]", r"\1#", line) for line in lines]
    if is_index:
        lines[0] = f"row{lines[0]}"
    lines = [line for line in lines if line.strip()]
    data = [number for number, line in enumerate(lines) if line.lstrip()[0] not in "*#"]
    if is_count and data and lines[data[0]].replace(",", " ").split()[0] == str(len(data) - 1):
        file.causes["its table"] = f"line {data[0] + 1} is the number of its pixels: delete the lines up to this one"
    return [_FORTRAN.sub(r"\1e\2", line) for line in lines]


def known_columns(table, by_unit=False):
    """Find the columns of a table that are understood.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.
    by_unit : bool, optional
        Take the first columns with units of wavelength, or flux, where no name is known.

    Returns
    -------
    dict of str
        Their names by kind: wavelength, log, flux, sigma, var, ivar, mask.
    """
    found = {}
    plain = {_plain_name(name): name for name in reversed(table.colnames)}
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
    if "wavelength" not in found:
        axes = [plain[name] for name in _AXES if name in plain and table[plain[name]].unit is not None]
        found |= {"wavelength": axes[0]} if axes else {}
    return _by_unit(table, found) if by_unit else found


def _by_unit(table, found):
    """Add what is wavelength, flux or its errors by its unit alone."""
    from astropy import units as u

    def free(is_it):
        # of numbers, masks and names of stars have no unit
        return [
            name
            for name in table.colnames
            if name not in found.values() and table[name].unit is not None and is_it(table[name].unit)
        ]

    if "wavelength" not in found and (axes := free(lambda unit: unit.is_equivalent(u.AA, u.spectral()))):
        found["wavelength"] = axes[0]
    if "wavelength" in found and "flux" not in found:
        densities, at = (u.Jy, u.Unit("erg/(s cm2 Angstrom)")), u.spectral_density(1 * u.AA)
        counts = (u.adu, u.ct, u.electron, u.adu / u.s, u.ct / u.s, u.electron / u.s)
        fluxes = free(lambda unit: unit in counts or any(unit.is_equivalent(some, at) for some in densities))
        if fluxes:
            found["flux"] = fluxes[0]
            errors = free(lambda unit: unit == table[fluxes[0]].unit)
            if len(errors) == 1 and not set(_ERRORS) & set(found):
                found["sigma"] = errors[0]
    return found


def _plain_name(name):
    """Return the name of a column without what separates words; specutils and others number arrays with _1."""
    name = re.sub(r"_1$", "", name.strip().lower().lstrip("# "))
    return re.sub(r"[\s_.:]|-(?=[a-z])", "", name)


def _split_unit(name):
    """Return the unit in the name of a column of wavelengths, "" where there is none; None for other columns."""
    words = re.fullmatch(r"([a-z]+)(?:[\s_.:-]*[(\[]?([^\W\d_]+)[)\]]?)?", re.sub(r"_1$", "", name.strip().lower()))
    # all letters belong to the first word
    if words is None or words[1] not in _WAVELENGTH:
        return None
    return UNITS.get(words[2]) if words[2] else ""


def _in_air(column):
    """Tell whether the UCD of a column is that of wavelengths in air."""
    return {"em.wl", "obs.atmos"} <= set(str(column.meta.get("ucd", "")).lower().split(";"))


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
        Of the first table that is understood, or of all where they are of one star, each order by itself.

    Raises
    ------
    InputValueError
        A unit that is none, or text among numbers.
    """
    tables = _spectral(tables, by_unit=True)
    if not file.merge:
        further = further_note([*tables][0], [*tables][1:]) if tables else []
        return [one for place, table in [*tables.items()][:1] for one in _spectra(file, place, table, further)]
    # beside what was added up already, LAMOST has the single exposures
    sums = [place for place in tables if " COADD" in place]
    others = [place for place in tables if place not in sums] if sums else []
    note = f"of its tables {', '.join(sums)} are read, which are sums of exposures, and not {', '.join(others)}"
    return [
        one
        for place, table in tables.items()
        if place not in others
        for one in _spectra(file, place, table, [note] if others and place == sums[0] else [])
    ]


def _spectra(file, place, table, further):
    """Return the spectra of a plain table: one `Contents`, or one an order where orders stand one after the other.

    Where rows hold arrays of different lengths there is one for each row, too.
    """
    names = known_columns(table)
    if unnamed := {"wavelength", "flux"} - set(names):
        names = known_columns(table, by_unit=True)
    if len(table) > 1 and all(table[names[kind]].dtype.kind == "O" for kind in ("wavelength", "flux")):
        rows = [_spectra(file, place, table[row : row + 1], further) for row in range(len(table))]
        for row, found in enumerate(rows):
            for one in found:
                one.arrays.setdefault("identifier", str(row))
        return [one for found in rows for one in found]
    values = {kind: _cells(table[column]) for kind, column in names.items() if kind != "log"}
    if texts := [names[kind] for kind, value in values.items() if value.dtype.kind not in "biuf" and kind != "mask"]:
        raise InputValueError(f"not numbers alone in the columns {', '.join(texts)} of its table; correct them")
    n_pixel = len(values["wavelength"]) if np.ndim(values["wavelength"]) == 1 else None
    if np.ndim(values["flux"]) == 2 and np.shape(values["flux"])[1] != n_pixel == len(values["flux"]):
        # a column a star
        values = {kind: value.T for kind, value in values.items()}
    notes = list(further)
    has_units = all(table[names[kind]].unit for kind in {*names} - {"mask"})
    if unnamed or not has_units or set(table.colnames) > set(names.values()):
        # otherwise there was nothing to choose, or to assume
        read = ", ".join(f"{words} in {names[kind]!r}" for kind, words in WORDS.items() if kind in values)
        notes.insert(0, f"read as a table{f' ({place})' * bool(place)}: {read}")
    if unnamed:
        notes.append(f"{' and '.join(f'{names[what]!r}' for what in sorted(unnamed))} by the unit, not by the name")
    errors = [kind for kind in _ERRORS if kind in values]
    if not errors and (like := [name for name in table.colnames if _ERROR_LIKE.search(_plain_name(name))]):
        notes.append(f"no errors are read; if they are in {', '.join(map(repr, like))}, call them err, var or ivar")
    for kind in errors[1:]:
        del values[kind]
        notes.append(f"errors are those in {names[errors[0]]!r}; {names[kind]!r} is not used")
    _take_mask(values, table, names, notes)
    notes += _convert_errors(values, {kind: table[names[kind]] for kind in values})
    if "log" in names and "(" not in (file.units["wavelength"] or str(table[names["log"]].unit or "")):
        own = file.units["wavelength"] or "Angstrom"
        values["wavelength"] = 10 ** np.asarray(values["wavelength"], dtype=float)
        notes.append(f"{names['log']!r} is taken as log10 of wavelengths in {own}")
    else:
        own = str(table[names["wavelength"]].unit or "") or _split_unit(names["wavelength"]) or ""
    found = with_units(values, {"wavelength": own, "flux": str(table[names["flux"]].unit or "")}, file, notes)
    n_star = len(values["flux"]) if np.ndim(values["flux"]) == 2 else 1
    headers = [table.meta, file.hdus[0].header] if file.hdus else [table.meta]
    if stars := _column_names(table, n_star) or header_names(headers, n_star):
        found.arrays["identifier"] = stars
    found.in_air = _in_air(table[names["wavelength"]])
    return _split_orders(found) if file.merge else [found]


def _take_mask(values, table, names, notes):
    """Take the mask of a table if it can be used, the right way round; say which other columns are not used."""
    others = [name for name in table.colnames if _plain_name(name) in MASKS + GOOD_MASKS and name != names.get("mask")]
    notes += [
        f"column {name!r} is not used; if it is a mask, give it as mask= to spectrafm.adapters.from_arrays, True where "
        "a pixel is bad"
        for name in others
    ]
    take_mask(values, names.get("mask"), notes)
    if "mask" in values and table.meta.get("DMODCLS") == "OneSpec":
        values["mask"] = np.ma.filled(values["mask"], 0) == 0
        notes.append(f"{names['mask']!r} is that of PypeIt, which is 1 where a pixel is good")


def _column_names(table, n_star):
    """Return the names of stars in a column: of as many rows, or of one star all the same."""
    meta = {}
    for name, column in table.columns.items():
        # arrays of different lengths are objects
        if np.ndim(column) != 1 or not len(column) or np.ndim(column[0]):
            continue
        if n_star == 1 and (column == column[0]).all():
            column = column[:1]
        # as DESI has it in its table of fibres
        meta["identifier" if name.lower() == "targetid" else name] = np.ma.asarray(column)
    return star_names(meta, n_star)


def _split_orders(found):
    """Return each order of what stands one after the other in the columns of a table."""
    wavelength = found.arrays["wavelength"]
    starts = order_starts(np.asarray(getattr(wavelength, "unmasked", wavelength))) if np.ndim(wavelength) == 1 else []
    if not len(starts) or np.ndim(found.arrays["flux"]) != 1:
        return [found]
    found.notes.append(f"its wavelengths step back {len(starts)} times: read as {len(starts) + 1} orders")
    return [
        replace(
            found,
            arrays=found.arrays
            | {
                kind: found.arrays[kind][first:last]
                for kind in ("wavelength", "flux", *_ERRORS, "mask")
                if kind in found.arrays
            },
        )
        for first, last in zip([0, *starts], [*starts, len(wavelength)], strict=True)
    ]


def _convert_errors(values, columns):
    """Bring errors to the unit that the file has for the flux, or take them out; return a note of that."""
    notes = []
    for kind, (meaning, power) in _ERRORS.items():
        if kind in values and columns["flux"].unit is not None:
            try:
                factor = sigma_factor(meaning, columns[kind].unit, columns["flux"].unit)
            except InputValueError:
                del values[kind]
                notes.append(f"column {columns[kind].name!r} is left out: its unit does not fit the flux")
            else:
                values[kind] = values[kind] * factor**power
    if "var" in values:
        with np.errstate(invalid="ignore"):
            values["sigma"] = np.sqrt(values.pop("var"))
    return notes


def _cells(column):
    """Return the values of a column: those of its one cell, where there is one."""
    values = np.ma.asarray(column[0] if len(column) == 1 and np.ndim(column[0]) else column)
    return values if values.mask.any() else np.asarray(values)
