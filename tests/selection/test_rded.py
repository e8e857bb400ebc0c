"""RDED's choice: its steps against numbers computed elsewhere, and what it depends on."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import resized_crop

from bacon_pl.augment.crops import random_boxes, resized_crops
from bacon_pl.data import DatasetMeta, LabeledImages, Whitening
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.selection import Crops, rded
from bacon_pl.selection.rded import best_crops, centered, crop_scores, easiest, preselected, stitched
from tests.paths import ROOT

GOLDEN = np.load(ROOT / "tests/golden/rded_select.npz")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(params=["", "odd."])
def golden(request):
    return lambda name: torch.from_numpy(GOLDEN[request.param + name])


def network(golden):
    size = int(golden("input_size"))
    found = ConvNet(3, (size, size), 5, width=8, depth=3, norm="batch").double()
    names = [name for name in found.state_dict() if not name.endswith("num_batches_tracked")]
    found.load_state_dict({name: golden(f"net.{name}") for name in names}, strict=False)
    return found.eval()


def test_patches_scores_and_canvases_are_those_of_the_golden(golden):
    size, factor, ipc = (int(golden(name)) for name in ("input_size", "factor", "ipc"))
    mean, std = (torch.tensor(t, dtype=torch.float64).view(-1, 1, 1) for t in (MEAN, STD))
    images = golden("images").double() / 255
    side = size // factor
    patches = resized_crops((images - mean) / std, golden("crops"), (side, side))
    torch.testing.assert_close(patches, golden("patches"), atol=1e-10, rtol=0)
    given = golden("patches")
    with torch.no_grad():
        logits = network(golden)(centered(given, (size, size)).flatten(0, 1))[1].unflatten(0, (12, 3))
    torch.testing.assert_close(logits, golden("logits"), atol=1e-10, rtol=0)
    scores = crop_scores(logits, golden("label").expand(12))
    torch.testing.assert_close(scores, golden("scores"), atol=1e-10, rtol=0)
    best, score = best_crops(golden("scores"))
    assert torch.equal(best, golden("best_crop")) and torch.equal(score, golden("best_score"))
    order = easiest(score, ipc * factor**2)
    assert torch.equal(order, golden("order"))
    found = stitched(given[order, best[order]], factor, (size, size))
    assert torch.equal(found, golden("canvases"))


def test_equal_scores_keep_their_order():
    scores = torch.tensor([[1.0, 0.5, 0.5], [0.5, 2.0, 0.5], [0.1, 0.1, 0.1], [0.5, 0.6, 0.7]])
    best, score = best_crops(scores)
    assert best.tolist() == [1, 0, 0, 0]
    assert easiest(score, 4).tolist() == [2, 0, 1, 3]
    assert easiest(torch.zeros(2, 40), 40).tolist() == [list(range(40))] * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_crops_are_resized_as_torchvision_does(dtype):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 29, 37, generator=generator, dtype=dtype)
    boxes = random_boxes((29, 37), (0.01, 1.0), (0.3, 3.0), 0, "test", torch.arange(40)[:, None], torch.arange(4))
    for size in ((7, 7), (29, 37), (40, 11)):
        found = resized_crops(images, boxes, size)
        for i in range(40):
            for j in range(4):
                top, left, height, width = boxes[i, j].tolist()
                own = resized_crop(images[i].double(), top, left, height, width, list(size), antialias=True)
                error = 5e-6 if dtype == torch.float32 else 1e-12
                torch.testing.assert_close(found[i, j].double(), own, atol=error, rtol=0)


@pytest.mark.parametrize(
    ("size", "area", "ratio"),
    [((32, 32), (0.08, 1.0), (1.0, 1.0)), ((20, 50), (0.08, 1.0), (1.0, 1.0)), ((24, 31), (0.25, 1.0), (0.75, 4 / 3)),
     ((10, 60), (0.9, 1.0), (1.0, 1.0)), ((60, 10), (0.9, 1.0), (0.75, 4 / 3)), ((16, 16), (1.0, 1.0), (0.75, 4 / 3))],
)  # fmt: skip
def test_boxes_are_drawn_as_torchvision_draws_them(size, area, ratio):
    boxes = random_boxes(size, area, ratio, 3, "test", torch.arange(20_000))
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()
    theirs, image = v2.RandomResizedCrop(8, scale=area, ratio=ratio), [torch.zeros(1, *size)]
    torch.manual_seed(0)
    drawn = [theirs.make_params(image) for _ in range(2000)]
    for own, name in zip(boxes.T.double(), ("top", "left", "height", "width"), strict=True):
        other = torch.tensor([float(one[name]) for one in drawn], dtype=torch.float64)
        assert abs(own.mean() - other.mean()) <= 5 * own.std() / 2000**0.5
        assert abs(own.std() - other.std()) <= 0.1 * own.std()


def labeled(counts=(7, 5, 9), side=16):
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    images = torch.randint(0, 256, (len(labels), 3, side, side), generator=torch.Generator().manual_seed(2))
    return LabeledImages(images.to(torch.uint8), labels, ("a", "b", "c"))


def meta(side=16):
    return DatasetMeta("own", ("a", "b", "c"), 3, (side, side), MEAN, STD)


def observer(side=16):
    torch.manual_seed(0)
    found = ConvNet(3, (side, side), 3, width=4, depth=2).eval()
    return torch.no_grad()(lambda x: found(x)[1])


def test_smaller_classes_give_all_their_images():
    store = labeled()
    index, place, valid = preselected(store, 7, 0)
    assert valid.sum(1).tolist() == [7, 5, 7]
    for c in range(3):
        own = index[c][valid[c]]
        assert (store.labels[own] == c).all() and len(own.unique()) == len(own)
    assert torch.equal(store.class_table[0].gather(1, place)[valid], index[valid])
    assert not torch.equal(preselected(store, 7, 1)[0], index)


def test_classes_of_one_size_do_not_share_their_choice():
    _, place, _ = preselected(labeled((20, 20, 20)), 8, 0)
    assert len({tuple(row) for row in place.tolist()}) == 3


@pytest.mark.parametrize("side", [16, 17])
def test_the_whole_choice_is_the_one_that_a_loop_makes(side):
    store, crops, ipc, f = labeled((9, 9, 9), side), Crops(images=8, per_image=3, tiles=2), 2, 2
    found = rded(store, meta(side), ipc, crops, observer(side), 5)
    index, place, _ = preselected(store, 8, 5)
    mean, std = (torch.tensor(t).view(-1, 1, 1) for t in (MEAN, STD))
    s = side // f
    for c in range(3):
        scored = []
        for i in range(8):
            key = (5, "rded crop", torch.tensor(c), place[c, i], torch.arange(3))
            image = (store.images[index[c, i]].float() / 255 - mean) / std
            for top, left, height, width in random_boxes((side, side), (0.08, 1.0), (1.0, 1.0), *key).tolist():
                patch = resized_crop(image, top, left, height, width, [s, s], antialias=True)
                canvas = torch.zeros(3, side, side)
                first = (side - s) // 2
                canvas[:, first : first + s, first : first + s] = patch
                score = torch.nn.functional.cross_entropy(observer(side)(canvas[None]), torch.tensor([c])).item()
                scored.append((score, i, patch))
        own = [min((one for one in scored if one[1] == i), key=lambda one: one[0]) for i in range(8)]
        best = sorted(own, key=lambda one: one[0])
        kept = torch.stack([patch for _, _, patch in best[: ipc * f * f]])
        torch.testing.assert_close(found[c], stitched(kept, f, (side, side)), atol=1e-5, rtol=0)


def test_the_choice_depends_on_nothing_but_its_coordinates(monkeypatch):
    store, crops = labeled((9, 9, 9)), Crops(images=8, per_image=3)
    found = rded(store, meta(), 4, crops, observer(), 5)
    assert found.shape == (3, 4, 3, 16, 16) and found.dtype == torch.float32
    # The module, which has the name of its function.
    monkeypatch.setattr(import_module("bacon_pl.selection.rded"), "CROPS_AT_ONCE", 1)
    torch.testing.assert_close(rded(store, meta(), 4, crops, observer(), 5), found, atol=1e-6, rtol=0)
    # The images of other classes, and fewer canvases, change nothing for a class.
    others, own = (torch.where(where)[0] for where in (store.labels != 1, store.labels == 1))
    fewer = store.subset(torch.cat([others, own[:5]]))
    again = rded(fewer, meta(), 4, crops, observer(), 5)
    assert torch.equal(again[[0, 2]], found[[0, 2]])
    assert torch.equal(rded(store, meta(), 2, crops, observer(), 5), found[:, :2])
    assert not torch.equal(rded(store, meta(), 4, crops, observer(), 6), found)


def test_small_images_fill_a_canvas_and_large_ones_share_it():
    assert [Crops().tiles_of((side, side)) for side in (8, 32, 64, 128, 224)] == [1, 1, 1, 2, 2]
    assert Crops(tiles=3).tiles_of((32, 32)) == 3


WHITE = replace(meta(), whitening=Whitening("zca", 0.1, "0" * 24))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rded(labeled(), meta(), 6, Crops(), observer(), 0), "more images per class than class 'b'"),
        (lambda: rded(labeled(), meta(), 2, Crops(tiles=2), observer(), 0), "ipc 8 asks for more images per class"),
        (lambda: rded(labeled(), meta(), 3, Crops(images=8, tiles=2), observer(), 0), "need 12 images of each class"),
        (lambda: rded(labeled(), replace(meta(), size=(9, 16)), 1, Crops(), observer(), 0), "needs square images"),
        (lambda: rded(labeled(), WHITE, 1, Crops(), observer(), 0), "leave --data.whitening out"),
        (lambda: Crops(images=0), "--model.crops.images must be at least 1"),
        (lambda: Crops(smallest=0.0), "--model.crops.smallest must be above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(call, message):
    with pytest.raises(BaconError, match=message):
        call()
