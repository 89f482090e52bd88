"""From a grid of synthetic spectra to an emulator, with its errors on stars that were held out."""

import numpy as np
import torch

from ..exceptions import InputValueError
from .emulator import Emulator
from .emulator_files import EmulatorInfo, stored_precision
from .emulator_labels import label_inputs
from .gaussian_process import fit_gaussian_process

__all__ = ["emulator_errors", "train_emulator"]

_BINS = {"teff": (-np.inf, 4000.0, 5000.0, 6000.0, np.inf), "fe_h": (-np.inf, -2.0, -1.0, -0.3, np.inf)}
# share of the stars at either end of a label that does not count for its range
_RANGE_TAIL = 0.002


def train_emulator(grid, *, name=None, n_component=100, held_out=0.1, n_step=100, n_tuning=1200, seed=0):
    r"""Train an emulator on a grid.

    The spectra, as :math:`\sqrt{-\ln F}`, are expanded in principal components, and a
    Gaussian process is fitted to their coefficients (`fit_gaussian_process`).

    Parameters
    ----------
    grid : Grid
        The grid, see `spectrafm.synthesis.load_grid`.
    name : str, optional
        Name of the emulator, by default that of the window.
    n_component : int, optional
        Number of principal components; fewer where there are fewer stars.
    held_out : float, optional
        Share of the stars, drawn at random, that are used only to measure the errors of the
        emulator.
    n_step : int, optional
        Number of steps of the optimisation of the process's lengths.
    n_tuning : int, optional
        Number of stars that are used for this.
    seed : int, optional
        Seed of these draws.

    Returns
    -------
    Emulator
        As it will be when saved and loaded; the errors are in ``info.errors``, see
        `emulator_errors`.

    Raises
    ------
    InputValueError
        The grid has fewer than 20 stars, impossible labels or flux, or ``held_out``
        leaves no star.
    """
    from .. import __version__

    labels, flux = _checked(grid)
    n_star = len(labels)
    order = np.random.default_rng(seed).permutation(n_star)
    n_test = round(held_out * n_star)
    if not (0 < n_test <= n_star // 2 and n_component >= 1):
        raise InputValueError(
            f"held_out, n_component: {held_out} of {n_star} stars and {n_component} components; "
            "expected from one star to half of them, and at least one component"
        )
    test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
    absorption = torch.from_numpy(np.sqrt(-np.log(flux[train], dtype=np.float64)))  # (n_train, n_pixel)
    mean = absorption.mean(0)
    score, components = _principal_components(absorption - mean, min(n_component, len(train) - 1))
    del absorption
    inputs = label_inputs(torch.from_numpy(labels[train]), grid.label_names)  # (n_train, n_input)
    input_mean, input_scale = inputs.mean(0), inputs.std(0)
    # a label that is the same for all stars
    input_scale = torch.where(input_scale > 1e-9, input_scale, 1.0)
    inputs = (inputs - input_mean) / input_scale
    spread = score.std(0)
    process, _ = fit_gaussian_process(inputs, score / spread, spread**2, n_tuning=n_tuning, n_step=n_step, seed=seed)
    tensors = {
        "mean": mean,
        "components": stored_precision(components),
        "input_mean": input_mean,
        "input_scale": input_scale,
        "length": process.length,
        "points": process.points,
        "coefficient": process.coefficient * spread,
        "slope": process.slope * spread,
        "offset": process.offset * spread,
    }
    settings = {"n_train": len(train), "n_held_out": len(test), "seed": seed, "n_step": n_step, "n_tuning": n_tuning}
    info = _info(grid, labels, name)
    info.reach = _reach(process.points)
    info.grid["training"] = settings | {"version": __version__}
    emulator = Emulator(info, {key: tensor.float() for key, tensor in tensors.items()})
    info.errors = emulator_errors(emulator, labels[test], flux[test])
    return emulator


def _checked(grid):
    """Return labels and flux of a grid after a check."""
    labels, flux = np.asarray(grid.labels, dtype=np.float64), np.asarray(grid.flux)
    shape = (len(labels), len(grid.wavelength))
    if labels.ndim != 2 or labels.shape[1] != len(grid.label_names) or flux.shape != shape or len(labels) < 20:
        raise InputValueError(
            f"grid: labels {labels.shape}, flux {flux.shape}, {len(grid.label_names)} names, {len(grid.wavelength)} "
            "wavelengths; expected at least 20 stars, each with all labels and the flux at all wavelengths"
        )
    bad = ~(np.isfinite(labels).all(axis=1) & (flux > 0).all(axis=1) & (flux < 1.1).all(axis=1))
    if bad.any():
        raise InputValueError(
            f"grid: {bad.sum()} stars, first number {np.flatnonzero(bad)[0]}, have labels that are not finite or "
            "a flux not between 0 and 1.1; expected continuum-normalised spectra"
        )
    return labels, np.minimum(flux, 1)


def _principal_components(deviation, n_component):
    """Return scores ``(n_star, n_component)`` and components ``(n_component, n_pixel)``, the largest first."""
    value, vector = torch.linalg.eigh(deviation @ deviation.T)
    root, vector = value[-n_component:].flip(0).clamp(min=0).sqrt(), vector[:, -n_component:].flip(1)
    root = root.clamp(min=1e-9 * root[0])
    return vector * root, (vector.T @ deviation) / root[:, None]


def _reach(points):
    """Return a distance within which nearly all stars of the grid have a neighbour, and new ones like them too."""
    distance = torch.cdist(points, points).fill_diagonal_(float("inf")).min(dim=1).values
    return 1.1 * distance.quantile(0.99).item()


def _info(grid, labels, name):
    """Return facts about the grid."""
    window, log = grid.meta["window"], np.log(grid.wavelength)
    lower, upper = np.quantile(labels, (_RANGE_TAIL, 1 - _RANGE_TAIL), axis=0)
    return EmulatorInfo(
        name=name or window["name"],
        label_names=tuple(grid.label_names),
        label_ranges={n: (float(a), float(b)) for n, a, b in zip(grid.label_names, lower, upper, strict=True)},
        first_wavelength=float(grid.wavelength[0]),
        log_step=float((log[-1] - log[0]) / (len(log) - 1)),
        n_pixel=len(log),
        window=(window["lower"], window["upper"]),
        base_resolving_power=window["base_resolving_power"],
        grid=grid.meta | {"n_star": len(labels), "n_failure": len(grid.failures)},
    )


def emulator_errors(emulator, labels, flux):
    """Measure an emulator on stars it was not trained on.

    Parameters
    ----------
    emulator : Emulator
        The emulator.
    labels : numpy.ndarray
        ``(n_star, n_label)``.
    flux : numpy.ndarray
        ``(n_star, n_pixel)`` at the emulator's wavelengths.

    Returns
    -------
    dict
        For ``"all"`` stars and those in bins of ``"teff"`` and ``"fe_h"``: their number
        ``n``, the ``median`` absolute error of the flux of all pixels, and the median
        ``rms``, the 95th percentile ``rms_95`` and the largest ``rms_max`` of the root mean
        square errors of the stars.
    """
    with torch.inference_mode():
        answer = [
            emulator.flux(torch.from_numpy(part)).cpu().numpy()
            for part in np.array_split(labels, -(-len(labels) // 64))
        ]
    error = np.abs(np.concatenate(answer) - flux)
    rms = np.sqrt((error**2).mean(axis=1, dtype=np.float64))

    def figures(stars):
        values = (np.median(error[stars]), np.median(rms[stars]), np.quantile(rms[stars], 0.95), rms[stars].max())
        rounded = (float(f"{value:.3g}") for value in values)
        return {"n": int(stars.sum())} | dict(zip(("median", "rms", "rms_95", "rms_max"), rounded, strict=True))

    errors = {"all": figures(np.ones(len(labels), dtype=bool))}
    for name, edges in _BINS.items():
        if name not in emulator.label_names:
            continue
        value = labels[:, emulator.label_names.index(name)]
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            inside = (value >= low) & (value < high)
            if inside.any():
                errors[f"{_told(low, '', ' <= ')}{name}{_told(high, ' < ', '')}"] = figures(inside)
    return errors


def _told(edge, before, after):
    return f"{before}{edge:g}{after}" if np.isfinite(edge) else ""
