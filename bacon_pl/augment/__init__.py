"""Augmentations for matching and evaluation. A new one is a file here with an Augmentation or Mixing subclass."""

from bacon_pl.augment.base import Augmentation, NoAugmentation
from bacon_pl.augment.chain import Chain
from bacon_pl.augment.dsa import DSA
from bacon_pl.augment.mixing import CutMix, Mixing, MixUp
from bacon_pl.augment.searched import AutoAugment, RandAugment

__all__ = ["Augmentation", "AutoAugment", "Chain", "CutMix", "DSA", "MixUp", "Mixing", "NoAugmentation", "RandAugment"]
