"""Bad input, a table: the real command on each, which must end early, in one sentence, with nothing overwritten."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

from bacon_pl.data import DatasetMeta, load_dataset
from bacon_pl.distilled_set import FILE_NAME, DistilledSet
from tests.forked_cli import Done, ForkedCli
from tests.paths import DIGITS

QUIET = "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.enable_model_summary false"
FIT = f"fit --config {DIGITS} --trainer.default_root_dir {{out}} --trainer.max_steps 1 --model.network.width 4 {QUIET}"
FOLDER = f"{FIT} --data.name folder --data.val_fraction 0 --validation.every_n_steps 0 --model.network.depth 1"
MNIST = f"{FIT} --data.name mnist --data.val_fraction 0 --validation.every_n_steps 0"
EVAL = (
    f"eval --config {DIGITS} --trainer.default_root_dir {{out}} --evaluation.epochs 1 --evaluation.num_networks 1 "
    f"--evaluation.network.width 4 {QUIET}"
)
# Data that are not there: what else is wrong must have been told before they are looked for.
EARLY = f"{FIT} --data.name mnist --data.root {{no}}"
EARLY_EVAL = f"{EVAL} --data.name mnist --data.root {{no}} --distilled {{no}}"
# What allows a run to write over an earlier one's files, so that the rows show that it did not come to that.
ONTO = ["--overwrite", "true"]

# Command, what its sentence says (regular expressions), and how it is run if not as usual (see ForkedCli.run).
Row = tuple[str, list[str]] | tuple[str, list[str], dict[str, Any]]
ROWS: dict[str, Row] = {
    # the folder of the data
    "root missing": (f"{FOLDER} --data.root {{no}}", ["{no}", "No such file", "give --data.root"]),
    "root empty": (f"{FOLDER} --data.root {{empty}}", ["{empty}", "holds no class folders", "expected <class>/"]),
    "root a file": (f"{FOLDER} --data.root {{file}}", ["{file}", "Not a directory", "give --data.root"]),
    "root unreadable": (
        f"{FOLDER} --data.root {{locked}}", ["{locked}", "Permission denied", "give --data.root"], {"humble": True}
    ),
    "class unreadable": (
        f"{FOLDER} --data.root {{locked_class}}", ["train/b'", "Permission denied", "make it readable"],
        {"humble": True},
    ),
    "mnist missing": (f"{MNIST} --data.root {{empty}}", ["MNIST not found", "{empty}", "--data.download true"]),
    "tiny_imagenet missing": (
        f"{MNIST} --data.name tiny_imagenet --data.root {{empty}}", ["wnids.txt' is missing", "unpack"]
    ),
    "class without images": (f"{FOLDER} --data.root {{hollow}}", ["train/b' holds no images", "fill it or remove it"]),
    "too few for ipc": (
        f"{FOLDER} --data.root {{good}} --model.ipc 4", ["ipc 4 asks for more", r"class 'a' has \(3\)", "lower"]
    ),
    "one image a class": (f"{FOLDER} --data.root {{single}}", ["{single}", "one image each", "test split"]),
    "train without test": (f"{FOLDER} --data.root {{half}}", ["neither test/ nor val/", "add one"]),
    "other classes to test": (f"{FOLDER} --data.root {{differ}}", ["different classes", "'c' is only in test/"]),
    # image files
    "image truncated": (f"{FOLDER} --data.root {{truncated}}", ["train/b/bad.png", "mend or", "on_bad_image skip"]),
    "image of no bytes": (f"{FOLDER} --data.root {{zero}}", ["train/b/bad.png", "not an image", "on_bad_image skip"]),
    "image of text": (f"{FOLDER} --data.root {{text}}", ["train/b/bad.png", "not an image", "on_bad_image skip"]),
    "image behind a dead link": (f"{FOLDER} --data.root {{link}}", ["train/b/bad.png", "No such file", "skip"]),
    "image that is a folder": (f"{FOLDER} --data.root {{image_folder}}", ["bad.png", "Is a directory", "skip"]),
    "image of floats": (f"{FOLDER} --data.root {{floats}}", ["bad.tif", "floating point", "skip"]),
    "nothing left after skipping": (
        f"{FOLDER} --data.root {{spoilt}} --data.on_bad_image skip", ["no image in .*test/b' can be read", "mend"]
    ),
    "mixed sizes": (f"{FOLDER} --data.root {{mixed}}", ["differ in size", "bad.png' has 8x20", "--data.image_size N"]),
    # MNIST's own files
    "labels with gaps": (f"{MNIST} --data.root {{gap}}", ["class '3 - three'", "no training images", "without gaps"]),
    "label out of range": (f"{MNIST} --data.root {{range}}", ["labels run from 0 to 77", "10 classes", "again"]),
    "label file too short": (f"{MNIST} --data.root {{short}}", ["40 images but 39 labels", "fetch them again"]),
    "image file cut": (f"{MNIST} --data.root {{cut}}", ["cannot read MNIST", "remove MNIST/raw and fetch"]),
    # settings, told before data are read
    "ipc 0": (f"{EARLY} --model.ipc 0", ["--model.ipc must be at least 1, got 0"]),
    "ipc negative": (f"{EARLY} --model.ipc -3", ["--model.ipc must be at least 1, got -3"]),
    "ipc fractional": (f"{EARLY} --model.ipc 1.5", ["--model.ipc must be a whole number, got 1.5"]),
    "ipc text": (f"{EARLY} --model.ipc ten", ["--model.ipc must be a whole number, got ten"]),
    "factor": (f"{EARLY} --model.factor 8", ["--model.factor", "28×28", "use one of 1, 2, 3, 4, 5, 6, 7, 10, 14, 28"]),
    "factor 0": (f"{EARLY} --model.factor 0", ["--model.factor", "use one of 1, 2, 3, 4"]),
    "factor of a given size": (
        f"{FOLDER} --data.root {{no}} --data.image_size 9 --model.factor 4", ["9×9", "use one of 1, 2, 3, 5, 9"]
    ),
    "factor of a found size": (f"{FIT} --model.factor 5", ["--model.factor", "8×8", "use one of 1, 2, 3, 4, 8"]),
    "too small to pool": (f"{FIT} --model.network.depth 5", ["8×8", "too small", "depth of at most 3"]),
    "too small to pool, eval": (
        f"{EVAL} --distilled {{set}} --evaluation.network.depth 5", ["8×8", "too small", "depth of at most 3"]
    ),
    "dataset": (f"{EARLY} --data.name mnits", ["unknown dataset 'mnits'", "Did you mean 'mnist'"]),
    "network": (f"{EARLY} --model.network Convnt", ["unknown network 'Convnt'", "Did you mean 'ConvNet'"]),
    "objective": (f"{EARLY} --model.objective MeanMatchin", ["unknown objective", "Did you mean 'MeanMatching'"]),
    "augmentation": (f"{EARLY} --model.augment DSB", ["unknown augment 'DSB'", "Did you mean 'DSA'"]),
    "augmentation's part": (f"{EARLY} --model.augment.strategies [flap]", ["'flap'", "Did you mean 'flip'"]),
    "augmentation, eval": (f"{EARLY_EVAL} --evaluation.augment DSB", ["unknown augment", "Did you mean 'DSA'"]),
    "network, eval": (f"{EARLY_EVAL} --evaluation.network Convnt", ["unknown network", "Did you mean 'ConvNet'"]),
    "networks, eval": (f"{EVAL} --distilled {{set}} --networks convnt", ["'convnt'", "Did you mean 'convnet'"]),
    "clip variant": (
        f"{EARLY} --model.objective.clip actng",
        ["--model.objective.clip must be one of none, acting, symmetric, got actng", "did you mean acting"],
    ),
    "acceleration": (f"{EARLY} --model.acceleration aut", ["must be one of auto, on, off, got aut", "mean auto"]),
    "option": (f"{EARLY} --model.ipk 3", ["unknown option --model.ipk", "Did you mean --model.ipc", "--help"]),
    "option of a class": (
        f"{EARLY} --model.network.widht 3", ["unknown option --model.network.widht", "ConvNet takes no 'widht'"]
    ),
    "key in a file": (f"{EARLY} --config {{key}}", ["unknown option --model.ipk", "Did you mean --model.ipc"]),
    "lr 0": (f"{EARLY} --model.lr 0", ["--model.lr must be positive and finite, got 0"]),
    "lr negative": (f"{EARLY} --model.lr -0.1", ["--model.lr must be positive and finite, got -0.1"]),
    "lr infinite": (f"{EARLY} --model.lr .inf", ["--model.lr must be positive and finite, got inf"]),
    "lr not a number": (f"{EARLY} --model.lr .nan", ["--model.lr must be positive and finite, got nan"]),
    "lr text": (f"{EARLY} --model.lr fast", ["--model.lr must be a number, got fast"]),
    "lr of the pool": (f"{EARLY} --model.pool.lr 0", ["--model.pool.lr must be positive and finite, got 0"]),
    "momentum of the pool": (f"{EARLY} --model.pool.momentum 1", ["--model.pool.momentum must be in", "got 1"]),
    "augmentation's ratio": (f"{EARLY} --model.augment.crop_ratio -1", ["crop_ratio must be between 0 and 1, got -1"]),
    "ipc of astronomers": (f"{FIT} --model.ipc {10**24}", [f"ipc {10**24} asks for more", "lower --model.ipc"]),
    "stray word": (f"{EARLY} stray", ["unknown argument stray", "--help"]),
    "depth text": (
        f"{EARLY} --model.network.depth two", [r"--model.network.depth must be a whole number, got two\.$"]
    ),
    "lr, eval": (f"{EARLY_EVAL} --evaluation.lr .inf", ["--evaluation.lr must be positive and finite, got inf"]),
    "epochs, eval": (f"{EARLY_EVAL} --evaluation.epochs 0", ["--evaluation.epochs must be at least 1, got 0"]),
    "baseline, eval": (
        f"{EARLY_EVAL} --baselines [randm]", ["--baselines must be one of random, .*, got randm", "mean random"]
    ),
    "steps 0": (f"{EARLY} --trainer.max_steps 0", ["--trainer.max_steps N, at least 1"]),
    "epochs 0": (f"{EARLY} --trainer.max_epochs 0", ["--trainer.max_epochs 0", "--trainer.max_steps N"]),
    "steps negative": (f"{EARLY} --trainer.max_steps -5", ["max_steps", "-5", "mend the --trainer options"]),
    "seed negative": (f"{EARLY} --seed_everything -1", ["--seed_everything must be a whole number from 0", "got -1"]),
    "seed text": (f"{EARLY} --seed_everything one", ["--seed_everything must be .* a whole number, got one"]),
    "mean text": (f"{EARLY} --data.mean [a]", ["--data.mean must be a list of numbers or null, got", "'a'"]),
    "mean of two": (f"{EARLY} --data.mean [.1,.2]", ["--data.mean must have one number per channel"]),
    "std 0": (f"{EARLY} --data.std [0]", [r"--data.std .* in \(0, 1\], got \[0"]),
    "image size 0": (f"{EARLY} --data.image_size 0", ["--data.image_size must be at least 1 pixel, got 0"]),
    "test fraction": (f"{EARLY} --data.test_fraction 1.5", ["--data.test_fraction must be between 0 and 1", "1.5"]),
    "val fraction": (f"{EARLY} --data.val_fraction 1", ["--data.val_fraction must be at least 0 and below 1"]),
    "batch": (f"{EARLY} --data.batch_real 0", ["--data.batch_real must be at least 1, got 0"]),
    "bad-image rule": (f"{EARLY} --data.on_bad_image skp", ["must be one of error, skip, got skp", "mean skip"]),
    # devices
    "GPUs": (
        f"{EARLY} --trainer.accelerator gpu --trainer.devices 64", ["gpu", "mend the --trainer options"],
        {"env": {"CUDA_VISIBLE_DEVICES": ""}},
    ),
    "CPUs": (f"{EARLY} --trainer.devices 4096", ["--trainer.devices 4096", "4096|processes", "give at most"]),
    "devices 0": (f"{EARLY} --trainer.devices 0", ["devices", "mend the --trainer options"]),
    "devices text": (f"{EARLY} --trainer.devices some", ["devices", "mend the --trainer options"]),
    "accelerator": (f"{EARLY} --trainer.accelerator warp", ["'warp'", "Available names", "mend the --trainer"]),
    "strategy": (f"{EARLY} --trainer.strategy nope", ["'nope'", "mend the --trainer options"]),
    "precision": (f"{EARLY} --trainer.precision 12", ["--trainer.precision must be one of .*bf16-mixed.*, got 12"]),
    # files that settings name
    "config missing": (f"{EARLY} --config {{no}}", ["--config: .*not exist", "{no}", "give a YAML file"]),
    "config a folder": (f"{EARLY} --config {{empty}}", ["--config: .*not a file", "{empty}", "give a YAML file"]),
    "config binary": (f"{EARLY} --config {{binary}}", ["--config", "no text", "utf-8", "give a YAML file"]),
    "config a list": (f"{EARLY} --config {{list}}", ["--config", "no YAML of settings", "give a YAML file"]),
    "config no YAML": (f"{EARLY} --config {{yaml}}", ["--config", "no YAML", "line 2", "give a YAML file"]),
    "checkpoint missing": (f"{EARLY} --ckpt_path {{no}}", ["no checkpoint at '{no}'", "--ckpt_path", "give a .ckpt"]),
    # where the output goes
    "output a file": (f"{EARLY} --trainer.default_root_dir {{file}}", ["{file}", "default_root_dir", "write to"]),
    "output under a file": (
        f"{EARLY} --trainer.default_root_dir {{file}}/below", ["{file}/below", "Not a directory", "default_root_dir"]
    ),
    "output not writable": (
        f"{EARLY} --trainer.default_root_dir {{sealed}}", ["{sealed}", "Permission denied", "default_root_dir"],
        {"humble": True},
    ),
    "output not writable, eval": (
        f"{EVAL} --data.name mnist --data.root {{no}} --distilled {{sealed}}/distilled.safetensors",
        ["{sealed}", "Permission denied", "--distilled"], {"humble": True},
    ),
    "disk full": (EARLY, ["{out}", "File too large", "make room"], {"file_limit": 100_000}),
    "disk full later": (
        f"{FIT} --trainer.max_steps 2 --model.network.width 192 --checkpoint.every_n_train_steps 1",
        ["cannot write", "make room"], {"file_limit": 2_000_000},
    ),
    # distilled sets
    "set missing": (f"{EARLY_EVAL}", ["no distilled set at '{no}'", "give a file or the folder"]),
    "set not named": (EVAL, ["--distilled is missing", "--help"]),
    "set's folder empty": (f"{EARLY_EVAL} --distilled {{empty}}", ["no distilled set at '{empty}/distilled.safe"]),
    "set truncated": (f"{EARLY_EVAL} --distilled {{set_cut}}", ["{set_cut}", "cut short", "fetch or make it again"]),
    "set of no bytes": (f"{EARLY_EVAL} --distilled {{set_zero}}", ["{set_zero}", "cut short", "make it again"]),
    "set's bit flipped": (f"{EARLY_EVAL} --distilled {{set_flip}}", ["{set_flip}", "checksum", "make it again"]),
    "set newer": (f"{EARLY_EVAL} --distilled {{set_new}}", ["format version 99", "reads up to", "install a newer"]),
    "set pickled": (f"{EARLY_EVAL} --distilled {{set_pickle}}", ["{set_pickle}", "another kind", "make it again"]),
    "set of other classes": (f"{EVAL} --distilled {{set_names}}", ["with classes a, b", "digits", "give the dataset"]),
    "set of fewer classes": (f"{EVAL} --distilled {{set_two}}", ["with classes 0, 1,", "digits", "give the dataset"]),
    "set of another size": (f"{EVAL} --distilled {{set_size}}", [r"image size 16", "8, 8", "give the dataset"]),
    "set in color": (f"{EVAL} --distilled {{set_rgb}}", ["channels 3", "have 1", "give the dataset"]),
    "set normalized otherwise": (f"{EVAL} --distilled {{set_mean}}", ["mean", "--data.mean and --data.std"]),
    # standard streams
    "stdin closed": (f"{EARLY} --model.ipc 0", ["--model.ipc must be"], {"closed": [0]}),
    "stdout closed": (f"{EARLY} --model.ipc 0", ["--model.ipc must be"], {"closed": [1]}),
    "stdin and stdout closed": (f"{FOLDER} --data.root {{no}}", ["No such file"], {"closed": [0, 1]}),
    "stdout full": (f"{FIT}", ["cannot write", "No space left", "make room"], {"streams": {1: "/dev/full"}}),
    "command": ("fti", ["unknown command 'fti'", "fit, eval"]),
}  # fmt: skip


# ---- what is bad


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def tree(root: Path, per_class: int = 3, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """A folder of images that is all right."""
    for split in splits:
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for k in range(per_class):
                Image.fromarray(noise(16, 16, 3)).save(root / split / name / f"{k}.png")
    return root


def mnist(root: Path, labels: list[int], images: int = 40, cut: int = 0) -> Path:
    """MNIST's four files with few images."""
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    for prefix, its_labels in (("train", labels), ("t10k", [k % 10 for k in range(images)])):
        pixels = noise(images, 28, 28).tobytes()
        data = struct.pack(">HBBIII", 0, 8, 3, images, 28, 28) + pixels[: len(pixels) - cut]
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(data)
        head = struct.pack(">HBBI", 0, 8, 1, len(its_labels))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + bytes(its_labels))
    return root


