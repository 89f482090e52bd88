"""Statistics and flags of spectra that should not be believed."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy import units as u
from specutils import Spectrum

from spectrafm import Flag, SpectraFM, SpectraFMWarning
from spectrafm._spectral_units import air_to_vacuum, doppler_factor
from spectrafm.adapters import from_arrays
from spectrafm.benchmarks.flags import CASES, area_under_roc, benchmark_flags
from spectrafm.diagnostics import (
    STATISTICS,
    Diagnosis,
    _double_lines,
    _emission,
    _noise,
    _quantile,
    _saturation,
)
from spectrafm.exceptions import InputValueError
from spectrafm.flags import describe_flags
from spectrafm.stellarperceptron import StellarPerceptron, Vocabulary
from spectrafm.tests.tiny import WAVELENGTH, tiny_config, tiny_table
from spectrafm.thresholds import _thresholds, set_thresholds
from spectrafm.weights_info import Domain, WeightsInfo

NAMES = ("teff", "logg", "rv_offset")


@pytest.fixture(scope="module")
def model():
    """Return an untrained network that has a velocity."""
    table = tiny_table()
    table.values[:, 2] -= 10.0
    table.names = NAMES
    vocabulary = Vocabulary(["flux", *NAMES], flux=["flux"], log=["teff"])
    vocabulary.fit(table, np.arange(len(table)))
    return StellarPerceptron(tiny_config(), vocabulary, seed=0)


def weights(model, **changes):
    """Return weights of one domain, with a density."""
    settings = {"name": "tiny", "labels": NAMES, "wavelength_range": (3000.0, 9900.0), "predicts_flux": True}
    domain = Domain(**(settings | changes))
    size = model.config.embedding_dim
    density = {"mean.tiny": torch.zeros(size), "whiten.tiny": torch.eye(size)}
    return SpectraFM(model, WeightsInfo(name="tiny", domains=(domain,)), density)


def stars(n_star=6, sigma=0.01, **kwargs):
    """Return the first of the tiny stars."""
    flux = tiny_table(n_star).flux.astype(float)
    return list(from_arrays(WAVELENGTH, flux, None if sigma is None else np.full(flux.shape, sigma), **kwargs))


def columns(table):
    """Return the statistics as one array, NaN where masked."""
    return np.stack([np.asarray(table[name].filled(np.nan), dtype=float) for name in (*STATISTICS, "strangeness")])


def test_flags_have_meanings():
    """Every bit is described, and no two are the same."""
    assert len(describe_flags(2**18 - 1)) == 18
    assert [int(flag) for flag in Flag] == [2**k for k in range(18)]


def test_quantile_is_numpy():
    """Quantiles of rows agree with numpy's, whatever is missing."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 40))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[5] = np.nan
    for share in (0.0, 0.3, 0.5, 0.995, 1.0):
        np.testing.assert_allclose(_quantile(values, share)[:5], np.nanquantile(values[:5], share, axis=1))
        assert np.isnan(_quantile(values, share)[5])
    assert np.isnan(_quantile(np.empty((2, 0)), 0.5)).all()


def test_noise_is_measured():
    """The noise is found beside lines, and unknown of few pixels."""
    rng = np.random.default_rng(1)
    flux = 1 - 0.3 * np.sin(np.arange(4000) / 30) + 0.02 * rng.normal(size=(3, 4000))
    np.testing.assert_allclose(_noise(flux), 0.02, rtol=0.08)
    assert np.isnan(_noise(np.ones((1, 4)))).all()


def test_emission_of_spikes_and_lines():
    """One bad pixel in a thousand is none; a hundredth of them is; the scale does not matter."""
    flux = 1 + 0.02 * np.random.default_rng(2).normal(size=(1, 2000))
    none = _emission(flux, _noise(flux))
    one, many = flux.copy(), flux.copy()
    one[0, 7] = 50.0
    many[0, ::100] = 5.0
    np.testing.assert_allclose(_emission(one, _noise(one)), none, rtol=0.2)
    assert _emission(many, _noise(many)) > 10 * none


