"""Columns of tables of labels that are not used, although they are meant for labels or their errors."""

import re
import warnings

from ._meant_names import mistyped_name
from .exceptions import InputValueError, SpectraFMWarning
from .quantities import OTHER_COLUMNS, QUANTITIES

__all__ = ["check_label_columns", "meant_columns", "refuse_errors_alone"]

_WORDS = "e|err|error|errors|sig|sigma|std|stddev|unc|uncertainty|u"
_ERROR = re.compile(rf"(?:{_WORDS})_(?P<after>.+)|(?P<before>.+?)_?(?:_(?:{_WORDS})|err|error)", re.IGNORECASE)


def check_label_columns(columns, labels, argument, *, stacklevel=4):
    """Refuse errors without their labels, and warn of columns that look like labels or errors and are not used.

    Parameters
    ----------
    columns : iterable of str
        Names of all columns of a table.
    labels : iterable of str
        Labels that are taken from it where it has them, with their errors ``e_<label>``.
    argument : str
        Name of the user's argument, for the messages.
    stacklevel : int, optional
        Of the warning, as for `warnings.warn`: where the user's code is, counted from here.

    Raises
    ------
    InputValueError
        As `refuse_errors_alone`.

    Warns
    -----
    SpectraFMWarning
        Naming columns whose names are nearly those of labels, or of their errors, that the table lacks: other
        letter cases, spellings and words, and small mistakes. What else a catalogue has is not named.
    """
    columns = [name for name in columns if isinstance(name, str)]
    refuse_errors_alone(columns, labels, argument)
    if told := meant_columns(columns, columns, labels):
        warnings.warn(
            f"{argument}: columns that look like labels or their errors, and are not used: {told}; rename "
            "them as in spectrafm.quantities, errors as e_<label>, or leave them out",
            SpectraFMWarning,
            stacklevel=stacklevel,
        )


def meant_columns(strange, columns, labels):
    """Say which columns of labels or their errors others almost certainly stand for.

    Parameters
    ----------
    strange : iterable of str
        Names of columns that may be meant for others.
    columns : iterable of str
        Names of all columns: what is there already is not meant by another one.
    labels : iterable of str
        Names of labels.

    Returns
    -------
    str
        For example ``'feh' ('fe_h'?), 'teff_err' ('e_teff'?)``; empty for names that are like none of them.
    """
    there, told = set(columns), []
    for name in strange:
        meant = [f"{one!r}" for one in _meant(name, labels) if one not in there]
        if meant:
            told.append(f"{name!r} ({' or '.join(meant)}?)")
    return ", ".join(told)


def _meant(name, labels):
    """Return names of labels or of their errors that a column almost certainly stands for."""
    if name.removeprefix("e_") in {*labels, *QUANTITIES, *OTHER_COLUMNS}:
        return []
    if error := _ERROR.fullmatch(name):
        of = error["after"] or error["before"]
        return [f"e_{label}" for label in ([of] if of in labels else mistyped_name(of, labels))]
    return mistyped_name(name, labels)


def refuse_errors_alone(columns, labels, argument):
    """Refuse errors of labels whose values are not given.

    Parameters
    ----------
    columns : iterable of str
        Names of all columns.
    labels : iterable of str
        Labels that are taken.
    argument : str
        Name of the user's argument, for the message.

    Raises
    ------
    InputValueError
        There is an ``e_<label>`` without its label.
    """
    alone = [name for name in labels if f"e_{name}" in columns and name not in columns]
    if alone:
        raise InputValueError(
            f"{argument}: {', '.join(f'e_{name}' for name in alone)} without {', '.join(alone)}; give the value, "
            "too, or leave its error out"
        )
