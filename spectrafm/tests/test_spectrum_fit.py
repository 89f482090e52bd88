"""Fits to whole spectra: what they find, what they may depend on, and how they are learnt."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spectrafm.continuum import ContinuumNormalizer
from spectrafm.exceptions import ConfigError, TrainingError
from spectrafm.stellarperceptron import SpectrumFit, StellarPerceptron, Vocabulary
from spectrafm.tests.fake_grid import LABELS, fake_emulator, other_emulator
from spectrafm.tests.fake_mps import FakeMps, send
from spectrafm.tests.tiny import tiny_config
from spectrafm.training import (
    EmulatorSource,
    MixedEmulatorSource,
    ObservationConfig,
    ObservedSource,
    ReadoutConfig,
    RequestConfig,
    StarStream,
    StreamPart,
    load_recipe,
    spectrum_fits,
    with_readout,
)
from spectrafm.training.spectrum_fits import learn_components, learn_guess, learn_other_lines, learn_response
from spectrafm.training.train_readout import set_doubt

ENDS, N_PARAMETER = (5000.0, 5100.0), 3
WAVELENGTH = np.exp(np.linspace(np.log(5000.5), np.log(5099.5), 700))
CENTERS, DEPTHS = np.linspace(5008, 5092, 12), np.linspace(0.1, 0.5, 12)


def spectra(parameter, wavelength=WAVELENGTH, wrong=0.0):
    """Return spectra whose lines follow parameters, not quite linearly, ``(n_star, n_pixel)``."""
    weight = np.stack([np.sin(1.0 + k * np.arange(12)) for k in range(1, N_PARAMETER + 1)])
    strength = DEPTHS * np.exp(0.4 * np.tanh(parameter @ weight) + wrong)
    lines = np.exp(-0.5 * ((np.asarray(wavelength)[..., None] - CENTERS) / 0.5) ** 2)
    return 1 - np.einsum("il,...pl->ip" if np.ndim(wavelength) == 1 else "il,ipl->ip", strength, lines)


def stars(n_star, seed, noise=0.0, wavelength=WAVELENGTH, line_error=0.0):
    """Return what a fit is given of stars, and their parameters."""
    rng = np.random.default_rng(seed)
    parameter = rng.uniform(-1.5, 1.5, (n_star, N_PARAMETER))
    # of some of the lines, by which parameters are not told alone
    wrong = line_error * rng.normal(size=(n_star, 12)) * (np.arange(12) < 6)
    flux = spectra(parameter, wavelength, wrong)
    flux = flux + noise * rng.normal(size=flux.shape)
    value = torch.from_numpy(flux).float()
    at = torch.from_numpy(np.broadcast_to(wavelength, flux.shape).copy())
    sigma = torch.full_like(value, noise if noise else torch.nan)
    return (value, sigma, at, torch.ones_like(value, dtype=torch.bool)), torch.from_numpy(parameter).float()


@pytest.fixture(scope="module")
def fit():
    """Return a fit that has learnt all of this."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        fit = SpectrumFit(ENDS, 600, 8, 48, N_PARAMETER)
    fit.usual_error.fill_(0.02)
    (value, _, wavelength, there), parameter = stars(2000, 2)
    flux = fit.knots(value, wavelength, there)
    learn_components(fit, flux[:1000], generator)
    off = learn_response(fit, fit.projected(flux), parameter, 40, generator)
    assert off < 0.01
    noisy, parameter = stars(1000, 3, 0.02)
    with torch.no_grad():
        learnt = fit.coefficients(*fit.normal_equations(*noisy))
    learn_guess(fit, *learnt, parameter, 20, generator)
    return fit.eval()


@torch.no_grad()
def found(fit, star):
    """Return parameters and their errors."""
    parameter, log_variance, misfit, _ = fit(*star)
    assert torch.isfinite(misfit).all()
    return parameter.numpy(), np.exp(0.5 * log_variance.numpy())


def some(star, keep):
    """Return stars of which only some pixels are there."""
    value, sigma, wavelength, _ = star
    return value, sigma, wavelength, keep.expand(value.shape)


