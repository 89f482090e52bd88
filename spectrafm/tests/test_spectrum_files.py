"""Files of spectra, of the kinds that are common and that specutils does not read."""

import bz2
import gzip
import lzma
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import Table
from numpy.testing import assert_allclose

from spectrafm._spectral_units import air_to_vacuum
from spectrafm.exceptions import InputTypeError, InputValueError, SpectraFMWarning
from spectrafm.spectrum_files import read_spectra

N_PIXEL = 40
WAVELENGTH = np.linspace(4000.0, 4975.0, N_PIXEL)
FLUX = 1 + 0.1 * np.sin(np.arange(N_PIXEL))
SIGMA = np.linspace(0.01, 0.02, N_PIXEL)
DENSITY = u.erg / u.s / u.cm**2 / u.AA
RELATIVE = "no unit of the flux in it: taken as relative flux per wavelength; give flux_unit= otherwise"


def read_stars(name, **options):
    """Return the stars of a file and the notes on it."""
    notes = []
    return read_spectra(name, notes=notes, **options), notes


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
    message = (
        f"{name}: it does not give the unit .*, from 4000 to 4975; give it, for example wavelength_unit='Angstrom'"
    )
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
        with pytest.raises(InputValueError, match=f"{option}: 'sheep'; expected a unit"):
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
    # what has its name and its unit is not worth a word
    assert check(read_stars("a.fits")) == []
    Table(columns | {"SNR": [FLUX / SIGMA]}).write("b.fits")
    notes = check(read_stars("b.fits"))
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
    assert notes == [f"errors of HDU 0 are those in {name}", RELATIVE]


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
    assert "2 rows are as many stars, or orders of one with merge_orders=True" in notes


@pytest.mark.parametrize("extension", ["fits", "ecsv"])
@pytest.mark.parametrize(
    "names",
    [
        ("ERROR", "FLUX", "WAVE"),
        ("WAVE", "MODEL", "FLUX", "ERROR"),
        ("WAVE", "FLUX", "SKY", "ERROR"),
        ("LSF", "WAVE", "FLUX", "IVAR"),
        ("FLUX", "WAVE", "VARIANCE"),
    ],
)
def test_columns_by_name_where_there_are_units(names, extension):
    """Columns with units go by their names, not by the order of their units; errors without a unit are used, too."""
    columns = {"WAVE": WAVELENGTH * u.AA, "FLUX": FLUX * DENSITY, "ERROR": SIGMA * DENSITY}
    columns |= dict.fromkeys(("MODEL", "SKY"), 2 * FLUX * DENSITY) | {"LSF": np.ones(N_PIXEL) * u.AA}
    columns |= {"IVAR": SIGMA**-2.0, "VARIANCE": SIGMA**2 * DENSITY**2}
    Table({name: columns[name] for name in names}).write(f"a.{extension}")
    notes = check(read_stars(f"a.{extension}"))
    assert len(notes) == (len(names) > 3)


@pytest.mark.parametrize("extension", ["fits", "ecsv"])
def test_columns_by_unit(extension):
    """Where no name is known the unit tells what a column is, and which one that was is said."""
    table = Table({"id": np.arange(N_PIXEL), "x": WAVELENGTH / 10 * u.nm, "y": FLUX * u.Jy, "dy": SIGMA * u.Jy})
    table.write(f"a.{extension}")
    [star], notes = read_stars(f"a.{extension}")
    assert_allclose(star.wavelength, WAVELENGTH)
    assert_allclose(star.flux / star.flux[0] * (WAVELENGTH / WAVELENGTH[0]) ** 2, FLUX / FLUX[0])
    assert notes[1] == "'y' and 'x' by the unit, not by the name"
    # a unit does not tell errors from a sky
    assert not star.has_sigma
    assert "no errors are read; if they are in 'dy', call them err, var or ivar" in notes
    Table({"frequency": WAVELENGTH[::-1] * u.THz, "flux": FLUX * u.Jy}).write(f"c.{extension}")
    [star], notes = read_stars(f"c.{extension}")
    assert_allclose(star.wavelength[-1], 299792458e10 / WAVELENGTH[0] / 1e12)
    assert notes == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("err2", SIGMA**2),
        ("sigma^2", SIGMA**2),
        ("sigma**-2", SIGMA**-2.0),
        ("ivar_1", SIGMA**-2.0),
        ("flux-err", SIGMA),
        ("1/sigma", None),
        ("err_rel", None),
    ],
)
def test_what_errors_are(name, values):
    """What a name adds to that of an error is part of it: a square is a variance, and what is not known is said."""
    errors = SIGMA if values is None else values
    np.savetxt(
        "a.txt", np.stack([WAVELENGTH, FLUX, errors], axis=1), header=f"wavelength flux {name}", comments="", fmt="%.9g"
    )
    notes = check(read_stars("a.txt", wavelength_unit="Angstrom"), None if values is None else SIGMA)
    told = f"no errors are read; if they are in {name!r}, call them err, var or ivar"
    assert (told in notes) == (values is None)


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
        if note.startswith("only the spectrum in HDU 1 BLUE is read, and not those in HDU 2 RED;")
    ]


def test_unit_that_is_assumed():
    """An image without the unit of its axis is in Angstrom, which is said, or in what is told."""
    fits.PrimaryHDU(FLUX, axis_header(BUNIT="Jy")).writeto("a.fits")
    [star], notes = read_stars("a.fits")
    assert_allclose(star.wavelength, WAVELENGTH)
    assert notes == ["no unit of wavelength in its header: Angstrom is assumed; give wavelength_unit= otherwise"]
    [star], notes = read_stars("a.fits", wavelength_unit="nm")
    assert_allclose(star.wavelength, 10 * WAVELENGTH)
    assert notes == []


def test_errors_that_do_not_fit():
    """A column of errors in a unit of something else is left out, and that is said."""
    Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * DENSITY, "err": SIGMA * u.km}).write("a.fits")
    [star], notes = read_stars("a.fits")
    assert not star.has_sigma
    assert notes == ["errors in 'err' are not used: their unit does not fit the flux"]


@pytest.mark.parametrize("option", [{"flux_unit": "Jy"}, {"wavelength_unit": "Angstrom"}])
@pytest.mark.parametrize(("name", "errors"), [("err", 1e3 * SIGMA * u.mJy), ("ivar", 1e-6 * SIGMA**-2 / u.mJy**2)])
def test_errors_in_a_unit_of_their_own(name, errors, option):
    """Errors are converted to the unit of the flux, also where a unit is told; what is as in the file is no news."""
    Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * u.Jy, name: errors}).write("a.fits")
    [star], notes = read_stars("a.fits", **option)
    assert_allclose(star.sigma / star.flux, SIGMA / FLUX)
    assert notes == []
    Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * u.Jy, name: SIGMA * u.km}).write("b.fits")
    [star], notes = read_stars("b.fits", **option)
    assert not star.has_sigma
    assert notes == [f"errors in {name!r} are not used: their unit does not fit the flux"]


def test_units_that_nobody_knows():
    """A flux may be in a unit that astropy does not know, a wavelength may not, but for common spellings."""
    hdus = [fits.PrimaryHDU(FLUX, axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", BUNIT="counts"))]
    fits.HDUList([*hdus, fits.ImageHDU(SIGMA, name="ERR")]).writeto("a.fits")
    check(read_stars("a.fits"))
    for name, unit in (("b.fits", "Angstroms"), ("c.fits", "furlongx")):
        columns = [fits.Column("WAVE", "D", unit, array=WAVELENGTH), fits.Column("FLUX", "D", "counts", array=FLUX)]
        fits.BinTableHDU.from_columns(columns).writeto(name)
    check(read_stars("b.fits"), None)
    with pytest.raises(InputValueError, match="'furlongx', which it gives .* wavelength_unit='Angstrom'"):
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
    with pytest.raises(InputValueError, match="column 'flux' .* and has 'saturated'; correct the file$"):
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
    assert "unit of the wavelength: nm, as given, and not Angstrom as in it" in notes


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
        ("d.fits", r"d.fits: HDU 1 cannot be read \(.*\): the file may be cut off$"),
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


def test_notes_are_warnings():
    """What is assumed is a warning where nobody asks for it."""
    np.savetxt("a.txt", np.stack([WAVELENGTH, FLUX, SIGMA], axis=1))
    with pytest.warns(SpectraFMWarning) as caught:
        [star] = read_spectra("a.txt", wavelength_unit="Angstrom")
    assert RELATIVE in [str(warning.message) for warning in caught]
    assert_allclose(star.flux, FLUX)


@pytest.mark.parametrize(("scale", "unit"), [(1, "Angstrom"), (0.1, "nm"), (1e-4, "um")])
def test_unit_that_is_proposed(scale, unit):
    """The unit that is proposed is one in which such wavelengths are light of stars."""
    np.savetxt("a.txt", np.stack([WAVELENGTH * scale, FLUX], axis=1))
    with pytest.raises(InputValueError, match=f"wavelength_unit='{unit}'"):
        read_stars("a.txt")


def write_desi(name):
    """Write three arms with two stars each, as DESI does."""
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table({"TARGETID": [39627001, 39627002]}), name="FIBERMAP")]
    for number, arm in enumerate("BRZ"):
        flux = np.array([[1.0], [number + 2]]) * FLUX
        hdus += [
            fits.ImageHDU(WAVELENGTH + 900 * number, fits.Header({"BUNIT": "Angstrom"}), name=f"{arm}_WAVELENGTH"),
            fits.ImageHDU(flux, fits.Header({"BUNIT": "Jy"}), name=f"{arm}_FLUX"),
            fits.ImageHDU((0.01 * flux) ** -2, fits.Header({"BUNIT": "Jy-2"}), name=f"{arm}_IVAR"),
            fits.ImageHDU(np.zeros((2, N_PIXEL), dtype=np.int32), name=f"{arm}_MASK"),
        ]
    fits.HDUList(hdus).writeto(name)


