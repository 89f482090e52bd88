"""Quantities that the user knows already, and true labels, checked and brought to our units."""

from collections import Counter

import numpy as np
from astropy.table import Row, Table
from astropy.units import Unit

from ._label_columns import check_label_columns, meant_columns, refuse_errors_alone
from ._spectral_units import in_unit, plain_numbers
from ._star_names import count_rows, name_texts
from ._tokens import FLUX_KINDS
from .exceptions import InputTypeError, InputValueError
from .quantities import BUILT_IN, OTHER_COLUMNS, QUANTITIES, Quantity, get_quantity, register_quantity

# what no star is beyond, but numbers that stand for "not known" often are: how the UCD begins, the unit of
# differences, and the limits, generous enough for predictions of any spectrum; the first that fits counts
_LIMITS = (
    # kilokelvin without their unit are none either
    ("phys.temperature.effective", "K", 100.0, 1e6),
    ("phys.temperature", "K", 0.0, 1e7),
    ("phys.gravity", "dex", -9.0, 20.0),
    ("phys.abund", "dex", -9.5, 9.5),
    ("phys.mass", "Msun", 0.0, 1000.0),
    ("time.age", "Gyr", 0.0, 200.0),
    ("phys.veloc", "km / s", 0.0, 5000.0),
    ("spect.dopplerVeloc", "km / s", -9000.0, 9000.0),
    # of bright stars without dust, errors make some negative
    ("phys.absorption", "mag", -1.0, 30.0),
    ("phot.mag", "mag", -30.0, 40.0),
    ("spect.resolution", "", 0.0, 20.0),
    # of quantities that a user registered
    ("", "dex", -90.0, 90.0),
    ("", "mag", -90.0, 90.0),
    ("", "", -np.inf, np.inf),
)

# what tables of results hold beside labels, that of the command line its files, too
_NOT_LABELS = (*OTHER_COLUMNS, "file")

# code that tells the names of stars, without blanks around them, from spectra
_OF_SPECTRA = "star.identifier.strip() for star in spectrafm.adapters.to_arrays(spectra)"

