"""Tables of labels: what is in them, and what comes back from files."""

import builtins
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table, vstack
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrafm import spectrum_files
from spectrafm._table_formats import column_values
from spectrafm._warning_filters import catch_warnings
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.flags import Flag
from spectrafm.quantities import QUANTITIES
from spectrafm.results import (
    EXTENSIONS,
    describe_row,
    label_names,
    label_table,
    label_values,
    read_labels,
    round_to_error,
    to_mrt,
    write_labels,
)

LABELS = ("teff", "logg", "fe_h", "vsini")
VALUES = np.array([[4932.792, 2.598, -0.126, 3.5], [np.nan] * 4, [6010.25, 4.4, 0.31, 12.0]])
ERRORS = np.array([[26.4, 0.104, 0.043, 0.9], [np.nan] * 4, [50.0, 0.2, np.nan, 2.0]])
# longer than a line of a FITS header
LONG = ", ".join(f"element{i}_fe" for i in range(12))
META = {"model": "gaia_xp", "spectrafm_version": "0.1.dev0", "n": 3, "scale": 2.5, "medium": "vacuum", "unproven": LONG}


def table(rows=slice(None), **kwargs):
    """Return a table of three stars: good, masked, and one without an error."""
    settings = {
        "flag": np.array([0, 1, 33])[rows],
        "n_pixels_used": np.array([343, 0, 340])[rows],
        "snr": np.array([120.5, np.nan, 8.25])[rows],
        "identifier": np.array(["Gaia DR3 1", "b", "star c"])[rows],
        "meta": META,
    }
    return label_table(LABELS, VALUES[rows], ERRORS[rows], **(settings | kwargs))


def assert_same(first, second, exact=True):
    """Assert that two tables agree in names, numbers, units, masks, UCDs and descriptions."""
    assert first.colnames == second.colnames
    for name in first.colnames:
        a, b = first[name], second[name]
        assert getattr(a, "unit", None) == getattr(b, "unit", None), name
        assert type(a) is type(b), name
        assert a.info.meta == b.info.meta, name
        assert a.info.description == b.info.description, name
        np.testing.assert_array_equal(getattr(a, "mask", False), getattr(b, "mask", False))
        if a.dtype.kind == "f":
            a, b = (column_values(t, name) for t in (first, second))
            np.testing.assert_allclose(a, b, rtol=0, atol=0 if exact else 0.051)
        else:
            assert list(a) == list(b), name


def test_columns_units_and_ucds():
    """Each label has its error beside it, with units, UCDs and a description."""
    t = table()
    assert t.colnames == [
        "identifier", "teff", "e_teff", "logg", "e_logg", "fe_h", "e_fe_h", "vsini", "e_vsini",
        "flag", "n_pixels_used", "snr",
    ]  # fmt: skip
    assert isinstance(t, QTable)
    assert t["teff"].unit == t["e_teff"].unit == u.K
    assert t["logg"].unit == u.dex(u.cm / u.s**2)
    assert t["e_logg"].unit == t["fe_h"].unit == t["e_fe_h"].unit == u.dex
    assert t["vsini"].unit == u.km / u.s
    assert t["teff"].info.meta["ucd"] == "phys.temperature.effective"
    assert t["e_fe_h"].info.meta["ucd"] == "stat.error;phys.abund.Fe"
    assert all(t[name].info.description for name in t.colnames)
    assert all(t[name].info.meta["ucd"] for name in t.colnames)
    assert t["flag"].dtype == t["n_pixels_used"].dtype == np.int64
    assert t.meta == META


@pytest.mark.parametrize("name", list(QUANTITIES))
def test_every_quantity_can_be_a_column(name, tmp_path):
    """No quantity of the registry has a unit that fails in a table or in a file."""
    t = label_table(name, [[1.5]], [[0.5]], flag=[0], n_pixels_used=[5], snr=[10.0])
    for extension in (".ecsv", ".fits", ".vot"):
        write_labels(t, tmp_path / f"t{extension}")
        assert_same(read_labels(tmp_path / f"t{extension}"), t)


