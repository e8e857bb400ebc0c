"""Random boxes within images, and the images' content there resized: vectorized, one box or several per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl import rng

TRIES = 10
"""Boxes that are drawn before the largest central one is taken, if none of them fits."""


def random_boxes(
    size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], *keys: rng.Key
) -> Tensor:
    """Draw boxes as torchvision's ``RandomResizedCrop`` does: area and aspect ratio first, then a place.

    Args:
        size: Height and width of the images in pixels.
        area: Bounds of the area's share of the image, within (0, 1].
        ratio: Bounds of width over height, whose logarithm is uniform.
        keys: Coordinates of the draws; the tensors among them broadcast to the shape of the result.

    Returns:
        (..., 4), int64: top, left, height, width.
    """
    height, width = size
    wide = [key.unsqueeze(-1) if isinstance(key, Tensor) else key for key in keys]
    device = next(key.device for key in keys if isinstance(key, Tensor))
    tries = torch.arange(TRIES, device=device)

    def drawn(what: str, low: float, high: float) -> Tensor:
        return low + (high - low) * rng.uniform(*wide, what, tries).double()

    pixels = height * width * drawn("area", *area)
    wideness = drawn("ratio", math.log(ratio[0]), math.log(ratio[1])).exp()
    h, w = (pixels / wideness).sqrt().round().long(), (pixels * wideness).sqrt().round().long()
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    # The position of the first that fits, which argmax does not promise.
    first = torch.where(fits, tries, TRIES).amin(-1, keepdim=True)
    some = first < TRIES
    whole = _largest(size, ratio)
    h, w = (
        torch.where(some, side.gather(-1, first.clamp(max=TRIES - 1)), most).squeeze(-1)
        for side, most in ((h, whole[0]), (w, whole[1]))
    )
    some = some.squeeze(-1)
    top, left = (
        torch.where(some, rng.integers(side - own + 1, *keys, what), (side - own) // 2)
        for side, own, what in ((height, h, "top"), (width, w, "left"))
    )
    return torch.stack([top, left, h, w], -1)


def _largest(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest central box whose ratio is within the bounds."""
    height, width = size
    if width / height < ratio[0]:
        return min(height, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, min(width, round(height * ratio[1]))
    return height, width


def resized_crops(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes out of images and resize them, bilinearly and antialiased. This is differentiable.

    Each side is resized by a matrix of its own, so that there is no loop over boxes.

    Args:
        images: (N, ch, H, W), floating-point numbers.
        boxes: (N, m, 4) or (N, 4), int64: top, left, height, width.
        size: Height and width of the results in pixels.

    Returns:
        (N, m, ch, h, w) or (N, ch, h, w).
    """
    if boxes.ndim == 2:
        return resized_crops(images, boxes.unsqueeze(1), size).squeeze(1)
    # Places of pixels are not told apart in half precision.
    exact = torch.promote_types(images.dtype, torch.float32)
    top, left, height, width = (part.to(exact) for part in boxes.unbind(-1))
    rows = _weights(top, height, images.shape[-2], size[0]).to(images.dtype)
    columns = _weights(left, width, images.shape[-1], size[1]).to(images.dtype)
    return rows.unsqueeze(2) @ images.unsqueeze(1) @ columns.transpose(-1, -2).unsqueeze(2)


def _weights(start: Tensor, length: Tensor, side: int, out: int) -> Tensor:
    """Weights (..., out, side) of an image's pixels in those of its part from ``start``, ``length`` long, resized."""
    pixels = torch.arange(side, device=start.device, dtype=start.dtype) + 0.5
    places = torch.arange(out, device=start.device, dtype=start.dtype) + 0.5
    start, length = (t[..., None, None] for t in (start, length))
    scale = length / out
    center = start + places[:, None] * scale
    # A triangle as wide as the pixels of the result, but not narrower than those of the image.
    weights = (1 - (pixels - center).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixels > start) & (pixels < start + length))
    return weights / weights.sum(-1, keepdim=True)
