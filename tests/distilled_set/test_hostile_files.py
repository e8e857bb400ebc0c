"""Files that want to do harm, or were hit by chance: loading gives a valid set or one sentence, and nothing else."""

import copy
import json
import os
import pickle
import resource
import string
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError, one_line

META = DatasetMeta("toy", ("ant", "bee"), 1, (4, 4), (0.5,), (0.25,), 1000)
SOME = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(SOME, max_examples=5000)


def honest() -> DistilledSet:
    images = torch.randn((4, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    config = {"model": {"ipc": 2, "lr": 0.2}}
    return DistilledSet(images, torch.tensor([0, 0, 1, 1]), META, factor=2, method="bacon", config=config, version="1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def good(place: Path) -> bytes:
    return honest().save(place / "good").read_bytes()


def same(one: DistilledSet, other: DistilledSet) -> bool:
    fields = ("meta", "factor", "method", "seed", "version", "commit")
    configs = [json.dumps(s.config, sort_keys=True) for s in (one, other)]  # as text, for NaN is not itself
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
        and all(getattr(one, name) == getattr(other, name) for name in fields)
        and configs[0] == configs[1]
    )


def load(folder: Path, data: bytes) -> DistilledSet | None:
    """Load a file of these bytes: the set, which is valid, or None where it was refused in one line."""
    path = folder / "mutant"
    path.write_bytes(data)
    try:
        distilled = DistilledSet.load(path)
    except BaconError as error:
        sentence = str(error)
        assert str(path) in sentence
        assert sentence.endswith(".")
        assert sentence.isprintable()
        assert len(sentence) < 600
        return None
    assert distilled.images.dtype == torch.float32
    assert distilled.images.isfinite().all()
    meta = distilled.meta
    assert distilled.images.shape == (meta.num_classes * distilled.ipc, meta.channels, *meta.size)
    assert distilled.labels.tolist() == [c for c in range(meta.num_classes) for _ in range(distilled.ipc)]
    assert len(distilled) == len(distilled.expanded()[0]) == distilled.factor**2 * len(distilled.images)
    pixels = distilled.pixels(expanded=True)
    assert ((pixels >= 0) & (pixels <= 1)).all()
    assert same(DistilledSet.load(distilled.save(folder / "again")), distilled)
    return distilled


# ---- by chance


@st.composite
def mutation(draw: st.DrawFn, length: int) -> tuple[str, int, int, bytes]:
    """What to do, where, up to where, and with which bytes; half of it happens in the header."""
    where = st.integers(0, length) | st.integers(0, min(length, 700))
    first, last = sorted((draw(where), draw(where)))
    ugly = st.sampled_from(
        [b"\0", b"\xff" * 8, b'"', b"{", b"]", b"9" * 25, b"-1", b"1e999", b"NaN", b"\\ud800", b"\n"]
    )
    kind = draw(st.sampled_from(["flip", "cut", "insert", "duplicate", "overwrite", "remove"]))
    return kind, first, last, draw(ugly | st.binary(min_size=1, max_size=12))


def mutate(data: bytes, kind: str, first: int, last: int, extra: bytes) -> bytes:
    match kind:
        case "flip":
            spot = min(first, len(data) - 1)
            return data[:spot] + bytes([data[spot] ^ (1 << extra[0] % 8)]) + data[spot + 1 :]
        case "cut":
            return data[:first]
        case "insert":
            return data[:first] + extra + data[first:]
        case "duplicate":
            return data[:last] + data[first:last] + data[last:]
        case "overwrite":
            return data[:first] + extra + data[first + len(extra) :]
        case _:
            return data[:first] + data[last:]


def check_bytes(data: st.DataObject, place: Path, good: bytes) -> None:
    mutant = good
    for _ in range(data.draw(st.integers(1, 3))):
        mutant = mutate(mutant, *data.draw(mutation(max(len(mutant), 1)))) or b"\0"
    distilled = load(place, mutant)
    if distilled is not None and b"checksum" in mutant:
        assert same(distilled, honest())  # the checksum has seen to it


@SOME
@given(data=st.data())
def test_mutated_bytes(data: st.DataObject, place: Path, good: bytes) -> None:
    check_bytes(data, place, good)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_mutated_bytes_many(data: st.DataObject, place: Path, good: bytes) -> None:
    check_bytes(data, place, good)


def test_every_flipped_bit_of_a_file_is_noticed_or_harmless(place: Path, good: bytes) -> None:
    loaded = 0
    for position in range(0, 8 * len(good), 7):
        spot, bit = divmod(position, 8)
        distilled = load(place, good[:spot] + bytes([good[spot] ^ 1 << bit]) + good[spot + 1 :])
        loaded += distilled is not None
        assert distilled is None or same(distilled, honest())
    assert loaded < 20  # in the names of what is not needed, or padding


# ---- by somebody who knows the format

ODD: list[Any] = [
    None, True, -1, 0, 1, 2, 3, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, 0.5, 1e-320, 1e308, float("nan"),
    float("inf"), "", "x", "../../x", "\x1b[31m", "\ud800", "F16", "F64", "U64", "BOOL", "F4", "é" * 300, [], {}, [[]],
    [0, 0], [1 << 62, 4, 1 << 62], {"a": 1}, [None],
]  # fmt: skip
VALUES = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(string.ascii_letters, max_size=4), inner),
    max_leaves=6,
)


