"""Embeddings, encodings and blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrafm.exceptions import ConfigError
from spectrafm.stellarperceptron import (
    LogFourierEncoding,
    ModelConfig,
    NonLinearEmbedding,
    SinusoidalEncoding,
    StellarPerceptron,
    TransformerBlock,
    Vocabulary,
    layers,
)
from spectrafm.stellarperceptron.layers import Attention
from spectrafm.stellarperceptron.patches import ascending, assign_patches, interpolation
from spectrafm.stellarperceptron.tokens import in_columns
from spectrafm.tests.tiny import WAVELENGTH, tiny_config, tiny_model

PATCHES = {"patch_size": 16, "patch_width": 0.2, "patch_anchor": 3000.0}


def test_embedding_formula():
    """A token is gelu(E value + B); padding is zero; a request is E alone."""
    layer = NonLinearEmbedding(3, 8)
    row, value = torch.tensor([[1, 3, 0]]), torch.tensor([[0.5, -2.0, 7.0]])
    out = layer(row, value)
    expected = torch.nn.functional.gelu(layer.embeddings[3] * -2.0 + layer.bias[3])
    torch.testing.assert_close(out[0, 1], expected)
    assert not out[0, 2].any()
    torch.testing.assert_close(layer.request(row)[0, 1], layer.embeddings[3])


def test_padding_drops_nothing():
    """Tokens are padded to the context, and stay where it is shorter than they are, as with patches."""
    for context_length in (8, 100):
        model = tiny_model(pad_to_context=True, context_length=context_length)
        tokens = model.tokenize(np.ones((2, 60)), ["flux"] * 60, WAVELENGTH)
        assert tokens.token.shape == (2, max(context_length, 60))
        assert ((tokens.token > 0).sum(dim=1) == 60).all()


def test_embedding_error():
    """The error of a value is an input, and not knowing it is not an error of zero."""
    layer = NonLinearEmbedding(1, 8, error_input=True)
    row, value = torch.ones((1, 3), dtype=torch.int64), torch.ones(1, 3)
    out = layer(row, value, torch.tensor([[0.01, 0.1, torch.nan]]))
    assert torch.isfinite(out).all()
    assert not torch.allclose(out[0, 0], out[0, 1])
    assert not torch.allclose(out[0, 1], out[0, 2])


@pytest.mark.parametrize("encoding", [LogFourierEncoding(64), SinusoidalEncoding(64)])
def test_encoding_never_half(encoding):
    """Wavelengths are encoded in full precision under autocast and in a half-precision model."""
    wavelength = torch.tensor([[16200.0, 16200.1, 0.0]], dtype=torch.float64)
    exact = encoding(wavelength)
    assert exact.dtype == torch.float32
    assert not exact[0, 2].any()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(encoding(wavelength), exact, rtol=0, atol=0)
    torch.testing.assert_close(encoding.to(torch.bfloat16)(wavelength), exact, rtol=0, atol=0)


def test_fourier_resolution():
    """Neighbouring pixels at R = 100,000 are told apart, over the whole range."""
    encoding = LogFourierEncoding(256)
    pair = torch.tensor([3000.0, 16000.0, 25000.0], dtype=torch.float64)[:, None] * torch.tensor([1.0, 1 + 1e-5])
    first, second = encoding(pair).unbind(1)
    assert ((first - second).norm(dim=-1) > 1).all()
    assert ((first[0] - first[2]).norm(dim=-1) > 5).all()


def test_block_matches_torch():
    """Our block attends as torch.nn.MultiheadAttention with bias_k and bias_v does."""
    torch.manual_seed(0)
    block = TransformerBlock(32, 4, 64).eval()
    theirs = torch.nn.MultiheadAttention(32, 4, add_bias_kv=True, batch_first=True).eval()
    theirs.load_state_dict(block.attention.state_dict())
    x, pad = torch.randn(3, 7, 32), torch.zeros(3, 7, dtype=torch.bool)
    pad[:, 5:] = True
    expected, weights = theirs(x, x, x, key_padding_mask=pad)
    keys, values = block.attention.keys_values(x)
    ours, _ = block.attention(x, keys, values, pad)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    _, our_weights = block.attention(x, keys, values, pad, need_weights=True)
    torch.testing.assert_close(our_weights, weights[..., :-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm_first", [False, True])
def test_block_all_padded(norm_first):
    """A star without any token gives finite numbers."""
    block = TransformerBlock(32, 4, 64, norm_first=norm_first).eval()
    out, _ = block(torch.randn(2, 5, 32), None, torch.ones(2, 5, dtype=torch.bool))
    assert torch.isfinite(out).all()


def layout(wavelength, good=None):
    """Assign one star's pixels to patches."""
    wavelength = torch.as_tensor(wavelength, dtype=torch.float64)[None]
    good = torch.ones_like(wavelength, dtype=torch.bool) if good is None else torch.as_tensor(good)[None]
    return assign_patches(wavelength, good, **PATCHES)