def honest(meta: DatasetMeta) -> DistilledSet:
    shape = (meta.num_classes, meta.channels, *meta.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    return DistilledSet(images, torch.arange(meta.num_classes), meta, method="bacon", version="1")


def described(path: Path, **entries: Any) -> Path:
    """Change the description of a good file, which then has no checksum any more."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["bacon_pl"])
        tensors = {name: file.get_tensor(name).clone() for name in ("images", "labels")}
    del description["checksum"]
    safetensors.torch.save_file(tensors, path, metadata={"bacon_pl": json.dumps(description | entries)})
    return path


@pytest.fixture(scope="module")
def digits() -> DatasetMeta:
    return load_dataset("digits", "none")[2]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, digits: DatasetMeta) -> Iterator[dict[str, Path]]:
    """Everything that the table names in braces."""
    top = tmp_path_factory.mktemp("bad")
    trees = [
        "good",
        "hollow",
        "differ",
        "truncated",
        "zero",
        "text",
        "link",
        "image_folder",
        "floats",
        "spoilt",
        "mixed",
        "locked",
        "locked_class",
    ]
    folders = ["half", "single", "empty", "sealed", "gap", "range", "short", "cut"]
    files = ["file", "key", "binary", "yaml", "list"]
    at = {name: top / name for name in trees + folders + files} | {"no": top / "no/such"}
    for name in ("empty", "sealed", "half", "single"):
        at[name].mkdir()

    for name in trees:
        tree(at[name])
    tree(at["single"], 1, ("",))
    tree(at["half"], 3, ("train",))
    for path in (at["hollow"] / "train/b").iterdir():
        path.unlink()
    (at["differ"] / "test/c").mkdir()
    Image.fromarray(noise(16, 16, 3)).save(at["differ"] / "test/c/0.png")
    image = (at["good"] / "train/a/0.png").read_bytes()
    (at["truncated"] / "train/b/bad.png").write_bytes(image[: len(image) // 2])
    (at["zero"] / "train/b/bad.png").write_bytes(b"")
    (at["text"] / "train/b/bad.png").write_text("no image at all")
    (at["link"] / "train/b/bad.png").symlink_to(at["no"])
    (at["image_folder"] / "train/b/bad.png").mkdir()
    Image.new("F", (16, 16), 0.5).save(at["floats"] / "train/b/bad.tif")
    for path in (at["spoilt"] / "test/b").iterdir():
        path.write_bytes(b"")
    Image.fromarray(noise(8, 20, 3)).save(at["mixed"] / "train/b/bad.png")
    at["file"].write_text("a file")

    ten = [k % 10 for k in range(40)]
    mnist(at["gap"], [2 if k == 3 else k for k in ten])
    mnist(at["range"], [*ten[:-1], 77])
    mnist(at["short"], ten[:-1])
    mnist(at["cut"], ten, cut=100)

    at["key"].write_text("model: {ipk: 3}\n")
    at["binary"].write_bytes(b"\xd0\xff\x00\x01")
    at["list"].write_text("- a\n")
    at["yaml"].write_text("model: {ipc: [1\n  - }")

    def make(name: str, meta: DatasetMeta) -> Path:
        at[name] = honest(meta).save(top / f"{name}.safetensors")
        return at[name]

    data = make("set", digits).read_bytes()
    for name, changed in {
        "set_cut": data[:-100],
        "set_zero": b"",
        "set_flip": data[:-50] + bytes([data[-50] ^ 4]) + data[-49:],
        "set_pickle": pickle.dumps({"images": 1}),
    }.items():
        at[name] = top / f"{name}.safetensors"
        at[name].write_bytes(changed)
    described(make("set_new", digits), format_version=99)
    make("set_names", replace(digits, class_names=tuple("abcdefghij")))
    make("set_two", replace(digits, class_names=digits.class_names[:2]))
    make("set_size", replace(digits, size=(16, 16)))
    make("set_rgb", replace(digits, channels=3, mean=digits.mean * 3, std=digits.std * 3))
    make("set_mean", replace(digits, mean=(0.1,)))
    described(make("set_odd", digits), dataset="\x1b[2J../../\ud800", method="a\nb\ud800", package_version="\x00")

    honest(digits).save(at["sealed"] / FILE_NAME)
    at["sealed"].chmod(0o555)
    at["locked"].chmod(0)
    (at["locked_class"] / "train/b").chmod(0)
    yield at
    for path in (at["sealed"], at["locked"], at["locked_class"] / "train/b"):
        path.chmod(0o755)


@pytest.fixture(scope="module")
def forked_cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCli]:
    with ForkedCli(tmp_path_factory.mktemp("forked_cli")) as process:
        yield process


@pytest.fixture
def out(tmp_path: Path, digits: DatasetMeta) -> Path:
    """An output folder with an earlier run's files."""
    folder = tmp_path / "out"
    honest(digits).save(folder / FILE_NAME)
    (folder / "distilled.png").write_bytes(b"an earlier picture")
    (folder / "results.json").write_text("{}")
    return folder


def arguments(command: str, bad: dict[str, Path], out: Path) -> list[str]:
    places = {**bad, "out": out}
    args = [re.sub(r"\{(\w+)\}", lambda found: str(places[found[1]]), word) for word in command.split()]
    return args + ONTO if args[0] == "fit" else args


def earlier_files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (FILE_NAME, "distilled.png", "results.json")}


