"""Networks that learn from labels stored for every augmented batch, as FKD and SRe2L keep them."""

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms.v2.functional import resized_crop

from bacon_pl.augment import NoAugmentation
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.distilled_set import BatchLabels, DistilledSet, StoredLabels
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_labels, write_labels
from bacon_pl.learners import Learners, Recipe, SoftLabels, TrainingSet
from bacon_pl.learners.stored_batches import augmented, check_stored
from bacon_pl.networks import ConvNet

META = DatasetMeta("toy", ("a", "b", "c"), channels=1, size=(8, 6), mean=(0.4,), std=(0.2,))
CLASSES = torch.tensor([2, 0, 1, 0, 2, 1, 1, 2, 0, 0])  # sets bring their images into the order of the classes
COUNT, BATCH, EPOCHS = 10, 4, 3
SOFT = SoftLabels(source="folder", folder="labels", temperature=3.0, loss="kl_unscaled")


def small(channels: int, size: tuple[int, int], num_classes: int) -> ConvNet:
    return ConvNet(channels, size, num_classes, width=4, depth=1)


def recipe(**settings: object) -> Recipe:
    given = {"network": small, "num_networks": 2, "epochs": EPOCHS, "batch_size": BATCH, "lr": 0.1}
    return Recipe(**{**given, "augment": NoAugmentation(), "soft_labels": SOFT, **settings})  # type: ignore[arg-type]


def distilled(factor: int = 1) -> DistilledSet:
    images = torch.randn(COUNT, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    return DistilledSet(images, CLASSES, META, factor=factor)


def draw(epoch: int, number: int, mixing: str) -> BatchLabels:
    """Labels of one batch, whose crops are whole pixels."""
    count = min(BATCH, COUNT - number * BATCH)
    generator = torch.Generator().manual_seed(100 * epoch + number)

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    crops = torch.stack([whole(0, 3) / 8, whole(0, 3) / 6, whole(2, 6) / 8, whole(2, 5) / 6], 1)
    partner, box = torch.randperm(count, generator=generator), (1, 2, 5, 6)
    mixed = {"cutmix": (partner, 0.6, box), "mixup": (partner, 0.6, None), "none": (None, None, None)}[mixing]
    logits = torch.randn(count, 3, generator=generator).half()
    return BatchLabels(torch.empty(0, dtype=torch.int64), crops, whole(0, 2).bool(), *mixed, logits)


def stored(folder: Path, mixing: str = "cutmix", count: int = COUNT) -> StoredLabels:
    """The labels as they are read from the files of the published layout."""
    made = StoredLabels(count, 3, EPOCHS, BATCH, lambda epoch, number: draw(epoch, number, mixing))
    return open_labels(write_labels(made, folder), count, 3, META.size)


def literal(network: ConvNet, given: DistilledSet, mixing: str) -> ConvNet:
    """Train a network as the published code does, one image at a time."""
    assert given.labels.tolist() == sorted(CLASSES.tolist())  # the order of torchvision's ImageFolder
    images = given.images.double()
    order = RandomSampler(range(COUNT), generator=torch.Generator().manual_seed(42))
    loader = DataLoader(list(range(COUNT)), batch_size=BATCH, sampler=order)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(EPOCHS):
        for number, chosen in enumerate(loader):
            labels = draw(epoch, number, mixing)
            parts = []
            for image, crop, flipped in zip(images[chosen], labels.crops, labels.flipped, strict=True):
                top, left, height, width = (round(float(c) * s) for c, s in zip(crop, (8, 6, 8, 6), strict=True))
                part = resized_crop(image, top, left, height, width, [8, 6], antialias=True)
                parts.append(part.flip(-1) if flipped else part)
            x = torch.stack(parts)
            if mixing == "mixup":
                x = 0.6 * x + 0.4 * x[labels.partner]
            if mixing == "cutmix":
                x[:, :, 1:5, 2:6] = x[labels.partner][:, :, 1:5, 2:6].clone()
            target = (labels.logits.double() / 3).softmax(1)
            own = (network(x)[1] / 3).log_softmax(1)
            optimizer.zero_grad()
            F.kl_div(own, target, reduction="batchmean").backward()
            optimizer.step()
    return network


@pytest.mark.parametrize("mixing", ["cutmix", "mixup", "none"])
def test_a_training_is_that_of_the_published_code(tmp_path: Path, mixing: str) -> None:
    given = distilled()
    training_set = TrainingSet.distilled(given, batch_labels=stored(tmp_path / "labels", mixing))
    how = recipe(optimizer="sgd", momentum=0.9, weight_decay=0.0, lr_drop=1.0)
    learners = Learners(training_set, how, META).double()
    assert not learners.needs_teacher
    expected = [literal(copy.deepcopy(network), given, mixing) for network in learners.networks]
    start = copy.deepcopy(learners.networks[0].state_dict())
    learners.fit()
    assert not all(torch.equal(t, start[name]) for name, t in learners.networks[0].state_dict().items())
    for network, other in zip(learners.networks, expected, strict=True):
        for p, q in zip(network.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_all_networks_share_a_batch_that_is_read_once(tmp_path: Path) -> None:
    labels, read = stored(tmp_path / "labels"), []

    def batch(epoch: int, number: int) -> BatchLabels:
        read.append((epoch, number))
        return draw(epoch, number, "cutmix")

    counted = StoredLabels(COUNT, 3, EPOCHS, BATCH, batch)
    learners = Learners(TrainingSet.distilled(distilled(), batch_labels=counted), recipe(), META)
    x, y = learners.augmented_batches([0, 1], 4)  # the second batch of the second epoch
    assert read == [(1, 1)] and x.shape == (2, 4, 1, 8, 6) and x.stride(0) == 0
    assert torch.equal(y[0], labels.batch(1, 1).logits) and torch.equal(y[0], y[1])


def test_crops_of_larger_images_may_be_smaller_than_a_pixel() -> None:
    labels = draw(0, 0, "none")
    labels.crops[:] = torch.tensor([0.5, 0.5, 0.01, 0.01])
    found = augmented(torch.randn(4, 1, 8, 6), labels)
    assert found.shape == (4, 1, 8, 6) and found.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "count", "message"),
    [
        ({"batch_size": 5}, COUNT, "are those of batches of 4 images, which cannot be changed: give --evaluation.bat"),
        ({"epochs": 4}, COUNT, "labels are stored for 3 epochs, but --evaluation.epochs is 4: give at most 3"),
        ({}, 9, "are those of 9 images, but networks are trained on 10: give the labels of this set, and --eval"),
    ],
)
def test_labels_of_other_trainings_are_refused(tmp_path: Path, settings: dict, count: int, message: str) -> None:
    training_set = TrainingSet.distilled(distilled(), batch_labels=stored(tmp_path / "labels", count=count))
    with pytest.raises(BaconError, match=re.escape(message)):
        Learners(training_set, recipe(**settings), META)


