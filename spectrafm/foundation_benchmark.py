"""What one model for all instruments is worth, kind of spectrum by kind of spectrum."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from astropy import units as u

from .adapters import from_arrays
from .benchmarks import Residuals, mad_std, result_header, result_line, stars_apart
from .core import SpectraFM
from .exceptions import InputValueError, MissingDependencyError
from .results import label_values
from .rivals import train_rival
from .stellarperceptron import FitConfig
from .synthesis import cramer_rao_bound, fit_labels, load_emulator
from .synthesis.benchmark import NOMINAL_POWER, cannon_spectra, read_apstar
from .training import EmulatorSource, ObservationConfig, ObservedSource, RequestConfig, StarStream, StreamPart
from .training.recipes import load_recipe, recipe_names
from .training.train import read_data

__all__ = ["SameStars", "benchmark_foundation", "benchmark_networks", "label_columns", "observed_spectra"]

_LABELS = ("teff", "logg", "fe_h", "mg_fe", "o_fe")
# no star of a pool of training has this seed
_SEED, _N_STAR = 777_777, 256
_VSINI = 3.0
# emulators of the lines of another list
_OTHER_LINES = "linemake"
# stars that are fitted, and steps and stars a step that networks are trained for
_N_FIT, _RIVAL_STEPS, _RIVAL_BATCH = 12, 1500, 64
_NETWORK_VIEWS = ("S/N 20", "S/N 100", "S/N 100, half the range", "S/N 100, 10 % of pixels")


def benchmark_foundation(data_folder, model=None, rivals=True, n_star=_N_STAR):
    """Measure weights that read every instrument.

    Synthetic stars that were in no pool of training, beside the bound of Cramér and Rao:
    at signal-to-noise ratios from 10 to 500, with half of the range, with 100 Angstrom, with
    nine tenths of the pixels missing, with the temperature known from elsewhere, with
    abundances that scatter about the trends as in the Galaxy instead of three times as much, and
    with the lines of another list, or made by another code;
    stars of MILES that nothing was chosen on; and the real stars of APOGEE.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Holds the folders ``miles`` and ``apogee``; for lines of another list, ``linemake`` with emulators of
        the names of the packaged ones; for another code, ``thedoppler`` as for
        `~spectrafm.synthesis.benchmark.benchmark_synthesis`.
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
            views = _views(fm, stars, name)
            yield from _synthetic(fm, stars, views, name, power)
            yield _others(fm, SameStars(name, n_star, galactic=1.0), "S/N 100, as in the Galaxy")
            if (other := Path(data_folder) / _OTHER_LINES / name).is_dir():
                yield _others(fm, SameStars(load_emulator(other), n_star), "S/N 100, lines of linemake")
            if name != "optical" and (Path(data_folder) / "thedoppler").is_dir():
                yield _of_the_cannon(fm, name, Path(data_folder), n_star)
            if rivals and name == "apogee":
                yield from _least_squares(fm, stars, views, power)
    folder = Path(data_folder)
    if "optical" in domains:
        yield from _miles(fm, folder, rivals)
    if "apogee" in domains:
        yield from _apogee(fm, folder, rivals)


