"""The loss, the learning-rate schedule, sources of draws, and the generator of training batches."""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ..exceptions import InputValueError
from .config import AugmentationConfig
from .precision import float64_device
from .tokens import Tokens, as_names, as_native, evenly

__all__ = [
    "TrainingBatch",
    "TrainingGenerator",
    "initial_weights",
    "learning_rate_factor",
    "robust_mean_squared_error",
    "seeded",
    "seeded_generator",
    "split_by_star",
]

# first entry of the seed of each kind of draw, so that no two share a stream
_ORDER, _BATCH, _SPLIT = 1, 2, 3


@contextmanager
def initial_weights(seed):
    """Seed the initialisers of torch for a while, and have them work in single precision.

    Parameters
    ----------
    seed : int
        Seed of their draws.

    Yields
    ------
    None
    """
    # they know only what is global: borrow it and give it back
    precision = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(precision)


def robust_mean_squared_error(y_true, y_pred, log_variance, labels_err=None, sample_weight=None, beta=0.0):
    """Gaussian negative log-likelihood with predicted variance and label errors.

    ``0.5 ((y - p)^2 / T + ln T)`` with ``T = exp(log_variance) + labels_err^2 + 1e-8``,
    averaged over the targets that are not NaN (Leung & Bovy 2023, arXiv:2308.10944).

    Parameters
    ----------
    y_true : torch.Tensor
        ``(n_star, n_request)`` standardised targets, NaN where missing.
    y_pred, log_variance : torch.Tensor
        ``(n_star, n_request)`` predictions and logarithm of their variance.
    labels_err : torch.Tensor, optional
        ``(n_star, n_request)`` standard deviation of the targets; NaN counts as 0.
    sample_weight : torch.Tensor, optional
        ``(n_star, n_request)`` weights.
    beta : float, optional
        Each term is weighted by ``T^beta``, as a number that has no gradient (Seitzer et
        al. 2022, arXiv:2203.09168): at 0 what is known best pulls hardest, at 0.5 every
        target pulls alike, at 1 it is as in a mean squared error.

    Returns
    -------
    torch.Tensor
        A scalar; 0, with zero gradient, where no target is known.
    """
    known = torch.isfinite(y_true)
    # mask before the exponential: one that overflows where there is no target would make the gradient NaN
    residual = torch.where(known, y_true - y_pred, 0.0)
    total = torch.exp(torch.where(known, log_variance, 0.0)) + 1e-8
    if labels_err is not None:
        total = total + torch.nan_to_num(labels_err, nan=0.0) ** 2
    loss = 0.5 * (residual**2 / total + torch.log(total))
    if beta:
        loss = loss * total.detach() ** beta
    weight = known.to(loss) if sample_weight is None else known * sample_weight
    return torch.where(known, loss * weight, 0.0).sum() / weight.sum().clamp(min=1e-12)


