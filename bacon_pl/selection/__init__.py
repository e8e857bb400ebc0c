"""Choosing real images: pure functions of tensors and of a store of images. Nothing is trained here."""

from bacon_pl.selection.coresets import Embed, choose, herding, k_center

__all__ = ["Embed", "choose", "herding", "k_center"]
