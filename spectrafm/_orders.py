"""Orders of one star on one axis: what `spectrafm.adapters.merge_orders` does once they are read.

Each order is divided by its smooth continuum, which takes its blaze out and leaves large errors
where the blaze is low. Where there are many orders, as of an echelle, the continuum is that of
those around laid over each other: the blaze is the same in all, lines fall on other places, and
so they stay. Then orders are brought to the level on which they agree where they overlap. At
each wavelength the pixels of the order with the highest S/N make the axis; those of the others are
shared among the pixels that they cover, weighted with their inverse variances.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .arrays import COUNTS, SpectrumArrays
from .continuum import ContinuumNormalizer
from .flags import Flag

__all__ = ["merged"]

# what is left after a division is divided out again: a smooth mean flattens a blaze
_ROUNDS = 3
# most orders that are laid over each other, and fewest places that they must have
_MOST, _FEWEST = 25, 7
# orders are laid over each other where their lengths differ by less than this share
_ALIKE = 0.1
# width of the smooth mean, in lengths of an order: where many are laid over each other, and of one alone
_WIDTH_MANY, _WIDTH_ONE = 0.2, 0.7
# an order is represented by the means of so many pieces when it is laid over others
_PIECES = 256
# how well the level is known [ln] without overlaps, and at best from an overlap
_FREE, _EXACT = 0.3, 0.001
# most that a pixel reaches to one side, in what it reaches to the other
_LOPSIDED = 1.5
# share of a pixel that must have been measured, and of a pixel's width between those of different orders, at least
_COVERED, _APART = 0.5, 0.25


@dataclass
class _Order:
    """Good pixels of an order, without its continuum; all ``(n_pixel,)``.

    Attributes
    ----------
    wavelength, low, high : numpy.ndarray
        Middles and ends of the pixels [Angstrom].
    flux : numpy.ndarray
        Around 1.
    weight : numpy.ndarray
        Inverse variance; without errors, what that of photons is proportional to.
    told : numpy.ndarray
        Smooth weight per Angstrom.
    """

    wavelength: np.ndarray
    low: np.ndarray
    high: np.ndarray
    flux: np.ndarray
    weight: np.ndarray
    told: np.ndarray

    @classmethod
    def of(cls, star, continuum, has_sigma):
        """Take a spectrum and its continuum, or None where nothing is left of it."""
        with np.errstate(invalid="ignore", divide="ignore"):
            flux, sigma = star.flux / continuum, star.sigma / continuum
        good = star.good & (continuum > 0) & np.isfinite(flux) & (np.isfinite(sigma) | (not has_sigma))
        if np.count_nonzero(good) < 2:
            return None
        wavelength, flux = star.wavelength[good], flux[good]
        weight = sigma[good] ** -2.0 if has_sigma else continuum[good] / np.median(continuum[good])
        low, high = _ends(wavelength)
        density = weight / (high - low)
        normalizer = ContinuumNormalizer(_width(star, _WIDTH_MANY), np.inf)
        told = normalizer.divisor(wavelength[None], density[None], np.ones((1, len(density)), dtype=bool))[0]
        return cls(wavelength, low, high, flux, weight, np.maximum(told, 0.0))

    def on_level(self, level):
        """Return the same order, divided by a number."""
        return _Order(
            self.wavelength, self.low, self.high, self.flux / level, self.weight * level**2, self.told * level**2
        )

    def told_at(self, wavelength):
        """Return the smooth weight per Angstrom at wavelengths, -1 where the order is not."""
        outside = (wavelength < self.low[0]) | (wavelength > self.high[-1])
        return np.where(outside, -1.0, np.interp(wavelength, self.wavelength, self.told))


def merged(stars, identifier):
    """Combine the orders of a star.

    Parameters
    ----------
    stars : list of SpectrumArrays
        Two orders or more, in any order, with errors all or none.
    identifier : str
        Name of the star.

    Returns
    -------
    SpectrumArrays
        Flux without a unit, around 1.
    """
    # whatever the order of orders, the same numbers
    used = sorted((star for star in stars if star.n_good > 1), key=_place)
    has_sigma = any(star.has_sigma for star in used)
    orders = [_Order.of(star, continuum, has_sigma) for star, continuum in zip(used, _continua(used), strict=True)]
    orders = [order for order in orders if order is not None]
    orders = [order.on_level(level) for order, level in zip(orders, _levels(orders), strict=True)]
    wavelength, low, high = _axis(orders)
    weight, flux, covered = np.zeros((3, len(wavelength)))
    for order in orders:
        own, pixel, common = _shared(order.low, order.high, low, high)
        share = common / (order.high - order.low)[own] * order.weight[own]
        weight += np.bincount(pixel, share, len(wavelength))
        flux += np.bincount(pixel, share * order.flux[own], len(wavelength))
        covered += np.bincount(pixel, common, len(wavelength))
    good = (covered > _COVERED * (high - low)) & (weight > 0)
    nothing = np.full(len(wavelength), np.nan)
    powers = np.array([star.resolving_power for star in stars])
    flags = 0 if good.any() else int(Flag.NO_GOOD_PIXELS)
    velocities = {star.radial_velocity for star in stars}
    return SpectrumArrays(
        wavelength=wavelength,
        flux=np.divide(flux, weight, out=nothing.copy(), where=good),
        sigma=np.sqrt(np.divide(1.0, weight, out=nothing, where=good & has_sigma)),
        good=good,
        resolving_power=float(np.nanmedian(powers)) if np.isfinite(powers).any() else np.nan,
        identifier=identifier,
        flags=flags if has_sigma else flags | int(Flag.NO_UNCERTAINTY),
        counts={name: sum(star.counts.get(name, 0) for star in stars) for name in COUNTS},
        medium="air" if all(star.medium == "air" for star in stars) else "vacuum",
        # orders of several exposures may have several
        radial_velocity=velocities.pop() if len(velocities) == 1 else 0.0,
    )


def _place(star):
    """Return what orders are sorted by."""
    return *star.wavelength[star.good][[0, -1]], star.n_good, star.flux[star.good].sum()


def _length(star):
    """Return the length of an order in ln(wavelength)."""
    return float(np.diff(np.log(star.wavelength[star.good][[0, -1]]))[0])


def _width(star, share):
    """Return the width of the smooth mean of an order."""
    return float(np.clip(share * _length(star), 1e-4, ContinuumNormalizer.width))


def _continua(stars):
    """Return the smooth continuum of each order, at each of its pixels, NaN where there is none."""
    middle = np.array([np.log(star.wavelength[star.good][[0, -1]]).mean() for star in stars])
    # what one wavelength is in one order is another one in the next: of a grating, order times wavelength is constant
    lengths = np.log([_length(star) for star in stars])
    alike = [
        np.minimum(np.abs(lengths - lengths[row]), np.abs(lengths - middle - lengths[row] + middle[row])) < _ALIKE
        for row in range(len(stars))
    ]
    near = []
    for row, star in enumerate(stars):
        rows = np.flatnonzero(alike[row])
        rows = np.sort(rows[np.argsort(np.abs(middle[rows] - middle[row]), kind="stable")][:_MOST])
        places = np.unique(np.round(2 * middle[rows] / _length(star)))
        near.append(rows if len(places) >= _FEWEST else np.array([row]))
    pieces = [_in_pieces(star) for star in stars]
    level = np.array([np.median(flux) for _, flux in pieces])
    level = np.where(level > 0, level, 1.0)
    for _ in range(_ROUNDS):
        continua = []
        for row, star in enumerate(stars):
            at, flux, good, width = np.log(star.wavelength), star.flux, star.good, _width(star, _WIDTH_ONE)
            if len(near[row]) > 1:
                place, laid = pieces[row][0], []
                for other in near[row]:
                    where = middle[other] + (place - middle[row]) * np.exp(middle[other] - middle[row])
                    known, values = pieces[other]
                    laid.append(np.interp(where, known, values / level[other], left=np.nan, right=np.nan))
                # the continuum is asked for at the pixels, and known at the pieces
                at, flux = np.append(at, place), np.append(np.ones_like(flux), np.nanmedian(laid, axis=0))
                good, width = np.append(np.zeros_like(good), np.ones(len(place), dtype=bool)), _width(star, _WIDTH_MANY)
            continua.append(_smooth(at, flux, good, width)[: len(star.wavelength)])
        found = np.full(len(stars), np.nan)
        for row, (star, continuum) in enumerate(zip(stars, continua, strict=True)):
            use = star.good & (continuum > 0)
            if use.any():
                found[row] = np.median(star.flux[use] / continuum[use])
        level = np.where(found > 0, found, 1.0)
        if all(len(rows) == 1 for rows in near):
            break
    # an order of which no more than half is above zero has no continuum
    return [continuum * (scale if scale > 0 else np.nan) for continuum, scale in zip(continua, found, strict=True)]


def _in_pieces(star):
    """Return ln(wavelength) and flux of an order, averaged over pieces of it."""
    at, flux = np.log(star.wavelength[star.good]), star.flux[star.good]
    piece = np.arange(len(at)) * min(_PIECES, len(at)) // len(at)
    number = np.bincount(piece)
    return np.bincount(piece, at) / number, np.bincount(piece, flux) / number


def _smooth(at, flux, good, width):
    """Return the smooth mean of flux, in as many rounds as it takes to follow a blaze."""
    normalizer, mean = ContinuumNormalizer(width), np.ones_like(flux)
    for _ in range(_ROUNDS):
        with np.errstate(invalid="ignore", divide="ignore"):
            left = flux / mean
        good = good & (mean > 0) & np.isfinite(left)
        mean = mean * normalizer.divisor(np.exp(at)[None], left[None], good[None])[0]
    return mean


def _levels(orders):
    """Return what each order is to be divided by, to agree with the others where they overlap."""
    rows, told, errors = list(np.eye(len(orders))), [0.0] * len(orders), [_FREE] * len(orders)
    for (i, one), (k, other) in combinations(enumerate(orders), 2):
        if one.low[0] >= other.high[-1] or other.low[0] >= one.high[-1]:
            continue
        theirs, its, common = _shared(other.low, other.high, one.low, one.high)
        variance = 1 / one.weight[its] + 1 / other.weight[theirs]
        weight = common / variance
        means = [(weight * flux).sum() for flux in (one.flux[its], other.flux[theirs])]
        if not min(means, default=0) > 0:
            continue
        rows.append(np.eye(len(orders))[i] - np.eye(len(orders))[k])
        told.append(np.log(means[0] / means[1]))
        # of pixels, each of which is counted as often as it is shared
        precision = (common / (one.high - one.low)[its] / variance).sum()
        errors.append(np.hypot(precision**-0.5 * weight.sum() / min(means), _EXACT))
    errors = np.array(errors)
    return np.exp(np.linalg.lstsq(np.array(rows) / errors[:, None], told / errors, rcond=None)[0])


def _axis(orders):
    """Return middles and ends of pixels, at each wavelength those of the order with the highest S/N."""
    if not orders:
        return np.empty((3, 0))
    parts = []
    for row, order in enumerate(orders):
        own = np.ones(len(order.wavelength), dtype=bool)
        for number, other in enumerate(orders):
            if number == row or other.low[0] > order.wavelength[-1] or other.high[-1] < order.wavelength[0]:
                continue
            told = other.told_at(order.wavelength)
            own &= (order.told > told) | ((order.told == told) & (row < number))
        parts.append(np.stack((order.wavelength, order.low, order.high))[:, own])
    wavelength, low, high = (axis := np.concatenate(parts, axis=1))[:, np.argsort(axis[0], kind="stable")]
    width = high - low
    apart = np.append(True, np.diff(wavelength) > _APART * np.minimum(width[1:], width[:-1]))
    wavelength, low, high = wavelength[apart], low[apart], high[apart]
    # pixels of two orders that meet end where they do
    middle = (wavelength[1:] + wavelength[:-1]) / 2
    low[1:], high[:-1] = np.maximum(low[1:], middle), np.minimum(high[:-1], middle)
    return wavelength, low, high


def _ends(wavelength):
    """Return where pixels begin and end: in the middle of two, but beside a gap where it is as wide as they are."""
    steps = np.diff(wavelength)
    before, after = np.append(steps[:1], steps), np.append(steps, steps[-1:])
    low = wavelength - 0.5 * np.where(before > _LOPSIDED * after, after, before)
    high = wavelength + 0.5 * np.where(after > _LOPSIDED * before, before, after)
    # the same number for two that meet, to the last digit
    middle = (wavelength[1:] + wavelength[:-1]) / 2
    low[1:] = np.where(steps > _LOPSIDED * after[1:], low[1:], middle)
    high[:-1] = np.where(steps > _LOPSIDED * before[:-1], high[:-1], middle)
    return low, high


def _shared(low, high, into_low, into_high):
    """Return what pixels have in common with others: numbers of both, and the length [Angstrom] of each pair."""
    first = np.searchsorted(into_high, low, side="right")
    number = np.maximum(np.searchsorted(into_low, high, side="left") - first, 0)
    own = np.repeat(np.arange(len(low)), number)
    into = first[own] + np.arange(len(own)) - (np.cumsum(number) - number)[own]
    return own, into, np.minimum(high[own], into_high[into]) - np.maximum(low[own], into_low[into])
