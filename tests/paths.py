"""Where things stand in the repository, for tests that read them or run commands there."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
DIGITS = CONFIGS / "digits/ipc1.yaml"
GOLDEN = ROOT / "tests/golden"


def evaluation_in(folder: Path) -> Path:
    """The folder of the one evaluation whose results lie in a run's folder, or in another one for outputs."""
    (results,) = folder.glob("evaluations/*/results.json")
    return results.parent
