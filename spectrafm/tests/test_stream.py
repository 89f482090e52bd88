"""Streams: stars of several sources, observed anew at every step, as inference will see them."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy import units as u
from specutils import Spectrum

from spectrafm import SpectraFM, thresholds
from spectrafm._tokens import GIVEN_ERRORS, spectra_to_tokens
from spectrafm.adapters import from_arrays
from spectrafm.continuum import ContinuumNormalizer
from spectrafm.datasets import LabelledSpectra, read_miles
from spectrafm.exceptions import ConfigError, InputTypeError, InputValueError
from spectrafm.stellarperceptron import AugmentationConfig, FitConfig, ModelConfig, Vocabulary
from spectrafm.stellarperceptron.tokens import Tokens
from spectrafm.synthesis import load_emulator
from spectrafm.synthesis.labels import draw_abundances
from spectrafm.tests.fake_grid import LABELS, fake_emulator, fake_flux, fake_grid, fake_wavelength, other_emulator
from spectrafm.tests.test_recipes import tiny_data
from spectrafm.tests.tiny import known_data
from spectrafm.training import (
    DomainConfig,
    EmulatorSource,
    LibrarySource,
    MixedEmulatorSource,
    MovedLibrarySource,
    ObservationConfig,
    ObservedSource,
    Recipe,
    RequestConfig,
    SourceConfig,
    StarStream,
    StreamPart,
    calibrate_weights,
    train_recipe,
)
from spectrafm.training.observation import add_artefacts, disturb_lines, draw_observation

SEEN = ObservationConfig(
    resolving_power=20_000.0, resolving_power_range=(5_000.0, 20_000.0), narrowest=20.0, snr=(20.0, 200.0)
)


@pytest.fixture(scope="module")
def synthetic():
    """Return synthetic stars of the made-up emulator."""
    return EmulatorSource(fake_emulator(), n_pool=300, seed=1)


@pytest.fixture(scope="module")
def vocabulary():
    """Return the names of a model of these stars, standardised roughly."""
    names = ["flux", *LABELS, "vsini", "ln_resolving_power"]
    mean = [1.0, np.log(5000), 3.0, -0.5, 0.1, 0.3, 1.0, 9.0]
    std = [0.1, 0.1, 1.0, 0.5, 0.2, 0.3, 1.0, 1.0]
    return Vocabulary(names, flux=["flux"], log=["teff", "vmicro", "vsini"], mean=mean, std=std)


def source_of(synthetic, vocabulary, observation=SEEN, **request):
    """Return observed stars."""
    settings = {"give_quantity": 0.0, "quantities_only": 0.0, "flux_requests": 4} | request
    return ObservedSource(synthetic, vocabulary, ContinuumNormalizer(), observation, RequestConfig(**settings))


def draw(source, n_star=32, seed=0):
    """Return one batch."""
    return source.batch(n_star, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(6))
def test_observation_is_within_its_limits(seed):
    """Wavelengths, windows, resolving powers and noise are those that were asked for."""
    seen = draw_observation(SEEN, 64, (16_000.0, 16_100.0), torch.Generator().manual_seed(seed), largest_power=15_000.0)
    assert (torch.diff(seen.wavelength, dim=1) > 0).all()
    assert seen.wavelength.min() >= 16_000.0
    assert seen.wavelength.max() <= 16_100.0
    extent = seen.wavelength[:, -1] - seen.wavelength[:, 0]
    assert (extent > 17).all()
    assert seen.resolving_power.min() > 3_400
    assert seen.resolving_power.max() <= 15_000
    per_fwhm = seen.wavelength.mean(1) / (extent / (seen.wavelength.shape[1] - 1)) / seen.resolving_power
    assert ((per_fwhm > 1.9) & (per_fwhm < 5.2)).all()
    typical = seen.sigma.median(dim=1).values
    assert ((typical > 1 / 600) & (typical < 0.3)).all()
    assert seen.good.any(dim=1).all()
    assert 0.1 < 1 - seen.sigma_known.double().mean() < 0.45
    assert torch.isfinite(seen.response).all()


def test_sparse_spectra():
    """Some of the spectra with bad pixels lose most of them, as many as are asked for."""
    settings = replace(SEEN, gaps=0.0, bad_pixels=1.0)
    lost = [
        1
        - draw_observation(replace(settings, sparse=s), 400, (16_000.0, 16_900.0), torch.Generator().manual_seed(0))
        .good.double()
        .mean(dim=1)
        for s in (0.0, 1.0)
    ]
    assert lost[0].max() < 0.4
    assert 0.5 < (lost[1] > 0.4).double().mean() < 0.7


def test_oversampled_spectra():
    """Spectra of a low resolving power come on the pixels of a higher one as often as is asked for."""
    settings = replace(SEEN, resolving_power=12_000.0, resolving_power_range=(3_000.0, 3_000.0), nominal=0.0)
    settings = replace(settings, whole_range=1.0, pixels_per_fwhm=(3.0, 3.0))

    def pixels(oversampled):
        config = replace(settings, oversampled=oversampled)
        draws = (draw_observation(config, 2, (16_000.0, 16_900.0), torch.Generator().manual_seed(i)) for i in range(60))
        return np.array([seen.wavelength.shape[1] for seen in draws])

    coarse, fine = pixels(0.0)[0], pixels(1.0)[0]
    assert fine == pytest.approx(4 * coarse, rel=0.02)
    assert (pixels(0.0) == coarse).all()
    some = pixels(0.5)
    assert set(some) == {coarse, fine}
    assert 0.3 < (some == fine).mean() < 0.7


def test_rotation_of_cool_stars(synthetic):
    """Some cool stars rotate as fast as hot ones do, most of them slowly."""
    stars = synthetic.draw(4000, torch.Generator().manual_seed(0))
    vsini = stars[stars[:, 0] < 6000, -1]
    assert len(vsini) > 1000
    assert vsini.min() >= 1
    assert vsini.max() <= 80.1
    assert 0.03 < (vsini > 15.1).double().mean() < 0.09


def test_galactic_stars():
    """Some stars have abundances near the trends of the Galaxy."""

    def spread(galactic):
        pool = EmulatorSource(fake_emulator(), n_pool=400, galactic=galactic).pool
        return pool[:, LABELS.index("mg_fe")].std()

    assert spread(1.0) < 0.85 * spread(0.0)


def test_undisturbed(synthetic, vocabulary):
    """All of the range, at the nominal resolving power, with noise alone; the source itself stays as it is."""
    config = replace(SEEN, resolving_power=15_000.0, line_error=0.5, fast=0.5, tilt=1.0).undisturbed(snr=(50.0, 50.0))
    seen = draw_observation(config, 16, (16_000.0, 16_100.0), torch.Generator().manual_seed(0))
    assert seen.good.all()
    assert (seen.response == 1).all()
    assert (seen.radial_velocity == 0).all()
    np.testing.assert_allclose(seen.resolving_power, 15_000)
    np.testing.assert_allclose(seen.sigma, 1 / 50, rtol=1e-5)
    assert (seen.wavelength[:, -1] - seen.wavelength[:, 0] > 99).all()
    source = source_of(synthetic, vocabulary)
    [view] = source.undisturbed()
    spectra, values, _ = view.examples(8, torch.Generator().manual_seed(0))
    assert all(star.good.all() for star in spectra)
    assert source.observation == SEEN
    assert values.keys() == source.examples(8, torch.Generator().manual_seed(0))[1].keys()


def test_artefacts():
    """As many stars as asked for have spikes and dips, few pixels of each and none below 5 % of the flux."""
    n_star, n_pixel = 400, 8000
    config = replace(SEEN, artefacts=0.3, gaps=0.0, pixels_per_fwhm=(1.0, 1.0), power_spread=0.0).undisturbed
    seen = draw_observation(config(artefacts=0.3), n_star, (12_000.0, 18_000.0), torch.Generator().manual_seed(0))
    assert seen.wavelength.shape == (n_star, pytest.approx(n_pixel, rel=0.05))
    flux = 1 - 0.5 * torch.rand(seen.wavelength.shape, generator=torch.Generator().manual_seed(1))
    flux[:, 10] = -0.2
    found = add_artefacts(config(artefacts=0.3), flux, seen, torch.Generator().manual_seed(2))
    changed = found != flux
    hit = changed.any(dim=1)
    # few of these stars have so few that none comes
    assert 0.22 < hit.double().mean() < 0.35
    # a star is as it was, to the last bit, or has some
    assert torch.equal(found[~hit], flux[~hit])
    assert 0.001 < changed[hit].double().mean() < 0.05
    assert changed[hit].double().mean(dim=1).max() < 0.12
    assert (found >= torch.minimum(flux, 0.05 * flux)).all()
    assert (found < 0.1).sum() > (flux < 0.1).sum()
    assert (found - flux)[hit].max() > 0.3
    assert torch.equal(found, add_artefacts(config(artefacts=0.3), flux, seen, torch.Generator().manual_seed(2)))
    assert add_artefacts(config(), flux, seen, torch.Generator()) is flux


def test_flawless(synthetic, vocabulary):
    """The same stars and noise without artefacts; what is undisturbed has none either, the source itself has."""
    spoilt = source_of(synthetic, vocabulary, replace(SEEN, artefacts=1.0))
    plain = source_of(synthetic, vocabulary, SEEN)
    assert spoilt.undisturbed()[0].observation.artefacts == 0
    spectra, flawless, expected = (
        source.examples(8, torch.Generator().manual_seed(5))[0] for source in (spoilt, spoilt.flawless(), plain)
    )
    for star, other in zip(flawless, expected, strict=True):
        np.testing.assert_array_equal(star.flux, other.flux)
    assert spoilt.observation.artefacts == 1
    assert any(not np.array_equal(star.flux, other.flux) for star, other in zip(spectra, expected, strict=True))


def test_observation_errors():
    """Settings that contradict each other are all named."""
    with pytest.raises(ConfigError, match=r"(?s)gaps must be in \[0, 1\], not 2.*snr must be two positive numbers"):
        ObservationConfig(gaps=2, snr=(100.0, 10.0))
    with pytest.raises(ConfigError, match=r"give_quantity must be in \[0, 0.7\], not 0.9"):
        RequestConfig(give_quantity=0.9)
    with pytest.raises(ConfigError, match="give_quantity must be in"):
        RequestConfig(give_quantity=-1)


def test_synthetic_stars(synthetic):
    """Stars differ from draw to draw, stay in the range of the emulator, and have the flux of their labels."""
    generator = torch.Generator().manual_seed(0)
    stars = synthetic.draw(200, generator)
    assert synthetic.names == (*LABELS, "vsini")
    assert len(torch.unique(stars[:, 0])) == 200
    for i, (low, high) in enumerate(fake_emulator().label_ranges.values()):
        assert (stars[:, i] >= low - 1e-3).all()
        assert (stars[:, i] <= high + 1e-3).all()
    stars[:, -1] = 0.0
    wavelength = torch.from_numpy(fake_wavelength()[50:-50]).expand(200, -1)
    power = torch.full((200,), fake_emulator().base_resolving_power)
    flux = synthetic.flux(stars, wavelength, power, torch.zeros(200))
    expected = fake_flux(stars[:, :-1].double().numpy())[:, 50:-50]
    assert np.median(np.abs(flux.numpy() - expected)) < 2e-3
    with pytest.raises(InputValueError, match="n_pool: none of 1 stars"):
        EmulatorSource(fake_emulator(), n_pool=1, seed=0)


def test_lines_of_two_lists(synthetic):
    """Stars have more or less of the lines of the other list, each its own share in each region."""
    own, other = fake_emulator(), other_emulator()
    mixed = MixedEmulatorSource(own, other, n_pool=300, seed=1)
    assert mixed.names == synthetic.names
    stars = mixed.draw(200, torch.Generator().manual_seed(0))
    values, errors = mixed.values(stars)
    torch.testing.assert_close(values, synthetic.draw(200, torch.Generator().manual_seed(0)))
    assert (errors == 0).all()
    seen = torch.from_numpy(fake_wavelength()[50:-50]).expand(200, -1), torch.full((200,), 9000.0), torch.zeros(200)
    flux, clean = mixed.flux(stars, *seen), synthetic.flux(values, *seen)
    there = ((clean - clean**1.5) > 0.02).numpy() & (flux > 0).numpy()
    share = np.where(there, ((clean - flux) / (clean - clean**1.5)).numpy(), np.nan)
    average = np.nanmean(share, axis=1)
    assert average.mean() == pytest.approx(0.5, abs=0.1)
    assert 0.2 < average.std() < 0.45
    assert 0.3 < np.nanmean(np.nanstd(share, axis=1)) < 0.5
    # of neighbours it is alike
    step = np.abs(np.diff(share, axis=1))
    assert np.nanmedian(step) < 0.1
    assert mixed.settings() == synthetic.settings() | {"other": "fake"}
    other.info = replace(own.info, label_names=own.label_names[:-1])
    with pytest.raises(InputValueError, match=r"other: its labels are \('teff', .*, expected \('teff', "):
        MixedEmulatorSource(own, other, n_pool=300, seed=1)


def test_library():
    """Stars of a library come at any wavelength with the labels of their rows; what is not known is NaN."""
    grid = fake_grid(8, seed=4)
    teff = np.where(np.arange(8) == 3, np.nan, grid.labels[:, 0])
    flux = np.where(np.arange(grid.flux.shape[1]) == 77, np.nan, 5e-14 * grid.flux)
    data = LabelledSpectra(grid.wavelength, flux, 0 * flux, {"teff": teff}, {}, np.arange(8).astype(str))
    library = LibrarySource(data, [1, 3, 5], resolving_power=25_000.0)
    stars = torch.tensor([0, 1, 2, 0])
    values, errors = library.values(stars)
    np.testing.assert_allclose(values[:, 0], teff[[1, 3, 5, 1]], rtol=1e-6)
    assert torch.isnan(errors).all()
    low, high = library.wavelength_range
    at = np.linspace(low, high, 300)
    power = torch.full((4,), 25_000.0)
    found = library.flux(stars, torch.from_numpy(at).expand(4, -1), power, torch.zeros(4)).numpy()
    for star, row in enumerate((1, 3, 5, 1)):
        expected = np.interp(at, grid.wavelength, grid.flux[row] / np.median(grid.flux[row]))
        np.testing.assert_allclose(found[star], expected, atol=0.02)


def test_moved_library():
    """Stars of a library move to labels near their own as the emulator says, with all that it does not know of them."""
    grid = fake_grid(40, seed=4)
    quirk = 1 + 0.1 * np.sin(np.arange(grid.flux.shape[1]) / 30)
    labels = {name: grid.labels[:, i].copy() for i, name in enumerate(LABELS[:3])}
    labels["logg"][3], labels["teff"][5] = np.nan, 9000.0
    rows, settings = np.arange(1, 40), {"emulator": fake_emulator(), "resolving_power": 25_000.0}
    data = LabelledSpectra(grid.wavelength, grid.flux * quirk, 0 * grid.flux, labels, {}, np.arange(40).astype(str))
    source = MovedLibrarySource(data, rows, **settings)
    stars = source.draw(2000, torch.Generator().manual_seed(0))
    row, moved = stars[:, 0].long(), torch.isfinite(stars[:, 1])
    # what is not known of a star, or of stars like it, is not made up
    assert not moved[torch.isin(row, torch.tensor([2, 4]))].any()
    assert 0.3 < moved.float().mean() <= 0.8
    values, errors = source.values(stars)
    assert torch.isnan(errors).all()
    known = torch.from_numpy(np.stack([labels[name][rows] for name in LABELS[:3]], axis=1)).float()
    torch.testing.assert_close(values[~moved], known[row][~moved], equal_nan=True)
    torch.testing.assert_close(values[moved], stars[moved, 1:4], rtol=1e-5, atol=1e-4)
    change = (values - known[row])[moved]
    assert (change[:, 0] / known[row][moved, 0]).std().item() == pytest.approx(0.03, rel=0.2)
    assert change[:, 1].std().item() == pytest.approx(0.3, rel=0.2)
    same = MovedLibrarySource(data, rows, **settings).draw(2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, stars, rtol=0, atol=0, equal_nan=True)

    # a star of the library is synthetic but for its quirk: so it is where it is moved to
    some = torch.cat((stars[moved][:50], stars[~moved][:50]))
    low, high = source.wavelength_range
    at = torch.linspace(low + 2, high - 2, 300, dtype=torch.float64).expand(100, -1)
    power, still = torch.full((100,), 25_000.0), torch.zeros(100)
    found = source.flux(some, at, power, still)
    plain = LibrarySource(data, rows, resolving_power=25_000.0).flux(some[:, 0].long(), at, power, still)
    torch.testing.assert_close(found[50:], plain[50:])
    own = torch.tensor(
        [
            [star[name] for name in LABELS]
            for star in (draw_abundances(0, i, *known[i].tolist()) for i in row[moved][:50])
        ]
    )
    there, here = (
        fake_emulator().to(dtype=torch.float32).flux(of, resolving_power=25_000.0, wavelength=at[:50])
        for of in (some[:50, 1:], own)
    )
    torch.testing.assert_close(found[:50] / plain[:50], there / here, rtol=0.02, atol=0)
    assert (there / here - 1).abs().mean() > 0.005
    # a run that goes on with stars of another kind is refused
    still = LibrarySource(data, rows, resolving_power=25_000.0).settings()
    assert source.settings() == still | {"moved_by": "fake", "seed": 0}
    del labels["logg"]
    with pytest.raises(InputValueError, match="no logg in the library, so its stars cannot be moved"):
        MovedLibrarySource(data, rows, **settings)


@pytest.mark.slow
def test_moved_stars_are_like_real_ones(shared_data):
    """A star of MILES that is moved to the labels of another is more like it than it was, and than a synthetic one."""
    data = read_miles(shared_data / "miles")
    source = MovedLibrarySource(data, np.arange(len(data)), emulator="optical", resolving_power=2000.0)
    emulator = load_emulator("optical").to(dtype=torch.float32)
    low, high = emulator.info.window
    at = torch.from_numpy(source.wavelength)[None]
    at = at[:, (at[0] >= low) & (at[0] <= high)]
    inside = ((at > 3900) & (at < 7300))[0]

    def shape(flux):
        return (flux / ContinuumNormalizer().divisor(at, flux, torch.ones_like(at, dtype=bool)))[0, inside]

    def seen(row, labels):
        star = torch.cat((row[None].float(), labels))[None]
        return source.flux(star, at, torch.tensor([2000.0]), torch.zeros(1))

    drawn = source.draw(20_000, torch.Generator().manual_seed(0))
    movable = torch.unique(drawn[torch.isfinite(drawn[:, 1]), 0].long())
    known = torch.tensor(np.stack([data.labels[name] for name in ("teff", "logg", "fe_h")], axis=1))[movable]
    own = torch.tensor(
        [
            [star[name] for name in emulator.label_names]
            for star in (draw_abundances(0, row, *labels) for row, labels in zip(movable, known.tolist(), strict=True))
        ]
    )
    stay = torch.full((len(emulator.label_names),), torch.nan)
    place = torch.stack((torch.log(known[:, 0]) / 0.03, known[:, 1] / 0.3, known[:, 2] / 0.2), dim=1)
    distance = torch.cdist(place, place)
    differences = []
    for i, star in enumerate(movable[:250]):
        near = torch.nonzero((distance[i] > 0.7) & (distance[i] < 2.5))[:, 0]
        if not len(near):
            continue
        j = near[len(near) // 2]
        real = shape(seen(movable[j], stay))
        moved = seen(star, torch.cat((own[j, :3], own[i, 3:])))
        pair = (seen(star, stay), moved, emulator.flux(own[j : j + 1], resolving_power=2000.0, wavelength=at))
        differences.append([(shape(flux) - real).std().item() for flux in pair])
    as_it_was, moved, synthetic = np.median(differences, axis=0)
    assert len(differences) > 150
    assert moved < 0.92 * as_it_was
    assert moved < 0.7 * synthetic


def test_same_step_same_batch(synthetic, vocabulary):
    """A step gives the same batch whenever it is drawn; steps and processes differ."""

    def first(step, **keywords):
        stream = StarStream({"h": StreamPart(source_of(synthetic, vocabulary))}, batch_size=16, **keywords)
        [(_, weight, batch)] = stream.batches(step)
        assert weight == 1
        return batch.target

    torch.testing.assert_close(first(5), first(5), rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(first(5), first(6))
    other = first(5, rank=1, world_size=2)
    assert len(other) == 8
    assert not torch.equal(first(5, rank=0, world_size=2), other)


def test_shares(synthetic, vocabulary):
    """Stars of a step are shared out, weights add up, validation is always the same."""
    parts = {k: StreamPart(source_of(synthetic, vocabulary), s, w) for k, s, w in (("a", 3, 1), ("b", 1, 4))}
    stream = StarStream(parts, batch_size=40, n_validation=70)
    assert {name: len(batch.target) for name, _, batch in stream.batches(0)} == {"a": 30, "b": 10}
    assert [weight for _, weight, _ in stream.batches(0)] == [0.2, 0.8]
    once, twice = (list(stream.validation()) for _ in range(2))
    assert [(name, len(batch.target)) for name, batch in once] == [("a", 64), ("a", 6), ("b", 64), ("b", 6)]
    for (_, a), (_, b) in zip(once, twice, strict=True):
        torch.testing.assert_close(a.tokens.value, b.tokens.value, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="batch_size: 1 leaves no star for some of a, b"):
        StarStream(parts, batch_size=1, world_size=2)
    with pytest.raises(ConfigError, match="shares and weights must be positive"):
        StarStream({"a": StreamPart(parts["a"].source, share=0)})


def test_training_sees_what_inference_sees(synthetic, vocabulary):
    """The pixels of a batch are those that inference makes of the same flux, normaliser and all."""
    source = source_of(synthetic, vocabulary)
    generator = torch.Generator().manual_seed(3)
    stars = synthetic.draw(5, generator)
    seen = source._observe(5, generator)
    clean = synthetic.flux(stars, seen.wavelength, seen.resolving_power, seen.radial_velocity)
    flux, sigma = source._measured(clean, seen, torch.Generator().manual_seed(8))
    batch = Tokens(*source._pixels(clean, seen, torch.Generator().manual_seed(8))).compact()
    rows = zip(seen.wavelength, flux.double(), sigma.double(), ~seen.good, strict=True)
    arrays = [from_arrays(*(row.numpy() for row in star))[0] for star in rows]
    tokens = spectra_to_tokens([source.normalizer(star) for star in arrays], vocabulary)
    assert torch.equal(batch.token, tokens.token)
    torch.testing.assert_close(batch.value, tokens.value, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch.sigma, tokens.sigma, rtol=1e-4, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(batch.wavelength, tokens.wavelength, rtol=1e-12, atol=0)


def test_noise_is_what_the_errors_say(synthetic, vocabulary):
    """Pixels scatter about the star by as much as is told."""
    source = source_of(synthetic, vocabulary, replace(SEEN, withhold_sigma=0.0, bad_pixels=0.0, gaps=0.0))
    generator = torch.Generator().manual_seed(1)
    stars = synthetic.draw(16, generator)
    seen = source._observe(16, generator)
    clean = synthetic.flux(stars, seen.wavelength, seen.resolving_power, seen.radial_velocity)
    flux, sigma = source._measured(clean, seen, generator)
    z = ((flux - clean * seen.response) / sigma).flatten()
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.03


def test_velocities(synthetic):
    """Some stars have all of their velocity; it is a label that pixels tell, and so is what is left of others."""
    names = ["flux", *LABELS, "vsini", "rv_offset", "ln_resolving_power"]
    vocabulary = Vocabulary(names, flux=["flux"], log=["teff", "vmicro", "vsini"])
    vocabulary.mean[:], vocabulary.std[:], vocabulary.fitted = 0.0, 1.0, True
    vocabulary.mean[vocabulary.tokens("teff").item()] = 1.0
    calm = replace(SEEN, whole_range=1.0, gaps=0.0, bad_pixels=0.0, tilt=0.0, velocity=1.0, snr=(2000.0, 2001.0))
    source = source_of(synthetic, vocabulary, replace(calm, fast=0.5))
    assert source.targets[-1] == "rv_offset"
    velocity = draw(source, 400).target[:, len(source.targets) - 1]
    assert 0.42 < (velocity.abs() > 5).double().mean() < 0.56
    assert 280 < velocity.abs().max() <= 300
    assert np.abs(source.sample("rv_offset")).max() > 280
    spectra, values, errors = source.examples(6, torch.Generator().manual_seed(2))
    assert (errors["rv_offset"] == 0).all()
    stars = torch.tensor([[values[name][i] for name in synthetic.names] for i in range(6)], dtype=torch.float32)
    for i, star in enumerate(spectra):
        trials = torch.linspace(-300, 300, 601)
        at = torch.from_numpy(star.wavelength).expand(601, -1)
        power = torch.full((601,), star.resolving_power)
        flux = synthetic.flux(stars[i].expand(601, -1), at, power, trials).double().numpy()
        best = trials[np.abs(flux - star.flux).mean(axis=1).argmin()].item()
        assert abs(best - values["rv_offset"][i]) < 1


def test_line_errors(synthetic, vocabulary):
    """Lines are too deep or too shallow, half of the stars are left alone, the continuum stays where it is."""
    config = replace(SEEN, resolving_power_range=(20_000.0, 20_000.0), whole_range=1.0, line_error=0.3)
    generator = torch.Generator().manual_seed(0)
    seen = draw_observation(config, 200, synthetic.wavelength_range, generator)
    clean = synthetic.flux(synthetic.draw(200, generator), seen.wavelength, seen.resolving_power, seen.radial_velocity)
    found = disturb_lines(config, clean, seen, torch.Generator().manual_seed(5))
    deep = (1 - clean) > 0.02
    ratio = torch.where(deep, torch.log((1 - found) / (1 - clean)), torch.nan)
    alone = torch.isnan(ratio) | (ratio.abs() < 1e-4)
    assert 0.35 < alone.all(dim=1).double().mean() < 0.65
    scatter = torch.sqrt(torch.nanmean(ratio**2, dim=1))
    assert 0.2 < torch.nan_to_num(scatter).max() < 0.8
    # a third of the largest at least, of two errors at a time
    hit = scatter[~alone.all(dim=1)]
    assert torch.quantile(hit[torch.isfinite(hit)], 0.1) > 0.08
    assert (found - clean).abs()[(clean - 1).abs() < 1e-7].max() < 1e-6
    torch.testing.assert_close(found, disturb_lines(config, clean, seen, torch.Generator().manual_seed(5)))
    assert disturb_lines(SEEN, clean, seen, generator) is clean
    weak = disturb_lines(replace(SEEN, veil=0.05), clean, seen, generator)
    assert (weak <= clean + 1e-6).all()
    assert (clean - weak).max() > 0.05
    both = disturb_lines(replace(config, veil=0.05), clean, seen, generator)
    assert 0.35 < ((both - clean).abs() < 1e-6).all(dim=1).double().mean() < 0.65
    few = disturb_lines(replace(config, wrong_lines=0.1), clean, seen, generator)
    assert 0.82 < ((few - clean).abs() < 1e-6).all(dim=1).double().mean() < 0.98


def test_line_errors_leave_the_continuum(vocabulary):
    """A spectrum without lines stays as it is, however steep: what is far below its median is no line."""
    wavelength = np.arange(3600.0, 7400.0, 2.0)
    slope = wavelength**-5.0 / np.expm1(1.4388e8 / (wavelength * 4000.0))  # a black body
    flux = (slope / np.median(slope))[None]
    assert flux.max() / flux.min() > 3
    data = LabelledSpectra(wavelength, flux, 0 * flux, {"teff": np.array([4000.0])}, {}, np.array(["black body"]))
    library = LibrarySource(data, [0], resolving_power=2000.0)
    config = ObservationConfig(
        resolving_power=1500.0, nominal=1.0, whole_range=1.0, wrong_lines=1.0, line_error=0.4, velocity=0.0
    )
    source = ObservedSource(library, vocabulary, ContinuumNormalizer(), config, targets=["teff"])
    generator = torch.Generator().manual_seed(0)
    stars, seen = library.draw(32, generator), source._observe(32, generator)
    clean = library.flux(stars, seen.wavelength, seen.resolving_power, seen.radial_velocity)
    found = source._disturbed(clean, seen, generator)
    torch.testing.assert_close(found, clean, rtol=0.01, atol=0)
    # as if the median were the continuum
    assert (disturb_lines(config, clean, seen, generator) / clean - 1).abs().max() > 0.05


def test_settings_tell_of_stars(synthetic, vocabulary):
    """What a run must go on with says where its stars come from."""
    observed = source_of(synthetic, vocabulary)
    assert observed.settings()["stars"] == {"emulator": "fake", "n_pool": 300, "seed": 1, "galactic": 0.0}
    stream = StarStream({"h": StreamPart(observed)}, batch_size=16)
    assert stream.settings()["stream"]["h"]["stars"]["n_pool"] == 300


def test_given_is_not_asked(synthetic, vocabulary):
    """Labels that are given, in the units of the model, are no targets; without a spectrum they are all there is."""
    batch = draw(source_of(synthetic, vocabulary, give_quantity=0.7, give_resolving_power=1.0), 200)
    for i, name in enumerate((*LABELS, "vsini")):
        given = (batch.tokens.token == vocabulary.tokens(name).item()).any(dim=1)
        assert 0.05 < given.double().mean() < 0.5
        assert torch.equal(given, torch.isnan(batch.target[:, i]))
    assert (batch.tokens.token == vocabulary.tokens("ln_resolving_power").item()).any(dim=1).all()
    only = draw(source_of(synthetic, vocabulary, quantities_only=1.0), 50)
    assert not (only.tokens.token == vocabulary.tokens("flux").item()).any()
    assert (only.weight == 1).all()
    assert (only.request_wavelength[:, -4:] > 15_990).all()


def test_given_with_errors(synthetic, vocabulary):
    """Half of the labels given are exact, the others as far off as the error says that comes with them."""
    source = source_of(synthetic, vocabulary, give_quantity=0.7)
    generator = torch.Generator().manual_seed(4)
    stars, seen = synthetic.draw(3000, generator), source._observe(3000, generator)
    values, errors = source._values(stars, seen)
    given = torch.ones(values.shape, dtype=torch.bool)
    _, told, sigma, _ = source._named(given, values, errors, seen.resolving_power, generator)
    row = source.targets.index("logg")
    truth, _ = source._standardized("logg", values[:, row], errors[:, row])
    exact = torch.isnan(sigma[:, row])
    assert 0.45 < exact.float().mean() < 0.55
    torch.testing.assert_close(told[exact, row], truth[exact])
    z = ((told[:, row] - truth) / sigma[:, row])[~exact]
    assert 0.93 < z.std() < 1.07
    low, high = sigma[~exact, row].min(), sigma[~exact, row].max()
    assert GIVEN_ERRORS[0] <= low < 1.1 * GIVEN_ERRORS[0]
    assert 0.9 * GIVEN_ERRORS[1] < high <= GIVEN_ERRORS[1]


def test_scale_of_flux_is_that_of_stars(synthetic, vocabulary):
    """Flux is standardised by stars, not by their noise: pixels with hardly any light would set the scale."""
    calm = source_of(synthetic, vocabulary, replace(SEEN, snr=(1000.0, 1000.0)))
    noisy = source_of(synthetic, vocabulary, replace(SEEN, snr=(2.0, 3.0)))
    assert abs(noisy.sample("flux").std() / calm.sample("flux").std() - 1) < 0.3
    assert 0.01 < noisy.sample("flux").std() < 0.2


def test_fluxes_asked_for_are_those_of_the_star(synthetic, vocabulary):
    """They have neither noise nor response nor gaps, and lie where pixels are or are missing."""
    observation = replace(SEEN, velocity=0.0, tilt=0.5)
    batch = draw(source_of(synthetic, vocabulary, observation, flux_requests=200), 4)
    target = batch.target[:, -200:] * 0.1 + 1
    assert torch.isfinite(target).all()
    assert 0 < target.min() < 0.9
    assert target.max() < 1.3
    assert (batch.weight[:, -200:] == 0.1).all()
    pixels = [set(row.tolist()) for row in batch.tokens.wavelength]
    asked = [set(row.tolist()) for row in batch.request_wavelength[:, -200:]]
    inside = [len(a & p) / len(a) for a, p in zip(asked, pixels, strict=True)]
    assert max(inside) > 0.5
    assert min(inside) < 1


def test_context(synthetic, vocabulary):
    """Where every pixel is a token, each star keeps its own random ones, as many as the context holds."""
    source = ObservedSource(
        synthetic, vocabulary, ContinuumNormalizer(), SEEN, RequestConfig(quantities_only=0.0), context_length=40
    )
    batch = draw(source, 6)
    assert batch.tokens.token.shape[1] <= 40
    pixels = [set(row[row > 0].tolist()) for row in batch.tokens.wavelength]
    assert all(len(row) >= 30 for row in pixels)
    places = [np.argsort(batch.tokens.wavelength[i].numpy()) for i in range(2)]
    assert not np.array_equal(*places)


def test_no_target(synthetic, vocabulary):
    """Labels that no star has are an error."""
    with pytest.raises(InputValueError, match=r"targets: none of \['alpha_m'\] is known"):
        ObservedSource(synthetic, vocabulary, ContinuumNormalizer(), targets=["alpha_m"])


TINY_MODEL = ModelConfig(
    embedding_dim=32,
    encoder_heads=(4,),
    encoder_dense=(48,),
    decoder_heads=(4,),
    decoder_dense=(48,),
    head_dense=(32,),
    patch_size=64,
    patch_components=48,
    patch_dense=48,
    patch_place="modulate",
)


def train_mixed(folder, fit=None, model=None, **options):
    """Train for a moment on synthetic stars, a library and a table; return the model and its log."""
    grid = fake_grid(60, seed=9)
    labels = {name: grid.labels[:, i] for i, name in enumerate(LABELS[:3])}
    nothing = np.full(grid.flux.shape, np.nan, dtype=np.float32)
    library = LabelledSpectra(grid.wavelength, grid.flux, nothing, labels, {}, np.arange(60).astype(str))
    observation = replace(SEEN, snr=(30.0, 300.0))
    seen = {"domain": "lines", "observation": observation}
    settings = {"steps": 60, "batch_size": 96, "warmup_steps": 5, "learning_rate": 3e-3}
    settings |= {"log_every": 30, "validation_every": 60}
    recipe = Recipe(
        name="mixed",
        labels=("teff", "logg", "fe_h", "mg_fe", "vsini"),
        known=("k_mag",),
        log=("teff", "vsini"),
        model=replace(TINY_MODEL, **(model or {})),
        fit=FitConfig(**(settings | (fit or {}))),
        sources={
            "synthetic": SourceConfig(kind="emulator", data="fake", n_pool=500, share=2, **seen),
            "library": SourceConfig(
                kind="library", data="lines", resolving_power=25_000.0, validation_fraction=0.4, moved_by="fake", **seen
            ),
            "table": SourceConfig(
                kind="table", data="tiny", domain="sed", augmentation=AugmentationConfig(withhold_sigma=0.2)
            ),
        },
        domains={
            "lines": DomainConfig(normalizer={"name": "continuum"}, flux_kind="continuum_normalized"),
            "sed": DomainConfig(),
        },
    )
    with pytest.MonkeyPatch.context() as patch, known_data(lines=library, tiny=tiny_data(400)):
        patch.setattr("spectrafm.training.sources.load_emulator", lambda _: fake_emulator())
        patch.setattr(calibrate_weights, "_N_CALIBRATION", 100)
        patch.setattr(calibrate_weights, "_N_DENSITY", 200)
        train_recipe(recipe, folder, folder, **options)
    return SpectraFM.load(folder / "weights"), (folder / "log.csv").read_text().splitlines()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a model trained on all three kinds of sources."""
    return train_mixed(tmp_path_factory.mktemp("mixed"))


