"""The second opinion on labels: whom it is about, how it is weighed, and how it is learnt."""

import dataclasses

import numpy as np
import pytest
import torch

from spectrafm import SpectraFM
from spectrafm.adapters import from_arrays
from spectrafm.exceptions import ConfigError, TrainingError
from spectrafm.fine_tuning import FineTuneConfig, _choose_parameters
from spectrafm.stellarperceptron import AugmentationConfig, FitConfig, StellarPerceptron, TrainingGenerator, Vocabulary
from spectrafm.stellarperceptron.second_opinion import weighed
from spectrafm.tests.test_recipes import tiny_data
from spectrafm.tests.tiny import WAVELENGTH, known_data, tiny_config, tiny_model, tiny_table
from spectrafm.training import (
    DomainConfig,
    OpinionConfig,
    Recipe,
    SourceConfig,
    TableSource,
    load_recipe,
    train_recipe,
    with_opinion,
)

OPINION = {
    "opinion_labels": ("logg", "teff"),
    "opinion_flux": "flux",
    "opinion_range": (3990.0, 9010.0),
    "opinion_knots": 80,
    "opinion_components": 8,
    "opinion_dense": (32,),
}
TABLE = tiny_table(8)
FLUX = TABLE.flux.astype(np.float64)
TARGETS = ("teff", "logg")


def perceived(model, flux=FLUX, sigma=None):
    """Return what a model makes of spectra."""
    return model.perceive(flux, np.full(flux.shape, "flux"), WAVELENGTH, sigma)


def ask(model, names, *spectra, wavelengths=None):
    """Return standardised answers and their errors."""
    return np.stack(model.request_standardized(perceived(model, *spectra), names, wavelengths)[1:])


def without(model):
    """Return the same model without its second opinion."""
    plain = StellarPerceptron(model.config.decoder_alone(), model.vocabulary)
    plain.start_from(model)
    return plain


def test_starts_unheard():
    """An opinion that was never learnt changes nothing."""
    model = StellarPerceptron(tiny_config(**OPINION), tiny_model().vocabulary)
    np.testing.assert_allclose(ask(model, ["teff", "logg"]), ask(without(model), ["teff", "logg"]), atol=2e-3)


def test_what_it_changes():
    """Its labels, wherever they are asked for, and nothing else."""
    model = tiny_model(**OPINION)
    new, old = (ask(m, ["teff", "k_mag", "logg"]) for m in (model, without(model)))
    assert (np.abs(new - old)[..., [0, 2]].max(axis=1) > 0.02).all()
    np.testing.assert_allclose(new[..., 1], old[..., 1], rtol=1e-5)
    np.testing.assert_allclose(ask(model, ["logg"]), new[..., 2:], rtol=1e-5)
    mixed = ask(model, ["flux", "logg", "teff"], wavelengths=[5000.0, 0, 0])
    np.testing.assert_allclose(mixed[..., 1:], new[..., [2, 0]], rtol=1e-5)
    np.testing.assert_allclose(mixed[..., :1], ask(without(model), ["flux"], wavelengths=[5000.0]), rtol=1e-5)


def test_weighed():
    """What is surer counts more, as much more as is trusted, and disagreement makes both unsure."""

    def both(value, variance, its, its_variance, trust=0.0):
        numbers = (value, np.log(variance), its, np.log(its_variance), trust)
        mean, log_variance = weighed(*(torch.tensor(x, dtype=torch.float64) for x in numbers))
        return mean.item(), log_variance.exp().item()

    assert both(0.0, 1.0, 0.0, 1.0) == pytest.approx((0.0, 1.0))
    assert both(0.0, 1.0, 1.0, 1.0) == pytest.approx((0.5, 1.25))
    assert both(0.0, 3.0, 1.0, 1.0) == pytest.approx((0.75, 0.25 * 3 + 0.75 + 0.75 * 0.25))
    assert both(0.0, 1.0, 1.0, 1.0, np.log(3.0)) == pytest.approx((0.75, 1 + 0.75 * 0.25))
    assert both(2.0, 1e-4, 1e5, 1e6) == pytest.approx((2.0, 1.0), abs=0.1)
    model = tiny_model(**OPINION)
    opinion = model.torch_model.opinion
    token = torch.from_numpy(model.vocabulary.tokens(["teff"]))[None]
    there = torch.ones(1, dtype=torch.bool)
    opinion.trust.data.copy_(torch.tensor([9.0, np.log(3.0)]))
    # columns are those of opinion_labels: logg, teff
    told = torch.tensor([[9.0, 1.0]]), torch.tensor([[9.0, 0.0]]), there
    seen = opinion.weigh(token, torch.tensor([[0.0]]), torch.tensor([[0.0]]), told)
    assert seen[0].item() == pytest.approx(0.75)
    # of labels that it does not tell, and of stars that it is not about, it says nothing
    other = torch.from_numpy(model.vocabulary.tokens(["k_mag"]))[None]
    opinions = torch.ones(1, 2), torch.zeros(1, 2)
    for asked, seen in ((other, there), (token, ~there)):
        kept = opinion.weigh(asked, torch.tensor([[0.3]]), torch.tensor([[-1.0]]), (*opinions, seen))
        torch.testing.assert_close(torch.stack(kept).flatten(), torch.tensor([0.3, -1.0]), rtol=0, atol=0)


