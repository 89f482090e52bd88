"""Attention and sensitivity along a spectrum, and whether they lie on lines."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from astropy import units as u
from astropy.table import QTable

from ._inference import provenance, wanted_labels
from ._known import known_quantities
from ._rest_frame import stars_at_rest
from ._spectral_units import plain_numbers
from .exceptions import InputTypeError, InputValueError
from .quantities import get_quantity
from .stellarperceptron.patches import assign_patches

__all__ = ["Enrichment", "explain", "label_attention", "label_sensitivity", "line_enrichment"]

_DESCRIPTIONS = {
    "wavelength": "Wavelength in vacuum, in the rest frame",
    "flux": "Flux as the model sees it, normalised",
    "attention": "Attention of the request of {label}: that of the patch, shared by its pixels",
    "sensitivity": "Change of {label} for a change of the normalised flux of this pixel by one",
}


def explain(fm, column, spectrum, label, known, **spectrum_options):
    """Return the table of `SpectraFM.attention` or of `SpectraFM.sensitivity`.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    column : {"attention", "sensitivity"}
        Which of the two.
    spectrum : `~specutils.Spectrum` or `~spectrafm.adapters.SpectrumArrays`
        One star.
    label : str
        Name of the label.
    known : dict or None
        As for `SpectraFM.infer`.
    **spectrum_options
        Arguments of `~spectrafm.adapters.to_arrays`.

    Returns
    -------
    `~astropy.table.QTable`
        A row a measured pixel that the model sees: ``wavelength``, ``flux`` and the column.

    Raises
    ------
    InputTypeError, InputValueError
        As `SpectraFM.attention`.
    """
    prepared, number, known = _one_star(fm, spectrum, label, known, spectrum_options)
    look = {"attention": label_attention, "sensitivity": label_sensitivity}[column]
    [(wavelength, flux, found)] = look(fm, [prepared], number, [label], known)
    unit = get_quantity(label).error_unit if column == "sensitivity" else ""
    columns = {"wavelength": wavelength * u.AA, "flux": flux * u.one, column: found[0] * u.Unit(unit)}
    domain = fm.info.domains[number].name
    table = QTable(columns, meta={"identifier": prepared.identifier, "label": label, "domain": domain})
    table.meta |= provenance(fm, [prepared])
    for name in table.colnames:
        table[name].info.description = _DESCRIPTIONS[name].format(label=label)
    return table


def _one_star(fm, spectrum, label, known, spectrum_options):
    """Return a star prepared, the number of its domain and its known quantities; or raise an error with the reason."""
    if not isinstance(label, str):
        raise InputTypeError(f"label: {type(label).__name__}, expected the name of one label, for example 'mg_fe'")
    stars = stars_at_rest(fm, spectrum, **spectrum_options)
    if len(stars) != 1:
        raise InputValueError(f"spectrum: {len(stars)} stars, expected one; give them one at a time")
    if stars[0].problem:
        raise InputValueError(f"spectrum: {stars[0].problem}")
    if not stars[0].n_good:
        raise InputValueError("spectrum: no good pixel; expected some with a finite flux that no mask leaves out")
    [star], [number] = fm.info.assign_domains(stars)
    domain, known = fm.info.domains[number], known_quantities(known, 1, fm.info.known, positive=fm.model.vocabulary.log)
    wanted_labels(fm, label, known, {number})
    if label not in domain.labels:
        raise InputValueError(
            f"label: spectra of {domain.name} do not give {label!r}; they give {', '.join(domain.labels)}"
        )
    if fm.head is not None:
        raise InputValueError(
            f"label: {label!r} is predicted by a head beside the network, which has neither attention nor sensitivity; "
            "use the weights that these were fine-tuned from"
        )
    prepared = fm.prepare(star, number)
    if not prepared.n_good:
        low, high = domain.wavelength_range
        raise InputValueError(
            f"spectrum: no good pixel of positive continuum from {low:.0f} to {high:.0f} Angstrom, "
            f"where these weights see {domain.name}"
        )
    return prepared, number, known


def label_attention(fm, prepared, number, labels, known=None):
    """Return the attention of the requests for labels along spectra.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    prepared : sequence of SpectrumArrays
        Stars of one kind, normalised.
    number : int
        Number of their domain.
    labels : sequence of str
        Labels asked for.
    known : dict of str to (numpy.ndarray, numpy.ndarray), optional
        As `spectrafm._known.known_quantities` returns it.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray, numpy.ndarray)
        A star each: wavelengths ``(n_pixel,)`` [Angstrom, vacuum, rest frame] of the measured
        pixels that the model sees, their normalised flux ``(n_pixel,)``, and attention ``(n_label,
        n_pixel)``, the mean over blocks and heads of the decoder. The attention of a patch is
        shared equally by its pixels, that of an interpolated pixel by the pixels beside the gap,
        see `SpectrumArrays.gaps_filled`. It does not add up to 1: the remainder goes to other
        inputs, such as known labels, and to an extra key that carries no information.
    """
    tokens = fm.tokens(prepared, number, known)
    weights = fm.model.request_attention(fm.model.perceive_tokens(tokens), labels).mean(axis=0)
    stars = []
    n_bridge = fm.info.domains[number].bridges
    for star, (seen, wavelength, _), weight in zip(prepared, _pixels(fm.model, tokens), weights, strict=True):
        if fm.model.config.patch_size == 1:
            weight = weight[:, seen]
        else:
            patch = _patches(fm.model.config, wavelength)
            n_pixel = np.bincount(patch)
            # known quantities follow the patches, and a star may have fewer patches than others of the batch
            weight = (weight[:, : len(n_pixel)] / n_pixel)[:, patch]
        stars.append(_on_measured(star, n_bridge, wavelength, weight))
    return stars


def label_sensitivity(fm, prepared, number, labels, known=None):
    """Return the derivatives of labels with respect to the flux of each pixel.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    prepared : sequence of SpectrumArrays
        Stars of one kind, normalised.
    number : int
        Number of their domain.
    labels : sequence of str
        Labels asked for.
    known : dict of str to (numpy.ndarray, numpy.ndarray), optional
        As `spectrafm._known.known_quantities` returns it.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray, numpy.ndarray)
        A star each: wavelengths ``(n_pixel,)`` [Angstrom, vacuum, rest frame] of the measured
        pixels that the model sees, their normalised flux ``(n_pixel,)``, and gradients ``(n_label,
        n_pixel)`` in units of the label, including the effect of interpolated pixels, see
        `SpectrumArrays.gaps_filled`. The response of the normaliser to the pixel is not included.
    """
    model, vocabulary = fm.model, fm.model.vocabulary
    row = vocabulary.tokens(labels, "labels")
    # outside of inference mode, in which no tensor can ever have a gradient
    with torch.inference_mode(False), torch.enable_grad():
        tokens = fm.tokens(prepared, number, known).to(model.device)
        value = tokens.value.clone().requires_grad_(True)
        request = torch.from_numpy(row).to(model.device).expand(len(tokens), -1)  # (n_star, n_label)
        nowhere = torch.zeros(request.shape, dtype=tokens.wavelength.dtype, device=tokens.wavelength.device)
        model.torch_model.eval()
        answer, _ = model.torch_model(replace(tokens, value=value), request, nowhere)
        # stars of a batch do not see each other: the gradient of the sum is that of each
        slopes = [torch.autograd.grad(one.sum(), value, retain_graph=True)[0] for one in answer.T]
    slopes = torch.stack(slopes, dim=1).cpu().double().numpy()  # (n_star, n_label, n_token)
    answer = answer.detach().cpu().double().numpy()
    value, _ = vocabulary.destandardize(np.broadcast_to(row, answer.shape), answer, np.zeros_like(answer))
    # for a label modelled by its logarithm, from the slope of the logarithm to that of the label
    scale = vocabulary.std[row] * np.where(vocabulary.is_log[row], value, 1.0)  # (n_star, n_label)
    stars, n_bridge = [], fm.info.domains[number].bridges
    for row, (seen, wavelength, flux) in enumerate(_pixels(model, tokens)):
        kind = tokens.token[row].cpu().numpy()[seen]
        per_flux = vocabulary.std[kind] * np.where(vocabulary.is_log[kind], flux, 1.0)
        slope = slopes[row][:, seen] * scale[row][:, None] / per_flux
        stars.append(_on_measured(prepared[row], n_bridge, wavelength, slope))
    return stars


def _pixels(model, tokens):
    """Yield which tokens of each star are pixels, their wavelengths and their flux."""
    pixel = model.torch_model.pixels(tokens.token.to(model.device))[0].cpu().numpy()
    token, value, wavelength = (t.cpu().numpy() for t in (tokens.token, tokens.value, tokens.wavelength))
    flux, _ = model.vocabulary.destandardize(token, value, np.zeros_like(value))
    for star, seen in enumerate(pixel):
        yield seen, wavelength[star, seen], flux[star, seen]


def _on_measured(star, n_bridge, wavelength, found):
    """Return values at the pixels that the model sees as values at the measured pixels that they were made from.

    A star as `label_attention` returns it, from ``found`` ``(n_label, n_seen)`` at wavelengths ``(n_seen,)``.
    """
    at = star.gaps_filled(n_bridge)
    at = at.wavelength[at.good]
    # those nearest, as the context may hold only some of them
    seen = np.searchsorted((at[1:] + at[:-1]) / 2, wavelength)
    before, after, share = (array[seen] for array in star.gap_weights(n_bridge))
    on, reached = np.zeros((len(found), star.n_good)), np.zeros(star.n_good, dtype=bool)
    for pixel, part in ((before, 1 - share), (after, share)):
        np.add.at(on, (slice(None), pixel), part * found)
        reached[pixel] = True
    return star.wavelength[star.good][reached], star.flux[star.good][reached], on[:, reached]


def _patches(config, wavelength):
    """Return the number of the patch of each pixel of one star, as `PatchEmbedding` lays them."""
    patch = assign_patches(
        torch.from_numpy(wavelength)[None],
        torch.ones(1, len(wavelength), dtype=torch.bool),
        patch_size=config.patch_size,
        patch_width=config.patch_width,
        patch_anchor=config.patch_anchor,
    )[0]
    return patch[0].numpy()


@dataclass(frozen=True)
class Enrichment:
    """Weight of pixels on lines, relative to the other pixels.

    Attributes
    ----------
    ratio : float
        Mean weight of the pixels on the lines, divided by the mean of all others.
    shuffled : float
        Median of the same ratio for randomly shifted lines.
    p_value : float
        Probability of a ratio at least as large for randomly shifted lines.
    n_line, n_pixel : int
        Lines within the range of the pixels, and pixels on them.
    """

    ratio: float
    shuffled: float
    p_value: float
    n_line: int
    n_pixel: int


def line_enrichment(wavelength, weight, lines, width, n_shuffle=2000, seed=0):
    """Test whether the weights of pixels are concentrated on lines.

    The pattern of all lines is shifted along the spectrum, wrapping around its end,
    by ``n_shuffle`` random numbers of pixels. That keeps the distances between lines, and
    the weights with all smooth variations: only their match is lost.

    Parameters
    ----------
    wavelength : array_like or `~astropy.units.Quantity` ['length']
        ``(n_pixel,)``, ascending; plain numbers are Angstrom.
    weight : array_like or `~astropy.units.Quantity`
        ``(n_pixel,)``, not negative: attention, or the absolute value of sensitivity.
    lines : array_like or `~astropy.units.Quantity` ['length']
        ``(n_line,)``, such as `spectrafm.lines.element_lines` returns; those beyond the
        pixels are left out.
    width : float
        Half width of a line relative to its wavelength, for example ``1.5 / resolving_power``.
    n_shuffle : int, optional
        Number of random shifts.
    seed : int or `numpy.random.Generator`, optional
        Source of the shifts.

    Returns
    -------
    Enrichment
        With ``p_value = (1 + number of shifts that are as good) / (1 + n_shuffle)``.

    Raises
    ------
    InputValueError
        Shapes, units or weights that cannot be used, or no pixel on or off the lines.
    InputTypeError
        Wavelengths that are no numbers.
    """
    wavelength, lines = plain_numbers("wavelength", wavelength, "AA"), plain_numbers("lines", lines, "AA")
    weight = np.asarray(getattr(weight, "value", weight), dtype=np.float64)
    if wavelength.ndim != 1 or weight.shape != wavelength.shape:
        raise InputValueError(
            f"weight: shape {weight.shape} for wavelengths of shape {wavelength.shape}; expected (n_pixel,) for both"
        )
    if not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
        raise InputValueError(
            "weight: expected finite numbers, none negative and not all zero; of sensitivity, the absolute value"
        )
    if not (np.diff(wavelength) > 0).all() or not wavelength[0] > 0:
        raise InputValueError("wavelength: expected positive numbers that ascend")
    for name, number in (("width", width), ("n_shuffle", n_shuffle)):
        if not number > 0:
            raise InputValueError(f"{name}: {number!r}, expected a positive number")
    lines = lines[(lines >= wavelength[0]) & (lines <= wavelength[-1])]
    near = (np.abs(np.log(wavelength / lines[:, None])) <= width).any(axis=0)
    n_near = int(near.sum())
    if not 0 < n_near < len(near):
        raise InputValueError(
            f"lines: {len(lines)} within {wavelength[0]:.0f} to {wavelength[-1]:.0f} Angstrom, {n_near} of {len(near)} "
            f"pixels within {width:.2g} of one; expected some pixels on lines and some beside them"
        )
    # sums of the weights on the lines at every shift at once: a circular correlation
    on_lines = np.fft.irfft(np.fft.rfft(weight) * np.conj(np.fft.rfft(near.astype(float))), len(weight))
    total = weight.sum()
    shift = np.random.default_rng(seed).integers(len(weight), size=n_shuffle)
    # rounding must not separate equal values
    as_good = int(np.count_nonzero(on_lines[shift] >= on_lines[0] - 1e-9 * total))

    def ratio(on):
        beside = (total - on) / (len(near) - n_near)
        return float(on / n_near / beside) if beside > 0 else float("inf")

    shuffled = ratio(np.median(on_lines[shift]))
    return Enrichment(ratio(weight[near].sum()), shuffled, (1 + as_good) / (1 + n_shuffle), len(lines), n_near)
