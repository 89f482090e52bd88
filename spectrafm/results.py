"""From numbers to a table of labels with units, errors and flags, and to files."""

import warnings
from io import StringIO
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Column, MaskedColumn, QTable, Row, Table
from astropy.utils.masked import Masked

from ._table_formats import column_values, mrt_text, read_votable, to_votable, without_mask
from ._warning_filters import catch_warnings, taking_turns
from .exceptions import InputTypeError, InputValueError, SpectraFMError
from .flags import describe_flags
from .quantities import OTHER_COLUMNS, QUANTITIES, column_unit, get_quantity

__all__ = [
    "EXTENSIONS",
    "check_filename",
    "check_row",
    "check_texts",
    "describe_row",
    "label_names",
    "label_table",
    "label_values",
    "read_labels",
    "round_to_error",
    "to_mrt",
    "unproven_lines",
    "write_labels",
]

#: Formats that `write_labels` knows, by extension of the file.
EXTENSIONS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".vot": "votable", ".csv": "ascii.csv", ".mrt": "ascii.mrt"}


@taking_turns()
def label_table(labels, values, errors, *, flag, n_pixels_used, snr, identifier=None, radial_velocity=None, meta=None):
    """Put labels into a table with units, errors and flags.

    Parameters
    ----------
    labels : sequence of str
        Names out of `spectrafm.quantities.QUANTITIES`.
    values, errors : array_like
        ``(n_star, n_label)`` in the units of the registry. Values that are not finite
        are masked; a masked value has a masked error.
    flag : array_like of int
        ``(n_star,)`` `~spectrafm.flags.Flag` bits.
    n_pixels_used : array_like of int
        ``(n_star,)``.
    snr : array_like
        ``(n_star,)``; masked where not finite.
    identifier : sequence of str, optional
        ``(n_star,)`` names.
    radial_velocity : tuple of array_like, optional
        Velocities ``(n_star,)`` [km/s] that were measured, and their errors; masked where not finite.
    meta : dict, optional
        Provenance: strings and numbers by name.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``identifier`` (if given), ``<label>`` and ``e_<label>`` for each
        label, ``radial_velocity`` and ``e_radial_velocity`` (if given), ``flag``,
        ``n_pixels_used``, ``snr``, with units, descriptions and
        UCDs (``table[name].info.meta["ucd"]``). Columns in which a row is masked are
        `~astropy.utils.masked.Masked`, all others plain.

    Raises
    ------
    InputValueError
        An unknown or repeated label, shapes that do not fit, a negative error.
    InputTypeError
        Something in ``meta`` that is neither a string nor a number.
    """
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    quantities = [get_quantity(name) for name in labels]
    if len(set(labels)) != len(labels):
        raise InputValueError(f"labels: {', '.join(labels)}; expected each name once")
    flag = np.asarray(flag)
    n_star = len(flag) if flag.ndim else 1
    values = _checked("values", values, (n_star, len(labels)), np.float64)
    errors = _checked("errors", errors, (n_star, len(labels)), np.float64)
    if (errors < 0).any():
        raise InputValueError("errors: some are negative; expected standard deviations, or NaN where there is none")
    missing = ~np.isfinite(values)
    no_error = missing | ~np.isfinite(errors)

    table = QTable(meta=_flat(meta or {}))
    if identifier is not None:
        names = [str(name) for name in identifier]
        if len(names) != n_star:
            raise InputValueError(f"identifier: {len(names)} names for {n_star} stars")
        table["identifier"] = Column(np.array(names, dtype=str))
    for i, quantity in enumerate(quantities):
        name = quantity.name
        table[name] = _masked_quantity(values[:, i], quantity.unit, missing[:, i])
        table[f"e_{name}"] = _masked_quantity(errors[:, i], quantity.error_unit, no_error[:, i])
    if radial_velocity is not None:
        for name, given in zip(("radial_velocity", "e_radial_velocity"), radial_velocity, strict=True):
            given = _checked(name, given, (n_star,), np.float64)
            table[name] = _masked_quantity(given, "km / s", ~np.isfinite(given))
    table["flag"] = Column(_checked("flag", flag, (n_star,), np.int64))
    table["n_pixels_used"] = Column(_checked("n_pixels_used", n_pixels_used, (n_star,), np.int64))
    snr = _checked("snr", snr, (n_star,), np.float64)
    table["snr"] = _masked_column(np.where(np.isfinite(snr), snr, np.nan))
    _document(table)
    return table


def _checked(name, array, shape, dtype):
    given = np.asarray(array)
    if given.shape != shape:
        raise InputValueError(f"{name}: shape {given.shape}, expected {shape} (n_star first)")
    if dtype is np.int64 and given.dtype.kind not in "iu":
        raise InputValueError(f"{name}: {given.dtype} numbers, expected integers")
    return given.astype(dtype)


