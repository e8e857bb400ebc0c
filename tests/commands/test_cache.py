"""`bacon cache`: what is shown, what is removed, and what never is."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.filesize import decimal
from safetensors.torch import save_file

from bacon_pl.cache_files import picks_path
from bacon_pl.cli import main
from bacon_pl.data import DataModule
from bacon_pl.data.cache import cached
from bacon_pl.learners import Recipe, trained_networks
from bacon_pl.networks import ConvNet
from bacon_pl.runtime import lock
from tests.paths import ROOT

DAY = 86_400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BACON_CACHE", str(folder))
    return folder


def keep(name: str, of: Path | str = "", days: float = 0.0) -> Path:
    """An entry as a run makes it, and of some age."""
    before = set(_files())
    cached(name, f"{name} {of}", "state", lambda: ({"images": torch.zeros(3000, dtype=torch.uint8)}, {}), of=str(of))
    (path,) = set(_files()) - before
    return aged(path, days)


def _files() -> list[Path]:
    folder = Path(os.environ["BACON_CACHE"])
    return list(folder.iterdir()) if folder.is_dir() else []


def aged(path: Path, days: float) -> Path:
    when = time.time() - days * DAY
    os.utime(path, (when, when))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    main(["cache", *args])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["cache", *args])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_what_is_kept_is_shown(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cats").mkdir()
    keep("cats", tmp_path / "cats")
    keep("dogs", tmp_path / "dogs", days=3.5)
    (cache / "fused-0123456789abcdef.so").write_bytes(bytes(50_000))
    lines = run(capsys).splitlines()
    assert lines[0] == f"cache: {cache} ($BACON_CACHE)"
    assert [line.split()[0] for line in lines[1:-1]] == ["compiled", "decoded", "decoded"]
    cats, dogs = (next(line for line in lines if name in line) for name in ("cats", "dogs"))
    assert "(today)" in cats and cats.endswith(str(tmp_path / "cats")) and " kB " in cats
    assert "(3 days ago)" in dogs and dogs.endswith(f"{tmp_path / 'dogs'} (no longer there)")
    total = sum(path.stat().st_size for path in cache.iterdir())
    assert lines[-1] == f"total: 3 files, {decimal(total)}"


def test_what_was_measured_is_shown_and_cleared(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"device": "NVIDIA H100", "architecture": "ConvNet"}
    cache.mkdir(parents=True, exist_ok=True)
    picks_path(facts).write_text(json.dumps({"of": facts, "why": "streams, TF32: 3 ms a training step"}))
    picks_path({}).write_text("[]")  # damaged
    shown = run(capsys)
    assert "measured choices  NVIDIA H100" in shown and "ConvNet: streams, TF32: 3 ms a training step" in shown
    assert run(capsys, "clear").startswith("removed 2 files")


def test_an_empty_cache(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "total: nothing is kept" in run(capsys)
    assert run(capsys, "clear").startswith("removed 0 files")
    assert not cache.exists()


def test_all_is_cleared_but_what_is_being_written(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = keep("cats").stat().st_size
    (cache / "fused-0123456789abcdef.so").write_bytes(bytes(500))
    (cache / "cats-0123456789abcdef12345678.tmp").write_bytes(b"half")
    aged(Path(_made(cache / "dogs-0123456789abcdef12345678.tmp")), 1)  # whoever wrote it was killed
    (cache / "tmp12345678").mkdir()  # kernels are being compiled
    assert run(capsys, "clear") == f"removed 3 files from {cache}: {decimal(size + 504)} freed\n"
    assert sorted(os.listdir(cache)) == ["cats-0123456789abcdef12345678.tmp", "tmp12345678"]
    aged(cache / "tmp12345678", 1)
    run(capsys, "clear")
    assert os.listdir(cache) == ["cats-0123456789abcdef12345678.tmp"]


def _made(path: Path) -> Path:
    path.write_bytes(b"half")
    return path


def test_older_than(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, _ = keep("new", days=1), keep("old", days=40)
    assert run(capsys, "clear", "--older_than", "30").startswith("removed 1 file from")
    assert list(cache.iterdir()) == [new]
    run(capsys, "clear", "--older_than=0.5")
    assert not list(cache.iterdir())


def test_a_damaged_entry_is_cleared_too(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep("cats").write_bytes(b"")
    assert run(capsys, "clear").startswith("removed 1 file from")


def test_a_folder_with_other_things_is_left_alone(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = keep("cats")
    for name in ("thesis.tex", "set-0123456789abcdef.safetensors"):
        if name.endswith("tex"):
            (cache / name).write_text("mine")
        else:  # somebody's own tensors, under a name that ours might have
            save_file({"x": torch.zeros(1)}, cache / name, metadata={"bacon_pl": '{"format_version": 2}'})
        said = refused(capsys, "clear")
        assert "not the cache's" in said and name in said and "nothing was removed" in said
        assert "1 other files or folders" in run(capsys)
        assert own.exists() and (cache / name).exists()
        (cache / name).unlink()
    (cache / ".DS_Store").write_text("")
    run(capsys, "clear")
    assert os.listdir(cache) == [".DS_Store"]


def test_another_process_replaces_a_file_while_it_is_cleared(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keep("cats")
    monkeypatch.setattr(Path, "unlink", lambda self: (_ for _ in ()).throw(FileNotFoundError(2, "gone", str(self))))
    assert run(capsys, "clear").startswith("removed 0 files")
    monkeypatch.undo()
    assert path.exists()


def trained(seed: int = 0, count: int = 2) -> Path:
    """Networks as a run trains them; returns their folder."""
    data = DataModule(name="digits")
    data.setup()
    recipe = Recipe(network=partial(ConvNet, width=4, depth=2), epochs=1, batch_size=512, acceleration="off")
    return trained_networks(data.train, data.meta, recipe, seed=seed, count=count, snapshots=(0, 1)).folder


def test_trained_networks_are_shown_and_cleared(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained()
    files = list(folder.iterdir())
    size = sum(path.stat().st_size for path in files)
    (line,) = (line for line in run(capsys).splitlines() if "trained networks" in line)
    assert "digits" in line and decimal(size) in line and "(today)" in line
    assert line.endswith("2 networks, ConvNet of width 4, 1 epoch, seed 0") and "being trained" not in line
    assert run(capsys).splitlines()[-1] == f"total: {len(files)} files, {decimal(size)}"
    aged(folder, 3)
    assert run(capsys, "clear", "--older_than", "4").startswith("removed 0 files")
    assert run(capsys, "clear") == f"removed {len(files)} files from {cache}: {decimal(size)} freed\n"
    assert os.listdir(cache) == []
    assert trained() == folder and len(list(folder.iterdir())) == len(files)  # and they are made again


def test_networks_that_a_run_is_training_stay(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy, idle = trained(count=1), trained(seed=1, count=1)
    (busy / "network0001.unfinished").write_bytes(b"half")
    (busy / ".about.json.1234.part").write_bytes(b"{")
    before = sorted(os.listdir(busy))
    with open(busy / "lock", "a") as file:
        assert lock(file)
        assert [line.endswith("(being trained)") for line in run(capsys).splitlines()[1:-1]] == [True, False]
        said = run(capsys, "clear")
        assert said.endswith(f"kept {busy}, in which a run is training networks\n") and not idle.exists()
        assert sorted(os.listdir(busy)) == before
    assert run(capsys, "clear").startswith(f"removed {len(before)} files") and not busy.exists()


def test_networks_without_a_description(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(count=1)
    (folder / "about.json").write_text("[")
    (line,) = run(capsys).splitlines()[1:-1]
    assert folder.name[:8] in line and line.endswith("  1 network")
    run(capsys, "clear")
    assert not folder.exists()


@pytest.mark.parametrize("name", ["networks/thesis", "networks/0123456789abcdef01234567/thesis.tex", "networks/x.tex"])
def test_what_is_not_networks_keeps_them(cache: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = trained(count=1)
    (cache / name).parent.mkdir(exist_ok=True)
    (cache / name).write_text("mine")
    assert "other files or folders" in run(capsys)
    assert "not the cache's" in (said := refused(capsys, "clear")) and name.rpartition("/thesis.tex")[0] in said
    assert (cache / name).exists() and folder.exists()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["clear", "--older_than"], "--older_than must be a number of days, at least 0, got ''"),
        (["clear", "--older_than", "nan"], "at least 0, got 'nan'"),
        (["clear", "--older_than", "-1"], "at least 0, got '-1'"),
        (["--older_than", "3"], "--older_than goes with clear"),
        (["claer"], "unknown argument claer"),
        (["clear", "--all"], "unknown option --all"),
    ],
)
def test_bad_arguments(cache: Path, capsys: pytest.CaptureFixture[str], args: list[str], sentence: str) -> None:
    own = keep("cats")
    assert sentence in refused(capsys, *args)
    assert own.exists()


def test_a_cache_that_is_a_file(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.write_text("")
    assert "cannot read the cache" in refused(capsys)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom bacon_pl.cli import main\nmain(['cache'])\nassert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--older_than DAYS" in run(capsys, "--help")


def test_what_was_cleared_is_made_again(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep("cats")
    run(capsys, "clear")
    made = []
    cached("cats", "cats ", "state", lambda: (made.append(1), ({"images": torch.zeros(1)}, {}))[1])
    assert made == [1]


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_other_users_of_the_cache_can_read_it(cache: Path) -> None:
    assert keep("cats").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_has_left_is_cleared(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep("cats")
    left = (".tmpAb12Cd", ".measured-0123456789abcdef.json.0123abcd.part")
    for name in left:
        aged(_made(cache / name), 1)
    (cache / ".hidden").write_text("mine")
    run(capsys, "clear")
    assert os.listdir(cache) == [".hidden"]
