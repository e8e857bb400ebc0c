"""Estimates of BACON's bound and of the corresponding risk from given embeddings (arXiv 2406.01112)."""

from bacon_pl.bound.ball import draw_in_ball, log_volume
from bacon_pl.bound.densities import check_prior, log_likelihood, log_prior
from bacon_pl.bound.estimate import Bound, Measured, Risk, bound, measure, median_distance, risk
from bacon_pl.bound.settings import BoundSettings

__all__ = [
    "Bound",
    "BoundSettings",
    "Measured",
    "Risk",
    "bound",
    "check_prior",
    "draw_in_ball",
    "log_likelihood",
    "log_prior",
    "log_volume",
    "measure",
    "median_distance",
    "risk",
]
