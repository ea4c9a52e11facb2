"""The covariant agent as a whole: symmetries, masks, exact scores, finite gradients."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3
from torch import Tensor

from megen_gym.actions import Placement
from megen_gym.agents.covariant import CovariantAgent, CovariantSettings, Verdict
from megen_gym.rules import GALLIUM_WINDOWS, PlacementRules

Observation = dict[str, Tensor]
RULES = PlacementRules(2.0, 3.2, GALLIUM_WINDOWS)
SYMBOLS = 3


def make_agent(dtype: torch.dtype = torch.float64, **settings: object) -> CovariantAgent:
    """An agent whose last layers are not small, so that nothing is even by accident."""
    torch.manual_seed(0)
    agent = CovariantAgent(SYMBOLS, CovariantSettings(windows=GALLIUM_WINDOWS, **settings))  # type: ignore[arg-type]
    with torch.no_grad():
        for head in (agent.focus_head, agent.element_head, agent.distance_head.net, agent.direction_head.gate):
            head[-1].weight.mul_(30)
        agent.direction_head.mix.weight.mul_(10)
    return agent.to(dtype)


def observe(positions: Tensor, n_atoms: Tensor, canvas: int = 18, stop: bool = False) -> Observation:
    """Observation of clusters (B, C, 3) of two elements that alternate, in a bag for `canvas` atoms."""
    slot = torch.arange(positions.shape[1])
    occupied = slot < n_atoms[:, None]
    bag = torch.stack([0 * n_atoms, (canvas - n_atoms + 1) // 2, (canvas - n_atoms) // 2], -1)
    available = bag > 0
    available[:, 0] = stop
    return {
        "positions": positions * occupied[..., None],
        "species": (1 + slot % 2) * occupied,
        "bag": bag,
        "focus_mask": occupied.float(),
        "element_mask": available.float(),
    }


def grow(agent: CovariantAgent, batch: int, canvas: int = 18) -> tuple[Tensor, Tensor]:
    """Clusters (B, C, 3) drawn from an agent, and the (C, B) validity of every placement."""
    positions = torch.zeros(batch, canvas, 3, dtype=agent.dtype)
    every, valid = torch.arange(batch), []
    for count in range(canvas):
        n_atoms = torch.full((batch,), count)
        observation = observe(positions, n_atoms, canvas)
        with torch.no_grad():
            action = agent(observation).action
        placed = agent.codec.decode(action, observation["focus_mask"], observation["element_mask"])
        new = positions[every, placed.focus] + placed.distance[:, None] * placed.direction * (count > 0)
        distances = torch.linalg.norm(positions[:, :count] - new[:, None], dim=-1)
        distances = torch.cat([distances, torch.full((batch, 1), torch.inf)], -1)
        valid.append(RULES.valid(distances, n_atoms))
        positions[:, count] = new
    return positions, torch.stack(valid)


@pytest.fixture(scope="module")
def clusters() -> tuple[Tensor, Tensor]:
    """40 clusters (40, 18, 3) in float64 of 1 to 17 atoms each."""
    positions, _ = grow(make_agent(), 40)
    return positions, 1 + torch.arange(40) % 17


def score(agent: CovariantAgent, observation: Observation, action: Tensor) -> Verdict:
    with torch.no_grad():
        verdict: Verdict = agent(observation, action)
    return verdict


def differences(first: Verdict, second: Verdict) -> Tensor:
    """(3, B) of log-probability, entropy and value."""
    return torch.stack([(a - b).abs().flatten() for a, b in zip(first[1:], second[1:], strict=True)])


def turned(observation: Observation, action: Tensor, rotation: Tensor) -> tuple[Observation, Tensor]:
    positions = observation["positions"] @ rotation.T.to(observation["positions"].dtype)
    direction = action[:, 3:] @ rotation.T.to(action.dtype)
    return {**observation, "positions": positions}, torch.cat([action[:, :3], direction], -1)


@pytest.mark.parametrize("beta", [None, -10.0])
def test_turning_the_structure_and_the_action_changes_nothing(
    clusters: tuple[Tensor, Tensor], beta: float | None
) -> None:
    agent = make_agent(beta=beta)
    observation = observe(*clusters)
    action = agent(observation).action.detach()
    rotation = o3.rand_matrix(dtype=torch.float64)
    before, after = score(agent, observation, action), score(agent, *turned(observation, action, rotation))
    assert before.log_prob.std() > 0.5
    assert differences(before, after).max() < 1e-5


def test_turning_in_float32(clusters: tuple[Tensor, Tensor]) -> None:
    agent = make_agent(torch.float32)
    observation = observe(clusters[0].float(), clusters[1])
    action = agent(observation).action.detach()
    before = score(agent, observation, action)
    after = score(agent, *turned(observation, action, o3.rand_matrix()))
    # Where the action lies on the edge of a cell, rounding may push it over.
    assert differences(before, after).quantile(0.95) < 5e-3
    assert differences(before, after)[1:].max() < 5e-3


def test_shifting_and_padding_change_nothing(clusters: tuple[Tensor, Tensor]) -> None:
    agent = make_agent()
    positions, n_atoms = clusters
    observation = observe(positions, n_atoms)
    action = agent(observation).action.detach()
    wide = torch.nn.functional.pad(positions + torch.tensor([3.0, -1.0, 2.0]), (0, 0, 0, 6))
    shifted = observe(wide, n_atoms)
    assert differences(score(agent, observation, action), score(agent, shifted, action)).max() < 1e-5


def test_positions_may_come_flat(clusters: tuple[Tensor, Tensor]) -> None:
    agent = make_agent()
    observation = observe(*clusters)
    action = agent(observation).action.detach()
    flat = {**observation, "positions": observation["positions"].flatten(1)}
    assert differences(score(agent, observation, action), score(agent, flat, action)).max() == 0


def test_renumbering_the_atoms_changes_nothing(clusters: tuple[Tensor, Tensor]) -> None:
    agent = make_agent()
    observation = observe(*clusters)
    action = agent(observation).action.detach()
    masks = observation["focus_mask"], observation["element_mask"]
    placed = agent.codec.decode(action, *masks)
    n_atoms = clusters[1][:, None]
    slot = torch.arange(18).expand(40, -1)
    order = torch.where(slot < n_atoms, n_atoms - 1 - slot, slot)
    renumbered = {
        **observation,
        "positions": observation["positions"].gather(1, order[..., None].expand(-1, -1, 3)),
        "species": observation["species"].gather(1, order),
    }
    focus = n_atoms[:, 0] - 1 - placed.focus
    renamed = agent.codec.encode(Placement(focus, *placed[1:]), *masks)
    assert differences(score(agent, observation, action), score(agent, renumbered, renamed)).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_drawn_is_scored_alike(clusters: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    agent = make_agent(dtype)
    observation = observe(clusters[0].to(dtype), clusters[1], stop=True)
    with torch.no_grad():
        drawn = [agent(observation) for _ in range(5)]
    for verdict in drawn:
        again = score(agent, observation, verdict.action)
        torch.testing.assert_close(again.log_prob, verdict.log_prob, rtol=4e-6, atol=4e-6)
        half = score(agent, {key: value[::2] for key, value in observation.items()}, verdict.action[::2])
        torch.testing.assert_close(half.log_prob, verdict.log_prob[::2], rtol=2e-5, atol=2e-5)
        assert verdict.action.abs().max() <= 1


def test_an_untrained_agent_keeps_the_rules() -> None:
    torch.manual_seed(1)
    settings = CovariantSettings(windows=GALLIUM_WINDOWS)
    _, valid = grow(CovariantAgent(SYMBOLS, settings), 64)
    assert valid.float().mean() >= 0.995


def test_masks_are_kept(clusters: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent()
    observation = observe(*clusters)
    observation["focus_mask"][:, 1:5] = 0
    observation["element_mask"][:16, 1] = 0
    written: list[Placement] = []
    encode = agent._write
    monkeypatch.setattr(
        agent, "_write", lambda placement, canvas: (written.append(placement), encode(placement, canvas))[1]
    )
    for deterministic in (False, False, False, True):
        agent(observation, deterministic=deterministic)
    for placement in written:
        assert observation["focus_mask"].gather(1, placement.focus[:, None]).all()
        assert observation["element_mask"].gather(1, placement.element[:, None]).all()
        assert ((placement.distance > 2.3) & (placement.distance < 3.1)).all()


def test_after_stop_only_focus_and_element_count(clusters: tuple[Tensor, Tensor]) -> None:
    agent = make_agent()
    observation = observe(*clusters, stop=True)
    observation["element_mask"][:, 1:] = 0
    action = agent(observation).action.detach()
    other = action.clone()
    other[:, 2:] = torch.tensor([0.3, 0.0, 1.0, 0.0])
    first, second = score(agent, observation, action), score(agent, observation, other)
    assert differences(first, second).max() == 0
    assert (first.log_prob <= 0).all()


def test_on_an_empty_canvas_only_the_element_counts() -> None:
    agent = make_agent()
    observation = observe(torch.zeros(4, 18, 3), torch.zeros(4, dtype=torch.long))
    verdict = agent(observation)
    element = agent.codec.decode(verdict.action, observation["focus_mask"], observation["element_mask"]).element
    assert torch.equal(score(agent, observation, torch.zeros(4, 6)).value, verdict.value.detach())
    first, second = (score(agent, observation, action).log_prob for action in (-torch.ones(4, 6), torch.ones(4, 6)))
    torch.testing.assert_close(first.exp() + second.exp(), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(verdict.log_prob, torch.where(element == 1, first, second))


def test_one_atom_is_surrounded_evenly() -> None:
    agent = make_agent()
    observation = observe(torch.zeros(6, 18, 3), torch.ones(6, dtype=torch.long))
    action = torch.zeros(6, 6, dtype=torch.float64)
    action[:, 3:] = torch.nn.functional.normalize(torch.randn(6, 3), dim=-1)
    log_prob = score(agent, observation, action).log_prob
    torch.testing.assert_close(log_prob, log_prob[:1].expand(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [None, -10.0])
def test_gradients_are_finite_everywhere(beta: float | None) -> None:
    agent = make_agent(torch.float32, beta=beta)
    positions = torch.zeros(6, 18, 3)
    positions[2, 1] = torch.tensor([0.0, 0.0, 2.6])
    positions[3, :3, 0] = torch.tensor([0.0, 2.6, 5.2])
    positions[4, :3] = torch.tensor([[0.0, 0.0, 0.0], [2.6, 0.0, 0.0], [2.6, 0.0, 0.0]])
    positions[5, :4] = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.1]])
    observation = observe(positions, torch.tensor([0, 1, 2, 3, 3, 4]), stop=True)
    for action in (None, torch.zeros(6, 6), torch.full((6, 6), 0.9)):
        agent.zero_grad()
        verdict = agent(observation, action)
        assert all(torch.isfinite(part).all() for part in verdict)
        (verdict.log_prob.sum() + verdict.entropy.sum() + verdict.value.sum()).backward()
        assert all(torch.isfinite(p.grad).all() for p in agent.parameters() if p.grad is not None)
        assert all(p.grad is not None for p in agent.parameters())


def test_the_mode_is_one_and_likelier_than_a_sample(clusters: tuple[Tensor, Tensor]) -> None:
    agent = make_agent()
    observation = observe(*clusters)
    first, second = agent(observation, deterministic=True), agent(observation, deterministic=True)
    assert torch.equal(first.action, second.action)
    assert first.log_prob.mean() > agent(observation).log_prob.mean() + 1
