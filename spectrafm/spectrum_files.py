"""Files of spectra: what specutils reads, and the common kinds that it does not.

specutils is asked first. Plain tables, images and files of IRAF that it cannot read, or reads
wrongly, are read here by the names that the field uses. What is assumed is said in words, and
what cannot be known, such as a unit that a file does not tell, is asked for.
"""

import re
import shlex
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ._spectral_units import sigma_factor
from .adapters import from_arrays, to_arrays
from .exceptions import InputValueError

__all__ = ["read_stars"]

# names of columns, without what is no letter
_LOG_WAVELENGTH = ("loglam", "loglambda", "logwave", "logwavelength")
_WAVELENGTH = ("wavelength", "wave", "lambda", "lam", "wl", "wavelengths")
_FLUX = ("flux", "fluxes", "fluxreduced", "fluxdensity", "flam", "flambda", "normflux", "fluxnorm", "spectrum", "spec")
_SIGMA = (
    *("err", "error", "errors", "sigma", "uncertainty", "unc", "std", "stddev", "noise", "eflux", "errreduced"),
    *("fluxerr", "fluxerror", "errflux", "sigmaflux", "fluxsigma", "fluxunc", "fluxuncertainty"),
)
_IVAR = ("ivar", "invvar", "inversevariance", "fluxivar", "ivarflux")
_MASK = ("mask", "andmask")
_NAMES = {"log": _LOG_WAVELENGTH, "flux": _FLUX, "sigma": _SIGMA, "ivar": _IVAR, "mask": _MASK}
_UNITS = {"nm": "nm", "um": "um", "micron": "um", "microns": "um"} | dict.fromkeys(
    ("a", "aa", "ang", "angstrom", "angstroms"), "Angstrom"
)
# extensions with the errors of an image, and what they hold
_ERROR_IMAGES = dict.fromkeys(("ERR", "ERROR", "SIGMA", "STD", "UNCERT"), "sigma")
_ERROR_IMAGES |= {"VAR": "var", "VARIANCE": "var", "IVAR": "ivar"}
# what is in a column, or an extension
_WORDS = {"wavelength": "wavelength", "flux": "flux", "sigma": "standard deviations", "ivar": "inverse variances"}
_WORDS |= {"mask": "mask"}
_ANGSTROM = "no unit of wavelength in its header: Angstrom is assumed; --wavelength-unit says otherwise"
# characters of a card of IRAF
_CARD = 68
# formats of specutils of any image with a linear axis
_WITH_AXIS = {"wcs1d-fits", "iraf"}
# of axes that are linear, or linear in log10 where DC-FLAG says so
_LINEAR = ("", "LINEAR", "WAVE", "WAVELENGTH", "LAMBDA", "AWAV")


@dataclass
class _Arrays:
    """What a file holds, for `from_arrays`, and what was assumed."""

    arrays: dict
    notes: list
    in_air: bool = False


def read_stars(name, *, file_format=None, wavelength_unit=None, flux_unit=None, **spectrum_options):
    """Read the spectra of a file.

    Parameters
    ----------
    name : str or pathlib.Path
        The file.
    file_format : str, optional
        Format, as specutils names it, or as `astropy.table.Table` does.
    wavelength_unit, flux_unit : str, optional
        Units of what has none in the file; they go before those of the file.
    **spectrum_options
        Arguments of `~spectrafm.adapters.to_arrays`.

    Returns
    -------
    stars : list of SpectrumArrays
        One a star.
    notes : list of str
        What was assumed, and what was left out, in words.

    Raises
    ------
    InputValueError
        It cannot be read; the message says what is in it, and what to do.
    """
    path = Path(name)
    if path.is_dir():
        raise InputValueError("it is a folder; give the files in it")
    if not path.is_file():
        raise InputValueError("there is no such file")
    units = {"wavelength": wavelength_unit, "flux": flux_unit}
    reason = ""
    with _opened(path) as hdus:
        special = _iraf(hdus, path, file_format, units) if hdus else None
        if special is None and not any(units.values()):
            try:
                return _by_specutils(path, hdus, file_format, spectrum_options)
            except _NotReadError as error:
                reason = f"specutils cannot read it ({error}); "
        found = special or _image(hdus, path, units) or _table(path, hdus, file_format, units)
        if found is None:
            raise InputValueError(f"{reason}{_contents(path, hdus, file_format)}")
    if found.in_air and spectrum_options.get("medium") is None:
        spectrum_options = spectrum_options | {"medium": "air"}
        found.notes.append("wavelengths are in air, as its header says")
    return from_arrays(**found.arrays, **spectrum_options), found.notes


