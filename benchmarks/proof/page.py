"""The page and the JSON file with what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.proof.aims import Aim, Kept, aims, duration
from benchmarks.proof.parts import PARTS
from benchmarks.proof.place import Place
from benchmarks.report import table

REHEARSAL = (
    "**This is a rehearsal at toy sizes, or on a CPU. It shows that the program runs, and proves nothing about a GPU.**"
)

_ABOUT_PASSES = ("acceleration", "captur", "cuda graph", "recording", "fastest")
"""Words of sentences in which a run says how its passes are run."""


def write(place: Place, kept: Kept, environment: dict[str, Any], command: str) -> tuple[Path, str]:
    """Write ``gpu.json`` and ``gpu.md``.

    Returns:
        The page's path and its table of aims.
    """
    judged = aims(place, kept)
    numbers = {
        "rehearsal": place.rehearsal,
        "environment": environment,
        "command": command,
        "data": place.dataset,
        "aims": [aim._asdict() for aim in judged],
        "parts": {part.name: kept.get(part.name, {"state": "left", "why": "left for another call"}) for part in PARTS},
    }
    place.folder.mkdir(parents=True, exist_ok=True)
    (place.folder / "gpu.json").write_text(json.dumps(numbers, indent=2) + "\n")
    page = place.folder / "gpu.md"
    page.write_text(_text(place, kept, environment, command, judged), encoding="utf-8")
    return page, _aims_table(judged)


def _aims_table(judged: Sequence[Aim]) -> str:
    return table("Aims", ("", "wanted", "found", "verdict", "note"), judged).strip("\n")


def _text(place: Place, kept: Kept, environment: dict[str, Any], command: str, judged: Sequence[Aim]) -> str:
    commits = {
        f"{o['commit'] or 'not known'}{' with changes' if o['changed'] else ''}"
        for o in kept.values()
        if o["state"] != "blocked"
    }
    data = {"random": "random pixels of CIFAR-10's size (CIFAR-10 was not there)", "cifar10": "CIFAR-10"}
    head = [
        f"# {'Rehearsal on' if place.rehearsal else 'Measured on'} {environment['device']}",
        *([REHEARSAL] if place.rehearsal else []),
        "\n".join(
            [
                f"- device: {environment['device']}, torch {environment['torch']}",
                f"- commit: {', '.join(sorted(commits)) or environment['commit'] or 'not known'}",
                f"- data: {data.get(place.dataset, place.dataset)}",
                f"- command: `{command}`",
                f"- written: {environment['time']}",
            ]
        ),
    ]
    rows = []
    for part in PARTS:
        one = kept.get(part.name, {"state": "left", "why": "left for another call"})
        taken = duration(one["seconds"]) if "seconds" in one else "–"
        rows.append((part.name, part.title, one["state"], taken, one["why"]))
    sections = [_aims_table(judged), table("Parts", ("part", "what", "state", "time", "note"), rows).strip("\n")]
    if shown := _failures(kept):
        sections.append(shown)
    sections.append(_resolved(kept))
    return "\n\n".join([*head, *("## " + section for section in sections)]) + "\n"


def _failures(kept: Kept) -> str:
    failed = ((kept.get("tests") or {}).get("numbers") or {}).get("failed") or {}
    lines = [f"- `{name}`: {' '.join(said)[:300]}" for name, said in failed.items()]
    return "\n".join(["Tests that failed", "", *lines]) if lines else ""


def _resolved(kept: Kept) -> str:
    """How passes were run, where the numbers say so, and what the distillation said of it."""
    lines = []
    for name in ("distill", "thousand"):
        plan = ((kept.get(name) or {}).get("numbers") or {}).get("plan")
        if plan:
            lines.append(f"- {name}: " + ", ".join(f"{key} {value}" for key, value in plan.items()))
    log = (kept.get("distill") or {}).get("log")
    if log and Path(log).exists():
        said = [line.strip() for line in Path(log).read_text(errors="replace").splitlines()]
        told = [line for line in said if any(word in line.lower() for word in _ABOUT_PASSES)]
        lines += [f"- said by the distillation: {line[:300]}" for line in dict.fromkeys(told)]
    return "\n".join(["How passes were run", "", *(lines or ["- not known yet"])])
