"""``bacon eval --bound``: the numbers in all places, equal to those of the functions, on one process and on two."""

import json
import math
import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bacon_pl import rng
from bacon_pl.bound import BoundSettings, measure
from bacon_pl.cli import main
from bacon_pl.data import DataModule, IterationBatch
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.evaluation import VIEWS, Comparison, Run, bounds
from bacon_pl.evaluation import bound as bound_file
from bacon_pl.learners import Learners, Recipe, TrainingSet, feature_spaces
from bacon_pl.networks import ConvNet
from tests.paths import DIGITS, ROOT, evaluation_in

NUMBERS = ("bound", "bound_se", "risk", "risk_se", "epsilon")
NETWORK = {"width": 4, "depth": 2}


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


@pytest.fixture
def distilled(data):
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return DistilledSet(images, torch.arange(10).repeat_interleave(2), data.meta, factor=2)


def command(folder, *flags):
    return [
        "eval", "--config", str(DIGITS), "--distilled", str(folder), "--data.val_fraction",
        "0", "--evaluation.network", "ConvNet", "--evaluation.network.width", "4", "--evaluation.network.depth", "2",
        "--evaluation.epochs", "2", "--evaluation.num_networks", "2", "--evaluation.coreset_steps", "3",
        "--trainer.default_root_dir", str(folder), "--trainer.enable_progress_bar", "false", "--trainer.accelerator",
        "cpu", *flags,
    ]  # fmt: skip


@pytest.mark.parametrize("flag", [("--bound",), ("--bound", "true")])
def test_both_spellings_give_the_functions_numbers(flag, distilled, data, tmp_path, capsys):
    distilled.save(tmp_path)
    settings = BoundSettings(samples=8, tv_weight=0.5, clip="symmetric")
    options = ("samples", "8", "tv_weight", "0.5", "clip", "symmetric")
    extra = [x for name, value in zip(options[::2], options[1::2], strict=True)
             for x in (f"--bound_settings.{name}", value)]  # fmt: skip
    main(command(tmp_path, *flag, *extra))
    out = evaluation_in(tmp_path)
    found = json.loads((out / "results.json").read_text())
    bound = found["bound"]
    assert bound["settings"] == {
        "samples": 8, "epsilon": None, "tv_weight": 0.5, "clip": "symmetric",
        "real_images": int(data.train.counts.max()),
    }  # fmt: skip

    # By hand: the network at its initial weights, then the functions on its embeddings.
    recipe = Recipe(network=partial(ConvNet, **NETWORK), num_networks=2, epochs=2)
    real, mask = IterationBatch(data.train, 0, rng.derive(0, "bound real images"), 500, 1).matching()
    images, labels = distilled.expanded()
    fresh = Learners(TrainingSet.distilled(distilled), recipe, data.meta, 0)
    z_syn = torch.stack([fresh.embed(images[labels == c]) for c in range(10)])
    z_real = torch.stack([fresh.embed(rows) for rows in real])
    by_hand = measure(z_syn, z_real, mask, settings, 0, "bound")
    for name, value in by_hand.summary().items():
        assert bound["networks"]["fresh"][name] == pytest.approx(value.item(), rel=1e-4)
    assert bound["networks"]["fresh"]["log_integral"] == pytest.approx(float(by_hand.bound.integral.mean()), rel=1e-4)
    bound_by_hand, risk_by_hand = by_hand.bound, by_hand.risk
    per_class = {
        "bound": bound_by_hand.per_class, "bound_se": bound_by_hand.per_class_se, "epsilon": by_hand.epsilon,
        "log_integral": bound_by_hand.integral, "risk": risk_by_hand.per_class, "risk_se": risk_by_hand.per_class_se,
    }  # fmt: skip
    for name, values in bound["networks"]["fresh"]["per_class"].items():
        assert values == pytest.approx(per_class.pop(name).tolist(), rel=1e-4, abs=1e-6), name
    assert not per_class

    assert list(bound["networks"]) == list(VIEWS)
    for numbers in bound["networks"].values():
        assert all(math.isfinite(numbers[name]) for name in (*NUMBERS, "log_integral"))
        assert numbers["log_integral"] >= numbers["bound"]
        assert all(len(values) == 10 for values in numbers["per_class"].values())
    assert len({numbers["bound"] for numbers in bound["networks"].values()}) == 3

    last = capsys.readouterr().out.strip().splitlines()
    number = r"-?\d+\.\d"
    one = rf"{number} ± {number}, risk [01]\.\d+ ± 0\.\d+, ε [\d.]+"
    assert re.fullmatch(rf"bound: initial weights {one} \| trained on real images {one} \| .* {one}", last[-3])
    assert last[-5].startswith("convnet ")  # and then what is stored
    shown = bound["networks"]["real"]
    assert (
        f"| trained on real images | {shown['bound']:.1f} ± {shown['bound_se']:.1f} | {shown['risk']:.3f} ± "
        f"{shown['risk_se']:.3f} |" in (out / "results.md").read_text()
    )
    events = EventAccumulator(str(out / "logs/convnet_distilled"))
    events.Reload()
    for kind in ("bound", "risk", "epsilon"):
        assert events.Scalars(f"bound/{kind}/real")[0].value == pytest.approx(shown[kind], rel=1e-5)


