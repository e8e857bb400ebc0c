"""The notebooks run from start to end, as a reader would run them."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.paths import ROOT
from tests.patience import PATIENCE


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_is_committed_with_its_pictures(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    kept = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in kept) or path.stem.startswith("03")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "choose_waiting()" in code[0] and "lightning" not in code[0]  # which loads torch
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}).execute()
