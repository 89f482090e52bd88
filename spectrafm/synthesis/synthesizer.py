"""Synthetic spectra from first principles: C3K atmospheres, SMElib radiative transfer, lines of four lists.

The lists are those of APOGEE, the Gaia-ESO Survey, VALD and linemake, see `spectrafm.synthesis.linelists`.
"""

import threading
import warnings
from functools import lru_cache

import numpy as np

from .._spectral_units import FWHM_OVER_SIGMA, SPEED_OF_LIGHT
from .._warning_filters import catch_warnings
from ..exceptions import InputValueError, SpectraFMError
from ._smelib import load_smelib, stark_convolution
from .atmosphere import atmosphere_columns
from .labels import SYNTHESIS_LABELS, atmosphere_alpha, complete_labels
from .linelists import ELEMENTS, load_linelist
from .windows import get_window

__all__ = ["abundances", "check_ready", "line_strengths", "synthesize", "synthesize_normalized"]

_BOLTZMANN = 1.380649e-16  # erg/K
_ATOMIC_MASS = 1.66054e-24  # g

# Asplund et al. 2009, ARA&A 47, 481: photospheric, log N with N(H) = 12, by atomic number;
# meteoritic values where there is no photospheric one, and -99 for elements without stable isotopes.
_SOLAR = np.array(
    [12.00, 10.93, 1.05, 1.38, 2.70, 8.43, 7.83, 8.69, 4.56, 7.93, 6.24, 7.60, 6.45, 7.51, 5.41, 7.12, 5.50, 6.40]
    + [5.03, 6.34, 3.15, 4.95, 3.93, 5.64, 5.43, 7.50, 4.99, 6.22, 4.19, 4.56, 3.04, 3.65, 2.30, 3.34, 2.54, 3.25]
    + [2.52, 2.87, 2.21, 2.58, 1.46, 1.88, -99.0, 1.75, 0.91, 1.57, 0.94, 1.71, 0.80, 2.04, 1.01, 2.18, 1.55, 2.24]
    + [1.08, 2.18, 1.10, 1.58, 0.72, 1.42, -99.0, 0.96, 0.52, 1.07, 0.30, 1.10, 0.48, 0.92, 0.10, 0.84, 0.10, 0.85]
    + [-0.12, 0.85, 0.26, 1.40, 1.38, 1.62, 0.92, 1.17, 0.90, 1.75, 0.65] + [-99.0] * 6
    + [0.02, -99.0, -0.54] + [-99.0] * 7
)  # fmt: skip

# Factor on the van der Waals broadening by Unsoeld's formula, for lines without a
# broadening constant of their own.
_VAN_DER_WAALS = 2.5
# The continuous opacity is smooth: it is computed every so many Angstrom.
_CONTINUUM_STEP = 10.0
# Lines so far beyond the ends still matter [Angstrom]; hydrogen always does.
_BEYOND = 12.0
# Lines are left out that show only in reference stars cooler or hotter than the star by more than
# this [K]. With 900 K instead of 600 the flux of giants changes by 0.0005 at most, that of dwarfs with
# [Fe/H] 0.5 and more titanium and oxygen by 0.006, and stars of 4850-5100 K take three times as long: TiO.
_COOLER, _HOTTER = 600.0, 500.0
# Brackett profiles of the library end 40 Angstrom from the line's center.
_BRACKETT_REACH = 36.0
# Farthest wing of other hydrogen lines that is computed [Angstrom].
_HYDROGEN_REACH = 250.0
# Hydrogen lines are synthesized together with the others where they alone are deeper
# than this; their farther wings are multiplied in.
_JOINT_DEPTH = 0.005

# SMElib keeps its state in global variables
_lock = threading.Lock()


