from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from bacon_pl.errors import BaconError
from bacon_pl.partition import allowed_factors, assemble, check_factor, expand, expand_labels
from tests.paths import GOLDEN


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    """Canvases (n, ch, H, W), not always square, and a factor that divides them."""
    factor = draw(st.integers(1, 4))
    n, ch, rows, columns = (draw(st.integers(1, top)) for top in (5, 3, 4, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    shape = (n, ch, rows * factor, columns * factor)
    return torch.randn(shape, generator=generator, dtype=torch.float64), factor


def test_expand_equals_golden() -> None:
    g = golden("partition")
    assert torch.equal(expand(g["x"], 2), g["expanded"])
    assert torch.equal(expand_labels(g["labels"], 2), g["expanded_labels"])


def test_assemble_equals_golden_scaling_in_every_tile() -> None:
    g = golden("downscale")
    # Three canvases, each of whose tiles holds another of the three images.
    order = torch.tensor([0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 2, 1])
    canvases = assemble(g["x"][order], 2)
    corners = [canvases[..., :16, :16], canvases[..., 16:, :16], canvases[..., :16, 16:], canvases[..., 16:, 16:]]
    for corner, drawn in zip(corners, order.view(4, 3), strict=True):
        assert torch.equal(corner, g["half"][drawn])


def test_expand_keeps_classes_apart() -> None:
    g = golden("partition")
    classes = torch.stack([g["x"], g["x"].flip(-1), -g["x"], g["x"] + 1])
    together = expand(classes, 2)
    assert together.shape == (4, 12, 3, 32, 32)
    for images, one in zip(together, classes, strict=True):
        assert torch.equal(images, expand(one, 2))
    assert torch.equal(together[0], g["expanded"])


def test_assemble_keeps_classes_apart() -> None:
    tiles = torch.randn(3, 18, 1, 6, 12)
    together = assemble(tiles, 3)
    assert together.shape == (3, 2, 1, 6, 12)
    for canvases, one in zip(together, tiles, strict=True):
        assert torch.equal(canvases, assemble(one, 3))


@settings(max_examples=40, deadline=None)
@given(batches())
def test_tiles_run_down_the_columns(batch: tuple[torch.Tensor, int]) -> None:
    images, factor = batch
    n, _, height, width = images.shape
    h, w = height // factor, width // factor
    expanded = expand(images, factor)
    assert expanded.shape == (factor**2 * n, *images.shape[1:])
    for column in range(factor):
        for row in range(factor):
            tile = images[:, :, row * h : (row + 1) * h, column * w : (column + 1) * w]
            scaled = F.interpolate(tile, scale_factor=factor, mode="bilinear", align_corners=False)
            start = (column * factor + row) * n
            torch.testing.assert_close(expanded[start : start + n], scaled, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(batches(), st.randoms(use_true_random=False))
def test_expand_commutes_with_permutation_and_labels_follow(batch: tuple[torch.Tensor, int], random: Random) -> None:
    images, factor = batch
    order = torch.tensor(random.sample(range(len(images)), len(images)))
    # Labelling every image by its position, the expanded labels say which rows a permutation must move where.
    labels = expand_labels(torch.arange(len(images)), factor)
    moved = expand_labels(order, factor)
    expanded = expand(images, factor).unflatten(0, (factor**2, len(images)))
    assert torch.equal(expand(images[order], factor), expanded[:, order].flatten(0, 1))
    assert torch.equal(moved.view(factor**2, -1), labels.view(factor**2, -1)[:, order])


@settings(max_examples=40, deadline=None)
@given(batches(), st.integers(1, 3))
def test_expand_undoes_assemble_on_flat_tiles(batch: tuple[torch.Tensor, int], n: int) -> None:
    _, factor = batch
    height, width = 2 * factor, 3 * factor
    # Images of one color survive both scalings, so assembling and expanding must give them back in order.
    colors = torch.arange(1, factor**2 * n + 1, dtype=torch.float64).view(-1, 1, 1, 1)
    tiles = colors.expand(-1, 2, height, width)
    torch.testing.assert_close(expand(assemble(tiles, factor), factor), tiles, rtol=0, atol=1e-9)


def test_factor_one_is_the_identity() -> None:
    images = torch.randn(2, 3, 5, 7)
    assert torch.equal(expand(images, 1), images)
    assert torch.equal(assemble(images, 1), images)
    assert torch.equal(expand_labels(torch.tensor([4, 2]), 1), torch.tensor([4, 2]))


def test_expand_is_differentiable() -> None:
    images = torch.randn(2, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: expand(x, 2), (images,))


def test_expand_labels_keeps_classes_apart() -> None:
    labels = torch.tensor([[0, 0], [1, 1]])
    assert expand_labels(labels, 2).tolist() == [[0] * 8, [1] * 8]


@pytest.mark.parametrize(
    ("size", "factor"), [((32, 32), 0), ((32, 32), -2), ((32, 32), 9), ((32, 28), 8), ((28, 32), 8), ((4, 4), 5)]
)
def test_bad_factors_are_refused(size: tuple[int, int], factor: int) -> None:
    with pytest.raises(BaconError, match=f"factor {factor} .*{size[0]}×{size[1]}.*use one of 1, 2, "):
        check_factor(size, factor)
    with pytest.raises(BaconError):
        expand(torch.zeros(1, 1, *size), factor)
    with pytest.raises(BaconError):
        assemble(torch.zeros(64, 1, *size), factor)


def test_allowed_factors_are_those_that_pass() -> None:
    size = (12, 18)
    passing = []
    for factor in range(1, 20):
        try:
            check_factor(size, factor)
        except BaconError:
            continue
        passing.append(factor)
    assert (
        allowed_factors(size) == passing == [1, 2, 3, 4, 6]
    )  # 5 tiles of 3 would need 15 rows, so 12 leave the fifth none


def test_tiles_that_reach_over_the_border_repeat_it() -> None:
    canvas = torch.arange(64, dtype=torch.float64).view(1, 1, 8, 8)
    padded = F.pad(canvas, (0, 1, 0, 1), mode="replicate")
    tiles = expand(canvas, 3)
    assert tiles.shape == (9, 1, 8, 8)
    for column in range(3):
        for row in range(3):
            tile = padded[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            scaled = F.interpolate(tile, size=(8, 8), mode="bilinear", align_corners=False)
            torch.testing.assert_close(tiles[3 * column + row], scaled[0], rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 6))
def test_every_tile_of_an_allowed_factor_changes_with_the_canvas(height: int, width: int, factor: int) -> None:
    if factor not in allowed_factors((height, width)):
        return
    canvas = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    for tile in expand(canvas, factor):
        assert torch.autograd.grad(tile.sum(), canvas, retain_graph=True)[0].abs().sum() > 0
    flat = torch.arange(factor**2.0, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, height, width)
    assert assemble(flat, factor).shape == canvas.shape
    torch.testing.assert_close(expand(assemble(flat, factor), factor), flat, rtol=0, atol=1e-9)


def test_assemble_refuses_part_of_a_canvas() -> None:
    with pytest.raises(ValueError, match="10 images do not fill"):
        assemble(torch.zeros(10, 1, 4, 4), 2)
