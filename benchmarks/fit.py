"""Suites ``fit`` and ``parts``: our iteration against the literal one, and where ours spends its time."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch._dynamo.utils import counters

from bacon_pl.data import DataModule, IterationBatch
from bacon_pl.distillers import DistributionMatching
from bacon_pl.networks import StatelessNetwork
from bacon_pl.networks.acceleration import has_bfloat16
from bacon_pl.networks.captured import CHECKED
from benchmarks.literal import LiteralDistillation
from benchmarks.roofline import Device, Work, count_passes
from benchmarks.timing import Parts, in_child, median_ratio, now, peak_memory
from benchmarks.workload import Settings, data_module, distill_module, fit, literal_of, memory_of_literal, prepare

OVERHEAD = "logging and the rest"


class Alternation(pl.Callback):
    """Times iterations inside the Trainer's own loop, so that all that users pay is in them.

    Iterations of the loop are ours; the literal ones run between them, while our clock stands.

    Args:
        s: The workload.
        literal: Whether to run the literal contender.
        parts: Whether each round also has iterations of ours that are split into parts.
        plain_rounds: Rounds that also have iterations of ours without acceleration.
    """

    def __init__(self, s: Settings, literal: bool, parts: bool, plain_rounds: int) -> None:
        self.s = s
        self.with_literal = literal
        # One block a word; those of warm-up are one iteration long. On a GPU, recordings are checked in the first ones.
        self.plan = ["warm-up"] * (s.warm_up if s.device == "cpu" else max(s.warm_up, CHECKED + 2))
        for r in range(s.rounds):
            self.plan += ["ours"] + ["parts"] * parts + ["plain"] * (r < plain_rounds)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.parts: list[dict[str, float]] = []
        self.unwatched: list[str] = []
        self.graphs = 0
        self.recompiled = 0
        self._literal_iteration = 0

    @property
    def steps(self) -> int:
        """Iterations that the Trainer has to run."""
        return sum(self._length(word) for word in self.plan)

    def _length(self, word: str) -> int:
        return 1 if word == "warm-up" else self.s.per_round

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the contenders up, warm the literal one up, and start the clock."""
        assert isinstance(pl_module, DistributionMatching)
        self.device, self.data = pl_module.device, data_of(trainer)
        self.programs = {"ours": pl_module.pool.model}
        self.programs["plain"] = StatelessNetwork(pl_module.pool.template)
        self.recorded = (pl_module.matching.captured, pl_module.pool.captured)
        self.clock = Parts(self.device)
        self._watch(pl_module, trainer)
        if self.with_literal:
            self.literal = literal_of(pl_module, self.device)
            self._run_literal("literal warm-up", 1)
        self._left = 0
        self._next_block(pl_module)

    def _watch(self, module: DistributionMatching, trainer: pl.Trainer) -> None:
        watched = (
            (IterationBatch, "matching", "sampling"),
            (IterationBatch, "random_batches", "sampling"),
            (module.augment, "siamese", "augmentation"),
            (module.matching, "read_real", "real forward"),
            (module.matching, "read_synthetic", "synthetic forward and backward"),
            (module.objective, "terms", "synthetic forward and backward"),
            (module.matching, "add_cross_entropy", "synthetic forward and backward"),
            (module.matching, "gradient", "synthetic forward and backward"),
            (trainer.optimizers[0], "step", "image update"),
            (module.pool, "train", "pool training"),
            (module.pool, "advance", "pool training"),
        )
        self.unwatched = [method for owner, method, name in watched if not self.clock.watch(owner, method, name)]

    def _run_literal(self, word: str, iterations: int) -> None:
        with memory_of_literal(self.s):
            start = now(self.device)
            for _ in range(iterations):
                self.literal.iteration(self.data.iteration_batch(self._literal_iteration, self.s.seed, self.device))
                self._literal_iteration += 1
            self.seconds[word].append((now(self.device) - start) / iterations)

    def _next_block(self, module: DistributionMatching) -> None:
        if not self.plan:
            return
        self.word = self.plan.pop(0)
        self._left = self._length(self.word)
        self.clock.on = self.word == "parts"
        module.pool.model = self.programs["plain" if self.word == "plain" else "ours"]
        # A recording neither has parts nor follows the model.
        as_run = self.word in ("warm-up", "ours")
        module.matching.captured, module.pool.captured = self.recorded if as_run else (None, None)
        self._began = now(self.device)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stop our clock at the end of a block, let the literal contender run, and start the next block."""
        assert isinstance(pl_module, DistributionMatching)
        self._left -= 1
        if self._left:
            return
        length = self._length(self.word)
        seconds = (now(self.device) - self._began) / length
        self.seconds[self.word].append(seconds)
        if self.word == "parts":
            taken = {name: value / length for name, value in self.clock.take().items()}
            self.parts.append({**taken, OVERHEAD: seconds - sum(taken.values())})
        # What the plain program compiles is none of ours (it compiles nothing).
        graphs = counters["stats"]["unique_graphs"]
        self.recompiled += (graphs - self.graphs) * (self.word != "warm-up")
        self.graphs = graphs
        if self.word == "ours" and self.with_literal:
            self._run_literal("literal", self.s.per_round)
        self._next_block(pl_module)


def data_of(trainer: pl.Trainer) -> DataModule:
    """The data module that a Trainer was given."""
    data = getattr(trainer, "datamodule", None)
    assert isinstance(data, DataModule)
    return data


def run(s: Settings, literal: bool = True, parts: bool = False, plain_rounds: int = 0) -> dict[str, Any]:
    """Time our iterations, alternating with whatever else is asked for.

    Returns:
        Seconds per iteration of every block by contender, and their medians; what compiling took.
    """
    matching, random_batches = IterationBatch.matching, IterationBatch.random_batches
    module, alternation = distill_module(s), Alternation(s, literal, parts, plain_rounds)
    try:
        fit(module, data_module(s), s.device, alternation.steps, [alternation])
    finally:
        IterationBatch.matching, IterationBatch.random_batches = matching, random_batches  # type: ignore[method-assign]
    seconds = dict(alternation.seconds)
    medians = {word: statistics.median(values) for word, values in seconds.items()}
    result: dict[str, Any] = {
        "seconds": seconds,
        "medians": medians,
        "compile_seconds": max(sum(seconds["warm-up"]) - len(seconds["warm-up"]) * medians["ours"], 0.0),
        "recompilations": alternation.recompiled,
        "accelerated": alternation.programs["ours"].plan.compiled,
    }
    if parts:
        names = dict.fromkeys(name for row in alternation.parts for name in row if name != OVERHEAD) | {OVERHEAD: None}
        result["parts"] = {n: statistics.median(row.get(n, 0.0) for row in alternation.parts) for n in names}
        result["parts_rounds"] = alternation.parts
        result["unwatched"] = alternation.unwatched
    if literal:
        result["ratio"] = median_ratio(seconds["literal"], seconds["ours"])
        result["pays_after"] = {"literal": pays_after(result, "literal")}
        if plain_rounds:
            result["pays_after"]["ours, not accelerated"] = pays_after(result, "plain")
    return result


def pays_after(result: dict[str, Any], other: str) -> float | None:
    """Iterations after which compilation has paid off against another contender; None if never."""
    gain = result["medians"][other] - result["medians"]["ours"]
    return result["compile_seconds"] / gain if gain > 0 else None


def memory(s: Settings, literal: bool) -> dict[str, Any] | None:
    """Peak memory of one contender alone, in a process of its own; None if it ran out of it."""
    peak = in_child(_peak_of_literal if literal else _peak_of_ours, replace(s, rounds=1, per_round=1, warm_up=1))
    return None if peak is None else {"bytes": peak[0], "measured": peak[1]}


def _peak_of_ours(s: Settings) -> tuple[int, str]:
    prepare(s)
    run(s, literal=False)
    return peak_memory(torch.device(s.device))


def _peak_of_literal(s: Settings) -> tuple[int, str]:
    prepare(s)
    device = torch.device(s.device)
    data, module = data_module(s), distill_module(s)
    module.synthetic.initialize(data.train, data.meta, module.seed)
    literal: LiteralDistillation = literal_of(module, device)
    for t in range(2):
        literal.iteration(data.iteration_batch(t, s.seed, device))
    return peak_memory(device)


def work(s: Settings, data: DataModule, literal: bool) -> dict[str, Work]:
    """Work of one iteration, by part."""
    module, meta = distill_module(s), data.meta
    passes = count_passes(s.network(meta.channels, meta.size, meta.num_classes), (meta.channels, *meta.size))
    trained = module.pool_settings.train_networks * s.train_steps
    real = meta.num_classes * min(s.batch_real, int(data.train.counts.max()))
    synthetic = meta.num_classes * s.ipc * module.synthetic.factor**2
    return {
        "real forward": passes.forward * real,
        "synthetic forward and backward": passes.to_images * (synthetic * (2 if literal else 1)),
        "pool training": passes.to_weights * (trained * s.pool_batch) + passes.step * trained,
    }


def roofline(s: Settings, device: Device, result: dict[str, Any]) -> dict[str, Any]:
    """Compare the measured times with the device's roofline."""
    data = data_module(s)
    target = torch.device(s.device)
    reduced = result["accelerated"] and has_bfloat16(target)
    full = "tf32" if "tf32" in device.flops else "float32"  # convolutions use TF32 on a GPU unless told otherwise
    out: dict[str, Any] = {}
    for name, dtype in (("ours", "bfloat16" if reduced else full), ("literal", full)):
        by_part = work(s, data, name == "literal")
        total = sum(by_part.values(), Work())
        seconds = device.seconds(total, dtype)
        out[name] = {
            "dtype": dtype,
            "flops": total.flops,
            "bytes": total.numbers * (2 if dtype == "bfloat16" else 4),
            "seconds": seconds,
            "parts": {part: device.seconds(amount, dtype) for part, amount in by_part.items()},
        }
        if name in result["medians"]:
            out[name]["share"] = seconds / result["medians"][name]
    return out
