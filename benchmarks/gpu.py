"""Run on a GPU all that is to be proved there: tests, speed, a whole distillation. ``make gpu`` calls this file.

A call ends within its limit. The same command goes on with the parts that are left, and repeats none that is done at
the same code, on the same device, with the same torch.

Example:
    python benchmarks/gpu.py --root data
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from benchmarks.proof.outcomes import Outcomes
    from benchmarks.proof.parts import Part

REHEARSE = 'make gpu ARGS="--device cpu --small"'
NEEDED = {
    "jsonargparse": "jsonargparse[signatures]", "lightning": "lightning", "matplotlib": "matplotlib",
    "numpy": "numpy", "rich": "rich", "safetensors": "safetensors", "scipy": "scipy", "sklearn": "scikit-learn",
    "tensorboard": "tensorboard", "torch": "torch", "torchmetrics": "torchmetrics", "torchvision": "torchvision",
}  # fmt: skip
"""Modules without which nothing runs, and what pip calls them."""
RESERVE = 10.0
"""Seconds at the end of a call, for the page."""


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", help="folder of CIFAR-10 (default: data, if it is there; else random pixels are timed)")
    add("--limit", type=float, default=540, help="seconds after which the call has ended (default: 540)")
    add("--only", help="names of parts, separated by commas")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses, with --small")
    add("--small", action="store_true", help="toy sizes, to rehearse")
    add("--out", type=Path, default=Path("runs/gpu"), help="folder in which everything is kept")
    return parser.parse_args(args)


def end(sentence: str) -> NoReturn:
    """End with a sentence."""
    sys.exit(f"gpu.py: error: {sentence}")


def check(options: argparse.Namespace) -> None:
    """End if nothing can be run here."""
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        end(
            f"this Python lacks {', '.join(lacking)}: install with `{sys.executable} -m pip install "
            f"{' '.join(shlex.quote(NEEDED[name]) for name in lacking)}`, or let `make gpu` make its own in .venv."
        )
    if options.device == "cpu" and not options.small:
        end(f"the full sizes would take days on a CPU: `{REHEARSE}` rehearses at toy sizes.")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        end(f"there is no CUDA device here, so nothing was run; `{REHEARSE}` rehearses everything on a CPU.")


def choose(only: str | None) -> tuple[Part, ...]:
    """The parts asked for."""
    from benchmarks.proof.parts import PARTS

    names = [part.name for part in PARTS] if only is None else [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in {part.name for part in PARTS}]:
        end(f"there is no part '{unknown[0]}'; the parts are {', '.join(part.name for part in PARTS)}.")
    return tuple(part for part in PARTS if part.name in names)


def run_parts(parts: Sequence[Part], outcomes: Outcomes, deadline: float) -> list[str]:
    """Run all parts that are not done and fit into the time; return the names of those that are left.

    Args:
        parts: The parts, in their order.
        outcomes: What has come of them.
        deadline: When the last one has to have ended, by ``time.monotonic``.
    """
    from benchmarks.proof.outcomes import GRACE, run
    from benchmarks.proof.parts import SMALL_SHARE

    left = []
    for part in parts:
        earlier = outcomes.get(part)
        if earlier and earlier["state"] == "done":
            say(f"{part.name}: done before, at commit {str(earlier['commit'])[:12]}")
            continue
        if why := part.blocked(outcomes.place, outcomes.valid()):
            outcomes.put(part, "blocked", why)
            say(f"{part.name}: not run, {why}")
            continue
        seconds = deadline - time.monotonic()
        least = max(part.least * (SMALL_SHARE if outcomes.place.small else 1), GRACE + 15)
        if earlier and earlier["state"] == "stopped" and not part.resumes:
            least = max(least, earlier["given"] + 1)  # which was too little
        if seconds < least:
            say(f"{part.name}: left for another call, which needs {least:.0f} s for it")
            left.append(part.name)
            continue
        say(f"{part.name}: {part.title}, at most {seconds:.0f} s …")
        found = run(part, outcomes, seconds)
        say(f"{part.name}: {found['state']}{', ' + found['why'] if found['why'] else ''}, {found['seconds']:.0f} s")
        if found["state"] != "done":
            left.append(part.name)
    return left


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def main(args: Sequence[str] | None = None) -> None:
    """Run what is left, and write the page."""
    began = time.monotonic()
    options = parse(args)
    check(options)
    import torch

    from bacon_pl.errors import BaconError
    from benchmarks import report
    from benchmarks.proof import page
    from benchmarks.proof.outcomes import Outcomes
    from benchmarks.proof.parts import PARTS
    from benchmarks.proof.place import Place, find_data

    try:
        dataset = find_data(options.root, options.small)
    except BaconError as error:
        end(str(error))
    parts = choose(options.only)
    root = str(Path("data" if options.root is None else options.root).expanduser().resolve())
    place = Place(options.device, options.small, dataset, root, options.out.resolve())
    environment: dict[str, Any] = report.environment(torch.device(options.device))
    outcomes = Outcomes(place, PARTS, {"torch": environment["torch"]})
    say(f"{environment['device']}, torch {environment['torch']}, data: {dataset}")
    if place.rehearsal:
        say("This is a rehearsal, which proves nothing about a GPU.")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the part, too
    command = shlex.join(["python", "benchmarks/gpu.py", *(sys.argv[1:] if args is None else args)])
    try:
        left = run_parts(parts, outcomes, began + options.limit - RESERVE)
    finally:
        path, judged = page.write(place, outcomes.valid(), environment, command)
    say(f"\n{judged}\n\npage: {path}\nnumbers: {path.with_suffix('.json')}")
    failed = [name for name, one in outcomes.valid().items() if one["state"] == "failed"]
    failed += ["tests"] * bool((outcomes.valid().get("tests", {}).get("numbers") or {}).get("failed"))
    if remaining := [name for name in left if name not in failed]:
        say(f"left: {', '.join(remaining)}; the same command goes on with them")
    if failed:
        sys.exit(f"gpu.py: failed: {', '.join(failed)}; the logs are in {place.folder}")


if __name__ == "__main__":
    main()
