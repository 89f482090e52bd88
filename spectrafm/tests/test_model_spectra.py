"""Spectra that the packaged weights expect: of labels, and behind observed ones."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure
from specutils import Spectrum

from spectrafm import SpectraFM, SpectraFMWarning
from spectrafm._spectral_units import air_to_vacuum
from spectrafm.adapters import from_arrays
from spectrafm.datasets import load_example_spectrum
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.plotting import plot_spectrum

GIANT = {"teff": 4700, "logg": 2.4, "fe_h": -0.4}
AXIS = np.linspace(15_200, 16_900, 2000) * u.AA


@pytest.fixture(scope="module")
def fm():
    """Return the packaged weights."""
    return SpectraFM.from_pretrained()


@pytest.fixture(scope="module")
def optical(fm):
    """Return wavelengths and fluxes of a giant in the optical."""
    wavelength = np.exp(np.arange(np.log(3900), np.log(6800), 1 / (3 * 2000)))
    return wavelength, fm.predict_spectrum(GIANT, wavelength * u.AA, resolving_power=2000).flux.value


def test_axis_of_any_kind(fm):
    """The axis of a moving star gives no velocity to a flux at rest, and columns of a table will do."""
    expected = fm.predict_spectrum(GIANT, AXIS)
    moving = Spectrum(flux=np.ones(2000) * u.one, spectral_axis=AXIS, radial_velocity=100 * u.km / u.s)
    table = Table({"plain": AXIS, "masked": AXIS}, masked=True)
    logarithm = np.log10(AXIS.value) * u.dex(u.AA)
    for axis in (moving.spectral_axis, table["plain"], Table({"w": AXIS})["w"], logarithm):
        found = fm.predict_spectrum(GIANT, axis)
        assert found.radial_velocity == 0 * u.km / u.s
        np.testing.assert_allclose(found.spectral_axis.value, AXIS.value, rtol=1e-12)
        np.testing.assert_allclose(found.flux.value, expected.flux.value, rtol=1e-5)
    table["masked"].mask[3] = True
    with pytest.raises(InputValueError, match="go up and down, or are masked"):
        fm.predict_spectrum(GIANT, table["masked"])


def test_spectra_of_results(fm):
    """A row of results is one star, and a table so many; labels that were not told are not known."""
    table = fm.infer(load_example_spectrum())
    one, several = fm.predict_spectrum(table[0], AXIS), fm.predict_spectrum(table, AXIS)
    assert several.flux.shape == (1, 2000)
    np.testing.assert_array_equal(several.flux.value[0], one.flux.value)
    told = {name: table[name][0] for name in table.colnames if name.removeprefix("e_") in fm.labels}
    same = fm.predict_spectrum({name: value for name, value in told.items() if np.isfinite(value.value)}, AXIS)
    np.testing.assert_allclose(one.flux.value, same.flux.value, rtol=1e-6)


def test_similar_across_kinds(fm, optical):
    """Stars are not compared with spectra of another kind without a word."""
    star, library = load_example_spectrum(), list(from_arrays(optical[0], np.stack([optical[1], optical[1] ** 2])))
    with pytest.warns(SpectraFMWarning, match="library: matched are stars of gaia_xp with optical of the library"):
        table = fm.similar(star, library, n=1)
    assert len(table) == 1
    # of embeddings nobody knows what they are of
    assert len(fm.similar([*library, star], fm.embed(library), n=1)) == 3
    assert len(fm.similar(library, library, n=1)) == 2


def test_similar_of_embeddings(fm, optical):
    """Embeddings stand for spectra on either side; flux does not, and nothing is read of them."""
    library = list(from_arrays(optical[0], np.stack([optical[1], optical[1] ** 2])))
    vectors = fm.embed(library)
    expected = fm.similar(library, list(library))
    for spectra, others in ((vectors, library), (vectors, vectors[:]), (list(vectors), vectors), (library, vectors)):
        found = fm.similar(spectra, others)
        assert (found["row", "match"] == expected["row", "match"]).all()
        np.testing.assert_allclose(found["distance"], expected["distance"], rtol=1e-6)
    assert fm.similar(vectors[1], vectors, n=1)["match"].tolist() == [1]
    assert len(fm.similar(vectors[:0], vectors)) == 0
    with pytest.raises(
        InputValueError, match=r"spectra: embeddings of shape \(2, 5\); expected \(n_star, 384\) .*from_arr"
    ):
        fm.similar(vectors[:, :5], vectors)
    with pytest.raises(InputTypeError, match="spectra: got Quantity"):
        fm.similar(vectors * u.Jy, vectors)
    with pytest.raises(InputValueError, match="medium: for reading spectra, but only embeddings came"):
        fm.similar(vectors, vectors, medium="air")


def test_similar_among_themselves(fm, optical):
    """Stars searched among themselves are no match of themselves; names are those of the spectra, or rows."""
    fluxes = np.stack([optical[1] ** power for power in (1, 2, 3)])
    library = list(from_arrays(optical[0], fluxes, identifier=list("abc")))
    found = fm.similar(library, library)
    assert found.colnames == ["row", "match", "distance", "identifier", "match_identifier"]
    assert found["row"].tolist() == [0, 0, 1, 1, 2, 2]
    assert (found["row"] != found["match"]).all()
    assert ["abc"[row] for row in found["match"]] == found["match_identifier"].tolist()
    assert found["identifier"].tolist() == list("aabbcc")
    vectors = fm.embed(library)
    same = fm.similar(vectors, vectors, n=1)
    assert (same["match"] == found["match"][::2]).all()
    assert same["match_identifier"].tolist() == [str(row) for row in same["match"]]
    # two objects are two sets of stars
    mixed = fm.similar(library, vectors, n=1)
    assert mixed["match"].tolist() == [0, 1, 2]
    assert mixed["identifier"].tolist() == ["a", "b", "c"]
    assert mixed["match_identifier"].tolist() == ["0", "1", "2"]


def test_pixels_outside(fm):
    """Pixels beyond the range of the domain are masked, with a warning; where none is inside there is an error."""
    axis = np.linspace(15_091, 16_900, 2000) * u.AA
    with pytest.warns(SpectraFMWarning, match="spectral_axis: 10 of 2000 pixels are outside of 15100 to 17000") as seen:
        found = fm.predict_spectrum({"teff": [4700, 5000], "logg": 2.4}, axis)
    assert seen[0].filename == __file__
    assert len(seen) == 1
    np.testing.assert_array_equal(found.mask, np.tile(axis.value < 15_100, (2, 1)))
    np.testing.assert_array_equal(found.mask, ~np.isfinite(found.flux.value))
    np.testing.assert_array_equal(found.mask, ~np.isfinite(found.uncertainty.array))
    np.testing.assert_array_equal(found.spectral_axis.value, axis.value)
    inside = fm.predict_spectrum({"teff": 5000, "logg": 2.4}, axis[10:])
    np.testing.assert_allclose(inside.flux.value, found.flux.value[1, 10:], rtol=1e-5)
    assert not inside.mask.any()
    for domain, text in (
        ("apogee", "apogee covers 15100 to 17000 Angstrom; no flux of gaia_xp"),
        (None, "15100 to .*gaia_rvs covers 8450"),
    ):
        with pytest.raises(InputValueError, match=f"spectral_axis: from 17090 to 17100 Angstrom; .*{text}"):
            fm.predict_spectrum(GIANT, [17_090, 17_100] * u.AA, domain=domain)


def test_axis_in_air(fm):
    """Wavelengths in air are those of the vacuum where the flux is told; the axis stays what it was."""
    found = fm.predict_spectrum(GIANT, AXIS, medium="air")
    expected = fm.predict_spectrum(GIANT, air_to_vacuum(AXIS.value) * u.AA, medium="vacuum")
    np.testing.assert_array_equal(found.spectral_axis.value, AXIS.value)
    np.testing.assert_array_equal(found.flux.value, expected.flux.value)
    assert (found.meta["medium"], expected.meta["medium"]) == ("air", "vacuum")
    for medium in ("water", ["air"]):
        with pytest.raises(InputValueError, match="medium: .*; expected 'air' or 'vacuum'"):
            fm.predict_spectrum(GIANT, AXIS, medium=medium)


def test_predicted_over_data(fm):
    """A prediction is drawn at the level of the data, whatever their unit, slope and medium."""
    slope = np.linspace(3e-14, 1e-14, 2000)
    flux = fm.predict_spectrum(GIANT, AXIS).flux.value
    star = Spectrum(flux=flux * slope * u.Unit("erg s-1 cm-2 AA-1"), spectral_axis=AXIS)
    for medium in ("vacuum", "air"):
        model = fm.predict_spectrum(GIANT, AXIS[20:-20], medium=medium)
        data, drawn = plot_spectrum(star, model=model, ax=Figure().subplots()).lines
        ratio = np.interp(data.get_xdata()[40:-40], drawn.get_xdata(), drawn.get_ydata()) / data.get_ydata()[40:-40]
        # the local mean of what is normalised is 1 but for a per cent or so; lines between pixels differ
        assert abs(np.median(ratio) - 1) < 0.01
        assert np.std(ratio) < 0.015
    with pytest.raises(InputValueError, match="model: 1 spectra, expected that of one star, as model"):
        plot_spectrum(star, model=fm.predict_spectrum({"teff": [4700]}, AXIS))
    other = fm.predict_spectrum(GIANT, np.linspace(8500, 8700, 50) * u.AA)
    with pytest.raises(InputValueError, match="model: predicted for gaia_rvs, 8450 to 8720 Angstrom, where the spec"):
        plot_spectrum(star, model=other)


def test_observed_in_the_form_of_predicted(fm):
    """The normaliser of the domain makes an observed spectrum comparable with a predicted one."""
    flux = fm.predict_spectrum(GIANT, AXIS).flux.value
    [star] = from_arrays(AXIS.value, flux * np.linspace(3e-14, 1e-14, 2000))
    normalised = fm.normalizer_of("apogee")(star)
    assert np.abs(normalised.flux / flux - 1).max() < 0.05


def test_labels_out_of_range(fm):
    """What no training star had is told."""
    with pytest.warns(
        SpectraFMWarning, match=r"labels: beyond those of the training stars in teff \(33\d\d\.\d to 79\d\d\."
    ):
        fm.predict_spectrum(GIANT | {"teff": 50_000}, AXIS)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"teff": np.nan}, "nothing is known"),
        ({"teff": [4700, np.nan], "logg": [2.0, np.nan]}, "nothing is known"),
        (
            {"rv_offset": 0.0},
            "nothing is known but rv_offset, in row 0; expected at least one of teff, logg, fe_h, alp",
        ),
        ({"a_k": 0.3}, "nothing is known but a_k, in row 0; .*give teff, logg, fe_h where"),
        ({"teff": [4700, np.nan], "k_mag": 9.0}, "nothing is known but k_mag, in row 1"),
        ({}, "nothing is known, in row 0"),
        ({"teff": []}, "columns without rows"),
    ],
)
def test_stars_of_which_nothing_is_known(fm, labels, text):
    """A velocity, a magnitude or an extinction alone is no star."""
    with pytest.raises(InputValueError, match=f"labels: .*{text}"):
        fm.predict_spectrum(labels, AXIS)


def test_reconstruct_what_can_be(fm, optical):
    """A star whose flux these weights do not tell costs its own spectrum; an error is for where there is no other."""
    example = load_example_spectrum()
    stars = [*from_arrays(*optical), example, None]
    first, second, third = fm.reconstruct(stars)
    assert len(first.flux) == len(optical[0])
    assert "problem" not in first.meta
    assert len(second.flux) == len(third.flux) == 0
    assert second.meta["problem"] == "these weights predict no flux of gaia_xp"
    assert "got NoneType" in third.meta["problem"]
    for none in (example, [example, None]):
        with pytest.raises(InputValueError, match="spectra: these weights predict no flux of gaia_xp"):
            fm.reconstruct(none)
    assert len(fm.reconstruct([None])[0].flux) == 0


def test_why_there_is_no_reconstruction(fm, optical):
    """A star without a spectrum says what is wrong with it: its pixels, its wavelengths, or its continuum."""
    wavelength, flux = optical
    stars = [
        *from_arrays(wavelength, np.full_like(flux, np.nan)),
        *from_arrays(wavelength + 50_000, flux),
        *from_arrays(wavelength, flux - 2),
        *from_arrays(wavelength, np.zeros_like(flux)),
    ]
    texts = ("no good pixel: all are masked", "pixels from 5", "its continuum,", "no good pixel: all are masked")
    for found, text in zip(fm.reconstruct(stars), texts, strict=True):
        assert found.meta["problem"].startswith(text)


def test_reconstruct_masks_wide_gaps(fm, optical):
    """Where no good pixel is near there is no continuum: the model is masked there, and only there."""
    wavelength, flux = optical
    gap = (wavelength > 4600) & (wavelength < 6200)
    [found] = fm.reconstruct(from_arrays(wavelength, np.where(gap, np.nan, flux)))
    np.testing.assert_array_equal(found.mask, ~np.isfinite(found.flux.value))
    assert found.mask.any()
    assert not found.mask[~gap].any()
    assert not fm.reconstruct(from_arrays(wavelength, flux))[0].mask.any()
