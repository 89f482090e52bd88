"""How dust dims stars, by the package that knows."""

import sys

import numpy as np
import pytest

from spectrafm.exceptions import MissingDependencyError
from spectrafm.training.dust import extinction


def test_extinction():
    """It is about what Cardelli et al. (1989) have, and falls all the way."""
    pytest.importorskip("dust_extinction", reason="the extra training is not installed")
    wavelength = np.array([[3500.0, 5495.0], [9000.0, 22_000.0]])
    found = extinction(wavelength)
    assert found.shape == wavelength.shape
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[1.58, 1.0], [0.48, 0.11]], rtol=0.08)
    assert (np.diff(extinction(np.linspace(3300, 10_500, 300))) < 0).all()


def test_without_the_package(monkeypatch):
    """What is missing is named, and how to get it."""
    monkeypatch.setitem(sys.modules, "dust_extinction", None)
    monkeypatch.setitem(sys.modules, "dust_extinction.parameter_averages", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'spectrafm\[training\]'"):
        extinction([5000.0])