def check(fit, star, truth, low=0.5, high=0.85):
    """Assert that errors hold, and return their median."""
    parameter, error = found(fit, star)
    z = np.abs(parameter - truth.numpy()) / error
    assert low < (z < 1).mean() < high
    assert (z < 2).mean() > 0.85
    return np.median(error)


def test_finds_parameters_within_its_errors(fit):
    """Errors follow noise and pixels, whatever of the spectrum there is."""
    star, truth = stars(200, 11, 0.02)
    all_of_it = check(fit, star, truth)
    assert check(fit, stars(200, 11, 0.08)[0], truth) > 2.5 * all_of_it
    few = torch.from_numpy(np.random.default_rng(1).random(700) < 0.1)
    assert 2 < check(fit, some(star, few), truth) / all_of_it < 6
    half = torch.from_numpy(WAVELENGTH < 5050)
    assert 1.1 < check(fit, some(star, half), truth) / all_of_it < 4
    # without errors it takes the usual one, which is that of these stars
    value, sigma, wavelength, there = star
    unknown = (value, torch.full_like(sigma, torch.nan), wavelength, there)
    np.testing.assert_allclose(found(fit, unknown), found(fit, star), atol=1e-5)


@pytest.mark.parametrize("n_pixel", [150, 1400])
def test_any_sampling(fit, n_pixel):
    """Coarse pixels and fine ones give the same parameters within their errors."""
    wavelength = np.exp(np.linspace(np.log(5000.5), np.log(5099.5), n_pixel))
    star, truth = stars(200, 12, 0.02, wavelength)
    error = check(fit, star, truth)
    usual = np.median(found(fit, stars(200, 12, 0.02)[0])[1])
    assert error == pytest.approx(usual * np.sqrt(700 / n_pixel), rel=0.25)


def test_what_does_not_matter(fit):
    """Order of pixels, padding, what bad pixels hold, batch mates."""
    star, _ = stars(5, 13, 0.02)
    expected = found(fit, star)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(found(fit, [t[:, order] for t in star]), expected, atol=2e-4)
    value, sigma, wavelength, there = (torch.nn.functional.pad(t, (0, 60)) for t in star)
    for filled in (0.0, torch.nan, 1e30):
        value[:, 700:] = filled
        np.testing.assert_allclose(found(fit, (value, sigma, wavelength, there)), expected, atol=2e-4)
    alone = [found(fit, [t[i : i + 1] for t in star]) for i in range(5)]
    np.testing.assert_allclose(np.concatenate(alone, axis=1), expected, atol=2e-4)
    nobody = found(fit, [t[:0] for t in star])
    assert nobody[0].shape == (0, N_PARAMETER)


def test_nothing_to_fit(fit):
    """Of pixels elsewhere, or none, it says what is common among its stars, with errors as large."""
    star, _ = stars(1, 14, 0.02)
    elsewhere = (star[0], star[1], star[2] + 500, star[3])
    for empty in (elsewhere, some(star, torch.zeros(700, dtype=torch.bool))):
        parameter, error = found(fit, empty)
        np.testing.assert_allclose(parameter, fit.prior_mean.numpy()[None], atol=0.05)
        np.testing.assert_allclose(error, 3 / np.sqrt(12), rtol=0.1)


def test_what_is_known_helps(fit):
    """A parameter that is known stays near, the others come out better, and errors hold; one that is wrong is told."""
    star, truth = stars(200, 17, 0.1)
    without, unknown = found(fit, star), torch.full_like(truth, torch.nan)
    np.testing.assert_allclose(found(fit, (*star, unknown, unknown)), without, atol=1e-3)
    known, error = unknown.clone(), unknown.clone()
    known[:, 0] = truth[:, 0] + 0.1 * torch.randn(200, generator=torch.Generator().manual_seed(2))
    error[:, 0] = 0.1
    check(fit, (*star, known, error), truth)
    helped = found(fit, (*star, known, error))
    gain = helped[1] / without[1]
    assert (gain[:, 0] < 0.75).all()
    assert (np.median(gain[:, 1:], axis=0) < 1).all()
    off = [np.abs(p - truth.numpy())[:, 1:].mean(axis=0) for p, _ in (helped, without)]
    assert (off[0] < off[1]).all()
    # next to nothing is known that way
    error[:, 0] = 30.0
    np.testing.assert_allclose(found(fit, (*star, known, error)), without, atol=0.01)
    # no error is a small one; off by ten of the others
    known[:, 0] = truth[:, 0] + 1.0
    parameter, log_variance, misfit, _ = fit(*star, known, unknown)
    assert (parameter[:, 0] - known[:, 0]).abs().median() < 0.1
    assert torch.exp(0.5 * log_variance[:, 0]).median() < 0.025
    assert (misfit > fit(*star)[2] + 1).float().mean() > 0.9


