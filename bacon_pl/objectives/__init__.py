"""Matching objectives. To add one, write a subclass of Objective, here or in any importable module."""

from bacon_pl.objectives.adversary import Adversary
from bacon_pl.objectives.bacon import BaconObjective
from bacon_pl.objectives.base import Objective, Readings
from bacon_pl.objectives.combined import Combined
from bacon_pl.objectives.cross_entropy import AccuracyScale, CrossEntropy
from bacon_pl.objectives.datadam import DataDAM
from bacon_pl.objectives.gradient_distance import (
    AbsoluteError,
    Cosine,
    GradientDistance,
    LayerwiseCosine,
    SquaredError,
)
from bacon_pl.objectives.iid import IID
from bacon_pl.objectives.m3d import M3D
from bacon_pl.objectives.mean_matching import MeanMatching
from bacon_pl.objectives.ncfm import NCFM, Sampler
from bacon_pl.objectives.slopes import Slopes, label_loss
from bacon_pl.objectives.trajectory import Matched, Student, Way, match_trajectory

__all__ = [
    "AbsoluteError",
    "AccuracyScale",
    "Adversary",
    "BaconObjective",
    "Combined",
    "Cosine",
    "CrossEntropy",
    "DataDAM",
    "GradientDistance",
    "IID",
    "LayerwiseCosine",
    "M3D",
    "Matched",
    "MeanMatching",
    "NCFM",
    "Objective",
    "Readings",
    "Sampler",
    "Slopes",
    "SquaredError",
    "Student",
    "Way",
    "label_loss",
    "match_trajectory",
]