def test_arms_of_several_stars():
    """Rows of the arms of DESI are stars: merged, each is one; as they are, they have the names of star and arm."""
    write_desi("coadd-main-dark-1.fits")
    stars, notes = read_stars("coadd-main-dark-1.fits", merge_orders=True)
    assert [star.identifier for star in stars] == ["39627001", "39627002"]
    assert all(star.wavelength[0] == 4000 and star.wavelength[-1] == 6775 for star in stars)
    assert notes == ["3 arms of 2 rows: each row is a star, merged from its arms"]
    stars, notes = read_stars("coadd-main-dark-1.fits")
    assert [star.identifier for star in stars] == [f"3962700{row}:{arm}" for arm in "brz" for row in (1, 2)]
    assert notes == ["3 arms of 2 stars are as many rows: give merge_orders=True to merge the arms of a star"]
    # what has a format with units of its own does not lose it for one that is given
    assert len(read_stars("coadd-main-dark-1.fits", wavelength_unit="Angstrom")[0]) == 6


def test_one_star_that_cannot_be_merged():
    """A star of which an arm has no errors costs its own row."""
    write_desi("coadd-main-dark-1.fits")
    with fits.open("coadd-main-dark-1.fits", mode="update") as hdus:
        hdus["R_IVAR"].data[0] = -1
    bad, good = read_stars("coadd-main-dark-1.fits", merge_orders=True)[0]
    assert bad.identifier == "39627001"
    assert "no usable errors in number 1" in bad.problem
    assert good.problem == ""


def lamost(row=2, telescope="LAMOST"):
    """Return an image of LAMOST, as to DR7."""
    axis = 10 ** (3.6 + 0.001 * np.arange(N_PIXEL))
    mask = np.zeros(N_PIXEL)
    mask[5] = 1
    rows = [FLUX, SIGMA**-2, mask, mask]
    rows.insert(row, axis)
    header = axis_header(CRVAL1=3.6, CDELT1=0.001, CTYPE1="LINEAR", TELESCOP=telescope, OBJECT="J01", COEFF0=3.6)
    header["DC-FLAG"] = 1
    return fits.PrimaryHDU(np.array(rows, dtype=np.float32), header), axis


def test_image_of_lamost():
    """Rows of an image of LAMOST are flux, inverse variances and a mask of one star."""
    image, axis = lamost()
    image.writeto("a.fits")
    [star], notes = read_stars("a.fits")
    assert star.identifier == "J01"
    assert_allclose(star.wavelength, axis)
    assert_allclose(star.sigma[star.good], np.delete(SIGMA, 5), rtol=1e-6)
    assert np.flatnonzero(~star.good).tolist() == [5]
    assert "rows are those of LAMOST: flux, inverse variances, wavelength, and-mask; the or-mask is not used" in notes


@pytest.mark.parametrize("unit", [None, "Jy"])
def test_rows_that_are_not_stars(unit):
    """Where a row of an image holds its wavelengths the others are not taken for stars, whoever could read it."""
    header = axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", **({"BUNIT": unit} if unit else {}))
    fits.PrimaryHDU(np.stack([WAVELENGTH * 1.00001, FLUX, SIGMA]), header).writeto("a.fits")
    with pytest.raises(InputValueError, match="row 0 of the 3 in its image holds wavelengths"):
        read_stars("a.fits")


@pytest.mark.parametrize("table_format", ["tabledata", "binary", "binary2"])
@pytest.mark.parametrize("name", ["a.vot", "a.xml", "a.dat"])
def test_votable(name, table_format, recwarn):
    """A VOTable has its names and units, and is told by its name or by what it begins with."""
    table = Table({"wavelength": WAVELENGTH / 10 * u.nm, "flux": FLUX * DENSITY, "flux_error": SIGMA * DENSITY})
    votable = from_table(table)
    votable.get_first_table().fields[0].ucd = "em.wl;obs.atmos"
    votable.to_xml(name, tabledata_format=table_format)
    recwarn.clear()
    notes = check(read_stars(name), wavelength=air_to_vacuum(WAVELENGTH))
    assert notes == ["wavelengths are in air, as the file says"]
    assert [str(w.message) for w in recwarn] == []


