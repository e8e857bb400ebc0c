"""Detection of numbers that are not finite, without synchronizing with the device until this is requested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bacon_pl.errors import DivergedError


class FiniteCheck:
    """Records on the device the first iteration in which each of several numbers was not finite."""

    def __init__(self) -> None:
        # By names and how many tensors each has: the iteration for each tensor, or -1.
        self._first: dict[tuple[tuple[str, int], ...], Tensor] = {}

    def record(self, iteration: int, numbers: Mapping[str, Sequence[Tensor]]) -> None:
        """Check numbers without synchronizing with the device, in a handful of launches however many they are.

        Args:
            iteration: Number of the iteration.
            numbers: Tensors to check, by name.
        """
        # Whole numbers are finite, and so are no numbers.
        checked = {n: [t for t in ts if t.is_floating_point() and t.numel()] for n, ts in numbers.items()}
        layout = tuple((name, len(tensors)) for name, tensors in checked.items() if tensors)
        if not layout:
            return
        # The largest magnitude of a tensor is finite if, and only if, all of its numbers are.
        largest = torch._foreach_norm([t.detach() for tensors in checked.values() for t in tensors], math.inf)
        bad = ~torch.stack(largest).isfinite()
        if (first := self._first.get(layout)) is None:
            first = torch.full((len(bad),), -1, device=bad.device)
        self._first[layout] = torch.where(bad & (first < 0), iteration, first)

    def raise_if_any(self, state_is_good: bool = False) -> None:
        """Raise an error if a recorded number was not finite. This synchronizes with the device.

        Args:
            state_is_good: Whether the parameters are still those before the last recorded iteration.

        Raises:
            DivergedError: A number was not finite; the message names it and the iteration.
        """
        if not self._first:
            return
        names = [name for layout in self._first for name, count in layout for _ in range(count)]
        first: dict[str, int] = {}
        for name, t in zip(names, torch.cat(list(self._first.values())).tolist(), strict=True):
            if t >= 0:
                first[name] = min(t, first.get(name, t))
        if first:
            at = min(first.values())
            what = ", ".join(name for name, t in first.items() if t == at)
            raise DivergedError(
                f"the run diverged at iteration {at}: not finite: {what}. Lower the learning rates, or set "
                "--model.clip_gradient where the method has it; the last good state is in the newest checkpoint.",
                state_is_good,
            )
