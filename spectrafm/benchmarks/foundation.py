"""What one model for all instruments is worth, kind of spectrum by kind of spectrum."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from astropy import units as u

from .._numerics import mad_std, robust_rms
from .._spectral_units import doppler_factor
from .._table_formats import column_values
from ..adapters import from_arrays
from ..core import SpectraFM
from ..synthesis import cramer_rao_bound, fit_labels, load_emulator
from .cannon import cannon_spectra
from .regressors import predict_labels
from .report import Residuals, coverage, error_cells, label_arrays, result_header, result_line
from .stars import (
    LABELS,
    MILES_FWHM,
    NOMINAL_POWER,
    VSINI,
    SameStars,
    broaden,
    miles_report,
    observed_spectra,
    read_apstars,
    spectra_of_views,
)

__all__ = ["benchmark_foundation", "report_of_apogee", "report_of_miles"]

_N_STAR = 256
# emulators of the lines of another list
_OTHER_LINES = "linemake"
# stars that are fitted
_N_FIT = 12
# stars of MILES on their own pixels of 0.9 Angstrom, blurred to this full width at half maximum [Angstrom]
_BLURRED_FWHM, _BLURRED_POWER = 7.0, 780
# the largest velocity of stars of MILES that are made to move [km / s], and the seed of velocities
_LARGEST_VELOCITY, _VELOCITY_SEED = 300.0, 7


def benchmark_foundation(data_folder, model=None, rivals=True, n_star=_N_STAR):
    """Measure weights that read every instrument.

    Synthetic stars that were in no pool of training, beside the bound of Cramér and Rao:
    at signal-to-noise ratios from 10 to 500, with half of the range, with 100 Angstrom, with
    nine tenths of the pixels missing, with the temperature known from elsewhere, with
    abundances that scatter about the trends as in the Galaxy instead of three times as much, and
    with the lines of another list, or made by another code;
    stars of MILES that nothing was chosen on, as they are, blurred to a resolving power of 780, and
    moving, with velocities that are measured; and the real stars of APOGEE.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Holds the folders ``miles`` and ``apogee``; for lines of another list, ``linemake`` with emulators of
        the names of the packaged ones; for another code, ``thedoppler`` as for
        `~spectrafm.benchmarks.benchmark_synthesis`.
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    rivals : bool, optional
        Measure what others make of the same stars: least squares with the emulator in
        the H band, regression and a support-vector machine on principal components for
        MILES.
    n_star : int, optional
        Synthetic stars of each kind.

    Yields
    ------
    str
        Lines of the report.
    """
    fm = SpectraFM.from_pretrained(model)
    yield f"{fm!r}, {fm.model.n_parameter:,} parameters"
    domains = {domain.name: domain for domain in fm.info.domains}
    for name, power in NOMINAL_POWER.items():
        if name in domains:
            stars = SameStars(name, n_star)
            views = spectra_of_views(fm, stars)
            yield from _synthetic(fm, stars, views, name, power)
            yield _others(fm, SameStars(name, n_star, galactic=1.0), "S/N 100, as in the Galaxy")
            if (other := Path(data_folder) / _OTHER_LINES / name).is_dir():
                yield _others(fm, SameStars(load_emulator(other), n_star), "S/N 100, lines of linemake")
            if name != "optical" and (Path(data_folder) / "thedoppler").is_dir():
                yield _of_the_cannon(fm, name, Path(data_folder), n_star)
            if rivals and name == "apogee":
                yield from _least_squares(fm, stars, views, power)
    if "optical" in domains:
        yield from report_of_miles(fm, data_folder, rivals)
    if "apogee" in domains:
        yield from report_of_apogee(fm, data_folder, rivals)


def _synthetic(fm, stars, views, name, power):
    """Yield how well labels of synthetic stars are told."""
    truth = stars.truth
    labels = [k for k in LABELS if k in fm.info.labels]
    low, high = stars.emulator.info.window
    step = 1 / (3 * power)
    axis = np.exp(np.arange(np.log(low) + step, np.log(high), step)) * u.AA
    everything = {k: truth[k] for k in stars.emulator.label_names}
    # as the noise of these stars is
    instrument = {"resolving_power": power, "vsini": VSINI, "spectral_axis": axis, "noise": "continuum"}
    bound = cramer_rao_bound(stars.emulator, everything, 100.0, **instrument)
    yield f"{name}: {len(stars)} synthetic stars, resolving power {power:g}, 3 pixels a resolution element"
    yield "  error (1.4826 times the median of its size), share within 1 and 2 predicted sigma:"
    yield f"  {'':<26}" + "".join(f"{k:>22}" for k in labels)
    for told, spectra in views.items():
        values, errors = label_arrays(fm.infer(spectra, labels=labels), labels)
        yield f"  {told:<26}" + error_cells(labels, truth, values, errors)
        if told == "S/N 10" and labels[0] == "teff":
            known = {"teff": truth["teff"] + 30 * np.random.default_rng(6).normal(size=len(stars)), "e_teff": 30.0}
            columns = label_arrays(fm.infer(spectra, labels=labels[1:], known=known), labels[1:])
            yield f"  {'  teff known to 30 K':<48}" + error_cells(labels[1:], truth, *columns)
        if told == "S/N 100":
            ratios = [robust_rms((values[k] - truth[k]) / np.asarray(bound[k])) for k in labels]
            yield f"  {'  over Cramer-Rao bound':<26}" + "".join(f"{r:8.2f}{'':14}" for r in ratios)
            for group, chosen in _groups(truth).items():
                if chosen.sum() >= 8:
                    some = ({k: v[k][chosen] for k in labels} for v in (truth, values, errors))
                    yield f"    {group:<24}" + error_cells(labels, *some)


def _others(fm, stars, told):
    """Return how well labels are told of other stars."""
    labels = [k for k in LABELS if k in fm.info.labels]
    table = fm.infer(observed_spectra(fm, stars, snr=(100, 100)), labels=labels)
    return f"  {told:<26}" + error_cells(labels, stars.truth, *label_arrays(table, labels))


def _of_the_cannon(fm, name, folder, n_star):
    """Return how well labels are told of stars that another code, with other lines and atmospheres, has made."""
    at, seen = cannon_spectra(folder, load_emulator(name).info)
    rng, labels = np.random.default_rng(3), ("teff", "logg", "fe_h")
    teff = rng.uniform(3900, 6600, n_star)
    giant = (teff < 5200) & (rng.random(n_star) < 0.7)
    logg = np.where(giant, 1.0 + (teff - 3900) / 650, 4.6 - np.clip(teff - 5000, 0, None) / 3000)
    logg += np.where(giant, 0.3, 0.1) * rng.normal(size=n_star)
    truth = dict(zip(labels, (teff, logg, rng.uniform(-1.5, 0.4, n_star)), strict=True))
    flux = seen(np.transpose([*truth.values()]), np.zeros(n_star))
    sigma = np.full(flux.shape, 0.01)
    spectra = from_arrays(at, flux + sigma * rng.normal(size=flux.shape), sigma, resolving_power=NOMINAL_POWER[name])
    columns = label_arrays(fm.infer(spectra, labels=labels), labels)
    return f"  {'S/N 100, of The Cannon':<26}" + error_cells(labels, truth, *columns)


def _least_squares(fm, stars, views, power):
    """Yield what a fit of the emulator makes of the same synthetic stars."""
    truth, spectra = stars.truth, views["S/N 100"][:_N_FIT]
    labels = [k for k in LABELS if k in fm.info.labels]
    start = time.perf_counter()
    fits = [fit_labels(stars.emulator, star, resolving_power=power, vsini=VSINI) for star in spectra]
    seconds = (time.perf_counter() - start) / len(spectra)
    values, errors = ({k: np.array([f[k] for f in found]) for k in labels} for found in _fitted(fits))
    some = {k: truth[k][: len(spectra)] for k in labels}
    yield f"  least squares with the emulator itself, {len(spectra)} stars, {seconds:.1f} s a star:"
    yield f"  {'S/N 100':<26}" + error_cells(labels, some, values, errors)
    start = time.perf_counter()
    table = fm.infer(views["S/N 100"], labels=labels)
    seconds = (time.perf_counter() - start) / len(stars)
    yield f"  spectrafm, the same {len(spectra)} stars, {seconds:.4f} s a star:"
    yield f"  {'S/N 100':<26}" + error_cells(labels, some, *label_arrays(table[: len(spectra)], labels))


def _fitted(fits):
    return [fit.labels for fit in fits], [fit.errors for fit in fits]


def _groups(truth):
    teff, fe_h = truth["teff"], truth["fe_h"]
    edges = (("teff", teff, (0, 4000, 5000, 6000, 9000)), ("fe_h", fe_h, (-9, -2, -1, -0.3, 9)))
    return {
        f"{low} < {name} < {high}": (values > low) & (values <= high)
        for name, values, ends in edges
        for low, high in zip(ends[:-1], ends[1:], strict=True)
    }


def report_of_miles(fm, data_folder, rivals=True):
    """Measure labels of MILES stars that nothing was chosen on.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    data_folder : str or pathlib.Path
        Holds the folder ``miles``.
    rivals : bool, optional
        Train regressors on the stars that the weights were trained on.

    Yields
    ------
    str
        Lines of the report.
    """
    yield from miles_report(fm, data_folder, partial(_miles, fm, rivals))


def _miles(fm, rivals, miles):
    data, train, test = miles.data, miles.train, miles.test
    labels = ("teff", "logg", "fe_h")

    def lines(name, values, rows):
        truth = {k: data.labels[k][rows] for k in labels}
        middle = (truth["teff"] > 3800) & (truth["teff"] < 7500)
        groups = {"3800 < teff < 7500": middle, "  and [Fe/H] < -1": middle & (truth["fe_h"] < -1)}
        for k in labels:
            residuals = Residuals(*values[k], truth[k], np.zeros(len(rows)))
            for group, chosen in groups.items():
                yield result_line(name, k, group, residuals.summary(chosen))

    def infer(spectra):
        values, errors = label_arrays(fm.infer(spectra, labels=labels), labels)
        return {k: (values[k], errors[k]) for k in labels}

    start = time.perf_counter()
    found = infer(miles.spectra(test))
    seconds = time.perf_counter() - start
    yield f"MILES: {len(train)} training stars, {len(test)} stars that nothing was chosen on, {seconds:.1f} s"
    yield result_header()
    yield from lines("spectrafm", found, test)
    if rivals:
        nothing = np.full(len(test), np.nan)
        for name, predicted in _miles_rivals(data, train, test, labels):
            yield from lines(name, {k: (predicted[k], nothing) for k in labels}, test)
    # how much better it does on stars that it has seen, and how far two draws of others are apart
    calibrating = np.setdiff1d(np.arange(len(data)), np.concatenate((train, test)))
    for name, rows in (("  stars trained on", train[::6]), ("  stars that calibrate", calibrating)):
        yield from lines(name, infer(miles.spectra(rows)), rows)
    # on pixels that are much finer than the spectra, which only a known resolving power says
    blurred = broaden(data.wavelength, data.flux[test], np.sqrt(_BLURRED_FWHM**2 - MILES_FWHM**2))
    for name, power in ((f"  R {_BLURRED_POWER}, given", _BLURRED_POWER), (f"  R {_BLURRED_POWER}, not given", None)):
        yield from lines(name, infer(from_arrays(data.wavelength, blurred, resolving_power=power)), test)
    # not at rest, which the model has to find out
    velocity = np.random.default_rng(_VELOCITY_SEED).uniform(-_LARGEST_VELOCITY, _LARGEST_VELOCITY, len(test))
    shifted = zip(miles.spectra(test), doppler_factor(velocity), strict=True)
    moving = [replace(star, wavelength=star.wavelength * factor) for star, factor in shifted]
    table = fm.infer(moving, labels=labels, radial_velocity="measure")
    values, errors = label_arrays(table, labels)
    yield from lines("  moving, measured", {k: (values[k], errors[k]) for k in labels}, test)
    measured, error = (column_values(table, name, "km / s") for name in ("radial_velocity", "e_radial_velocity"))
    off = measured - velocity
    shares = "{:.2f} within 1, {:.2f} within 2 predicted sigma".format(*coverage(off, error))
    largest = np.nanmax(np.abs(off) / error)
    yield f"  velocities up to {_LARGEST_VELOCITY:.0f} km/s: {mad_std(off):.1f} km/s, {shares}, largest {largest:.1f}"


def _miles_rivals(data, train, test, labels):
    """Yield name and predictions of what is trained on the same stars of MILES."""
    flux = np.where(np.isfinite(data.flux), data.flux, np.nanmedian(data.flux, axis=1, keepdims=True))
    x = np.log(np.clip(flux / np.median(flux, axis=1, keepdims=True), 1e-3, None))
    truth = {k: data.labels[k][train] for k in labels}
    for kind in ("ridge", "support vectors"):
        yield f"PCA + {kind}", predict_labels(kind, x[train], truth, x[test], 40)


def report_of_apogee(fm, data_folder, rivals=True):
    """Tell labels of the real stars of APOGEE.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    data_folder : str or pathlib.Path
        Holds the folder ``apogee`` with apStar files.
    rivals : bool, optional
        Fit the stars with the emulator by least squares.

    Yields
    ------
    str
        Lines of the report.
    """
    labels = [k for k in LABELS if k in fm.info.labels]
    for star in read_apstars(data_folder):
        table = fm.infer(star)
        values, errors = ({k: v[0] for k, v in column.items()} for column in label_arrays(table, labels))
        yield f"{star.identifier}: {_told(labels, values, errors)}, flag {table['flag'][0]}"
        if rivals:
            # who reads the same synthetic spectra in another way
            fit = fit_labels(load_emulator("apogee"), star, resolving_power=NOMINAL_POWER["apogee"], model_error=0.03)
            yield f"  least squares with the emulator: {_told(labels, fit.labels, fit.errors)}"
        [model] = fm.reconstruct(star)
        flux = np.interp(model.spectral_axis.value, star.wavelength, np.where(star.good, star.flux, np.nan))
        yield f"  its spectrum over the model's: mad_std {mad_std(flux / model.flux.value):.4f}"


def _told(labels, values, errors):
    digits = {k: 0 if k == "teff" else 2 for k in labels}
    return ", ".join(f"{k} {values[k]:.{n}f} +- {errors[k]:.{n}f}" for k, n in digits.items())
