"""Tests of the adapters: every holder of spectra, every unit, every kind of error."""

import pickle
import time
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.constants import c, h
from astropy.coordinates import SpectralCoord
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty
from astropy.table import Column, MaskedColumn, Table
from astropy.utils.exceptions import AstropyDeprecationWarning
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from specutils import Spectrum, SpectrumCollection, SpectrumList
from specutils.utils.wcs_utils import vac_to_air

from spectrafm import _spectral_units
from spectrafm._spectral_units import air_to_vacuum, doppler_factor, flux_rule
from spectrafm.adapters import MASK_POLICIES, SpectrumArrays, from_arrays, to_arrays
from spectrafm.core import SpectraFM
from spectrafm.datasets import load_example_spectrum
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.flags import Flag

N_PIXEL = 12
WAVELENGTH = np.linspace(5000.0, 6000.0, N_PIXEL)
FLUX = 1 + 0.1 * np.sin(np.arange(N_PIXEL))
SIGMA = np.linspace(0.01, 0.02, N_PIXEL)
FLAM = u.Unit("erg / (Angstrom s cm2)")


def make(flux=FLUX, axis=None, sigma=SIGMA, unit=u.one, **keywords):
    """Return a Spectrum."""
    axis = WAVELENGTH * u.AA if axis is None else axis
    uncertainty = StdDevUncertainty(sigma) if isinstance(sigma, np.ndarray) else sigma
    return Spectrum(flux=flux * unit, spectral_axis=axis, uncertainty=uncertainty, **keywords)


def one(spectrum, **keywords):
    """Return the only star."""
    (arrays,) = to_arrays(spectrum, **keywords)
    return arrays


def assert_same(first, second, rtol=1e-12):
    """Check that two stars hold the same numbers."""
    for name in ("wavelength", "flux", "sigma"):
        assert_allclose(getattr(first, name), getattr(second, name), rtol=rtol, err_msg=name)
    assert_array_equal(first.good, second.good)
    assert first.flags == second.flags


def test_plain_spectrum():
    """A plain spectrum comes through as it is."""
    arrays = one(make())
    assert_array_equal(arrays.wavelength, WAVELENGTH)
    assert_array_equal(arrays.flux, FLUX)
    assert_array_equal(arrays.sigma, SIGMA)
    assert arrays.good.all()
    assert (arrays.flags, arrays.problem, arrays.flux_unit, arrays.identifier) == (0, "", "", "0")
    assert arrays.counts == {
        "n_pixel": N_PIXEL,
        "n_good": N_PIXEL,
        "n_masked": 0,
        "n_bits": 0,
        "n_nonfinite_flux": 0,
        "n_filled": 0,
        "n_bad_sigma": 0,
    }
    assert arrays.has_sigma
    assert np.isnan(arrays.resolving_power)
    assert arrays.snr == pytest.approx(np.median(FLUX / SIGMA))


@pytest.mark.parametrize("unit", ["nm", "um", "m", "Hz", "THz", "eV", "J", "1 / cm", "1 / um"])
@pytest.mark.parametrize("turned", [False, True])
def test_spectral_units_and_order(unit, turned):
    """Any spectral unit in any order gives the same wavelengths, fluxes and errors."""
    axis = (WAVELENGTH * u.AA).to(unit, u.spectral())
    turn = slice(None, None, -1 if turned else 1)
    mask = np.arange(N_PIXEL) == 3
    arrays = one(make(FLUX[turn], axis[turn], SIGMA[turn], mask=mask[turn]))
    assert_same(arrays, one(make(mask=mask)))


@pytest.mark.parametrize("convention", ["optical", "radio", "relativistic", None])
def test_velocity_axis(convention):
    """An axis in km/s is converted with its rest value; without a convention it is relativistic."""
    rest = 6562.8 * u.AA
    doppler = {"optical": u.doppler_optical, "radio": u.doppler_radio}.get(convention, u.doppler_relativistic)
    axis = np.linspace(-3000, 3000, N_PIXEL) * u.km / u.s
    arrays = one(make(axis=axis, rest_value=rest, velocity_convention=convention))
    assert_allclose(arrays.wavelength, axis.to_value(u.AA, doppler(rest)))


@pytest.mark.parametrize(
    ("axis", "text"),
    [
        (np.arange(N_PIXEL) * u.pix, "in 'pix', which does not tell wavelengths"),
        (np.linspace(-9, 9, N_PIXEL) * u.km / u.s, "without a rest wavelength"),
        ((WAVELENGTH - 5500) * u.AA, "not all finite and positive"),
        (np.sort(np.r_[WAVELENGTH[:-1], WAVELENGTH[3]]) * u.AA, "wavelengths repeat"),
    ],
)
def test_unusable_axis(axis, text):
    """An axis without wavelengths raises when alone and costs only its own row in a list."""
    bad = make(axis=axis)
    with pytest.raises(InputValueError, match=text):
        to_arrays(bad)
    first, second = to_arrays([make(), bad])
    assert first.flags == 0
    assert second.flags == Flag.BAD_INPUT
    assert text in second.problem
    assert second.wavelength.shape == second.good.shape == (0,)
    assert second.counts["n_pixel"] == 0
    assert np.isnan(second.snr)


@pytest.mark.parametrize("unit", ["Jy", "mJy", "W / (m2 Hz)", "erg / (s cm2 Hz)", "photon / (s cm2 Hz)", "solLum / Hz"])
@pytest.mark.parametrize("axis_unit", ["nm", "GHz"])
def test_flux_per_frequency(unit, axis_unit):
    """Fluxes per frequency become fluxes per wavelength, as astropy converts them, and so do errors."""
    axis = (WAVELENGTH * u.AA).to(axis_unit, u.spectral())
    arrays = one(make(axis=axis, unit=u.Unit(unit)))
    for ours, given_ in ((arrays.flux, FLUX), (arrays.sigma, SIGMA)):
        expected = (given_ * u.Unit(unit)).to_value(arrays.flux_unit, u.spectral_density(WAVELENGTH * u.AA))
        assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("unit", "factor", "name"),
    [
        (u.Jy / u.beam, 2.99792458e-5, "erg / (Angstrom s cm2 beam)"),
        (u.MJy / u.sr, 2.99792458e1, "erg / (Angstrom s cm2 rad2)"),
        (FLAM, 1.0, "erg / (Angstrom s cm2)"),
        (1e-17 * FLAM, 1.0, "1e-17 erg / (Angstrom s cm2)"),
        (u.ct, 1.0, "ct"),
        (u.erg, 1.0, "erg"),
        (u.percent, 0.01, ""),
        (u.def_unit("arbitrary units"), 1.0, ""),
        (u.Unit("wibble", parse_strict="silent"), 1.0, "wibble"),
        (u.electron / u.s, 1.0, "electron / s"),
        (u.ph / u.s / u.cm**2, 1.0, "ph / (s cm2)"),
        (u.erg / u.s / u.cm, 1.0, "erg / (s cm)"),
        (None, 1.0, ""),
    ],
)
def test_flux_rule(unit, factor, name):
    """Flux densities per frequency are recognised beside beams and angles; other units are left alone."""
    unit = u.Unit(unit) if isinstance(unit, u.Quantity) else unit
    power, found, found_name = flux_rule(unit)
    assert power == (2 if unit is not None and "Jy" in unit.to_string() else 0)
    assert found == pytest.approx(factor, rel=1e-12)
    assert u.Unit(found_name, parse_strict="silent") == u.Unit(name, parse_strict="silent")


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("erg / (s cm2)", lambda at: 1 / at),
        ("solLum", lambda at: 1 / at),
        ("photon / (s cm2 nm)", lambda at: h * c / at / u.ph),
        ("photon / (s cm2 Hz)", lambda at: h * c / at / u.ph * c / at**2),
        ("photon / (s cm2 keV)", lambda at: h * c / at / u.ph * h * c / at**2),
        ("photon cm / (s m2)", lambda at: h * c / at / u.ph / at**2),
        ("nmgy / arcsec2", lambda at: u.AB / u.mgy * c / at**2),
        ("erg / (s cm2 eV)", lambda at: h * c / at**2),
        ("W / (m2 cm-1)", lambda at: 1 / at**2),
    ],
)
def test_flux_not_per_wavelength(unit, factor):
    """Photons, fluxes per energy or wavenumber, nu F_nu and maggies become energies per wavelength."""
    arrays = one(make(unit=u.Unit(unit)))
    flux = FLUX * u.Unit(unit) * factor(WAVELENGTH * u.AA)
    assert_allclose(arrays.flux, flux.to_value(arrays.flux_unit), rtol=1e-12)
    assert_allclose(arrays.sigma / arrays.flux, SIGMA / FLUX, rtol=1e-12)
    assert arrays.flux_unit.startswith("erg / (Angstrom")


