"""Names as text in pictures: fonts for their letters if there are any, and escapes otherwise."""

import unicodedata
import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from bacon_pl.grid import grid_figure
from bacon_pl.lettering import lettering
from tests.test_grid import plain

NAMES = ["cat", "cafe\u0301", "咖啡", "قهوة", "कॉफ़ी", "☕\ufe0f", "👩\u200d🚀", "a\nb", "\ud800", "\U000e0001", "$x$"]


def font(path, family, letters):
    """A font of boxes for some letters."""
    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 700), (500, 700), (500, 0)):
        (pen.lineTo if point != (0, 0) else pen.moveTo)(point)
    pen.closePath()
    names = [".notdef", *(f"u{ord(letter):x}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def fonts(monkeypatch):
    """Matplotlib's own fonts alone, and those that a test adds."""
    manager = font_manager.fontManager
    own = [entry for entry in manager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(manager, "ttflist", own)
    yield manager
    monkeypatch.undo()
    manager._findfont_cached.cache_clear() if hasattr(manager, "_findfont_cached") else None


def test_what_no_font_has_is_escaped(fonts):
    shown = lettering(NAMES, 32)
    assert shown.families == ("sans-serif",)
    assert dict(zip(NAMES, shown.texts, strict=True)) == {
        "cat": "cat", "cafe\u0301": "cafe\u0301", "咖啡": r"\u5496\u5561", "قهوة": "قهوة",
        "कॉफ़ी": "".join(f"\\u{ord(c):04x}" for c in "कॉफ़ी"),
        "☕\ufe0f": "☕\ufe0f" if "\ufe0f" in shown.texts[5] else "☕", "👩\u200d🚀": shown.texts[6], "a\nb": "a?b",
        "\ud800": "?", "\U000e0001": "?", "$x$": "$x$",
    }  # fmt: skip
    assert r"\U0001f469" in shown.texts[6] and r"\U0001f680" in shown.texts[6]


def test_fonts_of_the_system_are_used(fonts, tmp_path):
    font(tmp_path / "a.ttf", "Cafe Serif", "咖")
    font(tmp_path / "b.ttf", "Cafe Sans", "咖啡")
    font(tmp_path / "c.ttf", "Devanagari Sans", "कफ")
    for path in sorted(tmp_path.iterdir()):
        fonts.addfont(path)
    shown = lettering(["咖啡", "कफ़"], 32)
    assert shown.families == ("sans-serif", "Cafe Sans", "Devanagari Sans")
    assert shown.texts[0] == "咖啡"
    assert shown.texts[1] == "कफ" + "".join(f"\\u{ord(c):04x}" for c in "कफ़"[2:])
    assert lettering(["cat"], 32).families == ("sans-serif",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = grid_figure(plain(2), ["咖啡", "कफ़"])
        figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].texts] == list(shown.texts)


def test_a_picture_of_any_names_makes_no_warning(tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid_figure(plain(len(NAMES)), NAMES).savefig(tmp_path / "grid.png", bbox_inches="tight")
    assert not caplog.records


@pytest.mark.parametrize("name", ["咖啡" * 30, "e\u0301" * 30, "z" * 300])
def test_long_names_end_between_letters(fonts, name):
    (text,) = lettering([name], 24).texts
    assert len(text) <= 24 and text.endswith("…")
    assert not unicodedata.combining(text[-1])
    if "\\" in text:
        assert len(text[:-1]) % 6 == 0
