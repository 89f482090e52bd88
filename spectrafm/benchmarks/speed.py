"""Time and memory of labels for a list of spectra."""

import time

import numpy as np
import torch

from ..core import SpectraFM
from ..training import read_data

__all__ = ["benchmark_speed"]


def benchmark_speed(data_folder, model=None, n_star=1000):
    """Time labels for a list of Gaia XP `~specutils.Spectrum` objects.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Folder of the labelled XP spectra.
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    n_star : int, optional
        Length of the list.

    Yields
    ------
    str
        Lines of the report.
    """
    data = read_data("gaia_xp_apogee", data_folder)
    spectra = data.spectra(np.arange(n_star))
    del data
    before = _peak_memory()
    start = time.perf_counter()
    fm = SpectraFM.from_pretrained("gaia_xp" if model is None else model)
    loaded = time.perf_counter()
    table = fm.infer(spectra)
    done = time.perf_counter()
    yield f"{fm.info.name}: {len(table)} Spectrum objects on {torch.get_num_threads()} threads"
    yield f"loading the weights: {loaded - start:.2f} s"
    yield f"infer: {done - loaded:.2f} s, {len(table) / (done - loaded):.0f} stars/s"
    yield f"peak memory of the process: {_peak_memory():.2f} GB, of which {before:.2f} GB for reading the data"


def _peak_memory():
    import resource
    import sys

    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
