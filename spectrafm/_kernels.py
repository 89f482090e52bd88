"""Covariance functions of Gaussian processes."""

import torch

__all__ = ["matern", "squared_distance"]


def squared_distance(a, b):
    """Return the squares of the distances between two sets of points.

    Parameters
    ----------
    a, b : torch.Tensor
        ``(n, n_input)`` and ``(m, n_input)``.

    Returns
    -------
    torch.Tensor
        ``(n, m)``, 0 where rounding would make it less.
    """
    return ((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clamp(min=0)


def matern(square, variance=None):
    """Return the Matern covariance of order 5/2 (Rasmussen & Williams 2006, equation 4.17).

    Parameters
    ----------
    square : torch.Tensor
        Squares of distances, in units of the length on which functions vary.
    variance : torch.Tensor, optional
        Variance of the functions, a single number; 1 when left out.

    Returns
    -------
    torch.Tensor
        Of the shape of ``square``.
    """
    # the root has no slope at zero
    r = (5 * square + 1e-12).sqrt()
    polynomial = 1 + r + r**2 / 3
    return (polynomial if variance is None else variance * polynomial) * torch.exp(-r)
