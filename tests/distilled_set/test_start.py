"""A run that starts from another set's file, and what a set says of its own start."""

import re

import pytest
import torch

from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet, recorded_scaling, start_images
from bacon_pl.errors import BaconError
from bacon_pl.selection import Start, canvases


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


@pytest.fixture
def other(data, tmp_path):
    """A run's folder with two canvases a class."""
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    distilled = DistilledSet(images, torch.arange(10).repeat_interleave(2), data.meta, factor=2)
    distilled.save(tmp_path)
    return tmp_path, distilled


def start(data, path, ipc=2, factor=2, meta=None):
    return start_images(data.train, meta or data.meta, ipc, factor, Start(str(path)), 0)


def test_another_sets_images_are_the_start(data, other):
    folder, distilled = other
    for path in (folder, folder / "distilled.safetensors"):
        assert torch.equal(start(data, path), distilled.images)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(start(data, folder), distilled.images.double())
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_others_are_drawn(data):
    for images in ("tiles", "whole", "noise"):
        drawn = canvases(data.train, data.meta, 2, 2, Start(images), 7)
        assert torch.equal(start_images(data.train, data.meta, 2, 2, Start(images), 7), drawn)


def test_sets_that_do_not_fit_are_one_sentence(data, other, tmp_path):
    folder, distilled = other
    unequal = DistilledSet(distilled.images[1:], distilled.labels[1:], data.meta, factor=2).save(tmp_path / "unequal")
    with pytest.raises(BaconError, match="is a set of 1 to 2 images per class, but a run has the same number"):
        start(data, unequal)
    classes = type(data.meta)("letters", tuple("abcdefghij"), 1, (8, 8), data.meta.mean, data.meta.std)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    for ask, sentence in (
        ({"path": folder, "ipc": 3}, "is a set of ipc 2, this run's is 3: give --model.ipc 2, or another set."),
        (
            {"path": folder, "factor": 1},
            "is a set of factor 2, this run's is 1: give --model.factor 2, or another set.",
        ),
        ({"path": folder, "meta": classes}, r"cannot start from .* made from digits with classes 0, 1"),
        (
            {"path": "tile"},
            "must be tiles, whole, noise or the path of a distilled set, got 'tile', which does not exist.",
        ),
        ({"path": damaged}, "cannot start from '.*damaged.safetensors': "),
    ):
        with pytest.raises(BaconError) as error:
            start(data, **ask)
        assert re.search(sentence, str(error.value)), str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({}, "bilinear"),
        ({"model": {"ipc": 10}}, "bilinear"),
        ({"model": None}, "bilinear"),
        ({"model": {"start": {"images": "noise"}}}, "bilinear"),
        ({"model": {"start": {"scaling": "nearest"}}}, "nearest"),
        ({"model": {"class_path": "x.Y", "init_args": {"start": {"scaling": "antialiased"}}}}, "antialiased"),
        ({"model": {"init_args": {"start": {"init_args": {"scaling": "nearest"}}}}}, "nearest"),
    ],
)
def test_a_set_says_how_its_tiles_were_scaled(config, scaling):
    assert recorded_scaling(config) == scaling


@pytest.mark.parametrize("scaling", ["cubic", ["nearest"], 3])
def test_a_scaling_that_does_not_exist_is_told(scaling):
    with pytest.raises(BaconError, match=r"none of bilinear, nearest, antialiased: leave tiles out of --baselines\."):
        recorded_scaling({"model": {"start": {"scaling": scaling}}})
