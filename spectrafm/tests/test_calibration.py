"""Calibration: measures with known answers, factors that mend errors, and weights that carry them."""

import copy
import re
import warnings
from dataclasses import asdict, replace
from threading import Thread

import astropy.units as u
import matplotlib
import numpy as np
import pandas as pd
import pytest
from astropy.table import MaskedColumn, QTable, Table
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.stats import kstest, norm

from spectrafm import Flag, SpectraFM, SpectraFMWarning, _warning_filters, calibration
from spectrafm._known import known_quantities
from spectrafm.adapters import from_arrays
from spectrafm.calibration import (
    calibration_error,
    calibration_table,
    conformal_factor,
    coverage,
    crps,
    determined_factor,
    error_factor,
    negative_log_likelihood,
    pit,
    temperature,
    truth_error_factor,
    z_scores,
)
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.plotting import plot_coverage, plot_pit, plot_z_scores
from spectrafm.results import label_table, label_values
from spectrafm.stellarperceptron import FitConfig, StellarPerceptron, Vocabulary
from spectrafm.tests.tiny import QUANTITIES, WAVELENGTH, tiny_config, tiny_table
from spectrafm.weights_info import Domain, WeightsInfo

MEASURES = (
    z_scores,
    pit,
    coverage,
    calibration_error,
    negative_log_likelihood,
    crps,
    temperature,
    conformal_factor,
    error_factor,
)
SEEDS = st.integers(0, 2**32 - 1)
HELD_OUT = tiny_table(60, seed=9)


def draws(seed=0, n_star=2000, factor=1.0, truth_error=0.3):
    """Return values, errors, truth and its errors; true residuals are ``factor`` times the errors."""
    rng = np.random.default_rng(seed)
    errors, label = rng.uniform(0.5, 2, n_star), rng.normal(size=n_star)
    truth = label + truth_error * rng.normal(size=n_star)
    return label + factor * errors * rng.normal(size=n_star), errors, truth, np.full(n_star, truth_error)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([3.0], [2.0], [1.0]), 1.0),
        (([3.0], [3.0], [1.0], [4.0]), 0.4),
        (([1.0], [3.0], [3.0], [np.nan]), -2 / 3),
    ],
)
def test_z_scores(arguments, expected):
    """Predicted minus true, over both errors in quadrature; an unknown error of the truth is 0."""
    np.testing.assert_allclose(z_scores(*arguments), [expected])
    np.testing.assert_allclose(pit(*arguments), norm.cdf([-expected]))


def test_known_answers():
    """Four stars at 0.5, 1.5, 2.5 and -0.5 standard deviations."""
    stars = np.array([1.0, 3.0, 5.0, -1.0]), np.full(4, 2.0), np.zeros(4)
    np.testing.assert_allclose(coverage(*stars), [0.5, 0.75])
    assert coverage(*stars, levels=0.5).shape == ()
    np.testing.assert_allclose(calibration_error(*stars, levels=[0.6827, 0.9545]), (0.1827 + 0.2045) / 2)
    expected = np.mean([0.125, 1.125, 3.125, 0.125]) + np.log(2) + np.log(2 * np.pi) / 2
    np.testing.assert_allclose(negative_log_likelihood(*stars), expected)
    np.testing.assert_allclose(crps([0.0], [2.0], [0.0]), 2 * (np.sqrt(2) - 1) / np.sqrt(np.pi))
    # root mean square of the z-scores
    np.testing.assert_allclose(temperature(*stars, method="likelihood"), 1.5, rtol=1e-5)
    # rank ceil(5 * 0.6827) = 4 of 4
    np.testing.assert_allclose(conformal_factor(*stars), 2.5 / norm.ppf(0.5 + 0.6827 / 2))
    np.testing.assert_allclose(conformal_factor(*stars, level=0.4), 0.5 / norm.ppf(0.7))


def test_scores_are_those_of_scoringrules():
    """The two scores agree with an independent package."""
    scoringrules = pytest.importorskip("scoringrules", reason="needs the extra test")
    values, errors, truth, truth_errors = draws()
    total = np.hypot(errors, truth_errors)
    np.testing.assert_allclose(
        crps(values, errors, truth, truth_errors), scoringrules.crps_normal(truth, values, total).mean(), rtol=1e-10
    )
    np.testing.assert_allclose(
        negative_log_likelihood(values, errors, truth, truth_errors),
        scoringrules.logs_normal(truth, values, total).mean(),
        rtol=1e-10,
    )


