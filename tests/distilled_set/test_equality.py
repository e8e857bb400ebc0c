"""Equality of distilled sets."""

import copy
from dataclasses import replace
from pathlib import Path

import torch

from bacon_pl.distilled_set import DistilledSet
from tests.distilled_set.making import META, make


def test_the_same_content_is_the_same_set(tmp_path: Path) -> None:
    distilled = make()
    same = [distilled, make(), DistilledSet.load(distilled.save(tmp_path)), copy.deepcopy(distilled)]
    for other in same:
        assert other == distilled and hash(other) == hash(distilled)
    assert len(set(same)) == 1


def test_other_content_is_another_set() -> None:
    distilled = make()
    others = [
        *(make(**change) for change in ({"seed": 8}, {"factor": 1}, {"config": {}}, {"step_size": 0.1}, {"ipc": 1})),
        make(replace(META, class_names=("ant", "bee", "dog"))),
        make(replace(META, mean=(0.5, 0.5, 0.5))),
    ]
    for other in others:
        assert other != distilled
    assert len({distilled, *others}) == 1 + len(others)
    assert distilled != "a set"


def test_bits_count() -> None:
    zeros, labels = torch.zeros(3, 3, 8, 12), torch.arange(3)
    one, other = (DistilledSet(images, labels, META) for images in (zeros, -zeros))
    assert one != other and one.checksum != other.checksum


def test_what_is_no_number_equals_itself() -> None:
    assert make(config={"a": float("nan")}) == make(config={"a": float("nan")})
