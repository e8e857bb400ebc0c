"""Labels that SRe2L and FKD store for every epoch's crops."""

import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder

from bacon_pl.data import DatasetMeta
from bacon_pl.distilled_set import StoredLabels
from bacon_pl.distilled_set.stored_labels import Orders
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_labels, open_set, write_labels
from tests.interop.making import Calls
from tests.paths import GOLDEN

COUNT, CLASSES, EPOCHS, BATCH = 10, 3, 3, 4
SIZE = (8, 6)


def batch(epoch: int, number: int, mixing: str = "cutmix", dtype: torch.dtype = torch.float16) -> list[Any]:
    """The content of one file, as the published code writes it."""
    count = min(BATCH, COUNT - number * BATCH)
    draw = torch.Generator().manual_seed(100 * epoch + number)
    crops = torch.rand((count, 4), generator=draw) / 2
    crops[:, 2:] = crops[:, 2:] * 0.8 + 0.1
    crops[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    partner = torch.randperm(count, generator=draw)
    box = [np.int64(1), np.int64(0), np.int64(5), np.int64(6)]
    logits = torch.randn((count, CLASSES), generator=draw).to(dtype)
    flipped = torch.rand(count, generator=draw) < 0.5
    mixed = {"cutmix": (partner, 0.375, box), "mixup": (partner, 0.375, None), "none": (None, None, None)}[mixing]
    return [crops, flipped, *mixed, logits]


def tree(folder: Path, **options: Any) -> Path:
    for epoch in range(EPOCHS):
        (folder / f"epoch_{epoch}").mkdir(parents=True)
        for number in range(3):
            torch.save(batch(epoch, number, **options), folder / f"epoch_{epoch}/batch_{number}.tar")
    return folder


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list):
        return [type(x) for x in one] == [type(x) for x in other] and one == other
    return type(one) is type(other) and one == other


def test_the_order_is_that_of_the_published_code() -> None:
    golden = np.load(GOLDEN / "kd_loss.npz")
    orders = Orders(10, int(golden["fkd_seed"]))
    for epoch in (0, 1, 3, 2, 0, 3):  # back and forth
        assert orders[epoch].tolist() == golden["fkd_order"][epoch].tolist()


def test_the_order_is_that_of_a_random_sampler() -> None:
    sampler = RandomSampler(range(17), generator=torch.Generator().manual_seed(5))
    loader = DataLoader(list(range(17)), batch_size=4, sampler=sampler)
    orders = Orders(17, 5)
    for epoch in range(3):
        assert torch.cat(list(loader)).tolist() == orders[epoch].tolist()


