"""Tests of the normalisers: nothing that is no star may change what a star looks like."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from specutils import Spectrum

from spectrafm import SpectraFM
from spectrafm.adapters import SpectrumArrays, from_arrays, to_arrays
from spectrafm.continuum import (
    UNNORMALISED,
    ContinuumNormalizer,
    MedianScaler,
    _convolve,
    median_scale,
    normalizer_from_dict,
)
from spectrafm.exceptions import ConfigError, SpectraFMWarning
from spectrafm.flags import Flag


def star(n_pixel=4000, low=15100.0, high=17000.0, seed=1):
    """Return wavelengths, continuum and line spectrum of a made-up star."""
    rng = np.random.default_rng(seed)
    x = np.linspace(np.log(low), np.log(high), n_pixel)
    continuum = 3e-15 * np.exp(-2 * (x - x[0])) * (1 + 0.1 * np.sin(40 * (x - x[0])))
    lines = np.ones(n_pixel)
    for center in np.linspace(np.log(low), np.log(high), int(300 * (x[-1] - x[0]) / 0.12)):
        lines *= 1 - rng.uniform(0.1, 0.6) * np.exp(-0.5 * ((x - center) / 6e-5) ** 2)
    return np.exp(x), continuum, lines


def arrays_of(wavelength, flux, sigma=None, mask=None):
    """Return one star."""
    return from_arrays(wavelength, flux, sigma, mask)[0]


def test_normalized_flux_scatters_around_one():
    """Slope and response of the instrument are gone, the lines are not."""
    wavelength, continuum, lines = star()
    normal = ContinuumNormalizer()(arrays_of(wavelength, continuum * lines))
    assert_allclose(normal.flux / (lines / lines.mean()), 1, atol=0.04)
    assert normal.flux_unit == ""


@pytest.mark.parametrize("snr", [3, 20, 200])
def test_noise_does_not_move_the_continuum(snr):
    """The continuum of a noisy spectrum is that of the noiseless one, without bias, at any S/N."""
    wavelength, continuum, lines = star()
    flux, sigma = continuum * lines, continuum / snr
    rng = np.random.default_rng(snr)
    normalizer = ContinuumNormalizer()
    good = np.ones((30, len(flux)), dtype=bool)
    clean = normalizer.divisor(wavelength, flux[None], good[:1])
    noisy = normalizer.divisor(wavelength, flux + sigma * rng.normal(size=good.shape), good)
    in_sigmas = (noisy - clean) / sigma
    assert np.abs(in_sigmas).max() < 0.35  # at the very edges; 0.04 on average
    assert in_sigmas.std() < 0.06
    assert np.abs(in_sigmas.mean(axis=0)).max() < 0.06
    assert abs(in_sigmas.mean()) < 0.01


def test_two_signal_to_noise_ratios_agree():
    """The same star at S/N 20 and at S/N 200 is normalised alike, to well below the noise."""
    wavelength, continuum, lines = star()
    rng = np.random.default_rng(3)
    normalizer = ContinuumNormalizer()
    good = np.ones((1, len(wavelength)), dtype=bool)
    low, high = (
        normalizer.divisor(wavelength, (continuum * (lines + rng.normal(0, 1 / snr, len(lines))))[None], good)
        for snr in (20, 200)
    )
    assert np.abs(low / high - 1).max() < 0.3 / 20
    assert (low / high - 1).std() < 0.06 / 20


def test_errors_do_not_move_the_continuum():
    """Errors are divided and not looked at."""
    wavelength, continuum, lines = star(1000)
    rng = np.random.default_rng(0)
    first = ContinuumNormalizer()(arrays_of(wavelength, continuum * lines))
    sigma = continuum * rng.uniform(0.01, 1, len(wavelength))
    second = ContinuumNormalizer()(arrays_of(wavelength, continuum * lines, sigma))
    assert_array_equal(first.flux, second.flux)
    assert_allclose(second.sigma / sigma, second.flux / (continuum * lines), rtol=1e-12)
    assert np.isnan(first.sigma).all()
    assert first.flags & Flag.NO_UNCERTAINTY


@pytest.mark.parametrize("n_pixel", [2, 3, 50, 1000])
@pytest.mark.parametrize("span", [1e-4, 0.01, 0.1, 2.0])
def test_straight_lines_are_followed(n_pixel, span):
    """A straight line in ln(wavelength) becomes 1: up to the edges, at any sampling and length."""
    x = np.linspace(0, span, n_pixel)
    wavelength = 5000 * np.exp(x)
    normal = ContinuumNormalizer()(arrays_of(wavelength, 2 + x / 4))
    assert normal.good.all()
    assert_allclose(normal.flux, 1, atol=1e-3)


def test_sampling_does_not_matter():
    """The same star on a grid twice as fine has the same continuum."""
    wavelength, continuum, lines = star(8000)
    normalizer = ContinuumNormalizer()
    good = np.ones((1, 8000), dtype=bool)
    fine = normalizer.divisor(wavelength, (continuum * lines)[None], good)[0]
    half = normalizer.divisor(wavelength[::2], (continuum * lines)[None, ::2], good[:, ::2])[0]
    # lines of two pixels: what is left is which of them a grid hits
    assert_allclose(half / fine[::2], 1, atol=5e-3)


def test_gaps_do_not_throw_it_off():
    """Beside chip gaps, also where the flux there is garbage, the continuum is that without gaps."""
    wavelength, continuum, lines = star()
    good = np.ones(len(wavelength), dtype=bool)
    good[1200:1400], good[2500:2900] = False, False
    normalizer = ContinuumNormalizer()
    whole = normalizer.divisor(wavelength, continuum[None], np.ones_like(good)[None])[0]
    flux = np.where(good, continuum, 1e3)
    gappy = normalizer.divisor(wavelength, flux[None], good[None])[0]
    assert_allclose(gappy[good] / whole[good], 1, atol=0.01)
    assert_allclose(gappy[good] / continuum[good], 1, atol=0.02)


def test_masked_equals_nan_equals_dropped():
    """Bad pixels may be masked, NaN, or not there at all."""
    wavelength, continuum, lines = star(1500)
    flux = continuum * lines
    bad = np.random.default_rng(5).random(len(flux)) < 0.3
    normalizer = ContinuumNormalizer()
    masked = normalizer(arrays_of(wavelength, flux, mask=bad))
    nan = normalizer(arrays_of(wavelength, np.where(bad, np.nan, flux)))
    dropped = normalizer(arrays_of(wavelength[~bad], flux[~bad]))
    assert_array_equal(masked.good, ~bad)
    assert_array_equal(nan.good, ~bad)
    assert_allclose(masked.flux[~bad], dropped.flux, rtol=1e-12)
    assert_allclose(nan.flux[~bad], dropped.flux, rtol=1e-12)


def test_spikes_are_left_out():
    """Cosmic rays that nobody masked do not pull the continuum."""
    wavelength, continuum, lines = star()
    flux = continuum * lines
    rng = np.random.default_rng(2)
    normalizer = ContinuumNormalizer()
    good = np.ones((1, len(flux)), dtype=bool)
    flux = flux + continuum / 50 * rng.normal(size=len(flux))
    spiky = flux.copy()
    spiky[[300, 301, 1000, 2200, 3500]] *= [1e6, 1e4, 100, -30, 10]
    before, after = (normalizer.divisor(wavelength, some[None], good) for some in (flux, spiky))
    assert_allclose(after / before, 1, atol=2e-3)


@pytest.mark.parametrize("value", [9999.0, -9999.0, 1e30])
def test_numbers_that_stand_for_no_flux(value):
    """A pipeline's mark in one pixel that nobody masked costs that pixel, and no other."""
    wavelength, continuum, lines = star(1500)
    flux = continuum * lines
    marked = np.where(np.arange(1500) == 700, value, flux)
    plain, found = (ContinuumNormalizer()(arrays_of(wavelength, some)) for some in (flux, marked))
    assert_array_equal(np.flatnonzero(~found.good), [700])
    assert_allclose(found.flux[found.good], plain.flux[found.good], rtol=1e-3)