def learnt(log):
    """Return the last residual of the temperature of synthetic stars, standardised."""
    return float(log[-1].split(",")[log[0].split(",").index("synthetic:mad_std_teff")])


MODERN = {"optimizer": "muon", "precision": "auto", "compile": True, "ema_decay": 0.9}


@pytest.mark.gpu
@pytest.mark.parametrize(("fit", "n_worker"), [({}, 0), ({}, 1), (MODERN, 0), (MODERN, 2)])
def test_training_on_a_gpu(trained, tmp_path, fit, n_worker):
    """A GPU learns as well, by itself or with processes that make the stars; its weights work on the CPU."""
    fm, log = train_mixed(tmp_path, fit, device="cuda", n_worker=n_worker)
    assert learnt(log) < 1.5 * learnt(trained[1])
    table = fm.infer([line_star(), line_star(1)])
    assert np.isfinite(table["e_teff"].value).all()


@pytest.mark.slow
def test_stars_made_ahead(trained, tmp_path):
    """Training gives the same, number by number, whoever makes the stars."""
    _, log = train_mixed(tmp_path, n_worker=2)
    column = log[0].split(",").index("loss")
    losses = [[line.split(",")[column] for line in lines[1:]] for lines in (log, trained[1])]
    assert losses[0] == losses[1]