def test_emission_where_the_continuum_is_lost():
    """A stretch that is high and noisy is no emission, one that is as high without noise is, and so are spikes."""
    rng = np.random.default_rng(3)
    flux = 1 + 0.02 * rng.normal(size=(1, 2000))
    none = _emission(flux, _noise(flux))
    lost, high, both = flux.copy(), flux.copy(), flux.copy()
    lost[0, 96:192] = 15 + 3 * rng.normal(size=96)
    high[0, 96:192] = 15
    both[0, 96:192] = lost[0, 96:192]
    both[0, 200::100] = 5.0
    np.testing.assert_allclose(_emission(lost, _noise(lost)), none, rtol=0.1)
    assert _emission(high, _noise(high)) > 100 * none
    assert _emission(both, _noise(both)) > 10 * none
    # noise all over is what a faint star has
    faint = 1 + 0.5 * rng.normal(size=(1, 2000))
    assert np.isfinite(_emission(faint, _noise(faint))).all()
    assert np.isnan(_emission(np.full((1, 0), np.nan), np.full(1, np.nan))).all()


def test_saturation_needs_a_plateau():
    """Pixels side by side at the largest value count; a single one, and the continuum at one, do not."""
    flux = np.linspace(0.5, 0.9, 100)[None].repeat(5, axis=0)
    flux[1, 40:60] = 2.0
    flux[2, 40:42] = 2.0
    flux[3, 40:60] = 1.0
    flux[4] = np.nan
    found = _saturation(flux)
    np.testing.assert_allclose(found[:4], [0, 0.2, 0, 0])
    assert np.isnan(found[4])


def test_double_lines():
    """Lines of two stars stand out of the autocorrelation; those of one do not, nor of coarse or few pixels."""
    rng = np.random.default_rng(3)
    place = np.log(15200.0) + np.arange(6000) / 66_000
    at = rng.uniform(place[0], place[-1], 150)

    def star(shifts, keep=1):
        depth = sum(0.3 * np.exp(-0.5 * ((place[:, None] - at - s) / 2e-5) ** 2).sum(axis=1) for s in shifts)
        return from_arrays(np.exp(place)[::keep], (1 - depth / len(shifts))[::keep])[0]

    assert _double_lines(star([0.0, 3e-4])) > 2 * _double_lines(star([0.0])) >= 2
    assert np.isnan(_double_lines(star([0.0], keep=10)))
    assert np.isnan(_double_lines(star([0.0], keep=100)))


def diagnosis(velocity, error, wavelength=5000.0, **values):
    """Return what was found of one star."""
    nothing = {name: np.array([np.nan]) for name in STATISTICS}
    values = nothing | {k: np.array([v]) for k, v in values.items()}
    return Diagnosis(values, {}, np.array([velocity]), np.array([error]), np.array([wavelength]))


def test_medium_is_told_from_velocity():
    """The velocity of air wavelengths has a flag more, of either sign, and others do not."""
    domain = Domain(name="x", labels=("teff",), thresholds={"rv_significance": 3.0})
    expected = float((air_to_vacuum(np.array([5000.0]))[0] / 5000.0 - 1) * 299_792.458)
    assert 80 < expected < 86
    both = int(Flag.WRONG_VELOCITY | Flag.WRONG_MEDIUM)
    for sign in (-1, 1):
        assert diagnosis(sign * expected, 2.0, rv_significance=15.0).flags(domain) == both
    assert diagnosis(-150.0, 2.0, rv_significance=28.0).flags(domain) == int(Flag.WRONG_VELOCITY)
    assert diagnosis(-expected, 80.0, rv_significance=1.0).flags(domain) == 0
    # ultraviolet wavelengths are in vacuum, whatever is said
    assert diagnosis(expected, 2.0, wavelength=1500.0, rv_significance=15.0).flags(domain) == int(Flag.WRONG_VELOCITY)


def test_flags_of_each_statistic():
    """Each sets its flag above its threshold, none without a threshold or a value."""
    for name, flag in STATISTICS.items():
        domain = Domain(name="x", labels=("teff",), thresholds={name: 2.0})
        assert diagnosis(np.nan, np.nan, **{name: 2.1}).flags(domain) == int(flag)
        assert diagnosis(np.nan, np.nan, **{name: 1.9}).flags(domain) == 0
        assert diagnosis(np.nan, np.nan).flags(domain) == 0
        np.testing.assert_allclose(diagnosis(np.nan, np.nan, **{name: 3.0}).strangeness(domain), 1.5)
    found = diagnosis(np.nan, np.nan, emission=99.0)
    nothing = Domain(name="x", labels=("teff",))
    assert found.flags(nothing) == 0
    assert np.isnan(found.strangeness(nothing)).all()


