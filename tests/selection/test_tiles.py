"""The initial images of a run: tiles with the published and other scalings, whole images, and noise."""

import re

import pytest
import torch
import torch.nn.functional as F

from bacon_pl.data import DataModule, LabeledImages, normalize
from bacon_pl.data.draw import draw_real
from bacon_pl.distillers import DistributionMatching
from bacon_pl.errors import BaconError
from bacon_pl.partition import assemble
from bacon_pl.selection import Start, canvases


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def start(data, ipc=3, factor=2, seed=5, **settings):
    return canvases(data.train, data.meta, ipc, factor, Start(**settings), seed)


@pytest.mark.parametrize(("ipc", "factor"), [(1, 1), (3, 2), (2, 3)])
def test_tiles_are_what_distillation_has_always_started_from(data, ipc, factor):
    index = draw_real(data.train, ipc, factor**2, 5, "initial images")
    real = normalize(data.train.images[index], data.meta.mean, data.meta.std, torch.float32)
    expected = assemble(real, factor).flatten(0, 1)
    assert torch.equal(start(data, ipc, factor), expected)
    module = DistributionMatching(ipc=ipc, factor=factor, seed=5)
    module.synthetic.initialize(data.train, data.meta, module.seed)
    assert torch.equal(module.images, expected)


def test_whole_images_are_real_ones_of_their_class_whatever_the_factor(data):
    found = start(data, images="whole")
    assert torch.equal(found, start(data, images="whole", factor=1))
    real = data.normalize(data.train.images)
    for i, image in enumerate(found):
        where = (real == image).flatten(1).all(1).nonzero()[:, 0]
        assert (data.train.labels[where] == i // 3).any()
    assert len({image.numpy().tobytes() for image in found}) == 30


def test_noise_is_standard_normal_and_follows_from_the_seed(data):
    found = start(data, images="noise", ipc=20)
    assert found.shape == (200, 1, 8, 8) and found.dtype == torch.float32
    assert abs(found.mean()) < 0.05 and abs(found.std() - 1) < 0.05
    torch.manual_seed(1)
    assert torch.equal(start(data, images="noise", ipc=20), found)
    assert not torch.equal(start(data, images="noise", ipc=20, seed=6), found)


@pytest.mark.parametrize("settings", [{}, {"images": "whole"}, {"images": "noise"}])
def test_the_type_is_torchs_default(data, settings):
    torch.set_default_dtype(torch.float64)
    try:
        assert start(data, **settings).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("scaling", ["bilinear", "nearest", "antialiased"])
def test_scaling_is_what_it_is_called(factor, scaling):
    x = torch.rand(factor**2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    canvas = assemble(x, factor, scaling)
    tile = canvas[0, :, : 12 // factor, : 12 // factor]
    middle = factor // 2
    if scaling == "nearest":
        assert torch.equal(tile, x[0, :, middle::factor, middle::factor])
    elif scaling == "antialiased":
        expected = F.interpolate(x[:1], size=(12 // factor,) * 2, mode="bilinear", antialias=True)[0]
        assert torch.equal(tile, expected)
    elif factor % 2:
        torch.testing.assert_close(tile, x[0, :, middle::factor, middle::factor])
    else:
        by_hand = sum(x[0, :, middle - i :: factor, middle - j :: factor] for i in (0, 1) for j in (0, 1)) / 4
        torch.testing.assert_close(tile, by_hand)


def test_a_flat_image_stays_flat_however_it_is_scaled():
    for scaling in ("bilinear", "nearest", "antialiased"):
        for size, factor in (((8, 8), 3), ((28, 28), 2), ((7, 5), 2)):
            flat = torch.full((factor**2, 1, *size), 0.7)
            torch.testing.assert_close(assemble(flat, factor, scaling), flat[:1])


def test_scaling_of_the_start_acts(data):
    found = [start(data, scaling=scaling) for scaling in ("bilinear", "nearest", "antialiased")]
    assert len({x.numpy().tobytes() for x in found}) == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scaling": "cubic"}, "--model.start.scaling must be bilinear, nearest or antialiased, got 'cubic'."),
        ({"images": ""}, "--model.start.images must be tiles, whole, noise or the path of a distilled set, got ''."),
        (
            {"images": "noise", "scaling": "nearest"},
            "--model.start.scaling says how tiles are scaled, but .* is 'noise'",
        ),
    ],
)
def test_bad_starts_are_one_sentence(settings, sentence):
    with pytest.raises(BaconError) as error:
        Start(**settings)
    assert re.search(sentence, str(error.value))


def test_unknown_scalings_and_small_classes_are_named(data):
    with pytest.raises(BaconError, match="unknown scaling 'cubic'"):
        assemble(torch.zeros(4, 1, 4, 4), 2, "cubic")
    with pytest.raises(BaconError, match=r"--model.factor 5 does not cut images of 8×8"):
        start(data, factor=5)
    few = LabeledImages(data.train.images[:4], torch.tensor([0, 0, 1, 1]), ("a", "b"))
    meta = type(data.meta)("few", ("a", "b"), 1, (8, 8), (0.5,), (0.5,))
    assert len(canvases(few, meta, 2, 2, Start(), 0)) == 4  # images come again, in other canvases' places
    with pytest.raises(BaconError, match=r"ipc 3 asks for more images per class than class 'a' has \(2\)"):
        canvases(few, meta, 3, 2, Start(), 0)
