"""Spectra in images of FITS whose headers give the wavelengths, those of IRAF among them."""

import re
from dataclasses import replace

import numpy as np

from ._file_contents import ANGSTROM, UNITS, with_units
from ._star_names import star_names
from .exceptions import InputValueError

__all__ = ["axis_notes", "error_image", "goes_first", "image_spectra"]

# extensions with the errors of an image, and what they hold
_ERROR_IMAGES = dict.fromkeys(("ERR", "ERROR", "SIGMA", "STD", "UNCERT"), "sigma")
_ERROR_IMAGES |= {"VAR": "var", "VARIANCE": "var", "IVAR": "ivar"}
# characters of a card of IRAF
_CARD = 68
# of axes that are linear, or linear in log10 where DC-FLAG says so
_LINEAR = ("", "LINEAR", "WAVE", "WAVELENGTH", "LAMBDA", "AWAV")
# of axes that are something else, and of those that FITS gives a function for
_OTHER = re.compile(
    "FREQ|ENER|WAVN|VRAD|VOPT|ZOPT|VELO|BETA|LOG|RA$|DEC$|[GESH]L(ON|AT)|STOKES|TIME|MULTISPE|PIXEL|.{4}-.{3}$"
)
# rows of an image of LAMOST, to DR7
_LAMOST = ("flux", "ivar", "wavelength", "mask")
# how closely a row that holds wavelengths agrees with those of the header, and how many rows are looked at
_SAME, _ROWS = 1e-4, 16


def goes_first(file):
    """Tell images that specutils reads wrongly.

    Parameters
    ----------
    file : SpectrumFile
        A file of FITS.

    Returns
    -------
    bool
        The axis is in log10, or its unit stands where specutils does not look; of bands one is the spectrum, or of
        rows one the wavelengths.
    """
    header = file.hdus[0].header
    if header.get("NAXIS", 0) not in (1, 2, 3) or (flux := file.image(0)) is None:
        return False
    if header.get("DC-FLAG") == 1 or _bands(header) or (_ctype(header).lower() in UNITS and not header.get("CUNIT1")):
        return True
    found = _header_axis(header, flux.shape[-1])
    return found is not None and _row_of_wavelengths(flux, found[0]) is not None


def image_spectra(file):
    """Read the spectra of the first image whose header gives wavelengths.

    Parameters
    ----------
    file : SpectrumFile
        The file.

    Returns
    -------
    Contents or None
        None where there is no such image.

    Raises
    ------
    InputValueError
        A unit that is none, or rows that are not stars.
    """
    for number, hdu in enumerate(file.hdus or []):
        if not (hdu.is_image and hdu.header.get("NAXIS", 0) in (1, 2, 3) and hdu.header["NAXIS1"] > 1):
            continue
        if (flux := file.image(number)) is None:
            continue
        values, notes = {}, []
        if bands := _bands(hdu.header):
            sigma = [band for band, text in enumerate(bands) if "sigma" in text.lower()]
            values = {"sigma": flux[sigma[0]]} if sigma else {}
            errors = f"band {sigma[0] + 1} its errors, " if sigma else ""
            notes.append(f"of {len(bands)} bands the first is the spectrum, {errors}others are not read")
            flux = flux[0]
        if flux.ndim == 3 or (axis := _image_axis(hdu, flux, bool(file.units["wavelength"]), notes)) is None:
            continue
        if (row := _row_of_wavelengths(flux, axis)) is not None:
            values = _lamost(file.hdus[0].header, flux, row, notes)
            flux = values.pop("flux")
        kind, errors, errors_name = error_image(file, np.shape(flux))
        if kind and not {"sigma", "ivar"} & set(values):
            values[kind] = errors
            notes.append(f"errors of HDU {number} are those in {errors_name}")
        own = {"wavelength": _header_unit(hdu.header), "flux": str(hdu.header.get("BUNIT", "")).strip()}
        if not (own["wavelength"] or file.units["wavelength"]):
            own["wavelength"] = "Angstrom"
            notes.append(ANGSTROM)
        n_star = len(flux) if flux.ndim == 2 else 1
        if n_star > 1 and not file.merge:
            notes.append(f"{n_star} rows are as many stars, or orders of one with merge_orders=True")
        values = {"wavelength": axis, "flux": flux} | values
        if np.ndim(flux) == 2 and n_star == 1:
            values = {kind: np.reshape(value, -1) for kind, value in values.items()}
        found = with_units(values, own, file, notes)
        for header in (hdu.header, file.hdus[0].header):
            if names := star_names({"header": header}, n_star):
                found.arrays["identifier"] = names
                break
        return replace(found, in_air=_ctype(hdu.header) == "AWAV")
    return None


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
    return _pixel_notes(header) + ([] if _header_unit(header) else [ANGSTROM])