def test_damaged_votable():
    """One that is cut off says so."""
    Table({"wavelength": WAVELENGTH * u.nm, "flux": FLUX}).write("a.vot", format="votable")
    with open("a.vot") as file:
        text = file.read()
    with open("b.vot", "w") as file:
        file.write(text[: len(text) // 2])
    with pytest.raises(InputValueError, match=r"b.vot: its VOTable cannot be read \(.*no element found\)"):
        read_stars("b.vot")


def test_html_is_no_table():
    """Tables in web pages are not looked for."""
    with open("a.dat", "w") as file:
        file.write("<html><table><tr><td>1</td><td>2</td></tr><tr><td>3</td><td>4</td></tr></table></html>")
    with pytest.raises(InputValueError, match="neither FITS nor a table of numbers"):
        read_stars("a.dat", wavelength_unit="nm")


@pytest.mark.parametrize("unit", [True, False])
def test_tables_of_arms(unit):
    """All spectral tables of a file are merged where they are of one star; beside sums the exposures are not."""
    names = {"wavelength": WAVELENGTH, "flux": FLUX, "ivar": SIGMA**-2.0}
    units = {"wavelength": u.AA, "flux": u.Jy, "ivar": u.Jy**-2} if unit else dict.fromkeys(names, 1)
    hdus = []
    for number, name in enumerate(("COADD_B", "B-1234", "COADD_R", "R-1234")):
        columns = {kind: [values + 900 * (number // 2) * (kind == "wavelength")] for kind, values in names.items()}
        hdus.append(fits.BinTableHDU(Table({kind: some * units[kind] for kind, some in columns.items()}), name=name))
    fits.HDUList([fits.PrimaryHDU(), hdus[0], hdus[2]]).writeto("two.fits")
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto("four.fits")
    told = {"merge_orders": True} | ({} if unit else {"wavelength_unit": "Angstrom"})
    [two], _ = read_stars("two.fits", **told)
    assert (two.wavelength[0], two.wavelength[-1]) == (4000, 5875)
    [four], notes = read_stars("four.fits", **told)
    assert_allclose(four.sigma, two.sigma)
    assert (
        "of its tables HDU 1 COADD_B, HDU 3 COADD_R are read, which are sums of exposures, and not HDU 2 B-1234, "
        "HDU 4 R-1234" in notes
    )


@pytest.mark.parametrize("unit", ["Jy", "Relative Flux"])
def test_axis_without_its_pixel(unit):
    """The wavelengths of an image without CRPIX1 do not depend on what reads it, and are said to be assumed."""
    header = axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", BUNIT=unit)
    del header["CRPIX1"]
    fits.PrimaryHDU(FLUX, header).writeto("a.fits")
    [star], notes = read_stars("a.fits")
    assert_allclose(star.wavelength, WAVELENGTH + 25)
    assert [note for note in notes if note.startswith("no CRPIX1 in its header: 0 is assumed")]


@pytest.mark.parametrize("bunit", ["Jy", "ADU", ""])
@pytest.mark.parametrize(("ctype", "scale"), [("Angstrom", 1), ("ANGSTROMS", 1), ("nm", 0.1)])
def test_unit_as_the_name_of_the_axis(ctype, scale, bunit):
    """CTYPE1 may be the unit, as of HARPS; a unit that is given changes nothing there."""
    axis = {"CRVAL1": 4000.0 * scale, "CDELT1": 25.0 * scale, "CTYPE1": ctype, "OBJECT": "HD 1"}
    fits.PrimaryHDU(FLUX, axis_header(**axis, **({"BUNIT": bunit} if bunit else {}))).writeto("a.fits")
    for options in ({}, {"wavelength_unit": "nm" if scale == 0.1 else "Angstrom"}):
        [star], notes = read_stars("a.fits", **options)
        assert_allclose(star.wavelength, WAVELENGTH)
        assert star.identifier == "HD 1"
        assert not [note for note in notes if "wavelength in its header" in note]


@pytest.mark.parametrize(("ctype", "is_read"), [("PIXELS OF X", False), ("Disp", True), ("FREQ", False)])
def test_name_of_the_axis_where_the_unit_is_given(ctype, is_read):
    """With a unit of wavelength any axis is read that is not known to be another."""
    fits.PrimaryHDU(FLUX, axis_header(CTYPE1=ctype)).writeto("a.fits")
    if is_read:
        check(read_stars("a.fits", wavelength_unit="Angstrom"), None)
    else:
        with pytest.raises(InputValueError, match="no wavelength that is understood"):
            read_stars("a.fits", wavelength_unit="Angstrom")


@pytest.mark.parametrize("flux_unit", ["adu", "erg cm**(-2) s**(-1) angstrom**(-1)"])
def test_name_and_medium_of_eso(flux_unit):
    """A table of ESO has the name of its star, and wavelengths in air where its UCD says so."""
    columns = [
        fits.Column("WAVE", f"{N_PIXEL}D", "angstrom", array=WAVELENGTH[None]),
        fits.Column("FLUX", f"{N_PIXEL}D", flux_unit, array=FLUX[None]),
    ]
    for name, ucd in (("air.fits", "em.wl;obs.atmos"), ("vacuum.fits", "em.wl")):
        table = fits.BinTableHDU.from_columns(columns, fits.Header({"TUCD1": ucd}))
        fits.HDUList([fits.PrimaryHDU(header=fits.Header({"OBJECT": "HD 1"})), table]).writeto(name)
        [star], _ = read_stars(name)
        assert (star.identifier, star.medium) == ("HD 1", name.split(".")[0])
        assert_allclose(star.wavelength, air_to_vacuum(WAVELENGTH) if star.medium == "air" else WAVELENGTH)
    assert read_stars("air.fits", medium="vacuum")[0][0].medium == "vacuum"


def test_medium_of_a_plain_table():
    """The UCD counts there, too."""
    hdu = fits.BinTableHDU(Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * DENSITY, "error": SIGMA * DENSITY}))
    hdu.header["TUCD1"] = "em.wl;obs.atmos"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto("a.fits")
    notes = check(read_stars("a.fits"), wavelength=air_to_vacuum(WAVELENGTH))
    assert notes == ["wavelengths are in air, as the file says"]


@pytest.mark.parametrize(
    ("n_byte", "message"),
    [(400, "it is FITS that cannot be read"), (4000, "no data in it can be read"), (8640, "HDU 1 cannot be read")],
)
def test_files_that_are_cut_off(n_byte, message):
    """A file that is cut off says so, and gives no lines of Python that would fail as well."""
    Table({"wavelength": np.arange(5000) * u.AA, "flux": np.ones(5000) * u.Jy}).write("a.fits")
    with open("a.fits", "rb") as file:
        data = file.read()
    for name, part in (("b.fits", data[:n_byte]), ("b.fits.gz", gzip.compress(data)[: n_byte // 8])):
        with open(name, "wb") as file:
            file.write(part)
        with pytest.raises(
            InputValueError, match=f"{message if name == 'b.fits' else ''}.* the file may be cut off"
        ) as e:
            read_stars(name)
        assert "in Python" not in str(e.value)


@pytest.mark.parametrize(("name", "sign"), [("a.txt", " "), ("a.csv", ",")])
def test_lines_of_different_lengths(name, sign):
    """The line that is too short is told."""
    with open(name, "w") as file:
        file.write("wave flux err\n4000 1 0.1\n4001 1\n4002 1 0.1 3\n".replace(" ", sign))
    with pytest.raises(
        InputValueError, match=r"its table cannot be read \(Number of header columns .* in data line [12]\)"
    ):
        read_stars(name, wavelength_unit="nm")


def test_what_the_system_refuses(monkeypatch):
    """A file that cannot be opened says why."""
    np.savetxt("a.txt", np.stack([WAVELENGTH, FLUX], axis=1))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "a.txt")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputValueError, match=r"^a.txt: it cannot be read: Permission denied$"):
        read_stars("a.txt")


BAD = [3, 7, 20]


def bits(bad=1, n_pixel=N_PIXEL, kind="i4"):
    """Return a mask with a bit at some pixels."""
    mask = np.full(n_pixel, 1 - bad, dtype=kind)
    mask[BAD] = bad
    return mask


@pytest.mark.parametrize("bunit", [{}, {"BUNIT": "adu"}])
@pytest.mark.parametrize("errors", ["STD", "ERR"])
@pytest.mark.parametrize("name", ["MASK", "DQ", "QUAL", "QUALITY", "FLAGS", "BPM"])
def test_mask_of_an_image(name, errors, bunit):
    """The mask beside the errors of an image is read, whatever these are called."""
    header = axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", **bunit)
    hdus = [fits.PrimaryHDU(FLUX, header), fits.ImageHDU(SIGMA, name=errors), fits.ImageHDU(bits(), name=name)]
    fits.HDUList(hdus).writeto("a.fits")
    [star], notes = read_stars("a.fits")
    assert np.flatnonzero(~star.good).tolist() == BAD
    assert star.has_sigma
    assert f"mask of HDU 0 is that in {name}" in notes
    assert read_stars("a.fits", mask_policy="sdss_boss")[0][0].good.all()


def test_mask_of_an_axis_that_specutils_knows():
    """Errors and mask are read there, too."""
    header = axis_header(CTYPE1="WAVE-LOG", CUNIT1="Angstrom", BUNIT="adu")
    hdus = [fits.PrimaryHDU(FLUX, header), fits.ImageHDU(SIGMA, name="SIGMA"), fits.ImageHDU(bits(), name="QUAL")]
    fits.HDUList(hdus).writeto("a.fits")
    [star], notes = read_stars("a.fits")
    assert_allclose(star.wavelength, 4000 * np.exp(25 / 4000 * np.arange(N_PIXEL)))
    assert np.flatnonzero(~star.good).tolist() == BAD
    assert_allclose(star.sigma, SIGMA)
    assert notes == ["errors of HDU 0 are those in SIGMA", "mask of HDU 0 is that in QUAL"]


@pytest.mark.parametrize("extension", ["csv", "fits"])
@pytest.mark.parametrize("name", ["mask", "dq", "QUALITY", "qual", "flag", "flags", "bad", "bpm", "bad_pix", "mask_1"])
def test_mask_of_a_table(name, extension):
    """Columns that are zero where a pixel is good are masks."""
    Table({"wavelength_nm": WAVELENGTH / 10, "flux": FLUX, name: bits()}).write(f"a.{extension}")
    [star], notes = read_stars(f"a.{extension}")
    assert np.flatnonzero(~star.good).tolist() == BAD
    assert f"mask in {name!r}" in notes[0]
    # as pandas writes booleans
    Table({"wavelength_nm": WAVELENGTH / 10, "flux": FLUX, name: bits() == 1}).write(f"b.{extension}")
    assert np.flatnonzero(~read_stars(f"b.{extension}")[0][0].good).tolist() == BAD


@pytest.mark.parametrize(
    ("name", "values", "note"),
    [
        ("or_mask", bits(), "column 'or_mask' is not used; if it is a mask, give it as mask="),
        ("good", bits(0), "column 'good' is not used; if it is a mask, give it as mask="),
        ("quality", np.linspace(0, 1, N_PIXEL), "mask 'quality' is not used: it does not hold booleans, or bits"),
        ("flag", ["ok"] * N_PIXEL, "mask 'flag' is not used: it does not hold booleans, or bits"),
        (
            "mask",
            np.zeros((N_PIXEL, 3), "i4"),
            "mask 'mask' is not used: its shape (40, 3) does not fit the flux",
        ),
    ],
)
def test_mask_that_is_not_used(name, values, note):
    """What may be something else is left out, and that is said."""
    Table({"wavelength_nm": WAVELENGTH / 10, "flux": FLUX, name: values}).write("a.fits")
    notes = check(read_stars("a.fits"), None)
    assert [one for one in notes if one.startswith(note)]


def test_mask_the_wrong_way_round():
    """That of PypeIt is turned round; another one that leaves out more than half of the pixels is told."""
    hdu = fits.BinTableHDU(Table({"wave": WAVELENGTH, "flux": FLUX, "ivar": SIGMA**-2.0, "mask": bits(0)}))
    hdu.writeto("a.fits")
    [star], notes = read_stars("a.fits", wavelength_unit="Angstrom")
    assert star.n_good == len(BAD)
    assert "its mask leaves out 92 % of the pixels of a star; if 1 means good in it, invert it" in notes
    notes = read_stars("a.fits", wavelength_unit="Angstrom", mask_policy="sdss_boss")[1]
    assert not [note for note in notes if "invert" in note]
    hdu.header["DMODCLS"] = "OneSpec"
    hdu.writeto("b.fits")
    [star], notes = read_stars("b.fits", wavelength_unit="Angstrom")
    assert np.flatnonzero(~star.good).tolist() == BAD
    assert "'mask' is that of PypeIt, which is 1 where a pixel is good" in notes
    assert not [note for note in notes if "invert" in note]


def image_arms(*names, version=False):
    """Return an image for each name, those with the same first word with the same wavelengths and scale."""
    words = list(dict.fromkeys(name.split("_")[0] for name in names))
    hdus = [fits.PrimaryHDU()]
    for number, name in enumerate(names):
        arm = words.index(name.split("_")[0]) if not version else number // 2
        values = SIGMA * (1 + arm) if "ERR" in name else FLUX
        header = axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", CRVAL1=4000.0 + 900 * arm)
        hdus.append(fits.ImageHDU(values, header, name=name, ver=1 + arm if version else None))
    return fits.HDUList(hdus)


@pytest.mark.parametrize(
    ("names", "version"),
    [
        (("BLUE", "BLUE_ERR", "RED", "RED_ERR"), False),
        (("RED_ERR", "BLUE_FLUX", "BLUE_ERR", "RED_FLUX"), False),
        (("SCI", "ERR", "SCI", "ERR"), True),
    ],
)
def test_arms_in_images(names, version):
    """Images with wavelengths of their own are arms: the first is read, and all are where they are of one star."""
    image_arms(*names, version=version).writeto("a.fits")
    [star], notes = read_stars("a.fits")
    first = 2 if names[0] == "RED_ERR" else 1
    assert [n for n in notes if n.startswith(f"only the spectrum in HDU {first} {names[first - 1]} is read, and not")]
    assert len(star.wavelength) == N_PIXEL
    [star], notes = read_stars("a.fits", merge_orders=True)
    assert_allclose(star.wavelength[[0, -1]], [4000, 5875])
    # the errors of each arm are its own
    ratio = np.median(star.sigma[-15:] / star.sigma[:15])
    assert ratio > 2.5


def test_images_that_are_no_arms():
    """What has the wavelengths of another image, or is called something else, is not merged."""
    hdus = image_arms("ARM_FLUX", "SKY", "MODEL")
    hdus.append(fits.ImageHDU(FLUX, hdus[1].header, name="ARM_FIRST"))
    hdus.writeto("a.fits")
    [star], notes = read_stars("a.fits", merge_orders=True)
    assert len(star.wavelength) == N_PIXEL
    [note] = [note for note in notes if note.startswith("HDU 4 ARM_FIRST, with wavelengths that another image has")]
    # and how to read it
    assert "not read; where they are stars, or exposures of one, read their numbers with astropy.io.fits" in note


@pytest.mark.parametrize("known", [True, False])
def test_wavelengths_in_an_extension(known):
    """Wavelengths pixel by pixel go before those of a header, and need none."""
    header = axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", CRVAL1=4010.0) if known else fits.Header()
    wave = fits.ImageHDU(WAVELENGTH / 10, fits.Header({"BUNIT": "nm"}), name="WAVELENGTH")
    hdus = [fits.PrimaryHDU(FLUX, header), wave, fits.ImageHDU(SIGMA, name="ERR")]
    fits.HDUList(hdus).writeto("a.fits")
    assert "wavelengths are those in HDU 1 WAVELENGTH" in check(read_stars("a.fits"))
    wave.data[3] = 0
    fits.HDUList(hdus).writeto("b.fits")
    [star], notes = read_stars("b.fits")
    assert np.flatnonzero(~star.good).tolist() == [3]
    assert_allclose(np.delete(star.wavelength, 3), np.delete(WAVELENGTH, 3))
    assert "pixels without a wavelength in HDU 1 WAVELENGTH are left out: 1" in notes


@pytest.mark.parametrize("bunit", [{}, {"BUNIT": "adu"}])
@pytest.mark.parametrize(("ctype", "scale"), [("WAVE", 1), ("AWAV", 1), ("WAVE", 1e-10)])
def test_axis_of_fits_without_a_unit(ctype, scale, bunit):
    """Angstrom where it is said, and metres, as the standard has it, where wavelengths are as small as that."""
    axis = {"CRVAL1": 4000 * scale, "CDELT1": 25 * scale, "CTYPE1": ctype}
    fits.PrimaryHDU(FLUX, axis_header(**axis, **bunit)).writeto("a.fits")
    wavelength = air_to_vacuum(WAVELENGTH) if ctype == "AWAV" else WAVELENGTH
    notes = check(read_stars("a.fits"), None, wavelength)
    assert [note for note in notes if "Angstrom is assumed" in note] == notes[: scale == 1]


def test_part_of_a_multispec_image():
    """What was cut or binned by IRAF keeps the wavelengths of the pixels that it had."""
    told = multispec("1 1 0 4000. 25. 40 0. 1. 2.") | {"CTYPE1": "MULTISPE"}
    cut = fits.Header(told | {"LTV1": -4.0, "LTM1_1": 1.0})
    fits.PrimaryHDU(FLUX[4:], cut).writeto("a.fits")
    assert_allclose(read_stars("a.fits")[0][0].wavelength, WAVELENGTH[4:])
    fits.PrimaryHDU(FLUX[::2], fits.Header(told | {"LTV1": 0.25, "LTM1_1": 0.5})).writeto("b.fits")
    assert_allclose(read_stars("b.fits")[0][0].wavelength, WAVELENGTH[::2] + 12.5)
    told = multispec("1 1 2 4000. 25. 40 0. 1. 2. 1. 0. 2 1 1 40 4500 500") | {"CTYPE1": "MULTISPE"}
    fits.PrimaryHDU(FLUX[4:], fits.Header(told | {"LTV1": -4.0})).writeto("c.fits")
    with pytest.raises(InputValueError, match="cut or binned after its wavelengths were calibrated"):
        read_stars("c.fits")


@pytest.mark.parametrize("extension", ["fits", "ecsv"])
def test_logarithmic_units(extension):
    """Logarithms of wavelengths are read, those of fluxes are refused, in the file or given."""
    table = Table({"wave": np.log10(WAVELENGTH / 10), "flux": FLUX})
    table.write("a.csv")
    assert "wavelengths are logarithms, in dex(nm)" in check(read_stars("a.csv", wavelength_unit="dex(nm)"), None)
    message = r"the flux is in 'mag\(AB\)', which is logarithmic; give it in a linear unit"
    with pytest.raises(InputValueError, match=message):
        read_stars("a.csv", wavelength_unit="nm", flux_unit="mag(AB)")
    if extension == "ecsv":
        table["wave"].unit = u.dex(u.nm)
        table.write("a.ecsv")
        check(read_stars("a.ecsv"), None)
        table["flux"].unit = u.ABmag
        table.write("b.ecsv")
        with pytest.raises(InputValueError, match=message):
            read_stars("b.ecsv")
    table = Table({"loglam": np.log10(WAVELENGTH), "flux": FLUX})
    table["loglam"].unit = u.dex(u.AA)
    table.write(f"c.{'ecsv' if extension == 'ecsv' else 'txt'}", format="ascii.ecsv")
    check(read_stars(f"c.{'ecsv' if extension == 'ecsv' else 'txt'}"), None)


ROWS = [f"{at:.8g} {flux:.9g} {sigma:.9g}\n" for at, flux, sigma in zip(WAVELENGTH, FLUX, SIGMA, strict=True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ",wavelength_AA,flux,err\n" + "".join(f"{n},{r.replace(' ', ',')}" for n, r in enumerate(ROWS))),
        ("a.csv", ";wave;flux;err\n" + "".join(f"{n};{r.replace(' ', ';')}" for n, r in enumerate(ROWS))),
        *((f"a.{end}", f"{sign} wave flux err\n" + "".join(ROWS)) for end in ("txt", "dat") for sign in ";%!"),
        ("a.txt", "! a star\n! seen by me\n" + "".join(ROWS)),
        (
            "a.txt",
            "".join(f"{a:.8E} {b:.9E} {c:.9E}\n" for a, b, c in zip(WAVELENGTH, FLUX, SIGMA, strict=True)).replace(
                "E", "D"
            ),
        ),
        ("a.txt", "wave flux err\n" + "".join(ROWS).replace("4000 ", "4.d+03 ")),
    ],
)
def test_text_of_other_kinds(name, text):
    """The index of pandas, comments of other programs and exponents of Fortran are understood."""
    with open(name, "w") as file:
        file.write(text)
    check(read_stars(name, wavelength_unit="Angstrom"))


@pytest.mark.parametrize("start", ["40 2\n", "40\n", "*** a star\n 40 2\n", "# a star\n40, 3\n"])
def test_number_of_pixels_in_a_line(start):
    """A line with their number before those of the pixels is told, and not taken for one."""
    with open("a.dat", "w") as file:
        file.write(start + "".join(ROWS))
    message = f"line {start.count(chr(10))} is the number of its pixels: delete the lines up to this one"
    with pytest.raises(InputValueError, match=message):
        read_stars("a.dat", wavelength_unit="Angstrom")


def test_lines_of_python_for_a_votable():
    """The lines read the table as what it is."""
    Table({"a": WAVELENGTH, "b": FLUX}).write("a.vot", format="votable")
    with pytest.raises(InputValueError, match=r"t = Table.read\('a.vot', format='votable'\)") as error:
        read_stars("a.vot")
    assert "specutils" not in str(error.value)


@pytest.mark.parametrize("descending", [False, True])
def test_orders_end_to_end(descending):
    """Orders one after the other in a table are not to be sorted, and are split where they are to be merged."""
    sign = -1 if descending else 1
    axes = [(WAVELENGTH + 900 * order)[::sign] for order in range(3)][::-sign]
    text = "".join(f"{at} {flux} 0.01\n" for axis in axes for at, flux in zip(axis, FLUX, strict=True))
    with open("a.txt", "w") as file:
        file.write(text)
    with pytest.raises(InputValueError, match="wavelengths step back 2 times, .* with merge_orders=True") as error:
        read_stars("a.txt", wavelength_unit="Angstrom")
    assert "sort" not in str(error.value)
    [star], notes = read_stars("a.txt", wavelength_unit="Angstrom", merge_orders=True)
    assert_allclose(star.wavelength[[0, -1]], [4000, 6775])
    assert "its wavelengths step back 2 times: read as 3 orders" in notes


@pytest.mark.parametrize("extension", ["fits", "ecsv", "csv"])
@pytest.mark.parametrize("name", ["source_id", "SOURCE_ID", "identifier", "TARGETID", "OBJECT", "name"])
def test_names_of_stars(name, extension):
    """A column of names, or a word in what a table says of itself, names its stars."""
    rows = Table({name: [5853418002145112704, 7], "wavelength": [WAVELENGTH] * 2 * u.AA, "flux": [FLUX] * 2})
    if extension != "csv":
        rows.write(f"a.{extension}")
        assert [star.identifier for star in read_stars(f"a.{extension}")[0]] == ["5853418002145112704", "7"]
        rows[:1].write(f"one.{extension}")
        assert read_stars(f"one.{extension}")[0][0].identifier == "5853418002145112704"
    one = Table({"wavelength_nm": WAVELENGTH / 10, "flux": FLUX, name: ["HD 1"] * N_PIXEL})
    one.write(f"b.{extension}")
    assert read_stars(f"b.{extension}")[0][0].identifier == "HD 1"
    # NAME in a header may be that of anything
    if extension != "csv" and len(name) < 9 and name != "TARGETID" and (extension, name) != ("fits", "name"):
        one.remove_column(name)
        one.meta[name] = "HD 2"
        one.write(f"c.{extension}")
        assert read_stars(f"c.{extension}")[0][0].identifier == "HD 2"


def test_one_row_of_variable_length():
    """Arrays of variable length are read where there is one row of them."""
    columns = [
        fits.Column(name, "PD()", unit, array=np.array([values], dtype=object))
        for name, unit, values in (("wavelength", "Angstrom", WAVELENGTH), ("flux", "Jy", FLUX), ("error", "Jy", SIGMA))
    ]
    columns.append(fits.Column("source_id", "K", array=[11]))
    fits.BinTableHDU.from_columns(columns).writeto("a.fits")
    [star], _ = read_stars("a.fits")
    assert star.identifier == "11"
    assert_allclose(star.sigma / star.flux, SIGMA / FLUX)


def test_names_that_are_missing():
    """Who has no name has its number."""
    rows = Table({"name": ["HD 1", ""], "wavelength": [WAVELENGTH] * 2 * u.AA, "flux": [FLUX] * 2})
    rows.write("a.fits")
    assert [star.identifier for star in read_stars("a.fits")[0]] == ["HD 1", "1"]


def test_threads():
    """Eight threads find what one does, and leave the warnings of the process as they are."""
    Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * u.Jy}).write("a.fits")
    with open("a.fits", "rb") as file:
        whole = file.read()
    with open("b.fits", "wb") as file:
        # the data are whole, and their block is not
        file.write(whole[:-1000])
    names = ["a.fits", "b.fits"] * 4
    alone = [read_stars(name)[1] for name in names]
    assert "the file may be cut off" in alone[1][-1]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        together = [notes for _, notes in pool.map(read_stars, names)]
    assert together == alone
    assert warnings.filters == before


@pytest.mark.parametrize("named", [True, False])
def test_rows_of_different_lengths(tmp_path, named):
    """A table of FITS with a row a star may have as many pixels in each row as it likes, or orders of one star."""
    lengths = (30, 40, 35)
    wavelength = [np.linspace(4000.0 + 10 * n, 5000.0 + 10 * n, n) for n in lengths]
    columns = [
        fits.Column("WAVE", "PD()", array=np.array(wavelength, dtype=object), unit="Angstrom"),
        fits.Column("FLUX", "PE()", array=np.array([w / 4500 for w in wavelength], dtype=object)),
        fits.Column("ERR", "PE()", array=np.array([np.full(len(w), 0.01) for w in wavelength], dtype=object)),
    ]
    columns += [fits.Column("OBJECT", "1A", array=["a", "b", "c"])] if named else []
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "stars.fits")
    stars = read_spectra(tmp_path / "stars.fits", notes=[])
    assert [star.identifier for star in stars] == (["a", "b", "c"] if named else ["0", "1", "2"])
    assert [len(star.wavelength) for star in stars] == [*lengths]
    for star, expected in zip(stars, wavelength, strict=True):
        np.testing.assert_allclose(star.flux, expected / 4500, rtol=1e-6)
        np.testing.assert_allclose(star.sigma, 0.01)
    [merged] = read_spectra(tmp_path / "stars.fits", merge_orders=True, notes=[])
    assert merged.wavelength[0] == wavelength[0][0]
    assert merged.wavelength[-1] == wavelength[1][-1]


