"""Gradient matching: images that change a network's weights in training as the real ones do (DC, DSA, IDC)."""

from __future__ import annotations

from typing import Any, get_args

import torch
from jsonargparse import lazy_instance
from torch import Tensor

from bacon_pl import ranges, rng
from bacon_pl.augment import DSA, Augmentation
from bacon_pl.configured import made
from bacon_pl.data import IterationBatch
from bacon_pl.distillers.base import Distiller
from bacon_pl.distillers.batched_sgd import ImageSGD
from bacon_pl.distillers.checks import check_pixels
from bacon_pl.distillers.counted import CountedRows
from bacon_pl.distillers.distribution_matching import Space
from bacon_pl.distillers.image_optimizer import image_optimizer
from bacon_pl.distillers.matched_network import MatchedNetwork, NetworkSettings
from bacon_pl.distillers.weight_gradients import WeightGradients
from bacon_pl.distributed import all_reduce_sum, broadcast, own_share
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.networks import Acceleration, ConvNet, NetworkFactory, Work, resolve_acceleration
from bacon_pl.networks.acceleration import even_rows
from bacon_pl.networks.base import check_factory
from bacon_pl.networks.cost import activation_bytes
from bacon_pl.objectives.gradient_distance import GradientDistance, LayerwiseCosine
from bacon_pl.partition import Upscaling
from bacon_pl.selection.tiles import Start

SECOND_ORDER = 4
"""About how many times the memory of a pass is needed where its gradient is to be differentiated again."""

STATISTICS_IMAGES = 16
"""Real images of each class from which batch norms take their statistics, as published for DC."""


