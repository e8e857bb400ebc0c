"""The interface of matching objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from bacon_pl import rng
from bacon_pl.configured import Configured
from bacon_pl.networks import Network, Trace, embedding
from bacon_pl.objectives.adversary import Adversary

Readings = Mapping[str, Tensor]


class Objective(Configured, ABC):
    """Measures the distance between the synthetic and the real images of each class in the features of a network.

    A new objective is a subclass that implements :meth:`terms`, selected by class name or ``class_path`` in YAML. An
    objective that compares more than embeddings also overrides :meth:`keep`.

    Attributes:
        cross_class: Whether the terms compare classes with each other. If so, :meth:`terms` gets all classes at once,
            in order; otherwise it may get any subset of them, depending on memory and devices.
        uses_reference: Whether the terms read the embeddings of the synthetic images by a reference network, as
            ``reference`` (C, m, d') in ``syn``, if the method has such networks. They must work without, too.
        published_name: Name in results of a method by this objective that has no other; by default that of the class.
        fewest: Number of synthetic images of a class, tiles counted, below which a term has no gradient.
    """

    cross_class: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False
    published_name: ClassVar[str] = ""
    fewest: ClassVar[int] = 1

    def keep(self, trace: Trace) -> dict[str, Tensor]:
        """Select the results of a network's pass that are compared; by default the embeddings, as ``z`` (B, d).

        The selected tensors should be small, since those of all real images of an iteration are in memory at once.

        Args:
            trace: Results of the pass: embeddings, logits, hidden activations and the output of every block.

        Returns:
            Floating-point tensors by name, with one row per image.
        """
        return {"z": trace.z}

    @property
    def keeps_embeddings_alone(self) -> bool:
        """Whether :meth:`keep` is the default one, which allows the fastest passes."""
        return type(self).keep is Objective.keep

    def read(self, network: Network, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Run one pass and return the compared results and the logits.

        Args:
            network: The network.
            x: Normalized images (B, ch, H, W).

        Returns:
            The tensors selected by :meth:`keep`, and the logits (B, K).
        """
        trace = Trace(*embedding(network, x)) if self.keeps_embeddings_alone else network.trace(x)
        return self.keep(trace), trace.logits

    def draw(self, real: Readings, *keys: rng.Key) -> dict[str, Tensor]:
        """Draw at random what the terms need, as a function of coordinates alone; here nothing.

        Args:
            real: What was kept of the real images' pass, for shapes, type and device.
            keys: Coordinates of the draw: seed, purpose, iteration.

        Returns:
            Tensors by name, which :meth:`terms` finds among ``real``.
        """
        return {}

    def adversary(self, real: Readings) -> Adversary | None:
        """Make the parameters that maximize the terms while the images minimize them; here there are none.

        Their initial values may be drawn from torch's global generator, which depends on the seed alone here.

        Args:
            real: What is kept of some images, (C, n, …) each, for shapes.

        Returns:
            The parameters, whose pass gives tensors that :meth:`terms` finds among ``real``, or None.
        """
        return None

    @abstractmethod
    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            syn: Tensors of the synthetic images by name as selected by :meth:`keep`, (C, m, …) each, with gradient; by
                default the embeddings ``z`` (C, m, d).
            real: Tensors of the real images by the same names, (C, n, …) each, without gradient.
            mask: (C, n) bool, False for filler rows of classes with fewer than n images; None if all rows count.

        Returns:
            Terms by name, (C,) each, with their weights applied. The matching loss of a class is their sum.
        """
