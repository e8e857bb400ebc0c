"""Every configuration file, alone and under every overlay: it composes, loses nothing and says what is published."""

import copy
import subprocess
import sys
import warnings
from functools import cache, reduce

import pytest

from bacon_pl.cli import main
from bacon_pl.config_files import layers
from tests.commands.settings_trees import laid_over, leaves, load, plain, says
from tests.paths import CONFIGS, ROOT
from tests.thinned import fast, thinned

EXPERIMENTS = sorted(CONFIGS.glob("*/ipc*.yaml"))
METHODS = sorted((CONFIGS / "methods").glob("*.yaml"))
SELECTIONS = {
    "tiles": ("drawn", 2),
    "random": ("drawn", 1),
    "herding": ("herding", 1),
    "k_center": ("k_center", 1),
    "rded": ("rded", 1),
}
# Methods of the default family; those of others choose theirs by class_path.
MATCHING = [path for path in METHODS if not any("class_path" in layer.settings["model"] for layer in layers(str(path)))]
ABLATION = sorted((CONFIGS / "ablation").glob("*.yaml"))
SMALL, FULL = CONFIGS / "budgets/small.yaml", CONFIGS / "budgets/full.yaml"
PUBLISHED = CONFIGS / "published.yaml"

# docs/methods/frame.md: w, real images per class, iterations between networks, training steps, accuracy window.
SCHEDULES = {
    ("mnist", 1): (0.5, 5000, 5, 10, 100),
    ("mnist", 10): (0.5, 256, 30, 10, 100),
    ("mnist", 50): (0.5, 256, 30, 10, 100),
    ("fashion_mnist", 1): (0.5, 5000, 5, 10, 100),
    ("fashion_mnist", 10): (0.5, 256, 30, 10, 100),
    ("fashion_mnist", 50): (0.5, 256, 30, 10, 100),
    ("svhn", 1): (0.5, 5000, 5, 10, 100),
    ("svhn", 10): (0.5, 256, 30, 10, 100),
    ("svhn", 50): (0.1, 256, 30, 10, 500),
    ("cifar10", 1): (0.5, 5000, 5, 10, 100),
    ("cifar10", 10): (0.5, 256, 30, 10, 100),
    ("cifar10", 50): (0.1, 256, 30, 10, 500),
    ("cifar100", 1): (0.5, 5000, 5, 10, 100),
    ("cifar100", 10): (0.1, 256, 30, 50, 100),
    ("cifar100", 50): (0.1, 256, 30, 50, 500),
    ("tiny_imagenet", 1): (0.5, 256, 30, 10, 100),
    ("tiny_imagenet", 10): (0.5, 256, 30, 50, 500),
}
# Not of the paper.
OWN = {
    ("digits", 1): (0.5, 128, 5, 10, 100),
    ("folder", 10): (0.5, 256, 30, 10, 100),
    ("tiny_imagenet", 50): (0.5, 256, 30, 50, 500),
}

BAYES = {"class_path": "BaconObjective", "init_args": {"tv_weight": 0.8, "clip": "none"}}
MEANS = {"class_path": "MeanMatching"}
BOTH = {"class_path": "Combined", "init_args": {"objectives": [MEANS, BAYES], "weights": None}}
OBJECTIVES = {"bacon": BAYES, "idm": MEANS, "dm": MEANS, "idm+bacon": BOTH, "dm+bacon": BOTH}
OBJECTIVES |= {
    "datadam": {"class_path": "DataDAM", "init_args": {"power": 4.0, "weight": 0.01}},
    "iid": {"class_path": "IID", "init_args": {"covariance": 0.03, "center": 0.01, "rows": 1}},
    "iid-dm": {"class_path": "IID", "init_args": {"covariance": 0.01, "center": 0.05, "rows": 1}},
    "m3d": {"class_path": "M3D", "init_args": {"kernel": "gaussian", "bandwidth": None}},
    "ncfm": {"class_path": "NCFM", "init_args": {"weight": 300.0, "frequencies": 4096, "sampler": None}},
    "ncfm-sampler": {
        "class_path": "NCFM",
        "init_args": {"weight": 300.0, "frequencies": 1024, "sampler": {"lr": 1e-3, "momentum": 0.5}},
    },
}
OBJECTIVES["best"] = {"class_path": "NCFM", "init_args": {"weight": 1000.0, "frequencies": 1024, "sampler": None}}
# Methods that have a frame of their own, not IDM's: factor, cross-entropy, learning rate, momentum, a step per class;
# what the pool is; and real images of a class.
DM = (1, 0.0, 1.0, 0.5, False), (1, 1, 1, 0)
FRAMES = {
    "dm": (*DM, 256),
    "dm+bacon": (*DM, 256),
    "iid-dm": (*DM, 256),
    "datadam": (*DM, 64),
    "m3d": ((2, 0.0, 10.0, 0.5, True), (1, 5, 1, 0), 128),
    "ncfm": ((2, 0.0, 0.001, 0.5, True), None, 1024),  # pairs in place of the pool
    "ncfm-sampler": ((2, 0.0, 0.001, 0.5, True), None, 1024),
}
# What differs on some data, and the methods whose networks are deeper on TinyImageNet.
RATES = {("ncfm", "cifar100", 10): 0.01, ("ncfm-sampler", "cifar100", 10): 0.01}
ROWS = {("iid", "tiny_imagenet"): 2}
DEEPER = ("datadam", "ncfm", "ncfm-sampler")

