"""From spectra to labels with errors and flags, a batch of stars of one kind at a time."""

import warnings
from collections.abc import Iterable

import numpy as np

from ._known import known_quantities, refuse_other_order
from ._progress import progress as progress_bar
from ._rest_frame import stars_at_rest
from ._tokens import star_batches
from .continuum import UNNORMALISED
from .diagnostics import diagnose_batch
from .exceptions import InputTypeError, InputValueError, SpectraFMWarning
from .flags import MASKING_FLAGS, Flag
from .results import label_table

__all__ = ["infer_stars", "provenance", "labels_of", "wanted_labels", "why_masked"]


# standard deviations that a given label may be from what the spectrum says
_CONTRADICTION = 5.0


def infer_stars(
    fm,
    spectra,
    labels=None,
    known=None,
    *,
    batch_size=256,
    progress=False,
    statistics=False,
    whole=True,
    tell_masked=True,
    **spectrum_options,
):
    """Return the table of `SpectraFM.infer`, and the diagnosis behind its flags.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    spectra, labels, known, batch_size, progress
        As for `SpectraFM.infer`.
    statistics : bool, optional
        Whether the statistics of all stars are wanted, and not only their flags.
    whole : bool, optional
        Read all pixels, where they are more than the context holds, in several sets; only as
        many as it holds otherwise, which is what errors are calibrated by.
    tell_masked : bool, optional
        Warn of rows that are masked; not where the caller says it.
    **spectrum_options
        Arguments of `~spectrafm.adapters.to_arrays`; ``radial_velocity`` may be "measure".

    Returns
    -------
    table : `~astropy.table.QTable`
        A row a star.
    diagnoses : list of (numpy.ndarray, Domain, Diagnosis)
        Rows of the stars of each batch, and what was found; empty where not wanted.
    """
    given = stars_at_rest(fm, spectra, batch_size=batch_size, **spectrum_options)
    arrays, domains = fm.info.assign_domains(given)
    n_star = len(arrays)
    refuse_other_order(known, [star.identifier for star in given], "known")
    known = known_quantities(known, n_star, fm.info.known, positive=fm.model.vocabulary.log)
    usable = np.array([a.n_good > 0 for a in arrays], dtype=bool)
    used = set(domains[usable])
    labels = wanted_labels(fm, labels, known, used)
    predicted = labels_of(fm, used)
    if used and (masked := [name for name in labels if name not in predicted]):
        kinds = ", ".join(fm.info.domains[number].name for number in sorted(used))
        warnings.warn(
            f"labels: {', '.join(masked)} cannot be predicted from spectra of {kinds} and are masked; from these come "
            f"{', '.join(name for name in fm.labels if name in predicted)}",
            SpectraFMWarning,
            stacklevel=3,
        )
    values, errors = np.full((2, n_star, len(labels)), np.nan)
    flag, n_used = np.zeros((2, n_star), dtype=np.int64)
    snr = np.full(n_star, np.nan)
    diagnoses = []
    batches = list(star_batches(arrays, domains, batch_size))
    for number, rows in progress_bar(batches, progress, description="infer"):
        some = [given[row] for row in rows]
        prepared = [fm.prepare(arrays[row], number) for row in rows]
        its = {name: (v[rows], e[rows]) for name, (v, e) in known.items()}
        found = _infer_batch(fm, number, some, prepared, labels, its, statistics, whole)
        values[rows], errors[rows], flag[rows], diagnosis = found
        n_used[rows], snr[rows] = [a.n_good for a in prepared], [a.snr for a in prepared]
        if statistics:
            diagnoses.append((rows, fm.info.domains[number], diagnosis))
    masked = (flag & MASKING_FLAGS) != 0
    values[masked], errors[masked] = np.nan, np.nan
    if tell_masked and masked.any():
        reasons = [(i, why_masked(arrays[i], flag[i])) for i in np.flatnonzero(masked)]
        problems = [f"row {i}: {reason}" for i, reason in reasons if reason]
        warnings.warn(
            f"{masked.sum()} of {n_star} rows are masked, see their flags" + "".join(f"; {p}" for p in problems[:3]),
            SpectraFMWarning,
            stacklevel=3,
        )
    unproven = {k for number in used for k in fm.info.domains[number].unproven}
    meta = provenance(fm, given)
    if given_names := [name for name, (its, _) in known.items() if np.isfinite(its).any()]:
        meta["known"] = ", ".join(given_names)
    if unproven & set(labels):
        meta["unproven"] = ", ".join(name for name in labels if name in unproven)
    columns = {"flag": flag, "n_pixels_used": n_used, "snr": snr, "identifier": [a.identifier for a in arrays]}
    velocities = np.array([[a.radial_velocity, a.radial_velocity_error] for a in given]).reshape(-1, 2)
    measured = np.isfinite(velocities[:, 1])
    if measured.any() or isinstance(spectrum_options.get("radial_velocity"), str):
        columns["radial_velocity"] = np.where(measured[:, None], velocities, np.nan).T
    return label_table(labels, values, errors, **columns, meta=meta), diagnoses


