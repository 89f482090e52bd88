"""From tokens to vectors: values, errors, wavelengths."""

import math

import torch
from torch import nn

from .precision import float64

__all__ = [
    "LogFourierEncoding",
    "NonLinearEmbedding",
    "SinusoidalEncoding",
    "error_features",
]


class SinusoidalEncoding(nn.Module):
    """Wavelength encoding of the paper (arXiv:2411.04750).

    With x = (wavelength - center) / scale, even channels are
    sin(1000 x / 10000^(2i/d)) and odd channels the cosine.

    Parameters
    ----------
    embedding_dim : int
        Number of channels.
    center, scale : float
        Centre and scale [Angstrom].
    """

    def __init__(self, embedding_dim, center=15000.0, scale=2000.0):
        super().__init__()
        self.embedding_dim, self.center, self.scale = embedding_dim, center, scale

    def forward(self, wavelength):
        """Encode wavelengths.

        Parameters
        ----------
        wavelength : torch.Tensor
            ``(...)`` [Angstrom, vacuum]; 0 gives a zero vector.

        Returns
        -------
        torch.Tensor
            ``(..., embedding_dim)`` float32, whatever the autocast.
        """
        # the published order of operations in float32: a phase of thousands of radians shows every rounding
        wavelength = wavelength.float()
        index = torch.arange(0, self.embedding_dim, 2, device=wavelength.device).float()
        x = (wavelength - self.center) / self.scale
        phase = (1000.0 * x[..., None]) * torch.exp(index * (-math.log(10000.0) / self.embedding_dim))
        return _interleave(phase, wavelength)


class LogFourierEncoding(nn.Module):
    """Fourier features of ln(wavelength), periods in geometric progression.

    Parameters
    ----------
    embedding_dim : int
        Number of channels.
    min_period, max_period : float
        Shortest and longest period in ln(wavelength).
    """

    #: Wavelength [Angstrom] at which all phases are zero.
    reference = 8000.0

    def __init__(self, embedding_dim, min_period=2e-5, max_period=2.2):
        super().__init__()
        self.embedding_dim, self.min_period, self.max_period = embedding_dim, min_period, max_period

    def forward(self, wavelength):
        """Encode wavelengths.

        Parameters
        ----------
        wavelength : torch.Tensor
            ``(...)`` [Angstrom, vacuum]; 0 gives a zero vector.

        Returns
        -------
        torch.Tensor
            ``(..., embedding_dim)`` float32, whatever the autocast.
        """
        device = wavelength.device
        wavelength = float64(wavelength)
        n_period = self.embedding_dim // 2
        step = torch.arange(n_period, dtype=torch.float64, device=wavelength.device) / max(n_period - 1, 1)
        period = self.max_period * (self.min_period / self.max_period) ** step
        # padding has wavelength 0, whose logarithm must not reach the phases
        x = torch.log(wavelength.clamp(min=1.0) / self.reference)
        return _interleave(2 * math.pi * x[..., None] / period, wavelength).to(device)


def _interleave(phase, wavelength):
    encoding = torch.stack((torch.sin(phase), torch.cos(phase)), dim=-1).flatten(-2)  # (..., embedding_dim)
    return torch.where(wavelength[..., None] > 0, encoding, 0.0).to(torch.float32)


def error_features(sigma):
    """Return how small errors are, and whether they are known.

    Parameters
    ----------
    sigma : torch.Tensor
        Standard deviations of standardised values, of any shape; NaN where not known.

    Returns
    -------
    precision, known : torch.Tensor
        Of the same shape, each 0 where they are not known.
    """
    known = torch.isfinite(sigma)
    # about -1.5 .. 1.5 for relative errors between 1e-4 and 1
    precision = (-torch.log(torch.where(known, sigma, 1.0).clamp(1e-4, 10.0)) - 4.0) / 3.0
    return torch.where(known, precision, 0.0), known.to(sigma.dtype)


class NonLinearEmbedding(nn.Module):
    """One vector a token: gelu(E[token] * value + B[token]).

    Parameters
    ----------
    n_row : int
        Rows of the embedding, padding not counted.
    embedding_dim : int
        Width.
    error_input : bool
        Add terms for the standard deviation of the value, where it is known.

    References
    ----------
    Leung & Bovy 2023 (arXiv:2308.10944), section 2.
    """

    def __init__(self, n_row, embedding_dim, *, error_input=False):
        super().__init__()
        self.embeddings = nn.Parameter(torch.empty(n_row + 1, embedding_dim))
        self.bias = nn.Parameter(torch.empty(n_row + 1, embedding_dim))
        self.error = nn.Parameter(torch.empty(2, embedding_dim).normal_(std=0.1)) if error_input else None
        nn.init.normal_(self.embeddings)
        nn.init.normal_(self.bias, std=0.1)
        with torch.no_grad():
            self.embeddings[0].zero_()
            self.bias[0].zero_()

    def forward(self, row, value, sigma=None):
        """Embed known tokens.

        Parameters
        ----------
        row : torch.Tensor
            ``(n_star, n_token)`` int64, 0 where padded.
        value, sigma : torch.Tensor
            ``(n_star, n_token)``, standardised; sigma NaN where not known.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_token, embedding_dim)``, zero where padded.
        """
        scale, offset = (nn.functional.embedding(row, table) for table in (self.embeddings, self.bias))
        x = scale * value[..., None] + offset  # (n_star, n_token, embedding_dim)
        if self.error is not None and sigma is not None:
            precision, known = error_features(sigma)
            x = x + torch.stack((precision, known), dim=-1).to(x.dtype) @ self.error
        return torch.where(row[..., None] > 0, nn.functional.gelu(x), 0.0)

    def request(self, row):
        """Embed requests: the vector of the token alone.

        Parameters
        ----------
        row : torch.Tensor
            ``(n_star, n_request)`` int64.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_request, embedding_dim)``.
        """
        return nn.functional.embedding(row, self.embeddings)
