"""How dust dims the light of stars."""

import numpy as np
from astropy import units as u

from ..exceptions import MissingDependencyError

__all__ = ["extinction"]


def extinction(wavelength):
    """Return the mean extinction of the Galaxy, R(V) = 3.1 (Gordon et al. 2023, arXiv:2304.01991).

    Parameters
    ----------
    wavelength : array_like
        Wavelengths [Angstrom], of any shape.

    Returns
    -------
    numpy.ndarray
        A(wavelength) / A(V), float64, of the same shape.

    Raises
    ------
    MissingDependencyError
        ``dust_extinction`` is not installed.
    """
    try:
        from dust_extinction.parameter_averages import G23
    except ImportError as error:
        raise MissingDependencyError(
            "Stars cannot be reddened without the package dust_extinction; run: pip install 'spectrafm[training]'"
        ) from error
    wavelength = np.asarray(wavelength, dtype=np.float64)
    return np.asarray(G23(Rv=3.1)(wavelength.ravel() * u.AA)).reshape(wavelength.shape)
