"""Where things stand in the repository, for tests that read them or run commands there."""

import sys
from pathlib import Path

PYTHON = sys.executable
"""Python itself; while tests run, ``sys.executable`` is the quick one."""

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
DIGITS = CONFIGS / "digits/ipc1.yaml"
GOLDEN = ROOT / "tests/golden"


def evaluation_in(folder: Path) -> Path:
    """The folder of the one evaluation whose results lie in a run's folder, or in another one for outputs."""
    (results,) = folder.glob("evaluations/*/results.json")
    return results.parent
