"""A distilled set as a dataset and as one picture."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.partition import expand, expand_labels
from tests.distilled_set.making import META, make


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_items_are_the_expanded_set(factor: int) -> None:
    distilled = make(factor=factor)
    images, labels = distilled.expanded()
    assert torch.equal(images, expand(distilled.images, factor))
    assert torch.equal(labels, expand_labels(distilled.labels, factor))
    assert len(distilled) == len(images) == 6 * factor**2
    assert distilled.ipc == 2
    batches = list(DataLoader(distilled, batch_size=5))
    assert torch.equal(torch.cat([x for x, _ in batches]), images)
    assert torch.equal(torch.cat([y for _, y in batches]), labels)
    assert isinstance(distilled[0][1], int)
    with pytest.raises(IndexError):
        distilled[len(distilled)]


def test_bytes_and_share(tmp_path: Path) -> None:
    distilled = make()
    assert distilled.pixel_bytes == 6 * 3 * 8 * 12
    assert distilled.storage_bytes == 4 * distilled.pixel_bytes
    assert distilled.share == distilled.pixel_bytes / 100_000
    assert make(replace(META, train_bytes=0)).share is None
    labels_and_header = distilled.save(tmp_path / "a.safetensors").stat().st_size - distilled.storage_bytes
    assert 0 < labels_and_header < 2_000


def test_it_keeps_a_copy_of_a_trained_parameter() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, 3, 8, 12, dtype=torch.float32))
    distilled = DistilledSet(parameter, torch.arange(3), META)
    with torch.no_grad():
        parameter.add_(1)
    assert not distilled.images.requires_grad
    assert torch.equal(distilled.images, torch.zeros(3, 3, 8, 12))


@pytest.mark.parametrize(
    ("images", "labels", "factor", "message"),
    [
        (torch.zeros(3, 3, 8, 8), torch.arange(3), 1, "shape"),
        (torch.zeros(3, 3, 8, 12), torch.arange(4), 1, "3 images but labels"),
        (torch.zeros(4, 3, 8, 12), torch.tensor([0, 0, 1, 1]), 1, "no image"),
        (torch.zeros(3, 3, 8, 12), torch.arange(3), 5, "factor 5"),
        (torch.full((3, 3, 8, 12), torch.nan), torch.arange(3), 1, "diverged"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    images: torch.Tensor, labels: torch.Tensor, factor: int, message: str
) -> None:
    with pytest.raises(BaconError, match=message):
        DistilledSet(images, labels, META, factor=factor)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_tensor_has_one_row_per_class(channels: int) -> None:
    meta = replace(META, channels=channels, mean=META.mean[:channels], std=META.std[:channels])
    distilled = make(meta)
    picture = distilled.grid_tensor()
    pixels = distilled.pixels()
    assert picture.shape == (3, 3 * (8 + 2) + 2, 2 * (12 + 2) + 2)
    assert picture.min() >= 0
    assert picture.max() <= 1
    for c in range(3):
        for n in range(2):
            top, left = 2 + 10 * c, 2 + 14 * n
            assert torch.equal(picture[:, top : top + 8, left : left + 12], pixels[c, n].expand(3, -1, -1))
    assert torch.equal(distilled.grid_tensor(max_classes=1)[:, :10], picture[:, :10])
    assert distilled.grid_tensor(max_classes=1).shape[1] == 12
    assert distilled.grid_tensor(expanded=True).shape[2] == 8 * 14 + 2


def test_saved_grid_shows_enlarged_pixels_beside_names(tmp_path: Path) -> None:
    names = ("$\\frac", "line\nbreak\ud800", "z" * 300)
    black_and_white = torch.where(make(replace(META, class_names=names)).images > 0, 99.0, -99.0)
    distilled = DistilledSet(black_and_white, torch.tensor([0, 0, 1, 1, 2, 2]), replace(META, class_names=names))
    figure = distilled.grid(scale=4)
    assert figure.get_size_inches().tolist() == [4 * 30 / 100, 4 * 32 / 100]
    assert [text.get_text() for text in figure.axes[0].texts] == ["$\\frac", "line?break?", "z" * 31 + "…"]
    path = distilled.save_grid(tmp_path / "pictures" / "grid.png", scale=4)
    with Image.open(path) as image:
        picture = pil_to_tensor(image.convert("RGB"))
    # Wider than the images by the names; the images themselves are purely black and white, 4×4 per pixel.
    assert picture.shape[2] > 4 * 30 + 50
    right = picture[:, picture.shape[1] // 2 - 4 : picture.shape[1] // 2 + 4, -100:]
    assert set(right.unique().tolist()) == {0, 255}


def test_picture_in_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(BaconError, match=r"cannot write the picture .*grid.xyz"):
        make().save_grid(tmp_path / "grid.xyz")
