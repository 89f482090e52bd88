"""The wavelength windows in which spectra are synthesized, and how finely."""

from dataclasses import dataclass

import numpy as np

from .._spectral_units import SPEED_OF_LIGHT
from ..exceptions import InputTypeError, InputValueError

__all__ = ["WINDOWS", "Window", "get_window"]


@dataclass(frozen=True)
class Window:
    """A wavelength range, the sampling of its stored spectra and the settings of their synthesis.

    Attributes
    ----------
    name : str
        Name in `WINDOWS`.
    lower, upper : float
        Ends [Angstrom, vacuum] of what a user gets.
    resolving_power : float
        Nominal resolving power of the instrument.
    base_resolving_power : float
        Resolving power of the stored spectra.
    step : float
        Step of the stored spectra, even in the logarithm of the wavelength [km / s].
    margin : float
        What stored spectra have beyond each end [km / s], for shifts and convolutions.
    synthesis_step : float
        Largest step of the synthesis itself [km / s].
    threshold : float
        Lines with a smaller ratio of central to continuous opacity are left out.
    outer_layer_step : int
        Every how many of the outer layers of the atmosphere are used.
    n_angle : int
        Number of Gauss-Legendre angles of the flux integral.
    """

    name: str
    lower: float
    upper: float
    resolving_power: float
    base_resolving_power: float
    step: float
    margin: float
    synthesis_step: float
    threshold: float
    outer_layer_step: int
    n_angle: int

    @property
    def wavelength(self):
        """Wavelengths of the stored spectra.

        Returns
        -------
        numpy.ndarray
            ``(n_pixel,)`` float64 [Angstrom, vacuum], even in the logarithm.
        """
        first = np.log(self.lower) - self.margin / SPEED_OF_LIGHT
        last = np.log(self.upper) + self.margin / SPEED_OF_LIGHT
        n_step = int(np.ceil((last - first) * SPEED_OF_LIGHT / self.step))
        return np.exp(first + np.arange(n_step + 1) * (self.step / SPEED_OF_LIGHT))


#: The windows by name.
WINDOWS = {
    w.name: w
    for w in (
        Window("apogee", 15_100.0, 17_000.0, 22_500.0, 50_000.0, 2.5, 600.0, 2.0, 0.003, 4, 3),
        Window("gaia_rvs", 8_450.0, 8_720.0, 11_500.0, 35_000.0, 3.0, 600.0, 1.75, 0.003, 2, 3),
        Window("optical", 3_600.0, 7_450.0, 3_000.0, 10_000.0, 12.0, 1_200.0, 2.5, 0.002, 4, 3),
    )
}


def get_window(window):
    """Look a window up.

    Parameters
    ----------
    window : str or Window
        Name in `WINDOWS`, or a window, which comes back as it is.

    Returns
    -------
    Window

    Raises
    ------
    InputTypeError
        It is neither.
    InputValueError
        The name is not known; the message lists the known ones.
    """
    if isinstance(window, Window):
        return window
    if not isinstance(window, str):
        raise InputTypeError(f"window: got {type(window).__name__}, expected a name or a Window")
    try:
        return WINDOWS[window]
    except KeyError:
        raise InputValueError(f"window: unknown {window!r}; known are: {', '.join(WINDOWS)}") from None
