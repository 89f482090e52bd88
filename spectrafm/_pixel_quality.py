"""Stars as they were read, and their way to `SpectrumArrays`.

Reading is done in `spectrafm.adapters`; here a block of stars is brought to
vacuum, rest frame and flux per wavelength, and its pixels are judged. All stars
of a block are worked on at once.
"""

import logging
from dataclasses import dataclass

import numpy as np

from ._numerics import split_mask
from ._spectral_units import SPEED_OF_LIGHT, air_to_vacuum, doppler_factor, flux_rule, sigma_factor
from ._unmeasured import unmeasured
from .arrays import COUNTS, SpectrumArrays
from .exceptions import InputValueError
from .flags import Flag

__all__ = ["MASK_POLICIES", "Block", "as_real", "finish", "order_starts", "policy_bits", "told_problem", "unusable"]

logger = logging.getLogger("spectrafm")

#: Named policies for integer masks: the bits that make a pixel bad, None for any bit.
MASK_POLICIES = {
    # the bits that SDSS's own reduction counts as bad: BADPIX to NOSKY (0-7), NOT_ENOUGH_PSF (14)
    "apogee_dr17": sum(1 << bit for bit in (*range(8), 14)),
    # and those in the Littrow ghost (8) or beside a strong sky line (12)
    "apogee_dr17_strict": sum(1 << bit for bit in (*range(9), 12, 14)),
    # DO_NOT_USE
    "jwst": 1,
    "sdss_any": None,
    # FULLREJECT, NOSKY, BRIGHTSKY, NODATA, COMBINEREJ, BADFLUXFACTOR, BADSKYCHI
    "sdss_boss": sum(1 << bit for bit in (18, 22, 23, 24, 25, 26, 27)),
}

# an error this many times the lower quartile of the errors, or the median of
# the flux, is a mark for a bad pixel and not an error
_ABSURD_SIGMA, _ABSURD_FLUX = 1e6, 1e10
# wavelengths that step back more often than once in so many pixels are no orders, but out of order
_ORDER = 8


def policy_bits(mask_policy):
    """Look a mask policy up.

    Parameters
    ----------
    mask_policy : str or None
        A name in `MASK_POLICIES`.

    Returns
    -------
    int or None
        Bits that make a pixel bad; None for any.

    Raises
    ------
    InputValueError
        The name is not known; the message lists the known ones.
    """
    if mask_policy is None:
        return None
    if not isinstance(mask_policy, str) or mask_policy not in MASK_POLICIES:
        raise InputValueError(f"mask_policy: unknown policy {mask_policy!r}; known are {', '.join(MASK_POLICIES)}")
    return MASK_POLICIES[mask_policy]


def as_real(array, what):
    """Copy numbers.

    Parameters
    ----------
    array : array_like
        Numbers of any kind and byte order; masked ones become NaN.
    what : str
        What they are, for the error message.

    Returns
    -------
    numpy.ndarray
        A new array, float64 in native byte order.

    Raises
    ------
    InputValueError
        They are not real numbers.
    """
    array, mask = split_mask(array)
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise InputValueError(f"the {what} holds {array.dtype}; expected real numbers")
    return np.where(mask, np.nan, array.astype(np.float64))


def _as_mask(mask):
    """Return where a mask is True or unknown, and its bits or None; both of the shape of the mask."""
    dtype = getattr(mask, "dtype", None)
    if hasattr(dtype, "na_value") and dtype.kind == "b":
        # of pandas, which has no boolean for what is not known
        mask = mask.to_numpy(dtype=bool, na_value=True)
    mask, unknown = split_mask(mask)
    mask = np.asarray(mask)
    if mask.dtype == object:
        mask = np.array(mask.tolist())
    if mask.dtype.kind == "b":
        return mask | unknown, None
    if mask.dtype.kind == "f":
        unknown = unknown | ~np.isfinite(mask)
        bits = np.where(unknown, 0, mask)
        if ((bits != np.trunc(bits)) | (np.abs(bits) >= 2.0**63)).any():
            raise InputValueError("the mask holds numbers that are not whole; expected booleans, or bits")
        # tables of LAMOST hold bits so
        mask = bits.astype(np.int64)
    if mask.dtype.kind not in "iu":
        raise InputValueError(f"the mask holds {mask.dtype}; expected booleans, or bits as whole numbers")
    return np.broadcast_to(unknown, mask.shape), mask.astype(np.int64)


