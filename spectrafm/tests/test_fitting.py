"""Labels out of spectra by least squares."""

import itertools

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import StdDevUncertainty
from specutils import Spectrum

from spectrafm.benchmarks import run_benchmark
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.synthesis import fit_labels
from spectrafm.tests.fake_grid import LABELS, fake_emulator

STAR = {"teff": 5200.0, "logg": 3.4, "fe_h": -0.4, "mg_fe": 0.1, "vmicro": 1.3}
POWER = 18_000.0


def _observed(snr=200.0, velocity=0.0, with_errors=True, seed=0):
    """Return a noisy spectrum with a sloping continuum, a gap, and bad pixels that are masked."""
    axis = np.concatenate((np.linspace(16_004, 16_047, 220), np.linspace(16_068, 16_096, 150))) * u.AA
    clean = fake_emulator().spectrum(
        **STAR, resolving_power=POWER, vsini=4.0, radial_velocity=velocity, spectral_axis=axis
    )
    x = (axis.value - 16_050) / 50
    continuum = 3e-14 * np.where(x < 0, 1 + 0.3 * x, 0.7 - 0.2 * x + 0.1 * x**2)
    sigma = continuum / snr
    flux = clean.flux.value * continuum + sigma * np.random.default_rng(seed).normal(size=len(axis))
    mask = np.zeros(len(axis), dtype=bool)
    mask[[30, 31, 250]] = True
    flux[mask] *= 5
    unit = u.Unit("erg / (s cm2 AA)")
    uncertainty = StdDevUncertainty(sigma * unit) if with_errors else None
    return Spectrum(flux=flux * unit, spectral_axis=axis, uncertainty=uncertainty, mask=mask)


def test_labels_are_found():
    """Labels come back within their errors, with the continuum and a velocity unknown."""
    free = (*LABELS, "radial_velocity")
    fit = fit_labels(fake_emulator(), _observed(velocity=12.0), free=free, resolving_power=POWER, vsini=4.0, degree=2)
    assert fit.converged
    assert not fit.at_edge
    assert fit.free == free
    for name in LABELS:
        assert abs(fit.labels[name] - STAR[name]) < 4 * fit.errors[name], name
    assert abs(fit.labels["radial_velocity"] - 12.0) < 4 * fit.errors["radial_velocity"]
    assert fit.errors["teff"] < 100
    assert fit.errors["fe_h"] < 0.1
    assert 0.75 < fit.chi2 / fit.n_freedom < 1.25
    assert fit.n_freedom == 367 - 6 - 6
    assert fit.residual_rms < 0.007
    assert fit.correlation > 0.95
    assert "teff 5" in repr(fit)
    assert fit.spectrum.flux.unit == u.one
    np.testing.assert_allclose(fit.spectrum.flux.value, fit.model)
    np.testing.assert_allclose(np.diag(fit.covariance) ** 0.5, list(fit.errors.values()))


def test_errors_are_right():
    """Over many noisy spectra the deviations are as large as the errors say."""
    deviations = []
    for seed in range(7):
        fit = fit_labels(
            fake_emulator(),
            _observed(seed=seed),
            free=("teff", "fe_h", "mg_fe"),
            labels={"logg": 3.4, "vmicro": 1.3},
            resolving_power=POWER,
            vsini=4.0,
            degree=2,
            n_start=1,
        )
        deviations += [(fit.labels[name] - STAR[name]) / fit.errors[name] for name in fit.free]
    assert 0.6 < np.std(deviations) < 1.5


def test_without_errors():
    """Without errors the residuals themselves say how large the errors are; chi square is not known."""
    given = {"free": ("teff", "fe_h"), "labels": {"logg": 3.4, "mg_fe": 0.1, "vmicro": 1.3}, "vsini": 4.0, "degree": 2}
    fit = fit_labels(fake_emulator(), _observed(with_errors=False), resolving_power=POWER, **given)
    like = fit_labels(fake_emulator(), _observed(), resolving_power=POWER, **given)
    assert np.isnan(fit.chi2)
    assert abs(fit.labels["teff"] - 5200) < 4 * fit.errors["teff"]
    assert 0.5 < fit.errors["teff"] / like.errors["teff"] < 2


