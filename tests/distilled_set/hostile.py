"""A small file of a distilled set, ways to spoil it, and what has to hold of whatever is loaded."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bacon_pl.data.images import DatasetMeta
from bacon_pl.data.whitening import Whitening
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError

META = DatasetMeta("toy", ("ant", "bee"), 1, (4, 4), (0.5,), (0.25,), 1000)
SOME = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(SOME, max_examples=150)
MANY = settings(SOME, max_examples=5000)


def honest() -> DistilledSet:
    images = torch.randn((4, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    config = {"model": {"ipc": 2, "lr": 0.2}}
    return DistilledSet(images, torch.tensor([0, 0, 1, 1]), META, factor=2, method="bacon", config=config, version="1")


def honest_format2() -> DistilledSet:
    """A set with all that format 1 cannot hold."""
    draw = torch.Generator().manual_seed(2)
    return DistilledSet(
        torch.randn((3, 1, 4, 4), generator=draw),
        torch.tensor([0, 0, 1]),
        replace(META, whitening=Whitening("zca", 0.1, "0123abcd")),
        factor=2,
        method="rded",
        config={"model": {"ipc": 2}},
        version="1",
        step_size=0.01,
        soft_labels=torch.randn((3, 4, 2), generator=draw).softmax(-1),
        label_kind="probabilities",
    )


def same(one: DistilledSet, other: DistilledSet) -> bool:
    fields = ("meta", "factor", "method", "seed", "version", "commit", "step_size", "label_kind")
    labels = [s.soft_labels if s.soft_labels is not None else torch.empty(0) for s in (one, other)]
    configs = [json.dumps(s.config, sort_keys=True) for s in (one, other)]  # as text, for NaN is not itself
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
        and torch.equal(*labels)
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
    assert distilled.images.shape == (sum(distilled.counts), meta.channels, *meta.size)
    assert distilled.labels.tolist() == [c for c, count in enumerate(distilled.counts) for _ in range(count)]
    assert min(distilled.counts) >= 1
    soft_labels = distilled.expanded_soft_labels()
    if soft_labels is not None:
        assert soft_labels.shape == (len(distilled), meta.num_classes)
        assert soft_labels.isfinite().all()
        assert distilled.label_kind == "logits" or (soft_labels.float().sum(1) - 1).abs().max() < 0.01
    assert len(distilled) == len(distilled.expanded()[0]) == distilled.factor**2 * len(distilled.images)
    if meta.whitening is None:
        pixels = distilled.pixels(expanded=True)
        assert ((pixels >= 0) & (pixels <= 1)).all()
    else:  # the matrices of a space that was never fitted are nowhere
        with pytest.raises(BaconError, match="not in the cache") as told:
            distilled.pixels(expanded=True)
        assert str(told.value).isprintable()
    assert same(DistilledSet.load(distilled.save(folder / "again")), distilled)
    return distilled


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


def forged(good: bytes, shapes: dict[str, list[int]] | None = None, **entries: Any) -> bytes:
    """A file with other shapes and with offsets that agree with them, whatever bytes follow."""
    header, description, tensors = split(good)
    del description["checksum"]
    start = 0
    for name, size in (("labels", 8), ("images", 4), ("soft_labels", 2)):
        if name not in header:
            continue
        shape = (shapes or {}).get(name, header[name]["shape"])
        end = start + size * int(torch.tensor(shape, dtype=torch.float64).prod())
        header[name] |= {"shape": shape, "data_offsets": [start, end]}
        start = end
    return join(header, description | entries, tensors)
