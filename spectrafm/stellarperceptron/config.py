"""Checked configurations of the model and of its training.

A configuration that exists is consistent: each ``__post_init__`` collects all
problems and reports them in one error.
"""

import dataclasses
import math
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import get_args, get_origin

import numpy as np

from ..exceptions import ConfigError, InputTypeError

__all__ = [
    "OPINION_SETTINGS",
    "READOUT_SETTINGS",
    "AugmentationConfig",
    "Config",
    "FitConfig",
    "ModelConfig",
    "check_type",
    "negative",
    "not_counts",
    "not_fractions",
    "not_positive",
    "not_widths",
    "refuse",
]


def refuse(name, problems):
    """Raise one error that lists all problems, if there are any.

    Parameters
    ----------
    name : str
        Name of the configuration.
    problems : list of str
        What is inconsistent.
    """
    if problems:
        raise ConfigError(f"{name}: " + "; ".join(problems))


def check_type(name, value, kind):
    """Refuse an argument of another type.

    Parameters
    ----------
    name : str
        Name of the argument.
    value : object
        What came.
    kind : type
        What is expected.

    Raises
    ------
    InputTypeError
        It is something else.
    """
    if not isinstance(value, kind):
        raise InputTypeError(f"{name}: of type {type(value).__name__}, expected {kind.__name__}")


def _wrong(config, names, is_right, what):
    """Return a line for each setting that is not right, for `refuse`; ``what`` says how it must be."""
    values = {name: getattr(config, name) for name in names}
    return [f"{name} must {what}, not {value!r}" for name, value in values.items() if not is_right(value)]


def _is_count(value, least=1):
    """Tell whether a value is an integer that is large enough."""
    return isinstance(value, Integral) and value >= least


def not_fractions(config, names):
    """Return what is wrong with settings that must be fractions.

    Parameters
    ----------
    config : Config
        The configuration.
    names : sequence of str
        Names of the settings.

    Returns
    -------
    list of str
        A line for each that is not between 0 and 1, for `refuse`.
    """
    return _wrong(config, names, lambda value: 0 <= value <= 1, "be in [0, 1]")


def not_counts(config, names, least=1):
    """Return what is wrong with settings that must be positive integers, as `not_fractions`.

    Parameters
    ----------
    config : Config
        The configuration.
    names : sequence of str
        Names of the settings.
    least : int, optional
        Smallest of these integers that is allowed.

    Returns
    -------
    list of str
    """
    what = "be a positive integer" if least == 1 else f"be an integer of {least} or more"
    return _wrong(config, names, lambda value: _is_count(value, least), what)


def not_positive(config, names):
    """Return what is wrong with settings that must be positive numbers, as `not_fractions`.

    Parameters
    ----------
    config : Config
        The configuration.
    names : sequence of str
        Names of the settings.

    Returns
    -------
    list of str
    """
    return _wrong(config, names, lambda value: 0 < value < math.inf, "be positive and finite")


def not_widths(config, names):
    """Return what is wrong with settings that must be tuples of positive integers, as `not_fractions`.

    Parameters
    ----------
    config : Config
        The configuration.
    names : sequence of str
        Names of the settings.

    Returns
    -------
    list of str
    """
    return _wrong(config, names, lambda widths: all(map(_is_count, widths)), "be a tuple of positive integers")


def negative(config, names):
    """Return what is wrong with settings that must not be negative, as `not_fractions`.

    Parameters
    ----------
    config : Config
        The configuration.
    names : sequence of str
        Names of the settings.

    Returns
    -------
    list of str
    """
    return _wrong(config, names, lambda value: 0 <= value < math.inf, "not be negative or infinite")


#: What a setting of a type may be, and how that is called.
_TYPES = {
    float: (Real, "a number"),
    int: (Integral, "an integer"),
    str: (str, "a string"),
    tuple: (tuple, "a tuple"),
    dict: (dict, "a dictionary"),
    bool: (bool, "True or False"),
    type(None): (type(None), "None"),
}


def _entry(kind):
    """Return the type of the entries of ``tuple[kind, ...]`` or ``dict[str, kind]``."""
    return get_args(kind)[get_origin(kind) is dict]


