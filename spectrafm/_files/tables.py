"""Spectra in tables: ASCII, FITS or VOTable, read by the names of their columns."""

import warnings
from dataclasses import replace

import numpy as np

from .._pixel_quality import order_starts
from .._star_names import star_names
from .._warning_filters import catch_warnings
from ..exceptions import InputValueError
from .compressed import begins_with
from .contents import first_line, further_note, header_names, in_air
from .errors_and_masks import ERRORS, take_errors, take_mask
from .names import WORDS
from .table_columns import (
    error_like,
    is_bare,
    is_other_axis,
    known_columns,
    masks_not_used,
    medium_in_name,
    unit_in_name,
    velocities,
    with_units_of_names,
)
from .text_tables import text_tables
from .units import from_log10, with_units

__all__ = ["is_votable", "read_tables", "table_spectra"]

# columns without names whose median is a larger share of that of the flux are no errors of it
_MOST_SIGMA = 0.95
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
    return path.name.lower().endswith(_VOTABLE_NAMES) or begins_with(path, _VOTABLE)


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
        found = text_tables(file)
    found = {place: with_units_of_names(_numbers_and_text(table)) for place, table in found.items()}
    return _spectral(found, by_unit=False) or _spectral(found, by_unit=True) or found


def _spectral(tables, by_unit):
    """Return the tables that have wavelengths and fluxes."""
    return {
        place: table for place, table in tables.items() if {"wavelength", "flux"} <= set(known_columns(table, by_unit))
    }


def _numbers_and_text(table):
    """Return a table without what are no numbers, or text: coordinates and times are of no use here."""
    others = [name for name in table.colnames if not hasattr(table[name], "dtype")]
    if others:
        table = table.copy(copy_data=False)
        table.remove_columns(others)
    return table


def _of_fits(file):
    from astropy.io import fits
    from astropy.table import Table

    found = {}
    for number, hdu in enumerate(file.hdus):
        if not isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
            continue
        try:
            table = Table.read(hdu)
        # what is cut off fails in many ways
        except Exception as error:
            file.causes[f"HDU {number}"] = first_line(error)
            continue
        # a column of the table may be several of the file, as coordinates are
        for column, name in enumerate(hdu.columns.names):
            if name in table.colnames and hasattr(table[name], "meta"):
                table[name].meta["ucd"] = str(hdu.header.get(f"TUCD{column + 1}", ""))
        found[f"HDU {number}" + f" {hdu.name}" * bool(hdu.name)] = table
    return found


def _of_votable(file):
    from astropy.io import votable

    try:
        with catch_warnings():
            # most VOTables break the standard somewhere
            warnings.simplefilter("ignore", votable.exceptions.VOWarning)
            parsed = votable.parse(str(file.path)).iter_tables()
            tables = [table.to_table(use_names_over_ids=True) for table in parsed]
    # what is none, or cut off, fails in many ways
    except Exception as error:
        file.causes["its VOTable"] = first_line(error)
        return {}
    return {f"table {number}" if len(tables) > 1 else "": table for number, table in enumerate(tables)}


def _has_ucd_of_air(column):
    """Tell whether the UCD of a column is that of wavelengths in air."""
    return {"em.wl", "obs.atmos"} <= set(str(getattr(column, "meta", {}).get("ucd", "")).lower().split(";"))


