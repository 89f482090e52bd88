"""Plain networks to compare with: trained on the same streams, by the same trainer.

They see a spectrum on one fixed grid of pixels, and answer all labels at once. What does
not lie on the grid, and what else is known of a star, they cannot use.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ._tokens import spectra_to_tokens
from .exceptions import InputValueError
from .stellarperceptron.nn_utils import initial_weights
from .stellarperceptron.trainer import Trainer

__all__ = ["GridNetwork", "Rival", "train_rival"]

_KINDS = ("perceptron", "convolutional")


class GridNetwork(nn.Module):
    """A perceptron, or a convolutional network, on a grid even in ln(wavelength).

    Parameters
    ----------
    kind : {"perceptron", "convolutional"}
        Which of the two.
    wavelength_range : tuple of float
        Ends of the grid [Angstrom].
    n_pixel : int
        Pixels of the grid.
    n_label : int
        Number of labels.
    flux_token : int
        Token of a pixel.
    """

    def __init__(self, kind, wavelength_range, n_pixel, n_label, flux_token):
        super().__init__()
        if kind not in _KINDS:
            raise InputValueError(f"kind: {kind!r}; expected one of {', '.join(_KINDS)}")
        self.first, last = np.log(wavelength_range)
        self.step = (last - self.first) / n_pixel
        self.n_pixel, self.flux_token = n_pixel, flux_token
        if kind == "perceptron":
            # flux, and where there is any
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(2 * n_pixel, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU()
            )
            width = 512
        else:
            channels, layers = (2, 32, 64, 128, 128), []
            for n_in, n_out in zip(channels[:-1], channels[1:], strict=True):
                layers += [nn.Conv1d(n_in, n_out, 9, padding=4), nn.GELU(), nn.MaxPool1d(4)]
            width = channels[-1] * (n_pixel // 4 ** (len(channels) - 1))
            self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 512), nn.GELU())
            width = 512
        self.head = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 2 * n_label))

    def forward(self, tokens, request_token, request_wavelength):
        """Answer all labels.

        Parameters
        ----------
        tokens : Tokens
            A batch.
        request_token, request_wavelength : torch.Tensor
            ``(n_star, n_label)``, the labels in their order; not looked at.

        Returns
        -------
        prediction, log_variance : torch.Tensor
            ``(n_star, n_label)``, standardised.
        """
        pixel = tokens.token == self.flux_token
        x = torch.log(torch.where(pixel, tokens.wavelength, 1.0))
        place = ((x - self.first) / self.step).floor().long()
        inside = pixel & (place >= 0) & (place < self.n_pixel)
        place = place.clamp(0, self.n_pixel - 1)
        share = inside.to(tokens.value)
        total = tokens.value.new_zeros(len(pixel), 2, self.n_pixel)
        total.scatter_add_(2, torch.stack((place, place), 1), torch.stack((tokens.value * share, share), 1))
        flux = total[:, 0] / total[:, 1].clamp(min=1)
        grid = torch.stack((flux, (total[:, 1] > 0).to(flux)), dim=1)  # (n_star, 2, n_pixel)
        return self.head(self.body(grid)).chunk(2, dim=-1)


@dataclass
class Rival:
    """A trained network, and what it takes to use it.

    Attributes
    ----------
    network : GridNetwork
        The network.
    vocabulary : Vocabulary
        Standardisation.
    normalizer : ContinuumNormalizer
        What spectra are divided by.
    labels : tuple of str
        Labels in the order of the answers.
    flux_kind : str
        Kind of flux.
    log : list of dict
        Of the training.
    """

    network: GridNetwork
    vocabulary: object
    normalizer: object
    labels: tuple
    flux_kind: str
    log: list

    def infer(self, spectra):
        """Return labels and errors.

        Parameters
        ----------
        spectra : list of SpectrumArrays
            Not normalised.

        Returns
        -------
        values, errors : dict of str to numpy.ndarray
            ``(n_star,)`` by label.
        """
        found = []
        for start in range(0, len(spectra), 256):
            normal = [self.normalizer(star) for star in spectra[start : start + 256]]
            with torch.inference_mode():
                tokens = spectra_to_tokens(normal, self.vocabulary, flux_kind=self.flux_kind)
                answer, log_variance = (a.double().numpy() for a in self.network.eval()(tokens, None, None))
            token = np.broadcast_to(self.vocabulary.tokens(self.labels), answer.shape)
            found.append(self.vocabulary.destandardize(token, answer, np.exp(0.5 * log_variance)))
        values, errors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return tuple({k: array[:, i] for i, k in enumerate(self.labels)} for array in (values, errors))


@dataclass
class _Model:
    """What the trainer asks of a model."""

    torch_model: GridNetwork
    vocabulary: object
    config: object
    device: torch.device


@dataclass
class _Settings:
    kind: str
    n_pixel: int

    def to_dict(self):
        return {"kind": self.kind, "n_pixel": self.n_pixel}


def train_rival(kind, stream, vocabulary, config, *, n_pixel=8192, progress=False):
    """Train a plain network on a stream of one source that asks for labels alone.

    Parameters
    ----------
    kind : {"perceptron", "convolutional"}
        Which network.
    stream : StarStream
        With one `ObservedSource`, no flux among its requests.
    vocabulary : Vocabulary
        Standardised.
    config : FitConfig
        Steps, learning rate and seed.
    n_pixel : int, optional
        Pixels of its grid.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Rival
    """
    [part] = stream.parts.values()
    source = part.source
    with initial_weights(config.seed):
        token = vocabulary.tokens(source.flux_name).item()
        network = GridNetwork(kind, source.source.wavelength_range, n_pixel, len(source.targets), token)
    network.to(stream.device)
    model = _Model(network, vocabulary, _Settings(kind, n_pixel), stream.device)
    log = Trainer(model, stream, config, progress=progress).run()
    return Rival(network.cpu(), vocabulary, source.normalizer, source.targets, source.flux_name, log)
