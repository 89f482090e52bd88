"""Larger networks that begin where smaller ones ended."""

import re

import torch

from ..exceptions import ConfigError
from .config import OPINION_SETTINGS, READOUT_SETTINGS

__all__ = ["copies", "grown_state"]

# differences between copies of a unit, as a share of the weights of an untrained layer
_DIFFERENCE = 0.5
# sizes of a configuration: one number, one a layer, one a block
_WIDTHS = ("embedding_dim", "patch_dense")
_LAYERS = ("patch_convolutions", "head_dense")
_BLOCKS = ("encoder_heads", "encoder_dense", "decoder_heads", "decoder_dense")
# settings that no weight depends on; the encoding of wavelengths is compared separately
_WITHOUT_WEIGHTS = ("dropout", "head_dropout", "context_length", "pad_to_context", "wavelength_channels")


def grown_state(state, old, new, untrained):
    """Return the weights of a larger network that predicts the same as a smaller one.

    Each unit of the smaller network is there several times. Layers that read the copies
    weight them differently, so that they diverge in training, by amounts that add up to zero. Blocks
    that are only in the larger network start without effect, and so do convolutions and a readout. The
    readout of the smaller network is kept only if its settings and ``embedding_dim`` are the same, and its
    second opinion only if its settings are.

    Parameters
    ----------
    state : dict of str to torch.Tensor
        Weights of the smaller network.
    old, new : ModelConfig
        The architectures. Every width of ``new`` is a multiple of that of ``old``, and numbers of attention heads
        grow as ``embedding_dim`` does; there may be more blocks at the end; everything else is the same.
    untrained : dict of str to torch.Tensor
        Weights of the larger network, drawn anew.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    ConfigError
        ``new`` is not a larger edition of ``old``.

    References
    ----------
    Chen, Goodfellow & Shlens 2015, "Net2Net: accelerating learning via knowledge transfer" (arXiv:1511.05641).
    """
    factors = copies(old, new)
    grown = {}
    # a readout corrects certain labels, from embeddings of one width
    for part, settings in (("readout", ("embedding_dim", *READOUT_SETTINGS)), ("opinion", OPINION_SETTINGS)):
        if any(getattr(old, k) != getattr(new, k) for k in settings):
            state = {k: v for k, v in state.items() if not k.startswith(f"{part}.")}
    for name, fresh in untrained.items():
        if name not in state:
            # the last layer of a new block adds nothing to the sum of all blocks
            silent = re.search(r"transformer_block_\d+\.(attention\.out_proj|dense_2)\.", name)
            grown[name] = torch.zeros_like(fresh) if silent else fresh
        elif state[name].shape == fresh.shape:
            grown[name] = state[name]
        else:
            grown[name] = _copied(state[name].to(fresh), fresh, *_axes(name, factors, new))
    return grown


def copies(old, new):
    """Return how many copies of each kind of unit a larger network has.

    Parameters
    ----------
    old, new : ModelConfig
        See `grown_state`; readout and second opinion do not matter.

    Returns
    -------
    dict
        Number of copies by the name of a width, or (name, number from 1) where there is one a layer.

    Raises
    ------
    ConfigError
        As `grown_state`.
    """
    factors, problems = {}, []

    def compare(name, key, before, after):
        factors[key] = after // before
        if after % before:
            problems.append(f"{name} {after} is no multiple of {before}")

    for name in _WIDTHS:
        compare(name, name, getattr(old, name), getattr(new, name))
    for name in (*_LAYERS, *_BLOCKS):
        before, after = getattr(old, name), getattr(new, name)
        # convolutions may be new, blocks may be more where they can do nothing
        if name in _BLOCKS and len(after) > len(before) and not new.norm_first:
            problems.append(f"{name} has {len(after)} entries, not {len(before)}: more need norm_first")
        new_ones = name in _BLOCKS or (name == "patch_convolutions" and not before)
        if len(after) < len(before) or (len(after) > len(before) and not new_ones):
            problems.append(f"{name} has {len(after)} entries, not {len(before)}")
        for i, both in enumerate(zip(before, after, strict=False), start=1):
            compare(name, (name, i), *both)
    width = factors["embedding_dim"]
    for name in ("encoder_heads", "decoder_heads"):
        before = getattr(old, name)
        if any(factors[name, i] != width for i in range(1, 1 + min(len(before), len(getattr(new, name))))):
            problems.append(f"{name} must be {width} times {list(before)}, as embedding_dim is, so that heads stay")
    if new.channels != old.channels:
        problems.append(f"wavelength_channels must be {old.channels}, not {new.channels}")
    theirs, ours = old.to_dict(), new.to_dict()
    free = (*_WIDTHS, *_LAYERS, *_BLOCKS, *_WITHOUT_WEIGHTS)
    problems += [
        f"{k} is {ours[k]!r}, not {v!r}"
        for k, v in theirs.items()
        if k not in (*free, *READOUT_SETTINGS, *OPINION_SETTINGS) and v != ours[k]
    ]
    if problems:
        raise ConfigError("no larger edition of the network to start from: " + "; ".join(problems))
    return factors


def _axes(name, factors, config):
    """Return how many copies a parameter writes and reads, and its number of parts; 0 reads: a table."""
    width = factors["embedding_dim"]
    kind = name.split(".")[-2]
    if name.startswith("embedding_layer") or "bias_" in name:
        return width, 0, 1
    if name.startswith("patch_layer"):
        dense = factors["patch_dense"]
        if ".convolutions." in name:
            layer = int(kind) // 2 + 1
            return factors["patch_convolutions", layer], factors.get(("patch_convolutions", layer - 1), 1), 1
        last = factors.get(("patch_convolutions", len(config.patch_convolutions)), 1)
        return {
            "dense_1": (dense, 1, 1),
            "dense_convolved": (dense, last, 1),
            "place": (dense, 1, 2 if config.patch_place == "modulate" else 1),
            "dense_2": (width, dense, 1),
        }[kind]
    block = re.search(r"(encoder|decoder)_transformer_block_(\d+)", name)
    if block:
        dense = factors[f"{block[1]}_dense", int(block[2])]
        if "in_proj" in name:
            return width, width, 3
        return {"dense_1": (dense, width, 1), "dense_2": (width, dense, 1)}.get(kind, (width, width, 1))
    if kind.startswith("decoder_dense"):
        # the published code numbers its dense layers on from 3
        layer = int(kind.rsplit("_", 1)[1]) - 2
        return factors["head_dense", layer], factors.get(("head_dense", layer - 1), width), 1
    # the layer that gives the predictions, or the last norm
    last = factors.get(("head_dense", len(config.head_dense)), width)
    return (width, width, 1) if kind == "final_norm" else (1, last, 1)


def _copied(old, fresh, written, read, parts):
    """Return a parameter with all its copies; copies that are read differ by weights of an untrained layer."""
    if not read:
        return old.repeat(*[1] * (old.ndim - 1), written)
    rows = torch.cat([part.repeat(written, *[1] * (old.ndim - 1)) for part in old.chunk(parts)])
    if old.ndim == 1 or read == 1:
        return rows
    if not fresh.any():
        # copies differ also where an untrained layer starts without effect
        fresh = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0)).to(fresh) / fresh.shape[1] ** 0.5
    copies = fresh.unflatten(1, (read, -1))
    copies = _DIFFERENCE * (copies - copies.mean(dim=1, keepdim=True)) + rows[:, None] / read
    return copies.flatten(1, 2)
