"""Columns of tables of spectra: which of them are wavelength, flux, errors or a mask."""

import re

from ._file_contents import GOOD_MASKS, NAMES, UNITS, kind_of, plain_name

__all__ = ["error_like", "known_columns", "masks_not_used", "plain_column", "unit_in_name"]

# columns of as many stars that are no wavelength where they have no unit
_AXES = ("spectralaxis", "frequency", "freq", "energy", "wavenumber")


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
    plain = {plain_column(name): name for name in reversed(table.colnames)}
    for kind, names in NAMES.items():
        if known := [plain[name] for name in names if name in plain]:
            found[kind] = known[0]
    if axes := [name for name in table.colnames if unit_in_name(name) is not None]:
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
    """Add what is wavelength or flux by its unit, where its name does not say that it is something else."""
    from astropy import units as u

    def free(kind, is_it):
        # of numbers, masks and names of stars have no unit
        return [
            name
            for name in table.colnames
            if name not in found.values()
            and kind_of(name)[0] in (None, kind)
            and table[name].unit is not None
            and is_it(table[name].unit)
        ]

    if "wavelength" not in found:
        axes = free("wavelength", lambda unit: unit.is_equivalent(u.AA, u.spectral()))
        found |= {"wavelength": axes[0]} if axes else {}
    if "wavelength" in found and "flux" not in found:
        densities, at = (u.Jy, u.Unit("erg/(s cm2 Angstrom)")), u.spectral_density(1 * u.AA)
        counts = (u.adu, u.ct, u.electron, u.adu / u.s, u.ct / u.s, u.electron / u.s)
        fluxes = free("flux", lambda unit: unit in counts or any(unit.is_equivalent(some, at) for some in densities))
        found |= {"flux": fluxes[0]} if fluxes else {}
    return found


def plain_column(name):
    """Return the plain name of a column; specutils and others number arrays with _1.

    Parameters
    ----------
    name : str
        Of the column.

    Returns
    -------
    str
        As of `plain_name`.
    """
    return plain_name(re.sub("_1$", "", name.strip().lstrip("# ")))


def unit_in_name(name):
    """Find the unit in the name of a column of wavelengths.

    Parameters
    ----------
    name : str
        Of the column.

    Returns
    -------
    str or None
        "" where there is none, None for other columns.
    """
    words = re.fullmatch(r"([a-z]+)(?:[\s_.:-]*[(\[]?([^\W\d_]+)[)\]]?)?", re.sub("_1$", "", name.strip().lower()))
    # all letters belong to the first word
    if words is None or words[1] not in NAMES["wavelength"]:
        return None
    return UNITS.get(words[2]) if words[2] else ""


def masks_not_used(table, used):
    """Find columns that may be masks.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.
    used : iterable of str
        Columns that are in use.

    Returns
    -------
    list of str
        Their names.
    """
    masks = {*NAMES["mask"], *GOOD_MASKS}
    return [name for name in table.colnames if plain_column(name) in masks and name not in used]


def error_like(table, names):
    """Find columns that may be errors, and are not understood.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.
    names : dict of str
        Columns that are understood, as of `known_columns`.

    Returns
    -------
    list of str
        Their names: a word says errors, or no word is known and the unit is that of the flux.
    """
    from astropy import units as u

    unit = table[names["flux"]].unit
    has_unit = unit not in (None, u.dimensionless_unscaled)
    kinds = {name: kind_of(name)[0] for name in table.colnames if name not in names.values()}
    return [
        name
        for name, kind in kinds.items()
        if kind in ("sigma", "var", "ivar") or (kind is None and has_unit and table[name].unit == unit)
    ]
