"""The command line: files in, tables and figures out, errors in words."""

import inspect
import os
import subprocess
import sys
from itertools import islice

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import StdDevUncertainty
from astropy.table import MaskedColumn, Table
from specutils import Spectrum

import spectrafm._inference
import spectrafm.core
from spectrafm.adapters import to_arrays
from spectrafm.benchmarks import benchmark_flags, flags
from spectrafm.cli import main
from spectrafm.continuum import UNNORMALISED
from spectrafm.core import SpectraFM
from spectrafm.exceptions import InputValueError
from spectrafm.flags import MASKING_FLAGS, Flag
from spectrafm.results import EXTENSIONS, label_table, read_labels


class FakeSpectraFM:
    """Answers as a model would, with the median flux as temperature."""

    labels = ("teff", "logg", "fe_h")
    asked, device, predicts = None, None, True

    @classmethod
    def from_pretrained(cls, name=None, device="cpu"):
        """Return a fake, unless the weights are not known."""
        FakeSpectraFM.device = device
        if name == "missing":
            raise InputValueError("name: no weights 'missing'; expected one of the packaged (gaia_xp)")
        return cls()

    def describe(self):
        """Return words."""
        return "weights of a fake"

    def reconstruct(self, spectra, *, radial_velocity=None):
        """Return the spectrum itself, unless nothing is to be predicted."""
        FakeSpectraFM.velocity = radial_velocity
        if not self.predicts:
            raise InputValueError("spectra: these weights predict no flux")
        return [Spectrum(star.flux * u.Unit(star.flux_unit), star.wavelength * u.AA) for star in spectra]

    def infer(
        self,
        spectra,
        labels=None,
        known=None,
        *,
        medium="vacuum",
        radial_velocity=None,
        resolving_power=None,
        mask_policy=None,
        batch_size=256,
        progress=False,
    ):
        """Return a row a star."""
        arrays = to_arrays(spectra, medium=medium)
        FakeSpectraFM.asked, FakeSpectraFM.given, FakeSpectraFM.velocity = arrays, known, radial_velocity
        labels = labels or self.labels
        unknown = [name for name in labels if name not in self.labels]
        if unknown:
            raise InputValueError(f"labels: {unknown} asked for; these weights know teff, logg, fe_h")
        flag = np.array([a.flags for a in arrays], dtype=np.int64)
        flag |= [Flag.NO_OVERLAP if a.n_good and a.wavelength[-1] < 1000 else 0 for a in arrays]
        flag |= [Flag.NO_GOOD_PIXELS if (a.flux < 0).any() else 0 for a in arrays]
        values = np.full((len(arrays), len(labels)), np.nan)
        for row, star in enumerate(arrays):
            if not flag[row] & MASKING_FLAGS:
                values[row] = np.median(star.flux[star.good])
        return label_table(
            labels,
            values,
            0.01 * values,
            flag=flag,
            n_pixels_used=[a.n_good for a in arrays],
            snr=[a.snr for a in arrays],
            identifier=[a.identifier for a in arrays],
            meta={"model": "fake", "medium": arrays[0].medium},
        )


@pytest.fixture(autouse=True)
def _fake(monkeypatch, tmp_path):
    """Run in an empty folder with a model that takes no time."""
    monkeypatch.setattr(spectrafm.core, "SpectraFM", FakeSpectraFM)

    def infer_stars(model, *given, tell_masked, **options):
        assert not tell_masked
        return model.infer(*given, **options), []

    monkeypatch.setattr(spectrafm._inference, "infer_stars", infer_stars)
    monkeypatch.chdir(tmp_path)


def write_star(path, level=5000.0, bad=False, n=30):
    """Write a spectrum of constant flux."""
    flux = np.full(n, np.nan if bad else level)
    wavelength = np.linspace(4000, 5000, n) * u.AA
    uncertainty = StdDevUncertainty(np.full(n, level / 50), unit=u.Jy)
    Spectrum(flux=flux * u.Jy, spectral_axis=wavelength, uncertainty=uncertainty).write(path, format="tabular-fits")
    return str(path)


def write_stars(path):
    """Write three spectra of constant flux."""
    flux = np.arange(1, 4)[:, None] * np.full((3, 30), 5000.0)
    both = Spectrum(flux=flux * u.Jy, spectral_axis=np.linspace(4000, 5000, 30) * u.AA)
    both.write(path, format="tabular-fits")
    return str(path)


