"""The wheel, unpacked without the checkout: it has every module and configuration, and its commands run anywhere."""

import configparser
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
QUICK = ["--model.network.width", "4", "--trainer.max_steps", "2", "--trainer.accelerator", "cpu",
         "--trainer.enable_model_summary", "false"]  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which the wheel, built from a copy of the sources, was installed."""
    top = tmp_path_factory.mktemp("wheel")
    source = top / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("bacon_pl", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", ".", *offline, "--no-build-isolation", "-w", top], cwd=source, check=True)
    (wheel,) = top.glob("*.whl")
    subprocess.run([*pip, "install", wheel, *offline, "--target", top / "target"], cwd=top, check=True)
    shutil.rmtree(source)
    return top / "target"


def run(installed, folder, *args):
    """A program in a folder of its own, with nothing of the checkout on its path; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_of_packages_is_complete():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    assert sorted(listed) == sorted([*find_packages(str(ROOT), include=["bacon_pl*"]), "bacon_pl.configs"])


def test_it_has_every_file(installed):
    for folder, inside in ((ROOT / "bacon_pl", "bacon_pl"), (ROOT / "configs", "bacon_pl/configs")):
        wanted = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        wanted = {path for path in wanted if path.suffix != ".pyc"}
        there = {path.relative_to(installed / inside) for path in (installed / inside).rglob("*")}
        assert not wanted - there


def test_its_commands_run_in_an_empty_folder(installed, tmp_path):
    where = Path(run(installed, tmp_path, "-c", "import bacon_pl; print(bacon_pl.__file__)").strip())
    assert installed in where.parents
    assert "digits/ipc1" in run(installed, tmp_path, "-m", "bacon_pl", "configs")
    run(installed, tmp_path, "-m", "bacon_pl", "fit", "--config", "digits/ipc1", *QUICK,
        "--validation.every_n_steps", "0")  # fmt: skip
    assert (tmp_path / "runs/digits-ipc1/distilled.safetensors").is_file()
    out = run(installed, tmp_path, "-m", "bacon_pl", "table", "--datasets", "digits", "--ipcs", "1", "--budget",
              "small", "--repeats", "1", "--methods", "bacon", "--jobs", "1", *QUICK, "--evaluation.network.width",
              "4", "--evaluation.num_networks", "1", "--evaluation.epochs", "1",
              "--validation.every_n_steps", "0")  # fmt: skip
    assert "resolving the settings of 1 cell " in out
    table = tmp_path / "runs/table-small"
    (row,) = csv.DictReader((table / "table.csv").read_text().splitlines())
    assert (row["method"], row["repeats"], row["reason"]) == ("bacon", "1", "")
    config = json.loads((table / "digits-ipc1/bacon/seed0/results.json").read_text())["config"]
    assert config["data"]["name"] == "digits"
