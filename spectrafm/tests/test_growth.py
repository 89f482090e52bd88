"""Larger networks answer as the smaller ones that they start from, until they are trained."""

import dataclasses

import numpy as np
import pytest
import torch

from spectrafm.exceptions import ConfigError
from spectrafm.stellarperceptron import StellarPerceptron, Vocabulary
from spectrafm.stellarperceptron.growth import copies
from spectrafm.tests.tiny import WAVELENGTH, tiny_config, tiny_model

SMALL = {"norm_first": True, "patch_knots": "interpolate", "patch_convolutions": (6, 4), "patch_levels": 2}
LARGE = {
    "embedding_dim": 64,
    "wavelength_channels": 32,
    "encoder_heads": (8, 4, 2),
    "encoder_dense": (96, 64, 30),
    "decoder_heads": (8,),
    "decoder_dense": (144,),
    "head_dense": (64,),
    "patch_dense": 96,
    "patch_convolutions": (12, 12),
}


def answers(model):
    """Return what a model says of three stars with a quantity beside their spectra."""
    flux = 1 + 0.1 * np.sin(WAVELENGTH / 300 + np.arange(3)[:, None])
    inputs = np.concatenate((flux, [[11.0]] * 3), axis=1)
    names, at = ["flux"] * len(WAVELENGTH) + ["k_mag"], np.append(WAVELENGTH, 0.0)
    memory = model.perceive(inputs, names, at, np.full(inputs.shape, 0.02))
    return np.stack(model.request_standardized(memory, ["teff", "logg"])[1:])


def larger(model, **changes):
    """Return an untrained model, larger than another."""
    return StellarPerceptron(dataclasses.replace(model.config, **(LARGE | changes)), model.vocabulary, seed=4)


@pytest.mark.parametrize("changes", [{}, {"patch_place": "modulate"}, {"patch_knots": "sum"}, {"norm_first": False}])
def test_same_answers(changes):
    """Growth changes no answer, and copies are told apart."""
    model = tiny_model(**(SMALL | changes))
    # where sums are normalised last, a block that does nothing is not silent
    fewer = {"encoder_heads": (8, 4), "encoder_dense": (96, 64)} if "norm_first" in changes else {}
    grown = larger(model, **fewer)
    assert abs(answers(grown) - answers(model)).max() > 0.01
    grown.start_from(model)
    np.testing.assert_allclose(answers(grown), answers(model), atol=2e-5)
    before, after = (m.torch_model.torch_encoder.blocks[0] for m in (model, grown))
    read, written = after.dense_1.weight.detach(), after.dense_2.weight.detach()
    torch.testing.assert_close(read[:, :32] + read[:, 32:], before.dense_1.weight.detach().repeat(2, 1))
    assert not torch.allclose(read[:, :32], read[:, 32:])
    assert not torch.allclose(written[:, :48], written[:, 48:])


def test_same_size():
    """A model of the same size gets the very weights; the one that is started from stays as it is."""
    model = tiny_model(**SMALL)
    before = {k: v.clone() for k, v in model.torch_model.state_dict().items()}
    again = StellarPerceptron(model.config, model.vocabulary, seed=9)
    again.start_from(model)
    for name, tensor in again.torch_model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
        torch.testing.assert_close(model.torch_model.state_dict()[name], before[name], rtol=0, atol=0)


def test_readout():
    """A readout is not grown: that of a larger network starts with no say; one of the same size is taken over."""
    model = tiny_model(**SMALL, readout_labels=("teff", "logg"), readout_dense=8)
    silent = StellarPerceptron(model.config.decoder_alone(), model.vocabulary)
    silent.start_from(model)
    grown = larger(model)
    grown.start_from(model)
    np.testing.assert_allclose(answers(grown), answers(silent), atol=2e-5)
    again = StellarPerceptron(model.config, model.vocabulary, seed=9)
    again.start_from(model)
    np.testing.assert_array_equal(answers(again), answers(model))
    assert abs(answers(again) - answers(silent)).max() > 0.01


