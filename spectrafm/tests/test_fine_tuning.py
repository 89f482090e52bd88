"""Weights adapted to few stars: what is learnt, what stays, what is saved, what is refused."""

import copy
import inspect
import json
import pickle
import re
import warnings
from dataclasses import fields, replace

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from astropy.table import Column, MaskedColumn, QTable, Table
from specutils import Spectrum

from spectrafm import SpectraFM, SpectraFMWarning, _weights_files, core, diagnostics, residual_head
from spectrafm._known import label_truth
from spectrafm._label_columns import check_label_columns
from spectrafm._table_formats import column_values
from spectrafm._tuning_stars import rows_of_one_star, tuning_stars
from spectrafm.adapters import from_arrays, to_arrays
from spectrafm.exceptions import CheckpointError, ConfigError, InputTypeError, InputValueError
from spectrafm.fine_tuning import METHODS, FineTuneConfig, fine_tune
from spectrafm.flags import Flag
from spectrafm.quantities import OTHER_COLUMNS, Quantity, forget_quantity, register_quantity
from spectrafm.quantities import QUANTITIES as REGISTRY
from spectrafm.stellarperceptron import FitConfig, StellarPerceptron, Vocabulary
from spectrafm.tests.tiny import QUANTITIES, WAVELENGTH, tiny_config, tiny_table
from spectrafm.thresholds import adapt_thresholds, set_thresholds
from spectrafm.weights_info import Domain, WeightsInfo