# What each file changes, beside the method's name.
ABLATIONS = {
    "ce-unweighted": {"model.cross_entropy.weight": 20.0, "model.cross_entropy.accuracy": "none"},
    "lambda-0.0": {"model.objective.init_args.tv_weight": 0.0, "model.objective.init_args.clip": "acting"},
    "lambda-0.2": {"model.objective.init_args.tv_weight": 0.2, "model.objective.init_args.clip": "acting"},
    "lambda-0.5": {"model.objective.init_args.tv_weight": 0.5, "model.objective.init_args.clip": "acting"},
    "lambda-0.8": {"model.objective.init_args.clip": "acting"},
    "lambda-1.0": {"model.objective.init_args.tv_weight": 1.0, "model.objective.init_args.clip": "acting"},
    "likelihood": {"model.objective.init_args.tv_weight": 0.0},
    "likelihood+tv": {},
    "no-ce": {"model.cross_entropy.weight": None, "model.cross_entropy.accuracy": None},
    "partition-1": {"model.factor": 1},
    "partition-3": {"model.factor": 3},
    "symmetric": {"model.objective.init_args.clip": "symmetric"},
}


def named(config):
    return f"{config.parent.name}-{config.stem}"


def ce_weight(model):
    """Weight of the cross-entropy; 0 where a method has none."""
    return 0.0 if model["cross_entropy"] is None else model["cross_entropy"]["weight"]


@cache
def written(config):
    """What a file says, on top of what it extends."""
    own = load(config.read_text())
    below = own.pop("extends", [])
    files = [ROOT / f"configs/{name}.yaml" for name in ([below] if isinstance(below, str) else below)]
    return reduce(laid_over, [*map(written, files), own])


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.fixture
def printed(capsys, known):
    """Print the settings of a command under configuration files, quietly, and compare them with what the files say."""

    def run(command, *configs):
        key = (command, *configs)
        if key in known:
            return known[key]
        options = [option for config in configs for option in ("--config", str(config))]
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            with pytest.raises(SystemExit) as end:
                main([command, *options, *(["--distilled", "x"] if command == "eval" else []), "--print_config"])
        out, err = capsys.readouterr()
        assert not end.value.code and not err
        settings = plain(load(out))
        given = {}
        for config in configs:
            given = laid_over(given, written(config))
            name = given.get("data", {}).get("name")
            for key in (name, f"{name}/ipc{given.get('model', {}).get('ipc')}"):
                given = laid_over(given, written(config).get("for", {}).get(key, {}))
        read = {"fit": ("data", "trainer", "model", "validation"), "eval": ("data", "trainer", "evaluation")}[command]
        if "Selection" in str(given.get("model", {}).get("class_path")):  # trains no networks before a run
            given["model"].pop("pretraining", None)
        for section in read:
            assert says(settings[section], given.get(section, {})), section
        known[key] = settings
        return settings

    return run


def test_every_table_is_complete():
    found = {(path.parent.name, int(path.stem[3:])) for path in EXPERIMENTS}
    assert found == SCHEDULES.keys() | OWN.keys()
    assert {path.stem for path in MATCHING} == OBJECTIVES.keys()
    assert {path.stem for path in METHODS} >= SELECTIONS.keys()
    assert {path.stem for path in ABLATION} == ABLATIONS.keys()
    for crossed, methods in ((SELECTED, set(SELECTIONS)), (CROSSED, set(MATCHING))):
        configs, crossed_methods = map(set, zip(*fast(crossed), strict=True))
        assert configs == set(EXPERIMENTS) and crossed_methods == methods, "the fast suite leaves one out"


