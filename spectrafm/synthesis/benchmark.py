"""How synthetic spectra compare with real ones."""

import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from astropy import units as u
from astropy.stats import mad_std

from .._spectral_units import FWHM_OVER_SIGMA, air_to_vacuum
from ..adapters import from_arrays
from ..datasets import read_miles
from ..exceptions import CheckpointError, InputValueError
from ._unpickle import ArraysOnly
from .emulator import load_emulator
from .fitting import fit_labels
from .instrument import observe

__all__ = ["NOMINAL_POWER", "benchmark_synthesis", "cannon_spectra", "read_apstar", "read_cannon"]

# synthetic spectra differ from real ones by some per cent, however good the data
_MODEL_ERROR = 0.02
# MILES has a full width at half maximum of 2.5 Angstrom everywhere (Falcon-Barroso et al. 2011); it is broadened
# to one resolving power, which is about that of its blue end
_MILES_FWHM, _MILES_POWER, _MILES_RANGE = 2.5, 1650, (4200.0, 6800.0)
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
_CANNON_FILE = "doppler/data/cannongrid_3000_18000_coolstars_norm_cubic_model.pkl"
#: Resolving powers at which emulators are compared.
NOMINAL_POWER = {"apogee": 22_500, "gaia_rvs": 11_500, "optical": 2000}
# the resolving power of its spectra, and of the grid that they are broadened on
_CANNON_SHARP = 150_000


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


def read_apstar(path):
    """Return the combined spectrum of an apStar file, in vacuum and at rest.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    SpectrumArrays
    """
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
        star = read_apstar(path)
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
        flux = _broaden(wavelength, flux, _MILES_FWHM, _MILES_POWER)
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


def _broaden(wavelength, flux, fwhm, power):
    """Return a spectrum whose lines are ``fwhm`` wide at one resolving power, where it allows for it."""
    extra = np.sqrt(np.clip((wavelength / power) ** 2 - fwhm**2, 0.0, None))
    sigma = np.maximum(extra / FWHM_OVER_SIGMA, 1e-3)[:, None]  # [Angstrom]
    weight = np.exp(-0.5 * ((wavelength - wavelength[:, None]) / sigma) ** 2) * np.isfinite(flux)
    return weight @ np.nan_to_num(flux) / weight.sum(axis=1)


def read_cannon(folder):
    """Read the model of The Cannon that thedoppler has for cool stars.

    Parameters
    ----------
    folder : pathlib.Path
        Has ``thedoppler`` with the wheel of that package in it.

    Returns
    -------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum].
    flux : callable
        ``flux((teff, logg, fe_h))`` are continuum-normalised spectra, ``(n_pixel,)``.

    Raises
    ------
    InputValueError, CheckpointError
        A wheel that is missing, or that cannot be read.
    """
    wheels = sorted((folder / "thedoppler").glob("thedoppler-*.whl"))
    if not wheels:
        raise InputValueError(f"data: no thedoppler-*.whl in {folder / 'thedoppler'}")
    try:
        with zipfile.ZipFile(wheels[-1]) as wheel, wheel.open(_CANNON_FILE) as stream:
            model = ArraysOnly(stream, encoding="latin1").load()
    except (KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise CheckpointError(f"data: {wheels[-1].name} cannot be read ({error}); expected version 1.1.32") from error
    known = np.asarray(model["training_set_labels"], dtype=np.float64)  # (n_star, 3)
    # The Cannon scales labels with the range that holds 95 per cent
    scale, fiducial = np.ptp(np.percentile(known, (2.5, 97.5), axis=0), axis=0), np.median(known, axis=0)
    terms = model["vectorizer"][1]["terms"]

    def flux(labels):
        x = (np.asarray(labels) - fiducial) / scale
        design = [1.0, *(np.prod([x[i] ** power for i, power in term]) for term in terms)]
        return model["theta"] @ np.array(design)

    return air_to_vacuum(np.asarray(model["dispersion"], dtype=np.float64)), flux


def cannon_spectra(folder, info):
    """Return what the usual instrument of an emulator sees of stars of The Cannon.

    Parameters
    ----------
    folder : pathlib.Path
        As for `read_cannon`.
    info : EmulatorInfo
        Of one of the packaged emulators. What is cut off at the ends of its window is not looked at.

    Returns
    -------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum].
    seen : callable
        ``seen(stars, velocity)`` are spectra ``(n_velocity, n_pixel)`` of stars of these ``(teff, logg, fe_h)``, each
        with its velocity [km / s], or of one of them with all of these.
    """
    wavelength, cannon = read_cannon(folder)
    power, (low, high) = NOMINAL_POWER[info.name], info.window
    # what is even in ln(wavelength) is broadened
    even = np.exp(np.arange(np.log(low), np.log(high), 1 / _CANNON_SHARP))
    at = np.exp(np.arange(np.log(low * 1.002), np.log(high * 0.998), 1 / (3 * power)))

    def seen(stars, velocity):
        flux = torch.from_numpy(np.stack([np.interp(even, wavelength, cannon(star)) for star in stars]))
        flux = flux.expand(len(velocity), -1)
        shifted = {"resolving_power": power, "radial_velocity": torch.from_numpy(velocity), "at": at}
        return observe(flux, even, _CANNON_SHARP, **shifted).numpy()

    return at, seen


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