def test_what_is_not_finite_is_masked():
    """NaN and infinity are masked, a masked value has no error, nothing is -999."""
    values, errors = VALUES.copy(), ERRORS.copy()
    values[2, 0], errors[1] = np.inf, 1.0
    t = label_table(LABELS, values, errors, flag=[0, 1, 0], n_pixels_used=[1, 0, 1], snr=[1, np.inf, 2])
    assert t["teff"].mask.tolist() == t["e_teff"].mask.tolist() == [False, True, True]
    assert t["fe_h"].mask.tolist() == [False, True, False]
    assert t["e_fe_h"].mask.tolist() == [False, True, True]
    assert t["snr"].mask.tolist() == [False, True, False]
    # a mask that somebody forgets shows NaN, not the number that was there
    assert np.isnan(t["teff"].unmasked[2])
    assert np.isnan(t["e_logg"].unmasked[1])


@pytest.mark.parametrize("extension", [None, *EXTENSIONS])
def test_masked_where_a_row_is(extension, tmp_path):
    """Columns are plain where nothing is masked, so that all of NumPy takes their numbers; files keep it so."""
    whole, some = table(slice(0, 1)), table()
    if extension is not None:
        for i, t in enumerate((whole, some)):
            write_labels(t, tmp_path / f"{i}{extension}")
        whole, some = (read_labels(tmp_path / f"{i}{extension}") for i in (0, 1))
    for name in whole.colnames[1:9]:
        assert not isinstance(whole[name], Masked)
        assert type(whole[name].value) is np.ndarray
        assert isinstance(some[name], Masked)
    assert not hasattr(whole["snr"], "mask")
    assert np.histogram(whole["teff"].value)[0].sum() == 1
    both = vstack([whole, some], metadata_conflicts="silent")
    assert both["teff"].mask.tolist() == [False, *some["teff"].mask]


def test_no_stars(tmp_path):
    """A table of no stars is a table, and so it is in files."""
    t = table(slice(0, 0))
    assert len(t) == 0
    for extension in (".ecsv", ".fits", ".vot", ".csv"):
        write_labels(t, tmp_path / f"t{extension}")
        read = read_labels(tmp_path / f"t{extension}")
        assert len(read) == 0
        assert read["logg"].unit == t["logg"].unit
    with pytest.raises(InputValueError, match="no rows"):
        to_mrt(t)


def test_without_identifier():
    """The identifier is there only when given."""
    assert "identifier" not in table(identifier=None).colnames


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["teff", "temperature"]}, "unknown quantity 'temperature'"),
        ({"labels": ["teff", "teff"]}, "each name once"),
        ({"values": np.zeros((3, 1))}, r"values: shape \(3, 1\), expected \(3, 2\)"),
        ({"errors": np.zeros((2, 2))}, "errors: shape"),
        ({"errors": -np.ones((3, 2))}, "errors: some are negative"),
        ({"flag": np.zeros(3)}, "flag: float64 numbers, expected integers"),
        ({"n_pixels_used": [1]}, "n_pixels_used: shape"),
        ({"snr": 3.0}, "snr: shape"),
        ({"identifier": ["a"]}, "identifier: 1 names for 3 stars"),
    ],
)
def test_bad_arguments(changes, message):
    """Names and shapes that do not fit are refused by name."""
    arguments = {
        "labels": ["teff", "logg"],
        "values": np.ones((3, 2)),
        "errors": np.ones((3, 2)),
        "flag": [0, 0, 0],
        "n_pixels_used": [1, 1, 1],
        "snr": [1.0, 2.0, 3.0],
    } | changes
    with pytest.raises(InputValueError, match=message):
        label_table(**arguments)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, 2 * u.K])
def test_meta_is_flat(value):
    """Only strings and numbers survive all formats, so only they are taken."""
    with pytest.raises(InputTypeError, match="expected a string or a number"):
        table(meta={"thing": value})
    assert table(meta={"n": np.int64(3), "x": np.float32(0.5)}).meta == {"n": 3, "x": 0.5}


