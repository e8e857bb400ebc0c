"""Configurations that change while a table runs, and options of `bacon eval` that only a configuration can give."""

import json

import pytest

from bacon_pl.cli import main
from bacon_pl.commands.settings import settings_of
from bacon_pl.errors import BaconError
from bacon_pl.table.plan import Cell, check_record, read_configs, record, write_record
from bacon_pl.table.runner import Job

GIVEN = ["--datasets", "digits", "--ipcs", "1", "--budget", "tiny.yaml", "--methods", "mine.yaml", "--repeats", "2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below.yaml").write_text("extends: methods/random\nmodel: {method: mine}\n")
    (tmp_path / "mine.yaml").write_text("extends: below.yaml\n")
    (tmp_path / "tiny.yaml").write_text("evaluation: {num_networks: 1, epochs: 1}\n")
    return tmp_path


def test_a_run_is_not_made_by_a_configuration_that_has_changed(folder, monkeypatch, capsys):
    given = ["table", *GIVEN, "--out", "out", "--jobs", "1", "--trainer.accelerator", "cpu"]
    below, written = folder / "below.yaml", []

    def write_and_change(place, own):
        write_record(place, own)
        written.append(place)
        if len(written) == 2:  # while the first run is evaluated
            below.write_text(below.read_text() + "evaluation: {lr: 0.5}\n")

    monkeypatch.setattr("bacon_pl.table.runner.write_record", write_and_change)
    with pytest.raises(SystemExit) as stop:
        main(given)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "1 of 2 runs failed" in said
    assert (
        "'mine.yaml', or one that it extends, has changed since this table began: give the same command again" in said
    )
    first, second = (folder / f"out/digits-ipc1/mine/seed{seed}" for seed in (0, 1))
    assert (first / "results.json").is_file() and not second.exists()


def test_what_a_configuration_holds_counts_and_not_its_comments(folder):
    job = Job(Cell("mine", "digits", 1, ()), 0, folder, {}, {}, configs=read_configs(["mine.yaml", "mnist/ipc1", "{}"]))
    (folder / "mine.yaml").write_text("# Better.\nextends: below.yaml\n")
    assert job.changed() is None
    (folder / "below.yaml").unlink()
    with pytest.raises(BaconError, match=r"below.yaml"):
        job.changed()


def own_record(*more):
    words = ["--config=digits/ipc1", "--config=methods/random"]
    return record(settings_of, {"fit": words, "eval": [*words, "--distilled=set", *more]})


def test_networks_of_a_configuration_are_recorded(folder):
    (folder / "nets.yaml").write_text("networks: [mlp, convnet]\n")
    (before, _), (after, _) = own_record(), own_record("--config=nets.yaml")
    write_record(folder / "run", before)
    check_record(folder / "run", before)
    said = "--networks was as the recipe says, now mlp,convnet"
    with pytest.raises(BaconError, match=said):
        check_record(folder / "run", after)
    # Earlier versions did not record them.
    old = {name: value for name, value in before.items() if name != "networks"}
    (folder / "run/cell.json").write_text(json.dumps(old))
    check_record(folder / "run", before)
    with pytest.raises(BaconError, match=said):
        check_record(folder / "run", after)


def test_scores_of_other_weights_are_not_there(folder):
    (folder / "weights.yaml").write_text("score_weights: {w: 0.25}\n")
    _, scoring = own_record("--config=weights.yaml")
    assert scoring == {"whole_epochs": None, "score_weights": {"w": 0.25, "gamma": 0.5}}
    job = Job(Cell("random", "digits", 1, ()), 0, folder, {}, {}, scored=True, **scoring)
    for w, done in ((0.5, False), (0.25, True)):
        config = {"evaluation": {}, "score_weights": {"w": w, "gamma": 0.5}}
        (folder / "results.json").write_text(json.dumps({"scores": {}, "config": config}))
        assert job.done == done
