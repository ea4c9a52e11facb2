"""Many molecules from a model: canvases are refilled as soon as a molecule is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from megen_gym.agents.gschnet.model import Model
from megen_gym.agents.gschnet.sampling import Drawing, Grower, Growth
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import BoolArray, FloatArray, IntArray

MEMORY = 1 << 30
"""Bytes of filters at most; fewer molecules than asked for grow side by side where they would need more."""


@dataclass(frozen=True, eq=False)
class Start:
    """A structure that molecules grow from.

    Attributes:
        positions: (n, 3) Å; the origin token sits at zero.
        numbers: (n,) atomic numbers.
        open: (n,) atoms beside which something may be placed.
        lattice: Where periodic.
    """

    positions: FloatArray
    numbers: IntArray
    open: BoolArray
    lattice: Lattice | None = None

    @classmethod
    def of(cls, atoms: Atoms, closed: tuple[int, ...] = (), keep_origin: bool = False) -> Start:
        """From a structure, whose centre of mass becomes the origin unless it is to stay where it is.

        Raises:
            InputError: for a closed atom that is not there.
        """
        open_ = np.ones(len(atoms), dtype=bool)
        if any(not 0 <= index < len(atoms) for index in closed):
            raise InputError(f"finished atoms {closed} were named of a structure of {len(atoms)}; give indices from 0")
        open_[list(closed)] = False
        periodic = bool(atoms.pbc.any())
        shift = 0 if keep_origin or periodic or not len(atoms) else atoms.get_center_of_mass()
        lattice = Lattice(np.asarray(atoms.cell), atoms.pbc) if periodic else None
        return cls(atoms.positions - shift, np.array(atoms.numbers), open_, lattice)


@dataclass(eq=False)
class Generated:
    """What came of it.

    Attributes:
        structures: Finished molecules, in the order in which they were begun.
        log_prob: Of each, the sum over all decisions: focus, type, voxel.
        decisions: How many those were.
        attempts: Molecules begun and ended.
        failed: Of these, the ones that were not finished with the atoms allowed.
        stopped: Whether Ctrl-C ended it before all had been attempted.
    """

    structures: list[Atoms] = field(default_factory=list)
    log_prob: list[float] = field(default_factory=list)
    decisions: list[int] = field(default_factory=list)
    attempts: int = 0
    failed: int = 0
    stopped: bool = False


@torch.no_grad()
def generate(
    model: Model,
    n_molecules: int,
    max_n_atoms: int,
    *,
    batch_size: int = 64,
    drawing: Drawing | None = None,
    seed: int = 0,
    values: Mapping[str, Tensor] | None = None,
    start: Start | None = None,
    report: Callable[[Generated], None] | None = None,
) -> Generated:
    """Grow molecules.

    Args:
        model: See :func:`.model.load_model`.
        n_molecules: Attempts; those that are not finished are left out.
        max_n_atoms: Atoms of a molecule at most, those of the start included.
        batch_size: Molecules that grow side by side.
        drawing: Grid and temperature.
        seed: The same seed and batch size give the same molecules.
        values: (1, K) or (n_molecules, K) of each condition.
        start: What is on every canvas to begin with.
        report: Called after every round.

    Raises:
        InputError: for a start that is larger than `max_n_atoms`, or of elements that the model does not know.
    """
    check(model, n_molecules, max_n_atoms, batch_size, start)
    shape = model.network.shape
    grower = Grower(model.network, drawing or Drawing(), np.random.default_rng(seed))
    each = 4 * shape.n_interactions * shape.features * (max_n_atoms + 1) ** 2
    slots = max(1, min(batch_size, n_molecules, MEMORY // each))
    embedded = None if values is None else model.network.embed({k: v.to(grower.device) for k, v in values.items()})
    lattices = None if start is None or start.lattice is None else [start.lattice] * slots
    growth = grower.begin(slots, max_n_atoms, _for(embedded, np.arange(slots)), lattices)
    owner = np.arange(slots)
    _begin(grower, growth, owner, start)
    done, begun = Generated(), slots
    finished: dict[int, tuple[Atoms, float, int]] = {}
    try:
        while done.attempts < n_molecules:
            rows = np.flatnonzero(growth.unfinished & (owner >= 0))
            if len(rows):
                grower.decide(growth, rows)
            ended = np.flatnonzero(~growth.unfinished & (owner >= 0))
            for row in ended.tolist():
                if growth.failed[row]:
                    done.failed += 1
                else:
                    finished[int(owner[row])] = (
                        atoms_of(growth, row),
                        float(growth.log_prob[row]),
                        int(growth.steps[row]),
                    )
            done.attempts += len(ended)
            again = ended[: n_molecules - begun]
            owner[ended] = -1
            if len(again):
                owner[again] = begun + np.arange(len(again))
                begun += len(again)
                grower.clear(growth, again)
                fresh = _for(embedded, owner[again])
                if fresh is not None and growth.given is not None:
                    growth.given[torch.from_numpy(again).to(grower.device)] = fresh
                _begin(grower, growth, again, start)
            if report is not None:
                report(done)
    except KeyboardInterrupt:
        done.stopped = True
    for index in sorted(finished):
        atoms, log_prob, decisions = finished[index]
        done.structures.append(atoms)
        done.log_prob.append(log_prob)
        done.decisions.append(decisions)
    return done


def check(model: Model, n_molecules: int, max_n_atoms: int, batch_size: int, start: Start | None) -> None:
    """Whether such molecules can be grown; see :func:`generate`.

    Raises:
        InputError: saying why they cannot.
    """
    if n_molecules < 1 or max_n_atoms < 1 or batch_size < 1:
        raise InputError(
            f"n_molecules is {n_molecules}, max_n_atoms {max_n_atoms}, batch_size {batch_size}; give at least 1 of each"
        )
    if any(model.pbc) and (start is None or start.lattice is None):
        raise InputError(
            "the model was trained on periodic structures, so it needs a cell to grow in; give --cell, or a "
            "--substructure that has one"
        )
    if start is None:
        return
    from ase.data import chemical_symbols

    shape = model.network.shape
    if len(start.numbers) > max_n_atoms:
        raise InputError(
            f"the substructure has {len(start.numbers)} atoms, max_n_atoms is {max_n_atoms}; give a larger number"
        )
    strange = sorted(set(start.numbers.tolist()) - set(shape.atom_types))
    if strange:
        raise InputError(
            f"the substructure contains {', '.join(chemical_symbols[z] for z in strange)}, which the model has never "
            f"seen; it knows {', '.join(chemical_symbols[z] for z in shape.atom_types)}"
        )
    if start.lattice is not None and shape.origin:
        raise InputError(
            "the substructure is periodic, but the model was trained with an origin token; train on periodic "
            "structures, or with --use_origin false"
        )


def atoms_of(growth: Growth, row: int) -> Atoms:
    """The structure on a canvas."""
    nodes = slice(1, int(growth.count[row]) + 1)
    lattice = None if growth.lattices is None else growth.lattices[row]
    cell, pbc = (None, False) if lattice is None else (lattice.cell, lattice.pbc)
    return Atoms(growth.numbers[row, nodes], positions=growth.positions[row, nodes], cell=cell, pbc=pbc)


def _begin(grower: Grower, growth: Growth, rows: IntArray, start: Start | None) -> None:
    if start is not None:
        grower.put(growth, rows, start.positions, start.numbers, start.open)


def _for(embedded: Tensor | None, owner: IntArray) -> Tensor | None:
    """Conditions of the molecules `owner` (B,)."""
    if embedded is None:
        return None
    return embedded[torch.from_numpy(np.minimum(owner, len(embedded) - 1)).to(embedded.device)].clone()
