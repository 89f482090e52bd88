"""Stars that weights are fine-tuned on: which can be used, of what kind they are, and which rows are one star."""

import warnings
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ._inference import infer_stars
from ._meant_names import may_number_row
from ._model_spectra import expected_flux
from ._numerics import mad_std, robust_rms, split_mask
from ._tokens import flux_name, spectra_to_tokens
from .exceptions import InputValueError, SpectraFMWarning
from .flags import Flag
from .line_correction import LineCorrection, depth_ratio
from .quantities import get_quantity
from .stellarperceptron import TokenTable
from .weights_info import Domain

__all__ = ["TuningStars", "rows_of_one_star", "tuned_domain", "tuning_stars", "warn_of_motion"]

# signal-to-noise ratios up to this many times the median of the given stars are taken as they are
_USUAL_SNR = 3.0
# fewer stars do not determine errors
_FEWEST = 10
# labels that differ by less, of their range or their size, are the same
_EQUAL = 1e-6
# labels that are rounded to several steps are so many of the smallest of them apart
_APART = (1, 2, 5, 10, 20, 50, 100)
# labels of one star scatter by less than this fraction of the scatter of all stars
_OWN_SCATTER = 0.5


@dataclass
class TuningStars:
    """Stars to learn from: as inference sees them, and as training does.

    Attributes
    ----------
    prepared : list of SpectrumArrays
        Normalised, as the network reads them.
    table : TokenTable
        The same for training, ``n_star`` rows.
    truth : dict of str to (numpy.ndarray, numpy.ndarray)
        Labels and their errors ``(n_star,)``, NaN where not known.
    star : numpy.ndarray
        ``(n_star,)`` number of the star that each row is of.
    domain : Domain
        Their kind.
    normalizer : object
        What normalises them.
    wavelength : numpy.ndarray or None
        ``(n_pixel,)`` [Angstrom, vacuum] where lines are corrected; None where they are not.
    flux, expected : numpy.ndarray or None
        ``(n_star, n_pixel)`` fluxes there, NaN where there is none, and those that the model
        expects of stars with their labels.
    """

    prepared: list
    table: TokenTable
    truth: dict
    star: np.ndarray
    domain: Domain
    normalizer: object
    wavelength: np.ndarray | None
    flux: np.ndarray | None
    expected: np.ndarray | None

    def __len__(self):
        return len(self.prepared)

    def correction(self, rows, strength):
        """Return what brings the lines of stars to what the model expects, as some of them say.

        Parameters
        ----------
        rows : numpy.ndarray
            The stars that are looked at.
        strength : float
            By how much the depths of lines are corrected [per cent].

        Returns
        -------
        LineCorrection or None
            None where nothing is corrected.
        """
        if self.expected is None or not strength:
            return None
        factor = depth_ratio(self.flux[rows], self.expected[rows], strength / 100)
        return LineCorrection(self.wavelength, factor)

    def tokens(self, model, rows, correction=None):
        """Return what a model reads of some of the stars.

        Parameters
        ----------
        model : StellarPerceptron
            The model.
        rows : numpy.ndarray
            The stars.
        correction : LineCorrection, optional
            What their lines are corrected by first.

        Returns
        -------
        Tokens
        """
        stars = [self.prepared[row] for row in rows]
        stars = stars if correction is None else [correction(star) for star in stars]
        stars = [self.domain.as_network_input(star, model.most_pixels()) for star in stars]
        return spectra_to_tokens(stars, model.vocabulary, None, self.domain.flux_kind)


