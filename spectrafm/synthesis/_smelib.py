"""The compiled library of Spectroscopy Made Easy, out of the package pysme-astro.

Only the library is loaded, not the Python package around it: that one sets up log
handlers and writes into the home folder when imported, and needs older versions of
astropy and pandas than spectrafm. The library keeps its state in global variables,
so there is one of it in a process.
"""

import contextlib
import importlib.machinery
import importlib.util
import os
from functools import lru_cache
from pathlib import Path

from ..exceptions import MissingDependencyError

__all__ = ["load_smelib", "package_folder", "stark_convolution"]


def package_folder(name):
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f'synthesis needs the package {name}; install it with pip install "spectrafm[synthesis]"'
        )
    return Path(spec.submodule_search_locations[0])


@lru_cache(maxsize=1)
def load_smelib():
    """Load the library and show it its data files.

    Returns
    -------
    module
        The extension module of SMElib.

    Raises
    ------
    MissingDependencyError
        It is not installed, or not for this machine.
    """
    folder = package_folder("pysme")
    found = [
        path
        for suffix in importlib.machinery.EXTENSION_SUFFIXES
        for path in (folder / "smelib").glob(f"_smelib{suffix}")
    ]
    if not found:
        raise MissingDependencyError(f"there is no compiled _smelib in {folder / 'smelib'}; install pysme-astro anew")
    loader = importlib.machinery.ExtensionFileLoader("_smelib", str(found[0]))
    try:
        library = importlib.util.module_from_spec(importlib.util.spec_from_loader("_smelib", loader))
        loader.exec_module(library)
    except ImportError as error:
        raise MissingDependencyError(f"{found[0].name} of pysme-astro cannot be loaded: {error}") from error
    library.SetLibraryPath(str(folder / "share" / "libsme") + os.sep)
    # hydrogen lines beyond the Stark tables are expected; how they are made is set below
    library.SetHlinopWarningMode(2)
    return library


@contextlib.contextmanager
def stark_convolution():
    """Let the library convolve Doppler and Stark profiles of hydrogen, as it should.

    Its default multiplies opacities by a further profile and makes Brackett lines
    two to three times too deep. The library reads the choice from the environment.
    """
    name, before = "PYSME_H_STARK_CONVOLUTION", os.environ.get("PYSME_H_STARK_CONVOLUTION")
    os.environ[name] = "convolution"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