def test_fake_has_the_signature_of_the_model():
    """What the tests here rely on is what the class offers."""
    for name in ("infer", "from_pretrained", "describe"):
        real, fake = (inspect.signature(getattr(c, name)) for c in (SpectraFM, FakeSpectraFM))
        assert [(p.name, p.kind) for p in real.parameters.values()] == [
            (p.name, p.kind) for p in fake.parameters.values()
        ]


def test_infer_to_stdout(capsys):
    """One star is printed in words."""
    assert main(["infer", write_star("a.fits")]) == 0
    captured = capsys.readouterr()
    assert "teff" in captured.out
    assert "Effective temperature" in captured.out
    assert "flag 0: nothing was found wrong" in captured.out
    assert captured.err == ""


def test_infer_several_to_stdout(capsys):
    """Several stars are printed as a table, with a legend of the flags."""
    files = [write_star("a.fits"), write_star("b.fits", 6000.0), write_star("c.fits", bad=True)]
    assert main(["infer", *files]) == 0
    captured = capsys.readouterr()
    assert "a.fits" in captured.out
    assert "b.fits" in captured.out
    assert "flag 2 NO_GOOD_PIXELS: no good pixel at all" in captured.out
    assert "c.fits: no good pixel" in captured.err


def test_figure_of_several_needs_its_axes(capsys):
    """A Kiel diagram without temperature or gravity is refused before any work; one star needs neither."""
    files = [write_star("a.fits"), write_star("b.fits", 6000.0)]
    assert main(["infer", *files, "--labels", "fe_h", "-o", "t.ecsv", "--plot", "k.png"]) == 2
    assert "add teff,logg to --labels" in capsys.readouterr().err
    assert not os.path.exists("t.ecsv")


def test_figure_of_a_file_of_several_stars_needs_its_axes(capsys):
    """Stars are counted, not files, and before any is looked at."""
    FakeSpectraFM.asked = None
    arguments = [write_stars("three.fits"), "--labels", "fe_h", "-o", "t.ecsv", "--plot", "k.png"]
    assert main(["infer", *arguments]) == 2
    assert "add teff,logg to --labels" in capsys.readouterr().err
    assert FakeSpectraFM.asked is None
    assert not os.path.exists("t.ecsv")


def test_figure_of_an_unreadable_file(capsys):
    """One file that cannot be read has no axes to miss."""
    assert main(["infer", "none.fits", "--labels", "fe_h", "-o", "t.ecsv", "--plot", "k.png"]) == 1
    assert "there is no such file" in capsys.readouterr().err
    assert os.path.exists("t.ecsv")
    assert os.path.exists("k.png")


def test_names_that_a_table_cannot_hold(capsys):
    """Names beyond ASCII are refused for FITS before any work, and written elsewhere."""
    FakeSpectraFM.asked = None
    star = write_star("β Pic.fits")
    assert main(["infer", star, "-o", "t.fits"]) == 2
    assert "cannot hold 'β Pic.fits', as FITS is ASCII; write .ecsv" in capsys.readouterr().err
    assert FakeSpectraFM.asked is None
    assert main(["infer", star, "-o", "t.ecsv"]) == 0


def test_folder(tmp_path, capsys):
    """A folder is not a file that is missing."""
    assert main(["infer", str(tmp_path)]) == 1
    assert "it is a folder; give the files in it" in capsys.readouterr().err


@pytest.mark.parametrize("extension", list(EXTENSIONS))
def test_infer_writes(extension, capsys):
    """Every extension is written, with the file of each star; nothing is printed."""
    files = [write_star("a.fits"), write_star("b.fits", 6000.0)]
    assert main(["infer", *files, "-o", f"labels{extension}"]) == 0
    table = read_labels(f"labels{extension}")
    assert list(table["file"]) == files
    assert list(table["identifier"]) == ["a", "b"]
    assert table["teff"].unit == u.K
    assert len(table) == 2
    assert capsys.readouterr().out == ""


def test_unreadable_files_cost_their_rows_only(capsys):
    """The rest is done and written; the status says that something was wrong."""
    with open("broken.fits", "w") as file:
        file.write("SIMPLE  = no")
    with open("notes.txt", "w") as file:
        file.write("not a spectrum\n")
    files = ["broken.fits", write_star("a.fits"), "none.fits", "notes.txt"]
    assert main(["infer", *files, "-o", "labels.ecsv"]) == 1
    table = read_labels("labels.ecsv")
    assert list(table["file"]) == files
    assert table["flag"].tolist() == [Flag.BAD_INPUT, 0, Flag.BAD_INPUT, Flag.BAD_INPUT]
    assert table["teff"].mask.tolist() == [True, False, True, True]
    complaints = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in complaints] == ["broken.fits", "none.fits", "notes.txt"]
    assert "there is no such file" in complaints[1]
    assert "specutils cannot read it" in complaints[2]


