"""Accuracy of a method with some settings changed, on training images that no set was distilled from.

The test images are not loaded. This is how ``methods/best`` was chosen:

    python -m benchmarks.held_out --method best --dataset cifar10=DIR --ipc 10 --set model.factor=4 --set model.lr=1.0

Every call appends one line of JSON to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import yaml

from bacon_pl import config_files
from bacon_pl.commands.settings import settings_of
from bacon_pl.distilled_set import git_commit
from bacon_pl.quiet import quietly
from bacon_pl.tuning.trials import Trials, hold_out


def main() -> None:
    """Measure and append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="best", help="name of a configuration in methods/")
    parser.add_argument("--dataset", required=True, help="catalog name; NAME=DIR says where it lies")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--budget", default="small")
    parser.add_argument("--iterations", type=int, help="by default those of the budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("held_out.jsonl"))
    args = parser.parse_args()
    name, _, root = args.dataset.partition("=")
    files = [
        config_files.find(part, None, "--config")
        for part in (f"{name}/ipc{args.ipc}", f"methods/{args.method}", f"budgets/{args.budget}")
    ]
    resolved = settings_of("fit", [f"--config={file}" for file in files])
    changed = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in args.set)}
    iterations = args.iterations or resolved["trainer"]["max_steps"]
    split = hold_out(name, root or "data", args.held_out, resolved["data"])
    begun = time.perf_counter()
    trials = Trials(split, resolved["data"], args.ipc, files[1], files[2], iterations, args.seed)
    accuracies = trials.accuracies(changed)
    line = {
        "method": args.method,
        "dataset": name,
        "ipc": args.ipc,
        "budget": args.budget,
        "iterations": iterations,
        "seed": args.seed,
        "settings": changed,
        "accuracies": accuracies,
        "seconds": round(time.perf_counter() - begun, 1),
        "commit": git_commit(),
    }
    with args.out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    with quietly():
        main()
