"""Molecule-v0: bags, free composition, substructures, tasks by name, and what users can get wrong."""

import importlib.util
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from ase.build import molecule as g2_molecule
from ase.data import covalent_radii
from ase.formula import Formula
from ase.io import write
from environment_checks import check_checkers, check_spec, check_vector
from gymnasium.vector import AutoresetMode

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid
from megen_gym.envs import snapshot
from megen_gym.envs.molecules import TASKS
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.rewards.penalties import BOND, CLASH
from megen_gym.rollout import rollout
from megen_gym.rules import pair_distances

ID = "Molecule-v0"
CASES: dict[str, dict] = {
    "fixed": {"reward": "contacts"},
    "several": {"formula": ["CH4", "H2O"], "max_n_atoms": 7, "reward": "distance"},
    "random": {"formula": "C7H8N2O2", "size_range": (3, 6), "reward": "contacts"},
    "free": {"formula": "free", "max_n_atoms": 6, "reward": "molecule_valid"},
    "substructure": {"formula": None, "start": "g2:C6H6", "max_n_atoms": 15, "reward": "contacts"},
    "solvated": {"task": "molgym:solvation", "reward": "distance"},
}
needs_xtb = pytest.mark.skipif(importlib.util.find_spec("tblite") is None, reason="the extra xtb is not installed")


