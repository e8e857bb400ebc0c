"""Files hit by chance or forged by somebody who knows the format: a valid set or one sentence, and nothing else."""

import copy
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bacon_pl.distilled_set import DistilledSet
from tests.distilled_set.hostile import FEW, MANY, join, load, mutate, mutation, same, split

# By chance.


def check_bytes(data: st.DataObject, place: Path, written: bytes, made: DistilledSet) -> None:
    mutant = written
    for _ in range(data.draw(st.integers(1, 3))):
        mutant = mutate(mutant, *data.draw(mutation(max(len(mutant), 1)))) or b"\0"
    distilled = load(place, mutant)
    if distilled is not None and b"checksum" in mutant:
        assert same(distilled, made)  # the checksum has seen to it


@FEW
@given(data=st.data())
def test_mutated_bytes(data: st.DataObject, place: Path, written: bytes, made: DistilledSet) -> None:
    check_bytes(data, place, written, made)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_mutated_bytes_many(data: st.DataObject, place: Path, written: bytes, made: DistilledSet) -> None:
    check_bytes(data, place, written, made)


def test_every_flipped_bit_of_a_file_is_noticed_or_harmless(place: Path, written: bytes, made: DistilledSet) -> None:
    loaded = 0
    for position in range(0, 8 * len(written), 13):
        spot, bit = divmod(position, 8)
        distilled = load(place, written[:spot] + bytes([written[spot] ^ 1 << bit]) + written[spot + 1 :])
        loaded += distilled is not None
        assert distilled is None or same(distilled, made)
    assert loaded < 20  # in the names of what is not needed, or padding


# By somebody who knows the format.

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


def check_json(data: st.DataObject, place: Path, written: bytes) -> None:
    header, description, tensors = split(written)
    del description["checksum"]  # whoever forges the rest can forge it, too
    for _ in range(data.draw(st.integers(1, 3))):
        alter(data.draw(st.sampled_from([header, description, description])), data)
    if data.draw(st.booleans()):
        tensors = mutate(tensors, *data.draw(mutation(len(tensors))))
    load(place, join(header, description, tensors))


@FEW
@given(data=st.data())
def test_forged_headers(data: st.DataObject, place: Path, written: bytes) -> None:
    check_json(data, place, written)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_forged_headers_many(data: st.DataObject, place: Path, written: bytes) -> None:
    check_json(data, place, written)


def test_the_forger_can_make_valid_files(place: Path, written: bytes, made: DistilledSet) -> None:
    """Without this the tests above might refuse everything for one dull reason."""
    header, description, tensors = split(written)
    del description["checksum"]
    assert same(load(place, join(header, description, tensors)), made)
    distilled = load(place, join(header, description | {"seed": 3, "dataset": "\ud800\x1b"}, tensors))
    assert (distilled.seed, distilled.meta.name) == (3, "\ud800\x1b")
