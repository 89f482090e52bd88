"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest

WEIGHTS_FOLDER = Path(__file__).parents[2] / "weights"


@pytest.fixture(scope="session")
def synthetic_weights():
    """Return the folder of weights that saw no real star; skip where there are only those of the package."""
    folder = WEIGHTS_FOLDER / "optical-synthetic"
    if not folder.is_dir():
        pytest.skip("needs weights that come with the repository alone")
    return folder


@pytest.fixture(scope="session")
def shared_data():
    """Return the folder of real data beside the checkout; skip where there is none."""
    root = os.environ.get("SPECTRAFM_SHARED", Path(__file__).parents[3] / "shared")
    folder = Path(root) / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data sets; set SPECTRAFM_SHARED to the folder that holds data/")
    return folder
