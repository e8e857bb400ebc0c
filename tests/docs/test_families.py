"""The pages' own objectives and families, from their text, by the real command: killed, resumed, on two processes."""

import importlib
import os
import signal
import subprocess
import sys
import time
from functools import partial, partialmethod

import pytest
import torch

from bacon_pl import checkpoints
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.networks import ConvNet
from bacon_pl.pretend import check_iterations
from tests.paths import ROOT
from tests.patience import PATIENCE

STEPS = 24
SMALL = (
    "--config", "digits/ipc1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.logger", "false", "--data.batch_real", "8", "--data.val_fraction", "0.2", "--image_grid.every_n_steps",
    "0", "--checkpoint.every_n_train_steps", "4", "--validation.every_n_steps", "0",
)  # fmt: skip
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
FAMILIES = {
    "one_step.OneStep": ("--model.network.width", "4", "--model.network.depth", "2", "--data.pool_batch", "16"),
    "swaps.Swaps": ("--model.ipc", "3"),
}


def start(folder, out, *args, steps=STEPS):
    command = [sys.executable, "-m", "bacon_pl", "fit", *SMALL, "--trainer.max_steps", str(steps)]
    return subprocess.Popen(
        [*command, "--trainer.default_root_dir", out, *args], cwd=folder, start_new_session=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(folder, out, *args, steps=STEPS):
    process = start(folder, out, *args, steps=steps)
    said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and f"distilled set: {out}" in said
    return DistilledSet.load(folder / out)


def kill_once(folder, out, *args):
    """Start a run and kill it once it has a checkpoint but no set yet."""
    process = start(folder, out, *args, "--ckpt_path", "last", steps=100_000)
    deadline = time.monotonic() + PATIENCE
    while not checkpoints.in_folder(folder / out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for path in checkpoints.in_folder(folder / out):  # of a run that was faster than we
        if int(path.stem.split("=")[1]) > STEPS // 2:
            path.unlink()


def tensors(state):
    """All tensors of nested containers, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [t for part in parts for t in tensors(part)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_ones_own_is_killed_resumed_and_shared_with_the_same_bits(folder, family):
    name = family.partition(".")[0]
    assert len((folder / f"{name}.py").read_text().splitlines()) <= 40
    args = ("--model.class_path", family, *FAMILIES[family])
    whole = run(folder, f"{name}-whole", *args)
    kill_once(folder, f"{name}-killed", *args)
    assert not (folder / f"{name}-killed/distilled.safetensors").exists()
    resumed = run(folder, f"{name}-killed", *args, "--ckpt_path", "last")
    shared = run(folder, f"{name}-shared", *args, *TWO)
    for other in (resumed, shared):
        assert torch.equal(whole.images, other.images)
        assert whole.step_size == other.step_size
    ends = [
        checkpoints.read(folder / f"{name}-{how}/checkpoints/iteration={STEPS}.ckpt") for how in ("whole", "killed")
    ]
    optimizers = [end["optimizer_states"] for end in ends]
    assert len([state for state in optimizers[0] if state]) == (2 if family == "one_step.OneStep" else 0)
    for kind in ("state_dict", "optimizer_states"):
        assert all(torch.equal(a, b) for a, b in zip(*(tensors(end[kind]) for end in ends), strict=True))
    if family == "one_step.OneStep":
        assert whole.step_size not in (None, 0.02)
        assert whole.config["model"]["network"]["init_args"]["width"] == 4
    assert whole.method == family.rpartition(".")[2].lower()
    assert whole.config["model"]["class_path"] == family


def test_no_example_makes_a_gpu_wait(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    one_step, swaps = (importlib.import_module(name) for name in ("one_step", "swaps"))
    network = partial(ConvNet, width=4, depth=2)
    monkeypatch.setattr(one_step.OneStep, "__init__", partialmethod(one_step.OneStep.__init__, network=network))
    exec((folder / "no_waits.py").read_text(), {})
    check_iterations(swaps.Swaps(ipc=3), DataModule(name="digits", batch_real=8))


def test_an_objective_of_ones_own_per_class(folder):
    found = run(folder, "cosine", "--config", "cosine.yaml", "--model.network.width", "4", steps=2)
    assert found.method == "cosine"
    assert found.config["model"]["objective"]["class_path"] == "mine.CosineMatching"


def test_an_objective_of_ones_own_across_classes_is_right_on_one_and_two_processes(folder):
    args = ("--model.objective", "apart.Separation", "--model.network.width", "4")
    alone = run(folder, "apart-alone", *args, steps=6)
    shared = run(folder, "apart-shared", *args, *TWO, steps=6)
    assert torch.equal(alone.images, shared.images)
    blocks = run(folder, "apart-blocks", *args, "--model.memory_gib", "1e-6", steps=6)
    torch.testing.assert_close(alone.images, blocks.images, atol=1e-4, rtol=0)
    plain = run(folder, "apart-plain", "--model.network.width", "4", steps=6)
    assert not torch.equal(alone.images, plain.images)


def test_a_network_an_augmentation_and_an_objective_of_ones_own(folder):
    args = ("--model.network", "tiny.Tiny", "--model.network.width", "4", "--model.augment", "brightness.Brightness")
    own = run(folder, "own", *args, steps=2)
    assert own.config["model"]["network"]["class_path"] == "tiny.Tiny"
    assert own.config["model"]["augment"]["class_path"] == "brightness.Brightness"
    attention = ("--model.objective", "attention.AttentionMatching", "--model.network.width", "4")
    assert not torch.equal(own.images, run(folder, "attention", *attention, steps=2).images)


def test_a_dataset_of_ones_own(folder):
    (folder / "DIR").mkdir()
    for split in ("train", "test"):
        images = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8)
        torch.save((images, torch.arange(24) % 2), folder / f"DIR/{split}.pt")
    args = ("--data.name", "pets.SPEC", "--data.root", "DIR", "--model.network.width", "4")
    found = run(folder, "pets", *args, steps=1)
    assert found.meta.class_names == ("cat", "dog")
