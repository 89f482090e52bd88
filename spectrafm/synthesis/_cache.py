"""Where prepared line lists and atmospheres are kept."""

import os
import sys
from pathlib import Path

import numpy as np

from .._storage import atomic_write
from ..exceptions import InputValueError

__all__ = ["cache_file", "cache_folder", "missing_file", "write_npz"]


def cache_folder():
    """Return the folder: ``$SPECTRAFM_CACHE``, or one in the user's cache folder."""
    chosen = os.environ.get("SPECTRAFM_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "spectrafm"


def cache_file(name):
    """Return the path of a file in the cache, which need not exist."""
    return cache_folder() / "synthesis" / name


def missing_file(what, path):
    """Return the error for a file that has not been prepared."""
    return InputValueError(f"there are no {what} at {path}; make them with: spectrafm synthesize --prepare")


def write_npz(path, arrays):
    """Write arrays so that the file is either whole or not there; return its path."""
    path = cache_file(path) if isinstance(path, str) else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary):
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())

    atomic_write(path, write)
    return path
