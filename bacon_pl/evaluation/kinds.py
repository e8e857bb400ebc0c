"""With which labels an evaluation trains, and at which learning rates: what each training set is evaluated as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from bacon_pl.distilled_set import DistilledSet, StoredLabels
from bacon_pl.errors import BaconError
from bacon_pl.evaluation.run_result import Variant
from bacon_pl.learners import OF_A_SET, Recipe, SoftLabels

Labels = Literal["hard", "soft"]


def with_labels(recipe: Recipe, labels: Sequence[Labels], distilled: DistilledSet) -> Recipe:
    """Return the recipe that an evaluation calls its own: with soft labels if they are asked for, alone or with others.

    Args:
        recipe: The recipe as given.
        labels: The kinds of labels asked for; if none are, the recipe decides.
        distilled: The set, whose own soft labels are used if the recipe has no others.

    Raises:
        BaconError: The recipe needs soft labels or a step size that the set does not have.
    """
    if "soft" in labels and recipe.soft_labels is None:
        recipe = replace(recipe, soft_labels=SoftLabels() if distilled.soft_labels is None else OF_A_SET)
    elif labels and "soft" not in labels:
        recipe = replace(recipe, soft_labels=None)
    soft = recipe.soft_labels
    if soft is not None and soft.source == "stored" and distilled.soft_labels is None:
        raise BaconError(
            "--evaluation.soft_labels.source stored: the set has no soft labels of its own: give teacher, or --labels "
            "hard."
        )
    if recipe.lr == "stored" and distilled.step_size is None:
        raise BaconError(
            "--evaluation.lr stored: the set has no learned step size: give a number, such as --evaluation.lr 0.01."
        )
    return recipe


def check_batch_labels(
    batch_labels: StoredLabels | None, recipe: Recipe, distilled: DistilledSet, scores: bool
) -> None:
    """Fail if an evaluation with labels of a folder cannot be made.

    Args:
        batch_labels: The labels of the folder, or None.
        recipe: The recipe, which asks for such labels or does not.
        distilled: The set.
        scores: Whether robust scores are asked for.

    Raises:
        BaconError: The recipe asks for such labels, and there are none, the set is whitened or scores are asked for, or
            there are labels that it does not ask for.
    """
    if recipe.soft_labels is None or recipe.soft_labels.source != "folder":
        if batch_labels is not None:
            raise BaconError("batch_labels=... are read by a recipe with SoftLabels(source='folder', …) alone.")
        return
    if batch_labels is None:
        raise BaconError(
            "SoftLabels(source='folder', …) needs the labels of the folder: give batch_labels=open_labels(folder, …)."
        )
    if distilled.meta.whitening is not None:
        raise BaconError(
            "labels of a folder are those of crops of pixels, but the set is whitened: give "
            "--evaluation.soft_labels.source teacher."
        )
    if scores:
        raise BaconError(
            "--scores needs trainings without augmentation, but labels of a folder are those of augmented batches: "
            "leave --scores out, or give --evaluation.soft_labels.source teacher."
        )


def variants_of(training_set: str, recipe: Recipe, labels: Sequence[Labels]) -> tuple[Variant, ...]:
    """Return the variants of an evaluation's recipe by which a training set is evaluated, the recipe itself first."""
    found: list[Variant] = ["given"]
    if recipe.soft_labels is not None and "hard" in labels:
        found.append("hard")
    if recipe.lr == "stored" and training_set == "distilled":
        found.append("fixed_lr")
    return tuple(found)


def labels_note(recipe: Mapping[str, Any], both: bool, stored: bool, teachers: int) -> str:
    """Say with which labels the networks learn if a number may otherwise be misread; empty for a set of hard labels.

    Args:
        recipe: The recipe as described in the results.
        both: Whether there are accuracies with hard labels beside those with soft ones.
        stored: Whether the set brings soft labels along.
        teachers: Number of teachers that label real images beside a set that brings labels; 0 if none is needed.
    """
    if recipe["labels"] == "hard":
        unused = "the set has soft labels, which are not used: --labels hard,soft also evaluates it with them"
        return f"hard labels; {unused}" if stored else ""
    own = {"stored": "of the set", "folder": "stored for every batch"}.get(recipe["label_source"])
    count = teachers if own else recipe["teachers"]
    whose = "a teacher" if count == 1 else f"{count} teachers"
    found = f"soft labels, those {own}" if own else f"soft labels of {whose}"
    if own and teachers:
        found += f" (for real images those of {whose})"
    if stored and not own:
        found += "; those of the set are not used (--evaluation.soft_labels.source stored uses them)"
    return found + ("; hard ones beside them" if both else "; --labels hard,soft gives accuracies with hard ones, too")
