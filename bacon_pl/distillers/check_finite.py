"""Numbers that are not finite: which, and since when. Nothing here asks a device anything until it is told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bacon_pl.errors import DivergedError


class FiniteCheck:
    """Remembers, on the device, the first iteration at which something was not finite."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}

    def record(self, iteration: int, numbers: Mapping[str, Sequence[Tensor]]) -> None:
        """Look at numbers without a host sync.

        Args:
            iteration: Number of the iteration.
            numbers: What is looked at, by name.
        """
        for name, tensors in numbers.items():
            bad = ~torch.stack([t.isfinite().all() for t in tensors]).all()
            first = self._first.get(name, torch.full((), -1, device=bad.device))
            self._first[name] = torch.where(bad & (first < 0), iteration, first)

    def raise_if_any(self, state_is_good: bool = False) -> None:
        """Ask, which makes a GPU wait.

        Args:
            state_is_good: The state is still that of the iteration before the last one recorded.

        Raises:
            DivergedError: Something has not been finite; names the iteration and what it was.
        """
        if not self._first:
            return
        first = dict(zip(self._first, torch.stack(list(self._first.values())).tolist(), strict=True))
        first = {name: t for name, t in first.items() if t >= 0}
        if first:
            at = min(first.values())
            names = ", ".join(name for name, t in first.items() if t == at)
            raise DivergedError(
                f"numbers went wrong at iteration {at}: not finite: {names}. Lower the learning rates, or set "
                "--model.clip_gradient where the method has it; the last good state is in the newest checkpoint.",
                state_is_good,
            )
