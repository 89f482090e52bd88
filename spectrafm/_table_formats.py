"""Tables in the formats that astropy does not write as they should be."""

import textwrap
from io import StringIO

import numpy as np
from astropy import units as u
from astropy.table import Column, MaskedColumn, Table

from ._spectral_units import in_unit
from .flags import Flag, describe_flags

__all__ = ["cds_units", "column_values", "mrt_text", "read_votable", "to_votable", "without_mask"]

# decimals in a machine-readable table, by unit; finer than any error to be expected
_MRT_DECIMALS = {"K": 1, "km / s": 3}
_MRT_OTHER_DECIMALS = 4

_PARAM_TYPES = {bool: "boolean", int: "long", float: "double"}


def column_values(table, name, unit=None):
    """Return a column as plain float64, NaN where masked, in its own unit or in one that is given.

    A column without a unit is taken to be in the one that is given.
    """
    column = table[name]
    if column.dtype.kind in "SU":  # a column of blanks, from a file
        return np.full(len(column), np.nan)
    column = column.astype(np.float64) if column.dtype.kind in "iu" else column
    column = column.filled(np.nan) if hasattr(column, "filled") else column
    values, own = np.asarray(getattr(column, "value", column), dtype=np.float64), getattr(column, "unit", None)
    return values if unit is None or own is None else in_unit(f"table[{name!r}]", values, own, unit)


def without_mask(column):
    """Return a column as a plain one where VOTables make it a masked one without need."""
    if not isinstance(column, MaskedColumn) or column.mask.any():
        return column
    plain = Column(np.ma.getdata(column), description=column.description, unit=column.unit)
    plain.meta.update({key: value for key, value in column.meta.items() if not key.startswith("_votable")})
    return plain


def cds_units(table):
    """Return a plain table whose units CDS can write: ``[-]`` for dex, ``---`` for none."""
    plain = Table(table)
    for name in plain.colnames:
        # of what is no column of numbers, a SkyCoord say, the writer knows more
        unit = getattr(plain[name], "unit", None)
        if unit == u.dex:
            plain[name].unit = u.dex(u.one)
        elif unit == u.one:
            plain[name].unit = None
    return plain


def to_votable(table):
    """Return a VOTable of version 1.3, the last one with the units of CDS, with `meta` as INFO and PARAM."""
    from astropy.io.votable.tree import Info, Param, Resource, TableElement, VOTableFile

    votable = VOTableFile(version="1.3")
    resource = Resource()
    votable.resources.append(resource)
    element = TableElement.from_table(votable, cds_units(table))
    resource.tables.append(element)
    for number, (key, value) in enumerate(table.meta.items()):
        if isinstance(value, str):
            # not as PARAM: astropy escapes those twice
            element.infos.append(Info(name=key, ID=f"meta{number}", value=value))
        else:
            kind = _PARAM_TYPES[type(value)]
            element.params.append(Param(votable, name=key, ID=f"meta{number}", value=value, datatype=kind))
    return votable


def read_votable(path):
    """Return the first table of a VOTable and its INFO and PARAM elements as a dictionary."""
    from astropy.io.votable import parse

    element = parse(path).get_first_table()
    meta = {info.name: info.value for info in element.infos}
    meta |= {param.name: np.ma.getdata(param.value).item() for param in element.params}
    return element.to_table(use_names_over_ids=True), meta


def mrt_text(table):
    """Return the text of a machine-readable table, as `spectrafm.results.to_mrt` describes it."""
    plain = cds_units(table)
    plain.meta.clear()
    for name in list(plain.colnames):
        column = plain[name]
        if getattr(column, "dtype", np.dtype(str)).kind != "f":
            continue
        values = column_values(plain, name)
        if not np.isfinite(values).any():
            # the writer fails on these, or, for text, gives bytes that are not those of the data
            plain.remove_column(name)
            continue
        decimals = 1 if name == "snr" else _MRT_DECIMALS.get(str(column.unit), _MRT_OTHER_DECIMALS)
        rounded = MaskedColumn(np.round(values, decimals), name, mask=np.isnan(values))
        rounded.unit, rounded.description = column.unit, column.description
        plain.replace_column(name, rounded)
    buffer = StringIO()
    plain.write(buffer, format="ascii.mrt")
    return _with_notes(buffer.getvalue(), table)


def _indented(text):
    """Return a note as lines that fit into the table."""
    return textwrap.wrap(text, 80, break_long_words=False, initial_indent="    ", subsequent_indent="        ")


def _with_notes(text, table):
    """Fill the block of notes, which the writer leaves empty."""
    notes = []
    if "flag" in table.colnames:
        notes += ["Note (1): flag is 0, or the sum of"]
        notes += [line for bit in Flag for line in _indented(f"{bit.value} = {describe_flags(bit)[0]}")]
    notes += ["Note (2): how the labels were made"] * bool(table.meta)
    notes += [line for key, value in table.meta.items() for line in _indented(f"{key} = {value}")]
    line = "-" * 80
    head, _, data = text.rpartition(f"Notes:\n{line}\n")
    return f"{head}Notes:\n{line}\n" + "".join(f"{note}\n" for note in notes) + f"{line}\n" * bool(notes) + data
