"""Spectra that are finer than those of the training, brought to what weights can read."""

from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from hypothesis import given
from hypothesis import strategies as st
from specutils import Spectrum

from spectrafm import Flag, SpectraFM
from spectrafm.adapters import from_arrays
from spectrafm.exceptions import InputValueError
from spectrafm.synthesis import load_emulator
from spectrafm.weights_info import Domain

FWHM = 2 * np.sqrt(2 * np.log(2))
CENTRE = 5000.0
WAVELENGTH = np.arange(4900.0, 5100.0, 0.02)


def line_star(power=40_000.0, told=np.nan, sigma=0.01, noise=None, wavelength=WAVELENGTH):
    """Return a spectrum with one Gaussian line of the width that an instrument gives it."""
    flux = 3.0 - 1.5 * np.exp(-0.5 * ((wavelength - CENTRE) / (CENTRE / power / FWHM)) ** 2)
    if noise is not None:
        flux = flux + sigma * np.random.default_rng(noise).normal(size=len(flux))
    return from_arrays(wavelength, flux, np.full_like(flux, sigma), resolving_power=told)[0]


def line_width(star):
    """Return equivalent width and full width at half maximum of the line."""
    depth = np.where(star.good, 1 - star.flux / 3.0, 0.0)
    step = np.gradient(star.wavelength)
    area = (depth * step).sum()
    return area, FWHM * np.sqrt((depth * step * (star.wavelength - CENTRE) ** 2).sum() / area)


@pytest.mark.parametrize("told", [np.nan, 40_000.0])
def test_line(told):
    """A line keeps its equivalent width and place, and has the width of the resolving power."""
    fine = line_star(told=told)
    star = fine.smoothed(5000.0)
    area, width = line_width(star)
    np.testing.assert_allclose(area, line_width(fine)[0], rtol=1e-3)
    # where its own resolving power is not known, it is blurred by all of the new one
    expected = 1.0 if np.isfinite(told) else np.hypot(1.0, CENTRE / 40_000)
    np.testing.assert_allclose(width, expected, rtol=0.02)
    np.testing.assert_allclose(star.wavelength[star.flux.argmin()], CENTRE, atol=0.5 * CENTRE / 15_000)
    np.testing.assert_allclose(np.diff(np.log(star.wavelength)), 1 / 15_000, rtol=1e-6)
    assert star.resolving_power == 5000.0 if np.isfinite(told) else np.isnan(star.resolving_power)
    assert star.good.all()


@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_bad_is_not_seen(seed):
    """Values of bad pixels do not matter; gaps stay gaps; the flux has the unit it had."""
    rng = np.random.default_rng(seed)
    star = line_star()
    good = (rng.random(len(star.good)) < 0.8) & (np.abs(star.wavelength - 4950) > 5)
    lost = replace(star, good=good, flux=np.where(good, star.flux, rng.choice([np.nan, 1e30])))
    found, whole = lost.smoothed(5000.0), star.smoothed(5000.0)
    np.testing.assert_allclose(found.flux[found.good], whole.flux[found.good], rtol=0.1)
    assert not found.good[np.abs(found.wavelength - 4950) < 4.8].any()
    assert found.good[(np.abs(found.wavelength - 4950) > 6.5) & (np.abs(found.wavelength - 5000) < 99)].all()
    scaled = replace(star, flux=1e-17 * star.flux, sigma=1e-17 * star.sigma).smoothed(5000.0)
    np.testing.assert_allclose(scaled.flux, 1e-17 * whole.flux)
    np.testing.assert_allclose(scaled.sigma, 1e-17 * whole.sigma)


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_scattered_bad_pixels_cost_nothing(share):
    """Masked pixels and pixels that are not there are the same, and between good ones nothing is lost."""
    star = line_star()
    good = np.random.default_rng(0).random(len(star.good)) > share
    masked = replace(star, good=good).smoothed(5000.0)
    cut = from_arrays(star.wavelength[good], star.flux[good], star.sigma[good])[0].smoothed(5000.0)
    assert masked.good.mean() > 0.99
    np.testing.assert_allclose(np.interp(cut.wavelength, masked.wavelength, masked.flux), cut.flux, rtol=1e-9)
    assert cut.good[2:-2].all()


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3])
def test_bad_is_the_same_as_cut_out(share):
    """Where pixels are hardly finer than those of the result, too, bad ones are the same as none."""
    rng = np.random.default_rng(0)
    wavelength = np.exp(np.arange(np.log(4000), np.log(7000), 1 / 9000))
    flux, good = 1 + 0.1 * rng.normal(size=len(wavelength)), rng.random(len(wavelength)) > share
    rows = {"wavelength": wavelength, "flux": flux, "sigma": 0.1 * flux}
    masked = from_arrays(**rows, mask=~good, resolving_power=3000)[0].smoothed(2000.0)
    cut = from_arrays(**{k: v[good] for k, v in rows.items()}, resolving_power=3000)[0].smoothed(2000.0)
    # but for what is at an end
    assert abs(masked.n_good - cut.n_good) <= 2
    np.testing.assert_allclose(np.interp(cut.wavelength, masked.wavelength, masked.flux)[2:-2], cut.flux[2:-2])


