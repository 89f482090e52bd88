"""The packaged star and the readers of real sets."""

import sys
from dataclasses import replace
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from specutils.utils.wcs_utils import air_to_vac

from spectrafm import _progress
from spectrafm.adapters import to_arrays
from spectrafm.datasets import (
    LabelledSpectra,
    get_reader,
    load_example_spectrum,
    read_gaia_xp_apogee,
    read_miles,
    register_reader,
    unregister_reader,
)
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.quantities import QUANTITIES
from spectrafm.training import read_data

XP_COLUMNS = (
    "apogee_id,j,h,k,ak_targ,snr,gaiaedr3_source_id,gaiaedr3_phot_g_mean_mag,gaiaedr3_phot_bp_mean_mag,"
    "gaiaedr3_phot_rp_mean_mag,teff,teff_err,logg,logg_err,alpha_m,alpha_m_err,fe_h,fe_h_err,medflux,"
    "o_fe,o_fe_err,mg_fe,mg_fe_err"
)


@pytest.fixture
def xp_folder(tmp_path):
    """Return a folder with four made-up XP stars, one of each oddity."""
    row = "A{0},8.0,,7.2,{1},90,585341800214511270{0},10,11,9,4900,9,2.6,0.02,,,-0.1,0.01,2.5e-15,,,0.06,0.01"
    lines = [row.format(i, a_k) for i, a_k in enumerate(("0.13", "-83.9", "", "7.5"))]
    (tmp_path / "train.csv").write_text("\n".join([XP_COLUMNS, *lines]) + "\n")
    flux = np.ones((4, 3), dtype=np.float32)
    wavelength = np.array([336, 338, 340], dtype=np.float32)
    np.savez(tmp_path / "train.npz", wavelength_nm=wavelength, flux=flux, flux_error=(0.01 * flux).astype(np.float16))
    return tmp_path


@pytest.fixture
def miles_folder(tmp_path):
    """Return a folder with two made-up stars in the form of MILES."""
    lines = ["miles_id,name,cat_id,spt,teff,logg,feh,refs", "1,HD1,,G3 V,5305,4.49,-0.75,x", "2,HD2,3,,,,,y"]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    wavelength = np.array([3540.5, 5000.0, 7409.6])
    np.savez(tmp_path / "train.npz", wavelength_air_angstrom=wavelength, flux=np.float32([[1, 2, 3], [1, 0, 3]]))
    return tmp_path


def test_example_is_a_usable_spectrum():
    """The packaged star has units, errors, vacuum wavelengths and no bad pixel."""
    spectrum = load_example_spectrum()
    assert spectrum.flux.shape == (343,)
    assert spectrum.flux.unit == u.W / u.m**2 / u.nm
    assert spectrum.spectral_axis.unit == u.nm
    assert spectrum.uncertainty.uncertainty_type == "std"
    np.testing.assert_array_equal(spectrum.spectral_axis.value, np.arange(336, 1021, 2))
    [star] = to_arrays(spectrum)
    assert star.flags == 0
    assert star.n_good == 343
    assert star.snr > 20
    assert star.identifier == spectrum.meta["header"]["OBJECT"]


def test_example_says_where_it_is_from():
    """The header names star, survey, license and the labels of APOGEE."""
    header = load_example_spectrum().meta["header"]
    assert header["OBJECT"] == f"Gaia DR3 {header['SOURCE']}"
    assert header["SURVEY"] == "Gaia DR3 XP"
    assert header["MEDIUM"] == "vacuum"
    assert 3000 < header["TEFF"] < 8000
    assert 0 < header["LOGG"] < 5.5
    assert header["E_FE_H"] > 0
    assert "ESA/Gaia/DPAC" in header["LICENSE"]
    assert "APOGEE DR17" in str(header["COMMENT"])


def test_example_is_small():
    """One star is a few kilobytes, not a data set."""
    import spectrafm.datasets

    assert spectrafm.datasets._EXAMPLE.stat().st_size < 50_000


def test_xp_names_and_missing_values(xp_folder):
    """Columns get our names, blanks are NaN, impossible extinctions too."""
    data = read_gaia_xp_apogee(xp_folder)
    assert isinstance(data, LabelledSpectra)
    assert len(data) == 4
    assert set(data.labels) == {
        *("teff", "logg", "fe_h", "alpha_m", "mg_fe", "o_fe", "a_k"),
        *("phot_g_mean_mag", "phot_bp_mean_mag", "phot_rp_mean_mag", "j_mag", "h_mag", "k_mag"),
    }
    assert set(data.labels) <= set(QUANTITIES)
    np.testing.assert_array_equal(data.wavelength, [3360, 3380, 3400])
    np.testing.assert_array_equal(data.labels["a_k"], [0.13, np.nan, np.nan, np.nan])
    assert np.isnan(data.labels["h_mag"]).all()
    assert np.isnan(data.label_errors["alpha_m"]).all()
    assert (data.label_errors["mg_fe"] == 0.01).all()
    # beyond 2**53: not to pass through a float
    assert data.identifier[3] == "5853418002145112703"


