"""The second look at labels: whom it is for, what it changes, and how it is learnt."""

import dataclasses

import numpy as np
import pytest
import torch

from spectrafm import SpectraFM
from spectrafm.exceptions import ConfigError, TrainingError
from spectrafm.fine_tuning import FineTuneConfig, _choose_parameters
from spectrafm.stellarperceptron import FitConfig, StellarPerceptron, Vocabulary
from spectrafm.stellarperceptron.nn_utils import TrainingBatch
from spectrafm.tests.test_recipes import tiny_data
from spectrafm.tests.tiny import WAVELENGTH, known_data, tiny_config, tiny_model, tiny_table
from spectrafm.training import (
    DomainConfig,
    ReadoutConfig,
    Recipe,
    SourceConfig,
    StarStream,
    StreamPart,
    calibrate_weights,
    load_recipe,
    train_recipe,
    with_readout,
)
from spectrafm.training import train as train_module

LOOKING = {"readout_labels": ("logg", "teff"), "readout_dense": 24, "readout_ranges": (3900.0, 5500.0, 6500.0, 9100.0)}
TABLE = tiny_table(8)
FLUX = TABLE.flux.astype(np.float64)


def ask(model, names, pixels=slice(None), wavelengths=None):
    """Return standardised answers and their errors."""
    perception = model.perceive(FLUX[:, pixels], np.full(FLUX[:, pixels].shape, "flux"), WAVELENGTH[pixels])
    return np.stack(model.request_standardized(perception, names, wavelengths)[1:])


def without(model):
    """Return the same model without its second look."""
    plain = StellarPerceptron(model.config.decoder_alone(), model.vocabulary)
    plain.start_from(model)
    return plain


def test_starts_with_no_say():
    """A readout that was never trained changes nothing."""
    model = StellarPerceptron(tiny_config(**LOOKING), tiny_model().vocabulary)
    names, blue = ["teff", "logg"], WAVELENGTH < 5500
    np.testing.assert_allclose(ask(model, names, blue), ask(without(model), names, blue), rtol=1e-5)


def test_what_it_changes():
    """Its labels, of spectra that lie in one of its ranges; nothing else, and whatever else is asked for."""
    model = tiny_model(**LOOKING)
    plain = without(model)
    blue, red, both = WAVELENGTH < 5500, WAVELENGTH > 6500, (WAVELENGTH < 5400) | (WAVELENGTH > 6600)
    for pixels in (blue, red):
        new, old = ask(model, ["teff", "logg", "k_mag"], pixels), ask(plain, ["teff", "logg", "k_mag"], pixels)
        assert (np.abs(new - old)[..., :2].max(axis=1) > 0.05).all()
        np.testing.assert_allclose(new[..., 2], old[..., 2], rtol=1e-5)
        np.testing.assert_allclose(ask(model, ["logg"], pixels), new[..., 1:2], rtol=1e-5)
        mixed = ask(model, ["flux", "logg", "k_mag", "logg", "teff"], pixels, [5000.0, 0, 0, 0, 0])
        np.testing.assert_allclose(mixed[..., 1:], new[..., [1, 2, 1, 0]], rtol=1e-5)
        flux = ask(model, ["flux"], pixels, [5000.0])
        np.testing.assert_allclose(mixed[..., :1], flux, rtol=1e-5)
        np.testing.assert_allclose(flux, ask(plain, ["flux"], pixels, [5000.0]), rtol=1e-5)
    for pixels in (both, slice(None)):
        np.testing.assert_allclose(ask(model, ["teff"], pixels), ask(plain, ["teff"], pixels), rtol=1e-6)


def test_each_star_by_itself():
    """Batch mates elsewhere get no second look; a star without a spectrum gets none either."""
    model = tiny_model(**LOOKING)
    flux = FLUX[:2].copy()
    flux[0, WAVELENGTH > 5500] = np.nan
    names = np.full(flux.shape, "flux")

    def teff(rows):
        return model.request(model.perceive(flux[rows], names[rows], WAVELENGTH), ["teff"])[0][:, 0]

    together, alone = teff([0, 1]), [teff([0])[0], teff([1])[0]]
    np.testing.assert_allclose(together, alone, rtol=2e-6)
    perception = model.perceive([[10.0], [11.0]], ["k_mag"])
    assert not perception.memory.second_look.any()
    everywhere = tiny_model(readout_labels=("teff",), readout_dense=8)
    assert np.abs(ask(everywhere, ["teff"]) - ask(without(everywhere), ["teff"])).max() > 0.05