@pytest.mark.parametrize("step", [0.3, 0.8, 1.2])
def test_wide_pixels_are_no_gaps(step):
    """However wide pixels are, beside the cells that spectra are smoothed in, none of them is lost."""
    wavelength = np.arange(3900.0, 6800.0, step)
    star = from_arrays(wavelength, np.ones_like(wavelength), resolving_power=5000.0)[0].smoothed(2000.0)
    assert star.good[2:-2].all()
    np.testing.assert_allclose(star.flux[star.good], 1.0)


def test_errors():
    """Means over many pixels scatter as the errors say; where no errors are known, none are made up."""
    z = []
    for seed in range(40):
        star, truth = line_star(noise=seed).smoothed(5000.0), line_star().smoothed(5000.0)
        for some in np.array_split(np.arange(len(star.flux))[5:-5], 5):
            error = np.sqrt((star.sigma[some] ** 2).sum()) / len(some)
            z.append((star.flux[some] - truth.flux[some]).mean() / error)
    assert 0.85 < np.std(z) < 1.15
    bare = replace(star, sigma=np.full_like(star.sigma, np.nan)).smoothed(2000.0)
    assert np.isnan(bare.sigma).all()
    assert bare.good.all()


def test_sampling_alone():
    """At its own resolving power a spectrum is sampled anew, and not blurred; it cannot be made sharper."""
    star = line_star(power=5000.0, told=5000.0)
    area, width = line_width(star.smoothed(5000.0))
    np.testing.assert_allclose([area, width], line_width(star), rtol=0.03)
    with pytest.raises(InputValueError, match="expected at most that of the spectrum, 5000"):
        star.smoothed(6000.0)


@pytest.mark.parametrize(
    ("highest", "told", "step", "smoothed"),
    [
        (8000.0, np.nan, 0.02, True),
        (8000.0, np.nan, 0.3, False),
        (8000.0, 40_000.0, 0.3, True),
        (8000.0, 8000.0, 0.3, False),
        (8000.0, 40_000.0, 0.4, False),
        (8000.0, 3000.0, 0.3, True),
        (8000.0, 3000.0, 0.45, False),
        (np.inf, np.nan, 0.02, False),
    ],
)
def test_who_is_smoothed(highest, told, step, smoothed):
    """Spectra with finer pixels than any of the training, or known to be sharper; never where nothing is known.

    Pixels count by how many lie in a resolution element, where its width is known. Those as wide as half a
    resolution element have smoothed it already.
    """
    domain = Domain("optical", ("teff",), spacing_range=(3e-5, 1e-3), highest_power=highest)
    star = line_star(told=told, wavelength=np.arange(4900.0, 5100.0, step))
    found = domain.degraded(star)
    assert (found is not star) == smoothed
    assert domain.fits(star)[0] == (np.isfinite(highest) or step > 0.1)
    # once is enough
    assert domain.degraded(found) is found
    # of another kind, and without a pixel here
    assert replace_range(domain).degraded(star) is star


def replace_range(domain):
    """Return a domain of other wavelengths."""
    return replace(domain, wavelength_range=(15_000.0, 17_000.0))


@pytest.mark.parametrize(("weights", "step"), [("synthetic", 0.05), ("base", 0.05), ("base", 0.03)])
def test_labels_of_fine_spectra(weights, step, request):
    """A spectrum of an echelle spectrograph has the labels of the same star at low resolution, and is not flagged."""
    fm = SpectraFM.from_pretrained("base" if weights == "base" else request.getfixturevalue("synthetic_weights"))
    labels = {"teff": 5200.0, "logg": 3.0, "fe_h": -0.4}

    def star(wavelength, power):
        flux = load_emulator("optical").spectrum(**labels, spectral_axis=wavelength * u.AA, resolving_power=power).flux
        noise = 0.01 * np.random.default_rng(1).normal(size=len(wavelength))
        return Spectrum(flux + noise * flux.unit, wavelength * u.AA)

    fine, coarse = (fm.infer(star(np.arange(4000.0, 6800.0, d), p)) for d, p in ((step, 10_000), (0.8, 2500)))
    assert not fine["flag"][0] & (Flag.SAMPLING_MISMATCH | Flag.UNUSUAL_SPECTRUM | Flag.POOR_RECONSTRUCTION)
    for name, true in labels.items():
        for table in (fine, coarse):
            assert abs(table[name][0].value - true) < 3 * table[f"e_{name}"][0].value
        assert table[f"e_{name}"][0].value < 2 * coarse[f"e_{name}"][0].value
    embedding = fm.embed(star(np.arange(4000.0, 6800.0, step), 10_000))
    assert np.isfinite(embedding).all()
    [model] = fm.reconstruct(star(np.arange(4000.0, 6800.0, step), 10_000))
    assert len(model.flux) < 6000
    assert np.isfinite(model.flux.value).all()
