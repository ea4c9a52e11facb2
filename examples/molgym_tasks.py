"""MolGym's tasks by argument: several bags, random bags, refills in a scaffold, a stop."""

from megen_gym.agents.baselines import RandomValid
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import rollout

CUBE = [(x, y, z) for x in (-4, 4) for y in (-4, 4) for z in (-4, 4)]
TASKS = {
    "one bag": {"formula": "SF6"},
    "several bags, cycled": {"formula": "SF6,SOF4,SO2F2"},
    "random bags of 3 to 8 atoms": {"formula": "CH2O", "size_range": (3, 8)},
    "four refills inside a cube of 8 Å": {"formula": "H2O", "refills": 4, "scaffold": CUBE, "on_refusal": "skip"},
    "stop when you like": {"formula": "C6H6", "stop": True},
}
for title, arguments in TASKS.items():
    env = make_vec("Cluster-v0", num_envs=8, reward="distance", distance_range=(0.9, 1.8), **arguments)
    played = rollout(RandomValid(env.task, seed=0), env, episodes=24, seed=0)
    formulas = sorted({atoms.get_chemical_formula() for atoms in played.structures.to_atoms()})
    print(f"{title:36s}{', '.join(formulas)}")
