"""Whitened data on the command line: a run, its evaluation in the same space, and what contradicts it."""

import json

import pytest

from bacon_pl.cli import main
from bacon_pl.distilled_set import DistilledSet
from tests.paths import DIGITS, evaluation_in

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
ZCA = ["--data.whitening", "zca"]


def fit(out, *args):
    main(["fit", "--config", str(DIGITS), "--trainer.default_root_dir", str(out), "--model.network.width", "4",
          "--trainer.max_steps", "2", "--validation.every_n_steps", "0", *QUIET, *map(str, args)])  # fmt: skip


def evaluate(out, *args):
    main(["eval", "--config", str(DIGITS), "--distilled", str(out), "--evaluation.network.width", "4",
          "--evaluation.epochs", "1", "--evaluation.num_networks", "1", *QUIET, *args])  # fmt: skip


def refused(capsys, command, *args):
    with pytest.raises(SystemExit) as stopped:
        command(*args)
    assert stopped.value.code
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A whitened run and one that is not."""
    folder = tmp_path_factory.mktemp("runs")
    fit(folder / "zca", *ZCA)
    fit(folder / "plain")
    return folder


def test_a_whitened_run_is_evaluated_in_its_space_without_being_told(runs, capsys):
    distilled = DistilledSet.load(runs / "zca")
    assert distilled.meta.whitening is not None and (runs / "zca/distilled.png").is_file()
    capsys.readouterr()
    evaluate(runs / "zca", "--baselines", "random")
    assert capsys.readouterr().out.count("ZCA-whitened (epsilon 0.1") == 2  # the set and the data
    results = json.loads((evaluation_in(runs / "zca") / "results.json").read_text())
    assert results["distilled"]["whitening"] == distilled.meta.whitening.to_json()
    assert "whitening" not in json.loads(_evaluated(runs / "plain"))["distilled"]


def _evaluated(run):
    evaluate(run)
    return (evaluation_in(run) / "results.json").read_text()


def test_what_contradicts_the_space_is_refused(runs, tmp_path, capsys):
    said = refused(capsys, evaluate, runs / "plain", *ZCA, "--out", str(tmp_path / "e"))
    assert "the distilled set is in normalized pixel space, and the data are whitened" in said
    said = refused(capsys, fit, tmp_path / "a", "--model.start.images", runs / "zca")
    assert "cannot start from" in said and "give --data.whitening zca" in said
    said = refused(capsys, fit, tmp_path / "b", *ZCA, "--model.start.images", runs / "plain")
    assert "leave --data.whitening out" in said
    said = refused(capsys, fit, tmp_path / "c", *ZCA, "--model.space", "pixels", "--model.clamp_pixels", "true")
    assert "--model.space pixels and --model.clamp_pixels cannot be used with --data.whitening zca" in said
    said = refused(capsys, fit, tmp_path / "d", "--data.whitening", "pca")
    assert "--data.whitening" in said and "zca" in said
    for name in "abcd":
        assert not (tmp_path / name / "distilled.safetensors").exists()


def test_a_whitened_run_goes_on_only_in_its_space(runs, capsys):
    on = ("--ckpt_path", "last", "--trainer.max_steps", "3", "--overwrite", "true")
    assert "--data.whitening was zca, now None" in refused(capsys, fit, runs / "zca", *on)
    fit(runs / "zca", *ZCA, *on)
    assert DistilledSet.load(runs / "zca").config["data"]["whitening"] == "zca"
