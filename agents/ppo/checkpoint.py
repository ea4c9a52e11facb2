"""A training that was killed goes on exactly where its last complete iteration ended."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3 import PPO

from megen_gym.envs import snapshot
from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.errors import InputError
from megen_gym.io import truncate_structures
from megen_gym.runs import Run


def save(run: Run, model: PPO, iteration: int) -> None:
    """Write weights, optimiser, random states and environments; one rename makes the whole checkpoint.

    Args:
        run: Where to.
        model: The agent at the end of an iteration.
        iteration: Its number.
    """
    env = model.get_env()
    assert isinstance(env, SB3VecEnv)
    arrays, env_rest = snapshot.take(env.env)
    tensors = {f"env.{name}": torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    tensors |= {f"policy.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for index, moments in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors["torch_rng"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["cuda_rng"] = torch.cuda.get_rng_state()
    kind, keys, *position = np.random.get_state()  # noqa: NPY002 - SB3 shuffles minibatches with it
    tensors["numpy_rng"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    tensors |= {"returns": torch.from_numpy(env.returns), "lengths": torch.from_numpy(env.lengths)}
    tensors["starts"] = torch.from_numpy(np.asarray(model._last_episode_starts, dtype=bool))
    meta = {
        "iteration": iteration,
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "numpy_rng": [kind, *position],
        "env": env_rest,
    }
    run.save_state(tensors, meta)
    run.save_weights(model.policy.state_dict())


def load(run: Run, model: PPO) -> tuple[int, int]:
    """Bring `model` and its environments to the last checkpoint; its iteration and number of steps come back."""
    tensors, meta = run.load_state()
    env = model.get_env()
    assert isinstance(env, SB3VecEnv)
    weights = {name[7:]: tensor for name, tensor in tensors.items() if name.startswith("policy.")}
    try:
        model.policy.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the checkpoint of run {run.id} holds another network; resume without changing it") from error
    optimizer = model.policy.optimizer
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    arrays = {name[4:]: tensor.numpy() for name, tensor in tensors.items() if name.startswith("env.")}
    snapshot.restore(env.env, arrays, meta["env"])
    env.returns, env.lengths = tensors["returns"].numpy().copy(), tensors["lengths"].numpy().copy()
    model._last_obs = env.env.engine.observe()
    model._last_episode_starts = tensors["starts"].numpy().copy()
    model.num_timesteps, model._n_updates = meta["num_timesteps"], meta["n_updates"]
    kind, *position = meta["numpy_rng"]
    np.random.set_state((kind, tensors["numpy_rng"].numpy().astype(np.uint32), *position))  # noqa: NPY002
    torch.set_rng_state(tensors["torch_rng"])
    if "cuda_rng" in tensors and model.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda_rng"])
    return int(meta["iteration"]), model.num_timesteps


def truncate_rollouts(run: Run, steps: int) -> None:
    """Drop the structures that were written after the checkpoint at `steps`; they will be built again."""
    for path in run.path.glob("structures_*.extxyz"):
        truncate_structures(path, steps)
