"""What a notebook shows of a set."""

import base64
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from bacon_pl.distilled_set import DistilledSet
from tests.distilled_set.making import META, make
from tests.paths import ROOT


class Page(HTMLParser):
    """Text and pictures of a page, and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.images: list[Image.Image] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            kind, _, data = (dict(attrs)["src"] or "").partition(",")
            assert kind == "data:image/png;base64"
            self.images.append(Image.open(io.BytesIO(base64.b64decode(data))))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_notebook_shows_every_class_beside_its_name() -> None:
    distilled = make()
    page = Page(distilled._repr_html_())
    assert page.open == []
    assert page.text == [repr(distilled), "ant", "bee", "cat"]
    pixels = (255 * distilled.pixels()).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    for label, picture in enumerate(page.images):
        shown = np.asarray(picture.convert("RGB"))
        for number in range(2):
            left = 1 + 13 * number
            assert np.array_equal(shown[1:9, left : left + 12], pixels[label, number])


def test_names_are_text_and_no_tags() -> None:
    names = ("<script>alert(1)</script>", 'a" onerror="x', "&amp;\n\x1b[0m" + "z" * 99)
    distilled = make(replace(META, name="<b>", class_names=names), method="<i>")
    page = Page(distilled._repr_html_())
    assert page.tags == {"div", "code", "table", "tr", "th", "td", "img"}
    assert "".join(page.text[1:3]) == names[0] + names[1]
    assert page.text[3].startswith("&amp; ") and len(page.text[3]) == 40


@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_big_set_a_part_is_shown(channels: int) -> None:
    names = tuple(f"class {i}" for i in range(200))
    meta = replace(META, class_names=names, channels=channels, mean=META.mean[:channels], std=META.std[:channels])
    text = make(meta, ipc=12)._repr_html_()
    page = Page(text)
    assert len(page.images) == 10
    assert "Shown: the first 10 of 200 classes, the first 10 of 12 images of a class." in page.text
    assert len(text) < 200_000


def test_pixels_are_enlarged_by_whole_factors() -> None:
    heights = re.findall(r"height:(\d+)px", make()._repr_html_())
    assert {int(height) % 10 for height in heights} == {0}  # of 8 pixels and a border each


def test_reading_a_set_needs_torch_and_torchvision_alone() -> None:
    code = (
        "import sys; from bacon_pl import DistilledSet\n"
        "others = ('lightning', 'matplotlib', 'sklearn', 'scipy', 'datasets', 'huggingface_hub', 'pandas', 'yaml')\n"
        "print([name for name in others if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    plain = subprocess.run(
        [sys.executable, "-c", code.replace("from bacon_pl import DistilledSet", "import torch, torchvision")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == plain.stdout  # what torch brings is torch's


def test_a_set_without_names_is_shown_too() -> None:
    meta = replace(META, class_names=("", "", ""))
    assert Page(DistilledSet(make().images, make().labels, meta)._repr_html_()).open == []
