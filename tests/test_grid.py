"""Pictures class by class: few classes in one column, many in several, each beside its name."""

import numpy as np
import pytest
import torch
from PIL import Image

from bacon_pl.grid import columns, grid_figure, grid_tensor


def plain(classes, n=1, height=4, width=6):
    """Images of one gray level a class, none of them white."""
    levels = torch.arange(classes)[:, None, None, None, None] / (classes + 10)
    return levels.expand(classes, n, 1, height, width).contiguous()


def level(picture, top, left, height=4, width=6):
    values = picture[0, top : top + height, left : left + width].unique()
    assert len(values) == 1
    return float(values)


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_few_classes_are_one_column(classes):
    picture = grid_tensor(plain(classes, n=2))
    assert picture.shape == (3, classes * 6 + 2, 2 * 8 + 2)
    assert len(grid_figure(plain(classes), [str(c) for c in range(classes)]).axes) == 1


def test_many_classes_stand_in_columns_read_downward():
    images = plain(300)
    picture = grid_tensor(images)
    number = columns(300, 6, 18)
    rows = -(-300 // number)
    assert number == 10 and picture.shape == (3, rows * 6 + 2, number * 10 + (number - 1) * 8)
    for c in range(300):
        column, row = divmod(c, rows)
        assert level(picture, 2 + 6 * row, 2 + 18 * column) == pytest.approx(float(images[c].flatten()[0]))


def test_the_last_column_may_be_shorter():
    picture = grid_tensor(plain(41))
    number = columns(41, 6, 18)
    rows = -(-41 // number)
    assert picture.shape[1] == rows * 6 + 2 and 41 % rows
    assert bool((picture[:, -6:, -10:] == 1).all())


@pytest.mark.parametrize("n", [1, 10])
def test_the_picture_of_many_classes_is_no_tower(n, tmp_path):
    names = [f"class {c}" for c in range(300)]
    figure = grid_figure(plain(300, n, 32, 32), names)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == names
    width, height = figure.get_size_inches()
    assert 1 / 3 < width / height < 3
    figure.savefig(tmp_path / "grid.png", bbox_inches="tight", pad_inches=0.05)
    with Image.open(tmp_path / "grid.png") as image:
        assert max(image.size) < 8000


def test_names_stand_beside_their_own_images(tmp_path):
    images = plain(60, 2, 8, 8)
    figure = grid_figure(images, [f"class {c}" for c in range(60)], scale=2)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    c = 0
    for axes in figure.axes:
        for text in axes.texts:
            box = text.get_window_extent()
            y = len(drawn) - round((box.y0 + box.y1) / 2)
            assert drawn[y, round(box.x1) + 12] == pytest.approx(255 * float(images[c].max()), abs=1)
            c += 1
    assert c == 60 and len(figure.axes) > 1
    for before, axes in zip(figure.axes, figure.axes[1:], strict=False):  # no name lies upon the column before
        end = before.get_window_extent().x1
        assert min(text.get_window_extent().x0 for text in axes.texts) > end


def test_a_picture_that_would_be_too_large_is_shrunk():
    figure = grid_figure(plain(40, 1, 900, 4), ["x"] * 40)
    assert figure.get_size_inches()[1] * 100 == pytest.approx(30_000)
