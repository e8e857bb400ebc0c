"""DSA's kernels against the golden numbers, and the draws' invariants (arXiv 2102.08259)."""

import math

import pytest
import torch

from bacon_pl import rng
from bacon_pl.augment import DSA, NoAugmentation
from bacon_pl.augment import functional as F
from bacon_pl.augment.dsa import STRATEGIES
from bacon_pl.errors import BaconError


def same(value, rows=4):
    return value.reshape(1).repeat(rows)


def draw(value, low, high, rows=4):
    """The float32 draw u in [0, 1), a multiple of 2^-24, behind a recorded parameter in [low, high)."""
    return torch.full((rows,), round((value.item() - low) / (high - low) * 2**24) / 2**24)


def kernels(data):
    half = torch.full((4,), 0.5)
    u = same(data["brightness_u"].float())
    angle = math.radians(15)
    return {
        "brightness": lambda x: F.color(x, u, half, half),
        "saturation": lambda x: F.color(x, half, same(data["saturation_u"].float()), half),
        "contrast": lambda x: F.color(x, half, half, same(data["contrast_u"].float())),
        "crop": lambda x: F.crop(x, same(data["crop_shift_h"]), same(data["crop_shift_w"])),
        "cutout": lambda x: F.cutout(x, same(data["cutout_center_h"]), same(data["cutout_center_w"])),
        "flip": lambda x: F.flip(x, torch.ones(4, dtype=torch.bool)),
        "scale": lambda x: F.scale(
            x, *(F.zoom_factor(draw(data[f"scale_{axis}"], 1 / 1.2, 1.2), 1.2) for axis in "xy")
        ),
        "rotate": lambda x: F.rotate(x, F.angle(draw(data["rotate_radians"], -angle, angle), 15)),
    }


@pytest.mark.parametrize("name", ["brightness", "saturation", "contrast", "crop", "cutout", "flip", "scale", "rotate"])
def test_kernel_matches_golden(golden, name):
    data = golden("dsa")
    x = data["x"]
    # As four rows of one image, and as one row of four images that share the draw.
    out = kernels(data)[name](x[:, None])[:, 0]
    # Coordinates in an image of 32 pixels are rounded to some 2e-6 of a pixel in float32, and processors round the
    # matrix product that makes them differently; neighboring pixels differ by up to 3.
    atol = 1e-5 if name in ("scale", "rotate") else 1e-6
    torch.testing.assert_close(out, data[name], atol=atol, rtol=0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_siamese_draws_depend_on_row_and_keys_alone(name):
    torch.manual_seed(0)
    augment = DSA(strategies=[name])
    x = torch.randn(1, 1, 3, 8, 8)
    many = x.expand(5, 7, 3, 8, 8)
    rows = torch.arange(5)
    out = augment.siamese(many, rows, 0, "augment", 3)
    # All images of a row share its draw; a row alone, in another order or among fewer images, draws the same.
    torch.testing.assert_close(out, out[:, :1].expand_as(out))
    order = torch.tensor([4, 1])
    torch.testing.assert_close(augment.siamese(many[order, :2], rows[order], 0, "augment", 3), out[order, :2])
    assert not torch.equal(augment.siamese(many, rows, 0, "augment", 4), out)
    assert not torch.equal(augment.siamese(many, rows, 1, "augment", 3), out)


def test_masked_and_sorted_paths_agree():
    torch.manual_seed(0)
    augment, x, rows = DSA(), torch.randn(12, 2, 3, 8, 8), torch.arange(12)
    group = rng.integers(6, 5, "group", rows)
    assert len(group.unique()) > 3
    torch.testing.assert_close(augment._masked(x, group, rows, (5,)), augment._sorted(x, group, rows, (5,)))


def test_all_groups_are_drawn_about_equally_and_gradients_flow():
    rows = torch.arange(6000)
    counts = torch.bincount(rng.integers(6, 0, "augment", 0, "group", rows), minlength=6)
    assert counts.min() > 850
    assert counts.max() < 1150
    x = torch.randn(12, 2, 3, 8, 8, requires_grad=True)
    DSA().siamese(x, torch.arange(12), 0).square().sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_half_of_the_rows_are_flipped():
    x = torch.arange(8.0).expand(2000, 1, 1, 1, 8)
    flipped = (DSA(["flip"]).siamese(x, torch.arange(2000), 0)[:, 0, 0, 0, 0] == 7).sum()
    assert 900 < flipped < 1100


def test_parameters_have_the_range_that_is_set(monkeypatch):
    def drawn(name, size=(8, 8), **settings):
        """What 2000 rows draw for a kernel."""
        seen = []
        monkeypatch.setattr(F, name, lambda x, *given: seen.append(given) or x)
        DSA([name], **settings).siamese(torch.zeros(2000, 1, 1, *size), torch.arange(2000), 0)
        return seen[0]

    down, right = drawn("crop", (12, 20), crop_ratio=0.125)  # 1.5 and 2.5 pixels, rounded up
    assert set(down.tolist()) == set(range(-2, 3)) and set(right.tolist()) == set(range(-3, 4))
    assert drawn("cutout", cutout_ratio=0.25)[2] == 0.25
    factors = torch.stack(drawn("scale", scale_ratio=2.0))
    for side in factors:
        assert 0.5 <= side.min() < 0.51 and 1.99 < side.max() <= 2
    assert torch.corrcoef(factors)[0, 1].abs() < 0.1  # width and height by themselves
    (radians,) = drawn("rotate", rotate_degrees=90.0)
    assert -math.pi / 2 <= radians.min() < -1.56 and 1.56 < radians.max() <= math.pi / 2


def test_one_group_per_batch_and_parameters_per_image_in_evaluation():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8).expand(16, 3, 8, 8)
    out = DSA(strategies=["rotate"]).per_image(x, 0, "evaluation", 1)
    assert len(torch.unique(out.flatten(1), dim=0)) == 16


def test_shapes_that_are_not_square():
    x = torch.randn(6, 2, 1, 6, 9)
    assert DSA().siamese(x, torch.arange(6), 0).shape == x.shape
    assert NoAugmentation().siamese(x, torch.arange(6), 0) is x


def test_bad_strategies_are_named():
    with pytest.raises(BaconError, match="Did you mean 'cutout'"):
        DSA(strategies=["cut_out"])
    with pytest.raises(BaconError, match="at least one"):
        DSA(strategies=[])
