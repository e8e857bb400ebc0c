"""Grids of images with one row per class: tensors for loggers, and labeled figures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torchvision.utils import make_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100
_CELL = 64  # side in pixels to which small images are enlarged,
_LONG_SIDE = 8_000  # unless a side of the picture would exceed this length
_MAX_SIDE = 30_000  # Agg does not support sides of 2^16 pixels; this leaves room for the names
_PADDING = 2
_ONE_COLUMN = 40  # maximum number of classes in one column; more classes are arranged in several columns
_LONGEST_NAME = 32
_LETTER = 9  # approximate width of a letter in screen pixels
_GAP = 0.05  # inches between a name and its images


def columns(classes: int, row: float, width: float) -> int:
    """Choose the number of columns: one for few classes, otherwise such that the picture is approximately square.

    Args:
        classes: Number of classes.
        row: Height of the row of a class.
        width: Width of a column, in the same unit.

    Returns:
        The number of columns.
    """
    if classes <= _ONE_COLUMN:
        return 1
    return min(classes, math.ceil(math.sqrt(classes * row / width)))


def grid_tensor(images: Tensor, padding: int = _PADDING) -> Tensor:
    """Arrange images in a grid with one row per class; more than 40 classes are arranged in several columns.

    Args:
        images: (C, n, ch, H, W) in [0, 1], where ch is 1 or 3.
        padding: White pixels between images.

    Returns:
        (3, height, width) in [0, 1]; gray images have three equal channels.
    """
    classes, n, _, height, width = images.shape
    gap = max(width // 2, 4 * padding)
    row, block = height + padding, n * (width + padding) + padding + gap
    parts = [_rows(part, padding) for part in _columns_of(images, columns(classes, row, block))]
    if len(parts) == 1:
        return parts[0]
    tallest = parts[0].shape[1]
    picture = parts[0].new_ones(3, tallest, sum(part.shape[2] for part in parts) + gap * (len(parts) - 1))
    left = 0
    for part in parts:
        picture[:, : part.shape[1], left : left + part.shape[2]] = part
        left += part.shape[2] + gap
    return picture


def _columns_of(images: Tensor, number: int) -> Sequence[Tensor]:
    return images.split(-(-len(images) // number))


def _rows(images: Tensor, padding: int) -> Tensor:
    picture: Tensor = make_grid(images.flatten(0, 1), nrow=images.shape[1], padding=padding, pad_value=1.0)
    return picture


def grid_figure(images: Tensor, class_names: Sequence[str], scale: int | None = None) -> Figure:
    """Draw images with one row per class, labeled with its name; more than 40 classes are arranged in several columns.

    Args:
        images: (C, n, ch, H, W) in [0, 1], where ch is 1 or 3.
        class_names: C names as plain text.
        scale: Side of an image pixel in screen pixels, at least 1; by default chosen by the size of the picture.

    Returns:
        A figure with an Agg canvas that is not registered with pyplot, with one Axes per column.
    """
    # Imported here, since reading a set or logging a tensor does not need matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from bacon_pl.lettering import lettering

    classes, n = images.shape[:2]
    row, block = (images.shape[-2] + _PADDING), n * (images.shape[-1] + _PADDING) + _PADDING
    cell = scale or max(1, _CELL // max(images.shape[-2:]))
    # Names come from files, so mathtext, control characters and long lines must be avoided.
    shown = lettering(class_names, _LONGEST_NAME)
    room = _LETTER * max(map(len, shown.texts))
    number = columns(classes, cell * row, cell * block + (room if classes > _ONE_COLUMN else 0))
    parts = [_rows(part, _PADDING).permute(1, 2, 0).float().cpu().numpy() for part in _columns_of(images, number)]
    height, width = parts[0].shape[0], sum(part.shape[1] for part in parts)
    if scale is None:
        scale = max(1, min(cell, _LONG_SIDE // max(height, width)))
    shrink = min(1.0, _MAX_SIDE / (scale * max(height, width)))
    unit = shrink * scale / _DPI  # inches per image pixel
    points = min(12.0, 0.7 * 72 * unit * height / -(-classes // number))

    figure = Figure(dpi=_DPI)
    FigureCanvasAgg(figure)
    texts = iter(shown.texts)
    places, right = [], 0.0
    for index, part in enumerate(parts):
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.imshow(part, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        lines = (part.shape[0] - _PADDING) // row
        for line, text in enumerate(itertools.islice(texts, lines)):
            axes.text(
                -_GAP / unit,
                (line + 0.5) * part.shape[0] / lines,
                text,
                ha="right",
                va="center",
                fontsize=points,
                family=list(shown.families),
                parse_math=False,
            )
        if index:  # the names of the first column are left of the figure, and are included by bbox_inches="tight"
            right += max(text.get_window_extent().width for text in axes.texts) / _DPI + 4 * _GAP
        places.append((right, right + unit * part.shape[1], unit * part.shape[0]))
        right = places[-1][1]
    tall = unit * height
    figure.set_size_inches(right, tall)
    for axes, (start, end, high) in zip(figure.axes, places, strict=True):
        axes.set_position((start / right, 1 - high / tall, (end - start) / right, high / tall))
    return figure
