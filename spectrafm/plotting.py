"""Figures: many stars, a spectrum with its labels, labels against true ones, and whether errors can be trusted."""

import textwrap

import numpy as np
from astropy.table import Row

from ._known import known_labels, refuse_other_rows, table_columns
from ._meant_names import may_number_row
from ._numerics import mad_std
from ._spectral_units import air_to_vacuum, doppler_factor, plain_numbers, radial_velocity
from ._star_names import name_texts
from ._table_formats import column_values
from .continuum import normalizer_from_dict
from .exceptions import InputTypeError, InputValueError
from .flags import describe_flags
from .quantities import QUANTITIES, column_unit, get_quantity
from .results import check_row, label_names, label_values, round_to_error

__all__ = [
    "plot_comparison",
    "plot_coverage",
    "plot_labels",
    "plot_pit",
    "plot_sensitivity",
    "plot_spectrum",
    "plot_z_scores",
    "spectrum_size",
]

# blue, vermilion and grey of Okabe & Ito, distinguished by everyone
_BLUE, _VERMILION, _GREY = "#0072B2", "#D55E00", "#707070"
# above this, error bars would hide the points: one typical cross instead
_MOST_ERROR_BARS = 200
_FLAG_WIDTH = 34
_BAND = "95 % where errors are right"

_SYMBOLS = {
    "teff": r"$T_\mathrm{eff}$",
    "logg": r"$\log\,g$",
    "alpha_m": r"[$\alpha$/M]",
    "m_h": "[M/H]",
    "vmicro": r"$v_\mathrm{micro}$",
    "vsini": r"$v\,\sin i$",
    "c12_c13": r"$^{12}$C/$^{13}$C",
    "rv_offset": r"$v_r$ left",
    "a_k": r"$A_K$",
    "phot_g_mean_mag": r"$G$",
    "phot_bp_mean_mag": r"$G_\mathrm{BP}$",
    "phot_rp_mean_mag": r"$G_\mathrm{RP}$",
    "j_mag": r"$J$",
    "h_mag": r"$H$",
    "k_mag": r"$K_s$",
}
_UNITS = {"dex(cm s-2)": r"dex(cm s$^{-2}$)", "km / s": r"km s$^{-1}$"}


def _symbol(name):
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    element, slash, reference = name.partition("_")
    return f"[{element.title()}/{reference.title()}]" if slash and name in QUANTITIES else name


def _unit(name):
    unit = QUANTITIES[name].unit if name in QUANTITIES else ""
    return _UNITS.get(unit, unit)


def _axis_label(name):
    unit = _unit(name)
    return f"{_symbol(name)}  [{unit}]" if unit else _symbol(name)


def _check_table(table):
    if not hasattr(table, "colnames"):
        raise InputTypeError(f"table: {type(table).__name__}, expected the Table that SpectraFM.infer returns")
    if isinstance(table, Row):
        raise InputTypeError(f"table: a Row, expected the whole Table; give its number as row={table.index}")


def _column(table, name, argument, optional=False, unit=None):
    """Return a column in the unit that axes name, or in one that is given."""
    _check_table(table)
    if name in table.colnames:
        return column_values(table, name, column_unit(name) if unit is None else unit)
    if optional:
        return np.zeros(len(table))
    raise InputValueError(f"{argument}: no column {name!r}; the table has {', '.join(table.colnames)}")


