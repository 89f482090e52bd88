"""From plain spectra and known quantities to a padded batch of tokens."""

import numpy as np

from .exceptions import InputValueError

__all__ = ["FLUX_KINDS", "GIVEN_ERRORS", "flux_name", "spectra_to_tokens", "star_batches"]

#: Kinds of flux, by which models that know several tell them apart.
FLUX_KINDS = ("relative_sed", "continuum_normalized")
#: Smallest and largest error that labels without errors are given with in training, in standard deviations of
#: the label.
GIVEN_ERRORS = 0.01, 1.0

# pixels of a batch, padding included
_MOST_PIXELS = 3_000_000


def flux_name(vocabulary, flux_kind):
    """Return the name of the token of a pixel.

    Parameters
    ----------
    vocabulary : Vocabulary
        Names of the model.
    flux_kind : str
        Kind of flux.

    Returns
    -------
    str
        The kind, where the model tells kinds of flux apart, or ``"flux"``.
    """
    return flux_kind if flux_kind in vocabulary.flux else "flux"


def star_batches(spectra, domains, batch_size):
    """Yield stars to be packed together: of one kind, and of similar length.

    Parameters
    ----------
    spectra : sequence of SpectrumArrays
        All stars.
    domains : numpy.ndarray
        ``(n_star,)`` number of the domain of each.
    batch_size : int
        Most stars in a batch; fewer where spectra are so long that memory asks for it.

    Yields
    ------
    number : int
        Of the domain.
    rows : numpy.ndarray
        Of the stars.

    Raises
    ------
    InputValueError
        A size that is not a positive integer.
    """
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise InputValueError(f"batch_size: {batch_size!r}, expected a positive integer")
    n_good = np.array([star.n_good for star in spectra], dtype=int)
    order = np.lexsort((n_good, domains))
    for number in np.unique(domains).tolist():
        rows = order[domains[order] == number]
        while len(rows):
            # the longest of a batch, its last, decides how much each takes
            longest = n_good[rows[:batch_size]]
            n_star = max(np.count_nonzero(longest * np.arange(1, len(longest) + 1) <= _MOST_PIXELS), 1)
            yield number, rows[:n_star]
            rows = rows[n_star:]


def spectra_to_tokens(spectra, vocabulary, known=None, flux_kind="", smallest_given=0.0):
    """Pack spectra of any length, and what else is known, into one batch.

    Parameters
    ----------
    spectra : sequence of SpectrumArrays
        Normalised; only good pixels are used.
    vocabulary : Vocabulary
        Names and standardisation of the model.
    known : dict of str to (numpy.ndarray, numpy.ndarray), optional
        Values and errors ``(n_star,)`` of named quantities in the registry's
        units; NaN where not known. An error of 0 is none.
    flux_kind : str, optional
        ``"relative_sed"`` or ``"continuum_normalized"``, see `flux_name`.
    smallest_given : float, optional
        Errors of labels that are smaller count as none, see `~spectrafm.weights_info.Domain`.

    Returns
    -------
    Tokens
        Pixels first, then quantities; on the CPU.
    """
    known = dict(known or {})
    unknown = np.full(len(spectra), np.nan)
    if "ln_resolving_power" in vocabulary:
        known["ln_resolving_power"] = (np.log([s.resolving_power for s in spectra]), unknown)
    n_star, n_pixel = len(spectra), max((s.n_good for s in spectra), default=0)
    n_token = n_pixel + len(known)
    token = np.zeros((n_star, n_token), dtype=np.int64)
    value, sigma = np.full((2, n_star, n_token), np.nan)
    wavelength = np.zeros((n_star, n_token))
    flux_token = vocabulary.tokens([flux_name(vocabulary, flux_kind)])[0]
    for row, spectrum in enumerate(spectra):
        good = slice(0, spectrum.n_good)
        token[row, good] = flux_token
        value[row, good] = spectrum.flux[spectrum.good]
        sigma[row, good] = spectrum.sigma[spectrum.good]
        wavelength[row, good] = spectrum.wavelength[spectrum.good]
    for column, (name, (values, errors)) in enumerate(known.items(), start=n_pixel):
        token[:, column] = its_token = vocabulary.tokens([name])[0]
        standardized = vocabulary.standardize_sigma(its_token, values, errors)
        exact = (standardized == 0) | (standardized < smallest_given)
        value[:, column], sigma[:, column] = values, np.where(exact, np.nan, errors)
    return vocabulary.make_tokens(token, value, sigma, wavelength).compact()
