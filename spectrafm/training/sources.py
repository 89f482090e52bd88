"""Where the stars of a training stream come from: emulators, and libraries of real spectra."""

import numpy as np
import torch

from .._spectral_units import SPEED_OF_LIGHT
from ..exceptions import InputValueError
from ..synthesis.emulator import load_emulator
from ..synthesis.instrument import observe
from ..synthesis.labels import draw_abundances, draw_labels
from .observation import joined

__all__ = ["EmulatorSource", "LibrarySource", "MixedEmulatorSource", "MovedLibrarySource"]

# shifts and broadening need this much beside the range [km / s], in ln(wavelength)
_MARGIN = 600.0 / SPEED_OF_LIGHT
# labels drawn from the pool move by this much: each star is a new one
_JITTER = {"teff": 30.0, "logg": 0.03, "fe_h": 0.03, "vmicro": 0.05, "c12_c13": 0.5}
_ABUNDANCE_JITTER = 0.03
# scatter of abundances about the trends of the Galaxy, in units of that of `draw_labels`
_GALACTIC_SCATTER = 0.3
# regions of the spectrum in which stars have more or less of the lines of another list, and how much that scatters
_N_REGION, _SCATTER = 48, 0.5
# fraction of the stars of a library that are moved, and how far: normal deviates of these widths, teff in parts of it
_MOVED = 0.75
_MOVES = {"teff": 0.03, "logg": 0.3, "fe_h": 0.2, "vmicro": 0.1, "c12_c13": 0.0}
_ABUNDANCE_MOVE = 0.1
# the factor by which a move may change the flux of a pixel, up or down
_LARGEST_FACTOR = float(np.e)
# projected rotation [km / s], even in its logarithm, of cool stars and of stars hotter than this; some cool stars, as
# those of young clusters, rotate as fast as hot ones
_HOT = 6200.0
_VSINI = ((1.0, 15.0), (1.0, 80.0))
_COOL_AND_FAST = 0.15


class _Source:
    """What sources have in common."""

    #: Whether fluxes are relative to a number, and not to the continuum.
    relative = False

    def settings(self):
        """Return the settings that must stay the same when training is resumed, as plain JSON types.

        Returns
        -------
        dict
        """
        return self._settings


class EmulatorSource(_Source):
    """Synthetic stars.

    Labels come from a pool of stars drawn by `spectrafm.synthesis.draw_labels`, and are moved by a small random
    amount each time, so that no star comes twice.

    Parameters
    ----------
    emulator : str or Emulator
        Emulator, or the name of a packaged one.
    n_pool : int, optional
        Number of stars in the pool.
    seed : int, optional
        Seed of the pool.
    device : str or torch.device, optional
        Where spectra are made.
    galactic : float, optional
        Fraction of the stars whose abundances scatter about the trends of the Galaxy as real ones do; the scatter
        of the other stars is three times as large.

    Attributes
    ----------
    names : tuple of str
        Names of the quantities of each star.
    wavelength_range : tuple of float
        Where stars can be observed [Angstrom, vacuum].
    resolving_power : float
        Largest resolving power.
    device : torch.device
        Where spectra are made.
    """

    def __init__(self, emulator, n_pool=100_000, seed=0, device="cpu", galactic=0.0):
        self.emulator = _single_precision(emulator, device)
        self.names, self.device = (*self.emulator.label_names, "vsini"), torch.device(device)
        self._settings = {"emulator": self.emulator.info.name, "n_pool": n_pool, "seed": seed, "galactic": galactic}
        self.wavelength_range = tuple(self.emulator.info.window)
        self.resolving_power = self.emulator.base_resolving_power
        names = self.emulator.label_names
        scatter = np.where(np.arange(n_pool) < galactic * n_pool, _GALACTIC_SCATTER, 1.0)
        stars = (draw_labels(seed, i, scatter[i]) for i in range(n_pool))
        pool = np.array([[star[name] for name in names] for star in stars])
        low, high = np.array(list(self.emulator.label_ranges.values())).T
        pool = pool[((pool >= low) & (pool <= high)).all(axis=1)]
        if not len(pool):
            raise InputValueError(f"n_pool: none of {n_pool} stars within the range of {self.emulator!r}; draw more")
        jitter = [_JITTER.get(name, _ABUNDANCE_JITTER) for name in names]
        self.pool, self.jitter, self.low, self.high = _tensors(device, pool, jitter, low, high)

    def draw(self, n_star, generator):
        """Draw stars.

        Parameters
        ----------
        n_star : int
            Number of stars.
        generator : torch.Generator
            Source of the draws.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_name)`` what is known of each, float32.
        """
        device = generator.device
        row = torch.randint(len(self.pool), (n_star,), generator=generator, device=device)
        labels = _near(self.pool[row], self.jitter, (self.low, self.high), generator)
        ends = torch.log(torch.tensor(_VSINI, device=device))  # (2, 2)
        share, chance = torch.rand(2, n_star, generator=generator, device=device)
        fast = ((labels[:, self.emulator.label_names.index("teff")] > _HOT) | (chance < _COOL_AND_FAST)).long()
        vsini = torch.exp(ends[fast, 0] + share * (ends[fast, 1] - ends[fast, 0]))
        return torch.cat((labels, vsini[:, None]), dim=1)

    def flux(self, stars, wavelength, resolving_power, radial_velocity):
        """Return what an instrument without noise sees.

        Parameters
        ----------
        stars : torch.Tensor
            From `draw`.
        wavelength : torch.Tensor
            ``(n_star, n_pixel)`` float64 [Angstrom, vacuum].
        resolving_power, radial_velocity : torch.Tensor
            ``(n_star,)``, the latter in km / s.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_pixel)``, continuum-normalised.
        """
        return _flux(self.emulator, stars, wavelength, resolving_power, radial_velocity)

    def values(self, stars):
        """Return what is known of stars, and its errors.

        Parameters
        ----------
        stars : torch.Tensor
            From `draw`.

        Returns
        -------
        values, errors : torch.Tensor
            ``(n_star, n_name)``; errors 0.
        """
        known = stars[:, : len(self.names)]
        return known, torch.zeros_like(known)


