"""Loss, batches, the training loop, resume and replicas."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spectrafm.arrays import SpectrumArrays
from spectrafm.continuum import ContinuumNormalizer, MedianScaler
from spectrafm.exceptions import CheckpointError, ConfigError, InputTypeError, InputValueError, TrainingError
from spectrafm.stellarperceptron import (
    AugmentationConfig,
    FitConfig,
    StellarPerceptron,
    TableStream,
    TokenTable,
    Trainer,
    TrainingGenerator,
    Vocabulary,
    robust_mean_squared_error,
)
from spectrafm.stellarperceptron import trainer as trainer_module
from spectrafm.stellarperceptron.muon import Muon
from spectrafm.stellarperceptron.nn_utils import learning_rate_factor, seeded, split_by_star
from spectrafm.tests.tiny import QUANTITIES, WAVELENGTH, tiny_config, tiny_model, tiny_table

ALL = AugmentationConfig(
    noise=1.0,
    noise_correlation=2.0,
    withhold_sigma=0.3,
    drop_pixels=0.5,
    window=0.5,
    give_quantity=0.5,
    quantities_only=0.2,
    flux_requests=3,
)
SHORT = {"steps": 12, "batch_size": 16, "warmup_steps": 2, "checkpoint_every": 5, "log_every": 4, "validation_every": 4}


def new_model(seed=3, **changes):
    """Return a model that has not seen anything."""
    vocabulary = Vocabulary(["flux", *QUANTITIES], flux=["flux"], log=["teff"])
    return StellarPerceptron(tiny_config(**changes), vocabulary, seed=seed)


def generator(table=None, augmentation=None, patch_size=16, **kwargs):
    """Return a generator over the tiny stars."""
    model = tiny_model()
    return TrainingGenerator(
        tiny_table() if table is None else table,
        model.vocabulary,
        ("teff", "logg"),
        batch_size=32,
        augmentation=augmentation,
        patch_size=patch_size,
        **kwargs,
    )


def test_loss_formula():
    """The loss is the one written down, by hand."""
    y, p, logvar = torch.tensor([[1.0]]), torch.tensor([[0.5]]), torch.tensor([[-1.0]])
    total = np.exp(-1) + 0.3**2 + 1e-8
    expected = 0.5 * (0.25 / total + np.log(total))
    np.testing.assert_allclose(robust_mean_squared_error(y, p, logvar, torch.tensor([[0.3]])), expected, rtol=1e-6)


@pytest.mark.parametrize(("beta", "expected"), [(0.0, 10.0), (0.5, 1.0), (1.0, 0.1)])
def test_loss_beta(beta, expected):
    """What is known ten times better pulls ten times, equally or a tenth as hard; the best error stays the same."""
    scale = torch.tensor([[0.1, 1.0]])
    answer, log_variance = torch.zeros(1, 2, requires_grad=True), (2 * torch.log(scale)).requires_grad_()
    robust_mean_squared_error(scale, answer, log_variance, beta=beta).backward()
    np.testing.assert_allclose(answer.grad[0, 0] / answer.grad[0, 1], expected, rtol=1e-4)
    np.testing.assert_allclose(log_variance.grad, 0.0, atol=1e-5)


def test_sources_are_clipped_apart():
    """A source with a huge gradient does not drown another: each adds its weight times the limit, at most."""
    model = new_model()
    table = tiny_table()

    class Two:
        """One source as it is, and one whose loss is a million times larger."""

        def __init__(self, config):
            self.stream = TableStream(model, table, ["teff", "logg"], config)
            self.targets = self.stream.targets

        def batches(self, step):
            [(_, _, batch)] = self.stream.batches(step)
            yield "calm", 0.75, batch
            yield "loud", 0.25, replace(batch, target=1e4 * batch.target)

    gradients = {}
    for limit in (0.0, 1e-3):
        config = FitConfig(**(SHORT | {"steps": 1, "clip_norm": 1e9, "source_clip_norm": limit, "warmup_steps": 0}))
        trainer = Trainer(model, Two(config), config)
        trainer._make_optimizers()
        before = {k: v.clone() for k, v in model.torch_model.state_dict().items()}
        trainer._step(model.torch_model, 0)
        gradients[limit] = torch.cat([p.grad.flatten() for p in model.torch_model.parameters() if p.grad is not None])
        model.torch_model.load_state_dict(before)
    assert gradients[0.0].norm() > 1e3
    assert 0.5e-3 <= gradients[1e-3].norm() <= 1.0001e-3
    with pytest.raises(ConfigError, match="beta must be in"):
        FitConfig(beta=2.0)


def test_loss_nan():
    """NaN targets and whole rows of them leave loss and gradient finite and untouched."""
    y = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])
    p = torch.zeros(2, 2, requires_grad=True)
    logvar = torch.zeros(2, 2, requires_grad=True)
    loss = robust_mean_squared_error(y, p, logvar, torch.full((2, 2), torch.nan))
    loss.backward()
    assert torch.isfinite(loss)
    np.testing.assert_allclose(p.grad.numpy(), [[-1, 0], [0, 0]], atol=1e-6)
    absurd = torch.tensor([[0.0, 500.0], [500.0, 500.0]], requires_grad=True)
    robust_mean_squared_error(y, p, absurd).backward()
    assert torch.isfinite(absurd.grad).all()
    nothing = robust_mean_squared_error(torch.full((2, 2), torch.nan), p, logvar)
    assert nothing.item() == 0


def test_same_step_same_batch():
    """A step always gives the same batch, another step another, and the table is left alone."""
    table = tiny_table()
    before = table.flux.copy()
    one, two = generator(table, ALL), generator(table, ALL)
    one.batch(3)
    a, b, c = one.batch(7), two.batch(7), two.batch(8)
    torch.testing.assert_close(a.tokens.value, b.tokens.value, rtol=0, atol=0)
    torch.testing.assert_close(a.target, b.target, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(a.tokens.value, c.tokens.value)
    np.testing.assert_array_equal(table.flux, before)


def test_epoch_sees_every_star_once():
    """An epoch draws every star once, in another order each time."""
    drawn = generator(tiny_table(96))
    epochs = [np.concatenate([drawn.stars(e * 3 + s) for s in range(3)]) for e in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(96))
    assert (epochs[0] != epochs[1]).any()


def test_ranks_share_a_batch():
    """Two processes draw disjoint halves of the batch of one."""
    whole = generator().stars(2)
    halves = [generator(rank=r, world_size=2).stars(2) for r in range(2)]
    assert not np.intersect1d(*halves).size
    np.testing.assert_array_equal(np.sort(np.concatenate(halves)), np.sort(whole))


def test_subsets_differ_by_star():
    """With more pixels than context, every star gets its own random subset, anew at every step, and no padding."""
    drawn = generator(patch_size=1, context_length=20)
    tokens = [drawn.batch(step).tokens for step in (0, 1)]
    assert tokens[0].token.shape == (32, 20)
    assert (tokens[0].token != 0).all()
    pixels = [t.wavelength.numpy() for t in tokens]
    assert (np.diff(pixels[0], axis=1) > 0).all()
    assert len({row.tobytes() for row in pixels[0]}) == 32
    assert (pixels[0] != pixels[1]).any()


def test_validation_sees_all_of_the_range():
    """Where nothing is drawn, the pixels that the context holds are those that inference keeps: even ones."""
    table = tiny_table(3)
    table.flux[1, 10:40] = np.nan
    table.flux[2, :50] = np.nan
    tokens = generator(table, patch_size=1, context_length=13).draw(np.arange(3)).tokens
    for star, wavelength in enumerate(tokens.wavelength.numpy()):
        flux = table.flux[star].astype(float)
        thin = SpectrumArrays(WAVELENGTH, flux, 0 * flux, np.isfinite(flux)).subsampled(13)
        np.testing.assert_array_equal(wavelength[wavelength > 0], WAVELENGTH[thin.good])


def test_requested_is_not_given():
    """A label in the context is never a target, with few pixels too."""
    table = tiny_table()
    table.flux[:, 3:] = np.nan
    drawn = generator(table, AugmentationConfig(give_quantity=1.0), patch_size=1, context_length=40)
    seen = 0
    for step in range(5):
        batch = drawn.batch(step)
        for token, target in zip(batch.request_token.T, batch.target.T, strict=True):
            given = (batch.tokens.token == token[:, None]).any(dim=1)
            assert torch.isnan(target[given]).all()
            assert torch.isfinite(target[~given]).all()
            seen += int(given.sum())
    assert seen > 5


def test_noise_level():
    """Extra noise has the size that the enlarged error says."""
    table = tiny_table(2000)
    table.flux[:] = 1.0
    settings = AugmentationConfig(noise=2.0, noise_probability=1.0, noise_correlation=3.0)
    vocabulary = Vocabulary(["flux", *QUANTITIES], flux=["flux"])
    drawn = TrainingGenerator(table, vocabulary, ["teff"], batch_size=2000, augmentation=settings, patch_size=2)
    batch = drawn.batch(0)
    value, sigma = batch.tokens.value[:, 20:40].numpy() - 1, batch.tokens.sigma[:, 20:40].numpy()
    assert sigma.max() > 0.02
    added = np.sqrt(sigma**2 - 0.01**2)
    np.testing.assert_allclose(np.std(value / np.maximum(added, 1e-4)), 1, atol=0.05)


def test_reddening():
    """Some stars are seen through more dust, flux and errors alike; those that are given photometry are not."""
    table = tiny_table(2000)
    table.flux[:] = 1.0
    curve = np.linspace(2.0, 0.5, len(WAVELENGTH))
    settings = AugmentationConfig(reddening=3.0, reddening_probability=0.4)
    vocabulary = Vocabulary(["flux", *QUANTITIES], flux=["flux"])
    rows = np.broadcast_to(WAVELENGTH, table.flux.shape)
    curves = curve * np.array([[1.0], [2.0]]).repeat(1000, axis=0)
    for dusty, stars in (
        (replace(table, extinction=curve), 1.0),
        (replace(table, wavelength=rows, extinction=curves), 2.0),
    ):
        drawn = TrainingGenerator(
            dusty, vocabulary, ["teff", "logg"], batch_size=2000, augmentation=settings, patch_size=2
        )
        batch = drawn.draw(np.arange(2000), np.random.default_rng(1))
        magnitudes = -2.5 * np.log10(batch.tokens.value[:, :60].numpy() + 1e-12)
        dust = magnitudes[:, :1] / curve[0]
        dust[1000:] /= stars
        np.testing.assert_allclose(np.mean(dust > 1e-3), 0.4, atol=0.04)
        assert 2.9 < dust.max() < 3.0
        np.testing.assert_allclose(magnitudes[:1000], dust[:1000] * curve, atol=1e-5)
        np.testing.assert_allclose(magnitudes[1000:], dust[1000:] * stars * curve, atol=1e-5)
        np.testing.assert_allclose(batch.tokens.sigma[:, :60], 0.01 * 10 ** (-0.4 * magnitudes), rtol=1e-4)
    settings = replace(settings, reddening_probability=1.0, give_quantity=0.6, flux_requests=3)
    drawn = TrainingGenerator(dusty, vocabulary, ["teff", "logg"], batch_size=2000, augmentation=settings, patch_size=2)
    batch = drawn.draw(np.arange(2000), np.random.default_rng(4))
    given = (batch.tokens.token == vocabulary.tokens(["k_mag"])[0]).any(dim=1)
    bright = (batch.tokens.value[:, :60] == 1).all(dim=1)
    assert 0 < given.float().mean() < 0.5
    assert torch.equal(given, bright)
    # the fluxes that are asked for are those behind the dust, too
    assert torch.equal(given, (batch.target[:, 2:] == 1).all(dim=1))
    with pytest.raises(InputValueError, match="reddening needs the extinction of the table, which has none"):
        TrainingGenerator(table, vocabulary, ["teff"], augmentation=settings)
    with pytest.raises(InputValueError, match=r"extinction: shape \(3,\), expected \(60,\)"):
        replace(table, extinction=np.ones(3))


def test_withheld_sigma_and_windows():
    """The wanted fractions of stars lose their errors and their pixels."""
    table = tiny_table(2000)
    settings = AugmentationConfig(withhold_sigma=0.3, drop_pixels=0.0, window=0.4)
    drawn = TrainingGenerator(
        table, tiny_model().vocabulary, ["teff"], batch_size=2000, augmentation=settings, patch_size=2
    )
    tokens = drawn.batch(0).tokens
    there = tokens.token != 0
    withheld = (~torch.isfinite(tokens.sigma) | ~there).all(dim=1).float().mean()
    np.testing.assert_allclose(withheld, 0.3, atol=0.05)
    cut = (there[:, :60].sum(dim=1) < 60).float().mean()
    np.testing.assert_allclose(cut, 0.4, atol=0.05)


def test_divisor_is_applied_after_cuts():
    """The normaliser sees what inference would see: the pixels that are left."""
    calls = []

    def divisor(wavelength, flux, good):
        calls.append(good.mean())
        return np.nanmedian(np.where(good, flux, np.nan), axis=1, keepdims=True)

    drawn = generator(augmentation=AugmentationConfig(drop_pixels=1.0), divisor=divisor)
    batch = drawn.batch(0)
    assert calls[0] < 1
    pixel = drawn.vocabulary.tokens(["flux"])[0]
    flux = batch.tokens.value.numpy() * drawn.vocabulary.std[pixel] + drawn.vocabulary.mean[pixel]
    flux = np.where(batch.tokens.token.numpy() == pixel, flux, np.nan)
    np.testing.assert_allclose(np.nanmedian(flux, axis=1), 1, atol=0.01)


@pytest.mark.parametrize("normalizer", [MedianScaler(), ContinuumNormalizer(width=0.2)])
@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_unit_of_the_flux_does_not_matter(normalizer, factor):
    """What is divided by a divisor is standardised after that: standardisation, loss and predictions stay."""
    found = []
    for scale in (1.0, factor):
        table, model = tiny_table(), new_model()
        table = replace(table, flux=table.flux * np.float32(scale), sigma=table.sigma * np.float32(scale))
        log = model.fit(
            table, ["logg"], FitConfig(**(SHORT | {"steps": 2})), augmentation=ALL, divisor=normalizer.divisor
        )
        assert model.vocabulary.scale("flux")[0] == pytest.approx(1, abs=0.02)
        flux = table.flux[:8] / normalizer.divisor(WAVELENGTH, table.flux[:8], np.isfinite(table.flux[:8]))
        said = model.request(model.perceive(flux, ["flux"] * 60, WAVELENGTH), ["logg"])
        found.append((log[-1]["loss"], model.vocabulary.mean, model.vocabulary.std, *said))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6)


def test_flux_requests():
    """Requested fluxes are those of the star at that wavelength, without the extra noise."""
    table = tiny_table()
    drawn = generator(table, AugmentationConfig(noise=5.0, noise_probability=1.0, flux_requests=4))
    batch, stars = drawn.batch(0), drawn.stars(0)
    pixel = np.searchsorted(WAVELENGTH, batch.request_wavelength[:, 2:].numpy())
    expected = drawn.vocabulary.standardize(drawn.pixel_token[pixel], table.flux[stars[:, None], pixel])
    np.testing.assert_allclose(batch.target[:, 2:], expected, rtol=1e-5)
    assert (batch.weight[:, 2:] == np.float32(0.1)).all()


def test_more_flux_requests_than_pixels():
    """Each pixel is asked for once, at most."""
    batch = generator(augmentation=AugmentationConfig(flux_requests=100)).batch(0)
    np.testing.assert_array_equal(np.sort(batch.request_wavelength[:, 2:], axis=1), np.tile(WAVELENGTH, (32, 1)))


@pytest.mark.parametrize("patch_size", [1, 16])
def test_quantities_only(patch_size):
    """Some stars have no spectrum: fluxes, relative to the whole of it, are asked for from most quantities."""
    settings = AugmentationConfig(window=1.0, give_quantity=0.6, quantities_only=0.3, flux_requests=4)

    def divisor(wavelength, flux, good):
        return np.nanmedian(np.where(good, flux, np.nan), axis=1, keepdims=True)

    table = tiny_table(2000)
    drawn = TrainingGenerator(
        table,
        tiny_model().vocabulary,
        ["teff", "logg"],
        batch_size=2000,
        augmentation=settings,
        patch_size=patch_size,
        divisor=divisor,
    )
    batch, stars = drawn.batch(0), drawn.stars(0)
    pixel = drawn.vocabulary.tokens(["flux"])[0]
    only = ~(batch.tokens.token == pixel).any(dim=1)
    np.testing.assert_allclose(only.float().mean(), 0.3, atol=0.05)
    assert (batch.tokens.token[only] > 0).any(dim=1).all()
    assert (batch.weight[only, 2:] == 1).all()
    assert (batch.weight[~only, 2:] == np.float32(0.1)).all()
    # most labels are given, and not asked for then
    np.testing.assert_allclose(batch.target[only, :2].isnan().float().mean(), 0.8, atol=0.05)
    place = np.searchsorted(WAVELENGTH, batch.request_wavelength[only, 2:].numpy())
    flux = table.flux[stars[only.numpy()]]
    flux = flux / np.median(flux, axis=1, keepdims=True)
    expected = drawn.vocabulary.standardize(drawn.pixel_token[place], np.take_along_axis(flux, place, axis=1))
    np.testing.assert_allclose(batch.target[only, 2:], expected, rtol=1e-4, atol=1e-5)


def test_learns_fluxes_from_labels():
    """A model that was asked for fluxes of stars without a spectrum knows them from their labels."""
    model, table = new_model(), tiny_table(400)
    augmentation = AugmentationConfig(give_quantity=1.0, quantities_only=0.9, flux_requests=16)
    settings = FitConfig(steps=150, batch_size=64, warmup_steps=10, learning_rate=3e-3)
    model.fit(table, ["teff", "logg"], settings, augmentation=augmentation)
    answer, sigma = model.request(model.perceive(table.values, QUANTITIES), ["flux"] * 4, WAVELENGTH[10:50:10])
    truth = table.flux[:, 10:50:10]
    # one that does not look at the labels has 1
    assert np.std(answer - truth) < 0.7 * np.std(truth)
    assert 0.5 < np.std((answer - truth) / sigma) < 2


def test_split_by_star():
    """Sides do not overlap, are complete, and depend on the seed alone."""
    train, validation = split_by_star(1000, 0.1, 4)
    assert len(validation) == 100
    np.testing.assert_array_equal(np.sort(np.concatenate((train, validation))), np.arange(1000))
    np.testing.assert_array_equal(split_by_star(1000, 0.1, 4)[1], validation)
    assert (split_by_star(1000, 0.1, 5)[1] != validation).any()


def test_schedule():
    """Warm-up rises to one, the cosine ends where it should."""
    factors = [learning_rate_factor(s, 100, 10, 0.1) for s in range(101)]
    np.testing.assert_allclose([factors[0], factors[9], factors[10], factors[100]], [0.1, 1, 1, 0.1])
    assert (np.diff(factors[10:]) <= 0).all()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler of C++")
# those of torch's compiler, of itself
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_learn_the_same():
    """Blocks are compiled while they are trained, with the same outcome, and are as before when that is over."""
    losses = []
    for compiled in (False, True):
        model = new_model(encoder_heads=(4,), encoder_dense=(48,))
        config = FitConfig(**(SHORT | {"steps": 3, "log_every": 1, "compile": compiled}))
        losses.append([entry["loss"] for entry in model.fit(tiny_table(), ["teff", "logg"], config)])
        blocks = [*model.torch_model.torch_encoder.blocks, *model.torch_model.torch_decoder.blocks]
        assert all(block.forward.__func__ is type(block).forward for block in blocks)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.parametrize(("config", "limit"), [({}, 0.4), ({"patch_size": 1, "context_length": 32}, 0.7)])
def test_fit_learns(config, limit, tmp_path):
    """A short training beats the mean of the labels, writes its log, and holds its errors."""
    model = new_model(**config)
    log = model.fit(
        tiny_table(400),
        ["teff", "logg"],
        FitConfig(steps=150, batch_size=64, warmup_steps=10, learning_rate=3e-3, validation_every=50, ema_decay=0.9),
        folder=tmp_path,
    )
    assert log[-1]["mad_std_teff"] < limit
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert rows[-1]["step"] == "150"
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}, {"precision": "bfloat16"}, {"optimizer": "muon"}])
def test_resume_is_exact(settings, tmp_path):
    """Stopped and resumed, training gives the weights of an uninterrupted run to the bit."""
    table, config = tiny_table(), FitConfig(**(SHORT | settings))
    folder = tmp_path / "stopped"
    whole = new_model(dropout=0.1, head_dropout=0.1)
    whole.fit(table, ["teff", "logg"], config, augmentation=ALL)

    class Stop(Exception):
        """Stands for a machine that goes away."""

    stopped = new_model(dropout=0.1, head_dropout=0.1)
    stream = TableStream(stopped, table, ["teff", "logg"], config, augmentation=ALL)
    trainer = Trainer(stopped, stream, config, folder=folder)
    take = trainer._step

    def step(network, number, timed):
        if number == 8:
            raise Stop
        return take(network, number, timed)

    trainer._step = step
    with pytest.raises(Stop):
        trainer.run()
    resumed = new_model(dropout=0.1, head_dropout=0.1)
    torch.manual_seed(99)
    log = resumed.fit(table, ["teff", "logg"], config, augmentation=ALL, folder=folder, resume=True)
    assert log[-1]["step"] == 12
    for (name, a), b in zip(
        whole.torch_model.state_dict().items(), resumed.torch_model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_muon():
    """Muon has the matrices within the network, AdamW all the rest, and each parameter is trained once."""
    model = new_model()
    config = FitConfig(**(SHORT | {"optimizer": "muon", "learning_rate": 3e-3}))
    trainer = Trainer(model, TableStream(model, tiny_table(), ["teff", "logg"], config), config)
    before = {k: p.detach().clone() for k, p in model.torch_model.named_parameters()}
    trainer.run()
    muon, adamw = trainer.optimizers
    assert isinstance(muon, torch.optim.Muon)
    of_muon, of_adamw = (
        [id(p) for group in optimizer.param_groups for p in group["params"]] for optimizer in (muon, adamw)
    )
    assert sorted(of_muon + of_adamw) == sorted(id(p) for p in model.torch_model.parameters())
    for name, parameter in model.torch_model.named_parameters():
        if id(parameter) in of_muon:
            assert parameter.ndim == 2
            assert "embedding_layer" not in name
            assert not torch.equal(parameter, before[name])
    assert id(model.torch_model.torch_decoder.decoder_out.weight) in of_adamw
    assert {group["lr"] for optimizer in (muon, adamw) for group in optimizer.param_groups} == {
        muon.param_groups[0]["lr"]
    }
    with pytest.raises(ConfigError, match="optimizer must be 'adamw' or 'muon', not 'sgd'"):
        FitConfig(optimizer="sgd")


def test_muon_without_large_matrices():
    """A network with none that is large enough for Muon is trained by AdamW alone."""
    small = {"embedding_dim": 8, "patch_dense": 8, "patch_components": 8, "head_dense": (8,)}
    small |= {f"{part}_{k}": (n,) for part in ("encoder", "decoder") for k, n in (("heads", 2), ("dense", 8))}
    model = new_model(**small)
    config = FitConfig(**(SHORT | {"optimizer": "muon"}))
    trainer = Trainer(model, TableStream(model, tiny_table(), ["teff", "logg"], config), config)
    assert trainer.run()[-1]["step"] == 12
    assert [type(optimizer) for optimizer in trainer.optimizers] == [torch.optim.AdamW]


def test_resume_other_settings(tmp_path):
    """A checkpoint of other settings is refused, naming what differs."""
    new_model().fit(tiny_table(), ["teff"], FitConfig(**SHORT), folder=tmp_path)
    with pytest.raises(CheckpointError, match="written with another fit, validation;"):
        new_model().fit(tiny_table(), ["teff"], FitConfig(**(SHORT | {"seed": 1})), folder=tmp_path, resume=True)
    other = StellarPerceptron(tiny_config(), Vocabulary(["flux", *QUANTITIES], flux=["flux"]), seed=3)
    with pytest.raises(CheckpointError, match="written with another vocabulary;"):
        other.fit(tiny_table(), ["teff"], FitConfig(**SHORT), folder=tmp_path, resume=True)
    model = new_model()
    stream = TableStream(model, tiny_table(), ["teff"], FitConfig(**SHORT))
    stream.settings = dict
    with pytest.raises(CheckpointError, match="written with another augmentation, table, targets, validation;"):
        Trainer(model, stream, FitConfig(**SHORT), folder=tmp_path, resume=True).run()


def test_resume_on_another_processor(tmp_path):
    """Means that another processor finds, a little off, do not matter: those of the checkpoint hold."""
    table, config = tiny_table(), FitConfig(**(SHORT | {"checkpoint_every": 4}))
    whole, stopped, resumed = new_model(), new_model(), new_model()
    whole.fit(table, ["teff", "logg"], config, augmentation=ALL)
    stream = TableStream(stopped, table, ["teff", "logg"], config, augmentation=ALL)
    Trainer(stopped, stream, config, folder=tmp_path, watch=lambda step: step == 8).run()
    stream = TableStream(resumed, table, ["teff", "logg"], config, augmentation=ALL)
    resumed.vocabulary.mean *= 1 + 1e-9
    resumed.vocabulary.std *= 1 + 1e-9
    log = Trainer(resumed, stream, config, folder=tmp_path, resume=True).run()
    assert [entry["step"] for entry in log] == [4, 8, 12]
    assert resumed.vocabulary.to_dict() == whole.vocabulary.to_dict()
    weights = resumed.torch_model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in whole.torch_model.state_dict().items())


def test_resume_with_other_stars(tmp_path):
    """Stars whose mean is another are not those that the training began with."""
    config = FitConfig(**(SHORT | {"checkpoint_every": 4}))
    new_model().fit(tiny_table(), ["teff"], config, folder=tmp_path)
    model = new_model()
    stream = TableStream(model, tiny_table(), ["teff"], config)
    model.vocabulary.mean[1] += 0.1
    with pytest.raises(CheckpointError, match="another standardisation, as of other stars"):
        Trainer(model, stream, config, folder=tmp_path, resume=True).run()


def test_resume_with_another_table_or_split(tmp_path):
    """Where the model was standardised before, too, training goes on with the same stars only."""
    config, table = FitConfig(**SHORT), tiny_table()
    tiny_model().fit(table, ["teff"], config, folder=tmp_path)

    def resume(table, **settings):
        return tiny_model().fit(table, ["teff"], config, folder=tmp_path, resume=True, **settings)

    assert resume(tiny_table())[-1]["step"] == 12
    one_value, order = tiny_table(), np.random.default_rng(0).permutation(200)
    one_value.values[7, 1] += 1.0
    shuffled = TokenTable(table.flux[order], WAVELENGTH, table.sigma, table.values, table.errors, QUANTITIES)
    for other in (tiny_table(seed=1), one_value, shuffled, replace(table, sigma=None)):
        with pytest.raises(CheckpointError, match="written with another table; resume with"):
            resume(other)
    with pytest.raises(CheckpointError, match="written with another validation;"):
        resume(table, validation=np.arange(20))
    _, drawn = split_by_star(200, config.validation_fraction, config.seed)
    assert resume(table, validation=drawn)[-1]["step"] == 12


def test_resume_needs_a_folder():
    """There is nothing to go on from without one."""
    with pytest.raises(InputValueError, match="resume: True without a folder"):
        tiny_model().fit(tiny_table(), ["teff"], FitConfig(**SHORT), resume=True)


def test_resume_from_what_is_no_checkpoint(tmp_path):
    """Garbage, parts of a file, other files and those of earlier versions are named, with the remedy."""
    config, table, path = FitConfig(**SHORT), tiny_table(), tmp_path / "checkpoint.pt"
    tiny_model().fit(table, ["teff"], config, folder=tmp_path)
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)

    def resume():
        tiny_model().fit(table, ["teff"], config, folder=tmp_path, resume=True)

    def is_refused(match):
        with pytest.raises(CheckpointError, match=rf"checkpoint.pt {match}"):
            resume()

    for damaged in (b"garbage", b"", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        is_refused("is no checkpoint, or is damaged .* start in an empty folder")
    for foreign in ({"a": 1}, [1], {**state, "settings": "{}"}, {k: v for k, v in state.items() if k != "average"}):
        torch.save(foreign, path)
        is_refused("is no checkpoint, or is damaged")
    earlier = json.loads(state["settings"])
    del earlier["table"], earlier["validation"]
    torch.save({**state, "settings": json.dumps(earlier)}, path)
    is_refused("does not tell table, validation: it is of an earlier version, or")
    path.write_bytes(whole)
    resume()


def test_validation_stars():
    """They come as numbers or as a mask, and have to be in the table, but not to be all of it."""
    table, mask = tiny_table(), np.arange(200) % 10 == 3
    config = FitConfig(**SHORT)

    def stream(validation):
        return TableStream(tiny_model(), table, ["teff"], config, validation=validation)

    for given_as in (mask, mask.tolist(), np.flatnonzero(mask), [*np.flatnonzero(mask), 3]):
        np.testing.assert_array_equal(stream(given_as).validation_stars, np.flatnonzero(mask))
        assert not np.isin(stream(given_as).generator.indices, np.flatnonzero(mask)).any()
    assert not len(stream([]).validation_stars)
    for wrong, match in (
        ([-1, 3], "1 stars that are not in the table, the first is -1; expected numbers from 0 to 199"),
        ([200], "1 stars .* the first is 200"),
        (mask[:-1], r"a mask of shape \(199,\), expected \(200,\)"),
        ([0.5, 3.0], "float64 of shape"),
        ([[1], [2]], "int64 of shape"),
        (np.arange(200), "all 200 stars; leave some to train on"),
    ):
        with pytest.raises(InputValueError, match=f"validation: {match}"):
            stream(wrong)


def test_masked_is_nan():
    """What is masked, of any part of a table, is as NaN, in lists and arrays, for means and batches."""
    table = tiny_table()

    def masked(array, hidden, fill):
        mask = np.zeros(array.shape, dtype=bool)
        mask[hidden] = True
        return np.where(mask, np.nan, array), np.ma.masked_array(np.where(mask, fill, array), mask)

    parts = {
        "flux": masked(table.flux, (slice(None), 5), 1e3),
        "wavelength": masked(table.wavelength, 9, 5e3),
        "sigma": masked(table.sigma, (slice(None), 7), 1e3),
        "values": masked(table.values, slice(0, None, 2), -9999.0),
        "errors": masked(table.errors, slice(0, None, 2), -9999.0),
    }
    plain, hidden = (replace(table, **{k: both[i] for k, both in parts.items()}) for i in (0, 1))
    batches = []
    for some in (plain, hidden, replace(hidden, flux=list(hidden.flux), values=list(hidden.values))):
        model = new_model()
        stream = TableStream(model, some, ["teff", "logg"], FitConfig(**SHORT), augmentation=ALL)
        assert not batches or model.vocabulary.to_dict() == batches[0][0]
        batches.append((model.vocabulary.to_dict(), stream.generator.batch(0)))
    for _, batch in batches[1:]:
        torch.testing.assert_close(batch.target, batches[0][1].target, rtol=0, atol=0, equal_nan=True)
        for name in ("value", "sigma", "wavelength"):
            ours, expected = (getattr(b.tokens, name) for b in (batch, batches[0][1]))
            torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


def test_impossible_targets():
    """Numbers that nothing is learnt from are refused before anything is standardised, saying how many and where."""
    table = tiny_table()
    for name, row, number, column, match in (
        ("errors", 3, np.inf, 1, "errors: 'logg' of 1 of 200 stars cannot be learnt from, first inf in row 3"),
        ("errors", slice(5, None), -9999.0, 1, "errors: 'logg' of 195 of 200 .* first -9999 in row 5"),
        ("values", [4, 8], 0.0, 0, "values: 'teff' of 2 of 200 .* first 0 in row 4; expected positive numbers, as the"),
        ("values", 4, -np.inf, 1, "values: 'logg' of 1 of 200 .* first -inf in row 4; expected finite numbers"),
    ):
        array = getattr(table, name).copy()
        array[row, column] = number
        model = new_model()
        with pytest.raises(InputValueError, match=match):
            model.fit(replace(table, **{name: array}), ["teff", "logg"], FitConfig(**SHORT))
        assert not model.vocabulary.fitted
    # those of inputs, and of what is not known, do not matter
    values, errors = table.values.copy(), table.errors.copy()
    values[3, 1], errors[3, 1], errors[:, 2] = np.nan, -9999.0, -9999.0
    assert np.isfinite(
        new_model().fit(replace(table, values=values, errors=errors), ["logg"], FitConfig(**SHORT))[-1]["loss"]
    )


@pytest.mark.filterwarnings("error")
def test_absurd_pixels_do_not_count():
    """Pixels with an absurd flux, error or wavelength are as bad ones, for means, inputs and targets."""
    table, settings = tiny_table(), AugmentationConfig(noise=1.0, flux_requests=60)
    bad = table.flux.astype(float)
    bad[:, 3], bad[:, 8], bad[2, 5], bad[3, 7] = np.nan, np.nan, np.nan, np.nan
    absurd, wavelength, sigma = bad.copy(), WAVELENGTH.copy(), table.sigma.copy()
    wavelength[3], wavelength[8], absurd[:, 3], absurd[:, 8], absurd[2, 5], absurd[3, 7] = np.inf, 0, 1, 1, 1e25, 1e39
    sigma[:, 11], sigma[:, 12] = -9999.0, np.inf
    unknown = np.where((sigma < 0) | np.isinf(sigma), np.nan, sigma)
    found = []
    for flux, at, error in ((bad, WAVELENGTH, unknown), (absurd, wavelength, sigma)):
        model = new_model()
        some = replace(table, flux=flux, wavelength=at, sigma=error)
        config = FitConfig(**(SHORT | {"steps": 2}))
        log = model.fit(some, ["logg"], config, augmentation=settings)
        found.append((log[-1]["loss"], model.vocabulary.mean, model.vocabulary.std))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for flux, at in ((np.full_like(bad, np.inf), WAVELENGTH), (bad, np.full(60, np.nan))):
        with pytest.raises(InputValueError, match="flux: no good pixel in 180 spectra"):
            new_model().fit(replace(table, flux=flux, wavelength=at), ["logg"], FitConfig(**SHORT))


def test_new_label_is_standardised():
    """A quantity that had no value in an earlier training is standardised when it has; all others stay."""
    table = tiny_table()
    model = new_model()
    known = replace(table, values=table.values[:, 1:], errors=None, names=QUANTITIES[1:])
    model.fit(known, ["logg"], FitConfig(**SHORT))
    before = {name: model.vocabulary.scale(name) for name in ("flux", "logg", "k_mag")}
    assert model.vocabulary.scale("teff")[:2] == (0.0, 1.0)
    again = Vocabulary(**json.loads(json.dumps(model.vocabulary.to_dict())))
    assert again.to_dict() == model.vocabulary.to_dict()
    table.values[:, 1:] += 5
    TableStream(model, table, ["teff"], FitConfig(**SHORT))
    assert {name: model.vocabulary.scale(name) for name in before} == before
    mean, std, _ = model.vocabulary.scale("teff")
    np.testing.assert_allclose([mean, std], [np.log(5000), 0.1], rtol=0.1)
    # configurations that say it of all names at once
    assert Vocabulary(**(again.to_dict() | {"fitted": True})).is_fitted.all()
    assert not Vocabulary(["flux"], flux="flux").fitted


def test_new_flux_tells_its_zero():
    """A kind of flux that comes later is standardised, and the patches know what zero is then."""
    table, names = tiny_table(), ["flux", "sed", *QUANTITIES]
    model = StellarPerceptron(tiny_config(), Vocabulary(names, flux=["flux", "sed"], log="teff"), seed=1)
    TableStream(model, table, ["logg"], FitConfig(**SHORT))
    TableStream(model, replace(table, flux=3 * table.flux, flux_name="sed"), ["logg"], FitConfig(**SHORT))
    mean, std = np.array([model.vocabulary.scale(name)[:2] for name in ("flux", "sed")]).T
    np.testing.assert_allclose(mean, [1, 3], rtol=0.05)
    np.testing.assert_allclose(model.torch_model.patch_layer.flux_zero, -mean / std, rtol=1e-6)


def test_generators_of_others_are_left_alone(monkeypatch):
    """Making and training a model seeds no GPU, and gives the generator of the CPU back as it was."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    new_model(dropout=0.1).fit(tiny_table(), ["teff"], FitConfig(**(SHORT | {"steps": 3})))
    assert not seeded
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("device", "number"), [("cuda", 1), ("cuda:0", 0)])
def test_own_generator_is_lent(device, number, monkeypatch):
    """A step seeds the generator of its own device, and no other, and gives it back as it was."""
    generators = [torch.Generator().manual_seed(n) for n in range(3)]
    gpus = SimpleNamespace(current_device=lambda: 1, default_generators=generators)
    monkeypatch.setattr(torch, "get_device_module", lambda device: gpus)
    before = [generator.get_state() for generator in (torch.default_generator, *generators)]
    with seeded(7, torch.device(device)):
        expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
        assert torch.equal(torch.rand(3), expected)
        for i, generator in enumerate(generators):
            assert torch.equal(torch.rand(3, generator=generator), expected) == (i == number)
    after = [generator.get_state() for generator in (torch.default_generator, *generators)]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, *(i == number for i in range(3))]


