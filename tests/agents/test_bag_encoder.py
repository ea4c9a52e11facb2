"""The covariant agent with compositions for bags: symmetries, the frozen encoder, its memory, and runs that keep it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from e3nn import o3
from safetensors.torch import load_file, save_file
from torch import Tensor

from megen_gym.agents.covariant import CovariantAgent, CovariantPolicy, CovariantSettings, bag_views
from megen_gym.agents.covariant.bag_views import CompositionView, CountsView, element_kinds
from megen_gym.agents.covariant.canvas import Canvas
from megen_gym.agents.polysrl import model
from megen_gym.agents.polysrl.network import CompositionNetwork, Shape
from megen_gym.agents.ppo.build import make_model, policy_arguments, training_env
from megen_gym.agents.ppo.settings import Settings
from megen_gym.errors import InputError

NUMBERS = (0, 28, 29, 78)
SHAPE = Shape(element_features="megnet16", hidden_dim=16, sto_layers=2)
SMALL: dict[str, Any] = {"channels": 4, "width": 16, "lmax": 2, "cells": 128, "distance_range": (2.3, 3.1)}
Observation = dict[str, Tensor]


class Encoder:
    """Stands for a trained encoder."""

    loads = 0

    def __init__(self) -> None:
        Encoder.loads += 1
        state = torch.get_rng_state()
        torch.manual_seed(7)
        self.network = CompositionNetwork(SHAPE).requires_grad_(False)
        torch.set_rng_state(state)


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.CompositionEncoder, "load", lambda where=None, dir="runs": Encoder())


def make_agent(dtype: torch.dtype = torch.float64, **settings: Any) -> CovariantAgent:
    """An agent whose last layers are not small, so that nothing is even by accident."""
    torch.manual_seed(0)
    options = {**SMALL, "bag_encoder": "composition", "numbers": NUMBERS, **settings}
    agent = CovariantAgent(len(options["numbers"]), CovariantSettings(**options))
    with torch.no_grad():
        for head in (agent.focus_head, agent.distance_head.net, agent.direction_head.gate, agent.element_head.net):
            head[-1].weight.mul_(30)
    return agent.to(dtype)


def observe(dtype: torch.dtype = torch.float64, batch: int = 12, canvas: int = 6) -> Observation:
    """Clusters of 0 to 5 atoms on a lattice that is bent, with what is left of a bag of six."""
    generator = torch.Generator().manual_seed(0)
    n_atoms = torch.arange(batch) % canvas
    slot = torch.arange(canvas)
    occupied = slot < n_atoms[:, None]
    corner = torch.stack([slot // 4, slot // 2 % 2, slot % 2], -1).to(dtype)
    positions = 2.6 * corner + 0.15 * torch.randn(batch, canvas, 3, generator=generator, dtype=dtype)
    species = 1 + torch.randint(0, 3, (batch, canvas), generator=generator)
    left = torch.nn.functional.one_hot(species, 4) * ~occupied[..., None]
    bag = left.sum(1)
    return {
        "positions": positions * occupied[..., None],
        "species": species * occupied,
        "bag": bag,
        "focus_mask": occupied.float(),
        "element_mask": (bag > 0).float(),
    }


def canvas_of(bag: list[list[int]], species: list[list[int]]) -> Canvas:
    atoms = torch.tensor(species)
    return Canvas.from_observation(
        {
            "positions": torch.zeros(*atoms.shape, 3),
            "species": atoms,
            "bag": torch.tensor(bag),
            "focus_mask": (atoms > 0).float(),
            "element_mask": torch.ones(len(bag), len(bag[0])),
        },
        torch.float32,
    )


@torch.no_grad()
def test_turning_and_renumbering_change_nothing() -> None:
    agent, observation = make_agent(), observe()
    action = agent(observation).action
    expected = agent(observation, action)
    rotation = o3.rand_matrix(dtype=torch.float64)
    turned = {**observation, "positions": observation["positions"] @ rotation.T}
    moved = torch.cat([action[:, :3], action[:, 3:] @ rotation.T.to(action.dtype)], -1)
    for one, other in zip(agent(turned, moved)[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    full = observation["species"].gt(0).sum(1) == 5
    some = {name: value[full] for name, value in observation.items()}
    order = torch.tensor([3, 0, 4, 1, 2, 5])
    shuffled = {**some, "positions": some["positions"][:, order], "species": some["species"][:, order]}
    place = agent.codec.decode(action[full], some["focus_mask"], some["element_mask"])
    focus = order.argsort()[place.focus]
    there = agent.codec.encode(place._replace(focus=focus), some["focus_mask"], some["element_mask"])
    for one, other in zip(agent(shuffled, there)[1:], agent(some, action[full])[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_order_of_the_symbols_does_not_matter() -> None:
    order = torch.tensor([0, 3, 1, 2])
    first, second = make_agent(), make_agent(numbers=tuple(NUMBERS[i] for i in order))
    second.load_state_dict(first.state_dict())
    observation = observe()
    renamed = {
        **observation,
        "species": order.argsort()[observation["species"]],
        "bag": observation["bag"][:, order],
        "element_mask": observation["element_mask"][:, order],
    }
    for agent, given in ((first, observation), (second, renamed)):
        canvas, features, whole = agent.look(given)
        logits = agent._judge(torch.cat([features.scalars[canvas.row[:, 0]], whole], -1), canvas.bag)
        agent.seen = (agent.value(given), features.scalars, logits)  # type: ignore[assignment]
    torch.testing.assert_close(first.seen[0], second.seen[0])
    torch.testing.assert_close(first.seen[1], second.seen[1])
    torch.testing.assert_close(first.seen[2][:, order], second.seen[2])


@torch.no_grad()
def test_nothing_has_the_embedding_zero_and_size_shows_only_in_the_size() -> None:
    view = make_agent(torch.float32).view
    assert isinstance(view, CompositionView)
    seen = view(canvas_of([[0, 0, 0, 0], [0, 1, 1, 0], [0, 2, 2, 0]], [[1, 2], [0, 0], [0, 0]])).view(3, 2, -1)
    assert seen.shape[-1] * 2 == view.size
    assert not seen[0, 0].any()
    assert not seen[1:, 1].any()
    torch.testing.assert_close(seen[2, 0, 1:], seen[1, 0, 1:])
    torch.testing.assert_close(seen[0, 1], seen[1, 0])
    assert seen[2, 0, 0] == 2 * seen[1, 0, 0] == 4 / view.scale


@torch.no_grad()
def test_embeddings_are_those_of_the_encoder_each_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    view, network = make_agent(torch.float32).view, Encoder().network
    assert isinstance(view, CompositionView)
    counts = torch.randint(0, 3, (200, 3), generator=torch.Generator().manual_seed(0))
    rows = []
    monkeypatch.setattr(view.network, "forward", lambda *a: (rows.append(len(a[0])), network(*a))[1])
    found = view.embed(counts)
    assert rows == [26]
    torch.testing.assert_close(view.embed(counts.flip(0)).flip(0), found)
    assert rows == [26]
    row = int((counts.sum(1) == 4).nonzero()[0])
    mean, log_std = network(torch.tensor([NUMBERS[1:]]), counts[row][None].float())
    raw = torch.cat([mean[0], log_std.mean()[None], log_std.std()[None]])
    torch.testing.assert_close(found[row] * view.spread + view.centre, raw, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(bag_views, "MEMORY", 5)
    view.embed(counts[:1] + 3)
    assert len(view._place) == 1
    torch.testing.assert_close(view.embed(counts[:4]), found[:4])
    assert len(view._place) <= 5


def ppo(**settings: Any) -> Settings:
    return Settings(
        **{
            "env": "Cluster-v0", "n": None, "formula": "Cu3Ni,Pt2Cu2", "reward": "contacts", "num_envs": 4,
            "num_steps_per_iter": 32, "mini_batch_size": 16, "max_num_train_iters": 2, "bag_encoder": "composition",
            "num_channels_hidden": 4, "network_width": 16, "maxl": 2, **settings,
        }
    )  # fmt: skip


def test_training_moves_everything_but_the_encoder() -> None:
    chosen = ppo(entropy_coef=0.01)
    learner = make_model(chosen, training_env(chosen))
    before = {name: value.clone() for name, value in learner.policy.state_dict().items()}
    learner.learn(64)
    frozen = [name for name in before if ".view." in name and "project" not in name]
    assert len(frozen) > 10
    for name, value in learner.policy.state_dict().items():
        assert torch.equal(value, before[name]) == (name in frozen), name
    for batch in learner.rollout_buffer.get(16):
        values, log_prob, entropy = learner.policy.evaluate_actions(batch.observations, batch.actions)
        assert all(torch.isfinite(one).all() for one in (values, log_prob, entropy))


def test_recomputed_log_probs_equal_the_stored_ones() -> None:
    chosen = ppo(learning_rate=0.0)
    learner = make_model(chosen, training_env(chosen))
    learner.learn(32)
    for batch in learner.rollout_buffer.get(16):
        _, log_prob, _ = learner.policy.evaluate_actions(batch.observations, batch.actions)
        torch.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-5, atol=1e-5)


def test_a_policy_is_rebuilt_without_the_encoder(tmp_path: Path) -> None:
    chosen = ppo()
    env = training_env(chosen)
    policy = make_model(chosen, env).policy
    assert policy.composition_shape == asdict(SHAPE)
    observation = env.reset()
    expected = policy.predict(observation, deterministic=True)[0]
    save_file(policy.state_dict(), tmp_path / "weights.safetensors")

    chosen.composition_shape = json.loads(json.dumps(policy.composition_shape))
    loads = Encoder.loads
    other = make_model(chosen, env).policy
    with pytest.raises(InputError, match="load the run's weights"):
        other.predict(observation)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(other.predict(observation, deterministic=True)[0], expected)
    settings = json.loads(json.dumps(asdict(policy.settings)))
    again = CovariantPolicy(policy.observation_space, policy.action_space, lambda _: 1e-3, **settings)
    again.load_state_dict(policy.state_dict())
    np.testing.assert_array_equal(again.predict(observation, deterministic=True)[0], expected)
    assert Encoder.loads == loads


def test_weights_fit_a_task_of_other_symbols() -> None:
    chosen, other = ppo(), ppo(formula="Al2Au2,AgPd")
    policy = make_model(chosen, training_env(chosen)).policy
    env = training_env(other)
    stranger = make_model(other, env).policy
    stranger.load_state_dict(policy.state_dict())
    assert env.action_space.contains(stranger.predict(env.reset())[0][0])


def test_counts_are_as_ever() -> None:
    agent = CovariantAgent(3, CovariantSettings(**SMALL))
    assert isinstance(agent.view, CountsView)
    assert not [name for name in agent.state_dict() if "view" in name]
    canvas = canvas_of([[0, 3, 1], [0, 0, 0]], [[1, 2], [1, 1]])
    expected = torch.tensor([[0, 3 / 18, 1 / 18, 0, 0.75, 0.25], [0] * 6])
    torch.testing.assert_close(agent.view(canvas), expected)
    env = training_env(ppo())
    assert "numbers" not in policy_arguments(ppo(bag_encoder="counts"), env.env.task)


def test_elements_are_told_by_what_they_are() -> None:
    kinds = element_kinds(np.array([0, 47, 79, 13, 8]))
    assert kinds[:, 0].tolist() == [1, 0, 0, 0, 0]
    assert not kinds[0, 1:].any()
    distance = np.linalg.norm(kinds[1] - kinds[2:], axis=1)
    assert 0 < distance[0] < distance[1] < distance[2]


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="composition"):
        CovariantSettings(bag_encoder="compositions")
    with pytest.raises(InputError, match="for 3 symbols"):
        CovariantAgent(3, CovariantSettings(bag_encoder="composition", numbers=NUMBERS))
    with pytest.raises(InputError, match="expected 0"):
        CovariantAgent(2, CovariantSettings(bag_encoder="composition", numbers=(29, 28)))
    with pytest.raises(InputError, match="Lr"):
        CovariantAgent(2, CovariantSettings(bag_encoder="composition", numbers=(0, 103)))
    chosen = ppo(policy="mlp")
    with pytest.raises(InputError, match="--policy covariant"):
        make_model(chosen, training_env(chosen))


@torch.no_grad()
def test_the_bundled_encoder_tells_mixtures_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    view = make_agent(torch.float32).view
    assert isinstance(view, CompositionView)
    found = view.embed(torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1], [3, 1, 0], [2, 2, 0]]))
    distance = torch.cdist(found, found)
    assert distance[0, 4] == 0
    assert distance[:4, :4][~torch.eye(4, dtype=torch.bool)].min() > 0.5
    assert found.square().mean() < 25
