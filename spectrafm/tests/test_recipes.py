"""Recipes: reading, splitting, calibrating, and training end to end."""

import copy
import dataclasses
import json
import tomllib

import numpy as np
import pytest

from spectrafm import Flag, SpectraFM
from spectrafm.adapters import from_arrays
from spectrafm.datasets import LabelledSpectra
from spectrafm.exceptions import ConfigError, InputTypeError, InputValueError, SpectraFMError
from spectrafm.quantities import QUANTITIES
from spectrafm.stellarperceptron import AugmentationConfig, FitConfig, StellarPerceptron
from spectrafm.tests.fake_grid import fake_emulator
from spectrafm.tests.fake_mps import FakeMps
from spectrafm.tests.tiny import WAVELENGTH, known_data, tiny_config, tiny_table
from spectrafm.training import (
    DomainConfig,
    ObservationConfig,
    Recipe,
    RequestConfig,
    SourceConfig,
    StarStream,
    StreamPart,
    build_stream,
    calibrate,
    load_recipe,
    make_vocabulary,
    recipe_names,
    split_stars,
    token_table,
    train_recipe,
)
from spectrafm.training import train as train_module
from spectrafm.weights_info import WeightsInfo


def tiny_data(n_star=300, seed=0):
    """Return the tiny stars as a labelled data set."""
    table = tiny_table(n_star, seed)
    return LabelledSpectra(
        wavelength=WAVELENGTH,
        flux=table.flux,
        sigma=table.sigma,
        labels={"teff": table.column("teff"), "logg": table.column("logg"), "k_mag": table.column("k_mag")},
        label_errors={"teff": np.full(n_star, 20.0), "logg": np.full(n_star, 0.02)},
        identifier=np.array([f"star {i}" for i in range(n_star)]),
        flux_kind="relative_sed",
        medium="vacuum",
    )


@pytest.fixture
def recipe():
    """Return a recipe that trains in a second."""
    return Recipe(
        name="tiny",
        labels=("teff", "logg"),
        known=("k_mag",),
        log=("teff",),
        model=tiny_config(),
        fit=FitConfig(steps=80, batch_size=64, warmup_steps=5, learning_rate=3e-3, log_every=40, seed=1),
        sources={
            "stars": SourceConfig(
                kind="table",
                data="tiny",
                domain="tiny",
                validation_fraction=0.4,
                augmentation=AugmentationConfig(withhold_sigma=0.2, noise=1.0),
            )
        },
        domains={"tiny": DomainConfig()},
        training_data="made up",
    )


@known_data(tiny=tiny_data())
def test_bridges(recipe, tmp_path):
    """What a domain says of gaps is in the weights, and has to be a number of pixels."""
    with pytest.raises(ConfigError, match="bridges must be an integer of 0 or more, not -1"):
        DomainConfig(bridges=-1)
    short = dataclasses.replace(
        recipe, domains={"tiny": DomainConfig(bridges=3)}, fit=FitConfig(steps=2, batch_size=16, warmup_steps=1)
    )
    assert train_recipe(short, "nowhere", tmp_path).info.domains[0].bridges == 3


@known_data(tiny=tiny_data())
def test_untold(recipe):
    """Labels that spectra of a domain do not tell are learnt, and are not among those that it tells."""
    with pytest.raises(ConfigError, match=r"untold of domain 'tiny' names \['vsinii'\], which are no labels of the"):
        dataclasses.replace(recipe, domains={"tiny": DomainConfig(untold=("vsinii",))})
    untold = dataclasses.replace(recipe, domains={"tiny": DomainConfig(untold=("logg",))})
    model = StellarPerceptron(untold.model, make_vocabulary(untold), seed=0)
    _, calibration = build_stream(untold, "nowhere", model.vocabulary)
    assert calibration["stars"][0].targets == ("teff", "logg")
    [domain] = calibrate(model, untold, calibration).info.domains
    assert domain.labels == ("teff",)
    assert list(domain.label_ranges) == ["teff"]


def test_packaged_recipes():
    """Every packaged recipe is consistent, and settings can be replaced by section."""
    assert "gaia_xp" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).name == name
    assert load_recipe("gaia_xp", {"fit": {"steps": 777}}).fit.steps == 777