@settings(max_examples=20)
@given(exponent=st.floats(-30, 30), seed=st.integers(0, 1000))
def test_scale_does_not_matter(exponent, seed):
    """Flux in any unit gives the same normalised spectrum."""
    wavelength, _, lines = star(300)
    flux = lines + 0.05 * np.random.default_rng(seed).normal(size=300)
    for normalizer in (ContinuumNormalizer(), MedianScaler()):
        first, second = (normalizer(arrays_of(wavelength, flux * f)) for f in (1.0, 10.0**exponent))
        assert_allclose(first.flux, second.flux, rtol=1e-9)


def test_batch_mates_do_not_matter():
    """Each star of a batch, with spikes, gaps and axes of its own, comes out as it does alone."""
    rng = np.random.default_rng(8)
    wavelength, continuum, lines = star(800)
    axes = wavelength * rng.uniform(0.5, 2, (6, 1))
    flux = continuum * lines * rng.uniform(0.1, 10, (6, 1)) * (1 + 0.1 * rng.normal(size=(6, 800)))
    flux[2, 100] *= 1e5
    flux[3, 200:300] = np.nan
    good = rng.random(flux.shape) < 0.9
    good[4] = False
    for normalizer in (ContinuumNormalizer(), MedianScaler()):
        together = normalizer.divisor(axes, flux, good)
        for row in range(6):
            alone = normalizer.divisor(axes[row][None], flux[row][None], good[row][None])
            some = good[row] if together.shape[1] > 1 else slice(None)
            assert_allclose(together[row][some], alone[0][some], rtol=1e-12)