def test_gaia_xp_in_any_unit():
    """The labels of a star do not depend on what its flux is given in."""
    star = load_example_spectrum()
    axis = star.spectral_axis.to(u.AA)
    frequency = star.flux.to(u.W / u.m**2 / u.Hz, u.spectral_density(axis))
    fluxes = [
        star.flux,
        frequency,
        star.flux.to(u.ph / u.s / u.cm**2 / u.nm, u.spectral_density(axis)),
        star.flux.to(u.ph / u.s / u.m**2 / u.Hz, u.spectral_density(axis)),
        star.flux.to(u.erg / u.s / u.cm**2, u.spectral_density(axis)),
        (frequency / h).to(u.W / u.m**2 / u.eV),
        (frequency * c).to(u.W * u.cm / u.m**2),
        (frequency / u.AB).to(u.one) * u.mgy,
    ]
    stars = [from_arrays(axis, flux)[0] for flux in fluxes]
    table = SpectraFM.from_pretrained().infer(stars, labels=["teff", "fe_h"])
    assert_allclose(table["teff"].value, table["teff"].value[0], rtol=1e-4)
    assert_allclose(table["fe_h"].value, table["fe_h"].value[0], atol=1e-3)


def test_logarithmic_flux_is_refused():
    """Magnitudes are no flux."""
    with pytest.raises(InputValueError, match="logarithmic; give it in a linear unit"):
        to_arrays(make(unit=u.mag))
    with pytest.raises(InputValueError, match="logarithmic"):
        from_arrays(WAVELENGTH, u.Magnitude(FLUX, u.ABmag))


def test_arbitrary_units():
    """The unregistered unit of aspcapStar files counts as none, for the flux and for its error."""
    unit = u.def_unit("arbitrary units")
    twin = u.def_unit("arbitrary units")
    assert_same(one(make(unit=unit)), one(make()))
    collection = SpectrumCollection(
        FLUX[None] * unit, WAVELENGTH[None] * u.AA, uncertainty=StdDevUncertainty(SIGMA[None], unit=twin)
    )
    assert_same(one(collection), one(make()))
    unknown = [u.Unit(text, parse_strict="silent") for text in ("ADU", "adU ", "1/ADU^2")]
    [star] = from_arrays(WAVELENGTH, u.Quantity(FLUX, unknown[0]), u.Quantity(SIGMA, unknown[1]))
    assert_same(star, one(make()))
    [star] = from_arrays(WAVELENGTH, u.Quantity(FLUX, unknown[0]), ivar=u.Quantity(SIGMA**-2.0, unknown[2]))
    assert_same(star, one(make()))


@pytest.mark.parametrize("unit", [u.one, u.Jy, 1e-17 * FLAM, u.def_unit("arbitrary units")])
def test_uncertainty_classes(unit):
    """Standard deviation, variance and inverse variance mean the same."""
    unit = u.Unit(unit)
    expected = one(make(unit=unit))
    assert_same(one(make(unit=unit, sigma=VarianceUncertainty(SIGMA**2))), expected)
    assert_same(one(make(unit=unit, sigma=InverseVariance(SIGMA**-2.0))), expected)


def test_uncertainty_in_another_unit():
    """The error may be in another unit than the flux."""
    expected = one(make(unit=u.Jy))
    assert_same(one(make(unit=u.Jy, sigma=StdDevUncertainty(1e3 * SIGMA, unit=u.mJy))), expected)
    assert_same(one(make(unit=u.Jy, sigma=InverseVariance(1e-6 / SIGMA**2, unit=u.mJy**-2))), expected)
    wrong = SpectrumCollection(
        FLUX[None] * u.Jy, WAVELENGTH[None] * u.AA, uncertainty=VarianceUncertainty(SIGMA[None], unit=u.Jy)
    )
    with pytest.raises(InputValueError, match=r"uncertainty \(var\) is in 'Jy', which does not fit"):
        to_arrays(wrong)


@pytest.mark.parametrize("uncertainty", [None, UnknownUncertainty(SIGMA)])
def test_no_uncertainty(uncertainty):
    """Without errors of known meaning there are none, and none are invented."""
    arrays = one(make(sigma=uncertainty))
    assert arrays.flags == Flag.NO_UNCERTAINTY
    assert np.isnan(arrays.sigma).all()
    assert arrays.good.all()
    assert not arrays.has_sigma


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 1e13])
def test_bad_errors(value):
    """A pixel whose error is not finite, not positive or absurd is bad; if all are, there are no errors."""
    sigma = SIGMA.copy()
    sigma[[2, 5]] = value
    arrays = one(make(sigma=sigma))
    assert_array_equal(np.flatnonzero(~arrays.good), [2, 5])
    assert arrays.flags == 0
    assert arrays.counts["n_bad_sigma"] == 2
    arrays = one(make(sigma=np.full(N_PIXEL, value)))
    assert arrays.good.all()
    assert arrays.flags == Flag.NO_UNCERTAINTY
    assert np.isnan(arrays.sigma).all()


def test_absurd_errors_in_most_pixels():
    """The mark for bad pixels is seen even where most pixels carry it."""
    sigma = np.where(np.arange(N_PIXEL) < 8, 1e9, SIGMA)
    assert one(make(sigma=sigma)).n_good == N_PIXEL - 8


def test_large_errors_are_kept():
    """Errors that are merely large are errors."""
    sigma = SIGMA * np.where(np.arange(N_PIXEL) < 3, 1e5, 1)
    assert one(make(sigma=sigma)).good.all()


def test_zero_inverse_variance():
    """No weight means not measured: such pixels are bad, also when they are all there is."""
    ivar = SIGMA**-2.0
    ivar[:4] = 0
    arrays = one(make(sigma=InverseVariance(ivar)))
    assert_array_equal(arrays.good, np.arange(N_PIXEL) >= 4)
    assert arrays.counts["n_masked"] == 4
    arrays = one(make(sigma=InverseVariance(np.zeros(N_PIXEL))))
    assert arrays.flags & Flag.NO_GOOD_PIXELS
    assert arrays.n_good == 0


