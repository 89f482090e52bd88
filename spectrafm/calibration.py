"""Can the errors be trusted? Measures on stars whose labels are known, and factors that mend the errors."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from ._known import known_labels, refuse_other_rows, table_columns
from ._label_columns import check_label_columns
from ._numerics import mad_std, split_mask
from .exceptions import InputTypeError, InputValueError
from .quantities import QUANTITIES, get_quantity

__all__ = [
    "HIGHEST_FACTOR",
    "LOWEST_FACTOR",
    "calibration_error",
    "calibration_table",
    "conformal_factor",
    "coverage",
    "crps",
    "determined_factor",
    "error_factor",
    "negative_log_likelihood",
    "pit",
    "temperature",
    "truth_error_factor",
    "z_scores",
]

# one and two standard deviations of a Gaussian
_ONE_SIGMA, _TWO_SIGMA = 0.6827, 0.9545
#: Factors beyond say that something else is wrong than the size of the errors.
LOWEST_FACTOR, HIGHEST_FACTOR = 0.1, 10.0

_LEVELS = tuple(np.linspace(0.05, 0.95, 19))
# coverages that one factor has to serve, and their weights: real residuals have longer tails than a Gaussian, so that
# no factor is right for both. Weights were chosen on stars of MILES that no benchmark tests on
_SERVED = {_ONE_SIGMA: 0.6, _TWO_SIGMA: 0.4}
# predicted errors, and those of the truth, are right within a factor of two, before residuals are looked at
_PRIOR = np.log(2.0)
# a scatter is too small by chance by less than so many standard deviations; relative one of a median, of one star
_CHANCE, _MEDIAN_NOISE = 2.0, 1.17


def z_scores(values, errors, truth, truth_errors=None):
    """Return residuals in units of their errors.

    Parameters
    ----------
    values, errors : array_like
        ``(n_star,)`` predicted label and its error, one standard deviation, plain numbers.
    truth : array_like
        ``(n_star,)`` true label, in the unit of ``values``.
    truth_errors : array_like, optional
        ``(n_star,)`` error of the truth, added in quadrature; NaN counts as 0.

    Returns
    -------
    numpy.ndarray
        ``(n_star,)`` predicted minus true, divided by the error of both; NaN where one
        of them is not known. Standard normal where the errors are right.

    Raises
    ------
    InputTypeError
        Something with a unit, or that holds no numbers.
    InputValueError
        Shapes that differ, negative errors, errors of 0 on both sides, or no star of
        which all is known.
    """
    residual, error, truth_error, known = _known_stars(values, errors, truth, truth_errors)
    z = np.full(known.shape, np.nan)
    z[known] = residual / np.hypot(error, truth_error)
    return z


def pit(values, errors, truth, truth_errors=None):
    """Return the probability integral transform: where the truth lies in the predicted distribution.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`.

    Returns
    -------
    numpy.ndarray
        ``(n_star,)`` probability that the Gaussian gives to values below the truth; NaN
        where something is not known. Uniform between 0 and 1 where the errors are right.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`.
    """
    return norm.cdf(-z_scores(values, errors, truth, truth_errors))


def coverage(values, errors, truth, truth_errors=None, levels=(_ONE_SIGMA, _TWO_SIGMA)):
    """Return the fraction of the stars whose truth lies in the central interval of each level.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`.
    levels : float or sequence of float, optional
        Nominal coverage of the intervals, between 0 and 1; one and two standard
        deviations by default, many for the curve of expected coverage.

    Returns
    -------
    numpy.ndarray
        One fraction a level, of the shape of ``levels``.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`; and levels that are not between 0 and 1.
    """
    size = np.abs(_known_z(values, errors, truth, truth_errors))
    return np.mean(size <= norm.ppf(0.5 + _checked_levels(levels)[..., None] / 2), axis=-1)


def calibration_error(values, errors, truth, truth_errors=None, levels=None):
    """Return the mean absolute difference between observed and nominal coverage.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`.
    levels : sequence of float, optional
        Levels to average over, between 0 and 1; 0.05 to 0.95 in steps of 0.05 when left out.

    Returns
    -------
    float
        Dimensionless: 0 if the errors are right, up to the noise of
        a finite number of stars; 0.5 if they are far too small or large.

    Raises
    ------
    InputTypeError, InputValueError
        As `coverage`.
    """
    levels = _LEVELS if levels is None else levels
    observed = coverage(values, errors, truth, truth_errors, levels)
    return float(np.mean(np.abs(observed - np.asarray(levels, dtype=np.float64))))


def negative_log_likelihood(values, errors, truth, truth_errors=None):
    """Return the mean of minus the logarithm of the Gaussian density at the truth.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`.

    Returns
    -------
    float
        Smaller is better; it has no zero point and depends on the unit.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`.
    """
    residual, error, truth_error, _ = _known_stars(values, errors, truth, truth_errors)
    return float(-norm.logpdf(residual, scale=np.hypot(error, truth_error)).mean())


def crps(values, errors, truth, truth_errors=None):
    """Return the mean continuous ranked probability score of Gaussians.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`.

    Returns
    -------
    float
        Smaller is better, in the unit of ``values``: for errors of 0, the mean absolute
        residual.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`.

    Notes
    -----
    The closed form of Gneiting et al. (2005), Monthly Weather Review 133, 1098, equation 5.
    """
    residual, error, truth_error, _ = _known_stars(values, errors, truth, truth_errors)
    total = np.hypot(error, truth_error)
    z = residual / total
    return float(np.mean(total * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))))


def temperature(values, errors, truth, truth_errors=None, method="coverage"):
    """Return the one factor on the predicted errors that makes them fit the residuals.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`. The factor is on ``errors`` alone, not on ``truth_errors``.
    method : {"coverage", "likelihood"}, optional
        Make one standard deviation hold 68.27 % of the stars, which outliers do not
        disturb, or make the truth as likely as possible, which uses all residuals.

    Returns
    -------
    float
        Between 0.1 and 10, where the search ends.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`; and a method of another name.
    """
    searches = {"coverage": _factor_by_coverage, "likelihood": _factor_by_likelihood}
    if method not in searches:
        raise InputValueError(f"method: unknown {method!r}; known are {', '.join(searches)}")
    residual, error, truth_error, _ = _known_stars(values, errors, truth, truth_errors)
    return float(searches[method](np.abs(residual), error, truth_error))


def _factor_by_coverage(residual, error, truth_error):
    low, high = LOWEST_FACTOR, HIGHEST_FACTOR
    residual = residual / norm.ppf(0.5 + _ONE_SIGMA / 2)
    for _ in range(60):
        factor = np.sqrt(low * high)
        inside = np.mean(residual <= np.hypot(factor * error, truth_error))
        low, high = (factor, high) if inside < _ONE_SIGMA else (low, factor)
    return np.sqrt(low * high)


def _factor_by_likelihood(residual, error, truth_error):
    def loss(log_factor):
        return -norm.logpdf(residual, scale=np.hypot(np.exp(log_factor) * error, truth_error)).mean()

    # errors of the truth that differ from star to star can make more than one minimum
    grid = np.linspace(np.log(LOWEST_FACTOR), np.log(HIGHEST_FACTOR), 41)
    best = int(np.argmin([loss(point) for point in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return np.exp(minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-8}).x)


def conformal_factor(values, errors, truth, truth_errors=None, level=_ONE_SIGMA):
    """Return the factor on the predicted errors that guarantees a coverage, by split conformal prediction.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`, of stars that the weights have not seen. The factor is on
        ``errors`` alone, not on ``truth_errors``.
    level : float, optional
        Coverage to guarantee, between 0 and 1; one standard deviation by default.

    Returns
    -------
    float
        At least 0.1. Without errors of the truth, the quantile of rank ``ceil((n_star + 1)
        level)`` of the absolute `z_scores`, divided by that of a Gaussian.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`; a level that is not between 0 and 1, or one for which there are
        too few stars.

    Notes
    -----
    Of new stars like these, at least the fraction ``level`` lies in the central interval
    of that level, whatever the distribution of the residuals (Lei et al. 2018, Journal of
    the American Statistical Association 113, 1094). It holds on average over draws of the
    stars, and for all of them together, not for each kind of star.
    """
    level = float(_checked_levels(level))
    residual, error, truth_error, _ = _known_stars(values, errors, truth, truth_errors)
    n_star = len(residual)
    rank = int(np.ceil((n_star + 1) * level))
    if rank > n_star:
        needed = int(np.ceil(level / (1 - level)))
        raise InputValueError(f"level: {level:g} needs {needed} stars with a known truth, {n_star} came; lower it")
    # the factor from which on a star is inside; never, where its error is 0
    beyond = np.sqrt(np.maximum((residual / norm.ppf(0.5 + level / 2)) ** 2 - truth_error**2, 0))
    needs = np.divide(beyond, error, out=np.where(beyond > 0, np.inf, 0.0), where=error > 0)
    return float(max(np.sort(needs)[rank - 1], LOWEST_FACTOR))


def error_factor(values, errors, truth, truth_errors=None):
    """Return the factor on the predicted errors that does best for one and two standard deviations together.

    Where residuals have longer tails than a Gaussian, it lies between the factors that
    `conformal_factor` gives for the one and for the other. Weights are made with it.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`, of stars that the weights have not seen. The factor is on
        ``errors`` alone, not on ``truth_errors``.

    Returns
    -------
    float
        Between 0.1 and 10.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`.
    """
    n_star = int(_known_stars(values, errors, truth, truth_errors)[3].sum())
    # the highest coverage that so few stars can tell of
    highest = (n_star - 1e-6) / (n_star + 1)
    factors = [conformal_factor(values, errors, truth, truth_errors, min(level, highest)) for level in _SERVED]
    return float(np.exp(np.log(np.minimum(factors, HIGHEST_FACTOR)) @ list(_SERVED.values())))


def truth_error_factor(values, errors, truth, truth_errors):
    """Return the factor on errors of the truth that are larger than the scatter of the residuals.

    Residuals contain the errors of the truth and those of the prediction, so they scatter by
    more than the errors of the truth alone, unless these are quoted too large.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like
        As for `z_scores`, of stars that the weights have not seen.

    Returns
    -------
    float
        1 where the residuals scatter by as much as the errors of the truth, but for chance; else the factor, 0 or
        more, with which both errors together fit the scatter. That is from the median, which outliers do not disturb.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`.
    """
    residual, error, truth_error, _ = _known_stars(values, errors, truth, truth_errors)
    quoted = truth_error > 0
    if not quoted.any():
        return 1.0
    scatter, share = (np.median(np.abs(size[quoted]) / truth_error[quoted]) for size in (residual, error))
    scatter /= norm.ppf(0.75)
    if scatter >= 1 - _CHANCE * _MEDIAN_NOISE / np.sqrt(quoted.sum()):
        return 1.0
    return float(np.sqrt(max(scatter**2 - share**2, 0.0)))


def determined_factor(factor, values, errors, truth, truth_errors=None):
    """Return a factor on the predicted errors, no smaller than the residuals say by themselves.

    Where errors of the truth explain the residuals, a factor that makes errors fit is as small
    as one likes, since predicted errors hardly matter beside them. The logarithm of a factor
    below 1 is therefore multiplied with how well residuals determine it, between 0 and 1,
    if predicted errors and those of the truth are each known within a factor of two.

    Parameters
    ----------
    factor : float
        From `temperature`, `conformal_factor` or `error_factor`.
    values, errors, truth, truth_errors : array_like
        The stars that it is from, as for `z_scores`.

    Returns
    -------
    float
        The factor itself where it is 1 or more, or the truth has no errors; between it and 1 elsewhere.

    Raises
    ------
    InputTypeError, InputValueError
        As `z_scores`.

    Notes
    -----
    The prior of the logarithm of the factor is a Gaussian about 0 with a standard deviation of ln 2. Residuals
    of ``n_star`` stars of which the prediction has a share ``p`` in the variance give it the variance ``(1 / (2 n_star)
    + (1 - p)^2 ln(2)^2) / p^2``, from the Fisher information of a Gaussian likelihood in which a factor on the errors
    of the truth is free, with the same prior. ``1 / (2 n_star)``, what that is without errors of the truth, is taken
    off, so that few stars alone change nothing.
    """
    _, error, truth_error, _ = _known_stars(values, errors, truth, truth_errors)
    if factor >= 1:
        return float(factor)
    # share of the prediction in the variance of a typical star, at a factor of 1
    share = np.median(error**2 / (error**2 + truth_error**2))
    if share == 0:
        return 1.0
    noise = 1 / (2 * len(error))
    variance = (noise + (_PRIOR * (1 - share)) ** 2) / share**2 - noise
    weight = _PRIOR**2 / (_PRIOR**2 + variance)
    return float(factor**weight)


def calibration_table(table, truth_table):
    """Return how good labels and their errors are, label by label.

    Parameters
    ----------
    table : `~astropy.table.Table` or dict
        As `~spectrafm.SpectraFM.infer` returns it: columns ``<label>`` and ``e_<label>``.
    truth_table : `~astropy.table.Table` or dict
        ``n_star`` rows in the same order with columns ``<label>`` and, where there are
        any, ``e_<label>``; with units or in the usual ones; masked or NaN where not known.
        Of other columns, only ``identifier`` matters, the names of the stars.

    Returns
    -------
    `~astropy.table.Table`
        A row a label that both have: ``label``, its ``unit``, the number ``n`` of stars
        with prediction, error and truth, ``bias`` (median of predicted minus true),
        ``mad_std``, the observed ``coverage_68`` and ``coverage_95`` of one and two
        standard deviations (68.27 and 95.45 %), ``nll``, ``crps`` and ``z_std``. Figures
        are masked where ``n`` is 0.

    Raises
    ------
    InputTypeError
        One of them is no table.
    InputValueError
        They have no label in common, their ``identifier`` has the same stars in another order, a column has a unit
        or length that cannot be used, there is an error without its label, or no star of which anything is known.

    Warns
    -----
    SpectraFMWarning
        Columns that look like labels or errors, and are not used.
    """
    from astropy.table import MaskedColumn, Table

    given = {"table": table_columns(table, "table"), "truth_table": table_columns(truth_table, "truth_table")}
    offered = [name for name in given["table"] if f"e_{name}" in given["table"]]
    for argument, expected in (("table", given["truth_table"]), ("truth_table", offered)):
        stellar = [name for name in expected if name in QUANTITIES]
        check_label_columns(given[argument], stellar, argument, stacklevel=3)
    labels = [name for name in offered if name in given["truth_table"]]
    if not labels:
        raise InputValueError(
            f"truth_table: none of its columns ({', '.join(given['truth_table'])}) is a label of the table, which has "
            f"{', '.join(offered) or 'none'}"
        )
    refuse_other_rows(given["table"], truth_table)
    n_star = len(np.atleast_1d(given["table"][labels[0]]))
    predicted, truth = (known_labels(columns, labels, n_star, argument) for argument, columns in given.items())
    rows = []
    for name in labels:
        stars = *predicted[name], *truth[name]
        known = np.isfinite(stars[:3]).all(axis=0)
        figures = [np.nan] * 7
        if known.any():
            residual = (stars[0] - stars[2])[known]
            figures = [
                np.median(residual),
                mad_std(residual),
                *coverage(*stars),
                negative_log_likelihood(*stars),
                crps(*stars),
                _known_z(*stars).std(),
            ]
        rows.append((name, get_quantity(name).error_unit, int(known.sum()), *figures))
    if not any(row[2] for row in rows):
        raise InputValueError(f"truth_table: no star has prediction, error and truth of {', '.join(labels)}")
    names = ("bias", "mad_std", "coverage_68", "coverage_95", "nll", "crps", "z_std")
    found = Table(rows=rows, names=("label", "unit", "n", *names))
    for name in names:
        found[name].info.format = ".4g"
        if (missing := np.isnan(found[name])).any():
            found[name] = MaskedColumn(found[name], mask=missing)
    return found


def _known_stars(values, errors, truth, truth_errors):
    """Return residuals, errors and errors of the truth of the stars that are known, and which these are."""
    given = {"values": values, "errors": errors, "truth": truth}
    if truth_errors is not None:
        given["truth_errors"] = truth_errors
    arrays = {name: _plain(name, array) for name, array in given.items()}
    expected = arrays["values"].shape
    for name, array in arrays.items():
        if array.ndim != 1 or array.shape != expected:
            shapes = ", ".join(f"{key} {value.shape}" for key, value in arrays.items())
            raise InputValueError(f"{name}: shape {array.shape}; expected one number a star (n_star,) in all: {shapes}")
        if name.endswith("errors") and (array < 0).any():
            raise InputValueError(f"{name}: some are negative; expected standard deviations, or NaN where not known")
    known = np.isfinite([arrays[name] for name in ("values", "errors", "truth")]).all(axis=0)
    if not known.any():
        raise InputValueError(
            f"truth: none of the {len(known)} stars has a value, an error and a truth that are finite; "
            "check that the rows belong together"
        )
    truth_error = np.nan_to_num(arrays.get("truth_errors", np.zeros(expected)), posinf=0.0)[known]
    error = arrays["errors"][known]
    if not np.hypot(error, truth_error).all():
        raise InputValueError(
            "errors: some are 0, and so are those of the truth; make them NaN to leave these stars out"
        )
    return (arrays["values"] - arrays["truth"])[known], error, truth_error, known


def _known_z(*stars):
    z = z_scores(*stars)
    return z[np.isfinite(z)]


def _plain(name, array):
    """Return float64, NaN where masked; units would be lost, and are refused."""
    if (unit := getattr(array, "unit", None)) is not None:
        raise InputTypeError(
            f"{name}: has the unit {unit}, expected plain numbers; give all in one unit with .value, "
            "or use calibration_table, which honours units"
        )
    data, mask = split_mask(array)
    try:
        return np.where(mask, np.nan, np.asarray(data, dtype=np.float64))
    except (TypeError, ValueError):
        raise InputTypeError(f"{name}: {type(array).__name__}, expected an array of numbers (n_star,)") from None


def _checked_levels(levels):
    array = np.asarray(levels, dtype=np.float64)
    if not array.size or not ((array > 0) & (array < 1)).all():
        raise InputValueError(f"level: {levels}, expected numbers between 0 and 1, for example 0.6827")
    return array
