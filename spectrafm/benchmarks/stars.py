"""The stars that benchmarks measure on, real and synthetic."""

from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import torch

from .._files.apogee import RESOLVING_POWER
from .._spectral_units import FWHM_OVER_SIGMA
from ..adapters import from_arrays
from ..datasets import LabelledSpectra
from ..exceptions import InputValueError
from ..spectrum_files import read_spectra
from ..training import (
    EmulatorSource,
    ObservationConfig,
    ObservedSource,
    RequestConfig,
    load_recipe,
    read_data,
    recipe_names,
    split_stars,
)

__all__ = [
    "LABELS",
    "MILES_FWHM",
    "NOMINAL_POWER",
    "VSINI",
    "MilesStars",
    "OtherWorld",
    "SameStars",
    "broaden",
    "miles_report",
    "observed_spectra",
    "read_apstar",
    "read_apstars",
    "spectra_of_views",
    "stars_apart",
]

#: Labels of synthetic stars that are measured.
LABELS = ("teff", "logg", "fe_h", "mg_fe", "o_fe")
#: Resolving powers that spectra of each kind are measured at.
NOMINAL_POWER = {"apogee": RESOLVING_POWER, "gaia_rvs": 11_500, "optical": 2000}
#: Full width at half maximum of MILES [Angstrom], the same everywhere (Falcon-Barroso et al. 2011).
MILES_FWHM = 2.5
#: Rotation of synthetic stars, ``vsini`` [km / s].
VSINI = 3.0
# no star of a pool of training has this seed
_SEED = 777_777
# where spectra of MILES are looked at, vacuum [Angstrom]
_MILES_RANGE = (3600, 7400)
# the other world: seed, error of ln(depth) of lines, depth of lines that are missing, and its resolving power
_WORLD_SEED, _LINE_ERROR, _VEIL, _WORLD_POWER = 2026, 0.3, 0.03, 22_500.0


def stars_apart(fm, data, source, default):
    """Return which stars of a data set trained weights, and which nothing was chosen on.

    Weights tell how the stars that they were trained on had been split. Older ones do not: their stars are split
    as today's recipe of their name does it.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    data : LabelledSpectra
        The stars.
    source : str
        Name of the source in the recipe ``default``, which tells the name of the data set.
    default : str
        Recipe to split by, for weights that saw none of these stars, and for older ones of another name.

    Returns
    -------
    train, test : numpy.ndarray
        Row numbers.
    seed : int
        Seed of the split.
    note : str
        A line for reports if stars to test on may have been seen after all, empty if not.
    """
    name, usual = fm.info.name, load_recipe(default).splits[source]
    set_name, splits, note = usual["data"], fm.info.splits, ""
    if splits is None:
        recipe = load_recipe(name if name in recipe_names() else default)
        splits = recipe.splits
        note = (
            f"note: weights {name!r} do not tell which stars of {set_name} they were trained on; taken to be those of "
            f"today's recipe {recipe.name!r}"
        )
    elif fm.info.fine_tuning:
        note = f"note: weights {name!r} are fine-tuned; those of {set_name} that this was done with count as unseen"
    # for weights that saw none of these stars, those that others were trained on
    used = [its for its in splits.values() if its["data"] == set_name] or [usual]
    parts = [split_stars(data, its["fraction"], its["seed"]) for its in used]
    train, test = reduce(np.union1d, (part[0] for part in parts)), reduce(np.intersect1d, (part[2] for part in parts))
    return train, test, used[0]["seed"], note


@dataclass
class MilesStars:
    """Stars of MILES, and which of them nothing of some weights was chosen on.

    Attributes
    ----------
    data : LabelledSpectra
        All stars, in the range in vacuum from 3600 to 7400 Angstrom.
    train, test : numpy.ndarray
        Row numbers of stars that trained the weights, and of those that nothing was chosen on.
    """

    data: LabelledSpectra
    train: np.ndarray
    test: np.ndarray

    def spectra(self, rows):
        """Return the spectra of some stars.

        Parameters
        ----------
        rows : numpy.ndarray
            Row numbers.

        Returns
        -------
        list of SpectrumArrays
        """
        power = NOMINAL_POWER["optical"]
        return list(from_arrays(self.data.wavelength, self.data.flux[rows], resolving_power=power))


def miles_report(fm, folder, report):
    """Yield the lines of a report on MILES, or a line that says that there are no such stars.

    Parameters
    ----------
    fm : SpectraFM
        Weights.
    folder : str or pathlib.Path
        Holds the folder ``miles``.
    report : callable
        ``report(stars)`` yields lines; the stars are `MilesStars`.

    Yields
    ------
    str
    """
    try:
        data = read_data("miles", folder)
    except (InputValueError, OSError) as error:
        yield f"no MILES: {error}"
        return
    train, test, _, note = stars_apart(fm, data, "miles", "small")
    if note:
        yield note
    inside = (data.wavelength > _MILES_RANGE[0]) & (data.wavelength < _MILES_RANGE[1])
    data = replace(data, wavelength=data.wavelength[inside], flux=data.flux[:, inside], sigma=data.sigma[:, inside])
    yield from report(MilesStars(data, train, test))


def broaden(wavelength, flux, fwhm):
    """Convolve spectra with Gaussians, on their own pixels.

    Parameters
    ----------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom].
    flux : numpy.ndarray
        ``(n_star, n_pixel)``; what is not finite is left out.
    fwhm : float or numpy.ndarray
        Full width at half maximum of the Gaussian [Angstrom], or ``(n_pixel,)`` of that of each pixel.

    Returns
    -------
    numpy.ndarray
        ``(n_star, n_pixel)`` float64.
    """
    sigma = np.maximum(np.broadcast_to(fwhm, wavelength.shape) / FWHM_OVER_SIGMA, 1e-3)[:, None]
    weight = np.exp(-0.5 * ((wavelength - wavelength[:, None]) / sigma) ** 2).T
    return np.nan_to_num(flux) @ weight / (np.isfinite(flux) @ weight)


