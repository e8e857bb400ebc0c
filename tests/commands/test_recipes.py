"""Recipes by name: each is what its paper says, for each dataset and size, and a small budget goes on top."""

import json

import pytest

from bacon_pl.commands.arguments import CommandLine
from bacon_pl.commands.evaluate_options import recipe_of, whole_recipe
from bacon_pl.commands.settings import settings_of
from bacon_pl.config_files import names
from bacon_pl.evaluation import recipe_lines
from bacon_pl.learners import Recipe

RECIPES = [name for name in names() if name.startswith("recipes/")]
# Of cifar10/ipc10: networks, epochs, batch, optimizer, learning rate, schedule, kind of labels.
PUBLISHED = {
    "recipes/dc": (20, 301, 256, "sgd", 0.01, "milestones", None),
    "recipes/dm": (20, 1001, 256, "sgd", 0.01, "milestones", None),
    "recipes/idm": (5, 1000, 256, "sgd", 0.01, "step", None),
    "recipes/mtt": (5, 1001, 256, "sgd", "stored", "milestones", None),
    "recipes/datm": (5, 1001, 128, "sgd", "stored", "milestones", "stored"),
    "recipes/rded": (3, 300, 50, "adamw", 0.001, "cosine", "teacher"),
    "recipes/sre2l": (3, 400, 128, "adamw", 0.001, "cosine", "teacher"),
    "recipes/ncfm": (10, 2000, 128, "adamw", 0.001, "milestones", None),
    "recipes/m3d": (5, 1000, 64, "sgd", 0.01, "step", None),
    "recipes/datadam": (10, 1801, 64, "sgd", 0.01, "milestones", None),
    "recipes/idc": (5, 1000, 64, "sgd", 0.01, "milestones", None),
    "recipes/ddranking": (5, 300, 256, "sgd", 0.01, "step", "teacher"),
}


def evaluation(schedule, recipe, *args):
    configs = [f"--config={name}" for name in (schedule, recipe) if name]
    return settings_of("eval", [*configs, *args, "--distilled", "x"])["evaluation"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_its_papers_and_takes_a_budget(recipe):
    found = evaluation("cifar10/ipc10", recipe)
    names = ("num_networks", "epochs", "batch_size", "optimizer", "lr", "schedule")
    source = (found.get("soft_labels") or {}).get("source")
    assert (*(found[name] for name in names), source) == PUBLISHED[recipe]
    small = evaluation("cifar10/ipc10", recipe, "--config=budgets/small")
    assert (small["num_networks"], small["epochs"], small["network"]["init_args"]["width"]) == (3, 200, 32)
    rest = {name: value for name, value in found.items() if name not in ("num_networks", "epochs", "network")}
    assert rest == {name: small[name] for name in rest}


@pytest.mark.parametrize(
    ("schedule", "groups", "mixes"),
    [
        ("cifar10/ipc10", ["flip", "color", ["crop", "scale", "rotate"]], True),
        ("fashion_mnist/ipc10", ["flip", "color", ["crop", "scale", "rotate"]], True),
        ("svhn/ipc1", ["color", ["crop", "scale", "rotate"]], True),
        ("mnist/ipc10", ["color", ["crop", "scale", "rotate"]], False),
    ],
)
def test_idc_chains_its_augmentation_and_does_not_mix_digits(schedule, groups, mixes):
    found = evaluation(schedule, "recipes/idc")
    assert found["augment"]["init_args"]["groups"] == groups
    assert (found.get("mixing") is not None) is mixes
    assert [int(part * found["epochs"]) for part in found["milestones"]] == [666, 833]


def test_a_recipe_over_a_budget_has_its_own_length():
    found = evaluation("cifar10/ipc10", "budgets/small", "--config=recipes/rded")
    assert (found["epochs"], found["num_networks"]) == (300, 3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_set_knows_whether_it_is_evaluated_as_it_was_meant_to_be(recipe):
    meant = ["--config=cifar10/ipc10", f"--config={recipe}"]
    own = whole_recipe(recipe_of(CommandLine(meant).sections("evaluation")))
    described, same = Recipe().described(), evaluation("cifar10/ipc10", recipe)
    assert len(recipe_lines(described, 0, own, same)) == 1
    (_, told) = recipe_lines(described, 0, own, {**same, "epochs": 7, "soft_labels": {"temperature": 3.0}})
    soft = "soft_labels with other settings" if same.get("soft_labels") else "soft_labels none (here given)"
    assert told.startswith("the run that made the set was meant for another recipe: ")
    assert f"epochs {same['epochs']} (here 7)" in told and soft in told
    wider = {**same, "network": {"class_path": same["network"]["class_path"], "init_args": {"width": 7}}}
    assert recipe_lines(described, 0, own, wider)[1].endswith("recipe: network with other settings")


def test_a_recipe_that_nobody_recorded_or_that_cannot_be_read_says_nothing():
    for recorded in (None, {}, "none", {"epochs": "many"}, {"no_such_setting": 3}):
        assert recipe_lines(Recipe().described(), 0, whole_recipe(recorded), {"epochs": 3})[1:] == []


def test_every_recipe_is_checked():
    assert set(RECIPES) == PUBLISHED.keys()


@pytest.mark.parametrize(
    ("schedule", "batch", "depth", "test_resize"),
    [
        ("cifar10/ipc1", 10, 3, None),
        ("cifar10/ipc50", 100, 3, None),
        ("cifar100/ipc1", 25, 3, None),
        ("cifar100/ipc50", 25, 3, None),
        ("tiny_imagenet/ipc10", 100, 4, 72),
    ],
)
def test_rdeds_batches_grow_with_the_set(schedule, batch, depth, test_resize):
    found = evaluation(schedule, "recipes/rded")
    assert (found["batch_size"], found["network"]["init_args"]["depth"]) == (batch, depth)
    assert found.get("test_resize") == test_resize
    assert found["network"]["init_args"]["norm"] == "batch"
    assert found["lr"] == (0.002 if schedule.startswith("cifar100/") else 0.001)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "tiny_imagenet", "digits"])
