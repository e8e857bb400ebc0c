"""Suite ``sweep``: how the cost of our iteration grows with classes, images per class and width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import fit
from benchmarks.timing import in_child, peak_memory
from benchmarks.workload import Settings, prepare

TOLERANCE = 0.05
"""How far above 1 a measured exponent may lie: what a few timed rounds are good for."""


@dataclass(frozen=True)
class Grid:
    """The points of a sweep: every combination."""

    classes: Sequence[int] = (10, 100, 200)
    ipc: Sequence[int] = (1, 10, 50)
    width: Sequence[int] = (32, 128)


QUICK = Grid(ipc=(1, 10), width=(32,))


def run(s: Settings, grid: Grid) -> dict[str, Any]:
    """Time our iteration at every point, each in a process of its own, on random pixels.

    Args:
        s: The workload; its dataset, classes, ipc and width are the sweep's.
        grid: The points.
    """
    points = []
    for width in grid.width:
        for ipc in grid.ipc:
            for classes in grid.classes:
                point = replace(s, dataset="synthetic", classes=classes, ipc=ipc, width=width)
                measured = in_child(_measure, point)
                points.append({"classes": classes, "ipc": ipc, "width": width, **(measured or {"seconds": None})})
    growth = [
        *_growth(points, "classes", ("width", "ipc"), grid),
        *_growth(points, "ipc", ("width", "classes"), grid),
    ]
    return {"points": points, "growth": growth, "linear": all(g["exponent"] <= 1 + TOLERANCE for g in growth)}


def _measure(s: Settings) -> dict[str, Any]:
    prepare(s)
    result = fit.run(s, literal=False)
    peak, how = peak_memory(torch.device(s.device))
    return {
        "seconds": result["medians"]["ours"],
        "rounds": result["seconds"]["ours"],
        "compile_seconds": result["compile_seconds"],
        "memory": {"bytes": peak, "measured": how},
    }


def _growth(points: list[dict[str, Any]], along: str, fixed: tuple[str, str], grid: Grid) -> list[dict[str, Any]]:
    """Exponent of the cost between the ends of every line of points along one setting; 1 is linear."""
    out = []
    for a in getattr(grid, fixed[0]):
        for b in getattr(grid, fixed[1]):
            line = [p for p in points if (p[fixed[0]], p[fixed[1]]) == (a, b) and p["seconds"]]
            if len(line) < 2:
                continue
            first, last = line[0], line[-1]
            exponent = math.log(last["seconds"] / first["seconds"]) / math.log(last[along] / first[along])
            ends = {"from": first[along], "to": last[along]}
            out.append({"along": along, fixed[0]: a, fixed[1]: b, **ends, "exponent": exponent})
    return out