def why_masked(star, flag, hint="plain numbers are Angstrom"):
    """Say why a star has no labels, where its pixels or its file tell more than its flags.

    Parameters
    ----------
    star : SpectrumArrays
        Its spectrum, not normalised.
    flag : int
        Its flags.
    hint : str, optional
        What may be wrong where no domain covers its wavelengths.

    Returns
    -------
    str
        "" where flags say it all.
    """
    if star.problem or not star.n_good:
        return star.problem
    if flag & Flag.NO_OVERLAP:
        low, high = star.wavelength[star.good][[0, -1]]
        where = f"pixels from {low:.5g} to {high:.5g} Angstrom, where these weights see nothing"
        return "; ".join([where, *[hint] * bool(hint)])
    # it had good pixels before it was normalised
    return UNNORMALISED if flag & Flag.NO_GOOD_PIXELS else ""


def wanted_labels(fm, labels, known, domains):
    """Check which labels are asked for.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    labels : str or sequence of str or None
        As for `SpectraFM.infer`.
    known : dict of str to (numpy.ndarray, numpy.ndarray)
        What is given, as `~spectrafm._known.known_quantities` returns it.
    domains : set of int
        Numbers of the domains of the stars that can be used.

    Returns
    -------
    tuple of str
        Those asked for, or, when left out, all that such spectra have and that are not given for all stars.

    Raises
    ------
    InputTypeError, InputValueError
        No names; none, one that these weights do not know, one more than once, or one that is given for all stars.
    """
    given = [name for name, (values, _) in known.items() if np.isfinite(values).all()]
    if labels is None:
        # where no star can be used, nothing is left out
        predicted = labels_of(fm, domains or range(len(fm.info.domains)))
        return tuple(name for name in fm.labels if name in predicted and name not in given)
    if not isinstance(labels, Iterable):
        raise InputTypeError(f"labels: {labels!r}, expected names such as ['teff', 'logg']")
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    unknown = [name for name in labels if name not in fm.labels]
    if unknown or not labels:
        raise InputValueError(f"labels: {unknown or 'none'} asked for; these weights know {', '.join(fm.labels)}")
    if repeated := sorted({name for name in labels if labels.count(name) > 1}):
        raise InputValueError(f"labels: {', '.join(repeated)} more than once; expected each name once")
    both = [name for name in labels if name in given]
    if both:
        raise InputValueError(f"labels: {both} asked for and given in known for all; leave them out of one of the two")
    return labels


def labels_of(fm, domains):
    """Return the labels that are predicted from spectra of some domains.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    domains : iterable of int
        Numbers of the domains.

    Returns
    -------
    set of str
        Labels of any of them.
    """
    return {name for number in domains for name in fm.info.domains[number].labels}


def provenance(fm, spectra):
    """Return what made a table, and in what its wavelengths came.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    spectra : sequence of SpectrumArrays
        What it was made of.

    Returns
    -------
    dict
        Strings by name.
    """
    from astropy.time import Time

    from . import __version__

    # of those that could be read
    media = {star.medium for star in spectra if not star.problem} or {"vacuum"}
    return {
        "model": fm.info.name,
        "weights_sha256": fm.weights_hash,
        "spectrafm_version": __version__,
        "date": Time.now().isot,
        "medium": media.pop() if len(media) == 1 else "one a star",
        "frame": "rest",
    }


def _infer_batch(fm, number, arrays, prepared, labels, known, statistics, whole):
    """Return values and errors ``(n_star, n_label)``, NaN where not predicted or given, flags, and a diagnosis.

    The diagnosis is None where nobody needs it.
    """
    domain, n_star = fm.info.domains[number], len(prepared)
    # the density of embeddings is that of spectra alone
    spectrum_only = fm.perceive(prepared, number)
    values, errors = np.full((2, n_star, len(labels)), np.nan)
    flag = np.array([a.flags | _spectrum_flags(a, domain) for a in prepared], dtype=np.int64)
    more = np.zeros(n_star, dtype=np.int64)
    for name, (given, _) in known.items():
        more |= np.where(domain.outside_range(name, given), int(Flag.OUTSIDE_LABEL_RANGE), 0)
    has_sigma = np.array([a.has_sigma for a in prepared])
    if told := [name for name in known if name in domain.labels]:
        own, own_error = fm.predict_labels(spectrum_only, told)
        own_error = domain.calibrated_errors(told, own_error, has_sigma)
        given, given_error = (np.array([known[name][i] for name in told]).T for i in range(2))
        far = np.abs(given - own) > _CONTRADICTION * np.hypot(own_error, np.nan_to_num(given_error))
        more |= np.where(far.any(axis=1), int(Flag.CONTRADICTS_KNOWN), 0)
    columns = [column for column, name in enumerate(labels) if name in domain.labels]
    if columns:
        names = [labels[column] for column in columns]
        most = fm.model.most_pixels(len(known)) if whole else np.inf
        if all(a.n_good <= most for a in prepared):
            seen = fm.perceive(prepared, number, known, spectrum_only) if known else spectrum_only
            found, predicted = fm.predict_labels(seen, names)
        else:
            found, predicted = _told_by_sets(fm, number, prepared, known, names, most)
        # a label given for some stars is predicted for the others
        unknown = np.full(n_star, np.nan)
        given = np.isfinite([known[name][0] if name in known else unknown for name in names]).T
        found, predicted = (np.where(given, np.nan, array) for array in (found, predicted))
        values[:, columns], errors[:, columns] = found, domain.calibrated_errors(names, predicted, has_sigma)
        more |= _label_flags(domain, fm.model.vocabulary.log, names, found, predicted)
    diagnosis = None
    if statistics or domain.thresholds:
        diagnosis = diagnose_batch(fm, number, arrays, prepared, spectrum_only)
    if domain.thresholds:
        more |= diagnosis.flags(domain)
    else:
        distance = fm.distances(spectrum_only, domain.name)
        more |= np.where(distance > domain.density_threshold, int(Flag.UNUSUAL_SPECTRUM), 0)
    # of a star without pixels nothing was seen
    return values, errors, flag | np.where([a.n_good > 0 for a in prepared], more, 0), diagnosis