def test_expected_values():
    """A statistic is judged over its usual value, and not at all where that cannot be told."""
    found = diagnosis(np.nan, np.nan, reduced_chi2=6.0)
    found.features["one"] = np.ones(1)
    domain = Domain(name="x", labels=("teff",), thresholds={"reduced_chi2": 1.5})
    domain.expected = {"reduced_chi2": {"one": np.log(2.0)}}
    np.testing.assert_allclose(found.strangeness(domain), 2.0)
    domain.expected = {"reduced_chi2": {"one": np.log(2.0), "vsini": 1.0}}
    assert found.flags(domain) == 0


def test_table(model):
    """A row a star with all statistics; what cannot be used is masked."""
    fm = weights(model, thresholds={"emission": 1e-3}, density_threshold=1e9)
    broken = replace(stars()[0], good=np.zeros(60, dtype=bool))
    with pytest.warns(SpectraFMWarning, match="1 of 3 rows are masked"):
        table = fm.diagnose([stars()[0], broken, stars()[1]])
    assert table.colnames == ["identifier", *STATISTICS, "strangeness", "flag"]
    assert table["strangeness"].mask.tolist() == [False, True, False]
    assert table["reduced_chi2"].mask.tolist() == [False, True, False]
    assert (np.array(table["flag"])[[0, 2]] & int(Flag.EMISSION_OR_SPIKES) != 0).all()
    assert table["rv_error"].unit == "km / s"


def test_order_and_company(model):
    """Order, batches and batch mates do not matter."""
    fm = weights(model)
    some = stars()
    some[2] = replace(some[2], good=np.arange(60) < 31)
    some[4] = replace(some[4], good=np.arange(60) % 3 > 0)
    expected = columns(fm.diagnose(some))
    np.testing.assert_allclose(columns(fm.diagnose(some[::-1]))[:, ::-1], expected, rtol=2e-3, equal_nan=True)
    np.testing.assert_allclose(columns(fm.diagnose(some, batch_size=1)), expected, rtol=2e-3, equal_nan=True)
    for row in (0, 2, 4):
        alone = columns(fm.diagnose(some[row]))
        np.testing.assert_allclose(alone[:, 0], expected[:, row], rtol=2e-3, equal_nan=True)


def test_bad_pixels_do_not_matter(model):
    """What masked pixels hold changes nothing, and single bad errors are filled from the noise."""
    fm, star = weights(model), stars()[0]
    good = np.arange(60) % 7 > 0
    first, second = replace(star, good=good), replace(star, good=good, flux=np.where(good, star.flux, 1e6))
    np.testing.assert_allclose(columns(fm.diagnose(first)), columns(fm.diagnose(second)), equal_nan=True)
    bare = fm.diagnose(stars(sigma=None))
    assert np.isfinite(bare["reduced_chi2"]).all()


def test_one_bad_pixel_counts_little(model):
    """The reduced chi square has a limit for each pixel."""
    fm, star = weights(model), stars()[0]
    flux = star.flux.copy()
    flux[20] = 1e5
    before, after = (fm.diagnose(s)["reduced_chi2"][0] for s in (star, replace(star, flux=flux)))
    assert after < before + 100 / 60 * 3 + 0.5 * before + 5


def test_without_flux_or_velocity(model):
    """Domains that tell neither have no such statistics, and no such flags."""
    low = dict.fromkeys(STATISTICS, 1e-6) | {"saturation": 1e9, "emission": 1e9}
    fm = weights(model, labels=("teff", "logg"), predicts_flux=False, thresholds=low)
    table = fm.diagnose(stars(), labels="teff")
    for name in ("reduced_chi2", "rv_significance", "rv_error", "double_lines"):
        assert table[name].mask.all()
    doubtful = int(Flag.POOR_RECONSTRUCTION | Flag.WRONG_VELOCITY | Flag.WRONG_MEDIUM)
    assert not (np.array(table["flag"]) & doubtful).any()


def test_infer_has_the_flags(model):
    """The flags of `infer` and `diagnose` are the same, whatever is asked for or known."""
    fm = weights(model, thresholds={"reduced_chi2": 1e-6, "rv_significance": 1e9}, density_threshold=1e9)
    found = np.array(fm.infer(stars())["flag"])
    assert (found & int(Flag.POOR_RECONSTRUCTION) != 0).all()
    np.testing.assert_array_equal(fm.diagnose(stars())["flag"], found)
    np.testing.assert_array_equal(fm.infer(stars(), labels="logg")["flag"], found)
    np.testing.assert_array_equal(fm.infer(stars(), batch_size=2)["flag"], found)