@pytest.mark.parametrize("method", ["coverage", "likelihood"])
def test_temperature_finds_the_scale(method):
    """The scale of the residuals is found, errors of the truth taken off."""
    np.testing.assert_allclose(temperature(*draws(n_star=20000, factor=1.7), method=method), 1.7, rtol=0.03)
    np.testing.assert_allclose(temperature(*draws(factor=100), method=method), 10, rtol=1e-3)
    # the errors of the truth alone are more than the residuals
    values, errors, truth, _ = draws(factor=1e-3, truth_error=1e-3)
    np.testing.assert_allclose(temperature(values, errors, truth, np.ones(2000), method=method), 0.1, rtol=1e-3)


def test_temperature_by_coverage_bounds_outliers():
    """A few failures do not widen the errors of all; half of the stars unknown do not either."""
    values, errors, truth, truth_errors = draws(n_star=20000, factor=1.7)
    values[:100] = 1e6
    np.testing.assert_allclose(temperature(values, errors, truth, truth_errors), 1.7, rtol=0.05)
    values[::2] = np.nan
    np.testing.assert_allclose(temperature(values, errors, truth, truth_errors), 1.7, rtol=0.05)


def test_conformal_factor_covers():
    """On average over draws, new stars are covered as often as asked, for residuals that are not Gaussian."""
    rng = np.random.default_rng(3)
    covered, level = [], 0.8
    for _ in range(400):
        residual = rng.standard_t(2, size=30 + 200)
        factor = conformal_factor(residual[:30], np.ones(30), np.zeros(30), level=level)
        covered.append(coverage(residual[30:], np.full(200, factor), np.zeros(200), levels=level))
    # the guarantee is level to level + 1 / (n + 1)
    assert level - 0.01 < np.mean(covered) < level + 1 / 31 + 0.01


def test_error_factor():
    """Right errors keep their size; longer tails end up between what one and two sigma want; few stars do, too."""
    rng = np.random.default_rng(8)
    ones, zeros = np.ones(4000), np.zeros(4000)
    assert error_factor(rng.normal(size=4000), ones, zeros, zeros) == pytest.approx(1, abs=0.05)
    tails = rng.standard_t(2, size=4000)
    one, two = (conformal_factor(tails, ones, zeros, zeros, level=level) for level in (0.6827, 0.9545))
    assert one < error_factor(tails, ones, zeros, zeros) < two
    few = error_factor(np.linspace(-1, 1, 10), np.ones(10), np.zeros(10), np.zeros(10))
    assert 0.5 < few < 1.0


def test_errors_of_the_truth_that_hide_the_residuals():
    """Where quoted errors of the truth explain the residuals, factors on predicted errors do not vanish."""
    for quoted in (0.5, 1, 1.5, 2, 4):
        values, errors, truth, truth_errors = draws(n_star=300, truth_error=3.0)
        stars = values, errors, truth, quoted * truth_errors
        small = truth_error_factor(*stars)
        assert small == (1 if quoted <= 1 else pytest.approx(1 / quoted, rel=0.15))
        stars = *stars[:3], small * stars[3]
        assert 0.8 < determined_factor(error_factor(*stars), *stars) < (1.2 if quoted >= 1 else 3)
        if quoted > 1:
            assert determined_factor(0.1, values, errors, truth, quoted * truth_errors) > 0.8
    assert truth_error_factor(values, errors, truth, np.full(300, np.nan)) == 1
    # nothing changes where residuals tell, or errors are too small
    values, errors, truth, _ = draws(factor=0.4, truth_error=0.1)
    assert determined_factor(0.4, values, errors, truth) == pytest.approx(0.4)
    assert determined_factor(0.4, values, errors, truth, np.full(2000, 0.1)) == pytest.approx(0.4, rel=0.01)
    assert determined_factor(3.0, values, errors, truth, np.full(2000, 50.0)) == 3.0


@given(seed=SEEDS)
def test_conformal_factor_with_errors_of_the_truth(seed):
    """The factor is the smallest at which enough stars are inside, errors of the truth added."""
    values, errors, truth, truth_errors = draws(seed, 50)
    factor = conformal_factor(values, errors, truth, truth_errors)
    enough = np.ceil(51 * 0.6827) / 50
    at, below = (
        coverage(values, f * errors, truth, truth_errors)[0] for f in (factor * (1 + 1e-9), factor * (1 - 1e-9))
    )
    np.testing.assert_allclose(at, enough)
    assert below < enough