def tuned_domain(fm, arrays, truth, star):
    """Say which stars can be used, and of what domain fine-tuned weights will be.

    Parameters
    ----------
    fm : SpectraFM
        The base.
    arrays : list of SpectrumArrays
        ``n_row`` spectra, not normalised.
    truth : dict of str to (numpy.ndarray, numpy.ndarray)
        Labels and errors ``(n_row,)``.
    star : numpy.ndarray
        ``(n_row,)`` from `rows_of_one_star`.

    Returns
    -------
    usable : numpy.ndarray
        Rows that can be used.
    number : int
        Number of the domain of the base that these spectra are of.
    domain : Domain
        That of the new weights.
    stars : list of SpectrumArrays
        The spectra of the usable rows.

    Raises
    ------
    InputValueError
        Too few stars, a label that does not vary, or spectra of several kinds.

    Warns
    -----
    SpectraFMWarning
        Stars that are left out.
    """
    known = np.any([np.isfinite(values) for values, _ in truth.values()], axis=0)
    usable = np.array([row for row, star in enumerate(arrays) if star.n_good > 0 and known[row]], dtype=int)
    _check_labels(truth, usable, star)
    numbers = [fm.info.domain_of(arrays[row]) for row in usable]
    # what is in no range says nothing of the kind, unless all of them are
    within = [i for i, row in zip(numbers, usable, strict=True) if fm.info.domains[i].cut(arrays[row]).n_good]
    numbers = within or numbers
    number = max(set(numbers), key=numbers.count)
    if len(set(numbers)) > 1:
        names = sorted({fm.info.domains[i].name for i in numbers})
        raise InputValueError(
            f"spectra: of several kinds, {', '.join(names)}; fine-tune on those of one kind at a time"
        )
    before, stars = fm.info.domains[number], [arrays[row] for row in usable]
    low = min(star.wavelength[star.good][0] for star in stars)
    high = max(star.wavelength[star.good][-1] for star in stars)
    inside = [np.mean(before.inside(star.wavelength[star.good])) for star in stars]
    # wavelengths that no training star had are a domain of their own, with the normaliser of the nearest kind
    new = np.median(inside) < 0.5
    domain = replace(
        before,
        name="fine_tuned" if new else before.name,
        labels=tuple(truth),
        wavelength_range=(low, high) if new else before.wavelength_range,
        calibration={},
        unproven=(),
        usual_errors={},
        smallest_errors={},
        label_ranges={k: v for k, v in before.label_ranges.items() if k in truth},
        predicts_flux=before.predicts_flux and not new,
    )
    stars = [domain.degraded(star) for star in stars]
    normalizer = fm.normalizer_of(before.name)
    readable = np.array([normalizer(domain.cut(star)).n_good > 0 for star in stars])
    usable, stars = usable[readable], [star for star, there in zip(stars, readable, strict=True) if there]
    lost = np.setdiff1d(np.arange(len(arrays)), usable).tolist()
    if lost:
        rows = ", ".join(map(str, lost[:10])) + (", ..." if len(lost) > 10 else "")
        warnings.warn(
            f"{len(lost)} of {len(arrays)} stars have no good pixel or no label and are left out: rows {rows}",
            SpectraFMWarning,
            stacklevel=4,
        )
    _check_labels(truth, usable, star)
    spacings = [star.spacing for star in stars if np.isfinite(star.spacing)] or [before.spacing_range[0]]
    finest, coarsest = (
        min(before.spacing_range[0], 0.7 * min(spacings)),
        max(before.spacing_range[1], 1.4 * max(spacings)),
    )
    powers = [star.resolving_power for star in stars if np.isfinite(star.resolving_power)]
    snr = [star.snr for star in stars if np.isfinite(star.snr)] or [0.0]
    ends = {
        "spacing_range": (finest, coarsest),
        "lowest_power": min([before.lowest_power, *powers]),
        # one star with absurd errors does not decide
        "largest_snr": float(max(before.largest_snr, min(max(snr), _USUAL_SNR * np.median(snr)))),
    }
    return usable, number, replace(domain, **ends), stars


