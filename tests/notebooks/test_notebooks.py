"""The notebooks run from start to end, as a reader would run them; in the fast suite with the shortest trainings."""

import os
import re
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from tests.paths import ROOT
from tests.patience import PATIENCE

SHORT = {
    r"\btrainer\(\d+": "trainer(3",
    r"epochs=\d+": "epochs=1",
    r"coreset_steps=\d+": "coreset_steps=2",
    r"max_steps=\d+": "max_steps=5",
    r"Snapshots\(\[[\d, ]+": "Snapshots([1, 2, 3, 4, 5",
    r"BoundSettings\(64": "BoundSettings(4",
}
"""What makes a notebook's code quick, as patterns and what takes their place."""


@pytest.mark.parametrize("short", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["short", "whole"])
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_is_committed_with_its_pictures(path, short, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    kept = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in kept) or path.stem.startswith("03")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "choose_waiting()" in code[0] and "lightning" not in code[0]  # which loads torch
    if short:
        code = "".join(cell.source for cell in notebook.cells)
        assert sum(bool(re.search(pattern, code)) for pattern in SHORT) >= 1 + (path.stem[:2] > "02")
        for cell in notebook.cells:
            for pattern, quick in SHORT.items():
                cell.source = re.sub(pattern, quick, cell.source)
    place = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=PATIENCE, startup_timeout=PATIENCE, resources=place)
    if short:
        client.km = client.create_kernel_manager()
        client.km.kernel_spec.argv = [sys.executable, "-m", "tests.notebooks.kernel", "-f", "{connection_file}"]
    client.execute()
