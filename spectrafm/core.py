"""`SpectraFM`: from spectra to a table of labels with errors and flags."""

import hashlib
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ._progress import progress as progress_bar
from .adapters import to_arrays
from .continuum import normalizer_from_dict
from .exceptions import InputValueError, MissingDependencyError, SpectraFMWarning
from .flags import MASKING_FLAGS, Flag
from .known import known_quantities
from .results import label_table
from .stellarperceptron import StellarPerceptron
from .stellarperceptron.model_core import atomic_write
from .tokens import spectra_to_tokens
from .weights_info import WeightsInfo

__all__ = ["SpectraFM"]

logger = logging.getLogger("spectrafm")

_PRETRAINED = Path(__file__).parent / "pretrained"
_DEFAULT = "gaia_xp"
# pixels are laid out with this much of the range missing before it is flagged
_WANTED_COVERAGE = 0.9


class SpectraFM:
    """A trained model with all it needs to turn spectra into labels.

    Most users start from `SpectraFM.from_pretrained`.

    Parameters
    ----------
    model : StellarPerceptron
        The transformer.
    info : WeightsInfo
        Labels, units, ranges, normaliser, calibration and provenance.
    density : dict of str to torch.Tensor, optional
        ``mean`` ``(embedding_dim,)`` and ``whiten`` ``(embedding_dim,
        n_component)`` of the embeddings of the training stars.

    Examples
    --------
    >>> from spectrafm import SpectraFM
    >>> from spectrafm.datasets import load_example_spectrum
    >>> fm = SpectraFM.from_pretrained()
    >>> table = fm.infer(load_example_spectrum())
    >>> table.colnames[:3]
    ['identifier', 'teff', 'e_teff']
    """

    def __init__(self, model, info, density=None):
        self.model, self.info = model, info
        self._density = None if density is None else {k: v.numpy() for k, v in density.items()}
        self._normalizer = normalizer_from_dict(info.normalizer)
        self._hash = ""

    def __repr__(self):
        """Return one line."""
        return f"<SpectraFM {self.info.name!r}: {', '.join(self.labels)}>"

    @property
    def labels(self):
        """Names of the labels returned by default."""
        return self.info.labels

    @classmethod
    def from_pretrained(cls, name=None, device="cpu"):
        """Load weights by name.

        Parameters
        ----------
        name : str or pathlib.Path, optional
            Name of packaged weights, a folder, or an ``owner/name`` of the
            Hugging Face hub (needs ``huggingface_hub``). By default the
            weights that come with the package; no network is used.
        device : str or torch.device, optional
            Where to run.

        Returns
        -------
        SpectraFM

        Raises
        ------
        InputValueError
            There are no such weights; the message lists the packaged ones.
        CheckpointError
            The files are damaged.
        """
        name = _DEFAULT if name is None else name
        packaged = sorted(path.parent.name for path in _PRETRAINED.glob("*/spectrafm.json"))
        if str(name) in packaged:
            return cls.load(_PRETRAINED / str(name), device)
        if Path(name).is_dir():
            return cls.load(name, device)
        if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
            try:
                from huggingface_hub import snapshot_download
            except ImportError as error:
                raise MissingDependencyError(
                    f"name: {name!r} is neither packaged nor a folder; to look for it on the hub, "
                    "pip install huggingface_hub"
                ) from error
            return cls.load(snapshot_download(name), device)
        raise InputValueError(
            f"name: no weights {name!r}; expected one of the packaged ({', '.join(packaged)}), "
            "a folder written by SpectraFM.save, or an 'owner/name' of the hub"
        )

    @classmethod
    def load(cls, folder, device="cpu"):
        """Load what `save` wrote.

        Parameters
        ----------
        folder : str or pathlib.Path
            The folder.
        device : str or torch.device, optional
            Where to run.

        Returns
        -------
        SpectraFM

        Raises
        ------
        CheckpointError
            Missing or damaged files.
        """
        folder = Path(folder)
        info = WeightsInfo.read(folder / "spectrafm.json")
        model = StellarPerceptron.load(folder, device)
        density = folder / "density.safetensors"
        loaded = cls(model, info, load_file(density) if density.exists() else None)
        loaded._hash = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
        return loaded

    def save(self, folder, half=False):
        """Write everything into a folder.

        Parameters
        ----------
        folder : str or pathlib.Path
            Made if it does not exist.
        half : bool, optional
            Store the trained parameters in half precision.
        """
        folder = Path(folder)
        self.model.save(folder, half=half)
        atomic_write(folder / "spectrafm.json", self.info.write)
        if self._density is not None:
            tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in self._density.items()}
            atomic_write(folder / "density.safetensors", lambda path: save_file(tensors, path))

    def describe(self):
        """Say in words what these weights are and where they hold.

        Returns
        -------
        str
        """
        info = self.info
        low, high = info.wavelength_range
        lines = [
            f"SpectraFM weights {info.name!r}, {self.model.n_parameter:,} parameters, sha256 {self._hash or '-'}",
            f"  labels: {', '.join(info.labels)}",
            f"  may be given (known=): {', '.join(info.known) or 'nothing'}",
            f"  spectra: {info.flux_kind.replace('_', ' ')}, {low:.0f}-{high:.0f} Angstrom, vacuum, rest frame",
            f"  normaliser: {info.normalizer}",
            "  range of the training labels:",
        ]
        lines += [f"    {name}: {lo:.5g} to {hi:.5g}" for name, (lo, hi) in info.label_ranges.items()]
        lines += [f"  trained on: {info.training_data}", f"  license: {info.license}", f"  cite: {info.citation}"]
        return "\n".join(lines)

    def infer(
        self,
        spectra,
        labels=None,
        known=None,
        medium="vacuum",
        radial_velocity=None,
        resolving_power=None,
        mask_policy=None,
        batch_size=256,
        progress=False,
    ):
        """Return the labels of stars, with errors and flags.

        Parameters
        ----------
        spectra : `~specutils.Spectrum` or collection
            A spectrum (1-D or 2-D), `~specutils.SpectrumCollection`,
            `~specutils.SpectrumList`, a list of any of these, or of
            `~spectrafm.adapters.SpectrumArrays`.
        labels : str or sequence of str, optional
            Labels wanted; all that the weights know when left out, less those
            given in ``known``.
        known : dict, optional
            What is known already: name -> number, array ``(n_star,)``,
            `~astropy.units.Quantity` or table column; ``e_<name>`` for its
            error; NaN or masked where not known.
        medium : {"vacuum", "air"} or sequence, optional
            What the wavelengths are in, for all or for each star.
        radial_velocity : `~astropy.units.Quantity` ['speed'], optional
            Scalar or one a star; the object's own when left out.
        resolving_power : float or array_like, optional
            Resolving power, scalar or one a star.
        mask_policy : str, optional
            Named policy for integer masks, see `spectrafm.adapters.to_arrays`.
        batch_size : int, optional
            Stars encoded at a time.
        progress : bool, optional
            Show a progress bar, where tqdm is installed.

        Returns
        -------
        `~astropy.table.QTable`
            A row a star: ``identifier``, each label with its error ``e_<label>``,
            ``flag`` (see `spectrafm.flags.Flag`), ``n_pixels_used`` and ``snr``.
            A star that cannot be used is a masked row with its flag.

        Raises
        ------
        InputTypeError, InputValueError
            An argument that cannot be used, with the remedy.

        Warns
        -----
        SpectraFMWarning
            Some rows are masked.
        """
        arrays = to_arrays(
            spectra,
            medium=medium,
            radial_velocity=radial_velocity,
            resolving_power=resolving_power,
            mask_policy=mask_policy,
        )
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InputValueError(f"batch_size: {batch_size!r}, expected a positive integer")
        known = known_quantities(known, len(arrays), self.info.known)
        labels = self._wanted(labels, known)
        n_star = len(arrays)
        values, errors = np.full((2, n_star, len(labels)), np.nan)
        flag, n_used = np.zeros((2, n_star), dtype=np.int64)
        snr = np.full(n_star, np.nan)
        for start in progress_bar(range(0, n_star, batch_size), progress, description="infer"):
            rows = slice(start, start + batch_size)
            prepared = [self._prepare(a) for a in arrays[rows]]
            some = {name: (v[rows], e[rows]) for name, (v, e) in known.items()}
            values[rows], errors[rows], flag[rows] = self._infer_batch(prepared, labels, some)
            n_used[rows], snr[rows] = [a.n_good for a in prepared], [a.snr for a in prepared]
        masked = (flag & MASKING_FLAGS) != 0
        values[masked], errors[masked] = np.nan, np.nan
        if masked.any():
            problems = [f"row {i}: {arrays[i].problem}" for i in np.flatnonzero(masked) if arrays[i].problem]
            warnings.warn(
                f"{masked.sum()} of {n_star} rows are masked, see their flags"
                + "".join(f"; {p}" for p in problems[:3]),
                SpectraFMWarning,
                stacklevel=2,
            )
        meta = self._meta(medium)
        identifiers = [a.identifier for a in arrays]
        return label_table(
            labels, values, errors, flag=flag, n_pixels_used=n_used, snr=snr, identifier=identifiers, meta=meta
        )

    def _wanted(self, labels, known):
        if labels is None:
            return tuple(name for name in self.labels if name not in known)
        labels = (labels,) if isinstance(labels, str) else tuple(labels)
        unknown = [name for name in labels if name not in self.labels]
        if unknown or not labels:
            raise InputValueError(f"labels: {unknown or 'none'} asked for; these weights know {', '.join(self.labels)}")
        both = [name for name in labels if name in known]
        if both:
            raise InputValueError(f"labels: {both} asked for and given in known; leave them out of one of the two")
        return labels

    def _prepare(self, arrays):
        """Cut to the range of the weights, then normalise as in training."""
        low, high = self.info.wavelength_range
        inside = (arrays.wavelength >= low) & (arrays.wavelength <= high)
        flags = arrays.flags
        if arrays.n_good and not (arrays.good & inside).any():
            flags |= int(Flag.NO_OVERLAP)
        return self._normalizer(replace(arrays, good=arrays.good & inside, flags=flags))

    def _perceive(self, prepared, known=None):
        tokens = spectra_to_tokens(prepared, self.model.vocabulary, known, self.info.flux_kind)
        return self.model.perceive_tokens(tokens)

    def _infer_batch(self, prepared, labels, known):
        info = self.info
        spectrum_only = perception = self._perceive(prepared)
        if known:
            # the density of embeddings is that of spectra alone
            perception = self._perceive(prepared, known)
        values, errors = self.model.request(perception, labels)
        has_sigma = np.array([a.has_sigma for a in prepared])
        for column, name in enumerate(labels):
            factor = info.calibration.get(name, {"with_sigma": 1.0, "without_sigma": 1.0})
            errors[:, column] *= np.where(has_sigma, factor["with_sigma"], factor["without_sigma"])
        flag = np.array([a.flags for a in prepared], dtype=np.int64)
        flag |= np.where(self.distances(spectrum_only) > info.density_threshold, int(Flag.UNUSUAL_SPECTRUM), 0)
        flag |= [self._spectrum_flags(a) for a in prepared]
        for column, name in enumerate(labels):
            low, high = info.label_ranges.get(name, (-np.inf, np.inf))
            outside = (values[:, column] < low) | (values[:, column] > high)
            flag |= np.where(outside, int(Flag.OUTSIDE_LABEL_RANGE), 0)
            scale = values[:, column] if name in self.model.vocabulary.log else 1.0
            large = errors[:, column] > info.usual_errors.get(name, np.inf) * scale
            flag |= np.where(large, int(Flag.LARGE_UNCERTAINTY), 0)
        return values, errors, flag

    def distances(self, perception):
        """Return how far the embeddings lie from those of the training stars.

        Parameters
        ----------
        perception : Perception
            From ``model.perceive``, of spectra without anything else known.

        Returns
        -------
        numpy.ndarray
            ``(n_star,)`` Mahalanobis distance divided by the square root of
            its dimension: about 1 for training stars; NaN for empty stars and
            where the weights carry no density.
        """
        if self._density is None:
            return np.full(len(perception), np.nan)
        z = (perception.pooled - self._density["mean"]) @ self._density["whiten"]
        return np.sqrt((z**2).mean(axis=1))

    def _spectrum_flags(self, arrays):
        if not arrays.n_good:
            return 0
        info, flags = self.info, 0
        if arrays.n_good < info.min_pixels:
            flags |= Flag.FEW_PIXELS
        if arrays.snr < info.min_snr:
            flags |= Flag.LOW_SNR
        x = np.log(arrays.wavelength[arrays.good])
        spacing = np.diff(x)
        typical = np.median(spacing) if len(spacing) else np.nan
        if not info.spacing_range[0] <= typical <= info.spacing_range[1]:
            flags |= Flag.SAMPLING_MISMATCH
        covered = np.minimum(spacing, 4 * typical).sum() + typical
        low, high = np.log(info.wavelength_range)
        if not covered >= _WANTED_COVERAGE * (high - low):
            flags |= Flag.PARTIAL_COVERAGE
        return int(flags)

    def embed(self, spectra, medium="vacuum", radial_velocity=None, mask_policy=None, batch_size=256):
        """Return the embedding of each star: the mean of the encoder's output.

        Parameters
        ----------
        spectra, medium, radial_velocity, mask_policy, batch_size
            As for `infer`.

        Returns
        -------
        numpy.ndarray
            ``(n_star, embedding_dim)`` float32; NaN for stars that cannot be used.
        """
        arrays = to_arrays(spectra, medium=medium, radial_velocity=radial_velocity, mask_policy=mask_policy)
        pieces = [np.empty((0, self.model.config.embedding_dim), dtype=np.float32)]
        for start in range(0, len(arrays), batch_size):
            prepared = [self._prepare(a) for a in arrays[start : start + batch_size]]
            pieces.append(self._perceive(prepared).pooled)
        return np.concatenate(pieces)

    def _meta(self, medium):
        from astropy.time import Time

        from . import __version__

        return {
            "model": self.info.name,
            "weights_sha256": self._hash,
            "spectrafm_version": __version__,
            "date": Time.now().isot,
            "medium": medium if isinstance(medium, str) else "one a star",
            "frame": "rest",
        }