def abundances(labels):
    """Return the abundances of all elements as SMElib takes them.

    Parameters
    ----------
    labels : dict of str to float
        Complete labels.

    Returns
    -------
    numpy.ndarray
        ``(99,)`` float64: number fractions, of elements beyond helium as decimal
        logarithms.
    """
    pattern = _SOLAR.copy()
    pattern[2:] += labels["fe_h"]
    shifts = {name[:-3].capitalize(): value for name, value in labels.items() if name.endswith("_fe")}
    # alpha elements without a label of their own follow those with one
    shifts |= dict.fromkeys(("Ne", "S", "Ar"), atmosphere_alpha(labels))
    for element, shift in shifts.items():
        pattern[ELEMENTS.index(element)] += shift
    number = np.where(pattern > -50, 10.0 ** (pattern - 12.0), 0.0)
    fraction = number / number.sum()
    with np.errstate(divide="ignore"):
        return np.concatenate((fraction[:2], np.maximum(np.log10(fraction[2:]), -99.0)))


def _layers(outer_step):
    """Return which of the 80 layers are used: all where spectra form, fewer outside and below."""
    # the deepest, far below every line, are where the equation of state may not converge
    return np.r_[0:36:outer_step, 36:66, 66:76:4]


def _set_model(library, labels, outer_step):
    """Give the library a model atmosphere and solve its equation of state."""
    columns = atmosphere_columns(labels["teff"], labels["logg"], labels["fe_h"], atmosphere_alpha(labels))
    rhox, temperature, pressure, n_electron = np.ascontiguousarray(columns[:, _layers(outer_step)])
    n_atom = pressure / (_BOLTZMANN * temperature) - n_electron
    composition = abundances(labels)
    library.InputModel(
        float(labels["teff"]),
        float(labels["logg"]),
        5000.0,
        "RHOX",
        np.ones(20, dtype=np.int16),
        rhox,
        temperature,
        n_electron,
        n_atom,
        n_atom * 1.26 * _ATOMIC_MASS,
        np.full(len(rhox), float(labels["vmicro"])),
    )
    library.InputAbund(composition)
    with catch_warnings():
        # that its electron density is another one than the model's
        warnings.simplefilter("ignore")
        # 7: densities of particles, electrons and mass from the equation of state
        library.Ionization(7)
    library.SetVWscale(_VAN_DER_WAALS)
    library.SetH2broad()


def _set_lines(library, species, atomic, lower, upper):
    atomic = np.array(atomic, dtype=np.float64, order="C")
    # the library multiplies constants that are given with the factor on Unsoeld's formula as well
    atomic[7, atomic[7] < 0] -= np.log10(_VAN_DER_WAALS)
    library.InputLineList(np.asarray(species, dtype="S8"), atomic)
    # 2: line ranges and masks given from here are trusted
    library.SetLineInfoMode(2)
    # 2: a fixed grid
    library.SetContinuumOpacityGrid(2, _CONTINUUM_STEP, 1e-3, 1e-3)
    library.InputWaveRange(float(lower), float(upper))


def line_strengths(species, atomic, teff, logg, window):
    """Return how strong lines are in a metal-rich reference star, each on its own.

    Parameters
    ----------
    species : numpy.ndarray
        ``(n_line,)`` bytes.
    atomic : numpy.ndarray
        ``(8, n_line)`` float64, as in `LineList`.
    teff, logg : float
        Effective temperature [K], logarithm of gravity [dex(cm s-2)].
    window : Window
        Window of the lines.

    Returns
    -------
    ratio : numpy.ndarray
        ``(n_line,)`` float64, central over continuous opacity, greatest of all layers.
    depth : numpy.ndarray
        ``(n_line,)`` float64, depth at the line's centre.
    """
    labels = complete_labels({"teff": teff, "logg": logg, "fe_h": 0.5, "c_fe": 0.3, "n_fe": 0.6, "o_fe": 0.3})
    labels |= {name: 0.4 for name in SYNTHESIS_LABELS[6:] if name.endswith("_fe")}
    labels["vmicro"] = 1.0
    library = load_smelib()
    with _lock, stark_convolution():
        _set_lines(library, species, atomic, window.wavelength[0] - 2, window.wavelength[-1] + 2)
        _set_model(library, labels, 4)
        library.Opacity()
        ratio = np.array(library.ALMAXRange(accrt=1e-3)[0])
        return ratio, np.array(library.CentralDepth(np.array([0.6]), 1e-3))


