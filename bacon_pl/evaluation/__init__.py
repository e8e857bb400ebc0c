"""Evaluation: new networks are trained on a set and on its baselines, and tested on real images."""

from bacon_pl.evaluation.bound import VIEWS, bound_line, bounds, measure_set, radius, with_error
from bacon_pl.evaluation.comparison import Baseline, Comparison, Run
from bacon_pl.evaluation.curve import LearningCurve
from bacon_pl.evaluation.lines import (
    LABELS,
    accuracy_rule,
    recipe_line,
    run_line,
    score_line,
    set_line,
    summary,
    training_name,
    trainings_line,
)
from bacon_pl.evaluation.markdown import accuracy_table, escaped, markdown_table
from bacon_pl.evaluation.module import EvalModule
from bacon_pl.evaluation.report import of_main, results, write_results, write_text
from bacon_pl.evaluation.results_file import Results
from bacon_pl.evaluation.run_result import Embedded, RunResult
from bacon_pl.evaluation.scores import RobustScores, robust_scores

__all__ = [
    "Baseline",
    "Comparison",
    "Embedded",
    "EvalModule",
    "LABELS",
    "LearningCurve",
    "RunResult",
    "Results",
    "RobustScores",
    "Run",
    "VIEWS",
    "accuracy_rule",
    "accuracy_table",
    "bound_line",
    "bounds",
    "escaped",
    "markdown_table",
    "measure_set",
    "of_main",
    "radius",
    "recipe_line",
    "results",
    "robust_scores",
    "run_line",
    "score_line",
    "set_line",
    "summary",
    "training_name",
    "trainings_line",
    "with_error",
    "write_results",
    "write_text",
]
