"""The command ``bacon cache``, which shows and clears the cache. It does not import torch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from bacon_pl.cache_files import Entry, clear, entries
from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import cache_dir

USAGE = """usage: bacon cache
       bacon cache clear [--older_than DAYS]

Show what is kept between runs (decoded image files, matrices of whitenings, networks trained on real images, compiled
kernels, and what was measured to be fastest on a GPU), or remove it; all of it is made again when it is needed.
Networks that a run is training stay. The cache lies in $BACON_CACHE, else in $XDG_CACHE_HOME/bacon_pl, else in
~/.cache/bacon_pl.

  --older_than DAYS    remove only what was written more than so many days ago
"""
_KINDS = {
    "images": "decoded images",
    "kernels": "compiled kernels",
    "measured": "measured choices",
    "networks": "trained networks",
    "whitening": "whitening matrices",
    "part": "unfinished file",
}


class Cache:
    """Show or clear the cache."""

    name = "cache"

    def __init__(self, args: Sequence[str]) -> None:
        words = list(args)
        self.help = bool({"-h", "--help"} & set(words))
        self.clears = words[:1] == ["clear"]
        self.older_than = 0.0
        if self.help:
            return
        rest = words[1:] if self.clears else words
        if self.clears and rest and rest[0].partition("=")[0] == "--older_than":
            _, equals, value = rest.pop(0).partition("=")
            if not equals:
                value = rest.pop(0) if rest else ""
            self.older_than = _days(value)
        if rest and not self.clears and rest[0].startswith("--older_than"):
            raise BaconError("--older_than goes with clear: bacon cache clear --older_than DAYS.")
        if rest:
            kind = "option" if rest[0].startswith("-") else "argument"
            raise BaconError(f"unknown {kind} {one_line(rest[0], 80)}. `--help` shows what may be given.")

    def run(self) -> None:
        """Show or clear the cache."""
        if self.help:
            print(USAGE, end="")
        elif self.clears:
            removed = clear(self.older_than)
            freed = decimal(sum(entry.size for entry in removed))
            print(f"removed {_files(removed)} from {cache_dir()}: {freed} freed")
            for entry in entries()[0]:
                if entry.in_use:
                    print(f"kept {entry.path}, in which a run is training networks")
        else:
            print("\n".join(listing()))


def listing() -> list[str]:
    """Describe the location, the content (largest files first) and the size of the cache."""
    own, others = entries()
    lines = [f"cache: {cache_dir()} ({_chosen_by()})"]
    rows = [_row(entry) for entry in own]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    for kind, name, size, date, source in rows:
        lines.append(
            f"  {kind:{widths[0]}}  {name:{widths[1]}}  {size:>{widths[2]}}  {date:{widths[3]}}  {source}".rstrip()
        )
    if others:
        lines.append(f"  {len(others)} other files or folders lie there, which are not the cache's")
    total = decimal(sum(entry.size for entry in own))
    lines.append(f"total: {_files(own)}, {total}" if own else "total: nothing is kept")
    return lines


def _files(found: Sequence[Entry]) -> str:
    number = sum(entry.files for entry in found)
    return f"{number} file{'s' * (number != 1)}"


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    days = int((time.time() - entry.time) // 86_400)
    age = "today" if days < 1 else f"{days} day{'s' * (days > 1)} ago"
    date = f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.time))} ({age})"
    source = one_line(entry.about) + " (being trained)" * entry.in_use
    if entry.source is not None:
        gone = "" if Path(entry.source).exists() else " (no longer there)"
        source = f"{one_line(entry.source)}{gone}"
    return _KINDS[entry.kind], one_line(entry.name, 40), decimal(entry.size), date, source


def _chosen_by() -> str:
    if os.environ.get("BACON_CACHE"):
        return "$BACON_CACHE"
    return "$XDG_CACHE_HOME" if os.environ.get("XDG_CACHE_HOME") else "set BACON_CACHE to choose another folder"


def _days(value: str) -> float:
    try:
        days = float(value)
    except ValueError:
        days = -1.0
    if not (days >= 0 and math.isfinite(days)):
        raise BaconError(f"--older_than must be a number of days, at least 0, got '{one_line(value, 40)}'.")
    return days
