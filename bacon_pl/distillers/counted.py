"""Passes of the real images that count, without the rows that fill up classes with fewer images than others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class CountedRows:
    """The rows that count, which are the same in every iteration: they follow from the sizes of the classes."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None

    def of(self, mask: Tensor) -> Tensor:
        """Return the positions of the rows that count.

        A GPU is waited for the first time alone.

        Args:
            mask: (C, n) bool, True where a row counts; the same in every call.

        Returns:
            Positions in the flattened mask, int64, in ascending order.
        """
        if self._rows is None:
            self._rows = mask.flatten().nonzero().squeeze(1)
        return self._rows


def filled_up(found: Mapping[str, Tensor], rows: Tensor, total: int) -> dict[str, Tensor]:
    """Put what was found of the rows that count where they belong, with zeros between.

    Args:
        found: Tensors by name, with one row for each of ``rows``.
        rows: (R,) int64, their positions.
        total: Number of rows with those that do not count.

    Returns:
        Tensors with ``total`` rows.
    """
    return {name: v.new_zeros(total, *v.shape[1:]).index_copy_(0, rows, v) for name, v in found.items()}
