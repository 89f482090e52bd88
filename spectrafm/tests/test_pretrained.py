"""The weights in the package, on real stars."""

from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from specutils import Spectrum

from spectrafm import Flag, SpectraFM
from spectrafm._table_formats import column_values
from spectrafm._weights_files import PRETRAINED
from spectrafm.adapters import from_arrays
from spectrafm.benchmarks import mad_std, stars_apart
from spectrafm.benchmarks.stars import SameStars, observed_spectra
from spectrafm.datasets import load_example_spectrum, read_gaia_xp_apogee
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.results import label_values
from spectrafm.tests.conftest import WEIGHTS_FOLDER
from spectrafm.training import load_recipe
from spectrafm.training.calibrate_weights import proven_errors
from spectrafm.weights_info import Domain

# beside the package, where its repository is

# a little above what the model cards said when they were at their best
_XP_MAD_STD = {"base": (52, 0.165, 0.098, 0.036, 0.032), "gaia_xp": (55, 0.15, 0.095, 0.037, 0.036)}
_XP_LABELS = ("teff", "logg", "fe_h", "mg_fe", "o_fe")


@pytest.fixture(scope="module", params=["base", "gaia_xp"])
def fm(request):
    """Return packaged weights that read Gaia XP spectra."""
    return SpectraFM.from_pretrained(request.param)


@pytest.fixture(scope="module")
def held_out(fm, shared_data):
    """Return the data set and the stars on which nothing of these weights was chosen."""
    data = read_gaia_xp_apogee(shared_data / "gaia_xp_apogee")
    return data, stars_apart(fm, data, "gaia_xp", "gaia_xp")[1]


@pytest.fixture(scope="module")
def found(fm, held_out):
    """Return what the weights tell of these stars."""
    data, test = held_out
    return fm.infer(from_arrays(data.wavelength, data.flux[test], data.sigma[test]))


def numbers(table, name):
    """Return a column as plain numbers, NaN where masked."""
    return column_values(table, name)


def test_example_star(fm):
    """The example star, which is not in the training set, has the labels that APOGEE found, within the errors."""
    spectrum = load_example_spectrum()
    header = spectrum.meta["header"]
    table = fm.infer(spectrum)
    assert table["flag"][0] == 0
    for name, key in (("teff", "TEFF"), ("logg", "LOGG"), ("fe_h", "FE_H")):
        assert abs(numbers(table, name)[0] - header[key]) < 3 * numbers(table, f"e_{name}")[0]
    assert numbers(table, "e_teff")[0] < 150


def test_example_star_is_held_out(held_out):
    """The example star was not trained on, nor were the errors calibrated on it."""
    data, test = held_out
    assert load_example_spectrum().meta["header"]["SOURCE"] in data.identifier[test]


def test_without_uncertainties(fm):
    """Without flux errors the labels stay and their errors do not shrink."""
    spectrum = load_example_spectrum()
    bare = Spectrum(flux=spectrum.flux, spectral_axis=spectrum.spectral_axis)
    with_errors, without = fm.infer(spectrum), fm.infer(bare)
    assert without["flag"][0] & Flag.NO_UNCERTAINTY
    difference = numbers(without, "teff") - numbers(with_errors, "teff")
    assert abs(difference[0]) < 3 * numbers(without, "e_teff")[0]


def test_noise_widens_errors(fm):
    """Noise, declared, makes errors larger."""
    spectrum = load_example_spectrum()
    rng = np.random.default_rng(0)
    noise = 0.1 * np.median(spectrum.flux.value)
    noisy = Spectrum(
        flux=(spectrum.flux.value + noise * rng.normal(size=343)) * spectrum.flux.unit,
        spectral_axis=spectrum.spectral_axis,
        uncertainty=StdDevUncertainty(np.hypot(spectrum.uncertainty.array, noise)),
    )
    assert numbers(fm.infer(noisy), "e_teff")[0] > 2 * numbers(fm.infer(spectrum), "e_teff")[0]


def test_scale_is_nothing(fm):
    """Only the shape of the spectrum counts, in float32 as in float64, in nm as in Angstrom."""
    spectrum = load_example_spectrum()
    scaled = Spectrum(
        flux=(spectrum.flux.value / spectrum.flux.value.max()).astype(np.float32) * u.one,
        spectral_axis=spectrum.spectral_axis.to(u.AA),
        uncertainty=StdDevUncertainty(spectrum.uncertainty.array / spectrum.flux.value.max()),
    )
    np.testing.assert_allclose(numbers(fm.infer(scaled), "teff"), numbers(fm.infer(spectrum), "teff"), rtol=1e-4)


