"""Reproduction of published tables: planning, running and resuming the runs, and collecting their results."""

from bacon_pl.table.command import Table

__all__ = ["Table"]
