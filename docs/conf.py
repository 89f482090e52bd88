"""Configuration of the documentation; builds without a network."""

import os
from datetime import UTC, datetime

from spectrafm import __version__

project = "spectrafm"
author = "spectrafm developers"
copyright = f"{datetime.now(UTC).year}, {author}"
version = release = __version__

extensions = [
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_automodapi.automodapi",
]

# The inventories of other projects need a network: asked for, or where the documentation is hosted.
if {"SPECTRAFM_DOCS_INTERSPHINX", "READTHEDOCS"} & set(os.environ):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "astropy": ("https://docs.astropy.org/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "specutils": ("https://specutils.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

default_role = "obj"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"spectrafm {release}"

# automodapi lists the members, each on a page of its own.
numpydoc_show_class_members = False
automodapi_toctreedirnm = "api"
automodapi_inheritance_diagram = False
automodsumm_inherited_members = False