class GradientMatching(Distiller):
    """Optimizes a few images per class such that they give a network the gradients that the real images give it.

    DC (arXiv 2006.05929), DSA (arXiv 2102.08259) and IDC (arXiv 2205.14959) are settings of this class. One iteration
    draws real images of each class, applies the same augmentation to them and to the class's synthetic images, and
    takes a step of the images down the distance of the two gradients of the network's weights. Then the network is
    trained, on the synthetic set (DC, DSA) or on real images (IDC), and is replaced after a number of iterations.

    Networks with batch norm or dropout are matched in evaluation mode. Before, batch norms see 16 real images of each
    class in training mode, as published for DC.

    Classes do not meet in the loss, so several processes divide them among themselves, and one of them trains the
    network. On CPUs, results do not depend on the number of processes, bit for bit; on GPUs, it determines the blocks
    of classes and therefore affects the rounding.

    Args:
        ipc: Images per class.
        factor: Every synthetic image holds factor × factor smaller images; 1 keeps whole images.
        start: Initial images.
        method: Name of the method in results.
        distance: Distance of the gradients: ``LayerwiseCosine``, ``Cosine``, ``SquaredError``, ``AbsoluteError``, or a
            class of your own.
        network: Architecture of the networks.
        networks: How long a network is matched, and how it is trained in between.
        augment: Siamese augmentation: one draw per class and iteration, shared by real and synthetic images.
        synthetic_batch: Most synthetic images of a class, counting tiles, in an iteration, which are drawn anew each
            time; null takes all.
        lr: Learning rate of the images' SGD.
        momentum: Momentum of the images' SGD, in [0, 1); it is kept when the network is replaced.
        space: Space in which the learning rate applies: ``normalized``, as published for DC and DSA, or that of
            ``pixels`` in [0, 1], as for IDC.
        clamp_pixels: Clamp the images to the range between black and white whenever a new network begins, as IDC does.
        per_class_steps: Follow IDC's schedule of one step per class, computed as one equivalent step; false takes one
            plain step for all classes, as DC and DSA do.
        memory_gib: Memory in GiB for the activations of a pass. Real images are passed in chunks that fit into it and,
            on a GPU, classes in blocks. It changes results by rounding alone.
        acceleration: Whether training and the passes of the real images are compiled, and training runs in bfloat16 if
            the device supports it: ``on``, ``off``, or ``auto``, which does so if the run is long enough. ``measured``
            tries on a GPU how training is fastest there. Gradients of synthetic images, which are differentiated twice,
            are never affected.
        seed: Seed of every draw; by default that of ``seed_everything``.
        upscaling: How smaller images are scaled up; ``bicubic`` is sharper.

    Raises:
        BaconError: An argument is out of range.
    """

    free_settings = ("memory_gib", "acceleration")

    def __init__(
        self,
        ipc: int = 10,
        factor: int = 1,
        start: Start = Start(),
        method: str = "dsa",
        distance: GradientDistance = lazy_instance(LayerwiseCosine),
        network: NetworkFactory = ConvNet,
        networks: NetworkSettings = NetworkSettings(),
        augment: Augmentation = lazy_instance(DSA),
        synthetic_batch: int | None = None,
        lr: float = 0.1,
        momentum: float = 0.5,
        space: Space = "normalized",
        clamp_pixels: bool = False,
        per_class_steps: bool = False,
        memory_gib: float = 4.0,
        acceleration: Acceleration = "auto",
        seed: int | None = None,
        upscaling: Upscaling = "bilinear",
    ) -> None:
        super().__init__(ipc, factor, start, method, seed, upscaling)
        ranges.positive("--model.", lr=lr, memory_gib=memory_gib)
        ranges.below_one("--model.", momentum=momentum)
        ranges.whole("--model.", **ranges.given(synthetic_batch=synthetic_batch))
        if space not in get_args(Space):
            raise unknown_name("--model.space", str(space), get_args(Space))
        self.distance = made(distance)
        check_factory("--model.network", network)
        self.network = network
        self.networks = networks
        self.augment = made(augment)
        self.synthetic_batch = synthetic_batch
        self.lr = lr
        self.momentum = momentum
        self.space: Space = space
        self.clamp_pixels = clamp_pixels
        self.per_class_steps = per_class_steps
        self.memory_gib = memory_gib
        self.acceleration: Acceleration = acceleration

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the images' SGD, which takes all classes' steps at once if the schedule is one step per class.

        Raises:
            BaconError: The images are whitened, and a setting is about pixels.
        """
        check_pixels(self.meta, self.space, self.clamp_pixels)
        std = self.meta.std if self.space == "pixels" else None
        return ImageSGD(self.images, self.meta.num_classes, self.lr, self.momentum, self.per_class_steps, std)

    def prepare(self) -> None:
        """Create the passes and the place of the networks, on the images' device.

        Raises:
            BaconError: The network has no weights that the distance compares.
        """
        meta = self.meta
        template = self.make_network(self.network, "template")
        image = (meta.channels, *meta.size)
        names = self.distance.counted(template.named_parameters())
        work = Work(1, self.networks.batch_size)
        plan = resolve_acceleration(self.acceleration, template, image, self._images_in_all(), self.device, work)
        one = activation_bytes(template, image)
        # The memory of one class and, of the real images, the most that are passed at once.
        self._real_chunk = max(1, int(self.memory_gib * 2**30 / one))
        matched = max(self._synthetic * SECOND_ORDER, self.data.batch_real)
        self._fits = max(1, int(self.memory_gib * 2**30 / (one * matched)))
        self._counted = CountedRows()
        self.gradients = WeightGradients(template, names, plan)
        self.matched = MatchedNetwork(
            self.networks,
            lambda number: self.make_network(self.network, "network", number),
            plan,
            meta.num_classes,
            self.seed,
        )

    @property
    def _synthetic(self) -> int:
        """Synthetic images of a class that are matched in an iteration, counting tiles."""
        return min(self.ipc * self.factor**2, self.synthetic_batch or self.ipc * self.factor**2)

    def _images_in_all(self) -> float:
        """Return how many images pass through a network in the whole run, other than twice differentiated ones."""
        classes = self.meta.num_classes
        own = self.networks.synthetic_epochs * classes * self.ipc * self.factor**2
        real = self.networks.real_steps * self.data.pool_batch
        trained = (own + real) * (1 - 1 / self.networks.renew_every)
        return float((classes * self.data.batch_real + trained) * max(self.trainer.max_steps, 0))

    def extra_state(self) -> dict[str, Any]:
        """Return the state of the network."""
        return self.matched.state_dict()

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`extra_state`."""
        self.matched.load_state_dict(state)

    def iterate(self, batch: IterationBatch) -> None:
        """Run one iteration. Several processes share its work.

        Args:
            batch: Real images of the iteration.
        """
        t = batch.iteration
        self.matched.advance(t)
        if self.clamp_pixels and self.networks.is_new(t):
            image_optimizer(self).clamp(*self.meta.limits(self.images.dtype, self.device))
        if self.matched.has_batch_norm:
            self.matched.see(self._for_statistics(batch))
        distances, gradient = self.match(batch)
        self.check_finite({"distance": [distances], "gradient": [gradient]}, state_is_good=not self.clamp_pixels)
        with self.profile("update"):
            self.update(gradient)
        if self.networks.is_trained(t):
            with self.profile("train"):
                self.train_network(batch)
        self.log_terms({"distance": distances})

    # Matching.

    def match(self, batch: IterationBatch) -> tuple[Tensor, Tensor]:
        """Compare the gradients of real and synthetic images; all processes must call this together.

        Args:
            batch: Real images of the iteration.

        Returns:
            The distance of each class (C,) and the gradient of their sum by the images (C·ipc, ch, H, W).
        """
        t, state = batch.iteration, self.matched.state
        by_class = self.synthetic.by_class()
        gradient = torch.zeros_like(by_class)
        distances = gradient.new_zeros(len(gradient))
        blocks = torch.arange(len(gradient), device=self.device).split(self._block_rows())
        for block in own_share(len(blocks)):
            classes = blocks[block]
            with self.profile("real"):
                images, mask = batch.matching(classes)
                x = self.augment.siamese(self.normalize(images), classes, self.seed, "augment", t)
                real = self.gradients.real(state, x, classes, mask, self._real_chunk)
            with self.profile("synthetic"), torch.enable_grad():
                canvases = by_class[classes].requires_grad_()
                x = self.augment.siamese(self._drawn(canvases, classes, t), classes, self.seed, "augment", t)
                syn = self.gradients.synthetic(state, x, classes)
            with self.profile("backward"), torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
                found = self.distance(real, syn)
                if tuple(found.shape) != (len(classes),):
                    raise BaconError(
                        f"{type(self.distance).__name__} must give one number for each class, shape ({len(classes)},) "
                        f"here; it gives {tuple(found.shape)}."
                    )
                (gradient[classes],) = torch.autograd.grad(found.sum(), canvases)
            distances[classes] = found.detach()
        with self.profile("share"):
            all_reduce_sum([gradient, distances])
        return distances, gradient.flatten(0, 1)

    def _block_rows(self) -> int:
        """Return the number of classes that are matched at once."""
        if not self.gradients.side_by_side:
            return 1
        classes = self.meta.num_classes
        return even_rows(classes, min(self._fits, -(-classes // self.trainer.world_size)))

    def _drawn(self, canvases: Tensor, classes: Tensor, iteration: int) -> Tensor:
        """Cut canvases (R, ipc, ch, H, W) into tiles, and draw some of them if there are more than are matched."""
        x = self.synthetic.expand(canvases)
        if x.shape[1] <= self._synthetic:
            return x
        numbers = torch.arange(x.shape[1], device=x.device)
        draws = rng.bits(self.seed, "synthetic images", iteration, classes[:, None], numbers)
        chosen = draws.topk(self._synthetic, dim=1).indices
        return x[torch.arange(len(x), device=x.device)[:, None], chosen]

    def _for_statistics(self, batch: IterationBatch) -> Tensor:
        """Return a few of the matched real images of every class, normalized, (B, ch, H, W)."""
        images, mask = batch.matching()
        chosen = images[:, :STATISTICS_IMAGES].flatten(0, 1)
        if mask is not None:
            chosen = chosen[self._counted.of(mask[:, :STATISTICS_IMAGES])]
        return self.normalize(chosen)

    # Steps.

    def update(self, gradient: Tensor) -> None:
        """Take one step of the images.

        Args:
            gradient: Gradient of the loss by the images, (C·ipc, ch, H, W).
        """
        # Not by backward(): a data-parallel wrapper would average, and round, a gradient that is already complete.
        self.images.grad = gradient
        image_optimizer(self).step()

    def train_network(self, batch: IterationBatch) -> None:
        """Train the network on one device and send it to the others.

        Args:
            batch: Real images of the iteration.
        """
        trainer = batch.iteration % self.trainer.world_size
        if self.global_rank == trainer:
            t = batch.iteration
            if self.networks.synthetic_epochs:
                with torch.no_grad():
                    images, labels = self.synthetic.expanded()
                self.matched.train(self.matched.synthetic_batches(images, labels, t), t, "synthetic")
            if steps := self.networks.real_steps:
                images, labels = batch.random_batches(self.matched.number, steps)
                real = ((self.normalize(x), y) for x, y in zip(images, labels, strict=True))
                self.matched.train(real, t, "real")
        broadcast(self.matched.tensors(), trainer)
        self.check_finite({"matched network": self.matched.tensors()})