def test_without_the_flag_there_is_none(distilled, tmp_path, capsys):
    distilled.save(tmp_path)
    main(command(tmp_path))
    out = evaluation_in(tmp_path)
    assert json.loads((out / "results.json").read_text())["bound"] is None
    assert "bound" not in capsys.readouterr().out
    assert "Bound" not in (out / "results.md").read_text()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--bound", "perhaps"], "--bound must be true or false, got perhaps"),
        (["--bound_settings.samples", "1"], "the bound's samples must be at least 2, got 1."),
        (
            ["--bound_settings.tv_weight", "0", "--bound_settings.clip", "none"],
            "tv_weight 0 and clip none is flat everywhere",
        ),
        (["--bound_settings.clip", "actin"], "(did you mean acting?)"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, distilled, tmp_path, capsys):
    distilled.save(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path, "--bound", *flags))
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1]


def test_networks_that_look_are_what_they_are_called(distilled, data):
    recipe = Recipe(network=partial(ConvNet, **NETWORK), num_networks=2, epochs=2, coreset_steps=4, batch_size=400)
    comparison = Comparison(distilled, data.train, data.meta, recipe, {"net": recipe.network}, seed=3)
    trained = comparison.module(Run("net", "distilled"))
    start = trained.learners.embed(data.train.images[:5])
    trained.learners.fit()
    views = comparison.views(trained)
    assert torch.equal(views["fresh"](data.train.images[:5]), start)
    assert torch.equal(views["distilled"](data.train.images[:5]), trained.learners.embed(data.train.images[:5]))
    # The one that herding and k-center choose in, if they are asked for.
    first = feature_spaces(recipe, data.train, data.meta, 3)[0]
    torch.testing.assert_close(views["real"](data.train.images[:5]), first(data.train.images[:5]))
    assert not torch.equal(views["real"](data.train.images[:5]), start)


def test_blocks_of_classes_change_nothing(distilled, data, monkeypatch):
    module = Learners(TrainingSet.distilled(distilled), Recipe(network=partial(ConvNet, **NETWORK)), data.meta)
    views = {"fresh": module.embed}
    whole = bounds(views, distilled, data.train, BoundSettings(), 1)
    monkeypatch.setattr(bound_file, "BLOCK_BYTES", 1)
    parts = bounds(views, distilled, data.train, BoundSettings(), 1)
    for name in NUMBERS:
        assert parts["networks"]["fresh"][name] == pytest.approx(whole["networks"]["fresh"][name], rel=1e-5)


def test_real_images_and_points_follow_the_seed(distilled, data, monkeypatch):
    def measured(seed, **settings):
        settings = BoundSettings(samples=4, **settings)
        return bound_file.measure_set(lambda x: x.flatten(1).float(), distilled, data.train, settings, seed)

    # All real images are the same ones.
    first, again, other = (measured(seed, epsilon=1.0) for seed in (0, 0, 1))
    torch.testing.assert_close(first.risk.per_class, other.risk.per_class)
    assert torch.equal(first.bound.draws, again.bound.draws)
    assert not torch.allclose(first.bound.draws, other.bound.draws)
    monkeypatch.setattr(bound_file, "REAL_IMAGES", 20)
    assert not torch.equal(measured(0).epsilon, measured(1).epsilon)


def test_two_processes_find_what_one_finds(distilled, tmp_path):
    found = []
    for devices in ("1", "2"):
        folder = tmp_path / devices
        folder.mkdir()
        distilled.save(folder)
        strategy = "ddp" if devices == "2" else "auto"
        flags = ["--bound", "--trainer.devices", devices, "--trainer.strategy", strategy]
        done = subprocess.run(
            [sys.executable, "-m", "bacon_pl", *command(folder, *flags)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(json.loads((evaluation_in(folder) / "results.json").read_text()))
    assert found[0]["bound"] == found[1]["bound"]
    assert found[0]["accuracy"] == found[1]["accuracy"]


def test_unequal_numbers_of_images_change_only_their_own_classes(data, distilled):
    """A class is measured as it is in a set where all have its number of images."""
    settings = BoundSettings(samples=8)

    def embed(images):
        return images.to(torch.float32).flatten(1)

    labels = distilled.labels
    last = torch.tensor([int((labels == c).nonzero()[-1]) for c in range(10)])
    keep = torch.ones(len(labels), dtype=torch.bool)
    keep[last[[2, 5]]] = False  # two classes lose an image
    one_less = torch.ones(len(labels), dtype=torch.bool)
    one_less[last] = False
    whole, less, mixed = (
        bound_file.measure_set(
            embed, DistilledSet(distilled.images[rows], labels[rows], data.meta), data.train, settings, 0
        )
        for rows in (torch.ones_like(keep), one_less, keep)
    )
    for equal, smaller, found in zip(whole.parts, less.parts, mixed.parts, strict=True):
        wanted = equal.clone()
        wanted[..., [2, 5]] = smaller[..., [2, 5]]
        torch.testing.assert_close(found, wanted, equal_nan=True)
    assert not torch.allclose(whole.bound.draws[:, [2, 5]], less.bound.draws[:, [2, 5]])
