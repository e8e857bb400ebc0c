"""Input that looks bad and is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bacon_pl.data import load_dataset
from bacon_pl.distilled_set import FILE_NAME, DistilledSet
from tests.commands.bad_files import honest
from tests.commands.bad_input import EARLY, EVAL, FIT, FOLDER, arguments
from tests.forked_cli import Done, ForkedCli
from tests.paths import evaluation_in


def succeed(done: Done) -> None:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_all_streams_closed(forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    succeed(forked_cli.run(*arguments(FIT, bad, out), cwd=tmp_path, closed=[0, 1, 2]))
    assert DistilledSet.load(out).ipc == 1
    done = forked_cli.run(*arguments(f"{EARLY} --model.ipc 0", bad, out), cwd=tmp_path, closed=[0, 1, 2])
    assert done.returncode == 2


def test_a_terminal_that_knows_ascii_alone(forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    honest(load_dataset("digits", "none")[2]).save(out / FILE_NAME)
    done = forked_cli.run(*arguments(f"{EVAL} --distilled {{out}}", bad, out), cwd=tmp_path, encoding="ascii")
    succeed(done)
    assert "convnet on distilled: " in done.stdout


def test_odd_names_reach_the_results(forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(bad["set_odd"].read_bytes())
    done = forked_cli.run(*arguments(f"{EVAL} --distilled {folder}", bad, tmp_path / "out"), cwd=tmp_path)
    succeed(done)
    assert (
        json.loads((evaluation_in(tmp_path / "out") / "results.json").read_text())["dataset"] == "\x1b[2J../../\ud800"
    )
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


@pytest.mark.parametrize(
    ("kind", "args"), [("mixed", "--data.image_size 8"), ("truncated", "--data.on_bad_image skip")]
)
def test_what_the_sentence_said_to_do_works(
    kind: str, args: str, forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path
) -> None:
    succeed(forked_cli.run(*arguments(f"{FOLDER} --data.root {{{kind}}} {args}", bad, tmp_path / "out"), cwd=tmp_path))
    assert DistilledSet.load(tmp_path / "out").meta.class_names == ("a", "b")


def pictures(kind: str) -> tuple[dict[str, Image.Image], dict[str, list[int]], str]:
    """Two classes of plain pictures in some mode, the pixels they should become, and the file's suffix."""
    colors = {"a": (10, 120, 240), "b": (200, 60, 30)}
    if kind in ("L", "LA", "1", "I;16", "I;16 tif"):
        gray = {"a": 0, "b": 255} if kind == "1" else {"a": 40, "b": 200}
        wanted = {name: [value] for name, value in gray.items()}
        if kind.startswith("I"):
            wide = {name: np.full((16, 16), 257 * value, dtype=np.uint16) for name, value in gray.items()}
            return {n: Image.fromarray(w) for n, w in wide.items()}, wanted, "tif" if "tif" in kind else "png"
        return {n: Image.new("L", (16, 16), v).convert(kind) for n, v in gray.items()}, wanted, "png"
    made = {name: Image.new("RGB", (16, 16), value) for name, value in colors.items()}
    if kind == "RGBA":
        made = {name: Image.new("RGBA", (16, 16), (*value, 99)) for name, value in colors.items()}
    elif kind == "P":
        made = {name: image.quantize(4) for name, image in made.items()}
    elif kind == "CMYK":
        made = {name: image.convert("CMYK") for name, image in made.items()}
    wanted = {name: list(value) for name, value in colors.items()}
    return made, wanted, "jpg" if kind == "CMYK" else "png"


@pytest.mark.parametrize("kind", ["RGB", "L", "LA", "1", "I;16", "I;16 tif", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode_keep_their_colors(
    kind: str, forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path
) -> None:
    made, wanted, suffix = pictures(kind)
    for split in ("train", "test"):
        for name, image in made.items():
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for k in range(2):
                image.save(
                    tmp_path / "data" / split / name / f"{k}.{suffix}", **({"quality": 100} if suffix == "jpg" else {})
                )
    # The images hardly move at this rate, so the set is what was read.
    done = forked_cli.run(
        *arguments(f"{FOLDER} --data.root {tmp_path / 'data'} --model.lr 1e-9", bad, tmp_path / "out"), cwd=tmp_path
    )
    succeed(done)
    distilled = DistilledSet.load(tmp_path / "out")
    got = 255 * distilled.pixels().mean((1, 3, 4))
    assert torch.allclose(got, torch.tensor(list(wanted.values())).float(), atol=3 if suffix == "jpg" else 0.6)


def test_class_names_in_any_script_from_end_to_end(forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path) -> None:
    names = sorted(
        ["cafe\u0301", "קפה", "قهوة", "कॉफ़ी", "咖啡", "👩\u200d🚀", "a$b$", "x | y", os.fsdecode(b"\xff\xfe")]
    )
    for split in ("train", "test"):
        for k, name in enumerate(names):
            (tmp_path / "猫" / split / name).mkdir(parents=True)
            for n in range(2):
                Image.new("RGB", (16, 16), (20 * k, 99, n)).save(tmp_path / "猫" / split / name / f"ü{n}.png")
    common = f"--data.root {tmp_path / '猫'}"
    done = forked_cli.run(*arguments(f"{FOLDER} {common}", bad, tmp_path / "out"), cwd=tmp_path)
    succeed(done)
    assert "missing from" not in done.stderr  # what matplotlib says of letters that it cannot draw
    assert DistilledSet.load(tmp_path / "out").meta.class_names == tuple(names)
    words = f"{EVAL} --distilled {{out}} --data.name folder --evaluation.network.depth 1 {common}"
    done = forked_cli.run(*arguments(words, bad, tmp_path / "out"), cwd=tmp_path)
    succeed(done)
    assert "missing from" not in done.stderr and "accuracy" in done.stdout
    (results,) = tmp_path.rglob("results.json")
    assert json.loads(results.read_text())["classes"] == names