def test_masks_of_errors_and_wavelengths():
    """What is masked in the errors is a bad pixel, and so is a wavelength refused; columns of pandas are arrays."""
    pandas = pytest.importorskip("pandas")
    mask = np.arange(N_PIXEL) < 2
    for sigma in (np.ma.array(SIGMA, mask=mask), MaskedColumn(SIGMA, mask=mask), Masked(SIGMA * u.one, mask=mask)):
        (arrays,) = from_arrays(WAVELENGTH, FLUX, sigma)
        assert_array_equal(arrays.good, ~mask)
    with pytest.raises(InputValueError, match="leave out the pixels without a wavelength"):
        from_arrays(np.ma.array(WAVELENGTH, mask=mask), FLUX)
    frame = pandas.DataFrame({"w": WAVELENGTH, "f": FLUX, "s": SIGMA})
    (arrays,) = from_arrays(frame.w, frame.f, frame.s, resolving_power=pandas.Series([2000.0]))
    assert_array_equal(arrays.flux, FLUX)
    assert arrays.resolving_power == 2000


@pytest.mark.parametrize("unit", [1, u.Jy])
@pytest.mark.parametrize("value", [0.0, 1e-4, -1e-4, -999.0])
def test_gaps_filled_with_a_number(value, unit):
    """Many neighbours of one tiny or negative flux were not measured; a plateau at the top of a spectrum was."""
    flux, axis = np.random.default_rng(0).uniform(0.5, 1.5, 60), np.linspace(5000, 5100, 60)
    flux[20:28], flux[50:60] = value, 1.5
    (arrays,) = from_arrays(axis, flux * unit)
    assert_array_equal(np.flatnonzero(~arrays.good), np.arange(20, 28))
    assert arrays.counts["n_filled"] == 8
    if unit == 1:
        assert_array_equal(arrays.flux, flux)
    (nothing,) = from_arrays(axis, np.zeros(60))
    assert nothing.flags & Flag.NO_GOOD_PIXELS


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_flux_not_finite(value):
    """A flux that is no number is a bad pixel and stays what it is."""
    flux = FLUX.copy()
    flux[4] = value
    arrays = one(make(flux, mask=None))
    assert_array_equal(np.flatnonzero(~arrays.good), [4])
    assert arrays.counts["n_nonfinite_flux"] == 1
    assert_array_equal(arrays.flux, flux)
    arrays = one(make(np.full(N_PIXEL, value), mask=None))
    assert arrays.flags == Flag.NO_GOOD_PIXELS
    assert arrays.has_sigma is False


def test_masks():
    """Booleans and integers mask; a policy picks among bits and leaves booleans alone."""
    bits = np.zeros(N_PIXEL, dtype=np.int32)
    bits[1], bits[2], bits[3] = 1 << 0, 1 << 12, 1 << 13
    assert_array_equal(np.flatnonzero(~one(make(mask=bits)).good), [1, 2, 3])
    assert_array_equal(np.flatnonzero(~one(make(mask=bits), mask_policy="apogee_dr17").good), [1])
    assert_array_equal(np.flatnonzero(~one(make(mask=bits), mask_policy="apogee_dr17_strict").good), [1, 2])
    assert one(make(mask=bits), mask_policy="apogee_dr17").counts["n_bits"] == 1
    assert_array_equal(np.flatnonzero(~one(make(mask=bits), mask_policy="sdss_any").good), [1, 2, 3])
    assert one(make(mask=bits > 0), mask_policy="jwst").counts["n_masked"] == 3
    masked = Masked(FLUX * u.one, mask=bits > 0)
    assert_array_equal(one(Spectrum(flux=masked, spectral_axis=WAVELENGTH * u.AA)).good, bits == 0)


def test_apogee_policy_is_the_survey_s():
    """SDSS's own sum of bad bits is 16639."""
    assert MASK_POLICIES["apogee_dr17"] == 16639


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "u8"])
def test_bits_in_any_number(dtype):
    """Bits are bits in whatever numbers a file keeps them; one that is not known is bad."""
    bits = np.zeros(N_PIXEL)
    bits[:3] = 1 << 0, 1 << 12, 1 << 13
    for policy, n_good in ((None, 9), ("apogee_dr17", 11), ("apogee_dr17_strict", 10)):
        assert from_arrays(WAVELENGTH, FLUX, mask=bits.astype(dtype), mask_policy=policy)[0].n_good == n_good
        assert one(make(mask=bits.astype(dtype)), mask_policy=policy).n_good == n_good
    hidden = MaskedColumn(bits.astype(dtype), mask=np.arange(N_PIXEL) == 7)
    assert not from_arrays(WAVELENGTH, FLUX, mask=hidden, mask_policy="apogee_dr17")[0].good[[0, 7]].any()
    bits[5] = np.nan
    assert from_arrays(WAVELENGTH, FLUX, mask=bits, mask_policy="apogee_dr17")[0].n_good == 10


def test_masks_of_pandas():
    """True is bad, and so is what is not known, whatever the policy."""
    pandas = pytest.importorskip("pandas")
    values = [True, None] + [False] * (N_PIXEL - 2)
    for mask in (pandas.array(values, dtype="boolean"), pandas.Series(values, dtype="boolean")):
        [star] = from_arrays(WAVELENGTH, FLUX, mask=mask, mask_policy="sdss_boss")
        assert_array_equal(star.good, np.arange(N_PIXEL) > 1)
    [star] = from_arrays(WAVELENGTH, FLUX, mask=np.array([True] * N_PIXEL, dtype=object))
    assert star.n_good == 0


@pytest.mark.parametrize("mask", [["F"] * N_PIXEL, ["0"] * N_PIXEL, [None] * N_PIXEL, [0.5] * N_PIXEL])
def test_no_masks(mask):
    """What says neither true nor false, nor holds bits, is no mask."""
    with pytest.raises(InputValueError, match="mask: the mask holds .*; expected booleans, or bits"):
        from_arrays(WAVELENGTH, FLUX, mask=mask)
    with pytest.raises(InputValueError, match="the mask holds"):
        to_arrays(make(mask=np.array(mask)))


def test_unknown_policy():
    """An unknown policy lists the known ones."""
    with pytest.raises(InputValueError, match="mask_policy: unknown policy 'dr99'; known are apogee_dr17, "):
        to_arrays(make(), mask_policy="dr99")


def test_medium():
    """Air becomes vacuum with Morton (2000), before anything else."""
    air = vac_to_air(WAVELENGTH * u.AA)
    assert_allclose(one(make(axis=air), medium="air").wavelength, WAVELENGTH, rtol=1e-8)
    # the sodium D2 line, in air and in vacuum, from the NIST Atomic Spectra Database
    sodium = make(axis=WAVELENGTH / 5000 * 5889.95095 * u.AA)
    assert one(sodium, medium="air").wavelength[0] == pytest.approx(5891.58326, abs=1e-3)
    jansky = one(make(axis=air, unit=u.Jy), medium="air")
    assert_allclose(jansky.flux, one(make(unit=u.Jy)).flux, rtol=1e-8)