@pytest.mark.parametrize("mixing", ["cutmix", "mixup", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_labels_there_and_back(tmp_path: Path, mixing: str, dtype: torch.dtype) -> None:
    theirs = tree(tmp_path / "theirs", mixing=mixing, dtype=dtype)
    labels = open_labels(theirs, COUNT, CLASSES, SIZE)
    assert (labels.epochs, labels.batches, labels.batch_size, labels.seed) == (EPOCHS, 3, BATCH, 42)
    seen = []
    for number in range(3):
        found, stored = labels.batch(1, number), batch(1, number, mixing, dtype)
        assert torch.equal(found.crops, stored[0]) and torch.equal(found.flipped, stored[1])
        assert found.lam == stored[3] and found.box == (None if stored[4] is None else (1, 0, 5, 6))
        assert (found.partner is None) == (mixing == "none")
        assert found.logits.dtype == dtype and torch.equal(found.logits, stored[5])
        seen += found.images.tolist()
    assert seen == Orders(COUNT)[1].tolist()
    back = write_labels(labels, tmp_path / "back")
    for epoch in range(EPOCHS):
        for number in range(3):
            name = f"epoch_{epoch}/batch_{number}.tar"
            mine, other = (torch.load(root / name, weights_only=False) for root in (back, theirs))
            assert type(mine) is list and len(mine) == 6 and all(map(equal, mine, other))
    assert sorted(os.listdir(back)) == ["epoch_0", "epoch_1", "epoch_2"]
    with pytest.raises(BaconError, match="is not empty"):
        write_labels(labels, back)


def test_crops_are_found_again_in_pixels(tmp_path: Path) -> None:
    """A crop of whole pixels, as shares of the sides in float32, comes back as these pixels."""
    sizes = [(height, width) for height in (7, 64, 224) for width in (5, 100, 333)]
    labels = open_labels(tree(tmp_path / "a"), COUNT, CLASSES).batch(0, 0)
    for height, width in sizes:
        top, left = torch.arange(4) * height // 5, torch.arange(4) * width // 6
        boxes = torch.stack([top, left, height - top, width - left], 1)
        shares = (boxes / torch.tensor([height, width, height, width])).float()
        assert torch.equal(replace(labels, crops=shares).crop_boxes((height, width)), boxes)


@pytest.mark.parametrize("names", [("new000", "new001", "new002"), ("00000", "00001", "00002"), ("cat", "dog", "owl")])
def test_pictures_come_in_the_order_of_the_published_loader(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The images of every batch are those that torchvision's ImageFolder and torch's DataLoader give."""
    values = torch.randperm(240, generator=torch.Generator().manual_seed(0)).tolist()
    for name in names:
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(6 if name == names[1] else 5):
            pixels = np.full((8, 6), values.pop(), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"class{name}_id{i * 7:03d}.png")
    meta = DatasetMeta("toy", ("cat", "dog", "owl"), channels=1, size=(8, 6), mean=(0.4,), std=(0.2,))
    distilled = open_set(tmp_path / "set", meta)
    pictures = ImageFolder(tmp_path / "set", transform=np.asarray)
    sampler = RandomSampler(pictures, generator=torch.Generator().manual_seed(42))
    loader = DataLoader(pictures, batch_size=4, sampler=sampler)
    for epoch in range(3):
        order = Orders(16)[epoch].split(4)
        for chosen, (images, classes) in zip(order, loader, strict=True):
            found = distilled.meta.denormalize(distilled.images[chosen]).mul(255).round()
            assert torch.equal(found[:, 0].to(torch.uint8), images[..., 0])
            assert torch.equal(distilled.labels[chosen], classes)


def test_no_such_batch(tmp_path: Path) -> None:
    labels = open_labels(tree(tmp_path / "a"), COUNT, CLASSES)
    for epoch, number in ((3, 0), (0, 3), (-1, 0)):
        with pytest.raises(IndexError, match="3 epochs of 3 batches"):
            labels.batch(epoch, number)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: [f.unlink() for f in root.glob("*/*")], "epoch_0/batch_0.tar'"),
        (lambda root: (root / "epoch_1").rename(root / "epoch_7"), "lacks epoch_1"),
        (lambda root: (root / "epoch_2/batch_1.tar").unlink(), "epoch_2' holds 2 batches, but .* 10 images needs 3"),
        (lambda root: (root / "epoch_2/batch_3.tar").touch(), "holds 4 batches"),
        (lambda root: [f.rename(root / f.name.upper()) for f in root.glob("epoch_*")], "holds no stored labels"),
        (lambda root: (root / "epoch_0/batch_0.tar").write_bytes(b"tar"), "cannot be read as a file of torch.save"),
        (lambda root: torch.save(batch(0, 1), root / "epoch_0/batch_2.tar"),
         "batch_2.tar' holds labels of 4 images, but 2 are needed: give the labels of this set"),
    ],
)  # fmt: skip
def test_folders_that_lack_something(tmp_path: Path, spoil: Any, message: str) -> None:
    root = tree(tmp_path / "a")
    spoil(root)
    with pytest.raises(BaconError, match=message) as error:
        open_labels(root, COUNT, CLASSES)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def changed(**parts: Any) -> list[Any]:
    names = ("crops", "flipped", "partner", "lam", "box", "logits")
    return [parts.get(name, part) for name, part in zip(names, batch(0, 0), strict=True)]


BAD = {
    "no list": ({"crops": torch.zeros(4, 4)}, "no list of crops"),
    "five": (changed()[:5], "no list of crops"),
    "tensor": (torch.zeros(6), "no list of crops"),
    "logits of more classes": (changed(logits=torch.zeros(4, 5)), r"logits of shape \(4, 5\) where \(B, 3\)"),
    "logits of whole numbers": (changed(logits=torch.zeros(4, 3, dtype=torch.int64)), "logits of type torch.int64"),
    "infinite logits": (changed(logits=torch.full((4, 3), torch.inf)), "logits that are not finite"),
    "no logits": (changed(logits=None), "logits that are no tensor"),
    "nothing": (changed(crops=torch.zeros(0, 4), flipped=torch.zeros(0, dtype=torch.bool),
                        partner=torch.zeros(0, dtype=torch.int64), logits=torch.zeros(0, 3)), "holds no labels"),
    "crops beyond": (changed(crops=torch.tensor([[0.5, 0.5, 0.6, 0.5]] * 4)), "crops beyond the images"),
    "empty crops": (changed(crops=torch.zeros(4, 4)), "crops beyond the images"),
    "crops of nothing": (changed(crops=torch.full((4, 4), torch.nan)), "crops that are not finite"),
    "flips": (changed(flipped=torch.zeros(4)), "flips of type torch.float32"),
    "fewer flips": (changed(flipped=torch.zeros(3, dtype=torch.bool)), "flips of shape"),
    "partners": (changed(partner=torch.tensor([0, 1, 2, 4])), "partners that are not in the batch"),
    "no partners": (changed(partner=None), "do not belong together"),
    "lambda": (changed(lam=1.5), "λ that is no number from 0 to 1"),
    "lambda is nan": (changed(lam=float("nan")), "λ that is no number"),
    "lambda is text": (changed(lam="0.5"), "λ that is no number"),
    "box beyond": (changed(box=[0, 0, 9, 6]), "a box beyond the images"),
    "box of three": (changed(box=[0, 0, 5]), "a box that is not four"),
    "box turned round": (changed(box=[5, 0, 1, 6]), "a box beyond the images"),
    "box of fractions": (changed(box=[0.5, 0, 5, 6]), "a box that is not four"),
    "code": (Calls(os.system, "touch run"), "asks for posix.system"),
    "code inside": (changed(lam=Calls(os.system, "touch run")), "asks for posix.system"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_files_that_make_no_sense_are_one_sentence(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = BAD[name]
    root = tree(tmp_path / "a")
    torch.save(content, root / "epoch_0/batch_0.tar")
    with pytest.raises(BaconError, match=message) as error:
        open_labels(root, COUNT, CLASSES, SIZE)
    assert re.search(r"epoch_0/batch_0\.tar", str(error.value)) and str(error.value).endswith(".")
    assert not (tmp_path / "run").exists()


def test_batches_of_another_size_are_told_when_they_are_read(tmp_path: Path) -> None:
    root = tree(tmp_path / "a")
    torch.save(batch(0, 2), root / "epoch_1/batch_1.tar")
    labels = open_labels(root, COUNT, CLASSES)
    with pytest.raises(BaconError, match="epoch_1/batch_1.tar' holds labels of 2 images, but 4 are needed"):
        labels.batch(1, 1)


def test_what_is_handed_on_is_a_structure_of_tensors(tmp_path: Path) -> None:
    labels = open_labels(tree(tmp_path / "a"), COUNT, CLASSES)
    assert isinstance(labels, StoredLabels)
    assert {field.name for field in fields(labels.batch(0, 0))} >= {"images", "crops", "flipped", "partner", "logits"}