def split(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, description and tensors' bytes of a good file."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["bacon_pl"]), data[8 + length :]


def join(header: dict[str, Any], description: Any, tensors: bytes) -> bytes:
    if isinstance(header.get("__metadata__"), dict) and description is not None:
        header["__metadata__"]["bacon_pl"] = json.dumps(description)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def alter(tree: Any, data: st.DataObject) -> None:
    """Replace, add or remove one value somewhere in a tree of JSON."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and data.draw(st.booleans()):
            node = node[key]
            continue
        kind = data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if kind == "remove":
            del node[key]
        elif kind == "replace":
            node[key] = copy.deepcopy(data.draw(VALUES))  # or later changes would reach the samples
        elif isinstance(node, dict):
            node[data.draw(st.sampled_from(["images2", "", "x" * 50, "__metadata__"]))] = copy.deepcopy(
                data.draw(VALUES)
            )
        else:
            node.append(copy.deepcopy(node[key]))
        return


def check_json(data: st.DataObject, place: Path, good: bytes) -> None:
    header, description, tensors = split(good)
    del description["checksum"]  # whoever forges the rest can forge it, too
    for _ in range(data.draw(st.integers(1, 3))):
        alter(data.draw(st.sampled_from([header, description, description])), data)
    if data.draw(st.booleans()):
        tensors = mutate(tensors, *data.draw(mutation(len(tensors))))
    load(place, join(header, description, tensors))


@SOME
@given(data=st.data())
def test_forged_headers(data: st.DataObject, place: Path, good: bytes) -> None:
    check_json(data, place, good)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_forged_headers_many(data: st.DataObject, place: Path, good: bytes) -> None:
    check_json(data, place, good)


def test_the_forger_can_make_valid_files(place: Path, good: bytes) -> None:
    """Without this the tests above might refuse everything for one dull reason."""
    header, description, tensors = split(good)
    del description["checksum"]
    assert same(load(place, join(header, description, tensors)), honest())
    distilled = load(place, join(header, description | {"seed": 3, "dataset": "\ud800\x1b"}, tensors))
    assert (distilled.seed, distilled.meta.name) == (3, "\ud800\x1b")


def forged(good: bytes, shapes: dict[str, list[int]] | None = None, **entries: Any) -> bytes:
    """A file with other shapes and with offsets that agree with them, whatever bytes follow."""
    header, description, tensors = split(good)
    del description["checksum"]
    start = 0
    for name, size in (("labels", 8), ("images", 4)):
        shape = (shapes or {}).get(name, header[name]["shape"])
        end = start + size * int(torch.tensor(shape, dtype=torch.float64).prod())
        header[name] |= {"shape": shape, "data_offsets": [start, end]}
        start = end
    return join(header, description | entries, tensors)


def peak() -> int:
    """Most memory this process has ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


N = 1 << 36  # images of 16 float32: 4 TB
TERABYTES = {"images": [N, 1, 4, 4], "labels": [N]}


def test_terabytes_cost_nothing(place: Path, good: bytes) -> None:
    before = peak()
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


# ---- names


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
