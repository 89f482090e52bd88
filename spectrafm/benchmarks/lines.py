"""Whether weights look at the lines of an element when they are asked for its abundance."""

import numpy as np
import torch

from .._numerics import mad_std
from .._table_formats import column_values
from ..adapters import from_arrays
from ..core import SpectraFM
from ..explanation import label_attention, label_sensitivity, line_enrichment
from ..lines import LINES, element_lines
from ..synthesis import load_emulator
from .stars import NOMINAL_POWER, VSINI

__all__ = ["benchmark_lines", "synthetic_stars"]

# range of the spectra of each kind [Angstrom], well inside of the emulator's
_VIEWS = {"apogee": (15_150.0, 16_950.0), "optical": (3620.0, 7430.0)}
_LABELS = ("fe_h", "na_fe", "mg_fe", "al_fe", "si_fe", "ca_fe", "ti_fe")
# too weak in the H band, two lines of some per cent, to expect anything
_LEFT_OUT = {"apogee": ("na_fe",)}
_N_STAR, _SEED, _SNR, _PIXELS = 32, 20_250_101, 100.0, 3.0
# half width of a line, in resolution elements, and step of the derivative of synthetic spectra [dex]
_HALF_WIDTH, _STEP = 1.5, 0.1


def synthetic_stars(emulator, n_star=_N_STAR, seed=_SEED):
    """Draw red giants and dwarfs, as many of each.

    Parameters
    ----------
    emulator : Emulator
        What makes their spectra.
    n_star : int, optional
        Number of stars.
    seed : int, optional
        Seed of the draw; the same stars for every emulator.

    Returns
    -------
    numpy.ndarray
        ``(n_star, n_label)`` in the order of the emulator's labels.
    """
    rng = np.random.default_rng(seed)
    giant = np.arange(n_star) % 2 == 0
    labels = {
        "teff": np.where(giant, rng.uniform(4200, 5100, n_star), rng.uniform(5000, 6200, n_star)),
        "logg": np.where(giant, rng.uniform(1.5, 3.0, n_star), rng.uniform(4.2, 4.6, n_star)),
        "fe_h": rng.uniform(-0.8, 0.3, n_star),
    }
    labels |= {k: rng.normal(0.05, 0.1, n_star) for k in emulator.label_names if k.endswith("_fe")}
    return emulator.label_array(labels)


def benchmark_lines(model=None, n_star=_N_STAR, domains=tuple(_VIEWS)):
    """Compare where weights look for an abundance with where the lines of the element are.

    Of synthetic giants and dwarfs, the mean attention and the mean absolute sensitivity of
    each pixel are taken: how much more is there on the lines of the element than beside
    them, and how often is it as much with the pattern of lines at a random place? A label
    whose error is no smaller than its spread is not known from such spectra: there the
    weights lean on what abundances usually are, and need not look at lines.

    Parameters
    ----------
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    n_star : int, optional
        Number of stars.
    domains : sequence of str, optional
        Kinds of spectra, of ``"apogee"`` and ``"optical"``.

    Yields
    ------
    str
        Lines of the report.
    """
    fm = SpectraFM.from_pretrained(model)
    yield f"{fm!r}, sha256 {fm.weights_hash}"
    yield "mean weight of pixels on the lines of the element / beside them; p: chance of that at random places"
    yield "  sensitivity: |d label / d flux|; others: the same on the lines of the other elements;"
    yield "  spectra: |d flux / d label| of the emulator, for what the stars themselves have there;"
    yield "  error: scatter of the predicted label; spread: scatter of the label itself among these stars"
    for name in domains:
        if name in [domain.name for domain in fm.info.domains]:
            yield from _domain(fm, name, n_star)


def _domain(fm, name, n_star):
    power, (low, high) = NOMINAL_POWER[name], _VIEWS[name]
    number = fm.info.number_of(name)
    emulator = load_emulator(name)
    wavelength = np.exp(np.arange(np.log(low), np.log(high), 1 / (_PIXELS * power)))
    stars = synthetic_stars(emulator, n_star)

    def spectra(stars):
        seen = {"resolving_power": power, "vsini": VSINI, "wavelength": wavelength}
        with torch.inference_mode():
            return emulator.flux(torch.from_numpy(stars), **seen).double().numpy()

    flux = spectra(stars)
    flux = flux + np.random.default_rng(_SEED).normal(size=flux.shape) / _SNR
    sigma = np.full(flux.shape, 1 / _SNR)
    observed = from_arrays(wavelength, flux, sigma, resolving_power=power)
    prepared = [fm.prepare(star, number) for star in observed]
    told = fm.info.domains[number].labels
    labels = [k for k in _LABELS if k in told and k not in _LEFT_OUT.get(name, ())]
    sensitivity, attention = (
        np.mean([np.abs(found) for _, _, found in look(fm, prepared, number, labels)], axis=0)
        for look in (label_sensitivity, label_attention)
    )  # (n_label, n_pixel)
    table, width = fm.infer(observed, labels=labels), _HALF_WIDTH / power
    yield f"{name}: {n_star} synthetic giants and dwarfs, R = {power:.0f}, S/N {_SNR:.0f}"
    columns = {"lines": 5, "sensitivity": 11, "p ": 7, "others": 7, "attention": 9, "p": 7, "spectra": 8}
    columns |= {"error": 7, "spread": 7}
    yield f"  {'label':<8} " + " ".join(f"{column.strip():>{n}}" for column, n in columns.items())
    for row, label in enumerate(labels):
        lines = element_lines(label, wavelength[0], wavelength[-1])
        on = line_enrichment(wavelength, sensitivity[row], lines, width)
        seen = line_enrichment(wavelength, attention[row], lines, width)
        column = emulator.label_names.index(label)
        move = _STEP * (np.arange(stars.shape[1]) == column)
        change = np.abs(spectra(stars + move) - spectra(stars - move)).mean(axis=0)
        there = line_enrichment(wavelength, change, lines, width)
        residual = column_values(table, label) - stars[:, column]
        yield (
            f"  {label:<8} {on.n_line:5d} {on.ratio:11.2f} {on.p_value:7.4f} "
            f"{_on_others(wavelength, sensitivity[row], label, lines, width):7.2f} "
            f"{seen.ratio:9.2f} {seen.p_value:7.4f} {there.ratio:8.2f} "
            f"{mad_std(residual):7.3f} {mad_std(stars[:, column]):7.3f}"
        )
    n_patch = len(np.unique(attention[0]))
    yield (
        f"  attention is the same over patches, some {np.ptp(wavelength) / n_patch:.0f} Angstrom here: "
        "it cannot tell a line from its neighbours"
    )


def _on_others(wavelength, weight, label, lines, width):
    """Return the ratio for the lines of all other elements, pixels on the element's own being left out."""
    elements = [k for k in LINES if k not in (label, "teff")]
    others = np.concatenate([element_lines(k, wavelength[0], wavelength[-1]) for k in elements])
    apart = (np.abs(np.log(wavelength / lines[:, None])) > 2 * width).all(axis=0)
    return line_enrichment(wavelength[apart], weight[apart], others, width, n_shuffle=1).ratio
