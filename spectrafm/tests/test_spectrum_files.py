"""Files of spectra, of the kinds that are common and that specutils does not read."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose

from spectrafm._spectral_units import air_to_vacuum
from spectrafm.exceptions import InputValueError
from spectrafm.spectrum_files import read_stars

N_PIXEL = 40
WAVELENGTH = np.linspace(4000.0, 4975.0, N_PIXEL)
FLUX = 1 + 0.1 * np.sin(np.arange(N_PIXEL))
SIGMA = np.linspace(0.01, 0.02, N_PIXEL)
DENSITY = u.erg / u.s / u.cm**2 / u.AA
RELATIVE = "no unit of the flux in it: taken as relative flux per wavelength; --flux-unit says otherwise"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


def check(found, sigma=SIGMA, wavelength=WAVELENGTH, rtol=1e-7):
    """Check that what was read is the one spectrum; return the notes."""
    [star], notes = found
    assert_allclose(star.wavelength, wavelength, rtol=rtol)
    assert_allclose(star.flux, FLUX, rtol=1e-6)
    assert_allclose(star.sigma, np.full(N_PIXEL, np.nan) if sigma is None else sigma, rtol=1e-6)
    assert star.good.all()
    return notes


def axis_header(**more):
    """Return the header of a linear axis."""
    return fits.Header({"CRVAL1": 4000.0, "CDELT1": 25.0, "CRPIX1": 1.0} | more)


@pytest.mark.parametrize("file_format", [None, "ascii"])
@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("name", ["a.txt", "a.dat"])
def test_numbers_alone(name, columns, file_format):
    """Columns without names are wavelength, flux and errors; the unit of wavelengths is asked for."""
    np.savetxt(name, np.stack([WAVELENGTH, FLUX, SIGMA][:columns], axis=1))
    message = f"from 4000 to 4975; say it, for example: spectrafm infer {name} --wavelength-unit Angstrom"
    with pytest.raises(InputValueError, match=message):
        read_stars(name, file_format=file_format)
    notes = check(
        read_stars(name, file_format=file_format, wavelength_unit="Angstrom"), SIGMA if columns == 3 else None
    )
    assert notes[0].startswith("read as a table: wavelength in 'col1', flux in 'col2'")
    assert notes[1] == RELATIVE


@pytest.mark.parametrize("header", ["wave,flux,err", "Lambda,Flux,e_flux", "wl,FLAM,flux_error"])
def test_csv(header):
    """Columns go by their names, wherever they stand."""
    np.savetxt("a.csv", np.stack([WAVELENGTH / 10, FLUX, SIGMA], axis=1), delimiter=",", header=header, comments="")
    notes = check(read_stars("a.csv", wavelength_unit="nm"))
    assert notes == [
        "read as a table: "
        + ", ".join(
            f"{what} in {name!r}"
            for what, name in zip(("wavelength", "flux", "standard deviations"), header.split(","), strict=True)
        ),
        RELATIVE,
    ]


def test_commented_header():
    """A line of names behind a # is understood, and a unit in the name of a column."""
    np.savetxt("a.dat", np.stack([WAVELENGTH / 10, FLUX, SIGMA], axis=1), header="wavelength_nm flux sigma")
    check(read_stars("a.dat"))


def test_flux_unit():
    """A unit of the flux that is told is used; one that is none is refused."""
    np.savetxt("a.txt", np.stack([WAVELENGTH, FLUX, SIGMA], axis=1))
    [star], notes = read_stars("a.txt", wavelength_unit="Angstrom", flux_unit="Jy")
    assert star.flux_unit == "erg / (Angstrom s cm2)"
    assert RELATIVE not in notes
    for option in ("wavelength_unit", "flux_unit"):
        with pytest.raises(InputValueError, match=rf"--{option.split('_')[0]}-unit: 'sheep'; expected a unit"):
            read_stars("a.txt", **({"wavelength_unit": "nm"} | {option: "sheep"}))


def test_loglam_and_ivar():
    """Names of SDSS: logarithms of wavelengths in Angstrom, and inverse variances."""
    ivar = SIGMA**-2.0
    ivar[3] = 0
    Table({"flux": FLUX, "loglam": np.log10(WAVELENGTH), "ivar": ivar}).write("a.fits")
    [star], notes = read_stars("a.fits")
    assert_allclose(star.wavelength, WAVELENGTH)
    assert np.flatnonzero(~star.good).tolist() == [3]
    assert_allclose(star.sigma[star.good], SIGMA[star.good])
    assert "'loglam' is taken as log10 of wavelengths in Angstrom" in notes


