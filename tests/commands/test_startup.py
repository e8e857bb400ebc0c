"""Short commands and early errors do not load torch, and the help shows the package's own options first."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bacon_pl.cli import main
from bacon_pl.commands.early import OPTIONS
from bacon_pl.commands.evaluate import Eval
from bacon_pl.commands.fit import Fit
from tests.paths import DIGITS, ROOT

SLOW = ["lightning", "matplotlib", "scipy", "sklearn", "tensorboard", "torch", "torchmetrics", "torchvision"]


def python(code, *arguments, cwd=ROOT):
    """Run code in a new interpreter, in which a warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )


def loaded(done):
    """Of the packages that are slow to load, those that an interpreter has loaded in the end."""
    return set(re.findall(r"\w+", done.stdout.rpartition("loaded:")[2]))


COUNT = f"print('loaded:', *sorted(set({SLOW}) & set(sys.modules)))"
RUN = f"""
import sys
from bacon_pl.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print('status', end.code)
{COUNT}
"""


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("--help", "usage: bacon COMMAND"),
        ("", "usage: bacon COMMAND"),
        ("--version", "bacon_pl "),
        ("fitt", "unknown command 'fitt'; the commands are fit, eval"),
        ("configs", "mnist/ipc10"),
        ("configs mnist", "mnist/ipc10"),
        ("fit", r"no configuration is given: add --config NAME.*`bacon configs`"),
        ("fit --data.name digits", "no configuration is given"),
        ("fit --confg digits/ipc1", r"unknown option --confg\. Did you mean --config\?"),
        ("fit --config digits/ipc1 --trainr.max_steps 3", r"Did you mean --trainer\.max_steps\?"),
        ("fit --config mnist/ipc", "unknown configuration 'mnist/ipc'. Did you mean 'mnist/ipc1'"),
        ("fit --config=no/such.yaml", "the file does not exist: 'no/such.yaml'"),
        ("fit -c no/such.yaml", "the file does not exist: 'no/such.yaml'"),
        ("fit -cno/such.yaml", "the file does not exist: 'no/such.yaml'"),
        ("eval", "--distilled is missing"),
        ("eval --config digits/ipc1", "--distilled is missing"),
        ("eval --config digits/ipc1 --distiled runs", r"Did you mean --distilled\?"),
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(command, says):
    done = python(RUN, *command.split())
    assert done.returncode == 0, done.stderr
    assert re.search(says, done.stdout + done.stderr), done.stdout + done.stderr
    good = command in ("", "--help", "--version") or command.startswith("configs")
    assert ("status 2" in done.stdout) is not good
    assert loaded(done) == set()


def test_a_set_is_read_with_torch_and_torchvision_alone():
    done = python(f"import sys\nfrom bacon_pl import DistilledSet\n{COUNT}")
    assert done.returncode == 0, done.stderr
    assert loaded(done) == {"torch", "torchvision"}
    done = python("import bacon_pl, sys; print('loaded:', *{'torch', 'yaml', 'jsonargparse'} & set(sys.modules))")
    assert loaded(done) == set()


def test_a_set_is_converted_without_lightning(tmp_path):
    done = python(RUN, "convert", tmp_path / "a", tmp_path / "b")
    assert "there is no distilled set" in done.stderr
    assert loaded(done) <= {"torch", "torchvision"}


@pytest.mark.parametrize("command", [Fit, Eval])
def test_the_names_known_beforehand_are_those_of_the_parsers(command, capsys):
    given = ["--config", str(DIGITS)] + (["--distilled", "x"] if command is Eval else [])
    parser = command([*given, "--trainer.logger", "false"]).parser
    first = {name.lstrip("-").rstrip("+").partition(".")[0] for name in parser._option_string_actions}
    assert first - {"c", "h"} <= set(OPTIONS)


