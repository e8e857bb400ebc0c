"""Folders of image files, TinyImageNet's own layout, and the cache of decoded images."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bacon_pl.data import load_dataset
from bacon_pl.data.files import decode, fit
from bacon_pl.data.split import stratified_split
from bacon_pl.errors import BaconError
from bacon_pl.runtime import cache_dir
from tests.real_formats import write_tiny_imagenet


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, value: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "P", "I;16") else (value,) * len(mode)).save(path)
    return path


def tree(root: Path, *splits: str, classes: str = "ab", per_class: int = 3, **options) -> Path:
    for i, split in enumerate(splits):
        for label, name in enumerate(classes):
            for k in range(per_class):
                write(root / split / name / f"{k}.png", 100 * i + 10 * label + k, **options)
    return root


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_split_tree(tmp_path: Path, held_out: str) -> None:
    train, test, meta = load_dataset("folder", tree(tmp_path / "d", "train", held_out))
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert test.images[:, 2, 5, 5].tolist() == [100, 101, 102, 110, 111, 112]
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert meta.class_names == ("a", "b") and meta.size == (6, 6) and meta.train_bytes == 6 * 3 * 36
    assert meta.mean == pytest.approx((6 / 255,) * 3)


def test_test_folder_goes_before_val(tmp_path: Path) -> None:
    _, test, _ = load_dataset("folder", tree(tmp_path / "d", "train", "test", "val"))
    assert int(test.images.max()) < 200


def test_flat_tree_is_split_by_class(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "", per_class=10)
    train, test, _ = load_dataset("folder", root, test_fraction=0.3, seed=1)
    assert train.counts.tolist() == [7, 7] and test.counts.tolist() == [3, 3]
    values = torch.cat([train.images, test.images])[:, 0, 0, 0].tolist()
    assert sorted(values) == [*range(10), *range(10, 20)]
    again = load_dataset("folder", root, test_fraction=0.3, seed=1)[1]
    other = load_dataset("folder", root, test_fraction=0.3, seed=2)[1]
    assert torch.equal(test.images, again.images) and not torch.equal(test.images, other.images)


def test_nested_and_foreign_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train", "test")
    write(root / "train" / "a" / "deep" / "x.JPEG", 50)
    (root / "train" / "a" / "notes.txt").write_text("no image")
    write(root / "train" / ".hidden" / "x.png")
    train, _, _ = load_dataset("folder", root)
    assert train.counts.tolist() == [4, 3]


def test_grey_folder_has_one_channel(tmp_path: Path) -> None:
    train, test, meta = load_dataset("folder", tree(tmp_path / "d", "train", "test", mode="L"))
    assert train.images.shape == (6, 1, 6, 6) and test.images.shape[1] == meta.channels == len(meta.mean) == 1


def test_one_color_image_makes_all_rgb(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train", "test", mode="L")
    Image.new("RGB", (6, 6), (1, 2, 3)).save(root / "test" / "b" / "2.png")
    train, test, meta = load_dataset("folder", root)
    assert meta.channels == 3 and test.images[-1, :, 0, 0].tolist() == [1, 2, 3]
    assert train.images[4, :, 0, 0].tolist() == [11, 11, 11]


def test_modes(tmp_path: Path) -> None:
    gray16 = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(gray16).save(tmp_path / "i16.png")
    Image.fromarray(gray16).save(tmp_path / "i16.tif")
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "pt.png", transparency=1)
    Image.new("RGBA", (1, 1), (10, 20, 30, 128)).save(tmp_path / "rgba.png")
    Image.new("LA", (1, 1), (40, 128)).save(tmp_path / "la.png")
    Image.new("1", (1, 1), 1).save(tmp_path / "one.png")
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    for name in ("i16.png", "i16.tif"):
        assert decode(tmp_path / name).tolist() == [[[0, 1, 128, 255]]]
    for name in ("p.png", "pt.png"):
        assert decode(tmp_path / name).tolist() == [[[9, 200]], [[8, 100]], [[7, 50]]]
    assert decode(tmp_path / "rgba.png").flatten().tolist() == [10, 20, 30]
    assert decode(tmp_path / "la.png").tolist() == [[[40]]]
    assert decode(tmp_path / "one.png").tolist() == [[[255]]]
    cyan = decode(tmp_path / "cmyk.jpg")[:, 4, 4].tolist()
    assert cyan[0] < 5 and min(cyan[1:]) > 250


def test_float_image_is_bad(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train", "test")
    Image.new("F", (6, 6), 0.5).save(root / "train" / "a" / "x.tif")
    with pytest.raises(BaconError, match="x.tif.*floating point"):
        load_dataset("folder", root)


def test_sizes_must_agree_or_be_given(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train", "test")
    write(root / "train" / "b" / "wide.png", size=(16, 8))
    with pytest.raises(BaconError, match="'train/b/wide.png' has 8x16 pixels.*--data.image_size N"):
        load_dataset("folder", root)
    train, test, meta = load_dataset("folder", root, image_size=4)
    assert train.images.shape == (7, 3, 4, 4) and test.images.shape[-2:] == meta.size == (4, 4)


def test_fit_scales_the_shorter_side_and_cuts_the_center() -> None:
    image = torch.zeros(1, 4, 12, dtype=torch.uint8)
    image[..., 4:8] = 200  # the center third
    assert torch.equal(fit(image, 4), torch.full((1, 4, 4), 200, dtype=torch.uint8))
    board = torch.tensor([[0, 200], [200, 0]], dtype=torch.uint8).repeat(8, 8)[None]
    assert int(fit(board, 4).min()) > 80 and int(fit(board, 4).max()) < 120  # antialiased: gray, not 0 or 200
    assert fit(board, 32).shape == (1, 32, 32)


def test_missing_empty_and_lopsided_trees(tmp_path: Path) -> None:
    with pytest.raises(BaconError, match="cannot read the folder '.*nowhere'"):
        load_dataset("folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaconError, match="empty' holds no class folders"):
        load_dataset("folder", tmp_path / "empty")
    root = tree(tmp_path / "d", "train", "test")
    write(root / "test" / "c" / "0.png")
    with pytest.raises(BaconError, match="different classes: 'c' is only in test/"):
        load_dataset("folder", root)
    (root / "train" / "c").mkdir()
    with pytest.raises(BaconError, match="class folder '.*train/c' holds no images"):
        load_dataset("folder", root)
    with pytest.raises(BaconError, match="neither test/ nor val/"):
        load_dataset("folder", tree(tmp_path / "only", "train"))
    with pytest.raises(BaconError, match="one image each"):
        load_dataset("folder", tree(tmp_path / "few", "", per_class=1))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"zero": b"", "truncated": data[: len(data) * 2 // 3], "text": b"no image at all"}[how])


@pytest.mark.parametrize("how", ["zero", "truncated", "text"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_bad_image_is_named_or_skipped(tmp_path: Path, how: str, suffix: str) -> None:
    root = tree(tmp_path / "d", "train", "test")
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path = root / "train" / "b" / f"bad.{suffix}"
    Image.fromarray(noise).resize((64, 64)).save(path)
    damage(path, how)
    with pytest.raises(BaconError, match=f"bad.{suffix}'.*on_bad_image skip"):
        load_dataset("folder", root)
    for _ in range(2):  # decoded, then from the cache: the warning stays
        with pytest.warns(UserWarning, match=f"skipped 1 image.*bad.{suffix}"):
            train, test, _ = load_dataset("folder", root, on_bad_image="skip")
        assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12] and train.labels.tolist() == [0] * 3 + [1] * 3
        assert len(test) == 6


def test_skipping_may_not_empty_a_class(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train", "test")
    for path in (root / "test" / "b").iterdir():
        damage(path, "zero")
    with pytest.warns(UserWarning, match="skipped 3"), pytest.raises(BaconError, match="class folder '.*test/b'"):
        load_dataset("folder", root, on_bad_image="skip")
    for path in root.rglob("*.png"):
        damage(path, "zero")
    with pytest.raises(BaconError, match="none of the 12 image files"):
        load_dataset("folder", root, on_bad_image="skip")


def test_loop_of_links_ends(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train", "test")
    (root / "train" / "a" / "loop").symlink_to(root / "train" / "a", target_is_directory=True)
    assert load_dataset("folder", root)[0].counts.tolist() == [3, 3]


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch):
    def forbid() -> None:
        def refuse(path):
            raise AssertionError(f"decoded {path} although it is in the cache")

        monkeypatch.setattr("bacon_pl.data.files.decode", refuse)

    return forbid


def test_second_start_decodes_nothing(tmp_path: Path, no_decoding) -> None:
    root = tree(tmp_path / "d", "train", "test")
    first = load_dataset("folder", root)
    no_decoding()
    second = load_dataset("folder", root)
    for a, b in zip(first[:2], second[:2], strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert first[2] == second[2]
    with pytest.raises(BaconError, match="although it is in the cache"):
        load_dataset("folder", root, image_size=3)  # other options, other entry


@pytest.mark.parametrize("flat", [False, True])
def test_training_images_alone_do_not_take_the_place_of_all(tmp_path: Path, cache: Path, no_decoding, flat) -> None:
    root = tree(tmp_path / "d", *([""] if flat else ["train", "test"]))
    for test in (True, False):
        load_dataset("folder", root, test=test)
    assert len(list(cache.iterdir())) == (1 if flat else 2)  # a flat folder is decoded as a whole in any case
    no_decoding()
    for test in (True, False):
        load_dataset("folder", root, test=test)


def test_changed_folder_is_decoded_again(tmp_path: Path, cache: Path) -> None:
    root = tree(tmp_path / "d", "train", "test")
    load_dataset("folder", root)
    path = write(root / "train" / "a" / "0.png", 77)
    os.utime(path, ns=(1, 1))
    assert int(load_dataset("folder", root)[0].images[0, 0, 0, 0]) == 77
    path.unlink()
    assert len(load_dataset("folder", root)[0]) == 5
    assert len(list(cache.iterdir())) == 1  # one entry per folder, and no temporary files left


@pytest.mark.parametrize("how", ["truncated", "flipped", "zero", "text"])
def test_damaged_cache_is_rebuilt(tmp_path: Path, cache: Path, no_decoding, how: str) -> None:
    root = tree(tmp_path / "d", "train", "test")
    first = load_dataset("folder", root)
    (entry,) = cache.iterdir()
    if how == "flipped":
        data = bytearray(entry.read_bytes())
        data[-200] ^= 1
        entry.write_bytes(data)
    else:
        damage(entry, how)
    with pytest.warns(UserWarning, match="cache file .* cannot be used"):
        second = load_dataset("folder", root)
    assert torch.equal(first[0].images, second[0].images)
    no_decoding()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset("folder", root)


def test_cache_that_cannot_be_written_is_only_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="cannot write the cache file"):
        train, _, _ = load_dataset("folder", tree(tmp_path / "d", "train", "test"))
    assert len(train) == 6


def test_place_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("BACON_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "bacon_pl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "bacon_pl"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    def plain(value: int, mode: str = "RGB") -> Image.Image:
        return Image.new(mode, (64, 64), value if mode == "L" else (value,) * 3)

    root = tmp_path / "tiny-imagenet-200"
    train = {"n02": [plain(0)] * 3, "n01": [plain(50)] * 3 + [plain(60, "L")]}  # wnids.txt is not sorted
    val = [(wnid, plain(100 + 10 * k)) for k, wnid in enumerate(("n02", "n01", "n01"))]
    write_tiny_imagenet(root, train, val, {"n00": "entity", "n01": "goldfish, Carassius auratus"})
    annotations = root / "val" / "val_annotations.txt"
    first, second, third = annotations.read_text().splitlines()
    annotations.write_text("\n".join([third, first, second]) + "\n")
    return root


def test_tiny_imagenet(tiny: Path, no_decoding) -> None:
    train, test, meta = load_dataset("TinyImageNet", tiny)
    assert meta.class_names == ("n02", "goldfish, Carassius auratus")
    assert train.images.shape == (7, 3, 64, 64) and train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert test.labels.tolist() == [1, 0, 1]
    assert test.images[:, 0, 0, 0].tolist() == [120, 100, 110]
    assert train.images[6, :, 0, 0].tolist() == [60, 60, 60]
    load_dataset("tiny_imagenet", tiny, test=False)
    no_decoding()
    assert torch.equal(load_dataset("tiny_imagenet", tiny.parent)[0].images, train.images)


@pytest.mark.parametrize("missing", ["wnids.txt", "val/val_annotations.txt"])
def test_tiny_imagenet_missing_parts(tiny: Path, missing: str) -> None:
    (tiny / missing).unlink()
    with pytest.raises(BaconError, match=f"TinyImageNet not found: '.*{missing}' is missing"):
        load_dataset("tiny_imagenet", tiny)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_9.JPEG\tn01", "line 1 .*'val_9.JPEG', which is not in val/images"),
        ("val_1.JPEG\tn77", "line 1 .* class 'n77', which wnids.txt lacks"),
        ("val_1.JPEG", "line 1 .* class ''"),
        ("", "is empty"),
    ],
)
def test_tiny_imagenet_wrong_annotations(tiny: Path, line: str, message: str) -> None:
    (tiny / "val" / "val_annotations.txt").write_text(f"{line}\n")
    with pytest.raises(BaconError, match=message):
        load_dataset("tiny_imagenet", tiny)


def test_stratified_split_keeps_the_last_of_a_class() -> None:
    labels = torch.tensor([2, 0, 2, 0, 2, 3, 0, 0, 2, 2])
    kept, held = stratified_split(labels, 0.99, 5, "purpose")
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(10))
    assert torch.bincount(labels[kept]).tolist() == [1, 0, 1, 1]
    assert torch.equal(held, held.sort().values)
    kept, held = stratified_split(labels, 0.01, 5, "purpose")
    assert torch.bincount(labels[held], minlength=4).tolist() == [1, 0, 1, 0]
