"""Weights on disk: whole, or as changes to others."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch

from ._storage import matrix_from_bytes, matrix_to_bytes, write_json, write_tensors
from .exceptions import CheckpointError, InputValueError, MissingDependencyError
from .line_correction import LineCorrection
from .residual_head import ResidualHead
from .stellarperceptron import StellarPerceptron
from .stellarperceptron.model_core import named_bytes, read_config, read_tensors, split_bytes
from .weights_info import WeightsInfo

__all__ = [
    "DEFAULT",
    "PRETRAINED",
    "check_device",
    "check_folder",
    "find_weights",
    "load_weights",
    "packaged_base",
    "save_weights",
]

#: Folder of the weights in the package, and the name of those that are loaded where none is given.
PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT = "base"

# files that decide labels, errors and flags: in this order they are hashed
_WEIGHTS = ("model.safetensors", "adapter.safetensors", "head.safetensors", "lines.safetensors")
_HASHED = ("config.json", *_WEIGHTS, "head.json", "density.safetensors", "spectrafm.json", "adapter.json")
# singular values of a change below this, relative to the largest, are rounding
_ROUNDING = 1e-5
_LINES = "wavelength", "factor"
# what says that weights are on the Hugging Face hub, and the names that it has there
_HUB, _ON_HUB = "hf://", r"(?P<repo_id>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?"


def find_weights(name):
    """Return the folder of weights.

    Parameters
    ----------
    name : str or pathlib.Path
        As for `SpectraFM.from_pretrained`.

    Returns
    -------
    pathlib.Path
        Downloaded first, where the name is one of the hub.

    Raises
    ------
    InputValueError
        There are no such weights, or they cannot be fetched.
    MissingDependencyError
        They are on the hub, and its client is not installed.
    """
    if str(name).startswith(_HUB):
        return _fetched(str(name))
    packaged = _packaged()
    if str(name) in packaged:
        return PRETRAINED / str(name)
    if Path(name).is_dir():
        return Path(name)
    on_hub = f"'{_HUB}{name}'" if re.fullmatch(_ON_HUB, str(name)) else f"'{_HUB}owner/name'"
    raise InputValueError(
        f"name: no weights {str(name)!r}; expected one of the packaged ({', '.join(packaged)}), a folder written by "
        "SpectraFM.save, such as those in the folder weights of the repository, or, for weights of the Hugging Face "
        f"hub, {on_hub}"
    )


def _packaged():
    return sorted(path.parent.name for path in PRETRAINED.glob("*/spectrafm.json"))


def _fetched(name):
    """Return the folder of weights of the hub, fetched where they are not there yet."""
    parts = re.fullmatch(_ON_HUB, name.removeprefix(_HUB))
    if parts is None:
        raise InputValueError(f"name: {name!r}, expected '{_HUB}owner/name' or '{_HUB}owner/name@revision'")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f"name: {name!r} is on the Hugging Face hub, whose client is not installed; pip install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(**parts.groupdict(), allow_patterns=list(_HASHED)))
    # the client raises what it and its own clients run into
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or "no reason is given"
        raise InputValueError(
            f"name: {name!r} cannot be fetched ({type(error).__name__}: {reason}); check the name and the network, or "
            "give a folder that holds these weights"
        ) from error


def check_device(device, argument="device"):
    """Refuse a device that is not there.

    Parameters
    ----------
    device : str or torch.device
        Where to run.
    argument : str, optional
        Name of the user's argument, for the error message.

    Raises
    ------
    InputValueError
        It is no device, or this machine has no such one.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputValueError(f"{argument}: {device!r}, expected 'cpu', 'cuda', 'cuda:1' or 'mps'") from None
    # counted and not tried: of processes side by side, each is to touch its own alone
    n_device = {"cuda": torch.cuda.device_count, "mps": torch.backends.mps.is_available}.get(wanted.type, lambda: 1)()
    if (wanted.index or 0) >= n_device:
        raise InputValueError(
            f"{argument}: {str(device)!r}, but PyTorch finds {int(n_device)} devices of kind {wanted.type} here; "
            "expected one that is there, for example 'cpu'"
        )


