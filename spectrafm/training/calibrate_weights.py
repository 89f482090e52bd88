"""Calibration of trained weights: factors on errors, ranges of labels, and thresholds of flags."""

from dataclasses import replace

import numpy as np
import torch

from .._inference import infer_stars
from .._recalibration import with_and_without_errors
from ..calibration import error_factor
from ..core import SpectraFM
from ..results import label_values
from ..stellarperceptron.nn_utils import seeded_generator
from ..thresholds import set_thresholds
from ..weights_info import LARGE_ERROR, Domain, WeightsInfo
from .train_readout import set_doubt

__all__ = ["calibrate", "proven_errors"]

# fraction of spectra that count as usual, and of proven errors that are smaller than the smallest that is told
_USUAL_SPECTRUM, _SMALLEST = 0.995, 0.02
# stars that set the density of the embeddings, largest number of its directions, and stars that calibrate errors
_N_DENSITY, _N_DIRECTION, _N_CALIBRATION = 4000, 192, 2000
# stars that are read in sets of pixels, to see what these have in common
_N_SETS = 240
# first entry of the seed of draws, beside those of streams
_EXAMPLES = 13


def calibrate(model, recipe, calibration, splits=None):
    """Calibrate the errors of a trained model, and measure ranges of labels and thresholds of flags.

    Ranges and the density of the embeddings come from training stars, factors on the
    errors and thresholds of the flags from stars that were set aside: real stars where
    the domain has any.

    Parameters
    ----------
    model : StellarPerceptron
        Trained.
    recipe : Recipe
        Labels, domains, provenance.
    calibration : dict of str to (source, source)
        From `build_stream`.
    splits : dict, optional
        How real stars were split, also those of weights that training started from; as the recipe does when left out.

    Returns
    -------
    SpectraFM
    """
    from .. import __version__

    info = WeightsInfo(
        name=recipe.name,
        domains=tuple(_describe_domain(name, recipe, calibration) for name in recipe.domains),
        known=(*_known_somewhere(recipe, calibration), *recipe.labels),
        training_data=recipe.training_data,
        license=recipe.license,
        citation=recipe.citation,
        package_version=__version__,
        splits=recipe.splits if splits is None else splits,
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


def _known_somewhere(recipe, calibration):
    """Return the quantities that some training stars were given as input."""
    return [name for name in recipe.known if any(len(train.sample(name)) for train, _ in calibration.values())]


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
    factors, proven = {name: {} for name in truth}, {name: [] for name in truth}
    for kind, stars, rows in with_and_without_errors(spectra):
        # of stars with more pixels than a context holds, what one context says
        table, _ = infer_stars(fm, stars, tuple(truth), whole=False)
        for name, (values, errors) in truth.items():
            predicted, error = label_values(table, name)
            if not (np.isfinite(predicted - values[rows]) & np.isfinite(error)).any():
                # of spectra of this kind, none has a label that is known
                continue
            factors[name][kind] = error_factor(predicted, error, values[rows], errors[rows])
            proven[name].append(proven_errors(factors[name][kind] * error, values[rows], errors[rows]))
            if name not in domain.usual_errors:
                relative = (error / predicted if name in log else error)[usual[rows]]
                domain.usual_errors[name] = float(LARGE_ERROR * np.nanmedian(relative))
    proven = {name: np.concatenate(found) for name, found in proven.items() if found}
    domain.smallest_errors |= {name: float(np.quantile(e, _SMALLEST)) for name, e in proven.items() if len(e)}
    # of spectra that never have errors
    domain.calibration |= {
        name: {kind: found.get(kind, found["without_sigma"]) for kind in ("with_sigma", "without_sigma")}
        for name, found in factors.items()
        if found
    }


def proven_errors(error, truth, truth_error):
    """Return the predicted errors that are not smaller than the errors of the true labels, which would hide them.

    Parameters
    ----------
    error : numpy.ndarray
        ``(n_star,)`` predicted, after calibration.
    truth, truth_error : numpy.ndarray
        ``(n_star,)`` true labels, NaN where not known, and their errors, NaN where there are none.

    Returns
    -------
    numpy.ndarray
        ``(n_proven,)``; none where no true label has an error, as of synthetic stars.
    """
    known = np.isfinite(error) & np.isfinite(truth)
    if not (truth_error[known] > 0).any():
        return error[:0]
    return error[known & ~(truth_error > error)]


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
