"""Families of methods on the command line: how one is chosen, what its options are, and what is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bacon_pl.cli import main
from bacon_pl.commands.families import BASE, DEFAULT, class_path, known
from bacon_pl.commands.renamed import new_option, new_value, sentence
from bacon_pl.distilled_set import DistilledSet

MODULE = "families_of_mine"
SOURCE = f"""
from abc import ABC, abstractmethod

from {DEFAULT.__module__} import {DEFAULT.__name__} as Family
from {BASE.__module__} import {BASE.__name__} as Base


class Patient(Family):
    '''One of its own.

    Args:
        ipc: Images per class.
        factor: Tiles.
        patience: How patient it is.
    '''

    def __init__(self, ipc: int = 10, factor: int = 1, patience: int = 3, seed: int = 0) -> None:
        super().__init__(ipc=ipc, factor=factor, seed=seed)
        self.patience = patience


class Whole(Family):
    def __init__(self, patience: int = 3, **kwargs) -> None:
        super().__init__(**kwargs)


class Seedless(Family):
    def __init__(self, ipc: int = 10) -> None:
        super().__init__(ipc=ipc)


class Unfinished(Family, ABC):
    @abstractmethod
    def missing(self): ...


class Stranger(Base):
    def __init__(self, lr: float = 1.0, width: int = 2, **kwargs) -> None:
        super().__init__(**kwargs)

    def iterate(self, batch): ...


class NoFamily: ...
"""
QUICK = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary",
         "false", "--trainer.max_steps", "2", "--data.batch_real", "16", "--data.pool_batch", "16",
         "--validation.every_n_steps", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a module of families, which is the working directory."""
    folder = tmp_path_factory.mktemp("place")
    (folder / f"{MODULE}.py").write_text(SOURCE)
    (folder / "broken_of_mine.py").write_text("import no_such_package\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    sys.modules.pop(MODULE, None)


@pytest.fixture(autouse=True)
def _here(place, monkeypatch):
    monkeypatch.chdir(place)


def shown(capsys, *args):
    """The settings that a command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*map(str, args), "--print_config"])
    out, err = capsys.readouterr()
    assert not end.value.code, err
    return yaml.safe_load(out)


def refused(capsys, *args):
    """The sentence that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(map(str, args)))
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(lines) == 1, lines
    return lines[0].partition(": error: ")[2]


def write(place, name, text):
    (place / name).write_text(text)
    return name


PATIENT = {"class_path": f"{MODULE}.Patient", "ipc": 2, "factor": 1, "patience": 7}


@pytest.mark.parametrize(
    "args",
    [
        [f"--model.class_path={MODULE}.Patient", "--model.ipc", 2, "--model.patience", 7],
        ["--model.ipc", 2, "--model.init_args.patience", 7, "--model.class_path", f"{MODULE}.Patient"],
        ["--model", f"{MODULE}.Patient", "--model.ipc=2", "--model.patience=7"],
        ["--model", f"{{class_path: {MODULE}.Patient, init_args: {{ipc: 2}}}}", "--model.patience", 7],
        ["--config", "flat.yaml"],
        ["--config", "nested.yaml"],
        ["--config", f"model: {MODULE}.Patient\n", "--model.ipc", 2, "--model.patience", 7],
        ["--model", "section.yaml"],
    ],
)
def test_every_way_to_choose_a_family_gives_the_same(args, place, capsys):
    write(place, "flat.yaml", f"model: {{class_path: {MODULE}.Patient, ipc: 2, patience: 7}}")
    write(place, "nested.yaml", f"model: {{class_path: {MODULE}.Patient, init_args: {{ipc: 2, patience: 7}}}}")
    write(place, "section.yaml", f"{{class_path: {MODULE}.Patient, ipc: 2, patience: 7}}")
    assert shown(capsys, "fit", *args)["model"] == PATIENT


def test_short_names_of_what_is_imported(capsys):
    assert DEFAULT.__name__ in known() and issubclass(DEFAULT, BASE)
    default = shown(capsys, "fit")["model"]
    assert default["class_path"] == class_path(DEFAULT)
    assert shown(capsys, "fit", "--model", DEFAULT.__name__)["model"] == default
    shown(capsys, "fit", "--model", f"{MODULE}.Patient")
    assert shown(capsys, "fit", "--model", "Patient")["model"]["class_path"] == f"{MODULE}.Patient"
    assert shown(capsys, "fit", "--config", "model: {class_path: Patient}\n")["model"]["patience"] == 3


def test_what_is_printed_builds_the_same_family_again(place, capsys):
    printed = shown(capsys, "fit", "--config", "digits/ipc1", "--model", f"{MODULE}.Patient", "--model.patience", 5)
    write(place, "printed.yaml", yaml.safe_dump(printed))
    assert shown(capsys, "fit", "--config", "printed.yaml") == printed
    assert "model" not in shown(capsys, "eval", "--config", "printed.yaml", "--distilled", "x")


