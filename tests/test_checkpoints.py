"""Checkpoints: their content, the detection of damage, and the ways to stop a run."""

import contextlib
import os
import pickle
import signal
import zipfile

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacon_pl import checkpoints
from bacon_pl.checkpoint_files import WholeFiles
from bacon_pl.checkpoints import Checkpoints, claimed
from bacon_pl.data import DataModule
from bacon_pl.distillers import DistributionMatching, PoolSettings
from bacon_pl.errors import BaconError, DivergedError, StoppedError
from bacon_pl.networks import ConvNet


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


def distill(root, steps, *callbacks, ckpt_path=None, data=None, **module):
    pool = PoolSettings(initial=2, push_every=2, capacity=4, train_networks=2, train_steps=2)
    module = DistributionMatching(**{"ipc": 1, "network": small, "pool": pool, "acceleration": "off", **module})
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
        assert torch.isfinite(checkpoint["state_dict"]["synthetic.images"]).all()


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
    torch.save({"bacon_pl": Hostile(proof), "global_step": 1, "loops": 1}, path)
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


def test_folders_keep_what_is_in_them(tmp_path):
    with claimed(tmp_path, "last", False) as path:
        assert path is None  # nothing yet: start a new run
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
    assert torch.isfinite(state["state_dict"]["synthetic.images"]).all()


def test_pool_networks_that_go_wrong_stop_the_run_and_reach_no_checkpoint(tmp_path):
    wild = PoolSettings(initial=2, push_every=2, capacity=4, train_networks=2, train_steps=2, lr=1e30)
    with pytest.raises(DivergedError, match="iteration 0: not finite: pool networks") as caught:
        distill(tmp_path, 10, Checkpoints(1), pool=wild)
    assert not caught.value.state_is_good
    assert not checkpoints.in_folder(tmp_path)


def test_steps_stay_within_their_bounds(tmp_path):
    free = distill(tmp_path / "a", 3, lr=3.0, per_class_steps=False)
    bound = distill(tmp_path / "b", 3, lr=3.0, per_class_steps=False, clamp_pixels=True)
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
