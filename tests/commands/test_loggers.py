"""``--trainer.logger``: what is shown when, where it is written, and that a resumed run goes on in the same curves."""

import importlib.util
import json
import re
import shutil

import pytest

from tests import logged

STEPS = 6
QUICK = [
    "--config", "digits/ipc1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.log_every_n_steps", "1", "--data.batch_real", "8", "--model.network.width", "4",
    "--validation.every_n_steps", "2", "--validation.epochs", "1", "--checkpoint.every_n_train_steps", "3",
    "--model.bound.every_n_steps", "3", "--model.bound.samples", "4",
]  # fmt: skip
LOGS = "lightning_logs/version_0"
KINDS = {
    "TensorBoardLogger": lambda folder: logged.tensorboard(folder / LOGS),
    "CSVLogger": lambda folder: logged.of_csv(folder / LOGS),
    "WandbLogger": logged.wandb,
    "MLFlowLogger": logged.mlflow,
}
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}


OPTIONS = {"WandbLogger": ["--trainer.logger.offline", "true"]}


def choice(kind):
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind], reason=f"{PACKAGES[kind]} is not installed")
    return ["--trainer.logger", kind, *OPTIONS.get(kind, [])]


def fit(forked_cli, folder, steps, *args, code=0):
    done = forked_cli.run(
        "fit", *QUICK, "--trainer.max_steps", steps, "--trainer.default_root_dir", "run", *args, cwd=folder, timeout=240
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def whole(forked_cli, tmp_path_factory):
    """What TensorBoard, the default, holds of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    fit(forked_cli, folder, STEPS)
    return logged.tensorboard(folder / "run" / LOGS)


def test_what_is_logged_under_which_names(whole):
    assert whole.images["images"] == [0, 1, 2, 5, 6]
    assert whole.steps("loss") == whole.steps("loss/likelihood") == [0, 1, 2, 3, 4, 5]
    assert whole.steps("val/accuracy") == [1, 3, 5]  # of the iterations after which it was validated
    assert whole.steps("bound/bound") == whole.steps("bound/risk") == whole.steps("bound/epsilon") == [0, 3]
    assert whole.curves["final/iterations"] == [(6, 6.0)]
    assert whole.curves["final/loss"][0][1] == whole.curves["loss"][-1][1]
    assert "hp_metric" not in whole.curves
    assert whole.settings["model/lr"] > 0 and whole.settings["trainer/max_steps"] == 6
    assert whole.settings["data/name"] == "digits"
    assert whole.texts["config"].startswith("```yaml\nseed_everything: 0\n") and "image_grid:" in whole.texts["config"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_goes_on_in_the_same_curves(kind, whole, forked_cli, tmp_path):
    logger = choice(kind)
    fit(forked_cli, tmp_path, 4, *logger)
    fit(forked_cli, tmp_path, STEPS, *logger, "--ckpt_path", "last")
    fit(forked_cli, tmp_path, STEPS, *logger, "--ckpt_path", "last")  # nothing is left to do
    found = KINDS[kind](tmp_path / "run")
    for name in ("loss", "loss/tv", "pool/size", "val/accuracy", "bound/bound", "final/loss"):
        points = found.curves[name] if name != "final/loss" else found.curves[name][-1:]
        assert points == whole.curves[name], name
    assert {place.name for place in tmp_path.iterdir()} == {"run"}  # nothing in the working directory
    if kind == "CSVLogger":
        assert not found.images
        return
    # The picture that the first process ended with is TensorBoard's no longer, for the run has gone on from there.
    last = [] if kind == "TensorBoardLogger" else [4]
    assert found.images["images"] == [0, 1, 2, *last, 5, 6]
    assert "seed_everything: 0" in found.texts["config"]
    if kind == "WandbLogger":
        ids = {path.stem.removeprefix("run-") for path in (tmp_path / "run/wandb").glob("offline-run-*/*.wandb")}
        assert len(ids) == 1


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
def test_what_a_killed_process_had_logged_after_its_checkpoint_is_not_there_twice(kind, whole, forked_cli, tmp_path):
    fit(forked_cli, tmp_path, STEPS, *choice(kind))
    run = tmp_path / "run"
    (run / "checkpoints/iteration=6.ckpt").unlink()  # as if it had been killed before it was written
    (run / "distilled.safetensors").unlink()
    fit(forked_cli, tmp_path, STEPS, *choice(kind), "--ckpt_path", "last")
    found = KINDS[kind](run)
    for name in ("loss", "val/accuracy", "bound/bound"):
        assert found.curves[name] == whole.curves[name], name
    if kind == "TensorBoardLogger":
        assert found.images == whole.images


def test_a_replaced_run_has_curves_of_its_own(forked_cli, tmp_path):
    fit(forked_cli, tmp_path, 2)
    fit(forked_cli, tmp_path, 3, "--overwrite", "true")
    assert logged.tensorboard(tmp_path / "run/lightning_logs/version_0").steps("loss") == [0, 1]
    assert logged.tensorboard(tmp_path / "run/lightning_logs/version_1").steps("loss") == [0, 1, 2]


def test_a_resumed_run_ends_in_the_same_file_and_several_loggers_go_on(forked_cli, tmp_path):
    (tmp_path / "both.yaml").write_text(
        "trainer:\n  logger:\n  - class_path: lightning.pytorch.loggers.CSVLogger\n    init_args: {name: numbers}\n"
        "  - class_path: lightning.pytorch.loggers.TensorBoardLogger\n    init_args: {save_dir: elsewhere}\n"
    )
    files = []
    for stops in ([STEPS], [3, STEPS]):
        for steps in stops:
            fit(
                forked_cli,
                tmp_path,
                STEPS if len(stops) == 1 else steps,
                "--config",
                "both.yaml",
                "--ckpt_path",
                "last",
            )
        files.append((tmp_path / "run/distilled.safetensors").read_bytes())
        assert logged.of_csv(tmp_path / "run/numbers/version_0").steps("loss") == list(range(STEPS))
        assert logged.tensorboard(tmp_path / "elsewhere" / LOGS).steps("loss") == list(range(STEPS))
        shutil.rmtree(tmp_path / "run")
        shutil.rmtree(tmp_path / "elsewhere")
    assert files[0] == files[1]


def test_eval_shows_its_results_in_all_loggers_that_it_is_given(forked_cli, tmp_path):
    fit(forked_cli, tmp_path, 1, "--trainer.logger", "false")
    assert not (tmp_path / "run/lightning_logs").exists()
    kinds = [kind for kind in KINDS if importlib.util.find_spec(PACKAGES.get(kind, "csv"))]
    folders = dict.fromkeys(kinds, tmp_path / "logs") | {"CSVLogger": tmp_path / "numbers"}
    words = []
    for kind in kinds:
        words += [f"--trainer.logger+={kind}", *OPTIONS.get(kind, [])]
        words += ["--trainer.logger.save_dir", "numbers"] if kind == "CSVLogger" else []
    done = forked_cli.run(
        "eval", *QUICK[:8], *words, "--trainer.default_root_dir", "logs", "--distilled", "run", "--baselines",
        "[random]", "--evaluation.epochs", 2, "--evaluation.num_networks", 1, "--evaluation.network.width", 4,
        "--figures", "true", cwd=tmp_path, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.rglob("results.json")
    folders = {kind: results.parent if folder == tmp_path / "logs" else folder for kind, folder in folders.items()}
    runs = json.loads(results.read_text())["runs"]
    assert len(runs) == 2
    for kind in kinds:
        found = KINDS[kind](folders[kind])
        for run in runs:
            ((step, accuracy),) = found.curves[f"accuracy/{run['network']}/{run['training_set']}/{run['variant']}"]
            assert (step, accuracy) == (0, pytest.approx(run["accuracy"]["mean"])), kind
            part = f"{run['network']}_{run['training_set']}"
            assert found.steps(f"{part}/train/loss") == [0, 1], kind
            assert len(found.steps(f"{part}/test/accuracy")) == 1, kind
        if kind != "CSVLogger":
            assert found.images["report/accuracy"] == found.images["report/images"] == [0], kind
            assert "## Accuracy" in found.texts["results"] and "num_networks: 1" in found.texts["config"], kind


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["CometLogger"], "CometLogger cannot be made (.*comet-ml.*): fix its --trainer.logger options"),
        (["MLFlowLogger", "--trainer.logger.run_id", "12"], "MLFlowLogger cannot start (Run with id=12 not found)"),
    ],
)
def test_a_logger_that_is_not_to_be_had_is_told_in_one_sentence(args, said, forked_cli, tmp_path):
    if args[0] == "MLFlowLogger":
        choice(args[0])
    done = fit(forked_cli, tmp_path, 2, "--trainer.logger", *args, code=2)
    assert re.search(said.replace("(", r"\(").replace(")", r"\)"), done.stderr)
    assert "Traceback" not in done.stderr


def test_a_printed_configuration_holds_wherever_the_run_lies(forked_cli, tmp_path):
    done = fit(forked_cli, tmp_path, 2, "--trainer.logger", "CSVLogger", "--print_config")
    assert "save_dir: ${trainer.default_root_dir}" in done.stdout
    (tmp_path / "printed.yaml").write_text(done.stdout)
    fit(forked_cli, tmp_path, 2, "--config", "printed.yaml")
    assert (tmp_path / "run" / LOGS / "metrics.csv").is_file()
