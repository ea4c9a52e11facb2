"""CrystalSlots-v0 as users and other libraries see it: checkers, vectors, masks, rewards, the covariant agent."""

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from environment_checks import check_checkers, check_spec, check_vector
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import Greedy, RandomValid
from megen_gym.agents.covariant.agent import CovariantAgent
from megen_gym.agents.covariant.policy import CovariantPolicy
from megen_gym.agents.covariant.settings import CovariantSettings
from megen_gym.agents.ppo.build import policy_arguments
from megen_gym.agents.ppo.settings import Settings
from megen_gym.agents.ppo_train import train
from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.prototypes import PROTOTYPES
from megen_gym.rewards import make_reward
from megen_gym.rewards.calculator import CalculatorReward
from megen_gym.rewards.novelty import NoveltyReward
from megen_gym.rewards.penalties import ContactReward
from megen_gym.rollout import rollout, structures_of
from megen_gym.structure import StructureBatch

REFERENCE = Path(os.environ.get("MEGEN_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))
ID = "CrystalSlots-v0"

CASES: dict[str, dict] = {
    "positions": {},
    "guard off": {"min_distance": 0, "reward": "contacts"},
    "skip": {"template": "rocksalt", "on_refusal": "skip", "reward": "contacts"},
    "focal": {"action": "focal", "template": "fcc"},
    "focal slab": {"action": "focal", "supercell": (2, 1, 1), "keep": 3, "pbc": (True, True, False), "stop": True},
    "species": {"free": "species", "supercell": (2, 1, 1)},
    "alloy": {"free": "species", "composition": "free", "elements": "Cu,Ag,Au", "vacancies": True},
    "both": {"free": "both", "keep": [3]},
    "both free": {"free": "both", "composition": "free", "elements": ["Ni", "Pt"], "reward": "contacts"},
    "both focal": {"free": "both", "action": "focal", "composition": "free", "reward": "contacts"},
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
    assert check_vector(ID, CASES[name] | {"reward": "contacts"}, mode, steps=30) > 2


@pytest.mark.parametrize(
    "name",
    [pytest.param("positions", marks=pytest.mark.slow), "species", "alloy", "both",
     pytest.param("focal", marks=pytest.mark.slow)],
)  # fmt: skip
def test_baselines_play_it(name: str) -> None:
    env = make_vec(ID, 3, **CASES[name])
    played = rollout(RandomValid(env.task, tries=64), env, 6, seed=0)
    greedy = rollout(Greedy(env.task, env.engine.reward, 8, tries=64), env, 6, seed=0)
    if name == "species":
        assert played.valid.all()
        assert greedy.valid.all()
    else:
        assert greedy.episode_return.mean() > played.episode_return.mean()
    assert played.structures.pbc == (True, True, True)
    np.testing.assert_array_equal(played.structures.cell[0], env.task.lattice.cell)
    assert played.atoms()[0].pbc.all()


def test_a_generator_is_judged_whole() -> None:
    env = make_vec(ID, 2, template="fcc", min_distance=0, reward="contacts")
    env.reset(seed=0)
    for step in range(4):
        _, _, terminated, _, infos = env.step(np.zeros((2, 3), dtype=np.float32))
        assert not infos["refused"].any()
        assert terminated.all() == (step == 3)
    assert (infos["final_obs"][0]["species"] > 0).all()


def test_energies_are_those_of_the_periodic_crystal() -> None:
    env = make_vec(ID, 2, free="species", template="fcc", supercell=(2, 1, 1))
    env.reset(seed=0)
    total = np.zeros(2)
    for _ in range(8):
        _, reward, _, _, infos = env.step(np.ones(2, dtype=int))
        total += reward
    atoms = bulk("Cu", cubic=True, a=3.61).repeat((2, 1, 1))
    atoms.calc = EMT()
    lone = Atoms("Cu")
    lone.calc = EMT()
    expected = atoms.get_potential_energy() - 8 * lone.get_potential_energy()
    np.testing.assert_allclose(infos["final_info"]["energy"], expected, atol=1e-9)
    np.testing.assert_allclose(total, -expected, atol=1e-9)


def test_novelty_knows_a_supercell_and_a_slab() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    slab = atoms.copy()
    slab.pbc = (True, True, False)
    high = slab.copy()
    high.cell[2] *= 5
    vectors = [
        NoveltyReward(n_max=3, l_max=2).descriptors(StructureBatch.from_atoms([one]))[0]
        for one in (atoms, atoms.repeat((2, 1, 2)), slab, high)
    ]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-9)
    np.testing.assert_allclose(vectors[2], vectors[3], atol=1e-9)
    assert np.abs(vectors[0] - vectors[2]).max() > 0.01


@pytest.mark.parametrize("template", PROTOTYPES)
def test_every_prototype_plays_by_default(template: str) -> None:
    env = make_vec(ID, 1, template=template)
    expected = CalculatorReward if template in ("fcc", "l10", "l12") else ContactReward
    assert isinstance(env.engine.reward, expected)
    played = rollout(RandomValid(env.task, seed=0, tries=64), env, 1, seed=0)
    assert np.isfinite(played.episode_return).all()


def test_the_default_reward_goes_by_what_is_placed() -> None:
    free = {"template": "hcp", "free": "species", "composition": "free", "elements": "Cu,Ag"}
    assert isinstance(make_vec(ID, 1, **free).engine.reward, CalculatorReward)
    assert isinstance(make_vec(ID, 1, **free, keep=1).engine.reward, ContactReward)


def test_distance_reward_refuses_cells() -> None:
    env = gym.make(ID, reward="distance")
    env.reset(seed=0)
    with pytest.raises(InputError, match="no centroid"):
        env.step(np.zeros(3, dtype=np.float32))


def test_action_masks_of_all_shells() -> None:
    kwargs = CASES["species"]
    single, vector = gym.make(ID, **kwargs).unwrapped, SB3VecEnv.make(ID, 3, seed=0, **kwargs)
    single.reset(seed=0)
    vector.reset()
    assert single.action_masks().tolist() == [False, True, True]
    gold = single.task.symbols.index("Au")
    for _ in range(2):
        single.step(gold)
        vector.step(np.array([gold, gold, 1]))
    assert single.action_masks().tolist() == [False, True, False]
    masks = np.stack(vector.env_method("action_masks"))
    assert masks.tolist() == [[False, True, False], [False, True, False], [False, True, True]]
    assert vector.env_method("action_masks", indices=[2])[0].tolist() == [False, True, True]
    with pytest.raises(InputError, match="free='species'"):
        gym.make(ID).unwrapped.action_masks()


@pytest.mark.parametrize("name", [pytest.param("species", marks=pytest.mark.slow), "alloy"])
def test_maskable_ppo_trains_without_a_refusal(name: str) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = SB3VecEnv.make(ID, 4, seed=0, reward_scale=0.1, **CASES[name])
    model = contrib.MaskablePPO("MultiInputPolicy", env, n_steps=16, batch_size=32, n_epochs=2, seed=0)
    model.learn(256)
    played = rollout(model, make_vec(ID, 4, **CASES[name]), 8, seed=1)
    assert played.valid.all()


def test_plain_ppo_trains_on_coordinates() -> None:
    env = SB3VecEnv.make(ID, 4, seed=0, min_distance=0, reward="contacts")
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, n_epochs=2, seed=0)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(128)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))


