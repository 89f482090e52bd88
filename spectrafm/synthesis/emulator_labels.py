"""From labels as the user gives them to inputs of an emulator."""

import numpy as np
import torch

from .._spectral_units import plain_numbers
from ..exceptions import InputTypeError, InputValueError
from ..quantities import QUANTITIES
from .labels import SOLAR_C_O, complete_labels

__all__ = ["label_array", "label_inputs", "label_unit", "to_numbers"]

# energies of dissociation [eV]: Huber & Herzberg 1979, Molecular Spectra and Molecular Structure IV
_DISSOCIATION = {"CN": 7.8, "OH": 4.4, "TiO": 6.9}


def label_unit(name):
    """Return the unit of a quantity, "" where it is not known or has none.

    Parameters
    ----------
    name : str
        Name of the label.

    Returns
    -------
    str
        In astropy's notation.
    """
    return QUANTITIES[name].unit if name in QUANTITIES else ""


def label_inputs(labels, names):
    """Return functions of the labels on which spectra depend smoothly.

    Parameters
    ----------
    labels : torch.Tensor
        ``(n_star, n_label)``.
    names : sequence of str
        Names of the labels.

    Returns
    -------
    torch.Tensor
        ``(n_star, n_input)``: 5040 K / teff, logarithms of microturbulence and isotopic
        ratio, the other labels as they are; square roots of the total abundance of each
        element, as weak lines grow with them; the ratio of carbon to oxygen; and for
        CN, TiO and OH logarithms of the abundances that they are made of, at no
        temperature and at that of the star. Oxygen in CO is not free for TiO and OH.
    """
    columns = dict(zip(names, labels.unbind(-1), strict=True))
    inputs = []
    for name, value in columns.items():
        if name == "teff":
            inputs.append(5040.0 / value)
        elif name in ("vmicro", "c12_c13"):
            inputs.append(torch.log(value))
        else:
            inputs.append(value)
    if "fe_h" not in columns:
        return torch.stack(inputs, dim=-1)
    total = {name: value + columns["fe_h"] for name, value in columns.items() if name.endswith("_fe")}
    inputs += [10.0 ** (value / 2) for value in (columns["fe_h"], *total.values())]
    molecules = {}
    if {"c_fe", "n_fe"} <= set(total):
        molecules["CN"] = total["c_fe"] + total["n_fe"]
    if {"c_fe", "o_fe"} <= set(total):
        ratio = 10.0 ** (total["c_fe"] - total["o_fe"] + SOLAR_C_O)
        inputs.append(ratio)
        # a grid has no stars with more carbon than oxygen; inputs stay finite for any request
        molecules["OH"] = total["o_fe"] + torch.log10((1 - ratio).clamp(min=0.03))
        if "ti_fe" in total:
            molecules["TiO"] = total["ti_fe"] + molecules["OH"]
    for name, abundance in molecules.items():
        inputs += [abundance, abundance + _DISSOCIATION[name] * 5040.0 / columns["teff"]]
    return torch.stack(inputs, dim=-1)


def to_numbers(name, value, unit, *, scalar=False):
    """Return one value, or one a star, in a unit.

    Parameters
    ----------
    name : str
        Name of the argument, for error messages.
    value, unit
        As for `spectrafm._spectral_units.plain_numbers`.
    scalar : bool, optional
        Whether all stars must share one value.

    Returns
    -------
    numpy.ndarray or float
        ``()`` or ``(n_star,)`` float64; a float if ``scalar``.

    Raises
    ------
    InputTypeError
        These are no numbers.
    InputValueError
        The unit is another one, some are masked, or there are more dimensions or values.
    """
    values = plain_numbers(name, value, unit)
    if scalar:
        if values.size != 1:
            raise InputValueError(f"{name}: shape {values.shape}; expected one number, the same for all stars")
        return values.item()
    if values.ndim > 1:
        raise InputValueError(f"{name}: shape {values.shape}; expected a number, or an array with one a star")
    return values


def label_array(labels, names, ranges):
    """Check labels given by name and complete them.

    Parameters
    ----------
    labels : dict of str to float, array_like, `~astropy.units.Quantity` or `~astropy.table.Column`
        Each a number or one value a star.
    names : sequence of str
        Names of the labels of the emulator.
    ranges : dict of str to tuple of float
        Smallest and largest value of each.

    Returns
    -------
    numpy.ndarray
        ``(n_star, n_label)`` float64, or ``(n_label,)`` where all labels are numbers.

    Raises
    ------
    InputTypeError
        A value is no number.
    InputValueError
        A label is not known, missing, masked, in a unit that does not fit, or out of range; or
        lengths differ.
    """
    if not hasattr(labels, "keys"):
        raise InputTypeError(f"labels: got {type(labels).__name__}; expected a dict such as {{'teff': 4800}}")
    unknown = [name for name in labels if name not in names]
    if unknown:
        raise InputValueError(f"labels: unknown label {unknown[0]!r}; this emulator knows {', '.join(names)}")
    for name in ("teff", "logg"):
        if name not in labels:
            raise InputValueError(f"labels: {name} is missing; give teff and logg at least")
    values = {name: to_numbers(name, labels[name], label_unit(name)) for name in labels}
    lengths = {name: len(value) for name, value in values.items() if value.ndim}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{n} of {name}" for name, n in lengths.items())
        raise InputValueError(f"labels: {told}; expected numbers, or arrays of one length")
    _check_ranges(values, ranges)
    rows = zip(*np.broadcast_arrays(*(np.atleast_1d(value) for value in values.values())), strict=True)
    complete = [complete_labels(dict(zip(values, row, strict=True))) for row in rows]
    columns = {name: np.array([star[name] for star in complete]) for name in names}
    _check_ranges(columns, ranges)
    array = np.stack(list(columns.values()), axis=-1)
    return array if lengths else array[0]


def _check_ranges(values, ranges):
    for name, value in values.items():
        lower, upper = ranges[name]
        outside = ~((value >= lower) & (value <= upper))
        if outside.any():
            unit = f" {label_unit(name)}".rstrip()
            raise InputValueError(
                f"labels: {name} is {value[outside].flat[0]:.5g}; expected a value from {lower:.5g} to "
                f"{upper:.5g}{unit}, where the grid has stars that the emulator was trained on"
            )
