"""Axes of images of FITS: the wavelengths that their headers give, those of IRAF among them."""

import re

import numpy as np

from ..exceptions import InputValueError
from .names import UNITS
from .units import from_log10

__all__ = ["axis_notes", "axis_type", "counts_pixels", "gives_wavelengths", "header_unit", "image_axis"]

# wavelengths of these types are in metres where no unit is given, if they are as small as this
_METRES, _MOST_METRES = ("WAVE", "AWAV"), 1e-3
# characters of a card of IRAF, and the kind of an axis there that was not calibrated
_CARD, _NO_SOLUTION = 68, -1
# types of axes that are linear, or linear in log10 where DC-FLAG says so
_LINEAR = ("", "LINEAR", "WAVE", "WAVELENGTH", "LAMBDA", "AWAV")
# types of axes that are something else, and those that FITS gives a function for
_OTHER = re.compile(
    "FREQ|ENER|WAVN|VRAD|VOPT|ZOPT|VELO|BETA|LOG|RA$|DEC$|[GESH]L(ON|AT)|STOKES|TIME|MULTISPE|PIXEL|.{4}-.{3}$"
)


def axis_notes(header):
    """Say what is assumed of the axis of an image.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Of the image.

    Returns
    -------
    list of str
        In words.
    """
    if "CRPIX1" in header or "CRVAL1" not in header:
        return []
    return [
        "no CRPIX1 in its header: 0 is assumed, as the FITS standard has it, so that the first pixel is a step beyond "
        "CRVAL1; if CRVAL1 is the wavelength of the first pixel, write CRPIX1 = 1 into the header"
    ]


def gives_wavelengths(header, axis):
    """Tell whether a header gives the wavelengths of an image, or leaves them to the defaults of FITS.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Of the image.
    axis : `~astropy.units.Quantity`
        What was made of it.

    Returns
    -------
    bool
        False where no value and step of an axis are given, or where these count pixels.
    """
    # one whose unit is given has a step of 1 by default
    linear = any(
        f"CRVAL{n}" in header and {f"CDELT{n}", f"CD{n}_{n}", f"PC{n}_{n}", f"CUNIT{n}"} & {*header}
        for n in range(1, header.get("NAXIS", 1) + 1)
    )
    told = linear or re.search("-TAB$|^MULTISPE", axis_type(header))
    # velocities may begin anywhere
    pixels = axis.unit.physical_type != "speed" and counts_pixels(axis.value)
    return bool(told) and not pixels and axis_type(header) != "PIXEL"


def counts_pixels(axis):
    """Tell numbers of pixels from wavelengths, by which no spectrum begins at 1 or below in steps of 1.

    Parameters
    ----------
    axis : array_like
        Numbers, the last axis of which is that of the pixels.

    Returns
    -------
    bool
    """
    steps = np.diff(axis)
    return bool(np.size(steps) and (np.asarray(axis)[..., 0] <= 1).all() and (steps == 1).all())


def axis_type(header):
    """Return what a header calls the axis of an image.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Of the image.

    Returns
    -------
    str
        Its ``CTYPE1`` in capitals, or "".
    """
    return str(header.get("CTYPE1", "")).strip().upper()


def _header_axis(header, n_pixel, given):
    """Return the wavelengths of a header, and what says that it gives log10 of them, or None where it gives none.

    Axes of any name are taken where their unit is given.
    """
    step, ctype = header.get("CD1_1", header.get("CDELT1")), axis_type(header)
    says_log = "DC-FLAG is 1" if str(header.get("DC-FLAG", 0)).strip() == "1" else ""
    says_log = f"CTYPE1 is {ctype}" if ctype.startswith("LOG") else says_log
    known = says_log or ctype in _LINEAR or ctype.lower() in UNITS or (given and not _OTHER.match(ctype))
    if "CRVAL1" not in header or not step or not known:
        return None
    axis = header["CRVAL1"] + step * (np.arange(n_pixel) + 1 - header.get("CRPIX1", 0.0))
    if counts_pixels(axis):
        return None
    unit = given or str(header.get("CUNIT1", "")).strip()
    # logarithmic units are seen to where there are units
    if says_log and "(" not in unit:
        return from_log10(axis, unit or "Angstrom", "its axis"), says_log
    return axis, ""


