"""Measured choices: what is picked, what is rejected, and that equal runs have equal picks."""

import json
import warnings

import pytest
import torch

from bacon_pl.errors import BaconError
from bacon_pl.networks import PLAIN, ConvNet, Plan, Work, measured, picks, resolve_acceleration
from bacon_pl.networks.side_by_side import in_turn, on_streams

CPU = torch.device("cpu")
IMAGE = (1, 8, 8)
WORK = Work(2, 4)


def small():
    torch.manual_seed(0)
    return ConvNet(1, (8, 8), 3, width=4, depth=2)


def clock(times, off=None):
    """A measurement by a made-up clock: seconds and deviation by plan."""

    def measure(plan):
        if plan not in (measured.REFERENCE, *times):
            raise RuntimeError("grouped convolutions are out of stock")
        gradients = [torch.tensor([1.0, (off or {}).get(plan, 0.0)])]
        return times.get(plan, 1.0), gradients

    return measure


def plan(**chosen):
    return measured.REFERENCE._replace(**chosen)


def tried(measure, by_rule=PLAIN):
    return measured.tried(by_rule, small(), IMAGE, WORK, measure)


def test_the_fastest_way_whose_numbers_are_right_is_picked():
    streams, batched = plan(way="streams"), plan(way="batched", tf32=True)
    fast = plan(way="streams", tf32=True, channels_last=True)
    times = {streams: 0.5, batched: 0.1, fast: 0.3, fast._replace(benchmark=True): 0.295}
    off = {batched: 0.5, fast: 0.01}
    best, why, told = measured.chosen(tried(clock(times, off)))
    assert best == fast  # cuDNN's own timing gains too little to be worth it
    assert "streams, TF32, channels last: 300.0 ms a training step" in why and "takes 1000.0 ms" in why
    rejected = {row["plan"]: row["rejected"] for row in told if row["rejected"]}
    assert rejected["batched, TF32"] == "gradients off by 50.0%"
    assert rejected["batched, float32"] == "failed: RuntimeError: grouped convolutions are out of stock"
    nan = clock({fast: 0.1}, {fast: float("nan")})
    assert measured.chosen(tried(nan))[0] == measured.REFERENCE


def test_programs_are_compiled_only_where_the_rule_compiles_them():
    assert not any(candidate.plan.compiled for candidate in tried(clock({})))
    streams = plan(way="streams", compiled=True)
    found = measured.chosen(tried(clock({plan(way="streams"): 0.9, streams: 0.1}), Plan(True, False)))[0]
    assert found == streams


def test_bfloat16_is_tried_only_for_networks_that_bear_it(monkeypatch):
    monkeypatch.setattr(measured, "has_bfloat16", lambda device: True)
    for bears in (True, False):
        monkeypatch.setattr(measured, "bears_bfloat16", lambda *_, bears=bears: bears)
        assert any(candidate.plan.bfloat16 for candidate in tried(clock({}))) is bears


def test_steps_of_all_ways_have_the_same_gradients_and_take_time():
    network = small()
    buffers = {name: t.clone() for name, t in network.state_dict().items()}
    measure = measured._steps(network, IMAGE, CPU, WORK)
    seconds, reference = measure(measured.REFERENCE)
    assert seconds > 0
    other = measured._steps(network, IMAGE, CPU, WORK)(measured.REFERENCE)[1]
    assert all(torch.equal(a, b) for a, b in zip(reference, other, strict=True))  # no draw depends on the state
    for chosen in ({"way": "streams"}, {"way": "batched"}, {"channels_last": True}):
        assert measured.deviation(measure(plan(**chosen))[1], reference) < 1e-5
    half = measured.deviation(measure(plan(bfloat16=True))[1], reference)
    assert measured.LIMITS["float32"] < half < measured.LIMITS["bfloat16"]
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in buffers.items())


def test_streams_run_one_after_another_where_there_are_none():
    torch.manual_seed(0)
    weights = {"w": torch.randn(3, 4, 2, requires_grad=True), "b": torch.randn(3, 2)}
    x = torch.randn(3, 5, 4)
    seen = []

    def run(k, own, images):
        seen.append(k)
        return images @ own["w"] + own["b"], images.sum()

    results = []
    for way in (in_turn, on_streams):
        z, total = way(run, weights, x)
        results.append([z, total, torch.autograd.grad(z.square().sum(), weights["w"])[0]])
    assert seen == [0, 1, 2] * 2
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_flags_of_a_plan_are_restored_even_after_an_error():
    cudnn = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.benchmark)
    opposite = plan(tf32=not before[0], benchmark=not before[1])
    with pytest.raises(ZeroDivisionError), opposite.flags():
        assert 1 / (cudnn.allow_tf32 - opposite.tf32 + cudnn.benchmark - opposite.benchmark)
    assert (cudnn.allow_tf32, cudnn.benchmark) == before


# What is kept.


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine on which a CPU is measured as if it were a GPU, with a cache of its own; counts its measurements."""
    monkeypatch.setenv("BACON_CACHE", str(tmp_path))
    monkeypatch.setattr(measured, "_unfit", lambda template, device: "")
    counted = []
    streams = plan(way="streams")

    def steps(*_):
        counted.append(1)
        return clock({streams: 0.5 if len(counted) == 1 else 2.0})

    monkeypatch.setattr(measured, "_steps", steps)
    return counted


def resolve(work=WORK):
    return resolve_acceleration("measured", small(), IMAGE, 1, CPU, work)


def test_a_pick_is_kept_for_equal_runs(gpu, tmp_path):
    with picks.holding([]) as first:
        found = resolve()
    assert found == plan(way="streams") == resolve() and len(gpu) == 1  # though a second measurement would differ
    assert [pick.plan for pick in first] == [found]
    assert resolve(Work(3, 4)) == measured.REFERENCE and len(gpu) == 2  # other shapes
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and all(file.name.startswith("measured-") for file in files)


@pytest.mark.parametrize("damage", ["", "[]", '{"format": 1}', "way"])
def test_a_damaged_file_is_measured_again(gpu, tmp_path, damage):
    resolve()
    (file,) = tmp_path.iterdir()
    held = json.loads(file.read_text())
    held["plan"]["way"] = "sideways"
    file.write_text(json.dumps(held) if damage == "way" else damage)
    with pytest.warns(UserWarning, match="cannot be used .* measured again"):
        assert resolve() == measured.REFERENCE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve() == measured.REFERENCE and len(gpu) == 2


def test_a_resumed_run_keeps_its_picks_whatever_the_cache_says(gpu):
    kept = [
        picks.Pick({**measured._facts(PLAIN, small(), IMAGE, CPU, WORK), "device": "another"}, Plan(False, True), "")
    ]
    resolve()
    with picks.holding(picks.of_checkpoint([pick.to_json() for pick in kept])) as held, picks.holding([]) as inner:
        assert resolve() == Plan(False, True)
    assert held == kept == inner
    with pytest.raises(BaconError, match="cannot be read from its checkpoint .*: start a new run"):
        picks.of_checkpoint([{"plan": {}}])


def test_a_cpu_is_not_measured(monkeypatch):
    monkeypatch.setattr(measured, "_steps", None)
    for images in (1, 1e20):
        auto = resolve_acceleration("auto", small(), IMAGE, images, CPU)
        assert resolve_acceleration("measured", small(), IMAGE, images, CPU, WORK) == auto