def write_image(name, flux, **extensions):
    """Write an image with a linear axis and its extensions by name; those of a tuple have a unit, too."""
    hdus = [fits.PrimaryHDU(flux, axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", BUNIT="Jy"))]
    for key, values in extensions.items():
        values, unit = values if isinstance(values, tuple) else (values, "")
        hdus.append(fits.ImageHDU(values, fits.Header({"BUNIT": unit} if unit else {}), name=key))
    fits.HDUList(hdus).writeto(name)


@pytest.mark.parametrize("name", ["WAVE_ERR", "ERR_WAVE", "SIGMA_LAMBDA", "LOGLAM_VAR", "WAVELENGTH_ERROR"])
def test_errors_of_wavelengths(name):
    """Errors and masks of wavelengths are not those of the flux, nor wavelengths."""
    write_image("a.fits", FLUX, **{name: np.full(N_PIXEL, 0.02), "FLUX_ERR": SIGMA, "WAVE_MASK": bits()})
    [star], notes = read_stars("a.fits")
    assert_allclose(star.sigma / star.flux, SIGMA / FLUX)
    assert notes == ["errors of HDU 0 are those in FLUX_ERR"]


def test_numbers_of_columns():
    """TOPCAT numbers the columns of what it joins: errors of the second table are no squares, nor of the first flux."""
    columns = {"wavelength_nm": WAVELENGTH / 10, "flux": FLUX, "err_2": SIGMA}
    Table(columns).write("a.csv")
    notes = check(read_stars("a.csv"), None)
    assert "no errors are read; if they are in 'err_2', call them err, var or ivar" in notes
    names = {"err_2": 9 * SIGMA, "flux_2": 9 * FLUX, "wave_1": WAVELENGTH / 10, "flux_1": FLUX, "err_1": SIGMA}
    Table(names).write("b.csv")
    notes = check(read_stars("b.csv", wavelength_unit="nm"))
    assert notes == [
        "read as a table: wavelength in 'wave_1', flux in 'flux_1', standard deviations in 'err_1'",
        RELATIVE,
    ]
    write_image("c.fits", FLUX, ERR_2=SIGMA)
    assert not read_stars("c.fits")[0][0].has_sigma


def test_continuum_is_no_error():
    """A unit tells neither errors nor, beside a name of something else, the flux or the wavelength."""
    names = {"lsf": np.ones(N_PIXEL) * u.AA, "lambda_obs": WAVELENGTH * u.AA}
    names |= {"continuum": 2 * FLUX * DENSITY, "intensity": FLUX * DENSITY}
    Table(names).write("a.fits")
    notes = check(read_stars("a.fits"), None)
    assert notes[1:] == ["'intensity' and 'lambda_obs' by the unit, not by the name"]
    del names["intensity"]
    for extension in ("fits", "ecsv"):
        Table(names).write(f"b.{extension}")
        with pytest.raises(InputValueError, match="has the columns lsf, lambda_obs, continuum, of which none is known"):
            read_stars(f"b.{extension}")


@pytest.mark.parametrize("name", ["signal", "function", "fluxes", "sky_err", "variable"])
def test_names_that_are_not_like_errors(name):
    """A column is taken for errors by whole words only, and not where it is in use."""
    columns = {"wavelength_nm": WAVELENGTH / 10, "flux" if name != "fluxes" else "x": FLUX, name: FLUX}
    Table(columns).write("a.csv")
    notes = check(read_stars("a.csv"), None)
    assert not [note for note in notes if "errors" in note]


@pytest.mark.parametrize("unit", ["Jy", ""])
def test_first_errors_that_can_be_used(unit):
    """Errors in a unit, or of a shape, that does not fit leave those that do."""
    table = Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX, "err": 5 * SIGMA, "ivar": SIGMA**-2.0})
    table["flux"].unit = unit or None
    table["err"].unit = "%"
    table.write("a.fits")
    [star], notes = read_stars("a.fits")
    assert_allclose(star.sigma / star.flux, SIGMA / FLUX)
    assert "errors in 'err' are not used: their unit does not fit the flux" in notes
    assert not [note for note in notes if "'ivar' is not used" in note or "no errors" in note]
    # what fits goes on in the order of its kinds
    table["err"] = SIGMA
    table.write("b.fits")
    [star], notes = read_stars("b.fits")
    assert_allclose(star.sigma / star.flux, SIGMA / FLUX)
    assert "errors are those in 'err'; 'ivar' is not used" in notes


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_errors_of_another_shape_in_a_table(shape):
    """They are left out by their name, and cost no file."""
    columns = {"wavelength": [WAVELENGTH] * 5 * u.AA, "flux": [FLUX] * 5 * u.Jy, "var": np.ones(shape) * u.Jy**2}
    Table(columns).write("a.fits")
    stars, notes = read_stars("a.fits")
    assert len(stars) == 5
    assert notes == [f"errors in 'var' are not used: its shape {shape} does not fit the flux"]
    columns["ivar"] = [SIGMA**-2.0] * 5 * u.Jy**-2
    Table(columns).write("b.fits")
    assert_allclose(read_stars("b.fits")[0][4].snr, read_stars("b.fits")[0][0].snr)
    assert all(star.has_sigma for star in read_stars("b.fits")[0])