def test_stars_are_encoded_once(model, monkeypatch):
    """Labels, flags and statistics come from one pass; a second one only sees what is known besides."""
    fm = weights(model, thresholds={"emission": 3.0})
    fm.info.known = ("logg",)
    n_encoded, perceive = [], fm.model.perceive_tokens
    monkeypatch.setattr(fm.model, "perceive_tokens", lambda tokens: n_encoded.append(len(tokens)) or perceive(tokens))
    fm.diagnose(stars(), labels="teff")
    assert sum(n_encoded) == len(stars())
    fm.diagnose(stars(), labels="teff", known={"logg": 4.0})
    assert sum(n_encoded) == 3 * len(stars())


def test_says_what_the_wavelengths_were_in(model):
    """What is told of the spectra is kept with the statistics."""
    star = stars()[0]
    spectrum = Spectrum(star.flux * u.one, star.wavelength * u.AA)
    assert weights(model).diagnose(spectrum, medium="air").meta["medium"] == "air"


def test_refuses_what_infer_refuses(model):
    """Arguments that cannot be used are refused as by `infer`."""
    with pytest.raises(InputValueError, match="batch_size"):
        weights(model).diagnose(stars(), batch_size=0)
    with pytest.raises(InputValueError, match="labels"):
        weights(model).diagnose(stars(), labels="age")


def test_old_files_load(tmp_path, model):
    """Files from before there were thresholds set none of the new flags; new ones come back."""
    fm = weights(model, thresholds={"emission": 3.0}, expected={"reduced_chi2": {"one": 1.0}})
    path = tmp_path / "spectrafm.json"
    fm.info.write(path)
    again = WeightsInfo.read(path).domains[0]
    assert again.thresholds == {"emission": 3.0}
    assert again.expected == {"reduced_chi2": {"one": 1.0}}
    old = json.loads(path.read_text())
    for domain in old["domains"]:
        del domain["thresholds"], domain["expected"]
    path.write_text(json.dumps(old))
    info = WeightsInfo.read(path)
    assert info.domains[0].thresholds == {}
    flag = np.array(SpectraFM(model, info).infer(stars())["flag"])
    assert (flag < int(Flag.POOR_RECONSTRUCTION)).all()


class _Source:
    """Stars as a calibration source gives them."""

    def __init__(self, spectra, velocity=None):
        self.spectra = spectra
        self.values = {} if velocity is None else {"rv_offset": velocity}

    def flawless(self):
        return self

    def examples(self, n_star, generator):
        return self.spectra[:n_star], self.values, {}


def test_thresholds_flag_few(model):
    """All statistics together flag no more than their share, and the same thresholds come again."""
    fm, many = weights(model), stars(300)
    set_thresholds(fm, {"tiny": (None, _Source(many, np.zeros(300)))}, share=0.05)
    domain = fm.info.domains[0]
    assert {"reduced_chi2", "rv_significance", "rv_error", "emission", "saturation"} <= set(domain.thresholds)
    assert np.isfinite(domain.density_threshold)
    table = fm.diagnose(many)
    assert 0 < np.mean(np.asarray(table["strangeness"].filled(np.nan)) > 1) <= 0.05
    before = json.dumps(domain.thresholds)
    set_thresholds(fm, {"tiny": (None, _Source(many, np.zeros(300)))}, share=0.05)
    assert json.dumps(fm.info.domains[0].thresholds) == before


def test_thresholds_of_little(model):
    """Few stars, fast stars, stars of no domain, no velocity, no flux: nothing breaks."""
    fm = weights(model)
    set_thresholds(fm, {"few": (None, _Source(stars(3)))})
    assert fm.info.domains[0].thresholds == {}
    set_thresholds(fm, {"fast": (None, _Source(stars(40), np.full(40, 200.0)))})
    assert fm.info.domains[0].thresholds == {}
    elsewhere = list(from_arrays(WAVELENGTH + 20_000, np.ones((40, 60))))
    set_thresholds(fm, {"uncovered_range": (None, _Source(elsewhere))})
    assert fm.info.domains[0].thresholds == {}
    bare = weights(model, labels=("teff",), predicts_flux=False)
    set_thresholds(bare, {"bare": (None, _Source(stars(40, sigma=None)))})
    assert set(bare.info.domains[0].thresholds) <= {"emission", "saturation"}
    assert bare.info.domains[0].expected == {}


def test_thresholds_of_infinities():
    """A statistic that is infinite for good stars gets no threshold."""
    nothing = {name: np.full(50, np.nan) for name in STATISTICS}
    found = _thresholds([nothing | {"emission": np.full(50, np.inf), "distance": np.linspace(0, 1, 50)}], 0.1)
    assert set(found) == {"distance"}


