"""From pixels on any grid to vectors of patches."""

import torch
from torch import nn

from .embedding import error_features
from .precision import float64, without_autocast

__all__ = ["PatchEmbedding", "ascending", "assign_patches", "interpolation"]

# over how many median spacings two pixels are still neighbours
_REACH = 4.0
# steps between four pixels that are still even: one of them may be twice the others, and a little more
_UNEVEN = 2.2


def _spacing(x, good, default):
    """Return the steps between neighbours, NaN beside bad pixels, and the median step of each star."""
    if x.shape[1] < 2:
        return x[:, 1:], x.new_full((len(x),), default)
    spacing = torch.where(good[:, 1:] & good[:, :-1], torch.diff(x, dim=1), torch.nan)
    typical = spacing.nanmedian(dim=1).values
    return spacing, torch.where(typical > 0, typical, default)


def interpolation(x, good, place, default):
    """Return pixels and weights for interpolation between the pixels of each star.

    Cubic between four pixels that are about evenly spaced, with one missing at most; linear between two; the
    nearest pixel at the ends; nothing in gaps of more than four median spacings.

    Parameters
    ----------
    x : torch.Tensor
        ``(n_star, n_pixel)`` float64, ascending, good pixels first.
    good : torch.Tensor
        ``(n_star, n_pixel)`` bool.
    place : torch.Tensor
        ``(n_star, n_place)`` float64, where to interpolate.
    default : float
        Median spacing of stars with a single pixel.

    Returns
    -------
    index : torch.Tensor
        ``(4, n_star, n_place)`` int64, pixels to use.
    weight : torch.Tensor
        ``(4, n_star, n_place)`` float32, with which weights; 0 where there is nothing near.
    presence : torch.Tensor
        ``(n_star, n_place)`` float32, 1 between neighbours, less where pixels are missing.
    """
    typical = _spacing(x, good, default)[1][:, None]
    x = torch.where(good, x, torch.inf).contiguous()
    n_good = good.sum(dim=1, keepdim=True)
    right = torch.searchsorted(x, place.contiguous())
    last = (n_good - 1).clamp(min=0)
    index = torch.stack([torch.minimum((right + shift).clamp(min=0), last) for shift in (-2, -1, 0, 1)])
    # how far each of the four pixels is to the left, in spacings: from here on single precision will do
    off = [((place - torch.gather(x, 1, i)) / typical).float() for i in index]
    before, gap, after = off[0] - off[1], off[1] - off[2], off[2] - off[3]
    between = (right > 0) & (right < n_good) & (gap <= _REACH)
    least, most = torch.minimum(torch.minimum(before, gap), after), torch.maximum(torch.maximum(before, gap), after)
    even = between & (right > 1) & (right < n_good - 1) & (most <= _UNEVEN * least)
    closest = off[1].abs() <= off[2].abs()
    touching = ~between & (torch.minimum(off[1].abs(), off[2].abs()) <= 0.75)

    # Lagrange's polynomials, where steps are even, so that no two pixels coincide
    inner, outer = off[1] * off[2], off[0] * off[3]
    three, other = before + gap, gap + after
    four = before + other
    cubic = (
        -inner * off[3] / (before * three * four),
        outer * off[2] / (before * gap * other),
        -outer * off[1] / (three * gap * after),
        inner * off[0] / (four * other * after),
    )
    share = torch.where(gap > 0, off[1] / gap, 0.5)
    left, right_share = (torch.where(between, s, touching & c) for s, c in ((1 - share, closest), (share, ~closest)))
    weight = torch.stack([torch.where(even, c, w) for c, w in zip(cubic, (0.0, left, right_share, 0.0), strict=True)])
    presence = torch.where(between, (1.5 / gap.clamp(min=1e-30)).clamp(max=1.0), touching.float())
    usable = n_good > 0
    return index, torch.where(usable, weight, 0.0), torch.where(usable, presence, 0.0)


