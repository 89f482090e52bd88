"""SpectraFM: from spectra to a table, with flags, known quantities and files."""

import json
import os
import re
import subprocess
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import InverseVariance, StdDevUncertainty
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.utils.masked import Masked
from safetensors.torch import load_file, save_file
from specutils import Spectrum, SpectrumCollection, SpectrumList

import spectrafm
from spectrafm import Flag, SpectraFM, SpectraFMWarning, _known, _weights_files
from spectrafm._known import known_quantities, label_truth, refuse_other_order
from spectrafm._spectral_units import plain_numbers
from spectrafm._tokens import star_batches
from spectrafm.adapters import from_arrays
from spectrafm.exceptions import CheckpointError, InputTypeError, InputValueError, MissingDependencyError
from spectrafm.results import label_table, label_values
from spectrafm.stellarperceptron import FitConfig, StellarPerceptron, Vocabulary
from spectrafm.tests.tiny import QUANTITIES, WAVELENGTH, tiny_config, tiny_model, tiny_table
from spectrafm.weights_info import Domain, WeightsInfo

TABLE = tiny_table(8, seed=5)


@pytest.fixture(scope="module")
def fm():
    """Return a SpectraFM trained for a moment on the tiny stars."""
    vocabulary = Vocabulary(["flux", *QUANTITIES], flux=["flux"], log=["teff"])
    model = StellarPerceptron(tiny_config(), vocabulary, seed=0)
    model.fit(tiny_table(), ["teff", "logg"], FitConfig(steps=60, batch_size=64, warmup_steps=5, learning_rate=3e-3))
    spacing = np.median(np.diff(np.log(WAVELENGTH)))
    domain = Domain(
        name="tiny",
        labels=("teff", "logg"),
        wavelength_range=(3950.0, 9050.0),
        spacing_range=(spacing / 2, spacing * 2),
        min_pixels=20,
        min_snr=5.0,
        label_ranges={"teff": [2000.0, 12000.0], "logg": [-3.0, 8.0]},
        usual_errors={"teff": 5000.0, "logg": 10.0},
        calibration={k: {"with_sigma": 1.5, "without_sigma": 3.0} for k in ("teff", "logg")},
    )
    return SpectraFM(model, WeightsInfo(name="tiny", domains=(domain,), known=("k_mag", "logg", "teff")))


def changed(fm, density=None, **changes):
    """Return the same weights with another account of what they do."""
    domain = replace(fm.info.domains[0], **changes)
    return SpectraFM(fm.model, replace(fm.info, domains=(domain,)), density)


def spectrum(row=0, sigma=0.01, **kwargs):
    """Return one tiny star as a Spectrum."""
    uncertainty = None if sigma is None else StdDevUncertainty(np.full(60, sigma))
    return Spectrum(TABLE.flux[row] * u.one, WAVELENGTH * u.AA, uncertainty=uncertainty, **kwargs)


def numbers(table, labels=("teff", "logg")):
    """Return labels and errors as one array."""
    return np.stack([column for name in labels for column in label_values(table, name)])


def test_columns(fm):
    """A row a star, with units, errors, flags and provenance."""
    table = fm.infer([spectrum(i) for i in range(3)])
    assert isinstance(table, QTable)
    assert table.colnames == [
        "identifier", "teff", "e_teff", "logg", "e_logg", "flag", "n_pixels_used", "snr",
    ]  # fmt: skip
    assert len(table) == 3
    assert table["teff"].unit == u.K
    assert table["logg"].unit == u.dex(u.cm / u.s**2)
    assert (table["flag"] == 0).all()
    assert (table["n_pixels_used"] == 60).all()
    np.testing.assert_allclose(table["snr"].value, 100, rtol=0.1)
    assert table.meta["model"] == "tiny"
    assert table.meta["medium"] == "vacuum"
    assert all(isinstance(v, (str, int, float)) for v in table.meta.values())


def test_containers_agree(fm):
    """The same stars in any container give the same labels."""
    sigma = StdDevUncertainty(np.full((3, 60), 0.01))
    stacked = Spectrum(TABLE.flux[:3] * u.one, WAVELENGTH * u.AA, uncertainty=sigma)
    singles = [spectrum(i) for i in range(3)]
    collection = SpectrumCollection(TABLE.flux[:3] * u.one, np.tile(WAVELENGTH, (3, 1)) * u.AA, uncertainty=sigma)
    expected = numbers(fm.infer(singles))
    for spectra in (stacked, SpectrumList(singles), collection, [stacked[:2], singles[2]]):
        np.testing.assert_allclose(numbers(fm.infer(spectra)), expected, rtol=1e-5)


def test_units_and_order(fm):
    """Nanometres, frequencies, a descending axis, an inverse variance, any flux scale: the same labels."""
    expected = numbers(fm.infer(spectrum()))
    nm = Spectrum(
        TABLE.flux[0][::-1] * 1e-15 * u.Unit("W m-2 nm-1"),
        (WAVELENGTH[::-1] / 10) * u.nm,
        uncertainty=InverseVariance(np.full(60, 1e34) / u.Unit("W m-2 nm-1") ** 2),
    )
    np.testing.assert_allclose(numbers(fm.infer(nm)), expected, rtol=1e-5)
    density = u.spectral_density(WAVELENGTH * u.AA)
    flux, error = ((a * u.Unit("erg s-1 cm-2 AA-1")).to(u.Jy, density) for a in (TABLE.flux[0], np.full(60, 0.01)))
    hz = Spectrum(flux, (WAVELENGTH * u.AA).to(u.Hz, u.spectral()), uncertainty=StdDevUncertainty(error))
    np.testing.assert_allclose(numbers(fm.infer(hz)), expected, rtol=1e-5)


def test_air_and_velocity(fm):
    """Air wavelengths and a velocity, declared, give the labels of vacuum at rest."""
    from specutils.utils.wcs_utils import vac_to_air

    expected = numbers(fm.infer(spectrum()))
    rest = WAVELENGTH * u.AA
    air = Spectrum(TABLE.flux[0] * u.one, vac_to_air(rest), uncertainty=StdDevUncertainty(np.full(60, 0.01)))
    np.testing.assert_allclose(numbers(fm.infer(air, medium="air")), expected, rtol=1e-5)
    velocity = 300 * u.km / u.s
    beta = velocity.to_value(u.km / u.s) / 299792.458
    shifted = rest * np.sqrt((1 + beta) / (1 - beta))
    moving = Spectrum(TABLE.flux[0] * u.one, shifted, uncertainty=StdDevUncertainty(np.full(60, 0.01)))
    np.testing.assert_allclose(numbers(fm.infer(moving, radial_velocity=velocity)), expected, rtol=1e-5)


def test_medium_of_arrays(fm):
    """The table says what the wavelengths of arrays came in, too."""
    stars = [from_arrays(WAVELENGTH, TABLE.flux[0], medium=medium)[0] for medium in ("air", "vacuum")]
    assert fm.infer(stars[:1]).meta["medium"] == "air"
    assert fm.infer(stars).meta["medium"] == "one a star"
    with pytest.warns(SpectraFMWarning, match="1 of 2 rows are masked"):
        assert fm.infer([spectrum(), None], medium="air").meta["medium"] == "air"


def test_calibration_is_applied(fm):
    """Predicted errors are multiplied with the factors of the weights, each kind with its own."""
    plain = changed(fm, calibration={})
    ratio = numbers(fm.infer(spectrum()))[1::2] / numbers(plain.infer(spectrum()))[1::2]
    np.testing.assert_allclose(ratio, 1.5)
    bare = spectrum(sigma=None)
    ratio = numbers(fm.infer(bare))[1::2] / numbers(plain.infer(bare))[1::2]
    np.testing.assert_allclose(ratio, 3.0)