@pytest.mark.parametrize("extension", [".ecsv", ".fits", ".vot"])
def test_round_trip(extension, tmp_path):
    """Numbers, units, masks, UCDs, descriptions and provenance come back."""
    t = table()
    write_labels(t, tmp_path / f"labels{extension}")
    read = read_labels(tmp_path / f"labels{extension}")
    assert_same(read, t)
    assert dict(read.meta) == META
    assert {k: type(v) for k, v in read.meta.items()} == {k: type(v) for k, v in META.items()}


@pytest.mark.parametrize("extension", [".ecsv", ".fits", ".vot"])
def test_odd_meta(extension, tmp_path):
    """Empty and odd strings, truth values and large numbers come back as they were."""
    meta = {"hash": "", "note": "x < y & 'z'", "final": True, "number": 2**40, "small": 1e-300}
    write_labels(table(meta=meta), tmp_path / f"t{extension}")
    read = dict(read_labels(tmp_path / f"t{extension}").meta)
    assert read == meta
    assert {k: type(v) for k, v in read.items()} == {k: type(v) for k, v in meta.items()}


@pytest.mark.parametrize("extension", [".csv", ".mrt"])
def test_round_trip_without_meta(extension, tmp_path):
    """CSV and MRT hold the numbers; names give the units back."""
    t = table()
    write_labels(t, tmp_path / f"labels{extension}")
    read = read_labels(tmp_path / f"labels{extension}")
    assert_same(read, t, exact=extension == ".csv")
    assert read.meta == {}


@settings(max_examples=15)
@given(
    values=st.lists(st.floats(-1e8, 1e8) | st.just(np.nan), min_size=1, max_size=4),
    flags=st.integers(0, 2047),
    extension=st.sampled_from([".ecsv", ".fits", ".vot", ".csv"]),
)
def test_round_trip_of_anything(values, flags, extension, tmp_path_factory):
    """Any numbers, masks and flags come back bit for bit."""
    n = len(values)
    t = label_table(
        ("fe_h",), np.array(values)[:, None], np.ones((n, 1)), flag=[flags] * n, n_pixels_used=[n] * n, snr=values
    )
    path = tmp_path_factory.mktemp("t") / f"t{extension}"
    write_labels(t, path)
    assert_same(read_labels(path), t)


@pytest.mark.parametrize("extension", [".ecsv", ".fits", ".vot"])
def test_columns_of_the_user(extension, tmp_path):
    """What the user adds to the table comes back too, with units, masks and descriptions."""
    t = table()
    t["file"] = ["a.fits", "b.fits", "c.fits"]
    t["file"].info.description = "where from"
    t["parallax"] = Masked([1.0, 2.0, np.nan] * u.mas, [False, False, True])
    write_labels(t, tmp_path / f"t{extension}")
    read = read_labels(tmp_path / f"t{extension}")
    assert list(read["file"]) == ["a.fits", "b.fits", "c.fits"]
    assert read["file"].info.description == "where from"
    assert read["parallax"].unit == u.mas
    assert read["parallax"].mask.tolist() == [False, False, True]
    assert_same(read[t.colnames[:-2]], table())


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_coordinates_of_the_user(extension, tmp_path):
    """Columns that are objects are written, or refused by name."""
    t = table()
    t["place"] = SkyCoord([1.0, 2.0, 3.0] * u.deg, [4.0, 5.0, 6.0] * u.deg)
    path = tmp_path / f"t{extension}"
    if extension == ".vot":
        with pytest.raises(InputValueError, match=r"table: place \(SkyCoord\) cannot be columns of a VOTable; give"):
            write_labels(t, path)
        return
    write_labels(t, path)
    assert len(Table.read(path, format=EXTENSIONS[extension])) == 3


