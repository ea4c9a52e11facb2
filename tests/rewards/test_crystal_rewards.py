"""Rewards of whole crystals: hand-made numbers, the contract of rewards, and CrystalWyckoff-v0."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid
from megen_gym.analysis.crystal_composition import densities, valid_compositions
from megen_gym.analysis.crystal_validity import valid_structures
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.rewards import make_reward, reward_from_spec
from megen_gym.rollout import rollout
from megen_gym.structure import StructureBatch

from .conformance import check_worth, growth

SPECS = [
    {"name": "density"},
    {"name": "density", "target": 8.0, "scale": 2.0},
    {"name": "volume_per_atom"},
    {"name": "volume_per_atom", "target": 16.0},
    {"name": "valid"},
    {"name": "valid", "min_distance": 2.0, "states": "icsd24"},
    {"name": "sum", "rewards": ["valid", {"name": "density", "target": 5.0, "weight": 0.1}]},
]


def crystals_that_grow() -> list[StructureBatch]:
    """Batches of nothing, one, two ... atoms in three cells that stay."""
    chain = growth(("X", "Na", "Cl"))
    cells = np.stack([np.diag([9.0, 10.0, 11.0]), 10 * np.eye(3), [[9.0, 0, 0], [1, 9, 0], [2, 1, 9]]])
    return [StructureBatch(batch.positions, batch.species, batch.symbols, cells, (True, True, True)) for batch in chain]


@pytest.mark.parametrize("spec", SPECS, ids=json.dumps)
def test_they_keep_to_the_contract_and_return_the_worth_of_the_last_crystal(spec: dict) -> None:
    check_worth(spec, crystals_that_grow())


@pytest.mark.parametrize("spec", SPECS, ids=json.dumps)
def test_turning_shifting_and_repeating_change_nothing(spec: dict) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    turned = atoms.copy()
    turn = Rotation.from_rotvec([0.3, 0.7, -0.2]).as_matrix()
    turned.set_cell(atoms.cell[:] @ turn, scale_atoms=True)
    turned.positions += [1.0, -7.0, 2.0]
    values = [worth(spec, one) for one in (atoms, turned, atoms * (2, 1, 3))]
    assert values == pytest.approx([values[0]] * 3)


def worth(spec: dict, atoms: Atoms) -> float:
    after = StructureBatch.from_atoms([atoms])
    before = StructureBatch(np.zeros((1, 0, 3)), np.zeros((1, 0), dtype=int), after.symbols, after.cell, after.pbc)
    return float(reward_from_spec(spec)(before, after).value[0])


def test_numbers_by_hand() -> None:
    copper = bulk("Cu", a=3.615)
    density = 4 * 63.546 * 1.66053906660 / 3.615**3
    assert worth({"name": "density"}, copper) == pytest.approx(density) == pytest.approx(densities([copper])[0])
    assert worth({"name": "density", "target": 8.0, "scale": 0.5}, copper) == pytest.approx(-(density - 8.0) / 0.5)
    volume = 3.615**3 / 4
    assert worth({"name": "volume_per_atom"}, copper) == pytest.approx(volume)
    assert worth({"name": "volume_per_atom", "target": 16}, copper) == pytest.approx(-(16 - volume))


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (bulk("NaCl", "rocksalt", a=5.64), 1.0),
        (Atoms("Na2Cl", [[0, 0, 0], [2, 2, 2], [4, 4, 4]], cell=[6, 6, 6], pbc=True), 0.0),
        (Atoms("NaCl", [[0, 0, 0], [0.3, 0, 0]], cell=[6, 6, 6], pbc=True), 0.0),
    ],
    ids=["rock salt", "not neutral", "overlap"],
)
def test_what_is_possible(atoms: Atoms, expected: float) -> None:
    assert worth({"name": "valid"}, atoms) == expected
    assert expected == float((valid_structures([atoms]) & valid_compositions([atoms]))[0])


@pytest.mark.parametrize("lattice", ["first", "last"])
@pytest.mark.parametrize("spec", [SPECS[1], SPECS[3], SPECS[4]], ids=json.dumps)
def test_crystal_wyckoff_pays_what_the_crystal_is_worth(lattice: str, spec: dict) -> None:
    options = {key: value for key, value in spec.items() if key != "name"}
    env = make_vec(
        "CrystalWyckoff-v0", 4, spacegroup=[225, 123], composition="NaCl", lattice=lattice, max_atoms=16,
        reward=spec["name"], reward_kwargs=options,
    )  # fmt: skip
    played = rollout(RandomValid(env.task, tries=32), env, 8, seed=2)
    assert played.valid.any()
    for row, atoms in enumerate(played.structures.to_atoms()):
        if played.valid[row]:
            assert played.episode_return[row] == pytest.approx(worth(spec, atoms), rel=1e-3, abs=1e-3)


def test_wrong_use_is_answered_in_a_sentence() -> None:
    cluster = growth()[2]
    for name in ("density", "volume_per_atom", "valid"):
        with pytest.raises(InputError, match=rf"{name}.*not periodic in three directions.*CrystalWyckoff"):
            make_reward(name)(cluster, cluster)
    for name in ("density", "volume_per_atom"):
        for options in ({"target": 0}, {"target": -1.0}, {"scale": 0}, {"target": float("nan")}):
            with pytest.raises(InputError, match=f"{name}.*expected numbers above 0"):
                make_reward(name, **options)
    with pytest.raises(InputError, match="min_distance 0"):
        make_reward("valid", min_distance=0)
    with pytest.raises(InputError, match=r"smact15.*did you mean 'smact14'"):
        make_reward("valid", states="smact15")


def test_a_flat_cell_is_an_error_of_its_row() -> None:
    cells = np.stack([np.diag([3.0, 3.0, 0.0]), 3 * np.eye(3)])
    batch = StructureBatch(np.zeros((2, 1, 3)), np.ones((2, 1), dtype=int), ("X", "Cu"), cells, (True, True, True))
    nothing = StructureBatch(np.zeros((2, 1, 3)), np.zeros((2, 1), dtype=int), ("X", "Cu"), cells, (True, True, True))
    outcome = make_reward("volume_per_atom")(nothing, batch)
    assert outcome.errors == {0: "the cell has no volume"}
    assert outcome.value.tolist() == [0.0, pytest.approx(27.0)]
