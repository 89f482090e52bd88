"""Figures of benchmarks, and the lines that hold them."""

from dataclasses import dataclass

import numpy as np

from .._numerics import mad_std, robust_rms
from ..quantities import get_quantity
from ..results import label_values

__all__ = ["Residuals", "coverage", "error_cells", "label_arrays", "result_header", "result_line"]

# resamplings of stars that tell the errors of figures, and their seed
_N_RESAMPLED, _SEED = 500, 41


def coverage(residual, error):
    """Return how often predictions are within one and two predicted sigma.

    Parameters
    ----------
    residual, error : numpy.ndarray
        Of any one shape. Where one of them is not finite nothing was predicted, or nothing is known: such stars do
        not count.

    Returns
    -------
    tuple of float
        Shares of the others within one and two sigma; NaN where there are none.
    """
    known = np.isfinite(residual) & np.isfinite(error)
    size, error = np.abs(residual[known]), error[known]
    return tuple(float(np.mean(size < n * error)) if known.any() else float("nan") for n in (1, 2))


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
            ``n``, ``bias`` (median), ``mad_std``, ``std``, the standard errors of these two by resampling the
            stars (``e_mad_std``, ``e_std``), and the fractions of residuals within one and two sigma (errors of
            both added).
        """
        residual = (self.predicted - self.truth)[stars]
        total = np.hypot(self.error, np.nan_to_num(self.truth_error))[stars]
        within = coverage(residual, total)
        known = np.isfinite(residual)
        residual = residual[known]
        e_mad_std, e_std = _errors_of_scatter(residual)
        return {
            "n": int(known.sum()),
            "bias": float(np.median(residual)),
            "mad_std": mad_std(residual),
            "e_mad_std": e_mad_std,
            "std": float(residual.std()),
            "e_std": e_std,
            "within_1_sigma": within[0],
            "within_2_sigma": within[1],
        }


def _errors_of_scatter(residual):
    """Return standard errors of ``mad_std`` and ``std``, NaN where there is no star."""
    if not len(residual):
        return np.nan, np.nan
    others = np.random.default_rng(_SEED).choice(residual, (_N_RESAMPLED, len(residual)))
    return tuple(float(np.std([scatter(some) for some in others])) for scatter in (mad_std, np.std))


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
        f"{figures['mad_std']:9.{unit}f} {figures['e_mad_std']:7.{unit}f} "
        f"{figures['std']:9.{unit}f} {figures['e_std']:7.{unit}f} {coverage}"
    )


def result_header():
    """Return the names of the columns of `result_line`.

    Returns
    -------
    str
    """
    return (
        f"{'method':<22} {'label':<8} {'stars':<22} {'n':>6} {'bias':>9} {'mad_std':>9} {'+-':>7} {'std':>9} {'+-':>7} "
        f"{'in 1 s':>8} {'in 2 s':>8}"
    )


def label_arrays(table, labels):
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


def error_cells(labels, truth, values, errors):
    """Return error and coverage of labels, in columns.

    Parameters
    ----------
    labels : sequence of str
        Names, one a column.
    truth, values, errors : dict of str to numpy.ndarray
        ``(n_star,)`` by label: the true labels, the predicted ones and their errors.

    Returns
    -------
    str
        For each label 22 characters: 1.4826 times the median size of the error, and the fractions of
        stars within one and two predicted sigma, see `coverage`.
    """
    cells = []
    for k in labels:
        residual = values[k] - truth[k]
        number = f"{robust_rms(residual):.{0 if k == 'teff' else 3}f}"
        cells.append(f"{number:>8}" + "".join(f" {share:6.2f}" for share in coverage(residual, errors[k])))
    return "".join(cells)
