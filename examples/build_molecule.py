"""Three ways to a molecule: a bag of atoms, any composition with a stop, and a substituent on benzene."""

from megen_gym.agents.baselines import Greedy
from megen_gym.analysis.molecule_validity import check
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import rollout

VALID_TOO = {"rewards": ["gfn2", {"name": "molecule_valid", "weight": 5.0}]}
WAYS = {
    "bag": {"formula": "CH4O"},
    "any composition": {"formula": "free", "max_n_atoms": 6},
    "on benzene": {"formula": "free", "max_n_atoms": 15, "start": "g2:C6H6"},
}
for title, arguments in WAYS.items():
    env = make_vec("Molecule-v0", num_envs=4, reward="sum", reward_kwargs=VALID_TOO, **arguments)
    played = rollout(Greedy(env.task, env.engine.reward, k=8, seed=0), env, episodes=4, seed=0)
    verdict = check(played.structures.to_atoms())
    for atoms, paid, smiles in zip(played.structures.to_atoms(), played.episode_return, verdict.smiles, strict=True):
        print(f"{title:16s}{atoms.get_chemical_formula():8s}return {paid:6.2f}  {smiles or 'no valid molecule'}")
