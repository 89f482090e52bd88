"""Weights adapted to few real stars of an instrument, a wavelength range or a label."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ._known import refuse_inputs
from ._numerics import robust_rms
from ._tuning_stars import rows_of_one_star, tuned_domain, tuning_stars, warn_of_motion
from .calibration import determined_factor, error_factor, truth_error_factor
from .exceptions import InputValueError, SpectraFMWarning
from .quantities import QUANTITIES
from .residual_head import encode_for_head, fit_residual_head
from .stellarperceptron import AugmentationConfig, FitConfig, StellarPerceptron, TokenTable, Vocabulary
from .stellarperceptron.config import Config, not_counts, not_positive, refuse
from .stellarperceptron.low_rank import add_low_rank, merge_low_rank
from .stellarperceptron.nn_utils import seeded_generator
from .stellarperceptron.table_stream import TableStream
from .stellarperceptron.trainer import Trainer
from .thresholds import adapt_thresholds
from .weights_info import LARGE_ERROR

__all__ = ["METHODS", "FineTuneConfig", "fine_tune"]

#: Ways to fine-tune, and the learning rate of those that train the network.
METHODS = {"head": None, "lora": 2e-3, "decoder": 5e-4, "encoder": 3e-4, "last_block": 5e-4, "full": 3e-4}
# what cross-validation chooses from; the rest are there to be asked for
_AUTO = ("head", "lora", "full")
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
    learning_rate : float or None
        None for the one of the method, see `METHODS`.
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
    learning_rate: float | None = None
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
        if self.learning_rate is not None:
            problems += not_positive(self, ("learning_rate",))
        refuse("fine_tune", problems)


@dataclass
class _Trial:
    """What cross-validation says of one method."""

    method: str
    score: float
    by_label: dict
    values: dict
    errors: dict
    # what was chosen: the step at which training stops; for a head, how much lines are corrected [per cent]
    choice: int
    history: list


def fine_tune(fm, arrays, truth, config, *, groups=None, name=None, progress=False):
    """Adapt weights to stars with labels, see `spectrafm.SpectraFM.fine_tune`.

    Parameters
    ----------
    fm : SpectraFM
        The base; left as it is.
    arrays : list of SpectrumArrays
        Spectra, not normalised.
    truth : dict of str to (numpy.ndarray, numpy.ndarray)
        Labels and their errors ``(n_star,)``, in the units of `spectrafm.quantities.QUANTITIES`; NaN where not known.
    config : FineTuneConfig
        How.
    groups : sequence of str or int, optional
        ``(n_star,)`` name of the star of each row, see `spectrafm.SpectraFM.fine_tune`.
    name : str, optional
        Name of the new weights.
    progress : bool, optional
        Show progress bars, where tqdm is installed.

    Returns
    -------
    SpectraFM

    Raises
    ------
    CheckpointError
        A label of the base is registered with another unit by now.
    InputValueError
        Names that are no labels, too few stars, a label that does not vary, spectra of several kinds, groups that
        do not fit the rows, or a method that the base does not allow.

    Warns
    -----
    SpectraFMWarning
        As `spectrafm.SpectraFM.fine_tune`.
    """
    # labels that the base has, too, are to be in its units
    fm.info.register()
    refuse_inputs(truth, fm.model.vocabulary.flux)
    before = fm.head
    if before is not None and config.method not in ("auto", "head"):
        raise InputValueError(
            f"method: {config.method!r} trains the network, whose answers the head of {fm.info.name!r} corrects "
            "as they are; use method='head', or start from weights without one"
        )
    methods = (config.method,) if config.method != "auto" else _AUTO if before is None else ("head",)
    star = rows_of_one_star(arrays, truth, groups)
    usable, number, domain, given = tuned_domain(fm, arrays, truth, star)
    warn_of_motion(fm, number, domain, given)
    vocabulary = _vocabulary(fm.model.vocabulary, truth, usable)
    model = _copy(fm.model, vocabulary, config.seed)
    base = fm.adapted(model, domain, lines=fm.lines)
    truth = {k: (values[usable], errors[usable]) for k, (values, errors) in truth.items()}
    # what the model expects of all pixels takes seconds, and only a head makes use of it
    stars = tuning_stars(base, given, truth, star[usable], correct_lines="head" in methods)
    inputs = [label for label in fm.info.domains[number].labels if label in vocabulary]
    trials = [_try(method, model, stars, inputs, config, before, progress) for method in methods]
    best = min(trials, key=lambda trial: trial.score)
    head, lines = None, fm.lines
    rows = np.arange(len(stars))
    if best.method == "head":
        correction = stars.correction(rows, best.choice)
        head = _fit_head(model, stars, rows, inputs, before, correction)
        lines = lines if correction is None else correction.after(lines)
    else:
        model, _ = _train(best.method, model, stars, rows, config, stop=best.choice, progress=progress)
    _describe(domain, stars, best, vocabulary.log)
    _warn_of_guesses(best)
    _warn_of_large_errors(stars, best)
    history = [entry for trial in trials for entry in trial.history]
    record = {
        "base": fm.info.name,
        "base_sha256": fm.weights_hash,
        "method": best.method,
        "n_star": len(stars),
        "step": best.choice,
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


def _warn_of_guesses(trial):
    """Warn of labels that are predicted hardly better than by their mean."""
    if guessed := [name for name, score in trial.by_label.items() if score > _GUESSED]:
        warnings.warn(
            f"labels_table: {', '.join(guessed)} of stars left out are predicted hardly better than by their mean; see "
            "whether its rows are in the order of the spectra, and whether these stars differ in them",
            SpectraFMWarning,
            stacklevel=4,
        )


def _truth_error_factor(stars, trial, name):
    """Return the factor on the quoted errors of a label that brings them within the scatter of stars left out."""
    return truth_error_factor(trial.values[name], trial.errors[name], *stars.truth[name])


def _warn_of_large_errors(stars, trial):
    """Warn of quoted errors that are larger than what stars left out differ by from their predictions."""
    if large := [f"e_{name}" for name in stars.truth if _truth_error_factor(stars, trial, name) < 1]:
        warnings.warn(
            f"labels_table: quoted errors ({', '.join(large)}) are larger than the scatter of stars left out about "
            "their predictions, and were taken to be smaller; the stars then hardly determine how large predicted "
            "errors should be; see whether these columns are standard deviations of single stars",
            SpectraFMWarning,
            stacklevel=4,
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
    fitted = [*before.is_fitted[1:], *(True for _ in new)]
    return Vocabulary(names, flux=before.flux, log=before.log, rows=rows, mean=mean, std=std, fitted=fitted)


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


def _folds(star, n_fold, seed):
    """Return rows of each fold, all of a star in one; ``star`` ``(n_row,)`` says of which star each is."""
    stars, star = np.unique(star, return_inverse=True)
    order = np.random.default_rng((_SPLIT, seed)).permutation(len(stars))
    n_fold = min(n_fold, len(stars))
    return [np.flatnonzero(np.isin(star, order[i::n_fold])) for i in range(n_fold)]


def _fit_head(model, stars, rows, inputs, before, correction):
    truth = {k: (values[rows], errors[rows]) for k, (values, errors) in stars.truth.items()}
    perception = encode_for_head(model, stars.tokens(model, rows, correction))
    return fit_residual_head(model, perception, inputs, truth, log=model.vocabulary.log, before=before)


def _try(method, model, stars, inputs, config, before, progress):
    """Predict every star by what was trained without it."""
    labels, n_star = tuple(stars.truth), len(stars)
    everyone = np.arange(n_star)
    found = {}
    for held_out in _folds(stars.star, config.n_fold, config.seed):
        rest = np.setdiff1d(everyone, held_out)
        if method == "head":
            answers = {}
            for strength in _STRENGTHS if stars.expected is not None else (0,):
                correction = stars.correction(rest, strength)
                head = _fit_head(model, stars, rest, inputs, before, correction)
                perception = encode_for_head(model, stars.tokens(model, held_out, correction))
                answers[strength] = head(model, perception, labels)
        else:
            answers = _train(method, model, stars, rest, config, held_out=held_out, progress=progress)[1]
        for choice, (values, errors) in answers.items():
            all_values, all_errors = found.setdefault(choice, np.full((2, n_star, len(labels)), np.nan))
            all_values[held_out], all_errors[held_out] = values, errors
    # the folds of a choice make one score, of stars that were predicted without them
    by_label = {choice: _scores(values, stars.truth, model.vocabulary.log) for choice, (values, _) in found.items()}
    scores = {choice: float(np.mean(list(its.values()))) for choice, its in by_label.items()}
    history = [{"method": method, "step": choice, "score": score} for choice, score in scores.items()]
    choice = min(scores, key=scores.get)
    values, errors = ({k: array[:, i] for i, k in enumerate(labels)} for array in found[choice])
    return _Trial(method, scores[choice], by_label[choice], values, errors, choice, history)


def _scores(values, truth, log):
    """Return ln(error / scatter) by label: of the root mean square and the median alike."""
    scores = {}
    for column, (name, (true, _)) in enumerate(truth.items()):
        found = values[:, column]
        if name in log:
            found, true = np.log(found), np.log(true)
        known = np.isfinite(true)
        residual, scatter = (found - true)[known], np.std(true[known]) or 1.0
        typical = np.sqrt(np.mean(residual**2)), robust_rms(residual)
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
        learning_rate=METHODS[method] if config.learning_rate is None else config.learning_rate,
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
            answers[step] = model.request(model.perceive_tokens(stars.tokens(model, held_out)), labels)
        return step == stop

    Trainer(model, stream, settings, progress=progress, watch=watch).run()
    merge_low_rank(network)
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
        add_low_rank(network, config.rank, seeded_generator((_SPLIT, config.seed)), leave=[network.embedding_layer])


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
        quoted = true_errors * _truth_error_factor(stars, trial, name)
        sample = [array[known] for array in (values, errors, true, quoted)]
        factor = determined_factor(error_factor(*sample), *sample)
        domain.calibration[name] = {"with_sigma": factor, "without_sigma": factor}
        scale = values if name in log else 1.0
        domain.usual_errors[name] = float(LARGE_ERROR * np.nanmedian(errors / scale))