class MixedEmulatorSource(EmulatorSource):
    """Synthetic stars with a mixture of two line lists that varies from region to region of the spectrum.

    Lines of real stars are not known better than line lists agree: from such stars a model learns how large the errors
    of labels are when the lines differ from those of one list. As each star has a mixture of its own, no list
    can be learnt by heart.

    Parameters
    ----------
    emulator : str or Emulator
        As of `EmulatorSource`.
    other : str or Emulator
        Emulator of the same labels, made with another line list, or its name or folder. The mean share of this list
        is uniform between 0 and 1; within a star it scatters by 0.5 from region to region.
    **settings
        As for `EmulatorSource`.

    Raises
    ------
    InputValueError
        Emulators of other labels, or of another range.
    """

    def __init__(self, emulator, other, **settings):
        super().__init__(emulator, **settings)
        self.other = _single_precision(other, self.device)
        for told, own, its in (
            ("labels", self.emulator.label_names, self.other.label_names),
            ("window", tuple(self.emulator.info.window), tuple(self.other.info.window)),
        ):
            if own != its:
                raise InputValueError(f"other: its {told} are {its}, expected {own} as of the emulator; make it alike")
        self._settings |= {"other": self.other.info.name}

    def draw(self, n_star, generator):
        """Draw stars.

        Parameters
        ----------
        n_star, generator
            As for `EmulatorSource.draw`.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_name + n_region)`` what is known of each, and its shares of the other list.
        """
        stars = super().draw(n_star, generator)
        settings = {"generator": generator, "device": generator.device}
        average, scatter = torch.rand(n_star, 1, **settings), torch.randn(n_star, _N_REGION, **settings)
        return torch.cat((stars, average + _SCATTER * scatter), dim=1)

    def flux(self, stars, wavelength, resolving_power, radial_velocity):
        """Return what an instrument without noise sees, as `EmulatorSource.flux`.

        Parameters
        ----------
        stars, wavelength, resolving_power, radial_velocity
            As for `EmulatorSource.flux`.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_pixel)``, continuum-normalised.
        """
        stars, shares = stars[:, :-_N_REGION], stars[:, -_N_REGION:]
        low, high = np.log(self.wavelength_range)
        region = ((torch.log(wavelength) - low) / (high - low) * (_N_REGION - 1)).clamp(0, _N_REGION - 1)
        seen = wavelength, resolving_power, radial_velocity
        own, its = (_flux(emulator, stars, *seen) for emulator in (self.emulator, self.other))
        # no line is deeper than the continuum is high
        return (own + joined(shares, region) * (its - own)).clamp(min=0.0)