@pytest.mark.parametrize("normalizer", [ContinuumNormalizer(), MedianScaler()])
def test_nothing_good(normalizer):
    """Spectra without a good pixel, without any pixel, or below zero, end as such."""
    wavelength = np.linspace(4000.0, 5000.0, 100)
    for arrays in (
        arrays_of(wavelength, np.full(100, np.nan)),
        arrays_of(wavelength, np.ones(100), mask=np.ones(100, dtype=bool)),
        arrays_of(wavelength, np.full(100, -1.0), np.full(100, 0.1)),
        arrays_of(wavelength, np.zeros(100)),
        arrays_of(np.empty(0), np.empty(0)),
    ):
        normal = normalizer(arrays)
        assert normal.n_good == 0
        assert normal.flags & Flag.NO_GOOD_PIXELS
    unusable = SpectrumArrays.unusable("broken", "x")
    assert normalizer(unusable).flags == Flag.BAD_INPUT
    assert normalizer(unusable).problem == "broken"


@pytest.mark.parametrize("weights", ["base", "gaia_xp"])
def test_subtracted_continuum_is_told(weights):
    """Why no pixel is good of a spectrum without its continuum is said, and what to do; others have another reason."""
    fm = SpectraFM.from_pretrained(weights)
    low, high = fm.info.domains[-1].wavelength_range
    wavelength = np.linspace(low, high, 300)
    flux = 1 - 0.3 * np.exp(-0.5 * (np.arange(300) % 10) ** 2)
    stars = [*from_arrays(wavelength, np.stack((flux - 1, flux - 1.2, np.full(300, np.nan))), np.full((3, 300), 0.01))]
    told = f"3 of 4 rows are masked, .*; row 0: {UNNORMALISED}; row 1: {UNNORMALISED}$"
    with pytest.warns(SpectraFMWarning, match=told):
        table = fm.infer([*stars, *from_arrays(wavelength, flux, np.full(300, 0.01))])
    assert ((table["flag"] & Flag.NO_GOOD_PIXELS) != 0).tolist() == [True, True, True, False]


def test_negative_stretch_is_bad():
    """Where the continuum is not positive pixels are bad, elsewhere they stay good."""
    wavelength = np.exp(np.linspace(8, 8.5, 1000))
    flux = np.where(np.arange(1000) < 400, -1.0, 1.0)
    normal = ContinuumNormalizer()(arrays_of(wavelength, flux))
    assert not normal.good[:350].any()
    assert normal.good[450:].all()
    assert normal.flags & Flag.NO_GOOD_PIXELS == 0


def test_input_is_not_modified():
    """Normalising returns a new spectrum, also from read-only arrays."""
    wavelength, continuum, lines = star(500)
    arrays = arrays_of(wavelength, continuum * lines, continuum / 100)
    before = [array.copy() for array in (arrays.wavelength, arrays.flux, arrays.sigma, arrays.good)]
    for array in (arrays.wavelength, arrays.flux, arrays.sigma, arrays.good):
        array.flags.writeable = False
    for normalizer in (ContinuumNormalizer(), MedianScaler()):
        normal = normalizer(arrays)
        assert normal.identifier == arrays.identifier
        assert normal.snr == pytest.approx(arrays.snr)
    for array, old in zip((arrays.wavelength, arrays.flux, arrays.sigma, arrays.good), before, strict=True):
        assert_array_equal(array, old)