def test_instrument_is_found():
    """Resolving power and rotation may be unknown; what is not free follows from the rest."""
    fit = fit_labels(
        fake_emulator(),
        _observed(snr=500.0),
        free=("teff", "fe_h", "resolving_power"),
        labels={"logg": 3.4, "mg_fe": 0.1},
        resolving_power=12_000.0,
        vsini=4.0 * u.km / u.s,
    )
    assert abs(fit.labels["resolving_power"] - POWER) < 0.1 * POWER
    # not 1.3, but what is usual for such a star
    assert fit.labels["vmicro"] == pytest.approx(1.08, abs=0.15)
    assert "vmicro" not in fit.errors


def test_a_model_error_counts():
    """A relative error of the model makes chi square smaller and weighs all pixels more alike."""
    given = {"free": ("teff", "fe_h"), "labels": {"logg": 4.5, "vmicro": 1.3}, "resolving_power": POWER}
    plain = fit_labels(fake_emulator(), _observed(snr=500.0), **given)
    tolerant = fit_labels(fake_emulator(), _observed(snr=500.0), **given, model_error=0.02)
    assert tolerant.chi2 < 0.2 * plain.chi2


@pytest.mark.parametrize("with_errors", [True, False])
def test_artefacts(with_errors):
    """Spikes and dips that nothing tells are left out, unless they are asked for, and are told."""
    given = {"free": ("teff", "fe_h"), "labels": {"logg": 3.4, "mg_fe": 0.1, "vmicro": 1.3}, "vsini": 4.0, "degree": 2}
    given["resolving_power"] = POWER
    clean = _observed(with_errors=with_errors)
    flux = clean.flux.copy()
    places = [100, 101, 102, 300]
    flux[places] *= np.array([0.3, 0.2, 0.4, 3.0])
    spoilt = Spectrum(flux=flux, spectral_axis=clean.spectral_axis, uncertainty=clean.uncertainty, mask=clean.mask)
    expected, fit, kept = (
        fit_labels(fake_emulator(), star, **given, **more)
        for star, more in ((clean, {}), (spoilt, {}), (spoilt, {"reject": None}))
    )
    assert not len(expected.rejected)
    np.testing.assert_allclose(fit.rejected, clean.spectral_axis.value[places])
    assert not np.isin(fit.rejected, fit.wavelength).any()
    assert len(fit.wavelength) == len(expected.wavelength) - len(places)
    assert fit.n_freedom == expected.n_freedom - len(places)
    assert not len(kept.rejected)
    for name in fit.free:
        assert abs(fit.labels[name] - expected.labels[name]) < expected.errors[name]
        assert abs(kept.labels[name] - expected.labels[name]) > 3 * abs(fit.labels[name] - expected.labels[name])
        assert fit.errors[name] == pytest.approx(expected.errors[name], rel=0.1)


