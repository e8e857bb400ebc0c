"""Cutting canvases into tiles and assembling canvases from tiles, as functions of tensors.

With factor f, every canvas holds f×f tiles. Tiles are numbered column by column, starting with the left one: for f = 2,
top-left, bottom-left, top-right, bottom-right. Lists of tiles are tile-major: tile 0 of every canvas, then tile 1 of
every canvas, and so on.

If f does not divide a side, tiles have ceil(side/f) pixels and the last ones extend beyond the border, where the canvas
is continued with its border pixels. (The published code continues it with 0.5, a gray frame that no step can change.)
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from bacon_pl.errors import BaconError, unknown_name

Scaling = Literal["bilinear", "nearest", "antialiased"]
"""How images are scaled down to tiles; see :func:`assemble`."""

Upscaling = Literal["bilinear", "bicubic"]
"""How tiles are scaled up again; see :func:`expand`."""

# "nearest-exact" takes the middle pixel of those that become one, or for an even factor the one after the middle.
# Torch's "nearest" takes the first pixel instead, which shifts the image by (factor - 1) / 2 pixels, and scaling up
# does not shift it back.
_MODES: dict[Scaling, dict[str, Any]] = {
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "nearest": {"mode": "nearest-exact"},
    "antialiased": {"mode": "bilinear", "align_corners": False, "antialias": True},
}


def tile_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Return the height and width of a tile of a canvas of ``size`` (height, width)."""
    return -(-size[0] // factor), -(-size[1] // factor)


def allowed_factors(size: tuple[int, int]) -> list[int]:
    """List in ascending order the factors for which every tile of a canvas of ``size`` (height, width) is inside it."""
    return [
        f
        for f in range(1, min(size) + 1)
        if all((f - 1) * tile < side for side, tile in zip(size, tile_size(size, f), strict=True))
    ]


def check_factor(size: tuple[int, int], factor: int, what: str = "partition factor") -> None:
    """Check that a canvas can be cut into factor×factor tiles.

    Args:
        size: Height and width of the canvas in pixels, both at least 1.
        factor: Tiles per side.
        what: Name of the factor in the message.

    Raises:
        BaconError: The factor is below 1, or so large that tiles would be entirely beyond the border.
    """
    allowed = allowed_factors(size)
    if factor not in allowed:
        options = ", ".join(map(str, allowed))
        raise BaconError(
            f"{what} {factor} does not cut images of {size[0]}×{size[1]} pixels into tiles; use one of {options}."
        )


def check_upscaling(upscaling: str, what: str = "upscaling") -> None:
    """Check that there is such a way of scaling tiles up.

    Args:
        upscaling: Its name.
        what: What it is called in the message.

    Raises:
        BaconError: There is none of that name.
    """
    if upscaling not in get_args(Upscaling):
        raise unknown_name(what, str(upscaling), get_args(Upscaling))


def expand(images: Tensor, factor: int, upscaling: Upscaling = "bilinear") -> Tensor:
    """Cut every canvas into its tiles and scale each tile to the size of the canvas. This is differentiable.

    Args:
        images: (..., n, ch, H, W), floating point.
        factor: Tiles per side, at least 1 (see :func:`check_factor`).
        upscaling: How tiles are scaled up. ``bilinear``, as published: a weighted mean of the 2×2 pixels around. Or
            ``bicubic``: of the 4×4 pixels around, some with weights below zero, which keeps edges sharper and may go a
            little beyond the range of the pixels.

    Returns:
        (..., factor²·n, ch, H, W), tile-major; ``images`` itself if ``factor`` is 1.

    Raises:
        BaconError: The factor does not fit the size (see :func:`check_factor`), or the upscaling is unknown.
    """
    check_upscaling(upscaling)
    height, width = images.shape[-2:]
    check_factor((height, width), factor)
    if factor == 1:
        return images
    tiles = _cut(images, factor).flatten(-5, -4)
    return _scaled_up(tiles.flatten(0, -4), (height, width), upscaling).view(*tiles.shape[:-2], height, width)


def cut_out(images: Tensor, tile: Tensor, factor: int, upscaling: Upscaling = "bilinear") -> Tensor:
    """Cut one tile out of each canvas and scale it to the size of the canvas, with the same bits as :func:`expand`.

    Args:
        images: (n, ch, H, W), floating point.
        tile: (n,), int64, numbers of the tiles in [0, factor²).
        factor: Tiles per side, at least 1 (see :func:`check_factor`).
        upscaling: How tiles are scaled up, as for :func:`expand`.

    Returns:
        (n, ch, H, W).
    """
    one_each = _cut(images, factor)[tile, torch.arange(len(images), device=images.device)]
    return _scaled_up(one_each, (images.shape[-2], images.shape[-1]), upscaling)


def expand_labels(labels: Tensor, factor: int) -> Tensor:
    """Repeat labels in the order in which :func:`expand` lists the tiles.

    Args:
        labels: (..., n), any type.
        factor: Tiles per side, at least 1.

    Returns:
        (..., factor²·n), same type.
    """
    return labels.tile(factor**2)


def assemble(tiles: Tensor, factor: int, scaling: Scaling = "bilinear") -> Tensor:
    """Assemble canvases from images scaled by 1/factor, as for the initial synthetic images.

    Args:
        tiles: (..., factor²·n, ch, H, W), floating point, tile-major: canvas i gets images i, n + i, 2n + i, …
        factor: Tiles per side, at least 1 (see :func:`check_factor`).
        scaling: How images are scaled down. ``bilinear``, as published: a pixel of a tile is the mean of the 2×2 pixels
            around its center or, for an odd factor that divides the size, the pixel at its center. ``nearest``: the
            pixel at its center, or after it if the center is between two pixels. ``antialiased``: a mean over all
            pixels that become one, with weights that decrease linearly with the distance.

    Returns:
        (..., n, ch, H, W); ``tiles`` itself if ``factor`` is 1.

    Raises:
        BaconError: The factor does not fit the size (see :func:`check_factor`), or the scaling is unknown.
        ValueError: The number of images is not a multiple of factor².
    """
    if scaling not in _MODES:
        raise unknown_name("scaling", str(scaling), get_args(Scaling))
    height, width = tiles.shape[-2:]
    check_factor((height, width), factor)
    if factor == 1:
        return tiles
    if tiles.shape[-4] % factor**2:
        raise ValueError(f"{tiles.shape[-4]} images do not fill whole canvases of {factor}×{factor} tiles.")
    size = tile_size((height, width), factor)
    small = F.interpolate(tiles.flatten(0, -4), size=size, **_MODES[scaling])
    cut = small.view(*tiles.shape[:-2], *size).unflatten(-4, (factor, factor, tiles.shape[-4] // factor**2))
    # (..., column, row, n, ch, h, w) -> (..., n, ch, row, h, column, w)
    canvases: Tensor = cut.movedim((-6, -5), (-2, -4)).flatten(-4, -3).flatten(-2, -1)
    return canvases[..., :height, :width]


def _cut(images: Tensor, factor: int) -> Tensor:
    """Cut canvases (..., n, ch, H, W) into tiles (..., factor², n, ch, h, w)."""
    h, w = tile_size((images.shape[-2], images.shape[-1]), factor)
    cut = _continued(images, factor * h, factor * w).unflatten(-1, (factor, w)).unflatten(-3, (factor, h))
    # (..., n, ch, row, h, column, w) -> (..., column, row, n, ch, h, w)
    return cut.movedim((-2, -4), (-6, -5)).flatten(-6, -5)


def _scaled_up(tiles: Tensor, size: tuple[int, int], upscaling: Upscaling) -> Tensor:
    """Scale tiles (n, ch, h, w) to the canvas's size."""
    # Of bicubic scaling torch has no deterministic gradient on a GPU, and on a CPU it takes ten times as long.
    if upscaling == "bicubic" and (tiles.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()):
        return _by_matrices(tiles, size, upscaling)
    return F.interpolate(tiles, size=size, mode=upscaling, align_corners=False)


def _by_matrices(tiles: Tensor, size: tuple[int, int], upscaling: Upscaling) -> Tensor:
    """The same as products of matrices, (n, ch, h, w) -> (n, ch, *size), up to rounding."""
    h, w = tiles.shape[-2:]
    rows = torch.eye(h, device=tiles.device, dtype=tiles.dtype)[None, None]
    columns = torch.eye(w, device=tiles.device, dtype=tiles.dtype)[None, None]
    with torch.no_grad():
        down = F.interpolate(rows, size=(size[0], h), mode=upscaling, align_corners=False)
        across = F.interpolate(columns, size=(size[1], w), mode=upscaling, align_corners=False)
    with torch.autocast(tiles.device.type, enabled=False):  # as for interpolate, which it leaves in full precision
        return down[0, 0] @ (tiles @ across[0, 0].T)


def _continued(images: Tensor, height: int, width: int) -> Tensor:
    """Extend images (..., ch, H, W) to the given size by repeating their last row and column, if they are smaller."""
    down, right = height - images.shape[-2], width - images.shape[-1]
    if not down and not right:
        return images
    padded = F.pad(images.flatten(0, -4), (0, right, 0, down), mode="replicate")
    return padded.view(*images.shape[:-2], height, width)