def test_types_are_lean(xp_folder):
    """Pixels are float32, labels and wavelengths float64."""
    data = read_gaia_xp_apogee(xp_folder)
    assert data.flux.dtype == data.sigma.dtype == np.float32
    assert data.wavelength.dtype == np.float64
    assert all(v.dtype == np.float64 and v.shape == (4,) for v in (*data.labels.values(), *data.label_errors.values()))
    assert data.medium == "vacuum"


def test_spectra(xp_folder):
    """Rows become specutils objects with the flux in its unit."""
    data = read_gaia_xp_apogee(xp_folder)
    first, last = data.spectra([0, -1])
    np.testing.assert_allclose(first.flux.to_value("W m-2 nm-1"), 2.5e-15)
    np.testing.assert_allclose(first.uncertainty.quantity.to_value("W m-2 nm-1"), 2.5e-17, rtol=1e-3)
    assert to_arrays(last)[0].identifier == "5853418002145112703"
    assert len(data.spectra(2)) == 1
    assert data.spectra([]) == []
    with pytest.raises(InputValueError, match="indices: 0 to 4"):
        data.spectra([0, 4])


def test_miles(miles_folder):
    """Air becomes vacuum as specutils has it; no errors are invented; zeros are no flux."""
    data = read_miles(miles_folder)
    expected = air_to_vac([3540.5, 5000.0, 7409.6] * u.AA).to_value(u.AA)
    np.testing.assert_allclose(data.wavelength, expected, rtol=1e-8)
    assert np.isnan(data.sigma).all()
    assert data.sigma.shape == data.flux.shape
    np.testing.assert_array_equal(data.flux[1], [1, np.nan, 3])
    np.testing.assert_array_equal(data.labels["fe_h"], [-0.75, np.nan])
    assert list(data.identifier) == ["HD1", "HD2"]
    [spectrum] = data.spectra(0)
    assert spectrum.uncertainty is None
    assert spectrum.flux.unit == u.one


@pytest.mark.parametrize("reader", [read_gaia_xp_apogee, read_miles])
def test_missing_files(reader, tmp_path):
    """A wrong folder says what is missing and what to give."""
    with pytest.raises(InputValueError, match=r"no train.npz and no train.csv in .*; give the folder of"):
        reader(tmp_path)
    (tmp_path / "train.npz").write_bytes(b"")
    with pytest.raises(InputValueError, match=r"folder: no train.csv in"):
        reader(tmp_path)


def test_files_that_do_not_belong_together(xp_folder):
    """Rows that do not match are no stars."""
    np.savez(xp_folder / "train.npz", wavelength_nm=np.ones(3), flux=np.ones((2, 3)), flux_error=np.ones((2, 3)))
    with pytest.raises(InputValueError, match="4 rows in train.csv and 2 in train.npz"):
        read_gaia_xp_apogee(xp_folder)


def test_real_xp(shared_data):
    """The real set has the size and the ranges that are documented."""
    data = read_gaia_xp_apogee(shared_data / "gaia_xp_apogee")
    assert data.flux.shape == data.sigma.shape == (33790, 343)
    assert len(set(data.identifier)) == 33790
    a_k = data.labels["a_k"]
    assert np.nanmin(a_k) >= -0.1
    assert np.nanmax(a_k) <= 5
    assert np.isfinite(a_k).sum() == 32214
    np.testing.assert_allclose(np.median(data.flux, axis=1), 1, rtol=1e-6)
    assert (data.sigma > 0).all()
    assert (data.flux_scale > 0).all()


def test_real_miles(shared_data):
    """The real library has the size that is documented."""
    data = read_miles(shared_data / "miles")
    assert data.flux.shape == (753, 4300)
    assert np.isnan(data.flux).sum() == 4
    assert np.isfinite(data.labels["teff"]).sum() == 751
    assert (np.diff(data.wavelength) > 0).all()


def test_example_tool(shared_data, tmp_path):
    """The tool in the checkout writes what the package reads."""
    tools = Path(__file__).parents[2] / "tools"
    if not tools.is_dir():
        pytest.skip("needs the checkout")
    sys.path.insert(0, str(tools))
    try:
        from make_example_spectrum import write_example
    finally:
        sys.path.remove(str(tools))
    expected, output = load_example_spectrum(), tmp_path / "star.fits"
    source = expected.meta["header"]["SOURCE"]
    data = read_gaia_xp_apogee(shared_data / "gaia_xp_apogee")
    if source not in data.identifier:
        pytest.skip("the packaged star is not in this set")
    write_example(shared_data / "gaia_xp_apogee", source, output)
    again = type(expected).read(output)
    np.testing.assert_array_equal(again.flux.value, expected.flux.value)
    assert again.meta["header"]["TEFF"] == expected.meta["header"]["TEFF"]
    with pytest.raises(SystemExit, match="not in"):
        write_example(shared_data / "gaia_xp_apogee", "1", output)


