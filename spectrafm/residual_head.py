"""Labels learnt from few stars: a Gaussian process on top of what a trained model makes of spectra."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ._kernels import matern, squared_distance
from ._numerics import mad_std
from .exceptions import InputTypeError
from .stellarperceptron import Perception, StellarPerceptron
from .stellarperceptron.tokens import Tokens

__all__ = ["ResidualHead", "encode_for_head", "fit_residual_head"]

# hyperparameters, all logarithms, with mean and standard deviation of their priors: amplitude and lengths of
# the smooth part in leading features and in all others, variance of slopes in both and of the offset, noise of
# its own, and factor on the predicted error
_PRIORS = {
    "amplitude": (-1.0, 1.0),
    "leading_length": (1.0, 0.7),
    "other_length": (2.0, 0.7),
    "leading_slope": (-4.0, 1.5),
    "other_slope": (-4.0, 1.5),
    "offset": (-1.0, 1.5),
    "noise": (-1.0, 1.0),
    "error": (-1.0, 1.5),
}
_JITTER = 1e-6
# beyond so many sigma a star counts less, and most components of the embedding
_OUTLIER, _N_COMPONENT = 3.0, 12
_N_ITERATION = 80
# times that errors of labels are brought down to the scatter, which they have widened
_N_RESCALED = 3


@dataclass
class _PerceptionForHead(Perception):
    """What a model made of spectra and of what else is known; it tells the embedding of the spectra alone, too."""

    model: StellarPerceptron | None = None
    tokens: Tokens | None = None
    alone: "_PerceptionForHead | None" = None

    @cached_property
    def embedding(self):
        """Embeddings ``(n_star, embedding_dim)`` of spectra alone, NaN for stars without a pixel."""
        if self.alone is not None:
            return self.alone.embedding
        tokens = self.tokens
        # only pixels have a wavelength
        more = (tokens.token != 0) & (tokens.wavelength == 0)
        if not more.any():
            return self.pooled
        pixels = replace(
            tokens,
            token=tokens.token.masked_fill(more, 0),
            value=tokens.value.masked_fill(more, 0.0),
            sigma=tokens.sigma.masked_fill(more, torch.nan),
        )
        return self.model.perceive_tokens(pixels.compact()).pooled


def encode_for_head(model, tokens, alone=None):
    """Encode stars as a head needs them: what is known besides the spectrum must not move the embedding.

    Parameters
    ----------
    model : StellarPerceptron
        A trained model.
    tokens : Tokens
        Pixels, and quantities that are known: resolving power, labels, magnitudes.
    alone : Perception, optional
        What this function made of the same pixels with fewer quantities, where that is at hand.

    Returns
    -------
    Perception
        Of all tokens. The pixels alone are encoded when a head first asks for their embedding, unless all tokens are
        pixels or ``alone`` is given.
    """
    perception = model.perceive_tokens(tokens)
    return _PerceptionForHead(perception.memory, perception.empty, perception.made_by, model, tokens, alone)


@dataclass
class _Process:
    """A Gaussian process of one label, in units of ``scale``, and what it was fitted to."""

    features: torch.Tensor  # (n_star, n_feature) float64
    target: torch.Tensor  # (n_star,)
    variance: torch.Tensor  # (n_star,) of the targets, without the noise that is fitted
    predicted_error: torch.Tensor  # (n_star,)
    hyper: torch.Tensor  # (len(_PRIORS),)
    scale: float
    n_leading: int
    is_correction: bool  # of what the model says, and not a label that it does not know

    def __post_init__(self):
        covariance = self._kernel(self.features, self.features)
        noise = self.variance + self._noise(self.predicted_error)
        self._root = torch.linalg.cholesky(covariance + torch.diag(noise + _JITTER))
        self._solved = torch.cholesky_solve(self.target[:, None], self._root)[:, 0]

    def _hyper(self):
        return dict(zip(_PRIORS, self.hyper, strict=True))

    def _kernel(self, a, b):
        return _kernel(a, b, self._hyper(), self.n_leading, self.is_correction)

    def _noise(self, predicted_error):
        hyper = self._hyper()
        return torch.exp(2 * hyper["noise"]) + torch.exp(2 * hyper["error"]) * predicted_error**2

    def __call__(self, features, predicted_error):
        """Return mean and standard deviation, ``(n_star,)`` each."""
        across = self._kernel(features, self.features)
        mean = across @ self._solved
        half = torch.linalg.solve_triangular(self._root, across.T, upper=False)
        own = _variance(features, self._hyper(), self.n_leading, self.is_correction)
        variance = (own - (half**2).sum(dim=0)).clamp(min=0) + self._noise(predicted_error / self.scale)
        return mean * self.scale, variance.sqrt() * self.scale

    def leave_one_out(self):
        """Return the residual of each star, predicted from all others, and what is expected of it."""
        inverse = torch.cholesky_inverse(self._root).diagonal()
        return self._solved / inverse, inverse.rsqrt()


def _kernel(a, b, hyper, n_leading, is_correction):
    """Return the covariance of the functions at two sets of features, ``(n, m)``."""
    a_leading, b_leading, a_other, b_other = a[:, :n_leading], b[:, :n_leading], a[:, n_leading:], b[:, n_leading:]
    square = squared_distance(a_leading, b_leading) * torch.exp(-2 * hyper["leading_length"])
    square = square + squared_distance(a_other, b_other) * torch.exp(-2 * hyper["other_length"])
    smooth = matern(square, torch.exp(2 * hyper["amplitude"]))
    linear = torch.exp(hyper["leading_slope"]) * a_leading @ b_leading.T
    if not is_correction:
        # a correction must not run away along directions that a hundred stars say little of
        linear = linear + torch.exp(hyper["other_slope"]) * (a_other @ b_other.T)
    return smooth + linear + torch.exp(hyper["offset"])


def _variance(a, hyper, n_leading, is_correction):
    """Return the covariance `_kernel` of the functions at each set of features with themselves, ``(n,)``."""
    linear = torch.exp(hyper["leading_slope"]) * (a[:, :n_leading] ** 2).sum(1)
    if not is_correction:
        linear = linear + torch.exp(hyper["other_slope"]) * (a[:, n_leading:] ** 2).sum(1)
    return torch.exp(2 * hyper["amplitude"]) + linear + torch.exp(hyper["offset"])


def _fit_process(features, target, error, predicted_error, n_leading, is_correction):
    """Fit a process to residuals ``(n_star,)``; the most probable hyperparameters decide."""
    from scipy.optimize import minimize

    # SciPy's statistics, which no other part of inference needs, take long to import
    from .calibration import truth_error_factor

    scale = mad_std(target) or float(np.std(target)) or 1.0
    prior = torch.tensor(list(_PRIORS.values()), dtype=torch.float64)
    arrays = (torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in (features, target, error))
    features, target, error = arrays
    target, variance = target / scale, (error / scale) ** 2
    predicted = torch.from_numpy(predicted_error / scale)

    def objective(flat, variance):
        hyper = torch.from_numpy(np.array(flat)).requires_grad_()
        named = dict(zip(_PRIORS, hyper, strict=True))
        noise = variance + torch.exp(2 * named["noise"]) + torch.exp(2 * named["error"]) * predicted**2 + _JITTER
        kernel = _kernel(features, features, named, n_leading, is_correction)
        root = torch.linalg.cholesky(kernel + torch.diag(noise))
        half = torch.linalg.solve_triangular(root, target[:, None], upper=False)
        loss = 0.5 * (half**2).sum() + root.diagonal().log().sum()
        loss = loss + 0.5 * (((hyper - prior[:, 0]) / prior[:, 1]) ** 2).sum()
        loss.backward()
        return loss.item(), hyper.grad.numpy()

    start = prior[:, 0].numpy()
    bounds = [(mean - 5, mean + 5) for mean in start]

    def fit(start, variance):
        options = {"maxiter": _N_ITERATION}
        found = minimize(objective, start, variance, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        hyper = torch.from_numpy(found.x)
        return found.x, _Process(features, target, variance, predicted, hyper, scale, n_leading, is_correction)

    start, process = fit(start, variance)
    for _ in range(_N_RESCALED):
        # errors of the labels that are larger than the scatter about what all others say would hide what is there
        residual, expected = (array.numpy() for array in process.leave_one_out())
        own = np.sqrt(np.clip(expected**2 - variance.numpy(), 1e-12, None))
        factor = truth_error_factor(residual, own, np.zeros(len(own)), variance.sqrt().numpy())
        if factor == 1:
            break
        variance = variance * factor**2
        start, process = fit(start, variance)
    # a star far from what all others say has a wrong label more often than a strange spectrum
    residual, expected = process.leave_one_out()
    z = (residual / expected).abs()
    if bool((z > _OUTLIER).any()):
        noise = variance + process._noise(predicted)
        process = fit(start, variance + noise * ((z / _OUTLIER) ** 2 - 1).clamp(min=0))[1]
    return process


class ResidualHead:
    """Corrects the labels of a model, and predicts new ones.

    Each label is what the model says of it, if it knows it, plus a Gaussian process on
    the labels that the model predicts and on the strongest components of its embedding.
    Far from the stars that it was fitted to, the process says nothing and its error grows:
    what is left is the model's own answer. That answer makes use of all that is known of a star,
    while the embedding is that of the spectrum alone: known quantities would move it away from those of
    the stars that the process was fitted to.

    Parameters
    ----------
    inputs : sequence of str
        Labels of the model whose predictions are looked at.
    n_leading : int
        The first so many of them are those that are corrected: corrections are smooth in
        all, and linear in these alone.
    log : sequence of str
        Labels whose logarithm is predicted.
    space : dict of str to numpy.ndarray
        ``input_mean``, ``input_scale`` ``(n_input,)`` and ``embedding_mean`` ``(embedding_dim,)``,
        ``embedding_vectors`` ``(embedding_dim, n_component)``.
    processes : dict of str to _Process
        By name of the label.
    before : ResidualHead, optional
        Head whose answers are corrected, instead of those of the model.
    reads_spectrum_alone : bool, optional
        Whether it was fitted to embeddings of spectra alone. Heads of files that do not say so were fitted to
        embeddings of the spectra and their resolving power, where it was known, and answer as they did.
    """

    def __init__(self, inputs, n_leading, log, space, processes, before=None, *, reads_spectrum_alone=True):
        self.inputs, self.n_leading, self.log = tuple(inputs), n_leading, tuple(log)
        self.space, self.processes, self.before = space, processes, before
        self.reads_spectrum_alone = reads_spectrum_alone

    @property
    def labels(self):
        """Names of the labels that it predicts."""
        return tuple(self.processes)

    def __call__(self, model, perception, labels):
        """Return labels of perceived stars.

        Parameters
        ----------
        model : StellarPerceptron
            The model that the head was fitted on.
        perception : Perception
            The stars, from `encode_for_head`.
        labels : sequence of str
            Names, among those that the head predicts.

        Returns
        -------
        values, errors : numpy.ndarray
            ``(n_star, n_label)`` in physical units; NaN for empty stars.
        """
        seen = _look(model, perception, self.inputs, self.log, self.before, self.reads_spectrum_alone)
        usable = np.isfinite(seen.embedding).all(axis=1)
        values, errors = np.full((2, len(usable), len(labels)), np.nan)
        if not usable.any():
            return values, errors
        features = torch.from_numpy(_features(seen, self.space)[usable])
        for column, name in enumerate(labels):
            base, base_error = seen.of(name)
            correction, error = self.processes[name](features, torch.from_numpy(base_error[usable]))
            value, error = base[usable] + correction.numpy(), error.numpy()
            if name in self.log:
                value = np.exp(value)
                error = error * value
            values[usable, column], errors[usable, column] = value, error
        return values, errors

    def state(self):
        """Return all numbers, to be saved.

        Returns
        -------
        dict of str to torch.Tensor
        """
        state = {f"space.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in self.space.items()}
        for name, process in self.processes.items():
            for k in ("features", "target", "variance", "predicted_error", "hyper"):
                state[f"{name}.{k}"] = getattr(process, k).contiguous()
            state[f"{name}.scale"] = torch.tensor([process.scale], dtype=torch.float64)
        if self.before is not None:
            state |= {f"before.{k}": v for k, v in self.before.state().items()}
        return state

    def settings(self):
        """Return all names, as plain JSON types.

        Returns
        -------
        dict
        """
        before = {} if self.before is None else {"before": self.before.settings()}
        settings = {"inputs": list(self.inputs), "n_leading": self.n_leading, "log": list(self.log)}
        return settings | {"labels": list(self.labels), "reads_spectrum_alone": self.reads_spectrum_alone} | before

    @classmethod
    def from_state(cls, settings, state):
        """Build from what `settings` and `state` returned.

        Parameters
        ----------
        settings : dict
            Names.
        state : dict of str to torch.Tensor
            Numbers.

        Returns
        -------
        ResidualHead
        """
        space = {k.removeprefix("space."): v.numpy() for k, v in state.items() if k.startswith("space.")}
        names = ("features", "target", "variance", "predicted_error", "hyper")
        inputs, n_leading = settings["inputs"], settings["n_leading"]
        processes = {
            name: _Process(
                *(state[f"{name}.{k}"] for k in names), state[f"{name}.scale"].item(), n_leading, name in inputs
            )
            for name in settings["labels"]
        }
        before = None
        if "before" in settings:
            inner = {k.removeprefix("before."): v for k, v in state.items() if k.startswith("before.")}
            before = cls.from_state(settings["before"], inner)
        alone = settings.get("reads_spectrum_alone", False)
        return cls(inputs, n_leading, settings["log"], space, processes, before, reads_spectrum_alone=alone)


@dataclass
class _Seen:
    """What a model makes of stars, in units of the labels or of their logarithms."""

    names: tuple
    values: np.ndarray  # (n_star, n_input)
    errors: np.ndarray
    embedding: np.ndarray  # (n_star, embedding_dim) float64

    def of(self, name):
        """Return value and error of one label, 0 where the model does not know it."""
        if name not in self.names:
            return np.zeros((2, len(self.values)))
        column = self.names.index(name)
        return self.values[:, column], self.errors[:, column]


def _look(model, perception, names, log, before=None, alone=True):
    if alone and not isinstance(perception, _PerceptionForHead):
        raise InputTypeError(
            f"perception: {type(perception).__name__} without the embedding of spectra alone, which this head reads; "
            "expected what perceive of the weights with this head returns"
        )
    base = model.request(perception, list(names)) if before is None else before(model, perception, names)
    values, errors = (array.copy() for array in base)
    for column, name in enumerate(names):
        if name in log:
            errors[:, column] /= values[:, column]
            values[:, column] = np.log(values[:, column])
    embedding = perception.embedding if alone else perception.pooled
    return _Seen(tuple(names), values, errors, embedding.astype(np.float64))


def _features(seen, space):
    labels = (seen.values - space["input_mean"]) / space["input_scale"]
    return np.concatenate((labels, (seen.embedding - space["embedding_mean"]) @ space["embedding_vectors"]), axis=1)


def fit_residual_head(model, perception, inputs, truth, *, log=(), before=None):
    """Fit a head to stars with labels.

    Parameters
    ----------
    model : StellarPerceptron
        A trained model.
    perception : Perception
        The stars, as it perceives them, from `encode_for_head`.
    inputs : sequence of str
        Labels to predict for such stars.
    truth : dict of str to (numpy.ndarray, numpy.ndarray)
        Values and errors ``(n_star,)`` of the labels to learn, in physical units; NaN where not
        known.
    log : sequence of str, optional
        Labels whose logarithm is predicted.
    before : ResidualHead, optional
        Head that predicts the inputs, in place of the model.

    Returns
    -------
    ResidualHead
    """
    leading = [name for name in inputs if name in truth]
    inputs, n_leading = (*leading, *(name for name in inputs if name not in truth)), len(leading)
    log = tuple(name for name in log if name in (*inputs, *truth))
    seen = _look(model, perception, tuple(inputs), log, before)
    n_component = min(_N_COMPONENT, max(len(seen.values) // 6, 1))
    mean = seen.embedding.mean(axis=0)
    _, size, vectors = np.linalg.svd(seen.embedding - mean, full_matrices=False)
    size = np.maximum(size[:n_component] / np.sqrt(len(seen.values)), 1e-9)
    spread = seen.values.std(axis=0)
    space = {
        "input_mean": seen.values.mean(axis=0),
        "input_scale": np.where(spread > 0, spread, 1.0),
        "embedding_mean": mean,
        "embedding_vectors": vectors[:n_component].T / size,
    }
    features, processes = _features(seen, space), {}
    for name, (values, errors) in truth.items():
        base, base_error = seen.of(name)
        errors = np.nan_to_num(errors, nan=0.0)
        if name in log:
            errors, values = errors / values, np.log(values)
        known = np.isfinite(values)
        arrays = (features[known], (values - base)[known], errors[known], base_error[known])
        processes[name] = _fit_process(*arrays, n_leading, name in inputs)
    return ResidualHead(inputs, n_leading, log, space, processes, before)
