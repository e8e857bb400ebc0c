"""Long runs by the real command: what survives kills and signals, and what several processes agree on."""

import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bacon_pl import checkpoints
from bacon_pl.checkpoints import claimed
from tests.paths import DIGITS, PYTHON, ROOT
from tests.patience import PATIENCE

STEPS, EVERY = 40, 5
COMMAND = [
    "-m", "bacon_pl", "fit", "--config", str(DIGITS), "--model.network.width", "4",
    "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.logger", "false",
    "--validation.every_n_steps", "15", "--validation.epochs", "1", "--validation.keep_best", "true",
    "--image_grid.every_n_steps", "0", "--checkpoint.every_n_train_steps", str(EVERY), "--data.batch_real", "8",
    "--data.val_fraction", "0.2", "--model.pool.push_every", "7", "--model.pool.train_steps", "3",
]  # fmt: skip


def start(out, *args, steps=STEPS, launcher=None, **environment):
    """Start the real command, in a process group of its own."""
    launcher = launcher or [sys.executable]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not the whole path: the folder's name is part of the settings, and those of the set's file.
    command = [*launcher, *COMMAND, "--trainer.default_root_dir", out.name, "--trainer.max_steps", str(steps), *args]
    return subprocess.Popen(
        command, cwd=out.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process, code=0):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out + err


def wait_for(process, out, iteration):
    """Wait until a checkpoint of that iteration or a later one is there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        found = [int(p.stem.split("=")[1]) for p in Path(out, "checkpoints").glob("iteration=*.ckpt")]
        if found and max(found) >= iteration:
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of iteration {iteration}: {process.communicate()[1]}")


def assert_same_end(one, other, steps=STEPS):
    """The files of two runs: the set's pixels, and the whole state behind them, bit for bit."""
    a, b = (checkpoints.read(Path(out, "checkpoints", f"iteration={steps}.ckpt")) for out in (one, other))
    assert torch.equal(a["state_dict"]["synthetic.images"], b["state_dict"]["synthetic.images"])
    pools = [c["bacon_pl"]["extra"] for c in (a, b)]
    momentum = [c["optimizer_states"][0]["state"][0]["momentum_buffer"] for c in (a, b)]
    assert torch.equal(*momentum)
    for kind in ("weights", "velocity"):
        for name, stack in pools[0][kind].items():
            assert torch.equal(stack, pools[1][kind][name]), name
    assert torch.equal(pools[0]["meters"], pools[1]["meters"])
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


def kill_and_resume(out, kills, *args, **how):
    chance = random.Random()
    for k in range(kills):
        process = start(out, "--ckpt_path", "last", *args, **how)
        wait_for(process, out, (k + 1) * STEPS // (kills + 2))
        time.sleep(chance.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(out, "--ckpt_path", "last", *args, **how))


def test_killed_again_and_again_a_run_ends_in_the_same_bits(whole, tmp_path):
    kill_and_resume(tmp_path / "run", 3)
    assert_same_end(whole, tmp_path / "run")
    sets = [(out / "distilled.safetensors").read_bytes() for out in (whole, tmp_path / "run")]
    assert sets[0] == sets[1]


# What is killed: of forks the first process, which the second one does not outlive; of Python all of them at once.
@pytest.mark.parametrize("launcher", [None, pytest.param([PYTHON], marks=pytest.mark.slow)], ids=["forks", "python"])
def test_two_processes_killed_and_resumed_end_in_the_bits_of_one(launcher, whole, tmp_path):
    kill_and_resume(tmp_path, 2, "--trainer.devices", "2", "--trainer.strategy", "ddp", launcher=launcher)
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
def test_three_processes_share_ten_classes_and_another_number_of_them_can_resume(whole, tmp_path):
    finish(start(tmp_path, "--trainer.devices", "3", "--trainer.strategy", "ddp", steps=25))
    finish(start(tmp_path, "--ckpt_path", "last"))  # a longer run than was planned, on one device
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
def test_two_nodes_of_one_process_each_end_in_the_bits_of_one(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = [
        start(
            tmp_path, "--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.strategy", "ddp",
            launcher=[PYTHON, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
                      "--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", port],
        )
        for rank in range(2)
    ]  # fmt: skip
    # Both run to their end before one is looked at. The second launcher may complain that the first one's store has
    # closed before its own last word, which is torchrun's affair: what counts is the result.
    said = [node.communicate(timeout=PATIENCE) for node in nodes]
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