def test_other_lines(fit):
    """Where lines are wrong, those that are not tell parameters, and errors hold; who has right ones loses nothing."""
    (value, _, wavelength, there), truth = stars(1000, 18, line_error=0.2)
    knowing = copy.deepcopy(fit)
    learn_other_lines(knowing, fit.projected(fit.knots(value, wavelength, there)), truth)
    right, truth = stars(300, 19, 0.02)
    line_error = knowing(*right)[3]
    assert (line_error == 0).float().mean() > 0.8
    np.testing.assert_allclose(np.median(np.abs(found(knowing, right)[0] - found(fit, right)[0])), 0, atol=1e-4)
    check(knowing, right, truth)
    # of other errors than they were learnt from
    for size in (0.2, 0.6):
        wrong, truth = stars(300, 20, 0.02, line_error=size)
        off = [np.abs(found(one, wrong)[0] - truth.numpy()) / found(one, wrong)[1] for one in (fit, knowing)]
        assert (off[0] < 1).mean() < 0.35
        assert 0.5 < (off[1] < 1).mean() < 0.85
        closer = [np.median(np.abs(found(one, wrong)[0] - truth.numpy())) for one in (knowing, fit)]
        assert closer[0] < 0.8 * closer[1]
        # as far off as the spectra are
        clean, _ = stars(300, 20)
        apart = (stars(300, 20, line_error=size)[0][0] - clean[0]).square().mean(dim=1).sqrt()
        ratio = knowing(*wrong)[3] / apart
        assert 0.4 < ratio.median() < 2.0


SPIKE, DIP = slice(432, 433), slice(434, 439)


def with_artefacts(star, where, size):
    """Return stars with some pixels off by this much."""
    value = star[0].clone()
    value[:, where] += size
    return value, *star[1:]


@torch.no_grad()
def lost(fit, star, monkeypatch):
    """Return which pixels are left out, ``(n_star, n_pixel)``."""
    judged, plain = [], SpectrumFit.artefacts
    with monkeypatch.context() as patch:
        patch.setattr(SpectrumFit, "artefacts", lambda *given: judged.append(plain(*given)) or judged[-1])
        fit.sound_equations(*star)
    out = judged[0].clone()
    if len(judged) > 1:
        # stars that have some are looked at again
        out[judged[0].any(dim=1)] = judged[1]
    return out.numpy()


@pytest.mark.parametrize(("where", "size"), [(SPIKE, 1.0), (SPIKE, 1000.0), (DIP, -0.8)])
def test_artefacts_are_left_out(fit, where, size, monkeypatch):
    """A spike and a dip on a line change parameters as little as if they were masked, and only they are lost."""
    clean, _ = stars(30, 21, 0.02)
    spoilt = with_artefacts(clean, where, size)
    expected, error = found(fit, clean)
    off = np.abs(found(fit, spoilt)[0] - expected) / error
    keep = torch.ones(700, dtype=torch.bool)
    keep[where] = False
    masked = np.abs(found(fit, some(clean, keep))[0] - expected) / error
    assert np.median(off) < np.median(masked) + 0.02
    assert off.max() < 2
    out = lost(fit, spoilt, monkeypatch)
    assert out[:, where].mean() > 0.99
    out[:, where] = False
    assert out.mean() < 1e-3
    monkeypatch.setattr(SpectrumFit, "artefacts", lambda self, *star: torch.zeros_like(star[3]))
    assert np.median(np.abs(found(fit, spoilt)[0] - expected) / error) > 20 * np.median(off)