def _flat(meta):
    flat = {}
    for key, value in meta.items():
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(key, str) or type(value) not in (str, int, float, bool):
            raise InputTypeError(f"meta[{key!r}]: {type(value).__name__}, expected a string or a number by name")
        flat[key] = value
    return flat


def _masked_quantity(values, unit, mask):
    """Return values in a unit, NaN under the mask so that no forgotten mask shows a number; plain without any."""
    quantity = u.Quantity(np.where(mask, np.nan, values), u.Unit(unit), subok=True)
    return Masked(quantity, mask) if mask.any() else quantity


def _masked_column(values):
    """Return a column that is masked where there is NaN, and a plain one where there is none."""
    return without_mask(MaskedColumn(values, mask=np.isnan(values)))


def _document(table):
    """Set description and UCD of each column that is known by name."""
    for name in table.colnames:
        if name in OTHER_COLUMNS:
            ucd, description = OTHER_COLUMNS[name]
        elif name.removeprefix("e_") in QUANTITIES:
            quantity = QUANTITIES[name.removeprefix("e_")]
            ucd, description = quantity.ucd, quantity.description
            if name != quantity.name:
                ucd = f"stat.error;{ucd}"
                description = f"Error of {name.removeprefix('e_')} (one standard deviation)"
        else:
            continue
        info = table[name].info
        info.description, info.meta = description, {**(info.meta or {}), "ucd": ucd}


def round_to_error(value, error):
    """Write a value with the decimals that its error allows.

    Parameters
    ----------
    value : float
        The value.
    error : float
        Its error; NaN if there is none.

    Returns
    -------
    value, error : str
        The error with two significant digits, the value with as many decimals;
        ``"--"`` for numbers that are not finite.

    Examples
    --------
    >>> from spectrafm.results import round_to_error
    >>> round_to_error(4932.79, 26.4), round_to_error(-0.12606, 0.0432)
    (('4933', '26'), ('-0.126', '0.043'))
    """
    if not np.isfinite(value):
        return "--", "--"
    if not np.isfinite(error) or error <= 0:
        return f"{value:.4g}", "--"
    decimals = max(1 - int(np.floor(np.log10(float(f"{error:.1e}")))), 0)
    return f"{value:.{decimals}f}", f"{error:.{decimals}f}"


def label_names(table):
    """Return the labels that a table has with their errors.

    Parameters
    ----------
    table : `~astropy.table.Table`
        As `label_table` returns it.

    Returns
    -------
    list of str
        In the order of its columns.
    """
    return [name for name in table.colnames if name in QUANTITIES and f"e_{name}" in table.colnames]


def label_values(table, name):
    """Return a label and its errors as plain numbers.

    Parameters
    ----------
    table : `~astropy.table.Table`
        As `label_table` returns it; its columns may have other units, or none.
    name : str
        The label; the table has ``e_<label>``, too.

    Returns
    -------
    values, errors : numpy.ndarray
        ``(n_star,)`` float64 in the units of `spectrafm.quantities.QUANTITIES` (K, dex, km/s),
        NaN where masked.

    Raises
    ------
    InputValueError
        The table does not have that label or its error, or a column is in a unit that does not fit.
    """
    if missing := [column for column in (name, f"e_{name}") if column not in table.colnames]:
        labels = ", ".join(label_names(table)) or "none"
        raise InputValueError(f"name: {name!r}, but the table has no {' and no '.join(missing)}; its labels: {labels}")
    return tuple(column_values(table, column, column_unit(column)) for column in (name, f"e_{name}"))


def describe_row(table, row=0):
    """Describe a row of a table of labels in words.

    Parameters
    ----------
    table : `~astropy.table.Table` or `~astropy.table.Row`
        As `label_table` returns it, or a row of that.
    row : int, optional
        Number of the row.

    Returns
    -------
    list of str
        A line for each label, with its error and its unit in the registry, then the velocity that was
        measured, if one was, the flags in words, and the labels, if any, whose errors were
        calibrated on synthetic stars only.

    Raises
    ------
    InputValueError
        There is no such row, or a label is in a unit that does not fit.
    """
    if isinstance(table, Row):
        table = table.table[table.index : table.index + 1]
    check_row(table, row)
    lines = []
    for name in label_names(table):
        value, error = round_to_error(*(column[row] for column in label_values(table, name)))
        quantity = QUANTITIES[name]
        lines.append(f"{name:<8} {value:>8} +- {error:<6} {quantity.unit:<12} {quantity.description}".rstrip())
    if "radial_velocity" in table.colnames:
        names = ("radial_velocity", "e_radial_velocity")
        velocity, error = round_to_error(*(column_values(table, name, "km / s")[row] for name in names))
        no_lines = velocity == "--"
        lines.append("no radial velocity was measured" if no_lines else f"radial velocity {velocity} +- {error} km / s")
    if "flag" in table.colnames:
        flag = int(table["flag"][row])
        lines += [f"flag {flag}: {'nothing was found wrong' if not flag else '; '.join(describe_flags(flag))}"]
    return lines + unproven_lines(table)


