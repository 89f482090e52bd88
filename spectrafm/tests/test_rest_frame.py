"""Velocities that are measured and taken out before labels are predicted."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from specutils import Spectrum, SpectrumList

from spectrafm import SpectraFM
from spectrafm._spectral_units import doppler_factor, radial_velocity
from spectrafm.adapters import from_arrays, to_arrays
from spectrafm.datasets import load_example_spectrum
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.synthesis import load_emulator

GIANT = {"teff": 4800.0, "logg": 2.5, "fe_h": -0.3}
LABELS = ["teff", "logg", "fe_h"]


@pytest.fixture(scope="module")
def fm():
    """Return the packaged weights."""
    return SpectraFM.from_pretrained("base")


def giant(velocity, snr=60.0, seed=1, labels=GIANT, **more):
    """Return the spectrum of a giant, or another star, around the calcium triplet, moving with a velocity [km/s]."""
    wavelength = np.geomspace(8470.0, 8690.0, 900)
    rest = wavelength / doppler_factor(velocity)
    flux = load_emulator("gaia_rvs").spectrum(**labels, resolving_power=11_500, spectral_axis=rest * u.AA).flux.value
    flux = flux + np.random.default_rng(seed).normal(size=len(flux)) / snr
    sigma = StdDevUncertainty(np.full(len(flux), 1 / snr))
    return Spectrum(flux * u.one, wavelength * u.AA, uncertainty=sigma, **more)


def test_velocities_are_the_inverse_of_doppler_factors():
    """Also near the speed of light."""
    velocity = np.array([-2e5, -300.0, 0.0, 12.5, 2e5])
    np.testing.assert_allclose(radial_velocity(doppler_factor(velocity)), velocity, atol=1e-9)


@pytest.mark.parametrize("velocity", [-620.0, -40.0, 0.0, 130.0, 450.0])
def test_labels_of_moving_stars(fm, velocity):
    """Labels are right, with errors as at rest, however fast the star moves; the velocity is in the table."""
    table = fm.infer(giant(velocity), labels=LABELS, radial_velocity="measure")
    rest = fm.infer(giant(0.0), labels=LABELS)
    assert table["flag"][0] == 0
    for name in LABELS:
        assert abs(table[name].value[0] - GIANT[name]) < 3 * rest[f"e_{name}"].value[0]
        assert table[f"e_{name}"].value[0] < 1.5 * rest[f"e_{name}"].value[0]
    found, error = table["radial_velocity"][0], table["e_radial_velocity"][0]
    assert error.to_value(u.km / u.s) < 2
    assert abs(found.to_value(u.km / u.s) - velocity) < 4 * error.to_value(u.km / u.s)
    assert table["radial_velocity"].info.meta["ucd"] == "spect.dopplerVeloc"


def test_a_velocity_that_the_object_has_is_part_of_it(fm):
    """What the spectrum says of itself is taken out first, and the velocity in the table is the whole."""
    told = giant(130.0, radial_velocity=100 * u.km / u.s)
    [star] = to_arrays(told)
    assert star.radial_velocity == pytest.approx(100)
    assert np.isnan(star.radial_velocity_error)
    table = fm.infer(told, radial_velocity="measure")
    assert abs(table["radial_velocity"][0].value - 130) < 4 * table["e_radial_velocity"][0].value
    assert abs(table["rv_offset"][0].value) < 3 * table["e_rv_offset"][0].value


def test_each_star_for_itself(fm):
    """Spectra without lines keep their wavelengths, unusable ones their flag, and batch mates do not matter."""
    nothing = Spectrum(np.full(900, np.nan) * u.one, np.geomspace(8470.0, 8690.0, 900) * u.AA)
    stars = SpectrumList([giant(60.0), load_example_spectrum(), nothing, giant(-60.0)])
    with pytest.warns(UserWarning, match="masked"):
        table = fm.infer(stars, radial_velocity="measure", batch_size=3)
    assert table["radial_velocity"].mask.tolist() == [False, True, True, False]
    assert table["e_radial_velocity"].mask.tolist() == [False, True, True, False]
    plain = fm.infer(load_example_spectrum(), labels="teff")
    np.testing.assert_allclose(table["teff"][1].value, plain["teff"][0].value, rtol=1e-4)
    alone = fm.infer(giant(-60.0), radial_velocity="measure")
    np.testing.assert_allclose(table["radial_velocity"][3].value, alone["radial_velocity"][0].value, atol=0.02)
    # arrays whose velocity was measured before say so again
    assert "radial_velocity" not in fm.infer(giant(0.0)).colnames


def test_known_tables_may_hold_velocities(fm):
    """Rows of results are taken as known with all of their columns."""
    table = fm.infer(giant(20.0), labels=LABELS, radial_velocity="measure")
    again = fm.infer(giant(20.0), labels="mg_fe", known=table, radial_velocity="measure")
    assert np.isfinite(again["mg_fe"][0])
    assert "rv_offset" not in again.meta["known"]


def test_other_methods_take_it(fm):
    """Everything that reads spectra can measure velocities."""
    star, rest = giant(90.0), giant(0.0)
    assert fm.diagnose(star, radial_velocity="measure")["rv_significance"][0] < 1.5
    there, here, moving = fm.embed(rest), fm.embed(star, radial_velocity="measure"), fm.embed(star)
    assert np.linalg.norm(here - there) < 0.3 * np.linalg.norm(moving - there)
    [found] = fm.reconstruct(star, radial_velocity="measure")
    line = found.spectral_axis[np.argmin(found.flux)].value
    assert abs(line - 8544.4) < 1.0
    attention = fm.attention(star, "fe_h", radial_velocity="measure")
    np.testing.assert_allclose(attention["wavelength"][0].value, 8470.0 / doppler_factor(90.0), rtol=1e-5)
    dwarf = giant(-50.0, labels={"teff": 6000.0, "logg": 4.3, "fe_h": 0.2})
    assert fm.similar(star, [dwarf, rest], n=1, radial_velocity="measure")["match"][0] == 1


def test_errors_of_velocities_hold_where_lines_are_weak(fm):
    """The prior of the training stars, which were near rest, is in neither velocities nor errors."""
    wavelength = np.geomspace(4300.0, 6500.0, 1500)
    velocity, random = np.linspace(-300.0, 300.0, 12), np.random.default_rng(3)
    emulator, flux = load_emulator("optical"), []
    for moving in velocity:
        axis = wavelength / doppler_factor(moving) * u.AA
        flux.append(emulator.spectrum(teff=5000.0, logg=2.0, fe_h=-2.3, resolving_power=1800, spectral_axis=axis).flux)
    flux = np.array(flux) + random.normal(size=(12, 1500)) / 30
    stars = from_arrays(wavelength, flux, np.full((12, 1500), 1 / 30))
    table = fm.infer(stars, labels="teff", radial_velocity="measure")
    z = (table["radial_velocity"].value - velocity) / table["e_radial_velocity"].value
    assert np.sqrt(np.mean(z**2)) < 1.3
    assert np.abs(z).max() < 3


def test_what_cannot_be_measured(fm, tmp_path):
    """Another word, and weights that predict no velocity."""
    with pytest.raises(InputTypeError, match="radial_velocity: 'auto'; expected a speed with its unit, or 'measure'"):
        fm.infer(giant(0.0), radial_velocity="auto")
    xp = SpectraFM.from_pretrained("gaia_xp")
    with pytest.raises(InputValueError, match="the weights 'gaia_xp' do not predict rv_offset"):
        xp.infer(load_example_spectrum(), radial_velocity="measure")


def test_arrays_can_be_moved(fm):
    """Stars given as arrays are measured like any others, and two moves are one."""
    spectrum = giant(45.0)
    [star] = from_arrays(spectrum.spectral_axis, spectrum.flux.value, spectrum.uncertainty.array)
    found = fm.infer(star, radial_velocity="measure")["radial_velocity"][0].value
    assert abs(found - 45) < 2
    twice = star.moved_to_rest(30.0, 1.0).moved_to_rest(15.0, 2.0)
    once = doppler_factor(30.0) * doppler_factor(15.0)
    np.testing.assert_allclose(twice.wavelength, star.wavelength / once)
    assert twice.radial_velocity == pytest.approx(float(radial_velocity(once)))
    assert twice.radial_velocity_error == 2.0
