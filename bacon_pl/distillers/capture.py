"""Which parts of an iteration of distribution matching are recorded and replayed, and where they are not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from bacon_pl.distillers.pool import NetworkPool
from bacon_pl.distillers.trial import draws
from bacon_pl.errors import BaconError
from bacon_pl.networks import Captured
from bacon_pl.networks.captured import ROUNDING, ROUNDING_BFLOAT16, can_capture

if TYPE_CHECKING:
    from bacon_pl.distillers.distribution_matching import DistributionMatching


def capture_parts(distiller: DistributionMatching) -> None:
    """Let the matching and the training of the pool be recorded, as ``distiller.capture`` says.

    Everything else of an iteration stays as it is: new networks, drawing batches for the pool, the step of the images,
    the check that numbers are finite, and logging.

    Args:
        distiller: With its pool and its matching.

    Raises:
        BaconError: ``capture`` is ``on`` and a part cannot be recorded.
    """
    d = distiller
    if d.capture == "off":
        return
    whole, matching = _against_all(d), _against_matching(d)
    if d.capture == "on" and (why := whole or matching):
        raise BaconError(f"--model.capture on records the iteration as CUDA graphs, but {why}: set it to auto or off.")
    if whole:
        if can_capture(d.device):
            rank_zero_info(f"The iteration is not recorded as CUDA graphs, for {whole}.")
        return
    half = d.pool.model.plan.bfloat16 or d.trainer.precision == "bf16-mixed"
    rounding = ROUNDING_BFLOAT16 if half else ROUNDING
    if matching:
        rank_zero_info(f"The matching is not recorded as a CUDA graph, for {matching}.")
    else:
        d.matching.captured = Captured("the matching", d.matching.from_tensors, d.capture == "on", rounding)
    if isinstance(d.pool, NetworkPool):
        steps = partial(d.pool.steps, d.normalize)
        d.pool.captured = Captured("the training of the pool", steps, d.capture == "on", rounding)


def _against_all(d: DistributionMatching) -> str | None:
    """Why nothing can be recorded."""
    if not can_capture(d.device):
        return f"the images are on the device '{d.device}', which cannot"
    if d.trainer.world_size > 1:
        return "several devices share it and would have to wait for each other within a graph"
    if d.pool.template.draws_at_random or draws(d.pool.template, (d.meta.channels, *d.meta.size)):
        return f"{type(d.pool.template).__name__} draws at random (dropout), and a replay would draw the same again"
    if d.pool.model.plan.way == "streams":
        return "its networks run on streams of their own, as --model.acceleration measured has picked"
    if d.acceleration == "off" and d.capture == "auto":
        return "--model.acceleration is off"
    return None


def _against_matching(d: DistributionMatching) -> str | None:
    """Why the matching cannot be recorded."""
    if d.references is not None:
        return "the objective reads reference networks, which change from iteration to iteration"
    if d.matching.ascent.adversary is not None:
        return f"{type(d.objective).__name__} has parameters of its own, which ascend in every iteration"
    return None
