"""RDED's choice (arXiv 2312.03526): the crops of real images that a trained network finds easiest.

Of some images of each class, a few random crops are scored by the cross-entropy of the network for the true class.
Every image gives its best crop, the best of these are kept, and several of them may be stitched onto one canvas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bacon_pl import ranges, rng
from bacon_pl.augment.crops import random_boxes, resized_crops
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.data.draw import check_enough
from bacon_pl.errors import BaconError

CROPS_AT_ONCE = 1000
"""Crops that are scored at once, at 32 pixels; fewer of larger images."""

TILED_FROM = 128
"""Side of canvases in pixels from which several crops are put on one if nothing else is said."""

Logits = Callable[[Tensor], Tensor]
"""A function from normalized images (B, ch, H, W) to logits (B, C)."""


@dataclass(frozen=True)
class Crops:
    """The crops from which RDED chooses.

    Args:
        images: Images per class that crops are taken from, drawn at random; all of a class that has fewer.
        per_image: Crops of each of them.
        smallest: Smallest share of an image's area that a crop may have, in (0, 1].
        tiles: Crops per side of a canvas: tiles² crops, each scaled to the canvas's side over ``tiles``, fill it. null,
            as published, is 2 for images of 128 pixels and more, and 1 for smaller ones.

    Raises:
        BaconError: An argument is out of range.
    """

    images: int = 300
    per_image: int = 5
    smallest: float = 0.08
    tiles: int | None = None

    def __post_init__(self) -> None:
        ranges.whole("--model.crops.", images=self.images, per_image=self.per_image, **ranges.given(tiles=self.tiles))
        if not 0 < self.smallest <= 1:
            raise BaconError(f"--model.crops.smallest must be above 0 and at most 1, got {self.smallest}.")

    def tiles_of(self, size: tuple[int, int]) -> int:
        """Crops per side of a canvas of a height and width in pixels."""
        if self.tiles is not None:
            return self.tiles
        return 2 if min(size) >= TILED_FROM else 1


def rded(store: LabeledImages, meta: DatasetMeta, ipc: int, crops: Crops, observer: Logits, seed: int) -> Tensor:
    """Choose crops of real images and stitch them onto canvases.

    Crops are taken from the images as the store holds them. If a dataset's images have been scaled to ``image_size``
    when they were read, crops are enlarged parts of these, and not parts of the files' full resolution.

    Args:
        store: The real training images.
        meta: Description of the dataset.
        ipc: Canvases per class.
        crops: The crops to choose from.
        observer: The trained network, on the device of ``store``.
        seed: Seed. The images that are drawn from a class, and the crops of an image, depend on it, the class and the
            image's place in its class alone.

    Returns:
        (C, ipc, ch, H, W), normalized, float32.

    Raises:
        BaconError: See :func:`check_crops`.
    """
    check_crops(store, meta, ipc, crops)
    tiles = crops.tiles_of(meta.size)
    needed, side = ipc * tiles**2, min(meta.size) // tiles
    index, place, valid = preselected(store, crops.images, seed)
    classes = torch.arange(len(index), device=index.device)[:, None].expand(index.shape)
    number = torch.arange(crops.per_image, device=index.device)
    coordinates = (seed, "rded crop", classes[..., None], place[..., None], number)
    boxes = random_boxes(meta.size, (crops.smallest, 1.0), (1.0, 1.0), *coordinates)
    at_once = max(1, CROPS_AT_ONCE * 32**2 // (meta.size[0] * meta.size[1] * crops.per_image))
    of_image, of_class, flat = (t.flatten(0, 1) for t in (index, classes, boxes))
    scored = []
    for first in range(0, len(flat), at_once):
        part = slice(first, first + at_once)
        patches = _patches(store, meta, of_image[part], flat[part], side)
        logits = observer(centered(patches, meta.size).flatten(0, 1)).unflatten(0, patches.shape[:2])
        scored.append(crop_scores(logits, of_class[part]))
    scores = torch.cat(scored).view(boxes.shape[:-1])
    best, score = best_crops(scores)
    chosen = easiest(score.masked_fill(~valid, torch.inf), needed)
    kept = boxes.gather(2, best[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    kept = kept.gather(1, chosen[..., None].expand(-1, -1, 4))
    of = index.gather(1, chosen)
    each = [
        stitched(_patches(store, meta, images, own[:, None], side).squeeze(1), tiles, meta.size)
        for images, own in zip(of, kept, strict=True)
    ]
    return torch.stack(each)


def check_crops(store: LabeledImages, meta: DatasetMeta, ipc: int, crops: Crops) -> None:
    """Check, before an observer is trained, that crops can be chosen.

    Args:
        store: The real training images.
        meta: Description of the dataset.
        ipc: Canvases per class.
        crops: The crops to choose from.

    Raises:
        BaconError: A class has too few images, canvases are too small for so many crops, or images are whitened.
    """
    if meta.whitening is not None:
        raise BaconError(
            "RDED scores parts of images, which cannot be whitened as whole images are: leave --data.whitening out."
        )
    tiles = crops.tiles_of(meta.size)
    needed = ipc * tiles**2
    if needed > crops.images:
        raise BaconError(
            f"{ipc} canvases of {tiles}×{tiles} crops need {needed} images of each class, one for each "
            f"crop, and --model.crops.images is {crops.images}: raise it."
        )
    check_enough(store, needed, "lower --model.ipc or --model.crops.tiles")
    if meta.size[0] != meta.size[1] or min(meta.size) < tiles:
        raise BaconError(f"RDED needs square images of at least {tiles} pixels, got {meta.size[0]}×{meta.size[1]}.")


def preselected(store: LabeledImages, number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images of every class at random, or take all of a class that has fewer.

    Args:
        store: The real training images.
        number: Images per class.
        seed: Seed of the draw.

    Returns:
        ``(index, place, valid)``, (C, n) each: positions in the store, places within their class, and False where a
        class has no more images.
    """
    table, valid = store.class_table
    classes = torch.arange(len(table), device=table.device)[:, None]
    keyed = rng.bits(seed, "rded images", classes, torch.arange(table.shape[1], device=table.device))
    place = keyed.masked_fill(~valid, -1).argsort(dim=1, descending=True, stable=True)[:, :number]
    return table.gather(1, place), place, valid.gather(1, place)