@given(seed=SEEDS, scale=st.floats(0.3, 3))
def test_factors_undo_a_scale(seed, scale):
    """Errors scaled by k have factors scaled by 1 / k."""
    values, errors, truth, truth_errors = draws(seed, 60)
    for factor in (temperature, lambda *stars: temperature(*stars, method="likelihood"), conformal_factor):
        plain = factor(values, errors, truth, truth_errors)
        np.testing.assert_allclose(factor(values, scale * errors, truth, truth_errors) * scale, plain, rtol=1e-4)


@given(seed=SEEDS)
def test_factor_mends_coverage(seed):
    """Errors times their temperature cover what one standard deviation should."""
    values, errors, truth, truth_errors = draws(seed, 200, factor=2.0)
    errors = errors * temperature(values, errors, truth, truth_errors)
    assert abs(coverage(values, errors, truth, truth_errors)[0] - 0.6827) <= 1 / 200


@given(seed=SEEDS)
def test_pit_is_uniform_for_calibrated_draws(seed):
    """Where errors are right, the transform is uniform and coverage is nominal."""
    stars = draws(seed)
    assert kstest(pit(*stars), "uniform").pvalue > 1e-5
    assert calibration_error(*stars) < 0.05


@given(seed=SEEDS, where=st.sampled_from([0, 1, 2]), bad=st.sampled_from([np.nan, np.inf]))
def test_unknown_stars_do_not_matter(seed, where, bad):
    """A star of which anything is not finite changes nothing."""
    stars = draws(seed, 40)
    more = [np.append(array, 1.0) for array in stars]
    more[where][-1] = bad
    for measure in MEASURES:
        found, expected = measure(*more), measure(*stars)
        np.testing.assert_array_equal(found[:-1] if np.ndim(expected) and len(expected) == 40 else found, expected)
    assert np.isnan(z_scores(*more)[-1])


def test_masks_and_data_frames():
    """Masked values of numpy and astropy are not known; columns of pandas and lists are arrays."""
    values, errors, truth, _ = draws(n_star=30)
    expected = z_scores(values[:29], errors[:29], truth[:29])
    mask = np.arange(30) == 29
    for masked in (np.ma.array(truth, mask=mask), MaskedColumn(truth, mask=mask)):
        found = z_scores(values, errors, masked)
        np.testing.assert_array_equal(found[:29], expected)
        assert np.isnan(found[29])
    np.testing.assert_array_equal(z_scores(pd.Series(values), list(errors), truth)[:29], expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, 2.0], [1.0], [1.0, 2.0]), InputValueError, r"errors: shape \(1,\); expected one number a star"),
        (([1.0], [1.0], [1.0], [1.0, 2.0]), InputValueError, r"truth_errors: shape \(2,\); expected"),
        ((1.0, 1.0, 1.0), InputValueError, r"values: shape \(\); expected one number a star \(n_star,\)"),
        (([1.0], [-9999.0], [1.0]), InputValueError, "errors: some are negative; expected standard deviations"),
        (([1.0], [1.0], [1.0], [-1.0]), InputValueError, "truth_errors: some are negative"),
        (([1.0], [0.0], [1.0]), InputValueError, "errors: some are 0, .* make them NaN"),
        (([1.0, np.nan], [1.0, 1.0], [np.nan, 1.0]), InputValueError, "truth: none of the 2 stars .* check"),
        (([], [], []), InputValueError, "truth: none of the 0 stars"),
        (([1.0] * u.K, [1.0], [1.0]), InputTypeError, "values: has the unit K, expected plain numbers; .*_table"),
        (([1.0], [1.0], ["a"]), InputTypeError, "truth: list, expected an array of numbers"),
    ],
)
@pytest.mark.parametrize("measure", MEASURES)
def test_stars_that_cannot_be_used(measure, arguments, error, message):
    """Every measure says which argument is wrong, and what to do."""
    with pytest.raises(error, match=message):
        measure(*arguments)


def test_settings_that_cannot_be_used():
    """Unknown methods, levels that are none, too few stars for a level."""
    stars = draws(n_star=30)
    with pytest.raises(InputValueError, match="method: unknown 'mean'; known are coverage, likelihood"):
        temperature(*stars, method="mean")
    with pytest.raises(InputValueError, match="level: .* expected numbers between 0 and 1"):
        coverage(*stars, levels=[0.5, 68])
    with pytest.raises(InputValueError, match="level: .* expected numbers between 0 and 1"):
        conformal_factor(*stars, level=1)
    with pytest.raises(InputValueError, match="level: 0.99 needs 99 stars with a known truth, 30 came; lower it"):
        conformal_factor(*stars, level=0.99)