def one_of_two(monkeypatch, broadcast=lambda tensor, source: None):
    """Return a trainer that believes to be one of two processes, whose gradients are the same."""
    monkeypatch.setattr(trainer_module.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    monkeypatch.setattr(trainer_module.distributed, "broadcast", broadcast)
    model = new_model()
    config = FitConfig(**(SHORT | {"steps": 1, "warmup_steps": 0, "weight_decay": 0.5, "ema_decay": 0.9}))
    trainer = Trainer(model, TableStream(model, tiny_table(), ["teff", "logg"], config), config)
    trainer.world_size = 2
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_parameters_stay(optimizer, monkeypatch):
    """With several processes, too, parameters that are not trained keep their values, and no gradient."""
    trainer = one_of_two(monkeypatch)
    trainer.config = replace(trainer.config, optimizer=optimizer)
    network = trainer.model.torch_model
    frozen = {id(p) for p in network.torch_encoder.parameters()}
    for parameter in network.torch_encoder.parameters():
        parameter.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    trainer._run()
    for name, parameter in network.named_parameters():
        if id(parameter) in frozen:
            assert torch.equal(parameter, before[name]), name
            assert parameter.grad is None
    assert not torch.equal(network.torch_decoder.decoder_out.weight, before["torch_decoder.decoder_out.weight"])


def test_start_is_that_of_the_first_process(monkeypatch):
    """Weights, standardisation and the running average begin as the first process has them."""
    first = tiny_model(seed=8)
    scale = torch.from_numpy(np.stack((first.vocabulary.mean, first.vocabulary.std)))
    theirs = [scale, *first.torch_model.state_dict().values()]
    trainer = one_of_two(monkeypatch, lambda tensor, source: tensor.copy_(theirs.pop(0)))
    trainer.config = replace(trainer.config, learning_rate=1e-12, optimizer="adamw")
    vocabulary = trainer.model.vocabulary
    vocabulary.mean += 0.1
    trainer._run()
    assert not theirs
    assert vocabulary.to_dict() == first.vocabulary.to_dict()
    # what is kept at the end is the average
    for (name, ours), expected in zip(
        trainer.model.torch_model.state_dict().items(), first.torch_model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_processes_wait_for_calibration(monkeypatch):
    """A process waits for the first one as long as that takes to calibrate, and not half an hour."""
    asked = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(trainer_module.distributed, "init_process_group", lambda kind, **options: asked.update(options))
    monkeypatch.setattr(trainer_module.distributed, "destroy_process_group", lambda: None)
    with trainer_module.process_group("cpu"):
        assert asked["timeout"] >= timedelta(hours=12)


def test_not_finite(tmp_path):
    """A loss that is not finite stops the training and spoils nothing."""
    table = tiny_table()
    model = new_model()
    model.vocabulary.fit(table, np.arange(200))
    with torch.no_grad():
        model.torch_model.torch_decoder.decoder_out.weight[0, 0] = torch.inf
    before = {k: v.clone() for k, v in model.torch_model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"step 0: loss (nan|inf)"):
        model.fit(table, ["teff"], FitConfig(**SHORT), folder=tmp_path)
    for name, value in model.torch_model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_rows_without_labels():
    """Stars without any label do no harm."""
    table = tiny_table()
    table.values[::2] = np.nan
    log = new_model().fit(table, ["teff", "logg"], FitConfig(**SHORT))
    assert np.isfinite(log[-1]["loss"])


def test_standardization_from_training_stars():
    """Mean and deviation come from the training stars alone, and are then frozen."""
    table = tiny_table()
    config = FitConfig(**SHORT)
    _, validation = split_by_star(len(table), config.validation_fraction, config.seed)
    table.values[validation, 1] = 1000.0
    model = new_model()
    model.fit(table, ["logg"], config)
    assert abs(model.vocabulary.mean[model.vocabulary.tokens(["logg"])[0]] - 2.5) < 0.5
    frozen = model.vocabulary.to_dict()
    table.values[:, 1] += 5
    model.fit(table, ["logg"], config)
    assert model.vocabulary.to_dict() == frozen


def test_numbers_of_numpy(tmp_path):
    """Settings that are numbers of NumPy are saved as any others, within tuples too."""
    config = FitConfig(**(SHORT | {"steps": np.int64(3), "learning_rate": np.float32(1e-3), "compile": np.False_}))
    model = new_model(encoder_heads=(np.int64(4), np.int64(2)), embedding_dim=np.int32(32))
    model.fit(tiny_table(), "teff", config, folder=tmp_path)
    model.save(tmp_path)
    assert StellarPerceptron.load(tmp_path).config == model.config == tiny_config()
    assert type(config.steps) is int


def test_one_name_is_a_name():
    """A string is one name, of a target and of a flux, and not its letters."""
    table = tiny_table()
    stream = TableStream(
        new_model(), replace(table, values=table.values[:, :1], errors=None, names="teff"), "teff", FitConfig()
    )
    assert stream.targets == stream.table.names == ("teff",)
    assert Vocabulary(["flux", "teff"], flux="flux", log="teff").flux == ("flux",)


def test_arguments_of_other_types():
    """They are named, with what is expected."""
    table, model = tiny_table(), tiny_model()
    for error, match, settings in (
        (InputTypeError, "config: of type dict, expected FitConfig", {"config": {"steps": 3}}),
        (InputTypeError, "augmentation: of type dict, expected AugmentationConfig", {"augmentation": {"noise": 1.0}}),
    ):
        with pytest.raises(error, match=match):
            model.fit(table, ["teff"], **settings)
    for error, match, changes in (
        (InputValueError, r"flux: shape \(60,\), expected \(n_star, n_pixel\)", {"flux": table.flux[0]}),
        (InputValueError, "flux: rows of different lengths", {"flux": [[1.0], [1.0, 2.0]]}),
        (InputTypeError, "wavelength: of type <U", {"wavelength": WAVELENGTH.astype(str)}),
        (InputValueError, "names: teff more than once", {"names": ("teff", "teff", "logg")}),
        (InputValueError, r"flux_name: shape \(3,\), expected one name or one a pixel", {"flux_name": ["flux"] * 3}),
    ):
        with pytest.raises(error, match=match):
            replace(table, **changes)


def test_bad_arguments():
    """Targets, shapes and settings that cannot be used are named with the remedy."""
    with pytest.raises(InputValueError, match=r"targets: \['age'\] not in the table; it has teff, logg, k_mag"):
        new_model().fit(tiny_table(), ["age"], FitConfig(**SHORT))
    table = tiny_table()
    with pytest.raises(InputValueError, match=r"sigma: shape \(3,\), expected \(200, 60\)"):
        TokenTable(table.flux, WAVELENGTH, np.ones(3), table.values, None, QUANTITIES)
    with pytest.raises(ConfigError, match=r"(?s)steps must be a positive integer.*precision"):
        FitConfig(steps=0, precision="float16")
    with pytest.raises(
        ConfigError, match=r"(?s)seed must be an integer of 0 or more, not -1; learning_rate must.*not inf"
    ):
        FitConfig(seed=-1, learning_rate=np.inf)
    with pytest.raises(
        ConfigError, match="FitConfig: steps must be an integer, not 2.5; learning_rate must be a number"
    ):
        FitConfig(steps=2.5, learning_rate="fast")
    with pytest.raises(ConfigError, match=r"window must be in \[0, 1\], not 2"):
        AugmentationConfig(window=2)


WORKER = """
import sys, numpy as np, torch
from safetensors.torch import save_file
from spectrafm.stellarperceptron import FitConfig
from spectrafm.tests.test_training import SHORT, ALL, new_model, tiny_table
import os
torch.set_num_threads(1)
rank = int(os.environ["RANK"])
model = new_model(seed=rank)
table = tiny_table()
# another processor may standardise a little differently
model.vocabulary.fit(table, range(100 + rank))
model.fit(table, ["teff", "logg"], FitConfig(**SHORT, ema_decay=0.9), augmentation=ALL)
state = {k: v.contiguous() for k, v in model.torch_model.state_dict().items()}
save_file(state | {"mean": torch.from_numpy(model.vocabulary.mean)}, f"{sys.argv[1]}{rank}")
"""


@pytest.mark.slow
def test_replicas_stay_equal(tmp_path):
    """Under torchrun, two processes end with the same weights and standardisation, to the bit, however they begin."""
    from safetensors.torch import load_file

    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    subprocess.run([*command, str(tmp_path / "rank")], check=True, env=environment, timeout=120)
    first, second = (load_file(tmp_path / f"rank{r}") for r in range(2))
    start = new_model(seed=0).torch_model.state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["torch_decoder.decoder_out.weight"], start["torch_decoder.decoder_out.weight"])


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
def test_muon_is_muon(shape):
    """Ours takes the steps of torch's, which iterates in bfloat16, with several matrices, some without a gradient."""
    shapes = [shape, shape, (32, 32), shape]
    starts = [torch.randn(s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(shapes)]
    found = []
    for kind, settings in ((Muon, {}), (torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"})):
        parameters = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = kind(parameters, lr=0.1, weight_decay=0.1, **settings)
        for step in range(4):
            for i, parameter in enumerate(parameters):
                gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + i))
                # sizes do not matter, nor do those of others
                parameter.grad = None if (step, i) == (1, 1) else gradient * 10.0**i
            optimizer.step()
            if step == 1:
                state = optimizer.state_dict()
                optimizer = kind(parameters, lr=0.1, weight_decay=0.1, **settings)
                optimizer.load_state_dict(state)
        found.append([parameter.detach() for parameter in parameters])
    for ours, theirs, start in zip(*found, starts, strict=True):
        assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()


@pytest.mark.parametrize(("every", "logged"), [(10, 25), (15, 10), (7, 100)])
def test_validation_does_not_wait_for_the_log(tmp_path, every, logged):
    """There is a validation at each multiple of its number of steps, and each has a line in the log; resumed, too."""
    steps, table = 40, tiny_table()
    settings = {"steps": steps, "batch_size": 16, "warmup_steps": 2, "checkpoint_every": 20}
    config = FitConfig(**settings, validation_every=every, log_every=logged)
    log = tiny_model().fit(table, ["teff"], config)
    validated = {*range(every, steps, every), steps}
    assert [entry["step"] for entry in log] == sorted(validated | set(range(logged, steps, logged)))
    assert {entry["step"] for entry in log if "validation_loss" in entry} == validated

    model = tiny_model()
    trainer = Trainer(model, TableStream(model, table, ["teff"], config), config, folder=tmp_path)
    take = trainer._step

    def step(network, number, timed):
        if number == 31:
            raise RuntimeError("gone")
        return take(network, number, timed)

    trainer._step = step
    with pytest.raises(RuntimeError, match="gone"):
        trainer.run()
    resumed = tiny_model().fit(table, ["teff"], config, folder=tmp_path, resume=True)
    kept = ("step", "loss", "validation_loss")
    assert [{k: entry.get(k) for k in kept} for entry in resumed] == [{k: entry.get(k) for k in kept} for entry in log]


def test_watch_ends_training():
    """Who watches sees the model as it would be kept, and may end the training."""
    model, table, seen = tiny_model(), tiny_table(), []
    config = FitConfig(steps=40, batch_size=32, warmup_steps=2, ema_decay=0.9, validation_every=10, log_every=10)

    def watch(step):
        weights = model.torch_model.torch_decoder.decoder_out.weight.detach().clone()
        seen.append((step, model.torch_model.training, weights))
        return step == 20

    stream = TableStream(model, table, ["teff", "logg"], config)
    log = Trainer(model, stream, config, watch=watch).run()
    assert [step for step, _, _ in seen] == [10, 20]
    assert not seen[0][1]
    assert log[-1]["step"] == 20
    torch.testing.assert_close(model.torch_model.torch_decoder.decoder_out.weight.detach(), seen[-1][2])