def line_star(row=0, sigma=0.01):
    """Return a made-up star in the window of lines."""
    grid = fake_grid(8, seed=21)
    wavelength = fake_wavelength()[60:-60]
    noise = sigma * np.random.default_rng(row).normal(size=len(wavelength))
    return Spectrum((grid.flux[row][60:-60] + noise) * u.one, wavelength * u.AA)


@pytest.mark.slow
def test_mixed_training(trained):
    """Sources are validated one by one, and each kind of spectrum finds its domain and its labels."""
    fm, log = trained
    header = log[0].split(",")
    assert {"data_share", "synthetic:mad_std_teff", "library:validation_loss", "table:mad_std_logg"} <= set(header)
    assert "library:mad_std_mg_fe" not in header
    lines, sed = fm.info.domains
    assert lines.labels == ("teff", "logg", "fe_h", "mg_fe", "vsini")
    assert sed.labels == ("teff", "logg")
    assert lines.predicts_flux
    assert not sed.predicts_flux
    tiny = tiny_data(3)
    star = Spectrum(tiny.flux[0] * u.one, tiny.wavelength * u.AA)
    table = fm.infer([line_star(), star, line_star(1)])
    assert table["fe_h"].mask.tolist() == [False, True, False]
    assert not hasattr(table["teff"], "mask")
    alone = fm.infer(star)
    np.testing.assert_allclose(table["teff"][1].value, alone["teff"][0].value, rtol=1e-5)
    assert fm.embed([line_star(), star]).shape == (2, 32)