@pytest.mark.parametrize("kind", ["WAVE", "AWAV"])
def test_medium_of_the_wcs(kind, tmp_path):
    """The WCS of a file says what its wavelengths are in, unless the user does."""
    header = fits.Header({"CTYPE1": kind, "CUNIT1": "Angstrom", "CRVAL1": 5000.0, "CDELT1": 2.0, "CRPIX1": 1.0})
    header["BUNIT"] = "Jy"
    fits.writeto(tmp_path / "star.fits", np.linspace(1.0, 2.0, 50), header)
    spectrum = Spectrum.read(tmp_path / "star.fits")
    told, vacuum, air = one(spectrum), one(spectrum, medium="vacuum"), one(spectrum, medium="air")
    same = air if kind == "AWAV" else vacuum
    assert_array_equal(told.wavelength, same.wavelength)
    assert told.medium == same.medium
    assert vacuum.wavelength[0] == pytest.approx(5000.0)
    assert air.wavelength[0] == pytest.approx(5001.39, abs=0.01)
    # a header goes with any axis
    other = Spectrum(spectrum.flux, spectral_axis=vacuum.wavelength * u.AA, meta=spectrum.meta)
    assert_array_equal(one(other).wavelength, vacuum.wavelength)
    both = to_arrays([spectrum, make(), one(spectrum)])
    assert [star.medium for star in both] == [same.medium, "vacuum", same.medium]
    assert_array_equal(both[2].wavelength, same.wavelength)


def test_air_to_vacuum_below_2000_angstrom():
    """Below 2000 Angstrom wavelengths are in vacuum anyway; order is kept across the border."""
    converted = air_to_vacuum(np.array([1500.0, 1999.9, 2000.0, 2500.0]))
    assert_array_equal(converted[:2], [1500.0, 1999.9])
    assert (np.diff(converted) > 0).all()


def test_medium_and_velocity_for_each_star():
    """Keywords may differ from star to star, and air comes before the velocity."""
    velocity = [-50, 0, 120] * u.km / u.s
    spectrum = make(np.ones((3, N_PIXEL)), sigma=None)
    powers = [1e3, np.nan, 3e3]
    found = to_arrays(spectrum, medium=["air", "vacuum", "air"], radial_velocity=velocity, resolving_power=powers)
    vacuum = air_to_vacuum(WAVELENGTH)
    for arrays, start, v in zip(found, (vacuum, WAVELENGTH, vacuum), velocity.value, strict=True):
        assert_allclose(arrays.wavelength, start / doppler_factor(v), rtol=1e-14)
    assert_array_equal([arrays.resolving_power for arrays in found], powers)


def test_own_velocity_is_used_and_can_be_overridden():
    """The object's own velocity or redshift counts unless one is given."""
    factor = doppler_factor(100.0)
    moving = make(radial_velocity=100 * u.km / u.s)
    assert_allclose(one(moving).wavelength, WAVELENGTH / factor, rtol=1e-13)
    assert_allclose(one(make(redshift=factor - 1)).wavelength, WAVELENGTH / factor, rtol=1e-9)
    assert_array_equal(one(moving, radial_velocity=0 * u.km / u.s).wavelength, WAVELENGTH)
    both = make(np.ones((2, N_PIXEL)), sigma=None, radial_velocity=[0, 100] * u.km / u.s)
    assert_allclose([a.wavelength[0] for a in to_arrays(both)], [5000, 5000 / factor])
    moving.shift_spectrum_to(radial_velocity=0 * u.km / u.s)
    assert_allclose(one(moving).wavelength, WAVELENGTH / factor, rtol=1e-13)


@settings(max_examples=25)
@given(velocity=st.floats(-3000, 3000), medium=st.sampled_from(["air", "vacuum"]))
def test_rest_frame_is_recovered(velocity, medium):
    """A star observed at any velocity, in either medium, comes back to its rest wavelengths."""
    observed = WAVELENGTH * u.AA * doppler_factor(velocity)
    observed = vac_to_air(observed) if medium == "air" else observed
    arrays = one(make(axis=observed), medium=medium, radial_velocity=velocity * u.km / u.s)
    assert_allclose(arrays.wavelength, WAVELENGTH, rtol=1e-8)


def test_velocity_is_relativistic():
    """The Doppler factor is astropy's relativistic one."""
    velocity = np.array([-2e5, -30.0, 0.0, 1e5]) * u.km / u.s
    assert_allclose(doppler_factor(velocity.value) - 1, velocity.to_value(u.one, u.doppler_redshift()), atol=1e-12)


def test_velocity_from_columns_and_other_units():
    """A table column, masked or not, and other units of speed are fine; a masked velocity costs its star."""
    spectra = [make(), make()]
    expected = to_arrays(spectra, radial_velocity=[10, 20] * u.km / u.s)
    for velocity in (Column([10, 20], unit="km/s"), [1e4, 2e4] * u.m / u.s, [10 * u.km / u.s, 20 * u.km / u.s]):
        for first, second in zip(to_arrays(spectra, radial_velocity=velocity), expected, strict=True):
            assert_same(first, second)
    for velocity in (
        MaskedColumn([10.0, 20.0], mask=[False, True], unit="km/s"),
        Masked([10, 20] * u.km / u.s, mask=[False, True]),
        [10, np.nan] * u.km / u.s,
        [10, 4e5] * u.km / u.s,
    ):
        found = to_arrays(spectra, radial_velocity=velocity)
        assert [arrays.flags for arrays in found] == [0, Flag.BAD_INPUT]
        assert "radial velocity is" in found[1].problem


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"medium": "vakuum"}, InputValueError, "medium: 'vakuum'; expected 'air' or 'vacuum'"),
        ({"medium": ["air"]}, InputValueError, r"medium: shape \(1,\) for 2 stars"),
        ({"medium": 1.0}, InputTypeError, "medium: 1.0; expected a string or one a star"),
        ({"radial_velocity": 35.0}, InputTypeError, "radial_velocity: no unit; expected a speed"),
        ({"radial_velocity": "fast"}, InputTypeError, "radial_velocity: 'fast'"),
        ({"radial_velocity": 3 * u.s}, InputValueError, "radial_velocity: in s; expected a speed"),
        ({"radial_velocity": 4e5 * u.km / u.s}, InputValueError, "below that of light"),
        ({"radial_velocity": np.nan * u.km / u.s}, InputValueError, "finite speed"),
        ({"radial_velocity": [1, 2, 3] * u.km / u.s}, InputValueError, r"radial_velocity: shape \(3,\) for 2 stars"),
        ({"resolving_power": -1}, InputValueError, "resolving_power: -1.0; expected a positive number"),
        ({"resolving_power": "high"}, InputTypeError, "resolving_power: 'high'"),
        ({"resolving_power": [None, 2000]}, InputTypeError, "expected a number or one a star, NaN where not known"),
        ({"resolving_power": [1, 2, 3]}, InputValueError, r"resolving_power: shape \(3,\) for 2 stars"),
    ],
)
def test_bad_keywords(keywords, error, text):
    """A bad keyword names itself, what came and what was expected."""
    with pytest.raises(error, match=text):
        to_arrays([make(), make()], **keywords)


def test_bad_resolving_power_of_one_star():
    """A resolving power that cannot be costs its star only."""
    for thing in (make(), one(make())):
        found = to_arrays([thing, thing], resolving_power=[2000, 0])
        assert [arrays.flags for arrays in found] == [0, Flag.BAD_INPUT]
        assert "its resolving power is 0" in found[1].problem
    found = to_arrays([one(make())] * 2, radial_velocity=[0, np.nan] * u.km / u.s)
    assert [arrays.flags for arrays in found] == [0, Flag.BAD_INPUT]


@pytest.mark.parametrize("thing", [None, "file.fits", FLUX, 3.0, {"flux": FLUX}, ["a.fits", "b.fits"], FLUX * u.Jy])
def test_no_spectra(thing):
    """What holds no spectra is refused with the remedy."""
    with pytest.raises(InputTypeError, match=r"spectra: got \w+, expected a specutils Spectrum"):
        to_arrays(thing)


