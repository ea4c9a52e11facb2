"""Does a composition encoder help an agent with formulas that it was not trained on?

``OMP_NUM_THREADS=1 python benchmarks/bag_encoder.py`` trains the covariant agent on alloy clusters of 8 to 10 atoms
(EMT), once with bags as counts and once as compositions, with the same seeds, steps and everything else, and judges
both on the formulas of training, on pairs of elements and ratios that did not occur there, and on elements that did
not. About 17 CPU minutes; ``--steps 4096 --seeds 1`` for a look.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3 import PPO

from megen_gym.agents.baselines import Greedy, RandomValid
from megen_gym.agents.ppo.build import make_model, training_env
from megen_gym.agents.ppo.settings import Settings
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import Policy, rollout
from megen_gym.structure import FloatArray
from megen_gym.tasks.cluster import ClusterTask

SYMBOLS = "X,Al,Ni,Cu,Pd,Ag,Pt,Au"
TRAINED = ("Al4Ni4", "Ni5Cu4", "Cu4Ag5", "Ag5Pt4", "Al5Pt5", "Ni3Ag5", "Cu5Pt3", "Al6Cu3")
GROUPS = {
    "trained on": TRAINED,
    "new pairs": ("Al4Ag5", "Al3Ag6", "Ni4Pt5", "Ni3Pt5", "Al3Ni3Ag3"),
    "new ratios": ("Al7Ni2", "Ni2Cu7", "Cu8Ag", "Ag2Pt8", "Cu3Ni2Ag4"),
    "new elements": ("Pd4Au4", "Cu4Pd5", "Al5Au4", "Ni4Au5", "Pd6Pt3"),
}
GREEDY = 10
SEED = 10_000
TASK: dict[str, Any] = {"symbols": SYMBOLS, "canvas_size": 10, "reward": "emt", "distance_range": (2.2, 3.2)}


class Judged(NamedTuple):
    """A policy on some formulas.

    Attributes:
        energy: eV per atom of the bag, mean over formulas.
        complete: Share of the episodes that placed all atoms.
    """

    energy: float
    complete: float


class Trained(NamedTuple):
    """What became of a training, by group of formulas: with actions drawn, and with the best action."""

    drawn: dict[str, Judged]
    best: dict[str, Judged]


def settings(encoder: str, seed: int, steps: int, run: str | None, dir: Path, learning_rate: float) -> Settings:
    """Of one training: 16 environments that play the formulas in turn, so that every iteration has seen them all."""
    return Settings(
        env="Cluster-v0", n=None, formula=",".join(TRAINED), env_kwargs=TASK,
        num_steps=steps, num_envs=16, num_steps_per_iter=1152, mini_batch_size=144, max_num_train_iters=4,
        learning_rate=learning_rate, seed=seed, bag_encoder=encoder, composition_encoder=run, dir=dir,  # type: ignore[arg-type]
    )  # fmt: skip


def train(chosen: Settings) -> tuple[PPO, float]:
    """The trained agent, and CPU ms per step."""
    env = training_env(chosen)
    env.env.reset(seed=chosen.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_model(chosen, env)
    begin = time.process_time()
    model.learn(chosen.num_steps)
    return model, 1000 * (time.process_time() - begin) / model.num_timesteps


def judge(policy: Policy | str, formulas: Sequence[str], episodes: int, deterministic: bool = False) -> Judged:
    """A policy, or the baseline of that name, on `episodes` of each formula."""
    energy, complete = [], []
    for formula in formulas:
        env = make_vec("Cluster-v0", min(episodes, 64), formula=formula, **TASK)
        task = env.task
        assert isinstance(task, ClusterTask)
        player = policy
        if isinstance(player, str):
            player = RandomValid(task, SEED) if player == "random" else Greedy(task, env.engine.reward, GREEDY, SEED)
        played = rollout(player, env, episodes, SEED, deterministic)
        size = task.bags.largest
        energy.append(played.energy.mean() / size)
        complete.append((played.structures.n_atoms == size).mean())
    return Judged(float(np.mean(energy)), float(np.mean(complete)))


def main(
    steps: int = 18432,
    seeds: int = 3,
    episodes: int = 32,
    run: str | None = None,
    dir: Path = Path("runs"),
    encoders: tuple[str, ...] = ("counts", "composition"),
    learning_rate: float = 1e-3,
) -> None:
    """Train, judge and print a table.

    Args:
        steps: Environment steps of each training.
        seeds: Trainings of each kind.
        episodes: Of each formula.
        run: Run of a composition encoder; the bundled one by default.
        dir: Folder of the run folders.
        encoders: Of the bag.
        learning_rate: Of both.
    """
    torch.set_num_threads(1)
    random = {group: judge("random", formulas, episodes).energy for group, formulas in GROUPS.items()}
    greedy = {group: judge("greedy", formulas, max(1, episodes // 4)).energy for group, formulas in GROUPS.items()}
    found: dict[str, list[Trained]] = {encoder: [] for encoder in encoders}
    cost: dict[str, list[float]] = {encoder: [] for encoder in encoders}
    for seed in range(seeds):
        for encoder in encoders:
            model, spent = train(settings(encoder, seed, steps, run, dir, learning_rate))
            player: Any = model
            drawn = {group: judge(player, formulas, episodes) for group, formulas in GROUPS.items()}
            best = {group: judge(player, formulas, 1, True) for group, formulas in GROUPS.items()}
            cost[encoder].append(spent)
            found[encoder].append(Trained(drawn, best))
            gains = ", ".join(f"{g} {random[g] - drawn[g].energy:.3f} {random[g] - best[g].energy:.3f}" for g in GROUPS)
            placed = 100 * np.mean([one.complete for one in drawn.values()])
            print(f"{encoder:12s} seed {seed} {spent:.2f} ms/step, {placed:.1f} % complete: {gains}", flush=True)

    print(f"\neV per atom below random valid placement, mean ± deviation of {seeds} trainings of {steps} steps")
    print(f"{'':32s}{f'greedy of {GREEDY}':>14s}" + "".join(f"{name:>18s}" for name in (*encoders, "difference")))
    for way in ("drawn", "best"):
        for group in GROUPS:
            line = f"{f'{group}, actions {way}':32s}{random[group] - greedy[group]:14.3f}"
            gains = [
                np.array([random[group] - getattr(one, way)[group].energy for one in each]) for each in found.values()
            ]
            print(line + "".join(f"{mean_and_spread(gain):>18s}" for gain in (*gains, gains[-1] - gains[0])))
    print("CPU ms per step of training: " + ", ".join(f"{name} {np.median(cost[name]):.2f}" for name in encoders))


def mean_and_spread(values: FloatArray) -> str:
    """Over the trainings."""
    return f"{values.mean():.3f} ± {values.std(ddof=1) if len(values) > 1 else np.nan:.3f}"


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