# stars of another survey, whose log g are off by 0.5 and whose temperatures are off by 4 %
STARS = tiny_table(90, seed=9)
TEFF, LOGG = STARS.values[:, 0] * 1.04, STARS.values[:, 1] + 0.5
FEW, REST = slice(0, 40), slice(40, 90)
SETTINGS = {"n_fold": 2, "steps": 12, "batch_size": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return weights on disk, trained for a moment on the tiny stars."""
    vocabulary = Vocabulary(["flux", *QUANTITIES], flux=["flux"], log=["teff"])
    model = StellarPerceptron(tiny_config(), vocabulary, seed=0)
    model.fit(tiny_table(), ["teff", "logg"], FitConfig(steps=60, batch_size=64, warmup_steps=5, learning_rate=3e-3))
    domain = Domain(
        name="tiny", labels=("teff", "logg"), wavelength_range=(3950.0, 9050.0), spacing_range=(0.005, 0.03)
    )
    fm = SpectraFM(model, WeightsInfo(name="tiny", domains=(domain,), known=("k_mag", "logg", "teff")))
    folder = tmp_path_factory.mktemp("base")
    fm.save(folder)
    return SpectraFM.load(folder)


@pytest.fixture
def packaged(base, monkeypatch):
    """Let the base be one of the package."""
    monkeypatch.setattr(_weights_files, "PRETRAINED", base._folder.parent)


def spectra(rows, wavelength=WAVELENGTH):
    """Return some of the stars as Spectrum objects."""
    return [
        Spectrum(flux * u.one, wavelength * u.AA, uncertainty=StdDevUncertainty(np.full(60, 0.01)))
        for flux in STARS.flux[rows]
    ]


def labels(rows=FEW):
    """Return the table of labels of some of the stars."""
    return QTable({"identifier": np.arange(90)[rows].astype(str), "teff": TEFF[rows] * u.K, "logg": LOGG[rows]})


def numbers(table, name):
    """Return a column as plain numbers."""
    return column_values(table, name)


def residuals(fm):
    """Return root mean square errors of the stars that nobody learnt from."""
    table = fm.infer(spectra(REST))
    pairs = ((TEFF, "teff"), (LOGG, "logg"))
    return [np.sqrt(np.mean((numbers(table, name) - truth[REST]) ** 2)) for truth, name in pairs]


@pytest.fixture(scope="module")
def tuned(base):
    """Return the same weights with a head."""
    return base.fine_tune(spectra(FEW), labels(), method="head", **SETTINGS)


def test_head_learns_and_the_base_stays(base, tuned):
    """A head takes out what is off; the base answers as before."""
    again = SpectraFM(base.model, base.info)
    before, after = residuals(base), residuals(tuned)
    assert after[0] < 0.6 * before[0]
    assert after[1] < 0.5 * before[1]
    np.testing.assert_array_equal(residuals(again), before)
    assert base.history == []
    assert {entry["method"] for entry in tuned.history} == {"head"}
    assert tuned.info.fine_tuning["n_star"] == 40


def test_errors_hold(tuned):
    """Errors are calibrated within the given stars, and hold for others."""
    table = tuned.infer(spectra(REST))
    for truth, name in ((TEFF, "teff"), (LOGG, "logg")):
        z = np.abs(numbers(table, name) - truth[REST]) / numbers(table, f"e_{name}")
        assert 0.5 < np.mean(z < 1) < 0.95
        assert np.mean(z < 2) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHODS if method != "head"])
def test_parts_that_are_trained(base, method):
    """Each method changes its part of the network and no other, and brings labels nearer."""
    new = base.fine_tune(spectra(FEW), labels(), method=method, **SETTINGS)
    before, after = (fm.model.torch_model.state_dict() for fm in (base, new))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    encoder = any(name.startswith("torch_encoder") for name in changed)
    decoder = any(name.startswith("torch_decoder") for name in changed)
    assert encoder == (method not in ("decoder",))
    assert decoder == (method != "encoder")
    if method == "last_block":
        assert not any("encoder_transformer_block_1" in name for name in changed)
    assert residuals(new)[1] < residuals(base)[1]


def test_low_rank(base):
    """LoRA changes matrices by no more than its rank."""
    new = base.fine_tune(spectra(FEW), labels(), method="lora", rank=2, n_fold=2, steps=4)
    before, after = (fm.model.torch_model.state_dict() for fm in (base, new))
    name = "torch_encoder.encoder_transformer_block_1.dense_1.weight"
    difference = (after[name] - before[name]).double()
    assert 1 <= np.linalg.matrix_rank(difference.numpy(), tol=1e-4 * float(difference.norm())) <= 2


@pytest.mark.slow
def test_auto_takes_the_best(base):
    """Of all methods the one with the smallest error in cross-validation is taken."""
    new = base.fine_tune(spectra(FEW), labels(), **SETTINGS)
    scores = new.info.fine_tuning["scores"]
    assert set(scores) == {"head", "lora", "full"}
    assert scores[new.info.fine_tuning["method"]] == min(scores.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["head", "lora"])
def test_same_seed_same_weights(base, method):
    """The same stars and seed give the same answers; nothing global is seeded."""
    first, second = (base.fine_tune(spectra(FEW), labels(), method=method, seed=3, **SETTINGS) for _ in range(2))
    np.testing.assert_array_equal(residuals(first), residuals(second))


@pytest.fixture(scope="module")
def powers(base):
    """Return weights that also read the resolving power, hardly trained, with a head."""
    vocabulary = Vocabulary(["flux", *QUANTITIES, "ln_resolving_power"], flux=["flux"], log=["teff"])
    model = StellarPerceptron(tiny_config(), vocabulary, seed=0)
    model.fit(tiny_table(), ["teff", "logg"], FitConfig(steps=3, batch_size=64, warmup_steps=1))
    return SpectraFM(model, base.info).fine_tune(spectra(FEW), labels(), method="head", **SETTINGS)


GIVEN = {
    "known": ({"known": {"k_mag": STARS.values[REST, 2]}}, 2),
    "resolving_power": ({"resolving_power": 2000.0}, 2),
    "both": ({"known": {"k_mag": STARS.values[REST, 2]}, "resolving_power": 2000.0}, 3),
    "nothing": ({}, 1),
}


@pytest.mark.parametrize("what", GIVEN)
def test_head_and_what_else_is_known(powers, monkeypatch, what):
    """What is known beside a spectrum reaches the network, moves no embedding, and costs time only where given."""
    seen, encoded = [], []
    features, encode = residual_head._features, StellarPerceptron.perceive_tokens
    monkeypatch.setattr(residual_head, "_features", lambda its, space: seen.append(its) or features(its, space))
    stars, (options, n_encoded) = spectra(REST), GIVEN[what]
    plain = powers.infer(stars)
    monkeypatch.setattr(
        StellarPerceptron, "perceive_tokens", lambda model, tokens: encoded.append(tokens) or encode(model, tokens)
    )
    table = powers.infer(stars, **options)
    assert len(encoded) == n_encoded
    np.testing.assert_allclose(seen[1].embedding, seen[0].embedding, rtol=0, atol=1e-5)
    assert np.allclose(seen[1].values, seen[0].values, rtol=1e-6) == (what == "nothing")
    assert np.allclose(numbers(table, "logg"), numbers(plain, "logg"), rtol=1e-6) == (what == "nothing")


def test_steps_of_infer_with_a_head(powers):
    """What `perceive` returns is what `predict_labels` takes, with a head and known quantities, too."""
    stars, known = to_arrays(spectra(REST), resolving_power=2000.0), {"k_mag": STARS.values[REST, 2]}
    prepared = [powers.prepare(star, 0) for star in stars]
    given = {"k_mag": (known["k_mag"], np.full(50, np.nan))}
    expected = numbers(powers.infer(stars, known=known), "logg")
    alone = powers.perceive(prepared, 0)
    for perception in (powers.perceive(prepared, 0, given), powers.perceive(prepared, 0, given, alone)):
        values, _ = powers.predict_labels(perception, ["logg"])
        np.testing.assert_allclose(values[:, 0], expected, rtol=1e-5)


def test_head_without_the_embedding_of_spectra_alone(powers):
    """A perception that does not tell the embedding that a head reads is refused, with the remedy."""
    plain = powers.model.perceive_tokens(powers.tokens([powers.prepare(to_arrays(spectra(slice(0, 1)))[0], 0)], 0))
    with pytest.raises(InputTypeError, match="perception: Perception without .* expected what perceive of the weights"):
        powers.predict_labels(plain, ["logg"])


def test_head_and_known_quantities_in_sets(powers, monkeypatch):
    """Of spectra with more pixels than the context holds, each set of them has its own embedding."""
    seen, look = [], residual_head._look
    monkeypatch.setattr(residual_head, "_look", lambda *args: seen.append(look(*args)) or seen[-1])
    for options in ({}, {"known": {"k_mag": 10.0}}):
        # a context that is too short is that of a model without patches
        monkeypatch.setattr(powers.model, "most_pixels", lambda n_known=0: 30)
        powers.infer(spectra(slice(40, 43)), **options)
    assert len(seen) == 4
    for first, second in zip(seen[:2], seen[2:], strict=True):
        np.testing.assert_allclose(second.embedding, first.embedding, rtol=0, atol=1e-5)
    assert np.abs(seen[1].embedding - seen[0].embedding).max() > 1e-3


def test_head_of_stars_with_a_resolving_power(powers):
    """A resolving power of the given stars is withheld from the embedding when a head is fitted, too."""
    base = SpectraFM(powers.model, powers.info)
    heads = [
        base.fine_tune(spectra(FEW), labels(), method="head", resolving_power=power, **SETTINGS).head
        for power in (None, 2000.0)
    ]
    plain, told = (head.space for head in heads)
    np.testing.assert_allclose(told["embedding_mean"], plain["embedding_mean"], atol=1e-5)
    assert np.abs(told["input_mean"] - plain["input_mean"]).max() > 1e-4


def test_head_of_an_earlier_version(powers, tmp_path):
    """A head whose file does not say what its embeddings are of answers as it did, on its own and below another."""
    powers.save(tmp_path)
    path = tmp_path / "head.json"
    settings = json.loads(path.read_text())
    assert settings.pop("reads_spectrum_alone") is True
    path.write_text(json.dumps(settings))
    old = SpectraFM.load(tmp_path)
    stars, known = to_arrays(spectra(REST), resolving_power=2000.0), {"k_mag": STARS.values[REST, 2]}
    prepared, errors = [old.prepare(star, 0) for star in stars], np.full(50, np.nan)
    expected, _ = old.predict_labels(old.perceive(prepared, 0, {"k_mag": (known["k_mag"], errors)}), ["logg"])
    found = numbers(old.infer(stars, known=known), "logg")
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-5)
    assert not np.allclose(found, numbers(powers.infer(stars, known=known), "logg"), rtol=1e-3)
    again = old.fine_tune(spectra(FEW), labels(), method="head", **SETTINGS)
    again.save(tmp_path / "again")
    loaded = SpectraFM.load(tmp_path / "again", base=old).head
    assert (loaded.reads_spectrum_alone, loaded.before.reads_spectrum_alone) == (True, False)


def test_order_of_stars(base, tuned):
    """A star's answer does not depend on its batch mates."""
    table, alone = tuned.infer(spectra(REST)), tuned.infer(spectra(slice(47, 48)))
    np.testing.assert_allclose(numbers(table, "teff")[7], numbers(alone, "teff")[0], rtol=1e-5)
    np.testing.assert_allclose(numbers(table, "e_teff")[7], numbers(alone, "e_teff")[0], rtol=1e-4)


@pytest.mark.parametrize("method", ["head", "lora", pytest.param("full", marks=pytest.mark.slow)])
def test_saved_and_loaded(base, packaged, tmp_path, method):
    """What is saved gives the same answers; small changes are small files on top of a base in the package."""
    new = base.fine_tune(spectra(FEW), labels(), method=method, rank=1, **SETTINGS)
    new.save(tmp_path)
    whole = (tmp_path / "model.safetensors").exists()
    assert whole == (method == "full")
    loaded = SpectraFM.load(tmp_path)
    np.testing.assert_allclose(residuals(loaded), residuals(new), rtol=1e-4)
    assert loaded.history == new.history
    assert loaded.weights_hash != base.weights_hash
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").exists() == whole
    if not whole:
        with pytest.raises(CheckpointError, match="base: weights 'tiny' have SHA-256 none; expected"):
            SpectraFM.load(tmp_path, base=SpectraFM(base.model, base.info))


def test_hash_of_a_head(base, tuned, tmp_path):
    """What a head is, and not only its tensors, is in the hash."""
    tuned.save(tmp_path)
    before = SpectraFM.load(tmp_path, base=base).weights_hash
    path = tmp_path / "head.json"
    path.write_text(path.read_text() + "\n")
    assert SpectraFM.load(tmp_path, base=base).weights_hash != before


def test_saved_over_the_base(base, tmp_path, monkeypatch):
    """Weights that take the place of those they are changes to are saved whole, and what is not theirs goes."""
    monkeypatch.setattr(_weights_files, "PRETRAINED", tmp_path)
    folder = tmp_path / "tiny"
    base.save(folder)
    mine = SpectraFM.load(folder)
    new = mine.fine_tune(spectra(FEW), labels(), method="head", **SETTINGS)
    new.save(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "model.safetensors").exists()
    new.save(folder, overwrite=True)
    np.testing.assert_allclose(residuals(SpectraFM.load(folder)), residuals(new), rtol=1e-4)
    base.save(folder, overwrite=True)
    assert SpectraFM.load(folder).head is None
    assert not (folder / "head.json").exists()


def test_base_of_the_hub(base, packaged, tuned, tmp_path, monkeypatch):
    """Loading never asks the hub for a base."""
    tuned.save(tmp_path)
    path = tmp_path / "adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": "someone/tiny"}))
    monkeypatch.setattr(core, "find_weights", None)
    with pytest.raises(CheckpointError, match="changes to 'someone/tiny', which is not in the package"):
        SpectraFM.load(tmp_path)


