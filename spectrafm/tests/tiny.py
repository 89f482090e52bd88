"""A tiny model and a tiny set of stars, made in a second, for the tests."""

from contextlib import contextmanager

import numpy as np
import torch

from spectrafm.datasets import register_reader, unregister_reader
from spectrafm.stellarperceptron import FitConfig, ModelConfig, StellarPerceptron, TableStream, TokenTable, Vocabulary

WAVELENGTH = np.linspace(4000.0, 9000.0, 60)
QUANTITIES = ("teff", "logg", "k_mag")


def tiny_config(**changes):
    """Return a configuration that runs in milliseconds."""
    settings = {
        "embedding_dim": 32,
        "encoder_heads": (4, 2),
        "encoder_dense": (48, 32),
        "decoder_heads": (4,),
        "decoder_dense": (48,),
        "head_dense": (32,),
        "patch_size": 16,
        "patch_width": 0.2,
        "patch_dense": 48,
        "patch_components": 24,
    }
    return ModelConfig(**(settings | changes))


def tiny_table(n_star=200, seed=0):
    """Return stars whose labels shape their spectra."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n_star, 3))
    x = WAVELENGTH / 1000
    flux = 1 + 0.1 * hidden[:, :1] * np.sin(2 * x) + 0.1 * hidden[:, 1:2] * np.cos(3 * x)
    flux = flux + 0.01 * rng.normal(size=flux.shape)
    values = np.stack((5000 * np.exp(0.1 * hidden[:, 0]), 2.5 + hidden[:, 1], 10 + hidden[:, 2]), axis=1)
    errors = np.broadcast_to([20.0, 0.02, 0.01], values.shape).copy()
    return TokenTable(
        flux.astype(np.float32), WAVELENGTH, np.full(flux.shape, 0.01, np.float32), values, errors, QUANTITIES
    )


def tiny_model(seed=0, **changes):
    """Return an untrained model that is standardised on the tiny stars."""
    vocabulary = Vocabulary(["flux", *QUANTITIES], flux=["flux"], log=["teff"])
    table = tiny_table()
    vocabulary.fit(table, np.arange(len(table)))
    model = StellarPerceptron(tiny_config(**changes), vocabulary, seed=seed)
    model.fit_patches(TableStream(model, table, ["teff"], FitConfig()), n_step=1)
    if model.config.patch_convolutions:
        # they start with no say, as the readout does
        weight = model.torch_model.patch_layer.dense_convolved.weight
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(seed))
    if model.config.fit_knots:
        generator = torch.Generator().manual_seed(seed)
        for fit in model.torch_model.readout.fits:
            fit.components.normal_(generator=generator).mul_(0.05)
    if model.config.readout_labels:
        weight = model.torch_model.readout.out.weight
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(seed))
    if model.config.opinion_labels:
        generator = torch.Generator().manual_seed(seed)
        opinion = model.torch_model.opinion
        opinion.components.normal_(generator=generator).mul_(0.05)
        opinion.trust.data.fill_(0.5)
    return model


@contextmanager
def known_data(**data_sets):
    """Let recipes read data sets by name, within."""
    for name, data in data_sets.items():
        register_reader(name, lambda folder, data=data: data)
    try:
        yield
    finally:
        for name in data_sets:
            unregister_reader(name)