def test_plain_astropy_ecsv(tmp_path):
    """ECSV needs nothing of ours, neither to write nor to read."""
    t = table()
    t.write(tmp_path / "t.ecsv")
    read = QTable.read(tmp_path / "t.ecsv")
    assert_same(read, t)
    assert dict(read.meta) == META


def test_plain_astropy_fits(tmp_path):
    """astropy's own FITS keeps units, masks and UCDs, and shouts short keys of meta."""
    t = table()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t.write(tmp_path / "t.fits")
    read = QTable.read(tmp_path / "t.fits")
    assert read["logg"].unit == t["logg"].unit
    assert read["e_fe_h"].mask.tolist() == [False, True, True]
    assert read["teff"].info.meta["ucd"] == "phys.temperature.effective"
    assert set(read.meta) == {"MODEL", "spectrafm_version", "N", "SCALE", "MEDIUM", "UNPROVEN"}


def test_votable_units_are_those_of_vizier(tmp_path):
    """Other programs read the units of a VOTable."""
    write_labels(table(), tmp_path / "t.vot")
    text = (tmp_path / "t.vot").read_text()
    assert 'name="logg" ucd="phys.gravity" unit="[cm.s-2]"' in text
    assert 'name="fe_h" ucd="phys.abund.Fe" unit="[-]"' in text
    assert "dex" not in text
    from astropy.io.votable import validate

    assert validate(tmp_path / "t.vot", output=None, filename=tmp_path / "t.vot")


def test_comparing_with_numbers():
    """A column with a unit refuses a bare number; the three ways around work."""
    t = table()
    with pytest.raises(u.UnitsError):
        t[t["logg"] > 3]
    plain = Table(t)
    assert list(plain[plain["logg"] > 3]["identifier"]) == ["star c"]
    assert list(t[t["logg"].value > 3]["identifier"]) == ["star c"]
    assert list(t[t["logg"] > 3 * u.dex(u.cm / u.s**2)]["identifier"]) == ["star c"]
    assert list(t[t["teff"] > 5500 * u.K]["identifier"]) == ["star c"]
    pytest.importorskip("pandas")
    frame = t.to_pandas()
    assert list(frame[frame.logg > 3].identifier) == ["star c"]
    assert np.isnan(frame.teff[1])


def test_mrt_text():
    """Units are those of CDS, numbers have sensible digits, notes explain flags."""
    text = to_mrt(table())
    assert "[cm.s-2] logg" in text
    assert "[-]    e_fe_h" in text
    assert "4932.8" in text
    assert re.search(r"\[4932\.8/6010\.\d\]\? Effective temperature", text)
    assert f"{Flag.UNUSUAL_SPECTRUM.value} = UNUSUAL_SPECTRUM" in text
    assert "model = gaia_xp" in text
    assert max(map(len, text.splitlines())) < 100


def test_mrt_reads_back_when_the_first_row_is_masked(tmp_path):
    """Blanks at the start of a line keep their place."""
    t = table([1, 0], identifier=None)
    write_labels(t, tmp_path / "t.mrt")
    assert_same(read_labels(tmp_path / "t.mrt"), t, exact=False)


def test_mrt_leaves_out_columns_without_values(tmp_path):
    """What is missing for every star is no column."""
    text = to_mrt(table([1]), tmp_path / "t.mrt")
    assert (tmp_path / "t.mrt").read_text() == text
    assert read_labels(tmp_path / "t.mrt").colnames == ["identifier", "flag", "n_pixels_used"]


def test_mrt_leaves_the_table_alone():
    """Rounding and units are those of a copy."""
    t = table()
    to_mrt(t)
    assert_same(t, table())
    assert t.meta == META


def test_files_are_not_overwritten(tmp_path):
    """An existing file stays unless asked for otherwise."""
    for extension in EXTENSIONS:
        path = tmp_path / f"t{extension}"
        write_labels(table(), path)
        with pytest.raises(InputValueError, match="exists"):
            write_labels(table(slice(0, 1)), path)
        write_labels(table(slice(0, 1)), path, overwrite=True)
        assert len(read_labels(path)) == 1
    with pytest.raises(InputValueError, match="exists"):
        to_mrt(table(), tmp_path / "t.mrt")


