"""The catalog and the loaders of datasets with a format of their own, on small files in that format."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from bacon_pl.data import CATALOG, DataModule, DatasetSpec, LabeledImages, load_dataset, register
from bacon_pl.data.catalog import channel_statistics, find
from bacon_pl.errors import BaconError
from tests.real_formats import FACTS, md5, random_images, random_split, write_dataset, write_idx, write_mnist


@pytest.mark.parametrize("spelling", ["CIFAR10", "cifar-10", "cifar10", "Cifar_10"])
def test_spelling_of_a_name_does_not_count(spelling: str) -> None:
    assert find(spelling).name == "cifar10"


def test_paper_spellings_are_known() -> None:
    names = [find(name).name for name in ("MNIST", "FashionMNIST", "SVHN", "CIFAR100", "TinyImageNet")]
    assert names == ["mnist", "fashion_mnist", "svhn", "cifar100", "tiny_imagenet"]


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(BaconError, match="unknown dataset 'cifar11'.*mean 'cifar10'"):
        find("cifar11")


def test_registered_dataset_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bacon_pl.data.catalog.CATALOG", dict(CATALOG))
    data = LabeledImages(torch.full((2, 1, 4, 5), 51, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    spec = register(DatasetSpec("my_set", lambda options: (data, data)))
    train, _, meta = load_dataset("MySet", tmp_path)
    assert train is data
    assert (meta.name, meta.size, meta.channels, meta.num_classes) == ("my_set", (4, 5), 1, 2)
    # A constant channel: its mean, and the floor of one gray level.
    assert meta.mean == pytest.approx((0.2,)) and meta.std == pytest.approx((1 / 255,))
    with pytest.raises(ValueError, match="taken"):
        register(spec)


def test_dataset_of_ones_own_is_named_by_its_module(own_dataset: str) -> None:
    for _ in range(2):  # found again, not registered again
        data = DataModule(name=f"{own_dataset}.SPEC")
        data.setup()
        assert (data.name, data.meta.class_names) == ("birds", ("bird", "bee"))
    for name, flaw in (("DATA", "not a DatasetSpec"), ("NONE", "cannot import"), ("CLASH", "is taken")):
        with pytest.raises(BaconError, match=flaw):
            find(f"{own_dataset}.{name}")
    with pytest.raises(BaconError, match="cannot import"):
        find("no.such.SPEC")


@pytest.mark.parametrize("name", FACTS)
def test_every_dataset_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    facts, written = FACTS[name], write_dataset(name, tmp_path, monkeypatch)
    module = DataModule(name, tmp_path, batch_real=3, eval_batch=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # formats of their time, which new libraries have remarks on
        module.setup()
    meta = module.meta
    assert (meta.name, meta.channels, meta.size) == (name, facts.channels, (facts.size, facts.size))
    assert (meta.mean, meta.std) == (facts.mean, facts.std)
    assert meta.num_classes == len(set(meta.class_names)) == facts.classes
    assert meta.train_bytes == facts.classes * 4 * facts.channels * facts.size**2
    assert module.train.counts.tolist() == [4] * facts.classes and module.test.counts.tolist() == [1] * facts.classes
    tolerance = 2 if name == "tiny_imagenet" else 0  # JPEG
    for loaded, split in zip((module.train, module.test), written, strict=True):
        for label in (0, 1, facts.classes - 1):
            images = loaded.images[loaded.labels == label].numpy().astype(int)
            assert np.abs(images - split.images[split.labels == label]).max() <= tolerance

    images, mask = module.iteration_batch(0, 0).matching()
    assert images.dtype == torch.uint8 and images.shape == (facts.classes, 3, facts.channels, facts.size, facts.size)
    assert mask is None
    x, y = module.on_after_batch_transfer(next(iter(module.test_dataloader())), 0)
    pixels = module.test.images[:7].double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (facts.mean, facts.std))
    torch.testing.assert_close(x.double(), (pixels - mean) / std, rtol=1e-5, atol=1e-5)
    assert torch.equal(y, module.test.labels[:7])


def test_names_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FACTS:
        write_dataset(name, tmp_path, monkeypatch, 1)
    names = {name: load_dataset(name, tmp_path)[2].class_names for name in FACTS}
    assert names["mnist"] == tuple(datasets.MNIST.classes)
    assert names["fashion_mnist"] == tuple(datasets.FashionMNIST.classes)
    assert names["svhn"] == tuple("0123456789")
    assert names["cifar10"][9] == "class 9" and names["cifar100"][99] == "class 99"
    assert names["tiny_imagenet"][0] == "word 0, another word"


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_idx_files_as_fetched_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source, raw = getattr(datasets, name), tmp_path / name / "raw"
    train, test = random_split("mnist", 2, 0), random_split("mnist", 1, 1)
    write_mnist(raw, train, test, gz=True)
    with pytest.raises(BaconError, match="--data.download true"):
        load_dataset(name, tmp_path)
    monkeypatch.setattr(source, "resources", [(file, md5(raw / file)) for file, _ in source.resources])
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", lambda *a, **k: pytest.fail("went to the network"))
    assert np.array_equal(load_dataset(name, tmp_path, download=True)[0].images.numpy(), train.images)


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("svhn", "train_32x32.mat"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
    ],
)
def test_missing_files_say_where_and_what_to_do(tmp_path: Path, name: str, holds: str) -> None:
    with pytest.raises(BaconError) as caught:
        load_dataset(name, tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere") in message and holds in message and "--data.download true" in message
    assert "\n" not in message


def test_truncated_idx_file_is_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for split in ("train", "t10k"):
        write_idx(raw / f"{split}-images-idx3-ubyte", random_images(4, 28, 28))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.zeros(4, dtype=np.uint8))
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BaconError, match="cannot read MNIST"):
        load_dataset("mnist", tmp_path)


def test_images_and_labels_of_other_lengths_are_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for split in ("train", "t10k"):
        write_idx(raw / f"{split}-images-idx3-ubyte", random_images(4, 28, 28))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.zeros(3, dtype=np.uint8))
    with pytest.raises(BaconError, match="4 images but 3 labels"):
        load_dataset("mnist", tmp_path)


def test_digits_are_scaled_and_split_by_class(tmp_path: Path) -> None:
    train, test, meta = load_dataset("digits", tmp_path, test_fraction=0.25, seed=3)
    assert len(train) + len(test) == 1797 and len(test) == 450
    assert int(train.images.max()) == 255 and train.images.shape[1:] == (1, 8, 8)
    share = test.counts / (test.counts + train.counts)
    assert torch.all((share - 0.25).abs() < 0.01)
    pixels = train.images.double() / 255
    assert meta.mean == pytest.approx((float(pixels.mean()),), abs=1e-12)
    assert meta.std == pytest.approx((float(pixels.std(unbiased=False)),), abs=1e-12)
    again, _, _ = load_dataset("digits", tmp_path, test_fraction=0.25, seed=3)
    other, _, _ = load_dataset("digits", tmp_path, test_fraction=0.25, seed=4)
    assert torch.equal(train.images, again.images) and not torch.equal(train.images, other.images)


def test_image_size_resizes_any_dataset(tmp_path: Path) -> None:
    train, test, meta = load_dataset("digits", tmp_path, image_size=12)
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 12, 12)
    assert meta.size == (12, 12) and meta.train_bytes == train.images.numel()


def test_statistics_are_exact_per_channel() -> None:
    images = torch.from_numpy(random_images(1100, 3, 5, 4))
    images[:, 1] //= 3
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-13)
    assert std == pytest.approx(pixels.var((0, 2, 3), unbiased=False).sqrt().tolist(), abs=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"test_fraction": 1.0}, "test_fraction must be between 0 and 1"),
        ({"test_fraction": 0.001}, "test_fraction 0.001"),
        ({"on_bad_image": "ignore"}, "'error' or 'skip'"),
        ({"mean": [0.5, 0.5]}, "mean must have one number per channel"),
        ({"mean": [0.5, 0.5, 0.5]}, "mean has 3 number.* have 1 channels"),
        ({"std": [0.0]}, "std .* must be in \\(0, 1\\]"),
        ({"mean": [127.0]}, "mean .* must be in \\[0, 1\\]"),
        ({"mean": [0.5], "std": [0.5] * 3}, "as many numbers"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(BaconError, match=message):
        load_dataset("digits", tmp_path, **arguments)


def test_given_normalization_wins(tmp_path: Path) -> None:
    _, _, meta = load_dataset("digits", tmp_path, mean=[0.25])
    _, _, own = load_dataset("digits", tmp_path)
    assert meta.mean == (0.25,) and meta.std == own.std


def test_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    with pytest.raises(BaconError, match="cannot download MNIST to .*no route to host"):
        load_dataset("mnist", tmp_path, download=True)