def check_row(table, row):
    """Refuse the number of a row that a table does not have.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.
    row : int
        Number of a row; from the end where it is negative.

    Raises
    ------
    InputValueError
        There is no such row.
    """
    if not -len(table) <= row < len(table):
        raise InputValueError(f"row: {row}; the table has {len(table)} rows")


def unproven_lines(table):
    """Name the labels whose errors were calibrated on synthetic stars only.

    Parameters
    ----------
    table : `~astropy.table.Table`
        As `spectrafm.SpectraFM.infer` returns it.

    Returns
    -------
    list of str
        One line, or none if there are no such labels.
    """
    text = "errors calibrated on synthetic stars alone, real ones may be further off"
    return [f"{text}: {table.meta['unproven']}"] if "unproven" in table.meta else []


@taking_turns()
def write_labels(table, filename, overwrite=False):
    """Write a table of labels; the extension decides the format.

    Parameters
    ----------
    table : `~astropy.table.Table`
        As `label_table` returns it.
    filename : str or pathlib.Path
        Ends in one of `EXTENSIONS`.
    overwrite : bool, optional
        Replace a file that is there.

    Raises
    ------
    InputValueError
        Another extension, a file that is there already, text or a column that the format
        cannot hold, or, in CSV, a label in a unit that does not fit.

    See Also
    --------
    read_labels : Reads what this wrote.

    Notes
    -----
    ECSV keeps everything. FITS keeps it for astropy; other readers get no
    units of ``dex`` and no UCDs, which FITS cannot hold. VOTables are written
    in version 1.3 with the units that VizieR uses (``[cm.s-2]``, ``[-]``), since
    later versions have no ``dex``, and with ``meta`` as INFO and PARAM. CSV
    keeps only names and numbers, labels in the units of the registry; for
    machine-readable tables see `to_mrt`.
    """
    path = Path(filename)
    extension = check_filename(path, overwrite)
    try:
        if extension in (".mrt", ".vot"):
            table = table.copy(copy_data=False)
            table.meta = _flat(table.meta)
        if extension == ".mrt":
            to_mrt(table, path, overwrite)
        elif extension == ".vot":
            objects = [name for name in table.colnames if not hasattr(table[name], "dtype")]
            if objects:
                kinds = ", ".join(f"{name} ({type(table[name]).__name__})" for name in objects)
                raise InputValueError(
                    f"table: {kinds} cannot be columns of a VOTable; give their parts as columns, such as ra and "
                    "dec, or write .ecsv"
                )
            to_votable(table).to_xml(str(path))
        elif extension == ".fits":
            with catch_warnings():
                # units of dex, and keys of more than eight letters: read_labels brings them back
                warnings.filterwarnings("ignore", message="The unit .* could not be saved in native FITS format")
                warnings.filterwarnings("ignore", message="Keyword name .* is greater than 8 characters")
                table.write(path, format="fits", overwrite=overwrite)
        else:
            plain = _in_registry_units(table) if extension == ".csv" else table
            # astropy writes files in the encoding of the locale
            text = StringIO()
            plain.write(text, format=EXTENSIONS[extension])
            path.write_text(text.getvalue(), encoding="utf-8", newline="")
    except SpectraFMError:
        raise
    except (TypeError, ValueError) as error:
        # text in meta or in columns of the user, which FITS does not hold, or columns of objects
        remedy = (
            "leave out what is neither text nor number" if extension == ".ecsv" else "write .ecsv, which holds any text"
        )
        raise InputValueError(f"filename: cannot write {path.name} ({error}); {remedy}") from error


def _in_registry_units(table):
    """Return a plain table with labels in the units of the registry, for formats without units."""
    plain = Table(table)
    for name in plain.colnames:
        unit = column_unit(name)
        if unit is not None and getattr(plain[name], "unit", None) not in (None, u.Unit(unit)):
            values = column_values(plain, name, unit)
            plain[name] = MaskedColumn(values, mask=np.isnan(values))
    return plain


def check_texts(filename, texts):
    """Refuse texts that a format cannot hold.

    Parameters
    ----------
    filename : str or pathlib.Path
        The file to be written.
    texts : sequence of str
        For example, names of stars.

    Raises
    ------
    InputValueError
        Texts that are not ASCII, for FITS.
    """
    path = Path(filename)
    strange = [text for text in texts if not text.isascii()]
    if strange and path.suffix.lower() == ".fits":
        raise InputValueError(
            f"filename: {path.name} cannot hold {strange[0]!r}, as FITS is ASCII; write .ecsv, which holds any text"
        )


