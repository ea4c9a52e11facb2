"""Charts and histograms as inline SVG; all colours are classes of the style sheet, so that they follow the theme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from megen_gym.report.axes import Axis, number, span
from megen_gym.report.content import Chart, Histogram, Series
from megen_gym.structure import FloatArray

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 44
MOST_POINTS = 600
"""A longer line keeps the lowest and the highest point of each stretch."""

FEW_POINTS = 12
"""A line with no more points shows them."""

PALETTE = 8
"""Colours of the style sheet; further lines of a chart are dashed."""

Colour = Callable[[str], int]
"""Number of a label's colour."""


def chart(content: Chart, colour: Colour) -> str:
    """A ``<figure>`` with lines, bands, axes, and a legend below."""
    lines = [_points(series, content.log_x) for series in content.series]
    xs = np.concatenate([np.zeros(0), *(x for x, _ in lines)])
    ys = np.concatenate([np.zeros(0), *(edge[np.isfinite(edge)] for _, edges in lines for edge in edges)])
    if content.y_range is not None:
        ys = np.concatenate([ys, content.y_range])
    y_axis = Axis(*span(ys), HEIGHT - BOTTOM, TOP)
    left = max(LEFT, 32 + 7 * max(len(text) for text in y_axis.ticks()[1]))
    x_axis = Axis(*span(xs, content.log_x, 0.0), left, WIDTH - RIGHT, content.log_x)
    marks = [_grid(x_axis, y_axis, content.x_label, content.y_label)]
    described, legend = [], []
    for index, (series, (x, edges)) in enumerate(zip(content.series, lines, strict=True)):
        if not len(x):
            described.append(f"{series.label or content.title}: no values")
            continue
        name = f"c{colour(series.label)}" + (" dashed" if index >= PALETTE else "")
        marks.append(_line(x_axis.at(x), [y_axis.at(edge) for edge in edges], name))
        text = f"{number(edges[0][0])} at {number(x[0])} to {number(edges[0][-1])} at {number(x[-1])}"
        described.append(f"{series.label or content.title}: {text}")
        if series.label:
            legend.append(f'<li class="{name}"><i aria-hidden="true"></i>{escape(series.label)}</li>')
    if not len(xs):
        marks.append(_text((left + WIDTH - RIGHT) / 2, HEIGHT / 2 - 12, "no values", "middle"))
    about = f"{content.y_label or content.title} over {content.x_label}. {'; '.join(described)}."
    return figure(content.title, about, HEIGHT, marks, legend)


def histogram(content: Histogram, colour: Colour) -> str:
    """A ``<figure>`` with one row of bars for each group over a common axis."""
    groups = {name: np.asarray(values, float) for name, values in content.groups.items()}
    groups = {name: values[np.isfinite(values)] for name, values in groups.items()}
    groups = {name: values for name, values in groups.items() if len(values)}
    everything = np.concatenate([np.zeros(0), *groups.values()])
    edges, beyond = bin_edges(everything)
    row = 190 if len(groups) < 2 else max(58, 200 // len(groups))
    height = TOP + max(1, len(groups)) * row + BOTTOM
    x_axis = Axis(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    counts = {name: np.histogram(values, edges)[0] / len(values) for name, values in groups.items()}
    top = max((float(share.max()) for share in counts.values()), default=1.0) or 1.0
    marks, described = [_x_ticks(x_axis, content.x_label, TOP, height - BOTTOM)], []
    for index, (name, share) in enumerate(counts.items()):
        base = TOP + (index + 1) * row
        axis = Axis(0.0, 100 * top, base, base - row + 22)
        marks.append(_bars(x_axis.at(edges), axis, 100 * share, f"c{colour(name)}"))
        count = f"{name} ({len(groups[name]):,})"
        marks.append(
            _text(LEFT + 4, base - row + 14, count if len(count) < 60 else f"{count[:57]}…", "start", "strong")
        )
        middle = np.median(groups[name])
        described.append(f"{count}: lowest {number(groups[name].min())}, median {number(middle)}")
    middle = TOP + max(1, len(groups)) * row / 2
    marks.append(_upright(14, middle, "share of the group (%)" if len(groups) > 1 else "share (%)"))
    notes = []
    if beyond:
        notes.append(f"<li>{beyond:,} of {len(everything):,} values lie above the end of the axis</li>")
    about = f"{content.x_label}. {'; '.join(described) or 'no values'}."
    return figure(content.title, about, height, marks, notes)


def figure(title: str, about: str, height: float, marks: Sequence[str], legend: Sequence[str]) -> str:
    """The frame of a picture: title, the picture with its description, legend."""
    below = f'<ul class="legend">{"".join(legend)}</ul>' if legend else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(f"{title}: {about}")}">'
        f"{''.join(marks)}</svg>{below}</figure>"
    )


