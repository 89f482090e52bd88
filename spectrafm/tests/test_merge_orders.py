"""Orders of one star on one axis: `spectrafm.adapters.merge_orders`."""

from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from specutils import Spectrum, SpectrumCollection, SpectrumList

from spectrafm import SpectraFM
from spectrafm.adapters import from_arrays, merge_orders, to_arrays
from spectrafm.continuum import ContinuumNormalizer
from spectrafm.datasets import read_miles
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.flags import Flag
from spectrafm.synthesis import load_emulator

LABELS = ("teff", "logg", "fe_h")


def echelle(wavelength, flux, first, *, length=1.4, snr=100.0, resolving_power=None):
    """Return the spectrum as a whole, and as overlapping orders with a blaze, each on its own scale, with noise."""
    random = np.random.default_rng(first)
    sigma = np.sqrt(flux) / snr
    noisy = flux + sigma * random.normal(size=len(flux))
    [whole] = from_arrays(wavelength, noisy, sigma, resolving_power=resolving_power)
    orders, number = [], first
    while (centre := 0.995 * wavelength[-1] * first / number) > 1.002 * wavelength[0]:
        use = np.abs(np.log(wavelength / centre)) < length / 2 / (1.4 * first)
        phase = number * (wavelength[use] / centre - 1)
        blaze = np.sinc(0.85 * phase + 0.05) ** 2 * (1 + 0.1 * phase) + 0.02
        sigma = np.sqrt(flux[use] * blaze / snr**2 + (3 / snr**2) ** 2)
        scale = random.uniform(0.1, 10)
        noisy = flux[use] * blaze + sigma * random.normal(size=len(phase))
        orders += from_arrays(wavelength[use], noisy * scale, sigma * scale, resolving_power=resolving_power)
        number += 1
    return whole, orders


def assert_labels_agree(whole, merged):
    """Check that labels are the same within their errors, and that these are not much larger."""
    table = SpectraFM.from_pretrained().infer([whole, merged], labels=LABELS)
    assert table["flag"].tolist() == [0, 0]
    for name in LABELS:
        (first, second), errors = table[name].value, table[f"e_{name}"].value
        assert abs(first - second) < np.hypot(*errors), name
        assert errors[1] < 1.8 * errors[0], name


@pytest.mark.parametrize("first", [15, 65])
@pytest.mark.parametrize(
    "labels", [{"teff": 5770, "logg": 4.44, "fe_h": 0.0}, {"teff": 4500, "logg": 2.0, "fe_h": -0.5}]
)
def test_labels_of_synthetic_orders(labels, first):
    """Labels of 16 and 68 blazed orders are those of the whole spectrum."""
    wavelength = np.exp(np.arange(np.log(3620), np.log(7430), 4e-5))
    spectrum = load_emulator("optical").spectrum(spectral_axis=wavelength * u.AA, **labels)
    flux = np.ravel(spectrum.flux.value) * (wavelength / 5000) ** -2
    whole, orders = echelle(wavelength, flux, first, resolving_power=1e4)
    assert len(orders) > first
    assert_labels_agree(whole, merge_orders(orders))


@pytest.mark.parametrize("star", ["HD001461", "HD003651"])
def test_labels_of_real_orders(shared_data, star):
    """Labels of a star of MILES, cut into 17 blazed orders, are those of the whole spectrum."""
    miles = read_miles(shared_data / "miles")
    flux = miles.flux[np.flatnonzero(miles.identifier == star)[0]].astype(np.float64)
    whole, orders = echelle(miles.wavelength, flux / np.median(flux), 15, resolving_power=2000)
    assert_labels_agree(whole, merge_orders(orders))


def few(n_order=3, errors=True):
    """Return orders that overlap, with lines, on axes of their own."""
    found = []
    for number in range(n_order):
        wavelength = 5000 + 80 * number + np.linspace(0, 100, 1001 + 40 * number)
        lines = 1 - 0.5 * np.exp(-0.5 * ((wavelength % 10 - 5) / 0.5) ** 2)
        blaze = np.cos((wavelength - wavelength.mean()) / 40)
        sigma = 0.01 * np.sqrt(blaze) if errors else None
        found += from_arrays(wavelength, lines * blaze, sigma)
    return found


def assert_same(one, other, rtol=0.0):
    """Check that two spectra are the same."""
    for name in ("wavelength", "flux", "sigma", "good"):
        assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, err_msg=name)


