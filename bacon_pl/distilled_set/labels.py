"""The labels of a distilled set: their order, the rules for soft labels, and the bytes that labels take.

A soft label is a row of C float16 numbers, either logits or probabilities, for a whole canvas or for each of its tiles.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

LabelKind: TypeAlias = Literal["logits", "probabilities"]
"""What the numbers of soft labels are: numbers before a softmax, or shares that sum to 1."""

KINDS: tuple[LabelKind, ...] = get_args(LabelKind)

_HALF = torch.finfo(torch.float16)


def class_order(labels: Tensor) -> Tensor | None:
    """Return the permutation (N,) that brings labels (N,) in class order stably, or None if they are in order."""
    if not len(labels) or bool((labels[1:] >= labels[:-1]).all()):
        return None
    return labels.argsort(stable=True)


def counts_text(counts: tuple[int, ...]) -> str:
    """Describe the numbers of images of the classes in a few words: ``10``, or ``8 to 12`` if they differ."""
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def hard_label_bytes(count: int, classes: int) -> int:
    """Count the bytes of ``count`` hard labels at the fewest whole bytes that can number ``classes`` classes."""
    each = max(1, -(-(classes - 1).bit_length() // 8))
    return count * each


def expand_soft_labels(soft_labels: Tensor, factor: int) -> Tensor:
    """List soft labels in the order of :func:`bacon_pl.partition.expand`: tile 0 of every canvas, then tile 1, ….

    Args:
        soft_labels: (N, C) per canvas, or (N, factor², C) per tile, whose tiles are numbered as in
            :mod:`bacon_pl.partition`.
        factor: Partition factor.

    Returns:
        (factor²·N, C).
    """
    if soft_labels.ndim == 3:
        return soft_labels.movedim(1, 0).flatten(0, 1)
    return soft_labels.repeat(factor**2, 1)


def soft_shape_flaw(shape: tuple[int, ...], count: int, classes: int, factor: int) -> str | None:
    """Describe what is wrong with the shape of soft labels, as part of a sentence, or return None.

    Args:
        shape: Shape of the soft labels.
        count: Number of canvases.
        classes: Number of classes.
        factor: Partition factor.
    """
    allowed = (count, classes), (count, factor**2, classes)
    if shape in allowed:
        return None
    per_tile = f" or {allowed[1]}, one for each tile," if factor > 1 else ""
    return f"the soft labels have shape {shape} where {allowed[0]}, one for each image,{per_tile} is needed"


def soft_value_flaw(soft_labels: Tensor, kind: LabelKind) -> str | None:
    """Describe what is wrong with the values of soft labels of a correct shape, as part of a sentence, or return None.

    The sum of a row of probabilities may differ from 1 by what rounding to float16 can change, counted twice, since a
    network may have computed them in float16: 2⁻¹⁰ and, for each class, 2⁻²⁴.

    Args:
        soft_labels: (..., C), float16.
        kind: What their numbers are.
    """
    if not bool(soft_labels.isfinite().all()):
        return f"some soft labels are not finite numbers of float16, which ends at {_HALF.max:,.0f}"
    if kind == "logits":
        return None
    if bool((soft_labels < 0).any()):
        return "some probabilities in the soft labels are negative"
    sums = soft_labels.sum(-1, dtype=torch.float64)
    allowed = _HALF.eps + soft_labels.shape[-1] * _HALF.smallest_normal * _HALF.eps
    if bool(((sums - 1).abs() > allowed).any()):
        worst = float(sums.flatten()[(sums - 1).abs().argmax()])
        return f"the probabilities in the soft labels do not sum to 1 (one row sums to {worst:.4g})"
    return None
