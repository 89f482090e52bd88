"""A file of spectra while it is read, and what it holds, on its way to `spectrafm.adapters.from_arrays`."""

from dataclasses import dataclass, field
from pathlib import Path

from .._star_names import star_names

__all__ = ["OWN_UNITS", "Contents", "SpectrumFile", "first_line", "further_note", "header_names", "in_air"]

#: What is said where units are given for a format that has its own.
OWN_UNITS = "wavelength_unit= and flux_unit= are not used: its format has units of its own"


@dataclass
class SpectrumFile:
    """A file while it is read.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    hdus : `~astropy.io.fits.HDUList` or None
        What is in it, if it is FITS.
    file_format : str or None
        Format that was given.
    units : dict
        Units of ``"wavelength"`` and ``"flux"`` that were given, or None.
    merge : bool
        Whether all spectra in it are of one star.
    damage : str
        What astropy says of a file that is cut off, or "".
    causes : dict of str
        Why a place in it cannot be read.
    table_options : str
        Arguments with which `astropy.table.Table.read` reads its text.
    """

    path: Path
    hdus: object = None
    file_format: str | None = None
    units: dict = field(default_factory=dict)
    merge: bool = False
    damage: str = ""
    causes: dict = field(default_factory=dict)
    table_options: str = "format='ascii'"

    @property
    def headers(self):
        """list of `~astropy.io.fits.Header`: Those of FITS."""
        return [hdu.header for hdu in self.hdus or ()]

    def image(self, number):
        """Read an image.

        Parameters
        ----------
        number : int
            Of the HDU.

        Returns
        -------
        numpy.ndarray or None
            None where it cannot be read; `causes` says why.
        """
        try:
            return self.hdus[number].data
        # what is cut off fails in many ways
        except Exception as error:
            self.causes[f"HDU {number}"] = first_line(error)
            return None


@dataclass
class Contents:
    """What a table or an image holds, and what was assumed.

    Attributes
    ----------
    arrays : dict
        Arguments of `~spectrafm.adapters.from_arrays`.
    notes : list of str
        What was assumed, in words.
    defaults : dict
        Options of `~spectrafm.adapters.from_arrays` that hold where no others are given: ``medium``,
        ``resolving_power`` or ``mask_policy``, as far as the file, or its survey, tells them.
    """

    arrays: dict
    notes: list
    defaults: dict = field(default_factory=dict)


def first_line(error):
    """Shorten what an error says.

    Parameters
    ----------
    error : Exception
        Any.

    Returns
    -------
    str
        The first line, or the kind of error where it says nothing.
    """
    text = str(error).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__


def further_note(first, others):
    """Name the spectra that are not read.

    Parameters
    ----------
    first : str
        The place that is read.
    others : list of str
        Places that are not.

    Returns
    -------
    list of str
        A note, or nothing.
    """
    if not others:
        return []
    return [
        f"only the spectrum in {first} is read, and not those in {', '.join(others)}; give merge_orders=True where "
        "all are of one star"
    ]


def header_names(headers, n_star):
    """Find the names of stars in headers, by the keywords that are for them.

    Parameters
    ----------
    headers : iterable of dict
        Headers of FITS, or the meta of tables, those first that are believed first.
    n_star : int
        Number of stars.

    Returns
    -------
    list of (str or None) or None
        As of `star_names`.
    """
    for header in headers:
        if names := star_names({"header": header}, n_star):
            return names
    return None


def in_air(headers):
    """Tell wavelengths in air by the keywords that headers have for it.

    Parameters
    ----------
    headers : iterable of dict
        Headers of FITS, or the meta of tables.

    Returns
    -------
    bool
    """
    return any(
        str(header.get("AIRORVAC", header.get("WAVETYPE", ""))).strip().lower() == "air"
        or header.get("VACUUM") is False
        for header in headers
    )