def test_area_under_roc():
    """One when all bad stars are stranger, a half when alike, ties half, NaN not strange."""
    assert area_under_roc(np.array([1.0, 2.0]), np.array([3.0, np.inf])) == 1.0
    assert area_under_roc(np.array([1.0]), np.array([1.0])) == 0.5
    assert area_under_roc(np.array([1.0]), np.array([np.nan])) == 0.0
    assert np.isnan(area_under_roc(np.array([]), np.array([1.0])))


@pytest.mark.parametrize("name", CASES)
def test_cases(model, name):
    """Each case is another spectrum, the same at each call, and can be inferred."""
    fm, (first, second) = weights(model), stars(2)
    normalizer = fm.normalizer_of("tiny")
    one, two = (CASES[name](first, second, normalizer, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one.flux, two.flux)
    assert not (np.array_equal(one.flux, first.flux) and np.array_equal(one.wavelength, first.wavelength))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpectraFMWarning)
        assert len(fm.diagnose(one)) == 1


def test_velocity_of_a_shift():
    """A shift of the case of wavelengths in air is that of 83 km/s."""
    star = from_arrays(np.linspace(4900.0, 5100.0, 50), np.ones(50))[0]
    moved = CASES["air taken for vacuum"](star, star, None, np.random.default_rng(0))
    ratio = np.median(moved.wavelength / star.wavelength)
    assert abs(np.log(ratio)) == pytest.approx(np.log(doppler_factor(83.5)), rel=0.03)


@pytest.mark.slow
def test_benchmark(tmp_path):
    """The report has a line a case, and says what is not there."""
    lines = list(benchmark_flags(tmp_path, n_star=3))
    for name in CASES:
        assert sum(line.startswith(f"  {name}") for line in lines) == 2
    assert any(line.startswith("no MILES") for line in lines)


@pytest.mark.slow
def test_packaged_weights():
    """What is wrong with a spectrum shows in the statistics of the packaged weights."""
    fm = SpectraFM.from_pretrained()
    names = [domain.name for domain in fm.info.domains]
    wavelength = np.linspace(15_200.0, 16_900.0, 3000)
    expected = fm.predict_spectrum({"teff": 4500.0, "logg": 2.0, "fe_h": 0.0}, wavelength * u.AA, domain="apogee")
    star = from_arrays(wavelength, expected.flux.value, np.full(3000, 0.01), resolving_power=22_500)[0]
    rng = np.random.default_rng(0)
    star = replace(star, flux=star.flux + 0.01 * rng.normal(size=3000))
    normalizer = fm.normalizer_of("apogee")
    bad = {k: CASES[k](star, star, normalizer, rng) for k in ("quasar", "inverted", "shifted by 100-300 km/s")}
    table = fm.diagnose([star, *bad.values()])
    assert "apogee" in names
    assert table["reduced_chi2"][0] < 1.0
    assert table["reduced_chi2"][1] > 3 * table["reduced_chi2"][0]
    assert (table["rv_error"][1:3] > table["rv_error"][0]).all()
    assert table["rv_significance"][3] > 5
    assert (np.array(table["saturation"]) == 0).all()


def test_plateaus_of_fine_spectra():
    """Smoothing a spectrum that is finer than the training does not hide that it was saturated."""
    wavelength = np.arange(5000.0, 5400.0, 0.05)
    flux = 1 + 0.3 * np.sin(wavelength)
    [star] = from_arrays(wavelength, np.minimum(flux, 1.2))
    assert SpectraFM.from_pretrained().diagnose(star)["saturation"][0] > 0.1


def test_request_of_own_wavelengths(model):
    """Each star may be asked for flux at wavelengths of its own, with the answers of one by one."""
    table = tiny_table(2)
    perception = model.perceive(table.flux, ["flux"] * 60, WAVELENGTH)
    wavelength = np.array([[4100.0, 5200.0], [6300.0, 7400.0]])
    together, _ = model.request(perception, ["flux", "flux"], wavelength)
    for row in range(2):
        alone, _ = model.request(perception, ["flux", "flux"], wavelength[row])
        np.testing.assert_allclose(together[row], alone[row], rtol=1e-5)
    with pytest.raises(InputValueError, match="wavelengths: shape"):
        model.request(perception, ["flux", "flux"], np.ones((3, 2)))
    wavelength[1, 0] = np.nan
    with pytest.raises(InputValueError, match="asked for without a wavelength"):
        model.request(perception, ["flux", "flux"], wavelength)