@pytest.mark.slow
def test_what_sets_of_pixels_have_in_common(tmp_path, monkeypatch):
    """Where every pixel is a token, calibration finds how much of the error of a few pixels more of them take off."""
    monkeypatch.setattr(calibrate_weights, "_N_SETS", 64)
    fit = {"steps": 6, "log_every": 6, "validation_every": 6}
    fm, _ = train_mixed(tmp_path, fit, model={"patch_size": 1, "context_length": 41})
    lines, sed = fm.info.domains
    assert lines.in_common.keys() == lines.calibration.keys()
    assert all(0 <= share <= 1 for share in lines.in_common.values())
    # where the context holds all pixels, nothing is to be known
    assert (len(tiny_data(3).wavelength) > 40) == bool(sed.in_common)
    star = line_star()
    table = fm.infer(star)
    lines.in_common = dict.fromkeys(lines.in_common, 1.0)
    one = fm.infer(star)
    n_set = 40 / table["n_pixels_used"][0]
    for name in ("teff", "logg"):
        assert one[name][0] == table[name][0]
        ratio = (table[f"e_{name}"][0] / one[f"e_{name}"][0]).value
        assert n_set**0.5 - 1e-9 <= ratio <= 1


def test_thresholds_are_those_of_flawless_stars(trained, synthetic, monkeypatch):
    """Stars with artefacts, which flags are to find, are not among the good ones that decide about flags."""
    weights, _ = trained
    source = source_of(synthetic, weights.model.vocabulary, replace(SEEN, artefacts=1.0))
    monkeypatch.setattr(thresholds, "_N_STAR", 48)
    examples, seen = ObservedSource.examples, []
    monkeypatch.setattr(
        ObservedSource,
        "examples",
        lambda self, *arguments: (seen.append(self.observation.artefacts), examples(self, *arguments))[1],
    )

    def limits(source):
        density = {name: torch.from_numpy(array) for name, array in weights._density.items()}
        fm = SpectraFM(weights.model, copy.deepcopy(weights.info), density)
        thresholds.set_thresholds(fm, {"synthetic": (source, source)})
        return fm.info.domains[0].thresholds

    assert limits(source) == limits(source_of(synthetic, weights.model.vocabulary, SEEN)) != {}
    assert seen == [0.0, 0.0]


