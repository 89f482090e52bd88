"""Physics of the synthesis: lines where they belong, of the right strength, moved by the right labels.

Needs PySME and the prepared line lists; see docs/synthesis.rst.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from astropy import units as u

from spectrafm._spectral_units import air_to_vacuum
from spectrafm.benchmarks import benchmark_settings
from spectrafm.exceptions import InputValueError, SpectraFMError
from spectrafm.synthesis import WINDOWS, load_linelist, synthesize, synthesizer

_SUN = {"teff": 5777, "logg": 4.44, "vmicro": 1.0}
_GIANT = {"teff": 4200, "logg": 1.5, "fe_h": -0.2}


def _missing():
    try:
        for window in WINDOWS.values():
            synthesizer.check_ready(window)
    except SpectraFMError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=f"cannot synthesize: {_missing()}")


@cache
def _fine(window, lower, upper, labels):
    """Return wavelengths and flux before convolution, between two wavelengths."""
    part = replace(WINDOWS[window], lower=lower, upper=upper, margin=10.0)
    return synthesizer._fine_flux(synthesizer.complete_labels(dict(labels)), part)


def fine(window, lower, upper, **labels):
    """Return wavelengths and flux before convolution, between two wavelengths."""
    return _fine(window, lower, upper, tuple(labels.items()))


@pytest.mark.parametrize(
    ("window", "air"),
    [
        # NIST, air
        ("apogee", (15740.716, 15748.988, 15765.842)),  # Mg
        ("apogee", (16718.957, 16750.564)),  # Al
        ("apogee", (15960.063, 16680.770)),  # Si
        ("apogee", (16150.763, 16157.364, 16197.075)),  # Ca
        ("apogee", (15207.530, 15294.560, 15648.510)),  # Fe
        ("gaia_rvs", (8498.023, 8542.091, 8662.141)),  # Ca II
        ("optical", (5172.684, 5183.604)),  # Mg b; the third is a blend with Fe
        ("optical", (6562.797,)),  # H alpha
        ("optical", (5889.951, 5895.924)),  # Na D
    ],
)
def test_lines_are_where_they_belong(window, air):
    """In the Sun the line cores lie at the vacuum wavelengths, to 0.06 Angstrom."""
    for position in air_to_vacuum(np.array(air)):
        wavelength, flux = fine(window, position - 1.0, position + 1.0, **_SUN)
        near = np.abs(wavelength - position) < 0.5
        deepest = wavelength[near][flux[near].argmin()]
        assert deepest == pytest.approx(position, abs=0.06)
        assert flux[near].min() < 0.8


def _change_at_lines(species, label, step, lower=15_600.0, upper=15_800.0):
    """Return the median change of the flux at the strongest lines of a species, in a giant."""
    n_line = 25 if len(species.split()[0]) > 1 and species[1:2].isupper() else 4
    _, before = fine("apogee", lower, upper, **_GIANT)
    wavelength, after = fine("apogee", lower, upper, **_GIANT | {label: _GIANT.get(label, 0.0) + step})
    lines = load_linelist("apogee")
    lines = lines.take((lines.species == species) & (lines.atomic[2] > lower) & (lines.atomic[2] < upper))
    strength = lines.atomic[4] - 5040 / _GIANT["teff"] * lines.atomic[3]
    strength += np.log10([18 / 19, 1 / 19]) @ lines.n_carbon
    center = lines.atomic[2][np.argsort(strength)[-n_line:]]
    return np.median(np.interp(center, wavelength, after - before))


@pytest.mark.parametrize(
    ("label", "species", "sign"),
    [
        ("o_fe", b"OH 1", -1),
        ("o_fe", b"CN 1", 1),
        ("c_fe", b"CN 1", -1),
        ("c_fe", b"CO 1", -1),
        ("n_fe", b"CN 1", -1),
        ("fe_h", b"Fe 1", -1),
        ("mg_fe", b"Mg 1", -1),
        ("ti_fe", b"Ti 1", -1),
        ("ni_fe", b"Ni 1", -1),
    ],
)
def test_labels_act_with_the_right_sign(label, species, sign):
    """In giants more O deepens OH and takes C from CN; C and N deepen CN and CO; elements deepen their lines."""
    assert sign * _change_at_lines(species, label, 0.2) > 0.0005


def test_element_acts_on_its_own_lines():
    """Calcium changes its own lines in the Sun, and hardly anything else."""
    wavelength, before = fine("apogee", 16_140.0, 16_220.0, **_SUN)
    _, after = fine("apogee", 16_140.0, 16_220.0, **_SUN, ca_fe=0.3)
    lines = load_linelist("apogee")
    center = lines.atomic[2, (lines.species == b"Ca 1") & (lines.atomic[4] > -3)]
    near = (np.abs(wavelength[:, None] - center) < 4.0).any(axis=1)
    assert np.abs(after - before)[near].max() > 0.02
    assert np.abs(after - before)[~near].max() < 0.005


def test_isotopes_of_carbon():
    """Less 13C means weaker lines of 13CO and no change in atoms."""
    wavelength, rich = fine("apogee", 15_600.0, 15_800.0, **_GIANT, c12_c13=5.0)
    _, poor = fine("apogee", 15_600.0, 15_800.0, **_GIANT, c12_c13=90.0)
    lines = load_linelist("apogee")
    inside = (lines.atomic[2] > 15_600.0) & (lines.atomic[2] < 15_800.0)
    with_13c = inside & (lines.species == b"CN 1") & (lines.n_carbon[1] == 1) & (lines.atomic[4] > -2)
    assert np.abs(poor - rich).max() > 0.01
    assert np.median(np.interp(lines.atomic[2, with_13c], wavelength, poor - rich)) > 0


def test_brackett_lines_are_not_too_deep():
    """Brackett 11 is 3 to 6 per cent deep at the Sun's temperature and gravity."""
    wavelength, flux = fine("apogee", 16_780.0, 16_840.0, **_SUN, fe_h=-4.0)
    assert 0.03 < 1 - np.interp(16811.12, wavelength, flux) < 0.06


