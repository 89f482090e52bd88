"""Changes of low rank to the matrices of a network (Hu et al. 2021, arXiv:2106.09685)."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["LowRank", "add_low_rank", "merge_low_rank"]


class LowRank(nn.Module):
    """A matrix plus the product of two narrow ones, which begins as zero.

    Parameters
    ----------
    n_out, n_in : int
        Shape of the matrix.
    rank : int
        Width of the narrow ones.
    generator : torch.Generator
        Source of the first numbers.
    """

    def __init__(self, n_out, n_in, rank, generator):
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, n_in, generator=generator) / math.sqrt(n_in))
        self.b = nn.Parameter(torch.zeros(n_out, rank))

    def forward(self, matrix):
        """Return the changed matrix.

        Parameters
        ----------
        matrix : torch.Tensor
            ``(n_out, n_in)``.

        Returns
        -------
        torch.Tensor
            ``(n_out, n_in)``.
        """
        return matrix + self.b @ self.a


def add_low_rank(network, rank, generator, leave=()):
    """Add a change of low rank to every matrix of a network that is large enough, in place.

    Parameters
    ----------
    network : torch.nn.Module
        The network.
    rank : int
        Rank of the changes; matrices with a side no longer than that are left alone.
    generator : torch.Generator
        Source of the first numbers.
    leave : sequence of torch.nn.Module, optional
        Modules whose own matrices stay as they are.
    """
    for module in list(network.modules()):
        if any(module is other for other in leave):
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 2 and min(parameter.shape) > rank:
                change = LowRank(*parameter.shape, rank, generator).to(parameter.device)
                parametrize.register_parametrization(module, name, change)


def merge_low_rank(network):
    """Make what was added to matrices part of them, in place.

    Parameters
    ----------
    network : torch.nn.Module
        The network; left alone where nothing was added.
    """
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
