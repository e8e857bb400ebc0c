"""Time the library against the published algorithm written literally. ``make bench`` calls this file.

Example:
    python benchmarks/run.py --suite fit --dataset mnist --root data
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as commands on an idle machine; before torch is loaded

import torch

from bacon_pl.errors import BaconError
from benchmarks import devices, evaluation, fit, gradients, objectives, report, sweep, together, trajectory
from benchmarks.roofline import Device, measure_device
from benchmarks.workload import Settings, prepare

SUITES = ("fit", "parts", "objectives", "gradients", "eval", "together", "sweep", "devices", "trajectory")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--suite",
        choices=(*SUITES, "all"),
        default="all",
        help="parts is fit and the parts of an iteration; all is all but fit",
    )
    add("--dataset", choices=("cifar10", "mnist", "synthetic"), default="synthetic")
    add("--root", default="data", help="folder of the data; for cifar10 torchvision's, or train/ and test/ of images")
    add("--ipc", type=int, default=10, help="images per class")
    add("--width", type=int, default=128, help="filters per convolution")
    add("--batch-real", type=int, help="real images per class (default: the published 256, at ipc 1 5000)")
    add("--pool-batch", type=int, default=256, help="images per step of the pool's training")
    add("--train-steps", type=int, default=10, help="steps per pool network and iteration")
    add("--classes", type=int, default=10, help="classes of the synthetic dataset")
    add("--image-size", type=int, default=32, help="side of its images")
    add("--rounds", type=int, default=5, help="alternations that are timed")
    add("--per-round", type=int, help="iterations of each contender in a round (default: 1, on a GPU 10)")
    add("--warm-up", type=int, default=3, help="iterations before the first round")
    add("--plain-rounds", type=int, default=2, help="rounds that time ours without acceleration, too")
    add("--epochs", type=int, default=5, help="epochs that suite eval times")
    add("--networks", type=int, default=5, help="networks that suites eval, together and devices train")
    add("--acceleration", choices=("on", "off", "auto"), default="on", help="what the library is told")
    add("--no-bfloat16", dest="bfloat16", action="store_false", help="as on a processor without bfloat16")
    add("--quick", action="store_true", help="a smaller sweep, and no true peaks of the device")
    add("--threads", type=int, help="threads of the CPU (default: torch's)")
    add("--no-memory", dest="memory", action="store_false", help="skip the processes that measure peak memory")
    add("--no-keep-memory", dest="keep_memory", action="store_false", help="let the C library hand freed tensors back")
    add("--literal-keeps-memory", action="store_true", help="let the literal contender profit from kept memory, too")
    add("--reuse-compiled", action="store_true", help="use compiled code of earlier runs: compilation looks cheaper")
    add("--seed", type=int, default=0)
    add("--out", default="runs/bench", help="folder of the JSON files")
    return parser.parse_args(args)


def settings_of(options: argparse.Namespace) -> Settings:
    """Fill in the defaults that depend on other options."""
    values = {f.name: getattr(options, f.name) for f in fields(Settings) if hasattr(options, f.name)}
    values["batch_real"] = options.batch_real or (5000 if options.ipc == 1 else 256)
    values["per_round"] = options.per_round or (10 if options.device == "cuda" else 1)
    return Settings(**values)


def run_suite(suite: str, s: Settings, options: argparse.Namespace, device: Device) -> tuple[dict[str, Any], str]:
    """Run one suite; returns its numbers and its tables."""
    if suite == "eval":
        result = evaluation.run(s, options.epochs, options.networks, device)
        return result, report.eval_table(result)
    if suite == "sweep":
        result = sweep.run(s, sweep.QUICK if options.quick else sweep.Grid())
        return result, report.sweep_table(result)
    if suite == "devices":
        results = {w: devices.run(replace(s, threads=s.threads or 1), w, options.networks) for w in devices.KINDS}
        return results, "".join(report.devices_table(result) for result in results.values())
    if suite == "objectives":
        result = objectives.run(s)
        return result, report.objectives_table(result)
    if suite == "trajectory":
        result = trajectory.run(s, memory=options.memory)
        return result, report.trajectory_table(result)
    if suite == "gradients":
        result = gradients.run(s)
        if options.memory:
            result["memory"] = {name: gradients.memory(s, name == "literal") for name in ("literal", "ours")}
        return result, report.gradients_table(result)
    if suite == "together":
        result = together.run(s, options.networks)
        return result, report.together_table(result)
    parts = suite == "parts"
    result = fit.run(s, parts=parts, plain_rounds=options.plain_rounds)
    result["roofline"] = fit.roofline(s, device, result)
    if options.memory:
        result["memory"] = {"literal": fit.memory(s, True), "ours": fit.memory(s, False)}
    return result, report.fit_table(result) + (report.parts_table(result) if parts else "")


def main(args: Sequence[str] | None = None) -> None:
    """Run the suites asked for, print their tables and write their numbers."""
    options = parse(args)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("run.py: error: there is no CUDA device here.")
    s = settings_of(options)
    prepare(s)
    target = torch.device(options.device)
    environment = report.environment(target)
    print(f"{environment['device']}, {environment['threads']} threads, torch {environment['torch']}")
    print(", ".join(f"{name} {value}" for name, value in asdict(s).items()))
    device = measure_device(target, options.quick)
    print(report.device_table(device.flops, device.bandwidth), flush=True)
    for suite in SUITES[1:] if options.suite == "all" else (options.suite,):
        torch._dynamo.reset()
        with tempfile.TemporaryDirectory() as compiled:
            if not options.reuse_compiled:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled  # every suite pays for its own compilation
            result, text = run_suite(suite, s, options, device)
        print(text, flush=True)
        name = f"{suite}-{'random' if suite == 'sweep' else s.dataset}-ipc{s.ipc}-width{s.width}-{s.device}"
        name += "" if s.bfloat16 else "-no-bfloat16"
        numbers = {
            "suite": suite,
            "environment": environment,
            "options": vars(options),
            "settings": asdict(s),
            "device": asdict(device),
            **result,
        }
        print(f"\nnumbers: {report.write(Path(options.out), name, numbers)}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BaconError as error:
        sys.exit(f"run.py: error: {error}")
