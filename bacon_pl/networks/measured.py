"""A short measurement of how a run's training steps are fastest on its GPU, and of how far their numbers are off."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from bacon_pl import rng
from bacon_pl.distributed import gather_objects, process_rank
from bacon_pl.errors import one_line
from bacon_pl.networks import fused_cuda, picks
from bacon_pl.networks.acceleration import Plan, Work, bears_bfloat16, has_bfloat16
from bacon_pl.networks.base import Network
from bacon_pl.networks.side_by_side import Way, has_streams
from bacon_pl.networks.stateless import StatelessNetwork

LIMITS = {"float32": 1e-3, "TF32": 0.05, "bfloat16": 0.15}
"""Largest relative deviation of a step's gradients from those of plain float32 that counts as rounding, by precision. A
ConvNet of depth 3 or 4 and width 32 on random images is off by about 1e-6 in float32, by 0.012 to 0.038 where
convolutions round to TF32 (imitated on a CPU), and by 0.046 to 0.109 in bfloat16; see ``MOST_NORMALIZATIONS``."""

WARM_UP = 3
ROUNDS = 7
FASTER = 0.97
"""A more elaborate candidate has to take at most this share of the time of the best one before it, so that chance does
not decide between equals."""

REFERENCE = Plan(compiled=False, bfloat16=False, way="in turn", tf32=False, benchmark=False)


class Candidate(NamedTuple):
    """What was measured of a plan.

    Attributes:
        plan: The plan.
        seconds: Median time of a step; None if it failed.
        deviation: Relative deviation of its gradients; None if it failed.
        flaw: Why it is rejected; empty if it is not.
    """

    plan: Plan
    seconds: float | None
    deviation: float | None
    flaw: str = ""


Gradients = Sequence[Tensor]
Measure = Callable[[Plan], tuple[float, Gradients]]
"""A function that takes steps by a plan and returns the seconds of one, and its gradients."""


def measured(by_rule: Plan, template: Network, image: tuple[int, int, int], device: torch.device, work: Work) -> Plan:
    """Return the plan that is fastest on a GPU; all processes must call this together.

    It is measured once. A run that is resumed has it from its checkpoint, another one from the cache, and what the
    first process has is sent to the others.

    Args:
        by_rule: What ``auto`` chooses. It is returned where nothing is measured, and passes are compiled only if it
            compiles them.
        template: The architecture.
        image: Channels, height and width.
        device: Device of the run.
        work: The training step that is measured.
    """
    if flaw := _unfit(template, device):
        rank_zero_info(f"acceleration 'measured' is 'auto' here, since {flaw}.")
        return by_rule
    facts = _facts(by_rule, template, image, device, work)
    pick = picks.known(facts) if process_rank() == 0 else None
    if process_rank() == 0 and pick is None:
        rank_zero_info("Measuring what is fastest here, once for this device and these shapes.")
        found = tried(by_rule, template, image, work, _steps(template, image, device, work))
        pick = picks.Pick(facts, *chosen(found))
        picks.write(pick)
    pick = gather_objects(pick)[0]
    assert pick is not None
    picks.note(pick)
    rank_zero_info(f"{pick.facts['architecture']} on {pick.facts['device']}: {pick.why}.")
    has_kernels = fused_cuda.applies(template, device)  # those of a resumed run may be missing here
    return pick.plan._replace(fused=pick.plan.fused and has_kernels)


def _unfit(template: Network, device: torch.device) -> str:
    """Say why nothing is measured; empty if it is."""
    if not has_streams(device):
        return "only GPUs are measured"
    if template.draws_at_random:
        return "the network draws at random, so that ways of running it cannot be compared"
    dtype = next(template.parameters()).dtype
    if dtype != torch.float32:
        return f"only float32 is measured, and the network is of {str(dtype).removeprefix('torch.')}"
    return ""


def _facts(
    by_rule: Plan, template: Network, image: tuple[int, int, int], device: torch.device, work: Work
) -> dict[str, Any]:
    """Describe all that a pick depends on."""
    layers = hashlib.blake2b(repr(template).encode(), digest_size=8).hexdigest()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": str(torch.__version__),  # plain text, as a checkpoint needs it
        "architecture": type(template).__name__,
        "layers": layers,
        "image": list(image),
        "networks": work.networks,
        "batch": work.batch,
        "may_compile": by_rule.compiled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


# Candidates.


def tried(
    by_rule: Plan, template: Network, image: tuple[int, int, int], work: Work, measure: Measure
) -> list[Candidate]:
    """Measure plans stage by stage: ways, precisions and layouts together, and then what is added to the best.

    Args:
        by_rule: What ``auto`` chooses.
        template: The architecture.
        image: Channels, height and width.
        work: The training step.
        measure: Function that runs a plan.

    Returns:
        The candidates in the order of their trial; the first one is plain float32.
    """
    seconds, reference = measure(REFERENCE)
    found = [Candidate(REFERENCE, seconds, 0.0)]

    def attempt(plan: Plan) -> None:
        if plan not in [candidate.plan for candidate in found]:
            found.append(_attempt(plan, measure, reference))

    device = next(template.parameters()).device
    half = has_bfloat16(device) and bears_bfloat16(template, image)
    for plan in _eager(template.batchable and work.networks > 1, work.networks > 1, half):
        attempt(plan)
    best = _best(found)
    if fused_cuda.applies(template, device):
        for candidate in _best_of_each_way(found):
            attempt(candidate._replace(fused=True))
    if not torch.are_deterministic_algorithms_enabled():
        attempt(_best(found).plan._replace(benchmark=True))
    if by_rule.compiled:
        best = _best(found)
        for plan in dict.fromkeys([best.plan, *_best_of_each_way(found)]):
            attempt(plan._replace(compiled=True))
    return found


def _eager(batchable: bool, several: bool, half: bool) -> Iterator[Plan]:
    ways: list[Way] = ["in turn", *(["streams"] if several else []), *(["batched"] if batchable else [])]  # type: ignore[list-item]
    for way in ways:
        for precision in ({"tf32": False}, {"tf32": True}, *([{"tf32": True, "bfloat16": True}] if half else [])):
            for last in (False,) if way == "batched" else (False, True):
                yield REFERENCE._replace(way=way, channels_last=last, **precision)


def _attempt(plan: Plan, measure: Measure, reference: Gradients) -> Candidate:
    try:
        seconds, gradients = measure(plan)
    except Exception as error:  # whatever a compiler, vmap or a lack of memory ends in
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return Candidate(plan, None, None, f"failed: {one_line(f'{type(error).__name__}: {error}', 120)}")
    found = deviation(gradients, reference)
    limit = LIMITS[precision(plan)]
    flaw = "" if found <= limit else f"gradients off by {found:.1%}"  # a NaN is no rounding
    return Candidate(plan, seconds, found, flaw)


def precision(plan: Plan) -> str:
    """Name the precision of a plan."""
    return "bfloat16" if plan.bfloat16 else "TF32" if plan.tf32 else "float32"


def deviation(gradients: Gradients, reference: Gradients) -> float:
    """Return the norm of the difference between gradients, relative to that of the reference."""
    off = torch.stack([(a.double() - b.double()).square().sum() for a, b in zip(gradients, reference, strict=True)])
    size = torch.stack([b.double().square().sum() for b in reference])
    return float((off.sum() / size.sum()).sqrt())


def _best(found: Sequence[Candidate]) -> Candidate:
    best = found[0]
    for candidate in found[1:]:
        if not candidate.flaw and candidate.seconds is not None and best.seconds is not None:  # noqa: SIM102
            if candidate.seconds <= FASTER * best.seconds:
                best = candidate
    return best


def _best_of_each_way(found: Sequence[Candidate]) -> list[Plan]:
    ways = dict.fromkeys(candidate.plan.way for candidate in found)
    good = [candidate for candidate in found if not candidate.flaw]
    parts = [[candidate for candidate in good if candidate.plan.way == way] for way in ways]
    return [_best(part).plan for part in parts if part]


def chosen(found: Sequence[Candidate]) -> tuple[Plan, str, list[dict[str, Any]]]:
    """Pick the best candidate.

    Args:
        found: What was tried; the first one is plain float32.

    Returns:
        The plan, a line that says what is picked and why, and what was measured as JSON values.
    """
    best, plain = _best(found), found[0]
    assert best.seconds is not None and plain.seconds is not None
    rejected = [candidate for candidate in found if candidate.flaw]
    why = f"{best.plan}: {1000 * best.seconds:.1f} ms a training step"
    if best is not plain:
        why += f", {plain.plan} takes {1000 * plain.seconds:.1f} ms; gradients differ by {best.deviation:.1e}"
    why += f" ({len(found)} ways were tried"
    if rejected:
        first = rejected[0]
        why += f", {len(rejected)} rejected, such as {first.plan}: {first.flaw}"
    told = [
        {"plan": str(c.plan), "seconds": c.seconds, "deviation": c.deviation, "rejected": c.flaw or None} for c in found
    ]
    return best.plan, why + ")", told


# Measurement.


def _steps(template: Network, image: tuple[int, int, int], device: torch.device, work: Work) -> Measure:
    """Return a function that runs training steps of as many networks, on random images, and times them."""
    with rng.seeded(0, "measured"):
        x = torch.randn(work.networks, work.batch, *image)
        classes = _classes(template, torch.zeros(2, *image, device=device))
        y = torch.randint(classes, (work.networks, work.batch))
        # Networks that differ, as those of a run do.
        scales = 1 + 0.1 * torch.rand(work.networks)
    x, y, scales = x.to(device), y.to(device), scales.to(device)

    def stacked(state: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        return {
            name: torch.stack([t.detach() * s if t.is_floating_point() else t.detach() for s in scales])
            for name, t in state
        }

    def measure(plan: Plan) -> tuple[float, Gradients]:
        runner = StatelessNetwork(template, plan)
        weights = {name: w.requires_grad_() for name, w in stacked(template.named_parameters()).items()}
        buffers = stacked(template.named_buffers())

        def step() -> Gradients:
            own = {name: b.clone() for name, b in buffers.items()}
            logits = runner.side_by_side(weights | own, x)[1]
            losses = F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)
            return torch.autograd.grad(losses.sum(), list(weights.values()))

        with torch.enable_grad(), plan.flags():
            for _ in range(WARM_UP):
                gradients = step()
            return seconds(step, device), gradients

    return measure


@torch.no_grad()
def _classes(template: Network, x: Tensor) -> int:
    """Count the classes by a pass that does not change running statistics."""
    was_training = template.training
    classes = template.eval()(x)[1].shape[1]
    template.train(was_training)
    return int(classes)


def seconds(step: Callable[[], Any], device: torch.device, rounds: int = ROUNDS) -> float:
    """Return the median time of a step, by the device's own clock on a GPU.

    Args:
        step: What is timed.
        device: Where it runs.
        rounds: How often it is timed.
    """
    if not has_streams(device):
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            step()
            taken.append(time.perf_counter() - began)
        return median(taken)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    torch.cuda.synchronize(device)
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize(device)
    return median(a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(marks))