def test_spread_of_a_process():
    """The variance of functions before anything is learnt is their covariance with themselves."""
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    hyper = {name: torch.tensor(0.1 * i, dtype=torch.float64) for i, name in enumerate(residual_head._PRIORS)}
    for is_correction in (True, False):
        full = residual_head._kernel(features, features, hyper, 2, is_correction)
        torch.testing.assert_close(residual_head._variance(features, hyper, 2, is_correction), full.diagonal())


def test_damaged_head(base, tuned, tmp_path):
    """A head that is cut short is told."""
    tuned.save(tmp_path)
    (tmp_path / "head.safetensors").write_bytes((tmp_path / "head.safetensors").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged"):
        SpectraFM.load(tmp_path, base=base)


@pytest.mark.parametrize("method", ["head", pytest.param("lora", marks=pytest.mark.slow)])
def test_new_label(base, method):
    """A column that the base does not know becomes a label."""
    table = labels()
    table["mg_fe"] = 0.2 * (LOGG[FEW] - 3)
    new = base.fine_tune(spectra(FEW), table, method=method, **SETTINGS)
    assert new.labels == ("teff", "logg", "mg_fe")
    found = numbers(new.infer(spectra(REST)), "mg_fe")
    assert np.corrcoef(found, LOGG[REST])[0, 1] > 0.6
    assert "mg_fe" not in base.model.vocabulary


def test_label_of_nobody(base, tmp_path):
    """A quantity that is in no registry has the unit of its column, and comes back with the weights."""
    table = Table({"spot_share": MaskedColumn(0.1 * LOGG[FEW], unit="percent")})
    new = base.fine_tune(spectra(FEW), table, labels="spot_share", method="head", **SETTINGS)
    new.save(tmp_path)
    REGISTRY.pop("spot_share")
    loaded = SpectraFM.load(tmp_path, base=base)
    assert loaded.infer(spectra(REST))["spot_share"].unit == u.percent
    with pytest.raises(InputValueError, match="'spot_share' is registered as"):
        register_quantity(Quantity("spot_share", "K", "K", "", "something else"))
    REGISTRY.pop("spot_share")
    with pytest.raises(InputValueError, match="name 'e_x'; expected letters"):
        register_quantity(Quantity("e_x", "K", "K", "", ""))


@pytest.fixture
def p_rot():
    """Return rotation periods [d] of the few stars; what is registered of them goes at the end."""
    yield 10 + LOGG[FEW]
    forget_quantity("p_rot")


def test_unit_of_a_new_label(p_rot):
    """Once a label has a unit, columns are converted to it, or refused where that is a guess or not possible."""
    own, n_star = {"labels": ["p_rot"]}, len(p_rot)
    found = label_truth(QTable({"p_rot": p_rot * u.h, "e_p_rot": 0.1 * p_rot * u.h}), n_star, **own)["p_rot"]
    in_days = {"p_rot": p_rot / 24 * u.d, "e_p_rot": 0.1 * p_rot / 24 * u.d}
    np.testing.assert_allclose(label_truth(in_days, n_star, **own)["p_rot"], found)
    np.testing.assert_allclose(label_truth({"p_rot": list(in_days["p_rot"])}, n_star, **own)["p_rot"][0], p_rot)
    # errors in the unit of their label, as where it was registered
    np.testing.assert_allclose(label_truth(dict(in_days, p_rot=p_rot * u.h), n_star, **own)["p_rot"], found)
    plain = r"labels_table\['p_rot'\]: plain numbers, but 'p_rot' is registered in h, .*Unit\('h'\); or call "
    with pytest.raises(InputValueError, match=plain + r"spectrafm.quantities.forget_quantity\('p_rot'\) first"):
        label_truth({"p_rot": p_rot}, n_star, **own)
    with pytest.raises(
        InputValueError, match=r"labels_table\['e_p_rot'\]: plain numbers beside 'p_rot' in d, which is"
    ):
        label_truth({"p_rot": p_rot * u.d, "e_p_rot": p_rot}, n_star, **own)
    with pytest.raises(InputValueError, match=r"unit K, but 'p_rot' is registered in h, .*forget_quantity\('p_rot'\)"):
        label_truth({"p_rot": p_rot * u.K}, n_star, **own)
    forget_quantity("p_rot")
    label_truth({"p_rot": p_rot}, n_star, **own)
    with pytest.raises(InputValueError, match=r"unit d, but 'p_rot' is registered without a unit, .*forget_quantity"):
        label_truth({"p_rot": p_rot * u.d}, n_star, **own)
    label_truth({"p_rot": p_rot}, n_star, **own)


def test_new_label_as_list_of_quantities(p_rot):
    """A new label has the unit of the numbers in a list."""
    assert label_truth({"p_rot": list(p_rot * u.d)}, len(p_rot), ["p_rot"])["p_rot"][0].tolist() == p_rot.tolist()
    assert REGISTRY["p_rot"].unit == "d"


def test_weights_with_another_unit_of_a_new_label(base, p_rot, tmp_path):
    """Weights never tell numbers in the unit of others: the message names both units and the remedy, which works."""
    given = {"labels": "p_rot", "method": "head", **SETTINGS}
    in_days = base.fine_tune(spectra(FEW), QTable({"p_rot": p_rot * u.d}), **given)
    in_days.save(tmp_path)
    first = in_days.infer(spectra(REST))["p_rot"]
    forget_quantity("p_rot")
    in_hours = base.fine_tune(spectra(FEW), QTable({"p_rot": 24 * p_rot * u.h}), **given)
    message = r"'p_rot' is in d in the weights 'tiny-head', but registered in h; call spectrafm.quantities.forget_"
    with pytest.raises(CheckpointError, match=message) as caught:
        SpectraFM.load(tmp_path, base=base)
    assert "spectrafm.json" in str(caught.value)
    assert "damaged" not in str(caught.value)
    with pytest.raises(CheckpointError, match=message):
        in_days.infer(spectra(REST))
    with pytest.raises(CheckpointError, match=message):
        fine_tune(in_days, to_arrays(spectra(FEW)), {"p_rot": (p_rot, 0 * p_rot)}, FineTuneConfig(method="head"))
    hours = in_hours.infer(spectra(REST))["p_rot"]
    assert hours.unit == u.h
    forget_quantity("p_rot")
    for weights in (SpectraFM.load(tmp_path, base=base), in_days):
        found = weights.infer(spectra(REST))["p_rot"]
        assert found.unit == u.d
        np.testing.assert_allclose(found.value, first.value, rtol=1e-4)
    assert np.median((hours / found).to_value(u.one)) == pytest.approx(1, rel=0.1)
    with pytest.raises(CheckpointError, match="'p_rot' is in h in the weights 'tiny-head', but registered in d"):
        in_hours.infer(spectra(REST))


def test_same_unit_of_a_new_label(p_rot):
    """Weights whose quantity differs in its spelling or description alone are loaded."""
    domains = (
        {"name": "tiny", "labels": ("teff", "p_rot"), "wavelength_range": (4e3, 9e3), "spacing_range": (0.01, 0.03)},
    )
    WeightsInfo("one", domains, quantities=(Quantity("p_rot", "d", "d", "", "Period"),))
    WeightsInfo("two", domains, quantities=(Quantity("p_rot", "day", "day", "", "Rotation period"),))
    built_in = Quantity("teff", "kK", "kK", "phys.temperature.effective", "In another unit")
    with pytest.raises(
        CheckpointError, match="'teff' is in kK in the weights 'old', but registered in K; use them with"
    ):
        WeightsInfo("old", domains, quantities=(built_in,))


def test_label_of_nobody_is_pickled(base):
    """Weights with a label that is in no registry tell it in another process."""
    table = Table({"spot_share": MaskedColumn(0.1 * LOGG[FEW], unit="percent")})
    new = base.fine_tune(spectra(FEW), table, labels="spot_share", method="head", **SETTINGS)
    text = pickle.dumps(new)
    REGISTRY.pop("spot_share")
    assert pickle.loads(text).infer(spectra(REST))["spot_share"].unit == u.percent
    REGISTRY.pop("spot_share")


@pytest.mark.parametrize(("unit", "error_unit"), [("mag(AB)", "mag"), ("dex(cm s-2)", "dex"), ("km / s", "km / s")])
def test_errors_of_new_labels_are_differences(unit, error_unit):
    """What has a zero point has an error without one."""
    columns = {"own_label": Column([1.0, 2.0], unit=unit), "e_own_label": Column([0.1, 0.2], unit=error_unit)}
    truth = label_truth(Table(columns), 2, ["own_label"])
    quantity = REGISTRY.pop("own_label")
    np.testing.assert_allclose(truth["own_label"], [[1.0, 2.0], [0.1, 0.2]])
    assert u.Unit(quantity.unit) == u.Unit(unit)
    assert u.Unit(quantity.error_unit) == u.Unit(error_unit)


def test_new_range(base):
    """Wavelengths that the base never saw are a domain of their own."""
    elsewhere = WAVELENGTH + 6000
    new = base.fine_tune(spectra(FEW, elsewhere), labels(), method="head", **SETTINGS)
    [domain] = new.info.domains
    assert domain.name == "fine_tuned"
    assert domain.wavelength_range[0] == pytest.approx(10_000)
    table = new.infer(spectra(REST, elsewhere))
    assert np.corrcoef(numbers(table, "logg"), LOGG[REST])[0, 1] > 0.8


def test_twice(base, tuned):
    """Weights with a head are fine-tuned by another head on top of it, and by nothing else."""
    table = labels()
    table["logg"] += 0.3
    again = tuned.fine_tune(spectra(FEW), table, method="auto", **SETTINGS)
    shift = numbers(again.infer(spectra(REST)), "logg") - numbers(tuned.infer(spectra(REST)), "logg")
    assert np.median(shift) == pytest.approx(0.3, abs=0.05)
    with pytest.raises(InputValueError, match="method: 'full' trains the network"):
        tuned.fine_tune(spectra(FEW), labels(), method="full")


def test_missing_labels_and_bad_spectra(base):
    """Stars without a label or a spectrum are left out."""
    table, stars = labels(), spectra(FEW)
    table["logg"] = MaskedColumn(LOGG[FEW], mask=np.arange(40) < 5)
    stars[7] = Spectrum(np.full(60, np.nan) * u.one, WAVELENGTH * u.AA)
    with pytest.warns(SpectraFMWarning, match="1 of 40 stars have no good pixel or no label and are left out: rows 7"):
        new = base.fine_tune(stars, table, method="head", **SETTINGS)
    assert new.info.fine_tuning["n_star"] == 39
    stars[7], stars[9] = spectra(slice(47, 48), 10 * WAVELENGTH)[0], spectra(slice(49, 50))[0]
    with pytest.warns(SpectraFMWarning, match="left out: rows 7"):
        assert base.fine_tune(stars, table, method="head", **SETTINGS).info.fine_tuning["n_star"] == 39
    np.testing.assert_allclose(residuals(new), residuals(base.fine_tune(spectra(FEW), labels(), method="head")), rtol=1)


def test_names_of_labels_that_are_taken():
    """A label cannot have the name of another column of the results."""
    for name in ("flag", "snr", "e_teff"):
        with pytest.raises(InputValueError, match=f"labels: .'{name}'. are names that tables of results have"):
            label_truth({name: np.ones(3)}, 3, labels=[name])


@pytest.mark.parametrize("name", ["flux", "relative_sed", "ln_resolving_power"])
def test_inputs_are_no_labels(base, name):
    """Fluxes and properties of an observation have their names in every model, and none of them is a label."""
    table = labels()
    table[name] = np.linspace(1, 2, 40)
    with pytest.raises(InputValueError, match=rf"labels: \['{name}'\] are names of fluxes or of properties of an obs"):
        base.fine_tune(spectra(FEW), table, labels=["teff", name], method="head", **SETTINGS)
    assert name == "ln_resolving_power" or name not in REGISTRY


def test_fluxes_of_the_model_are_no_labels(base):
    """A model may have other names for fluxes: one for each pixel, as in the paper."""
    model = StellarPerceptron(tiny_config(), Vocabulary(["light", *QUANTITIES], flux=["light"]))
    fm = SpectraFM(model, base.info)
    truth = {"light": (np.ones(40), np.full(40, np.nan))}
    with pytest.raises(InputValueError, match=r"labels: \['light'\] are names of fluxes"):
        fine_tune(fm, to_arrays(spectra(FEW)), truth, FineTuneConfig())


def test_label_truth():
    """Units are brought to ours, errors go along, other columns are left alone."""
    table = QTable({"teff": [5.0, 6.0] * u.kK, "e_teff": [50, 60] * u.K, "ra": [1.0, 2.0] * u.deg, "k_mag": [9, 10]})
    truth = label_truth(table, 2)
    assert list(truth) == ["teff"]
    np.testing.assert_allclose(truth["teff"], [[5000, 6000], [50, 60]])
    assert list(label_truth({"teff": [5000], "logg": [4]}, 1, ["logg", "teff"])) == ["logg", "teff"]
    with pytest.raises(InputTypeError, match="labels_table: list, expected a dictionary or an astropy Table"):
        label_truth([1, 2], 2)
    with pytest.raises(InputValueError, match="no column that is a label; it has ra"):
        label_truth(Table({"ra": [1.0]}), 1)
    with pytest.raises(InputValueError, match="no column fe_h; it has teff"):
        label_truth(Table({"teff": [1.0]}), 1, ["fe_h"])
    with pytest.raises(InputValueError, match=r"labels_table\['teff'\]: shape \(2,\), expected \(3,\): one row"):
        label_truth(table, 3)
    with pytest.warns(SpectraFMWarning, match=r"labels_table: columns .* not used: 'feh' \('fe_h'\?\)"):
        assert list(label_truth({"teff": [5000.0], "feh": [0.1]}, 1)) == ["teff"]
    with pytest.warns(SpectraFMWarning, match=r"not used: 'teff_err' \('e_teff'\?\);"):
        label_truth({"teff": [5000.0], "teff_err": [50.0], "feh": [0.0]}, 1, ["teff"])
    with pytest.raises(InputValueError, match="labels_table: e_logg without logg"):
        label_truth({"teff": [5000.0], "e_logg": [0.1]}, 1)
    with pytest.raises(InputValueError, match="unit deg, expected K"):
        label_truth(QTable({"teff": [1.0] * u.deg}), 1)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["teff", "teff_err"], "'teff_err' ('e_teff'?)"),
        (["teff", "feh", "feh_error"], "'feh' ('fe_h'?), 'feh_error' ('e_fe_h'?)"),
        (["Teff", "LOGG", "log_g_unc"], "'Teff' ('teff'?), 'LOGG' ('logg'?), 'log_g_unc' ('e_logg'?)"),
        (["teff", "tefff", "lgog", "metallicity"], "'lgog' ('logg'?), 'metallicity' ('fe_h' or 'm_h'?)"),
        (["teff", "E_TEFF", "sigma_teff"], "'E_TEFF' ('e_teff'?), 'sigma_teff' ('e_teff'?)"),
        (["teff", "e_Teff", "tefferr", "vmic"], "'e_Teff' ('e_teff'?), 'tefferr' ('e_teff'?), 'vmic' ('vmicro'?)"),
    ],
)
def test_mistyped_columns(columns, told):
    """Columns that were meant for labels or their errors are named with what they should be called."""
    labels = [name for name, quantity in REGISTRY.items() if quantity.kind == "label"]
    text = f"table: columns that look like labels or their errors, and are not used: {told}; rename them"
    with pytest.warns(SpectraFMWarning, match=re.escape(text)):
        check_label_columns(columns, labels, "table")