def test_median_scaler():
    """The median of the good pixels becomes 1; flux and error are divided alike."""
    flux = np.array([1.0, 2.0, np.nan, 100.0, 4.0, 6.0])
    arrays = arrays_of(np.arange(1.0, 7.0), flux, np.full(6, 0.3), np.arange(6) == 3)
    normal = MedianScaler()(arrays)
    assert_allclose(normal.flux, flux / 3)
    assert_allclose(normal.sigma, 0.1)
    assert_array_equal(normal.good, [True, True, False, False, True, True])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["f4", "f8"]))
def test_median_scale_is_numpy_s_median(seed, dtype):
    """The batched median is that of the good pixels of each star."""
    rng = np.random.default_rng(seed)
    flux = rng.normal(size=(3, 7)).astype(dtype)
    good = rng.random((3, 7)) < 0.6
    good[0] = False
    flux[2, 3] = np.nan
    found = median_scale(flux, good)
    assert found.shape == (3,)
    assert found.dtype == flux.dtype
    for row in range(3):
        some = flux[row][good[row] & np.isfinite(flux[row])]
        assert_array_equal(found[row], np.median(some) if len(some) else np.nan)
    assert median_scale(np.empty((2, 0)), np.empty((2, 0), dtype=bool)).shape == (2,)


@pytest.mark.parametrize("normalizer", [ContinuumNormalizer(width=0.05, clip=3), ContinuumNormalizer(), MedianScaler()])
def test_settings_travel(normalizer):
    """Settings survive JSON."""
    settings_ = json.loads(json.dumps(normalizer.to_dict()))
    assert normalizer_from_dict(settings_) == normalizer
    assert type(normalizer).from_dict(settings_) == normalizer
    assert normalizer_from_dict({"name": normalizer.name}) == type(normalizer)()


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"name": "spline"}, "'spline'; expected a dictionary with name one of continuum, median"),
        ("median", "'median'; expected a dictionary"),
        ({}, "None; expected"),
        ({"name": "median", "width": 1}, r"settings \['width'\]; expected name 'median'"),
        ({"name": "continuum", "width": 0}, "width=0; expected a number from 0.0001 to 10.0"),
        ({"name": "continuum", "clip": "two"}, "clip='two'"),
        ({"name": "continuum", "width": float("nan")}, "width=nan"),
    ],
)
def test_bad_settings(bad, text):
    """Bad settings are refused with what is expected."""
    with pytest.raises(ConfigError, match=text):
        normalizer_from_dict(bad)


def test_from_dict_of_the_other_kind():
    """A class does not take another's settings."""
    with pytest.raises(ConfigError, match="name 'median'"):
        ContinuumNormalizer.from_dict({"name": "median"})


def test_wavelengths_far_apart_cost_nothing():
    """A bad pixel at an absurd wavelength needs no memory."""
    wavelength = np.r_[1e-3, np.linspace(4000, 4100, 50), 1e12]
    arrays = arrays_of(wavelength, np.ones(52))
    arrays = replace(arrays, good=arrays.good & (np.arange(52) % 51 > 0))
    assert_allclose(ContinuumNormalizer()(arrays).flux[1:-1], 1)


def test_ten_thousand_pixels_take_milliseconds():
    """The cost per spectrum stays far below that of the model."""
    wavelength, continuum, lines = star(10_000)
    arrays = arrays_of(wavelength, continuum * lines)
    normalizer = ContinuumNormalizer()
    seconds = []
    for _ in range(5):
        start = time.process_time()
        normalizer(arrays)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.02


def test_real_apogee_files(shared_data):
    """Real spectra with chip gaps come out around 1 on every chip."""
    for file in sorted((shared_data / "apogee").glob("apStar-*.fits")):
        (arrays,) = to_arrays(Spectrum.read(file))
        normal = ContinuumNormalizer()(arrays)
        for low, high in ((15150, 15800), (15870, 16420), (16490, 16950)):
            chip = normal.good & (normal.wavelength > low) & (normal.wavelength < high)
            assert np.median(normal.flux[chip]) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("n_bin", [5, 64, 65, 300])
def test_convolution(n_bin):
    """Products of matrices, block by block, are the convolution."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, 3, n_bin, generator=generator, dtype=torch.float64)
    kernels = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(rows.reshape(6, 1, n_bin), kernels[:, None], padding=4)
    torch.testing.assert_close(_convolve(rows, kernels), expected.reshape(2, 3, 2, n_bin))
