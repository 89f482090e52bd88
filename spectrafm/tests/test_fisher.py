"""The smallest possible errors, against theory and against fits to noisy spectra."""

import numpy as np
import pytest
import torch
from astropy import units as u
from scipy.optimize import least_squares

from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.synthesis import Emulator, cramer_rao_bound
from spectrafm.synthesis.fisher import flux_jacobian
from spectrafm.tests.fake_grid import LABELS, fake_emulator, fake_grid

STAR = {"teff": 5200.0, "logg": 3.4, "fe_h": -0.4, "mg_fe": 0.1, "vmicro": 1.3}
PIXELS = np.linspace(16_002, 16_098, 300) * u.AA


class LinearEmulator(Emulator):
    """An emulator that is a linear function of its labels, but for the last, which does nothing."""

    def flux(self, labels, *, wavelength=None, **instrument):
        """Return spectra on 300 pixels."""
        return 1 + (labels - labels.new_tensor(list(STAR.values()))) @ self.slopes().to(labels)

    @staticmethod
    def slopes():
        """Return ``(n_label, n_pixel)``."""
        slopes = np.random.default_rng(0).normal(size=(5, 300)) * np.array([[1e-4], [0.01], [0.02], [0.01], [0.0]])
        return torch.tensor(slopes)


def _linear():
    emulator = fake_emulator()
    linear = LinearEmulator(emulator.info, emulator._tensors)
    linear.to = lambda dtype: linear
    return linear


def test_linear_model():
    """For a linear model the bound is the formula of the general linear fit; a label without effect has none."""
    bound = cramer_rao_bound(_linear(), STAR, 50.0, spectral_axis=PIXELS)
    design = LinearEmulator.slopes().numpy()[:4].T
    covariance = np.linalg.inv(design.T @ design) / 50.0**2
    np.testing.assert_allclose([bound[name][0] for name in LABELS[:4]], np.sqrt(np.diag(covariance)), rtol=1e-8)
    assert np.isinf(bound["vmicro"][0])
    even = cramer_rao_bound(_linear(), STAR, 50.0, spectral_axis=PIXELS, noise="continuum")
    np.testing.assert_allclose(even["teff"][0], bound["teff"][0], rtol=1e-12)
    one = cramer_rao_bound(_linear(), STAR, 50.0, spectral_axis=PIXELS, free="fe_h")
    np.testing.assert_allclose(one["fe_h"][0], 1 / 50 / np.linalg.norm(design[:, 2]), rtol=1e-8)


@pytest.mark.parametrize("noise", ["flux", "continuum"])
def test_fits_to_noisy_spectra_reach_it(noise):
    """Least-squares fits to 100 noisy spectra scatter as much as the bound says."""
    emulator, free, snr = fake_emulator().to(dtype=torch.float64), ("teff", "fe_h", "mg_fe"), 300.0
    wavelength, index = PIXELS.value, [LABELS.index(name) for name in ("teff", "fe_h", "mg_fe")]
    truth = np.array(list(STAR.values()))

    def model(values):
        labels = truth.copy()
        labels[index] = values * scale
        with torch.inference_mode():
            return emulator.flux(torch.tensor(labels), resolving_power=20_000.0, wavelength=wavelength).numpy()

    scale = np.array([1000.0, 1.0, 1.0])
    start = truth[index] / scale
    clean, rng = model(start), np.random.default_rng(0)
    found = []
    error = (clean if noise == "flux" else 1.0) / snr
    for _ in range(100):
        flux = clean + error * rng.normal(size=clean.shape)
        found.append(least_squares(lambda v, flux=flux: (model(v) - flux) / error, start, method="lm").x * scale)
    seen = {"resolving_power": 20_000.0, "spectral_axis": PIXELS, "noise": noise}
    bound = cramer_rao_bound(emulator, STAR, snr, free=free, **seen)
    for name, values in zip(free, np.array(found).T, strict=True):
        # the standard deviation of 100 draws is good to 7 per cent
        assert 0.8 < values.std() / bound[name][0] < 1.2


