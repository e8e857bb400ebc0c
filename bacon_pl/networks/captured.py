"""Functions of tensors that are recorded once as a CUDA graph and replayed, checked against the functions themselves.

A GPU is told what to do one small operation after another. A graph is a recording of all of them, which takes one
launch. It is replayed on the memory on which it was recorded: what a call brings is copied there first, and what comes
out is copied from there. Everything else that the function looked at on the host, such as numbers, settings and Python
state, stays what it was when the recording was made. So whatever changes must be one of the function's tensors, and a
recording is believed only after it has agreed with the function itself.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from bacon_pl.errors import BaconError, one_line

Capture = Literal["auto", "on", "off"]
Function = Callable[..., Any]
Recorder = Callable[[Function, Sequence[Tensor], Callable[[], None]], Callable[[], Any]]
"""Records a call of a function with static tensors, which the second function fills, and returns its replay."""

CHECKED = 3
"""Number of calls, for each combination of shapes, in which a recording is compared with the function itself."""

WARM_UPS = 2
"""Number of calls before a recording, after a first one that may make what later calls keep. None of them may wait."""

MOST_PROGRAMS = 8
"""Number of recordings of one function, for different shapes. Each holds memory, so further shapes are not recorded."""

ROUNDING = 1e-3
"""Largest difference from the function itself as a share of a tensor's largest value. Recorded operations are the same
ones; but some of the gradients are sums in no fixed order on a GPU."""

ROUNDING_BFLOAT16 = 1e-2
"""The same for passes in bfloat16."""


def can_capture(device: torch.device) -> bool:
    """Test whether a device can record and replay what it does: a CUDA device that is there."""
    return device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()


class Captured:
    """A function of tensors that is recorded in its first call with some shapes, and replayed in later ones.

    In the first :data:`CHECKED` calls both are run: the results are those of the function, and the replay's must be
    equal to them up to rounding. If they are not, or the function cannot be recorded, this is told in one sentence, and
    all calls run the function itself. Where a device cannot record, everything is the same but that a replay calls the
    function with the static tensors.

    What the function must be: one of its arguments alone, without a look at the device's numbers; tensors of its own
    that it reads must stay where they are. It may overwrite its arguments, and return them.

    **This has not been run on a GPU yet.**

    Args:
        what: Name of the function, for messages.
        function: Takes tensors in dictionaries, lists and tuples, and returns the same.
        insist: Raise an error where the function cannot be recorded, or its replay differs.
        rounding: Largest difference of the replay, as a share of a tensor's largest value.
        recorder: How a call is recorded; by default as a CUDA graph on a GPU, and not at all elsewhere.

    Attributes:
        why_not: Why the function is not replayed any more; None while it is.
        replays: Number of calls whose results were a replay's.

    Raises:
        BaconError: In a call, if ``insist`` and the function cannot be recorded, or its replay differs.

    Example:
        >>> double = Captured("doubling", lambda x: 2 * x)
        >>> [double(torch.tensor(float(i))).item() for i in range(5)], double.replays
        ([0.0, 2.0, 4.0, 6.0, 8.0], 2)
    """

    def __init__(
        self,
        what: str,
        function: Function,
        insist: bool = False,
        rounding: float = ROUNDING,
        recorder: Recorder | None = None,
    ) -> None:
        self.what = what
        self.function = function
        self.insist = insist
        self.rounding = rounding
        self.recorder = recorder
        self.why_not: str | None = None
        self.replays = 0
        self._programs: dict[Any, _Program] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run the function.

        Args:
            arguments: Tensors on one device, in dictionaries, lists and tuples.

        Returns:
            What the function returns; that of a replay is in memory of its own.
        """
        if self.why_not is not None:
            return self.function(*arguments)
        tensors, layout = tree_flatten(arguments)
        key = (layout, *((t.shape, t.dtype, t.device) for t in tensors))
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= MOST_PROGRAMS:
                return self.function(*arguments)
            program = self._programs[key] = _Program()
        if program.checked < CHECKED:
            return self._check(program, tensors, layout)
        self.replays += 1
        return program(tensors)

    def _check(self, program: _Program, tensors: list[Tensor], layout: Any) -> Any:
        """Run the function and the replay, compare them, and return what the function returns."""
        # The function is first: what it keeps must not be of the static memory. It may overwrite its arguments.
        expected = self.function(*tree_unflatten([t.detach().clone() for t in tensors], layout))
        found = None
        try:
            if program.replay is None:
                record = self.recorder or (_graph if can_capture(tensors[0].device) else _plain)
                program.record(lambda *static: self.function(*tree_unflatten(static, layout)), tensors, record)
            found = program(tensors)
        except Exception as error:  # whatever it is, the function itself can still be run
            self._stop(f"cannot be recorded ({one_line(error).rstrip('.')})")
        if self.why_not is None:
            flaw = _difference(found, expected, self.rounding)
            program.checked += 1
            if flaw:
                self._stop(f"is not replayed as it runs ({flaw} in call {program.checked} of {CHECKED})")
        return expected

    def _stop(self, why: str) -> None:
        self.why_not = f"{self.what} {why}"
        self._programs.clear()
        if self.insist:
            raise BaconError(
                f"{self.why_not}: set --model.capture auto, which runs it without recording it, or --model.capture off."
            )
        warnings.warn(
            f"{self.why_not}, so this run goes on without recording it, and is right but slower; --model.capture off "
            "leaves out the attempt.",
            stacklevel=4,
        )


