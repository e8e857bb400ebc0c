"""Links of the README, of CONTRIBUTING and of the changelog lead somewhere; the pages' are checked by ``make docs``."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, anchors, name, prose
from tests.paths import ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
MADE = {
    "docs/changelog.md": ROOT / "CHANGELOG.md",
    "docs/contributing.md": ROOT / "CONTRIBUTING.md",
}  # by docs/hooks.py


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        target = MADE.get(str(target.relative_to(ROOT)), target)
        assert target.exists(), f"{link} in {name(page)}"
        if anchor:
            assert anchor in anchors(Path(target)), f"{link} in {name(page)}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[\w/-]+\.md", text))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages | {"changelog.md", "contributing.md"} == listed


def test_nothing_cites_a_file_that_a_user_does_not_have():
    """Source and tests name a paper, or a page of the documentation."""
    notes = re.compile(r"(?<![\w/])(?:\.\./)*(?:shared/)?(?:method|methods/\w+)\.md")
    sources = [path for top in ("bacon_pl", "tests", "benchmarks", "configs") for path in (ROOT / top).rglob("*.*")]
    citing = [
        str(path.relative_to(ROOT))
        for path in sources
        if path.suffix in (".py", ".yaml", ".cpp", ".h") and notes.search(path.read_text(encoding="utf-8"))
    ]
    assert citing == []
