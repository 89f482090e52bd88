"""`StellarPerceptron`: perceive what is known, request what is wanted."""

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from ..exceptions import InputValueError
from .config import FitConfig, check_type
from .layers import Memory
from .model_core import StellarPerceptronCore
from .precision import float64_device
from .reference import read_reference
from .table_stream import TableStream
from .tokens import TokenTable, as_native
from .trainer import Trainer

__all__ = ["Perception", "StellarPerceptron"]

# requests, of all stars, that are decoded together, for the sake of memory
_MOST_REQUESTS = 32_768
# and fluxes alone on a CPU, whose cache holds what is computed for so many
_MOST_FLUXES = 4096


@dataclass
class Perception:
    """What a model made of a batch of stars; ask `StellarPerceptron.request` about it.

    Attributes
    ----------
    memory : Memory
        Encoder output and the decoder's keys and values, on the model's device.
    empty : numpy.ndarray
        ``(n_star,)`` bool, stars of which nothing at all was known.
    made_by : int, optional
        Tells the weights that made it from others, which it is not for.
    """

    memory: Memory
    empty: np.ndarray
    made_by: int | None = None

    def __len__(self):
        """Return the number of stars."""
        return len(self.empty)

    @property
    def vectors(self):
        """Encoder output, ``(n_star, n_token, embedding_dim)`` float32 on the CPU."""
        return self.memory.vectors.float().cpu()

    @property
    def pooled(self):
        """Mean over the tokens of each star, ``(n_star, embedding_dim)`` float32; NaN for empty stars."""
        pooled = self.memory.pooled.cpu().numpy()
        pooled[self.empty] = np.nan
        return pooled

    @property
    def attention(self):
        """Encoder attention of each block, ``(n_star, n_token, n_token)``; empty unless asked for."""
        return [weights.float().cpu().numpy() for weights in self.memory.attention]


