"""Thresholds of the statistics that say whether a spectrum can be trusted, from good stars."""

import numpy as np
import torch

from ._tokens import star_batches
from .diagnostics import STATISTICS, diagnose_batch

__all__ = ["adapt_thresholds", "set_thresholds"]

# thresholds are never lower than this: where no good star has any, one is not yet bad
_LEAST = {"rv_significance": 1.0, "saturation": 0.01}
# statistics that are judged against what is usual for stars alike
_CONDITIONAL = ("reduced_chi2", "rv_error", "double_lines")
# velocities that count as at rest [km / s]
_AT_REST = 15.0
# stars of each source that set thresholds, fewest of a kind, and the share of them that may be flagged
_N_STAR, _FEWEST, _SHARE = 1000, 20, 0.015
_SEED = 31
# few stars do not show how far good ones reach
_MARGIN = 1.2


def set_thresholds(fm, calibration, share=_SHARE):
    """Set the thresholds of the statistics, in place, from stars that nothing was trained on.

    All of them together flag no more than a share of the good stars: of the real ones,
    and of the synthetic ones, of each domain.

    Parameters
    ----------
    fm : SpectraFM
        Weights; ``thresholds``, ``expected`` and ``density_threshold`` of their domains change, and
        ``weights_hash`` is empty afterwards: the flags are no longer those of the files.
    calibration : dict of str to (source, source)
        From `spectrafm.training.build_stream`; the second of each pair is used.
    share : float, optional
        Share of the good stars that may be flagged.
    """
    groups = {}
    for key, (_, source) in enumerate(calibration.values()):
        spectra, values, _ = source.flawless().examples(_N_STAR, torch.Generator().manual_seed(_SEED + key))
        is_real = not hasattr(getattr(source, "source", None), "emulator")
        velocity = values.get("rv_offset", np.zeros(len(spectra)))
        for star, number, its in zip(*fm.info.assign_domains(spectra), velocity, strict=True):
            # that of another domain, where these weights do not read its kind
            if fm.info.domains[number].fits(star)[0] and not abs(its) > _AT_REST:
                groups.setdefault(number, {}).setdefault(is_real, []).append(star)
    for number, kinds in groups.items():
        domain = fm.info.domains[number]
        domain.thresholds, domain.expected = {}, {name: {} for name in _CONDITIONAL}
        found = [_diagnose_all(fm, number, stars) for stars in kinds.values() if len(stars) >= _FEWEST]
        if not found:
            domain.expected = {}
            continue
        domain.expected = _expectations([d for some in found for d in some])
        kinds = [_joined([d.relative(domain.expected) for d in some]) for some in found]
        thresholds = _thresholds(kinds, share)
        domain.density_threshold = thresholds.pop("distance", domain.density_threshold)
        domain.thresholds = thresholds
    fm._hash = ""


def adapt_thresholds(fm, spectra, share=_SHARE):
    """Let the stars that weights were fine-tuned on count as good ones, in place.

    Parameters
    ----------
    fm : SpectraFM
        Fine-tuned weights; ``thresholds``, ``expected`` and ``density_threshold`` of their
        only domain change, and ``weights_hash`` is empty afterwards.
    spectra : list of SpectrumArrays
        Good stars, not normalised.
    share : float, optional
        Share of them that may be flagged.
    """
    [domain] = fm.info.domains
    # what is usual for similar stars depends on labels that these weights may not have
    domain.thresholds, domain.expected = {}, {}
    values = _joined([d.values for d in _diagnose_all(fm, 0, spectra)])
    thresholds = {name: _MARGIN * limit for name, limit in _thresholds([values], share).items()}
    domain.density_threshold = thresholds.pop("distance", domain.density_threshold)
    domain.thresholds = thresholds
    fm._hash = ""


def _diagnose_all(fm, number, stars, batch_size=128):
    """Return a diagnosis of each batch; stars of similar length go together."""
    found = []
    for _, rows in star_batches(stars, np.full(len(stars), number), batch_size):
        some = [stars[row] for row in rows]
        prepared = [fm.prepare(a, number) for a in some]
        found.append(diagnose_batch(fm, number, some, prepared, fm.perceive(prepared, number)))
    return found


def _joined(dictionaries):
    return {name: np.concatenate([d[name] for d in dictionaries]) for name in dictionaries[0]}


def _expectations(diagnoses):
    """Return, by statistic, coefficients of the logarithm of its usual value on the features."""
    values = _joined([d.values for d in diagnoses])
    features = _joined([d.features for d in diagnoses])
    columns = np.stack(list(features.values()), axis=1)
    expected = {}
    for name in _CONDITIONAL:
        with np.errstate(divide="ignore"):
            y = np.log(values[name])
        known = np.isfinite(y) & np.isfinite(columns).all(axis=1)
        if known.sum() < 10 * columns.shape[1]:
            continue
        x, y = columns[known], y[known]
        mean, keep = x.mean(axis=0), np.ones(len(y), dtype=bool)
        mean[0] = 0.0
        for _ in range(5):
            centred = x[keep] - mean
            square = centred.T @ centred + 1e-3 * np.eye(len(mean))
            fit = np.linalg.solve(square, centred.T @ y[keep])
            off = np.abs(y - (x - mean) @ fit)
            # outliers do not decide what is usual
            keep = off <= 6 * np.median(off)
        fit[0] -= mean @ fit
        expected[name] = dict(zip(features, fit.tolist(), strict=True))
    return expected


def _thresholds(kinds, share):
    """Return thresholds, at one quantile of each statistic, such that few stars of any kind are above some of them."""
    known = {
        name: [values[name][np.isfinite(values[name])] for values in kinds if np.isfinite(values[name]).any()]
        for name in STATISTICS
    }
    known = {name: arrays for name, arrays in known.items() if arrays}
    found = {}
    for level in 1 - share * np.geomspace(1.0, 0.05, 40):
        found = {
            name: max(_LEAST.get(name, 0.0), *(float(np.quantile(array, level)) for array in arrays))
            for name, arrays in known.items()
        }
        flagged = [np.any([values[name] > limit for name, limit in found.items()], axis=0) for values in kinds]
        if all(f.mean() <= share for f in flagged):
            break
    return {name: limit for name, limit in found.items() if np.isfinite(limit) and limit > 0}
