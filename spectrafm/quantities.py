"""The named quantities that a model may be given or asked for.

One registry: name, unit, UCD and description of every stellar label and every
piece of photometry. Nothing else in the package repeats these facts. Units are
kept as strings so that this module stays free of astropy.
"""

from contextlib import contextmanager
from dataclasses import dataclass

from ._meant_names import similar_names
from .exceptions import InputValueError

__all__ = [
    "BUILT_IN",
    "OTHER_COLUMNS",
    "QUANTITIES",
    "Quantity",
    "column_unit",
    "forget_quantity",
    "get_quantity",
    "register_quantity",
    "registered_on_success",
    "same_units",
]


@dataclass(frozen=True)
class Quantity:
    """A named physical quantity.

    Attributes
    ----------
    name : str
        Column name and token name, for example ``"teff"``.
    unit : str
        Unit of the value, in astropy's notation.
    error_unit : str
        Unit of its error (``dex`` for ``logg``: a difference of logarithms).
    ucd : str
        UCD1+ word of the value.
    description : str
        One line for table columns and documentation.
    kind : {"label", "photometry", "observation"}
        Stellar label, photometric quantity, or property of the observation.
    """

    name: str
    unit: str
    error_unit: str
    ucd: str
    description: str
    kind: str = "label"


def _abundance(element):
    return Quantity(
        f"{element.lower()}_fe",
        "dex",
        "dex",
        "phys.abund",
        f"Abundance ratio [{element}/Fe]",
    )


def _magnitude(name, ucd, description):
    return Quantity(name, "mag", "mag", ucd, description, "photometry")


_ELEMENTS = (
    *("C", "N", "O", "Na", "Mg", "Al", "Si", "S", "K", "Ca", "Ti", "V", "Cr", "Mn", "Co", "Ni"),
    *("Li", "P", "Sc", "Cu", "Zn", "Rb", "Sr", "Y", "Zr", "Mo", "Ru", "Ba", "La", "Ce", "Nd", "Sm", "Eu", "Dy"),
)

#: All known quantities by name.
QUANTITIES = {
    q.name: q
    for q in (
        Quantity("teff", "K", "K", "phys.temperature.effective", "Effective temperature"),
        Quantity("logg", "dex(cm s-2)", "dex", "phys.gravity", "Logarithm of the surface gravity"),
        Quantity("fe_h", "dex", "dex", "phys.abund.Fe", "Iron abundance [Fe/H]"),
        Quantity("m_h", "dex", "dex", "phys.abund.Z", "Overall metallicity [M/H]"),
        Quantity("alpha_m", "dex", "dex", "phys.abund", "Alpha-element abundance [alpha/M]"),
        *(_abundance(element) for element in _ELEMENTS),
        Quantity("mass", "Msun", "Msun", "phys.mass", "Mass of the star"),
        Quantity("age", "Gyr", "Gyr", "time.age", "Age of the star"),
        Quantity("c12_c13", "", "", "phys.abund", "Ratio of the isotopes 12C and 13C, by number"),
        Quantity("vmicro", "km / s", "km / s", "phys.veloc.microTurb", "Microturbulent velocity"),
        Quantity("vsini", "km / s", "km / s", "phys.veloc.rotat", "Projected rotational velocity"),
        Quantity(
            "rv_offset",
            "km / s",
            "km / s",
            "spect.dopplerVeloc",
            "Radial velocity that the spectrum still has, beside any known one that was taken out",
        ),
        Quantity("a_k", "mag", "mag", "phys.absorption;em.IR.K", "Extinction in the 2MASS Ks band", "photometry"),
        _magnitude("phot_g_mean_mag", "phot.mag;em.opt", "Gaia G magnitude"),
        _magnitude("phot_bp_mean_mag", "phot.mag;em.opt.B", "Gaia BP magnitude"),
        _magnitude("phot_rp_mean_mag", "phot.mag;em.opt.R", "Gaia RP magnitude"),
        _magnitude("j_mag", "phot.mag;em.IR.J", "2MASS J magnitude"),
        _magnitude("h_mag", "phot.mag;em.IR.H", "2MASS H magnitude"),
        _magnitude("k_mag", "phot.mag;em.IR.K", "2MASS Ks magnitude"),
        Quantity(
            "ln_resolving_power", "", "", "spect.resolution", "Natural logarithm of the resolving power", "observation"
        ),
    )
}

