"""The methods' published frames, wherever their papers have numbers: what a schedule and a method resolve to."""

from itertools import product

import pytest

from bacon_pl.commands.settings import settings_of
from tests.thinned import thinned

PHOTOS = ("cifar10", "cifar100", "tiny_imagenet")
SMALL = ("svhn", "cifar10", "cifar100")
CELLS = {
    "datadam": [*product(PHOTOS, (1, 10, 50))],
    "iid": [*product(SMALL, (1, 10, 50)), ("tiny_imagenet", 10), ("tiny_imagenet", 50)],
    "iid-dm": [*product(SMALL, (10, 50))],
    "m3d": [*product(("mnist", "fashion_mnist", *SMALL), (1, 10, 50))],
    "ncfm": [*product(PHOTOS, (1, 10, 50))],
    "ncfm-sampler": [*product(PHOTOS, (1, 10, 50))],
}
DEEPER = ("datadam", "ncfm", "ncfm-sampler")
DSA = {"color", "crop", "cutout", "flip", "scale", "rotate"}


@pytest.mark.parametrize(("method", "name", "ipc"), thinned([(m, *c) for m, cells in CELLS.items() for c in cells], 4))
def test_every_cell_of_a_methods_paper_resolves_to_its_published_frame(method, name, ipc):
    configs = [f"--config={name}/ipc{ipc}", f"--config=methods/{method}"]
    fit, evaluation = settings_of("fit", configs), settings_of("eval", [*configs, "--distilled=x"])["evaluation"]
    model, data = fit["model"], fit["data"]
    deeper = name == "tiny_imagenet" and method in DEEPER
    for network in (model["network"], evaluation["network"]):
        shape = network["init_args"]
        assert network["class_path"].endswith(".ConvNet")
        assert (shape["width"], shape["depth"], shape["norm"]) == (128, 4 if deeper else 3, "instance")
    assert (data["name"], model["ipc"], fit["trainer"]["max_steps"]) == (name, ipc, 20_000)
    steps = (model["optimizer"], model["lr"], model["momentum"], model["weight_decay"], model.get("schedule"))
    where = model["space"], model["clamp_pixels"], model["per_class_steps"]
    objective = model["objective"]["init_args"]
    started = (model["factor"], model["start"]["images"], model["start"]["scaling"])
    augment = model["augment"]["class_path"].rpartition(".")[2], groups(model["augment"])
    if method in ("datadam", "iid", "iid-dm"):
        assert started == (2 if method == "iid" else 1, "tiles", "bilinear")
        assert (augment[0], set(augment[1])) == ("DSA", DSA - {"flip"} if name == "svhn" else DSA)
    else:
        assert started == (2, "tiles", "nearest") and augment == ("Chain", ["color", "crop", "cutout"])
    if method.startswith("iid"):
        reference = model["reference"]
        assert reference["network"]["class_path"].endswith(".ResNet18") and reference.get("augment") is None
        assert (reference["count"], reference["epochs"], reference["batch_size"]) == (10, 40, 256)
        assert (reference["lr"], reference["momentum"], reference["weight_decay"]) == (0.01, 0.9, 5e-4)
    match method:
        case "datadam":
            assert steps == ("sgd", 1.0, 0.5, 0.0, None) and where == ("normalized", False, False)
            assert (objective["weight"], objective["power"], data["batch_real"]) == (0.01, 4.0, 64)
        case "iid":
            assert steps == ("sgd", 0.2, 0.5, 0.0, None) and where == ("normalized", False, True)
            rows = 2 if name == "tiny_imagenet" else 1
            assert objective == {"covariance": 0.03, "center": 0.01, "rows": rows}
        case "iid-dm":
            assert steps == ("sgd", 1.0, 0.5, 0.0, None) and where == ("normalized", False, False)
            assert objective == {"covariance": 0.01, "center": 0.05, "rows": 1}
        case "m3d":
            assert steps == ("sgd", 10.0, 0.5, 0.0, None) and where == ("pixels", True, True)
            assert data["batch_real"] == 128
        case _:
            adamw = ("adamw", 0.001, 0.5, 5e-4, "plateau")  # AdamW does not use the momentum
            sgd = ("sgd", 0.01, 0.5, 0.0, "plateau")
            assert steps == (sgd if (name, ipc) == ("cifar100", 10) else adamw)
            assert where == ("pixels", True, True) and data["batch_real"] == 1024
            pairs = model["pairs"]
            assert (pairs["count"], pairs["epochs"], pairs["calibration"]) == (20, 60, 1.0)
            assert groups(pairs["augment"]) == ["color", "crop"]
            assert pairs["mixing"]["class_path"].endswith(".CutMix")
            assert pairs["mixing"]["init_args"]["probability"] == 0.5
    assert (model.get("reference") is not None) == method.startswith("iid")