@dataclass
class Block:
    """Stars read from one object, before medium, frame and judgement of pixels.

    Attributes
    ----------
    n_star : int
        Number of stars.
    identifiers : list of (str or None) or None
        Their names, where the object has them.
    problem : str
        Why the object cannot be used at all, or "".
    in_air : bool
        Whether the object says that its wavelengths are in air.
    wavelength : numpy.ndarray
        ``(n_pixel,)`` or ``(n_star, n_pixel)`` [Angstrom], as observed.
    flux, sigma : numpy.ndarray
        ``(n_star, n_pixel)`` in ``flux_unit``; ``sigma`` None without errors.
    flux_unit : `~astropy.units.UnitBase` or None
        Unit of the flux.
    masked : numpy.ndarray
        ``(n_star, n_pixel)`` bool.
    bits : numpy.ndarray or None
        ``(n_star, n_pixel)`` int64, the integer mask.
    velocity : numpy.ndarray or float
        () or ``(n_star,)`` [km/s], the object's own radial velocity.
    """

    n_star: int
    identifiers: list | None = None
    problem: str = ""
    in_air: bool = False
    wavelength: np.ndarray | None = None
    flux: np.ndarray | None = None
    flux_unit: object = None
    sigma: np.ndarray | None = None
    masked: np.ndarray | None = None
    bits: np.ndarray | None = None
    velocity: np.ndarray | float = 0.0

    def fill(self, flux, flux_unit, uncertainty, mask, rows, kind="std"):
        """Take flux, uncertainty and mask, all in the unit of the flux.

        Parameters
        ----------
        flux : array_like
            The flux; its own mask, if it has one, counts.
        flux_unit : `~astropy.units.UnitBase` or None
            Unit of the flux.
        uncertainty : array_like, `~astropy.nddata.NDUncertainty` or None
            The errors, or an object that says what it holds.
        mask : array_like or None
            Boolean, or bits as whole numbers.
        rows : callable
            Turns an array of the shape of the flux into ``(n_star, n_pixel)``.
        kind : {"std", "ivar"}, optional
            What plain numbers are: standard deviations, or inverse variances.

        Raises
        ------
        InputValueError
            Not numbers, or units that do not belong together.
        """
        # what is under a mask stays as it is
        flux, masked = split_mask(flux)
        self.flux, self.flux_unit = rows(as_real(flux, "flux")), flux_unit
        self.masked = np.zeros(self.flux.shape, dtype=bool)
        for some in (masked if np.ndim(masked) else None, mask):
            if some is not None:
                bad, bits = _as_mask(some)
                self.masked |= rows(bad)
                self.bits = self.bits if bits is None else rows(bits)
        array, unit = uncertainty, getattr(uncertainty, "unit", None)
        if hasattr(uncertainty, "uncertainty_type"):
            kind, array = uncertainty.uncertainty_type, uncertainty.array
        # an uncertainty of unknown meaning is none
        if array is None or kind not in ("std", "var", "ivar"):
            return
        factor = sigma_factor(kind, unit, flux_unit)
        sigma = rows(as_real(array, "uncertainty"))
        with np.errstate(divide="ignore", invalid="ignore"):
            if kind == "var":
                sigma = np.sqrt(sigma)
            elif kind == "ivar":
                # no weight at all is how surveys mark a pixel that was not measured
                self.masked |= sigma == 0
                sigma = 1 / np.sqrt(sigma)
            self.sigma = sigma * factor


