"""Trained agents in the arena."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from megen_gym import runs
from megen_gym.agents.ppo.settings import Settings
from megen_gym.agents.ppo_train import train
from megen_gym.arena.cell import Cell, run_cell
from megen_gym.arena.compare import compare
from megen_gym.arena.found import load_finds


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return train(
        Settings(
            env="LJCluster-v0", n=5, policy="mlp", num_steps=32, num_envs=4, num_steps_per_iter=32, mini_batch_size=32,
            num_eval_episodes=2, progress=False, log_level="WARNING", dir=tmp_path_factory.mktemp("runs"),
        )
    )  # fmt: skip


def test_seeds_make_a_difference_to_a_trained_agent(agent: runs.Run, tmp_path: Path) -> None:
    values = []
    for number, seed in enumerate((0, 1, 1)):
        cell = Cell("LJCluster-v0", {"n": 5}, "ppo", seed, 150, run=str(agent.path))
        run_cell(cell, tmp_path / str(number))
        values.append(load_finds(tmp_path / str(number)).value[1:].tolist())
    assert values[0] != values[1]
    assert values[1] == values[2]


def test_a_trained_policy_within_another_is_found_and_part_of_the_cell(agent: runs.Run, tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        folder = compare(
            "LJCluster-v0", "5", "regrow", budget=20, seeds="0", output=tmp_path / "out", dir=agent.path.parent,
            policy_kwargs={"regrow": {"policy": "ppo@newest"}}, progress=False,
        )  # fmt: skip
        keys.append({path.name for path in (folder / "cells").iterdir()})
        weights = load_file(agent.path / runs.WEIGHTS)
        save_file({name: tensor + 0.01 for name, tensor in weights.items()}, agent.path / runs.WEIGHTS)
    assert keys[0] < keys[1]
