"""Arrays in files: what eight bits keep."""

import json

import numpy as np
import pytest
import torch

from spectrafm._storage import atomic_write, from_bytes, matrix_from_bytes, matrix_to_bytes, to_bytes, write_json
from spectrafm.exceptions import InputValueError
from spectrafm.synthesis._cache import write_npz
from spectrafm.weights_info import Domain, WeightsInfo


def components(n_component=6, n_pixel=400):
    """Return components ``(n_component, n_pixel)`` of very different sizes."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n_component, n_pixel, generator=generator) * 10.0 ** torch.arange(n_component)[:, None]


@pytest.mark.parametrize("dim", [0, 1])
def test_bytes(dim):
    """Each component has a scale of its own, and no number is off by more than a step."""
    values = components() if dim == 1 else components().T
    byte, scale = to_bytes(values, dim)
    assert byte.dtype == torch.int8
    assert byte.shape == values.shape
    assert scale.shape == ((6, 1) if dim == 1 else (1, 6))
    assert ((from_bytes(byte, scale) - values).abs() <= 1.001 * scale).all()


def test_smooth_sums():
    """Sums with smooth spectra are nearer to the truth than where each number is rounded by itself."""
    values = components()
    smooth = torch.stack([torch.cos(k * torch.linspace(0, 3, 400)) for k in range(10)], dim=1)
    byte, scale = to_bytes(values, 1)
    rounded = (values / scale).round() * scale
    errors = [((stored - values) @ smooth / scale).abs() for stored in (from_bytes(byte, scale), rounded)]
    assert errors[0].max() < 3
    assert errors[0].mean() < 0.2 * errors[1].mean()


def test_products_with_what_scatters():
    """Products with what scatters as told are nearer to the truth than where each number is rounded by itself."""
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(40, 40, generator=generator) * 10.0 ** torch.linspace(0, -3, 40)[:, None]
    vectors = torch.randn(500, 40, generator=generator) @ mixing
    values = torch.randn(7, 40, generator=generator)
    covariance = mixing.T @ mixing
    errors = [
        (vectors @ (matrix_from_bytes(*matrix_to_bytes(values, *known)) - values).T).std()
        for known in ((), (covariance,))
    ]
    assert errors[1] < 0.5 * errors[0]
    # and where nothing scatters, or all scatters alike, nothing is lost
    for flat in (torch.zeros(40, 40) + torch.eye(40), torch.ones(40, 40)):
        byte, scale = matrix_to_bytes(values, flat)
        assert ((matrix_from_bytes(byte, scale) - values).abs() <= 40 * scale.float()).all()


def test_extreme():
    """Components that are 0 stay so, the largest numbers fit, and none at all are none."""
    values = torch.cat((torch.zeros(1, 300), torch.ones(1, 300), -torch.ones(1, 300)))
    byte, scale = to_bytes(values, 1)
    torch.testing.assert_close(from_bytes(byte, scale), values)
    byte, scale = to_bytes(torch.zeros(0, 300), 1)
    assert from_bytes(byte, scale).shape == (0, 300)


def test_atomic_write(tmp_path):
    """A file that could not be written to its end leaves the one before, and nothing beside it."""
    path = tmp_path / "file"
    atomic_write(path, lambda temporary: temporary.write_text("whole"))

    def fail(temporary):
        temporary.write_text("ha")
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        atomic_write(path, fail)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_that_cannot_be_written(tmp_path, monkeypatch):
    """Nothing is left of a file of the cache that could not be written to its end."""
    path = write_npz(tmp_path / "inner" / "lines.npz", {"wavelength": np.arange(3.0)})
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["wavelength"], np.arange(3.0))

    def fail(stream, **arrays):
        stream.write(b"ha")
        raise OSError("full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="full"):
        write_npz(path, {"wavelength": np.arange(4.0)})
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(5, 256), (5, 3, 7), (4, 100)])
def test_matrix_bytes(shape):
    """Weights of a layer come back to half a step of their group, which is a part of the row where it can be."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 10.0 ** torch.arange(shape[0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    values[0] = 0.0
    byte, scale = matrix_to_bytes(values)
    assert (byte.dtype, byte.shape) == (torch.int8, values.shape)
    assert scale.shape == (shape[0], 2 if shape == (5, 256) else 1)
    error = (matrix_from_bytes(byte, scale) - values).abs().flatten(1)
    assert (error <= 0.501 * scale.float().repeat_interleave(error.shape[1] // scale.shape[1], dim=1)).all()
    assert error[0].max() == 0


@pytest.mark.parametrize("size", [1e-7, 1e-5, 1e-3, 1.0])
def test_matrices_of_any_size(size):
    """However small numbers are, the largest fits; those that no scale is for are refused."""
    values = size * torch.randn(4, 128, generator=torch.Generator().manual_seed(6))
    byte, scale = matrix_to_bytes(values)
    assert ((matrix_from_bytes(byte, scale) - values).abs() <= 0.501 * scale.float()).all()
    for wrong in (torch.nan, torch.inf, 1e9):
        values[1, 2] = wrong
        with pytest.raises(InputValueError, match="save them without compact=True"):
            matrix_to_bytes(values)


@pytest.mark.parametrize("size", [1e-5, 1.0, 300.0])
def test_rounded_once(size):
    """What was in eight bits before stays as it is, however often it is read and written."""
    values = size * torch.randn(40, 256, generator=torch.Generator().manual_seed(8))
    for pack, unpack in ((matrix_to_bytes, matrix_from_bytes), (lambda v: to_bytes(v, 1), from_bytes)):
        first = unpack(*pack(values))
        again = unpack(*pack(unpack(*pack(first))))
        assert (first - values).abs().max() > 1e-4 * size
        torch.testing.assert_close(again, first, rtol=1e-6, atol=0)


def test_json_is_json(tmp_path):
    """Files hold no numbers that other readers of JSON refuse."""
    write_json(tmp_path / "some.json", {"a": [1.5, "inf", None]})
    assert json.loads((tmp_path / "some.json").read_text()) == {"a": [1.5, "inf", None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "some.json", {"a": float("inf")})
    assert json.loads((tmp_path / "some.json").read_text())["a"][0] == 1.5


def test_facts_without_limits(tmp_path):
    """What has no limit has none when it was read again, from files of earlier versions too."""
    domain = Domain("far", ("teff",), wavelength_range=(4000.0, np.inf), label_ranges={"teff": (-np.inf, 7000.0)})
    domain.usual_errors = {"teff": np.nan}
    info = WeightsInfo(name="some", domains=(domain,))
    info.write(tmp_path / "spectrafm.json")
    text = (tmp_path / "spectrafm.json").read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    for written in (text, text.replace('"inf"', "Infinity").replace('"-inf"', "-Infinity").replace('"nan"', "NaN")):
        (tmp_path / "spectrafm.json").write_text(written)
        [read] = WeightsInfo.read(tmp_path / "spectrafm.json").domains
        assert read.wavelength_range == (4000.0, np.inf)
        assert read.label_ranges["teff"] == [-np.inf, 7000.0]
        assert read.highest_power == np.inf
        assert np.isnan(read.usual_errors["teff"])