def _new_axes(size):
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def plot_labels(table, x="teff", y="logg", color="fe_h", ax=None):
    """Plot two labels against each other; by default a Kiel diagram.

    Parameters
    ----------
    table : `~astropy.table.Table`
        As `~spectrafm.SpectraFM.infer` returns it, with units or without. Labels are drawn
        in the units of the registry.
    x, y : str, optional
        Columns of the two axes. Axes of ``teff``, ``logg`` and magnitudes run
        backwards, as usual.
    color : str or None, optional
        Column that colours the points; without colours when None, or when it is
        the default and the table has no ``fe_h``.
    ax : `~matplotlib.axes.Axes`, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    `~matplotlib.axes.Axes`
        Stars without flags are filled circles, flagged ones open diamonds;
        stars without both labels are not drawn. Up to 200 stars have error
        bars, more have one typical cross in a corner.

    Raises
    ------
    InputValueError
        The table has no such column, or has it in a unit that does not fit.
    InputTypeError
        This is not a table.
    """
    values = [_column(table, name, argument) for name, argument in ((x, "x"), (y, "y"))]
    errors = [_column(table, f"e_{name}", "", optional=True) for name in (x, y)]
    if color == "fe_h" and color not in getattr(table, "colnames", ()):
        color = None
    shade = None if color is None else _column(table, color, "color")
    flagged = _column(table, "flag", "", optional=True) != 0
    shown = np.isfinite(values[0]) & np.isfinite(values[1])
    ax = _new_axes((6.4, 5.2)) if ax is None else ax

    if shade is not None:
        ax, to_color = _color_scale(ax, shade[shown], _axis_label(color))
    colors = np.full(len(shown), _BLUE) if shade is None else to_color(shade)
    handles = _draw_stars(ax, values, errors, shown, flagged, colors)
    for name, values_shown, axis in ((x, values[0][shown], ax.xaxis), (y, values[1][shown], ax.yaxis)):
        axis.set_label_text(_axis_label(name))
        backwards = name in ("teff", "logg") or name.endswith("_mag")
        if backwards and values_shown.size:
            axis.set_inverted(True)
    if shown.sum() > _MOST_ERROR_BARS:
        _typical_cross(ax, [np.nanmedian(error[shown]) for error in errors])
    if handles:
        ax.legend(handles=handles, frameon=False, loc="upper left", fontsize="small")
    else:
        ax.text(0.5, 0.5, "no star has both labels", transform=ax.transAxes, ha="center", color=_GREY)
    return ax


def _draw_stars(ax, values, errors, shown, flagged, colors):
    """Draw stars as points, with error bars where they are few; return what a legend says of them.

    All arguments have a number, a truth value or a colour a star; values and errors are pairs, of both axes.
    """
    n_shown = int(shown.sum())
    size = float(np.clip(2600 / max(n_shown, 1), 5, 42))
    handles = []
    for stars, label, marker in ((shown & flagged, "flagged", "D"), (shown & ~flagged, "no flags", "o")):
        if not stars.any():
            continue
        if n_shown <= _MOST_ERROR_BARS:
            bars = [np.nan_to_num(error[stars]) for error in errors]
            ax.errorbar(
                *(value[stars] for value in values),
                bars[1],
                bars[0],
                fmt="none",
                ecolor=_GREY,
                elinewidth=0.8,
                zorder=1,
            )
        style = {"facecolors": "white", "edgecolors": colors[stars], "linewidths": 1.2}
        if marker == "o":
            edge = {"edgecolors": "black", "linewidths": 0.4} if size > 12 else {"linewidths": 0}
            style = {"facecolors": colors[stars], **edge}
        points = ax.scatter(*(value[stars] for value in values), s=size, marker=marker, zorder=2, **style)
        points.set_rasterized(n_shown > 5000)
        handles.append(_legend_handle(marker, f"{label} ({stars.sum()})"))
    return handles


