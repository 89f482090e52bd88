"""Settings of the doctests of the documentation."""

import pytest


@pytest.fixture(autouse=True)
def _temporary_folder(tmp_path, monkeypatch):
    """Let an example write its files where nobody minds them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
