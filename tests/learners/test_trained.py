"""Networks trained on the real images: what they depend on, and how files, processes and accidents treat them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.multiprocessing as mp

from bacon_pl import rng
from bacon_pl.augment import DSA, CutMix, NoAugmentation
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError
from bacon_pl.learners import Learners, Recipe, TrainingSet, trained, trained_networks, training
from bacon_pl.networks import ConvNet
from bacon_pl.runtime import lock

SMALL = partial(ConvNet, width=4, depth=2)
RECIPE = Recipe(network=SMALL, epochs=3, batch_size=256, lr=0.05, augment=DSA())


def digits(**settings):
    module = DataModule(name="digits", **settings)
    module.setup()
    return module


@pytest.fixture(scope="module")
def data():
    return digits()


def make(data, folder, recipe=RECIPE, **settings):
    return trained_networks(data.train, data.meta, recipe, folder=folder, **settings)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stamps(networks):
    return {path.name: path.stat().st_mtime_ns for path in networks.folder.glob("*.safetensors")}


def test_they_are_what_learners_become_and_keep_their_states(data, tmp_path):
    networks = make(data, tmp_path, count=2, snapshots=(0, 2, 3))
    recipe = replace(RECIPE, num_networks=2)
    seed = rng.derive(0, "trained networks")
    learners = Learners(TrainingSet.whole(data.train), recipe, data.meta, seed).fit(snapshots=(0, 2, 3))
    for k in range(2):
        assert all(same(networks.state(k, epochs), learners.snapshots[epochs][k]) for epochs in (0, 2, 3))
        assert same(networks.state(k), networks.state(k, 3))
    assert not same(networks.state(0), networks.state(1)) and not same(networks.state(0, 2), networks.state(0, 3))


def test_a_network_depends_on_its_number_alone_and_only_missing_ones_are_trained(data, tmp_path, monkeypatch):
    many = make(data, tmp_path / "a", count=3)
    few = make(data, tmp_path / "b", count=1)
    assert same(many.state(0), few.state(0))
    before = stamps(few)
    more = make(data, tmp_path / "b", count=3, snapshots=(2, 3))
    assert before.items() <= stamps(more).items() and len(stamps(more)) == 6
    assert all(same(many.state(k), more.state(k)) for k in range(3))
    monkeypatch.setattr(Learners, "descend", None)
    assert same(make(data, tmp_path / "b", count=2).state(1), many.state(1))
    # The first state takes no training at all.
    make(data, tmp_path / "c", count=2, snapshots=[0])


def test_networks_trained_side_by_side_are_those_trained_alone(data, tmp_path, monkeypatch):
    alone = make(data, tmp_path / "a", count=3)
    monkeypatch.setattr(training, "world_size", lambda: 2)
    together = make(data, tmp_path / "b", count=3)
    assert all(same(alone.state(k), together.state(k)) for k in range(3))


def test_what_they_depend_on_and_what_not(data, tmp_path):
    untrained = partial(make, folder=tmp_path, snapshots=[0])
    changed = {
        "held-out images": untrained(digits(val_fraction=0.1)),
        "normalization": untrained(digits(mean=[0.5], std=[0.5])),
        "architecture": untrained(data, recipe=replace(RECIPE, network=partial(SMALL, norm="batch"))),
        "epochs": untrained(data, recipe=replace(RECIPE, epochs=4)),
        "lr": untrained(data, recipe=replace(RECIPE, lr=0.06)),
        "augmentation": untrained(data, recipe=replace(RECIPE, augment=NoAugmentation())),
        "its settings": untrained(data, recipe=replace(RECIPE, augment=DSA(["crop"]))),
        "mixing": untrained(data, recipe=replace(RECIPE, mixing=CutMix())),
        "its probability": untrained(data, recipe=replace(RECIPE, mixing=CutMix(probability=0.5))),
        "milestones": untrained(data, recipe=replace(RECIPE, schedule="milestones", milestones=(0.5,))),
        "seed": untrained(data, seed=1),
    }
    networks = untrained(data, count=2)
    folders = {what: found.folder for what, found in {**changed, "": networks}.items()}
    assert len(set(folders.values())) == len(folders)
    assert untrained(data, recipe=replace(RECIPE, num_networks=9, whole_epochs=2)).folder == networks.folder
    assert untrained(data, snapshots=[3]).folder == networks.folder
    about = json.loads((networks.folder / "about.json").read_text())
    assert (about["dataset"], about["images"]["number"], about["seed"]) == ("digits", len(data.train), 0)
    assert about["recipe"]["network"]["init_args"]["width"] == 4 and about["recipe"]["epochs"] == 3
    assert about["version"] and about["created"]


def test_held_out_images_are_not_seen(tmp_path):
    data = digits(val_fraction=0.2)
    data.val.images.zero_(), data.test.images.zero_()
    assert same(make(data, tmp_path / "a").state(0), make(digits(val_fraction=0.2), tmp_path / "b").state(0))


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-40])
    elif how == "flipped":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif how == "empty":
        path.write_bytes(b"")
    else:  # a whole file, but another network's
        path.write_bytes(path.with_name(path.name.replace("network0000", "network0001")).read_bytes())


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "another"])
def test_a_damaged_file_is_told_of_once_and_made_again(data, tmp_path, how):
    networks = make(data, tmp_path, count=2)
    good, before = networks.state(0), stamps(networks)
    damage(networks.folder / "network0000-epoch0003.safetensors", how)
    with pytest.raises(BaconError, match=r"network0000-epoch0003.*cannot be read any more"):
        networks.state(0)
    with pytest.warns(UserWarning, match=r"network0000-epoch0003.*cannot be used.*training it again") as told:
        again = make(data, tmp_path, count=2)
    assert len(told) == 1
    assert same(again.state(0), good)
    assert stamps(again)["network0001-epoch0003.safetensors"] == before["network0001-epoch0003.safetensors"]


class CutError(Exception):
    """Stands for a process that was killed."""


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "lr": 0.002}, {"momentum": 0.0}])
def test_training_that_was_cut_short_goes_on(data, tmp_path, monkeypatch, settings):
    recipe = replace(RECIPE, epochs=4, schedule="milestones", milestones=(0.5,), **settings)
    whole = make(data, tmp_path / "whole", recipe, count=2)
    steps = []
    descend = Learners.descend

    def cut(self, step):
        steps.append((self.numbers, step))
        if (self.numbers, step) == ((1,), 3 * self.steps_per_epoch + 1) and steps.count(steps[-1]) == 1:
            raise CutError
        return descend(self, step)

    monkeypatch.setattr(Learners, "descend", cut)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    with pytest.raises(CutError):
        make(data, tmp_path / "cut", recipe, count=2)
    steps_per_epoch = -(-len(data.train) // 256)
    folder = next((tmp_path / "cut").iterdir())
    assert (folder / "network0001.unfinished").exists()
    steps[:] = [steps[-1]]
    resumed = make(data, tmp_path / "cut", recipe, count=2)
    assert steps[1] == ((1,), 3 * steps_per_epoch)  # network 0 was there, and network 1 up to its third epoch
    assert all(same(whole.state(k), resumed.state(k)) for k in range(2))
    assert not list(folder.glob("*.unfinished"))


def test_unfinished_training_that_cannot_be_used_is_begun_again(data, tmp_path, monkeypatch):
    whole = make(data, tmp_path)
    (whole.folder / "network0001.unfinished").write_bytes(b"nothing")
    assert same(make(data, tmp_path, count=2).state(1), make(data, tmp_path / "b", count=2).state(1))
    # An earlier snapshot than the one that was saved needs the training from its start.
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    write = trained.TrainedNetworks.write
    monkeypatch.setattr(trained.TrainedNetworks, "write", lambda *given: (_ for _ in ()).throw(CutError))
    with pytest.raises(CutError):
        make(data, tmp_path, count=3)
    monkeypatch.setattr(trained.TrainedNetworks, "write", write)
    found = make(data, tmp_path, count=3, snapshots=(1, 3))
    assert same(found.state(2, 1), make(data, tmp_path / "b", count=3, snapshots=(1, 3)).state(2, 1))


def start(folder, which):
    command = [sys.executable, "-m", "tests.learners.other_training", str(folder), which]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", [False, True])
def test_one_that_needs_what_another_trains_waits_for_it(data, tmp_path, killed, monkeypatch):
    first = start(tmp_path, "first")
    assert first.stdout.readline() == "half-way\n"
    with open(next(tmp_path.iterdir()) / "lock", "a") as file:
        assert not lock(file)
    told, trainings = [], []
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero.rank_zero_info", told.append)
    descend = Learners.descend
    monkeypatch.setattr(Learners, "descend", lambda self, step: (trainings.append(step), descend(self, step))[1])

    def meanwhile(_):
        if told:
            if killed:
                first.send_signal(signal.SIGKILL)
            else:
                first.communicate("\n")
            first.wait()

    monkeypatch.setattr(time, "sleep", meanwhile)
    networks = make(data, tmp_path)
    assert "Waiting for another run" in told[0]
    assert bool(trainings) == killed
    assert same(networks.state(0), make(data, tmp_path / "own").state(0))
    first.stdout.close()


def test_progress_is_told_and_silence_kept(data, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(training, "rank_zero_info", told.append)
    make(data, tmp_path, count=2)
    assert len(told) == 4
    assert told[2] == f"Training network 2 of 2 on the {len(data.train)} real images, 3 epochs."
    make(data, tmp_path, count=2)
    assert len(told) == 4


def test_what_cannot_be_is_said(data, tmp_path):
    with pytest.raises(ValueError, match=r"after epochs \[4\] were asked for, the training has 3"):
        make(data, tmp_path, snapshots=(0, 4))
    (tmp_path / "file").write_text("")
    with pytest.raises(BaconError, match=r"cannot be kept in .*set BACON_CACHE"):
        make(data, tmp_path / "file")
    with pytest.raises(BaconError, match=r"network 1 trained on the real images went wrong.*learning rate"):
        make(data, tmp_path, replace(RECIPE, lr=1e30, epochs=1))


def test_they_are_float32_whatever_the_run_is(data, tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        double = make(data, tmp_path / "a")
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(double.state(0), make(data, tmp_path / "b").state(0))


def process(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    data = digits()
    make(data, folder / "shared", count=3)
    separate = make(data, folder / f"{rank}", count=3, snapshots=(0, 3))  # nodes with folders of their own
    assert len(stamps(separate)) == 6
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(300)
def test_two_processes_train_what_one_trains(data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "1").mkdir()
    part = make(data, tmp_path / "1", count=1)  # one node has some already
    before = stamps(part)
    mp.start_processes(process, (port, tmp_path), nprocs=2, start_method="fork")  # quick: nothing is imported
    alone = make(data, tmp_path / "alone", count=3)
    for name in ("shared", "0", "1"):
        together = make(data, tmp_path / name, count=3)
        assert all(same(together.state(k), alone.state(k)) for k in range(3))
    assert before.items() <= stamps(part).items()
