"""Spectra from labels in milliseconds, by emulators trained on grids of synthetic spectra."""

import warnings
from pathlib import Path

import numpy as np
import torch

from .._spectral_units import check_spectral_axis, doppler_factor
from ..exceptions import InputValueError, SpectraFMWarning
from .emulator_files import PROCESS, read_emulator, write_emulator
from .emulator_labels import label_array, label_inputs, label_unit, to_numbers
from .gaussian_process import GaussianProcess
from .instrument import observe

__all__ = ["Emulator", "load_emulator"]

_PRETRAINED = Path(__file__).parents[1] / "pretrained" / "emulators"
_IN_META = ("resolving_power", "vsini", "vmacro")
# stars at a time
_BATCH = 256


class Emulator:
    r"""Continuum-normalised spectra of stars in a window, as smooth functions of their labels.

    With the absorption :math:`A = -\ln F`, its square root is expanded in principal
    components, whose coefficients a Gaussian process gives: :math:`F = \exp(-y^2)` with
    :math:`y = \bar y + \sum_k z_k(\mathrm{labels}) c_k`. So the flux lies between 0 and
    1, and small errors of y leave the continuum where it is.

    Most users start from `load_emulator`.

    Parameters
    ----------
    info : EmulatorInfo
        Labels, ranges, wavelengths and provenance.
    tensors : dict of str to torch.Tensor
        ``mean`` ``(n_pixel,)`` and ``components`` ``(n_component, n_pixel)`` of y,
        ``input_mean`` and ``input_scale`` ``(n_input,)``, and the fields of the
        `~spectrafm.synthesis.gaussian_process.GaussianProcess`, all of one floating
        type on one device.

    Examples
    --------
    >>> from spectrafm.synthesis import load_emulator
    >>> emulator = load_emulator("apogee")  # doctest: +SKIP
    >>> emulator.spectrum(teff=4800, logg=2.5, fe_h=-0.3, resolving_power=22500)  # doctest: +SKIP
    """

    def __init__(self, info, tensors):
        self.info, self._tensors = info, dict(tensors)
        self._process = GaussianProcess(*(self._tensors[name] for name in PROCESS))
        #: Wavelengths, ``(n_pixel,)`` float64 [Angstrom, vacuum, rest frame], even in the logarithm.
        self.wavelength = info.first_wavelength * np.exp(info.log_step * np.arange(info.n_pixel))

    def __repr__(self):
        """Return one line."""
        low, high = self.info.window
        return (
            f"<Emulator {self.info.name!r}: {low:g} to {high:g} Angstrom, R = {self.base_resolving_power:g}, "
            f"{', '.join(self.label_names)}>"
        )

    @property
    def label_names(self):
        """Names of the labels, in the order of `flux`."""
        return self.info.label_names

    @property
    def label_ranges(self):
        """Smallest and largest value of each label."""
        return self.info.label_ranges

    @property
    def base_resolving_power(self):
        """Resolving power of the spectra before any instrument."""
        return self.info.base_resolving_power

    @property
    def device(self):
        """Device of the arrays."""
        return self._tensors["mean"].device

    @property
    def dtype(self):
        """Floating type of the arrays."""
        return self._tensors["mean"].dtype

    def to(self, device=None, dtype=None):
        """Return the same emulator elsewhere or in another precision.

        Parameters
        ----------
        device : str or torch.device, optional
            New device; the same when left out.
        dtype : torch.dtype, optional
            New floating type; the same when left out.

        Returns
        -------
        Emulator
        """
        return Emulator(self.info, {name: t.to(device=device, dtype=dtype) for name, t in self._tensors.items()})

    def describe(self):
        """Describe the ranges and the errors of the emulator.

        Returns
        -------
        str
            Several lines.
        """
        info, n_component = self.info, len(self._tensors["components"])
        low, high = info.window
        lines = [
            f"Emulator {info.name}: continuum-normalised spectra from {low:g} to {high:g} Angstrom (vacuum)",
            f"{info.n_pixel} pixels from {self.wavelength[0]:.2f} to {self.wavelength[-1]:.2f} Angstrom, "
            f"resolving power {info.base_resolving_power:g}, {n_component} components, "
            f"{len(self._tensors['points'])} stars",
            "labels:",
        ]
        for name, (lower, upper) in info.label_ranges.items():
            lines.append(f"  {name:<8} {lower:10.2f} to {upper:8.2f} {label_unit(name)}".rstrip())
        if info.errors:
            lines.append("errors of the flux on stars that were held out:")
            lines.append(f"  {'stars':<22} {'number':>6} {'median':>8} {'rms':>8} {'rms 95 %':>8} {'rms max':>8}")
        for stars, e in info.errors.items():
            lines.append(
                f"  {stars:<22} {e['n']:6d} {e['median']:8.5f} {e['rms']:8.5f} {e['rms_95']:8.5f} {e['rms_max']:8.5f}"
            )
        return "\n".join(lines)

    def flux(
        self,
        labels,
        *,
        resolving_power=None,
        vsini=None,
        vmacro=None,
        radial_velocity=None,
        wavelength=None,
    ):
        """Return spectra as tensors; batched, differentiable, without a check of the labels.

        Parameters
        ----------
        labels : torch.Tensor
            ``(n_star, n_label)`` or ``(n_label,)``, in the order of `label_names` and the
            units of `spectrafm.quantities.QUANTITIES`. It is computed in the precision
            of the emulator.
        resolving_power : float or torch.Tensor, optional
            Of the instrument, for all or ``(n_star,)``.
        vsini, vmacro : float or torch.Tensor, optional
            Rotation and radial-tangential macroturbulence [km / s], for all or ``(n_star,)``.
        radial_velocity : float or torch.Tensor, optional
            Velocity [km / s], positive when receding, for all or ``(n_star,)``.
        wavelength : array_like, optional
            ``(n_target,)`` or ``(n_star, n_target)`` [Angstrom, vacuum], as observed; the
            emulator's own when left out.

        Returns
        -------
        torch.Tensor
            ``(n_star, n_target)`` or ``(n_target,)``.

        Raises
        ------
        InputValueError
            The shape of ``labels`` does not fit, or as `spectrafm.synthesis.observe`.
        """
        n_label = len(self.label_names)
        if labels.ndim not in (1, 2) or labels.shape[-1] != n_label:
            raise InputValueError(
                f"labels: shape {tuple(labels.shape)}; expected (n_star, {n_label}) or ({n_label},), "
                f"in the order {', '.join(self.label_names)}"
            )
        # sums over many stars overflow or lose digits in half precision
        with torch.autocast(self.device.type, enabled=False):
            z = self._process(self._inputs(torch.atleast_2d(labels)))  # (n_star, n_component)
            flux = torch.exp(-((self._tensors["mean"] + z @ self._tensors["components"]) ** 2))  # (n_star, n_pixel)
            return observe(
                flux if labels.ndim == 2 else flux[0],
                self.wavelength,
                self.base_resolving_power,
                resolving_power=resolving_power,
                vsini=vsini,
                vmacro=vmacro,
                radial_velocity=radial_velocity,
                at=wavelength,
            )

    def distance(self, labels):
        """Return how far stars are from the nearest star of the grid.

        Parameters
        ----------
        labels : torch.Tensor
            ``(n_star, n_label)``.

        Returns
        -------
        torch.Tensor
            ``(n_star,)``, in units of the lengths on which spectra change; see
            ``info.reach``.
        """
        scaled = self._inputs(labels) / self._process.length
        return torch.cdist(scaled, self._process.points).min(dim=1).values

    def _inputs(self, labels):
        """Return the inputs of the Gaussian process, ``(n_star, n_input)``."""
        inputs = label_inputs(labels.to(self._tensors["mean"]), self.label_names)
        return (inputs - self._tensors["input_mean"]) / self._tensors["input_scale"]

    def label_array(self, labels):
        """Check labels by name and complete them.

        Parameters
        ----------
        labels : dict of str to float, array_like or `~astropy.units.Quantity`
            ``teff`` and ``logg`` at least, each a number or one value a star. Plain
            numbers are in the units of `spectrafm.quantities.QUANTITIES`. Abundances
            left out are those of the Sun, scaled with ``fe_h``; microturbulence and
            isotopic ratio follow from the others (`spectrafm.synthesis.complete_labels`).

        Returns
        -------
        numpy.ndarray
            ``(n_star, n_label)``, or ``(n_label,)`` where all labels are numbers.

        Raises
        ------
        InputTypeError
            A value is no number.
        InputValueError
            A label is not known, missing, in a unit that does not fit, or outside the
            range of the grid; or lengths differ.
        """
        return label_array(labels, self.label_names, self.label_ranges)

    def spectrum(
        self,
        *,
        resolving_power=None,
        vsini=None,
        vmacro=None,
        radial_velocity=None,
        spectral_axis=None,
        **labels,
    ):
        """Return spectra as `~specutils.Spectrum`.

        Parameters
        ----------
        resolving_power : float or array_like, optional
            Of the instrument; that of the emulator when left out.
        vsini, vmacro : float, array_like or `~astropy.units.Quantity` ['speed'], optional
            Rotation and radial-tangential macroturbulence; plain numbers are km / s.
        radial_velocity : float, array_like or `~astropy.units.Quantity` ['speed'], optional
            Velocity by which the lines are shifted, positive when receding; plain numbers
            are km / s. At rest when left out.
        spectral_axis : `~astropy.units.Quantity`, optional
            Pixels of the spectra: wavelengths, frequencies, energies or wavenumbers, in
            vacuum and as observed. The emulator's own wavelengths when left out.
        **labels
            ``teff`` and ``logg`` at least, numbers or Quantities, or arrays with one value
            a star; see `label_array` for those left out.

        Returns
        -------
        `~specutils.Spectrum`
            Dimensionless flux ``(n_pixel,)``, or ``(n_star, n_pixel)`` where a label or
            parameter is an array, with the labels in ``meta``. Its ``radial_velocity`` is
            set where one was given.

        Raises
        ------
        InputTypeError, InputValueError
            Labels as in `label_array`; parameters as in `spectrafm.synthesis.observe`;
            wavelengths that the emulator does not cover.

        Warns
        -----
        SpectraFMWarning
            A combination of labels far from all stars of the grid.
        """
        from astropy import units as u
        from specutils import Spectrum

        array = self.label_array(labels)
        speeds = {"vsini": vsini, "vmacro": vmacro, "radial_velocity": radial_velocity}
        given = {name: to_numbers(name, value, "km / s") for name, value in speeds.items() if value is not None}
        if resolving_power is not None:
            given["resolving_power"] = to_numbers("resolving_power", resolving_power, "")
        lengths = {len(value) for value in (*given.values(), array[..., 0]) if value.ndim}
        if len(lengths) > 1:
            raise InputValueError(
                f"labels, {', '.join(given)}: {sorted(lengths)} values; expected numbers, or one a star"
            )
        single, n_star = not lengths, max(lengths, default=1)
        array = np.broadcast_to(array, (n_star, array.shape[-1]))
        axis, wavelength = self.target_wavelength(spectral_axis, given.get("radial_velocity", 0.0))
        rows = {"labels": array} | {name: np.broadcast_to(value, (n_star,)) for name, value in given.items()}
        flux, far = [], []
        with torch.inference_mode():
            for first in range(0, n_star, _BATCH):
                batch = {name: torch.tensor(value[first : first + _BATCH].copy()) for name, value in rows.items()}
                far.append((self.distance(batch["labels"]) > self.info.reach).cpu().numpy())
                flux.append(self.flux(**batch, wavelength=wavelength).double().cpu().numpy())
        flux, far = np.concatenate(flux), np.concatenate(far)
        if far.any():
            star = array[np.flatnonzero(far)[0]]
            told = ", ".join(f"{name} {v:.5g}" for name, v in zip(self.label_names[:3], star, strict=False))
            warnings.warn(
                f"{far.sum()} of {n_star} spectra are extrapolated: the grid has no star near {told} "
                "with these abundances",
                SpectraFMWarning,
                stacklevel=2,
            )
        meta = {"emulator": self.info.name}
        meta |= dict(zip(self.label_names, array[0].tolist() if single else array.T.copy(), strict=True))
        meta |= {name: value if value.ndim else value.item() for name, value in given.items() if name in _IN_META}
        velocity = given.get("radial_velocity")
        return Spectrum(
            flux=(flux[0] if single else flux) * u.one,
            spectral_axis=axis,
            radial_velocity=None if velocity is None else velocity * u.km / u.s,
            meta=meta,
        )

    def target_wavelength(self, spectral_axis, velocity=0.0):
        """Check the pixels that spectra are wanted at.

        Parameters
        ----------
        spectral_axis : `~astropy.units.Quantity` or None
            ``(n_pixel,)`` wavelengths, frequencies, energies or wavenumbers, in vacuum
            and as observed; None for those of the emulator within its window.
        velocity : float or array_like, optional
            Radial velocities [km / s] of the stars.

        Returns
        -------
        spectral_axis : `~astropy.units.Quantity`
            As given, or the wavelengths of the emulator.
        wavelength : numpy.ndarray
            ``(n_pixel,)`` float64 [Angstrom, vacuum].

        Raises
        ------
        InputTypeError
            It has no unit, or more than one dimension.
        InputValueError
            Wavelengths that the emulator does not cover at these velocities.
        """
        from astropy import units as u

        if spectral_axis is None:
            low, high = self.info.window
            wavelength = self.wavelength[(self.wavelength >= low) & (self.wavelength <= high)]
            spectral_axis = wavelength * u.AA
        else:
            wavelength = check_spectral_axis(spectral_axis)
            spectral_axis = np.array(spectral_axis.value) * spectral_axis.unit
        factor = np.ravel(doppler_factor(velocity))
        low, high = self.wavelength[0] * factor.max(), self.wavelength[-1] * factor.min()
        if not (wavelength.min() >= low and wavelength.max() <= high):
            raise InputValueError(
                f"spectral_axis: from {wavelength.min():.2f} to {wavelength.max():.2f} Angstrom; "
                f"this emulator covers {low:.2f} to {high:.2f} Angstrom at this velocity"
            )
        return spectral_axis, wavelength

    def save(self, folder):
        """Write ``config.json`` and ``emulator.safetensors``.

        Components are stored in 16 and 8 bits, the rest in single precision.

        Parameters
        ----------
        folder : str or pathlib.Path
            Made if it does not exist.
        """
        write_emulator(folder, self.info, self._tensors)

    @classmethod
    def load(cls, folder, device="cpu"):
        """Read what `save` wrote.

        Parameters
        ----------
        folder : str or pathlib.Path
            The folder.
        device : str or torch.device, optional
            Where to compute.

        Returns
        -------
        Emulator
            In single precision.

        Raises
        ------
        CheckpointError
            Missing, damaged or mismatched files.
        """
        return cls(*read_emulator(folder)).to(device)


def load_emulator(name, device="cpu"):
    """Load an emulator by name.

    Parameters
    ----------
    name : str or pathlib.Path
        Name of an emulator in the package, or a folder written by `Emulator.save`.
    device : str or torch.device, optional
        Where to compute.

    Returns
    -------
    Emulator

    Raises
    ------
    InputValueError
        There is no such emulator; the message lists those in the package.
    CheckpointError
        The files are damaged.
    """
    packaged = {path.parent.name: path.parent for path in sorted(_PRETRAINED.glob("*/config.json"))}
    if str(name) in packaged:
        return Emulator.load(packaged[str(name)], device)
    if Path(name).is_dir():
        return Emulator.load(name, device)
    raise InputValueError(
        f"name: no emulator {str(name)!r}; expected one of the packaged ({', '.join(packaged) or 'none'}), "
        "or a folder written by spectrafm train-emulator"
    )
