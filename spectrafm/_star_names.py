"""Names of stars, from what spectra say of themselves."""

import re

import numpy as np

__all__ = ["common_name", "name_text", "star_names"]

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
        if isinstance(value, (str, bytes, int, np.integer)) and name_text(value).strip():
            name = name_text(value)
            return [name] if n_star == 1 else [f"{name}:{row}" for row in range(n_star)]
        if isinstance(value, (list, tuple, np.ndarray)) and np.shape(value) == (n_star,):
            return [name_text(name) if name_text(name).strip() else None for name in value]
    return None


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
