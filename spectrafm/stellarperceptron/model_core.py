"""Vocabulary, standardisation, tokenisation, and the files on disk."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .._storage import atomic_write, from_bytes, to_bytes
from ..exceptions import CheckpointError, ConfigError, InputValueError
from .config import ModelConfig
from .layers import StellarPerceptronTorchModel
from .tokens import Tokens, as_native

__all__ = ["StellarPerceptronCore", "Vocabulary"]

# format of what is written; in the first, patches of all widths are whitened in the precision of the parameters
_FORMAT = 2
_READ = (1, _FORMAT)
_COMPONENTS = "patch_layer.components"


class Vocabulary:
    """Names of tokens and their standardisation, frozen once it is set.

    Parameters
    ----------
    names : sequence of str
        Names; token ``i + 1`` is ``names[i]``, token 0 is padding.
    flux : sequence of str, optional
        Which of them are the flux of a pixel.
    log : sequence of str, optional
        Names whose logarithm is standardised (positive quantities).
    rows : sequence of int, optional
        Row of the embedding of each name; one of its own when left out.
    mean, std : array_like, optional
        Standardisation of each name; 0 and 1 when left out.
    fitted : bool, optional
        Whether the standardisation is final; by default, whether it was given.

    Raises
    ------
    ConfigError
        Repeated names, or arrays of another length.
    """

    def __init__(self, names, flux=(), log=(), rows=None, mean=None, std=None, fitted=None):
        self.names = tuple(str(name) for name in names)
        self.flux, self.log = tuple(flux), tuple(log)
        n_name = len(self.names)
        problems = []
        if len(set(self.names)) != n_name:
            problems.append("names are repeated")
        problems += [f"{n!r} is not among the names" for n in (*self.flux, *self.log) if n not in self.names]
        given = {"rows": rows, "mean": mean, "std": std}
        problems += [
            f"{k} has {len(v)} entries for {n_name} names"
            for k, v in given.items()
            if v is not None and len(v) != n_name
        ]
        if problems:
            raise ConfigError("Vocabulary: " + "; ".join(problems))
        self.fitted = (mean is not None) if fitted is None else bool(fitted)
        self._token = {name: i for i, name in enumerate(self.names, start=1)}
        self.rows = np.concatenate(
            ([0], np.arange(1, n_name + 1) if rows is None else np.asarray(rows, dtype=np.int64))
        )
        self.mean = np.concatenate(([0.0], np.zeros(n_name) if mean is None else np.asarray(mean, dtype=np.float64)))
        self.std = np.concatenate(([1.0], np.ones(n_name) if std is None else np.asarray(std, dtype=np.float64)))
        self.is_log = np.array([False, *(name in self.log for name in self.names)])

    def __contains__(self, name):
        """Whether there is a token of this name."""
        return name in self._token

    def __len__(self):
        """Return the number of names."""
        return len(self.names)

    def tokens(self, names, argument="names"):
        """Return the tokens of names.

        Parameters
        ----------
        names : array_like of str
            Any shape.
        argument : str, optional
            Name of the user's argument, for the error message.

        Returns
        -------
        numpy.ndarray
            int64, of the same shape.

        Raises
        ------
        InputValueError
            A name without a token; the message lists the known ones.
        """
        names = np.asarray(names, dtype=str)
        unique, inverse = np.unique(names, return_inverse=True)
        unknown = [str(name) for name in unique if name not in self._token]
        if unknown:
            raise InputValueError(f"{argument}: {unknown} not known to this model; known are: {', '.join(self.names)}")
        return np.array([self._token[name] for name in unique], dtype=np.int64)[inverse].reshape(names.shape)

    def standardize(self, token, value):
        """Return standardised values.

        Parameters
        ----------
        token, value : array_like
            Tokens and physical values of one shape.

        Returns
        -------
        numpy.ndarray
            float64; NaN stays NaN, and the logarithm of what is not positive is NaN.
        """
        value = np.asarray(value, dtype=np.float64)
        is_log = self.is_log[token]
        if is_log.any():
            logarithm = np.log(np.where(is_log & (value > 0), value, 1.0))
            value = np.where(is_log, np.where(value > 0, logarithm, np.nan), value)
        return (value - self.mean[token]) / self.std[token]

    def standardize_sigma(self, token, value, sigma):
        """Return standardised errors.

        Parameters
        ----------
        token, value, sigma : array_like
            Tokens, physical values and their errors, of one shape.

        Returns
        -------
        numpy.ndarray
            float64; NaN stays NaN.
        """
        sigma = np.asarray(sigma, dtype=np.float64)
        is_log = self.is_log[token]
        if is_log.any():
            sigma = np.where(is_log, sigma / np.where(is_log, value, 1.0), sigma)
        return sigma / self.std[token]

    def destandardize(self, token, value, sigma):
        """Return physical values and errors.

        Parameters
        ----------
        token, value, sigma : array_like
            Tokens, standardised values and errors, of one shape.

        Returns
        -------
        value, sigma : numpy.ndarray
            float64, physical.
        """
        value = np.asarray(value, dtype=np.float64) * self.std[token] + self.mean[token]
        sigma = np.asarray(sigma, dtype=np.float64) * self.std[token]
        is_log = self.is_log[token]
        if is_log.any():
            value = np.where(is_log, np.exp(np.where(is_log, value, 0.0)), value)
            sigma = np.where(is_log, sigma * value, sigma)
        return value, sigma

    def scale(self, name):
        """Return how one quantity is standardised.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        mean, std : float
            Of the value, or of its logarithm.
        is_log : bool
            Whether it is the logarithm that is standardised.
        """
        token = self.tokens(name).item()
        return float(self.mean[token]), float(self.std[token]), bool(self.is_log[token])

    def make_tokens(self, token, value, sigma, wavelength):
        """Standardise and pack a batch; what is not known becomes padding.

        Parameters
        ----------
        token : numpy.ndarray
            ``(n_star, n_token)`` int64, 0 where padded.
        value, sigma : numpy.ndarray
            ``(n_star, n_token)`` physical values and errors, NaN where not known.
        wavelength : numpy.ndarray
            ``(n_star, n_token)`` float64 [Angstrom]; 0 or NaN for none.

        Returns
        -------
        Tokens
            Of the same shape, on the CPU.
        """
        standardized = self.standardize(token, value)
        wavelength = np.nan_to_num(np.asarray(wavelength, dtype=np.float64), nan=0.0)
        there = (token != 0) & np.isfinite(standardized)
        # the flux of a pixel that is nowhere says nothing
        there &= ~self._flux_mask[token] | (wavelength > 0)
        sigma = self.standardize_sigma(token, value, sigma)
        sigma = np.where(there & np.isfinite(sigma) & (sigma >= 0), sigma, np.nan)
        return Tokens(
            torch.from_numpy(np.where(there, token, 0)),
            torch.from_numpy(np.where(there, standardized, 0.0).astype(np.float32)),
            torch.from_numpy(sigma.astype(np.float32)),
            torch.from_numpy(np.where(there, wavelength, 0.0)),
        )

    @property
    def _flux_mask(self):
        return np.array([False, *(name in self.flux for name in self.names)])

    def fit(self, table, stars):
        """Set mean and standard deviation from the training stars.

        Parameters
        ----------
        table : TokenTable
            Normalised spectra and quantities.
        stars : array_like of int
            The training stars.
        """
        sample = np.asarray(stars)[:: max(len(stars) // 4096, 1)]
        for name in self.names:
            if name in self.flux:
                values = np.asarray(table.flux[sample], dtype=np.float64)
                if not isinstance(table.flux_name, str):
                    values = values[:, np.asarray(table.flux_name) == name]
            elif name in table.names:
                values = table.column(name)[stars]
            else:
                continue
            self.fit_name(name, [values])
        self.fitted = True

    def fit_name(self, name, samples):
        """Set mean and standard deviation of one name.

        Parameters
        ----------
        name : str
            The name.
        samples : list of numpy.ndarray
            Values, each set of which counts alike, however long it is; NaN is left out.
        """
        token = self._token[name]
        moments = []
        for values in samples:
            values = np.asarray(values, dtype=np.float64)
            values = values[np.isfinite(values)]
            values = np.log(values[values > 0]) if name in self.log else values
            if values.size:
                moments.append((values.mean(), values.var(), np.abs(values).max()))
        if moments:
            means, variances, largest = np.array(moments).T
            self.mean[token] = means.mean()
            spread = np.sqrt(variances.mean() + means.var())
            # a constant (a code that is always 1) keeps its scale
            self.std[token] = spread if spread > 1e-6 * largest.max() else 1.0

    def to_dict(self):
        """Return everything as plain JSON types.

        Returns
        -------
        dict
        """
        return {
            "names": list(self.names),
            "flux": list(self.flux),
            "log": list(self.log),
            "rows": self.rows[1:].tolist(),
            "mean": self.mean[1:].tolist(),
            "std": self.std[1:].tolist(),
            "fitted": self.fitted,
        }


class StellarPerceptronCore:
    """What a model is made of: configuration, vocabulary, weights, device.

    Parameters
    ----------
    config : ModelConfig
        The architecture.
    vocabulary : Vocabulary
        Names and standardisation.
    device : str or torch.device, optional
        Where to run.
    seed : int, optional
        Seed of the initial weights.
    """

    def __init__(self, config, vocabulary, device="cpu", seed=0):
        self.config, self.vocabulary = config, vocabulary
        self.device = torch.device(device)
        flux_tokens = vocabulary.tokens(vocabulary.flux) if vocabulary.flux else ()
        stray = [name for name in config.readout_labels if name not in vocabulary or name in vocabulary.flux]
        if stray:
            raise ConfigError(
                f"readout_labels: {stray} are no quantities of this model; name some of {vocabulary.names}"
            )
        readout_tokens = vocabulary.tokens(config.readout_labels) if config.readout_labels else ()
        # the initialisers of torch know only the global generator of the CPU: borrow it and give it back
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.torch_model = StellarPerceptronTorchModel(config, vocabulary.rows, flux_tokens, readout_tokens)
        self.torch_model.to(self.device).eval()

    @property
    def n_parameter(self):
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.torch_model.parameters())

    def to(self, device):
        """Move the model.

        Parameters
        ----------
        device : str or torch.device
            Where to.

        Returns
        -------
        StellarPerceptronCore
            Itself.
        """
        self.device = torch.device(device)
        self.torch_model.to(self.device)
        return self

    @torch.inference_mode()
    def fit_patches(self, stream, n_step=16):
        """Set the whitening of the patches from training batches.

        Parameters
        ----------
        stream : TableStream or StarStream
            Draws them, noise and all.
        n_step : int, optional
            Number of steps whose batches are used.
        """
        layer = self.torch_model.patch_layer
        if layer is None:
            return
        flux = self.vocabulary.tokens(self.vocabulary.flux)
        zero = torch.from_numpy(-self.vocabulary.mean[flux] / self.vocabulary.std[flux])
        layer.flux_zero.copy_(zero.reshape(layer.flux_zero.shape))

        def patches():
            for step in range(n_step):
                for _, _, batch in stream.batches(step):
                    tokens = batch.tokens.to(self.device)
                    pixel, kind = self.torch_model.pixels(tokens.token)
                    features, center, width = layer.features(tokens.value, tokens.sigma, tokens.wavelength, pixel, kind)
                    there = center > 0
                    yield features[there.to(features.device)], width.broadcast_to(center.shape)[there]

        layer.set_components(patches())

    def tokenize(self, inputs, names, wavelengths=None, sigmas=None):
        """Turn arrays into a padded batch of tokens.

        Parameters
        ----------
        inputs : array_like
            ``(n_star, n_token)`` known values in physical units (flux
            normalised as the model expects); NaN is not known.
        names : array_like of str
            ``(n_token,)`` or ``(n_star, n_token)`` name of each.
        wavelengths : array_like, optional
            ``(n_token,)`` or ``(n_star, n_token)`` [Angstrom, vacuum, rest
            frame]; 0 or NaN for what has none.
        sigmas : array_like, optional
            ``(n_star, n_token)`` standard deviations; NaN is not known.

        Returns
        -------
        Tokens

        Raises
        ------
        InputValueError
            Unknown names, shapes that do not agree, too many tokens.
        """
        inputs = as_native(np.atleast_2d(inputs), np.float64)

        def spread(name, array, dtype):
            array = np.asarray(array) if dtype is None else as_native(array, dtype)
            if array.shape not in (inputs.shape, inputs.shape[1:]):
                raise InputValueError(
                    f"{name}: shape {array.shape}, expected {inputs.shape} or {inputs.shape[1:]} as of inputs"
                )
            return np.broadcast_to(array, inputs.shape)

        token = self.vocabulary.tokens(spread("names", names, None))
        wavelengths = np.zeros(inputs.shape) if wavelengths is None else spread("wavelengths", wavelengths, np.float64)
        sigmas = np.full(inputs.shape, np.nan) if sigmas is None else spread("sigmas", sigmas, np.float64)
        tokens = self.vocabulary.make_tokens(token, inputs, sigmas, wavelengths)
        if self.config.patch_size == 1:
            n_most = int((tokens.token != 0).sum(dim=1).max()) if len(tokens) else 0
            if n_most > self.config.context_length:
                raise InputValueError(
                    f"inputs: {n_most} known values of a star, the context holds {self.config.context_length}; "
                    "give fewer columns (a random subset of pixels, as in training) or use a longer context"
                )
        return tokens.compact(self.config.context_length if self.config.pad_to_context else None)

    def save(self, folder, half=False):
        """Write ``config.json`` and ``model.safetensors``.

        Parameters
        ----------
        folder : str or pathlib.Path
            Made if it does not exist.
        half : bool, optional
            Store parameters in half precision, and what whitens patches of all widths but the largest
            in eight bits; what moves answers by some hundredths of their error (other buffers keep theirs).
        """
        folder = Path(folder)
        self.write_config(folder)
        state = {k: v.detach().cpu() for k, v in self.torch_model.state_dict().items()}
        if half:
            parameters = {name for name, _ in self.torch_model.named_parameters()}
            state = _pack(state) | {k: state[k].half() for k in parameters}
        state = {k: v.contiguous() for k, v in state.items()}
        atomic_write(folder / "model.safetensors", lambda path: save_file(state, path))

    def write_config(self, folder):
        """Write ``config.json``, without weights.

        Parameters
        ----------
        folder : str or pathlib.Path
            Made if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"format": _FORMAT, "model": self.config.to_dict(), "vocabulary": self.vocabulary.to_dict()}
        atomic_write(folder / "config.json", lambda path: path.write_text(json.dumps(settings, indent=1) + "\n"))

    @classmethod
    def load(cls, folder, device="cpu"):
        """Read what `save` wrote.

        Parameters
        ----------
        folder : str or pathlib.Path
            The folder.
        device : str or torch.device, optional
            Where to run.

        Returns
        -------
        StellarPerceptronCore

        Raises
        ------
        CheckpointError
            Missing, damaged or mismatched files.
        """
        folder = Path(folder)
        config, vocabulary = read_config(folder)
        state = read_tensors(folder / "model.safetensors")
        try:
            state = _unpack(state)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"folder: {folder} is damaged ({error}); get the files again") from error
        model = cls(config, vocabulary, device)
        model.load_state(state)
        return model

    def start_from(self, other):
        """Take over the weights of another model, but for what only one of the two has.

        Parameters
        ----------
        other : StellarPerceptronCore
            Left as it is.
        """
        own, theirs = self.torch_model.state_dict(), other.torch_model.state_dict()
        self.torch_model.load_state_dict({k: theirs.get(k, v) for k, v in own.items()})

    def load_state(self, state):
        """Set all weights.

        Parameters
        ----------
        state : dict of str to torch.Tensor
            Half precision is turned into single.

        Raises
        ------
        CheckpointError
            Names or shapes that do not fit.
        """
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        try:
            self.torch_model.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"weights do not fit the configuration: {error}") from error


