"""Names of tokens, and how their values are standardised."""

import numpy as np
import torch

from ..exceptions import ConfigError, InputValueError
from .tokens import Tokens, as_names, as_native

__all__ = ["Vocabulary", "sample_flux"]

# squares and sums of larger standardised values are beyond single precision
_LARGEST = 1e10
# stars, evenly chosen, whose flux is standardised by, and how many of them are normalised at a time
_N_SAMPLE, _AT_A_TIME = 4096, 256


def sample_flux(table, stars, divisor=None):
    """Return the flux of some stars of a table as a model sees it, to standardise it by.

    Parameters
    ----------
    table : TokenTable
        The spectra.
    stars : array_like of int
        Stars to choose from; some thousands of them, evenly, where there are more.
    divisor : callable, optional
        What the flux is divided by, as for `TrainingGenerator`: what comes out does not depend on the unit then.

    Returns
    -------
    numpy.ndarray
        ``(n, n_pixel)`` float32; NaN where there is no flux, no wavelength or no positive divisor.
    """
    stars = np.asarray(stars)
    stars = stars[:: max(len(stars) // _N_SAMPLE, 1)]
    found = np.empty((len(stars), np.shape(table.flux)[1]), dtype=np.float32)
    for start in range(0, len(stars), _AT_A_TIME):
        some = stars[start : start + _AT_A_TIME]
        flux = as_native(table.flux[some], np.float32)
        at = as_native(table.wavelength if np.ndim(table.wavelength) == 1 else table.wavelength[some], np.float64)
        at = np.broadcast_to(at, flux.shape)
        good = np.isfinite(flux) & (at > 0) & (at < np.inf)
        if divisor is not None:
            by = divisor(at, flux, good).astype(np.float32)
            good = good & np.isfinite(by) & (by > 0)
            flux = flux / np.where(by > 0, by, np.nan)
        found[start : start + _AT_A_TIME] = np.where(good, flux, np.nan)
    return found


class Vocabulary:
    """Names of tokens and their standardisation, which is frozen for each name once it is set.

    Parameters
    ----------
    names : str or sequence of str
        Names; token ``i + 1`` is ``names[i]``, token 0 is padding.
    flux : str or sequence of str, optional
        Which of them are the flux of a pixel.
    log : str or sequence of str, optional
        Names whose logarithm is standardised (positive quantities).
    rows : sequence of int, optional
        Row of the embedding of each name; one of its own when left out.
    mean, std : array_like, optional
        Standardisation of each name, finite, and positive for ``std``; 0 and 1 when left out.
    fitted : bool or sequence of bool, optional
        Whether the standardisation of all names, or of each, is final; by default, whether it was given.

    Raises
    ------
    ConfigError
        Repeated names, arrays of another length, or numbers that cannot be used.
    """

    def __init__(self, names, flux=(), log=(), rows=None, mean=None, std=None, fitted=None):
        self.names, self.flux, self.log = as_names(names), as_names(flux), as_names(log)
        n_name = len(self.names)
        problems = []
        if len(set(self.names)) != n_name:
            problems.append("names are repeated")
        problems += [f"{n!r} is not among the names" for n in (*self.flux, *self.log) if n not in self.names]
        fitted = (mean is not None) if fitted is None else fitted
        fitted = np.full(n_name, fitted) if np.ndim(fitted) == 0 else np.asarray(fitted)
        given = {
            "rows": np.arange(1, n_name + 1) if rows is None else np.asarray(rows),
            "mean": np.zeros(n_name) if mean is None else np.asarray(mean),
            "std": np.ones(n_name) if std is None else np.asarray(std),
            "fitted": fitted,
        }
        usable = {
            "rows": ("iu", lambda rows: rows >= 0, "integers of 0 or more"),
            "mean": ("fiu", np.isfinite, "finite numbers"),
            "std": ("fiu", lambda std: np.isfinite(std) & (std > 0), "positive and finite numbers"),
            "fitted": ("b", lambda fitted: np.ones(fitted.shape, dtype=bool), "True or False"),
        }
        for key, array in given.items():
            kinds, is_right, what = usable[key]
            if array.shape != (n_name,):
                many = f"{len(array)} entries" if array.ndim == 1 else f"shape {array.shape}"
                problems.append(f"{key} has {many} for {n_name} names")
            elif n_name and array.dtype.kind not in kinds:
                problems.append(f"{key} must be {what}, not of type {array.dtype}")
            elif n_name and not is_right(array).all():
                wrong = np.flatnonzero(~is_right(array))[0]
                problems.append(f"{key} must be {what}, not {array[wrong]} as of {self.names[wrong]!r}")
        if problems:
            raise ConfigError("Vocabulary: " + "; ".join(problems))
        self._token = {name: i for i, name in enumerate(self.names, start=1)}
        self.rows = np.concatenate(([0], given["rows"].astype(np.int64)))
        self.mean = np.concatenate(([0.0], given["mean"].astype(np.float64)))
        self.std = np.concatenate(([1.0], given["std"].astype(np.float64)))
        self.is_log = np.array([False, *(name in self.log for name in self.names)])
        #: Whether the standardisation of each name is final, by token.
        self.is_fitted = np.concatenate(([True], given["fitted"].astype(bool)))

    def __contains__(self, name):
        """Whether there is a token of this name."""
        return name in self._token

    def __len__(self):
        """Return the number of names."""
        return len(self.names)

    @property
    def fitted(self):
        """Whether any name is standardised for good; set it for all of them."""
        return bool(self.is_fitted[1:].any())

    @fitted.setter
    def fitted(self, fitted):
        self.is_fitted[1:] = fitted

    def tokens(self, names, argument="names"):
        """Return the tokens of names.

        Parameters
        ----------
        names : array_like of str
            Any shape.
        argument : str, optional
            Name of the user's argument, for the error message.

        Returns
        -------
        numpy.ndarray
            int64, of the same shape.

        Raises
        ------
        InputValueError
            A name without a token; the message lists the known ones.
        """
        names = np.asarray(names, dtype=str)
        unique, inverse = np.unique(names, return_inverse=True)
        unknown = [str(name) for name in unique if name not in self._token]
        if unknown:
            raise InputValueError(f"{argument}: {unknown} not known to this model; known are: {', '.join(self.names)}")
        return np.array([self._token[name] for name in unique], dtype=np.int64)[inverse].reshape(names.shape)

    def standardize(self, token, value):
        """Return standardised values.

        Parameters
        ----------
        token, value : array_like
            Tokens and physical values of one shape.

        Returns
        -------
        numpy.ndarray
            float64; NaN stays NaN. The logarithm of what is not positive is NaN, and so is what is further than
            1e10 standard deviations from the mean, which single precision cannot square.
        """
        value = np.asarray(value, dtype=np.float64)
        is_log = self.is_log[token]
        if is_log.any():
            logarithm = np.log(np.where(is_log & (value > 0), value, 1.0))
            value = np.where(is_log, np.where(value > 0, logarithm, np.nan), value)
        standardized = (value - self.mean[token]) / self.std[token]
        return np.where(np.abs(standardized) <= _LARGEST, standardized, np.nan)

    def standardize_sigma(self, token, value, sigma):
        """Return standardised errors.

        Parameters
        ----------
        token, value, sigma : array_like
            Tokens, physical values and their errors, of one shape.

        Returns
        -------
        numpy.ndarray
            float64; NaN stays NaN, and so is the error of the logarithm of what is not positive.
        """
        sigma = np.asarray(sigma, dtype=np.float64)
        is_log = self.is_log[token]
        if is_log.any():
            value = np.asarray(value, dtype=np.float64)
            sigma = np.where(is_log, sigma / np.where(is_log & (value > 0), value, np.nan), sigma)
        return sigma / self.std[token]

    def destandardize(self, token, value, sigma):
        """Return physical values and errors.

        Parameters
        ----------
        token, value, sigma : array_like
            Tokens, standardised values and errors, of one shape.

        Returns
        -------
        value, sigma : numpy.ndarray
            float64, physical.
        """
        value = np.asarray(value, dtype=np.float64) * self.std[token] + self.mean[token]
        sigma = np.asarray(sigma, dtype=np.float64) * self.std[token]
        is_log = self.is_log[token]
        if is_log.any():
            value = np.where(is_log, np.exp(np.where(is_log, value, 0.0)), value)
            sigma = np.where(is_log, sigma * value, sigma)
        return value, sigma

    def scale(self, name):
        """Return how one quantity is standardised.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        mean, std : float
            Of the value, or of its logarithm.
        is_log : bool
            Whether it is the logarithm that is standardised.
        """
        token = self.tokens(name).item()
        return float(self.mean[token]), float(self.std[token]), bool(self.is_log[token])

    def make_tokens(self, token, value, sigma, wavelength):
        """Standardise and pack a batch; what is not known becomes padding.

        Parameters
        ----------
        token : numpy.ndarray
            ``(n_star, n_token)`` int64, 0 where padded.
        value, sigma : numpy.ndarray
            ``(n_star, n_token)`` physical values and errors, NaN where not known.
        wavelength : numpy.ndarray
            ``(n_star, n_token)`` float64 [Angstrom]; 0 or NaN for none. What is no flux has none, where the
            vocabulary says what is.

        Returns
        -------
        Tokens
            Of the same shape, on the CPU.
        """
        standardized = self.standardize(token, value)
        wavelength = np.asarray(wavelength, dtype=np.float64)
        wavelength = np.where(np.isfinite(wavelength), wavelength, 0.0)
        there = (token != 0) & np.isfinite(standardized)
        # the flux of a pixel that is nowhere says nothing
        is_flux = self._flux_mask[token]
        there &= ~is_flux | (wavelength > 0)
        has_wavelength = there & is_flux if self.flux else there
        # single precision may make errors infinite, which are not known either
        sigma = as_native(self.standardize_sigma(token, value, sigma), np.float32)
        sigma = np.where(there & (sigma >= 0) & (sigma < np.inf), sigma, np.float32(np.nan))
        return Tokens(
            torch.from_numpy(np.where(there, token, 0)),
            torch.from_numpy(np.where(there, standardized, 0.0).astype(np.float32)),
            torch.from_numpy(sigma),
            torch.from_numpy(np.where(has_wavelength, wavelength, 0.0)),
        )

    @property
    def _flux_mask(self):
        return np.array([False, *(name in self.flux for name in self.names)])

    def fit(self, table, stars, divisor=None):
        """Set mean and standard deviation, of names that have none yet, from the training stars.

        Parameters
        ----------
        table : TokenTable
            Spectra and quantities.
        stars : array_like of int
            The training stars.
        divisor : callable, optional
            What spectra are divided by before a model sees them, see `TrainingGenerator`.
        """
        for name in self.names:
            if self.is_fitted[self._token[name]]:
                continue
            if name in self.flux:
                is_its = np.broadcast_to(table.flux_name, np.shape(table.flux)[1]) == name
                values = sample_flux(table, stars, divisor)[:, is_its]
            elif name in table.names:
                values = table.column(name)[stars]
            else:
                continue
            self.fit_name(name, [values])

    def fit_name(self, name, samples):
        """Set mean and standard deviation of one name, if there are any values.

        Parameters
        ----------
        name : str
            The name.
        samples : list of numpy.ndarray
            Values, each set of which counts alike, however long it is; NaN is left out, and so is what lies absurdly
            far from the others.
        """
        token = self._token[name]
        moments = []
        for values in samples:
            values = np.asarray(values, dtype=np.float64)
            values = values[np.isfinite(values)]
            values = np.log(values[values > 0]) if name in self.log else values
            values = _without_absurd(values)
            if values.size:
                moments.append((values.mean(), values.var(), np.abs(values).max()))
        if moments:
            means, variances, largest = np.array(moments).T
            self.mean[token] = means.mean()
            spread = np.sqrt(variances.mean() + means.var())
            # a constant (a code that is always 1) keeps its scale
            self.std[token] = spread if spread > 1e-6 * largest.max() else 1.0
            self.is_fitted[token] = True

    def to_dict(self):
        """Return everything as plain JSON types.

        Returns
        -------
        dict
        """
        return {
            "names": list(self.names),
            "flux": list(self.flux),
            "log": list(self.log),
            "rows": self.rows[1:].tolist(),
            "mean": self.mean[1:].tolist(),
            "std": self.std[1:].tolist(),
            "fitted": self.is_fitted[1:].tolist(),
        }


def _without_absurd(values):
    """Return values less those so far from all others that `Vocabulary.standardize` can make nothing of them."""
    if not values.size:
        return values
    some = values[:: max(len(values) // 100_000, 1)]
    middle = np.median(some)
    near = np.abs(values - middle) <= _LARGEST * max(np.median(np.abs(some - middle)), 1.0)
    return values if near.all() else values[near]
