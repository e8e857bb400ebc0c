"""The output of the benchmarks: tables for people, and JSON for programs."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bacon_pl.distilled_set import git_commit


def environment(device: torch.device) -> dict[str, Any]:
    """Where the numbers were taken."""
    return {
        "device": device_name(device),
        "kind": device.type,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": git_commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def device_name(device: torch.device) -> str:
    """Name of a GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(folder: Path, name: str, numbers: dict[str, Any]) -> Path:
    """Write numbers as JSON and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(numbers, indent=2) + "\n")
    return path


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown, aligned for reading as it is: the first column left, the others right."""
    cells = [[str(value) for value in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| "
        + " | ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join(["", "", title, "", lines[0], rule, *lines[1:]])


def seconds(value: float | None) -> str:
    """A time with three digits."""
    if value is None:
        return "–"
    number, unit = (value, "s") if value >= 1 else (1e3 * value, "ms")
    return f"{number:.{max(0, 2 - math.floor(math.log10(max(number, 0.01))))}f} {unit}"


def gigabytes(memory: dict[str, Any] | None) -> str:
    """A peak of memory."""
    return "out of memory" if memory is None else f"{memory['bytes'] / 1e9:.2f} GB"


def percent(value: float | None) -> str:
    """A share."""
    return "–" if value is None else f"{100 * value:.1f} %"


def times(ratio: dict[str, float]) -> str:
    """A ratio over rounds."""
    return f"{ratio['median']:.2f}× ({ratio['least']:.2f}–{ratio['most']:.2f})"


def device_table(flops: dict[str, float], bandwidth: float) -> str:
    """Peaks of the device."""
    rows = [(f"{name} product or convolution", f"{value / 1e9:,.0f} GFLOP/s") for name, value in flops.items()]
    return table("Device", ("peak", "measured"), [*rows, ("copy", f"{bandwidth / 1e9:,.1f} GB/s")])


def fit_table(result: dict[str, Any]) -> str:
    """Our iteration against the literal one."""
    roof, memory, medians = result["roofline"], result.get("memory", {}), result["medians"]
    rows = [
        (
            label,
            seconds(medians[name]),
            f"{medians['literal'] / medians[name]:.2f}×",
            f"{roof[of]['flops'] / 1e9:,.1f}",
            f"{roof[of]['bytes'] / 1e9:.2f}",
            seconds(roof[of]["seconds"]) if of == name else "–",
            percent(roof[of]["seconds"] / medians[name]) if of == name else "–",
            gigabytes(memory[name]) if name in memory else "–",
        )
        for label, name, of in (
            ("literal", "literal", "literal"),
            ("ours, not accelerated", "plain", "ours"),
            ("ours", "ours", "ours"),
        )
        if name in medians
    ]
    head = ("one iteration", "median", "times faster", "GFLOP", "GB moved", "roofline", "share", "peak memory")
    notes = [f"\nratio round by round: {times(result['ratio'])}; compilation: {seconds(result['compile_seconds'])}"]
    notes += [
        f"compilation has paid off against {other} after {'no number of' if n is None else f'{n:.0f}'} iterations"
        for other, n in result["pays_after"].items()
    ]
    notes.append(f"graphs compiled after the warm-up: {result['recompilations']}")
    if memory:
        notes.append(f"peak memory: {next(m['measured'] for m in memory.values() if m)}, a process each")
    return table("Iteration", head, rows) + "\n" + "\n".join(notes)


def parts_table(result: dict[str, Any]) -> str:
    """Where our iteration spends its time."""
    parts, roof = result["parts"], result["roofline"]["ours"]["parts"]
    total = sum(parts.values())
    rows = [
        (name, seconds(value), percent(value / total), seconds(roof.get(name)), percent(roof[name] / value))
        if name in roof and value
        else (name, seconds(value), percent(value / total), "–", "–")
        for name, value in parts.items()
    ]
    head = ("part of ours", "median", "of the iteration", "roofline", "share")
    text = table("Parts", head, [*rows, ("all", seconds(total), "100 %", "–", "–")])
    if result["unwatched"]:
        text += f"\n\nnot found, so counted elsewhere: {', '.join(result['unwatched'])}"
    return text


def eval_table(result: dict[str, Any]) -> str:
    """Our evaluation against the literal one."""
    full, roof = result["full"], result["roofline"]
    rows = [
        (name, seconds(result["medians"][name]), seconds(full[name]), percent(roof["share"]) if name == "ours" else "–")
        for name in ("literal", "ours")
    ]
    title = f"Evaluation: {result['networks']} networks on {result['images']} images"
    head = ("all networks", "epoch, median", f"{full['epochs']} epochs, extrapolated", "share of roofline")
    pays = result["pays_after"]
    return table(title, head, rows) + (
        f"\n\nratio round by round: {times(result['ratio'])}; with compilation ({seconds(result['compile_seconds'])}), "
        f"{full['epochs']} epochs: {full['ratio']:.2f}×"
        f"\ncompilation has paid off after {'no number of' if pays is None else f'{pays:.0f}'} epochs"
    )


def sweep_table(result: dict[str, Any]) -> str:
    """Cost of our iteration over classes, images per class and width."""
    rows = [
        (
            p["width"],
            p["classes"],
            p["ipc"],
            p["classes"] * p["ipc"],
            seconds(p["seconds"]),
            seconds(p["seconds"] and p["seconds"] / (p["classes"] * p["ipc"])),
            gigabytes(p.get("memory")),
        )
        for p in result["points"]
    ]
    head = ("width", "classes", "ipc", "images", "iteration", "per image", "peak memory")
    growth = [
        (
            f"{g['along']} {g['from']} → {g['to']}",
            g["width"],
            g.get("classes", "–"),
            g.get("ipc", "–"),
            f"{g['exponent']:.2f}",
        )
        for g in result["growth"]
    ]
    verdict = "no faster than linearly" if result["linear"] else "FASTER than linearly somewhere"
    return (
        table("Sweep", head, rows)
        + table("Growth: cost ∝ (what varies)^exponent", ("along", "width", "classes", "ipc", "exponent"), growth)
        + f"\n\ncost grows {verdict}"
    )


def devices_table(result: dict[str, Any]) -> str:
    """Cost of our iteration over the processes that share it."""
    rows = []
    for n, median in result["medians"].items():
        share = result["shares"].get(n)
        rows.append((n, seconds(median), f"{share['median']:.2f}" if share else "1"))
    return table(f"Devices: {result['what']}", ("processes", "median", "share of one's time"), rows)


def objectives_table(result: dict[str, Any]) -> str:
    """Cost of our iteration with each objective."""
    beside = result["beside"]
    rows = [
        (name, seconds(one["median"]), seconds(one["median_beside"]), times(one["ratio"]))
        for name, one in result["objectives"].items()
    ]
    title = "Objectives: an iteration in DM's frame, in pairs"
    return table(title, ("objective", "median", f"{beside} beside it", "times as long, round by round"), rows)


def trajectory_table(result: dict[str, Any]) -> str:
    """Cost of a student's gradient, by the number of its steps."""
    rows = []
    for steps, ways in result["steps"].items():
        for name, one in ways.items():
            peak = "not measured" if one["memory"] is None else f"{one['memory'] / 1e6:,.0f} MB"
            rows.append((steps, name, seconds(one["median"]), times(one["ratio"]), peak))
    heads = ("steps", "way", "median", f"times as long as {result['beside']}, round by round", "peak beyond one step's")
    return table("The gradient of a student", heads, rows)


def gradients_table(result: dict[str, Any]) -> str:
    """Our step of gradient matching against the literal loop."""
    memory = result.get("memory", {})
    rows = [
        (name, seconds(median), gigabytes(memory[name]) if name in memory else "–")
        for name, median in result["medians"].items()
    ]
    notes = (
        f"\nratio round by round: {times(result['ratio'])}; largest difference of the gradients: "
        f"{result['apart']:.1e} of the largest value\n"
    )
    return table("Gradient matching: a step of the images in DC's frame", ("", "median", "peak memory"), rows) + notes


def together_table(result: dict[str, Any]) -> str:
    """Cost of a training step of several networks, both ways."""
    rows = [(name, seconds(median)) for name, median in result["medians"].items()]
    title = f"A training step of {result['networks']} networks"
    return table(title, ("", "median"), rows) + f"\ntogether takes {times(result['ratio'])} of one after another\n"