def finish(block, is_air, velocity, resolving_power, policy, first):
    """Bring a block to vacuum, rest frame and flux per wavelength, and judge its pixels.

    Parameters
    ----------
    block : Block
        As read; its arrays are used up.
    is_air : numpy.ndarray
        ``(n_star,)`` bool, whether wavelengths are in air.
    velocity : numpy.ndarray or None
        ``(n_star,)`` [km/s]; None for the block's own.
    resolving_power : numpy.ndarray
        ``(n_star,)``, NaN where not known.
    policy : int or None
        Bits of the integer mask that make a pixel bad; None for any.
    first : int
        Number of the first star, which names stars without a name.

    Returns
    -------
    list of SpectrumArrays
        One a star.
    """
    n_star = block.n_star
    names = [
        str(first + row) if name is None else name for row, name in enumerate(block.identifiers or [None] * n_star)
    ]
    try:
        power, factor, unit = flux_rule(block.flux_unit)
    except InputValueError as error:
        block.problem = block.problem or str(error)
    if block.problem or n_star == 0:
        return [unusable(block.problem, name) for name in names]

    problems = [""] * n_star
    wavelength = _ascending(block, problems)
    if is_air.all():
        wavelength = air_to_vacuum(wavelength)
    elif is_air.any():
        wavelength = np.where(is_air[:, None], air_to_vacuum(wavelength), wavelength)
    with np.errstate(all="ignore"):
        scale = factor / wavelength**power if power else factor
        flux = block.flux * scale
        sigma = np.full(flux.shape, np.nan) if block.sigma is None else block.sigma * scale
    velocity = np.broadcast_to(block.velocity if velocity is None else velocity, (n_star,))
    shift = doppler_factor(velocity)
    wavelength = wavelength / shift[0] if (shift == shift[0]).all() else wavelength / shift[:, None]
    for row, told in enumerate(zip(velocity, resolving_power, strict=True)):
        problems[row] = problems[row] or told_problem(*told)

    bits = np.zeros(flux.shape, dtype=bool)
    if block.bits is not None:
        bits = block.bits != 0 if policy is None else (block.bits & policy) != 0
    finite = np.isfinite(flux)
    # one number is many where units change with wavelength
    filled = unmeasured(block.flux, finite)
    good = finite & ~block.masked & ~bits & ~filled
    bad_sigma = np.zeros(flux.shape, dtype=bool)
    has_sigma = np.zeros(n_star, dtype=bool)
    if block.sigma is not None:
        bad_sigma = _bad_sigma(flux, sigma, good)
        # errors none of which can be used are no errors, and do not cost the star its pixels
        has_sigma = np.where(good.any(axis=1), (good & ~bad_sigma).any(axis=1), (~bad_sigma).any(axis=1))
        good &= ~(bad_sigma & has_sigma[:, None])
        sigma[~has_sigma] = np.nan
    flags = np.where(good.any(axis=1), 0, int(Flag.NO_GOOD_PIXELS)) | np.where(has_sigma, 0, int(Flag.NO_UNCERTAINTY))
    counted = (good, block.masked, bits, ~finite, filled, bad_sigma)
    counts = np.stack([np.full(n_star, flux.shape[1]), *(some.sum(axis=1) for some in counted)], axis=1).tolist()
    return [
        unusable(problems[row], name)
        if problems[row]
        else SpectrumArrays(
            wavelength=wavelength if wavelength.ndim == 1 else wavelength[row],
            flux=flux[row],
            sigma=sigma[row],
            good=good[row],
            flux_unit=unit,
            resolving_power=float(resolving_power[row]),
            identifier=name,
            medium="air" if is_air[row] else "vacuum",
            radial_velocity=float(velocity[row]),
            flags=int(flags[row]),
            counts=dict(zip(COUNTS, counts[row], strict=True)),
        )
        for row, name in enumerate(names)
    ]


def told_problem(velocity, resolving_power):
    """Say what is wrong with the velocity or resolving power given for a star.

    Parameters
    ----------
    velocity : float
        Radial velocity [km/s].
    resolving_power : float
        NaN where not known.

    Returns
    -------
    str
        "" where nothing is.
    """
    if not abs(velocity) < SPEED_OF_LIGHT:
        return f"its radial velocity is {velocity} km/s; expected a finite speed below c"
    if resolving_power > 0 or np.isnan(resolving_power):
        return ""
    return f"its resolving power is {resolving_power}; expected a positive number, or NaN where not known"