def test_of_what_it_never_saw():
    """What lies far beyond the stars that it learnt from counts as if it lay at their edge."""
    readout = tiny_model(**LOOKING).torch_model.readout
    pooled, first = torch.full((1, 32), 6.0), torch.tensor([[6.0, -6.0]])
    unsure = torch.zeros(1, 2)
    torch.testing.assert_close(readout(1e6 * pooled, 1e6 * first, unsure), readout(pooled, first, unsure))
    near = readout(0.5 * pooled, 0.5 * first, unsure)
    assert (near[0] - readout(pooled, first, unsure)[0]).abs().max() > 1e-3


def test_fine_tuned_with_the_decoder():
    """What trains the decoder trains the readout."""
    network = tiny_model(**LOOKING).torch_model
    trained = {}
    for method in ("decoder", "encoder", "last_block", "full"):
        _choose_parameters(network, method, FineTuneConfig())
        trained[method] = all(parameter.requires_grad for parameter in network.readout.parameters())
    assert trained == {"decoder": True, "encoder": False, "last_block": True, "full": True}


def test_attention_is_that_of_the_request():
    """What a request looked at does not depend on the second look."""
    model = tiny_model(**LOOKING)
    blue = WAVELENGTH < 5500
    spectra = (FLUX[:, blue], np.full((8, blue.sum()), "flux"), WAVELENGTH[blue])
    weights = [m.request_attention(m.perceive(*spectra), ["k_mag", "teff"]) for m in (model, without(model))]
    assert weights[0].shape[2] == 2
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5)


def test_save_and_load(tmp_path):
    """A second look survives the disk."""
    model = tiny_model(**LOOKING)
    model.torch_model.readout.input_mean.fill_(0.3)
    model.save(tmp_path)
    blue = WAVELENGTH < 5500
    np.testing.assert_array_equal(ask(StellarPerceptron.load(tmp_path), ["teff"], blue), ask(model, ["teff"], blue))


def test_refusals():
    """Ranges that are none, labels that nobody knows, and sections that do not fit are named."""
    with pytest.raises(ConfigError, match=r"readout_ranges must be pairs of ascending wavelengths, not \(5, 4\)"):
        tiny_config(readout_ranges=(5, 4))
    with pytest.raises(ConfigError, match="readout_ranges must be pairs"):
        tiny_config(readout_ranges=(4, 5, 6))
    with pytest.raises(ConfigError, match=r"readout_labels: \['flux', 'mass'\] are no quantities of this model"):
        StellarPerceptron(
            tiny_config(readout_labels=("teff", "flux", "mass")), Vocabulary(["flux", "teff"], flux=["flux"])
        )
    with pytest.raises(ConfigError, match=r"(?s)sources must name.*n_star must be a positive.*beta must not be neg"):
        ReadoutConfig(n_star=0, beta=-1)
    small = load_recipe("small")
    with pytest.raises(ConfigError, match="readout_labels of the model need a section"):
        dataclasses.replace(small, readout=None)
    without = load_recipe("small", {"model": {"readout_labels": []}})
    assert without.model.readout_labels == ()
    wrong = dataclasses.replace(small.readout, sources=("apogee", "miles", "moon"))
    with pytest.raises(ConfigError, match=r"(?s)'miles' is not one of synthetic stars.*'moon' is not one"):
        dataclasses.replace(small, readout=wrong)
    assert load_recipe("small", {"readout": {"n_star": 5}}).readout.n_star == 5


class Stars:
    """Batches of the tiny stars: a source that never ends."""

    targets = ("teff", "logg")

    def batch(self, n_star, generator, step=None):
        """Draw stars, the labels of some of which are not known."""
        model = self.model
        table, vocabulary = tiny_table(n_star, seed=step), model.vocabulary
        blue = slice(0, 15)
        flux = table.flux[:, blue].astype(float)
        tokens = model.tokenize(flux, np.full(flux.shape, "flux"), WAVELENGTH[blue], table.sigma[:, blue])
        token = vocabulary.tokens(self.targets)
        target = np.stack(
            [vocabulary.standardize(t, table.column(k)) for t, k in zip(token, self.targets, strict=True)]
        )
        target = torch.from_numpy(target.T).float()
        target[::5, 1] = torch.nan
        token = torch.from_numpy(token).expand(n_star, -1)
        nowhere = torch.zeros(token.shape, dtype=torch.float64)
        return TrainingBatch(tokens, token, nowhere, target, torch.zeros_like(target), torch.ones_like(target))


