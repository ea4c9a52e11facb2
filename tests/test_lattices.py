"""Crystal families, lattice parameters, and the range that actions choose from."""

import numpy as np
import pytest
from ase.cell import Cell

from megen_gym.errors import InputError
from megen_gym.lattices import (
    FAMILIES,
    FLATTEST,
    FREE,
    LatticeRange,
    cells_of,
    completed,
    family_of,
    free_parameters,
    from_free,
    fullness,
    parameters_of,
)


@pytest.mark.parametrize(
    ("numbers", "family", "free"),
    [
        ((1, 2), "triclinic", 6),
        ((3, 15), "monoclinic", 4),
        ((16, 74), "orthorhombic", 3),
        ((75, 142), "tetragonal", 2),
        ((143, 194), "hexagonal", 2),
        ((195, 230), "cubic", 1),
    ],
)
def test_families_and_their_freedom(numbers: tuple[int, int], family: str, free: int) -> None:
    index = family_of(np.array(numbers))
    assert [FAMILIES[i] for i in index] == [family, family]
    assert FREE[index[0]].sum() == free
    values = np.random.default_rng(0).uniform(50, 120, (4, free))
    whole = from_free(values, family)
    assert whole.shape == (4, 6)
    np.testing.assert_array_equal(free_parameters(whole, family), values)
    np.testing.assert_array_equal(completed(whole, np.full(4, index[0])), whole)
    with pytest.raises(InputError, match=f"expected {free}"):
        from_free(np.ones((4, free + 1)), family)


def test_cells_are_those_of_ase() -> None:
    rng = np.random.default_rng(1)
    parameters = np.concatenate([rng.uniform(2, 9, (20, 3)), rng.uniform(70, 110, (20, 3))], 1)
    cells = cells_of(parameters)
    np.testing.assert_allclose(cells, [np.asarray(Cell.fromcellpar(row)) for row in parameters], atol=1e-9)
    np.testing.assert_allclose(parameters_of(cells), parameters, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(cells), parameters[:, :3].prod(1) * fullness(parameters[:, 3:]))


def test_every_action_is_a_cell_within_the_range() -> None:
    rng, bounds = np.random.default_rng(2), LatticeRange((8.0, 30.0), 4.0, (20.0, 160.0))
    size = 3000
    numbers, family = rng.uniform(-1.5, 1.5, (size, 6)), rng.integers(0, 6, size)
    numbers[:8] = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])[:, [0, 1, 2, 0, 1, 2]]
    family[:8] = 0
    atoms = rng.integers(1, 40, size)
    parameters = bounds.decode(numbers, family, atoms, atoms)
    density = np.linalg.det(cells_of(parameters)) / atoms
    assert density.min() > 8 * (1 - 1e-9)
    assert density.max() < 30 * (1 + 1e-9)
    assert (fullness(parameters[:, 3:]) >= FLATTEST * (1 - 1e-9)).all()
    ratio = parameters[:, 1:3] / parameters[:, :1]
    assert 0.25 * (1 - 1e-9) <= ratio.min() <= ratio.max() <= 4 * (1 + 1e-9)
    assert (parameters[:, :3].max(1) <= bounds.longest(40)).all()
    again = bounds.decode(bounds.encode(parameters, family, atoms, atoms), family, atoms, atoms)
    np.testing.assert_allclose(again, parameters, rtol=1e-9)


def test_lattices_outside_the_range_are_refused() -> None:
    bounds, one = LatticeRange(), np.array([5])
    with pytest.raises(InputError, match="outside volume_range"):
        bounds.encode(np.array([[30.0, 30, 30, 90, 90, 90]]), np.array([5]), one, one)
    with pytest.raises(InputError, match="widen them"):
        bounds.encode(np.array([[4.0, 4, 4, 30, 90, 90]]), np.array([0]), one, one)
    with pytest.raises(InputError, match="widen them"):
        bounds.encode(np.array([[4.0, 4, 4, 60, 60, 120.0]]), np.array([0]), one, one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"volume": (10, 5)}, "the smaller first"),
        ({"volume": (0, 5)}, "positive volumes"),
        ({"aspect": 1.0}, "aspect above 1"),
        ({"angles": (95, 120)}, "both sides of 90"),
        ({"angles": (60,)}, "two numbers"),
    ],
)
def test_impossible_ranges_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatticeRange(**arguments)
