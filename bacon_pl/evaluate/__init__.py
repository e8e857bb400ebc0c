"""Evaluation: fresh networks trained on a set and tested on real images, and the report of how they did."""

from bacon_pl.evaluate.module import EvalModule, train_without_trainer
from bacon_pl.evaluate.recipe import Recipe
from bacon_pl.evaluate.report import results, summary, write_results
from bacon_pl.evaluate.training_set import TrainingSet

__all__ = ["EvalModule", "Recipe", "TrainingSet", "results", "summary", "train_without_trainer", "write_results"]
