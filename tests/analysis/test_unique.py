"""Duplicates are found whatever the numbering, the rotation, the place and the hand; others are left alone."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from megen_gym.analysis.unique import distance_fingerprints, soap_vectors, unique
from megen_gym.errors import InputError
from megen_gym.structure import StructureBatch

METHODS = ("distances", "soap")


def random_cluster(rng: np.random.Generator, symbols: str = "Ga8") -> Atoms:
    positions = np.argwhere(np.ones((2, 2, 2))) * 2.7 + rng.uniform(-0.4, 0.4, (8, 3))
    return Atoms(symbols, positions)


def moved(atoms: Atoms, rng: np.random.Generator, mirror: bool = False) -> Atoms:
    order = rng.permutation(len(atoms))
    positions = atoms.positions[order] @ Rotation.random(rng=rng).as_matrix().T + rng.normal(0, 5, 3)
    return Atoms(atoms.numbers[order], -positions if mirror else positions)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symbols", ["Ga8", "Ga4As4", "Ga"])
def test_invariance(method, symbols):
    rng = np.random.default_rng(0)
    base = [Atoms("Ga")] if symbols == "Ga" else [random_cluster(rng, symbols) for _ in range(4)]
    copies = base + [moved(atoms, rng) for atoms in base] + [moved(atoms, rng, mirror=True) for atoms in base]
    first, labels = unique(StructureBatch.from_atoms(copies), method)
    assert first.tolist() == list(range(len(base)))
    assert labels.tolist() == list(range(len(base))) * 3


@pytest.mark.parametrize("method", METHODS)
def test_near_duplicates_and_tolerance(method):
    rng = np.random.default_rng(1)
    base = random_cluster(rng)
    near = base.copy()
    near.positions += rng.normal(0, 0.003, near.positions.shape)
    far = base.copy()
    far.positions[0] += [0.3, 0, 0]
    batch = StructureBatch.from_atoms([base, near, far])
    assert unique(batch, method)[1].tolist() == [0, 0, 1]
    assert unique(batch, method, tol=0)[1].tolist() == [0, 1, 2]
    assert unique(batch, method, tol=1.0)[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_composition_and_element_order_count(method):
    positions = [[0, 0, 0], [2.5, 0, 0], [5.5, 0, 0]]
    structures = [
        Atoms("Ga2As", positions),
        Atoms("As2Ga", positions),
        Atoms("GaAsGa", positions),
        Atoms("Ga2", positions[:2]),
    ]
    structures.append(Atoms("AsGa2", [[9.5, 0, 0], [7.0, 0, 0], [4.0, 0, 0]]))
    structures.append(Atoms("GaGaAs", [[5.5, 0, 0], [3.0, 0, 0], [0.0, 0, 0]]))
    labels = unique(StructureBatch.from_atoms(structures), method)[1]
    assert labels.tolist() == [0, 1, 2, 3, 4, 0]


def test_representative_is_the_first():
    rng = np.random.default_rng(2)
    a, b = random_cluster(rng), random_cluster(rng)
    first, labels = unique(StructureBatch.from_atoms([b, a, moved(b, rng), moved(a, rng)]))
    assert first.tolist() == [0, 1]
    assert labels.tolist() == [0, 1, 0, 1]


def test_prefilter_changes_nothing():
    rng = np.random.default_rng(3)
    atoms = [random_cluster(rng) for _ in range(30)]
    for one in list(atoms):
        shaken = one.copy()
        shaken.positions += rng.normal(0, 0.02, shaken.positions.shape)
        atoms.append(shaken)
    batch = StructureBatch.from_atoms(atoms)
    prints = distance_fingerprints(batch)
    tol, expected = 0.05, []
    for row, one in enumerate(prints):
        close = [r for r in expected if r == expected[r] and np.abs(prints[r] - one).max() <= tol]
        expected.append(close[0] if close else row)
    first, labels = unique(batch, "distances", tol)
    assert first[labels].tolist() == expected
    assert len(first) < len(batch)


def test_soap_on_crystals():
    cubic, primitive = bulk("GaAs", "zincblende", 5.65), bulk("GaAs", "zincblende", 5.65)
    primitive.positions += 0.7
    primitive.wrap()
    batch = StructureBatch.from_atoms(
        [cubic, primitive, bulk("GaAs", "zincblende", 5.9), bulk("GaAs", "rocksalt", 5.65)]
    )
    assert unique(batch, "soap")[1].tolist() == [0, 0, 1, 2]
    with pytest.raises(InputError, match="method 'soap'"):
        unique(batch)


def test_bad_input():
    batch = StructureBatch.from_atoms([molecule("H2O")])
    with pytest.raises(InputError, match="did you mean 'soap'"):
        unique(batch, "sopa")
    with pytest.raises(InputError, match="negative"):
        unique(batch, tol=-1)
    broken = StructureBatch.from_atoms([molecule("H2O")])
    broken.positions[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        soap_vectors(broken)
    empty = StructureBatch(np.zeros((0, 3, 3)), np.zeros((0, 3), dtype=int), ("X", "Ga"))
    assert [len(array) for array in unique(empty)] == [0, 0]
    blank = StructureBatch(np.zeros((2, 3, 3)), np.zeros((2, 3), dtype=int), ("X", "Ga"))
    assert unique(blank)[1].tolist() == [0, 0]
