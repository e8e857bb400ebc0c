"""Distillation methods: the base class, and one file per family of methods."""

from bacon_pl.distillers.base import Distiller
from bacon_pl.distillers.batched_sgd import batched_sgd
from bacon_pl.distillers.bound_log import LoggedBound
from bacon_pl.distillers.distribution_matching import DistributionMatching
from bacon_pl.distillers.experts import Expansion, ExpertSettings
from bacon_pl.distillers.gradient_matching import GradientMatching
from bacon_pl.distillers.matched_network import NetworkSettings
from bacon_pl.distillers.pairs import PairSettings
from bacon_pl.distillers.pool import NetworkPool, PoolSettings
from bacon_pl.distillers.recovery import Recovery
from bacon_pl.distillers.reference import Reference
from bacon_pl.distillers.selection import Observer, Selection
from bacon_pl.distillers.squeeze import Squeeze
from bacon_pl.distillers.synthetic_set import SyntheticSet
from bacon_pl.distillers.trajectory_matching import TrajectoryMatching

__all__ = [
    "Distiller",
    "DistributionMatching",
    "Expansion",
    "ExpertSettings",
    "GradientMatching",
    "LoggedBound",
    "NetworkPool",
    "NetworkSettings",
    "Observer",
    "PairSettings",
    "PoolSettings",
    "Recovery",
    "Reference",
    "Selection",
    "Squeeze",
    "SyntheticSet",
    "TrajectoryMatching",
    "batched_sgd",
]
