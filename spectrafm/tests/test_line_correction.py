"""Lines that are brought to the depths that a model expects."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table

from spectrafm import SpectraFM
from spectrafm.adapters import from_arrays
from spectrafm.line_correction import LineCorrection, depth_ratio
from spectrafm.synthesis import load_emulator

WAVELENGTH = np.linspace(5000.0, 5100.0, 200)


def test_depth_ratio():
    """Lines of which stars have a half are found to be too deep; where there are no lines nothing is corrected."""
    line = 0.4 * np.exp(-0.5 * ((WAVELENGTH - 5050) / 2) ** 2)
    scale = np.linspace(0.5, 1.5, 20)[:, None]
    expected, flux = 1 - scale * line, 1 - 0.5 * scale * line
    ratio = depth_ratio(flux, expected, 1.0)
    assert ratio[100] == pytest.approx(0.5, abs=0.01)
    assert ratio[0] == pytest.approx(1.0)
    np.testing.assert_allclose(depth_ratio(flux, expected, 0.5), np.sqrt(ratio))
    np.testing.assert_array_equal(depth_ratio(flux, expected, 0.0), 1.0)
    flux[5:] = np.nan
    assert depth_ratio(flux, expected, 1.0)[100] == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(depth_ratio(np.full_like(flux, np.nan), expected, 1.0), 1.0)


def test_correction_and_back():
    """A correction is undone, leaves what lies beyond its range, and follows upon another."""
    rng = np.random.default_rng(0)
    correction = LineCorrection(WAVELENGTH, rng.uniform(0.5, 2.0, 200))
    at = np.linspace(4990.0, 5110.0, 300)
    star = from_arrays(at, rng.uniform(0.4, 1.1, 300), np.full(300, 0.01))[0]
    corrected = correction(star)
    np.testing.assert_allclose(corrected.flux[at < 5000], star.flux[at < 5000])
    flux, sigma = correction.undo(at, corrected.flux, corrected.sigma)
    np.testing.assert_allclose(flux, star.flux)
    np.testing.assert_allclose(sigma, star.sigma)
    both = correction.after(LineCorrection(WAVELENGTH, np.full(200, 2.0)))
    inside = (at > 5000) & (at < 5100)
    np.testing.assert_allclose(both(star).flux[inside], 1 - (1 - corrected.flux[inside]) / 2)
    assert correction.after(None) is correction


@pytest.mark.slow
def test_wrong_lines(synthetic_weights, tmp_path):
    """Stars whose lines are too deep in places are told better by a head that puts them right, also when saved."""
    # whether lines are put right is chosen within the given stars: of these draws, some do without
    fm, rng = SpectraFM.from_pretrained(synthetic_weights), np.random.default_rng(3)
    wavelength = np.exp(np.arange(np.log(5000), np.log(5500), 1 / 5000))
    labels = Table({k: rng.uniform(*ends, 70) for k, ends in
                    {"teff": (4400, 6000), "logg": (1.5, 4.5), "fe_h": (-1, 0.3)}.items()})  # fmt: skip
    clean = load_emulator("optical").spectrum(
        **{k: np.asarray(labels[k]) for k in labels.colnames}, resolving_power=2000, spectral_axis=wavelength * u.AA
    )
    # each resolution element has an error of its own, the same in all stars
    wrong = np.repeat(np.exp(rng.normal(scale=0.5, size=len(wavelength) // 5 + 1)), 5)[: len(wavelength)]
    flux = 1 - (1 - clean.flux.value) * wrong + 0.005 * rng.normal(size=clean.shape)
    stars = list(from_arrays(wavelength, flux))
    tuned = fm.fine_tune(stars[:40], labels[:40], method="head", n_fold=2)
    assert tuned.lines is not None
    found = np.interp(wavelength, tuned.lines.wavelength, tuned.lines.factor)
    deep = (1 - clean.flux.value).mean(axis=0) > 0.1
    assert np.corrcoef(np.log(found[deep]), np.log(wrong[deep]))[0, 1] > 0.25
    tuned.save(tmp_path)
    loaded = SpectraFM.load(tmp_path)
    before, after = tuned.infer(stars[40:]), loaded.infer(stars[40:])
    np.testing.assert_allclose(after["fe_h"].value, before["fe_h"].value, rtol=1e-4, atol=1e-4)
    # weights that are not in the package are saved as a whole
    assert (tmp_path / "model.safetensors").exists()
    # the model's own spectra have the lines of these stars now
    off = [np.std(weights.reconstruct(stars[40])[0].flux.value - flux[40]) for weights in (fm, tuned)]
    assert off[1] < 0.95 * off[0]
