"""How arrays are kept in files."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from .exceptions import InputValueError

__all__ = [
    "atomic_write",
    "from_bytes",
    "matrix_from_bytes",
    "matrix_to_bytes",
    "to_bytes",
    "write_json",
    "write_tensors",
]

# largest number in eight bits, less one that the rounding of the number before may add
_LARGEST = 126
# numbers nearer to whole multiples of a scale than this are taken as rounded before
_WHOLE = 1e-3
# so many numbers of a row have a scale of their own
_GROUP = 128
# variance in directions that do not scatter, in parts of the mean
_FLOOR = 1e-4


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


def write_json(path, values):
    """Write what JSON can hold, a file as `atomic_write` makes it.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    values : dict
        Without NaN and infinite numbers, which are no JSON.
    """
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text))


def write_tensors(path, tensors):
    """Write tensors, a file as `atomic_write` makes it.

    Parameters
    ----------
    path : str or pathlib.Path
        A safetensors file.
    tensors : dict of str to torch.Tensor
        What goes in.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_write(path, lambda temporary: save_file(tensors, temporary))


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
    values = values.float()
    scale = values.abs().amax(dim=dim, keepdim=True).clamp(min=1e-30) / _LARGEST
    scale = _scale_before(values, dim, scale)
    steps = (values / scale).double().movedim(dim, 0)
    byte, left = torch.empty_like(steps, dtype=torch.int8), torch.zeros_like(steps[0])
    for i, step in enumerate(steps):
        left = left + step
        byte[i] = left.round()
        left = left - byte[i]
    return byte.movedim(0, dim).contiguous(), scale


def _scale_before(values, dim, scale):
    """Return the scale that numbers had in eight bits before, so that they stay as they are, and ``scale`` for others.

    Parameters
    ----------
    values : torch.Tensor
        float32.
    dim : int
        Dimension along which numbers have the same scale.
    scale : torch.Tensor
        Of length 1 along ``dim``, of any floating-point type.

    Returns
    -------
    torch.Tensor
        As ``scale``.
    """
    largest = values.abs().amax(dim=dim, keepdim=True)
    # what the largest number may have been
    for n in range(_LARGEST - 1, _LARGEST + 2):
        before = (largest / n).to(scale.dtype)
        step = before.float().clamp(min=1e-30)
        off = (values / step - (values / step).round()).abs().amax(dim=dim, keepdim=True)
        scale = torch.where((off < _WHOLE) & (before > 0) & (largest < (n + _WHOLE) * step), before, scale)
    return scale


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


def matrix_to_bytes(values, covariance=None):
    """Return weights of a layer in eight bits.

    Each number is rounded by itself: what layers see is not smooth, as spectra are. Where it is known how it scatters,
    what rounding takes from a number is made good by those that are not rounded yet, as well as they can
    (Frantar et al. 2022, arXiv:2210.17323).

    Parameters
    ----------
    values : torch.Tensor
        ``(n_out, ...)``, finite.
    covariance : torch.Tensor, optional
        ``(n_in, n_in)`` of what they are multiplied with.

    Returns
    -------
    byte : torch.Tensor
        int8, of the same shape.
    scale : torch.Tensor
        float16, ``(n_out, n_group)``, what numbers of each group of a row are multiples of.

    Raises
    ------
    InputValueError
        Weights that are not finite, or beyond some millions.
    """
    rows = values.float().flatten(1)
    n_group = rows.shape[1] // _GROUP if rows.shape[1] % _GROUP == 0 else 1
    groups = rows.unflatten(1, (n_group, -1))
    # rounded up, so that the largest numbers fit
    scale = (groups.abs().amax(dim=2, keepdim=True) / (_LARGEST + 1) * (1 + 2**-10) + 2**-24).half()
    if not torch.isfinite(scale).all():
        raise InputValueError("weights are not finite, or too large for eight bits; save them without compact=True")
    scale = _scale_before(groups, 2, scale)
    if covariance is None:
        byte = (groups / scale.float()).round()
    else:
        byte = _compensated(rows, scale.float().expand_as(groups).flatten(1), covariance)
    return byte.to(torch.int8).view(values.shape), scale.squeeze(2)


def _compensated(rows, scale, covariance):
    """Return multiples of scales near rows ``(n_out, n_in)``, whose products with what scatters so are near, too."""
    covariance = covariance.double()
    # directions in which there is nothing must not take up all of the errors
    covariance = covariance + _FLOOR * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    root = torch.linalg.cholesky(torch.linalg.inv(covariance), upper=True)
    rows, scale = rows.double().clone(), scale.double()
    byte = torch.zeros_like(rows)
    for i in range(rows.shape[1]):
        byte[:, i] = (rows[:, i] / scale[:, i]).round().clamp(-_LARGEST - 1, _LARGEST + 1)
        left = (rows[:, i] - byte[:, i] * scale[:, i]) / root[i, i]
        rows[:, i:] -= left[:, None] * root[i, i:]
    return byte


def matrix_from_bytes(byte, scale):
    """Return what `matrix_to_bytes` made eight bits of, to half a step.

    Parameters
    ----------
    byte, scale : torch.Tensor
        From `matrix_to_bytes`.

    Returns
    -------
    torch.Tensor
        float32, of the shape of ``byte``.
    """
    groups = byte.float().flatten(1).unflatten(1, (scale.shape[1], -1))
    return (groups * scale.float()[..., None]).view(byte.shape)