def bin_edges(values: FloatArray) -> tuple[FloatArray, int]:
    """Edges of 8 to 40 bins, and how many values far above the others they leave out."""
    if not len(values):
        return np.linspace(0.0, 1.0, 9), 0
    low, first, third = (float(np.percentile(values, q)) for q in (0, 25, 75))
    inside = values[values <= third + 6 * max(third - first, 1e-9)] if third > first else values
    low, high = span(inside, margin=0.0)
    width = 2 * (third - first) / len(values) ** (1 / 3)
    count = int(np.clip((high - low) / width, 8, 40)) if width > 0 else 12
    return np.linspace(low, high, count + 1), len(values) - len(inside)


def _points(series: Series, log_x: bool) -> tuple[FloatArray, list[FloatArray]]:
    """Places, and at these y, low and high, thinned; low and high only where there is a band."""
    edges = [series.y] if series.low is None or series.high is None else [series.y, series.low, series.high]
    rows = np.array([series.x, *edges], dtype=float)
    rows = rows[:, np.isfinite(rows[:2]).all(axis=0) & ((rows[0] > 0) | (not log_x))]
    rows = rows[:, np.argsort(rows[0], kind="stable")]
    if rows.shape[1] > MOST_POINTS:
        parts = np.array_split(np.arange(rows.shape[1]), MOST_POINTS // 2)
        ends = {part[pick(rows[1, part])] for part in parts for pick in (np.argmin, np.argmax)}
        rows = rows[:, sorted({0, rows.shape[1] - 1} | {int(end) for end in ends})]
    return rows[0], list(rows[1:])


def _line(x: FloatArray, edges: Sequence[FloatArray], name: str) -> str:
    marks = []
    if len(edges) > 1:
        known = np.isfinite(edges[1]) & np.isfinite(edges[2])
        below, above = ([*zip(x[known], edge[known], strict=True)] for edge in edges[1:])
        around = below + above[::-1]
        marks.append(f'<polygon class="band" points="{_path(around)}"/>')
    points = list(zip(x, edges[0], strict=True))
    marks.append(f'<polyline class="line" points="{_path(points)}"/>')
    if len(points) <= FEW_POINTS:
        marks.extend(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in points)
    return f'<g class="{name}">{"".join(marks)}</g>'


def _bars(places: FloatArray, axis: Axis, share: FloatArray, name: str) -> str:
    heights = axis.at(share)
    bars = "".join(
        f'<rect class="bar" x="{left + 0.5:.1f}" y="{y:.1f}" width="{right - left - 1:.1f}" '
        f'height="{axis.start - y:.1f}"/>'
        for left, right, y in zip(places[:-1], places[1:], heights, strict=True)
        if axis.start - y > 0
    )
    values, texts, _ = axis.ticks(2 if axis.start - axis.end < 100 else 4)
    ticks = "".join(_text(LEFT - 7, y + 4, text, "end") for y, text in zip(axis.at(values), texts, strict=True))
    base = f'<path class="axis" d="M{LEFT} {axis.start:.1f}H{WIDTH - RIGHT}"/>'
    return f'<g class="{name}">{bars}</g>{base}{ticks}'


def _grid(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> str:
    values, texts, factor = y_axis.ticks()
    marks = [_x_ticks(x_axis, x_label, TOP, HEIGHT - BOTTOM)]
    left = x_axis.start
    for y, text in zip(y_axis.at(values), texts, strict=True):
        marks.append(f'<path class="grid" d="M{left} {y:.1f}H{WIDTH - RIGHT}"/>')
        marks.append(_text(left - 7, y + 4, text, "end"))
    marks.append(f'<path class="axis" d="M{left} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    marks.append(_upright(14, (TOP + HEIGHT - BOTTOM) / 2, f"{y_label} {factor}".strip()))
    return "".join(marks)


def _x_ticks(axis: Axis, label: str, top: float, bottom: float) -> str:
    values, texts, factor = axis.ticks()
    marks = []
    for x, text in zip(axis.at(values), texts, strict=True):
        marks.append(f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>')
        anchor = "end" if x > WIDTH - RIGHT - 12 and len(text) > 4 else "middle"
        marks.append(_text(min(x, WIDTH - 2) if anchor == "middle" else WIDTH - 2, bottom + 17, text, anchor))
    marks.append(_text((axis.start + axis.end) / 2, bottom + 35, f"{label} {factor}".strip(), "middle", "label"))
    return "".join(marks)


def _upright(x: float, y: float, text: str) -> str:
    return (
        f'<text class="label" text-anchor="middle" transform="translate({x} {y:.1f}) rotate(-90)">{escape(text)}</text>'
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