def test_labels_of_other_sets_are_refused(tmp_path: Path) -> None:
    labels = stored(tmp_path / "labels")
    with pytest.raises(BaconError, match="are those of 3 classes, but the dataset has 10: give the labels of this set"):
        check_stored(labels, COUNT, 10, recipe())
    with pytest.raises(BaconError, match="10 images, but networks are trained on 40"):  # tiles that are cut out
        Learners(TrainingSet.distilled(distilled(factor=2), batch_labels=labels), recipe(), META)
    real = LabeledImages(torch.zeros(10, 1, 8, 6, dtype=torch.uint8), CLASSES, META.class_names)
    with pytest.raises(BaconError, match="a teacher is needed where, and only where"):
        Learners(TrainingSet.whole(real), recipe(), META)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "folder"}, "source folder and --evaluation.soft_labels.folder need each other"),
        ({"folder": "labels"}, "source folder and --evaluation.soft_labels.folder need each other"),
        ({"source": "folder", "folder": "labels", "relabel": "never"}, "relabel never would label real images once"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict, message: str) -> None:
    with pytest.raises(BaconError, match=re.escape(message)):
        SoftLabels(**settings)


def test_bytes_are_those_of_all_that_is_stored(tmp_path: Path) -> None:
    own = 3 * 2 + 16 + 1  # logits in half precision, a crop and a flip
    for mixing, image, batch in (("cutmix", own + 8, 40), ("mixup", own + 8, 8), ("none", own, 0)):
        assert stored(tmp_path / mixing, mixing).bytes_of(2) == 2 * (COUNT * image + 3 * batch)