@pytest.mark.parametrize("config", EXPERIMENTS, ids=named)
def test_every_config_is_bacon_at_the_published_schedule(config, printed):
    name, ipc = config.parent.name, int(config.stem[3:])
    fit, evaluation = printed("fit", config), printed("eval", config)
    data, model, pool = fit["data"], fit["model"], fit["model"]["pool"]
    assert (data["name"], model["ipc"], model["method"]) == (name, ipc, "")  # BACON's own, by its objective
    assert model["factor"] == (1 if name == "digits" else 2)
    assert (model["lr"], model["momentum"], model["per_class_steps"]) == (0.2, 0.5, True)
    assert (pool["initial"], pool["capacity"], pool["train_networks"]) == (3, 100, 2)
    assert (pool["lr"], pool["momentum"], pool["weight_decay"]) == (0.01, 0.9, 5e-4)
    found = (ce_weight(model), data["batch_real"], pool["push_every"], pool["train_steps"], model["accuracy_window"])
    assert found == {**SCHEDULES, **OWN}[name, ipc]
    assert model["objective"]["class_path"] == "BaconObjective"
    recipe = evaluation["evaluation"]
    assert (recipe["batch_size"], recipe["lr"], recipe["momentum"], recipe["weight_decay"]) == (256, 0.01, 0.9, 5e-4)
    if (name, ipc) in SCHEDULES:
        assert model["objective"] == BAYES and model["cross_entropy"]["accuracy"] == "percent"
        assert fit["trainer"]["max_steps"] == 20_000 and data["pool_batch"] == 256
        assert (recipe["epochs"], recipe["num_networks"], recipe["lr_drop"]) == (1000, 5, 0.1)
        for network in (model["network"], recipe["network"]):
            assert says(network, {"class_path": "ConvNet", "init_args": {"width": 128, "depth": 3}})


@pytest.mark.parametrize("command", ["fit", "eval"])
def test_the_full_budget_is_what_configs_have_by_themselves(command, printed):
    config = CONFIGS / "tiny_imagenet/ipc10.yaml"
    assert printed(command, config, FULL) == printed(command, config)


SELECTED = thinned([(config, method) for config in EXPERIMENTS for method in SELECTIONS], every=4)


@pytest.mark.parametrize(("config", "method"), SELECTED, ids=lambda v: v if isinstance(v, str) else named(v))
def test_every_selection_composes_with_every_config_and_budget(config, method, printed):
    rule, factor = SELECTIONS[method]
    below = printed("fit", config)["model"]
    for model in (
        printed("fit", config, CONFIGS / f"methods/{method}.yaml", *budget)["model"] for budget in ((), (SMALL,))
    ):
        assert (model["class_path"], model["method"], model["rule"]) == ("Selection", method, rule)
        assert model["factor"] == min(factor, below["factor"])
        assert (model["ipc"], model["augment"]) == (
            below["ipc"],
            below["augment"],
        )  # what the schedule says of the data
        assert "lr" not in model and "pool" not in model


# One schedule of each kind: a method's file does not know the others, but for its section `for`.
KINDS = ("cifar10-ipc1", "cifar10-ipc10", "cifar100-ipc10", "digits-ipc1", "mnist-ipc10", "tiny_imagenet-ipc10")
CROSSED = thinned(
    [
        (config, method)
        for config in EXPERIMENTS
        for method in MATCHING
        if method.stem in ("bacon", "idm", "dm", "idm+bacon", "dm+bacon") or named(config) in KINDS
    ],
    every=5,
)