def test_patches_hold_at_most_their_size():
    """Whatever the sampling, the median patch holds at most patch_size pixels and weights add up to its width."""
    for n_pixel in (30, 100, 1000, 8000):
        wavelength = np.exp(np.linspace(np.log(4000), np.log(9000), n_pixel))
        patch, knot, weight, center, width = layout(wavelength)
        counts = torch.bincount(patch[0])
        assert counts[1:-1].float().median() <= 16
        assert (center > 0).all()
        assert (knot >= 0).all()
        assert (knot <= 15).all()
        total = torch.zeros(len(counts)).scatter_add_(0, patch[0], weight[0])
        np.testing.assert_allclose(total[1:-1], 15, rtol=0.6)
        np.testing.assert_allclose(width[0, 0] * len(counts), np.log(9 / 4), rtol=0.35)


def test_patches_do_not_move():
    """A missing pixel leaves the patches of all others where they are."""
    patch, knot, *_, center, _ = layout(WAVELENGTH)
    kept = np.arange(60) != 30
    patch_2, knot_2, *_, center_2, _ = layout(WAVELENGTH[kept])
    torch.testing.assert_close(knot[0, kept], knot_2[0])
    torch.testing.assert_close(center[0][patch[0, kept]], center_2[0][patch_2[0]])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_patch_embedding_order_and_padding(seed):
    """Bad pixels equal pixels that are not there, in any order."""
    rng = np.random.default_rng(seed)
    layer = tiny_model().torch_model.patch_layer
    n = len(WAVELENGTH)
    flux, good = torch.from_numpy(rng.normal(size=(1, n))).float(), torch.from_numpy(rng.random((1, n)) < 0.7)
    good[0, 0] = True
    sigma, wavelength = torch.full((1, n), 0.1), torch.from_numpy(WAVELENGTH)[None]
    with torch.inference_mode():
        vectors, pad = layer(flux, sigma, wavelength, good)
        order = torch.from_numpy(rng.permutation(n))
        shuffled, _ = layer(flux[:, order], sigma, wavelength[:, order], good[:, order])
        keep = good[0]
        dropped, pad_2 = layer(flux[:, keep], sigma[:, keep], wavelength[:, keep], good[:, keep])
    torch.testing.assert_close(vectors, shuffled)
    torch.testing.assert_close(vectors[~pad], dropped[~pad_2])


def test_patch_embedding_grid():
    """The same smooth spectrum on a grid three times finer gives nearly the same patches."""
    layer = tiny_model(patch_size=8).torch_model.patch_layer
    edges = np.log([3000 * np.exp(0.4), 3000 * np.exp(1.0)])
    found = []
    for n in (60, 180):
        x = edges[0] + (np.arange(n) + 0.5) / n * (edges[1] - edges[0])
        wavelength = torch.from_numpy(np.exp(x))[None]
        flux = torch.from_numpy(1 + 0.3 * np.sin(8 * x))[None].float()
        good = torch.ones_like(flux, dtype=torch.bool)
        features, center, width = layer.features(flux, torch.full_like(flux, torch.nan), wavelength, good)
        # compare the mean of the flux channel, whatever the width of the patches
        found.append(features[0, :, :8].sum() / features[0, :, 32:].sum())
    np.testing.assert_allclose(found[0], found[1], rtol=2e-3)


