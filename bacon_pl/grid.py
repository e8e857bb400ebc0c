"""Pictures of images class by class: a tensor for loggers, a labeled figure for people. No files are read here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torchvision.utils import make_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100
_CELL = 64  # Small images are enlarged to about this many pixels a side,
_LONG_SIDE = 8_000  # unless the picture would grow past this.
_MAX_SIDE = 30_000  # Agg refuses 2^16 pixels a side; the rest is room for the names.
_PADDING = 2


def grid_tensor(images: Tensor, padding: int = _PADDING) -> Tensor:
    """Lay images out with one row per class.

    Args:
        images: (C, n, ch, H, W) in [0, 1], ch 1 or 3.
        padding: White pixels between images.

    Returns:
        (3, height, width) in [0, 1]; gray images have three equal channels.
    """
    picture: Tensor = make_grid(images.flatten(0, 1), nrow=images.shape[1], padding=padding, pad_value=1.0)
    return picture


def grid_figure(images: Tensor, class_names: Sequence[str], scale: int | None = None) -> Figure:
    """Draw images with one row per class and the class's name beside it.

    Args:
        images: (C, n, ch, H, W) in [0, 1], ch 1 or 3.
        class_names: C names, shown as plain text.
        scale: Screen pixels per image pixel and side, at least 1; by default as large as keeps the picture handy.

    Returns:
        A figure with its own Agg canvas, outside pyplot's state.
    """
    # Imported here: whoever reads a set or logs a tensor does not wait for matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = grid_tensor(images).permute(1, 2, 0).float().cpu().numpy()
    height, width = picture.shape[:2]
    if scale is None:
        scale = max(1, min(_CELL // max(images.shape[-2:]), _LONG_SIDE // max(height, width)))
    shrink = min(1.0, _MAX_SIDE / (scale * max(height, width)))
    inches = (shrink * scale * width / _DPI, shrink * scale * height / _DPI)

    figure = Figure(figsize=inches, dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    row = height / len(class_names)
    points = min(12.0, 0.7 * 72 * inches[1] / len(class_names))
    for index, name in enumerate(class_names):
        # Names come from files: no mathtext, no control characters, no line longer than a picture can bear.
        text = "".join(c if c.isprintable() else "?" for c in name)
        text = text if len(text) <= 32 else text[:31] + "…"
        place = -0.05 * _DPI / (shrink * scale)  # 0.05 inches left of the images
        axes.text(place, (index + 0.5) * row, text, ha="right", va="center", fontsize=points, parse_math=False)
    return figure
