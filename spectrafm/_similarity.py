"""Stars of a library whose spectra are most alike, by what the encoder makes of them."""

import warnings

import numpy as np
import torch
from astropy.table import Table

from ._rest_frame import stars_at_rest
from ._tokens import star_batches
from .exceptions import InputValueError, SpectraFMWarning

__all__ = ["embedded", "similar_stars"]


def embedded(fm, spectra, batch_size=256, **spectrum_options):
    """Return the embeddings of stars, their names, and what kind of spectra they were made from.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    spectra, batch_size
        As for `SpectraFM.embed`.
    **spectrum_options
        Arguments of `~spectrafm.adapters.to_arrays`.

    Returns
    -------
    vectors : numpy.ndarray
        ``(n_star, embedding_dim)`` float32; NaN for stars that cannot be used.
    names : list of str
        ``(n_star,)`` names of the stars.
    domains : numpy.ndarray
        ``(n_star,)`` numbers of their domains.
    """
    stars = stars_at_rest(fm, spectra, batch_size=batch_size, **spectrum_options)
    arrays, domains = fm.info.assign_domains(stars)
    vectors = np.full((len(arrays), fm.model.config.embedding_dim), np.nan, dtype=np.float32)
    for number, rows in star_batches(arrays, domains, batch_size):
        prepared = [fm.prepare(arrays[row], number) for row in rows]
        readable = [star.n_good > 0 for star in prepared]
        vectors[rows[readable]] = fm.perceive(prepared, number).pooled[readable]
    return vectors, [star.identifier for star in arrays], domains


def similar_stars(fm, spectra, library, n, **options):
    """Return what `SpectraFM.similar` returns.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    spectra, library, n
        As for `SpectraFM.similar`.
    **options
        Keywords of `SpectraFM.embed`, for both.

    Returns
    -------
    `~astropy.table.Table`
        ``n`` rows a star, the nearest first: ``row``, ``match``, ``distance``, ``identifier``, ``match_identifier``.
    """
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise InputValueError(f"n: {n!r}, expected a positive integer")
    theirs, their_names, kinds = _seen(fm, library, "library", options)
    usable = np.flatnonzero(np.isfinite(theirs).all(axis=1))
    if len(usable) < 2:
        raise InputValueError(f"library: {len(usable)} stars that can be used; expected two at least")
    scatter = theirs[usable].std(axis=0)
    scale = np.where(scatter > 0, scatter, 1.0)
    among_themselves = spectra is library
    ours, names, domains = (theirs, their_names, kinds) if among_themselves else _seen(fm, spectra, "spectra", options)
    told = [name for name, value in options.items() if name != "batch_size" and value is not None]
    if told and kinds is None and domains is None:
        raise InputValueError(f"{', '.join(told)}: for reading spectra, but only embeddings came; give them to embed")
    rows = []
    for row in np.flatnonzero(np.isfinite(ours).all(axis=1)):
        others = usable[usable != row] if among_themselves else usable
        distance = np.sqrt((((theirs[others] - ours[row]) / scale) ** 2).mean(axis=1))
        rows += [
            (row, others[i], distance[i], names[row], their_names[others[i]])
            for i in np.argsort(distance, kind="stable")[:n]
        ]
    pairs = set() if kinds is None or domains is None else {(domains[row], kinds[match]) for row, match, *_ in rows}
    if mixed := sorted((fm.info.domains[a].name, fm.info.domains[b].name) for a, b in pairs if a != b):
        texts = ", ".join(f"stars of {ours} with {theirs} of the library" for ours, theirs in mixed)
        warnings.warn(
            f"library: matched are {texts}; distances compare spectra of one kind, and across kinds matches are poor",
            SpectraFMWarning,
            stacklevel=3,
        )
    columns = ("row", "match", "distance", "identifier", "match_identifier")
    return Table(rows=rows, names=columns, dtype=(int, int, float, str, str))


def _seen(fm, given, argument, options):
    """Return embeddings of spectra, or those given, ``(n_star, embedding_dim)``, names, and domains of spectra or None.

    Embeddings have no names: these are their numbers.
    """
    found, width = _embeddings(given, argument), fm.model.config.embedding_dim
    if found is None:
        return embedded(fm, given, **options)
    if argument == "spectra" and found.ndim == 1:
        found = found[None]
    if found.ndim != 2 or found.shape[1] != width:
        rows = {"spectra": "n_star", "library": "n_library"}[argument]
        raise InputValueError(
            f"{argument}: embeddings of shape {found.shape}; expected ({rows}, {width}) from embed of these weights, "
            "or spectra; spectrafm.adapters.from_arrays makes spectra of arrays"
        )
    return found, [str(row) for row in range(len(found))], None


def _embeddings(given, argument):
    """Return embeddings as numbers, or None for what may be spectra."""
    rows = given if isinstance(given, (list, tuple)) else [given]
    numbers = (np.ndarray, torch.Tensor, list, tuple, float, int)
    # fluxes have units
    if not rows or not all(isinstance(row, numbers) and getattr(row, "unit", None) is None for row in rows):
        return None
    rows = [row.detach().cpu().numpy() if isinstance(row, torch.Tensor) else row for row in rows]
    try:
        found = np.asarray(rows if isinstance(given, (list, tuple)) else rows[0])
    except ValueError:
        raise InputValueError(
            f"{argument}: rows of different lengths; expected one embedding a star, from embed"
        ) from None
    return found if found.dtype.kind in "fiu" else None