def test_bad_elements_cost_their_rows(caplog):
    """A missing or strange element of a list is a flagged row, and the log says why."""
    with caplog.at_level("INFO", "spectrafm"):
        found = to_arrays([make(), None, "a.fits", make()])
    assert "star 1 cannot be used: got NoneType" in caplog.text
    assert [bool(arrays.flags & Flag.BAD_INPUT) for arrays in found] == [False, True, True, False]
    assert "got NoneType" in found[1].problem
    assert "spectrafm.spectrum_files.read_spectra(path)" in found[2].problem


def test_empty_list():
    """No spectra, no stars."""
    assert to_arrays([]) == []
    assert to_arrays(SpectrumList()) == []
    assert from_arrays(WAVELENGTH, np.empty((0, N_PIXEL))) == []


@pytest.mark.parametrize("spectral_axis_index", [0, 1])
def test_two_dimensions(spectral_axis_index):
    """A 2-D Spectrum is a star a row, whichever axis is the spectral one."""
    flux, sigma = np.stack((FLUX, 2 * FLUX, 3 * FLUX)), np.stack((SIGMA, 2 * SIGMA, 3 * SIGMA))
    mask = np.zeros(flux.shape, dtype=bool)
    mask[1, 2] = True
    if spectral_axis_index == 0:
        flux, sigma, mask = flux.T, sigma.T, mask.T
    found = to_arrays(make(flux, sigma=sigma, mask=mask, spectral_axis_index=spectral_axis_index))
    for row, arrays in enumerate(found):
        assert_array_equal(arrays.flux, (row + 1) * FLUX)
        assert_array_equal(arrays.sigma, (row + 1) * SIGMA)
    assert [arrays.n_good for arrays in found] == [N_PIXEL, N_PIXEL - 1, N_PIXEL]


def test_cube():
    """Further axes are stars too, the last running fastest."""
    flux = np.arange(2 * 3, dtype=float).reshape(2, 3, 1) + np.ones(N_PIXEL)
    assert [arrays.flux[0] for arrays in to_arrays(make(flux, sigma=None))] == [1, 2, 3, 4, 5, 6]


def test_collection():
    """A collection has an axis, an order and a name for each star."""
    axis = np.stack((WAVELENGTH, WAVELENGTH[::-1] / 2, WAVELENGTH[[1, 0, *range(2, N_PIXEL)]])) * u.AA
    collection = SpectrumCollection(
        np.stack((FLUX, FLUX[::-1], FLUX)) * u.Jy,
        axis,
        uncertainty=StdDevUncertainty(np.stack((SIGMA, SIGMA[::-1], SIGMA))),
        mask=np.array([[0] * N_PIXEL, [0] * (N_PIXEL - 1) + [4], [0] * N_PIXEL]),
        meta=[{"object": "a"}, {"object": "b"}, {"object": "c"}],
    )
    first, second, third = to_arrays(collection)
    assert_same(first, one(make(unit=u.Jy)))
    assert_same(second, one(make(axis=WAVELENGTH / 2 * u.AA, unit=u.Jy, mask=np.arange(N_PIXEL) == 0)))
    assert third.flags == Flag.BAD_INPUT
    assert "neither ascend nor descend" in third.problem
    assert [a.identifier for a in (first, second, third)] == ["a", "b", "c"]
    moving = SpectralCoord(axis[:2], radial_velocity=[[0], [100]] * u.km / u.s)
    found = to_arrays(SpectrumCollection(np.ones((2, N_PIXEL)) * u.Jy, moving))
    assert found[1].wavelength[0] == pytest.approx(2500 / doppler_factor(100.0))
    with pytest.raises(InputValueError, match="no spectral axis"):
        to_arrays(SpectrumCollection(np.ones((2, N_PIXEL)) * u.Jy))


def test_nested_and_ragged():
    """Lists of anything are flattened in order; one list element is not one star."""
    long = make(np.ones(20), np.linspace(4000, 5000, 20) * u.AA, None)
    two = make(np.ones((2, N_PIXEL)), sigma=None)
    collection = SpectrumCollection(np.ones((2, 5)) * u.Jy, np.ones((2, 1)) * np.arange(1, 6) * u.um)
    nested = [SpectrumList([long, two]), (collection, [make()]), np.array([None, make()], dtype=object)]
    found = to_arrays(nested)
    assert [len(a.flux) for a in found] == [20, N_PIXEL, N_PIXEL, 5, 5, N_PIXEL, 0, N_PIXEL]
    assert [a.identifier for a in found] == [str(i) for i in range(8)]
    assert [len(a.flux) for a in to_arrays(spectrum for spectrum in (long, two))] == [20, N_PIXEL, N_PIXEL]
    velocity = np.arange(8) * u.km / u.s
    shifts = [a.wavelength[0] for a in to_arrays(nested, radial_velocity=velocity) if len(a.flux) == N_PIXEL]
    assert_allclose(shifts, 5000 / doppler_factor(velocity.value[[1, 2, 5, 7]]))


def test_spectrum1d():
    """The deprecated class is accepted; only making one warns."""
    from specutils import Spectrum1D

    with pytest.warns(AstropyDeprecationWarning, match="Spectrum1D"):
        old = Spectrum1D(flux=FLUX * u.one, spectral_axis=WAVELENGTH * u.AA, uncertainty=StdDevUncertainty(SIGMA))
    assert_same(one(old), one(make()))
    assert_same(one([old]), one(make()))


def test_ready_arrays():
    """SpectrumArrays pass unchanged, alone or in lists, unless a keyword contradicts them."""
    ready = one(make())
    assert one(ready) is ready
    assert to_arrays([make(), ready])[1] is ready
    assert one(ready, resolving_power=500).resolving_power == 500
    with pytest.raises(InputValueError, match="in vacuum and in the rest frame already"):
        to_arrays(ready, medium="air")
    with pytest.raises(InputValueError, match="in vacuum and in the rest frame already"):
        to_arrays([make(), ready], radial_velocity=[5, 5] * u.km / u.s)
    assert to_arrays([make(), ready], radial_velocity=[5, 0] * u.km / u.s)[1] is ready


def test_ready_arrays_of_bad_values():
    """What no good pixel can have costs the star its row."""
    ready = one(make())
    flux = np.where(np.arange(N_PIXEL) == 3, np.nan, FLUX)
    for changes, text in (({"flux": flux}, "a flux that is not finite"), ({"sigma": -SIGMA}, "error that is not posi")):
        bad = replace(ready, **changes)
        assert text in to_arrays([ready, bad])[1].problem
        with pytest.raises(InputValueError, match=text):
            to_arrays(bad)
        assert to_arrays(replace(bad, good=np.zeros(N_PIXEL, dtype=bool)))[0].n_good == 0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((WAVELENGTH, FLUX, SIGMA, np.ones(N_PIXEL, dtype=int)), InputTypeError, "good: ndarray of int64; expected a"),
        ((WAVELENGTH * u.AA, FLUX, SIGMA, FLUX > 0), InputTypeError, "wavelength: Quantity of float64"),
        ((WAVELENGTH, FLUX.tolist(), SIGMA, FLUX > 0), InputTypeError, "flux: list of objects"),
        ((WAVELENGTH, FLUX, SIGMA.astype("f4"), FLUX > 0), InputTypeError, "sigma: ndarray of float32"),
        ((WAVELENGTH[::-1], FLUX, SIGMA, FLUX > 0), InputValueError, "wavelength: .* expected them in ascending order"),
        ((WAVELENGTH - 5500, FLUX, SIGMA, FLUX > 0), InputValueError, "wavelength: some values are not finite, not"),
    ],
)
def test_arrays_of_another_kind(arguments, error, text):
    """Arrays that would be misread are refused, with the way to convert them."""
    with pytest.raises(error, match=text):
        SpectrumArrays(*arguments)


