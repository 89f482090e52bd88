"""The smallest errors that any method can reach: the bound of Cramér and Rao."""

import warnings

import numpy as np
import torch

from .._warning_filters import catch_warnings
from ..exceptions import InputTypeError, InputValueError
from ..quantities import QUANTITIES
from .emulator_labels import to_numbers

__all__ = ["cramer_rao_bound", "flux_jacobian"]

# least change of the spectrum by a unit of a scaled label, beside a mix of the others
_SMALLEST_EIGENVALUE = 1e-12
# noise that a signal-to-noise ratio may refer to
_NOISE = "flux", "continuum"
# stars at a time
_BATCH = 8


def flux_jacobian(emulator, labels, free=None, **instrument):
    """Return spectra and their derivatives with respect to labels.

    Derivatives are exact ones of the emulator, by forward-mode differentiation.

    Parameters
    ----------
    emulator : Emulator
        The emulator.
    labels : torch.Tensor
        ``(n_star, n_label)``, of the type and on the device of the emulator.
    free : sequence of str, optional
        Labels to derive with respect to, all when left out; also names of
        parameters that are given in ``instrument``.
    **instrument
        As for `Emulator.flux`; but for ``wavelength`` numbers, the same for all stars.

    Returns
    -------
    flux : torch.Tensor
        ``(n_star, n_pixel)``.
    jacobian : torch.Tensor
        ``(n_star, n_pixel, n_free)``.
    """
    names = tuple(emulator.label_names)
    free = names if free is None else tuple(free)
    n_star, n_free = len(labels), len(free)
    wavelength = instrument.pop("wavelength", None)
    # each star as often as there are directions to go in
    values = {"labels": labels.repeat_interleave(n_free, dim=0)}
    values |= {k: labels.new_full((n_star * n_free,), float(v)) for k, v in instrument.items() if v is not None}
    directions = {name: torch.zeros_like(value) for name, value in values.items()}
    for i, name in enumerate(free):
        if name in names:
            directions["labels"][i::n_free, names.index(name)] = 1.0
        else:
            directions[name][i::n_free] = 1.0

    def flux_of(*arguments):
        given = dict(zip(values, arguments, strict=True))
        return emulator.flux(given.pop("labels"), wavelength=wavelength, **given)

    with catch_warnings():
        # torch itself loads functions it has deprecated
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        flux, slope = torch.func.jvp(flux_of, tuple(values.values()), tuple(directions.values()))
    return flux[::n_free], slope.unflatten(0, (n_star, n_free)).mT