@pytest.mark.parametrize(
    "arguments",
    [
        "--model.lr 1",  # what is wrong with it is told first
        "--data.seed 1",
        "--trainer.max_steps 1",  # whatever else there is has a default
        "--trainer {max_steps: 1}",
        "--trainer.fast_dev_run=true",
        "--conf_is_far_from_it 1",
        "--root x",  # the parser's hint, --data.root, is better than a near first word
        "--help",
        "--config digits/ipc1 --config {data: {name: digits}}",
    ],
)
def test_what_is_doubtful_is_left_to_the_parser(arguments):
    from bacon_pl.commands import early

    words = ["--config", "digits/ipc1"] if arguments.startswith(("--root", "--conf_")) else []
    early.check("fit", [*words, *re.findall(r"{.*}|\S+", arguments)])


def test_what_can_be_read_only_once_is_left_alone(tmp_path):
    from bacon_pl.commands import early

    early.check("eval", ["--config", "/dev/stdin"])
    early.check("eval", ["--config", "https://example.org/x.yaml"])
    file = tmp_path / "all.yaml"
    file.write_text("distilled: runs/digits-ipc1\n")
    early.check("eval", ["--config", str(file)])


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sections"),
    [
        ("fit", ("-c CONFIG", "--data.name", "--model.ipc", "--image_grid.", "--validation.", "--checkpoint.")),
        ("eval", ("-c CONFIG", "--data.name", "--evaluation.network")),
    ],
)
def test_help_begins_with_what_is_ours_and_ends_with_the_trainer(monkeypatch, command, sections):
    monkeypatch.setenv("COLUMNS", "80")
    # In a new interpreter: here, help would also list the classes that other tests have defined.
    done = subprocess.run(
        [sys.executable, "-m", "bacon_pl", command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert text.startswith(f"usage: bacon {command} --config NAME [--OPTION VALUE ...]\n\n")
    places = [text.index(f"\n  {section}") for section in sections] + [text.index("Lightning's Trainer:")]
    assert places == sorted(places)
    trainer = text[places[-1] :]
    assert len(trainer.splitlines()) < 10
    assert "--trainer.help shows all" in trainer and "--trainer.max_steps" in trainer
    assert len(text.splitlines()) < 450


def test_all_of_the_trainers_options_are_shown_when_asked_for(capsys):
    text = said(capsys, "fit", "--trainer.help")
    assert text.startswith("usage: bacon fit --trainer.OPTION VALUE ...")
    for option in ("max_steps", "gradient_clip_val", "num_sanity_val_steps", "plugins"):
        assert f"  --trainer.{option} " in text
    assert "--data.name" not in text
    assert re.search(r"--trainer\.max_epochs.*?default: 1\)", text, re.DOTALL), "ours takes the place of Lightning's"


def test_what_help_leaves_out_still_is_an_option(tmp_path):
    run = Fit(["--config", str(DIGITS), "--trainer.num_sanity_val_steps", "7", "--trainer.logger", "false"])
    assert run.config.trainer.num_sanity_val_steps == 7
    assert run.config.trainer.max_epochs == 1
    before = run.parser.format_usage()
    assert "--trainer.num_sanity_val_steps" in before
    run.parser.format_help()
    assert run.parser.format_usage() == before


def test_the_help_of_one_class_is_the_commands(capsys):
    text = said(capsys, "fit", "--model.objective.help", "BaconObjective")
    assert text.startswith("usage: bacon fit [--model.objective.tv_weight")


@pytest.mark.slow
def test_warnings_may_be_errors(tmp_path):
    small = ["--config", DIGITS, "--trainer.default_root_dir", tmp_path / "run", "--trainer.accelerator", "cpu"]
    for command in (
        ["fit", *small, "--model.network.width", 4, "--trainer.max_steps", 2,
         "--validation.every_n_steps", 1, "--validation.epochs", 1],
        ["eval", *small, "--distilled", tmp_path / "run", "--evaluation.network.width", 4, "--evaluation.epochs", 1,
         "--evaluation.num_networks", 1],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "bacon_pl", *map(str, command)],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert Path(tmp_path, "run/distilled.safetensors").is_file()
