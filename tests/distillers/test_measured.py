"""Measured choices and chunks by memory in whole runs, on a CPU that is measured as if it were a GPU."""

import shutil

import lightning.pytorch as pl
import pytest
import torch

from bacon_pl.checkpoint_files import newest
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.evaluation.module import EvalModule
from bacon_pl.evaluation.report import _run
from bacon_pl.learners import Learners, Recipe, TrainingSet
from bacon_pl.networks import measured, memory, picks
from tests.distillers.running import fit, matching, resume, small

FAST = measured.REFERENCE._replace(way="streams", channels_last=True)
GIB = 2**30


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Picks FAST at its first measurement and float32 in turn at every later one; gives the shapes measured."""
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measured, "_unfit", lambda template, device: "")
    shapes = []

    def steps(template, image, device, work):
        shapes.append((image, work))
        favorite = FAST if len(shapes) == 1 else measured.REFERENCE
        return lambda plan: (0.1 if plan == favorite else 1.0, [torch.ones(1)])

    monkeypatch.setattr(measured, "_steps", steps)
    return shapes


def test_a_run_keeps_what_was_measured_at_its_start(gpu, tmp_path):
    root, cache = tmp_path / "run", tmp_path / "cache"
    module = fit(matching(acceleration="measured"), root, 2, Checkpoints(2))
    assert module.pool.model.plan == FAST and module.pool.model.way == "streams"
    assert gpu == [((1, 8, 8), (2, 16))]  # two networks of the pool, on batches of 16
    held = torch.load(newest(root), weights_only=True)["bacon_pl"]["measured"]
    assert [row["plan"] for row in held] == [FAST._asdict()]
    assert DistilledSet.load(root).config["measured"] == held
    plain = fit(matching(acceleration="off"), tmp_path / "plain", 2)
    assert "measured" not in DistilledSet.load(tmp_path / "plain").config
    torch.testing.assert_close(module.images, plain.images, atol=1e-4, rtol=0)
    shutil.rmtree(cache)  # what is lost there cannot change the run
    assert resume(matching(acceleration="measured"), root, 4).pool.model.plan == FAST and len(gpu) == 1
    again = fit(matching(acceleration="measured"), tmp_path / "again", 1)
    assert again.pool.model.plan == measured.REFERENCE and len(gpu) == 2


def test_other_processes_take_what_the_first_one_sends(gpu, monkeypatch):
    sent = picks.Pick({"device": "GPU", "architecture": "ConvNet"}, FAST, "it is fast")
    monkeypatch.setattr(measured, "process_rank", lambda: 1)
    monkeypatch.setattr(measured, "gather_objects", lambda own: [sent, own])
    template = small(1, (8, 8), 10)
    assert measured.measured(measured.REFERENCE, template, (1, 8, 8), torch.device("cpu"), measured.Work()) == FAST
    assert gpu == []


def test_an_evaluation_tells_what_was_measured(gpu):
    data = DataModule(name="digits")
    data.prepare_data()
    data.setup("fit")
    recipe = Recipe(network=small, num_networks=2, epochs=1, batch_size=1024, acceleration="measured")
    learners = Learners(TrainingSet.whole(data.train), recipe, data.meta).fit()
    assert gpu == [((1, 8, 8), (2, 1024))] and learners._network.plan == FAST
    module = EvalModule(learners)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(accelerator="cpu", **quiet).test(module, datamodule=data, verbose=False)
    told = _run(module.run_result("convnet"))["measured"]
    assert [row["plan"] for row in told] == [FAST._asdict()] and told[0]["why"].startswith("streams, float32")


# Chunks by memory.


def test_chunks_are_powers_of_two_that_fit_into_half_of_what_is_free(monkeypatch):
    cuda = torch.device("cuda")
    for free, expected in ((14 * GIB, 4096), (14.5 * GIB, 4096), (4 * GIB, 1), (2 * GIB, 1), (None, memory.AT_ONCE)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert memory.images_at_once("auto", 2**20, 4, cuda) == expected
    assert memory.images_at_once(3, 2**20, 4, cuda) == 3


def test_a_resumed_run_keeps_the_size_of_its_chunks(monkeypatch, tmp_path):
    sizes = iter((16, 32, 64))
    monkeypatch.setattr(memory, "images_at_once", lambda chosen, *_: next(sizes) if chosen == "auto" else chosen)
    module = fit(matching(real_chunk="auto"), tmp_path, 2, Checkpoints(2))
    assert module.matching.real_chunk == 16
    assert resume(matching(real_chunk="auto"), tmp_path, 2).matching.real_chunk == 16
    assert resume(matching(real_chunk=8), tmp_path, 2).matching.real_chunk == 8
    with pytest.raises(Exception, match="real_chunk must be at least 1, or 'auto', got all"):
        matching(real_chunk="all")