class _NotReadError(Exception):
    """What specutils says where it does not read a file."""


@contextmanager
def _opened(path):
    """Give the HDUs of a FITS file while it is read, or None of another."""
    from astropy.io import fits

    try:
        hdus = fits.open(path, memmap=False)
        # reads all headers
        len(hdus)
    # what is no FITS, or cut off, fails in many ways
    except Exception:
        yield None
        return
    with hdus:
        yield hdus


def _by_specutils(path, hdus, file_format, spectrum_options):
    """Return the stars that specutils finds, and what it leaves out."""
    from specutils import Spectrum, SpectrumList

    first = None
    for kind in (Spectrum, SpectrumList):
        try:
            found = kind.read(str(path), format=file_format) if file_format else kind.read(str(path))
        # loaders raise whatever their parsing runs into
        except Exception as error:
            first = first or error
            continue
        notes = _complete(found, path, hdus, file_format) if hasattr(found, "mask") else []
        return to_arrays(found, **spectrum_options), notes
    raise _NotReadError(_reason(first)) from first


def _formats(path, file_format):
    """Return the formats that specutils takes a file for, or the one that is told."""
    from astropy.io.registry import identify_format
    from specutils import Spectrum

    try:
        return [file_format] if file_format else identify_format("read", Spectrum, str(path), None, [str(path)], {})
    # whatever looking into it runs into
    except Exception:
        return []


