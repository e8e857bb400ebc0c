"""Several networks of one architecture, trained side by side on one set."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from bacon_pl import rng
from bacon_pl.data import DatasetMeta
from bacon_pl.distributed import all_reduce_sum, broadcast, own_share, world_size
from bacon_pl.errors import BaconError, one_line
from bacon_pl.learners.batches import Batches
from bacon_pl.learners.numbers import check_epochs, written
from bacon_pl.learners.optimizers import make_optimizer
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.training_set import TrainingSet
from bacon_pl.networks import Network, StatelessNetwork, Work, picks, resolve_acceleration
from bacon_pl.networks.base import state_of

if TYPE_CHECKING:  # teachers are learners themselves
    from bacon_pl.learners.labeler import Labeler


class Learners(Batches):
    """Trains ``recipe.num_networks`` freshly initialized networks on a training set.

    The initial weights, batches, augmentation and dropout of network k depend on (seed, k) and the step alone. The
    networks take their steps together: step s is step s of every network. Several processes divide the networks among
    themselves; at the end, every process has all of them.

    :meth:`fit` trains the networks on their current device. (``train`` is the name of a method of modules that sets
    their mode.) A custom training loop calls :meth:`schedule`, :meth:`descend` and the optimizer for each step.

    Args:
        training_set: Images and labels to train on.
        recipe: Training recipe.
        meta: Description of the dataset.
        seed: Seed of every draw.
        teacher: Source of the labels; required if, and only if, ``recipe.soft_labels`` is set and the labels are not
            those that ``training_set`` brings along.
        numbers: Numbers of the networks to train; by default 0 to ``recipe.num_networks`` - 1. On a CPU, a network has
            the same bits whichever others are trained with it.

    Attributes:
        name: Name of the training set.
        storage_bytes: Bytes of the stored images of one network at one byte per value.
        factor: Tiles per side of a stored image; batches consist of the tiles.
        networks: The K networks.
        steps_taken: Number of steps that the networks have been trained for.
        epoch_loss: (K, epochs), mean training loss of every epoch for the networks of this process.
        picks: What was picked by measuring, with the acceleration ``measured`` on a GPU.
        snapshots: Parameters and buffers of the networks by name, on the CPU. The keys are numbers of finished epochs,
            and the values have one entry per network; see :meth:`fit`.

    Raises:
        BaconError: There is a teacher but the recipe needs none, or vice versa; or test images cannot be enlarged as
            the recipe says.
    """

    epoch_loss: Tensor

    def __init__(
        self,
        training_set: TrainingSet,
        recipe: Recipe,
        meta: DatasetMeta,
        seed: int = 0,
        teacher: Labeler | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(training_set, recipe, meta, seed)
        if self.needs_teacher != (teacher is not None):
            raise BaconError(
                "a teacher is needed where, and only where, the recipe has soft labels that are not stored."
            )
        recipe.check_fits(meta)
        self.teacher = teacher
        self.numbers = tuple(range(recipe.num_networks) if numbers is None else numbers)
        networks = []
        for k in self.numbers:
            with rng.seeded(seed, "evaluation network", k):
                networks.append(recipe.network(meta.channels, meta.size, meta.num_classes))
        self.networks = nn.ModuleList(networks)
        self.register_buffer("epoch_loss", torch.zeros(len(networks), recipe.epochs), persistent=False)
        self.steps_taken = 0
        self.snapshots: dict[int, list[dict[str, Tensor]]] = {}
        self.picks: list[picks.Pick] = []
        self._fitted = False
        self._fresh = written(self.networks)

    @cached_property
    def _network(self) -> StatelessNetwork:
        """The architecture shared by all networks, compiled if their training is long enough for it to pay off."""
        try:
            return self._stateless()
        except AttributeError as error:  # as it is, the module would say that it has no `_network`
            name = type(self.networks[0]).__name__
            raise BaconError(f"the network {name} cannot be run ({one_line(error).rstrip('.')}).") from error

    def _stateless(self) -> StatelessNetwork:
        template = copy.deepcopy(self.networks[0])
        assert isinstance(template, Network)
        images = self.recipe.num_networks * self.recipe.epochs * self.index.shape[1]
        shape = (self.meta.channels, *self.meta.size)
        work = Work(-(-len(self.networks) // world_size()), min(self.recipe.batch_size, self.index.shape[1]))
        with picks.holding(self.picks):
            plan = resolve_acceleration(self.recipe.acceleration, template, shape, images, self.device, work)
        return StatelessNetwork(template, plan)

    @property
    def device(self) -> torch.device:
        """Device of the images and networks."""
        return self.index.device

    @property
    def share(self) -> range:
        """Indices into ``networks`` of those that this process trains and tests."""
        return own_share(len(self.networks))

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    # Training.

    def fit(self, snapshots: Collection[int] = ()) -> Learners:
        """Train the networks on their current device; all processes of a run must call this together.

        Args:
            snapshots: Numbers of epochs, in [0, epochs], after which the state of every network is stored in the
                attribute ``snapshots``; 0 stores the initial state.

        Returns:
            This object.

        Raises:
            BaconError: The number of a snapshot is out of range, or the networks have already been trained.
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
        """Prepare training on the networks' current device; all processes of a run must call this together."""
        if self.recipe.acceleration == "measured":
            _ = self._network  # all processes pick together, those without a network of their own, too
        if self.teacher is not None:
            self.teacher.prepare(self.device)
            if self.recipe.soft_labels is not None and self.recipe.soft_labels.fixed:
                self.label_once(self.teacher.logits)

    def optimizer(self) -> torch.optim.Optimizer:
        """Create one optimizer for all networks. Their gradients never mix, so it acts as one optimizer per network.

        The networks of other processes have no gradients, so the optimizer does not change them.
        """
        return make_optimizer(self.recipe, self.networks.parameters())

    def schedule(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate of a step (see :meth:`Recipe.lr_at`).

        The schedule ``step``, and ``milestones`` if the recipe says so, also resets the optimizer's state at a drop.
        """
        r = self.recipe
        for group in optimizer.param_groups:
            group["lr"] = r.lr_at(step, self.steps_per_epoch)
        if r.resets_at(step, self.steps_per_epoch):
            optimizer.state.clear()

    def descend(self, step: int) -> Tensor:
        """Set the gradients of this process's networks for a step and return their losses as :meth:`losses` does."""
        with self._network.plan.flags():
            return self._descend(step)

    def _descend(self, step: int) -> Tensor:
        losses = self.losses(step)
        networks = [list(self.networks[k].parameters()) for k in self.share]
        parameters = [p for own in networks for p in own]
        if parameters:
            # Not by backward(), where a data-parallel wrapper would wait to average the gradients of all processes.
            gradients = torch.autograd.grad(losses.sum(), parameters)
            if self.recipe.flat is not None:
                gradients = self.recipe.flat.gradients(networks, gradients, lambda: self.losses(step).sum())
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient
        losses = losses.detach()
        own = slice(self.share.start, None, self.share.step)
        self.epoch_loss[own, step // self.steps_per_epoch] += losses / self.steps_per_epoch
        self.steps_taken = step + 1
        return losses

    def losses(self, step: int) -> Tensor:
        """Compute the loss of each of this process's networks on its own augmented batch: (number of networks,)."""
        if not self.share:
            return self.epoch_loss.new_zeros(0)
        numbers = [self.numbers[i] for i in self.share]
        x, y = self.augmented_batches(numbers, step)
        networks = [self.networks[k] for k in self.share]
        states = [state_of(network) for network in networks]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        keys = [(self.seed, "forward", k, step) for k in numbers]
        try:
            logits = self._network.side_by_side(stacked, x, keys=keys)[1]
        except ValueError as error:
            if x.shape[1] > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise BaconError(
                f"batches of {self.recipe.batch_size} of {self.index.shape[1]} images leave a last one of one image, "
                f"which batch norm in {type(self.networks[0]).__name__} cannot take: give another batch size, such as "
                f"--evaluation.batch_size {self.recipe.batch_size + 1}."
            ) from error
        for i, network in enumerate(networks):  # running statistics, if there are any
            for name, buffer in network.named_buffers():
                buffer.copy_(stacked[name][i])
        if (soft := self.recipe.soft_labels) is not None:
            if soft.fixed:
                return soft.losses_of(logits, y)
            taught = self._taught(x) if self.stored is None else y
            return soft.losses(logits, taught.to(logits.dtype))
        if y.ndim == 3:
            y = y.transpose(1, 2)
        return F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)

    def _taught(self, x: Tensor) -> Tensor:
        """Return the teacher's logits (K, B, C) of the batches (K, B, ch, H, W)."""
        soft = self.recipe.soft_labels
        assert self.teacher is not None and soft is not None
        if x.stride(0) == 0:  # all networks have the same batch, which is labeled once
            taught = self.teacher.logits(x[0]).expand(len(x), -1, -1)
        else:
            taught = self.teacher.logits(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return taught.half() if soft.half else taught

    @torch.no_grad()
    def broadcast_networks(self) -> None:
        """Send every network from the process that trained it to all others."""
        for k, network in enumerate(self.networks):
            state = [*network.parameters(), *network.buffers()]
            for dtype in dict.fromkeys(t.dtype for t in state):  # a set has another order in every process
                broadcast([t for t in state if t.dtype == dtype], k % self.share.step)

    def _keep(self, epochs: int, snapshots: Collection[int]) -> None:
        """Store the state of the networks if a snapshot after this number of epochs was requested."""
        if epochs in snapshots:
            self.broadcast_networks()
            # Always a copy: to("cpu") would return the parameter itself if it is already on the CPU.
            self.snapshots[epochs] = [
                {name: t.detach().to("cpu", copy=True) for name, t in state_of(network).items()}
                for network in self.networks
            ]

    # Use and test.

    @torch.no_grad()
    def classify(self, network_id: int, x: Tensor) -> Tensor:
        """Compute the logits (B, C) of a network in its current state for normalized images (B, ch, H, W)."""
        self._network.template.eval()
        with self._network.plan.flags():
            logits = self._network(state_of(self.networks[network_id]), x)[1]
        self._network.template.train()
        return logits

    def resized(self, x: Tensor) -> Tensor:
        """Return test images (B, ch, H, W) as the recipe tests them: as they are, or the center of enlarged ones."""
        if self.recipe.test_resize is None:
            return x
        enlarged = functional.resize(x, [self.recipe.test_resize], antialias=True)
        return functional.center_crop(enlarged, list(x.shape[-2:]))

    @torch.no_grad()
    def embed(self, images: Tensor, network_id: int = 0, batch_size: int = 500) -> Tensor:
        """Compute the embeddings of images with a network in its current state.

        Args:
            images: (N, ch, H, W), uint8 or normalized, on the networks' device.
            network_id: Index of the network.
            batch_size: Images embedded at once.

        Returns:
            Embeddings (N, d).
        """
        model = self.networks[network_id].eval()
        assert isinstance(model, Network)
        parts = (self.normalize(x) if x.dtype == torch.uint8 else x for x in images.split(batch_size))
        return torch.cat([model.embed(x) for x in parts])

    @torch.no_grad()
    def hits(self, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Count the images that the networks classify correctly in their current state.

        Args:
            images: (N, ch, H, W), uint8 or pixels in [0, 1], on the networks' device.
            labels: (N,), int64.
            batch_size: Images classified at once.

        Returns:
            (K,), int64: counts for the networks of this process, and 0 for the others.
        """
        hits = torch.zeros(len(self.networks), dtype=torch.int64, device=self.device)
        for batch, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            x = self.resized(self.normalize(batch))
            for k in self.share:
                hits[k] += (self.classify(k, x).argmax(1) == y).sum()
        return hits

    def accuracies(self, images: Tensor, labels: Tensor, batch_size: int = 500) -> Tensor:
        """Test the networks in their current state; all processes of a run must call this together.

        Args:
            images: (N, ch, H, W), uint8 or pixels in [0, 1], on the networks' device.
            labels: (N,), int64.
            batch_size: Images classified at once.

        Returns:
            Top-1 accuracy of every network in percent, (K,).

        Raises:
            BaconError: The networks have not been trained.
        """
        if self.share and written(self.networks) == self._fresh:
            raise BaconError("these networks have not been trained: call fit() before accuracies().")
        hits = self.hits(images, labels, batch_size)
        all_reduce_sum([hits])
        return 100 * (hits / len(labels))