def results(n_star=300):
    """Return a table of results, and the plain numbers of its truth."""
    values, errors, truth, truth_errors = draws(n_star=n_star)
    table = label_table(
        ["teff", "logg"],
        np.stack((5000 + 100 * values, values), axis=1),
        np.stack((100 * errors, errors), axis=1),
        flag=np.zeros(n_star, dtype=int),
        n_pixels_used=np.full(n_star, 9),
        snr=np.full(n_star, 9.0),
    )
    return table, 5000 + 100 * truth, 100 * truth_errors


def test_calibration_table():
    """A row a label with the measures of its stars, in its unit; other columns do not matter."""
    table, teff, e_teff = results()
    found = calibration_table(table, Table({"name": ["a"] * 300, "teff": teff, "e_teff": e_teff, "fe_h": teff}))
    assert found.colnames == [
        "label", "unit", "n", "bias", "mad_std", "coverage_68", "coverage_95", "nll", "crps", "z_std",
    ]  # fmt: skip
    assert list(found["label"]) == ["teff"]
    assert list(found["unit"]) == ["K"]
    stars = *label_values(table, "teff"), teff, e_teff
    assert found["n"][0] == 300
    np.testing.assert_allclose(found["bias"][0], np.median(stars[0] - teff))
    np.testing.assert_allclose([found["coverage_68"][0], found["coverage_95"][0]], coverage(*stars))
    np.testing.assert_allclose(found["nll"][0], negative_log_likelihood(*stars))
    np.testing.assert_allclose(found["crps"][0], crps(*stars))
    np.testing.assert_allclose(found["z_std"][0], z_scores(*stars).std())
    np.testing.assert_allclose(found["z_std"][0], 1, rtol=0.1)
    assert "coverage_68" in "\n".join(found.pformat())


def test_calibration_table_names_mistyped_columns():
    """Columns that are nearly labels or errors are told, on either side; errors alone are refused."""
    table, teff, e_teff = results()
    with pytest.warns(SpectraFMWarning, match=r"truth_table: columns .* not used: 'teff_err' \('e_teff'\?\)") as told:
        calibration_table(table, {"teff": teff, "teff_err": e_teff})
    assert told[0].filename == __file__
    renamed = {"teff": table["teff"], "e_teff": table["e_teff"], "Logg": table["logg"]}
    with pytest.warns(SpectraFMWarning, match=r"^table: columns .* not used: 'Logg' \('logg'\?\)"):
        calibration_table(renamed, {"teff": teff, "logg": teff / 1000})
    with pytest.raises(InputValueError, match="truth_table: e_logg without logg"):
        calibration_table(table, {"teff": teff, "e_logg": e_teff})


@pytest.mark.parametrize("as_results", [Table, dict])
@pytest.mark.parametrize("as_truth", [Table, dict])
def test_calibration_table_in_another_order(as_results, as_truth):
    """The same stars in another order are refused, and code in the message puts them in order."""
    table, teff, e_teff = results()
    stars = np.array([f"star {i}" for i in range(300)])
    table = Table({"identifier": stars, "teff": table["teff"], "e_teff": table["e_teff"]})
    truth = Table({"identifier": stars, "teff": teff, "e_teff": e_teff})
    expected = calibration_table(table, truth)
    table, mixed = (
        kind(one[order].items()) if kind is dict else one[order]
        for kind, one, order in (
            (as_results, table, np.arange(300)),
            (as_truth, truth, np.random.default_rng(0).permutation(300)),
        )
    )
    with pytest.raises(InputValueError, match=r"truth_table\['identifier'\]: .* in another order, 'star") as caught:
        calibration_table(table, mixed)
    row, order, remedy = re.search("with row = (.*) and order = (.*) give (.*); where", str(caught.value)).groups()
    scope = {"table": table, "truth_table": mixed, "numpy": np}
    scope["row"] = eval(row, scope)
    scope["order"] = eval(order, scope)
    found = calibration_table(table, eval(remedy, scope))
    assert list(found["bias"]) == list(expected["bias"])
    assert calibration_table(
        {**table, "identifier": "all"} if as_results is dict else table, {**truth, "identifier": stars + "b"}
    )