def test_interpolation():
    """Cubic between evenly spaced pixels, linear elsewhere, nothing in gaps; bad pixels do not count."""
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 8.0, 9.0, 12.0, 13.0, 30.0, 99.0]], dtype=torch.float64)
    good = x < 50
    place = torch.tensor([[2.5, 3.0, 6.0, 8.5, 10.5, 18.0, 30.4, -0.4, 50.0]], dtype=torch.float64)
    index, weight, presence = interpolation(x, good, place, 1.0)
    for power in (0, 1, 2, 3):
        found = (weight * (x**power)[0][index]).sum(dim=0)[0].float()
        # the third is where one pixel is missing
        torch.testing.assert_close(found[:3], place[0, :3].float() ** power, rtol=1e-4, atol=1e-4)
    linear = (weight * x[0][index].float()).sum(dim=0)[0]
    torch.testing.assert_close(linear[2:7], torch.tensor([6.0, 8.5, 10.5, 0.0, 30.0]))
    assert (weight[:, 0, 3:5] > 0).sum(dim=0).tolist() == [2, 2]
    assert presence[0].tolist() == pytest.approx([1, 1, 0.75, 1, 0.5, 0, 1, 1, 0])
    nothing = interpolation(x, torch.zeros_like(good), place, 1.0)
    assert not nothing[1].any()
    assert not nothing[2].any()


def test_interpolated_knots_do_not_depend_on_the_pixels():
    """A line looks the same however it is sampled, in any order of pixels; sums beat with the sampling."""
    rng, change = np.random.default_rng(2), {}
    for knots in ("sum", "interpolate"):
        layer = StellarPerceptron(tiny_config(patch_knots=knots), tiny_model().vocabulary).torch_model.patch_layer
        found = []
        for spacing, phase in ((0.0156, 0.0), (0.0156, 0.5), (0.0125, 0.3)):
            x = np.log(4000.0) + np.arange(0.0, 0.5, spacing) + phase * spacing
            x = rng.permutation(x)
            flux = 1 - 0.5 * np.exp(-0.5 * ((x - np.log(4000.0) - 0.25) / 0.03) ** 2)
            arrays = (torch.from_numpy(flux)[None].float(), torch.full((1, len(x)), torch.nan))
            wavelength = torch.from_numpy(np.exp(x))[None]
            features, center, _ = layer.features(*arrays, wavelength, torch.ones(1, len(x), dtype=torch.bool))
            # the patches in the middle, that pixels fill in all three cases
            found.append(features[0][(center[0] > 4600) & (center[0] < 5900)][:, :16].numpy())
        change[knots] = max(np.abs(found[i] - found[0]).max() for i in (1, 2))
    assert change["interpolate"] < 0.02
    assert change["sum"] > 5 * change["interpolate"]


def test_whitening():
    """Whitened training patches have unit variance and no correlation."""
    layer = tiny_model().torch_model.patch_layer
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(4000, 80)) @ rng.normal(size=(80, 80)) + 3).float()
    width = torch.full((4000,), layer.config.patch_width)
    layer.set_components([(features[:1000], width[:1000]), (features[1000:], width[1000:])], floor=0.0)
    white = ((features - layer.feature_mean) @ layer.components).numpy()
    np.testing.assert_allclose(np.cov(white.T), np.eye(24), atol=1e-3)


def test_whitening_by_width():
    """Patches of each width are whitened by their own; those of a width never seen by those of all."""
    model = StellarPerceptron(tiny_config(patch_levels=3), tiny_model().vocabulary)
    layer = model.torch_model.patch_layer
    rng = np.random.default_rng(1)
    wide, narrow = (
        torch.from_numpy(rng.normal(size=(40_000, 80)) @ rng.normal(size=(80, 80)) + 3 * i).float() for i in range(2)
    )
    size = layer.config.patch_width
    layer.set_components([(wide, torch.full((40_000,), size)), (narrow, torch.full((40_000,), size / 2))], floor=0.0)
    for level, features in ((0, wide), (1, narrow)):
        white = layer._whiten(features[None], torch.full((1, 40_000), level))[0].numpy()
        assert np.abs(np.cov(white.T) - np.eye(24)).max() < 0.1
    both = torch.cat((wide, narrow))[None]
    white = layer._whiten(both, torch.full(both.shape[:2], 2))[0].numpy()
    np.testing.assert_allclose(np.cov(white.T), np.eye(24), atol=1e-2)
    mixed = layer._whiten(both[:, 39_999:40_001], torch.tensor([[0, 1]]))
    for i, (features, level) in enumerate(((wide[-1:], 0), (narrow[:1], 1))):
        torch.testing.assert_close(mixed[:, i], layer._whiten(features[None], torch.tensor([[level]]))[0])