@pytest.mark.parametrize(
    ("name", "ipc"), thinned([*product((*SMALL, "mnist", "fashion_mnist", "tiny_imagenet"), (1, 10, 50))], 4)
)
def test_rded_has_its_published_frame_on_every_dataset(name, ipc):
    model = settings_of("fit", [f"--config={name}/ipc{ipc}", "--config=methods/rded"])["model"]
    assert (model["ipc"], model["factor"], model["rule"]) == (ipc, 1, "rded")
    # 300 images and 5 crops of each; as many crops on a canvas as its size says: 1 at 32 and 64 pixels.
    assert {**model["crops"], "tiles": model["crops"].get("tiles")} == {
        "images": 300, "per_image": 5, "smallest": 0.08, "tiles": None,
    }  # fmt: skip
    observer = model["observer"]
    shape = observer["network"]["init_args"]
    assert observer["network"]["class_path"].endswith(".ConvNet")
    assert (shape["width"], shape["depth"], shape["norm"]) == (128, 4 if name == "tiny_imagenet" else 3, "batch")
    mirrored = "flip" in observer["augment"]["init_args"]["groups"]
    assert mirrored == (name not in ("mnist", "svhn"))
    assert (observer["count"], observer.get("file")) == (1, None)


# Gradient matching: iterations with a network and passes over the synthetic set after each of them.
LIVES = {1: (1, 1), 10: (10, 50), 50: (50, 10)}
BY_GRADIENTS = {"mnist": 28, "fashion_mnist": 28, "svhn": 32, "cifar10": 32, "cifar100": 32}
MIRRORED = {"fashion_mnist", "cifar10", "cifar100"}


def groups(augment):
    return augment["init_args"].get("groups") or augment["init_args"]["strategies"]


@pytest.mark.parametrize(("name", "ipc"), [*zip(BY_GRADIENTS, (1, 10, 50, 10, 1), strict=True)])
def test_dc_and_dsa_resolve_to_their_published_loops(name, ipc):
    for method in ("dc", "dsa"):
        fit = settings_of("fit", [f"--config={name}/ipc{ipc}", f"--config=methods/{method}"])
        model, networks = fit["model"], fit["model"]["networks"]
        assert (fit["data"]["name"], fit["data"]["batch_real"], model["ipc"], model["factor"]) == (name, 256, ipc, 1)
        assert (networks["renew_every"], networks["synthetic_epochs"]) == LIVES[ipc]
        assert fit["trainer"]["max_steps"] == 1001 * LIVES[ipc][0]
        assert (networks["real_steps"], networks["batch_size"], networks["lr"]) == (0, 256, 0.01)
        assert networks["momentum"] == networks["weight_decay"] == 0 and "mixing" not in networks
        assert (model["lr"], model["momentum"], model["per_class_steps"]) == (0.1, 0.5, False)
        assert (model["space"], model["clamp_pixels"], model.get("synthetic_batch")) == ("normalized", False, None)
        assert model["distance"]["class_path"].endswith("LayerwiseCosine")
        assert model["start"]["images"] == {"dc": "noise", "dsa": "tiles"}[method]
        if method == "dc":
            assert model["augment"]["class_path"].endswith("NoAugmentation") and "augment" not in networks
        else:
            wanted = {"color", "crop", "cutout", "scale", "rotate"} | ({"flip"} if name in MIRRORED else set())
            assert all(set(groups(augment)) == wanted for augment in (model["augment"], networks["augment"]))