def benchmark_networks(data_folder, model=None, rivals=True, n_star=_N_STAR, steps=_RIVAL_STEPS):
    """Train other networks on the stream of synthetic stars in the H band that weights were trained on.

    A perceptron and a convolutional network, on a fixed grid of wavelengths, tell labels
    of the same stars as the weights.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Not used: all stars are synthetic.
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    rivals : bool, optional
        Train the others.
    n_star : int, optional
        Synthetic stars to tell labels of.
    steps : int, optional
        Steps to train for, of 64 stars each.

    Yields
    ------
    str
        Lines of the report.
    """
    fm = SpectraFM.from_pretrained(model)
    stars = SameStars("apogee", n_star)
    views = {told: view for told, view in _views(fm, stars, "apogee").items() if told in _NETWORK_VIEWS}
    labels = [k for k in _LABELS if k in fm.info.labels]
    yield f"apogee: {len(stars)} synthetic stars; error, share within 1 and 2 predicted sigma"
    yield f"  {'':<26}" + "".join(f"{k:>22}" for k in labels)
    yield f"  spectrafm, weights {fm.info.name!r}:"
    for told, spectra in views.items():
        yield f"  {told:<26}" + _cells(labels, stars.truth, *label_columns(fm.infer(spectra, labels=labels), labels))
    if not rivals:
        return
    recipe = load_recipe(fm.info.name if fm.info.name in recipe_names() else "small")
    source = ObservedSource(
        EmulatorSource("apogee", recipe.sources["apogee"].n_pool, recipe.fit.seed),
        fm.model.vocabulary,
        fm.normalizer_of("apogee"),
        recipe.sources["apogee"].observation,
        RequestConfig(give_quantity=0.0, quantities_only=0.0, flux_requests=0),
    )
    stream = StarStream({"apogee": StreamPart(source)}, batch_size=_RIVAL_BATCH)
    config = FitConfig(steps=steps, batch_size=_RIVAL_BATCH, warmup_steps=min(300, steps), ema_decay=0.999)
    for kind in ("perceptron", "convolutional"):
        start = time.perf_counter()
        rival = train_rival(kind, stream, fm.model.vocabulary, config)
        minutes = (time.perf_counter() - start) / 60
        yield f"  {kind} network on the same stream, {steps * _RIVAL_BATCH:,} stars, {minutes:.0f} minutes:"
        for told, spectra in views.items():
            yield f"  {told:<26}" + _cells(labels, stars.truth, *rival.infer(spectra))


class SameStars(EmulatorSource):
    """Stars that come one after the other, each as often as they are rewound, rotating alike.

    Parameters
    ----------
    name : str
        Name of a packaged emulator.
    n_star : int
        Number of stars, none of which was in a pool of training.
    galactic : float, optional
        As of `EmulatorSource`.
    """

    def __init__(self, name, n_star, galactic=0.0):
        super().__init__(name, 4 * n_star, _SEED, galactic=galactic)
        self.labels = torch.nn.functional.pad(self.pool[:n_star], (0, 1), value=_VSINI)
        self.truth = {k: self.labels[:, i].double().numpy() for i, k in enumerate(self.emulator.label_names)}
        self.first = 0

    def __len__(self):
        return len(self.labels)

    def draw(self, n_star, generator):
        """Return the next stars.

        Parameters
        ----------
        n_star : int
            How many.
        generator : torch.Generator
            Not used.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_name)`` what is known of each.
        """
        self.first += n_star
        return self.labels[self.first - n_star : self.first]


def observed_spectra(fm, stars, damage=None, **changes):
    """Return the spectra of all stars, seen by one instrument.

    Parameters
    ----------
    fm : SpectraFM
        Weights whose normaliser and vocabulary are taken.
    stars : SameStars
        The stars.
    damage : callable, optional
        What is done to each spectrum after that.
    **changes
        Settings of the observation that differ from those of a bright star and all of the range.

    Returns
    -------
    list of SpectrumArrays
    """
    name = stars.emulator.info.name
    stars.first = 0
    instrument = ObservationConfig(resolving_power=NOMINAL_POWER[name], pixels_per_fwhm=(3.0, 3.0), withhold_sigma=0.0)
    config = instrument.undisturbed(**changes)
    request = RequestConfig(flux_requests=0)
    observed = ObservedSource(stars, fm.model.vocabulary, fm.normalizer_of(name), config, request)
    spectra, _, _ = observed.examples(len(stars), torch.Generator().manual_seed(1))
    return [damage(star) for star in spectra] if damage else spectra


def _views(fm, stars, name):
    """Return the same stars seen in different ways: spectra by name."""
    middle = 0.5 * sum(stars.emulator.info.window)
    width = np.ptp(stars.emulator.info.window)
    rng = np.random.default_rng(5)

    def narrow(width):
        return lambda star: replace(star, good=star.good & (np.abs(star.wavelength - middle) < width / 2))

    def sparse(star):
        return replace(star, good=star.good & (rng.random(len(star.good)) < 0.1))

    views = {f"S/N {snr}": {"snr": (snr, snr)} for snr in (10, 20, 50, 100, 200, 500)}
    hundred = {"snr": (100, 100)}
    views["S/N 100, no errors given"] = hundred | {"withhold_sigma": 1.0}
    views["S/N 100, half the range"] = hundred | {"damage": narrow(width / 2)}
    views["S/N 100, 100 Angstrom"] = hundred | {"damage": narrow(100.0)}
    views["S/N 100, 10 % of pixels"] = hundred | {"damage": sparse}
    return {told: observed_spectra(fm, stars, **view) for told, view in views.items()}