def test_strange_spectra_are_flagged(fm):
    """Pure noise, a featureless and an emission-line spectrum are not taken for stars in silence."""
    wavelength = load_example_spectrum().spectral_axis.to_value(u.AA)
    rng = np.random.default_rng(1)
    lines = np.exp(-(((wavelength[:, None] - [4960, 6560, 9000]) / 60) ** 2)).sum(axis=1)
    strange = np.stack([rng.normal(1, 0.3, 343), np.ones(343), (wavelength / 5500) ** -1.5 + 2 * lines])
    table = fm.infer(from_arrays(wavelength, strange, np.full(strange.shape, 0.02)))
    assert ((table["flag"] & (Flag.UNUSUAL_SPECTRUM | Flag.LARGE_UNCERTAINTY)) != 0).all()


def test_inverted_stars_are_flagged(fm, held_out):
    """Stars with their spectra upside down are flagged, nearly all."""
    data, test = held_out
    table = fm.infer(from_arrays(data.wavelength, 2 - data.flux[test[::4]], data.sigma[test[::4]]))
    assert np.mean((table["flag"] & (Flag.UNUSUAL_SPECTRUM | Flag.LARGE_UNCERTAINTY)) != 0) > 0.9


def test_predict_coarse_spectrum():
    """Fluxes of the optical may be asked for on pixels as coarse as those of Gaia XP, whose fluxes are not told."""
    labels, axis = {"teff": 5000, "logg": 3.0, "fe_h": -0.5}, np.linspace(3800, 7300, 71) * u.AA
    fm = SpectraFM.from_pretrained("base")
    spectrum = fm.predict_spectrum(labels, axis, resolving_power=2000)
    assert spectrum.meta["domain"] == "optical"
    assert (np.abs(spectrum.flux.value - 1) < 0.5).all()
    assert (spectrum.uncertainty.array < 0.1).all()
    with pytest.raises(InputValueError, match="optical covers 3549 to 7450 Angstrom; no flux of gaia_xp is predicted"):
        fm.predict_spectrum(labels, axis + 20_000 * u.AA, resolving_power=2000)
    for changes, message in (
        ({"labels": labels | {"vsini": 0.0}}, r"labels\['vsini'\]: 0 in row 0, expected positive"),
        ({"resolving_power": [1000, 2000]}, r"resolving_power: shape \(2,\) for 1 stars"),
        ({"resolving_power": "high"}, "resolving_power: 'high'; expected a number"),
        ({"resolving_power": -5}, "resolving_power: -5.0; expected a positive"),
        ({"spectral_axis": axis[[2, 0, 1]]}, "spectral_axis: some values are not positive, repeat, or go up and down"),
    ):
        with pytest.raises((InputTypeError, InputValueError), match=message):
            fm.predict_spectrum(**({"labels": labels, "spectral_axis": axis} | changes))


def test_reconstruct_in_a_strange_unit():
    """Spectra in a unit that astropy does not know get their model in the same."""
    unit = u.Unit("counts/sec", parse_strict="silent")
    wavelength = np.linspace(4000.0, 6800.0, 2000)
    spectrum = Spectrum(u.Quantity(1 + 0.1 * np.sin(wavelength), unit), wavelength * u.AA)
    [model] = SpectraFM.from_pretrained().reconstruct(spectrum)
    assert str(model.flux.unit) == "counts/sec"
    assert np.isfinite(model.flux.value).all()


def test_nothing_to_embed():
    """A star that cannot be read has no embedding, whatever is told of its instrument."""
    axis = np.exp(np.arange(np.log(15200), np.log(16800), 3e-5))
    rng = np.random.default_rng(0)
    good, beyond = (Spectrum(rng.normal(1, 0.01, len(axis)) * u.one, f * axis * u.AA) for f in (1, 3))
    masked = Spectrum(good.flux, good.spectral_axis, mask=np.ones(len(axis), dtype=bool))
    found = SpectraFM.from_pretrained().embed([good, beyond, masked], resolving_power=20_000)
    assert np.isfinite(found).all(axis=1).tolist() == [True, False, False]


def test_size():
    """All weights together stay small, those of the package and those that are only in the repository."""
    sizes = [sum(path.stat().st_size for path in top.rglob("*.safetensors")) for top in (PRETRAINED, WEIGHTS_FOLDER)]
    assert sizes[0] < 30e6
    assert sum(sizes) < 40e6


