"""The parts of the proof: the command of each, and how its numbers are read."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bacon_pl.distilled_set import FILE_NAME
from benchmarks.proof import clock
from benchmarks.proof.place import Place, data_words, digest
from benchmarks.workload import Settings

ITERATIONS, SMALL_ITERATIONS = 20_000, 20
NETWORKS, EPOCHS = 5, 1000

Numbers = dict[str, Any]
Kept = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: Its name.
        title: What it does.
        least: Seconds without which it is not started. They are guesses, for no GPU has run it yet.
        command: Its command line, for a place and the seconds after which it is stopped.
        read: Reads its numbers. It may find what an earlier start has left, or nothing.
        whole: Whether these numbers are all.
        blocked: Why it is not run, from the place and the outcomes so far; empty if it is.
        resumes: Whether it goes on where it was stopped.
        code: Folders besides the measured code on which it depends.
    """

    name: str
    title: str
    least: float
    command: Callable[[Place, float], list[str]]
    read: Callable[[Place], Numbers]
    whole: Callable[[Numbers], bool] = bool
    blocked: Callable[[Place, Kept], str] = lambda place, kept: ""
    resumes: bool = False
    code: tuple[str, ...] = ()


# Tests.


def _tests(place: Place, seconds: float) -> list[str]:
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--strict-markers",
    ]
    words += [f"--junitxml={place.folder / 'tests' / 'tests.xml'}", "tests/gpu"]
    return [*words, "-k", "dc or iid-alone"] if place.small else words


def _read_tests(place: Place) -> Numbers:
    try:
        suite = ET.parse(place.folder / "tests" / "tests.xml").getroot().find("testsuite")
    except (OSError, ET.ParseError):
        return {}
    if suite is None:
        return {}
    failed = {
        f"{case.get('classname')}::{case.get('name')}": (bad.get("message") or "").splitlines()[:1]
        for case in suite.iter("testcase")
        for bad in [*case.findall("failure"), *case.findall("error")]
    }
    skipped, count = int(suite.get("skipped", 0)), int(suite.get("tests", 0))
    return {"passed": count - skipped - len(failed), "skipped": skipped, "failed": failed}


def _no_pytest(place: Place, kept: Kept) -> str:
    lacking = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    return f"this Python lacks {' and '.join(lacking)}" if lacking else ""


# The yardstick.


def _settings(place: Place) -> Settings:
    if place.small:
        return Settings(
            "cpu" if place.device == "cpu" else "cuda", "synthetic", classes=2, image_size=16, ipc=2, width=4,
            batch_real=8, pool_batch=8, train_steps=1, acceleration="off",
        )  # fmt: skip
    dataset: Any = "synthetic" if place.dataset == "random" else place.dataset
    return Settings("cuda" if place.device == "cuda" else "cpu", dataset, place.root)


def _yardstick(part: str, suite: str, *more: str, small: tuple[str, ...] = ()) -> Callable[[Place, float], list[str]]:
    def words(place: Place, seconds: float) -> list[str]:
        s, out = _settings(place), []
        for name in ("device", "dataset", "root", "ipc", "width", "acceleration", *(_TOY if place.small else ())):
            out += [f"--{name.replace('_', '-')}", str(getattr(s, name))]
        out += [*(("--quick", *small) if place.small else more), "--out", str(place.folder / part)]
        return [sys.executable, "benchmarks/run.py", "--suite", suite, *out]

    return words


_TOY = ("classes", "image_size", "batch_real", "pool_batch", "train_steps")


def _read_yardstick(part: str, suite: str) -> Callable[[Place], Numbers]:
    def numbers(place: Place) -> Numbers:
        s = _settings(place)
        path = place.folder / part / f"{suite}-{s.dataset}-ipc{s.ipc}-width{s.width}-{s.device}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    return numbers


# Evaluation of a thousand epochs.


def _thousand(place: Place, seconds: float) -> list[str]:
    given = {
        "settings": asdict(_settings(place)),
        "networks": 2 if place.small else NETWORKS,
        "epochs": 20 if place.small else EPOCHS,
        "every": 2 if place.small else 20,
        "limit": max(seconds - 40, 5),  # for the start and the last block
        "path": str(place.folder / "thousand" / "thousand.jsonl"),
        "out": str(place.folder / "thousand" / "thousand.json"),
    }
    return [sys.executable, "-m", "benchmarks.proof.thousand", json.dumps(given)]


