"""Reduced bases and near images of many cells at once: against ASE, and one lattice after the other."""

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import cellpar_to_cell, minkowski_reduce
from ase.neighborlist import neighbor_list

from megen_gym.errors import InputError
from megen_gym.near import within
from megen_gym.periodic import Lattice
from megen_gym.reduction import reduced
from megen_gym.tasks.contacts import apart

PBC = [(True, True, True), (True, True, False), (False, True, False), (True, False, True), (False, False, False)]


def skewed(size: int, seed: int) -> np.ndarray:
    """(B, 3, 3) cells with angles down to 10 degrees, some of them sheared far, turned at random."""
    rng, cells = np.random.default_rng(seed), []
    while len(cells) < size:
        angles = rng.uniform(10, 170, 3)
        a, b, c = np.cos(np.radians(angles))
        if 1 - a * a - b * b - c * c + 2 * a * b * c > 1e-3:
            shear = np.eye(3) + np.tril(rng.integers(-9, 10, (3, 3)), -1) * (len(cells) % 4 == 0)
            turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
            cells.append(shear @ cellpar_to_cell([*rng.uniform(1.5, 12, 3), *angles]) @ turn)
    return np.array(cells)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_reduced_bases_are_as_short_as_ases(axes: int) -> None:
    vectors = skewed(60, axes)[:, :axes]
    found = reduced(vectors)
    steps = found @ np.linalg.pinv(vectors)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    np.testing.assert_allclose(np.abs(np.linalg.det(steps)), 1, atol=1e-6)
    for row, given in zip(found, vectors, strict=True):
        cell = np.zeros((3, 3))
        cell[:axes] = given
        best, _ = minkowski_reduce(cell, np.arange(3) < axes) if axes > 1 else (cell, None)
        lengths = (np.sort(np.linalg.norm(basis, axis=1)) for basis in (row, best[:axes]))
        np.testing.assert_allclose(*lengths, rtol=1e-9)


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("reach", [0.7, 5.0])
def test_images_within_reach_are_those_of_each_lattice(pbc: tuple[bool, bool, bool], reach: float) -> None:
    cells, rng = skewed(30, 7), np.random.default_rng(1)
    structure = np.sort(rng.integers(0, 30, 90))
    vectors = np.einsum("mi,mij->mj", rng.uniform(-2, 2, (90, 3)), cells[structure])
    itself = rng.random(90) < 0.2
    vectors[itself] = 0
    index, length = within(cells, pbc, structure, vectors, itself, reach)
    assert (np.diff(index) >= 0).all()
    for number in range(90):
        images = Lattice(cells[structure[number]], pbc).images(vectors[number], reach)
        expected = np.sort(np.linalg.norm(images, axis=1)[int(itself[number]) :])
        np.testing.assert_allclose(np.sort(length[index == number]), expected[expected < reach], atol=1e-9)


def test_chunks_and_equal_cells_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, rng = skewed(8, 3), np.random.default_rng(2)
    structure, vectors = np.arange(64) % 8, rng.normal(size=(64, 3)) * 6
    none = np.zeros(64, dtype=bool)
    whole = within(cells, (True, True, True), structure, vectors, none, 4.0)
    equal = within(np.tile(cells[2], (8, 1, 1)), (True, True, True), structure, vectors, none, 4.0)
    alone = within(cells[2:3], (True, True, True), none.astype(int), vectors, none, 4.0)
    monkeypatch.setattr("megen_gym.images.CHUNK", 240)
    parts = within(cells, (True, True, True), structure, vectors, none, 4.0)
    for mine, theirs in ((whole, parts), (equal, alone)):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_allclose(mine[1], theirs[1], atol=1e-12)


def test_atoms_are_apart_where_a_neighbour_list_is_empty() -> None:
    count = 12
    cells, rng = skewed(count, 4), np.random.default_rng(5)
    fractions, mask = rng.random((count, 4, 3)), np.arange(4) < rng.integers(1, 5, count)[:, None]
    own = np.where(mask, np.arange(4), -1)
    good = apart(cells, fractions, own, fractions, mask, 0.8)
    for row in range(count):
        atoms = Atoms("H" * mask[row].sum(), scaled_positions=fractions[row, mask[row]], cell=cells[row], pbc=True)
        assert good[row] == (not len(neighbor_list("i", atoms, 0.8)))
    assert 0 < good.sum() < count
    assert apart(cells[:0], fractions[:0], own[:0], fractions[:0], mask[:0], 0.8).shape == (0,)


def test_refusals() -> None:
    none, zero = np.zeros(1, dtype=bool), np.zeros((1, 3))
    with pytest.raises(InputError, match="give a finite distance"):
        within(np.eye(3)[None], (True, True, True), np.zeros(1, dtype=int), zero, none, np.inf)
    flat = np.stack([np.eye(3), np.ones((3, 3))])
    with pytest.raises(InputError, match="structure 1 span no volume"):
        within(flat, (True, True, True), np.zeros(1, dtype=int), zero, none, 1.0)
