"""The methods' published frames, wherever their papers have numbers: what a schedule and a method resolve to."""

from itertools import product

import pytest

from bacon_pl.commands.settings import settings_of

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


@pytest.mark.parametrize(("method", "name", "ipc"), [(m, *c) for m, cells in CELLS.items() for c in cells])
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
            assert (model["pairs"]["count"], model["pairs"]["epochs"]) == (20, 60)
    assert (model.get("reference") is not None) == method.startswith("iid")


@pytest.mark.parametrize(("name", "ipc"), [*product((*SMALL, "mnist", "fashion_mnist", "tiny_imagenet"), (1, 10, 50))])
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
