"""Measurements on held-out stars, beside rivals trained on the same stars in the same run."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from .adapters import from_arrays
from .core import SpectraFM
from .exceptions import InputValueError, MissingDependencyError
from .flags import Flag
from .quantities import get_quantity
from .results import label_values
from .synthesis.benchmark import benchmark_synthesis
from .training.dust import extinction
from .training.recipes import load_recipe, recipe_names
from .training.train import read_data, split_stars

__all__ = [
    "Residuals",
    "benchmark_gaia_xp",
    "benchmark_speed",
    "mad_std",
    "result_header",
    "result_line",
    "run_benchmark",
    "stars_apart",
]


def mad_std(residual):
    """Return the robust standard deviation of residuals about their median.

    Parameters
    ----------
    residual : numpy.ndarray
        Residuals; NaN is left out.

    Returns
    -------
    float
        1.4826 times the median absolute deviation.
    """
    residual = residual[np.isfinite(residual)]
    return float(1.4826 * np.median(np.abs(residual - np.median(residual)))) if residual.size else float("nan")


@dataclass
class Residuals:
    """Predictions of one label by one method, with the truth.

    Attributes
    ----------
    predicted, error : numpy.ndarray
        ``(n_star,)``; error NaN where the method gives none.
    truth, truth_error : numpy.ndarray
        ``(n_star,)``; NaN where not known.
    """

    predicted: np.ndarray
    error: np.ndarray
    truth: np.ndarray
    truth_error: np.ndarray

    def summary(self, stars):
        """Return the figures of some of the stars.

        Parameters
        ----------
        stars : numpy.ndarray
            ``(n_star,)`` bool.

        Returns
        -------
        dict
            ``n``, ``bias`` (median), ``mad_std``, ``std``, and the fractions of
            residuals within one and two sigma (errors of both added).
        """
        residual = (self.predicted - self.truth)[stars]
        known = np.isfinite(residual)
        residual = residual[known]
        total = np.hypot(self.error, np.nan_to_num(self.truth_error))[stars][known]
        z = np.abs(residual) / total
        has_error = np.isfinite(z)
        return {
            "n": int(known.sum()),
            "bias": float(np.median(residual)),
            "mad_std": mad_std(residual),
            "std": float(residual.std()),
            "within_1_sigma": float((z[has_error] < 1).mean()) if has_error.any() else float("nan"),
            "within_2_sigma": float((z[has_error] < 2).mean()) if has_error.any() else float("nan"),
        }


def result_line(method, label, stars, figures):
    """Return a line of a report.

    Parameters
    ----------
    method, label, stars : str
        Who, what, of which stars.
    figures : dict
        From `Residuals.summary`.

    Returns
    -------
    str
    """
    unit = 0 if get_quantity(label).unit == "K" else 3
    coverage = f"{figures['within_1_sigma']:8.3f} {figures['within_2_sigma']:8.3f}"
    if not np.isfinite(figures["within_1_sigma"]):
        coverage = f"{'-':>8} {'-':>8}"
    return (
        f"{method:<22} {label:<8} {stars:<22} {figures['n']:6d} {figures['bias']:+9.{unit}f} "
        f"{figures['mad_std']:9.{unit}f} {figures['std']:9.{unit}f} {coverage}"
    )


def result_header():
    """Return the names of the columns of `result_line`.

    Returns
    -------
    str
    """
    return (
        f"{'method':<22} {'label':<8} {'stars':<22} {'n':>6} {'bias':>9} {'mad_std':>9} {'std':>9} "
        f"{'in 1 s':>8} {'in 2 s':>8}"
    )


def _gradient_boosting(x_train, x_test, data, train, labels, seed):
    """Fit histogram gradient boosting, label by label, on principal components and fluxes."""
    try:
        from sklearn.decomposition import PCA
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise MissingDependencyError("rivals need scikit-learn: pip install 'spectrafm[benchmark]'") from error
    components = PCA(60, whiten=True, random_state=seed).fit(x_train)
    x_train, x_test = components.transform(x_train), components.transform(x_test)
    predicted = {}
    for label in labels:
        truth = data.labels[label][train]
        known = np.isfinite(truth)
        model = HistGradientBoostingRegressor(max_iter=400, learning_rate=0.08, max_leaf_nodes=63, random_state=seed)
        predicted[label] = model.fit(x_train[known], truth[known]).predict(x_test)
    return predicted


def _perceptron(x_train, x_test, data, train, labels, seed):
    """Fit a multi-layer perceptron, label by label, on whitened log fluxes."""
    from sklearn.decomposition import PCA
    from sklearn.neural_network import MLPRegressor

    components = PCA(100, whiten=True, random_state=seed).fit(x_train)
    x_train, x_test = components.transform(x_train), components.transform(x_test)
    predicted = {}
    for label in labels:
        truth = data.labels[label][train]
        truth = np.log(truth) if label == "teff" else truth
        known = np.isfinite(truth)
        mean, std = truth[known].mean(), truth[known].std()
        model = MLPRegressor(
            hidden_layer_sizes=(256, 256), alpha=1e-3, early_stopping=True, n_iter_no_change=8, random_state=seed
        )
        answer = model.fit(x_train[known], (truth[known] - mean) / std).predict(x_test) * std + mean
        predicted[label] = np.exp(answer) if label == "teff" else answer
    return predicted


def stars_apart(fm, data, source, default):
    """Return which stars of a data set trained weights, and which nothing was chosen on.

    Parameters
    ----------
    fm : SpectraFM
        Weights; the recipe of their name made them.
    data : LabelledSpectra
        The stars.
    source : str
        Name of the source in the recipe.
    default : str
        Recipe to split by, for weights of another name.

    Returns
    -------
    train, test : numpy.ndarray
        Row numbers.
    seed : int
        Seed of the split.
    """
    recipe = load_recipe(fm.info.name if fm.info.name in recipe_names() else default)
    if source not in recipe.sources:
        # weights that saw none of these stars: split as those that did
        recipe = load_recipe(default)
    train, _, test = split_stars(data, recipe.sources[source].validation_fraction, recipe.split_seed)
    return train, test, recipe.split_seed


def benchmark_gaia_xp(data_folder, model=None, rivals=True):
    """Compare labels from Gaia XP spectra with APOGEE's on stars held out of training.

    Weights that also read other spectra are compared with those for Gaia XP alone, on stars
    that neither saw.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Folder of the labelled XP spectra.
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    rivals : bool, optional
        Train gradient boosting and a multi-layer perceptron on the same stars.

    Yields
    ------
    str
        Lines of the report, as they are measured.
    """
    fm = SpectraFM.from_pretrained("gaia_xp" if model is None else model)
    data = read_data("gaia_xp_apogee", data_folder)
    train, test, seed = stars_apart(fm, data, "gaia_xp", "gaia_xp")
    labels = [k for k in fm.labels if k in data.labels]
    yield f"{fm!r}"
    yield f"{len(train)} training stars, {len(test)} test stars; reference labels: APOGEE DR17 ASPCAP"
    truth = {k: (data.labels[k][test], data.label_errors[k][test]) for k in labels}
    teff = truth["teff"][0]
    middle = (teff > 3500) & (teff < 7000)

    def infer(sigma, passed=1.0, **kwargs):
        sigma = None if sigma is None else sigma * passed
        return fm.infer(from_arrays(data.wavelength, data.flux[test] * passed, sigma), labels=labels, **kwargs)

    start = time.perf_counter()
    table = infer(data.sigma[test])
    seconds = time.perf_counter() - start
    flag = np.asarray(table["flag"])
    doubtful = (flag & (Flag.LARGE_UNCERTAINTY | Flag.UNUSUAL_SPECTRUM | Flag.OUTSIDE_LABEL_RANGE)) != 0
    photometry = {k: data.labels[k][test] for k in fm.info.known if k in data.labels and k not in labels}
    runs = {
        "spectrafm": table,
        "  no errors given": infer(None),
        "  photometry given": infer(data.sigma[test], known=photometry),
    }
    try:
        curve = extinction(data.wavelength)
    except MissingDependencyError as error:
        yield f"nothing behind more dust: {error}"
    else:
        for dust in (1, 2):
            runs[f"  A(V) {dust} mag larger"] = infer(data.sigma[test], 10 ** (-0.4 * dust * curve))
    groups = {
        "3500 < teff < 7000": middle,
        "  and not flagged": middle & ~doubtful,
        "  and [Fe/H] < -1": middle & (truth["fe_h"][0] < -1),
        "all": np.ones(len(test), dtype=bool),
    }
    yield result_header()
    for method, result in runs.items():
        for label in labels:
            residuals = Residuals(*label_values(result, label), *truth[label])
            for name, stars in groups.items():
                if name in ("3500 < teff < 7000", "  and not flagged") or method == "spectrafm":
                    yield result_line(method, label, name, residuals.summary(stars))
    e_given, e_withheld = (label_values(runs[k], "teff")[1] for k in ("spectrafm", "  no errors given"))
    yield f"median ratio of e_teff without to with flux errors: {np.nanmedian(e_withheld / e_given):.2f}"
    residual = np.abs(label_values(table, "teff")[0] - teff)
    worst = middle & (residual > 5 * mad_std(residual[middle]))
    caught = f"{doubtful[worst].mean():.3f} of {worst.sum()} outliers in teff"
    yield f"flagged: {doubtful[middle].mean():.3f} of stars, {caught}"
    yield f"{len(test) / seconds:.0f} stars/s from arrays"
    alone = SpectraFM.from_pretrained("gaia_xp")
    if fm.info.name != alone.info.name:
        yield from _beside(fm, alone, data, labels)
    if rivals:
        x = np.arcsinh(data.flux / 0.05)
        for name, rival in (("gradient boosting", _gradient_boosting), ("perceptron", _perceptron)):
            start = time.perf_counter()
            predicted = rival(x[train], x[test], data, train, labels, seed)
            for label in labels:
                residuals = Residuals(predicted[label], np.full(len(test), np.nan), *truth[label])
                for group in ("3500 < teff < 7000", "  and not flagged"):
                    yield result_line(name, label, group, residuals.summary(groups[group]))
            yield f"{name}: trained in {time.perf_counter() - start:.0f} s"


def _beside(fm, other, data, labels):
    """Yield what two sets of weights make of the same stars, those that neither was trained on."""
    rows = np.arange(len(data.flux))
    for weights in (fm, other):
        rows = np.setdiff1d(rows, stars_apart(weights, data, "gaia_xp", "gaia_xp")[0])
    yield f"{len(rows)} stars that neither {fm.info.name} nor {other.info.name} was trained on:"
    teff = data.labels["teff"][rows]
    middle = (teff > 3500) & (teff < 7000)
    spectra = from_arrays(data.wavelength, data.flux[rows], data.sigma[rows])
    for weights in (fm, other):
        table = weights.infer(spectra, labels=labels)
        for label in labels:
            residuals = Residuals(*label_values(table, label), data.labels[label][rows], data.label_errors[label][rows])
            yield result_line(f"  {weights.info.name}", label, "3500 < teff < 7000", residuals.summary(middle))


def benchmark_speed(data_folder, model=None, rivals=True, n_star=1000):
    """Time labels for a list of Gaia XP `~specutils.Spectrum` objects.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Folder of the labelled XP spectra.
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    rivals : bool, optional
        Not used; there are none.
    n_star : int, optional
        Length of the list.

    Yields
    ------
    str
        Lines of the report.
    """
    data = read_data("gaia_xp_apogee", data_folder)
    spectra = data.spectra(np.arange(n_star))
    del data
    before = _peak_memory()
    start = time.perf_counter()
    fm = SpectraFM.from_pretrained("gaia_xp" if model is None else model)
    loaded = time.perf_counter()
    table = fm.infer(spectra)
    done = time.perf_counter()
    yield f"{len(table)} Spectrum objects on {torch.get_num_threads()} threads"
    yield f"loading the weights: {loaded - start:.2f} s"
    yield f"infer: {done - loaded:.2f} s, {len(table) / (done - loaded):.0f} stars/s"
    yield f"peak memory of the process: {_peak_memory():.2f} GB, of which {before:.2f} GB for reading the data"


def _peak_memory():
    import resource
    import sys

    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def _benchmarks():
    """Return the benchmarks by name."""
    from .few_shot_benchmark import benchmark_few_shot
    from .flags_benchmark import benchmark_flags
    from .foundation_benchmark import benchmark_foundation, benchmark_networks
    from .lines_benchmark import benchmark_lines
    from .synthesis.settings_benchmark import benchmark_settings
    from .throughput_benchmark import benchmark_throughput

    return {
        "gaia-xp": benchmark_gaia_xp,
        "speed": benchmark_speed,
        "throughput": benchmark_throughput,
        "synthesis": benchmark_synthesis,
        "synthesis-settings": benchmark_settings,
        "foundation": benchmark_foundation,
        "networks": benchmark_networks,
        "few-shot": benchmark_few_shot,
        "lines": benchmark_lines,
        "flags": benchmark_flags,
    }


def run_benchmark(name, data_folder, model=None, rivals=True):
    """Run a benchmark by name.

    Parameters
    ----------
    name : str
        Name of the benchmark.
    data_folder : str or pathlib.Path
        Where its data are.
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    rivals : bool, optional
        Train the rivals too.

    Returns
    -------
    iterator of str
        Lines of the report.
    """
    benchmarks = _benchmarks()
    if name not in benchmarks:
        raise InputValueError(f"name: no benchmark {name!r}; known are {', '.join(benchmarks)}")
    return benchmarks[name](data_folder, model, rivals)
