"""How a second opinion on labels is learnt from a table of stars, and how far it is trusted."""

import logging
import time
from dataclasses import dataclass, replace

import torch

from ..exceptions import TrainingError
from ..stellarperceptron import StellarPerceptron
from ..stellarperceptron.config import Config, negative, not_counts, refuse
from ..stellarperceptron.nn_utils import robust_mean_squared_error, seeded, seeded_generator
from ..stellarperceptron.second_opinion import weighed
from .epochs import set_scale, train_layers
from .spectrum_fits import learn_components

__all__ = ["OpinionConfig", "with_opinion"]

logger = logging.getLogger("spectrafm")

# first entry of the seeds of components, of the order of stars, and of which stars are looked at
_COMPONENTS, _ORDER, _STARS = 16, 17, 18
# share of the stars that components are made of: spectra far from all others would have most of them to themselves
_TYPICAL = 0.95
# stars that components are made of, and stars that set the trust
_N_COMPONENT, _N_TRUST = 8192, 4000
# degrees of freedom of the distribution of errors when trust is learnt: some stars have strange labels
_FREEDOM = 4.0
# trust, a logarithm, is expected within so much of 0
_TRUST = 1.0
_TRUST_STEPS = 60


@dataclass(frozen=True)
class OpinionConfig(Config):
    """How the second opinion of a model is trained, after all other parts.

    Attributes
    ----------
    source : str
        Table of the recipe that the stars come from. Its stars that calibrate errors set the weight of the opinion, as
        the decoder knows its training stars too well.
    n_star : int
        Number of spectra, each with noise and gaps of its own; stars are repeated as needed.
    batch_size : int
        Spectra in a step.
    epochs : int
        How often each of them is seen.
    learning_rate, weight_decay : float
        Of AdamW; the rate warms up in a twentieth of the steps and falls in a cosine.
    beta : float
        As of `~spectrafm.stellarperceptron.FitConfig`.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    source: str = ""
    n_star: int = 600_000
    batch_size: int = 512
    epochs: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    beta: float = 0.25

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        problems = [] if self.source else ["source must name a table of the recipe"]
        problems += not_counts(self, ("n_star", "batch_size", "epochs"))
        problems += negative(self, ("learning_rate", "weight_decay", "beta"))
        refuse("OpinionConfig", problems)


def with_opinion(model, model_config, stars, calibrating, config, seed):
    """Return a model whose labels have a second opinion.

    Parameters
    ----------
    model : StellarPerceptron
        Trained, without.
    model_config : ModelConfig
        Its architecture, with one.
    stars, calibrating : TableSource
        Stars that the opinion is learnt from, and others, that decide how far it is trusted.
    config : OpinionConfig
        How.
    seed : int
        Seed of all draws.

    Returns
    -------
    StellarPerceptron
        On the device of ``model``.

    Raises
    ------
    TrainingError
        Stars without labels or spectra of the kind that the opinion is about, or a loss that is not finite.
    """
    stray = [name for name in model_config.opinion_labels if name not in stars.targets]
    if stray:
        raise TrainingError(
            f"opinion: {stray} of opinion_labels are not told by its source, which has {', '.join(stars.targets)}; "
            "leave them out"
        )
    start = time.perf_counter()
    beside = StellarPerceptron(model_config, model.vocabulary, model.device, seed)
    beside.start_from(model)
    network = beside.torch_model
    opinion = network.opinion
    _learn_components(opinion, stars, seed)
    inputs, target, error = _seen(opinion, _drawn(stars, config.n_star, seed), model.device)
    set_scale(opinion, inputs)
    logger.info("opinion: looked at %d spectra in %.0f s", len(inputs), time.perf_counter() - start)

    def loss_of(rows):
        value, log_variance = opinion(inputs[rows])
        return robust_mean_squared_error(target[rows], value, log_variance, error[rows], beta=config.beta)

    opinion.train()
    settings = {k: getattr(config, k) for k in ("batch_size", "learning_rate", "weight_decay")}
    layers, order = (*opinion.dense, opinion.out), seeded_generator((_ORDER, seed))
    with seeded(seed, model.device):
        loss = train_layers(layers, loss_of, len(inputs), config.epochs, order, warmup=20, **settings)
    opinion.eval()
    if not torch.isfinite(loss):
        raise TrainingError("opinion: the loss is not finite; lower the learning rate of [opinion]")
    _learn_trust(network, calibrating, seed)
    trust = dict(zip(model_config.opinion_labels, opinion.trust.tolist(), strict=True))
    told = ", ".join(f"{name} {value:.2f}" for name, value in trust.items())
    logger.info("opinion: learnt in %.0f s; trust, a logarithm: %s", time.perf_counter() - start, told)
    return beside


def _drawn(stars, n_star, seed):
    """Yield training batches of a table until they hold so many stars."""
    generator, step = seeded_generator((_STARS, seed)), 0
    while n_star > 0:
        batch = stars.batch(n_star, generator, step)
        yield batch
        n_star, step = n_star - len(batch.target), step + 1


def _as_they_are(stars, n_star, seed):
    """Return an iterator of batches of some stars of a table without any noise but their own."""
    return stars.validation(n_star, lambda number: seeded_generator((_STARS, seed, number + 1)))


@torch.no_grad()
def _learn_components(opinion, stars, seed):
    """Set the principal components of the spectra of a table."""
    flux, sigma = [], []
    for batch in _as_they_are(stars, _N_COMPONENT, seed):
        tokens = batch.tokens.to(opinion.mean.device)
        there = opinion.sees(tokens)
        flux.append(opinion.knots(tokens.value, tokens.wavelength, there))
        sigma.append(tokens.sigma[there & torch.isfinite(tokens.sigma)])
    flux, sigma = torch.cat(flux), torch.cat(sigma)
    flux = flux[torch.isfinite(flux).any(dim=1)]
    if not len(flux):
        raise TrainingError(
            "opinion: the source has no spectra of the kind opinion_flux within opinion_range; mend one of the three"
        )
    if len(sigma):
        opinion.usual_error.copy_(sigma.median())
    middle = flux.nanmedian(dim=0).values
    apart = (flux - middle).abs()
    scatter = apart.nanmedian(dim=0).values.clamp(min=1e-6)
    distance = (apart / scatter).square().nanmean(dim=1)
    usual = flux[distance <= distance.quantile(_TYPICAL)]
    n_component = len(opinion.components)
    if len(usual) < n_component:
        raise TrainingError(
            f"opinion: {len(usual)} usual spectra for {n_component} opinion_components; ask for fewer of these"
        )
    learn_components(opinion, usual, seeded_generator((_COMPONENTS, seed)))


@torch.no_grad()
def _seen(opinion, batches, device):
    """Return what the opinion sees of stars, their labels and the errors of these, ``(n_star, ...)`` each."""
    columns = []
    for batch in batches:
        batch = batch.to(device)
        inputs, there = opinion.inputs(batch.tokens)
        columns.append([inputs, *(labels[there] for labels in _labels(opinion, batch))])
    return [torch.cat(parts) for parts in zip(*columns, strict=True)]


def _labels(opinion, batch):
    """Return the labels of the stars of a batch and the errors of these, ``(n_star, n_label)`` each."""
    return [opinion.labels_of(batch.request_token, values) for values in (batch.target, batch.target_sigma)]


def _learn_trust(network, calibrating, seed):
    """Set how far the opinion is trusted, by stars that neither of the two was trained on."""
    opinion, columns = network.opinion, []
    with torch.no_grad():
        for batch in _as_they_are(calibrating, _N_TRUST, seed):
            batch = batch.to(opinion.mean.device)
            memory = network.encode(batch.tokens)
            if memory.opinion is None:
                continue
            token, nowhere = opinion.tokens.expand(len(batch.target), -1), batch.request_wavelength.new_zeros(())
            alone = network.decode(replace(memory, opinion=None), token, nowhere.expand(token.shape))[:2]
            rows = memory.opinion[2]
            columns.append([values[rows] for values in (*alone, *memory.opinion[:2], *_labels(opinion, batch))])
    if not columns:
        opinion.trust.data.zero_()
        return
    # on mps there is no float64
    *both, target, error = (torch.cat(parts).cpu().double() for parts in zip(*columns, strict=True))
    known, target = torch.isfinite(target), target.nan_to_num()
    # errors of both are calibrated later: here they have a factor of their own
    trust, factor = (torch.zeros(target.shape[1], dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS((trust, factor), max_iter=_TRUST_STEPS, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        mean, log_variance = weighed(*both, trust)
        variance = torch.exp(log_variance + factor) + error.nan_to_num() ** 2
        term = torch.log(variance) + (_FREEDOM + 1) * torch.log1p((target - mean) ** 2 / (_FREEDOM * variance))
        # a few stars are no reason to silence one of the two
        total = (torch.where(known, term, 0.0).sum() + ((trust**2 + factor**2) / _TRUST**2).sum()) / target.numel()
        total.backward()
        return total

    optimizer.step(loss)
    if not torch.isfinite(trust).all():
        raise TrainingError("opinion: labels of stars that were set aside are not finite, or absurd; look for those")
    opinion.trust.data.copy_(trust.detach())
