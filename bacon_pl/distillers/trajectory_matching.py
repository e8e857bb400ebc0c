"""Trajectory matching: MTT, TESLA, FTD and DATM as settings of one family."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jsonargparse import lazy_instance
from torch import Tensor

from bacon_pl import ranges, rng
from bacon_pl.augment import DSA, Augmentation
from bacon_pl.configured import made
from bacon_pl.data import IterationBatch
from bacon_pl.distillers.base import Distiller
from bacon_pl.distillers.conditional import taken_if
from bacon_pl.distillers.experts import Expansion, Experts, ExpertSettings, Segments, drawn_expert
from bacon_pl.distillers.recognized import agreed, recognized
from bacon_pl.distributed import all_reduce_sum, own_share
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.learners import Pretraining, trained_networks
from bacon_pl.networks import Acceleration, ConvNet, FlatNetwork, NetworkFactory, resolve_acceleration
from bacon_pl.networks.base import check_factory
from bacon_pl.objectives import Matched, Slopes, Student, Way, label_loss, match_trajectory
from bacon_pl.partition import Upscaling, assemble
from bacon_pl.selection import Start

Labels = Literal["hard", "learned", "expert"]

_AT_ONCE = 500


class TrajectoryMatching(Distiller):
    """Optimizes images so that a student trained on them goes where experts, trained on the real images, have gone.

    MTT (arXiv 2203.11932), TESLA (arXiv 2211.10586), FTD (arXiv 2211.11004) and DATM (arXiv 2310.05773) are settings of
    this class. In an iteration a student starts from an expert's weights after a drawn epoch and takes
    ``inner_steps`` steps of plain SGD on the synthetic images; the loss is its squared distance from the same expert a
    few epochs later, as a share of that of the start. The images, the step size and, if asked for, the labels are
    learned through all of the steps, whose number does not matter to the memory.

    Experts are trained before the first run that needs them and kept in the cache. Several processes share the experts
    of an iteration.

    Args:
        ipc: Images per class.
        factor: Every canvas holds factor × factor smaller images; 1 keeps whole images.
        start: Initial images.
        method: Name of the method in results.
        network: Architecture of experts and students.
        augment: Augmentation of every batch of the student; one draw per step, with parameters per image.
        way: How the gradient is computed: ``exact``, one step at a time; ``graph``, the same with the graph of all
            steps in memory; ``tesla``, an approximation in which the weights of every step are constants, as in its
            published code, where the gradient of the images is half of it; ``tesla_direct``, the approximation itself.
        inner_steps: Steps of the student.
        inner_batch: Images of one step; null takes all of them.
        expert_epochs: Epochs of the expert that the student is to cover.
        min_start: Lowest epoch from which a student starts.
        max_start: Upper bound, exclusive, of these epochs.
        expansion: Let that upper bound grow during the run, as DATM does; null keeps it.
        experts_together: Experts of one iteration, whose gradients are averaged.
        lr: Learning rate of the images' SGD.
        momentum: Momentum of the SGD of images and step size.
        step_size: Step size of the student at the start.
        lr_step_size: Learning rate of the step size; 0 keeps it.
        min_step_size: Least step size; it never falls below.
        labels: ``hard``; ``learned`` with the images, as in DATM; or ``expert``, soft labels from the expert's target
            in every iteration, as in TESLA.
        lr_labels: Learning rate of learned labels, which are logits; their momentum is 0.9.
        matched_start: Start from real images that experts classify right, as DATM does, in place of ``start``.
        threshold: Loss beyond which an iteration changes nothing, as DATM's 1.0; null is none.
        average: Decay of the moving average of the images that becomes the distilled set, as in FTD; null keeps none.
        experts: The experts' training.
        pretraining: Most that is spent on experts and students, as a budget sets it.
        acceleration: Whether experts are compiled and in bfloat16: ``on``, ``off``, ``auto`` or ``measured``. ``on``
            also compiles the steps of the student, in full precision, except with ``way: graph``.
        seed: Seed of every draw; by default that of ``seed_everything``.
        upscaling: How smaller images are scaled up; ``bicubic`` is sharper.

    Raises:
        BaconError: An argument is out of range.
    """

    free_settings = ("acceleration",)

    def __init__(
        self,
        ipc: int = 10,
        factor: int = 1,
        start: Start = Start(),
        method: str = "mtt",
        network: NetworkFactory = ConvNet,
        augment: Augmentation = lazy_instance(DSA),
        way: Way = "exact",
        inner_steps: int = 20,
        inner_batch: int | None = None,
        expert_epochs: int = 2,
        min_start: int = 0,
        max_start: int = 20,
        expansion: Expansion | None = None,
        experts_together: int = 1,
        lr: float = 1000.0,
        momentum: float = 0.5,
        step_size: float = 0.01,
        lr_step_size: float = 1e-5,
        min_step_size: float = 1e-4,
        labels: Labels = "hard",
        lr_labels: float = 10.0,
        matched_start: bool = False,
        threshold: float | None = None,
        average: float | None = None,
        experts: ExpertSettings = ExpertSettings(),
        pretraining: Pretraining = Pretraining(),
        acceleration: Acceleration = "auto",
        seed: int | None = None,
        upscaling: Upscaling = "bilinear",
    ) -> None:
        super().__init__(ipc, factor, start, method, seed, upscaling)
        for name, choice, known in (("way", way, Way), ("labels", labels, Labels)):
            if choice not in get_args(known):
                raise unknown_name(f"--model.{name}", str(choice), get_args(known))
        ranges.whole("--model.", inner_steps=inner_steps, **ranges.given(inner_batch=inner_batch))
        ranges.whole("--model.", expert_epochs=expert_epochs, experts_together=experts_together)
        ranges.positive("--model.", lr=lr, step_size=step_size, min_step_size=min_step_size)
        ranges.positive("--model.", lr_labels=lr_labels, **ranges.given(threshold=threshold))
        ranges.not_negative("--model.", lr_step_size=lr_step_size)
        ranges.below_one("--model.", momentum=momentum)
        if step_size < min_step_size:
            raise BaconError(f"--model.step_size is {step_size}, below --model.min_step_size {min_step_size}.")
        if not 0 <= min_start < max_start or max_start - 1 + expert_epochs > experts.epochs:
            raise BaconError(
                "students start from epochs --model.min_start to --model.max_start - 1 and cover --model.expert_epochs "
                f"more, within the experts' --model.experts.epochs: got {min_start}, {max_start} and {expert_epochs} "
                f"with {experts.epochs}."
            )
        if expansion is not None and not min_start < expansion.first <= max_start:
            raise BaconError(
                "--model.expansion.first must be above --model.min_start and at most --model.max_start, got "
                f"{expansion.first} with {min_start} and {max_start}."
            )
        if matched_start and start != Start():
            raise BaconError("--model.matched_start chooses the initial images: leave it or --model.start out.")
        self.augment = made(augment)
        if self.augment.on_pixels:
            raise BaconError(
                f"{type(self.augment).__name__} cannot be differentiated: give TrajectoryMatching DSA, Chain or "
                "NoAugmentation."
            )
        check_factory("--model.network", network)
        self.network, self.way, self.experts_together = network, way, experts_together
        self.inner_steps, self.inner_batch = inner_steps, inner_batch
        self.expert_epochs, self.min_start, self.max_start = expert_epochs, min_start, max_start
        self.expansion, self.threshold, self.average = expansion, threshold, average
        self.lr, self.momentum, self.lr_labels = lr, momentum, lr_labels
        self.step_size, self.lr_step_size, self.min_step_size = step_size, lr_step_size, min_step_size
        self.labels, self.matched_start = labels, matched_start
        self.pretraining = pretraining
        self.experts = pretraining.limit(experts)
        self.acceleration: Acceleration = acceleration
        self.steps = min(inner_steps, pretraining.student_steps or inner_steps)
        # With fewer steps, they are longer, so that the student still goes as far.
        self.synthetic.learn_step_size(step_size * inner_steps / self.steps)
        if labels != "hard":
            self.synthetic.use_soft_labels()
        if average is not None:
            self.synthetic.keep_average(average)
        self.segments = Segments(min_start, max_start, expert_epochs, expansion).within(self.experts.epochs)
        self._experts: list[Experts] = []  # in lists, as networks are no part of the module
        self._slopes: list[Slopes] = []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return SGD for the images, the step size and, if they are learned, the labels."""
        optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD([self.images], self.lr, self.momentum)]
        assert self.synthetic.step_size is not None
        optimizers.append(torch.optim.SGD([self.synthetic.step_size], self.lr_step_size, self.momentum))
        if self.labels == "learned":
            assert self.synthetic.soft_labels is not None
            optimizers.append(torch.optim.SGD([self.synthetic.soft_labels], self.lr_labels, 0.9))
        return optimizers

    def prepare(self) -> None:
        """Make the experts, training those that are not in the cache, and the start that they choose.

        Raises:
            BaconError: The experts' trajectories are too short, or the network draws at random.
        """
        network = FlatNetwork(self.make_network(self.network, "template"))
        chooses = self.matched_start or self.labels == "learned"
        if self.experts.epochs < self.expert_epochs:
            raise BaconError(
                f"the experts have {self.experts.epochs} epochs, and students cover {self.expert_epochs} of them: "
                "raise --model.pretraining.epochs or lower --model.expert_epochs."
            )
        trained = trained_networks(
            self.data.train,
            self.meta,
            self.experts.recipe(self.network, self.acceleration),
            seed=self.experts.seed,
            count=self.experts.count,
            snapshots=[*self.segments.epochs, *([self.experts.epochs] if chooses else [])],
            device=self.device,
            storage=self.experts.storage,
        )
        self._experts = [Experts(trained, network)]

        def loss(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return label_loss(network.logits(weights, x), y)

        # Compiling second derivatives takes minutes on a CPU, so it is done only where it is asked for.
        shape = (self.meta.channels, *self.meta.size)
        asked = self.acceleration if self.acceleration == "on" else "off"
        plan = resolve_acceleration(asked, network.template, shape, 0, self.device)
        self._slopes = [Slopes(loss, compiled=plan.compiled and self.way != "graph")]
        if self.iteration == 0 and chooses:
            self._choose()

    @property
    def _batch_size(self) -> int:
        total = len(self.images) * self.factor**2
        return min(total, self.inner_batch or total, self.pretraining.student_batch or total)

    @torch.no_grad()
    def _choose(self) -> None:
        """Replace the initial images and labels by those that the trained experts choose."""
        experts, last, synthetic = self._experts[0], self.experts.epochs, self.synthetic
        store = self.data.train.to(self.device)

        def logits(number: int) -> Tensor:
            parts = (self.normalize(x) for x in store.images.split(_AT_ONCE))
            return torch.cat([experts.logits(number, last, x) for x in parts])

        if self.matched_start:
            each = self.ipc * self.factor**2
            chosen = recognized(store, each, logits, experts.count, self.seed, "recognized images")
            real = self.normalize(store.images[chosen])
            self.images.copy_(assemble(real, self.factor, self.start.scaling).flatten(0, 1))
            if synthetic.average is not None:
                synthetic.average.copy_(self.images)
        if synthetic.soft_labels is not None:
            images, labels = synthetic.expanded()
            count = experts.count if self.matched_start else 1
            told = torch.stack([experts.logits(number, last, images) for number in range(count)])
            synthetic.soft_labels.copy_(agreed(told, labels) if self.matched_start else told[0])

    def iterate(self, batch: IterationBatch) -> None:
        """Match one or several experts and take a step. Several processes share the experts.

        Args:
            batch: Only its number counts; no real images are drawn.
        """
        t, together, synthetic = batch.iteration, self.experts_together, self.synthetic
        step_size, soft = synthetic.step_size, synthetic.soft_labels
        assert step_size is not None
        images, _ = synthetic.expanded()
        losses, by_step_size = (torch.zeros(together, dtype=images.dtype, device=self.device) for _ in range(2))
        by_images = images.new_zeros(together, *images.shape)
        by_labels = None if self.labels != "learned" or soft is None else soft.new_zeros(together, *soft.shape)
        # The labels that the set keeps are those of the first expert, whichever process has it.
        told = None if self.labels != "expert" else self._told(t, 0, images.detach())
        for place in own_share(together):
            with self.profile("match"):
                found = self._match(t, place, images.detach(), told if place == 0 else None)
            losses[place], by_images[place], by_step_size[place] = found.loss, found.images, found.step_size
            if by_labels is not None and found.labels is not None:
                by_labels[place] = found.labels
        # Each process fills in its places of zeros, and they are averaged afterwards in the same order everywhere.
        shared = [losses, by_step_size, by_images, *([] if by_labels is None else [by_labels])]
        all_reduce_sum(shared)
        loss, gradient_step_size, gradient, *rest = [part.mean(0) for part in shared]
        if self.factor > 1:
            (gradient,) = torch.autograd.grad(images, self.images, gradient)
        self.check_finite({"trajectory": [loss], "gradient": [gradient, gradient_step_size, *rest]}, True)
        if told is not None and soft is not None:
            with torch.no_grad():
                soft.copy_(told)
        with self.profile("update"):
            self.images.grad, step_size.grad = gradient, gradient_step_size.to(step_size.dtype)
            if soft is not None and rest:
                soft.grad = rest[0]
            wanted = None if self.threshold is None else loss.double() <= self.threshold
            optimizers: Any = self.optimizers(use_pl_optimizer=False)
            with taken_if(wanted, optimizers, [] if synthetic.average is None else [synthetic.average]):
                self._step()
        self.log_terms({"trajectory": loss})
        self.log("step_size", step_size.detach(), prog_bar=True)

    def _step(self) -> None:
        """Take a step of every optimizer, keep the step size above its bound, and average the images."""
        found: Any = self.optimizers(use_pl_optimizer=False)
        for optimizer in found:
            optimizer.step()
        assert self.synthetic.step_size is not None
        with torch.no_grad():
            self.synthetic.step_size.clamp_(min=self.min_step_size)
        if self.synthetic.average is not None:
            self.synthetic.update_average()

    def _drawn(self, t: int, place: int) -> tuple[int, int]:
        """The expert of a place in an iteration, and the epoch from which its student starts."""
        number = drawn_expert(self._experts[0].count, self.seed, t, place, self.experts_together)
        return number, self.segments.drawn(self.seed, t, place)

    def _told(self, t: int, place: int, images: Tensor) -> Tensor:
        """What the target of a place says of the images, (M, C)."""
        number, epoch = self._drawn(t, place)
        return self._experts[0].logits(number, epoch + self.expert_epochs, images)

    def _match(self, t: int, place: int, images: Tensor, told: Tensor | None) -> Matched:
        """The loss and gradients of one student; ``told`` is what its expert says of the images, if that is known."""
        number, epoch = self._drawn(t, place)
        labels = self.synthetic.expanded()[1]
        if self.labels == "learned" and self.synthetic.soft_labels is not None:
            labels = self.synthetic.soft_labels
        elif self.labels == "expert":
            labels = self._told(t, place, images) if told is None else told

        def view(x: Tensor, step: int) -> Tensor:
            return self.augment.per_image(x, self.seed, "student augment", t, place, step)

        student = Student(self._slopes[0], self._batches(t, place), view)
        start, target = (self._experts[0].weights(number, e) for e in (epoch, epoch + self.expert_epochs))
        assert self.synthetic.step_size is not None
        step_size = self.synthetic.step_size.to(images.dtype)
        with torch.autocast(self.device.type, enabled=False):
            return match_trajectory(self.way, student, start, target, images, labels, step_size)

    def _batches(self, t: int, place: int) -> list[Tensor]:
        """Positions of the images of each step: shuffled passes over all of them, the shorter batch of each first."""
        total = len(self.images) * self.factor**2
        batches: list[Tensor] = []
        while len(batches) < self.steps:
            order = rng.permutation(total, self.seed, "student", t, place, len(batches), device=self.device)
            batches += order.split(self._batch_size)[::-1]
        return batches[: self.steps]
