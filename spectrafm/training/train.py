"""From a recipe and its data to calibrated weights."""

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .._tokens import flux_name
from ..continuum import normalizer_from_dict
from ..core import SpectraFM
from ..datasets import get_reader
from ..exceptions import ConfigError, InputValueError
from ..stellarperceptron import StellarPerceptron, TrainingGenerator, Vocabulary
from ..stellarperceptron.config import refuse
from ..stellarperceptron.growth import copies
from ..stellarperceptron.precision import float64_device
from ..stellarperceptron.trainer import process_group, processes
from ..weights_info import WeightsInfo
from .ahead import AheadStream
from .calibrate_weights import calibrate
from .data import read_data, split_stars, token_table
from .dust import extinction
from .observed import ObservedSource
from .recipes import load_recipe
from .sources import EmulatorSource, LibrarySource, MixedEmulatorSource, MovedLibrarySource
from .stream import StarStream, StreamPart
from .table import TableSource
from .train_readout import with_readout
from .train_second_opinion import with_opinion

__all__ = ["build_stream", "make_vocabulary", "standardize", "train_recipe"]


def make_vocabulary(recipe):
    """Make the names of the tokens of a recipe, not yet standardised.

    Parameters
    ----------
    recipe : Recipe
        Labels, quantities and domains.

    Returns
    -------
    Vocabulary
    """
    flux = list(recipe.flux.values())
    names = [*flux, *recipe.labels, *recipe.known]
    if any(source.kind != "table" for source in recipe.sources.values()):
        names.append("ln_resolving_power")
    return Vocabulary(names, flux=flux, log=recipe.log)


def build_stream(recipe, data_folder, vocabulary, device="cpu"):
    """Prepare the sources of a recipe.

    Parameters
    ----------
    recipe : Recipe
        Sources, domains and seeds.
    data_folder : str, pathlib.Path or None
        Folder of the data sets; None where all sources are emulators.
    vocabulary : Vocabulary
        Vocabulary of the model; standardised here if it is not yet.
    device : str or torch.device, optional
        Where the model is trained. Stars are made on the same device; for ``"mps"``, which has no float64, on the CPU.

    Returns
    -------
    stream : StarStream
        Training stars, and validation on stars that were set aside.
    calibration : dict of str to (source, source)
        By name of the source, training stars and those that calibrate.

    Raises
    ------
    InputValueError
        Data sets that are unknown or missing.
    ConfigError
        Labels that no source has, or that a source is asked for and does not have.
    """
    _check_data(recipe, data_folder)
    rank, world_size = processes()
    device = float64_device(device)
    parts, calibration = {}, {}
    for number, (name, source) in enumerate(recipe.sources.items()):
        domain = recipe.domains[source.domain]
        normalizer = normalizer_from_dict(domain.normalizer)
        targets = source.labels or recipe.labels
        settings = {"request": recipe.request, "targets": targets, "flux_kind": domain.flux_kind}
        settings["context_length"] = recipe.model.context_length if recipe.model.patch_size == 1 else None

        def observed(stars, source=source, settings=settings, normalizer=normalizer):
            return ObservedSource(stars, vocabulary, normalizer, source.observation, **settings)

        if source.kind == "emulator":
            made = {"n_pool": source.n_pool, "seed": recipe.fit.seed + number, "galactic": source.galactic}
            made["device"] = device
            if source.mixed_with:
                train = observed(MixedEmulatorSource(source.data, source.mixed_with, **made))
            else:
                train = observed(EmulatorSource(source.data, **made))
            parts[name], calibration[name] = StreamPart(train, source.share, source.weight), (train, train)
            continue
        data = read_data(source.data, data_folder)
        if domain.flux_kind == "relative_sed" and data.flux_kind != "relative_sed":
            raise ConfigError(
                f"Recipe {recipe.name!r}: spectra of source {name!r} are {data.flux_kind!r}, and its domain "
                f"{source.domain!r} is of the flux_kind 'relative_sed'; expected {data.flux_kind!r} of the domain"
            )
        split = recipe.splits[name]
        rows = split_stars(data, split["fraction"], split["seed"])
        # a column without any value is none
        values = {k: data.labels.get(k, np.empty(0)) for k in (*recipe.labels, *recipe.known)}
        names = [k for k, column in values.items() if len(column) and np.isfinite(column[rows[0]]).any()]
        if not names or (source.kind == "table" and not set(names) & set(targets)):
            raise ConfigError(
                f"Recipe {recipe.name!r}: no training star of source {name!r} has a value of {' or '.join(targets)}"
            )
        held_out = np.sort(np.concatenate(rows[1:]))
        moved = None
        if source.kind == "library":
            known = {"resolving_power": source.resolving_power, "device": device}
            train, calibrating, validation = (
                observed(LibrarySource(data, some, names, **known)) for some in (rows[0], rows[1], held_out)
            )
            if source.moved_by:
                known |= {"emulator": source.moved_by, "seed": recipe.fit.seed + number}
                moved = observed(MovedLibrarySource(data, rows[0], names, **known))
        else:
            table = token_table(data, names, flux_name(vocabulary, domain.flux_kind))
            if source.augmentation.reddening:
                table = replace(table, extinction=extinction(table.wavelength))
            share = source.share / sum(s.share for s in recipe.sources.values())
            generator = TrainingGenerator(
                table,
                vocabulary,
                [k for k in targets if k in names],
                rows[0],
                batch_size=round(recipe.fit.batch_size * share),
                context_length=recipe.model.context_length,
                patch_size=recipe.model.patch_size,
                augmentation=source.augmentation,
                divisor=normalizer.divisor,
                seed=recipe.fit.seed,
                rank=rank,
                world_size=world_size,
            )
            train, calibrating, validation = (
                TableSource(generator, some, data) for some in (rows[0], rows[1], held_out)
            )
        parts[name] = StreamPart(moved or train, source.share, source.weight, validation)
        calibration[name] = (train, calibrating)
    _check_labels(recipe, parts)
    if not vocabulary.fitted:
        standardize(vocabulary, [part.source for part in parts.values()])
    settings = {"batch_size": recipe.fit.batch_size, "seed": recipe.fit.seed, "device": device}
    return StarStream(parts, rank=rank, world_size=world_size, **settings), calibration


