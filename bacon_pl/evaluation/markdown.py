"""Tables in Markdown, for reports and notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bacon_pl.evaluation.lines import accuracy_cells


def accuracy_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Format accuracies by architecture and training set.

    Args:
        runs: The entry ``runs`` of the results.
    """
    columns, rows = accuracy_cells(runs)
    head = ["network", *columns]
    return markdown_table(head, [[escaped(network), *cells] for network, cells in rows.items()])


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table whose first column is text and whose other columns are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Escape text from files, so that it is not interpreted as Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+!|~" else c if c.isprintable() else "?" for c in text)
