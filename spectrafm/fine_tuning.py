"""Weights adapted to few real stars of an instrument, a wavelength range or a label."""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from ._inference import infer_stars
from ._known import known_labels, table_columns
from ._model_spectra import expected_flux
from ._tokens import FLUX_KINDS, flux_name, spectra_to_tokens
from .calibration import error_factor
from .diagnostics import adapt_thresholds
from .exceptions import InputValueError, SpectraFMWarning
from .flags import Flag
from .line_correction import LineCorrection, depth_ratio
from .quantities import OTHER_COLUMNS, QUANTITIES, Quantity, register_quantity
from .residual_head import fit_residual_head
from .stellarperceptron import AugmentationConfig, FitConfig, StellarPerceptron, TokenTable, Vocabulary
from .stellarperceptron.config import Config, negative, not_counts, refuse
from .stellarperceptron.nn_utils import seeded_generator
from .stellarperceptron.trainer import TableStream, Trainer
from .weights_info import LARGE_ERROR, Domain

__all__ = ["METHODS", "FineTuneConfig", "fine_tune", "label_truth"]

#: Ways to fine-tune, and the learning rate of those that train the network.
METHODS = {"head": None, "lora": 2e-3, "decoder": 5e-4, "encoder": 3e-4, "last_block": 5e-4, "full": 3e-4}
# what cross-validation chooses from; the rest are there to be asked for
_AUTO = ("head", "lora", "full")
# signal-to-noise ratios up to this many times the median of the given stars are taken as they are
_USUAL_SNR = 3.0
# fewer stars tell nothing about errors
_FEWEST = 10
_SPLIT, _NEW_ROW = 21, 22
# by how much the depths of lines are corrected, in per cent
_STRENGTHS = (0, 50, 100)
# 0 is the score of the mean of the labels; those of labels in a wrong order scatter about it
_GUESSED = -0.05


@dataclass(frozen=True)
class FineTuneConfig(Config):
    """How weights are fine-tuned.

    Attributes
    ----------
    method : str
        ``"head"``: the network stays; the lines of spectra are brought to the depths that it
        expects, and a Gaussian process on its answers and its embedding corrects these.
        ``"lora"``: changes of low rank in all of its matrices. ``"decoder"``, ``"encoder"``,
        ``"last_block"`` (of the encoder, and the decoder), ``"full"``: these parts are
        trained, the second look at labels with the decoder, a second opinion with either. ``"auto"``: the one of head,
        lora and full that cross-validation within the given stars likes best.
    n_fold : int
        Folds of that cross-validation, which also decides when to stop and how large errors are.
    steps : int
        Most steps of training.
    batch_size : int
        Stars in a step.
    learning_rate : float
        0 for the one of the method, see `METHODS`.
    rank : int
        Rank of ``"lora"``.
    seed : int
        Seed of everything that is drawn.

    Raises
    ------
    ConfigError
        Listing everything that is wrong.
    """

    method: str = "auto"
    n_fold: int = 4
    steps: int = 240
    batch_size: int = 32
    learning_rate: float = 0.0
    rank: int = 8
    seed: int = 0

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        problems = []
        if self.method not in ("auto", *METHODS):
            problems.append(f"method must be 'auto' or one of {', '.join(METHODS)}, not {self.method!r}")
        problems += not_counts(self, ("n_fold",), least=2)
        problems += not_counts(self, ("steps", "batch_size", "rank"))
        problems += not_counts(self, ("seed",), least=0)
        problems += negative(self, ("learning_rate",))
        refuse("fine_tune", problems)


@dataclass
class _Stars:
    """Stars to learn from: as inference sees them, and as training does."""

    prepared: list
    table: TokenTable
    truth: dict
    domain: Domain
    normalizer: object
    # where lines are corrected, (n_pixel,); fluxes there, (n_star, n_pixel), NaN where there is none; and what the
    # model expects of stars with their labels. None where lines are not corrected
    wavelength: np.ndarray | None
    flux: np.ndarray | None
    expected: np.ndarray | None

    def __len__(self):
        return len(self.prepared)

    def correction(self, rows, strength):
        """Return what brings the lines of stars to what the model expects, as some of them say."""
        if self.expected is None or not strength:
            return None
        factor = depth_ratio(self.flux[rows], self.expected[rows], strength / 100)
        return LineCorrection(self.wavelength, factor)

    def perceive(self, model, rows, correction=None):
        stars = [self.prepared[row] for row in rows]
        stars = stars if correction is None else [correction(star) for star in stars]
        stars = [self.domain.as_network_input(star, model.most_pixels()) for star in stars]
        return model.perceive_tokens(spectra_to_tokens(stars, model.vocabulary, None, self.domain.flux_kind))