def test_more_information_is_never_worse():
    """Signal, pixels, resolution and fewer unknowns all make the bound smaller."""
    emulator = fake_emulator()
    usual = cramer_rao_bound(emulator, STAR, 100, resolving_power=15_000, spectral_axis=PIXELS)
    twice = cramer_rao_bound(emulator, STAR, 200, resolving_power=15_000, spectral_axis=PIXELS)
    np.testing.assert_allclose(twice["teff"], usual["teff"] / 2)
    half = cramer_rao_bound(emulator, STAR, 100, (1602, 1605) * u.nm, resolving_power=15_000, spectral_axis=PIXELS)
    blurred = cramer_rao_bound(emulator, STAR, 100, resolving_power=3_000, spectral_axis=PIXELS)
    known = cramer_rao_bound(emulator, STAR, 100, free=["teff", "fe_h"], resolving_power=15_000, spectral_axis=PIXELS)
    for name in ("teff", "fe_h"):
        assert half[name][0] > usual[name][0]
        assert blurred[name][0] > usual[name][0]
        assert known[name][0] < usual[name][0]


def test_table():
    """One row a star, one column a label, with units; each star as if it were alone."""
    emulator = fake_emulator()
    stars = STAR | {"fe_h": np.linspace(-1, 0.3, 11)}
    bound = cramer_rao_bound(emulator, stars, np.linspace(50, 150, 11), vsini=3 * u.km / u.s)
    assert bound.colnames == list(LABELS)
    assert len(bound) == 11
    assert bound["teff"].unit == u.K
    assert bound["logg"].unit == u.dex
    alone = cramer_rao_bound(emulator, STAR | {"fe_h": stars["fe_h"][9]}, 140.0, vsini=3.0)
    np.testing.assert_allclose(bound["teff"][9], alone["teff"][0], rtol=1e-6)


def test_jacobian_of_the_instrument():
    """Derivatives are also had with respect to parameters of the instrument."""
    emulator = fake_emulator().to(dtype=torch.float64)
    labels = torch.tensor(fake_grid().labels[:2])
    free = ("fe_h", "radial_velocity", "resolving_power")
    given = {"radial_velocity": 10.0, "resolving_power": 9000.0, "wavelength": PIXELS.value}
    flux, slopes = flux_jacobian(emulator, labels, free, **given)
    assert slopes.shape == (2, 300, 3)
    for i, (name, step) in enumerate((("radial_velocity", 1e-3), ("resolving_power", 1.0)), start=1):
        ahead, behind = (emulator.flux(labels, **given | {name: given[name] + s * step}) for s in (1, -1))
        torch.testing.assert_close(slopes[..., i], (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(flux, emulator.flux(labels, **given))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"snr": 0}, InputValueError, "snr: 0; expected a positive number, or one for each of 1 stars"),
        ({"snr": [50, 60]}, InputValueError, "snr: 2 values; expected a positive number, or one for each of 1 stars"),
        ({"snr": "high"}, InputTypeError, "snr: 'high'; expected numbers"),
        ({"free": ["teff", "age"]}, InputValueError, "free: unknown label 'age'; expected one or more of teff, logg"),
        ({"free": []}, InputValueError, r"free: \(\); expected one or more of"),
        ({"window": (5000, 5500)}, InputValueError, "window: no pixel from 5000 to 5500 Angstrom; expected a range"),
        ({"vsini": [3.0, 4.0]}, InputValueError, r"vsini: shape \(2,\); expected one number, the same for all stars"),
        ({"noise": "photons"}, InputValueError, "noise: 'photons'; expected 'flux' or 'continuum'"),
        ({"window": 16_050}, InputTypeError, "window: 16050; expected two wavelengths"),
        ({"window": (16_040, 16_040.4)}, InputValueError, "free: .* cannot be distinguished with these pixels"),
    ],
)
def test_what_cannot_be(changes, error, message):
    """What makes no sense is told with its name and what is expected."""
    arguments = {"labels": STAR, "snr": 100, "spectral_axis": PIXELS} | changes
    with pytest.raises(error, match=message):
        cramer_rao_bound(fake_emulator(), **arguments)
