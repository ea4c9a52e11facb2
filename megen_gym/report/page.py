"""The page: everything of a report in one HTML file that needs no network."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from megen_gym import runs
from megen_gym.errors import InputError
from megen_gym.report import packing
from megen_gym.report.content import Report, Table
from megen_gym.report.svg import PALETTE, Colour, chart, histogram

MOST_CHARTS = 8
"""Charts that are open from the beginning."""

SCRIPTS = ("structures.js", "formats.js", "picture.js", "viewer.js", "gallery.js")
LIBRARY, LICENCE = "3Dmol-min.js", "3Dmol-LICENSE.txt"

NUMBER = re.compile(r"[−+-]?[\d,]*\.?\d+(e[+-]?\d+)?\s*(%|[±(–].*)?|[–—-]|nan|")
"""What is aligned to the right: numbers, also with a unit of per cent or an interval, and gaps."""


def write_report(report: Report, path: Path) -> Path:
    """Write a report as one HTML file, atomically.

    Args:
        report: What it holds.
        path: The file; an existing one is replaced.

    Returns:
        The path.

    Raises:
        InputError: for a name that does not end in .html, or a structure that cannot be drawn.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write a report to {path}; expected a name that ends in .html")
    runs.write_text(path, html(report))
    return path


def html(report: Report) -> str:
    """The text of the page."""
    structures = packing.by_energy(report.structures)
    groups = list(dict.fromkeys(packing.group(atoms) for atoms in report.structures))
    parts = {
        "results": "".join(table(one) for one in report.tables if not one.folded),
        "charts": _charts(report, groups),
        "structures": _asset("gallery.html") if structures else "",
        "details": "".join(table(one) for one in report.tables if one.folded),
    }
    titles = {"results": "Results", "charts": "Curves and distributions", "details": "Details"}
    sections = [
        text if name == "structures" else f'<section id="{name}"><h2>{titles[name]}</h2>{text}</section>'
        for name, text in parts.items()
        if text
    ]
    links = [f'<li><a href="#{name}">{titles.get(name, "Structures")}</a></li>' for name, text in parts.items() if text]
    contents = f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>' if len(links) > 1 else ""
    summary = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.summary.items())
    scripts = _scripts() if structures else []
    data = packing.pack(structures, groups) if structures else ""
    return Template(_asset("page.html")).substitute(
        title=escape(report.title),
        policy=_policy(scripts),
        style=_asset("report.css"),
        summary=f"<dl>{summary}</dl>" if summary else "",
        contents=contents,
        main="\n".join(sections),
        data=f'<script type="application/json" id="data">{data}</script>' if structures else "",
        scripts="\n".join(
            [f"<!--\n{_asset(LICENCE)}\n-->" if scripts else "", *map("<script>{}</script>".format, scripts)]
        ),
    )


def table(content: Table) -> str:
    """A table in a box of its own that scrolls where the page is narrow."""
    columns = range(len(content.header))
    numeric = [bool(content.rows) and all(NUMBER.fullmatch(row[i].strip()) for row in content.rows) for i in columns]
    kind = [' class="number"' if yes and index else "" for index, yes in enumerate(numeric)]
    head = "".join(f'<th scope="col"{kind[i]}>{escape(content.header[i])}</th>' for i in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind[i]}>{escape(cell)}</td>" if i else f'<th scope="row">{escape(cell)}</th>'
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in content.rows
    )
    caption = escape(content.caption)
    note = "".join(f'<p class="note">{escape(line)}</p>' for line in content.note.splitlines())
    text = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )
    return f"<details><summary>{caption}</summary>{text}</details>" if content.folded else text


def _charts(report: Report, groups: Sequence[str]) -> str:
    labels = [name for one in report.histograms for name in one.groups]
    labels += [series.label for one in report.charts for series in one.series if series.label]
    place = {name: index for index, name in enumerate(dict.fromkeys([*groups, *labels]))}
    drawn = [chart(one, _colour(place, [s.label for s in one.series])) for one in report.charts]
    distributions = [histogram(one, _colour(place, list(one.groups))) for one in report.histograms]
    shown, folded = distributions + drawn[:MOST_CHARTS], drawn[MOST_CHARTS:]
    text = f'<div class="charts">{"".join(shown)}</div>' if shown else ""
    if folded:
        more = f'<div class="charts">{"".join(folded)}</div>'
        text += f"<details><summary>{len(folded)} more curves</summary>{more}</details>"
    return text


def _colour(place: dict[str, int], labels: Sequence[str]) -> Colour:
    """A label has one colour on the whole page, unless two of one picture would get the same."""
    taken: dict[str, int] = {}
    for label in labels:
        wanted = place.get(label, 0) % PALETTE
        free = [(wanted + step) % PALETTE for step in range(PALETTE)]
        taken.setdefault(label, next((one for one in free if one not in taken.values()), wanted))
    return lambda label: taken.get(label, 0)


def _scripts() -> list[str]:
    own = "\n".join(_asset(name) for name in SCRIPTS)
    return [_asset(LIBRARY), f'{{\n"use strict";\n{own}}}']


def _policy(scripts: Sequence[str]) -> str:
    """What the browser lets the page do: run these very scripts, and load nothing."""
    hashes = [f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    allowed = " ".join(hashes) or "'none'"
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"


def _asset(name: str) -> str:
    return (files("megen_gym.report") / "assets" / name).read_text(encoding="utf-8")
