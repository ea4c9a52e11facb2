"""Pictures by matplotlib, drawn without a window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from megen_gym.runs import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure of `size` inches and its axes, (rows, columns); `options` as ``Figure.subplots`` takes them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, path: Path, dpi: int = 130) -> Path:
    """Write a figure as a PNG, wholly or not at all."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
    return path
