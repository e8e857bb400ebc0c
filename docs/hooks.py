"""What the site needs besides its pages: files of the top folder as pages, formulas, and references in docstrings."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOP = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|obj):<code>~?(?:[\w.]*\.)?(\w+)(?: &lt;[\w.]+&gt;)?</code>")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Make pages of the top folder's files; what they link to below ``docs`` lies beside them in the site."""
    top = Path(config.config_file_path).parent
    for source, page in TOP.items():
        text = (top / source).read_text(encoding="utf-8").replace("](docs/", "](")
        for other, its_page in TOP.items():
            text = text.replace(f"]({other}", f"]({its_page}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to the top folder's files, as they are right in the repository, to their pages."""
    for source, page in TOP.items():
        markdown = markdown.replace(f"../{source}", page)
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers show without a script, and Sphinx's roles into code."""
    return _ROLE.sub(r"<code>\1</code>", _FORMULA.sub(_mathml, content))


def _mathml(found: re.Match[str]) -> str:
    return convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline")