def test_other_columns_of_catalogues():
    """Nothing is said of what tables of results, surveys and Gaia have beside labels."""
    labels = ["teff", "logg", "fe_h"]
    own = [*labels, *(f"e_{name}" for name in labels), *OTHER_COLUMNS, "file", "mg_fe", "e_mg_fe", "e_k_mag", 5]
    galah = [
        "sobject_id",
        "flag_sp",
        "fe_h_atmo",
        "vbroad",
        "alpha_fe",
        "e_alpha_fe",
        "nr_mg_fe",
        "flag_fe_h",
        "rv_galah",
    ]
    apogee = ["APOGEE_ID", "ASPCAPFLAG", "VHELIO_AVG", "VERR", "TH_FE", "TE_FE", "TE_FE_ERR", "MG_H", "CHI2", "log_age"]
    gaia = [
        "ra",
        "ra_error",
        "pmra_error",
        "parallax_error",
        "teff_gspphot",
        "logg_gspphot",
        "mh_gspphot",
        "mass_flame",
    ]
    other = [
        "flux",
        "sigma",
        "mask",
        "ivar",
        "wavelength",
        "mag",
        "mag_err",
        "feh",
        "Teff",
        "snr_err",
        "rv_err",
        "logL",
    ]
    check_label_columns([*own, *galah, *apogee, *gaia, *other], labels, "table")


