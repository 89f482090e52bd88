"""What a hundred real stars add to weights that never saw one, beside methods that have only these."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..adapters import from_arrays
from ..core import SpectraFM
from ..exceptions import InputValueError
from ..training import read_data
from .networks import network_from_scratch, paper_config
from .regressors import predict_labels, quadratic_cannon
from .report import coverage, label_arrays
from .stars import OtherWorld, SameStars, observed_spectra

__all__ = ["FewShotStars", "benchmark_few_shot", "few_shot_report", "few_shot_rivals"]

_LABELS = ("teff", "logg", "fe_h")
# in a checkout, beside the package
_SYNTHETIC = Path(__file__).parents[2] / "weights" / "optical-synthetic"
# vacuum [Angstrom]; where the base is fine-tuned, and where the few stars are
_FIRST_RANGE, _SECOND_RANGE = (3_540.0, 5_400.0), (5_600.0, 7_400.0)
_TEFF_RANGE, _IRON_RICH = (3_800.0, 7_500.0), -1.0
# share of the stars that the base is fine-tuned on; none of these is tested on
_FIRST_SHARE = 0.35
_SEED, _N_DRAW, _N_STAR, _CURVE = 2026, 10, 100, (10, 30, 300)
_N_CURVE_DRAW, _N_WORLD_DRAW, _N_WORLD = 2, 1, 400
# draws of methods that train a network: minutes each
_N_SLOW_DRAW = 2


@dataclass
class FewShotStars:
    """Stars with labels, as every method is given them.

    Attributes
    ----------
    spectra : list of SpectrumArrays
        The spectra, on one grid of wavelengths.
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum].
    flux : numpy.ndarray
        ``(n_star, n_pixel)``, divided by a continuum; 1 where a pixel is bad.
    labels : dict of str to numpy.ndarray
        ``(n_star,)`` by label.
    """

    spectra: list
    wavelength: np.ndarray
    flux: np.ndarray
    labels: dict

    @classmethod
    def normalized(cls, spectra, labels, normalizer):
        """Divide spectra by their continuum for methods that need it.

        Parameters
        ----------
        spectra : sequence of SpectrumArrays
            On one grid of wavelengths.
        labels : dict of str to numpy.ndarray
            ``(n_star,)`` by label.
        normalizer : callable
            Returns a spectrum divided by its continuum, as a `ContinuumNormalizer` does.

        Returns
        -------
        FewShotStars
        """
        normal = [normalizer(star) for star in spectra]
        flux = np.stack([np.where(star.good, star.flux, 1.0) for star in normal])
        return cls(list(spectra), spectra[0].wavelength, flux, labels)

    def __len__(self):
        return len(self.spectra)

    def take(self, rows):
        """Return some of the stars.

        Parameters
        ----------
        rows : numpy.ndarray
            Row numbers.

        Returns
        -------
        FewShotStars
        """
        labels = {k: v[rows] for k, v in self.labels.items()}
        return FewShotStars([self.spectra[row] for row in rows], self.wavelength, self.flux[rows], labels)


def benchmark_few_shot(data_folder, model=None, rivals=True, n_draw=_N_DRAW):
    """Fine-tune on a hundred iron-rich stars, test on all others, iron-poor ones apart.

    Weights that were trained on synthetic stars alone are fine-tuned on real stars of MILES
    in the blue, then on 100 others with [Fe/H] > -1 in the red alone, and tested in the red
    on the stars that are left: ten times, with other draws. The same with synthetic stars of
    another world in the H band, whose lines are not those of the weights.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Holds the folder ``miles``.
    model : str or pathlib.Path, optional
        Weights that never saw a star of MILES; those in the folder ``weights`` of the checkout that this package is
        in when left out.
    rivals : bool, optional
        Train others on the same stars.
    n_draw : int, optional
        Draws of 100 stars.

    Yields
    ------
    str
        Lines of the report.

    Raises
    ------
    InputValueError
        ``model`` is left out, and the package is not in a checkout.
    """
    if model is None and not _SYNTHETIC.is_dir():
        raise InputValueError(
            f"model: none is given, and there is no folder {_SYNTHETIC}; expected weights that never saw a star of "
            "MILES; give their folder, such as weights/optical-synthetic of a checkout of the repository"
        )
    base = SpectraFM.from_pretrained(_SYNTHETIC if model is None else model)
    yield f"{base!r}, {base.model.n_parameter:,} parameters"
    yield from _miles(base, read_data("miles", data_folder), rivals, n_draw)
    yield from _other_world(SpectraFM.from_pretrained(), rivals)


def _miles(base, data, rivals, n_draw):
    known = np.all([np.isfinite(data.labels[k]) for k in _LABELS], axis=0)
    middle = known & (data.labels["teff"] > _TEFF_RANGE[0]) & (data.labels["teff"] < _TEFF_RANGE[1])
    order = np.random.default_rng(_SEED).permutation(np.flatnonzero(middle))
    n_first = int(_FIRST_SHARE * len(order))
    labels = {k: data.labels[k] for k in _LABELS}
    normalizer = base.normalizer_of("optical")

    def stars(rows, ends):
        inside = (data.wavelength > ends[0]) & (data.wavelength < ends[1])
        spectra = from_arrays(data.wavelength[inside], data.flux[rows][:, inside])
        return FewShotStars.normalized(spectra, {k: v[rows] for k, v in labels.items()}, normalizer)

    first, second = stars(order[:n_first], _FIRST_RANGE), stars(order[n_first:], _SECOND_RANGE)
    start = time.perf_counter()
    tuned = base.fine_tune(first.spectra, first.labels, method="full", n_fold=2, steps=480, seed=_SEED)
    yield (
        f"MILES: {len(first)} stars in {_FIRST_RANGE[0]:.0f}-{_FIRST_RANGE[1]:.0f} Angstrom fine-tune the base "
        f"({time.perf_counter() - start:.0f} s); {len(second)} others in {_SECOND_RANGE[0]:.0f}-{_SECOND_RANGE[1]:.0f}"
    )
    quick = {
        "(a) zero-shot": lambda few, rest: _ours(base, rest),
        "(b) real stars, other range": lambda few, rest: _ours(tuned, rest),
        "(c) (b), few stars: head": lambda few, rest: _tuned(tuned, few, rest, "head"),
        "(a), few stars: head": lambda few, rest: _tuned(base, few, rest, "head"),
    } | (few_shot_rivals() if rivals else {})
    slow = {
        "(a), few stars: full": lambda few, rest: _tuned(base, few, rest, "full"),
    } | (_slow_rivals(base) if rivals else {})
    yield from _header(_N_STAR)
    yield from few_shot_report(second, quick, _N_STAR, n_draw)
    yield from few_shot_report(second, slow, _N_STAR, min(n_draw, _N_SLOW_DRAW))
    curve = {k: v for k, v in quick.items() if not k.startswith(("(a) zero", "(b)"))}
    for n_star in _CURVE:
        yield from _header(n_star)
        yield from few_shot_report(second, curve, n_star, min(n_draw, _N_CURVE_DRAW))


def _other_world(fm, rivals):
    """Yield the same for synthetic stars whose lines are not those that the weights know."""
    stars = SameStars("apogee", _N_WORLD)
    spectra = observed_spectra(fm, stars, snr=(100, 100))
    world = OtherWorld(spectra[0].wavelength)
    labels = {k: stars.truth[k] for k in _LABELS}
    other = FewShotStars.normalized([world(star) for star in spectra], labels, fm.normalizer_of("apogee"))
    middle = np.flatnonzero((labels["teff"] > _TEFF_RANGE[0]) & (labels["teff"] < _TEFF_RANGE[1]))
    yield f"another world, H band: {len(middle)} synthetic stars at S/N 100 whose lines are off by 30 %"
    methods = {
        "(a) zero-shot": lambda few, rest: _ours(fm, rest),
        "(c) (a), few stars: head": lambda few, rest: _tuned(fm, few, rest, "head"),
    }
    if rivals:
        methods |= few_shot_rivals()
    yield from _header(_N_STAR)
    yield from few_shot_report(other.take(middle), methods, _N_STAR, _N_WORLD_DRAW)


def _header(n_few):
    """Yield the names of the columns."""
    yield f"{n_few} stars with [Fe/H] > {_IRON_RICH:g}: root mean square error of all others / of those with less iron"
    yield (
        f"  {'':<28}{'teff':>14}{'logg':>16}{'fe_h':>16}{'(scatter)':>16}"
        f"{'in 1, 2 sigma':>17}{'[Fe/H] < -1':>15}{'draws':>7}{'seconds':>9}"
    )


def few_shot_report(stars, methods, n_few, n_draw):
    """Measure every method on the stars that it was not given.

    Parameters
    ----------
    stars : FewShotStars
        All of the stars.
    methods : dict of str to callable
        By name, ``method(few, rest)`` returns values and errors of the labels of ``rest``, by label; None for
        errors that it does not give.
    n_few : int
        Number of iron-rich stars that a method is given.
    n_draw : int
        Number of draws of these.

    Yields
    ------
    str
        A line a method, of means over the draws; or one that says that there are too few stars.
    """
    fe_h = stars.labels["fe_h"]
    rich = np.flatnonzero(fe_h > _IRON_RICH)
    if n_few > len(rich) - 20:
        yield f"{n_few} stars: there are only {len(rich)} with [Fe/H] > {_IRON_RICH:g}"
        return
    for name, method in methods.items():
        errors, inside, start = [], [], time.perf_counter()
        for draw in range(n_draw):
            few = np.sort(np.random.default_rng((_SEED, draw)).choice(rich, n_few, replace=False))
            rest = np.setdiff1d(np.arange(len(stars)), few)
            values, sigmas = method(stars.take(few), stars.take(rest))
            errors.append(_errors(values, stars, rest))
            inside.append(_coverage(values, sigmas, stars, rest))
        seconds = (time.perf_counter() - start) / n_draw
        mean, scatter, share = np.mean(errors, axis=0), np.std(errors, axis=0), np.mean(inside, axis=0)
        cells = f"{mean[0, 0]:7.0f} /{mean[0, 1]:5.0f}" + "".join(f"{a:8.3f} /{b:6.3f}" for a, b in mean[1:])
        cells += f"  ({scatter[2, 0]:.3f}/{scatter[2, 1]:.3f})"
        told = np.isfinite(share).any()
        cells += f"{share[0]:10.2f} {share[1]:6.2f}{share[2]:9.2f} {share[3]:5.2f}" if told else f"{'-':>17}{'-':>15}"
        yield f"  {name:<28}{cells}{n_draw:7d}{seconds:9.1f}"


def _errors(values, stars, rest):
    """Return root mean square errors, ``(n_label, 2)``: of all, and of iron-poor stars."""
    poor = stars.labels["fe_h"][rest] < _IRON_RICH
    found = []
    for k in _LABELS:
        square = (values[k] - stars.labels[k][rest]) ** 2
        found.append([np.sqrt(np.nanmean(square)), np.sqrt(np.nanmean(square[poor]))])
    return np.array(found)


def _coverage(values, sigmas, stars, rest):
    """Return shares within one and two sigma, of all labels: of all stars, then of iron-poor ones."""
    if sigmas is None:
        return np.full(4, np.nan)
    poor = stars.labels["fe_h"][rest] < _IRON_RICH
    residual = np.stack([values[k] - stars.labels[k][rest] for k in _LABELS])
    sigma = np.stack([sigmas[k] for k in _LABELS])
    return np.array([*coverage(residual, sigma), *coverage(residual[:, poor], sigma[:, poor])])


def _ours(fm, stars):
    return label_arrays(fm.infer(stars.spectra, labels=_LABELS), _LABELS)


def _tuned(fm, few, rest, method):
    return _ours(fm.fine_tune(few.spectra, few.labels, method=method), rest)


def _slow_rivals(base):
    """Return networks that are trained on nothing but the few stars, by name."""

    def network(config):
        return lambda few, rest: network_from_scratch(config, few.wavelength, few.flux, few.labels, rest.flux, _SEED)

    return {"network of the paper": network(paper_config()), "ours, without pre-training": network(base.model.config)}


def few_shot_rivals():
    """Return other methods that have nothing but the few stars.

    Returns
    -------
    dict of str to callable
        By name, ``method(few, rest)`` of two `FewShotStars`: it returns ``values`` of the labels of ``rest``,
        by label, and None, as there are no errors.
    """

    def regression(kind, **settings):
        def method(few, rest):
            n_component = min(20, len(few) // 2)
            return predict_labels(
                kind, few.flux, few.labels, rest.flux, n_component, standardize=False, **settings
            ), None

        return method

    return {
        "PCA + ridge": regression("ridge"),
        "gradient boosting": regression("gradient boosting", max_iter=150, min_samples_leaf=5),
        "quadratic Cannon": lambda few, rest: (quadratic_cannon(few.flux, few.labels, rest.flux), None),
    }