SMALL = {"lmax": 2, "channels": 4, "layers": 1, "width": 8, "cells": 128, "refine": 2, "coarse": 16}


def small_settings(task) -> dict:
    return {
        "distance_range": (task.codec.shortest, task.codec.longest),
        "min_distance": task.rules.min_distance,
        "max_distance": task.rules.max_distance,
        "windows": task.rules.windows,
        **SMALL,
    }


@pytest.mark.parametrize("name", [pytest.param("focal", marks=pytest.mark.slow), "focal slab"])
def test_the_covariant_agent_trains_on_it(name: str) -> None:
    env = SB3VecEnv.make(ID, 8, seed=0, reward_scale=0.1, **CASES[name])
    options = small_settings(env.env.task)
    model = PPO(CovariantPolicy, env, n_steps=16, batch_size=64, n_epochs=2, seed=0, policy_kwargs=options)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(256)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


@pytest.mark.slow
def test_stored_and_recomputed_densities_agree() -> None:
    env = SB3VecEnv.make(ID, 8, seed=0, **CASES["focal"])
    options = small_settings(env.env.task)
    model = PPO(CovariantPolicy, env, n_steps=16, batch_size=64, seed=0, learning_rate=0.0, policy_kwargs=options)
    model.learn(128)
    data = next(iter(model.rollout_buffer.get(batch_size=128)))
    _, log_prob, _ = model.policy.evaluate_actions(data.observations, data.actions)
    np.testing.assert_allclose(log_prob.detach(), data.old_log_prob, atol=1e-4)


