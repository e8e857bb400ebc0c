"""What the tests of good and bad input share: the files, an output folder and a process that runs commands."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from bacon_pl.data import DatasetMeta, load_dataset
from bacon_pl.distilled_set import FILE_NAME
from tests.commands.bad_files import bomb, described, honest, mnist, noise, tree


@pytest.fixture(scope="module")
def digits() -> DatasetMeta:
    return load_dataset("digits", "none")[2]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, digits: DatasetMeta) -> Iterator[dict[str, Path]]:
    """Everything that the table names in braces."""
    top = tmp_path_factory.mktemp("bad")
    trees = [
        "good",
        "hollow",
        "differ",
        "truncated",
        "zero",
        "text",
        "link",
        "image_folder",
        "floats",
        "spoilt",
        "mixed",
        "two_bad",
        "bomb",
        "lonely",
        "locked",
        "locked_class",
    ]
    folders = ["half", "single", "empty", "sealed", "gap", "range", "short", "cut"]
    files = ["file", "key", "binary", "yaml", "list", "empty_file", "twice", "itself", "pipe", "nulls", "no_trainer"]
    at = {name: top / name for name in trees + folders + files} | {"no": top / "no/such"}
    for name in ("empty", "sealed", "half", "single"):
        at[name].mkdir()

    for name in trees:
        tree(at[name])
    tree(at["single"], 1, ("",))
    tree(at["half"], 3, ("train",))
    for path in (at["hollow"] / "train/b").iterdir():
        path.unlink()
    (at["differ"] / "test/c").mkdir()
    Image.fromarray(noise(16, 16, 3)).save(at["differ"] / "test/c/0.png")
    image = (at["good"] / "train/a/0.png").read_bytes()
    (at["truncated"] / "train/b/bad.png").write_bytes(image[: len(image) // 2])
    (at["zero"] / "train/b/bad.png").write_bytes(b"")
    (at["text"] / "train/b/bad.png").write_text("no image at all")
    (at["link"] / "train/b/bad.png").symlink_to(at["no"])
    (at["image_folder"] / "train/b/bad.png").mkdir()
    Image.new("F", (16, 16), 0.5).save(at["floats"] / "train/b/bad.tif")
    for path in (at["spoilt"] / "test/b").iterdir():
        path.write_bytes(b"")
    Image.fromarray(noise(8, 20, 3)).save(at["mixed"] / "train/b/bad.png")
    for split, name in (("train", "a"), ("test", "b")):
        (at["two_bad"] / split / name / "bad.png").write_bytes(b"")
    (at["bomb"] / "train/b/bad.png").write_bytes(bomb(40_000, 40_000))
    for split in ("train", "test"):
        shutil.rmtree(at["lonely"] / split / "b")
    at["file"].write_text("a file")

    ten = [k % 10 for k in range(40)]
    mnist(at["gap"], [2 if k == 3 else k for k in ten])
    mnist(at["range"], [*ten[:-1], 77])
    mnist(at["short"], ten[:-1])
    mnist(at["cut"], ten, cut=100)

    at["key"].write_text("model: {ipk: 3}\n")
    at["binary"].write_bytes(b"\xd0\xff\x00\x01")
    at["list"].write_text("- a\n")
    at["empty_file"].write_text("# model: {ipc: 1}\n")
    at["twice"].write_text("model:\n  ipc: 1\n  lr: 0.1\n  ipc: 2\n")
    at["itself"].write_text("model: &a\n  network: *a\n")
    at["nulls"].write_text("nonsense:\n")
    at["no_trainer"].write_text("trainer:\n")
    os.mkfifo(at["pipe"])
    at["yaml"].write_text("model: {ipc: [1\n  - }")

    def make(name: str, meta: DatasetMeta) -> Path:
        at[name] = honest(meta).save(top / f"{name}.safetensors")
        return at[name]

    data = make("set", digits).read_bytes()
    for name, changed in {
        "set_cut": data[:-100],
        "set_zero": b"",
        "set_flip": data[:-50] + bytes([data[-50] ^ 4]) + data[-49:],
        "set_pickle": pickle.dumps({"images": 1}),
    }.items():
        at[name] = top / f"{name}.safetensors"
        at[name].write_bytes(changed)
    described(make("set_new", digits), format_version=99)
    make("set_names", replace(digits, class_names=tuple("abcdefghij")))
    make("set_two", replace(digits, class_names=digits.class_names[:2]))
    make("set_size", replace(digits, size=(16, 16)))
    make("set_rgb", replace(digits, channels=3, mean=digits.mean * 3, std=digits.std * 3))
    make("set_mean", replace(digits, mean=(0.1,)))
    described(make("set_odd", digits), dataset="\x1b[2J../../\ud800", method="a\nb\ud800", package_version="\x00")

    for name in ("second", "third"):
        honest(digits).save(top / "runs" / name / FILE_NAME)
    at["runs"] = top / "runs"
    honest(digits).save(at["sealed"] / FILE_NAME)
    at["sealed"].chmod(0o555)
    at["locked"].chmod(0)
    (at["locked_class"] / "train/b").chmod(0)
    yield at
    for path in (at["sealed"], at["locked"], at["locked_class"] / "train/b"):
        path.chmod(0o755)


@pytest.fixture
def out(tmp_path: Path, digits: DatasetMeta) -> Path:
    """An output folder with an earlier run's files."""
    folder = tmp_path / "out"
    honest(digits).save(folder / FILE_NAME)
    (folder / "distilled.png").write_bytes(b"an earlier picture")
    (folder / "results.json").write_text("{}")
    return folder