def test_arrays_pickle_and_check_shapes():
    """What leaves the adapters can be sent to a worker, and its arrays belong together."""
    ready = one(make())
    assert_same(pickle.loads(pickle.dumps(ready)), ready)
    with pytest.raises(InputValueError, match="expected one shape"):
        SpectrumArrays(WAVELENGTH, FLUX[:-1], SIGMA, SIGMA > 0)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f4", "f2", ">i2"])
def test_byte_order_and_type(dtype):
    """Arrays of any byte order and type come out native float64."""
    flux, sigma = (100 * FLUX).astype(dtype), (100 * SIGMA).astype(dtype)
    axis = WAVELENGTH.astype(">f8") * u.AA
    arrays = one(
        Spectrum(flux=u.Quantity(flux, u.ct, dtype=dtype), spectral_axis=axis, uncertainty=StdDevUncertainty(sigma))
    )
    for array, expected in ((arrays.flux, flux), (arrays.sigma, sigma), (arrays.wavelength, WAVELENGTH)):
        assert array.dtype == np.float64
        assert array.dtype.isnative
        assert_array_equal(array, expected.astype(float))


def test_complex_flux():
    """Complex numbers are refused."""
    with pytest.raises(InputValueError, match="holds complex128; expected real numbers"):
        to_arrays(make(FLUX + 1j))


@pytest.mark.parametrize("unit", [u.one, u.Jy])
def test_input_is_never_touched(unit):
    """Read-only input works, nothing is written to it, and nothing that comes out shares its memory."""
    flux, sigma, axis = FLUX[::-1].copy(), SIGMA[::-1].copy(), WAVELENGTH[::-1].copy()
    flux[2], sigma[4] = np.nan, np.inf
    mask = np.arange(N_PIXEL) == 6
    for array in (flux, sigma, axis, mask):
        array.flags.writeable = False
    spectrum = Spectrum(
        flux=u.Quantity(flux, unit, copy=False),
        spectral_axis=u.Quantity(axis, u.AA, copy=False),
        uncertainty=StdDevUncertainty(sigma, copy=False),
        mask=mask,
    )
    arrays = one(spectrum, medium="air", radial_velocity=100 * u.km / u.s)
    assert arrays.n_good == N_PIXEL - 3
    plain = from_arrays(
        axis * u.AA, u.Quantity(flux, unit, copy=False), sigma, mask, medium="air", radial_velocity=100 * u.km / u.s
    )
    assert_same(plain[0], arrays)
    for found in (arrays, plain[0], one(make()), from_arrays(WAVELENGTH, FLUX, SIGMA)[0]):
        for array in (found.wavelength, found.flux, found.sigma, found.good):
            assert array.flags.writeable
            assert not any(
                np.shares_memory(array, given_) for given_ in (flux, sigma, axis, mask, FLUX, SIGMA, WAVELENGTH)
            )


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, "0"),
        ({"object": "HD 1"}, "HD 1"),
        ({"header": {"OBJID": "2M1", "OBJECT": "x"}}, "2M1"),
        ({"Source_ID": np.int64(42)}, "42"),
        ({"sdss_id": np.array([7]), "name": "APOGEE/APO"}, "7"),
        ({"label": b"bytes"}, "bytes"),
        ({"object": None, "name": "n"}, "n"),
        ({"object": "   ", "name": "n"}, "n"),
        ({"header": {"OBJECT": "   "}}, "0"),
    ],
)
def test_identifier(meta, expected):
    """The star's name is found where loaders put it, else it is its number."""
    assert one(make(meta=meta)).identifier == expected


def test_identifiers_of_two_dimensions():
    """Rows are told apart by their own name or a number."""
    two = np.ones((2, N_PIXEL))
    assert [a.identifier for a in to_arrays(make(two, sigma=None, meta={"obj": ["a", "b"]}))] == ["a", "b"]
    assert [a.identifier for a in to_arrays(make(two, sigma=None, meta={"object": "p"}))] == ["p:0", "p:1"]
    names = np.array(["a", "b"], dtype="S1")
    assert [a.identifier for a in to_arrays(make(two, sigma=None, meta={"obj": names}))] == ["a", "b"]
    assert [a.identifier for a in from_arrays(WAVELENGTH, two, identifier=names)] == ["a", "b"]
    # one without a name costs the others nothing
    metas = [{"obj": "a"}, {}]
    collection = SpectrumCollection(two * u.Jy, np.tile(WAVELENGTH, (2, 1)) * u.AA, meta=metas)
    assert [a.identifier for a in to_arrays([make(), collection])] == ["0", "a", "2"]


def test_identifiers_of_arms():
    """Rows of DESI have the names of the fibres, which the first arm has, and the arm where there are several."""
    two = np.ones((2, N_PIXEL))
    fibers = Table({"TARGETID": [39627000000000001, 39627000000000002]})
    blue = make(two, sigma=None, meta={"band": "b", "fibermap": fibers, "header": {"OBJECT": "field"}})
    red = make(two, sigma=None, meta={"band": "r"})
    names = [str(name) for name in fibers["TARGETID"]]
    assert [a.identifier for a in to_arrays(blue)] == names
    assert [a.identifier for a in to_arrays([blue, red])] == [f"{name}:{arm}" for arm in "br" for name in names]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_batch_mates_do_not_matter(seed):
    """Each star of a catalogue comes out as it does alone."""
    rng = np.random.default_rng(seed)
    flux = rng.normal(1, 0.1, (4, N_PIXEL))
    sigma = 10 ** rng.uniform(-9, 12, (4, N_PIXEL))
    flux[rng.random(flux.shape) < 0.2] = np.nan
    axis = rng.uniform(0.5, 1, (4, 1)) * WAVELENGTH
    axis[1] = axis[1, ::-1]
    mask = rng.integers(0, 3, flux.shape) * (rng.random(flux.shape) < 0.3)
    velocity = rng.normal(0, 100, 4) * u.km / u.s
    keywords = {"medium": "air", "mask_policy": "jwst"}
    together = from_arrays(axis, flux * u.Jy, sigma, mask, radial_velocity=velocity, **keywords)
    for row in range(4):
        (alone,) = from_arrays(
            axis[row], flux[row] * u.Jy, sigma[row], mask[row], radial_velocity=velocity[row], **keywords
        )
        assert_same(together[row], alone, rtol=0)
        spectrum = make(flux[row], axis[row] * u.AA, sigma[row], u.Jy, mask=mask[row])
        assert_same(together[row], one(spectrum, radial_velocity=velocity[row], **keywords))


def test_from_arrays_units_and_masks():
    """Quantities, uncertainty objects and masked arrays are understood; plain wavelengths are Angstrom."""
    expected = one(make(unit=u.Jy, mask=np.arange(N_PIXEL) == 2))
    flux = np.ma.array(FLUX, mask=np.arange(N_PIXEL) == 2)
    for given_, sigma in (
        (Masked(FLUX * u.Jy, mask=flux.mask), SIGMA),
        (Masked(FLUX * u.Jy, mask=flux.mask), 1e3 * SIGMA * u.mJy),
        (Masked(FLUX * u.Jy, mask=flux.mask), InverseVariance(SIGMA**-2.0)),
    ):
        assert_same(from_arrays(WAVELENGTH / 10 * u.nm, given_, sigma)[0], expected)
    assert_array_equal(from_arrays(WAVELENGTH, flux)[0].good, ~flux.mask)
    assert from_arrays(WAVELENGTH, [FLUX, FLUX], identifier=["a", 5])[1].identifier == "5"
    whole = np.ma.array(FLUX)
    assert from_arrays(WAVELENGTH, whole, mask=whole.mask)[0].good.all()