def test_stars_without_artefacts(fit, monkeypatch):
    """Noise alone loses no pixel, of any size, with errors or without; results are the same to the bit."""
    for noise in (0.01, 0.02, 0.1):
        star, _ = stars(300, 22, noise)
        assert not lost(fit, star, monkeypatch).any()
    star, _ = stars(300, 22, 0.02)
    assert not lost(fit, (star[0], torch.full_like(star[1], torch.nan), *star[2:]), monkeypatch).any()
    # beside another with artefacts, too
    star[0][0, SPIKE] += 1.0
    assert np.argwhere(lost(fit, star, monkeypatch)).tolist() == [[0, SPIKE.start]]
    with torch.no_grad():
        sound, plain = fit.sound_equations(*star), fit.normal_equations(*star)
    for one, other in zip(sound, plain, strict=True):
        assert torch.equal(one[1:], other[1:])
        assert not torch.equal(one[0], other[0])
    expected = found(fit, [t[1:] for t in star])
    monkeypatch.setattr(SpectrumFit, "artefacts", lambda self, *star: torch.zeros_like(star[3]))
    np.testing.assert_array_equal(found(fit, [t[1:] for t in star]), expected)


@pytest.mark.parametrize(("noise", "most"), [(0.02, 0.01), (0.005, 0.05)])
def test_wrong_lines_are_no_artefacts(fit, noise, most, monkeypatch):
    """Where lines are wrong everywhere, few pixels are lost, whatever the noise."""
    star, _ = stars(100, 23, noise, line_error=0.6)
    assert lost(fit, star, monkeypatch).mean() < most


def test_artefacts_in_any_form(fit, monkeypatch):
    """Pixels that are bad or elsewhere, stars without pixels, and other devices."""
    star, _ = stars(4, 24, 0.02)
    value, sigma, wavelength, there = with_artefacts(star, SPIKE, 1.0)
    there[0], there[1, SPIKE], wavelength[2, SPIKE] = False, False, 6000.0
    with torch.no_grad():
        assert np.argwhere(lost(fit, (value, sigma, wavelength, there), monkeypatch)).tolist() == [[3, SPIKE.start]]
        nothing = [t[:, :0] for t in star]
        np.testing.assert_allclose(fit(*nothing)[0], fit.prior_mean.expand(4, -1), atol=0.05)
        expected = fit(value, sigma, wavelength, there)
        with FakeMps():
            away = send(SimpleNamespace(torch_model=copy.deepcopy(fit))).torch_model
            answer = away(value.to("mps"), sigma.to("mps"), wavelength, there.to("mps"))
            for one, other in zip(answer, expected, strict=True):
                torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-3)


def test_absurd_spectra(fit):
    """Whatever comes, numbers come out, and what stands beside it is none the worse."""
    (value, sigma, wavelength, there), _ = stars(6, 16, 0.02)
    expected = found(fit, [t[:1] for t in (value, sigma, wavelength, there)])
    value[1], value[2], value[3] = 1e18, -50.0, 1e30
    sigma[4], sigma[5] = 1e-15, 1e15
    parameter, log_variance, misfit, _ = fit(value, sigma, wavelength, there)
    for some in (parameter, log_variance, misfit):
        assert torch.isfinite(some).all()
    assert (misfit[1:4] > misfit[0] + 3).all()
    np.testing.assert_allclose(parameter[:1].detach().numpy(), expected[0], atol=2e-4)


@pytest.mark.parametrize("where", [slice(0, 0), slice(432, 433)])
def test_derivatives(fit, where):
    """What a parameter changes by with the flux is what autograd says, and nothing with that of artefacts."""
    value, sigma, wavelength, there = with_artefacts(stars(1, 15, 0.02)[0], where, 1.0)
    value.requires_grad_(True)
    parameter, *_ = fit(value, sigma, wavelength, there)
    [slope] = torch.autograd.grad(parameter[0, 0], value)
    assert (slope[0, where] == 0).all()
    way = 0.02 * torch.from_numpy(np.sin(np.arange(700) / 9.0)).float()
    with torch.no_grad():
        up, down = (fit(value + s * way, sigma, wavelength, there)[0][0, 0] for s in (1, -1))
    assert ((up - down) / 2).item() == pytest.approx((slope[0] @ way).item(), rel=0.1)