def test_no_uncertainties(fm):
    """Without uncertainties there are labels, and a flag."""
    table = fm.infer(spectrum(sigma=None))
    assert table["flag"][0] & Flag.NO_UNCERTAINTY
    assert np.isfinite(numbers(table)).all()
    assert table["snr"].mask[0]


def test_bad_stars_are_masked_rows(fm):
    """Bad stars are masked rows with flags; the others get what they would get alone."""
    nothing = Spectrum(np.full(60, np.nan) * u.one, WAVELENGTH * u.AA)
    elsewhere = Spectrum(np.ones(60) * u.one, WAVELENGTH * 3 * u.AA)
    pixels = Spectrum(np.ones(60) * u.one)
    with pytest.warns(SpectraFMWarning, match="3 of 5 rows are masked"):
        table = fm.infer([spectrum(0), nothing, elsewhere, pixels, spectrum(1)])
    assert list(table["teff"].mask) == [False, True, True, True, False]
    assert list(table["e_logg"].mask) == [False, True, True, True, False]
    assert table["flag"][1] & Flag.NO_GOOD_PIXELS
    # there are good ones, and nothing is said of what was not seen
    assert table["flag"][2] & ~Flag.PARTIAL_COVERAGE & ~Flag.FEW_PIXELS & ~Flag.NO_UNCERTAINTY == Flag.NO_OVERLAP
    assert table["flag"][3] & Flag.BAD_INPUT
    np.testing.assert_allclose(numbers(table)[:, [0, 4]], numbers(fm.infer([spectrum(0), spectrum(1)])), rtol=1e-5)


def test_nan_equals_mask_equals_dropped(fm):
    """A pixel that is NaN, masked, or left out: the same labels."""
    bad = np.zeros(60, dtype=bool)
    bad[[3, 17, 18, 40]] = True
    flux = TABLE.flux[0].astype(float)
    sigma = StdDevUncertainty(np.full(60, 0.01))
    masked = Spectrum(flux * u.one, WAVELENGTH * u.AA, uncertainty=sigma, mask=bad)
    with_nan = Spectrum(np.where(bad, np.nan, flux) * u.one, WAVELENGTH * u.AA, uncertainty=sigma)
    dropped = Spectrum(flux[~bad] * u.one, WAVELENGTH[~bad] * u.AA, uncertainty=StdDevUncertainty(np.full(56, 0.01)))
    expected = numbers(fm.infer(dropped))
    np.testing.assert_allclose(numbers(fm.infer(masked)), expected, rtol=1e-5)
    np.testing.assert_allclose(numbers(fm.infer(with_nan)), expected, rtol=1e-5)


def test_batch_size(fm):
    """The size of batches changes nothing."""
    spectra = [spectrum(i) for i in range(5)]
    np.testing.assert_allclose(numbers(fm.infer(spectra, batch_size=2)), numbers(fm.infer(spectra)), rtol=1e-5)


def test_long_spectra_come_in_small_batches(monkeypatch):
    """Batches hold so many stars as memory allows, every star once, short ones first."""
    stars = [from_arrays(np.linspace(4000, 5000, n), np.ones(n))[0] for n in (900, 10, 300, 10, 301, 900, 299)]
    monkeypatch.setattr("spectrafm._tokens._MOST_PIXELS", 1000)
    batches = [rows.tolist() for _, rows in star_batches(stars, np.zeros(7, dtype=int), 4)]
    assert batches == [[1, 3, 6], [2, 4], [0], [5]]
    assert [len(rows) for _, rows in star_batches(stars, np.array([0, 0, 0, 1, 1, 1, 1]), 1)] == [1] * 7


def test_known_label_against_the_spectrum(fm):
    """A given label that is far from what the spectrum says by itself is flagged, by the errors of both."""
    stars = [spectrum(i) for i in range(4)]
    own = fm.infer(stars, labels=["teff"])
    teff, error = own["teff"], own["e_teff"]
    off = np.array([0.0, 4.0, 6.0, -8.0])
    given = {"teff": teff + off * error}
    flagged = fm.infer(stars, known=given)["flag"] & Flag.CONTRADICTS_KNOWN
    np.testing.assert_array_equal(flagged != 0, np.abs(off) > 5)
    flagged = fm.infer(stars, known=given | {"e_teff": 1.5 * error})["flag"] & Flag.CONTRADICTS_KNOWN
    assert not flagged.any()
    # not given for this star
    given["teff"][3] = np.nan
    assert not fm.infer(stars, known=given)["flag"][3] & Flag.CONTRADICTS_KNOWN


def test_spectrum_flags(fm):
    """Few pixels, missing range, low signal and other samplings are flagged."""
    cut = spectrum()[:15]
    assert fm.infer(cut)["flag"][0] & Flag.FEW_PIXELS
    assert fm.infer(cut)["flag"][0] & Flag.PARTIAL_COVERAGE
    assert fm.infer(spectrum(sigma=1.0))["flag"][0] & Flag.LOW_SNR
    # without errors neighbours tell
    noise = np.random.default_rng(0).normal(size=len(WAVELENGTH))
    for ratio, flagged in ((100.0, False), (0.5 * fm.info.domains[0].min_snr, True)):
        noisy = Spectrum((np.linspace(1, 2, len(noise)) + 1.5 * noise / ratio) * u.one, WAVELENGTH * u.AA)
        assert bool(fm.infer(noisy)["flag"][0] & Flag.LOW_SNR) == flagged
    fine = np.linspace(4000, 9000, 600)
    dense = Spectrum(np.interp(fine, WAVELENGTH, TABLE.flux[0]) * u.one, fine * u.AA)
    assert fm.infer(dense)["flag"][0] & Flag.SAMPLING_MISMATCH
    blunt = changed(fm, lowest_power=700.0)
    for power, flagged in ((300.0, True), (690.0, False), (5000.0, False), (None, False)):
        flag = blunt.infer(spectrum(), resolving_power=power)["flag"][0]
        assert bool(flag & Flag.SAMPLING_MISMATCH) == flagged


def test_errors_that_are_too_small(fm):
    """Errors below those of training stars count as these, whatever they are, and are flagged."""
    limited = changed(fm, largest_snr=200.0)
    tables = [limited.infer(spectrum(sigma=sigma)) for sigma in (0.02, 1e-3, 1e-7)]
    assert [bool(table["flag"][0] & Flag.HIGH_SNR) for table in tables] == [False, True, True]
    np.testing.assert_allclose(numbers(tables[1]), numbers(tables[2]), rtol=1e-6)
    assert tables[1]["snr"][0] > 900
    scale = np.median(TABLE.flux[0]) / 200
    np.testing.assert_allclose(numbers(tables[2]), numbers(fm.infer(spectrum(sigma=scale))), rtol=1e-5)
    np.testing.assert_array_equal(numbers(tables[0]), numbers(fm.infer(spectrum(sigma=0.02))))
    assert np.abs(numbers(fm.infer(spectrum(sigma=1e-7))) / numbers(tables[2]) - 1).max() > 1e-4


def test_label_flags(fm):
    """Labels outside the training range and large errors are flagged."""
    strict = changed(fm, label_ranges={"teff": [9000.0, 9001.0]}, usual_errors={"logg": 1e-6})
    flag = strict.infer(spectrum())["flag"][0]
    assert flag & Flag.OUTSIDE_LABEL_RANGE
    assert flag & Flag.LARGE_UNCERTAINTY


