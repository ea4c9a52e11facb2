"""Docstrings as manual pages: found without importing their module, and set as plain text."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

WIDTH = 100
"""Columns of a page."""

_LISTS = ("Args:", "Attributes:", "Raises:")
"""Sections of a docstring with one entry per line."""

_ROLE = re.compile(r":\w+:`~?(?P<dots>\.?[\w.]*)`")
_CODE = re.compile(r"``(.+?)``")
_BAR = re.compile(r"(?<!\\)\|")


def docstring(place: str) -> str:
    """The docstring of a class or function, read from the source file, which is not run.

    Args:
        place: ``"module:name"``.

    Returns:
        The text, without the indentation of its code; empty if there is none.

    Raises:
        LookupError: if the module has no such class or function.

    >>> docstring("megen_gym.manual:plain").splitlines()[0]
    'A docstring as plain text: roles and code marks gone, tables aligned, long lines wrapped.'
    """
    module, _, name = place.partition(":")
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
    raise LookupError(f"no class or function {name!r} in {module}")


def summary(text: str) -> str:
    """The first sentence or line of a docstring, for a list.

    >>> summary("Weighted sum: value = sum w_i v_i. And more.")
    'Weighted sum: value = sum w_i v_i.'
    """
    first = text.strip().partition("\n\n")[0]
    line = first.partition("\n")[0]
    words = " ".join(_unmarked(line if line.endswith((".", ":")) else first).split())
    for end in re.finditer(r"[.!?](?= [A-Z]|$)", words):
        sentence = words[: end.end()]
        if sentence.count("(") == sentence.count(")"):
            return sentence
    return words.rstrip(":")


def plain(text: str, width: int = WIDTH) -> str:
    """A docstring as plain text: roles and code marks gone, tables aligned, long lines wrapped.

    Args:
        text: The docstring, in Google style with Markdown headings and tables.
        width: Columns.

    >>> print(plain("Of :class:`megen_gym.bags.Bags`.\\n\\n| a | meaning |\\n| --- | --- |\\n| n | ``atoms`` |"))
    Of Bags.
    <BLANKLINE>
      a  meaning
      -  -------
      n  atoms
    """
    lines = inspect.cleandoc(text).splitlines()
    return "\n".join(line.rstrip() for block in _blocks(lines) for line in _set(block, width))


def columns(rows: Sequence[Sequence[str]], width: int = WIDTH, indent: int = 2, rule: bool = False) -> list[str]:
    """Lines of a table; cells that are too long for the page are wrapped.

    Args:
        rows: Cells, as many in each row.
        width: Columns of the page.
        indent: Columns before the first cell.
        rule: Draw a line under the first row.

    >>> columns([["dart", "an energy"], ["sum", "of others"]])
    ['  dart  an energy', '  sum   of others']
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) + indent > width and max(widths) > 12:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for number, row in enumerate(rows):
        cells = [
            textwrap.wrap(cell, size, break_on_hyphens=False) or [""] for cell, size in zip(row, widths, strict=True)
        ]
        for part in range(max(map(len, cells))):
            texts = [cell[part] if part < len(cell) else "" for cell in cells]
            line = "  ".join(f"{one:{size}s}" for one, size in zip(texts, widths, strict=True))
            lines.append(" " * indent + line.rstrip())
        if rule and number == 0:
            lines.append(" " * indent + "  ".join("-" * size for size in widths))
    return [line.rstrip() for line in lines]


@cache
def _tree(module: str) -> ast.Module:
    top, *inner = module.split(".")
    places = getattr(importlib.import_module(top), "__path__", ())
    for place in places:
        path = Path(place, *inner)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_text(encoding="utf-8"))
    raise LookupError(f"there is no module {module}")


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Lines that belong together: a table, a doctest, one entry of a list, a paragraph, or one that stands alone."""
    block: list[str] = []
    listed = False
    for line in lines:
        if block and not _goes_on(block, line, listed):
            yield block
            block = []
        block.append(line)
        if line.strip() in _LISTS:
            listed = True
        elif line.strip() and not line.startswith(" "):
            listed = False
    if block:
        yield block


def _goes_on(block: list[str], line: str, listed: bool) -> bool:
    first = block[0].strip()
    if not first or not line.strip() or first.startswith("#") or first in _LISTS:
        return False
    if first.startswith(("|", ">>>")) or line.lstrip().startswith(("|", ">>>")):
        return first.startswith(">>>") or first[:1] == line.lstrip()[:1]
    if line.lstrip().startswith(("- ", "* ")):
        return False
    return _indent(line) > _indent(block[0]) or (not listed and _indent(line) == _indent(block[0]))


def _set(block: list[str], width: int) -> list[str]:
    first = block[0].strip()
    if first.startswith("#"):
        title = first.lstrip("# ")
        return [title, "-" * len(title)]
    if first.startswith("|"):
        rows = [[_unmarked(cell.strip()) for cell in _BAR.split(line.strip())[1:-1]] for line in block]
        return columns([rows[0], *rows[2:]], width, rule=True)
    lines = [_unmarked(line) for line in block]
    if first.startswith(">>>") or max(map(len, block)) <= width:
        return lines
    head = _indent(block[0])
    hang = _indent(block[1]) if len(block) > 1 else head + 4 * (head > 0)
    hang = max(hang, head + 2 * first.startswith(("- ", "* ")))
    joined = " ".join(line.strip() for line in lines)
    return textwrap.wrap(joined, width, initial_indent=" " * head, subsequent_indent=" " * hang, break_on_hyphens=False)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _unmarked(text: str) -> str:
    text = _ROLE.sub(lambda found: found["dots"].rpartition(".")[2], text)
    return _CODE.sub(r"\1", text).replace("\\|", "|")
