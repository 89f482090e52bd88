"""From a recipe and its data to calibrated weights."""

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .. import datasets
from .._inference import infer_stars
from .._recalibration import with_and_without_errors
from .._tokens import flux_name
from ..calibration import error_factor
from ..continuum import normalizer_from_dict
from ..core import SpectraFM
from ..diagnostics import set_thresholds
from ..exceptions import ConfigError, InputValueError
from ..results import label_values
from ..stellarperceptron import StellarPerceptron, TokenTable, TrainingGenerator, Vocabulary
from ..stellarperceptron.growth import copies
from ..stellarperceptron.nn_utils import seeded_generator, split_by_star
from ..stellarperceptron.precision import float64_device
from ..stellarperceptron.trainer import process_group, processes
from ..weights_info import LARGE_ERROR, Domain, WeightsInfo
from .ahead import AheadStream
from .dust import extinction
from .observed import ObservedSource
from .recipes import load_recipe
from .sources import EmulatorSource, LibrarySource, MixedEmulatorSource, MovedLibrarySource
from .stream import StarStream, StreamPart
from .table import TableSource
from .train_readout import set_doubt, with_readout
from .train_second_opinion import with_opinion

__all__ = [
    "build_stream",
    "calibrate",
    "make_vocabulary",
    "read_data",
    "split_stars",
    "standardize",
    "token_table",
    "train_recipe",
]

# fraction of spectra that count as usual
_USUAL_SPECTRUM = 0.995
# stars that set the density of the embeddings, the most directions in which it is told, and stars that calibrate errors
_N_DENSITY, _N_DIRECTION, _N_CALIBRATION = 4000, 192, 2000
# stars that are read in sets of pixels, to see what these have in common
_N_SETS = 240
# first entry of the seed of draws, beside those of streams
_EXAMPLES = 13

_READERS = {"gaia_xp_apogee": datasets.read_gaia_xp_apogee, "miles": datasets.read_miles}


def read_data(name, folder):
    """Read a data set.

    Parameters
    ----------
    name : str
        Name of the reader.
    folder : str or pathlib.Path
        Where the data are, or the folder that holds them in one of that name.

    Returns
    -------
    LabelledSpectra
    """
    if name not in _READERS:
        raise InputValueError(f"data: no reader {name!r}; known are {', '.join(_READERS)}")
    inner = Path(folder) / name
    return _READERS[name](inner if inner.is_dir() else folder)


def token_table(data, names, flux_name="flux"):
    """Lay a data set out for training.

    Parameters
    ----------
    data : LabelledSpectra
        The stars.
    names : sequence of str
        Quantities to take along.
    flux_name : str, optional
        Name of the flux token.

    Returns
    -------
    TokenTable
    """
    nothing = np.full(len(data.flux), np.nan)
    names = [name for name in names if name in data.labels]
    values = np.stack([data.labels[name] for name in names], axis=1)
    errors = np.stack([data.label_errors.get(name, nothing) for name in names], axis=1)
    return TokenTable(data.flux, data.wavelength, data.sigma, values, errors, names, flux_name)