def _is_a(value, kind):
    """Tell whether a value is of the type of a field, such as ``tuple[str, ...]`` or ``int | None``."""
    inner = get_args(kind)
    if isinstance(kind, UnionType):
        return any(_is_a(value, one) for one in inner)
    if inner:
        entries = value.values() if isinstance(value, dict) else value
        return isinstance(value, get_origin(kind)) and all(_is_a(entry, _entry(kind)) for entry in entries)
    # True and False are integers to Python
    return isinstance(value, _TYPES.get(kind, (kind,))[0]) and not (isinstance(value, bool) and kind in (int, float))


def _called(kind):
    """Return how the type of a field is called in messages."""
    inner = get_args(kind)
    if isinstance(kind, UnionType):
        return " or ".join(map(_called, inner))
    if inner:
        entry = _called(_entry(kind)).partition(" ")[2]
        return f"{_called(get_origin(kind))} of {entry}s"
    return _TYPES[kind][1] if kind in _TYPES else f"a {kind.__name__}"


def _plain(value):
    """Return a number of NumPy as one of Python, as JSON needs it, in tuples too; anything else as it is."""
    if isinstance(value, tuple) and any(isinstance(entry, (np.generic, tuple)) for entry in value):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


class Config:
    """Types of settings, and conversion to and from plain dictionaries, shared by all configurations.

    Numbers of NumPy become those of Python.

    Raises
    ------
    ConfigError
        Listing all settings that are of another type.
    """

    def __post_init__(self):
        """Refuse settings of wrong types before their values are looked at."""
        problems = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (plain := _plain(value)) is not value:
                # a frozen configuration is not complete yet
                object.__setattr__(self, field.name, plain)
                value = plain
            if not _is_a(value, field.type):
                problems.append(f"{field.name} must be {_called(field.type)}, not {value!r}")
        refuse(type(self).__name__, problems)

    def to_dict(self):
        """Return the settings as plain JSON types.

        Returns
        -------
        dict
        """
        return dataclasses.asdict(
            self, dict_factory=lambda pairs: {k: list(v) if isinstance(v, tuple) else v for k, v in pairs}
        )

    @classmethod
    def from_dict(cls, settings):
        """Build from a dictionary, refusing names that do not exist and names that are missing.

        Parameters
        ----------
        settings : dict
            Field names and values; fields left out take their defaults.

        Returns
        -------
        config

        Raises
        ------
        ConfigError
            Not a dictionary, unknown or missing fields, or values that contradict each other.
        """
        if not isinstance(settings, dict):
            raise ConfigError(f"{cls.__name__}: {settings!r}, expected a section (a dictionary of settings)")
        fields = dataclasses.fields(cls)
        known, nothing = {f.name for f in fields}, dataclasses.MISSING
        needed = {f.name for f in fields if f.default is nothing and f.default_factory is nothing}
        unknown, missing = sorted(set(settings) - known), sorted(needed - set(settings))
        problems = [f"unknown settings {unknown}; known are: {', '.join(sorted(known))}"] if unknown else []
        problems += [f"missing settings {missing}"] if missing else []
        refuse(cls.__name__, problems)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


#: Settings of a `ModelConfig` that only the second look depends on, and those that only the second opinion does.
READOUT_SETTINGS = ("readout_labels", "readout_dense", "readout_ranges", "fit_knots", "fit_components", "fit_dense")
OPINION_SETTINGS = (
    "opinion_labels",
    "opinion_flux",
    "opinion_range",
    "opinion_knots",
    "opinion_components",
    "opinion_dense",
    "opinion_dropout",
)