def test_help_lists_the_options_of_that_family_alone(capsys):
    for args in (["--model", f"{MODULE}.Patient", "--help"], ["--help", "--model", f"{MODULE}.Patient"]):
        with pytest.raises(SystemExit):
            main(["fit", *args])
        text = capsys.readouterr().out
        assert "--model.patience" in text and "How patient it is." in text and "--model.class_path" in text
        assert "--model.objective" not in text and "--model.pool" not in text
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = capsys.readouterr().out
    assert "--model.objective" in text and "--model.patience" not in text


def test_a_family_that_hands_on_its_arguments_takes_those_of_its_base(capsys):
    model = shown(capsys, "fit", "--config", "mnist/ipc1", "--model", f"{MODULE}.Whole")["model"]
    assert model["patience"] == 3 and model["ipc"] == 1 and model["pool"]["push_every"] == 5


def test_the_last_layer_chooses_and_loses_no_setting_that_fits(place, capsys):
    write(place, "patient.yaml", f"model: {{class_path: {MODULE}.Patient, patience: 7}}")
    write(place, "back.yaml", f"model: {{class_path: {DEFAULT.__name__}, lr: 3}}")
    model = shown(capsys, "fit", "--config", "mnist/ipc1", "--config", "patient.yaml")["model"]
    assert model == {"class_path": f"{MODULE}.Patient", "ipc": 1, "factor": 2, "patience": 7}
    model = shown(capsys, "fit", "--config", "mnist/ipc1", "--config", "patient.yaml", "--config", "back.yaml")["model"]
    assert (model["class_path"], model["lr"], model["ipc"]) == (class_path(DEFAULT), 3.0, 1)
    # The order of the command line counts, whether files or options stand there.
    args = ["--config", "patient.yaml", "--model", DEFAULT.__name__, "--config", "back.yaml"]
    assert shown(capsys, "fit", *args)["model"]["class_path"] == class_path(DEFAULT)
    args = ["--config", "back.yaml", "--config", "patient.yaml", "--config", "back.yaml"]
    assert shown(capsys, "fit", *args)["model"]["lr"] == 3.0
    args = ["--model", DEFAULT.__name__, "--config", "patient.yaml"]
    assert shown(capsys, "fit", *args)["model"]["class_path"] == f"{MODULE}.Patient"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.lr", "1"], r"unknown option --model.lr: Patient takes no 'lr'\..*`--help` lists all\.$"),
        (["--config", "model: {lr: 1}\n"], "unknown option --model.lr: Patient takes no 'lr'"),
        (["--config", "late.yaml"], r"no 'lr'\. It stands in 'late.yaml'.*: give first --config late.yaml, then"),
        (["--config", "both.yaml"], r"Whole takes no 'patients'.*mean --model.patience\?.*stands in 'both.yaml'\.$"),
        (["--model", f"{MODULE}.Patience"], "cannot import.*no attribute 'Patience'"),
        (["--model", "Patience"], "unknown family of methods 'Patience'.*Known: .*my_module.MyClass works"),
        (["--model", "broken_of_mine.Patient"], "cannot import 'broken_of_mine.Patient'.*no_such_package"),
        (["--model", "no_such_module.Patient"], "cannot import.*No module named 'no_such_module'"),
        (["--model", f"{MODULE}.NoFamily"], f"'{MODULE}.NoFamily' is not a family of methods: give a subclass of"),
        (["--model", f"{MODULE}.Unfinished"], "leaves .*missing.* undefined"),
        (["--model", f"{MODULE}.Seedless"], "Seedless takes no 'seed'.*super"),
        (["--config", "model: {class_path: [1]}\n"], "class_path must be the name of a class"),
        (["--config", "wrong.yaml"], "^'wrong.yaml': unknown family of methods 'Nobody'"),
        (["--model.clas", "x"], "unknown option --model.clas"),
        (["--model"], "--model, or an option within it, needs a value"),
        (["--optimizer", "SGD"], "unknown option --optimizer"),
    ],
)
def test_what_does_not_fit_is_one_sentence(args, says, place, capsys):
    write(place, "late.yaml", "model: {lr: 1}")
    write(place, "both.yaml", f"model: {{class_path: {MODULE}.Whole, patients: 1}}")
    write(place, "wrong.yaml", "model: {class_path: Nobody}")
    found = refused(capsys, "fit", "--model", f"{MODULE}.Patient", *args)
    assert re.search(says, found), found


def test_a_distillation_records_its_family_and_is_not_resumed_as_another(place, tmp_path, capsys):
    given = ["fit", "--config", "digits/ipc1", *QUICK, "--trainer.default_root_dir", str(tmp_path)]
    own = ["--model", f"{MODULE}.Whole", "--model.patience", "9", "--model.network.width", "4"]
    main([*given, *own])
    config = DistilledSet.load(tmp_path).config
    assert (config["model"]["class_path"], config["model"]["patience"]) == (f"{MODULE}.Whole", 9)
    (saved,) = tmp_path.glob("lightning_logs/version_*/config.yaml")
    model = yaml.safe_load(saved.read_text())["model"]
    assert (model["class_path"], model["patience"]) == (f"{MODULE}.Whole", 9)
    (tmp_path / "distilled.safetensors").unlink()
    found = refused(capsys, *given, "--model.network.width", "4", "--trainer.max_steps", "3", "--ckpt_path", "last")
    assert re.search(rf"--model.class_path was {MODULE}.Whole, now [\w.]+\.{DEFAULT.__name__}\b", found), found


