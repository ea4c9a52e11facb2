"""Pictures of a comparison: the data in grey, the generated structures in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megen_gym.analysis.energies import Energies
from megen_gym.analysis.ensemble import Ensemble, Reference
from megen_gym.analysis.motifs import Motifs
from megen_gym.analysis.pairs import R_MAX, pair_counts, pair_names, partial_rdf
from megen_gym.figures import save, subplots
from megen_gym.structure import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA, MADE = "0.6", "C3"
SHOWN = 0.04
"""Share of the sites from which a motif is shown."""


def _figure(columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure, axes = subplots(rows, columns, (4.2 * columns, 3.2 * rows))
    return figure, list(axes.ravel())


def _save(figure: Figure, path: Path) -> Path:
    return save(figure, path, dpi=150)


def _densities(axes: Axes, made: FloatArray, data: FloatArray, edges: FloatArray) -> None:
    """Two normalised histograms; what lies outside the edges is counted in the normalisation."""
    own, other = (np.histogram(v, edges)[0] / max(v.size, 1) / np.diff(edges) for v in (made, data))
    axes.stairs(other, edges, fill=True, color=DATA, label="data")
    axes.stairs(own, edges, color=MADE, linewidth=1.3, label="generated")
    axes.set(ylabel="density", xlim=(edges[0], edges[-1]), ylim=(0, None))


def plot_neighbours(made: Ensemble, data: Reference, path: Path) -> Path:
    """Distances to the nearest and to the six nearest neighbours."""
    figure, panels = _figure(2)
    pairs = [(made.nearest[:, :, 0], data.nearest[:, :, 0]), (made.nearest, data.nearest)]
    for axes, (own, other), what in zip(panels, pairs, ("nearest neighbour", "six nearest neighbours"), strict=True):
        high = max(float(np.quantile(other, 0.999)), float(np.quantile(own, 0.99))) * 1.05
        low = min(float(other.min()), float(np.quantile(own, 0.001))) * 0.95
        _densities(axes, own, other, np.linspace(low, high, 100))
        axes.axvline(data.valid_distance, color="k", linestyle=":", linewidth=1, label="limit of valid")
        axes.set_xlabel(f"distance to {what} (Å)")
    panels[0].legend(fontsize="small")
    return _save(figure, path)


def plot_heights(made: Ensemble, data: Reference, axis: int, path: Path) -> Path:
    """Profile along an axis, one panel per element."""
    figure, panels = _figure(len(data.elements))
    cut = data.cut(axis)
    own, other = made.heights(axis, cut), data.heights(axis, cut)
    everything = np.concatenate([values.ravel() for values in (*own, *other)])
    edges = np.linspace(float(everything.min()) - 0.2, float(everything.max()) + 0.2, 120)
    for axes, element, first, second in zip(panels, data.elements, own, other, strict=True):
        _densities(axes, first, second, edges)
        axes.set(xlabel=f"height along axis {'abc'[axis]} (Å)", title=element)
    panels[0].legend(fontsize="small")
    return _save(figure, path)


def plot_rdf(made: Ensemble, data: Reference, path: Path) -> Path:
    """Partial radial distribution functions."""
    names = pair_names(data)
    figure, panels = _figure(len(names))
    own, other = (partial_rdf(data, e.measured("pair_counts", pair_counts)).mean(axis=0) for e in (made, data))
    edges = np.linspace(0, R_MAX, own.shape[1] + 1)
    for axes, name, first, second in zip(panels, names, own, other, strict=True):
        axes.stairs(second, edges, fill=True, color=DATA, label="data")
        axes.stairs(first, edges, color=MADE, linewidth=1.2, label="generated")
        # A collapsed set has peaks near zero that would flatten everything else.
        axes.set(xlabel="r (Å)", ylabel="g(r)", title=name, xlim=(0, R_MAX), ylim=(0, 1.4 * float(second.max())))
    panels[0].legend(fontsize="small")
    return _save(figure, path)


def plot_angles(made: FloatArray, data: FloatArray, cutoff: float, path: Path) -> Path:
    """Distribution of bond angles, from shares (B, 360) and (R, 360)."""
    figure, (axes,) = _figure(1)
    own, other = (values.mean(axis=0).reshape(-1, 4).sum(axis=1) / 2 for values in (made, data))
    edges = np.linspace(0, 180, len(own) + 1)
    axes.stairs(other, edges, fill=True, color=DATA, label="data")
    axes.stairs(own, edges, color=MADE, linewidth=1.3, label="generated")
    axes.set(xlabel=f"bond angle (degrees), bonds < {cutoff:.2f} Å", ylabel="density (1/degree)", xlim=(0, 180))
    axes.legend(fontsize="small")
    return _save(figure, path)


def plot_energies(energies: Energies, path: Path) -> Path:
    """Energies before and after relaxing; hatched is what counts for nothing because atoms overlap."""
    figure, panels = _figure(2)
    data = energies.reference
    for axes, values, what in zip(panels, (energies.before, energies.after), ("unrelaxed", "relaxed"), strict=True):
        known = np.isfinite(values)
        shown = np.concatenate([values[known], data])
        if not len(shown):
            continue
        low, high = float(shown.min()), float(np.quantile(values[known] if known.any() else shown, 0.95))
        if len(data):
            # Overlapping atoms have energies of thousands of eV, of either sign: the data must remain visible.
            top, bottom, spread = float(data.max()), float(data.min()), float(np.ptp(data)) + 1e-3
            low, high = max(low, bottom - 5 * spread), min(max(high, top + spread), top + 20 * spread)
        edges = np.linspace(low - 0.02 * (high - low) - 1e-3, high + 1e-3, 60)
        clipped = np.clip(values, edges[0], edges[-1])
        if len(data):
            heights = np.histogram(data, edges)[0] / len(data)
            axes.stairs(heights, edges, fill=True, color=DATA, label="data")
            axes.axvline(float(data.max()), color="k", linestyle=":", linewidth=1, label="data's highest")
        count = max(len(values), 1)
        good = known & energies.valid
        axes.stairs(
            np.histogram(clipped[good], edges)[0] / count, edges, color=MADE, linewidth=1.4, label="valid when relaxed"
        )
        axes.stairs(
            np.histogram(clipped[known & ~energies.valid], edges)[0] / count, edges, fill=False, color="C0",
            hatch="////", linewidth=0.8, label="overlapping",
        )  # fmt: skip
        axes.set(xlabel=f"energy, {what} (eV/atom)", ylabel="share of structures", xlim=(edges[0], edges[-1]))
        axes.set_title(f"{int((known & (values > edges[-1])).sum())} above, {int((known & (values < edges[0])).sum())} "
                       "below the range", fontsize="small")  # fmt: skip
    panels[0].legend(fontsize="small")
    return _save(figure, path)


def plot_motifs(made: Motifs, data: Motifs, path: Path) -> Path:
    """Share of the sites by most likely motif, one panel per element."""
    figure, panels = _figure(len(data.elements))
    own, other = made.shares()[~made.failed].mean(axis=0), data.shares()[~data.failed].mean(axis=0)
    for axes, element, first, second in zip(panels, data.elements, own, other, strict=True):
        shown = np.flatnonzero(np.maximum(first, second) >= SHOWN)
        shown = shown[np.argsort(second[shown])]
        place = np.arange(len(shown))
        axes.barh(place + 0.2, 100 * second[shown], 0.4, color=DATA, label="data")
        axes.barh(place - 0.2, 100 * first[shown], 0.4, color=MADE, label="generated")
        axes.set_yticks(place, [data.labels[index] for index in shown], fontsize="x-small")
        axes.set(xlabel="sites (%)", title=element)
    panels[0].legend(fontsize="small")
    return _save(figure, path)


def plot_order(made: Mapping[str, FloatArray], data: Mapping[str, FloatArray], path: Path, shells: int = 2) -> Path:
    """Warren-Cowley parameters of the first shells, one panel per kind of pair."""
    pairs = list(dict.fromkeys(name.split(" ")[1] for name in data))
    figure, panels = _figure(len(pairs), shells)
    names = [f"{k}NN {pair}" for k in range(1, shells + 1) for pair in pairs]
    for axes, name in zip(panels, names, strict=True):
        both = [np.asarray(values[name])[np.isfinite(values[name])] for values in (made, data)]
        _range_densities(axes, both)
        axes.set_xlabel(f"Warren-Cowley, {name}")
    panels[0].legend(fontsize="small")
    return _save(figure, path)


def plot_expansion(made: FloatArray, data: FloatArray, path: Path) -> Path:
    """Cluster-expansion energies, eV per site."""
    figure, (axes,) = _figure(1)
    _range_densities(axes, [made, data])
    axes.set_xlabel("cluster-expansion energy (eV/site)")
    axes.legend(fontsize="small")
    return _save(figure, path)


def _range_densities(axes: Axes, both: Sequence[FloatArray]) -> None:
    values = np.concatenate(list(both))
    if len(values):
        low, high = float(values.min()), float(values.max())
        margin = max(0.05 * (high - low), 1e-3)
        bins = int(np.clip(2 * np.sqrt(len(values)), 8, 60))
        _densities(axes, both[0], both[1], np.linspace(low - margin, high + margin, bins))
