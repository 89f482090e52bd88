"""How a star of a training stream is observed: drawn anew for every star and step, on the CPU or a GPU."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..stellarperceptron.config import Config, negative, not_fractions, not_positive, refuse

__all__ = ["Observation", "ObservationConfig", "add_artefacts", "disturb_lines", "draw_observation", "joined"]

# most pixels of a star: a coarser sampling is drawn where there were more
_MAX_PIXELS = 9_000
# of stars with artefacts: fewest and most in a resolution element, and their sizes [mean flux]
_ARTEFACTS, _ARTEFACT_SIZES = (2e-4, 2e-2), (0.03, 0.6)
# radial velocities of stars that are not at rest lie within this of 0 [km / s]
_LARGEST_VELOCITY = 300.0


@dataclass(frozen=True)
class ObservationConfig(Config):
    """What instruments, observing conditions and pipelines do to spectra.

    Attributes
    ----------
    resolving_power : float
        Resolving power of the instrument for which the model is mainly trained.
    nominal : float
        Fraction of batches at about this resolving power.
    resolving_power_range : tuple of float
        Range of the resolving powers of the other batches, uniform in the logarithm.
    power_spread : float
        Largest fraction by which the resolving power of a star lies below that of its batch.
    pixels_per_fwhm : tuple of float
        Fewest and most pixels in a resolution element.
    oversampled : float
        Fraction of batches whose pixels, where the resolving power is below ``resolving_power``, are as narrow as at
        that resolving power: a resolution element then has more of them.
    snr : tuple of float
        Range of the signal-to-noise ratio of a pixel, uniform in the logarithm.
    uneven_noise : float
        How much the noise varies along a spectrum; 0 for the same noise everywhere.
    withhold_sigma : float
        Fraction of stars whose errors are withheld.
    whole_range : float
        Fraction of batches with all of the wavelength range; each star of the others has a window of its own,
        from ``narrowest`` to the whole range wide.
    narrowest : float
        Narrowest window [Angstrom].
    gaps : float
        Fraction of stars with up to three gaps.
    bad_pixels : float
        Fraction of stars with single bad pixels, up to 30 % of their pixels.
    sparse : float
        Fraction of these stars that lose up to 95 %.
    artefacts : float
        Fraction of stars with bad pixels that nothing tells: spikes and dips, as of cosmic rays, lines of the sky and
        defects, from one resolution element to four wide. At most one in fifty elements has one.
    tilt : float
        Amplitude of the slopes and waves of the response, in ln(flux).
    velocity : float
        Standard deviation of the residual radial velocity [km / s].
    fast : float
        Fraction of stars that are not at rest, with radial velocities uniform between -300 and 300 km / s.
    wrong_lines : float
        Fraction of stars whose lines are disturbed by ``line_error`` and ``veil``.
    line_error : float
        Largest error of lines, in ln(depth), of each resolution element and of each region of the spectrum,
        drawn anew for each star, so that no single synthetic line is trusted. Disturbed stars have at least
        a third of it, so that they can be told from the others.
    veil : float
        Largest depth of weak lines that are added to the same stars, at least a third of it likewise.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    resolving_power: float = 22_500.0
    nominal: float = 0.5
    resolving_power_range: tuple[float, ...] = (2_000.0, 22_500.0)
    power_spread: float = 0.3
    pixels_per_fwhm: tuple[float, ...] = (2.0, 3.5)
    oversampled: float = 0.0
    snr: tuple[float, ...] = (10.0, 500.0)
    uneven_noise: float = 1.0
    withhold_sigma: float = 0.25
    whole_range: float = 0.6
    narrowest: float = 100.0
    gaps: float = 0.3
    bad_pixels: float = 0.3
    sparse: float = 0.1
    artefacts: float = 0.0
    tilt: float = 0.1
    velocity: float = 2.0
    fast: float = 0.0
    wrong_lines: float = 0.5
    line_error: float = 0.0
    veil: float = 0.0

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        fractions = ("nominal", "power_spread", "oversampled", "withhold_sigma", "whole_range")
        problems = not_fractions(self, (*fractions, "gaps", "bad_pixels", "sparse", "artefacts", "fast", "wrong_lines"))
        for name in ("resolving_power_range", "pixels_per_fwhm", "snr"):
            ends = getattr(self, name)
            if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
                problems.append(f"{name} must be two positive numbers in ascending order, not {ends!r}")
        problems += not_positive(self, ("resolving_power", "narrowest"))
        problems += negative(self, ("uneven_noise", "tilt", "velocity", "line_error", "veil"))
        refuse("ObservationConfig", problems)

    def undisturbed(self, **changes):
        """Return the main instrument, with all of its wavelength range, and nothing but noise.

        Parameters
        ----------
        **changes
            Settings to change.

        Returns
        -------
        ObservationConfig
        """
        names = ("power_spread", "uneven_noise", "gaps", "bad_pixels", "artefacts", "tilt", "velocity", "fast")
        never = dict.fromkeys((*names, "line_error", "veil"), 0.0)
        return replace(self, nominal=1.0, whole_range=1.0, **(never | changes))