class _Program:
    """One recording: its static tensors, its replay, and how often it has been compared."""

    def __init__(self) -> None:
        self.replay: Callable[[], Any] | None = None
        self.checked = 0
        self._static: list[Tensor] = []

    @torch.no_grad()
    def record(self, function: Function, tensors: Sequence[Tensor], recorder: Recorder) -> None:
        self._static = [t.detach().clone() for t in tensors]
        with torch.enable_grad():
            self.replay = recorder(function, self._static, lambda: self._fill(tensors))

    @torch.no_grad()
    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        assert self.replay is not None
        self._fill(tensors)
        with torch.enable_grad():
            found = self.replay()
        leaves, layout = tree_flatten(found)
        # The next replay overwrites what this one has left.
        return tree_unflatten([t.detach().clone() for t in leaves], layout)

    @torch.no_grad()
    def _fill(self, tensors: Sequence[Tensor]) -> None:
        torch._foreach_copy_(self._static, [t.detach() for t in tensors])


def _plain(function: Function, static: Sequence[Tensor], fill: Callable[[], None]) -> Callable[[], Any]:
    return lambda: function(*static)


def _graph(function: Function, static: Sequence[Tensor], fill: Callable[[], None]) -> Callable[[], Any]:
    """Record a CUDA graph, as torch's notes on CUDA graphs describe it."""
    device = static[0].device
    before = torch.cuda.current_stream(device)
    aside = torch.cuda.Stream(device)
    aside.wait_stream(before)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), _no_cast_is_kept():
        with torch.cuda.stream(aside):
            function(*static)  # compiles, and makes constants that later calls keep
            with _waits_are_errors():  # an error within the recording would be found as well, but leaves traces in CUDA
                for _ in range(WARM_UPS):
                    fill()  # the function may overwrite its arguments
                    function(*static)
        before.wait_stream(aside)
        try:
            # Other threads, such as those of a loader, may do meanwhile what a recording does not allow.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                outputs = function(*static)
        finally:
            torch.cuda.set_stream(before)  # torch's own context leaves it where it was if the recording failed

    def replay() -> Any:
        graph.replay()
        return outputs

    return replay


@contextlib.contextmanager
def _no_cast_is_kept() -> Iterator[None]:
    """Keep autocast from reusing weights that it has cast outside of a recording, or in one of them."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextlib.contextmanager
def _waits_are_errors() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")  # torch calls it a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


@torch.no_grad()
def _difference(found: Any, expected: Any, rounding: float) -> str:
    """Say how two results differ by more than rounding; empty if they do not. This reads the device once.

    Parts of a result, such as all weights, are taken together: a gradient that is zero but for rounding differs wholly.
    """
    (here, layout), (there, wanted) = tree_flatten(found), tree_flatten(expected)
    if layout != wanted or any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(here, there, strict=True)):
        return "its results have other names or shapes"
    parts = zip(found, expected, strict=True) if isinstance(expected, (list, tuple)) else [(found, expected)]
    flat = [(tree_flatten(a)[0], tree_flatten(b)[0]) for a, b in parts]
    if not (shares := [_share(a, b) for a, b in flat if a]):
        return ""
    worst = torch.stack(shares).max().item()
    return "" if worst <= rounding else f"a result differs by {100 * worst:.2g} % of its largest value"


def _share(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Largest difference as a share of the largest value; equal infinities and NaN do not differ."""
    apart, largest = [], [torch.full((), torch.finfo(torch.float32).tiny, dtype=torch.float64, device=found[0].device)]
    for here, there in zip(found, expected, strict=True):
        if there.numel():
            a, b = here.double(), there.double()
            difference = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).max()
            # Counts may differ by one, where a comparison was close.
            apart.append(difference if there.is_floating_point() else (difference - 1).clamp(min=0))
            largest.append(b.abs().nan_to_num(0.0, 0.0).max())
    if not apart:
        return torch.zeros_like(largest[0])
    return (torch.stack(apart).max() / torch.stack(largest).max()).nan_to_num(torch.inf, torch.inf)