def warn_of_motion(fm, number, domain, stars):
    """Warn where the base finds that most stars are not at rest: what is fine-tuned would take that for granted.

    Parameters
    ----------
    fm : SpectraFM
        The base.
    number : int
        Number of its domain that the stars are of.
    domain : Domain
        That of the new weights; where it is another, the base does not measure velocities.
    stars : list of SpectrumArrays
        Not normalised.

    Warns
    -----
    SpectraFMWarning
        Most stars are not at rest.
    """
    before = fm.info.domains[number]
    if "rv_significance" not in before.thresholds or domain.name != before.name:
        return
    table, _ = infer_stars(fm, stars, before.labels[:1], whole=False)
    moving = int(((table["flag"] & Flag.WRONG_VELOCITY) != 0).sum())
    if moving > len(stars) / 2:
        medium = (table["flag"] & Flag.WRONG_MEDIUM) != 0
        remedy = "medium='air' or 'vacuum'" if medium.sum() > moving / 2 else "radial_velocity= or medium="
        warnings.warn(
            f"spectra: {fm.info.name} finds that {moving} of {len(stars)} are not at rest (WRONG_VELOCITY); unless the "
            f"new weights are to read such spectra, give {remedy}",
            SpectraFMWarning,
            stacklevel=4,
        )


def _check_labels(truth, usable, star):
    """Refuse labels that too few of the stars that can be used have, or that are the same for all of them."""
    known = {name: usable[np.isfinite(values[usable])] for name, (values, _) in truth.items()}
    few = {name: len(np.unique(star[rows])) for name, rows in known.items()}
    few = {name: count for name, count in few.items() if count < _FEWEST}
    if few:
        told = ", ".join(f"{name}: {count}" for name, count in few.items())
        raise InputValueError(
            f"labels_table: stars with a usable spectrum and a label: {told}; "
            f"expected {_FEWEST} or more of each label, or leave it out with labels="
        )
    for name, rows in known.items():
        values = truth[name][0][rows]
        if np.ptp(values) <= _EQUAL * np.abs(values).max():
            unit = get_quantity(name).unit
            raise InputValueError(
                f"labels_table[{name!r}]: {values[0]:g}{f' {unit}' if unit else ''} for all {len(values)} stars; "
                "expected a label that varies, as nothing can be learnt of one that does not; leave it out with labels="
            )


def rows_of_one_star(arrays, truth, groups=None):
    """Find rows that are of one and the same star: visits, and spectra that were given twice.

    Parameters
    ----------
    arrays : list of SpectrumArrays
        ``n_row`` spectra.
    truth : dict of str to (numpy.ndarray, numpy.ndarray)
        Labels and errors ``(n_row,)``.
    groups : sequence of str or int, optional
        ``(n_row,)`` name of the star of each row, empty or masked where it has only this one. When left out,
        rows are of one star that have the same identifier, the same spectrum, or the same
        labels and errors where chance does not explain that.

    Returns
    -------
    numpy.ndarray
        ``(n_row,)`` number of the star, from 0, in the order of their first rows.

    Raises
    ------
    InputValueError
        Another number of groups than of rows.

    Warns
    -----
    SpectraFMWarning
        Some rows are of one star, and ``groups`` did not say so.
    """
    n_row = len(arrays)
    if groups is not None:
        names, mask = split_mask(groups)
        if np.shape(names) != (n_row,):
            raise InputValueError(
                f"groups: shape {np.shape(names)}, expected ({n_row},): for each row the name of its star"
            )
        names = [None if gone else str(name).strip() for name, gone in np.broadcast(np.asarray(names, object), mask)]
        return _numbered([_keys(names)], n_row)
    found = {
        "identifiers": _keys(_identifiers(arrays, truth)),
        "spectra": _keys([_content(star) if star.n_good else None for star in arrays]),
        "labels": _label_keys(truth, n_row),
    }
    # one name for all is that of a file or a survey
    if len(set(found["identifiers"])) == 1:
        found["identifiers"] = np.arange(n_row)
    by = [name for name, keys in found.items() if len(set(keys)) < n_row]
    star = _numbered(list(found.values()), n_row)
    if by:
        warnings.warn(
            f"spectra: {n_row} rows are of {star.max() + 1} stars, as their {' and '.join(by)} say, and errors are "
            "measured on stars whose rows are all left out; give one row a star, or say with groups= which star each "
            "row is of",
            SpectraFMWarning,
            stacklevel=4,
        )
    return star