def test_density_flag(fm):
    """A spectrum whose embedding is far from the training stars is flagged."""
    pooled = fm.embed([spectrum(i) for i in range(8)])
    assert pooled.shape == (8, 32)
    density = {"mean.tiny": torch.from_numpy(pooled.mean(axis=0)), "whiten.tiny": torch.eye(32)}
    farthest = np.sqrt(((pooled - pooled.mean(axis=0)) ** 2).mean(axis=1)).max()
    watchful = changed(fm, density, density_threshold=1.1 * farthest)
    strange = Spectrum(np.linspace(5, 0.1, 60) ** 4 * u.one, WAVELENGTH * u.AA)
    for known in (None, {"k_mag": 10.0}):
        flag = watchful.infer([spectrum(), strange], known=known)["flag"]
        assert not flag[0] & Flag.UNUSUAL_SPECTRUM
        assert flag[1] & Flag.UNUSUAL_SPECTRUM


def test_density_in_few_bits(fm, tmp_path):
    """Eight bits keep distances, though some directions are stretched a hundred times as much as others."""
    table = tiny_table(100, seed=3)
    stars, _ = fm.info.assign_domains(list(from_arrays(WAVELENGTH, table.flux, table.sigma)))
    perception = fm.perceive([fm.prepare(star, 0) for star in stars], 0)
    pooled = perception.pooled.astype(np.float64)
    variance, vectors = np.linalg.eigh(np.cov(pooled.T))
    kept = variance > 1e-5 * variance.max()
    whiten = torch.from_numpy(vectors[:, kept] / np.sqrt(variance[kept])).float()
    assert whiten.std(dim=0).max() > 100 * whiten.std(dim=0).min()
    precise = changed(fm, {"mean.tiny": torch.from_numpy(pooled.mean(axis=0)).float(), "whiten.tiny": whiten})
    precise.save(tmp_path, compact=True)
    near, exact = (weights.distances(perception, "tiny") for weights in (SpectraFM.load(tmp_path), precise))
    assert 0 < np.median(np.abs(near / exact - 1)) < 0.005


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("name", ["grey_scale", "in_byte"])
def test_density_of_any_domain(fm, name, compact, tmp_path):
    """What a domain is called does not decide whether its density survives the disk."""
    density = {f"mean.{name}": torch.zeros(32), f"whiten.{name}": torch.eye(32)}
    domain = replace(fm.info.domains[0], name=name)
    SpectraFM(fm.model, replace(fm.info, domains=(domain,)), density).save(tmp_path, compact=compact)
    stars, _ = fm.info.assign_domains(list(from_arrays(WAVELENGTH, TABLE.flux[:2], TABLE.sigma[:2])))
    perception = fm.perceive([fm.prepare(star, 0) for star in stars], 0)
    expected = np.sqrt((perception.pooled**2).mean(axis=1))
    np.testing.assert_allclose(SpectraFM.load(tmp_path).distances(perception, name), expected, rtol=0.01)


def test_labels_that_spectra_do_not_tell(fm):
    """What is asked of spectra that cannot tell it is masked, and said."""
    poor = changed(fm, labels=("teff",))
    rich = replace(fm.info.domains[0], name="rich", wavelength_range=(3950.0, 5000.0), labels=("logg",))
    both = SpectraFM(fm.model, replace(fm.info, domains=(poor.info.domains[0], rich)))
    with pytest.warns(
        SpectraFMWarning,
        match="labels: logg cannot be predicted from spectra of tiny and are masked; from these come teff",
    ):
        table = both.infer(spectrum(), labels=["teff", "logg"])
    assert bool(table["logg"].mask[0])
    assert not hasattr(table["teff"], "mask")


def test_wavelengths_in_another_unit(fm):
    """Where pixels lie where nothing is seen, the warning says where that is."""
    with pytest.warns(SpectraFMWarning, match="row 0: pixels from 400 to 900 Angstrom, .* plain numbers are Angstrom"):
        table = fm.infer(from_arrays(WAVELENGTH / 10, TABLE.flux[0], TABLE.sigma[0]))
    assert table["flag"][0] & Flag.NO_OVERLAP


def test_bridged_gaps(fm):
    """Where a domain says so, narrow gaps are bridged, masked or not there; what was measured is counted, and shown."""
    bridging, lacking = changed(fm, bridges=2), np.zeros(60, dtype=bool)
    lacking[[7, 30, 31]] = True
    star = list(from_arrays(WAVELENGTH, TABLE.flux[:1], TABLE.sigma[:1]))[0]
    holes = replace(star, good=~lacking)
    cut = list(from_arrays(WAVELENGTH[~lacking], TABLE.flux[:1, ~lacking], TABLE.sigma[:1, ~lacking]))[0]
    tables = [bridging.infer([one]) for one in (star, holes, cut)]
    assert [int(t["n_pixels_used"][0]) for t in tables] == [60, 57, 57]
    np.testing.assert_array_equal(numbers(tables[1]), numbers(tables[2]))
    away = [np.abs(numbers(weights.infer([holes])) - numbers(weights.infer([star]))) for weights in (bridging, fm)]
    assert (away[0] < away[1]).mean() > 0.5
    seen = bridging.tokens([bridging.prepare(holes, 0)], 0)
    assert seen.token.shape[1] == 60
    np.testing.assert_allclose(np.sort(seen.wavelength[0].numpy()), WAVELENGTH)
    # what nobody measured has no sensitivity
    for weights in (bridging, fm):
        np.testing.assert_array_equal(weights.sensitivity(holes, "teff")["wavelength"].value, WAVELENGTH[~lacking])
    before, after, share = holes.gap_weights(2)
    assert before[share > 0].tolist() == [6, 28, 28]
    assert after[share > 0].tolist() == [7, 29, 29]
    np.testing.assert_allclose(share[share > 0], [1 / 2, 1 / 3, 2 / 3])
    assert not holes.gap_weights(0)[2].any()


def test_known(fm):
    """Known quantities are inputs: as number, array, Quantity, column; NaN and masked are not known."""
    spectra = [spectrum(0), spectrum(1)]
    plain = numbers(fm.infer(spectra))
    given = numbers(fm.infer(spectra, known={"k_mag": 9.0, "e_k_mag": 0.02}))
    assert not np.allclose(given, plain, rtol=1e-4)
    for column in (np.array([9.0, 9.0]), [9.0, 9.0] * u.mag, MaskedColumn([9.0, 9.0], unit="mag")):
        same = fm.infer(spectra, known={"k_mag": column, "e_k_mag": 0.02})
        np.testing.assert_allclose(numbers(same), given, rtol=1e-6)
    half = numbers(fm.infer(spectra, known=Table({"k_mag": MaskedColumn([9.0, 9.0], mask=[False, True])})))
    np.testing.assert_allclose(half[:, 1], plain[:, 1], rtol=1e-5)
    np.testing.assert_allclose(numbers(fm.infer(spectra, known={"k_mag": [np.nan, np.nan]})), plain, rtol=1e-5)


def test_known_label(fm):
    """A label that is given is not asked for; asking for it all the same is an error."""
    table = fm.infer(spectrum(), known={"logg": 4.4})
    assert "logg" not in table.colnames
    with pytest.raises(InputValueError, match=r"labels: \['logg'\] asked for and given in known"):
        fm.infer(spectrum(), labels=["teff", "logg"], known={"logg": 4.4})


