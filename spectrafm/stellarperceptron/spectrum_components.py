"""Spectra as sums of principal components, and their coefficients by least squares."""

import math

import torch
from torch import nn

from .._numerics import MAD_TO_STD
from .patches import ascending, interpolation
from .precision import float64, float64_device

__all__ = ["FARTHEST", "SpectrumComponents", "identity", "inverse"]

# least variance that is not in a flux error [standardised flux]
_LEAST = 1e-6
# deviation of artefacts, in standard deviations and in those that are usual in the spectrum
_ARTEFACT = 8.0
# numbers of components at pixels that are held at a time, for the sake of memory
_AT_A_TIME = 2**24
#: Largest input of networks, in standard deviations of their training stars; larger ones are clipped.
FARTHEST = 6.0


class SpectrumComponents(nn.Module):
    """Principal components of training spectra; any spectrum is taken as a sum of them.

    Coefficients are found by least squares over the good pixels, weighted by errors: gaps and noise make
    coefficients uncertain, not wrong.

    Parameters
    ----------
    ends : tuple of float
        First and last wavelength [Angstrom, vacuum].
    n_knot : int
        Places, even in ln(wavelength), at which spectra are compared.
    n_component : int
        Number of components.
    """

    # forms on disk, see `StellarPerceptron.save`
    stored = {"rest": "half", "components": "smooth"}

    def __init__(self, ends, n_knot, n_component):
        super().__init__()
        self.ends = tuple(ends)
        # ln(wavelength) of the first knot, and from one to the next
        self.first = math.log(ends[0])
        self.step = (math.log(ends[1]) - self.first) / (n_knot - 1)
        # error of pixels without a given one
        self.register_buffer("usual_error", torch.ones(()))
        self.register_buffer("mean", torch.zeros(n_knot))
        # variance that the components leave
        self.register_buffer("rest", torch.zeros(n_knot))
        # with coefficients of about 1
        self.register_buffer("components", torch.zeros(n_component, n_knot))

    def knots(self, value, wavelength, good):
        """Interpolate spectra without noise at the knots.

        Parameters
        ----------
        value : torch.Tensor
            ``(n_star, n_pixel)`` standardised flux.
        wavelength : torch.Tensor
            ``(n_star, n_pixel)`` float64 [Angstrom].
        good : torch.Tensor
            ``(n_star, n_pixel)`` bool.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_knot)``, NaN where there is nothing near.
        """
        wavelength, good = float64(wavelength), good.to(wavelength.device)
        order = ascending(wavelength, good)
        wavelength, here = torch.gather(wavelength, 1, order), torch.gather(good, 1, order)
        place = self.first + self.step * torch.arange(len(self.mean), dtype=torch.float64, device=wavelength.device)
        x = torch.log(torch.where(here, wavelength, self.ends[0]))
        index, share, presence = interpolation(x, here, place.expand(len(x), -1), self.step)
        index, share, presence, order = (t.to(value.device) for t in (index, share, presence, order))
        value = torch.gather(value, 1, order)
        flux = sum(torch.gather(value, 1, i) * s for i, s in zip(index, share, strict=True))
        return torch.where(presence > 0, flux, torch.nan)

    def normal_equations(self, value, sigma, wavelength, good):
        """Return the matrix and the right side of least squares for the coefficients.

        Parameters
        ----------
        value, sigma, wavelength, good
            As for `knots`.

        Returns
        -------
        matrix : torch.Tensor
            ``(n_star, n_component, n_component)``.
        right : torch.Tensor
            ``(n_star, n_component)``.
        """
        index, share, inside = self._between(wavelength)
        index, share = index.to(value.device), share.to(value.device)
        good = good & inside.to(good.device)
        value = torch.where(good, value, 0.0)
        sigma = torch.where(torch.isfinite(sigma), sigma, self.usual_error)
        table = torch.cat((self.components, self.mean[None], self.rest[None])).T.contiguous()
        n_component, n_pixel = len(self.components), max(value.shape[1], 1)
        matrix, right = [], []
        some = max(_AT_A_TIME // (table.shape[1] * n_pixel), 1)
        for i, w, flux, error, there in zip(*(t.split(some) for t in (index, share, value, sigma, good)), strict=True):
            # components, mean, and variance, at each pixel
            here = nn.functional.embedding_bag(i.flatten(0, 1), table, mode="sum", per_sample_weights=w.flatten(0, 1))
            here = here.view(*flux.shape, table.shape[1])
            weight = there / (error**2 + here[..., -1].clamp(min=_LEAST))
            weighted = here[..., :n_component] * weight[..., None]
            matrix.append(weighted.mT @ here[..., :n_component])
            right.append((weighted.mT @ (flux - here[..., -2])[..., None]).squeeze(-1))
        if not matrix:
            return value.new_zeros(0, n_component, n_component), value.new_zeros(0, n_component)
        return torch.cat(matrix), torch.cat(right)

    def sound_equations(self, value, sigma, wavelength, good):
        """Return the matrix and the right side of least squares without artefacts.

        Parameters
        ----------
        value, sigma, wavelength, good
            As for `knots`.

        Returns
        -------
        matrix, right : torch.Tensor
            As from `normal_equations`, and the same for stars that have no artefact.
        """
        matrix, right = self.normal_equations(value, sigma, wavelength, good)
        with torch.no_grad():
            spoilt = self.artefacts(value, sigma, wavelength, good, self.coefficients(matrix, right)[0])
            rows = spoilt.any(dim=1)
        if not rows.any():
            return matrix, right
        *its, there = (t[rows.to(t.device)] for t in (value, sigma, wavelength, good))
        with torch.no_grad():
            # a large artefact pulls the sum of components away from good pixels
            without = self.normal_equations(*its, there & ~spoilt[rows].to(there.device))
            spoilt = self.artefacts(*its, there, self.coefficients(*without)[0])
        better = self.normal_equations(*its, there & ~spoilt.to(there.device))
        return tuple(t.index_put((rows,), b) for t, b in zip((matrix, right), better, strict=True))

    def artefacts(self, value, sigma, wavelength, good, coefficient):
        """Return pixels far from the sum of components, as cosmic rays and defects are.

        Parameters
        ----------
        value, sigma, wavelength, good
            As for `knots`.
        coefficient : torch.Tensor
            ``(n_star, n_component)`` from `coefficients`.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_pixel)`` bool, on the device of ``value``.
        """
        if not value.shape[1]:
            return torch.zeros_like(value, dtype=torch.bool)
        index, share, inside = (t.to(value.device) for t in self._between(wavelength))
        knots = coefficient @ self.components + self.mean, self.rest.expand(len(value), -1)
        flux, rest = ((k.gather(1, index.flatten(1)).view(share.shape) * share).sum(dim=-1) for k in knots)
        sigma = torch.where(torch.isfinite(sigma), sigma, self.usual_error)
        off = (value - flux).abs() / torch.sqrt(sigma**2 + rest.clamp(min=_LEAST))
        off = torch.where(good.to(value.device) & inside, off, torch.nan)
        # lines that are wrong everywhere are no artefacts; NaN, of stars without pixels, is no limit that is exceeded
        usual = MAD_TO_STD * off.nanmedian(dim=1, keepdim=True).values
        return off > _ARTEFACT * usual.clamp(min=1.0)

    def _between(self, wavelength):
        """Return four knots around each pixel, their weights in cubic interpolation, and where there are any."""
        n_knot = len(self.mean)
        place = (torch.log(float64(wavelength).clamp(min=1.0)) - self.first) / self.step
        inside = (place >= 0) & (place <= n_knot - 1)
        left = place.floor().clamp(1, max(n_knot - 3, 1))
        x = (place - left).float().clamp(-1, 2)
        index = left.long()[..., None] + torch.arange(-1, 3, device=left.device)
        share = torch.stack(
            (
                -x * (x - 1) * (x - 2) / 6,
                (x + 1) * (x - 1) * (x - 2) / 2,
                -(x + 1) * x * (x - 2) / 2,
                (x + 1) * x * (x - 1) / 6,
            ),
            dim=-1,
        )
        return index, share, inside

    def projected(self, flux):
        """Return the coefficients of spectra without noise.

        Parameters
        ----------
        flux : torch.Tensor
            ``(n_star, n_knot)``, from `knots`.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_component)``.
        """
        apart = (flux - self.mean).nan_to_num()
        return apart @ self.components.T / (self.components**2).sum(dim=1).clamp(min=1e-12)

    def coefficients(self, matrix, right):
        """Return the coefficients of spectra and their variances, with the distribution of coefficients as a prior.

        Parameters
        ----------
        matrix, right : torch.Tensor
            From `normal_equations`.

        Returns
        -------
        coefficient, variance : torch.Tensor
            ``(n_star, n_component)``.
        """
        covariance = inverse(float64(matrix) + identity(matrix))
        found = (covariance @ float64(right)[..., None]).squeeze(-1)
        return found.to(right), covariance.diagonal(dim1=1, dim2=2).to(right)


def identity(matrix):
    """Return the identity beside matrices.

    Parameters
    ----------
    matrix : torch.Tensor
        ``(..., n, n)``; sets the size and the device.

    Returns
    -------
    torch.Tensor
        ``(n, n)`` float64, on the CPU where the device has none.
    """
    return torch.eye(matrix.shape[-1], dtype=torch.float64, device=float64_device(matrix.device))


def inverse(matrix):
    """Return the inverse of symmetric matrices without negative eigenvalues.

    Parameters
    ----------
    matrix : torch.Tensor
        ``(n_star, n, n)`` float64.

    Returns
    -------
    torch.Tensor
        ``(n_star, n, n)`` float64, the identity where rounding gave a matrix negative eigenvalues.
    """
    root, failed = torch.linalg.cholesky_ex(0.5 * (matrix + matrix.mT))
    return torch.cholesky_inverse(torch.where((failed > 0)[..., None, None], identity(matrix), root))
