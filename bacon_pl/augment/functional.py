"""The six transforms of DSA (arXiv 2102.08259) as pure, vectorized functions of rows of images.

Every function takes ``x`` of shape (R, n, ch, H, W) and parameters of shape (R,), shared by all n images of a row.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _rows(p: Tensor, x: Tensor) -> Tensor:
    return p.to(x.dtype).view(-1, 1, 1, 1, 1)


def color(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Shift brightness, then scale saturation, then contrast.

    Args:
        x: (R, n, ch, H, W).
        brightness: (R,), u in [0, 1): u - ½ is added.
        saturation: (R,), u in [0, 1): the distance to the mean over channels is multiplied by 2u.
        contrast: (R,), u in [0, 1): the distance to the mean of the image is multiplied by u + ½.

    Returns:
        (R, n, ch, H, W).
    """
    x = x + (_rows(brightness, x) - 0.5)
    mean = x.mean(2, keepdim=True)
    x = torch.lerp(mean, x, _rows(saturation, x) * 2)
    mean = x.mean((2, 3, 4), keepdim=True)
    return torch.lerp(mean, x, _rows(contrast, x) + 0.5)


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gather pixel rows and columns, (R, H) and (R, W) int64, of every image of a row; -1 gives zeros."""
    r, n, ch, h, w = x.shape
    valid = (rows >= 0).unsqueeze(2) & (columns >= 0).unsqueeze(1)
    index = (rows.clamp(min=0) * w).unsqueeze(2) + columns.clamp(min=0).unsqueeze(1)
    picked = x.view(r, n * ch, h * w).gather(2, index.view(r, 1, h * w).expand(r, n * ch, h * w))
    return (picked * valid.view(r, 1, h * w)).view(x.shape)


def crop(x: Tensor, shift_h: Tensor, shift_w: Tensor) -> Tensor:
    """Translate: out(i, j) = in(i + shift_h, j + shift_w), with zeros outside; shifts are (R,) int64."""
    h, w = x.shape[-2:]
    rows = torch.arange(h, device=x.device) + shift_h[:, None]
    columns = torch.arange(w, device=x.device) + shift_w[:, None]
    rows = rows.where((rows >= 0) & (rows < h), -1)
    columns = columns.where((columns >= 0) & (columns < w), -1)
    return _gather(x, rows, columns)


def cutout(x: Tensor, center_h: Tensor, center_w: Tensor, ratio: float = 0.5) -> Tensor:
    """Zero a square whose side is ``ratio`` times the image's; centers are (R,) int64, clamped to the image."""

    def outside(center: Tensor, side: int) -> Tensor:
        square = int(side * ratio + 0.5)
        first = center[:, None] - square // 2
        position = torch.arange(side, device=x.device)
        return (position < first.clamp(0, side - 1)) | (position > (first + square - 1).clamp(0, side - 1))

    h, w = x.shape[-2:]
    keep = outside(center_h, h).unsqueeze(2) | outside(center_w, w).unsqueeze(1)
    return x * keep.view(-1, 1, 1, h, w)


def flip(x: Tensor, flipped: Tensor) -> Tensor:
    """Flip the rows where ``flipped``, (R,) bool, is True horizontally."""
    return torch.where(flipped.view(-1, 1, 1, 1, 1), x.flip(-1), x)


def _affine(x: Tensor, theta: Tensor) -> Tensor:
    """Resample the images of row r with the affine matrix theta[r], (R, 2, 3): bilinear, with zeros outside."""
    r, n, ch, h, w = x.shape
    grid = F.affine_grid(theta, [r, ch, h, w], align_corners=False)
    # The images of a row share the grid, so they are stacked as channels and sampled in one call.
    out = F.grid_sample(x.reshape(r, n * ch, h, w), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out.view(x.shape)


def zoom_factor(u: Tensor, ratio: float) -> Tensor:
    """Map draws u in [0, 1) to zoom factors in [1/ratio, ratio)."""
    low = 1 / ratio
    return u * (ratio - low) + low


def angle(u: Tensor, degrees: float) -> Tensor:
    """Map draws u in [0, 1) to angles in [-degrees, degrees), returned in radians."""
    return (u - 0.5) * 2 * math.radians(degrees)


def scale(x: Tensor, scale_x: Tensor, scale_y: Tensor) -> Tensor:
    """Zoom by 1/scale_x horizontally and by 1/scale_y vertically; both are (R,)."""
    zero = torch.zeros_like(scale_x)
    theta = torch.stack([scale_x, zero, zero, zero, scale_y, zero], 1).view(-1, 2, 3)
    return _affine(x, theta.to(x.dtype))


def rotate(x: Tensor, radians: Tensor) -> Tensor:
    """Rotate by angles in radians, (R,)."""
    cos, sin, zero = torch.cos(radians), torch.sin(radians), torch.zeros_like(radians)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    return _affine(x, theta.to(x.dtype))
