"""Spectra in images of FITS, with the errors, masks and wavelengths of their extensions."""

from dataclasses import replace

import numpy as np

from ..exceptions import InputValueError
from .contents import further_note, header_names, in_air
from .errors_and_masks import ERRORS, fit_problem, take_errors, take_mask
from .image_axes import axis_type, counts_pixels, header_unit, image_axis
from .names import kind_of
from .units import ANGSTROM, from_log10, likely_unit, with_units

__all__ = ["image_spectra", "with_companions"]

# rows of an image of LAMOST, to DR7
_LAMOST = ("flux", "ivar", "wavelength", "mask")
# how closely a row that holds wavelengths agrees with those of the header, and how many rows are looked at
_SAME, _ROWS = 1e-4, 16


def image_spectra(file):
    """Read the spectra of the images whose headers, or extensions, give wavelengths.

    Parameters
    ----------
    file : SpectrumFile
        The file.

    Returns
    -------
    list of Contents
        Of the first such image, or of all that have wavelengths of their own, if they are of one star.

    Raises
    ------
    InputValueError
        A unit that is none, or rows that are not stars.
    """
    arms, same = {}, []
    numbers = [number for number, hdu in enumerate(file.hdus or []) if _may_be_flux(hdu, number)]
    for number in numbers:
        if (found := _flux_and_axis(file, number, numbers)) is None:
            continue
        if any(_same_axis(found, other) for other in arms.values()):
            # exposures, or a sky that is not called so
            same.append(_place(file, number))
        else:
            arms[number] = found
    read = [*arms] if file.merge else [*arms][:1]
    contents = []
    for number in read:
        further = []
        if number == read[0]:
            further = [] if file.merge else further_note(_place(file, number), [_place(file, n) for n in arms][1:])
            further += [_same_note(same)] if same else []
        contents.append(_contents(file, number, [*arms], arms[number], further))
    return contents


def _same_note(places):
    return (
        f"{', '.join(places)}, with wavelengths that another image has, not read; where they are stars, or exposures "
        "of one, read their numbers with astropy.io.fits.getdata(path, number of the HDU), give those of all of them "
        "to spectrafm.adapters.from_arrays, and those of one star from there to spectrafm.adapters.merge_orders"
    )


def _place(file, number):
    name = file.hdus[number].name
    return f"HDU {number}" + f" {name}" * bool(name)


def _may_be_flux(hdu, number):
    """Tell images of one, two or three axes that are not called something else."""
    header = hdu.header
    if not (hdu.is_image and header.get("NAXIS", 0) in (1, 2, 3) and header["NAXIS1"] > 1):
        return False
    # a frame with the dispersion along its columns
    along = header["NAXIS"] == 2 and header.get("DISPAXIS", 1) == 2 and axis_type(header) != "MULTISPE"
    return not along and (number == 0 or kind_of(hdu.name)[0] in (None, "flux"))


def _flux_and_axis(file, number, numbers):
    """Return flux, wavelengths, their unit, further values and notes of an image; None without wavelengths."""
    hdu = file.hdus[number]
    if (flux := file.image(number)) is None:
        return None
    values, notes = {}, []
    if bands := _bands(hdu.header):
        sigma = [band for band, text in enumerate(bands) if "sigma" in text.lower()]
        values = {"sigma": flux[sigma[0]]} if sigma else {}
        errors = f"band {sigma[0] + 1} its errors, " if sigma else ""
        notes.append(f"of {len(bands)} bands the first is the spectrum, {errors}others are not read")
        flux = flux[0]
    if flux.ndim == 3:
        if len(flux) > 1:
            return None
        flux = flux[0]
    if (found := _axis_image(file, number, np.shape(flux), numbers, notes)) is not None:
        axis, unit, padding = found
        # pixels without a wavelength have no flux
        flux = np.where(padding, np.nan, flux) if padding.any() else flux
        return flux, axis, unit, values, notes
    if (axis := image_axis(hdu, flux, file.units["wavelength"], notes)) is None:
        return None
    if (row := _row_of_wavelengths(flux, axis)) is not None:
        values = _lamost(file.hdus[0].header, flux, row, notes)
        flux = values.pop("flux")
    return flux, axis, header_unit(hdu.header, np.max(axis)), values, notes


