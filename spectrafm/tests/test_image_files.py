"""Images of FITS: those without wavelengths, and files of APOGEE."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from spectrafm.benchmarks.stars import read_apstars
from spectrafm.exceptions import InputValueError
from spectrafm.spectrum_files import read_spectra

FLUX = np.random.default_rng(0).normal(1, 0.01, (2, 300))
N_PIXEL = 8575
BAD, GHOST, PERSISTENT = 1 << 0, 1 << 8, 1 << 9
LINEAR = {"CRVAL1": 5000.0, "CRPIX1": 1.0}


def write(path, header, flux=FLUX[0], *hdus):
    """Write an image, and what stands beside it."""
    fits.HDUList([fits.PrimaryHDU(flux, fits.Header(header)), *hdus]).writeto(path)
    return path


@pytest.mark.parametrize("flux", [FLUX[0], FLUX], ids=["one row", "two rows"])
@pytest.mark.parametrize("options", [{}, {"wavelength_unit": "Angstrom"}, {"file_format": "wcs1d-fits"}])
@pytest.mark.parametrize(
    "header",
    [
        {},
        {"CRPIX1": 1.0, "CDELT1": 1.0},
        {"CRPIX1": 1.0, "CDELT1": 1.0, "CRVAL1": 1.0},
        {"CRPIX1": 0.0, "CDELT1": 1.0, "CRVAL1": 0.0},
        {"CRPIX1": 150.0, "CDELT1": 1.0, "CRVAL1": 0.0},
        {"CTYPE1": "LINEAR", "CRPIX1": 1.0, "CD1_1": 1.0, "CRVAL1": 1.0},
        {"CTYPE1": "PIXEL", "CRPIX1": 1.0, "CD1_1": 2.0, "CRVAL1": 1.0},
        {"CUNIT1": "pixel", "CRPIX1": 1.0, "CDELT1": 1.0, "CRVAL1": 1.0},
        # a step, or a beginning, alone
        {"CDELT1": 0.1},
        {"CRVAL1": 5000.0},
    ],
    ids=str,
)
def test_no_wavelengths(tmp_path, header, options, flux):
    """Numbers of pixels are no Angstrom: the message says how wavelengths are given."""
    path = write(tmp_path / "star.fits", header, flux)
    with pytest.raises(InputValueError, match=r"write CRVAL1, .*spectrafm\.adapters import from_arrays; flux = fits"):
        read_spectra(path, notes=[], **options)


@pytest.mark.parametrize("header", [LINEAR | {"CDELT1": 0.5}, LINEAR | {"CD1_1": 1.0}])
def test_no_unit(tmp_path, header):
    """A header with a beginning and a step is enough: Angstrom is assumed, and that is said."""
    notes = []
    [star] = read_spectra(write(tmp_path / "star.fits", header), notes=notes)
    step = header.get("CDELT1", header.get("CD1_1"))
    assert_allclose(star.wavelength[[0, -1]], [5000, 5000 + 299 * step])
    assert any("Angstrom is assumed" in note for note in notes)


@pytest.mark.parametrize(
    ("header", "unit"),
    [
        ({"CRVAL1": 500.0, "CDELT1": 0.1}, "'nm'"),
        ({"CRVAL1": 1.5, "CDELT1": 1e-3}, "'um'"),
        ({"CRVAL1": 3.7, "CDELT1": 1e-5}, r"'um'; where .* wavelength_unit='dex\(Angstrom\)'"),
        ({"CRVAL1": 3.7, "PC1_1": 1e-5, "CTYPE1": ""}, r"'um'; where .* wavelength_unit='dex\(Angstrom\)'"),
    ],
)
def test_numbers_that_are_not_in_angstrom(tmp_path, header, unit):
    """The unit is asked for where wavelengths look like another one, or like logarithms."""
    path = write(tmp_path / "star.fits", {"CRPIX1": 1.0, "CTYPE1": "WAVE"} | header)
    with pytest.raises(InputValueError, match=f"for example wavelength_unit={unit}$"):
        read_spectra(path, notes=[])


# as FITS has it the first are wavelengths in equal steps of their logarithm
@pytest.mark.parametrize("header", [{"CTYPE1": "WAVE-LOG", "CUNIT1": "Angstrom"}, {"CTYPE1": "WAVE", "CUNIT1": "m"}])
def test_wavelengths_of_no_star(tmp_path, header):
    """Units that give wavelengths at which no star is observed are wrong."""
    path = write(tmp_path / "star.fits", {"CRPIX1": 1.0, "CRVAL1": 3.7, "CDELT1": 1e-5} | header)
    with pytest.raises(InputValueError, match="its wavelengths are from 3.7.* to 3.7.* Angstrom by the units in it"):
        read_spectra(path, notes=[])


def test_axes_of_one_pixel(tmp_path):
    """An image of a spectrum may have more axes; its errors, too."""
    errors = fits.ImageHDU(np.full((1, 1, 300), 0.1), name="ERR")
    path = write(tmp_path / "star.fits", LINEAR | {"CDELT1": 1.0}, FLUX[:1, None], errors)
    [star] = read_spectra(path, notes=[])
    assert_allclose(star.flux, FLUX[0])
    assert_allclose(star.sigma, 0.1)


@pytest.mark.parametrize("unit", [{}, {"CUNIT1": "Angstrom"}, {"CUNIT1": "nm"}, {"CUNIT1": "dex(Angstrom)"}])
@pytest.mark.parametrize("ctype", ["LOGLAM", "LOG-LINEAR"])
def test_axes_called_logarithms(tmp_path, ctype, unit):
    """They are log10 of wavelengths, also where the unit of these is given."""
    start = 2.7 if "nm" in unit.values() else 3.7
    path = write(tmp_path / "star.fits", {"CRPIX1": 1.0, "CRVAL1": start, "CDELT1": 1e-4, "CTYPE1": ctype} | unit)
    given = {"wavelength_unit": "dex(nm)" if "nm" in unit.values() else "dex(Angstrom)"}
    for options in ({}, given):
        [star] = read_spectra(path, notes=[], **options)
        assert_allclose(star.wavelength[[0, -1]], 10 ** np.array([3.7, 3.7 + 299e-4]))


def test_errors_and_units_of_xshooter(tmp_path, recwarn):
    """Errors are in ERRS; a unit that FITS discourages is no reason to warn."""
    header = LINEAR | {"CRVAL1": 500.0, "CDELT1": 0.02, "CUNIT1": "nm", "BUNIT": "erg/s/cm2/Angstrom"}
    errors = fits.ImageHDU(np.full(FLUX[0].shape, 0.1), fits.Header(header), name="ERRS")
    [star] = read_spectra(write(tmp_path / "star.fits", header, FLUX[0], errors), notes=[])
    assert_allclose(star.sigma, 0.1)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("header", "wavelength"),
    [
        ({"CTYPE1": "FREQ", "CUNIT1": "Hz", "CRVAL1": 6e14, "CDELT1": -1e10}, 4996.540967),
        ({"PC1_1": 0.5, "CRVAL1": 5000.0}, 5000.0),
        ({"CUNIT1": "nm", "CRVAL1": 500.0}, 5000.0),
        ({"CTYPE1": "WAVE-LOG", "CUNIT1": "m", "CRVAL1": 5e-7, "CDELT1": 1e-11}, 5000.0),
    ],
)
def test_other_axes(tmp_path, header, wavelength):
    """Axes of other kinds are read as before, by specutils."""
    [star] = read_spectra(write(tmp_path / "star.fits", {"CRPIX1": 1.0} | header), notes=[])
    assert_allclose(star.wavelength[0], wavelength)


def test_extension_counts_pixels(tmp_path):
    """An extension that counts pixels gives no wavelengths."""
    path = write(tmp_path / "star.fits", {}, FLUX[0], fits.ImageHDU(np.arange(1.0, 301), name="WAVE"))
    with pytest.raises(InputValueError, match="HDU 1 WAVE cannot be used: it counts pixels"):
        read_spectra(path, notes=[])


@pytest.mark.parametrize("kind", [-1, 0])
@pytest.mark.filterwarnings("ignore:Flux unit was not provided|Read spectral axis|Non-monotonous:UserWarning")
def test_multispec_of_pixels(tmp_path, kind):
    """Orders of IRAF that were not calibrated are refused, too."""
    rows = " ".join(f'spec{row} = "{row} {row} {kind} 1. 1. 300 0. 1. 10."' for row in (1, 2))
    text = f"wtype=multispec {rows}"
    header = {"CTYPE1": "MULTISPE", "CTYPE2": "MULTISPE", "WCSDIM": 2, "WAT0_001": "system=multispec"}
    header |= {"WAT1_001": "wtype=multispec label=Wavelength units=angstroms", "CD1_1": 1.0, "CD2_2": 1.0}
    header |= {f"WAT2_{n + 1:03d}": text[68 * n : 68 * (n + 1)] for n in range(len(text) // 68 + 1)}
    with pytest.raises(InputValueError, match="no wavelength that is understood"):
        read_spectra(write(tmp_path / "orders.fits", header, FLUX), notes=[])


def apogee(path, kind):
    """Write what APOGEE does: two chips and a gap, and bits in the first pixels of the combined spectrum."""
    n_row = {"apStar": 4, "apVisit": 3, "aspcapStar": 1}[kind]
    n_pixel = 100 if kind == "apVisit" else N_PIXEL
    flux = np.random.default_rng(1).normal(100, 1, (n_row, n_pixel))
    flux[:, 50:60] = 0
    flux[0, 70] = 0
    bits = np.zeros(flux.shape, dtype=np.int16 if kind == "apVisit" else np.int64)
    bits[0, :3] = BAD, GHOST, PERSISTENT
    rest = np.ones(flux.shape)
    header = fits.Header({"OBJID": "2M00000000+0000000", "HISTORY": "APOGEE Reduction Pipeline"})
    # that of an aspcapStar is the one of its apStar
    header["SURVEY" if kind == "apVisit" else "SFILE1"] = "apogee" if kind == "apVisit" else "apVisit-r12-1-2-3.fits"
    axis = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR"}
    told = ["Flux (10^-17 erg/s/cm^2/Ang)", "Flux error", "Pixel bitmask"]
    told.append("Wavelength (Ang)" if kind == "apVisit" else "Sky (10^-17 erg/s/cm^2/Ang)")
    wavelength = np.linspace(16900, 15100, flux.size).reshape(flux.shape)
    images = [flux, rest, bits, wavelength]
    if kind == "aspcapStar":
        images = [flux[0], rest[0], rest[0]]
    hdus = [
        fits.ImageHDU(image, fits.Header((axis if kind != "apVisit" else {}) | {"BUNIT": unit}))
        for image, unit in zip(images, told, strict=False)
    ]
    if kind == "aspcapStar":
        hdus += [fits.BinTableHDU.from_columns([fits.Column("ASPCAPFLAG", "J", array=[0])])]
    fits.HDUList([fits.PrimaryHDU(header=header), *hdus]).writeto(path)
    return flux[0] if kind != "apVisit" else flux.ravel()[::-1]


@pytest.mark.parametrize("merge", [False, True])
def test_apstar(tmp_path, merge):
    """The combined spectrum, the strict bits of its mask, resolving power and name; gaps are bad."""
    path, notes = tmp_path / "apStar-1.fits", []
    flux = apogee(path, "apStar")
    [star] = read_spectra(path, notes=notes, merge_orders=merge)
    assert star.identifier == "2M00000000+0000000"
    assert star.resolving_power == 22_500
    assert_array_equal(np.flatnonzero(~star.good), [0, 1, *range(50, 60), 70])
    assert_array_equal(star.flux[star.good], flux[star.good])
    assert_allclose(star.wavelength, 10 ** (4.179 + 6e-6 * np.arange(N_PIXEL)), rtol=1e-12)
    assert star.counts["n_bits"] == 2
    assert u.Unit(star.flux_unit) == u.Unit("1e-17 erg / (s cm2 Angstrom)")
    assert notes == [
        "the combined spectrum is read, and not those of single visits",
        "its resolving power is 22500, that of its survey, unless another is given",
        "bad pixels are those of the mask policy apogee_dr17_strict, unless another is given",
    ]


def test_apstar_with_options(tmp_path):
    """What is given goes before what is usual."""
    path, notes = tmp_path / "apStar-1.fits", []
    apogee(path, "apStar")
    [star] = read_spectra(path, notes=notes, mask_policy="sdss_any", resolving_power=20_000, wavelength_unit="nm")
    assert star.resolving_power == 20_000
    assert star.counts["n_bits"] == 3
    assert_allclose(star.wavelength[0], 10**4.179)
    assert notes == [
        "wavelength_unit= and flux_unit= are not used: its format has units of its own",
        "the combined spectrum is read, and not those of single visits",
    ]
    [star] = read_spectra(path, notes=[], mask_policy="apogee_dr17", file_format="APOGEE apStar")
    assert star.counts["n_bits"] == 1


def test_apvisit(tmp_path):
    """The chips of a visit, one after the other, with their bits; its velocity is said to be in it."""
    path, notes = tmp_path / "apVisit-1.fits", []
    flux = apogee(path, "apVisit")
    [star] = read_spectra(path, notes=notes)
    assert (star.identifier, star.resolving_power) == ("2M00000000+0000000", 22_500)
    assert_allclose(star.wavelength, np.linspace(15100, 16900, 300))
    assert_array_equal(star.flux[star.good], flux[star.good])
    assert star.counts["n_bits"] == 2
    assert star.n_good == 300 - 2 - 30 - 1
    assert notes[0] == "its wavelengths are as observed: the velocity of the star and that of the Earth are in them"


def test_aspcapstar(tmp_path):
    """The third image is a model, and no mask; the flux has no unit."""
    path, notes = tmp_path / "aspcapStar-1.fits", []
    apogee(path, "aspcapStar")
    [star] = read_spectra(path, notes=notes)
    assert (star.identifier, star.resolving_power) == ("2M00000000+0000000", 22_500)
    assert_array_equal(np.flatnonzero(~star.good), [*range(50, 60), 70])
    assert notes == [
        "there is no mask in it: bad pixels are those without flux or with large errors",
        "its resolving power is 22500, that of its survey, unless another is given",
    ]


def test_benchmarks_read_alike(tmp_path):
    """Stars of benchmarks are read as those of users are."""
    (tmp_path / "apogee").mkdir()
    apogee(tmp_path / "apogee" / "apStar-1.fits", "apStar")
    [star] = read_apstars(tmp_path)
    [again] = read_spectra(tmp_path / "apogee" / "apStar-1.fits", notes=[])
    assert (star.identifier, star.resolving_power) == (again.identifier, again.resolving_power)
    assert_array_equal(star.good, again.good)
    assert star.flux_unit == again.flux_unit
