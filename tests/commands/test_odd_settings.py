"""Settings that are of another form than they should be, and families that lack what others have."""

import re

import pytest
import yaml

from bacon_pl import config_files
from bacon_pl.cli import main

FAMILY = """
from bacon_pl.distillers import Distiller


class Plain(Distiller):
    def iterate(self, batch):
        pass


class Stubborn(Plain):
    def __init__(self, ipc: int = 1, seed: int = 0):
        raise ValueError("no")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with families of one's own, where a user stands."""
    (tmp_path / "odd_families.py").write_text(FAMILY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def refused(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    assert end.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(said) == 1
    return said[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data: 3", "--data must be settings by name"),
        ("validation: null", "--validation must be settings by name"),
        ("model: 3", "model must be settings or the name of a class, got 3"),
        ("model: [1, 2]", "model must be settings or the name of a class"),
        ("model: {pool: null}", "--model.pool|DistributionMatching cannot be made of its settings"),
        (
            "model: {cross_entropy: {weight: 0}}",
            "--model.cross_entropy.weight must be positive.*null leaves",
        ),
        ("model: {class_path: odd_families.Stubborn, ipc: 1}", "Stubborn cannot be made of its settings"),
    ],
)
def test_settings_of_another_form_are_one_sentence(place, capsys, text, sentence):
    (place / "odd.yaml").write_text(text + "\n# a comment\n")
    assert re.search(sentence, refused(capsys, "fit", "--config", "digits/ipc1", "--config", "odd.yaml"))
    assert not (place / "runs").exists()


def test_a_budget_of_the_packages_goes_with_a_family_that_has_no_network(place, capsys):
    (place / "plain.yaml").write_text("model: {class_path: odd_families.Plain}\n")
    args = ["fit", "--config", "digits/ipc1", "--config", "plain.yaml", "--config", "budgets/small", "--print_config"]
    with pytest.raises(SystemExit) as end:
        main(args)
    assert not end.value.code
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["model"]["class_path"] == "odd_families.Plain" and "network" not in settings["model"]
    assert settings["trainer"]["max_steps"] == 200
    # A user's own file says what it means.
    (place / "mine.yaml").write_text("model: {network: ConvNet}\n")
    assert "Plain takes no 'network'" in refused(capsys, *args[:5], "--config", "mine.yaml")


def test_a_copy_is_the_run_that_it_is_a_copy_of(place, capsys):
    (place / "mine.yaml").write_text("extends: [mnist/ipc10, methods/tiles]\n")
    main(["configs", "copy", "mine.yaml", "copy.yaml"])
    printed = []
    for name in ("mine.yaml", "copy.yaml"):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["fit", "--config", name, "--print_config"])
        printed.append(yaml.safe_load(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert (
        printed[0]["model"]["factor"] == 2 and "flip" not in printed[0]["model"]["augment"]["init_args"]["strategies"]
    )


def test_nothing_to_run_leaves_a_table_as_it_was(place, capsys):
    said = refused(capsys, "table", "--datasets", "mnist", "--ipcs", "3", "--budget", "small", "--out", "out")
    assert "there is nothing to run: mnist, ipc 3" in said and not (place / "out").exists()


def test_own_configurations_are_told_from_others(place):
    (layer,) = config_files.layers("methods/idm")
    assert config_files.is_own(layer)
    (place / "mine.yaml").write_text("model: {ipc: 1}\n")
    assert not config_files.is_own(config_files.layers("mine.yaml")[0])
