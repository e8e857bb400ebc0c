"""Reference networks: trained on the real images and fixed, they see the synthetic ones beside the matched network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacon_pl import rng
from bacon_pl.learners import Pretraining, RealTraining, TrainedNetworks
from bacon_pl.networks import Network, NetworkFactory, Plan, StatelessNetwork
from bacon_pl.networks.placing import placed

__all__ = ["HeldNetworks", "Pretraining", "Reference", "ReferenceNetworks"]

MOST_HELD = 40
"""States of networks that are held in memory; beyond, they are read from their files again when they are drawn."""


@dataclass(frozen=True)
class Reference(RealTraining):
    """Networks trained on the real images, one of which, drawn in every iteration, sees the synthetic images, too.

    Its weights are fixed. What it makes of the images, augmented as for the matched network, is read by an objective
    such as IID. IID (arXiv 2404.00563) has a thousand ResNet18; its code says that fewer do.

    Args:
        count: How many.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Learning rate, the highest that the schedule reaches.
        momentum: Momentum of SGD; AdamW does not use it.
        weight_decay: Weight decay.
        augment: Augmentation of every batch; null, as published for IID, is none.
        seed: Seed of their weights, batches and augmentation; the run's own plays no part, so that runs share them.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``constant``, or ``cosine``: decrease from lr to 0 over the training.
        warmup: Share of the training, in [0, 1), in which the learning rate rises to lr first, step by step.
        network: What they are; the matched network's architecture by default.

    Raises:
        BaconError: An argument is out of range.
    """

    network: NetworkFactory | None = None


class HeldNetworks:
    """Networks trained on the real images, their weights where they are used.

    Args:
        trained: Their files.
        template: The architecture, on the device and of the type that they are to have.
    """

    def __init__(self, trained: TrainedNetworks, template: Network) -> None:
        self.trained = trained
        self.template = template
        self._held: dict[tuple[int, int], dict[str, Tensor]] = {}

    def state(self, number: int, epochs: int) -> dict[str, Tensor]:
        """A network's parameters and buffers by name after so many epochs."""
        if (number, epochs) not in self._held:
            if len(self._held) >= MOST_HELD:
                del self._held[next(iter(self._held))]
            like = next(self.template.parameters())
            self._held[number, epochs] = {
                name: placed(t, like.device, like.dtype if t.is_floating_point() else t.dtype)
                for name, t in self.trained.state(number, epochs).items()
            }
        return self._held[number, epochs]


class ReferenceNetworks:
    """Networks trained on the real images, of which an iteration draws one.

    Args:
        trained: Their files.
        template: The architecture, where the images are and of their type; its own weights are never used.
        plan: How passes are run.
        seed: The run's seed.
    """

    def __init__(self, trained: TrainedNetworks, template: Network, plan: Plan, seed: int) -> None:
        self.trained = trained
        self.model = StatelessNetwork(template, plan)
        # As trained networks are used: statistics are those of training, nothing is dropped, so rows never meet.
        self.template = template.eval()
        self.seed = seed
        self._held = HeldNetworks(trained, template)

    def drawn(self, iteration: int) -> int:
        """Number of the network that an iteration draws."""
        return rng.derive(self.seed, "reference network", iteration) % self.trained.count

    def embed(self, x: Tensor, iteration: int) -> Tensor:
        """Embed normalized images (B, ch, H, W) by the iteration's network, with gradient: (B, d)."""
        state = self._held.state(self.drawn(iteration), self.trained.snapshots[-1])
        z: Tensor = self.model(state, x)[0]
        return z
