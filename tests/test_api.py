"""One call from Python does what the commands do."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bacon_pl
from bacon_pl.data import DataModule, load_dataset
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from tests.forked_cli import ForkedCli

SMALL = {
    "model": {
        "factor": 1,
        "network": {"class_path": "ConvNet", "init_args": {"width": 4, "depth": 2}},
        "pool": {"initial": 1, "capacity": 2, "train_steps": 1},
    },
    "data.batch_real": 8,
    "data.pool_batch": 8,
}
WORDS = ["--model.network.init_args.width=4", "--model.pool={initial: 1, capacity: 2, train_steps: 1}"]
WORDS += ["--data.batch_real=8", "--data.pool_batch=8"]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", ".")[:2]


def test_a_dataset_by_name_gives_the_commands_bits(tmp_path, tmp_path_factory):
    found = bacon_pl.distill("digits", ipc=1, iterations=3, seed=5, progress=False, settings=SMALL)
    words = ["--config", "digits/ipc1", *WORDS, "--trainer.max_steps=3", "--seed_everything=5"]
    with ForkedCli(tmp_path_factory.mktemp("streams")) as cli:
        done = cli.run("fit", *words, f"--trainer.default_root_dir={tmp_path}", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    made = DistilledSet.load(tmp_path)
    assert found.images.equal(made.images)
    assert found.method == made.method == "bacon" and found.seed == made.seed == 5
    assert {k: v for k, v in found.config.items() if k != "trainer"} == {
        k: v for k, v in made.config.items() if k != "trainer"
    }


def test_images_in_memory_and_the_same_in_a_folder_give_the_same_set(tmp_path, digits):
    train = digits[0].subset(torch.arange(60))
    counts = [0] * 10
    for image, label in zip(train.images, train.labels.tolist(), strict=True):
        folder = tmp_path / "train" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{counts[label]:03d}.png")
        (tmp_path / "test" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(tmp_path / "test" / str(label) / "0.png")
        counts[label] += 1
    order = torch.argsort(train.labels, stable=True)  # as a folder is read
    in_memory = (train.images[order], train.labels[order])
    sets = [
        bacon_pl.distill(data, 1, "dm", iterations=2, progress=False, settings=SMALL)
        for data in (in_memory, tmp_path, DataModule("folder", tmp_path, batch_real=8, pool_batch=8))
    ]
    assert sets[0].images.equal(sets[1].images) and sets[1].images.equal(sets[2].images)
    assert sets[0].method == "dm" and sets[0].meta.name == "images"


def test_nothing_is_left_on_disk_and_the_random_state_stays(tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    states = [torch.manual_seed(3).get_state(), random.getstate(), np.random.get_state()[1].tolist()]
    bacon_pl.distill(digits[0], 1, "random", progress=False)
    assert torch.get_rng_state().equal(states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert not list(tmp_path.iterdir())


def test_a_run_in_a_folder_goes_on(tmp_path, digits):
    settings = {**SMALL, "checkpoint.every_n_train_steps": 2}
    call = {"data": digits[0], "ipc": 1, "progress": False, "settings": settings}
    whole = bacon_pl.distill(iterations=4, **call)
    bacon_pl.distill(iterations=2, out=tmp_path, **call)
    with pytest.raises(BaconError, match="overwrite"):
        bacon_pl.distill(iterations=4, out=tmp_path, **call)
    resumed = bacon_pl.distill(iterations=4, out=tmp_path, resume=True, **call)
    assert resumed.images.equal(whole.images)
    assert DistilledSet.load(tmp_path).images.equal(whole.images)


def test_a_resume_with_other_images_is_refused(tmp_path, digits):
    settings = {**SMALL, "checkpoint.every_n_train_steps": 2}
    call = {"ipc": 1, "progress": False, "settings": settings, "out": tmp_path}
    bacon_pl.distill(digits[0], iterations=2, **call)
    with pytest.raises(BaconError, match="another run"):
        bacon_pl.distill(digits[1], iterations=4, resume=True, **call)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"data": "cifar1000"}, "cifar100"),
        ({"data": "digits", "method": "bocan"}, "bacon"),
        ({"data": "digits", "budget": "tiny"}, "budgets"),
        ({"data": "digits", "ipc": 0}, "ipc"),
        ({"data": "digits", "resume": True}, "out="),
        ({"data": "digits", "settings": {"model.lrr": 1}}, "lrr"),
        ({"data": Path("nowhere")}, "nowhere"),
        ({"data": Path("nowhere"), "root": "there"}, "root="),
        ({"data": 3}, "cannot take images"),
    ],
    ids=str,
)
def test_what_is_wrong_is_a_sentence(arguments, said):
    with pytest.raises(BaconError) as refused:
        bacon_pl.distill(progress=False, **arguments)
    assert said in str(refused.value)


def test_the_package_states_what_is_public():
    assert set(bacon_pl.__all__) >= {"DistilledSet", "distill", "evaluate", "BaconError", "__version__"}
    assert set(bacon_pl.__all__) <= set(dir(bacon_pl))
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = bacon_pl.distil