def test_label_known_of_some_stars(fm):
    """A label is told where it is not known, masked where it is, without a flag of what was not asked; not more."""
    spectra = [spectrum(0), spectrum(1), spectrum(2)]
    strict = changed(fm, usual_errors={"teff": 0.0, "logg": np.inf}, label_ranges={"teff": [1000.0, 1100.0]})
    known = {"logg": [4.4, np.nan, np.nan], "teff": np.ma.array([1050.0, 1050.0, 1050.0], mask=[False, False, True])}
    for labels in (None, ["teff", "logg"]):
        table = strict.infer(spectra, labels, known)
        assert table["logg"].mask.tolist() == table["e_logg"].mask.tolist() == [True, False, False]
        assert table["teff"].mask.tolist() == [True, True, False]
        large = Flag.LARGE_UNCERTAINTY | Flag.OUTSIDE_LABEL_RANGE
        assert (table["flag"] & large).tolist() == [0, 0, large]
        assert table.meta["known"] == "logg, teff"
    for row in (1, 2):
        its = {name: column[row] for name, column in known.items() if np.isfinite(np.ma.filled(column, np.nan)[row])}
        alone = fm.infer(spectra[row], "logg", its)
        np.testing.assert_allclose(table["logg"][row].value, alone["logg"][0].value, rtol=1e-5)
    nothing = fm.infer(spectra, known={"logg": np.nan})
    assert "logg" in nothing.colnames
    assert "known" not in nothing.meta


def test_results_as_known(fm):
    """Tables and rows of results are taken as they are: what is beside labels does not matter, masked is not known."""
    given = fm.infer(spectrum(1), known={"teff": 5000.0})
    given["file"] = ["star.fits"]
    expected = numbers(fm.infer(spectrum(0), "teff", {k: given[k][0] for k in ("logg", "e_logg")}), ["teff"])
    nothing = label_table("logg", [[np.nan]], [[np.nan]], flag=[1], n_pixels_used=[0], snr=[np.nan])
    for known in (given, given[0], Table(given), given.to_pandas()):
        np.testing.assert_allclose(numbers(fm.infer(spectrum(0), "teff", known), ["teff"]), expected, rtol=1e-6)
    np.testing.assert_allclose(numbers(fm.infer(spectrum(0), known=nothing)), numbers(fm.infer(spectrum(0))))
    with pytest.raises(InputValueError, match=r"known: \['ra'\] cannot be given"):
        fm.infer(spectrum(0), known=Table({"ra": [3.0], "flag": [0]}))
    with pytest.raises(InputValueError, match=r"known: \['flag'\] cannot be given"):
        fm.infer(spectrum(0), known={"flag": 0})


@pytest.mark.parametrize("kind", [Table, QTable])
def test_known_from_a_row(fm, kind):
    """A row has the units of its table, which plain ones keep to themselves; what was given is on record."""
    catalogue = Table({"k_mag": [9.0, 10.0], "teff": Column([4.0, 5.5], unit="kK")})
    star = kind(catalogue)[1]
    table = fm.infer(spectrum(), known=star)
    same = fm.infer(spectrum(), known={"k_mag": 10.0, "teff": 5500 * u.K})
    np.testing.assert_array_equal(numbers(table, ["logg"]), numbers(same, ["logg"]))
    assert table.meta["known"] == "k_mag, teff"
    assert "known" not in fm.infer(spectrum()).meta


def test_known_out_of_range(fm):
    """A label given that no training star had is flagged, and no other star is."""
    strict = changed(fm, label_ranges={"teff": [3000.0, 9000.0]})
    table = strict.infer([spectrum(0)] * 3, labels="logg", known={"teff": [367.0, 5000.0, np.nan]})
    assert ((table["flag"] & Flag.OUTSIDE_LABEL_RANGE) != 0).tolist() == [True, False, False]


@pytest.mark.parametrize("smallest", [0.0, 0.01, np.inf])
def test_known_exactly(fm, smallest):
    """Errors smaller than any of the training are none, and so is 0; larger ones matter."""
    weights = changed(fm, smallest_given=smallest)
    answers = [
        numbers(weights.infer(spectrum(), labels="teff", known={"logg": 3.0, "e_logg": error}), ["teff"])
        for error in (np.nan, 0.0, 1e-3, 0.3)
    ]
    same = [np.allclose(answer, answers[0], rtol=1e-5) for answer in answers]
    assert same == [True, True, smallest > 0, smallest > 1]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"labels": ["age"]}, InputValueError, r"labels: \['age'\] asked for; these weights know teff, logg"),
        ({"labels": []}, InputValueError, "labels: none asked for"),
        ({"labels": 5}, InputTypeError, "labels: 5, expected names such as"),
        ({"known": {"parallax": 1}}, InputValueError, r"known: \['parallax'\] cannot be given"),
        ({"known": 4.4}, InputTypeError, "known: float, expected a dictionary"),
        ({"known": {"k_mag": [1.0, 2.0, 3.0]}}, InputValueError, r"shape \(3,\), expected one number or one a star"),
        ({"known": {"k_mag": "bright"}}, InputTypeError, r"known\['k_mag'\]: 'bright'; expected numbers, plain in mag"),
        ({"known": {"teff": True}}, InputTypeError, r"known\['teff'\]: True; expected numbers, plain in K"),
        ({"known": {"teff": np.inf}}, InputValueError, r"known\['teff'\]: inf in row 0, expected finite numbers; give"),
        ({"known": {"e_teff": 50}}, InputValueError, "known: e_teff without teff; give the value, too"),
        ({"known": {"teff": 5000 * u.m}}, InputValueError, r"known\['teff'\]: unit m, expected K"),
        ({"known": {"teff": -9999}}, InputValueError, r"known\['teff'\]: -9999 in row 0, expected positive numbers"),
        (
            {"known": {"k_mag": -9999.99}},
            InputValueError,
            r"\['k_mag'\]: -9999.99 in row 0, expected numbers from -30 to 40 mag",
        ),
        (
            {"known": {"teff": 5000, "e_teff": -1}},
            InputValueError,
            r"known\['e_teff'\]: -1 in row 0, expected",
        ),
        ({"batch_size": 0}, InputValueError, "batch_size: 0, expected a positive integer"),
        ({"medium": "water"}, InputValueError, "medium"),
    ],
)
def test_bad_arguments(fm, kwargs, error, message):
    """A bad argument is named with what came and what was expected."""
    with pytest.raises(error, match=message):
        fm.infer(spectrum(), **kwargs)


@pytest.mark.parametrize("value", [1e25, -1e25])
def test_a_number_that_stands_for_no_flux(fm, value):
    """A mark in one pixel that nobody masked does not cost the star its labels."""
    plain, marked = spectrum(), spectrum()
    flux = marked.flux.value.copy()
    flux[30] = value
    found = fm.infer([plain, Spectrum(flux * u.one, WAVELENGTH * u.AA, uncertainty=marked.uncertainty)])
    assert np.isfinite(numbers(found)).all()
    # a median divides: of these spectra nothing else is changed by it
    assert found["n_pixels_used"].tolist() == [60, 59]


def test_domain_by_the_pixels_that_it_reads(fm):
    """A kind of spectrum is told by the spacing of the pixels in its range, whatever lies beyond."""
    fine = replace(fm.info.domains[0], name="fine", spacing_range=(0.0, 0.003), highest_power=500.0)
    info = replace(fm.info, domains=(fine, fm.info.domains[0]))
    beyond = np.arange(9060.0, 9560.0)
    for wavelength in (WAVELENGTH, np.concatenate((WAVELENGTH, beyond))):
        (arrays,) = from_arrays(wavelength, np.ones_like(wavelength))
        assert info.domain_of(arrays) == 1