def test_each_star_by_itself():
    """Pixel order, padding and batch mates change nothing; a star without such a spectrum has no opinion."""
    model, rng = tiny_model(**OPINION), np.random.default_rng(3)
    flux = FLUX[:3].copy()
    flux[0, WAVELENGTH > 5500] = np.nan
    flux[1] = np.nan
    together = ask(model, ["teff"], flux)
    for row in (0, 2):
        np.testing.assert_allclose(together[:, [row]], ask(model, ["teff"], flux[[row]]), rtol=2e-5, atol=1e-6)
    order = rng.permutation(len(WAVELENGTH))
    shuffled = model.perceive(flux[2:, order], np.full((1, len(order)), "flux"), WAVELENGTH[order])
    np.testing.assert_allclose(
        np.stack(model.request_standardized(shuffled, ["teff"])[1:]), together[:, 2:], rtol=2e-5, atol=1e-6
    )
    assert perceived(model, flux).memory.opinion[2].tolist() == [True, False, True]
    magnitudes = model.perceive([[10.0], [11.0]], ["k_mag"])
    assert magnitudes.memory.opinion is None
    values = [m.request(m.perceive([[10.0]], ["k_mag"]), ["teff"])[0].item() for m in (model, without(model))]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_beside_a_second_look():
    """A model can have both: the opinion is weighed against what the second look made of a star."""
    looking = {"readout_labels": ("teff",), "readout_dense": 8, "readout_ranges": (6500.0, 9100.0)}
    model, red = tiny_model(**OPINION, **looking), WAVELENGTH > 6500
    plain = tiny_model(**looking)
    plain.torch_model.load_state_dict(
        {k: v for k, v in model.torch_model.state_dict().items() if not k.startswith("opinion.")}
    )
    token = torch.from_numpy(model.vocabulary.tokens(["teff"])).expand(len(FLUX), 1)
    for pixels in (red, slice(None)):
        seen = FLUX[:, pixels], np.full(FLUX[:, pixels].shape, "flux"), WAVELENGTH[pixels]
        found, alone = (m.request_standardized(m.perceive(*seen), ["teff"])[1:] for m in (model, plain))
        value, log_variance = (torch.from_numpy(x).float() for x in (alone[0], 2 * np.log(alone[1])))
        opinion = model.perceive(*seen).memory.opinion
        mean, both = model.torch_model.opinion.weigh(token, value, log_variance, opinion)
        assert np.abs(found[0] - alone[0]).max() > 0.01
        np.testing.assert_allclose(found[0], mean.detach(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1], torch.exp(both / 2).detach(), rtol=1e-4)


def test_only_of_what_it_sees():
    """Pixels outside of its range are none, and where all are outside, it has no opinion."""
    model = tiny_model(**(OPINION | {"opinion_range": (3990.0, 6500.0)}))
    blue, red = WAVELENGTH < 6500, WAVELENGTH > 6500
    seen = [
        model.perceive(FLUX[:, pixels], np.full(FLUX[:, pixels].shape, "flux"), WAVELENGTH[pixels]).memory.opinion
        for pixels in (slice(None), blue, red)
    ]
    assert seen[2] is None
    torch.testing.assert_close(seen[0][0], seen[1][0])


def test_of_what_it_never_saw():
    """Absurd spectra get finite answers and gradients."""
    model = tiny_model(**OPINION)
    flux = np.stack((np.full(60, 1e6), np.full(60, -3.0), np.zeros(60), 1e-8 * FLUX[0]))
    assert np.isfinite(ask(model, ["teff", "logg"], flux)).all()
    tokens = model.tokenize(flux, np.full(flux.shape, "flux"), WAVELENGTH)
    tokens.value.requires_grad_()
    value, log_variance, _ = model.torch_model.opinion.look(tokens)
    (value.sum() + log_variance.sum()).backward()
    assert torch.isfinite(tokens.value.grad).all()