@pytest.mark.parametrize(("config", "method"), CROSSED, ids=named)
def test_every_method_composes_with_every_config_and_budget(config, method, printed):
    key = config.parent.name, int(config.stem[3:])
    weight, batch_real, push, steps, window = {**SCHEDULES, **OWN}[key]
    evaluation = printed("eval", config, method, SMALL)
    depth = 4 if method.stem in DEEPER and key[0] == "tiny_imagenet" else 2 if key[0] == "digits" else 3
    wanted = copy.deepcopy(printed("eval", config, SMALL)["evaluation"])
    wanted["network"]["init_args"]["depth"] = depth
    assert evaluation["evaluation"] == wanted
    assert (evaluation["evaluation"]["epochs"], evaluation["evaluation"]["num_networks"]) == (200, 3)
    whole, small = printed("fit", config, method), printed("fit", config, method, SMALL)
    assert small["model"]["network"] == evaluation["evaluation"]["network"]
    for fit in (whole, small):
        model, pool = fit["model"], fit["model"]["pool"]
        objective = copy.deepcopy(OBJECTIVES[method.stem])
        if (rows := ROWS.get((method.stem, key[0]))) is not None:
            objective["init_args"]["rows"] = rows
        assert model["method"] == method.stem and says(model["objective"], objective)
        life = pool["initial"], pool["push_every"], pool["capacity"], pool["train_networks"]
        frame = model["factor"], ce_weight(model), model["lr"], model["momentum"], model["per_class_steps"]
        if method.stem in FRAMES:
            own, networks, _ = FRAMES[method.stem]
            assert frame == (*own[:2], RATES.get((method.stem, *key), own[2]), *own[3:])
            assert life == networks or (networks is None and model["pairs"]["count"] == 20)
        elif method.stem == "best":
            gray = key[0] in ("mnist", "fashion_mnist")
            by_data = {"digits": 1, "mnist": 2, "fashion_mnist": 2}
            factor = {("mnist", 1): 3, ("cifar10", 1): 6}.get(key, by_data.get(key[0], 4))
            assert frame == (factor, *((0.0, 0.2) if gray else (weight, 0.5)), 0.5, True)
            assert life == (3, push, 100, 2) and pool["lr"] == (0.01 if gray else 0.05)
            assert model["upscaling"] == "bicubic" and model["start"]["scaling"] == ("nearest" if gray else "bilinear")
        else:
            assert frame == (1 if key[0] == "digits" else 2, weight, 0.2, 0.5, True)
            assert life == (3, push, 100, 2)
            assert (pool["train_steps"], model["accuracy_window"]) == (steps, window)
    assert whole["data"]["batch_real"] == (FRAMES[method.stem][2] if method.stem in FRAMES else batch_real)
    assert small["data"]["batch_real"] == evaluation["data"]["batch_real"] == 128
    assert (small["trainer"]["max_steps"], small["data"]["pool_batch"]) == (200, 64)
    assert small["model"]["network"]["init_args"]["width"] == 32
    assert small["model"]["network"]["init_args"]["depth"] == depth


def test_best_has_tiles_of_its_own_where_a_class_has_one_image(printed):
    best = next(path for path in METHODS if path.stem == "best")
    schedules = {path: named(path) for path in EXPERIMENTS if path.stem == "ipc1"}
    found = {name: printed("fit", path, best)["model"]["factor"] for path, name in schedules.items()}
    others = dict.fromkeys(("cifar100-ipc1", "svhn-ipc1", "tiny_imagenet-ipc1"), 4)
    assert found == {"cifar10-ipc1": 6, "mnist-ipc1": 3, "fashion_mnist-ipc1": 2, "digits-ipc1": 1, **others}


@pytest.mark.parametrize("config", thinned(EXPERIMENTS, every=2), ids=named)
def test_digits_are_not_mirrored_but_where_published_code_does(config, printed):
    def groups(*overlays):
        augments = (
            printed("fit", config, *overlays)["model"]["augment"],
            printed("eval", config, *overlays)["evaluation"]["augment"],
        )
        assert all(a["class_path"] == "DSA" for a in augments)
        one, other = (sorted(a["init_args"]["strategies"]) for a in augments)
        assert one == other
        return one

    everything = ["color", "crop", "cutout", "flip", "rotate", "scale"]
    digits = config.parent.name in ("mnist", "svhn", "digits")
    assert groups() == [group for group in everything if not digits or group != "flip"]
    assert groups(PUBLISHED) == everything


@pytest.mark.parametrize("config", thinned(EXPERIMENTS, every=2), ids=named)
def test_published_choices_change_the_objective_and_augmentation_alone(config, printed):
    before, after = (leaves(printed("fit", config, *overlay)) for overlay in ((), (PUBLISHED,)))
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"model.augment.init_args.strategies", "model.objective.init_args.clip"}
    assert after["model.objective.init_args.clip"] == "none" and after["model.cross_entropy.accuracy"] == "percent"


ABLATED = [
    (dataset, ablation)
    for i, ablation in enumerate(ABLATION)
    for dataset in (("mnist", "cifar10") if i % 2 else ("cifar10", "mnist"))
]


@pytest.mark.parametrize(("dataset", "ablation"), thinned(ABLATED, every=2), ids=lambda v: getattr(v, "stem", v))
def test_every_ablation_changes_what_it_names_and_nothing_else(dataset, ablation, printed):
    config = CONFIGS / dataset / "ipc10.yaml"
    before, after = (leaves(printed("fit", config, *overlay)) for overlay in ((), (ablation,)))
    changed = {name: after.get(name) for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"model.method": ablation.stem, **ABLATIONS[ablation.stem]}
    assert printed("eval", config, ablation) == printed("eval", config)


def test_the_command_itself_prints_the_same(printed):
    configs = [CONFIGS / "cifar100/ipc10.yaml", CONFIGS / "methods/idm+bacon.yaml", SMALL]
    options = [option for config in configs for option in ("--config", str(config))]
    command = [sys.executable, "-m", "bacon_pl", "fit", *options, "--print_config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert plain(load(done.stdout)) == printed("fit", *configs)
