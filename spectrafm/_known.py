"""Quantities that the user knows already, and true labels, checked and brought to our units."""

import reprlib

import numpy as np
from astropy import units as u
from astropy.table import Row, Table

from ._numerics import split_mask
from ._star_names import count_rows, name_texts
from ._tokens import FLUX_KINDS
from .exceptions import InputTypeError, InputValueError
from .quantities import OTHER_COLUMNS, QUANTITIES, Quantity, get_quantity, register_quantity

# nothing has a larger logarithm or magnitude, but what stands for "not known" often has
_LARGEST = {"dex": 90.0, "mag": 90.0}

# what tables of results hold beside labels, that of the command line its files, too
_NOT_LABELS = (*OTHER_COLUMNS, "file")

__all__ = [
    "in_unit",
    "known_labels",
    "known_quantities",
    "label_columns",
    "label_truth",
    "refuse_inputs",
    "refuse_other_order",
    "split_mask",
    "table_columns",
]


def table_columns(table, argument):
    """Return the columns of a table by name.

    Parameters
    ----------
    table : `~astropy.table.Table`, `~astropy.table.Row`, dict or data frame of pandas
        The table. A row of one has no units of its own: they are those of the table.
    argument : str
        Name of the user's argument, for the error message.

    Returns
    -------
    dict
        A new one.

    Raises
    ------
    InputTypeError
        It is none of them.
    """
    if _is_data_frame(table):
        table = Table.from_pandas(table)
    if not hasattr(table, "colnames") and not isinstance(table, dict):
        raise InputTypeError(
            f"{argument}: {type(table).__name__}, expected a dictionary or an astropy Table with columns such as "
            "teff and e_teff, or a data frame of pandas"
        )
    if isinstance(table, Row):
        table = table.table[table.index : table.index + 1]
    return {name: table[name] for name in getattr(table, "colnames", table)}


def _is_data_frame(table):
    """Tell whether this is a data frame of pandas, which need not be installed."""
    return type(table).__module__.partition(".")[0] == "pandas" and hasattr(table, "columns")


def label_columns(table, argument):
    """Return the columns of a table by name, less those that tables of results have beside labels.

    Parameters
    ----------
    table, argument
        As for `table_columns`. All of a dictionary is returned.

    Returns
    -------
    dict
        A new one.

    Raises
    ------
    InputTypeError
        As from `table_columns`.
    """
    columns = table_columns(table, argument)
    if isinstance(table, dict):
        return columns
    return {name: column for name, column in columns.items() if name not in _NOT_LABELS}


def refuse_other_order(table, names, argument):
    """Refuse a table whose rows are the same stars in another order, by the names of the stars.

    Parameters
    ----------
    table : `~astropy.table.Table`, `~astropy.table.Row`, dict, data frame of pandas or None
        As for `table_columns`; a column ``identifier`` in it is looked at.
    names : sequence of str
        ``(n_star,)`` names of the stars.
    argument : str
        Name of the user's argument, for the error message.

    Raises
    ------
    InputTypeError
        As from `table_columns`.
    InputValueError
        The column has the names of the stars, each once, and in another order. Other names,
        and numbers of rows in place of names, say nothing of the order.
    """
    columns = {} if table is None else table_columns(table, argument)
    if np.shape(columns.get("identifier", "")) != (len(names),):
        return
    try:
        theirs = [name and name.strip() for name in name_texts(columns["identifier"])]
    except InputValueError:
        return
    names = [name.strip() for name in names]
    if theirs == names or len(set(names)) < len(names) or set(theirs) != set(names) or count_rows(names):
        return
    row = next(row for row, name in enumerate(names) if name != theirs[row])
    raise InputValueError(
        f"{argument}['identifier']: the names of the stars in another order, {theirs[row]!r} in row {row} where "
        f"the star is {names[row]!r}; expected one row a star, in their order; with "
        f"row = {{str(name): i for i, name in enumerate({argument}['identifier'])}} give "
        f"{argument}[[row[star.identifier] for star in spectrafm.adapters.to_arrays(spectra)]]; where its rows are in "
        "that order already, leave this column out"
    )


