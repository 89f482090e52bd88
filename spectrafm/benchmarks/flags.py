"""How well flags catch what should not be believed, case by case."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .._spectral_units import FWHM_OVER_SIGMA, RYDBERG, SPEED_OF_LIGHT, air_to_vacuum, doppler_factor
from .._warning_filters import catch_warnings
from ..core import SpectraFM
from ..diagnostics import STATISTICS
from ..exceptions import InputValueError, SpectraFMWarning
from ..flags import MASKING_FLAGS, Flag
from ..training import EmulatorSource, ObservationConfig, ObservedSource, RequestConfig, read_data
from .stars import NOMINAL_POWER, miles_report, read_apstars

__all__ = ["CASES", "area_under_roc", "benchmark_flags"]

# no star of a pool of training, nor of another benchmark, has this seed
_SEED, _N_STAR = 888_888, 256
# kinds of spectra, and what their velocities scatter by [km/s]
_VELOCITY = {"apogee": 2.0, "optical": 5.0}
# flags that come from the statistics
_STRANGE = Flag.WRONG_MEDIUM
for _bit in STATISTICS.values():
    _STRANGE |= _bit
_HOT, _COOL = 9000.0, 3300.0
# real stars are observed as they are, with this signal-to-noise ratio where none is told
_REAL_SNR = (30.0, 100.0)


def area_under_roc(good, bad):
    """Return the area under the receiver operating characteristic, from ranks.

    Parameters
    ----------
    good, bad : numpy.ndarray
        ``(n_good,)`` and ``(n_bad,)`` strangeness. Ties count half; NaN counts as not strange.

    Returns
    -------
    float
        The chance that a bad star is stranger than a good one; NaN where there is none.
    """
    if not (len(good) and len(bad)):
        return float("nan")
    good, bad = (np.where(np.isnan(a), -np.inf, a) for a in (good, bad))
    above = bad[:, None] > good
    return float(np.mean(above + 0.5 * (bad[:, None] == good)))


def _level(star):
    return np.median(star.flux[star.good])


def _instead(star, flux, rng):
    """Return another spectrum as the same instrument sees it, with the same relative noise."""
    relative = star.sigma / _level(star)
    relative = np.where(np.isfinite(relative), relative, 1 / rng.uniform(*_REAL_SNR))
    return replace(star, flux=_level(star) * (flux + relative * rng.normal(size=flux.shape)))


def _noise(star, other, normalizer, rng):
    """Return noise and nothing else."""
    sigma = np.where(np.isfinite(star.sigma), _level(star), np.nan)
    return replace(star, flux=_level(star) * rng.normal(size=star.flux.shape), sigma=sigma)


def _quasar(star, other, normalizer, rng):
    """Return a power law with broad emission lines."""
    place = np.log(star.wavelength)
    place = place - place.mean()
    flux = np.exp(rng.uniform(-2.5, 0.0) * place)
    for _ in range(max(2, round(20 * np.ptp(place)))):
        width = rng.uniform(1500, 6000) / SPEED_OF_LIGHT / FWHM_OVER_SIGMA
        away = (place - rng.uniform(place.min(), place.max())) / width
        flux = flux * (1 + rng.uniform(0.3, 2.0) * np.exp(-0.5 * away**2))
    return _instead(star, flux, rng)


def _hot(star, other, normalizer, rng):
    """Return a black body of 12,000 to 40,000 K with broad lines of hydrogen only."""
    wavelength = star.wavelength
    flux = wavelength**-5.0 / np.expm1(1.438777e8 / (wavelength * rng.uniform(12_000, 40_000)))
    flux = flux / np.median(flux)
    for lower in (2, 3, 4):
        for upper in range(lower + 1, 26):
            at = 1 / (RYDBERG * (lower**-2 - upper**-2))
            if wavelength[0] - 50 < at < wavelength[-1] + 50:
                away = np.log(wavelength / at) * SPEED_OF_LIGHT / rng.uniform(400, 1500)
                flux = flux * (1 - rng.uniform(0.05, 0.35) / (1 + away**2))
    return _instead(star, flux, rng)


def _medium(star, other, normalizer, rng):
    """Return it with air wavelengths taken for vacuum, or the reverse."""
    ratio = air_to_vacuum(star.wavelength) / star.wavelength
    return replace(star, wavelength=star.wavelength * (ratio if rng.random() < 0.5 else 1 / ratio))


def _shifted(star, other, normalizer, rng):
    """Return it with a velocity of 100 to 300 km/s."""
    velocity = rng.uniform(100, 300) * rng.choice([-1, 1])
    return replace(star, wavelength=star.wavelength * doppler_factor(velocity))


def _inverted(star, other, normalizer, rng):
    """Return it with its lines in emission."""
    by = normalizer.divisor(star.wavelength[None], star.flux[None], star.good[None])[0]
    return replace(star, flux=2 * by - star.flux)


def _spikes(star, other, normalizer, rng):
    """Return it with 1 % of its pixels 3 to 10 times too high."""
    hit = rng.random(len(star.flux)) < 0.01
    hit[rng.choice(np.flatnonzero(star.good))] = True
    return replace(star, flux=np.where(hit, star.flux * rng.uniform(3, 10, len(hit)), star.flux))


def _second(star, other, normalizer, rng):
    """Return it with a second star, 30 to 100 % as bright, at a velocity of 30 to 150 km/s."""
    first, second = normalizer(star), normalizer(other)
    shift = doppler_factor(rng.uniform(30, 150) * rng.choice([-1, 1]))
    light = rng.uniform(0.3, 1.0)
    wavelength = second.wavelength[second.good] * shift
    flux = np.interp(star.wavelength, wavelength, second.flux[second.good])
    sigma = np.interp(star.wavelength, wavelength, np.nan_to_num(second.sigma[second.good], nan=0.0))
    by = star.flux / first.flux
    inside = (star.wavelength >= wavelength[0]) & (star.wavelength <= wavelength[-1])
    return replace(
        star,
        flux=(first.flux + light * flux) / (1 + light) * by,
        sigma=np.hypot(first.sigma, light * sigma) / (1 + light) * by,
        good=first.good & inside,
    )


def _saturated(star, other, normalizer, rng):
    """Return it cut off at a level that 20 to 70 % of its pixels exceed."""
    return replace(star, flux=np.minimum(star.flux, np.quantile(star.flux[star.good], rng.uniform(0.3, 0.8))))


def _emission(star, other, normalizer, rng):
    """Return a weak star under narrow emission lines."""
    place = np.log(star.wavelength)
    power = star.resolving_power if np.isfinite(star.resolving_power) else np.inf
    width = max(1 / power, 2.4 * star.spacing) / FWHM_OVER_SIGMA
    flux = 0.3 * star.flux / _level(star)
    for _ in range(rng.integers(6, 20)):
        away = (place - rng.uniform(place[0], place[-1])) / width
        flux = flux + rng.uniform(1, 30) * np.exp(-0.5 * away**2)
    return replace(star, flux=_level(star) * flux)


#: Name -> function of a good star, another one of the same kind, the normaliser and a generator.
CASES = {
    "pure noise": _noise,
    "quasar": _quasar,
    "hot star, hydrogen only": _hot,
    "air taken for vacuum": _medium,
    "shifted by 100-300 km/s": _shifted,
    "inverted": _inverted,
    "spikes": _spikes,
    "second star": _second,
    "saturated": _saturated,
    "emission lines": _emission,
}


def benchmark_flags(data_folder, model=None, n_star=_N_STAR):
    """Measure how well flags catch spectra that should not be believed.

    Good stars are synthetic ones that were in no pool of training, real stars of MILES that
    set no threshold (the form of the statistics was chosen on them), and those of APOGEE. Every case is made of
    the same stars, so that only what is wrong with it can tell it from them; but for the hottest
    and coolest stars of MILES, which are as they are.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Holds the folders ``miles`` and ``apogee``; what is not there is left out.
    model : str or pathlib.Path, SpectraFM, optional
        Weights; the packaged ones when left out.
    n_star : int, optional
        Synthetic stars of each kind.

    Yields
    ------
    str
        Lines of the report.
    """
    fm = model if isinstance(model, SpectraFM) else SpectraFM.from_pretrained(model)
    yield f"{fm!r}"
    yield "area under the ROC curve of strangeness; share with a flag of the statistics; flags of more than a tenth"
    names = [name for name in _VELOCITY if name in [domain.name for domain in fm.info.domains]]
    missing = {name: reason for name, reason in _missing(data_folder).items() if name in names}
    # before what takes minutes
    yield from missing.values()
    for name in names:
        if not fm.info.domains[fm.info.number_of(name)].thresholds:
            yield f"{name}: these weights have no thresholds; see spectrafm.thresholds.set_thresholds"
        stars = _synthetic(fm, name, n_star)
        yield f"{name}: {len(stars)} synthetic stars"
        yield from _report(fm, stars, fm.normalizer_of(name))
        if name in missing:
            continue
        if name == "optical":
            yield from miles_report(fm, data_folder, partial(_miles, fm))
        else:
            yield from _apogee(fm, data_folder)


def _missing(folder):
    """Return, for each kind of spectrum without real stars in a folder, a line that says so."""
    missing = {}
    if not read_apstars(folder):
        missing["apogee"] = f"no APOGEE: no apStar-*.fits in {Path(folder) / 'apogee'}; give --data or data_folder"
    try:
        read_data("miles", folder)
    except (InputValueError, OSError) as error:
        missing["optical"] = f"no MILES: {error}"
    return missing


def _synthetic(fm, name, n_star):
    """Return stars as an instrument sees them, at rest."""
    config = ObservationConfig(
        resolving_power=NOMINAL_POWER[name],
        nominal=1.0,
        power_spread=0.2,
        pixels_per_fwhm=(2.0, 3.3),
        snr=(30.0, 300.0),
        whole_range=1.0,
        velocity=_VELOCITY[name],
    )
    request = RequestConfig(flux_requests=0)
    source = EmulatorSource(name, 8 * n_star, _SEED)
    observed = ObservedSource(source, fm.model.vocabulary, fm.normalizer_of(name), config, request)
    return observed.examples(n_star, torch.Generator().manual_seed(_SEED))[0]


def _report(fm, stars, normalizer, others=None):
    """Yield a line for the good stars and for each case; ``others`` are spectra by name."""
    good, flag = _judge(fm, stars)
    yield _line("good stars", len(stars), np.nan, flag)
    rng = np.random.default_rng(_SEED)
    for name, damage in CASES.items():
        # partners are neighbours: batches of stars are observed alike
        made = [
            damage(star, stars[i - 1] if i % 64 else stars[min(i + 1, len(stars) - 1)], normalizer, rng)
            for i, star in enumerate(stars)
        ]
        strange, flag = _judge(fm, made)
        yield _line(name, len(made), area_under_roc(good, strange), flag)
    for name, spectra in (others or {}).items():
        strange, flag = _judge(fm, spectra)
        yield _line(name, len(spectra), area_under_roc(good, strange), flag)


def _judge(fm, spectra):
    """Return strangeness and flags; a star that cannot be used is as strange as can be."""
    with catch_warnings():
        # that rows are masked is what is counted here
        warnings.simplefilter("ignore", SpectraFMWarning)
        table = fm.diagnose(spectra)
    flag = np.array(table["flag"])
    strange = np.asarray(table["strangeness"].filled(np.nan), dtype=float)
    return np.where(flag & MASKING_FLAGS, np.inf, strange), flag


def _line(name, n_star, area, flag):
    caught = np.mean((flag & (_STRANGE | MASKING_FLAGS)) != 0)
    often = [bit.name for bit in _STRANGE | MASKING_FLAGS if np.mean((flag & bit) != 0) > 0.1]
    area = f"{area:.3f}" if np.isfinite(area) else "-"
    return f"  {name:<26}{n_star:>5} {area:>7} {caught:>7.3f}  {' '.join(often)}".rstrip()


def _miles(fm, miles):
    """Yield lines of real stars of MILES."""
    test, teff = miles.test, miles.data.labels["teff"]
    usual = test[(teff[test] > _COOL) & (teff[test] < _HOT)]
    yield f"MILES: {len(usual)} real stars; none trained the weights or set a threshold"
    others = {
        f"real, teff > {_HOT:.0f} K": miles.spectra(test[teff[test] > _HOT]),
        # there is hardly one that the weights have not seen
        f"real, teff < {_COOL:.0f} K, all": miles.spectra(np.flatnonzero(teff < _COOL)),
    }
    yield from _report(fm, miles.spectra(usual), fm.normalizer_of("optical"), others)


def _apogee(fm, folder):
    """Yield lines of the real stars of APOGEE."""
    for star in read_apstars(folder):
        [strange], [flag] = _judge(fm, [star])
        told = " ".join(bit.name for bit in Flag if int(flag) & bit)
        yield f"  {star.identifier}: strangeness {strange:.2f}, flag {flag} {told}".rstrip()
