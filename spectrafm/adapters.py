"""From whatever holds spectra to plain arrays, one `SpectrumArrays` a star.

The only room that knows specutils. What leaves it is in vacuum, in the rest
frame, in ascending order, float64 in native byte order, with every pixel
judged good or bad. See the page "Giving spectra" of the documentation.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import astropy.units as u
import numpy as np

from ._numerics import split_mask
from ._orders import merged
from ._pixel_quality import MASK_POLICIES, Block, as_real, finish, policy_bits, told_problem, unusable
from ._spectral_units import SPEED_OF_LIGHT, axis_to_angstrom
from ._star_names import common_name, name_texts, star_names
from .arrays import SpectrumArrays
from .exceptions import InputTypeError, InputValueError
from .flags import Flag

__all__ = ["MASK_POLICIES", "SpectrumArrays", "from_arrays", "merge_orders", "resolving_powers", "to_arrays"]

_MEDIA = ("air", "vacuum")


def to_arrays(spectra, *, medium=None, radial_velocity=None, resolving_power=None, mask_policy=None):
    """Turn spectra into plain arrays in vacuum and in the rest frame.

    Parameters
    ----------
    spectra : `~specutils.Spectrum` or collection
        A spectrum, 1-D or with one spectral axis and one row a star,
        `~specutils.SpectrumCollection`, `~specutils.SpectrumList`,
        `SpectrumArrays`, or a list of any of these, nested or not. It is
        never modified.
    medium : {"vacuum", "air"} or sequence of str, optional
        What the wavelengths are measured in, for all or for each star. When left out, what the
        object's own WCS says (air for ``AWAV`` of FITS); vacuum where it does not say.
    radial_velocity : `~astropy.units.Quantity` ['speed'], optional
        Velocity with which the star's lines are shifted, positive when
        receding; a scalar or one a star. When left out, the object's own
        ``radial_velocity`` (0 where it was not set).
    resolving_power : float or array_like, optional
        Resolving power, for all or for each star; NaN where not known.
    mask_policy : str, optional
        Which bits of a mask of whole numbers make a pixel bad, one of `MASK_POLICIES`.
        Any bit when left out. True in a boolean mask is always bad.

    Returns
    -------
    list of SpectrumArrays
        One a star, in order. A star that cannot be used among others has empty
        arrays, `Flag.BAD_INPUT` and its ``problem``.

    Raises
    ------
    InputTypeError
        This holds no spectra, or an argument has the wrong type.
    InputValueError
        A single object that cannot be used, or an argument of the wrong length
        or value.
    """
    bits = policy_bits(mask_policy)
    is_list = not _is_spectrum(spectra) and isinstance(spectra, Iterable)
    leaves = list(_flatten(spectra))
    # a missing star in a list costs its row; a list of something else is a mistake
    if leaves and not any(_is_spectrum(leaf) or (is_list and leaf is None) for leaf in leaves):
        raise InputTypeError(f"spectra: {_not_a_spectrum(leaves[0])}")
    blocks = [_read(leaf) for leaf in leaves]
    _name_arms(leaves, blocks)
    n_star = sum(1 if isinstance(block, SpectrumArrays) else block.n_star for block in blocks)
    options = _per_star_options(n_star, medium, radial_velocity, resolving_power)
    found = []
    for block in blocks:
        if isinstance(block, SpectrumArrays):
            found.append(_check_ready(block, options, len(found)))
        else:
            found += _finish(block, options, bits, len(found))
    if found and not is_list and all(arrays.flags & Flag.BAD_INPUT for arrays in found):
        raise InputValueError(f"spectra: {found[0].problem}")
    return found


def from_arrays(
    wavelength,
    flux,
    sigma=None,
    mask=None,
    *,
    ivar=None,
    medium="vacuum",
    radial_velocity=None,
    resolving_power=None,
    mask_policy=None,
    identifier=None,
):
    """Turn arrays of a catalogue into `SpectrumArrays`, without any Spectrum.

    Parameters
    ----------
    wavelength : array_like or `~astropy.units.Quantity`
        ``(n_pixel,)``, or ``(n_star, n_pixel)``; plain numbers are Angstrom.
    flux : array_like or `~astropy.units.Quantity`
        ``(n_star, n_pixel)``, or ``(n_pixel,)`` for one star.
    sigma : array_like, `~astropy.units.Quantity` or `~astropy.nddata.NDUncertainty`, optional
        Of the shape of ``flux``, or one number for all pixels: standard deviations, or an
        uncertainty object. Give a column of a table as it is: uncertainty objects drop its
        unit and its mask.
    mask : array_like, optional
        Of the shape of ``flux``: True (or a bit) where a pixel is bad.
    ivar : array_like or `~astropy.units.Quantity`, optional
        Inverse variances instead of ``sigma``, of the shape of ``flux`` or one number; 0, masked
        or negative where a pixel is bad. Without a unit, in that of the flux.
    medium, radial_velocity, resolving_power, mask_policy
        As in `to_arrays`.
    identifier : sequence of str or int, optional
        A name for each star; the row number when left out, and where it is masked, NaN or blank.

    Returns
    -------
    list of SpectrumArrays
        One a star.

    Raises
    ------
    InputTypeError, InputValueError
        Shapes or units that do not fit, both ``sigma`` and ``ivar``, or no star that can be used.
    """
    bits = policy_bits(mask_policy)
    mask = None if mask is np.ma.nomask else mask
    wavelength, flux = _together("wavelength", wavelength), _together("flux", flux)
    sigma, ivar = _together("sigma", sigma), _together("ivar", ivar)
    if sigma is not None and ivar is not None:
        raise InputValueError("sigma, ivar: both are given; give standard deviations or inverse variances")
    if getattr(ivar, "uncertainty_type", "ivar") != "ivar":
        raise InputTypeError(f"ivar: {type(ivar).__name__}; expected inverse variances; give other errors as sigma")
    kind, errors = ("std", sigma) if ivar is None else ("ivar", ivar)
    shape = _shape("flux", flux)
    if len(shape) not in (1, 2):
        raise InputValueError(f"flux: shape {shape}; expected (n_star, n_pixel), or (n_pixel,) for one star")
    errors = _for_all_pixels(errors, shape)
    for name, array, shapes in (
        ("wavelength", wavelength, (shape, shape[-1:])),
        ("sigma" if ivar is None else "ivar", getattr(errors, "array", errors), (shape,)),
        ("mask", mask, (shape,)),
    ):
        if array is not None and (found := _shape(name, array)) not in shapes:
            raise InputValueError(f"{name}: shape {found} does not fit flux {shape}{_remedy(name, found, shape)}")
    n_star = shape[0] if len(shape) == 2 else 1
    identifier = None if identifier is None else _names(identifier, n_star)
    options = _per_star_options(n_star, medium, radial_velocity, resolving_power)
    block = Block(n_star, identifier)
    try:
        unit = getattr(wavelength, "unit", None) or u.AA
        block.wavelength = axis_to_angstrom(as_real(wavelength, "wavelength"), unit)
        block.fill(flux, getattr(flux, "unit", None), errors, mask, lambda a: np.reshape(a, (n_star, shape[-1])), kind)
    except InputValueError as error:
        names = ["wavelength", "flux", "sigma" if ivar is None else "ivar", *["mask"] * (mask is not None)]
        raise InputValueError(f"{', '.join(names)}: {error}") from None
    found = _finish(block, options, bits, 0)
    if found and all(arrays.flags & Flag.BAD_INPUT for arrays in found):
        raise InputValueError(f"wavelength, flux: {found[0].problem}")
    return found


def merge_orders(orders, *, medium=None, radial_velocity=None, resolving_power=None, mask_policy=None, identifier=None):
    """Combine the orders, arms or exposures of one star into one spectrum.

    Parameters
    ----------
    orders : `~specutils.SpectrumList`, `~specutils.SpectrumCollection` or list
        The orders, in any order and on any scale; whatever `to_arrays` takes, each row of
        which is an order: a list of `~specutils.Spectrum` or of `SpectrumArrays`, a 2-D spectrum.
        Several 2-D spectra with the same number of rows, as the arms of DESI, are refused:
        there each row is usually a star of its own.
    medium, radial_velocity, resolving_power, mask_policy
        As in `to_arrays`, for all orders or one an order.
    identifier : str, optional
        Name of the star. When left out, the name that all orders have, or "0".

    Returns
    -------
    SpectrumArrays
        The merged spectrum, which `spectrafm.SpectraFM.infer` takes: vacuum, rest frame, divided
        by a smooth continuum, without a unit. One order alone is as `to_arrays` gives it. The
        resolving power is the median of those known. Without errors in any order it has none.

    Raises
    ------
    InputTypeError
        As of `to_arrays`, or the name is none.
    InputValueError
        As of `to_arrays`; there is no order; one cannot be used; some have errors and others none;
        the rows of several 2-D spectra may be different stars.

    Notes
    -----
    1. Each order is divided by its smooth continuum, of `~spectrafm.continuum.ContinuumNormalizer`:
       by the one of the orders around it, up to 25, laid over each other, where there are at least
       seven places and their lengths are alike, as of an echelle; otherwise by its own.
    2. Orders are brought to the level on which they agree where they overlap.
    3. At each wavelength the pixels of the order with the highest signal-to-noise ratio there make
       the axis. Each pixel of the others is shared among those that it covers, in proportion: flux
       is their mean, weighted with inverse variances, and errors add up so that none is counted
       twice. Neighbours are correlated there; sums over several pixels have the right error.

    Edges count little where the blaze is low: the division makes their errors large. Without
    errors the weights are those of photons, in proportion to the continuum. Bad pixels count
    nothing, nor do orders whose flux is not above zero in most pixels.

    The shape of the spectrum is lost on scales above an order: this is for the domains of weights
    that normalise by a continuum, and not for spectrophotometry such as Gaia XP.

    Examples
    --------
    >>> import numpy as np
    >>> from spectrafm.adapters import from_arrays, merge_orders
    >>> blue, red = np.linspace(5000, 5100, 1001), np.linspace(5080, 5180, 1001)
    >>> orders = from_arrays([blue, red], np.ones((2, 1001)) * [[300], [20]], np.ones((2, 1001)) * [[3], [0.2]])
    >>> star = merge_orders(orders)
    >>> len(star.wavelength), round(float(np.median(star.flux)), 6)
    (1801, 1.0)
    >>> star.sigma[[0, 900]].round(4)
    array([0.01  , 0.0071])
    """
    if not _is_spectrum(orders) and isinstance(orders, Iterable):
        orders = list(_flatten(orders))
        _check_one_star(orders)
    found = to_arrays(
        orders,
        medium=medium,
        radial_velocity=radial_velocity,
        resolving_power=resolving_power,
        mask_policy=mask_policy,
    )
    if identifier is not None and not isinstance(identifier, str):
        raise InputTypeError(f"identifier: {identifier!r}; expected one name, as all orders are of one star")
    if not found:
        raise InputValueError("orders: there is none; expected one or more spectra of a star")
    for row, order in enumerate(found):
        if order.problem:
            raise InputValueError(f"orders: number {row} cannot be used, {order.problem}; correct it or leave it out")
    told = [order.has_sigma for order in found if order.n_good]
    if any(told) and not all(told):
        lacking = [str(row) for row, order in enumerate(found) if order.n_good and not order.has_sigma]
        raise InputValueError(
            f"orders: no usable errors in number {', '.join(lacking)}, but in {sum(told)} others; expected errors in "
            "all orders, or in none; give them, or leave them out of all"
        )
    name = common_name([order.identifier for order in found]) or "0" if identifier is None else identifier
    return replace(found[0], identifier=name) if len(found) == 1 else merged(found, name)


def _check_one_star(orders):
    """Refuse spectra that have the same number of rows each, which may be as many stars."""
    sizes = {_n_row(order) for order in orders}
    if len(orders) > 1 and len(sizes) == 1 and (n_star := sizes.pop()) > 1:
        raise InputValueError(
            f"orders: {len(orders)} spectra with {n_star} rows each, and it is not clear whether a row is a star or an "
            f"order; with stars = to_arrays(orders) give merge_orders(stars[row::{n_star}]) for each row that is a "
            "star, or merge_orders(stars) where all rows are of one star"
        )


def _n_row(order):
    if not _is_spectrum(order) or isinstance(order, SpectrumArrays):
        return 1
    return order.flux.size // order.flux.shape[getattr(order, "spectral_axis_index", -1)]


def _together(name, rows):
    """Return a list of rows as one array, with their units and masks; anything else as it is."""
    if getattr(getattr(rows, "dtype", None), "kind", "") == "O" and any(np.ndim(row) for row in rows):
        # a column of arrays
        unit = getattr(rows, "unit", None)
        rows = _together(name, list(rows))
        if unit is None or any(hasattr(row, "unit") for row in rows):
            return rows
        _shape(name, rows)
        return u.Quantity(rows, unit)
    if not isinstance(rows, (list, tuple)) or not any(hasattr(row, "unit") or hasattr(row, "mask") for row in rows):
        return rows
    if len({np.shape(row) for row in rows}) > 1:
        # refused where shapes are compared
        return [np.asarray(row) for row in rows]
    if all(isinstance(row, u.Quantity) for row in rows):
        return np.stack(rows)
    if all(type(row) in (np.ndarray, np.ma.MaskedArray) for row in rows):
        return np.ma.stack(rows)
    kinds = ", ".join(sorted({type(row).__name__ for row in rows}))
    raise InputTypeError(
        f"{name}: a list of {kinds}, whose units and masks would be lost; give one array of shape (n_star, n_pixel), "
        "or a list of Quantity or of masked arrays"
    )


def _shape(name, array):
    """Return the shape of an array, or refuse rows of different lengths."""
    try:
        shape = np.shape(array)
        objects = getattr(getattr(array, "dtype", None), "kind", "") == "O"
        ragged = objects and any(np.ndim(row) for row in array)
    except ValueError:
        ragged = True
    if ragged:
        raise InputValueError(
            f"{name}: rows of different lengths; expected (n_star, n_pixel); call from_arrays for each star, and "
            "give the lists that it returns in one list"
        )
    return shape


def _for_all_pixels(errors, shape):
    """Return errors of the shape of the flux where one number is given for all pixels; others as they are."""
    array = getattr(errors, "array", errors)
    # rows may be of different lengths, and have no shape then
    if array is None or isinstance(array, (list, tuple)) or np.ndim(array):
        return errors
    if hasattr(errors, "uncertainty_type"):
        return type(errors)(np.full(shape, array), unit=errors.unit)
    value, mask = split_mask(errors)
    unit = getattr(errors, "unit", None)
    value = np.full(shape, np.nan if np.any(mask) else getattr(value, "value", value))
    return value if unit is None else u.Quantity(value, unit)


def _remedy(name, found, shape):
    """Say what to do about an array that does not fit the flux, or ""."""
    if len(shape) == 2 and name == "wavelength" and found == shape[:1]:
        return "; expected (n_star, n_pixel), a spectrum in each row; transpose the flux, as flux.T, and its errors"
    if len(shape) == 2 and found == shape[::-1]:
        return f"; expected (n_star, n_pixel), a spectrum in each row; transpose one of them, as {name}.T or flux.T"
    return ""


def _names(identifier, n_star):
    """Return the names of stars as text, None where there is none."""
    if isinstance(identifier, (str, bytes)):
        identifier = [identifier]
    elif not isinstance(identifier, Iterable) or getattr(identifier, "ndim", 1) == 0:
        raise InputTypeError(f"identifier: {identifier!r}; expected a name for each star")
    try:
        names = name_texts(identifier)
    except InputValueError as error:
        raise InputValueError(f"identifier: {error}") from None
    if len(names) != n_star:
        raise InputValueError(f"identifier: {len(names)} names for {n_star} stars")
    return names


def _finish(block, options, bits, first):
    is_air, velocity, power = (some if some is None else some[first : first + block.n_star] for some in options)
    is_air = np.full(block.n_star, block.in_air) if is_air is None else is_air
    return finish(block, is_air, velocity, power, bits, first)


def _is_spectrum(thing):
    from specutils import Spectrum, SpectrumCollection

    return isinstance(thing, (Spectrum, SpectrumCollection, SpectrumArrays))


def _flatten(spectra):
    """Yield the leaves of nested lists, in order."""
    numbers = isinstance(spectra, np.ndarray) and spectra.dtype != object
    whole = numbers or _is_table(spectra) or isinstance(spectra, (str, bytes, dict))
    if whole or _is_spectrum(spectra) or not isinstance(spectra, Iterable):
        yield spectra
    else:
        for spectrum in spectra:
            yield from _flatten(spectrum)


def _is_table(thing):
    # of astropy, or of pandas
    return hasattr(thing, "columns")


def _not_a_spectrum(thing):
    remedy = "a specutils Spectrum, SpectrumCollection or SpectrumList, or a list of these"
    if isinstance(thing, (str, bytes)) or hasattr(thing, "__fspath__"):
        remedy += "; read a file with spectrafm.spectrum_files.read_spectra(path)"
    elif _is_table(thing):
        remedy += "; for the columns of a table use spectrafm.adapters.from_arrays(wavelength, flux, sigma)"
    elif isinstance(thing, (np.ndarray, float, int)):
        remedy += "; for plain arrays use spectrafm.adapters.from_arrays(wavelength, flux, sigma)"
    return f"got {type(thing).__name__}, expected {remedy}"


def _per_star_options(n_star, medium, radial_velocity, resolving_power):
    """Check the keywords; return is_air (or None), velocity (or None) and resolving power, each ``(n_star,)``."""
    is_air = None if medium is None else _in_air(medium, n_star)
    velocity = None if radial_velocity is None else _speeds(radial_velocity, n_star)
    return is_air, velocity, resolving_powers(resolving_power, n_star)


def _in_air(medium, n_star):
    media = [medium] * n_star if isinstance(medium, str) else _sequence(medium, "medium", "a string or one a star")
    bad = sorted({str(m) for m in ([medium] if isinstance(medium, str) else media) if str(m) not in _MEDIA})
    if bad:
        raise InputValueError(f"medium: {', '.join(map(repr, bad))}; expected 'air' or 'vacuum'")
    _check_length(media, n_star, "medium")
    return np.array([str(m) == "air" for m in media], dtype=bool)


def resolving_powers(resolving_power, n_star):
    """Check the resolving power of spectra.

    Parameters
    ----------
    resolving_power : float, array_like or None
        One for all stars, or one a star.
    n_star : int
        Number of stars.

    Returns
    -------
    numpy.ndarray
        ``(n_star,)``, NaN where not known; of single stars it may be anything.

    Raises
    ------
    InputTypeError, InputValueError
        No numbers, another number of stars, or one for all that is not positive.
    """
    if resolving_power is None:
        return np.full(n_star, np.nan)
    try:
        power = _filled(u.Quantity(resolving_power).to_value(u.one), resolving_power)
    except (TypeError, ValueError, u.UnitsError):
        raise InputTypeError(
            f"resolving_power: {resolving_power!r}; expected a number or one a star, NaN where not known"
        ) from None
    if power.ndim:
        _check_length(power, n_star, "resolving_power")
    elif not (power > 0 or np.isnan(power)):
        raise InputValueError(f"resolving_power: {power}; expected a positive number, or NaN where not known")
    return np.broadcast_to(power, (n_star,))


def _speeds(radial_velocity, n_star):
    try:
        velocity = u.Quantity(radial_velocity)
    except (TypeError, ValueError):
        raise InputTypeError(f"radial_velocity: {radial_velocity!r}; expected a Quantity of speed") from None
    if velocity.unit == u.one:
        raise InputTypeError("radial_velocity: no unit; expected a speed, for example 35 * u.km / u.s")
    if velocity.unit.physical_type != "speed":
        raise InputValueError(f"radial_velocity: in {velocity.unit}; expected a speed, for example 35 * u.km / u.s")
    velocity = _filled(velocity.to_value(u.km / u.s), radial_velocity)
    if velocity.ndim:
        _check_length(velocity, n_star, "radial_velocity")
    elif not abs(velocity) < SPEED_OF_LIGHT:
        raise InputValueError(f"radial_velocity: {velocity} km/s; expected a finite speed below that of light")
    return np.broadcast_to(velocity, (n_star,))


def _filled(values, original):
    """Return float64 values, NaN where the original is masked."""
    values = np.asarray(getattr(values, "unmasked", values), dtype=np.float64)
    return np.where(split_mask(original)[1], np.nan, values)


def _sequence(values, name, expected):
    if values is None or not isinstance(values, Iterable):
        raise InputTypeError(f"{name}: {values!r}; expected {expected}")
    return list(values)


def _check_length(values, n_star, name):
    if np.shape(values)[:1] != (n_star,) or np.ndim(values) != 1:
        raise InputValueError(f"{name}: shape {np.shape(values)} for {n_star} stars; expected a scalar or ({n_star},)")


def _check_ready(arrays, options, row):
    """Let a `SpectrumArrays` pass; it is in vacuum and in the rest frame already."""
    is_air, velocity, power = options
    speed = 0.0 if velocity is None else velocity[row]
    if problem := told_problem(speed, power[row]) or _ready_problem(arrays):
        return unusable(problem, arrays.identifier)
    if (is_air is not None and is_air[row]) or speed != 0:
        raise InputValueError(
            f"spectra: number {row} is a SpectrumArrays, in vacuum and in the rest frame already; "
            "leave out medium='air' and radial_velocity for it"
        )
    return arrays if np.isnan(power[row]) else replace(arrays, resolving_power=float(power[row]))


def _ready_problem(arrays):
    """Say what no pixel that was judged good can have, or ""."""
    if not np.isfinite(arrays.flux[arrays.good]).all():
        text = "some of its good pixels have a flux that is not finite"
    elif (arrays.sigma[arrays.good] <= 0).any():
        text = "some of its good pixels have an error that is not positive"
    else:
        return ""
    return f"{text}; set good to False there, or make it with from_arrays, which judges pixels"


def _read(thing):
    """Read one object into a block of stars; what is wrong with it becomes its problem."""
    from specutils import SpectrumCollection

    if isinstance(thing, SpectrumArrays):
        return thing
    if not _is_spectrum(thing):
        return Block(1, problem=_not_a_spectrum(thing))
    own_axes = isinstance(thing, SpectrumCollection)  # an axis for each star
    flux, unit = (thing.flux, thing.flux.unit) if own_axes else (thing.data, thing.unit)
    index = flux.ndim - 1 if own_axes else thing.spectral_axis_index
    n_pixel = flux.shape[index]
    n_star = math.prod(flux.shape[:index] + flux.shape[index + 1 :])

    def rows(array):
        array = array if index == array.ndim - 1 else np.moveaxis(array, index, -1)
        return array.reshape(n_star, n_pixel)

    block = Block(n_star, star_names(thing.meta, n_star), in_air=_says_air(thing))
    axis = thing.spectral_axis
    if axis is None:
        block.problem = "there is no spectral axis; give the collection spectral_axis="
        return block
    try:
        rest, convention = getattr(axis, "doppler_rest", None), getattr(axis, "doppler_convention", None)
        block.wavelength = axis_to_angstrom(axis.value, axis.unit, rest, convention)
        if own_axes:
            block.wavelength = rows(block.wavelength)
        velocity = np.ravel(axis.radial_velocity.to_value(u.km / u.s))
        if len(velocity) not in (1, n_star):
            raise InputValueError(f"it has {len(velocity)} radial velocities for {n_star} stars")
        block.velocity = velocity if len(velocity) > 1 else velocity[0]
        block.fill(flux, unit, thing.uncertainty, thing.mask, rows)
    except InputValueError as error:
        block.problem = str(error)
    return block


def _name_arms(leaves, blocks):
    """Add the arm to the names of stars that were observed in several; DESI has the names in the first arm alone."""
    arms = [str(leaf.meta.get("band") or "") if _has_meta(leaf) else "" for leaf in leaves]
    if len({*arms} - {""}) < 2:
        return
    known = None
    for arm, block in zip(arms, blocks, strict=True):
        if not arm:
            continue
        known = block.identifiers or known
        if known is not None and len(known) == block.n_star:
            block.identifiers = [None if name is None else f"{name}:{arm}" for name in known]


def _has_meta(leaf):
    return _is_spectrum(leaf) and hasattr(getattr(leaf, "meta", None), "get")


def _says_air(thing):
    """Say whether the WCS of an object is that of wavelengths in air."""
    # a header may have come along from another axis
    kinds = getattr(getattr(thing, "wcs", None), "world_axis_physical_types", None)
    return "em.wl;obs.atmos" in (kinds or ())