@dataclass
class _Trial:
    """What cross-validation says of one method."""

    method: str
    score: float
    by_label: dict
    values: dict
    errors: dict
    step: int  # of training; for a head, the strength of the correction of lines [per cent]
    history: list


def label_truth(labels_table, n_star, labels=None, positive=()):
    """Return the labels of stars that a table holds, and their errors.

    Parameters
    ----------
    labels_table : `~astropy.table.Table` or dict
        A row a star: ``<label>`` and, where known, ``e_<label>``; with units or in those of
        `spectrafm.quantities.QUANTITIES`; NaN or masked where not known. Other columns are
        left alone.
    n_star : int
        Number of stars.
    labels : sequence of str, optional
        Columns to take; all stellar labels by their names when left out. A column that is
        named here and that nobody knows becomes a quantity of its own, with the unit that it has.
    positive : sequence of str, optional
        Labels whose logarithm is modelled.

    Returns
    -------
    dict of str to (numpy.ndarray, numpy.ndarray)
        Values and errors ``(n_star,)`` in the units of the registry, NaN where not known.

    Raises
    ------
    InputTypeError, InputValueError
        Not a table, another number of rows, no label, names that mean something else, units that do not fit,
        numbers that a label cannot have.
    """
    columns = table_columns(labels_table, "labels_table")
    if labels is None:
        labels = [name for name in columns if name in QUANTITIES and QUANTITIES[name].kind == "label"]
    labels = [labels] if isinstance(labels, str) else list(labels)
    missing = [name for name in labels if name not in columns]
    if missing or not labels:
        raise InputValueError(
            f"labels_table: no column {', '.join(missing) or 'that is a label'}; it has {', '.join(columns)}; "
            "name columns as in spectrafm.quantities, or say which are labels with labels="
        )
    taken = [name for name in labels if name in OTHER_COLUMNS or name.startswith("e_")]
    if taken:
        raise InputValueError(
            f"labels: {taken} are names that tables of results have for something else; rename these columns"
        )
    _refuse_inputs(labels, ("flux", *FLUX_KINDS))
    for name in labels:
        if name not in QUANTITIES:
            column = columns[name]
            unit = getattr(column, "unit", None) or ""
            text = getattr(getattr(column, "info", None), "description", None) or name
            # errors of magnitudes and of logarithms are differences: they have no zero point
            register_quantity(Quantity(name, str(unit), str(getattr(unit, "function_unit", unit)), "", text))
    return known_labels(columns, labels, n_star, "labels_table", positive)


def _refuse_inputs(labels, fluxes):
    """Refuse labels with the names of what spectra come with: fluxes, and properties of an observation."""
    observed = [name for name, quantity in QUANTITIES.items() if quantity.kind == "observation"]
    taken = [name for name in labels if name in (*fluxes, *observed)]
    if taken:
        raise InputValueError(
            f"labels: {taken} are names of fluxes or of properties of an observation; expected labels of stars; "
            "rename these columns, or leave them out"
        )