def _check_data(recipe, data_folder):
    """Refuse a recipe whose data sets nobody can read."""
    names = [source.data for source in recipe.sources.values() if source.kind != "emulator"]
    for name in names:
        get_reader(name)
    if names and data_folder is None:
        raise InputValueError(
            f"data_folder: None, but recipe {recipe.name!r} reads {', '.join(names)}; give the folder of its data sets"
        )


def _check_labels(recipe, parts):
    """Refuse labels that no source has, and labels that a source is asked for and does not have."""
    problems = []
    for name, source in recipe.sources.items():
        if missing := [k for k in source.labels if k not in parts[name].source.targets]:
            problems.append(f"source {name!r} is asked for {missing}, and none of its training stars has a value")
    told = {k for part in parts.values() for k in part.source.targets}
    if missing := [k for k in recipe.labels if k not in told]:
        problems.append(f"no source has a training star with a value of {missing}; leave them out of labels")
    refuse(f"Recipe {recipe.name!r}", problems)


def standardize(vocabulary, sources):
    """Set mean and standard deviation of every name from all sources that know it, alike.

    Parameters
    ----------
    vocabulary : Vocabulary
        Changed in place.
    sources : list of ObservedSource or TableSource
        Training stars.
    """
    for name in vocabulary.names:
        samples = [values for source in sources if len(values := source.sample(name))]
        if samples:
            vocabulary.fit_name(name, samples)


