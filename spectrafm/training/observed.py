"""Batches of the stars of one source, as instruments see them."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from .._tokens import GIVEN_ERRORS, flux_name
from ..adapters import from_arrays
from ..continuum import ContinuumNormalizer
from ..exceptions import InputValueError
from ..stellarperceptron.config import Config, negative, not_fractions, refuse
from ..stellarperceptron.nn_utils import TrainingBatch
from ..stellarperceptron.tokens import Tokens
from .observation import ObservationConfig, add_artefacts, disturb_lines, draw_observation

__all__ = ["VALIDATION_BATCH", "ObservedSource", "RequestConfig"]

#: Stars of a batch to validate on.
VALIDATION_BATCH = 64

# share of the stars that are given labels, in batches where some are
_MOST_GIVEN = 0.7
_CONTINUUM = ContinuumNormalizer().without_clipping()
_DRAWS = torch.rand, torch.rand, torch.randn


@dataclass(frozen=True)
class RequestConfig(Config):
    """What is given as input and what is asked for, for stars of libraries and emulators.

    Attributes
    ----------
    give_quantity : float
        Fraction of stars, 0.7 at most, with labels as input: each known label with a probability of 0.3.
        These stars are gathered in ``give_quantity / 0.7`` of the batches.
    give_resolving_power : float
        Fraction of stars with the resolving power as input.
    quantities_only : float
        Fraction of batches without a spectrum: fluxes are predicted from labels.
    flux_requests : int
        Number of fluxes to predict for each star, anywhere in the range.
    flux_weight : float
        Weight of these fluxes in the loss, relative to that of the labels.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    give_quantity: float = 0.1
    give_resolving_power: float = 0.5
    quantities_only: float = 0.05
    flux_requests: int = 16
    flux_weight: float = 0.1

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        problems = not_fractions(self, ("give_resolving_power", "quantities_only"))
        if not 0 <= self.give_quantity <= _MOST_GIVEN:
            problems.append(f"give_quantity must be in [0, {_MOST_GIVEN:g}], not {self.give_quantity!r}")
        problems += negative(self, ("flux_requests", "flux_weight"))
        refuse("RequestConfig", problems)