def known_labels(columns, labels, n_star, argument, positive=()):
    """Return labels of stars that a table holds, one row a star, and their errors.

    Parameters
    ----------
    columns : dict
        From `table_columns`; those of other names do not matter.
    labels : sequence of str
        Columns to take, with their errors ``e_<label>`` where there are any.
    n_star : int
        Number of stars.
    argument : str
        Name of the user's argument, for the error messages.
    positive : sequence of str, optional
        Labels whose logarithm is modelled.

    Returns
    -------
    dict of str to (numpy.ndarray, numpy.ndarray)
        As from `known_quantities`.

    Raises
    ------
    InputValueError
        A column that does not have one row a star, or has a unit that does not fit; a number
        that the label cannot have.
    """
    wanted = {name: columns[name] for label in labels for name in (label, f"e_{label}") if name in columns}
    for name, column in wanted.items():
        if np.shape(column) != (n_star,):
            raise InputValueError(
                f"{argument}[{name!r}]: shape {np.shape(column)}, expected ({n_star},): one row a star, in their order"
            )
    return known_quantities(wanted, n_star, labels, argument, positive)


def label_truth(labels_table, n_star, labels=None, positive=()):
    """Return the labels of stars that a table holds, and their errors.

    Parameters
    ----------
    labels_table : `~astropy.table.Table` or dict
        A row a star: ``<label>`` and, where known, ``e_<label>``; with units or in those of
        `spectrafm.quantities.QUANTITIES`; NaN or masked where not known. Other columns are
        left alone.
    n_star : int
        Number of stars.
    labels : sequence of str, optional
        Columns to take; all stellar labels by their names when left out. A column that is
        named here and that nobody knows becomes a quantity of its own, with the unit that it has.
    positive : sequence of str, optional
        Labels whose logarithm is modelled.

    Returns
    -------
    dict of str to (numpy.ndarray, numpy.ndarray)
        Values and errors ``(n_star,)`` in the units of the registry, NaN where not known.

    Raises
    ------
    InputTypeError, InputValueError
        Not a table, another number of rows, no label, names that mean something else, units that do not fit,
        numbers that a label cannot have.
    """
    columns = table_columns(labels_table, "labels_table")
    if labels is None:
        labels = [name for name in columns if name in QUANTITIES and QUANTITIES[name].kind == "label"]
    labels = [labels] if isinstance(labels, str) else list(labels)
    missing = [name for name in labels if name not in columns]
    if missing or not labels:
        raise InputValueError(
            f"labels_table: no column {', '.join(missing) or 'that is a label'}; it has {', '.join(columns)}; "
            "name columns as in spectrafm.quantities, or say which are labels with labels="
        )
    taken = [name for name in labels if name in OTHER_COLUMNS or name.startswith("e_")]
    if taken:
        raise InputValueError(
            f"labels: {taken} are names that tables of results have for something else; rename these columns"
        )
    refuse_inputs(labels, ("flux", *FLUX_KINDS))
    for name in labels:
        if name not in QUANTITIES:
            column = columns[name]
            unit = getattr(column, "unit", None) or ""
            text = getattr(getattr(column, "info", None), "description", None) or name
            # errors of magnitudes and of logarithms are differences: they have no zero point
            register_quantity(Quantity(name, str(unit), str(getattr(unit, "function_unit", unit)), "", text))
    return known_labels(columns, labels, n_star, "labels_table", positive)


def refuse_inputs(labels, fluxes):
    """Refuse labels with the names of what spectra come with: fluxes, and properties of an observation.

    Parameters
    ----------
    labels : iterable of str
        Names.
    fluxes : iterable of str
        Names of fluxes.

    Raises
    ------
    InputValueError
        Naming those labels.
    """
    observed = [name for name, quantity in QUANTITIES.items() if quantity.kind == "observation"]
    taken = [name for name in labels if name in (*fluxes, *observed)]
    if taken:
        raise InputValueError(
            f"labels: {taken} are names of fluxes or of properties of an observation; expected labels of stars; "
            "rename these columns, or leave them out"
        )