def test_predict_spectrum(trained):
    """Labels give spectra with errors, one or many, in any unit; what cannot be asked is an error."""
    fm, _ = trained
    axis = np.linspace(16_010, 16_090, 50) * u.AA
    one = fm.predict_spectrum({"teff": 5000 * u.K, "logg": 2.0}, axis, resolving_power=20_000)
    assert one.flux.shape == (50,)
    assert np.isfinite(one.flux.value).all()
    assert (one.uncertainty.array > 0).all()
    two = fm.predict_spectrum({"teff": [5000, 6000], "logg": 2.0}, axis.to(u.um), resolving_power=20_000)
    np.testing.assert_allclose(two.flux.value[0], one.flux.value, rtol=1e-5)
    assert two.meta["domain"] == "lines"
    assert np.abs(two.flux.value[1] - two.flux.value[0]).max() > 1e-3
    with pytest.raises(InputValueError, match="spectral_axis: from 5000 to 5100 Angstrom; lines covers"):
        fm.predict_spectrum({"teff": 5000}, np.linspace(5000, 5100, 50) * u.AA, domain="lines")
    with pytest.raises(InputValueError, match="predict no flux of sed; they predict teff, logg"):
        fm.predict_spectrum({"teff": 5000}, np.linspace(4000, 9000, 60) * u.AA)
    with pytest.raises(InputValueError, match="domain: unknown 'radio'; these weights know lines, sed"):
        fm.predict_spectrum({"teff": 5000}, axis, domain="radio")
    with pytest.raises(InputValueError, match="labels: a star of which nothing is known"):
        fm.predict_spectrum({}, axis)
    with pytest.raises(InputTypeError, match="labels: list, expected a dictionary or an astropy Table"):
        fm.predict_spectrum([5000], axis)
    with pytest.raises(InputValueError, match=r"labels: \['age'\] cannot be given"):
        fm.predict_spectrum({"age": 3}, axis)


