"""Distances in cells: against ASE's own neighbour lists, in numpy and torch, with gradients."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.geometry import cellpar_to_cell, find_mic
from ase.neighborlist import neighbor_list

from megen_gym.errors import InputError
from megen_gym.periodic import Lattice, parse_pbc

PBC = [(True, True, True), (True, True, False), (False, True, False), (True, False, True), (False, False, False)]


def skewed(seed: int) -> np.ndarray:
    """A cell with angles down to 10 degrees, turned at random."""
    rng = np.random.default_rng(seed)
    while True:
        angles = rng.uniform(10, 170, 3)
        a, b, c = np.cos(np.radians(angles))
        if 1 - a * a - b * b - c * c + 2 * a * b * c > 1e-3:
            cell = cellpar_to_cell([*rng.uniform(2, 12, 3), *angles])
            return cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]


CELLS = {f"skewed {seed}": skewed(seed) for seed in range(12)} | {
    "ten degrees": cellpar_to_cell([6, 7, 8, 10, 12, 14]),
    "sheared": np.array([[3.0, 0, 0], [7.4, 3, 0], [-11.3, 8.2, 4]]),
    "thin": np.diag([2.5, 2.5, 20.0]),
    "hexagonal": cellpar_to_cell([3, 3, 9, 90, 90, 120]),
    "left-handed": np.diag([4.0, 5.0, -6.0]),
}


def listed(positions: np.ndarray, cell: np.ndarray, pbc: tuple[bool, ...], k: int, reach: float) -> np.ndarray:
    """(N, k) by ASE's neighbour list, or None where `reach` holds too few."""
    first, distance = neighbor_list("id", Atoms(f"H{len(positions)}", positions, cell=cell, pbc=pbc), reach)
    rows = [np.sort(distance[first == i])[:k] for i in range(len(positions))]
    return np.array(rows) if all(len(row) == k for row in rows) else None


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("name", CELLS)
def test_minimum_image_equals_ase(name: str, pbc: tuple[bool, ...]) -> None:
    cell = CELLS[name]
    vectors = np.random.default_rng(1).normal(size=(400, 3)) * 15
    found = Lattice(cell, pbc).minimum_image(vectors)
    # ASE wraps along free axes too, which is right only if they stand at right angles to the periodic ones.
    _, length = find_mic(vectors, cell * np.array(pbc)[:, None], pbc)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), length, atol=1e-9)
    steps = (found - vectors) @ np.linalg.inv(cell)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-8)
    assert not np.abs(steps[:, ~np.array(pbc)]).max(initial=0) > 1e-8


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("name", CELLS)
def test_nearest_equals_ase_in_any_cell(name: str, pbc: tuple[bool, ...]) -> None:
    cell = CELLS[name]
    positions = np.random.default_rng(2).uniform(-0.5, 1.5, (2, 9, 3)) @ cell
    k = 8 if not any(pbc) else 14
    found = Lattice(cell, pbc).nearest(positions, k)
    assert (np.diff(found, axis=-1) > -1e-12).all()
    for mine, atoms in zip(found, positions, strict=True):
        np.testing.assert_allclose(mine, listed(atoms, cell, pbc, k, mine.max() + 0.1), atol=1e-9)


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [(np.diag([2.5, 2.5, 20]), (True, True, True)), (np.diag([2.5, 30, 20]), (True, False, False))],
)
def test_one_atom_in_a_thin_cell_sees_its_own_images(cell: np.ndarray, pbc: tuple[bool, ...]) -> None:
    for k in (1, 2, 12, 60):
        found = Lattice(cell, pbc).nearest(np.array([[7.0, -3.0, 1.0]]), k)
        np.testing.assert_allclose(found, listed(np.zeros((1, 3)), cell, pbc, k, found.max() + 0.1), atol=1e-9)


def test_two_atoms_far_apart_in_a_needle_see_their_own_images() -> None:
    lattice = Lattice(np.diag([2.5, 2.5, 900.0]))
    found = lattice.nearest(np.array([[0, 0, 0], [0, 0, 400.0]]), 60)
    np.testing.assert_allclose(found[0], lattice.nearest(np.zeros((1, 3)), 60)[0], atol=1e-9)


