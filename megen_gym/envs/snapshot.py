"""The state of a running vector environment as plain arrays and JSON, so that a killed run goes on where it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError

Arrays = dict[str, NDArray[Any]]


def take(env: StructureVectorEnv) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and JSON-able rest: canvases, bags, episode numbers, known energies, random generators.

    The memory of a reward that has one (novelty) is not part of it.
    """
    engine = env.engine
    arrays = {f"state.{field.name}": getattr(engine.state, field.name) for field in dataclasses.fields(engine.state)}
    arrays |= {f"known.{name}": array for name, array in engine.known.items()}
    arrays |= {"episode": engine.episode, "ended": env.ended, "n_start": engine.n_start, "clean": engine.clean}
    return arrays, {"rngs": [rng.bit_generator.state for rng in env.rngs]}


def restore(env: StructureVectorEnv, arrays: Arrays, rest: dict[str, Any]) -> None:
    """Put `env` into the state that :func:`take` saw.

    Raises:
        InputError: when the state belongs to another number of environments or another task.
    """
    engine = env.engine
    if len(rest["rngs"]) != env.num_envs:
        raise InputError(
            f"the saved state has {len(rest['rngs'])} environments, this run {env.num_envs}; "
            "resume with num_envs unchanged"
        )
    env.reset(seed=0)
    fields = {}
    for field in dataclasses.fields(engine.state):
        saved, now = arrays[f"state.{field.name}"], getattr(engine.state, field.name)
        if saved.shape != now.shape:
            raise InputError(
                f"the saved {field.name} has shape {saved.shape}, this environment {now.shape}; "
                "resume with the environment's settings unchanged"
            )
        fields[field.name] = saved.astype(now.dtype)
    engine.state = dataclasses.replace(engine.state, **fields)
    engine.known = {name[6:]: np.array(array) for name, array in arrays.items() if name.startswith("known.")}
    engine.episode, env.ended = np.array(arrays["episode"]), np.array(arrays["ended"], dtype=bool)
    engine.n_start, engine.clean = np.array(arrays["n_start"]), np.array(arrays["clean"], dtype=bool)
    for rng, state in zip(env.rngs, rest["rngs"], strict=True):
        rng.bit_generator.state = state
