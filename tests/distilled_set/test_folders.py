"""A distilled set as folders of pictures, whatever its classes are called."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from bacon_pl.data.images import normalize
from bacon_pl.distilled_set import DistilledSet, folder_names
from bacon_pl.errors import BaconError
from tests.distilled_set.making import META, make


@pytest.mark.parametrize("channels", [1, 3])
def test_exported_images_read_back_in_order(tmp_path: Path, channels: int) -> None:
    meta = replace(META, channels=channels, mean=META.mean[:channels], std=META.std[:channels], class_names=("c", "a"))
    generator = torch.Generator().manual_seed(1)
    bytes_ = torch.randint(0, 256, (6, channels, *meta.size), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    distilled = DistilledSet(normalize(bytes_, meta.mean, meta.std, torch.float32), labels, meta, factor=2)
    read = ImageFolder(distilled.export_png(tmp_path / "png"))
    # "c" comes before "a" in label order: the folders are numbered so that ImageFolder agrees.
    assert read.classes == ["0_c", "1_a"]
    for index, (image, label) in enumerate(read):
        assert label == labels[index]
        assert torch.equal(pil_to_tensor(image), bytes_[index].expand(3, -1, -1))
    assert len(ImageFolder(distilled.export_png(tmp_path / "expanded", expanded=True))) == len(distilled)


def test_export_clamps_what_no_pixel_can_hold(tmp_path: Path) -> None:
    images = torch.stack([torch.full((3, 8, 12), value) for value in (-99.0, 0.0, 99.0)])
    read = ImageFolder(DistilledSet(images, torch.arange(3), META).export_png(tmp_path))
    values = [pil_to_tensor(image).unique().tolist() for image, _ in read]
    assert values[0] == [0]
    assert values[2] == [255]
    assert values[1] == sorted({round(255 * m) for m in META.mean})


def test_export_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "old.png").touch()
    with pytest.raises(BaconError, match="not empty"):
        make().export_png(tmp_path)
    with pytest.raises(BaconError, match="cannot write images"):
        make().export_png(tmp_path / "old.png")
    assert os.listdir(tmp_path) == ["old.png"]


HOSTILE = (
    "",
    ".",
    "..",
    "../../etc",
    "/root",
    "a/b",
    "a\\b",
    "C:x",
    "nul\0l",
    "con",
    "COM1.png",
    " .hidden ",
    "\uff0e\uff0e\uff0fx",
    "line\nbreak",
    "\ud800",
    "x" * 500,
    "字" * 200,
    "same",
    "same",
    "SAME",
)


def test_hostile_class_names_stay_in_the_folder(tmp_path: Path) -> None:
    meta = replace(META, class_names=HOSTILE)
    distilled = DistilledSet.load(make(meta, ipc=1).save(tmp_path / "in"))
    assert distilled.meta.class_names == HOSTILE
    target = distilled.export_png(tmp_path / "out" / "png")
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert os.listdir(tmp_path / "out") == ["png"]
    assert all(entry.is_dir() and os.listdir(entry) == ["0000.png"] for entry in target.iterdir())
    assert [label for _, label in ImageFolder(target).samples] == list(range(len(HOSTILE)))


@given(st.lists(st.text(max_size=12) | st.sampled_from(HOSTILE), min_size=1, max_size=12))
def test_folder_names_are_single_safe_components_in_order(class_names: list[str]) -> None:
    names = folder_names(tuple(class_names))
    assert len(names) == len(class_names)
    assert names == sorted(names)
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert name.isprintable()
        assert not set(name) & set('/\\:*?"<>|')
        assert name.strip(". ") == name != ""
        assert len(os.fsencode(name)) < 200
        assert name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


def test_ordinary_class_names_are_kept() -> None:
    assert folder_names(("airplane", "automobile", "bird")) == ["airplane", "automobile", "bird"]
    assert folder_names(("T-shirt/top", "Trouser")) == ["T-shirt_top", "Trouser"]
    assert folder_names(tuple("kjihgfedcba"))[:2] == ["00_k", "01_j"]
