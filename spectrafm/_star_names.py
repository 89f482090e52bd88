"""Names of stars, from what spectra say of themselves."""

import re
from collections import Counter

import numpy as np

from ._numerics import split_mask
from .exceptions import InputValueError

__all__ = ["common_name", "count_rows", "name_text", "name_texts", "star_names"]

_META_KEYS = ("identifier", "id", "source_id", "sdss_id", "apogee_id", "objid", "obj", "object", "label", "name")
_HEADER_KEYS = ("OBJID", "APOGEE_ID", "SDSS_ID", "OBJECT", "OBJNAME", "TARGNAME")


def star_names(meta, n_star):
    """Find the names of stars in the meta of an object.

    Parameters
    ----------
    meta : dict, list of dict or any other
        What an object says of itself; ``header`` in it may be that of a FITS file, and ``fibermap``
        the table of fibres of DESI.
    n_star : int
        Number of stars.

    Returns
    -------
    list of (str or None) or None
        One a star; None where nothing tells a name.
    """
    if isinstance(meta, (list, tuple)) and len(meta) == n_star:
        names = [star_names(one, 1) for one in meta]
        # who has none is named by its number
        return [None if name is None else name[0] for name in names]
    if not hasattr(meta, "keys"):
        return None
    lower = {str(key).lower(): key for key in meta}
    fibers, header = (meta[lower[key]] if key in lower else None for key in ("fibermap", "header"))
    values = [np.asarray(fibers["TARGETID"])] if "TARGETID" in getattr(fibers, "colnames", ()) else []
    values += [meta[lower[key]] for key in _META_KEYS if key in lower]
    values += [header.get(key) for key in _HEADER_KEYS] if hasattr(header, "keys") else []
    for value in values:
        if not isinstance(value, (str, bytes, int, float, np.generic, list, tuple, np.ndarray)):
            continue
        one = np.ndim(value) == 0
        if not one and np.shape(value) != (n_star,):
            continue
        try:
            names = name_texts([value] if one else value)
        except InputValueError:
            # digits were lost: no name is better than a false one
            continue
        if not one:
            return names
        if names[0] is not None:
            return names if n_star == 1 else [f"{names[0]}:{row}" for row in range(n_star)]
    return None


def name_texts(names):
    """Write names as text.

    Parameters
    ----------
    names : array_like
        ``(n_star,)`` text, or numbers that are names; with or without a mask.

    Returns
    -------
    list of (str or None)
        None where there is no name: masked, NaN, NA or blank.

    Raises
    ------
    InputValueError
        Floating-point numbers so large that they may have lost digits.
    """
    names, mask = split_mask(names)
    names = list(names)
    return [None if gone else _text(name) for name, gone in zip(names, np.broadcast_to(mask, len(names)), strict=True)]


def _text(name):
    """Return a name as text, or None where there is none."""
    name, masked = split_mask(name)
    if name is None or np.any(masked):
        return None
    if isinstance(name, np.ndarray) and name.ndim == 0:
        # that of a Quantity without its unit
        name = np.asarray(name)[()]
    if isinstance(name, (float, np.floating)):
        if np.isnan(name):
            return None
        if not abs(name) < 2.0 ** (np.finfo(type(name)).nmant + 1):
            raise InputValueError(
                f"{float(name)!r} is a floating-point number and may have lost digits; give integers or text"
            )
        name = int(name) if name == int(name) else name
    try:
        # NaT differs from itself, and NA of pandas from nothing that could be said
        if bool(name != name):
            return None
    except TypeError:
        return None
    text = name_text(name)
    return text if text.strip() else None


def count_rows(names):
    """Tell whether names only count rows, as those of stars without a name do: in another order they are others.

    Parameters
    ----------
    names : sequence of str
        One a star.

    Returns
    -------
    bool
    """
    seen = Counter()
    for row, name in enumerate(names):
        spectrum, colon, number = name.rpartition(":")
        if number != str(seen[spectrum] if colon else row):
            return False
        seen[spectrum] += 1
    return True


def common_name(names):
    """Find the name of a star in those of its orders or arms.

    Parameters
    ----------
    names : sequence of str
        Names of the orders: numbers alone, or the name of the star, a colon, and a number or an arm.

    Returns
    -------
    str
        "" where they have none in common.
    """
    if len(set(names)) > 1:
        names = [re.sub(r"(^|:)[^:]*$", "", name) for name in names]
    return names[0] if len(set(names)) == 1 else ""


def name_text(name):
    """Write a name as text.

    Parameters
    ----------
    name : bytes or any other
        A name, or a number that is one.

    Returns
    -------
    str
        The name.
    """
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
