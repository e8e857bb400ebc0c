"""Batches that are made again as stored labels describe them: the same images, crops, flips and mixing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl.augment.crops import resized_crops
from bacon_pl.distilled_set import BatchLabels, StoredLabels
from bacon_pl.errors import BaconError
from bacon_pl.learners.recipe import Recipe
from bacon_pl.networks.placing import placed

_COMPARED = 1000
"""Labels that are compared with the classes of their images, as far as there are so many."""

_DEVIATIONS = 3
"""By how many standard deviations more of them have to agree than those of images in another order would."""


def check_stored(stored: StoredLabels, classes: Tensor, num_classes: int, recipe: Recipe) -> None:
    """Fail if stored labels are not those of a training.

    Args:
        stored: The labels.
        classes: (N,), int64, classes of the images that networks are trained on.
        num_classes: Number of classes of the dataset.
        recipe: Recipe by which networks are trained.

    Raises:
        BaconError: The labels are those of another number of images or classes, of other batches, of fewer epochs than
            the recipe has, or of images in another order.
    """
    count = len(classes)
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
    agree, compared, expected, deviation = agreement(stored, classes.cpu())
    needed = expected + _DEVIATIONS * deviation
    if agree <= needed < compared:  # too few labels do not tell
        raise BaconError(
            f"{agree} of {compared} stored labels agree with the classes of their images, as {round(expected)} would "
            "by chance: they belong to another set, or the images were in another order, which is that of "
            f"torchvision's ImageFolder, drawn with the seed {stored.seed} (--evaluation.soft_labels.folder_seed)."
        )


def agreement(stored: StoredLabels, classes: Tensor) -> tuple[int, int, float, float]:
    """Count the stored labels whose largest number is that of their image's class, or of the one that is mixed in.

    Args:
        stored: The labels, of which the first thousand are read.
        classes: (N,), int64, classes of the images, on the CPU.

    Returns:
        How many agree, how many were compared, and the mean and standard deviation of how many would agree if images
        were in another order.
    """
    agree, compared, expected, variance = 0, 0, 0.0, 0.0
    shares = torch.bincount(classes, minlength=stored.classes).double() / len(classes)
    for number in range(stored.epochs * stored.batches):
        labels = stored.batch(*divmod(number, stored.batches))
        said, own = labels.logits.argmax(1), classes[labels.images]
        right = said == own
        chance = shares[said]
        if labels.partner is not None:
            right |= said == own[labels.partner]
            itself = labels.partner == torch.arange(len(said))
            chance = torch.where(itself, chance, 1 - (1 - chance) ** 2)
        agree += int(right.sum())
        compared += len(said)
        expected += float(chance.sum())
        variance += float((chance * (1 - chance)).sum())
        if compared >= _COMPARED:
            break
    return agree, compared, expected, math.sqrt(variance)


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
    x = resized_crops(x, placed(_within(labels.crop_boxes(size), size), x.device), size)
    x = torch.where(placed(labels.flipped, x.device).view(-1, 1, 1, 1), x.flip(-1), x)
    if labels.partner is None:
        return x
    other = x[placed(labels.partner, x.device)]
    if labels.box is None:
        assert labels.lam is not None
        return torch.lerp(other, x, labels.lam)
    top, left, bottom, right = labels.box
    x = x.clone()
    x[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return x


def _within(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Shift boxes (B, 4) into the image, where the rounding of crops of larger images may have left them outside.

    Such crops may also be smaller than a pixel here.
    """
    sides = torch.tensor(size)
    start = torch.minimum(boxes[:, :2], sides - 1)
    return torch.cat([start, torch.minimum(boxes[:, 2:].clamp(min=1), sides - start)], 1)
