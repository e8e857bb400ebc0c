"""The published tables: which runs they take, how those are run and resumed, and what comes of them."""

from bacon_pl.table.command import Table

__all__ = ["Table"]
