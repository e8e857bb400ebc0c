"""Networks trained on the real images: teachers, which provide soft labels, and feature spaces for selection."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.learners.learners import Learners
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.training_set import TrainingSet
from bacon_pl.selection import Embed


class Teacher:
    """A network that labels the batches of other networks. It is trained on the real images when it is first needed.

    Args:
        recipe: Recipe of the students; its ``soft_labels`` define how the teacher differs.
        store: The real training images.
        meta: Description of the dataset.
        seed: Seed of the teacher's weights, batches and augmentation.
    """

    def __init__(self, recipe: Recipe, store: LabeledImages, meta: DatasetMeta, seed: int) -> None:
        soft = recipe.soft_labels
        assert soft is not None
        network = soft.network or recipe.network
        self._recipe = _for_steps(replace(recipe, network=network, num_networks=1, soft_labels=None), soft.steps, store)
        self._store, self._meta, self._seed = store, meta, rng.derive(seed, "teacher")
        self._learners: Learners | None = None

    def prepare(self, device: torch.device) -> None:
        """Train the teacher if this has not been done; all processes of a run must call this together."""
        if self._learners is None:
            learners = Learners(TrainingSet.whole(self._store), self._recipe, self._meta, self._seed)
            self._learners = learners.to(device).fit()

    def logits(self, x: Tensor) -> Tensor:
        """Compute the logits (B, C) of normalized images (B, ch, H, W)."""
        assert self._learners is not None
        return self._learners.classify(0, x)


def feature_spaces(recipe: Recipe, store: LabeledImages, meta: DatasetMeta, seed: int) -> list[Embed]:
    """Train ``recipe.num_networks`` networks briefly on the real images and return their embedding functions.

    All processes of a run must call this together. The networks are trained on the device of ``store``.

    Args:
        recipe: Training recipe, whose ``coreset_steps`` set the length of the training.
        store: The real training images.
        meta: Description of the dataset.
        seed: Seed; feature space k depends on (seed, k) alone.

    Returns:
        Functions from uint8 images (B, ch, H, W) to embeddings (B, d).
    """
    brief = _for_steps(replace(recipe, soft_labels=None), recipe.coreset_steps, store)
    learners = Learners(TrainingSet.whole(store), brief, meta, rng.derive(seed, "feature spaces"))
    learners.to(store.images.device).fit()
    return [partial(learners.embed, network_id=k) for k in range(recipe.num_networks)]


def _for_steps(recipe: Recipe, steps: int, store: LabeledImages) -> Recipe:
    """Change the epochs of a recipe such that training on all real images takes at least the given number of steps."""
    return replace(recipe, epochs=-(-steps // -(-len(store) // recipe.batch_size)))
