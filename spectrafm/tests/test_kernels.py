"""Covariance functions: against their formulas."""

import numpy as np
import torch

from spectrafm._kernels import matern, squared_distance


def test_squared_distance():
    """As computed pair by pair, and never negative."""
    a, b = (torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (7, 5))
    torch.testing.assert_close(squared_distance(a, b), torch.cdist(a, b) ** 2)
    far = 1e6 + 1e-6 * a
    assert (squared_distance(far, far) >= 0).all()


def test_matern():
    """Rasmussen & Williams 2006, equation 4.17; a variance is a factor, and nothing has an endless slope at zero."""
    distance = np.array([0.0, 0.3, 1.0, 4.0])
    r = np.sqrt(5) * distance
    expected = (1 + r + r**2 / 3) * np.exp(-r)
    square = torch.from_numpy(distance**2).requires_grad_()
    np.testing.assert_allclose(matern(square).detach(), expected, atol=1e-9)
    np.testing.assert_allclose(matern(square, torch.tensor(3.0)).detach(), 3 * expected, atol=1e-9)
    matern(square).sum().backward()
    assert torch.isfinite(square.grad).all()
