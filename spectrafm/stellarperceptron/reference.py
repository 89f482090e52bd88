"""Reader of checkpoints of the published SpectraFM code."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch

from ..exceptions import CheckpointError
from .config import ModelConfig
from .vocabulary import Vocabulary

__all__ = ["read_reference"]


# what files of other structure end in
_DAMAGED = (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError, EOFError)


def read_reference(folder):
    """Read configuration, vocabulary and weights of a published checkpoint.

    Parameters
    ----------
    folder : str or pathlib.Path
        With ``config.json``, ``weights.pt`` and ``embed_map.npz``. Nothing in
        it is unpickled beyond tensors.

    Returns
    -------
    config : ModelConfig
    vocabulary : Vocabulary
    state : dict of str to torch.Tensor

    Raises
    ------
    CheckpointError
        Files that are missing, damaged, or do not fit together.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / "config.json").read_text())
        state = torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)["model_state_dict"]
        with np.load(folder / "embed_map.npz", allow_pickle=False) as file:
            embed_map = dict(zip(file["keys"].tolist(), file["values"].tolist(), strict=True))
        return _config(settings["nn_config"]), _vocabulary(settings, embed_map), _state(state)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"folder: {error.filename} not found; expected config.json, weights.pt and embed_map.npz"
        ) from error
    except (*_DAMAGED, OSError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"folder: {folder} is not a checkpoint of the published code ({error})") from error


def _halvings(value, n):
    return tuple(max(int(value) >> i, 1) for i in range(n))


def _config(nn):
    activations = {nn[f"{part}_activation"] for part in ("embedding", "encoder", "decoder")}
    if activations != {"gelu"}:
        raise CheckpointError(f"activation: {sorted(activations)} in the checkpoint, only 'gelu' is supported")
    return ModelConfig.paper(
        context_length=nn["context_length"],
        embedding_dim=nn["embedding_dim"],
        encoder_heads=_halvings(nn["encoder_head_num"], 2),
        encoder_dense=_halvings(nn["encoder_dense_num"], 2),
        decoder_heads=_halvings(nn["decoder_head_num"], 3),
        decoder_dense=_halvings(nn["decoder_dense_num"], 3),
        head_dense=_halvings(nn["decoder_dense_num"], 4),
        dropout=nn["encoder_dropout_rate"],
        head_dropout=nn["decoder_dropout_rate"],
    )


def _vocabulary(settings, embed_map):
    tokenizer, norm = settings["tokenizer_config"], settings["norm_config"]
    names, tokens = tokenizer["vocabs"], tokenizer["vocab_tokens"]
    if list(tokens) != list(range(1, len(names) + 1)):
        order = np.argsort(tokens)
        names, tokens = [names[i] for i in order], [tokens[i] for i in order]
    if list(tokens) != list(range(1, len(names) + 1)):
        raise CheckpointError("vocab_tokens: expected the numbers from 1 on, one a name")
    standardized = np.array(norm["_input_standardized"], dtype=bool)[1:]
    mean = np.where(standardized, np.array(norm["_input_mean"], dtype=np.float64)[1:], 0.0)
    std = np.where(standardized, np.array(norm["_input_std"], dtype=np.float64)[1:], 1.0)
    return Vocabulary(names, rows=[embed_map.get(t, t) for t in tokens], mean=mean, std=std)


def _state(state):
    """Return weights without the prefixes that those of a compiled or distributed model carry."""
    for prefix in ("module.", "_orig_mod."):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state
