"""Labels of synthetic stars: their names and ranges, defaults, and random draws."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from ..exceptions import InputTypeError, InputValueError

__all__ = [
    "ALPHA_M_RANGE",
    "LABEL_RANGES",
    "SOLAR_C_O",
    "SYNTHESIS_LABELS",
    "atmosphere_alpha",
    "complete_labels",
    "draw_abundances",
    "draw_labels",
    "microturbulence",
]

_ABUNDANCES = ("c", "n", "o", "na", "mg", "al", "si", "ca", "ti", "cr", "mn", "ni")

#: Labels of a synthetic star, in the order of the columns of a grid.
SYNTHESIS_LABELS = ("teff", "logg", "fe_h", *(f"{e}_fe" for e in _ABUNDANCES), "vmicro", "c12_c13")

#: Smallest and largest value of each label.
LABEL_RANGES = {
    "teff": (3000.0, 8000.0),
    "logg": (-0.5, 5.5),
    "fe_h": (-4.0, 1.0),
    **{f"{e}_fe": (-1.5, 1.5) for e in _ABUNDANCES},
    "vmicro": (0.2, 5.0),
    "c12_c13": (2.0, 1000.0),
}

_ALPHA = ("o_fe", "mg_fe", "si_fe", "ca_fe", "ti_fe")
#: Range in which the networks of model atmospheres were trained: [alpha/M] is clipped to it.
ALPHA_M_RANGE = (-0.2, 0.6)
#: log N(C) / N(O) of the Sun, Asplund et al. 2009.
SOLAR_C_O = 8.43 - 8.69
_STARS_FILE = Path(__file__).parent / "data" / "apogee_stars.npz"

# Range of random stars, a little narrower than the range that can be synthesized.
_DRAWN = {
    "teff": (3300.0, 8000.0),
    "logg": (-0.3, 5.2),
    "fe_h": (-3.0, 0.6),
    "c_fe": (-1.0, 0.5),
    "n_fe": (-0.5, 1.0),
    **{f"{e}_fe": (-0.7, 0.9) for e in _ABUNDANCES[2:]},
    "vmicro": (0.3, 4.0),
    "c12_c13": (4.0, 150.0),
}
# How far abundances scatter about their trends, independently of each other [dex]. Wider
# than in real stars, so that each element can be distinguished from the others.
_SCATTER = {"c": 0.25, "n": 0.3, "o": 0.15, "na": 0.25, "mg": 0.15, "al": 0.25, "mn": 0.22, "ti": 0.2}


def microturbulence(teff, logg):
    """Return a typical microturbulent velocity.

    For giants the relation of APOGEE (Holtzman et al. 2018, AJ 156, 125), for dwarfs
    that of Bruntt et al. (2010, MNRAS 405, 1907), and between log g of 3.5 and 4.0 a
    blend of both.

    Parameters
    ----------
    teff : float
        Effective temperature [K].
    logg : float
        Logarithm of the surface gravity [dex(cm s-2)].

    Returns
    -------
    float
        Velocity [km / s].
    """
    giant = 10.0 ** (0.226 - 0.0228 * logg + 0.0297 * logg**2 - 0.0113 * logg**3)
    # outside of these temperatures the parabola is an extrapolation
    x = np.clip(teff, 4900.0, 7200.0) - 5700.0
    dwarf = 1.01 + 4.56e-4 * x + 2.75e-7 * x**2
    share = np.clip((logg - 3.5) / 0.5, 0.0, 1.0)
    return float((1 - share) * giant + share * dwarf)


def _isotopic_ratio(logg):
    """Return a typical 12C/13C: 18 in giants after the first dredge-up, the solar 89 in dwarfs."""
    return float(np.exp(np.interp(logg, (2.6, 3.8), np.log((18.0, 89.0)))))


def atmosphere_alpha(labels):
    """Return [alpha/M] of the atmosphere: the mean of [O, Mg, Si, Ca, Ti/Fe], within -0.2 and 0.6.

    Parameters
    ----------
    labels : dict of str to float
        Complete labels.

    Returns
    -------
    float
        [alpha/M], clipped to the range of the grid of atmospheres.
    """
    return float(np.clip(np.mean([labels[name] for name in _ALPHA]), *ALPHA_M_RANGE))


def complete_labels(labels):
    """Check labels and fill in those that were left out.

    Parameters
    ----------
    labels : dict of str to float
        ``teff`` [K] and ``logg`` at least. Abundances left out are those of the Sun,
        scaled with ``fe_h``; ``vmicro`` [km / s] and ``c12_c13`` follow from the
        others.

    Returns
    -------
    dict of str to float
        All of `SYNTHESIS_LABELS`, in their order.

    Raises
    ------
    InputTypeError
        Something other than a mapping of names to numbers.
    InputValueError
        A name that is not known, a label that is needed and missing, or a value
        outside of `LABEL_RANGES`.
    """
    try:
        given = dict(labels)
    except (TypeError, ValueError):
        raise InputTypeError(f"labels: got {type(labels).__name__}, expected a dict such as {{'teff': 4800}}") from None
    for name, value in given.items():
        if name not in LABEL_RANGES:
            raise InputValueError(f"labels: unknown label {name!r}; known are: {', '.join(SYNTHESIS_LABELS)}")
        try:
            given[name] = float(value)
        except (TypeError, ValueError):
            raise InputTypeError(f"labels: {name} is {value!r}, expected a number") from None
    for name in ("teff", "logg"):
        if name not in given:
            raise InputValueError(f"labels: {name} is missing; give teff and logg at least")
    complete = dict.fromkeys(SYNTHESIS_LABELS, 0.0)
    complete["vmicro"] = microturbulence(given["teff"], given["logg"])
    complete["c12_c13"] = _isotopic_ratio(given["logg"])
    complete |= given
    for name, (lower, upper) in LABEL_RANGES.items():
        if not lower <= complete[name] <= upper:
            raise InputValueError(f"labels: {name} is {complete[name]:g}, expected a value from {lower:g} to {upper:g}")
    return complete


@lru_cache(maxsize=1)
def _apogee_stars():
    """Return weights, means and roots of the covariances of (teff, logg, fe_h, o_fe, mg_fe) in APOGEE DR17."""
    with np.load(_STARS_FILE) as stored:
        return stored["weight"], stored["mean"], stored["root"]


def draw_labels(seed, index, scatter=1.0):
    """Draw the labels of one random star.

    Half of the stars follow APOGEE DR17, by a mixture of Gaussians fitted to its
    effective temperatures, gravities, iron, oxygen and magnesium abundances. The other
    half are spread along the main sequence, the turn-off and the giant branch, from
    3300 to 8000 K and [Fe/H] of -3 to +0.6, where APOGEE has few. Other abundances
    follow the trends of the Galaxy, with independent scatter of about 0.2 dex; C and N
    of giants follow the first dredge-up. Stars with C/O above 0.95 are drawn anew.

    Parameters
    ----------
    seed : int
        Seed of the sequence.
    index : int
        Number of the star in it.
    scatter : float, optional
        Factor on the scatter of abundances about the trends. The scatter in the Galaxy is about
        0.3 times the default one.

    Returns
    -------
    dict of str to float
        All of `SYNTHESIS_LABELS`, in their order.
    """
    rng = np.random.default_rng([int(seed), int(index)])
    while True:
        draw = _draw_like_apogee if rng.random() < 0.5 else _draw_widely
        star = _draw_abundances(rng, scatter, *draw(rng))
        allowed = all(lower <= star[name] <= upper for name, (lower, upper) in _DRAWN.items())
        if allowed and SOLAR_C_O + star["c_fe"] - star["o_fe"] < np.log10(0.95):
            return star


def draw_abundances(seed, index, teff, logg, fe_h):
    """Draw the other labels of a star with these ones, following the trends of the Galaxy.

    Parameters
    ----------
    seed : int
        Seed of the sequence.
    index : int
        Number of the star in it.
    teff, logg, fe_h : float
        Its effective temperature [K], gravity [dex(cm s-2)] and [Fe/H].

    Returns
    -------
    dict of str to float
        All of `SYNTHESIS_LABELS`, in their order.
    """
    rng = np.random.default_rng([int(seed), int(index)])
    alpha = _galactic_alpha(fe_h)
    return _draw_abundances(rng, 0.0, teff, logg, fe_h, 1.1 * alpha, alpha)


def _draw_like_apogee(rng):
    """Return teff, logg, fe_h, [O/Fe] and [Mg/Fe] of a star of APOGEE."""
    weight, mean, root = _apogee_stars()
    number = rng.choice(len(weight), p=weight)
    star = mean[number] + root[number] @ rng.standard_normal(5)
    return star + rng.normal(0.0, (60.0, 0.1, 0.08, 0.05, 0.05))


def _draw_widely(rng):
    """Return teff, logg, fe_h, [O/Fe] and [Mg/Fe] of a star anywhere on the evolutionary tracks."""
    fe_h = rng.uniform(-3.0, 0.6) if rng.random() < 0.6 else rng.normal(-0.4, 0.5)
    if rng.random() < 0.5:
        # giant branch of old stars, hotter where metal-poor; a fifth lie to its hot side
        logg = rng.uniform(-0.3, 3.8)
        teff = np.interp(logg, (-0.3, 1.0, 2.0, 2.5, 3.0, 3.8), (3430.0, 3950.0, 4450.0, 4720.0, 4880.0, 5050.0))
        teff += -260.0 * fe_h + rng.normal(0.0, 150.0)
        if rng.random() < 0.2:
            teff += rng.exponential(400.0)
    else:
        # main sequence; half of the stars hot enough have evolved off it
        teff = rng.uniform(3300.0, 8000.0)
        sequence = (
            (3300.0, 3700.0, 4200.0, 5000.0, 6000.0, 7000.0, 8000.0),
            (4.95, 4.78, 4.66, 4.57, 4.38, 4.24, 4.15),
        )
        logg = np.interp(teff, *sequence) + rng.normal(0.0, 0.1)
        if teff > 5000.0 and rng.random() < 0.5:
            logg -= rng.uniform(0.0, 0.9)
    alpha = _galactic_alpha(fe_h) * (1.0 if rng.random() < 0.6 else rng.random())
    return teff, logg, fe_h, 1.1 * alpha + rng.normal(0.0, 0.05), alpha + rng.normal(0.0, 0.05)


def _galactic_alpha(fe_h):
    """Return [alpha/Fe] of most stars of the Galaxy."""
    return np.interp(fe_h, (-1.0, 0.1), (0.35, 0.0))


def _draw_abundances(rng, scatter, teff, logg, fe_h, o_fe, mg_fe):
    """Return all labels of a star, given those that were drawn first."""
    alpha = 0.5 * (o_fe + mg_fe)
    trend = {"c": 0.0, "n": 0.0, "o": o_fe, "na": 0.0, "mg": mg_fe, "al": 0.6 * alpha, "si": 0.8 * alpha}
    trend |= {
        "ca": 0.7 * alpha,
        "ti": 0.7 * alpha,
        "cr": 0.0,
        "mn": np.interp(fe_h, (-1.0, 0.0), (-0.3, 0.0)),
        "ni": 0.0,
    }
    if logg < 3.4:
        mixing = rng.random()
        extra = rng.random() * np.clip(-fe_h - 1.0, 0.0, 1.0) * np.clip(2.0 - logg, 0.0, 1.0)
        trend["c"] = -0.05 - 0.25 * mixing - 0.5 * extra
        trend["n"] = 0.10 + 0.40 * mixing + 0.3 * extra
    star = {f"{e}_fe": trend[e] + scatter * rng.normal(0.0, _SCATTER.get(e, 0.18)) for e in _ABUNDANCES}
    star["vmicro"] = microturbulence(teff, logg) * np.exp(rng.normal(0.0, 0.2))
    ratio = rng.uniform(np.log(5.0), np.log(100.0)) if rng.random() < 0.5 else np.log(_isotopic_ratio(logg))
    star["c12_c13"] = np.exp(ratio + rng.normal(0.0, 0.2))
    star |= {"teff": teff, "logg": logg, "fe_h": fe_h}
    return {name: float(star[name]) for name in SYNTHESIS_LABELS}
