"""Stellar labels, with errors and flags, from stellar spectra."""

import logging
from importlib.metadata import PackageNotFoundError, version

from .core import SpectraFM
from .exceptions import SpectraFMError, SpectraFMWarning
from .flags import Flag, describe_flags

try:
    __version__ = version("spectrafm")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"

# a library does not decide where its messages go
logging.getLogger("spectrafm").addHandler(logging.NullHandler())

__all__ = ["Flag", "SpectraFM", "SpectraFMError", "SpectraFMWarning", "__version__", "describe_flags"]