def test_fine_tuned():
    """What trains the encoder or the decoder trains the opinion, which is both."""
    network = tiny_model(**OPINION).torch_model
    trained = {}
    for method in ("decoder", "encoder", "last_block", "full"):
        _choose_parameters(network, method, FineTuneConfig())
        trained[method] = all(parameter.requires_grad for parameter in network.opinion.parameters())
    assert trained == {"decoder": True, "encoder": True, "last_block": True, "full": True}


def test_save_and_load(tmp_path):
    """It survives the disk, and few bits."""
    model = tiny_model(**OPINION)
    model.save(tmp_path)
    np.testing.assert_array_equal(ask(StellarPerceptron.load(tmp_path), ["teff"]), ask(model, ["teff"]))
    model.save(tmp_path / "compact", compact=True)
    np.testing.assert_allclose(
        ask(StellarPerceptron.load(tmp_path / "compact"), ["teff"]), ask(model, ["teff"]), atol=1e-3
    )


def test_refusals():
    """Settings that contradict each other, or name what is not there, are named."""
    with pytest.raises(ConfigError, match=r"(?s)opinion_flux must name.*opinion_range must be two ascending.*one, not"):
        tiny_config(**(OPINION | {"opinion_flux": "", "opinion_range": (5.0, 4.0), "opinion_dense": ()}))
    with pytest.raises(ConfigError, match=r"(?s)opinion_components must be a positive.*opinion_dropout must be in"):
        tiny_config(**(OPINION | {"opinion_components": 0, "opinion_dropout": 1.0}))
    for n_knot, n_component in ((3, 2), (80, 90)):
        with pytest.raises(ConfigError, match=rf"components no more than these, not \({n_knot}, {n_component}\)"):
            tiny_config(**(OPINION | {"opinion_knots": n_knot, "opinion_components": n_component}))
    vocabulary = Vocabulary(["flux", "teff"], flux=["flux"])
    with pytest.raises(ConfigError, match=r"opinion_labels: \['logg'\] are no quantities of this model"):
        StellarPerceptron(tiny_config(**OPINION), vocabulary)
    with pytest.raises(ConfigError, match=r"opinion_flux: 'light' is no flux of this model; name one of"):
        StellarPerceptron(tiny_config(**(OPINION | {"opinion_flux": "light", "opinion_labels": ("teff",)})), vocabulary)
    with pytest.raises(ConfigError, match=r"(?s)source must name a table.*n_star must be a pos.*beta must not be neg"):
        OpinionConfig(n_star=0, beta=-1)
    base = load_recipe("base")
    with pytest.raises(ConfigError, match="opinion_labels of the model need a section"):
        dataclasses.replace(base, opinion=None)
    with pytest.raises(ConfigError, match="opinion: source 'miles' is not a table of the recipe"):
        load_recipe("base", {"opinion": {"source": "miles"}})
    with pytest.raises(ConfigError, match=r"opinion_labels names \['mass'\], which are no labels of 'gaia_xp'"):
        load_recipe("base", {"model": {"opinion_labels": ["teff", "mass"]}})
    # where there is one kind of flux alone, it is called so
    opinion = {"model": OPINION | {"opinion_flux": "relative_sed"}, "opinion": {"source": "gaia_xp"}}
    with pytest.raises(ConfigError, match="opinion_flux is 'relative_sed', expected 'flux' as of 'gaia_xp'"):
        load_recipe("gaia_xp", opinion)
    assert load_recipe("base", {"model": {"opinion_labels": []}}).model.opinion_labels == ()


def source(rows, model, noise=1.0):
    """Return some of the tiny stars as a source."""
    table, data = tiny_table(600, seed=4), tiny_data(600, seed=4)
    settings = {"batch_size": 64, "patch_size": 16, "augmentation": AugmentationConfig(noise=noise), "seed": 2}
    generator = TrainingGenerator(table, model.vocabulary, TARGETS, rows, **settings)
    return TableSource(generator, rows, data)


@pytest.fixture
def learnt():
    """Return a model that knows nothing, what makes it one with an opinion, and its stars."""
    model = tiny_model()
    config = tiny_config(**OPINION, opinion_dropout=0.05)
    stars, calibrating = (source(rows, model) for rows in (np.arange(400), np.arange(400, 600)))
    how = OpinionConfig(source="stars", n_star=4000, batch_size=64, epochs=4, learning_rate=5e-3, weight_decay=1e-2)
    return model, config, stars, calibrating, how


def errors(model, with_sigma=True):
    """Return root mean square errors of other stars, and all errors in units of what is expected."""
    truth = tiny_table(200, seed=9)
    given = truth.sigma.astype(float) if with_sigma else None
    values, sigma = model.request(perceived(model, truth.flux.astype(float), given), ["teff", "logg"])
    residual = values - np.stack([truth.column("teff"), truth.column("logg")], axis=1)
    return np.sqrt(np.mean(residual**2, axis=0)), np.abs(residual / sigma)


