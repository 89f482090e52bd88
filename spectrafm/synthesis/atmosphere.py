"""Model atmospheres: the C3K grid, by way of the neural networks of atmosnet.

atmosnet (Nidever) emulates ATLAS12 atmospheres of the C3K grid. Its networks give
the decimal logarithm of each column at 80 depths. Its own code is not used: it takes
another exponential than the networks were trained for, and does not run with current
versions of SciPy. The networks are read once from the installed package, checked and
kept as an npz file in the cache.
"""

import pickle
from functools import lru_cache

import numpy as np

from ..exceptions import CheckpointError, InputValueError
from ._cache import cache_file, missing_file, write_npz
from ._smelib import package_folder
from ._unpickle import ArraysOnly

__all__ = ["atmosphere_columns", "prepare_atmospheres"]

_DEEPEST = 68
_COLUMNS = ("rhox", "temperature", "pressure", "n_electron")
_FILE = "atmospheres-c3k-atmosnet-1.0.1.npz"
_SHAPES = {
    "w_array_0": (300, 4),
    "b_array_0": (300,),
    "w_array_1": (300, 300),
    "b_array_1": (300,),
    "w_array_2": (80, 300),
    "b_array_2": (80,),
    "x_min": (4,),
    "x_max": (4,),
}


def prepare_atmospheres():
    """Convert the networks of the installed atmosnet for use here.

    Returns
    -------
    pathlib.Path
        The file in the cache.

    Raises
    ------
    MissingDependencyError
        atmosnet is not installed.
    CheckpointError
        The networks differ from those of atmosnet 1.0.1.
    """
    path = package_folder("atmosnet") / "data" / "atmosnet_c3k_300neurons_cool.pkl"
    try:
        with path.open("rb") as stream:
            networks = ArraysOnly(stream).load()
    except (OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path.name} of atmosnet cannot be read ({error}); expected version 1.0.1") from error
    arrays = {}
    for number, name in enumerate(_COLUMNS):
        network = networks[number]
        if list(network["labels"]) != ["TEFF", "LOGG", "FE_H", "ALPHA_FE"]:
            raise CheckpointError(f"{path.name}: labels {network['labels']}, expected those of atmosnet 1.0.1")
        for key, shape in _SHAPES.items():
            if network[key].shape != shape or not np.isfinite(network[key]).all():
                raise CheckpointError(f"{path.name}: {key} has shape {network[key].shape}, expected finite {shape}")
        arrays |= {f"{name}.{key}": np.asarray(network[key]) for key in _SHAPES}
    return write_npz(_FILE, arrays)


@lru_cache(maxsize=1)
def _networks():
    path = cache_file(_FILE)
    if not path.is_file():
        raise missing_file("model atmospheres", path)
    with np.load(path) as stored:
        return [{key: stored[f"{name}.{key}"].astype(np.float64) for key in _SHAPES} for name in _COLUMNS]


def atmosphere_columns(teff, logg, m_h, alpha_m):
    """Return the structure of a model atmosphere.

    Parameters
    ----------
    teff, logg, m_h, alpha_m : float
        Effective temperature [K], logarithm of gravity [dex(cm s-2)], metallicity
        [M/H] and [alpha/M].

    Returns
    -------
    numpy.ndarray
        ``(4, 80)`` float64, from the outside in: column mass [g cm-2], temperature
        [K], gas pressure [dyn cm-2], electron density [cm-3].

    Raises
    ------
    InputValueError
        The networks give no atmosphere there: column masses that do not increase, or
        a temperature that falls inward by more than 2 per cent, where spectra form.
    """
    labels, columns = np.array([teff, logg, m_h, alpha_m], dtype=np.float64), []
    for net in _networks():
        x = (labels - net["x_min"]) / (net["x_max"] - net["x_min"]) - 0.5
        for layer in range(2):
            x = net[f"w_array_{layer}"] @ x + net[f"b_array_{layer}"]
            x = np.where(x > 0, x, 0.01 * x)
        columns.append(10.0 ** (net["w_array_2"] @ x + net["b_array_2"]))
    columns = np.array(columns)
    columns = columns[:, np.argsort(columns[0])]
    where = f"teff {teff:.0f}, logg {logg:.2f}, [M/H] {m_h:.2f}, [alpha/M] {alpha_m:.2f}"
    hottest = np.maximum.accumulate(columns[1])
    if not np.isfinite(columns).all() or (np.diff(columns[0]) <= 0).any():
        raise InputValueError(f"labels: no model atmosphere at {where}: column masses do not increase inward")
    # deeper down single layers are often off, and nothing is seen of them
    if (columns[1] < 0.98 * hottest)[:_DEEPEST].any():
        raise InputValueError(f"labels: no model atmosphere at {where}: the temperature falls inward")
    columns[1] = hottest
    return columns