__all__ = [
    "as_text",
    "known_labels",
    "known_quantities",
    "label_columns",
    "label_truth",
    "refuse_inputs",
    "refuse_other_order",
    "refuse_other_rows",
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


def refuse_other_order(table, names, argument, *, names_code=_OF_SPECTRA):
    """Refuse a table whose rows are the same stars in another order, by the names of the stars.

    Parameters
    ----------
    table : `~astropy.table.Table`, `~astropy.table.Row`, dict, data frame of pandas or None
        As for `table_columns`; a column ``identifier`` in it is looked at.
    names : sequence of str
        ``(n_star,)`` names of the stars.
    argument : str
        Name of the user's argument, for the error message.
    names_code : str, optional
        Code that gives the names one after the other, for the error message.

    Raises
    ------
    InputTypeError
        As from `table_columns`.
    InputValueError
        The column has the names of the stars, each as often, in another order. Other names,
        and numbers of rows in place of names, say nothing of the order.
    """
    columns = {} if table is None else table_columns(table, argument)
    if "identifier" not in columns or np.shape(columns["identifier"]) != (len(names),):
        return
    try:
        theirs = [name and name.strip() for name in name_texts(columns["identifier"])]
    except InputValueError:
        return
    names = [name.strip() for name in names]
    if theirs == names or Counter(theirs) != Counter(names) or count_rows(names):
        return
    row = next(row for row, name in enumerate(names) if name != theirs[row])
    if len(set(names)) < len(names):
        remedy = "names repeat, and do not tell which row is whose: put the rows in order by hand"
    else:
        remedy = (
            f"with row = {{{as_text(table['identifier'])}.strip(): i for i, name in "
            f"enumerate({argument}['identifier'])}} and order = [row[name] for name in "
            f"({names_code})] give {_in_order(table, argument)}"
        )
    raise InputValueError(
        f"{argument}['identifier']: the names of the stars in another order, {theirs[row]!r} in row {row} where "
        f"the star is {names[row]!r}; expected one row a star, in their order; {remedy}; where its rows are in that "
        "order already, leave this column out"
    )


def refuse_other_rows(columns, truth_table):
    """Refuse a ``truth_table`` whose rows are the stars of a table of results in another order, by the names in both.

    Parameters
    ----------
    columns : dict
        Of the table of results, from `table_columns`; one ``identifier`` is looked at.
    truth_table : `~astropy.table.Table`, dict or data frame of pandas
        As for `refuse_other_order`.

    Raises
    ------
    InputTypeError, InputValueError
        As from `refuse_other_order`.
    """
    if np.ndim(columns.get("identifier")) != 1:
        return
    try:
        names = [name or "" for name in name_texts(columns["identifier"])]
    except InputValueError:
        # numbers so large that they may have lost digits are no names
        return
    if names:
        code = f"{as_text(columns['identifier'])}.strip() for name in table['identifier']"
        refuse_other_order(truth_table, names, "truth_table", names_code=code)


def as_text(names):
    """Write code that makes text of a name, as `name_texts` does.

    Parameters
    ----------
    names : array_like
        ``(n_star,)`` names, of which it is one.

    Returns
    -------
    str
        An expression in ``name``.
    """
    first = next(iter(names))
    if isinstance(first, bytes):
        return "name.decode()"
    return "str(int(name))" if isinstance(first, (float, np.floating)) and first == int(first) else "str(name)"


def _in_order(table, argument):
    """Write code that puts the rows of a table in an ``order``."""
    if _is_data_frame(table):
        return f"{argument}.iloc[order]"
    if not isinstance(table, dict):
        return f"{argument}[order]"
    # lists may hold what NumPy takes for no numbers
    rows = "numpy.take(column, order, axis=0)"
    if any(isinstance(column, list | tuple) for column in table.values()):
        rows = f"[column[i] for i in order] if isinstance(column, (list, tuple)) else {rows}"
    # one number may hold for all stars, and names of stars are no quantity
    rows = f"column if not numpy.iterable(column) or len(column) == 1 else {rows}"
    return f"{{name: {rows} for name, column in {argument}.items() if name != 'identifier'}}"


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
        that the label cannot have; plain numbers of a label that is none of the package and has a unit.
    """
    for label in labels:
        if label not in BUILT_IN:
            _refuse_other_unit(columns, get_quantity(label, argument), argument)
    wanted = {name: columns[name] for label in labels for name in (label, f"e_{label}") if name in columns}
    return _checked_quantities(wanted, n_star, labels, argument, positive, one_each=True)


def _unit_of(column):
    """Return the unit of a column, or of the first in a list that has one; None without any."""
    several = column if isinstance(column, list | tuple) else [column]
    return next((one.unit for one in several if getattr(one, "unit", None) is not None), None)


def _refuse_other_unit(columns, quantity, argument):
    """Refuse columns of a quantity that is none of the package where their unit is a guess, or another one."""
    name, wanted = quantity.name, quantity.unit
    own, of_errors = (_unit_of(columns.get(column)) for column in (name, f"e_{name}"))
    column = f"{argument}[{name!r}]"
    anew = (
        f"call spectrafm.quantities.forget_quantity({name!r}) first to have it in another unit (weights that have it "
        "keep theirs)"
    )
    registered = f"registered {f'in {wanted}' if wanted else 'without a unit'}, by fine_tune or by weights"
    if own is None:
        if wanted:
            raise InputValueError(
                f"{column}: plain numbers, but {name!r} is {registered}; expected a column with a unit: if these are "
                f"in {wanted}, give numpy.asarray({column}) * astropy.units.Unit({wanted!r}); or {anew}"
            )
        return
    try:
        in_unit(column, 1.0, own, wanted)
    except InputValueError:
        raise InputValueError(
            f"{column}: unit {own}, but {name!r} is {registered}; expected that, or a unit that converts to it; or "
            f"{anew}"
        ) from None
    if f"e_{name}" in columns and of_errors is None and str(own) != wanted and own != Unit(wanted):
        raise InputValueError(
            f"{argument}['e_{name}']: plain numbers beside {name!r} in {own}, which is {registered}; expected errors "
            "with their unit"
        )


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
        numbers that a label cannot have, an error without its label.

    Warns
    -----
    SpectraFMWarning
        Columns that look like labels or their errors, and are not used.
    """
    columns = table_columns(labels_table, "labels_table")
    stellar = [name for name, quantity in QUANTITIES.items() if quantity.kind == "label"]
    labels = [labels] if isinstance(labels, str) else labels if labels is None else list(labels)
    check_label_columns(columns, stellar if labels is None else labels, "labels_table")
    if labels is None:
        labels = [name for name in columns if name in stellar]
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
            unit = _unit_of(column) or ""
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
    table, known = known, label_columns(known, argument)
    names = [name for name in known if name in allowed]
    refuse_errors_alone(known, allowed, argument)
    strange = [name for name in known if name not in names and name.removeprefix("e_") not in names]
    if strange:
        meant = meant_columns(strange, known, allowed)
        hint = meant and f"; did you mean: {meant}"
        # a row, or a dictionary, has no such short way
        taken = [
            name for name in getattr(table, "columns", ()) if name == "identifier" or name in {*known} - {*strange}
        ]
        select = f", for example with {argument}[{taken}]" if names and taken and not isinstance(table, Row) else ""
        raise InputValueError(
            f"{argument}: {strange} cannot be given to these weights{hint}; they accept {', '.join(allowed)}, and "
            f"their errors as e_<name>; rename columns that are meant for these, and leave others out{select}"
        )
    return _checked_quantities(known, n_star, names, argument, positive)


def _checked_quantities(columns, n_star, names, argument, positive, *, one_each=False):
    """Return values and errors of some columns; ``one_each`` refuses one number for all stars."""
    checked = {}
    for name in names:
        quantity = get_quantity(name, argument)
        values, errors = (
            _column(f"{argument}[{column!r}]", columns[column], unit, n_star, one_each)
            if column in columns
            else np.full(n_star, np.nan)
            for column, unit in ((name, quantity.unit), (f"e_{name}", quantity.error_unit))
        )
        if name in positive:
            hint = ", and a small number for next to nothing"
            _refuse(f"{argument}[{name!r}]", values, values <= 0, "positive numbers", hint)
        _refuse(f"{argument}[{name!r}]", values, np.isinf(values), "finite numbers")
        low, high = _limits(quantity)
        expected = f"numbers from {low:g} to {high:g}{f' {quantity.unit}' * bool(quantity.unit)}"
        _refuse(f"{argument}[{name!r}]", values, (values < low) | (values > high), expected)
        _refuse(f"{argument}['e_{name}']", errors, errors < 0, "standard deviations")
        # an error without end is that of what is not known
        endless = np.isposinf(errors)
        checked[name] = np.where(endless, np.nan, values), np.where(endless, np.nan, errors)
    return checked


def _limits(quantity):
    """Return the lowest and the highest number that a star may have."""
    return next(
        (low, high)
        for ucd, unit, low, high in _LIMITS
        if quantity.ucd.startswith(ucd) and unit in ("", quantity.error_unit)
    )


def _refuse(name, values, wrong, expected, hint=""):
    """Refuse numbers that a quantity cannot have."""
    if wrong.any():
        row = np.flatnonzero(wrong)[0]
        raise InputValueError(
            f"{name}: {values[row]:g} in row {row}, expected {expected}; give NaN or a masked value where it is not "
            f"known{hint}"
        )


def _column(name, given, unit, n_star, one_each):
    """Return one column ``(n_star,)`` as plain float64 in our unit, NaN where masked."""
    values = plain_numbers(name, given, unit, masked=True)
    if one_each and values.shape != (n_star,):
        raise InputValueError(f"{name}: shape {values.shape}, expected ({n_star},): one row a star, in their order")
    if values.shape not in ((), (n_star,), (1,)):
        raise InputValueError(f"{name}: shape {values.shape}, expected one number or one a star ({n_star},)")
    return np.broadcast_to(values, (n_star,)).copy()