def fine_tune(fm, arrays, truth, config, *, name=None, progress=False):
    """Adapt weights to stars with labels, see `spectrafm.SpectraFM.fine_tune`.

    Parameters
    ----------
    fm : SpectraFM
        The base; left as it is.
    arrays : list of SpectrumArrays
        Spectra, not normalised.
    truth : dict of str to (numpy.ndarray, numpy.ndarray)
        From `label_truth`.
    config : FineTuneConfig
        How.
    name : str, optional
        Name of the new weights.
    progress : bool, optional
        Show progress bars, where tqdm is installed.

    Returns
    -------
    SpectraFM

    Raises
    ------
    InputValueError
        Names that are no labels, too few stars, spectra of several kinds, or a method that the base does not allow.
    """
    _refuse_inputs(truth, fm.model.vocabulary.flux)
    before = fm.head
    if before is not None and config.method not in ("auto", "head"):
        raise InputValueError(
            f"method: {config.method!r} trains the network, whose answers the head of {fm.info.name!r} corrects "
            "as they are; use method='head', or start from weights without one"
        )
    methods = (config.method,) if config.method != "auto" else _AUTO if before is None else ("head",)
    usable, number, domain, given = _domain(fm, arrays, truth)
    _warn_of_motion(fm, number, domain, given)
    vocabulary = _vocabulary(fm.model.vocabulary, truth, usable)
    model = _copy(fm.model, vocabulary, config.seed)
    base = fm.adapted(model, domain, lines=fm.lines)
    truth = {k: (values[usable], errors[usable]) for k, (values, errors) in truth.items()}
    # what the model expects of all pixels takes seconds, and only a head makes use of it
    stars = _stars(base, given, truth, correct_lines="head" in methods)
    inputs = [label for label in fm.info.domains[number].labels if label in vocabulary]
    trials = [_try(method, model, stars, inputs, config, before, progress) for method in methods]
    best = min(trials, key=lambda trial: trial.score)
    head, lines = None, fm.lines
    rows = np.arange(len(stars))
    if best.method == "head":
        correction = stars.correction(rows, best.step)
        head = _fit_head(model, stars, rows, inputs, before, correction)
        lines = lines if correction is None else correction.after(lines)
    else:
        model, _ = _train(best.method, model, stars, rows, config, stop=best.step, progress=progress)
    _describe(domain, stars, best, vocabulary.log)
    _warn_of_guesses(best)
    history = [entry for trial in trials for entry in trial.history]
    record = {
        "base": fm.info.name,
        "base_sha256": fm.weights_hash,
        "method": best.method,
        "n_star": len(stars),
        "step": best.step,
        "settings": config.to_dict(),
        "scores": {trial.method: trial.score for trial in trials},
        "history": history,
    }
    tuned = fm.adapted(
        model,
        domain,
        base_domain=fm.info.domains[number].name,
        head=head,
        lines=lines,
        name=name or f"{fm.info.name}-{best.method}",
        fine_tuning=record,
        training_data=f"{fm.info.training_data}; fine-tuned on {len(stars)} stars",
        quantities=[QUANTITIES[label] for label in truth],
    )
    adapt_thresholds(tuned, given)
    return tuned


def _domain(fm, arrays, truth):
    """Return rows that can be used, the number of the domain of these spectra, it as it will be, and the spectra."""
    known = np.any([np.isfinite(values) for values, _ in truth.values()], axis=0)
    usable = np.array([row for row, star in enumerate(arrays) if star.n_good > 0 and known[row]], dtype=int)
    _check_count(truth, usable)
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
    _check_count(truth, usable)
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


def _warn_of_motion(fm, number, domain, stars):
    """Warn where the base finds that most stars are not at rest: what is fine-tuned would take that for granted."""
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


def _warn_of_guesses(trial):
    """Warn of labels that are told hardly better than by their mean."""
    if guessed := [name for name, score in trial.by_label.items() if score > _GUESSED]:
        warnings.warn(
            f"labels_table: {', '.join(guessed)} of stars set aside were told hardly better than by their mean; see "
            "whether its rows are in the order of the spectra, and whether these stars differ in them",
            SpectraFMWarning,
            stacklevel=4,
        )


def _check_count(truth, usable):
    """Refuse labels that too few of the stars that can be used have."""
    few = {name: int(np.isfinite(values[usable]).sum()) for name, (values, _) in truth.items()}
    few = {name: count for name, count in few.items() if count < _FEWEST}
    if few:
        told = ", ".join(f"{name}: {count}" for name, count in few.items())
        raise InputValueError(
            f"labels_table: stars with a usable spectrum and a label: {told}; "
            f"expected {_FEWEST} or more of each label, or leave it out with labels="
        )


def _vocabulary(before, truth, usable):
    """Return the vocabulary with tokens for new labels, standardised by the given stars."""
    new = [name for name in truth if name not in before]
    names = (*before.names, *new)
    mean, std = list(before.mean[1:]), list(before.std[1:])
    for name in new:
        values = truth[name][0][usable]
        mean.append(float(np.nanmean(values)))
        std.append(float(np.nanstd(values)) or 1.0)
    rows = [*before.rows[1:], *(int(before.rows.max()) + 1 + i for i in range(len(new)))]
    return Vocabulary(names, flux=before.flux, log=before.log, rows=rows, mean=mean, std=std)