def check_sentence(stderr: str, says: list[str], places: dict[str, Path]) -> None:
    assert "Traceback" not in stderr
    lines = stderr.strip().splitlines()
    assert [bool(re.match(r"bacon( fit| eval)?: error: ", line)) for line in lines].count(True) == 1, stderr
    sentence = lines[-1].partition(": error: ")[2]
    assert sentence.isprintable()
    assert sentence.endswith(".")
    assert len(sentence) < 700
    for pattern in says:
        known = re.sub(r"\{(\w+)\}", lambda found: re.escape(str(places[found[1]])), pattern)
        assert re.search(known, sentence), f"'{known}' is not in: {sentence}"


@pytest.mark.parametrize("name", ROWS)
def test_bad_input(name: str, forked_cli: ForkedCli, bad: dict[str, Path], out: Path, tmp_path: Path) -> None:
    command, says, *how = ROWS[name]
    before = earlier_files(out)
    done = forked_cli.run(*arguments(command, bad, out), cwd=tmp_path, **(how[0] if how else {}))
    assert done.returncode == 2, done.stderr
    check_sentence(done.stderr, says, {**bad, "out": out})
    if name not in ("disk full later", "stdout full"):  # which come so far as to replace the earlier run
        assert earlier_files(out) == before
        assert not list(out.glob("**/*.ckpt"))
    assert "accuracy" not in done.stdout
    assert {path.name for path in tmp_path.glob("**/.*")} <= {".lock"}, "temporary files are left"


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) >= 50


