"""Names that users give, and what they mean: mistyped names of quantities, and numbers of rows in place of stars."""

import difflib
import re

__all__ = ["may_number_row", "mistyped_name", "similar_names"]

# other words for the same quantity, as `_plain` writes them
_SYNONYMS = {
    "temp": ("teff",),
    "temperature": ("teff",),
    "effectivetemperature": ("teff",),
    "grav": ("logg",),
    "gravity": ("logg",),
    "loggrav": ("logg",),
    "surfacegravity": ("logg",),
    "iron": ("fe_h",),
    "met": ("fe_h", "m_h"),
    "metal": ("fe_h", "m_h"),
    "metals": ("fe_h", "m_h"),
    "metallicity": ("fe_h", "m_h"),
    "vmic": ("vmicro",),
    "vturb": ("vmicro",),
    "microturbulence": ("vmicro",),
    "bpmag": ("phot_bp_mean_mag",),
    "gmag": ("phot_g_mean_mag",),
    "rpmag": ("phot_rp_mean_mag",),
    "ksmag": ("k_mag",),
}
# words for what is close to a quantity, but not always the same
_RELATED = {
    "alpha": ("alpha_m",),
    "alphafe": ("alpha_m",),
    "vrot": ("vsini",),
    "vbroad": ("vsini",),
}
# an abundance of one element is a letter or two from that of another
_ABUNDANCE = re.compile(r"([a-z]{1,2})(fe|h)")
# how similar are a name and what was likely meant by it, and what may have been
_LIKELY, _PERHAPS = 0.85, 0.7
# numbers up to so many digits may be those of rows, and are the names of no star
_ROW_DIGITS = 5


def similar_names(name, known):
    """Return known names that may have been meant by another one.

    Parameters
    ----------
    name : str
        A name that is not known; nothing is similar to what is no text.
    known : iterable of str
        Known names.

    Returns
    -------
    list of str
        Up to three, the likeliest first.
    """
    if not isinstance(name, str):
        return []
    plain, known = _plain(name), {_plain(one): one for one in known}
    if found := _same(plain, known, _SYNONYMS | _RELATED):
        return found
    if abundance := _ABUNDANCE.fullmatch(plain):
        return [known[f"{abundance[1]}fe"]] if f"{abundance[1]}fe" in known else []
    return [known[one] for one in difflib.get_close_matches(plain, known, 3, _PERHAPS)]


def mistyped_name(name, known):
    """Return the known names that another one almost certainly stands for.

    Parameters
    ----------
    name : str
        A name that is not known.
    known : iterable of str
        Known names.

    Returns
    -------
    list of str
        One, two for a word that has two meanings, or none.
    """
    plain, known = _plain(name), {_plain(one): one for one in known}
    if (found := _same(plain, known, _SYNONYMS)) or _ABUNDANCE.fullmatch(plain):
        return found
    alike = [one for one in known if one[:1] == plain[:1]]
    swapped = [known[one] for one in alike if sorted(one) == sorted(plain)]
    return swapped[:1] or [known[one] for one in difflib.get_close_matches(plain, alike, 1, _LIKELY)]


def _plain(name):
    """Return a name in small letters and digits alone."""
    return "".join(letter for letter in name.casefold().replace("α", "alpha") if letter.isalnum())


def _same(plain, known, synonyms):
    if plain in known:
        return [known[plain]]
    names = set(known.values())
    return [name for name in synonyms.get(plain, ()) if name in names]


def may_number_row(name):
    """Tell whether the name of a star may be the number of something else: a row, a plate, a night.

    Parameters
    ----------
    name : str
        Name of a star.

    Returns
    -------
    bool
    """
    return name.isdigit() and len(name) <= _ROW_DIGITS