def _keys(names):
    """Return a number for each name, the same for the same one; nothing but None and the empty name is its own."""
    numbers = {}
    return np.array([numbers.setdefault(name or row, len(numbers)) for row, name in enumerate(names)], dtype=int)


def _numbered(several, n_row):
    """Return the number of the star of each row, where rows with the same key of any sort are of one star."""
    # rows and keys are the nodes of a graph
    rows, keys, first = [], [], n_row
    for some in several:
        rows.append(np.arange(n_row))
        keys.append(first + some)
        first += n_row
    rows, keys = np.concatenate(rows), np.concatenate(keys)
    graph = coo_array((np.ones(len(rows)), (rows, keys)), shape=(first, first))
    return _keys((1 + connected_components(graph, directed=False)[1][:n_row]).tolist())


def _identifiers(arrays, truth):
    """Return the name of each star, or None where it may be the number of something else: a row, a plate, a night."""
    names = [star.identifier.strip() for star in arrays]
    is_number = np.array([name.isdigit() for name in names], dtype=bool)
    keys = _keys([name if number else None for name, number in zip(names, is_number, strict=True)])
    are_stars = _agree(truth, keys)
    return [
        None if number and (may_number_row(name) or not are_stars) else name
        for name, number in zip(names, is_number, strict=True)
    ]


def _agree(truth, keys):
    """Tell whether some label differs less between rows with the same key than between others."""
    order = np.argsort(keys, kind="stable")
    same = np.diff(keys[order]) == 0
    known = False
    for values, _ in truth.values():
        differences = np.diff(values[order])[same]
        if np.isfinite(differences).any():
            known = True
            if robust_rms(differences) / np.sqrt(2) <= _OWN_SCATTER * mad_std(values):
                return True
    return not known


def _content(star):
    """Return the good pixels of a spectrum."""
    return np.stack((star.wavelength[star.good], star.flux[star.good])).tobytes()


def _label_keys(truth, n_row):
    """Return keys of rows with the same labels and errors, or of all rows, where chance may have made them equal."""
    known = np.any([np.isfinite(values) for values, _ in truth.values()], axis=0)
    errors = [error for _, error in truth.values()]

    def cells(columns):
        return [tuple(cell) for cell in np.nan_to_num(np.column_stack([*columns, *errors]), nan=-1.0).tolist()]

    places = [_places(values) for values, _ in truth.values()]
    same = cells([place for place, _ in places])
    count = Counter(cell for cell, there in zip(same, known, strict=True) if there)
    pairs = sorted(n * (n - 1) / 2 for n in count.values())
    # many at one value may be a limit
    n_equal = sum(pairs[:-1])
    if len(count) < _FEWEST or n_equal <= 2:
        return np.arange(n_row)
    # rounded labels have as many neighbours some steps apart as they have equals; labels that are equal to no
    # others, as those that were not rounded, do not say what a step is
    repeated = np.array([count[cell] > 1 for cell in same])
    grid = cells([_grid(values, *place, repeated) for (values, _), place in zip(truth.values(), places, strict=True)])
    on_grid = Counter(cell for cell, there in zip(grid, known, strict=True) if there)
    beside = max(
        sum(n * on_grid.get((*cell[:i], cell[i] + apart, *cell[i + 1 :]), 0) for cell, n in on_grid.items())
        for i in range(len(places))
        for apart in _APART
    )
    if n_equal <= beside + 2:
        return np.arange(n_row)
    return _keys([cell if there else None for cell, there in zip(same, known, strict=True)])


def _places(values):
    """Return the places of values among different ones, NaN where not known, and these, but for rounding."""
    ordered = np.sort(values[np.isfinite(values)])
    if not len(ordered):
        return np.full(len(values), np.nan), ordered
    different = ordered[np.append(True, np.diff(ordered) > _EQUAL * np.ptp(ordered))]
    return np.where(np.isfinite(values), np.searchsorted(different, values, side="right") - 1.0, np.nan), different