@pytest.mark.parametrize("name", ["ERR", "VAR", "MASK"])
def test_extensions_of_one_row(name):
    """Errors and a mask of one row are those of all rows, which is said."""
    values = {"ERR": SIGMA, "VAR": SIGMA[None] ** 2, "MASK": bits()}[name]
    write_image("a.fits", np.stack([FLUX] * 3), **{name: values})
    stars, notes = read_stars("a.fits")
    assert len(stars) == 3
    for star in stars:
        if name == "MASK":
            assert np.flatnonzero(~star.good).tolist() == BAD
        else:
            assert_allclose(star.sigma / star.flux, SIGMA / FLUX)
    assert f"{'mask ' * (name == 'MASK')}{name!r} is of one spectrum, and taken for all 3" in notes


@pytest.mark.parametrize("name", ["ERR", "MASK"])
def test_extensions_of_another_shape(name):
    """What belongs to an image by its name, and does not fit, is named; the next that fits is used."""
    write_image("a.fits", FLUX, **{name: np.ones((2, N_PIXEL), "i4")})
    [star], notes = read_stars("a.fits")
    assert star.good.all()
    assert not star.has_sigma
    called = {"ERR": "errors in 'ERR' are", "MASK": "mask 'MASK' is"}[name]
    assert notes == [f"{called} not used: its shape (2, 40) does not fit the flux"]
    write_image("b.fits", FLUX, ERR=np.ones((2, N_PIXEL)), IVAR=SIGMA**-2.0, MASK=np.ones((3, 2)), DQ=bits())
    [star], notes = read_stars("b.fits")
    assert np.flatnonzero(~star.good).tolist() == BAD
    assert_allclose((star.sigma / star.flux)[star.good], np.delete(SIGMA / FLUX, BAD))


def test_unit_of_errors_in_an_extension():
    """Errors are brought to the unit of the flux there, too; that of the flux is what many headers repeat."""
    for name, errors in {"a": (1e3 * SIGMA, "mJy"), "b": (SIGMA, "Jy"), "c": (SIGMA, "")}.items():
        write_image(f"{name}.fits", FLUX, ERR=errors)
        [star], _ = read_stars(f"{name}.fits")
        assert_allclose(star.sigma / star.flux, SIGMA / FLUX)
    write_image("d.fits", FLUX, IVAR=(SIGMA**-2.0, "Jy"))
    assert_allclose(read_stars("d.fits")[0][0].sigma, star.sigma)
    for name, unit in (("e.fits", "percent"), ("f.fits", "mag(AB)")):
        write_image(name, FLUX, ERR=(SIGMA, unit))
        [star], notes = read_stars(name)
        assert not star.has_sigma
        assert notes == ["errors in 'ERR' are not used: their unit does not fit the flux"]


def test_first_line_that_is_no_number_of_pixels():
    """A wavelength that is as large as the number of pixels after it is one."""
    with open("a.dat", "w") as file:
        file.writelines(f"{at} {1500 + at % 7}\n" for at in range(400, 801))
    [star], _ = read_stars("a.dat", wavelength_unit="nm")
    assert_allclose(star.wavelength[[0, -1]], [4000, 8000])


@pytest.mark.parametrize(("false", "true"), [("false", "true"), ("FALSE", "TRUE"), ("False", "True")])
def test_masks_in_words(false, true):
    """Booleans of any program are read."""
    with open("a.csv", "w") as file:
        file.write("wavelength_nm,flux,mask\n")
        rows = zip(WAVELENGTH / 10, FLUX, bits(), strict=True)
        file.writelines(f"{at},{flux},{true if bad else false}\n" for at, flux, bad in rows)
    assert np.flatnonzero(~read_stars("a.csv")[0][0].good).tolist() == BAD