def unusable(problem, name):
    """Return what stands for a star that cannot be used, and write into the log why.

    Parameters
    ----------
    problem : str
        Why, in words.
    name : str
        Name of the star.

    Returns
    -------
    SpectrumArrays
        As of `SpectrumArrays.unusable`.
    """
    logger.info("star %s cannot be used: %s", name, problem)
    return SpectrumArrays.unusable(problem, name)


def _ascending(block, problems):
    """Return wavelengths in ascending order, the block's arrays turned along; note what is wrong."""
    wavelength = block.wavelength
    axes = np.atleast_2d(wavelength)  # (1 or n_star, n_pixel)
    with np.errstate(invalid="ignore"):
        steps = np.diff(axes, axis=1)
        usable = (np.isfinite(axes) & (axes > 0)).all(axis=1)
        up, down = (steps > 0).all(axis=1), (steps < 0).all(axis=1)
    for row in np.flatnonzero(~(usable & (up | down))):
        if not usable[row]:
            text = "its wavelengths are not all finite and positive; leave out the pixels without a wavelength"
        elif (steps[row] == 0).any():
            text = (
                "its wavelengths repeat; leave such pixels out, or give orders that overlap as a spectrum each to "
                "spectrafm.adapters.merge_orders"
            )
        elif n_order := len(order_starts(axes[row])):
            text = (
                f"its wavelengths step back {n_order} time{'s' * (n_order > 1)}, as those of orders or arms one after "
                "the other; give these as a spectrum each to spectrafm.adapters.merge_orders, or the file that holds "
                "them with merge_orders=True"
            )
        else:
            text = "its wavelengths neither ascend nor descend; sort its pixels by them"
        for star in range(len(problems)) if wavelength.ndim == 1 else [row]:
            problems[star] = text
    turn = (down & ~up)[:, None]
    if not turn.any():
        return wavelength
    for name in ("flux", "sigma", "masked", "bits"):
        array = getattr(block, name)
        if array is not None:
            setattr(block, name, np.where(turn, array[:, ::-1], array))
    return np.where(turn, axes[:, ::-1], axes).reshape(wavelength.shape)


def order_starts(wavelength):
    """Find where orders begin that stand one after the other.

    Parameters
    ----------
    wavelength : numpy.ndarray
        ``(n_pixel,)``.

    Returns
    -------
    numpy.ndarray
        Numbers of the first pixels of all orders but the first; empty where wavelengths ascend or
        descend, or go up and down so often that these are no orders.
    """
    steps = np.diff(wavelength)
    forward = steps if np.count_nonzero(steps > 0) >= np.count_nonzero(steps < 0) else -steps
    starts = np.flatnonzero(forward <= 0) + 1
    return starts if len(wavelength) >= _ORDER * (len(starts) + 1) else starts[:0]


def _bad_sigma(flux, sigma, good):
    """Tell which errors cannot be used: not finite, not positive, or absurd."""
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(sigma) & (sigma > 0))
    usable = good & ~bad
    low = np.min(sigma, axis=1, initial=np.inf, where=usable)
    high = np.max(sigma, axis=1, initial=0, where=usable)
    faintest = np.min(np.abs(flux), axis=1, initial=np.inf, where=good)
    # cheap and necessary; few stars need the closer look
    for row in np.flatnonzero((high / _ABSURD_SIGMA > low) | (high / _ABSURD_FLUX >= faintest)):
        if not usable[row].any():
            continue
        # not the median: up to three quarters of the pixels may carry the mark
        typical_sigma = np.quantile(sigma[row][usable[row]], 0.25, method="lower")
        typical_flux = np.median(np.abs(flux[row][good[row]]))
        with np.errstate(invalid="ignore"):
            bad[row] |= sigma[row] / _ABSURD_SIGMA > typical_sigma
            if typical_flux > 0:
                bad[row] |= sigma[row] / _ABSURD_FLUX >= typical_flux
    return bad