def _robust(residual):
    return 1.4826 * np.nanmedian(np.abs(residual))


def _cells(labels, truth, values, errors):
    """Return error and coverage of labels, in columns."""
    cells = []
    for k in labels:
        residual = values[k] - truth[k]
        z = np.abs(residual) / errors[k]
        number = f"{_robust(residual):.0f}" if k == "teff" else f"{_robust(residual):.3f}"
        cells.append(f"{number:>8} {np.nanmean(z < 1):6.2f} {np.nanmean(z < 2):6.2f}")
    return "".join(cells)


def label_columns(table, labels):
    """Return labels and their errors as plain arrays.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        From `SpectraFM.infer`.
    labels : sequence of str
        Names.

    Returns
    -------
    values, errors : dict of str to numpy.ndarray
        ``(n_star,)`` by label, NaN where masked.
    """
    found = {name: label_values(table, name) for name in labels}
    return tuple({name: both[i] for name, both in found.items()} for i in (0, 1))


def _synthetic(fm, stars, views, name, power):
    """Yield how well labels of synthetic stars are told."""
    truth = stars.truth
    labels = [k for k in _LABELS if k in fm.info.labels]
    low, high = stars.emulator.info.window
    step = 1 / (3 * power)
    axis = np.exp(np.arange(np.log(low) + step, np.log(high), step)) * u.AA
    everything = {k: truth[k] for k in stars.emulator.label_names}
    # as the noise of these stars is
    instrument = {"resolving_power": power, "vsini": _VSINI, "spectral_axis": axis, "noise": "continuum"}
    bound = cramer_rao_bound(stars.emulator, everything, 100.0, **instrument)
    yield f"{name}: {len(stars)} synthetic stars, resolving power {power:g}, 3 pixels a resolution element"
    yield "  error (1.4826 times the median of its size), share within 1 and 2 predicted sigma:"
    yield f"  {'':<26}" + "".join(f"{k:>22}" for k in labels)
    for told, spectra in views.items():
        values, errors = label_columns(fm.infer(spectra, labels=labels), labels)
        yield f"  {told:<26}" + _cells(labels, truth, values, errors)
        if told == "S/N 10" and labels[0] == "teff":
            known = {"teff": truth["teff"] + 30 * np.random.default_rng(6).normal(size=len(stars)), "e_teff": 30.0}
            columns = label_columns(fm.infer(spectra, labels=labels[1:], known=known), labels[1:])
            yield f"  {'  teff known to 30 K':<48}" + _cells(labels[1:], truth, *columns)
        if told == "S/N 100":
            ratios = [_robust((values[k] - truth[k]) / np.asarray(bound[k])) for k in labels]
            yield f"  {'  over Cramer-Rao bound':<26}" + "".join(f"{r:8.2f}{'':14}" for r in ratios)
            for group, chosen in _groups(truth).items():
                if chosen.sum() >= 8:
                    some = ({k: v[k][chosen] for k in labels} for v in (truth, values, errors))
                    yield f"    {group:<24}" + _cells(labels, *some)


def _others(fm, stars, told):
    """Return how well labels are told of other stars."""
    labels = [k for k in _LABELS if k in fm.info.labels]
    table = fm.infer(observed_spectra(fm, stars, snr=(100, 100)), labels=labels)
    return f"  {told:<26}" + _cells(labels, stars.truth, *label_columns(table, labels))


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
    columns = label_columns(fm.infer(spectra, labels=labels), labels)
    return f"  {'S/N 100, of The Cannon':<26}" + _cells(labels, truth, *columns)


def _least_squares(fm, stars, views, power):
    """Yield what a fit of the emulator makes of the same synthetic stars."""
    truth, spectra = stars.truth, views["S/N 100"][:_N_FIT]
    labels = [k for k in _LABELS if k in fm.info.labels]
    start = time.perf_counter()
    fits = [fit_labels(stars.emulator, star, resolving_power=power, vsini=_VSINI) for star in spectra]
    seconds = (time.perf_counter() - start) / len(spectra)
    values, errors = ({k: np.array([f[k] for f in found]) for k in labels} for found in _fitted(fits))
    some = {k: truth[k][: len(spectra)] for k in labels}
    yield f"  least squares with the emulator itself, {len(spectra)} stars, {seconds:.1f} s a star:"
    yield f"  {'S/N 100':<26}" + _cells(labels, some, values, errors)
    start = time.perf_counter()
    table = fm.infer(views["S/N 100"], labels=labels)
    seconds = (time.perf_counter() - start) / len(stars)
    yield f"  spectrafm, the same {len(spectra)} stars, {seconds:.4f} s a star:"
    yield f"  {'S/N 100':<26}" + _cells(labels, some, *label_columns(table[: len(spectra)], labels))


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


