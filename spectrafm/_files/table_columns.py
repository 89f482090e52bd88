"""Columns of tables of spectra: which of them are wavelength, flux, errors or a mask."""

import re

from .names import GOOD_MASKS, NAMES, UNITS, kind_of, plain_name

__all__ = [
    "bracket_unit",
    "error_like",
    "is_bare",
    "is_other_axis",
    "known_columns",
    "masks_not_used",
    "medium_in_name",
    "plain_column",
    "unit_in_name",
    "velocities",
    "with_units_of_names",
]

# columns of as many stars that are no wavelength where they have no unit
_AXES = ("spectralaxis", "frequency", "freq", "energy", "wavenumber")
# words of names of wavelengths, and the medium that they tell
_MEDIA = {"air": "air", "vac": "vacuum", "vacuum": "vacuum"}
# words of units, in small letters, of fluxes that have none, or one that is not known: these stay as they are
_FLUX_WORDS = {"counts", "count", "cts", "adu", "adus", "dn", "electrons", "e-", "flam", "fnu", "cgs"}
_RELATIVE = {"normalized", "normalised", "normed", "relative", "rel.", "arbitrary", "arb", "arb.", "a.u.", "au", "-"}
_RELATIVE |= {"arbitrary units", "arb. units", "arbitrary unit"}
# a unit in brackets at the end of a name
_BRACKETS = re.compile(r"(?P<name>.*?[^\s_.:-])[\s_.:-]*(?:\((?P<round>.*)\)|\[(?P<square>.*)\])")
# names of radial velocities, as of `plain_name` without what separates words
_VELOCITIES = {"rv", "vrad", "rvel", "radvel", "radvelocity", "radialvelocity", "vhelio", "heliorv", "rvhelio"}


