"""Broadening, shifts and resampling of spectra on a logarithmic grid."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from spectrafm._spectral_units import SPEED_OF_LIGHT
from spectrafm.exceptions import InputValueError
from spectrafm.synthesis.instrument import (
    gaussian_transfer,
    macroturbulence_transfer,
    observe,
    rotation_transfer,
)

POWER, STEP, N_PIXEL = 50_000.0, 2.5, 2000
WAVELENGTH = 16_000.0 * np.exp(np.arange(N_PIXEL) * STEP / SPEED_OF_LIGHT)
SIGMA = SPEED_OF_LIGHT / POWER / np.sqrt(8 * np.log(2))


def _lines(power=POWER, velocity=0.0, at=WAVELENGTH):
    """Return two Gaussian lines of 6 and 9 km/s, ``(2, n)``, as an instrument of this resolving power shows them."""
    x = SPEED_OF_LIGHT * np.log(at / 16_000.0) - SPEED_OF_LIGHT * np.arctanh(velocity / SPEED_OF_LIGHT)
    instrument = SPEED_OF_LIGHT / power / np.sqrt(8 * np.log(2))
    flux = []
    for center, width in ((2400.3, 6.0), (2600.9, 9.0)):
        sigma = np.hypot(width, instrument)
        flux.append(1 - 0.5 * width / sigma * np.exp(-0.5 * ((x - center) / sigma) ** 2))
    return torch.tensor(np.array(flux))


def _width(flux):
    """Return equivalent widths in pixels."""
    return (1 - flux).sum(-1)


@pytest.mark.parametrize("changes", [{"resolving_power": 9000.0}, {"vsini": 40.0}, {"vmacro": 20.0}])
def test_equivalent_width_stays(changes):
    """Broadening makes a line shallower, not weaker."""
    before = _lines()
    after = observe(before, WAVELENGTH, POWER, **changes)
    torch.testing.assert_close(_width(after), _width(before), rtol=1e-9, atol=0)
    assert (after.amin(-1) > before.amin(-1) + 0.05).all()


def test_resolution_is_right():
    """A Gaussian line gets the width that convolution theory gives, at once or in two steps."""
    there = observe(_lines(), WAVELENGTH, POWER, resolving_power=22_500.0)
    torch.testing.assert_close(there, _lines(22_500.0), rtol=0, atol=1e-9)
    on_the_way = observe(_lines(), WAVELENGTH, POWER, resolving_power=30_000.0)
    again = observe(on_the_way, WAVELENGTH, 30_000.0, resolving_power=22_500.0)
    torch.testing.assert_close(again, there, rtol=0, atol=1e-9)


def test_the_base_resolution_changes_nothing():
    """What is asked for as it is comes back as it is, and so do velocities of zero."""
    zero = torch.zeros(2, dtype=torch.float64)
    after = observe(_lines(), WAVELENGTH, POWER, resolving_power=POWER, vsini=zero, vmacro=zero, radial_velocity=zero)
    torch.testing.assert_close(after, _lines(), rtol=0, atol=1e-12)
    torch.testing.assert_close(observe(_lines(), WAVELENGTH, POWER, at=WAVELENGTH), _lines(), rtol=0, atol=1e-9)


@given(st.floats(-400, 400))
def test_shift_and_back(velocity):
    """A shift puts lines where Doppler has them, and its opposite puts them back."""
    shifted = observe(_lines(), WAVELENGTH, POWER, radial_velocity=velocity)
    torch.testing.assert_close(shifted, _lines(velocity=velocity), rtol=0, atol=1e-4)
    back = observe(shifted, WAVELENGTH, POWER, radial_velocity=-velocity)
    torch.testing.assert_close(back, _lines(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("power", "error"), [(None, 2e-3), (22_500.0, 1e-4), (10_000.0, 5e-6)])
def test_interpolation(power, error):
    """Between the pixels of the grid the flux is right to much less than a per cent."""
    at = np.linspace(16_010.0, 16_250.0, 1777)
    found = observe(_lines(), WAVELENGTH, POWER, resolving_power=power, at=at)
    torch.testing.assert_close(found, _lines(power or POWER, at=at), rtol=0, atol=error)


def test_batch_is_as_single():
    """Each star of a batch has its own parameters and pixels, and knows nothing of the others."""
    flux = _lines()
    rows = {
        "resolving_power": torch.tensor([20_000.0, 45_000.0]),
        "vsini": torch.tensor([3.0, 60.0]),
        "vmacro": torch.tensor([0.0, 5.0]),
        "radial_velocity": torch.tensor([-100.0, 33.0]),
    }
    at = np.array([np.linspace(16_100.0, 16_150.0, 99), np.linspace(16_120.0, 16_170.0, 99)])
    together = observe(flux, WAVELENGTH, POWER, **rows, at=at)
    for star in range(2):
        alone = {name: values[star].item() for name, values in rows.items()}
        single = observe(flux[star], WAVELENGTH, POWER, **alone, at=at[star])
        torch.testing.assert_close(together[star], single, rtol=0, atol=1e-5)


def test_precision():
    """Single precision is good to 1e-5; half precision is computed in single."""
    changes = {"resolving_power": 22_500.0, "vsini": 10.0, "radial_velocity": 250.0, "at": WAVELENGTH[100:-100:3]}
    double = observe(_lines(), WAVELENGTH, POWER, **changes)
    single = observe(_lines().float(), WAVELENGTH, POWER, **changes)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=3e-5)
    half = observe(_lines().half(), WAVELENGTH, POWER, **changes)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), double, rtol=0, atol=2e-3)


# what torch itself loads for derivatives in forward mode
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_slopes():
    """Slopes in every parameter are those of small differences, at zero and at the base resolution too."""
    flux = _lines()[:, 700:1300]

    def function(flux, power, vsini, vmacro, velocity):
        return observe(
            flux,
            WAVELENGTH[700:1300],
            POWER,
            resolving_power=power,
            vsini=vsini,
            vmacro=vmacro,
            radial_velocity=velocity,
            at=WAVELENGTH[900:1100:17],
        )

    inside = [torch.tensor(v, dtype=torch.float64) for v in ([2e4, 3e4], [5.0, 50.0], [2.0, 9.0], [3.0, -40.0])]
    point = [flux, *inside]
    generator = torch.Generator().manual_seed(0)
    tangent = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in point]
    _, slope = torch.func.jvp(function, tuple(point), tuple(tangent))
    ahead, behind = (function(*(p + sign * 1e-5 * t for p, t in zip(point, tangent, strict=True))) for sign in (1, -1))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-7)
    edge = [torch.tensor([v, v], dtype=torch.float64, requires_grad=True) for v in (POWER, 0.0, 0.0, 0.0)]
    function(flux, *edge).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in edge)


@pytest.mark.parametrize("vsini", [4.0, 55.0, 300.0])
def test_rotation_profile(vsini):
    """The tabulated transform is that of Gray's profile, integrated numerically."""
    f = np.linspace(0, 0.5, 60)
    # x = sin(angle) takes the steep ends out
    angle = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
    cosine = np.cos(angle)
    profile = (2 * 0.4 * cosine + 0.5 * np.pi * 0.6 * cosine**2) / (np.pi * (1 - 0.2)) * cosine
    expected = trapezoid(profile * np.cos(2 * np.pi * f[:, None] * vsini * np.sin(angle)), angle, axis=1)
    np.testing.assert_allclose(rotation_transfer(torch.from_numpy(f), torch.tensor(vsini)).numpy(), expected, atol=1e-6)