def test_errors_without_labels():
    """An error of a label that is not there is refused, unless that label is not taken."""
    with pytest.raises(InputValueError, match="table: e_logg, e_fe_h without logg, fe_h; give the value, too"):
        check_label_columns(["teff", "e_logg", "e_fe_h"], ["teff", "logg", "fe_h"], "table")
    check_label_columns(["teff", "e_logg"], ["teff"], "table")


def test_refused(base):
    """Settings that contradict themselves, and too few stars."""
    with pytest.raises(ConfigError, match=r"(?s)method must be 'auto' or one of head.*n_fold must be an integer of 2"):
        FineTuneConfig(method="magic", n_fold=1)
    with pytest.raises(
        ConfigError, match=r"(?s)seed must be an integer of 0 or more, not -1.*positive and finite, not inf"
    ):
        FineTuneConfig(seed=-1, learning_rate=np.inf)
    with pytest.raises(ConfigError, match="FineTuneConfig: learning_rate must be a number or None, not 'fast'"):
        FineTuneConfig(learning_rate="fast")
    with pytest.raises(InputValueError, match="teff: 8, logg: 8; expected 10 or more"):
        base.fine_tune(spectra(slice(0, 8)), labels(slice(0, 8)))
    table = labels()
    table["teff"][3] = 0 * u.K
    with pytest.raises(InputValueError, match=r"labels_table\['teff'\]: 0 in row 3, expected positive numbers"):
        base.fine_tune(spectra(FEW), table)
    table = labels(slice(0, 8))
    table["oddity"] = np.arange(8) * u.mag
    with pytest.raises(InputValueError, match="oddity: 8; expected 10 or more"):
        base.fine_tune(spectra(slice(0, 8)), table, labels=["oddity"])
    assert "oddity" not in REGISTRY