def test_brackett_wings_have_no_edge():
    """Where the library cuts the profiles, the flux of a hot star goes on smoothly."""
    wavelength, flux = fine("apogee", 16_740.0, 16_880.0, teff=7600, logg=4.2, fe_h=-3.5)
    assert flux.min() < 0.87
    assert np.abs(np.diff(flux)).max() < 0.002


@pytest.mark.parametrize("teff", [5777, 7500])
def test_brackett_product_is_like_joint_synthesis(teff):
    """Brackett lines multiplied in give nearly the same as lines synthesized together: saturated cores differ."""
    labels = synthesizer.complete_labels({"teff": teff, "logg": 4.3})
    part = replace(WINDOWS["apogee"], lower=16_805.0, upper=16_830.0, margin=10.0)
    wavelength, product = synthesizer._fine_flux(labels, part)
    joint = _joint_brackett(labels, part)
    # the joint one has no wings of the other Brackett lines
    difference = product - joint * np.median(product / joint)
    assert np.abs(difference).max() < 0.04
    assert difference.std() < 0.006


def _joint_brackett(labels, part):
    """Return the flux with Brackett 11 and metals in one synthesis."""
    transfer = synthesizer._transfer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesizer, "_brackett", lambda library, window, lines, wavelength: 0.0)

        def joint(library, window, wavelength, start, end, strong):
            lines = load_linelist(window)
            number = np.flatnonzero(lines.is_hydrogen & (lines.atomic[7] == 11))[0]
            center = lines.atomic[2, number]
            # found again by its range, which is that of no other line
            which = (start < center) & (end > center) & (end - start > 100)
            return transfer(library, window, wavelength, start, end, strong | which)

        patch.setattr(synthesizer, "_transfer", joint)
        return synthesizer._fine_flux(labels, part)[1]


