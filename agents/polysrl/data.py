"""Structures by composition: what embeddings are trained and judged on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from tqdm import tqdm

from megen_gym.agents.nn.caching import folder
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.elements import check_elements
from megen_gym.agents.polysrl.graphs import Graphs, graph_of
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, IntArray

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Pairs:
    """S crystals of C compositions.

    Attributes:
        compositions: C of them, all different.
        graphs: S of them.
        index: (S,) composition of each crystal.
        properties: (S,) numbers by name, NaN where unknown.
        skipped: Sentences about what could not be used.
    """

    compositions: Compositions
    graphs: Graphs
    index: IntArray
    properties: Mapping[str, FloatArray] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def counts(self) -> IntArray:
        """(C,) crystals of each composition."""
        return np.bincount(self.index, minlength=len(self.compositions))

    def crystals(self, rows: IntArray) -> Pairs:
        """Some of the crystals, with their compositions in order of appearance."""
        kept, first, index = np.unique(self.index[rows], return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.argsort(order)
        return Pairs(
            self.compositions[kept[order]],
            self.graphs[rows],
            rank[index.reshape(-1)],
            {name: values[rows] for name, values in self.properties.items()},
        )

    def of(self, compositions: IntArray) -> Pairs:
        """All crystals of some of the compositions."""
        return self.crystals(np.flatnonzero(np.isin(self.index, compositions)))

    def split(self, holdout: float, seed: int) -> tuple[Pairs, Pairs]:
        """What is trained on, and all crystals of a share `holdout` of the compositions.

        Raises:
            InputError: where too few compositions are left on one side.
        """
        size = len(self.compositions)
        held = round(holdout * size)
        if size - held < 2 or (holdout > 0 and held < 2):
            raise InputError(
                f"{size} compositions with holdout {holdout:g} leave {size - held} to train on and {held} to judge by; "
                "give more data, or another holdout"
            )
        order = np.random.default_rng([seed, 7]).permutation(size)
        return self.of(np.sort(order[held:])), self.of(np.sort(order[:held]))


def load_pairs(
    path: str | Path | None, element_features: str, progress: bool = True, cache: bool | str | Path = True
) -> Pairs:
    """The crystals of a file, or the bundled synthetic polymorphs.

    Args:
        path: See :func:`.materials.read_materials`; None for the bundle.
        element_features: Table that has to know the elements; crystals of others are left out.
        progress: Show a bar.
        cache: Keep the result for the next time: True in ``$XDG_CACHE_HOME/megen_gym/compositions``, else a folder;
            False not at all. Results are known by the content of the file.

    Raises:
        InputError: for a file that cannot be used, or whose elements have no features at all.
    """
    from megen_gym.agents.polysrl.polymorphs import BUNDLE
    from megen_gym.agents.polysrl.store import fingerprint, read_pairs, write_pairs

    source = BUNDLE if path is None else Path(path)
    where = folder(cache, "compositions")
    file = where / f"{fingerprint(source, element_features)}.npz" if where is not None and source.exists() else None
    if file is not None and (stored := read_pairs(file)) is not None:
        return stored
    pairs = _read(path, element_features, progress)
    if file is not None:
        try:
            write_pairs(file, pairs)
        except OSError as error:
            _LOG.warning(f"what was read from {source.name} is not kept for the next time ({error.strerror or error})")
    return pairs


def _read(path: str | Path | None, element_features: str, progress: bool) -> Pairs:
    skipped: tuple[str, ...] = ()
    if path is None:
        from megen_gym.agents.polysrl.polymorphs import bundled

        found = bundled()
        atoms = found.to_atoms()
        properties = {"energy_above_lowest": found.energy, "volume_per_atom": found.volumes()}
    else:
        from megen_gym.agents.polysrl.materials import read_materials

        materials = read_materials(path, progress)
        atoms, properties, skipped = materials.atoms, materials.properties, materials.skipped
    sentences, kept = list(skipped), []
    for row, each in enumerate(atoms):
        try:
            check_elements(each.numbers, element_features)
        except InputError as error:
            sentences.append(f"structure {row} ({each.get_chemical_formula()}): {error}")
            continue
        kept.append(row)
    if not kept:
        raise InputError(sentences[0])
    graphs, whole = [], []
    for row in tqdm(kept, "graphs", unit="crystal", disable=not progress or len(kept) < 1000):
        try:
            graphs.append(graph_of(atoms[row]))
        except InputError as error:
            sentences.append(f"structure {row}: {error}")
            continue
        whole.append(row)
    if not whole:
        raise InputError(sentences[-1])
    rows = np.array(whole)
    every = _compositions([atoms[row] for row in whole])
    first, index = every.unique()
    values = {name: np.asarray(value)[rows] for name, value in properties.items()}
    return Pairs(every[first], Graphs.join(graphs), index, values, tuple(sentences))


def _compositions(atoms: Sequence[Atoms]) -> Compositions:
    """Of crystals, as reduced formulas."""
    numbers = [np.unique(each.numbers, return_counts=True) for each in atoms]
    table = np.zeros((2, len(atoms), max(len(found) for found, _ in numbers)), dtype=np.int64)
    for row, (found, amount) in enumerate(numbers):
        table[0, row, : len(found)], table[1, row, : len(found)] = found, amount
    return Compositions(table[0], (table[1] // np.gcd.reduce(table[1], axis=1, keepdims=True)).astype(np.float64))
