"""MeGen's own task: one gallium atom onto a seed of 2 to 17, under the published reward, after at most 20,000 steps.

``OMP_NUM_THREADS=1 python benchmarks/megen_task.py --seeds Ga_2_17.xyz --weights dart_megen_last.npz``. Both files come
from the MeGen repository and are not part of this library. Every fifth seed of each size is only evaluated on.
Published: 21.8 % valid placements and mean reward -0.33 after 9,600 steps; -0.48 for uniform random actions.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from megen_gym import runs
from megen_gym.agents.baselines import Greedy, RandomValid
from megen_gym.agents.ppo.build import env_arguments, load_policy
from megen_gym.agents.ppo.settings import Settings
from megen_gym.agents.ppo_train import train
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import rollout


class UniformActions:
    """The published baseline: any action, valid or not."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        """Uniform in the box."""
        return self.rng.uniform(-1, 1, (len(observation["species"]), 6)).astype(np.float32), state


def main(
    seeds: Path,
    weights: Path,
    num_steps: int = 20_000,
    episodes: int = 1000,
    dir: Path = Path("runs"),
    run: str | None = None,
) -> None:
    """Train, then compare on held-out seeds.

    Args:
        seeds: Structures of 2 to 17 atoms.
        weights: Published DART weights.
        num_steps: Training steps.
        episodes: Episodes of the evaluation.
        dir: Folder of the run.
        run: Id of a finished run to evaluate instead of training one.
    """
    settings = Settings(
        n=None, start=str(seeds), grow=1, reward="megen", reward_kwargs={"weights": str(weights)}, name="megen-task",
        num_steps=num_steps, dir=dir, **RECIPE,
    )  # fmt: skip
    agent = load_policy(train(settings) if run is None else runs.open(dir, run))
    print(f"\nsettings: { {k: v for k, v in asdict(settings).items() if v != getattr(Settings(), k)} }")
    for split in ("eval", "all"):
        env = make_vec("GaCluster-v0", 100, **env_arguments(settings, evaluation=True) | {"split": split})
        policies = {
            "uniform actions": UniformActions(),
            "random valid": RandomValid(env.task),
            "best of 40 valid": Greedy(env.task, env.engine.reward, 40),
            "covariant PPO, sampled": agent,
            "covariant PPO, best action": agent,
        }
        title = "held-out seeds" if split == "eval" else "all seeds"
        print(f"{title:30s}{'valid placements':>18s}{'mean reward':>14s}{'standard error':>16s}")
        for name, policy in policies.items():
            played = rollout(policy, env, episodes, seed=12345, deterministic=name.endswith("best action"))
            error = played.episode_return.std() / np.sqrt(episodes)
            share = played.valid_placements / played.placements
            print(f"{name:30s}{100 * share:17.1f}%{played.episode_return.mean():14.3f}{error:16.3f}")


RECIPE = {
    "reward_scale": 1.0,
    "num_steps_per_iter": 512,
    "max_num_train_iters": 10,
    "eval_freq": 10,
}

if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
