"""Long runs: what a checkpoint holds, what survives kills, signals and damage, and what several processes agree on."""

import contextlib
import os
import pickle
import random
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacon_pl import checkpoints
from bacon_pl.checkpoints import Checkpoints, WholeFiles, claimed
from bacon_pl.data import DataModule
from bacon_pl.distillers import DistillModule, PoolSettings
from bacon_pl.errors import BaconError, DivergedError, StoppedError
from bacon_pl.networks import ConvNet
from tests.paths import DIGITS, ROOT

STEPS, EVERY = 40, 5
COMMAND = [
    "-m", "bacon_pl", "fit", "--config", str(DIGITS), "--model.network.width", "4",
    "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.logger", "false",
    "--validation.every_n_steps", "15", "--validation.epochs", "1", "--validation.keep_best", "true",
    "--image_grid.every_n_steps", "0", "--checkpoint.every_n_train_steps", str(EVERY), "--data.batch_real", "8",
    "--data.val_fraction", "0.2", "--model.pool.push_every", "7", "--model.pool.train_steps", "3",
]  # fmt: skip


def start(out, *args, steps=STEPS, launcher=(sys.executable,), **environment):
    """Start the real command, in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not the whole path: the folder's name is part of the settings, and those of the set's file.
    command = [*launcher, *COMMAND, "--trainer.default_root_dir", out.name, "--trainer.max_steps", str(steps), *args]
    return subprocess.Popen(
        command, cwd=out.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process, code=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out + err


def wait_for(process, out, iteration):
    """Wait until a checkpoint of that iteration or a later one is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = [int(p.stem.split("=")[1]) for p in Path(out, "checkpoints").glob("iteration=*.ckpt")]
        if found and max(found) >= iteration:
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of iteration {iteration}: {process.communicate()[1]}")


