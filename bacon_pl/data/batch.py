"""The random draws of real images for one iteration, and plain batches for evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data.images import LabeledImages


@dataclass
class IterationBatch:
    """The real images of one iteration, drawn on demand on the device that holds them.

    Every draw is a pure function of its coordinates (seed, iteration, class or network). It is therefore the same on
    every device, in every order of calls and after a resume.

    Attributes:
        store: All real training images, on the device.
        iteration: Number of the iteration, from 0.
        seed: Seed of the run.
        batch_real: Images per class that :meth:`matching` draws.
        pool_batch: Images per step that :meth:`random_batches` draws.
    """

    store: LabeledImages
    iteration: int
    seed: int
    batch_real: int
    pool_batch: int

    def matching(self, classes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Draw real images of each class, without repeats.

        The images drawn for a class do not depend on which other classes are requested.

        Args:
            classes: (C',), int64, class ids; None means all classes in label order.

        Returns:
            ``(images, mask)``. Images are uint8 (C', n, ch, H, W), where n = min(batch_real, size of the largest
            class). For a class with fewer than n images, all of its images come first and the rest of its row must be
            ignored: mask, bool (C', n), is True where an image counts. The mask is None if no class is that small.
        """
        index, valid = self.store.class_table
        if classes is None:
            classes = torch.arange(len(index), device=index.device)
        else:
            classes = classes.to(index.device)
            index, valid = index[classes], valid[classes]
        n = min(self.batch_real, index.shape[1])
        draws = rng.bits(self.seed, "matching", self.iteration, classes[:, None], index)
        # Draws are never negative, so the filler positions past a class's end sort last.
        chosen = draws.masked_fill_(~valid, -1).topk(n, dim=1).indices
        images = self._take(index.gather(1, chosen))
        if self.store.smallest_class >= n:  # the usual case, known without synchronizing with the device
            return images, None
        return images, valid[:, :n]

    def random_batches(self, network_id: int, steps: int) -> tuple[Tensor, Tensor]:
        """Draw random batches over all classes for training one network of the pool.

        The batches are those of a shuffled loader that drops its last incomplete batch: no image is repeated within a
        batch or within a pass over the images. Batch s does not depend on ``steps``.

        Args:
            network_id: Number of the network.
            steps: Number of batches.

        Returns:
            ``(images, labels)``: uint8 (steps, B, ch, H, W) and int64 (steps, B), B = min(pool_batch, N).
        """
        n = len(self.store)
        size = min(self.pool_batch, n)
        per_pass = n // size
        passes = math.ceil(steps / per_pass)
        device = self.store.images.device
        epoch = torch.arange(passes, device=device)[:, None]
        draws = rng.bits(self.seed, "plain", self.iteration, network_id, epoch, torch.arange(n, device=device))
        # The largest draws, in order, are the start of a random permutation; this is cheaper than sorting all draws.
        chosen = draws.topk(min(steps, per_pass) * size, dim=1).indices
        chosen = chosen.reshape(-1, size)[:steps]
        return self._take(chosen), self.store.labels[chosen]

    def _take(self, index: Tensor) -> Tensor:
        # index_select copies whole images; indexing with a matrix is several times slower on CPUs.
        return self.store.images.index_select(0, index.reshape(-1)).unflatten(0, index.shape)


class Iterations:
    """The loader of the training loop. It yields iteration numbers, since the images are drawn on the device.

    Its state is empty, because a resumed trainer knows how many numbers it has taken. Having a state at all tells
    Lightning that a run can be resumed at any iteration.

    Args:
        count: Number of iterations.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: there is no state to load."""


class InOrder:
    """Batches of a split in its stored order, sliced from one tensor.

    Args:
        data: The split.
        batch_size: Images per batch; the last batch may have fewer.
    """

    def __init__(self, data: LabeledImages, batch_size: int) -> None:
        self.data = data
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(images, labels)``: uint8 (B, ch, H, W) and int64 (B,)."""
        return zip(self.data.images.split(self.batch_size), self.data.labels.split(self.batch_size), strict=True)
