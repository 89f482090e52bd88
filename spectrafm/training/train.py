"""From a recipe and a data set to calibrated weights."""

import logging
from pathlib import Path

import numpy as np
import torch

from .. import datasets
from ..adapters import from_arrays
from ..continuum import normalizer_from_dict
from ..core import SpectraFM
from ..exceptions import InputValueError
from ..stellarperceptron import StellarPerceptron, TokenTable, Vocabulary
from ..stellarperceptron.nn_utils import split_by_star
from ..weights_info import Domain, WeightsInfo

__all__ = ["calibrate", "split_stars", "token_table", "train_recipe"]

logger = logging.getLogger("spectrafm")

# an error this many times the median is large; fraction of spectra that count as usual
_LARGE_ERROR, _USUAL_SPECTRUM = 5.0, 0.995

_READERS = {"gaia_xp_apogee": datasets.read_gaia_xp_apogee}


def read_data(recipe, folder):
    """Read the data set of a recipe.

    Parameters
    ----------
    recipe : Recipe
        Names the reader.
    folder : str or pathlib.Path
        Where the data are.

    Returns
    -------
    LabelledSpectra
    """
    if recipe.data not in _READERS:
        raise InputValueError(f"data: no reader {recipe.data!r}; known are {', '.join(_READERS)}")
    return _READERS[recipe.data](folder)


def token_table(data, names):
    """Lay a data set out for training.

    Parameters
    ----------
    data : LabelledSpectra
        The stars.
    names : sequence of str
        Quantities to take along.

    Returns
    -------
    TokenTable
    """
    n_star = len(data.flux)
    nothing = np.full(n_star, np.nan)
    values = np.stack([data.labels[name] for name in names], axis=1)
    errors = np.stack([data.label_errors.get(name, nothing) for name in names], axis=1)
    return TokenTable(data.flux, data.wavelength, data.sigma, values, errors, names)


def split_stars(data, recipe):
    """Split by star: rows of one star are all on one side.

    Validation stars are split once more: one half calibrates errors and flags,
    the other half, that nothing was chosen on, is for reporting.

    Parameters
    ----------
    data : LabelledSpectra
        The stars.
    recipe : Recipe
        Its fraction and seed decide.

    Returns
    -------
    train, calibration, test : numpy.ndarray
        Row numbers.
    """
    stars, row_star = np.unique(np.asarray(data.identifier).astype(str), return_inverse=True)
    _, held_out = split_by_star(len(stars), recipe.fit.validation_fraction, recipe.fit.seed)
    for_calibration, for_test = held_out[::2], held_out[1::2]
    calibration, test = np.isin(row_star, for_calibration), np.isin(row_star, for_test)
    return np.flatnonzero(~(calibration | test)), np.flatnonzero(calibration), np.flatnonzero(test)


def train_recipe(recipe, data_folder, output, *, resume=False, progress=False, device="cpu"):
    """Train, calibrate and save.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    data_folder : str or pathlib.Path
        Where the data set is.
    output : str or pathlib.Path
        Gets ``checkpoint.pt`` and ``log.csv``, and the weights in ``weights/``.
    resume : bool, optional
        Go on from the checkpoint in ``output``, if there is one.
    progress : bool, optional
        Show a progress bar, where tqdm is installed.
    device : str or torch.device, optional
        Where to train.

    Returns
    -------
    SpectraFM
        The calibrated model.
    """
    data = read_data(recipe, data_folder)
    names = (*recipe.labels, *recipe.known)
    table = token_table(data, names)
    train, calibration, test = split_stars(data, recipe)
    normalizer = normalizer_from_dict(recipe.normalizer)
    model = StellarPerceptron(
        recipe.model, Vocabulary(["flux", *names], flux=["flux"], log=recipe.log), device, recipe.fit.seed
    )
    model.fit(
        table,
        recipe.labels,
        recipe.fit,
        augmentation=recipe.augmentation,
        divisor=normalizer.divisor,
        validation=np.concatenate((calibration, test)),
        folder=output,
        resume=resume,
        progress=progress,
    )
    fm = calibrate(model.to("cpu"), recipe, data, train, calibration)
    fm.save(Path(output) / "weights", half=True)
    # what is used from here on is what was saved, rounding and all
    return SpectraFM.load(Path(output) / "weights")


