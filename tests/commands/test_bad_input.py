"""The real command on bad input: it must end early, in one sentence, with nothing overwritten."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bacon_pl.distilled_set import FILE_NAME
from tests.commands.bad_input import FIT, ROWS, arguments, check_sentence
from tests.forked_cli import ForkedCli
from tests.paths import PYTHON
from tests.patience import PATIENCE
from tests.thinned import thinned


def earlier_files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (FILE_NAME, "distilled.png", "results.json")}


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("name", thinned(ROWS, every=2))
def test_bad_input(name: str, forked_cli: ForkedCli, bad: dict[str, Path], out: Path, tmp_path: Path) -> None:
    command, says, *how = ROWS[name]
    before, there = earlier_files(out), everything(tmp_path)
    done = forked_cli.run(*arguments(command, bad, out), cwd=tmp_path, **(how[0] if how else {}))
    assert done.returncode == 2, done.stderr
    check_sentence(done.stderr, says, {**bad, "out": out})
    if name not in ("disk full later", "stdout full"):  # which come so far as to replace the earlier run
        assert earlier_files(out) == before
        assert not list(out.glob("**/*.ckpt"))
        if command.startswith("fit"):
            assert everything(tmp_path) == there
    assert "accuracy" not in done.stdout
    assert {path.name for path in tmp_path.glob("**/.*")} <= {".lock", ".loggers.json"}, "temporary files are left"


@pytest.mark.parametrize(
    "words",
    ["--data.name mnist --data.root {no}", "--model.start.images {no}", "--model.ipc 500", "--data.val_fraction 0"],
)
@pytest.mark.parametrize("below", ["new/folder", "out", "."])
def test_a_run_that_never_begins_leaves_nothing(
    words: str, below: str, forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "out/lightning_logs/version_0").mkdir(parents=True)
    (tmp_path / "out/lightning_logs/version_0/mine.txt").write_text("of an earlier run")
    there = everything(tmp_path)
    place = tmp_path / below if below != "." else Path(".")
    done = forked_cli.run(*arguments(f"{FIT} {words}", bad, place), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert everything(tmp_path) == there


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) >= 50


# A few of them from nothing, with a new interpreter.


def command(*args: str, **how: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [PYTHON, "-m", "bacon_pl", *args], env=environment, stderr=subprocess.PIPE, text=True, **how
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["set truncated"])
def test_bad_input_from_nothing(name: str, bad: dict[str, Path], out: Path, tmp_path: Path) -> None:
    before = earlier_files(out)
    process = command(*arguments(ROWS[name][0], bad, out), cwd=tmp_path)
    stderr = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2
    check_sentence(stderr, ROWS[name][1], bad)
    assert earlier_files(out) == before


def test_nobody_reads_the_output(bad: dict[str, Path], out: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = command(*arguments(FIT, bad, out), cwd=tmp_path, stdout=writer)
    os.close(writer)
    os.close(reader)
    stderr = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2
    check_sentence(stderr, ["Broken pipe", "check"], bad)


def test_debug_shows_the_traceback(forked_cli: ForkedCli, bad: dict[str, Path], out: Path, tmp_path: Path) -> None:
    done = forked_cli.run(*arguments(ROWS["ipc 0"][0], bad, out), cwd=tmp_path, env={"BACON_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "BaconError: --model.ipc must be" in done.stderr
