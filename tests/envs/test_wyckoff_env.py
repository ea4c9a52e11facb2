"""CrystalWyckoff-v0 as users and other libraries see it: checkers, vectors, seeds, rewards, baselines."""

import gymnasium as gym
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from environment_checks import check_checkers, check_spec, check_vector
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import Greedy, RandomValid
from megen_gym.envs import snapshot
from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.rollout import rollout

ID = "CrystalWyckoff-v0"

CASES: dict[str, dict] = {
    "perovskite": {},
    "lattice last": {"lattice": "last", "n_max": 6},
    "P1": {"spacegroup": 1, "elements": "C", "n_max": 8, "max_atoms": 8, "lattice": "last"},
    "cycled": {"spacegroup": [2, 47, "Fm-3m"], "elements": ["Cu", "Au"], "reward": "emt", "n_max": 4},
    "drawn": {"spacegroup": "P4mm,R-3m,194", "draw": "random", "elements": "Ti,O", "on_refusal": "skip"},
    "guard off": {"spacegroup": 99, "n_atoms": 10, "min_distance": 0, "composition": "PbTiO3"},
}


@pytest.mark.parametrize("name", CASES)
def test_both_checkers_are_silent(name: str) -> None:
    check_checkers(ID, CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_spec_survives_json_and_seeds_repeat(name: str) -> None:
    check_spec(ID, CASES[name])


@pytest.mark.parametrize(
    "mode", [AutoresetMode.SAME_STEP, pytest.param(AutoresetMode.NEXT_STEP, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", CASES)
def test_vector_equals_gymnasiums_loop_over_singles(name: str, mode: AutoresetMode) -> None:
    assert check_vector(ID, CASES[name] | {"reward": "contacts"}, mode, tolerance=1e-12) > 2


@pytest.mark.parametrize(
    "name",
    [pytest.param("perovskite", marks=pytest.mark.slow), pytest.param("lattice last", marks=pytest.mark.slow), "P1",
     "drawn"],
)  # fmt: skip
def test_baselines_play_it(name: str) -> None:
    env = make_vec(ID, 4, **CASES[name] | {"reward": "contacts"})
    played = rollout(RandomValid(env.task, tries=64), env, 40, seed=0)
    greedy = rollout(Greedy(env.task, env.engine.reward, 8, tries=64), env, 40, seed=0)
    assert played.valid.mean() > 0.2
    assert greedy.episode_return.mean() > played.episode_return.mean()
    assert played.structures.pbc == (True, True, True)
    for atoms in played.atoms():
        if atoms.info["valid"]:
            assert atoms.cell.volume > 1
            assert len(atoms) > 0


def test_compositions_of_a_rollout_are_exact() -> None:
    env = make_vec(ID, 8, spacegroup=[123, 221, 99], composition="BaTiO3")
    played = rollout(RandomValid(env.task, tries=32), env, 60, seed=1)
    formulas = {atoms.symbols.formula.reduce()[0].format("hill") for atoms in played.atoms() if atoms.info["valid"]}
    assert formulas == {"BaO3Ti"}


@pytest.mark.parametrize("lattice", ["first", "last"])
def test_energies_sum_up_to_that_of_the_crystal(lattice: str) -> None:
    env = make_vec(ID, 6, spacegroup=[2, 225, 123], composition="Cu3Au", lattice=lattice, reward="emt", max_atoms=16)
    played = rollout(RandomValid(env.task, tries=64), env, 12, seed=2)
    assert played.valid.any()
    for row, atoms in enumerate(played.structures.to_atoms()):
        if not played.valid[row]:
            continue
        lone = 0.0
        for symbol in atoms.symbols:
            single = Atoms(symbol)
            single.calc = EMT()
            lone += single.get_potential_energy()
        atoms.calc = EMT()
        bound = atoms.get_potential_energy() - lone
        assert played.episode_return[row] == pytest.approx(-bound, rel=1e-3, abs=1e-3)


def test_with_the_lattice_last_only_the_lattice_is_paid() -> None:
    env = make_vec(ID, 5, lattice="last", reward="contacts", min_distance=0, n_atoms=5)
    policy = RandomValid(env.task, tries=8)
    observation, _ = env.reset(seed=0)
    for _ in range(8):
        setting = observation["lattice_next"][:, 0] > 0
        assert not observation["site_mask"][setting].any()
        assert not observation["species"].any()
        action = policy.predict(observation)[0]
        observation, reward, terminated, _, infos = env.step(action)
        np.testing.assert_array_equal(infos["placed"], setting)
        np.testing.assert_array_equal(terminated, setting)
        assert (reward[~setting] == 0).all()
        if setting.any():
            assert (infos["final_obs"][np.flatnonzero(setting)[0]]["species"] > 0).sum() == 5
            break
    else:
        raise AssertionError("no lattice was ever asked for")


def test_groups_are_cycled_or_drawn() -> None:
    cycled, drawn = (gym.make(ID, spacegroup=[1, 2, 3], elements="C", draw=draw) for draw in ("cycle", "random"))
    numbers = [int(cycled.reset(seed=0 if i == 0 else None)[0]["spacegroup"][0]) for i in range(6)]
    assert numbers == [1, 2, 3, 1, 2, 3]
    numbers = [int(drawn.reset(seed=0 if i == 0 else None)[0]["spacegroup"][0]) for i in range(40)]
    assert set(numbers) == {1, 2, 3}
    assert numbers[:6] != [1, 2, 3, 1, 2, 3]


def test_ppo_trains_on_it() -> None:
    env = SB3VecEnv.make(ID, 4, seed=0, spacegroup=[99, 221], n_atoms=5, reward="contacts")
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, n_epochs=2, seed=0)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(128)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))


def test_a_running_vector_is_saved_and_restored() -> None:
    kwargs = {"spacegroup": [2, 99, 221], "draw": "random", "lattice": "last"}
    env, other = make_vec(ID, 4, **kwargs), make_vec(ID, 4, **kwargs)
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        env.step(rng.uniform(-1, 1, (4, *env.single_action_space.shape)).astype(np.float32))
    snapshot.restore(other, *snapshot.take(env))
    for _ in range(6):
        action = rng.uniform(-1, 1, (4, *env.single_action_space.shape)).astype(np.float32)
        a, b = env.step(action), other.step(action)
        for key in a[0]:
            np.testing.assert_array_equal(a[0][key], b[0][key])
        np.testing.assert_array_equal(a[1], b[1])


def test_rendering_shows_the_crystal() -> None:
    env = gym.make(ID, render_mode="ansi", min_distance=0)
    env.reset(seed=0)
    assert "empty canvas" in env.render()
    env.step(np.zeros(env.action_space.shape, dtype=np.float32))
    env.step(np.zeros(env.action_space.shape, dtype=np.float32))
    assert "periodic along a, b, c" in env.render()
    image = gym.make(ID, render_mode="rgb_array", min_distance=0)
    image.reset(seed=0)
    for _ in range(2):
        image.step(np.zeros(env.action_space.shape, dtype=np.float32))
    assert image.render().std() > 1


def test_bad_arguments_reach_the_user_as_sentences() -> None:
    with pytest.raises(InputError, match="no such argument"):
        make_vec(ID, 2, template="fcc")
    with pytest.raises(InputError, match="no set of Wyckoff sites of space group 230"):
        gym.make(ID, spacegroup=230, composition="BaTiO3")
    with pytest.raises(InputError, match="has no masks"):
        gym.make(ID).unwrapped.action_masks()