@lru_cache(maxsize=8)
def _angles(n_angle):
    """Return cosines and weights of the flux integral, Gauss-Legendre between 0 and 1."""
    x, weight = np.polynomial.legendre.leggauss(n_angle)
    mu = 0.5 * (x + 1)
    return np.ascontiguousarray(mu), weight * mu / (weight * mu).sum()


def _transfer(library, window, wavelength, start, end, strong):
    """Return the normalised flux with some of the lines, at ascending wavelengths."""
    library.InputLinePrecomputedInfo(start, end, strong.astype(np.uint8))
    mu, weight = _angles(window.n_angle)
    n, _, line, continuum = library.Transf(
        mu, np.ascontiguousarray(wavelength), len(wavelength), window.threshold, 3e-3, 0, 1
    )
    if n != len(wavelength):
        raise SpectraFMError(f"SMElib gave {n} of {len(wavelength)} wavelengths")
    return (line @ weight) / (continuum @ weight)


def _coarse(center, reach, lower, upper):
    """Return wavelengths that follow hydrogen lines: close at their centers, wide in their wings."""
    offset = np.concatenate(([0.0], 0.06 * 1.36 ** np.arange(30)))
    offset = np.concatenate((-offset[:0:-1], offset[1:]))
    ends = np.array([lower, upper])
    # profiles that end before have a step there
    steps = (center[:, None] + reach[:, None] * np.array([-1.0, 1.0])).ravel()
    grid = np.concatenate((center, (center[:, None] + offset).ravel(), steps - 0.02, steps + 0.02, ends))
    grid = np.unique(grid[(grid >= lower) & (grid <= upper)])
    return grid[np.concatenate(([True], np.diff(grid) > 0.01))]


def _brackett(library, window, lines, wavelength):
    """Return the absorption (-ln flux) by Brackett lines alone."""
    from scipy.interpolate import PchipInterpolator

    center = lines.atomic[2]
    absorption = np.zeros(len(wavelength))
    # profiles are symmetric: their red sides do
    offset = np.append(0.0, np.geomspace(0.1, _BRACKETT_REACH, 20))
    for numbers in _apart(center, lines.is_hydrogen & (lines.atomic[6] == 4), 2 * _BRACKETT_REACH + 5.0):
        chosen = np.isin(np.arange(len(center)), numbers)
        grid = (center[numbers][:, None] + offset).ravel()
        flux = _transfer(library, window, grid, center - 40.0, center + 40.0, chosen)
        for number, depth in zip(numbers, -np.log(flux).reshape(-1, len(offset)), strict=True):
            at = np.abs(wavelength - center[number])
            inside = at <= _BRACKETT_REACH
            absorption[inside] += PchipInterpolator(offset, depth)(at[inside])
            # the profiles of the library end there; the wings of linear Stark broadening do not
            absorption[~inside] += depth[-1] * (at[~inside] / _BRACKETT_REACH) ** -2.5
    return absorption


def _apart(center, which, distance):
    """Return the numbers of some lines in groups, in each of which lines are farther apart than a distance."""
    groups = []
    for number in np.flatnonzero(which):
        for group in groups:
            if center[number] - center[group[-1]] > distance:
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _joint_reach(library, window, lines, which):
    """Return how far from its center each hydrogen line is deep enough to be synthesized with the others."""
    center = lines.atomic[2]
    reach = np.zeros(len(center))
    offset = np.geomspace(0.3, _HYDROGEN_REACH, 24)
    for number in np.flatnonzero(which):
        only = np.arange(len(center)) == number
        start, end = center - 2 * _HYDROGEN_REACH, center + 2 * _HYDROGEN_REACH
        depth = 1 - _transfer(library, window, center[number] + offset, start, end, only)
        if (depth > _JOINT_DEPTH).any():
            reach[number] = offset[np.flatnonzero(depth > _JOINT_DEPTH)[-1]]
    return reach


