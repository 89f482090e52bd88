"""Other networks than that of the weights, and what they make of the same stars.

Plain ones are trained on the same streams, by the same trainer. They see a spectrum on one
fixed grid of pixels, and predict all labels at once. What does not lie on the grid, and what
else is known of a star, they cannot use. Others are trained from scratch on a few stars.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .._tokens import spectra_to_tokens
from ..core import SpectraFM
from ..exceptions import InputValueError
from ..fine_tuning import FineTuneConfig
from ..stellarperceptron import (
    AugmentationConfig,
    FitConfig,
    ModelConfig,
    StellarPerceptron,
    TokenTable,
    Vocabulary,
)
from ..stellarperceptron.nn_utils import initial_weights
from ..stellarperceptron.table_stream import TableStream
from ..stellarperceptron.tokens import evenly
from ..stellarperceptron.trainer import Trainer
from ..training import (
    EmulatorSource,
    ObservedSource,
    RequestConfig,
    StarStream,
    StreamPart,
    load_recipe,
    recipe_names,
)
from .report import error_cells, label_arrays
from .stars import LABELS, SameStars, spectra_of_views

__all__ = ["GridNetwork", "Rival", "benchmark_networks", "network_from_scratch", "paper_config", "train_rival"]

_KINDS = ("perceptron", "convolutional")
# steps and stars a step that networks are trained for
_N_STAR, _STEPS, _BATCH = 256, 1500, 64
_VIEWS = ("S/N 20", "S/N 100", "S/N 100, half the range", "S/N 100, 10 % of pixels")
# pixels that the network of the paper reads
_PAPER_PIXELS = 256


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


def paper_config():
    """Return the architecture of the paper, narrower: pixels are tokens, some of them at random.

    Returns
    -------
    ModelConfig
    """
    return ModelConfig(
        context_length=_PAPER_PIXELS,
        embedding_dim=64,
        encoder_heads=(8, 4),
        encoder_dense=(256, 128),
        decoder_heads=(8, 4, 4),
        decoder_dense=(256, 128, 64),
        head_dense=(256, 128, 64),
        dropout=0.1,
        patch_size=1,
    )


def network_from_scratch(config, wavelength, flux, labels, flux_test, seed=0):
    """Train a transformer on a few stars and nothing else, and predict the labels of others.

    Parameters
    ----------
    config : ModelConfig
        Its architecture.
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum].
    flux : numpy.ndarray
        ``(n_star, n_pixel)`` fluxes over the continuum, finite, of the stars to train on.
    labels : dict of str to numpy.ndarray
        ``(n_star,)`` by label, of the stars to train on, ``"teff"`` among them.
    flux_test : numpy.ndarray
        ``(n_test, n_pixel)`` likewise, of the others.
    seed : int, optional
        Seed of the initial weights and of the training.

    Returns
    -------
    values, errors : dict of str to numpy.ndarray
        ``(n_test,)`` by label.
    """
    names = tuple(labels)
    values = np.stack([*labels.values()], axis=1)
    table = TokenTable(flux.astype(np.float32), wavelength, None, values, None, names, "flux")
    vocabulary = Vocabulary(["flux", *names], flux=["flux"], log=["teff"])
    vocabulary.fit(table, np.arange(len(flux)))
    model = StellarPerceptron(config, vocabulary, seed=seed)
    settings = FineTuneConfig()
    fit = FitConfig(
        steps=settings.steps, batch_size=settings.batch_size, learning_rate=1e-3, warmup_steps=20, ema_decay=0.95,
        validation_every=settings.steps, log_every=settings.steps, seed=seed,
    )  # fmt: skip
    augmentation = AugmentationConfig(drop_pixels=0.3, window=0.1)
    stream = TableStream(model, table, names, fit, augmentation=augmentation, validation=np.empty(0, dtype=int))
    if config.patch_size > 1:
        model.fit_patches(stream, n_step=4)
    model.fit(stream, config=fit)
    if config.patch_size == 1:
        chosen = evenly(np.ones(len(wavelength), dtype=bool), config.context_length)
        flux_test, wavelength = flux_test[:, chosen], wavelength[chosen]
    perception = model.perceive(flux_test, ["flux"] * len(wavelength), wavelength)
    found, sigmas = model.request(perception, names)
    return tuple({k: array[:, i] for i, k in enumerate(names)} for array in (found, sigmas))


def benchmark_networks(model=None, rivals=True, n_star=_N_STAR, steps=_STEPS):
    """Train other networks on the stream of synthetic stars in the H band that weights were trained on.

    A perceptron and a convolutional network, on a fixed grid of wavelengths, tell labels
    of the same stars as the weights.

    Parameters
    ----------
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    rivals : bool, optional
        Train the others.
    n_star : int, optional
        Synthetic stars to tell labels of.
    steps : int, optional
        Steps to train for, of 64 stars each.

    Yields
    ------
    str
        Lines of the report.
    """
    fm = SpectraFM.from_pretrained(model)
    stars = SameStars("apogee", n_star)
    views = {told: view for told, view in spectra_of_views(fm, stars).items() if told in _VIEWS}
    labels = [k for k in LABELS if k in fm.info.labels]
    yield f"apogee: {len(stars)} synthetic stars; error, share within 1 and 2 predicted sigma"
    yield f"  {'':<26}" + "".join(f"{k:>22}" for k in labels)
    yield f"  spectrafm, weights {fm.info.name!r}:"
    for told, spectra in views.items():
        yield f"  {told:<26}" + error_cells(
            labels, stars.truth, *label_arrays(fm.infer(spectra, labels=labels), labels)
        )
    if not rivals:
        return
    recipe = load_recipe(fm.info.name if fm.info.name in recipe_names() else "small")
    source = ObservedSource(
        EmulatorSource("apogee", recipe.sources["apogee"].n_pool, recipe.fit.seed),
        fm.model.vocabulary,
        fm.normalizer_of("apogee"),
        recipe.sources["apogee"].observation,
        RequestConfig(give_quantity=0.0, quantities_only=0.0, flux_requests=0),
    )
    stream = StarStream({"apogee": StreamPart(source)}, batch_size=_BATCH)
    config = FitConfig(steps=steps, batch_size=_BATCH, warmup_steps=min(300, steps), ema_decay=0.999)
    for kind in ("perceptron", "convolutional"):
        start = time.perf_counter()
        rival = train_rival(kind, stream, fm.model.vocabulary, config)
        minutes = (time.perf_counter() - start) / 60
        yield f"  {kind} network on the same stream, {steps * _BATCH:,} stars, {minutes:.0f} minutes:"
        for told, spectra in views.items():
            yield f"  {told:<26}" + error_cells(labels, stars.truth, *rival.infer(spectra))
