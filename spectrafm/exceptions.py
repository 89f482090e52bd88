"""Errors and warnings raised by spectrafm.

Every error derives from `SpectraFMError` and from the builtin that fits it, so
``except ValueError`` keeps working.
"""

try:
    from astropy.utils.exceptions import AstropyUserWarning
except ImportError:
    # the model raises these errors too, and needs nothing of astropy
    AstropyUserWarning = UserWarning

__all__ = [
    "CheckpointError",
    "ConfigError",
    "InputTypeError",
    "InputValueError",
    "MissingDependencyError",
    "SpectraFMError",
    "SpectraFMWarning",
    "TrainingError",
]


class SpectraFMError(Exception):
    """Base of every error that spectrafm raises on purpose."""


class InputValueError(SpectraFMError, ValueError):
    """An argument has the right type but a value that cannot be used."""


class InputTypeError(SpectraFMError, TypeError):
    """An argument has a type that cannot be used."""


class ConfigError(SpectraFMError, ValueError):
    """A configuration contradicts itself or the data."""


class CheckpointError(SpectraFMError, ValueError):
    """A saved model is missing, damaged, or of another kind."""


class TrainingError(SpectraFMError, RuntimeError):
    """Training cannot go on (for example, a loss that is not finite)."""


class MissingDependencyError(SpectraFMError, ImportError):
    """An optional package is needed and not installed."""


class SpectraFMWarning(AstropyUserWarning):
    """Something the user should know, short of an error."""