#: Names of quantities that are part of the package, and never change.
BUILT_IN = frozenset(QUANTITIES)

#: Columns beside those of labels: name -> UCD, description.
OTHER_COLUMNS = {
    "identifier": ("meta.id;meta.main", "Name of the star or row of the input"),
    "radial_velocity": ("spect.dopplerVeloc", "Radial velocity that was measured and taken out of the spectrum"),
    "e_radial_velocity": ("stat.error;spect.dopplerVeloc", "Error of radial_velocity (one standard deviation)"),
    "flag": ("meta.code.qual", "Quality flags, 0 when nothing was found wrong"),
    "n_pixels_used": ("meta.number", "Number of good pixels"),
    "snr": ("stat.snr", "Median signal-to-noise ratio of the good pixels"),
}


def get_quantity(name, argument="labels"):
    """Look a quantity up by name.

    Parameters
    ----------
    name : str
        Name of the quantity.
    argument : str, optional
        Name of the user's argument, for the error message.

    Returns
    -------
    Quantity

    Raises
    ------
    InputValueError
        The name is not known; the message lists the known ones, and those that are similar first.
    """
    try:
        return QUANTITIES[name]
    except (KeyError, TypeError):
        hint = " or ".join(repr(one) for one in similar_names(name, QUANTITIES))
        hint = hint and f" (did you mean {hint}?)"
        known = ", ".join(QUANTITIES)
        raise InputValueError(f"{argument}: unknown quantity {name!r}{hint}; known are: {known}") from None


def column_unit(name):
    """Return the unit of a column of a table of labels.

    Parameters
    ----------
    name : str
        ``<label>``, or ``e_<label>`` of its errors.

    Returns
    -------
    str or None
        In astropy's notation; None for columns of another name.
    """
    quantity = QUANTITIES.get(name.removeprefix("e_"))
    if quantity is None:
        return None
    return quantity.unit if name == quantity.name else quantity.error_unit


def register_quantity(quantity):
    """Make a quantity known that is not in the registry.

    Weights fine-tuned on it carry it with them, and register it where they are loaded.

    Parameters
    ----------
    quantity : Quantity
        Its name must be a word of letters, digits and underscores that does not begin
        with ``e_``, which is how errors are named.

    Raises
    ------
    InputValueError
        A name that cannot be used, or that means something else already; see `forget_quantity`.
    """
    name = quantity.name
    if not name.isidentifier() or name.startswith("e_"):
        raise InputValueError(
            f"quantity: name {name!r}; expected letters, digits and underscores, and not e_ at the beginning"
        )
    known = QUANTITIES.setdefault(name, quantity)
    if known != quantity:
        or_forget = "" if name in BUILT_IN else f", or call spectrafm.quantities.forget_quantity({name!r}) first"
        raise InputValueError(f"quantity: {name!r} is registered as {known}; give {quantity} another name{or_forget}")


def forget_quantity(name):
    """Take a quantity out of the registry, so that its name can be registered with another unit.

    Weights that have it register it again when they are used next, with their own unit. Where the
    name has another unit by then, they refuse to be used instead of telling numbers in a wrong unit.

    Parameters
    ----------
    name : str
        Name of a quantity that `register_quantity`, `~spectrafm.SpectraFM.fine_tune` or weights have
        registered; one that is not registered is forgotten already.

    Raises
    ------
    InputValueError
        The quantity is one of the package.
    """
    if name in BUILT_IN:
        raise InputValueError(
            f"name: {name!r} is a quantity of the package, in {QUANTITIES[name].unit or 'no unit'}; "
            "expected the name of one that was registered"
        )
    QUANTITIES.pop(name, None)


def same_units(quantity, other):
    """Tell whether numbers and errors of two quantities have the same units, however these are spelled.

    Parameters
    ----------
    quantity, other : Quantity
        The quantities.

    Returns
    -------
    bool
    """
    pairs = [(getattr(quantity, key), getattr(other, key)) for key in ("unit", "error_unit")]
    if all(one == another for one, another in pairs):
        return True
    from astropy.units import Unit

    return all(Unit(one, parse_strict="silent") == Unit(another, parse_strict="silent") for one, another in pairs)


@contextmanager
def registered_on_success():
    """Forget quantities that were registered within, where an error ends it.

    Yields
    ------
    None
    """
    before = set(QUANTITIES)
    try:
        yield
    except BaseException:
        for name in set(QUANTITIES) - before:
            del QUANTITIES[name]
        raise