def _fine_flux(labels, window):
    """Return wavelengths and normalised flux as synthesized, before any convolution."""
    from scipy.interpolate import PchipInterpolator

    stored, margin = window.wavelength, 4.0 / window.base_resolving_power
    step = window.synthesis_step / SPEED_OF_LIGHT
    n_step = int(np.ceil((np.log(stored[-1] / stored[0]) + 2 * margin) / step))
    wavelength = stored[0] * np.exp(-margin + step * np.arange(n_step + 1))
    lines = load_linelist(window)
    near = (lines.atomic[2] > wavelength[0] - _BEYOND) & (lines.atomic[2] < wavelength[-1] + _BEYOND)
    shows = (lines.coolest <= labels["teff"] + _HOTTER) & (lines.hottest >= labels["teff"] - _COOLER)
    lines = lines.take((near | lines.is_hydrogen) & shows)
    atomic = lines.atomic.copy()
    ratio = labels["c12_c13"]
    atomic[4] += np.log10([ratio / (1 + ratio), 1 / (1 + ratio)]) @ lines.n_carbon
    center, is_hydrogen = atomic[2], lines.is_hydrogen
    library = load_smelib()
    with _lock, stark_convolution():
        _set_lines(library, lines.species, atomic, wavelength[0] - 2, wavelength[-1] + 2)
        _set_model(library, labels, window.outer_layer_step)
        library.Opacity()
        almax, span = (np.asarray(a) for a in library.ALMAXRange(accrt=window.threshold))
        strong = (almax >= window.threshold) & ~is_hydrogen
        start = np.where(is_hydrogen, center - _HYDROGEN_REACH, span[:, 0])
        end = np.where(is_hydrogen, center + _HYDROGEN_REACH, span[:, 1])
        absorption = _brackett(library, window, lines, wavelength)
        stark = is_hydrogen & (atomic[6] != 4)
        if stark.any():
            reach = _joint_reach(library, window, lines, stark)
            grid = _coarse(center[stark], reach[stark], wavelength[0], wavelength[-1])
            flux = _transfer(library, window, grid, center - _HYDROGEN_REACH, center + _HYDROGEN_REACH, stark)
            joint = reach > 0
            if joint.any():
                flux /= _transfer(library, window, grid, center - reach, center + reach, joint)
                strong |= joint
                start, end = np.where(joint, center - reach, start), np.where(joint, center + reach, end)
            absorption -= PchipInterpolator(grid, np.log(flux))(wavelength)
        flux = _transfer(library, window, wavelength, start, end, strong)
    return wavelength, flux * np.exp(-absorption)


def _check(flux, labels):
    """Refuse what cannot be a spectrum: the library has ways to fail in silence."""
    problem = None
    if not np.isfinite(flux).all():
        problem = "flux that is not finite"
    elif (flux <= 0).any() or flux.max() > 1.01:
        problem = f"flux between {flux.min():.3g} and {flux.max():.3g}, expected above 0 and up to 1"
    elif np.ptp(flux) < 1e-4:
        problem = "no lines at all"
    if problem:
        star = ", ".join(f"{name} {value:.4g}" for name, value in labels.items())
        raise SpectraFMError(f"the synthesis gave {problem} for {star}")


def check_ready(window):
    """Raise what stands in the way of a synthesis: a package or a file that is missing.

    Parameters
    ----------
    window : str or Window
        Name or window.

    Raises
    ------
    MissingDependencyError
        A package is not installed.
    InputValueError
        The window is not known, or line lists or atmospheres have not been prepared.
    """
    load_smelib()
    load_linelist(window)
    atmosphere_columns(5777.0, 4.44, 0.0, 0.0)


