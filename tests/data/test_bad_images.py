"""Folders with many bad files, with pictures that are too large, with one class, and with names in any script."""

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from bacon_pl.data import DatasetSpec, LabeledImages, load_dataset
from bacon_pl.data.catalog import CATALOG, register
from bacon_pl.errors import BaconError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, size: tuple[int, int] = (6, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(path)
    return path


def tree(root: Path, classes: tuple[str, ...] = ("a", "b"), splits: tuple[str, ...] = ("train", "test")) -> Path:
    for split in splits:
        for name in classes:
            for k in range(3):
                write(root / split / name / f"{k}.png")
    return root


def spoil(root: Path, count: int) -> list[str]:
    names = [f"bad{k:02}.png" for k in range(count)]
    for name in names:
        (root / "train" / "b" / name).write_bytes(b"")
    return names


def refused(root: Path, **options: str) -> str:
    with pytest.raises(BaconError) as error:
        load_dataset("folder", root, **options)
    return str(error.value)


def test_bad_images_are_listed_all_at_once(tmp_path: Path) -> None:
    root = tree(tmp_path / "d")
    names = spoil(root, 3)
    (root / "test" / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    write(root / "test" / "b" / "wide.png", (9, 6))  # another fault, which can wait
    said = refused(root)
    assert "cannot read 4 of the 17 image files" in said and "on_bad_image skip" in said
    assert all(f"train/b/{name}" in said for name in names)
    assert "'test/a/gone.png' (No such file or directory)" in said and said.count("not an image, or damaged") == 1


def test_of_very_many_bad_images_twenty_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "d")
    names = spoil(root, 27)
    said = refused(root)
    assert [name in said for name in names] == [True] * 20 + [False] * 7
    assert "and 7 more" in said
    with pytest.warns(UserWarning, match="skipped 27 image files that cannot be read: .*bad19.png.*, and 7 more"):
        assert len(load_dataset("folder", root, on_bad_image="skip")[0]) == 6


def test_a_picture_too_large_for_pillow_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "d")
    write(root / "train" / "b" / "huge.png", (60, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    said = refused(root)
    assert "huge.png' (too large: Pillow opens pictures of at most 2,000 pixels): scale it down" in said
    spoil(root, 1)
    said = refused(root)
    assert "huge.png' (too large: Pillow" in said and "bad00.png' (not an image, or damaged)" in said


@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_one_class_is_refused(tmp_path: Path, splits: tuple[str, ...]) -> None:
    said = refused(tree(tmp_path / "d", ("only",), splits))
    assert "holds one class folder only, 'only', but a classifier needs two classes or more: add a folder" in said


def test_a_folder_too_high_up_is_told_which_is_meant(tmp_path: Path) -> None:
    tree(tmp_path / "d" / "pictures", splits=("",))
    assert refused(tmp_path / "d").endswith(f"did you mean --data.root '{tmp_path / 'd/pictures'}'?")


def test_any_dataset_of_one_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(options):
        data = LabeledImages(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), ("zero",))
        return data, data

    monkeypatch.setattr("bacon_pl.data.catalog.CATALOG", dict(CATALOG))
    register(DatasetSpec("lonely", load))
    with pytest.raises(BaconError, match="lonely under '.*' has one class only, zero: give a dataset of two classes"):
        load_dataset("lonely", "x")


def test_class_names_in_any_script(tmp_path: Path, cache: Path) -> None:
    names = ("cafe\u0301", "קפה", "قهوة", "कॉफ़ी", "咖啡", "☕\ufe0f")
    root = tree(tmp_path / ("猫" * 80), names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a cache file's name has fewer bytes than a folder's
        for _ in range(2):
            train, test, meta = load_dataset("folder", root)
            assert meta.class_names == train.class_names == tuple(sorted(names)) and len(test) == 18
    assert len(list(cache.iterdir())) == 1