def cramer_rao_bound(
    emulator,
    labels,
    snr,
    window=None,
    *,
    free=None,
    resolving_power=None,
    vsini=None,
    vmacro=None,
    spectral_axis=None,
    noise="flux",
):
    r"""Return the smallest standard errors that any unbiased method can reach.

    For independent Gaussian noise :math:`\sigma_i` of each pixel, :math:`F_i / \mathrm{snr}` or
    :math:`1 / \mathrm{snr}`, the Fisher matrix is :math:`\sum_i \partial_j F_i\, \partial_k F_i / \sigma_i^2`, and
    the bound on the error of a label is the root of the diagonal of its inverse: all
    labels in ``free`` are unknown at the same time, the others and the continuum known.

    Parameters
    ----------
    emulator : Emulator
        The emulator; computed in double precision.
    labels : dict of str to float, array_like or `~astropy.units.Quantity`
        ``teff`` and ``logg`` at least, each a number or one value a star; see
        `Emulator.label_array`.
    snr : float or array_like
        Signal-to-noise ratio of each pixel, for all stars or ``(n_star,)``.
    window : tuple of float or `~astropy.units.Quantity`, optional
        Wavelengths [Angstrom, vacuum] between which pixels are used; all when left out.
    free : sequence of str, optional
        The unknown labels; all when left out.
    resolving_power : float, optional
        Of the instrument; that of the emulator when left out.
    vsini, vmacro : float or `~astropy.units.Quantity` ['speed'], optional
        Rotation and macroturbulence, the same for all stars; plain numbers are km / s.
    spectral_axis : `~astropy.units.Quantity`, optional
        The pixels, ``(n_pixel,)``, in vacuum and at rest; those of the emulator when left
        out, which are finer than those of an instrument: give your own.
    noise : {"flux", "continuum"}, optional
        Flux that ``snr`` refers to: the flux of each pixel, with less noise within lines, or the continuum, a flux
        of 1, with the same noise everywhere.

    Returns
    -------
    `~astropy.table.Table`
        One row a star, one column a free label, in its unit, with the bound; infinite
        where the spectrum does not depend on the label.

    Raises
    ------
    InputTypeError, InputValueError
        Labels, pixels or parameters as in `Emulator.spectrum`; a signal-to-noise ratio
        that is not positive; a window without pixels; free labels that are not known, or
        that cannot be distinguished; another ``noise``.

    Notes
    -----
    See Rao (1945) and Cramér (1946); for stellar spectra Ting et al. (2017, ApJ 843, 32).
    """
    from astropy.table import Column, Table

    if noise not in _NOISE:
        raise InputValueError(f"noise: {noise!r}; expected {' or '.join(map(repr, _NOISE))}")
    free = _free_labels(emulator.label_names, free)
    array = np.atleast_2d(emulator.label_array(labels))
    _, wavelength = emulator.target_wavelength(spectral_axis)
    wavelength = wavelength[_inside(wavelength, window)]
    given = {"resolving_power": resolving_power, "vsini": vsini, "vmacro": vmacro}
    units = {"resolving_power": "", "vsini": "km / s", "vmacro": "km / s"}
    given = {k: to_numbers(k, value, units[k], scalar=True) for k, value in given.items() if value is not None}
    snr = _snr(snr, len(array))
    emulator = emulator.to(dtype=torch.float64)
    bounds = []
    for first in range(0, len(array), _BATCH):
        batch = torch.from_numpy(array[first : first + _BATCH]).to(emulator.device)
        flux, jacobian = flux_jacobian(emulator, batch, free, wavelength=wavelength, **given)
        relative = jacobian / flux[..., None] if noise == "flux" else jacobian  # (n_batch, n_pixel, n_free)
        fisher = (relative.mT @ relative).cpu().numpy() * snr[first : first + _BATCH, None, None] ** 2
        bounds += [_bound(matrix, free) for matrix in fisher]
    bounds = np.array(bounds)  # (n_star, n_free)
    columns = []
    for name, values in zip(free, bounds.T, strict=True):
        quantity = QUANTITIES.get(name)
        unit, told = (quantity.error_unit, quantity.description) if quantity else ("", name)
        columns.append(Column(values, name=name, unit=unit, description=f"Smallest standard error of: {told}"))
    return Table(columns, meta={"emulator": emulator.info.name} | given)


def _free_labels(names, free):
    free = tuple(names) if free is None else (free,) if isinstance(free, str) else tuple(free)
    unknown = [name for name in free if name not in names]
    if unknown or not free or len(set(free)) < len(free):
        problem = f"unknown label {unknown[0]!r}" if unknown else f"{free}"
        raise InputValueError(f"free: {problem}; expected one or more of {', '.join(names)}, each once")
    return free


def _inside(wavelength, window):
    """Return which pixels are used, ``(n_pixel,)`` bool."""
    if window is None:
        return np.ones(len(wavelength), dtype=bool)
    ends = to_numbers("window", window, "AA")
    if ends.shape != (2,):
        raise InputTypeError(f"window: {window!r}; expected two wavelengths, for example (15740, 15790) * u.AA")
    inside = (wavelength >= ends[0]) & (wavelength <= ends[1])
    if not inside.any():
        raise InputValueError(
            f"window: no pixel from {ends[0]:g} to {ends[1]:g} Angstrom; "
            f"expected a range within {wavelength.min():.2f} to {wavelength.max():.2f} Angstrom"
        )
    return inside


def _snr(snr, n_star):
    """Return the signal-to-noise ratio of each star, ``(n_star,)``."""
    values = to_numbers("snr", snr, "")
    bad = ~((values > 0) & np.isfinite(values))
    if bad.any() or values.shape not in ((), (n_star,)):
        problem = f"{values[bad].flat[0]:g}" if bad.any() else f"{len(values)} values"
        raise InputValueError(f"snr: {problem}; expected a positive number, or one for each of {n_star} stars")
    return np.broadcast_to(values, (n_star,))


def _bound(fisher, free):
    """Return the roots of the diagonal of the inverse of a Fisher matrix."""
    diagonal = np.diagonal(fisher)
    known = diagonal > 0
    scale = np.sqrt(diagonal[known])
    value, vector = np.linalg.eigh(fisher[np.ix_(known, known)] / np.outer(scale, scale))
    if known.any() and value[0] < _SMALLEST_EIGENVALUE:
        alike = [name for name, v in zip(np.array(free)[known], vector[:, 0], strict=True) if abs(v) > 0.1]
        raise InputValueError(
            f"free: {', '.join(alike)} cannot be distinguished with these pixels; "
            "use more of them, or leave some of these labels out of free"
        )
    bound = np.full(len(free), np.inf)
    bound[known] = np.sqrt((vector**2 / value).sum(axis=1)) / scale
    return bound