def test_moving_stars_are_warned_of(base, monkeypatch):
    """Where the base finds most of the stars in motion, or in the other medium, that is said before it is learnt."""
    moving = copy.copy(base)
    moving.info = replace(base.info, domains=(replace(base.info.domains[0], thresholds={"rv_significance": 1.0}),))
    found = []

    def flags(diagnosis, domain):
        return np.where(np.arange(len(diagnosis.wavelength)) < found[0], found[1], 0)

    monkeypatch.setattr(diagnostics.Diagnosis, "flags", flags)
    for count, flag, remedy in (
        (30, Flag.WRONG_VELOCITY, "give radial_velocity= or medium="),
        (30, Flag.WRONG_VELOCITY | Flag.WRONG_MEDIUM, "give medium='air' or 'vacuum'"),
    ):
        found[:] = count, int(flag)
        with pytest.warns(SpectraFMWarning, match=f"30 of 40 are not at rest.*{remedy}") as caught:
            moving.fine_tune(spectra(FEW), labels(), method="head", **SETTINGS)
        assert [warning.filename for warning in caught] == [__file__]
    # warnings are errors: few of them are not worth one
    found[:] = 10, int(Flag.WRONG_VELOCITY)
    moving.fine_tune(spectra(FEW), labels(), method="head", **SETTINGS)


