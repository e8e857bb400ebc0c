"""`bacon tune` on the digits: what it leaves, that it goes on, and that it never opens the test images."""

import json
import subprocess
import sys

import pytest
import yaml

import bacon_pl
from bacon_pl.cli import main
from bacon_pl.data import load_dataset
from bacon_pl.errors import BaconError
from bacon_pl.table.tuned import HISTORY
from bacon_pl.tuning import Tune
from bacon_pl.tuning.shared_study import finished
from bacon_pl.tuning.trials import Trials
from tests.real_formats import random_split, write_mnist

pytest.importorskip("optuna", reason="bacon tune needs Optuna, of the extra 'tune'")

METHOD = {
    "extends": "methods/idm",
    "model": {
        "method": "mine",
        "factor": 1,
        "network": {"class_path": "ConvNet", "init_args": {"width": 4, "depth": 2}},
        "pool": {"initial": 1, "capacity": 2, "train_steps": 1},
    },
    "data": {"batch_real": 8, "pool_batch": 8},
    "evaluation": {"num_networks": 2, "epochs": 2, "network": {"class_path": "ConvNet", "init_args": {"width": 4}}},
    "tune": {
        "model.lr": {"low": 0.05, "high": 2.0, "log": True},
        "data.batch_real": {"choices": [4, 8]},
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(METHOD))
    (tmp_path / "tiny.yaml").write_text("trainer: {max_steps: 4}\nevaluation: {network: {init_args: {depth: 2}}}\n")
    return tmp_path


def tune(*args):
    Tune(["--method=mine.yaml", "--budget=tiny.yaml", "--dataset=digits", "--ipc=1", *args]).run()


def test_it_writes_the_best_settings_with_the_history_of_all(folder, capsys):
    tune("--trials=3")
    said = capsys.readouterr().out
    assert "[3/3]" in said and "configuration: tuned/mine-digits-ipc1.yaml" in said
    text = (folder / "tuned/mine-digits-ipc1.yaml").read_text()
    found = yaml.safe_load(text)
    assert found["extends"] == str(folder / "mine.yaml") and found["model"]["method"] == "mine-tuned"
    assert 0.05 <= found["model"]["lr"] <= 2 and found["data"]["batch_real"] in (4, 8)
    history = [line.split() for line in text.splitlines() if line.startswith("#     ")]
    assert [line[1] for line in history] == ["0", "1", "2"]
    assert history[0][4:] == ["data.batch_real", "8,", "model.lr", "0.2"]  # the method's own settings
    best = max(float(line[3]) for line in history)
    assert f"{best:.1f} % on held-out training images" in text
    assert "--trials=3" in text and "test images were not loaded" in text


def test_the_best_is_the_first_of_equal_means(folder, monkeypatch):
    iterations, accuracies = [], iter([[50.0, 60.0], [70.0, 80.0], [75.0, 75.0]])
    monkeypatch.setattr(Trials, "accuracies", lambda self, _: iterations.append(self.iterations) or next(accuracies))
    tune("--trials=3")
    history = yaml.safe_load((folder / "tuned/mine-digits-ipc1.yaml").read_text())[HISTORY]
    assert (history["best"], history["accuracy"]) == (1, 75.0)
    assert iterations == [2] * 3 and history["iterations"] == 2  # half of the budget's


def test_it_goes_on_with_the_trials_that_are_missing(folder, capsys):
    tune("--trials=3", "--out=whole.yaml")
    tune("--trials=1", "--out=parts.yaml")
    capsys.readouterr()
    tune("--trials=3", "--out=parts.yaml")
    said = capsys.readouterr().out
    assert said.startswith("1 of 3 trials are there") and "[1/3]" not in said and "[3/3]" in said
    assert history_in(folder / "parts.yaml") == history_in(folder / "whole.yaml")
    tune("--trials=3", "--out=parts.yaml")
    assert "[" not in capsys.readouterr().out.split("configuration")[0].split("\n", 1)[1]
    with pytest.raises(BaconError, match=r"other settings \(seed\)"):
        tune("--trials=3", "--out=parts.yaml", "--seed_everything=1")


def history_in(file):
    """Number, accuracy and settings of the trials in a result, without their seconds."""
    lines = [line.split() for line in file.read_text().splitlines() if line.startswith("#     ")]
    return [[*line[:2], *line[3:]] for line in lines]


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(600)
"""


def test_a_trial_of_another_process_is_left_to_it_and_made_again_if_that_is_killed(folder, capsys):
    tune("--trials=3", "--out=whole.yaml")
    tune("--trials=1", "--out=parts.yaml")
    other = subprocess.Popen([sys.executable, "-c", HOLD, ".parts-1.lock"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        capsys.readouterr()
        tune("--trials=3", "--out=parts.yaml")
        said = capsys.readouterr().out
        assert "[3/3]" in said and "[2/3]" not in said
        assert "1 trials are being run by other processes" in said
        assert [line[1] for line in history_in(folder / "parts.yaml")] == ["0", "2"]
    finally:
        other.kill()
        other.wait()
    tune("--trials=3", "--out=parts.yaml")
    said = capsys.readouterr().out
    assert "[2/3]" in said and "[3/3]" not in said
    assert history_in(folder / "parts.yaml") == history_in(folder / "whole.yaml")
    assert not list(folder.glob(".*.lock"))


SHARE = """
import sys, time
from pathlib import Path
import optuna
from bacon_pl.tuning.knobs import Knob
from bacon_pl.tuning.shared_study import load_optuna, points, take_turn

load_optuna()
planned = points([Knob("model.lr", 0.1, 1.0)], {"model.lr": 0.5}, 12, 0)
study = optuna.load_study(study_name="s", storage="sqlite:///s.db")
Path(sys.argv[1]).touch()
while len(list(Path().glob("ready*"))) < 3:
    time.sleep(0.01)
while (turn := take_turn(study, 12, Path("s.yaml"))) is not None:
    print(turn.point, flush=True)
    time.sleep(0.05)
    turn.store(study, planned[turn.point], planned[turn.point].params["model.lr"], {})
    turn.close()
"""


def test_processes_share_the_trials_and_make_each_once(folder):
    import optuna

    study = optuna.create_study(storage="sqlite:///s.db", study_name="s", direction="maximize")
    command = [sys.executable, "-c", SHARE]
    workers = [subprocess.Popen([*command, f"ready{k}"], stdout=subprocess.PIPE, text=True) for k in range(3)]
    made = [worker.communicate(timeout=300)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(int(point) for part in made for point in part) == list(range(12))
    done = finished(study)
    assert list(done) == list(range(12)) and done[0].value == 0.5
    assert len(study.trials) == 12 and len({trial.value for trial in study.trials}) == 12


def test_a_method_that_was_edited_is_not_tuned_further(folder):
    tune("--trials=1")
    (folder / "mine.yaml").write_text(yaml.safe_dump({**METHOD, "model": {**METHOD["model"], "momentum": 0.25}}))
    with pytest.raises(BaconError, match=r"trials of other settings \(--model.momentum was 0.5, now 0.25\)"):
        tune("--trials=2")


def test_trials_are_not_judged_by_an_evaluation_that_was_edited(folder):
    tune("--trials=1")
    budget = yaml.safe_load((folder / "tiny.yaml").read_text())
    budget["evaluation"]["lr"] = 0.025
    (folder / "tiny.yaml").write_text(yaml.safe_dump(budget))
    with pytest.raises(BaconError, match=r"trials of other settings \(--evaluation.lr was 0.01, now 0.025\)"):
        tune("--trials=2")


def test_a_trial_that_ends_in_an_error_is_made_again(folder, monkeypatch):
    tune("--trials=2", "--out=whole.yaml")
    with monkeypatch.context() as patched:
        patched.setattr(Trials, "accuracies", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tune("--trials=2", "--out=parts.yaml")
    tune("--trials=2", "--out=parts.yaml")
    assert history_in(folder / "parts.yaml") == history_in(folder / "whole.yaml")


def test_the_test_images_are_not_opened(folder):
    root = folder / "data"
    write_mnist(root / "MNIST/raw", random_split("mnist", 20, 0), random_split("mnist", 1, 1))
    for path in root.rglob("t10k*"):
        path.write_bytes(b"not to be read")
    with pytest.raises(BaconError, match="MNIST"):
        load_dataset("mnist", root)
    Tune(["--method=mine.yaml", "--budget=tiny.yaml", f"--dataset=mnist={root}", "--ipc=1", "--trials=1"]).run()
    assert (folder / "tuned/mine-mnist-ipc1.yaml").is_file()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--trials=0"], "--trials"),
        (["--held_out=1.5"], "--held_out"),
        (["--dataset=digitz"], "digits"),
        (["--ipc=7"], "no schedule digits/ipc7"),
        (["--method=methods/tiles"], "names nothing to tune"),
        (["--method=nothing"], "--method"),
        (["--iterations=0"], "--iterations must be at least 1, got 0"),
        (["--seed_everything=-1"], "--seed_everything must be a whole number from 0"),
        (["--storage=nothing://x"], "--storage"),
    ],
    ids=str,
)
def test_bad_arguments_are_told_before_anything_is_read(folder, args, said):
    with pytest.raises(BaconError) as refused:
        tune(*args)
    assert said in str(refused.value)


def test_own_settings_out_of_range_are_told(folder):
    narrow = {**METHOD, "tune": {"model.lr": {"low": 1.0, "high": 2.0}}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(narrow))
    with pytest.raises(BaconError, match="model.lr, 0.2, is none of the values"):
        tune()


@pytest.mark.parametrize(
    ("name", "knob", "said"),
    [
        *(
            (name, {"choices": [1, 2]}, f"no setting '{name}' that changes")
            for name in ("model.real_chunk", "model.lrr")
        ),
        ("data.whitening", {"choices": [None, "zca"]}, "all trials have the same data"),
        ("model.factor", {"low": 1, "high": 3}, "is a whole number, 1: give it choices"),
        ("model.momentum", {"low": 0.0, "high": 0.9}, "'tiny' have 0.25 whatever is chosen"),
    ],
)
def test_knobs_that_cannot_be_tuned_are_told_before_the_first_trial(folder, name, knob, said):
    (folder / "mine.yaml").write_text(yaml.safe_dump({**METHOD, "tune": {name: knob}}))
    (folder / "tiny.yaml").write_text("trainer: {max_steps: 4}\nmodel: {momentum: 0.25}\n")
    with pytest.raises(BaconError, match=said):
        tune()
    assert not (folder / "tuned").exists()


def test_what_was_corrected_before_the_first_trial_is_no_other_tuning(folder, monkeypatch):
    def fails(*_):
        raise BaconError("no such data")

    with monkeypatch.context() as patched:
        patched.setattr("bacon_pl.tuning.command.hold_out", fails)
        with pytest.raises(BaconError, match="no such data"):
            tune("--held_out=0.3")
    tune("--trials=1")
    with pytest.raises(BaconError, match="holds trials of other settings .held_out"):
        tune("--trials=1", "--held_out=0.3")


def test_trials_are_in_the_space_of_the_methods_runs(folder, monkeypatch):
    (folder / "mine.yaml").write_text(yaml.safe_dump({**METHOD, "data": {**METHOD["data"], "whitening": "zca"}}))
    seen = []
    evaluate = bacon_pl.evaluate
    monkeypatch.setattr(bacon_pl, "evaluate", lambda *args, **more: seen.append(args[0]) or evaluate(*args, **more))
    tune("--trials=1")
    assert seen[0].meta.whitening is not None


def test_digits_are_tuned_without_the_tiles_that_they_are_too_small_for(folder, capsys):
    more = {**METHOD, "tune": {"model.factor": {"choices": [1, 6]}}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(more))
    tune("--trials=3")
    assert "factor 6" not in capsys.readouterr().out


def test_a_table_has_both_settings_side_by_side(folder, capsys):
    tune("--trials=2")
    given = ["table", "--methods", "random,mine.yaml", "--datasets", "digits", "--ipcs", "1", "--budget", "tiny.yaml",
             "--repeats", "1", "--tuned", "tuned", "--out", "out", "--trainer.accelerator", "cpu",
             "--evaluation.num_networks", "2", "--evaluation.epochs", "2"]  # fmt: skip
    main(given)
    capsys.readouterr()
    page = (folder / "out/table.md").read_text()
    assert "| digits, ipc 1 | mine |" in page and "## Not run" not in page
    tuned = yaml.safe_load((folder / "tuned/mine-digits-ipc1.yaml").read_text())["tuned"]
    assert (tuned["method"], tuned["dataset"], tuned["ipc"], tuned["budget"]) == ("mine", "digits", 1, "tiny")
    assert (tuned["trials"], tuned["iterations"], tuned["held_out"]) == (2, 2, 0.1)
    assert f"| `tuned/mine-digits-ipc1.yaml` | 2 | 2 | 10 % | 0 | {tuned['best']} |" in page
    rate = json.loads((folder / "out/digits-ipc1/mine-tuned/seed0/cell.json").read_text())["model"]["lr"]
    assert rate == tuned["settings"]["model.lr"]
    main(given)
    assert "3 runs, 3 of them there" in capsys.readouterr().out
