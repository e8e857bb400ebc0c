"""One of cropping, scaling and rotating: each beside the plain way to write it, one image at a time."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from bacon_pl.augment import CropScaleRotate, crop_scale_rotate
from bacon_pl.augment.crop_scale_rotate import _rotated, _scaled, _splines
from bacon_pl.errors import BaconError

SIZES = [(28, 28), (9, 14), (14, 9)]


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def middle(image, height, width):
    """The middle of a larger image."""
    top, left = (int((a - b) / 2) for a, b in zip(image.shape, (height, width), strict=True))
    return image[top : top + height, left : left + width]


@pytest.mark.parametrize("size", SIZES)
def test_rotations_are_scipys(size):
    some = [d for d in range(-45, 45) if size == (28, 28) or abs(d) <= 10]
    degrees = torch.tensor([*some, -180, -135, -90, 90, 179])
    x = noise(len(degrees), 1, 1, *size)
    found = _rotated(x, degrees)[:, 0, 0]
    for one, image, angle in zip(found, x[:, 0, 0], degrees.tolist(), strict=True):
        theirs = middle(ndimage.rotate(image.numpy(), angle, axes=(-2, -1), cval=0.0), *size)
        if theirs.shape == size:  # a rotated image may be smaller than the image along one side
            np.testing.assert_allclose(one.numpy(), theirs, rtol=1e-9, atol=1e-12)
    assert torch.allclose(_rotated(x, torch.zeros_like(degrees)), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 28])
def test_coefficients_of_splines_are_scipys(side):
    x = noise(side)
    expected = ndimage.spline_filter1d(x.numpy(), mode="mirror") if side > 1 else x.numpy()
    np.testing.assert_allclose((_splines(side, x) @ x).numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_scaled_images_stand_in_the_middle_of_a_larger_one(size):
    height, width = size
    new = [(h, w) for h in range(math.ceil(0.8 * height), 1 + int(1.2 * height)) for w in (width - 2, width, width + 3)]
    x = noise(len(new), 1, 1, *size)
    found = _scaled(x, torch.tensor([h for h, _ in new]), torch.tensor([w for _, w in new]))[:, 0, 0]
    for one, image, (h, w) in zip(found, x[:, 0, 0], new, strict=True):
        nearest = image[torch.tensor([i * height // h for i in range(h)])]
        nearest = nearest[:, torch.tensor([j * width // w for j in range(w)])]
        side = max(h, w, height, width)
        canvas = torch.zeros(side, side, dtype=x.dtype)
        top, left = (side - h) // 2, (side - w) // 2
        canvas[top : top + h, left : left + w] = nearest
        assert torch.equal(one, middle(canvas, height, width))


def test_every_image_has_one_of_three_and_the_mean_outside():
    x = noise(600, 2, 12, 12) + torch.tensor([5.0, -3.0]).view(2, 1, 1)
    out = CropScaleRotate().per_image(x, 0, "augment", 1)
    mean = x.mean((0, 2, 3))
    for channel in range(2):  # some of what is shown is the mean itself
        assert (out[:, channel] == mean[channel]).flatten(1).any(1).double().mean() > 0.5
    kinds = CropScaleRotate(crop=1, scale=0.0, degrees=1).per_image(x, 0, "augment", 1)
    same = (kinds == x).flatten(1).all(1)  # scaled by 1, and a quarter of the crops
    assert 200 <= int(same.sum()) <= 300
    assert torch.equal(out, CropScaleRotate().per_image(x, 0, "augment", 1))
    assert not torch.equal(out, CropScaleRotate().per_image(x, 0, "augment", 2))


def test_a_distillation_does_not_depend_on_how_many_images_are_seen_at_once():
    x, rows = noise(4, 6, 2, 12, 12) + 3, torch.tensor([5, 6, 7, 8])
    whole = CropScaleRotate().siamese(x, rows, 0, "augment")
    parts = [
        torch.cat([CropScaleRotate().siamese(part, ids, 0, "augment") for part in block.split(4, dim=1)], 1)
        for block, ids in zip(x.split(3), rows.split(3), strict=True)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert bool((whole == 0).any())  # the dataset's mean


def test_windows_reach_one_pixel_less_to_one_side():
    x = noise(3000, 1, 9, 9)
    out = CropScaleRotate(crop=2, scale=0.0, degrees=1).per_image(x, 0, "augment", 0)
    shifts = set()
    for one, image in zip(out[:, 0], x[:, 0], strict=True):
        for shift in ((i, j) for i in range(-2, 3) for j in range(-2, 3)):
            inner = slice(2, 7)
            moved = image[2 + shift[0] : 7 + shift[0], 2 + shift[1] : 7 + shift[1]]
            if torch.allclose(one[inner, inner], moved, rtol=0, atol=1e-12):
                shifts.add(shift)
    assert shifts == {(i, j) for i in range(-2, 2) for j in range(-2, 2)}


def test_images_of_a_row_share_their_draw_and_gradients_pass():
    x = noise(4, 1, 1, 12, 12).expand(4, 3, 1, 12, 12).clone().requires_grad_()
    out = CropScaleRotate().siamese(x, torch.tensor([5, 6, 7, 5]), 0, "augment")
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert bool(gradient.isfinite().all()) and bool((gradient != 0).any((2, 3, 4)).all())
    same = noise(1, 1, 1, 12, 12).expand(3, 1, 1, 12, 12)
    first, second, other = CropScaleRotate().siamese(same, torch.tensor([5, 5, 6]), 0, "augment")
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_factors_and_angles_have_the_range_that_is_set(monkeypatch):
    seen = {}
    for name in ("_scaled", "_rotated"):
        monkeypatch.setattr(crop_scale_rotate, name, lambda x, *given, name=name: seen.update({name: given}) or x)
    CropScaleRotate(scale=0.3, degrees=20).per_image(noise(3000, 1, 10, 20), 0, "augment")
    height, width = seen["_scaled"]
    assert set(height.tolist()) == set(range(7, 13)) and set(width.tolist()) == set(range(14, 26))
    assert torch.corrcoef(torch.stack([height, width]).double())[0, 1].abs() < 0.1  # each side by itself
    (degrees,) = seen["_rotated"]
    assert set(degrees.tolist()) == set(range(-20, 20))


@pytest.mark.parametrize("settings", [{"crop": 0}, {"scale": 1.0}, {"degrees": 181}])
def test_numbers_are_checked(settings):
    (name,) = settings
    with pytest.raises(BaconError, match=f"CropScaleRotate's {name} must be between"):
        CropScaleRotate(**settings)