def check_folder(folder, overwrite):
    """Refuse a folder whose weights would be replaced unasked.

    Parameters
    ----------
    folder : pathlib.Path
        Where weights are to be written.
    overwrite : bool
        Whether those that are there may be replaced.

    Raises
    ------
    InputValueError
        It holds files of weights, and they may not.
    """
    there = [name for name in _HASHED if (folder / name).exists()]
    if there and not overwrite:
        raise InputValueError(
            f"folder: {folder} holds weights ({', '.join(there)}); choose another folder, or set overwrite=True"
        )


def packaged_base(fm):
    """Return the packaged weights that others come from, by any number of steps.

    Parameters
    ----------
    fm : SpectraFM
        Weights.

    Returns
    -------
    SpectraFM or None
        Changes to them are all that a file has to hold, as whoever loads it has them.
    """
    base = fm._base
    while base is not None and not (base.weights_hash and base._folder.parent == PRETRAINED.resolve()):
        base = base._base
    return base


def save_weights(folder, info, model, density, head=None, lines=None, *, base=None, compact=False):
    """Write weights into a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it does not exist; files of weights that it has are replaced.
    info : WeightsInfo
        Facts.
    model : StellarPerceptron
        The network.
    density : dict of str to torch.Tensor
        Of the embeddings.
    head : ResidualHead or None
        What tells the labels.
    lines : LineCorrection or None
        What puts lines right.
    base : SpectraFM, optional
        Packaged weights that these come from: only what changed is written, where that is small.
    compact : bool, optional
        Store in few bits, see `StellarPerceptron.save`; changes to other weights stay as they are.
        Distances between embeddings move by a thousandth.
    """
    network = model.torch_model.state_dict()
    changes = None if base is None else _changes(base.model.torch_model.state_dict(), network)
    tensors = {}
    if changes is not None and 2 * _size(changes) < _size(network):
        model.write_config(folder)
        tensors["adapter"] = changes
        write_json(folder / "adapter.json", {"base": base._folder.name, "base_sha256": base.weights_hash})
    else:
        model.save(folder, compact=compact)
    if head is not None:
        tensors["head"] = head.state()
        write_json(folder / "head.json", head.settings())
    if lines is not None:
        tensors["lines"] = {k: torch.from_numpy(np.ascontiguousarray(getattr(lines, k))) for k in _LINES}
    if density:
        tensors["density"] = _packed_density(density) if compact else density
    for name, state in tensors.items():
        write_tensors(folder / f"{name}.safetensors", state)
    info.write(folder / "spectrafm.json")
    # what other weights left there goes last, so that a stop loses nothing
    for name in ("adapter", "head", "lines", "density"):
        if name not in tensors:
            (folder / f"{name}.safetensors").unlink(missing_ok=True)
    if "adapter" in tensors:
        (folder / "model.safetensors").unlink(missing_ok=True)
    else:
        (folder / "adapter.json").unlink(missing_ok=True)
    if head is None:
        (folder / "head.json").unlink(missing_ok=True)