def crystal(seed: int, cell: np.ndarray, pbc: tuple[bool, bool, bool], atoms: int = 7) -> dict[str, torch.Tensor]:
    """A batch of two observations in float64."""
    rng = np.random.default_rng(seed)
    species = np.zeros((2, 9), dtype=np.int64)
    species[0, :atoms], species[1, : atoms - 2] = rng.integers(1, 3, atoms), rng.integers(1, 3, atoms - 2)
    positions = rng.uniform(size=(2, 9, 3)) @ cell * (species > 0)[..., None]
    return {
        "positions": torch.tensor(positions.reshape(2, -1)),
        "species": torch.tensor(species),
        "bag": torch.tensor([[0, 1, 1], [0, 2, 2]]),
        "focus_mask": torch.tensor((species > 0).astype(np.int8)),
        "element_mask": torch.tensor([[0, 1, 1], [0, 1, 1]]),
        "cell": torch.tensor(np.tile(cell.reshape(-1), (2, 1))),
        "pbc": torch.tensor(np.tile(pbc, (2, 1)).astype(np.int8)),
    }


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False)])
@pytest.mark.parametrize("change", ["shift", "turn"])
def test_the_agent_sees_a_crystal_not_its_frame(change: str, pbc: tuple[bool, bool, bool]) -> None:
    torch.manual_seed(0)
    agent = CovariantAgent(3, CovariantSettings(distance_range=(1.5, 3.0), min_distance=0.8, max_distance=3.2, **SMALL))
    agent = agent.double()
    cell = np.array([[5.0, 0, 0], [1.8, 4.6, 0], [0.4, -1.1, 6.0]])
    seen = crystal(0, cell, pbc)
    placed = seen["species"].numpy() > 0
    positions = seen["positions"].numpy().reshape(2, 9, 3)
    action = np.random.default_rng(1).uniform(-1, 1, (2, 6))
    other, turned = dict(seen), action.copy()
    if change == "shift":
        lattice = Lattice(cell, pbc)
        moved = lattice.wrap(positions + np.array([0.37, -0.81, 0.0]) @ cell)
        assert np.abs(moved - positions - (moved - positions)[0, 0])[placed].max() > 1
    else:
        axes = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
        axes *= np.sign(np.linalg.det(axes))
        moved, turned[:, 3:] = positions @ axes.T, action[:, 3:] @ axes.T
        turned[:, 3:] /= np.abs(turned[:, 3:]).max(1, keepdims=True)
        other["cell"] = torch.tensor(np.tile((cell @ axes.T).reshape(-1), (2, 1)))
    other["positions"] = torch.tensor((moved * placed[..., None]).reshape(2, -1))
    first, second = agent(seen, torch.tensor(action)), agent(other, torch.tensor(turned))
    np.testing.assert_allclose(first.value.detach(), second.value.detach(), atol=1e-5)
    np.testing.assert_allclose(first.log_prob.detach(), second.log_prob.detach(), atol=1e-5)
    without = {key: value for key, value in seen.items() if key not in ("cell", "pbc")}
    assert (agent(without).value - first.value).abs().max() > 1e-4, "the cell is not seen at all"


