"""Chains of DSA's groups: each applied, with draws of its own, by the kernels that DSA has."""

import pytest
import torch

from bacon_pl import rng
from bacon_pl.augment import DSA, Chain
from bacon_pl.augment import functional as F
from bacon_pl.errors import BaconError


def by_hand(x, rows, *keys):
    """Color, crop and cutout, one after another, of 8×8 images."""
    u = {name: rng.uniform(*keys, 0, name, rows) for name in ("brightness", "saturation", "contrast")}
    x = F.color(x, u["brightness"], u["saturation"], u["contrast"])
    x = F.crop(x, *(rng.integers(3, *keys, 1, f"crop_{axis}", rows) - 1 for axis in "hw"))
    return F.cutout(x, *(rng.integers(9, *keys, 2, f"cutout_{axis}", rows) for axis in "hw"))


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_siamese_is_the_kernels_one_after_another():
    x, rows, chain = images(5, 4, 3, 8, 8), torch.arange(5), Chain(["color", "crop", "cutout"])
    out = chain.siamese(x, rows, 7, "augment", 3)
    torch.testing.assert_close(out, by_hand(x, rows, 7, "augment", 3), atol=0, rtol=0)
    # Real and synthetic images of a class share the draw, whatever their number and the other classes.
    some = chain.siamese(x[[3, 1], :2], rows[[3, 1]], 7, "augment", 3)
    torch.testing.assert_close(some, out[[3, 1], :2])
    same = chain.siamese(x[:, :1].expand_as(x), rows, 7, "augment", 3)
    torch.testing.assert_close(same, same[:, :1].expand_as(same))
    assert not torch.equal(chain.siamese(x, rows, 7, "augment", 4), out)


def test_every_image_of_a_training_batch_draws_for_itself():
    x, chain = images(6, 3, 8, 8), Chain(["color", "crop", "cutout"])
    out = chain.per_image(x, 7, "augment", 3)
    torch.testing.assert_close(out, by_hand(x[:, None], torch.arange(6), 7, "augment", 3)[:, 0], atol=0, rtol=0)
    alike = chain.per_image(x[:1].expand_as(x), 7, "augment", 3)
    assert len({image.numpy().tobytes() for image in alike}) == 6


def test_of_several_names_one_is_drawn():
    x, rows = images(40, 1, 1, 8, 8), torch.arange(40)
    chain = Chain(["flip", ["crop", "scale", "rotate"]])
    flipped = DSA(["flip"]).siamese(x, rows, 7, 0)
    expected = DSA(["crop", "scale", "rotate"]).siamese(flipped, rows, 7, 1)
    assert torch.equal(chain.siamese(x, rows, 7), expected)
    assert 0 < (flipped == x).all(-1).all(-1).sum() < 40


def test_the_same_group_twice_draws_twice_and_gradients_flow():
    x, rows = images(3, 2, 1, 8, 8).requires_grad_(), torch.arange(3)
    twice = Chain(["color", "color"]).siamese(x, rows, 7)
    once = Chain(["color"])
    assert not torch.equal(twice, once.siamese(once.siamese(x, rows, 7), rows, 7))
    assert torch.autograd.grad(twice.square().sum(), x)[0].abs().min() > 0


@pytest.mark.parametrize(
    ("groups", "message"),
    [([], "at least one group"), (["colour"], "unknown augmentation strategy 'colour'"), ([["crop"], []], "at least")],
)
def test_bad_groups_are_named(groups, message):
    with pytest.raises(BaconError, match=message):
        Chain(groups)
