"""How much the settings of the windows cost: spectra beside those of a much finer synthesis."""

import time
from dataclasses import replace

import numpy as np

from ..synthesis import WINDOWS, get_window, synthesize
from ..synthesis.synthesizer import check_ready

__all__ = ["benchmark_settings"]

_STARS = {
    "dwarf, 7500 K": {"teff": 7500, "logg": 4.2, "fe_h": 0.0},
    "Sun": {"teff": 5777, "logg": 4.44, "fe_h": 0.0},
    "giant, 4800 K, [Fe/H] -2.3": {"teff": 4800, "logg": 1.8, "fe_h": -2.3},
    "giant, 3800 K": {"teff": 3800, "logg": 1.0, "fe_h": 0.0},
    "dwarf, 3600 K": {"teff": 3600, "logg": 4.8, "fe_h": 0.0},
}
_FINE = {"synthesis_step": 1.0, "threshold": 0.0005, "outer_layer_step": 1, "n_angle": 6}


def benchmark_settings(windows=tuple(WINDOWS)):
    """Synthesize some stars as grids have them, and much more finely.

    Parameters
    ----------
    windows : sequence of str or Window, optional
        Names or windows.

    Yields
    ------
    str
        Lines of the report: the largest and the root mean square difference of the flux at the
        nominal resolving power, and the time that a star takes on one core.

    Raises
    ------
    InputValueError, MissingDependencyError
        Spectra cannot be synthesized here.
    """
    windows = [get_window(window) for window in windows]
    for window in windows:
        check_ready(window)
    yield (
        "largest and root mean square difference of the flux from a synthesis with steps of "
        f"{_FINE['synthesis_step']:g} km/s, threshold {_FINE['threshold']:g}, all layers and {_FINE['n_angle']} angles"
    )
    for window in windows:
        yield (
            f"{window.name}: R {window.resolving_power:,.0f}; steps of {window.synthesis_step:g} km/s, threshold "
            f"{window.threshold:g}, one of {window.outer_layer_step} outer layers, {window.n_angle} angles"
        )
        for name, labels in _STARS.items():
            start = time.perf_counter()
            flux = synthesize(labels, window).flux.value
            seconds = time.perf_counter() - start
            difference = flux - synthesize(labels, replace(window, **_FINE)).flux.value
            rms = np.sqrt((difference**2).mean())
            yield f"  {name:<27} {np.abs(difference).max():.4f} {rms:.5f}  {seconds:5.1f} s"
