"""The augmentation of canvases, and the boxes of CutMix, against numbers computed elsewhere."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from bacon_pl.augment import CutMix, Tiles, resized_crop, tiles
from bacon_pl.augment.tiles import shuffled
from bacon_pl.errors import BaconError
from tests.paths import ROOT

GOLDEN = {name: torch.from_numpy(t) for name, t in np.load(ROOT / "tests/golden/rded_select.npz").items()}


def images(n=64, side=12):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_strips_are_shuffled_as_in_the_golden():
    found = shuffled(GOLDEN["shuffle.image"][None, None], GOLDEN["shuffle.columns"][None], GOLDEN["shuffle.rows"][None])
    assert torch.equal(found[0, 0], GOLDEN["shuffle.result"])


def test_every_order_of_strips_comes_and_each_image_has_its_own():
    x = torch.arange(9.0).view(1, 1, 3, 3).expand(4000, 1, 3, 3)
    orders = torch.tensor(list(permutations(range(3))))
    columns, rows = (orders[torch.randint(6, (4000,))] for _ in range(2))
    found = shuffled(x[:, None], columns, rows)[:, 0, 0]
    assert torch.equal(found, (3 * rows[:, :, None] + columns[:, None, :]).float())


def test_columns_and_rows_are_shuffled_by_themselves(monkeypatch):
    seen = []
    monkeypatch.setattr(tiles, "shuffled", lambda x, *orders: seen.append(orders) or x)
    Tiles(2).per_image(images(2000, 4), 0, "augment")
    columns, rows = (order[:, 0] for order in seen[0])
    for order in (columns, rows, columns ^ rows):
        assert 900 < order.sum() < 1100


def test_a_factor_of_one_only_mirrors():
    x = images()
    found = Tiles().per_image(x, 0, "augment", 1, 2)
    mirrored = (found == x.flip(-1)).flatten(1).all(1)
    assert ((found == x).flatten(1).all(1) ^ mirrored).all() and 16 < mirrored.sum() < 48
    assert torch.equal(Tiles(flip=False).per_image(x, 0, "augment", 1, 2), x)
    assert torch.equal(found, Tiles().per_image(x, 0, "augment", 1, 2))
    assert not torch.equal(found, Tiles().per_image(x, 0, "augment", 1, 3))


def test_parts_of_tiles_are_cut_out_and_draws_are_those_of_a_row():
    x = images()
    found = Tiles(2).per_image(x, 0, "augment", 1)
    assert found.shape == x.shape and x.amin() - 1e-6 <= found.amin() and found.amax() <= x.amax() + 1e-6
    assert (found == x).flatten(1).all(1).sum() < 4
    # A row's images share the draw, which depends on the row's number alone.
    rows = torch.arange(8)
    siamese = Tiles(2).siamese(x.view(8, 8, 3, 12, 12), rows, 0, "augment", 1)
    swapped = Tiles(2).siamese(x.view(8, 8, 3, 12, 12).flip(0), rows.flip(0), 0, "augment", 1)
    torch.testing.assert_close(swapped.flip(0), siamese, atol=1e-6, rtol=0)
    alone = Tiles(2).per_image(x[::8], 0, "augment", 1)
    torch.testing.assert_close(siamese[:, 0], alone, atol=1e-6, rtol=0)
    # It commutes with normalization, so that it acts on normalized images as on pixels.
    moved = Tiles(2).per_image((x - 0.4) / 0.2, 0, "augment", 1)
    torch.testing.assert_close(moved, (found - 0.4) / 0.2, atol=1e-5, rtol=0)


def test_parts_have_the_published_bounds(monkeypatch):
    asked = []
    drawn = resized_crop.random_boxes
    monkeypatch.setattr(resized_crop, "random_boxes", lambda *given: (asked.append(given[:3]), drawn(*given))[1])
    Tiles(3).per_image(images(), 0, "augment")
    Tiles(1).per_image(images(), 0, "augment")
    assert asked == [((12, 12), (1 / 3, 1.0), (3 / 4, 4 / 3))]


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(BaconError, match="factor must be at least 1"):
        Tiles(0)
    with pytest.raises(BaconError, match="larger than images of"):
        Tiles(20).per_image(images(), 0, "augment")


def test_cutmix_cuts_the_boxes_of_the_golden(monkeypatch):
    height, width = GOLDEN["cutmix.size"].tolist()
    transform = v2.CutMix(num_classes=4)
    assert issubclass(CutMix.transform, v2.CutMix)
    for lam, center, box in zip(GOLDEN["cutmix.lam"], GOLDEN["cutmix.centre"], GOLDEN["cutmix.box"], strict=True):
        drawn = iter([center[1:], center[:1]])  # columns first
        monkeypatch.setattr(torch, "randint", lambda *given, **more: next(drawn))  # noqa: B023
        monkeypatch.setattr(transform, "_dist", type("Drawn", (), {"sample": lambda self, shape: lam})())  # noqa: B023
        found = transform.make_params([torch.zeros(2, 3, height, width)])["box"]
        first_column, first_row, end_column, end_row = (int(part) for part in found)
        assert [first_row, first_column, end_row, end_column] == box.tolist()
