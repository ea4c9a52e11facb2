"""Add three atoms to bundled gallium clusters at random valid places and keep the best."""

from megen_gym.agents.baselines import RandomValid
from megen_gym.envs.vector import make_vec
from megen_gym.io import write_structures
from megen_gym.rollout import rollout

env = make_vec("GaCluster-v0", num_envs=32, n=None, start="seeds", grow=3)
played = rollout(RandomValid(env.task, seed=0), env, episodes=64, seed=0)
released = played.episode_return
print(f"{played.valid.mean():.0%} valid; three atoms release {released.mean():.2f} eV, at best {released.max():.2f} eV")

best = sorted(played.atoms(), key=lambda atoms: -atoms.info["reward"])[:5]
print("written:", write_structures("grown.extxyz", best))
