"""Environment steps per CPU second with a random policy: native vector environment against a loop over single ones.

``OMP_NUM_THREADS=1 python benchmarks/environment.py``. The published MeGen environment made 620 steps per CPU second
without its reward and about 300 with DART (one core; systems differ, compare ratios).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

import megen_gym  # noqa: F401
from megen_gym.envs.clusters import GaClusterEnv
from megen_gym.envs.vector import make_vec

PUBLISHED = {"distance": 620, "dart": 300}
SECONDS = 5.0


def rate(step: Callable[[np.ndarray], object], count: int) -> float:
    """Environment steps per CPU second of uniform random actions, after a warm-up."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (64, count, 6)).astype(np.float32)
    for action in actions[:8]:
        step(action)
    done, start = 0, time.process_time()
    while time.process_time() - start < SECONDS:
        step(actions[done % 64])
        done += 1
    return done * count / (time.process_time() - start)


def main(num_envs: int = 256) -> None:
    """Print a table.

    Args:
        num_envs: Environments of the vector environment.
    """
    import torch

    torch.set_num_threads(1)
    print("environment steps per CPU second")
    print(f"{'reward':10s}{'vector':>12s}{'loop':>10s}{'ratio':>8s}{'published':>11s}{'ratio':>8s}")
    for reward, published in PUBLISHED.items():
        vector = make_vec("GaCluster-v0", num_envs, n=18, reward=reward)
        vector.reset(seed=0)
        loop = DummyVecEnv([lambda reward=reward: GaClusterEnv(n=18, reward=reward)] * 8)
        loop.reset()
        fast, slow = rate(vector.step, num_envs), rate(loop.step, 8)
        print(f"{reward:10s}{fast:12.0f}{slow:10.0f}{fast / slow:8.1f}{published:11d}{fast / published:8.1f}")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
