"""Robust scatter, and values apart from their masks, in NumPy alone."""

import numpy as np

__all__ = ["DIFFERENCE_TO_NOISE", "MAD_TO_STD", "mad_std", "neighbour_differences", "robust_rms", "split_mask"]

#: What a median absolute deviation is multiplied by for the standard deviation of a Gaussian.
MAD_TO_STD = 1.4826
#: What the median of `neighbour_differences` is multiplied by for the noise of a pixel (Stoehr et al. 2008).
DIFFERENCE_TO_NOISE = MAD_TO_STD / 6**0.5


def mad_std(x):
    """Return the robust standard deviation of numbers about their median.

    Parameters
    ----------
    x : numpy.ndarray
        Numbers of any shape; those that are not finite are left out.

    Returns
    -------
    float
        1.4826 times the median absolute deviation; NaN where no number is finite.
    """
    x = np.asarray(x)
    x = x[np.isfinite(x)]
    return robust_rms(x - np.median(x)) if x.size else float("nan")


def robust_rms(x):
    """Return the robust root mean square of numbers, about zero.

    Parameters
    ----------
    x : numpy.ndarray
        Numbers of any shape; those that are not finite are left out.

    Returns
    -------
    float
        1.4826 times the median of their size; NaN where no number is finite.
    """
    x = np.asarray(x)
    x = x[np.isfinite(x)]
    return float(MAD_TO_STD * np.median(np.abs(x))) if x.size else float("nan")


def split_mask(given):
    """Split values from their mask.

    Parameters
    ----------
    given : array_like
        Array, masked array, column of a table or of pandas, or `~astropy.units.Quantity`.

    Returns
    -------
    values : array_like
        What is under the mask, with its unit.
    mask : numpy.ndarray or False
        The mask.
    """
    mask = getattr(given, "mask", False)
    # that of pandas is a method
    mask = False if callable(mask) else np.asarray(mask)
    given = getattr(given, "unmasked", given)
    unit = getattr(given, "unit", None)
    return (np.ma.getdata(given) if isinstance(given, np.ma.MaskedArray) and unit is None else given), mask


def neighbour_differences(flux):
    """Return the size of what pixels differ from their neighbours but one, which is noise where lines are wide.

    Parameters
    ----------
    flux : numpy.ndarray
        ``(..., n_pixel)``.

    Returns
    -------
    numpy.ndarray
        ``(..., n_pixel - 4)``, of all pixels but two at each end.
    """
    return np.abs(2 * flux[..., 2:-2] - flux[..., :-4] - flux[..., 4:])
