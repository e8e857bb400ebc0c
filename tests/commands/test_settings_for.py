"""Settings that a configuration holds for a number of images, a method or a budget."""

import pytest

from tests.commands.test_config_names import printed


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


OF_BUDGETS = """
model: {lr: 1.0, momentum: 0.25}
for:
  budgets/small: {for: {mnist: {model: {lr: 2.0}}}}
  budgets/medium: {model: {lr: 3.0}}
  budgets/full: {model: {momentum: 0.9}}
"""
OF_METHODS = """
model: {momentum: 0.25}
for:
  ipc10: {model: {momentum: 0.5}}
  cifar10: {model: {momentum: 0.75}}
  methods/dm:
    model: {lr: 2.0}
    for:
      mnist: {model: {lr: 3.0}}
      ipc1: {model: {lr: 4.0}}
"""


@pytest.mark.parametrize(
    ("configs", "numbers"),
    [
        (["mnist/ipc10", "methods/dm"], (3.0, 0.5)),
        (["mnist/ipc1", "methods/dm"], (3.0, 0.25)),  # a dataset is more than a number of images
        (["svhn/ipc1", "methods/dm"], (4.0, 0.25)),
        (["svhn/ipc10", "methods/dm"], (2.0, 0.5)),
        (["cifar10/ipc10", "methods/idm"], (0.2, 0.75)),
    ],
)
def test_settings_for_a_number_of_images_or_a_method(configs, numbers, tmp_path, capsys):
    (tmp_path / "budget.yaml").write_text(OF_METHODS)
    given = [word for config in [*configs, "budget.yaml"] for word in ("--config", config)]
    model = printed(capsys, "fit", *given)["model"]
    assert (model["lr"], model["momentum"]) == numbers
    later = printed(capsys, "fit", "--config", "budget.yaml", *given[:4])["model"]
    assert later["momentum"] == 0.5  # what comes later is not heeded


@pytest.mark.parametrize("option", [("--model.ipc", "1"), ("--model.ipc=1",), ('--config={"model": {"ipc": 1}}',)])
def test_a_number_of_images_that_is_typed_chooses_too(option, tmp_path, capsys):
    (tmp_path / "budget.yaml").write_text(OF_METHODS)
    given = [word for config in ("svhn/ipc10", "methods/dm", "budget.yaml") for word in ("--config", config)]
    model = printed(capsys, "fit", *given, *option)["model"]
    assert (model["ipc"], model["lr"], model["momentum"]) == (1, 4.0, 0.25)
    model = printed(capsys, "fit", *option, *given)["model"]  # which the schedule overrides
    assert (model["ipc"], model["lr"], model["momentum"]) == (10, 2.0, 0.5)


@pytest.mark.parametrize(
    ("budget", "numbers"), [(None, (1.0, 0.25)), ("small", (2.0, 0.25)), ("medium", (3.0, 0.25)), ("full", (1.0, 0.9))]
)
def test_settings_for_a_budget_that_is_laid_over(budget, numbers, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(OF_BUDGETS)
    over = [] if budget is None else ["--config", f"budgets/{budget}"]
    model = printed(capsys, "fit", "--config", "mnist/ipc10", "--config", "mine.yaml", *over)["model"]
    assert (model["lr"], model["momentum"]) == numbers
    # As with a tuned method, which extends its own.
    (tmp_path / "above.yaml").write_text("extends: mine.yaml\nmodel: {lr: 7.0}")
    assert printed(capsys, "fit", "--config", "mnist/ipc10", "--config", "above.yaml", *over)["model"]["lr"] == 7.0


def test_a_file_of_ones_own_may_hold_a_schedule_and_a_budget(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text("extends: [mnist/ipc10, budgets/small]\n")
    found = printed(capsys, "fit", "--config", "base.yaml", "--config", "methods/dm")
    assert (found["model"]["method"], found["trainer"]["max_steps"]) == ("dm", 200)


def test_no_mirroring_may_be_given_last(capsys):
    given = [f"--config={name}" for name in ("folder/ipc10", "methods/dsa", "augment/unmirrored")]
    model = printed(capsys, "fit", *given)["model"]
    assert "flip" not in str(model["augment"]) + str(model["networks"]["augment"])
