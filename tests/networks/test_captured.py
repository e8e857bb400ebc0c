"""Recorded functions: their static memory, and the comparison with the functions themselves, on a CPU."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from bacon_pl.errors import BaconError
from bacon_pl.networks.captured import CHECKED, MOST_PROGRAMS, WARM_UPS, Captured, _graph, can_capture
from tests.recording import tape


@pytest.mark.parametrize("recorder", [None, tape])
def test_replays_are_calls_with_results_of_their_own(recorder):
    def step(state, x):
        w = state["w"].detach().requires_grad_()
        (slope,) = torch.autograd.grad((w * x).square().sum(), [w])
        with torch.no_grad():
            w -= 0.1 * slope  # arguments may be overwritten, and returned
        return {"w": w.detach()}, [x.sum()]

    captured, results, states = Captured("a step", step, insist=True, recorder=recorder), [], []
    state, reference = {"w": torch.ones(3)}, {"w": torch.ones(3)}
    for i in range(8):
        x = torch.full((3,), 0.3 * i)
        state, found = captured({"w": state["w"]}, x)
        states.append(state["w"])
        results += found
        reference, _ = step({"w": reference["w"].clone()}, x)
        assert torch.equal(state["w"], reference["w"])
    assert captured.replays == 8 - CHECKED and captured.why_not is None
    assert torch.equal(torch.stack(results), torch.stack([torch.full((3,), 0.3 * i).sum() for i in range(8)]))
    replayed = states[CHECKED:]
    assert len({w.data_ptr() for w in replayed}) == len(torch.stack(replayed).unique(dim=0)) == len(replayed)


def test_every_shape_has_its_own_recording_up_to_a_limit():
    captured = Captured("doubling", lambda x: 2 * x)
    for _ in range(CHECKED + 1):
        for n in range(1, MOST_PROGRAMS + 3):
            assert torch.equal(captured(torch.arange(n)), 2 * torch.arange(n))
    assert captured.replays == MOST_PROGRAMS


class Counts:
    """Functions that are not one of their arguments alone."""

    def __init__(self):
        self.calls = 0
        self.kept = None

    def with_the_number_of_its_call(self, x):
        self.calls += 1
        return x + self.calls

    def with_what_it_was_last_given(self, x):
        self.kept, before = x, self.kept
        return x + (0 if before is None else before)

    def with_what_it_was_first_given(self, x):
        self.kept = x if self.kept is None else self.kept
        return x + self.kept

    def by_a_number(self, x):
        return x if x.sum() > 3 else -x


@pytest.mark.parametrize(
    ("name", "recorder", "why"),
    [
        ("with_the_number_of_its_call", None, "is not replayed as it runs (a result differs by"),
        ("with_the_number_of_its_call", tape, "is not replayed as it runs (a result differs by"),
        ("with_what_it_was_last_given", None, "is not replayed as it runs (a result differs by"),
        ("by_a_number", tape, "cannot be recorded (operation not permitted when stream is capturing"),
    ],
)
def test_a_function_that_lies_is_switched_off_with_one_sentence(name, recorder, why):
    captured, plain = Captured("f", getattr(Counts(), name), recorder=recorder), getattr(Counts(), name)
    with pytest.warns(UserWarning, match="--model.capture off leaves out the attempt") as told:
        found = [captured(torch.full((3,), float(i))) for i in range(6)]
    assert len(told) == 1 and str(told[0].message).startswith(f"f {why}")
    assert captured.replays == 0 and captured.why_not.startswith(f"f {why}")
    if name == "by_a_number":
        assert torch.equal(torch.stack(found), torch.stack([plain(torch.full((3,), float(i))) for i in range(6)]))
    insists = Captured("f", getattr(Counts(), name), insist=True, recorder=recorder)
    with pytest.raises(BaconError, match="set --model.capture auto, which runs it without recording it"):
        [insists(torch.full((3,), float(i))) for i in range(6)]


@pytest.mark.parametrize("recorder", [None, tape])
def test_what_is_kept_of_a_first_call_is_not_of_static_memory(recorder):
    captured = Captured("f", Counts().with_what_it_was_first_given, insist=True, recorder=recorder)
    assert [captured(torch.tensor(float(i))).item() for i in range(1, 7)] == [2, 3, 4, 5, 6, 7]


def off_by(change, value, rounding=1e-3):
    """Whether a replay that is changed in this way is switched off."""
    changed = Captured("f", lambda x: [{"out": value, "large": torch.ones(2)}], rounding=rounding)
    changed.recorder = lambda function, static, fill: lambda: [{"out": change(value), "large": torch.ones(2)}]
    changed.function, changed.insist = (lambda x: [{"out": value, "large": torch.ones(2)}]), True
    try:
        changed(torch.zeros(()))
    except BaconError:
        return True
    return False


def test_rounding_is_no_lie_and_more_is():
    value = torch.tensor([0.0, 1.0, -2.0])
    assert not off_by(lambda x: x * 1.0009, value) and off_by(lambda x: x * 1.0011, value)
    assert not off_by(lambda x: x * 1.009, value, rounding=1e-2)
    assert not off_by(lambda x: x + 1e-6, torch.zeros(3))  # zero but for rounding
    assert not off_by(lambda x: x, torch.tensor([torch.nan, torch.inf])) and off_by(lambda x: x * torch.nan, value)
    counts = torch.tensor([40, 50])
    assert not off_by(lambda x: x + 1, counts) and off_by(lambda x: x + 2, counts)
    assert off_by(lambda x: x.double(), value) and off_by(lambda x: x[:2], value)


def test_a_device_that_is_not_there_records_nothing():
    assert not can_capture(torch.device("cpu")) and not can_capture(torch.device("cuda", 127))


@pytest.fixture
def cuda(monkeypatch):
    """A list of what is told to CUDA, which is not there."""
    told, stream, mode = [], SimpleNamespace(wait_stream=lambda other: told.append("wait for the stream")), ["default"]

    @contextlib.contextmanager
    def within(what):
        told.append(f"begin {what}")
        yield
        told.append(f"end {what}")

    for name, fake in {
        "device": lambda device: contextlib.nullcontext(),
        "current_stream": lambda device: stream,
        "set_stream": lambda given: told.append("back" if given is stream else "elsewhere"),
        "Stream": lambda device: SimpleNamespace(wait_stream=lambda other: told.append("wait for what is queued")),
        "stream": lambda given: within("stream"),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: told.append("replay")),
        "graph": lambda graph, stream, capture_error_mode: within("graph"),
        "get_sync_debug_mode": lambda: mode[0],
        "set_sync_debug_mode": lambda given: mode.__setitem__(0, given),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return told, mode


def test_the_order_in_which_a_graph_is_recorded(cuda):
    """What is told to CUDA, not what CUDA does of it."""
    told, mode = cuda

    def call(x):
        told.append(f"call, waits: {mode[0]}, casts kept: {torch.is_autocast_cache_enabled()}")
        return x + 1

    static = [torch.zeros(2)]
    replay = _graph(call, static, lambda: told.append("fill"))
    warm = ["fill", "call, waits: error, casts kept: False"]
    assert told == [
        "wait for what is queued", "begin stream", "call, waits: default, casts kept: False", *warm * WARM_UPS,
        "end stream", "wait for the stream", "begin graph", "call, waits: default, casts kept: False", "end graph",
        "back",
    ]  # fmt: skip
    told.clear()
    assert replay().tolist() == [1, 1] and told == ["replay"]
    assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize("failing", [1, 2, 2 + WARM_UPS])
def test_a_recording_that_fails_leaves_nothing_changed(cuda, failing):
    told, mode = cuda
    calls = []

    def call(x):
        calls.append(x)
        if len(calls) == failing:
            raise RuntimeError("called a synchronizing CUDA operation")
        return x

    with pytest.raises(RuntimeError, match="synchronizing"):
        _graph(call, [torch.zeros(2)], lambda: None)
    assert mode == ["default"] and torch.is_autocast_cache_enabled()
    assert (told[-1] == "back") is ("begin graph" in told) is (failing > 1 + WARM_UPS)
