"""Training sets of evaluation networks: a distilled set, selected real images, or all real images, in one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.data.draw import check_enough, draw_real
from bacon_pl.distilled_set import DistilledSet, StoredLabels
from bacon_pl.distilled_set.labels import LabelKind
from bacon_pl.distributed import all_reduce_sum, own_share
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.learners.soft_labels import Source
from bacon_pl.partition import Scaling, Upscaling
from bacon_pl.selection import Embed, Start, canvases, choose, herding, k_center

Coreset = Literal["herding", "k_center"]


@dataclass(frozen=True)
class TrainingSet:
    """Labeled images, with the selection of images that each network is trained on.

    Attributes:
        name: Name of the set in reports.
        images: (N, ch, H, W), uint8, or floating-point numbers in normalized pixel space.
        labels: (N,), int64.
        index: (K, n), int64, positions in ``images``; network k uses row k % K.
        storage_bytes: Bytes of the stored images of one network at one byte per value.
        factor: Tiles per side of each image. If it is not 1, networks are trained on the tiles, which are cut out and
            scaled up for each batch. Positions then count tiles: position p is tile p // N of image p % N.
        upscaling: How tiles are scaled up.
        soft_labels: Soft labels that the images bring along, (positions, C), float16, or None.
        label_kind: ``logits`` or ``probabilities``; None without soft labels.
        batch_labels: Labels that were stored for every augmented batch of the images, or None.
    """

    name: str
    images: Tensor
    labels: Tensor
    index: Tensor
    storage_bytes: int
    factor: int = 1
    soft_labels: Tensor | None = None
    label_kind: LabelKind | None = None
    batch_labels: StoredLabels | None = None
    upscaling: Upscaling = "bilinear"

    def brings(self, source: Source) -> bool:
        """Whether the images bring along soft labels from this source, so that no teacher is needed."""
        own = {"teacher": None, "stored": self.soft_labels, "folder": self.batch_labels}
        return own[source] is not None

    @property
    def canvases(self) -> int:
        """Number of stored images of one network, whose tiles it may be trained on."""
        return self.storage_bytes // self.images[0].numel()

    @classmethod
    def distilled(
        cls, distilled: DistilledSet, cut_tiles: bool = True, batch_labels: StoredLabels | None = None
    ) -> TrainingSet:
        """Create a training set of the images of a distilled set with its soft labels, if it has any.

        Args:
            distilled: The set.
            cut_tiles: Whether the images are the tiles of its canvases, cut out and scaled up, and not the canvases.
            batch_labels: Labels that were stored for every augmented batch of its images, class by class.

        Raises:
            BaconError: The canvases are to be kept whole, but their soft labels are those of tiles.
        """
        if cut_tiles:
            (images, labels), soft = distilled.expanded(), distilled.expanded_soft_labels()
        else:
            images, labels, soft = distilled.images, distilled.labels, distilled.soft_labels
            if soft is not None and soft.ndim == 3:
                raise BaconError(
                    "the set's soft labels are those of tiles, but --evaluation.cut_tiles false trains networks on "
                    "whole canvases: leave that option out."
                )
        index = torch.arange(len(images))[None]
        own = soft, distilled.label_kind, batch_labels
        return cls("distilled", images, labels, index, distilled.pixel_bytes, 1, *own)

    @classmethod
    def random(cls, store: LabeledImages, ipc: int, draws: int, seed: int) -> TrainingSet:
        """Create a training set of random real images, ``ipc`` per class, with a separate draw for each network.

        Args:
            store: The real training images.
            ipc: Images per class.
            draws: Number of draws.
            seed: Seed of the draws.

        Raises:
            BaconError: A class has fewer than ``ipc`` images.
        """
        check_enough(store, ipc, remedy("random"))
        index = torch.stack([draw_real(store, ipc, 1, seed, "random real", k).flatten() for k in range(draws)])
        return cls("random", store.images, store.labels, index, index.shape[1] * store.images[0].numel())

    @classmethod
    def tiles(
        cls,
        store: LabeledImages,
        meta: DatasetMeta,
        ipc: int,
        factor: int,
        scaling: Scaling,
        draws: int,
        seed: int,
        upscaling: Upscaling = "bilinear",
    ) -> TrainingSet:
        """Create a training set of canvases with factor² smaller real images, ``ipc`` per class, without distillation.

        There is a separate draw for each network. Draw k consists of the initial images of a run with the seed
        ``derive(seed, "tiles", k)``.

        Args:
            store: The real training images.
            meta: Description of the dataset.
            ipc: Canvases per class.
            factor: Tiles per side of a canvas.
            scaling: How real images are scaled down to tiles.
            draws: Number of draws.
            seed: Seed of the draws.
            upscaling: How tiles are scaled up for networks.

        Raises:
            BaconError: A class has fewer than ``ipc`` images, or the factor does not fit the size.
        """
        check_enough(store, ipc, remedy("tiles"))
        start = Start(scaling=scaling)
        each = [canvases(store, meta, ipc, factor, start, rng.derive(seed, "tiles", k)) for k in range(draws)]
        n = len(each[0])  # canvases per draw; the canvases of all draws are concatenated
        tile = torch.arange(factor**2)[:, None] * (draws * n)
        index = torch.stack([(tile + k * n + torch.arange(n)).flatten() for k in range(draws)])
        labels = torch.arange(meta.num_classes).repeat_interleave(ipc).repeat(draws)
        device = store.images.device
        stored = torch.cat(each), labels.to(device), index.to(device), each[0].numel()
        return cls("tiles", *stored, factor, upscaling=upscaling)

    @classmethod
    def coreset(cls, method: Coreset, store: LabeledImages, ipc: int, embeds: Sequence[Embed]) -> TrainingSet:
        """Create a training set of real images selected in a feature space, ``ipc`` per class.

        There is a separate selection for each network. Several processes share the work; all of them must call this.

        Args:
            method: ``herding`` (preserves the mean of the class) or ``k_center`` (covers the class).
            store: The real training images.
            ipc: Images per class.
            embeds: One function per selection from uint8 images (B, ch, H, W) to embeddings (B, d).

        Raises:
            BaconError: A class has fewer than ``ipc`` images, or there is no such method.
        """
        check_enough(store, ipc, remedy("herding and k_center"))
        rules = {"herding": herding, "k_center": k_center}
        if method not in rules:
            raise unknown_name("coreset", str(method), rules)
        select = rules[method]
        index = torch.zeros(len(embeds), store.num_classes * ipc, dtype=torch.int64, device=store.images.device)
        for k in own_share(len(embeds)):
            index[k] = choose(store, ipc, select, embeds[k]).flatten()
        all_reduce_sum([index])
        return cls(method, store.images, store.labels, index, index.shape[1] * store.images[0].numel())

    @classmethod
    def whole(cls, store: LabeledImages) -> TrainingSet:
        """Create a training set of all real images."""
        return cls("whole", store.images, store.labels, torch.arange(len(store))[None], store.images.numel())


def remedy(names: str) -> str:
    """Return advice for the case that a dataset has too few images for some of the baselines."""
    return f"leave {names} out of --baselines"
