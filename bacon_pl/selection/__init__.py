"""Selecting real images with pure functions of tensors.

Random images are drawn by :func:`bacon_pl.data.draw.draw_real`.
"""

from bacon_pl.selection.coreset import Embed, Select, choose
from bacon_pl.selection.herding import herding
from bacon_pl.selection.k_center import k_center
from bacon_pl.selection.rded import Crops, check_crops, rded
from bacon_pl.selection.tiles import Start, canvases

__all__ = ["Crops", "Embed", "Select", "Start", "canvases", "check_crops", "choose", "herding", "k_center", "rded"]