def train_recipe(recipe, data_folder, output, *, resume=False, progress=False, device="cpu", n_worker=0):
    """Train, calibrate and save.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    data_folder : str, pathlib.Path or None
        Folder of the data sets; None where all sources are emulators.
    output : str or pathlib.Path
        Folder of ``checkpoint.pt`` and ``log.csv``, and of the weights in ``weights/``. The
        recipe that this one starts from is trained first, in a folder of its name in this one,
        unless its weights are there.
    resume : bool, optional
        Go on from the checkpoint in ``output``, if there is one.
    progress : bool, optional
        Show a progress bar, where tqdm is installed.
    device : str or torch.device, optional
        Where to train; of several GPUs under torchrun, ``"cuda"`` is that of the process.
    n_worker : int, optional
        Number of processes that make batches ahead of time, for each training process (see `AheadStream`): for GPUs.
        The result is the same with any number of them.

    Returns
    -------
    SpectraFM or None
        The calibrated model, in the first of the processes.

    Raises
    ------
    InputValueError
        A number of workers that is not 0 or a positive integer; data sets that are unknown or missing.
    ConfigError
        A recipe that does not fit the one it starts from, or with labels that none of its sources has.
    """
    if not isinstance(n_worker, int) or n_worker < 0:
        raise InputValueError(f"n_worker: {n_worker!r}, expected 0 or a positive integer")
    _check_data(recipe, data_folder)
    if str(device) == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    options = {"resume": resume, "progress": progress}
    start, splits = _train_start(recipe, data_folder, output, device=device, n_worker=n_worker, **options)
    vocabulary = make_vocabulary(recipe) if start is None else start.vocabulary
    stream, calibration = build_stream(recipe, data_folder, vocabulary, device)
    # readout and second opinion come last: they are learnt from what all else makes of stars
    model = StellarPerceptron(recipe.model.decoder_alone(), vocabulary, device, recipe.fit.seed)
    if start is None:
        model.fit_patches(stream)
    else:
        # new convolutions start with no say, and a readout would be that of another network soon
        model.start_from(start)
    begun = [parameter.detach().clone() for parameter in model.torch_model.parameters()]
    with AheadStream(stream, n_worker, recipe.fit.steps) if n_worker else nullcontext(stream) as ahead:
        model.fit(ahead, config=recipe.fit, folder=output, **options)
    with torch.no_grad():
        for parameter, before in zip(model.torch_model.parameters(), begun, strict=True):
            parameter.lerp_(before, recipe.start_share)
    if processes()[0] > 0:
        return None
    if recipe.model.readout_labels:
        model = with_readout(model, recipe.model, stream, recipe.readout, recipe.fit.steps, n_worker)
    if recipe.model.opinion_labels:
        stars = calibration[recipe.opinion.source]
        model = with_opinion(model, recipe.model, *stars, recipe.opinion, recipe.fit.seed)
    # stars that the weights before were trained on are not unseen
    fm = calibrate(model, recipe, calibration, splits | recipe.splits)
    fm.model.to("cpu")
    fm.save(Path(output) / "weights", compact=True, overwrite=True)
    # what is used from here on is what was saved, rounding and all
    return SpectraFM.load(Path(output) / "weights")


def _train_start(recipe, data_folder, output, **options):
    """Return the model that training begins with, and how its stars were split.

    It is trained first where its weights are not there yet.
    """
    if not recipe.start:
        return None, {}
    before, folder = load_recipe(recipe.start), Path(output) / recipe.start
    problem = f"Recipe {recipe.name!r}: it cannot start from {recipe.start!r}: "
    if make_vocabulary(before).names != make_vocabulary(recipe).names:
        raise ConfigError(f"{problem}its labels or known quantities are others; make them the same")
    try:
        copies(before.model, recipe.model)
    except ConfigError as error:
        raise ConfigError(f"{problem}{error}") from error
    _check_splits(recipe, before.splits, problem)
    if not (folder / "weights" / "spectrafm.json").exists():
        with process_group(options["device"]):
            train_recipe(before, data_folder, folder, **options)
            if torch.distributed.is_initialized():
                # the first process calibrates and writes, the others wait
                torch.distributed.barrier()
    splits = WeightsInfo.read(folder / "weights" / "spectrafm.json").splits
    # older weights do not tell
    splits = before.splits if splits is None else splits
    _check_splits(recipe, splits, problem)
    return StellarPerceptron.load(folder / "weights", options["device"]), splits


def _check_splits(recipe, before, problem):
    """Refuse to train on stars that weights before set aside, or to set aside those that they were trained on."""
    splits = [{tuple(split.values()) for split in one.values()} for one in (before, recipe.splits)]
    both = set.intersection(*({data for data, *_ in its} for its in splits))
    if other := sorted(both & {data for data, *_ in splits[0] ^ splits[1]}):
        seeds = sorted({seed for its in splits for data, seed, _ in its if data in other})
        raise ConfigError(
            f"{problem}stars of {', '.join(other)} that one of them sets aside train the other; make split_seed "
            f"({', '.join(map(str, seeds))}) and validation_fraction the same"
        )