def calibrate(model, recipe, data, train, calibration):
    """Measure what the weights must know about themselves.

    Ranges and the density of the embeddings come from the training stars;
    factors on the errors and thresholds of the flags from the calibration stars.

    Parameters
    ----------
    model : StellarPerceptron
        Trained.
    recipe : Recipe
        Labels, normaliser, provenance.
    data : LabelledSpectra
        The stars.
    train, calibration : numpy.ndarray
        Row numbers.

    Returns
    -------
    SpectraFM
    """
    from .. import __version__

    x = np.log(data.wavelength)
    spacing = float(np.median(np.diff(x)))
    good = np.isfinite(data.flux[train]) & np.isfinite(data.sigma[train])
    snr = np.nanmedian(np.where(good, data.flux[train] / data.sigma[train], np.nan), axis=1)
    domain = Domain(
        name=recipe.name,
        labels=recipe.labels,
        normalizer=recipe.normalizer,
        flux_kind=recipe.flux_kind,
        wavelength_range=(float(data.wavelength[0] - 1), float(data.wavelength[-1] + 1)),
        spacing_range=(spacing / 2, spacing * 2),
        min_pixels=len(data.wavelength) // 4,
        min_snr=float(np.quantile(snr, 0.001)),
        label_ranges={
            k: [float(q) for q in np.nanquantile(data.labels[k][train], (0.001, 0.999))] for k in recipe.labels
        },
    )
    info = WeightsInfo(
        name=recipe.name,
        domains=(domain,),
        known=(*recipe.known, *recipe.labels),
        training_data=recipe.training_data,
        license=recipe.license,
        citation=recipe.citation,
        package_version=__version__,
    )
    fm = SpectraFM(model, info)
    embeddings = _embeddings(fm, data, train[:: max(len(train) // 8000, 1)])
    mean, covariance = embeddings.mean(axis=0), np.cov(embeddings.T)
    variance, vectors = np.linalg.eigh(covariance)
    kept = variance > 1e-6 * variance.max()
    whiten = vectors[:, kept] / np.sqrt(variance[kept])
    density = {
        f"mean.{domain.name}": torch.from_numpy(mean).float(),
        f"whiten.{domain.name}": torch.from_numpy(whiten).float(),
    }
    fm = SpectraFM(model, info, density)

    z = (_embeddings(fm, data, calibration) - mean) @ whiten
    domain.density_threshold = float(np.quantile(np.sqrt((z**2).mean(axis=1)), _USUAL_SPECTRUM))
    factors = {name: {} for name in recipe.labels}
    for kind, sigma in (("with_sigma", data.sigma[calibration]), ("without_sigma", None)):
        table = fm.infer(from_arrays(data.wavelength, data.flux[calibration], sigma))
        for name in recipe.labels:
            predicted, error = (np.asarray(table[c].filled(np.nan).value) for c in (name, f"e_{name}"))
            truth, truth_error = data.labels[name][calibration], data.label_errors[name][calibration]
            factors[name][kind] = error_factor(predicted - truth, error, truth_error)
            if kind == "with_sigma":
                scale = predicted if name in recipe.log else 1.0
                domain.usual_errors[name] = float(_LARGE_ERROR * np.nanmedian(error / scale) * factors[name][kind])
    domain.calibration = factors
    return fm


def error_factor(residual, error, truth_error, level=0.6827):
    """Return the factor on the errors that makes one sigma hold what it should.

    Parameters
    ----------
    residual, error, truth_error : numpy.ndarray
        ``(n_star,)`` predicted minus true, predicted error, error of the truth
        (NaN counts as 0); stars with NaN are left out.
    level : float, optional
        Fraction of residuals that must lie within one sigma.

    Returns
    -------
    float
        Between 0.1 and 10.
    """
    known = np.isfinite(residual) & np.isfinite(error)
    residual, error = np.abs(residual[known]), error[known]
    truth_error = np.nan_to_num(truth_error[known], nan=0.0)
    low, high = 0.1, 10.0
    for _ in range(60):
        factor = np.sqrt(low * high)
        inside = np.mean(residual <= np.hypot(factor * error, truth_error))
        low, high = (factor, high) if inside < level else (low, factor)
    return float(np.sqrt(low * high))


def _embeddings(fm, data, rows):
    return fm.embed(from_arrays(data.wavelength, data.flux[rows], data.sigma[rows])).astype(np.float64)
