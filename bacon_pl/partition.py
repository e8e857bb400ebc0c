"""Cutting canvases into tiles and filling them (method.md §3), as functions of tensors; no training, no files.

With factor f every canvas holds f×f tiles. Tiles are counted down the columns, left column first: for f = 2 top-left,
bottom-left, top-right, bottom-right. Lists of tiles are tile-major: tile 0 of every canvas, then tile 1 of every
canvas, and so on.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from bacon_pl.errors import BaconError


def allowed_factors(size: tuple[int, int]) -> list[int]:
    """List the factors that cut a canvas of ``size`` (height, width) into whole pixels, ascending."""
    common = math.gcd(*size)
    return [f for f in range(1, common + 1) if common % f == 0]


def check_factor(size: tuple[int, int], factor: int, what: str = "partition factor") -> None:
    """Check that a canvas can be cut into factor×factor tiles.

    Args:
        size: Height and width of the canvas in pixels, both at least 1.
        factor: Tiles per side.
        what: What its giver calls it.

    Raises:
        BaconError: The factor is below 1 or does not divide the height and the width.
    """
    if factor < 1 or size[0] % factor or size[1] % factor:
        options = ", ".join(map(str, allowed_factors(size)))
        raise BaconError(
            f"{what} {factor} does not cut images of {size[0]}×{size[1]} pixels into whole tiles; use one of {options}."
        )


def expand(images: Tensor, factor: int) -> Tensor:
    """Cut every canvas into its tiles and scale each to the canvas's size (method.md §3). Differentiable.

    Args:
        images: (..., n, ch, H, W), floating point.
        factor: Tiles per side, at least 1; divides H and W.

    Returns:
        (..., factor²·n, ch, H, W), tile-major; ``images`` itself where ``factor`` is 1.

    Raises:
        BaconError: The factor does not fit the size (see :func:`check_factor`).
    """
    height, width = images.shape[-2:]
    check_factor((height, width), factor)
    if factor == 1:
        return images
    cut = images.unflatten(-1, (factor, width // factor)).unflatten(-3, (factor, height // factor))
    # (..., n, ch, row, h, column, w) -> (..., column, row, n, ch, h, w)
    tiles = cut.movedim((-2, -4), (-6, -5)).flatten(-6, -4)
    scaled = F.interpolate(tiles.flatten(0, -4), size=(height, width), mode="bilinear", align_corners=False)
    return scaled.view(*tiles.shape[:-2], height, width)


def expand_labels(labels: Tensor, factor: int) -> Tensor:
    """Repeat labels in the order in which :func:`expand` lists the tiles.

    Args:
        labels: (..., n), any type.
        factor: Tiles per side, at least 1.

    Returns:
        (..., factor²·n), same type.
    """
    return labels.tile(factor**2)


def assemble(tiles: Tensor, factor: int) -> Tensor:
    """Fill canvases with images scaled by 1/factor: how synthetic images start (method.md §3).

    Args:
        tiles: (..., factor²·n, ch, H, W), floating point, tile-major: canvas i gets images i, n + i, 2n + i, …
        factor: Tiles per side, at least 1; divides H and W.

    Returns:
        (..., n, ch, H, W); ``tiles`` itself where ``factor`` is 1.

    Raises:
        BaconError: The factor does not fit the size (see :func:`check_factor`).
        ValueError: The number of images is not a multiple of factor².
    """
    height, width = tiles.shape[-2:]
    check_factor((height, width), factor)
    if factor == 1:
        return tiles
    if tiles.shape[-4] % factor**2:
        raise ValueError(f"{tiles.shape[-4]} images do not fill whole canvases of {factor}×{factor} tiles.")
    size = (height // factor, width // factor)
    small = F.interpolate(tiles.flatten(0, -4), size=size, mode="bilinear", align_corners=False)
    cut = small.view(*tiles.shape[:-2], *size).unflatten(-4, (factor, factor, tiles.shape[-4] // factor**2))
    # (..., column, row, n, ch, h, w) -> (..., n, ch, row, h, column, w)
    canvases: Tensor = cut.movedim((-6, -5), (-2, -4)).flatten(-4, -3).flatten(-2, -1)
    return canvases
