"""How the fits of a second look are learnt from training stars."""

import logging
import time

import torch
from torch import nn

from .._numerics import MAD_TO_STD
from ..exceptions import TrainingError
from ..stellarperceptron.precision import float64_device
from .epochs import train_layers

__all__ = ["learn_components", "learn_fits", "learn_guess", "learn_other_lines", "learn_response"]

logger = logging.getLogger("spectrafm")

# how stars are seen that tell what spectra are made of: whole, without noise
_CLEAN = {"snr": (1e5, 1e5), "uneven_noise": 0.0, "withhold_sigma": 0.0, "whole_range": 1.0, "gaps": 0.0}
_CLEAN |= {"bad_pixels": 0.0, "artefacts": 0.0}
# stars that a fit is learnt from, without noise and with noise, and how often each of them is seen
_N_FIT, _EPOCHS = 150_000, 60
# stars that components are made of, and in a batch
_N_COMPONENT, _BATCH = 8192, 64
# stars in a step of training, and the largest learning rate
_STEP, _RATE = 256, 2e-3
# share of the stars whose coefficients say what parameters leave unexplained: others may have been misread
_TYPICAL = 0.8
# flux over error of a spectrum without errors
_USUAL_SNR = 50.0
# squared deviation of a spectrum [standardised flux] below which half as much counts a quarter
_SMALL = 1e-3


def learn_fits(readout, sources, vocabulary, generator):
    """Learn all that the fits of a readout know.

    Parameters
    ----------
    readout : Readout
        Its fits are changed in place; one without any is left alone.
    sources : sequence of ObservedSource
        Stars.
    vocabulary : Vocabulary
        Standardisation.
    generator : torch.Generator
        Source of all draws.

    Raises
    ------
    TrainingError
        A range in which none of the sources lies.
    """
    for fit in readout.fits:
        start = time.perf_counter()
        inside = [source for source in sources if _lies_in(fit, source)]
        if not inside:
            raise TrainingError(
                f"readout: none of its sources has its stars in {fit.ends} Angstrom, and a fit needs one: "
                "mend readout_ranges, or the sources of [readout]"
            )
        # another has other lines
        source = inside[0]
        fit.usual_error.fill_(1 / (_USUAL_SNR * vocabulary.scale(source.flux_name)[1]))

        def drawn(n_star, source=source, **changes):
            return _drawn(readout, source.all_asked(**changes), n_star, generator)

        def projected(stars, fit=fit):
            return _together((fit.projected(_clean(fit, star)), parameter) for star, parameter in stars)

        stars = drawn(_N_COMPONENT, **_CLEAN)
        learn_components(fit, torch.cat([_clean(fit, star) for star, _ in stars]), generator)
        stars = drawn(_N_FIT, **_CLEAN, wrong_lines=0.0)
        error = learn_response(fit, *projected(stars), _EPOCHS, generator)
        seen = [(*fit.coefficients(*fit.normal_equations(*star)), p) for star, p in drawn(_N_FIT)]
        learn_guess(fit, *_together(seen), _EPOCHS, generator)
        # of another list; where there is none, lines that are wrong at random
        wrong = {} if len(inside) > 1 else {"wrong_lines": 1.0}
        learn_other_lines(fit, *projected(drawn(_N_COMPONENT, inside[-1], **(_CLEAN | wrong), tilt=0.0)))
        logger.info(
            "readout: fit of %d-%d Angstrom learnt in %.0f s; its spectra are off by %.4f [standardised flux]",
            *fit.ends,
            time.perf_counter() - start,
            error,
        )


def _together(batches):
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def _lies_in(fit, source):
    low, high = source.source.wavelength_range
    return fit.ends[0] <= low and high <= fit.ends[1]


@torch.no_grad()
def _drawn(readout, source, n_star, generator):
    """Yield flux, error and wavelength of pixels, which of them are there, and parameters, of stars."""
    flux_token = source.vocabulary.tokens(source.flux_name).item()
    for start in range(0, n_star, _BATCH):
        batch = source.batch(min(_BATCH, n_star - start), generator).to(readout.tokens.device)
        tokens = batch.tokens
        # the resolving power is given, labels are asked for; one that these stars do not have is no parameter
        given = readout.in_columns(tokens.token, tokens.value)
        asked = readout.in_columns(batch.request_token, batch.target)
        star = tokens.value, tokens.sigma, tokens.wavelength, tokens.token == flux_token
        yield star, torch.cat((asked[:, :-1], given[:, -1:]), dim=1).nan_to_num()


def _clean(fit, star):
    value, _, wavelength, there = star
    return fit.knots(value, wavelength, there)