def test_bad_filenames(tmp_path):
    """Extensions and folders are checked, with the remedy."""
    with pytest.raises(InputValueError, match=r"ends in \.ecsv, \.fits"):
        write_labels(table(), tmp_path / "t.txt")
    with pytest.raises(InputValueError, match="no folder"):
        write_labels(table(), tmp_path / "none" / "t.ecsv")
    with pytest.raises(InputValueError, match="no file"):
        read_labels(tmp_path / "t.ecsv")
    with pytest.raises(InputValueError, match="ends in"):
        read_labels(tmp_path / "t.txt")


def test_text_beyond_ascii(tmp_path):
    """FITS cannot hold it and says so; the others can."""
    t = table(identifier=["é", "β Pic", "c"])
    with pytest.raises(InputValueError, match=r"cannot write t\.fits .* write \.ecsv"):
        write_labels(t, tmp_path / "t.fits")
    for extension in (".ecsv", ".vot", ".csv", ".mrt"):
        write_labels(t, tmp_path / f"t{extension}")
        assert list(read_labels(tmp_path / f"t{extension}")["identifier"]) == ["é", "β Pic", "c"]


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (4932.79, 26.4, ("4933", "26")),
        (4932.79, 260.4, ("4933", "260")),
        (4932.79, 9.96, ("4933", "10")),
        (-0.12606, 0.0432, ("-0.126", "0.043")),
        (2.5, 0.0996, ("2.50", "0.10")),
        (2.5, np.nan, ("2.5", "--")),
        (2.5, 0.0, ("2.5", "--")),
        (np.nan, 1.0, ("--", "--")),
    ],
)
def test_round_to_error(value, error, expected):
    """Two digits of the error, and as many decimals of the value."""
    assert round_to_error(value, error) == expected


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_names_are_names(extension, tmp_path):
    """Names that look like numbers, or are empty, come back as they are."""
    t = table(identifier=["0001", "1e5", ""])
    write_labels(t, tmp_path / f"t{extension}")
    assert read_labels(tmp_path / f"t{extension}")["identifier"].tolist() == ["0001", "1e5", ""]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_meta_of_your_own(extension, tmp_path):
    """Notes in meta are kept, or refused by name before anything is written."""
    t = table()
    t.meta["comments"], t.meta["n"] = ["checked by hand"], np.int64(3)
    path = tmp_path / f"t{extension}"
    if extension in (".vot", ".mrt"):
        with pytest.raises(InputTypeError, match=r"meta\['comments'\]: list, expected a string or a number"):
            write_labels(t, path)
        assert not path.exists()
        del t.meta["comments"]
    write_labels(t, path)
    assert read_labels(path)["teff"].unit == u.K


def in_other_units():
    """Return a table with a label in Myr and one in m/s2, whose errors differ in unit from them."""
    values, errors = [[5.0, 4.4], [np.nan, np.nan]], [[0.5, 0.1], [np.nan, np.nan]]
    t = label_table(["age", "logg"], values, errors, flag=[0, 1], n_pixels_used=[5, 0], snr=[10.0, np.nan])
    t["age"], t["e_age"] = t["age"].to(u.Myr), t["e_age"].to(u.yr)
    t["logg"] = t["logg"].to(u.dex(u.m / u.s**2))
    assert t["age"][0].value == 5000
    return t


@pytest.mark.parametrize("extension", list(EXTENSIONS))
def test_other_units_come_back_in_ours(extension, tmp_path):
    """What is in another unit is converted, not renamed."""
    write_labels(in_other_units(), tmp_path / f"t{extension}")
    read = read_labels(tmp_path / f"t{extension}")
    for name, value, unit in (
        ("age", 5.0, u.Gyr),
        ("e_age", 0.5, u.Gyr),
        ("logg", 4.4, u.dex(u.cm / u.s**2)),
        ("e_logg", 0.1, u.dex),
    ):
        assert read[name].unit == unit
        np.testing.assert_allclose(column_values(read, name), [value, np.nan], rtol=1e-9)


