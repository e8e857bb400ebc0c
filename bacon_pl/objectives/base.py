"""What a matching objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Objective(ABC):
    """Says how far the synthetic embeddings of each class are from the real ones.

    A new method is a subclass with this one method, chosen by class name or ``class_path`` in YAML.
    """

    @abstractmethod
    def terms(self, z_syn: Tensor, z_real: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the loss, term by term.

        Args:
            z_syn: Synthetic embeddings (C, m, d), with gradient.
            z_real: Real embeddings (C, n, d), without.
            mask: (C, n) bool, False where a class has fewer than n images and the row is filler; None means all rows
                count.

        Returns:
            Term name → (C,), each with its weight applied; the class's matching loss is their sum.
        """