def test_calibration_table_honours_units_and_masks():
    """Kilokelvin are kelvin, masked is not known, and a label without any star has masked figures."""
    table, teff, e_teff = results()
    plain = calibration_table(table[1:], {"teff": teff[1:], "e_teff": e_teff[1:]})
    masked = QTable({"teff": (teff / 1000) * u.kK, "e_teff": e_teff * u.K, "logg": np.full(300, np.nan)})
    masked["teff"] = MaskedColumn(teff / 1000, unit=u.kK, mask=np.arange(300) == 0)
    found = calibration_table(table, masked)
    assert list(found["n"]) == [299, 0]
    for name in plain.colnames[3:]:
        np.testing.assert_allclose(found[name][0], plain[name][0])
        assert found[name].mask[1]


@pytest.mark.parametrize(
    ("truth", "error", "message"),
    [
        (
            [1, 2],
            InputTypeError,
            "truth_table: list, expected a dictionary or an astropy Table with columns such as teff",
        ),
        ({"vsini": np.ones(300)}, InputValueError, r"truth_table: none of its columns \(vsini\) is a label .* teff"),
        ({"teff": np.ones(7)}, InputValueError, r"truth_table\['teff'\]: shape \(7,\), expected \(300,\): one row"),
        ({"teff": np.ones(300) * u.m}, InputValueError, r"truth_table\['teff'\]: unit m, expected K"),
        ({"teff": np.full(300, np.nan)}, InputValueError, "truth_table: no star has prediction, error and truth"),
    ],
)
def test_tables_that_cannot_be_used(truth, error, message):
    """Tables that do not fit are refused by name of the argument."""
    with pytest.raises(error, match=message):
        calibration_table(results()[0], truth)


def test_table_of_one_number():
    """A number where one row a star is expected is refused, not a failure of `len`."""
    with pytest.raises(InputValueError, match=r"table\['teff'\]: shape \(\), expected \(1,\)"):
        calibration_table({"teff": 5000.0, "e_teff": 50.0}, {"teff": np.ones(1)})


@pytest.fixture
def _agg():
    """Draw without a screen, and close what was drawn."""
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.mark.usefixtures("_agg")
def test_plot_coverage():
    """Right errors lie in the band, small ones below it; axes of the user are used."""
    stars = draws(n_star=400)
    ax = plot_coverage(*stars)
    diagonal, observed = (line.get_ydata() for line in ax.lines)
    assert list(diagonal) == [0, 1]
    np.testing.assert_allclose(observed, coverage(*stars, levels=np.linspace(0.01, 0.99, 99)))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["95 % where errors are right", "400 stars"]
    own = plt.figure().subplots()
    assert plot_coverage(stars[0], stars[1] / 3, stars[2], levels=[0.5, 0.9], ax=own) is own
    assert (own.lines[1].get_ydata() < [0.4, 0.8]).all()
    own.figure.canvas.draw()


@pytest.mark.usefixtures("_agg")
def test_plot_pit():
    """All stars are in the bins, and the band is about the expected number."""
    stars = draws(n_star=400)
    ax = plot_pit(*stars, n_bin=8)
    assert ax.lines[0].get_ydata()[0] == 50
    low, high = ax.patches[0].get_y(), ax.patches[0].get_y() + ax.patches[0].get_height()
    assert 30 < low < 50 < high < 70
    own = plt.figure().subplots()
    assert plot_pit(*stars, ax=own) is own
    with pytest.raises(InputValueError, match="n_bin: 0, expected a positive integer"):
        plot_pit(*stars, n_bin=0)
    own.figure.canvas.draw()


@pytest.mark.usefixtures("_agg")
def test_plot_z_scores():
    """The histogram has the norm of all stars, and those beyond are counted."""
    values, errors, truth, truth_errors = draws(n_star=400)
    values[:4] = 1e3
    ax = plot_z_scores(values, errors, truth, truth_errors)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["400 stars, 4 beyond", "unit Gaussian"]
    # each step has two corners
    np.testing.assert_allclose(ax.patches[0].get_xy()[1:-1:2, 1].sum() * 0.25, 396 / 400)
    own = plt.figure().subplots()
    assert plot_z_scores(values, errors, truth, ax=own) is own
    own.figure.canvas.draw()


@pytest.fixture(scope="module")
def fm():
    """Return weights of two domains, the second of which reads nothing of the tiny stars."""
    vocabulary = Vocabulary(["flux", *QUANTITIES], flux=["flux"], log=["teff"])
    model = StellarPerceptron(tiny_config(), vocabulary, seed=0)
    model.fit(tiny_table(), ["teff", "logg"], FitConfig(steps=60, batch_size=64, warmup_steps=5, learning_rate=3e-3))
    domain = Domain(
        name="tiny",
        labels=("teff", "logg"),
        wavelength_range=(3950.0, 9050.0),
        label_ranges={"teff": [2000.0, 12000.0], "logg": [-3.0, 8.0]},
        usual_errors={"teff": 0.05, "logg": 1.0},
        calibration={k: {"with_sigma": 1.5, "without_sigma": 3.0} for k in ("teff", "logg")},
        unproven=("teff", "logg"),
    )
    far = replace(domain, name="far", wavelength_range=(15000.0, 17000.0))
    return SpectraFM(model, WeightsInfo(name="tiny", domains=(domain, far), known=("k_mag",)))


