"""Every notebook runs from top to bottom, and is stored without output."""

import json
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / "notebooks"
_NOTEBOOKS = sorted(_FOLDER.glob("*.ipynb"))

pytestmark = pytest.mark.skipif(not _NOTEBOOKS, reason="the notebooks are not installed with the package")


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_output(path):
    """Outputs would go stale and swell the repository."""
    cells = json.loads(path.read_text())["cells"]
    assert cells
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Jupyter's own packages are not ours to mend
@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Execute all cells in a fresh kernel; an error in one of them fails."""
    pytest.importorskip("ipykernel", reason="needs the extra notebooks")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebooks")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebooks")
    # no settings of the user, and nothing written outside the temporary folder
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
