"""Errors and masks that stand beside a flux in a file: which of them are used, and why others are not."""

import numpy as np

from .._spectral_units import sigma_factor
from ..exceptions import InputValueError

__all__ = ["ERRORS", "fit_problem", "take_errors", "take_mask"]

#: What errors may be, those first that are taken first, and the power of the unit of the flux that they are in.
ERRORS = {"sigma": ("std", 1), "var": ("var", 2), "ivar": ("ivar", -2)}


def fit_problem(values, shape):
    """Say that values do not fit the flux.

    Parameters
    ----------
    values : array_like
        Of each pixel.
    shape : tuple of int
        That of the flux.

    Returns
    -------
    str
        "" where they do.
    """
    found = np.shape(values)
    one = found[-1:] == shape[-1:] and np.size(values) == shape[-1]
    return "" if found == shape or one else f"its shape {found} does not fit the flux"


def _fitted(values, shape, called, notes):
    """Return values that fit in the shape of the flux; what is of one spectrum is of all, which is said."""
    if np.shape(values) == shape:
        return values
    plain, mask = (np.broadcast_to(np.reshape(a, shape[-1]), shape).copy() for a in _split(values))
    if len(shape) > 1 and shape[0] > 1:
        notes.append(f"{called} is of one spectrum, and taken for all {shape[0]}")
    return np.ma.array(plain, mask=mask) if mask.any() else plain


def _split(values):
    return np.ma.getdata(values), np.ma.getmaskarray(np.ma.asarray(values))


def take_errors(flux, unit, found, notes):
    """Take the first errors that fit the flux, in its unit; say which others are not used.

    Parameters
    ----------
    flux : numpy.ndarray
        The flux.
    unit : `~astropy.units.UnitBase` or None
        Its unit in the file.
    found : list of tuple
        Of each: what it is, a key of `ERRORS`; what it is called; values; and its unit, None for that of the flux.
    notes : list of str
        What was assumed; gets what is not used, and why.

    Returns
    -------
    values : dict of numpy.ndarray
        ``sigma`` or ``ivar``, or nothing.
    name : str or None
        What the errors are called that were taken.
    """
    taken, used, order = {}, None, [*ERRORS]
    for kind, name, errors, own in sorted(found, key=lambda one: order.index(one[0])):
        if taken:
            notes.append(f"errors are those in {used!r}; {name!r} is not used")
            continue
        problem = fit_problem(errors, np.shape(flux))
        factor = None if problem else _factor(kind, own, unit)
        if factor is None:
            notes.append(f"errors in {name!r} are not used: {problem or 'their unit does not fit the flux'}")
            continue
        with np.errstate(invalid="ignore"):
            errors = _fitted(errors, np.shape(flux), repr(name), notes) * factor
            taken, used = {"sigma": np.sqrt(errors)} if kind == "var" else {kind: errors}, name
    return taken, used


def _factor(kind, own, unit):
    """Return what brings errors to the unit of the flux; None where nothing does."""
    from astropy import units as u
    from astropy.units.function import FunctionUnitBase

    if isinstance(own, FunctionUnitBase):
        # logarithms have no factor
        return None
    meaning, power = ERRORS[kind]
    if unit is None:
        # nothing to convert to, but a share of the flux is no error of it
        return None if own == u.percent else 1.0
    try:
        return sigma_factor(meaning, own, unit) ** power
    except InputValueError:
        return None


def take_mask(values, name, notes):
    """Take a mask that fits the flux and holds booleans or bits; say so where there is one that does not.

    Parameters
    ----------
    values : dict of numpy.ndarray
        ``flux``, and ``mask``, which is taken out where it cannot be used.
    name : str
        What the mask is called.
    notes : list of str
        What was assumed; gets why a mask is not used.
    """
    if "mask" not in values:
        return
    mask, shape = np.ma.asarray(values.pop("mask")), np.shape(values["flux"])
    if mask.dtype.kind in "SU":
        # booleans of pandas and others
        words = np.char.lower(np.char.strip(mask.astype(str).filled("true")))
        mask = np.ma.array(words == "true", mask=mask.mask) if set(np.ravel(words)) <= {"true", "false"} else mask
    is_number = mask.dtype.kind in "biuf"
    numbers = np.nan_to_num(mask.filled(0).astype(float)) if is_number else None
    problem = fit_problem(mask, shape)
    if not problem and (not is_number or (numbers != np.trunc(numbers)).any()):
        problem = "it does not hold booleans, or bits"
    if problem:
        notes.append(f"mask {name!r} is not used: {problem}")
    else:
        values["mask"] = _fitted(mask if mask.mask.any() else mask.data, shape, f"mask {name!r}", notes)