def write_numbers(name, *start, columns=3):
    """Write lines of text, and numbers after them."""
    rows = np.stack([WAVELENGTH, FLUX, SIGMA][:columns], axis=1)
    np.savetxt(name, rows, header="\n".join(start), comments="")


@pytest.mark.parametrize("sign", "#!%;")
@pytest.mark.parametrize(
    "words", ["wavelength vs flux", "normalized flux spectrum", "made by x", "error of flux", "flux versus wavelength"]
)
def test_comments_that_are_no_names(sign, words):
    """Words of a comment are no names of columns, though they may be as many."""
    write_numbers("a.txt", f"{sign} {words}")
    notes = check(read_stars("a.txt", wavelength_unit="Angstrom"))
    assert notes[0].startswith("read as a table: wavelength in 'col1', flux in 'col2', standard deviations in 'col3'")


@pytest.mark.parametrize("sign", "#!%;")
def test_names_in_a_comment(sign):
    """Names of columns stand in any of the comments."""
    np.savetxt(
        "a.txt",
        np.stack([SIGMA, FLUX, WAVELENGTH / 10], axis=1),
        header=f"{sign} made by x\n{sign} err, flux, lambda_nm\n{sign} Jy Jy nm",
        comments="",
    )
    check(read_stars("a.txt"))


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("first", ["; made by x", "! a b c d e", "# a,b"])
def test_lines_of_python_for_text_with_comments(bom, first):
    """The code in the message reads the file that it is about."""
    rows = np.stack([WAVELENGTH, FLUX, SIGMA, SIGMA, SIGMA], axis=1)
    np.savetxt("a.txt", rows, header=f"{bom}{first}", comments="", encoding="utf-8")
    with pytest.raises(InputValueError, match="the columns col1, col2") as error:
        read_stars("a.txt")
    scope = {}
    exec(str(error.value).partition("in Python: ")[2].partition("; stars")[0], scope)
    assert_allclose(scope["t"]["col1"], WAVELENGTH)


def test_csv_of_excel():
    """A mark of the order of bytes belongs to no name."""
    rows = "\n".join(f"{w / 10},{f},{s}" for w, f, s in zip(WAVELENGTH, FLUX, SIGMA, strict=True))
    with open("a.csv", "w", encoding="utf-8-sig") as opened:
        opened.write(f"wavelength_nm,flux,error\n{rows}\n")
    check(read_stars("a.csv"))


@pytest.mark.parametrize("name", ["best.fit.txt", "a.fits.dat"])
def test_fit_in_the_name(name):
    """Only the end of a name tells FITS."""
    write_numbers(name)
    check(read_stars(name, wavelength_unit="Angstrom"))


@pytest.mark.parametrize("gone", [np.nan, 0.0])
@pytest.mark.parametrize("merge", [True, False])
def test_orders_with_padding(gone, merge):
    """Pixels without a wavelength are left out, and no header that counts pixels is used for them."""
    wavelength = np.stack([WAVELENGTH, WAVELENGTH + 1100])
    wavelength[0, :3] = wavelength[1, -2:] = gone
    primary = fits.PrimaryHDU(np.stack([FLUX, FLUX]), fits.Header({"CRVAL1": 1.0, "CDELT1": 1.0, "CRPIX1": 1.0}))
    wave = fits.ImageHDU(wavelength, name="WAVE")
    wave.header["BUNIT"] = "Angstrom"
    fits.HDUList([primary, wave]).writeto("a.fits")
    stars, notes = read_stars("a.fits", merge_orders=merge)
    assert "pixels without a wavelength in HDU 1 WAVE are left out: 5" in notes
    if merge:
        [star] = stars
        assert star.good.sum() == 2 * N_PIXEL - 5
        assert star.wavelength[star.good].min() == WAVELENGTH[3]
        return
    assert [star.good.sum() for star in stars] == [N_PIXEL - 3, N_PIXEL - 2]
    assert_allclose(stars[0].wavelength[3:], WAVELENGTH[3:], rtol=1e-12)
    assert not stars[0].good[:3].any()


@pytest.mark.parametrize("values", [np.ones((2, N_PIXEL)), np.zeros(N_PIXEL), np.full(N_PIXEL, np.nan)])
def test_wavelengths_in_an_extension_that_cannot_be_used(values):
    """A header is no replacement."""
    write_image("a.fits", FLUX, WAVE=values)
    with pytest.raises(InputValueError, match="HDU 1 WAVE cannot be used: (its shape|no wavelength)"):
        read_stars("a.fits")


def test_names_that_are_not_of_stars():
    """Tables of services, and keywords of instruments, have names of their own."""
    table = Table({"wavelength": WAVELENGTH / 10 * u.nm, "flux": FLUX})
    votable = from_table(table)
    element = votable.resources[0].tables[0]
    element.ID, element.name = "table1", "ssap_results"
    votable.to_xml("a.vot")
    assert read_stars("a.vot")[0][0].identifier == "0"
    fits.PrimaryHDU(FLUX, axis_header(LABEL="Flux", NAME="reduced", CUNIT1="Angstrom")).writeto("a.fits")
    assert read_stars("a.fits")[0][0].identifier == "0"


def test_coordinates_in_a_table():
    """Columns that are no numbers are no hindrance; UCDs go by the columns of the file."""
    from astropy.coordinates import SkyCoord

    table = Table({"coord": SkyCoord([1, 2] * u.deg, [3, 4] * u.deg)})
    table["wavelength"], table["flux"] = np.tile(WAVELENGTH, (2, 1)) * u.AA, np.tile(FLUX, (2, 1))
    table.write("a.fits")
    with fits.open("a.fits", mode="update") as hdus:
        names = hdus[1].columns.names
        hdus[1].header[f"TUCD{names.index('wavelength') + 1}"] = "em.wl;obs.atmos"
    stars, notes = read_stars("a.fits")
    assert "wavelengths are in air, as the file says" in notes
    assert_allclose(stars[1].wavelength, air_to_vacuum(WAVELENGTH))
    table.write("a.ecsv")
    assert len(read_stars("a.ecsv")[0]) == 2


@pytest.mark.parametrize("unit", [None, "nm"])
def test_natural_logarithms(unit):
    """Logarithms that cannot be log10 are refused, in tables and extensions."""
    scale = 0.1 if unit else 1
    Table({"loglam": np.log(scale * WAVELENGTH), "flux": FLUX}).write("a.fits")
    write_image("b.fits", FLUX, LOGLAM=np.log(WAVELENGTH))
    with pytest.raises(InputValueError, match=f"'loglam' .* as a natural logarithm one of {4975 * scale:g} "):
        read_stars("a.fits", wavelength_unit=unit)
    with pytest.raises(InputValueError, match=r"LOGLAM .* natural logarithm one of 4975 Angstrom"):
        read_stars("b.fits")


@pytest.mark.parametrize("variable", ["FLUX", "WAVE", "both"])
def test_rows_of_variable_length_beside_others(variable):
    """Columns of variable and of fixed length go together, row by row."""

    def column(name, values, unit=None):
        rows = np.empty(2, dtype=object)
        rows[:] = [values, values]
        if variable in (name, "both"):
            return fits.Column(name, format="PD()", unit=unit, array=rows)
        return fits.Column(name, format=f"{N_PIXEL}D", unit=unit, array=np.stack([*rows]))

    columns = [column("WAVE", WAVELENGTH, "Angstrom"), column("FLUX", FLUX), column("ERR", SIGMA)]
    fits.BinTableHDU.from_columns(columns).writeto("a.fits")
    stars, notes = read_stars("a.fits")
    assert [star.identifier for star in stars] == ["0", "1"]
    check((stars[1:], notes))


def test_rows_of_lengths_that_do_not_fit():
    """A row whose flux is shorter than its wavelengths is refused, with what to do."""
    rows = np.empty(2, dtype=object)
    rows[:] = [FLUX, FLUX[:-3]]
    columns = [
        fits.Column("WAVE", format=f"{N_PIXEL}D", unit="Angstrom", array=np.stack([WAVELENGTH, WAVELENGTH])),
        fits.Column("FLUX", format="PD()", array=rows),
    ]
    fits.BinTableHDU.from_columns(columns).writeto("a.fits")
    with pytest.raises(InputValueError, match="of 'WAVE' 40 and 'FLUX' 37; cut"):
        read_stars("a.fits")


@pytest.mark.parametrize("unit", ["ADU", "ELECTRONS", "counts", "flam", "1E-17 erg/s/cm^2/Ang"])
@pytest.mark.parametrize(
    ("name", "form", "errors"),
    [
        ("ERR", "{}", SIGMA),
        ("ERR", " {} ", SIGMA),
        ("VAR", "({})^2", SIGMA**2),
        ("IVAR", "1/({})^2", SIGMA**-2),
        ("IVAR", "({})**-2", SIGMA**-2),
    ],
)
def test_errors_in_a_unit_that_nobody_knows(unit, name, form, errors):
    """Errors are in the unit of the flux where they are said to be, whether or not astropy knows it."""
    columns = [
        fits.Column("WAVE", "D", "Angstrom", array=WAVELENGTH),
        fits.Column("FLUX", "D", unit, array=FLUX),
        fits.Column(name, "D", form.format(unit.lower()), array=errors),
    ]
    fits.BinTableHDU.from_columns(columns).writeto("a.fits")
    assert check(read_stars("a.fits")) == []


def test_errors_in_other_units_that_nobody_knows():
    """Errors in another unit than the flux are left out; units that are known go by their capitals."""
    for number, (unit, own) in enumerate((("counts", "ADU"), ("Jy", "flam"), ("mJy", "MJy"))):
        columns = [
            fits.Column("WAVE", "D", "Angstrom", array=WAVELENGTH),
            fits.Column("FLUX", "D", unit, array=FLUX),
            fits.Column("ERR", "D", own, array=SIGMA),
        ]
        fits.BinTableHDU.from_columns(columns).writeto(f"{number}.fits")
        [star], notes = read_stars(f"{number}.fits")
        if unit != "mJy":
            assert notes == ["errors in 'ERR' are not used: their unit does not fit the flux"]
        else:
            assert_allclose(star.sigma / star.flux, 1e9 * SIGMA / FLUX)


