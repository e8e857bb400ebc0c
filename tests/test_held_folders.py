"""Folders locked by a command: for one process at a time, and without leftover files after a rejected command."""

import subprocess
import sys
from pathlib import Path

import pytest

from bacon_pl.errors import BaconError
from bacon_pl.report import claimed, folder_name
from bacon_pl.runtime import held, undone


def test_a_held_folder_keeps_others_out_and_leaves_no_lock(tmp_path):
    folder = tmp_path / "a/b"
    with held(folder) as mine:
        assert mine and (folder / ".lock").exists()
        other = "import pathlib, sys\nfrom bacon_pl.runtime import held\n"
        other += "with held(pathlib.Path(sys.argv[1])) as mine: print(mine)"
        command = [sys.executable, "-c", other, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
        assert (folder / ".lock").exists()  # the other one did not take it away
        with pytest.raises(BaconError, match="another process is evaluating into"), claimed(folder):
            pass
    assert list(tmp_path.iterdir()) == []  # nothing was written
    with held(folder):
        (folder / "written").touch()
    assert [path.name for path in folder.iterdir()] == ["written"]


def test_an_abandoned_lock_is_taken_over(tmp_path):
    (tmp_path / ".lock").touch()
    with held(tmp_path) as mine:
        assert mine


def fail(folder: Path, keep: bool) -> None:
    """Write into a folder and fail."""
    with undone(folder, keep=lambda: keep):
        (folder / "new").mkdir(parents=True)
        (folder / "new/file").touch()
        raise KeyError


def test_what_came_to_nothing_is_undone(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/old").touch()
    for name, keep in (("logs", False), ("other", False), ("kept", True)):
        with pytest.raises(KeyError):
            fail(tmp_path / name, keep)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found == {"logs", "logs/old", "kept", "kept/new", "kept/new/file"}


def test_folders_are_named_after_set_and_recipe():
    name = folder_name(Path("theirs/res DM.pt"), ["convnet"], 1000, {"seed": 0})
    assert name == folder_name(Path("res DM.npz"), ["convnet"], 1000, {"seed": 0})
    assert name.rpartition("-")[0] == "res_DM-convnet-1000epochs"
    assert name != folder_name(Path("res DM.pt"), ["convnet"], 1000, {"seed": 1})
    many = folder_name(Path(".."), ["a", "b", "c", "torchvision.d", "e"], 1, {})
    assert many.startswith("set-a-b-c-and-2-more-1epochs-")
    odd = folder_name(Path("\x1b[2J\ud800" + "x" * 500), ["../../net"], 1, {"name": "\ud800"})
    assert odd.isascii() and odd.isprintable() and "/" not in odd and len(odd) < 120