@pytest.mark.parametrize("unit", ["1e34 s2 cm4 AA2 / erg2", "s2 cm4 AA2 / erg2"])
def test_inverse_variance_of_a_table(unit):
    """Columns of inverse variances keep their unit and mask; 0, masked and negative are bad pixels."""
    flux, ivar = 1e-17 * FLUX, (1e-17 * SIGMA) ** -2.0
    ivar[[2, 4]] = 0, -1
    table = Table({"w": WAVELENGTH * u.AA, "flux": flux * FLAM, "ivar": (ivar / FLAM**2).to(unit)}, masked=True)
    table["ivar"].mask[6] = True
    expected = from_arrays(WAVELENGTH, flux * FLAM, 1e-17 * SIGMA, mask=np.isin(np.arange(N_PIXEL), [2, 4, 6]))[0]
    for column in (table["ivar"], Masked(table["ivar"].data.data * u.Unit(unit), table["ivar"].mask)):
        [star] = from_arrays(table["w"], table["flux"], ivar=column)
        assert_array_equal(star.good, expected.good)
        assert_allclose(star.sigma[star.good], expected.sigma[star.good])
        assert star.snr == pytest.approx(expected.snr)
    assert star.counts["n_masked"] == 1
    [plain] = from_arrays(WAVELENGTH, flux * FLAM, ivar=ivar)
    assert_allclose(plain.sigma[plain.good], 1e-17 * SIGMA[plain.good])
    assert from_arrays(WAVELENGTH, flux * FLAM, ivar=InverseVariance(ivar))[0].snr == plain.snr


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"sigma": SIGMA, "ivar": SIGMA**-2}, InputValueError, "sigma, ivar: both are given"),
        ({"ivar": StdDevUncertainty(SIGMA)}, InputTypeError, "ivar: StdDevUncertainty; expected inverse variances"),
        ({"ivar": SIGMA[1:]}, InputValueError, r"ivar: shape \(11,\) does not fit flux"),
        ({"ivar": SIGMA / u.Jy}, InputValueError, r"ivar: the uncertainty \(ivar\) is in '1 / Jy'"),
    ],
)
def test_inverse_variance_that_cannot_be(keywords, error, text):
    """Errors are given once, and fit the flux."""
    with pytest.raises(error, match=text):
        from_arrays(WAVELENGTH, FLUX * u.Jy, **keywords)


def test_units_of_a_wavelength_column():
    """Logarithms of wavelengths are understood; a unit that astropy does not know is named."""
    expected = from_arrays(WAVELENGTH, FLUX)[0].wavelength
    [star] = from_arrays(Column(np.log10(WAVELENGTH), unit=u.dex(u.AA)), FLUX)
    assert_allclose(star.wavelength, expected, rtol=1e-12)
    for name in ("Ang", "Angstroms", "log(Angstrom)"):
        column = Column(WAVELENGTH, unit=u.Unit(name, parse_strict="silent"))
        with pytest.raises(InputValueError, match=r"is in '.*', a unit that astropy does not know; give"):
            from_arrays(column, FLUX)


def test_rows_of_different_lengths():
    """Ragged arrays are told in words."""
    rows = [FLUX, FLUX[:-1]]
    for flux in ([row.tolist() for row in rows], np.array(rows, dtype=object)):
        with pytest.raises(InputValueError, match="flux: rows of different lengths; expected"):
            from_arrays(WAVELENGTH, flux)
    with pytest.raises(InputValueError, match="sigma: rows of different lengths"):
        from_arrays(WAVELENGTH, [FLUX, FLUX], [row.tolist() for row in rows])


def test_tables_are_no_spectra():
    """A table is told how its columns are read."""
    table = Table({"wavelength": WAVELENGTH, "flux": FLUX})
    for thing in (table, table.to_pandas(), [table]):
        with pytest.raises(InputTypeError, match=r"got (Table|DataFrame), .* for the columns of a table use"):
            to_arrays(thing)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((WAVELENGTH, 3.0), "flux: shape"),
        ((WAVELENGTH[:-1], FLUX), r"wavelength: shape \(11,\) does not fit flux \(12,\)"),
        ((WAVELENGTH, FLUX, SIGMA[:-1]), "sigma: shape"),
        ((WAVELENGTH, np.stack([FLUX, FLUX], 1)), r"wavelength: shape \(12,\) .* \(12, 2\); expected .*, as flux\.T,"),
        ((WAVELENGTH, [FLUX, FLUX], np.ones((12, 2))), r"sigma: shape \(12, 2\) .*; .*as sigma\.T or flux\.T"),
        ((WAVELENGTH, FLUX, None, SIGMA[:-1] > 0), "mask: shape"),
        ((WAVELENGTH, FLUX * u.Jy, SIGMA * u.s), "does not fit a flux in 'Jy'"),
        ((WAVELENGTH * u.s, FLUX), "does not tell wavelengths"),
        ((WAVELENGTH - 5500, FLUX), "not all finite and positive"),
        ((np.array(["a"] * N_PIXEL), FLUX), "expected real numbers"),
    ],
)
def test_from_arrays_refuses(arguments, text):
    """Arrays that do not belong together are refused with their shapes."""
    with pytest.raises(InputValueError, match=text):
        from_arrays(*arguments)


@pytest.mark.parametrize(
    "errors",
    [
        *({"sigma": s} for s in (0.01, np.float32(0.01), np.ma.array(0.01), 10 * u.mJy, Masked(10 * u.mJy))),
        *({"sigma": s} for s in (StdDevUncertainty(0.01), StdDevUncertainty(10, unit=u.mJy), InverseVariance(1e4))),
        *({"ivar": i} for i in (10_000, 1e4 / u.Jy**2, InverseVariance(1e4))),
    ],
    ids=repr,
)
def test_one_error_for_all_pixels(errors):
    """One number is the error of each pixel, with a unit or without, however it is written."""
    for flux in (FLUX, np.stack([FLUX, 2 * FLUX])):
        expected = from_arrays(WAVELENGTH, flux * u.Jy, np.full(flux.shape, 0.01))
        for star, same in zip(from_arrays(WAVELENGTH, flux * u.Jy, **errors), expected, strict=True):
            assert_same(star, same, rtol=1e-6)


