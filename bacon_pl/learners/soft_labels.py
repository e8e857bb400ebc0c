"""Soft labels: where they come from, when they are made, and the losses by which networks learn from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.distilled_set.labels import LabelKind
from bacon_pl.distilled_set.stored_labels import SEED
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.learners.teacher_settings import TeacherSettings
from bacon_pl.networks import NetworkFactory

SoftLoss = Literal["kl", "kl_unscaled", "cross_entropy"]
Source = Literal["teacher", "stored", "folder"]
Relabel = Literal["batch", "epoch", "never"]
Average = Literal["logits", "probabilities"]

_OPTION = "--evaluation.soft_labels"


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels: those that a set brings along, or those of teachers that were trained on the real images.

    Args:
        network: Architecture of the teacher; by default that of the recipe.
        steps: Training steps of the teacher on all real images, rounded up to whole epochs. In all other respects it is
            trained with the recipe of its students, unless ``teacher`` says otherwise.
        temperature: Temperature T by which the labels' logits are divided before the softmax; probabilities count as
            exponentials of logits, so that they remain as they are at 1.
        loss: ``kl``: T² times the Kullback-Leibler divergence of the student's outputs from the labels, both at
            temperature T; ``kl_unscaled``: the same without the factor T², as RDED and SRe2L have it;
            ``cross_entropy``: cross-entropy of the student's outputs at temperature 1 with the labels at temperature T,
            which is DATM's loss at 1.
        source: ``teacher``, or ``stored``: the soft labels of the set itself. Real images, which have none, are then
            labeled once by the teacher, as with ``relabel: never``. Or ``folder``: labels that were stored for every
            augmented batch of every epoch (FKD, SRe2L), which also say how images are cropped, flipped and mixed; real
            images are then labeled by the teacher as ``relabel`` says.
        folder: The folder of the source ``folder``, in the layout of FKD.
        folder_seed: Seed of the order of the images when these labels were made, which their files do not tell:
            ``fkd_seed`` of the published code, and 42 there.
        relabel: When a teacher labels: ``batch``: every augmented and mixed batch of every network; ``epoch``: the
            batches of an epoch, their augmentation and mixing are the same for all networks, as if their labels had
            been stored (FKD, SRe2L); ``never``: every image once, as it is, before the training; a mixing then mixes
            the labels, too.
        teacher: How teachers are trained, or read from a file, instead of by the recipe of the students for ``steps``;
            ``count`` says how many there are.
        average: What is averaged over several teachers: their ``logits``, as G-VBSM and EDC do, or their
            ``probabilities`` at temperature T.
        half: Whether the teacher's logits are rounded to float16, as if they had been stored.

    Raises:
        BaconError: An argument is out of range, or does not act with the others.
    """

    network: NetworkFactory | None = None
    steps: int = 4000
    temperature: float = 4.0
    loss: SoftLoss = "kl"
    source: Source = "teacher"
    folder: str | None = None
    folder_seed: int = SEED
    relabel: Relabel = "batch"
    teacher: TeacherSettings | None = None
    average: Average = "logits"
    half: bool = False

    def __post_init__(self) -> None:
        ranges.whole(f"{_OPTION}.", steps=self.steps)
        ranges.positive(f"{_OPTION}.", temperature=self.temperature)
        for name in ("steps", "network"):
            if self.teacher is not None and getattr(self, name) != getattr(SoftLabels, name):
                raise BaconError(
                    f"{_OPTION}.{name} is for teachers trained by the students' recipe: set {_OPTION}.teacher's."
                )
        for what, value, known in (
            ("soft-label loss", self.loss, get_args(SoftLoss)),
            ("source of soft labels", self.source, get_args(Source)),
            ("relabel", self.relabel, get_args(Relabel)),
            ("average", self.average, get_args(Average)),
        ):
            if value not in known:
                raise unknown_name(what, str(value), known)
        if self.source == "stored" and self.relabel != "batch":
            raise BaconError(
                f"{_OPTION}.relabel acts on a teacher's labels, not on those that are stored: leave it out."
            )
        if (self.source == "folder") != (self.folder is not None):
            raise BaconError(f"{_OPTION}.source folder and {_OPTION}.folder need each other: give both, or neither.")
        if self.source != "folder" and self.folder_seed != SEED:
            raise BaconError(f"{_OPTION}.folder_seed is the seed of the labels of a folder: leave it out.")
        if not 0 <= self.folder_seed < 2**63:
            raise BaconError(f"{_OPTION}.folder_seed must be a seed from 0 to 2**63 - 1, got {self.folder_seed}.")
        if self.source == "folder" and self.relabel == "never":
            raise BaconError(
                f"{_OPTION}.relabel never would label real images once, but labels of a folder are those of batches: "
                "give batch or epoch."
            )
        if self.fixed and self.half:
            raise BaconError(
                f"{_OPTION}.half acts on labels made during the training; those made before are always rounded: leave "
                "it out."
            )
        if self.average != "logits" and self.teachers == 1:
            raise BaconError(f"{_OPTION}.average needs several teachers: give {_OPTION}.teacher.count.")

    @property
    def teachers(self) -> int:
        """How many teachers there are."""
        return 1 if self.teacher is None else self.teacher.count

    @property
    def fixed(self) -> bool:
        """Whether every image has a label that does not change during the training."""
        return self.source == "stored" or self.relabel == "never"

    def probabilities(self, labels: Tensor, kind: LabelKind = "logits") -> Tensor:
        """Bring labels (..., C) to the temperature T and give them as probabilities.

        Args:
            labels: Logits, or probabilities.
            kind: Which of the two.
        """
        if kind == "logits":
            return (labels / self.temperature).softmax(-1)
        if self.temperature == 1:
            return labels / labels.sum(-1, keepdim=True)  # they may have been rounded
        return (labels.log() / self.temperature).softmax(-1)

    def losses(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Compute the losses of students with respect to their teacher.

        Args:
            logits: Logits of the students (K, B, C).
            teacher: Logits of the teacher for the same images (K, B, C).

        Returns:
            Mean loss over the batch of each student, (K,).
        """
        target = F.log_softmax(teacher / self.temperature, 2)
        if self.loss == "cross_entropy":
            return -(target.exp() * F.log_softmax(logits, 2)).sum(2).mean(1)
        own = F.log_softmax(logits / self.temperature, 2)
        divergence = F.kl_div(own, target, reduction="none", log_target=True).sum(2).mean(1)
        # The gradient decreases with 1/T²; the factor T² makes a change of the learning rate unnecessary.
        return divergence * self.temperature**2 if self.loss == "kl" else divergence

    def losses_of(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the losses of students with respect to labels that are probabilities at temperature T.

        Args:
            logits: Logits of the students (K, B, C).
            target: Labels of the same images (K, B, C), from :meth:`probabilities`, mixed or not; they may hold zeros.

        Returns:
            Mean loss over the batch of each student, (K,).
        """
        target = target.to(logits.dtype)
        if self.loss == "cross_entropy":
            return -(target * F.log_softmax(logits, 2)).sum(2).mean(1)
        own = F.log_softmax(logits / self.temperature, 2)
        divergence = F.kl_div(own, target, reduction="none").sum(2).mean(1)
        return divergence * self.temperature**2 if self.loss == "kl" else divergence

    def averaged(self, logits: list[Tensor]) -> Tensor:
        """Average the logits (B, C) of several teachers; the result is one teacher's logits to :meth:`losses`."""
        if len(logits) == 1:
            return logits[0]
        if self.average == "logits":
            return torch.stack(logits).mean(0)
        t = self.temperature
        log_shares = torch.stack(logits).div(t).log_softmax(2)
        return t * (log_shares.logsumexp(0) - math.log(len(logits)))

    def described(self) -> dict[str, Any]:
        """Return what is reported with the results (:data:`DESCRIBED`), as JSON values; None where nothing acts."""
        return {
            "soft_loss": self.loss,
            "temperature": self.temperature,
            "label_source": self.source,
            "label_folder": self.folder,
            "label_folder_seed": None if self.folder is None else self.folder_seed,
            "relabel": None if self.source == "stored" else self.relabel,
            "half": self.half or self.fixed,
            "teachers": self.teachers,
            "teacher_average": None if self.teachers == 1 else self.average,
            "teacher_steps": self.steps if self.teacher is None else None,
        }


DESCRIBED = (
    *("soft_loss", "temperature", "label_source", "label_folder", "label_folder_seed", "relabel", "half"),
    *("teachers", "teacher_average", "teacher_steps"),
)
"""What is reported of soft labels."""


OF_A_SET = SoftLabels(temperature=1.0, loss="cross_entropy", source="stored")
"""How networks learn from labels that a set brings along if no recipe says otherwise: as DATM's do (2310.05773)."""