def test_plain_tables(capsys):
    """A unit that is missing is asked for with a command that works; what is assumed is said once for all files."""
    for name in ("a.txt", "b.txt"):
        np.savetxt(name, np.stack([np.linspace(400, 500, 30), np.full(30, 5.0)], axis=1))
    assert main(["infer", "a.txt", "b.txt"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"spectrafm: {name}: it does not give the unit of its wavelengths, from 400 to 500; give it, for example "
        "--wavelength-unit nm"
        for name in ("a.txt", "b.txt")
    ]
    assert main(["infer", "a.txt", "b.txt", "--wavelength-unit", "nm", "--flux-unit", "Jy"]) == 0
    assert capsys.readouterr().err == (
        "spectrafm: a.txt and 1 other: read as a table: wavelength in 'col1', flux in 'col2'\n"
    )
    assert FakeSpectraFM.asked[0].flux_unit == "erg / (Angstrom s cm2)"
    assert main(["infer", "a.txt", "--format", "ascii", "--wavelength-unit", "Angstrom"]) == 0
    assert "a.txt: pixels from 400 to 500 Angstrom, where these weights see nothing" in capsys.readouterr().err


def test_merge_orders():
    """Orders in a file are one star where that is said."""
    flux, axis = np.full(30, 5.0), np.linspace(4000, 4100, 30)
    table = Table({"wavelength": [axis, axis + 90] * u.AA, "flux": [flux, 3 * flux] * u.Jy})
    table.write("orders.fits")
    # without a unit specutils does not read it
    assert main(["infer", "orders.fits", "--wavelength-unit", "Angstrom", "--merge-orders", "-o", "t.ecsv"]) == 0
    [star] = FakeSpectraFM.asked
    assert (star.wavelength[0], star.wavelength[-1]) == (4000, 4190)
    assert list(read_labels("t.ecsv")["identifier"]) == ["orders"]


def test_only_unreadable_files():
    """A table of masked rows is still a table."""
    assert main(["infer", "none.fits", "-o", "labels.ecsv"]) == 1
    assert read_labels("labels.ecsv")["teff"].mask.all()


def test_options_reach_the_spectra():
    """Medium, velocity and resolving power are used, and the medium is on record."""
    star = write_star("a.fits")
    assert main(["infer", star, "-o", "a.ecsv"]) == 0
    [plain] = FakeSpectraFM.asked
    arguments = [
        "--medium",
        "air",
        "--radial-velocity",
        "-100",
        "--resolving-power",
        "2000",
        "--format",
        "tabular-fits",
    ]
    assert main(["infer", star, "-o", "b.ecsv", *arguments]) == 0
    [moved] = FakeSpectraFM.asked
    [expected] = to_arrays(Spectrum.read(star), medium="air", radial_velocity=-100 * u.km / u.s)
    np.testing.assert_array_equal(moved.wavelength, expected.wavelength)
    assert (moved.wavelength > plain.wavelength + 2).all()
    assert moved.resolving_power == 2000
    assert read_labels("b.ecsv").meta == {"model": "fake", "medium": "air"}


@pytest.mark.parametrize("text", ["-35", "-35 km/s", "-35km/s", "-3.5e4 m/s", "-35e3 m s-1"])
def test_velocities_with_a_unit(text):
    """A velocity may have its unit, with and without a space, and a sign that looks like that of an option."""
    star = write_star("a.fits")
    for arguments in (["--radial-velocity", text], [f"--radial-velocity={text}"]):
        assert main(["infer", star, "--plot", "a.png", "--overwrite", *arguments]) == 0
        [moved] = FakeSpectraFM.asked
        [expected] = to_arrays(Spectrum.read(star), radial_velocity=-35 * u.km / u.s)
        np.testing.assert_allclose(moved.wavelength, expected.wavelength, rtol=1e-12)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        *(
            ("--radial-velocity", value, f"{value}: expected a speed below that of light, in km/s or with its unit")
            for value in ("35 kg", "35 kms", "abc", "1e6", "nan", "1 c2", "")
        ),
        *(("--resolving-power", value, f"{value}: expected a positive number") for value in ("abc", "-5", "inf")),
    ],
)
def test_numbers_that_are_none(option, value, message, capsys):
    """What cannot be a number is refused with what was expected."""
    with pytest.raises(SystemExit, match="2"):
        main(["infer", "a.fits", option, value])
    assert f"argument {option}: {message}" in capsys.readouterr().err