def truths(**changes):
    """Return the truth of the held-out stars as a table, with a column that is no label."""
    (teff, logg, _), (e_teff, e_logg, _) = HELD_OUT.values.T, HELD_OUT.errors.T
    columns = {"teff": teff * u.K, "e_teff": e_teff * u.K, "logg": logg, "e_logg": e_logg, "flag": np.zeros(60, int)}
    return QTable(columns | changes)


def held_out(sigma=0.01):
    """Return the held-out stars, with errors of their flux or without."""
    return from_arrays(WAVELENGTH, HELD_OUT.flux, None if sigma is None else np.full(HELD_OUT.flux.shape, sigma))


@pytest.mark.parametrize(("sigma", "kind"), [(0.01, "with_sigma"), (None, "without_sigma")])
@pytest.mark.parametrize("method", ["temperature", "conformal"])
def test_recalibrate(fm, method, sigma, kind):
    """Errors hold for the held-out stars afterwards, of either kind; labels and flags stay."""
    before = copy.deepcopy(asdict(fm.info))
    spectra, truth = held_out(sigma), truths()
    fitted = fm.recalibrate(spectra, truth, method=method)
    assert asdict(fm.info) == before
    assert fitted.model is fm.model
    assert fitted.info.domains[1] == fm.info.domains[1]
    old, new = fm.infer(spectra), fitted.infer(spectra)
    np.testing.assert_array_equal(new["teff"].value, old["teff"].value)
    np.testing.assert_array_equal(new["flag"], old["flag"])
    assert old.meta["unproven"] == "teff, logg"
    assert "unproven" not in new.meta
    observed = calibration_table(new, truth)["coverage_68"]
    np.testing.assert_allclose(observed, 0.6827, atol=2.1 / 60)
    function = {"temperature": temperature, "conformal": conformal_factor}[method]
    stars = *label_values(old, "logg"), truth["logg"], truth["e_logg"]
    factor = determined_factor(function(*stars), *stars)
    was, now = (f.info.domains[0].calibration["logg"][kind] for f in (fm, fitted))
    np.testing.assert_allclose(now / was, factor)
    assert fitted.info.domains[0].usual_errors == fm.info.domains[0].usual_errors


def test_recalibrate_keeps_large_errors_large(fm):
    """The same stars are flagged as before, with flux errors and without, though their factors differ."""
    domain = replace(fm.info.domains[0], usual_errors={"logg": 0.0})
    bare, told = held_out(None), held_out()
    own = np.concatenate([label_values(fm.infer(stars), "logg")[1] for stars in (bare, told)])
    domain.usual_errors["logg"] = float(np.median(own / np.repeat([3.0, 1.5], 60)))
    strict = SpectraFM(fm.model, replace(fm.info, domains=(domain,)))
    fitted = strict.recalibrate([*bare[:30], *told[30:]], truths())
    factors = fitted.info.domains[0].calibration["logg"]
    assert abs(factors["with_sigma"] / factors["without_sigma"] - 0.5) > 0.02
    for stars in (bare, told):
        flags = [f.infer(stars)["flag"] for f in (strict, fitted)]
        np.testing.assert_array_equal(*flags)
        assert 0 < np.count_nonzero(flags[0] & Flag.LARGE_UNCERTAINTY) < 60


def test_recalibrate_twice_is_once(fm):
    """Factors multiply those that are there: errors that hold already are left alone."""
    once = fm.recalibrate(held_out(), truths())
    twice = once.recalibrate(held_out(), truths())
    for name in ("teff", "logg"):
        for kind, factor in once.info.domains[0].calibration[name].items():
            np.testing.assert_allclose(twice.info.domains[0].calibration[name][kind], factor, rtol=2e-3)


def test_recalibrate_keeps_what_it_is_not_told(fm):
    """A label that is not in the table keeps its factors, and so does that for flux errors where there are none."""
    domain = fm.recalibrate(held_out(None), {"teff": HELD_OUT.values[:, 0]}).info.domains[0]
    assert domain.calibration["logg"] == fm.info.domains[0].calibration["logg"]
    assert domain.unproven == ("logg",)
    assert domain.calibration["teff"]["with_sigma"] == 1.5
    assert domain.calibration["teff"]["without_sigma"] != 3.0


