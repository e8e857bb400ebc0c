"""How the Python functions are used, rightly and wrongly: what callers find afterwards, and what they are told."""

import signal
import tempfile

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import bacon_pl
from bacon_pl.commands.from_python import in_python
from bacon_pl.data import DataModule, load_dataset
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.networks import MLP, Network
from tests.test_api import QUICK, SMALL

BRIEF = {"iterations": 1, "progress": False, "settings": SMALL}
TENSORS = (torch.rand(4, 1, 8, 8), [0, 0, 1, 1])


class Untyped(Network):
    def __init__(self, channels, size, num_classes, width: int = 4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, num_classes)

    def embed(self, x):
        return self.features(x)


class Broken(Untyped):
    def __init__(self, channels, size, num_classes):
        super().__init__(channels, size, num_classes)
        del self.classifier


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits", ".")[:2]


@pytest.fixture(scope="module")
def made():
    return bacon_pl.distill("digits", 1, "random", progress=False)


def test_a_methods_settings_for_a_number_of_images_hold_where_there_is_no_schedule_for_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "extends: digits/ipc1\nmodel: {lr: 1.0}\nfor: {ipc1: {model: {lr: 2.0}}, ipc3: {model: {lr: 3.0}}}\n"
    )
    found = bacon_pl.distill("digits", 3, tmp_path / "mine.yaml", **BRIEF)
    assert (found.ipc, found.config["model"]["lr"]) == (3, 3.0)


def test_values_may_be_those_of_numpy_and_classes():
    settings = {**SMALL, "model.network": MLP, "model.lr": np.float32(0.25)}
    found = bacon_pl.distill("digits", np.int64(1), **{**BRIEF, "settings": settings})
    assert found.config["model"]["network"]["class_path"] == "bacon_pl.networks.MLP"
    assert (found.config["model"]["lr"], found.ipc) == (0.25, 1)


def test_nothing_is_said_or_recorded_of_a_folder_that_is_removed(capsys, images):
    sets = [bacon_pl.distill("digits", 1, "random") for _ in range(2)]
    assert sets[0] == sets[1] and sets[0].checksum == sets[1].checksum
    found = bacon_pl.evaluate(sets[0], images[1], **{**QUICK, "progress": True})
    said = capsys.readouterr().out
    assert "test accuracy in percent" in said.lower()
    assert tempfile.gettempdir() not in said + str(found.numbers["config"]) + str(sets[0].config)


def test_a_time_limit_ends_in_a_sentence():
    settings = {**SMALL, "trainer.max_time": "00:00:00:01"}
    with pytest.raises(BaconError, match=r"after iteration .* of 100,000: give out=\.\.\., and resume=True goes on"):
        bacon_pl.distill("digits", 1, iterations=100_000, progress=False, settings=settings)


def test_signals_are_the_callers_again():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    bacon_pl.distill("digits", 1, **BRIEF)
    assert [signal.getsignal(number) for number in numbers] == before


def test_gradients_are_on_whatever_the_caller_has_switched_off(made):
    with torch.no_grad():
        found = bacon_pl.distill("digits", 1, **BRIEF)
    with torch.inference_mode():
        numbers = bacon_pl.evaluate(made, **QUICK)
    assert found == bacon_pl.distill("digits", 1, **BRIEF)
    assert numbers.per_network == bacon_pl.evaluate(made, **QUICK).per_network


def test_names_may_be_one_text(made, images):
    found = bacon_pl.evaluate(made, images[1], train=images[0], baselines="random", labels="hard", **QUICK)
    assert set(found.baselines) == {"random"}


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [
        ("digits", {"seed_everything": 7}, r"seed_everything is an argument of this function: give seed=\.\.\.\."),
        ("digits", {"model.ipc": 2}, r"model\.ipc is an argument of this function: give ipc="),
        (
            "digits",
            {"trainer": {"default_root_dir": "x"}},
            r"default_root_dir is an argument of this function: give out=",
        ),
        (TENSORS, {"data.root": "x"}, r"data\.root does not apply to images in memory"),
        ("./nowhere", {}, "there is no folder './nowhere'"),
        ("nowhere", {}, r"unknown dataset 'nowhere'.* A folder of that name is not there, either\."),
        ("digits", {"evaluation.epochs": "abc"}, "^evaluation.epochs must be a whole number, got abc"),
        ("digits", {"evaluation.network.typo": 3}, "ConvNet takes no 'typo'"),
        (
            DataModule("digits", root=".", batch_real=8),
            {"data.batch_real": 9},
            "batch_real is that of the DataModule",
        ),
    ],
)
def test_what_would_not_be_read_is_refused(data, settings, said):
    with pytest.raises(BaconError, match=said):
        bacon_pl.distill(data, 1, progress=False, settings=settings)