def test_bad_spectra(fm):
    """What is no spectrum is refused."""
    with pytest.raises(InputTypeError):
        fm.infer(3.0)


def test_input_not_modified(fm):
    """The user's objects stay as they were."""
    mine = spectrum(0, radial_velocity=20 * u.km / u.s)
    flux, axis, sigma = mine.flux.copy(), mine.spectral_axis.copy(), mine.uncertainty.array.copy()
    fm.infer(mine)
    assert (mine.flux == flux).all()
    assert (mine.spectral_axis == axis).all()
    np.testing.assert_array_equal(mine.uncertainty.array, sigma)


def test_save_load(fm, tmp_path):
    """Saved and loaded, the same table, and a hash that traces it."""
    fm.save(tmp_path / "mine")
    again = SpectraFM.from_pretrained(tmp_path / "mine")
    table = again.infer(spectrum())
    np.testing.assert_array_equal(numbers(table), numbers(fm.infer(spectrum())))
    assert len(table.meta["weights_sha256"]) == 16
    assert vars(again.info) == vars(fm.info)


def test_saved_over_others(fm, tmp_path):
    """Weights take the place of others only where that is asked for, as tables do."""
    fm.save(tmp_path)
    other = changed(fm, label_ranges={"teff": [1.0, 2.0]})
    with pytest.raises(InputValueError, match=r"holds weights \(config.json, .*; choose another .* overwrite=True"):
        other.save(tmp_path)
    assert SpectraFM.load(tmp_path).info.domains == fm.info.domains
    other.save(tmp_path, overwrite=True)
    assert SpectraFM.load(tmp_path).info.domains == other.info.domains
    # a folder of other things is none of weights
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    fm.save(tmp_path / "new")


@pytest.mark.parametrize("packaged", [True, False])
def test_tuned_again_and_again(fm, tmp_path, monkeypatch, packaged):
    """Whatever weights come from, what is saved is loaded; as changes where whoever loads it has the rest."""
    if packaged:
        monkeypatch.setattr(_weights_files, "PRETRAINED", tmp_path)
    fm.save(tmp_path / "tiny")
    weights = SpectraFM.load(tmp_path / "tiny")
    stars = from_arrays(WAVELENGTH, tiny_table(12).flux, np.full((12, 60), 0.01))
    for times in range(3):
        labels = {"teff": np.linspace(4500, 5500, 12) + 100 * times}
        with warnings.catch_warnings():
            # twelve stars are predicted no better than by their mean
            warnings.simplefilter("ignore", SpectraFMWarning)
            tuned = weights.fine_tune(stars, labels, method="head", n_fold=2)
        folder = tmp_path / f"tuned {times}"
        tuned.save(folder)
        assert (folder / "model.safetensors").exists() != packaged
        weights = SpectraFM.load(folder)
        assert SpectraFM.from_pretrained(folder).weights_hash == weights.weights_hash
        found, expected = weights.infer(stars), tuned.infer(stars)
        np.testing.assert_allclose(numbers(found, ["teff"]), numbers(expected, ["teff"]), rtol=1e-5)
        assert weights.info.fine_tuning["base"] == ("tiny" if not times else weights.info.name.removesuffix("-head"))
    # whole weights in the place of changes
    fm.save(folder, overwrite=True)
    assert SpectraFM.load(folder).head is None
    assert not list(folder.glob("adapter.*"))


def test_changes_to_others_of_an_earlier_version(fm, tmp_path, monkeypatch):
    """Changes that do not say to what they are are those to what was fine-tuned, which can be given."""
    fm.save(tmp_path / "tiny")
    base = SpectraFM.load(tmp_path / "tiny")
    record = {"base": "tiny", "base_sha256": base.weights_hash}
    changes = base.adapted(base.model, base.info.domains[0], fine_tuning=record)
    with monkeypatch.context() as patch:
        patch.setattr(_weights_files, "PRETRAINED", tmp_path)
        changes.save(tmp_path / "changes")
    path = tmp_path / "changes" / "adapter.json"
    assert json.loads(path.read_text()) == record
    path.unlink()
    loaded = SpectraFM.load(tmp_path / "changes", base=base)
    np.testing.assert_array_equal(numbers(loaded.infer(spectrum())), numbers(base.infer(spectrum())))
    with pytest.raises(CheckpointError, match="base: these weights are changes to 'tiny', which is not in"):
        SpectraFM.load(tmp_path / "changes")
    # what it was loaded from is not in the package: it is saved whole
    loaded.save(tmp_path / "whole")
    assert SpectraFM.load(tmp_path / "whole").labels == fm.labels
    path.write_text("[]")
    with pytest.raises(CheckpointError, match="adapter.json is damaged"):
        SpectraFM.load(tmp_path / "changes", base=base)


@pytest.mark.parametrize("file", ["config.json", "spectrafm.json", "model.safetensors"])
def test_hash(fm, tmp_path, file):
    """Whatever decides labels and errors is in the hash."""
    fm.save(tmp_path)
    before = SpectraFM.load(tmp_path).weights_hash
    path = tmp_path / file
    if path.suffix == ".json":
        path.write_text(path.read_text().replace("0.", "0.1", 1))
    else:
        state = load_file(path)
        save_file({k: v + 0.01 if v.is_floating_point() else v for k, v in state.items()}, path)
    assert SpectraFM.load(tmp_path).weights_hash != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("spectrafm.json", '"median"', '"mean"'),
        ("spectrafm.json", '"logg"', '"gravity"'),
        ("config.json", '"norm_first"', '"norm_last"'),
    ],
)
def test_weights_of_another_version(fm, tmp_path, file, old, new):
    """Labels, normalisers and settings that this version does not know are told as what they are."""
    fm.save(tmp_path)
    path = tmp_path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError, match="damaged"):
        SpectraFM.load(tmp_path)


def test_describe(fm):
    """The description names labels, range, normaliser and provenance."""
    text = fm.describe()
    for part in ("'tiny'", "teff, logg", "3950-9050 Angstrom", "median", "trained on"):
        assert part in text
    assert "made by" not in text
    assert "teff: 2000 to 12000 K" in text
    assert "logg: -3 to 8" in text
    info = replace(fm.info, package_version="0.1")
    assert SpectraFM(fm.model, info).describe().endswith("made by spectrafm 0.1")


def test_from_pretrained_errors(tmp_path, monkeypatch):
    """Unknown names, empty folders and a missing hub client each say what to do."""
    with pytest.raises(InputValueError, match="no weights 'nonsense'; expected one of the packaged"):
        SpectraFM.from_pretrained("nonsense")
    with pytest.raises(CheckpointError, match="not found"):
        SpectraFM.from_pretrained(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match="pip install huggingface_hub"):
        SpectraFM.from_pretrained("hf://someone/weights")


@pytest.fixture
def asked(fm, tmp_path, monkeypatch):
    """Return what is asked of a client of the hub that finds these weights, or nothing that is called ``nobody``."""
    asked = []

    def snapshot_download(repo_id, revision=None, allow_patterns=None):
        asked.append((repo_id, revision, allow_patterns))
        if repo_id.startswith("nobody"):
            raise FileNotFoundError("An error happened while trying to locate the files on the Hub.\nAnd more.")
        return str(tmp_path / "snapshot")

    fm.save(tmp_path / "snapshot")
    client = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return asked


