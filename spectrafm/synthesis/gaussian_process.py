"""Regression of smooth functions from few points: one Gaussian process for many outputs."""

from dataclasses import dataclass

import numpy as np
import torch

from .._kernels import matern, squared_distance

__all__ = ["GaussianProcess", "fit_gaussian_process"]

# bounds of ln(length) of the inputs, which have unit variance, of ln(amplitude) of the linear part,
# and of ln(nugget) in units of the variance of the nonlinear part: with less, coefficients of points grow so
# large that single precision does not hold the sum over them
_BOUNDS = {"length": (-2.0, 7.0), "linear": (-8.0, 3.0), "nugget": (-9.0, 0.0)}


@dataclass
class GaussianProcess:
    """Mean of a Gaussian process: a linear function plus kernels at its training points.

    Attributes
    ----------
    length : torch.Tensor
        ``(n_input,)`` scales on which the function varies.
    points : torch.Tensor
        ``(n_point, n_input)`` training points, in units of ``length``.
    coefficient : torch.Tensor
        ``(n_point, n_output)`` weight of each point.
    slope : torch.Tensor
        ``(n_input, n_output)`` of the linear part.
    offset : torch.Tensor
        ``(n_output,)`` of the linear part.
    """

    length: torch.Tensor
    points: torch.Tensor
    coefficient: torch.Tensor
    slope: torch.Tensor
    offset: torch.Tensor

    def __call__(self, x):
        """Return the mean at some points.

        Parameters
        ----------
        x : torch.Tensor
            ``(n_star, n_input)``.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_output)``.
        """
        near = matern(squared_distance(x / self.length, self.points))  # (n_star, n_point)
        return near @ self.coefficient + x @ self.slope + self.offset


def _kernel(x, log):
    """Return the covariance of the points of training, ``(n, n)``."""
    scaled, linear = x / log["length"].exp(), x * log["linear"].exp()
    nugget = log["nugget"].exp() * torch.eye(len(x), dtype=x.dtype)
    return matern(squared_distance(scaled, scaled)) + nugget + 1 + linear @ linear.T


def _leave_one_out(kernel, y, weight):
    """Return the logarithm of the mean error of points that are left out, and its slope in the kernel.

    The error of a point is the root of the weighted sum of squares of its outputs, each
    predicted by the process without that point (Rasmussen & Williams 2006, section 5.4.2).
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
    solved, diagonal = inverse @ y, inverse.diagonal()
    residual = solved / diagonal[:, None]
    error = ((residual**2 * weight).sum(1) + 1e-12).sqrt()
    mean = error.mean()
    by_residual = residual * weight / (error * mean * len(y))[:, None]
    by_solved = by_residual / diagonal[:, None]
    by_diagonal = -(by_residual * residual).sum(1) / diagonal
    slope = -(inverse @ by_solved) @ solved.T - (inverse * by_diagonal) @ inverse
    return mean.log(), slope


def fit_gaussian_process(x, y, weight, *, n_tuning=1200, n_step=60, seed=0):
    """Fit a Gaussian process to points that are exact.

    The covariance is a Matern function of order 5/2 with a length for each input, plus
    a linear function, plus a nugget. These are set by minimizing the mean error with
    which each point is predicted from all others, which has a closed form; all outputs
    share them.

    Parameters
    ----------
    x : torch.Tensor
        ``(n_point, n_input)`` float64, inputs of about unit variance.
    y : torch.Tensor
        ``(n_point, n_output)`` float64, outputs of zero mean.
    weight : torch.Tensor
        ``(n_output,)`` float64, weight of the square of each error.
    n_tuning : int, optional
        Lengths are set with no more than this number of random points: their cost grows
        with its cube.
    n_step : int, optional
        Number of steps of L-BFGS.
    seed : int, optional
        Seed of that choice.

    Returns
    -------
    GaussianProcess
        In float64.
    error : float
        The error that was minimized, of all points.
    """
    from scipy.optimize import minimize

    n_input = x.shape[1]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(x))[:n_tuning])
    chosen = torch.from_numpy(chosen)
    sizes = {"length": n_input, "linear": n_input, "nugget": 1}

    def unpack(flat):
        parts = torch.from_numpy(np.array(flat)).split(list(sizes.values()))
        return dict(zip(sizes, parts, strict=True))

    def objective(flat):
        log = {name: value.requires_grad_() for name, value in unpack(flat).items()}
        kernel = _kernel(x[chosen], log)
        with torch.no_grad():
            value, slope = _leave_one_out(kernel, y[chosen], weight)
        gradient = torch.autograd.grad(kernel, list(log.values()), slope)
        return value.item(), torch.cat(gradient).numpy()

    start = np.concatenate([np.full(n, at) for n, at in ((n_input, 1.5), (n_input, -1.0), (1, -7.0))])
    bounds = [_BOUNDS[name] for name, size in sizes.items() for _ in range(size)]
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": n_step})
    log = unpack(found.x)
    kernel = _kernel(x, log)
    error = _leave_one_out(kernel, y, weight)[0].exp().item()
    coefficient = torch.cholesky_solve(y, torch.linalg.cholesky(kernel))
    length, linear = log["length"].exp(), log["linear"].exp()
    process = GaussianProcess(
        length=length,
        points=x / length,
        coefficient=coefficient,
        slope=linear[:, None] ** 2 * (x.T @ coefficient),
        offset=coefficient.sum(0),
    )
    return process, error
