"""PPO on Ga18 with 64 environments: rollout rate, cost per sample, peak memory.

``OMP_NUM_THREADS=1 python benchmarks/training.py``. The published agent made 4.0 to 4.5 steps per CPU second with its
reward, took 0.60 CPU seconds per sample forward and backward, and 1.15 GB at minibatches of 32.
"""

from __future__ import annotations

import resource
import sys
import time

import torch
from stable_baselines3.common.callbacks import BaseCallback

from megen_gym.agents.ppo.build import make_model, training_env
from megen_gym.agents.ppo.settings import Settings


class Nothing(BaseCallback):
    """Goes on."""

    def _on_step(self) -> bool:
        return True


def main(n: int = 18, num_envs: int = 64, repeats: int = 3, device: str = "cpu") -> None:
    """Print a table.

    Args:
        n: Atoms of the final cluster.
        num_envs: Environments side by side.
        repeats: Iterations that are timed, each of n steps of every environment.
        device: cpu or cuda; on cuda, wall-clock time is taken.
    """
    torch.set_num_threads(1)
    clock = time.process_time if device == "cpu" else time.perf_counter
    settings = Settings(
        n=n, num_envs=num_envs, num_steps_per_iter=n * num_envs, target_kl=None, device=device, max_num_train_iters=1
    )
    env = training_env(settings)
    model = make_model(settings, env)
    model.learn(1)
    callback = Nothing()
    callback.init_callback(model)
    rollout = optimisation = 0.0
    for _ in range(repeats):
        start = clock()
        model.collect_rollouts(env, callback, model.rollout_buffer, n)
        rollout += clock() - start
        start = clock()
        model.train()
        optimisation += clock() - start
    samples = repeats * n * num_envs
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform != "darwin" else 1024**3)
    unit = "CPU s" if device == "cpu" else "s"
    rate, cost = samples / rollout, optimisation / samples
    print(f"{'':48s}{'here':>12s}{'published':>12s}{'ratio':>10s}")
    print(f"{f'rollout with agent and DART, steps per {unit}':48s}{rate:12.0f}{4.25:12.2f}{rate / 4.25:10.0f}")
    print(f"{f'PPO forward and backward, {unit} per sample':48s}{cost:12.5f}{0.6:12.2f}{0.6 / cost:10.0f}")
    print(f"{'peak memory, GB':48s}{memory:12.2f}{1.15:12.2f}{1.15 / memory:10.1f}")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