def known_columns(table, by_unit=False, medium=None):
    """Find the columns of a table that are understood.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.
    by_unit : bool, optional
        Take the first columns with units of wavelength, or flux, where no name is known.
    medium : str, optional
        That of the wavelengths that are wanted, where there are columns of several by their names; otherwise those
        in vacuum are taken, then those that do not say.

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
        order = ["air", None, "vacuum"] if isinstance(medium, str) and medium == "air" else ["vacuum", None, "air"]
        found["wavelength"] = min(axes, key=lambda name: order.index(medium_in_name(name)))
    if "wavelength" not in found and "log" in found:
        found["wavelength"] = found["log"]
    else:
        found.pop("log", None)
    if not found and is_bare(table.colnames) and 2 <= len(table.colnames) <= 3:
        # nothing but numbers: in the order that everybody has them
        found = dict(zip(("wavelength", "flux", "sigma"), table.colnames, strict=False))
    if "wavelength" not in found:
        axes = [plain[name] for name in _AXES if name in plain and table[plain[name]].unit is not None]
        found |= {"wavelength": axes[0]} if axes else {}
    return _by_unit(table, found) if by_unit else found


def is_bare(names):
    """Tell whether columns have no names but those that astropy numbers.

    Parameters
    ----------
    names : iterable of str
        Of all columns of a table.

    Returns
    -------
    bool
    """
    return bool(re.fullmatch("(col[0-9]+ ?)+", " ".join(names)))


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
    """Return the plain name of a column, without its unit; specutils and others number arrays with _1.

    Parameters
    ----------
    name : str
        Of the column.

    Returns
    -------
    str
        As of `plain_name`.
    """
    return plain_name(re.sub("_1$", "", _name_and_unit(name)[0].strip().lstrip("# ")))


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
    return _axis(name)[0]


def medium_in_name(name):
    """Find the medium in the name of a column of wavelengths.

    Parameters
    ----------
    name : str
        Of the column.

    Returns
    -------
    {"air", "vacuum"} or None
        None where it does not say, and for other columns.
    """
    return _axis(name)[1]


def is_other_axis(name, medium):
    """Tell a column of wavelengths that differ from others: in another medium, or at rest, or whatever it says.

    Parameters
    ----------
    name : str
        Of the column.
    medium : str or None
        That in the name of the others.

    Returns
    -------
    bool
    """
    if unit_in_name(name) is not None:
        return medium_in_name(name) != medium
    kind, rest = kind_of(name)
    # numbers are those of further spectra
    return kind in ("wavelength", "log") and any(word.isalpha() for word in rest)


def _axis(name):
    """Return the unit and the medium in the name of a column of wavelengths, as of `unit_in_name`, `medium_in_name`."""
    name, bracket = _bracket(re.sub("_1$", "", name.strip().lstrip("# ")))
    words = [word for word in re.split(r"[\W_]+|(?<=[a-z])(?=[^\W\d_a-z])", name.lower()) if word]
    axis = [word for word in words if word in NAMES["wavelength"]]
    if len(axis) != 1 or name[-1:] == "_":
        return None, None
    words.remove(axis[0])
    inside = [word for word in re.split(r"[\s,;]+", bracket or "") if word]
    media = {_MEDIA[word.lower()] for word in (*words, *inside) if word.lower() in _MEDIA}
    units = [word for word in words if word not in _MEDIA]
    units = units[1:] if len(units) > 1 and units[0] == "in" else units
    if len(media) > 1 or len(units) > 1 or any(word not in UNITS for word in units):
        return None, None
    inside = " ".join(word for word in inside if word.lower() not in ("in", *_MEDIA))
    unit = UNITS.get(inside.lower(), inside) or (UNITS[units[0]] if units else "")
    return unit, media.pop() if media else None


def _bracket(name):
    """Return a name without what is in brackets at its end, and this; None where there is nothing."""
    found = _BRACKETS.fullmatch(name.strip())
    return (name, None) if found is None else (found["name"], found["round"] or found["square"] or "")


def _name_and_unit(name):
    """Return the name of a column without its unit in brackets, and the unit; None where there is none."""
    from astropy import units as u

    plain, text = _bracket(name)
    text = (text or "").strip()
    if not text:
        return name, None
    if unit_in_name(name) is not None:
        return plain, u.Unit(unit_in_name(name), parse_strict="silent") if unit_in_name(name) else None
    if not re.search("[a-zA-Z%]", text) and text not in _RELATIVE:
        # a number
        return name, None
    if text.lower() in _RELATIVE:
        return plain, None
    if text.lower() in _FLUX_WORDS:
        return plain, u.Unit(text, parse_strict="silent")
    # as they are written in papers
    text = re.sub(r"(?<![A-Za-z])(A|AA|[Aa]ngs?|[Aa]ngstroms?|\u00c5|\u212b)(?![A-Za-z])", "Angstrom", text)
    text = re.sub(r"^(?:1(?:\.0*)?)?[eE](?=[-+]?\d)", "1e", text.replace("{", "").replace("}", ""))
    unit = u.Unit(text, parse_strict="silent")
    return (name, None) if isinstance(unit, u.UnrecognizedUnit) else (plain, unit)


def bracket_unit(name):
    """Find the unit in brackets at the end of the name of a column.

    Parameters
    ----------
    name : str
        Of the column.

    Returns
    -------
    str
        "" where there is none.
    """
    unit = _name_and_unit(name)[1]
    return "" if unit is None else str(unit)


def with_units_of_names(table):
    """Give the columns of a table that have no unit the one that their names have in brackets.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table; its columns are changed.

    Returns
    -------
    `~astropy.table.Table`
        The same.
    """
    for name in table.colnames:
        unit = None if table[name].unit is not None else _name_and_unit(name)[1]
        if unit is not None and table[name].dtype.kind in "iuf":
            table[name].unit = unit
    return table


def velocities(names):
    """Find what is a radial velocity by its name.

    Parameters
    ----------
    names : iterable of str
        Of columns, or of keywords of a header.

    Returns
    -------
    list of str
        Those that are.
    """
    plain = {name: re.sub("_?km_?s$|[^a-z]", "", plain_column(name)) for name in names}
    return [name for name, words in plain.items() if words in _VELOCITIES]


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