def known_quantities(known, n_star, allowed, argument="known", positive=()):
    """Check what the user gives as known.

    Parameters
    ----------
    known : dict, `~astropy.table.Table`, `~astropy.table.Row`, data frame of pandas or None
        Name -> number, array ``(n_star,)``, `~astropy.units.Quantity`, or
        (masked) table column; ``e_<name>`` for its error. What a table of results
        has beside labels does not matter.
    n_star : int
        Number of stars.
    allowed : sequence of str
        Names that the weights accept.
    argument : str, optional
        Name of the user's argument, for the error messages.
    positive : sequence of str, optional
        Names whose logarithm is modelled.

    Returns
    -------
    dict of str to (numpy.ndarray, numpy.ndarray)
        Values and errors ``(n_star,)`` float64 in the registry's units, NaN
        where not known.

    Raises
    ------
    InputTypeError
        ``known`` is not a dictionary or a table, or holds something else than numbers.
    InputValueError
        An error of what is not given; a name, unit or length that cannot be used; a number
        that the quantity cannot have.
    """
    if known is None:
        return {}
    known = label_columns(known, argument)
    names = [name for name in known if name in allowed]
    lonely = [name for name in allowed if f"e_{name}" in known and name not in known]
    if lonely:
        raise InputValueError(
            f"{argument}: {', '.join(f'e_{name}' for name in lonely)} without {', '.join(lonely)}; give the value, "
            "too, or leave its error out"
        )
    strange = [name for name in known if name not in names and name.removeprefix("e_") not in names]
    if strange:
        raise InputValueError(
            f"{argument}: {strange} cannot be given to these weights; they accept {', '.join(allowed)}"
        )
    checked = {}
    for name in names:
        quantity = get_quantity(name, argument)
        values, errors = (
            _column(f"{argument}[{column!r}]", known[column], unit, n_star)
            if column in known
            else np.full(n_star, np.nan)
            for column, unit in ((name, quantity.unit), (f"e_{name}", quantity.error_unit))
        )
        if name in positive:
            hint = ", and a small number for next to nothing"
            _refuse(f"{argument}[{name!r}]", values, values <= 0, "positive numbers", hint)
        _refuse(f"{argument}[{name!r}]", values, np.isinf(values), "finite numbers")
        largest = _LARGEST.get(quantity.error_unit, np.inf)
        _refuse(f"{argument}[{name!r}]", values, np.abs(values) > largest, f"numbers within +-{largest:g}")
        _refuse(f"{argument}['e_{name}']", errors, errors < 0, "standard deviations")
        # an error without end is that of what is not known
        endless = np.isposinf(errors)
        checked[name] = np.where(endless, np.nan, values), np.where(endless, np.nan, errors)
    return checked


def _refuse(name, values, wrong, expected, hint=""):
    """Refuse numbers that a quantity cannot have."""
    if wrong.any():
        row = np.flatnonzero(wrong)[0]
        raise InputValueError(
            f"{name}: {values[row]:g} in row {row}, expected {expected}; give NaN or a masked value where it is not "
            f"known{hint}"
        )


def _column(name, given, unit, n_star):
    """Return one column as plain float64 in our unit, NaN where masked."""
    if isinstance(given, (list, tuple)) and any(hasattr(one, "unit") or hasattr(one, "mask") for one in given):
        given = [_column(name, one, unit, 1)[0] for one in given]
    given, mask = split_mask(given)
    if (own := getattr(given, "unit", None)) is not None:
        given = in_unit(name, getattr(given, "value", given), own, unit)
    try:
        if np.asarray(given).dtype.kind == "b":
            raise TypeError
        values = np.where(mask, np.nan, np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError):
        raise InputTypeError(f"{name}: {reprlib.repr(given)}, expected a number or an array of numbers") from None
    if values.shape not in ((), (n_star,), (1,)):
        raise InputValueError(f"{name}: shape {values.shape}, expected one number or one a star ({n_star},)")
    return np.broadcast_to(values, (n_star,)).copy()


def in_unit(name, value, own, unit):
    """Return numbers in another unit.

    Parameters
    ----------
    name : str
        What they are, for the error message.
    value : array_like
        Numbers; what is under a mask is converted, too.
    own : `~astropy.units.UnitBase`
        Their unit.
    unit : str or `~astropy.units.UnitBase`
        The one wanted.

    Returns
    -------
    array_like
        Plain numbers.

    Raises
    ------
    InputValueError
        They cannot be converted.
    """
    wanted = u.Unit(unit)
    # a logarithm in plain dex is a common spelling of the same number
    if own == u.dex and isinstance(wanted, u.function.logarithmic.DexUnit):
        return value
    try:
        return u.Quantity(np.ma.getdata(value), own, subok=True).to_value(wanted)
    except (ValueError, TypeError):
        raise InputValueError(
            f"{name}: unit {own}, expected {unit or 'none'}; convert it, or give plain numbers in that"
        ) from None