def test_units_that_do_not_fit(tmp_path):
    """A label in a unit that it cannot have is refused, one that is no unit to astropy too."""
    for unit in ("s", "parrots"):
        t = Table(table(slice(0, 1)))
        t["teff"].unit = u.Unit(unit, parse_strict="silent")
        t.write(tmp_path / f"{unit}.ecsv")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            for ask in (lambda t=t: describe_row(t), lambda unit=unit: read_labels(tmp_path / f"{unit}.ecsv")):
                with pytest.raises(InputValueError, match=rf"table\['teff'\]: unit {unit}, expected K; convert it"):
                    ask()


def test_label_values_of_a_label_that_is_not_there():
    """A label or an error that the table lacks is named, with the labels that are there."""
    t = Table({"fe_h": [0.1], "e_fe_h": [0.1], "teff": [5000.0]})
    with pytest.raises(InputValueError, match="name: 'feh', but the table has no feh and no e_feh; its labels: fe_h$"):
        label_values(t, "feh")
    with pytest.raises(InputValueError, match="name: 'teff', but the table has no e_teff; its labels"):
        label_values(t, "teff")


def test_label_values():
    """A label and its errors are numbers in the units of the registry, whatever the table has."""
    for t in (in_other_units(), Table(in_other_units())):
        values, errors = label_values(t, "age")
        np.testing.assert_allclose(values, [5, np.nan])
        np.testing.assert_allclose(errors, [0.5, np.nan])
        assert describe_row(t)[0].split()[:5] == ["age", "5.00", "+-", "0.50", "Gyr"]
    assert label_names(t) == ["age", "logg"]


def test_describe_row():
    """Labels with errors and units, flags in words; the same without units."""
    t = table(meta={})
    lines = describe_row(t)
    assert lines[0].split() == ["teff", "4933", "+-", "26", "K", "Effective", "temperature"]
    assert lines[-1] == "flag 0: nothing was found wrong"
    assert describe_row(Table(t)) == lines
    assert [describe_row(t[i]) for i in range(3)] == [describe_row(t, i) for i in range(3)]
    with pytest.raises(InputValueError, match="row: 3; the table has 3 rows"):
        describe_row(t, 3)
    assert describe_row(t, 1)[0].split()[:4] == ["teff", "--", "+-", "--"]
    assert "BAD_INPUT" in describe_row(t, 2)[-1]
    assert "NO_UNCERTAINTY" in describe_row(t, 2)[-1]
    unproven = describe_row(table(meta={"unproven": "teff, mg_fe"}))
    assert unproven == [*lines, "errors calibrated on synthetic stars alone, real ones may be further off: teff, mg_fe"]


def test_describe_measured_velocity():
    """A velocity that was measured is among the words, in km/s whatever the table has; a spectrum without says so."""
    t = table(radial_velocity=([120.04, np.nan, np.nan], [0.21, np.nan, np.nan]))
    assert "radial velocity 120.04 +- 0.21 km / s" in describe_row(t)
    t["radial_velocity"] = t["radial_velocity"].to("m / s")
    assert "radial velocity 120.04 +- 0.21 km / s" in describe_row(t)
    assert "no radial velocity was measured" in describe_row(t, 1)
    assert not any("radial velocity" in line for line in describe_row(table()))


@pytest.mark.parametrize("extension", [".ecsv", ".csv", ".vot", ".mrt"])
def test_files_are_utf_8(extension, tmp_path, monkeypatch):
    """Files are written and read in UTF-8, whatever the locale says."""
    real = builtins.open

    def in_ascii(file, mode="r", buffering=-1, encoding=None, *more, **keywords):
        return real(file, mode, buffering, encoding if "b" in mode else encoding or "ascii", *more, **keywords)

    monkeypatch.setattr(builtins, "open", in_ascii)
    names = ["é", "b", "c"]
    write_labels(table(identifier=names), tmp_path / f"t{extension}")
    assert "é" in (tmp_path / f"t{extension}").read_text(encoding="utf-8")
    assert read_labels(tmp_path / f"t{extension}")["identifier"].tolist() == names


