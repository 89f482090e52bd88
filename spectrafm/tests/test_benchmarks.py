"""The measurements themselves."""

import itertools
import pickle
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spectrafm import SpectraFM
from spectrafm._numerics import mad_std, robust_rms
from spectrafm.benchmarks import (
    BENCHMARKS,
    Residuals,
    benchmark_foundation,
    benchmark_networks,
    benchmark_speed,
    few_shot,
    run_benchmark,
    stars,
    stars_apart,
    throughput,
)
from spectrafm.benchmarks.cannon import CANNON_FILE, read_cannon
from spectrafm.benchmarks.few_shot import FewShotStars
from spectrafm.benchmarks.foundation import report_of_apogee, report_of_miles
from spectrafm.benchmarks.gaia_xp import XP_RIVALS, compare_weights
from spectrafm.benchmarks.regressors import REGRESSORS, predict_labels
from spectrafm.benchmarks.report import coverage, error_cells, result_header, result_line
from spectrafm.benchmarks.stars import broaden, miles_report
from spectrafm.cli import main
from spectrafm.datasets import LabelledSpectra
from spectrafm.exceptions import CheckpointError, InputValueError, MissingDependencyError
from spectrafm.synthesis import load_emulator
from spectrafm.training import load_recipe, read_data, split_stars


def test_mad_std():
    """For Gaussian residuals it is the standard deviation; outliers and NaN do not move it."""
    rng = np.random.default_rng(0)
    residual = 3 * rng.normal(size=20000) + 5
    np.testing.assert_allclose(mad_std(residual), 3, rtol=0.03)
    residual[:100], residual[100:200] = 1e9, np.nan
    np.testing.assert_allclose(mad_std(residual), 3, rtol=0.05)
    assert np.isnan(mad_std(np.array([np.nan])))


def test_robust_rms():
    """It is about zero: of Gaussian residuals it is what they scatter by, of others their bias counts."""
    residual = 3 * np.random.default_rng(0).normal(size=20000)
    residual[:100] = np.nan
    np.testing.assert_allclose(robust_rms(residual), 3, rtol=0.03)
    np.testing.assert_allclose(robust_rms(residual + 300), 1.4826 * 300, rtol=0.01)
    assert np.isnan(robust_rms([np.nan, np.inf]))


def test_summary():
    """Bias, scatter and coverage of residuals whose errors are right."""
    rng = np.random.default_rng(1)
    truth, error, truth_error = rng.normal(size=20000), rng.uniform(0.5, 2, 20000), np.full(20000, 0.7)
    predicted = truth + np.hypot(error, truth_error) * rng.normal(size=20000) + 0.2
    truth[:5000] = np.nan
    figures = Residuals(predicted, error, truth, truth_error).summary(np.arange(20000) < 15000)
    assert figures["n"] == 10000
    np.testing.assert_allclose(figures["bias"], 0.2, atol=0.05)
    np.testing.assert_allclose(figures["within_1_sigma"], 0.68, atol=0.03)
    np.testing.assert_allclose(figures["within_2_sigma"], 0.95, atol=0.02)
    # of a Gaussian, 1 / sqrt(2 n) and 1.17 / sqrt(n) of the scatter
    few = Residuals(rng.normal(size=200), np.ones(200), np.zeros(200), np.zeros(200)).summary(np.ones(200, dtype=bool))
    np.testing.assert_allclose(few["e_std"], 1 / np.sqrt(400), rtol=0.25)
    np.testing.assert_allclose(few["e_mad_std"], 1.17 / np.sqrt(200), rtol=0.4)
    assert result_line("a", "logg", "all", few).split()[6] == f"{few['e_mad_std']:.3f}"
    assert len(result_line("a", "logg", "all", few)) == len(result_header())


