"""Perceive and request: what the answers may and may not depend on."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from spectrafm.exceptions import CheckpointError, ConfigError, InputTypeError, InputValueError
from spectrafm.stellarperceptron import FitConfig, StellarPerceptron, TableStream, Vocabulary
from spectrafm.stellarperceptron import model as model_module
from spectrafm.stellarperceptron.model_core import named_bytes, split_bytes
from spectrafm.tests.tiny import WAVELENGTH, tiny_config, tiny_model, tiny_table

CONFIGS = {
    "patches": {},
    "convolutions": {"patch_knots": "interpolate", "patch_convolutions": (6, 8)},
    "levels": {"patch_levels": 3},
    "readout": {"readout_labels": ("logg", "teff"), "readout_dense": 24, "readout_ranges": (3900.0, 9100.0)},
    "pixels": {"patch_size": 1, "context_length": 80},
}
TABLE = tiny_table(6)
FLUX = TABLE.flux.astype(np.float64)
NAMES = np.repeat("flux", 60)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    """Return an untrained model, with patches of two kinds, with a second look, and with single pixels."""
    return tiny_model(**CONFIGS[request.param])


def ask(model, flux=FLUX, names=NAMES, wavelength=WAVELENGTH, sigma=0.01, requests=("teff", "logg")):
    """Perceive and request in one go."""
    sigma = np.broadcast_to(sigma, np.shape(flux))
    perception = model.perceive(flux, names, wavelength, sigma)
    return np.stack(model.request(perception, requests))


def test_batch_mates(model):
    """A star's answer does not depend on the stars beside it."""
    together = ask(model)
    alone = np.concatenate([ask(model, FLUX[i : i + 1]) for i in range(6)], axis=1)
    np.testing.assert_allclose(together, alone, rtol=2e-6)


