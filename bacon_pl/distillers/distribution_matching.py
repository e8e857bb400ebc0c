"""Distribution matching: BACON, IDM, DM and their kin, which differ in objective, networks, tiles and step."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, get_args

import torch
from jsonargparse import lazy_instance
from torch import Tensor

from bacon_pl.augment import DSA, Augmentation
from bacon_pl.configured import made
from bacon_pl.data import IterationBatch
from bacon_pl.distillers.base import Distiller
from bacon_pl.distillers.bound_log import BoundLog, LoggedBound
from bacon_pl.distillers.calibration import TERM, calibrate
from bacon_pl.distillers.matching import Matching
from bacon_pl.distillers.pairs import PairPool, PairSettings
from bacon_pl.distillers.pixel_adamw import PixelAdamW
from bacon_pl.distillers.pool import NetworkPool, PoolSettings
from bacon_pl.distillers.reference import RealTraining, Reference, ReferenceNetworks
from bacon_pl.distributed import broadcast, shard
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.learners import TrainedNetworks, trained_networks
from bacon_pl.networks import Acceleration, ConvNet, Network, NetworkFactory, Plan, resolve_acceleration
from bacon_pl.objectives import BaconObjective, CrossEntropy, Objective
from bacon_pl.selection.tiles import Start

ImageOptimizer = Literal["sgd", "adamw"]
Space = Literal["normalized", "pixels"]


def batched_sgd(lr: float, momentum: float, num_classes: int) -> tuple[float, float]:
    """Turn one SGD step per class into one step for all classes, which takes the images to the same place.

    The published codes of IDM and BACON step the whole image tensor once per class; the other classes' gradients are
    zero then, but their momentum moves them.

    Args:
        lr: Learning rate of a single class's step.
        momentum: Its momentum m.
        num_classes: Number of classes C, one step each.

    Returns:
        Learning rate lr·(1 - m^C)/(1 - m) and momentum m^C of the one step.
    """
    return lr * (1 - momentum**num_classes) / (1 - momentum), momentum**num_classes


class DistributionMatching(Distiller):
    """Optimizes a few synthetic images per class so that networks see them as they see the real ones.

    BACON (arXiv 2406.01112), IDM (arXiv 2307.01736) and DM (arXiv 2110.04181) are settings of this class: they differ
    in objective, networks, partition and step. One iteration draws real images, augments both kinds alike, runs them
    through a network of the pool, compares, steps, and trains the pool.

    On CPUs, one process and several give the same bits. On GPUs the blocks of classes, and so the rounding, depend on
    how many share the work.

    Args:
        ipc: Images per class.
        factor: Every synthetic image holds factor × factor smaller ones; 1 keeps whole images.
        start: What the images start from.
        method: Name under which results are recorded.
        objective: Matching term.
        cross_entropy: The matched network's cross-entropy on the synthetic images, added to it; null leaves it out.
        network: What the pool is made of.
        augment: Siamese augmentation: one draw per class and iteration for real and synthetic images alike.
        lr: Learning rate of the images' SGD.
        momentum: Momentum of the images' SGD, in [0, 1).
        optimizer: Of the images: ``sgd``, or ``adamw``, whose learning rate is another (0.001) and which has a momentum
            of its own.
        weight_decay: Weight decay of AdamW.
        space: Where steps are taken: in ``normalized`` space, as published for BACON, IDM and DM, or in that of
            ``pixels`` in [0, 1], as for M3D and NCFM; a learning rate means something else in each.
        clip_gradient: Largest norm of an image's gradient; longer ones are shortened to it. 0 lets all be.
        clamp_pixels: Keep the images within black and white.
        per_class_steps: The published schedule of one step per class, done as one equivalent step; false makes one
            plain step for all classes.
        pool: How the network pool lives, where there are no ``pairs``.
        pairs: Networks trained on the real images, matched through between their initial and their trained weights, as
            for NCFM, in place of the pool, whose settings play no part then. null has the pool.
        reference: Networks trained on the real images, for an objective that reads what one of them makes of the
            synthetic images (IID); they are trained before the first run that needs them. null has none.
        bound: How and when BACON's bound and risk are logged, if embeddings are compared; they do not enter the loss.
        accuracy_window: Running accuracies restart every this many iterations.
        real_chunk: Most real images embedded at once: bounds memory, changes no result beyond rounding.
        memory_gib: Memory in GiB for what the synthetic images' pass keeps for the backward one: classes are taken in
            blocks that fit. More is faster up to the point where all classes fit at once.
        acceleration: Compile the networks and run them in bfloat16 where the device has it: ``on``, ``off``, or
            ``auto``, which compiles where the run is long enough to repay it, and leaves networks whose gradients do
            not bear bfloat16 in float32. ``off`` leaves precision to the Trainer.
        seed: Seed of every draw; by default that of ``seed_everything``.

    Raises:
        BaconError: An argument is out of range.
    """

    free_settings = ("real_chunk", "memory_gib", "acceleration", "bound")
    attribute_of: ClassVar[dict[str, str]] = {"pool": "pool_settings"}

    def __init__(
        self,
        ipc: int = 10,
        factor: int = 2,
        start: Start = Start(),
        method: str = "bacon",
        objective: Objective = lazy_instance(BaconObjective),
        cross_entropy: CrossEntropy | None = CrossEntropy(),
        network: NetworkFactory = ConvNet,
        augment: Augmentation = lazy_instance(DSA),
        lr: float = 0.2,
        momentum: float = 0.5,
        optimizer: ImageOptimizer = "sgd",
        weight_decay: float = 0.0,
        space: Space = "normalized",
        clip_gradient: float = 0.0,
        clamp_pixels: bool = False,
        per_class_steps: bool = True,
        pool: PoolSettings = PoolSettings(),
        pairs: PairSettings | None = None,
        reference: Reference | None = None,
        bound: LoggedBound = LoggedBound(),
        accuracy_window: int = 100,
        real_chunk: int = 512,
        memory_gib: float = 4.0,
        acceleration: Acceleration = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__(ipc, factor, start, method, seed)
        for name, value in {"accuracy_window": accuracy_window, "real_chunk": real_chunk}.items():
            if value < 1:
                raise BaconError(f"--model.{name} must be at least 1, got {value}.")
        if not (lr > 0 and math.isfinite(lr)):
            raise BaconError(f"--model.lr must be positive and finite, got {lr}.")
        if not memory_gib > 0:
            raise BaconError(f"--model.memory_gib must be positive, got {memory_gib}.")
        if not 0 <= momentum < 1:
            raise BaconError(f"--model.momentum must be in [0, 1), got {momentum}.")
        if not (clip_gradient >= 0 and math.isfinite(clip_gradient)):
            raise BaconError(f"--model.clip_gradient must be zero or positive and finite, got {clip_gradient}.")
        for name, given, choices in (("optimizer", optimizer, ImageOptimizer), ("space", space, Space)):
            if given not in get_args(choices):
                raise unknown_name(f"--model.{name}", str(given), get_args(choices))
        if not (weight_decay >= 0 and math.isfinite(weight_decay)) or (weight_decay and optimizer != "adamw"):
            raise BaconError(
                "--model.weight_decay must be zero or positive and finite, and is AdamW's alone (--model.optimizer "
                f"adamw), got {weight_decay} with {optimizer}."
            )
        self.objective = made(objective)
        if reference is not None and not self.objective.uses_reference:
            raise BaconError(
                f"--model.reference gives networks that {type(self.objective).__name__} does not read: set it to null, "
                "or take an objective that reads them, such as IID."
            )
        if pairs is not None and cross_entropy is not None and cross_entropy.accuracy != "none":
            raise BaconError(
                "--model.pairs has no running accuracies for the cross-entropy: set --model.cross_entropy.accuracy "
                "none, or --model.cross_entropy null."
            )
        self.cross_entropy = cross_entropy
        self.network = network
        self.augment = made(augment)
        self.lr = lr
        self.momentum = momentum
        self.optimizer: ImageOptimizer = optimizer
        self.weight_decay = weight_decay
        self.space: Space = space
        self.clip_gradient = clip_gradient
        self.clamp_pixels = clamp_pixels
        self.per_class_steps = per_class_steps
        self.pool_settings = pool
        self.pairs = pairs
        self.reference = reference
        self.references: ReferenceNetworks | None = None
        self.accuracy_window = accuracy_window
        self.real_chunk = real_chunk
        self.memory_gib = memory_gib
        self.acceleration: Acceleration = acceleration
        self.bound_log = BoundLog(bound, self.seed)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The images' optimizer, in a form that does all classes' steps at once where the schedule is one per class."""
        if self.optimizer == "adamw":
            pixels = self.space == "pixels"
            mean, std = (self.meta.mean, self.meta.std) if pixels else ((0.0,), (1.0,))
            classes, per_class = self.meta.num_classes, self.per_class_steps
            decay = self.weight_decay
            return PixelAdamW(self.images, mean, std, classes, self.lr, weight_decay=decay, per_class_steps=per_class)
        lr, momentum = self.lr, self.momentum
        if self.per_class_steps:
            lr, momentum = batched_sgd(lr, momentum, self.meta.num_classes)
        return torch.optim.SGD([self.images], lr=lr, momentum=momentum)

    def prepare(self) -> None:
        """Build the pool, and what matches through it, where the images are; train reference networks, if need be.

        Raises:
            BaconError: All classes have to be taken at once, and do not fit the memory.
        """
        meta = self.meta
        if self.reference is not None:
            factory = self.reference.network or self.network
            networks, template = self._trained(self.reference, factory, (self.reference.epochs,))
            plan = self._plan(template, self._synthetic)
            self.references = ReferenceNetworks(networks, template, plan, self.seed)
        self.pool: NetworkPool | PairPool
        if self.pairs is not None:
            networks, template = self._trained(self.pairs, self.network, (0, self.pairs.epochs))
            self.pool = PairPool(networks, template, self._plan(template), self.seed)
        else:
            self.pool = NetworkPool(
                self.pool_settings,
                lambda: self.network(meta.channels, meta.size, meta.num_classes),
                self.seed,
                self.device,
                self.images.dtype,
                self._plan,
            )
        self.matching = Matching(self)

    def _trained(
        self, settings: RealTraining, factory: NetworkFactory, snapshots: tuple[int, ...]
    ) -> tuple[TrainedNetworks, Network]:
        """Networks trained on the real images, now if they are not in the cache, and their architecture."""
        networks = trained_networks(
            self.data.train,
            self.meta,
            settings.recipe(factory, self.acceleration),
            seed=settings.seed,
            count=settings.count,
            snapshots=snapshots,
            device=self.device,
        )
        return networks, self.make_network(factory, "template")

    @property
    def _synthetic(self) -> int:
        """Synthetic images, tiles counted."""
        return len(self.images) * self.synthetic.factor**2

    def _plan(self, template: Network, images: float | None = None) -> Plan:
        """How passes are run, by this run's work: images an iteration, by default all that are matched and trained on.

        Args:
            template: The architecture.
            images: Images an iteration, forward passes without gradient counting a third.
        """
        meta, data, pool = self.meta, self.data, self.pool_settings
        if images is None:
            real = meta.num_classes * data.batch_real / 3
            trained = 0 if self.pairs else pool.train_networks * pool.train_steps * data.pool_batch
            images = real + self._synthetic + trained
        images *= max(self.trainer.max_steps, 0)
        return resolve_acceleration(self.acceleration, template, (meta.channels, *meta.size), images, self.device)

    def extra_state(self) -> dict[str, Tensor]:
        """The pool."""
        return self.pool.state_dict()

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take the pool over."""
        self.pool.load_state_dict(state)

    def iterate(self, batch: IterationBatch) -> None:
        """Run one iteration; several devices share its work.

        Args:
            batch: The iteration's real images.
        """
        t = batch.iteration
        self.pool.advance(t)
        if t % self.accuracy_window == 0:
            self.pool.reset_meters()

        network_id = self.pool.matched(t)
        accuracy = self.pool.accuracy(network_id).clone()
        terms, gradient = self.matching.match(batch, network_id, accuracy)
        # Before they reach the images.
        self.check_finite({**{name: [value] for name, value in terms.items()}, "gradient": [gradient]}, True)
        with self.profile("update"):
            self.update(gradient)
        if self.pairs is not None and self.pairs.calibration:
            with self.profile("calibration"):
                terms[TERM], gradient = calibrate(self, t, self.pairs.calibration)
                self.check_finite({TERM: [terms[TERM]], "gradient": [gradient]})
                self.update(gradient)
        with self.profile("pool"):
            self.train_pool(batch)
        self.report(terms, accuracy)
        self.bound_log.write(self.loggers)

    def update(self, gradient: Tensor) -> None:
        """Take the images' step, within the bounds that are set.

        Args:
            gradient: Of the loss by the images, (C·ipc, ch, H, W).
        """
        if self.clip_gradient > 0:
            norms = gradient.flatten(1).norm(dim=1).clamp(min=self.clip_gradient)
            gradient.mul_((self.clip_gradient / norms).view(-1, 1, 1, 1))
        if self.space == "pixels" and self.optimizer == "sgd":  # a pixel is std times a normalized one
            std = torch.tensor(self.meta.std, device=self.device, dtype=gradient.dtype).view(-1, 1, 1)
            gradient = gradient / std.square()
        # Not through backward(): a data-parallel wrapper would average, and round, what is complete already.
        self.images.grad = gradient
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        optimizer.step()
        if self.clamp_pixels:
            black, white = (
                self.normalize(torch.full((self.meta.channels, 1, 1), value, dtype=torch.uint8, device=self.device))
                for value in (0, 255)
            )
            with torch.no_grad():
                self.images.clamp_(black, white)

    def train_pool(self, batch: IterationBatch) -> None:
        """Train the pool networks whose turn it is, each on one device, and tell the others."""
        if isinstance(self.pool, PairPool):
            return
        network_ids = self.pool.trained(batch.iteration)
        rank, devices = self.global_rank, self.trainer.world_size
        steps = self.pool_settings.train_steps
        own = shard(network_ids, rank, devices)
        self.pool.train(own, lambda k: batch.random_batches(k, steps), self.normalize, batch.iteration)
        for i, network_id in enumerate(network_ids):
            broadcast(self.pool.state_of(network_id), i % devices)
        if network_ids:
            self.check_finite({"pool networks": [t for k in network_ids for t in self.pool.state_of(k)]})

    def report(self, terms: dict[str, Tensor], accuracy: Tensor) -> None:
        """Log the terms (means over classes, weights applied), the matched network's accuracy and the pool's size."""
        self.log_terms(terms)
        self.log("pool/accuracy", accuracy, prog_bar=True)
        self.log("pool/size", float(len(self.pool.active(self.iteration))))
