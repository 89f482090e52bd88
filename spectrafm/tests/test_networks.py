"""Plain networks that the model is compared with."""

import numpy as np
import pytest
import torch

from spectrafm.benchmarks.networks import GridNetwork, train_rival
from spectrafm.continuum import ContinuumNormalizer
from spectrafm.exceptions import InputValueError
from spectrafm.stellarperceptron import FitConfig, Vocabulary
from spectrafm.tests.fake_grid import LABELS, fake_emulator
from spectrafm.training import (
    EmulatorSource,
    ObservationConfig,
    ObservedSource,
    RequestConfig,
    StarStream,
    StreamPart,
    standardize,
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["perceptron", "convolutional"])
def test_rivals_learn(kind, monkeypatch):
    """In a few steps they tell the metallicity of a line spectrum better than its mean does; GPUs are not seeded."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    vocabulary = Vocabulary(["flux", *LABELS], flux=["flux"], log=["teff", "vmicro"])
    observation = ObservationConfig(
        resolving_power=20_000, nominal=1, power_spread=0, whole_range=1, snr=(100, 100), gaps=0, bad_pixels=0
    )
    stars = EmulatorSource(fake_emulator(), n_pool=400)
    source = ObservedSource(stars, vocabulary, ContinuumNormalizer(), observation, RequestConfig(flux_requests=0))
    standardize(vocabulary, [source])
    stream = StarStream({"lines": StreamPart(source)}, batch_size=64, n_validation=64)
    config = FitConfig(steps=60, batch_size=64, warmup_steps=5, learning_rate=2e-3, log_every=30, validation_every=60)
    rival = train_rival(kind, stream, vocabulary, config, n_pixel=512)
    assert not seeded
    assert rival.log[-1]["lines:mad_std_fe_h"] < 0.7
    spectra, truth, _ = source.examples(40, torch.Generator().manual_seed(5))
    values, errors = rival.infer(spectra)
    assert np.corrcoef(values["fe_h"], truth["fe_h"])[0, 1] > 0.7
    assert (errors["teff"] > 0).all()


def test_unknown_kind():
    """There are two of them."""
    with pytest.raises(InputValueError, match="kind: 'oracle'; expected one of perceptron, convolutional"):
        GridNetwork("oracle", (16_000, 16_100), 64, 3, 1)
