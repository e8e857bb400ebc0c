"""Recovery: images optimized from noise until a trained network knows them (SRe2L, CDA)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.augment.views import View, Views
from bacon_pl.data import IterationBatch
from bacon_pl.distillers.base import Distiller
from bacon_pl.distillers.squeeze import Squeeze, Squeezed, batch_norms
from bacon_pl.distributed import all_reduce_sum, own_share
from bacon_pl.errors import BaconError
from bacon_pl.learners import Pretraining, teachers
from bacon_pl.networks import Acceleration, ModifiedResNet18
from bacon_pl.objectives.recovery import image_l2, tv_l2
from bacon_pl.selection import Start


class Recovery(Distiller):
    """Optimizes images from noise until a trained network classifies them and its batch norms see what they saw in
    training.

    SRe2L (arXiv 2306.13092) and CDA (arXiv 2311.18838) are settings of this class. Real images are needed for the
    teacher alone. Batches are recovered independently of each other: a batch has one image of each of ``batch_size``
    classes or, if there are fewer classes, several images of every class. One iteration shows each batch under one view
    (crop, flip, roll) to the teacher and takes one step of Adam on all images; then pixels are clamped to [0, 1].
    Several processes share the batches.

    Args:
        ipc: Images per class.
        factor: Must be 1: whole images are recovered.
        start: Initial images; ``noise`` is standard normal in normalized pixel space, as published.
        method: Name of the method in results.
        iterations: Steps of the images, at most; ``--trainer.max_steps`` may end a run before. The learning rate falls
            along a cosine to 0 over the shorter of the two.
        lr: Learning rate of Adam at the start.
        betas: Decay of Adam's running averages of the gradient and of its square.
        statistics_weight: Weight of the statistics term.
        first_weight: Factor of the first batch norm in it.
        tv_weight: Weight of the norm of the differences of neighboring pixels; 0 as published.
        l2_weight: Weight of the mean norm of the images; 0 as published.
        batch_size: Images per batch, over which statistics are taken.
        views: How the teacher is shown the images.
        teacher: The network from which images are recovered. It is trained before the first run that needs it.
        pretraining: Most that is spent on the teacher, as a budget sets it.
        acceleration: Whether the teacher's training is compiled and in bfloat16: ``on``, ``off``, ``auto`` or
            ``measured``.
        seed: Seed of every draw; by default that of ``seed_everything``.

    Raises:
        BaconError: An argument is out of range.
    """

    free_settings = ("acceleration",)

    def __init__(
        self,
        ipc: int = 10,
        factor: int = 1,
        start: Start = Start("noise"),
        method: str = "sre2l",
        iterations: int = 1000,
        lr: float = 0.25,
        betas: tuple[float, float] = (0.5, 0.9),
        statistics_weight: float = 0.01,
        first_weight: float = 10.0,
        tv_weight: float = 0.0,
        l2_weight: float = 0.0,
        batch_size: int = 100,
        views: Views = Views(),
        teacher: Squeeze = Squeeze(),
        pretraining: Pretraining = Pretraining(),
        acceleration: Acceleration = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__(ipc, factor, start, method, seed)
        if factor != 1:
            raise BaconError(f"Recovery makes whole images: set --model.factor 1, got {factor}.")
        ranges.whole("--model.", iterations=iterations, batch_size=batch_size)
        ranges.positive("--model.", lr=lr)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise BaconError(f"--model.betas must be two numbers in [0, 1), got {list(betas)}.")
        ranges.not_negative("--model.", statistics_weight=statistics_weight, first_weight=first_weight)
        ranges.not_negative("--model.", tv_weight=tv_weight, l2_weight=l2_weight)
        self.iterations = self.num_iterations = iterations
        self.lr = lr
        self.betas = (betas[0], betas[1])
        self.statistics_weight = statistics_weight
        self.first_weight = first_weight
        self.tv_weight = tv_weight
        self.l2_weight = l2_weight
        self.batch_size = batch_size
        self.views = views
        self.pretraining = pretraining
        self.teacher = pretraining.limit(teacher)
        self.acceleration: Acceleration = acceleration
        self._teacher: list[Squeezed] = []  # in a list, as it is no part of the module

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one Adam for all images; its steps are elementwise, so that batches stay independent.

        Raises:
            BaconError: The images are whitened, so that their pixels cannot be clamped.
        """
        if self.meta.whitening is not None:
            raise BaconError(
                "Recovery clamps the pixels of its images, which cannot be done in whitened space: leave "
                "--data.whitening out."
            )
        return torch.optim.Adam([self.images], self.lr, self.betas, eps=1e-8)

    def prepare(self) -> None:
        """Make the teacher, training it if it is not in the cache, and divide the images into batches.

        Raises:
            BaconError: The teacher's architecture has no batch norm.
        """
        network = self.make_network(self.teacher.network or ModifiedResNet18, "template")
        batch_norms(network)  # before it is trained
        (teacher,) = teachers(self.teacher, self.data.train, self.meta, ModifiedResNet18, self.acceleration)
        teacher.prepare(self.device)
        network.load_state_dict(teacher.state)  # in the type of the images
        self._teacher = [Squeezed(network, self.first_weight)]
        rows = batches(self.meta.num_classes, self.ipc, self.batch_size)
        self._rows = [row.to(self.device) for row in rows]

    @property
    def planned(self) -> int:
        """Number of iterations of the run, over which the learning rate falls."""
        most = self.trainer.max_steps
        return self.iterations if most < 0 else min(most, self.iterations)

    def iterate(self, batch: IterationBatch) -> None:
        """Take one step of all images. Several processes share the batches.

        Args:
            batch: Only its number counts; no real images are drawn.
        """
        t, total = batch.iteration, self.planned
        gradient = torch.zeros_like(self.images)
        numbers = gradient.new_zeros(len(self._weights) + 1, len(self._rows))  # the last row counts hits
        with self.profile("recover"):
            for k in own_share(len(self._rows)):
                view = self.views.draw(self.meta.size, t / total, self.seed, "view", k, t)
                gradient[self._rows[k]], numbers[:, k] = self._gradient(k, view)
        all_reduce_sum([gradient, numbers])
        terms = {name: numbers[i] for i, name in enumerate(self._weights)}
        self.check_finite({**{name: [value] for name, value in terms.items()}, "gradient": [gradient]}, True)
        with self.profile("update"):
            self._step(gradient, self.lr * (1 + math.cos(math.pi * t / total)) / 2)
        self.log_terms(terms)
        self.log("teacher/views", 100 * numbers[-1].sum() / len(self.images), prog_bar=True)
        if t + 1 == total:
            self._tell()

    @property
    def _weights(self) -> dict[str, float]:
        """Weights of the terms of the loss that count."""
        weights = {"statistics": self.statistics_weight, "tv": self.tv_weight, "l2": self.l2_weight}
        return {"ce": 1.0, **{name: weight for name, weight in weights.items() if weight}}

    def _gradient(self, k: int, view: View) -> tuple[Tensor, Tensor]:
        """Return the gradient on the images of a batch, and its weighted terms followed by its hits, (terms + 1,)."""
        labels = self._rows[k] // self.ipc
        with torch.enable_grad():
            x = self.images.detach()[self._rows[k]].requires_grad_()
            shown = view(x)
            logits, gap = self._teacher[0](shown)
            losses = {"ce": F.cross_entropy(logits, labels), "statistics": gap}
            if self.tv_weight:
                losses["tv"] = tv_l2(shown)
            if self.l2_weight:
                losses["l2"] = image_l2(shown)
            terms = torch.stack([weight * losses[name] for name, weight in self._weights.items()])
            (gradient,) = torch.autograd.grad(terms.sum(), x)
        hits = (logits.argmax(1) == labels).sum()
        return gradient, torch.cat([terms.detach(), hits[None].to(terms.dtype)])

    def _step(self, gradient: Tensor, lr: float) -> None:
        """Take a step of Adam and clamp the pixels to [0, 1]."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        optimizer.param_groups[0]["lr"] = lr
        self.images.grad = gradient
        optimizer.step()
        with torch.no_grad():
            self.images.clamp_(*self.meta.limits(self.images.dtype, self.device))

    @torch.no_grad()
    def _tell(self) -> None:
        """Log and say how many of the finished images, as they are, the teacher takes for what they are meant to be."""
        hits = torch.zeros(1, dtype=torch.int64, device=self.device)
        for k in own_share(len(self._rows)):
            logits, _ = self._teacher[0](self.images[self._rows[k]])
            hits += (logits.argmax(1) == self._rows[k] // self.ipc).sum()
        all_reduce_sum([hits])
        share = 100 * hits[0] / len(self.images)
        self.log("teacher/images", share)
        rank_zero_info(f"The teacher recognizes {float(share):.1f} % of the recovered images.")


def batches(num_classes: int, ipc: int, batch_size: int) -> list[Tensor]:
    """Divide the images of a set, class by class, into batches in which classes are mixed.

    Args:
        num_classes: Number of classes C.
        ipc: Images per class.
        batch_size: Images per batch, at most.

    Returns:
        Positions of each batch's images (n,), int64. With at least as many classes as ``batch_size``, a batch has one
        image of each of so many classes; otherwise, as many images of every class as fit.
    """
    each = max(1, min(ipc, batch_size // num_classes))
    together = min(num_classes, batch_size)
    table = torch.arange(num_classes * ipc).view(num_classes, ipc)
    return [
        table[c : c + together, i : i + each].flatten()
        for i in range(0, ipc, each)
        for c in range(0, num_classes, together)
    ]
