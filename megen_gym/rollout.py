"""Play episodes with a policy and keep what was built."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from ase import Atoms
from gymnasium.vector import AutoresetMode

from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.tasks.base import Observation


class Policy(Protocol):
    """Anything with Stable-Baselines3's ``predict``; SB3 models are policies as they are.

    Where actions are discrete and ``predict`` takes ``action_masks`` (sb3-contrib's MaskablePPO), it gets them too.
    """

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Actions (B, A) for a batch of observations, and the policy's own state."""


@dataclass
class Rollout:
    """M finished episodes.

    Attributes:
        structures: What stood on the canvas at the end.
        episode_return: (M,) sum of rewards.
        length: (M,) steps.
        n_start: (M,) atoms on the canvas when the episode began.
        valid: (M,) every move placed an atom within the task's windows.
        energy: (M,) eV of the last structure by the reward; NaN where the reward gives none.
        placements: Moves made in all episodes.
        valid_placements: Those that were placed within the windows.
        errors: What the reward reported, by episode.
    """

    structures: StructureBatch
    episode_return: FloatArray
    length: IntArray
    n_start: IntArray
    valid: BoolArray
    energy: FloatArray
    placements: int
    valid_placements: int
    errors: dict[int, str]

    def atoms(self, **info: Any) -> list[Atoms]:
        """The structures as ``ase.Atoms`` with what is known of each in ``info``."""
        made = self.structures.to_atoms()
        for row, atoms in enumerate(made):
            atoms.info |= {
                "energy": float(self.energy[row]),
                "reward": float(self.episode_return[row]),
                "valid": bool(self.valid[row]),
                "n_start": int(self.n_start[row]),
                **info,
            }
        return made


def structures_of(observation: Observation, symbols: tuple[str, ...], lattice: Lattice | None = None) -> StructureBatch:
    """The canvases of a batch of observations.

    Args:
        observation: (B, ...) arrays; where `cell` is among them, the structures have it and its periodic axes.
        symbols: Element of each species index.
        lattice: The task's own cell, which is more precise than the observation's float32.
    """
    species = observation["species"].astype(np.int64)
    positions = observation["positions"].reshape(*species.shape, 3).astype(float)
    if "cell" not in observation or not len(species):
        return StructureBatch.trusted(positions, species, symbols)
    cell = observation["cell"].reshape(-1, 3, 3).astype(float)
    a, b, c = observation["pbc"][0] > 0
    if lattice is not None:
        cell, (a, b, c) = np.broadcast_to(lattice.cell, cell.shape), lattice.pbc
    return StructureBatch.trusted(positions, species, symbols, cell, (bool(a), bool(b), bool(c)))


def rollout(
    policy: Policy, env: StructureVectorEnv, episodes: int, seed: int | None = None, deterministic: bool = False
) -> Rollout:
    """Play `episodes` episodes.

    Every environment plays the same number of episodes (one more in the first ones), so that short episodes are not
    counted more often than long ones.

    Args:
        policy: Who decides.
        env: Vector environment in mode SAME_STEP.
        episodes: M.
        seed: Seed of the environments.
        deterministic: Ask the policy for its best action instead of a sample.
    """
    if env.autoreset_mode is not AutoresetMode.SAME_STEP or episodes < 1:
        raise InputError(
            f"rollout got mode {env.autoreset_mode.value} and {episodes} episodes; give SAME_STEP and at least 1"
        )
    size = env.num_envs
    quota = episodes // size + (np.arange(size) < episodes % size)
    observation, _ = env.reset(seed=seed)
    state, start = None, np.ones(size, dtype=bool)
    total, steps, energy = np.zeros(size), np.zeros(size, dtype=np.int64), np.full(size, np.nan)
    last: list[tuple[Observation, float, int, int, bool, float]] = []
    errors: dict[int, str] = {}
    placements = valid_placements = 0
    discrete = isinstance(env.task.action_space, gym.spaces.Discrete)
    masked = discrete and "action_masks" in inspect.signature(policy.predict).parameters
    while quota.any():
        masks = {"action_masks": env.action_masks()} if masked else {}
        action, state = policy.predict(observation, state, start, deterministic, **masks)
        observation, reward, terminated, truncated, infos = env.step(action)
        counted = quota > 0
        total += reward
        steps += 1
        moved = counted & ~infos["stopped"]
        placements += int(moved.sum())
        valid_placements += int((infos["valid"] & counted).sum())
        if "energy" in infos:
            energy = np.where(infos["_energy"], infos["energy"], energy)
        start = terminated | truncated
        for row in np.flatnonzero(start & counted):
            if "error" in infos and infos["_error"][row]:
                errors[len(last)] = infos["error"][row]
            begun, clean = int(infos["n_start"][row]), bool(infos["all_valid"][row])
            last.append((infos["final_obs"][row], total[row], int(steps[row]), begun, clean, energy[row]))
        quota[start & counted] -= 1
        total[start], steps[start], energy[start] = 0, 0, np.nan
    final, returns, length, n_start, valid, energies = zip(*last, strict=True)
    stacked = {key: np.stack([row[key] for row in final]) for key in final[0]}
    return Rollout(
        structures=structures_of(stacked, env.task.symbols, env.task.lattice),
        episode_return=np.array(returns),
        length=np.array(length),
        n_start=np.array(n_start),
        valid=np.array(valid),
        energy=np.array(energies),
        placements=placements,
        valid_placements=valid_placements,
        errors=errors,
    )