@pytest.mark.parametrize("column", [[True, False, True], np.array(["a", None, 1], dtype=object), [1j, 2j, 3j]])
def test_columns_that_mrt_cannot_hold(column, tmp_path):
    """Columns of anything but real numbers and text are named."""
    with_more = table()
    with_more["more"] = column
    with pytest.raises(InputValueError, match=r"table: more \(.*\) cannot be columns of a machine-readable table"):
        write_labels(with_more, tmp_path / "t.mrt")
    assert not (tmp_path / "t.mrt").exists()


@pytest.mark.parametrize("extension", [".ecsv", ".fits"])
def test_columns_of_objects(extension, tmp_path):
    """Objects that a format cannot hold are refused with an error of the package, and leave a file as it was."""
    path = tmp_path / f"t{extension}"
    write_labels(table(), path)
    with_more = table()
    with_more["more"] = np.array([object()] * 3, dtype=object)
    with pytest.raises(InputValueError, match="filename: cannot write"):
        write_labels(with_more, path, overwrite=True)
    assert len(read_labels(path)) == 3


def test_threads_leave_no_filters(tmp_path):
    """Filters of warnings are as before when several threads have written at the same time."""
    before, some = list(warnings.filters), table()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: write_labels(some, tmp_path / f"{i}.fits"), range(24)))
    assert list(warnings.filters) == before


def test_reading_and_writing_take_turns(tmp_path, monkeypatch):
    """A thread that writes waits for one that reads: both change the filters of warnings, which are the same."""
    reads, may_end = Event(), Event()
    monkeypatch.setattr(spectrum_files, "_read", lambda *_: reads.set() or ([], [str(may_end.wait(10))]))
    path, notes, some = tmp_path / "t.fits", [], table()
    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(spectrum_files.read_spectra, "a.txt", notes=notes)
        assert reads.wait(10)
        writing = threads.submit(write_labels, some, path)
        with pytest.raises(TimeoutError):
            writing.result(0.3)
        assert not path.exists()
        may_end.set()
        reading.result(10)
        writing.result(10)
    assert path.exists()
    assert notes == ["True"]


def test_catching_in_turns():
    """What one thread records is not seen by another, a thread may catch within what it catches, and all ends."""
    before, show = list(warnings.filters), warnings._showwarnmsg_impl
    inside, may_end = Event(), Event()

    def wait():
        with catch_warnings(record=True) as caught, catch_warnings():
            inside.set()
            assert may_end.wait(10)
        return caught

    def warn():
        with catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.warn("told", UserWarning, stacklevel=1)
        return [str(one.message) for one in caught]

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(wait)
        assert inside.wait(10)
        second = threads.submit(warn)
        with pytest.raises(TimeoutError):
            second.result(0.1)
        may_end.set()
        assert (first.result(10), second.result(10)) == ([], ["told"])
    assert (list(warnings.filters), warnings._showwarnmsg_impl) == (before, show)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_process_does_not_wait():
    """A process that is forked while a thread catches warnings has a lock of its own."""
    code = (
        "import os, signal, sys, threading\n"
        # without all else that the package imports
        "sys.path.append(sys.argv[1])\n"
        "from _warning_filters import catch_warnings\n"
        "inside, may_end = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with catch_warnings():\n"
        "        inside.set(), may_end.wait(10)\n"
        "thread = threading.Thread(target=hold)\n"
        "thread.start(), inside.wait(10)\n"
        "if not (child := os.fork()):\n"
        "    signal.alarm(5)\n"
        "    with catch_warnings():\n"
        "        os._exit(7)\n"
        "may_end.set()\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    options = {"capture_output": True, "text": True, "check": False}
    folder = str(Path(spectrum_files.__file__).parent)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder], **options)
    assert done.stdout == "7\n", done.stderr
