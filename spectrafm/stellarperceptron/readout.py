"""A second look at labels, all of them together."""

import torch
from torch import nn

from .precision import without_autocast
from .spectrum_components import FARTHEST
from .spectrum_fit import SpectrumFit
from .tokens import in_columns, places_among

__all__ = ["Readout"]

# line error [standardised flux] below which a readout sees no differences, and line error at which doubt is half
_SMALL, _DOUBTFUL = 0.01, 0.015


class Readout(nn.Module):
    """A second look at labels: all of them together, beside the mean of the encoder's output.

    The decoder answers each request by itself, but errors of labels are correlated. Small
    corrections are learnt from the encoder's output alone, which can be repeated far more often than
    training on spectra. With ``fit_knots`` labels are also fitted to the whole spectrum, and the
    readout weights both answers.

    Parameters
    ----------
    config : ModelConfig
        The architecture.
    tokens : sequence of int
        Tokens of the labels that are looked at.
    n_token : int
        Number of tokens, padding included.
    power_token : int, optional
        Token of the logarithm of the resolving power, -1 where the model does not have it.
    """

    def __init__(self, config, tokens, n_token, power_token=-1):
        super().__init__()
        self.register_buffer("tokens", torch.as_tensor(tokens, dtype=torch.int64), persistent=False)
        # number of the label of a token, -1 for tokens that are no label
        self.register_buffer("column", places_among(tokens, n_token), persistent=False)
        self.power_token = power_token
        self.ranges = list(zip(config.readout_ranges[::2], config.readout_ranges[1::2], strict=True))
        n_label = len(tokens)
        sizes = zip(self.ranges, config.fit_knots, config.fit_components, config.fit_dense, strict=False)
        # labels and the resolving power
        self.fits = nn.ModuleList(SpectrumFit(*size, n_label + 1) for size in sizes)
        n_input = config.embedding_dim + n_label + (3 * n_label + 2 if self.fits else 0)
        self.register_buffer("input_mean", torch.zeros(n_input))
        self.register_buffer("input_scale", torch.ones(n_input))
        self.dense = nn.Linear(n_input, config.readout_dense)
        self.out = nn.Linear(config.readout_dense, (3 if self.fits else 2) * n_label)
        # nothing to add, at first
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @property
    def n_fitted(self):
        """Number of results of fits per star: labels, logarithms of their variances, misfit, line error and doubt."""
        return 2 * len(self.tokens) + 3

    def in_columns(self, token, values):
        """Return values of tokens in the order of the parameters of fits.

        Parameters
        ----------
        token : torch.Tensor
            ``(n_star, n_token)`` int64.
        values : torch.Tensor
            ``(n_star, n_token)`` value or error of each.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_label + 1)`` labels, and the logarithm of the resolving power; NaN where none is.
        """
        n_label = len(self.tokens)
        place = torch.where(token == self.power_token, n_label, self.column[token])
        return in_columns(place, n_label + 1, values)

    def look(self, tokens, pixel):
        """Return which stars get a second look, and results of fits to their spectra.

        Parameters
        ----------
        tokens : Tokens
            A padded batch.
        pixel : torch.Tensor
            ``(n_star, n_token)`` bool, tokens that are pixels.

        Returns
        -------
        second_look : torch.Tensor
            ``(n_star,)`` bool.
        fitted : torch.Tensor or None
            ``(n_star, n_fitted)`` float32, 0 for stars without a second look.
        """
        there = pixel.any(dim=1)
        if not self.ranges:
            return there, None
        wavelength = tokens.wavelength
        here = pixel.to(wavelength.device)
        inside = torch.stack(
            [~(here & ((wavelength < low) | (wavelength > high))).any(dim=1) for low, high in self.ranges]
        ).to(there.device)
        inside &= there
        if not self.fits:
            return inside.any(dim=0), None
        fitted = torch.zeros(len(pixel), self.n_fitted, dtype=tokens.value.dtype, device=pixel.device)
        n_label = len(self.tokens)
        some = (tokens.value, tokens.sigma, wavelength, pixel)
        some += tuple(self.in_columns(tokens.token, t) for t in (tokens.value, tokens.sigma))
        for fit, rows in zip(self.fits, inside, strict=True):
            if rows.any():
                found, log_variance, misfit, line_error = fit(*(t[rows.to(t.device)] for t in some))
                # what is added to the logarithm of variances
                doubt = 2 * fit.doubt * line_error**2 / (line_error**2 + _DOUBTFUL**2)
                line_error = torch.log1p(line_error / _SMALL)
                of_star = torch.stack((misfit, line_error, doubt), dim=1)
                told = torch.cat((found[:, :n_label], log_variance[:, :n_label], of_star), dim=1)
                fitted = fitted.masked_scatter(rows[:, None], told)
        return inside.any(dim=0), fitted

    def forward(self, pooled, first, log_variance, fitted=None):
        """Return corrections of the decoder's predictions.

        Parameters
        ----------
        pooled : torch.Tensor
            ``(n_star, embedding_dim)`` mean of the encoder output.
        first, log_variance : torch.Tensor
            ``(n_star, n_label)`` predictions of the decoder, standardised.
        fitted : torch.Tensor, optional
            ``(n_star, n_fitted)`` results of fits.

        Returns
        -------
        value, log_variance : torch.Tensor
            ``(n_star, n_label)``.
        """
        # the small differences that matter here have more digits than bfloat16
        with without_autocast(pooled):
            pooled, first = pooled.float(), first.float()
            seen = self.inputs(pooled, first, log_variance, fitted)
            seen = (seen - self.input_mean) / self.input_scale
            # inputs are kept within the range of the training
            seen = seen.clamp(-FARTHEST, FARTHEST).to(self.dense.weight.dtype)
            answer = self.out(nn.functional.gelu(self.dense(seen))).float()
            if fitted is None:
                value, factor = answer.chunk(2, dim=1)
                return value, factor
            value, factor, trust = answer.chunk(3, dim=1)
            n_label = len(self.tokens)
            value = value + trust * (fitted[:, :n_label] - first)
            factor = factor + trust * (fitted[:, n_label : 2 * n_label] - log_variance.float())
            # not known to the layers, as training stars do not show it; no label is less known than without a spectrum
            room = (-log_variance.float() - factor).clamp(min=0)
            factor = factor + torch.minimum(fitted[:, -1:], room)
        return value, factor

    def inputs(self, pooled, first, log_variance, fitted=None):
        """Return what the dense layers see, not yet standardised.

        Parameters
        ----------
        pooled, first, log_variance, fitted
            As for `forward`.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_input)``.
        """
        if fitted is None:
            return torch.cat((pooled, first), dim=1)
        n_label = len(self.tokens)
        apart = fitted[:, :n_label] - first
        return torch.cat((pooled, first, log_variance.float(), apart, fitted[:, n_label:-1]), dim=1)
