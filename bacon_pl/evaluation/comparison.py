"""Comparison of a distilled set with baselines on several architectures: the runs, and the training set of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.augment import NoAugmentation
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.data.draw import check_enough, draw_real
from bacon_pl.distilled_set import DistilledSet, StoredLabels, recorded_scaling
from bacon_pl.errors import BaconError
from bacon_pl.evaluation.kinds import Labels, check_batch_labels, variants_of, with_labels
from bacon_pl.evaluation.module import EvalModule
from bacon_pl.evaluation.run_result import Embedded, RunResult, Variant
from bacon_pl.evaluation.scores import ScoreWeights, robust_scores
from bacon_pl.evaluation.storage import storage
from bacon_pl.learners import Learners, Recipe, TrainingSet, feature_spaces, labeler
from bacon_pl.networks import NetworkFactory
from bacon_pl.selection import Embed

Baseline = Literal["tiles", "random", "herding", "k_center", "whole"]

EMBEDDED_REAL = 1000
"""Approximate number of real images that are embedded for the figure."""

_CHOSEN = ("tiles", "random", "herding", "k_center")
"""Baselines with as many real images per class as the distilled set has canvases."""

# Accuracies from which the robust scores are computed, as training set and variant of the recipe.
_SCORED: dict[str, tuple[str, Variant]] = {
    "real_hard": ("whole", "hard"),
    "syn_hard": ("distilled", "hard"),
    "syn_any": ("distilled", "given"),
    "random_any": ("random", "given"),
    "syn_aug": ("distilled", "given"),
    "random_aug": ("random", "given"),
    "syn_plain": ("distilled", "plain"),
    "random_plain": ("random", "plain"),
}


@dataclass(frozen=True)
class Run:
    """One training with its test.

    Attributes:
        architecture: Name of the architecture.
        training_set: ``distilled`` or the name of a baseline.
        variant: Variant of the recipe: unchanged (``given``), without soft labels (``hard``), without augmentation
            and mixing (``plain``), or with a fixed learning rate instead of the set's own (``fixed_lr``).
    """

    architecture: str
    training_set: str
    variant: Variant = "given"

    @property
    def name(self) -> str:
        """Name of the run, without spaces."""
        return "_".join([self.architecture, self.training_set, *([] if self.variant == "given" else [self.variant])])


class Comparison:
    """The runs of an evaluation: every architecture on the distilled set and on every baseline.

    All runs share one recipe and one budget. Herding and k-center select images in feature spaces of
    ``recipe.network``, regardless of the trained architecture. The same teachers provide the soft labels of all runs;
    they are trained on the real training images and see no others.

    Args:
        distilled: The set to evaluate.
        store: The real training images.
        meta: Description of the dataset.
        recipe: Training recipe.
        networks: Architectures by name. The first one is the main architecture, for which scores are computed.
        baselines: Names of the baselines.
        scores: Whether to include the runs that :meth:`scores` needs.
        seed: Seed of every draw.
        labels: With which labels every training set is evaluated: ``hard``, ``soft`` or both; by default as the recipe
            says.
        weights: Weights of the scores.
        batch_labels: Labels that were stored for every augmented batch of the set, which a recipe with labels from a
            folder needs.

    Attributes:
        teachers: Networks that provide soft labels; None if no images need them.

    Raises:
        BaconError: A class has fewer real images than a baseline needs, an architecture does not accept the images, or
            the set lacks labels or a step size that the recipe needs.
    """

    def __init__(
        self,
        distilled: DistilledSet,
        store: LabeledImages,
        meta: DatasetMeta,
        recipe: Recipe,
        networks: Mapping[str, NetworkFactory],
        baselines: Sequence[Baseline] = (),
        scores: bool = False,
        seed: int = 0,
        labels: Sequence[Labels] = (),
        weights: ScoreWeights | None = None,
        batch_labels: StoredLabels | None = None,
    ) -> None:
        recipe = with_labels(recipe, labels, distilled)
        check_batch_labels(batch_labels, recipe, distilled, scores)
        recipe.check_fits(meta)
        self.labels = tuple(dict.fromkeys(labels))
        self.weights = weights or ScoreWeights()
        self.distilled = distilled
        self.store = store
        self.meta = meta
        self.recipe = recipe
        self.networks = dict(networks)
        self.baselines = tuple(dict.fromkeys(baselines))
        self.scored = scores
        self.seed = seed
        self.batch_labels = batch_labels
        self._sets: dict[str, TrainingSet] = {}
        self._spaces: list[Embed] | None = None
        # What the set has learned, its step size, is not for networks on real images.
        self._real_recipe = recipe.with_rate_of(None)
        if self.needs_teachers and not len(store):
            raise BaconError(
                "a teacher that labels images is trained on real training images, and there are none: give them as "
                "train=..., beside the test images."
            )
        self.teachers = labeler(self._real_recipe, store, meta, seed) if self.needs_teachers else None
        self._scaling = recorded_scaling(distilled.config) if "tiles" in self.baselines else "bilinear"
        # Errors are reported now, and not only after the training on the distilled set.
        if batch_labels is not None:
            self.module(Run(self.main, "distilled"))
        for network in self.networks.values():
            with rng.seeded(seed, "tried"):
                network(meta.channels, meta.size, meta.num_classes)
        if taken := [name for name in dict.fromkeys(run.training_set for run in self.runs) if name in _CHOSEN]:
            check_enough(store, distilled.ipc, f"leave {', '.join(taken)} out of --baselines{' and --scores' * scores}")

    @property
    def main(self) -> str:
        """Name of the main architecture."""
        return next(iter(self.networks))

    @property
    def runs(self) -> list[Run]:
        """All runs without repeats: the main architecture comes first, starting with the distilled set."""
        runs = [*self._compared, *self.scored_runs.values()] if self.scored else self._compared
        return list(dict.fromkeys(runs))

    @property
    def _compared(self) -> list[Run]:
        """The runs whose accuracies were asked for themselves."""
        return [
            Run(name, training_set, variant)
            for name in self.networks
            for training_set in ("distilled", *self.baselines)
            for variant in variants_of(training_set, self.recipe, self.labels)
        ]

    @property
    def only_scored(self) -> list[Run]:
        """Those of the runs that only the scores need."""
        return [run for run in self.runs if run not in self._compared]

    @property
    def shareable(self) -> list[Run]:
        """Those of the runs that only the scores need and that evaluations of other sets need, too."""
        return [run for run in self.only_scored if run.training_set != "distilled"]

    @property
    def scored_runs(self) -> dict[str, Run]:
        """The runs that the robust scores need, by argument of :func:`~bacon_pl.evaluation.scores.robust_scores`."""
        return {
            part: Run(self.main, name, variant if self.variant(variant) != self.recipe else "given")
            for part, (name, variant) in _SCORED.items()
        }

    def variant(self, variant: Variant) -> Recipe:
        """Return the recipe of a variant."""
        if variant == "hard":
            return replace(self.recipe, soft_labels=None)
        if variant == "plain" and not (isinstance(self.recipe.augment, NoAugmentation) and self.recipe.mixing is None):
            return replace(self.recipe, augment=NoAugmentation(), mixing=None)
        return self.recipe

    def module(self, run: Run, device: torch.device | str = "cpu") -> EvalModule:
        """Create the module of a run; all processes of an evaluation must call this together.

        Args:
            run: One of :attr:`runs`.
            device: Device on which to train the networks whose feature spaces herding and k-center use.

        Returns:
            The module, which has not been trained.
        """
        recipe = self.recipe_of(run)
        training_set = self._training_set(run.training_set, torch.device(device))
        soft = recipe.soft_labels
        labeled = soft is None or training_set.brings(soft.source)
        return EvalModule(Learners(training_set, recipe, self.meta, self.seed, None if labeled else self.teachers))

    def recipe_of(self, run: Run) -> Recipe:
        """Return the recipe by which a run's networks are trained."""
        recipe = self.variant(run.variant).with_rate_of(self.distilled.step_size if self._own_rate(run) else None)
        recipe = replace(recipe, network=self.networks[run.architecture])
        if run.training_set == "whole" and recipe.whole_epochs is not None:
            recipe = replace(recipe, epochs=recipe.whole_epochs)
        return recipe

    def _own_rate(self, run: Run) -> bool:
        """Whether the learning rate of a run is the set's own step size."""
        return self.recipe.lr == "stored" and run.training_set == "distilled" and run.variant != "fixed_lr"

    def result(self, run: Run, module: EvalModule) -> RunResult:
        """Collect the results of a tested module; all processes of an evaluation must call this together."""
        found = module.run_result(run.architecture, run.variant)
        return replace(found, storage=storage(module.learners, self.distilled, self.teachers, self._own_rate(run)))

    @property
    def needs_teachers(self) -> bool:
        """Whether a teacher labels images in one of the runs."""
        soft = [run.training_set for run in self.runs if self.variant(run.variant).soft_labels is not None]
        if self.recipe.soft_labels is None or self.recipe.soft_labels.source == "teacher":
            return bool(soft)
        return any(name != "distilled" for name in soft)

    def tested_teachers(self, test: LabeledImages) -> list[dict[str, Any]]:
        """Make the teachers that the runs need, and describe them with their test accuracies.

        Nothing is chosen by these. All processes of an evaluation must call this together.

        Args:
            test: The test images, on the device of the trainings.

        Returns:
            One description for each teacher with its ``test_accuracy`` in percent; none if no teacher is needed.
        """
        if self.teachers is None or not self.needs_teachers:
            return []
        self.teachers.prepare(test.images.device)
        return self.teachers.tested(test)

    def _training_set(self, name: str, device: torch.device) -> TrainingSet:
        if name not in self._sets:
            self._sets[name] = self._make(name, device)
        return self._sets[name]

    def _make(self, name: str, device: torch.device) -> TrainingSet:
        ipc, draws = self.distilled.ipc, self.recipe.num_networks
        match name:
            case "distilled":
                return TrainingSet.distilled(self.distilled, self.recipe.cut_tiles, self.batch_labels)
            case "tiles":
                factor, scaling = self.distilled.factor if self.recipe.cut_tiles else 1, self._scaling
                upscaling = self.distilled.upscaling
                return TrainingSet.tiles(self.store, self.meta, ipc, factor, scaling, draws, self.seed, upscaling)
            case "random":
                return TrainingSet.random(self.store, ipc, draws, self.seed)
            case "herding" | "k_center":
                store = self.store.to(device)
                if self._spaces is None:
                    self._spaces = feature_spaces(self._real_recipe, store, self.meta, self.seed)
                return TrainingSet.coreset(name, store, ipc, self._spaces)
            case _:
                return TrainingSet.whole(self.store)

    def embedded(self, module: EvalModule) -> Embedded:
        """Compute embeddings of the distilled images and of some real images per class with network 0 of a module."""
        shown = min(self.store.smallest_class, max(1, EMBEDDED_REAL // self.meta.num_classes))
        index = draw_real(self.store, shown, 1, self.seed, "embedded real images").flatten()
        synthetic, labels = self.distilled.expanded()
        learners = module.learners
        real = learners.embed(self.store.images[index].to(learners.device)).cpu()
        return Embedded(real, self.store.labels[index], learners.embed(synthetic.to(learners.device)).cpu(), labels)

    def views(self, trained: EvalModule, device: torch.device | str = "cpu") -> dict[str, Embed]:
        """Return the embedding functions of the main architecture for :func:`~bacon_pl.evaluation.bounds`.

        They use network 0 of the run on the distilled set with its initial weights (``fresh``) and with its final
        weights (``distilled``), and a network that is trained on the real images for ``recipe.coreset_steps`` steps
        (``real``). All processes of an evaluation must call this together.

        Args:
            trained: Trained module of the main architecture and the distilled set; it is moved to the device.
            device: Device for the training and the embeddings.

        Returns:
            Functions from images to embeddings by name.
        """
        recipe = replace(self._real_recipe, network=self.networks[self.main], num_networks=1, soft_labels=None)
        fresh = Learners(self._training_set("distilled", torch.device(device)), recipe, self.meta, self.seed)
        (real,) = feature_spaces(recipe, self.store.to(device), self.meta, self.seed)
        return {"fresh": fresh.to(device).embed, "real": real, "distilled": trained.to(device).learners.embed}

    def scores(self, run_results: Sequence[RunResult]) -> dict[str, Any]:
        """Compute DD-Ranking's scores of the main architecture (see :func:`~bacon_pl.evaluation.scores.robust_scores`).

        Args:
            run_results: Results of all :attr:`runs`.

        Returns:
            ``hlr``, ``ior``, ``lrs`` and ``ars``; as ``weights`` those of LRS and ARS, ``w`` and ``gamma``; and as
            ``accuracies`` the mean accuracies in [0, 1] used for them.
        """
        return self.scores_of({Run(o.architecture, o.training_set, o.variant): o.accuracies for o in run_results})

    def scores_of(self, accuracies: Mapping[Run, Tensor]) -> dict[str, Any]:
        """Compute the same from the accuracies alone.

        Args:
            accuracies: Accuracy of every network in percent, (K,), of all :attr:`scored_runs`.

        Returns:
            See :meth:`scores`.
        """
        parts = {part: float(accuracies[run].mean()) / 100 for part, run in self.scored_runs.items()}
        weights = asdict(self.weights)
        return {**asdict(robust_scores(**parts, **weights)), "weights": weights, "accuracies": parts}