def test_one_row_of_arrays():
    """Tables of ESO have one row, with an array in each cell."""
    columns = {"WAVE": [WAVELENGTH] * u.AA, "FLUX": [FLUX] * DENSITY, "ERR": [SIGMA] * DENSITY}
    Table(columns).write("a.fits")
    notes = check(read_stars("a.fits"))
    assert notes == ["read as a table (HDU 1): wavelength in 'WAVE', flux in 'FLUX', standard deviations in 'ERR'"]


def test_rows_are_stars():
    """A table with a row a star gives as many stars."""
    Table({"loglam": np.log10([WAVELENGTH] * 3), "flux": [FLUX] * 3, "ivar": [SIGMA**-2.0] * 3}).write("a.fits")
    stars, _ = read_stars("a.fits")
    assert len(stars) == 3
    assert_allclose(stars[2].sigma, SIGMA)


@pytest.mark.parametrize(
    ("name", "values"), [("ERR", SIGMA), ("SIGMA", SIGMA), ("VAR", SIGMA**2), ("IVAR", SIGMA**-2.0)]
)
def test_image_without_unit(name, values):
    """An image without BUNIT is read with the errors of its extension."""
    hdus = [fits.PrimaryHDU(FLUX, axis_header(CTYPE1="WAVE", CUNIT1="Angstrom")), fits.ImageHDU(values, name=name)]
    fits.HDUList(hdus).writeto("a.fits")
    notes = check(read_stars("a.fits"))
    # what it does not know it leaves out without a word
    assert notes == (
        ["SIGMA, which specutils leaves out, is taken as standard deviations of the flux"]
        if name == "SIGMA"
        else [f"errors of HDU 0 are those in {name}", RELATIVE]
    )


def test_image_in_air():
    """A header that says air is believed here, too, unless the medium is told."""
    hdus = [fits.PrimaryHDU(FLUX, axis_header(CTYPE1="AWAV", CUNIT1="Angstrom")), fits.ImageHDU(SIGMA, name="ERR")]
    fits.HDUList(hdus).writeto("a.fits")
    check(read_stars("a.fits", medium=None), wavelength=air_to_vacuum(WAVELENGTH))
    check(read_stars("a.fits", medium="vacuum"))


def test_iraf_logarithms():
    """An axis with DC-FLAG 1 is one of logarithms."""
    first = np.log10(4000)
    header = axis_header(CRVAL1=first, CDELT1=0.001, CTYPE1="LINEAR", WAT1_001="wtype=linear units=angstroms")
    header["DC-FLAG"] = 1
    fits.PrimaryHDU(FLUX, header).writeto("a.fits")
    notes = check(read_stars("a.fits"), None, 10 ** (first + 0.001 * np.arange(N_PIXEL)))
    assert "DC-FLAG is 1 in its header: its axis is taken as log10 of wavelengths" in notes


def test_iraf_logarithms_of_a_survey():
    """Rows that a loader of specutils knows, here flux and errors of SDSS among others, are not taken for stars."""
    survey = {"TELESCOP": "SDSS 2.5-M", "FIBERID": 12, "DC-FLAG": 1, "COEFF0": 3.6, "COEFF1": 0.001}
    axis = {"CRVAL1": 3.6, "CD1_1": 0.001, "CD2_2": 1.0, "CRPIX1": 1.0, "CTYPE1": "LINEAR", "CUNIT1": "Angstrom"}
    header = fits.Header(survey | axis | {"BUNIT": "erg / (Angstrom s cm2)"})
    fits.PrimaryHDU(np.stack([FLUX, FLUX, SIGMA, 0 * FLUX, FLUX]), header).writeto("a.fits")
    [star], notes = read_stars("a.fits")
    assert_allclose(star.sigma, SIGMA)
    assert notes == []


def iraf_bands(n_aperture=1):
    """Return the four bands of `apall`: spectrum, without weights, sky, errors."""
    return np.stack([[band] * n_aperture for band in (FLUX, FLUX * 1.01, FLUX * 0.3, SIGMA)])


def iraf_header(**more):
    """Return the header of a file of `apall`."""
    header = fits.Header({"WCSDIM": 3, "WAT1_001": "wtype=multispec label=Wavelength units=angstroms"} | more)
    words = ("spectrum: background fit, weights variance", "raw: weights none", "background: fit", "sigma: weights")
    for band, text in enumerate(words):
        header[f"BANDID{band + 1}"] = text
    return header


