"""The batches of networks that are trained side by side: which images, how they are augmented, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bacon_pl import rng
from bacon_pl.data import DatasetMeta
from bacon_pl.distilled_set import StoredLabels
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.stored_batches import augmented, check_stored
from bacon_pl.learners.training_set import TrainingSet
from bacon_pl.networks.placing import placed
from bacon_pl.partition import cut_out

ALL = "every network"
"""Coordinate of draws that all networks share."""

OF_TEACHERS = ("teachers", "teacher_average", "teacher_steps")
"""What is reported of teachers."""

AS_STORED = "as stored"
"""Augmentation in the description of a training whose labels, stored for every batch, say what it is."""

_LABELED_AT_ONCE = 500


class Batches(nn.Module):
    """The batches of a training set, each a function of (seed, network, step) alone.

    With labels that are made once per epoch (``recipe.soft_labels.relabel``), order, augmentation and mixing do not
    depend on the network, so that one set of labels serves all of them. With labels that were stored for every batch
    (``recipe.soft_labels.source`` ``folder``), these say what order, augmentation and mixing are.

    Args:
        training_set: Images and labels.
        recipe: Training recipe.
        meta: Description of the dataset.
        seed: Seed of every draw.

    Raises:
        BaconError: Stored labels of batches do not fit the training set or the recipe.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    soft: Tensor | None
    _labeled: Tensor | None

    def __init__(self, training_set: TrainingSet, recipe: Recipe, meta: DatasetMeta, seed: int) -> None:
        super().__init__()
        self.training_set = training_set
        self.name = training_set.name
        self.storage_bytes = training_set.storage_bytes
        self.factor, self.upscaling = training_set.factor, training_set.upscaling
        self.recipe = recipe
        self.meta = meta
        self.seed = seed
        for name in ("images", "labels", "index"):
            self.register_buffer(name, getattr(training_set, name), persistent=False)
        soft = recipe.soft_labels
        self.stored: StoredLabels | None = None
        """Labels that were stored for every batch, if networks learn from such."""
        stored = None
        if soft is not None and training_set.brings(soft.source):
            if soft.source == "folder":
                self.stored = training_set.batch_labels
                assert self.stored is not None
                check_stored(self.stored, self.labels, meta.num_classes, recipe)
            else:
                assert training_set.soft_labels is not None and training_set.label_kind is not None
                stored = soft.probabilities(training_set.soft_labels.float(), training_set.label_kind)
        self._shared = self.stored is not None or (soft is not None and soft.relabel == "epoch")
        self.register_buffer("soft", stored, persistent=False)  # (positions, C), probabilities
        self.register_buffer("_labeled", None, persistent=False)  # positions of the rows of soft; None: all
        self._orders: dict[int | str, tuple[int, Tensor]] = {}

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must label the images."""
        return self.recipe.soft_labels is not None and self.soft is None and self.stored is None

    def described(self) -> dict[str, Any]:
        """Return the settings of the recipe that are reported, without those that do not act on these images."""
        found = self.recipe.described()
        if self.stored is not None:
            found |= dict.fromkeys(("mixing", "relabel", "half", *OF_TEACHERS))
            found |= {"augment": AS_STORED, "label_folder_seed": self.stored.seed}
            found["label_folder"] = self.stored.folder or found["label_folder"]
        elif found["label_source"] == "folder":
            found |= {"label_source": "teacher", "label_folder": None, "label_folder_seed": None}
        elif found["label_source"] == "stored":
            own = self.training_set.brings("stored")
            found |= dict.fromkeys(OF_TEACHERS) if own else {"label_source": "teacher", "relabel": "never"}
        return found

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: a pass over the training set, whose last may be smaller, or the beginning of one."""
        whole = -(-self.index.shape[1] // self.recipe.batch_size)
        return min(whole, self.recipe.epoch_steps or whole)

    @torch.no_grad()
    def label_once(self, logits: Callable[[Tensor], Tensor]) -> None:
        """Label every image that a network is trained on, as it is; does nothing if the images have such labels.

        Args:
            logits: Function from normalized images (B, ch, H, W) to logits (B, C), which are rounded to float16 as if
                they were stored.
        """
        if self.soft is not None:
            return
        assert self.recipe.soft_labels is not None
        self._labeled = self.index.unique()
        found = torch.cat([logits(self.at(part)).half() for part in self._labeled.split(_LABELED_AT_ONCE)])
        self.soft = self.recipe.soft_labels.probabilities(found.float())

    def augmented_batches(self, network_ids: Sequence[int], step: int) -> tuple[Tensor, Tensor]:
        """Return the augmented batches of networks in a step.

        Args:
            network_ids: The K networks.
            step: Number of the step.

        Returns:
            Images (K, B, ch, H, W) and labels (K, B), or (K, B, C) if they are mixed or soft; those that were stored
            for the batch are logits. If all networks have the same batch, they share its memory.
        """
        if self._shared and len(self.index) == 1:
            x, y = self.augmented_batch(network_ids[0], step)
            return tuple(t.expand(len(network_ids), *t.shape) for t in (x, y))  # type: ignore[return-value]
        batches = [self.augmented_batch(k, step) for k in network_ids]
        return tuple(torch.stack(parts) for parts in zip(*batches, strict=True))  # type: ignore[return-value]

    def augmented_batch(self, network_id: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the augmented batch of a network and step (see :meth:`batch`); mixed labels are (B, C)."""
        if self.stored is not None:
            labels = self.stored.batch(*divmod(step, self.steps_per_epoch))
            x = self.at(placed(labels.images, self.index.device))
            return augmented(x, labels), placed(labels.logits, x.device)
        x, y = self.batch(network_id, step)
        augment, where = self.recipe.augment, (self._who(network_id), step)
        if augment.on_pixels:
            pixels = self.meta.denormalize(x)
            pixels = augment.per_image(pixels, self.seed, "evaluation augment", *where)
            x = self.normalize(pixels)
        else:
            x = augment.per_image(x, self.seed, "evaluation augment", *where)
        if self.recipe.mixing is None:
            return x, y
        return self.recipe.mixing.mix(x, y, self.meta.num_classes, self.seed, "evaluation mixing", *where)

    def batch(self, network_id: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a network and step.

        Returns:
            Normalized images (B, ch, H, W) and labels: (B,), or probabilities (B, C) if every image has a soft label.
        """
        epoch, part = divmod(step, self.steps_per_epoch)
        who = self._who(network_id)
        if self._orders.get(who, (-1,))[0] != epoch:
            n = self.index.shape[1]
            self._orders[who] = (
                epoch,
                rng.permutation(n, self.seed, "evaluation order", who, epoch, device=self.index.device),
            )
        size = self.recipe.batch_size
        chosen = self._orders[who][1][part * size : (part + 1) * size]
        position = self.index[network_id % len(self.index)][chosen]
        if self.soft is None:
            return self.at(position), self.labels[position % len(self.images)]
        row = position if self._labeled is None else torch.searchsorted(self._labeled, position)
        return self.at(position), self.soft[row]

    def at(self, position: Tensor) -> Tensor:
        """Return the normalized images (B, ch, H, W) at positions (B,) of the training set."""
        x = self.images[position % len(self.images)] if self.factor > 1 else self.images[position]
        if x.dtype == torch.uint8:
            x = self.normalize(x)
        return cut_out(x, position // len(self.images), self.factor, self.upscaling) if self.factor > 1 else x

    def normalize(self, images: Tensor) -> Tensor:
        """Map images (..., ch, H, W), uint8 or pixels in [0, 1], to the space of the networks."""
        dtype = self._dtype
        if images.dtype != torch.uint8:
            images = images * 255
        return self.meta.normalize(images, dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _who(self, network_id: int) -> int | str:
        return ALL if self._shared else network_id
