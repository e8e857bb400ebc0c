"""The real command in a subprocess: fit, eval, configs, and what a beginner gets wrong."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bacon_pl.cli import main
from bacon_pl.distilled_set import DistilledSet
from tests.paths import CONFIGS, DIGITS, PYTHON, ROOT, evaluation_in

SHARED = ROOT.parent / "shared/data"
QUICK = ["--model.network.width", "4", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


def bacon(*args, cwd=ROOT, python=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*(python or [sys.executable]), "-m", "bacon_pl", *map(str, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def fit(out, *args, **how):
    done = bacon("fit", "--config", DIGITS, "--trainer.default_root_dir", out, *QUICK, *args, **how)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short distillation that several tests look at."""
    out = tmp_path_factory.mktemp("run")
    fit(out, "--trainer.max_steps", 4, "--validation.every_n_steps", 2, "--validation.epochs", 2,
        "--image_grid.every_n_steps", 2, "--trainer.log_every_n_steps", 1, python=[PYTHON, "-W", "error"])  # fmt: skip
    return out


def test_fit_leaves_the_set_with_its_history(run):
    distilled = DistilledSet.load(run)
    assert (distilled.meta.name, distilled.ipc, distilled.factor, distilled.method) == ("digits", 1, 1, "bacon")
    assert distilled.config["model"]["network"]["init_args"]["width"] == 4
    assert distilled.config["trainer"]["max_steps"] == 4
    assert distilled.seed == 0
    assert distilled.images.shape == (10, 1, 8, 8)
    assert len(distilled) == 10
    assert (run / "distilled.png").is_file()


def test_tensorboard_has_terms_validation_and_pictures(run):
    (log,) = run.glob("lightning_logs/version_*")
    events = EventAccumulator(str(log))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"loss", "loss/likelihood", "loss/tv", "loss/ce", "pool/accuracy", "pool/size", "val/accuracy"} <= scalars
    assert "iterations_per_second" in scalars
    assert [e.step for e in events.Images("images")] == [0, 2, 4]
    assert len(events.Scalars("loss")) == 4


