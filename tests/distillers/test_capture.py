"""The recorded parts of an iteration have the same bits as without, on a CPU, where a stand-in replays them."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from bacon_pl import pretend
from bacon_pl.augment import DSA
from bacon_pl.checkpoints import Checkpoints, in_folder
from bacon_pl.distillers import LoggedBound, PoolSettings
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import NCFM, MeanMatching, Sampler
from tests.distillers.frames import DM, FRAMES
from tests.distillers.running import digits, distill, matching
from tests.recording import tape

STEPS = 8  # three are checked; networks are born in every second one
BATCH_NORM = {"objective": MeanMatching(), "network": partial(ConvNet, width=4, depth=2, norm="batch")}


@pytest.fixture
def recordable(monkeypatch):
    """Let a CPU record, by static memory and plain calls."""
    monkeypatch.setattr("bacon_pl.distillers.capture.can_capture", lambda device: True)


@pytest.fixture
def taped(monkeypatch, recordable):
    """Let a CPU record and replay operations, as a GPU does; there, DSA does not look at its draws."""
    monkeypatch.setattr("bacon_pl.networks.captured._plain", tape)
    monkeypatch.setattr(DSA, "_sorted", DSA._masked)


def check(tmp_path, **settings):
    """Compare a run with recordings, and its second half after a resume, with one without."""
    plain = distill(tmp_path / "a", STEPS, capture="off", **settings)
    captured = distill(tmp_path / "b", STEPS, capture="on", flags={"callbacks": [Checkpoints(STEPS // 2)]}, **settings)
    path = in_folder(tmp_path / "b")[1]
    resumed = distill(tmp_path / "c", STEPS, capture="on", ckpt_path=path, **settings)
    for module, replays in ((captured, STEPS - 3), (resumed, STEPS // 2 - 3)):
        assert torch.equal(plain.images, module.images) and module.matching.captured.replays == replays
        assert torch.equal(plain.pool.meters, module.pool.meters)
        assert all(torch.equal(stack, module.pool.weights[name]) for name, stack in plain.pool.weights.items())
        if module.pool_settings.train_networks:
            assert module.pool.captured.replays == replays


def test_static_memory_keeps_every_bit(tmp_path, recordable):
    check(tmp_path, **FRAMES["dm"], augment=DSA(["flip", "crop"]))


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": DSA(["flip", "crop"])},
        {**BATCH_NORM, "augment": DSA(["color"])},
        # Blocks of one class, whose passes are run again.
        {**DM, "objective": NCFM(frequencies=32), "augment": DSA(["cutout"]), "memory_gib": 1e-4},
    ],
    ids=["bacon", "idm-batch-norm", "ncfm"],
)
def test_replays_follow_everything_that_changes(tmp_path, taped, settings):
    """Iteration numbers, networks, images and accuracies: a recording that kept one of the host's would differ."""
    check(tmp_path, **settings)


def test_more_steps_than_a_recording_holds(tmp_path, taped, monkeypatch):
    monkeypatch.setattr("bacon_pl.distillers.pool.MOST_STEPS", 3)
    settings = {"pool": PoolSettings(initial=1, train_networks=1, train_steps=5), "augment": DSA(["flip"])}
    plain = distill(tmp_path / "a", 4, capture="off", **settings)
    captured = distill(tmp_path / "b", 4, capture="on", **settings)  # 3 steps, and then 2
    assert torch.equal(plain.images, captured.images) and captured.pool.captured.replays == 2
    assert torch.equal(plain.pool.meters, captured.pool.meters)


class Stale(MeanMatching):
    """An objective that is none of its arguments alone."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def terms(self, syn, real, mask=None):
        self.calls += 1
        return {name: value * self.calls for name, value in super().terms(syn, real, mask).items()}


class Reads(MeanMatching):
    """An objective that looks at the device."""

    def terms(self, syn, real, mask=None):
        return {name: value * (2 if value.max() > 0 else 1) for name, value in super().terms(syn, real, mask).items()}


def test_an_objective_that_cannot_be_recorded_runs_on_with_one_sentence(tmp_path, taped):
    settings = {**DM, "augment": DSA(["flip"])}
    with pytest.warns(UserWarning, match=r"^the matching is not replayed as it runs \(.*\), so this run goes on"):
        stale = distill(tmp_path / "a", 4, objective=Stale(), **settings)
    assert stale.matching.captured.replays == 0
    with pytest.warns(UserWarning, match=r"^the matching cannot be recorded \(operation not permitted"):
        reads = distill(tmp_path / "b", 4, objective=Reads(), **settings)
    plain = distill(tmp_path / "c", 4, objective=Reads(), capture="off", **settings)
    assert torch.equal(reads.images, plain.images)
    with pytest.raises(BaconError, match="the matching cannot be recorded"):
        distill(tmp_path / "d", 1, objective=Reads(), capture="on", **settings)


def test_the_bound_is_measured_outside_of_recordings(tmp_path, recordable):
    found = []
    for choice in ("off", "on"):
        logger = CSVLogger(tmp_path / choice)
        settings = {**FRAMES["dm"], "bound": LoggedBound(every_n_steps=3), "augment": DSA(["flip"])}
        module = distill(tmp_path / choice, 6, capture=choice, flags={"logger": logger}, **settings)
        numbers = [row.split(",") for row in Path(logger.log_dir, "metrics.csv").read_text().splitlines()]
        kept = [i for i, name in enumerate(numbers[0]) if name == "step" or name.startswith("bound/")]
        found.append([[row[i] for i in kept] for row in numbers])
    assert found[0] == found[1] and len(kept) > 1
    assert module.matching.captured.replays == 6 - 2 - 3


class Dropping(ConvNet):
    """A network that draws at random in training and does not say so."""

    def embed(self, x):
        return super().embed(torch.nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"network": Dropping}, "Dropping draws at random"),
        ({"objective": NCFM(frequencies=32, sampler=Sampler())}, "NCFM has parameters of its own"),
        (FRAMES["iid"], "the objective reads reference networks"),
    ],
    ids=["dropout", "adversary", "reference"],
)
def test_what_cannot_be_recorded_is_refused(tmp_path, recordable, settings, why):
    with pytest.raises(BaconError, match=f"--model.capture on records the iteration as CUDA graphs, but {why}"):
        distill(tmp_path, 1, capture="on", **settings)


def test_a_cpu_and_unknown_choices_are_refused_and_auto_records_nothing_there(tmp_path):
    with pytest.raises(BaconError, match="the images are on the device 'cpu', which cannot: set it to auto or off"):
        distill(tmp_path, 1, capture="on")
    with pytest.raises(BaconError, match="Did you mean 'auto'"):
        matching(capture="atuo")
    module = distill(tmp_path, 1)
    assert module.capture == "auto" and module.matching.captured is None and module.pool.captured is None


def test_auto_follows_acceleration(tmp_path, recordable):
    def run(**settings):
        module = distill(tmp_path / "run", 1, augment=DSA(["flip"]), **settings)
        return module.matching.captured is not None and module.pool.captured is not None

    assert run() and not run(acceleration="off") and run(acceleration="off", capture="on")


def test_filling_and_replaying_do_not_make_a_gpu_wait(tmp_path, recordable):
    with pretend.PretendGPU() as gpu:
        module = matching(objective=MeanMatching(), augment=DSA(["flip"]))
        gpu.trainer(first=3, max_steps=5, default_root_dir=tmp_path).fit(module, datamodule=digits())
        assert module.matching.captured.replays == module.pool.captured.replays == 2
    gpu.raise_if_any()