@torch.no_grad()
def learn_components(fit, flux, generator):
    """Set the principal components of spectra, and what they leave.

    Parameters
    ----------
    fit : SpectrumComponents
        Changed in place.
    flux : torch.Tensor
        ``(n_star, n_knot)`` of stars without noise; NaN where there is no flux.
    generator : torch.Generator
        Source of the draws of the decomposition.
    """
    there = torch.isfinite(flux)
    fit.mean.copy_(flux.nan_to_num().sum(dim=0) / there.sum(dim=0).clamp(min=1))
    apart = (flux - fit.mean).nan_to_num()
    # on mps not all of this is there
    apart = apart.to(float64_device(apart.device))
    n_component = len(fit.components)
    # a random basis, turned towards the largest components (Halko et al. 2011, arXiv:0909.4061)
    basis = torch.randn(apart.shape[1], n_component + 16, generator=generator, device=generator.device).to(apart.device)
    for _ in range(5):
        basis = torch.linalg.qr(apart.T @ (apart @ torch.linalg.qr(basis)[0]))[0]
    left, size, right = torch.linalg.svd(apart @ basis, full_matrices=False)
    components = (basis @ right.mT).T[:n_component] * size[:n_component, None]
    rest = apart - left[:, :n_component] @ components
    fit.components.copy_(components / len(apart) ** 0.5)
    # a median: of lines that are wrong in some stars, the others know nothing
    fit.rest.copy_((MAD_TO_STD * rest.abs().median(dim=0).values) ** 2)


def learn_response(fit, coefficient, parameter, epochs, generator):
    """Train what says which coefficients parameters make, and set what it does not know, and what is common.

    Parameters
    ----------
    fit : SpectrumFit
        Changed in place.
    coefficient, parameter : torch.Tensor
        ``(n_star, n_component)`` and ``(n_star, n_parameter)`` of stars without noise.
    epochs : int
        How often each star is seen.
    generator : torch.Generator
        Source of their order.

    Returns
    -------
    float
        Root mean square deviation of the spectra of half of the stars, at most.
    """
    square = (fit.components**2).sum(dim=1)
    layers = (fit.response_1, fit.response_2, fit.response_3)

    def loss(rows):
        deviation = coefficient[rows] - fit.response(parameter[rows])
        # of the flux; not squared, as few stars are far from all others
        return torch.sqrt((square * deviation**2).sum(dim=1) + _SMALL).mean()

    _train(layers, loss, len(parameter), epochs, generator)
    with torch.no_grad():
        left, size = _left(fit, coefficient, parameter)
        fit.unexplained.copy_(_root(left[size <= size.quantile(_TYPICAL)]))
        fit.prior_mean.copy_(parameter.mean(dim=0))
        common = torch.cov(parameter.T.cpu()) + 1e-4 * torch.eye(fit.n_parameter)
        fit.prior_precision.copy_(torch.linalg.inv(common.double()))
        fit.lowest.copy_(parameter.amin(dim=0) - 0.1)
        fit.highest.copy_(parameter.amax(dim=0) + 0.1)
        return size.median().sqrt().item()


def _left(fit, coefficient, parameter):
    """Return what parameters leave of coefficients, and the mean squared deviation that this is of the spectra."""
    parts = zip(coefficient.split(4096), parameter.split(4096), strict=True)
    left = torch.cat([c - fit.response(p) for c, p in parts])
    return left, ((fit.components**2).sum(dim=1) * left**2).sum(dim=1) / fit.components.shape[1]


def _root(left):
    """Return a root of the covariance of coefficients, their mean being 0."""
    variance, vectors = torch.linalg.eigh((left.mT @ left / len(left)).cpu().double())
    return vectors * variance.clamp(min=0).sqrt()


@torch.no_grad()
def learn_other_lines(fit, coefficient, parameter):
    """Set what other lines do to coefficients.

    Parameters
    ----------
    fit : SpectrumFit
        Changed in place; its response has been learnt.
    coefficient, parameter : torch.Tensor
        ``(n_star, n_component)`` and ``(n_star, n_parameter)`` of stars without noise whose lines are wrong.
    """
    left, size = _left(fit, coefficient, parameter)
    # strong lines and weak ones alike
    fit.other_lines.copy_(_root(left / size.sqrt().clamp(min=1e-12)[:, None]))


def learn_guess(fit, coefficient, variance, parameter, epochs, generator):
    """Train what guesses parameters from coefficients.

    Parameters
    ----------
    fit : SpectrumFit
        Changed in place.
    coefficient, variance : torch.Tensor
        ``(n_star, n_component)`` of stars with noise.
    parameter : torch.Tensor
        ``(n_star, n_parameter)``.
    epochs : int
        How often each star is seen.
    generator : torch.Generator
        Source of their order.
    """

    def loss(rows):
        found = fit.guess(coefficient[rows].float(), variance[rows].float())
        return nn.functional.smooth_l1_loss(found, parameter[rows], beta=0.1)

    _train((fit.guess_1, fit.guess_2, fit.guess_3), loss, len(parameter), epochs, generator)


def _train(layers, loss_of, n_star, epochs, generator):
    """Train layers on all stars."""
    settings = {"batch_size": _STEP, "learning_rate": _RATE, "weight_decay": 1e-4, "warmup": 20}
    loss = train_layers(layers, loss_of, n_star, epochs, generator, **settings)
    if not torch.isfinite(loss):
        raise TrainingError("readout: a fit could not be learnt, its loss is not finite; look for absurd labels")
