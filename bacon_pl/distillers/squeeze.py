"""The teacher from which images are recovered: a network with batch norm, trained on the real images and frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from jsonargparse import lazy_instance
from torch import Tensor, nn

from bacon_pl.augment import Augmentation, Chain
from bacon_pl.errors import BaconError
from bacon_pl.learners import TeacherSettings
from bacon_pl.networks import ModifiedResNet18, Network, NetworkFactory
from bacon_pl.objectives.recovery import statistics_gap


@dataclass(frozen=True)
class Squeeze(TeacherSettings):
    """The network from which images are recovered: trained on the real images before the run, or read from a file.

    Args:
        count: 1, since images are recovered from one network.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Learning rate, the highest that the schedule reaches.
        momentum: Momentum of SGD; AdamW does not use it.
        weight_decay: Weight decay.
        augment: Augmentation of every batch; null is none.
        seed: Seed of its weights, batches and augmentation; the run's own plays no part, so that runs share it.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``constant``, or ``cosine``: decrease from lr to 0 over the training.
        warmup: Share of the training, in [0, 1), in which the learning rate rises to lr first, step by step.
        network: Its architecture, which must have batch norm; null is ``ModifiedResNet18``.
        file: A trained network of one's own instead: a safetensors file with the parameters and buffers of ``network``
            under the names that they have there. It is never trained, so that of the other settings only ``network``
            counts.

    Raises:
        BaconError: An argument is out of range.
    """

    epochs: int = 200
    batch_size: int = 128
    lr: float = 0.1
    augment: Augmentation | None = field(default_factory=lambda: lazy_instance(Chain, groups=["crop", "flip"]))
    network: NetworkFactory | None = ModifiedResNet18

    option: ClassVar[str] = "--model.teacher"
    narrowed_to: ClassVar[str] = "teacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count != 1:
            raise BaconError(f"{self.option}.count must be 1, for images are recovered from one, got {self.count}.")


def batch_norms(network: Network) -> list[nn.BatchNorm2d]:
    """Return the batch norms of a network that keep running statistics, in the order of its modules.

    Raises:
        BaconError: There are none.
    """
    found = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    if not found:
        raise BaconError(
            f"the teacher, {type(network).__name__}, has no batch norm, whose statistics images are recovered from: "
            "give --model.teacher.network ModifiedResNet18, or a ConvNet with norm batch."
        )
    return found


class Squeezed:
    """A trained teacher, frozen in eval mode, that tells how far images' statistics are from those of its training.

    Args:
        network: The trained network.
        first: Factor of the first batch norm's gap.
    """

    def __init__(self, network: Network, first: float) -> None:
        self.network = network.eval().requires_grad_(False)
        self.first = first
        self._gaps: list[Tensor] = []
        for number, layer in enumerate(batch_norms(network)):
            layer.register_forward_pre_hook(self._hook(number))

    def _hook(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, nn.BatchNorm2d)
            mean, var = layer.running_mean, layer.running_var
            assert mean is not None and var is not None
            # Not in the reduced precision of an autocast region, where a variance would hardly have digits.
            gap = statistics_gap(inputs[0].to(mean.dtype), mean, var)
            self._gaps.append(gap * self.first if number == 0 else gap)

        return hook

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a pass on images (B, ch, H, W).

        Returns:
            Logits (B, C), and the weighted sum of the gaps of all batch norms, 0-d; both differentiable.
        """
        self._gaps = []
        logits = self.network(x)[1].to(x.dtype)
        gaps, self._gaps = self._gaps, []
        total = gaps[0]
        for gap in gaps[1:]:
            total = total + gap
        return logits, total.to(x.dtype)