def test_labels_in_a_wrong_order_are_warned_of(base):
    """Labels that are predicted no better than by their mean are named."""
    table = labels()
    table["logg"] = np.random.default_rng(3).permutation(table["logg"])
    with pytest.warns(SpectraFMWarning, match="labels_table: logg of stars left out are predicted hardly better"):
        base.fine_tune(spectra(FEW), table, method="head", **SETTINGS)


def test_errors_and_powers_of_given_stars_count(base):
    """Stars that are better than those of the base, or less resolved, are not flagged afterwards for that."""
    limits = replace(base.info.domains[0], largest_snr=20.0, lowest_power=5000.0)
    strict = copy.copy(base)
    strict.info = replace(base.info, domains=(limits,))
    given = to_arrays(spectra(FEW), resolving_power=2000.0)
    assert (strict.infer(given)["flag"] & Flag.HIGH_SNR).all()
    assert (strict.infer(given)["flag"] & Flag.SAMPLING_MISMATCH).all()
    tuned = strict.fine_tune(given, labels(), method="head", **SETTINGS)
    assert not (tuned.infer(given)["flag"] & (Flag.HIGH_SNR | Flag.SAMPLING_MISMATCH)).any()
    # but one star whose errors are absurd does not lift the limit for all
    given[0] = replace(given[0], sigma=given[0].sigma * 1e-9)
    tuned = strict.fine_tune(given, labels(), method="head", **SETTINGS)
    assert ((tuned.infer(given)["flag"] & Flag.HIGH_SNR) != 0).tolist() == [True] + [False] * 39


def test_gaps_are_bridged_in_training_as_in_use(base):
    """What is learnt of spectra with narrow gaps is learnt of the pixels that are read of them later."""
    bridging = base.adapted(base.model, replace(base.info.domains[0], bridges=2))
    holes = [replace(star, good=np.arange(60) != 20) for star in to_arrays(spectra(FEW))]
    stars = tuning_stars(bridging, holes, label_truth(labels(), 40), np.arange(40), correct_lines=False)
    assert np.isfinite(stars.table.flux).all()
    for row, star in enumerate(holes):
        np.testing.assert_allclose(np.delete(stars.table.wavelength[row], 20), WAVELENGTH[star.good])
        between = np.interp(stars.table.wavelength[row, 20], WAVELENGTH[star.good], stars.table.flux[row, star.good])
        np.testing.assert_allclose(stars.table.flux[row, 20], between, rtol=1e-5)
    perceived = base.model.perceive_tokens(stars.tokens(base.model, np.arange(40)))
    np.testing.assert_array_equal(perceived.pooled, bridging.perceive(stars.prepared, 0).pooled)


def test_hash_of_other_thresholds(base, tmp_path):
    """Weights whose thresholds are set anew are no longer those of their files."""
    base.save(tmp_path)
    for change in (
        lambda fm: set_thresholds(fm, {}),
        lambda fm: adapt_thresholds(fm, to_arrays(spectra(FEW))),
    ):
        fm = SpectraFM.load(tmp_path)
        assert fm.weights_hash
        change(fm)
        assert fm.weights_hash == fm.infer(spectra(REST)).meta["weights_sha256"] == ""