def assert_same_end(one, other, steps=STEPS):
    """The files of two runs: the set's pixels, and the whole state behind them, bit for bit."""
    a, b = (checkpoints.read(Path(out, "checkpoints", f"iteration={steps}.ckpt")) for out in (one, other))
    assert torch.equal(a["state_dict"]["images"], b["state_dict"]["images"])
    momentum = [c["optimizer_states"][0]["state"][0]["momentum_buffer"] for c in (a, b)]
    assert torch.equal(*momentum)
    for kind in ("weights", "velocity"):
        for name, stack in a["pool"][kind].items():
            assert torch.equal(stack, b["pool"][kind][name]), name
    assert torch.equal(a["pool"]["meters"], b["pool"]["meters"])
    best = [next(s for n, s in c["callbacks"].items() if n.startswith("ValidationAccuracy")) for c in (a, b)]
    assert best[0]["best_accuracy"] == best[1]["best_accuracy"]
    assert torch.equal(best[0]["best_images"], best[1]["best_images"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one process that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    said = finish(start(out))
    assert f"every {EVERY} iterations, the last 2 are kept" in said
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["iteration=35.ckpt", "iteration=40.ckpt"]
    return out


def kill_and_resume(out, kills, *args):
    chance = random.Random()
    for k in range(kills):
        process = start(out, "--ckpt_path", "last", *args)
        wait_for(process, out, (k + 1) * STEPS // (kills + 2))
        time.sleep(chance.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(out, "--ckpt_path", "last", *args))


def test_killed_again_and_again_a_run_ends_in_the_same_bits(whole, tmp_path):
    kill_and_resume(tmp_path / "run", 3)
    assert_same_end(whole, tmp_path / "run")
    sets = [(out / "distilled.safetensors").read_bytes() for out in (whole, tmp_path / "run")]
    assert sets[0] == sets[1]


def test_two_processes_killed_and_resumed_end_in_the_bits_of_one(whole, tmp_path):
    kill_and_resume(tmp_path, 2, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert_same_end(whole, tmp_path)


def test_three_processes_share_ten_classes_and_another_number_of_them_can_resume(whole, tmp_path):
    finish(start(tmp_path, "--trainer.devices", "3", "--trainer.strategy", "ddp", steps=25))
    finish(start(tmp_path, "--ckpt_path", "last"))  # a longer run than was planned, on one device
    assert_same_end(whole, tmp_path)


def test_two_nodes_of_one_process_each_end_in_the_bits_of_one(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = [
        start(
            tmp_path, "--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.strategy", "ddp",
            launcher=[sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
                      "--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", port],
        )
        for rank in range(2)
    ]  # fmt: skip
    # Both run to their end before one is looked at. The second launcher may complain that the first one's store has
    # closed before its own last word, which is torchrun's affair: what counts is the result.
    said = [node.communicate(timeout=240) for node in nodes]
    assert "distilled set:" in "".join(out for out, _ in said), said
    assert_same_end(whole, tmp_path)


@pytest.mark.parametrize(
    ("number", "code", "devices"),
    [(signal.SIGINT, 130, ()), (signal.SIGTERM, 143, ("--trainer.devices", "2", "--trainer.strategy", "ddp"))],
)
def test_a_signal_ends_a_run_with_a_checkpoint_and_a_short_message(tmp_path, number, code, devices):
    process = start(tmp_path, "--checkpoint.every_n_train_steps", "3", *devices, steps=100_000)
    wait_for(process, tmp_path, 3)
    process.send_signal(number)
    said = finish(process, code)
    assert said.count("stopped after") == 1
    stopped = int(said.split("stopped after ")[1].split()[0])
    assert "--ckpt_path last" in said
    assert checkpoints.newest(tmp_path).name == f"iteration={stopped}.ckpt"
    assert not (tmp_path / "distilled.safetensors").exists()
    with claimed(tmp_path, "last", False) as path:  # nothing holds the folder any more
        assert path is not None


def test_slurms_signal_writes_a_checkpoint_and_requeues_the_job(tmp_path):
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "distill", "SLURM_JOB_ID": "77", "SLURM_PROCID": "0"}
    job |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_NTASKS_PER_NODE": "1"}
    path = f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"
    process = start(tmp_path / "out", steps=100_000, PATH=path, **job)
    wait_for(process, tmp_path / "out", EVERY)
    process.send_signal(signal.SIGUSR1)
    finish(process, 128 + signal.SIGUSR1)
    assert (tmp_path / "asked").read_text().split() == ["requeue", "77"]
    assert checkpoints.newest(tmp_path / "out") is not None


# In one process.


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


def distill(root, steps, *callbacks, ckpt_path=None, data=None, **module):
    pool = PoolSettings(initial=2, push_every=2, capacity=4, train_networks=2, train_steps=2)
    module = DistillModule(**{"ipc": 1, "network": small, "pool": pool, "acceleration": "off", **module})
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=1, default_root_dir=root, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[*callbacks, *([] if any(isinstance(c, Checkpoints) for c in callbacks) else [Checkpoints(2)])],
    )  # fmt: skip
    data = DataModule(name="digits", **{"batch_real": 8, "pool_batch": 16, **(data or {})})
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint's bytes."""
    root = tmp_path_factory.mktemp("saved")
    distill(root, 4)
    return checkpoints.newest(root).read_bytes()


def test_checkpoints_are_readable_by_others(tmp_path, saved):
    before = os.umask(0o022)
    try:
        WholeFiles().save_checkpoint({"a": torch.ones(1)}, tmp_path / "x.ckpt")
    finally:
        os.umask(before)
    assert (tmp_path / "x.ckpt").stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [tmp_path / "x.ckpt"]


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_used(tmp_path):
    distill(tmp_path, 6)
    last, before = checkpoints.in_folder(tmp_path)
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    with pytest.warns(UserWarning, match=r"iteration=6.ckpt' is damaged.*Trying the one before"):
        assert checkpoints.newest(tmp_path) == before
    before.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(BaconError, match="all checkpoints .* are damaged"):
        checkpoints.newest(tmp_path)


def assert_refused_or_whole(path, data):
    path.write_bytes(data)
    checkpoint = None
    with contextlib.suppress(BaconError):  # and nothing else
        checkpoint = checkpoints.read(path)
    if checkpoint is not None:
        assert torch.isfinite(checkpoint["state_dict"]["images"]).all()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_checkpoint_changed_anywhere_is_refused_or_whole(saved, tmp_path_factory, data):
    at = data.draw(st.integers(0, len(saved) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "drop", "insert"]))
    changed = bytearray(saved)
    if kind == "flip":
        changed[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del changed[at:]
    elif kind == "drop":
        del changed[at : at + data.draw(st.integers(1, 100))]
    else:
        changed[at:at] = data.draw(st.binary(min_size=1, max_size=100))
    assert_refused_or_whole(tmp_path_factory.getbasetemp() / "changed.ckpt", bytes(changed))


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_never_runs_code(tmp_path, saved):
    path, proof = tmp_path / "hostile.ckpt", tmp_path / "it-ran"
    torch.save({"pool": Hostile(proof), "run": 1, "global_step": 1, "loops": 1}, path)
    with pytest.raises(BaconError, match="more than tensors, numbers and text"):
        checkpoints.read(path)
    path.write_bytes(pickle.dumps(Hostile(proof)))
    with pytest.raises(BaconError, match="damaged"):
        checkpoints.read(path)
    assert not proof.exists()


def test_a_checkpoint_that_would_unpack_to_more_than_it_is_is_refused(tmp_path):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(BaconError, match="damaged"):
        checkpoints.read(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": {"lr": 0.2}}, "--model.lr was 0.2, now 0.3"),
        ({"model": {"network": {"init_args": {"width": 8}}}}, "--model.network.init_args.width was 8, now 4"),
        ({"seed_everything": 1}, "--seed_everything was 1, now 0"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_the_settings_named(tmp_path, change, sentence):
    now = {"seed_everything": 0, "model": {"lr": 0.3, "network": {"init_args": {"width": 4}}}}

    class Configured(pl.Callback):
        def __init__(self, config):
            self.config = config

        def setup(self, trainer, module, stage):
            module.config = self.config

    distill(tmp_path, 2, Configured({**now, **change}))
    with pytest.raises(BaconError, match=sentence):
        distill(tmp_path, 4, Configured(now), ckpt_path=checkpoints.newest(tmp_path))


def test_folders_keep_what_is_in_them(tmp_path):
    with claimed(tmp_path, "last", False) as path:
        assert path is None  # nothing yet: start anew
        with pytest.raises(BaconError, match="another process"), claimed(tmp_path, None, True):
            pass
    distill(tmp_path, 2)
    (tmp_path / "distilled.safetensors").touch()
    with (
        pytest.raises(BaconError, match="a finished run: continue it with --ckpt_path last"),
        claimed(tmp_path, None, False),
    ):
        pass
    (tmp_path / "distilled.safetensors").unlink()
    with pytest.raises(BaconError, match="an unfinished run"), claimed(tmp_path, None, False):
        pass
    for given_path in ("last", str(tmp_path), str(tmp_path / "checkpoints/iteration=2.ckpt")):
        with claimed(tmp_path, given_path, False) as path:
            assert path == tmp_path / "checkpoints/iteration=2.ckpt"
    with pytest.raises(BaconError, match="no checkpoint"), claimed(tmp_path, str(tmp_path / "nothing"), False):
        pass
    # What is to be replaced is there until the new run starts.
    with claimed(tmp_path, None, True) as path:
        assert path is None and checkpoints.in_folder(tmp_path)
    replacing = Checkpoints(5)
    replacing.replaces = True
    with pytest.raises(BaconError, match="more images per class"):
        distill(tmp_path, 2, replacing, ipc=10_000)
    assert checkpoints.in_folder(tmp_path)
    distill(tmp_path, 6, replacing)
    assert [p.name for p in checkpoints.in_folder(tmp_path)] == ["iteration=6.ckpt", "iteration=5.ckpt"]


def test_a_full_disk_leaves_earlier_checkpoints_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    WholeFiles().save_checkpoint({"a": 1}, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BaconError, match="No space left on device.*earlier checkpoints are as they were"):
        WholeFiles().save_checkpoint({"a": torch.zeros(1000)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Poison(pl.Callback):
    """Makes a number of the run go wrong before an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.iteration:
            for stack in module.pool.weights.values():
                stack.fill_(torch.nan)


def test_numbers_that_go_wrong_stop_the_run_after_the_last_good_state_is_saved(tmp_path):
    with pytest.raises(DivergedError, match=r"iteration 3: not finite: likelihood, tv, ce, gradient") as caught:
        distill(tmp_path, 10, Poison(3), Checkpoints(1000))
    assert caught.value.state_is_good
    (path,) = checkpoints.in_folder(tmp_path)
    state = checkpoints.read(path)
    assert path.name == "iteration=3.ckpt" and state["global_step"] == 3
    assert torch.isfinite(state["state_dict"]["images"]).all()


def test_pool_networks_that_go_wrong_stop_the_run_and_reach_no_checkpoint(tmp_path):
    wild = PoolSettings(initial=2, push_every=2, capacity=4, train_networks=2, train_steps=2, lr=1e30)
    with pytest.raises(DivergedError, match="iteration 0: not finite: pool networks") as caught:
        distill(tmp_path, 10, Checkpoints(1), pool=wild)
    assert not caught.value.state_is_good
    assert not checkpoints.in_folder(tmp_path)


def test_steps_stay_within_their_bounds(tmp_path):
    free = distill(tmp_path / "a", 3, lr=3.0)
    bound = distill(tmp_path / "b", 3, lr=3.0, clamp_pixels=True)
    pixels = [m.images.detach() * m.meta.std[0] + m.meta.mean[0] for m in (free, bound)]
    assert pixels[0].min() < -0.01 and pixels[0].max() > 1.01
    assert pixels[1].min() >= -1e-6 and pixels[1].max() <= 1 + 1e-6
    start = distill(tmp_path / "c", 1, lr=1e-9).images.detach()
    clipped = distill(tmp_path / "d", 1, lr=1.0, clip_gradient=0.01, per_class_steps=False).images.detach()
    steps = (clipped - start).flatten(1).norm(dim=1)
    assert torch.allclose(steps, torch.full_like(steps, 0.01), rtol=1e-2)


def test_stopping_is_an_error_that_says_how_far_it_got(tmp_path):
    class Ring(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError) as caught:
        distill(tmp_path, 10, Ring(), Checkpoints(1000))
    assert (caught.value.number, caught.value.iterations) == (signal.SIGTERM, 5)
    assert checkpoints.newest(tmp_path).name == "iteration=5.ckpt"
    resumed = distill(tmp_path, 10, ckpt_path=checkpoints.newest(tmp_path))
    assert torch.equal(resumed.images, distill(tmp_path / "whole", 10).images)
