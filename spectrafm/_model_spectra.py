"""Spectra that a model expects: of stars with given labels, and behind the noise of observed ones."""

import warnings
from dataclasses import replace

import numpy as np
from astropy import units as u
from astropy.nddata import StdDevUncertainty
from astropy.table import Row

from ._inference import why_masked
from ._known import known_quantities, label_columns
from ._spectral_units import air_to_vacuum, check_spectral_axis
from .adapters import from_arrays, resolving_powers
from .arrays import SpectrumArrays
from .exceptions import InputValueError, SpectraFMWarning
from .quantities import QUANTITIES

__all__ = ["expected_flux", "reconstructed_spectra", "spectra_of_labels"]

# of pixels alone, see `spectrafm._pixel_quality`
_NO_GOOD_PIXEL = "no good pixel: all are masked or not finite, or repeat one value as where nothing was measured"


def spectra_of_labels(fm, labels, spectral_axis, resolving_power=None, domain=None, medium=None):
    """Return what `SpectraFM.predict_spectrum` returns.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    labels, spectral_axis, resolving_power, domain, medium
        As for `SpectraFM.predict_spectrum`.

    Returns
    -------
    `~specutils.Spectrum`
        Flux ``(n_pixel,)``, or ``(n_star, n_pixel)`` where a label is an array or a column.
    """
    from specutils import Spectrum

    if medium is not None and not (isinstance(medium, str) and medium in ("air", "vacuum")):
        raise InputValueError(f"medium: {medium!r}; expected 'air' or 'vacuum', what the spectral_axis is in")
    wavelength = check_spectral_axis(spectral_axis)
    wavelength = air_to_vacuum(wavelength) if medium == "air" else wavelength
    number = _domain_for(fm, wavelength, domain)
    kind = fm.info.domains[number]
    inside = kind.inside(wavelength)
    columns = label_columns(labels, "labels")
    lengths = {len(v) for v in columns.values() if np.ndim(v)}
    n_star = max(lengths, default=1)
    if not n_star:
        raise InputValueError("labels: columns without rows; give the labels of at least one star")
    known = known_quantities(columns, n_star, fm.info.known, "labels", fm.model.vocabulary.log)
    _refuse_unknown_stars(fm, known, n_star)
    if "rv_offset" in kind.labels and "rv_offset" in fm.info.known:
        columns.setdefault("rv_offset", 0.0)
        known.setdefault("rv_offset", (np.zeros(n_star), np.full(n_star, np.nan)))
    _warn_beyond(known, kind)
    power = resolving_powers(resolving_power, n_star)
    if (power <= 0).any():
        raise InputValueError(f"resolving_power: {power.min():g}; expected positive numbers, or NaN where not known")
    # every pixel is asked for: between pixels as fine as the finest of training, what the network expects in the
    # optical differs from an interpolation by up to 0.8 of its error, and by 0.05 between those 16 times as fine
    at = wavelength[inside]
    values, errors = np.full((2, n_star, len(wavelength)), np.nan)
    values[:, inside], errors[:, inside] = _as_observed(fm, at, *expected_flux(fm, known, number, at, power))
    _warn_outside(wavelength, inside, kind)
    one = not lengths or isinstance(labels, Row)
    return Spectrum(
        flux=(values[0] if one else values) * u.one,
        spectral_axis=_plain_axis(spectral_axis),
        uncertainty=StdDevUncertainty(errors[0] if one else errors),
        mask=~(inside if one else np.broadcast_to(inside, values.shape)),
        meta={
            "labels": columns,
            "model": fm.info.name,
            "domain": kind.name,
            "medium": medium or "vacuum",
            "normalizer": dict(kind.normalizer),
            "wavelength_range": kind.wavelength_range,
        },
    )


def _refuse_unknown_stars(fm, known, n_star):
    """Refuse stars without a label of their own: velocity and photometry leave open what stars they are."""
    stellar = [k for k in fm.info.known if k in QUANTITIES and QUANTITIES[k].kind == "label" and k != "rv_offset"]
    told = np.any([np.isfinite(known[name][0]) for name in stellar if name in known], axis=0)
    for row in np.flatnonzero(~np.broadcast_to(told, n_star))[:1]:
        given = ", ".join(name for name, (values, _) in known.items() if np.isfinite(values[row]))
        raise InputValueError(
            f"labels: a star of which nothing is known{f' but {given}' * bool(given)}, in row {row}; expected at least "
            f"one of {', '.join(stellar)}; give {', '.join(stellar[:3])} where they are known"
        )


def _plain_axis(axis):
    """Return an axis without the velocity that one of another spectrum carries, and not as a logarithm."""
    axis = np.asarray(axis.value) * axis.unit
    return getattr(axis, "physical", axis)


def _warn_beyond(known, domain):
    """Warn of labels that no training star had."""
    names = [name for name, (values, _) in known.items() if domain.outside_range(name, values).any()]
    if names:
        beyond = ["{} ({:.5g} to {:.5g})".format(name, *domain.label_ranges[name]) for name in names]
        text = f"labels: beyond those of the training stars in {', '.join(beyond)}; the spectra are guesses"
        warnings.warn(text, SpectraFMWarning, stacklevel=4)


