"""The agent gets better at its task."""

from pathlib import Path

import numpy as np
import pytest

from megen_gym.agents.baselines import RandomValid
from megen_gym.agents.ppo.build import load_policy
from megen_gym.agents.ppo.settings import Settings
from megen_gym.agents.ppo_train import train
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import rollout


@pytest.mark.slow
def test_trained_agent_beats_random_valid_placement(tmp_path: Path) -> None:
    """By five standard errors, on the same held-out episodes, after some 12,000 steps."""
    run = train(Settings(n=8, num_steps=12_288, num_steps_per_iter=1024, dir=tmp_path, progress=False))
    env = make_vec("GaCluster-v0", 64, n=8)
    agent = rollout(load_policy(run), env, 256, seed=99)
    random = rollout(RandomValid(env.task, seed=1), env, 256, seed=99)
    error = np.hypot(agent.episode_return.std(), random.episode_return.std()) / np.sqrt(256)
    assert agent.episode_return.mean() > random.episode_return.mean() + 5 * error
    assert agent.valid.mean() > 0.9