def _patches(store: LabeledImages, meta: DatasetMeta, index: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut normalized crops (n, m, ch, side, side) out of images; resizing takes means, so it commutes with it."""
    return resized_crops(meta.normalize(store.images[index], torch.float32), boxes, (side, side))


def centered(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Put normalized crops (..., ch, s, s) in the middle of canvases (..., ch, H, W) of zeros, which is mean color."""
    down, right = (whole - own for whole, own in zip(size, patches.shape[-2:], strict=True))
    return F.pad(patches, (right // 2, right - right // 2, down // 2, down - down // 2))


def crop_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Score crops by the cross-entropy for their class; low is easy.

    Args:
        logits: (n, m, C), of m crops each of n images.
        labels: (n,), int64.

    Returns:
        (n, m).
    """
    return -logits.log_softmax(-1).gather(-1, labels[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(-1)


def best_crops(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number and the score of the best crop of each image, the first of equal ones.

    Args:
        scores: (..., m).

    Returns:
        Numbers (...), int64, and scores (...).
    """
    score, number = scores.sort(stable=True, dim=-1)
    return number[..., 0], score[..., 0]


def easiest(scores: Tensor, number: int) -> Tensor:
    """Return the positions (..., number) of the lowest scores (..., n) in ascending order, the first of equal ones."""
    return scores.argsort(stable=True, dim=-1)[..., :number]


def stitched(patches: Tensor, tiles: int, size: tuple[int, int]) -> Tensor:
    """Fill canvases with crops: the first ones take the top left tiles of all canvases, the next those to the right.

    If ``tiles`` does not divide a side, the first tiles are one pixel larger, where crops are enlarged by repeating
    pixels.

    Args:
        patches: (tiles²·n, ch, s, s) crops, the best first, with s = side // tiles.
        tiles: Crops per side of a canvas.
        size: Height and width of the canvases in pixels.

    Returns:
        (n, ch, H, W).
    """
    grid = patches.unflatten(0, (tiles, tiles, -1))  # (row, column, n, ch, s, s)
    (row, y), (column, x) = (_sources(side, tiles, patches) for side in size)
    found = grid[row[:, None], column, :, :, y[:, None], x]  # (H, W, n, ch)
    return found.permute(2, 3, 0, 1).contiguous()


def _sources(side: int, tiles: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The tile of each pixel along a side, and the pixel of the crop that is shown there."""
    number = torch.arange(tiles, device=like.device)
    lengths = side // tiles + (number < side % tiles).long()
    tile = number.repeat_interleave(lengths)
    within = torch.arange(side, device=like.device) - (lengths.cumsum(0) - lengths)[tile]
    return tile, within * (side // tiles) // lengths[tile]