@pytest.fixture
def stream():
    """Return a model, and a stream of the tiny stars for it."""
    stars = Stars()
    stars.model = tiny_model()
    return stars.model, StarStream({"stars": StreamPart(stars)}, batch_size=64, seed=3)


def test_training(stream):
    """It learns what the network leaves, the same at each call, and leaves the network as it is."""
    model, stars = stream
    config = tiny_config(**LOOKING)
    how = ReadoutConfig(sources=("stars",), n_star=1500, batch_size=64, epochs=8, learning_rate=1e-2)
    looking = with_readout(model, config, stars, how, 100)
    assert looking.config == config
    for name, tensor in model.torch_model.state_dict().items():
        torch.testing.assert_close(looking.torch_model.state_dict()[name], tensor, rtol=0, atol=0)
    truth = tiny_table(200, seed=0)
    flux = truth.flux[:, :15].astype(float)
    spectra = (flux, np.full(flux.shape, "flux"), WAVELENGTH[:15], truth.sigma[:, :15])

    def errors(model):
        values, sigma = model.request(model.perceive(*spectra), ["teff", "logg"])
        residual = values - np.stack([truth.column("teff"), truth.column("logg")], axis=1)
        return np.sqrt(np.mean(residual**2, axis=0)), np.abs(residual / sigma)

    before, _ = errors(model)
    after, z = errors(looking)
    assert (after < 0.7 * before).all()
    assert 0.5 < (z < 1).mean() < 0.85
    again = with_readout(model, config, stars, how, 100)
    torch.testing.assert_close(
        again.torch_model.readout.out.weight, looking.torch_model.readout.out.weight, rtol=0, atol=0
    )
    elsewhere = tiny_config(**(LOOKING | {"readout_ranges": (5000.0, 5100.0)}))
    with pytest.raises(TrainingError, match=r"0 stars of stars lie within readout_ranges \(5000.0, 5100.0\), too few"):
        with_readout(model, elsewhere, stars, dataclasses.replace(how, n_star=64), 100)
    with pytest.raises(TrainingError, match=r"the loss is not finite; lower the learning rate of \[readout\]"):
        with_readout(model, config, stars, dataclasses.replace(how, learning_rate=1e30, epochs=1), 100)


@pytest.mark.slow
@known_data(tiny=tiny_data())
def test_recipe_trains_it_last(tmp_path, monkeypatch):
    """A recipe with a readout gives weights that have one, and others can start from these."""
    source = SourceConfig(kind="table", data="tiny", domain="tiny", validation_fraction=0.4)
    emulator = SourceConfig(kind="emulator", data="gaia_rvs", domain="rvs", n_pool=200, galactic=0.0)
    recipe = Recipe(
        name="tiny",
        labels=("teff", "logg"),
        log=("teff",),
        model=tiny_config(readout_labels=("teff", "logg"), readout_dense=8, readout_ranges=(8300, 8900)),
        fit=FitConfig(steps=2, batch_size=16, warmup_steps=1),
        sources={"stars": source, "rvs": emulator},
        domains={"tiny": DomainConfig(), "rvs": DomainConfig({"name": "continuum"}, "continuum_normalized")},
        readout=ReadoutConfig(sources=("rvs",), n_star=48, batch_size=16, epochs=2),
    )
    monkeypatch.setattr(calibrate_weights, "_N_DENSITY", 64)
    monkeypatch.setattr(calibrate_weights, "_N_CALIBRATION", 64)
    fm = train_recipe(recipe, "nowhere", tmp_path)
    assert fm.model.config == recipe.model
    assert fm.model.torch_model.readout.out.weight.abs().max() > 0
    assert isinstance(fm, SpectraFM)
    monkeypatch.setattr(train_module, "load_recipe", {"tiny": recipe}.__getitem__)
    (tmp_path / "more" / "tiny").mkdir(parents=True)
    (tmp_path / "weights").rename(tmp_path / "more" / "tiny" / "weights")
    plain = dataclasses.replace(recipe, name="more", start="tiny", model=recipe.model.decoder_alone(), readout=None)
    more = train_recipe(plain, "nowhere", tmp_path / "more")
    assert more.model.torch_model.readout is None
