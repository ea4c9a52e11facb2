"""Forces are minus the gradient of the energy, wherever a reward gives them; Lennard-Jones knows its answers."""

import numpy as np
import pytest
from ase.cluster.icosahedron import Icosahedron
from ase.cluster.octahedron import Octahedron

from megen_gym.arena.relaxing import relax_row
from megen_gym.errors import InputError
from megen_gym.rewards import make_reward
from megen_gym.rewards.lennard_jones import GLOBAL_MINIMA, SIGMA, LennardJones
from megen_gym.structure import StructureBatch

STEP = 1e-4


def clusters(symbol: str, seed: int = 0) -> StructureBatch:
    """Two clusters of five and three atoms, some 2.6 Å apart."""
    rng = np.random.default_rng(seed)
    corners = 2.6 * np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.87, 0], [0.5, 0.3, 0.82], [0.5, 0.3, -0.82]])
    positions = np.stack([corners, corners]) + rng.normal(scale=0.1, size=(2, 5, 3))
    species = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return StructureBatch(positions * (species > 0)[..., None], species, ("X", symbol))


@pytest.mark.parametrize(
    ("name", "kwargs", "symbol"),
    [
        ("lennard_jones", {}, "Ar"),
        ("soap_ridge", {}, "Ga"),
        ("lj", {}, "Ga"),
        ("emt", {}, "Cu"),
        ("emt", {"time_limit": 60}, "Cu"),
    ],
)
def test_forces_are_minus_the_gradient(name: str, kwargs: dict, symbol: str) -> None:
    reward, batch = make_reward(name, **kwargs), clusters(symbol)
    assert reward.has_forces
    energy, forces, errors = reward.energy_forces(batch)
    assert errors == {}
    np.testing.assert_allclose(energy, reward.energy(batch), atol=1e-8)
    np.testing.assert_array_equal(forces[1, 3:], 0)
    np.testing.assert_allclose(forces.sum(1), 0, atol=1e-6)
    for row, atom, axis in ((0, 0, 0), (0, 4, 2), (1, 2, 1)):
        moved = np.repeat(batch.positions[row : row + 1], 2, axis=0)
        moved[:, atom, axis] += [STEP, -STEP]
        pair = StructureBatch(moved, batch.species[[row, row]], batch.symbols)
        up, down = reward.energy(pair)
        assert forces[row, atom, axis] == pytest.approx(-(up - down) / (2 * STEP), rel=1e-4, abs=1e-5)


def test_what_has_no_forces_says_so() -> None:
    batch = clusters("Ga")
    for reward in (make_reward("dart"), make_reward("lj", relax_steps=2)):
        assert not reward.has_forces
        with pytest.raises(InputError, match="no forces"):
            reward.energy_forces(batch)


def test_a_calculator_that_fails_has_no_forces_in_that_row() -> None:
    batch = clusters("Xe")
    energy, forces, errors = make_reward("emt", atom_energies=None).energy_forces(batch)
    assert set(errors) == {0, 1}
    assert np.isnan(energy).all()
    assert np.isnan(forces).all()


@pytest.mark.parametrize(("n", "atoms"), [(13, Icosahedron("Ar", 2)), (38, Octahedron("Ar", 4, cutoff=1))])
def test_known_minima_are_minima(n: int, atoms: object) -> None:
    reward = LennardJones(epsilon=2.0)
    start = StructureBatch.from_atoms([atoms])
    start.positions[:] *= 1.1 * SIGMA / np.sort(np.linalg.norm(start.positions[0] - start.positions[0, 0], axis=1))[1]
    relaxed, energy, minimum = relax_row(reward, start, 1e-4, 500)
    assert start.n_atoms[0] == n
    assert minimum
    assert energy == pytest.approx(2 * GLOBAL_MINIMA[n], abs=1e-5)
    assert reward.known_minimum(relaxed)[0] == pytest.approx(energy, abs=1e-5)


def test_small_minima_by_hand() -> None:
    bond = 2 ** (1 / 6) * SIGMA
    tetrahedron = bond / np.sqrt(2) * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=float)
    for n in (2, 3, 4):
        batch = StructureBatch(tetrahedron[None, :n], np.ones((1, n), dtype=np.int64), ("X", "Ar"))
        assert LennardJones().energy(batch)[0] == pytest.approx(GLOBAL_MINIMA[n])
    far = StructureBatch(np.zeros((1, 40, 3)), np.ones((1, 40), dtype=np.int64), ("X", "Ar"))
    assert np.isnan(LennardJones().known_minimum(far)[0])
    assert np.isfinite(LennardJones().energy(far)[0])


@pytest.mark.parametrize("kwargs", [{"sigma": 0}, {"epsilon": -1}, {"sigma": float("nan")}, {"epsilon": "a"}])
def test_lennard_jones_refuses(kwargs: dict) -> None:
    with pytest.raises(InputError, match="positive"):
        LennardJones(**kwargs)
