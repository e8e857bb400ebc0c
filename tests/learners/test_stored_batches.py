"""Networks that learn from labels stored for every augmented batch, as FKD and SRe2L keep them."""

import copy
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms.v2.functional import resized_crop

from bacon_pl.augment import DSA, CutMix, NoAugmentation
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.distilled_set import BatchLabels, DistilledSet, StoredLabels
from bacon_pl.distilled_set.stored_labels import Orders
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_labels, write_labels
from bacon_pl.learners import Learners, Recipe, SoftLabels, TrainingSet
from bacon_pl.learners.stored_batches import agreement, augmented, check_stored
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
    classes = CLASSES.sort().values[Orders(COUNT)[epoch][BATCH * number :][:count]]
    logits = (torch.randn(count, 3, generator=generator) + 4 * F.one_hot(classes, 3)).half()
    return BatchLabels(torch.empty(0, dtype=torch.int64), crops, whole(0, 2).bool(), *mixed, logits)


def stored(folder: Path, mixing: str = "cutmix") -> StoredLabels:
    """The labels as they are read from the files of the published layout."""
    made = StoredLabels(COUNT, 3, EPOCHS, BATCH, lambda epoch, number: draw(epoch, number, mixing))
    return open_labels(write_labels(made, folder), COUNT, 3, META.size)


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
    read.clear()
    x, y = learners.augmented_batches([0, 1], 4)  # the second batch of the second epoch
    assert read == [(1, 1)] and x.shape == (2, 4, 1, 8, 6) and x.stride(0) == 0
    assert torch.equal(y[0], labels.batch(1, 1).logits) and torch.equal(y[0], y[1])


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 6), (1, 1)])
@pytest.mark.parametrize("crop", [(0.5, 0.5, 0.01, 0.01), (0.97, 0.97, 0.02, 0.02), (0.5,) * 4, (0.3, 0.0, 0.7, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_crops_of_larger_images_stay_within_smaller_ones(
    size: tuple[int, int], crop: tuple[float, ...], dtype: torch.dtype
) -> None:
    """They may be smaller than a pixel, and their rounded places and sides may go beyond the image."""
    labels = draw(0, 0, "none")
    labels.crops[:] = torch.tensor(crop)
    found = augmented(torch.full((4, 1, *size), 0.75, dtype=dtype), labels)
    torch.testing.assert_close(found, torch.full((4, 1, *size), 0.75, dtype=dtype))


@pytest.mark.parametrize("mixing", ["cutmix", "none"])
def test_labels_of_images_in_another_order_are_refused(tmp_path: Path, mixing: str) -> None:
    write_labels(of_classes(300, mixing), tmp_path / "labels")
    labels = [open_labels(tmp_path / "labels", 300, 3, META.size, seed=seed) for seed in (42, 7)]
    classes = torch.arange(3).repeat_interleave(100)
    check_stored(labels[0], classes, 3, recipe(batch_size=100))
    said = r"of 900 stored labels agree with .* by chance: they belong .* seed 7 \(--evaluation.soft_labels.folder_seed"
    with pytest.raises(BaconError, match=said):
        check_stored(labels[1], classes, 3, recipe(batch_size=100))
    with pytest.raises(BaconError, match="stored labels agree with the classes of their images"):
        check_stored(labels[0], torch.arange(3).repeat(100), 3, recipe(batch_size=100))


@pytest.mark.parametrize(
    ("classes", "each", "epochs"), [(1, 4, 2), (2, 1, 10), (2, 5, 1), (2, 5, 2), (3, 1, 1), (4, 1, 1)]
)
@pytest.mark.parametrize("mixed", [True, False])
def test_right_labels_of_the_smallest_sets_are_taken(classes: int, each: int, epochs: int, mixed: bool) -> None:
    count = classes * each

    def batch(epoch: int, number: int) -> BatchLabels:
        own = Orders(count)[epoch] // each
        mixing = (torch.arange(count).roll(1), 0.5, (0, 0, 2, 2)) if mixed else (None, None, None)
        crops = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1)
        return BatchLabels(torch.empty(0), crops, torch.zeros(count).bool(), *mixing, torch.eye(classes)[own].half())

    labels = StoredLabels(count, classes, epochs, count, batch)
    check_stored(
        labels, torch.arange(classes).repeat_interleave(each), classes, recipe(batch_size=count, epochs=epochs)
    )


def test_an_image_that_is_mixed_with_itself_agrees_by_chance_less_often() -> None:
    def batch(epoch: int, number: int) -> BatchLabels:
        crops = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        partner = torch.zeros(1, dtype=torch.int64)
        return BatchLabels(
            torch.empty(0), crops, torch.zeros(1).bool(), partner, 0.5, (0, 0, 2, 2), torch.eye(2)[:1].half()
        )

    _, compared, expected, _ = agreement(StoredLabels(10, 2, 2, 1, batch), torch.arange(2).repeat_interleave(5))
    assert (compared, expected) == (20, 10)


def of_classes(count: int, mixing: str) -> StoredLabels:
    """Labels of whole images that a teacher knows in two of three cases."""

    def batch(epoch: int, number: int) -> BatchLabels:
        chosen = Orders(count)[epoch][100 * number :][:100]
        generator = torch.Generator().manual_seed(epoch)
        known = torch.rand(100, generator=generator) < 0.5  # and a third of the others by chance
        said = torch.where(known, chosen // (count // 3), torch.randint(3, (100,), generator=generator))
        mixed = (torch.randperm(100, generator=generator), 0.7, (0, 0, 2, 2)) if mixing == "cutmix" else (None,) * 3
        crops = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(100, 1)
        logits = F.one_hot(said, 3).half()
        return BatchLabels(torch.empty(0), crops, torch.zeros(100, dtype=torch.bool), *mixed, logits)  # type: ignore[arg-type]

    return StoredLabels(count, 3, EPOCHS, 100, batch)


def test_labels_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    labels = stored(tmp_path / "labels")
    sent = pickle.loads(pickle.dumps(labels))
    assert torch.equal(sent.batch(2, 1).logits, labels.batch(2, 1).logits)


@pytest.mark.parametrize("mixing", ["cutmix", "none"])
def test_what_did_not_act_is_not_reported(tmp_path: Path, mixing: str) -> None:
    how = recipe(augment=DSA(), mixing=CutMix())
    own = Learners(TrainingSet.distilled(distilled(), batch_labels=stored(tmp_path / "labels", mixing)), how, META)
    found = own.described()
    assert (found["augment"], found["label_folder_seed"]) == ("as stored", 42)
    assert found["label_folder"] == str(tmp_path / "labels")
    nothing = ("mixing", "relabel", "half", "teachers", "teacher_average", "teacher_steps")
    assert [found[name] for name in nothing] == [None] * len(nothing)
    real = LabeledImages(torch.zeros(10, 1, 8, 6, dtype=torch.uint8), CLASSES, META.class_names)
    found = Learners(TrainingSet.whole(real), how, META, teacher=SimpleNamespace()).described()  # type: ignore[arg-type]
    assert (found["augment"], found["label_source"], found["label_folder"]) == ("DSA", "teacher", None)
    assert (found["teachers"], found["relabel"]) == (1, "batch")


def test_the_folder_and_seed_that_are_reported_are_those_of_the_labels(tmp_path: Path) -> None:
    write_labels(of_classes(300, "none"), tmp_path / "labels")
    labels = open_labels(tmp_path / "labels", 300, 3, META.size, seed=7)
    labels._orders = Orders(300)  # the labels are right, though their seed is another one
    images = torch.zeros(300, 1, 8, 6)
    given = DistilledSet(images, torch.arange(3).repeat_interleave(100), META)
    found = Learners(TrainingSet.distilled(given, batch_labels=labels), recipe(batch_size=100), META).described()
    assert (found["label_folder"], found["label_folder_seed"]) == (str(tmp_path / "labels"), 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 5}, "are those of batches of 4 images, which cannot be changed: give --evaluation.bat"),
        ({"epochs": 4}, "labels are stored for 3 epochs, but --evaluation.epochs is 4: give at most 3"),
    ],
)
def test_labels_of_other_trainings_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    training_set = TrainingSet.distilled(distilled(), batch_labels=stored(tmp_path / "labels"))
    with pytest.raises(BaconError, match=re.escape(message)):
        Learners(training_set, recipe(**settings), META)


def test_labels_of_other_sets_are_refused(tmp_path: Path) -> None:
    labels = stored(tmp_path / "labels")
    with pytest.raises(BaconError, match="are those of 3 classes, but the dataset has 10: give the labels of this set"):
        check_stored(labels, CLASSES, 10, recipe())
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
        ({"source": "folder", "folder": "labels", "folder_seed": -1}, "folder_seed must be a seed from 0 to 2**63 - 1"),
        ({"folder_seed": 1}, "folder_seed is the seed of the labels of a folder: leave it out"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict, message: str) -> None:
    with pytest.raises(BaconError, match=re.escape(message)):
        SoftLabels(**settings)


def test_bytes_are_those_of_all_that_is_stored(tmp_path: Path) -> None:
    own = 3 * 2 + 16 + 1  # logits in half precision, a crop and a flip
    for mixing, image, batch in (("cutmix", own + 8, 40), ("mixup", own + 8, 8), ("none", own, 0)):
        labels = stored(tmp_path / mixing, mixing)
        assert labels.bytes_of(2) == 2 * (COUNT * image + 3 * batch)
        assert labels.bytes_of(2, batches=1) == 2 * (BATCH * image + batch)
