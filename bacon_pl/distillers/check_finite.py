"""Detection of numbers that are not finite, without synchronizing with the device until this is requested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bacon_pl.errors import DivergedError


class FiniteCheck:
    """Records on the device the first iteration in which each of several numbers was not finite."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}

    def record(self, iteration: int, numbers: Mapping[str, Sequence[Tensor]]) -> None:
        """Check numbers without synchronizing with the device.

        Args:
            iteration: Number of the iteration.
            numbers: Tensors to check, by name.
        """
        for name, tensors in numbers.items():
            bad = ~torch.stack([t.isfinite().all() for t in tensors]).all()
            first = self._first.get(name, torch.full((), -1, device=bad.device))
            self._first[name] = torch.where(bad & (first < 0), iteration, first)

    def raise_if_any(self, state_is_good: bool = False) -> None:
        """Raise an error if a recorded number was not finite. This synchronizes with the device.

        Args:
            state_is_good: Whether the parameters are still those before the last recorded iteration.

        Raises:
            DivergedError: A number was not finite; the message names it and the iteration.
        """
        if not self._first:
            return
        first = dict(zip(self._first, torch.stack(list(self._first.values())).tolist(), strict=True))
        first = {name: t for name, t in first.items() if t >= 0}
        if first:
            at = min(first.values())
            names = ", ".join(name for name, t in first.items() if t == at)
            raise DivergedError(
                f"the run diverged at iteration {at}: not finite: {names}. Lower the learning rates, or set "
                "--model.clip_gradient where the method has it; the last good state is in the newest checkpoint.",
                state_is_good,
            )