@dataclass
class Observation:
    """Where and how well the stars of a batch are observed.

    Attributes
    ----------
    wavelength : torch.Tensor
        ``(n_star, n_pixel)`` float64 [Angstrom, vacuum], ascending.
    good : torch.Tensor
        ``(n_star, n_pixel)`` bool.
    resolving_power, radial_velocity : torch.Tensor
        ``(n_star,)``, the latter in km / s.
    response : torch.Tensor
        ``(n_star, n_pixel)`` smooth factor on the flux.
    sigma : torch.Tensor
        ``(n_star, n_pixel)`` standard deviation of the noise, relative to the continuum.
    sigma_known : torch.Tensor
        ``(n_star,)`` bool, whether it is told.
    """

    wavelength: torch.Tensor
    good: torch.Tensor
    resolving_power: torch.Tensor
    radial_velocity: torch.Tensor
    response: torch.Tensor
    sigma: torch.Tensor
    sigma_known: torch.Tensor


def draw_observation(config, n_star, wavelength_range, generator, *, largest_power=None):
    """Draw how the stars of a batch are observed.

    What decides the number of pixels is drawn for the batch, all else for each star:
    then no star is padded with pixels it does not have.

    Parameters
    ----------
    config : ObservationConfig
        What may happen.
    n_star : int
        Number of stars.
    wavelength_range : tuple of float
        Ends of what can be observed [Angstrom, vacuum].
    generator : torch.Generator
        Source of all draws; its device is that of the result.
    largest_power : float, optional
        Resolving power of the spectra that are observed.

    Returns
    -------
    Observation
    """
    draw = _Draws(generator, n_star)
    low, high = np.log(wavelength_range)
    # for the batch; these few numbers are needed on the host
    chances = torch.rand(7, generator=generator, device=draw.device).tolist()
    nominal, power, sampling, whole, share, linear, oversampled = chances
    if nominal < config.nominal:
        power = config.resolving_power
    else:
        first, last = np.log(config.resolving_power_range)
        power = float(np.exp(first + power * (last - first)))
    if largest_power is not None:
        power = min(power, largest_power)
    fewest, most = config.pixels_per_fwhm
    width = high - low
    if whole >= config.whole_range:
        narrowest = min(config.narrowest / np.exp(0.5 * (low + high)), width)
        width = narrowest * (width / narrowest) ** share
    finer = max(power, config.resolving_power) if oversampled < config.oversampled else power
    n_pixel = int(np.ceil(width * finer * (fewest + sampling * (most - fewest))))
    n_pixel = max(min(n_pixel, _MAX_PIXELS), 16)

    first = low + draw.uniform() * (high - low - width)  # (n_star,)
    place = (torch.arange(n_pixel, dtype=torch.float64, device=draw.device) + 0.5) / n_pixel
    if linear < 0.5:
        wavelength = torch.exp(first[:, None] + width * place)
    else:
        start, end = torch.exp(first), torch.exp(first + width)
        wavelength = start[:, None] + (end - start)[:, None] * place

    powers = power * (1 - config.power_spread * draw.uniform())
    velocity = config.velocity * draw.normal()
    any_velocity = _LARGEST_VELOCITY * (2 * draw.uniform().float() - 1)
    velocity = torch.where(draw.uniform() < config.fast, any_velocity, velocity)
    place = place.float()
    response = torch.exp(config.tilt * draw.smooth(place, 4) * (draw.uniform() < 0.8)[:, None])
    ends = np.log(config.snr)
    snr = torch.exp(ends[0] + (ends[1] - ends[0]) * draw.uniform())
    # errors vary along the spectrum, and some pixels have much larger ones
    uneven = torch.exp(0.3 * draw.smooth(place, 6) * (draw.uniform() < 0.7)[:, None])
    noisy = (draw.uniform(n_pixel) < 0.03) & (draw.uniform() < 0.4)[:, None]
    uneven = torch.where(noisy, uneven * torch.exp(3 * draw.uniform(n_pixel)), uneven)
    sigma = uneven**config.uneven_noise / snr[:, None]
    known = draw.uniform() >= config.withhold_sigma
    good = _draw_good(config, draw, place)
    return Observation(wavelength, good, powers.float(), velocity, response, sigma, known)