def _told_by_sets(fm, number, prepared, known, labels, most):
    """Return what all pixels of stars say of labels, and errors not yet calibrated, from sets of at most so many.

    Labels are the means of what the sets say, weighted by their errors. What the sets have in common, as
    calibration measured it, stays in the error; the rest averages out.
    """
    n_set = np.array([max(int(np.ceil(star.n_good / most)), 1) for star in prepared])
    values, errors = np.full((2, n_set.max(), len(prepared), len(labels)), np.nan)
    for i in range(n_set.max()):
        rows = np.flatnonzero(n_set > i)
        some = [prepared[row].subset(i, n_set[row], most) for row in rows]
        its = {name: (given[rows], error[rows]) for name, (given, error) in known.items()}
        values[i, rows], errors[i, rows] = fm.predict_labels(fm.perceive(some, number, its), labels)
    # what is modelled by its logarithm is averaged there: linear errors grow with values
    log = np.array([name in fm.model.vocabulary.log for name in labels])
    errors[..., log] /= values[..., log]
    values[..., log] = np.log(values[..., log])
    weight = np.nan_to_num(errors**-2.0)
    total = weight.sum(axis=0)
    weight = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    mean = np.where(total > 0, (weight * np.nan_to_num(values)).sum(axis=0), np.nan)
    # variance of one set, and the part that is left of it where sets have nothing in common
    one = (weight * np.nan_to_num(errors) ** 2).sum(axis=0)
    share = np.array([min(most / max(star.n_good, 1), 1.0) for star in prepared])[:, None]
    in_common = np.array([fm.info.domains[number].in_common.get(name, 1.0) for name in labels])
    # where sets disagree by more than their errors, the scatter is the error of their mean
    scatter = (weight * np.nan_to_num(values - mean) ** 2).sum(axis=0)
    chance = scatter * share / np.maximum(1 - share, share)
    error = np.sqrt(np.maximum(one * (in_common + (1 - in_common) * share), chance))
    error = np.where(total > 0, error, np.nan)
    mean[:, log] = np.exp(mean[:, log])
    error[:, log] *= mean[:, log]
    return mean, error


def _label_flags(domain, log, labels, values, errors):
    """Return the flags ``(n_star,)`` of labels out of range and of errors, not yet calibrated, that are large."""
    flag = np.zeros(len(values), dtype=np.int64)
    for name, value, error in zip(labels, values.T, errors.T, strict=True):
        flag |= np.where(domain.outside_range(name, value), int(Flag.OUTSIDE_LABEL_RANGE), 0)
        scale = value if name in log else 1.0
        large = error > domain.usual_errors.get(name, np.inf) * scale
        flag |= np.where(large, int(Flag.LARGE_UNCERTAINTY), 0)
    return flag


def _spectrum_flags(arrays, domain):
    """Return the flags of a spectrum that is cut, noisy or sampled as no training spectrum was."""
    if not arrays.n_good:
        return 0
    flags = 0
    if arrays.n_good < domain.min_pixels:
        flags |= Flag.FEW_PIXELS
    if (arrays.snr if arrays.has_sigma else arrays.estimated_snr) < domain.min_snr:
        flags |= Flag.LOW_SNR
    if arrays.snr > domain.largest_snr:
        flags |= Flag.HIGH_SNR
    typical = arrays.spacing
    # numbers for the same instrument differ by some per cent
    blunt = arrays.resolving_power < 0.95 * domain.lowest_power
    if blunt or not domain.spacing_range[0] <= typical <= domain.spacing_range[1]:
        flags |= Flag.SAMPLING_MISMATCH
    spacing = np.diff(np.log(arrays.wavelength[arrays.good]))
    covered = np.minimum(spacing, 4 * typical).sum() + typical
    low, high = np.log(domain.wavelength_range)
    if not covered >= domain.min_coverage * (high - low):
        flags |= Flag.PARTIAL_COVERAGE
    return int(flags)