@pytest.mark.parametrize(
    ("names", "options", "lines"),
    [
        ("pixel,wave,inten,err", {}, "stars = from_arrays(t['wave'], t['the column of flux'], sigma=t['err']);"),
        (
            "pixel,x,flux,ivar",
            {"wavelength_unit": "nm"},
            "t['the column of wavelength'].unit = 'nm'; "
            "stars = from_arrays(t['the column of wavelength'], t['flux'], ivar=t['ivar']);",
        ),
        ("a,b,c,d", {}, "from_arrays(t['the column of wavelength'], t['the column of flux'], sigma=None);"),
        (
            "Wavelength_air (nm),inten,mask,var",
            {},
            "t['Wavelength_air (nm)'].unit = 'nm'; stars = from_arrays(t['Wavelength_air (nm)'], "
            "t['the column of flux'], sigma=t['var'] ** 0.5, mask=t['mask'], medium='air');",
        ),
        (
            "loglam,x,y,z",
            {"wavelength_unit": "nm"},
            "from astropy import units as u; stars = from_arrays(10 ** t['loglam'] * u.Unit('nm'), t['the column of",
        ),
    ],
)
def test_lines_of_python_have_the_columns_that_are_known(names, options, lines):
    """What is known is filled in, with its unit; the rest is left to the reader."""
    np.savetxt("a.csv", np.stack([FLUX] * 4, axis=1), delimiter=",", header=names, comments="")
    with pytest.raises(InputValueError) as error:
        read_stars("a.csv", **options)
    assert lines in str(error.value)
    missing = [what for what in ("wavelength", "flux") if f"t['the column of {what}']" in str(error.value)]
    assert f"of which none is known to be {', or '.join(missing)}; in Python" in str(error.value)


@pytest.mark.parametrize("comment", ["", "# a star\n"])
def test_lines_of_python_run(comment):
    """Once the reader has named the flux, the lines give the spectrum."""
    header = f"{comment}Wavelength_air (nm)  inten (foo)  err"
    np.savetxt("a.dat", np.stack([WAVELENGTH / 10, FLUX, SIGMA], axis=1), header=header, comments="")
    with pytest.raises(InputValueError) as error:
        read_stars("a.dat")
    lines = str(error.value).partition("in Python: ")[2].partition("; fm.infer")[0]
    found = {}
    exec(lines.replace("the column of flux", "inten (foo)"), found)  # noqa: S102
    check((found["stars"], []), wavelength=air_to_vacuum(WAVELENGTH))


def test_units_of_astropy():
    """A unit may be given as one."""
    Table({"wave": WAVELENGTH / 10, "flux": FLUX, "err": SIGMA}).write("a.csv")
    [star], notes = read_stars("a.csv", wavelength_unit=u.nm, flux_unit=DENSITY)
    [same], told = read_stars("a.csv", wavelength_unit="nm", flux_unit=str(DENSITY))
    assert_allclose(star.wavelength, WAVELENGTH)
    assert (star.flux_unit, notes) == (same.flux_unit, told)
    Table({"wave": WAVELENGTH * u.AA, "flux": FLUX * u.Jy}).write("b.fits")
    assert read_stars("b.fits", flux_unit=u.one)[1] == ["unit of the flux: 1, as given, and not Jy as in it"]


def test_arguments_of_another_kind():
    """What is neither a path nor a unit is refused in words."""
    Table({"wave": WAVELENGTH, "flux": FLUX}).write("a.csv")
    for path in (["a.csv", "a.csv"], None, 3):
        with pytest.raises(InputTypeError, match=f"path: got {type(path).__name__}, expected the path of one file"):
            read_stars(path)
    with pytest.raises(InputTypeError, match="wavelength_unit: got 5; expected text or a unit, for example 'nm'"):
        read_stars("a.csv", wavelength_unit=5)
    with pytest.raises(InputTypeError, match="flux_unit: got 5; expected text or a unit, for example 'Jy'"):
        read_stars("a.csv", wavelength_unit="nm", flux_unit=5)


IN_AIR = "wavelengths are in air, as the file says"


@pytest.mark.parametrize("extension", ["fits", "csv"])
@pytest.mark.parametrize("name", ["wavelength_air", "lambda_air", "WAVE_AIR", "wl_air_nm", "Air wavelength [nm]"])
def test_air_in_a_name(name, extension):
    """The name of the wavelengths tells their medium, unless the user does."""
    is_nm = "nm" in name
    Table({name: WAVELENGTH * (0.1 if is_nm else 1), "flux": FLUX, "err": SIGMA}).write(f"a.{extension}")
    options = {} if is_nm else {"wavelength_unit": "AA"}
    assert IN_AIR in check(read_stars(f"a.{extension}", **options), wavelength=air_to_vacuum(WAVELENGTH))
    notes = check(read_stars(f"a.{extension}", medium="vacuum", **options))
    assert IN_AIR not in notes
    assert f"wavelengths are in vacuum, as given, and not in air as the name of {name!r} says" in notes
    notes = check(read_stars(f"a.{extension}", medium="air", **options), wavelength=air_to_vacuum(WAVELENGTH))
    assert not [note for note in notes if "in air" in note]


@pytest.mark.parametrize("name", ["wave_vac", "lambda_vac", "vacuum wavelength"])
def test_vacuum_in_a_name(name):
    """Those in vacuum go first, but where air is asked for."""
    Table({"wave_air": WAVELENGTH - 1, "wave": WAVELENGTH - 2, name: WAVELENGTH, "flux": FLUX}).write("a.csv")
    notes = check(read_stars("a.csv", wavelength_unit="AA"), None)
    assert notes[2:] == [f"wavelengths are those in {name!r}, and not in 'wave_air', 'wave'"]
    [star], notes = read_stars("a.csv", wavelength_unit="AA", medium="air")
    assert_allclose(star.wavelength, air_to_vacuum(WAVELENGTH - 1))
    assert notes[2:] == [f"wavelengths are those in 'wave_air', and not in 'wave', {name!r}"]


@pytest.mark.parametrize("comment", ["", "# ", "! ", "# a star\n", "# a star\n# "])
@pytest.mark.parametrize(
    ("wavelength", "flux", "errors", "unit"),
    [
        ("Wavelength (nm)", "flux (erg/(s cm2 A))", "err (erg/s/cm^2/AA)", "erg / (Angstrom s cm2)"),
        ("wave[nm]", "flux[erg/s/cm^2/Ang]", "err[erg/s/cm^2/Ang]", "erg / (Angstrom s cm2)"),
        ("Wavelength (nm)", "Flux (1E-17 erg s-1 cm-2 Angstrom-1)", "Error", "1e-17 erg / (Angstrom s cm2)"),
        ("lambda [nm]", "Flux (counts)", "sigma (Counts)", "counts"),
        ("log_wavelength (nm)", "Flux (normalised)", "sigma", ""),
    ],
)
@pytest.mark.parametrize("sign", [" ", ",", "\t"])
def test_units_in_brackets(wavelength, flux, errors, unit, comment, sign):
    """A unit in brackets after the name of a column is that of the column, with and without a blank before it."""
    values = np.log10(WAVELENGTH / 10) if wavelength.startswith("log") else WAVELENGTH / 10
    lines = [sign.join((wavelength, flux, errors))]
    lines += [sign.join(map(str, row)) for row in zip(values, FLUX, SIGMA, strict=True)]
    with open("a.dat", "w") as file:
        file.write(comment + "\n".join(lines) + "\n")
    found = read_stars("a.dat")
    assert (RELATIVE in check(found)) == ("normalised" in flux)
    assert found[0][0].flux_unit == unit


def test_brackets_that_hold_no_unit():
    """What is in brackets after a flux may say that it is another one; a unit that is not known is told."""
    Table({"wave (nm)": WAVELENGTH / 10, "flux (model)": 2 * FLUX, "flux (2)": 3 * FLUX, "flux": FLUX}).write("a.csv")
    check(read_stars("a.csv"), None)
    Table({"wave (furlongx)": WAVELENGTH, "flux": FLUX}).write("b.csv")
    with pytest.raises(InputValueError, match="'furlongx', which it gives as the unit of its wavelengths"):
        read_stars("b.csv")
    notes = check(read_stars("b.csv", wavelength_unit="AA"), None)
    assert "unit of the wavelength: Angstrom, as given, and not furlongx as in it" in notes


@pytest.mark.parametrize("name", ["rv", "RV (km/s)", "radial_velocity", "VHELIO", "vrad_kms"])
def test_radial_velocity_in_a_table(name):
    """A velocity is never applied by itself, and it is said how to."""
    Table({"wave": WAVELENGTH * u.AA, "flux": FLUX * u.Jy, "err": SIGMA * u.Jy, name: np.full(N_PIXEL, 30.0)}).write(
        "a.ecsv"
    )
    note = "a radial velocity is in column {!r}, and not applied: wavelengths are taken as at rest; where they are as "
    note += "observed, give it as radial_velocity="
    [star], notes = read_stars("a.ecsv")
    assert_allclose(star.wavelength, WAVELENGTH)
    assert notes[1:] == [note.format(name)]
    [star], notes = read_stars("a.ecsv", radial_velocity=30 * u.km / u.s)
    assert star.wavelength[0] < WAVELENGTH[0]
    assert len(notes) == 1
    rows = {"wave": [WAVELENGTH] * 2 * u.AA, "flux": [FLUX] * 2 * u.Jy, name: [30.0, 40.0]}
    Table(rows).write("b.fits")
    assert note.format(name) in read_stars("b.fits")[1]


@pytest.mark.parametrize("extension", ["fits", "ecsv"])
def test_radial_velocity_in_a_header(extension):
    """One that is 0, or an error, is nothing to speak of."""
    table = Table({"wave": WAVELENGTH * u.AA, "flux": FLUX * u.Jy}, meta={"RV": 30.0, "VRAD": 0.0, "RV_ERR": 1.0})
    table.write(f"a.{extension}")
    [note] = read_stars(f"a.{extension}")[1]
    assert note.startswith("a radial velocity is in 'RV' of its header, and not applied")


