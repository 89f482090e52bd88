"""A network with all that is needed to ask it about spectra."""

from dataclasses import replace

import numpy as np
import torch

from ._tokens import flux_name, spectra_to_tokens
from .continuum import normalizer_from_dict
from .exceptions import InputValueError
from .flags import Flag
from .residual_head import encode_for_head

__all__ = ["Weights"]


class Weights:
    """A network, what it was trained on, and the steps from a spectrum to its answers.

    What `spectrafm.SpectraFM` gives its users is made of these steps: `prepare` cuts and
    normalises a spectrum, `perceive` encodes it, and `predict_labels`, `request_flux` and
    `distances` ask about it.

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
        Predicts the labels in place of the network, see `spectrafm.SpectraFM.fine_tune`.
    lines : LineCorrection, optional
        Corrects the lines of normalised spectra before the network sees them, see
        `spectrafm.SpectraFM.fine_tune`.
    """

    def __init__(self, model, info, density=None, head=None, lines=None):
        self.model, self.info, self._head, self._lines = model, info, head, lines
        self._density = {k: v.numpy() for k, v in (density or {}).items()}
        self._normalizers = [normalizer_from_dict(domain.normalizer) for domain in info.domains]
        self._hash, self._base, self._folder = "", None, None

    def normalizer_of(self, domain):
        """Return what spectra of a domain are normalised by.

        Parameters
        ----------
        domain : str
            Name of the domain.

        Returns
        -------
        ContinuumNormalizer or MedianScaler

        Raises
        ------
        InputValueError
            There is no such domain; the message lists those that there are.
        """
        return self._normalizers[self.info.number_of(domain)]

    def adapted(self, model, domain, *, base_domain=None, head=None, lines=None, **changes):
        """Return weights for one domain that are derived from these.

        Parameters
        ----------
        model : StellarPerceptron
            Their network.
        domain : Domain
            What they read.
        base_domain : str, optional
            Domain of these weights whose density they take over; that of the same name when left out.
        head : ResidualHead, optional
            Tells their labels.
        lines : LineCorrection, optional
            Puts lines right before their network sees them.
        **changes
            Fields of `WeightsInfo` that differ.

        Returns
        -------
        Weights
            Of the same class as these.
        """
        before = base_domain or domain.name
        density = {
            f"{kind}.{domain.name}": torch.from_numpy(self._density[f"{kind}.{before}"])
            for kind in ("mean", "whiten")
            if f"{kind}.{before}" in self._density
        }
        new = type(self)(model, replace(self.info, domains=(domain,), **changes), density, head, lines)
        new._base = self if self._hash else None
        return new

    def prepare(self, arrays, number):
        """Cut a spectrum to the range of a domain, and normalise it as in training.

        Parameters
        ----------
        arrays : SpectrumArrays
            One star, from `~spectrafm.weights_info.WeightsInfo.assign_domains`.
        number : int
            Number of its domain.

        Returns
        -------
        SpectrumArrays
            With the flag ``NO_OVERLAP`` where nothing good is inside.
        """
        inside = self.info.domains[number].cut(arrays)
        if arrays.n_good and not inside.n_good:
            inside = replace(inside, flags=arrays.flags | int(Flag.NO_OVERLAP))
        prepared = self._normalizers[number](inside)
        return prepared if self._lines is None else self._lines(prepared)

    def tokens(self, prepared, number, known=None):
        """Return the token batch of prepared spectra, subsampled to the context length of the model.

        Parameters
        ----------
        prepared : sequence of SpectrumArrays
            Stars of one kind, from `prepare`.
        number : int
            Number of their domain.
        known : dict of str to (numpy.ndarray, numpy.ndarray), optional
            What else is known, as `spectrafm._known.known_quantities` returns it.

        Returns
        -------
        Tokens
            A padded batch, pixels first.
        """
        domain = self.info.domains[number]
        most = self.model.most_pixels(len(known or ()))
        prepared = [domain.as_network_input(star, most) for star in prepared]
        settings = {"flux_kind": domain.flux_kind, "smallest_given": domain.smallest_given}
        return spectra_to_tokens(prepared, self.model.vocabulary, known, **settings)

    def perceive(self, prepared, number, known=None, alone=None):
        """Encode spectra, together with known quantities.

        Parameters
        ----------
        prepared, number, known
            As for `tokens`.
        alone : Perception, optional
            From this method, of the same spectra without known quantities, where it is at hand; saves a head from
            having them encoded once more.

        Returns
        -------
        Perception
            What `predict_labels`, `request_flux` and `distances` can be asked about.
        """
        tokens = self.tokens(prepared, number, known)
        if self._head is None:
            return self.model.perceive_tokens(tokens)
        return encode_for_head(self.model, tokens, alone)

    def predict_labels(self, perception, labels):
        """Predict labels with the network, or with the head that takes its place.

        Parameters
        ----------
        perception : Perception
            From `perceive`.
        labels : sequence of str
            Labels that the domain of these spectra has.

        Returns
        -------
        values, errors : numpy.ndarray
            ``(n_star, n_label)`` in the units of the registry, errors not yet calibrated.
        """
        if self._head is None:
            return self.model.request(perception, labels)
        return self._head(self.model, perception, labels)

    def request_flux(self, perception, number, wavelength):
        """Ask for normalised flux.

        Parameters
        ----------
        perception : Perception
            From `perceive`.
        number : int
            Number of the domain of these stars.
        wavelength : numpy.ndarray
            ``(n_pixel,)`` vacuum wavelengths at rest [Angstrom].

        Returns
        -------
        flux, error : numpy.ndarray
            ``(n_star, n_pixel)``, relative to what the normaliser of the domain divides by.

        Raises
        ------
        InputValueError
            Weights that predict no flux of this domain.
        """
        domain = self.info.domains[number]
        if not domain.predicts_flux:
            raise InputValueError(
                f"domain: these weights predict no flux of {domain.name}; they predict {', '.join(domain.labels)}"
            )
        name = flux_name(self.model.vocabulary, domain.flux_kind)
        return self.model.request(perception, np.full(len(wavelength), name), wavelength)

    def distances(self, perception, domain):
        """Return how far the embeddings lie from those of the training stars.

        Parameters
        ----------
        perception : Perception
            From `perceive`, of spectra without anything else known.
        domain : str
            Name of the domain of these spectra.

        Returns
        -------
        numpy.ndarray
            ``(n_star,)`` Mahalanobis distance divided by the square root of
            its dimension: about 1 for training stars; NaN for empty stars and
            where the weights carry no density.
        """
        if f"mean.{domain}" not in self._density:
            return np.full(len(perception), np.nan)
        z = (perception.pooled - self._density[f"mean.{domain}"]) @ self._density[f"whiten.{domain}"]
        return np.sqrt((z**2).mean(axis=1))
