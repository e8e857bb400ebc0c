"""Augmentations for matching and evaluation. A new one is a file here with an Augmentation subclass."""

from bacon_pl.augment.base import Augmentation, NoAugmentation
from bacon_pl.augment.dsa import DSA

__all__ = ["DSA", "Augmentation", "NoAugmentation"]