def test_pieces():
    """A long spectrum may be cut into pieces, each with its own polynomial."""
    given = {"free": ("teff", "fe_h"), "labels": {"logg": 3.4, "mg_fe": 0.1, "vmicro": 1.3}, "vsini": 4.0}
    one = fit_labels(fake_emulator(), _observed(), resolving_power=POWER, degree=1, **given)
    more = fit_labels(fake_emulator(), _observed(), resolving_power=POWER, degree=1, piece=1.5 * u.nm, **given)
    # the gap parts two pieces; of 15 Angstrom at most there are three and two
    assert one.n_freedom - more.n_freedom == 2 * 3
    assert more.residual_rms < one.residual_rms


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"free": ("teff", "age")}, InputValueError, "free: unknown 'age'; expected some of teff, logg, fe_h, mg_fe"),
        ({"free": "teff", "labels": {"teff": 5000, "logg": 3}}, InputValueError, "free: 'teff' is in labels too"),
        ({"resolving_power": None}, InputValueError, "resolving_power: not known; give it"),
        ({"resolving_power": 1e5}, InputValueError, "resolving_power: 100000; expected a value from 10 to 25000"),
        ({"vmacro": [3.0, 4.0]}, InputValueError, r"vmacro: shape \(2,\); expected one number, the same for all"),
        ({"piece": [20.0, 30.0]}, InputValueError, r"piece: shape \(2,\); expected one number"),
        ({"vsini": -3.0}, InputValueError, "vsini: -3; expected a value from 0 to 300"),
        ({"labels": {"logg": 9.0}}, InputValueError, "labels: logg is 9; expected a value from"),
        ({"free": "fe_h"}, InputValueError, "labels: teff is missing"),
        ({"piece": 0.0}, InputValueError, "piece: 0; expected a positive length"),
        ({"n_start": 0}, InputValueError, "n_start: 0; expected an integer of 1 or more"),
        ({"degree": -1}, InputValueError, "degree: -1; expected an integer of 0 or more"),
        ({"degree": 2.5}, InputValueError, "degree: 2.5; expected an integer of 0 or more"),
        ({"reject": 0}, InputValueError, "reject: 0; expected a positive number of standard deviations, or None"),
        ({"model_error": -1}, InputValueError, "model_error: -1; expected a number of 0 or more, in parts of the"),
        ({"model_error": np.nan}, InputValueError, "model_error: nan; expected a number of 0 or more"),
        ({"spectrum": 5}, InputTypeError, "spectra: got int"),
        ({"spectrum": [_observed(), _observed()]}, InputTypeError, "spectrum: it holds 2 stars; fit them one by one"),
    ],
)
def test_what_cannot_be(changes, error, message):
    """What makes no sense is told with its name and what is expected."""
    arguments = {"spectrum": _observed(), "resolving_power": POWER} | changes
    with pytest.raises(error, match=message):
        fit_labels(fake_emulator(), **arguments)


def test_spectrum_elsewhere():
    """A spectrum outside of the window says so."""
    axis = np.linspace(5000, 5100, 300) * u.AA
    with pytest.raises(InputValueError, match="spectrum: 0 good pixels within 16000 to 16100 Angstrom, for 5 labels"):
        fit_labels(fake_emulator(), Spectrum(flux=np.ones(300) * u.Jy, spectral_axis=axis), resolving_power=POWER)


def test_benchmark_says_what_is_missing(tmp_path):
    """Without emulators, or without stars, the report says so and goes on."""
    lines = list(run_benchmark("synthesis", tmp_path, tmp_path))
    told = ["apogee", "optical", "apogee", "gaia_rvs", "optical"]
    assert [line.partition(":")[0] for line in lines] == [f"no emulator {name}" for name in told]
    fake_emulator().save(tmp_path / "apogee")
    lines = list(run_benchmark("synthesis", tmp_path, tmp_path, rivals=False))
    assert lines[1].startswith("no comparison of apogee: data: no apStar-*.fits in")
    assert len(lines) == 3
    lines = list(run_benchmark("synthesis", tmp_path, tmp_path))
    assert "no thedoppler-*.whl in" in lines[4]


@pytest.mark.slow
def test_real_stars_of_apogee(shared_data):
    """The two real stars are fitted as closely as untuned lines allow."""
    lines = itertools.takewhile(lambda line: "'optical'" not in line, run_benchmark("synthesis", shared_data))
    residuals = [float(line.partition("RMS ")[2][:6]) for line in lines if "all labels free" in line]
    assert len(residuals) == 2
    assert residuals[0] < 0.05
    assert residuals[1] < 0.035
