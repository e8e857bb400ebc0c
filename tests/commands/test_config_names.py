"""Configurations by name, what they extend, the list of them, and copies to edit."""

import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from bacon_pl import config_files
from bacon_pl.cli import main
from bacon_pl.config_files import Layer, layers, names
from bacon_pl.errors import BaconError
from bacon_pl.settings_text import laid_over
from tests.thinned import thinned

NAMES = names()
SCHEDULES = [name for name in NAMES if re.fullmatch(r"(?!schedules)\w+/ipc\d+", name)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, command, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([command, *map(str, args), *(["--distilled", "x"] if command == "eval" else []), "--print_config"])
    out, err = capsys.readouterr()
    assert not end.value.code, err
    return yaml.safe_load(out)


def refused(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(map(str, args)))
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("command", ["fit", "eval"])
def test_a_name_means_the_packages_file_in_every_folder(command, capsys):
    file = config_files.folder() / "mnist/ipc10.yaml"
    by_path = printed(capsys, command, "--config", file)
    assert by_path["data"]["name"] == "mnist"
    for given in (["--config", "mnist/ipc10"], ["--config=mnist/ipc10.yaml"], ["-c", "mnist/ipc10"], ["-cmnist/ipc10"]):
        assert printed(capsys, command, *given) == by_path
    settings = printed(capsys, command, "--config", "mnist/ipc10", "--config", "budgets/small")
    assert settings["data"]["batch_real"] == 128


def test_a_file_of_exactly_that_path_wins(tmp_path, capsys):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/ipc10").write_text("data: {name: digits}")
    assert printed(capsys, "fit", "--config", "mnist/ipc10")["data"]["name"] == "digits"
    assert printed(capsys, "fit", "--config", "mnist/ipc1")["data"]["name"] == "mnist"


def test_options_and_files_keep_their_order(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("model: {lr: 3.0, ipc: 4}")
    args = ["--model.ipc", 7, "--config", "mine.yaml", "--model.lr", "5", "--config", "model: {momentum: 1e-1}\n"]
    model = printed(capsys, "fit", *args)["model"]
    assert (model["ipc"], model["lr"], model["momentum"]) == (4, 5.0, 0.1)


def test_values_are_read_as_the_command_line_reads_them(tmp_path, capsys):
    (tmp_path / "net.yaml").write_text("class_path: ConvNet\ninit_args: {width: 7}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/mine.yaml").write_text(
        "data: {root: 's3://bucket/a', name: 'digits'}\nmodel: {lr: 1e-3, method: '1e-3', network: ../net.yaml}\n"
        "trainer: {max_time: '00:12:00:00'}\n"
    )
    settings = printed(capsys, "fit", "--config", "sub/mine.yaml")
    assert (settings["model"]["lr"], settings["model"]["method"]) == (0.001, "1e-3")
    assert settings["model"]["network"]["init_args"]["width"] == 7
    assert settings["data"]["root"] == "s3://bucket/a" and settings["trainer"]["max_time"] == "00:12:00:00"


# What a file extends.


def test_a_file_of_ones_own_extends_names_and_files_beside_it(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/base.yaml").write_text("extends: mnist/ipc10\nmodel: {lr: 3.0, ipc: 4}")
    (tmp_path / "sub/mine.yaml").write_text("extends: [base.yaml, methods/idm]\nmodel: {ipc: 5}")
    for command in ("fit", "eval"):
        assert printed(capsys, command, "--config", "sub/mine.yaml")["data"]["name"] == "mnist"
    model = printed(capsys, "fit", "--config", "sub/mine.yaml")["model"]
    assert (model["ipc"], model["lr"], model["method"]) == (5, 3.0, "idm")
    assert printed(capsys, "fit", "--config", "extends: svhn/ipc1\nmodel: {ipc: 9}\n")["model"]["ipc"] == 9


def test_what_two_files_extend_is_read_once(tmp_path):
    for name, text in {
        "base": "model: {lr: 1, ipc: 1}", "left": "extends: base.yaml\nmodel: {lr: 2}",
        "right": "extends: base.yaml\nmodel: {momentum: 0}", "top": "extends: [left.yaml, right.yaml]",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(text)
    found = layers("top.yaml")
    assert [layer.path.stem for layer in found] == ["base", "left", "right", "top"]
    assert found[-1] == Layer("top.yaml", {}, Path("top.yaml"))


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"mine": "extends: other.yaml", "other": "extends: mine.yaml"}, "circle.*'mine.yaml' → 'other.yaml' → 'mine"),
        ({"mine": "extends: mine.yaml"}, "circle.*'mine.yaml' → 'mine.yaml'"),
        ({"mine": "extends: mnist/ipc11"}, "`extends` in 'mine.yaml'.*'mnist/ipc11'.*Did you mean 'mnist/ipc1'"),
        ({"mine": "extends: base.yaml"}, "`extends` in 'mine.yaml': the file does not exist: 'base.yaml'"),
        ({"mine": "extends: {a: 1}"}, "`extends` in 'mine.yaml' must be a name or a list of names"),
        ({"mine": "extends: [1]"}, "must be a name or a list of names"),
        ({"mine": "- a"}, "'mine.yaml' is not YAML with settings"),
        ({"mine": "model: {ipc: ten}"}, r"--model.ipc must be a whole number, got ten\. It stands in 'mine.yaml'\.$"),
        ({"mine": "extends: other.yaml", "other": "model: {ipk: 1}"}, "--model.ipk.*It stands in 'other.yaml'"),
        ({"mine": "extends: mnist/ipc10\nevaluation: {}\ndata: {nam: x}"}, "--data.nam.*It stands in 'mine.yaml'"),
    ],
)
def test_bad_files_are_one_sentence(texts, says, tmp_path, capsys):
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    found = refused(capsys, "fit", "--config", "mine.yaml")
    assert re.search(says, found), found


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mnist/ipc11", "unknown configuration 'mnist/ipc11'. Did you mean 'mnist/ipc1'.*YAML file works, too"),
        ("configs/mnist/ipc10.yaml", "the file does not exist: 'configs/mnist/ipc10.yaml'.*Did you mean 'mnist/ipc10'"),
        ("../methods/idm", "does not exist"),
        ("mnist/../mnist/ipc10", "unknown configuration"),
        (".", "'.' is a folder, not a file"),
        ("{a", "the text is not YAML"),
        ("[1]\n", "the text is not YAML with settings"),
        ("nowhere://bucket/mine.yaml", "cannot read 'nowhere://bucket/mine.yaml'"),
    ],
)
def test_unknown_configurations_are_one_sentence(given, says, capsys):
    found = refused(capsys, "fit", "--config", given)
    assert re.search(f"--config: .*{says}", found), found


