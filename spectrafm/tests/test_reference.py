"""Parity with the published code, on checkpoints it wrote."""

import json
import shutil

import numpy as np
import pytest

from spectrafm.exceptions import CheckpointError
from spectrafm.stellarperceptron import ModelConfig, StellarPerceptron

LABELS = ["TEFF", "LOGG", "O_FE", "MG_FE", "FE_H"]


@pytest.fixture(scope="module")
def case(shared_data):
    """Return each parity case: folder and exact answers."""
    folders = sorted(path.parent for path in (shared_data / "reference_parity").glob("*/case.npz"))
    assert folders
    return [(folder, dict(np.load(folder / "case.npz"))) for folder in folders]


def perceive(folder, answers, **kwargs):
    """Run our model on the inputs of a case."""
    model = StellarPerceptron.from_reference(folder)
    inputs = (answers["flux"], answers["names"], answers["wavelength_angstrom"])
    return model, model.perceive(*inputs, **kwargs)


def test_perception(case):
    """The encoder's output is that of the published code."""
    for folder, answers in case:
        _, perception = perceive(folder, answers)
        scale = np.abs(answers["perception"]).max()
        np.testing.assert_allclose(perception.vectors.numpy(), answers["perception"], rtol=1e-5, atol=1e-5 * scale)


def test_request(case):
    """Predictions and errors are those of the published code to 1e-5."""
    for folder, answers in case:
        model, perception = perceive(folder, answers)
        _, prediction, sigma = model.request_standardized(perception, LABELS)
        np.testing.assert_allclose(prediction, answers["standardized_prediction"], rtol=1e-5)
        np.testing.assert_allclose(sigma, answers["standardized_sigma"], rtol=1e-5)


def test_request_physical(case):
    """In physical units too, including the errors."""
    for folder, answers in case:
        model, perception = perceive(folder, answers)
        prediction, sigma = model.request(perception, LABELS)
        columns = list(answers["request_columns"])
        for i, name in enumerate(LABELS):
            expected = answers["request_values"][:, columns.index(name)]
            expected_sigma = answers["request_values"][:, columns.index(f"{name}_error")]
            np.testing.assert_allclose(sigma[:, i], expected_sigma, rtol=1e-5)
            # a label near zero is the difference of two numbers of the size of its deviation
            np.testing.assert_allclose(prediction[:, i], expected, rtol=1e-5, atol=1e-5 * expected_sigma.max())


def test_attention(case):
    """The published attention is that of the last block, each column scaled to one."""
    for folder, answers in case:
        _, perception = perceive(folder, answers, need_attention=True)
        weights = perception.attention[-1].astype(np.float64)
        known = answers["flux"].shape[1]
        weights[:, known:] = 0
        expected = answers["encoder_attention"]
        assert np.isnan(expected[..., known:]).all()
        ours = weights[..., :known] / weights[..., :known].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(ours, expected[..., :known], atol=1e-6)


def test_save_load(case, tmp_path):
    """Saved in our format and loaded, a published checkpoint still gives its answers."""
    folder, answers = case[0]
    model, perception = perceive(folder, answers)
    model.save(tmp_path)
    again = StellarPerceptron.load(tmp_path)
    assert again.config == model.config
    inputs = (answers["flux"], answers["names"], answers["wavelength_angstrom"])
    np.testing.assert_array_equal(again.perceive(*inputs).vectors, perception.vectors)


def test_paper_size():
    """The paper's configuration has the parameters counted in it."""
    from spectrafm.stellarperceptron import Vocabulary

    names = [f"pixel{i}" for i in range(7514)]
    labels = ["teff", "logg", "o_fe", "mg_fe", "fe_h"]
    model = StellarPerceptron(ModelConfig.paper(), Vocabulary([*names, *labels]))
    assert model.n_parameter == pytest.approx(11.87e6, rel=0.005)


def test_missing_file(tmp_path):
    """A folder without a checkpoint says what is expected."""
    with pytest.raises(CheckpointError, match="config.json, weights.pt and embed_map.npz"):
        StellarPerceptron.from_reference(tmp_path)


def test_damaged(case, tmp_path):
    """A truncated weight file and a pickle are refused, not run."""
    folder, _ = case[0]
    for name in ("config.json", "embed_map.npz"):
        shutil.copyfile(folder / name, tmp_path / name)
    (tmp_path / "weights.pt").write_bytes((folder / "weights.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a checkpoint of the published code"):
        StellarPerceptron.from_reference(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match="not a checkpoint of the published code"):
        StellarPerceptron.from_reference(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"nn_config": [1]},
        {"nn_config": {"encoder_head_num": None}},
        {"nn_config": {"embedding_activation": ["gelu"]}},
        {"tokenizer_config": {"vocabs": None}},
        {"norm_config": {"_input_std": [1.0]}},
    ],
)
def test_other_types(case, tmp_path, change):
    """A configuration of another structure is refused, whatever it has instead."""
    folder, _ = case[0]
    for path in folder.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    settings = json.loads((folder / "config.json").read_text())
    [(part, its)] = change.items()
    settings[part] = settings[part] | its if isinstance(its, dict) else its
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="not a checkpoint of the published code"):
        StellarPerceptron.from_reference(tmp_path)


def test_other_sizes(case, tmp_path):
    """A weight of another shape than the configuration is named."""
    folder, _ = case[0]
    for path in folder.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    settings = json.loads((folder / "config.json").read_text())
    settings["nn_config"]["decoder_dense_num"] *= 2
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="decoder_dense"):
        StellarPerceptron.from_reference(tmp_path)