def test_cells_may_differ_within_a_batch() -> None:
    torch.manual_seed(0)
    agent = CovariantAgent(3, CovariantSettings(distance_range=(1.5, 3.0), min_distance=0.8, max_distance=3.2, **SMALL))
    agent = agent.double()
    a, b = crystal(3, np.diag([5.0, 6, 7]), (True, True, True)), crystal(4, np.diag([4.0, 9, 5]), (True, False, True))
    both = {key: torch.cat([a[key], b[key]]) for key in a}
    action = torch.tensor(np.random.default_rng(5).uniform(-1, 1, (4, 6)))
    parts = [agent(one, action[rows]) for one, rows in ((a, slice(0, 2)), (b, slice(2, 4)))]
    whole = agent(both, action)
    np.testing.assert_allclose(whole.value.detach(), torch.cat([part.value for part in parts]).detach(), atol=1e-9)
    log_prob = torch.cat([part.log_prob for part in parts])
    np.testing.assert_allclose(whole.log_prob.detach(), log_prob.detach(), atol=1e-9)


def test_the_covariant_agent_names_the_action_it_needs() -> None:
    task = make_vec(ID, 1).task
    with pytest.raises(InputError, match="focal"):
        policy_arguments(Settings(env=ID), task)


def test_rendering_shows_the_cell() -> None:
    env = gym.make(ID, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.zeros(3, dtype=np.float32))
    assert env.render().std() > 1
    text = gym.make(ID, render_mode="ansi")
    text.reset(seed=0)
    assert "empty canvas" in text.render()
    text.step(np.zeros(3, dtype=np.float32))
    assert "nearest   3.750" in text.render(), "the atom's own image"
    assert "periodic along a, b, c" in text.render()


def test_structures_of_keeps_the_observed_cell() -> None:
    env = make_vec(ID, 2, pbc=(True, False, True))
    observation, _ = env.reset(seed=0)
    batch = structures_of(observation, env.task.symbols)
    assert batch.pbc == (True, False, True)
    np.testing.assert_allclose(batch.cell, env.task.lattice.cell[None].repeat(2, 0), rtol=1e-6)
    assert make_reward("contacts")(batch, batch).value.tolist() == [0, 0]


def test_the_published_interface_as_a_template(tmp_path: Path) -> None:
    path = REFERENCE / "cuau_interface.extxyz.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    env = make_vec(ID, 2, template=str(path), min_distance=0)
    assert env.task.max_steps == 54
    fractions = env.task.lattice.fractional(env.task.template.positions)
    env.reset(seed=0)
    for place in fractions:
        action = np.tile(2 * place - 1, (2, 1)).astype(np.float32)
        _, _, terminated, _, infos = env.step(action)
        assert infos["valid"].all()
    assert terminated.all()
    energy = infos["final_info"]["energy"]
    write(tmp_path / "again.extxyz", rollout(RandomValid(env.task, tries=4), env, 2, seed=0).atoms())
    assert (energy < -100).all()


@pytest.mark.parametrize(
    ("policy", "env_kwargs"),
    [("covariant", {"action": "focal", "keep": 1}), ("mlp", {"free": "species"})],
)
def test_the_training_script_takes_crystals(policy: str, env_kwargs: dict, tmp_path: Path) -> None:
    small = {"num_channels_hidden": 4, "network_width": 8, "num_interactions": 1, "maxl": 2, "max_num_train_iters": 1}
    steps = {"num_steps": 32, "num_steps_per_iter": 16, "mini_batch_size": 16, "num_envs": 4, "num_eval_episodes": 2}
    settings = Settings(
        env=ID, env_kwargs=env_kwargs, policy=policy, dir=tmp_path, progress=False, log_level="ERROR", **small, **steps
    )
    run = train(settings)
    built = read(run.path / "structures_compared.extxyz", ":")
    assert len(built) == 6
    assert all(atoms.pbc.all() and np.array_equal(atoms.cell, np.eye(3) * 3.75) for atoms in built)