def _warn_outside(wavelength, inside, domain):
    """Warn of pixels at which no flux can be told."""
    if not inside.all():
        low, high = domain.wavelength_range
        text = (
            f"spectral_axis: {np.count_nonzero(~inside)} of {len(inside)} pixels are outside of {low:.0f} to "
            f"{high:.0f} Angstrom, vacuum, the range of {domain.name}; they are masked"
        )
        warnings.warn(text, SpectraFMWarning, stacklevel=4)


def expected_flux(fm, known, number, wavelength, resolving_power):
    """Return the flux that the network expects of stars of which no pixel is known.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    known : dict of str to (numpy.ndarray, numpy.ndarray)
        Labels, as from `~spectrafm._known.known_quantities`.
    number : int
        Number of the domain.
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum].
    resolving_power : sequence of float
        ``(n_star,)``; NaN where not known.

    Returns
    -------
    flux, sigma : numpy.ndarray
        ``(n_star, n_pixel)`` normalised, before lines are put right.
    """
    nothing = [replace(SpectrumArrays.unusable(""), resolving_power=float(p)) for p in resolving_power]
    return fm.request_flux(fm.perceive(nothing, number, known), number, wavelength)


def reconstructed_spectra(fm, stars):
    """Return what `SpectraFM.reconstruct` returns.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    stars : sequence of SpectrumArrays
        Not normalised.

    Returns
    -------
    `~specutils.SpectrumList`
        One a star, in the unit of its flux, masked where the model cannot predict it. A star
        that has no spectrum has none here, and its ``meta["problem"]`` says why.

    Raises
    ------
    InputValueError
        There are stars that can be read, and of none of them these weights predict flux.
    """
    from specutils import Spectrum, SpectrumList

    found = SpectrumList()
    stars, numbers = fm.info.assign_domains(stars)
    domains = [fm.info.domains[number] for number in numbers]
    seen = [domain for domain, arrays in zip(domains, stars, strict=True) if domain.cut(arrays).n_good]
    if seen and not any(domain.predicts_flux for domain in seen):
        names = ", ".join(sorted({domain.name for domain in seen}))
        raise InputValueError(f"spectra: these weights predict no flux of {names}, only labels")
    for arrays, number, domain in zip(stars, numbers, domains, strict=True):
        prepared = fm.prepare(arrays, number)
        inside = domain.inside(arrays.wavelength)
        wavelength, flux, sigma = arrays.wavelength[inside], *np.empty((2, 0))
        meta = {"identifier": arrays.identifier, "model": fm.info.name}
        if not prepared.n_good:
            meta["problem"] = why_masked(arrays, prepared.flags) or _NO_GOOD_PIXEL
        elif not domain.predicts_flux:
            meta["problem"] = f"these weights predict no flux of {domain.name}"
        else:
            found_flux = fm.request_flux(fm.perceive([prepared], number), number, wavelength)
            values, errors = _as_observed(fm, wavelength, *found_flux)
            row = (arrays.wavelength[None], arrays.flux[None], prepared.good[None])
            by = np.broadcast_to(fm.normalizer_of(domain.name).divisor(*row), arrays.flux[None].shape)[0, inside]
            flux, sigma = values[0] * by, errors[0] * by
        found.append(
            Spectrum(
                flux=u.Quantity(flux, u.Unit(arrays.flux_unit, parse_strict="silent")),
                spectral_axis=wavelength[: len(flux)] * u.AA,
                uncertainty=StdDevUncertainty(sigma),
                # far from good pixels there is no continuum to multiply by
                mask=~np.isfinite(flux),
                meta=meta,
            )
        )
    return found


def _as_observed(fm, wavelength, values, errors):
    """Return normalised flux and its errors as stars have them, each ``(n_star, n_pixel)``."""
    return (values, errors) if fm.lines is None else fm.lines.undo(wavelength, values, errors)


def _domain_for(fm, wavelength, name):
    """Return the number of the domain for wavelengths that are wanted."""
    domains = fm.info.domains
    wanted = from_arrays(np.sort(wavelength), np.ones_like(wavelength))[0]
    able = [i for i, d in enumerate(domains) if d.predicts_flux and d.inside(wavelength).any()]
    if name is not None:
        number = fm.info.number_of(name)
    elif able:
        # the range decides, as fluxes may be asked for on pixels as coarse as those of another domain
        number = max(able, key=lambda i: domains[i].fits(wanted)[::-1])
    else:
        number = fm.info.domain_of(wanted)
    domain = domains[number]
    if not domain.inside(wavelength).any():
        kinds = [d for d in domains if d.predicts_flux and name is None] or [domain]
        covered = ["{} covers {:.0f} to {:.0f} Angstrom".format(d.name, *d.wavelength_range) for d in kinds]
        others = [d.name for d in domains if not d.predicts_flux and d not in kinds]
        raise InputValueError(
            f"spectral_axis: from {wavelength.min():.0f} to {wavelength.max():.0f} Angstrom; {', '.join(covered)}"
            + (f"; no flux of {', '.join(others)} is predicted" if others else "")
        )
    return number