def check_filename(filename, overwrite=False):
    """Return the extension of a file to be written, or raise `InputValueError`.

    Parameters
    ----------
    filename : str or pathlib.Path
        The file to be written.
    overwrite : bool, optional
        Whether it may exist already.

    Returns
    -------
    str
        One of `EXTENSIONS`.
    """
    path = Path(filename)
    if path.suffix.lower() not in EXTENSIONS:
        raise InputValueError(f"filename: {path.name!r}, expected a name that ends in {', '.join(EXTENSIONS)}")
    if path.exists() and not overwrite:
        raise InputValueError(f"filename: {path} exists; choose another name, or overwrite it on purpose")
    if not path.parent.is_dir():
        raise InputValueError(f"filename: there is no folder {path.parent}; make it first")
    return path.suffix.lower()


@taking_turns()
def read_labels(filename):
    """Read a table of labels that `write_labels` wrote.

    Parameters
    ----------
    filename : str or pathlib.Path
        ECSV, FITS, VOTable, CSV or machine-readable table.

    Returns
    -------
    `~astropy.table.QTable`
        With the columns, masks, descriptions and UCDs that it had, labels in the units
        of the registry, and other columns in their own. Its ``meta`` too, from ECSV, FITS
        (names in lower case) and VOTable.

    Raises
    ------
    InputValueError
        There is no such file, it has another extension, or a label is in a unit that
        does not fit.
    """
    path = Path(filename)
    if path.suffix.lower() not in EXTENSIONS:
        raise InputValueError(f"filename: {path.name!r}, expected a name that ends in {', '.join(EXTENSIONS)}")
    if not path.is_file():
        raise InputValueError(f"filename: there is no file {path}")
    extension, meta = path.suffix.lower(), None
    file_format = EXTENSIONS[extension]
    if file_format == "votable":
        raw, meta = read_votable(path)
    elif file_format == "fits":
        raw = Table.read(path, format="fits", character_as_bytes=False)
        meta = {key.lower(): value for key, value in raw.meta.items()}
    else:
        # names that look like numbers are names
        names = {"converters": {"identifier": str, "file": str}} if extension == ".csv" else {}
        raw = Table.read(path, format=file_format, encoding="utf-8", **names)
    table = QTable(meta=raw.meta if meta is None else meta)
    for name in raw.colnames:
        if (unit := column_unit(name)) is not None:
            values = column_values(raw, name, unit)
            table[name] = _masked_quantity(values, unit, np.isnan(values))
        elif name == "snr":
            values = column_values(raw, name)
            table[name] = _masked_column(values)
        else:
            table[name] = without_mask(QTable([raw[name]], names=[name])[name])
            if name in ("flag", "n_pixels_used", "identifier"):
                filled = np.asarray(np.ma.filled(raw[name], "" if name == "identifier" else 0))
                table[name] = Column(filled.astype(str if name == "identifier" else np.int64))
    _document(table)
    return table


def to_mrt(table, filename=None, overwrite=False):
    """Write a machine-readable table, as the AAS journals and CDS take it.

    Parameters
    ----------
    table : `~astropy.table.Table`
        As `label_table` returns it, with at least one row.
    filename : str or pathlib.Path, optional
        Written if given.
    overwrite : bool, optional
        Replace a file that is there.

    Returns
    -------
    str
        The text of the table.

    Raises
    ------
    InputValueError
        An empty table, a column of anything but real numbers or text, or a file that is there already.

    Notes
    -----
    Units of ``dex`` become ``[-]`` and that of ``logg`` ``[cm.s-2]``, the
    spelling of CDS. Values are rounded to 0.1 K, 0.001 km/s, and otherwise four
    decimals. A column without any value is left out. Fill in title and authors
    yourself; flags and ``meta`` are explained in the notes.
    """
    if filename is not None and Path(filename).exists() and not overwrite:
        raise InputValueError(f"filename: {filename} exists; choose another name, or overwrite it on purpose")
    if len(table) == 0:
        raise InputValueError("table: no rows; a machine-readable table needs at least one")
    kinds = {name: getattr(table[name], "dtype", np.dtype(float)) for name in table.colnames}
    if strange := [f"{name} ({dtype})" for name, dtype in kinds.items() if dtype.kind not in "fiuSU"]:
        raise InputValueError(
            f"table: {', '.join(strange)} cannot be columns of a machine-readable table, which holds real numbers and "
            "text; turn them into these, for example with table[name].astype(int), or leave them out"
        )
    text = mrt_text(table)
    if filename is not None:
        Path(filename).write_text(text, encoding="utf-8")
    return text
