"""``make gpu``: what is done is not repeated, what is stopped goes on, and the page says what was found."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bacon_pl import cli
from bacon_pl.commands.settings import settings_of
from benchmarks import gpu
from benchmarks import run as benchmark
from benchmarks.proof import clock, distill, outcomes, page, thousand
from benchmarks.proof.aims import aims
from benchmarks.proof.outcomes import Outcomes
from benchmarks.proof.parts import PARTS, Part
from benchmarks.proof.place import Place, data_words, find_data
from tests.paths import ROOT

BY_NAME = {part.name: part for part in PARTS}

# Counts its starts. It needs two: the first one waits until it is told to end, and leaves half of its work.
HALF = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "starts").open("a").write("x")
def end(*_):
    (folder / "half").touch()
    sys.exit(143)
if not (folder / "half").exists():
    signal.signal(signal.SIGTERM, end)
    (folder / "ready").touch()
    time.sleep(600)
(folder / "whole").touch()
"""


@pytest.fixture
def place(tmp_path):
    return Place("cpu", True, "digits", "data", tmp_path)


def python(script):
    """A command line of a script, whose argument is the folder of the place."""
    return lambda place, seconds: [sys.executable, "-c", script, str(place.folder)]


def call(place, *parts, seconds=1000.0, torch="1"):
    """One call of the program; returns the names of what is left and the outcomes."""
    kept = Outcomes(place, parts, {"torch": torch})
    return gpu.run_parts(parts, kept, time.monotonic() + seconds), kept.valid()


def test_a_stopped_part_goes_on_and_a_done_one_is_not_repeated(place, monkeypatch):
    part = Part(
        "half", "", 1, python(HALF), lambda p: {"whole": (p.folder / "whole").exists()},
        whole=lambda found: found["whole"], resumes=True,
    )  # fmt: skip

    def until_ready(process, seconds):
        while not (place.folder / "ready").exists() and process.poll() is None:
            time.sleep(0.01)
        raise subprocess.TimeoutExpired("", seconds)

    with monkeypatch.context() as patched:
        patched.setattr(outcomes, "_wait", until_ready)
        left, kept = call(place, part)
    assert left == ["half"] and kept["half"]["state"] == "stopped"
    left, kept = call(place, part)
    assert left == [] and kept["half"]["state"] == "done" and kept["half"]["numbers"] == {"whole": True}
    assert call(place, part)[0] == [] and (place.folder / "starts").read_text() == "xx"
    call(place, part, torch="2")  # what was found with another torch does not hold
    assert (place.folder / "starts").read_text() == "xxx"


def test_a_part_that_does_not_fit_is_not_started(place):
    part = Part("long", "", 400, python("raise SystemExit(3)"), lambda place: {})
    assert call(place, part, seconds=50) == (["long"], {})  # a toy needs a fifth, which is more than that
    left, kept = call(place, part, seconds=100)
    assert left == ["long"] and kept["long"]["state"] == "failed" and "status 3" in kept["long"]["why"]


def test_numbers_of_an_earlier_start_are_not_taken_for_this_ones(place):
    good = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'one' / 'x').touch()"
    read = lambda p: {"x": 1} if (p.folder / "one" / "x").exists() else {}  # noqa: E731
    assert call(place, Part("one", "", 1, python(good), read))[1]["one"]["state"] == "done"
    found = call(place, Part("one", "", 1, python("print('no luck')"), read), torch="2")[1]["one"]
    assert found["state"] == "failed" and found["why"] == "status 0: no luck"