@pytest.mark.parametrize("name", CASES)
def test_both_checkers_are_silent(name: str) -> None:
    check_checkers(ID, CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_spec_survives_json_and_seeds_repeat(name: str) -> None:
    check_spec(ID, CASES[name])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("name", CASES)
def test_vector_equals_gymnasiums_loop_over_singles(name: str, mode: AutoresetMode) -> None:
    assert check_vector(ID, CASES[name], mode, tries=None) > 2


def test_free_composition_ends_with_a_stop_or_a_full_canvas() -> None:
    env = make_vec(ID, 16, **CASES["free"])
    played = rollout(RandomValid(env.task, seed=0), env, 160, seed=0)
    sizes = played.structures.n_atoms
    assert set(sizes.tolist()) == set(range(1, 7))
    counts = (played.structures.species[..., None] == np.arange(6)).sum(1)
    assert len(np.unique(counts, axis=0)) > 100
    assert counts[:, 1:].max() > 2
    assert (played.length[sizes < 6] == sizes[sizes < 6] + 1).all()


def test_any_element_as_often_as_there_is_room() -> None:
    env = gym.make(ID, formula="free", max_n_atoms=5, on_refusal="skip", reward="contacts").unwrapped
    observation, _ = env.reset(seed=0)
    assert observation["element_mask"].tolist() == [0, 1, 1, 1, 1, 1]
    done = False
    rng = np.random.default_rng(0)
    while not done:
        assert observation["bag"][2] == 5 - (observation["species"] > 0).sum()
        assert observation in env.observation_space
        action = np.r_[0, -0.3, rng.uniform(-1, 1, 4)].astype(np.float32)
        if not (observation["species"] > 0).any():
            action[1] = -0.5
        observation, _, done, _, _ = env.step(action)
    assert env.structure.get_chemical_formula() == "C5"


def test_stop_is_refused_on_an_empty_canvas_only() -> None:
    env = gym.make(ID, **CASES["free"]).unwrapped
    observation, _ = env.reset(seed=0)
    assert observation["element_mask"][0] == 0
    stop = np.array([0, -1, 0, 1, 0, 0], dtype=np.float32)
    observation, _, over, _, info = env.step(stop)
    assert (over, info["placed"], observation["element_mask"][0]) == (False, True, 1)
    _, reward, over, _, info = env.step(stop)
    assert (over, info["stopped"], reward) == (True, True, 0.0)
    assert len(env.structure) == 1


def test_a_fixed_bag_has_no_stop_unless_asked_for() -> None:
    assert gym.make(ID, reward="contacts").reset(seed=0)[0]["element_mask"].tolist() == [0, 1, 1, 0, 1, 0]
    env = gym.make(ID, start="g2:CH4", formula="C", stop=True, reward="contacts")
    assert env.reset(seed=0)[0]["element_mask"][0] == 1


@pytest.mark.parametrize("source", ["g2:C6H6", "file"])
def test_a_substructure_grows_and_keeps_its_shape(source: str, tmp_path: Path) -> None:
    benzene = g2_molecule("C6H6")
    if source == "file":
        source = str(tmp_path / "benzene.xyz")
        write(source, benzene)
    env = make_vec(ID, 4, **CASES["substructure"] | {"start": source, "stop": False})
    played = rollout(RandomValid(env.task, seed=0), env, 12, seed=0)
    assert (played.n_start == 12).all()
    assert (played.structures.n_atoms == 15).all()
    for atoms in played.structures.to_atoms():
        assert atoms.get_chemical_symbols()[:12] == benzene.get_chemical_symbols()
        shape = atoms[:12].get_all_distances()
        np.testing.assert_allclose(shape, benzene.get_all_distances(), atol=1e-5)


def test_random_bags_have_an_even_number_of_electrons() -> None:
    env = make_vec(ID, 64, formula="C7H8N2O2", size_range=(3, 9), reward="contacts")
    bags = [env.reset(seed=0 if i == 0 else None)[0]["bag"] for i in range(8)]
    counts = np.concatenate(bags)
    assert (counts @ [0, 1, 6, 7, 8, 9] % 2 == 0).all()
    assert set(counts.sum(1).tolist()) == set(range(3, 10))
    assert len(np.unique(counts, axis=0)) > 100
    np.testing.assert_allclose(counts.sum(0) / counts.sum(), np.array([0, 8, 7, 2, 2, 0]) / 19, atol=0.03)


def test_elements_of_bag_and_start_are_added() -> None:
    assert gym.make(ID, formula="SF6", reward="contacts").unwrapped.task.symbols == ("X", *"HCNOFS")
    env = gym.make(ID, formula="free", start="g2:SiH4", max_n_atoms=7, reward="contacts").unwrapped
    assert env.task.symbols == ("X", "H", "C", "N", "O", "F", "Si")
    assert env.task.codec.longest == pytest.approx(2.2 * covalent_radii[14], abs=0.01)
    assert gym.make(ID, reward="contacts").unwrapped.task.codec.longest == 1.7
    assert gym.make(ID, symbols="X,C,H,O", reward="contacts").unwrapped.task.symbols == ("X", "C", "H", "O")


def test_a_random_action_often_lands_on_a_bond() -> None:
    env = make_vec(ID, 64, formula="free", max_n_atoms=9, stop=False, on_refusal="skip", reward="contacts")
    env.reset(seed=0)
    env.action_space.seed(0)
    tried = bonded = 0
    for _ in range(30):
        before = env.engine.structures
        env.step(env.action_space.sample())
        after = env.engine.structures
        placed = np.flatnonzero((after.n_atoms > before.n_atoms) & (before.n_atoms > 0))
        tried += int((before.n_atoms > 0).sum())
        last = after.n_atoms[placed] - 1
        rows = np.arange(len(placed))
        radii = covalent_radii[after.numbers[placed]]
        ratio = pair_distances(after.positions, after.mask)[placed][rows, last] / (radii + radii[rows, last][:, None])
        bonded += int(((ratio < BOND).any(1) & (ratio > CLASH).all(1)).sum())
    assert bonded / tried > 0.25


@pytest.mark.parametrize("name", TASKS)
def test_molgyms_tasks_are_there(name: str) -> None:
    env = make_vec(ID, 2, task=name, reward="contacts")
    assert env.engine.floor == env.engine.invalid == -16.33
    played = rollout(RandomValid(env.task, seed=0), env, 2, seed=0)
    assert (played.structures.n_atoms == env.task.canvas_size).any() or "bag" in name
    formulas = [atoms.get_chemical_formula("hill") for atoms in played.structures.to_atoms()]
    wanted = {Formula(part).format("hill") for part in TASKS[name]["formula"].split(",")}
    assert "size_range" in TASKS[name] or set(formulas) <= (wanted if "start" not in TASKS[name] else {"CH12O6"})


def test_what_is_given_prevails_over_the_task() -> None:
    env = make_vec(ID, 1, task="molgym:SF6", min_distance=1.0, min_reward=-2.0, reward="contacts")
    assert (env.task.rules.min_distance, env.task.codec.longest, env.engine.floor) == (1.0, 2.1, -2.0)
    assert gym.make(ID, task="molgym:SF6", min_reward=-3.0, reward="contacts").unwrapped.engine.floor == -3.0


@pytest.mark.parametrize("last", ["stopped", "refused"])
def test_validity_is_told_at_the_last_step_however_it_ends(last: str) -> None:
    env = gym.make(ID, start="g2:CH4", formula="free", max_n_atoms=9, reward="molecule_valid").unwrapped
    env.reset(seed=0)
    fifth = np.array([-1, -0.6, 1, 0, 0, 1], dtype=np.float32)
    _, reward, over, _, info = env.step(fifth)
    assert env.structure.get_chemical_formula() == "CH5"
    assert (over, info["placed"], info["molecule_valid"], reward) == (False, True, 0.0, -1.0)
    _, reward, over, _, info = env.step(fifth if last == "refused" else np.array([0, -1, 0, 0, 0, 0], dtype=np.float32))
    assert (over, info["placed"], info[last], info["molecule_valid"]) == (True, False, True, 0.0)


def test_a_running_vector_is_saved_and_restored() -> None:
    env, other = make_vec(ID, 4, **CASES["free"]), make_vec(ID, 4, **CASES["free"])
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        env.step(rng.uniform(-1, 1, (4, 6)).astype(np.float32))
    snapshot.restore(other, *snapshot.take(env))
    for _ in range(10):
        action = rng.uniform(-1, 1, (4, 6)).astype(np.float32)
        for mine, theirs in zip(env.step(action)[1:4], other.step(action)[1:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)


WRONG: dict[str, tuple[dict, str]] = {
    "start too large": ({"start": "g2:C6H6", "max_n_atoms": 6}, "start has 12 atoms and max_n_atoms is 6.*=13"),
    "start fills it": ({"start": "g2:C6H6", "formula": None, "max_n_atoms": 12}, "no room for another atom"),
    "free without a size": ({"formula": "free"}, "max_n_atoms was not given"),
    "free with sizes": ({"formula": None, "max_n_atoms": 9, "size_range": (2, 4)}, "size_range is .2, 4. but formula"),
    "free with refills": ({"formula": "free", "max_n_atoms": 9, "refills": 2}, "refills is 2 but formula is free"),
    "two sizes": ({"max_n_atoms": 9, "canvas_size": 10}, "max_n_atoms is 9 and canvas_size 10"),
    "bag too large": ({"formula": "C2H6O", "max_n_atoms": 5}, "up to 9 atoms but the canvas holds 5"),
    "no size": ({"formula": "free", "max_n_atoms": 0}, "max_n_atoms is 0"),
    "half a size": ({"formula": "free", "max_n_atoms": 4.5}, "max_n_atoms is 4.5"),
    "no molecule": ({"start": "g2:C6H7", "max_n_atoms": 15}, "no molecule 'C6H7'; did you mean 'C6H6'"),
    "no file": ({"start": "nothing.xyz"}, "nothing.xyz"),
    "no formula": ({"formula": "C2H6?"}, "write it like C2H6O"),
    "no element": ({"formula": "C2Hx"}, "Hx"),
    "not among the symbols": ({"formula": "SF6", "symbols": "X,H,F"}, "unknown element S"),
    "start not among them": ({"start": "g2:H2S", "symbols": "X,H,O", "formula": "O"}, "S"),
    "no task": ({"task": "molgym:CH4"}, "unknown task 'molgym:CH4'; did you mean 'molgym:CH4O'"),
    "distances": ({"distance_range": (1.7, 0.7)}, "distance_range"),
    "no property": ({"reward": "target", "reward_kwargs": {"property": "gab", "target": 4}}, "did you mean 'gap'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_answered_in_a_sentence(name: str) -> None:
    kwargs, said = WRONG[name]
    for make in (lambda **k: gym.make(ID, **k), lambda **k: make_vec(ID, 2, **k)):
        with pytest.raises(InputError, match=said) as error:
            make(**{"reward": "contacts"} | kwargs)
        assert "\n" not in str(error.value)


@needs_xtb
def test_the_return_is_the_binding_energy() -> None:
    env = make_vec(ID, 4, formula="CH4")
    played = rollout(RandomValid(env.task, seed=0), env, 4, seed=0)
    np.testing.assert_allclose(played.episode_return, -played.energy, rtol=1e-6)
    assert env.engine.reward.settings.kwargs["method"] == "GFN2-xTB"
