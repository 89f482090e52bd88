"""`SpectrumArrays`: a spectrum as plain arrays, the form that the rest of the package uses."""

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d

from ._numerics import DIFFERENCE_TO_NOISE, neighbour_differences
from ._spectral_units import FWHM_OVER_SIGMA, doppler_factor, radial_velocity
from .exceptions import InputTypeError, InputValueError
from .flags import Flag
from .stellarperceptron.tokens import evenly

__all__ = ["COUNTS", "SpectrumArrays"]

# cells that a pixel is made of when spectra are smoothed
_CELLS = 4
# so many cells from a good pixel are covered by it, at least
_CLOSE = 2

# pixels that tell how noisy they are, at least
_FEWEST = 16
# steps around one that say how wide it would be without a gap
_AROUND = 7

_DTYPES = dict.fromkeys(("wavelength", "flux", "sigma"), np.dtype(np.float64)) | {"good": np.dtype(bool)}

#: Names of the counts of pixels that are kept with a spectrum.
COUNTS = ("n_pixel", "n_good", "n_masked", "n_bits", "n_nonfinite_flux", "n_filled", "n_bad_sigma")


@dataclass(frozen=True, eq=False)
class SpectrumArrays:
    """A spectrum as plain arrays, ready to be normalised.

    Arrays may be shared between stars: treat them as read-only.

    Attributes
    ----------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` float64 [Angstrom, vacuum, rest frame], ascending.
    flux : numpy.ndarray
        ``(n_pixel,)`` float64 in ``flux_unit``; flux densities are per wavelength.
    sigma : numpy.ndarray
        ``(n_pixel,)`` float64, standard deviation of the flux; all NaN when
        there are no usable errors.
    good : numpy.ndarray
        ``(n_pixel,)`` bool, the pixels to use.
    flux_unit : str
        Unit of ``flux`` and ``sigma``, in astropy's notation.
    resolving_power : float
        NaN where not known.
    identifier : str
        Name of the star, for the table of results.
    flags : int
        `~spectrafm.flags.Flag` bits known at this stage.
    problem : str
        Why the spectrum cannot be used (then the arrays are empty), or "".
    counts : dict
        ``n_pixel``, ``n_good``, ``n_masked`` (boolean mask, or inverse variance
        of exactly 0), ``n_bits`` (integer mask), ``n_nonfinite_flux``,
        ``n_filled`` (zeros where nothing was measured), ``n_bad_sigma``, as found when it was read.
    medium : {"vacuum", "air"}
        Medium of the wavelengths as given.
    radial_velocity : float
        Velocity that was taken out of its wavelengths [km/s], positive when receding.
    radial_velocity_error : float
        Its error [km/s], where it was measured from the spectrum itself; NaN otherwise.

    Raises
    ------
    InputTypeError
        Not arrays of float64, and bool for ``good``.
    InputValueError
        The arrays are not 1-D of one length, or wavelengths do not ascend.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray
    good: np.ndarray
    flux_unit: str = ""
    resolving_power: float = np.nan
    identifier: str = ""
    flags: int = 0
    problem: str = ""
    counts: dict = field(default_factory=dict)
    medium: str = "vacuum"
    radial_velocity: float = 0.0
    radial_velocity_error: float = np.nan

    def __post_init__(self):
        """Check types, shapes and the order of wavelengths; it is done often, and costs little."""
        arrays = (self.wavelength, self.flux, self.sigma, self.good)
        for array, (name, dtype) in zip(arrays, _DTYPES.items(), strict=True):
            # subclasses may carry units or masks
            if type(array) not in (np.ndarray, np.memmap) or array.dtype != dtype:
                raise InputTypeError(
                    f"{name}: {type(array).__name__} of {getattr(array, 'dtype', 'objects')}; expected a plain numpy "
                    f"array of {dtype}; spectrafm.adapters.from_arrays converts what comes otherwise"
                )
        shapes = [array.shape for array in arrays]
        if len(shapes[0]) != 1 or any(shape != shapes[0] for shape in shapes):
            raise InputValueError(
                f"wavelength, flux, sigma, good: shapes {', '.join(map(str, shapes))}; expected one shape (n_pixel,)"
            )
        at = self.wavelength
        if len(at) and not (at[0] > 0 and at[-1] < np.inf and (at[1:] > at[:-1]).all()):
            raise InputValueError(
                "wavelength: some values are not finite, not positive, or not above the one before; expected them in "
                "ascending order; spectrafm.adapters.from_arrays turns around what descends"
            )

    @property
    def n_good(self):
        """Number of good pixels."""
        return int(np.count_nonzero(self.good))

    @property
    def has_sigma(self):
        """Whether there are usable errors."""
        return bool(np.isfinite(self.sigma[self.good]).any())

    @property
    def snr(self):
        """Median signal-to-noise ratio of the good pixels; NaN without errors."""
        ratio = self.flux[self.good] / self.sigma[self.good]
        ratio = ratio[np.isfinite(ratio)]
        return float(np.median(ratio)) if len(ratio) else np.nan

    @property
    def estimated_snr(self):
        """Signal-to-noise ratio by what good pixels differ from their neighbours, lines included; NaN of under 16."""
        flux = self.flux[self.good]
        if len(flux) < _FEWEST:
            return np.nan
        noise = DIFFERENCE_TO_NOISE * np.median(neighbour_differences(flux))
        return float(np.median(flux) / noise) if noise > 0 else np.inf

    @property
    def spacing(self):
        """Median spacing of the good pixels in ln(wavelength); NaN where there are fewer than two."""
        wavelength = self.wavelength[self.good]
        return float(np.median(np.diff(np.log(wavelength)))) if len(wavelength) > 1 else np.nan

    def moved_to_rest(self, velocity, error):
        """Return the spectrum without a radial velocity that was measured from it.

        Parameters
        ----------
        velocity, error : float
            What it has beside the velocity that was taken out before, and its error [km/s].

        Returns
        -------
        SpectrumArrays
            At rest; its ``radial_velocity`` is the whole, and ``radial_velocity_error`` the error.
        """
        shift = float(doppler_factor(velocity))
        whole = float(radial_velocity(shift * doppler_factor(self.radial_velocity)))
        return dataclasses.replace(
            self, wavelength=self.wavelength / shift, radial_velocity=whole, radial_velocity_error=float(error)
        )

    def subsampled(self, n_pixel):
        """Return the same spectrum with at most so many good pixels, evenly chosen.

        Parameters
        ----------
        n_pixel : int or float
            Largest number of good pixels; infinite for all of them.

        Returns
        -------
        SpectrumArrays
        """
        return self if self.n_good <= n_pixel else dataclasses.replace(self, good=evenly(self.good, n_pixel))

    def gaps_filled(self, n_pixel):
        """Return the same spectrum with its narrowest gaps filled: for pixels finer than what the instrument resolves.

        Parameters
        ----------
        n_pixel : int
            Longest gap [pixels] that is filled; 0 for none.

        Returns
        -------
        SpectrumArrays
            Only the good pixels, and new ones put evenly between them: their flux is interpolated, their
            error is the larger one beside the gap. Bad and missing pixels are treated alike.
        """
        before, after, share = self.gap_weights(n_pixel)
        made = share > 0
        if not made.any():
            return self
        wavelength, flux, sigma = (values[self.good] for values in (self.wavelength, self.flux, self.sigma))

        def filled(values):
            return values[before] + share * (values[after] - values[before])

        return dataclasses.replace(
            self,
            wavelength=filled(wavelength),
            flux=filled(flux),
            sigma=np.where(made, np.fmax(sigma[before], sigma[after]), sigma[before]),
            good=np.ones(len(made), dtype=bool),
        )

    def gap_weights(self, n_pixel):
        """Return the good pixels from which each pixel of `gaps_filled` is interpolated.

        Parameters
        ----------
        n_pixel : int
            As for `gaps_filled`.

        Returns
        -------
        before, after : numpy.ndarray
            ``(n_filled,)`` int, indices among the good pixels: for an interpolated pixel, the two beside the
            gap; for a measured one, twice its own.
        share : numpy.ndarray
            ``(n_filled,)`` weight of the pixel ``after``, that of ``before`` is 1 minus it; 0 for a measured
            pixel.
        """
        steps = np.diff(self.wavelength[self.good])
        before, share = np.arange(self.n_good), np.zeros(self.n_good)
        if n_pixel and len(steps):
            # the smallest one around each step is what it would be without a gap
            n_lacking = np.round(steps / minimum_filter1d(steps, _AROUND)).astype(int) - 1
            # each good pixel, and those that are put between it and the next
            n_from = np.append(np.where(n_lacking > n_pixel, 0, n_lacking), 0) + 1
            before = np.repeat(before, n_from)
            share = (np.arange(len(before)) - (np.cumsum(n_from) - n_from)[before]) / n_from[before]
        return before, np.where(share > 0, before + 1, before), share

    def subset(self, number, n_set, n_pixel):
        """Return the same spectrum with one of several interleaved sets of its good pixels.

        Parameters
        ----------
        number : int
            Number of the set, from 0.
        n_set : int
            Number of sets, which together make the spectrum.
        n_pixel : int
            Pixels in each set, if there are as many: sets overlap if they would be smaller.

        Returns
        -------
        SpectrumArrays
        """
        place = np.flatnonzero(self.good)
        step = np.arange(min(n_pixel, len(place)))
        # every so manyth pixel, around the end, and from one further on where the same pixels would come again
        index = number + n_set * step + step // max(len(place) // math.gcd(n_set, len(place)), 1)
        index %= max(len(place), 1)
        good = np.zeros_like(self.good)
        good[place[index]] = True
        return dataclasses.replace(self, good=good)

    def smoothed(self, resolving_power, pixels_per_fwhm=3.0):
        """Return the spectrum at a lower resolving power.

        Good pixels are averaged with the weights of a Gaussian line-spread function, and
        sampled evenly in ln(wavelength).

        Parameters
        ----------
        resolving_power : float
            Resolving power lambda/FWHM of the result. If that of the spectrum is not known, the
            Gaussian has the full width: the result is then between 0.7 times this value, for a
            spectrum that was no sharper, and this value.
        pixels_per_fwhm : float, optional
            Pixels per resolution element of the result.

        Returns
        -------
        SpectrumArrays
            A pixel is good if most of its line-spread function is covered by good pixels. Bad and
            missing pixels are treated alike. The error of a pixel is that of the mean of the pixels
            within it: the noise of neighbours is correlated, and this is its effect on lines.

        Raises
        ------
        InputValueError
            A resolving power above that of the spectrum.
        """
        if resolving_power > self.resolving_power:
            raise InputValueError(
                f"resolving_power: {resolving_power:g}; expected at most that of the spectrum, {self.resolving_power:g}"
            )
        width = 1 / resolving_power**2 - (1 / self.resolving_power**2 if np.isfinite(self.resolving_power) else 0.0)
        cell = 1 / (resolving_power * pixels_per_fwhm * _CELLS)
        position = np.log(self.wavelength) / cell
        place = np.floor(position).astype(int)
        first = _CELLS * (place[0] // _CELLS)
        n_pixel = (place[-1] - first) // _CELLS + 1

        def summed(weight):
            return np.bincount(place - first, weight, n_pixel * _CELLS)

        def spread(sums):
            if width > 0:
                sums = gaussian_filter1d(sums, np.sqrt(width) / FWHM_OVER_SIGMA / cell, mode="constant")
            middle = slice(_CELLS // 2 - 1, _CELLS // 2 + 1) if width > 0 else slice(None)
            return sums.reshape(n_pixel, _CELLS)[:, middle].mean(axis=1)

        told = self.good & np.isfinite(self.sigma)
        n_good, n_told = (summed(which.astype(float)) for which in (self.good, told))
        weight, weight_told = spread(n_good), spread(n_told)
        # between good pixels that are close together nothing is missing
        steps = np.diff(position[self.good])
        close = max(_CLOSE, int(np.ceil(0.5 * np.quantile(steps, 0.95)))) if len(steps) else _CLOSE
        covered = maximum_filter1d((n_good > 0).astype(float), 2 * close + 1, mode="constant")
        good = (weight > 0) & (spread(covered) > 0.5)
        flux = spread(summed(np.where(self.good, self.flux, 0.0)))
        variance = spread(summed(np.where(told, self.sigma, 0.0) ** 2))
        nothing = np.full(n_pixel, np.nan)
        # of the mean of so many pixels as fall on one
        variance = np.divide(variance, _CELLS * weight_told**2, out=nothing.copy(), where=good & (weight_told > 0))
        return dataclasses.replace(
            self,
            wavelength=np.exp((first + _CELLS * (np.arange(n_pixel) + 0.5)) * cell),
            flux=np.divide(flux, weight, out=nothing, where=good),
            sigma=np.sqrt(variance),
            good=good,
            resolving_power=resolving_power if np.isfinite(self.resolving_power) else np.nan,
        )

    @classmethod
    def unusable(cls, problem, identifier=""):
        """Return an empty spectrum for a star that cannot be used.

        Parameters
        ----------
        problem : str
            Why, in words.
        identifier : str, optional
            Name of the star.

        Returns
        -------
        SpectrumArrays
            Without pixels, with `Flag.BAD_INPUT`.
        """
        return cls(
            *np.empty((3, 0)),
            np.empty(0, dtype=bool),
            identifier=identifier,
            flags=int(Flag.BAD_INPUT),
            problem=problem,
            counts=dict.fromkeys(COUNTS, 0),
        )
