"""The Python functions ``distill`` and ``evaluate`` give the same results as the commands."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bacon_pl
from bacon_pl.data import DataModule, InMemoryData, load_dataset
from bacon_pl.distilled_set import BatchLabels, DistilledSet, StoredLabels
from bacon_pl.distilled_set.stored_labels import Orders
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Results
from bacon_pl.interop import write_labels

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


def test_a_dataset_by_name_gives_the_commands_bits(tmp_path, forked_cli):
    found = bacon_pl.distill("digits", ipc=1, iterations=3, seed=5, progress=False, settings=SMALL)
    words = ["--config", "digits/ipc1", *WORDS, "--trainer.max_steps=3", "--seed_everything=5"]
    done = forked_cli.run("fit", *words, f"--trainer.default_root_dir={tmp_path}", cwd=tmp_path, timeout=600)
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


def test_nothing_is_left_or_said_and_the_random_state_stays(tmp_path, monkeypatch, capfd, digits):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    states = [torch.manual_seed(3).get_state(), random.getstate(), np.random.get_state()[1].tolist()]
    bacon_pl.distill(digits[0], 1, "random", progress=False)
    assert capfd.readouterr() == ("", "")
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


# Evaluation.

QUICK = {
    "num_networks": 2,
    "epochs": 2,
    "progress": False,
    "settings": {"evaluation.network": {"class_path": "ConvNet", "init_args": {"width": 4, "depth": 2}}},
}


@pytest.fixture(scope="module")
def chosen():
    return bacon_pl.distill("digits", 2, "random", progress=False)


def test_an_evaluation_gives_the_commands_numbers(tmp_path, forked_cli, chosen):
    found = bacon_pl.evaluate(chosen, baselines=["random"], seed=3, **QUICK)
    words = ["--config", "digits/ipc1", "--evaluation.network.init_args.width=4", "--evaluation.num_networks=2"]
    words += ["--evaluation.epochs=2", "--seed_everything=3", "--baselines=random"]
    file = chosen.save(tmp_path / "set.safetensors")
    done = forked_cli.run("eval", *words, f"--distilled={file}", f"--out={tmp_path / 'out'}", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    made = Results.load(tmp_path / "out")
    assert found.per_network == made.per_network and found.baselines == made.baselines
    assert found.numbers["distilled"]["checksum"] == made.numbers["distilled"]["checksum"] == chosen.checksum
    assert str(found) in done.stdout


def test_test_images_in_memory_give_the_same_numbers(chosen, digits):
    named = bacon_pl.evaluate(chosen, **QUICK)
    assert bacon_pl.evaluate(chosen, digits[1], **QUICK).per_network == named.per_network
    whole = {**QUICK, "epochs": 1, "baselines": ["tiles"]}
    with pytest.raises(BaconError, match="train="):
        bacon_pl.evaluate(chosen, digits[1], **whole)
    assert set(bacon_pl.evaluate(chosen, digits[1], train=digits[0], **whole).baselines) == {"tiles"}


def test_images_in_memory_are_recorded_as_what_they_are(tmp_path, monkeypatch, capsys, chosen, digits):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()  # where a catalog dataset would be looked for
    made = bacon_pl.distill(digits[0], 2, "random", out="run")
    assert "images: 1,437 training images of 10 classes" in (said := capsys.readouterr().out)
    assert "in data" not in said
    found = bacon_pl.evaluate(chosen, digits[1], train=digits[0], **QUICK).numbers["config"]["data"]
    for data, name in ((made.config["data"], "images"), (found, "digits")):
        assert data["name"] == name and "root" not in data
        assert data["train"]["images"]["shape"] == [1437, 1, 8, 8]
    assert not list((tmp_path / "run").rglob("config.yaml"))  # no file of settings could name them


def test_the_recipe_is_the_one_that_the_set_records(chosen):
    recipe = chosen.config["evaluation"]
    assert recipe["epochs"] == 300  # of the schedule digits/ipc1
    found = bacon_pl.evaluate(chosen, epochs=1, num_networks=1, progress=False)
    used = found.numbers["config"]["evaluation"]
    assert used["network"] == recipe["network"] or used["network"]["init_args"]["width"] == 32
    assert (used["epochs"], used["num_networks"]) == (1, 1)


def test_an_evaluation_says_how_it_goes_if_it_is_let_and_leaves_nothing(tmp_path, monkeypatch, capsys, chosen):
    monkeypatch.chdir(tmp_path)
    found = bacon_pl.evaluate(chosen, **QUICK)
    assert capsys.readouterr() == ("", "")
    bacon_pl.evaluate(chosen, **{**QUICK, "progress": True})
    assert str(found) in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_results_are_written_where_asked_and_never_replaced_silently(tmp_path, chosen):
    found = bacon_pl.evaluate(chosen, out=tmp_path / "out", **QUICK)
    assert Results.load(tmp_path / "out").numbers == found.numbers
    with pytest.raises(BaconError, match="overwrite"):
        bacon_pl.evaluate(chosen, out=tmp_path / "out", **QUICK)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"baselines": ["randon"]}, "random"),
        ({"networks": ["convnett"]}, "convnet"),
        ({"data": "mnist", "root": "nowhere"}, "nowhere"),
        ({"data": "digits", "train": (torch.zeros(1, 1, 8, 8), [0])}, "train="),
        ({"epochs": 0}, "epochs"),
        ({"settings": {"model.lr": 1, "evaluation.lrr": 2}}, "lrr"),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_evaluation_is_a_sentence(arguments, said, chosen):
    with pytest.raises(BaconError) as refused:
        bacon_pl.evaluate(chosen, progress=False, **arguments)
    assert said in str(refused.value)


def test_results_read_as_a_table(chosen):
    found = bacon_pl.evaluate(chosen, baselines=["random"], **QUICK)
    assert found._repr_markdown_().startswith("| network | distilled | random real |")
    assert f"{found.accuracy:.1f}" in repr(found) and "random" in repr(found)
    with pytest.raises(BaconError, match="not the results of an evaluation"):
        Results({})


def test_labels_of_every_batch_need_no_real_images(tmp_path, chosen, digits):
    count = len(chosen.images)

    def batch(epoch, number):
        own = chosen.labels[Orders(count)[epoch]]
        crops = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1)
        whole = torch.zeros(count, dtype=torch.bool)
        return BatchLabels(torch.empty(0), crops, whole, None, None, None, 9 * torch.eye(10)[own].half())

    write_labels(StoredLabels(count, 10, 2, count, batch), tmp_path / "labels")
    soft = {"source": "folder", "folder": str(tmp_path / "labels"), "temperature": 1}
    settings = {**QUICK["settings"], "evaluation.batch_size": count, "evaluation.soft_labels": soft}
    found = bacon_pl.evaluate(chosen, digits[1], **{**QUICK, "settings": settings})
    (run,) = found.numbers["runs"]
    assert run["recipe"]["augment"] == "as stored" and found.numbers["teachers"] == []
    with pytest.raises(BaconError, match="train="):
        bacon_pl.evaluate(chosen, digits[1], **{**QUICK, "settings": settings, "baselines": ["random"]})


@pytest.mark.parametrize("soft", ["{temperature: 4}", {"temperature": 4}])
@pytest.mark.parametrize("module", [False, True])
def test_a_teacher_needs_real_images(chosen, digits, soft, module):
    test = InMemoryData(None, digits[1], name="digits", meta=chosen.meta) if module else digits[1]
    with pytest.raises(BaconError, match=r"real training images.*train=\.\.\."):
        bacon_pl.evaluate(chosen, test, **{**QUICK, "settings": {**QUICK["settings"], "evaluation.soft_labels": soft}})


@pytest.mark.parametrize(
    ("given", "said"),
    [(None, "must be settings by name"), ("none.yaml", "is neither settings by name nor a YAML file")],
)
def test_a_recipe_that_is_none_is_refused(chosen, digits, given, said):
    with pytest.raises(BaconError, match=said):
        bacon_pl.evaluate(chosen, digits[1], progress=False, settings={"evaluation": given})
