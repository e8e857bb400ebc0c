"""The published schedules of trajectory matching: what a dataset's schedule and a method resolve to."""

import pytest

from bacon_pl.commands.settings import settings_of
from tests.thinned import thinned

# Of arXiv 2203.11932, 2211.11004, 2211.10586 and 2310.05773, as their codes and readmes have them: steps, epochs of the
# expert, first and last start epoch (exclusive), batch, whitening, learning rates of images and step size, step size.
SCHEDULES = {
    "mtt": {
        ("cifar10", 1): (50, 2, 0, 2, None, True, 100, 1e-7, 0.01),
        ("cifar10", 10): (30, 2, 0, 20, None, True, 100, 1e-5, 0.001),
        ("cifar10", 50): (30, 2, 0, 40, None, False, 1000, 1e-5, 0.001),
        ("cifar100", 1): (20, 3, 0, 20, None, True, 1000, 1e-5, 0.01),
        ("cifar100", 10): (20, 2, 0, 20, None, False, 1000, 1e-5, 0.01),
        ("cifar100", 50): (80, 2, 0, 40, 125, True, 1000, 1e-5, 0.01),
        ("tiny_imagenet", 1): (10, 2, 0, 10, None, False, 10000, 1e-4, 0.01),
        ("tiny_imagenet", 10): (20, 2, 0, 40, 200, False, 10000, 1e-4, 0.01),
        ("tiny_imagenet", 50): (20, 2, 0, 40, 300, False, 10000, 1e-4, 0.01),
    },
    "ftd": {
        ("cifar10", 1): (50, 2, 0, 2, None, True, 100, 1e-7, 0.01),
        ("cifar10", 10): (30, 2, 0, 20, None, True, 100, 1e-5, 0.001),
        ("cifar10", 50): (30, 2, 0, 40, None, False, 1000, 1e-5, 0.01),
        ("cifar100", 1): (40, 3, 0, 20, None, True, 1000, 1e-5, 0.01),
        ("cifar100", 10): (20, 2, 0, 40, None, False, 1000, 1e-5, 0.01),
        ("cifar100", 50): (80, 2, 0, 40, 1000, True, 1000, 1e-5, 0.01),
        ("tiny_imagenet", 1): (30, 2, 0, 10, None, False, 10000, 1e-4, 0.01),
        ("tiny_imagenet", 10): (20, 2, 0, 40, 500, False, 10000, 1e-4, 0.01),
    },
    "tesla": {
        ("cifar10", 1): (50, 2, 0, 5, None, False, 1000, 1e-7, 0.01),
        ("cifar100", 50): (80, 2, 0, 40, 125, True, 1000, 1e-5, 0.01),
    },
    "datm": {
        ("cifar10", 1): (80, 2, 0, 4, None, True, 100, 1e-7, 0.01),
        ("cifar10", 10): (80, 2, 0, 20, None, True, 100, 1e-5, 0.01),
        ("cifar10", 50): (80, 2, 0, 40, None, True, 1000, 1e-5, 0.01),
        ("cifar100", 1): (40, 3, 0, 20, None, True, 1000, 1e-5, 0.01),
        ("cifar100", 10): (80, 2, 0, 50, None, True, 1000, 1e-5, 0.01),
        ("cifar100", 50): (80, 2, 20, 70, 1000, True, 1000, 1e-5, 0.01),
        ("tiny_imagenet", 1): (40, 2, 0, 20, None, True, 10000, 1e-4, 0.01),
        ("tiny_imagenet", 10): (40, 2, 10, 50, 500, True, 100, 1e-4, 0.01),
        ("tiny_imagenet", 50): (20, 2, 40, 70, 1000, True, 100, 1e-4, 0.01),
    },
}  # fmt: skip
AVERAGE = {("cifar10", 1): 0.9999, ("cifar10", 10): 0.9995, ("cifar100", 1): 0.9995, ("cifar100", 10): 0.9995}
EXPANSION = {
    ("cifar10", 10): (10, 1000), ("cifar10", 50): (20, 2000), ("cifar100", 1): (10, 1000), ("cifar100", 10): (30, 2000),
    ("tiny_imagenet", 1): (15, 2000),
}  # fmt: skip
LABELS = {("cifar10", 1): 5, ("cifar10", 10): 2, ("cifar10", 50): 2}


@pytest.mark.parametrize(
    ("method", "cell"), thinned([(m, cell) for m, cells in SCHEDULES.items() for cell in cells], every=4)
)
def test_every_published_schedule(method, cell):
    name, ipc = cell
    found = settings_of("fit", [f"--config={name}/ipc{ipc}", f"--config=methods/{method}"])
    model, experts = found["model"], found["model"]["experts"]
    assert SCHEDULES[method][cell] == (
        *(model.get(key) for key in ("inner_steps", "expert_epochs", "min_start", "max_start", "inner_batch")),
        found["data"].get("whitening") == "zca",
        *(model[key] for key in ("lr", "lr_step_size", "step_size")),
    )
    shape = model["network"]["init_args"]
    assert (shape["width"], shape["depth"]) == (128, 4 if name == "tiny_imagenet" else 3)
    assert (model["factor"], model["momentum"], model["ipc"]) == (1, 0.5, ipc)
    assert found["trainer"]["max_steps"] == (5_000 if method in ("mtt", "ftd") else 10_000)
    datm = method == "datm"
    trained = [experts[key] for key in ("count", "epochs", "batch_size", "lr", "momentum", "weight_decay")]
    assert trained == [100, 100 if datm else 50, 256, 0.01, 0, 0]
    gentle = datm or cell in (("cifar10", 1), ("cifar10", 10))
    flat = {"rho": 0.01, "alpha": 0.3 if gentle else 1.0} if method in ("ftd", "datm") else None
    assert experts.get("flat") == flat
    assert model["way"] == ("tesla" if method == "tesla" else "exact")
    assert model.get("average") == (AVERAGE.get(cell, 0.999) if method == "ftd" else None)
    if datm:
        first, iterations = EXPANSION.get(cell, (None, None))
        assert model.get("expansion") == (first and {"first": first, "iterations": iterations})
        assert (model["labels"], model["lr_labels"]) == ("learned", LABELS.get(cell, 10))
        assert model["threshold"] == (1.1 if cell == ("cifar10", 1) else 1.0)
        assert model["matched_start"] == (cell != ("cifar100", 50))
    else:
        assert (model["labels"], model["matched_start"], model.get("threshold"), model.get("expansion")) == (
            *("hard", False, None, None),
        )


@pytest.mark.parametrize("method", SCHEDULES)
def test_a_small_budget_shortens_them(method):
    configs = [f"--config={name}" for name in ("mnist/ipc10", f"methods/{method}", "budgets/small")]
    found = settings_of("fit", configs)
    model = found["model"]
    assert model["class_path"].endswith(".TrajectoryMatching") and found["trainer"]["max_steps"] == 200
    assert model["pretraining"]["student_steps"] == 10 and model["pretraining"]["epoch_steps"] == 60
    assert "flip" not in model["experts"]["augment"]["init_args"]["strategies"]


@pytest.mark.parametrize("method", ["mtt", "ftd", "tesla", "datm"])
def test_the_full_budget_is_what_a_method_has_by_itself(method):
    given = ["--config=cifar10/ipc10", f"--config=methods/{method}"]
    assert settings_of("fit", [*given, "--config=budgets/full"]) == settings_of("fit", given)
