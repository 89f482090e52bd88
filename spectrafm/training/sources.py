"""Where the stars of a training stream come from: emulators, and libraries of real spectra."""

import numpy as np
import torch

from ..exceptions import InputValueError
from ..synthesis.emulator import load_emulator
from ..synthesis.instrument import observe
from ..synthesis.labels import draw_labels

__all__ = ["EmulatorSource", "LibrarySource"]

# shifts and broadening need this much beside the range [km / s], in ln(wavelength)
_MARGIN = 600.0 / 299_792.458
# labels drawn from the pool move by this much: each star is a new one
_JITTER = {"teff": 30.0, "logg": 0.03, "fe_h": 0.03, "vmicro": 0.05, "c12_c13": 0.5}
_ABUNDANCE_JITTER = 0.03
# scatter of abundances about the trends of the Galaxy, in units of that of `draw_labels`
_GALACTIC_SCATTER = 0.3
# projected rotation [km / s], even in its logarithm, of stars cooler and hotter than this
_HOT = 6200.0
_VSINI = ((1.0, 15.0), (1.0, 80.0))


class EmulatorSource:
    """Synthetic stars.

    Labels come from a pool of stars drawn by `spectrafm.synthesis.draw_labels`, each time
    moved by a little, so that no star comes twice.

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
        Fraction of the stars whose abundances scatter about the trends as little as in the
        Galaxy; those of the others scatter three times as much.

    Attributes
    ----------
    names : tuple of str
        Names of the quantities that are known of each star.
    wavelength_range : tuple of float
        Where stars can be observed [Angstrom, vacuum].
    resolving_power : float
        Largest resolving power.
    device : torch.device
        Where spectra are made.
    """

    def __init__(self, emulator, n_pool=100_000, seed=0, device="cpu", galactic=0.0):
        self.emulator = load_emulator(emulator) if isinstance(emulator, str) else emulator
        self.emulator = self.emulator.to(device=device, dtype=torch.float32)
        self.names, self.device = (*self.emulator.label_names, "vsini"), torch.device(device)
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
        self.pool, self.jitter, self.low, self.high = (
            torch.as_tensor(array, dtype=torch.float32, device=device) for array in (pool, jitter, low, high)
        )

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
        move = torch.randn(n_star, len(self.jitter), generator=generator, device=device) * self.jitter
        labels = torch.minimum(torch.maximum(self.pool[row] + move, self.low), self.high)
        ends = torch.log(torch.tensor(_VSINI, device=device))  # (2, 2)
        hot = (labels[:, self.emulator.label_names.index("teff")] > _HOT).long()
        share = torch.rand(n_star, generator=generator, device=device)
        vsini = torch.exp(ends[hot, 0] + share * (ends[hot, 1] - ends[hot, 0]))
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
        return self.emulator.flux(
            stars[:, :-1],
            resolving_power=resolving_power,
            vsini=stars[:, -1],
            radial_velocity=radial_velocity,
            wavelength=wavelength,
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
            ``(n_star, n_name)``; errors 0.
        """
        return stars, torch.zeros_like(stars)


class LibrarySource:
    """Real stars with labels, whose spectra are better than what instruments give.

    Parameters
    ----------
    data : LabelledSpectra
        The library.
    rows : array_like of int
        Stars to draw from.
    names : sequence of str
        Quantities to take along; all of the library when left out.
    resolving_power : float
        Resolving power of the spectra.
    device : str or torch.device, optional
        Where the spectra are kept.

    Attributes
    ----------
    names, wavelength_range, resolving_power, device
        As of `EmulatorSource`.
    """

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
        self._flux, self._values, self._errors = (
            torch.as_tensor(array, dtype=torch.float32, device=device) for array in (flux, values, errors)
        )

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
            self._flux[stars],
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


def _even(wavelength, flux, at):
    """Return a spectrum elsewhere, its median 1; pixels without flux are bridged."""
    there = np.isfinite(flux)
    even = np.interp(at, wavelength[there], flux[there])
    return even / np.median(even)
