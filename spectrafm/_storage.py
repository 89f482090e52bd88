"""How arrays are kept in files."""

import os
from pathlib import Path

import torch

__all__ = ["atomic_write", "from_bytes", "to_bytes"]

# largest number in eight bits, less one that the rounding of the number before may add
_LARGEST = 126


def atomic_write(path, write):
    """Write a file so that it is there whole or not at all.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    write : callable
        ``write(temporary_path)`` writes it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        # safetensors makes files that only their owner can read
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_bytes(values, dim):
    """Return components in eight bits.

    What rounding takes from a number is added to the next one along ``dim``, so that
    sums with spectra, which are smooth beside its steps, stay right.

    Parameters
    ----------
    values : torch.Tensor
        Components.
    dim : int
        Dimension that runs along each component.

    Returns
    -------
    byte : torch.Tensor
        int8, of the same shape.
    scale : torch.Tensor
        float32, what they are multiples of; of length 1 along ``dim``.
    """
    scale = values.float().abs().amax(dim=dim, keepdim=True).clamp(min=1e-30) / _LARGEST
    steps = (values / scale).double().movedim(dim, 0)
    byte, left = torch.empty_like(steps, dtype=torch.int8), torch.zeros_like(steps[0])
    for i, step in enumerate(steps):
        left = left + step
        byte[i] = left.round()
        left = left - byte[i]
    return byte.movedim(0, dim).contiguous(), scale


def from_bytes(byte, scale):
    """Return what `to_bytes` made eight bits of, to half a step.

    Parameters
    ----------
    byte, scale : torch.Tensor
        From `to_bytes`.

    Returns
    -------
    torch.Tensor
        float32, of the shape of ``byte``.
    """
    return byte.float() * scale
