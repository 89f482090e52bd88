"""Pixels that hold a number, and where nothing was measured."""

import numpy as np

__all__ = ["unmeasured"]

# so many neighbours of exactly one value may be no measurement, and are none if this small beside the median
_RUN, _TINY = 8, 0.01
# numbers are rounded where a larger share of the pixels repeat the one before, apart from such runs
_ROUNDED = 0.02
# and then a run at an end is longer than those in the middle by such a factor
_LONGER = 3
# a spectrum has so many values of such runs, at most: one for gaps, and one at each end
_N_VALUES = 3
# so many pixels on one straight line, to so much of the median, were interpolated if nearly all others scatter by more,
# and others are such a share of all
_LINE, _STRAIGHT, _ROUGH, _NEARLY, _SOME = 30, 1e-6, 1e-4, 0.1, 0.1
# a plateau at the largest value is one to this
_LEVEL = 1e-6
# a negative number that comes so often is a mark; and so is it, or zero, beside pixels with this share of the median
_MARK, _FAIR = 3, 0.2


def unmeasured(flux, finite):
    """Tell pixels that hold a number although nothing was measured there.

    These are long runs of one value that is tiny or negative, or whatever it is at an end of the spectrum, or in
    the middle if values hardly repeat otherwise; long straight lines among pixels that scatter; and zeros and
    repeated negative numbers between pixels with flux. The largest value of a spectrum may be a plateau, of
    saturated pixels or of a continuum without noise.

    Parameters
    ----------
    flux : numpy.ndarray
        ``(n_star, n_pixel)``, as it was read.
    finite : numpy.ndarray
        ``(n_star, n_pixel)`` bool, where it is finite.

    Returns
    -------
    numpy.ndarray
        ``(n_star, n_pixel)`` bool.
    """
    found = np.zeros(flux.shape, dtype=bool)
    if flux.shape[1] < _RUN:
        return found
    flux = np.where(finite, flux, np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        same = flux[:, 1:] == flux[:, :-1]
        largest = np.max(np.abs(flux), axis=1, initial=0.0, where=finite)
        bend = np.abs(flux[:, 2:] - 2 * flux[:, 1:-1] + flux[:, :-2])
        # cheap and necessary; few stars need the closer look
        suspect = same.sum(axis=1) >= _RUN - 1
        suspect |= (bend <= _STRAIGHT * largest[:, None]).sum(axis=1) >= _LINE - 2
        suspect |= (flux <= 0).any(axis=1)
    for row in np.flatnonzero(suspect):
        found[row] = _in_star(flux[row], finite[row], same[row], bend[row])
    return found


def _in_star(flux, finite, same, bend):
    """Return which pixels of a star were not measured, ``(n_pixel,)``."""
    found, alone = np.zeros(len(flux), dtype=bool), finite.copy()
    alone[1:] &= ~same
    if not alone.any():
        return found
    typical, top = np.median(np.abs(flux[alone])), np.max(flux[finite])
    top -= _LEVEL * abs(top)
    runs = _runs(same, _RUN - 1)
    values, ends = flux[runs[:, 0]], np.flatnonzero(finite)[[0, -1]]
    # zeros and marks that stand together say nothing of how the others were rounded
    positive = flux > 0
    n_short = (same & positive[1:]).sum() - (runs[:, 1] - runs[:, 0])[values > 0].sum()
    rounded = n_short > _ROUNDED * positive.sum()
    odd = (runs[:, 0] == ends[0]) | (runs[:, 1] == ends[1])
    if rounded:
        length = runs[:, 1] - runs[:, 0] + 1
        odd &= length >= max(_LINE, _LONGER * length[~odd].max(initial=0))
    elif len(np.unique(values)) <= _N_VALUES:
        odd[:] = True
    for first, last in runs[(values <= _TINY * typical) | (odd & (values < top))]:
        found[first : last + 1] = True
    if rounded:
        return found
    others = bend[(bend > _STRAIGHT * typical) & np.isfinite(bend)]
    if others.size > _SOME * len(flux) and np.quantile(others, _NEARLY) > _ROUGH * typical:
        # from the first to the last of three pixels each
        for first, last in _runs(bend <= _STRAIGHT * typical, _LINE - 2):
            found[first : last + 2] |= flux[first : last + 2] < top
    return found | _marks(flux, finite & ~found, _FAIR * typical)


def _runs(steps, n_step):
    """Return the first and the last pixel of runs of so many steps, or more, ``(n_run, 2)``."""
    runs = np.flatnonzero(np.diff(steps, prepend=False, append=False)).reshape(-1, 2)
    return runs[runs[:, 1] - runs[:, 0] >= n_step]


def _marks(flux, known, fair):
    """Return where zeros, or a negative number again and again, stand between pixels with a fair flux."""
    low = np.flatnonzero(known & (flux <= 0))
    values, of_value, counts = np.unique(flux[low], return_inverse=True, return_counts=True)
    low = low[((values == 0) | (counts >= _MARK))[of_value]]
    marks, rest = np.zeros(len(flux), dtype=bool), np.setdiff1d(np.flatnonzero(known), low)
    if not (low.size and rest.size):
        return marks
    right = np.searchsorted(rest, low)
    beside = (rest[np.maximum(right - 1, 0)], rest[np.minimum(right, len(rest) - 1)])
    marks[low] = (flux[beside[0]] >= fair) & (flux[beside[1]] >= fair)
    return marks