def test_hot_stars_have_strong_balmer_and_paschen_lines():
    """H delta and Paschen 14 are deep at 7500 K and shallow at 4500 K; their wings are wide."""
    for window, center, deep, wing in (("optical", 4102.89, 0.6, 5.0), ("gaia_rvs", 8600.75, 0.1, 5.0)):
        wavelength, hot = fine(window, center - 8, center + 8, teff=7500, logg=4.2, fe_h=-2.5)
        _, cool = fine(window, center - 8, center + 8, teff=4500, logg=1.5, fe_h=-2.5)
        assert 1 - hot[np.abs(wavelength - center) < 1].min() > deep
        at_wing = np.abs(np.abs(wavelength - center) - wing) < 0.5
        assert np.median(hot[at_wing]) < np.median(cool[at_wing]) - 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("air", "published"),
    [
        # equivalent widths in the Sun [mA], rounded; oscillator strengths are not tuned to them
        (6154.230, 38.0),  # Na
        (6160.753, 58.0),  # Na
        (6166.440, 69.0),  # Ca
        (6170.516, 79.0),  # Fe
        (6173.341, 67.0),  # Fe
        (6176.816, 62.0),  # Ni
        (6240.653, 48.0),  # Fe
        (6246.327, 117.0),  # Fe
        (6261.104, 48.0),  # Ti
    ],
)
def test_equivalent_widths_of_the_sun(air, published):
    """Equivalent widths of clean lines are within 40 per cent of those measured in the Sun."""
    center = air_to_vacuum(np.array([air]))[0]
    wavelength, flux = fine("optical", 6150.0, 6270.0, **_SUN)
    inside = np.abs(wavelength - center) < 0.22
    width = 1000 * np.trapezoid(1 - flux[inside], wavelength[inside])
    assert width == pytest.approx(published, rel=0.4)


def test_spectrum_is_a_specutils_spectrum():
    """What users get has units, medium, labels and resolving power, and lies within the window."""
    window = replace(WINDOWS["gaia_rvs"], lower=8_530.0, upper=8_560.0)
    spectrum = synthesize(_SUN, window, resolving_power=5000)
    assert spectrum.flux.unit == u.dimensionless_unscaled
    assert spectrum.spectral_axis.unit == u.AA
    assert spectrum.spectral_axis.value.min() >= window.lower
    assert spectrum.spectral_axis.value.max() <= window.upper
    assert spectrum.meta["labels"]["vmicro"] == 1.0
    assert spectrum.meta["resolving_power"] == 5000
    assert spectrum.meta["medium"] == "vacuum"
    assert 0.3 < spectrum.flux.value.min() < 0.6


def test_resolution_keeps_the_equivalent_width():
    """Convolution changes the depth of a line and not its equivalent width."""
    window = replace(WINDOWS["gaia_rvs"], lower=8_600.0, upper=8_640.0)
    high, low = (synthesize({"teff": 5777, "logg": 4.4, "fe_h": -1}, window, r) for r in (30_000, 6_000))
    assert low.flux.value.min() > high.flux.value.min() + 0.1
    assert (1 - low.flux.value).sum() == pytest.approx((1 - high.flux.value).sum(), rel=0.02)


def test_resolution_that_is_too_high():
    """More than the base resolving power cannot be had."""
    with pytest.raises(InputValueError, match=r"resolving_power: got 100000.0?, expected .* up to 35000"):
        synthesize(_SUN, "gaia_rvs", 100_000.0)


def test_flux_that_is_no_spectrum():
    """Zeros, NaN and flat spectra, which the library gives in silence, are errors."""
    labels = {"teff": 5777.0}
    for flux, message in (
        (np.zeros(9), "flux between 0 and 0"),
        (np.full(9, np.nan), "flux that is not finite"),
        (np.ones(9), "no lines at all"),
    ):
        with pytest.raises(SpectraFMError, match=message):
            synthesizer._check(flux, labels)


@pytest.mark.slow
def test_settings_are_fine_enough():
    """A much finer synthesis changes the flux by less than 0.005, and not by nothing."""
    part = replace(WINDOWS["gaia_rvs"], lower=8535.0, upper=8550.0, margin=10.0)
    lines = list(benchmark_settings(windows=[part]))
    assert lines[1].startswith("gaia_rvs: R 11,500; steps of 1.75 km/s")
    differences = [float(line[30:].split()[0]) for line in lines[2:]]
    assert len(differences) == 5
    assert 0 < min(differences) <= max(differences) < 0.005
