"""One real star that comes with the package, and readers for data sets of real stars."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ._spectral_units import air_to_vacuum
from ._tokens import FLUX_KINDS
from .exceptions import InputTypeError, InputValueError

__all__ = [
    "LabelledSpectra",
    "get_reader",
    "load_example_spectrum",
    "read_gaia_xp_apogee",
    "read_miles",
    "register_reader",
    "unregister_reader",
]

_EXAMPLE = Path(__file__).parent / "data" / "gaia_xp_example.fits"

_XP_LABELS = ("teff", "logg", "fe_h", "alpha_m", "mg_fe", "o_fe")
_XP_PHOTOMETRY = {
    "gaiaedr3_phot_g_mean_mag": "phot_g_mean_mag",
    "gaiaedr3_phot_bp_mean_mag": "phot_bp_mean_mag",
    "gaiaedr3_phot_rp_mean_mag": "phot_rp_mean_mag",
    "j": "j_mag",
    "h": "h_mag",
    "k": "k_mag",
    "ak_targ": "a_k",
}
# The extinctions are from H - [4.5 micron]: below -0.1 mag are failures (down to -83)
# and noise, above 5 mag no star is bright enough to be in XP.
_PLAUSIBLE_A_K = (-0.1, 5.0)


@dataclass
class LabelledSpectra:
    """Spectra of many stars on one wavelength grid, with labels.

    Attributes
    ----------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` float64 [Angstrom], ascending; in vacuum, whatever was given.
    flux : numpy.ndarray
        ``(n_star, n_pixel)`` float32, relative.
    sigma : numpy.ndarray
        ``(n_star, n_pixel)`` float32, errors of ``flux``; NaN where not known.
    labels : dict of str to numpy.ndarray
        ``(n_star,)`` float64 by name, in the units of
        `spectrafm.quantities.QUANTITIES`; labels of the stars and photometry;
        NaN where missing.
    label_errors : dict of str to numpy.ndarray
        Likewise; names without errors are left out.
    identifier : numpy.ndarray
        ``(n_star,)`` str.
    flux_kind : {"relative_sed", "continuum_normalized"}
        Kind of flux. What is divided by its continuum is not for a domain of relative spectral energy distributions.
    medium : {"vacuum", "air"}
        What ``wavelength`` is given in. Wavelengths in air are converted, after which this is ``"vacuum"``.
    flux_scale : numpy.ndarray or None
        ``(n_star,)`` float64, what ``flux`` is to be multiplied with to be in
        ``flux_unit``; None where it is not known.
    flux_unit : str
        Unit of the scaled flux, in astropy's notation.

    Raises
    ------
    InputValueError
        Arrays whose shapes do not fit together, wavelengths that do not ascend, or another kind of flux or medium.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray
    labels: dict
    label_errors: dict
    identifier: np.ndarray
    flux_kind: str = "relative_sed"
    medium: str = "vacuum"
    flux_scale: np.ndarray | None = field(default=None)
    flux_unit: str = ""

    def __post_init__(self):
        """Check kind of flux, medium and shapes, and bring wavelengths to vacuum."""
        for name, known in (("flux_kind", FLUX_KINDS), ("medium", ("vacuum", "air"))):
            if getattr(self, name) not in known:
                raise InputValueError(f"{name}: {getattr(self, name)!r}, expected {' or '.join(map(repr, known))}")
        flux = np.shape(self.flux)
        if len(flux) != 2:
            raise InputValueError(f"flux: shape {flux}, expected (n_star, n_pixel)")
        shapes = {"wavelength": (self.wavelength, flux[1:]), "sigma": (self.sigma, flux)}
        shapes["identifier"] = self.identifier, flux[:1]
        for what, columns in (("labels", self.labels), ("label_errors", self.label_errors)):
            shapes |= {f"{what}[{name!r}]": (column, flux[:1]) for name, column in columns.items()}
        for name, (array, shape) in shapes.items():
            if np.shape(array) != shape:
                raise InputValueError(f"{name}: shape {np.shape(array)}, expected {shape} to fit flux of shape {flux}")
        if not (np.diff(self.wavelength) > 0).all():
            raise InputValueError("wavelength: it does not ascend everywhere; sort the pixels, each of them once")
        if self.medium == "air":
            self.wavelength, self.medium = air_to_vacuum(np.asarray(self.wavelength, dtype=np.float64)), "vacuum"

    def __len__(self):
        """Return the number of stars."""
        return len(self.flux)

    def spectra(self, indices):
        """Return some of the stars as specutils objects.

        Parameters
        ----------
        indices : int or sequence of int
            Row numbers.

        Returns
        -------
        list of `~specutils.Spectrum`
            One a star, with vacuum wavelengths in Angstrom, standard deviations
            where there are any, and ``meta["identifier"]``.

        Raises
        ------
        InputValueError
            A row number out of range.
        """
        from astropy import units as u
        from astropy.nddata import StdDevUncertainty
        from specutils import Spectrum

        rows = np.atleast_1d(indices)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise InputValueError(f"indices: {rows.min()} to {rows.max()}; expected row numbers below {len(self)}")
        unit, found = u.Unit(self.flux_unit), []
        for row in rows:
            scale = 1.0 if self.flux_scale is None else self.flux_scale[row]
            sigma = self.sigma[row].astype(np.float64) * scale
            found.append(
                Spectrum(
                    flux=self.flux[row].astype(np.float64) * scale * unit,
                    spectral_axis=self.wavelength * u.AA,
                    uncertainty=StdDevUncertainty(sigma, unit=unit) if np.isfinite(sigma).any() else None,
                    meta={"identifier": str(self.identifier[row])},
                )
            )
        return found


def load_example_spectrum():
    """Return the star that comes with the package.

    Returns
    -------
    `~specutils.Spectrum`
        A Gaia DR3 XP spectrum, externally calibrated: flux in W m-2 nm-1 with
        standard deviations, vacuum wavelengths in nm. ``meta["header"]`` says
        which star it is, where the spectrum is from, and its labels in APOGEE.

    Examples
    --------
    >>> from spectrafm.datasets import load_example_spectrum
    >>> spectrum = load_example_spectrum()
    >>> spectrum.flux.unit, spectrum.spectral_axis.unit
    (Unit("W / (nm m2)"), Unit("nm"))
    >>> spectrum.meta["header"]["SURVEY"]
    'Gaia DR3 XP'
    """
    from specutils import Spectrum

    return Spectrum.read(_EXAMPLE, format="tabular-fits")


def _open(folder, what):
    """Return the arrays and the table of a data set in a folder."""
    from astropy.table import Table

    folder = Path(folder)
    missing = [name for name in ("train.npz", "train.csv") if not (folder / name).is_file()]
    if missing:
        raise InputValueError(f"folder: no {' and no '.join(missing)} in {folder}; give the folder of {what}")
    with np.load(folder / "train.npz") as arrays:
        arrays = {name: arrays[name] for name in arrays.files}
    table = Table.read(folder / "train.csv", format="ascii.fast_csv")
    if len(table) != len(arrays["flux"]):
        raise InputValueError(
            f"folder: {len(table)} rows in train.csv and {len(arrays['flux'])} in train.npz of {folder}; "
            "the files do not belong together, copy them again"
        )
    return arrays, table


def _column(table, name):
    """Return a column as float64, NaN where missing."""
    return np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan)


def read_gaia_xp_apogee(folder):
    """Read Gaia DR3 XP spectra of stars with APOGEE DR17 labels.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds ``train.npz`` with ``wavelength_nm`` ``(n_pixel,)``, ``flux`` and
        ``flux_error`` ``(n_star, n_pixel)``, both divided by the median flux of the star, and
        ``train.csv`` with a row a star: ``gaiaedr3_source_id``, ``medflux`` [W m-2 nm-1], ``teff``,
        ``logg``, ``fe_h``, ``alpha_m``, ``mg_fe``, ``o_fe``, each with ``<label>_err``,
        ``gaiaedr3_phot_g_mean_mag`` and those of BP and RP, ``j``, ``h``, ``k``, ``ak_targ``.

    Returns
    -------
    LabelledSpectra
        Flux divided by its median, of 33,790 stars; Gaia source numbers as
        identifiers. Extinctions ``a_k`` that cannot be right (below -0.1 or
        above 5 mag) are taken as missing.

    Raises
    ------
    InputValueError
        Files that are missing or do not belong together.
    """
    arrays, table = _open(folder, "the Gaia XP spectra with APOGEE labels")
    labels = {name: _column(table, name) for name in _XP_LABELS}
    labels |= {name: _column(table, column) for column, name in _XP_PHOTOMETRY.items()}
    low, high = _PLAUSIBLE_A_K
    a_k = labels["a_k"]
    labels["a_k"] = np.where((a_k >= low) & (a_k <= high), a_k, np.nan)
    return LabelledSpectra(
        wavelength=arrays["wavelength_nm"].astype(np.float64) * 10,
        flux=arrays["flux"].astype(np.float32, copy=False),
        sigma=arrays["flux_error"].astype(np.float32),
        labels=labels,
        label_errors={name: _column(table, f"{name}_err") for name in _XP_LABELS},
        identifier=np.asarray(table["gaiaedr3_source_id"]).astype(str),
        flux_scale=_column(table, "medflux"),
        flux_unit="W m-2 nm-1",
    )


def read_miles(folder):
    """Read the MILES library of optical spectra.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds ``train.npz`` with ``wavelength_air_angstrom`` ``(n_pixel,)`` and ``flux``
        ``(n_star, n_pixel)``, and ``train.csv`` with a row a star: ``name``, ``teff``, ``logg``, ``feh``.

    Returns
    -------
    LabelledSpectra
        Relative flux of 753 stars at rest; wavelengths converted from air to
        vacuum; no errors (all NaN, in an array that takes no memory and cannot
        be written to). Pixels with a flux of exactly zero, four in all, are NaN.

    Raises
    ------
    InputValueError
        Files that are missing or do not belong together.
    """
    arrays, table = _open(folder, "the MILES library")
    flux = arrays["flux"].astype(np.float32, copy=False)
    return LabelledSpectra(
        wavelength=arrays["wavelength_air_angstrom"].astype(np.float64),
        flux=np.where(flux == 0, np.float32(np.nan), flux),
        sigma=np.broadcast_to(np.float32(np.nan), flux.shape),
        labels={name: _column(table, column) for name, column in (("teff", "teff"), ("logg", "logg"), ("fe_h", "feh"))},
        label_errors={},
        identifier=np.asarray(table["name"]).astype(str),
        medium="air",
    )


_READERS = {"gaia_xp_apogee": read_gaia_xp_apogee, "miles": read_miles}


def register_reader(name, function, *, overwrite=False):
    """Make a data set known, so that recipes can name it: ``data = "<name>"`` of a source.

    Parameters
    ----------
    name : str
        Name of the data set.
    function : callable
        ``function(folder)`` returns `LabelledSpectra`. ``folder`` is the folder of that name in the folder of all
        data sets, or the latter where there is none.
    overwrite : bool, optional
        Replace a reader of that name.

    Raises
    ------
    InputTypeError
        A name that is not a string, or a function that cannot be called.
    InputValueError
        There is another reader of that name.
    """
    if not isinstance(name, str) or not name:
        raise InputTypeError(f"name: {name!r}, expected a string")
    if not callable(function):
        raise InputTypeError(f"function: {function!r}, expected a function that takes a folder")
    if _READERS.get(name, function) is not function and not overwrite:
        raise InputValueError(f"name: there is a reader {name!r} already; give another name, or overwrite=True")
    _READERS[name] = function


def unregister_reader(name):
    """Remove a data set that `register_reader` made known.

    Parameters
    ----------
    name : str
        Name of the data set.

    Raises
    ------
    InputValueError
        There is no such data set; the message lists the known ones.
    """
    get_reader(name)
    del _READERS[name]


def get_reader(name):
    """Look up the function that reads a data set.

    Parameters
    ----------
    name : str
        Name of the data set.

    Returns
    -------
    callable
        ``function(folder)``, which returns `LabelledSpectra`.

    Raises
    ------
    InputValueError
        There is no such data set; the message lists the known ones.
    """
    if name not in _READERS:
        raise InputValueError(
            f"data: no reader {name!r}; known are {', '.join(_READERS)}; see spectrafm.datasets.register_reader"
        )
    return _READERS[name]
