"""Weights whose errors hold for stars with known labels."""

import copy
import warnings
from dataclasses import replace

import numpy as np

from ._inference import infer_stars, labels_of
from ._known import known_labels, table_columns
from ._label_columns import check_label_columns
from .calibration import (
    HIGHEST_FACTOR,
    LOWEST_FACTOR,
    conformal_factor,
    determined_factor,
    temperature,
    truth_error_factor,
)
from .exceptions import InputValueError, SpectraFMWarning
from .flags import MASKING_FLAGS

__all__ = ["recalibrated_info", "with_and_without_errors"]

# fewer stars say too little about the errors of a label
_MIN_STARS = 20


def recalibrated_info(fm, spectra, labels_table, method="temperature"):
    """Return the account of weights with factors on the errors that fit held-out stars.

    Parameters
    ----------
    fm : SpectraFM
        The weights; not changed.
    spectra : list of SpectrumArrays
        ``n_star`` spectra that the weights were not trained on.
    labels_table : `~astropy.table.Table` or dict
        True labels of these stars, as `calibration_table` takes them.
    method : {"temperature", "conformal"}, optional
        `temperature` by coverage, or `conformal_factor`.

    Returns
    -------
    WeightsInfo
        A copy with other factors in the ``calibration`` of its domains, in which these labels
        are not ``unproven`` any more.

    Raises
    ------
    InputTypeError, InputValueError
        As `spectrafm.SpectraFM.recalibrate`.

    Warns
    -----
    SpectraFMWarning
        As `spectrafm.SpectraFM.recalibrate`.
    """
    methods = {"temperature": temperature, "conformal": conformal_factor}
    if method not in methods:
        raise InputValueError(f"method: unknown {method!r}; known are {', '.join(methods)}")
    columns = table_columns(labels_table, "labels_table")
    check_label_columns(columns, fm.labels, "labels_table")
    labels = [name for name in fm.labels if name in columns]
    if not labels:
        raise InputValueError(f"labels_table: no column of a label; these weights predict {', '.join(fm.labels)}")
    spectra, domains = fm.info.assign_domains(spectra)
    truth = known_labels(columns, labels, len(spectra), "labels_table", fm.model.vocabulary.log)
    readable = np.array([star.n_good > 0 for star in spectra], dtype=bool)
    told = labels_of(fm, domains[readable])
    if readable.any() and not told.intersection(labels):
        kinds = ", ".join(fm.info.domains[number].name for number in np.unique(domains[readable]))
        raise InputValueError(
            f"labels_table: no column of a label that is predicted from spectra of {kinds}; expected some of "
            f"{', '.join(name for name in fm.labels if name in told)}"
        )
    factors, kept, extreme, large, unusable = {}, [], [], [], 0
    for kind, stars, which in with_and_without_errors(spectra):
        its = labels_of(fm, domains[which & readable])
        predicted, unusable = _infer_quietly(fm, stars, [name for name in labels if name in its] or labels, which)
        for number in np.unique(domains[which & readable]):
            domain = fm.info.domains[number]
            for name in (name for name in labels if name in domain.labels):
                sample = [np.where(domains == number, array, np.nan) for array in (*predicted[name], *truth[name])]
                n_known = int(np.isfinite(sample[:3]).all(axis=0).sum())
                if n_known < _MIN_STARS:
                    kept.append(f"{name} of {domain.name} {kind} ({n_known})")
                    continue
                smaller = truth_error_factor(*sample)
                if smaller < 1:
                    large.append(f"e_{name} of {domain.name} {kind}")
                    sample[3] = sample[3] * smaller
                factor = determined_factor(methods[method](*sample), *sample)
                factors.setdefault((number, name), {})[kind] = factor
                if not 1.001 * LOWEST_FACTOR < factor < 0.999 * HIGHEST_FACTOR:
                    extreme.append(f"{name} of {domain.name} {kind} ({factor:.3g})")
    if not factors:
        raise InputValueError(
            f"labels_table: no label with a known truth for {_MIN_STARS} stars; found {', '.join(kept) or 'none'}; "
            "give more stars that these weights can read"
        )
    problems = {
        f"{unusable} of {len(spectra)} spectra cannot be used and are left out": unusable,
        f"fewer than {_MIN_STARS} stars with a known truth, factors kept: {', '.join(kept)}": kept,
        f"labels_table: quoted errors ({', '.join(large)}) are larger than the scatter of stars about their "
        "predictions, and were taken to be smaller; the stars then hardly determine how large predicted errors should "
        "be; see whether these columns are standard deviations of single stars": large,
        f"factors at the end of what is sensible, check units and order of the stars: {', '.join(extreme)}": extreme,
    }
    for text in (text for text, present in problems.items() if present):
        warnings.warn(text, SpectraFMWarning, stacklevel=3)
    info = copy.deepcopy(fm.info)
    for (number, name), by_kind in factors.items():
        domain = info.domains[number]
        old = domain.error_factors(name)
        new = {kind: float(factor * by_kind.get(kind, 1.0)) for kind, factor in old.items()}
        # new dictionaries, as domains may share theirs
        domain.calibration = domain.calibration | {name: new}
        domain.unproven = tuple(k for k in domain.unproven if k != name)
    return info


def with_and_without_errors(spectra):
    """Return spectra as they came, and without their errors, as users may give either.

    Parameters
    ----------
    spectra : sequence of SpectrumArrays
        The spectra.

    Returns
    -------
    list of (str, list of SpectrumArrays, numpy.ndarray)
        ``"with_sigma"`` and those that have errors, where any has, and ``"without_sigma"`` and
        all of them; with ``(n_star,)`` bool, which of the spectra they are.
    """
    told = np.array([star.has_sigma for star in spectra], dtype=bool)
    bare = [replace(star, sigma=np.full_like(star.flux, np.nan)) for star in spectra]
    kinds = [("with_sigma", [star for star in spectra if star.has_sigma], told)]
    kinds += [("without_sigma", bare, np.ones_like(told))]
    return [kind for kind in kinds if kind[1]]


def _infer_quietly(fm, stars, labels, which):
    """Return label -> values and errors ``(n_star,)``, NaN where not ``which``, and how many stars are masked."""
    # the caller tells of masked rows once for both kinds of spectra
    table, _ = infer_stars(fm, stars, labels, tell_masked=False)
    predicted = {name: np.full((2, len(which)), np.nan) for name in labels}
    for name, found in known_labels(table_columns(table, "table"), labels, len(stars), "table").items():
        predicted[name][:, which] = found
    return predicted, int(np.count_nonzero(np.asarray(table["flag"]) & int(MASKING_FLAGS)))
