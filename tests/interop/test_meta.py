"""The description of the dataset that a foreign set was made of."""

import pytest
from PIL import Image

from bacon_pl.errors import BaconError
from bacon_pl.interop import dataset_meta
from tests.interop.making import CIFAR


@pytest.mark.parametrize(
    ("name", "classes", "last"),
    [("MNIST", 10, "9 - nine"), ("fashion_mnist", 10, "Ankle boot"), ("svhn", 10, "9"), ("CIFAR-100", 100, "worm")],
)
def test_descriptions_without_data(name, classes, last):
    meta = dataset_meta(name)
    assert (meta.num_classes, meta.class_names[-1]) == (classes, last)
    assert len(set(meta.class_names)) == classes
    assert list(meta.class_names) == sorted(meta.class_names) or classes == 10
    assert meta.train_bytes > 40_000_000


def test_descriptions_from_data(tmp_path):
    assert CIFAR.class_names[:2] == ("airplane", "automobile")
    assert dataset_meta("digits").class_names == tuple("0123456789")
    assert dataset_meta("cifar10", image_size=16, mean=[0.5] * 3).size == (16, 16)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / name / f"{i}.png")
    assert dataset_meta("folder", tmp_path).class_names == ("ant", "bee")
    with pytest.raises(BaconError, match="only the files of tiny_imagenet tell its classes"):
        dataset_meta("tiny_imagenet")
    with pytest.raises(BaconError, match="Did you mean 'cifar10'"):
        dataset_meta("cifra10")
    with pytest.raises(BaconError, match="1 channel"):
        dataset_meta("mnist", mean=[0.5] * 3)