# ---- a few of them from nothing, with a new interpreter


def command(*args: str, **how: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "bacon_pl", *args], env=environment, stderr=subprocess.PIPE, text=True, **how
    )


@pytest.mark.parametrize("name", ["root missing", "set truncated", "lr infinite"])
def test_bad_input_from_nothing(name: str, bad: dict[str, Path], out: Path, tmp_path: Path) -> None:
    before = earlier_files(out)
    process = command(*arguments(ROWS[name][0], bad, out), cwd=tmp_path)
    stderr = process.communicate(timeout=200)[1]
    assert process.returncode == 2
    check_sentence(stderr, ROWS[name][1], bad)
    assert earlier_files(out) == before


def test_nobody_reads_the_output(bad: dict[str, Path], out: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = command(*arguments(FIT, bad, out), cwd=tmp_path, stdout=writer)
    os.close(writer)
    os.close(reader)
    stderr = process.communicate(timeout=200)[1]
    assert process.returncode == 2
    check_sentence(stderr, ["Broken pipe", "check"], bad)


def test_debug_shows_the_traceback(forked_cli: ForkedCli, bad: dict[str, Path], out: Path, tmp_path: Path) -> None:
    done = forked_cli.run(*arguments(ROWS["ipc 0"][0], bad, out), cwd=tmp_path, env={"BACON_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "BaconError: --model.ipc must be" in done.stderr


# ---- what looks bad and is not


def succeed(done: Done) -> None:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_all_streams_closed(forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    succeed(forked_cli.run(*arguments(FIT, bad, out), cwd=tmp_path, closed=[0, 1, 2]))
    assert DistilledSet.load(out).ipc == 1
    done = forked_cli.run(*arguments(f"{EARLY} --model.ipc 0", bad, out), cwd=tmp_path, closed=[0, 1, 2])
    assert done.returncode == 2


def test_a_terminal_that_knows_ascii_alone(forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    honest(load_dataset("digits", "none")[2]).save(out / FILE_NAME)
    done = forked_cli.run(*arguments(f"{EVAL} --distilled {{out}}", bad, out), cwd=tmp_path, encoding="ascii")
    succeed(done)
    assert "accuracy: distilled" in done.stdout


def test_odd_names_reach_the_results(forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(bad["set_odd"].read_bytes())
    done = forked_cli.run(*arguments(f"{EVAL} --distilled {folder}", bad, tmp_path / "out"), cwd=tmp_path)
    succeed(done)
    assert json.loads((folder / "results.json").read_text())["dataset"] == "\x1b[2J../../\ud800"
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


@pytest.mark.parametrize(
    ("kind", "args"), [("mixed", "--data.image_size 8"), ("truncated", "--data.on_bad_image skip")]
)
def test_what_the_sentence_said_to_do_works(
    kind: str, args: str, forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path
) -> None:
    succeed(forked_cli.run(*arguments(f"{FOLDER} --data.root {{{kind}}} {args}", bad, tmp_path / "out"), cwd=tmp_path))
    assert DistilledSet.load(tmp_path / "out").meta.class_names == ("a", "b")


def pictures(kind: str) -> tuple[dict[str, Image.Image], dict[str, list[int]], str]:
    """Two classes of plain pictures in some mode, the pixels they should become, and the file's suffix."""
    colors = {"a": (10, 120, 240), "b": (200, 60, 30)}
    if kind in ("L", "LA", "1", "I;16", "I;16 tif"):
        gray = {"a": 0, "b": 255} if kind == "1" else {"a": 40, "b": 200}
        wanted = {name: [value] for name, value in gray.items()}
        if kind.startswith("I"):
            wide = {name: np.full((16, 16), 257 * value, dtype=np.uint16) for name, value in gray.items()}
            return {n: Image.fromarray(w) for n, w in wide.items()}, wanted, "tif" if "tif" in kind else "png"
        return {n: Image.new("L", (16, 16), v).convert(kind) for n, v in gray.items()}, wanted, "png"
    made = {name: Image.new("RGB", (16, 16), value) for name, value in colors.items()}
    if kind == "RGBA":
        made = {name: Image.new("RGBA", (16, 16), (*value, 99)) for name, value in colors.items()}
    elif kind == "P":
        made = {name: image.quantize(4) for name, image in made.items()}
    elif kind == "CMYK":
        made = {name: image.convert("CMYK") for name, image in made.items()}
    wanted = {name: list(value) for name, value in colors.items()}
    return made, wanted, "jpg" if kind == "CMYK" else "png"


@pytest.mark.parametrize("kind", ["RGB", "L", "LA", "1", "I;16", "I;16 tif", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode_keep_their_colors(
    kind: str, forked_cli: ForkedCli, bad: dict[str, Path], tmp_path: Path
) -> None:
    made, wanted, suffix = pictures(kind)
    for split in ("train", "test"):
        for name, image in made.items():
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for k in range(2):
                image.save(
                    tmp_path / "data" / split / name / f"{k}.{suffix}", **({"quality": 100} if suffix == "jpg" else {})
                )
    # The images hardly move at this rate, so the set is what was read.
    done = forked_cli.run(
        *arguments(f"{FOLDER} --data.root {tmp_path / 'data'} --model.lr 1e-9", bad, tmp_path / "out"), cwd=tmp_path
    )
    succeed(done)
    distilled = DistilledSet.load(tmp_path / "out")
    got = 255 * distilled.pixels().mean((1, 3, 4))
    assert torch.allclose(got, torch.tensor(list(wanted.values())).float(), atol=3 if suffix == "jpg" else 0.6)