def split_stars(data, fraction, seed):
    """Split by star: rows of one star are all on one side.

    Validation stars are split once more: one half calibrates errors and flags,
    the other half, that nothing was chosen on, is for reporting.

    Parameters
    ----------
    data : LabelledSpectra
        The stars.
    fraction : float
        Fraction of the stars to set aside.
    seed : int
        Seed of the draw.

    Returns
    -------
    train, calibration, test : numpy.ndarray
        Row numbers.
    """
    stars, row_star = np.unique(np.asarray(data.identifier).astype(str), return_inverse=True)
    _, held_out = split_by_star(len(stars), fraction, seed)
    for_calibration, for_test = held_out[::2], held_out[1::2]
    calibration, test = np.isin(row_star, for_calibration), np.isin(row_star, for_test)
    return np.flatnonzero(~(calibration | test)), np.flatnonzero(calibration), np.flatnonzero(test)


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
    data_folder : str or pathlib.Path
        Where the data sets are.
    vocabulary : Vocabulary
        Of the model; standardised here if it never was.
    device : str or torch.device, optional
        Where the model is trained. Stars are made there too, but for ``"mps"``, which has no float64: on the CPU.

    Returns
    -------
    stream : StarStream
        Training stars, and validation on stars that were set aside.
    calibration : dict of str to (source, source)
        By name of the source, training stars and those that calibrate.
    """
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
        rows = split_stars(data, source.validation_fraction, recipe.split_seed)
        names = [k for k in (*recipe.labels, *recipe.known) if k in data.labels]
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
    if not vocabulary.fitted:
        standardize(vocabulary, [part.source for part in parts.values()])
    settings = {"batch_size": recipe.fit.batch_size, "seed": recipe.fit.seed, "device": device}
    return StarStream(parts, rank=rank, world_size=world_size, **settings), calibration


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
    vocabulary.fitted = True


def train_recipe(recipe, data_folder, output, *, resume=False, progress=False, device="cpu", n_worker=0):
    """Train, calibrate and save.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    data_folder : str or pathlib.Path
        Where the data sets are.
    output : str or pathlib.Path
        Gets ``checkpoint.pt`` and ``log.csv``, and the weights in ``weights/``. The
        recipe that this one starts from has a folder of its name in it, and is trained
        there first, unless its weights are there.
    resume : bool, optional
        Go on from the checkpoint in ``output``, if there is one.
    progress : bool, optional
        Show a progress bar, where tqdm is installed.
    device : str or torch.device, optional
        Where to train; of several GPUs under torchrun, ``"cuda"`` is that of the process.
    n_worker : int, optional
        Processes that make batches ahead of time, for each that trains (see `AheadStream`): for GPUs. What is
        trained is the same with any number of them.

    Returns
    -------
    SpectraFM or None
        The calibrated model, in the first of the processes.

    Raises
    ------
    InputValueError
        A number of workers that is none; data that are not there.
    ConfigError
        A recipe that does not fit the one it starts from.
    """
    if not isinstance(n_worker, int) or n_worker < 0:
        raise InputValueError(f"n_worker: {n_worker!r}, expected 0 or a positive integer")
    if str(device) == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    options = {"resume": resume, "progress": progress}
    start = _train_start(recipe, data_folder, output, device=device, n_worker=n_worker, **options)
    vocabulary = make_vocabulary(recipe) if start is None else start.vocabulary
    stream, calibration = build_stream(recipe, data_folder, vocabulary, device)
    # readout and second opinion come last: they are learnt from what all else makes of stars
    model = StellarPerceptron(recipe.model.decoder_alone(), vocabulary, device, recipe.fit.seed)
    if start is None:
        model.fit_patches(stream)
    else:
        # new convolutions start with no say, and a readout would be that of another network soon
        model.start_from(start)
    with AheadStream(stream, n_worker, recipe.fit.steps) if n_worker else nullcontext(stream) as ahead:
        model.fit(ahead, config=recipe.fit, folder=output, **options)
    if processes()[0] > 0:
        return None
    if recipe.model.readout_labels:
        model = with_readout(model, recipe.model, stream, recipe.readout, recipe.fit.steps)
    if recipe.model.opinion_labels:
        stars = calibration[recipe.opinion.source]
        model = with_opinion(model, recipe.model, *stars, recipe.opinion, recipe.fit.seed)
    fm = calibrate(model, recipe, calibration)
    fm.model.to("cpu")
    fm.save(Path(output) / "weights", compact=True)
    # what is used from here on is what was saved, rounding and all
    return SpectraFM.load(Path(output) / "weights")


def _train_start(recipe, data_folder, output, **options):
    """Return the model that training begins with, trained first where its weights are not there yet."""
    if not recipe.start:
        return None
    before, folder = load_recipe(recipe.start), Path(output) / recipe.start
    problem = f"Recipe {recipe.name!r}: it cannot start from {recipe.start!r}: "
    if make_vocabulary(before).names != make_vocabulary(recipe).names:
        raise ConfigError(f"{problem}its labels or known quantities are others; make them the same")
    try:
        copies(before.model, recipe.model)
    except ConfigError as error:
        raise ConfigError(f"{problem}{error}") from error
    if not (folder / "weights" / "spectrafm.json").exists():
        with process_group(options["device"]):
            train_recipe(before, data_folder, folder, **options)
            if torch.distributed.is_initialized():
                # the first process calibrates and writes, the others wait
                torch.distributed.barrier()
    return StellarPerceptron.load(folder / "weights", options["device"])


def calibrate(model, recipe, calibration):
    """Measure what the weights must know about themselves.

    Ranges and the density of the embeddings come from training stars; factors on the
    errors and thresholds of the flags from stars that were set aside, real ones where
    the domain has any.

    Parameters
    ----------
    model : StellarPerceptron
        Trained.
    recipe : Recipe
        Labels, domains, provenance.
    calibration : dict of str to (source, source)
        From `build_stream`.

    Returns
    -------
    SpectraFM
    """
    from .. import __version__

    info = WeightsInfo(
        name=recipe.name,
        domains=tuple(_describe_domain(name, recipe, calibration) for name in recipe.domains),
        known=(*recipe.known, *recipe.labels),
        training_data=recipe.training_data,
        license=recipe.license,
        citation=recipe.citation,
        package_version=__version__,
    )
    density = {}
    for number, domain in enumerate(info.domains):
        generator = _generator(recipe, number)
        fm = SpectraFM(model, replace(info, domains=(domain,)))
        of_domain = [k for k, source in recipe.sources.items() if source.domain == domain.name]
        real = [k for k in of_domain if recipe.sources[k].kind != "emulator"]
        n_star = _N_DENSITY // len(of_domain)
        embeddings = np.concatenate([fm.embed(calibration[k][0].examples(n_star, generator)[0]) for k in of_domain])
        # of spectra that cannot be read there is nothing to embed
        embeddings = embeddings[np.isfinite(embeddings).all(axis=1)]
        mean, covariance = embeddings.mean(axis=0, dtype=np.float64), np.cov(embeddings.T, dtype=np.float64)
        variance, vectors = np.linalg.eigh(covariance)
        kept = variance > 1e-6 * variance.max()
        # eigh sorts upwards
        kept[:-_N_DIRECTION] = False
        whiten = vectors[:, kept] / np.sqrt(variance[kept])
        density[f"mean.{domain.name}"] = torch.from_numpy(mean).float()
        density[f"whiten.{domain.name}"] = torch.from_numpy(whiten).float()

        # labels that no real star has are left to synthetic ones
        synthetic = [k for k in of_domain if k not in real]
        for names in (real, synthetic):
            if names is synthetic:
                domain.unproven = tuple(k for k in domain.labels if k not in domain.calibration)
            if not names:
                continue
            sources = [calibration[k][1] for k in names]
            whole = [view for source in sources for view in source.undisturbed()]
            n_star = _N_CALIBRATION // len(sources + whole)
            labels = [k for k in domain.labels if k not in domain.calibration]
            spectra, truth = _labelled(sources, n_star, labels, generator)
            if not np.isfinite(domain.density_threshold):
                z = (fm.embed(spectra).astype(np.float64) - mean) @ whiten
                domain.density_threshold = float(np.nanquantile(np.sqrt((z**2).mean(axis=1)), _USUAL_SPECTRUM))
            # what is usual is said by stars as training shows them; errors have to hold for better spectra too
            n_usual = len(spectra)
            if whole:
                more, its_truth = _labelled(whole, n_star, labels, generator)
                spectra += more
                truth = {k: np.concatenate((truth[k], its_truth[k]), axis=1) for k in labels}
            _calibrate_errors(fm, domain, spectra, n_usual, truth, recipe.log)
            if np.isfinite(most := model.most_pixels()):
                _measure_in_common(fm, domain, sources, labels, most, generator)
    if recipe.model.readout_labels:
        set_doubt(model, recipe.readout)
    calibrated = SpectraFM(model, info, density)
    set_thresholds(calibrated, calibration)
    return calibrated


def _labelled(sources, n_star, labels, generator):
    """Return spectra of so many stars of each source, and their labels and errors, ``(2, n_star)`` by name."""
    examples = [source.examples(n_star, generator) for source in sources]
    truth = {}
    for k in labels:
        nothing = [np.full(len(spectra), np.nan) for spectra, _, _ in examples]
        columns = [[example[i].get(k, nan) for i in (1, 2)] for example, nan in zip(examples, nothing, strict=True)]
        truth[k] = np.concatenate(columns, axis=1)
    return [star for spectra, _, _ in examples for star in spectra], truth


def _calibrate_errors(fm, domain, spectra, n_usual, truth, log):
    """Set the factors on the errors of some labels of a domain, and by the first spectra which errors are usual."""
    usual = np.arange(len(spectra)) < n_usual
    truth = {name: columns for name, columns in truth.items() if np.isfinite(columns[0]).any()}
    factors = {name: {} for name in truth}
    for kind, stars, rows in with_and_without_errors(spectra):
        # of stars with more pixels than a context holds, what one context says
        table, _ = infer_stars(fm, stars, tuple(truth), whole=False)
        for name, (values, errors) in truth.items():
            predicted, error = label_values(table, name)
            if not (np.isfinite(predicted - values[rows]) & np.isfinite(error)).any():
                # of spectra of this kind, none has a label that is known
                continue
            factors[name][kind] = error_factor(predicted, error, values[rows], errors[rows])
            if name not in domain.usual_errors:
                relative = (error / predicted if name in log else error)[usual[rows]]
                domain.usual_errors[name] = float(LARGE_ERROR * np.nanmedian(relative))
    # of spectra that never have errors
    domain.calibration |= {
        name: {kind: found.get(kind, found["without_sigma"]) for kind in ("with_sigma", "without_sigma")}
        for name, found in factors.items()
        if found
    }


def _measure_in_common(fm, domain, sources, labels, most, generator):
    """Set what sets of pixels have in common of labels: what the errors of their mean leave no other room for."""
    sources = [view for source in sources for view in source.undisturbed()] or sources
    spectra, truth = _labelled(sources, _N_SETS // len(sources), labels, generator)
    n_good = np.array([fm.prepare(star, 0).n_good for star in spectra])
    many = np.flatnonzero(n_good > most)
    share = float(np.mean(most / n_good[many])) if len(many) else 1.0
    known = [name for name in labels if np.isfinite(truth[name][0, many]).sum() > 1]
    if not known:
        return
    # nothing is known of these labels yet: errors are those of one set
    table = fm.infer([spectra[row] for row in many], labels=tuple(known))
    for name in known:
        predicted, error = label_values(table, name)
        factor = error_factor(predicted, error, *truth[name][:, many])
        domain.in_common[name] = float(np.clip((factor**2 - share) / (1 - share), 0.0, 1.0))


def _describe_domain(name, recipe, calibration):
    """Return what is known of a domain before anything is inferred."""
    kinds = {k: source.kind for k, source in recipe.sources.items() if source.domain == name}
    sources = [calibration[k][0] for k in kinds]
    extents = [source.extent() for source in sources]
    # synthetic spectra are not quite those of the sky: what is finer than any real one is not read as it is
    real = [extent for extent, kind in zip(extents, kinds.values(), strict=True) if kind != "emulator"] or extents
    known = {k for source in sources for k in source.targets} - set(recipe.domains[name].untold)
    labels = [k for k in recipe.labels if k in known]
    samples = {k: np.concatenate([source.sample(k) for source in sources]) for k in labels}
    return Domain(
        name=name,
        labels=labels,
        normalizer=recipe.domains[name].normalizer,
        flux_kind=recipe.domains[name].flux_kind,
        wavelength_range=(min(e["low"] for e in extents), max(e["high"] for e in extents)),
        spacing_range=(min(e["finest"] for e in real), max(e["coarsest"] for e in extents)),
        highest_power=max(e["highest_power"] for e in real),
        lowest_power=min(e["lowest_power"] for e in extents),
        min_pixels=min(e["min_pixels"] for e in extents),
        min_coverage=min(e["min_coverage"] for e in extents),
        min_snr=min(e["min_snr"] for e in extents),
        largest_snr=max(e["largest_snr"] for e in extents),
        label_ranges={k: [float(q) for q in np.quantile(v, (0.001, 0.999))] for k, v in samples.items()},
        predicts_flux=any(e["predicts_flux"] for e in extents),
        smallest_given=max(e["smallest_given"] for e in extents),
        bridges=recipe.domains[name].bridges,
    )


def _generator(recipe, *key):
    return seeded_generator((_EXAMPLES, recipe.fit.seed, *key))