def test_extended_recipe(tmp_path):
    """A recipe takes what it does not say from the one it extends, setting by setting."""
    path = tmp_path / "mine.toml"
    path.write_text('extends = "small"\nname = "mine"\n[fit]\nsteps = 700\n[sources.miles]\nshare = 3.0\n')
    mine, small = load_recipe(path), load_recipe("small")
    assert (mine.name, mine.fit.steps, mine.sources["miles"].share) == ("mine", 700, 3.0)
    assert mine.fit.batch_size == small.fit.batch_size
    assert mine.sources["miles"].observation == small.sources["miles"].observation
    assert mine.sources["apogee"] == small.sources["apogee"]
    assert mine.labels == small.labels
    path.write_text(f'extends = "{path}"\n')
    with pytest.raises(ConfigError, match="mine.toml: extends itself"):
        load_recipe(path)


def test_extended_recipe_lies_beside(tmp_path, monkeypatch):
    """A recipe that is extended is looked for beside the one that extends it, packaged ones by their names first."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "base2.toml").write_text('extends = "small"\nname = "base2"\n[fit]\nsteps = 700\n')
    (tmp_path / "small").write_text("not a recipe")
    (tmp_path / "inner" / "mine.toml").write_text('extends = "../base2.toml"\nname = "mine"\n')
    for folder, path in ((tmp_path.parent, tmp_path / "inner" / "mine.toml"), (tmp_path / "inner", "mine.toml")):
        monkeypatch.chdir(folder)
        mine = load_recipe(path)
        assert (mine.name, mine.fit.steps) == ("mine", 700)
    (tmp_path / "inner" / "mine.toml").write_text('extends = "base2.toml"\nname = "mine"\n')
    with pytest.raises(InputValueError, match=r"inner/mine.toml: extends no recipe 'base2.toml'; packaged are .*small"):
        load_recipe("mine.toml")


def test_changes_are_of_known_sections():
    """Sections that cannot be changed are refused, not left alone in silence."""
    with pytest.raises(ConfigError, match=r"changes: \['fitt', 'sources'\]; expected .* sections model, fit, request"):
        load_recipe("gaia_xp", {"fitt": {"steps": 3}, "sources": {}, "fit": {"steps": 5}})
    with pytest.raises(ConfigError, match=r"changes: \['fit'\]; expected a dictionary"):
        load_recipe("gaia_xp", {"fit": 3})


def test_recipe_errors(tmp_path):
    """Unknown recipes, settings and names are errors that list the known ones."""
    with pytest.raises(InputValueError, match="no recipe 'soup'; packaged are .*gaia_xp"):
        load_recipe("soup")
    path = tmp_path / "mine.toml"
    path.write_text('name = "x"\nlabels = ["teff"]\nflavor = 3\n')
    with pytest.raises(ConfigError, match=r"mine.toml: .*unknown settings \['flavor'\]; known are: .*sources"):
        load_recipe(path)
    path.write_text(
        'name = "x"\nlabels = ["teff"]\nlog = ["logg"]\n[domains.b]\n[sources.s]\n'
        'kind = "table"\ndata = "y"\ndomain = "a"\n'
    )
    with pytest.raises(ConfigError, match=r"(?s)log names \['logg'\].*domain 'a', which is not described.*'b' has no"):
        load_recipe(path)
    path.write_text('name = "x"\n[domains.a]\n[sources.s]\nkind = "soup"\ndata = "y"\ndomain = "a"\nshare = 0\n')
    with pytest.raises(ConfigError, match=r"kind must be 'table', 'library' or 'emulator', not 'soup'; share must"):
        load_recipe(path)
    path.write_text('extends = "small"\nlabels = ["temperature"]\n')
    with pytest.raises(InputValueError, match="unknown quantity 'temperature'"):
        load_recipe(path)
    path.write_text("name = [")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_recipe(path)


_RECIPE = {
    "name": "mine",
    "labels": ["teff", "logg"],
    "sources": {"stars": {"kind": "table", "data": "tiny", "domain": "xp"}},
    "domains": {"xp": {}},
}


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"name": 3}, "name must be a string, not 3"),
        ({"start": 3}, "start must be a string, not 3"),
        ({"extends": 3}, r"mine.toml: extends: 3, expected the name of a recipe"),
        ({"log": 5}, "log must be a tuple of strings, not 5"),
        ({"labels": 5}, "labels must be a tuple of strings, not 5"),
        ({"labels": "teff"}, "labels must be a tuple of strings, not 'teff'"),
        ({"labels": ["teff", 5]}, r"labels must be a tuple of strings, not \('teff', 5\)"),
        ({"labels": []}, "labels must name at least one quantity"),
        ({"labels": ["teff", "logg", "teff"]}, r"labels names \['teff'\] more than once"),
        ({"known": ["logg"]}, r"known names \['logg'\], which are labels, .* leave them out"),
        ({"known": ["magnitude"]}, "known: unknown quantity 'magnitude'"),
        ({"split_seed": 1.5}, "split_seed must be an integer or None, not 1.5"),
        ({"domains": "x"}, "domains must be a dictionary of DomainConfigs, not 'x'"),
        ({"domains": {"xp": 3}}, r"\[domains.xp\] DomainConfig: 3, expected a section"),
        ({"domains": {"xp": {"normalizer": "median"}}}, r"\[domains.xp\] .*normalizer must be a dictionary, not 'med"),
        ({"domains": {"xp": {"bridges": True}}}, "bridges must be an integer, not True"),
        ({"sources": {}}, "there is no source"),
        ({"sources": {"a": {"data": "b"}}}, r"\[sources.a\] SourceConfig: missing settings \['domain', 'kind'\]"),
        ({"sources": {"a": {"observation": 3}}}, r"\[sources.a\] \[observation\] ObservationConfig: 3, expected a sec"),
        ({"sources": {"a": {"observation": {"snr": ["a", "b"]}}}}, r"snr must be a tuple of numbers, not \('a', 'b'\)"),
        (
            {"sources": {"a": {"kind": "emulator", "data": "b", "domain": "xp"}}},
            "source 'a' is of the kind 'emulator', .* domain 'xp' must have the name 'continuum', not .*'median'",
        ),
        ({"fit": 3}, r"\[fit\] FitConfig: 3, expected a section"),
        ({"model": {"readout_ranges": ["a", "b"]}}, "readout_ranges must be a tuple of numbers, not"),
        ({"readout": {"sources": ["stars"], "doubt": ["much"]}}, "doubt must be a tuple of numbers, not"),
        (None, r"missing settings \['domains', 'labels', 'name', 'sources'\]"),
    ],
)
def test_wrong_types(settings, error, tmp_path, monkeypatch):
    """Settings of wrong types, repeated or missing are errors that name the file, the setting and what came."""
    monkeypatch.setattr(tomllib, "loads", lambda _: {} if settings is None else copy.deepcopy(_RECIPE) | settings)
    path = tmp_path / "mine.toml"
    path.touch()
    with pytest.raises(SpectraFMError, match=error) as caught:
        load_recipe(path)
    assert "unknown quantity" in error or str(path) in str(caught.value)


def test_resolving_power_is_no_known_quantity():
    """Stars that are observed are given their resolving power anyway: a recipe does not name it."""
    recipe = load_recipe("optical-synthetic")
    with pytest.raises(ConfigError, match="ln_resolving_power is given with the stars of optical anyway; leave it out"):
        dataclasses.replace(recipe, known=("ln_resolving_power",))


def test_recipe_as_dictionary(recipe):
    """A recipe is the same after a journey through JSON."""
    for one in (recipe, load_recipe("base-lines")):
        assert Recipe.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_label_without_values(recipe, tmp_path):
    """A label that no source has is refused before training; a known quantity that none has cannot be given later."""
    data = tiny_data()
    data.labels["logg"][:] = np.nan
    with known_data(tiny=data), pytest.raises(ConfigError, match=r"no source has a training star .* \['logg'\]; leave"):
        train_recipe(recipe, "nowhere", tmp_path)
    asked = dataclasses.replace(recipe.sources["stars"], labels=("logg",))
    with known_data(tiny=data), pytest.raises(ConfigError, match="no training star of source 'stars' has .* of logg"):
        train_recipe(dataclasses.replace(recipe, sources={"stars": asked}), "nowhere", tmp_path)
    both = dataclasses.replace(recipe.sources["stars"], labels=("teff", "logg"))
    with known_data(tiny=data), pytest.raises(ConfigError, match=r"source 'stars' is asked for \['logg'\], and none"):
        train_recipe(dataclasses.replace(recipe, sources={"stars": both}), "nowhere", tmp_path)
    data = tiny_data()
    data.labels["k_mag"][:] = np.nan
    short = dataclasses.replace(recipe, known=("k_mag", "h_mag"), fit=FitConfig(steps=2, batch_size=16, warmup_steps=1))
    with known_data(tiny=data):
        fm = train_recipe(short, "nowhere", tmp_path)
    assert fm.info.known == ("teff", "logg")
    with pytest.raises(InputValueError, match="k_mag"):
        fm.infer(from_arrays(WAVELENGTH, data.flux[:1]), known={"k_mag": 10.0})


@known_data(tiny=tiny_data())
def test_folder_of_the_data(recipe, tmp_path, monkeypatch):
    """Without a folder a recipe is refused that reads a data set, before its start is trained; others need none."""
    monkeypatch.setattr(train_module, "load_recipe", lambda _: pytest.fail("went on"))
    with pytest.raises(InputValueError, match="data_folder: None, but recipe 'tiny' reads tiny; give the folder"):
        train_recipe(dataclasses.replace(recipe, start="before"), None, tmp_path)
    monkeypatch.setattr("spectrafm.training.sources.load_emulator", lambda _: fake_emulator())
    source = SourceConfig(kind="emulator", data="fake", domain="tiny", n_pool=50)
    domain = DomainConfig({"name": "continuum"}, "continuum_normalized")
    lines = dataclasses.replace(recipe, sources={"lines": source}, domains={"tiny": domain}, known=())
    stream, _ = build_stream(lines, None, make_vocabulary(lines))
    assert stream.targets == lines.labels


def test_split_by_star():
    """All rows of a star are on one side, whatever the order of the rows."""
    data = tiny_data()
    data = dataclasses.replace(data, identifier=np.array([f"star {i // 3}" for i in range(300)]))
    train, calibration, test = split_stars(data, 0.4, 1)
    sides = [set(data.identifier[rows]) for rows in (train, calibration, test)]
    assert not sides[0] & (sides[1] | sides[2])
    assert not sides[1] & sides[2]
    assert len(train) + len(calibration) + len(test) == 300
    order = np.random.default_rng(0).permutation(300)
    shuffled = dataclasses.replace(data, identifier=data.identifier[order])
    assert set(shuffled.identifier[split_stars(shuffled, 0.4, 1)[2]]) == sides[2]


def test_token_table():
    """Quantities keep their order; what has no errors gets NaN."""
    table = token_table(tiny_data(), ("logg", "k_mag"))
    assert table.names == ("logg", "k_mag")
    assert np.isnan(table.errors[:, 1]).all()
    assert table.flux.shape == (300, 60)


def test_train_recipe(recipe, tmp_path):
    """From a recipe to weights on disk that give labels, hold their errors, and flag what is strange."""
    data = tiny_data(600)
    with known_data(tiny=data):
        fm = train_recipe(recipe, "nowhere", tmp_path)
    assert (tmp_path / "log.csv").exists()
    again = SpectraFM.load(tmp_path / "weights")
    assert again.info == fm.info
    _, _, test = split_stars(data, 0.4, 1)
    table = again.infer(from_arrays(WAVELENGTH, data.flux[test], data.sigma[test]))
    residual = table["teff"].value - data.labels["teff"][test]
    assert np.std(residual) < 0.6 * np.std(data.labels["teff"][test])
    inside = np.abs(residual) < np.hypot(table["e_teff"].value, 20)
    assert 0.5 < inside.mean() < 0.85
    assert (table["flag"] & Flag.UNUSUAL_SPECTRUM > 0).mean() < 0.1
    strange = again.infer(from_arrays(WAVELENGTH, np.linspace(9, 0.1, 60)[None] ** 2, np.full((1, 60), 0.01)))
    assert strange["flag"][0] & Flag.UNUSUAL_SPECTRUM


@known_data(tiny=tiny_data())
def test_errors_that_no_real_star_calibrated(recipe):
    """Weights know which of their labels only synthetic stars have calibrated."""
    model = StellarPerceptron(recipe.model, make_vocabulary(recipe), seed=0)
    _, calibration = build_stream(recipe, "nowhere", model.vocabulary)
    synthetic = dataclasses.replace(
        recipe.sources["stars"], kind="emulator", validation_fraction=0.1, augmentation=AugmentationConfig()
    )
    continuum = DomainConfig({"name": "continuum"})
    for kind, domain, unproven in (
        (recipe.sources["stars"], recipe.domains["tiny"], ()),
        (synthetic, continuum, ("teff", "logg")),
    ):
        its = dataclasses.replace(recipe, sources={"stars": kind}, domains={"tiny": domain})
        (domain,) = calibrate(model, its, calibration).info.domains
        assert domain.unproven == unproven
        assert set(domain.calibration) == {"teff", "logg"}


@known_data(tiny=tiny_data())
def test_star_that_cannot_be_read(recipe, monkeypatch):
    """One training star without a pixel does not spoil the density of the embeddings."""
    model = StellarPerceptron(recipe.model, make_vocabulary(recipe), seed=0)
    _, calibration = build_stream(recipe, "nowhere", model.vocabulary)
    train, _ = calibration["stars"]
    whole, examples = calibrate(model, recipe, calibration), train.examples

    def with_one_more(n_star, generator):
        spectra, values, errors = examples(n_star, generator)
        more = from_arrays(WAVELENGTH, np.full(60, np.nan))
        return [*spectra, *more], *({k: np.append(v, np.nan) for k, v in each.items()} for each in (values, errors))

    monkeypatch.setattr(train, "examples", with_one_more)
    found = calibrate(model, recipe, calibration)
    for name, tensor in whole._density.items():
        np.testing.assert_allclose(found._density[name], tensor, rtol=1e-5)
    assert found.info.domains[0].density_threshold == pytest.approx(whole.info.domains[0].density_threshold, rel=1e-4)


@known_data(tiny=tiny_data())
def test_validation_has_no_star_twice(recipe):
    """Rows of a table are validated on once each, all of them where there are few, the same ones at every call."""
    stream, _ = build_stream(recipe, "nowhere", make_vocabulary(recipe))
    [part] = stream.parts.values()
    n_row = len(part.validation.rows)
    assert n_row == 120

    def drawn(n_validation):
        stream.n_validation = n_validation
        batches = [batch for _, batch in stream.validation()]
        return [len(batch.target) for batch in batches], np.concatenate([batch.target for batch in batches])[:, 0]

    for n_validation, sizes in ((512, [64, 56]), (100, [64, 36]), (20, [20])):
        found, targets = drawn(n_validation)
        assert found == sizes
        assert len(np.unique(targets)) == sum(sizes)
        np.testing.assert_array_equal(drawn(n_validation)[1], targets)


@known_data(tiny=tiny_data())
def test_stars_for_mps_are_made_on_the_cpu(recipe):
    """A recipe makes stars for a model on mps on the CPU; who asks for them there is told."""
    vocabulary = make_vocabulary(recipe)
    stream, _ = build_stream(recipe, "nowhere", vocabulary, "mps")
    assert stream.device.type == "cpu"
    [(_, _, batch)] = stream.batches(0)
    with FakeMps():
        there = batch.to("mps")
        assert there.target.device.type == there.tokens.value.device.type == "mps"
        assert there.tokens.wavelength.device.type == there.request_wavelength.device.type == "cpu"
    with pytest.raises(ConfigError, match="device: 'mps' has no float64, .* make stars on the 'cpu'"):
        StarStream({"stars": StreamPart(stream.parts["stars"].source)}, device="mps")


@known_data(tiny=tiny_data())
def test_train_from_a_start(recipe, tmp_path, monkeypatch):
    """The recipe that another starts from is trained first, once; the other goes on from its weights."""
    before = dataclasses.replace(recipe, name="before")
    monkeypatch.setattr(train_module, "load_recipe", {"before": before}.__getitem__)
    fit = dataclasses.replace(recipe.fit, steps=1, learning_rate=1e-9, warmup_steps=1, ema_decay=0.0, seed=7)
    after = dataclasses.replace(recipe, start="before", fit=fit)
    fm = train_recipe(after, "nowhere", tmp_path)
    weights = tmp_path / "before" / "weights"
    first, written = SpectraFM.load(weights), (weights / "model.safetensors").stat().st_mtime_ns
    theirs = first.model.torch_model.state_dict()
    for name, tensor in fm.model.torch_model.state_dict().items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=2e-3, atol=1e-6)
    assert fm.model.vocabulary.mean == pytest.approx(first.model.vocabulary.mean)
    train_recipe(after, "nowhere", tmp_path, resume=True)
    assert (weights / "model.safetensors").stat().st_mtime_ns == written
    larger = dataclasses.replace(recipe.model, patch_convolutions=(4,), encoder_dense=(96, 64))
    more = train_recipe(dataclasses.replace(after, model=larger), "nowhere", tmp_path / "more")
    spectra = from_arrays(WAVELENGTH, tiny_data(5).flux)
    # convolutions that are new and units that are there twice change nothing yet
    np.testing.assert_allclose(more.infer(spectra)["teff"].value, fm.infer(spectra)["teff"].value, rtol=1e-3)
    assert more.model.n_parameter > fm.model.n_parameter
    wider = dataclasses.replace(recipe.model, embedding_dim=2 * recipe.model.embedding_dim)
    other = dataclasses.replace(after, model=wider)
    with pytest.raises(
        ConfigError, match="it cannot start from 'before': no larger edition .* encoder_heads must be 2 times"
    ):
        train_recipe(other, "nowhere", tmp_path)
    with pytest.raises(ConfigError, match="start names the recipe itself"):
        dataclasses.replace(recipe, start=recipe.name)
    with pytest.raises(ConfigError, match="start_share is a share of weights to start from, and there is no start"):
        dataclasses.replace(recipe, start_share=0.5)


@known_data(tiny=tiny_data())
def test_mean_with_the_start(recipe, tmp_path, monkeypatch):
    """What is kept lies as far between start and end of the training as is asked for."""
    monkeypatch.setattr(train_module, "load_recipe", {"before": dataclasses.replace(recipe, name="before")}.get)
    after = dataclasses.replace(recipe, start="before", fit=dataclasses.replace(recipe.fit, seed=7))
    found = []
    for share in (0.0, 0.5, 1.0):
        fm = train_recipe(dataclasses.replace(after, start_share=share), "nowhere", tmp_path)
        found.append(fm.model.torch_model.state_dict())
    end, middle, start = found
    assert any((end[k] - start[k]).abs().max() > 1e-3 for k in end)
    for name, tensor in middle.items():
        # rounded to half precision where they are stored
        np.testing.assert_allclose(tensor, 0.5 * (end[name] + start[name]), rtol=2e-3, atol=1e-4)


def test_start_with_other_stars_set_aside(recipe, tmp_path, monkeypatch):
    """A recipe does not go on from weights that were trained on stars which it sets aside."""
    monkeypatch.setattr(train_module, "load_recipe", {"before": dataclasses.replace(recipe, name="before")}.get)
    fewer = {"stars": dataclasses.replace(recipe.sources["stars"], validation_fraction=0.2)}
    for changes in ({"split_seed": 5}, {"sources": fewer}):
        after = dataclasses.replace(recipe, start="before", **changes)
        with (
            known_data(tiny=tiny_data()),
            pytest.raises(ConfigError, match="stars of tiny that one of them sets aside"),
        ):
            train_recipe(after, "nowhere", tmp_path)


@known_data(tiny=tiny_data(), other=tiny_data(3))
def test_splits_of_the_start(recipe, tmp_path, monkeypatch):
    """Weights tell how stars were split that those before were trained on; those are what their own file says."""
    before = dataclasses.replace(recipe, name="before")
    monkeypatch.setattr(train_module, "load_recipe", {"before": before}.get)
    others = {"others": dataclasses.replace(recipe.sources["stars"], data="other")}
    fit = dataclasses.replace(recipe.fit, seed=7)
    after = dataclasses.replace(recipe, start="before", sources=others, split_seed=5, fit=fit)
    told = {"stars": before.splits["stars"], "others": {"data": "other", "seed": 5, "fraction": 0.4}}
    assert train_recipe(after, "nowhere", tmp_path).info.splits == told
    path = tmp_path / "before" / "weights" / "spectrafm.json"
    info = WeightsInfo.read(path)
    info.splits["stars"]["seed"] = 99
    info.write(path)
    with pytest.raises(ConfigError, match="stars of tiny that one of them sets aside .* split_seed .*99"):
        train_recipe(dataclasses.replace(recipe, start="before", fit=fit), "nowhere", tmp_path)


def test_weights_tell_how_stars_were_split(recipe, tmp_path):
    """Seed and fraction of each set of real stars are in the weights, and stay when these are saved."""
    apart = dataclasses.replace(
        recipe, split_seed=9, fit=FitConfig(steps=2, batch_size=16, warmup_steps=1), name="apart"
    )
    with known_data(tiny=tiny_data()):
        train_recipe(apart, "nowhere", tmp_path)
    told = {"stars": {"data": "tiny", "seed": 9, "fraction": 0.4}}
    assert SpectraFM.load(tmp_path / "weights").info.splits == told
    assert load_recipe("optical-synthetic").splits == {}
    assert WeightsInfo("older", ({"name": "xp", "labels": ["teff"]},)).splits is None
    with pytest.raises(InputTypeError, match="splits: 3 of 'stars', expected a dictionary of data, seed and fraction"):
        WeightsInfo("mine", ({"name": "xp", "labels": ["teff"]},), splits={"stars": 3})


def test_quantities_of_weights_that_could_not_be_made():
    """An error leaves the registry of quantities as it was."""
    new = {"name": "leaky", "unit": "", "error_unit": "", "ucd": "", "description": "made up"}
    for wrong in ({"domains": ({"name": "xp", "labels": ["nope"]},)}, {"domains": (), "known": ("nope",)}):
        with pytest.raises(InputValueError, match="unknown quantity 'nope'"):
            WeightsInfo(name="mine", quantities=(new,), **wrong)
        assert "leaky" not in QUANTITIES


def test_kind_of_flux_of_a_data_set(recipe):
    """Spectra without their slope are refused where a domain is of spectral energy distributions."""
    data = dataclasses.replace(tiny_data(), flux_kind="continuum_normalized")
    with known_data(tiny=data), pytest.raises(ConfigError, match="'stars' are 'continuum_normalized', and its domain"):
        build_stream(recipe, "nowhere", make_vocabulary(recipe))


def test_unit_of_a_data_set(recipe):
    """Standardisation and inputs do not depend on the unit of the flux."""
    found = []
    for unit in (1.0, 1e-16, 1e4):
        data = tiny_data()
        data.flux, data.sigma = (array.astype(np.float64) * unit for array in (data.flux, data.sigma))
        vocabulary = make_vocabulary(recipe)
        with known_data(tiny=data):
            stream, _ = build_stream(recipe, "nowhere", vocabulary)
        [(_, _, batch)] = stream.batches(0)
        found.append((*vocabulary.scale("flux")[:2], batch.tokens.value, batch.tokens.sigma))
    assert found[0][0] == pytest.approx(1, abs=0.02)
    assert (found[0][2] != 0).any(dim=1).all()
    for other in found[1:]:
        for one, its in zip(found[0], other, strict=True):
            np.testing.assert_allclose(its, one, rtol=1e-4, atol=1e-4)


def test_split_stays(recipe):
    """Which stars are set aside is decided by a seed of its own, where one is given."""
    assert recipe.split_seed == recipe.fit.seed
    assert load_recipe("small").split_seed == load_recipe("small-start").split_seed
    assert load_recipe("small").fit.seed != load_recipe("small-start").fit.seed


@pytest.mark.parametrize(
    ("kind", "settings", "read_by"),
    [
        ("library", {"augmentation": AugmentationConfig(reddening=1.0)}, "'table'"),
        ("table", {"observation": ObservationConfig(gaps=0.5)}, "'library' or 'emulator'"),
        ("table", {"resolving_power": 999.0}, "'library'"),
        ("emulator", {"resolving_power": 999.0}, "'library'"),
        ("library", {"n_pool": 7}, "'emulator'"),
        ("table", {"galactic": 1.0}, "'emulator'"),
        ("emulator", {"validation_fraction": 0.3}, "'table' or 'library'"),
    ],
)
def test_settings_that_a_kind_of_source_does_not_read(kind, settings, read_by):
    """They are refused; their defaults are not."""
    of = {"kind": kind, "data": "tiny", "domain": "tiny"}
    [name] = settings
    with pytest.raises(ConfigError, match=f"{name} is for sources of the kind {read_by}, not '{kind}'"):
        SourceConfig(**of, **settings)
    assert SourceConfig(**of, **{name: getattr(SourceConfig(**of), name)}) == SourceConfig(**of)


def test_settings_that_no_source_reads(recipe):
    """Each source has a fraction of its own to set aside, and tables are asked in ways of their own."""
    with pytest.raises(ConfigError, match="fit: validation_fraction is not read, as each source has its own"):
        load_recipe("gaia_xp", {"fit": {"validation_fraction": 0.9}})
    with pytest.raises(ConfigError, match="request is not read, as all sources are tables; set it in the augment"):
        dataclasses.replace(recipe, request=RequestConfig(flux_requests=3))


def test_moved_by(recipe):
    """Only stars of a library are moved."""
    with pytest.raises(ConfigError, match="moved_by is for sources of the kind 'library', not 'table'"):
        dataclasses.replace(recipe.sources["stars"], moved_by="optical")
    assert {load_recipe(k).sources["miles"].moved_by for k in ("small", "small-start", "base")} == {"optical"}


def test_mixed_with(recipe):
    """Only synthetic stars have lines of two lists; the emulator with the others is asked for where it is missing."""
    with pytest.raises(ConfigError, match="mixed_with is for sources of the kind 'emulator', not 'table'"):
        dataclasses.replace(recipe.sources["stars"], mixed_with="linemake/apogee")
    lines = load_recipe("base-lines")
    own, other = lines.sources["apogee"], lines.sources["apogee_linemake"]
    differ = {"mixed_with": own.mixed_with, "share": own.share, "weight": own.weight}
    assert dataclasses.replace(other, **differ) == own
    # a small pool is soon there
    few = dataclasses.replace(other, n_pool=100)
    first = dataclasses.replace(lines, sources={"apogee_linemake": few} | lines.sources | {"apogee_linemake": few})
    vocabulary = make_vocabulary(lines)
    with pytest.raises(InputValueError, match="no emulator 'linemake/apogee'; expected one of the packaged"):
        build_stream(first, "nowhere", vocabulary)


@known_data(tiny=tiny_data())
def test_train_command(recipe, tmp_path, monkeypatch, capsys):
    """``spectrafm train`` writes weights that load; it does not overwrite a run, and resumes one when asked."""
    from spectrafm import training
    from spectrafm.cli import main

    monkeypatch.setattr(training, "load_recipe", lambda name, changes: recipe)
    command = ["train", "tiny", "--data", "nowhere", "-o", str(tmp_path / "run")]
    assert main(command) == 0
    assert "weights 'tiny'" in capsys.readouterr().out
    assert SpectraFM.load(tmp_path / "run" / "weights").labels == ("teff", "logg")
    assert main(command) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0


def test_no_steps(tmp_path, capsys):
    """``--steps 0`` is refused, and not taken for all steps of the recipe."""
    from spectrafm.cli import main

    assert main(["train", "gaia_xp", "--data", "nowhere", "-o", str(tmp_path), "--steps", "0"]) == 2
    assert "steps must be a positive integer, not 0" in capsys.readouterr().err


def test_unknown_reader(recipe):
    """A recipe of a data set without a reader says which there are."""
    with pytest.raises(InputValueError, match="no reader 'tiny'; known are gaia_xp_apogee, miles"):
        train_recipe(recipe, "nowhere", "nowhere")
