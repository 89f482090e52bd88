"""What goes into the model: padded batches of tokens, and tables of them.

A token is a known value with a name: the flux of a pixel (with its wavelength)
or a named quantity (label, magnitude). A token that is not known, a NaN, does
not exist: it is dropped here, the same way in training and in inference.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .._numerics import split_mask
from ..exceptions import InputTypeError, InputValueError
from .precision import float64_device

__all__ = ["TokenTable", "Tokens", "as_names", "as_native", "evenly", "in_columns", "places_among"]


def as_native(array, dtype=None):
    """Return an array in native byte order, which is what torch accepts, with NaN where it is masked.

    Parameters
    ----------
    array : array_like
        Numbers of any byte order; masked arrays, those of astropy and lists of them too.
    dtype : dtype, optional
        Floating type wanted; the array's own when left out, or float64 where integers are masked.

    Returns
    -------
    numpy.ndarray
        The array itself where nothing has to change.
    """
    if isinstance(array, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in array):
        array = np.ma.asarray(array)
    array, mask = split_mask(array)
    array = np.asarray(array)
    # what single precision cannot hold is infinite
    with np.errstate(over="ignore"):
        array = np.asarray(array, dtype=array.dtype.newbyteorder("=") if dtype is None else dtype)
    if not np.any(mask):
        return array
    return np.where(mask, np.nan, array)


def as_names(names):
    """Return names as a tuple; a string is one name.

    Parameters
    ----------
    names : str or iterable of str
        The names.

    Returns
    -------
    tuple of str
    """
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def evenly(good, n_pixel):
    """Return at most so many of the good pixels of a star, evenly chosen.

    Parameters
    ----------
    good : numpy.ndarray
        bool, one a pixel.
    n_pixel : int
        Most pixels to keep.

    Returns
    -------
    numpy.ndarray
        bool, of the same shape.
    """
    place = np.flatnonzero(good)
    if len(place) > n_pixel:
        place = place[np.round(np.linspace(0, len(place) - 1, n_pixel)).astype(int)]
    kept = np.zeros_like(good)
    kept[place] = True
    return kept


def places_among(tokens, n_token):
    """Return the place of each token among some of them.

    Parameters
    ----------
    tokens : sequence of int
        Some tokens, in their order.
    n_token : int
        Number of tokens that there are, padding among them.

    Returns
    -------
    torch.Tensor
        ``(n_token,)`` int64, -1 for those that are not among them.
    """
    tokens = torch.as_tensor(tokens, dtype=torch.int64)
    place = torch.full((n_token,), -1)
    place[tokens] = torch.arange(len(tokens))
    return place


def in_columns(place, n_column, values):
    """Return values by their places.

    Parameters
    ----------
    place : torch.Tensor
        ``(n_star, n_token)`` int64, from `places_among`.
    n_column : int
        Number of places.
    values : torch.Tensor
        ``(n_star, n_token)``; those at -1 do not matter.

    Returns
    -------
    torch.Tensor
        ``(n_star, n_column)``, NaN where there is none.
    """
    columns = torch.full((len(values), n_column + 1), torch.nan, dtype=values.dtype, device=values.device)
    # whatever has no place has the last column, -1
    return columns.scatter(1, place % (n_column + 1), values)[:, :-1]


@dataclass
class Tokens:
    """A padded batch of tokens, values standardised.

    Attributes
    ----------
    token : torch.Tensor
        ``(n_star, n_token)`` int64, 0 where padded.
    value : torch.Tensor
        ``(n_star, n_token)`` float32, standardised; 0 where padded.
    sigma : torch.Tensor
        ``(n_star, n_token)`` float32, standard deviation of ``value`` in
        standardised units; NaN where not known.
    wavelength : torch.Tensor
        ``(n_star, n_token)`` float64 [Angstrom, vacuum, rest frame]; 0 for
        tokens that have none.
    """

    token: torch.Tensor
    value: torch.Tensor
    sigma: torch.Tensor
    wavelength: torch.Tensor

    def __len__(self):
        """Return the number of stars."""
        return len(self.token)

    @property
    def pad_mask(self):
        """True where there is no token, ``(n_star, n_token)``."""
        return self.token == 0

    def to(self, device):
        """Move to a device.

        Wavelengths stay where float64 exists: on the CPU for a device without it.

        Parameters
        ----------
        device : torch.device or str
            Where to.

        Returns
        -------
        Tokens
        """
        wavelength = self.wavelength.to(float64_device(device))
        return Tokens(self.token.to(device), self.value.to(device), self.sigma.to(device), wavelength)

    def compact(self, pad_to=None):
        """Drop the padding that no star needs, keeping the order of the tokens.

        Parameters
        ----------
        pad_to : int, optional
            Pad to this many tokens, where the fullest star has fewer.

        Returns
        -------
        Tokens
        """
        n_token = int((self.token != 0).sum(dim=1).max()) if len(self) else 0
        n_token = max(n_token, 1 if pad_to is None else pad_to)
        # a stable sort by "is padding" moves the tokens to the front in their order
        order = torch.argsort(self.pad_mask.to(torch.uint8), dim=1, stable=True)[:, :n_token]
        missing = n_token - order.shape[1]

        def take(values, fill):
            values = torch.gather(values, 1, order)
            return torch.nn.functional.pad(values, (0, missing), value=fill) if missing > 0 else values

        return Tokens(
            take(self.token, 0),
            take(self.value, 0.0),
            take(self.sigma, float("nan")),
            take(self.wavelength, 0.0),
        )


@dataclass
class TokenTable:
    """Stars with spectra and named quantities: what a model is trained on.

    Arrays are kept as they come (memory maps too) and read a batch at a time; what is masked counts as NaN.
    Lists become arrays.

    Attributes
    ----------
    flux : array_like
        ``(n_star, n_pixel)``; NaN where there is no good pixel. Nor is there one where the flux or the
        wavelength is infinite or no wavelength is given.
    wavelength : array_like
        ``(n_pixel,)`` or ``(n_star, n_pixel)`` [Angstrom, vacuum, rest frame].
    sigma : array_like or None
        ``(n_star, n_pixel)`` standard deviation of the flux; NaN where not known, as is what is negative or
        infinite.
    values : array_like
        ``(n_star, n_quantity)`` named quantities in physical units, NaN where missing.
    errors : array_like or None
        ``(n_star, n_quantity)`` their standard deviations, NaN where not known. Negative or infinite ones count as
        not known for inputs and are refused for targets.
    names : str or sequence of str
        Names of the quantities, each once.
    flux_name : str or sequence of str
        Name of the flux token, one for all pixels or one a pixel (paper).
    extinction : array_like or None
        A(wavelength) / A(V) at the wavelengths, in their shape; needed where training reddens stars.

    Raises
    ------
    InputValueError
        Shapes that do not agree, or repeated names.
    InputTypeError
        Something else than arrays of numbers.
    """

    flux: np.ndarray
    wavelength: np.ndarray
    sigma: np.ndarray | None
    values: np.ndarray
    errors: np.ndarray | None
    names: tuple
    flux_name: str | tuple = "flux"
    extinction: np.ndarray | None = None

    def __post_init__(self):
        """Check the shapes against each other."""
        for name in ("flux", "wavelength", "sigma", "values", "errors", "extinction"):
            if (array := getattr(self, name)) is not None:
                setattr(self, name, _numbers(name, array))
        if np.ndim(self.flux) != 2:
            raise InputValueError(f"flux: shape {np.shape(self.flux)}, expected (n_star, n_pixel); reshape it")
        n_star, n_pixel = np.shape(self.flux)
        self.names = as_names(self.names)
        if repeated := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise InputValueError(f"names: {', '.join(repeated)} more than once; each column needs its own name")
        expected = {
            "wavelength": ((n_pixel,), (n_star, n_pixel)),
            "sigma": ((n_star, n_pixel),),
            "values": ((n_star, len(self.names)),),
            "errors": ((n_star, len(self.names)),),
            "extinction": (np.shape(self.wavelength),),
        }
        for name, shapes in expected.items():
            array = getattr(self, name)
            if array is None and name in ("sigma", "errors", "extinction"):
                continue
            if np.shape(array) not in shapes:
                raise InputValueError(
                    f"{name}: shape {np.shape(array)}, expected {' or '.join(map(str, shapes))} "
                    f"to go with flux of shape {(n_star, n_pixel)} and {len(self.names)} names"
                )

        if not isinstance(self.flux_name, str) and np.shape(self.flux_name) != (n_pixel,):
            raise InputValueError(
                f"flux_name: shape {np.shape(self.flux_name)}, expected one name or one a pixel, ({n_pixel},)"
            )

    def __len__(self):
        """Return the number of stars."""
        return np.shape(self.flux)[0]

    def column(self, name):
        """Return the values of one named quantity.

        Parameters
        ----------
        name : str
            Name of the quantity.

        Returns
        -------
        numpy.ndarray
            ``(n_star,)`` float64.
        """
        if name not in self.names:
            raise InputValueError(f"name: {name!r} is not in the table; it has {', '.join(self.names)}")
        return as_native(self.values[:, self.names.index(name)], np.float64)


def _numbers(name, array):
    """Return a field of a table as what can be indexed as arrays are; memory maps and the like stay as they are."""
    if not (hasattr(array, "dtype") and hasattr(array, "shape")):
        try:
            array = as_native(array)
        except ValueError as error:
            raise InputValueError(f"{name}: rows of different lengths, expected an array ({error})") from error
    if getattr(array.dtype, "kind", "f") not in "fiub":
        raise InputTypeError(f"{name}: of type {array.dtype}, expected an array of numbers")
    return array
