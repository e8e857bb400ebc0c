"""Bad input, a table: commands, what their sentences must say, and how they are run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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
EVAL_SET = f"{EVAL} --distilled {{set}}"
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
    "image truncated": (f"{FOLDER} --data.root {{truncated}}", ["train/b/bad.png", "fix or", "on_bad_image skip"]),
    "image of no bytes": (f"{FOLDER} --data.root {{zero}}", ["train/b/bad.png", "not an image", "on_bad_image skip"]),
    "image of text": (f"{FOLDER} --data.root {{text}}", ["train/b/bad.png", "not an image", "on_bad_image skip"]),
    "image behind a dead link": (f"{FOLDER} --data.root {{link}}", ["train/b/bad.png", "No such file", "skip"]),
    "image that is a folder": (f"{FOLDER} --data.root {{image_folder}}", ["bad.png", "Is a directory", "skip"]),
    "image of floats": (f"{FOLDER} --data.root {{floats}}", ["bad.tif", "floating point", "skip"]),
    "nothing left after skipping": (
        f"{FOLDER} --data.root {{spoilt}} --data.on_bad_image skip", ["no image in .*test/b' can be read", "fix"]
    ),
    "mixed sizes": (f"{FOLDER} --data.root {{mixed}}", ["differ in size", "bad.png' has 8x20", "--data.image_size N"]),
    "two bad images": (
        f"{FOLDER} --data.root {{two_bad}}",
        ["cannot read 2 of the 14 image files", "'train/a/bad.png', 'test/b/bad.png' .not an image", "skip"],
    ),
    "image too large": (f"{FOLDER} --data.root {{bomb}}", ["bad.png' .too large: Pillow opens", "scale it down"]),
    "one class": (f"{FOLDER} --data.root {{lonely}}", ["holds one class folder only, 'a'", "two classes or more"]),
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
    "acceleration": (
        f"{EARLY} --model.acceleration aut",
        ["must be one of auto, on, off, measured, got aut", "mean auto"],
    ),
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
    "option without dashes": (
        f"{EARLY} max_steps=3", [r"unknown argument max_steps\. Did you mean --trainer.max_steps\? `--help` lists all"]
    ),
    "stray word": (f"{EARLY} stray", ["unknown argument stray", "--help"]),
    "depth text": (
        f"{EARLY} --model.network.depth two", [r"--model.network.depth must be a whole number, got two\.$"]
    ),
    "group of one word": (
        f"{EARLY} --model.start tiles", ["--model.start is a group of settings, and 'tiles'", "--model.start.images"]
    ),
    "group of a number": (f"{EARLY} --data 3", ["--data is a group of settings, and '3'", "the options --data.NAME"]),
    "optional group": (
        f"{EARLY} --model.cross_entropy 3",
        [r"--model.cross_entropy must be settings by name \(weight, accuracy\) or null, got 3"],
    ),
    "no network": (f"{EARLY} --model.network null", ["--model.network must be one of AlexNet, ConvNet,", "got null"]),
    "argument of an objective": (f"{EARLY} --model.objective Combined", ["^--model.objective.objectives is missing"]),
    "no objective": (f"{EARLY} --model.objective null", ["--model.objective must be one of BaconO", "got null"]),
    "no augmentation": (
        f"{EARLY} --model.augment null", ["must be one of AutoAugment, Chain, CropScaleRotate, DSA, NoAug", "null"]
    ),
    "section of bacon tune": (
        f"{EARLY} --tune.model.lr 1", ["unknown option --tune.model.lr: `tune` is a section", "which bacon tune reads"]
    ),
    "mixing, eval": (f"{EARLY_EVAL} --evaluation.mixing CutMx", ["unknown mixing 'CutMx'", "Did you mean 'CutMix'"]),
    "option without a value": (f"{EARLY} --model.ipc", ["--model.ipc, or an option within it, needs a value"]),
    "logger": (f"{EARLY} --trainer.logger Foo", ["--trainer.logger must be the class_path of a Logger or true"]),
    "family before the schedule": (
        "fit --model Selection --config digits/ipc1",
        [
            r"Selection takes no 'objective'\. It stands in 'schedules/bacon' \(which 'digits/ipc1' extends\)",
            "give first --config digits/ipc1, then --model Selection",
        ],
    ),
    "method before the schedule": (
        "fit --config methods/dm --config digits/ipc1",
        ["'digits/ipc1' is given after 'methods/dm'", "give first --config digits/ipc1, then --config methods/dm"],
    ),
    "budget before the schedule": (
        "eval --config budgets/small --config digits/ipc1 --distilled {set}",
        ["'digits/ipc1' is given after 'budgets/small'", "give first --config digits/ipc1, then --config budgets"],
    ),
    "budget before the method": (
        "fit --config digits/ipc1 --config budgets/small --config methods/dc",
        ["'methods/dc' is given after 'budgets/small'", "give first --config methods/dc, then --config budgets/small"],
    ),
    "recipe before the schedule": (
        "eval --config recipes/rded --config digits/ipc1 --distilled {set}",
        ["'digits/ipc1' is given after 'recipes/rded'", "give first --config digits/ipc1, then --config recipes/rded"],
    ),
    "no schedule": ("fit --config methods/dm", ["--trainer.max_steps N, at least 1, as schedules such as"]),
    "no dataset, eval": (
        "eval --distilled {set}",
        ["the set was made from digits, and no dataset is named: give --config digits/ipc1, or --data.name digits"],
    ),
    "two methods": (
        f"{EARLY} --config methods/dm --config methods/idm",
        ["two methods are given, 'methods/dm' and 'methods/idm'", "not over another method"],
    ),
    "lr, eval": (f"{EARLY_EVAL} --evaluation.lr .inf", ["--evaluation.lr must be positive and finite, got inf"]),
    "epochs, eval": (f"{EARLY_EVAL} --evaluation.epochs 0", ["--evaluation.epochs must be at least 1, got 0"]),
    "baseline, eval": (
        f"{EARLY_EVAL} --baselines [randm]", ["--baselines must be one of tiles, random, .*, got randm", "mean random"]
    ),
    "baselines, eval": (f"{EARLY_EVAL} --baselines tiles,hoarding", ["got hoarding", "did you mean herding"]),
    "trainer of nothing, eval": (f"{EVAL_SET} --config {{no_trainer}}", ["--trainer must be settings", "got None"]),
    "length of fit, eval": (f"{EVAL_SET} --trainer.max_steps 3", ["max_steps is for bacon fit: an evaluation takes"]),
    "length as text, eval": (f'{EVAL_SET} --trainer {{"max_steps":3}}', ["--trainer.max_steps is for bacon fit"]),
    "time as text, eval": (f'{EVAL_SET} --trainer.max_time {{"minutes":1}}', ["--trainer.max_time is for bacon fit"]),
    "time of fit, eval": (f"{EVAL_SET} --trainer.max_time 00:01:00:00", ["max_time is for bacon fit"]),
    "part of the steps, eval": (f"{EVAL_SET} --trainer.limit_train_batches 3", ["limit_train_batches 3.* would cut"]),
    "part of the test, eval": (f"{EVAL_SET} --trainer.limit_test_batches .5", ["limit_test_batches 0.5 would cut"]),
    "trial of the Trainer, eval": (f"{EVAL_SET} --trainer.fast_dev_run true", ["fast_dev_run True would cut", "try"]),
    "fit's option, eval": (f"{EARLY_EVAL} --model.ipc 3", ["unknown option --model.ipc: bacon eval", "bacon fit does"]),
    "fit's checkpoint, eval": (f"{EARLY_EVAL} --ckpt_path last", ["unknown option --ckpt_path: bacon eval does not"]),
    "eval's option, fit": (f"{EARLY} --baselines tiles", ["unknown option --baselines: bacon fit", "bacon eval does"]),
    "eval's recipe, fit": (f"{EARLY} --evaluation.epochs 3", ["unknown option --evaluation.epochs: bacon fit"]),
    "results are there": (f"{EVAL} --distilled {{set}} --out {{out}}", ["'{out}' holds results", "--overwrite true"]),
    "steps 0": (f"{EARLY} --trainer.max_steps 0", ["--trainer.max_steps N, at least 1"]),
    "epochs 0": (f"{EARLY} --trainer.max_epochs 0", ["--trainer.max_epochs 0", "--trainer.max_steps N"]),
    "steps negative": (f"{EARLY} --trainer.max_steps -5", ["max_steps", "-5", "fix the --trainer options"]),
    "seed negative": (f"{EARLY} --seed_everything -1", ["--seed_everything must be a whole number from 0", "got -1"]),
    "seed text": (f"{EARLY} --seed_everything one", ["--seed_everything must be .* a whole number, got one"]),
    "mean text": (f"{EARLY} --data.mean [a]", ["--data.mean must be a list of numbers or null, got", "'a'"]),
    "mean of two": (f"{EARLY} --data.mean [.1,.2]", ["--data.mean must have one number per channel"]),
    "std 0": (f"{EARLY} --data.std [0]", [r"--data.std .* in \(0, 1\], got \[0"]),
    "image size 0": (f"{EARLY} --data.image_size 0", ["--data.image_size must be at least 1, got 0"]),
    "test fraction": (f"{EARLY} --data.test_fraction 1.5", ["--data.test_fraction must be between 0 and 1", "1.5"]),
    "val fraction": (f"{EARLY} --data.val_fraction 1", ["--data.val_fraction must be at least 0 and below 1"]),
    "batch": (f"{EARLY} --data.batch_real 0", ["--data.batch_real must be at least 1, got 0"]),
    "bad-image rule": (f"{EARLY} --data.on_bad_image skp", ["must be one of error, skip, got skp", "mean skip"]),
    # devices
    "GPUs": (
        f"{EARLY} --trainer.accelerator gpu --trainer.devices 64", ["gpu", "fix the --trainer options"],
        {"env": {"CUDA_VISIBLE_DEVICES": ""}},
    ),
    "CPUs": (f"{EARLY} --trainer.devices 4096", ["--trainer.devices 4096", "4096|processes", "give at most"]),
    "spawned processes": (f"{EARLY} --trainer.strategy ddp_spawn --trainer.devices 2", ["ddp_spawn", "use ddp, whose"]),
    "no checkpoints": (f"{EARLY} --trainer.enable_checkpointing false", ["enable_checkpointing False", "leave it out"]),
    "barebones": (f"{EARLY} --trainer.barebones true", ["--trainer.barebones True does not go with", "leave it out"]),
    "devices 0": (f"{EARLY} --trainer.devices 0", ["devices", "fix the --trainer options"]),
    "devices text": (f"{EARLY} --trainer.devices some", ["devices", "fix the --trainer options"]),
    "accelerator": (f"{EARLY} --trainer.accelerator warp", ["'warp'", "Available names", "fix the --trainer"]),
    "strategy": (f"{EARLY} --trainer.strategy nope", ["'nope'", "fix the --trainer options"]),
    "precision": (f"{EARLY} --trainer.precision 12", ["--trainer.precision must be one of .*bf16-mixed.*, got 12"]),
    # files that settings name
    "config missing": (f"{EARLY} --config {{no}}", ["--config: .*not exist", "{no}", "give a YAML file"]),
    "config a folder": (f"{EARLY} --config {{empty}}", ["--config: .*not a file", "{empty}", "give a YAML file"]),
    "config binary": (f"{EARLY} --config {{binary}}", ["--config", "not text", "utf-8", "give a YAML file"]),
    "config a list": (f"{EARLY} --config {{list}}", ["--config", "not YAML with settings", "give a YAML file"]),
    "config empty": (f"{EARLY} --config {{empty_file}}", ["{empty_file}' is empty", "leave it out"]),
    "config with a setting twice": (
        f"{EARLY} --config {{twice}}", ["{twice}' gives 'model.ipc' twice, in lines 2 and 4"]
    ),
    "config within itself": (f"{EARLY} --config {{itself}}", ["{itself}' refers to itself", "give a YAML file"]),
    "config without end": (f"{EARLY} --config /dev/zero", ["'/dev/zero' is a device", "give a YAML file"]),
    "config a pipe": (f"{EARLY} --config {{pipe}}", ["{pipe}' is a pipe", "give a YAML file"]),
    "config without settings": (f"{EARLY} --config {{nulls}}", ["unknown option --nonsense", "{nulls}"]),
    "config no YAML": (f"{EARLY} --config {{yaml}}", ["--config", "not YAML", "line 2", "give a YAML file"]),
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
        f"{EVAL} --data.name mnist --data.root {{no}} --distilled {{set}} --out {{sealed}}/below",
        ["{sealed}", "Permission denied", "--out"], {"humble": True},
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
    "shared without scores": (f"{EVAL} --distilled {{set}} --shared kept", ["--shared keeps", "leave it out"]),
    "folder of runs": (f"{EVAL} --distilled {{runs}}", ["no distilled set at '{runs}", "such as '{runs}/second'"]),
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


def arguments(command: str, bad: dict[str, Path], out: Path) -> list[str]:
    places = {**bad, "out": out}
    args = [re.sub(r"\{(\w+)\}", lambda found: str(places[found[1]]), word) for word in command.split()]
    return args + ONTO if args[0] == "fit" else args


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
