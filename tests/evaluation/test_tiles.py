"""The baseline ``tiles``: the initial images of a run without distillation, compared with the distilled set."""

import json
from pathlib import Path

import pytest
import torch

from bacon_pl import rng
from bacon_pl.augment import NoAugmentation
from bacon_pl.cli import main
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet, start_images
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Comparison, Run
from bacon_pl.learners import Recipe, TrainingSet
from bacon_pl.networks import ConvNet
from bacon_pl.partition import cut_out, expand, expand_labels
from bacon_pl.selection import Start
from tests.paths import evaluation_in

ROOT = Path(__file__).parents[2]


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def distilled(data, factor=2, scaling=None):
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    config = {} if scaling is None else {"model": {"start": {"images": "tiles", "scaling": scaling}}}
    return DistilledSet(images, torch.arange(10).repeat_interleave(2), data.meta, factor=factor, config=config)


def compared(data, its_set, store=None, baselines=("tiles",), **settings):
    recipe = Recipe(network=small, num_networks=3, epochs=2, batch_size=32, augment=NoAugmentation())
    return Comparison(its_set, store or data.train, data.meta, recipe, {"small": small}, baselines, seed=3, **settings)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "factor"), [((8, 8), 2), ((7, 10), 2), ((9, 9), 3), ((28, 28), 2), ((4, 4), 1)])
def test_tiles_cut_out_one_by_one_are_those_of_a_whole_expansion(channels, size, factor):
    canvases = torch.rand(5, channels, *size, generator=torch.Generator().manual_seed(0))
    expanded = expand(canvases, factor)
    position = torch.randperm(len(expanded), generator=torch.Generator().manual_seed(1))
    assert torch.equal(cut_out(canvases[position % 5], position // 5, factor), expanded[position])


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("scaling", [None, "nearest", "antialiased"])
def test_every_network_sees_what_a_run_starts_from(data, factor, scaling):
    its_set = distilled(data, factor, scaling)
    learners = compared(data, its_set).module(Run("small", "tiles")).learners
    assert learners.storage_bytes == its_set.pixel_bytes
    assert learners.index.shape == (3, 20 * factor**2)
    assert learners.images.shape == (3 * 20, 1, 8, 8)
    draws = []
    for k in range(3):
        start = Start(scaling=scaling or "bilinear")
        canvases = start_images(data.train, data.meta, 2, factor, start, rng.derive(3, "tiles", k))
        images, labels = expand(canvases, factor), expand_labels(its_set.labels, factor)
        batches = [learners.batch(k, step) for step in range(learners.steps_per_epoch)]
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        order = rng.permutation(len(images), 3, "evaluation order", k, 0)
        assert torch.equal(x, images[order])
        assert torch.equal(y, labels[order])
        draws.append(canvases)
    assert len({x.numpy().tobytes() for x in draws}) == 3


def test_tiles_of_factor_one_are_whole_real_images(data):
    learners = compared(data, distilled(data, factor=1)).module(Run("small", "tiles")).learners
    x, y = learners.batch(0, 0)
    real = data.normalize(data.train.images)
    for image, label in zip(x, y, strict=True):
        where = (real == image).flatten(1).all(1)
        assert (data.train.labels[where] == label).any()


def test_too_few_images_and_unknown_scalings_are_told_before_anything_is_trained(data):
    keep = torch.cat([(data.train.labels == c).nonzero()[: 1 if c == 4 else 9, 0] for c in range(10)])
    few = data.train.subset(keep)
    for baselines, names in ((["tiles"], "tiles"), (["whole", "herding", "random"], "herding, random")):
        with pytest.raises(BaconError) as error:
            compared(data, distilled(data), few, baselines)
        assert str(error.value) == (
            "ipc 2 asks for more images per class than class '4' has (1): leave "
            f"{names} out of --baselines or add images."
        )
    with pytest.raises(BaconError, match="leave random out of --baselines and --scores or add images"):
        compared(data, distilled(data), few, [], scores=True)
    with pytest.raises(BaconError, match="leave tiles out of --baselines or add images"):
        TrainingSet.tiles(few, data.meta, 2, 2, "bilinear", 1, 0)
    compared(data, distilled(data), few, ["whole"])
    with pytest.raises(BaconError, match="'cubic', which is none of"):
        compared(data, distilled(data, scaling="cubic"))
    compared(data, distilled(data, scaling="cubic"), baselines=["random"])


def test_the_command_line_reports_them(data, tmp_path, capsys):
    distilled(data, scaling="nearest").save(tmp_path)
    main([
        "eval", "--config", str(ROOT / "configs/digits/ipc1.yaml"), "--distilled", str(tmp_path), "--baselines",
        "[random, tiles]", "--evaluation.network.width", "4", "--evaluation.epochs", "4", "--data.val_fraction", "0",
        "--evaluation.num_networks", "2", "--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar",
        "false", "--trainer.accelerator", "cpu", "--trainer.logger", "false", "--figures", "true",
    ])  # fmt: skip
    folder = evaluation_in(tmp_path)
    found = json.loads((folder / "results.json").read_text())
    tiles = found["baselines"]["tiles"]
    assert (tiles["storage_bytes"], tiles["train_images"]) == (found["storage_bytes"], found["train_images"])
    assert tiles["accuracy"]["per_network"] != found["baselines"]["random"]["accuracy"]["per_network"]
    page = (folder / "results.md").read_text()
    assert "| network | distilled | tiles | random real |" in page
    assert (folder / "figures/accuracy.png").is_file()
    lines = capsys.readouterr().out.strip().splitlines()
    assert ["network", "distilled", "tiles", "random", "real"] in [line.split() for line in lines]
