"""Sphinx: the pages of docs/ as a site that opens offline (``make docs``).

The side bar is :data:`pages.NAVIGATION`; pages themselves hold plain Markdown only, so that they read well unbuilt.
Sources are read from the repository's root, because pages link to the model cards beside the weights.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs.pages import CARDS, NAVIGATION

HERE = Path(__file__).resolve().parent

project = html_title = "megen-gym"
root_doc = "docs/index"
include_patterns = ["docs/**.md", *(f"{card}.md" for card in CARDS)]
exclude_patterns = [".*", "build", "runs", "tests"]
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_static_path = ["site/style.css"]
html_css_files = ["style.css"]
html_extra_path = ["site/index.html"]
smartquotes = False
html_show_sphinx = html_show_search_summary = html_copy_source = html_use_index = html_show_copyright = False
pygments_style = "friendly"


def with_navigation(app: Any, name: str, source: list[str]) -> None:
    """Add the lists of pages that the side bar is made of; a card of several titles becomes one page."""
    if name in CARDS:
        title, *rest = re.split(r"^(?=# [^\n]*\n\n)", source[0].lstrip(), flags=re.M)[1:]
        source[0] = "\n\n".join([title, *(f"#{part}" for part in rest)])
    if name == root_doc:
        source[0] += "".join(toctree(caption, pages) for caption, pages in NAVIGATION.items())
    below = listed(name)
    if below:
        source[0] += toctree("", below)


def listed(name: str) -> tuple[str, ...]:
    """Pages in the folder of a page's name, in the order in which the page links them."""
    page = HERE.parent / name
    text = page.with_suffix(".md").read_text()
    found = [f"{page.name}/{path.stem}" for path in page.glob("*.md")] if page.parent == HERE else []
    return tuple(sorted(found, key=lambda link: (text.find(f"({link}.md)") % (len(text) + 1), link)))


def toctree(caption: str, pages: tuple[str, ...]) -> str:
    """The directive."""
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n\n```{toctree}\n" + "\n".join([*options, "", *pages]) + "\n```\n"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", with_navigation)