LOOKING = {
    "readout_labels": ("teff", "logg", "fe_h"),
    "readout_dense": 32,
    "readout_ranges": (15_990.0, 16_110.0),
    "fit_knots": (900,),
    "fit_components": (16,),
    "fit_dense": (48,),
}
SEEN = ObservationConfig(
    resolving_power=20_000.0, resolving_power_range=(18_000.0, 20_000.0), whole_range=1.0, snr=(30.0, 100.0), tilt=0.0
)


@pytest.fixture(scope="module")
def looking():
    """Return a model whose labels are fitted, the same without, and their stars."""
    names = ["flux", *LABELS, "vsini", "ln_resolving_power"]
    mean = [1.0, np.log(5000), 3.0, -0.5, 0.1, 0.3, 1.0, 9.8]
    std = [0.1, 0.1, 1.0, 0.5, 0.2, 0.3, 1.0, 0.1]
    vocabulary = Vocabulary(names, flux=["flux"], log=["teff", "vmicro", "vsini"], mean=mean, std=std)
    pool = EmulatorSource(fake_emulator(), n_pool=600, seed=1)
    source = ObservedSource(pool, vocabulary, ContinuumNormalizer(), SEEN, RequestConfig(0.1, 0.5, 0.0, 0))
    pool = MixedEmulatorSource(fake_emulator(), other_emulator(), n_pool=600, seed=2)
    others = ObservedSource(pool, vocabulary, ContinuumNormalizer(), SEEN, RequestConfig(0.1, 0.5, 0.0, 0))
    parts = {"stars": StreamPart(source, share=4.0), "others": StreamPart(others)}
    stream = StarStream(parts, batch_size=64, seed=3)
    model = StellarPerceptron(tiny_config(), vocabulary)
    model.fit_patches(stream, n_step=1)
    how = ReadoutConfig(sources=("stars", "others"), n_star=1200, batch_size=64, epochs=10)
    config = tiny_config(**LOOKING)
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("_N_COMPONENT", 512), ("_N_FIT", 1000), ("_EPOCHS", 20)):
            patch.setattr(spectrum_fits, name, number)
        yield with_readout(model, config, stream, how, 100), model, stream, how


def test_learnt_by_a_readout(looking, tmp_path):
    """Labels that nothing else tells are told by the fit, on disk too."""
    new, plain, stream, _ = looking
    source = stream.parts["stars"].source
    batch = source.all_asked(bad_pixels=0.0).batch(200, torch.Generator().manual_seed(9))
    column = [source.targets.index(k) for k in LOOKING["readout_labels"]]
    request = batch.request_token[:, column], batch.request_wavelength[:, column]

    def off(model):
        with torch.inference_mode():
            value, log_variance = model.torch_model.eval()(batch.tokens, *request)
        return (value - batch.target[:, column]).numpy(), np.exp(0.5 * log_variance.numpy())

    before, (after, error) = np.abs(off(plain)[0]), off(new)
    assert (np.median(np.abs(after), axis=0) < 0.4 * np.median(before, axis=0)).all()
    assert 0.5 < (np.abs(after) < error).mean() < 0.9
    new.save(tmp_path / "whole")
    np.testing.assert_array_equal(off(StellarPerceptron.load(tmp_path / "whole"))[0], after)
    new.save(tmp_path / "few_bits", compact=True)
    rounded, _ = off(StellarPerceptron.load(tmp_path / "few_bits"))
    assert np.median(np.abs(rounded - after) / error) < 0.2