@settings(max_examples=5)
@given(st.permutations(range(4)))
def test_order_of_orders(places):
    """It does not matter in which order orders come."""
    orders = few(4)
    assert_same(merge_orders(orders), merge_orders([orders[place] for place in places]))


def test_scale_of_orders():
    """It does not matter on which scale an order is."""
    orders = few()
    scaled = [replace(o, flux=o.flux * s, sigma=o.sigma * s) for o, s in zip(orders, (3.0, 1e-17, 700.0), strict=True)]
    assert_same(merge_orders(orders), merge_orders(scaled), rtol=1e-9)


def test_one_order():
    """One order alone is itself, and so is what was merged."""
    [order] = few(1)
    assert_same(merge_orders([order]), order)
    merged = merge_orders(few())
    assert_same(merge_orders(merged), merged)


def test_duplicates():
    """The same order twice has half the variance, and nothing else changes."""
    orders = few()
    once, twice = merge_orders(orders), merge_orders(orders + orders)
    assert_array_equal(twice.wavelength, once.wavelength)
    assert_allclose(twice.flux, once.flux, rtol=1e-6)
    assert_allclose(twice.sigma, once.sigma / np.sqrt(2), rtol=1e-6)


def test_overlaps():
    """The axis is that of the order that tells more; nothing is lost, and no information is counted twice."""
    one, other = few(2)
    merged = merge_orders([one, other])
    middle = 0.5 * (one.wavelength[-1] + other.wavelength[0])
    assert np.isin(merged.wavelength[merged.wavelength < middle - 4], one.wavelength).all()
    assert np.isin(merged.wavelength[merged.wavelength > middle + 4], other.wavelength).all()
    assert merged.good.all()
    assert (np.diff(merged.wavelength) > 0.02).all()
    told = sum(((order.flux / order.sigma) ** 2).sum() for order in (one, other))
    assert_allclose(((merged.flux / merged.sigma) ** 2).sum(), told, rtol=0.01)
    # where only one order is, S/N stays
    alone = merged.wavelength < other.wavelength[0] - 0.1
    assert_allclose((merged.flux / merged.sigma)[alone], (one.flux / one.sigma)[: alone.sum()], rtol=1e-9)
    # the blaze is gone
    assert np.ptp(ContinuumNormalizer().divisor(merged.wavelength[None], merged.flux[None], merged.good[None])) < 0.1


def test_bad_pixels():
    """A bad pixel of one order is that of another where there is one, and bad otherwise."""
    orders = few(2)
    good = orders[0].good.copy()
    good[[100, 900]] = False
    bad = replace(orders[0], good=good, flux=np.where(good, orders[0].flux, 1e9))
    merged = merge_orders([bad, orders[1]])
    assert merged.good.all()
    assert merged.flux.max() < 2
    steps = np.diff(merged.wavelength)
    assert_allclose(steps[np.searchsorted(merged.wavelength, bad.wavelength[100]) - 1], 0.2)
    assert steps[np.searchsorted(merged.wavelength, bad.wavelength[900]) - 1] < 0.2


def test_without_errors():
    """No errors in any order are none in the result; some with and some without are refused."""
    merged = merge_orders(few(errors=False))
    assert merged.flags == Flag.NO_UNCERTAINTY
    assert np.isnan(merged.sigma).all()
    assert merged.good.all()
    with pytest.raises(InputValueError, match="orders: no usable errors in number 0, 1, but in 3 others"):
        merge_orders([*few(2, errors=False), *few()])


def test_what_is_kept():
    """Name, resolving power and medium stay, and counts add up."""
    orders = [replace(order, identifier=f"HD 1:{row}", resolving_power=2e4) for row, order in enumerate(few())]
    merged = merge_orders([*orders[:2], replace(orders[2], resolving_power=np.nan)])
    assert (merged.identifier, merged.resolving_power, merged.medium) == ("HD 1", 2e4, "vacuum")
    assert merged.counts["n_pixel"] == sum(len(order.wavelength) for order in orders)
    assert merge_orders(few()).identifier == "0"
    assert merge_orders(few(), identifier="X").identifier == "X"


def collection(spectra):
    """Return spectra of one length as a collection."""
    flux, axis = (u.Quantity([getattr(one, name) for one in spectra]) for name in ("flux", "spectral_axis"))
    sigma = StdDevUncertainty(np.stack([one.uncertainty.array for one in spectra]), unit=flux.unit)
    return SpectrumCollection(flux=flux, spectral_axis=axis, uncertainty=sigma)


