"""Stars of a library whose spectra are most alike, by what the encoder makes of them."""

import numpy as np
from astropy.table import Table

from .exceptions import InputValueError

__all__ = ["similar_stars"]


def similar_stars(fm, spectra, library, n, **options):
    """Return what `SpectraFM.similar` returns.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    spectra, library, n
        As for `SpectraFM.similar`.
    **options
        For both, as for `SpectraFM.embed`.

    Returns
    -------
    `~astropy.table.Table`
        ``n`` rows a star, the nearest first: ``row``, ``match``, ``distance``.
    """
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise InputValueError(f"n: {n!r}, expected a positive integer")
    theirs = library if isinstance(library, np.ndarray) else fm.embed(library, **options)
    if theirs.ndim != 2 or theirs.shape[1] != fm.model.config.embedding_dim:
        raise InputValueError(
            f"library: embeddings of shape {theirs.shape}; expected (n_library, {fm.model.config.embedding_dim})"
        )
    usable = np.flatnonzero(np.isfinite(theirs).all(axis=1))
    if len(usable) < 2:
        raise InputValueError(f"library: {len(usable)} stars that can be used; expected two at least")
    scatter = theirs[usable].std(axis=0)
    scale = np.where(scatter > 0, scatter, 1.0)
    ours = fm.embed(spectra, **options)
    rows = []
    for row in np.flatnonzero(np.isfinite(ours).all(axis=1)):
        distance = np.sqrt((((theirs[usable] - ours[row]) / scale) ** 2).mean(axis=1))
        rows += [(row, usable[i], distance[i]) for i in np.argsort(distance, kind="stable")[:n]]
    return Table(rows=rows, names=("row", "match", "distance"), dtype=(int, int, float))
