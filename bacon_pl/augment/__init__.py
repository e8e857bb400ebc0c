"""Augmentations for matching and evaluation. To add one, add a file here with a subclass of Augmentation or Mixing."""

from bacon_pl.augment.base import Augmentation, NoAugmentation
from bacon_pl.augment.chain import Chain
from bacon_pl.augment.crop_scale_rotate import CropScaleRotate
from bacon_pl.augment.dsa import DSA
from bacon_pl.augment.mixing import CutMix, Mixing, MixUp
from bacon_pl.augment.resized_crop import ResizedCrop
from bacon_pl.augment.searched import AutoAugment, RandAugment
from bacon_pl.augment.tiles import Tiles
from bacon_pl.augment.views import View, Views

__all__ = [
    "Augmentation",
    "AutoAugment",
    "Chain",
    "CropScaleRotate",
    "CutMix",
    "DSA",
    "MixUp",
    "Mixing",
    "NoAugmentation",
    "RandAugment",
    "ResizedCrop",
    "Tiles",
    "View",
    "Views",
]
