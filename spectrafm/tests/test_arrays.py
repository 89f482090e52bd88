"""Spectra as plain arrays: sets of pixels."""

import numpy as np
import pytest

from spectrafm.adapters import from_arrays


@pytest.mark.parametrize("most", [1, 5, 511])
@pytest.mark.parametrize("n_pixel", [1, 5, 6, 7, 10, 11, 60, 61, 512, 1000, 1001, 1002, 1021, 1533, 1534])
def test_sets_are_as_large_as_they_may_be(n_pixel, most):
    """Interleaved sets have no pixel twice, all are of one size, and together they are the whole spectrum."""
    [star] = from_arrays(np.linspace(5000, 6000, n_pixel + 2), np.ones(n_pixel + 2))
    star.good[[n_pixel // 2, -1]] = False
    n_set = -(-n_pixel // most)
    sets = [star.subset(number, n_set, most).good for number in range(n_set)]
    assert {int(good.sum()) for good in sets} == {min(most, n_pixel)}
    np.testing.assert_array_equal(np.any(sets, axis=0), star.good)
    for good in sets:
        # none is a piece of the spectrum
        place = np.flatnonzero(good[star.good])
        assert np.diff(np.append(np.append(-1, place), n_pixel)).max() <= 2 * n_set


def test_sets_of_nothing():
    """A spectrum without a good pixel has empty sets."""
    [star] = from_arrays(np.linspace(5000, 6000, 9), np.full(9, np.nan))
    assert star.subset(0, 1, 5).n_good == 0