def test_one_seed_gives_identical_files_and_another_does_not(tmp_path):
    # Same folder name, for the resolved configuration is part of the file.
    files = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        done = bacon("fit", "--config", DIGITS, "--trainer.default_root_dir", "out", *QUICK, "--trainer.max_steps", 3,
                     "--seed_everything", seed, "--validation.every_n_steps", 0,
                     cwd=_make(tmp_path / name))  # fmt: skip
        assert done.returncode == 0, done.stderr
        files.append((tmp_path / name / "out/distilled.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def _make(folder):
    folder.mkdir()
    return folder


def test_eval_with_recipes_from_yaml_scores_and_figures(run, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        """
evaluation:
  network: {class_path: ConvNet, init_args: {width: 4, depth: 2}}
  epochs: 2
  num_networks: 2
  augment: {class_path: DSA, init_args: {strategies: [crop]}}
  mixing: CutMix
  optimizer: adamw
  schedule: cosine
  soft_labels: {steps: 3, temperature: 2, loss: cross_entropy}
  coreset_steps: 3
"""
    )
    distilled = shutil.copy(run / "distilled.safetensors", tmp_path)
    done = bacon("eval", "--config", DIGITS, "--config", tmp_path / "recipe.yaml", "--distilled", distilled,
                 "--baselines", "[herding, k_center]", "--networks", "convnet", "--scores", "true", "--figures",
                 "true", "--trainer.default_root_dir", tmp_path, "--trainer.enable_progress_bar", "false")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert re.fullmatch(r"scores: LRS 0\.\d+ \| ARS 0\.\d+ \| HLR -?0\.\d+ \| IOR -?0\.\d+", lines[-3])
    (head,) = [line for line in lines if line.startswith("network ")]
    assert all(name in head for name in ("distilled", "random real", "herding", "k-center"))
    assert any(re.match(r"\[8/8\] convnet on .*: \d+\.\d ± \d+\.\d %", line) for line in lines)
    out = evaluation_in(tmp_path)
    numbers = json.loads((out / "results.json").read_text())
    recipe = numbers["runs"][0]["recipe"]
    assert (recipe["augment"], recipe["mixing"], recipe["labels"]) == ("DSA", "CutMix", "soft")
    assert numbers["network"] == "convnet"
    variants = {(r["training_set"], r["variant"]) for r in numbers["runs"]}
    assert {("whole", "hard"), ("distilled", "hard"), ("random", "given"), ("random", "plain")} < variants
    assert len(variants) == 8
    shown = re.findall(r"\]\((figures/\w+\.png)\)", (out / "results.md").read_text())
    assert len(shown) == 6 and all((out / path).is_file() for path in shown)
    events = EventAccumulator(str(out / "logs/convnet_distilled"))
    events.Reload()
    assert "report/curves" in events.Tags()["images"]
    assert [e.step for e in events.Scalars("curve/test_accuracy")] == [1, 2]


def test_help_names_commands_and_options():
    assert "fit" in bacon("--help").stdout
    done = bacon("fit", "--help")
    assert done.returncode == 0
    assert "--model.ipc" in done.stdout
    assert "Images per class" in done.stdout
    assert "--evaluation" not in done.stdout


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["fti"], "unknown command 'fti'"),
        (["fit", "--config", "missing.yaml"], "--config: .*does not exist.*missing.yaml"),
        (["fit", "--config", DIGITS, "--data.name", "mnits"], "Did you mean 'mnist'"),
        (["fit", "--config", DIGITS, "--data.name", "mnist", "--data.root", "no/such"], "no/such.*--data.root"),
        (["fit", "--config", DIGITS, "--model.network", "Convnt"], "Did you mean 'ConvNet'"),
        (["fit", "--config", DIGITS, "--model.objective", "BaconObjectiv"], "Did you mean 'BaconObjective'"),
        (["fit", "--config", DIGITS, "--model.ipc", "500"], "ipc 500 asks for more images per class than class '8'"),
        (["fit", "--config", DIGITS, "--model.ipc", "ten"], "--model.ipc.*ten"),
        (["fit", "--config", DIGITS, "--model.ipk", "3"], "--model.ipk"),
        (["eval", "--config", DIGITS, "--distilled", "nowhere"], "no distilled set at 'nowhere'"),
        (["eval", "--config", DIGITS], "distilled"),
        (
            ["eval", "--config", DIGITS, "--distilled", "x", "--evaluation.optimizer", "sdg"],
            "evaluation.optimizer.*sgd",
        ),
    ],
)
def test_beginners_errors_are_one_sentence(args, sentence, tmp_path):
    where = ["--trainer.default_root_dir", tmp_path / "out"] if len(args) > 1 else []
    done = bacon(*args, *where)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"bacon( \w+)?: error: ", last)
    assert re.search(sentence, last)
    assert not list((tmp_path / "out").glob("**/distilled*"))


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("BACON_DEBUG", "1")
    assert "Traceback" in bacon("fti").stderr


@pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason="needs MNIST in ../shared/data")
def test_mnist_from_disk(tmp_path):
    config = CONFIGS / "mnist/ipc1.yaml"
    done = bacon("fit", "--config", config, "--data.root", SHARED, "--trainer.max_steps", 2, "--data.batch_real", 32,
                 "--data.pool_batch", 32, "--trainer.default_root_dir", tmp_path, *QUICK)  # fmt: skip
    assert done.returncode == 0, done.stderr
    distilled = DistilledSet.load(tmp_path)
    assert distilled.images.shape == (10, 1, 28, 28)
    assert torch.isfinite(distilled.images).all()
    assert distilled.share == pytest.approx(10 / 60_000)


def test_what_fit_prints_is_a_configuration_of_both_commands(run, tmp_path, capsys):
    with pytest.raises(SystemExit):  # wherever the flag stands, all of the command line is printed
        main(["fit", "--print_config", "--config", str(DIGITS), *QUICK, "--trainer.max_steps", "7"])
    (tmp_path / "printed.yaml").write_text(printed := capsys.readouterr().out)
    assert yaml.safe_load(printed)["trainer"]["max_steps"] == 7
    given = ["eval", "--config", str(tmp_path / "printed.yaml"), "--distilled", str(run), "--evaluation.epochs", "1",
             "--trainer.logger", "false", "--out", str(tmp_path / "out")]  # fmt: skip
    main(given)
    assert json.loads((tmp_path / "out/results.json").read_text())["epochs"] == 1
    with pytest.raises(SystemExit) as stop:
        main([*given, "--ckpt_path", "last"])
    assert stop.value.code == 2 and "unknown option --ckpt_path" in capsys.readouterr().err