def learning_rate_factor(step, steps, warmup_steps, final):
    """Linear warm-up, then a cosine; a pure function of the step.

    Parameters
    ----------
    step, steps, warmup_steps : int
        The step, all steps, and the steps of the warm-up.
    final : float
        Where the cosine ends.

    Returns
    -------
    float
        Between 0 and 1.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@dataclass
class TrainingBatch:
    """Inputs, requests and targets of one step.

    Attributes
    ----------
    tokens : Tokens
        What is known.
    request_token, request_wavelength : torch.Tensor
        ``(n_star, n_request)`` what is asked for.
    target, target_sigma, weight : torch.Tensor
        ``(n_star, n_request)`` standardised answers (NaN where not known),
        their errors and their weights in the loss.
    """

    tokens: Tokens
    request_token: torch.Tensor
    request_wavelength: torch.Tensor
    target: torch.Tensor
    target_sigma: torch.Tensor
    weight: torch.Tensor

    def to(self, device):
        """Move to a device.

        Parameters
        ----------
        device : torch.device or str
            Where to.

        Returns
        -------
        TrainingBatch
        """
        wavelength = self.request_wavelength.to(float64_device(device))
        rest = (t.to(device) for t in (self.target, self.target_sigma, self.weight))
        return TrainingBatch(self.tokens.to(device), self.request_token.to(device), wavelength, *rest)


class TrainingGenerator:
    """Batches drawn by (seed, step): the same step always gives the same batch.

    Nothing is kept between steps and the table is never copied, so a stopped
    run goes on exactly where it was. Every star draws its own noise, window,
    bad pixels, given quantities and, where there are more pixels than the
    context holds, its own random pixels. A quantity that is given is not
    asked for.

    Parameters
    ----------
    table : TokenTable
        The stars.
    vocabulary : Vocabulary
        Names and standardisation.
    targets : str or sequence of str
        Quantities to ask for.
    indices : array_like of int, optional
        Stars to draw from; all when left out.
    batch_size : int
        Stars in a batch, summed over all processes.
    context_length : int
        Largest number of tokens when every pixel is a token.
    patch_size : int
        Pixels of a token; above 1 all pixels are used.
    augmentation : AugmentationConfig, optional
        What is drawn anew; nothing when left out.
    divisor : callable, optional
        ``divisor(wavelength, flux, good)`` gives what flux and errors are divided
        by, ``(n_star, 1)`` or ``(n_star, n_pixel)``: the normaliser that inference
        applies too. It is called after noise and windows.
    seed, rank, world_size : int
        Seed; number of this process and of all processes.

    Raises
    ------
    InputValueError
        Targets that are not in the table, or hold numbers that they cannot have (infinite ones, none that is positive
        where the logarithm is learnt, errors that are negative or infinite); no star to draw from.
    """

    def __init__(
        self,
        table,
        vocabulary,
        targets,
        indices=None,
        *,
        batch_size=256,
        context_length=512,
        patch_size=1,
        augmentation=None,
        divisor=None,
        seed=0,
        rank=0,
        world_size=1,
    ):
        self.table, self.vocabulary, self.targets = table, vocabulary, as_names(targets)
        self.indices = np.arange(len(table)) if indices is None else np.asarray(indices)
        if not len(self.indices):
            raise InputValueError("indices: no star to draw from; expected at least one")
        missing = [t for t in self.targets if t not in table.names]
        if missing:
            raise InputValueError(f"targets: {missing} not in the table; it has {', '.join(table.names)}")
        _check_targets(table, self.targets, vocabulary.log)
        self.batch_size, self.context_length, self.patch_size = batch_size, context_length, patch_size
        self.augmentation = augmentation or AugmentationConfig()
        if self.augmentation.reddening and table.extinction is None:
            raise InputValueError("augmentation: reddening needs the extinction of the table, which has none")
        self.divisor, self.seed, self.rank, self.world_size = divisor, seed, rank, world_size
        self.pixel_token = vocabulary.tokens(np.broadcast_to(table.flux_name, np.shape(table.flux)[1]), "flux_name")
        known = [name in vocabulary for name in table.names]
        self.given_columns = np.flatnonzero(known)
        self.given_token = vocabulary.tokens([table.names[c] for c in self.given_columns], "names")
        self.target_columns = np.array([table.names.index(t) for t in self.targets], dtype=int)
        self.target_token = vocabulary.tokens(self.targets, "targets")

    def stars(self, step):
        """Return the stars of a step for this process.

        Parameters
        ----------
        step : int
            Number of the step.

        Returns
        -------
        numpy.ndarray
            Indices into the table.
        """
        per_epoch = max(len(self.indices) // self.batch_size, 1)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((_ORDER, self.seed, epoch)).permutation(len(self.indices))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.indices[chosen[self.rank :: self.world_size]]

    def batch(self, step):
        """Draw the batch of a step.

        Parameters
        ----------
        step : int
            Number of the step.

        Returns
        -------
        TrainingBatch
        """
        rng = np.random.default_rng((_BATCH, self.seed, step, self.rank))
        return self.draw(self.stars(step), rng)

    def draw(self, stars, rng=None):
        """Make a batch of given stars.

        Parameters
        ----------
        stars : array_like of int
            Indices into the table.
        rng : numpy.random.Generator, optional
            Source of all draws; without it nothing is drawn (validation).

        Returns
        -------
        TrainingBatch
        """
        table = self.table
        flux = as_native(table.flux[stars], np.float32)  # (n_star, n_pixel)
        n_star, n_pixel = flux.shape
        sigma = None if table.sigma is None else as_native(table.sigma[stars], np.float32)
        sigma = np.full_like(flux, np.nan) if sigma is None else sigma
        # errors that cannot be are not known, as in inference
        sigma = np.where((sigma >= 0) & (sigma < np.inf), sigma, np.nan)
        wavelength = as_native(table.wavelength, np.float64)
        wavelength = np.broadcast_to(wavelength if wavelength.ndim == 1 else wavelength[stars], flux.shape)
        somewhere = (wavelength > 0) & (wavelength < np.inf)
        there = np.isfinite(flux) & somewhere
        values = as_native(table.values[stars], np.float64)
        errors = np.full_like(values, np.nan) if table.errors is None else as_native(table.errors[stars], np.float64)
        given, only = self._draw_given(np.isfinite(values[:, self.given_columns]), rng)
        if rng is not None and self.augmentation.reddening:
            passed = self._draw_dust(stars, given, rng)
            flux, sigma = flux * passed, sigma * passed
        clean, clean_sigma, good = flux, sigma, there
        if rng is not None:
            flux, sigma = self._add_noise(flux, sigma, rng)
            sigma = np.where(rng.random((n_star, 1)) < self.augmentation.withhold_sigma, np.nan, sigma)
            # fluxes that are asked for without a spectrum are relative to all of it
            good = there & (self._draw_pixels(n_star, n_pixel, rng) | only)
        if self.divisor is not None:
            by = self.divisor(wavelength, flux, good).astype(np.float32)
            good = good & np.isfinite(by) & (by > 0)
            by = np.where(by > 0, by, np.nan)
            flux, sigma, clean, clean_sigma = flux / by, sigma / by, clean / by, clean_sigma / by
        good = good & ~only
        if self.patch_size == 1:
            good = self._limit(good, self.context_length - given.sum(axis=1), rng)

        tokens = self._tokens(flux, sigma, wavelength, good, values, errors, given)
        if self.patch_size == 1:
            # attention pays for every token, padding or not
            tokens = tokens.compact()
        request = self._requests(values, errors, given)
        n_flux = self.augmentation.flux_requests if rng is not None else 0
        if n_flux:
            at = np.where(somewhere, wavelength, 0.0)
            more = self._flux_requests(n_flux, np.where(there, clean, np.nan), clean_sigma, at, there, only, rng)
            request = [np.concatenate(pair, axis=1) for pair in zip(request, more, strict=True)]
        token, at, target, target_sigma, weight = request
        single = (torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in (target, target_sigma, weight))
        return TrainingBatch(tokens, torch.from_numpy(token), torch.from_numpy(at), *single)

    def _add_noise(self, flux, sigma, rng):
        settings = self.augmentation
        if not settings.noise:
            return flux, sigma
        n_star, n_pixel = flux.shape
        amount = rng.uniform(0, settings.noise, (n_star, 1)) * (rng.random((n_star, 1)) < settings.noise_probability)
        noise = rng.standard_normal((n_star, n_pixel), dtype=np.float32)
        if settings.noise_correlation:
            # one correlation length a batch keeps this a single small matrix product
            length = max(rng.uniform(0, settings.noise_correlation), 1e-3)
            lag = np.arange(n_pixel)
            kernel = np.exp(-0.5 * ((lag[:, None] - lag) / length) ** 2).astype(np.float32)
            kernel /= np.sqrt((kernel**2).sum(axis=0))
            # torch multiplies, since the threads of NumPy's BLAS would go on spinning under torch's
            noise = (torch.from_numpy(noise) @ torch.from_numpy(kernel)).numpy()
        amount = np.where(np.isfinite(sigma), amount, 0.0).astype(np.float32)
        extra = amount * np.nan_to_num(sigma, nan=0.0)
        return flux + extra * noise, sigma * np.sqrt(1 + amount**2)

    def _draw_dust(self, stars, given, rng):
        """Return the part of the flux that more dust lets through, ``(n_star, n_pixel)`` float32."""
        settings, n_star = self.augmentation, len(given)
        hit = rng.random((n_star, 1)) < settings.reddening_probability
        # magnitudes and extinctions in the table are those behind the dust that there is
        beside = ~np.isin(self.given_columns, self.target_columns)
        hit &= ~(given & beside).any(axis=1, keepdims=True)
        curve = self.table.extinction
        curve = as_native(curve if np.ndim(curve) == 1 else curve[stars], np.float64)
        dust = np.where(hit, rng.uniform(0, settings.reddening, (n_star, 1)), 0.0)
        return (10 ** (-0.4 * dust * curve)).astype(np.float32)

    def _draw_pixels(self, n_star, n_pixel, rng):
        settings = self.augmentation
        good = np.ones((n_star, n_pixel), dtype=bool)
        hit = rng.random((n_star, 1)) < settings.drop_pixels
        good &= ~(hit & (rng.random((n_star, n_pixel)) < rng.uniform(0, 0.3, (n_star, 1))))
        # half of the hit stars keep a window, the other half lose one
        hit, keep = rng.random((n_star, 1)) < settings.window, rng.random((n_star, 1)) < 0.5
        share = np.where(keep, rng.uniform(0.25, 1.0, (n_star, 1)), rng.uniform(0.02, 0.4, (n_star, 1)))
        start = rng.uniform(0, 1, (n_star, 1)) * (1 - share)
        place = (np.arange(n_pixel) + 0.5) / n_pixel
        inside = (place >= start) & (place <= start + share)
        return good & np.where(hit, inside == keep, True)

    def _draw_given(self, known, rng):
        """Return which of the known quantities are given, and which stars have nothing else, ``(n_star, 1)``."""
        settings, n_star = self.augmentation, len(known)
        given, only = np.zeros(known.shape, dtype=bool), np.zeros((n_star, 1), dtype=bool)
        if rng is None or not settings.give_quantity:
            return given, only
        # every token costs all batch mates: give many in few batches rather than a few in all
        per_batch = min(settings.give_quantity / 0.6, 1.0)
        if rng.random() >= per_batch:
            return given, only
        star = rng.random((n_star, 1)) < settings.give_quantity / per_batch
        if settings.quantities_only:
            only = star & (rng.random((n_star, 1)) < settings.quantities_only / settings.give_quantity)
        # targets are given more rarely: each one given is one not learned
        chance = np.where(np.isin(self.given_columns, self.target_columns), 0.15, 0.5)
        given = known & star & (rng.random(known.shape) < np.where(only, 0.8, chance))
        # who is given nothing keeps the spectrum
        return given, only & given.any(axis=1, keepdims=True)

    def _limit(self, good, room, rng):
        if good.sum(axis=1).max(initial=0) <= room.min(initial=good.shape[1]):
            return good
        if rng is None:
            return np.stack([evenly(*star) for star in zip(good, room, strict=True)])
        key = np.where(good, rng.random(good.shape), np.inf)
        place = np.argsort(np.argsort(key, axis=1), axis=1)
        return good & (place < room[:, None])

    def _tokens(self, flux, sigma, wavelength, good, values, errors, given):
        vocabulary = self.vocabulary
        pixel = np.where(good, self.pixel_token, 0)
        named = np.where(given, self.given_token, 0)
        token = np.concatenate((pixel, named), axis=1)
        columns = self.given_columns
        value = np.concatenate((np.where(good, flux, np.nan), values[:, columns]), axis=1)
        error = np.concatenate((sigma, errors[:, columns]), axis=1)
        place = np.concatenate((np.where(good, wavelength, 0.0), np.zeros(named.shape)), axis=1)
        return vocabulary.make_tokens(token, value, error, place)

    def _requests(self, values, errors, given):
        token = np.broadcast_to(self.target_token, (len(values), len(self.target_token)))
        y, e = values[:, self.target_columns], errors[:, self.target_columns]
        is_given = np.zeros((len(values), self.table.values.shape[1]), dtype=bool)
        is_given[:, self.given_columns] = given
        y = np.where(is_given[:, self.target_columns], np.nan, y)
        target, sigma = self.vocabulary.standardize(token, y), self.vocabulary.standardize_sigma(token, y, e)
        return [np.array(token), np.zeros(token.shape), target, sigma, np.ones(token.shape)]

    def _flux_requests(self, n_flux, clean, clean_sigma, wavelength, there, only, rng):
        n_flux = min(n_flux, there.shape[1])
        key = np.where(there, rng.random(there.shape), np.inf)
        chosen = np.argpartition(key, n_flux - 1, axis=1)[:, :n_flux]
        take = [np.take_along_axis(a, chosen, axis=1) for a in (clean, clean_sigma, wavelength)]
        token = self.pixel_token[chosen]
        target = self.vocabulary.standardize(token, take[0])
        sigma = self.vocabulary.standardize_sigma(token, take[0], take[1])
        weight = np.broadcast_to(np.where(only, 1.0, self.augmentation.flux_weight), token.shape)
        return [token, np.array(take[2]), target, sigma, weight]


def _check_targets(table, targets, log):
    """Refuse numbers that nothing can be learnt from, naming the target, how many there are and the first of them."""
    for name in targets:
        values = table.column(name)
        checks = [("values", values, np.isinf(values), "finite numbers")]
        if name in log:
            checks.append(("values", values, values <= 0, "positive numbers, as the logarithm is learnt"))
        if table.errors is not None:
            errors = as_native(table.errors[:, table.names.index(name)], np.float64)
            # that of what is not known does not matter
            impossible = ((errors < 0) | np.isinf(errors)) & ~np.isnan(values)
            checks.append(("errors", errors, impossible, "finite standard deviations, 0 or more"))
        for what, numbers, wrong, expected in checks:
            if wrong.any():
                first = np.flatnonzero(wrong)[0]
                raise InputValueError(
                    f"{what}: {name!r} of {np.count_nonzero(wrong)} of {len(wrong)} stars cannot be learnt from, first "
                    f"{numbers[first]:g} in row {first}; expected {expected}, and NaN where not known"
                )


def split_by_star(n_star, fraction, seed):
    """Set stars aside for validation; the same for every process.

    Parameters
    ----------
    n_star : int
        Number of stars.
    fraction : float
        Fraction to set aside.
    seed : int
        Seed of the draw.

    Returns
    -------
    train, validation : numpy.ndarray
        Indices, without overlap, ascending.
    """
    order = np.random.default_rng((_SPLIT, seed)).permutation(n_star)
    n_validation = int(round(fraction * n_star))
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])


def seeded_generator(entropy, device="cpu"):
    """Return a generator whose draws some numbers decide.

    Parameters
    ----------
    entropy : tuple of int
        What is drawn, the seed, and whatever else tells draws apart.
    device : str or torch.device, optional
        Where it draws.

    Returns
    -------
    torch.Generator
    """
    seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed >> np.uint64(1)))


@contextmanager
def seeded(seed, device):
    """Seed the global generators of the CPU and of one device, for a while: dropout draws from no other.

    Parameters
    ----------
    seed : int
        The seed.
    device : torch.device
        The device.

    Yields
    ------
    None
    """
    generators = [torch.default_generator]
    if device.type == "mps":
        # there is no public way to it
        generators.append(torch.mps._get_default_mps_generator())
    elif device.type != "cpu":
        module = torch.get_device_module(device)
        number = module.current_device() if device.index is None else device.index
        generators.append(module.default_generators[number])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
