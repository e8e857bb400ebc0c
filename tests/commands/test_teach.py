"""`bacon teach`: what it trains, that it goes on after a kill, what it lists and what it finds damaged."""

import json
import logging
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from bacon_pl.cli import main
from bacon_pl.data import DataModule
from bacon_pl.learners import Learners, TeacherSettings, teachers, training
from bacon_pl.networks import ConvNet
from bacon_pl.pace import Pace
from bacon_pl.runtime import lock

SMALL = ["--dataset=digits", "--network=ConvNet", "--network.width=4", "--network.depth=2", "--accelerator=cpu"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "networks"


def refused(*args):
    with pytest.raises(SystemExit) as end:
        main(["teach", *args])
    assert end.value.code == 2


def test_it_makes_what_others_find_and_tells_what_they_know(cache, capsys, monkeypatch):
    main(["teach", *SMALL, "--epochs=4", "--count=2", "--snapshot_every=2", "--seed=3"])
    said = capsys.readouterr().out
    accuracies = re.findall(r"network (\d) of 2: ([\d.]+) % on the test images", said)
    (folder,) = cache.iterdir()
    assert said.endswith(f"kept in {folder}\n") and [k for k, _ in accuracies] == ["1", "2"]
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == [f"network{k:04d}-epoch{epochs:04d}.safetensors" for k in (0, 1) for epochs in (0, 2, 4)]
    data = DataModule(name="digits")
    data.setup()
    settings = TeacherSettings(epochs=4, seed=3)
    (teacher,) = teachers(settings, data.train, data.meta, partial(ConvNet, width=4, depth=2))
    monkeypatch.setattr("bacon_pl.learners.training.Training.run", None)
    teacher.prepare("cpu")
    x = data.normalize(data.test.images)
    found = 100 * (teacher.logits(x).argmax(1) == data.test.labels).double().mean().item()
    assert f"{found:.1f}" == accuracies[0][1]
    main(["teach", "list"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split()[:2] == [folder.name, "digits"] and line.endswith("whole") and accuracies[1][1] in line
    assert re.search(r"ConvNet of width 4 +4 +3 +2 ", line)
    main(["cache"])
    assert "2 networks, ConvNet of width 4, 4 epochs" in capsys.readouterr().out


def test_settings_may_stand_in_a_file(cache, capsys):
    text = (
        "dataset: digits\nnetwork: {class_path: ConvNet, init_args: {width: 4, depth: 2}}\nepochs: 1\naccelerator: cpu"
    )
    Path("mine.yaml").write_text(text)
    main(["teach", "--config=mine.yaml", "--data.val_fraction=0.2"])
    assert "1,150 training images" in capsys.readouterr().out
    about = json.loads(next(cache.glob("*/about.json")).read_text())
    assert about["images"]["number"] == 1150 and about["recipe"]["epochs"] == 1


def test_damaged_files_are_found(cache, capsys):
    main(["teach", "check"])
    assert capsys.readouterr().out == "0 files, all of them whole\n"
    main(["teach", "list"])
    assert "no networks trained on real images" in capsys.readouterr().out
    for seed in (0, 1):
        main(["teach", *SMALL, "--epochs=1", f"--seed={seed}"])
    capsys.readouterr()
    main(["teach", "check"])
    assert capsys.readouterr().out.endswith("2 files, all of them whole\n")
    one, other = sorted(cache.iterdir())
    file = one / "network0000-epoch0001.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    about = json.loads((other / "about.json").read_text())
    (other / "about.json").write_text(json.dumps({**about, "seed": 7}))
    refused("check")
    said = capsys.readouterr()
    assert f"{one.name}  damaged\n  network0000-epoch0001.safetensors: its checksum does not match" in said.out
    assert f"{other.name}  damaged\n  about.json: it describes other networks" in said.out
    assert re.search(r"error: 2 of the files in .* are damaged, such as", said.err)


class CutError(Exception):
    """Stands for a process that was killed."""


def test_it_goes_on_where_it_was_cut_short_with_the_same_bits(cache, tmp_path, monkeypatch, capsys):
    descend, steps = Learners.descend, []

    def cut(self, step):
        if step == 15:
            raise CutError
        return descend(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Learners, "descend", cut)
        patch.setattr(training, "SAVE_EVERY", 0.0)
        with pytest.raises(CutError):
            main(["teach", *SMALL, "--epochs=4"])
    main(["teach", "list"])
    assert capsys.readouterr().out.rstrip().endswith("unfinished")
    with open(next(cache.glob("*/lock")), "a") as file:
        assert lock(file)
        main(["teach", "list"])
        assert capsys.readouterr().out.rstrip().endswith("being trained")
    monkeypatch.setattr(Learners, "descend", lambda self, step: (steps.append(step), descend(self, step))[1])
    main(["teach", *SMALL, "--epochs=4"])
    assert steps == list(range(12, 24))  # from the end of the second epoch of six steps
    file = "network0000-epoch0004.safetensors"
    resumed = next(cache.glob(f"*/{file}")).read_bytes()
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "other"))
    main(["teach", *SMALL, "--epochs=4"])
    assert next((tmp_path / "other").glob(f"networks/*/{file}")).read_bytes() == resumed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epochs=0"], "--epochs must be at least 1"),
        (["--snapshot_every=0"], "--snapshot_every must be at least 1"),
        (["--data.root=x"], "--dataset stands for --data.name and --data.root"),
        (["--epoch=x"], "unknown option --epoch"),
        (["--network=ConvNett"], "ConvNett"),
        (["--file=x"], "unknown option --file"),
    ],
)
def test_bad_input_ends_in_a_sentence(cache, capsys, args, message):
    refused(*SMALL, *args)
    assert message in capsys.readouterr().err


def test_gpus_that_are_not_there_are_refused_and_lists_take_nothing(cache, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("--dataset=digits", "--accelerator=gpu")
    assert "--accelerator gpu: there is none" in capsys.readouterr().err
    refused("list", "--dataset=digits")
    assert "bacon teach list takes no arguments" in capsys.readouterr().err


def test_long_trainings_say_where_they_are(cache, monkeypatch, caplog):
    seconds = iter(range(0, 100_000, 4))
    monkeypatch.setattr("bacon_pl.learners.training.Pace", lambda **given: _pace(seconds))
    # Whatever other tests, and who imported Lightning first, have left.
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    with caplog.at_level("INFO"), caplog.at_level("INFO", logger="lightning.pytorch"):
        main(["teach", *SMALL, "--epochs=4"])
    told = [message for message in caplog.messages if "epoch" in message and "left" in message]
    assert told and re.fullmatch(r"network 1 of 1: epoch [\d.]+ of 4, loss [\d.]+, .* left", told[0])


def _pace(seconds):
    return Pace(first=10.0, clock=lambda: next(seconds))