def test_coverage():
    """What was not predicted is neither within nor beyond; an error of zero holds for no residual."""
    residual, error = np.array([0.5, 1.5, 2.5, np.nan, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0, np.nan, 0.0])
    assert coverage(residual, error) == (0.25, 0.5)
    assert np.isnan(coverage(residual[3:4], error[3:4])).all()
    nothing = np.full(4, np.nan)
    truth = {"logg": np.array([1.0, 2.0, 3.0, 4.0])}
    values, errors = {"logg": truth["logg"] + [0.5, 1.5, np.nan, np.nan]}, {"logg": np.ones(4)}
    assert error_cells(["logg"], truth, values, errors).split()[1:] == ["0.50", "1.00"]
    figures = Residuals(values["logg"], errors["logg"], truth["logg"], nothing).summary(np.ones(4, dtype=bool))
    assert (figures["within_1_sigma"], figures["within_2_sigma"]) == (0.5, 1.0)
    stars = FewShotStars([None] * 4, None, None, {k: np.array([0.0, -2.0, -2.0, 0.0]) for k in few_shot._LABELS})
    predicted, sigma = ({k: np.array(v) for k in few_shot._LABELS} for v in ([0.5, -0.5, np.nan, np.nan], np.ones(4)))
    found = few_shot._coverage(predicted, sigma, stars, np.arange(4))
    np.testing.assert_array_equal(found, [0.5, 1.0, 0.0, 1.0])


def _weights(name, splits=None, fine_tuning=None):
    """Return weights of which nothing but their facts is there."""
    return SimpleNamespace(info=SimpleNamespace(name=name, splits=splits, fine_tuning=fine_tuning or {}))