def test_a_batch_gives_what_its_structures_give() -> None:
    rng = np.random.default_rng(3)
    lattice = Lattice(skewed(5))
    spread = np.array([0.02, 1.0, 3.0])[:, None, None]
    positions = rng.normal(size=(2, 3, 7, 3)) * spread
    found = lattice.nearest(positions, 6)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(found[index], lattice.nearest(positions[index], 6), atol=1e-12)
    np.testing.assert_allclose(lattice.distances(positions)[1, 2], lattice.distances(positions[1, 2]), atol=1e-12)


def test_distances_equal_ase_and_their_diagonal_is_zero() -> None:
    cell = CELLS["sheared"]
    positions = np.random.default_rng(4).uniform(size=(12, 3)) @ cell
    found = Lattice(cell).distances(positions)
    expected = Atoms("H12", positions, cell=cell, pbc=True).get_all_distances(mic=True)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (np.diag(found) == 0).all()


@pytest.mark.parametrize("pbc", PBC)
def test_wrap_and_fractions(pbc: tuple[bool, ...]) -> None:
    cell = skewed(7)
    lattice, periodic = Lattice(cell, pbc), np.array(pbc)
    positions = np.random.default_rng(5).normal(size=(4, 50, 3)) * 20
    np.testing.assert_allclose(lattice.cartesian(lattice.fractional(positions)), positions, atol=1e-9)
    wrapped = lattice.wrap(positions)
    fractions = lattice.fractional(wrapped)
    assert (fractions[..., periodic] > -1e-9).all()
    assert (fractions[..., periodic] < 1 + 1e-9).all()
    np.testing.assert_allclose(fractions[..., ~periodic], lattice.fractional(positions)[..., ~periodic], atol=1e-9)
    inside = np.full((1, 3), 0.3) @ cell
    np.testing.assert_array_equal(lattice.wrap(inside), inside)


def test_a_position_just_below_zero_wraps_to_a_fraction_below_one() -> None:
    lattice = Lattice(np.eye(3) * 4)
    assert (np.abs(lattice.wrap(np.full((1, 3), -1e-18))) < 1e-15).all()


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_equals_numpy(dtype: torch.dtype, pbc: tuple[bool, ...]) -> None:
    lattice = Lattice(CELLS["skewed 3"], pbc)
    positions = np.random.default_rng(6).uniform(size=(3, 8, 3)) * 9
    tensor = torch.tensor(positions, dtype=dtype)
    tolerance = 1e-9 if dtype is torch.float64 else 2e-5
    for name, *rest in (("fractional",), ("cartesian",), ("wrap",), ("distances",), ("nearest", 6)):
        mine, theirs = getattr(lattice, name)(positions, *rest), getattr(lattice, name)(tensor, *rest)
        assert theirs.dtype is dtype
        np.testing.assert_allclose(theirs.numpy(), mine, atol=tolerance)
    lengths = [np.linalg.norm(lattice.minimum_image(v), axis=-1) for v in (positions, tensor.numpy())]
    np.testing.assert_allclose(lengths[0], lengths[1], atol=tolerance)


@pytest.mark.parametrize("pbc", [PBC[0], *(pytest.param(pbc, marks=pytest.mark.slow) for pbc in PBC[1:-1]), PBC[-1]])
def test_gradients(pbc: tuple[bool, ...]) -> None:
    lattice = Lattice(skewed(8), pbc)
    positions = torch.tensor(np.random.default_rng(7).uniform(size=(2, 5, 3)) * 8, requires_grad=True)
    upper = torch.triu_indices(5, 5, 1)
    assert torch.autograd.gradcheck(lambda x: lattice.nearest(x, 4), positions)
    assert torch.autograd.gradcheck(lambda x: lattice.distances(x)[:, upper[0], upper[1]], positions)
    assert torch.autograd.gradcheck(lattice.wrap, positions)


@pytest.mark.parametrize("name", ["nearest", "distances"])
def test_coincident_atoms_have_a_finite_gradient(name: str) -> None:
    positions = torch.zeros(1, 4, 3, dtype=torch.float64, requires_grad=True)
    lattice = Lattice(np.eye(3) * 5, (True, True, False))
    found = lattice.nearest(positions, 3) if name == "nearest" else lattice.distances(positions)
    assert (found == 0).all()
    found.sum().backward()
    assert (positions.grad == 0).all()


