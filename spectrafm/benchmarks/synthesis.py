"""How synthetic spectra compare with real ones."""

import time
from pathlib import Path

import numpy as np
from astropy import units as u

from .._numerics import mad_std
from ..adapters import from_arrays
from ..datasets import read_miles
from ..exceptions import CheckpointError, InputValueError
from ..synthesis import fit_labels, load_emulator
from .cannon import cannon_spectra
from .stars import MILES_FWHM, NOMINAL_POWER, broaden, read_apstars

__all__ = ["benchmark_synthesis"]

# synthetic spectra differ from real ones by some per cent, however good the data
_MODEL_ERROR = 0.02
# MILES, whose lines are equally wide everywhere, is broadened to one resolving power, about that of its blue end
_MILES_POWER, _MILES_RANGE = 1650, (4200.0, 6800.0)
# stars for which spectra are laid beside those of The Cannon: teff, logg, fe_h
_CANNON_STARS = (
    (3800, 1.0, 0.0),
    (4000, 1.5, 0.0),
    (4200, 4.6, 0.0),
    (4500, 1.5, -1.0),
    (4500, 2.0, 0.0),
    (5000, 3.0, -0.5),
    (5500, 3.0, -2.0),
    (5770, 4.44, 0.0),
    (6500, 4.0, -0.3),
    (7000, 4.0, 0.0),
)


def benchmark_synthesis(data_folder, model=None, rivals=True, n_star=30):
    """Compare synthetic spectra, by way of the emulators, with what was made elsewhere.

    They are fitted to two stars of APOGEE in the H band, and to stars of the MILES
    library with known labels in the optical; and they are laid beside the model of The
    Cannon that thedoppler has for stars of 3500 to 8000 K (Nidever 2021; synthetic
    spectra of other atmospheres, lines and codes). Nothing was tuned to any of them.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Holds the folders ``apogee``, with apStar files, and ``miles``, and for the
        comparison with The Cannon ``thedoppler`` with the wheel of that package, as
        ``pip download --no-deps -d thedoppler thedoppler==1.1.32`` leaves it there.
    model : str or pathlib.Path, optional
        Folder of the emulators ``apogee``, ``gaia_rvs`` and ``optical``; those in the
        package when left out.
    rivals : bool, optional
        Whether to compare with The Cannon.
    n_star : int, optional
        Number of stars of MILES.

    Yields
    ------
    str
        Lines of the report; what is missing is said and left out.
    """
    folder = Path(data_folder)
    parts = [("apogee", _fit_apogee), ("optical", lambda *a: _fit_miles(*a, n_star=n_star))]
    if rivals:
        parts += [(name, _compare_cannon) for name in ("apogee", "gaia_rvs", "optical")]
    for name, measure in parts:
        try:
            emulator = load_emulator(name if model is None else Path(model) / name)
        except InputValueError as error:
            yield f"no emulator {name}: {error}"
            continue
        yield f"{emulator!r}"
        try:
            yield from measure(emulator, folder)
        except (InputValueError, CheckpointError, OSError) as error:
            yield f"no comparison of {name}: {error}"


def _fit_apogee(emulator, folder):
    """Yield what fits to the stars of APOGEE give."""
    stars = read_apstars(folder)
    if not stars:
        raise InputValueError(f"data: no apStar-*.fits in {folder / 'apogee'}")
    for star in stars:
        power = NOMINAL_POWER["apogee"]
        yield f"{star.identifier}: {star.n_good} good pixels, S/N {star.snr:.0f}, resolving power {power}"
        for told, free in (("all labels free", emulator.label_names), ("solar mixture", ("teff", "logg", "fe_h"))):
            start = time.perf_counter()
            fit = fit_labels(emulator, star, free=(*free, "radial_velocity"), model_error=_MODEL_ERROR)
            yield f"  {told}: {_told(fit)}; {time.perf_counter() - start:.1f} s"
            yield "    " + ", ".join(
                f"{name} {fit.labels[name]:.{0 if name == 'teff' else 2}f}"
                + (" (edge of the range)" if name in fit.at_edge else f" +- {fit.errors[name]:.2g}")
                for name in fit.free
            )