def test_pixel_order(model):
    """Pixels may come in any order."""
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(ask(model), ask(model, FLUX[:, order], NAMES, WAVELENGTH[order]), rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(bad=st.sets(st.integers(0, 59), max_size=50), kind=st.sampled_from(list(CONFIGS)))
def test_nan_is_dropped(bad, kind):
    """A NaN pixel is a pixel that is not there."""
    model = tiny_model(**CONFIGS[kind])
    bad = sorted(bad)
    with_nan = FLUX.copy()
    with_nan[:, bad] = np.nan
    keep = np.setdiff1d(np.arange(60), bad)
    expected = ask(model, FLUX[:, keep], NAMES[keep], WAVELENGTH[keep])
    np.testing.assert_allclose(ask(model, with_nan), expected, rtol=1e-5)


@pytest.mark.parametrize("impossible", [np.inf, -1.0, 1e300])
def test_errors_that_are_not_known(model, impossible):
    """An error that is infinite, also in single precision, or negative is one that is not known."""
    sigma = np.full(FLUX.shape, 0.01)
    sigma[:, 10:30] = impossible
    tokens = model.tokenize(FLUX, NAMES, WAVELENGTH, sigma)
    assert torch.isnan(tokens.sigma[:, 10:30]).all()
    assert tokens.sigma.dtype == torch.float32
    unknown = np.where(sigma == 0.01, sigma, np.nan)
    np.testing.assert_array_equal(
        *(model.request(model.perceive(FLUX, NAMES, WAVELENGTH, some), ["teff"]) for some in (sigma, unknown))
    )


def test_padding(model):
    """Padding for a longer batch mate changes nothing."""
    with_nan = FLUX.copy()
    with_nan[0, 20:] = np.nan
    np.testing.assert_allclose(ask(model, with_nan)[:, :1], ask(model, with_nan[:1]), rtol=2e-6)


def test_all_nan(model):
    """A star of which nothing is known gets NaN, and its mates their answers."""
    with_nan = FLUX.copy()
    with_nan[2] = np.nan
    answer = ask(model, with_nan)
    assert np.isnan(answer[:, 2]).all()
    rest = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(answer[:, rest], ask(model)[:, rest], rtol=2e-6)


def test_requests_are_independent(model):
    """Asking all at once, one by one, or twice gives the same answers; flux and labels mix."""
    perception = model.perceive(FLUX, NAMES, WAVELENGTH)
    names, at = ["teff", "flux", "logg", "flux"], [0, 5000.0, 0, 5000.3]
    together, sigma = model.request(perception, names, at)
    one_by_one = [model.request(perception, [n], [w])[0][:, 0] for n, w in zip(names, at, strict=True)]
    np.testing.assert_allclose(together, np.stack(one_by_one, axis=1), rtol=2e-6)
    assert (sigma > 0).all()
    assert not np.allclose(together[:, 1], together[:, 3], rtol=1e-9)


def test_many_requests_are_decoded_in_parts(model, monkeypatch):
    """However many are decoded together, answers and attention are the same."""
    perception = model.perceive(FLUX, NAMES, WAVELENGTH)
    names, at = ["teff", *["flux"] * 7], np.append(0, np.linspace(4000, 9000, 7))
    once, attention = model.request(perception, names, at), model.request_attention(perception, names, at)
    monkeypatch.setattr(model_module, "_MOST_REQUESTS", 3 * len(FLUX))
    np.testing.assert_allclose(model.request(perception, names, at), once, rtol=2e-6)
    np.testing.assert_allclose(model.request_attention(perception, names, at), attention, rtol=1e-5)
    assert model.request(perception, [])[0].shape == (len(FLUX), 0)
    # fluxes alone take smaller parts
    monkeypatch.setattr(model_module, "_MOST_FLUXES", 2 * len(FLUX))
    decode, parts = model.torch_model.decode, []
    monkeypatch.setattr(model.torch_model, "decode", lambda *asked: parts.append(asked[1].shape[1]) or decode(*asked))
    np.testing.assert_allclose(model.request(perception, names[1:], at[1:]), np.array(once)[..., 1:], rtol=2e-6)
    assert parts == [2, 2, 2, 1]


def test_known_quantity_matters(model):
    """What is known changes the answer, and its error does too."""
    plain = ask(model)
    flux, names, at = np.c_[FLUX, np.full(6, 9.0)], np.append(NAMES, "k_mag"), np.append(WAVELENGTH, 0)
    sigma = np.full(flux.shape, 0.01)
    given = ask(model, flux, names, at, sigma)
    assert not np.allclose(given, plain, rtol=1e-4)
    flux[:, -1] = np.nan
    np.testing.assert_allclose(ask(model, flux, names, at, sigma), plain, rtol=1e-5)


def test_sigma_withheld(model):
    """Unknown errors are an input of their own: neither zero nor anything else."""
    assert not np.allclose(ask(model, sigma=np.nan), ask(model, sigma=0.01), rtol=1e-6)
    assert not np.allclose(ask(model, sigma=np.nan), ask(model, sigma=0.2), rtol=1e-6)


def test_big_endian(model):
    """Arrays as FITS files hold them are taken."""
    expected = ask(model)
    swapped = ask(model, FLUX.astype(">f8"), NAMES, WAVELENGTH.astype(">f8"), np.array(0.01, dtype=">f4"))
    np.testing.assert_allclose(swapped, expected, rtol=1e-5)


def test_attention(model):
    """Weights come for a batch of any size, are positive, and change nothing."""
    for n_star in (1, 6):
        perception = model.perceive(FLUX[:n_star], NAMES, WAVELENGTH, need_attention=True)
        assert len(perception.attention) == 2
        assert all(w.shape[0] == n_star and (w >= 0).all() for w in perception.attention)
        weights = model.request_attention(perception, ["teff", "logg"])
        assert weights.shape[:3] == (1, n_star, 2)
        assert (weights.sum(axis=-1) <= 1 + 1e-6).all()
        plain = model.perceive(FLUX[:n_star], NAMES, WAVELENGTH)
        np.testing.assert_allclose(perception.vectors, plain.vectors, rtol=1e-4, atol=1e-5)


def test_keys_and_values_once(model, monkeypatch):
    """Keys and values are computed by perceive and not again by request."""
    perception = model.perceive(FLUX, NAMES, WAVELENGTH)
    monkeypatch.setattr(type(model.torch_model.torch_decoder), "keys_values", None)
    assert np.isfinite(model.request(perception, ["teff"])[0]).all()


def test_bfloat16_autocast(model):
    """Half precision changes the answers a little and wavelengths not at all."""
    expected = model.request_standardized(model.perceive(FLUX, NAMES, WAVELENGTH), ["logg"])[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.request_standardized(model.perceive(FLUX, NAMES, WAVELENGTH), ["logg"])[1]
    np.testing.assert_allclose(half, expected, atol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", CONFIGS)
def test_cuda(kind):
    """A GPU gives the answers of the CPU."""
    expected = ask(tiny_model(**CONFIGS[kind]))
    np.testing.assert_allclose(ask(tiny_model(**CONFIGS[kind]).to("cuda")), expected, rtol=1e-3)


def test_save_load(model, tmp_path):
    """A loaded model gives the same answers, to the bit; from few bits nearly."""
    expected = ask(model)
    model.save(tmp_path / "single")
    again = StellarPerceptron.load(tmp_path / "single")
    assert again.config == model.config
    assert again.vocabulary.to_dict() == model.vocabulary.to_dict()
    np.testing.assert_array_equal(ask(again), expected)
    model.save(tmp_path / "compact", compact=True)
    small, large = ((tmp_path / k / "model.safetensors").stat().st_size for k in ("compact", "single"))
    assert small < 0.75 * large
    np.testing.assert_allclose(ask(StellarPerceptron.load(tmp_path / "compact")), expected, rtol=0.02)


def test_names_of_bytes():
    """Tensors in bytes are told by their names; one that only looks like one stays."""
    byte, scale, other = torch.ones(2, dtype=torch.int8), torch.ones(2), torch.zeros(3)
    packed = {"odd_byte": other, "a_scale": other, "b": other} | named_bytes("b", byte, scale)
    rest, in_bytes = split_bytes(packed)
    assert list(rest) == ["odd_byte", "a_scale", "b"]
    assert list(in_bytes) == ["b"]
    assert in_bytes["b"][0] is byte
    assert in_bytes["b"][1] is scale


def test_bytes_on_disk(tmp_path):
    """What whitens patches takes a byte a number, but for the widest patches, and comes back nearly as it was."""
    model = tiny_model(patch_levels=3)
    model.save(tmp_path, compact=True)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["patch_layer.components_byte"].dtype == torch.int8
    assert stored["patch_layer.components_byte"].shape[0] == 2
    assert len(stored["patch_layer.components"]) == 1
    before, after = (m.torch_model.patch_layer.components for m in (model, StellarPerceptron.load(tmp_path)))
    torch.testing.assert_close(after[0], before[0].half().float(), rtol=0, atol=0)
    assert ((after - before)[1:].abs() <= 0.01 * before[1:].abs().amax(dim=1, keepdim=True)).all()
    assert not torch.equal(after[1:], before[1:])


def test_formats(model, tmp_path):
    """Weights of the first format are read, those of a later one are not."""
    model.save(tmp_path)
    config = tmp_path / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"format": 1}))
    np.testing.assert_array_equal(ask(StellarPerceptron.load(tmp_path)), ask(model))
    config.write_text(json.dumps(settings | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1, 2 and 3; update spectrafm"):
        StellarPerceptron.load(tmp_path)


def test_load_damaged(model, tmp_path):
    """Missing, truncated and mismatched files are named."""
    with pytest.raises(CheckpointError, match=r"config.json not found"):
        StellarPerceptron.load(tmp_path)
    model.save(tmp_path)
    tensors = tmp_path / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        StellarPerceptron.load(tmp_path)


def test_load_what_is_no_model(model, tmp_path):
    """A file, a configuration of something else and weights that are not finite are told apart."""
    model.save(tmp_path)
    config, tensors = tmp_path / "config.json", tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="config.json cannot be read .* expected a folder with"):
        StellarPerceptron.load(config)
    state, written = load_file(tensors), config.read_text()
    name = "torch_decoder.decoder_out.weight"
    save_file(state | {name: state[name] * np.nan}, tensors)
    with pytest.raises(CheckpointError, match=f"weights are not finite: {name}"):
        StellarPerceptron.load(tmp_path)
    for foreign in ('{"architectures": ["Bert"]}', "[1]", "null"):
        config.write_text(foreign)
        with pytest.raises(CheckpointError, match="is of something else than this model; expected what"):
            StellarPerceptron.load(tmp_path)
    config.write_text(written.replace('"std": [', '"std": ["a", '))
    with pytest.raises(CheckpointError, match="is damaged"):
        StellarPerceptron.load(tmp_path)


def test_load_other_shape(model, tmp_path):
    """Weights of another architecture do not load silently."""
    model.save(tmp_path)
    other = StellarPerceptron(tiny_config(embedding_dim=64, patch_size=model.config.patch_size), model.vocabulary)
    other.save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="do not fit"):
        StellarPerceptron.load(tmp_path / "other")


