"""RLlib and TorchRL on every registered environment: their own checks, then a few steps of learning.

Both are large; where they are not installed (``pip install -c constraints.txt "megen-gym[rl]"``) the tests are skipped.
"""

from __future__ import annotations

import secrets
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import megen_gym  # noqa: F401

pytestmark = pytest.mark.slow

IDS = [name for name, spec in gym.registry.items() if str(spec.entry_point).startswith("megen_gym.")]
KWARGS: dict[str, dict[str, Any]] = {"Cluster-v0": {"formula": "Au2Cu3"}, "Molecule-v0": {"reward": "contacts"}}
"""For those that have no defaults, or slow ones."""

CASES = [
    *((name, KWARGS.get(name, {})) for name in IDS),
    ("CrystalSlots-v0", {"free": "species"}),
    ("GaCluster-v0", {"start": "seeds", "stop": True, "on_refusal": "skip"}),
]
each_case = pytest.mark.parametrize(("env_id", "kwargs"), CASES, ids=[" ".join([name, *kw]) for name, kw in CASES])


@pytest.fixture(autouse=True)
def _what_our_code_warns_of_fails() -> Iterator[None]:
    """Also what Gymnasium has to say about the environments."""
    with warnings.catch_warnings():
        for module in ("megen_gym", "gymnasium"):
            warnings.filterwarnings("error", module=module)
        yield


def test_the_registry_is_covered() -> None:
    assert {"Cluster-v0", "GaCluster-v0", "Molecule-v0", "CrystalSlots-v0", "CrystalWyckoff-v0"} <= set(IDS)


@each_case
def test_torchrl_checks(env_id: str, kwargs: dict[str, Any]) -> None:
    envs = pytest.importorskip("torchrl.envs", reason="TorchRL is not installed, see the extra 'rl'")
    env = envs.GymEnv(env_id, **kwargs)
    envs.check_env_specs(env, seed=0)
    played = env.rollout(3)
    assert set(env.observation_spec.keys()) == set(gym.make(env_id, **kwargs).observation_space)
    assert played["next", "reward"].isfinite().all()


@each_case
def test_torchrl_checks_the_vector_environment(env_id: str, kwargs: dict[str, Any]) -> None:
    """In the mode that it prefers; in SAME_STEP it leaves the last observations of dictionaries at zero."""
    envs = pytest.importorskip("torchrl.envs", reason="TorchRL is not installed, see the extra 'rl'")
    env = envs.GymWrapper(gym.make_vec(env_id, num_envs=3, autoreset_mode=AutoresetMode.DISABLED, **kwargs))
    assert env.batch_size == (3,)
    envs.check_env_specs(env, seed=0)
    assert env.rollout(6, break_when_any_done=False)["next", "reward"].isfinite().all()


def ppo_config(env_id: str, kwargs: dict[str, Any], mode: str) -> Any:
    """A tiny PPO of RLlib in one process; its networks want the observation as one vector."""
    ppo = pytest.importorskip("ray.rllib.algorithms.ppo", reason="RLlib is not installed, see the extra 'rl'")
    from ray.rllib.connectors.env_to_module import FlattenObservations

    return (
        ppo.PPOConfig()
        .environment(env_id, env_config=kwargs)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=4,
            rollout_fragment_length=16,
            gym_env_vectorize_mode=mode,
            env_to_module_connector=lambda *_, **__: FlattenObservations(),
        )
        .training(train_batch_size_per_learner=64, minibatch_size=32, num_epochs=2)
        .rl_module(model_config={"fcnet_hiddens": [16]})
        .debugging(seed=0)
    )


@each_case
def test_rllib_checks(env_id: str, kwargs: dict[str, Any]) -> None:
    """RLlib checks multi-agent environments only, so it is given two agents with one environment each."""
    pytest.importorskip("ray.rllib", reason="RLlib is not installed, see the extra 'rl'")
    from ray.rllib.env.multi_agent_env import make_multi_agent
    from ray.rllib.utils.pre_checks.env import check_multiagent_environments

    pair = make_multi_agent(lambda _: gym.make(env_id, **kwargs))
    check_multiagent_environments(pair({"num_agents": 2}))


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
@each_case
def test_rllib_plays_episodes(env_id: str, kwargs: dict[str, Any], mode: str) -> None:
    config = ppo_config(env_id, kwargs, mode)
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    runner = SingleAgentEnvRunner(config=config)
    episodes = runner.sample(num_episodes=5)
    assert len(episodes) == 5
    space = gym.make(env_id, **kwargs).observation_space
    for episode in episodes:
        assert episode.is_done
        assert np.isfinite(episode.get_return())
        assert episode.get_observations(-1).shape == (gym.spaces.flatdim(space),)
    runner.stop()


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Ray on this machine alone, which leaves no file behind."""
    ray = pytest.importorskip("ray", reason="RLlib is not installed, see the extra 'rl'")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as folder:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex())
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=80_000_000,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        yield
        ray.shutdown()


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_rllib_trains(mode: str, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    algorithm = ppo_config("Cluster-v0", {"formula": "Cu4", "reward": "contacts"}, mode).build_algo()
    module = algorithm.get_module()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    results = [algorithm.train() for _ in range(3)]
    after = list(module.parameters())
    algorithm.stop()
    assert np.isfinite(results[-1]["env_runners"]["episode_return_mean"])
    assert results[-1]["env_runners"]["num_env_steps_sampled_lifetime"] == 192
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
