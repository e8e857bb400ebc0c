"""Suite ``eval``: our training of several networks against literal trainings one after another."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import torch

from bacon_pl.learners import Learners, Recipe, TrainingSet
from benchmarks.literal_evaluation import LiteralEvaluation
from benchmarks.roofline import Device, count_passes
from benchmarks.timing import median_ratio, now
from benchmarks.workload import Settings, data_module, distill_module, memory_of_literal

FULL_EPOCHS = 1000


def run(s: Settings, epochs: int, networks: int, device: Device) -> dict[str, Any]:
    """Time epochs of all networks, ours and literal in turn, on the initial images of a distillation.

    Args:
        s: The workload; a round is ``per_round`` epochs of all networks.
        epochs: Epochs that are timed.
        networks: Networks trained.
        device: Its peaks.
    """
    target = torch.device(s.device)
    data, module = data_module(s), distill_module(s)
    module.synthetic.initialize(data.train, data.meta, module.seed)
    training_set = TrainingSet.distilled(module.distilled())
    moved = {name: getattr(training_set, name).to(target) for name in ("images", "labels", "index")}
    training_set = replace(training_set, **moved)
    recipe = Recipe(network=s.network, num_networks=networks, epochs=FULL_EPOCHS, acceleration=s.acceleration)
    ours = Learners(training_set, recipe, data.meta, s.seed).to(target)
    literal = LiteralEvaluation(training_set, replace(recipe, acceleration="off"), data.meta, s.seed)
    optimizer = ours.optimizer()

    def our_epoch(epoch: int) -> None:
        for step in range(epoch * ours.steps_per_epoch, (epoch + 1) * ours.steps_per_epoch):
            ours.schedule(optimizer, step)
            ours.descend(step)
            optimizer.step()

    def literal_epoch(epoch: int) -> None:
        with memory_of_literal(s):
            for k in range(networks):
                literal.epoch(k, epoch)

    seconds: dict[str, list[float]] = {"ours": [], "literal": []}
    first = {}
    done = 0
    for length in [1] + [s.per_round] * -(-epochs // s.per_round):
        for name, train in (("ours", our_epoch), ("literal", literal_epoch)):
            start = now(target)
            for epoch in range(done, done + length):
                train(epoch)
            taken = (now(target) - start) / length
            if done:
                seconds[name].append(taken)
            else:
                first[name] = taken
        done += length
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    compile_seconds = max(first["ours"] - medians["ours"], 0.0)
    gain = medians["literal"] - medians["ours"]
    whole = compile_seconds + FULL_EPOCHS * medians["ours"]

    plan = ours._network.plan
    dtype = "bfloat16" if plan.bfloat16 else "tf32" if "tf32" in device.flops else "float32"
    meta = data.meta
    passes = count_passes(s.network(meta.channels, meta.size, meta.num_classes), (meta.channels, *meta.size))
    n = training_set.index.shape[1]
    work = (passes.to_weights * n + passes.step * ours.steps_per_epoch) * networks
    return {
        "networks": networks,
        "images": n,
        "seconds": seconds,
        "first": first,
        "medians": medians,
        "ratio": median_ratio(seconds["literal"], seconds["ours"]),
        "compile_seconds": compile_seconds,
        "pays_after": compile_seconds / gain if gain > 0 else None,
        "full": {
            "epochs": FULL_EPOCHS,
            "ours": whole,
            "literal": FULL_EPOCHS * medians["literal"],
            "ratio": FULL_EPOCHS * medians["literal"] / whole,
        },
        "accelerated": plan.compiled,
        "roofline": {
            "dtype": dtype,
            "flops": work.flops,
            "seconds": device.seconds(work, dtype),
            "share": device.seconds(work, dtype) / medians["ours"],
        },
    }
