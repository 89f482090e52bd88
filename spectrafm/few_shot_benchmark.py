"""What a hundred real stars add to weights that never saw one, beside methods that have only these."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .adapters import from_arrays
from .core import SpectraFM
from .exceptions import InputValueError, MissingDependencyError
from .fine_tuning import FineTuneConfig
from .foundation_benchmark import SameStars, label_columns, observed_spectra
from .stellarperceptron import AugmentationConfig, FitConfig, ModelConfig, StellarPerceptron, TokenTable, Vocabulary
from .stellarperceptron.tokens import evenly
from .stellarperceptron.trainer import TableStream
from .training.train import read_data

__all__ = ["benchmark_few_shot"]

_LABELS = ("teff", "logg", "fe_h")
# in a checkout, beside the package
_SYNTHETIC = Path(__file__).parents[1] / "weights" / "optical-synthetic"
# vacuum [Angstrom]; where the base is fine-tuned, and where the few stars are
_FIRST_RANGE, _SECOND_RANGE = (3_540.0, 5_400.0), (5_600.0, 7_400.0)
_TEFF_RANGE, _IRON_RICH = (3_800.0, 7_500.0), -1.0
# share of the stars that the base is fine-tuned on; none of these is tested on
_FIRST_SHARE = 0.35
_SEED, _N_DRAW, _N_STAR, _CURVE = 2026, 10, 100, (10, 30, 300)
_N_CURVE_DRAW, _N_WORLD_DRAW, _N_WORLD = 2, 1, 400
# draws of methods that train a network: minutes each
_N_SLOW_DRAW = 2
# the other world: error of ln(depth) of lines, depth of lines that are missing, and its resolving power
_LINE_ERROR, _VEIL, _WORLD_POWER = 0.3, 0.03, 22_500.0
_PAPER_PIXELS = 256


@dataclass
class _Set:
    """Stars with labels, as every method is given them."""

    spectra: list
    wavelength: np.ndarray
    flux: np.ndarray  # (n_star, n_pixel), divided by a continuum
    labels: dict

    def __len__(self):
        return len(self.spectra)

    def take(self, rows):
        labels = {k: v[rows] for k, v in self.labels.items()}
        return _Set([self.spectra[row] for row in rows], self.wavelength, self.flux[rows], labels)


def _make_set(spectra, labels, normalizer):
    wavelength = spectra[0].wavelength
    normal = [normalizer(star) for star in spectra]
    flux = np.stack([np.where(star.good, star.flux, 1.0) for star in normal])
    return _Set(list(spectra), wavelength, flux, labels)


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
        return _make_set(list(spectra), {k: v[rows] for k, v in labels.items()}, normalizer)

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
    } | (_quick_rivals() if rivals else {})
    slow = {
        "(a), few stars: full": lambda few, rest: _tuned(base, few, rest, "full"),
    } | (_slow_rivals(base) if rivals else {})
    yield from _header(_N_STAR)
    yield from _report(second, quick, _N_STAR, n_draw)
    yield from _report(second, slow, _N_STAR, min(n_draw, _N_SLOW_DRAW))
    curve = {k: v for k, v in quick.items() if not k.startswith(("(a) zero", "(b)"))}
    for n_star in _CURVE:
        yield from _header(n_star)
        yield from _report(second, curve, n_star, min(n_draw, _N_CURVE_DRAW))


def _other_world(fm, rivals):
    """Yield the same for synthetic stars whose lines are not those that the weights know."""
    stars = SameStars("apogee", _N_WORLD)
    spectra = observed_spectra(fm, stars, snr=(100, 100))
    world = _World(spectra[0].wavelength)
    labels = {k: stars.truth[k] for k in _LABELS}
    other = _make_set([world(star) for star in spectra], labels, fm.normalizer_of("apogee"))
    middle = np.flatnonzero((labels["teff"] > _TEFF_RANGE[0]) & (labels["teff"] < _TEFF_RANGE[1]))
    yield f"another world, H band: {len(middle)} synthetic stars at S/N 100 whose lines are off by 30 %"
    methods = {
        "(a) zero-shot": lambda few, rest: _ours(fm, rest),
        "(c) (a), few stars: head": lambda few, rest: _tuned(fm, few, rest, "head"),
    }
    if rivals:
        methods |= _quick_rivals()
    yield from _header(_N_STAR)
    yield from _report(other.take(middle), methods, _N_STAR, _N_WORLD_DRAW)


class _World:
    """Changes all spectra alike: depths of lines, lines that are missing, the response."""

    def __init__(self, wavelength):
        rng = np.random.default_rng(_SEED)
        place = np.log(wavelength / wavelength[0])
        element = np.arange(0, place[-1] * _WORLD_POWER + 2)
        first, second = (np.interp(place * _WORLD_POWER, element, rng.normal(size=len(element))) for _ in range(2))
        self.depth, self.veil = np.exp(_LINE_ERROR * first), _VEIL * second**2
        self.response = 1 + 0.1 * np.cos(7 * np.pi * place / place[-1])

    def __call__(self, star):
        """Return the star as it is there."""
        flux = (1 - (1 - star.flux) * self.depth - self.veil) * self.response
        return replace(star, flux=flux, sigma=star.sigma * self.response)


def _header(n_few):
    """Yield the names of the columns."""
    yield f"{n_few} stars with [Fe/H] > {_IRON_RICH:g}: root mean square error of all others / of those with less iron"
    yield (
        f"  {'':<28}{'teff':>14}{'logg':>16}{'fe_h':>16}{'(scatter)':>16}"
        f"{'in 1, 2 sigma':>17}{'[Fe/H] < -1':>15}{'draws':>7}{'seconds':>9}"
    )


def _report(stars, methods, n_few, n_draw):
    """Yield how every method does on the stars that it was not given, mean over draws."""
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
        told = np.isfinite(share).all()
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
    z = np.stack([np.abs(values[k] - stars.labels[k][rest]) / sigmas[k] for k in _LABELS])
    return np.array([np.mean(some < n) for some in (z, z[:, poor]) for n in (1, 2)])


def _ours(fm, stars):
    return label_columns(fm.infer(stars.spectra, labels=_LABELS), _LABELS)


def _tuned(fm, few, rest, method):
    return _ours(fm.fine_tune(few.spectra, few.labels, method=method), rest)


def _slow_rivals(base):
    """Return networks that are trained on nothing but the few stars, by name."""
    return {
        "network of the paper": lambda few, rest: _network(_paper_config(), few, rest),
        "ours, without pre-training": lambda few, rest: _network(base.model.config, few, rest),
    }


def _quick_rivals():
    """Return other methods that have nothing but the few stars, by name."""
    return {
        "PCA + ridge": lambda few, rest: (_regression("ridge", few, rest), None),
        "gradient boosting": lambda few, rest: (_regression("boosting", few, rest), None),
        "quadratic Cannon": lambda few, rest: (_cannon(few, rest), None),
    }


def _paper_config():
    """Return the architecture of the paper, narrower: pixels are tokens, some of them at random."""
    return ModelConfig(
        context_length=_PAPER_PIXELS,
        embedding_dim=64,
        encoder_heads=(8, 4),
        encoder_dense=(256, 128),
        decoder_heads=(8, 4, 4),
        decoder_dense=(256, 128, 64),
        head_dense=(256, 128, 64),
        dropout=0.1,
        patch_size=1,
    )


def _network(config, few, rest):
    """Train a network from scratch on the few stars."""
    n_few = len(few)
    values = np.stack([few.labels[k] for k in _LABELS], axis=1)
    wavelength = few.wavelength
    table = TokenTable(few.flux.astype(np.float32), wavelength, None, values, None, _LABELS, "flux")
    vocabulary = Vocabulary(["flux", *_LABELS], flux=["flux"], log=["teff"])
    vocabulary.fit(table, np.arange(n_few))
    model = StellarPerceptron(config, vocabulary, seed=_SEED)
    settings = FineTuneConfig()
    fit = FitConfig(
        steps=settings.steps, batch_size=settings.batch_size, learning_rate=1e-3, warmup_steps=20, ema_decay=0.95,
        validation_every=settings.steps, log_every=settings.steps, seed=_SEED,
    )  # fmt: skip
    augmentation = AugmentationConfig(drop_pixels=0.3, window=0.1)
    stream = TableStream(model, table, _LABELS, fit, augmentation=augmentation, validation=np.empty(0, dtype=int))
    if config.patch_size > 1:
        model.fit_patches(stream, n_step=4)
    model.fit(stream, config=fit)
    flux, at = rest.flux, wavelength
    if config.patch_size == 1:
        chosen = evenly(np.ones(len(at), dtype=bool), config.context_length)
        flux, at = flux[:, chosen], at[chosen]
    perception = model.perceive(flux, ["flux"] * len(at), at)
    found, sigmas = model.request(perception, _LABELS)
    return tuple({k: array[:, i] for i, k in enumerate(_LABELS)} for array in (found, sigmas))


def _regression(kind, few, rest):
    """Regress labels on principal components."""
    try:
        from sklearn.decomposition import PCA
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
    except ImportError as error:
        raise MissingDependencyError("rivals need scikit-learn: pip install 'spectrafm[benchmark]'") from error
    n_component = min(20, len(few) // 2)
    predicted = {}
    for k in _LABELS:
        last = (
            RidgeCV(np.logspace(-4, 4, 17))
            if kind == "ridge"
            else HistGradientBoostingRegressor(max_iter=150, min_samples_leaf=5, random_state=0)
        )
        y = np.log(few.labels[k]) if k == "teff" else few.labels[k]
        answer = make_pipeline(PCA(n_component, whiten=True, random_state=0), last).fit(few.flux, y).predict(rest.flux)
        predicted[k] = np.exp(answer) if k == "teff" else answer
    return predicted


def _cannon(few, rest):
    """Fit fluxes as quadratic functions of labels, then labels to fluxes (Ness et al. 2015, arXiv:1501.07604)."""
    from scipy.optimize import least_squares

    labels = np.stack([few.labels[k] for k in _LABELS], axis=1)
    mean, std = labels.mean(axis=0), labels.std(axis=0)

    def design(x):
        pairs = [x[..., i] * x[..., j] for i in range(3) for j in range(i, 3)]
        return np.stack([np.ones(x.shape[:-1]), *(x[..., i] for i in range(3)), *pairs], axis=-1)

    x = design((labels - mean) / std)
    # a ridge, as ten stars do not hold ten numbers; not on the mean, of which squares would make up the rest
    ridge = np.diag([0.0, *[0.1] * 9])
    coefficient = np.linalg.solve(x.T @ x + ridge, x.T @ few.flux)
    scatter = np.sqrt(np.mean((few.flux - x @ coefficient) ** 2, axis=0) + 0.005**2)
    weighted, found = coefficient / scatter, []
    for flux in rest.flux / scatter:
        fit = least_squares(lambda p, flux=flux: design(p) @ weighted - flux, np.zeros(3), bounds=(-8, 8))
        found.append(fit.x * std + mean)
    return {k: np.array(found)[:, i] for i, k in enumerate(_LABELS)}
