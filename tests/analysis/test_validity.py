"""Each fault is named alone; good clusters and molecules pass."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.cluster import Octahedron

from megen_gym.analysis.validity import cluster_faults, valid_clusters
from megen_gym.errors import InputError
from megen_gym.rules import PlacementRules
from megen_gym.structure import StructureBatch

A = 2.6
TETRAHEDRON = Atoms("Ga4", np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) * A / np.sqrt(2))


def faults(*structures: Atoms, rules: PlacementRules | None = None) -> list[list[str]]:
    found = cluster_faults(StructureBatch.from_atoms(structures, ["Ga"]), rules)
    return [[name for name, rows in found.items() if rows[row]] for row in range(len(structures))]


def test_each_fault():
    overlap = TETRAHEDRON.copy() + Atoms("Ga", [[-0.9, -0.9, -0.9]])
    apart = TETRAHEDRON.copy()
    apart.positions += [20, 0, 0]
    chain = Atoms("Ga3", [[0, 0, 0], [A, 0, 0], [2 * A, 0, 0]])
    dangling = TETRAHEDRON.copy() + Atoms("Ga", [[-1.6, -1.6, -1.6]])
    far = TETRAHEDRON.copy() + Atoms("Ga", [[-9.0, 0, 0]])
    assert faults(TETRAHEDRON, Atoms("Ga"), Atoms("Ga2", [[0, 0, 0], [A, 0, 0]])) == [[], [], []]
    assert faults(overlap)[0][0] == "overlap"
    assert faults(TETRAHEDRON + apart) == [["disconnected"]]
    assert faults(chain) == [["loose"]]
    assert faults(dangling) == [["loose"]]
    assert faults(far) == [["disconnected", "loose"]]
    assert faults(Atoms("Ga2", [[0, 0, 0], [3.2, 0, 0]])) == [["disconnected", "loose"]]
    blank = StructureBatch(np.zeros((1, 3, 3)), np.zeros((1, 3), dtype=int), ("X", "Ga"))
    assert [name for name, rows in cluster_faults(blank).items() if rows[0]] == ["empty"]


def test_boundaries_are_inclusive():
    rules = PlacementRules(2.0, 3.5, ((2.5, 3.0),))
    for distance, good in ((2.5, True), (3.0, True), (2.49, False), (3.01, False)):
        assert (faults(Atoms("Ga2", [[0, 0, 0], [distance, 0, 0]]), rules=rules) == [[]]) is good
    assert faults(Atoms("Ga2", [[0, 0, 0], [3.4, 0, 0]]), rules=PlacementRules(2.0, 3.5)) == [[]]


def test_long_chain_is_connected():
    positions = np.zeros((65, 3))
    positions[:, 0] = np.arange(65) * A
    chain = StructureBatch.from_atoms(
        [Atoms("Ga65", positions), Atoms("Ga65", positions * [1, 1, 1] + (np.arange(65)[:, None] > 63))]
    )
    assert not cluster_faults(chain)["disconnected"][0]
    broken = positions.copy()
    broken[40:] += 3
    assert cluster_faults(StructureBatch.from_atoms([Atoms("Ga65", broken)]))["disconnected"][0]


def test_other_elements_by_covalent_radii():
    good = [molecule(name) for name in ("H2O", "C6H6", "CH3CH2OH", "N2", "C2H2", "CO2")]
    assert valid_clusters(StructureBatch.from_atoms(good)).all()
    assert valid_clusters(StructureBatch.from_atoms([Octahedron(metal, 3) for metal in ("Au", "Cu", "Ni")])).all()
    squeezed = molecule("C6H6")
    squeezed.positions *= 0.7
    torn = molecule("CH3CH2OH")
    torn.positions[0] += 4
    assert not valid_clusters(StructureBatch.from_atoms([squeezed, torn])).any()


def test_padding_and_chunks(monkeypatch):
    from megen_gym.analysis import validity

    structures = [TETRAHEDRON[:n] for n in (1, 2, 3, 4)] * 5
    batch = StructureBatch.from_atoms(structures)
    whole = valid_clusters(batch)
    assert whole.all()
    monkeypatch.setattr(validity, "_CHUNK", 50)
    np.testing.assert_array_equal(valid_clusters(batch), whole)
    assert valid_clusters(batch[:0]).shape == (0,)


def test_crystals_are_refused():
    with pytest.raises(InputError, match="periodic"):
        valid_clusters(StructureBatch.from_atoms([bulk("Cu")]))
