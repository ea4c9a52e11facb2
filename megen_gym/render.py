"""What a person sees of a structure: text, a picture, a window."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray


def ansi(atoms: Atoms) -> str:
    """A table of the atoms with the distance (Å) of each to its nearest neighbour."""
    lines = [f"{atoms.get_chemical_formula() or 'empty canvas'}  ({len(atoms)} atoms)"]
    distances = atoms.get_all_distances() + np.diag(np.full(len(atoms), np.inf))
    for index, atom in enumerate(atoms):
        near = distances[index].min()
        bond = f"{near:7.3f}" if np.isfinite(near) else "      -"
        lines.append(f"{index:4d} {atom.symbol:>2s} {atom.x:9.4f} {atom.y:9.4f} {atom.z:9.4f}   nearest {bond}")
    return "\n".join(lines)


def draw(atoms: Atoms, axes: Any) -> None:
    """The structure as shaded balls, nearest last, on matplotlib axes."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    axes.set_aspect("equal")
    axes.set_axis_off()
    if len(atoms):
        turned = atoms.copy()
        turned.rotate(20, "x", center="COM")
        turned.rotate(30, "y", center="COM")
        order = np.argsort(turned.positions[:, 2])
        depth = (turned.positions[:, 2] - turned.positions[:, 2].min()) / (np.ptp(turned.positions[:, 2]) + 1e-9)
        from matplotlib.patches import Circle

        for index in order:
            x, y, _ = turned.positions[index]
            radius, colour = covalent_radii[atoms.numbers[index]], jmol_colors[atoms.numbers[index]]
            shade = tuple(colour * (0.55 + 0.45 * depth[index]))
            axes.add_patch(Circle((x, y), radius, facecolor=shade, edgecolor="black", linewidth=0.8))
            axes.add_patch(Circle((x - 0.3 * radius, y + 0.3 * radius), 0.25 * radius, color="white", alpha=0.5))
        reach = np.abs(turned.positions[:, :2] - turned.positions[:, :2].mean(0)).max() + 2.0
        centre = turned.positions[:, :2].mean(0)
        axes.set_xlim(centre[0] - reach, centre[0] + reach)
        axes.set_ylim(centre[1] - reach, centre[1] + reach)
    axes.set_title(atoms.get_chemical_formula() or "empty canvas", fontsize=11)


def picture(atoms: Atoms, pixels: int = 320) -> NDArray[np.uint8]:
    """(pixels, pixels, 3) image of the structure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(pixels / 100, pixels / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    draw(atoms, figure.add_subplot())
    buffer = io.BytesIO()
    canvas.print_raw(buffer)
    image = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    return image.reshape(pixels, pixels, 4)[..., :3].copy()


def show(atoms: Atoms, pause: float = 0.25) -> None:
    """Draw into a window; without a display, nothing is shown and nothing fails."""
    import matplotlib.pyplot as plt

    figure = plt.figure("megen-gym", figsize=(5, 5))
    figure.clear()
    draw(atoms, figure.add_subplot())
    if plt.get_backend().lower() != "agg":
        plt.pause(pause)
