"""Matching objectives. To add one, write a subclass of Objective, here or in any importable module."""

from bacon_pl.objectives.bacon import BaconObjective
from bacon_pl.objectives.base import Objective, Readings
from bacon_pl.objectives.combined import Combined
from bacon_pl.objectives.cross_entropy import AccuracyScale, CrossEntropy
from bacon_pl.objectives.mean_matching import MeanMatching

__all__ = [
    "AccuracyScale",
    "BaconObjective",
    "Combined",
    "CrossEntropy",
    "MeanMatching",
    "Objective",
    "Readings",
]
