"""How synthetic spectra compare with real ones."""

import time
from pathlib import Path

import numpy as np
from astropy.stats import mad_std

from ..adapters import from_arrays
from ..datasets import read_miles
from ..exceptions import InputValueError
from .emulator import load_emulator
from .fitting import fit_labels

__all__ = ["benchmark_synthesis"]

# synthetic spectra differ from real ones by some per cent, however good the data
_MODEL_ERROR = 0.02
# MILES has a full width at half maximum of 2.5 Angstrom: this resolving power in the middle
_MILES_POWER, _MILES_RANGE = 2000, (4200.0, 6800.0)


def benchmark_synthesis(data_folder, model=None, rivals=True, n_star=30):
    """Fit synthetic spectra, by way of the emulators, to real stars.

    Two stars of APOGEE in the H band, and stars of the MILES library with known labels
    in the optical. Nothing was tuned to any of them.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Holds the folders ``apogee``, with apStar files, and ``miles``.
    model : str or pathlib.Path, optional
        Folder of the emulators ``apogee`` and ``optical``; those in the package when
        left out.
    rivals : bool, optional
        Not used; there are none.
    n_star : int, optional
        Number of stars of MILES.

    Yields
    ------
    str
        Lines of the report; what is missing is said and left out.
    """
    for name, measure in (("apogee", _fit_apogee), ("optical", lambda *a: _fit_miles(*a, n_star=n_star))):
        try:
            emulator = load_emulator(name if model is None else Path(model) / name)
        except InputValueError as error:
            yield f"no emulator {name}: {error}"
            continue
        yield f"{emulator!r}"
        try:
            yield from measure(emulator, Path(data_folder))
        except (InputValueError, OSError) as error:
            yield f"no stars for {name}: {error}"


def _read_apstar(path):
    """Return the combined spectrum of an apStar file, in vacuum and at rest."""
    from astropy.io import fits

    with fits.open(path) as file:
        header, star = file[1].header, file[0].header.get("OBJID", Path(path).stem)
        flux, sigma, mask = (np.atleast_2d(file[i].data)[0] for i in (1, 2, 3))
    wavelength = 10.0 ** (header["CRVAL1"] + header["CDELT1"] * np.arange(len(flux)))
    # without the strict policy, residuals of sky lines are the largest of all
    return from_arrays(
        wavelength, flux, sigma, mask, mask_policy="apogee_dr17_strict", resolving_power=22_500, identifier=[star]
    )[0]


def _fit_apogee(emulator, folder):
    """Yield what fits to the stars of APOGEE give."""
    files = sorted((folder / "apogee").glob("apStar-*.fits"))
    if not files:
        raise InputValueError(f"data: no apStar-*.fits in {folder / 'apogee'}")
    for path in files:
        star = _read_apstar(path)
        yield f"{star.identifier}: {star.n_good} good pixels, S/N {star.snr:.0f}, resolving power 22500"
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
