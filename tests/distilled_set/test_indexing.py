"""Indexing of a distilled set: one image, several images, and invalid indices."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

from tests.distilled_set.making import META, make

SET = make()  # 24 images
IMAGES, LABELS = SET.expanded()
MASK = torch.arange(24) % 5 == 0


@pytest.mark.parametrize("index", [3, -1, np.int64(3), np.int16(-24), torch.tensor(5), np.array(7), True])
def test_one_image(index: Any) -> None:
    image, label = SET[index]
    assert torch.equal(image, IMAGES[int(index)])
    assert type(label) is int and label == LABELS[int(index)]


@pytest.mark.parametrize(
    ("index", "places"),
    [
        (slice(2, 5), [2, 3, 4]),
        (slice(None), list(range(24))),
        (slice(None, None, -7), [23, 16, 9, 2]),
        (slice(20, 99), [20, 21, 22, 23]),
        (slice(5, 2), []),
        ([0, 3], [0, 3]),
        ([-1, 0, 0], [23, 0, 0]),
        ([], []),
        (range(3), [0, 1, 2]),
        (torch.tensor([4, -4]), [4, 20]),
        (torch.tensor([4], dtype=torch.uint8), [4]),
        (np.array([5, 1]), [5, 1]),
        (np.array([5, 1], dtype=np.uint16), [5, 1]),
        (MASK, [0, 5, 10, 15, 20]),
        (MASK.numpy(), [0, 5, 10, 15, 20]),
        (MASK.tolist(), [0, 5, 10, 15, 20]),
        (torch.zeros(24, dtype=torch.bool), []),
    ],
    ids=str,
)
def test_several_images(index: Any, places: list[int]) -> None:
    images, labels = SET[index]
    assert images.shape == (len(places), 3, 8, 12)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(images, IMAGES[places]) and torch.equal(labels, LABELS[places])


def test_several_images_are_ones_own() -> None:
    distilled = make()
    distilled[:][0].zero_()
    assert torch.equal(distilled.expanded()[0], IMAGES)


@given(st.lists(st.integers(-24, 23)), st.slices(24))
def test_as_numpy_reads_it(places: list[int], part: slice) -> None:
    for index in (places, part):
        assert SET[index][1].tolist() == np.asarray(LABELS)[index if index else slice(0)].tolist()


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (24, IndexError, "index 24 is out of range for a set of 24 images"),
        (-25, IndexError, "index -25 is out of range"),
        (10**30, IndexError, "out of range"),
        ([0, 24], IndexError, "index 24 is out of range"),
        (torch.tensor([-25]), IndexError, "index -25 is out of range"),
        (torch.ones(23, dtype=torch.bool), IndexError, "23 booleans cannot choose among 24 images"),
        (1.0, TypeError, "by a whole number, a slice, or a list, tensor or array .* not by float"),
        ("3", TypeError, "not by str"),
        (None, TypeError, "not by NoneType"),
        ((1, 2), TypeError, "not by tuple"),
        ([0.5], TypeError, "not by torch.float64 of shape"),
        (torch.zeros(2, 2, dtype=torch.int64), TypeError, r"of shape \(2, 2\)"),
        (torch.tensor(1.5), TypeError, "integer"),
    ],
    ids=str,
)
def test_what_is_no_index(index: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SET[index]


def test_loops_loaders_and_subsets_go_on_working() -> None:
    pairs = list(SET)  # by numbers until IndexError
    assert len(pairs) == 24 and [label for _, label in pairs] == LABELS.tolist()
    first = next(iter(DataLoader(Subset(SET, [3, 1, 2]), batch_size=3)))
    assert torch.equal(first[0], IMAGES[[3, 1, 2]])


def test_names_of_torchvision() -> None:
    assert SET.classes == META.class_names == ("ant", "bee", "cat")
    assert SET.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
    assert SET.targets.shape == (len(SET),) and SET.targets.dtype == torch.int64
    assert torch.equal(SET.targets, LABELS)
