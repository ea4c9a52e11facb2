"""From a name's options to a policy: what :mod:`megen_gym.agents.registry` calls, each with the environment first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megen_gym.agents.nn.finding import Kind
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError

PPO_RUN = Kind("num_steps_per_iter", "agent trained by PPO", "agents/ppo_train.py")


def random(env: StructureVectorEnv, seed: int = 0, tries: int = 256) -> Any:
    """Random valid placement."""
    from megen_gym.agents.baselines import RandomValid

    return RandomValid(_known_task(env, "random"), seed, _count("tries", tries))


def greedy(env: StructureVectorEnv, seed: int = 0, k: int = 10, tries: int = 512) -> Any:
    """Best of k."""
    from megen_gym.agents.baselines import Greedy

    return Greedy(_known_task(env, "greedy"), env.engine.reward, _count("k", k), seed, _count("tries", tries))


def compact(env: StructureVectorEnv, seed: int = 0, tries: int = 256, temperature: float = 0.3) -> Any:
    """Many neighbours first."""
    from megen_gym.agents.baselines import Compact

    return Compact(_known_task(env, "compact"), seed, _count("tries", tries), temperature)


def covariant(
    env: StructureVectorEnv, seed: int = 0, run: str | None = None, dir: str | Path = "runs", **o: Any
) -> Any:
    """The covariant agent: a trained one, or one that learns within the budget."""
    return _agent("covariant", env, seed, run, dir, o)


def ppo(env: StructureVectorEnv, seed: int = 0, run: str | None = None, dir: str | Path = "runs", **o: Any) -> Any:
    """Stable-Baselines3's own PPO: a trained one, or one that learns within the budget."""
    return _agent("mlp", env, seed, run, dir, o)


def _agent(
    policy: str, env: StructureVectorEnv, seed: int, run: str | None, dir: str | Path, options: dict[str, Any]
) -> Any:
    if run is not None:
        from megen_gym.agents.ppo.build import load_policy

        if options:
            raise InputError(f"a trained agent takes no options, {', '.join(options)} given; leave them out")
        return load_policy(PPO_RUN.find(run, dir), env=env)
    from megen_gym.agents.search.learner import Learner

    return Learner(env, seed, **({"policy": policy} | options))


def cryingan(env: StructureVectorEnv, seed: int = 0, run: str = "newest", dir: str | Path = "runs") -> Any:
    """CryinGAN's structures."""
    from megen_gym.agents.cryingan.policy import CryinGANPolicy

    return CryinGANPolicy(run, env, dir, seed)


def crystal_gpt(env: StructureVectorEnv, seed: int = 0, run: str = "newest", dir: str | Path = "runs") -> Any:
    """crystal_gpt's crystals."""
    from megen_gym.agents.crystal_gpt.policy import CrystalPolicy

    return CrystalPolicy(run, env, dir, seed=seed)


def gschnet(
    env: StructureVectorEnv,
    seed: int = 0,
    run: str = "newest",
    dir: str | Path = "runs",
    condition: dict[str, Any] | None = None,
    spacing: float | None = None,
) -> Any:
    """G-SchNet's molecules; on a grid of places with another `spacing` (Å), if it is given."""
    from megen_gym.agents.gschnet.model import load_model
    from megen_gym.agents.gschnet.policy import GSchNetPolicy
    from megen_gym.agents.gschnet.sampling import Drawing

    if spacing is not None and not 0.01 <= spacing <= 0.5:
        raise InputError(f"spacing is {spacing}; give 0.01 to 0.5 Å")
    model, _ = load_model(run, dir)
    drawing = None if spacing is None else Drawing(spacing, model.grid_distance_min)
    return GSchNetPolicy(model, env, condition=condition, drawing=drawing, seed=seed)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; give a whole number of at least 1")
    return value


def _known_task(env: StructureVectorEnv, name: str) -> Any:
    from megen_gym.tasks.cluster import ClusterTask
    from megen_gym.tasks.slots import SlotsTask
    from megen_gym.tasks.wyckoff import WyckoffTask

    if not isinstance(env.task, ClusterTask | SlotsTask | WyckoffTask):
        raise InputError(f"policy {name!r} knows no {type(env.task).__name__}; give a policy that does")
    return env.task
