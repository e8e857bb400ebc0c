"""Settings as YAML text: what is refused, where it stands, and what dotted keys mean."""

import os
import re
import subprocess
import sys

import pytest

from bacon_pl import config_files
from bacon_pl.errors import BaconError
from bacon_pl.settings_text import laid_over, nested
from tests.paths import ROOT

# Each name stands for nine of the one before: a billion values in a few lines.
SWELLING = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)


def refused(text):
    with pytest.raises(BaconError) as error:
        config_files.parsed(text)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty, or all of it is commented out: leave it out, or write {}"),
        ("# model: {ipc: 1}\n\n", "is empty, or all of it is commented out"),
        ("model:\n  ipc: 1\n  lr: 0.1\n  ipc: 2\n", "gives 'model.ipc' twice, in lines 2 and 4: take one of them out"),
        ("data: {root: a}\nmodel: {}\ndata: {name: b}\n", "gives 'data' twice, in lines 1 and 3"),
        ("{model: {ipc: 1, ipc: 2}}", "gives 'model.ipc' twice, in line 1"),
        ("model: {ipc: 1}\nmodel.ipc: 2\n", "gives 'model.ipc' twice, in lines 1 and 2"),
        ("trainer:\n  callbacks:\n  - {a: 1}\n  - {b: 1,\n     b: 2}\n", "twice, in lines 4 and 5"),
        ("model: Selection\nmodel.ipc: 2\n", "gives 'model' and a setting within it: write model: {…}"),
        ("model: &a\n  network: *a\n", "refers to itself: '*a' in line 2 stands within '&a'"),
        ("a: &a [1, [*a]]\n", "refers to itself"),
        (SWELLING, "stands for more than 100,000 values"),
        (f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 20)}]\n", "stands for more than"),
        (f"a: {'[' * 5000}{']' * 5000}", "nests more than 50 levels deep in line 1"),
        ("- a\n", "is not YAML with settings"),
        ("3: 4\n", "is not YAML with settings"),
        ("? [a]\n: b\n", "is not YAML"),
        ("model: {ipc: 1\n", "is not YAML"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
    ],
)
def test_what_is_refused(text, said):
    sentence = refused(text)
    assert said in sentence and sentence.startswith("--config: the text ") and sentence.endswith(".")
    assert len(sentence) < 500


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("model.class_path: Selection\nmodel: {ipc: 2}\n", {"model": {"class_path": "Selection", "ipc": 2}}),
        ("model.pool.lr: 1e-3\nmodel.pool.momentum: 0\n", {"model": {"pool": {"lr": 1e-3, "momentum": 0}}}),
        ("model:\n", {"model": None}),
        ("{model}", {"model": None}),
        ("{}", {}),
        ("x: &a {b: 1}\ny: {<<: *a, c: 2}\nz: {<<: *a, b: 3}\n",
         {"x": {"b": 1}, "y": {"b": 1, "c": 2}, "z": {"b": 3}}),
        ("a: [{b: 1}, {b: 1}]\n", {"a": [{"b": 1}, {"b": 1}]}),
        ("a: |\n  text\n", {"a": "text\n"}),
        ("a: 'x: 1'", {"a": "x: 1"}),
    ],
)  # fmt: skip
def test_what_is_understood(text, settings):
    assert config_files.parsed(text) == settings


def test_the_file_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model:\n  ipc: 1\n  ipc: 2\n")
    (tmp_path / "above.yaml").write_text("extends: mine.yaml\n")
    for given in (path, tmp_path / "above.yaml"):
        with pytest.raises(BaconError, match=re.escape(f"'{path}' gives 'model.ipc' twice, in lines 2 and 3")):
            config_files.layers(str(given))


@pytest.mark.parametrize(
    ("name", "said"),
    [("pipe", "is a pipe and not"), ("/dev/zero", "is a device and not"), ("long.yaml", "is longer than 1 MiB")],
)
def test_files_that_never_end(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with open("long.yaml", "wb") as file:
        file.truncate(1 << 22)
    with pytest.raises(BaconError, match=f"{name}' {said}"):
        config_files.layers(name)


def test_a_pipe_of_the_shell_is_read():
    code = "from bacon_pl import config_files; print(config_files.layers('/dev/stdin')[0].settings)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input="model: {ipc: 7}", capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "{'model': {'ipc': 7}}\n", done.stderr


def test_text_of_any_length_is_no_path():
    text = "{model: {method: " + "x" * 5000 + "}}"
    assert config_files.layers(text)[0].settings["model"]["method"] == "x" * 5000


@pytest.mark.parametrize(
    "given",
    [
        {"model.network": "MLP", "model.network.width": 8},
        {"model.network.width": 8, "model.network": "MLP"},
        {"model": {"network": "MLP"}, "model.network.width": 8},
        {"model.network": {"class_path": "MLP"}, "model.network.width": 8},
        {"model.network": {"class_path": "MLP", "init_args": {"width": 4}}, "model.network.init_args.width": 8},
        {"model.network": "MLP", "model.network.init_args.width": 8},
        {"model.network.init_args": {"width": 8}, "model.network": "MLP"},
    ],
)
def test_options_of_a_class_may_stand_beside_its_name(given):
    assert nested(given) == {"model": {"network": {"class_path": "MLP", "init_args": {"width": 8}}}}


def test_nested_settings_are_merged():
    assert nested({"a": {"c": 2}, "a.b": 1, "d.e.f": None}) == {"a": {"c": 2, "b": 1}, "d": {"e": {"f": None}}}


@pytest.mark.parametrize(
    ("below", "above", "found"),
    [
        ("MLP", {"width": 8}, {"class_path": "MLP", "init_args": {"width": 8}}),
        ({"class_path": "MLP", "width": 4}, {"width": 8}, {"class_path": "MLP", "width": 8}),
        (
            {"class_path": "ConvNet", "init_args": {"width": 4}},
            {"class_path": "bacon_pl.networks.ConvNet", "init_args": {"depth": 2}},
            {"class_path": "bacon_pl.networks.ConvNet", "init_args": {"width": 4, "depth": 2}},
        ),
        ({"class_path": "ConvNet", "init_args": {"width": 4}}, {"class_path": "MLP"}, {"class_path": "MLP"}),
        ({"class_path": "MLP"}, "ConvNet", "ConvNet"),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        (3, {"a": 1}, {"a": 1}),
    ],
)
def test_settings_are_laid_over_others(below, above, found):
    assert laid_over(below, above) == found
