"""`SpectraFM`: from spectra to a table of labels with errors and flags."""

import copy
import os
from pathlib import Path

import numpy as np
import torch

from ._inference import infer_stars
from ._known import label_truth, refuse_other_order
from ._model_spectra import reconstructed_spectra, spectra_of_labels
from ._rest_frame import stars_at_rest
from ._similarity import embedded, similar_stars
from ._weights import Weights
from ._weights_files import (
    DEFAULT,
    check_device,
    check_folder,
    find_weights,
    load_weights,
    packaged_base,
    save_weights,
)
from .diagnostics import diagnosis_table
from .exceptions import CheckpointError, ConfigError
from .quantities import registered_on_success

__all__ = ["SpectraFM"]

# a forked process has none of the threads that PyTorch waits for there
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class SpectraFM(Weights):
    """A trained model with all it needs to turn spectra into labels.

    Most users start from `SpectraFM.from_pretrained`.

    Parameters
    ----------
    model : StellarPerceptron
        The transformer.
    info : WeightsInfo
        Labels, units, ranges, normaliser, calibration and provenance.
    density : dict of str to torch.Tensor, optional
        ``mean.<domain>`` ``(embedding_dim,)`` and ``whiten.<domain>`` ``(embedding_dim,
        n_component)`` of the embeddings of the training stars of each domain.
    head : ResidualHead, optional
        Predicts the labels in place of the network, see `fine_tune`.
    lines : LineCorrection, optional
        Corrects the lines of normalised spectra before the network sees them, see `fine_tune`.

    Examples
    --------
    >>> from spectrafm import SpectraFM
    >>> from spectrafm.datasets import load_example_spectrum
    >>> fm = SpectraFM.from_pretrained()
    >>> table = fm.infer(load_example_spectrum())
    >>> table.colnames[:3]
    ['identifier', 'teff', 'e_teff']
    """

    def __repr__(self):
        """Return one line."""
        return f"<SpectraFM {self.info.name!r}: {', '.join(self.labels)}>"

    @property
    def labels(self):
        """Names of the labels returned by default."""
        return self.info.labels

    @property
    def weights_hash(self):
        """First digits of the SHA-256 of the files that were loaded; empty for what was not loaded."""
        return self._hash

    @property
    def head(self):
        """The correction that `fine_tune` learnt with ``method="head"``, or None."""
        return self._head

    @property
    def lines(self):
        """Corrections of the depths of lines that `fine_tune` found, or None."""
        return self._lines

    @property
    def history(self):
        """Scores of all trials of `fine_tune`, a dictionary each; empty for weights that were not fine-tuned."""
        return list(self.info.fine_tuning.get("history", []))

    @classmethod
    def from_pretrained(cls, name=None, device="cpu"):
        """Load weights by name.

        Parameters
        ----------
        name : str or pathlib.Path, optional
            Name of packaged weights, a folder, or ``hf://owner/name`` or
            ``hf://owner/name@revision`` of the Hugging Face hub (needs
            ``huggingface_hub``). By default the weights that come with the package;
            no network is used.
        device : str or torch.device, optional
            Where to run: ``"cpu"``, ``"cuda"``, ``"mps"``.

        Returns
        -------
        SpectraFM

        Raises
        ------
        InputValueError
            There are no such weights, the message lists the packaged ones; they cannot be
            fetched; or there is no such device.
        MissingDependencyError
            They are on the hub, and its client is not installed.
        CheckpointError
            The files are damaged.
        """
        return cls.load(find_weights(DEFAULT if name is None else name), device)

    @classmethod
    def load(cls, folder, device="cpu", base=None):
        """Load what `save` wrote.

        Parameters
        ----------
        folder : str or pathlib.Path
            The folder.
        device : str or torch.device, optional
            Where to run.
        base : SpectraFM, optional
            What weights are changes to, where an earlier version saved them as changes to others
            than those in the package, which are found by their name.

        Returns
        -------
        SpectraFM

        Raises
        ------
        CheckpointError
            Missing or damaged files, another base, or a file in place of the folder.
        InputValueError
            There is no such device.
        """
        check_device(device)
        folder = Path(folder)
        if folder.is_file():
            raise CheckpointError(
                f"folder: {folder} is a file; expected a folder written by SpectraFM.save; give the one that it lies in"
            )
        *parts, digest, base = load_weights(folder, device, base, cls.load)
        try:
            loaded = cls(*parts)
        except ConfigError as error:
            raise CheckpointError(f"folder: {folder} is damaged or of another version ({error})") from error
        loaded._hash, loaded._base, loaded._folder = digest, base, folder.resolve()
        return loaded

    def save(self, folder, compact=False, *, overwrite=False):
        """Write everything into a folder, from which `load` reads it.

        Weights that were fine-tuned, once or several times, from those in the package are saved as
        what changed, where that is small; all others as a whole.

        Parameters
        ----------
        folder : str or pathlib.Path
            Made if it does not exist.
        compact : bool, optional
            Store large matrices in 8 bits (about a quarter of the size): labels change by some per
            cent of their errors.
        overwrite : bool, optional
            Replace weights that are in the folder.

        Raises
        ------
        InputValueError
            The folder holds weights, and ``overwrite`` is not set.
        OSError
            The folder cannot be made or written to.
        """
        folder = Path(folder)
        check_folder(folder, overwrite)
        density = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in self._density.items()}
        base = packaged_base(self)
        if base is not None and base._folder == folder.resolve():
            base = None
        parts = {"head": self._head, "lines": self._lines, "base": base}
        save_weights(folder, self.info, self.model, density, **parts, compact=compact)

    def describe(self):
        """Say in words what these weights are and where they hold.

        Returns
        -------
        str
        """
        return self.info.describe(self.model.n_parameter, self._hash)

    def infer(
        self,
        spectra,
        labels=None,
        known=None,
        *,
        medium=None,
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
            Labels to predict; when left out, all that spectra of these kinds give,
            except those given in ``known`` for all stars.
        known : dict, `~astropy.table.Table`, `~astropy.table.Row` or pandas DataFrame, optional
            What is known already: name -> number, array ``(n_star,)``,
            `~astropy.units.Quantity` or table column; ``e_<name>`` for its
            error; NaN or masked where not known. Tables and rows that `infer` returned may
            be given as they are, rows in the order of the stars. Columns of other names are an error.
        medium : {"vacuum", "air"} or sequence, optional
            What the wavelengths are in, for all or for each star; when left out, what the
            object's own WCS says (air for ``AWAV`` of FITS), and vacuum where it does not say.
        radial_velocity : `~astropy.units.Quantity` ['speed'] or "measure", optional
            Scalar or one a star, positive when the star recedes; the object's own when left
            out. With ``"measure"`` the weights measure the velocity that each spectrum has
            beside its own, and take it out before they predict labels.
        resolving_power : float or array_like, optional
            Resolving power lambda/FWHM, scalar or one a star. Where it is higher than that of the training
            spectra, or pixels are finer, spectra are smoothed before they are read
            (`~spectrafm.adapters.SpectrumArrays.smoothed`).
        mask_policy : str, optional
            Named policy for masks of bits, see `spectrafm.adapters.to_arrays`.
        batch_size : int, optional
            Stars encoded at a time. Larger is faster and needs more memory; answers do not change.
        progress : bool, optional
            Show a progress bar, where tqdm is installed.

        Returns
        -------
        `~astropy.table.QTable`
            A row a star: ``identifier``, each label with its error ``e_<label>`` [K for ``teff``,
            dex(cm s-2) for ``logg`` and dex for its error, dex for abundances, km/s for velocities,
            none for ``c12_c13``], ``flag`` (see `spectrafm.flags.Flag`; of labels, it judges those
            that are here or were given), ``n_pixels_used`` and ``snr`` (a median per pixel).
            A star that cannot be used is a masked row with its flag; a label that is known
            of some stars is masked in their rows, without a flag. Where velocities were
            measured, ``radial_velocity`` and ``e_radial_velocity`` are those that were taken
            out in all, masked for spectra without lines (Gaia XP). Its ``meta`` says
            what made it; ``unproven`` there names labels whose errors no real star has
            calibrated.

        Raises
        ------
        InputTypeError, InputValueError
            An argument that cannot be used, with the remedy.

        Warns
        -----
        SpectraFMWarning
            Some rows are masked, or none of these spectra give some of the ``labels``.
        """
        spectrum_options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        table, _ = infer_stars(
            self, spectra, labels, known, batch_size=batch_size, progress=progress, **spectrum_options
        )
        return table

    def diagnose(
        self,
        spectra,
        labels=None,
        known=None,
        *,
        medium=None,
        radial_velocity=None,
        resolving_power=None,
        mask_policy=None,
        batch_size=256,
        progress=False,
    ):
        """Return, for each star, the statistics behind its flags.

        Parameters
        ----------
        spectra, labels, known, medium, radial_velocity, resolving_power, mask_policy, batch_size, progress
            As for `infer`; labels decide which of its flags are there.

        Returns
        -------
        `~astropy.table.Table`
            A row a star: ``identifier``; the statistics of `spectrafm.diagnostics.STATISTICS`,
            masked where they cannot be computed; ``strangeness``, the largest of them over
            their thresholds, above 1 where one of them is flagged; and ``flag`` as of `infer`.

        Raises
        ------
        InputTypeError, InputValueError
            As `infer`.

        Warns
        -----
        SpectraFMWarning
            As `infer`.
        """
        spectrum_options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        options = {"batch_size": batch_size, "progress": progress, "statistics": True}
        table, diagnoses = infer_stars(self, spectra, labels, known, **options, **spectrum_options)
        return diagnosis_table(diagnoses, table)

    def recalibrate(
        self,
        spectra,
        labels_table,
        *,
        method="temperature",
        medium=None,
        radial_velocity=None,
        resolving_power=None,
        mask_policy=None,
        name=None,
    ):
        """Return the same weights with errors that hold for held-out stars of yours.

        Parameters
        ----------
        spectra : `~specutils.Spectrum` or collection
            ``n_star`` stars with known labels, not among those of the training; as for
            `infer`.
        labels_table : `~astropy.table.Table` or dict
            Their true labels, a row a star, in their order: columns ``<label>`` and, where there are
            any, errors ``e_<label>``, with units or in the usual ones; masked or NaN
            where not known. Other columns do not matter.
        method : {"temperature", "conformal"}, optional
            What sets the factors: `~spectrafm.calibration.temperature` by coverage, or
            `~spectrafm.calibration.conformal_factor`, which guarantees the coverage of
            one standard deviation for stars like these.
        medium, radial_velocity, resolving_power, mask_policy
            As for `infer`.
        name : str, optional
            Name of the new weights; that of these with ``-recalibrated`` when left out.

        Returns
        -------
        SpectraFM
            With the same model, which is shared. The errors of each label of ``labels_table``
            are multiplied with a factor for each domain these stars are of, for spectra
            with flux errors and without: the latter from all stars, whose flux errors are
            withheld. Labels stay what they are, and so does what is flagged as a large
            error. Labels that are not in the table, or that are not predicted from such spectra, keep
            their factors.
            Where errors of the labels explain the residuals, factors below 1 are brought nearer to
            1, see `~spectrafm.calibration.determined_factor`.

        Raises
        ------
        InputTypeError, InputValueError
            As `infer`; a table that does not fit the stars; an error without its label; or no
            label of which the truth is known for 20 stars.

        Warns
        -----
        SpectraFMWarning
            Factors that are kept, since fewer than 20 stars have a known truth; columns that look
            like labels or errors, and are not used; stars that cannot be used; quoted errors of
            labels that are larger than the scatter of the residuals; factors so far from 1 that
            something else must be wrong.
        """
        from ._recalibration import recalibrated_info

        options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        arrays = stars_at_rest(self, spectra, **options)
        refuse_other_order(labels_table, [star.identifier for star in arrays], "labels_table")
        recalibrated = copy.copy(self)
        recalibrated.info = recalibrated_info(self, arrays, labels_table, method)
        recalibrated.info.name = name or f"{self.info.name}-recalibrated"
        # other errors than those of the files that these weights are from
        recalibrated._hash = ""
        return recalibrated

    def fine_tune(
        self,
        spectra,
        labels_table,
        *,
        method="auto",
        labels=None,
        groups=None,
        medium=None,
        radial_velocity=None,
        resolving_power=None,
        mask_policy=None,
        n_fold=4,
        steps=240,
        batch_size=32,
        learning_rate=None,
        rank=8,
        seed=0,
        name=None,
        progress=False,
    ):
        """Adapt these weights to stars with labels: another instrument, range, scale or label.

        A hundred stars are enough. Everything that is chosen, the method too, is chosen by
        cross-validation within the given stars, which also calibrates the errors; no other
        label is looked at.

        Parameters
        ----------
        spectra : `~specutils.Spectrum` or collection
            As for `infer`, of one kind of instrument.
        labels_table : `~astropy.table.Table` or dict
            A row a spectrum, in their order: ``<label>`` and, where known, ``e_<label>``, one
            standard deviation, with units or in those of `spectrafm.quantities.QUANTITIES`;
            NaN or masked where not known.
        method : {"auto", "head", "lora", "decoder", "encoder", "last_block", "full"}, optional
            What is trained, see `spectrafm.fine_tuning.FineTuneConfig`: ``"head"`` takes about
            a minute, ``"full"`` minutes, and ``"auto"`` as long as ``"head"``, ``"lora"`` and
            ``"full"`` together.
        labels : sequence of str, optional
            Columns to learn; all stellar labels by their names when left out. One that is
            named here and known nowhere becomes a label of its own.
        groups : sequence of str or int, optional
            ``(n_star,)`` name of the star of each spectrum, empty or masked where a star has only
            one. Cross-validation leaves out all spectra of a star together. When left out, spectra
            of one star are found by the same identifier, the same pixels, or the same labels.
        medium, radial_velocity, resolving_power, mask_policy
            As for `infer`.
        n_fold : int, optional
            Number of folds of the cross-validation, 2 or more.
        steps : int, optional
            Most steps of training; cross-validation chooses at which to stop. Not used by ``"head"``.
        batch_size : int, optional
            Stars in a step of training.
        learning_rate : float, optional
            Largest learning rate; that of the method in `spectrafm.fine_tuning.METHODS` when left out.
        rank : int, optional
            Rank of the changes that ``"lora"`` makes to matrices.
        seed : int, optional
            Seed of the folds and of all that is drawn in training.
        name : str, optional
            Name of the new weights.
        progress : bool, optional
            Show progress bars, where tqdm is installed.

        Returns
        -------
        SpectraFM
            New weights that predict the labels of the table from spectra of this kind. Their
            ``history`` holds the scores of all trials, in ln(error / scatter). These weights
            stay as they are.

        Raises
        ------
        InputTypeError, InputValueError
            Spectra or labels that cannot be used, fewer than ten stars with a label, an error
            without its label, a label that is the same for all stars, spectra of several kinds,
            groups that do not fit the spectra.
        ConfigError
            Settings out of range.

        Warns
        -----
        SpectraFMWarning
            Some spectra cannot be used, or have no label; columns look like labels or errors, and
            are not used; most are not at rest; several are of one star, and ``groups`` does not say
            so; labels are predicted hardly better than by their mean; quoted errors of labels are
            larger than the scatter of stars left out.
        """
        from .fine_tuning import FineTuneConfig, fine_tune

        config = FineTuneConfig(
            method=method,
            n_fold=n_fold,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            rank=rank,
            seed=seed,
        )
        options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        arrays = stars_at_rest(self, spectra, **options)
        refuse_other_order(labels_table, [star.identifier for star in arrays], "labels_table")
        # training needs gradients, wherever it is called
        with registered_on_success(), torch.inference_mode(False), torch.enable_grad():
            self.info.register()
            truth = label_truth(labels_table, len(arrays), labels, self.model.vocabulary.log)
            return fine_tune(self, arrays, truth, config, groups=groups, name=name, progress=progress)

    def attention(
        self, spectrum, label, known=None, *, medium=None, radial_velocity=None, resolving_power=None, mask_policy=None
    ):
        """Return where in a spectrum the model looks for a label.

        Parameters
        ----------
        spectrum : `~specutils.Spectrum` or `~spectrafm.adapters.SpectrumArrays`
            One star.
        label : str
            Name of the label.
        known, medium, radial_velocity, resolving_power, mask_policy
            As for `infer`.

        Returns
        -------
        `~astropy.table.QTable`
            A row for each measured pixel that the model sees: ``wavelength`` [Angstrom, vacuum,
            rest frame], ascending; ``flux``, normalised; ``attention`` of the label's request,
            without unit: the mean over blocks and heads of the decoder, that of a patch shared
            equally by its pixels, and that of a gap that is bridged by those beside it. It is
            only as fine as patches are, and its sum is below 1: the rest went to what else is
            known of the star, and to nothing in particular.

        Raises
        ------
        InputTypeError, InputValueError
            As `infer`; several stars, a star that cannot be used, a label that is not
            predicted from such spectra.
        """
        from .explanation import explain

        spectrum_options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        return explain(self, "attention", spectrum, label, known, **spectrum_options)

    def sensitivity(
        self, spectrum, label, known=None, *, medium=None, radial_velocity=None, resolving_power=None, mask_policy=None
    ):
        """Return how a label would change with the flux of each pixel of a spectrum.

        Parameters
        ----------
        spectrum, label, known, medium, radial_velocity, resolving_power, mask_policy
            As for `attention`.

        Returns
        -------
        `~astropy.table.QTable`
            A row for each measured pixel that the model sees: ``wavelength`` [Angstrom, vacuum,
            rest frame], ascending; ``flux``, normalised; ``sensitivity``, the derivative of the
            label with respect to the normalised flux of the pixel, in units of the label, by
            way of a gap beside it that is bridged, too. Finer pixels have less each.

        Raises
        ------
        InputTypeError, InputValueError
            As `attention`.
        """
        from .explanation import explain

        spectrum_options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        return explain(self, "sensitivity", spectrum, label, known, **spectrum_options)

    def predict_spectrum(self, labels, spectral_axis, *, resolving_power=None, domain=None, medium=None):
        """Return the spectra that the model expects of stars with these labels.

        Parameters
        ----------
        labels : dict, `~astropy.table.Table` or `~astropy.table.Row`
            What is known of the stars, as ``known`` of `infer`; numbers, or arrays with
            one value a star. Of each star at least one stellar label, such as ``teff``: photometry,
            ``a_k`` and ``rv_offset`` alone do not tell what star it is. What is left out is not
            known, and makes errors larger: give ``teff``, ``logg`` and ``fe_h`` where possible.
            Tables and rows that `infer` returned may be given as they are.
        spectral_axis : `~astropy.units.Quantity` or `~astropy.table.Column`
            ``(n_pixel,)`` wavelengths, frequencies, energies or wavenumbers, at rest unless
            the labels hold an ``rv_offset``.
        resolving_power : float or array_like, optional
            Resolving power of the spectra, for all or one a star.
        domain : str, optional
            Kind of spectrum, by the name of the domain; where left out, the one that these
            wavelengths and their spacing fit best.
        medium : {"vacuum", "air"}, optional
            What the wavelengths of ``spectral_axis`` are in; vacuum when left out.

        Returns
        -------
        `~specutils.Spectrum`
            Flux ``(n_pixel,)``, or ``(n_star, n_pixel)`` where a label is an array or a column,
            with its standard deviation, at the ``spectral_axis`` as it was given. It has no unit:
            it is normalised as the model sees spectra of this domain, which is what
            ``fm.normalizer_of(name)`` makes of observed ones, ``name`` being ``meta["domain"]``.
            In the domains of ``base`` that predict flux it is divided by its smooth local mean
            (`~spectrafm.continuum.ContinuumNormalizer`), not by the true continuum, which lies
            higher where lines are dense: the flux scatters around 1. In domains whose normaliser is
            `~spectrafm.continuum.MedianScaler` it is divided by its median.
            `~spectrafm.plotting.plot_spectrum` draws it over observed flux of any scale. Pixels
            outside of the range of the domain are NaN and masked.

        Raises
        ------
        InputTypeError, InputValueError
            Labels that cannot be given, a star without a stellar label, no pixel in the range of
            the domain, another medium, or weights that were not trained to predict flux.

        Warns
        -----
        SpectraFMWarning
            Labels out of the range of the training stars; pixels outside of that of the domain.
        """
        return spectra_of_labels(self, labels, spectral_axis, resolving_power, domain, medium)

    def reconstruct(self, spectra, *, medium=None, radial_velocity=None, resolving_power=None, mask_policy=None):
        """Return the spectra that the model sees behind noise, bad pixels and gaps.

        Parameters
        ----------
        spectra, medium, radial_velocity, resolving_power, mask_policy
            As for `infer`.

        Returns
        -------
        `~specutils.SpectrumList`
            One a star, at all of its wavelengths, good and bad, that lie in the range of
            the weights: in vacuum and at rest, ascending, in Angstrom. The flux has the
            slope and the scale of the input, per unit of wavelength (what came in Jy is in
            erg / (s cm2 Angstrom)), and standard deviations. A spectrum that is
            smoothed to be read, see `infer`, comes back as smooth, at its new pixels. It is masked
            within gaps so wide that no continuum is known. A star that cannot be used, that
            has no pixel in the range of the weights, or whose flux these weights do not predict,
            has no pixels, and ``meta["problem"]`` says why.

        Raises
        ------
        InputTypeError, InputValueError
            As `infer`; and spectra that these weights read, but whose flux they do not predict for any star.
        """
        options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        arrays = stars_at_rest(self, spectra, **options)
        return reconstructed_spectra(self, arrays)

    def embed(
        self,
        spectra,
        *,
        medium=None,
        radial_velocity=None,
        resolving_power=None,
        mask_policy=None,
        batch_size=256,
    ):
        """Return the embedding of each star: the mean of the encoder's output.

        Parameters
        ----------
        spectra, medium, radial_velocity, resolving_power, mask_policy, batch_size
            As for `infer`.

        Returns
        -------
        numpy.ndarray
            ``(n_star, embedding_dim)`` float32, dimensionless, with 384 numbers a star for
            ``base``; NaN for stars that cannot be used.

        Raises
        ------
        InputTypeError, InputValueError
            As `infer`.
        """
        spectrum_options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        return embedded(self, spectra, batch_size, **spectrum_options)[0]

    def similar(
        self,
        spectra,
        library,
        n=5,
        *,
        medium=None,
        radial_velocity=None,
        resolving_power=None,
        mask_policy=None,
        batch_size=256,
    ):
        """Find the stars of a library whose spectra are most alike.

        Alike is what the encoder makes of them, which depends on noise and gaps less than
        the spectra themselves do. Distances compare spectra of one kind, those that the same
        domain of the weights reads: across domains, matches are poor.

        Parameters
        ----------
        spectra : `~specutils.Spectrum` or collection, or array_like
            As for `infer`; or embeddings ``(n_star, embedding_dim)`` from `embed`, or that of one star.
        library : `~specutils.Spectrum` or collection, or array_like
            Spectra to search, or their embeddings ``(n_library, embedding_dim)`` from
            `embed` of these weights, which need not be made again for each search; nobody can see
            of what kind of spectra those are. Where it is the same object as ``spectra``, no star is
            a match of itself.
        n : int, optional
            Number of stars to find.
        medium, radial_velocity, resolving_power, mask_policy, batch_size
            As for `infer`, for both where they are spectra.

        Returns
        -------
        `~astropy.table.Table`
            ``n`` rows a star, the nearest first, or as many as the library has: ``row`` of the star in
            ``spectra``, ``match``, that of the other in the library; their ``distance``, dimensionless: the
            root mean square difference of their embeddings, each number in units of its scatter in
            the library; ``identifier`` and ``match_identifier``, the names of both, which are the
            numbers of the rows where embeddings were given. Stars that cannot be used have no rows.

        Raises
        ------
        InputValueError
            A library with fewer than two stars that can be used, embeddings of another length,
            a number of stars that is not positive, or how to read spectra where there are none.

        Warns
        -----
        SpectraFMWarning
            Stars matched with spectra of another domain, where both are spectra.
        """
        spectrum_options = _spectrum_options(medium, radial_velocity, resolving_power, mask_policy)
        return similar_stars(self, spectra, library, n, batch_size=batch_size, **spectrum_options)


def _spectrum_options(medium, radial_velocity, resolving_power, mask_policy):
    """Return the arguments that say what the spectra do not say of themselves, by name."""
    options = {"medium": medium, "radial_velocity": radial_velocity, "resolving_power": resolving_power}
    return options | {"mask_policy": mask_policy}