def _axis_image(file, number, shape, numbers, notes):
    """Return wavelengths of an image that stand in an extension, their unit, and where there are none.

    None where there is no such extension. A header beside one that cannot be used may count pixels: it is not used.
    """
    problems = {}
    found = {kind: _companions(file, number, (kind,), numbers) for kind in ("wavelength", "log")}
    for kind, at in ((kind, at) for kind, some in found.items() for at in some):
        axis, place = np.asarray(file.image(at), dtype=float), _place(file, at)
        padding = ~(np.isfinite(axis) & (axis > 0))
        problem = fit_problem(axis, shape) or ("no wavelength in it is positive" if padding.all() else "")
        if problem := problem or ("it counts pixels" if kind == "wavelength" and counts_pixels(axis) else ""):
            problems[place] = problem
            continue
        axis, padding = (a if np.shape(a) == shape else np.reshape(a, -1) for a in (axis, padding))
        notes.append(f"wavelengths are those in {place}")
        if padding.any():
            axis = _without_padding(axis, padding)
            notes.append(f"pixels without a wavelength in {place} are left out: {np.sum(padding)}")
        unit = str(file.hdus[at].header.get("BUNIT", "")).strip()
        axis = from_log10(axis, unit or "Angstrom", place) if kind == "log" else axis
        own = file.hdus[number].header
        # a header that gives wavelengths tells their unit, too
        return axis, unit or ("" if "CRVAL1" not in own else header_unit(own, np.max(axis))), padding
    if problems:
        told = "; ".join(f"{place} cannot be used: {problem}" for place, problem in problems.items())
        raise InputValueError(
            f"wavelengths of HDU {number} should be in an extension, but {told}; in Python: from astropy.io import "
            "fits; from spectrafm.adapters import from_arrays; flux = fits.getdata(path, number of the HDU); "
            "stars = from_arrays(wavelength, flux)"
        )
    return None


def _without_padding(axis, padding):
    """Go on with the wavelengths of each order where there are none, so that all are positive and in order."""
    pixels, filled = np.arange(np.shape(axis)[-1]), np.array(np.atleast_2d(axis))
    padding = np.atleast_2d(padding)
    # an order without any has those of another, and no flux
    some = next(row for row, gone in enumerate(padding) if not gone.all())
    for row in (some, *(row for row in range(len(filled)) if row != some)):
        known = np.flatnonzero(~padding[row])
        if not len(known):
            filled[row] = filled[some]
            continue
        logs = np.log(filled[row, known])
        found = np.interp(pixels, known, logs)
        for end, beyond in (((0, 1), pixels < known[0]), ((-1, -2), pixels > known[-1])):
            here, inside = known[end[0]], known[end[1]] if len(known) > 1 else None
            step = 1e-5 if inside is None else (logs[end[0]] - logs[end[1]]) / (here - inside)
            found[beyond] = logs[end[0]] + step * (pixels[beyond] - here)
        filled[row] = np.where(padding[row], np.exp(found), filled[row])
    return np.reshape(filled, np.shape(axis))


def _same_axis(found, other):
    """Tell whether two images have the same wavelengths."""
    return np.shape(found[1]) == np.shape(other[1]) and np.allclose(found[1], other[1], rtol=1e-9, atol=0)


def _contents(file, number, arms, found, further):
    """Return the spectra of an image with its errors and its mask."""
    flux, axis, unit, values, notes = found
    hdu = file.hdus[number]
    notes = [*further, *notes]
    own = {"wavelength": unit, "flux": str(hdu.header.get("BUNIT", "")).strip()}
    # what looks like another unit is asked for
    if not (own["wavelength"] or file.units["wavelength"]) and likely_unit(axis) == "Angstrom":
        own["wavelength"] = "Angstrom"
        notes.append(ANGSTROM)
    n_star = len(flux) if flux.ndim == 2 else 1
    if n_star > 1 and not file.merge:
        notes.append(f"{n_star} rows are as many stars, or orders of one with merge_orders=True")
    values = with_companions(file, number, {"flux": flux} | values, arms, notes)
    values["wavelength"] = axis
    if np.ndim(flux) == 2 and n_star == 1:
        values = {kind: np.reshape(value, -1) for kind, value in values.items()}
    found = with_units(values, own, file, notes)
    if names := header_names((hdu.header, file.hdus[0].header), n_star):
        found.arrays["identifier"] = names
    is_air = axis_type(hdu.header) == "AWAV" or in_air(file.headers)
    return replace(found, defaults={"medium": "air"} if is_air else {})


