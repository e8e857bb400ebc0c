"""Suite ``objectives``: an iteration with each objective beside one with mean matching, in DM's frame."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from bacon_pl.augment import DSA
from bacon_pl.distillers import DistributionMatching, LoggedBound, PoolSettings
from bacon_pl.distillers.matching import Matching
from bacon_pl.objectives import IID, M3D, NCFM, BaconObjective, DataDAM, MeanMatching, Objective
from benchmarks.timing import median_ratio, now
from benchmarks.workload import Settings, data_module, fit

MEAN = "mean matching"


def objectives() -> dict[str, Objective]:
    """The library's objectives by name, with mean matching first, which the others are compared with."""
    return {
        MEAN: MeanMatching(),
        "BACON": BaconObjective(),
        "DataDAM, p = 1": DataDAM(power=1),
        "DataDAM, p = 4": DataDAM(power=4),
        "IID without reference networks": IID(),
        "M3D": M3D(),
        "NCFM": NCFM(),
    }


class Turns(pl.Callback):
    """Times iterations inside the Trainer's own loop, with another objective from block to block.

    A round has a pair of blocks for every objective, one with it and one with mean matching, so that both have the
    same mood of the machine. Which is first changes from round to round.

    Args:
        s: The workload.
        contenders: Objectives by name; the first is the one the others are compared with.
    """

    def __init__(self, s: Settings, contenders: Mapping[str, Objective]) -> None:
        self.contenders = dict(contenders)
        first, *others = contenders
        self.plan = [("", name, s.warm_up) for name in contenders]  # the pair, who runs, how many iterations
        for r in range(s.rounds):
            for name in others:
                self.plan += [(name, who, s.per_round) for who in ((first, name) if r % 2 == 0 else (name, first))]
        self.steps = sum(length for _, _, length in self.plan)
        self.seconds: dict[str, dict[str, list[float]]] = {name: {first: [], name: []} for name in others}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the objectives and start the clock."""
        assert isinstance(pl_module, DistributionMatching)
        self.matching = {}
        for name, objective in self.contenders.items():
            pl_module.objective = objective
            self.matching[name] = Matching(pl_module)
        self._next_block(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stop the clock at the end of a block, and start the next one."""
        assert isinstance(pl_module, DistributionMatching)
        self._left -= 1
        if self._left:
            return
        pair, who, length = self.block
        if pair:
            self.seconds[pair][who].append((now(pl_module.device) - self._began) / length)
        if self.plan:
            self._next_block(pl_module)

    def _next_block(self, module: DistributionMatching) -> None:
        self.block = self.plan.pop(0)
        _, who, self._left = self.block
        module.objective, module.matching = self.contenders[who], self.matching[who]
        self._began = now(module.device)


def run(s: Settings, contenders: Mapping[str, Objective] | None = None) -> dict[str, Any]:
    """Time iterations in DM's frame: whole images, a new random network in each, no cross-entropy.

    There the passes and the objective are all that an iteration does.

    Args:
        s: The workload.
        contenders: Objectives by name, by default the library's.

    Returns:
        By objective: seconds of both in every round, medians, and how many times longer it takes.
    """
    contenders = objectives() if contenders is None else contenders
    turns = Turns(s, contenders)
    first, *others = contenders
    module = DistributionMatching(
        ipc=s.ipc,
        factor=1,
        objective=contenders[first],
        cross_entropy=None,
        network=s.network,
        augment=DSA(),
        per_class_steps=False,
        pool=PoolSettings(initial=1, push_every=1, capacity=1, train_networks=0),
        bound=LoggedBound(every_n_steps=0),
        lr=1e-6,  # the images stay nearly as they are, for all alike
        acceleration=s.acceleration,
        seed=s.seed,
    )
    fit(module, data_module(s), s.device, turns.steps, [turns])
    torch.compiler.reset()
    found = {}
    for name in others:
        own, mean = turns.seconds[name][name], turns.seconds[name][first]
        found[name] = {
            "seconds": {name: own, first: mean},
            "median": statistics.median(own),
            "median_beside": statistics.median(mean),
            "ratio": median_ratio(own, mean),
        }
    return {"beside": first, "objectives": found}
