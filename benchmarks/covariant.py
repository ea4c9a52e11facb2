"""Speed and validity of the covariant agent on one core, beside the published figures of MolGym's agent in MeGen.

python benchmarks/covariant.py        # prints CPU time per observation, so that other jobs on the machine matter little
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from megen_gym.agents.covariant import CovariantAgent, CovariantSettings
from megen_gym.rules import GALLIUM_WINDOWS, PlacementRules

CANVAS = 18
BATCH = 64
RULES = PlacementRules(2.0, 3.2, GALLIUM_WINDOWS)
PUBLISHED = {"rollout": 200.0, "update": 600.0}
"""ms of one CPU core per observation: 0.20-0.25 cpu-s a step, and 0.60 cpu-s forward and backward a sample."""


def observe(positions: Tensor, n_atoms: Tensor) -> dict[str, Tensor]:
    """Observation of gallium clusters (B, C, 3) of n_atoms (B,) atoms."""
    occupied = (torch.arange(CANVAS) < n_atoms[:, None]).float()
    bag = torch.stack([torch.zeros(len(n_atoms)), CANVAS - n_atoms.float()], -1)
    return {
        "positions": positions * occupied[..., None],
        "species": occupied,
        "bag": bag,
        "focus_mask": occupied,
        "element_mask": torch.tensor([[0.0, 1.0]]).expand(len(n_atoms), -1),
    }


def grow(agent: CovariantAgent, batch: int) -> tuple[Tensor, Tensor]:
    """Clusters (B, C, 3) drawn atom by atom, and (C, B) which placements kept the rules."""
    positions, every = torch.zeros(batch, CANVAS, 3), torch.arange(batch)
    valid = []
    for count in range(CANVAS):
        n_atoms = torch.full((batch,), count)
        observation = observe(positions, n_atoms)
        with torch.no_grad():
            action = agent(observation).action
        placed = agent.codec.decode(action, observation["focus_mask"], observation["element_mask"])
        new = positions[every, placed.focus] + placed.distance[:, None] * placed.direction * (count > 0)
        distances = torch.linalg.norm((positions[:, :count] - new[:, None]).double(), dim=-1)
        valid.append(RULES.valid(torch.nn.functional.pad(distances, (0, 1), value=torch.inf), n_atoms))
        positions[:, count] = new
    return positions, torch.stack(valid)


def milliseconds(work: Callable[[], object], repeats: int = 20) -> float:
    """Median CPU time of one call per observation."""
    times = []
    for _ in range(repeats + 2):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return 1000 * statistics.median(times[2:]) / BATCH


def main() -> None:
    """Print one table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("settings                       parameters  rollout ms/obs (x)     update ms/sample (x)   valid %  of")
    for settings in ({}, {"beta": -10.0}, {"lmax": 4}, {"channels": 32}, {"cells": 512}):
        agent = CovariantAgent(2, CovariantSettings(windows=GALLIUM_WINDOWS, **settings))  # type: ignore[arg-type]
        clusters, valid = grow(agent, 512 if not settings else BATCH)
        observation = observe(clusters[:BATCH], torch.randint(1, CANVAS, (BATCH,)))
        with torch.no_grad():
            action = agent(observation).action

        def roll_out(agent: CovariantAgent = agent, observation: dict[str, Tensor] = observation) -> None:
            with torch.no_grad():
                agent(observation)

        def update(
            agent: CovariantAgent = agent, observation: dict[str, Tensor] = observation, action: Tensor = action
        ) -> None:
            agent.zero_grad()
            verdict = agent(observation, action)
            (verdict.log_prob.mean() + verdict.entropy.mean() + (verdict.value**2).mean()).backward()

        forward, both = milliseconds(roll_out), milliseconds(update)
        parameters = sum(p.numel() for p in agent.parameters())
        print(
            f"{settings or 'default'!s:30} {parameters:10,}  {forward:8.2f} ({PUBLISHED['rollout'] / forward:5.0f})"
            f"        {both:8.2f} ({PUBLISHED['update'] / both:5.0f})"
            f"     {100 * valid.float().mean():11.2f}  {valid.numel()}"
        )
    print(f"batches of {BATCH}, sizes 1..{CANVAS - 1}, one thread; (x): times faster than {PUBLISHED}")


if __name__ == "__main__":
    main()