def test_labels_that_do_not_vary(base):
    """Nothing can be learnt of a label that is the same for all stars, even if other labels vary."""
    table = labels()
    table["fe_h"] = 0.1
    with pytest.raises(
        InputValueError, match=r"labels_table\['fe_h'\]: 0.1 dex for all 40 stars; expected a label that"
    ):
        base.fine_tune(spectra(FEW), table, method="head", **SETTINGS)
    table["fe_h"] = np.where(np.arange(40) < 20, 0.1, np.nan)
    with pytest.raises(InputValueError, match=r"labels_table\['fe_h'\]: 0.1 dex for all 20 stars"):
        base.fine_tune(spectra(FEW), table, method="head", **SETTINGS)


def test_quoted_errors_that_are_too_large(base):
    """Quoted errors far beyond the scatter are warned of, and do not make predicted errors vanish."""
    table = labels()
    table.remove_column("teff")
    table["logg"] += np.random.default_rng(2).normal(scale=0.2, size=40)
    table["e_logg"] = 0.8
    with pytest.warns(
        SpectraFMWarning, match=r"quoted errors \(e_logg\) are larger than the scatter of stars left out"
    ):
        new = base.fine_tune(spectra(FEW), table, method="head", **SETTINGS)
    found = new.infer(spectra(REST))
    z = (numbers(found, "logg") - LOGG[REST]) / numbers(found, "e_logg")
    assert np.mean(np.abs(z) < 1) > 0.5
    assert np.median(numbers(found, "e_logg")) < 0.4


def test_rows_of_one_star_stay_together(base):
    """Spectra of one star are found, said, and left out together; who says so himself is not warned."""
    visit = np.arange(20).repeat(2)
    stars, table = [spectra(FEW)[i] for i in visit], labels()[visit]["logg",]
    with pytest.warns(SpectraFMWarning, match="40 rows are of 20 stars, as their spectra and labels say") as caught:
        found = base.fine_tune(stars, table, method="head", **SETTINGS)
    assert [warning.filename for warning in caught] == [__file__]
    apart = base.fine_tune(stars, table, method="head", groups=np.arange(40), **SETTINGS)
    # who has seen the star itself is thought to be better
    assert found.history[0]["score"] > apart.history[0]["score"] + 0.1
    with pytest.raises(InputValueError, match="stars with a usable spectrum and a label: logg: 4; expected 10"):
        base.fine_tune(stars, table, method="head", groups=visit // 5, **SETTINGS)
    with pytest.raises(InputValueError, match=r"groups: shape \(3,\), expected \(40,\)"):
        base.fine_tune(stars, table, method="head", groups=["a", "b", "c"], **SETTINGS)


def star_numbers(values, identifier=None, groups=None):
    """Return the number of the star of each row, of different spectra with one label."""
    flux = np.arange(60.0) + np.arange(len(values))[:, None]
    arrays = from_arrays(WAVELENGTH, flux, identifier=identifier)
    truth = {"logg": (np.asarray(values, dtype=float), np.full(len(values), 0.1))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpectraFMWarning)
        return rows_of_one_star(arrays, truth, groups)


def test_which_rows_are_of_one_star():
    """Names and labels that repeat beyond chance tell; numbers of rows, rounded labels and limits do not."""
    rng = np.random.default_rng(7)
    several, alone = np.arange(30).repeat(4), np.arange(120)
    values = rng.normal(2, 1, 120)
    np.testing.assert_array_equal(star_numbers(values, [f"HD {i}" for i in several]), several)
    np.testing.assert_array_equal(star_numbers(values[several]), several)
    np.testing.assert_array_equal(star_numbers(np.round(values, 3)[several]), several)
    # names and labels that each tell of some
    names = [f"HD {i}" if i < 15 else "" for i in several]
    np.testing.assert_array_equal(star_numbers(np.where(several < 15, values, 9 + values[several]), names), several)
    np.testing.assert_array_equal(
        star_numbers(values, groups=["" if i < 60 else "a" for i in alone]), np.minimum(alone, 60)
    )
    masked = np.ma.array(several, mask=several < 15)
    np.testing.assert_array_equal(
        star_numbers(values, groups=masked), _in_order(np.where(several < 15, -alone, several))
    )
    for different in (
        np.round(values, 1),
        np.where(values < 1.5, 1.5, values),
        rng.integers(0, 2, 120),
        rng.integers(0, 14, 120),
        np.full(120, np.nan),
        # rounded, but for one or for some of them
        np.append(np.round(values[1:], 1), 2.03),
        np.where(alone < 100, np.round(values, 1), values),
        np.where(alone % 2, np.round(values, 1), np.round(values, 2)),
    ):
        np.testing.assert_array_equal(star_numbers(different), alone)
    # a long number is the name of a star where labels agree with that, and of a plate or a night elsewhere
    numbers = [str(100_000 + i) for i in several]
    np.testing.assert_array_equal(star_numbers(values[several] + 0.1 * values, numbers), several)
    np.testing.assert_array_equal(star_numbers(np.full(120, np.nan), numbers), several)
    for names in (["survey"] * 120, [str(i) for i in several], [""] * 120, numbers):
        np.testing.assert_array_equal(star_numbers(values, names), alone)


def _in_order(names):
    """Return numbers in the order in which names come first."""
    _, first, back = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[back]


def test_defaults_agree():
    """`SpectraFM.fine_tune` and the settings that it makes have the same defaults."""
    defaults = inspect.signature(SpectraFM.fine_tune).parameters
    for field in fields(FineTuneConfig):
        assert defaults[field.name].default == field.default


def test_nothing_warns_twice(base, tuned):
    """A spectrum that cannot be used is a masked row, as ever."""
    with pytest.warns(SpectraFMWarning, match="1 of 1 rows are masked"):
        table = tuned.infer(Spectrum(np.full(60, np.nan) * u.one, WAVELENGTH * u.AA))
    assert table["teff"].mask.all()
