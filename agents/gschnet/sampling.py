"""Growing molecules: one decision at a time for many molecules side by side, whatever their sizes.

As published, a focus is drawn among the atoms that are not finished; the network says what comes next beside it; for
stop the focus is finished, for an element the atom is placed on the grid around the focus. Filters of pairs of atoms
that are there already are kept, so that a decision costs the message passing alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from megen_gym.agents.gschnet.collate import packed
from megen_gym.agents.gschnet.grid import Grid
from megen_gym.agents.gschnet.network import GSchNet
from megen_gym.agents.gschnet.steps import Canvas, moved
from megen_gym.periodic import Lattice
from megen_gym.structure import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Drawing:
    """How molecules are drawn, by the published names.

    Attributes:
        grid_spacing: Å between voxels.
        grid_distance_min: Å between the new atom and the focus at least.
        temperature_term: The density of places is raised to its inverse; the first atom is drawn without.
        tolerance: Share of the probability that may be left out, see :mod:`.grid`.
        clearance: Å; no atom is placed nearer than this to another or its images, and what has no room left fails.
    """

    grid_spacing: float = 0.05
    grid_distance_min: float = 0.7
    temperature_term: float = 0.1
    tolerance: float = 1e-3
    clearance: float = 0.0


BEST = 1e-4
"""Temperature that stands for the likeliest voxel."""


FORBIDDEN = -1e4
"""Log-probability of a distance that must not be."""


class Decisions(NamedTuple):
    """What happened to some of the molecules in one round.

    Attributes:
        rows: (D,) molecules.
        focus: (D,) node.
        kind: (D,) index of the atom type; their number for stop.
        place: (D, 3) Å of the new atom from the focus; zeros for stop.
        log_prob: (D,) of focus, kind and voxel.
    """

    rows: IntArray
    focus: IntArray
    kind: IntArray
    place: FloatArray
    log_prob: FloatArray


@dataclass(eq=False)
class Growth:
    """B molecules that grow.

    Attributes:
        positions: (B, K, 3) Å; node 0 is the origin token.
        numbers: (B, K) atomic numbers, the origin's type for node 0, 0 where there is nothing yet.
        count: (B,) atoms.
        open: (B, K) atoms that are not finished.
        log_prob: (B,) of all decisions.
        steps: (B,) decisions.
        failed: (B,) those that wanted one atom too many.
        tables: (L, B, F, K, K) filters.
        known: (B,) atoms whose filters are in the tables.
        given: (B, C) embedded conditions.
        lattices: Of each molecule, where periodic.
    """

    positions: FloatArray
    numbers: IntArray
    count: IntArray
    open: BoolArray
    log_prob: FloatArray
    steps: IntArray
    failed: BoolArray
    tables: Tensor
    known: IntArray
    given: Tensor | None = None
    lattices: list[Lattice] | None = field(default=None)

    @property
    def unfinished(self) -> BoolArray:
        """(B,) molecules with a focus to draw."""
        return np.asarray(((self.count == 0) | self.open.any(1)) & ~self.failed)


class Grower:
    """Grows molecules as a network says.

    Args:
        network: In evaluation mode.
        drawing: Grid and temperature.
        rng: Draws everything.
        farthest: Å between the new atom and the focus at most; the placement cut-off by default.
    """

    def __init__(
        self, network: GSchNet, drawing: Drawing, rng: np.random.Generator, farthest: float | None = None
    ) -> None:
        self.network, self.drawing, self.rng = network.eval(), drawing, rng
        shape = network.shape
        self.device = network.next_type.weight.device
        self.grid = Grid(
            drawing.grid_spacing,
            drawing.grid_distance_min,
            shape.placement_cutoff if farthest is None else farthest,
            drawing.tolerance,
            self.device,
        )
        self.types = np.array(shape.atom_types)
        with torch.no_grad():
            self.at_zero = network.schnet.at_zero()

    def begin(self, size: int, most: int, given: Tensor | None = None, lattices: list[Lattice] | None = None) -> Growth:
        """Empty canvases.

        Args:
            size: B.
            most: Atoms at most.
            given: (B, C) embedded conditions.
            lattices: Of each, where periodic.
        """
        width, shape = most + 1, self.network.shape
        numbers = np.zeros((size, width), dtype=np.int64)
        numbers[:, 0] = shape.origin_type
        tables = torch.zeros(shape.n_interactions, size, shape.features, width, width, device=self.device)
        return Growth(
            np.zeros((size, width, 3)),
            numbers,
            np.zeros(size, dtype=np.int64),
            np.zeros((size, width), dtype=bool),
            np.zeros(size),
            np.zeros(size, dtype=np.int64),
            np.zeros(size, dtype=bool),
            tables,
            np.zeros(size, dtype=np.int64),
            given,
            lattices,
        )

    def clear(self, growth: Growth, rows: IntArray) -> None:
        """Empty some canvases for new molecules."""
        growth.positions[rows], growth.numbers[rows, 1:] = 0.0, 0
        growth.count[rows] = growth.steps[rows] = growth.known[rows] = 0
        growth.open[rows] = growth.failed[rows] = False
        growth.log_prob[rows] = 0.0

    def put(
        self, growth: Growth, rows: IntArray, positions: FloatArray, numbers: IntArray, open_: BoolArray | None = None
    ) -> None:
        """Put the same atoms on some canvases.

        Args:
            positions: (n, 3) Å from the origin.
            numbers: (n,).
            open_: (n,) which of them something may be placed beside; all by default.
        """
        n = len(numbers)
        growth.positions[rows, 1 : n + 1], growth.numbers[rows, 1 : n + 1] = positions, numbers
        growth.count[rows] = n
        growth.open[rows, 1 : n + 1] = True if open_ is None else open_

    @torch.no_grad()
    def decide(
        self,
        growth: Growth,
        rows: IntArray,
        allowed: BoolArray | None = None,
        no_stop: BoolArray | None = None,
        deterministic: bool = False,
    ) -> Decisions:
        """One decision for each of some molecules; the canvases are changed.

        Args:
            rows: (D,) unfinished molecules.
            allowed: (D, types) elements that may be placed.
            no_stop: (D,) where the focus must not be finished; never on an empty canvas.
            deterministic: Take the likeliest type and voxel, and the first focus.
        """
        self.update(growth)
        canvas, width, focus, choices = self._canvas(growth, rows, deterministic)
        given = None if growth.given is None else growth.given[torch.from_numpy(rows).to(self.device)]
        whole = len(rows) == len(growth.count)
        tables = growth.tables if whole else growth.tables[:, torch.from_numpy(rows).to(self.device)]
        features = self.network.rows(canvas, given, tables[..., :width, :width], self.at_zero)
        kinds = self.network.type_log_prob(features, canvas.seen_canvas, len(rows))
        empty = growth.count[rows] == 0
        barred = np.zeros((len(rows), len(self.types) + 1), dtype=bool)
        barred[:, -1] = empty
        if allowed is not None:
            barred[:, :-1] = ~allowed
        if no_stop is not None:
            barred[:, -1] |= no_stop
        kinds = kinds.masked_fill(torch.from_numpy(barred).to(self.device), -torch.inf).log_softmax(1).double().cpu()
        shares = kinds.exp().numpy()
        if deterministic:
            kind = shares.argmax(1)
        else:
            bound = shares.cumsum(1)
            kind = (bound <= self.rng.random((len(rows), 1)) * bound[:, -1:]).sum(1)
            kind = np.minimum(kind, (shares > 0).cumsum(1).argmax(1))
        log_prob = kinds.numpy()[np.arange(len(rows)), kind] - np.log(choices)
        place = np.zeros((len(rows), 3))
        stops = kind == len(self.types)
        growth.open[rows[stops], focus[stops]] = False
        full = ~stops & (growth.count[rows] == growth.numbers.shape[1] - 1)
        growth.failed[rows[full]] = True
        placing = np.flatnonzero(~stops & ~full)
        if len(placing):
            number = self.types[kind[placing]]
            place[placing], chance = self._places(canvas, features, placing, number, empty[placing], deterministic)
            log_prob[placing] += chance
            if self.drawing.clearance > 0:
                apart = ~self._clashes(canvas, placing, place) | empty[placing]
                growth.failed[rows[placing[~apart]]] = True
                placing, number = placing[apart], number[apart]
            self._append(growth, rows[placing], focus[placing], number, place[placing])
        growth.log_prob[rows] += log_prob
        growth.steps[rows] += 1
        return Decisions(rows, focus, kind, place, log_prob)

    def update(self, growth: Growth) -> None:
        """Compute the filters of atoms that are new."""
        rows = np.flatnonzero(growth.known < growth.count)
        if not len(rows):
            return
        width = growth.numbers.shape[1]
        nodes = np.arange(width)
        old = nodes <= growth.known[rows, None]
        new = (nodes <= growth.count[rows, None]) & ~old
        upper = nodes[:, None] >= nodes if growth.lattices else nodes[:, None] > nodes
        row, i, j = np.nonzero(new[:, :, None] & upper & (nodes <= growth.count[rows, None])[:, None, :])
        if not self.network.shape.origin:
            keep = j > 0
            row, i, j = row[keep], i[keep], j[keep]
        mine = rows[row]
        vectors = growth.positions[mine, i] - growth.positions[mine, j]
        weights = self._filters(vectors, mine, i == j, growth.lattices)
        at, ii, jj = (torch.from_numpy(array).to(self.device) for array in (mine, i, j))
        growth.tables[:, at, :, ii, jj] = weights
        growth.tables[:, at, :, jj, ii] = weights
        growth.known[rows] = growth.count[rows]

    def _filters(
        self, vectors: FloatArray, molecule: IntArray, own: BoolArray, lattices: Sequence[Lattice] | None
    ) -> Tensor:
        """(V, L, F) of vectors (V, 3) between nodes, or from nodes to their `own` images, summed over images."""
        filters, cutoff = self.network.schnet.filters, self.network.shape.model_cutoff
        if lattices is None:
            distance = torch.from_numpy(np.sqrt((vectors**2).sum(1)).astype(np.float32))
            return filters(distance.to(self.device))  # type: ignore[no-any-return]
        total = torch.zeros(len(vectors), *self.at_zero.shape, device=self.device)
        for index in np.unique(molecule):
            mine = np.flatnonzero(molecule == index)
            distance = np.sqrt((lattices[index].images(vectors[mine], cutoff) ** 2).sum(-1))
            distance[own[mine], 0] = np.inf  # an atom is no image of itself
            row, column = np.nonzero(distance < cutoff)
            weights = filters(torch.from_numpy(distance[row, column].astype(np.float32)).to(self.device))
            total.index_add_(0, torch.from_numpy(mine[row]).to(self.device), weights)
        return total

    def _canvas(self, growth: Growth, rows: IntArray, first: bool) -> tuple[Canvas, int, IntArray, IntArray]:
        """Canvases with a focus drawn for each, their width, the focus, and among how many it was drawn."""
        open_ = growth.open[rows]
        choices = np.maximum(open_.sum(1), 1)
        rank = np.zeros(len(rows), dtype=np.int64) if first else (self.rng.random(len(rows)) * choices).astype(np.int64)
        focus = np.where(open_.any(1), ((open_.cumsum(1) > rank[:, None]) & open_).argmax(1), 0)
        width = int(growth.count[rows].max()) + 1
        lattices = None if growth.lattices is None else [growth.lattices[row] for row in rows]
        canvas = packed(
            growth.positions[rows, :width],
            growth.numbers[rows, :width],
            np.arange(len(rows)),
            growth.count[rows],
            focus,
            self.network.reach,
            lattices,
        )
        return moved(canvas, self.device), width, focus, choices

    def _places(
        self, canvas: Canvas, features: Tensor, placing: IntArray, number: IntArray, empty: BoolArray, best: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Å from the focus (P, 3) and log-probability (P,) of new atoms of atomic numbers (P,)."""
        at, kind = torch.from_numpy(placing).to(self.device), torch.from_numpy(number).to(self.device)
        density = self.network.density(canvas, features, at, kind)
        if self.drawing.clearance > 0:
            near = max(0, math.ceil((self.drawing.clearance - density.bins.low) / density.bins.width))
            density.tables[:, :, :near] = density.tables[:, :, :near].clamp(max=FORBIDDEN)
        random = np.zeros((len(placing), 2)) if best else self.rng.random((len(placing), 2))
        uniform = torch.from_numpy(random).to(self.device)
        place, chance = np.zeros((len(placing), 3)), np.zeros(len(placing))
        first, others = (torch.from_numpy(np.flatnonzero(rows)).to(self.device) for rows in (empty, ~empty))
        if len(first) and self.network.shape.origin:
            radius, value = self.network.first_radius(density[first], None if best else uniform[first, 0])
            place[empty, 0], chance[empty] = radius.cpu().numpy(), value.cpu().numpy()
        if len(others):
            temperature = BEST if best else self.drawing.temperature_term
            here, value = self.grid.draw(density[others], temperature, uniform[others])
            place[~empty], chance[~empty] = here.double().cpu().numpy(), value.double().cpu().numpy()
        return place, chance

    def _clashes(self, canvas: Canvas, placing: IntArray, place: FloatArray) -> BoolArray:
        """(P,) whether new atoms at `place` (D, 3) on the canvases `placing` (P,) are too near to an atom or image."""
        owner = canvas.seen_canvas.cpu().numpy()
        distance = np.sqrt(((canvas.place.cpu().numpy() - place[owner]) ** 2).sum(1))
        near = np.full(len(place), np.inf)
        np.minimum.at(near, owner, distance)
        return np.asarray(near[placing] < self.drawing.clearance)

    def _append(self, growth: Growth, rows: IntArray, focus: IntArray, number: IntArray, place: FloatArray) -> None:
        node = growth.count[rows] + 1
        growth.positions[rows, node] = growth.positions[rows, focus] + place
        growth.numbers[rows, node] = number
        growth.open[rows, node] = True
        growth.count[rows] = node