def test_fit_refuses_what_it_would_ignore(model):
    """Without targets nothing would be trained; a stream has settings in itself."""
    with pytest.raises(InputValueError, match="targets: none; expected names of the table"):
        model.fit(TABLE)
    with pytest.raises(InputValueError, match="targets, divisor: only with a TokenTable"):
        model.fit(TableStream(model, TABLE, ["teff"], FitConfig()), ["teff"], divisor=lambda *_: 1.0)


def test_seed():
    """Initial weights come from the seed alone, and the global generator is left as it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, third = tiny_model(1), tiny_model(1), tiny_model(2)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(ask(first), ask(second))
    assert not np.allclose(ask(first), ask(third))


def test_default_precision_of_the_session(model, tmp_path):
    """Weights are in single precision whatever torch makes by default, which stays as it is."""
    model.save(tmp_path)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        loaded = StellarPerceptron.load(tmp_path)
        found = ask(loaded)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert {p.dtype for p in loaded.torch_model.parameters()} == {torch.float32}
    np.testing.assert_allclose(found, ask(model), rtol=1e-5)


def test_unknown_names(model):
    """An unknown name is an error that lists the known ones, in inputs and requests."""
    with pytest.raises(InputValueError, match=r"\['flxu'\] not known to this model; known are: flux, teff"):
        model.perceive(FLUX, np.repeat("flxu", 60), WAVELENGTH)
    with pytest.raises(InputValueError, match=r"\['age'\] not known"):
        model.request(model.perceive(FLUX, NAMES, WAVELENGTH), ["age"])


def test_bad_shapes(model):
    """Arrays that do not go together are named with both shapes."""
    with pytest.raises(InputValueError, match=r"wavelengths: shape \(59,\), expected \(6, 60\) or \(60,\)"):
        model.perceive(FLUX, NAMES, WAVELENGTH[:-1])
    with pytest.raises(InputValueError, match=r"wavelengths: shape \(2,\), expected one a name, \(1,\)"):
        model.request(model.perceive(FLUX, NAMES, WAVELENGTH), ["flux"], [5000.0, 6000.0])


@pytest.mark.parametrize("at", [None, [0.0], [np.nan], [np.inf], np.ma.masked_array([5000.0], True)])
def test_flux_needs_wavelength(model, at):
    """Flux is asked for at a wavelength, in all configurations."""
    with pytest.raises(InputValueError, match="without a wavelength"):
        model.request(model.perceive(FLUX, NAMES, WAVELENGTH), ["flux"], at)


def test_wavelengths_of_labels_do_not_matter(model):
    """Nothing but a flux is at a wavelength: one beside a label, asked for or known, changes nothing."""
    perception = model.perceive(FLUX, NAMES, WAVELENGTH)
    expected = model.request(perception, ["teff", "flux"], [0, 5000.0])
    np.testing.assert_array_equal(model.request(perception, ["teff", "flux"], [5000.0, 5000.0]), expected)
    known = [model.request(model.perceive([[9.0]], ["k_mag"], [at]), ["logg"]) for at in (0.0, 5000.0)]
    np.testing.assert_array_equal(*known)


def test_masked_is_not_known(model):
    """What is masked, of any input, is as NaN, in lists of masked arrays too."""
    columns = np.arange(60)
    bad_flux, bad_sigma, bad_wavelength = columns == 3, columns == 20, columns == 40
    sigma = np.full(FLUX.shape, 0.01)
    expected = ask(
        model,
        np.where(bad_flux | bad_wavelength, np.nan, FLUX),
        sigma=np.where(bad_sigma, np.nan, sigma),
    )
    masked = [
        np.ma.masked_array(np.where(bad, fill, values), np.broadcast_to(bad, np.shape(values)))
        for values, bad, fill in ((FLUX, bad_flux, 1e3), (WAVELENGTH, bad_wavelength, 4e3), (sigma, bad_sigma, 7.0))
    ]
    for flux in (masked[0], list(masked[0])):
        perception = model.perceive(flux, NAMES, *masked[1:])
        np.testing.assert_array_equal(model.request(perception, ["teff", "logg"]), expected)


@pytest.mark.filterwarnings("error")
def test_absurd_pixels(model):
    """Pixels that are infinitely far away, or beyond single precision, do not count."""
    bad = FLUX.copy()
    bad[:, 7], bad[2, 5], bad[3, 9] = np.nan, np.nan, np.nan
    absurd, wavelength = np.where(np.isnan(bad), 1.0, bad), WAVELENGTH.copy()
    wavelength[7], absurd[2, 5], absurd[3, 9] = np.inf, 1e25, -1e300
    np.testing.assert_array_equal(ask(model, absurd, wavelength=wavelength), ask(model, bad))
    # what counts, however far off it is, gives numbers
    absurd[:, 20] = 1e9
    assert np.isfinite(ask(model, absurd)).all()


def test_no_stars(model):
    """No stars give no answers, embeddings and weights."""
    perception = model.perceive(FLUX[:0], NAMES, WAVELENGTH, np.ones((0, 60)), need_attention=True)
    answer, sigma = model.request(perception, ["teff", "flux", "logg"], [0, 5000.0, 0])
    assert answer.shape == sigma.shape == (0, 3)
    assert perception.pooled.shape == (0, 32)
    assert model.request_attention(perception, ["teff"]).shape[1] == 0


def test_perception_of_another_model(model, tmp_path):
    """A perception is for the weights that made it, wherever these are, and for no others."""
    perception = model.perceive(FLUX, NAMES, WAVELENGTH)
    model.save(tmp_path)
    again = StellarPerceptron.load(tmp_path)
    np.testing.assert_array_equal(again.request(perception, ["teff"]), model.request(perception, ["teff"]))
    other = StellarPerceptron(model.config, model.vocabulary, seed=5)
    with pytest.raises(InputValueError, match="perception: of another model"):
        other.request(perception, ["teff"])
    again.fit(tiny_table(40), ["teff"], FitConfig(steps=1, batch_size=8, warmup_steps=0))
    with pytest.raises(InputValueError, match="or of this one before it was trained"):
        again.request(perception, ["teff"])
    with pytest.raises(InputTypeError, match="perception: of type ndarray, expected Perception"):
        model.request(FLUX, ["teff"])


@pytest.mark.parametrize("device", ["foo", "cuda:99", None])
def test_devices_that_are_not_there(model, device):
    """A move that fails names the device, and leaves the model where it was."""
    expected = ask(model)
    with pytest.raises(InputValueError, match=f"device: '{device}' cannot be used here"):
        model.to(device)
    assert model.device == torch.device("cpu")
    np.testing.assert_array_equal(ask(model), expected)
    with pytest.raises(InputValueError, match="device: "):
        StellarPerceptron(model.config, model.vocabulary, device)


def test_bad_parts():
    """What a model cannot be made of is named."""
    config, vocabulary = tiny_config(), Vocabulary(["flux", "teff"], flux=["flux"])
    for seed in (-1, 1.5, None, True):
        with pytest.raises(InputValueError, match=f"seed: {seed}, expected an integer of 0 or more"):
            StellarPerceptron(config, vocabulary, seed=seed)
    with pytest.raises(InputTypeError, match="config: of type Vocabulary, expected ModelConfig"):
        StellarPerceptron(vocabulary, config)
    with pytest.raises(InputTypeError, match="vocabulary: of type list, expected Vocabulary"):
        StellarPerceptron(config, ["flux", "teff"])
    for std in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match=f"std must be positive and finite numbers, not {std} as of 'teff'"):
            Vocabulary(["flux", "teff"], flux="flux", mean=[0.0, 0.0], std=[1.0, std])
    with pytest.raises(ConfigError, match=r"mean has shape \(\) for 2 names; .* not of type <U"):
        Vocabulary(["flux", "teff"], mean=0.0, std=["a", "b"])


def test_context_overflow():
    """More pixels than the context holds is an error, never a silent choice."""
    model = tiny_model(patch_size=1, context_length=40)
    with pytest.raises(InputValueError, match="60 known values of a star, the context holds 40"):
        ask(model)


@given(
    value=st.floats(1e-3, 1e5),
    sigma=st.floats(1e-6, 1e3),
    log=st.booleans(),
    mean=st.floats(-10, 10),
    std=st.floats(0.01, 100),
)
@settings(max_examples=50, deadline=None)
def test_standardization_round_trip(value, sigma, log, mean, std):
    """Standardising and back gives the value and, to first order, its error."""
    vocabulary = Vocabulary(["q"], log=["q"] if log else [], mean=[mean], std=[std])
    token, value, sigma = np.array([1]), np.array([value]), np.array([sigma])
    standardized = vocabulary.standardize(token, value), vocabulary.standardize_sigma(token, value, sigma)
    back, back_sigma = vocabulary.destandardize(token, *standardized)
    np.testing.assert_allclose(back, value, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(back_sigma, sigma, rtol=1e-9)


def test_standardization_of_impossible_values():
    """The logarithm of what is not positive is unknown, not a number."""
    vocabulary = Vocabulary(["q"], log=["q"])
    token, value = np.array([1, 1, 1]), np.array([0.0, -3.0, np.nan])
    assert np.isnan(vocabulary.standardize(token, value)).all()
    assert np.isnan(vocabulary.standardize_sigma(token, value, np.ones(3))).all()