def table_spectra(file, tables, options):
    """Read the spectra of plain tables.

    Parameters
    ----------
    file : SpectrumFile
        The file.
    tables : dict of `~astropy.table.Table`
        As of `read_tables`.
    options : dict
        Options of `~spectrafm.adapters.to_arrays` that the user gave, or None.

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
        return [one for place, table in [*tables.items()][:1] for one in _spectra(file, place, table, further, options)]
    # beside what was added up already, LAMOST has the single exposures
    sums = [place for place in tables if " COADD" in place]
    others = [place for place in tables if place not in sums] if sums else []
    note = f"of its tables {', '.join(sums)} are read, which are sums of exposures, and not {', '.join(others)}"
    return [
        one
        for place, table in tables.items()
        if place not in others
        for one in _spectra(file, place, table, [note] if others and place == sums[0] else [], options)
    ]


def _spectra(file, place, table, further, options):
    """Return the spectra of a plain table: one `Contents`, or one an order where orders stand one after the other.

    Where rows hold arrays of different lengths there is one for each row, too.
    """
    names = known_columns(table, medium=options["medium"])
    if unnamed := {"wavelength", "flux"} - set(names):
        names = known_columns(table, by_unit=True, medium=options["medium"])
    if len(table) > 1 and any(_has_lengths(table[name]) for name in names.values()):
        return _row_by_row(file, place, table, names, further, options)
    values = _values(table, names)
    said = []
    errors = _take_errors(values, table, names, said)
    _take_mask(values, table, names, said)
    notes = [*_column_notes(table, names, {*values} - {*ERRORS} | errors, unnamed, place), *further]
    if unnamed:
        notes.append(f"{' and '.join(f'{names[what]!r}' for what in sorted(unnamed))} by the unit, not by the name")
    notes += said
    own = {"wavelength": _wavelength_unit(values, table, names, file, notes), "flux": _unit(table[names["flux"]])}
    found = with_units(values, own, file, notes)
    n_star = len(values["flux"]) if np.ndim(values["flux"]) == 2 else 1
    if stars := _column_names(table, n_star) or _meta_names(file, table.meta, n_star):
        found.arrays["identifier"] = stars
    told = medium_in_name(names["wavelength"])
    is_air = _has_ucd_of_air(table[names["wavelength"]]) or in_air((table.meta, *file.headers))
    found.defaults = {"medium": "air"} if told == "air" or (told is None and is_air) else {}
    found.notes += _medium_notes(table, names["wavelength"], options["medium"])
    if options["radial_velocity"] is None:
        found.notes += _velocity_notes(file, table)
    return _split_orders(found) if file.merge else [found]


def _row_by_row(file, place, table, names, further, options):
    """Return the spectra of a table whose rows hold arrays of different lengths."""
    if single := [names[kind] for kind in ("wavelength", "flux") if not _is_array_a_row(table[names[kind]])]:
        raise InputValueError(
            f"rows of its table hold arrays, but those of {single[0]!r} hold one number each; give what belongs "
            "together, row by row, to spectrafm.adapters.from_arrays"
        )
    rows = [_spectra(file, place, table[row : row + 1], further, options) for row in range(len(table))]
    for row, found in enumerate(rows):
        for one in found:
            one.arrays.setdefault("identifier", str(row))
    return [one for found in rows for one in found]


def _values(table, names):
    """Return the numbers in the columns that are understood, a star a row, by their kind."""
    values = {kind: _cells(table[column]) for kind, column in names.items() if kind != "log"}
    for kind, value in values.items():
        if value.dtype.kind not in "biuf" and kind != "mask":
            text = _first_text(value)
            raise InputValueError(
                f"column {names[kind]!r} of its table should be of numbers, and has {text!r}; correct the file"
                + ": decimals come after a point, not after a comma" * ("," in text)
            )
    shapes = {kind: np.shape(values[kind]) for kind in ("wavelength", "flux")}
    if all(len(shape) == 1 for shape in shapes.values()) and len({*shapes.values()}) > 1:
        told = " and ".join(f"{names[kind]!r} {n_pixel}" for kind, (n_pixel,) in shapes.items())
        raise InputValueError(
            f"a row of its table has different numbers of pixels, of {told}; cut what is padding, and give the arrays "
            "of each row to spectrafm.adapters.from_arrays"
        )
    n_pixel = shapes["wavelength"][0] if len(shapes["wavelength"]) == 1 else None
    if len(shapes["flux"]) == 2 and shapes["flux"][1] != n_pixel == shapes["flux"][0]:
        # a column a star
        values = {kind: value.T for kind, value in values.items()}
    return values


def _column_notes(table, names, used, unnamed, place):
    """Say which columns are read, unless there was nothing to choose, or to assume."""
    has_units = all(table[names[kind]].unit for kind in {*names} - {"mask"})
    if has_units and not unnamed and not set(table.colnames) > set(names.values()):
        return []
    read = ", ".join(f"{words} in {names[kind]!r}" for kind, words in WORDS.items() if kind in used)
    return [f"read as a table{f' ({place})' * bool(place)}: {read}"]


def _wavelength_unit(values, table, names, file, notes):
    """Return the unit of wavelengths in a table, or ""; turn log10 of them into wavelengths."""
    if "log" in names and "(" not in (file.units["wavelength"] or _unit(table[names["log"]])):
        unit = file.units["wavelength"] or _length(table[names["log"]].unit) or "Angstrom"
        values["wavelength"] = from_log10(values["wavelength"], unit, repr(names["log"]))
        notes.append(f"{names['log']!r} is taken as log10 of wavelengths in {unit}")
        return unit
    return _unit(table[names["wavelength"]]) or unit_in_name(names["wavelength"]) or ""


def _unit(column):
    return str(column.unit or "")


def _length(unit):
    """Return a unit as text if it is one of a length, else ""."""
    from astropy import units as u

    return str(unit) if unit is not None and unit.is_equivalent(u.AA) else ""


def _take_errors(values, table, names, notes):
    """Take the first errors of a table that can be used; return their kind in a set."""
    if "sigma" in values and is_bare(table.colnames) and not _may_be_sigma(values["sigma"], values["flux"]):
        del values["sigma"]
        notes.append(
            f"no errors are read: {names['sigma']!r} has no name, and is as large as the flux, or not positive; give "
            "the columns names in a first line, err, var or ivar where they are errors, for example wavelength flux err"
        )
        return set()
    found = [(kind, names[kind], values.pop(kind), table[names[kind]].unit) for kind in ERRORS if kind in values]
    taken, used = take_errors(values["flux"], table[names["flux"]].unit, found, notes)
    values |= taken
    if not taken and (like := error_like(table, names)):
        notes.append(f"no errors are read; if they are in {', '.join(map(repr, like))}, call them err, var or ivar")
    return {kind for kind in ERRORS if taken and names.get(kind) == used}


def _may_be_sigma(sigma, flux):
    """Tell whether numbers may be errors of a flux, rather than its ratio to them, a continuum or inverse variances."""
    sigma, flux = (np.ma.filled(np.ma.asarray(a, dtype=float), np.nan) for a in (sigma, flux))
    some = np.isfinite(sigma) & np.isfinite(flux)
    return not some.any() or 0 < np.median(sigma[some]) < _MOST_SIGMA * np.median(np.abs(flux[some]))


def _medium_notes(table, name, given):
    """Say where a column of wavelengths is taken in another medium than its name says, or is one of several."""
    medium = medium_in_name(name)
    others = [other for other in table.colnames if other != name and is_other_axis(other, medium)]
    notes = [f"wavelengths are those in {name!r}, and not in {', '.join(map(repr, others))}"] * bool(others)
    if isinstance(given, str) and medium not in (None, given):
        notes.append(f"wavelengths are in {given}, as given, and not in {medium} as the name of {name!r} says")
    return notes


def _velocity_notes(file, table):
    """Say where there is a radial velocity, which is not applied."""
    from numbers import Real

    found = [f"column {name!r}" for name in velocities(table.colnames) if table[name].dtype.kind in "iuf"]
    for header in (table.meta, file.hdus[0].header) if file.hdus else (table.meta,):
        told = {key: header[key] for key in velocities(key for key in header if isinstance(key, str))}
        # where it is 0 there is nothing to apply
        found += [f"{key!r} of its header" for key, value in told.items() if isinstance(value, Real) and value]
    return [
        f"a radial velocity is in {', '.join(dict.fromkeys(found))}, and not applied: wavelengths are taken as at "
        "rest; where they are as observed, give it as radial_velocity="
    ] * bool(found)


def _take_mask(values, table, names, notes):
    """Take the mask of a table if it can be used, the right way round; say which other columns are not used."""
    notes += [
        f"column {name!r} is not used; if it is a mask, give it as mask= to spectrafm.adapters.from_arrays, True where "
        "a pixel is bad"
        for name in masks_not_used(table, names.values())
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


def _meta_names(file, meta, n_star):
    """Return the names of stars in what is said of a table as a whole."""
    if file.hdus:
        return header_names((meta, file.hdus[0].header), n_star)
    if is_votable(file.path):
        # of the table, not of a star
        meta = {key: value for key, value in meta.items() if key not in ("ID", "name")}
    return header_names((meta,), n_star) or star_names(meta, n_star)


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
                for kind in ("wavelength", "flux", *ERRORS, "mask")
                if kind in found.arrays
            },
        )
        for first, last in zip([0, *starts], [*starts, len(wavelength)], strict=True)
    ]


def _has_lengths(column):
    """Tell a column of arrays that may differ in length."""
    return column.dtype.kind == "O" and isinstance(column[0], np.ndarray)


def _first_text(values):
    """Return the first of the values of a column that is no number."""
    for value in np.ravel(values):
        try:
            float(value)
        except (TypeError, ValueError):
            return str(value)
    return str(np.ravel(values)[0])


def _is_array_a_row(column):
    return np.ndim(column) > 1 or _has_lengths(column)


def _cells(column):
    """Return the values of a column: those of its one cell, where there is one."""
    values = np.ma.asarray(column[0] if len(column) == 1 and np.ndim(column[0]) else column)
    return values if values.mask.any() else np.asarray(values)
