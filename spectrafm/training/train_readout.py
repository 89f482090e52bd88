"""A second look at labels, learnt from what a trained model makes of many stars."""

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from ..exceptions import TrainingError
from ..stellarperceptron import StellarPerceptron
from ..stellarperceptron.config import Config, negative, not_counts, refuse
from ..stellarperceptron.nn_utils import robust_mean_squared_error, seeded_generator
from .ahead import AheadStream
from .epochs import set_scale, train_layers
from .spectrum_fits import learn_fits
from .stream import StarStream

__all__ = ["ReadoutConfig", "set_doubt", "with_readout"]

logger = logging.getLogger("spectrafm")

# first entry of the seeds of the order of stars and of what fits learn from, beside those of streams
_ORDER, _FITS = 14, 15
# one in so many stars is set aside to validate on
_ONE_IN = 24


@dataclass(frozen=True)
class ReadoutConfig(Config):
    """How the readout of a model is trained, after all other parts.

    Attributes
    ----------
    sources : tuple of str
        Sources of the recipe that the stars come from. They must be emulators, whose stars never come twice, as a
        model is better on stars that it was trained on than on others. The fit of a range is learnt from the first
        source that lies in it.
    n_star : int
        Number of stars of all sources, in the shares of the recipe.
    batch_size : int
        Stars in a step.
    epochs : int
        How often each star is seen.
    learning_rate, weight_decay : float
        Of AdamW; the rate warms up in a tenth of the steps and falls in a cosine.
    beta : float
        As of `~spectrafm.stellarperceptron.FitConfig`.
    doubt : tuple of float
        For each range with a fit, the factor by which errors of spectra grow, after calibration, whose lines differ
        from those of the training stars. 1 for all ranges when left out.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    sources: tuple[str, ...] = ()
    n_star: int = 200_000
    batch_size: int = 1024
    epochs: int = 20
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    beta: float = 0.25
    doubt: tuple[float, ...] = ()

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        problems = [] if self.sources else ["sources must name some of the sources of the recipe"]
        problems += not_counts(self, ("n_star", "batch_size", "epochs"))
        problems += negative(self, ("learning_rate", "weight_decay", "beta"))
        if not all(factor >= 1 for factor in self.doubt):
            problems.append(f"doubt must be factors of 1 or more, not {self.doubt!r}")
        refuse("ReadoutConfig", problems)


def with_readout(model, model_config, stream, config, first_step, n_worker=0):
    """Return a model whose labels get a second look.

    Parameters
    ----------
    model : StellarPerceptron
        Trained, without.
    model_config : ModelConfig
        Its architecture, with one.
    stream : StarStream
        What it was trained on.
    config : ReadoutConfig
        How.
    first_step : int
        First step of the stream that the model has not seen.
    n_worker : int, optional
        Number of processes that make stars ahead of time, see `AheadStream`.

    Returns
    -------
    StellarPerceptron
        On the device of ``model``.

    Raises
    ------
    TrainingError
        Stars that the readout is not for, or a loss that is not finite.
    """
    looking = StellarPerceptron(model_config, model.vocabulary, model.device, stream.seed)
    looking.start_from(model)
    readout = looking.torch_model.readout
    sources = [stream.parts[name].source for name in config.sources]
    learn_fits(readout, sources, looking.vocabulary, seeded_generator((_FITS, stream.seed), stream.device))
    start = time.perf_counter()
    seen = _look(looking, stream, config, first_step, n_worker)
    logger.info("readout: looked at %d stars in %.0f s", len(seen.first), time.perf_counter() - start)
    set_aside = torch.arange(len(seen.first), device=looking.device) % _ONE_IN == 0
    train, held_out = seen.some(~set_aside), seen.some(set_aside)
    if any(torch.isfinite(stars.target).sum() < 2 for stars in (train, held_out)):
        raise TrainingError(
            f"readout: {len(seen.first)} stars of {', '.join(config.sources)} lie within readout_ranges "
            f"{model_config.readout_ranges}, too few to learn from; draw more, or mend the ranges"
        )
    inputs = readout.inputs(train.pooled, train.first, train.log_variance, train.fitted)
    set_scale(readout, inputs)
    _train(readout, train, held_out, config, stream.seed)
    return looking


def set_doubt(model, config):
    """Have errors of spectra with other lines grow, after all errors were calibrated.

    Parameters
    ----------
    model : StellarPerceptron
        With a readout; changed in place.
    config : ReadoutConfig
        By how much.
    """
    # none where left out
    for fit, factor in zip(model.torch_model.readout.fits, config.doubt, strict=False):
        fit.doubt.fill_(math.log(factor))


@dataclass
class _Seen:
    """What a model makes of stars, ``(n_star, ...)`` each, and what they are."""

    pooled: torch.Tensor
    first: torch.Tensor
    log_variance: torch.Tensor
    target: torch.Tensor  # NaN where it was given
    error: torch.Tensor
    fitted: torch.Tensor | None = None

    def some(self, chosen):
        return _Seen(**{k: None if v is None else v[chosen] for k, v in vars(self).items()})

    def loss(self, readout, beta=0.0):
        value, ln_factor = readout(self.pooled, self.first, self.log_variance, self.fitted)
        return robust_mean_squared_error(
            self.target, self.first + value, self.log_variance + ln_factor, self.error, beta=beta
        )


@torch.no_grad()
def _look(model, stream, config, first_step, n_worker):
    """Return what the model makes of new stars of a stream."""
    network, columns = model.torch_model, []
    parts = {name: stream.parts[name] for name in config.sources}
    some = StarStream(parts, batch_size=config.batch_size, seed=stream.seed, device=stream.device)
    end = first_step + math.ceil(config.n_star / sum(some.n_star.values()))
    with AheadStream(some, n_worker, end) if n_worker else nullcontext(some) as ahead:
        for step in range(first_step, end):
            for name, _, batch in ahead.batches(step):
                batch = batch.to(model.device)
                memory = network.encode(batch.tokens)
                n_label = len(some.targets_of(name))
                token = network.readout.tokens.expand(len(batch.target), -1)
                nowhere = torch.zeros(token.shape, dtype=torch.float64, device=batch.request_wavelength.device)
                answers = network.decode(replace(memory, second_look=None), token, nowhere)[:2]
                targets = (
                    network.readout.in_columns(batch.request_token[:, :n_label], values[:, :n_label])[:, :-1]
                    for values in (batch.target, batch.target_sigma)
                )
                fitted = [] if memory.fitted is None else [memory.fitted]
                columns.append([values[memory.second_look] for values in (memory.pooled, *answers, *targets, *fitted)])
    return _Seen(*(torch.cat(parts) for parts in zip(*columns, strict=True)))


def _train(readout, train, held_out, config, seed):
    """Train the readout on stars that were looked at."""

    def watch(epoch):
        with torch.no_grad():
            validation = held_out.loss(readout).item()
        logger.info("readout: epoch %d, loss of stars set aside %.4f", epoch, validation)

    settings = {k: getattr(config, k) for k in ("batch_size", "learning_rate", "weight_decay")}
    loss = train_layers(
        # fits are what they are
        (readout.dense, readout.out),
        lambda rows: train.some(rows).loss(readout, config.beta),
        len(train.first),
        config.epochs,
        seeded_generator((_ORDER, seed)),
        warmup=10,
        watch=watch,
        **settings,
    )
    if not torch.isfinite(loss):
        raise TrainingError("readout: the loss is not finite; lower the learning rate of [readout]")
