"""A device without float64 is asked for none."""

import numpy as np
import pytest
import torch

from spectrafm import SpectraFM
from spectrafm.adapters import from_arrays
from spectrafm.explanation import label_sensitivity
from spectrafm.stellarperceptron import FitConfig, TableStream
from spectrafm.stellarperceptron.precision import float64, float64_device
from spectrafm.tests.fake_mps import FakeMps, send
from spectrafm.tests.tiny import WAVELENGTH, tiny_model, tiny_table
from spectrafm.weights_info import Domain, WeightsInfo

KINDS = {
    "pixels": {"patch_size": 1, "context_length": 80},
    "patches": {"patch_levels": 3},
    "interpolated": {"patch_knots": "interpolate", "readout_labels": ("teff",)},
    "fits": {
        "readout_labels": ("teff",),
        "readout_ranges": (3900.0, 9100.0),
        "fit_knots": (200,),
        "fit_components": (6,),
        "fit_dense": (16,),
    },
    "opinion": {
        "opinion_labels": ("teff",),
        "opinion_flux": "flux",
        "opinion_range": (3900.0, 9100.0),
        "opinion_knots": 200,
        "opinion_components": 6,
        "opinion_dense": (16,),
    },
}


def test_fake():
    """What stands for the device refuses what that would refuse."""
    with FakeMps():
        there = torch.zeros(3, device="mps")
        assert there.device.type == (2 * there).device.type == "mps"
        assert there.cpu().double().device.type == "cpu"
        with pytest.raises(TypeError, match="mps has no float64"):
            there.double()
        with pytest.raises(TypeError, match="mps has no float64"):
            there.to("cpu", torch.float64)
        with pytest.raises(TypeError, match="to NumPy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="tensors of mps and of the CPU"):
            there + torch.ones(3)
        assert float64(there).dtype == torch.float64
        assert float64(there).device == float64_device("mps") == torch.device("cpu")
    assert float64_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_answers(kind):
    """Labels, fluxes, attention and the whitening of patches are those of the CPU."""
    table, names = tiny_table(4), ["teff", "flux"]

    def answers(model):
        model.fit_patches(TableStream(model, table, ["teff"], FitConfig(batch_size=4)))
        perception = model.perceive(table.flux, ["flux"] * 60, WAVELENGTH, need_attention=True)
        answer = model.request(perception, names, [0.0, 5000.0])
        return (*answer, model.request_attention(perception, names, [0.0, 5000.0]), perception.pooled)

    expected = answers(tiny_model(**KINDS[kind]))
    model = send(tiny_model(**KINDS[kind]))
    with FakeMps():
        found = answers(model)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_sensitivity(kind):
    """Gradients are those of the CPU."""
    domain = Domain(name="tiny", labels=("teff", "logg"), wavelength_range=(3950.0, 9050.0))
    fm = SpectraFM(tiny_model(**KINDS[kind]), WeightsInfo(name="tiny", domains=(domain,)))
    stars = [fm.prepare(star, 0) for star in from_arrays(WAVELENGTH, tiny_table(2).flux)]
    expected = label_sensitivity(fm, stars, 0, ["teff"])
    send(fm.model)
    with FakeMps():
        found = label_sensitivity(fm, stars, 0, ["teff"])
    for one, other in zip(found, expected, strict=True):
        # sums of large numbers of both signs are rounded to digits of these
        np.testing.assert_allclose(one[2], other[2], rtol=1e-4, atol=1e-5 * np.abs(other[2]).max())
