"""Weights on disk: whole, or as changes to others."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from ._storage import matrix_from_bytes, matrix_to_bytes, write_json, write_tensors
from .exceptions import CheckpointError, InputValueError, MissingDependencyError
from .line_correction import LineCorrection
from .residual_head import ResidualHead
from .stellarperceptron import StellarPerceptron
from .stellarperceptron.model_core import read_config, read_tensors
from .weights_info import WeightsInfo

__all__ = ["DEFAULT", "PRETRAINED", "find_weights", "load_weights", "save_weights"]

#: Folder of the weights in the package, and the name of those that are loaded where none is given.
PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT = "base"

# files that decide labels, errors and flags: in this order they are hashed
_WEIGHTS = ("model.safetensors", "adapter.safetensors", "head.safetensors", "lines.safetensors")
_HASHED = ("config.json", *_WEIGHTS, "head.json", "density.safetensors", "spectrafm.json")
# singular values of a change below this, relative to the largest, are rounding
_ROUNDING = 1e-5
_LINES = "wavelength", "factor"


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
        There are no such weights.
    MissingDependencyError
        They can only be on the hub, and its client is not installed.
    """
    packaged = _packaged()
    if str(name) in packaged:
        return PRETRAINED / str(name)
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise MissingDependencyError(
                f"name: {name!r} is neither packaged nor a folder; to look for it on the hub, "
                "pip install huggingface_hub"
            ) from error
        return Path(snapshot_download(name))
    raise InputValueError(
        f"name: no weights {name!r}; expected one of the packaged ({', '.join(packaged)}), a folder written by "
        "SpectraFM.save, such as those in the folder weights of the repository, or an 'owner/name' of the hub"
    )


def _packaged():
    return sorted(path.parent.name for path in PRETRAINED.glob("*/spectrafm.json"))


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
        Weights on disk that these come from.
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
    base = _checked_base(info, base, load) if changed else None
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
            packed[f"{name}_byte"], packed[f"{name}_scale"] = matrix_to_bytes(tensor.T, vectors @ vectors.T)
        else:
            packed[name] = tensor.half()
    return packed


def _unpacked_density(tensors):
    """Return what `_packed_density` made, or what was not packed, in single precision."""
    density = {k: v.float() for k, v in tensors.items()}
    # a domain may be called anything
    for name in [k.removesuffix("_byte") for k in tensors if k.endswith("_byte")]:
        if f"{name}_scale" in tensors and name not in tensors:
            byte, scale = (tensors[f"{name}_{part}"] for part in ("byte", "scale"))
            density[name] = matrix_from_bytes(byte, scale).T
            del density[f"{name}_byte"], density[f"{name}_scale"]
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


def _checked_base(info, base, load):
    name, digest = (info.fine_tuning.get(k, "") for k in ("base", "base_sha256"))
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
