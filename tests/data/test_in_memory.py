"""Images that Python code has at hand, as the library's data."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from bacon_pl.data import DatasetMeta, InMemoryData, LabeledImages, labeled_images
from bacon_pl.data.files import decode
from bacon_pl.errors import BaconError

BYTES = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
LABELS = torch.tensor([0, 1, 0, 1])


class Listed(Dataset):
    classes = ("ant", "bee")

    def __init__(self, images, labels=(0, 1, 0, 1)):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


PICTURES = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in BYTES]


FORMS = {
    "tensors": (BYTES, LABELS),
    "array and list": (BYTES.numpy(), LABELS.tolist()),
    "a list of floats": [BYTES.float() / 255, LABELS],
    "arrays of doubles": (BYTES.double().numpy() / 255, LABELS.numpy()),
    "labeled images": LabeledImages(BYTES, LABELS, ("0", "1")),
    "a dataset of tensors": Listed(list(BYTES)),
    "a dataset of floats": Listed([image / 255 for image in BYTES]),
    "a dataset of pictures": Listed(PICTURES),
    "a dataset of arrays": Listed([np.asarray(image) for image in BYTES]),
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_bytes(data):
    found = labeled_images(data)
    assert found.images.equal(BYTES) and found.labels.equal(LABELS)
    assert found.class_names == (("ant", "bee") if isinstance(data, Listed) else ("0", "1"))


def test_pixels_are_rounded_to_the_nearest_byte():
    wanted = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    pixels = wanted.float() / 255
    for off in (-1e-4, 1e-4):
        found = labeled_images(((pixels + off).clamp(0, 1), torch.arange(256) % 2))
        assert torch.equal(found.images, wanted)


def test_gray_images_may_come_without_channels_and_names_may_be_given():
    found = labeled_images((BYTES[:, 0], LABELS), ["a", "b"])
    assert found.images.equal(BYTES[:, :1]) and found.class_names == ("a", "b")
    gray = labeled_images(Listed([picture.convert("L") for picture in PICTURES]))
    assert gray.images.shape == (4, 1, 2, 2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((BYTES.permute(0, 2, 3, 1), LABELS), "the channels come second"),
        ((BYTES.float() - 1, LABELS), "not within [0, 1]"),
        ((BYTES.float() / 10, LABELS), "not within [0, 1]"),
        ((torch.full((4, 1, 2, 2), torch.nan), LABELS), "not within [0, 1]"),
        ((BYTES.long(), LABELS), "int64"),
        ((BYTES, LABELS[:3]), "one for each of the 4 images"),
        ((BYTES, LABELS.float()), "whole numbers"),
        ((BYTES, LABELS - 1), "count from 0"),
        ((BYTES, 2 * LABELS), "'1' has no images"),
        ((BYTES[:0], LABELS[:0]), "no images"),
        ((BYTES, "labels"), "cannot make a tensor of the labels"),
        (17, "cannot take images from a int"),
        (Listed([]), "no images"),
        (Listed([*PICTURES[:3], PICTURES[3].resize((3, 3))]), "image 3 of the dataset is (3, 3, 3)"),
        (Listed(["picture.png"] * 4), "image 0 of the dataset is a str"),
        (list(BYTES), "item 0 of the dataset is a Tensor"),
        (LabeledImages(BYTES[:0], LABELS[:0], ("ant", "bee")), "no images"),
        (LabeledImages(BYTES, 0 * LABELS, ("ant", "bee")), "'bee' has no images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_forms_are_refused(data, said):
    with pytest.raises(BaconError) as refused:
        labeled_images(data)
    assert said in str(refused.value)


@pytest.mark.parametrize("whole", [int, np.int64, torch.tensor, lambda label: np.array([label])])
def test_labels_of_items_are_whole_numbers_of_any_kind(whole):
    assert labeled_images([(image, whole(int(y))) for image, y in zip(BYTES, LABELS, strict=True)]).labels.equal(LABELS)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (1.7, "1.7 (a float)"),
        (torch.tensor(0.9), "tensor(0.9000) (a Tensor)"),
        (torch.eye(2)[0], "tensor([1., 0.]) (a Tensor)"),
        ("ant", "ant (a str)"),
        (None, "None (a NoneType)"),
    ],
)
def test_other_labels_of_items_are_told(label, said):
    with pytest.raises(
        BaconError, match=re.escape(f"the label of item 0 of the dataset is {said}, not a whole number")
    ):
        labeled_images([(BYTES[0], label)])


@pytest.mark.parametrize("own", [np.array(["ant", "bee"]), ["ant", "bee"], None, 2, "ab", torch.tensor([0, 1])])
def test_datasets_name_their_classes_in_any_way(own):
    data = Listed(list(BYTES))
    data.classes = own
    names = ("ant", "bee") if isinstance(own, (list, np.ndarray)) else ("0", "1")
    assert labeled_images(data).class_names == names
    assert labeled_images(data, names).class_names == names


def test_the_table_of_classes_is_that_of_the_images():
    data = LabeledImages(BYTES, LABELS, ("ant", "bee"))
    assert data.class_table[0].tolist() == [[0, 2], [1, 3]]
    assert dataclasses.replace(data, class_names=("ant", "bee", "cat")).class_table[0].tolist() == [
        [0, 2],
        [1, 3],
        [0, 0],
    ]
    assert dataclasses.replace(data, images=BYTES[:2], labels=LABELS[:2]).class_table[0].tolist() == [[0], [1]]


def test_statistics_stand_in_meta_or_beside_it():
    meta = DatasetMeta("mine", ("ant", "bee"), 3, (2, 2), (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    with pytest.raises(BaconError, match="mean and std stand in meta, too"):
        InMemoryData(LabeledImages(BYTES, LABELS, ("ant", "bee")), meta=meta, std=[0.5, 0.5, 0.5])


def test_too_few_names_are_refused():
    with pytest.raises(BaconError, match="names for 1 classes"):
        labeled_images((BYTES, LABELS), ["ant"])


def test_a_data_module_of_them_normalizes_and_holds_out():
    train = labeled_images((BYTES.repeat(5, 1, 1, 1), LABELS.repeat(5)))
    data = InMemoryData(train, train.subset(torch.tensor([0, 1])), name="bugs", val_fraction=0.2)
    data.setup()
    assert len(data.train) == 16 and len(data.val) == 4 and len(data.test) == 2
    assert data.meta.name == "bugs" and data.known_size == (2, 2) and data.meta.train_bytes == train.images.numel()
    assert data.normalize(train.images).mean((0, 2, 3)).abs().max() < 1e-5
    assert data.normalize(train.images).std((0, 2, 3), correction=0).sub(1).abs().max() < 1e-5


def test_what_is_held_out_follows_the_seed_of_the_split():
    train = labeled_images((torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(200) % 2))
    first, again, other = (InMemoryData(train, val_fraction=0.2, split_seed=seed) for seed in (0, 0, 1))
    for data in (first, again, other):
        data.setup()
    assert torch.equal(first.val.images, again.val.images)
    assert not torch.equal(first.val.images, other.val.images)


def test_its_settings_tell_its_images_apart():
    train, other = labeled_images((BYTES, LABELS)), labeled_images((BYTES.flip(0), LABELS))
    first, second, again = (InMemoryData(part).hparams for part in (train, other, train))
    assert first == again != second
    assert "root" not in first


def test_sets_that_do_not_go_together_are_refused():
    train, larger = labeled_images((BYTES, LABELS)), labeled_images((torch.zeros(2, 3, 4, 4).byte(), [0, 1]))
    with pytest.raises(BaconError, match="images of one size"):
        InMemoryData(train, larger)
    with pytest.raises(BaconError, match="no training images"):
        InMemoryData(None, train)
    none = LabeledImages(BYTES[:0], LABELS[:0], ("0", "1"))
    with pytest.raises(BaconError, match="there are no images"):
        InMemoryData(None, none, meta=META)
    with pytest.raises(BaconError, match="no training images"):
        InMemoryData(none, train)
    three = labeled_images((BYTES[:3], [0, 1, 2]))
    with pytest.raises(BaconError, match="images of 3"):
        InMemoryData(train, three)
    with pytest.raises(BaconError, match="mean has 1 number"):
        InMemoryData(train, mean=[0.5])


def test_pictures_in_memory_are_those_of_files(tmp_path):
    """Gray pictures of every depth have one channel, and 16 bits are scaled and not clipped."""
    values = np.array([[0, 257, 514], [1000, 32896, 65535]], dtype=np.uint16)
    pictures = [Image.fromarray(values), Image.fromarray((values > 600).astype(np.uint8) * 255).convert("1")]
    pictures += [Image.fromarray((values // 257).astype(np.uint8)).convert("LA")]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
        found = labeled_images(Listed([picture] * 4)).images
        assert found.shape == (4, 1, 2, 3) and torch.equal(found[0], decode(tmp_path / f"{i}.png"))
    assert found.max() == 255 and labeled_images(Listed([pictures[0]] * 4)).images[0, 0, 0].tolist() == [0, 1, 2]
    floats = Image.fromarray(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(
        BaconError, match="image 0 of the dataset cannot be read: its pixels are floating point numbers"
    ):
        labeled_images(Listed([floats] * 4))


META = DatasetMeta("set", ("ant", "bee"), channels=3, size=(2, 2), mean=(0.5,) * 3, std=(0.2,) * 3)


def test_classes_in_another_order_are_refused():
    swapped = Listed(list(BYTES))
    swapped.classes = ("bee", "ant")
    said = "the class 'bee' has the label 0, but 1 in the set: give images whose classes are in the order of the set"
    with pytest.raises(BaconError, match=said):
        labeled_images(swapped, META.class_names)
    named = LabeledImages(BYTES, LABELS, ("bee", "ant"))
    with pytest.raises(BaconError, match=said):
        labeled_images(named, META.class_names)
    with pytest.raises(BaconError, match=said):
        InMemoryData(None, named, meta=META)
    numbered = labeled_images((BYTES, LABELS))  # names of its own say nothing
    assert InMemoryData(None, numbered, meta=META).name == "images"


def test_images_of_another_size_than_the_sets_are_refused():
    for shape in ((4, 1, 2, 2), (4, 3, 4, 4)):
        other = labeled_images((torch.zeros(shape, dtype=torch.uint8), LABELS))
        with pytest.raises(
            BaconError, match=f"the images are {shape[1]}×{shape[2]}×{shape[3]}, but those of set are 3×2×2"
        ):
            InMemoryData(None, other, meta=META)


def test_test_images_may_lack_a_class():
    found = labeled_images((BYTES, torch.zeros(4, dtype=torch.int64)), META.class_names, every_class=False)
    assert found.counts.tolist() == [4, 0]
    with pytest.raises(BaconError, match="the class 'bee' has no images"):
        labeled_images((BYTES, torch.zeros(4, dtype=torch.int64)), META.class_names)
