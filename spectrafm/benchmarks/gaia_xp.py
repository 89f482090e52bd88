"""Labels from Gaia XP spectra, beside those of APOGEE."""

import time

import numpy as np

from .._numerics import mad_std
from ..adapters import from_arrays
from ..core import SpectraFM
from ..exceptions import MissingDependencyError
from ..flags import Flag
from ..results import label_values
from ..training import read_data
from ..training.dust import extinction
from .regressors import predict_labels
from .report import Residuals, result_header, result_line
from .stars import stars_apart

__all__ = ["XP_RIVALS", "benchmark_gaia_xp", "compare_weights"]

#: What is trained on the same stars, by name: arguments of `~spectrafm.benchmarks.regressors.predict_labels`.
XP_RIVALS = {
    "gradient boosting": {
        "kind": "gradient boosting",
        "n_component": 60,
        "log": (),
        "standardize": False,
        "max_iter": 400,
        "learning_rate": 0.08,
        "max_leaf_nodes": 63,
    },
    "perceptron": {
        "kind": "perceptron",
        "n_component": 100,
        "hidden_layer_sizes": (256, 256),
        "alpha": 1e-3,
        "early_stopping": True,
        "n_iter_no_change": 8,
    },
}


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
    train, test, seed, note = stars_apart(fm, data, "gaia_xp", "gaia_xp")
    labels = [k for k in fm.labels if k in data.labels]
    yield f"{fm!r}"
    if note:
        yield note
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
        yield from compare_weights(fm, alone, data, labels)
    if rivals:
        x = np.arcsinh(data.flux / 0.05)
        known = {k: data.labels[k][train] for k in labels}
        for name, settings in XP_RIVALS.items():
            start = time.perf_counter()
            predicted = predict_labels(
                x_train=x[train], truth=known, x_test=x[test], seed=seed, shared=True, **settings
            )
            for label in labels:
                residuals = Residuals(predicted[label], np.full(len(test), np.nan), *truth[label])
                for group in ("3500 < teff < 7000", "  and not flagged"):
                    yield result_line(name, label, group, residuals.summary(groups[group]))
            yield f"{name}: trained in {time.perf_counter() - start:.0f} s"


def compare_weights(fm, other, data, labels):
    """Compare two sets of weights on the Gaia XP spectra of stars that neither was trained on.

    Parameters
    ----------
    fm, other : SpectraFM
        The weights.
    data : LabelledSpectra
        The stars.
    labels : sequence of str
        Labels to compare.

    Yields
    ------
    str
        The number of stars, then a line for each of the weights and labels; before them, a line on weights that do
        not tell how stars were split.
    """
    apart = [stars_apart(weights, data, "gaia_xp", "gaia_xp") for weights in (fm, other)]
    yield from (note for *_, note in apart if note)
    rows = np.setdiff1d(np.arange(len(data.flux)), np.union1d(*(train for train, *_ in apart)))
    yield f"{len(rows)} stars that neither {fm.info.name} nor {other.info.name} was trained on:"
    teff = data.labels["teff"][rows]
    middle = (teff > 3500) & (teff < 7000)
    spectra = from_arrays(data.wavelength, data.flux[rows], data.sigma[rows])
    for weights in (fm, other):
        table = weights.infer(spectra, labels=labels)
        for label in labels:
            residuals = Residuals(*label_values(table, label), data.labels[label][rows], data.label_errors[label][rows])
            yield result_line(f"  {weights.info.name}", label, "3500 < teff < 7000", residuals.summary(middle))
