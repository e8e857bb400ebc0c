"""The README and the pages of the documentation as tests read them: their code blocks and their headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A block that shows fences itself has a longer one.
_FENCE = re.compile(r"^( *)(`{3,})([^\s`]*)[^\n`]*\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
_REASON = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
_FILE = re.compile(r"# ([\w.]+\.(?:py|yaml))\b")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        language: What stands behind its fence.
        text: Its lines.
        not_run: The reason that a comment before it gives for not running it.
    """

    language: str
    text: str
    not_run: str | None

    @property
    def file(self) -> str | None:
        """The name of the file that it shows, which is its first line."""
        found = _FILE.match(self.text)
        return found and found[1]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        reason = _REASON.search(text[: match.start()])
        found.append(Block(match[3], match[4], reason and reason[1]))
    return found


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The headings, as links name them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def example_files() -> dict[str, str]:
    """All files that the pages show, by name; one that is shown twice is the same."""
    files: dict[str, str] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.file is not None:
                assert files.setdefault(block.file, block.text) == block.text, f"two versions of {block.file}"
    return files