def assign_patches(wavelength, good, *, patch_size, patch_width, patch_anchor):
    """Lay pixels into patches of equal width in ln(wavelength).

    Edges lie on a fixed grid, so that a missing pixel moves nothing. A star's
    patches are ``patch_width`` wide, or that divided by the power of two that
    leaves at most ``patch_size`` pixels (at the median spacing) in each.

    Parameters
    ----------
    wavelength : torch.Tensor
        ``(n_star, n_pixel)`` float64 [Angstrom], ascending among good pixels.
    good : torch.Tensor
        ``(n_star, n_pixel)`` bool.
    patch_size : int
        Knots of a patch and largest number of pixels in it.
    patch_width, patch_anchor : float
        Largest width in ln(wavelength); wavelength of an edge [Angstrom].

    Returns
    -------
    patch : torch.Tensor
        ``(n_star, n_pixel)`` int64, number of the pixel's patch in its star.
    knot : torch.Tensor
        ``(n_star, n_pixel)`` float32, place in the patch, 0 .. patch_size - 1.
    weight : torch.Tensor
        ``(n_star, n_pixel)`` float32, width of the pixel in knots; 0 if bad.
    center, width : torch.Tensor
        ``(n_star, n_patch)`` float64: central wavelength [Angstrom] (0 where
        the patch has no good pixel) and width in ln(wavelength).
    """
    x = torch.log(torch.where(good, wavelength, patch_anchor) / patch_anchor)  # (n_star, n_pixel)
    spacing, typical = _spacing(x, good, patch_width / patch_size)
    # a hair of tolerance, so that rounding does not decide the level
    level = torch.ceil(torch.log2(patch_width / (patch_size * typical)) - 1e-6).clamp(min=0)
    width = patch_width * torch.exp2(-level)  # (n_star,)

    position = x / width[:, None]
    cell = torch.floor(position)
    knot = ((position - cell) * (patch_size - 1)).to(torch.float32)
    new = torch.ones_like(good)
    new[:, 1:] = cell[:, 1:] != cell[:, :-1]
    # number the cells that hold good pixels, in order of wavelength
    patch = (torch.cumsum(new & good, dim=1) - 1).clamp(min=0)
    n_patch = int(patch.max()) + 1 if patch.numel() else 1

    reach = _REACH * typical[:, None]
    step = torch.minimum(torch.nan_to_num(spacing, nan=torch.inf), reach)
    left = torch.cat((step[:, :1], step), dim=1)
    right = torch.cat((step, step[:, -1:]), dim=1)
    lonely = (left >= reach) & (right >= reach)
    left, right = (torch.where(side >= reach, other, side) for side, other in ((left, right), (right, left)))
    size = torch.where(lonely, typical[:, None], 0.5 * (left + right))
    weight = torch.where(good, size / width[:, None] * (patch_size - 1), 0.0).to(torch.float32)

    middle = patch_anchor * torch.exp((cell + 0.5) * width[:, None])
    center = wavelength.new_zeros(len(wavelength), n_patch)
    center.scatter_reduce_(1, patch, torch.where(good, middle, 0.0), "amax")
    return patch, knot, weight, center, width[:, None].expand(-1, n_patch)


def ascending(wavelength, good):
    """Return the order in which good pixels ascend and come first.

    Parameters
    ----------
    wavelength : torch.Tensor
        ``(n_star, n_pixel)``.
    good : torch.Tensor
        ``(n_star, n_pixel)`` bool.

    Returns
    -------
    torch.Tensor
        ``(n_star, n_most_good)`` int64, numbers of pixels.
    """
    n_good = good.sum(dim=1, keepdim=True)
    n_most = max(int(n_good.max()), 1) if len(good) else 1
    highest = torch.where(good, wavelength, -torch.inf).cummax(dim=1).values
    if bool((good & (wavelength < highest)).any()):
        return torch.argsort(torch.where(good, wavelength, torch.inf), dim=1, stable=True)[:, :n_most]
    # as nearly always, they ascend already: move the bad ones behind
    place = torch.where(good, good.cumsum(dim=1) - 1, n_good + (~good).cumsum(dim=1) - 1)
    number = torch.arange(good.shape[1], device=good.device).expand_as(place)
    return torch.empty_like(place).scatter_(1, place, number)[:, :n_most]


