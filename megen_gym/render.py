"""What a person sees of a structure: text, a picture, a window."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from megen_gym.periodic import Lattice

EDGES = [(i, j) for i in range(8) for j in range(i) if (i ^ j) in (1, 2, 4)]
"""The twelve edges of a cell by the numbers of its corners, whose binary digits count a, b and c."""


def ansi(atoms: Atoms) -> str:
    """A table of the atoms with the distance (Å) of each to its nearest neighbour, periodic images included."""
    lines = [f"{atoms.get_chemical_formula() or 'empty canvas'}  ({len(atoms)} atoms)"]
    if atoms.pbc.any():
        lattice = Lattice(np.asarray(atoms.cell), atoms.pbc)
        a, b, c, *angles = atoms.cell.cellpar()
        periodic = ", ".join(name for name, flag in zip("abc", atoms.pbc, strict=True) if flag)
        angles_text = " ".join(f"{angle:.2f}" for angle in angles)
        lines.append(f"cell {a:.4f} {b:.4f} {c:.4f} Å, {angles_text} degrees; periodic along {periodic}")
        nearest = lattice.nearest(atoms.positions, 1)[:, 0]
    else:
        nearest = (atoms.get_all_distances() + np.diag(np.full(len(atoms), np.inf))).min(axis=1, initial=np.inf)
    for index, atom in enumerate(atoms):
        bond = f"{nearest[index]:7.3f}" if np.isfinite(nearest[index]) else "      -"
        lines.append(f"{index:4d} {atom.symbol:>2s} {atom.x:9.4f} {atom.y:9.4f} {atom.z:9.4f}   nearest {bond}")
    return "\n".join(lines)


def draw(atoms: Atoms, axes: Any) -> None:
    """The structure as shaded balls, nearest last, and the edges of its cell, on matplotlib axes."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    axes.set_aspect("equal")
    axes.set_axis_off()
    corners = np.zeros((0, 3))
    if atoms.cell.rank == 3 and atoms.pbc.any():
        corners = np.array([[n >> axis & 1 for axis in range(3)] for n in range(8)]) @ np.asarray(atoms.cell)
    seen = np.concatenate([atoms.positions, corners])
    if len(seen):
        turned = Atoms(positions=seen, numbers=np.ones(len(seen)))
        turned.rotate(20, "x")
        turned.rotate(30, "y")
        flat, depth = turned.positions[:, :2], turned.positions[: len(atoms), 2]
        for i, j in EDGES if len(corners) else ():
            axes.plot(*flat[[len(atoms) + i, len(atoms) + j]].T, color="grey", linewidth=0.8, zorder=0)
        from matplotlib.patches import Circle

        shades = 0.55 + 0.45 * (depth - depth.min(initial=np.inf)) / (np.ptp(depth) + 1e-9 if len(depth) else 1.0)
        for index in np.argsort(depth):
            x, y = flat[index]
            radius, colour = covalent_radii[atoms.numbers[index]], jmol_colors[atoms.numbers[index]]
            shade = tuple(colour * shades[index])
            axes.add_patch(Circle((x, y), radius, facecolor=shade, edgecolor="black", linewidth=0.8))
            axes.add_patch(Circle((x - 0.3 * radius, y + 0.3 * radius), 0.25 * radius, color="white", alpha=0.5))
        centre = (flat.min(0) + flat.max(0)) / 2 if len(corners) else flat.mean(0)
        reach = np.abs(flat - centre).max() + 2.0
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