def test_the_number_of_iterations_is_given_once():
    assert bacon_pl.distill("digits", 1, progress=False, settings=SMALL | {"trainer.max_steps": 1}).ipc == 1
    with pytest.raises(BaconError, match=r"trainer\.max_steps is an argument of this function: give iterations="):
        bacon_pl.distill("digits", 1, iterations=2, settings={"trainer.max_steps": 1})


def test_arguments_of_an_evaluation_are_no_settings(made):
    with pytest.raises(BaconError, match="labels is an argument of this function: give labels="):
        bacon_pl.evaluate(made, settings={"labels": "soft"})
    with pytest.raises(BaconError, match=r"evaluation\.epochs is an argument of this function: give epochs="):
        bacon_pl.evaluate(made, epochs=1, settings={"evaluation": {"epochs": 2}})


@pytest.mark.parametrize("setting", [{"data.mean": [0.9]}, {"data.whitening": "zca"}, {"data.split_seed": 7}])
def test_settings_of_data_do_not_change_test_images_in_memory(made, images, setting):
    with pytest.raises(BaconError, match=rf"the setting {next(iter(setting))} does not apply to images in memory"):
        bacon_pl.evaluate(made, images[1], settings=setting)
    with pytest.raises(BaconError, match="root=... is for datasets of the catalog"):
        bacon_pl.evaluate(made, images[1], root="nowhere")
    quick = QUICK | {"settings": QUICK["settings"] | {"data.eval_batch": 7}}
    assert len(bacon_pl.evaluate(made, images[1], **quick).per_network) == quick["num_networks"]


@pytest.mark.parametrize("name", ["bacon", "methods/random", "schedules/../methods/random"])
def test_methods_have_their_names_or_full_ones(name):
    if ".." in name:
        with pytest.raises(BaconError, match="unknown configuration"):
            bacon_pl.distill("digits", 1, name, iterations=1, progress=False)
    else:
        settings = SMALL if name == "bacon" else {}
        assert bacon_pl.distill("digits", 1, name, iterations=1, progress=False, settings=settings).method in name


def test_checkpoints_of_ones_own_stand_beside_the_runs(tmp_path):
    own = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(tmp_path / "own")}}
    bacon_pl.distill("digits", 1, out=tmp_path / "run", **BRIEF | {"settings": SMALL | {"trainer.callbacks": [own]}})
    assert list((tmp_path / "own").glob("*.ckpt")) and (tmp_path / "run/checkpoints").is_dir()


def test_options_of_the_recipes_network_are_its_arguments():
    """A recorded recipe in which one option was changed can be used."""
    found = bacon_pl.distill("digits", 1, "random", progress=False, settings={"evaluation.network.width": 4})
    assert found.config["evaluation"]["network"]["init_args"]["width"] == 4
    assert bacon_pl.evaluate(found, num_networks=1, epochs=1, progress=False).numbers["network"] == "convnet"


def test_networks_of_ones_own_need_no_types(made):
    settings = {"evaluation.network": f"{__name__}.Untyped", "evaluation.network.width": 3}
    found = bacon_pl.evaluate(made, num_networks=1, epochs=1, progress=False, settings=settings)
    assert found.numbers["config"]["evaluation"]["network"]["init_args"] == {"width": 3}
    with pytest.raises(BaconError, match="the network Broken cannot be run .*'classifier'"):
        bacon_pl.evaluate(made, epochs=1, progress=False, settings={"evaluation.network": f"{__name__}.Broken"})


def test_sections_of_a_set_that_are_no_settings_are_not_read(made, images):
    own = DistilledSet(made.images, made.labels, made.meta, config={"evaluation": "my notes", "data": ["digits"]})
    for data in ("digits", images[1]):
        found = bacon_pl.evaluate(own, data, **QUICK)
        assert found.numbers["config"]["evaluation"]["num_networks"] == QUICK["num_networks"]
    with pytest.raises(BaconError, match="give the data"):
        bacon_pl.evaluate(own, **QUICK)


def test_test_images_that_are_none_are_told_of(made, images):
    with pytest.raises(BaconError, match="there are no images"):
        bacon_pl.evaluate(made, images[1].subset(torch.arange(0)), **QUICK)


def test_a_last_batch_of_one_image_is_told_of(made):
    settings = {"evaluation.batch_size": 9}
    with pytest.raises(BaconError, match="batches of 9 of 10 images leave a last one of one image, which batch norm"):
        bacon_pl.evaluate(
            made, networks=["resnet18_modified"], num_networks=1, epochs=1, progress=False, settings=settings
        )


