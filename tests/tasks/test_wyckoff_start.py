"""Episodes of CrystalWyckoff-v0 that begin with sites: where they begin, what they can become, what is refused."""

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid
from megen_gym.envs.vector import make_vec
from megen_gym.envs.wyckoff import crystal_wyckoff
from megen_gym.errors import InputError
from megen_gym.rollout import rollout
from megen_gym.tasks.start import Start

ID = "CrystalWyckoff-v0"

CASES: dict[str, dict] = {
    "lattice given": {"start": "a Ba 0 0 0; b Ti", "start_lattice": [4.0]},
    "lattice open": {"start": [["a", "Ba"], ["b", "Ti", 0.5, 0.5, 0.5]]},
    "lattice last": {"start": ["a Ba", "b Ti"], "lattice": "last", "n_atoms": 5},
    "two groups": {"start": "a Ti 0 0 .1; b Ba", "start_lattice": [4, 4, 4.2, 90, 90, 90], "spacegroup": [75, 99]},
    "lattice only": {"start_lattice": [4.0, 4.2], "spacegroup": 123},
}


@pytest.mark.parametrize("name", CASES)
def test_checkers_specs_and_vectors(name: str) -> None:
    env = gym.make(ID, **CASES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped)
    again = gym.make(EnvSpec.from_json(json.dumps(json.loads(env.spec.to_json()))))
    first, other = env.reset(seed=1)[0], again.reset(seed=1)[0]
    for key in first:
        np.testing.assert_array_equal(first[key], other[key])
    fast = gym.make_vec(ID, num_envs=3, **CASES[name])
    slow = SyncVectorEnv([lambda: gym.make(ID, **CASES[name]).unwrapped] * 3)
    policy = RandomValid(fast.unwrapped.task, seed=0, tries=8)
    (a, _), (b, _) = fast.reset(seed=7), slow.reset(seed=7)
    for _ in range(15):
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
        action = policy.predict(a)[0]
        (a, *x, _), (b, *y, _) = fast.step(action), slow.step(action)
        for mine, theirs in zip(x, y, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_the_start_is_what_was_given() -> None:
    env = gym.make(ID, **CASES["lattice given"]).unwrapped
    seen, _ = env.reset(seed=0)
    assert env.structure.get_chemical_formula() == "BaTi"
    np.testing.assert_allclose(env.structure.cell.cellpar(), [4, 4, 4, 90, 90, 90])
    np.testing.assert_allclose(env.structure.get_scaled_positions(), [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert seen["site_letters"][:3].tolist() == [1, 2, 0]
    assert seen["lattice_next"] == 0
    assert set(np.flatnonzero(seen["letter_mask"])) == {2, 3}, "64 Å³ hold one formula unit or two"
    assert seen["element_mask"].tolist() == [0, 0, 0, 1]
    *_, info = env.step(env.action_space.sample())
    assert info["n_start"] == 2


@pytest.mark.parametrize("name", CASES)
def test_every_episode_goes_on_from_it_to_the_exact_composition(name: str) -> None:
    task = crystal_wyckoff(**CASES[name] | {"min_distance": 0})[0]
    rng, size = np.random.default_rng(0), 60
    begun = state = task.initial(np.zeros((size, 0)), np.arange(size))
    for _ in range(task.max_steps):
        running = ~task.terminal(state)
        choices = task.site_mask(state).any((1, 2)) | state.may_stop | task.lattice_next(state)
        assert choices[running].all(), "a dead end"
        again = task.read(task.observation(state))
        np.testing.assert_array_equal(again.open[running], state.open[running])
        state, move = task.transition(state, rng.uniform(-1, 1, (size, task.codec.size)))
        assert not move.refused.any()
    assert task.terminal(state).all()
    np.testing.assert_array_equal(state.counts // state.counts[:, :1], np.tile([1, 1, 3], (size, 1)))
    for row in range(size):
        sites = begun.n_sites[row]
        np.testing.assert_array_equal(state.letters[row, :sites], begun.letters[row, :sites])
        np.testing.assert_array_equal(
            state.fractions[row, : begun.n_atoms[row]], begun.fractions[row][: begun.n_atoms[row]]
        )


def test_a_lattice_that_brings_start_sites_too_near_is_refused() -> None:
    task = crystal_wyckoff(1, elements="C", n_atoms=2, max_atoms=2, start="a C 0 0 0", min_distance=5.5)[0]
    state = task.initial(np.zeros((1, 0)), np.arange(1))
    action = np.zeros((1, task.codec.size))
    action[:, -6] = -1.0
    assert task.transition(state, action)[1].refused
    action[:, -6] = 1.0
    action[:, -3:] = 0
    loose = crystal_wyckoff(
        1, elements="C", n_atoms=2, max_atoms=2, start="a C 0 0 0", min_distance=1, volume_range=(5, 500)
    )[0]
    assert loose.transition(state, action)[1].valid


@pytest.mark.parametrize("lattice", [[3.75], None])
def test_nobody_is_paid_for_the_start(lattice: list | None) -> None:
    kwargs = {"spacegroup": 221, "composition": "Cu3Au", "start": "a Au", "start_lattice": lattice, "n_atoms": 4}
    env = make_vec(ID, 4, **kwargs, reward="emt")
    played = rollout(RandomValid(env.task, tries=64), env, 8, seed=2)
    assert played.valid.any()
    for row, atoms in enumerate(played.structures.to_atoms()):
        if not played.valid[row]:
            continue
        energies = []
        for part in (atoms, atoms[[atom.symbol == "Au" for atom in atoms]]):
            lone = 0.0
            for symbol in part.symbols:
                single = Atoms(symbol, calculator=EMT())
                lone += single.get_potential_energy()
            part.calc = EMT()
            energies.append(part.get_potential_energy() - lone)
        assert played.episode_return[row] == pytest.approx(energies[1] - energies[0], rel=1e-3, abs=1e-3)
        assert played.n_start[row] == (lattice is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 3}, "write sites as letter"),
        ({"start": "a"}, "is no site"),
        ({"start": "a Ba 0 0 0 0"}, "is no site"),
        ({"start": "a Ba x"}, "coordinates are no numbers"),
        ({"start": "a Ba; q O"}, "no Wyckoff letter 'q'; it has a to n"),
        ({"start": "b Ba", "spacegroup": [221, 19]}, "it has a to a"),
        ({"start": "a Cu"}, "holds 'Cu'"),
        ({"start": "a X"}, "holds 'X'"),
        ({"start": "b Ba; a Ti"}, "in the order of their letters"),
        ({"start": "a Ba; a Ti"}, "taken twice"),
        ({"start": "b Ti 0 0 0"}, "not at its place 1/2,1/2,1/2"),
        ({"start": "a Ba; b Ti; c O; d O", "n_max": 3}, "raise n_max"),
        ({"start": "c Ba", "n_atoms": 5}, "more Ba than the composition"),
        ({"start": "b O", "n_atoms": 5}, "no sites of space group 221"),
        ({"start": "a Ba", "start_lattice": "4"}, "positive numbers"),
        ({"start": "a Ba", "start_lattice": [-4.0]}, "positive numbers"),
        ({"start": "a Ba", "start_lattice": []}, "empty list"),
        ({"start": "a Ba", "start_lattice": [4.0, 4.0]}, "cubic and free in a"),
        ({"start": "a Ba", "start_lattice": [4, 5, 6, 90, 90, 90]}, "no cubic lattice"),
        ({"start": "a Ba", "start_lattice": [4.0], "lattice": "last"}, "lattice='first' too"),
        ({"start": "a Ba", "start_lattice": [40.0]}, "widen them"),
        ({"start": "a Ba; b Ti", "start_lattice": [3.2], "min_distance": 3.0}, "nearer than min_distance"),
        ({"start": "a C .1; a C .1", "spacegroup": 1, "composition": "C"}, "in one place"),
        ({"start": "a Ba; b Ti; c O", "start_lattice": [4.0], "n_atoms": 5}, "complete crystal"),
    ],
)
def test_bad_starts_get_one_sentence(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        crystal_wyckoff(**arguments)
    assert "\n" not in str(error.value)


def test_texts_and_lists_mean_the_same() -> None:
    text = Start.read("a Ba; e O 1/3, 0 .25", [4.0])
    assert text == Start.read([["a", "Ba"], ["e", "O", "1/3", 0, 0.25]], (4,))
    assert Start.read(None) == Start()
