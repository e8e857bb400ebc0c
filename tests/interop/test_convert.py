"""``bacon convert``, and other projects' files given to ``bacon eval``."""

import json
import os
import re

import numpy as np
import pytest
import torch

from bacon_pl.cli import main
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.interop import dataset_meta, open_set
from tests.interop.making import ACCURACIES, CIFAR, Calls, pair
from tests.paths import DIGITS, evaluation_in


def convert(*args):
    main(["convert", *map(str, args)])


def test_convert_there_and_back(tmp_path, capsys):
    images, labels = pair(CIFAR, ipc=1)
    torch.save({"data": [[images, labels], [images + 1, labels]], "accs_all_exps": ACCURACIES}, tmp_path / "theirs.pt")
    ours = tmp_path / "ours.safetensors"
    convert(tmp_path / "theirs.pt", ours, "--dataset", "CIFAR10", "--factor", 2, "--epoch-index", 0)
    assert capsys.readouterr().out == (
        "wrote 10 canvases of 3×32×32 (1 for each of 10 classes, class by class); factor 2: 40 images are to be cut "
        "out of them; pixels float32, normalized by mean (0.4914, 0.4822, 0.4465) and std (0.2023, 0.1994, 0.201); to "
        f"{ours}\n"
    )
    distilled = DistilledSet.load(ours)
    assert torch.equal(distilled.images, images)
    assert (distilled.factor, distilled.meta.name, distilled.config) == (2, "cifar10", {"converted_from": "theirs.pt"})
    convert(ours, tmp_path / "png")
    assert sorted(os.listdir(tmp_path / "png")) == sorted(CIFAR.class_names)
    convert(tmp_path / "png", tmp_path / "a.npz", "--dataset", "cifar10", "--mean", "[.5,.5,.5]", "--std", "[.5,.5,.5]")
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].min() >= -1
        assert file["images"].max() <= 1
    with pytest.raises(SystemExit):
        convert(ours, tmp_path / "a.npz")
    convert(ours, tmp_path / "a.npz", "--overwrite", "true", "--canvases")
    assert torch.equal(open_set(tmp_path / "a.npz", CIFAR).images, images)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "source"),
        (["{}/a.pt"], "target"),
        (["{}/a.pt", "{}/b.npz"], "a.pt' does not say which dataset .* --dataset cifar10"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifra10"], "Did you mean 'cifar10'"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifar10", "--factor", "two"], "--factor|factor"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifar10", "--factor", "9"], "factor 9 does not cut"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifar10", "--factor", "0"], "factor 0 does not cut"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifar10", "--epoch_index", "1"], "holds 1 set"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "mnist"], r"those of mnist are \(N, 1, 28, 28\)"),
        (["{}/a.pt", "{}/b.gif", "--dataset", "cifar10"], "suffix that is not known"),
        (["{}/a.pt", "{}/a.pt", "--dataset", "cifar10"], "exists: choose another target"),
        (["{}/evil.pt", "{}/b.npz", "--dataset", "cifar10"], "asks for posix.system"),
        (["{}/missing.pt", "{}/b.npz", "--dataset", "cifar10"], "no distilled set at .*missing.pt"),
        (["{}/a.pt", "{}/b.npz", "--datset", "cifar10"], "--datset"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, args, sentence):
    torch.save(pair(CIFAR, ipc=1), tmp_path / "a.pt")
    torch.save(Calls(os.system, f"touch {tmp_path / 'run'}"), tmp_path / "evil.pt")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(SystemExit) as end:
        convert(*(arg.replace("{}", str(tmp_path)) for arg in args))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("bacon convert: error: ")
    assert re.search(sentence, line), line
    assert sorted(os.listdir(tmp_path)) == before


def test_eval_takes_their_files_directly(tmp_path, capsys):
    meta = dataset_meta("digits")
    pairs = [list(pair(meta, ipc=1, seed=seed)) for seed in range(2)]
    torch.save({"data": pairs, "accs_all_exps": {}}, tmp_path / "theirs.pt")
    given = ["--distilled", str(tmp_path / "theirs.pt"), "--factor", "2", "--epoch_index", "0"]
    quick_recipe = ["--evaluation.network.width", "4", "--evaluation.epochs", "1", "--evaluation.num_networks", "1"]
    trainer = ["--trainer.default_root_dir", str(tmp_path / "out"), "--trainer.enable_progress_bar", "false"]
    main(["eval", "--config", str(DIGITS), *given, *quick_recipe, *trainer])
    assert "convnet on distilled: " in capsys.readouterr().out
    folder = evaluation_in(tmp_path / "out")
    assert folder.name.startswith("theirs-convnet-1epochs-")
    assert sorted(os.listdir(tmp_path)) == ["out", "theirs.pt"]  # nothing of ours beside a file of another project
    numbers = json.loads((folder / "results.json").read_text())
    assert numbers["distilled"]["path"] == str(tmp_path / "theirs.pt")
    assert (numbers["factor"], numbers["ipc"], numbers["train_images"]) == (2, 1, 40)


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        convert("--help")
    assert not end.value.code
    assert "--epoch-index" in capsys.readouterr().out
    main(["--help"])
    assert "convert" in capsys.readouterr().out
