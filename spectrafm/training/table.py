"""Batches of a table of stars."""

import numpy as np
import torch

from ..adapters import from_arrays
from ..stellarperceptron.vocabulary import sample_flux
from .observed import VALIDATION_BATCH

__all__ = ["TableSource"]


class TableSource:
    """Batches of a table of stars, by way of its generator.

    Parameters
    ----------
    generator : TrainingGenerator
        Draws training stars from the table; its seed and rank decide.
    rows : numpy.ndarray
        Rows of the table that belong to this source.
    data : LabelledSpectra
        The stars of the table.
    """

    def __init__(self, generator, rows, data):
        self.generator, self.rows, self.data = generator, rows, data
        self.targets = generator.targets

    def batch(self, n_star, generator, step):
        """Draw a batch, as `ObservedSource.batch`.

        Parameters
        ----------
        n_star : int
            Number of stars; that of the generator of the table holds.
        generator : torch.Generator
            The batch is brought to its device.
        step : int
            Number of the step: the stars of an epoch come in their order.

        Returns
        -------
        TrainingBatch
        """
        return self.generator.batch(step).to(generator.device)

    def validation(self, n_star, generator_of):
        """Draw batches of rows as they are, none of them twice, as `ObservedSource.validation`.

        Parameters
        ----------
        n_star : int
            Number of stars, or fewer where there are fewer.
        generator_of : callable
            As for `ObservedSource.validation`; that of the first batch decides about all.

        Yields
        ------
        TrainingBatch
        """
        generator = generator_of(0)
        rows = _choose(self.rows, n_star, generator)
        for start in range(0, len(rows), VALIDATION_BATCH):
            yield self.generator.draw(rows[start : start + VALIDATION_BATCH]).to(generator.device)

    def sample(self, name):
        """Return values of one name, as `ObservedSource.sample`.

        Parameters
        ----------
        name : str
            A quantity, or the kind of flux.

        Returns
        -------
        numpy.ndarray
        """
        table = self.generator.table
        if name == table.flux_name:
            flux = sample_flux(table, self.rows, self.generator.divisor).astype(np.float64)
            return flux[np.isfinite(flux)]
        values = table.column(name)[self.rows] if name in table.names else np.empty(0)
        return values[np.isfinite(values)]

    def examples(self, n_star, generator):
        """Draw spectra as a user has them, as `ObservedSource.examples`.

        Parameters
        ----------
        n_star : int
            Number of stars, or fewer where there are fewer.
        generator : torch.Generator
            Decides which.

        Returns
        -------
        spectra, values, errors
        """
        data, rows = self.data, _choose(self.rows, n_star, generator)
        nothing = np.full(len(data.flux), np.nan)
        values = {name: data.labels[name][rows] for name in self.targets}
        errors = {name: data.label_errors.get(name, nothing)[rows] for name in self.targets}
        return list(from_arrays(data.wavelength, data.flux[rows], data.sigma[rows])), values, errors

    def flawless(self):
        """Return the same stars: they are what they are.

        Returns
        -------
        TableSource
        """
        return self

    def undisturbed(self):
        """Return an empty list: stars of a table are not observed anew.

        Returns
        -------
        list
        """
        return []

    def extent(self):
        """Return the range of the spectra, as `ObservedSource.extent`.

        Returns
        -------
        dict
        """
        data, n_pixel = self.data, len(self.data.wavelength)
        spacing = float(np.median(np.diff(np.log(data.wavelength))))
        good = np.isfinite(data.flux[self.rows]) & np.isfinite(data.sigma[self.rows])
        ratio = np.where(good, data.flux[self.rows] / data.sigma[self.rows], np.nan)
        snr = np.nanmedian(ratio[good.any(axis=1)], axis=1)
        return {
            "low": float(data.wavelength[0] - 1),
            "high": float(data.wavelength[-1] + 1),
            "finest": spacing / 2,
            "coarsest": spacing * 2,
            "highest_power": np.inf,
            "lowest_power": 0.0,
            "min_pixels": n_pixel // 4,
            "min_coverage": 0.9,
            "min_snr": float(np.quantile(snr, 0.001)) if len(snr) else 0.0,
            "largest_snr": float(np.quantile(snr, 0.999)) if len(snr) else np.inf,
            "smallest_given": 0.0,
            "predicts_flux": self.generator.augmentation.flux_requests > 0,
        }

    def settings(self):
        """Return the settings that must stay the same when training is resumed, as plain JSON types.

        Returns
        -------
        dict
        """
        return {"augmentation": self.generator.augmentation.to_dict(), "targets": list(self.targets)}


def _choose(rows, n_star, generator):
    """Return some of the rows in ascending order, all of them where there are not more."""
    if n_star >= len(rows):
        return rows
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    return np.sort(np.random.default_rng(seed).choice(rows, n_star, replace=False))
