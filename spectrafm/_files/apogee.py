"""Spectra in files of APOGEE, to SDSS DR17, with the bits of their masks, which loaders of specutils drop."""

import numpy as np

from .contents import OWN_UNITS, Contents, header_names
from .units import from_log10

__all__ = ["RESOLVING_POWER", "apogee_spectra"]

#: Resolving power of APOGEE (Majewski et al. 2017).
RESOLVING_POWER = 22_500
# without its bits, residuals of sky lines are the largest of all
_POLICY = "apogee_dr17_strict"
_UNIT = "1e-17 erg / (s cm2 Angstrom)"
# formats, as specutils names them, and the units of their flux; others may have the header of an apStar
_UNITS = {"APOGEE aspcapStar": "", "APOGEE apVisit": _UNIT, "APOGEE apStar": _UNIT}
# HDUs of all formats, and of the wavelengths of single visits
_FLUX, _SIGMA, _MASK, _WAVELENGTH = 1, 2, 3, 4


def apogee_spectra(file, formats):
    """Read a file of APOGEE: apStar, the combined spectrum, aspcapStar or apVisit.

    Parameters
    ----------
    file : SpectrumFile
        The file.
    formats : set of str
        Formats that specutils takes it for.

    Returns
    -------
    list of Contents
        One, with what is usual for such spectra as defaults; empty where it is no such file, or cannot be read.
    """
    kind = next((kind for kind in _UNITS if file.hdus and kind in formats), None)
    numbers = (_FLUX, _SIGMA, *[_WAVELENGTH] * (kind == "APOGEE apVisit"))
    if kind is None or any(_image(file, number) is None for number in numbers):
        return []
    from astropy import units as u

    notes, header = [OWN_UNITS] * any(file.units.values()), file.hdus[_FLUX].header
    if kind == "APOGEE apVisit":
        # the chips, one after the other
        rows = np.ravel
        wavelength = rows(file.image(_WAVELENGTH))
        notes.append("its wavelengths are as observed: the velocity of the star and that of the Earth are in them")
    else:
        rows = _first_row
        pixels = np.arange(header["NAXIS1"]) + 1 - header.get("CRPIX1", 1)
        wavelength = from_log10(header["CRVAL1"] + header["CDELT1"] * pixels, "Angstrom", "its axis")
        if header.get("NAXIS2", 1) > 1:
            notes.append("the combined spectrum is read, and not those of single visits")
    flux, sigma = (np.array(rows(file.image(number)), dtype=float) for number in (_FLUX, _SIGMA))
    # nothing falls between the chips
    flux[flux == 0] = np.nan
    arrays = {"wavelength": u.Quantity(wavelength, u.AA), "flux": u.Quantity(flux, _UNITS[kind]), "sigma": sigma}
    defaults = {"resolving_power": RESOLVING_POWER}
    bits = _image(file, _MASK)
    if bits is not None and bits.dtype.kind in "iu" and np.shape(bits) == np.shape(file.image(_FLUX)):
        arrays["mask"] = rows(bits)
        defaults["mask_policy"] = _POLICY
    else:
        # that of an aspcapStar is a model
        notes.append("there is no mask in it: bad pixels are those without flux or with large errors")
    if names := header_names((file.hdus[0].header, header), 1):
        arrays["identifier"] = names
    return [Contents(arrays, notes, defaults)]


def _image(file, number):
    """Return an image of a file, or None where there is none."""
    return file.image(number) if number < len(file.hdus) and file.hdus[number].is_image else None


def _first_row(values):
    return np.atleast_2d(values)[0]