def test_progress_is_optional(monkeypatch, capsys):
    """Not enabled, or without tqdm, the iterable itself comes back."""
    some = [1, 2, 3]
    assert _progress.progress(some, False) is some
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert _progress.progress(some, True) is some
    assert capsys.readouterr() == ("", "")


def test_progress_with_tqdm(capsys):
    """Enabled, the same elements come with a bar on stderr."""
    pytest.importorskip("tqdm")
    assert list(_progress.progress(iter([1, 2]), True, total=2, description="read")) == [1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "read" in captured.err


def test_readers(miles_folder, tmp_path):
    """A data set of the user is read by name from its folder, until it is removed; names are not taken twice."""
    seen = []

    def read(folder):
        seen.append(folder)
        return read_miles(miles_folder)

    register_reader("mine", read)
    try:
        assert len(read_data("mine", tmp_path)) == 2
        (tmp_path / "mine").mkdir()
        read_data("mine", str(tmp_path))
        assert seen == [tmp_path, tmp_path / "mine"]
        register_reader("mine", read)
        with pytest.raises(InputValueError, match="name: there is a reader 'mine' already; give another name, or over"):
            register_reader("mine", read_miles)
        register_reader("mine", lambda folder: 3, overwrite=True)
        with pytest.raises(InputTypeError, match="the reader of 'mine' returned a int, expected LabelledSpectra"):
            read_data("mine", tmp_path)
    finally:
        unregister_reader("mine")
    with pytest.raises(
        InputValueError, match="no reader 'mine'; known are gaia_xp_apogee, miles.*; see .*register_reader"
    ):
        get_reader("mine")
    with pytest.raises(InputValueError, match="no reader 'mine'"):
        unregister_reader("mine")
    with pytest.raises(InputTypeError, match="function: 3, expected a function that takes a folder"):
        register_reader("mine", 3)
    with pytest.raises(InputTypeError, match="name: 3, expected a string"):
        register_reader(3, read)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("flux", np.ones(4), r"flux: shape \(4,\), expected \(n_star, n_pixel\)"),
        ("wavelength", np.arange(3.0), r"wavelength: shape \(3,\), expected \(4,\) to fit flux of shape \(2, 4\)"),
        ("wavelength", np.arange(4.0)[::-1], "wavelength: it does not ascend everywhere"),
        ("sigma", None, r"sigma: shape \(\), expected \(2, 4\)"),
        ("labels", {"teff": np.ones(3)}, r"labels\['teff'\]: shape \(3,\), expected \(2,\)"),
        ("label_errors", {"teff": 1.0}, r"label_errors\['teff'\]: shape \(\), expected \(2,\)"),
        ("identifier", np.arange(4), r"identifier: shape \(4,\), expected \(2,\)"),
        ("medium", "water", "medium: 'water', expected 'vacuum' or 'air'"),
        ("flux_kind", "nonsense", "flux_kind: 'nonsense', expected 'relative_sed' or 'continuum_normalized'"),
    ],
)
def test_shapes_of_data_sets(name, value, error):
    """Arrays of a data set that do not fit together are refused by name."""
    arrays = {"wavelength": np.arange(4.0), "flux": np.ones((2, 4)), "sigma": np.ones((2, 4))}
    arrays |= {"labels": {"teff": np.ones(2)}, "label_errors": {}, "identifier": np.array(["a", "b"])}
    assert len(LabelledSpectra(**arrays)) == 2
    with pytest.raises(InputValueError, match=error):
        LabelledSpectra(**(arrays | {name: value}))


def test_medium_of_data_sets():
    """Wavelengths in air come to vacuum, once."""
    air, flux = np.linspace(5000.0, 6000.0, 5), np.ones((2, 5))
    data = LabelledSpectra(air, flux, flux, {}, {}, np.array(["a", "b"]), medium="air")
    np.testing.assert_allclose(data.wavelength, air_to_vac(air * u.AA, method="Morton2000").value)
    assert data.medium == "vacuum"
    again = replace(data, flux=2 * flux)
    np.testing.assert_array_equal(again.wavelength, data.wavelength)
    assert data.spectra(0)[0].spectral_axis[0].value == data.wavelength[0]
    np.testing.assert_array_equal(air, np.linspace(5000.0, 6000.0, 5))
