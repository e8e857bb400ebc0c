"""Distillation: initial images, the network pool, and the module that puts the parts together."""

from bacon_pl.distillers.bound_log import LoggedBound
from bacon_pl.distillers.module import DistillModule, batched_sgd
from bacon_pl.distillers.pool import NetworkPool, PoolSettings

__all__ = ["DistillModule", "LoggedBound", "NetworkPool", "PoolSettings", "batched_sgd"]