class LibrarySource(_Source):
    """Real stars with labels, whose spectra are better than what instruments give.

    Parameters
    ----------
    data : LabelledSpectra
        The library.
    rows : array_like of int
        Stars to draw from.
    names : sequence of str
        Quantities to include; all of the library when left out.
    resolving_power : float
        Resolving power of the spectra.
    device : str or torch.device, optional
        Where the spectra are kept.

    Attributes
    ----------
    names, wavelength_range, resolving_power, device
        As of `EmulatorSource`.
    """

    relative = True

    def __init__(self, data, rows, names=None, *, resolving_power, device="cpu"):
        self.names = tuple(data.labels if names is None else names)
        self.resolving_power, self.device = float(resolving_power), torch.device(device)
        ends = np.log(data.wavelength[[0, -1]])
        # even in the logarithm, and fine enough for the closest pixels
        n_pixel = int(np.ceil((ends[1] - ends[0]) / np.diff(np.log(data.wavelength)).min())) + 1
        self.wavelength = np.exp(np.linspace(*ends, n_pixel))
        self.wavelength_range = (self.wavelength[0] * np.exp(_MARGIN), self.wavelength[-1] * np.exp(-_MARGIN))
        flux = np.stack([_even(data.wavelength, data.flux[row], self.wavelength) for row in rows])
        nothing = np.full(len(data.flux), np.nan)
        values = np.stack([data.labels[name] for name in self.names], axis=1)[rows]
        errors = np.stack([data.label_errors.get(name, nothing) for name in self.names], axis=1)[rows]
        self._flux, self._values, self._errors = _tensors(device, flux, values, errors)
        self._settings = {"n_star": len(self._flux), "resolving_power": self.resolving_power}

    def draw(self, n_star, generator):
        """Draw stars, as `EmulatorSource.draw`.

        Parameters
        ----------
        n_star : int
            Number of stars.
        generator : torch.Generator
            Source of the draws.

        Returns
        -------
        torch.Tensor
            ``(n_star,)`` their places among the rows.
        """
        return torch.randint(len(self._flux), (n_star,), generator=generator, device=generator.device)

    def flux(self, stars, wavelength, resolving_power, radial_velocity):
        """Return what an instrument without noise sees, as `EmulatorSource.flux`.

        Parameters
        ----------
        stars, wavelength, resolving_power, radial_velocity
            As for `EmulatorSource.flux`.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_pixel)``, relative.
        """
        return observe(
            self._spectra(stars),
            self.wavelength,
            self.resolving_power,
            resolving_power=resolving_power,
            radial_velocity=radial_velocity,
            at=wavelength,
        )

    def values(self, stars):
        """Return what is known of stars, and its errors.

        Parameters
        ----------
        stars : torch.Tensor
            From `draw`.

        Returns
        -------
        values, errors : torch.Tensor
            ``(n_star, n_name)``; NaN where not known.
        """
        return self._values[stars], self._errors[stars]

    def _spectra(self, stars):
        """Return the spectra themselves, ``(n_star, n_pixel)``."""
        return self._flux[stars]


