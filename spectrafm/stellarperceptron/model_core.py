"""A network with its vocabulary: tokenisation, and the files on disk."""

import json
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .._storage import from_bytes, matrix_from_bytes, matrix_to_bytes, to_bytes, write_json, write_tensors
from ..exceptions import CheckpointError, ConfigError, InputTypeError, InputValueError
from .config import ModelConfig, check_type
from .growth import grown_state
from .layers import StellarPerceptronTorchModel
from .nn_utils import initial_weights
from .tokens import as_native
from .vocabulary import Vocabulary

__all__ = ["StellarPerceptronCore", "named_bytes", "read_config", "read_tensors", "split_bytes"]

# format of what is written; in the first two, all parameters are in one precision, in the first what whitens is, too
_FORMAT = 3
_READ = (1, 2, _FORMAT)
# what spectra depend on beside labels
_POWER = "ln_resolving_power"
# matrices with fewer numbers stay in half precision
_LARGE = 10_000


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

    Raises
    ------
    InputTypeError
        A configuration or a vocabulary of another type.
    InputValueError
        A seed that is none, or a device that is not there.
    """

    def __init__(self, config, vocabulary, device="cpu", seed=0):
        check_type("config", config, ModelConfig)
        check_type("vocabulary", vocabulary, Vocabulary)
        if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
            raise InputValueError(f"seed: {seed!r}, expected an integer of 0 or more")
        self.config, self.vocabulary = config, vocabulary
        flux_tokens = vocabulary.tokens(vocabulary.flux) if vocabulary.flux else ()
        readout_tokens, opinion_tokens = (
            _tokens_of(vocabulary, name, getattr(config, name)) for name in ("readout_labels", "opinion_labels")
        )
        power = vocabulary.tokens(_POWER).item() if _POWER in vocabulary else -1
        opinion_flux = -1
        if opinion_tokens:
            if config.opinion_flux not in vocabulary.flux:
                raise ConfigError(
                    f"opinion_flux: {config.opinion_flux!r} is no flux of this model; name one of {vocabulary.flux}"
                )
            opinion_flux = vocabulary.tokens(config.opinion_flux).item()
        tokens = (flux_tokens, readout_tokens, power, opinion_tokens, opinion_flux)
        with initial_weights(int(seed)):
            self.torch_model = StellarPerceptronTorchModel(config, vocabulary.rows, *tokens)
        self.torch_model.eval()
        self.device = torch.device("cpu")
        self.to(device)

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

        Raises
        ------
        InputValueError
            It is no device, or none that this machine has; the model stays where it was.
        """
        try:
            wanted = torch.device(device)
            self.torch_model.to(wanted)
        # what torch raises depends on the device, and on how it was built
        except Exception as error:
            self.torch_model.to(self.device)
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputValueError(
                f"device: {str(device)!r} cannot be used here ({reason}); expected one that is there, for example 'cpu'"
            ) from error
        self.device = wanted
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
        self.set_flux_zero()

        def patches():
            for step in range(n_step):
                for _, _, batch in stream.batches(step):
                    tokens = batch.tokens.to(self.device)
                    pixel, kind = self.torch_model.pixels(tokens.token)
                    features, center, width = layer.features(tokens.value, tokens.sigma, tokens.wavelength, pixel, kind)
                    there = center > 0
                    yield features[there.to(features.device)], width.broadcast_to(center.shape)[there]

        layer.set_components(patches())

    @torch.inference_mode()
    def set_flux_zero(self):
        """Tell the patches what a flux of 0 is when it is standardised."""
        layer = self.torch_model.patch_layer
        if layer is not None:
            flux = self.vocabulary.tokens(self.vocabulary.flux)
            zero = torch.from_numpy(-self.vocabulary.mean[flux] / self.vocabulary.std[flux])
            layer.flux_zero.copy_(zero.reshape(layer.flux_zero.shape))

    def most_pixels(self, n_known=0):
        """Return how many pixels of a star are seen at once.

        Parameters
        ----------
        n_known : int, optional
            Number of quantities that are known of it.

        Returns
        -------
        float
            Infinity where pixels are gathered into patches.

        Raises
        ------
        InputValueError
            A context that what is known fills.
        """
        if self.config.patch_size > 1:
            return np.inf
        # one more is left for the resolving power
        most = self.config.context_length - n_known - 1
        if most < 1:
            raise InputValueError(
                f"known: {n_known} quantities leave no room for pixels in a context of {self.config.context_length}; "
                "give fewer of them"
            )
        return most

    def tokenize(self, inputs, names, wavelengths=None, sigmas=None):
        """Turn arrays into a padded batch of tokens.

        Parameters
        ----------
        inputs : array_like
            ``(n_star, n_token)`` known values in physical units (flux
            normalised as the model expects); NaN is not known, nor is what is masked.
        names : array_like of str
            ``(n_token,)`` or ``(n_star, n_token)`` name of each.
        wavelengths : array_like, optional
            ``(n_token,)`` or ``(n_star, n_token)`` [Angstrom, vacuum, rest
            frame]; 0 or NaN for what has none. Only what is a flux has one.
        sigmas : array_like, optional
            ``(n_star, n_token)`` standard deviations; NaN is not known.

        Returns
        -------
        Tokens

        Raises
        ------
        InputTypeError
            Something else than numbers.
        InputValueError
            Unknown names, shapes that do not agree, too many tokens.
        """

        def numbers(name, array):
            try:
                return as_native(array, np.float64)
            except (ValueError, TypeError) as error:
                raise InputTypeError(f"{name}: expected an array of numbers ({error})") from error

        inputs = np.atleast_2d(numbers("inputs", inputs))

        def spread(name, array, dtype):
            array = np.asarray(array) if dtype is None else numbers(name, array)
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

    def save(self, folder, compact=False):
        """Write ``config.json`` and ``model.safetensors``.

        Parameters
        ----------
        folder : str or pathlib.Path
            Made if it does not exist.
        compact : bool, optional
            Store large matrices, what whitens patches of all widths but the largest, and what whole spectra are sums
            of in eight bits, other parameters in half precision; what moves answers by some hundredths of their error.
        """
        folder = Path(folder)
        self.write_config(folder)
        state = _pack(self.torch_model) if compact else self.torch_model.state_dict()
        write_tensors(folder / "model.safetensors", state)

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
        write_json(folder / "config.json", settings)

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
        except (KeyError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"folder: {folder} is damaged ({error}); get the files again") from error
        model = cls(config, vocabulary, device)
        model.load_state(state)
        return model

    def start_from(self, other):
        """Take over the weights of another model, but for what only one of the two has.

        Parameters
        ----------
        other : StellarPerceptronCore
            Of the same architecture, or of a smaller edition of it (see `grown_state`), with the same names.
            Left as it is.

        Raises
        ------
        ConfigError
            An architecture that is neither, or other names.
        """
        if self.vocabulary.names != other.vocabulary.names:
            raise ConfigError(
                f"other: its names are {other.vocabulary.names}, expected {self.vocabulary.names}; "
                "make this model with the same"
            )
        own, theirs = self.torch_model.state_dict(), other.torch_model.state_dict()
        self.torch_model.load_state_dict(grown_state(theirs, other.config, self.config, own))

    def load_state(self, state):
        """Set all weights.

        Parameters
        ----------
        state : dict of str to torch.Tensor
            Half precision is turned into single.

        Raises
        ------
        CheckpointError
            Names or shapes that do not fit, or weights that are not finite.
        """
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        if spoilt := [k for k, v in state.items() if not bool(torch.isfinite(v).all())]:
            raise CheckpointError(f"weights are not finite: {', '.join(spoilt[:3])}; get the files again")
        try:
            self.torch_model.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"weights do not fit the configuration: {error}") from error