def synthesize_normalized(labels, window):
    """Synthesize one star at the base resolving power of a window, as grids store it.

    Parameters
    ----------
    labels : dict of str to float
        Labels by name, see `SYNTHESIS_LABELS`; those left out are completed.
    window : str or Window
        Name or window.

    Returns
    -------
    numpy.ndarray
        ``(n_pixel,)`` float64, continuum-normalised, at ``window.wavelength``.

    Raises
    ------
    InputTypeError, InputValueError
        The labels or the window cannot be used, or there are no line lists.
    MissingDependencyError
        PySME is not installed.
    SpectraFMError
        What the library gave is not a spectrum.
    """
    window = get_window(window)
    return _synthesize(complete_labels(labels), window, window.wavelength, window.base_resolving_power)


def synthesize(labels, window, resolving_power=None):
    """Synthesize the spectrum of a star.

    LTE in a plane-parallel C3K atmosphere. The compiled library holds its state in
    global variables: there is one synthesis at a time in a process, and where its
    equation of state does not converge it may end the process. `build_grid` gives
    each star to a process of its own that may be lost.

    Parameters
    ----------
    labels : dict of str to float
        ``teff`` [K] and ``logg`` [dex(cm s-2)] at least; of the others, see
        `SYNTHESIS_LABELS`, abundances left out are those of the Sun scaled with
        ``fe_h``, ``vmicro`` [km / s] and ``c12_c13`` typical ones.
    window : str or Window
        Name in `WINDOWS`, or a part of one of these: ``dataclasses.replace`` with
        other ends.
    resolving_power : float, optional
        Resolving power of the spectrum, Gaussian; by default the window's nominal
        one, at most its base resolving power.

    Returns
    -------
    `~specutils.Spectrum`
        Continuum-normalised flux, dimensionless, at vacuum wavelengths in the rest
        frame. ``meta`` has the labels, the resolving power and the source.

    Raises
    ------
    InputTypeError, InputValueError
        An argument cannot be used, or there are no line lists: the message says how
        to make them.
    MissingDependencyError
        PySME is not installed.
    SpectraFMError
        What the library gave is not a spectrum.

    Examples
    --------
    >>> from spectrafm.synthesis import synthesize
    >>> sun = synthesize({"teff": 5777, "logg": 4.44}, "gaia_rvs")  # doctest: +SKIP
    """
    from astropy import units as u
    from specutils import Spectrum

    window = get_window(window)
    complete = complete_labels(labels)
    if resolving_power is None:
        resolving_power = window.resolving_power
    if not 0 < resolving_power <= window.base_resolving_power:
        raise InputValueError(
            f"resolving_power: got {resolving_power}, expected a number above 0 and up to "
            f"{window.base_resolving_power:g} in the window {window.name!r}"
        )
    wavelength = window.wavelength
    wavelength = wavelength[(wavelength >= window.lower) & (wavelength <= window.upper)]
    flux = _synthesize(complete, window, wavelength, float(resolving_power))
    meta = {
        "labels": complete,
        "window": window.name,
        "resolving_power": float(resolving_power),
        "medium": "vacuum",
        "lines": load_linelist(window).provenance["source"],
    }
    return Spectrum(flux=flux * u.dimensionless_unscaled, spectral_axis=wavelength * u.AA, meta=meta)


def _synthesize(labels, window, wavelength, resolving_power):
    fine, flux = _fine_flux(labels, window)
    _check(flux, labels)
    return 1.0 - _smooth(np.log(fine), 1.0 - flux, np.log(wavelength), resolving_power)


def _smooth(x, y, at, resolving_power):
    """Convolve with a Gaussian of unit area in ln wavelength, and sample it elsewhere; ``x`` is even."""
    sigma = 1.0 / resolving_power / FWHM_OVER_SIGMA
    step = (x[-1] - x[0]) / (len(x) - 1)
    reach = int(np.ceil(5 * sigma / step))
    nearest = np.rint((at - x[0]) / step).astype(int)
    index = nearest[:, None] + np.arange(-reach, reach + 1)
    inside = (index >= 0) & (index < len(x))
    weight = np.where(inside, np.exp(-0.5 * ((x[0] + index * step - at[:, None]) / sigma) ** 2), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    return (weight * y[np.clip(index, 0, len(x) - 1)]).sum(axis=1)
