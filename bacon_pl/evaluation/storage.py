"""What has to be stored to train networks on a set: pixels, labels, step size, and the teacher if it labels."""

from __future__ import annotations

from collections.abc import Mapping

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distilled_set.labels import hard_label_bytes
from bacon_pl.learners import Ensemble, Learners


def storage(learners: Learners, distilled: DistilledSet, teachers: Ensemble | None, own_rate: bool) -> dict[str, int]:
    """Count what one network of a training needs, in bytes.

    Pixels count one byte per value, a class the fewest whole bytes that number all classes, soft labels two bytes per
    value, a step size four, and a teacher's weights four each. Labels that are stored for every batch count all that is
    stored for the epochs of the training: logits, crops, flips and mixing.

    Args:
        learners: The training.
        distilled: The evaluated set.
        teachers: The teachers of the evaluation, if there are any.
        own_rate: Whether the learning rate is the set's step size.

    Returns:
        ``pixels``, ``labels``, ``step_size``, ``teacher`` and their ``total``.
    """
    of, soft = learners.training_set, learners.recipe.soft_labels
    classes = learners.meta.num_classes
    labels = hard_label_bytes(of.canvases, classes)
    teacher = 0
    stored = learners.stored
    if stored is not None:
        labels = stored.bytes_of(learners.recipe.epochs, learners.steps_per_epoch)
    elif soft is not None and soft.fixed:
        own = soft.source == "stored" and of.name == "distilled" and distilled.soft_labels is not None
        labels = distilled.label_bytes if own else labels + 2 * classes * learners.index.shape[1]
    elif soft is not None and teachers is not None:
        teacher = teachers.bytes
    parts = {
        "pixels": of.storage_bytes,
        "labels": labels,
        "step_size": distilled.step_size_bytes if own_rate else 0,
        "teacher": teacher,
    }
    return {**parts, "total": sum(parts.values())}


def storage_line(parts: Mapping[str, int]) -> str:
    """Describe storage in one line: ``30,720 bytes: pixels 30,720, labels 10``."""
    names = {"pixels": "pixels", "labels": "labels", "step_size": "step size", "teacher": "teacher"}
    told = ", ".join(f"{name} {parts[key]:,}" for key, name in names.items() if parts[key])
    return f"{parts['total']:,} bytes: {told}"


def short_bytes(count: int) -> str:
    """Write a number of bytes in a few characters: ``940 B``, ``30.7 kB``, ``1.3 MB``."""
    if count < 1000:
        return f"{count} B"
    for unit, size in (("kB", 1e3), ("MB", 1e6)):
        if count < 1000 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e9:.3g} GB"
