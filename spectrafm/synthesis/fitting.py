"""Labels of an observed spectrum by least squares, with an emulator as the model."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch

from .._numerics import robust_rms
from ..adapters import to_arrays
from ..exceptions import InputTypeError, InputValueError
from .emulator_labels import label_array, to_numbers
from .fisher import flux_jacobian
from .labels import SYNTHESIS_LABELS, draw_labels

__all__ = ["LabelFit", "fit_labels"]

_INSTRUMENT = {"resolving_power": "", "vsini": "km / s", "vmacro": "km / s", "radial_velocity": "km / s"}
# how far they may go, and where they start when free and not given
_INSTRUMENT_RANGES = {"vsini": (0.0, 300.0), "vmacro": (0.0, 50.0), "radial_velocity": (-300.0, 300.0)}
_INSTRUMENT_START = {"vsini": 5.0, "vmacro": 3.0, "radial_velocity": 0.0}
# a gap this wide in ln(wavelength) parts two pieces of continuum
_GAP = 1e-3
# a piece of continuum has a term of its polynomial for this many pixels, at most
_PIXELS_PER_TERM = 20
_N_RANDOM, _SEED = 256, 0
# how often artefacts are looked for, at most
_N_REJECTION = 3


@dataclass(frozen=True, eq=False)
class LabelFit:
    """Result of `fit_labels`.

    Attributes
    ----------
    labels : dict of str to float
        All labels, fixed and found, and the parameters of the instrument that were given
        or found, in the units of `spectrafm.quantities.QUANTITIES` and km / s.
    errors : dict of str to float
        Standard errors of those that were free: from the covariance, times the root of
        the reduced chi square where that is above 1.
    free : tuple of str
        Names of the free parameters, in the order of ``covariance``.
    covariance : numpy.ndarray
        ``(n_free, n_free)``, scaled likewise.
    at_edge : tuple of str
        Free labels that ended at the edge of their range: they have no sound error.
    wavelength : numpy.ndarray
        ``(n_pixel,)`` [Angstrom, vacuum, rest frame] of the pixels that were used.
    rejected : numpy.ndarray
        ``(n_rejected,)`` [Angstrom] of good pixels that were left out as artefacts.
    flux : numpy.ndarray
        ``(n_pixel,)`` observed flux over the fitted continuum.
    model : numpy.ndarray
        ``(n_pixel,)`` flux of the model, normalised.
    continuum : numpy.ndarray
        ``(n_pixel,)`` in the unit of the observed flux.
    chi2 : float
        Sum of the squares of the residuals over their errors; NaN without errors.
    n_freedom : int
        Number of pixels less that of free parameters, the continuum's included.
    converged : bool
        Whether the search ended by itself.
    """

    labels: dict
    errors: dict
    free: tuple
    covariance: np.ndarray
    at_edge: tuple
    wavelength: np.ndarray
    rejected: np.ndarray
    flux: np.ndarray
    model: np.ndarray
    continuum: np.ndarray
    chi2: float
    n_freedom: int
    converged: bool

    def __repr__(self):
        """Return one line."""
        told = ", ".join(f"{name} {self.labels[name]:.4g} +- {self.errors[name]:.2g}" for name in self.free)
        return f"<LabelFit: {told}; residual {self.residual_rms:.4f}>"

    @property
    def residual_rms(self):
        """Root mean square of normalised flux less model."""
        return float(np.sqrt(np.mean((self.flux - self.model) ** 2)))

    @property
    def correlation(self):
        """Correlation coefficient of normalised flux and model."""
        return float(np.corrcoef(self.flux, self.model)[0, 1])

    @property
    def spectrum(self):
        """The model as a `~specutils.Spectrum`, normalised, at the pixels that were used."""
        from astropy import units as u
        from specutils import Spectrum

        return Spectrum(flux=self.model * u.one, spectral_axis=self.wavelength * u.AA, meta=dict(self.labels))


def fit_labels(
    emulator,
    spectrum,
    *,
    free=None,
    labels=None,
    resolving_power=None,
    vsini=None,
    vmacro=None,
    degree=4,
    piece=None,
    model_error=0.0,
    reject=8.0,
    medium=None,
    radial_velocity=None,
    mask_policy=None,
    n_start=2,
):
    """Find the labels with which an emulator is closest to an observed spectrum.

    Least squares over the good pixels, by a trust-region method with the exact
    derivatives of the emulator (`scipy.optimize.least_squares`). The continuum is a
    polynomial for each piece of the spectrum, solved for at every step (variable
    projection, Kaufman 1975, BIT 15, 49). It starts from those of some hundred random
    stars that fit best.

    Parameters
    ----------
    emulator : Emulator
        The model.
    spectrum : `~specutils.Spectrum`
        One star, or anything of one star that `spectrafm.adapters.to_arrays` takes. It
        need not be normalised. Without errors, all pixels count the same.
    free : sequence of str, optional
        Parameters to fit: labels, and any of ``resolving_power``, ``vsini``, ``vmacro`` and
        ``radial_velocity``, the last in addition to the velocity that was taken out of the
        spectrum. All labels that are not in ``labels`` when left out.
    labels : dict of str to float or `~astropy.units.Quantity`, optional
        Labels that are known. Labels that are neither known nor free are as in
        `Emulator.label_array`.
    resolving_power : float, optional
        Of the instrument, or where to start if it is free; when left out, that of the
        spectrum, if it has one.
    vsini, vmacro : float or `~astropy.units.Quantity` ['speed'], optional
        Rotation and macroturbulence, or where to start if they are free; none when left
        out.
    degree : int, optional
        Degree of the polynomials.
    piece : float or `~astropy.units.Quantity` ['length'], optional
        Longest piece of the spectrum [Angstrom] that has one polynomial. Gaps part pieces
        in any case.
    model_error : float, optional
        Relative error of the model, added to those of the pixels in quadrature: synthetic
        spectra differ from real ones by some per cent, however good the data are.
    reject : float, optional
        Pixels whose residual is larger than so many of their errors, and than so many times what is usual in this
        spectrum, are taken as artefacts: they are left out, and labels are searched for again. None leaves out no
        pixel.
    medium, radial_velocity, mask_policy
        As in `spectrafm.adapters.to_arrays`.
    n_start : int, optional
        Number of random stars to start from; the best result counts.

    Returns
    -------
    LabelFit
        Labels, errors and the model.

    Raises
    ------
    InputTypeError
        There is not one spectrum, or a parameter is no number.
    InputValueError
        A name is not known or both known and free, a value or a setting is out of range, the
        resolving power is not known, or there are too few good pixels in the window of
        the emulator.
    """
    for name, value, least in (("degree", degree, 0), ("n_start", n_start, 1)):
        if not isinstance(value, Integral) or value < least:
            raise InputValueError(f"{name}: {value!r}; expected an integer of {least} or more")
    if not isinstance(model_error, Real) or not 0 <= model_error < np.inf:
        raise InputValueError(
            f"model_error: {model_error!r}; expected a number of 0 or more, in parts of the continuum"
        )
    if reject is not None and not (isinstance(reject, Real) and reject > 0):
        raise InputValueError(f"reject: {reject!r}; expected a positive number of standard deviations, or None")
    names, known = tuple(emulator.label_names), dict(labels or {})
    given = {"resolving_power": resolving_power, "vsini": vsini, "vmacro": vmacro}
    given = {k: to_numbers(k, v, _INSTRUMENT[k], scalar=True) for k, v in given.items() if v is not None}
    free = _check_free(names, free, known)
    stars = to_arrays(spectrum, medium=medium, radial_velocity=radial_velocity, mask_policy=mask_policy)
    if len(stars) != 1:
        raise InputTypeError(f"spectrum: it holds {len(stars)} stars; fit them one by one")
    if np.isfinite(stars[0].resolving_power):
        given.setdefault("resolving_power", stars[0].resolving_power)
    if "resolving_power" not in given:
        raise InputValueError("resolving_power: not known; give it (where to start, if it is free)")
    given |= {name: _INSTRUMENT_START[name] for name in free if name in _INSTRUMENT_START and name not in given}
    data = _Data(emulator, stars[0], degree, piece, model_error)
    if data.n_pixel < len(free) + data.n_term + 2:
        raise InputValueError(
            f"spectrum: {data.n_pixel} good pixels within {emulator.info.window[0]:g} to {emulator.info.window[1]:g} "
            f"Angstrom, for {len(free)} labels and {data.n_term} terms of the continuum; give a longer spectrum"
        )
    model = _Model(emulator.to(dtype=torch.float64), free, given, data.wavelength)
    starts = _starting_points(model, data, known, n_start)
    result, row = min((_search(model, data, start, known) for start in starts), key=lambda pair: pair[0].cost)
    for _ in range(_N_REJECTION if reject else 0):
        # a large artefact pulls labels away from good pixels, and hides others
        if not data.reject(result.fun, reject):
            break
        result, row = _search(model, data, result.x, known)
    return _result(model, data, result, row)


def _check_free(names, free, known):
    """Return the names of the free parameters."""
    free = (
        tuple(n for n in names if n not in known) if free is None else (free,) if isinstance(free, str) else tuple(free)
    )
    unknown = [name for name in free if name not in names and name not in _INSTRUMENT]
    both = [name for name in free if name in known]
    if unknown or both or not free or len(set(free)) < len(free):
        problem = f"unknown {unknown[0]!r}" if unknown else f"{both[0]!r} is in labels too" if both else f"{free}"
        raise InputValueError(f"free: {problem}; expected some of {', '.join((*names, *_INSTRUMENT))}, each once")
    return free


class _Data:
    """The pixels that are used, and polynomials for the continuum of each piece of them."""

    def __init__(self, emulator, arrays, degree, piece, model_error):
        from numpy.polynomial.legendre import legvander

        low, high = emulator.info.window
        use = arrays.good & (arrays.wavelength >= low) & (arrays.wavelength <= high)
        self.wavelength, self.flux = arrays.wavelength[use], arrays.flux[use]
        self.has_sigma = arrays.has_sigma
        if self.has_sigma:
            self.sigma = arrays.sigma[use]
            self.sigma = np.where(np.isfinite(self.sigma) & (self.sigma > 0), self.sigma, np.inf)
        else:
            self.sigma = np.full(len(self.flux), np.median(np.abs(self.flux)) if len(self.flux) else 1.0)
        self.n_pixel, self.model_error = len(self.flux), model_error
        self.rejected = np.zeros(self.n_pixel, dtype=bool)
        self.pieces, self.basis = [], []
        for pixels in _pieces(self.wavelength, piece):
            x = self.wavelength[pixels]
            middle, half = (x[0] + x[-1]) / 2, max((x[-1] - x[0]) / 2, 1e-9)
            self.pieces.append(pixels)
            self.basis.append(legvander((x - middle) / half, min(degree, len(x) // _PIXELS_PER_TERM)))
        self.n_term = sum(basis.shape[1] for basis in self.basis)
        self.weight = 1 / self.sigma

    def add_model_error(self, continuum):
        """Let the errors grow by that of the model, which is relative to the continuum."""
        self.weight = 1 / np.hypot(self.sigma, self.model_error * continuum)

    def reject(self, residual, factor):
        """Let pixels far from a model count for nothing; return whether there are any that did count."""
        usual = robust_rms(residual[self.weight > 0])
        # without errors residuals have no scale but their own
        far = np.abs(residual) > factor * (max(usual, 1.0) if self.has_sigma else usual)
        self.rejected |= far
        self.weight = np.where(far, 0.0, self.weight)
        return far.any()

    def project(self, model, slopes=None):
        """Fit the continuum to a model; return it, the residuals and their slopes in the parameters.

        Parameters are ``(n_pixel,)`` and ``(n_pixel, n_free)``.
        """
        continuum, residual = np.empty(self.n_pixel), np.empty(self.n_pixel)
        jacobian = None if slopes is None else np.empty(slopes.shape)
        for pixels, basis in zip(self.pieces, self.basis, strict=True):
            weight = self.weight[pixels]
            q, r = np.linalg.qr(basis * (model[pixels] * weight)[:, None])
            target = self.flux[pixels] * weight
            term = q.T @ target
            continuum[pixels] = basis @ np.linalg.lstsq(r, term, rcond=None)[0]
            residual[pixels] = target - q @ term
            if slopes is not None:
                moved = slopes[pixels] * (continuum[pixels] * weight)[:, None]
                jacobian[pixels] = -(moved - q @ (q.T @ moved))
        return continuum, residual, jacobian


def _pieces(wavelength, longest):
    """Return the pieces of a spectrum as slices."""
    if not len(wavelength):
        return []
    ends = np.concatenate(([0], np.flatnonzero(np.diff(np.log(wavelength)) > _GAP) + 1, [len(wavelength)]))
    longest = np.inf if longest is None else to_numbers("piece", longest, "AA", scalar=True)
    if not longest > 0:
        raise InputValueError(f"piece: {longest:g}; expected a positive length in Angstrom")
    found = []
    for first, last in zip(ends[:-1], ends[1:], strict=True):
        x = wavelength[first:last]
        n_part = max(int(np.ceil((x[-1] - x[0]) / longest)), 1)
        inner = np.searchsorted(x, np.linspace(x[0], x[-1], n_part + 1)[1:-1]) + first
        found += [slice(a, b) for a, b in zip((first, *inner), (*inner, last), strict=True) if b > a]
    return found


class _Model:
    """Spectra of the emulator as a function of the free parameters alone."""

    def __init__(self, emulator, free, given, wavelength):
        self.emulator, self.free, self.given, self.wavelength = emulator, free, given, wavelength
        self.ranges = emulator.label_ranges | _INSTRUMENT_RANGES
        self.ranges["resolving_power"] = (10.0, emulator.base_resolving_power)
        for name, value in given.items():
            low, high = self.ranges[name]
            if not low <= value <= high:
                raise InputValueError(f"{name}: {value:g}; expected a value from {low:g} to {high:g}")

    def split(self, values, labels):
        """Return a row of labels and the parameters of the instrument for values of the free ones."""
        row, instrument = labels.copy(), dict(self.given)
        for name, value in zip(self.free, values, strict=True):
            if name in self.emulator.label_names:
                row[self.emulator.label_names.index(name)] = value
            else:
                instrument[name] = value
        return row, instrument

    def __call__(self, values, labels):
        """Return flux ``(n_pixel,)`` and slopes ``(n_pixel, n_free)``."""
        row, instrument = self.split(values, labels)
        row = torch.from_numpy(row[None]).to(self.emulator.device)
        flux, slopes = flux_jacobian(self.emulator, row, self.free, wavelength=self.wavelength, **instrument)
        return flux[0].cpu().numpy(), slopes[0].cpu().numpy()


def _complete(model, known, values):
    """Return a row of labels: free ones as given, known ones, and the rest as follows from these."""
    free = {k: v for k, v in zip(model.free, values, strict=True) if k in model.emulator.label_names}
    return label_array(known | free, model.emulator.label_names, model.ranges)


def _starting_points(model, data, known, n_start):
    """Return values of the free parameters of the random stars that fit best."""
    names = model.emulator.label_names
    middle = {name: np.mean(model.ranges[name]) for name in names}
    starts = []
    for index in range(_N_RANDOM):
        star = draw_labels(_SEED, index) if set(names) <= set(SYNTHESIS_LABELS) else middle
        values = [
            np.clip(star[name], *_within(model.ranges[name])) if name in names else model.given[name]
            for name in model.free
        ]
        starts.append((np.array(values), _complete(model, known, values)))
    flux = []
    with torch.inference_mode():
        for batch in np.array_split(np.array([row for _, row in starts]), _N_RANDOM // 32):
            rows = torch.from_numpy(batch).to(model.emulator.device)
            flux.append(model.emulator.flux(rows, wavelength=model.wavelength, **model.given).cpu().numpy())
    flux = np.concatenate(flux)
    order = np.argsort([(data.project(one)[1] ** 2).sum() for one in flux])[:n_start]
    data.add_model_error(np.abs(data.project(flux[order[0]])[0]))
    return [starts[i][0] for i in order]


def _within(limits):
    low, high = limits
    return low + 1e-3 * (high - low), high - 1e-3 * (high - low)


def _search(model, data, values, known):
    """Return the result of the search and all labels, with defaults that depend on free labels."""
    from scipy.optimize import least_squares

    bounds = np.array([model.ranges[name] for name in model.free]).T
    for _ in range(2):
        row = _complete(model, known, values)
        cache = {}

        def project(values, row=row, cache=cache):
            key = values.tobytes()
            if key not in cache:
                cache.clear()
                cache[key] = data.project(*model(values, row))
            return cache[key]

        result = least_squares(
            lambda values: project(values)[1],
            np.clip(values, *np.apply_along_axis(_within, 0, bounds)),
            lambda values: project(values)[2],
            bounds=bounds,
            x_scale=0.05 * (bounds[1] - bounds[0]),
            max_nfev=60,
            ftol=1e-7,
        )
        values = result.x
        moved = np.abs(_complete(model, known, values) - row) / np.maximum(np.abs(row), 1e-3)
        # labels that are neither free nor known may have followed teff and logg
        held = [i for i, name in enumerate(model.emulator.label_names) if name not in model.free]
        if not held or moved[held].max() < 0.02:
            break
    return result, row


def _result(model, data, result, row):
    """Return a `LabelFit`."""
    values = result.x
    flux, slopes = model(values, row)
    continuum, residual, jacobian = data.project(flux, slopes)
    n_freedom = data.n_pixel - int(data.rejected.sum()) - len(values) - data.n_term
    square = float(residual @ residual)
    scale = np.abs(jacobian).max(axis=0) + 1e-300
    inverse = np.linalg.pinv((jacobian / scale).T @ (jacobian / scale), rcond=1e-13) / np.outer(scale, scale)
    excess = square / n_freedom
    covariance = inverse * (max(excess, 1.0) if data.has_sigma else excess)
    row, instrument = model.split(values, row)
    low, high = np.array([model.ranges[name] for name in model.free]).T
    at_edge = np.minimum(values - low, high - values) < 2e-3 * (high - low)
    return LabelFit(
        labels=dict(zip(model.emulator.label_names, row.tolist(), strict=True)) | instrument,
        errors=dict(zip(model.free, np.sqrt(np.diagonal(covariance)).tolist(), strict=True)),
        free=model.free,
        covariance=covariance,
        at_edge=tuple(np.array(model.free)[at_edge].tolist()),
        wavelength=data.wavelength[~data.rejected],
        rejected=data.wavelength[data.rejected],
        flux=(data.flux / continuum)[~data.rejected],
        model=flux[~data.rejected],
        continuum=continuum[~data.rejected],
        chi2=square if data.has_sigma else float("nan"),
        n_freedom=n_freedom,
        converged=bool(result.success and result.status > 0),
    )
