"""Data sets of recipes: reading, splitting by star, and the layout for training."""

from pathlib import Path

import numpy as np

from ..datasets import LabelledSpectra, get_reader
from ..exceptions import InputTypeError
from ..stellarperceptron import TokenTable
from ..stellarperceptron.nn_utils import split_by_star

__all__ = ["read_data", "split_stars", "token_table"]


def read_data(name, folder):
    """Read a data set.

    Parameters
    ----------
    name : str
        Name of the data set, see `spectrafm.datasets.register_reader`.
    folder : str or pathlib.Path
        Folder of the data, or the folder that holds a folder of that name.

    Returns
    -------
    LabelledSpectra

    Raises
    ------
    InputValueError
        There is no such data set; the message lists the known ones.
    InputTypeError
        The reader returned something else.
    """
    read, inner = get_reader(name), Path(folder) / name
    data = read(inner if inner.is_dir() else folder)
    if not isinstance(data, LabelledSpectra):
        raise InputTypeError(f"data: the reader of {name!r} returned a {type(data).__name__}, expected LabelledSpectra")
    return data


def token_table(data, names, flux_name="flux"):
    """Arrange a data set for training.

    Parameters
    ----------
    data : LabelledSpectra
        The stars.
    names : sequence of str
        Quantities to include; those that the data set does not have are left out.
    flux_name : str, optional
        Name of the flux token.

    Returns
    -------
    TokenTable
    """
    nothing = np.full(len(data.flux), np.nan)
    names = [name for name in names if name in data.labels]
    values = np.stack([data.labels[name] for name in names], axis=1)
    errors = np.stack([data.label_errors.get(name, nothing) for name in names], axis=1)
    return TokenTable(data.flux, data.wavelength, data.sigma, values, errors, names, flux_name)


def split_stars(data, fraction, seed):
    """Split by star: rows of one star are all on one side.

    Validation stars are split once more: one half calibrates errors and flags,
    the other half, that nothing was chosen on, is for reporting.

    Parameters
    ----------
    data : LabelledSpectra
        The stars.
    fraction : float
        Fraction of the stars to set aside.
    seed : int
        Seed of the draw.

    Returns
    -------
    train, calibration, test : numpy.ndarray
        Row numbers.
    """
    stars, row_star = np.unique(np.asarray(data.identifier).astype(str), return_inverse=True)
    _, held_out = split_by_star(len(stars), fraction, seed)
    for_calibration, for_test = held_out[::2], held_out[1::2]
    calibration, test = np.isin(row_star, for_calibration), np.isin(row_star, for_test)
    return np.flatnonzero(~(calibration | test)), np.flatnonzero(calibration), np.flatnonzero(test)
