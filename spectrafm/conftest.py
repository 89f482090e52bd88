"""Settings of the tests; nothing that a user of the package imports."""

import pytest
import torch
from hypothesis import HealthCheck, settings

try:
    from pytest_astropy_header.display import PYTEST_HEADER_MODULES
except ImportError:
    PYTEST_HEADER_MODULES = {}

# A shared machine may be slow at any moment: a property fails on its outcome,
# not on its duration or that of drawing its examples, and on the same ones everywhere.
settings.register_profile("spectrafm", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("spectrafm")

# The models of the tests are tiny: threads that fight for a busy core would make
# them slower, by a factor of 50 at worst.
torch.set_num_threads(1)


def pytest_configure(config):
    """Name the versions that matter here in pytest's header."""
    PYTEST_HEADER_MODULES.pop("h5py", None)
    PYTEST_HEADER_MODULES.pop("Pandas", None)
    PYTEST_HEADER_MODULES.update({"PyTorch": "torch", "Astropy": "astropy", "specutils": "specutils"})


def pytest_collection_modifyitems(items):
    """Skip tests marked ``gpu`` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