def multispec(*rows):
    """Return the cards that tell the wavelengths of each row."""
    text = "wtype=multispec " + " ".join(f'spec{row + 1} = "{what}"' for row, what in enumerate(rows))
    return {f"WAT2_{card + 1:03d}": text[68 * card : 68 * card + 68] for card in range(-(-len(text) // 68))}


@pytest.mark.parametrize("linear", [True, False])
def test_iraf_bands(linear):
    """Of the bands of IRAF the first is the star, and the one of errors its errors."""
    told = axis_header(CTYPE1="LINEAR") if linear else multispec("1 1 0 4000. 25. 40 0. 1. 2.") | {"CTYPE1": "MULTISPE"}
    fits.PrimaryHDU(iraf_bands(), iraf_header(**told)).writeto("a.fits")
    notes = check(read_stars("a.fits"))
    assert "of 4 bands the first is the spectrum, band 4 its errors, others are not read" in notes


def test_iraf_apertures():
    """Several apertures are as many stars, each with its own axis, linear or logarithmic."""
    rows = ("1 1 0 4000. 25. 40 0. 1. 2.", "2 2 1 3.6 0.001 40 0.001 3. 4.")
    fits.PrimaryHDU(iraf_bands(2), iraf_header(**multispec(*rows), CTYPE1="MULTISPE")).writeto("a.fits")
    stars, notes = read_stars("a.fits")
    assert_allclose(stars[0].wavelength, WAVELENGTH)
    assert_allclose(stars[1].wavelength, 10 ** (3.6 + 0.001 * np.arange(N_PIXEL)) / 1.001)
    assert "2 rows are as many stars, or orders of one with --merge-orders" in notes


@pytest.mark.parametrize("extension", ["fits", "ecsv"])
def test_errors_that_specutils_leaves_out(extension):
    """A column of inverse variances, or of errors without a unit, is used, and that is said."""
    table = Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * DENSITY, "ivar": SIGMA**-2.0})
    table.write(f"a.{extension}")
    notes = check(read_stars(f"a.{extension}"))
    assert notes == ["column 'ivar', which specutils leaves out, is taken as inverse variances of the flux"]
    table["err"] = SIGMA
    del table["ivar"]
    table.write(f"b.{extension}")
    assert check(read_stars(f"b.{extension}")) == [
        notes[0].replace("ivar", "err").replace("inverse variances", "standard deviations")
    ]


@pytest.mark.parametrize("unit", [True, False])
def test_further_tables(unit):
    """Spectra in further tables are not read in silence."""
    unit = (u.AA, DENSITY) if unit else (1, 1)
    arm = {"wavelength": WAVELENGTH * unit[0], "flux": FLUX * unit[1], "error": SIGMA * unit[1]}
    arms = [fits.BinTableHDU(Table(arm), name=name) for name in ("BLUE", "RED")]
    fits.HDUList([fits.PrimaryHDU(), *arms, fits.BinTableHDU(Table({"a": [1]}), name="LOG")]).writeto("a.fits")
    notes = check(read_stars("a.fits", **({} if unit[0] != 1 else {"wavelength_unit": "Angstrom"})))
    assert [
        note
        for note in notes
        if note.startswith("only the spectrum in HDU 1 BLUE is read, and not those in HDU 2 RED:")
    ]


def test_unit_that_is_assumed():
    """An image without the unit of its axis is in Angstrom, which is said, or in what is told."""
    fits.PrimaryHDU(FLUX, axis_header(BUNIT="Jy")).writeto("a.fits")
    [star], notes = read_stars("a.fits")
    assert_allclose(star.wavelength, WAVELENGTH)
    assert notes == ["no unit of wavelength in its header: Angstrom is assumed; --wavelength-unit says otherwise"]
    [star], notes = read_stars("a.fits", wavelength_unit="nm")
    assert_allclose(star.wavelength, 10 * WAVELENGTH)
    assert notes == []


def test_errors_that_do_not_fit():
    """A column of errors in a unit of something else is left out, and that is said."""
    Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * DENSITY, "err": SIGMA * u.km}).write("a.fits")
    [star], notes = read_stars("a.fits")
    assert not star.has_sigma
    assert notes == ["column 'err' is left out: its shape or its unit does not fit the flux"]


@pytest.mark.parametrize("option", [{"flux_unit": "Jy"}, {"wavelength_unit": "Angstrom"}])
@pytest.mark.parametrize(("name", "errors"), [("err", 1e3 * SIGMA * u.mJy), ("ivar", 1e-6 * SIGMA**-2 / u.mJy**2)])
def test_errors_in_a_unit_of_their_own(name, errors, option):
    """Errors are converted to the unit of the flux, also where a unit is told; what is as in the file is no news."""
    Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * u.Jy, name: errors}).write("a.fits")
    [star], notes = read_stars("a.fits", **option)
    assert_allclose(star.sigma / star.flux, SIGMA / FLUX)
    assert [note.partition(":")[0] for note in notes] == ["read as a table (HDU 1)"]
    Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * u.Jy, name: SIGMA * u.km}).write("b.fits")
    [star], notes = read_stars("b.fits", **option)
    assert not star.has_sigma
    assert notes[1:] == [f"column {name!r} is left out: its shape or its unit does not fit the flux"]