def test_recalibrate_without_factors(fm):
    """Weights that were never calibrated have factors of 1 to begin with."""
    plain = copy.copy(fm)
    plain.info = replace(fm.info, domains=(replace(fm.info.domains[0], calibration={}, usual_errors={}),))
    expected = fm.recalibrate(held_out(), truths()).info.domains[0].calibration
    for name, factors in plain.recalibrate(held_out(), truths()).info.domains[0].calibration.items():
        for kind, factor in factors.items():
            np.testing.assert_allclose(factor, expected[name][kind], rtol=2e-3)


def test_recalibrate_names_labels_with_few_stars(fm):
    """Fewer than 20 stars change nothing, and a warning says so."""
    few = np.where(np.arange(60) < 19, HELD_OUT.values[:, 1], np.nan)
    with pytest.warns(SpectraFMWarning, match=r"factors kept: logg of tiny with_sigma \(19\), logg of tiny without"):
        fitted = fm.recalibrate(held_out(), truths(logg=few))
    assert fitted.info.domains[0].calibration["logg"] == fm.info.domains[0].calibration["logg"]
    assert fitted.info.domains[0].calibration["teff"] != fm.info.domains[0].calibration["teff"]
    with pytest.warns(SpectraFMWarning) as caught:
        fm.recalibrate([None, *held_out()[1:]], truths())
    assert [str(w.message) for w in caught] == ["1 of 60 spectra cannot be used and are left out"]
    assert caught[0].filename == __file__