def error_image(file, shape):
    """Find the errors of an image.

    Parameters
    ----------
    file : SpectrumFile
        The file.
    shape : tuple of int
        Shape of the flux.

    Returns
    -------
    kind : str or None
        ``"sigma"``, ``"ivar"``, or None where there are none.
    errors : numpy.ndarray or None
        Standard deviations, or inverse variances.
    name : str or None
        Of the extension.
    """
    for number, hdu in enumerate(file.hdus):
        kind = _ERROR_IMAGES.get(hdu.name.upper())
        if kind and hdu.is_image and np.shape(values := file.image(number)) == shape:
            with np.errstate(invalid="ignore"):
                return ("sigma", np.sqrt(values), hdu.name) if kind == "var" else (kind, values, hdu.name)
    return None, None, None


def _ctype(header):
    return str(header.get("CTYPE1", "")).strip().upper()


def _header_axis(header, n_pixel, any_type=False):
    """Return the wavelengths of a header, and whether they were logarithms, or None where it gives none."""
    step, ctype = header.get("CD1_1", header.get("CDELT1")), _ctype(header)
    known = ctype in _LINEAR or ctype.lower() in UNITS or (any_type and not _OTHER.match(ctype))
    if "CRVAL1" not in header or not step or not known:
        return None
    axis = header["CRVAL1"] + step * (np.arange(n_pixel) + 1 - header.get("CRPIX1", 0.0))
    is_log = header.get("DC-FLAG", 0) == 1
    return (10**axis if is_log else axis), is_log


def _pixel_notes(header):
    """Return a note where the header does not say to which pixel its wavelength belongs."""
    if "CRPIX1" in header or "CRVAL1" not in header:
        return []
    return [
        "no CRPIX1 in its header: 0 is assumed, as the FITS standard has it, so that the first pixel is a step beyond "
        "CRVAL1; if CRVAL1 is the wavelength of the first pixel, write CRPIX1 = 1 into the header"
    ]


def _header_unit(header):
    """Return the unit of the axis of a header, or ""."""
    of_iraf = re.findall(r"units=(\w+)", header.get("WAT1_001", "")) or [""]
    return str(header.get("CUNIT1", "")).strip() or of_iraf[0] or UNITS.get(_ctype(header).lower(), "")


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


def _image_axis(hdu, flux, any_type, notes):
    """Return the wavelengths of an image, or None where its header gives none."""
    if _ctype(hdu.header) == "MULTISPE":
        return _multispec(hdu, flux)
    found = _header_axis(hdu.header, flux.shape[-1], any_type)
    if found is None:
        return None
    notes += _pixel_notes(hdu.header)
    if found[1]:
        notes.append("DC-FLAG is 1 in its header: its axis is taken as log10 of wavelengths")
    return found[0]


def _multispec(hdu, flux):
    """Return the wavelengths of a file of IRAF that gives them for each row, or None where it gives them otherwise."""
    # cards are full, but FITS drops what is blank at their end
    text = "".join(str(value).ljust(_CARD) for value in hdu.header["WAT2_*"].values())
    rows = re.findall(r'spec\d+\s*=\s*"([^"]*)"', text)
    axes = []
    for row in rows:
        try:
            _, _, kind, start, step, _, redshift = map(float, row.split()[:7])
        except ValueError:
            return None
        if kind not in (0, 1):
            return _non_linear(hdu.header, flux)
        axis = start + step * np.arange(flux.shape[-1])
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
