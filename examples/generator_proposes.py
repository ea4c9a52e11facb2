"""A CryinGAN proposes Cu/Au interfaces, and a PPO agent moves every atom by up to 0.3 Å to lower the EMT energy."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

import megen_gym
from megen_gym.agents.cryingan.networks import load_gan
from megen_gym.agents.cryingan.refine import RefineState, RefineTask
from megen_gym.agents.cryingan.settings import Settings
from megen_gym.agents.cryingan.train import train
from megen_gym.analysis.ensemble import Reference
from megen_gym.cli import run
from megen_gym.envs.crystals import crystal_slots
from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.io import read_structures, write_structures
from megen_gym.rewards import make_reward
from megen_gym.rollout import Policy, rollout
from megen_gym.structure import FloatArray, StructureBatch
from megen_gym.tasks.base import Observation
from megen_gym.tasks.slots import FractionalSlots

DATA = Path(megen_gym.__file__).parent / "data" / "cuau_interface.extxyz"
RADII = np.array([2.3, 2.5, 2.7, 2.9, 3.1])
"""Å; neighbours of about these distances are seen apart from one another."""


class Refine(RefineTask):
    """The proposal stands there from the start, so that the reward is the energy that each move releases.

    The agent also sees the surroundings of the next atom: for each element and radius the sum of the directions to the
    neighbours there.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        size = 3 * len(RADII) * (len(self.symbols) - 1)
        own = self.observation_space.spaces
        self.observation_space = gym.spaces.Dict({**own, "around": gym.spaces.Box(-99, 99, (size,), np.float32)})

    def structures(self, state: RefineState) -> StructureBatch:
        """All atoms: those that were moved, and the others where they were proposed."""
        built = self.task.structures(state.inner)
        waiting = np.arange(self.task.canvas_size) >= built.n_atoms[:, None]
        positions = np.where(waiting[..., None], self.lattice.cartesian(state.proposal), built.positions)
        species = np.broadcast_to(self.task.template.species, built.species.shape)
        return StructureBatch.trusted(positions, species, built.symbols, built.cell, built.pbc)

    def observation(self, state: RefineState) -> Observation:
        """With the surroundings of the next atom."""
        whole = self.structures(state)
        slot = np.minimum(state.inner.site, self.task.canvas_size - 1)
        offset = whole.positions - whole.positions[np.arange(len(slot)), slot][:, None]
        vectors = self.lattice.images(offset, RADII[-1] + 0.5)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9
        weight = np.exp(-(((length - RADII) / 0.2) ** 2))
        seen = np.einsum("bnix,bnir->bnrx", vectors / length, weight)
        kind = whole.species[..., None] == np.arange(1, len(self.symbols))
        around = np.einsum("bnrx,bns->bsrx", seen, kind.astype(float)).reshape(len(slot), -1)
        return {**super().observation(state), "around": around.astype(np.float32)}


class Surroundings(BaseFeaturesExtractor):
    """Of the observation, the network sees the element and the surroundings of the next atom only."""

    def __init__(self, observation_space: gym.spaces.Dict) -> None:
        sizes = [int(np.prod(observation_space[key].shape or ())) for key in ("around", "element_mask")]
        super().__init__(observation_space, sum(sizes))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(B, features)."""
        return torch.cat([observations["around"], observations["element_mask"]], -1)


class Nothing:
    """Leaves the proposal as it is."""

    def predict(
        self, observation: Observation, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[FloatArray, Any]:
        """The zero action."""
        return np.zeros((len(observation["species"]), 3)), state


def main(
    n_epochs: int = 5,
    num_steps: int = 768,
    radius: float = 0.3,
    episodes: int = 16,
    seed: int = 0,
    out: Path = Path("refined.extxyz"),
) -> None:
    """Train a generator, then an agent that refines what it proposes.

    Args:
        n_epochs: Epochs of the GAN.
        num_steps: Moves that the agent learns from.
        radius: Å, farthest move along x, y and z.
        episodes: Structures by which proposals and agent are judged.
        seed: Of GAN and agent.
        out: The refined structures.
    """
    torch.set_num_threads(1)
    settings = Settings(training_data=str(DATA), batch_size=8, n_epochs=n_epochs, seed=seed, progress=False)
    gan = load_gan(train(settings).path)[0]
    reference = Reference(read_structures(DATA))
    slots, reward = crystal_slots(str(DATA), min_distance=reference.valid_distance, reward="emt")
    assert isinstance(slots, FractionalSlots)
    task = Refine(slots, gan, radius)

    def environments(count: int) -> StructureVectorEnv:
        return StructureVectorEnv(count, task, reward, autoreset_mode=AutoresetMode.SAME_STEP)

    learning = SB3VecEnv(environments(16), reward_scale=10.0)
    learning.seed(seed)
    agent = PPO(
        "MultiInputPolicy", learning, n_steps=16, batch_size=64, learning_rate=1e-3, gamma=0.0, seed=seed, device="cpu",
        policy_kwargs={"log_std_init": -1.5, "features_extractor_class": Surroundings},
    )  # fmt: skip
    test, energy = environments(min(16, episodes)), make_reward("emt", atom_energies=None).energy

    def show(name: str, policy: Policy) -> None:
        played = rollout(policy, test, episodes, seed=seed + 1, deterministic=True)
        whole = played.structures[np.flatnonzero(played.structures.n_atoms == len(slots.template))]
        per_atom = energy(whole) / len(slots.template)
        error = per_atom.std() / len(whole) ** 0.5
        print(f"{name:12s}{len(whole) / episodes:8.0%}{per_atom.mean():12.4f} ± {error:.4f}")
        write_structures(out, played.atoms())

    print(f"{'':12s}{'valid':>8s}{'eV/atom':>12s}")
    show("proposed", Nothing())
    agent.learn(num_steps)
    show("refined", agent)
    print(f"{'data':12s}{1:8.0%}{energy(reference.batch).mean() / len(slots.template):12.4f}")


if __name__ == "__main__":
    run(main)
