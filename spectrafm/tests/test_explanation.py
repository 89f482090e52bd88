"""Where the model looks: gradients, attention, lines, and the test that they match."""

from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from astropy.table import QTable
from matplotlib.figure import Figure
from specutils import Spectrum

from spectrafm import SpectraFM
from spectrafm.adapters import from_arrays
from spectrafm.benchmarks import run_benchmark
from spectrafm.benchmarks.lines import benchmark_lines, synthetic_stars
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.explanation import label_attention, label_sensitivity, line_enrichment
from spectrafm.lines import LINES, element_lines
from spectrafm.plotting import plot_sensitivity
from spectrafm.synthesis import load_emulator
from spectrafm.tests.tiny import WAVELENGTH, tiny_model, tiny_table
from spectrafm.weights_info import Domain, WeightsInfo

TABLE = tiny_table(8, seed=5)
# every pixel a token, the paper's way; and two kinds of patches
KINDS = {
    "pixels": {"patch_size": 1, "wavelength_encoding": "sinusoidal", "context_length": 64},
    "sums": {},
    "interpolated": {"patch_knots": "interpolate"},
}


def tiny(kind, **changes):
    """Return an untrained SpectraFM whose heads are not the zeros they start from."""
    model = tiny_model(**(KINDS[kind] | changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.torch_model.torch_decoder.decoder_out.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    domain = Domain(name="tiny", labels=("teff", "logg"), wavelength_range=(3950.0, 9050.0))
    return SpectraFM(model, WeightsInfo(name="tiny", domains=(domain,), known=("k_mag", "logg", "teff")))


@pytest.fixture(scope="module", params=list(KINDS))
def fm(request):
    """Return a tiny SpectraFM of each kind."""
    return tiny(request.param)


@pytest.fixture(scope="module")
def packaged():
    """Return the packaged weights."""
    return SpectraFM.from_pretrained("base")


def spectrum(row=0, **kwargs):
    """Return one tiny star."""
    sigma = StdDevUncertainty(np.full(60, 0.01))
    return Spectrum(TABLE.flux[row] * u.one, WAVELENGTH * u.AA, uncertainty=sigma, **kwargs)


def prepared(fm, n_star=1, number=0):
    """Return tiny stars, normalised; the second lacks pixels."""
    mask = np.zeros((n_star, 60), dtype=bool)
    mask[1:, 7:30] = True
    stars = from_arrays(WAVELENGTH, TABLE.flux[:n_star], np.full((n_star, 60), 0.01), mask)
    return [fm.prepare(star, number) for star in stars]


def told(fm, stars, label, known=None):
    """Return what the model says of a label, ``(n_star,)``."""
    return fm.model.request(fm.perceive(stars, 0, known), [label])[0][:, 0]


@pytest.mark.parametrize("label", ["teff", "logg"])
def test_gradient_is_that_of_finite_differences(fm, label):
    """Pixel by pixel, of a label and of one whose logarithm is modelled, for stars in a batch."""
    stars = prepared(fm, 2)
    found = label_sensitivity(fm, stars, 0, ["logg", "teff"])
    for star, (wavelength, flux, slopes) in zip(stars, found, strict=True):
        np.testing.assert_array_equal(wavelength, star.wavelength[star.good])
        np.testing.assert_allclose(flux, star.flux[star.good], rtol=1e-5)
        slope, step, one = slopes[["logg", "teff"].index(label)], 1e-3, np.eye(60)[star.good]
        ends = [replace(star, flux=star.flux + sign * step * pixel) for sign in (1, -1) for pixel in one]
        up, down = np.split(told(fm, ends, label), 2)
        moved = (up - down) / (2 * step)
        np.testing.assert_allclose(slope, moved, atol=0.02 * np.abs(moved).max())
        assert np.abs(slope).max() > 0


def bridging(kind, **changes):
    """Return a tiny SpectraFM that bridges gaps, and a star with some, one of them too wide."""
    fm = tiny(kind, **changes)
    fm.info.domains[0].bridges = 3
    [star] = prepared(fm)
    good = np.ones(60, dtype=bool)
    good[[7, 20, 21, 22, 40, 41, 42, 43]] = False
    return fm, replace(star, good=good)


@pytest.mark.parametrize("label", ["teff", "logg"])
@pytest.mark.parametrize(
    ("kind", "changes"), [*((kind, {}) for kind in KINDS), ("pixels", {"context_length": 24})], ids=str
)
def test_gradient_beside_gaps_that_are_bridged(kind, changes, label):
    """What is put into a gap follows those beside it: a row a measured pixel, with all that moves with it."""
    fm, star = bridging(kind, **changes)
    [(wavelength, flux, [slope])] = label_sensitivity(fm, [star], 0, [label])
    place = np.searchsorted(star.wavelength, wavelength)
    np.testing.assert_array_equal(wavelength, star.wavelength[place])
    np.testing.assert_array_equal(flux, star.flux[place])
    assert star.good[place].all()
    assert changes or len(place) == star.n_good
    step, one = 1e-3, np.eye(60)
    ends = [replace(star, flux=star.flux + sign * step * pixel) for sign in (1, -1) for pixel in one]
    up, down = np.split(told(fm, ends, label), 2)
    moved = (up - down) / (2 * step)
    np.testing.assert_allclose(slope, moved[place], atol=0.02 * np.abs(moved).max())
    # nothing else moves the label, and what the context has no room for has no row
    np.testing.assert_allclose(np.delete(moved, place), 0, atol=0.02 * np.abs(moved).max())


@pytest.mark.parametrize("kind", list(KINDS))
def test_attention_beside_gaps_that_are_bridged(kind):
    """Attention of what is put into a gap is that of the pixels beside it, and none is lost."""
    fm, star = bridging(kind)
    weights = fm.model.request_attention(fm.model.perceive_tokens(fm.tokens([star], 0)), ["teff"]).mean(axis=0)
    [(wavelength, _, [attention])] = label_attention(fm, [star], 0, ["teff"])
    np.testing.assert_array_equal(wavelength, star.wavelength[star.good])
    np.testing.assert_allclose(attention.sum(), weights.sum(), rtol=1e-6)
    if kind == "pixels":
        seen = weights[0, 0]
        np.testing.assert_allclose(attention[:6], seen[:6], rtol=1e-6)
        np.testing.assert_allclose(attention[6:8], seen[[6, 8]] + seen[7] / 2, rtol=1e-6)


def test_gradient_of_packaged_weights(packaged):
    """Against finite differences in the direction in which the label changes fastest, in each domain."""
    # that of a fit is the derivative of its last step, and good to a tenth
    for name, power, low, high, rtol in (("apogee", 8000, 15_500, 16_500, 0.15), ("gaia_xp", 200, 4000, 9000, 0.03)):
        number = packaged.info.number_of(name)
        wavelength = np.exp(np.arange(np.log(low), np.log(high), 1 / (3 * power)))
        flux = 1 - 0.2 * np.random.default_rng(0).random(len(wavelength))
        [star] = from_arrays(wavelength, flux[None], np.full((1, len(wavelength)), 0.01))
        star = packaged.prepare(star, number)
        for label in ("teff", "mg_fe"):
            [(_, _, [slope])] = label_sensitivity(packaged, [star], number, [label])
            step = 2e-3 * slope / np.abs(slope).max()
            ends = [replace(star, flux=star.flux + sign * step) for sign in (1, -1)]
            values = packaged.model.request(packaged.perceive(ends, number), [label])[0][:, 0]
            np.testing.assert_allclose((values[0] - values[1]) / 2, step @ slope, rtol=rtol)


def test_gradient_in_any_mode(fm):
    """In inference mode, without gradients, and after all that, the network is as it was."""
    stars = prepared(fm)
    expected = label_sensitivity(fm, stars, 0, ["teff"])[0][2]
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            np.testing.assert_array_equal(label_sensitivity(fm, stars, 0, ["teff"])[0][2], expected)
    assert all(parameter.grad is None for parameter in fm.model.torch_model.parameters())


def test_stars_of_a_batch_are_explained_alone(fm):
    """A star's attention and gradient are the same with mates of other length."""
    stars = prepared(fm, 3)
    for look in (label_attention, label_sensitivity):
        together = look(fm, stars, 0, ["teff", "logg"])
        for star, (wavelength, _, values) in zip(stars, together, strict=True):
            [(_, _, alone)] = look(fm, [star], 0, ["teff", "logg"])
            assert values.shape == (2, len(wavelength))
            np.testing.assert_allclose(values, alone, rtol=1e-3, atol=1e-4 * np.abs(alone).max())


def test_attention_is_that_of_the_patches(fm):
    """Pixels add up to what the request gave to the patches, and those of a patch share alike."""
    [star] = prepared(fm)
    tokens = fm.tokens([star], 0)
    weights = fm.model.request_attention(fm.model.perceive_tokens(tokens), ["teff"]).mean(axis=0)[0, 0]
    [(_, _, [attention])] = label_attention(fm, [star], 0, ["teff"])
    np.testing.assert_allclose(attention.sum(), weights.sum(), rtol=1e-6)
    n_token = len(np.unique(np.round(attention, 12)))
    assert n_token == len(weights)
    if fm.model.config.patch_size > 1:
        assert 1 < n_token < 20
        edges = np.flatnonzero(np.diff(attention)) + 1
        sums = [part.sum() for part in np.split(attention, edges)]
        np.testing.assert_allclose(sums, weights, rtol=1e-6)


def test_known_takes_its_share(fm):
    """What is known besides gets attention, and no pixel gets that."""
    alone = fm.attention(spectrum(), "teff")["attention"].value
    helped = fm.attention(spectrum(), "teff", known={"logg": 2.5})["attention"].value
    assert len(helped) == len(alone) == 60
    assert 0 < helped.sum() < alone.sum() < 1


def test_tables(fm):
    """Wavelengths at rest, flux as the model sees it, units of the label, and where it is from."""
    table = fm.sensitivity(spectrum(), "teff", medium="vacuum")
    assert isinstance(table, QTable)
    assert table.colnames == ["wavelength", "flux", "sensitivity"]
    assert table["wavelength"].unit == u.AA
    assert table["sensitivity"].unit == u.K
    assert fm.sensitivity(spectrum(), "logg")["sensitivity"].unit == u.dex
    assert fm.attention(spectrum(), "logg")["attention"].unit == u.one
    assert {"label": "teff", "domain": "tiny", "model": "tiny", "frame": "rest"}.items() <= table.meta.items()
    np.testing.assert_allclose(np.median(table["flux"].value), 1, rtol=1e-5)
    moving = Spectrum(
        TABLE.flux[0] * u.one,
        WAVELENGTH * (1 + 100 / 299_792.458) * u.AA,
        uncertainty=StdDevUncertainty(np.full(60, 0.01)),
    )
    at_rest = fm.sensitivity(moving, "teff", radial_velocity=100 * u.km / u.s)
    np.testing.assert_allclose(at_rest["wavelength"].value, WAVELENGTH, rtol=1e-6)


def test_order_and_bad_pixels(fm):
    """A descending axis gives the same table; bad pixels are not in it, whatever stands in them."""
    mask = np.zeros(60, dtype=bool)
    mask[20:33] = True
    flux = np.where(mask, 1e6, TABLE.flux[0])
    sigma = np.full(60, 0.01)
    turned = Spectrum(
        flux[::-1] * u.one, WAVELENGTH[::-1] * u.AA, uncertainty=StdDevUncertainty(sigma), mask=mask[::-1]
    )
    for how in (fm.attention, fm.sensitivity):
        table, other = how(spectrum(mask=mask), "teff"), how(turned, "teff")
        np.testing.assert_allclose(table["wavelength"].value, WAVELENGTH[~mask])
        for name in table.colnames:
            np.testing.assert_allclose(other[name].value, table[name].value, rtol=1e-5, atol=1e-6)


def test_unequal_context_is_thinned():
    """Where the context holds fewer pixels than there are, those left out have no row."""
    model = tiny_model(**(KINDS["pixels"] | {"context_length": 40}))
    domain = Domain(name="tiny", labels=("teff",))
    fm = SpectraFM(model, WeightsInfo(name="tiny", domains=(domain,)))
    table = fm.attention(spectrum(), "teff")
    assert len(table) == 39
    assert set(table["wavelength"].value) < set(WAVELENGTH)


def test_what_cannot_be_explained(fm):
    """Several stars, labels that are not told or given, spectra elsewhere, and heads say so."""
    with pytest.raises(InputValueError, match="spectrum: 2 stars, expected one"):
        fm.attention([spectrum(), spectrum(1)], "teff")
    with pytest.raises(InputTypeError, match="label: list, expected the name of one label"):
        fm.attention(spectrum(), ["teff"])
    with pytest.raises(InputValueError, match="labels: .*'beauty'.* asked for; these weights know teff, logg"):
        fm.sensitivity(spectrum(), "beauty")
    with pytest.raises(InputValueError, match="asked for and given in known"):
        fm.sensitivity(spectrum(), "logg", known={"logg": 2.0})
    with pytest.raises(InputValueError, match="no good pixel of positive continuum from 3950 to 9050"):
        fm.sensitivity(Spectrum(np.ones(9) * u.one, np.linspace(1e4, 2e4, 9) * u.AA), "teff")
    with pytest.raises(InputValueError, match="spectrum: no good pixel; expected some with a finite flux"):
        fm.sensitivity(Spectrum(np.full(60, np.nan) * u.one, WAVELENGTH * u.AA), "vsini")
    with pytest.raises(InputValueError, match="spectrum: got NoneType"):
        fm.attention([None], "teff")
    headed = SpectraFM(fm.model, fm.info, head=lambda *_: None)
    with pytest.raises(InputValueError, match="'teff' is predicted by a head beside the network"):
        headed.sensitivity(spectrum(), "teff")


def test_labels_of_other_domains(packaged):
    """A label that this kind of spectrum does not tell is refused, with those that it tells."""
    axis = np.linspace(15_200, 16_900, 2000) * u.AA
    with pytest.raises(InputValueError, match="spectra of apogee do not give 'alpha_m'; they give teff"):
        packaged.attention(Spectrum(np.ones(2000) * u.one, axis), "alpha_m")


def test_element_lines():
    """Lines ascend within the range, which may have units; unknown labels list the known ones."""
    np.testing.assert_array_equal(element_lines("al_fe", 16_700, 16_800), [16723.5, 16755.1, 16767.9])
    np.testing.assert_array_equal(element_lines("al_fe", 1.67 * u.um, 1.68 * u.um), [16723.5, 16755.1, 16767.9])
    for label in LINES:
        lines = element_lines(label)
        assert (np.diff(lines) > 0).all()
        assert len(element_lines(label, 3600, 7450)) + len(element_lines(label, 15_100, 17_000)) == len(lines)
    with pytest.raises(InputValueError, match="no lines of 'c_fe'; there are lines of teff, fe_h"):
        element_lines("c_fe")
    with pytest.raises(InputValueError, match="high: unit s, expected AA"):
        element_lines("al_fe", high=3 * u.s)


def _slopes(emulator, labels, star, power, wavelength):
    """Return d flux / d label ``(n_label, n_pixel)``; of Fe alone for fe_h, and for 1000 K of teff."""
    names = list(emulator.label_names)
    step = np.zeros((len(labels), len(names)))
    for row, label in enumerate(labels):
        step[row, names.index(label)] = 100.0 if label == "teff" else 0.1
        if label == "fe_h":
            # less of all others against iron: iron alone
            step[row, [i for i, name in enumerate(names) if name.endswith("_fe")]] = -0.1
    base = emulator.label_array(star)
    both = torch.from_numpy(np.concatenate((base + step, base - step)))
    with torch.inference_mode():
        flux = emulator.flux(both, resolving_power=power, wavelength=wavelength).double().numpy()
    return (flux[: len(labels)] - flux[len(labels) :]) / 0.2


@pytest.mark.parametrize(
    ("instrument", "power", "contrast"),
    [("apogee", 22_500, 2.0), ("apogee", 2000, 2.0), ("optical", 5000, 1.5), ("optical", 2000, 2.0)],
)
def test_lines_are_where_synthetic_spectra_have_them(instrument, power, contrast):
    """With more of an element, the flux of a giant or a dwarf falls, and most at its lines."""
    emulator = load_emulator(instrument)
    low, high = emulator.info.window
    wavelength = np.exp(np.arange(np.log(low + 3), np.log(high - 3), 1 / (6 * power)))
    hydrogen = power == 2000
    # lines of hydrogen are wide: seen sharply they have no other shape; those of metals overlap when seen dimly
    labels = [k for k in LINES if k != "teff" and (instrument, power) != ("apogee", 2000)] + ["teff"] * hydrogen
    stars = [{"teff": 4700, "logg": 2.4, "fe_h": 0}, {"teff": 5600, "logg": 4.4, "fe_h": 0}]
    slopes = {i: _slopes(emulator, labels, star, power, wavelength) for i, star in enumerate(stars)}
    if hydrogen:
        slopes[2] = _slopes(emulator, labels, {"teff": 6500, "logg": 4.2, "fe_h": 0}, power, wavelength)
    missed = []
    for row, label in enumerate(labels):
        for line in element_lines(label, low, high):
            offset = np.abs(np.log(wavelength / line)) * power
            depth = 0.0
            for slope in [slopes[2]] if label == "teff" else [slopes[0], slopes[1]]:
                slope = slope[row]
                inner = slope[1:-1]
                lowest = (inner <= slope[:-2]) & (inner <= slope[2:]) & (offset[1:-1] <= 1.5)
                if lowest.any():
                    level = min(np.median(slope[offset <= 10]), -1e-3)
                    depth = max(depth, inner[lowest].min() / level)
            if depth < contrast:
                missed.append((label, line, depth))
    assert not missed


def test_enrichment_finds_planted_lines():
    """Weight on the lines is found, with the ratio that was put there."""
    rng = np.random.default_rng(0)
    wavelength = np.exp(np.linspace(np.log(4000), np.log(5000), 3000))
    lines = rng.uniform(4050, 4950, 12)
    near = (np.abs(np.log(wavelength / lines[:, None])) < 3e-4).any(axis=0)
    weight = rng.exponential(size=3000) * np.where(near, 4.0, 1.0)
    found = line_enrichment(wavelength * u.AA, weight * u.K, np.append(lines, 9e9), 3e-4)
    assert found.n_line == 12
    assert found.n_pixel == near.sum()
    assert found.p_value < 0.002
    np.testing.assert_allclose(found.ratio, 4, rtol=0.25)
    np.testing.assert_allclose(found.shuffled, 1, rtol=0.15)
    assert line_enrichment(wavelength, weight, lines, 3e-4) == line_enrichment(
        wavelength / 1e4 * u.um, weight, lines, 3e-4, seed=np.random.default_rng(0)
    )


def test_enrichment_of_random_weights_is_chance():
    """P-values of weights that know nothing of the lines, correlated as they may be, are uniform."""
    rng = np.random.default_rng(1)
    wavelength = np.exp(np.linspace(np.log(4000), np.log(5000), 1000))
    lines, p = rng.uniform(4000, 5000, 9), []
    for seed in range(300):
        # circular, like the shifts
        weight = np.abs(np.fft.irfft(np.fft.rfft(rng.normal(size=1000)) * np.exp(-np.linspace(0, 3, 501)), 1000))
        p.append(line_enrichment(wavelength, weight, lines, 1e-3, n_shuffle=400, seed=seed).p_value)
    for level in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(np.mean(np.array(p) <= level), level, atol=0.09)


def test_enrichment_of_constant_weights():
    """Where all pixels are alike any place is as good."""
    found = line_enrichment(np.linspace(4000, 5000, 777), np.full(777, 0.1), [4321.0], 1e-3)
    np.testing.assert_allclose((found.ratio, found.p_value), (1, 1), rtol=1e-6)


def test_enrichment_needs_something_to_compare():
    """What cannot be tested says why."""
    wavelength, weight = np.linspace(4000, 5000, 100), np.ones(100)
    for arguments, match in (
        ((wavelength, weight[1:], [4500.0], 1e-3), r"weight: shape \(99,\) for wavelengths of shape \(100,\)"),
        ((wavelength, -weight, [4500.0], 1e-3), "weight: expected finite numbers, none negative"),
        ((wavelength, weight * np.nan, [4500.0], 1e-3), "weight: expected finite numbers"),
        ((wavelength, 0 * weight, [4500.0], 1e-3), "not all zero"),
        ((wavelength[::-1], weight, [4500.0], 1e-3), "wavelength: expected positive numbers that ascend"),
        ((wavelength, weight, [9000.0], 1e-3), "lines: 0 within 4000 to 5000 Angstrom, 0 of 100 pixels"),
        ((wavelength, weight, [4500.0], 1.0), "100 of 100 pixels"),
        ((wavelength, weight, [4500.0], 0.0), "width: 0.0, expected a positive number"),
        ((wavelength * u.s, weight, [4500.0], 1e-3), "wavelength: unit s, expected AA"),
    ):
        with pytest.raises(InputValueError, match=match):
            line_enrichment(*arguments)
    with pytest.raises(InputValueError, match="n_shuffle: 0, expected a positive number"):
        line_enrichment(wavelength, weight, [4500.0], 1e-2, n_shuffle=0)


def test_figure(fm):
    """Lines are marked where they are; missing pixels leave a gap; units are on the axis."""
    mask = np.zeros(60, dtype=bool)
    mask[20:33] = True
    table = fm.sensitivity(spectrum(mask=mask), "teff")
    ax = plot_sensitivity(table, [5000 * u.AA, 0.6 * u.um, 3 * u.um], ax=Figure().subplots())
    drawn = [line for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(drawn) == 1
    assert np.isnan(drawn[0].get_ydata()).sum() == 1
    marks = sorted(line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1)
    np.testing.assert_allclose(marks, [5000, 6000])
    assert "[K]" in ax.get_ylabel()
    assert ax.get_title(loc="left") == r"$T_\mathrm{eff}$"
    ax = plot_sensitivity(fm.attention(spectrum(), "logg"), ax=Figure().subplots())
    assert ax.get_ylabel() == "Attention"
    assert ax.get_ylim()[0] == 0
    with pytest.raises(InputValueError, match="no column 'wavelength'"):
        plot_sensitivity(QTable({"teff": [5000.0]}))
    with pytest.raises(InputValueError, match="no column 'sensitivity'"):
        plot_sensitivity(QTable({"wavelength": [5000.0]}))
    with pytest.raises(InputTypeError, match="table: list"):
        plot_sensitivity([1])
    with pytest.raises(InputValueError, match="lines: unit s, expected AA"):
        plot_sensitivity(table, [1] * u.s)


def test_stars_of_the_benchmark():
    """Giants and dwarfs by turns, the same for every emulator, within what it knows."""
    emulator = load_emulator("apogee")
    stars = synthetic_stars(emulator, 8)
    column = emulator.label_names.index("logg")
    assert (stars[::2, column] < 3.1).all()
    assert (stars[1::2, column] > 4).all()
    np.testing.assert_array_equal(stars, synthetic_stars(emulator, 8))


def test_report(tmp_path):
    """In the H band the packaged weights look at the lines of magnesium; what weights do not read is left out."""
    lines = list(benchmark_lines("base", n_star=4, domains=("apogee",)))
    [row] = [line.split() for line in lines if line.startswith("  mg_fe")]
    assert float(row[2]) > 3
    assert float(row[3]) < 0.02
    assert "attention is the same over patches" in lines[-1]
    assert list(run_benchmark("lines", tmp_path, "gaia_xp"))[-1].startswith("  error")
