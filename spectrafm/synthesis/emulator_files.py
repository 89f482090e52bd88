"""Emulators on disk: ``config.json`` and ``emulator.safetensors``."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .._storage import from_bytes, to_bytes, write_json, write_tensors
from ..exceptions import CheckpointError

__all__ = ["PROCESS", "EmulatorInfo", "read_emulator", "stored_precision", "write_emulator"]

#: Arrays of the Gaussian process, in the order of its fields.
PROCESS = ("length", "points", "coefficient", "slope", "offset")

_FORMAT = 2
# components after these are stored in eight bits
_N_HALF = 16


@dataclass
class EmulatorInfo:
    """Facts about an emulator, kept beside its arrays in ``config.json``.

    Attributes
    ----------
    name : str
        Name of the window that it covers.
    label_names : tuple of str
        Labels, in the order of `Emulator.flux`.
    label_ranges : dict of str to tuple of float
        Range of each label in the grid, in the units of
        `spectrafm.quantities.QUANTITIES`.
    first_wavelength : float
        First wavelength [Angstrom, vacuum].
    log_step : float
        Step of ln(wavelength).
    n_pixel : int
        Number of wavelengths.
    window : tuple of float
        Wavelengths [Angstrom, vacuum] between which spectra are given by default; what
        lies beyond is margin for shifts and broadening.
    base_resolving_power : float
        Resolving power of the spectra.
    reach : float
        How far a star may be from the nearest one of the grid, in units of the lengths
        on which spectra change, before its spectrum counts as extrapolated.
    errors : dict
        Errors on stars of the grid that were held out.
    grid : dict
        Origin of the grid, and settings of the training.
    """

    name: str
    label_names: tuple
    label_ranges: dict
    first_wavelength: float
    log_step: float
    n_pixel: int
    window: tuple
    base_resolving_power: float
    reach: float = float("inf")
    errors: dict = field(default_factory=dict)
    grid: dict = field(default_factory=dict)

    def __post_init__(self):
        """Turn lists of JSON into tuples."""
        self.label_names, self.window = tuple(self.label_names), tuple(self.window)
        self.label_ranges = {name: tuple(self.label_ranges[name]) for name in self.label_names}


def stored_precision(components):
    """Return components rounded as in a file.

    Parameters
    ----------
    components : torch.Tensor
        ``(n_component, n_pixel)``, in the order of their importance.

    Returns
    -------
    torch.Tensor
        Likewise, float32.
    """
    return _unpack(_pack(components))


def _pack(components):
    """Return the first components in half precision and the rest in bytes."""
    byte, scale = to_bytes(components[_N_HALF:], dim=1)
    half = components[:_N_HALF].half().contiguous()
    return {"components_half": half, "components_byte": byte, "components_scale": scale}


def _unpack(state):
    """Return the components from the tensors of `_pack`, which loses its entries."""
    half, byte, scale = (state.pop(f"components_{name}") for name in ("half", "byte", "scale"))
    return torch.cat((half.float(), from_bytes(byte, scale)))


def write_emulator(folder, info, tensors):
    """Write an emulator.

    Parameters
    ----------
    folder : str or pathlib.Path
        Made if it does not exist.
    info : EmulatorInfo
        Its facts.
    tensors : dict of str to torch.Tensor
        Its arrays, see `~spectrafm.synthesis.Emulator`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"format": _FORMAT} | vars(info))
    state = {k: t.detach().float() for k, t in tensors.items() if k != "components"}
    state |= _pack(tensors["components"].detach().cpu())
    write_tensors(folder / "emulator.safetensors", state)


def read_emulator(folder):
    """Read what `write_emulator` wrote.

    Parameters
    ----------
    folder : str or pathlib.Path
        The folder.

    Returns
    -------
    info : EmulatorInfo
        Its facts.
    tensors : dict of str to torch.Tensor
        Its arrays, float32.

    Raises
    ------
    CheckpointError
        Missing, damaged or mismatched files.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / "config.json").read_text())
        version = settings.pop("format")
        if version == _FORMAT:
            info, state = EmulatorInfo(**settings), load_file(folder / "emulator.safetensors")
            tensors = {name: state[name] for name in ("mean", "input_mean", "input_scale", *PROCESS)}
            tensors["components"] = _unpack(state)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"folder: {error.filename} not found; expected a folder with config.json and emulator.safetensors"
        ) from error
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"folder: {folder} is damaged ({error!r}); get the files again") from error
    if version != _FORMAT:
        raise CheckpointError(
            f"folder: {folder} has format {version}, this version reads {_FORMAT}; "
            "train it again, or install the version of spectrafm that wrote it"
        )
    n_component, n_pixel = tensors["components"].shape
    n_point, n_input = tensors["points"].shape
    expected = {
        "mean": (n_pixel,),
        "components": (n_component, info.n_pixel),
        "input_mean": (n_input,),
        "input_scale": (n_input,),
        "length": (n_input,),
        "points": (n_point, n_input),
        "coefficient": (n_point, n_component),
        "slope": (n_input, n_component),
        "offset": (n_component,),
    }
    wrong = [name for name, shape in expected.items() if tuple(tensors[name].shape) != shape]
    if wrong:
        raise CheckpointError(f"folder: {folder} is damaged ({', '.join(wrong)} of another shape); get the files again")
    return info, tensors
