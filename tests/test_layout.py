"""The structure of the package: imports point in one direction, and no file is too long."""

import ast
from collections import defaultdict

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "bacon_pl"
# Lower rooms first; rooms of one line do not import each other, but for those named in WITHIN.
FLOORS = [
    ("errors", "version"),
    ("runtime", "ranges"),
    (
        "rng",
        "distributed",
        "configured",
        "pace",
        "time_limit",
        "settings_text",
        "threads",
        "quiet",
        "device_log",
        "pretend",
    ),
    ("cache_files", "lettering"),
    ("data", "networks", "loggers"),
    ("augment", "partition"),
    ("objectives", "selection", "grid"),
    ("bound", "distilled_set"),
    ("learners",),
    ("distillers",),
    ("interop", "evaluation"),
    ("traces", "checkpoint_files"),
    ("report", "checkpoints", "callbacks", "preflight", "explain", "config_files"),
    ("progress",),
    ("opening",),
    ("table",),
    ("commands",),
    ("api",),
    ("tuning",),
    ("cli",),
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MOST_LINES = 350


def sources():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Rooms that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "bacon_pl":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bacon_pl."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bacon_pl."))


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in sources()} - {"__init__", "__main__"}
    assert rooms - FLOOR.keys() == set()


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_upward(path):
    own = room_of(path)
    if own in ("__init__", "__main__"):
        return
    above = {room for room in imported(path) if room != own and FLOOR.get(room, -1) >= FLOOR[own]}
    assert not above, f"{own} imports {above}"


def test_no_rooms_import_each_other_round_about():
    arrows = defaultdict(set)
    for path in sources():
        arrows[room_of(path)] |= set(imported(path)) - {room_of(path)}
    for room, reached in list(arrows.items()):
        seen, waiting = set(), list(reached)
        while waiting:
            if (other := waiting.pop()) not in seen:
                seen.add(other)
                waiting += arrows.get(other, ())
        assert room not in seen or room in ("__init__", "__main__")


def test_no_file_has_grown_into_two():
    files = [*sources(), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/**/*.py"), *PACKAGE.rglob("*.[ch]pp")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
    assert lengths["bacon_pl/distillers/base.py"] <= 200
