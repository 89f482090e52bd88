"""The model of The Cannon that thedoppler has for cool stars: spectra that were made elsewhere (Nidever 2021)."""

import pickle
import zipfile

import numpy as np
import torch

from .._spectral_units import air_to_vacuum
from ..exceptions import CheckpointError, InputValueError
from ..synthesis import observe
from ..synthesis._unpickle import ArraysOnly
from .stars import NOMINAL_POWER

__all__ = ["CANNON_FILE", "cannon_spectra", "read_cannon"]

#: Where the model is in the wheel of thedoppler.
CANNON_FILE = "doppler/data/cannongrid_3000_18000_coolstars_norm_cubic_model.pkl"
# the resolving power of its spectra, and of the grid that they are broadened on
_CANNON_SHARP = 150_000


def read_cannon(folder):
    """Read the model of The Cannon that thedoppler has for cool stars.

    Parameters
    ----------
    folder : pathlib.Path
        Has ``thedoppler`` with the wheel of that package in it.

    Returns
    -------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum].
    flux : callable
        ``flux((teff, logg, fe_h))`` are continuum-normalised spectra, ``(n_pixel,)``.

    Raises
    ------
    InputValueError, CheckpointError
        A wheel that is missing, or that cannot be read.
    """
    wheels = sorted((folder / "thedoppler").glob("thedoppler-*.whl"))
    if not wheels:
        raise InputValueError(f"data: no thedoppler-*.whl in {folder / 'thedoppler'}")
    try:
        with zipfile.ZipFile(wheels[-1]) as wheel, wheel.open(CANNON_FILE) as stream:
            model = ArraysOnly(stream, encoding="latin1").load()
    except (KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise CheckpointError(f"data: {wheels[-1].name} cannot be read ({error}); expected version 1.1.32") from error
    known = np.asarray(model["training_set_labels"], dtype=np.float64)  # (n_star, 3)
    # The Cannon scales labels with the range that holds 95 per cent
    scale, fiducial = np.ptp(np.percentile(known, (2.5, 97.5), axis=0), axis=0), np.median(known, axis=0)
    terms = model["vectorizer"][1]["terms"]

    def flux(labels):
        x = (np.asarray(labels) - fiducial) / scale
        design = [1.0, *(np.prod([x[i] ** power for i, power in term]) for term in terms)]
        return model["theta"] @ np.array(design)

    return air_to_vacuum(np.asarray(model["dispersion"], dtype=np.float64)), flux


def cannon_spectra(folder, info):
    """Return what the usual instrument of an emulator sees of stars of The Cannon.

    Parameters
    ----------
    folder : pathlib.Path
        As for `read_cannon`.
    info : EmulatorInfo
        Of one of the packaged emulators. What is cut off at the ends of its window is not looked at.

    Returns
    -------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum].
    seen : callable
        ``seen(stars, velocity)`` are spectra ``(n_velocity, n_pixel)`` of stars of these ``(teff, logg, fe_h)``, each
        with its velocity [km / s], or of one of them with all of these.
    """
    wavelength, cannon = read_cannon(folder)
    power, (low, high) = NOMINAL_POWER[info.name], info.window
    # what is even in ln(wavelength) is broadened
    even = np.exp(np.arange(np.log(low), np.log(high), 1 / _CANNON_SHARP))
    at = np.exp(np.arange(np.log(low * 1.002), np.log(high * 0.998), 1 / (3 * power)))

    def seen(stars, velocity):
        flux = torch.from_numpy(np.stack([np.interp(even, wavelength, cannon(star)) for star in stars]))
        flux = flux.expand(len(velocity), -1)
        shifted = {"resolving_power": power, "radial_velocity": torch.from_numpy(velocity), "at": at}
        return observe(flux, even, _CANNON_SHARP, **shifted).numpy()

    return at, seen