def disturb_lines(config, flux, seen, generator):
    """Give lines the errors that synthetic spectra have: of their depths, and weak ones missing.

    Parameters
    ----------
    config : ObservationConfig
        How large they are.
    flux : torch.Tensor
        ``(n_star, n_pixel)`` continuum-normalised.
    seen : Observation
        Where it is.
    generator : torch.Generator
        Source of all draws.

    Returns
    -------
    torch.Tensor
        ``(n_star, n_pixel)``.
    """
    if not (config.line_error or config.veil):
        return flux
    draw = _Draws(generator, len(flux))
    position = torch.log(seen.wavelength / seen.wavelength[:, :1])
    elements, regions = position * seen.resolving_power[:, None], 20 * position / position[:, -1:]
    # some of them none; the others enough to be told from these
    hit = draw.uniform() < config.wrong_lines
    error, veil = ((hit * (1 + 2 * draw.uniform()) / 3).float()[:, None] for _ in range(2))
    scatter = draw.pieces(elements) + draw.pieces(regions)
    depth = (1 - flux) * torch.exp(config.line_error * error * scatter)
    return 1 - depth - config.veil * veil * draw.pieces(elements) ** 2


def add_artefacts(config, flux, seen, generator):
    """Spoil some pixels of some stars, by up to all of the continuum and no more than the flux downwards.

    Parameters
    ----------
    config : ObservationConfig
        How many stars.
    flux : torch.Tensor
        ``(n_star, n_pixel)`` without noise.
    seen : Observation
        Where it is.
    generator : torch.Generator
        Source of all draws.

    Returns
    -------
    torch.Tensor
        ``(n_star, n_pixel)``.
    """
    if not config.artefacts:
        return flux
    draw = _Draws(generator, len(flux))
    elements = torch.log(seen.wavelength / seen.wavelength[:, :1]) * seen.resolving_power[:, None]
    hit = draw.uniform() < config.artefacts
    often, size = (low * (high / low) ** draw.uniform() for low, high in (_ARTEFACTS, _ARTEFACT_SIZES))
    wrong = draw.pieces(elements, often * hit) + draw.pieces(elements / 4, 0.5 * often * hit)
    wrong = wrong * size.float()[:, None] * flux.abs().mean(dim=1, keepdim=True)
    return torch.maximum(flux + wrong, torch.minimum(flux, 0.05 * flux))


def _draw_good(config, draw, place):
    """Return which pixels are there, ``(n_star, n_pixel)``; always the one in the middle."""
    hit, many = draw.uniform() < config.bad_pixels, draw.uniform() < config.sparse
    lost = draw.uniform() * torch.where(many, 0.95, 0.3) * hit
    good = draw.uniform(len(place)) >= lost[:, None]
    hit = draw.uniform() < config.gaps
    for _ in range(3):
        middle, half = draw.uniform()[:, None], 0.1 * (draw.uniform() ** 2 * hit * (draw.uniform() < 0.6))[:, None]
        good &= (place - middle).abs() >= half
    good[:, len(place) // 2] = True
    return good


class _Draws:
    """Random numbers for each star, from one generator."""

    def __init__(self, generator, n_star):
        self.generator, self.n_star, self.device = generator, n_star, generator.device

    def uniform(self, *shape):
        """Return numbers between 0 and 1, ``(n_star, *shape)``."""
        dtype = torch.float32 if shape else torch.float64
        return torch.rand((self.n_star, *shape), generator=self.generator, device=self.device, dtype=dtype)

    def normal(self, *shape):
        """Return normal deviates, ``(n_star, *shape)`` float32."""
        return torch.randn((self.n_star, *shape), generator=self.generator, device=self.device)

    def smooth(self, place, n_wave):
        """Return random smooth functions of about unit variance, ``(n_star, n_pixel)`` float32."""
        order = torch.arange(n_wave, device=self.device, dtype=torch.float32)
        # half waves over the range, so that slopes and bends are among them
        waves = torch.cos(torch.pi * order[:, None] * place)  # (n_wave, n_pixel)
        weight = self.normal(n_wave) / (1 + order) ** 0.5
        weight[:, 0] = 0.0
        return weight @ waves

    def pieces(self, position, often=None):
        """Return normal deviates at whole positions, joined by straight lines, ``(n_star, n_pixel)`` float32.

        ``position`` ascends from 0. With ``often`` ``(n_star,)`` they are 0 but for that share of the positions.
        """
        n_position = int(position[:, -1].max()) + 2
        values = self.normal(n_position)
        if often is not None:
            values = values * (self.uniform(n_position) < often[:, None])
        return joined(values, position)


def joined(values, position):
    """Return values at whole positions, joined by straight lines.

    Parameters
    ----------
    values : torch.Tensor
        ``(n_star, n_value)`` float32.
    position : torch.Tensor
        ``(n_star, n_pixel)``, from 0 to ``n_value - 1``.

    Returns
    -------
    torch.Tensor
        ``(n_star, n_pixel)`` float32.
    """
    whole = position.long().clamp(max=values.shape[1] - 2)
    share = (position - whole).float()
    return (1 - share) * values.gather(1, whole) + share * values.gather(1, whole + 1)
