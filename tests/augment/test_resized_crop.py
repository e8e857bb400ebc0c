"""Random parts at full size: what they show, what is drawn, and bounds that make no sense."""

import pytest
import torch

from bacon_pl.augment import ResizedCrop
from bacon_pl.errors import BaconError


def ramps(count):
    """Images whose first channel is the row and whose second is the column, in [0, 1]."""
    side = torch.linspace(0, 1, 32)
    return torch.stack([side[:, None].expand(32, 32), side.expand(32, 32)]).expand(count, 2, 32, 32)


def test_parts_have_the_drawn_shares_and_every_image_its_own():
    x = ramps(200)
    out = ResizedCrop(area=(0.25, 0.25), ratio=(1.0, 1.0), flip=False).per_image(x, 0, "augment", 1)
    assert out.shape == x.shape
    spans = out.amax((2, 3)) - out.amin((2, 3))  # of rows and of columns: 16 of 32 pixels
    torch.testing.assert_close(spans, torch.full_like(spans, 15 / 31), atol=0.03, rtol=0)
    assert len({tuple(one) for one in out.amin((2, 3)).mul(100).round().tolist()}) > 50
    assert torch.equal(out, ResizedCrop((0.25, 0.25), (1.0, 1.0), False).per_image(x, 0, "augment", 1))
    assert not torch.equal(out, ResizedCrop((0.25, 0.25), (1.0, 1.0), False).per_image(x, 0, "augment", 2))


def test_half_of_the_images_are_mirrored():
    x = ramps(400)
    out = ResizedCrop(area=(1.0, 1.0), ratio=(1.0, 1.0)).per_image(x, 3, "augment", 0)
    mirrored = out[:, 1, 0, 0] > out[:, 1, 0, -1]
    assert 160 < int(mirrored.sum()) < 240
    assert torch.equal(out[~mirrored], x[~mirrored]) and torch.equal(out[mirrored].flip(-1), x[mirrored])


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.5, 0.2), (0.1, 1.5), (0.5,)])
def test_bounds_are_checked(area):
    with pytest.raises(BaconError, match="ResizedCrop's area must be two ascending numbers above 0, at most 1"):
        ResizedCrop(area)
