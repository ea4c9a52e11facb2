"""Docstrings as Markdown: tables of arguments, links between pages, examples as code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

HEADS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")
TITLES = {"Args": "Arguments", "Raises": "Errors"}


def markdown(thing: Callable[..., Any], links: Mapping[str, str], level: int = 2, example: str = "") -> str:
    """The docstring of a class or function.

    Args:
        thing: Whose docstring it is; its signature gives the defaults.
        links: Where the page of a class or function is, by its name.
        level: Of the headings.
        example: Markdown that comes behind the description.
    """
    parts = sections(inspect.getdoc(thing) or "")
    text = [prose(parts.pop("", ""), links)]
    if example:
        text += [f"{'#' * level} Example", example]
    for head, body in parts.items():
        text += [f"{'#' * level} {TITLES.get(head, head)}", section(head, body, thing, links)]
    return "\n\n".join(text)


def sections(manual: str) -> dict[str, str]:
    """Body by head of a docstring in Google's style; the description has the head ""."""
    parts: dict[str, list[str]] = {"": []}
    head = ""
    for line in manual.splitlines():
        if line.rstrip(":") in HEADS and line.endswith(":"):
            head = line[:-1]
        elif head and line and not line.startswith(" "):
            head = ""
        parts.setdefault(head, []).append("" if line.rstrip(":") == head and head else line)
    return {name: inspect.cleandoc("\n".join(lines)) for name, lines in parts.items()}


def section(head: str, body: str, thing: Callable[..., Any], links: Mapping[str, str]) -> str:
    """One section below its heading."""
    if head not in ("Args", "Attributes", "Raises"):
        return prose(body, links)
    rows = entries(body)
    if head == "Raises":
        return "\n".join(f"- `{name}` {prose(text, links)}" for name, text in rows)
    known = defaults(thing) if head == "Args" else {}
    known = settings(thing) if head == "Attributes" and is_dataclass(thing) else known
    columns = ["name", "default", "meaning"] if known else ["name", "meaning"]
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    for name, text in rows:
        cells = [name if "*" not in name else name.strip("*")]
        cells += [known.get(name, "")] if known else []
        lines.append(f"| {' | '.join([*cells, cell(prose(text, links))])} |")
    return "\n".join(lines)


def entries(body: str) -> list[tuple[str, str]]:
    """(name, text) of ``name: text`` with continuation lines that are indented."""
    found: list[tuple[str, str]] = []
    for line in body.splitlines():
        if line and not line.startswith(" "):
            name, _, text = line.partition(":")
            found.append((name.strip(), text.strip()))
        elif line.strip():
            name, text = found[-1]
            found[-1] = (name, f"{text} {line.strip()}")
    return found


def defaults(thing: Callable[..., Any]) -> dict[str, str]:
    """Default of every argument as it is written in Python; none for those that have to be given."""
    try:
        known = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {one.name: written(one.default) for one in known if one.default is not inspect.Parameter.empty}


def settings(thing: Any) -> dict[str, str]:
    """Default of every field of a dataclass."""
    return {one.name: written(one.default) for one in fields(thing) if one.default is not MISSING}


def written(value: Any) -> str:
    """A default in a cell of a table."""
    if isinstance(value, float | int | str | bool | tuple | None.__class__):
        return f"`{value!r}`".replace("|", "\\|")
    return f"`{getattr(value, '__name__', type(value).__name__)}`"


def cell(text: str) -> str:
    """Text that does not end its cell of a table."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def prose(text: str, links: Mapping[str, str]) -> str:
    """Roles as links or code, double backticks as single ones, tables and examples as Markdown has them."""
    text = re.sub(r":\w+:`(~?)\.*([^`]+)`", lambda found: linked(found[1], found[2], links), text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return "\n\n".join(block(part) for part in re.split(r"\n\n+", text.strip()))


def linked(short: str, path: str, links: Mapping[str, str]) -> str:
    """What a role points to."""
    name = path.rpartition(".")[2]
    if name in links:
        return f"[{name}]({links[name]})"
    return f"`{name if short else path}`"


def block(text: str) -> str:
    """A paragraph, an example, or a table with ruled columns."""
    if text.startswith(">>> "):
        return f"```pycon\n{text}\n```"
    if not re.match(r"=+ +=+$", text.partition("\n")[0].strip()):
        return text
    lines = text.splitlines()
    start = lines[0].index(" =") + 1
    rows: list[list[str]] = []
    for line in lines[1:-1]:
        if line[:start].strip() or not rows:
            rows.append([line[:start].strip(), ""])
        rows[-1][1] = f"{rows[-1][1]} {line[start:].strip()}".strip()
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {cell(what)} |" for name, what in rows)])


def summary(thing: Callable[..., Any], links: Mapping[str, str]) -> str:
    """The first sentence of a docstring, without what stands in brackets or is code at its end."""
    first = " ".join(inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].split())
    while (plain := re.sub(r" \([^()]*\)", "", first)) != first:
        first = plain
    sentence = re.split(r"(?<=[.])\s", first)[0]
    return cell(prose(re.sub(r": ``.*``\.$", ".", sentence), links))