class ObservedSource:
    """Batches of stars of one source, as instruments see them.

    Every star gets its own resolving power, velocity, noise, gaps and bad pixels, and is
    normalised as inference does it. Labels that are given are not asked for.

    Parameters
    ----------
    source : EmulatorSource or LibrarySource
        Where stars come from.
    vocabulary : Vocabulary
        Names and standardisation of the model.
    normalizer : ContinuumNormalizer
        Gives the divisor of spectra.
    observation : ObservationConfig, optional
        Simulated instruments.
    request : RequestConfig, optional
        What is given as input and asked for.
    targets : sequence of str, optional
        Labels to predict; all labels that the source and the model have when left out.
    flux_kind : str, optional
        Kind of flux.
    context_length : int, optional
        Most tokens of a star, where every pixel is a token: each star keeps random ones.
    """

    def __init__(
        self,
        source,
        vocabulary,
        normalizer,
        observation=None,
        request=None,
        targets=None,
        flux_kind="continuum_normalized",
        context_length=None,
    ):
        self.context_length = context_length
        self.source, self.vocabulary, self.normalizer = source, vocabulary, normalizer
        self.observation, self.request = observation or ObservationConfig(), request or RequestConfig()
        names = (*source.names, "rv_offset")
        known = [name for name in names if name in vocabulary]
        self.targets = tuple(known if targets is None else (name for name in targets if name in known))
        if not self.targets:
            raise InputValueError(f"targets: none of {targets} is known of the stars of {type(source).__name__}")
        self.flux_name = flux_name(vocabulary, flux_kind)
        self._columns = [names.index(name) for name in self.targets]

    def batch(self, n_star, generator, step=None):
        """Draw a batch.

        Parameters
        ----------
        n_star : int
            Number of stars.
        generator : torch.Generator
            Source of all draws; the batch is made on its device.
        step : int, optional
            Number of the step; not used, as no star comes twice.

        Returns
        -------
        TrainingBatch
        """
        device, request = generator.device, self.request
        stars = self.source.draw(n_star, generator)
        give, only = torch.rand(2, generator=generator, device=device).tolist()
        only = only < request.quantities_only and request.flux_requests > 0
        # without a spectrum, nothing says in what window its mean was taken: take it over all of the range
        seen = self._observe(n_star, generator, whole=only)
        values, errors = self._values(stars, seen)
        known = torch.isfinite(values)
        chance = 0.8 if only else 0.3 if give < request.give_quantity / _MOST_GIVEN else 0.0
        star = torch.rand(n_star, 1, generator=generator, device=device) < (1.0 if only else _MOST_GIVEN)
        given = known & star & (torch.rand(known.shape, generator=generator, device=device) < chance)

        clean = self.source.flux(stars, seen.wavelength, seen.resolving_power, seen.radial_velocity)
        pieces = [self._named(given, values, errors, seen.resolving_power, generator)]
        if not only:
            clean = self._disturbed(clean, seen, generator)
            pixels = self._pixels(clean, seen, generator)
            if self.context_length is not None:
                pixels = _some(pixels, self.context_length - pieces[0][0].shape[1], generator)
            pieces.insert(0, pixels)
        tokens = Tokens(*(torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True)))

        asked = [self._labels(given, values, errors)]
        if request.flux_requests:
            asked.append(self._fluxes(clean, seen, generator, 1.0 if only else request.flux_weight))
        asked = (torch.cat(parts, dim=1) for parts in zip(*asked, strict=True))
        return TrainingBatch(tokens, *asked)

    def validation(self, n_star, generator_of):
        """Draw batches to validate on.

        Parameters
        ----------
        n_star : int
            Number of stars.
        generator_of : callable
            ``generator_of(n)`` gives the source of the draws of the batch after n stars.

        Yields
        ------
        TrainingBatch
        """
        for start in range(0, n_star, VALIDATION_BATCH):
            yield self.batch(min(VALIDATION_BATCH, n_star - start), generator_of(start))

    def sample(self, name):
        """Return values of one name, to standardise it by.

        Parameters
        ----------
        name : str
            A quantity, or the kind of flux.

        Returns
        -------
        numpy.ndarray
            ``(n,)`` float64; empty where the name is not known here.
        """
        generator = self._generator()
        if name == "ln_resolving_power":
            low, high = self.observation.resolving_power_range
            return np.log(np.array([low, high, self.observation.resolving_power]))
        if name == self.flux_name:
            # of the stars, not of the noise: few pixels with hardly any flux would set the scale of all
            samples = []
            for _ in range(8):
                stars, seen = self.source.draw(16, generator), self._observe(16, generator)
                clean = self.source.flux(stars, seen.wavelength, seen.resolving_power, seen.radial_velocity)
                flux = self._normalized(clean, seen).double().cpu().numpy()
                samples.append(flux[np.isfinite(flux)])
            return np.concatenate(samples)
        if name not in self.targets:
            return np.empty(0)
        # velocities are drawn with what is seen, in batches
        batches = [(self.source.draw(512, generator), self._observe(512, generator)) for _ in range(16)]
        values = torch.cat([self._values(*batch)[0] for batch in batches])
        values = values[:, self.targets.index(name)].double().cpu().numpy()
        return values[np.isfinite(values)]

    def _generator(self):
        return torch.Generator(self.source.device).manual_seed(0)

    def examples(self, n_star, generator):
        """Draw spectra as a user has them.

        Parameters
        ----------
        n_star : int
            Number of stars.
        generator : torch.Generator
            Decides what is drawn.

        Returns
        -------
        spectra : list of SpectrumArrays
            Not normalised; errors are NaN where they are not known.
        values, errors : dict of str to numpy.ndarray
            ``(n_star,)`` labels by name; errors 0 or NaN where not known.
        """
        here = self._generator().manual_seed(torch.randint(2**62, (), generator=generator).item())
        spectra, known = [], []
        for start in range(0, n_star, 64):
            stars = self.source.draw(min(64, n_star - start), here)
            seen = self._observe(len(stars), here)
            clean = self.source.flux(stars, seen.wavelength, seen.resolving_power, seen.radial_velocity)
            flux, sigma = self._measured(self._disturbed(clean, seen, here), seen, here)
            rows = (seen.wavelength, flux.double(), sigma.double(), seen.good, seen.resolving_power)
            for wavelength, f, s, good, power in zip(*(row.cpu().numpy() for row in rows), strict=True):
                spectra.append(from_arrays(wavelength, f, s, ~good, resolving_power=float(power))[0])
            known.append([array.double().cpu().numpy() for array in self._values(stars, seen)])
        arrays = (np.concatenate(parts) for parts in zip(*known, strict=True))
        values, errors = (dict(zip(self.targets, array.T, strict=True)) for array in arrays)
        return spectra, values, errors

    def undisturbed(self):
        """Return the same stars, as `ObservationConfig.undisturbed` sees them.

        Returns
        -------
        list of ObservedSource
            One source.
        """
        source = copy.copy(self)
        source.observation = self.observation.undisturbed()
        return [source]

    def flawless(self):
        """Return the same stars, without artefacts.

        Returns
        -------
        ObservedSource
        """
        source = copy.copy(self)
        source.observation = replace(self.observation, artefacts=0.0)
        return source

    def all_asked(self, **changes):
        """Return the same stars with nothing but spectra and their resolving power as input.

        Parameters
        ----------
        **changes
            Settings of the observation that differ.

        Returns
        -------
        ObservedSource
        """
        source = copy.copy(self)
        source.observation = replace(self.observation, **changes)
        source.request = RequestConfig(
            give_quantity=0.0, give_resolving_power=1.0, quantities_only=0.0, flux_requests=0
        )
        return source

    def extent(self):
        """Return the range of the spectra.

        Returns
        -------
        dict
            ``low`` and ``high`` [Angstrom], ``finest`` and ``coarsest`` spacing in
            ln(wavelength), ``highest_power`` and ``lowest_power``, ``min_pixels``, ``min_coverage``, ``min_snr`` and
            ``largest_snr``, whether it ``predicts_flux``, and ``smallest_given``.
        """
        config, (low, high) = self.observation, self.source.wavelength_range
        powers = (*config.resolving_power_range, config.resolving_power)
        fewest, most = config.pixels_per_fwhm
        highest = min(max(powers), self.source.resolving_power)
        return {
            "low": float(low),
            "high": float(high),
            "finest": 0.9 / (highest * most),
            "coarsest": 1.1 / (min(powers) * fewest),
            "highest_power": float(highest),
            "lowest_power": float(min(powers)),
            "min_pixels": 32,
            "min_coverage": float(min(config.narrowest / (high - low), 0.9)),
            "min_snr": float(config.snr[0]),
            # the median of a spectrum with uneven noise may be a little higher
            "largest_snr": float(1.3 * config.snr[1]),
            "predicts_flux": self.request.flux_requests > 0,
            "smallest_given": GIVEN_ERRORS[0],
        }

    def settings(self):
        """Return the settings that must stay the same when training is resumed, as plain JSON types.

        Returns
        -------
        dict
        """
        return {
            "stars": self.source.settings(),
            "observation": self.observation.to_dict(),
            "request": self.request.to_dict(),
            "normalizer": self.normalizer.to_dict(),
            "targets": list(self.targets),
        }

    def _standardized(self, name, value, sigma):
        """Return value and error of one quantity in standardised units, float32."""
        mean, std, is_log = self.vocabulary.scale(name)
        if is_log:
            sigma, value = sigma / value, torch.log(value)
        return ((value - mean) / std).float(), (sigma / std).float()

    def _observe(self, n_star, generator, whole=False):
        """Draw how stars are observed."""
        config = replace(self.observation, whole_range=1.0) if whole else self.observation
        source = self.source
        return draw_observation(
            config, n_star, source.wavelength_range, generator, largest_power=source.resolving_power
        )

    def _values(self, stars, seen):
        """Return value and error of the targets, ``(n_star, n_target)`` each."""
        values, errors = self.source.values(stars)
        velocity = seen.radial_velocity[:, None]
        pairs = ((values, velocity), (errors, torch.zeros_like(velocity)))
        return tuple(torch.cat(pair, dim=1)[:, self._columns] for pair in pairs)

    def _disturbed(self, clean, seen, generator):
        """Return the flux of stars without noise, their lines as wrong as synthetic ones are, ``(n_star, n_pixel)``."""
        config = self.observation
        if not (self.source.relative and (config.line_error or config.veil)):
            return disturb_lines(config, clean, seen, generator)
        # lines are depths below a continuum: that of the spectrum itself must stay
        by = _CONTINUUM.divisor(seen.wavelength, clean, torch.ones_like(seen.good))
        by = torch.where(by > 0, by, 1.0)
        return disturb_lines(config, clean / by, seen, generator) * by

    def _measured(self, clean, seen, generator):
        """Return flux with noise and response, and its errors as far as they are told, ``(n_star, n_pixel)``."""
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        spoilt = add_artefacts(self.observation, clean, seen, generator)
        flux = (spoilt + seen.sigma * noise) * seen.response
        return flux, torch.where(seen.sigma_known[:, None], seen.sigma * seen.response, torch.nan)

    def _normalized(self, clean, seen):
        """Return the flux of all pixels of stars without noise, normalised."""
        by = self.normalizer.without_clipping().divisor(seen.wavelength, clean, torch.ones_like(seen.good))
        return torch.where(by > 0, clean / by, torch.nan)

    def _pixels(self, clean, seen, generator):
        """Return token, value, error and wavelength of the pixels, each ``(n_star, n_pixel)``."""
        flux, sigma = self._measured(clean, seen, generator)
        by = self.normalizer.divisor(seen.wavelength, flux, seen.good)
        good = seen.good & (by > 0)
        by = torch.where(good, by, 1.0)
        value, sigma = self._standardized(self.flux_name, flux / by, sigma / by)
        token = self.vocabulary.tokens(self.flux_name).item()
        return (
            torch.where(good, token, 0),
            torch.where(good, value, 0.0),
            torch.where(good, sigma, torch.nan),
            torch.where(good, seen.wavelength, 0.0),
        )

    def _named(self, given, values, errors, resolving_power, generator):
        """Return token, value, error and wavelength of what is given beside pixels."""
        n_star, device = len(given), given.device
        columns = []
        for i, name in enumerate(self.targets):
            columns.append((name, given[:, i], values[:, i], errors[:, i]))
        nothing = torch.full((n_star,), torch.nan, device=device)
        if "ln_resolving_power" in self.vocabulary:
            told = torch.rand(n_star, generator=generator, device=device) < self.request.give_resolving_power
            columns.append(("ln_resolving_power", told, torch.log(resolving_power), nothing))
        # all batch mates pay for a token: leave out those that nobody has
        columns = [c for c in columns if bool(c[1].any())]
        parts = []
        for name, there, value, error in columns:
            value, error = self._standardized(name, value, error)
            if name in self.targets:
                value, error = _measured_elsewhere(value, error, generator)
            error = torch.where(there, error, torch.nan)
            token = torch.where(there, self.vocabulary.tokens(name).item(), 0)
            parts.append((token, torch.where(there, value, 0.0), error, torch.zeros_like(value, dtype=torch.float64)))
        if not parts:
            shape = (n_star, 0)
            empty = torch.zeros(shape, device=device)
            return empty.long(), empty, empty, empty.double()
        return tuple(torch.stack(part, dim=1) for part in zip(*parts, strict=True))

    def _labels(self, given, values, errors):
        """Return token, wavelength, target, error and weight of the labels asked for."""
        columns = [self._standardized(name, values[:, i], errors[:, i]) for i, name in enumerate(self.targets)]
        target, sigma = (torch.stack(part, dim=1) for part in zip(*columns, strict=True))
        target = torch.where(given, torch.nan, target)
        token = torch.from_numpy(self.vocabulary.tokens(self.targets)).to(given.device).expand(len(given), -1)
        return token, torch.zeros_like(target, dtype=torch.float64), target, sigma, torch.ones_like(target)

    def _fluxes(self, clean, seen, generator, weight):
        """Return token, wavelength, target, error and weight of the fluxes asked for."""
        n_star, n_pixel = clean.shape
        shape = (n_star, self.request.flux_requests)
        chosen = torch.randint(n_pixel, shape, generator=generator, device=clean.device)
        # without noise, response and gaps: what the star is, not what was seen of it
        target = self._normalized(clean, seen).gather(1, chosen)
        target, _ = self._standardized(self.flux_name, target, target)
        token = torch.full(shape, self.vocabulary.tokens(self.flux_name).item(), device=clean.device)
        zero = torch.zeros_like(target)
        return token, seen.wavelength.gather(1, chosen), target, zero, zero + weight


def _measured_elsewhere(value, error, generator):
    """Return labels, standardised, as somebody else measured them, with errors: half of those without any get one."""
    chance, size, deviate = (draw(value.shape, generator=generator, device=value.device) for draw in _DRAWS)
    low, high = np.log(GIVEN_ERRORS)
    drawn = torch.exp(low + (high - low) * size)
    # an error of zero is one that is not known
    exact = ~(error > 0)
    drawn = torch.where(exact & (chance < 0.5), drawn, torch.nan)
    return value + torch.nan_to_num(drawn) * deviate, torch.where(exact, drawn, error)


def _some(pixels, n_pixel, generator):
    """Return at most so many good pixels of each star, drawn at random, ``(n_star, n_pixel)`` each."""
    token = pixels[0]
    key = torch.rand(token.shape, generator=generator, device=token.device)
    chosen = torch.where(token > 0, key, 2.0).argsort(dim=1)[:, :n_pixel]
    return tuple(array.gather(1, chosen) for array in pixels)
