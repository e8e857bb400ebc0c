"""The catalog and the loaders of datasets with a format of their own, on small files in that format."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from bacon_pl.data import CATALOG, DataModule, DatasetSpec, LabelledImages, load_dataset, register
from bacon_pl.data.catalog import channel_statistics, find
from bacon_pl.errors import BaconError


def random_images(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.tobytes())


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


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
    data = LabelledImages(torch.full((2, 1, 4, 5), 51, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    spec = register(DatasetSpec("my_set", lambda options: (data, data)))
    train, _, meta = load_dataset("MySet", tmp_path)
    assert train is data
    assert (meta.name, meta.size, meta.channels, meta.num_classes) == ("my_set", (4, 5), 1, 2)
    # A constant channel: its mean, and the floor of one grey level.
    assert meta.mean == pytest.approx((0.2,)) and meta.std == pytest.approx((1 / 255,))
    with pytest.raises(ValueError, match="taken"):
        register(spec)


def test_dataset_of_ones_own_is_named_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bacon_pl.data.catalog.CATALOG", dict(CATALOG))
    (tmp_path / "birds_and_bees.py").write_text(
        "import torch\nfrom bacon_pl.data import DatasetSpec, LabelledImages\n"
        "DATA = LabelledImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ('bird', 'bee'))\n"
        "SPEC = DatasetSpec('birds', lambda options: (DATA, DATA))\nCLASH = DatasetSpec('MNIST', SPEC.load)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):  # found again, not registered again
        data = DataModule(name="birds_and_bees.SPEC")
        data.setup()
        assert (data.name, data.meta.class_names) == ("birds", ("bird", "bee"))
    for name, flaw in (("DATA", "no DatasetSpec"), ("NONE", "cannot import"), ("CLASH", "is taken")):
        with pytest.raises(BaconError, match=flaw):
            find(f"birds_and_bees.{name}")
    with pytest.raises(BaconError, match="cannot import"):
        find("no.such.SPEC")


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files(tmp_path: Path, name: str, folder: str) -> None:
    raw = tmp_path / folder / "raw"
    images = {"train": random_images(7, 28, 28), "t10k": random_images(5, 28, 28, seed=1)}
    for split, array in images.items():
        write_idx(raw / f"{split}-images-idx3-ubyte", array)
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(len(array), dtype=np.uint8))
    train, test, meta = load_dataset(name, tmp_path)
    assert np.array_equal(train.images[:, 0].numpy(), images["train"])
    assert np.array_equal(test.images[:, 0].numpy(), images["t10k"])
    assert train.labels.tolist() == list(range(7))
    assert train.class_names == tuple(getattr(datasets, folder).classes)
    assert (meta.mean, meta.std) == (CATALOG[name].mean, CATALOG[name].std)
    assert meta.train_bytes == 7 * 28 * 28


def test_svhn_mat_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"train": random_images(4, 32, 32, 3), "test": random_images(3, 32, 32, 3, seed=1)}
    sums = {}
    for split, array in images.items():
        path = tmp_path / f"{split}_32x32.mat"
        labels = np.array([10, 1, 9, 2][: len(array)], dtype=np.uint8)[:, None]
        savemat(path, {"X": array.transpose(1, 2, 3, 0), "y": labels})
        sums[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", sums)
    train, test, meta = load_dataset("SVHN", tmp_path)
    assert np.array_equal(train.images.numpy(), images["train"].transpose(0, 3, 1, 2))
    assert np.array_equal(test.images.numpy(), images["test"].transpose(0, 3, 1, 2))
    assert train.labels.tolist() == [0, 1, 9, 2]  # the file writes zero as 10
    assert meta.class_names == tuple("0123456789")


def write_pickle(path: Path, content: dict) -> list[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return [path.name, md5(path)]


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    source = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    key, names_key = ("labels", "label_names") if classes == 10 else ("fine_labels", "fine_label_names")
    folder = tmp_path / source.base_folder
    names = [f"class {i}" for i in range(classes)]
    train_files = ["data_batch_1", "data_batch_2"] if classes == 10 else ["train"]
    rows = {file: random_images(6, 3, 32, 32, seed=i) for i, file in enumerate([*train_files, "test"])}
    listed = {f: write_pickle(folder / f, {"data": x.reshape(6, -1), key: [*range(6)]}) for f, x in rows.items()}
    _, meta_sum = write_pickle(folder / "meta", {names_key: names})
    monkeypatch.setattr(source, "train_list", [listed[file] for file in train_files])
    monkeypatch.setattr(source, "test_list", [listed["test"]])
    monkeypatch.setattr(source, "meta", {"filename": "meta", "key": names_key, "md5": meta_sum})
    train, test, meta = load_dataset(f"cifar{classes}", tmp_path)
    assert np.array_equal(train.images.numpy(), np.concatenate([rows[file] for file in train_files]))
    assert np.array_equal(test.images.numpy(), rows["test"])
    assert train.labels.tolist() == [*range(6)] * len(train_files)
    assert meta.class_names == tuple(names) and meta.mean == CATALOG[f"cifar{classes}"].mean


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


def test_given_normalisation_wins(tmp_path: Path) -> None:
    _, _, meta = load_dataset("digits", tmp_path, mean=[0.25])
    _, _, own = load_dataset("digits", tmp_path)
    assert meta.mean == (0.25,) and meta.std == own.std


def test_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    with pytest.raises(BaconError, match="cannot download MNIST to .*no route to host"):
        load_dataset("mnist", tmp_path, download=True)
