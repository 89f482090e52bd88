"""Numbers that stand for pixels without a measurement."""

import numpy as np
import pytest

from spectrafm._unmeasured import unmeasured


def noisy(n_pixel=600, snr=50.0, seed=0):
    """Return a flux ``(n_pixel,)`` with a slope, lines and noise."""
    x = np.linspace(0, 1, n_pixel)
    flux = 2.0 + x - 0.5 * np.exp(-(((x[:, None] - [0.2, 0.45, 0.8]) / 0.01) ** 2)).sum(axis=1)
    return flux * (1 + np.random.default_rng(seed).normal(size=n_pixel) / snr)


def found(flux):
    """Return the numbers of the pixels of a star that count as not measured."""
    flux = np.asarray(flux, dtype=float)
    # all stars of a block are judged by themselves
    block = np.stack((noisy(len(flux), seed=1), flux))
    judged = unmeasured(block, np.isfinite(block))
    assert not judged[0].any()
    return np.flatnonzero(judged[1])


@pytest.mark.parametrize("pixels", [slice(0, 40), slice(560, 600), slice(300, 308), slice(100, 400)])
@pytest.mark.parametrize("value", [None, 1.0, 0.0, -1.0, -9999.0])
def test_padding(pixels, value):
    """Spectra that were brought to a common range repeat a value at their ends, and gaps are filled with some value."""
    flux = noisy()
    flux[pixels] = flux[pixels.start] if value is None else value
    np.testing.assert_array_equal(found(flux), np.arange(600)[pixels])


def test_padding_of_rounded_numbers():
    """Where numbers repeat anyway, an end counts that repeats for far longer than others."""
    flux = np.round(noisy(), 2)
    flux[:100] = flux[100]
    np.testing.assert_array_equal(found(flux), np.arange(101))


def test_three_values():
    """Between arms there is one value, and at each end of a spectrum there may be another."""
    flux = noisy()
    flux[:20], flux[200:250], flux[400:450], flux[590:] = flux[20], 1.0, 1.0, flux[589]
    expected = np.r_[0:21, 200:250, 400:450, 589:600]
    np.testing.assert_array_equal(found(flux), expected)


def test_padding_after_what_is_not_finite():
    """An end of a spectrum is where its finite numbers end."""
    flux = noisy()
    flux[:30], flux[30:60] = np.nan, 2.2
    np.testing.assert_array_equal(found(flux), np.arange(30, 60))


def test_lines_across_gaps():
    """Interpolation across a gap, or beyond the end, makes a straight line, on axes even in the logarithm, too."""
    flux, axis = noisy(), np.exp(np.linspace(np.log(4000), np.log(4400), 600))
    missing = np.r_[200:260]
    there = np.setdiff1d(np.arange(600), missing)
    flux = np.interp(axis, axis[there], flux[there])
    judged = found(flux)
    assert np.isin(missing, judged).all()
    assert len(judged) <= len(missing) + 2
    judged = found(flux.astype(np.float32))
    assert np.isin(missing, judged).all()
    # a few pixels could be so by chance
    short = noisy()
    short[200:220] = np.linspace(2.0, 2.1, 20)
    assert not len(found(short))


def test_marks():
    """Zeros, and a negative number that comes again and again, are marks between pixels with flux."""
    flux = noisy()
    flux[[10, 11, 12, 300]] = 0.0
    flux[[50, 400, 500]] = -1.0
    # one negative number may be noise
    flux[450] = -0.5
    np.testing.assert_array_equal(found(flux), [10, 11, 12, 50, 300, 400, 500])


def test_zeros_side_by_side():
    """Zeros that stand in pairs are no sign of numbers that were rounded, however many there are."""
    flux = noisy()
    pairs = np.sort(np.random.default_rng(4).choice(np.arange(10, 590, 5), 40, replace=False))
    pairs = np.concatenate((pairs, pairs + 1))
    flux[pairs] = 0.0
    np.testing.assert_array_equal(found(flux), np.sort(pairs))


def test_no_flux():
    """Where a star has no flux, zeros are measurements."""
    flux = noisy()
    flux[:100] = np.abs(np.random.default_rng(2).normal(scale=1e-3, size=100))
    flux[[20, 40, 60]] = 0.0
    assert not len(found(flux))


@pytest.mark.parametrize(
    "flux",
    [
        np.minimum(noisy(), 2.4),
        np.ones(600),
        np.round(noisy(), 2),
        np.round(noisy() * 5),
        np.random.default_rng(3).poisson(4, 600),
        np.minimum(1.0, np.round(1 - 0.3 * np.exp(-(np.linspace(-9, 9, 600) ** 2)), 4)),
        np.linspace(1, 2, 600),
        40 * np.linspace(1, 1.1, 600) ** -3 * np.where(np.arange(600) // 3 == 100, 0.6, 1.0),
        3.0 - 1.5 * np.exp(-0.5 * (np.linspace(-100, 100, 600) ** 2)),
        (1 + 1e-3 * np.linspace(0, 1, 600)) * (1 - 0.5 * np.exp(-0.5 * (np.linspace(-100, 100, 600) ** 2))),
        1 - 0.3 * np.exp(-(np.linspace(-9, 9, 600) ** 2)),
        noisy(7),
        np.full(600, np.nan),
    ],
)
def test_measurements(flux):
    """Saturated, rounded, counted, continuum alone, without noise or short: all of it was measured."""
    assert not len(found(flux))


def test_nothing_at_all():
    """A spectrum of zeros has no pixel."""
    assert len(found(np.zeros(600))) == 600
