"""A disordered interface between two fcc metals: a data set of one cell and one composition that anyone can make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, reference_states

from megen_gym import io
from megen_gym.analysis.relax import relax
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray

Kind = Literal["mixed", "disordered"]

VACUUM = 7.84
"""Å between the last layer and the first one of the next image."""

BOTTOM = 3.684
"""Å from the lower face of the cell to the first layer."""

SHUFFLE = 0.9
"""Å by which the atoms of the mixed layers are moved at most, along each axis."""

INSERTION = 2.0
"""Å between an inserted atom and all others."""

_TRIES, _CANDIDATES = 50, 200


@dataclass(frozen=True)
class Interface:
    """Recipe of an fcc(100) slab of two metals with a disordered interface in its middle.

    The lattice constant is the mean of the two metals'. The lower layers hold the first, the upper layers the second
    element, and the `interface` layers between them as many atoms of each:

    - ``"mixed"``: on lattice sites in random order, displaced by up to ±0.9 Å (chemical disorder after relaxation);
    - ``"disordered"``: inserted one by one at random, at least 2.0 Å from all others (structural disorder). Where no
      place is found, that limit shrinks by 5 %.

    Attributes:
        kind: One of the two.
        elements: The lower and the upper metal; ASE must know both as fcc.
        size: Atoms along x, atoms along y, number of layers.
        interface: Layers in the middle that are disordered; as many are left to each side.

    Raises:
        InputError: for an unknown kind, an element that is not fcc, or layers that cannot be shared equally.
    """

    kind: Kind = "mixed"
    elements: tuple[str, str] = ("Cu", "Au")
    size: tuple[int, int, int] = (3, 3, 6)
    interface: int = 2

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"unknown kind {self.kind!r} of interface; {nearest(str(self.kind), get_args(Kind))}")
        for name in self.elements:
            if _fcc_constant(name) is None:
                raise InputError(f"{name!r} is no fcc metal; expected two of Al, Ni, Cu, Rh, Pd, Ag, Ir, Pt, Au, ...")
        if self.elements[0] == self.elements[1]:
            raise InputError(f"the interface has {self.elements[0]} on both sides; give two different elements")
        sites = self.size[0] * self.size[1] * self.interface
        rest = self.size[2] - self.interface
        if min(*self.size, self.interface, rest) < 1 or rest % 2 or sites % 2:
            raise InputError(
                f"size {self.size} with {self.interface} interface layers cannot be shared equally by two elements; "
                "expected an even number of other layers and of interface atoms, e.g. size (3, 3, 6) with 2"
            )

    @property
    def lattice_constant(self) -> float:
        """Å; mean of the two metals."""
        return float(np.mean([_fcc_constant(name) for name in self.elements]))

    def build(self, rng: np.random.Generator) -> Atoms:
        """One structure before relaxation, atoms grouped by element, in the order of `elements`."""
        nx, ny, layers = self.size
        spacing, rise = self.lattice_constant / np.sqrt(2), self.lattice_constant / 2
        span = (layers - 1) * rise
        height = round(span + VACUUM, 2)
        ix, iy, iz = (axis.ravel() for axis in np.meshgrid(*map(np.arange, self.size), indexing="ij"))
        # A quarter of a cell away from the boundary, so that no atom of the lattice crosses it when it relaxes.
        shift = 0.25 + 0.5 * (iz % 2)
        sites = np.stack(
            [(ix + shift) * spacing, (iy + shift) * spacing, BOTTOM + iz * rise], axis=1
        )[np.argsort(iz, kind="stable")]  # fmt: skip
        cell = np.array([nx * spacing, ny * spacing, height])
        per_layer = nx * ny
        first, last = (per_layer * (layers + sign * self.interface) // 2 for sign in (-1, 1))
        count = last - first
        middle = np.repeat(self.elements, count // 2)
        if self.kind == "mixed":
            rng.shuffle(middle)
            sites[first:last] += rng.uniform(-SHUFFLE, SHUFFLE, (count, 3))
        else:
            kept = np.concatenate([sites[:first], sites[last:]])
            low, high = BOTTOM + rise * (np.array([first - per_layer, last]) // per_layer)
            sites[first:last] = insert_at_random(kept, cell, count, (float(low), float(high)), rng)
        symbols = [*[self.elements[0]] * first, *middle, *[self.elements[1]] * (len(sites) - last)]
        order = np.argsort([symbol != self.elements[0] for symbol in symbols], kind="stable")
        return Atoms([symbols[i] for i in order], positions=sites[order], cell=cell, pbc=True)


def _fcc_constant(element: str) -> Any:
    """Å; None for what is no fcc element."""
    state: Any = reference_states[atomic_numbers[element]] if element in atomic_numbers else None
    return state["a"] if state is not None and state["symmetry"] == "fcc" else None


def insert_at_random(
    positions: FloatArray, cell: FloatArray, count: int, between: tuple[float, float], rng: np.random.Generator
) -> FloatArray:
    """Random places in a slab that keep their distance from all atoms and from each other.

    Args:
        positions: (N, 3) Å, atoms that are there.
        cell: (3,) Å, edges of an orthogonal cell, periodic along x, y and z.
        count: How many to insert.
        between: Å, lowest and highest z.
        rng: Source of the places.

    Returns:
        (count, 3) Å.
    """
    placed, limit = np.array(positions, dtype=np.float64), INSERTION
    low, high = np.array([0.0, 0.0, between[0]]), np.array([cell[0], cell[1], between[1]])
    while len(placed) < len(positions) + count:
        for _ in range(_TRIES):
            places = rng.uniform(low, high, (_CANDIDATES, 3))
            delta = places[:, None] - placed
            delta -= cell * np.round(delta / cell)
            free = np.flatnonzero((delta**2).sum(axis=2).min(axis=1) > limit**2)
            if len(free):
                placed = np.concatenate([placed, places[free[:1]]])
                break
        else:
            limit *= 0.95
    return placed[len(positions) :]


def make_interfaces(
    path: str | Path,
    n: int,
    seed: int = 1,
    recipe: Interface | None = None,
    calculator: str = "emt",
    steps: int = 60,
    progress: bool = True,
) -> list[Atoms]:
    """Build and relax structures at fixed cell (FIRE), one after the other, each written as soon as it is done.

    Structure i depends on `seed` and i alone: a run that was killed goes on where it was when it is called again, and
    the file becomes the same as without the interruption. A larger `n` continues an existing file.

    Args:
        path: The file, ``.xyz`` or ``.extxyz``; energy (eV), forces (eV/Å), kind, seed, index, interface layers,
            calculator and steps are stored with each structure.
        n: Number of structures.
        seed: Of the whole set.
        recipe: What is built; by default 54 atoms of Cu27Au27 of kind ``"mixed"``.
        calculator: A short name or an import path as in :func:`~megen_gym.analysis.relax.calculator_factory`.
        steps: Optimiser steps.
        progress: Show a progress bar.

    Returns:
        The n structures as read back from the file.

    Raises:
        InputError: if the file holds other structures than these, or such as were made with other settings, or a
            structure cannot be relaxed.
    """
    from tqdm import tqdm

    recipe, path = recipe or Interface(), Path(path)
    if path.suffix not in (".xyz", ".extxyz"):
        raise InputError(f"cannot append structures to {path}; expected a name that ends in .xyz or .extxyz")
    if n < 1 or steps < 0 or seed < 0:
        raise InputError(f"cannot make {n} structures with {steps} steps and seed {seed}; expected n > 0, others >= 0")
    settings = {"interface": recipe.interface, "calculator": calculator, "steps": steps}
    done = _done(path, n, seed, recipe, settings)
    with tqdm(total=n, initial=done, unit="structure", desc=str(path), disable=not progress) as bar:
        for index in range(done, n):
            rng = np.random.default_rng([seed, index])
            result = relax([recipe.build(rng)], calculator, fmax=1e-4, steps=steps, progress=False)[0]
            if result.error is not None:
                raise InputError(f"structure {index} cannot be relaxed with {calculator} ({result.error}); use another")
            atoms: Any = result.atoms
            atoms.wrap()
            atoms.info |= {"kind": recipe.kind, "seed": seed, "index": index, **settings}
            io.append_structures(path, [atoms])
            bar.update()
    return io.read_structures(path)


def _done(path: Path, n: int, seed: int, recipe: Interface, settings: dict[str, Any]) -> int:
    """How many structures an earlier run has completed; a torn last one is removed."""
    if not path.exists() or not path.stat().st_size:
        return 0
    io.truncate_structures(path, 0)
    found = io.read_structures(path, tail="drop") if path.stat().st_size else []
    like = recipe.build(np.random.default_rng(0))
    for index, atoms in enumerate(found):
        given = (atoms.info.get("kind"), atoms.info.get("seed"), atoms.info.get("index"))
        same = np.array_equal(atoms.numbers, like.numbers) and np.allclose(atoms.cell, like.cell, atol=1e-6)
        if given != (recipe.kind, seed, index) or not same:
            raise InputError(
                f"structure {index} of {path} is not number {index} of kind {recipe.kind!r} and seed {seed} "
                "in this cell; choose another file or the same settings"
            )
        differ = [name for name, value in settings.items() if atoms.info.get(name) != value]
        if differ:
            made, asked = (", ".join(f"{name}={of.get(name)}" for name in differ) for of in (atoms.info, settings))
            raise InputError(
                f"structure {index} of {path} was made with {made} instead of {asked}; choose another file or the "
                "same settings"
            )
    if len(found) > n:
        raise InputError(f"{path} already holds {len(found)} structures, more than the {n} asked for; raise n")
    return len(found)