def read_config(folder):
    """Read what `StellarPerceptronCore.write_config` wrote.

    Parameters
    ----------
    folder : pathlib.Path
        The folder.

    Returns
    -------
    config : ModelConfig
    vocabulary : Vocabulary

    Raises
    ------
    CheckpointError
        A file that is missing, damaged, or of another version.
    """
    try:
        settings = json.loads((folder / "config.json").read_text())
        if settings["format"] in _READ:
            return ModelConfig.from_dict(settings["model"]), Vocabulary(**settings["vocabulary"])
    except FileNotFoundError as error:
        raise CheckpointError(
            f"folder: {error.filename} not found; expected a folder with config.json and model.safetensors"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"folder: {folder} is damaged ({error}); get the files again") from error
    raise CheckpointError(
        f"folder: {folder} has format {settings['format']}, this version reads "
        f"{' and '.join(str(n) for n in _READ)}; update spectrafm"
    )


def read_tensors(path):
    """Read tensors.

    Parameters
    ----------
    path : pathlib.Path
        A safetensors file.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    CheckpointError
        A file that is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"folder: {path} not found; get the files again") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"folder: {path} is damaged ({error}); get the files again") from error


def _pack(state):
    """Return weights with what whitens patches in few bits: the widest in half precision, the others in bytes."""
    components = state.get(_COMPONENTS)
    if components is None:
        return state
    if components.ndim == 2:
        return state | {_COMPONENTS: components.half()}
    # of the widest, Gaia XP asks for the differences of large numbers
    byte, scale = to_bytes(components[1:], dim=1)
    return state | {_COMPONENTS: components[:1].half(), f"{_COMPONENTS}_byte": byte, f"{_COMPONENTS}_scale": scale}


def _unpack(state):
    """Return what `_pack` made, as it was."""
    if f"{_COMPONENTS}_byte" not in state:
        return state
    byte, scale = (state.pop(f"{_COMPONENTS}_{name}") for name in ("byte", "scale"))
    return state | {_COMPONENTS: torch.cat((state[_COMPONENTS].float(), from_bytes(byte, scale)))}