def test_recalibrate_asks_spectra_for_what_they_tell(fm):
    """A label of another kind of spectrum is left alone, without a word; where there is no other, that is said."""
    logg = HELD_OUT.values[:, 1]
    names = ("teff", "logg")
    near = replace(fm.info.domains[0], labels=names[:1])
    far = replace(fm.info.domains[1], labels=names[1:], calibration={"logg": {"with_sigma": 2.0}})
    poor = SpectraFM(fm.model, replace(fm.info, domains=(near, far)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = poor.recalibrate([*held_out()[:40], *held_out(None)[40:]], truths())
    assert fitted.info.domains[0].calibration["teff"] != near.calibration["teff"]
    assert fitted.info.domains[1] == far
    with pytest.raises(InputValueError, match="is predicted from spectra of tiny; expected some of teff"):
        poor.recalibrate(held_out(), {"logg": logg})
    # those with errors tell less than those without
    both = [*held_out()[:30], *from_arrays(2 * WAVELENGTH, HELD_OUT.flux[30:])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = poor.recalibrate(both, truths())
    assert fitted.info.domains[1].calibration["logg"]["without_sigma"] != 1


def test_recalibrate_tells_of_a_wrong_truth(fm):
    """Factors at the end of the range are a sign of a wrong unit or order."""
    with pytest.warns(SpectraFMWarning, match=r"check units and order of the stars: teff of tiny with_sigma \(10\)"):
        fm.recalibrate(held_out(), {"teff": HELD_OUT.values[:, 0] / 10})


def test_recalibrate_with_errors_of_labels_that_are_too_large(fm):
    """Quoted errors far beyond the scatter are told of, and leave predicted errors about as they are."""
    rng = np.random.default_rng(5)
    stars = held_out()
    values, errors = label_values(fm.infer(stars), "teff")
    table = {"teff": values + errors * rng.normal(size=60), "e_teff": 10 * errors}
    with pytest.warns(SpectraFMWarning, match=r"quoted errors \(e_teff of tiny with_sigma.*\) are larger"):
        fitted = fm.recalibrate(stars, table)
    assert 0.6 < np.median(label_values(fitted.infer(stars), "teff")[1] / errors) <= 1.1


def test_recalibrate_keeps_no_other_thread_waiting(fm, monkeypatch):
    """While it infers, other threads may change filters of warnings; masked rows are still told once."""
    perceive, free = type(fm).perceive, []

    def take():
        free.append(_warning_filters._lock.acquire(timeout=1))
        if free[-1]:
            _warning_filters._lock.release()

    def watched(*arguments, **options):
        thread = Thread(target=take)
        thread.start()
        thread.join()
        return perceive(*arguments, **options)

    monkeypatch.setattr(type(fm), "perceive", watched)
    stars = held_out()
    stars[0] = replace(stars[0], good=np.zeros_like(stars[0].good))
    with pytest.warns(SpectraFMWarning) as told:
        fm.recalibrate(stars, truths())
    assert free
    assert all(free)
    assert ["masked" in str(one.message) for one in told] == [False]


def test_recalibrate_names_mistyped_columns(fm):
    """Errors under another name are told, and not left out in silence; errors alone are refused."""
    table = truths()
    table.rename_column("e_teff", "teff_err")
    with pytest.warns(SpectraFMWarning, match=r"labels_table: columns .* not used: 'teff_err' \('e_teff'\?\)"):
        fm.recalibrate(held_out(), table)
    with pytest.raises(InputValueError, match="labels_table: e_logg without logg"):
        fm.recalibrate(held_out(), {"teff": HELD_OUT.values[:, 0], "e_logg": HELD_OUT.values[:, 1]})


@pytest.mark.parametrize(
    ("labels_table", "options", "error", "message"),
    [
        (3.0, {}, InputTypeError, "labels_table: float, expected a dictionary or an astropy Table with columns"),
        (
            {"fe_h": np.ones(60)},
            {},
            InputValueError,
            "labels_table: no column of a label; these weights predict teff, logg",
        ),
        ({"teff": np.ones(3)}, {}, InputValueError, r"labels_table\['teff'\]: shape \(3,\)"),
        (
            {"teff": np.full(60, np.nan)},
            {},
            InputValueError,
            r"labels_table: no label .* for 20 stars; found teff .*\(0",
        ),
        ({"teff": np.ones(60)}, {"method": "mean"}, InputValueError, "method: unknown 'mean'; known are temperature"),
        ({"teff": np.ones(60)}, {"medium": "water"}, InputValueError, "medium"),
    ],
)
def test_recalibrate_refuses(fm, labels_table, options, error, message):
    """What cannot be used is refused by name, before anything is changed."""
    with pytest.raises(error, match=message):
        fm.recalibrate(held_out(), labels_table, **options)


def test_recalibrated_weights_come_back_from_disk(fm, tmp_path):
    """Saved and loaded, the factors are there; a name tells such weights and their tables from those they are from."""
    assert fm.recalibrate(held_out(), truths(), name="mine").info.name == "mine"
    fitted = fm.recalibrate(held_out(), truths())
    assert fitted.infer(held_out()).meta["model"] == f"{fm.info.name}-recalibrated"
    fitted.save(tmp_path / "weights")
    loaded = SpectraFM.load(tmp_path / "weights")
    assert loaded.info.domains[0].calibration == fitted.info.domains[0].calibration
    fm.save(tmp_path / "before")
    before = SpectraFM.load(tmp_path / "before")
    assert len({before.weights_hash, loaded.weights_hash, before.recalibrate(held_out(), truths()).weights_hash}) == 3
    np.testing.assert_allclose(
        loaded.infer(held_out())["e_teff"].value, fitted.infer(held_out())["e_teff"].value, rtol=1e-5
    )


def test_recalibrated_packaged_weights():
    """The packaged weights become wider where the truth asks for it, in the domain of the stars only."""
    from spectrafm.datasets import load_example_spectrum

    fm = SpectraFM.from_pretrained("gaia_xp")
    spectrum = load_example_spectrum()
    values = fm.infer([spectrum], labels="teff")
    truth = values["teff"].value + 3 * values["e_teff"].value * norm.ppf((np.arange(24) + 0.5) / 24)
    fitted = fm.recalibrate([spectrum] * 24, {"teff": truth})
    ratio = fitted.infer(spectrum)["e_teff"] / fm.infer(spectrum)["e_teff"]
    np.testing.assert_allclose(ratio.value, 3, rtol=0.15)


def test_names_are_all_public():
    """The vocabulary of the measures is in `__all__`."""
    assert {measure.__name__ for measure in MEASURES} <= set(calibration.__all__)


def test_known_takes_data_frames():
    """The mask of a pandas column is a method, and masks nothing."""
    values, errors = known_quantities({"teff": pd.Series([5000.0, np.nan])}, 2, ["teff"])["teff"]
    np.testing.assert_array_equal(values, [5000, np.nan])
    assert np.isnan(errors).all()
    frame = pd.DataFrame({"identifier": ["a", "b"], "teff": pd.array([5000, None], dtype="Int64")})
    values, _ = known_quantities(frame, 2, ["teff"])["teff"]
    np.testing.assert_array_equal(values, [5000, np.nan])
    found = calibration_table({"teff": [5000.0], "e_teff": [50.0]}, frame[["teff"]][:1])
    assert found["n"][0] == 1
