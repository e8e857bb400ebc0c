"""The optimizers of synthetic images: SGD, or AdamW in distribution matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bacon_pl.distillers.batched_sgd import ImageSGD
from bacon_pl.distillers.pixel_adamw import PixelAdamW
from bacon_pl.errors import BaconError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from bacon_pl.distillers.distribution_matching import DistributionMatching


def make_image_optimizer(distiller: DistributionMatching) -> ImageSGD | PixelAdamW:
    """Make the optimizer, which takes all classes' steps at once if the schedule is one step per class.

    Args:
        distiller: The distiller with the images and the settings.
    """
    d = distiller
    classes, each = d.meta.num_classes, d.per_class_steps
    if d.optimizer == "sgd":
        return ImageSGD(d.images, classes, d.lr, d.momentum, each, d.meta.std if d.space == "pixels" else None)
    mean, std = (d.meta.mean, d.meta.std) if d.space == "pixels" else ((0.0,), (1.0,))
    return PixelAdamW(d.images, mean, std, classes, d.lr, weight_decay=d.weight_decay, per_class_steps=each)


def image_optimizer(module: LightningModule) -> ImageSGD | PixelAdamW:
    """Return the one optimizer of a distiller, that of its images.

    Raises:
        BaconError: A subclass has given another one, which does not take the steps of all classes at once.
    """
    optimizer = module.optimizers(use_pl_optimizer=False)
    if not isinstance(optimizer, (ImageSGD, PixelAdamW)):
        raise BaconError(
            f"configure_optimizers of {type(module).__name__} must give an ImageSGD or a PixelAdamW of its images, got "
            f"{type(optimizer).__name__}: override update() for steps of another kind."
        )
    return optimizer