def _told(fit):
    return f"residual RMS {fit.residual_rms:.4f}, correlation {fit.correlation:.3f}, {len(fit.flux)} pixels"


def _fit_miles(emulator, folder, n_star):
    """Yield what fits to stars of MILES give, beside their labels in the catalogue."""
    stars = read_miles(folder / "miles")
    labels = np.stack([stars.labels[name] for name in ("teff", "logg", "fe_h")], axis=1)
    low, high = np.array([emulator.label_ranges[name] for name in ("teff", "logg", "fe_h")]).T
    # some way from the ends, so that a fit may go either way
    within = (labels > low + 0.05 * (high - low)) & (labels < high - 0.05 * (high - low))
    known = np.flatnonzero(within.all(axis=1))
    chosen = np.sort(np.random.default_rng(0).permutation(known)[:n_star])
    yield f"{len(chosen)} stars of MILES, drawn at random; [Mg/Fe] free too, resolving power {_MILES_POWER}"
    yield f"  {'star':<12} {'catalogue':^22} {'fit':^22} {'[Mg/Fe]':>8} {'RMS':>7} {'corr.':>6}"
    found, rms = [], []
    for row in chosen:
        wavelength, flux = stars.wavelength, stars.flux[row]
        inside = (wavelength > _MILES_RANGE[0]) & (wavelength < _MILES_RANGE[1])
        # to one resolving power, where its width allows for it
        width = np.sqrt(np.clip((wavelength / _MILES_POWER) ** 2 - MILES_FWHM**2, 0.0, None))
        [flux] = broaden(wavelength, flux[None], width)
        star = from_arrays(wavelength[inside], flux[inside], resolving_power=_MILES_POWER)[0]
        free = ("teff", "logg", "fe_h", "mg_fe", "radial_velocity")
        fit = fit_labels(emulator, star, free=free, degree=3, piece=300.0)
        found.append([fit.labels[name] for name in ("teff", "logg", "fe_h")])
        rms.append(fit.residual_rms)
        pairs = "   ".join("{:6.0f} {:6.2f} {:+6.2f}".format(*values) for values in (labels[row], found[-1]))
        rest = f"{fit.labels['mg_fe']:+8.2f} {rms[-1]:7.4f} {fit.correlation:6.3f}"
        yield f"  {stars.identifier[row]:<12} {pairs}   {rest}"
    yield f"  median residual RMS {np.median(rms):.4f}, largest {max(rms):.4f}"
    for name, residual in zip(("teff", "logg", "fe_h"), (np.array(found) - labels[chosen]).T, strict=True):
        yield f"  {name}: bias {np.median(residual):+.4g}, mad_std {mad_std(residual):.4g}, fit less catalogue"


def _compare_cannon(emulator, folder):
    """Yield how spectra differ from those of The Cannon."""
    at, seen = cannon_spectra(folder, emulator.info)
    power = NOMINAL_POWER[emulator.info.name]
    yield f"beside the model of The Cannon in thedoppler, resolving power {power}"
    yield f"  {'teff':>5} {'logg':>5} {'fe_h':>5} {'RMS':>7} {'median':>8} {'corr.':>6} {'km/s':>6}  mean absorption"
    for labels in _CANNON_STARS:
        ours = emulator.spectrum(
            **dict(zip(("teff", "logg", "fe_h"), labels, strict=True)), resolving_power=power, spectral_axis=at * u.AA
        ).flux.value
        velocity = np.arange(-5.0, 5.01, 0.5)
        shifted = seen([labels], velocity)
        best, at_rest = np.argmin((shifted - ours).std(axis=1)), shifted[len(velocity) // 2]
        difference = at_rest - ours
        yield (
            "  {:5.0f} {:5.2f} {:+5.1f} ".format(*labels)
            + f"{np.sqrt(np.mean(difference**2)):7.4f} {np.median(difference):+8.4f} "
            + f"{np.corrcoef(at_rest, ours)[0, 1]:6.3f} {velocity[best]:+6.1f}  "
            + f"{1 - ours.mean():.3f}, The Cannon {1 - at_rest.mean():.3f}"
        )