# The package's own files.


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_in_one_line_what_it_is(name):
    line = config_files.headline(config_files.folder() / f"{name}.yaml")
    assert 20 < len(line) < 130 and line[-1] in ".:", line


def test_no_schedule_repeats_what_it_extends():
    for name in SCHEDULES:
        *below, own = layers(name)
        merged = {}
        for layer in below:
            merged = laid_over(merged, layer.settings)
        said, known = (dict(leaves(tree)) for tree in (own.settings, merged))
        assert not {key for key in said if known.get(key) == said[key]}, name


def leaves(tree, path=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


def test_configs_lists_every_name_without_importing_torch(capsys):
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert any(re.fullmatch(r"mnist/ipc10 +BACON on MNIST, 10 images per class.*", line) for line in lines)
    main(["configs", "mnist", "methods/idm"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "methods/idm", "mnist/ipc1", "mnist/ipc10", "mnist/ipc50"
    ]  # fmt: skip
    main(["configs", "--help"])
    assert "bacon configs copy NAME" in capsys.readouterr().out


@pytest.mark.parametrize("name", thinned(NAMES, every=4))
def test_a_copy_says_what_it_is_run_with(name, capsys):
    main(["configs", "copy", name, "my copy.yaml"])
    command = capsys.readouterr().out.partition("bacon fit ")[2]
    below = [] if name in SCHEDULES or name == "digits/ipc1" else ["--config", "mnist/ipc10"]
    assert shlex.split(command) == [*below, "--config", "my copy.yaml"]
    assert printed(capsys, "fit", *shlex.split(command))["trainer"]["max_steps"] > 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope", "NAME: unknown configuration 'nope'"),
        ("{model: {ipc: 1}}", "give a name that `bacon configs` lists, or"),
    ],
)
def test_what_cannot_be_copied_is_said_once(name, said, capsys):
    found = refused(capsys, "configs", "copy", name)
    assert found.startswith(f"bacon configs: error: {said}") and "bacon configs copy" not in found