def test_a_fast_dev_run_needs_no_folders_of_loggers(tmp_path):
    quick = {"settings": SMALL | {"trainer.fast_dev_run": True}}
    assert bacon_pl.distill("digits", 1, out=tmp_path / "run", **BRIEF | quick).ipc == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ipc": 0}, "^ipc must be at least 1, got 0"),
        ({"seed": -1}, "^seed must be a whole number from 0"),
        ({"settings": {"model.lr": 0}}, "^model.lr must be positive and finite, got 0"),
        ({"settings": "model.lr=1"}, r"settings=\.\.\. must be settings by name"),
        ({"method": None}, r"method=\.\.\. must be the name of a method or a file, got None"),
        ({"callbacks": [print]}, r"callbacks=\.\.\. takes objects of Lightning's classes"),
        ({"callbacks": 3}, r"callbacks=\.\.\. takes objects of Lightning's classes, got 3"),
        ({"logger": "tensorboard"}, r"logger=\.\.\. takes objects of Lightning's classes"),
        (
            {"settings": {"trainer.reload_dataloaders_every_n_epochs": -1}},
            "an int >= 0, got -1.: fix the trainer options",
        ),
    ],
    ids=str,
)
def test_errors_name_arguments_and_settings(arguments, said):
    with pytest.raises(BaconError, match=said) as refused:
        bacon_pl.distill("digits", **{"ipc": 1, **BRIEF, **arguments})
    assert "--" not in str(refused.value)


@pytest.mark.parametrize(
    ("distilled", "arguments", "said"),
    [
        (None, {}, "distilled=... must be a set, its file, or the folder"),
        (3, {}, "distilled=... must be a set"),
        ("made", {"networks": [MLP]}, "networks=... must be names; a network of your own is settings"),
        ("made", {"settings": ["model.lr"]}, "settings=... must be settings by name"),
        ("made", {"epochs": 0}, "^epochs must be at least 1, got 0"),
        ("made", {"settings": {"trainer.max_steps": 3}}, "trainer.max_steps is for bacon fit: an evaluation takes"),
        (
            "made",
            {"settings": {"trainer.limit_test_batches": 1}},
            "limit_test_batches 1 would cut the evaluation short",
        ),
    ],
    ids=str,
)
def test_errors_of_an_evaluation_name_arguments_and_settings(distilled, arguments, said, made):
    with pytest.raises(BaconError, match=said) as refused:
        bacon_pl.evaluate(made if distilled == "made" else distilled, **arguments)
    assert "--" not in str(refused.value)


class Counting(pl.Callback):
    seen = 0

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen += 1


def test_callbacks_and_loggers_of_the_caller_serve_the_run(tmp_path):
    counting, logger = Counting(), CSVLogger(tmp_path / "logs")
    more = {"callbacks": counting, "logger": logger, "out": tmp_path / "run"}
    found = bacon_pl.distill("digits", 1, **{**BRIEF, **more, "iterations": 2})
    assert counting.seen == 2 and list((tmp_path / "logs").rglob("hparams.yaml"))
    assert torch.equal(found.images, bacon_pl.distill("digits", 1, **{**BRIEF, "iterations": 2}).images)
    assert not list((tmp_path / "run").rglob("events.out*"))


def test_callbacks_and_loggers_may_be_left_out_as_lightning_does(tmp_path):
    counting = Counting()
    for number, (callbacks, logger) in enumerate([(None, None), ((c for c in [counting]), False), ((), True)]):
        out = tmp_path / str(number)
        bacon_pl.distill("digits", 1, **{**BRIEF, "out": out, "callbacks": callbacks, "logger": logger})
        assert bool(list(out.rglob("events.out*"))) is (logger is not False)
    assert counting.seen == 1


def test_paths_and_quoted_names_stay_as_they_are(tmp_path):
    out = tmp_path / "x--y"
    bacon_pl.distill("digits", 1, "random", out=out, progress=False)
    with pytest.raises(BaconError, match=rf"'{out}' holds a finished run: .*resume=True.*overwrite=True,"):
        bacon_pl.distill("digits", 1, "random", out=out, progress=False)
    (out / "distilled.safetensors").unlink()
    told = in_python("give --data.root 'a --model.ipc b' (--ckpt_path last, or /tmp/x --overwrite true)", {
        "ckpt_path": "resume", "overwrite": "overwrite",
    })  # fmt: skip
    assert told == "give data.root 'a --model.ipc b' (resume=True, or /tmp/x overwrite=True)"


def test_images_of_one_class_are_refused():
    with pytest.raises(BaconError, match="all images are of one class, '0': give images of two classes or more"):
        bacon_pl.distill((torch.rand(4, 1, 8, 8), [0, 0, 0, 0]), 1, **BRIEF)
