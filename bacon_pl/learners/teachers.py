"""Networks trained on the real images: teachers, which label images, and feature spaces for selection.

Both are kept as files (see :func:`~bacon_pl.learners.trained_networks`), so that they are trained once.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.configured import plain
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.errors import BaconError
from bacon_pl.learners import network_files as files
from bacon_pl.learners.fingerprint import TRAINED, described
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.teacher_settings import TeacherSettings
from bacon_pl.learners.tested import check_above_chance, hits, tested
from bacon_pl.learners.trained import TrainedNetworks, trained_networks
from bacon_pl.networks import Acceleration, Network, NetworkFactory, StatelessNetwork, Work, resolve_acceleration
from bacon_pl.networks.base import state_of
from bacon_pl.selection import Embed


class Teacher:
    """A network that labels images. It is trained on the real images, or read, when it is first needed.

    Args:
        recipe: How it is trained, for ``recipe.epochs`` epochs; if there are ``recipe.soft_labels``, this is the recipe
            of its students, and they define how the teacher differs.
        store: The real training images, and no others.
        meta: Description of the dataset.
        seed: Seed of the teacher's weights, batches and augmentation.
        number: Number of the network among those of the same recipe and seed.
        count: How many of these are needed in all; they are trained together.
        file: A file to read instead of training; see :class:`TeacherSettings`.

    Attributes:
        network: The network in evaluation mode, without gradients of its weights; there once it is prepared.
        accuracy: Test accuracy in percent; None as long as :meth:`test` has not been called.
    """

    network: Network

    def __init__(
        self,
        recipe: Recipe,
        store: LabeledImages,
        meta: DatasetMeta,
        seed: int = 0,
        *,
        number: int = 0,
        count: int = 1,
        file: str | None = None,
    ) -> None:
        purpose = TRAINED
        if recipe.soft_labels is not None:
            soft, purpose = recipe.soft_labels, "teacher"
            network = soft.network or recipe.network
            recipe = _for_steps(
                replace(recipe, network=network, num_networks=1, soft_labels=None, test_resize=None), soft.steps, store
            )
        self.recipe = recipe
        self.meta = meta
        self.accuracy: float | None = None
        self._store, self._seed, self._purpose = store, seed, purpose
        self._number, self._count = number, count
        self._file = None if file is None else os.path.expanduser(file)
        self._trained: TrainedNetworks | None = None
        self._model: StatelessNetwork | None = None
        self._fingerprint = ""

    def prepare(self, device: torch.device | str) -> None:
        """Train or read the teacher if this has not been done; all processes of a run must call this together.

        Args:
            device: Where it labels images.

        Raises:
            BaconError: Its file cannot be read, or does not know the training images.
        """
        device = torch.device(device)
        if self._model is not None:
            self.network.to(device)  # it may be used in another run of an evaluation
            return
        meta, recipe = self.meta, self.recipe
        template = _built(recipe.network, meta)
        if self._file is None:
            self._trained = trained_networks(
                *(self._store, meta, recipe),
                seed=self._seed,
                count=self._count,
                device=device,
                purpose=self._purpose,
            )
            state = self._trained.state(self._number)
            self._fingerprint = self._trained.fingerprint
        else:
            state = files.read_plain(self._file, files.shapes(state_of(template)))
            self._fingerprint = f"{files.checksum(state):08x}"
        template.load_state_dict(state)
        self.network = template.to(device)
        images = recipe.epochs * len(self._store)
        shape, work = (meta.channels, *meta.size), Work(1, recipe.batch_size)
        plan = resolve_acceleration(recipe.acceleration, template, shape, images, device, work)
        self._model = StatelessNetwork(template, plan)
        template.eval().requires_grad_(False)
        if self._file is not None:
            check_above_chance(self.logits, self._store, meta, self._file)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Compute the logits (B, C) of normalized images (B, ch, H, W) on its device, in their type."""
        if self._model is None:
            raise BaconError("a teacher must be prepared before it labels images: call prepare(device).")
        with self._model.plan.flags():
            found: Tensor = self._model(state_of(self.network), x.float())[1]
        return found.to(x.dtype)

    def test(self, images: LabeledImages) -> float:
        """Measure its test accuracy; that of a trained one is kept beside it and read there the next time.

        The accuracy is told, and never used for any choice. All processes of a run must call this together, after
        :meth:`prepare`.

        Args:
            images: The test images.

        Returns:
            Accuracy in percent.
        """
        last = self.recipe.epochs
        measure = partial(hits, self.logits, images, self.meta)
        if self._trained is None:
            self.accuracy = 100 * measure() / len(images)
        else:
            self.accuracy = tested(self._trained, self._number, last, images, measure)
        return self.accuracy

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, where the network is."""
        return state_of(self.network)

    @property
    def bytes(self) -> int:
        """Bytes of its parameters and buffers as float32, which count as storage if it labels images on the fly."""
        network = self.network if self._model is not None else _built(self.recipe.network, self.meta)
        return 4 * sum(t.numel() for t in state_of(network).values() if t.is_floating_point())

    @property
    def origin(self) -> dict[str, Any]:
        """All that its labels depend on, as JSON values, whether it is prepared or not."""
        file = None if self._file is None else files.digest_of(self._file)
        own = described(self._store, self.meta, self.recipe, self._seed, self._purpose)
        return {**own, "number": self._number, "file": file}

    def described(self) -> dict[str, Any]:
        """Return what is told of it with results, as JSON values, once it is prepared."""
        trained = self._file is None
        return {
            "network": plain(self.recipe.network),
            "file": self._file,
            "epochs": self.recipe.epochs if trained else None,
            "seed": self._seed if trained else None,
            "number": self._number if trained else None,
            "fingerprint": self._fingerprint,
            "test_accuracy": self.accuracy,
            "bytes": self.bytes,
        }


def teachers(
    settings: TeacherSettings,
    store: LabeledImages,
    meta: DatasetMeta,
    network: NetworkFactory,
    acceleration: Acceleration = "auto",
) -> list[Teacher]:
    """Return teachers, which are trained or read when they are prepared.

    Args:
        settings: How many, and how they are trained.
        store: The real training images, and no others.
        meta: Description of the dataset.
        network: Their architecture if the settings name none.
        acceleration: See :class:`Recipe`.
    """
    recipe = settings.recipe(settings.network or network, acceleration)
    return [
        Teacher(recipe, store, meta, settings.seed, number=number, count=settings.count, file=settings.file)
        for number in range(settings.count)
    ]


def feature_spaces(recipe: Recipe, store: LabeledImages, meta: DatasetMeta, seed: int) -> list[Embed]:
    """Return the embedding functions of ``recipe.num_networks`` networks briefly trained on the real images.

    All processes of a run must call this together. The networks are trained on the device of ``store`` if they are not
    kept already.

    Args:
        recipe: Training recipe, whose ``coreset_steps`` set the length of the training.
        store: The real training images.
        meta: Description of the dataset.
        seed: Seed; feature space k depends on (seed, k) alone.

    Returns:
        Functions from uint8 images (B, ch, H, W) to embeddings (B, d).
    """
    brief = _for_steps(replace(recipe, soft_labels=None), recipe.coreset_steps, store)
    device = store.images.device
    count = recipe.num_networks
    found = trained_networks(store, meta, brief, seed=seed, count=count, device=device, purpose="feature spaces")
    spaces: list[Embed] = []
    for number in range(count):
        network = _built(brief.network, meta)
        network.load_state_dict(found.state(number))
        spaces.append(partial(_embed, network.to(device).eval(), meta))
    return spaces


@torch.no_grad()
def _embed(network: Network, meta: DatasetMeta, images: Tensor, batch_size: int = 500) -> Tensor:
    """Embed images (N, ch, H, W), uint8 or normalized, on the network's device: (N, d)."""
    parts = (
        meta.normalize(x, torch.float32) if x.dtype == torch.uint8 else x.float() for x in images.split(batch_size)
    )
    return torch.cat([network.embed(x) for x in parts])


def _built(factory: NetworkFactory, meta: DatasetMeta) -> Network:
    """Build a network of float32 numbers, whose weights are going to be replaced."""
    with rng.seeded(0, "built"):
        return factory(meta.channels, meta.size, meta.num_classes).float()


def _for_steps(recipe: Recipe, steps: int, store: LabeledImages) -> Recipe:
    """Change the epochs of a recipe such that training on all real images takes at least the given number of steps."""
    whole = -(-len(store) // recipe.batch_size)
    return replace(recipe, epochs=-(-steps // min(whole, recipe.epoch_steps or whole)))
