"""Suite ``together``: several networks as one batched program, and one after another."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bacon_pl import rng
from bacon_pl.networks import StatelessNetwork, fused, resolve_acceleration
from benchmarks.timing import median_ratio, now
from benchmarks.workload import Settings, data_module


def run(s: Settings, networks: int) -> dict[str, Any]:
    """Time training steps of all networks, forward and backward, both ways in turns.

    Args:
        s: The workload; a step is one batch of ``pool_batch`` images for every network.
        networks: How many networks.
    """
    device = torch.device(s.device)
    meta = data_module(s).meta
    made = []
    for k in range(networks):
        with rng.seeded(s.seed, "network", k):
            made.append(s.network(meta.channels, meta.size, meta.num_classes).to(device))
    states = [dict(network.named_parameters()) for network in made]
    weights = {name: torch.stack([st[name].detach() for st in states]).requires_grad_() for name in states[0]}
    x = torch.randn(networks, s.pool_batch, meta.channels, *meta.size, device=device)
    y = torch.randint(0, meta.num_classes, (networks, s.pool_batch), device=device)

    def step(program: StatelessNetwork) -> tuple[Tensor, ...]:
        if device.type == "cpu" and program.plan.compiled:  # the CPU's kernels know one network only
            (fused.unload if program.way == "batched" else fused.load)()
        _, logits = program.side_by_side(weights, x)
        losses = F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)
        return torch.autograd.grad(losses.sum(), list(weights.values()))

    image = (meta.channels, *meta.size)
    plan = resolve_acceleration(s.acceleration, made[0], image, math.inf, device)  # as in a long run
    programs = {}
    for batched in (True, False):
        program = StatelessNetwork(made[0], plan)
        program.way = "batched" if batched else "in turn"
        step(program)
        programs["together" if batched else "one after another"] = program
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(s.warm_up + s.rounds):
        for name, program in programs.items():
            start = now(device)
            for _ in range(s.per_round):
                step(program)
            seconds[name].append((now(device) - start) / s.per_round)
    timed = {name: values[s.warm_up :] for name, values in seconds.items()}
    return {
        "networks": networks,
        "seconds": timed,
        "medians": {name: statistics.median(values) for name, values in timed.items()},
        "ratio": median_ratio(timed["together"], timed["one after another"]),
    }