@pytest.mark.parametrize("kind", [list, SpectrumList, collection])
def test_holders(kind):
    """Whatever `to_arrays` reads is understood, and its keywords are."""
    flux, sigma = np.ones(200) * u.Jy, StdDevUncertainty(np.full(200, 0.01))
    axes = [np.linspace(low, low + 100, 200) * u.AA for low in (5000, 5080)]
    spectra = [Spectrum(flux=flux, spectral_axis=axis, uncertainty=sigma) for axis in axes]
    spectrum_options = {"medium": "air", "radial_velocity": 30 * u.km / u.s, "resolving_power": [1e4, 3e4]}
    merged = merge_orders(kind(spectra), **spectrum_options)
    assert_same(merged, merge_orders(to_arrays(spectra, **spectrum_options)))
    assert (merged.medium, merged.resolving_power) == ("air", 2e4)
    assert_allclose(merged.flux, 1, atol=0.01)


def test_no_good_pixels():
    """Orders without a good pixel give a spectrum without one."""
    orders = from_arrays(np.linspace(5000, 5100, 50), np.full((2, 50), np.nan), np.ones((2, 50)))
    merged = merge_orders(orders)
    assert merged.flags & Flag.NO_GOOD_PIXELS
    assert merged.n_good == 0


@pytest.mark.parametrize("factor", [-1.0, -1e-3, 0.0])
def test_order_below_zero(factor):
    """An order of which nothing is above zero has no continuum: it is left out, and does not enter by itself."""
    wavelength = np.exp(np.arange(np.log(5000), np.log(7000), 4e-5))
    _, orders = echelle(wavelength, 1 - 0.5 * np.exp(-0.5 * ((wavelength % 10 - 5) / 0.5) ** 2), 40)
    assert len(orders) > 9
    without = merge_orders([*orders[:4], *orders[5:]])
    merged = merge_orders([*orders[:4], replace(orders[4], flux=factor * np.abs(orders[4].flux)), *orders[5:]])
    assert_array_equal(merged.wavelength, without.wavelength)
    assert_allclose(merged.flux, without.flux, rtol=0.02)
    # the same of few orders, each with a continuum of its own
    orders = few()
    assert_same(merge_orders([*orders[:2], replace(orders[2], flux=-orders[2].flux)]), merge_orders(orders[:2]))


def test_mistakes():
    """What cannot be merged is told in words."""
    with pytest.raises(InputValueError, match="orders: there is none"):
        merge_orders([])
    with pytest.raises(InputTypeError, match="identifier: 3; expected one name"):
        merge_orders(few(), identifier=3)
    with pytest.raises(InputValueError, match="orders: number 3 cannot be used, got NoneType"):
        merge_orders([*few(), None])
    arm = Spectrum(np.ones((3, 50)) * u.Jy, np.linspace(5000, 5100, 50) * u.AA)
    with pytest.raises(
        InputValueError, match=r"orders: 2 spectra with 3 rows each, .* merge_orders\(stars\[row::3\]\)"
    ):
        merge_orders(SpectrumList([arm, arm]))
    repeated = np.concatenate([few(2)[0].wavelength, few(2)[1].wavelength])
    for axis in (repeated, np.sort(np.append(repeated, 5085.0))):
        with pytest.raises(InputValueError, match=r"spectrafm\.adapters\.merge_orders"):
            from_arrays(axis, np.ones(len(axis)))
    # orders have scales of their own: they are not to be sorted, but other pixels are
    with pytest.raises(InputValueError, match="step back 1 time, as those of orders") as error:
        from_arrays(repeated, np.ones(len(repeated)))
    assert "sort" not in str(error.value)
    with pytest.raises(InputValueError, match="sort its pixels"):
        from_arrays([5000, 5002, 5001, 5003, 5005, 5004], np.ones(6))


def test_name_of_arms():
    """The name of the star is what its arms have in common, a number too."""
    arms = [replace(order, identifier=f"39627:{arm}") for order, arm in zip(few(), "brz", strict=True)]
    assert merge_orders(arms).identifier == "39627"
    assert merge_orders([replace(arm, identifier="39627") for arm in arms]).identifier == "39627"
    assert merge_orders([*arms[:2], replace(arms[2], identifier="39628:z")]).identifier == "0"


def test_velocity_of_orders():
    """A velocity that was taken out of all orders was taken out of the star, and is no other one's."""
    orders = [replace(order, radial_velocity=25.0) for order in few()]
    assert merge_orders(orders).radial_velocity == 25.0
    assert merge_orders([*orders[:2], replace(orders[2], radial_velocity=0.0)]).radial_velocity == 0.0