@pytest.mark.parametrize("pbc", PBC)
def test_images_hold_all_within_reach(pbc: tuple[bool, ...]) -> None:
    cell, rng = skewed(9), np.random.default_rng(9)
    atoms = Atoms("H2", rng.uniform(-1, 2, (2, 3)) @ cell, cell=cell, pbc=pbc)
    vector = atoms.positions[1] - atoms.positions[0]
    images = Lattice(cell, pbc).images(vector[None], 11.0)[0]
    found = np.sort(np.linalg.norm(images, axis=-1))
    assert len(np.unique(images.round(6), axis=0)) == len(images)
    first, second, distance = neighbor_list("ijd", atoms, 11.0)
    expected = np.sort(distance[(first == 0) & (second == 1)])
    np.testing.assert_allclose(found[found < 11], expected, atol=1e-9)


def test_zero_vectors_along_free_axes() -> None:
    slab = np.array([[4.0, 0, 0], [1.0, 5, 0], [0, 0, 0]])
    lattice = Lattice(slab, (True, True, False))
    np.testing.assert_allclose(lattice.cell[2], [0, 0, 1])
    assert lattice.volume == pytest.approx(20)
    vectors = np.random.default_rng(8).normal(size=(50, 3)) * 20
    _, length = find_mic(vectors, slab, (True, True, False))
    np.testing.assert_allclose(np.linalg.norm(lattice.minimum_image(vectors), axis=1), length, atol=1e-9)
    free = Lattice(np.zeros((3, 3)), False)
    np.testing.assert_array_equal(free.minimum_image(vectors), vectors)


def test_volume_and_heights() -> None:
    lattice = Lattice(CELLS["sheared"])
    assert lattice.volume == pytest.approx(36)
    a, b, c = lattice.cell
    np.testing.assert_allclose(lattice.heights[2], 36 / np.linalg.norm(np.cross(a, b)))
    np.testing.assert_allclose(lattice.heights[0], 36 / np.linalg.norm(np.cross(b, c)))


def test_nothing_to_search() -> None:
    lattice = Lattice(np.eye(3) * 5)
    assert lattice.nearest(np.zeros((0, 4, 3)), 3).shape == (0, 4, 3)
    assert lattice.nearest(torch.zeros(2, 0, 3), 6).shape == (2, 0, 6)


@pytest.mark.parametrize(
    ("given", "axes"),
    [
        (True, (True, True, True)),
        (np.bool_(False), (False, False, False)),
        ("TTF", (True, True, False)),
        ("FFF", (False, False, False)),
        ([1, 0, True], (True, False, True)),
        (np.array([0, 1, 1], dtype=np.int8), (False, True, True)),
    ],
)
def test_periodic_axes(given: object, axes: tuple[bool, bool, bool]) -> None:
    assert parse_pbc(given) == axes
    assert Lattice(np.eye(3), given).pbc == axes


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Lattice(np.eye(2)), "three finite lattice vectors"),
        (lambda: Lattice(np.full((3, 3), np.nan)), "three finite lattice vectors"),
        (lambda: Lattice(np.eye(3), (True, False)), "pbc is .* three of them"),
        (lambda: Lattice(np.eye(3), "TT"), "pbc is 'TT'"),
        (lambda: parse_pbc(["T", "T", "F"]), "three letters such as 'TTF'"),
        (lambda: parse_pbc([[1, 0], [1]]), "three letters"),
        (lambda: parse_pbc((2, 0, 1)), "three letters"),
        (lambda: parse_pbc(None), "pbc is None"),
        (lambda: Lattice(np.ones((3, 3))), "spans no volume"),
        (lambda: Lattice(np.diag([1.0, 1.0, 0.0])), "spans no volume"),
        (lambda: Lattice(np.eye(3), False).nearest(np.zeros((4, 3)), 4), "give 1 to 3, or periodic axes"),
        (lambda: Lattice(np.eye(3)).nearest(np.zeros((4, 3)), 0), "0 nearest neighbours"),
        (lambda: Lattice(np.eye(3)).images(np.zeros((1, 3)), np.inf), "give a finite distance"),
        (lambda: Lattice(np.eye(3)).nearest(np.full((4, 3), np.nan), 2), "NaN or infinite"),
    ],
)
def test_refusals(call, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call()
