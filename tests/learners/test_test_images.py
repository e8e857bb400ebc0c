"""Test images that are enlarged before their center is cut out, and settings that say nothing where they do not act."""

import re
from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2

from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.data.whitening import Whitening
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import EvalModule
from bacon_pl.learners import Learners, Recipe, SoftLabels, TrainingSet, described, identified, labeler
from bacon_pl.networks import ConvNet

META = DatasetMeta("toy", ("a", "b", "c"), channels=1, size=(16, 12), mean=(0.4,), std=(0.2,))
IMAGES = torch.randint(0, 256, (30, 1, 16, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
REAL = LabeledImages(IMAGES, torch.arange(3).repeat(10), META.class_names)


def small(channels: int, size: tuple[int, int], num_classes: int) -> ConvNet:
    return ConvNet(channels, size, num_classes, width=4, depth=1)


def learners(**settings: object) -> Learners:
    recipe = Recipe(network=small, num_networks=2, epochs=1, batch_size=30, **settings)  # type: ignore[arg-type]
    return Learners(TrainingSet.whole(REAL), recipe, META)


def test_the_center_of_enlarged_images_is_what_networks_are_tested_on() -> None:
    center = [v2.Resize(14, antialias=True), v2.CenterCrop((16, 12))]
    published = v2.Compose([v2.ToDtype(torch.float32, scale=True), *center, v2.Normalize(META.mean, META.std)])
    plain, resized = learners(), learners(test_resize=14)
    x = plain.normalize(IMAGES)
    torch.testing.assert_close(resized.resized(x), published(IMAGES), rtol=1e-5, atol=1e-5)
    assert torch.equal(plain.resized(x), x)
    guesses = torch.stack([plain.classify(k, resized.resized(x)).argmax(1) for k in (0, 1)])
    assert not torch.equal(guesses, torch.stack([plain.classify(k, x).argmax(1) for k in (0, 1)]))
    assert torch.equal(resized.hits(IMAGES, REAL.labels, 7), (guesses == REAL.labels).sum(1))
    module = EvalModule(resized)
    module.test_step((x, REAL.labels), 0)
    expected = [torch.bincount(REAL.labels * 3 + row, minlength=9).view(3, 3) for row in guesses]
    assert torch.equal(module.confusions(), torch.stack(expected))


@pytest.mark.parametrize("side", [11, 25, 10**7])
def test_sizes_that_would_show_too_little_are_refused(side: int) -> None:
    said = f"--evaluation.test_resize must be from 12, the shorter side of the images, to 24, got {side}."
    with pytest.raises(BaconError, match=re.escape(said)):
        learners(test_resize=side)


def test_whitened_images_are_not_enlarged() -> None:
    whitened = replace(META, whitening=Whitening("zca", 0.1, "a"))
    with pytest.raises(BaconError, match="test_resize enlarges pixels, but the images are whitened: leave it out"):
        Recipe(test_resize=14).check_fits(whitened)
    Recipe().check_fits(whitened)


def test_teachers_are_the_same_whatever_students_are_tested_on() -> None:
    recipe = Recipe(network=small, soft_labels=SoftLabels(steps=2))
    other = replace(recipe, test_resize=14)
    first, second = (labeler(given, REAL, META, 0).teachers[0] for given in (recipe, other))
    assert first.recipe == second.recipe
    assert described(REAL, META, recipe, 0) == described(REAL, META, other, 0)


def test_settings_that_came_later_say_nothing_where_they_do_not_act() -> None:
    assert identified({"epochs": 3, "soft_labels": None, "test_resize": None}) == {"epochs": 3, "soft_labels": None}
    assert identified({"test_resize": 72}) == {"test_resize": 72}
    soft = {"source": "teacher", "folder": None, "folder_seed": 42}
    assert identified({"soft_labels": soft}) == {"soft_labels": {"source": "teacher"}}


def test_a_folder_of_labels_is_the_same_however_it_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    soft = {"source": "folder", "folder_seed": 7}
    found = [identified({"soft_labels": {**soft, "folder": name}}) for name in ("labels", f"{tmp_path}/./labels")]
    assert found[0] == found[1] == {"soft_labels": {**soft, "folder": str((tmp_path / "labels").resolve())}}