def _convolutions(n_in, channels):
    """Return convolutions over the knots of patches, ``(n_patch, n_in, n_knot)`` to ``(n_patch, n_out)``."""
    layers = []
    for i, n_out in enumerate(channels, start=1):
        size, stride = (7, 2) if i < len(channels) else (5, 4)
        layers += [nn.Conv1d(n_in, n_out, size, stride, padding=size // 2), nn.GELU()]
        n_in = n_out
    return nn.Sequential(*layers, nn.Flatten())


class PatchEmbedding(nn.Module):
    """One vector a patch of pixels, on any wavelength grid.

    With ``patch_knots="sum"``, functions of the place in the patch, piecewise
    linear between ``patch_size`` knots, are evaluated at each good pixel,
    multiplied with values of the pixel (flux, its arcsinh, its error, its
    presence) and summed with the width of the pixel. On a fixed grid this is the
    linear projection of a patch; elsewhere the sums beat with the distance of
    pixels and knots. With ``"interpolate"`` they are interpolated at the knots.

    The sums are whitened with the principal components of the training
    patches, frozen in the weights: neighbouring pixels are so alike that
    without it the first layer learns the continuum long before the lines.
    Patches of each width have a whitening of their own, up to
    ``patch_levels`` widths: lines are narrow in some and wide in others.

    Convolutions over the knots (``patch_convolutions``) see the sums before whitening: the shape
    of a line is learnt once for all places. They start without effect, so that training can go
    on with them from weights without them.

    Parameters
    ----------
    config : ModelConfig
        Uses ``embedding_dim`` and the ``patch_`` fields.
    encoding : torch.nn.Module
        Encoding of the central wavelength.
    n_flux : int, optional
        Number of kinds of flux; each pixel has the number of its kind.
    """

    #: flux, arcsinh of flux, smallness of its error, presence of the error, presence of the pixel
    n_channel = 5
    # form on disk, see `StellarPerceptron.save`: those of the widest patches, which take differences of large numbers,
    # in half precision, the others in bytes
    stored = {"components": "levels"}

    def __init__(self, config, encoding, n_flux=1):
        super().__init__()
        self.config, self.encoding = config, encoding
        n_in, n_component = self.n_channel * config.patch_size, config.patch_components
        # standardised value of zero flux of each kind; set with the standardisation
        self.register_buffer("flux_zero", torch.zeros(() if n_flux == 1 else n_flux))
        levels = () if config.patch_levels == 1 else (config.patch_levels,)
        self.register_buffer("feature_mean", torch.zeros(*levels, n_in))
        self.register_buffer("components", torch.eye(n_in)[:, :n_component].expand(*levels, -1, -1).clone())
        self.dense_1 = nn.Linear(n_component, config.patch_dense)
        self.convolutions = self.dense_convolved = None
        if config.patch_convolutions:
            self.convolutions = _convolutions(self.n_channel, config.patch_convolutions)
            with torch.no_grad():
                n_convolved = self.convolutions(torch.zeros(1, self.n_channel, config.patch_size)).shape[1]
            self.dense_convolved = nn.Linear(n_convolved, config.patch_dense, bias=False)
            nn.init.zeros_(self.dense_convolved.weight)
        self.modulate = config.patch_place == "modulate"
        n_place = config.patch_dense * (2 if self.modulate else 1)
        self.place = nn.Linear(config.channels + 1, n_place, bias=False)
        self.dense_2 = nn.Linear(config.patch_dense, config.embedding_dim)

    def features(self, value, sigma, wavelength, good, kind=None):
        """Sum the pixels of each patch onto its knots.

        Parameters
        ----------
        value, sigma : torch.Tensor
            ``(n_star, n_pixel)`` float32, standardised.
        wavelength : torch.Tensor
            ``(n_star, n_pixel)`` float64 [Angstrom].
        good : torch.Tensor
            ``(n_star, n_pixel)`` bool.
        kind : torch.Tensor, optional
            ``(n_star, n_pixel)`` int64, kind of flux; needed where there are several.

        Returns
        -------
        features : torch.Tensor
            ``(n_star, n_patch, n_channel * patch_size)`` float32.
        center, width : torch.Tensor
            ``(n_star, n_patch)`` float64, see `assign_patches`.
        """
        config, n_knot = self.config, self.config.patch_size
        wavelength = float64(wavelength)
        order = ascending(wavelength, good.to(wavelength.device))
        wavelength, here = torch.gather(wavelength, 1, order), torch.gather(good.to(wavelength.device), 1, order)
        patch, knot, weight, center, width = assign_patches(
            wavelength,
            here,
            patch_size=n_knot,
            patch_width=config.patch_width,
            patch_anchor=config.patch_anchor,
        )
        patch, knot, weight, order = (t.to(value.device) for t in (patch, knot, weight, order))
        value, sigma, good = (torch.gather(t, 1, order) for t in (value, sigma, good))
        value = torch.where(good, value, 0.0)
        precision, known = error_features(sigma if config.flux_error_input else torch.full_like(sigma, torch.nan))
        zero = self.flux_zero if kind is None else torch.gather(self.flux_zero[kind], 1, order)
        compressed = torch.asinh((value - zero) / config.asinh_softening) - 3.0
        channels = torch.stack((value, compressed, precision, known, torch.ones_like(value)), dim=1)
        n_star, n_patch = center.shape
        if config.patch_knots == "interpolate":
            summed = self._interpolated(channels, wavelength, here, center, width)
            return summed.view(n_star, self.n_channel, n_patch, n_knot).transpose(1, 2).flatten(2), center, width

        channels = channels * weight[:, None]  # (n_star, n_channel, n_pixel)
        lower = knot.floor().clamp(max=n_knot - 2)
        share = (knot - lower)[:, None]
        index = (patch * n_knot + lower.to(torch.int64))[:, None].expand_as(channels)
        summed = channels.new_zeros(n_star, self.n_channel, n_patch * n_knot)
        summed.scatter_add_(2, index, channels * (1 - share))
        summed.scatter_add_(2, index + 1, channels * share)
        summed = summed.view(n_star, self.n_channel, n_patch, n_knot).transpose(1, 2)
        return summed.flatten(2), center, width

    def _interpolated(self, channels, wavelength, good, center, width):
        """Return channels ``(n_star, n_channel, n_patch * n_knot)`` between pixels, 0 where there are none near."""
        config = self.config
        knots = torch.linspace(-0.5, 0.5, config.patch_size, dtype=width.dtype, device=width.device)
        # patches without pixels have a centre of 0: there is nothing near
        middle = torch.log(center.clamp(min=1e-3) / config.patch_anchor)
        place = (middle[..., None] + width[..., None] * knots).flatten(1)
        x = torch.log(torch.where(good, wavelength, config.patch_anchor) / config.patch_anchor)
        index, weight, presence = interpolation(x, good, place, config.patch_width / config.patch_size)
        index, weight, presence = (t.to(channels.device) for t in (index, weight, presence))
        found = 0.0
        for i, w in zip(index, weight, strict=True):
            picked = torch.gather(channels[:, :-1], 2, i[:, None].expand(-1, self.n_channel - 1, -1))
            found = found + picked * (w * presence)[:, None]
        return torch.cat((found, presence[:, None]), dim=1)

    def _levels(self, width):
        """Return how many times the width was halved, and the number of the whitening, of patches."""
        halved = torch.log2(self.config.patch_width / width)
        return halved, halved.round().long().clamp(0, self.config.patch_levels - 1)

    @torch.no_grad()
    def set_components(self, batches, floor=1e-4):
        """Set the whitening from training patches.

        The whitening of a width with few patches is drawn towards that of all widths: as many
        average patches as a patch has features are added to its own.

        Parameters
        ----------
        batches : iterable of (torch.Tensor, torch.Tensor)
            ``(n_patch, n_channel * patch_size)`` features of patches, and their width
            ``(n_patch,)``.
        floor : float, optional
            Variance added to each component, so that noise is not blown up.
        """
        n_level, (n_in, n_component) = self.config.patch_levels, self.components.shape[-2:]
        count = torch.zeros(n_level, dtype=torch.float64)
        total = torch.zeros(n_level, n_in, dtype=torch.float64)
        square = torch.zeros(n_level, n_in, n_in, dtype=torch.float64)
        for features, width in batches:
            _, level = self._levels(width.cpu())
            for k in level.unique().tolist():
                some = float64(features[(level == k).to(features.device)])
                count[k] += len(some)
                total[k] += some.sum(dim=0).cpu()
                square[k] += (some.T @ some).cpu()
        n_prior = 0 if n_level == 1 else n_in
        share = (n_prior / count.sum()).item()
        for k in range(n_level):
            n = count[k] + n_prior
            mean = (total[k] + share * total.sum(dim=0)) / n
            covariance = (square[k] + share * square.sum(dim=0)) / n - torch.outer(mean, mean)
            variance, vectors = torch.linalg.eigh(covariance)
            # eigh sorts upwards: the last are the strongest
            variance, vectors = variance.flip(0), vectors.flip(1)
            scale = torch.rsqrt(variance.clamp(min=0) + floor)[:n_component]
            self.feature_mean.view(n_level, n_in)[k].copy_(mean)
            self.components.view(n_level, n_in, n_component)[k].copy_(vectors[:, :n_component] * scale)

    def _whiten(self, features, level):
        """Return ``(n_star, n_patch, n_component)``."""
        mean, components = self.feature_mean.float(), self.components.float()
        if self.config.patch_levels == 1:
            return (features - mean) @ components
        level = level.to(features.device)
        white = features.new_zeros(*features.shape[:-1], components.shape[-1])
        for k in level.unique().tolist():
            chosen = level == k
            white[chosen] = (features[chosen] - mean[k]) @ components[k]
        return white

    def forward(self, value, sigma, wavelength, good, kind=None):
        """Embed the pixels of each star.

        Parameters
        ----------
        value, sigma, wavelength, good, kind : torch.Tensor
            ``(n_star, n_pixel)``, see `features`.

        Returns
        -------
        vectors : torch.Tensor
            ``(n_star, n_patch, embedding_dim)``.
        pad_mask : torch.Tensor
            ``(n_star, n_patch)`` bool, True where there is no patch.
        """
        with without_autocast(value):
            features, center, width = self.features(value.float(), sigma.float(), wavelength, good, kind)
            halved, level = self._levels(width)
            white = self._whiten(features, level)
            encoding = self.encoding(center)  # (n_star, n_patch, n_channel of the encoding)
            place = torch.cat((encoding, 0.1 * halved.to(encoding)[..., None]), dim=-1).to(value.device)
        dtype = self.dense_1.weight.dtype
        hidden, place = self.dense_1(white.to(dtype)), self.place(place.to(dtype))
        if self.convolutions is not None:
            knots = features.unflatten(-1, (self.n_channel, -1)).flatten(0, 1).to(dtype)
            hidden = hidden + self.dense_convolved(self.convolutions(knots)).view_as(hidden)
        if self.modulate:
            place, scale = place.chunk(2, dim=-1)
            hidden = hidden * (1 + scale)
        hidden = nn.functional.gelu(hidden + place)
        # the sum that all blocks add to stays in the precision of the weights, also under autocast
        vectors = self.dense_2(hidden).to(dtype)  # (n_star, n_patch, embedding_dim)
        return vectors + encoding.tile(self.config.encoding_copies).to(vectors), (center == 0).to(value.device)