@pytest.mark.parametrize("dataset", ["cifar10", "random"])
def test_the_real_commands_are_understood(dataset, tmp_path, monkeypatch):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    real = Place("cuda", False, dataset, str(tmp_path), tmp_path)
    monkeypatch.setattr(Place, "name", "Some GPU")
    for name in ("iteration", "evaluation", "together"):
        program, *words = BY_NAME[name].command(real, 500)[1:]
        s = benchmark.settings_of(benchmark.parse(words))
        assert program == "benchmarks/run.py"
        assert (s.device, s.width, s.ipc, s.acceleration) == ("cuda", 128, 10, "on")
    if dataset == "random":
        distill.synthetic(*distill.RANDOM)
    words = BY_NAME["distill"].command(real, 500)[4:]
    words[words.index("gpu")] = "cpu"
    settings = settings_of("fit", words)
    assert settings["trainer"]["max_steps"] == 20_000 and settings["model"]["ipc"] == 10
    assert settings["data"]["name"] == {"cifar10": "folder", "random": "random 10x5000 32"}[dataset]
    assert BY_NAME["accuracy"].blocked(real, {"distill": {"state": "done"}}) == "" or dataset == "random"


def test_a_distillation_is_timed_and_resumed(place, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "fit", cli.COMMANDS["fit"])
    program, *words = BY_NAME["distill"].command(place, 500)[3:]
    words += ["--model.network.width", "4", "--data.batch_real", "4", "--data.pool_batch", "8"]
    place.folder.mkdir(parents=True)
    read, total = BY_NAME["distill"].read, str(20)
    for steps, done in (("10", 10), (total, 20)):
        words[words.index("--trainer.max_steps") + 1] = steps
        monkeypatch.setattr(sys, "argv", ["", program, *words])
        distill.main()
        assert read(place)["done"] == done
    found = read(place)
    assert found["starts"] == 2 and found["seconds"] == found["whole"] and found["rate"] > 0 and found["memory"] > 0
    assert found["plan"].items() >= {"compiled": False, "bfloat16": False, "pool recorded": False}.items()
    assert BY_NAME["distill"].whole(found)


def test_networks_are_timed_until_the_limit(place, monkeypatch, tmp_path):
    tiny = {"classes": 2, "image_size": 16, "ipc": 2, "width": 4, "batch_real": 8, "pool_batch": 8}
    given = json.loads(BY_NAME["thousand"].command(place, 500)[3])
    given["settings"] |= {**tiny, "acceleration": "off"}
    given |= {"path": str(tmp_path / "lines"), "out": str(tmp_path / "numbers")}
    for limit, epochs in ((1000, 20), (0, 2)):
        monkeypatch.setattr(sys, "argv", ["", json.dumps({**given, "limit": limit, "every": 2})])
        thousand.main()
        found = json.loads((tmp_path / "numbers").read_text())
        assert found["done"] * 20 == epochs * found["total"] and found["extrapolated"] is (limit == 0)


def test_a_clock_adds_starts_up_and_leaves_compiling_out_of_the_rate():
    read = [
        ("a", 0, 0, 1),
        ("a", 100, 60, 5),
        ("a", 200, 62, 5),
        ("b", 100, 0, 1),
        ("b", 300, 50, 7),
        ("b", 400, 53, 7),
    ]
    lines = [dict(zip(("start", "iteration", "seconds", "memory"), values, strict=True)) for values in read]
    found = clock.summary(lines, 1000)
    assert (found["done"], found["seconds"], found["starts"], found["memory"]) == (400, 115, 2, 7)
    assert found["rate"] == 0.025 and found["whole"] == 115 + 600 * 0.025 and found["extrapolated"]


