"""One picture of molecules beside real ones: the data in grey, the samples in colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from megen_gym.analysis.molecule_geometry import internal
from megen_gym.analysis.molecule_report import Aim
from megen_gym.analysis.molecule_rings import RINGS, element_counts, ring_counts
from megen_gym.analysis.molecule_validity import Validity
from megen_gym.figures import save, subplots
from megen_gym.structure import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS: tuple[dict[str, Any], ...] = ({"color": "C3", "label": "samples"}, {"color": "0.6", "label": "data"})

MOST = 2000
"""Bins at most, however far one molecule lies outside."""

Judged = tuple[Sequence[Atoms], Validity]


def plot_report(
    path: Path,
    samples: Judged,
    reference: Judged | None = None,
    values: tuple[FloatArray, FloatArray] | None = None,
    aim: Aim | None = None,
) -> Path:
    """Histograms of sizes, elements, rings, bond lengths, bond angles and a property; valid molecules only.

    Args:
        path: PNG to write.
        samples: Molecules and the verdict on them.
        reference: The same of real molecules.
        values: The property of samples and of real molecules.
        aim: Which property it is, and the window that was aimed at.
    """
    figure, grid = subplots(2, 3, (12.6, 6.4))
    panels = list(grid.ravel())
    measured = [_measured(*judged) for judged in ([samples] if reference is None else [samples, reference])]
    sizes, elements, rings, lengths, angles = ([one[column] for one in measured] for column in range(5))
    _histogram(panels[0], sizes, "atoms", 1.0)
    present = np.flatnonzero(np.sum(elements, axis=0))
    _bars(panels[1], [part[present] for part in elements], [chemical_symbols[z] for z in present], "atoms per molecule")
    _bars(panels[2], rings, [name.replace("aromatic", "arom.") for name in RINGS], "rings per molecule")
    _histogram(panels[3], lengths, "bond length (Å)", 0.01)
    _histogram(panels[4], angles, "bond angle (°)", 2.0)
    if values is None or aim is None:
        panels[5].axis("off")
    else:
        known = [part[np.isfinite(part)] for part in values]
        spread = np.ptp(np.concatenate(known)) if any(map(len, known)) else 0.0
        _histogram(panels[5], known, f"{aim.name} ({aim.unit})", max(float(spread) / 40, 1e-6))
        if aim.target is not None:
            low, high = aim.target - aim.window, aim.target + aim.window
            panels[5].axvspan(low, high, color="C2", alpha=0.2, linewidth=0, label="asked for")
            panels[5].legend(fontsize="small", frameon=False)
    panels[0].legend(fontsize="small", frameon=False)
    return save(figure, path, dpi=120)


def _measured(structures: Sequence[Atoms], verdict: Validity) -> tuple[FloatArray, ...]:
    """Sizes, mean atoms of each element, mean rings, bond lengths (Å) and angles (degrees) of the valid molecules."""
    rows = np.flatnonzero(verdict.valid).tolist()
    atoms, readings = [structures[row] for row in rows], [verdict.readings[row] for row in rows]
    counts, found = element_counts(atoms), internal(atoms, readings)
    rings, size = ring_counts(readings), max(len(rows), 1)
    sizes = counts.sum(axis=1).astype(np.float64)
    return sizes, counts.sum(axis=0) / size, rings.sum(axis=0) / size, found.bonds.value, found.angles.value


def _histogram(axes: Axes, parts: Sequence[FloatArray], label: str, step: float) -> None:
    axes.set(xlabel=label, ylabel="density")
    everything = np.concatenate(parts)
    if not len(everything):
        return
    low = float(everything.min()) - step / 2
    edges = low + step * np.arange(min(int((everything.max() - low) / step) + 2, MOST))
    for part, look in list(zip(parts, LOOKS, strict=False))[::-1]:
        heights = np.histogram(part, edges)[0] / max(len(part), 1) / step
        axes.stairs(heights, edges, fill=look is LOOKS[1], linewidth=1.3, **look)


def _bars(axes: Axes, parts: Sequence[FloatArray], names: Sequence[str], label: str) -> None:
    width = 0.8 / len(parts)
    for row, (part, look) in enumerate(zip(parts, LOOKS, strict=False)):
        axes.bar(np.arange(len(names)) + (row - (len(parts) - 1) / 2) * width, part, width, **look)
    axes.set(ylabel=label, xticks=range(len(names)), xticklabels=names)
    axes.tick_params(axis="x", labelsize="small")