def header_unit(header, largest):
    """Return the unit of the axis of a header.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Of the image.
    largest : float
        The largest of its wavelengths, as they are in the file.

    Returns
    -------
    str
        "" where it gives none.
    """
    of_iraf = re.findall(r"units=(\w+)", header.get("WAT1_001", "")) or [""]
    metres = "m" if axis_type(header) in _METRES and largest < _MOST_METRES else ""
    return str(header.get("CUNIT1", "")).strip() or of_iraf[0] or UNITS.get(axis_type(header).lower(), metres)


def image_axis(hdu, flux, given, notes):
    """Find the wavelengths of an image that its header gives.

    Parameters
    ----------
    hdu : `~astropy.io.fits.ImageHDU`
        The image.
    flux : numpy.ndarray
        ``(n_pixel,)`` or ``(n_star, n_pixel)``, what is in it.
    given : str or None
        Unit of the wavelengths that the user gave.
    notes : list of str
        What was assumed so far; what is assumed here is appended.

    Returns
    -------
    numpy.ndarray or None
        In the unit of the file; None where its header gives none.
    """
    if axis_type(hdu.header) == "MULTISPE":
        return _multispec(hdu, flux)
    found = _header_axis(hdu.header, flux.shape[-1], given)
    if found is None:
        return None
    notes += axis_notes(hdu.header)
    if found[1]:
        notes.append(f"{found[1]} in its header: its axis is taken as log10 of wavelengths")
    return found[0]


def _multispec(hdu, flux):
    """Return the wavelengths of a file of IRAF that gives them for each row, or None where it gives them otherwise."""
    header = hdu.header
    # a part of an image, or one with fewer pixels, keeps the wavelengths of the pixels that it had first
    scale, shift = header.get("LTM1_1", 1.0), header.get("LTV1", 0.0)
    pixels = (np.arange(flux.shape[-1]) + 1 - shift) / scale - 1
    # cards are full, but FITS drops what is blank at their end
    text = "".join(str(value).ljust(_CARD) for value in header["WAT2_*"].values())
    rows = re.findall(r'spec\d+\s*=\s*"([^"]*)"', text)
    axes = []
    for row in rows:
        try:
            _, _, kind, start, step, _, redshift = map(float, row.split()[:7])
        except ValueError:
            return None
        if kind == _NO_SOLUTION:
            return None
        if kind not in (0, 1):
            if (scale, shift) != (1, 0):
                raise InputValueError(
                    "its image was cut or binned after its wavelengths were calibrated (LTV1, LTM1_1 in its header), "
                    "and they are no linear ones; write it with linear wavelengths, or give it as it was"
                )
            return _non_linear(header, flux)
        axis = start + step * pixels
        if counts_pixels(axis):
            return None
        axes.append((10**axis if kind == 1 else axis) / (1 + redshift))
    return np.reshape(axes, np.shape(flux)) if np.size(axes) == np.size(flux) else None


def _non_linear(header, flux):
    """Return the wavelengths of a file of IRAF that are polynomials, by specutils; None where it cannot."""
    from astropy.io import fits
    from specutils import SpectrumCollection

    header = header.copy()
    header["WCSDIM"] = 2
    for key in ("NAXIS3", "CTYPE3", "CD3_3", "LTM3_3", "WAT3_001"):
        header.remove(key, ignore_missing=True)
    try:
        rows = SpectrumCollection.read(fits.HDUList([fits.PrimaryHDU(np.atleast_2d(flux), header)]), format="iraf")
        return rows.spectral_axis.value.reshape(np.shape(flux))
    # whatever its parsing runs into
    except Exception:
        return None
