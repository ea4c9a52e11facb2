"""A trained crystal_gpt plays CrystalWyckoff-v0 beside random choices: ``python examples/crystal_policy.py``.

The model is trained for a minute on the bundled crystals; the environment asks for SrTiO3 in the group of perovskites,
and the reward is about distances between atoms (0 is best).
"""

import argparse

import numpy as np
import torch

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid
from megen_gym.agents.crystal_gpt.policy import CrystalPolicy
from megen_gym.agents.crystal_gpt.settings import Settings
from megen_gym.agents.crystal_gpt.train import train
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import rollout

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--max_time", type=float, default=20.0, help="seconds of training")
parser.add_argument("--episodes", type=int, default=64)
options = parser.parse_args()

torch.set_num_threads(1)
run = train(Settings(max_time=options.max_time, progress=False, name="example"))
env = make_vec("CrystalWyckoff-v0", 32, spacegroup=221, composition="SrTiO3", max_atoms=10, n_max=8, lattice="last")
for name, policy in (("crystal_gpt", CrystalPolicy(run.path, env)), ("random", RandomValid(env.task))):
    played = rollout(policy, env, options.episodes, seed=0)
    volume = [atoms.cell.volume / len(atoms) for atoms in played.structures.to_atoms() if len(atoms)]
    print(
        f"{name:12s} {100 * played.valid.mean():5.1f} % without a refused move, mean return "
        f"{played.episode_return.mean():6.2f}, median volume {np.median(volume):.1f} Å³ per atom (SrTiO3: 11.9)"
    )