def test_configs_is_fast():
    import subprocess

    code = "import sys; from bacon_pl.cli import main; main(['configs']); sys.exit('torch' in sys.modules)"
    path = str(Path(__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, stdout=-3).returncode == 0


@cache
def _copied(folder, name):
    main(["configs", "copy", name, str(folder)])
    return folder / f"{name.replace('/', '-')}.yaml"


@pytest.mark.parametrize("name", ["cifar10/ipc50", "digits/ipc1", "methods/dm+bacon", "ablation/lambda-0.2"])
def test_a_copy_stands_alone_and_means_the_same(name, tmp_path, capsys):
    copy = _copied(tmp_path, name)
    assert f"wrote {copy}" in (said := capsys.readouterr().out) and f"--config {copy}\n" in said
    text = copy.read_text()
    assert "extends" not in yaml.safe_load(text) and text.startswith("# ") and f"copy of {name}" in text
    assert config_files.headline(copy) == config_files.headline(config_files.folder() / f"{name}.yaml")
    below = [] if name in SCHEDULES else ["--config", "mnist/ipc10"]
    for command in ("fit", "eval"):
        assert printed(capsys, command, *below, "--config", copy) == printed(capsys, command, *below, "--config", name)


def test_a_copy_never_overwrites(tmp_path, capsys):
    main(["configs", "copy", "mnist/ipc10"])
    assert (tmp_path / "mnist-ipc10.yaml").is_file()
    (tmp_path / "mnist-ipc10.yaml").write_text("mine")
    assert "'mnist-ipc10.yaml' is there already" in refused(capsys, "configs", "copy", "mnist/ipc10")
    assert (tmp_path / "mnist-ipc10.yaml").read_text() == "mine"
    main(["configs", "copy", "mnist/ipc10", "new/mine.yaml"])
    assert (tmp_path / "new/mine.yaml").is_file()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["copy"], "give a name"),
        (["copy", "mnist/ipc10", "a", "b"], "give a name"),
        (["copy", "mnist/ipc11"], "unknown configuration 'mnist/ipc11'. Did you mean 'mnist/ipc1'"),
        (["copy", "mnist/ipc10", "/proc/no/such.yaml"], "cannot write '/proc/no/such.yaml'"),
        (["mnits"], "no configuration is called 'mnits'"),
        (["--all"], "unknown option --all"),
    ],
)
def test_mistakes_with_configs_are_one_sentence(args, says, capsys):
    assert says in refused(capsys, "configs", *args)


OF_DATA = """
model: {lr: 1.0, momentum: 0.25}
for:
  mnist: {model: {lr: 2.0}, evaluation: {lr: 0.5}}
  mnist/ipc10: {model: {lr: 3.0}}
"""


@pytest.mark.parametrize(("schedule", "lr"), [("cifar10/ipc10", 1.0), ("mnist/ipc1", 2.0), ("mnist/ipc10", 3.0)])
def test_settings_for_data_are_laid_over_those_of_their_file(schedule, lr, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(OF_DATA)
    (tmp_path / "above.yaml").write_text("extends: mine.yaml\nmodel: {momentum: 0.75}")
    model = printed(capsys, "fit", "--config", schedule, "--config", "mine.yaml")["model"]
    assert (model["lr"], model["momentum"]) == (lr, 0.25)
    model = printed(capsys, "fit", "--config", schedule, "--config", "above.yaml", "--model.lr", 7)["model"]
    assert (model["lr"], model["momentum"]) == (7.0, 0.75)
    evaluation = printed(capsys, "eval", "--config", schedule, "--config", "above.yaml")["evaluation"]
    assert evaluation["lr"] == (0.5 if lr > 1 else 0.01)
    before = printed(capsys, "fit", "--config", "mine.yaml", "--config", schedule)["model"]
    assert before["momentum"] == 0.5 and before["lr"] == 0.2  # what the schedule says later


def test_a_copy_keeps_settings_for_data(tmp_path, capsys):
    main(["configs", "copy", "methods/ncfm", "mine.yaml"])
    for schedule in ("cifar100/ipc10", "tiny_imagenet/ipc10"):
        own, copied = (
            printed(capsys, "fit", "--config", schedule, "--config", c) for c in ("methods/ncfm", "mine.yaml")
        )
        assert own == copied


@pytest.mark.parametrize("section", ["for: 3", "for: {mnist: 3}", "for: [mnist]", "for:"])
def test_settings_for_data_must_be_settings(section, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(f"model: {{lr: 1.0}}\n{section}")
    said = refused(capsys, "fit", "--config", "mnist/ipc10", "--config", "mine.yaml")
    assert "`for` in 'mine.yaml' must hold settings by the name of a dataset" in said


def test_a_package_without_its_configurations_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(config_files, "__file__", str(tmp_path / "bacon_pl/config_files.py"))
    with pytest.raises(BaconError, match="configurations are missing"):
        config_files.folder()
    (tmp_path / "bacon_pl/configs/methods").mkdir(parents=True)  # as a wheel lays them out
    assert config_files.folder() == tmp_path / "bacon_pl/configs"


def test_a_copy_has_the_class_that_a_file_below_names(tmp_path, capsys):
    (tmp_path / "below.yaml").write_text("evaluation: {network: MLP}")
    (tmp_path / "mine.yaml").write_text("extends: below.yaml\nevaluation: {network: {width: 8}}")
    main(["configs", "copy", "mine.yaml", "copy.yaml"])
    one, other = (
        printed(capsys, "eval", "--config", file)["evaluation"]["network"] for file in ("mine.yaml", "copy.yaml")
    )
    assert one == other and one["class_path"].endswith("MLP") and one["init_args"]["width"] == 8
