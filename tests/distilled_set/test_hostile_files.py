"""Malicious files: loading allocates no memory for claimed sizes, runs no code and writes no files."""

import json
import os
import pickle
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError, one_line
from tests.distilled_set.hostile import SOME, forged, honest, honest_format2, join, load, split


def peak() -> int:
    """Most memory this process has ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


N = 1 << 36  # images of 16 float32: 4 TB
TERABYTES = {"images": [N, 1, 4, 4], "labels": [N]}


def test_terabytes_cost_nothing(place: Path, good: bytes) -> None:
    soft = honest_format2().save(place / "soft").read_bytes()
    before = peak()
    assert load(place, forged(soft, {"soft_labels": [3, 4, 1 << 38]})) is None
    assert load(place, forged(good, TERABYTES)) is None
    for claimed in (1 << 24, 100 << 20, 1 << 40, (1 << 64) - 2):
        assert load(place, struct.pack("<Q", claimed + 1) + good[8:]) is None
    assert peak() - before < 64 << 20


def test_terabytes_that_are_there_as_holes_cost_nothing(place: Path, good: bytes) -> None:
    path = place / "holes"
    head = forged(good, TERABYTES)
    path.write_bytes(head)
    try:
        os.truncate(path, len(head) - len(split(good)[2]) + N * 72)
    except OSError:
        pytest.skip("this file system has no files of 5 TB")
    before = peak()
    with pytest.raises(BaconError, match="more than this machine's memory.*again"):
        DistilledSet.load(path)
    assert peak() - before < 64 << 20
    path.unlink()


@pytest.mark.parametrize(
    "entry",
    [
        "[" * 5_000_000,
        '{"a":' * 5_000,
        '{"config": ' + "[" * 60 + "]" * 60 + "}",
        "9" * 1_000_000,
        '"' + "x" * 12_000_000 + '"',
    ],
    ids=["open", "deep", "deeper than needed", "digits", "long"],
)
def test_absurd_descriptions(place: Path, good: bytes, entry: str) -> None:
    header, _, tensors = split(good)
    header["__metadata__"]["bacon_pl"] = entry
    assert load(place, join(header, None, tensors)) is None


def test_nesting_that_a_writer_could_not_bear(place: Path, good: bytes) -> None:
    nested: Any = 0
    for _ in range(400):
        nested = [nested]
    assert load(place, forged(good, config={"a": nested})) is None


def test_a_description_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    distilled = honest()
    distilled.config = {"note": "x" * 20_000_000}
    with pytest.raises(BaconError, match="19 MiB; shorten"):
        distilled.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path, place: Path, good: bytes) -> None:
    target = str(tmp_path / "harm")
    for data in (pickle.dumps(Bomb(target)), pickle.dumps(Bomb(target), protocol=0)):
        assert load(place, data) is None
    torch.save({"images": Bomb(target)}, tmp_path / "a.pt")
    assert load(place, (tmp_path / "a.pt").read_bytes()) is None
    config = {
        "model": {"class_path": "os.mkdir", "init_args": {"path": target}},
        "b": f"!!python/object/apply:os.mkdir ['{target}']",
    }
    distilled = load(place, forged(good, config=config, method=f"$(mkdir {target})"))
    assert distilled.config == config
    assert not os.path.exists(target)


def test_a_path_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 5000), tmp_path / "nul\0l", "/dev/null", "/dev/zero", tmp_path / "no" / "such"):
        with pytest.raises(BaconError, match="no distilled set"):
            DistilledSet.load(path)


# Names.

NAMES = st.text(max_size=30) | st.sampled_from(
    ["../../x", "/etc/x", "a/b", "a\\b", "", ".", "..", "CON", "con.png", "x" * 1000, "\x1b[2J", "a\0b", "ａ", "a", "A",
     "～/x", "\ud800", "a\u202eb", "-rf", "~", "$HOME", "%TEMP%", " ", "…"]
)  # fmt: skip


@settings(SOME, max_examples=100)
@given(names=st.lists(NAMES, min_size=1, max_size=6), dataset=NAMES)
def test_names_stay_in_the_folder(names: list[str], dataset: str, place: Path, good: bytes) -> None:
    _, description, _ = split(good)
    del description["checksum"]
    n = len(names)
    safetensors.torch.save_file(
        {"images": torch.zeros(n, 1, 4, 4), "labels": torch.arange(n)},
        place / "named",
        metadata={"bacon_pl": json.dumps(description | {"class_names": names, "dataset": dataset})},
    )
    folder = place / f"png{len(os.listdir(place))}"
    before = set(os.listdir(place))
    distilled = DistilledSet.load(place / "named")
    assert distilled.meta.class_names == tuple(names)
    distilled.export_png(folder)
    assert set(os.listdir(place)) == before | {folder.name}
    made = sorted(os.listdir(folder))
    assert len({name.casefold() for name in made}) == n
    assert all(os.listdir(folder / name) == ["0000.png"] for name in made)
    assert len(list(folder.rglob("*"))) == 2 * n


@given(st.text())
def test_text_in_sentences_is_one_line(text: str) -> None:
    shown = one_line(text, 40)
    assert shown.isprintable()
    assert len(shown) <= 40
    assert one_line("a  b\n\tc") == "a b c"
