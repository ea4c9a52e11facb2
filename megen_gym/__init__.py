"""Gymnasium environments in which policies build clusters, molecules and crystals atom by atom.

>>> import gymnasium as gym, megen_gym
>>> env = gym.make("GaCluster-v0", n=18)
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gymnasium as gym

_here = Path(__file__).resolve().parent
if not (_here / "rewards").is_dir():  # a checkout: agents/ and rewards/ lie beside this package, not inside it
    __path__.append(str(_here.parent))

try:
    __version__ = version("megen-gym")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

for _name, _module in (
    ("Cluster", "clusters"),
    ("GaCluster", "clusters"),
    ("LJCluster", "lennard_jones"),
    ("Molecule", "molecules"),
    ("CrystalSlots", "crystals"),
    ("CrystalWyckoff", "wyckoff"),
):
    gym.register(
        f"{_name}-v0",
        entry_point=f"megen_gym.envs.{_module}:{_name}Env",
        vector_entry_point=f"megen_gym.envs.{_module}:{_name}VectorEnv",
    )