def test_config_lists_all_problems():
    """Everything that is inconsistent comes in one error."""
    with pytest.raises(ConfigError, match=r"(?s)context_length.*multiple of each of encoder_heads.*dropout"):
        ModelConfig(context_length=0, encoder_heads=(7, 7), dropout=1.5)
    with pytest.raises(
        ConfigError, match=r"(?s)encoder_dense must be a tuple of pos.*, not \(0, -3\).*head_dense .*\(0,\)"
    ):
        ModelConfig(encoder_dense=(0, -3), head_dense=(0,))
    with pytest.raises(ConfigError, match="patch_size 12 cannot be halved 3 times by convolutions"):
        tiny_config(patch_size=12, patch_convolutions=(4, 4))
    with pytest.raises(ConfigError, match=r"patch_convolutions must be a tuple of positive integers, not \(4, 0\)"):
        tiny_config(patch_convolutions=(4, 0))
    with pytest.raises(ConfigError, match="patch_convolutions must be a tuple, not 4"):
        tiny_config(patch_convolutions=4)


def test_config_round_trip():
    """A configuration survives its dictionary; an unknown setting is refused with the known ones."""
    config = tiny_config(norm_first=True)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r"unknown settings \['depth'\]; known are: .*embedding_dim"):
        ModelConfig.from_dict({"depth": 3})


def test_vocabulary_problems():
    """Repeated and unknown names are reported together."""
    with pytest.raises(ConfigError, match=r"repeated; 'x' is not among the names; mean has 1 entries for 2"):
        Vocabulary(["a", "a"], flux=["x"], mean=[0.0])


def test_bfloat16_training_agrees_with_inference():
    """With gradients on a CPU attention takes another way in bfloat16, to the same answer."""
    torch.manual_seed(0)
    attention = Attention(64, 4)
    tokens, pad = torch.randn(3, 20, 64), torch.zeros(3, 20, dtype=torch.bool)
    pad[1, 5:] = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained, _ = attention(tokens, *attention.keys_values(tokens), pad)
        with torch.no_grad():
            inferred, _ = attention(tokens, *attention.keys_values(tokens), pad)
    exact, _ = attention(tokens, *attention.keys_values(tokens), pad)
    torch.testing.assert_close(trained, inferred, atol=0.01, rtol=0.02)
    torch.testing.assert_close(trained.float(), exact, atol=0.02, rtol=0.05)


@pytest.mark.parametrize("n_head", [2, 8])
def test_ways_of_attention_agree(n_head, monkeypatch):
    """Narrow heads take another way on a CPU than wide ones, to the same answer."""
    torch.manual_seed(0)
    attention = Attention(64, n_head)
    tokens, pad = torch.randn(3, 20, 64), torch.zeros(3, 20, dtype=torch.bool)
    pad[1, 5:] = True
    found = []
    for explicit in (True, False):
        monkeypatch.setattr(layers, "_explicit_is_faster", lambda keys, explicit=explicit: explicit)
        found.append(attention(tokens, *attention.keys_values(tokens), pad)[0])
    torch.testing.assert_close(*found)


def test_order_of_pixels():
    """Good pixels ascend and bad ones go, whether they ascended before or not."""
    wavelength = torch.tensor([[1.0, 2.0, 9.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0]], dtype=torch.float64)
    good = torch.tensor([[True, True, False, True, True], [True, False, True, True, True]])
    for rows in (slice(0, 1), slice(0, 2)):
        order = ascending(wavelength[rows], good[rows])
        assert order.shape[1] == 4
        assert (torch.diff(wavelength[rows].gather(1, order), dim=1) > 0).all()
        assert good[rows].gather(1, order).all()


def test_attention_leaves_switches_alone(monkeypatch):
    """On a CPU the kinds of attention, switches that all threads share, are not touched."""
    monkeypatch.setattr(layers, "sdpa_kernel", lambda *_: pytest.fail("switched"))
    model = tiny_model()
    perceived = model.perceive(np.ones((2, 60)), ["flux"] * 60, WAVELENGTH)
    model.request(perceived, ["teff"])


def test_columns_under_another_default_dtype():
    """Values keep their type, whatever the default of PyTorch is."""
    torch.set_default_dtype(torch.float64)
    try:
        columns = in_columns(torch.tensor([[1, -1, 0]]), 3, torch.tensor([[5, 6, 7]], dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(columns, torch.tensor([[7, 5, torch.nan]]), equal_nan=True)