@pytest.mark.parametrize(("name", "ipc"), [*product(BY_GRADIENTS, LIVES)])
def test_idc_resolves_to_its_published_frame(name, ipc):
    fit = settings_of("fit", [f"--config={name}/ipc{ipc}", "--config=methods/idc"])
    model, networks, data = fit["model"], fit["model"]["networks"], fit["data"]
    small = name in ("mnist", "fashion_mnist")
    assert (fit["trainer"]["max_steps"], data["batch_real"], data["pool_batch"]) == (200_000, 64, 64)
    assert (model["factor"], model["start"]) == (2, {"images": "tiles", "scaling": "nearest"})
    assert model["distance"]["class_path"].endswith("AbsoluteError" if small else "SquaredError")
    assert model["distance"]["init_args"]["tensors"] == "convolutions"
    lr = (1e-4 if small else 5e-3) * ipc / 10 * ((28 / 32) ** 2 if name == "fashion_mnist" else 1)
    assert model["lr"] == pytest.approx(lr, rel=1e-12) and model["momentum"] == 0.5
    assert (model["space"], model["clamp_pixels"], model["per_class_steps"]) == ("pixels", True, True)
    assert model["synthetic_batch"] == 128
    assert groups(model["augment"]) == ["color", "crop", "cutout"][: 2 if name == "mnist" else 3]
    assert groups(networks["augment"]) == ["color", "crop"]
    mixing = networks.get("mixing")
    assert (mixing is None) == (name == "mnist")
    assert mixing is None or mixing["init_args"] == {"alpha": 1.0, "probability": 0.5}
    assert (networks["renew_every"], networks["synthetic_epochs"]) == (100, 0)
    assert networks["real_steps"] == -(-(2000 if name.startswith("cifar") else 500) // 64)
    assert (networks["lr"], networks["momentum"], networks["weight_decay"]) == (0.01, 0.9, 5e-4)


def mirrors(settings):
    """Whether some augmentation among settings mirrors images."""
    if isinstance(settings, dict):
        return settings.get("flip") is True or any(map(mirrors, settings.values()))
    return "flip" in settings or any(map(mirrors, settings)) if isinstance(settings, list) else False


@pytest.mark.parametrize("schedule", ["folder/ipc10", "tiny_imagenet/ipc10"])
@pytest.mark.parametrize("method", ["dsa", "idc", "mtt", "datm", "ncfm", "rded", "sre2l", "cda"])
def test_where_nothing_is_to_be_mirrored_a_method_does_not_mirror(method, schedule):
    given = [f"--config={schedule}", "--config=augment/unmirrored", f"--config=methods/{method}"]
    assert not mirrors(settings_of("fit", given)["model"])
    if method not in ("idc", "ncfm"):  # which never do
        assert mirrors(settings_of("fit", [given[0], given[2]])["model"])
    if method in ("idc", "datm", "ncfm", "rded", "sre2l"):
        recipe = [*given[:2], f"--config=recipes/{method}", "--distilled", "x"]
        assert not mirrors(settings_of("eval", recipe)["evaluation"])


@pytest.mark.parametrize(("method", "name"), [("dc", "mnist"), ("dsa", "svhn"), ("idc", "cifar10")])
def test_a_small_budget_takes_larger_steps_and_trains_less_and_a_full_one_changes_nothing(method, name):
    given = [f"--config={name}/ipc10", f"--config=methods/{method}"]
    whole, small, full = (
        settings_of("fit", [*given, *budget])
        for budget in ((), ("--config=budgets/small",), ("--config=budgets/full",))
    )
    assert full == whole
    assert small["trainer"]["max_steps"] == 200 and small["model"]["network"]["init_args"]["width"] == 32
    assert small["model"]["lr"] > whole["model"]["lr"]
    one, other = (fit["model"]["networks"] for fit in (small, whole))
    assert one["synthetic_epochs"] + one["real_steps"] < other["synthetic_epochs"] + other["real_steps"]
    assert one["renew_every"] <= 20