def load_weights(folder, device, base, load):
    """Read what `save_weights` wrote.

    Parameters
    ----------
    folder : pathlib.Path
        The folder.
    device : str or torch.device
        Where to run.
    base : SpectraFM or None
        What changes are changes to.
    load : callable
        ``load(folder)`` loads the base, where it is in the package.

    Returns
    -------
    model : StellarPerceptron
    info : WeightsInfo
    density : dict of str to torch.Tensor or None
    head : ResidualHead or None
    lines : LineCorrection or None
    digest : str
        First digits of the SHA-256 of the weights, calibration and thresholds included.
    base : SpectraFM or None
        What these are changes to.

    Raises
    ------
    CheckpointError
        Missing or damaged files, or another base.
    """
    info = WeightsInfo.read(folder / "spectrafm.json")
    changed = (folder / "adapter.safetensors").exists()
    base = _checked_base(_base_of(folder, info), base, load) if changed else None
    model = _apply(folder, base, device) if changed else StellarPerceptron.load(folder, device)
    there = [name for name in ("head", "lines", "density") if (folder / f"{name}.safetensors").exists()]
    tensors = {name: read_tensors(folder / f"{name}.safetensors") for name in there}
    head, lines, density = None, None, None
    try:
        if "head" in tensors:
            head = ResidualHead.from_state(json.loads((folder / "head.json").read_text()), tensors["head"])
        if "lines" in tensors:
            lines = LineCorrection(*(tensors["lines"][k].numpy() for k in _LINES))
        if "density" in tensors:
            density = _unpacked_density(tensors["density"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"folder: {folder} is damaged ({error}); get the files again") from error
    digest = hashlib.sha256()
    for name in _HASHED:
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    return model, info, density, head, lines, digest.hexdigest()[:16], base


def _packed_density(density):
    """Return means in half precision, and what whitens, a column a direction, in eight bits."""
    packed = {}
    for name, tensor in density.items():
        if tensor.ndim == 2:
            # columns are eigenvectors over the roots of their variances
            vectors = (tensor / (tensor**2).sum(dim=0).clamp(min=1e-30)).double()
            packed |= named_bytes(name, *matrix_to_bytes(tensor.T, vectors @ vectors.T))
        else:
            packed[name] = tensor.half()
    return packed


def _unpacked_density(tensors):
    """Return what `_packed_density` made, or what was not packed, in single precision."""
    rest, in_bytes = split_bytes(tensors)
    density = {k: v.float() for k, v in rest.items()}
    for name, (byte, scale) in in_bytes.items():
        # a domain may be called anything
        is_name = name in rest
        density |= (
            named_bytes(name, byte.float(), scale.float()) if is_name else {name: matrix_from_bytes(byte, scale).T}
        )
    return density


def _size(state):
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def _changes(before, after):
    """Return the tensors that differ: factors of the difference where its rank is low, or the new tensor."""
    changed = {}
    # the two may be on different devices
    before, after = ({k: v.detach().cpu() for k, v in state.items()} for state in (before, after))
    for name, tensor in after.items():
        old = before.get(name)
        alike = old is not None and old.shape == tensor.shape
        if alike and torch.equal(old, tensor):
            continue
        if alike and tensor.ndim == 2:
            left, size, right = torch.linalg.svd((tensor - old).double(), full_matrices=False)
            rank = int((size > _ROUNDING * size[0]).sum())
            if 2 * rank * sum(tensor.shape) < tensor.numel():
                changed[f"left:{name}"] = (left[:, :rank] * size[:rank]).float().contiguous()
                changed[f"right:{name}"] = right[:rank].float().contiguous()
                continue
        changed[f"all:{name}"] = tensor.contiguous()
    return changed


def _base_of(folder, info):
    """Return the name of what weights are changes to, and its SHA-256."""
    path = folder / "adapter.json"
    try:
        # earlier versions wrote changes to what was fine-tuned alone
        told = json.loads(path.read_text()) if path.exists() else info.fine_tuning
        return told.get("base", ""), told.get("base_sha256", "")
    except (OSError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"folder: {path} is damaged ({error}); get the files again") from error


def _checked_base(told, base, load):
    """Return what weights are changes to, as `_base_of` tells it."""
    name, digest = told
    if base is None:
        if name not in _packaged():
            raise CheckpointError(
                f"base: these weights are changes to {name!r}, which is not in the package; "
                "load that and give it as base="
            )
        base = load(PRETRAINED / name)
    if base.weights_hash != digest:
        raise CheckpointError(
            f"base: weights {base.info.name!r} have SHA-256 {base.weights_hash or 'none'}; "
            f"expected {digest} of {name!r}, to which these are changes"
        )
    return base


def _apply(folder, base, device):
    """Return the base with changes."""
    _, vocabulary = read_config(folder)
    changes = read_tensors(folder / "adapter.safetensors")
    model = StellarPerceptron(base.model.config, vocabulary, device)
    state = {k: v.detach().cpu() for k, v in base.model.torch_model.state_dict().items()}
    for key, tensor in changes.items():
        kind, _, name = key.partition(":")
        if kind == "all":
            state[name] = tensor
        elif kind == "left":
            state[name] = state[name] + (tensor.double() @ changes[f"right:{name}"].double()).to(state[name])
    model.load_state(state)
    return model