class StellarPerceptron(StellarPerceptronCore):
    """An encoder-decoder transformer for stars: any tokens in, any tokens out.

    The model of Koblischke & Bovy 2024 (arXiv:2411.04750) and Leung & Bovy 2023
    (arXiv:2308.10944), and this package's own configurations of it: one class,
    by `ModelConfig` alone.

    Parameters
    ----------
    config : ModelConfig
        The architecture.
    vocabulary : Vocabulary
        Names of tokens and their standardisation.
    device : str or torch.device, optional
        ``"cpu"``, ``"cuda"``, ``"mps"``, ...
    seed : int, optional
        Seed of the initial weights.

    Examples
    --------
    >>> from spectrafm.stellarperceptron import ModelConfig, StellarPerceptron, Vocabulary
    >>> model = StellarPerceptron(ModelConfig(patch_size=1), Vocabulary(["flux", "teff"], flux=["flux"]))
    >>> perception = model.perceive([[1.0, 0.9]], ["flux", "flux"], [16000.0, 16000.2])
    >>> prediction, sigma = model.request(perception, ["teff"])
    >>> prediction.shape
    (1, 1)
    """

    def perceive(self, inputs, names, wavelengths=None, sigmas=None, need_attention=False):
        """Encode whatever is known of a batch of stars.

        Parameters
        ----------
        inputs : array_like
            ``(n_star, n_token)`` values in physical units (flux normalised as
            the model expects); NaN is not known.
        names : array_like of str
            ``(n_token,)`` or ``(n_star, n_token)`` name of each value.
        wavelengths : array_like, optional
            ``(n_token,)`` or ``(n_star, n_token)`` [Angstrom, vacuum, rest
            frame]; 0 or NaN for what has none.
        sigmas : array_like, optional
            ``(n_star, n_token)`` standard deviations; NaN is not known.
        need_attention : bool, optional
            Keep the attention weights of the encoder.

        Returns
        -------
        Perception
            Held by the caller; the model keeps nothing.

        Raises
        ------
        InputValueError
            Unknown names, shapes that do not agree, more values than the context holds.
        """
        tokens = self.tokenize(inputs, names, wavelengths, sigmas)
        return self.perceive_tokens(tokens, need_attention)

    def perceive_tokens(self, tokens, need_attention=False):
        """Encode a padded batch of tokens.

        Parameters
        ----------
        tokens : Tokens
            From `tokenize`.
        need_attention : bool, optional
            Keep the attention weights of the encoder.

        Returns
        -------
        Perception
        """
        empty = tokens.pad_mask.all(dim=1).cpu().numpy()
        self.torch_model.eval()
        # first, as reading it from a GPU waits for all that was started there
        made_by = self._identity()
        with torch.inference_mode():
            memory = self.torch_model.encode(tokens.to(self.device), need_attention)
        return Perception(memory, empty, made_by)

    def _identity(self):
        """Return a number that other weights do not have: training changes it, copies and devices do not."""
        return zlib.crc32(self.torch_model.embedding_layer.embeddings.detach().cpu().numpy())

    def request(self, perception, names, wavelengths=None):
        """Ask for labels, or for flux at wavelengths, of perceived stars.

        All requests go in one call; asking one by one gives the same answers.

        Parameters
        ----------
        perception : Perception
            From `perceive`.
        names : sequence of str
            ``(n_request,)`` names of what is wanted.
        wavelengths : array_like, optional
            ``(n_request,)`` or ``(n_star, n_request)`` [Angstrom, vacuum, rest
            frame] where flux is wanted; those of quantities do not matter.

        Returns
        -------
        prediction, sigma : numpy.ndarray
            ``(n_star, n_request)`` float64 in physical units; NaN for stars of
            which nothing was known.

        Raises
        ------
        InputTypeError
            Something else than a perception.
        InputValueError
            Unknown names, flux requested without a wavelength, or a perception of other weights.
        """
        token, prediction, sigma = self.request_standardized(perception, names, wavelengths)
        return self.vocabulary.destandardize(np.broadcast_to(token, prediction.shape), prediction, sigma)

    def request_standardized(self, perception, names, wavelengths=None):
        """Answer as `request` does, in standardised units.

        Parameters
        ----------
        perception, names, wavelengths
            As for `request`.

        Returns
        -------
        token : numpy.ndarray
            ``(n_request,)`` int64.
        prediction, sigma : numpy.ndarray
            ``(n_star, n_request)`` float64, standardised.
        """
        token, wavelength = self._check_request(perception, names, wavelengths)
        prediction, log_variance, _ = self._decode(perception, token, wavelength, False)
        sigma = np.exp(0.5 * log_variance)
        prediction[perception.empty], sigma[perception.empty] = np.nan, np.nan
        return token, prediction, sigma

    def request_attention(self, perception, names, wavelengths=None):
        """Return where each request looked.

        Parameters
        ----------
        perception, names, wavelengths
            As for `request`.

        Returns
        -------
        numpy.ndarray
            ``(n_block, n_star, n_request, n_token)`` float64, mean over heads.
        """
        token, wavelength = self._check_request(perception, names, wavelengths)
        _, _, weights = self._decode(perception, token, wavelength, True)
        return np.stack([w.cpu().double().numpy() for w in weights])

    def _check_request(self, perception, names, wavelengths):
        check_type("perception", perception, Perception)
        if perception.made_by not in (None, self._identity()):
            raise InputValueError(
                "perception: of another model, or of this one before it was trained; expected what its perceive returns"
            )
        names = np.atleast_1d(np.asarray(names, dtype=str))
        if names.ndim > 1:
            raise InputValueError(f"names: shape {names.shape}, expected a list of names")
        token = self.vocabulary.tokens(names, "names")
        wavelength = np.zeros(len(names)) if wavelengths is None else as_native(wavelengths, np.float64)
        if wavelength.shape not in (names.shape, (len(perception), *names.shape)):
            raise InputValueError(f"wavelengths: shape {wavelength.shape}, expected one a name, {names.shape}")
        wavelength = np.where(np.isfinite(wavelength), wavelength, 0.0)
        there = np.atleast_2d(wavelength > 0).all(axis=0)
        is_flux = np.isin(names, self.vocabulary.flux)
        if (is_flux & ~there).any():
            nowhere = str(names[is_flux & ~there][0])
            raise InputValueError(f"wavelengths: {nowhere!r} is asked for without a wavelength; give one [Angstrom]")
        # where the vocabulary says what is a flux, nothing else is at a wavelength
        return token, np.where(is_flux, wavelength, 0.0) if self.vocabulary.flux else wavelength

    def _decode(self, perception, token, wavelength, need_weights):
        n_star = len(perception)
        token = torch.from_numpy(token).to(self.device).expand(n_star, -1)
        wavelength = torch.from_numpy(wavelength).to(float64_device(self.device)).expand(n_star, -1)
        # labels are looked at together, see `Readout`, and again in each part: they go in as few as memory allows
        fluxes = self.device.type == "cpu" and bool((wavelength > 0).all())
        n_together = max((_MOST_FLUXES if fluxes else _MOST_REQUESTS) // max(n_star, 1), 1)
        answers = []
        with torch.inference_mode():
            for start in range(0, max(token.shape[1], 1), n_together):
                some = slice(start, start + n_together)
                answers.append(
                    self.torch_model.decode(perception.memory, token[:, some], wavelength[:, some], need_weights)
                )
        prediction, log_variance = (
            torch.cat([answer[i] for answer in answers], dim=1).cpu().double().numpy() for i in (0, 1)
        )
        blocks = zip(*(answer[2] for answer in answers), strict=True) if need_weights else ()
        return prediction, log_variance, [torch.cat(parts, dim=1) for parts in blocks]

    def fit(
        self,
        stars,
        targets=None,
        config=None,
        *,
        augmentation=None,
        divisor=None,
        validation=None,
        folder=None,
        resume=False,
        progress=False,
    ):
        """Train on a table, or a stream, of stars.

        Any quantity of the table may be a target; every known value may be an
        input. Run under ``torchrun`` it trains on all processes with equal
        replicas; otherwise it needs no process group.

        Parameters
        ----------
        stars : TokenTable, StarStream or AheadStream
            Spectra and quantities; a stream draws its own.
        targets : str or sequence of str, optional
            Quantities to learn to predict; needed with a table.
        config : FitConfig, optional
            Steps, learning rate, seed and the rest.
        augmentation, divisor, validation
            Of the table, see `TableStream`.
        folder, resume, progress
            Checkpoints, log and progress bar, see `Trainer`.

        Returns
        -------
        list of dict
            The log: one entry a line of ``log.csv``.

        Raises
        ------
        InputValueError
            A table without targets or without pixels, targets that are not in it or hold numbers that
            they cannot have, validation stars that are not in it; a stream beside what only a table
            needs; ``resume`` without a folder.
        InputTypeError
            A configuration of another type.
        TrainingError
            A loss or gradient that is not finite.
        CheckpointError
            ``resume`` with a checkpoint that is damaged, or of another configuration, table or split.
        """
        config = FitConfig() if config is None else config
        settings = {"augmentation": augmentation, "divisor": divisor, "validation": validation}
        if isinstance(stars, TokenTable):
            if not targets:
                raise InputValueError("targets: none; expected names of the table to train, such as ['teff', 'logg']")
            stars = TableStream(self, stars, targets, config, **settings)
        elif stray := [name for name, value in {"targets": targets, **settings}.items() if value is not None]:
            raise InputValueError(f"{', '.join(stray)}: only with a TokenTable; a stream has these in itself")
        return Trainer(self, stars, config, folder=folder, resume=resume, progress=progress).run()

    @classmethod
    def from_reference(cls, folder, device="cpu"):
        """Read a checkpoint of the published SpectraFM code.

        Parameters
        ----------
        folder : str or pathlib.Path
            With ``config.json``, ``weights.pt`` and ``embed_map.npz``.
        device : str or torch.device, optional
            Where to run.

        Returns
        -------
        StellarPerceptron
            Gives the answers of the published code.

        Raises
        ------
        CheckpointError
            Files that are missing or do not fit together.
        """
        config, vocabulary, state = read_reference(folder)
        model = cls(config, vocabulary, device)
        model.load_state(state)
        return model