def test_reconstruct(trained):
    """A spectrum comes back at all its wavelengths, with its slope and unit; gaps are filled."""
    fm, _ = trained
    star = line_star()
    slope = 3e-14 * (star.spectral_axis.value / 16_000) ** -4
    mask = np.zeros(len(slope), dtype=bool)
    mask[40:60] = True
    flux = np.where(mask, np.nan, star.flux.value * slope) * u.Unit("erg s-1 cm-2 AA-1")
    [found] = fm.reconstruct(Spectrum(flux, star.spectral_axis, mask=mask))
    inside = (star.spectral_axis.value > 16_000) & (star.spectral_axis.value < 16_100)
    np.testing.assert_allclose(found.spectral_axis.value, star.spectral_axis.value[inside])
    assert np.isfinite(found.flux.value).all()
    ratio = found.flux.to_value("erg s-1 cm-2 AA-1") / (star.flux.value * slope)[inside]
    assert 0.9 < np.median(ratio) < 1.1


def test_similar(trained):
    """A star is most like itself, also with other noise; embeddings serve as a library."""
    fm, _ = trained
    library = [line_star(row, 0.001) for row in range(8)]
    table = fm.similar([line_star(3, 0.002), line_star(5, 0.002)], library, n=2)
    assert table.colnames == ["row", "match", "distance", "identifier", "match_identifier"]
    assert table["match"][0] == 3
    assert table["match"][2] == 5
    assert table["distance"][0] < table["distance"][1]
    again = fm.similar([line_star(3, 0.002), line_star(5, 0.002)], fm.embed(library), n=2)
    np.testing.assert_allclose(again["distance"], table["distance"])
    with pytest.raises(InputValueError, match=r"library: embeddings of shape \(4, 5\); expected \(n_library, 32\)"):
        fm.similar(library, np.zeros((4, 5)))
    with pytest.raises(InputValueError, match="n: 0, expected a positive integer"):
        fm.similar(library, library, n=0)
    with pytest.raises(InputValueError, match="batch_size: -1, expected a positive integer"):
        fm.embed(library, batch_size=-1)
    # told resolving power is seen, as in infer
    told = fm.embed([line_star()], resolving_power=500)
    assert not np.allclose(told, fm.embed([line_star()]))
