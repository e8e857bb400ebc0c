"""Distribution matching: BACON, IDM, DM and related methods, which differ only in their settings."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

from jsonargparse import lazy_instance
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.augment import DSA, Augmentation
from bacon_pl.configured import made
from bacon_pl.data import IterationBatch
from bacon_pl.distillers.base import Distiller
from bacon_pl.distillers.bound_log import BoundLog, LoggedBound
from bacon_pl.distillers.calibration import TERM, calibrate
from bacon_pl.distillers.capture import capture_parts
from bacon_pl.distillers.checks import check_pixels
from bacon_pl.distillers.image_optimizer import image_optimizer, make_image_optimizer
from bacon_pl.distillers.matching import Matching
from bacon_pl.distillers.pairs import PairPool, PairSettings
from bacon_pl.distillers.pool import NetworkPool, PoolSettings
from bacon_pl.distillers.reference import Reference, ReferenceNetworks
from bacon_pl.distillers.schedules import ImageSchedule, observe, scheduled
from bacon_pl.distributed import broadcast, shard
from bacon_pl.errors import BaconError, TooFewImagesError, unknown_name
from bacon_pl.learners import Pretraining, RealTraining, TrainedNetworks, trained_networks
from bacon_pl.networks import Acceleration, Capture, ConvNet, Network, NetworkFactory, Plan, resolve_acceleration
from bacon_pl.networks.acceleration import Work
from bacon_pl.networks.base import check_factory
from bacon_pl.objectives import BaconObjective, CrossEntropy, Objective
from bacon_pl.partition import Upscaling
from bacon_pl.selection.tiles import Start

ImageOptimizer = Literal["sgd", "adamw"]
Space = Literal["normalized", "pixels"]


class DistributionMatching(Distiller):
    """Optimizes a few synthetic images per class such that networks map them to similar features as the real images.

    BACON (arXiv 2406.01112), IDM (arXiv 2307.09742) and DM (arXiv 2110.04181) are settings of this class; they differ
    in objective, networks, partition and step. One iteration draws real images, applies the same augmentation to real
    and synthetic images, runs both through a network of the pool, compares the results, updates the synthetic images,
    and trains the pool.

    On CPUs, results do not depend on the number of processes, bit for bit. On GPUs, the number of processes determines
    the blocks of classes and therefore affects the rounding.

    Args:
        ipc: Images per class.
        factor: Every synthetic image holds factor × factor smaller images; 1 keeps whole images.
        start: Initial images.
        method: Name of the method in results; by default that of the objective, or of a subclass of this class.
        objective: Matching term of the loss.
        cross_entropy: Cross-entropy of the matched network on the synthetic images, added to the matching term; null
            leaves it out.
        network: Architecture of the networks in the pool.
        augment: Siamese augmentation: one draw per class and iteration, shared by real and synthetic images.
        lr: Learning rate of the images' optimizer.
        momentum: Momentum of SGD on the images, in [0, 1).
        optimizer: Optimizer of the images: ``sgd``, or ``adamw``, which needs another learning rate, such as 0.001, and
            does not use ``momentum``.
        weight_decay: Weight decay of AdamW.
        schedule: Schedule of the images' learning rate: ``cosine`` lowers it from ``lr`` to 0 over the iterations of
            the run (if it is resumed with another number of them, it follows the new curve from there on); ``plateau``
            halves it after 500 iterations without a better loss, as for NCFM; null keeps it.
        space: Space in which steps are taken: ``normalized``, as published for BACON, IDM and DM, or that of ``pixels``
            in [0, 1], as for M3D and NCFM. The same learning rate means different steps in the two spaces.
        clip_gradient: Largest allowed norm of an image's gradient; longer gradients are scaled down to it. 0 turns
            clipping off.
        clamp_pixels: Clamp the images to the range between black and white after every iteration; with a step per
            class, momentum may then carry those of later classes a little beyond it.
        per_class_steps: Follow the published schedule of one step per class, computed as one equivalent step; false
            takes one plain step for all classes.
        pool: Settings of the network pool, which is used if there are no ``pairs``.
        pairs: Networks trained on the real images, between whose initial and trained weights the images are matched, as
            in NCFM. They replace the pool, whose settings are then ignored. null uses the pool.
        reference: Networks trained on the real images, for an objective that reads one of their embeddings of the
            synthetic images (IID). They are trained before the first run that needs them. null has none.
        pretraining: Most that is spent on ``pairs`` and ``reference``, as a budget sets it.
        bound: How and when BACON's bound and risk are logged, if embeddings are compared. They are not part of the
            loss.
        accuracy_window: Number of iterations after which the running accuracies are reset.
        real_chunk: Largest number of real images embedded at once. It limits memory and changes results only by
            rounding. ``auto``: what fits into half of a GPU's free memory at the start (512 on a CPU).
        memory_gib: Memory in GiB for the activations of the synthetic images. Classes are processed in blocks that fit
            into it. More memory is faster, up to the point where all classes fit at once.
        acceleration: Whether to compile the networks and run them in bfloat16 if the device supports it: ``on``,
            ``off``, or ``auto``, which compiles if the run is long enough for it to pay off, and uses bfloat16 only for
            networks whose gradients are accurate enough in it. ``off`` leaves the precision to the Trainer.
            ``measured`` tries what is fastest on a GPU, and keeps to it; on a CPU it is ``auto``.
        capture: Whether matching and pool training are recorded as CUDA graphs: ``auto`` does so on one GPU where it
            can be done and replays agree, ``on`` raises an error where they do not, ``off`` never does.
        seed: Seed of every draw; by default that of ``seed_everything``.
        upscaling: How smaller images are scaled up; ``bicubic`` is sharper.

    Raises:
        BaconError: An argument is out of range.
    """

    free_settings = ("real_chunk", "memory_gib", "acceleration", "capture", "bound")
    attribute_of: ClassVar[dict[str, str]] = {"pool": "pool_settings"}

    def __init__(
        self,
        ipc: int = 10,
        factor: int = 2,
        start: Start = Start(),
        method: str = "",
        objective: Objective = lazy_instance(BaconObjective),
        cross_entropy: CrossEntropy | None = CrossEntropy(),
        network: NetworkFactory = ConvNet,
        augment: Augmentation = lazy_instance(DSA),
        lr: float = 0.2,
        momentum: float = 0.5,
        optimizer: ImageOptimizer = "sgd",
        weight_decay: float = 0.0,
        schedule: ImageSchedule | None = None,
        space: Space = "normalized",
        clip_gradient: float = 0.0,
        clamp_pixels: bool = False,
        per_class_steps: bool = True,
        pool: PoolSettings = PoolSettings(),
        pairs: PairSettings | None = None,
        reference: Reference | None = None,
        pretraining: Pretraining = Pretraining(),
        bound: LoggedBound = LoggedBound(),
        accuracy_window: int = 100,
        real_chunk: int | Literal["auto"] = 512,
        memory_gib: float = 4.0,
        acceleration: Acceleration = "auto",
        capture: Capture = "auto",
        seed: int | None = None,
        upscaling: Upscaling = "bilinear",
    ) -> None:
        objective = made(objective)
        if type(self) is DistributionMatching:
            method = method or objective.published_name or type(objective).__name__.lower()
        super().__init__(ipc, factor, start, method, seed, upscaling)
        ranges.whole("--model.", accuracy_window=accuracy_window)
        if real_chunk != "auto" and (isinstance(real_chunk, str) or real_chunk < 1):
            raise BaconError(f"--model.real_chunk must be at least 1, or 'auto', got {real_chunk}.")
        ranges.positive("--model.", lr=lr, memory_gib=memory_gib)
        ranges.below_one("--model.", momentum=momentum)
        ranges.not_negative("--model.", clip_gradient=clip_gradient)
        chosen = (("optimizer", optimizer, ImageOptimizer), ("space", space, Space), ("capture", capture, Capture))
        for name, given, choices in chosen:
            if given not in get_args(choices):
                raise unknown_name(f"--model.{name}", str(given), get_args(choices))
        if not (weight_decay >= 0 and math.isfinite(weight_decay)) or (weight_decay and optimizer != "adamw"):
            raise BaconError(
                "--model.weight_decay must be zero or positive and finite, and is AdamW's alone (--model.optimizer "
                f"adamw), got {weight_decay} with {optimizer}."
            )
        if schedule not in (None, *get_args(ImageSchedule)):
            raise unknown_name("--model.schedule", str(schedule), get_args(ImageSchedule))
        self.objective = objective
        if 0 < (images := ipc * factor**2) < self.objective.fewest:
            raise TooFewImagesError(
                f"--model.ipc {ipc} with --model.factor {factor} has {images} image of a class, but some terms of "
                f"{type(self.objective).__name__} need {self.objective.fewest}, tiles counted: raise one of the two."
            )
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
        check_factory("--model.network", network)
        self.network = network
        self.augment = made(augment)
        self.lr = lr
        self.momentum = momentum
        self.optimizer: ImageOptimizer = optimizer
        self.weight_decay = weight_decay
        self.schedule: ImageSchedule | None = schedule
        self.space: Space = space
        self.clip_gradient = clip_gradient
        self.clamp_pixels = clamp_pixels
        self.per_class_steps = per_class_steps
        self.pool_settings = pool
        self.pretraining = pretraining
        self.pairs = pairs and pretraining.limit(pairs)
        self.reference = reference and pretraining.limit(reference)
        self.references: ReferenceNetworks | None = None
        self.accuracy_window = accuracy_window
        self.real_chunk: int | Literal["auto"] = real_chunk
        self.memory_gib = memory_gib
        self.acceleration: Acceleration = acceleration
        self.capture: Capture = capture
        self.bound_log = BoundLog(bound, self.seed)

    def configure_optimizers(self) -> Any:
        """Return the optimizer of the images with the schedule of its learning rate."""
        check_pixels(self.meta, self.space, self.clamp_pixels)
        return scheduled(make_image_optimizer(self), self.schedule, self.trainer.max_steps)

    def prepare(self) -> None:
        """Create the pool and the matching on the images' device; train missing reference networks and pairs.

        Raises:
            BaconError: The network needs all classes in one pass, and they do not fit into ``memory_gib``.
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
        capture_parts(self)

    def _trained(
        self, settings: RealTraining, factory: NetworkFactory, snapshots: tuple[int, ...]
    ) -> tuple[TrainedNetworks, Network]:
        """Return networks trained on the real images, training them if they are not in the cache, and a template."""
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
        """Number of synthetic images, counting tiles."""
        return len(self.images) * self.synthetic.factor**2

    def _plan(self, template: Network, images: float | None = None) -> Plan:
        """Decide how passes are executed, depending on the amount of work in this run.

        Args:
            template: The architecture.
            images: Images per iteration, forward passes without gradient counting a third; by default all images that
                are matched and trained on.
        """
        meta, data, pool = self.meta, self.data, self.pool_settings
        if images is None:
            real = meta.num_classes * data.batch_real / 3
            trained = 0 if self.pairs else pool.train_networks * pool.train_steps * data.pool_batch
            images = real + self._synthetic + trained
        images *= max(self.trainer.max_steps, 0)
        trains = pool.train_networks * pool.train_steps and not self.pairs
        work = Work(-(-pool.train_networks // self.trainer.world_size) if trains else 1, data.pool_batch)
        return resolve_acceleration(self.acceleration, template, (meta.channels, *meta.size), images, self.device, work)

    def extra_state(self) -> dict[str, Any]:
        """Return the state of the pool, of the parameters of the objective if it has any, and the size of chunks."""
        return {**self.pool.state_dict(), **self.matching.ascent.state_dict(), "real_chunk": self.matching.real_chunk}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`extra_state`."""
        self.pool.load_state_dict(state)
        self.matching.ascent.load_state_dict(state)
        if self.real_chunk == "auto" and "real_chunk" in state:
            self.matching.real_chunk = int(state["real_chunk"])

    def iterate(self, batch: IterationBatch) -> None:
        """Run one iteration. Several devices share its work.

        Args:
            batch: Real images of the iteration.
        """
        t = batch.iteration
        self.pool.advance(t)
        if t % self.accuracy_window == 0:
            self.pool.reset_meters()

        network_id = self.pool.matched(t)
        accuracy = self.pool.accuracy(network_id).clone()
        flags = self.pool.model.plan.flags
        moved = image_optimizer(self).approach()
        with flags():
            terms, gradient = self.matching.match(batch, network_id, accuracy)
        # Checked before they affect the images.
        gradients = [gradient, *self.matching.ascent.gradients()]
        self.check_finite({**{name: [value] for name, value in terms.items()}, "gradient": gradients}, not moved)
        with self.profile("update"):
            self.update(gradient)
            self.matching.ascent.step()
        if self.pairs is not None and self.pairs.calibration:
            image_optimizer(self).approach()
            with self.profile("calibration"), flags():
                terms[TERM], gradient = calibrate(self, t, self.pairs.calibration)
                self.check_finite({TERM: [terms[TERM]], "gradient": [gradient]})
                self.update(gradient)
        if self.clamp_pixels:
            image_optimizer(self).clamp(*self.meta.limits(self.images.dtype, self.device))
        with self.profile("pool"):
            self.train_pool(batch)
        observe(self._schedulers(), terms)
        self.report(terms, accuracy)
        self.bound_log.write(self.loggers)

    def update(self, gradient: Tensor) -> None:
        """Update the images by one step, with the configured clipping.

        Args:
            gradient: Gradient of the loss with respect to the images, (C·ipc, ch, H, W); it is clipped in place.
        """
        if self.clip_gradient > 0:
            norms = gradient.flatten(1).norm(dim=1).clamp(min=self.clip_gradient)
            gradient.mul_((self.clip_gradient / norms).view(-1, 1, 1, 1))
        # Not by backward(): a data-parallel wrapper would average, and round, a gradient that is already complete.
        self.images.grad = gradient
        image_optimizer(self).step()

    def train_pool(self, batch: IterationBatch) -> None:
        """Train the networks selected for this iteration, each on one device, and send them to the other devices."""
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
        """Log the weighted terms (means over classes), the accuracy of the matched network and the size of the pool."""
        self.log_terms(terms)
        self.log("pool/accuracy", accuracy, prog_bar=True)
        self.log("pool/size", float(len(self.pool.active(self.iteration))))