@pytest.mark.parametrize(("method", "setting"), [("rded", "observer"), ("sre2l", "teacher")])
def test_the_network_that_made_the_images_labels_them(method, setting, name):
    schedule = "digits/ipc1" if name == "digits" else f"{name}/ipc10"
    made = settings_of("fit", [f"--config={schedule}", f"--config=methods/{method}"])["model"][setting]
    found = evaluation(schedule, f"recipes/{method}")
    teacher = found["soft_labels"]["teacher"]
    assert {**teacher, "network": teacher.get("network") or found["network"]} == made


@pytest.mark.parametrize(
    ("recipe", "schedule", "epochs", "depth", "norm"),
    [
        ("ncfm", "tiny_imagenet/ipc1", 2000, 4, "instance"),
        ("ncfm", "tiny_imagenet/ipc10", 300, 4, "instance"),
        ("ncfm", "tiny_imagenet/ipc50", 40, 4, "instance"),
        ("ncfm", "cifar100/ipc10", 2000, 3, "instance"),
        ("datadam", "tiny_imagenet/ipc10", 1801, 4, "batch"),
        ("datadam", "cifar10/ipc10", 1801, 3, "batch"),
        ("m3d", "svhn/ipc10", 1000, 3, "instance"),
    ],
)
def test_networks_and_epochs_are_those_of_the_dataset(recipe, schedule, epochs, depth, norm):
    found = evaluation(schedule, f"recipes/{recipe}")
    network = found["network"]["init_args"]
    assert (found["epochs"], network["depth"], network["norm"]) == (epochs, depth, norm)


def test_m3d_mixes_every_batch_and_half_of_those_of_digits():
    for schedule, epochs, probability in (("mnist/ipc10", 1500, 0.5), ("cifar10/ipc10", 1000, 1.0)):
        found = evaluation(schedule, "recipes/m3d")
        assert (found["epochs"], found["mixing"]["init_args"]["probability"]) == (epochs, probability)


@pytest.mark.parametrize("recipe", RECIPES)
def test_digits_are_never_mirrored(recipe):
    told = str(evaluation("mnist/ipc10", recipe))
    assert "'flip'" not in told.replace("'flip': False", "")


def test_a_teacher_may_be_trained_shorter():
    found = evaluation("cifar10/ipc10", "recipes/rded", "--evaluation.soft_labels.teacher.epochs=5")
    soft = found["soft_labels"]
    assert (soft["teacher"]["epochs"], soft["loss"], soft["temperature"]) == (5, "kl_unscaled", 20.0)


@pytest.mark.parametrize(
    ("last", "width"),
    [({"network": "MLP"}, 16), ({"network": {"width": 8}}, 8), ({"network": {"class_path": "ConvNet"}}, 16)],
)
def test_the_recipe_that_a_run_records_is_that_of_eval_with_its_configurations(last, width):
    """Another network keeps the arguments that it has, too, as the parser of a command does it."""
    wide = {"class_path": "bacon_pl.networks.ConvNet", "init_args": {"width": 16}}
    layers = [{"network": wide, "epochs": 300}, {"soft_labels": {"half": True}}, last, {"soft_labels": None}]
    found = recipe_of(layers)
    name = "MLP" if last["network"] == "MLP" else "ConvNet"
    network = {"class_path": f"bacon_pl.networks.{name}", "init_args": {"width": width}}
    assert found == {"network": network, "epochs": 300, "soft_labels": None}
    printed = settings_of("eval", [*(f"--config={json.dumps({'evaluation': one})}" for one in layers), "--distilled=x"])
    printed = printed["evaluation"]
    assert printed["network"]["class_path"] == network["class_path"]
    assert printed["network"]["init_args"]["width"] == width
    assert printed["epochs"] == 300 and printed.get("soft_labels") is None
    assert recipe_of([]) == {}