def test_learnt(learnt):
    """It learns labels that the decoder does not know, is trusted then, and leaves the network as it is."""
    model, config, *rest = learnt
    beside = with_opinion(model, config, *rest, 7)
    assert beside.config == config
    for name, tensor in model.torch_model.state_dict().items():
        torch.testing.assert_close(beside.torch_model.state_dict()[name], tensor, rtol=0, atol=0)
    before, after = errors(model)[0], errors(beside)[0]
    assert (after < 0.4 * before).all()
    torch.manual_seed(3)
    again = with_opinion(model, config, *rest, 7)
    for a, b in zip(beside.torch_model.opinion.parameters(), again.torch_model.opinion.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not beside.torch_model.opinion.training
    # spectra without errors are taken to have usual ones
    assert beside.torch_model.opinion.usual_error == pytest.approx(0.01 / model.vocabulary.scale("flux")[1], rel=0.5)
    assert (errors(beside, with_sigma=False)[0] < 0.4 * before).all()


def test_not_trusted_when_wrong(learnt):
    """What stars that were set aside contradict counts for little, however sure it is of itself."""
    model, config, stars, calibrating, how = learnt
    right = with_opinion(model, config, stars, calibrating, how, 7)
    # the decoder is right about these
    table = calibrating.generator.table
    values = table.values.copy()
    values[:, :2] = model.request(perceived(model, table.flux.astype(float), table.sigma.astype(float)), TARGETS)[0]
    calibrating.generator.table = dataclasses.replace(table, values=values)
    wrong = with_opinion(model, config, stars, calibrating, how, 7)
    trust = [m.torch_model.opinion.trust for m in (right, wrong)]
    assert (trust[1] < trust[0] - 2).all()


def test_few_stars_to_trust_it(learnt):
    """A few stars silence none of the two; where none is set aside, they count as their errors say."""
    model, config, stars, calibrating, how = learnt
    for n_star in (1, 2, 3, 5):
        calibrating.rows = np.arange(400, 400 + n_star)
        assert with_opinion(model, config, stars, calibrating, how, 7).torch_model.opinion.trust.abs().max() < 2
    calibrating.rows = np.empty(0, dtype=int)
    assert with_opinion(model, config, stars, calibrating, how, 7).torch_model.opinion.trust.tolist() == [0.0, 0.0]


def test_failures(learnt):
    """Spectra elsewhere, and a learning rate that is too large, are named."""
    model, config, *rest, how = learnt
    elsewhere = tiny_config(**(OPINION | {"opinion_range": (100.0, 200.0)}))
    with pytest.raises(TrainingError, match="the source has no spectra of the kind opinion_flux within opinion_range"):
        with_opinion(model, elsewhere, *rest, how, 7)
    few = source(np.arange(6), model)
    with pytest.raises(TrainingError, match="5 usual spectra for 8 opinion_components; ask for fewer of these"):
        with_opinion(model, config, few, *rest[1:], how, 7)
    more = dataclasses.replace(config, opinion_labels=("teff", "k_mag"))
    with pytest.raises(TrainingError, match=r"\['k_mag'\] of opinion_labels are not told by its source, which has te"):
        with_opinion(model, more, *rest, how, 7)
    with pytest.raises(TrainingError, match=r"the loss is not finite; lower the learning rate of \[opinion\]"):
        with_opinion(model, config, *rest, dataclasses.replace(how, learning_rate=1e30), 7)


@pytest.mark.slow
@known_data(tiny=tiny_data())
def test_recipe_learns_it_last(tmp_path):
    """A recipe with a second opinion gives weights that have one, and whose errors know of it."""
    stars = SourceConfig(kind="table", data="tiny", domain="tiny", validation_fraction=0.4)
    recipe = Recipe(
        name="tiny",
        labels=TARGETS,
        log=("teff",),
        model=tiny_config(**OPINION),
        fit=FitConfig(steps=2, batch_size=16, warmup_steps=1),
        sources={"stars": stars},
        domains={"tiny": DomainConfig()},
        opinion=OpinionConfig(source="stars", n_star=2000, batch_size=32, learning_rate=5e-3, weight_decay=1e-2),
    )
    fm = train_recipe(recipe, "nowhere", tmp_path)
    assert isinstance(fm, SpectraFM)
    assert fm.model.config == recipe.model
    data = tiny_data(100, seed=5)
    table = fm.infer(from_arrays(data.wavelength, data.flux, data.sigma))
    residual = table["logg"].value - data.labels["logg"]
    assert 0.5 < np.mean(np.abs(residual) < table["e_logg"].value) < 0.85
    assert np.std(residual) < 0.5 * np.std(data.labels["logg"])
