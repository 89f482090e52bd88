"""Spectra of stars from first principles, for any labels, and grids of them.

Atmospheres, lines and radiative transfer come from other packages and files; see
the extra ``spectrafm[synthesis]`` and ``spectrafm synthesize --prepare``. Nothing in
the rest of spectrafm needs them.
"""

from .atmosphere import atmosphere_columns, prepare_atmospheres
from .emulator import Emulator, load_emulator
from .emulator_training import emulator_errors, train_emulator
from .fisher import cramer_rao_bound
from .fitting import LabelFit, fit_labels
from .grid import Grid, build_grid, load_grid, load_grid_recipe
from .instrument import observe
from .labels import LABEL_RANGES, SYNTHESIS_LABELS, complete_labels, draw_labels, microturbulence
from .linelists import LineList, load_linelist, prepare_linelists
from .synthesizer import synthesize, synthesize_normalized
from .windows import WINDOWS, Window, get_window

__all__ = [
    "LABEL_RANGES",
    "SYNTHESIS_LABELS",
    "WINDOWS",
    "Emulator",
    "Grid",
    "LabelFit",
    "LineList",
    "Window",
    "atmosphere_columns",
    "build_grid",
    "complete_labels",
    "cramer_rao_bound",
    "draw_labels",
    "emulator_errors",
    "fit_labels",
    "get_window",
    "load_emulator",
    "load_grid",
    "load_grid_recipe",
    "load_linelist",
    "microturbulence",
    "observe",
    "prepare_atmospheres",
    "prepare_linelists",
    "synthesize",
    "synthesize_normalized",
    "train_emulator",
]
