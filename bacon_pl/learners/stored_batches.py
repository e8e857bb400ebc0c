"""Batches that are made again as stored labels describe them: the same images, crops, flips and mixing."""

from __future__ import annotations

import torch
from torch import Tensor

from bacon_pl.augment.crops import resized_crops
from bacon_pl.distilled_set import BatchLabels, StoredLabels
from bacon_pl.errors import BaconError
from bacon_pl.learners.recipe import Recipe


def check_stored(stored: StoredLabels, count: int, num_classes: int, recipe: Recipe) -> None:
    """Fail if stored labels are not those of a training.

    Args:
        stored: The labels.
        count: Number of images that networks are trained on.
        num_classes: Number of classes of the dataset.
        recipe: Recipe by which networks are trained.

    Raises:
        BaconError: The labels are those of another number of images or classes, of other batches or of fewer epochs
            than the recipe has.
    """
    if stored.classes != num_classes:
        raise BaconError(
            f"the stored labels are those of {stored.classes} classes, but the dataset has {num_classes}: give the "
            "labels of this set."
        )
    if count != stored.count:
        raise BaconError(
            f"the stored labels are those of {stored.count} images, but networks are trained on {count}: give the "
            "labels of this set, and --evaluation.cut_tiles false if they are those of canvases with tiles."
        )
    if min(recipe.batch_size, count) != stored.batch_size:
        raise BaconError(
            f"the stored labels are those of batches of {stored.batch_size} images, which cannot be changed: give "
            f"--evaluation.batch_size {stored.batch_size}."
        )
    if recipe.epochs > stored.epochs:
        raise BaconError(
            f"labels are stored for {stored.epochs} epochs, but --evaluation.epochs is {recipe.epochs}: give at most "
            f"{stored.epochs}."
        )


def augmented(x: Tensor, labels: BatchLabels) -> Tensor:
    """Crop, flip and mix images as they were when they were labeled.

    Args:
        x: (B, ch, H, W), normalized: the images of the batch in its order. Resizing and mixing are linear, so that they
            give the same before and after normalization.
        labels: The labels of the batch.

    Returns:
        (B, ch, H, W).
    """
    size = (x.shape[-2], x.shape[-1])
    boxes = labels.crop_boxes(size)
    boxes[:, 2:].clamp_(min=1)  # the labels of larger images may have crops that are smaller than a pixel here
    x = resized_crops(x, boxes.to(x.device), size)
    x = torch.where(labels.flipped.to(x.device).view(-1, 1, 1, 1), x.flip(-1), x)
    if labels.partner is None:
        return x
    other = x[labels.partner.to(x.device)]
    if labels.box is None:
        assert labels.lam is not None
        return torch.lerp(other, x, labels.lam)
    top, left, bottom, right = labels.box
    x = x.clone()
    x[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return x
