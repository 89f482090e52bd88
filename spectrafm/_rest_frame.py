"""Spectra as these weights read them, at rest: with velocities that are given, or measured first."""

import numpy as np

from ._tokens import star_batches
from .adapters import to_arrays
from .exceptions import InputTypeError, InputValueError

__all__ = ["MEASURE", "stars_at_rest"]

#: The word for velocities that are to be measured.
MEASURE = "measure"

# the label that is the velocity of a spectrum
_VELOCITY = "rv_offset"
# from far away a first measurement is rough: times that it is repeated, and what counts as rest [km / s]
_N_PASS, _AT_REST = 4, 0.3
# spectra further off than this are not recognised: an error that says so, and where to look then [km / s]
_LOST, _STARTS = 15.0, (450.0, -450.0)
# how far to both sides the response to a velocity is measured, in errors, and the least that counts as one
_ASIDE, _LEAST = 2.0, 0.05


def stars_at_rest(fm, spectra, *, radial_velocity=None, batch_size=256, **options):
    """Return spectra as arrays at rest.

    Parameters
    ----------
    fm : SpectraFM
        Weights, which measure the velocities where that is asked for.
    spectra : `~specutils.Spectrum` or collection
        As for `SpectraFM.infer`.
    radial_velocity : `~astropy.units.Quantity` ['speed'] or "measure", optional
        As for `SpectraFM.infer`.
    batch_size : int, optional
        Stars encoded at a time.
    **options
        Other arguments of `~spectrafm.adapters.to_arrays`.

    Returns
    -------
    list of SpectrumArrays
        One a star. Where velocities are measured, those that can be have a ``radial_velocity_error``.

    Raises
    ------
    InputTypeError, InputValueError
        As `~spectrafm.adapters.to_arrays`; another word than "measure", or weights that cannot measure velocities.
    """
    if not isinstance(radial_velocity, str):
        return to_arrays(spectra, radial_velocity=radial_velocity, **options)
    if radial_velocity != MEASURE:
        raise InputTypeError(f"radial_velocity: {radial_velocity!r}; expected a speed with its unit, or {MEASURE!r}")
    if not any(_VELOCITY in domain.labels for domain in fm.info.domains):
        raise InputValueError(
            f"radial_velocity: the weights {fm.info.name!r} do not predict {_VELOCITY}, and cannot measure velocities; "
            "give velocities, or take radial_velocity from a table that other weights have made"
        )
    stars = to_arrays(spectra, **options)
    found = _measured(fm, stars, batch_size)
    for start in _STARTS:
        lost = [row for row, star in enumerate(found) if star.radial_velocity_error > _LOST]
        again = _measured(fm, [stars[row].moved_to_rest(start, np.nan) for row in lost], batch_size)
        for row, star in zip(lost, again, strict=True):
            # noise, too, makes errors large: only what is seen much better elsewhere is there
            if star.radial_velocity_error < min(_LOST, found[row].radial_velocity_error / 2):
                found[row] = star
    return _without_prior(fm, found, batch_size)


def _measured(fm, stars, batch_size):
    """Return stars without the velocities that the model sees in them."""
    stars, moving = list(stars), np.array([star.n_good > 0 for star in stars], dtype=bool)
    for _ in range(_N_PASS):
        pending = np.flatnonzero(moving)
        moving[:] = False
        seen = _velocities(fm, [stars[row] for row in pending], batch_size)
        for row, velocity, error in zip(pending, *seen, strict=True):
            if np.isfinite(velocity):
                stars[row] = stars[row].moved_to_rest(velocity, error)
                moving[row] = abs(velocity) > max(error, _AT_REST)
    return stars


def _without_prior(fm, stars, batch_size):
    """Return stars without what is left of their velocities because the model expects none.

    Training stars were near rest, so of a small velocity ``v`` the model sees ``s v``, with ``s`` below 1 where lines
    are weak, and its error is that of the posterior. Without the prior the velocity is ``v`` again, and the error
    larger by ``1 / sqrt(s)``.
    """
    stars = list(stars)
    rows = [row for row, star in enumerate(stars) if np.isfinite(star.radial_velocity_error)]
    aside = _ASIDE * np.array([stars[row].radial_velocity_error for row in rows])
    seen = []
    for sign in (-1, 1):
        moved = [stars[row].moved_to_rest(sign * step, np.nan) for row, step in zip(rows, aside, strict=True)]
        seen.append(_velocities(fm, moved, batch_size))
    (behind, before), errors = np.swapaxes(seen, 0, 1)
    response = np.clip((behind - before) / (2 * aside), _LEAST, 1)
    error = errors.mean(axis=0) / np.sqrt(response)
    # what does not respond is not moved far
    left = np.clip((behind + before) / 2 / response, -_ASIDE * error, _ASIDE * error)
    for row, velocity, its_error in zip(rows, left, error, strict=True):
        if np.isfinite(velocity):
            stars[row] = stars[row].moved_to_rest(velocity, its_error)
    return stars


def _velocities(fm, stars, batch_size):
    """Return the velocities ``(n_star,)`` that the model sees [km / s], and their errors; NaN where it sees none."""
    velocities, errors = np.full((2, len(stars)), np.nan)
    arrays, domains = fm.info.assign_domains(stars)
    for number, rows in star_batches(arrays, domains, batch_size):
        domain = fm.info.domains[number]
        if _VELOCITY not in domain.labels:
            continue
        prepared = [fm.prepare(arrays[row], number) for row in rows]
        has_sigma = np.array([star.has_sigma for star in prepared])
        velocity, error = fm.predict_labels(fm.perceive(prepared, number), [_VELOCITY])
        # a star without a pixel here has none to measure
        seen = [star.n_good > 0 for star in prepared]
        velocities[rows] = np.where(seen, velocity[:, 0], np.nan)
        errors[rows] = domain.calibrated_errors([_VELOCITY], error, has_sigma)[:, 0]
    return velocities, errors
