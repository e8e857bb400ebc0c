"""The command ``bacon table``: its plan, its numbers, and the resuming of interrupted runs."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from bacon_pl.cli import main
from bacon_pl.errors import BaconError
from bacon_pl.table.numbers import entries, published
from bacon_pl.table.pages import markdown, write
from bacon_pl.table.plan import Cell, budget_file, check_record, overlays, plan
from bacon_pl.table.runner import places
from bacon_pl.table.sources import locate
from tests.paths import CONFIGS, ROOT
from tests.patience import PATIENCE

QUICK = [
    *("--datasets", "digits", "--ipcs", "1", "--budget", "small", "--model.network.width", "4"),
    *("--evaluation.network.width", "4", "--evaluation.num_networks", "2", "--evaluation.epochs", "2"),
    *("--model.factor", "1", "--trainer.accelerator", "cpu"),
]


def bacon_table(out, *args):
    """Run the command in this process, which starts those of its cells; returns the exit status."""
    try:
        main(["table", "--out", str(out), *QUICK, *map(str, args)])
    except SystemExit as stop:
        return stop.code
    return 0


def rows(out):
    with open(out / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


# The real command.


def test_table_survives_kill_9_and_does_nothing_twice(tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = ("--methods", "dm,idm", "--repeats", 1, "--jobs", 1, "--trainer.max_steps", 12,
             "--checkpoint.every_n_train_steps", 1)  # fmt: skip
    assert bacon_table(whole, *given) == 0

    command = [sys.executable, "-m", "bacon_pl", "table", "--out", broken, *QUICK, *given]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL)
    cells = [broken / "digits-ipc1" / method / "seed0" for method in ("dm", "idm")]
    deadline = time.monotonic() + PATIENCE
    # Until the second cell is in the middle of its distillation.
    while not any((cells[1] / "checkpoints").glob("*.ckpt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.poll() is None and (cells[0] / "results.json").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = (cells[0] / "results.json").stat().st_mtime_ns
    capsys.readouterr()
    assert bacon_table(broken, *given) == 0
    assert "2 runs, 1 of them there" in capsys.readouterr().out
    assert (cells[0] / "results.json").stat().st_mtime_ns == first
    for method in ("dm", "idm"):
        ours, theirs = (
            json.loads((out / "digits-ipc1" / method / "seed0/results.json").read_text()) for out in (broken, whole)
        )
        assert ours["accuracy"] == theirs["accuracy"]
        assert (ours["method"], ours["dataset"], ours["ipc"], ours["seed"]) == (method, "digits", 1, 0)
    assert (broken / "table.csv").read_text() == (whole / "table.csv").read_text()

    assert bacon_table(broken, *given) == 0
    assert "2 runs, 2 of them there" in capsys.readouterr().out
    # Other settings are another run: said before anything is written.
    assert bacon_table(broken, *given, "--model.lr", "0.1") == 2
    error = capsys.readouterr().err
    assert "other settings: --model.lr was" in error and "another --out" in error


def test_cells_side_by_side_repeats_and_a_failing_one(tmp_path, capsys):
    given = ("--methods", "bacon", "--repeats", 2, "--jobs", 2, "--trainer.max_steps", 2)
    assert bacon_table(tmp_path, *given) == 0
    (row,) = rows(tmp_path)
    assert (row["method"], row["repeats"], row["networks"]) == ("bacon", "2", "4")
    runs = [tmp_path / f"digits-ipc1/bacon/seed{seed}" for seed in (0, 1)]
    results = [json.loads((folder / "results.json").read_text()) for folder in runs]
    values = torch.tensor([a for r in results for a in r["accuracy"]["per_network"]], dtype=torch.float64)
    assert float(row["mean"]) == pytest.approx(float(values.mean()), abs=1e-3)
    assert float(row["std"]) == pytest.approx(float(values.std()), abs=1e-3)
    assert [r["distilled"]["seed"] for r in results] == [0, 1]

    # A damaged set fails its own run only, and is named.
    (runs[1] / "results.json").unlink()
    (runs[1] / "distilled.safetensors").write_bytes(b"no set")
    capsys.readouterr()
    assert bacon_table(tmp_path, *given) == 2
    error = capsys.readouterr().err
    assert "1 of 2 runs failed" in error and "distilled.safetensors" in error
    assert "seed 1 failed" in (tmp_path / "table.md").read_text()
    assert [(row["repeats"], bool(row["reason"])) for row in rows(tmp_path)] == [("1", True)]


# Bad input, told before anything runs.


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--methods", "dmm"], "unknown method 'dmm'.*mean 'dm'"),
        (["--methods", ","], "--methods names nothing"),
        (["--datasets", "cifar11"], "unknown dataset 'cifar11'"),
        (["--ipcs", "ten"], "--ipcs must be whole numbers"),
        (["--ipcs", "0"], "--ipcs must be whole numbers"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--budget", "smal"], "unknown budget 'smal'.*mean 'small'"),
        (["--configs", "{}/no"], "no folder of configurations"),
        (["--model.ipx", "3"], "ipx"),
        (["--model.factor", "5"], "factor 5 does not cut"),
        (["--trainer.max_steps"], "--trainer.max_steps needs a value"),
        (["--nonsense", "3"], "nonsense"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, args, sentence):
    out = tmp_path / "out"
    given = ["table", "--out", str(out), "--datasets", "digits", "--ipcs", "1", "--budget", "small"]
    with pytest.raises(SystemExit) as stop:
        main([*given, *(arg.format(tmp_path) for arg in args)])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and error.startswith("bacon table: error: ")
    assert re.search(sentence, error), error
    assert not list(out.glob("*/*")), "something was begun"


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "digits-ipc1/dm/seed0").mkdir(parents=True)
    (tmp_path / "digits-ipc1/dm/seed0/.cell.json.1234.part").write_text("{")  # of a table killed while it wrote this
    check_record(tmp_path / "digits-ipc1/dm/seed0", {})
    (tmp_path / "digits-ipc1/dm/seed0/thesis.tex").write_text("mine")
    with pytest.raises(SystemExit):
        main(["table", "--out", str(tmp_path), *QUICK, "--methods", "dm", "--repeats", "1"])
    assert "holds files that do not belong to a table" in capsys.readouterr().err


def test_missing_data_and_schedules_are_listed(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["table", "--out", str(tmp_path), "--methods", "dm,bacon", "--datasets", "svhn,tiny_imagenet",
              "--ipcs", "1,5,50", "--data.root", str(tmp_path / "nowhere")])  # fmt: skip
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert (
        "no cell of the table could be run, the first, dm on svhn, ipc 1, for this reason: SVHN not found" in told.err
    )
    page = (tmp_path / "table.md").read_text()
    assert "tiny_imagenet, ipc 5: there is no schedule tiny_imagenet/ipc5.yaml" in page
    assert page.count("SVHN not found") == 4 and page.count("TinyImageNet not found") == 4
    assert [row["mean"] for row in rows(tmp_path)] == [""] * 8
    assert all(row["reason"] for row in rows(tmp_path))
    assert "0 runs" in told.out


# Plan, numbers and pages.


def test_published_numbers_are_the_papers():
    known = published()
    assert len(known) == 48
    assert known["bacon", "cifar10", 10] == 62.06 and known["idm", "svhn", 1] == 65.3
    assert known["dm", "tiny_imagenet", 10] == 12.9 and known["bacon", "cifar100", 50] == 52.29
    assert ("dm", "fashion_mnist", 10) not in known and ("bacon", "tiny_imagenet", 50) not in known


def test_methods_are_names_folders_and_files(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("model: {method: mine}\n")
    found = overlays(["idm", str(own), "ablation"], CONFIGS)
    assert list(found)[:2] == ["idm", "mine"]
    assert {"likelihood", "lambda-0.5", "partition-3", "no-ce"} <= set(found)
    (tmp_path / "idm.yaml").write_text("")
    with pytest.raises(BaconError, match="two methods are called 'idm'"):
        overlays(["idm", str(tmp_path / "idm.yaml")], CONFIGS)


def test_plan_puts_the_budget_on_top():
    budget = budget_file("small", CONFIGS)
    cells, without = plan(overlays(["dm", "idm"], CONFIGS), ["MNIST", "folder"], [10, 50], budget, CONFIGS)
    assert [(c.method, c.dataset, c.ipc) for c in cells] == [
        ("dm", "mnist", 10), ("idm", "mnist", 10), ("dm", "mnist", 50), ("idm", "mnist", 50),
        ("dm", "folder", 10), ("idm", "folder", 10),
    ]  # fmt: skip
    assert [path.name for path in cells[0].configs] == ["ipc10.yaml", "dm.yaml", "small.yaml"]
    assert list(without) == [("folder", 50)]


def finished(out, cell, seed, accuracies):
    folder = cell.folder(out, seed)
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"accuracy": {"per_network": accuracies}}))


def test_entries_say_what_is_there_and_what_is_not(tmp_path):
    full, half, none = (Cell(method, "mnist", 10, ()) for method in ("bacon", "idm", "mine"))
    finished(tmp_path, full, 0, [90.0, 92.0])
    finished(tmp_path, full, 1, [96.0, 98.0])
    finished(tmp_path, half, 1, [80.0, 84.0])
    found = entries([full, half, none], tmp_path, [0, 1], {none: "seed 0 failed: fire"})
    assert (found[0].mean, found[0].std_of_repeats) == (94.0, pytest.approx(18**0.5))
    assert found[0].std == pytest.approx(float(torch.tensor([90.0, 92.0, 96.0, 98.0]).std()))
    assert found[0].difference == pytest.approx(94.0 - 97.3)
    page = markdown(found, ["Budget x."], ["svhn, ipc 1: no data"])
    assert "| mnist, ipc 10 | bacon | 94.0 ± 3.7 | 2 × 2 | 97.3 | -3.3 |" in page
    assert "| mnist, ipc 10 | idm | 82.0 ± 2.8 | 1 × 2 | 96.26 | -14.3 |" in page
    assert "- mnist, ipc 10, idm (1 of 2 repeats are there): not yet run" in page
    assert "- mnist, ipc 10, mine: seed 0 failed: fire" in page and "- svhn, ipc 1: no data" in page
    files = write(tmp_path, found, [], [])
    assert [path.name for path in files] == ["table.md", "table.csv", "table.png"]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    finished(tmp_path, none, 0, "nonsense")
    with pytest.raises(BaconError, match="cannot read .*results.json.*remove it"):
        entries([none], tmp_path, [0], {})


def test_a_single_network_has_no_spread(tmp_path):
    cell = Cell("bacon", "mnist", 10, ())
    finished(tmp_path, cell, 0, [90.0])
    (found,) = entries([cell], tmp_path, [0], {})
    assert (found.mean, found.std, found.std_of_repeats) == (90.0, None, None)
    assert "| mnist, ipc 10 | bacon | 90.0 | 1 × 1 |" in markdown([found], [], [])
    write(tmp_path, [found], [], [])
    assert [(row["mean"], row["std"]) for row in rows(tmp_path)] == [("90.000", "")]


def test_image_files_take_the_place_of_a_datasets_own(tmp_path, monkeypatch):
    from PIL import Image

    for split in ("train", "test"):
        for label in range(10):
            folder = tmp_path / "cifar10" / split / f"class{label}"
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32), (label, 0, 0)).save(folder / "0.png")
    source = locate("cifar10", tmp_path)
    assert source.arguments[:4] == ("--data.name", "folder", "--data.root", str(tmp_path / "cifar10"))
    assert source.arguments[5] == "[0.4914, 0.4822, 0.4465]" and "image files" in source.note
    with pytest.raises(BaconError, match="which is not cifar100"):
        locate("cifar100", tmp_path / "cifar10")
    with pytest.raises(BaconError, match="SVHN not found"):
        locate("svhn", tmp_path)


def test_a_dataset_of_ones_own_reaches_the_runs_by_its_module(tmp_path, own_dataset):
    own = f"{own_dataset}.SPEC"
    assert locate(own, tmp_path).arguments[:2] == ("--data.name", own)
    assert locate("DIGITS", tmp_path).arguments[:2] == ("--data.name", "digits")


def test_places_share_the_machine_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert [place.environment["OMP_NUM_THREADS"] for place in places(4, "cpu", False)] == ["2"] * 4
    assert len(places(None, "cpu", False)) == 8
    assert len(places(None, "auto", True)) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places(None, "auto", False)] == ["3", "5"]
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places(3, "gpu", False)] == ["3", "5", "3"]
    assert "CUDA_VISIBLE_DEVICES" not in places(None, "cpu", False)[0].environment