def test_units_that_nobody_knows():
    """A flux may be in a unit that astropy does not know, a wavelength may not, but for common spellings."""
    hdus = [fits.PrimaryHDU(FLUX, axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", BUNIT="counts"))]
    fits.HDUList([*hdus, fits.ImageHDU(SIGMA, name="ERR")]).writeto("a.fits")
    check(read_stars("a.fits"))
    for name, unit in (("b.fits", "Angstroms"), ("c.fits", "furlongx")):
        columns = [fits.Column("WAVE", "D", unit, array=WAVELENGTH), fits.Column("FLUX", "D", "counts", array=FLUX)]
        fits.BinTableHDU.from_columns(columns).writeto(name)
    check(read_stars("b.fits"), None)
    with pytest.raises(InputValueError, match="'furlongx', which it tells, is not known .* --wavelength-unit Angstrom"):
        read_stars("c.fits")
    check(read_stars("c.fits", wavelength_unit="AA"), None)


def test_logarithms_in_another_unit():
    """The unit that is told is that of the wavelengths, not of their logarithms, and is said once."""
    Table({"loglam": np.log10(WAVELENGTH / 10), "flux": FLUX}).write("a.fits")
    notes = check(read_stars("a.fits", wavelength_unit="nm"), None)
    assert notes[1:] == ["'loglam' is taken as log10 of wavelengths in nm", RELATIVE]


def test_text_among_numbers():
    """Text in a column of numbers is told, and in which column."""
    with open("a.csv", "w") as file:
        file.write("wavelength_AA,flux,err\n4000,1,0.1\n4001,saturated,0.1\n")
    with pytest.raises(InputValueError, match="not numbers alone in the columns flux of its table; correct them"):
        read_stars("a.csv")


def test_iraf_cards_that_lack_numbers():
    """Wavelengths that are not told in full are none."""
    fits.PrimaryHDU(FLUX, iraf_header(**multispec("1 1"), CTYPE1="MULTISPE")).writeto("a.fits")
    with pytest.raises(InputValueError, match="no wavelength that is understood"):
        read_stars("a.fits")


def test_empty_cells():
    """A cell without a number is a bad pixel."""
    with open("a.csv", "w") as file:
        file.write("wavelength_AA,flux,err\n")
        file.writelines(
            f"{at},{'' if row == 3 else value},{error}\n"
            for row, (at, value, error) in enumerate(zip(WAVELENGTH, FLUX, SIGMA, strict=True))
        )
    [star], _ = read_stars("a.csv", file_format="ascii.csv")
    assert np.flatnonzero(~star.good).tolist() == [3]


def test_what_is_told_goes_first():
    """A unit that is told goes before that of the file, and that is said."""
    Table({"wavelength": WAVELENGTH / 10 * u.AA, "flux": FLUX * DENSITY, "error": SIGMA * DENSITY}).write("a.fits")
    notes = check(read_stars("a.fits", wavelength_unit="nm"))
    assert "unit of the wavelength: nm, as told, and not Angstrom as in it" in notes


def test_what_cannot_be_read():
    """What is in a file is said, and how to give it in Python."""
    Table({"a": WAVELENGTH, "b": FLUX}).write("a.fits")
    fits.PrimaryHDU(np.ones((5, 5))).writeto("b.fits")
    with open("c.txt", "wb") as file:
        file.write(bytes(range(256)))
    # a table that cannot be read
    damaged = fits.BinTableHDU.from_columns([fits.Column("a", "D", array=WAVELENGTH)])
    damaged.writeto("d.fits")
    with open("d.fits", "r+b") as file:
        data = file.read().replace(b"TFORM1  = 'D  ", b"TFORM1  = '?  ")
        file.seek(0)
        file.write(data)
    for name, message in (
        ("d.fits", "HDU 1  that is no table of numbers, and no wavelength"),
        (
            "a.fits",
            r"has the columns a, b, .* t = Table.read\('a.fits', hdu=1\); stars = from_arrays\(t\['a'\], t\['b'\]",
        ),
        ("b.fits", r"HDU 0 PRIMARY of shape \(5, 5\), .* flux = fits.getdata\('b.fits'\)"),
        ("c.txt", r"neither FITS nor a table of numbers; .*from_arrays\(wavelength, flux, sigma\)"),
    ):
        with pytest.raises(InputValueError, match=message):
            read_stars(name)
    with pytest.raises(InputValueError, match="there is no such file"):
        read_stars("none.fits")