@pytest.mark.parametrize("third", [FLUX / SIGMA, SIGMA**-2, 1.05 * FLUX, np.zeros(N_PIXEL), -SIGMA])
@pytest.mark.parametrize("level", [1.0, -1.0])
def test_third_column_that_is_no_error(third, level):
    """Without a name, what is as large as the flux is not taken for its error."""
    np.savetxt("a.txt", np.stack([WAVELENGTH, level * FLUX, third], axis=1))
    [star], notes = read_stars("a.txt", wavelength_unit="AA")
    assert not star.has_sigma
    assert notes[0] == "read as a table: wavelength in 'col1', flux in 'col2'"
    assert notes[1].startswith("no errors are read: 'col3' has no name, and is as large as the flux, or not positive")
    np.savetxt("b.txt", np.stack([WAVELENGTH, FLUX, 2 * FLUX], axis=1), header="wave flux err", comments="")
    check(read_stars("b.txt", wavelength_unit="AA"), 2 * FLUX)


NOISE = bytes(np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8)) + b"\0"


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n", r"it is a file of HDF5, which is neither .*d = h5py.File\('a.h5'\); "),
        ("a.pkl", b"\x80\x04", "it is a pickle of Python, which is neither"),
        ("a.idl", b"SR\x00\x04", "it is a file of variables of IDL, .* readsav"),
        ("a.png", b"\x89PNG", "it is a picture .*; if there is a spectrum in it, read that in Python"),
        ("a.dat", b"", "it is binary data of an unknown kind, which is neither"),
        ("a.zip", b"PK\x03\x04", "it is a ZIP archive"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"file_format": "ascii"}, {"wavelength_unit": "nm"}])
@pytest.mark.parametrize("compressed", [True, False])
def test_foreign_files(name, start, message, options, compressed, recwarn):
    """What a file is, and how to go on, is all that is said."""
    with (gzip.open if compressed else open)(name, "wb") as file:
        file.write(start + NOISE)
    with pytest.raises(InputValueError, match=message):
        read_stars(name, **options)
    assert [str(one.message) for one in recwarn.list] == []


def test_foreign_files_of_numpy(recwarn):
    """The arrays in it are named."""
    np.savez("a.npz", wave=WAVELENGTH, flux=FLUX)
    np.save("a.npy", FLUX)
    with pytest.raises(InputValueError, match=r"an archive of arrays of NumPy \(wave, flux\), .*numpy.load\('a.npz'\)"):
        read_stars("a.npz")
    with pytest.raises(InputValueError, match="it is an array of NumPy, which is neither FITS"):
        read_stars("a.npy")
    assert [str(one.message) for one in recwarn.list] == []


def test_text_that_is_not_read(recwarn):
    """Empty files and two bytes a letter are told; compressed text is not called FITS that is damaged."""
    for name, text in (("a.txt", b""), ("b.csv", "wave,flux\n1,2\n".encode("utf-16"))):
        with open(name, "wb") as file:
            file.write(text)
    with gzip.open("c.txt.gz", "wb") as file:
        file.write(b"this is about nothing, and no table\nnone\n" * 100)
    for name, message in (
        ("a.txt", "it is empty$"),
        ("b.csv", "in UTF-16, .*save it as UTF-8"),
        ("c.txt.gz", "neither FITS nor"),
    ):
        with pytest.raises(InputValueError, match=message):
            read_stars(name)
    assert [str(one.message) for one in recwarn.list] == []


def write_text(name, text):
    """Write text, compressed as the name says."""
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(name.rpartition(".")[2], bytes)
    with open(name, "wb") as file:
        file.write(compress(text.encode()))


def rows(sign=" ", columns=(WAVELENGTH, FLUX, SIGMA)):
    """Return numbers as lines of text."""
    return "".join(sign.join(f"{value:.10g}" for value in row) + "\n" for row in zip(*columns, strict=True))


@pytest.mark.parametrize("extension", ["txt", "txt.gz", "txt.bz2", "txt.xz"])
@pytest.mark.parametrize("start", ["# a star\n# wave(A) flux err\n", "; wave(A) flux err\n", "Wave (A) Flux Err\n"])
def test_compressed_text(extension, start):
    """It is read like text that is not compressed; what is cut off is told."""
    name = f"a.{extension}"
    write_text(name, start + rows())
    assert check(read_stars(name))[1:] == [RELATIVE]
    if extension == "txt":
        return
    with open(name, "r+b") as file:
        file.truncate(300)
    with pytest.raises(InputValueError, match="it cannot be read: Compressed file ended"):
        read_stars(name)


def test_compressed_votable():
    """One whose name does not say so is found by what it begins with."""
    path = "a.vot"
    Table({"wavelength": WAVELENGTH / 10 * u.nm, "flux": FLUX}).write(path, format="votable")
    with open(path) as file:
        write_text("b.dat.gz", file.read())
    check(read_stars("b.dat.gz"), None)


@pytest.mark.parametrize("sign", [";", " ; "])
@pytest.mark.parametrize("start", ["", "Wavelength (A);Flux;Err\n", "\ufeffwave(A);flux;err\n", "# wave(A);flux;err\n"])
def test_semicolons(start, sign):
    """They separate columns, with names and without."""
    write_text("a.csv", start + rows(sign))
    check(read_stars("a.csv", wavelength_unit=None if start else "AA"))


def test_lines_of_python_for_semicolons():
    """They can be run."""
    for name, start in (("a.csv", "a;b;c\n"), ("b.csv", "")):
        columns = (WAVELENGTH, FLUX, SIGMA) if start else (WAVELENGTH, FLUX, SIGMA, SIGMA)
        write_text(name, start + rows(";", columns))
        with pytest.raises(InputValueError) as error:
            read_stars(name)
        options = re.search(r"Table\.read\('.*?', format='(.*?)', delimiter=';'\)", str(error.value))
        table = Table.read(name, format=options[1], delimiter=";")
        assert (table.columns[0] == WAVELENGTH).all()


def test_decimal_commas():
    """The message says what they are."""
    write_text("a.csv", "wave;flux\n4000,0;1,0\n4001,0;1,1\n")
    with pytest.raises(InputValueError, match="'wave' .* has '4000,0'; .* after a point, not after a comma$"):
        read_stars("a.csv", wavelength_unit="AA")


@pytest.mark.parametrize(
    "names",
    [
        ("waveobs", "flux", "err"),
        ("wave", "Normalized Flux", "Flux Uncertainty"),
        ("wave", "flux_normalised", "error"),
        ("\u03bb (\u00c5)", "flux", "\u03c3"),
    ],
)
def test_further_names(names):
    """Names of iSpec, those of normalized fluxes, and Greek letters."""
    write_text("a.csv", ",".join(names) + "\n" + rows(","))
    check(read_stars("a.csv", wavelength_unit="AA"))


@pytest.mark.parametrize("name", ["log10_wavelength", "log10(lambda)", "LogLambda"])
def test_names_of_logarithms(name):
    """Their base may be in them."""
    write_text("a.csv", f"{name.replace('(', '_').replace(')', '')},flux\n" + rows(",", (np.log10(WAVELENGTH), FLUX)))
    check(read_stars("a.csv"), None)


def test_wavelengths_that_are_not_read():
    """Those at rest, or of another name, are told."""
    columns = {"wavelength": WAVELENGTH * u.AA, "wavelength_rest": WAVELENGTH, "flux": FLUX}
    Table(columns).write("a.fits")
    assert "wavelengths are those in 'wavelength', and not in 'wavelength_rest'" in check(read_stars("a.fits"), None)


@pytest.mark.parametrize("header", [{"AIRORVAC": "air"}, {"VACUUM": False}, {"WAVETYPE": "Air"}])
@pytest.mark.parametrize("kind", ["image", "image of specutils", "table", "ecsv"])
def test_medium_in_a_header(kind, header):
    """Keywords tell it where nothing else does."""
    name = "a.ecsv" if kind == "ecsv" else "a.fits"
    if kind.startswith("image"):
        bunit = {"BUNIT": "erg/s/cm2/Angstrom"} if "specutils" in kind else {}
        fits.PrimaryHDU(FLUX, axis_header(CTYPE1="WAVE", CUNIT1="Angstrom", **bunit, **header)).writeto(name)
    else:
        Table({"wavelength": WAVELENGTH * u.AA, "flux": FLUX * u.Jy}, meta=header).write(name)
    [star], notes = read_stars(name)
    assert_allclose(star.wavelength, air_to_vacuum(WAVELENGTH))
    assert "wavelengths are in air, as the file says" in notes
    [star], _ = read_stars(name, medium="vacuum")
    assert_allclose(star.wavelength, WAVELENGTH)


def test_medium_in_a_name_goes_first():
    """A header says it of other columns."""
    Table({"wave_vac": WAVELENGTH * u.AA, "flux": FLUX}, meta={"AIRORVAC": "air"}).write("a.fits")
    check(read_stars("a.fits"), None)


@pytest.mark.parametrize("name", ["RELATIVE_ERROR", "INPUT_SIGMA"])
def test_extensions_that_may_be_errors(name):
    """They are told where they are not read."""
    image = fits.PrimaryHDU(FLUX, axis_header(CTYPE1="WAVE", CUNIT1="Angstrom"))
    fits.HDUList([image, fits.ImageHDU(SIGMA, name=name)]).writeto("a.fits")
    notes = check(read_stars("a.fits"), None)
    assert any(f"no errors of HDU 0 are read: it is not known whether those in {name} are" in note for note in notes)


def test_logarithms_in_angstrom():
    """Angstrom cannot be the unit of logarithms."""
    Table({"wave": np.log10(WAVELENGTH) * u.AA, "flux": FLUX * u.Jy}).write("a.fits")
    with pytest.raises(InputValueError, match=r"from 3.6\d* to 3.6\d* Angstrom .* 'dex\(Angstrom\)'"):
        read_stars("a.fits")
    [star], _ = read_stars("a.fits", wavelength_unit="dex(Angstrom)")
    assert_allclose(star.wavelength, WAVELENGTH)
