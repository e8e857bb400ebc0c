"""What networks are trained on: a distilled set, chosen real images or all of them, in one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.data.draw import check_enough, draw_real
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distributed import all_reduce_sum, own_share
from bacon_pl.errors import unknown_name
from bacon_pl.partition import Scaling
from bacon_pl.selection import Embed, Start, canvases, choose, herding, k_center

Coreset = Literal["herding", "k_center"]


@dataclass(frozen=True)
class TrainingSet:
    """Labeled images and which of them each network sees.

    Attributes:
        name: What they are, for the report.
        images: (N, ch, H, W): uint8, or floating point in normalized pixel space.
        labels: (N,), int64.
        index: (K, n) int64, positions in ``images``: row k % K belongs to network k.
        storage_bytes: Bytes of one network's images at one byte a value, as they are stored.
        factor: Tiles per side of each of ``images``. Where it is not 1, networks see tiles, cut out and scaled up when
            a batch is taken, and positions count them tile-major: position p is tile p // N of image p % N.
    """

    name: str
    images: Tensor
    labels: Tensor
    index: Tensor
    storage_bytes: int
    factor: int = 1

    @classmethod
    def distilled(cls, distilled: DistilledSet) -> TrainingSet:
        """All expanded images of a distilled set."""
        images, labels = distilled.expanded()
        return cls("distilled", images, labels, torch.arange(len(images))[None], distilled.pixel_bytes)

    @classmethod
    def random(cls, store: LabeledImages, ipc: int, draws: int, seed: int) -> TrainingSet:
        """Random real images, ``ipc`` of each class, another draw for each network.

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
        cls, store: LabeledImages, meta: DatasetMeta, ipc: int, factor: int, scaling: Scaling, draws: int, seed: int
    ) -> TrainingSet:
        """What a run starts from, never distilled: factor² smaller real images in each of ``ipc`` canvases a class.

        Draw k is what a run with seed ``derive(seed, "tiles", k)`` starts from, another one for each network.

        Args:
            store: The real training images.
            meta: What they are.
            ipc: Canvases per class.
            factor: Tiles per side of a canvas.
            scaling: How real images are scaled down to tiles.
            draws: Number of draws.
            seed: Seed of the draws.

        Raises:
            BaconError: A class has fewer than ``ipc`` images, or the factor does not fit the size.
        """
        check_enough(store, ipc, remedy("tiles"))
        start = Start(scaling=scaling)
        each = [canvases(store, meta, ipc, factor, start, rng.derive(seed, "tiles", k)) for k in range(draws)]
        n = len(each[0])  # canvases of a draw; all draws' lie one after another
        tile = torch.arange(factor**2)[:, None] * (draws * n)
        index = torch.stack([(tile + k * n + torch.arange(n)).flatten() for k in range(draws)])
        labels = torch.arange(meta.num_classes).repeat_interleave(ipc).repeat(draws)
        device = store.images.device
        return cls("tiles", torch.cat(each), labels.to(device), index.to(device), each[0].numel(), factor)

    @classmethod
    def coreset(cls, method: Coreset, store: LabeledImages, ipc: int, embeds: Sequence[Embed]) -> TrainingSet:
        """Real images chosen in a feature space, ``ipc`` of each class, another choice for each network.

        Several processes share the choices; all of them must call this.

        Args:
            method: ``herding`` (the class's mean is kept) or ``k_center`` (the class is covered).
            store: The real training images.
            ipc: Images per class.
            embeds: One feature space for each choice: maps uint8 images (B, ch, H, W) to embeddings (B, d).

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
        """All real images."""
        return cls("whole", store.images, store.labels, torch.arange(len(store))[None], store.images.numel())


def remedy(names: str) -> str:
    """What may be done where a dataset has too few images for some real sets."""
    return f"leave {names} out of --baselines"
