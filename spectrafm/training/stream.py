"""Training batches from several sources at once, drawn anew at every step, on the CPU or a GPU."""

from dataclasses import dataclass

import numpy as np
import torch

from ..exceptions import ConfigError
from ..stellarperceptron.nn_utils import seeded_generator
from ..stellarperceptron.precision import float64_device

__all__ = ["StarStream", "StreamPart"]

# first entry of the seed of each kind of draw, beside those of the generator of tables
_STREAM, _VALIDATION = 11, 12


@dataclass
class StreamPart:
    """One source of a stream.

    Attributes
    ----------
    source : ObservedSource or TableSource
        Has ``batch``, ``validation``, ``targets`` and ``settings``.
    share : float
        Share of the stars of a step.
    weight : float
        Weight in the loss.
    validation : ObservedSource or TableSource, optional
        Source of the validation stars; the source itself, whose stars never come twice, when left out.
    """

    source: object
    share: float = 1.0
    weight: float = 1.0
    validation: object = None


class StarStream:
    """Training batches from several sources, for `Trainer`.

    A step has one batch of each source, and its loss is the weighted mean of their losses. The same
    (seed, step, rank) always gives the same batches, whatever was drawn before.

    Parameters
    ----------
    parts : dict of str to StreamPart
        The sources by name.
    batch_size : int
        Number of stars in a step, summed over all sources and processes.
    seed, rank, world_size : int, optional
        Seed; number of this process and of all processes.
    device : str or torch.device, optional
        Device on which batches are made. It must compute in float64, which ``"mps"`` does not: for a model
        there, stars are made on the CPU.
    n_validation : int, optional
        Number of validation stars of each source, drawn with the seed; all stars of a table that has fewer.

    Raises
    ------
    ConfigError
        No source, a batch with no star for one of them, or a device without float64.
    """

    def __init__(self, parts, *, batch_size=256, seed=0, rank=0, world_size=1, device="cpu", n_validation=512):
        if not parts:
            raise ConfigError("parts: there is none; a stream needs at least one source")
        self.parts, self.batch_size, self.seed = dict(parts), batch_size, seed
        self.rank, self.device, self.n_validation = rank, torch.device(device), n_validation
        if float64_device(self.device) != self.device:
            raise ConfigError(
                f"device: {self.device.type!r} has no float64, which wavelengths need; make stars on the 'cpu'"
            )
        share, weight = (np.array([getattr(part, k) for part in parts.values()]) for k in ("share", "weight"))
        if not ((share > 0).all() and (weight > 0).all()):
            raise ConfigError("parts: shares and weights must be positive")
        n_star = np.floor(batch_size / world_size * share / share.sum() + 0.5).astype(int)
        if (n_star < 1).any():
            raise ConfigError(f"batch_size: {batch_size} leaves no star for some of {', '.join(parts)}; enlarge it")
        self.n_star = dict(zip(parts, n_star.tolist(), strict=True))
        self.weight = dict(zip(parts, (weight / weight.sum()).tolist(), strict=True))
        self.targets = tuple(dict.fromkeys(name for part in self.parts.values() for name in part.source.targets))

    def batches(self, step):
        """Draw the batches of a step.

        Parameters
        ----------
        step : int
            Number of the step.

        Yields
        ------
        name : str
            Name of the source.
        weight : float
            Weight of its loss; they add up to 1.
        batch : TrainingBatch
            On the device of the stream.
        """
        for number, (name, part) in enumerate(self.parts.items()):
            entropy = (_STREAM, self.seed, step, self.rank, number)
            with torch.no_grad():
                batch = part.source.batch(self.n_star[name], seeded_generator(entropy, self.device), step)
            yield name, self.weight[name], batch

    @torch.no_grad()
    def validation(self):
        """Draw the batches to validate on, the same at every call.

        Yields
        ------
        name : str
            Name of the source.
        batch : TrainingBatch
        """
        for number, (name, part) in enumerate(self.parts.items()):

            def generator_of(start, number=number):
                return seeded_generator((_VALIDATION, self.seed, start, number), self.device)

            for batch in (part.validation or part.source).validation(self.n_validation, generator_of):
                yield name, batch

    def targets_of(self, name):
        """Return the labels that the first requests of the batches of a source ask for.

        Parameters
        ----------
        name : str
            Name of the source.

        Returns
        -------
        tuple of str
        """
        return self.parts[name].source.targets

    def settings(self):
        """Return the settings that must stay the same when training is resumed, as plain JSON types.

        Returns
        -------
        dict
        """
        parts = {
            name: {"share": part.share, "weight": part.weight} | part.source.settings()
            for name, part in self.parts.items()
        }
        return {"stream": parts}