def read_apstar(path):
    """Return the combined spectrum of an apStar file, in vacuum and at rest.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    SpectrumArrays
    """
    [star] = read_spectra(path, notes=[])
    return star


def read_apstars(folder):
    """Return the stars of APOGEE in a folder of benchmark data, in the order of their files.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds the folder ``apogee`` with apStar files.

    Returns
    -------
    list of SpectrumArrays
        Empty where there is none.
    """
    return [read_apstar(path) for path in sorted((Path(folder) / "apogee").glob("apStar-*.fits"))]


class SameStars(EmulatorSource):
    """Stars that come one after the other, each as often as they are rewound, rotating alike.

    Parameters
    ----------
    name : str
        Name of a packaged emulator.
    n_star : int
        Number of stars, none of which was in a pool of training.
    galactic : float, optional
        As of `EmulatorSource`.
    """

    def __init__(self, name, n_star, galactic=0.0):
        super().__init__(name, 4 * n_star, _SEED, galactic=galactic)
        self.labels = torch.nn.functional.pad(self.pool[:n_star], (0, 1), value=VSINI)
        self.truth = {k: self.labels[:, i].double().numpy() for i, k in enumerate(self.emulator.label_names)}
        self.first = 0

    def __len__(self):
        return len(self.labels)

    def draw(self, n_star, generator):
        """Return the next stars.

        Parameters
        ----------
        n_star : int
            How many.
        generator : torch.Generator
            Of every source; nothing is drawn at random here.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_name)`` what is known of each.
        """
        self.first += n_star
        return self.labels[self.first - n_star : self.first]


def observed_spectra(fm, stars, damage=None, **changes):
    """Return the spectra of all stars, seen by one instrument.

    Parameters
    ----------
    fm : SpectraFM
        Weights whose normaliser and vocabulary are taken.
    stars : SameStars
        The stars.
    damage : callable, optional
        What is done to each spectrum after that.
    **changes
        Settings of the observation that differ from those of a bright star and all of the range.

    Returns
    -------
    list of SpectrumArrays
    """
    name = stars.emulator.info.name
    stars.first = 0
    instrument = ObservationConfig(resolving_power=NOMINAL_POWER[name], pixels_per_fwhm=(3.0, 3.0), withhold_sigma=0.0)
    config = instrument.undisturbed(**changes)
    request = RequestConfig(flux_requests=0)
    observed = ObservedSource(stars, fm.model.vocabulary, fm.normalizer_of(name), config, request)
    spectra, _, _ = observed.examples(len(stars), torch.Generator().manual_seed(1))
    return [damage(star) for star in spectra] if damage else spectra


def spectra_of_views(fm, stars):
    """Return the same stars seen in different ways.

    Parameters
    ----------
    fm : SpectraFM
        Weights whose normaliser and vocabulary are taken.
    stars : SameStars
        The stars.

    Returns
    -------
    dict of str to list of SpectrumArrays
        By what is special: signal-to-noise ratios from 10 to 500, and at 100 no errors, half of the range,
        100 Angstrom, and a tenth of the pixels.
    """
    middle = 0.5 * sum(stars.emulator.info.window)
    width = np.ptp(stars.emulator.info.window)
    rng = np.random.default_rng(5)

    def narrow(width):
        return lambda star: replace(star, good=star.good & (np.abs(star.wavelength - middle) < width / 2))

    def sparse(star):
        return replace(star, good=star.good & (rng.random(len(star.good)) < 0.1))

    views = {f"S/N {snr}": {"snr": (snr, snr)} for snr in (10, 20, 50, 100, 200, 500)}
    hundred = {"snr": (100, 100)}
    views["S/N 100, no errors given"] = hundred | {"withhold_sigma": 1.0}
    views["S/N 100, half the range"] = hundred | {"damage": narrow(width / 2)}
    views["S/N 100, 100 Angstrom"] = hundred | {"damage": narrow(100.0)}
    views["S/N 100, 10 % of pixels"] = hundred | {"damage": sparse}
    return {name: observed_spectra(fm, stars, **view) for name, view in views.items()}


class OtherWorld:
    """Changes all spectra alike: depths of lines, lines that are missing, the response.

    Parameters
    ----------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum], of all spectra.

    Attributes
    ----------
    depth, veil, response : numpy.ndarray
        ``(n_pixel,)``: what the depth of lines is multiplied by, what is missing from the continuum, and what
        all of the flux is multiplied by.
    """

    def __init__(self, wavelength):
        rng = np.random.default_rng(_WORLD_SEED)
        place = np.log(wavelength / wavelength[0])
        element = np.arange(0, place[-1] * _WORLD_POWER + 2)
        first, second = (np.interp(place * _WORLD_POWER, element, rng.normal(size=len(element))) for _ in range(2))
        self.depth, self.veil = np.exp(_LINE_ERROR * first), _VEIL * second**2
        self.response = 1 + 0.1 * np.cos(7 * np.pi * place / place[-1])

    def __call__(self, star):
        """Return a star as it is there.

        Parameters
        ----------
        star : SpectrumArrays
            Divided by its continuum.

        Returns
        -------
        SpectrumArrays
        """
        flux = (1 - (1 - star.flux) * self.depth - self.veil) * self.response
        return replace(star, flux=flux, sigma=star.sigma * self.response)
