"""Evaluation: new networks are trained on a set and on its baselines, and tested on real images."""

from bacon_pl.evaluation.bound import VIEWS, bound_line, bounds, measure_set, radius, with_error
from bacon_pl.evaluation.comparison import Baseline, Comparison, Run
from bacon_pl.evaluation.curve import LearningCurve
from bacon_pl.evaluation.kinds import Labels, labels_note
from bacon_pl.evaluation.lines import (
    LABELS,
    accuracy_rule,
    notes,
    recipe_line,
    recipe_lines,
    run_line,
    score_line,
    set_line,
    summary,
    teacher_line,
    training_name,
    trainings_line,
)
from bacon_pl.evaluation.markdown import accuracy_table, escaped, markdown_table
from bacon_pl.evaluation.module import EvalModule
from bacon_pl.evaluation.report import of_main, results, write_results, write_text
from bacon_pl.evaluation.results_file import Results
from bacon_pl.evaluation.run_result import Embedded, RunResult
from bacon_pl.evaluation.scores import RobustScores, ScoreWeights, robust_scores
from bacon_pl.evaluation.shared import SharedAccuracies
from bacon_pl.evaluation.storage import short_bytes, storage_line

__all__ = [
    "Baseline",
    "Comparison",
    "Embedded",
    "EvalModule",
    "LABELS",
    "Labels",
    "LearningCurve",
    "RunResult",
    "Results",
    "RobustScores",
    "Run",
    "ScoreWeights",
    "SharedAccuracies",
    "VIEWS",
    "accuracy_rule",
    "accuracy_table",
    "bound_line",
    "bounds",
    "escaped",
    "labels_note",
    "markdown_table",
    "measure_set",
    "notes",
    "of_main",
    "radius",
    "recipe_line",
    "recipe_lines",
    "results",
    "robust_scores",
    "run_line",
    "score_line",
    "set_line",
    "short_bytes",
    "storage_line",
    "summary",
    "teacher_line",
    "training_name",
    "trainings_line",
    "with_error",
    "write_results",
    "write_text",
]