def _copy(model, vocabulary, seed):
    """Return the same model with rows for new tokens, which begin as the mean of those of other labels."""
    copied = StellarPerceptron(model.config, vocabulary, model.device, seed)
    state = {k: v.clone() for k, v in model.torch_model.state_dict().items()}
    n_new = len(vocabulary) - len(model.vocabulary)
    if n_new:
        labels = [k for k in model.vocabulary.names if k in QUANTITIES and QUANTITIES[k].kind == "label"]
        rows = torch.from_numpy(model.vocabulary.rows[model.vocabulary.tokens(labels)])
        generator = seeded_generator((_NEW_ROW, seed))
        for key in ("embedding_layer.embeddings", "embedding_layer.bias"):
            some = state[key][rows.to(state[key].device)]
            spread = torch.randn(n_new, some.shape[1], generator=generator).to(some) * some.std(dim=0)
            state[key] = torch.cat((state[key], some.mean(dim=0) + 0.3 * spread))
    copied.torch_model.load_state_dict(state)
    return copied


def _stars(fm, arrays, truth, correct_lines):
    """Lay stars out for inference and for training."""
    domain = fm.info.domains[0]
    bridged = [domain.cut(star).gaps_filled(domain.bridges) for star in arrays]
    n_pixel = max(len(star.wavelength) for star in bridged)
    flux, sigma = np.full((2, len(arrays), n_pixel), np.nan)
    wavelength = np.empty((len(arrays), n_pixel))
    for row, star in enumerate(bridged):
        here = slice(0, len(star.wavelength))
        # close to 1, so that single precision holds any unit
        scale = np.median(np.abs(star.flux[star.good])) or 1.0
        flux[row, here] = np.where(star.good, star.flux / scale, np.nan)
        sigma[row, here] = star.sigma / scale
        wavelength[row, here], wavelength[row, here.stop :] = star.wavelength, star.wavelength[-1]
    names = tuple(truth)
    values, errors = (np.stack([truth[name][i] for name in names], axis=1) for i in (0, 1))
    kind = flux_name(fm.model.vocabulary, domain.flux_kind)
    table = TokenTable(flux.astype(np.float32), wavelength, sigma.astype(np.float32), values, errors, names, kind)
    prepared = [fm.prepare(star, 0) for star in arrays]
    return _Stars(
        prepared,
        table,
        truth,
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


def _folds(n_star, n_fold, seed):
    """Return rows of each fold, every star in one."""
    order = np.random.default_rng((_SPLIT, seed)).permutation(n_star)
    return [np.sort(order[i::n_fold]) for i in range(n_fold)]


def _fit_head(model, stars, rows, inputs, before, correction):
    truth = {k: (values[rows], errors[rows]) for k, (values, errors) in stars.truth.items()}
    perception = stars.perceive(model, rows, correction)
    return fit_residual_head(model, perception, inputs, truth, log=model.vocabulary.log, before=before)


def _try(method, model, stars, inputs, config, before, progress):
    """Predict every star by what was trained without it."""
    labels, n_star = tuple(stars.truth), len(stars)
    everyone = np.arange(n_star)
    found = {}
    for held_out in _folds(n_star, config.n_fold, config.seed):
        rest = np.setdiff1d(everyone, held_out)
        if method == "head":
            answers = {}
            for strength in _STRENGTHS if stars.expected is not None else (0,):
                correction = stars.correction(rest, strength)
                head = _fit_head(model, stars, rest, inputs, before, correction)
                answers[strength] = head(model, stars.perceive(model, held_out, correction), labels)
        else:
            answers = _train(method, model, stars, rest, config, held_out=held_out, progress=progress)[1]
        for step, (values, errors) in answers.items():
            all_values, all_errors = found.setdefault(step, np.full((2, n_star, len(labels)), np.nan))
            all_values[held_out], all_errors[held_out] = values, errors
    # the folds of a step make one score: of stars that are told by what never saw them
    by_label = {step: _scores(values, stars.truth, model.vocabulary.log) for step, (values, _) in found.items()}
    scores = {step: float(np.mean(list(its.values()))) for step, its in by_label.items()}
    history = [{"method": method, "step": step, "score": score} for step, score in scores.items()]
    step = min(scores, key=scores.get)
    values, errors = ({k: array[:, i] for i, k in enumerate(labels)} for array in found[step])
    return _Trial(method, scores[step], by_label[step], values, errors, step, history)


def _scores(values, truth, log):
    """Return ln(error / scatter) by label: of the root mean square and the median alike."""
    scores = {}
    for column, (name, (true, _)) in enumerate(truth.items()):
        found = values[:, column]
        if name in log:
            found, true = np.log(found), np.log(true)
        known = np.isfinite(true)
        residual, scatter = (found - true)[known], np.std(true[known]) or 1.0
        typical = np.sqrt(np.mean(residual**2)), 1.4826 * np.median(np.abs(residual))
        scores[name] = float(np.mean([math.log(max(size / scatter, 1e-9)) for size in typical]))
    return scores


def _train(method, base, stars, rows, config, *, held_out=None, stop=None, progress=False):
    """Train a copy on some of the stars; return it, and what it says of those held out, by step."""
    model, labels = _copy(base, base.vocabulary, config.seed), tuple(stars.truth)
    network = model.torch_model
    _choose_parameters(network, method, config)
    # some steps apart, since each look at the stars held out costs about as much as a step
    every = max(config.steps // 8, 5)
    settings = FitConfig(
        steps=config.steps,
        batch_size=min(config.batch_size, len(rows)),
        learning_rate=config.learning_rate or METHODS[method],
        warmup_steps=min(10, config.steps),
        weight_decay=0.01,
        ema_decay=0.95,
        final_learning_rate=0.05,
        validation_every=every,
        log_every=every,
        seed=config.seed,
    )
    table = stars.table
    chosen = TokenTable(
        table.flux[rows],
        table.wavelength[rows],
        table.sigma[rows],
        table.values[rows],
        table.errors[rows],
        table.names,
        table.flux_name,
    )
    told = bool(np.isfinite(chosen.sigma).any())
    augmentation = AugmentationConfig(
        drop_pixels=0.3, window=0.1, withhold_sigma=0.2 if told else 0.0, noise=0.5 if told else 0.0
    )
    no_one = np.empty(0, dtype=int)
    divisor = stars.normalizer.divisor
    stream = TableStream(model, chosen, labels, settings, augmentation=augmentation, divisor=divisor, validation=no_one)
    answers = {}

    def watch(step):
        if held_out is not None:
            answers[step] = model.request(stars.perceive(model, held_out), labels)
        return step == stop

    Trainer(model, stream, settings, progress=progress, watch=watch).run()
    _merge(network)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return model, answers


def _choose_parameters(network, method, config):
    """Leave only those parameters to be trained that a method trains."""
    encoder = network.torch_encoder
    before, after, beside = (
        [] if module is None else [module] for module in (network.patch_layer, network.readout, network.opinion)
    )
    decoder = [network.torch_decoder, *after, *beside]
    trained = {
        "decoder": decoder,
        "last_block": [encoder.blocks[-1], encoder.final_norm, *decoder],
        "encoder": [encoder, *before, *beside],
        "full": [network],
        "lora": [],
    }[method]
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    # labels have rows there, new ones too
    for module in (*trained, network.embedding_layer):
        for parameter in module.parameters():
            parameter.requires_grad_(True)
    if method == "lora":
        generator = seeded_generator((_SPLIT, config.seed))
        for module in list(network.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.ndim == 2 and min(parameter.shape) > config.rank and module is not network.embedding_layer:
                    change = _LowRank(*parameter.shape, config.rank, generator).to(parameter.device)
                    parametrize.register_parametrization(module, name, change)


class _LowRank(nn.Module):
    """A matrix plus the product of two narrow ones (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, n_out, n_in, rank, generator):
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, n_in, generator=generator) / math.sqrt(n_in))
        self.b = nn.Parameter(torch.zeros(n_out, rank))

    def forward(self, matrix):
        """Return the changed matrix."""
        return matrix + self.b @ self.a


def _merge(network):
    """Make what was added to matrices part of them."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _describe(domain, stars, trial, log):
    """Write down what the given stars say of errors and ranges."""
    prepared = stars.prepared
    domain.min_pixels = min(domain.min_pixels, *(star.n_good // 2 for star in prepared))
    low, high = np.log(domain.wavelength_range)
    covered = [star.n_good * star.spacing / (high - low) for star in prepared if star.n_good > 1]
    domain.min_coverage = float(min(domain.min_coverage, 0.5 * np.median(covered)))
    snr = [star.snr for star in prepared if np.isfinite(star.snr)]
    domain.min_snr = float(min([domain.min_snr, *snr]))
    for name, (true, true_errors) in stars.truth.items():
        known = np.isfinite(true)
        ends = (float(true[known].min()), float(true[known].max()))
        before = domain.label_ranges.get(name, ends)
        domain.label_ranges[name] = [min(before[0], ends[0]), max(before[1], ends[1])]
        values, errors = trial.values[name], trial.errors[name]
        factor = error_factor(values[known], errors[known], true[known], true_errors[known])
        domain.calibration[name] = {"with_sigma": factor, "without_sigma": factor}
        scale = values if name in log else 1.0
        domain.usual_errors[name] = float(LARGE_ERROR * np.nanmedian(errors / scale))
