"""Pictures of a distilled set: PNG files of single images, one figure of all images, and HTML for notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set.folders import folder_names
from bacon_pl.distilled_set.labels import counts_text
from bacon_pl.errors import BaconError, one_line
from bacon_pl.grid import grid_tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 10
_MOST_IN_A_ROW = 10
_ROW_HEIGHT = 48  # height of an image in a notebook, in screen pixels
_LONGEST_NAME = 40


def png(image: Tensor) -> bytes:
    """Encode one image as a PNG file.

    Args:
        image: (ch, H, W), uint8, where ch is 1 or 3.

    Returns:
        The bytes of the file.
    """
    buffer = io.BytesIO()
    to_pil_image(image).save(buffer, format="PNG")
    return buffer.getvalue()


def to_bytes(pixels: Tensor) -> Tensor:
    """Round pixels in [0, 1] to uint8."""
    return pixels.mul(255).round().to(torch.uint8)


def share_clipped(images: Tensor, meta: DatasetMeta) -> float:
    """Compute the share of values that are darker than black or brighter than white, which pictures cannot show.

    Args:
        images: (..., ch, H, W), in the space of ``meta``.
        meta: Description of the dataset.

    Returns:
        The share, in [0, 1].
    """
    pixels = meta.pixels(images)
    return float(((pixels < 0) | (pixels > 1)).float().mean())


def as_text(text: str) -> str:
    """Make HTML of plain text."""
    return f"<div><code>{html.escape(one_line(text, 800))}</code></div>"


def write_png(pixels: Sequence[Tensor], class_names: tuple[str, ...], target: Path) -> None:
    """Write one PNG file per image, as ``<target>/<class>/<number>.png``.

    Args:
        pixels: (n, ch, H, W) in [0, 1] for each of C classes.
        class_names: C names, from which the folder names are made.
        target: A new or empty folder.

    Raises:
        BaconError: The folder is not empty or cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Existing files would be mistaken for images of this set.
        if any(target.iterdir()):
            raise BaconError(f"'{target}' is not empty; choose a new folder for the images.")
        for name, images in zip(folder_names(class_names), pixels, strict=True):
            (target / name).mkdir()
            for index, image in enumerate(to_bytes(images)):
                (target / name / f"{index:04d}.png").write_bytes(png(image))
    except OSError as error:
        raise BaconError(f"cannot write images to '{target}' ({error.strerror}); choose another folder.") from error


def write_figure(figure: Figure, target: Path) -> None:
    """Write a figure to a file, whose suffix determines the format.

    Raises:
        BaconError: The file cannot be written, or matplotlib does not know its suffix.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, bbox_inches="tight", pad_inches=0.05)
    except (OSError, ValueError) as error:
        raise BaconError(f"cannot write the picture '{target}' ({error}); choose another .png file.") from error


def as_html(title: str, pixels: Sequence[Tensor], class_names: tuple[str, ...]) -> str:
    """Make self-contained HTML that shows images as embedded PNG, one row per class.

    Args:
        title: Title as plain text.
        pixels: (n, ch, H, W) in [0, 1] for each of C classes. The first ten images of the first ten are shown.
        class_names: C names as plain text.

    Returns:
        The HTML.
    """
    classes, counts = len(pixels), tuple(map(len, pixels))
    rows = []
    for name, images in zip(class_names[:_MOST_ROWS], pixels[:_MOST_ROWS], strict=True):
        picture = grid_tensor(images[None, :_MOST_IN_A_ROW], padding=1)
        # Enlarged by a whole factor and without smoothing, to show the trained pixels.
        height = picture.shape[1] * max(1, _ROW_HEIGHT // picture.shape[1])
        data = base64.b64encode(png(to_bytes(picture))).decode()
        label = html.escape(one_line(name, _LONGEST_NAME))
        rows.append(
            f'<tr><th style="text-align:right">{label}</th><td style="text-align:left"><img alt="{label}" '
            f'style="height:{height}px;max-width:none;image-rendering:pixelated" '
            f'src="data:image/png;base64,{data}"></td></tr>'
        )
    shown, each = min(classes, _MOST_ROWS), min(max(counts[:_MOST_ROWS]), _MOST_IN_A_ROW)
    left_out = []
    if shown < classes:
        left_out.append(f"the first {shown} of {classes} classes")
    if each < max(counts[:_MOST_ROWS]):
        left_out.append(f"the first {each} of {counts_text(counts[:_MOST_ROWS])} images of a class")
    note = f"<div>Shown: {', '.join(left_out)}.</div>" if left_out else ""
    return f"<div><code>{html.escape(one_line(title, 400))}</code>{note}<table>{''.join(rows)}</table></div>"