class MovedLibrarySource(LibrarySource):
    """Real stars, most of them moved to labels near their own with an emulator.

    The spectrum of a star is multiplied by the ratio of two synthetic spectra, for the new
    labels and for its own. Errors of synthetic spectra mostly cancel in the ratio, so that
    few real stars represent all stars around them, instead of being learnt by heart.
    Unknown abundances follow the trends of the Galaxy in both spectra, and are moved by a
    small amount as well. Stars with missing labels, or outside the range of the emulator, are not moved.

    Parameters
    ----------
    data, rows, names, resolving_power, device
        As for `LibrarySource`.
    emulator : str or Emulator
        Emulator, or the name of a packaged one.
    seed : int, optional
        Seed of the abundances that are not known.
    """

    def __init__(self, data, rows, names=None, *, resolving_power, device="cpu", emulator, seed=0):
        super().__init__(data, rows, names, resolving_power=resolving_power, device=device)
        self.emulator = _single_precision(emulator, device)
        self._settings |= {"moved_by": self.emulator.info.name, "seed": seed}
        labels = self.emulator.label_names
        missing = [name for name in ("teff", "logg", "fe_h") if name not in data.labels]
        if missing:
            raise InputValueError(f"data: no {', '.join(missing)} in the library, so its stars cannot be moved")
        known = np.stack([data.labels[name] for name in ("teff", "logg", "fe_h")], axis=1)[rows]
        own = np.full((len(known), len(labels)), np.nan)
        for i in np.flatnonzero(np.isfinite(known).all(axis=1)):
            star = draw_abundances(seed, i, *known[i])
            own[i] = [star[name] for name in labels]
        low, high = np.array(list(self.emulator.label_ranges.values())).T
        moves = [_MOVES.get(name, _ABUNDANCE_MOVE) for name in labels]
        own, moves, self._low, self._high = _tensors(device, own, moves, low, high)
        within = ((own >= self._low) & (own <= self._high)).all(dim=1)  # NaN is not
        self._own = torch.where(within[:, None], own, self._low)
        self._movable = within & (self.emulator.distance(self._own) <= self.emulator.info.reach)
        self._size = moves.repeat(len(own), 1)
        teff = labels.index("teff")
        self._size[:, teff] *= self._own[:, teff]
        shared = [name for name in self.names if name in labels]
        self._named, self._moved = [self.names.index(k) for k in shared], [labels.index(k) for k in shared]
        first, last = self.emulator.info.window
        self._covered = slice(*np.searchsorted(self.wavelength, (first, last)))
        # a few at a time, for the sake of memory
        self._synthetic = torch.cat([self._expected(part) for part in self._own.split(64)])

    def _expected(self, labels):
        """Return synthetic spectra as the library would have them, where the emulator covers it."""
        at = self.wavelength[self._covered]
        return self.emulator.flux(labels, resolving_power=self.resolving_power, wavelength=at)

    def draw(self, n_star, generator):
        """Draw stars, and where they are moved to.

        Parameters
        ----------
        n_star : int
            Number of stars.
        generator : torch.Generator
            Source of the draws.

        Returns
        -------
        torch.Tensor
            ``(n_star, 1 + n_label)`` place among the rows, and labels of the emulator, NaN where
            a star is not moved.
        """
        row = super().draw(n_star, generator)
        labels = _near(self._own[row], self._size[row], (self._low, self._high), generator)
        chance = torch.rand(n_star, generator=generator, device=generator.device)
        moved = self._movable[row] & (chance < _MOVED)
        moved &= self.emulator.distance(labels) <= self.emulator.info.reach
        return torch.cat((row[:, None].float(), torch.where(moved[:, None], labels, torch.nan)), dim=1)

    def values(self, stars):
        """Return what is known of stars where they are now, and its errors, as `LibrarySource.values`.

        Parameters
        ----------
        stars : torch.Tensor
            From `draw`.

        Returns
        -------
        values, errors : torch.Tensor
            ``(n_star, n_name)``; NaN where not known.
        """
        row, labels = stars[:, 0].long(), stars[:, 1:]
        values, errors = super().values(row)
        # those that are not moved have no labels here
        values[:, self._named] += torch.nan_to_num(labels - self._own[row])[:, self._moved]
        return values, errors

    def _spectra(self, stars):
        """Return the spectra of stars where they are now, ``(n_star, n_pixel)``."""
        row, labels = stars[:, 0].long(), stars[:, 1:]
        flux, moved = self._flux[row], torch.isfinite(labels[:, 0])
        if not moved.any():
            return flux
        factor = self._expected(labels[moved]) / self._synthetic[row[moved]]
        flux[moved, self._covered] *= factor.clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
        return flux


def _flux(emulator, stars, wavelength, resolving_power, radial_velocity):
    """Return spectra of stars whose labels, and then rotation, are known."""
    seen = {"resolving_power": resolving_power, "radial_velocity": radial_velocity, "wavelength": wavelength}
    return emulator.flux(stars[:, :-1], vsini=stars[:, -1], **seen)


def _single_precision(emulator, device):
    """Return an emulator, or that of the package with this name, in single precision on a device."""
    emulator = load_emulator(emulator) if isinstance(emulator, str) else emulator
    return emulator.to(device=device, dtype=torch.float32)


def _tensors(device, *arrays):
    """Return arrays in single precision on a device."""
    return tuple(torch.as_tensor(array, dtype=torch.float32, device=device) for array in arrays)


def _near(labels, size, ends, generator):
    """Return labels ``(n_star, n_label)`` moved by normal deviates of these sizes, but not beyond the ends."""
    move = torch.randn(labels.shape, generator=generator, device=generator.device) * size
    return torch.minimum(torch.maximum(labels + move, ends[0]), ends[1])


def _even(wavelength, flux, at):
    """Return a spectrum elsewhere, its median 1; pixels without flux are bridged."""
    there = np.isfinite(flux)
    even = np.interp(at, wavelength[there], flux[there])
    return even / np.median(even)
