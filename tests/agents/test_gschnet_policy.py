"""G-SchNet as a policy: probabilities that sum to one and are those of what is played, in every cluster environment."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

import megen_gym
from megen_gym.actions import Placement
from megen_gym.agents.gschnet.conditions import Condition, Conditioning
from megen_gym.agents.gschnet.model import Model
from megen_gym.agents.gschnet.network import GSchNet, Shape
from megen_gym.agents.gschnet.policy import GSchNetPolicy, stopping
from megen_gym.agents.gschnet.preparing import Connectivity
from megen_gym.agents.gschnet.sampling import Drawing
from megen_gym.errors import InputError
from megen_gym.rollout import rollout

assert megen_gym
TYPES = (1, 6, 7, 8, 9)
SAME_STEP = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
COARSE = Drawing(grid_spacing=0.5, temperature_term=1.0)


def model_of(types: tuple[int, ...] = TYPES, conditions: tuple[Condition, ...] = (), **sizes: float) -> Model:
    torch.manual_seed(0)
    shape = Shape(types, features=8, n_interactions=2, head_hidden=16, **sizes)  # type: ignore[arg-type]
    network = GSchNet(shape, Conditioning(conditions) if conditions else None).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return Model(network, Connectivity(), 9, 0.7)


def organic(num_envs: int = 1, **arguments: object) -> gym.vector.VectorEnv:
    return gym.make_vec("Molecule-v0", num_envs=num_envs, **({"reward": "contacts"} | arguments))


def test_stopping_is_the_sum_over_all_orders() -> None:
    stop = torch.rand(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, all_stop = stopping(stop, torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.long), 1)
    expected = np.zeros(5)
    for order in itertools.permutations(range(5)):
        chance = 1 / 120
        for focus in order:
            expected[focus] += chance
            chance *= float(stop[focus])
    np.testing.assert_allclose(before, expected, rtol=1e-12)
    assert float(all_stop) == pytest.approx(float(stop.prod()))


@pytest.mark.parametrize("arguments", [{"formula": "free", "max_n_atoms": 6}, {"formula": "C2HO", "stop": False}])
@pytest.mark.parametrize("closed", [False, True])
def test_probabilities_of_all_actions_sum_to_one(arguments: dict[str, object], closed: bool) -> None:
    env = organic(start="g2:H2O", symbols=("X", "H", "C", "O"), **arguments)
    policy = GSchNetPolicy(model_of(), env, drawing=COARSE)
    observation, _ = env.reset(seed=0)
    _, memory = policy.predict(observation, None, np.array([True]))
    memory.closed[:, :3] = [closed, False, False]
    voxels = policy.grower.grid.voxels[policy.grower.grid.inside].double().numpy()
    elements = np.flatnonzero(observation["element_mask"][0])
    total, stops = [], 0
    for focus, element in itertools.product(range(3), elements):
        stops += element == 0
        if element == 0 and stops > 1:
            continue
        places = voxels if element else voxels[:1]
        size = len(places)
        distance = np.linalg.norm(places, axis=1)
        masks = [np.repeat(observation[name], size, axis=0) for name in ("focus_mask", "element_mask")]
        choice = Placement(np.full(size, focus), np.full(size, element), distance, places / distance[:, None])
        many = {name: np.repeat(value, size, axis=0) for name, value in observation.items()}
        state = type(memory)(np.repeat(memory.closed, size, 0), np.repeat(memory.origin, size, 0))
        action = policy.task.codec.encode(choice, *masks)
        total.append(policy.log_prob(many, action, state).detach().exp().sum())
    assert float(sum(total)) == pytest.approx(1.0, abs=2e-3)


def test_actions_come_as_often_as_their_probability_says() -> None:
    size = 3000
    env = organic(size, formula="free", max_n_atoms=6, start="g2:H2O", symbols=("X", "H", "C", "O"))
    policy = GSchNetPolicy(model_of(), env, drawing=COARSE)
    observation, _ = env.reset(seed=0)
    action, _ = policy.predict(observation, None, np.ones(size, dtype=bool))
    chance = policy.log_prob(observation, action).detach().exp().numpy()
    drawn, first, counts = np.unique(action.round(4), axis=0, return_index=True, return_counts=True)
    expected = size * chance[first]
    assert len(drawn) > 20
    often = expected > 8
    z = (counts[often] - expected[often]) / np.sqrt(expected[often])
    assert np.abs(z).max() < 5
    assert 0.6 < (z**2).mean() < 1.6


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Molecule-v0", {"formula": "C2H6O"}),
        ("Molecule-v0", {"formula": "free", "max_n_atoms": 7}),
        ("Molecule-v0", {"formula": "CH4,H2O", "start": "g2:H2O"}),
        ("Molecule-v0", {"formula": "H3", "on_refusal": "skip"}),
    ],
)
def test_whole_episodes(name: str, arguments: dict[str, object]) -> None:
    env = gym.make_vec(name, num_envs=3, **SAME_STEP, reward="contacts", **arguments)
    policy = GSchNetPolicy(model_of(), env)
    done = rollout(policy, env, 5, seed=0)
    assert len(done.structures) == 5
    assert (done.structures.n_atoms > 0).all()


def test_gallium_is_played_with_a_model_of_gallium() -> None:
    env = gym.make_vec("GaCluster-v0", num_envs=2, **SAME_STEP, n=5, reward="contacts")
    model = model_of((31,), placement_cutoff=3.1, prediction_cutoff=6.0)
    done = rollout(GSchNetPolicy(model, env, drawing=Drawing(0.2, 2.3)), env, 4, seed=0)
    assert done.structures.n_atoms.max() > 1


def test_the_seed_and_deterministic_decide() -> None:
    env = organic(2, formula="C2H6O", start="g2:CH4")
    observation, _ = env.reset(seed=0)
    actions = [GSchNetPolicy(model_of(), env, seed=seed).predict(observation)[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
    best = [GSchNetPolicy(model_of(), env, seed=seed).predict(observation, deterministic=True)[0] for seed in (1, 2)]
    np.testing.assert_array_equal(best[0], best[1])


def test_log_prob_has_gradients() -> None:
    env = organic(2, formula="C2H6O", start="g2:CH4")
    model = model_of()
    policy = GSchNetPolicy(model, env)
    observation, _ = env.reset(seed=0)
    action, _ = policy.predict(observation)
    value = policy.log_prob(observation, action)
    assert value.shape == (2,)
    value.sum().backward()
    gradients = [p.grad for p in model.network.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


def test_a_single_observation_and_a_condition() -> None:
    env = gym.make("Molecule-v0", formula="CH4", reward="contacts")
    conditions = (Condition.of("gap", np.linspace(1.0, 9.0, 20), "eV"),)
    policy = GSchNetPolicy(model_of(conditions=conditions), env, condition={"gap": 4.0})
    observation, _ = env.reset(seed=0)
    action, memory = policy.predict(observation)
    assert action.shape == (6,)
    assert memory.closed.shape[0] == 1
    with pytest.raises(InputError, match="gap"):
        GSchNetPolicy(model_of(conditions=conditions), env)


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        ("CrystalWyckoff-v0", {}, "Molecule-v0, Cluster-v0"),
        ("Cluster-v0", {"formula": "Au3"}, "Au, which the model has never seen"),
        ("Molecule-v0", {"distance_range": (1.8, 2.5), "max_distance": 2.6}, "distance_range"),
    ],
)
def test_environments_that_do_not_fit_are_refused(env: str, arguments: dict[str, object], message: str) -> None:
    made = gym.make(env, reward="contacts", **arguments)
    with pytest.raises(InputError, match=message):
        GSchNetPolicy(model_of(), made)
