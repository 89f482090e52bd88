"""Stars a second of every recipe, in training and in inference, where the benchmark runs."""

import time
from dataclasses import replace

import torch

from ..core import SpectraFM
from ..stellarperceptron import StellarPerceptron
from ..stellarperceptron.trainer import Trainer
from ..training import build_stream, load_recipe, make_vocabulary

__all__ = ["benchmark_throughput"]

_RECIPES = ("small", "base", "paper", "paper-full")
# stars of a pool, and of a step on a processor
_N_POOL, _N_STAR = 2000, 96
# steps that are not counted, and that are; passes of inference, likewise
_WARM_UP, _COUNTED = 4, 8


def benchmark_throughput(data_folder, model=None, recipes=_RECIPES):
    """Train each recipe for a moment and infer with it, on a GPU if there is one.

    Stars are made by the process that learns from them: ``data_share`` of the time goes into that, and other
    processes can do it (``spectrafm train --workers``).

    Parameters
    ----------
    data_folder : str or pathlib.Path
        With the data sets of the recipes.
    model : str or pathlib.Path, optional
        Weights that lend their standardisation; the packaged ones when left out.
    recipes : sequence of str, optional
        Names of recipes.

    Yields
    ------
    str
        Lines of the report.
    """
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    where = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads"
    yield f"{where}, PyTorch {torch.__version__}; training and inference in stars/s"
    yield f"{'recipe':<12}{'parameters':>12}{'stars a step':>14}{'training':>10}{'data_share':>12}{'inference':>11}"
    known = SpectraFM.from_pretrained(model).model.vocabulary
    for name in recipes:
        recipe = load_recipe(name)
        if name == "paper-full" and not gpu:
            yield f"{name:<12} needs a GPU"
            continue
        fit = recipe.fit if gpu else replace(recipe.fit, batch_size=_N_STAR)
        recipe = replace(recipe, fit=fit, sources={k: replace(s, n_pool=_N_POOL) for k, s in recipe.sources.items()})
        # standardised already: making sure that numbers are of order one takes longer than all that is timed
        alike = set(make_vocabulary(recipe).names) == set(known.names)
        vocabulary = known if alike else make_vocabulary(recipe)
        stream, _ = build_stream(recipe, data_folder, vocabulary, device)
        # a readout is trained by itself, in a minute or two
        learner = StellarPerceptron(recipe.model.decoder_alone(), vocabulary, device, fit.seed)
        learner.fit_patches(stream, 1)
        for n_step in (_WARM_UP, _COUNTED) if gpu else (1, 2):
            log = Trainer(learner, stream, replace(fit, steps=n_step, log_every=n_step, warmup_steps=0)).run()
        entry = log[-1]
        whole = StellarPerceptron(recipe.model, vocabulary, device, fit.seed)
        whole.start_from(learner)
        rate = _inference_rate(whole, stream, gpu)
        yield (
            f"{name:<12}{whole.n_parameter:>12,}{fit.batch_size:>14}{entry['stars_per_second']:>10.0f}"
            f"{entry['data_share']:>12.2f}{rate:>11.0f}"
        )


def _inference_rate(learner, stream, gpu):
    """Return how many stars a second the network answers, of the first source, with all requests of training."""
    (_, _, batch), network = next(stream.batches(0)), learner.torch_model
    batch = batch.to(learner.device)
    seconds = []
    with torch.inference_mode(), torch.autocast(learner.device.type, dtype=torch.bfloat16, enabled=gpu):
        for _ in range(_WARM_UP + _COUNTED if gpu else 2):
            start = time.perf_counter()
            answer, _ = network(batch.tokens, batch.request_token, batch.request_wavelength)
            # waits for the device
            answer.sum().item()
            seconds.append(time.perf_counter() - start)
    counted = seconds[_WARM_UP:] if gpu else seconds[1:]
    return len(answer) * len(counted) / sum(counted)
