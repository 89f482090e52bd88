"""What the benchmark of few stars compares with, on stars whose labels are plain to see."""

from dataclasses import replace

import numpy as np
import pytest

from spectrafm import SpectraFM
from spectrafm.adapters import from_arrays
from spectrafm.benchmarks import benchmark_few_shot, few_shot, run_benchmark
from spectrafm.benchmarks.few_shot import FewShotStars, few_shot_report, few_shot_rivals
from spectrafm.benchmarks.networks import network_from_scratch, paper_config
from spectrafm.benchmarks.regressors import quadratic_cannon
from spectrafm.benchmarks.stars import OtherWorld
from spectrafm.exceptions import InputValueError
from spectrafm.stellarperceptron import ModelConfig

WAVELENGTH = np.exp(np.linspace(np.log(5600), np.log(5900), 300))


@pytest.fixture(scope="module")
def stars():
    """Return 140 stars with a line for each label."""
    rng = np.random.default_rng(3)
    labels = {
        "teff": rng.uniform(4200, 6800, 140),
        "logg": rng.uniform(1, 5, 140),
        "fe_h": np.where(np.arange(140) < 15, rng.uniform(-2.2, -1.1, 140), rng.uniform(-0.9, 0.4, 140)),
    }
    flux = np.ones((140, 300))
    for place, values in zip((5650, 5750, 5850), labels.values(), strict=True):
        depth = 0.3 + 0.2 * (values - values.mean()) / np.ptp(values)
        flux -= depth[:, None] * np.exp(-0.5 * ((WAVELENGTH - place) / 3) ** 2)
    flux += 0.0005 * rng.normal(size=flux.shape)
    return FewShotStars.normalized(list(from_arrays(WAVELENGTH, flux)), labels, lambda star: star)


@pytest.mark.parametrize("name", ["PCA + ridge", "gradient boosting", "quadratic Cannon"])
def test_quick_rivals_learn(stars, name):
    """Every rival tells labels of stars that it was not given better than their mean does."""
    pytest.importorskip("sklearn")
    few, rest = np.arange(15, 115), np.setdiff1d(np.arange(140), np.arange(15, 115))
    values, _ = few_shot_rivals()[name](stars.take(few), stars.take(rest))
    for k, limit in (("teff", 0.6), ("logg", 0.6), ("fe_h", 0.7)):
        truth = stars.labels[k][rest]
        assert np.sqrt(np.mean((values[k] - truth) ** 2)) < limit * np.std(truth)


def test_the_cannon_extrapolates(stars):
    """Lines that are linear in the labels are so beyond the stars that were given."""
    few = stars.take(np.arange(15, 140))
    values = quadratic_cannon(few.flux, few.labels, stars.flux[:15])
    assert np.sqrt(np.mean((values["fe_h"] - stars.labels["fe_h"][:15]) ** 2)) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("patch_size", [1, 64])
def test_networks_from_scratch(stars, patch_size):
    """Networks of the paper's kind and of ours learn something from a hundred stars."""
    patches = {"patch_width": 0.02, "patch_components": 32, "patch_dense": 64, "embedding_dim": 32}
    config = paper_config() if patch_size == 1 else ModelConfig(patch_size=64, **patches)
    few, rest = np.arange(15, 115), np.setdiff1d(np.arange(140), np.arange(15, 115))
    few = stars.take(few)
    values, sigmas = network_from_scratch(config, WAVELENGTH, few.flux, few.labels, stars.flux[rest])
    assert np.corrcoef(values["teff"], stars.labels["teff"][rest])[0, 1] > 0.5
    assert (sigmas["teff"] > 0).all()


def test_report(stars):
    """Errors are those of the stars that were not given, iron-poor ones apart."""
    seen = []

    def perfect_but_one(few, rest):
        seen.append((len(few), len(rest)))
        values = {k: v.copy() for k, v in rest.labels.items()}
        values["fe_h"][rest.labels["fe_h"] < -1] += 0.5
        return values, {k: np.full(len(rest), 0.3) for k in values}

    [line] = few_shot_report(stars, {"a method": perfect_but_one}, 100, 2)
    assert seen == [(100, 40)] * 2
    assert "0 /    0" in line
    assert "/ 0.500" in line
    [too_few] = few_shot_report(stars, {"a method": perfect_but_one}, 120, 2)
    assert "there are only 125" in too_few


def test_another_world():
    """All stars are changed alike: by the same response, the same missing lines and the same factors on depths."""
    sigma = np.full(300, 0.01)
    flat, half, lines = (from_arrays(WAVELENGTH, np.full(300, f), sigma)[0] for f in (1.0, 0.75, 0.5))
    world = OtherWorld(WAVELENGTH)
    moved = [world(star).flux / world.response for star in (flat, half, lines)]
    # what is taken from a star grows with the depth of its lines alone, whatever the star
    np.testing.assert_allclose(moved[0] - moved[1], moved[1] - moved[2], atol=1e-12)
    np.testing.assert_allclose(moved[0] - moved[2], 0.5 * world.depth)
    both = world(replace(lines, flux=np.where(np.arange(300) < 150, flat.flux, lines.flux))).flux / world.response
    np.testing.assert_array_equal(both, np.concatenate((moved[0][:150], moved[2][150:])))
    np.testing.assert_allclose(world(lines).sigma, sigma * world.response)
    np.testing.assert_array_equal(OtherWorld(WAVELENGTH)(lines).flux, world(lines).flux)
    assert np.std(world(lines).flux / world.response) > 2 * np.std(world(flat).flux / world.response)


def test_weights_lie_beside_the_package(tmp_path, monkeypatch):
    """Weights are looked for in the checkout, wherever the command is run; where there is none, that is told."""
    monkeypatch.chdir(tmp_path)
    if (few_shot._SYNTHETIC / "spectrafm.json").is_file():
        assert "optical" in next(benchmark_few_shot(tmp_path))
    monkeypatch.setattr(few_shot, "_SYNTHETIC", tmp_path / "weights" / "optical-synthetic")
    with pytest.raises(InputValueError, match=r"model: none is given, and there is no folder .*optical-synthetic; exp"):
        next(benchmark_few_shot(tmp_path))


def test_without_data(tmp_path):
    """A folder without stars is told."""
    with pytest.raises(ValueError, match="train.npz"):
        list(run_benchmark("few-shot", tmp_path, SpectraFM.from_pretrained().info.name))
