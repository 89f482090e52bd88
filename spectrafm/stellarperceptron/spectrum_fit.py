"""Labels from a whole spectrum at once: least squares with its principal components."""

import math

import torch
from torch import nn

from .precision import float64, without_autocast
from .spectrum_components import FARTHEST, SpectrumComponents, identity, inverse

__all__ = ["SpectrumFit"]

# Gauss-Newton steps, and the longest of them in standard deviations of a parameter
_STEPS, _LONGEST = 4, 1.0
# standard deviation of known parameters that are given without one, and about that of guesses
_EXACT, _OF_GUESS = 0.02, 0.1
# smallest and largest root mean square deviation of lines that is looked for [standardised flux], and in how many steps
_LINE_ERRORS, _N_LINE_ERROR = (3e-3, 3.0), 16
# part of the expected squared deviation below which lines are right
_RIGHT = 0.5
# logarithm of the misfit of spectra that cannot be fitted
_ABSURD = 20.0


class SpectrumFit(SpectrumComponents):
    """Parameters of stars by a fit to the whole spectrum, with components and networks learnt from training stars.

    One network guesses parameters from the coefficients of a spectrum, and another predicts coefficients
    from parameters. Gauss-Newton steps, starting from the guess, find the parameters whose coefficients fit
    best, given the noise, the errors of the second network, the distribution of parameters among training
    stars, and known parameters. If no parameters fit as usual, lines are taken to be wrong, in ways learnt
    from training stars with other lines, by the amount that makes the spectrum most likely. Pixels that no sum of
    components explains, as cosmic rays and defects, are left out.

    Parameters
    ----------
    ends : tuple of float
        First and last wavelength [Angstrom, vacuum].
    n_knot : int
        Places, even in ln(wavelength), at which spectra are compared.
    n_component : int
        Number of components.
    dense : int
        Width of the network from parameters to coefficients; the network that guesses has a quarter of it.
    n_parameter : int
        Number of parameters: standardised labels, and the logarithm of the resolving power.
    """

    # forms on disk, see `StellarPerceptron.save`: labels follow from small differences of its coefficients
    stored = SpectrumComponents.stored | dict.fromkeys((f"response_{i}.weight" for i in (1, 2, 3)), "half")
    stored |= {"unexplained": "matrix", "other_lines": "matrix"}

    def __init__(self, ends, n_knot, n_component, dense, n_parameter):
        super().__init__(ends, n_knot, n_component)
        self.n_parameter = n_parameter
        # root of the covariance of coefficients about those that follow from the parameters
        self.register_buffer("unexplained", torch.zeros(n_component, n_component))
        # root of the covariance that other lines give coefficients, for a root mean square deviation of 1
        self.register_buffer("other_lines", torch.zeros(n_component, n_component))
        # logarithm of the factor on errors of spectra that show other lines than training stars
        self.register_buffer("doubt", torch.zeros(()))
        self.register_buffer("prior_mean", torch.zeros(n_parameter))
        self.register_buffer("prior_precision", torch.eye(n_parameter))
        self.register_buffer("lowest", torch.full((n_parameter,), -FARTHEST))
        self.register_buffer("highest", torch.full((n_parameter,), FARTHEST))
        # a guess need not be good, only near enough
        narrow = max(dense // 4, 1)
        self.guess_1 = nn.Linear(2 * n_component, narrow)
        self.guess_2 = nn.Linear(narrow, narrow)
        self.guess_3 = nn.Linear(narrow, n_parameter)
        self.response_1 = nn.Linear(n_parameter, dense)
        self.response_2 = nn.Linear(dense, dense)
        self.response_3 = nn.Linear(dense, n_component)

    def guess(self, coefficient, variance):
        """Guess parameters from coefficients.

        Parameters
        ----------
        coefficient, variance : torch.Tensor
            From `coefficients`.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_parameter)``.
        """
        seen = torch.cat((coefficient.clamp(-FARTHEST, FARTHEST), variance), dim=1)
        hidden = nn.functional.gelu(self.guess_2(nn.functional.gelu(self.guess_1(seen))))
        return self.guess_3(hidden)

    def response(self, parameter):
        """Return the coefficients for parameters.

        Parameters
        ----------
        parameter : torch.Tensor
            ``(n_star, n_parameter)``.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_component)``.
        """
        gelu = nn.functional.gelu
        return self.response_3(gelu(self.response_2(gelu(self.response_1(parameter)))))

    def _response(self, parameter):
        """Return the coefficients, and their derivatives ``(n_star, n_component, n_parameter)``."""
        first = self.response_1(parameter)
        second = self.response_2(nn.functional.gelu(first))
        derivative = _slope(first)[..., None] * self.response_1.weight
        derivative = _slope(second)[..., None] * (self.response_2.weight @ derivative)
        return self.response_3(nn.functional.gelu(second)), self.response_3.weight @ derivative

    def forward(self, value, sigma, wavelength, good, known=None, known_sigma=None):
        """Fit stars.

        Parameters
        ----------
        value, sigma, wavelength, good
            As for `knots`.
        known, known_sigma : torch.Tensor, optional
            ``(n_star, n_parameter)`` parameters that are known and their standard deviations,
            standardised; NaN where not known.

        Returns
        -------
        parameter, log_variance : torch.Tensor
            ``(n_star, n_parameter)``, standardised.
        misfit : torch.Tensor
            ``(n_star,)`` logarithm of the mean squared deviation of coefficients from the fit, in units of
            the value expected for right lines.
        line_error : torch.Tensor
            ``(n_star,)`` root mean square deviation of lines [standardised flux], 0 where they may be right.
        """
        with without_autocast(value):
            matrix, right = self.sound_equations(value.float(), sigma.float(), wavelength, good)
            return self.fit(matrix, right, known, known_sigma)

    def fit(self, matrix, right, known=None, known_sigma=None):
        """Return the parameters that fit coefficients best.

        Parameters
        ----------
        matrix, right : torch.Tensor
            From `normal_equations`.
        known, known_sigma : torch.Tensor, optional
            See `forward`.

        Returns
        -------
        parameter, log_variance, misfit, line_error : torch.Tensor
            See `forward`.
        """
        with torch.no_grad():
            coefficient, variance = self.coefficients(matrix, right)
            parameter = self.guess(coefficient, variance)
        prior = self.prior_mean.expand_as(parameter), self.prior_precision.expand(len(parameter), -1, -1)
        if known is not None:
            parameter, prior = self._with_known(parameter, known, known_sigma)
        parameter = parameter.clamp(self.lowest, self.highest)
        # errors of the response add to the variance of each coefficient
        wide, target = float64(matrix), float64(right)
        root = float64(self.unexplained)
        seen = wide @ root
        lost = seen @ inverse(root.T @ seen + identity(matrix))
        wide, target = _without(wide, target, lost, seen, root)
        with torch.no_grad():
            best, deviation = self._descended(parameter, wide.to(right), target.to(right), prior)
            deviation = deviation + (coefficient * target.to(right)).sum(dim=1)
            misfit = torch.log((deviation / coefficient.shape[1]).clamp(min=1e-2))
            line_error = torch.zeros_like(misfit)
            # coefficients that pixels do not constrain have no expected deviation
            odd = (deviation > _RIGHT * (1 - variance).sum(dim=1)) & (misfit < _ABSURD)
        if odd.any():
            some = odd.to(wide.device)
            its = self._with_other_lines(best[odd], wide[some], target[some], tuple(t[odd] for t in prior))
            best[odd], weight, aim, line_error[odd] = its
            wide, target = wide.index_put((some,), weight), target.index_put((some,), aim)
        # one more step, from there, carries the dependence of labels on the flux
        move, covariance, _ = self._step(best, wide.to(right), target.to(right), prior)
        found = (best + move).clamp(self.lowest, self.highest)
        log_variance = torch.log(covariance.diagonal(dim1=1, dim2=2).clamp(min=1e-12))
        # no information from stars without a spectrum
        absurd = ~(torch.isfinite(found).all(dim=1) & torch.isfinite(log_variance).all(dim=1) & torch.isfinite(misfit))
        found = torch.where(absurd[:, None], prior[0], found)
        log_variance = torch.where(absurd[:, None], 0.0, log_variance)
        return found, log_variance, torch.where(absurd, _ABSURD, misfit), torch.where(absurd, 0.0, line_error)

    def _with_known(self, guess, known, known_sigma):
        """Return guesses, and mean and precision of the distribution of parameters, where some are known."""
        error = torch.where(torch.isfinite(known_sigma), known_sigma.clamp(min=_EXACT), _EXACT)
        more = torch.where(torch.isfinite(known), error**-2, 0.0)
        pull = more * known.nan_to_num()
        guess = (guess + _OF_GUESS**2 * pull) / (1 + _OF_GUESS**2 * more)
        precision = self.prior_precision + torch.diag_embed(more)
        pull = pull + self.prior_mean @ self.prior_precision
        return guess, ((inverse(float64(precision)).to(pull) @ pull[..., None]).squeeze(-1), precision)

    def _descended(self, parameter, weight, target, prior):
        """Return the best of some steps, and its squared deviation."""
        best, least = parameter, None
        for _ in range(_STEPS):
            move, _, deviation = self._step(parameter, weight, target, prior)
            least = deviation if least is None else least
            better = (deviation <= least)[:, None]
            best, least = torch.where(better, parameter, best), torch.minimum(deviation, least)
            # from the best so far, and half as far where the last step was too long
            parameter = torch.where(better, parameter + move, 0.5 * (parameter + best))
            parameter = parameter.clamp(self.lowest, self.highest)
        deviation = self._deviation(self.response(parameter), parameter, weight, target, prior)
        better = deviation <= least
        return torch.where(better[:, None], parameter, best), torch.where(better, deviation, least)

    def _with_other_lines(self, best, wide, target, prior):
        """Return parameters, weights, targets and line errors of stars when lines are as wrong as is most likely."""
        with torch.no_grad():
            root = float64(self.other_lines)
            seen = wide @ root
            overlap = root.T @ seen
            tried = torch.linspace(*(math.log(x) for x in _LINE_ERRORS), _N_LINE_ERROR, dtype=torch.float64)
            tried = tried.to(wide.device).expand(len(wide), -1)
            step = (tried[:1, 1] - tried[:1, 0]) * torch.tensor((-1.0, 0.0, 1.0), device=wide.device)
        for _ in range(2):
            with torch.no_grad():
                left = target - (wide @ float64(self.response(best))[..., None]).squeeze(-1)
                likely = _likeliest(left @ root, overlap, tried)
                tried = likely[:, None] + step
                variance = torch.exp(2 * likely)[:, None, None]
                lost = seen @ (variance * inverse(identity(wide) + variance * overlap))
            # labels depend on the flux by way of these
            weight, aim = _without(wide, target, lost, seen, root)
            with torch.no_grad():
                best, _ = self._descended(best, weight.to(best), aim.to(best), prior)
        return best, weight, aim, torch.exp(likely).to(best)

    def _step(self, parameter, weight, target, prior):
        """Return the next Gauss-Newton step, the covariance, and the squared deviation, up to a constant."""
        coefficient, derivative = self._response(parameter)
        weighted = derivative.mT @ weight
        gradient = (derivative.mT @ target[..., None]).squeeze(-1) - (weighted @ coefficient[..., None]).squeeze(-1)
        mean, precision = prior
        gradient = gradient + (precision @ (mean - parameter)[..., None]).squeeze(-1)
        curvature = weighted @ derivative + precision
        covariance = inverse(float64(curvature)).to(parameter)
        move = (covariance @ gradient[..., None]).squeeze(-1)
        move = move * (_LONGEST / move.abs().amax(dim=1, keepdim=True).clamp(min=_LONGEST))
        return move, covariance, self._deviation(coefficient, parameter, weight, target, prior)

    def _deviation(self, coefficient, parameter, weight, target, prior):
        """Return the squared deviation of coefficients and parameters from their expected values, up to a constant."""
        deviation = (coefficient * ((weight @ coefficient[..., None]).squeeze(-1) - 2 * target)).sum(dim=1)
        mean, precision = prior
        away = (mean - parameter)[..., None]
        return deviation + (away * (precision @ away)).sum(dim=(1, 2))


def _without(wide, target, lost, seen, root):
    """Return weights and targets, marginalised over deviations of coefficients with covariance ``root @ root.T``."""
    return wide - lost @ seen.mT, target - (lost @ (target @ root)[..., None]).squeeze(-1)


def _likeliest(left, overlap, tried):
    """Return the likeliest size of line errors, interpolated between logarithms in equal steps.

    ``left`` are the deviations along the errors, ``overlap`` are weights along them; minus infinity where no error is
    likelier than any.
    """
    gain = []
    for variance in torch.exp(2 * tried).T:
        root, failed = torch.linalg.cholesky_ex(identity(overlap) + variance[:, None, None] * overlap)
        along = torch.linalg.solve_triangular(root, left[..., None], upper=False).squeeze(-1)
        more = variance * (along**2).sum(dim=1) - 2 * torch.log(root.diagonal(dim1=1, dim2=2)).sum(dim=1)
        gain.append(torch.where(failed > 0, 0.0, more))
    gain = torch.stack(gain, dim=1)
    place = gain.argmax(dim=1, keepdim=True).clamp(1, gain.shape[1] - 2)
    below, here, above = (gain.gather(1, place + k).squeeze(1) for k in (-1, 0, 1))
    # the top of the parabola through three of them
    bend = below - 2 * here + above
    shift = torch.where(bend < 0, 0.5 * (below - above) / bend, 0.0).clamp(-1, 1)
    found = tried.gather(1, place).squeeze(1) + shift * (tried[:, 1] - tried[:, 0])
    return torch.where(gain.amax(dim=1) > 0, found, -torch.inf)


def _slope(x):
    """Return the derivative of the GELU."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2.0))) + x * torch.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
