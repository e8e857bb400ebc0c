"""What a matching objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from bacon_pl import rng
from bacon_pl.configured import Configured
from bacon_pl.networks import Network, Trace, embedding

Readings = Mapping[str, Tensor]


class Objective(Configured, ABC):
    """Says how far the synthetic images of each class are from the real ones, as a network sees them.

    A new method is a subclass with one method, :meth:`terms`, chosen by class name or ``class_path`` in YAML. One that
    compares more than embeddings overrides :meth:`keep`, too.

    Attributes:
        cross_class: The terms compare classes with each other, so :meth:`terms` gets all of them at once, in order.
            Otherwise it may get any of them together, as memory and devices allow.
        uses_reference: Where the method has reference networks, trained on the real images, the terms read one's
            embeddings of the synthetic images, as ``reference`` (C, m, d') among ``syn``; it must do without, too.
    """

    cross_class: ClassVar[bool] = False
    uses_reference: ClassVar[bool] = False

    def keep(self, trace: Trace) -> dict[str, Tensor]:
        """Say what of a network's pass is compared: here the embeddings, as ``z`` (B, d).

        What is kept should be small, for all real images of an iteration are held at once.

        Args:
            trace: The pass: embeddings, logits, hidden activations and the output of every block.

        Returns:
            Tensors by name, with a row for each image, floating-point.
        """
        return {"z": trace.z}

    @property
    def keeps_embeddings_alone(self) -> bool:
        """Whether the default :meth:`keep` serves, so that passes may go the fastest way."""
        return type(self).keep is Objective.keep

    def read(self, network: Network, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Run one pass and keep what is compared, and the logits.

        Args:
            network: The network.
            x: Normalized images (B, ch, H, W).

        Returns:
            What :meth:`keep` keeps, and logits (B, K).
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

    @abstractmethod
    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the loss, term by term.

        Args:
            syn: What was kept of the synthetic images' pass, with gradient, by name: (C, m, …) each; by default the
                embeddings ``z`` (C, m, d).
            real: What was kept of the real images' pass, without gradient, by the same names: (C, n, …) each.
            mask: (C, n) bool, False where a class has fewer than n images and the row is filler; None means all rows
                count.

        Returns:
            Term name → (C,), each with its weight applied; the class's matching loss is their sum.
        """
