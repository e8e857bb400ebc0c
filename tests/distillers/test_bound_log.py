"""The bound and the risk that a distillation logs: by hand, on time, on several processes, and without a trace."""

import os
import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bacon_pl.bound import measure
from bacon_pl.data import DataModule
from bacon_pl.distillers import DistributionMatching, LoggedBound, NetworkPool, PoolSettings
from bacon_pl.distillers.bound_log import BoundLog
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import IID, M3D, NCFM, Combined, DataDAM, MeanMatching
from tests.paths import ROOT

NAMES = ("bound", "bound_se", "risk", "risk_se", "epsilon")


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


def distill(folder, bound, steps=5, batch_real=8, logged=True, **settings):
    """Run the real trainer on the digits; returns the module and what was logged, name → {iteration: value}."""
    module = DistributionMatching(
        ipc=1, network=small, pool=PoolSettings(push_every=2, train_steps=2), bound=bound, seed=7, **settings
    )
    logger = TensorBoardLogger(folder) if logged else False
    pl.Trainer(
        max_steps=steps, max_epochs=1, default_root_dir=folder, logger=logger, enable_checkpointing=False,
        enable_progress_bar=False, accelerator="cpu", enable_model_summary=False,
    ).fit(module, datamodule=DataModule(name="digits", batch_real=batch_real, pool_batch=16))  # fmt: skip
    return module, scalars(logger.log_dir) if logged else {}


def scalars(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    names = [name for name in NAMES if f"bound/{name}" in events.Tags()["scalars"]]
    return {name: {e.step: e.value for e in events.Scalars(f"bound/{name}")} for name in names}


@pytest.mark.parametrize("batch_real", [8, 1000])
def test_logged_is_what_the_functions_say_of_the_iterations_embeddings(tmp_path, monkeypatch, batch_real):
    seen = []
    plain = BoundLog.measure

    def spy(self, *given):
        seen.append(given)
        plain(self, *given)

    monkeypatch.setattr(BoundLog, "measure", spy)
    settings = LoggedBound(samples=6, tv_weight=0.5, clip="symmetric", every_n_steps=2)
    _, logged = distill(tmp_path, settings, steps=1, batch_real=batch_real)
    assert len(seen) > 1  # blocks of classes
    z_syn, z_real, classes = (torch.cat([given[i] for given in seen]) for i in (0, 1, 3))
    mask = None if batch_real == 8 else torch.cat([given[2] for given in seen])
    assert classes.tolist() == list(range(10)) and not z_syn.requires_grad
    found = measure(z_syn, z_real, mask, settings, 7, "bound", 0)
    for name, value in zip(NAMES, found.summary().values(), strict=True):
        assert logged[name] == {0: pytest.approx(value.item(), rel=1e-5)}


def test_logged_on_time_and_only_where_somebody_listens(tmp_path):
    for every, iterations in ((1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (0, [])):
        _, logged = distill(tmp_path / str(every), LoggedBound(samples=2, every_n_steps=every))
        assert {name: list(values) for name, values in logged.items()} == dict.fromkeys(
            NAMES if every else (), iterations
        )
    module, _ = distill(tmp_path, LoggedBound(every_n_steps=1), logged=False)
    assert module.bound_log.values == ()


@pytest.mark.parametrize(
    "objective",
    [MeanMatching(), DataDAM(), IID(), M3D(), NCFM(), Combined([NCFM(), DataDAM()])],
    ids=lambda objective: type(objective).__name__,
)
def test_logged_for_every_objective_that_compares_embeddings(tmp_path, objective):
    _, logged = distill(tmp_path, LoggedBound(samples=2, every_n_steps=1), steps=2, objective=objective)
    assert {name: list(values) for name, values in logged.items()} == {name: [0, 1] for name in NAMES}
    assert 0 <= logged["risk"][1] <= 1


def test_no_bit_of_the_images_and_no_forward_pass_more(tmp_path, monkeypatch):
    passes = []
    plain = NetworkPool.forward

    def count(self, *given):
        passes[-1] += 1
        return plain(self, *given)

    monkeypatch.setattr(NetworkPool, "forward", count)
    images = []
    for i, settings in enumerate(
        [LoggedBound(every_n_steps=0), LoggedBound(every_n_steps=1, tv_weight=0.1, samples=3)]
    ):
        passes.append(0)
        images.append(distill(tmp_path / str(i), settings)[0].images)
    assert torch.equal(*images)
    assert passes[0] == passes[1] > 0


def test_two_processes_log_what_one_logs(tmp_path):
    logs = []
    for devices in ("1", "2"):
        out = tmp_path / devices
        done = subprocess.run(
            [sys.executable, "-m", "bacon_pl", "fit", "--config", "configs/digits/ipc1.yaml", "--model.network.width",
             "4", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.devices",
             devices, "--trainer.strategy", "ddp" if devices == "2" else "auto", "--trainer.max_steps", "3",
             "--trainer.default_root_dir", str(out), "--validation.every_n_steps", "0", "--data.batch_real", "8",
             "--model.bound.every_n_steps", "2", "--model.bound.samples", "4"],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (log,) = out.glob("lightning_logs/version_*")
        logs.append(scalars(log))
    assert set(logs[0]) == set(NAMES) and list(logs[0]["bound"]) == [0, 2]
    assert logs[0] == logs[1]


def test_bad_interval_is_one_sentence():
    with pytest.raises(BaconError, match="--model.bound.every_n_steps must be at least 0, got -1"):
        LoggedBound(every_n_steps=-1)