def numbers(ratio=12.0, whole=200.0):
    """Outcomes of a GPU."""
    iteration = {
        "ratio": {"median": ratio, "least": ratio, "most": ratio}, "medians": {"literal": 0.12, "ours": 0.01},
        "roofline": {"ours": {"share": 0.5, "dtype": "bfloat16", "seconds": 0.005}}, "compile_seconds": 60.0,
        "memory": {"ours": {"bytes": 3e9}, "literal": None},
    }  # fmt: skip
    run = {
        "whole": whole,
        "total": 20_000,
        "done": 5000,
        "rate": 0.01,
        "starts": 1,
        "extrapolated": True,
        "memory": 2e9,
    }
    tests = {"passed": 3, "skipped": 0, "failed": {"tests.gpu::test_one": ["it waits"]}}
    found = {"iteration": iteration, "distill": {**run, "plan": {"compiled": True}}, "tests": tests}
    more = {"why": "", "commit": "abc", "changed": False, "seconds": 9.0}
    found["together"] = {"ratio": {"median": 0.4, "least": 0.3, "most": 0.5}, "networks": 5}
    kept = {name: {"state": "done", "numbers": value, **more} for name, value in found.items()}
    return {**kept, "accuracy": {"state": "blocked", "why": "no data", "commit": "abc", "changed": False}}


def test_every_aim_has_a_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(Place, "name", "NVIDIA H100")
    place = Place("cuda", False, "cifar10", "data", tmp_path)
    judged = [aim.verdict for aim in aims(place, numbers())]
    assert judged == ["missed", "met", "met", "not run", "told", "told", "not run", "not run", "told"]
    assert [aim.verdict for aim in aims(place, numbers(ratio=9.9, whole=301.0))][1:3] == ["missed", "missed"]
    assert {aim.verdict for aim in aims(place, {})} == {"not run"}
    environment = {"device": "NVIDIA H100", "torch": "2", "commit": "abc", "time": "now"}
    file, _ = page.write(place, numbers(), environment, "make gpu")
    text = file.read_text()
    for said in (
        "# Measured on NVIDIA H100",
        "abc",
        "extrapolated from 5,000 iterations",
        "it waits",
        "compiled True",
        "no data",
    ):
        assert said in text
    told = json.loads(file.with_suffix(".json").read_text())
    assert not told["rehearsal"] and told["parts"]["thousand"]["state"] == "left"


def test_a_rehearsal_proves_nothing(place):
    judged = aims(place, numbers())
    assert {aim.verdict for aim in judged} == {"rehearsed", "not run"}
    environment = {"device": "some CPU", "torch": "2", "commit": "abc", "time": "now"}
    head = page.write(place, numbers(), environment, "x")[0].read_text().split("## ")[0]
    assert head.startswith("# Rehearsal on some CPU") and "proves nothing about a GPU" in head


def test_it_says_in_a_sentence_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for args, said in (
        ([], 'no CUDA device here, so nothing was run; `make gpu ARGS="--device cpu --small"`'),
        (["--device", "cpu"], "would take days on a CPU"),
        (["--device", "cpu", "--small", "--only", "iteration,speed"], "there is no part 'speed'"),
    ):
        with pytest.raises(SystemExit, match="^gpu.py: error: ") as error:
            gpu.main([*args, "--out", str(tmp_path / "out")])
        assert said in str(error.value) and str(error.value).count("\n") == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit, match="CIFAR-10 is not in"):
        gpu.main(["--root", str(tmp_path)])
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name in ("sklearn", "jsonargparse") else name)
    with pytest.raises(SystemExit, match=r"lacks jsonargparse, sklearn: .*'jsonargparse\[signatures\]' scikit-learn"):
        gpu.main([])
    assert not (tmp_path / "out").exists()


def test_data_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_data(None, small=False) == "random" and find_data(None, small=True) == "digits"
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    assert find_data(None, small=False) == find_data("data", small=False) == "cifar10"
    assert data_words(Place("cuda", False, "cifar10", "data", tmp_path)) == ["--data.root", "data"]


def test_make_passes_its_words_on():
    # The suite may itself run under make, whose children also print which folder they enter.
    command = ["make", "--no-print-directory", "-n", "gpu", "PYTHON=py", "ROOT=a b", "ARGS=--limit 60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    words = shlex.split(done.stdout)
    assert words == ["py", "benchmarks/gpu.py", "--root", "a b", "--limit", "60"]
    assert gpu.parse(words[2:]).root == "a b" and Path(words[1]).name == "gpu.py"
