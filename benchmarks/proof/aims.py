"""What was wanted and what was found: every aim is met, missed or not run, and in a rehearsal only rehearsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.proof.place import Place

FASTER = 10.0
MINUTES = 5.0
SECONDS = 30.0

Kept = Mapping[str, Mapping[str, Any]]


class Aim(NamedTuple):
    """A line of the page.

    Attributes:
        what: What is measured.
        wanted: What is wanted of it.
        found: What was found; a dash if nothing was.
        verdict: ``met``, ``missed``, ``not run``, ``told`` (nothing is wanted of it) or ``rehearsed``.
        why: What has to be known about it.
    """

    what: str
    wanted: str
    found: str
    verdict: str
    why: str = ""


def duration(seconds: float) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def aims(place: Place, kept: Kept) -> list[Aim]:
    """Judge what was found.

    Args:
        place: Where it was found.
        kept: Outcomes by part.
    """
    numbers = {name: outcome.get("numbers") or {} for name, outcome in kept.items()}

    def missing(*names: str) -> str:
        outcome = next((kept[name] for name in names if name in kept), None)
        return outcome["why"] if outcome and outcome["why"] else "left for another call"

    def judged(what: str, wanted: str, found: str | None, met: bool | None, why: str) -> Aim:
        if found is None:
            return Aim(what, wanted, "–", "not run", why)
        verdict = "rehearsed" if place.rehearsal else "told" if met is None else "met" if met else "missed"
        return Aim(what, wanted, found, verdict, why)

    return [
        _tests(numbers.get("tests", {}), judged, missing),
        _ratio(numbers.get("iteration", {}), judged, missing),
        _whole(place, numbers, judged, missing),
        _thousand(numbers, judged, missing),
        _roofline(numbers.get("iteration", {}), judged, missing),
        _memory(numbers, judged, missing),
        _accuracy(numbers.get("accuracy", {}), judged, missing),
        _beside("an epoch of an evaluation, literal against ours", "evaluation", numbers, judged, missing),
        _beside("networks side by side against one after another", "together", numbers, judged, missing),
    ]


def _tests(found: Mapping[str, Any], judged: Any, missing: Any) -> Aim:
    what, wanted = "tests for a GPU", "all pass"
    if not found:
        return judged(what, wanted, None, None, missing("tests"))
    failed, passed = len(found["failed"]), found["passed"]
    why = f"{found['skipped']} skipped" if found["skipped"] else ""
    return judged(what, wanted, f"{passed} passed, {failed} failed", not failed and passed > 0, why)


def _ratio(found: Mapping[str, Any], judged: Any, missing: Any) -> Aim:
    what, wanted = "an iteration, literal against ours", f"at least {FASTER:.0f} times faster"
    if not found:
        return judged(what, wanted, None, None, missing("iteration"))
    ratio, medians = found["ratio"], found["medians"]
    text = f"{ratio['median']:.2f} times ({ratio['least']:.2f} to {ratio['most']:.2f})"
    why = f"{1e3 * medians['literal']:.1f} ms and {1e3 * medians['ours']:.1f} ms"
    return judged(what, wanted, text, ratio["median"] >= FASTER, why)


def _whole(place: Place, numbers: Mapping[str, Any], judged: Any, missing: Any) -> Aim:
    found, iteration = numbers.get("distill", {}), numbers.get("iteration", {})
    total = found.get("total", 20_000)
    what = f"{total:,} iterations of {'the digits' if place.small else 'CIFAR-10 with 10 images per class'}"
    wanted = f"less than {MINUTES:.0f} min on an H100"
    notes = [] if "H100" in place.name or place.rehearsal else [f"this is no H100 but {place.name}"]
    if place.dataset == "random":
        notes.append("random pixels of CIFAR-10's size")
    whole = found.get("whole")
    if whole is not None:
        way = f"extrapolated from {found['done']:,} iterations" if found["extrapolated"] else "trained in full"
        rate = "" if found["rate"] is None else f"{1e3 * found['rate']:.2f} ms an iteration"
        notes = [way, *filter(None, [rate]), f"{found['starts']} start{'s' * (found['starts'] > 1)}", *notes]
    elif iteration and not place.small:
        whole = iteration["compile_seconds"] + total * iteration["medians"]["ours"]
        notes = [f"extrapolated from the iterations beside the literal algorithm; {missing('distill')}", *notes]
    else:
        return judged(what, wanted, None, None, missing("distill"))
    return judged(what, wanted, duration(whole), whole < 60 * MINUTES, "; ".join(notes))


def _thousand(numbers: Mapping[str, Any], judged: Any, missing: Any) -> Aim:
    found, other = numbers.get("thousand", {}), numbers.get("evaluation", {})
    networks, epochs = found.get("networks", 5), found.get("epochs", 1000)
    what, wanted = f"{networks} networks for {epochs:,} epochs", f"less than {SECONDS:.0f} s"
    whole = found.get("whole")
    if whole is not None:
        part = found["done"] / found["total"]
        why = f"extrapolated from {100 * part:.0f} % of the steps" if found["extrapolated"] else "trained in full"
    elif other and other["networks"] == networks:
        whole = other["full"]["ours"]
        why = f"extrapolated from the epochs beside the literal evaluation; {missing('thousand')}"
    else:
        return judged(what, wanted, None, None, missing("thousand"))
    return judged(what, wanted, duration(whole), whole < SECONDS, why)


def _roofline(found: Mapping[str, Any], judged: Any, missing: Any) -> Aim:
    what, wanted = "share of the roofline, an iteration", "–"
    if not found:
        return judged(what, wanted, None, None, missing("iteration"))
    roof = found["roofline"]["ours"]
    share = roof["share"]
    return judged(
        what, wanted, f"{100 * share:.1f} % in {roof['dtype']}", None, f"bound: {1e3 * roof['seconds']:.2f} ms"
    )


def _memory(numbers: Mapping[str, Any], judged: Any, missing: Any) -> Aim:
    found = numbers.get("iteration", {}).get("memory") or {}
    peaks = {name: None if one is None else one["bytes"] for name, one in found.items()}
    peaks["the distillation"] = numbers.get("distill", {}).get("memory")
    peaks["the evaluation"] = numbers.get("thousand", {}).get("memory")
    told = [f"{name} {peak / 1e9:.2f} GB" for name, peak in peaks.items() if peak is not None]
    return judged("peak memory", "–", ", ".join(told) or None, None, "" if told else missing("iteration", "distill"))


def _accuracy(found: Mapping[str, Any], judged: Any, missing: Any) -> Aim:
    what, wanted = "accuracy reached, test images", "–"
    if not found:
        return judged(what, wanted, None, None, missing("accuracy"))
    spread = "" if found.get("std") is None else f" ± {found['std']:.1f}"
    return judged(what, wanted, f"{found['mean']:.1f}{spread} %", None, f"{len(found['per_network'])} networks")


def _beside(what: str, part: str, numbers: Mapping[str, Any], judged: Any, missing: Any) -> Aim:
    if not (found := numbers.get(part)):
        return judged(what, "–", None, None, missing(part))
    ratio = found["ratio"]
    text = f"{ratio['median']:.2f} times as long ({ratio['least']:.2f} to {ratio['most']:.2f})"
    return judged(what, "–", text, None, f"{found['networks']} networks")
