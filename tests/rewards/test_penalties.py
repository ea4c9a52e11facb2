"""Contacts and distances, against numbers worked out by hand."""

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from megen_gym.errors import InputError
from megen_gym.rewards.penalties import ContactReward, DistanceReward
from megen_gym.structure import StructureBatch

from .conformance import growth


def line(*xs, symbol="Ga", **kwargs):
    """Atoms on the x axis before and after the last of them is placed."""
    atoms = Atoms(f"{symbol}{len(xs)}", [(x, 0.0, 0.0) for x in xs], **kwargs)
    after = StructureBatch.from_atoms([atoms])
    species = after.species.copy()
    species[:, -1] = 0
    return StructureBatch(after.positions, species, after.symbols, after.cell, after.pbc), after


def test_contacts_by_hand():
    outcome = ContactReward(strength=2.0, cutoff=2.0)(*line(0.0, 4.0, 1.0, 2.5))  # distances 2.5, 1.5, 1.5
    assert outcome.value == pytest.approx([-2 * 2 * 0.25**2])


def test_contacts_from_covalent_radii():
    gallium = 0.85 * 2 * covalent_radii[31]
    assert ContactReward()(*line(0.0, gallium)).value == pytest.approx([0.0])
    assert ContactReward()(*line(0.0, gallium / 2)).value == pytest.approx([-0.25])


def test_the_penalty_is_smooth():
    x = np.linspace(1.5, 4.0, 1001)
    reward = ContactReward(cutoff=2.0, neighbour=0.3, bond_distance=3.0)
    value = np.array([reward(*line(0.0, distance)).value[0] for distance in x])
    slope = np.diff(value) / np.diff(x)
    assert np.abs(np.diff(slope)).max() < 0.02
    assert value[-1] == 0.0


def test_neighbours_are_counted_up_to_a_number():
    chain = line(0.0, 2.6, -2.7, 1.3)
    assert ContactReward(neighbour=0.1, bond_distance=3.0, cutoff=0.5)(*chain).terms["neighbours"] == pytest.approx([2])
    capped = ContactReward(neighbour=0.1, bond_distance=3.0, cutoff=0.5, max_neighbours=1)
    assert capped(*chain).value == pytest.approx([0.1])


def test_periodic_images_count_also_those_of_the_atom_itself():
    before, after = line(0.0, 9.0, cell=[10, 10, 10], pbc=True)
    assert ContactReward(cutoff=2.0)(before, after).value == pytest.approx([-0.25])
    before, after = line(0.0, 2.0, cell=[4.0, 10, 10], pbc=True)  # the other atom on both sides, itself at 4 Å twice
    reward = ContactReward(cutoff=0.5, neighbour=1.0, bond_distance=4.1)
    assert reward(before, after).terms["neighbours"] == pytest.approx([4.0])
    thin = ContactReward(cutoff=0.5, neighbour=1.0, bond_distance=8.1, max_neighbours=99)
    assert thin(before, after).terms["neighbours"] == pytest.approx(
        [8.0]
    )  # at 2 and 6 Å the other, at 4 and 8 Å itself


def test_contacts_in_a_skewed_slab_equal_a_neighbour_list():
    rng = np.random.default_rng(0)
    cell = np.array([[3.0, 0, 0], [2.7, 1.8, 0], [1.0, 2.0, 9.0]])
    atoms = Atoms("Ga3", rng.uniform(size=(3, 3)) @ cell, cell=cell, pbc=(True, True, False))
    after = StructureBatch.from_atoms([atoms, atoms])
    species = after.species.copy()
    species[:, -1] = 0
    before = StructureBatch(after.positions, species, after.symbols, after.cell, after.pbc)
    outcome = ContactReward(cutoff=6.0)(before, after)
    first, distance = neighbor_list("id", atoms, 6.0)
    expected = -((1 - distance[first == 2] / 6.0) ** 2).sum()
    assert outcome.value == pytest.approx([expected, expected])


def test_skewed_cells_agree_with_ase():
    cell = [[5.0, 0, 0], [2.4, 4.5, 0], [-2.0, 1.5, 5.0]]
    positions = np.random.default_rng(0).random((4, 3)) @ np.array(cell)
    from ase.neighborlist import neighbor_list

    atoms = Atoms("Ga4", positions, cell=cell, pbc=True)
    after = StructureBatch.from_atoms([atoms])
    species = after.species.copy()
    species[:, -1] = 0
    before = StructureBatch(after.positions, species, after.symbols, after.cell, after.pbc)
    first, distances = neighbor_list("id", atoms, 4.0)
    expected = -((1 - distances[first == 3] / 4.0) ** 2).sum()
    assert ContactReward(cutoff=4.0)(before, after).value == pytest.approx([expected])


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, True)])
def test_crystals_with_cells_of_their_own_pay_as_each_alone(pbc):
    rng = np.random.default_rng(3)
    cells = np.eye(3) * rng.uniform(2, 9, (20, 1, 3)) + np.tril(rng.uniform(-9, 9, (20, 3, 3)), -1)
    after = StructureBatch(
        rng.uniform(-1, 2, (20, 5, 3)) @ cells, rng.integers(1, 3, (20, 5)), ("X", "Ba", "O"), cells, pbc
    )
    before = StructureBatch(after.positions, after.species * (np.arange(5) < 4), after.symbols, cells, pbc)
    reward = ContactReward(neighbour=0.5, max_neighbours=99)
    outcome = reward(before, after)
    for row, atoms in enumerate(after.to_atoms()):
        first, other, distance = neighbor_list("ijd", atoms, 6.5)
        radii = covalent_radii[atoms.numbers]
        bond = (radii[first] + radii[other])[first == 4]
        near = distance[first == 4]
        overlap = -(np.clip(1 - near / (0.85 * bond), 0, None) ** 2).sum()
        count = (0.5 + 0.5 * np.cos(np.pi * np.clip((near - 1.25 * bond) / 0.5, 0, 1))).sum()
        assert outcome.terms["overlap"][row] == pytest.approx(overlap)
        assert outcome.terms["neighbours"][row] == pytest.approx(count)
        assert reward(before[[row]], after[[row]]).value == pytest.approx(outcome.value[[row]])


def test_distance_by_hand():
    outcome = DistanceReward(coef=0.1, max_solo=2.5, solo_coef=2.0)(*line(0.0, 2.0, 5.0))
    assert outcome.value == pytest.approx([-0.1 * 4.0 - 2.0 * 0.5])
    assert outcome.terms["centroid_distance"] == pytest.approx([4.0])
    assert outcome.terms["solo_distance"] == pytest.approx([0.5])


@pytest.mark.parametrize("reward", [ContactReward(neighbour=1.0), DistanceReward(max_solo=0.1)], ids=["c", "d"])
def test_the_first_atom_and_a_stop_pay_nothing(reward):
    chain = growth()
    np.testing.assert_array_equal(reward(chain[0], chain[1]).value, 0.0)
    np.testing.assert_array_equal(reward(chain[3], chain[3]).value, 0.0)
    np.testing.assert_array_equal(reward(chain[0], chain[0]).value, 0.0)


def test_bad_input_is_refused():
    for arguments in ({"cutoff": 0}, {"cutoff": float("nan")}, {"strength": -1}, {"bond_distance": -2.0}):
        with pytest.raises(InputError):
            ContactReward(**arguments)
    for arguments in ({"coef": float("inf")}, {"max_solo": 0}):
        with pytest.raises(InputError):
            DistanceReward(**arguments)
    with pytest.raises(InputError, match="centroid"):
        DistanceReward()(*line(0.0, 2.0, cell=[9, 9, 9], pbc=True))