def _grid(values, place, different, repeated):
    """Return values in steps: the smallest one between values of the rows that are repeated."""
    steps = np.diff(different[np.unique(place[repeated & np.isfinite(place)]).astype(int)])
    return np.round((values - (different[0] if len(different) else 0.0)) / (steps.min() if len(steps) else 1.0))


def tuning_stars(fm, arrays, truth, star, correct_lines):
    """Lay stars out for inference and for training.

    Parameters
    ----------
    fm : SpectraFM
        Weights of the one domain of these stars.
    arrays : list of SpectrumArrays
        ``n_star`` spectra, not normalised.
    truth : dict of str to (numpy.ndarray, numpy.ndarray)
        Labels and errors ``(n_star,)``.
    star : numpy.ndarray
        ``(n_star,)`` from `rows_of_one_star`.
    correct_lines : bool
        Whether lines may be corrected, for which the model is asked for spectra.

    Returns
    -------
    TuningStars
    """
    domain = fm.info.domains[0]
    filled = [domain.cut(one).gaps_filled(domain.bridges) for one in arrays]
    n_pixel = max(len(one.wavelength) for one in filled)
    flux, sigma = np.full((2, len(arrays), n_pixel), np.nan)
    wavelength = np.empty((len(arrays), n_pixel))
    for row, one in enumerate(filled):
        here = slice(0, len(one.wavelength))
        # close to 1, so that single precision holds any unit
        scale = np.median(np.abs(one.flux[one.good])) or 1.0
        flux[row, here] = np.where(one.good, one.flux / scale, np.nan)
        sigma[row, here] = one.sigma / scale
        wavelength[row, here], wavelength[row, here.stop :] = one.wavelength, one.wavelength[-1]
    names = tuple(truth)
    values, errors = (np.stack([truth[name][i] for name in names], axis=1) for i in (0, 1))
    kind = flux_name(fm.model.vocabulary, domain.flux_kind)
    table = TokenTable(flux.astype(np.float32), wavelength, sigma.astype(np.float32), values, errors, names, kind)
    prepared = [fm.prepare(one, 0) for one in arrays]
    return TuningStars(
        prepared,
        table,
        truth,
        star,
        domain,
        fm.normalizer_of(domain.name),
        *_expected(fm, prepared, truth, correct_lines),
    )


def _expected(fm, prepared, truth, correct_lines):
    """Return wavelengths, fluxes there, and what the model expects of stars with their labels; or nothing of these."""
    domain = fm.info.domains[0]
    told = {k: v for k, v in truth.items() if k in fm.info.known and k in fm.model.vocabulary}
    if (
        not correct_lines
        or not domain.predicts_flux
        or domain.flux_kind != "continuum_normalized"
        or "teff" not in told
    ):
        return None, None, None
    longest = max(prepared, key=lambda star: star.n_good)
    grid = longest.wavelength[domain.inside(longest.wavelength)]
    flux = np.full((len(prepared), len(grid)), np.nan)
    for row, star in enumerate(prepared):
        spacing = star.spacing if star.n_good > 1 else 0.0
        at, value = star.wavelength[star.good], star.flux[star.good]
        right = np.clip(np.searchsorted(at, grid), 1, len(at) - 1) if len(at) > 1 else np.zeros(len(grid), dtype=int)
        near = (grid >= at[0]) & (grid <= at[-1]) & (np.log(at[right] / at[right - 1]) < 4 * spacing)
        flux[row, near] = np.interp(grid[near], at, value)
    if "rv_offset" in fm.info.known:
        told["rv_offset"] = (np.zeros(len(prepared)), np.full(len(prepared), np.nan))
    expected, _ = expected_flux(fm, told, 0, grid, [star.resolving_power for star in prepared])
    return grid, flux, np.where(np.isfinite(truth["teff"][0])[:, None], expected, flux)
