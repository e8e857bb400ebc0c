"""Several networks of one architecture, trained side by side on one set."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacon_pl import rng
from bacon_pl.data import DatasetMeta, normalize
from bacon_pl.data.images import denormalize
from bacon_pl.distributed import all_reduce_sum, broadcast, own_share
from bacon_pl.errors import BaconError
from bacon_pl.learners.numbers import check_epochs, written
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.training_set import TrainingSet
from bacon_pl.networks import Network, StatelessNetwork, resolve_acceleration
from bacon_pl.partition import cut_out

if TYPE_CHECKING:  # teachers are learners themselves
    from bacon_pl.learners.teachers import Teacher


class Learners(nn.Module):
    """Trains ``recipe.num_networks`` fresh networks on a training set.

    Network k's initial weights, batches, augmentation and dropped units depend on (seed, k) and the step alone. The
    networks take their steps together: step s is step s of every network. Several processes share the networks out;
    every process ends with all of them.

    :meth:`fit` trains them where they are; it is not called ``train``, which modules have for their mode. Whoever has a
    loop of his own calls, for each step, :meth:`schedule`, :meth:`descend` and the optimizer.

    Args:
        training_set: What they learn from.
        recipe: How they learn.
        meta: The dataset.
        seed: Seed of every draw.
        teacher: Where the labels come from if ``recipe.soft_labels`` is set.
        numbers: The networks trained, by number; by default the first ``recipe.num_networks``. On a CPU a network's
            bits are the same whichever others there are.

    Attributes:
        name: Name of the training set.
        storage_bytes: Bytes of one network's images at one byte a value, as they are stored.
        factor: Tiles per side of a stored image that batches are cut out of.
        networks: The networks, K of them.
        epoch_loss: (K, epochs): mean training loss of every epoch, of this process's networks.
        snapshots: The networks' parameters and buffers by name, on the CPU, by the epochs done by then and the
            network's number; see :meth:`fit`.

    Raises:
        BaconError: There is a teacher and no soft labels, or the other way round.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    epoch_loss: Tensor

    def __init__(
        self,
        training_set: TrainingSet,
        recipe: Recipe,
        meta: DatasetMeta,
        seed: int = 0,
        teacher: Teacher | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if (recipe.soft_labels is None) != (teacher is None):
            raise BaconError("a teacher is needed where, and only where, the recipe has soft labels.")
        self.name = training_set.name
        self.storage_bytes = training_set.storage_bytes
        self.factor = training_set.factor
        self.recipe = recipe
        self.meta = meta
        self.seed = seed
        self.teacher = teacher
        for name in ("images", "labels", "index"):
            self.register_buffer(name, getattr(training_set, name), persistent=False)
        self.numbers = tuple(range(recipe.num_networks) if numbers is None else numbers)
        networks = []
        for k in self.numbers:
            with rng.seeded(seed, "evaluation network", k):
                networks.append(recipe.network(meta.channels, meta.size, meta.num_classes))
        self.networks = nn.ModuleList(networks)
        self.register_buffer("epoch_loss", torch.zeros(len(networks), recipe.epochs), persistent=False)
        self.snapshots: dict[int, list[dict[str, Tensor]]] = {}
        self._orders: dict[int, tuple[int, Tensor]] = {}
        self._fitted = False
        self._fresh = written(self.networks)

    @cached_property
    def _network(self) -> StatelessNetwork:
        """The architecture that all networks share, compiled where their training is long enough to repay it."""
        template = copy.deepcopy(self.networks[0])
        assert isinstance(template, Network)
        images = self.recipe.num_networks * self.recipe.epochs * self.index.shape[1]
        shape = (self.meta.channels, *self.meta.size)
        plan = resolve_acceleration(self.recipe.acceleration, template, shape, images, self.device)
        return StatelessNetwork(template, plan)

    @property
    def device(self) -> torch.device:
        """Where images and networks are."""
        return self.index.device

    @property
    def share(self) -> range:
        """Which of ``networks`` this process trains and tests."""
        return own_share(len(self.networks))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training set; the last may be smaller."""
        return -(-self.index.shape[1] // self.recipe.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    # Training.

    def fit(self, snapshots: Collection[int] = ()) -> Learners:
        """Train the networks where they are; all processes of a run call this together.

        Args:
            snapshots: Numbers of epochs, in [0, epochs], after which every network's state is kept in ``snapshots``; 0
                keeps the initial ones.

        Returns:
            The learners themselves.

        Raises:
            BaconError: A snapshot is asked for that does not come, or the networks have been trained before.
        """
        check_epochs(snapshots, self.recipe.epochs)
        if self._fitted:
            raise BaconError("these learners have been trained, and fit() starts from fresh ones: make new Learners.")
        self._fitted = True
        optimizer = self.optimizer()
        with torch.enable_grad():
            self.prepare()
            for step in range(self.total_steps):
                if step % self.steps_per_epoch == 0:
                    self._keep(step // self.steps_per_epoch, snapshots)
                self.schedule(optimizer, step)
                self.descend(step)
                optimizer.step()
        self.broadcast_networks()
        self._keep(self.recipe.epochs, snapshots)
        return self

    def prepare(self) -> None:
        """Get ready to train where the networks are; all processes of a run call this together."""
        if self.teacher is not None:
            self.teacher.prepare(self.device)

    def optimizer(self) -> torch.optim.Optimizer:
        """One optimizer over all networks: their gradients never mix, so it is each network's own.

        Networks of other processes have no gradient, so its steps leave them as they are.
        """
        r = self.recipe
        if r.optimizer == "adamw":
            return torch.optim.AdamW(self.networks.parameters(), lr=r.lr, weight_decay=r.weight_decay)
        return torch.optim.SGD(self.networks.parameters(), lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay)

    def schedule(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate of a step; where the schedule is ``step``, the optimizer's state restarts half-way."""
        r = self.recipe
        for group in optimizer.param_groups:
            group["lr"] = r.lr_at(step, self.steps_per_epoch)
        if r.schedule == "step" and step == self.total_steps // 2 and r.lr_drop != 1:
            optimizer.state.clear()

    def descend(self, step: int) -> Tensor:
        """Set the gradients of this process's networks at a step; returns their losses, as :meth:`losses`."""
        losses = self.losses(step)
        parameters = [p for k in self.share for p in self.networks[k].parameters()]
        if parameters:
            # Not through backward(), where a data-parallel wrapper waits to average the processes' gradients.
            for p, gradient in zip(parameters, torch.autograd.grad(losses.sum(), parameters), strict=True):
                p.grad = gradient
        losses = losses.detach()
        own = slice(self.share.start, None, self.share.step)
        self.epoch_loss[own, step // self.steps_per_epoch] += losses / self.steps_per_epoch
        return losses

    def losses(self, step: int) -> Tensor:
        """Loss of each of this process's networks on its own augmented batch: (networks,)."""
        if not self.share:
            return self.epoch_loss.new_zeros(0)
        numbers = [self.numbers[i] for i in self.share]
        batches = (self.augmented_batch(k, step) for k in numbers)
        x, y = (torch.stack(parts) for parts in zip(*batches, strict=True))
        networks = [self.networks[k] for k in self.share]
        states = [_state(network) for network in networks]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        keys = [(self.seed, "forward", k, step) for k in numbers]
        logits = self._network.side_by_side(stacked, x, keys=keys)[1]
        for i, network in enumerate(networks):  # running statistics, where there are any
            for name, buffer in network.named_buffers():
                buffer.copy_(stacked[name][i])
        if self.recipe.soft_labels is not None:
            assert self.teacher is not None
            taught = self.teacher.logits(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.recipe.soft_labels.losses(logits, taught)
        if y.ndim == 3:
            y = y.transpose(1, 2)
        return F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)

    def augmented_batch(self, network_id: int, step: int) -> tuple[Tensor, Tensor]:
        """A network's batch of a step (see :meth:`batch`), augmented; labels that were mixed are (B, C)."""
        x, y = self.batch(network_id, step)
        augment, where = self.recipe.augment, (network_id, step)
        if augment.on_pixels:
            pixels = denormalize(x, self.meta.mean, self.meta.std)
            pixels = augment.per_image(pixels, self.seed, "evaluation augment", *where)
            x = self.normalize(pixels)
        else:
            x = augment.per_image(x, self.seed, "evaluation augment", *where)
        if self.recipe.mixing is None:
            return x, y
        return self.recipe.mixing.mix(x, y, self.meta.num_classes, self.seed, "evaluation mixing", *where)

    def batch(self, network_id: int, step: int) -> tuple[Tensor, Tensor]:
        """Gather a network's batch of a step: normalized images (B, ch, H, W) and labels (B,)."""
        epoch, part = divmod(step, self.steps_per_epoch)
        if self._orders.get(network_id, (-1,))[0] != epoch:
            n = self.index.shape[1]
            order = rng.permutation(n, self.seed, "evaluation order", network_id, epoch, device=self.device)
            self._orders[network_id] = (epoch, order)
        size = self.recipe.batch_size
        chosen = self._orders[network_id][1][part * size : (part + 1) * size]
        position = self.index[network_id % len(self.index)][chosen]
        tile = None
        if self.factor > 1:
            tile, position = position // len(self.images), position % len(self.images)
        x = self.images[position]
        if x.dtype == torch.uint8:
            x = self.normalize(x)
        if tile is not None:
            x = cut_out(x, tile, self.factor)
        return x, self.labels[position]

    def normalize(self, images: Tensor) -> Tensor:
        """Map images (..., ch, H, W), uint8 or pixels in [0, 1], to normalized pixel space."""
        dtype = next(self.networks.parameters()).dtype
        if images.dtype != torch.uint8:
            images = images * 255
        return normalize(images, self.meta.mean, self.meta.std, dtype)

    @torch.no_grad()
    def broadcast_networks(self) -> None:
        """Give every process all networks as the one that trained them left them."""
        for k, network in enumerate(self.networks):
            state = [*network.parameters(), *network.buffers()]
            for dtype in {t.dtype for t in state}:
                broadcast([t for t in state if t.dtype == dtype], k % self.share.step)

    def _keep(self, epochs: int, snapshots: Collection[int]) -> None:
        """Keep the networks' states, if the epochs done by now are among those asked for."""
        if epochs in snapshots:
            self.broadcast_networks()
            # A copy in any case: to("cpu") gives the parameter itself where it is there already.
            self.snapshots[epochs] = [
                {name: t.detach().to("cpu", copy=True) for name, t in _state(network).items()}
                for network in self.networks
            ]

    # Use and test.

    @torch.no_grad()
    def classify(self, network_id: int, x: Tensor) -> Tensor:
        """Classify normalized images (B, ch, H, W) by a network as it is at the moment: (B, C)."""
        self._network.template.eval()
        logits = self._network(_state(self.networks[network_id]), x)[1]
        self._network.template.train()
        return logits

    @torch.no_grad()
    def embed(self, images: Tensor, network_id: int = 0, batch_size: int = 500) -> Tensor:
        """Embed images by a network as it is at the moment.

        Args:
            images: (N, ch, H, W), uint8 or normalized, where the networks are.
            network_id: Number of the network.
            batch_size: Images embedded at once.

        Returns:
            (N, d).
        """
        model = self.networks[network_id].eval()
        assert isinstance(model, Network)
        parts = (self.normalize(x) if x.dtype == torch.uint8 else x for x in images.split(batch_size))
        return torch.cat([model.embed(x) for x in parts])

    @torch.no_grad()
    def hits(self, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Count the images that networks, as they are at the moment, take for what they are.

        Args:
            images: (N, ch, H, W), uint8 or pixels in [0, 1], where the networks are.
            labels: (N,).
            batch_size: Images classified at once.

        Returns:
            (K,) int64: of this process's networks; 0 for the others.
        """
        hits = torch.zeros(len(self.networks), dtype=torch.int64, device=self.device)
        for batch, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            x = self.normalize(batch)
            for k in self.share:
                hits[k] += (self.classify(k, x).argmax(1) == y).sum()
        return hits

    def accuracies(self, images: Tensor, labels: Tensor, batch_size: int = 500) -> Tensor:
        """Test the networks as they are at the moment; all processes of a run call this together.

        Args:
            images: As :meth:`hits` takes them, like what follows.
            labels: Their labels.
            batch_size: Images classified at once.

        Returns:
            Top-1 accuracy of every network in percent: (K,).

        Raises:
            BaconError: No network has been trained.
        """
        if self.share and written(self.networks) == self._fresh:
            raise BaconError("these networks have not been trained: call fit() before accuracies().")
        hits = self.hits(images, labels, batch_size)
        all_reduce_sum([hits])
        return 100 * (hits / len(labels))


def _state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())
