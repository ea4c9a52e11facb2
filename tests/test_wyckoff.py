"""The Wyckoff tables of all 230 groups, against their own operations and against spglib."""

import numpy as np
import pytest
import spglib
import torch
from ase.cell import Cell

from megen_gym.derive_wyckoff import hall_numbers, lettered, written
from megen_gym.errors import InputError
from megen_gym.lattices import cells_of, completed, family_of
from megen_gym.wyckoff import LETTERS, read_formula, space_group, wyckoff_table

NUMBERS = range(1, 231)

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING")


def lattice(number: int, seed: int = 0) -> np.ndarray:
    """A cell that has no more symmetry than the family asks for."""
    generic = np.array([5.1, 6.3, 7.9, 81.0, 97.0, 104.0]) + np.random.default_rng(seed).uniform(-0.3, 0.3, 6)
    return cells_of(completed(generic, family_of(np.array(number))))


def same_points(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(len(a),) whether each point of `a` is one of `b`, modulo lattice translations."""
    delta = a[:, None] - b
    return (np.abs(delta - np.rint(delta)).max(-1) < 1e-6).any(1)


def test_the_table_has_the_known_sizes() -> None:
    table = wyckoff_table()
    assert len(table.multiplicity) == 1731
    assert (table.freedom == 0).sum() == 616
    assert table.count[1:].max() == len(LETTERS)
    assert [space_group(n).multiplicity[-1] for n in (1, 2, 62, 194, 225)] == [1, 2, 8, 24, 192]


def test_basis_rows_are_the_free_coordinates() -> None:
    table = wyckoff_table()
    rank = np.linalg.matrix_rank(table.basis)
    np.testing.assert_array_equal(rank, table.freedom)
    dependent = (table.basis != 0).sum((1, 2)) > table.freedom
    assert dependent.sum() > 150, "(x,2x,z) counts x and z, not three coordinates"
    axis = np.arange(3)
    np.testing.assert_array_equal(table.basis[:, axis, axis], table.free, "a free coordinate is itself")
    assert (table.shift * table.free).max() == 0


@pytest.mark.parametrize("number", NUMBERS)
def test_orbits_are_closed_and_as_large_as_their_multiplicity(number: int) -> None:
    group, table = space_group(number), wyckoff_table()
    rotations, translations = group.operations
    rows = np.arange(group.positions.start, group.positions.stop)
    coordinates = np.random.default_rng(number).random((len(rows), 3))
    orbit = table.expand(rows, coordinates)
    np.testing.assert_array_equal(orbit.mask.sum(1), group.multiplicity)
    for row, points, mask in zip(rows, orbit.fractions, orbit.mask, strict=True):
        points = points[mask]
        first = table.representative(row, coordinates[row - rows[0]])
        assert same_points(first[None], points[:1]).all(), "the representative comes first"
        assert same_points(points, points).sum() == len(points)
        delta = points[:, None] - points
        assert ((np.abs(delta - np.rint(delta)).max(-1) < 1e-6).sum(1) == 1).all(), "no point is there twice"
        images = (np.einsum("oij,j->oi", rotations, points[0]) + translations) % 1.0
        assert same_points(images, points).all()
        assert same_points(points, images).all()


@pytest.mark.parametrize("number", NUMBERS)
def test_letters_are_those_of_spglib(number: int) -> None:
    """All positions taken at once by different elements, and three general ones: nothing but the group is left."""
    group, table = space_group(number), wyckoff_table()
    rotations, translations = group.operations
    rows = np.arange(group.positions.start, group.positions.stop)
    rows = np.concatenate([rows, rows[-1:], rows[-1:]])
    for seed in range(20):  # spglib gives up on some unlucky crystals
        orbit = table.expand(rows, np.random.default_rng([number, seed]).random((len(rows), 3)))
        kinds = np.nonzero(orbit.mask)[0]
        points = orbit.fractions[orbit.mask]
        seen = spglib.get_symmetry_dataset((lattice(number), points, kinds + 1), symprec=1e-4)
        if seen is not None and seen.number == number:
            break
    assert seen.number == number
    assert len(seen.rotations) == len(rotations)
    moved = points @ seen.transformation_matrix.T + seen.origin_shift
    for kind in range(len(rows)):
        atom = int(np.argmax(kinds == kind))
        row = group.position(seen.wyckoffs[atom])
        images = np.einsum("oij,j->oi", rotations, moved[atom]) + translations
        off = images - table.representative(np.array(row), table.coordinates(np.full(len(images), row), images))
        assert (np.abs(off - np.rint(off)).max(1) < 1e-5).any(), f"{seen.wyckoffs[atom]} is another position here"


@pytest.mark.parametrize("number", [1, 5, 15, 47, 152, 166, 194, 203, 214])
def test_the_file_is_what_spglib_gives(number: int) -> None:
    group = space_group(number)
    found = lettered(hall_numbers()[number - 1], number)
    assert "".join(letter for letter, _, _ in found) == group.letters
    assert [multiplicity for _, multiplicity, _ in found] == group.multiplicity.tolist()
    assert tuple(written(space) for _, _, space in found) == group.formula


def test_international_tables_examples() -> None:
    perovskite = space_group("Pm-3m")
    assert perovskite.number == 221
    assert perovskite.formula[:3] == ("0,0,0", "1/2,1/2,1/2", "0,1/2,1/2")
    oxygen = wyckoff_table().expand(np.array(perovskite.position("d")), np.zeros(3)).fractions
    np.testing.assert_array_equal(np.sort(oxygen, axis=0), [[0, 0, 0], [0, 0, 0], [0.5, 0.5, 0.5]])
    assert space_group(194).formula[2:4] == ("1/3,2/3,1/4", "2/3,1/3,1/4")
    assert space_group(47).letters == LETTERS
    shift, basis = read_formula("x,-2x+1/2,1/4")
    assert shift.tolist() == [0, 0.5, 0.25]
    assert basis.tolist() == [[1, -2, 0], [0, 0, 0], [0, 0, 0]]


def test_torch_agrees_and_has_gradients() -> None:
    table, rng = wyckoff_table(), np.random.default_rng(0)
    rows, coordinates = rng.integers(0, 1731, (4, 3)), rng.random((4, 3, 3))
    ours = table.expand(rows, coordinates)
    given = torch.tensor(coordinates, requires_grad=True)
    theirs = table.expand(torch.tensor(rows), given)
    np.testing.assert_allclose(theirs.fractions.detach(), ours.fractions, atol=1e-12)
    np.testing.assert_array_equal(theirs.mask, ours.mask)
    theirs.fractions.square().sum().backward()
    np.testing.assert_array_equal((given.grad != 0).numpy(), table.free[rows])


@pytest.mark.parametrize("number", [3, 16, 75, 143, 166, 195])
def test_cells_have_the_symmetry_of_the_family(number: int) -> None:
    cell = lattice(number)
    metric = cell @ cell.T
    for rotation in space_group(number).operations[0]:
        np.testing.assert_allclose(rotation.T @ metric @ rotation, metric, atol=1e-9)
    np.testing.assert_allclose(cell, Cell.fromcellpar(Cell(cell).cellpar()), atol=1e-9)


@pytest.mark.parametrize("name", ["Pm3m", "", 0, 231, 2.5, True, "P21/q", "999"])
def test_unknown_groups_are_refused(name: object) -> None:
    with pytest.raises(InputError, match=r"give a (number|symbol)"):
        space_group(name)


def test_unknown_letters_are_refused() -> None:
    with pytest.raises(InputError, match="it has a to n"):
        space_group(221).position("o")
    for letter in ("", "ab", "A"):
        with pytest.raises(InputError, match="no Wyckoff letter"):
            space_group(221).position(letter)


def test_names_are_forgiving() -> None:
    assert [space_group(name).number for name in ("P21/c", "P2_1/c", " P 2_1 / c", "14", 14, np.int64(14))] == [14] * 6
