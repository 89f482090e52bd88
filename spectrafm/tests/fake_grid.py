"""A grid of made-up spectra with the manners of real ones, and an emulator of it, for the tests."""

import copy
from functools import lru_cache

import numpy as np

from spectrafm._spectral_units import SPEED_OF_LIGHT
from spectrafm.synthesis.emulator_training import train_emulator
from spectrafm.synthesis.grid import Grid

LABELS = ("teff", "logg", "fe_h", "mg_fe", "vmicro")
LOWER, UPPER, MARGIN, STEP, POWER = 16_000.0, 16_100.0, 300.0, 4.0, 25_000.0
_RANGES = {"teff": (4000, 6500), "logg": (1, 5), "fe_h": (-2, 0.5), "mg_fe": (-0.4, 0.6), "vmicro": (0.5, 3)}


def fake_wavelength():
    """Return wavelengths even in the logarithm, with a margin at either end."""
    first, last = np.log(LOWER) - MARGIN / SPEED_OF_LIGHT, np.log(UPPER) + MARGIN / SPEED_OF_LIGHT
    return np.exp(np.arange(first, last, STEP / SPEED_OF_LIGHT))


def fake_flux(labels):
    """Return spectra ``(n_star, n_pixel)`` of labels ``(n_star, 5)``: lines that saturate."""
    teff, logg, fe_h, mg_fe, vmicro = (column[:, None] for column in np.atleast_2d(labels).T)
    rng = np.random.default_rng(3)
    x = np.log(fake_wavelength())
    theta, depth = 5040.0 / teff, 0.0
    for number in range(40):
        center, excitation, strength = rng.uniform(x[0], x[-1]), rng.uniform(0, 5), rng.uniform(2.0, 4.5)
        abundance = fe_h + (mg_fe if number % 3 == 0 else 0.0)
        power = strength + abundance - excitation * (theta - 0.5) - 0.15 * (logg - 3) * (number % 2) - 2.5
        width = np.hypot(vmicro, 6.0) / SPEED_OF_LIGHT
        opacity = 10.0**power * np.exp(-0.5 * ((x - center) / width) ** 2)
        # a curve of growth: linear, then flat
        depth = depth + opacity / (1 + opacity)
    return np.exp(-0.7 * depth)


def fake_grid(n_star=150, seed=0):
    """Return a grid of random stars."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.uniform(*_RANGES[name], n_star) for name in LABELS], axis=1)
    window = {"name": "fake", "lower": LOWER, "upper": UPPER, "base_resolving_power": POWER}
    flux = fake_flux(labels).astype(np.float32)
    meta = {"window": window, "seed": seed, "version": "0"}
    return Grid(fake_wavelength(), flux, labels, LABELS, np.arange(n_star), [], meta)


def other_emulator():
    """Return the same emulator, but with deeper lines."""
    own = fake_emulator()
    other = copy.copy(own)
    other.flux = lambda *labels, **seen: own.flux(*labels, **seen) ** 1.5
    other.to = lambda **_: other
    return other


@lru_cache(maxsize=1)
def fake_emulator():
    """Return an emulator of these spectra, trained in a second."""
    return train_emulator(fake_grid(), n_component=40, n_step=40)
