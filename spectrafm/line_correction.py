"""Lines that a model expects too deep or too shallow, put right by few stars with labels."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["LineCorrection", "depth_ratio"]

# a pixel whose depth is of this size or less, relative to the continuum, keeps it
_DEPTH_FLOOR, _LEAST, _MOST = 0.022, 0.2, 3.0


@dataclass(frozen=True, eq=False)
class LineCorrection:
    """Divides the depths of lines by factors.

    Attributes
    ----------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` float64 [Angstrom, vacuum, rest frame], ascending.
    factor : numpy.ndarray
        ``(n_pixel,)`` depth in the given stars over that which the model expects.
    """

    wavelength: np.ndarray
    factor: np.ndarray

    def at(self, wavelength):
        """Return the factors elsewhere.

        Parameters
        ----------
        wavelength : numpy.ndarray
            [Angstrom].

        Returns
        -------
        numpy.ndarray
            Interpolated; 1 beyond the ends.
        """
        return np.interp(wavelength, self.wavelength, self.factor, left=1.0, right=1.0)

    def __call__(self, arrays):
        """Return a normalised spectrum with lines as the model expects them.

        Parameters
        ----------
        arrays : SpectrumArrays
            Divided by a continuum.

        Returns
        -------
        SpectrumArrays
        """
        factor = self.at(arrays.wavelength)
        return replace(arrays, flux=1 - (1 - arrays.flux) / factor, sigma=arrays.sigma / factor)

    def undo(self, wavelength, flux, sigma):
        """Return fluxes that the model gives as stars have them.

        Parameters
        ----------
        wavelength : numpy.ndarray
            ``(n_pixel,)`` [Angstrom].
        flux, sigma : numpy.ndarray
            ``(..., n_pixel)``, normalised.

        Returns
        -------
        flux, sigma : numpy.ndarray
        """
        factor = self.at(wavelength)
        return 1 - (1 - flux) * factor, sigma * factor

    def after(self, before):
        """Return what does the work of another correction and then of this one.

        Parameters
        ----------
        before : LineCorrection or None
            The other.

        Returns
        -------
        LineCorrection
        """
        if before is None:
            return self
        wavelength = np.union1d(self.wavelength, before.wavelength)
        return LineCorrection(wavelength, self.at(wavelength) * before.at(wavelength))


def depth_ratio(flux, expected, strength):
    """Return by what depths of lines are off, in the mean over stars.

    Parameters
    ----------
    flux : numpy.ndarray
        ``(n_star, n_pixel)`` normalised fluxes; NaN where there is none.
    expected : numpy.ndarray
        ``(n_star, n_pixel)`` what the model expects of stars with their labels.
    strength : float
        From 0, nothing is corrected, to 1.

    Returns
    -------
    numpy.ndarray
        ``(n_pixel,)`` factors, 1 where there are no lines.
    """
    there = np.isfinite(flux)
    depth, wanted = np.where(there, 1 - flux, 0.0), np.where(there, 1 - expected, 0.0)
    prior = _DEPTH_FLOOR**2 * there.sum(axis=0) + 1e-12
    ratio = ((depth * wanted).sum(axis=0) + prior) / ((wanted**2).sum(axis=0) + prior)
    return np.clip(ratio, _LEAST, _MOST) ** strength