@dataclass(frozen=True)
class ModelConfig(Config):
    """Architecture of a `StellarPerceptronTorchModel`.

    The defaults are those of this package: one flux token for all instruments,
    Fourier features of ln(wavelength), flux errors as input, patches of
    pixels. `ModelConfig.paper` gives the published architecture
    (Koblischke & Bovy 2024, arXiv:2411.04750).

    Attributes
    ----------
    context_length : int
        Largest number of tokens of a star, where every pixel is a token: more are refused, or left out in
        training. It does nothing to the network, nor to the tokens where patches are.
    embedding_dim : int
        Width of every token.
    encoder_heads, encoder_dense : tuple of int
        Attention heads and dense width of each encoder block.
    decoder_heads, decoder_dense : tuple of int
        The same for the cross-attention blocks of the decoder.
    head_dense : tuple of int
        Widths of the dense layers after the decoder blocks.
    dropout, head_dropout : float
        Dropout in the blocks and in the dense layers after them.
    norm_first : bool
        Layer normalisation before attention (True) or after the sum (paper).
    wavelength_encoding : {"log_fourier", "sinusoidal"}
        Fourier features of ln(wavelength), or the encoding of the paper.
    wavelength_channels : int
        Channels of the encoding, which are repeated to fill ``embedding_dim``; 0 for as many as that.
    min_period, max_period : float
        Shortest and longest period of the Fourier features in ln(wavelength).
        The default shortest is two pixels of a spectrograph of R = 100,000.
    wavelength_center, wavelength_scale : float
        Centre and scale [Angstrom] of the sinusoidal encoding.
    flux_error_input : bool
        Whether the standard deviation of a token's value is an input.
    patch_size : int
        Pixels in a token. 1: every pixel is a token (paper). Larger: the most
        pixels, and the number of knots of the learned functions, of a patch.
    patch_width : float
        Largest width of a patch in ln(wavelength). Narrower patches are this
        divided by powers of two.
    patch_anchor : float
        Wavelength [Angstrom] of one patch edge; edges of all widths lie on
        the grid that starts there.
    patch_knots : {"sum", "interpolate"}
        What a patch holds at each of its knots: the sum of the pixels around it, which
        is the better the more alike all spectra are sampled; or what is interpolated
        between them, which depends less on where the pixels lie.
    patch_components : int
        Principal components of the training patches that are kept.
    patch_levels : int
        Widths of patches, from the largest, that have components of their own.
    patch_dense : int
        Width of the dense layer inside the patch projection.
    patch_convolutions : tuple of int
        Channels of convolutions over the knots of a patch, whose result goes into that
        layer too; each halves the number of knots, the last one divides it by four. None
        where empty.
    patch_place : {"add", "modulate"}
        What the wavelength of a patch does to that layer: it adds to it, or scales it
        too, so that each patch has filters of its own.
    asinh_softening : float
        Scale, in units of the standardised flux, of the arcsinh of the flux
        that the patch projection sees beside the flux itself; it opens up the
        faint end of a spectral energy distribution.
    readout_labels : tuple of str
        Labels that get a second look: dense layers correct them all together, by what the
        decoder says of each and by the mean of what the encoder made of the star. None where
        empty.
    readout_dense : int
        Width of these layers.
    readout_ranges : tuple of float
        Ranges of wavelength [Angstrom, vacuum], two numbers each: a star gets the second look
        where all of its pixels lie in one of them; every star does where empty.
    fit_knots, fit_components, fit_dense : tuple of int
        Places at which, and components in which, a spectrum is fitted for the second look, and width of the
        networks of these fits, for each of the ``readout_ranges``, see `SpectrumFit`. No fits where empty.
    opinion_labels : tuple of str
        Labels of which there is a second opinion, see `SecondOpinion`: for spectra of few stars. None where empty.
    opinion_flux : str
        Kind of flux of the spectra that it is about.
    opinion_range : tuple of float
        First and last wavelength [Angstrom, vacuum] that it sees.
    opinion_knots, opinion_components : int
        Places at which, and components in which, it sees a spectrum.
    opinion_dense : tuple of int
        Widths of its layers.
    opinion_dropout : float
        Dropout after each of them.
    pad_to_context : bool
        Let `StellarPerceptron.tokenize` pad to ``context_length`` at least (paper) instead of to the longest star;
        batches of training are not padded. Answers do not depend on it.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    context_length: int = 512
    embedding_dim: int = 256
    encoder_heads: tuple = (8, 8)
    encoder_dense: tuple = (512, 512)
    decoder_heads: tuple = (8, 8)
    decoder_dense: tuple = (512, 512)
    head_dense: tuple = (512, 256)
    dropout: float = 0.0
    head_dropout: float = 0.0
    norm_first: bool = False
    wavelength_encoding: str = "log_fourier"
    wavelength_channels: int = 0
    min_period: float = 2e-5
    max_period: float = 2.2
    wavelength_center: float = 15000.0
    wavelength_scale: float = 2000.0
    flux_error_input: bool = True
    patch_size: int = 64
    patch_width: float = 0.16
    patch_anchor: float = 3000.0
    patch_knots: str = "sum"
    patch_components: int = 160
    patch_levels: int = 1
    patch_dense: int = 512
    patch_convolutions: tuple = ()
    patch_place: str = "add"
    asinh_softening: float = 0.05
    readout_labels: tuple[str, ...] = ()
    readout_dense: int = 2048
    readout_ranges: tuple[float, ...] = ()
    fit_knots: tuple = ()
    fit_components: tuple = ()
    fit_dense: tuple = ()
    opinion_labels: tuple[str, ...] = ()
    opinion_flux: str = ""
    opinion_range: tuple[float, ...] = ()
    opinion_knots: int = 512
    opinion_components: int = 64
    opinion_dense: tuple = (256, 256)
    opinion_dropout: float = 0.0
    pad_to_context: bool = False

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        names = (
            "context_length",
            "embedding_dim",
            "patch_size",
            "patch_components",
            "patch_levels",
            "patch_dense",
            "readout_dense",
            "opinion_knots",
            "opinion_components",
        )
        problems = not_counts(self, names)
        problems += not_widths(self, ("encoder_dense", "decoder_dense", "head_dense", "patch_convolutions"))
        for part in ("encoder", "decoder"):
            heads, dense = getattr(self, f"{part}_heads"), getattr(self, f"{part}_dense")
            if not heads or len(heads) != len(dense):
                problems.append(
                    f"{part}_heads {heads} and {part}_dense {dense} must have one entry a block, at least one"
                )
            problems += [
                f"embedding_dim {self.embedding_dim} must be a multiple of each of {part}_heads {heads}"
                for h in heads
                if not isinstance(h, int) or h < 1 or self.embedding_dim % h
            ][:1]
        for name in ("dropout", "head_dropout", "opinion_dropout"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} must be in [0, 1), not {getattr(self, name)!r}")
        if self.wavelength_encoding not in ("log_fourier", "sinusoidal"):
            problems.append(
                f"wavelength_encoding must be 'log_fourier' or 'sinusoidal', not {self.wavelength_encoding!r}"
            )
        if self.patch_place not in ("add", "modulate"):
            problems.append(f"patch_place must be 'add' or 'modulate', not {self.patch_place!r}")
        if self.patch_knots not in ("sum", "interpolate"):
            problems.append(f"patch_knots must be 'sum' or 'interpolate', not {self.patch_knots!r}")
        if self.embedding_dim % 2:
            problems.append(f"embedding_dim must be even, not {self.embedding_dim}")
        channels = self.wavelength_channels
        if not isinstance(channels, int) or channels < 0 or channels % 2 or self.embedding_dim % (channels or 1):
            problems.append(
                f"wavelength_channels must be even and divide embedding_dim {self.embedding_dim}, or be 0, not "
                f"{channels!r}"
            )
        if not 0 < self.min_period < self.max_period:
            problems.append(f"0 < min_period < max_period is needed, not {self.min_period} and {self.max_period}")
        problems += not_positive(self, ("patch_width", "patch_anchor", "wavelength_scale", "asinh_softening"))
        if not problems and self.patch_size > 1 and self.patch_components > 5 * self.patch_size:
            problems.append(
                f"patch_components {self.patch_components} exceed 5 channels x patch_size {self.patch_size}"
            )
        channels = self.patch_convolutions
        if channels and not problems and self.patch_size % 2 ** (len(channels) + 1):
            problems.append(f"patch_size {self.patch_size} cannot be halved {len(channels) + 1} times by convolutions")
        ends = self.readout_ranges
        if len(ends) % 2 or any(not 0 < low < high for low, high in zip(ends[::2], ends[1::2], strict=False)):
            problems.append(f"readout_ranges must be pairs of ascending wavelengths, not {ends!r}")
        n_range = len(ends) // 2
        for name in ("fit_knots", "fit_components", "fit_dense"):
            sizes = getattr(self, name)
            wrong = len(sizes) != n_range or any(not isinstance(n, int) or n < 2 for n in sizes)
            if wrong and self.fit_knots + self.fit_components + self.fit_dense:
                problems.append(f"{name} must have an integer above 1 for each of the readout_ranges, not {sizes!r}")
        problems += self._problems_of_opinion()
        refuse("ModelConfig", problems)

    def _problems_of_opinion(self):
        """Return what is inconsistent in the settings of a second opinion."""
        if not self.opinion_labels:
            return []
        problems = [] if self.opinion_flux else ["opinion_flux must name the kind of flux of opinion_labels"]
        ends, dense = self.opinion_range, self.opinion_dense
        if len(ends) != 2 or not 0 < ends[0] < ends[1]:
            problems.append(f"opinion_range must be two ascending wavelengths, not {ends!r}")
        if not dense or any(not isinstance(n, int) or n < 1 for n in dense):
            problems.append(f"opinion_dense must be a tuple of positive integers, at least one, not {dense!r}")
        sizes = self.opinion_knots, self.opinion_components
        if all(isinstance(n, int) for n in sizes) and not sizes[0] >= max(4, sizes[1]):
            problems.append(f"opinion_knots must be 4 or more, opinion_components no more than these, not {sizes!r}")
        return problems

    @property
    def channels(self):
        """Channels of the encoding of wavelengths."""
        return self.wavelength_channels or self.embedding_dim

    @property
    def encoding_copies(self):
        """How often the encoding of wavelengths is repeated to fill ``embedding_dim``."""
        return self.embedding_dim // self.channels

    def decoder_alone(self):
        """Return the same architecture without a second look at labels and without a second opinion.

        Returns
        -------
        ModelConfig
        """
        return dataclasses.replace(self, **{k: getattr(ModelConfig, k) for k in (*READOUT_SETTINGS, *OPINION_SETTINGS)})

    @classmethod
    def paper(cls, **changes):
        """Return the published architecture: 512 random pixels, width 256.

        Parameters
        ----------
        **changes
            Fields to set differently, for example ``context_length=7514``.

        Returns
        -------
        ModelConfig
        """
        settings = {
            "context_length": 512,
            "embedding_dim": 256,
            "encoder_heads": (16, 8),
            "encoder_dense": (2048, 1024),
            "decoder_heads": (16, 8, 4),
            "decoder_dense": (2048, 1024, 512),
            "head_dense": (2048, 1024, 512, 256),
            "dropout": 0.1,
            "head_dropout": 0.05,
            "norm_first": False,
            "wavelength_encoding": "sinusoidal",
            "flux_error_input": False,
            "patch_size": 1,
            "pad_to_context": True,
        }
        return cls(**(settings | changes))


@dataclass(frozen=True)
class AugmentationConfig(Config):
    """What is drawn anew for every star at every training step.

    Attributes
    ----------
    noise : float
        Largest extra noise, in units of the star's own flux error.
    noise_probability : float
        Fraction of stars that get extra noise.
    noise_correlation : float
        Largest correlation length of the extra noise in pixels.
    reddening : float
        Most dust that is put in front of a star, beside that in front of it, as A(V) [mag], even from none at all.
    reddening_probability : float
        Fraction of stars that get such dust; those that are given photometry do not.
    withhold_sigma : float
        Fraction of stars whose flux errors are withheld.
    drop_pixels : float
        Fraction of stars that lose single pixels (up to 30 % of them).
    window : float
        Fraction of stars cut to a random window (from the whole range down to
        a quarter of the pixels) or given a gap.
    give_quantity : float
        Fraction of stars that are given some of their known quantities (they
        are gathered in some of the batches).
    quantities_only : float
        Fraction of stars that are given most of their known quantities and no spectrum:
        fluxes are asked for; at most ``give_quantity``, among whose stars they are.
    flux_requests : int
        Number of fluxes requested from each star, at random pixels; at most one a pixel.
    flux_weight : float
        Weight of these in the loss, relative to that of the labels; it is 1 where there
        is no spectrum.
    """

    noise: float = 0.0
    noise_probability: float = 0.5
    noise_correlation: float = 0.0
    reddening: float = 0.0
    reddening_probability: float = 0.5
    withhold_sigma: float = 0.0
    drop_pixels: float = 0.0
    window: float = 0.0
    give_quantity: float = 0.0
    quantities_only: float = 0.0
    flux_requests: int = 0
    flux_weight: float = 0.1

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        chances = ("noise_probability", "reddening_probability")
        problems = not_fractions(self, (*chances, "withhold_sigma", "drop_pixels", "window", "give_quantity"))
        problems += negative(self, ("noise", "noise_correlation", "reddening", "flux_requests", "flux_weight"))
        if not 0 <= self.quantities_only <= self.give_quantity:
            problems.append(
                f"quantities_only must be in [0, give_quantity = {self.give_quantity!r}], not {self.quantities_only!r}"
            )
        if self.quantities_only and not self.flux_requests:
            problems.append("quantities_only needs flux_requests: without a spectrum there is nothing else to ask for")
        refuse("AugmentationConfig", problems)


@dataclass(frozen=True)
class FitConfig(Config):
    """How a model is trained.

    Attributes
    ----------
    steps : int
        Number of optimiser steps.
    batch_size : int
        Stars in a step, summed over all processes.
    optimizer : {"adamw", "muon"}
        AdamW for everything, or Muon for the matrices within the network.
    learning_rate : float
        Largest learning rate.
    final_learning_rate : float
        Where the cosine ends, as a fraction of ``learning_rate``.
    warmup_steps : int
        Steps of linear warm-up.
    weight_decay : float
        Decoupled weight decay of matrices; vectors and embeddings have none.
    beta : float
        See `robust_mean_squared_error`; validation always has 0.
    clip_norm : float
        Largest norm of the gradient.
    source_clip_norm : float
        Largest norm of the gradient of each source, before they are weighted and added
        up: a source whose labels are known well does not drown the others. 0 for none.
    ema_decay : float
        Decay of the running average of the weights that is validated and
        kept; 0 keeps the last weights.
    validation_fraction : float
        Fraction of stars set aside for validation, drawn by star.
    validation_every, checkpoint_every, log_every : int
        Steps between validations, checkpoints and lines of the log, which also has one at each validation. The last
        step has all three.
    precision : {"float32", "bfloat16", "auto"}
        bfloat16 uses autocast; wavelengths and the loss stay in float32. ``"auto"`` is
        bfloat16 on GPUs and on processors that multiply in it, float32 elsewhere.
    compile : bool
        Compile the transformer blocks with `torch.compile` while they are trained: slow to start.
    seed : int
        Seed of everything that is drawn.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    steps: int = 10_000
    batch_size: int = 256
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.01
    warmup_steps: int = 200
    weight_decay: float = 0.01
    beta: float = 0.0
    clip_norm: float = 1.0
    source_clip_norm: float = 0.0
    ema_decay: float = 0.0
    validation_fraction: float = 0.1
    validation_every: int = 1000
    checkpoint_every: int = 1000
    log_every: int = 50
    precision: str = "float32"
    compile: bool = False
    seed: int = 0

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        problems = not_counts(self, ("steps", "batch_size", "validation_every", "checkpoint_every", "log_every"))
        problems += not_counts(self, ("seed",), least=0)
        problems += not_positive(self, ("learning_rate", "clip_norm"))
        problems += not_fractions(self, ("beta", "final_learning_rate"))
        problems += negative(self, ("source_clip_norm", "weight_decay"))
        if not 0 <= self.validation_fraction < 1 or not 0 <= self.ema_decay < 1:
            problems.append("validation_fraction and ema_decay must be in [0, 1)")
        if not 0 <= self.warmup_steps <= self.steps:
            problems.append(f"warmup_steps {self.warmup_steps} must be between 0 and steps {self.steps}")
        if self.optimizer not in ("adamw", "muon"):
            problems.append(f"optimizer must be 'adamw' or 'muon', not {self.optimizer!r}")
        if self.precision not in ("float32", "bfloat16", "auto"):
            problems.append(f"precision must be 'float32', 'bfloat16' or 'auto', not {self.precision!r}")
        refuse("FitConfig", problems)