def _color_scale(ax, shade, label):
    """Add a colour bar; return a function from values to colours, grey where there is no value."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    finite = shade[np.isfinite(shade)]
    low, high = (0.0, 1.0) if not finite.size else np.percentile(finite, (1, 99) if finite.size > 50 else (0, 100))
    if high - low < 1e-6 * max(abs(low), 1):
        low, high = low - 0.5, high + 0.5
    scale = ScalarMappable(Normalize(low, high), colormaps["viridis"])
    outside = (bool((finite < low).any()), bool((finite > high).any()))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[outside]
    if finite.size:
        ax.figure.colorbar(scale, ax=ax, label=label, extend=extend)

    def to_color(values):
        colors = scale.to_rgba(np.nan_to_num(values))
        colors[~np.isfinite(values)] = (0.7, 0.7, 0.7, 1.0)
        return colors

    return ax, to_color


def _legend_handle(marker, label):
    from matplotlib.lines import Line2D

    face = "white" if marker == "D" else _GREY
    return Line2D([], [], linestyle="", marker=marker, markersize=6, mfc=face, mec="#404040", label=label)


def _typical_cross(ax, errors, across=0.08):
    """Draw one cross of the size of the median errors at the lower end, so far across the axes."""
    low, high = ax.get_xlim(), ax.get_ylim()
    x, y = low[0] + across * (low[1] - low[0]), high[0] + 0.1 * (high[1] - high[0])
    errors = np.nan_to_num(errors)
    ax.errorbar([x], [y], [errors[1]], [errors[0]], fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
    ax.annotate("typical error", (x, y), (8, -12), textcoords="offset points", fontsize="x-small")
    ax.set(xlim=low, ylim=high)


def plot_spectrum(spectrum, table=None, row=None, ax=None, model=None):
    """Plot a spectrum with its errors, and beside it its labels in words.

    Parameters
    ----------
    spectrum : `~specutils.Spectrum` or `~spectrafm.adapters.SpectrumArrays`
        The spectrum; anything that `~spectrafm.SpectraFM.infer` takes. If there are several
        stars, the one at ``row`` is drawn: as observed or, beside a ``model``, at rest.
    table : `~astropy.table.Table`, optional
        As `~spectrafm.SpectraFM.infer` returns it. Beside several stars, a row for each, in their order.
    row : int, optional
        The star's row in the table, and its number among several stars. When left out, the
        only row, or the only one with the name of the star in the column ``identifier``.
    ax : `~matplotlib.axes.Axes`, optional
        Where to draw; a new figure when left out. The labels are written to the right
        of it: leave room there, as ``layout="constrained"`` does.
    model : `~specutils.Spectrum`, optional
        The model's spectrum of the star, from `~spectrafm.SpectraFM.reconstruct`, to
        draw over it, in vacuum and at rest; or one from `~spectrafm.SpectraFM.predict_spectrum`,
        which is multiplied by what the weights would divide the spectrum by, so that it has the
        scale and the slope of the data, and ends where these do. If you gave ``reconstruct`` a medium or a
        velocity, give ``to_arrays(spectrum, medium="air")``, with the same keywords, as
        ``spectrum``. A velocity that was measured is taken from the ``table``.

    Returns
    -------
    `~matplotlib.axes.Axes`
        Good pixels as a line with a band of one standard deviation; bad pixels
        leave gaps.

    Raises
    ------
    InputValueError
        There is no such row, ``row`` is left out and the name of the star does not tell it, the
        table has other rows than there are stars, the spectrum cannot be used, the flux of
        the model has another unit, it is of several stars, or was predicted for a range in which
        the spectrum has no good pixel.
    InputTypeError
        These are no spectra, or this is not a table.
    """
    from astropy import units as u

    from .adapters import to_arrays

    if model is not None and not hasattr(model, "spectral_axis"):
        raise InputTypeError(f"model: {type(model).__name__}, expected one Spectrum, as reconstruct(spectrum)[0]")
    # a model is at rest
    stars = to_arrays(spectrum, radial_velocity=0 * u.km / u.s if model is None else None)
    if not stars:
        raise InputValueError("spectrum: an empty list; expected at least one spectrum")
    if table is not None:
        _check_table(table)
    row = _row_of(stars, table) if row is None else row
    if table is not None:
        check_row(table, row)
    star = stars[0]
    if len(stars) > 1:
        if table is not None and len(table) != len(stars):
            raise InputValueError(
                f"table: {len(table)} rows for {len(stars)} spectra; expected one row a spectrum, in their order, or "
                "one spectrum"
            )
        if not -len(stars) <= row < len(stars):
            raise InputValueError(f"row: {row}; there are {len(stars)} spectra, expected 0 to {len(stars) - 1}")
        star = stars[row]
    if star.problem:
        raise InputValueError(f"spectrum: {star.problem}")
    if model is not None and table is not None and "radial_velocity" in table.colnames:
        star = _without_measured_velocity(star, table, row)
    labels, flags, color = ("", "", _GREY) if table is None else _in_words(table, row)
    ax = _new_axes(spectrum_size(table, row)) if ax is None else ax

    unit = getattr(getattr(spectrum, "spectral_axis", None), "unit", u.AA)
    unit = unit if unit.physical_type == "length" else u.AA
    wavelength = (star.wavelength * u.AA).to_value(unit)
    flux, sigma = (np.where(star.good, a, np.nan) for a in (star.flux, star.sigma))
    flux_unit = u.Unit(star.flux_unit, parse_strict="silent")
    scale, flux_label = _readable_flux(flux, flux_unit)
    flux, sigma = scale * flux, scale * sigma
    if star.has_sigma:
        ax.fill_between(wavelength, flux - sigma, flux + sigma, color=_BLUE, alpha=0.25, linewidth=0, label="error")
    ax.plot(wavelength, flux, color=_BLUE, linewidth=1.2 if star.n_good < 2000 else 0.6, label="flux")
    if model is not None:
        there, values = _at_level_of(star, model, flux_unit)
        there, values = (there * u.AA).to_value(unit), scale * values
        ax.plot(there, values, color=_VERMILION, linewidth=0.8, label="model")
        ax.legend(loc="lower right", fontsize="small")
    if star.n_good > 1:
        ax.set_xlim(*wavelength[star.good][[0, -1]])
        ax.set_ylim(*_flux_limits(flux[star.good]))
    ax.set_xlabel(f"Wavelength  [{unit.to_string('unicode')}]")
    ax.set_ylabel(flux_label)
    ax.set_title(star.identifier, loc="left", fontsize="medium")
    beside = {"transform": ax.transAxes, "ha": "left"}
    ax.text(1.02, 1.0, labels, va="top", linespacing=1.55, **beside)
    ax.text(1.02, 0.0, flags, va="bottom", linespacing=1.25, fontsize="small", color=color, **beside)
    return ax


def _at_level_of(star, model, flux_unit):
    """Return wavelengths [Angstrom, vacuum] and flux of a model in the unit of a spectrum."""
    from astropy import units as u

    if model.flux.ndim > 1:
        raise InputValueError(f"model: {len(model.flux)} spectra, expected that of one star, as model[0]")
    there = model.spectral_axis.to_value(u.AA, u.spectral())
    there = air_to_vacuum(there) if model.meta.get("medium") == "air" else there
    if "normalizer" in model.meta:
        return there, model.flux.value * _divisor(star, model.meta, there)
    try:
        # a unit that astropy does not know cannot be converted, and need not be
        return there, model.flux.value if model.flux.unit == flux_unit else model.flux.to_value(flux_unit)
    except (u.UnitsError, ValueError):
        raise InputValueError(
            f"model: its flux is in {str(model.flux.unit) or 'no unit'!r}, that of the spectrum in "
            f"{star.flux_unit or 'no unit'!r}; expected what reconstruct returns for this spectrum, or what "
            "predict_spectrum returns for its labels"
        ) from None


def _divisor(star, meta, there):
    """Return what a spectrum is divided by in the domain of a predicted one, at the wavelengths of that."""
    low, high = meta["wavelength_range"]
    good = star.good & (star.wavelength >= low) & (star.wavelength <= high)
    if not good.any():
        raise InputValueError(
            f"model: predicted for {meta['domain']}, {low:.0f} to {high:.0f} Angstrom, where the spectrum has no good "
            "pixel; give predict_spectrum the wavelengths of this spectrum"
        )
    by = normalizer_from_dict(meta["normalizer"]).divisor(star.wavelength[None], star.flux[None], good[None])
    by = np.broadcast_to(by, star.flux[None].shape)[0]
    return np.interp(there, star.wavelength, by, left=np.nan, right=np.nan)


def _row_of(stars, table):
    """Return the row of the only star, by its name where the table has several rows."""
    if len(stars) > 1:
        raise InputValueError(
            f"row: left out, and there are {len(stars)} spectra; expected the number of the one to draw, from 0"
        )
    if table is None or len(table) == 1:
        return 0
    name, last = stars[0].identifier.strip(), len(table) - 1
    hint = f"; give row= from 0 to {last}, or the table of this star alone"
    if may_number_row(name):
        raise InputValueError(
            f"row: left out, and the table has {len(table)} rows, but {name!r} is no name of a star: a spectrum "
            f"without one has a number instead{hint}"
        )
    try:
        names = name_texts(table["identifier"]) if "identifier" in table.colnames else []
    except InputValueError as error:
        raise InputValueError(f"table['identifier']: {error}{hint}") from None
    rows = [row for row, one in enumerate(names) if one is not None and one.strip() == name]
    if len(rows) != 1:
        raise InputValueError(f"row: left out, and {name!r} is in {len(rows)} of {len(table)} rows{hint}")
    return rows[0]


def spectrum_size(table=None, row=None):
    """Return the size of a figure in which `plot_spectrum` has room for its words.

    Parameters
    ----------
    table : `~astropy.table.Table`, optional
        As for `plot_spectrum`.
    row : int, optional
        The star's row in the table; room for any of them when left out.

    Returns
    -------
    tuple of float
        Width and height [inch].
    """
    if table is None:
        return 9.0, 3.6
    flags = [] if "flag" not in table.colnames else np.unique(table["flag"] if row is None else table["flag"][row])
    n_line = max((_flags_in_words(int(flag)).count("\n") for flag in flags), default=0)
    return 9.0, max(3.6, 1.6 + 0.25 * max(len(label_names(table)) - 1, 0) + 0.2 * n_line)


def _without_measured_velocity(star, table, row):
    """Return a spectrum at rest, by the velocity in a table; as it is where there is none."""
    velocity, error = (column_values(table, name, "km / s")[row] for name in ("radial_velocity", "e_radial_velocity"))
    if not np.isfinite(velocity):
        return star
    # what the object says of its velocity is taken out already
    return star.moved_to_rest(radial_velocity(doppler_factor(velocity) / doppler_factor(star.radial_velocity)), error)


def _flux_limits(flux):
    """Return limits that show the spectrum, spikes being allowed to leave."""
    low, high = np.percentile(flux, (0.5, 99.5))
    margin = 0.3 * (high - low) or 0.1 * abs(high) or 1.0
    return max(low - margin, flux.min() - margin / 5), min(high + margin, flux.max() + margin / 5)


def _readable_flux(flux, unit):
    """Return a factor that makes numbers readable, and its text for the label of the axis."""
    from astropy import units as u

    if isinstance(unit, u.UnrecognizedUnit):
        return 1.0, f"Flux  [{unit}]"
    if np.isclose(np.log10(unit.scale) % 1, 0):
        unit_power, unit = int(np.log10(unit.scale)), u.CompositeUnit(1, unit.bases, unit.powers)
    else:
        unit_power = 0
    typical = np.nanmedian(np.abs(flux)) if np.isfinite(flux).any() else 0
    power = int(np.floor(np.log10(typical))) if typical > 0 else 0
    power = power if abs(power + unit_power) > 3 else -unit_power
    shown = power + unit_power
    words = [f"$10^{{{shown}}}$"] * bool(shown) + [unit.to_string("latex_inline")] * (unit != u.one)
    return 10.0**-power, f"Flux  [{' '.join(words)}]" if words else "Flux"


def _in_words(table, row):
    """Return labels and flags of a row as text, and the color of the flags."""
    lines = []
    for name in label_names(table):
        value, error = round_to_error(*(column[row] for column in label_values(table, name)))
        if value == "--":
            lines.append(f"{_symbol(name)}  no value")
            continue
        value = value.replace("-", "\N{MINUS SIGN}")
        error = "" if error == "--" else f" ± {error}"
        lines.append(f"{_symbol(name)}  {value}{error} {_unit(name)}".rstrip())
    labels = "\n".join(lines)
    if "flag" not in table.colnames:
        return labels, "", _GREY
    flag = int(table["flag"][row])
    return labels, _flags_in_words(flag), _VERMILION if flag else _GREY


def _flags_in_words(flag):
    """Return what flags mean, a line or more each."""
    if not flag:
        return "no flags"
    words = [text.partition(": ")[2] for text in describe_flags(flag)]
    words = [textwrap.fill(text, _FLAG_WIDTH, initial_indent="• ", subsequent_indent="   ") for text in words]
    return "\n".join([f"flag {flag}", *words])


def plot_comparison(table, truth_table, label, ax=None):
    """Plot predicted against true values of a label.

    Parameters
    ----------
    table : `~astropy.table.Table` or dict
        As `~spectrafm.SpectraFM.infer` returns it: columns ``<label>``, ``e_<label>`` and ``flag``,
        of which only the first is needed.
    truth_table : `~astropy.table.Table` or dict
        ``n_star`` rows in the same order with columns ``<label>`` and, where there are any,
        ``e_<label>``; with units or in the usual ones; masked or NaN where not known.
    label : str
        Name of the label.
    ax : `~matplotlib.axes.Axes`, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    `~matplotlib.axes.Axes`
        The true label to the right and the predicted one upwards, in the unit of the registry and on
        one scale, with the line on which both are equal. Stars without flags are filled circles,
        flagged ones open diamonds. Up to 200 stars have error bars, more have one typical cross in
        a corner. The title has ``bias``, the median of predicted minus true, and ``mad_std``, its
        robust scatter, of all stars that are drawn, as `spectrafm.calibration.calibration_table`.

    Raises
    ------
    InputTypeError
        One of them is no table.
    InputValueError
        A table has no such label, or has it in a unit that does not fit; tables of different
        lengths, or whose column ``identifier`` has the same names in another order; or no star
        with both values.
    """
    get_quantity(label, "label")
    given = {"table": table_columns(table, "table"), "truth_table": table_columns(truth_table, "truth_table")}
    for argument, columns in given.items():
        if label not in columns:
            raise InputValueError(f"label: no column {label!r} in {argument}, which has {', '.join(columns) or 'none'}")
    n_star = len(np.atleast_1d(given["table"][label]))
    refuse_other_rows(given["table"], truth_table)
    (predicted, error), (truth, truth_error) = (
        known_labels(columns, [label], n_star, argument)[label] for argument, columns in given.items()
    )
    shown = np.isfinite(predicted) & np.isfinite(truth)
    if not shown.any():
        raise InputValueError(f"truth_table: no star has a predicted and a true {label}")
    flagged = np.ma.filled(np.ma.asarray(given["table"].get("flag", np.zeros(n_star))), 1) != 0
    ax = _new_axes((5.2, 5.2)) if ax is None else ax
    handles = _draw_stars(ax, (truth, predicted), (truth_error, error), shown, flagged, np.full(n_star, _BLUE))
    both = np.concatenate([truth[shown], predicted[shown]])
    margin = 0.06 * np.ptp(both) or 0.5
    limits = both.min() - margin, both.max() + margin
    ax.plot(limits, limits, color=_GREY, linewidth=0.8, linestyle="--", zorder=1.5)
    symbol, unit = _symbol(label), f"  [{_unit(label)}]" * bool(_unit(label))
    ax.set(
        xlim=limits, ylim=limits, aspect="equal", xlabel=f"{symbol}, true{unit}", ylabel=f"{symbol}, predicted{unit}"
    )
    if shown.sum() > _MOST_ERROR_BARS:
        told = [one[shown & np.isfinite(one)] for one in (truth_error, error)]
        # the line of equal labels begins in the other corner
        _typical_cross(ax, [np.median(one) if len(one) else 0.0 for one in told], across=0.75)
    residual = (predicted - truth)[shown]
    figures = f"bias {np.median(residual):.3g}, mad_std {mad_std(residual):.3g}".replace("-", "\N{MINUS SIGN}")
    ax.set_title(f"{figures} {get_quantity(label).error_unit}".rstrip(), loc="left", fontsize="medium")
    ax.legend(handles=handles, frameon=False, loc="upper left", fontsize="small")
    return ax


def _in_one_unit(values, errors, truth, truth_errors):
    """Return numbers in the unit of the values, where these have one; others as they are."""
    unit = getattr(values, "unit", None)
    if unit is None:
        return values, errors, truth, truth_errors
    numbers = [plain_numbers("values", values, unit, masked=True)]
    for name, given in (("errors", errors), ("truth", truth), ("truth_errors", truth_errors)):
        if given is not None and getattr(given, "unit", None) is None:
            raise InputTypeError(f"{name}: no unit, but values are in {unit}; expected units of all, or of none")
        numbers.append(None if given is None else plain_numbers(name, given, unit, masked=True))
    return numbers


def plot_coverage(values, errors, truth, truth_errors=None, levels=None, ax=None):
    """Plot the observed coverage of central intervals against the nominal one.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like or `~astropy.units.Quantity`
        ``(n_star,)`` as for `spectrafm.calibration.coverage`; or all with units that convert into
        each other.
    levels : sequence of float, optional
        Nominal coverages, by default 0.01 to 0.99 in steps of 0.01.
    ax : `~matplotlib.axes.Axes`, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    `~matplotlib.axes.Axes`
        Below the diagonal errors are too small, above it too large. The grey band contains, at
        each level, 95 % of samples of as many stars with correct errors.

    Raises
    ------
    InputTypeError, InputValueError
        As `spectrafm.calibration.coverage`.
    """
    from .calibration import coverage, z_scores

    levels = np.linspace(0.01, 0.99, 99) if levels is None else np.asarray(levels, dtype=np.float64)
    stars = _in_one_unit(values, errors, truth, truth_errors)
    observed = coverage(*stars, levels)
    n_star = int(np.isfinite(z_scores(*stars)).sum())
    ax = _new_axes((4.8, 4.8)) if ax is None else ax
    low, high = _binomial_band(n_star, levels)
    ax.fill_between(levels, low / n_star, high / n_star, color=_GREY, alpha=0.25, linewidth=0, label=_BAND)
    ax.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle="--")
    ax.plot(levels, observed, color=_BLUE, linewidth=1.4, label=_n_stars(n_star))
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="Nominal coverage", ylabel="Observed coverage")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    return ax


def plot_pit(values, errors, truth, truth_errors=None, n_bin=10, ax=None):
    """Plot a histogram of the probability integral transform.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like or `~astropy.units.Quantity`
        ``(n_star,)`` as for `spectrafm.calibration.pit`; or all with units that convert into
        each other.
    n_bin : int, optional
        Number of bins.
    ax : `~matplotlib.axes.Axes`, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    `~matplotlib.axes.Axes`
        Flat if errors are right, U-shaped if they are too small, a hill if they
        are too large, a slope if labels are biased. The grey band contains 95 % of the
        bins of samples with correct errors.

    Raises
    ------
    InputTypeError, InputValueError
        As `spectrafm.calibration.pit`; or no bins.
    """
    from .calibration import pit

    if not isinstance(n_bin, (int, np.integer)) or n_bin < 1:
        raise InputValueError(f"n_bin: {n_bin!r}, expected a positive integer")
    transform = pit(*_in_one_unit(values, errors, truth, truth_errors))
    transform = transform[np.isfinite(transform)]
    ax = _new_axes((5.4, 3.8)) if ax is None else ax
    low, high = _binomial_band(len(transform), np.array([1 / n_bin]))
    ax.axhspan(low[0], high[0], color=_GREY, alpha=0.25, linewidth=0, label=_BAND)
    ax.axhline(len(transform) / n_bin, color=_GREY, linewidth=0.8, linestyle="--")
    edges = np.linspace(0, 1, n_bin + 1)
    ax.hist(transform, edges, histtype="step", color=_BLUE, linewidth=1.4, label=_n_stars(len(transform)))
    ax.set(xlim=(0, 1), xlabel="Probability below the truth", ylabel="Stars")
    ax.legend(frameon=False, loc="lower center", fontsize="small")
    return ax


def plot_z_scores(values, errors, truth, truth_errors=None, ax=None):
    """Plot a histogram of residuals in units of their errors, with the unit Gaussian.

    Parameters
    ----------
    values, errors, truth, truth_errors : array_like or `~astropy.units.Quantity`
        ``(n_star,)`` as for `spectrafm.calibration.z_scores`; or all with units that convert into
        each other.
    ax : `~matplotlib.axes.Axes`, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    `~matplotlib.axes.Axes`
        From -5 to 5; the legend counts the stars beyond, which are included in the
        normalisation of the histogram.

    Raises
    ------
    InputTypeError, InputValueError
        As `spectrafm.calibration.z_scores`.
    """
    from scipy.stats import norm

    from .calibration import z_scores

    z = z_scores(*_in_one_unit(values, errors, truth, truth_errors))
    z = z[np.isfinite(z)]
    ax = _new_axes((5.4, 3.8)) if ax is None else ax
    edges = np.linspace(-5, 5, 41)
    n_beyond = int((np.abs(z) > 5).sum())
    label = _n_stars(len(z)) + f", {n_beyond} beyond" * bool(n_beyond)
    weights = np.full(len(z), 1 / (len(z) * (edges[1] - edges[0])))
    ax.hist(z, edges, weights=weights, histtype="step", color=_BLUE, linewidth=1.4, label=label)
    x = np.linspace(-5, 5, 201)
    ax.plot(x, norm.pdf(x), color=_GREY, linewidth=1.0, linestyle="--", label="unit Gaussian")
    ax.set(xlim=(-5, 5), xlabel="(predicted \N{MINUS SIGN} true) / error", ylabel="Density")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    return ax


def _binomial_band(n_star, probability):
    """Return the numbers of stars between which 95 % of right samples are."""
    from scipy.stats import binom

    return binom.interval(0.95, n_star, probability)


def _n_stars(n_star):
    return f"{n_star} star" + "s" * (n_star != 1)


def plot_sensitivity(table, lines=(), ax=None):
    """Plot sensitivity or attention along a spectrum.

    Parameters
    ----------
    table : `~astropy.table.Table`
        As `~spectrafm.SpectraFM.sensitivity` or `~spectrafm.SpectraFM.attention` returns it.
    lines : array_like or `~astropy.units.Quantity` ['length'], optional
        ``(n_line,)`` wavelengths to mark, such as `~spectrafm.lines.element_lines` returns;
        plain numbers are Angstrom.
    ax : `~matplotlib.axes.Axes`, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    `~matplotlib.axes.Axes`
        The values of the pixels as a line, with gaps where pixels are missing, and a grey
        line across at the wavelength of each line within them.

    Raises
    ------
    InputValueError
        The table has no such column, or ``lines`` or wavelengths are no lengths.
    InputTypeError
        This is not a table, or ``lines`` are no numbers.
    """
    from astropy import units as u

    wavelength = _column(table, "wavelength", "table", unit=u.AA)
    name = "attention" if "attention" in table.colnames else "sensitivity"
    values = _column(table, name, "table")
    lines = plain_numbers("lines", lines, "AA")
    ax = _new_axes((9.0, 3.0)) if ax is None else ax
    low, high = wavelength[0], wavelength[-1]
    for line in lines[(lines >= low) & (lines <= high)]:
        ax.axvline(line, color=_GREY, linewidth=0.8, alpha=0.5, zorder=1)
    step = np.diff(np.log(wavelength))
    # a line across a gap would show values that were not measured
    gap = np.flatnonzero(step > 4 * np.median(step)) + 1 if len(step) else []
    ax.plot(
        np.insert(wavelength, gap, np.nan),
        np.insert(values, gap, np.nan),
        color=_BLUE,
        linewidth=1.2 if len(wavelength) < 2000 else 0.6,
        zorder=2,
    )
    if len(wavelength) > 1:
        ax.set_xlim(low, high)
    label = table.meta.get("label", "")
    if name == "attention":
        ax.set_ylim(bottom=0)
        ax.set_ylabel("Attention")
    else:
        ax.axhline(0, color=_GREY, linewidth=0.6, zorder=1)
        unit = getattr(table[name], "unit", None)
        ax.set_ylabel(f"Sensitivity  [{unit}]" if unit and unit != u.one else "Sensitivity")
    ax.set_xlabel("Wavelength  [Å]")
    ax.set_title(_symbol(label), loc="left", fontsize="medium")
    return ax