def test_opinion():
    """A second opinion is taken over as it is, if it sees and tells the same; one that is not is not heard."""
    opinion = {"opinion_labels": ("teff",), "opinion_flux": "flux", "opinion_range": (3990.0, 9010.0)}
    opinion |= {"opinion_knots": 80, "opinion_components": 8, "opinion_dense": (8,)}
    model = tiny_model(**SMALL, **opinion)
    silent = StellarPerceptron(model.config.decoder_alone(), model.vocabulary)
    silent.start_from(model)
    again = StellarPerceptron(model.config, model.vocabulary, seed=9)
    again.start_from(model)
    np.testing.assert_array_equal(answers(again), answers(model))
    assert abs(answers(again) - answers(silent)).max() > 0.01
    other = StellarPerceptron(dataclasses.replace(model.config, opinion_dense=(4,)), model.vocabulary, seed=9)
    other.start_from(model)
    np.testing.assert_allclose(answers(other), answers(silent), atol=2e-3)


def test_new_convolutions():
    """Convolutions that the smaller network does not have start with no say."""
    model = tiny_model(norm_first=True)
    grown = StellarPerceptron(tiny_config(norm_first=True, patch_convolutions=(4, 4)), model.vocabulary, seed=2)
    grown.start_from(model)
    np.testing.assert_allclose(answers(grown), answers(model), atol=1e-6)


def test_last_convolution():
    """Copies of channels that have no say in an untrained network are told apart, too."""
    model = tiny_model(norm_first=True, patch_convolutions=(4,))
    grown = StellarPerceptron(tiny_config(norm_first=True, patch_convolutions=(8,)), model.vocabulary, seed=2)
    grown.start_from(model)
    np.testing.assert_allclose(answers(grown), answers(model), atol=1e-5)
    first, second = grown.torch_model.patch_layer.dense_convolved.weight.detach().chunk(2, dim=1)
    assert not torch.allclose(first, second)


def test_other_names():
    """Weights for other names are refused."""
    model = tiny_model(**SMALL)
    names = ["flux", "logg", "teff", "k_mag"]
    other = StellarPerceptron(model.config, Vocabulary(names, flux=["flux"], log=["teff"]))
    with pytest.raises(ConfigError, match=r"other: its names are .*'teff', 'logg'.*, expected .*'logg', 'teff'"):
        other.start_from(model)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"patch_dense": 50}, "patch_dense 50 is no multiple of 48"),
        ({"wavelength_channels": 0}, "wavelength_channels must be 32, not 64"),
        (
            {"encoder_heads": (4, 2, 2)},
            r"encoder_heads must be 2 times \[4, 2\], as embedding_dim is, so that heads stay",
        ),
        (
            {"decoder_heads": (8, 8), "decoder_dense": (144, 50), "head_dense": (64, 8)},
            "head_dense has 2 entries, not 1",
        ),
        ({"encoder_heads": (8,), "encoder_dense": (96,)}, "encoder_dense has 1 entries, not 2"),
        ({"head_dense": (64, 64)}, "head_dense has 2 entries, not 1"),
        ({"norm_first": False}, "encoder_heads has 3 entries, not 2: more need norm_first"),
        ({"patch_size": 32}, "patch_size is 32, not 16"),
    ],
)
def test_no_larger_edition(changes, match):
    """What cannot be grown is refused, with all reasons, before anything is trained."""
    model = tiny_model(**SMALL)
    with pytest.raises(ConfigError, match=match):
        copies(model.config, dataclasses.replace(model.config, **(LARGE | changes)))


def test_wavelength_channels():
    """The encoding of wavelengths is repeated; numbers of channels that do not fit are refused."""
    model = larger(tiny_model(**SMALL))
    encoded = model.torch_model._encode(torch.tensor([5000.0, 0.0], dtype=torch.float64), torch.zeros(1))
    assert encoded.shape == (2, 64)
    torch.testing.assert_close(encoded[:, :32], encoded[:, 32:], rtol=0, atol=0)
    for wrong in (24, 3, -2):
        with pytest.raises(ConfigError, match="wavelength_channels must be even and divide embedding_dim 32, or be 0"):
            tiny_config(wavelength_channels=wrong)
