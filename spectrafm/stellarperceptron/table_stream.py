"""Batches of a table of stars, which the trainer learns from."""

import hashlib
from functools import cached_property

import numpy as np

from ..exceptions import InputValueError
from .config import AugmentationConfig, FitConfig, check_type
from .nn_utils import TrainingGenerator, split_by_star
from .tokens import as_names, as_native
from .trainer import processes

__all__ = ["TableStream"]

# stars at a time in validation
_VALIDATION_BATCH = 512
# stars, evenly chosen, whose spectra tell tables apart
_LOOKED_AT = 256


class TableStream:
    """Batches of a table of stars, some of which are set aside for validation.

    Parameters
    ----------
    model : StellarPerceptron
        Names that were never standardised are standardised from the training stars. So are the
        patches, where no name was.
    table : TokenTable
        Spectra and quantities.
    targets : str or sequence of str
        Quantities to learn to predict.
    config : FitConfig
        Batch size, seed and share of the stars to validate on.
    augmentation : AugmentationConfig, optional
        What is drawn anew for every star and step.
    divisor : callable, optional
        See `TrainingGenerator`.
    validation : array_like of int or bool, optional
        Stars to validate on: their numbers, or a mask ``(n_star,)``; drawn with the seed when left out.

    Raises
    ------
    InputValueError
        Validation stars that are not in the table, or all of it; a table without any good pixel; targets as in
        `TrainingGenerator`.
    InputTypeError
        Settings of another type.
    """

    def __init__(self, model, table, targets, config, *, augmentation=None, divisor=None, validation=None):
        check_type("config", config, FitConfig)
        self.augmentation = AugmentationConfig() if augmentation is None else augmentation
        check_type("augmentation", self.augmentation, AugmentationConfig)
        self.targets = as_names(targets)
        if validation is None:
            train, validation = split_by_star(len(table), config.validation_fraction, config.seed)
        else:
            validation = _check_validation(validation, len(table))
            train = np.setdiff1d(np.arange(len(table)), validation)
        self.table, self.validation_stars = table, validation
        if model.config.patch_size > 1 or np.shape(table.flux)[1]:
            _check_pixels(table, train)
        rank, world_size = processes()
        self.generator = TrainingGenerator(
            table,
            model.vocabulary,
            self.targets,
            train,
            batch_size=config.batch_size,
            context_length=model.config.context_length,
            patch_size=model.config.patch_size,
            augmentation=self.augmentation,
            divisor=divisor,
            seed=config.seed,
            rank=rank,
            world_size=world_size,
        )
        # what is set now stays: only from a table that nothing is wrong with
        vocabulary = model.vocabulary
        never, before = not vocabulary.fitted, vocabulary.is_fitted.copy()
        vocabulary.fit(table, train, divisor)
        if never:
            model.fit_patches(self)
        elif (vocabulary.is_fitted != before)[vocabulary.tokens(vocabulary.flux)].any():
            model.set_flux_zero()

    def batches(self, step):
        """Draw what a step needs.

        Parameters
        ----------
        step : int
            Number of the step.

        Yields
        ------
        name : str
            "", as there is one source.
        weight : float
            1.
        batch : TrainingBatch
        """
        yield "", 1.0, self.generator.batch(step)

    def validation(self):
        """Draw the stars that were set aside, as they are.

        Yields
        ------
        name : str
        batch : TrainingBatch
        """
        for start in range(0, len(self.validation_stars), _VALIDATION_BATCH):
            yield "", self.generator.draw(self.validation_stars[start : start + _VALIDATION_BATCH])

    def settings(self):
        """Return what must be the same when training goes on, as plain JSON types.

        Returns
        -------
        dict
        """
        return {
            "augmentation": self.augmentation.to_dict(),
            "targets": list(self.targets),
            "validation": hashlib.sha256(self.validation_stars.astype("<i8").tobytes()).hexdigest(),
            "table": {"names": list(self.table.names), "sums": self._sums},
        }

    @cached_property
    def _sums(self):
        """Shape of the table, and sums that another one would not have: of all quantities, of some of the spectra."""
        table, some = self.table, np.unique(np.linspace(0, len(self.table) - 1, _LOOKED_AT).astype(int))
        wavelength = table.wavelength if np.ndim(table.wavelength) == 1 else table.wavelength[some]
        parts = [wavelength, table.flux[some], *as_native(table.values).T]
        parts += [table.sigma[some]] if table.sigma is not None else []
        parts += [*as_native(table.errors).T] if table.errors is not None else []
        sums = [float(n) for n in np.shape(table.flux)]
        for part in parts:
            part = np.abs(as_native(part, np.float64)).ravel()
            known = np.isfinite(part)
            # weights that grow tell orders apart
            weight = np.linspace(1.0, 2.0, part.size)
            sums += [float(weight @ known), float(weight @ np.where(known, part, 0.0))]
        return sums


def _check_validation(validation, n_star):
    """Return the numbers of the stars to validate on, each once."""
    stars = np.asarray(validation)
    if stars.dtype.kind == "b":
        if stars.shape != (n_star,):
            raise InputValueError(f"validation: a mask of shape {stars.shape}, expected ({n_star},): one a star")
        stars = np.flatnonzero(stars)
    elif stars.ndim != 1 or (stars.size and stars.dtype.kind not in "iu"):
        raise InputValueError(
            f"validation: {stars.dtype} of shape {stars.shape}, expected the numbers of stars, integers in one "
            f"dimension, or a mask of {n_star} True and False"
        )
    elif (outside := (stars < 0) | (stars >= n_star)).any():
        raise InputValueError(
            f"validation: {np.count_nonzero(outside)} stars that are not in the table, the first is "
            f"{stars[outside][0]}; expected numbers from 0 to {n_star - 1}"
        )
    stars = np.unique(stars).astype(np.int64)
    if n_star and len(stars) == n_star:
        raise InputValueError(f"validation: all {n_star} stars; leave some to train on")
    return stars


def _check_pixels(table, stars):
    """Refuse spectra of which none has a good pixel."""
    for start in range(0, len(stars), _LOOKED_AT):
        some = stars[start : start + _LOOKED_AT]
        flux = as_native(table.flux[some], np.float32)
        wavelength = as_native(table.wavelength if np.ndim(table.wavelength) == 1 else table.wavelength[some])
        if (np.isfinite(flux) & np.isfinite(wavelength) & (wavelength > 0)).any():
            return
    if len(stars):
        raise InputValueError(
            f"flux: no good pixel in {len(stars)} spectra; expected finite fluxes at positive, finite wavelengths "
            "[Angstrom]"
        )