def _miles(fm, folder, rivals):
    """Yield how well labels of MILES stars are told that nothing was chosen on."""
    try:
        data = read_data("miles", folder)
    except (InputValueError, OSError) as error:
        yield f"no MILES: {error}"
        return
    train, test, _ = stars_apart(fm, data, "miles", "small")
    inside = (data.wavelength > 3600) & (data.wavelength < 7400)
    wavelength, flux = data.wavelength[inside], data.flux[:, inside]
    labels = ("teff", "logg", "fe_h")

    def infer(rows):
        table = fm.infer(from_arrays(wavelength, flux[rows], resolving_power=2000), labels=labels)
        values, errors = label_columns(table, labels)
        return {k: (values[k], errors[k]) for k in labels}

    start = time.perf_counter()
    found = {"spectrafm": (infer(test), test)}
    seconds = time.perf_counter() - start
    if rivals:
        nothing = np.full(len(test), np.nan)
        for name, predicted in _miles_rivals(flux, data, train, test, labels):
            found[name] = ({k: [predicted[k], nothing] for k in labels}, test)
    # how much better it does on stars that it has seen, and how far two draws of others are apart
    calibrating = np.setdiff1d(np.arange(len(flux)), np.concatenate((train, test)))
    for name, rows in (("  stars trained on", train[::6]), ("  stars that calibrate", calibrating)):
        found[name] = (infer(rows), rows)
    yield f"MILES: {len(train)} training stars, {len(test)} stars that nothing was chosen on, {seconds:.1f} s"
    yield result_header()
    for name, (values, rows) in found.items():
        truth = {k: data.labels[k][rows] for k in labels}
        middle = (truth["teff"] > 3800) & (truth["teff"] < 7500)
        groups = {"3800 < teff < 7500": middle, "  and [Fe/H] < -1": middle & (truth["fe_h"] < -1)}
        for k in labels:
            residuals = Residuals(*values[k], truth[k], np.zeros(len(rows)))
            for group, chosen in groups.items():
                yield result_line(name, k, group, residuals.summary(chosen))


def _miles_rivals(flux, data, train, test, labels):
    """Yield name and predictions of what is trained on the same stars of MILES."""
    try:
        from sklearn.decomposition import PCA
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR
    except ImportError as error:
        raise MissingDependencyError("rivals need scikit-learn: pip install 'spectrafm[benchmark]'") from error
    flux = np.where(np.isfinite(flux), flux, np.nanmedian(flux, axis=1, keepdims=True))
    x = np.log(np.clip(flux / np.median(flux, axis=1, keepdims=True), 1e-3, None))
    makers = {
        "PCA + ridge": lambda: make_pipeline(PCA(40, whiten=True, random_state=0), RidgeCV(np.logspace(-4, 4, 17))),
        "PCA + support vectors": lambda: make_pipeline(
            PCA(40, whiten=True, random_state=0), StandardScaler(), SVR(C=10.0, gamma=0.01, epsilon=0.02)
        ),
    }
    for name, make in makers.items():
        predicted = {}
        for k in labels:
            y = np.log(data.labels[k]) if k == "teff" else data.labels[k]
            known = train[np.isfinite(y[train])]
            mean, std = y[known].mean(), y[known].std()
            answer = make().fit(x[known], (y[known] - mean) / std).predict(x[test]) * std + mean
            predicted[k] = np.exp(answer) if k == "teff" else answer
        yield name, predicted


def _apogee(fm, folder, rivals):
    """Yield labels of the real stars of APOGEE, and what least squares with the emulator make of them."""
    labels = [k for k in _LABELS if k in fm.info.labels]
    for path in sorted((folder / "apogee").glob("apStar-*.fits")):
        star = read_apstar(path)
        table = fm.infer(star)
        values, errors = ({k: v[0] for k, v in column.items()} for column in label_columns(table, labels))
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