def test_from_hub(asked, tmp_path):
    """What the address says is fetched by the hub's client, and no file but those that are read."""
    assert SpectraFM.from_pretrained("hf://someone/weights").labels == ("teff", "logg")
    assert SpectraFM.from_pretrained("hf://someone/weights@v1.0").labels == ("teff", "logg")
    assert [call[:2] for call in asked] == [("someone/weights", None), ("someone/weights", "v1.0")]
    assert {path.name for path in (tmp_path / "snapshot").iterdir()} <= set(asked[0][2])
    assert not any("*" in pattern for pattern in asked[0][2])


@pytest.mark.parametrize("name", ["weights/mine", Path("weights/mine")])
def test_a_folder_that_is_missing_is_not_looked_for_elsewhere(asked, name):
    """A mistake in the name of a folder brings nobody's files, and the message says how those are asked for."""
    with pytest.raises(InputValueError, match="no weights 'weights/mine'; .*, for .* hub, 'hf://weights/mine'"):
        SpectraFM.from_pretrained(name)
    assert asked == []


@pytest.mark.parametrize("name", ["hf://weights", "hf://a/b/c", "hf://a/b@", "hf:///a/b"])
def test_addresses_that_are_none(asked, name):
    """What cannot be on the hub is not asked for."""
    with pytest.raises(InputValueError, match=f"name: '{name}', expected 'hf://owner/name' or"):
        SpectraFM.from_pretrained(name)
    assert asked == []


def test_what_the_hub_does_not_give(asked):
    """An error of the client is one of ours, with its first line."""
    with pytest.raises(
        InputValueError, match=r"cannot be fetched \(FileNotFoundError: .* the Hub.\); check the name and"
    ):
        SpectraFM.from_pretrained("hf://nobody/weights")


@pytest.mark.parametrize("device", ["foo", "cuda:99", None])
def test_devices_that_are_not_there(fm, tmp_path, device):
    """A device that is none, or that this machine lacks, is refused by name."""
    fm.save(tmp_path)
    with pytest.raises(InputValueError, match=f"device: {device!r}, "):
        SpectraFM.load(tmp_path, device)


def test_domains_by_name(fm):
    """A name that no domain has is answered with those that there are."""
    assert fm.info.number_of("tiny") == 0
    for look in (fm.info.number_of, fm.normalizer_of):
        with pytest.raises(InputValueError, match="domain: unknown 'nope'; these weights know tiny"):
            look("nope")