def test_what_is_known_reaches_fits(looking):
    """A label that is known is known to the fit, whatever its place among the tokens; what is no label is not."""
    new, _, stream, _ = looking
    network, vocabulary = new.torch_model.eval(), new.vocabulary
    source = stream.parts["stars"].source
    batch = source.all_asked(bad_pixels=0.0, snr=(10.0, 10.0)).batch(50, torch.Generator().manual_seed(8))
    column = source.targets.index("fe_h")
    more = {"fe_h": batch.target[:, column], "mg_fe": batch.target[:, source.targets.index("mg_fe")]}

    def fitted(*names):
        fields = [getattr(batch.tokens, k) for k in ("token", "value", "sigma", "wavelength")]
        for name in names:
            told = torch.full_like(batch.target[:, 0], vocabulary.tokens(name).item(), dtype=torch.int64)
            columns = told, more[name], torch.full_like(more[name], 0.05), torch.zeros(50, dtype=torch.float64)
            fields = [torch.cat((c[:, None], f), dim=1) for c, f in zip(columns, fields, strict=True)]
        with torch.inference_mode():
            return network.encode(type(batch.tokens)(*fields)).fitted

    place = LOOKING["readout_labels"].index("fe_h")
    nothing, known = fitted(), fitted("fe_h")
    torch.testing.assert_close(fitted("mg_fe"), nothing, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fitted("fe_h", "mg_fe"), known, rtol=1e-3, atol=1e-3)
    before, after = ((found[:, place] - more["fe_h"]).abs().median() for found in (nothing, known))
    assert after < 0.5 * before
    n_label = len(LOOKING["readout_labels"])
    assert (known[:, n_label + place] < nothing[:, n_label + place]).all()


def test_the_same_again(looking):
    """Fits come from the seed alone."""
    new, model, stream, how = looking
    again = with_readout(model, new.config, stream, how, 100)
    for name, tensor in new.torch_model.state_dict().items():
        torch.testing.assert_close(again.torch_model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_refusals(looking):
    """Sizes that do not fit the ranges, and ranges without stars, are named."""
    new, model, stream, how = looking
    with pytest.raises(ConfigError, match=r"fit_knots must have an integer above 1 for each of the readout_ranges"):
        tiny_config(**(LOOKING | {"fit_knots": (900, 900)}))
    with pytest.raises(ConfigError, match="fit_components must have an integer above 1"):
        tiny_config(**(LOOKING | {"fit_components": ()}))
    with pytest.raises(ConfigError, match="n_star must be a positive integer, not 0"):
        dataclasses.replace(how, n_star=0)
    elsewhere = dataclasses.replace(new.config, readout_ranges=(5000.0, 6000.0))
    with pytest.raises(TrainingError, match=r"readout: none of its sources has its stars in \(5000.0, 6000.0\)"):
        with_readout(model, elsewhere, stream, how, 100)


def test_doubt(looking):
    """Errors of spectra with other lines grow by the factor that is asked for, those of others hardly."""
    new, _, stream, how = looking
    batches = {name: stream.parts[name].source.batch(200, torch.Generator().manual_seed(5)) for name in stream.parts}

    def log_variance():
        told = {}
        for name, batch in batches.items():
            token = new.torch_model.readout.tokens.expand(200, -1)
            with torch.inference_mode():
                told[name] = new.torch_model.eval()(batch.tokens, token, torch.zeros(token.shape, dtype=torch.float64))[
                    1
                ]
        return told

    with pytest.raises(ConfigError, match="doubt has 3 factors, expected one for each of 2 fits"):
        load_recipe("base", {"readout": {"doubt": [2.0, 2.0, 2.0]}})
    with pytest.raises(ConfigError, match=r"doubt must be factors of 1 or more, not \(0.5,\)"):
        dataclasses.replace(how, doubt=(0.5,))
    before = log_variance()
    set_doubt(new, dataclasses.replace(how, doubt=(3.0,)))
    after = log_variance()
    new.torch_model.readout.fits[0].doubt.zero_()
    growth = {}
    for name in batches:
        small = before[name] < -2 * np.log(3.0)
        growth[name] = torch.exp(0.5 * (after[name] - before[name]))[small].median()
    assert growth["others"] > 2.0
    # to no more than labels scatter
    assert all((after[name] <= before[name].clamp(min=1e-4)).all() for name in batches)
    assert growth["stars"] < 1.3