@pytest.mark.skipif(not (WEIGHTS_FOLDER / "paper").is_dir(), reason="needs weights that come with the repository alone")
def test_few_pixels():
    """Where a tenth of the pixels is left, fits tell labels, and so does the published architecture."""
    base, paper = SpectraFM.from_pretrained("base"), SpectraFM.from_pretrained(WEIGHTS_FOLDER / "paper")
    assert paper.info.domains[0].in_common.keys() == {"teff", "logg", "o_fe", "mg_fe", "fe_h"}
    stars, rng = SameStars("apogee", 16), np.random.default_rng(5)

    def sparse(star):
        return replace(star, good=star.good & (rng.random(len(star.good)) < 0.1))

    spectra = observed_spectra(base, stars, sparse, snr=(100, 100))
    error = {
        fm.info.name: [np.median(np.abs(numbers(table, k) - stars.truth[k])) for k in ("teff", "logg", "fe_h")]
        for fm in (base, paper)
        for table in [fm.infer(spectra)]
    }
    for name in ("base", "paper"):
        assert (np.array(error[name]) < [60, 0.12, 0.045]).all()
    # all of the pixels
    table = base.infer(observed_spectra(base, stars, snr=(100, 100)))
    assert (
        [np.median(np.abs(numbers(table, k) - stars.truth[k])) for k in ("teff", "logg", "fe_h")]
        < np.array([20, 0.04, 0.014])
    ).all()
    assert (np.array(error["paper"]) < (90, 0.15, 0.08)).all()


def test_model_cards():
    """Every set of weights has a model card with the facts that a user needs."""
    for folder in {path.parent for top in (PRETRAINED, WEIGHTS_FOLDER) for path in top.glob("*/spectrafm.json")}:
        card = (folder / "README.md").read_text()
        for part in ("Training data", "Validation", "License", "Known failures", "spectrafm train"):
            assert part in card


def middle_of(held_out, table, name):
    """Return residuals of stars of 3500 to 7000 K that have a label, and their errors, those of the label included."""
    data, test = held_out
    teff = data.labels["teff"][test]
    residual = numbers(table, name) - data.labels[name][test]
    error = np.hypot(numbers(table, f"e_{name}"), np.nan_to_num(data.label_errors[name][test]))
    known = (teff > 3500) & (teff < 7000) & np.isfinite(residual)
    return residual[known], error[known]


@pytest.mark.parametrize("name", _XP_LABELS)
def test_errors_of_held_out_stars(held_out, found, name):
    """The errors of stars held out from training hold."""
    residual, error = middle_of(held_out, found, name)
    # one factor serves both, and tails are longer than those of a Gaussian
    assert 0.64 < np.mean(np.abs(residual) < error) < 0.79
    assert 0.91 < np.mean(np.abs(residual) < 2 * error) < 0.97


@pytest.mark.parametrize("name", _XP_LABELS)
def test_accuracy_of_held_out_stars(fm, held_out, found, name):
    """Stars held out from training are as accurate as they were at best."""
    residual, _ = middle_of(held_out, found, name)
    assert mad_std(residual) < _XP_MAD_STD[fm.info.name][_XP_LABELS.index(name)]


def test_held_out_stars(fm, held_out, found):
    """Of stars held out from training few are far off, and outliers are flagged."""
    data, test = held_out
    teff = data.labels["teff"][test]
    middle = (teff > 3500) & (teff < 7000)
    residual = np.abs(numbers(found, "teff") - teff)
    flagged = (found["flag"] & (Flag.LARGE_UNCERTAINTY | Flag.UNUSUAL_SPECTRUM)) != 0
    assert flagged[middle].mean() < 0.1
    assert flagged[middle & (residual > 1500)].mean() > 0.7


def test_recipe_of_base():
    """The recipe makes the architecture that is in the package."""
    assert SpectraFM.from_pretrained("base").model.config == load_recipe("base-lines").model


def test_smallest_errors():
    """No error is told that is smaller than those that held for stars with well known labels, and NaN stays NaN."""
    domain = Domain(name="x", labels=("teff", "logg"), calibration={}, smallest_errors={"logg": 0.05})
    errors = domain.calibrated_errors(("teff", "logg"), np.array([[0.01, 0.01], [3.0, 3.0], [np.nan] * 2]), True)
    np.testing.assert_array_equal(errors, [[0.01, 0.05], [3.0, 3.0], [np.nan] * 2])
    error, truth_error = np.array([0.1, 0.2, 0.3, np.nan, 0.4]), np.array([0.2, 0.1, np.nan, 0.1, 0.1])
    truth = np.array([1.0, 1.0, 1.0, 1.0, np.nan])
    np.testing.assert_array_equal(proven_errors(error, truth, truth_error), [0.2, 0.3])
    # stars whose labels have no errors say nothing of which are the smallest
    assert not len(proven_errors(error, truth, np.full(5, np.nan)))


@pytest.mark.parametrize("name", ["base", "gaia_xp"])
def test_smallest_errors_of_weights(name):
    """Spectra of Gaia XP that are far better than any have errors that training stars have shown to hold."""
    fm = SpectraFM.from_pretrained(name)
    domain = fm.info.domains[fm.info.number_of("gaia_xp")]
    assert set(domain.smallest_errors) == set(domain.labels)
    table = fm.infer(load_example_spectrum())
    for label in domain.labels:
        assert label_values(table, label)[1][0] >= 0.999 * domain.smallest_errors[label]