def test_a_program_elsewhere_finds_modules_of_the_working_directory(place, tmp_path):
    script = tmp_path / "bacon.py"  # whose folder comes first on the path, as that of the installed script does
    script.write_text("from bacon_pl.cli import main\nmain()\n")
    command = [sys.executable, script, "fit", "--model", f"{MODULE}.Patient", "--print_config"]
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=place, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["model"]["class_path"] == f"{MODULE}.Patient"


def test_eval_leaves_the_model_unread(place, capsys):
    write(place, "strange.yaml", "model: {class_path: nobody.Knows, lam: 3}\ndata: {name: digits}")
    given = ["eval", "--distilled", "x", "--config", "strange.yaml", "--config", "model: Unknown\n"]
    settings = shown(capsys, *given)
    assert settings["data"]["name"] == "digits"
    assert shown(capsys, "eval", "--distilled", "x", "--config", "optimizer: null\nlr_scheduler: null\n")


def test_what_was_meant_for_another_method_is_left_behind(place, capsys):
    write(place, "stranger.yaml", f"model: {{class_path: {MODULE}.Stranger, lr: 7, width: 3, ipc: 5}}")
    model = shown(capsys, "fit", "--config", "stranger.yaml", "--model", DEFAULT.__name__)["model"]
    assert (model["ipc"], model["lr"]) == (5, 0.2)  # ipc is the data's, lr was the other's


# Names of earlier versions.


COMBINED = "[{class_path: MeanMatching}, {class_path: BaconObjective, init_args: {lam: 0.5}}]"


@pytest.mark.parametrize(
    ("command", "given", "says"),
    [
        ("fit", ["--model.objective.lam", "0.5"], "--model.objective.lam .* write --model.objective.tv_weight"),
        ("fit", ["--model.objective.init_args.lam=0.5"], "write --model.objective.tv_weight"),
        ("fit", "model: {objective: {class_path: BaconObjective, init_args: {lam: 0.5}}}", "tv_weight.*'old.yaml'"),
        ("fit", f"model: {{objective: {{class_path: Combined, init_args: {{objectives: {COMBINED}}}}}}}", "tv_weight"),
        ("fit", ["--model.objective", "Bayes"], "'Bayes' .* write BaconObjective"),
        ("fit", "model: {objective: {class_path: bacon_pl.objectives.Bayes}}", "write BaconObjective.*'old.yaml'"),
        ("fit", "model: {bound: {lam: 0.5}}", "write --model.bound.tv_weight.*'old.yaml'"),
        ("eval", ["--bound_settings.lam", "0.5"], "write --bound_settings.tv_weight"),
        ("eval", "bound_settings: {lam: 0.5}", "write --bound_settings.tv_weight.*'old.yaml'"),
        ("eval", ["--baselines", "[random, k_centre]"], "'k_centre' .* write k_center"),
        ("eval", "baselines: [k_centre]", "write k_center.*'old.yaml'"),
        ("fit", ["--data.seed", "3"], "write --seed_everything"),
        ("fit", "data: {seed: 3}", "write --seed_everything.*'old.yaml'"),
        ("eval", "data: {seed: 3}", "write --seed_everything.*'old.yaml'"),
    ],
)
def test_an_old_name_ends_in_a_sentence_with_the_new_one(command, given, says, place, capsys):
    if isinstance(given, str):
        given = ["--config", write(place, "old.yaml", given)]
    found = refused(capsys, command, *given, *(["--distilled", "x"] if command == "eval" else []))
    assert "has been renamed" in found and re.search(says, found), found


def test_the_table_of_old_names():
    everything = {"model.objective.tv_weight", "model.cross_entropy.weight", "model.cross_entropy.accuracy"}
    assert new_option("model.ce_weight", everything.__contains__) == "model.cross_entropy.weight"
    assert new_option("model.ce_accuracy", everything.__contains__) == "model.cross_entropy.accuracy"
    assert new_option("model.objective.objectives.lam", everything.__contains__) == (
        "model.objective.objectives.tv_weight"
    )
    assert new_option("model.ce_weight", lambda name: False) is None  # not before the new name is there
    assert new_option("model.lam", everything.__contains__) is None
    assert new_value("model.class_path", "bacon_pl.distillers.module.DistillModule") == "DistributionMatching"
    assert new_value("model.objective", "mine.Bayes") is None  # somebody's own
    given = [("model.objective.lam", 0.5)]
    assert sentence(given, "MyObjective takes no 'lamb'", lambda name: False) is None
    assert sentence(given, None, lambda name: True) is None  # nothing was refused