def test_macroturbulence_profile():
    """The transform is the mean over the disc of those of the radial and tangential motions."""
    f = torch.linspace(0, 0.3, 40, dtype=torch.float64)
    angle = np.linspace(0, np.pi / 2, 4001)
    part = [np.exp(-((np.pi * f.numpy()[:, None] * 5.0 * g) ** 2)) for g in (np.cos(angle), np.sin(angle))]
    expected = trapezoid((part[0] + part[1]) * np.sin(angle) * np.cos(angle), angle, axis=1)
    np.testing.assert_allclose(macroturbulence_transfer(f, torch.tensor(5.0)).numpy(), expected, atol=1e-6)


@given(st.floats(0, 400), st.floats(0, 40), st.floats(0, 1e4))
def test_transfers_take_nothing_and_add_nothing(vsini, vmacro, variance):
    """Transfer functions are 1 at zero frequency and nowhere above."""
    f = torch.linspace(0, 0.5, 50, dtype=torch.float64)
    for transfer in (
        rotation_transfer(f, torch.tensor(vsini)),
        macroturbulence_transfer(f, torch.tensor(vmacro)),
        gaussian_transfer(f, torch.tensor(variance)),
    ):
        np.testing.assert_allclose(transfer[0].item(), 1, rtol=1e-12)
        assert transfer.abs().max() <= 1 + 1e-9


def test_continuum_stays():
    """A spectrum without lines has none afterwards, up to its ends."""
    flat = torch.ones(1, N_PIXEL)
    after = observe(flat, WAVELENGTH, POWER, resolving_power=5000.0, vsini=100.0, radial_velocity=200.0)
    torch.testing.assert_close(after, flat, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolving_power": 60_000.0}, "resolving_power: 60000; expected a positive number up to 50000"),
        ({"resolving_power": -1.0}, "resolving_power: -1; expected a positive number"),
        ({"resolving_power": torch.tensor([1e4, float("nan")])}, "resolving_power: nan"),
        ({"vsini": -2.0}, "vsini: -2; expected a velocity of 0 km/s or more"),
        ({"vmacro": -2.0}, "vmacro: -2; expected a velocity"),
        ({"radial_velocity": 3e5}, "radial_velocity: 300000; expected a speed below that of light"),
        (
            {"vsini": torch.ones(3)},
            r"vsini: shape \(3,\) for spectra of shape \(2, 2000\); expected a number or \(2,\)",
        ),
        ({"at": [15_000.0]}, "at: 15000; expected wavelengths from 16000.00 to 16268.95 Angstrom"),
        ({"at": np.ones((3, 4))}, r"at: shape \(3, 4\) for spectra of shape \(2, 2000\)"),
    ],
)
def test_what_cannot_be(changes, message):
    """Parameters that make no sense are told with their name, value and range."""
    with pytest.raises(InputValueError, match=message):
        observe(_lines(), WAVELENGTH, POWER, **changes)


@pytest.mark.parametrize("wavelength", [np.linspace(15_000, 17_000, N_PIXEL), WAVELENGTH[::-1], WAVELENGTH[:-1]])
def test_grids_that_are_not_even(wavelength):
    """Wavelengths that are not even in the logarithm, falling, or of another number are refused."""
    with pytest.raises(InputValueError, match="wavelength: "):
        observe(_lines(), wavelength, POWER, resolving_power=1e4)
