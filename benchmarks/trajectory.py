"""Suite ``trajectory``: time and peak memory of the gradient of a student, for more and more of its steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from bacon_pl.networks import ConvNet, FlatNetwork
from bacon_pl.objectives import Matched, Slopes, Student, Way, label_loss, match_trajectory
from benchmarks.timing import in_child, median_ratio, now, peak_memory
from benchmarks.workload import Settings

STEPS = (4, 16, 64)
BESIDE = "graph"
COMPILED = "exact, compiled"


class Problem:
    """A student on random images; the literal way (MTT's published one) keeps one graph of all steps.

    Args:
        s: The workload; its ``classes``, ``ipc``, ``image_size`` and ``width`` count.
    """

    def __init__(self, s: Settings) -> None:
        device = torch.device(s.device)
        generator = torch.Generator().manual_seed(s.seed)
        shape = (s.classes * s.ipc, 3, s.image_size, s.image_size)
        self.images = torch.randn(shape, generator=generator).to(device)
        self.labels = torch.arange(s.classes, device=device).repeat_interleave(s.ipc)
        template = ConvNet(3, (s.image_size, s.image_size), s.classes, width=s.width).to(device)
        network = FlatNetwork(template)
        self.start = network.vector(dict(template.named_parameters())).detach()
        self.target = self.start + 0.01 * torch.randn(self.start.shape, generator=generator).to(device)
        self.all = torch.arange(len(self.labels), device=device)
        self.step_size = torch.tensor(0.01, device=device)

        def loss(weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return label_loss(network.logits(weights, x), y)

        self._slopes = {False: Slopes(loss)}
        if s.acceleration == "on":
            self._slopes[True] = Slopes(loss, compiled=True)
        self.contenders = ("exact", "graph", "tesla_direct", *([COMPILED] if s.acceleration == "on" else []))

    def run(self, contender: str, steps: int) -> Matched:
        """Compute one gradient."""
        way: Way = "exact" if contender == COMPILED else contender  # type: ignore[assignment]
        student = Student(self._slopes[contender == COMPILED], [self.all] * steps)
        given = (self.start, self.target, self.images, self.labels, self.step_size)
        return match_trajectory(way, student, *given)


def run(s: Settings, steps: Sequence[int] = STEPS, memory: bool = True) -> dict[str, Any]:
    """Time the ways to the gradient in turns, and measure their peak memory in processes of their own.

    Args:
        s: The workload.
        steps: Numbers of inner steps.
        memory: Whether to measure memory.

    Returns:
        By number of steps and way: seconds of all rounds, their median, how many times longer than the one graph it
        takes, and the peak memory beyond that of a process that has done a single step.
    """
    problem = Problem(s)
    found: dict[int, dict[str, Any]] = {}
    for count in steps:
        times: dict[str, list[float]] = {name: [] for name in problem.contenders}
        for round_ in range(-min(s.warm_up, 1), s.rounds):
            order = problem.contenders if round_ % 2 else problem.contenders[::-1]
            for name in order:
                began = now(problem.images.device)
                problem.run(name, count)
                if round_ >= 0:
                    times[name].append(now(problem.images.device) - began)
        found[count] = {
            name: {
                "seconds": own,
                "median": statistics.median(own),
                "ratio": median_ratio(own, times[BESIDE]),
                "memory": in_child(_peak, replace(s, acceleration="off"), name, count)
                if memory and name != COMPILED
                else None,
            }
            for name, own in times.items()
        }
    return {"beside": BESIDE, "steps": found}


def _peak(s: Settings, contender: str, steps: int) -> int:
    """Bytes by which the peak of so many steps exceeds that of one."""
    problem = Problem(s)
    problem.run("tesla_direct", 1)
    device = problem.images.device
    before = peak_memory(device)[0]
    problem.run(contender, steps)
    return peak_memory(device)[0] - before