def _reason(error):
    """Return the first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _complete(spectrum, path, hdus, file_format):
    """Give a spectrum the mask and the errors that specutils leaves out; return notes of that and of further tables."""
    formats = _formats(path, file_format)
    # what a survey has is left to its loader
    is_table, is_image = bool({"tabular-fits", "ECSV"} & set(formats)), "wcs1d-fits" in formats
    has_blanks = path.suffix.lower() == ".ecsv"
    tables = _tables(path, hdus, "ascii.ecsv") if has_blanks or (is_table and not is_image) else {}
    if has_blanks and "" in tables:
        _add_blanks(spectrum, tables[""])
    if is_image:
        return _add_image_errors(spectrum, hdus)
    return _add_errors(spectrum, tables) if is_table else []


def _add_blanks(spectrum, table):
    """Mask pixels whose cells are empty in the table of a file: specutils reads zero there."""
    # others say nothing of the flux
    masks = [np.asarray(column.mask) for column in table.columns.values() if column.unit and hasattr(column, "mask")]
    blank = np.any([m.reshape(len(table), -1).any(axis=1) for m in masks], axis=0) if masks else np.False_
    if blank.any() and spectrum.shape == blank.shape:
        spectrum.mask = blank if spectrum.mask is None else blank | (np.asarray(spectrum.mask) != 0)


def _add_errors(spectrum, tables):
    """Give a spectrum the errors that specutils leaves out of a table; return notes of that and of further tables."""
    # that is the one which specutils takes
    read = next((place for place in tables if not place or place.split()[1] == "1"), "HDU 1")
    notes = _further(read, tables)
    if spectrum.uncertainty is not None or read not in tables:
        return notes
    names = _columns(tables[read])
    for kind in ("ivar", "sigma"):
        if kind in names:
            column = tables[read][names[kind]]
            values = np.ma.filled(np.ma.asarray(column).astype(float), 0.0 if kind == "ivar" else np.nan).T
            if _add(spectrum, kind, values, column.unit):
                return [
                    *notes,
                    f"column {names[kind]!r}, which specutils leaves out, is taken as {_WORDS[kind]} of the flux",
                ]
            notes.append(_left_out(names[kind]))
    return notes


def _add_image_errors(spectrum, hdus):
    """Give a spectrum of an image the errors of an extension that specutils does not look for; return notes."""
    notes = []
    if hdus and not _header_unit(spectrum.meta.get("header", {})):
        notes.append(_ANGSTROM)
    if spectrum.uncertainty is None and hdus:
        kind, values, name = _error_image(hdus, spectrum.shape)
        if kind and _add(spectrum, kind, values, None):
            notes.append(f"{name}, which specutils leaves out, is taken as {_WORDS[kind]} of the flux")
    return notes


def _add(spectrum, kind, values, unit):
    """Give a spectrum errors that fit it, or return that they do not."""
    from astropy.nddata import InverseVariance, StdDevUncertainty
    from astropy.units import UnitsError

    if np.shape(values) != spectrum.shape:
        return False
    try:
        spectrum.uncertainty = (InverseVariance if kind == "ivar" else StdDevUncertainty)(values, unit=unit)
    except UnitsError:
        return False
    return True


def _error_image(hdus, shape):
    """Return the kind, the values and the name of the first extension with errors of a shape, or nothing of each."""
    for hdu in hdus:
        kind = _ERROR_IMAGES.get(hdu.name.upper())
        if kind and hdu.is_image and np.shape(hdu.data) == shape:
            with np.errstate(invalid="ignore"):
                return ("sigma", np.sqrt(hdu.data), hdu.name) if kind == "var" else (kind, hdu.data, hdu.name)
    return None, None, None


def _tables(path, hdus, file_format):
    """Return by place the tables of a file that hold a wavelength and a flux, and those without such names."""
    from astropy.table import Table

    if hdus is None:
        kind = "ascii.ecsv" if path.suffix.lower() == ".ecsv" else (file_format or "ascii")
        for attempt in dict.fromkeys((kind, "ascii")):
            try:
                return {"": Table.read(path, format=attempt)}
            # what is no table fails in many ways
            except Exception:
                continue
        return {}
    from astropy import units as u
    from astropy.io import fits

    found = {}
    for number, hdu in enumerate(hdus):
        if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
            try:
                with warnings.catch_warnings():
                    # units that are not known are told of where they matter
                    warnings.simplefilter("ignore", u.UnitsWarning)
                    found[f"HDU {number}" + f" {hdu.name}" * bool(hdu.name)] = Table.read(hdu)
            except Exception:
                continue
    spectral = {place: table for place, table in found.items() if {"wavelength", "flux"} <= set(_columns(table))}
    return spectral or found


def _further(first, tables):
    """Return a note of spectra that are not read."""
    others = [
        place for place, table in tables.items() if place != first and {"wavelength", "flux"} <= {*_columns(table)}
    ]
    if not others:
        return []
    return [
        f"only the spectrum in {first} is read, and not those in {', '.join(others)}: read them in Python, and see "
        "spectrafm.adapters.merge_orders for arms of one star"
    ]


def _columns(table):
    """Return by kind the columns of a table that are understood: wavelength, flux, sigma, ivar, mask."""
    found = {}
    plain = {re.sub("[^a-z]", "", name.lower()): name for name in reversed(table.colnames)}
    for kind, names in _NAMES.items():
        if known := [plain[name] for name in names if name in plain]:
            found[kind] = known[0]
    if axes := [name for name in table.colnames if _split_unit(name) is not None]:
        found["wavelength"] = axes[0]
    if "wavelength" not in found and "log" in found:
        found["wavelength"] = found["log"]
    else:
        found.pop("log", None)
    if not found and re.fullmatch("(col[0-9]+ ?)+", " ".join(table.colnames)) and 2 <= len(table.colnames) <= 3:
        # nothing but numbers: in the order that everybody has them
        found = dict(zip(("wavelength", "flux", "sigma"), table.colnames, strict=False))
    return found


def _split_unit(name):
    """Return the unit in the name of a column of wavelengths, "" where there is none; None for other columns."""
    words = [word for word in re.split("[^a-z]+", name.lower()) if word]
    if not words or words[0] not in _WAVELENGTH or len(words) > 2:
        return None
    return _UNITS.get(words[1]) if len(words) == 2 else ""


def _table(path, hdus, file_format, units):
    """Return the spectra of a plain table, or None where there is none that is understood."""
    tables = _tables(path, hdus, file_format)
    for place, table in tables.items():
        names = _columns(table)
        if not {"wavelength", "flux"} <= set(names):
            continue
        values = {kind: _cells(table[column]) for kind, column in names.items() if kind != "log"}
        if texts := [names[kind] for kind, value in values.items() if value.dtype.kind not in "biuf"]:
            raise InputValueError(f"not numbers alone in the columns {', '.join(texts)} of its table; correct them")
        n_pixel = len(values["wavelength"]) if np.ndim(values["wavelength"]) == 1 else None
        if np.ndim(values["flux"]) == 2 and np.shape(values["flux"])[1] != n_pixel == len(values["flux"]):
            # a column a star
            values = {kind: value.T for kind, value in values.items()}
        notes = [
            f"read as a table{f' ({place})' * bool(place)}: "
            + ", ".join(f"{words} in {names[kind]!r}" for kind, words in _WORDS.items() if kind in values)
        ]
        notes += _further(place, tables)
        if "sigma" in values and "ivar" in values:
            del values["ivar"]
            notes.append(f"errors are those in {names['sigma']!r}; {names['ivar']!r} is not used")
        notes += _convert_errors(values, {kind: table[names[kind]] for kind in values})
        if "log" in names:
            told = units["wavelength"] or "Angstrom"
            values["wavelength"] = 10 ** np.asarray(values["wavelength"], dtype=float)
            notes.append(f"{names['log']!r} is taken as log10 of wavelengths in {told}")
        else:
            told = str(table[names["wavelength"]].unit or "") or _split_unit(names["wavelength"]) or ""
        return _with_units(
            values, {"wavelength": told, "flux": str(table[names["flux"]].unit or "")}, units, path, notes
        )
    return None


def _convert_errors(values, columns):
    """Bring errors to the unit that the file has for the flux, or take them out; return a note of that."""
    notes = []
    for kind, power in (("sigma", 1), ("ivar", -2)):
        if kind not in values or columns["flux"].unit is None:
            continue
        try:
            factor = sigma_factor("std" if power == 1 else kind, columns[kind].unit, columns["flux"].unit)
        except InputValueError:
            del values[kind]
            notes.append(_left_out(columns[kind].name))
        else:
            values[kind] = values[kind] * factor**power
    return notes


def _left_out(name):
    """Return a note of a column of errors that is not used."""
    return f"column {name!r} is left out: its shape or its unit does not fit the flux"


def _cells(column):
    """Return the values of a column: those of its one cell, where there is one."""
    values = np.ma.asarray(column[0] if len(column) == 1 and np.ndim(column[0]) else column)
    return values if values.mask.any() else np.asarray(values)


def _with_units(values, told, units, path, notes):
    """Return spectra with units: those given, those of the file, or an error that asks for that of wavelengths."""
    from astropy import units as u

    found = {}
    for what in ("wavelength", "flux"):
        text, own = units[what] or told[what], told[what]
        if what == "wavelength":
            text, own = (_UNITS.get(unit.lower(), unit) for unit in (text, own))
        found[what] = u.Unit(text, parse_strict="silent")
        unknown = isinstance(found[what], u.UnrecognizedUnit)
        if units[what] and unknown:
            raise InputValueError(
                f"--{what}-unit: {text!r}; expected a unit as astropy writes it, for example "
                f"{'nm' if what == 'wavelength' else 'erg/(s cm2 Angstrom)'!r}"
            )
        if what == "wavelength" and (unknown or not text):
            low, high = np.ma.min(values[what]), np.ma.max(values[what])
            command = shlex.join(["spectrafm", "infer", str(path), "--wavelength-unit", "Angstrom"])
            problem = f"{text!r}, which it tells, is not known as" if text else "it does not tell"
            raise InputValueError(
                f"{problem} the unit of its wavelengths, from {low:.6g} to {high:.6g}; say it, for example: {command}"
            )
        if not text:
            notes.append("no unit of the flux in it: taken as relative flux per wavelength; --flux-unit says otherwise")
        elif units[what] and own and found[what] != u.Unit(own, parse_strict="silent"):
            notes.append(f"unit of the {what}: {text}, as told, and not {own} as in it")
    return _Arrays(values | {what: _quantity(values[what], unit) for what, unit in found.items()}, notes)


def _quantity(values, unit):
    """Return values with a unit, known or not, and with their mask if they have one, as `from_arrays` takes them."""
    from astropy import units as u
    from astropy.utils.masked import Masked

    if isinstance(values, np.ma.MaskedArray):
        plain = values.filled(np.nan) if values.dtype.kind == "f" else values.data
        return Masked(u.Quantity(plain, unit), mask=values.mask)
    return u.Quantity(values, unit)


def _header_axis(header, n_pixel):
    """Return the wavelengths of a header, and whether they were logarithms, or None where it tells none."""
    step = header.get("CD1_1", header.get("CDELT1"))
    if "CRVAL1" not in header or not step or str(header.get("CTYPE1", "")).strip().upper() not in _LINEAR:
        return None
    axis = header["CRVAL1"] + step * (np.arange(n_pixel) + 1 - header.get("CRPIX1", 1.0))
    is_log = header.get("DC-FLAG", 0) == 1
    return (10**axis if is_log else axis), is_log


def _header_unit(header):
    """Return the unit of the axis of a header, or ""."""
    return str(header.get("CUNIT1", "")).strip() or (re.findall(r"units=(\w+)", header.get("WAT1_001", "")) or [""])[0]


def _iraf(hdus, path, file_format, units):
    """Return what specutils reads wrongly: axes in log10, and bands of which only one is the spectrum."""
    header = hdus[0].header
    data = hdus[0].data if header.get("NAXIS", 0) in (1, 2, 3) else None
    if data is None or (header.get("DC-FLAG") != 1 and not _bands(header)):
        return None
    # the loaders of surveys know what is in their files
    return _image(hdus, path, units) if set(_formats(path, file_format)) <= _WITH_AXIS else None


def _bands(header):
    """Return what the bands of a file of IRAF hold, in words; nothing where there is one band."""
    names = [str(header.get(f"BANDID{band + 1}", "")) for band in range(header.get("NAXIS3", 1))]
    return names if header.get("NAXIS") == 3 and any(names) else []


def _image(hdus, path, units):
    """Return the spectra of an image whose header tells wavelengths, or None where there is none."""
    for number, hdu in enumerate(hdus or []):
        if not (hdu.is_image and hdu.header.get("NAXIS", 0) in (1, 2, 3) and hdu.header["NAXIS1"] > 1):
            continue
        flux, values, notes = hdu.data, {}, []
        if bands := _bands(hdu.header):
            sigma = [band for band, text in enumerate(bands) if "sigma" in text.lower()]
            values = {"sigma": flux[sigma[0]]} if sigma else {}
            errors = f"band {sigma[0] + 1} its errors, " if sigma else ""
            notes.append(f"of {len(bands)} bands the first is the spectrum, {errors}others are not read")
            flux = flux[0]
        if flux.ndim == 3 or (axis := _image_axis(hdu, flux, notes)) is None:
            continue
        kind, errors, errors_name = _error_image(hdus, np.shape(flux))
        if kind and "sigma" not in values:
            values[kind] = errors
            notes.append(f"errors of HDU {number} are those in {errors_name}")
        told = {"wavelength": _header_unit(hdu.header), "flux": str(hdu.header.get("BUNIT", "")).strip()}
        if not (told["wavelength"] or units["wavelength"]):
            told["wavelength"] = "Angstrom"
            notes.append(_ANGSTROM)
        if flux.ndim == 2 and len(flux) > 1:
            notes.append(f"{len(flux)} rows are as many stars, or orders of one with --merge-orders")
        values = {"wavelength": axis, "flux": flux} | values
        if np.ndim(flux) == 2 and len(flux) == 1:
            values = {kind: np.reshape(value, -1) for kind, value in values.items()}
        in_air = str(hdu.header.get("CTYPE1", "")).strip().upper() == "AWAV"
        return replace(_with_units(values, told, units, path, notes), in_air=in_air)
    return None


def _image_axis(hdu, flux, notes):
    """Return the wavelengths of an image, or None where its header tells none."""
    if str(hdu.header.get("CTYPE1", "")).strip().upper() == "MULTISPE":
        return _multispec(hdu, flux)
    found = _header_axis(hdu.header, flux.shape[-1])
    if found is None:
        return None
    if found[1]:
        notes.append("DC-FLAG is 1 in its header: its axis is taken as log10 of wavelengths")
    return found[0]


def _multispec(hdu, flux):
    """Return the wavelengths of a file of IRAF that tells them for each row, or None where it tells them otherwise."""
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


def _contents(path, hdus, file_format):
    """Return in words what is in a file, and how to give it in Python."""
    tables = _tables(path, hdus, file_format)
    if tables:
        place, table = next(iter(tables.items()))
        hdu = f", hdu={place.split()[1]}" if place else ", format='ascii'"
        names = table.colnames
        first, second = (names + ["flux"])[:2] if len(names) > 1 else ("wavelength", "flux")
        return (
            f"the table in it has the columns {', '.join(names[:12])}{' ...' * (len(names) > 12)}, of which none is "
            "known to be wavelength, or flux; in Python: from astropy.table import Table; from spectrafm.adapters "
            f"import from_arrays; t = Table.read({str(path)!r}{hdu}); stars = from_arrays(t[{first!r}], t[{second!r}], "
            "sigma=None); fm.infer(stars)"
        )
    if hdus:
        kinds = ", ".join(
            f"HDU {n} {hdu.name} {f'of shape {hdu.shape}' if hdu.is_image else 'that is no table of numbers'}"
            for n, hdu in enumerate(hdus)
            if hdu.size
        )
        return (
            f"there is in it {kinds or 'no data'}, and no wavelength that is understood; in Python: from astropy.io "
            f"import fits; from spectrafm.adapters import from_arrays; flux = fits.getdata({str(path)!r}); "
            "stars = from_arrays(wavelength, flux); fm.infer(stars)"
        )
    return (
        "it is neither FITS nor a table of numbers; read it in Python, and give its arrays: from spectrafm.adapters "
        "import from_arrays; fm.infer(from_arrays(wavelength, flux, sigma))"
    )
