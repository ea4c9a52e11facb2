"""StructureBatch: what it holds, refuses, and turns into."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from megen_gym.errors import InputError
from megen_gym.structure import StructureBatch, check_symbols

WATER, METHANE = molecule("H2O"), molecule("CH4")


def test_round_trip_through_ase() -> None:
    batch = StructureBatch.from_atoms([WATER, METHANE])
    assert batch.symbols == ("X", "H", "C", "O")
    assert batch.n_atoms.tolist() == [3, 5]
    for before, after in zip([WATER, METHANE], batch.to_atoms(), strict=True):
        assert before.get_chemical_symbols() == after.get_chemical_symbols()
        np.testing.assert_allclose(before.positions, after.positions)


def test_cells_are_kept() -> None:
    copper = bulk("Cu", cubic=True)
    batch = StructureBatch.from_atoms([copper])
    assert batch.pbc == (True, True, True)
    np.testing.assert_allclose(batch.cell[0], copper.cell)
    np.testing.assert_allclose(batch.to_atoms()[0].cell, copper.cell)


def test_indexing_keeps_a_batch() -> None:
    batch = StructureBatch.from_atoms([WATER, METHANE, WATER])
    for rows in (1, [1], slice(1, 2), np.array([False, True, False])):
        part = batch[rows]
        assert len(part) == 1
        assert part.n_atoms[0] == 5


def test_given_symbols_set_the_order() -> None:
    batch = StructureBatch.from_atoms([WATER], symbols=("X", "O", "H"))
    assert batch.species[0].tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: StructureBatch.from_atoms([]), "no structures"),
        (lambda: StructureBatch.from_atoms([WATER], symbols=("X", "H")), "add it to symbols"),
        (lambda: StructureBatch.from_atoms([WATER, bulk("Cu")]), "differ in periodicity"),
        (lambda: StructureBatch.from_atoms([Atoms("H", [[np.nan, 0, 0]])]), "NaN or infinite"),
        (lambda: StructureBatch(np.zeros((1, 2, 3)), np.zeros((1, 3), int), ("X", "H")), "do not belong together"),
        (lambda: StructureBatch(np.zeros((1, 1, 3)), np.full((1, 1), 4), ("X", "H")), "species index outside"),
        (lambda: StructureBatch(np.zeros((1, 2, 3)), np.array([[0, 1]]), ("X", "H")), "padding"),
        (lambda: StructureBatch(np.zeros((1, 1, 3)), np.ones((1, 1), int), ("X", "H"), np.eye(3)), "cell has shape"),
        (lambda: check_symbols(["Zz"]), "unknown element 'Zz'"),
        (lambda: check_symbols(["H", "H"]), "twice"),
        (lambda: check_symbols([]), "no element"),
    ],
)
def test_refusals(make, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()
