"""`bacon tune` before its first trial: what it may write over, whose study it is, and which images are read."""

import subprocess
import sys

import pytest
import yaml

from bacon_pl.errors import BaconError
from bacon_pl.tuning import Tune
from bacon_pl.tuning import command as tuning
from bacon_pl.tuning.shared_study import opening, under_way
from bacon_pl.tuning.trials import Trials
from tests.patience import PATIENCE
from tests.table.test_own_images import write_images
from tests.tuning.test_tune import METHOD

pytest.importorskip("optuna", reason="bacon tune needs Optuna, of the extra 'tune'")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trials, "accuracies", lambda *_: [50.0])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(METHOD))
    (tmp_path / "tiny.yaml").write_text("trainer: {max_steps: 4}\n")
    return tmp_path


def tune(*args):
    Tune(["--method=mine.yaml", "--budget=tiny.yaml", "--dataset=digits", "--ipc=1", "--trials=2", *args]).run()


# What is written over.


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("mine.yaml", "would replace the method"),
        ("tiny.yaml", "is no result of bacon tune"),
        ("tuned.yaml", "is a folder: give a file in it"),
        ("tuned.db", "a name that ends in .yaml, not 'tuned.db'"),
        ("tuned", "a name that ends in .yaml"),
    ],
)
def test_nothing_but_a_result_is_replaced(folder, out, said):
    (folder / "tuned.yaml").mkdir()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(BaconError, match=said):
        tune(f"--out={out}")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_result_is_replaced_but_is_not_tuned_into_itself(folder):
    tune("--out=best.yaml")
    tune("--out=best.yaml", "--trials=3")
    # Earlier versions wrote the history as comments alone.
    whole = (folder / "best.yaml").read_text()
    (folder / "best.yaml").write_text(whole.partition("tuned:\n")[0])
    tune("--out=best.yaml", "--trials=3")
    assert yaml.safe_load((folder / "best.yaml").read_text())["tuned"]["trials"] == 3
    (folder / "more.yaml").write_text(yaml.safe_dump({"extends": "best.yaml", "tune": METHOD["tune"]}))
    with pytest.raises(BaconError, match="would replace the method, which the result extends"):
        tune("--out=best.yaml", "--method=more.yaml")


# Whose study it is.


def test_a_tuning_of_other_settings_does_not_fill_the_study_of_the_first(folder, monkeypatch, capsys):
    hold_out = tuning.hold_out
    calls = []

    def reads_while_another_begins(*args):
        calls.append(args)
        if len(calls) == 1:
            tune("--iterations=3")
        return hold_out(*args)

    monkeypatch.setattr(tuning, "hold_out", reads_while_another_begins)
    with pytest.raises(BaconError, match=r"another tuning, of other settings \(iterations\), has begun in"):
        tune("--iterations=2")
    assert yaml.safe_load((folder / "tuned/mine-digits-ipc1.yaml").read_text())["tuned"]["iterations"] == 3
    assert "[2/2]" in capsys.readouterr().out
    assert not list(folder.glob("tuned/.*.opening"))


OPEN = """
import sys
from bacon_pl.tuning import Tune, command, shared_study
shared_study._PATIENCE = 1800  # a busy machine may begin the three minutes apart
waits = command.opening
command.opening = lambda out: (print("waits", flush=True), waits(out))[1]
command.hold_out = lambda *_: sys.exit("opened")
Tune(["--method=mine.yaml", "--budget=tiny.yaml", "--dataset=digits", "--ipc=1"]).run()
"""


def test_a_database_is_laid_out_once(folder):
    with opening(folder / "tuned/mine-digits-ipc1.yaml"):  # all three wait here, and begin at the same time
        assert not under_way(folder / "tuned/mine-digits-ipc1.yaml")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun = [subprocess.Popen([sys.executable, "-c", OPEN], **pipes) for _ in range(3)]
        assert [process.stdout.readline() for process in begun] == ["waits\n"] * 3
        assert not (folder / "tuned/mine-digits-ipc1.db").exists()
    said = [process.communicate(timeout=PATIENCE)[1].strip().splitlines()[-1] for process in begun]
    assert said == ["opened"] * 3


def test_a_lock_that_is_kept_is_told(folder, monkeypatch):
    monkeypatch.setattr("bacon_pl.tuning.shared_study._PATIENCE", 0.0)
    said = r"kept '.*\.a.yaml.opening' locked"
    with opening(folder / "a.yaml"), pytest.raises(BaconError, match=said), opening(folder / "a.yaml"):
        pass


# Which images.


def test_another_folder_of_images_is_another_tuning(folder, monkeypatch):
    for name, color in (("a", 0), ("b", 200)):
        write_images(folder / name, color, range(20, 40))
    tune("--dataset=folder=a", "--ipc=10")
    with pytest.raises(BaconError, match=r"trials of other settings \(--data.root was images .*, now images "):
        tune("--dataset=folder=b", "--ipc=10")
    (folder / "a").rename(folder / "moved")
    tune("--dataset=folder=moved", "--ipc=10")
    # Trials of earlier versions may have had images of another size, or of another folder.
    import optuna

    study = optuna.load_study(study_name="mine-folder-ipc10", storage="sqlite:///tuned/mine-folder-ipc10.db")
    resolved = study.user_attrs["resolved"]
    del resolved["data"]["root"]
    study.set_user_attr("resolved", resolved)
    with pytest.raises(BaconError, match="the images, which an earlier version did not record"):
        tune("--dataset=folder=moved", "--ipc=10")


def test_images_are_read_as_the_method_and_the_schedule_say(folder, monkeypatch):
    write_images(folder / "a", 0, range(20, 40))
    (folder / "a/train/class0/broken.png").write_bytes(b"no picture")
    more = {"data": {**METHOD["data"], "on_bad_image": "skip", "mean": [0.25, 0.5, 0.5]}}
    (folder / "mine.yaml").write_text(yaml.safe_dump({**METHOD, **more}))
    seen = []
    monkeypatch.setattr(Trials, "accuracies", lambda trials, _: seen.append(trials.split.meta) or [50.0])
    tune("--dataset=folder=a", "--ipc=10")
    assert {(meta.size, meta.mean) for meta in seen} == {((32, 32), (0.25, 0.5, 0.5))}