def test_lists_of_rows_keep_units_and_masks():
    """Rows in a list are what they are in one array; what would lose its unit is refused."""
    wavelength, flux = np.linspace(5000, 6000, 50), np.linspace(1, 2, 100).reshape(2, 50)
    mask = flux > 1.9
    plain = from_arrays(wavelength, flux, 0.1 * flux, mask)
    masked = from_arrays(wavelength, list(np.ma.array(flux, mask=mask)), list(np.ma.array(0.1 * flux, mask=mask)))
    quantities = from_arrays(
        [wavelength / 10 * u.nm] * 2, [f * u.Jy for f in flux], [100 * f * u.mJy for f in flux], mask
    )
    both = from_arrays(wavelength, [Masked(f * u.Jy, mask=m) for f, m in zip(flux, mask, strict=True)])
    for star, other, third, fourth in zip(plain, masked, quantities, both, strict=True):
        assert_array_equal(other.good, star.good)
        assert_array_equal(fourth.good, star.good)
        assert_array_equal(third.good, star.good)
        assert_allclose(other.sigma[star.good], star.sigma[star.good])
        # they come out as flux per wavelength
        assert_allclose((third.sigma / third.flux)[star.good], 0.1)
        assert_allclose(third.wavelength, star.wavelength)
    with pytest.raises(InputTypeError, match="flux: a list of Column, whose units and masks would be lost"):
        from_arrays(wavelength, [Column(f, unit="Jy") for f in flux])
    with pytest.raises(InputValueError, match="flux: rows of different lengths"):
        from_arrays(wavelength, [np.ones(50) * u.Jy, np.ones(49) * u.Jy])


def test_whatever_equivalencies_are_enabled():
    """Units mean the same whatever the user has made equivalent, before and after."""
    axis = np.linspace(1e4, 2e4, 30)
    star = from_arrays(axis / u.cm, np.ones(30), None)[0]
    _spectral_units._axis_rule.cache_clear()
    with u.add_enabled_equivalencies(u.spectral()):
        other = from_arrays(axis / u.cm, np.ones(30), None)[0]
    assert_allclose(other.wavelength, star.wavelength)
    with (
        u.add_enabled_equivalencies(u.spectral_density(5000 * u.AA)),
        pytest.raises(InputValueError, match="does not fit"),
    ):
        from_arrays(axis / u.cm, np.ones(30) * u.Jy, np.ones(30) * u.Unit("erg / (s cm2 AA)"))


def test_from_arrays_identifier_length():
    """A name for each star."""
    with pytest.raises(InputValueError, match="identifier: 1 names for 2 stars"):
        from_arrays(WAVELENGTH, [FLUX, FLUX], identifier="a")
    with pytest.raises(InputTypeError, match="identifier: 5; expected a name for each star"):
        from_arrays(WAVELENGTH, FLUX, identifier=5)


def test_thousand_spectra_take_no_time():
    """A thousand spectra of Gaia XP size are read in a fraction of the 2 s allowed."""
    axis = np.linspace(336, 1020, 343) * u.nm
    rng = np.random.default_rng(0)
    few = [make(rng.normal(1, 0.1, 343), axis, np.full(343, 0.1), u.Jy) for _ in range(100)]
    start = time.process_time()
    to_arrays(10 * few, medium="air")
    assert time.process_time() - start < 2


def test_real_apogee_files(shared_data):
    """Real apStar files: big-endian, NaN not masked, errors of 1e13 on bad pixels."""
    files = sorted((shared_data / "apogee").glob("apStar-*.fits"))
    found = to_arrays([Spectrum.read(file) for file in files])
    assert len(found) == len(files) > 0
    for arrays, file in zip(found, files, strict=True):
        assert arrays.identifier in file.name
        assert arrays.flags == 0
        assert 7000 < arrays.n_good < 8000
        assert arrays.sigma[arrays.good].max() < 1e10
        assert arrays.counts["n_nonfinite_flux"] > 700
        assert arrays.snr > 100


def test_bridged():
    """Gaps of so many pixels are filled by straight lines, with the larger error; wider ones, and even steps, stay."""
    wavelength = np.array([10.0, 11, 12, 14, 15, 16, 19, 20, 21, 25, 26, 27])
    flux, sigma = 2.0 * wavelength, np.where(wavelength == 12, 0.5, 0.1)
    good = wavelength != 11
    star = SpectrumArrays(wavelength, flux, sigma, np.ones(12, dtype=bool))
    full = star.gaps_filled(2)
    np.testing.assert_allclose(full.wavelength, [*range(10, 22), 25, 26, 27])
    np.testing.assert_allclose(full.flux, 2 * full.wavelength)
    assert full.sigma[3] == 0.5
    assert full.good.all()
    np.testing.assert_allclose(star.gaps_filled(3).wavelength, np.arange(10, 28))
    assert star.gaps_filled(0) is star
    # bad pixels are as if they were not there; no errors stay none
    np.testing.assert_allclose(replace(star, good=good).gaps_filled(2).wavelength, full.wavelength)
    assert np.isnan(replace(star, sigma=np.full(12, np.nan)).gaps_filled(2).sigma).all()
    even = SpectrumArrays(wavelength[:3], flux[:3], sigma[:3], np.ones(3, dtype=bool))
    assert even.gaps_filled(4) is even
    smooth = np.geomspace(10, 11, 50)
    alike = SpectrumArrays(smooth, smooth, np.ones(50), np.ones(50, dtype=bool))
    assert alike.gaps_filled(4) is alike


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (np.ma.MaskedArray([5, 6], [True, False]), ["0", "6"]),
        (MaskedColumn(["a", "b"], mask=[False, True]), ["a", "1"]),
        ([np.ma.masked, "b"], ["0", "b"]),
        ([np.nan, None], ["0", "1"]),
        (["", "  "], ["0", "1"]),
        (np.array([7.0, np.nan]), ["7", "1"]),
        ([u.Quantity(3.0), 5 * u.one], ["3", "5"]),
    ],
)
def test_names_that_are_not_there(names, expected):
    """A star whose name is masked, NaN or blank has the number of its row; whole numbers are written as such."""
    assert [star.identifier for star in from_arrays(WAVELENGTH, [FLUX, FLUX], identifier=names)] == expected


def test_names_of_pandas():
    """NA of pandas is no name."""
    pandas = pytest.importorskip("pandas")
    for names in (pandas.Series([5, None], dtype="Int64"), pandas.Series(["5", None])):
        assert [star.identifier for star in from_arrays(WAVELENGTH, [FLUX, FLUX], identifier=names)] == ["5", "1"]


@pytest.mark.parametrize("names", [[5853418002145112704.0, 1.0], np.array([2.0**24, 1], np.float32), [np.inf, 1]])
def test_names_that_lost_digits(names):
    """Numbers that cannot hold all digits of a name are refused."""
    with pytest.raises(InputValueError, match="identifier: .* may have lost digits; give integers or text"):
        from_arrays(WAVELENGTH, [FLUX, FLUX], identifier=names)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"source_id": np.array(5853418002145112704)}, "5853418002145112704"),
        ({"source_id": 5e5}, "500000"),
        ({"source_id": u.Quantity(5, dtype=int)}, "5"),
        ({"source_id": 5.8e18, "name": "b"}, "b"),
        ({"source_id": np.ma.masked}, "0"),
    ],
)
def test_numbers_as_names_in_meta(meta, expected):
    """A name in meta may be any number that has all of its digits."""
    assert one(make(meta=meta)).identifier == expected


@pytest.mark.parametrize("unit", [None, "Jy"])
def test_column_of_arrays(unit):
    """An array of objects whose rows have one length is read, with its unit; others are refused."""
    rows = np.empty(2, dtype=object)
    rows[:] = [FLUX, FLUX]
    expected = from_arrays(WAVELENGTH, np.stack([FLUX, FLUX]) * u.Unit(unit or ""))
    for star, other in zip(from_arrays(WAVELENGTH, Column(rows, unit=unit)), expected, strict=True):
        assert_allclose(star.flux, other.flux)
        assert star.flux_unit == other.flux_unit
    rows[1] = FLUX[:-1]
    with pytest.raises(InputValueError, match="flux: rows of different lengths"):
        from_arrays(WAVELENGTH, Column(rows, unit=unit))