def test_stars_apart():
    """Stars that weights were trained on are those that they tell of; for older ones the report says what is taken."""
    identifier, nothing = np.arange(400).astype(str), np.ones((400, 3))
    data = LabelledSpectra(np.arange(1.0, 4.0), nothing, nothing, {}, {}, identifier)

    def split(fraction, seed):
        return split_stars(data, fraction, seed)[::2]

    own = {"real": {"data": "miles", "seed": 5, "fraction": 0.5}, "xp": {"data": "other", "seed": 1, "fraction": 0.1}}
    train, test, seed, note = stars_apart(_weights("small", own), data, "miles", "small")
    for found, expected in zip((train, test), split(0.5, 5), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (seed, note) == (5, "")
    # two sources of the same stars: none that trained either
    both = own | {"more": {"data": "miles", "seed": 6, "fraction": 0.5}}
    train, test, *_ = stars_apart(_weights("mine", both), data, "miles", "small")
    assert not np.intersect1d(test, np.concatenate([split(0.5, 5)[0], split(0.5, 6)[0]])).size
    np.testing.assert_array_equal(train, np.union1d(split(0.5, 5)[0], split(0.5, 6)[0]))
    # none of these stars was seen: as others split them
    usual = split(load_recipe("small").sources["miles"].validation_fraction, load_recipe("small").split_seed)
    train, test, _, note = stars_apart(_weights("mine", {}), data, "miles", "small")
    np.testing.assert_array_equal(train, usual[0])
    assert not note
    train, test, _, note = stars_apart(_weights("mine"), data, "miles", "small")
    np.testing.assert_array_equal(test, usual[1])
    assert note.startswith("note: weights 'mine' do not tell which stars of miles they were trained on; taken to be")
    assert "'small-start'" in stars_apart(_weights("small-start"), data, "miles", "small")[3]
    assert "fine-tuned" in stars_apart(_weights("mine", own, {"method": "head"}), data, "miles", "small")[3]


def test_reports_say_that_weights_do_not_tell(monkeypatch):
    """A report of older weights begins with what is not known of its stars."""
    data = LabelledSpectra(np.arange(3600.0, 3700.0), *np.ones((2, 9, 100)), {}, {}, np.arange(9).astype(str))
    monkeypatch.setattr(stars, "read_data", lambda name, folder: data)
    lines = [list(miles_report(_weights("mine", k), "", lambda _: ["report"])) for k in (None, {})]
    assert lines[0][0].startswith("note: weights 'mine' do not tell which stars of miles")
    assert lines[0][1:] == lines[1] == ["report"]


_SETTINGS = {
    **XP_RIVALS,
    "ridge": {"kind": "ridge", "n_component": 40},
    "support vectors": {"kind": "support vectors", "n_component": 40},
}


@pytest.mark.parametrize("name", _SETTINGS)
@pytest.mark.parametrize("shared", [True, False])
def test_regressors_learn(name, shared):
    """Regressors find a label that is plain to see, though some of the training labels are missing."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(2)
    teff = rng.uniform(4000, 7000, 900)
    flux = np.exp(np.linspace(-1, 1, 120) * (teff[:, None] - 5500) / 2000) + 0.01 * rng.normal(size=(900, 120))
    known = np.where(rng.uniform(size=900) < 0.1, np.nan, teff)
    found = predict_labels(
        x_train=flux[:700], truth={"teff": known[:700]}, x_test=flux[700:], shared=shared, **_SETTINGS[name]
    )
    assert np.corrcoef(found["teff"], teff[700:])[0, 1] > 0.8
    assert abs(np.median(found["teff"] - teff[700:])) < 200


def test_regressors_need_scikit_learn(monkeypatch):
    """Without it the message says what to install; for a regressor that is not known, which ones are."""
    x, truth = np.ones((4, 3)), {"teff": np.full(4, 5000.0)}
    with pytest.raises(InputValueError, match="kind: 'oracle'; expected one of ridge, support vectors, gradient"):
        predict_labels("oracle", x, truth, x, 2)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for kind in REGRESSORS:
        with pytest.raises(MissingDependencyError, match=r"pip install 'spectrafm\[benchmark\]'"):
            predict_labels(kind, x, truth, x, 2)


def test_broadened_spectra():
    """A line becomes as wide as asked for, and keeps its area; a missing pixel elsewhere changes nothing."""
    wavelength = np.arange(5000.0, 5200.0, 0.9)
    flux = np.ones((2, len(wavelength)))
    flux[:, 111] = 0.5
    flux[1, 200] = np.nan
    for width in (7.0, np.full(len(wavelength), 7.0)):
        depth = 1 - broaden(wavelength, flux, width)
        np.testing.assert_allclose(depth.sum(axis=1), 0.5)
        spread = np.sqrt((depth[0] * (wavelength - wavelength[111]) ** 2).sum() / 0.5)
        assert spread * 2.3548 == pytest.approx(7.0, rel=1e-3)
        np.testing.assert_allclose(depth[1], depth[0], atol=1e-12)


@pytest.mark.slow
def test_throughput(monkeypatch, tmp_path):
    """Recipes are trained for a moment where the benchmark runs, and what needs a GPU says so."""
    monkeypatch.setattr(throughput, "_N_STAR", 4)
    first, header, paper, *rest = throughput.benchmark_throughput(tmp_path, recipes=("paper", "paper-full"))
    assert "PyTorch" in first
    assert header.split()[0] == "recipe"
    name, _, n_star, *rates = paper.split()
    assert name == "paper"
    assert all(float(rate) > 0 for rate in rates)
    assert len(rest) == 1
    if not torch.cuda.is_available():
        assert n_star == "4"
        assert "needs a GPU" in rest[0]


def test_unknown_benchmark(tmp_path):
    """An unknown name lists the known ones; a folder without data says so."""
    with pytest.raises(InputValueError, match="no benchmark 'beauty'; known are gaia-xp, speed"):
        run_benchmark("beauty", tmp_path)
    with pytest.raises(InputValueError, match="train.npz"):
        list(run_benchmark("gaia-xp", tmp_path))


def test_arguments_of_benchmarks(monkeypatch, tmp_path):
    """A benchmark is given the arguments that its function declares, and no others."""
    monkeypatch.setattr(throughput, "benchmark_throughput", lambda data_folder, model=None: [data_folder, model])
    assert run_benchmark("throughput", tmp_path, "weights", rivals=False) == [tmp_path, "weights"]
    monkeypatch.setattr(throughput, "benchmark_throughput", lambda rivals=True, n_star=3: [rivals, n_star])
    assert run_benchmark("throughput", tmp_path, "weights", rivals=False) == [False, 3]


def test_names_of_the_command_line(capsys):
    """The command line knows the benchmarks of the registry, says what each is, and refuses others."""
    with pytest.raises(SystemExit, match="0"):
        main(["benchmark", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(benchmark.summary in told for benchmark in BENCHMARKS.values())
    with pytest.raises(SystemExit, match="2"):
        main(["benchmark", "beauty"])
    assert "'beauty' (choose from" in capsys.readouterr().err


@pytest.mark.slow
def test_gaia_xp_report(shared_data):
    """The report of the held-out stars has a line for each label, and errors that hold."""
    lines = list(run_benchmark("gaia-xp", shared_data / "gaia_xp_apogee", rivals=False))
    for label in ("teff", "logg", "fe_h", "alpha_m", "mg_fe", "o_fe"):
        start = f"{'spectrafm':<22} {label:<8} 3500 < teff < 7000"
        [line] = [text for text in lines if text.startswith(start)]
        assert 0.6 < float(line.split()[-2]) < 0.78


def test_same_gaia_xp_stars(shared_data):
    """On stars that neither saw, weights for all instruments are little worse than those for Gaia XP alone."""
    data = read_data("gaia_xp_apogee", shared_data)
    weights = map(SpectraFM.from_pretrained, ("base", "gaia_xp"))
    report = compare_weights(*weights, data, ["teff", "logg", "fe_h"])
    header, *lines = (line for line in report if not line.startswith("note: "))
    assert header.startswith("358 stars that neither base nor gaia_xp")
    sizes = np.array([float(line.split()[-6]) for line in lines]).reshape(2, 3)
    # in [Fe/H] by a sixth
    assert (sizes[0] < [1.08, 1.08, 1.2] * sizes[1]).all()


def test_speed_report(shared_data):
    """The report has the number of stars, the seconds that they took, and the memory with and without inference."""
    number, loading, inference, memory = benchmark_speed(shared_data / "gaia_xp_apogee", n_star=20)
    assert number.startswith("gaia_xp: 20 Spectrum objects on ")
    assert float(loading.removeprefix("loading the weights: ").split()[0]) > 0
    seconds, rate = (float(word) for word in inference.removeprefix("infer: ").split()[::2])
    # both are rounded, the seconds to 0.01
    assert seconds == pytest.approx(20 / rate, abs=0.006)
    most, before = (float(part.split()[-1]) for part in memory.split(" GB")[:2])
    assert most >= before > 0


def test_model_of_the_cannon(tmp_path):
    """The model in the wheel of thedoppler is its polynomial, at vacuum wavelengths; a damaged wheel is told."""
    rng = np.random.default_rng(3)
    terms = [[(0, 1)], [(1, 1)], [(2, 1)], [(1, 1), (0, 2.0)]]
    known = rng.uniform((3500, 0, -2.5), (8000, 5, 0.5), (500, 3))
    theta = rng.normal(size=(4, 5))
    vectorizer = ("PolynomialVectorizer", {"terms": terms})
    model = {"dispersion": np.array([3000.0, 5000.0, 8542.0, 16000.0]), "theta": theta, "vectorizer": vectorizer}
    with pytest.raises(InputValueError, match=r"no thedoppler-\*.whl in"):
        read_cannon(tmp_path)
    (tmp_path / "thedoppler").mkdir()
    with zipfile.ZipFile(tmp_path / "thedoppler" / "thedoppler-1.1.32-py3-none-any.whl", "w") as wheel:
        wheel.writestr(CANNON_FILE, pickle.dumps(model | {"training_set_labels": known}))
    wavelength, flux = read_cannon(tmp_path)
    np.testing.assert_allclose(wavelength - model["dispersion"], [0.875, 1.395, 2.347, 4.371], atol=0.003)
    np.testing.assert_allclose(flux(np.median(known, axis=0)), theta[:, 0])
    low, high = np.percentile(known, (2.5, 97.5), axis=0)
    x = (np.array([5000.0, 2.0, -1.0]) - np.median(known, axis=0)) / (high - low)
    np.testing.assert_allclose(flux((5000.0, 2.0, -1.0)), theta @ [1, x[0], x[1], x[2], x[1] * x[0] ** 2])
    with zipfile.ZipFile(tmp_path / "thedoppler" / "thedoppler-1.1.32-py3-none-any.whl", "w") as wheel:
        wheel.writestr("nothing", "")
    with pytest.raises(CheckpointError, match="expected version 1.1.32"):
        read_cannon(tmp_path)


def _numbers(lines, start):
    """Return the numbers of the first line that starts so."""
    [text, *_] = [line for line in lines if line.strip().startswith(start)]
    return [float(word) for word in text.strip().removeprefix(start).split()]


@pytest.mark.slow
def test_foundation_report(tmp_path):
    """Synthetic stars never trained on are told in every kind of spectrum; without real stars the report says so."""
    # of the lines of another list, here the same
    load_emulator("apogee").save(tmp_path / "linemake" / "apogee")
    lines = list(benchmark_foundation(tmp_path, "base", rivals=False, n_star=48))
    assert "no MILES" in lines[-1]
    np.testing.assert_allclose(_numbers(lines, "S/N 100, lines of linemake"), _numbers(lines, "S/N 100 "), rtol=0.1)
    starts = [i for i, line in enumerate(lines) if "48 synthetic stars" in line]
    assert [lines[i].partition(":")[0] for i in starts] == ["apogee", "gaia_rvs", "optical"]
    # errors in the optical are made for real stars, of which synthetic ones have less
    for start, limit, most in zip(starts, (50, 130, 130), (0.9, 0.9, 1.0), strict=True):
        # error and shares within 1 and 2 sigma, of teff and the others
        good, noisy = (_numbers(lines[start:], told) for told in ("S/N 100 ", "S/N 10 "))
        assert good[0] < min(limit, noisy[0])
        assert 0.5 < good[1] <= most
        assert good[2] > 0.85
    # of teff, logg and [Fe/H], in the H band and around the calcium triplet
    for start in starts[:2]:
        assert max(_numbers(lines[start:], "over Cramer-Rao bound")[:3]) < 2.2


@pytest.mark.slow
def test_foundation_report_of_real_stars(shared_data):
    """Real stars in the optical, in air and without errors, and in the H band."""
    # the first lines: those of other stars take longer
    lines = list(itertools.islice(report_of_miles(SpectraFM.from_pretrained("base"), shared_data, rivals=False), 8))
    for label, limit in (("teff", 110), ("logg", 0.27), ("fe_h", 0.16)):
        figures = _numbers(lines, f"{'spectrafm':<22} {label:<8} 3800 < teff < 7500")
        assert figures[2] < limit
    lines = list(report_of_apogee(SpectraFM.from_pretrained("base"), shared_data, rivals=False))
    # of the headers, on another scale of temperatures; errors know
    for name, teff, fe_h, limit in (("2M1733", 3680, -0.3, 300), ("2M1948", 5230, -0.2, 450)):
        [words] = [line.replace(",", "").split() for line in lines if name in line]
        found, error = float(words[words.index("teff") + 1]), float(words[words.index("teff") + 3])
        assert abs(found - teff) < min(2 * error, limit)
        found, error = float(words[words.index("fe_h") + 1]), float(words[words.index("fe_h") + 3])
        assert abs(found - fe_h) < 2 * error < 0.8


@pytest.mark.slow
def test_blurred_stars_of_miles(shared_data):
    """Spectra on pixels that are much finer than them have the right [Fe/H], their resolving power given or not."""
    lines = list(report_of_miles(SpectraFM.from_pretrained("base"), shared_data, rivals=False))
    for told in ("  R 780, given", "  R 780, not given"):
        assert abs(_numbers(lines, f"{told:<22} fe_h     3800 < teff < 7500".strip())[1]) < 0.1


@pytest.mark.slow
def test_networks_report():
    """Other networks are trained and measured on the stars that the weights are measured on."""
    lines = list(benchmark_networks("base", n_star=8, steps=2))
    for told in ("S/N 20", "S/N 100, half the range"):
        rows = [line.strip().removeprefix(told).split() for line in lines if line.strip().startswith(told + "  ")]
        assert len(rows) == 3
        # two steps teach nothing: the weights in the package do better
        assert float(rows[0][0]) < min(float(rows[1][0]), float(rows[2][0]))
