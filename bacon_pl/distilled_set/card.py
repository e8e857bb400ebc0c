"""The dataset card of a distilled set on the Hub, made from the set's metadata."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from bacon_pl.distilled_set.labels import counts_text
from bacon_pl.distilled_set.pictures import share_clipped
from bacon_pl.errors import one_line

if TYPE_CHECKING:
    from bacon_pl.distilled_set.artifact import DistilledSet

_MOST_CLASSES = 50
# The Hub's names of size categories.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(distilled: DistilledSet, repo: str, place: str) -> str:
    """Describe a set as a dataset card.

    Args:
        distilled: The set.
        repo: Repository on the Hub, ``user/name``.
        place: Address to load the set from, ``hf://user/name`` with or without a revision.

    Returns:
        Markdown that begins with the metadata for the Hub as YAML.
    """
    title = f"{_text(distilled.meta.name)}, distilled to {distilled.counts_text} per class"
    parts = [_front(distilled, title), f"# {title}", _summary(distilled), _loading(distilled, repo, place)]
    parts += [_facts(distilled), _caveats(distilled), _configuration(distilled)]
    return "\n\n".join(parts) + "\n"


def _front(distilled: DistilledSet, title: str) -> str:
    count = len(distilled)
    front: dict[str, Any] = {
        "pretty_name": title,
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "dataset-condensation", "bacon_pl"],
        "size_categories": [next((name for most, name in _SIZES if count < most), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _summary(distilled: DistilledSet) -> str:
    meta = distilled.meta
    made = f"{len(distilled.images)} {_kind(distilled)}"
    if distilled.factor > 1:
        made += f", which are cut into {len(distilled)} images,"
    by = f" by the method `{_text(distilled.method)}`" if distilled.method else ""
    return (
        f"A distilled set: {made} to train networks on in place of the training images of "
        f"{_text(meta.name)}, made{by} with bacon_pl."
    )


def _loading(distilled: DistilledSet, repo: str, place: str) -> str:
    soft = "" if distilled.soft_labels is None else "\nsoft_labels = distilled.expanded_soft_labels()"
    revision = place.partition("@")[2]
    chosen = f', revision="{revision}"' if revision else ""
    return f"""## Load it

As it was trained, in normalized floating-point numbers, with its provenance:

```python
from bacon_pl import DistilledSet

distilled = DistilledSet.load("{place}")
images, labels = distilled.expanded(){soft}
```

As pictures with labels:

```python
from datasets import load_dataset

pictures = load_dataset("{repo}", split="train"{chosen})
```"""


def _facts(distilled: DistilledSet) -> str:
    meta = distilled.meta
    size = "×".join(map(str, (meta.channels, *meta.size)))
    expanded = counts_text(tuple(distilled.factor**2 * count for count in distilled.counts))
    share = "" if distilled.share is None else f", {100 * distilled.share:.3g} % of the training images"
    facts = {
        "dataset": f"{_text(meta.name)}, {meta.num_classes} classes, images of {size}",
        "method": _text(distilled.method) or "not recorded",
        "images per class (ipc)": f"{distilled.counts_text} {_kind(distilled)} stored, {expanded} to train on",
        "partition factor": str(distilled.factor),
        "storage": f"{distilled.storage_bytes:,} bytes of images as 32-bit floating-point numbers; "
        f"{distilled.pixel_bytes:,} bytes at one byte per value, as the field counts{share}",
        "storage in all": _storage(distilled),
        "normalization": f"mean {_numbers(meta.mean)}, std {_numbers(meta.std)} of pixels in [0, 1]",
    }
    if distilled.upscaling != "bilinear":
        facts["upscaling of its tiles"] = distilled.upscaling
    if meta.whitening is not None:
        facts["whitened space of the images"] = f"{_text(meta.whitening.kind)}, ε {meta.whitening.epsilon:g}"
    if distilled.soft_labels is not None:
        each = "image" if distilled.factor == 1 else "canvas" if distilled.soft_labels.ndim == 2 else "tile"
        facts["soft labels"] = f"{distilled.label_kind}, {meta.num_classes} for each {each}"
    if distilled.step_size is not None:
        facts["learned step size"] = f"{distilled.step_size:g}"
    facts |= {
        "seed": str(distilled.seed),
        "version of bacon_pl": _text(distilled.version),
        "commit": _text(distilled.commit or "not recorded"),
        "checksum of the set": distilled.checksum,
    }
    shown = [f"`{_text(name)}`" for name in distilled.classes[:_MOST_CLASSES]]
    others = meta.num_classes - len(shown)
    classes = ", ".join(shown) + (f" and {others} others" if others else "")
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"## What it is\n\n| | |\n|---|---|\n{rows}\n\nClasses in label order: {classes}."


def _storage(distilled: DistilledSet) -> str:
    parts = [f"{distilled.pixel_bytes:,} of pixels", f"{distilled.label_bytes:,} of labels"]
    if distilled.step_size_bytes:
        parts.append(f"{distilled.step_size_bytes} of the step size")
    return f"{distilled.total_bytes:,} bytes: {', '.join(parts)}"


def _caveats(distilled: DistilledSet) -> str:
    outside = 100 * share_clipped(distilled.expanded()[0], distilled.meta)
    clipped = f", and the {outside:.2g} % of values that lie beyond black and white are clipped" if outside else ""
    cut = (
        f" Each canvas holds {distilled.factor}×{distilled.factor} small images, which are cut out and scaled up "
        "before they are used; the pictures here are cut out already."
        if distilled.factor > 1
        else ""
    )
    soft = (
        ""
        if distilled.label_kind is None
        else f" Their column `soft_label` holds the set's soft labels, {distilled.label_kind}, without loss."
    )
    return f"""## What to know

- `distilled.safetensors` is the set. The pictures under `data` are made from it and are not exact: their pixels are
  rounded to 8 bits{clipped}.{cut}{soft}
- It was made for training networks of the kind it was distilled with. Networks of other kinds, and other recipes of
  training and augmentation, usually reach less on it.
- No accuracy is stated here, for none is part of the set. Train on it and test on the real test images to get one.
- It was made from the images of {_text(distilled.meta.name)} and may show them, wholly or in part. Their license and
  what they ask of their users hold here too."""


def _configuration(distilled: DistilledSet) -> str:
    text = yaml.safe_dump(distilled.config, sort_keys=False, allow_unicode=True) if distilled.config else "# none\n"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)  # longer than any run of backticks in a value, which could end the block
    return f"## Configuration of the run\n\n{fence}yaml\n{text}{fence}"


def _kind(distilled: DistilledSet) -> str:
    return "images" if distilled.factor == 1 else "canvases"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _text(value: str) -> str:
    """Make arbitrary text safe for use within a line or table of Markdown."""
    return re.sub(r"[`|<>\[\]]", "_", one_line(value, 80))
