"""A second opinion on labels, from a whole spectrum at once."""

import torch
from torch import nn

from .precision import without_autocast
from .spectrum_components import FARTHEST, SpectrumComponents
from .tokens import in_columns, places_among

__all__ = ["SecondOpinion", "weighed"]

# trust before training
_UNHEARD = -10.0
# variance that is as good as none [standardised]
_NOTHING = 1e-12


class SecondOpinion(SpectrumComponents):
    """Labels from a perceptron that sees a whole spectrum at once, to be averaged with predictions of the decoder.

    If training stars are few, each network learns some of their noise by heart, and two networks that see
    spectra in different ways learn different parts of it: their mean is better than either. The perceptron
    sees the coefficients of the principal components of a spectrum, and how uncertain noise and gaps leave them,
    but no known labels or magnitudes.

    Parameters
    ----------
    config : ModelConfig
        The architecture.
    tokens : sequence of int
        Tokens of the labels that it predicts.
    n_token : int
        Number of tokens, padding included.
    flux_token : int
        Token of the pixels that it sees.
    """

    def __init__(self, config, tokens, n_token, flux_token):
        super().__init__(config.opinion_range, config.opinion_knots, config.opinion_components)
        self.flux_token = flux_token
        self.register_buffer("tokens", torch.as_tensor(tokens, dtype=torch.int64), persistent=False)
        # number of the label of a token, -1 for tokens that are no label
        self.register_buffer("column", places_among(tokens, n_token), persistent=False)
        n_input, n_label = 2 * config.opinion_components, len(tokens)
        self.register_buffer("input_mean", torch.zeros(n_input))
        self.register_buffer("input_scale", torch.ones(n_input))
        widths = (n_input, *config.opinion_dense)
        self.dense = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths[:-1], widths[1:], strict=True))
        self.dropout = nn.Dropout(config.opinion_dropout)
        self.out = nn.Linear(widths[-1], 2 * n_label)
        # logarithm of the factor on the weight of its answers, beside their inverse variances
        self.trust = nn.Parameter(torch.full((n_label,), _UNHEARD))

    def look(self, tokens):
        """Return its opinion on stars.

        Parameters
        ----------
        tokens : Tokens
            A padded batch.

        Returns
        -------
        tuple of torch.Tensor or None
            Values and logarithms of their variances ``(n_star, n_label)``, standardised, 0 where there is no opinion,
            and which stars have one ``(n_star,)``; None if no star has one.
        """
        if not bool(self.sees(tokens).any()):
            return None
        with without_autocast(tokens.value):
            inputs, there = self.inputs(tokens)
            told = self(inputs)
        empty = told[0].new_zeros(len(there), told[0].shape[1])
        return *(empty.masked_scatter(there[:, None], t) for t in told), there

    def sees(self, tokens):
        """Return which tokens are pixels that it sees.

        Parameters
        ----------
        tokens : Tokens
            A padded batch.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_token)`` bool.
        """
        low, high = self.ends
        inside = (tokens.wavelength >= low) & (tokens.wavelength <= high)
        return (tokens.token == self.flux_token) & inside.to(tokens.token.device)

    def inputs(self, tokens):
        """Return what the layers see of stars, not yet standardised.

        Parameters
        ----------
        tokens : Tokens
            A padded batch.

        Returns
        -------
        inputs : torch.Tensor
            ``(n_seen, 2 * n_component)`` of stars with pixels that it sees.
        there : torch.Tensor
            ``(n_star,)`` bool, which stars these are.
        """
        pixel = self.sees(tokens)
        there = pixel.any(dim=1)
        star = (tokens.value.float(), tokens.sigma.float(), tokens.wavelength, pixel)
        coefficient, variance = self.coefficients(*self.normal_equations(*(t[there.to(t.device)] for t in star)))
        # stars far from all others have coefficients of hundreds
        return torch.cat((torch.asinh(coefficient), torch.log(variance.clamp(min=_NOTHING))), dim=1), there

    def forward(self, inputs):
        """Predict labels.

        Parameters
        ----------
        inputs : torch.Tensor
            ``(n_star, 2 * n_component)``, see the method of this name.

        Returns
        -------
        value, log_variance : torch.Tensor
            ``(n_star, n_label)``, standardised.
        """
        x = ((inputs - self.input_mean) / self.input_scale).clamp(-FARTHEST, FARTHEST)
        for layer in self.dense:
            x = self.dropout(nn.functional.gelu(layer(x)))
        return self.out(x).chunk(2, dim=1)

    def labels_of(self, token, values):
        """Return values of tokens in the order of the labels.

        Parameters
        ----------
        token : torch.Tensor
            ``(n_star, n_token)`` int64.
        values : torch.Tensor
            ``(n_star, n_token)`` value or error of each.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_label)``, NaN where there is none.
        """
        return in_columns(self.column[token], len(self.tokens), values)

    def weigh(self, request_token, value, log_variance, opinion):
        """Return predictions averaged over both opinions.

        Parameters
        ----------
        request_token : torch.Tensor
            ``(n_star, n_request)`` int64.
        value, log_variance : torch.Tensor
            ``(n_star, n_request)`` predictions of the decoder, standardised.
        opinion : tuple of torch.Tensor
            From `look`.

        Returns
        -------
        value, log_variance : torch.Tensor
            ``(n_star, n_request)``; predictions of the decoder where there is no opinion.
        """
        *its, there = opinion
        column = self.column[request_token]
        told, column = (column >= 0) & there[:, None], column.clamp(min=0)
        both = weighed(value, log_variance, *(t.gather(1, column) for t in its), self.trust[column])
        return torch.where(told, both[0], value), torch.where(told, both[1], log_variance)


def weighed(value, log_variance, its_value, its_log_variance, trust):
    """Return mean and variance of a mixture of two predictions, weighted by inverse variances and trust.

    Parameters
    ----------
    value, log_variance : torch.Tensor
        The first prediction.
    its_value, its_log_variance : torch.Tensor
        The second prediction.
    trust : torch.Tensor
        Logarithm of the factor on the weight of the second, beside its inverse variance.

    Returns
    -------
    value, log_variance : torch.Tensor
    """
    odds = trust + log_variance - its_log_variance
    ln_share, ln_rest = nn.functional.logsigmoid(odds), nn.functional.logsigmoid(-odds)
    apart = its_value - value
    of_difference = ln_share + ln_rest + torch.log(apart**2 + _NOTHING)
    parts = (ln_rest + log_variance, ln_share + its_log_variance, of_difference)
    return value + torch.exp(ln_share) * apart, torch.logsumexp(torch.stack(parts), dim=0)