def _tokens_of(vocabulary, setting, names):
    """Return the tokens of quantities that a setting names."""
    stray = [name for name in names if name not in vocabulary or name in vocabulary.flux]
    if stray:
        raise ConfigError(f"{setting}: {stray} are no quantities of this model; name some of {vocabulary.names}")
    return vocabulary.tokens(names).tolist() if names else []


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
    except FileNotFoundError as error:
        raise CheckpointError(
            f"folder: {error.filename} not found; expected a folder with config.json and model.safetensors"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"folder: {error.filename} cannot be read ({error.strerror}); expected a folder with config.json and "
            "model.safetensors"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"folder: {folder} is damaged ({error}); get the files again") from error
    if not isinstance(settings, dict) or not {"format", "model", "vocabulary"} <= settings.keys():
        raise CheckpointError(
            f"folder: {folder} is of something else than this model; expected what StellarPerceptron.save wrote "
            "(StellarPerceptron.from_reference reads checkpoints of the published code)"
        )
    try:
        if settings["format"] in _READ:
            return ModelConfig.from_dict(settings["model"]), Vocabulary(**settings["vocabulary"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"folder: {folder} is damaged ({error}); get the files again") from error
    raise CheckpointError(
        f"folder: {folder} has format {settings['format']}, this version reads "
        f"{', '.join(str(n) for n in _READ[:-1])} and {_FORMAT}; update spectrafm"
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


def named_bytes(name, byte, scale):
    """Return a tensor in bytes as it is named in a file.

    Parameters
    ----------
    name : str
        Name of the tensor.
    byte, scale : torch.Tensor
        What stands for it.

    Returns
    -------
    dict of str to torch.Tensor
        Both, by the names that `split_bytes` knows.
    """
    return {f"{name}_byte": byte, f"{name}_scale": scale}


def split_bytes(tensors):
    """Tell tensors in bytes from others, by their names.

    Parameters
    ----------
    tensors : dict of str to torch.Tensor
        Of a file, some of them from `named_bytes`.

    Returns
    -------
    rest : dict of str to torch.Tensor
        The others.
    in_bytes : dict of str to (torch.Tensor, torch.Tensor)
        By the name of the tensor, what `named_bytes` was given.
    """
    names = [k.removesuffix("_byte") for k in tensors if k.endswith("_byte")]
    in_bytes = {k: (tensors[f"{k}_byte"], tensors[f"{k}_scale"]) for k in names if f"{k}_scale" in tensors}
    taken = {key for name, pair in in_bytes.items() for key in named_bytes(name, *pair)}
    return {k: v for k, v in tensors.items() if k not in taken}, in_bytes


def _pack(network):
    """Return the weights of a network in few bits, each tensor in the form that its module names in ``stored``.

    Parameters are a ``"matrix"`` of bytes where they are large, else in ``"half"`` precision; buffers stay as they are.
    """
    forms = {name: "half" if p.ndim < 2 or p.numel() < _LARGE else "matrix" for name, p in network.named_parameters()}
    for prefix, module in network.named_modules():
        forms |= {f"{prefix}.{name}": form for name, form in getattr(module, "stored", {}).items()}
    packed = {}
    for name, tensor in network.state_dict().items():
        tensor, form = tensor.detach().cpu(), forms.get(name)
        if form == "levels":
            packed[name] = (tensor if tensor.ndim == 2 else tensor[:1]).half()
            if tensor.ndim == 3:
                packed |= named_bytes(name, *to_bytes(tensor[1:], dim=1))
        elif form == "smooth":
            packed |= named_bytes(name, *to_bytes(tensor, dim=1))
        elif form == "matrix":
            packed |= named_bytes(name, *matrix_to_bytes(tensor))
        else:
            packed[name] = tensor.half() if form == "half" else tensor
    return packed


def _unpack(state):
    """Return what `_pack` made, in the form that it had."""
    whole, in_bytes = split_bytes(state)
    for name, (byte, scale) in in_bytes.items():
        if name in whole:
            # the levels that are not in bytes
            whole[name] = torch.cat((whole[name].float(), from_bytes(byte, scale)))
        else:
            whole[name] = matrix_from_bytes(byte, scale)
    return whole
