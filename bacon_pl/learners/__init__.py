"""Networks trained side by side without a Trainer, for evaluation, validation and teachers."""

from bacon_pl.learners.fingerprint import TESTING, described, digest, identified
from bacon_pl.learners.flat_step import FlatStep
from bacon_pl.learners.labeler import Ensemble, labeler
from bacon_pl.learners.learners import Learners
from bacon_pl.learners.numbers import accuracies, spread
from bacon_pl.learners.real_training import Pretraining, RealTraining
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.soft_labels import OF_A_SET, SoftLabels
from bacon_pl.learners.stored_batches import check_stored
from bacon_pl.learners.teachers import Teacher, TeacherSettings, feature_spaces, teachers
from bacon_pl.learners.trained import Storage, TrainedNetworks, trained_networks
from bacon_pl.learners.training_set import TrainingSet

__all__ = [
    "TESTING",
    "Ensemble",
    "FlatStep",
    "Learners",
    "OF_A_SET",
    "Pretraining",
    "RealTraining",
    "Recipe",
    "SoftLabels",
    "Storage",
    "Teacher",
    "TeacherSettings",
    "TrainedNetworks",
    "TrainingSet",
    "accuracies",
    "check_stored",
    "described",
    "digest",
    "feature_spaces",
    "identified",
    "labeler",
    "spread",
    "teachers",
    "trained_networks",
]