def with_companions(file, number, values, arms, notes):
    """Add the errors and the mask of an image, which stand in extensions.

    Parameters
    ----------
    file : SpectrumFile
        The file.
    number : int
        Of the HDU of the image.
    values : dict of numpy.ndarray
        ``flux``, and what else is known.
    arms : list of int
        Numbers of all HDUs with a flux.
    notes : list of str
        What was assumed so far; what is assumed here is appended.

    Returns
    -------
    dict of numpy.ndarray
        With ``sigma`` or ``ivar``, and ``mask``, where there are such.
    """
    values = dict(values)
    name_of = {at: hdu.name for at, hdu in enumerate(file.hdus)}
    if not {"sigma", "ivar"} & set(values):
        unit = _unit(file.hdus[number])
        found = [
            (kind_of(name_of[at])[0], name_of[at], file.image(at), _error_unit(file.hdus[at], unit))
            for at in _companions(file, number, tuple(ERRORS), arms)
        ]
        taken, name = take_errors(values["flux"], unit, found, notes)
        values |= taken
        notes += [f"errors of HDU {number} are those in {name}"] if taken else []
        if not found and (like := [name for name in name_of.values() if kind_of(name)[0] in ERRORS]):
            notes.append(
                f"no errors of HDU {number} are read: it is not known whether those in {', '.join(like)} are; if they "
                "are, call the extension ERR, VAR or IVAR, or give them to spectrafm.adapters.from_arrays"
            )
    for at in _companions(file, number, ("mask",), arms):
        if "mask" not in values:
            values["mask"] = file.image(at)
            take_mask(values, name_of[at], notes)
            notes += [f"mask of HDU {number} is that in {name_of[at]}"] if "mask" in values else []
    return values


def _unit(hdu):
    """Return the unit of an image, or None where there is none that is known."""
    from astropy import units as u

    unit = u.Unit(str(hdu.header.get("BUNIT", "")).strip(), parse_strict="silent")
    unknown = isinstance(unit, u.UnrecognizedUnit) or unit == u.dimensionless_unscaled
    return None if unknown else unit


def _error_unit(hdu, flux_unit):
    """Return the unit of errors in an image, None for that of the flux, which many headers repeat."""
    unit = _unit(hdu)
    return None if unit == flux_unit else unit


def _companions(file, number, kinds, arms):
    """Return the numbers of the HDUs that belong to the flux of another one by their names.

    They have the same arm in their name, or else the same EXTVER; or they follow the flux, before the next one.
    """
    names = [kind_of(hdu.name) for hdu in file.hdus]
    hits = [
        at
        for at, hdu in enumerate(file.hdus)
        if at > 0 and names[at][0] in kinds and hdu.is_image and np.ndim(file.image(at))
    ]
    arm, version = names[number][1], file.hdus[number].ver
    if named := [at for at in hits if arm and names[at][1] == arm]:
        return named
    hits = [at for at in hits if not names[at][1]]
    if len(arms) > 1:
        if len({file.hdus[at].ver for at in arms}) == len(arms):
            hits = [at for at in hits if file.hdus[at].ver == version]
        elif "wavelength" not in kinds or len(hits) > 1:
            # what is alone may be for all
            next_arm = min([at for at in arms if at > number], default=len(file.hdus))
            hits = [at for at in hits if number < at < next_arm]
    return hits


def _bands(header):
    """Return what the bands of a file of IRAF hold, in words; nothing where there is one band."""
    names = [str(header.get(f"BANDID{band + 1}", "")) for band in range(header.get("NAXIS3", 1))]
    return names if header.get("NAXIS") == 3 and any(names) else []


def _row_of_wavelengths(flux, axis):
    """Return the number of the row of an image that holds wavelengths, or None."""
    if np.ndim(flux) != 2 or np.ndim(axis) != 1:
        return None
    for row in range(min(len(flux), _ROWS)):
        if np.allclose(flux[row], axis, rtol=_SAME, atol=0):
            return row
    return None


def _lamost(header, flux, row, notes):
    """Return what the rows of an image of LAMOST hold; of others it is not known."""
    lamost = "LAMOST" in str(header.get("TELESCOP", "")).upper()
    if not (lamost and row == _LAMOST.index("wavelength") and len(flux) > len(_LAMOST)):
        raise InputValueError(
            f"row {row} of the {len(flux)} in its image holds wavelengths: the rows are not stars, and it is not known "
            "what they are; in Python: from astropy.io import fits; from spectrafm.adapters import from_arrays; "
            "rows = fits.getdata(path); stars = from_arrays(wavelength, flux, sigma), each of them one of the rows"
        )
    notes.append("rows are those of LAMOST: flux, inverse variances, wavelength, and-mask; the or-mask is not used")
    return {kind: flux[number] for number, kind in enumerate(_LAMOST) if kind != "wavelength"}