def test_velocities_that_are_measured():
    """It is the weights that measure velocities; those of files are taken out before, and a number is not theirs."""
    star = write_star("a.fits")
    for option, wanted in (("measure", "measure"), ("100", None)):
        assert main(["infer", star, "-o", "a.ecsv", "--overwrite", "--radial-velocity", option]) == 0
        assert FakeSpectraFM.velocity == wanted
        FakeSpectraFM.velocity = "nothing"
        assert main(["infer", star, "--plot", "a.png", "--overwrite", "--radial-velocity", option]) == 0
        assert FakeSpectraFM.velocity == wanted


def test_pixels_that_the_weights_do_not_cover(capsys):
    """A unit that was given is what may be wrong, and no other is spoken of."""
    np.savetxt("a.txt", np.stack([np.linspace(400, 500, 30), np.full(30, 5.0)], axis=1))
    assert main(["infer", "a.txt", "--wavelength-unit", "Angstrom", "-o", "t.ecsv"]) == 0
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.endswith("500 Angstrom, where these weights see nothing; --wavelength-unit Angstrom may be wrong")
    table = Table({"wavelength": np.linspace(400, 500, 30) * u.AA, "flux": np.full(30, 5.0) * u.Jy})
    table.write("b.fits")
    assert main(["infer", "b.fits", "-o", "u.ecsv"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith("500 Angstrom, where these weights see nothing")


def test_continuum_that_was_subtracted(capsys):
    """A star that cannot be normalised is told as such, and not as one without pixels."""
    wavelength, flux = np.linspace(4000, 5000, 30) * u.AA, -np.linspace(0.1, 0.2, 30) * u.Jy
    Spectrum(flux=flux, spectral_axis=wavelength).write("a.fits", format="tabular-fits")
    assert main(["infer", "a.fits"]) == 0
    assert capsys.readouterr() == ("", f"spectrafm: a.fits: {UNNORMALISED}\n")


def test_one_unreadable_file_is_one_line(capsys):
    """Where there is nothing to show, there is no output but the reason."""
    assert main(["infer", "none.fits"]) == 1
    assert capsys.readouterr() == ("", "spectrafm: none.fits: there is no such file\n")


def test_notes_name_options(capsys):
    """What is assumed is said in words of the command line, once for all files."""
    for name in ("a.csv", "b.csv"):
        Table({"wavelength_nm": np.linspace(400, 500, 30), "flux": np.full(30, 5.0)}).write(name)
    assert main(["infer", "a.csv", "b.csv", "-o", "t.ecsv"]) == 0
    assert capsys.readouterr().err.splitlines()[1] == (
        "spectrafm: a.csv and 1 other: no unit of the flux in it: taken as relative flux per wavelength; "
        "give --flux-unit otherwise"
    )
    hdus = [Table({"wavelength": np.linspace(4000, 5000, 30) * u.AA, "flux": np.full(30, 5.0) * u.Jy})] * 2
    fits.HDUList([fits.PrimaryHDU(), *(fits.BinTableHDU(hdu) for hdu in hdus)]).writeto("arms.fits")
    assert main(["infer", "arms.fits", "-o", "arms.ecsv"]) == 0
    assert "; give --merge-orders where all are of one star" in capsys.readouterr().err


def test_train_without_data(monkeypatch, capsys):
    """Recipes of synthetic spectra need no data sets, others say so."""
    asked = []
    monkeypatch.setattr("spectrafm.training.train_recipe", lambda recipe, data, *_, **__: asked.append(data))
    assert main(["train", "optical-synthetic", "-o", "out"]) == 0
    assert asked == [None]
    assert main(["train", "gaia_xp", "-o", "out"]) == 2
    assert "--data: none given, but recipe 'gaia_xp' reads real spectra" in capsys.readouterr().err


def test_benchmark_says_first_what_is_not_there(tmp_path, monkeypatch):
    """Who meant to give a folder of real stars hears of it before the work, which goes on without them."""
    monkeypatch.setattr(flags, "_synthetic", lambda *_: pytest.fail("worked"))
    lines = list(islice(benchmark_flags(tmp_path, SpectraFM.from_pretrained()), 4))
    assert [line.partition(":")[0] for line in lines[2:]] == ["no APOGEE", "no MILES"]
    monkeypatch.setattr(flags, "_synthetic", lambda *_: [])
    monkeypatch.setattr(flags, "_report", lambda *_: iter(["a report"]))
    lines = list(benchmark_flags(tmp_path, SpectraFM.from_pretrained()))
    assert lines[4:] == ["apogee: 0 synthetic stars", "a report", "optical: 0 synthetic stars", "a report"]


def test_empty_cells_of_a_table(capsys):
    """Where a table has no flux, or no error, there is no pixel; specutils reads zero."""
    table = Table({"wavelength": np.linspace(4000, 5000, 30) * u.AA, "note": MaskedColumn(["-"] * 30)})
    table["flux"] = MaskedColumn(np.linspace(1.0, 2.0, 30), unit="Jy", mask=np.arange(30) % 7 == 3)
    table["error"] = MaskedColumn(np.full(30, 0.1), unit="Jy", mask=np.arange(30) == 5)
    table["note"].mask = True
    table.write("star.ecsv")
    table["flux"].mask, table["error"].mask = False, False
    table.write("whole.ecsv")
    assert main(["infer", "star.ecsv", "whole.ecsv"]) == 0
    star, whole = FakeSpectraFM.asked
    assert np.flatnonzero(~star.good).tolist() == [3, 5, 10, 17, 24]
    assert whole.good.all()


def test_known_option(capsys):
    """What is known goes to the weights; what are no numbers is refused before anything is read."""
    file = write_star("a.fits")
    assert main(["infer", file, "--known", "logg=4.4, e_logg=0.1"]) == 0
    assert FakeSpectraFM.given == {"logg": 4.4, "e_logg": 0.1}
    assert main(["infer", file]) == 0
    assert FakeSpectraFM.given is None
    for wrong in ("logg", "logg=high"):
        with pytest.raises(SystemExit, match="2"):
            main(["infer", file, "--known", wrong])
        assert f"--known: {wrong}: expected numbers such as teff=5000,e_teff=50" in capsys.readouterr().err


def test_labels_option():
    """Only the labels asked for are in the table."""
    assert main(["infer", write_star("a.fits"), "--labels", "teff,fe_h", "-o", "labels.ecsv"]) == 0
    assert [n for n in read_labels("labels.ecsv").colnames if n in FakeSpectraFM.labels] == ["teff", "fe_h"]


def test_example(capsys):
    """The packaged star is printed with what APOGEE says, and written, and drawn."""
    assert main(["infer", "--example", "-o", "labels.ecsv", "--plot", "labels.png"]) == 0
    captured = capsys.readouterr()
    assert "Gaia DR3" in captured.out
    assert "for comparison, APOGEE DR17 ASPCAP: teff" in captured.out
    assert len(read_labels("labels.ecsv")) == 1
    with open("labels.png", "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_device(capsys):
    """Weights go where they are told; a device that is none, or not there, is a line on stderr."""
    star = write_star("a.fits")
    assert main(["infer", star]) == 0
    assert FakeSpectraFM.device == "cpu"
    assert main(["infer", star, "--device", "cpu:0"]) == 0
    assert FakeSpectraFM.device == "cpu:0"
    capsys.readouterr()
    for command in (["infer", star], ["train", "gaia_xp", "--data", ".", "-o", "out"]):
        for device, message in (("foo", "expected 'cpu'"), ("cuda:99", "PyTorch finds")):
            assert main([*command, "--device", device]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"spectrafm: error: --device: '{device}', ")
            assert message in error
            assert error.count("\n") == 1
    assert not os.path.exists("out")


@pytest.mark.parametrize("predicts", [True, False])
def test_plot_shows_what_was_read(predicts, monkeypatch):
    """Masks, medium and velocity are those that were asked for, whether there is a model to draw or not."""
    monkeypatch.setattr(FakeSpectraFM, "predicts", predicts)
    drawn = []
    monkeypatch.setattr("spectrafm.plotting.plot_spectrum", lambda spectrum, *_, **__: drawn.append(spectrum))
    told = ["--mask-policy", "sdss_any", "--medium", "air", "--radial-velocity", "100"]
    assert main(["infer", write_star("a.fits"), "--plot", "a.png", *told]) == 0
    assert drawn == [FakeSpectraFM.asked]


@pytest.mark.parametrize("files", [["a.fits", "b.fits"], ["none.fits"]])
def test_plot_of_several_stars_or_none(files):
    """Several stars make a Kiel diagram, and no star an empty one."""
    for name in files:
        if name != "none.fits":
            write_star(name)
    main(["infer", *files, "-o", "labels.ecsv", "--plot", "kiel.pdf"])
    with open("kiel.pdf", "rb") as file:
        assert file.read(4) == b"%PDF"


def test_nothing_is_overwritten_unasked(capsys):
    """Outputs that exist are refused before any work, an input always."""
    star = write_star("a.fits")
    assert main(["infer", star, "-o", "labels.ecsv", "--plot", "p.png"]) == 0
    assert main(["infer", star, "-o", "labels.ecsv"]) == 2
    assert "labels.ecsv exists" in capsys.readouterr().err
    assert main(["infer", star, "--plot", "p.png"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["infer", star, "-o", "labels.ecsv", "--plot", "p.png", "--overwrite"]) == 0
    assert main(["infer", star, "-o", "a.fits", "--overwrite"]) == 2
    assert "to be read and to be written" in capsys.readouterr().err
    assert Spectrum.read(star).flux.shape == (30,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "labels.txt"], "ends in .ecsv"),
        (["-o", "none/labels.ecsv"], "no folder"),
        (["--plot", "labels.jpeg2"], "ends in"),
        (["--plot", "none/labels.png"], "no folder"),
        (["--labels", "mass"], "these weights know teff"),
        (["--model", "missing"], "no weights 'missing'"),
    ],
)
def test_errors_in_words(arguments, message, capsys):
    """A mistake is one line on stderr and status 2, without a traceback."""
    assert main(["infer", write_star("a.fits"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spectrafm: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["infer"],
        ["infer", "a.fits", "--example"],
        ["infer", "a.fits", "--medium", "water"],
        ["infer", "a.fits", "--resolving-power", "-3"],
        ["infer", "a.fits", "--radial-velocity", "inf"],
        ["infer", "a.fits", "--mask-policy", "nonsense"],
        ["nonsense"],
        [],
    ],
)
def test_arguments_that_make_no_sense(arguments, capsys):
    """argparse says what is wrong, with status 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: spectrafm" in capsys.readouterr().err


def test_several_spectra_in_a_file():
    """A two-dimensional file gives a row a star, all with the file's name."""
    assert main(["infer", write_stars("three.fits"), "-o", "labels.ecsv"]) == 0
    table = read_labels("labels.ecsv")
    assert list(table["file"]) == ["three.fits"] * 3
    assert list(table["identifier"]) == ["three:0", "three:1", "three:2"]
    np.testing.assert_allclose(np.diff(table["teff"].value) > 0, True)


def test_what_the_system_refuses(tmp_path, monkeypatch, capsys):
    """A file that cannot be written is told in words."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "labels.ecsv")

    monkeypatch.setattr("spectrafm.results.write_labels", refuse)
    assert main(["infer", "--example", "-o", str(tmp_path / "labels.ecsv")]) == 2
    assert "error: [Errno 13] Permission denied: 'labels.ecsv'" in capsys.readouterr().err


def test_describe(capsys):
    """`describe` prints what the weights say of themselves."""
    assert main(["describe"]) == 0
    assert capsys.readouterr().out == "weights of a fake\n"
    for named in (["missing"], ["--model", "missing"]):
        assert main(["describe", *named]) == 2
        assert "no weights 'missing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["describe", "base", "--model", "gaia_xp"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_help_and_version(capsys):
    """Help names each command and each option."""
    for arguments, words in ((["--help"], ("infer", "describe")), (["infer", "--help"], ("--example", "--medium"))):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"spectrafm {spectrafm.__version__}\n"


def test_runs_as_a_module():
    """`python -m spectrafm` is the same command."""
    root = os.path.dirname(os.path.dirname(spectrafm.__file__))
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-m", "spectrafm", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("spectrafm ")


def test_real_apstar(shared_data, capsys):
    """A file as APOGEE ships it is read without being told its format."""
    name = str(shared_data / "apogee" / "apStar-dr17-2M19485057+5005279.fits")
    assert main(["infer", name]) == 0
    assert "2M19485057+5005279" in capsys.readouterr().out


def test_who_reads_has_read_enough():
    """A reader that stops after a line is no error."""
    command = [sys.executable, "-m", "spectrafm", "describe"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.read(9) == "SpectraFM"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0