@pytest.mark.parametrize("field", ["domains", "quantities"])
def test_facts_of_another_kind(fm, tmp_path, field):
    """A file whose facts are not what they should be is damaged."""
    fm.save(tmp_path)
    facts = json.loads((tmp_path / "spectrafm.json").read_text()) | {field: [3]}
    (tmp_path / "spectrafm.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=f"damaged or of another version \\({field}: 3, expected each a"):
        SpectraFM.load(tmp_path)


def test_options_by_name(fm):
    """What is seldom given is given by name, and a name that is none is refused where it was given."""
    star, labels = spectrum(), {"teff": [5000.0]}
    for call in (
        lambda: fm.infer(star, "teff", None, "air"),
        lambda: fm.diagnose(star, "teff", None, "air"),
        lambda: fm.embed(star, "air"),
        lambda: fm.reconstruct(star, "air"),
        lambda: fm.recalibrate(star, labels, "conformal"),
        lambda: fm.attention(star, "teff", None, "air"),
        lambda: fm.sensitivity(star, "teff", None, "air"),
        lambda: fm.similar(star, star, 1, "air"),
    ):
        with pytest.raises(TypeError, match="positional argument"):
            call()
    for call in (lambda **k: fm.diagnose(star, **k), lambda **k: fm.similar(star, [star] * 2, **k)):
        for name in ("foo", "whole"):
            with pytest.raises(TypeError, match=f"(diagnose|similar).* unexpected keyword argument '{name}'"):
                call(**{name: 1})


def test_no_stars(fm):
    """An empty list gives an empty table with the right columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = fm.infer([])
    assert len(table) == 0
    assert "e_teff" in table.colnames


def test_endless_error_is_not_known(fm):
    """What is known with an infinite error is not known."""
    table = fm.infer(spectrum(), labels="teff", known={"logg": 3.0, "e_logg": np.inf})
    without = fm.infer(spectrum(), labels="teff", known={"logg": np.nan})
    np.testing.assert_array_equal(numbers(table, ("teff",)), numbers(without, ("teff",)))


def pixel_by_pixel(context_length, **changes):
    """Return an untrained SpectraFM that takes every pixel as a token, whose answers depend on them."""
    model = tiny_model(patch_size=1, wavelength_encoding="sinusoidal", context_length=context_length)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.torch_model.torch_decoder.decoder_out.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draws))
    half = {"with_sigma": 0.5, "without_sigma": 0.5}
    facts = {"wavelength_range": (3950.0, 9050.0), "spacing_range": (0.0, 1.0), "in_common": {"teff": 0.25}}
    domain = Domain(name="tiny", labels=("teff", "logg"), calibration={"teff": half}, **(facts | changes))
    return SpectraFM(model, WeightsInfo(name="tiny", domains=(domain,), known=("k_mag", "logg", "teff")))


def test_all_pixels_are_read():
    """More pixels than the context holds are read in sets: their mean, with an error of what they have in common."""
    fm = pixel_by_pixel(context_length=21)
    assert fm.model.most_pixels() == 20
    assert fm.model.most_pixels(1) == 19
    table = fm.infer(spectrum())
    assert table["n_pixels_used"][0] == 60
    # the normaliser sees the whole spectrum
    prepared = fm.prepare(from_arrays(WAVELENGTH, TABLE.flux[0], np.full(60, 0.01))[0], 0)
    some = [prepared.subset(i, 3, 20) for i in range(3)]
    assert sum(star.good.astype(int) for star in some).tolist() == prepared.good.astype(int).tolist()
    values, errors = fm.model.request(fm.perceive(some, 0), ["teff", "logg"])
    # teff is modelled by its logarithm
    errors[:, 0] /= values[:, 0]
    values[:, 0] = np.log(values[:, 0])
    weight = errors**-2 / (errors**-2).sum(axis=0)
    mean = (weight * values).sum(axis=0)
    one = (weight * errors**2).sum(axis=0)
    scatter = (weight * (values - mean) ** 2).sum(axis=0)
    # a quarter of the variance of teff is common to all sets, of logg all of it
    expected = np.sqrt(np.maximum(one * [0.25 + 0.75 / 3, 1.0], scatter / 2)) * [0.5, 1.0]
    mean[0] = np.exp(mean[0])
    expected[0] *= mean[0]
    np.testing.assert_allclose(numbers(table)[:, 0], np.stack([mean, expected], axis=1).ravel(), rtol=1e-5)
    # as many as the context holds are one set, as they always were
    just, ample = (numbers(pixel_by_pixel(length).infer(spectrum())) for length in (61, 99))
    np.testing.assert_allclose(just, ample, rtol=1e-6)
    # factors on errors act alike on those of one set and of many
    twice = changed(fm, calibration={"teff": {"with_sigma": 1.0, "without_sigma": 1.0}})
    np.testing.assert_allclose(twice.infer(spectrum())["e_teff"].value, 2 * table["e_teff"].value, rtol=1e-6)


def test_sets_fill_the_context():
    """One pixel too many makes two sets as large as the context, which overlap, and hardly a smaller error."""
    prepared = pixel_by_pixel(60).prepare(from_arrays(WAVELENGTH, TABLE.flux[0], np.full(60, 0.01))[0], 0)
    some = [prepared.subset(i, 2, 59) for i in range(2)]
    assert [star.n_good for star in some] == [59, 59]
    assert (some[0].good | some[1].good).all()
    for n_set, most in ((3, 25), (4, 17), (7, 9)):
        some = [prepared.subset(i, n_set, most) for i in range(n_set)]
        assert {star.n_good for star in some} == {most}
        assert np.any([star.good for star in some], axis=0).all()
    in_one, in_two = (pixel_by_pixel(n, in_common={"teff": 0.0}).infer(spectrum()) for n in (61, 60))
    np.testing.assert_allclose(in_two["e_teff"].value, in_one["e_teff"].value, rtol=0.1)
    with pytest.raises(InputValueError, match="known: 1 quantities leave no room for pixels in a context of 2"):
        pixel_by_pixel(2).infer(spectrum(), known={"logg": 2.0}, labels="teff")


def test_sets_of_pixels_and_batch_mates():
    """What all pixels say of a star depends neither on the stars beside it, nor on their order."""
    fm = pixel_by_pixel(context_length=21)
    mask = np.zeros(60, dtype=bool)
    mask[5:35] = True
    stars = [spectrum(), spectrum(1, mask=mask), spectrum(2), spectrum(3, mask=~mask)]
    table = fm.infer(stars, known={"logg": [2.0, np.nan, 3.0, 2.5]}, labels="teff")
    turned = fm.infer(stars[::-1], known={"logg": [2.5, 3.0, np.nan, 2.0]}, labels="teff")
    np.testing.assert_allclose(numbers(turned, ("teff",))[:, ::-1], numbers(table, ("teff",)), rtol=1e-5)
    alone = fm.infer(stars[1], labels="teff", known={"logg": np.nan})
    np.testing.assert_allclose(numbers(alone, ("teff",))[:, 0], numbers(table, ("teff",))[:, 1], rtol=1e-5)
    assert table["n_pixels_used"].tolist() == [60, 30, 60, 30]
    with pytest.warns(SpectraFMWarning, match="1 of 2 rows are masked"):
        nothing = fm.infer([spectrum(), spectrum(mask=np.ones(60, dtype=bool))])
    assert nothing["teff"].mask.tolist() == [False, True]


def named(n_star, names):
    """Return tiny stars with names."""
    sigma = np.full((n_star, 60), 0.01)
    return from_arrays(WAVELENGTH, TABLE.flux[:n_star], sigma, identifier=names)


def test_tables_in_another_order(fm):
    """A table whose rows are the stars in another order is refused, whatever it is given for."""
    names = ["a", "b", "c"]
    stars = named(3, names)
    table = QTable({"identifier": names[::-1], "teff": [5000.0, 5100.0, 5200.0] * u.K})
    for use in (
        lambda: fm.infer(stars, known=table),
        lambda: fm.diagnose(stars, known=table),
        lambda: fm.recalibrate(stars, table),
        lambda: fm.fine_tune(stars, table, method="head"),
    ):
        with pytest.raises(InputValueError, match=r"\['identifier'\]: the names of the stars in another order, 'c' in"):
            use()


@pytest.mark.parametrize("names", [["c ", " b", "a"], [b"c ", b"b", b"a"], [30, 20, 10], [30.0, 20.0, 10.0]])
@pytest.mark.parametrize("kind", ["table", "dict", "dict of lists", "dict of columns", "data frame"])
@pytest.mark.parametrize("argument", ["known", "labels_table"])
def test_remedy_for_another_order(fm, kind, names, argument):
    """Code in the message, followed to the letter, puts rows of each kind of table in the order of the spectra."""
    spectra = named(3, [" a", "b", "c"] if isinstance(names[0], (str, bytes)) else ["10", "20", "30"])
    columns = {"identifier": names, "teff": [5000.0, 5100.0, 5200.0], "e_teff": [1.0, 2.0, 3.0]}
    if kind == "data frame":
        # whose rows have numbers of their own
        given = pytest.importorskip("pandas").DataFrame(columns, index=[2, 0, 1])
    elif kind == "dict":
        given = {**columns, "identifier": np.array(names), "teff": columns["teff"] * u.K, "logg": 4.4}
    elif kind == "dict of lists":
        given = {**columns, "teff": [value * u.K for value in columns["teff"]], "logg": [4.4], "k_mag": 9 * u.mag}
    else:
        table = QTable(columns, units={"teff": u.K})
        given = table if kind == "table" else dict(Table(table).items())
    with pytest.raises(InputValueError, match="in another order") as caught:
        refuse_other_order(given, [star.identifier for star in spectra], argument)
    row, order, remedy = re.search("with row = (.*) and order = (.*) give (.*); where", str(caught.value)).groups()
    scope = {argument: given, "spectra": spectra, "numpy": np, "spectrafm": spectrafm}
    scope["row"] = eval(row, scope)
    scope["order"] = eval(order, scope)
    known = eval(remedy, scope)
    values, errors = known_quantities(known, 3, fm.info.known)["teff"]
    assert (values.tolist(), errors.tolist()) == ([5200, 5100, 5000], [3, 2, 1])
    refuse_other_order(known, [star.identifier for star in spectra], argument)
    assert len(fm.infer(spectra, known=known)) == 3


@pytest.mark.parametrize(
    ("stars", "rows"),
    [
        (["a", "b", "c"], ["a", "b", "c"]),
        (["a", "b", "c"], ["c", "b", "d"]),
        (["a", "b", "b"], ["b", "a", "a"]),
        (["b", "a", "b"], ["b", "a", None]),
        (["a", "b", "c"], [3.0e18, 2.0e18, 1.0e18]),
        # names of stars without one: spectra and table may have been sorted together
        (["0", "1", "2"], ["2", "0", "1"]),
        (["x:0", "x:1", "y:0"], ["y:0", "x:1", "x:0"]),
    ],
)
def test_names_that_do_not_tell_the_order(stars, rows):
    """Other names, the same ones in other numbers, and numbers of rows say nothing of the order."""
    refuse_other_order(Table({"identifier": rows}), stars, "known")


def test_repeated_names_in_another_order():
    """Names that repeat tell that the order is another one, but not which row is whose."""
    table = Table({"identifier": ["HD1", "HD1", "HD2"], "teff": [1.0, 2.0, 3.0]})
    message = "'HD1' in row 0 where the star is 'HD2'; .*; names repeat, .*: put the rows in order by hand; where"
    with pytest.raises(InputValueError, match=message):
        refuse_other_order(table, ["HD2", "HD1", "HD1"], "known")
    refuse_other_order(table, ["HD1", "HD1", "HD2"], "known")


def test_names_of_the_module_are_its_own():
    """What `_known` gives to others is written there."""
    assert all(getattr(_known, name).__module__ == _known.__name__ for name in _known.__all__)


def test_numbers_of_rows_that_moved():
    """Stars of which only numbers are known are told apart where they were moved themselves."""
    with pytest.raises(InputValueError, match="in another order"):
        refuse_other_order(Table({"identifier": ["0", "1", "2"]}), ["2", "1", "0"], "known")


def test_known_as_list_of_quantities(fm):
    """A list of quantities, or with masked numbers, is as good as an array; errors do not print all of it."""
    stars = named(3, None)
    expected = fm.infer(stars, known={"teff": [5000.0, np.nan, 5200.0] * u.K})["logg"].value
    for given in ([5000 * u.K, np.nan, 5.2 * u.kK], [5000, np.ma.masked, 5200]):
        np.testing.assert_allclose(fm.infer(stars, known={"teff": given})["logg"].value, expected)
    for given in (["hot"] * 1000, ["5000", "5100", "5200"], np.array(["5000", "hot", 3], dtype=object)):
        with pytest.raises(InputTypeError, match="expected numbers, plain in K or with a unit") as caught:
            fm.infer(stars, known={"teff": given})
        assert len(str(caught.value)) < 200


def test_true_labels_as_list_of_quantities():
    """True labels come as lists of quantities, too, and one number is not one a star."""
    values, _ = label_truth({"teff": [5.0 * u.kK, 5100 * u.K, 5200.0]}, 3)["teff"]
    assert values.tolist() == [5000, 5100, 5200]
    with pytest.raises(InputValueError, match=r"labels_table\['teff'\]: shape \(\), expected \(3,\): one row a star"):
        label_truth({"teff": 5000 * u.K}, 3)


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([5000 * u.AA, 6000.0], "AA", [5000, 6000]),
        ([500 * u.nm, 6000 * u.AA], "AA", [5000, 6000]),
        ([[1, 2] * u.nm, [3, 4] * u.nm], "AA", [[10, 20], [30, 40]]),
        ([4.4 * u.dex(u.cm / u.s**2), 4.5], "dex(cm s-2)", [4.4, 4.5]),
        (Masked([1.0, 2.0] * u.kK, mask=[True, False]), "K", [np.nan, 2000]),
        ([1.0, np.ma.masked], "K", [1, np.nan]),
        (3, "", 3),
    ],
)
def test_numbers_in_a_unit(values, unit, expected):
    """Plain numbers, quantities and both in a list; what is masked is NaN where that may be, and else refused."""
    np.testing.assert_allclose(plain_numbers("x", values, unit, masked=True), expected)
    if np.isnan(expected).any():
        with pytest.raises(InputValueError, match="x: 1 of 2 masked; expected a number everywhere"):
            plain_numbers("x", values, unit)
    else:
        np.testing.assert_allclose(plain_numbers("x", values, unit), expected)


@pytest.mark.parametrize("values", [["5000", "6000"], [True, False], [[1.0], [2.0, 3.0]], [1 * u.AA, "6000"], "x"])
def test_what_are_no_numbers(values):
    """Text that reads as numbers is as little a number as any other, alone or among others."""
    for masked in (False, True):
        with pytest.raises(InputTypeError, match="expected numbers, plain in AA or with a unit"):
            plain_numbers("x", values, "AA", masked=masked)


@pytest.mark.parametrize(
    ("name", "wrong", "fine"),
    [
        ("a_k", [-9.99, -50, 80], [-0.1, 5]),
        ("k_mag", [-50, 80, 99.99], [-26.7, 30]),
        ("fe_h", [-9.99, 99], [-7, 0.6]),
        ("logg", [-9.99, 99], [-0.5, 9.5]),
        ("vsini", [-9.99], [0, 500]),
        ("age", [-9.99], [0, 40]),
        ("rv_offset", [-9999], [-600, 600]),
        # in kilokelvin without the unit, too
        ("teff", [-9.99, 5.0], [250, 200_000]),
    ],
)
def test_numbers_that_no_star_has(name, wrong, fine):
    """What stands for "not known" in tables is refused, and what the oddest stars have is not."""
    for value in wrong:
        with pytest.raises(InputValueError, match=rf"known\['{name}'\]: {value:g} in row 1, expected numbers from"):
            known_quantities({name: [fine[0], value]}, 2, [name])
    assert known_quantities({name: fine}, 2, [name])[name][0].tolist() == fine


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("Teff", "teff"), ("log_g", "logg"), ("logg_err", "e_logg"), ("e_Teff", "e_teff"), ("temperature", "teff")),
        ("K_MAG", "k_mag"),
    ],
)
def test_mistyped_known(fm, name, meant):
    """A name that is nearly one of a quantity, or of its error, is told what was meant."""
    known = {"teff": 5000.0} if meant != "teff" else {}
    message = rf"known: \['{name}'\] cannot be given to these weights; did you mean: '{name}' \('{meant}'\?\); they"
    with pytest.raises(InputValueError, match=f"{message} accept .*, and their errors as e_<name>; rename"):
        fm.infer(
            spectrum(), known={"logg": 4.0, "k_mag": 9.0, **known, name: 1.0} if meant[:2] == "e_" else {name: 1.0}
        )


@pytest.mark.parametrize("kind", ["table", "data frame", "row", "dict"])
def test_other_columns_in_known(fm, kind):
    """Columns of other things are refused, and code in the message leaves them out of a table."""
    known = Table({"identifier": ["a", "b"], "name": ["x", "y"], "teff": [5000.0, 5100.0], "e_teff": [50.0, 60.0]})
    given = {"table": known, "row": known[0], "dict": dict(known[["name", "teff"]].items())}
    given = given[kind] if kind in given else pytest.importorskip("pandas").DataFrame(dict(known.items()))
    spectra = named(1 if kind == "row" else 2, None)
    with pytest.raises(InputValueError, match=r"known: \['name'\] cannot be given .* and leave others out") as caught:
        fm.infer(spectra, known=given)
    if kind in ("table", "data frame"):
        code = str(caught.value).rpartition("for example with ")[2]
        assert code == "known[['identifier', 'teff', 'e_teff']]"
        assert len(fm.infer(spectra, known=eval(code, {"known": given}))) == 2
    else:
        assert str(caught.value).endswith("leave others out")


def test_repeated_labels(fm, monkeypatch):
    """Labels that are asked for twice are refused before anything is encoded."""
    monkeypatch.setattr(type(fm), "perceive", lambda *_: pytest.fail("encoded"))
    with pytest.raises(InputValueError, match="labels: teff more than once"):
        fm.infer(spectrum(), labels=["teff", "logg", "teff"])


def test_libraries_of_numbers(fm):
    """Embeddings may be an array, a tensor or lists; what is of another shape is refused as embeddings."""
    stars = named(4, None)
    vectors = fm.embed(stars)
    expected = fm.similar(stars[:1], vectors, n=2)
    for library in (torch.tensor(vectors), vectors.tolist(), list(vectors)):
        found = fm.similar(stars[:1], library, n=2)
        assert found["match"].tolist() == expected["match"].tolist()
    for library in ([1.0, 2.0], [[1.0, 2.0], [3.0]]):
        with pytest.raises(InputValueError, match="library: "):
            fm.similar(stars[:1], library)


def test_fine_tuning_without_gradients(fm):
    """Whether gradients are kept where it is called does not matter to fine-tuning."""
    stars = from_arrays(WAVELENGTH, tiny_table(12).flux, np.full((12, 60), 0.01))
    labels = {"teff": np.linspace(4500, 5500, 12)}
    with torch.inference_mode(), warnings.catch_warnings():
        # twelve stars are predicted no better than by their mean
        warnings.simplefilter("ignore", SpectraFMWarning)
        tuned = fm.fine_tune(stars, labels, method="decoder", steps=1, n_fold=2)
    assert tuned.labels == ("teff",)


def test_load_of_a_file(tmp_path):
    """A file in place of a folder is named."""
    path = tmp_path / "model.py"
    path.touch()
    with pytest.raises(CheckpointError, match=r"folder: .*model.py is a file"):
        SpectraFM.load(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_processes():
    """A process that is forked after threads of PyTorch have started does not wait for them."""
    code = (
        "import os, signal, torch, spectrafm\n"
        "torch.set_num_threads(2)\n"
        "torch.ones(1 << 20).exp()\n"
        "if not (child := os.fork()):\n"
        "    signal.alarm(10)\n"
        "    torch.ones(1 << 20).exp()\n"
        "    os._exit(torch.get_num_threads())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