def _read_thousand(place: Place) -> Numbers:
    path = place.folder / "thousand" / "thousand.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


# The distillation, and what its set is good for.


def run_folder(place: Place) -> Path:
    """Folder of the distillation: another one for other code, whose checkpoints would mix two programs' work."""
    return place.folder / f"distilled-{digest()}"


def iterations(place: Place) -> int:
    """Iterations of the whole run."""
    return SMALL_ITERATIONS if place.small else ITERATIONS


def _run_words(place: Place) -> list[str]:
    config = "digits/ipc1" if place.small else "cifar10/ipc10"
    accelerator = "gpu" if place.device == "cuda" else "cpu"
    return ["--config", config, *data_words(place), "--trainer.accelerator", accelerator, "--trainer.devices", "1"]


def _distill(place: Place, seconds: float) -> list[str]:
    folder = run_folder(place)
    given = {
        "path": str(folder.with_suffix(".jsonl")),
        "every": 5 if place.small else 100,
        "random": place.dataset == "random",
    }
    words = [*_run_words(place), "--trainer.max_steps", str(iterations(place)), "--ckpt_path", "last"]
    words += [
        "--trainer.default_root_dir",
        str(folder),
        "--checkpoint.every_n_train_steps",
        "10" if place.small else "500",
    ]
    words += ["--validation.every_n_steps", "0"]
    return [sys.executable, "-m", "benchmarks.proof.distill", json.dumps(given), *words]


def _read_distill(place: Place) -> Numbers:
    folder = run_folder(place)
    lines = clock.read(folder.with_suffix(".jsonl"))
    return {**clock.summary(lines, iterations(place)), "set": (folder / FILE_NAME).exists()} if lines else {}


def _evaluate(place: Place, seconds: float) -> list[str]:
    words = [sys.executable, "-m", "bacon_pl", "eval", *_run_words(place), "--distilled", str(run_folder(place))]
    words += ["--out", str(place.folder / "accuracy"), "--overwrite", "true"]
    few = ["--evaluation.num_networks", "2", "--evaluation.epochs", "10"]
    return [*words, *(few if place.small else [])]


def _read_evaluation(place: Place) -> Numbers:
    path = place.folder / "accuracy" / "results.json"
    return dict(json.loads(path.read_text())["accuracy"]) if path.exists() else {}


def _no_set(place: Place, kept: Kept) -> str:
    if place.dataset == "random":
        return "CIFAR-10 is not here (ROOT=DIR names its folder), and random pixels have no accuracy"
    state = kept.get("distill", {}).get("state")
    return "" if state == "done" else "the distillation is not whole"


PARTS = (
    Part("tests", "the tests for a GPU", 150, _tests, _read_tests, blocked=_no_pytest, code=("tests",)),
    Part(
        "iteration", "iterations beside the literal algorithm", 150,
        _yardstick("iteration", "parts", "--rounds", "4", "--plain-rounds", "1",
                   small=("--rounds", "2", "--plain-rounds", "1", "--warm-up", "1")),
        _read_yardstick("iteration", "parts"),
    ),
    Part("thousand", f"{NETWORKS} networks for {EPOCHS} epochs", 90, _thousand, _read_thousand),
    Part(
        "evaluation", "epochs beside the literal evaluation", 90,
        _yardstick("evaluation", "eval", "--epochs", "20", small=("--epochs", "2", "--networks", "2", "--rounds", "2")),
        _read_yardstick("evaluation", "eval"),
    ),
    Part(
        "together", "networks side by side and one after another", 60,
        _yardstick("together", "together", small=("--networks", "2", "--rounds", "2", "--warm-up", "1")),
        _read_yardstick("together", "together"),
    ),
    Part(
        "distill", "the distillation in full", 120, _distill, _read_distill,
        whole=lambda found: bool(found.get("set")) and not found["extrapolated"], resumes=True,
    ),
    Part("accuracy", "the accuracy of its set", 120, _evaluate, _read_evaluation, blocked=_no_set),
)  # fmt: skip
SMALL_SHARE = 0.2
"""Share of its seconds that a part needs at toy sizes."""
