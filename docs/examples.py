"""Examples on the pages of environments, rewards and policies; tests run them and parse their commands."""

from __future__ import annotations


def python(code: str) -> str:
    """A block of Python."""
    return f"```python\n{code.strip()}\n```"


def bash(*lines: str) -> str:
    """A block of commands."""
    return "```bash\n" + "\n".join(lines) + "\n```"


def judged(made: str, *commands: str) -> str:
    """A reward in an environment: one step, then the command lines."""
    call = made if len(made) < 105 else f"\n    {made}\n"
    code = f"""
import gymnasium as gym
import megen_gym

env = gym.make({call})
observation, info = env.reset(seed=0)
observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
"""
    return "\n\n".join([python(code), *([bash(*commands)] if commands else [])])


def played(made: str, module: str, built: str) -> str:
    """A policy that plays episodes of an environment."""
    return python(f"""
from {module} import {built.partition("(")[0]}
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import rollout

envs = make_vec({made})
policy = {built}
print(rollout(policy, envs, episodes=8, seed=0).episode_return)
""")


def competing(name: str) -> str:
    """A policy or search in the arena, beside random placement."""
    return bash(f"python -m megen_gym compare LJCluster-v0 --n 13 --policies random,{name} --budget 2000")


PPO = "python agents/ppo_train.py"
TUNE = "python agents/crystal_gpt/tune.py"

REWARD = {
    "dart": judged('"GaCluster-v0", n=18, reward="dart"', f"{PPO} --n 18 --reward dart"),
    "soap_ridge": judged('"GaCluster-v0", n=13, reward="soap_ridge"', f"{PPO} --n 13 --reward soap_ridge"),
    "lennard_jones": judged('"LJCluster-v0", n=13', f"{PPO} --env LJCluster-v0 --formula Ar13"),
    "megen": judged(
        '"GaCluster-v0", start="seeds", n=None, grow=1, reward="megen"',
        f"{PPO} --start seeds --n null --grow 1 --reward megen",
    ),
    "calculator": judged(
        '"Cluster-v0", formula="Au6Cu3", reward="calculator", reward_kwargs={"calculator": "emt", "relax_steps": 5}',
        f"{PPO} --env Cluster-v0 --formula Au13 --reward emt",
        f"{PPO} --env Cluster-v0 --formula Au13 --reward calculator "
        """--reward_kwargs '{"calculator": "ase.calculators.emt.EMT", "relax_steps": 5}'""",
    ),
    "contacts": judged(
        '"CrystalSlots-v0", template="rocksalt", free="species", reward="contacts"',
        f"""{PPO} --env Cluster-v0 --formula SF6 --reward contacts --reward_kwargs '{{"neighbour": 0.1}}'""",
    ),
    "distance": judged(
        '"GaCluster-v0", reward="sum", reward_kwargs={"rewards": ["dart", {"name": "distance", "weight": 0.1}]}'
    ),
    "novelty": judged(
        '"GaCluster-v0", n=8, reward="sum", reward_kwargs={"rewards": ["dart", {"name": "novelty", "size": 8}]}'
    ),
    "density": judged(
        '"CrystalWyckoff-v0", reward="density", reward_kwargs={"target": 6.0}',
        f"""{TUNE} --reward density --reward_kwargs '{{"target": 6.0}}'""",
    ),
    "volume_per_atom": judged(
        '"CrystalWyckoff-v0", reward="volume_per_atom", reward_kwargs={"target": 13.0}',
        f"""{TUNE} --reward volume_per_atom --reward_kwargs '{{"target": 13.0}}'""",
    ),
    "valid": judged('"CrystalWyckoff-v0", reward="valid"', f"{TUNE} --reward valid"),
    "property": bash(
        "python agents/crystal_gpt/regress.py --data perov.csv --property heat_all",
        f"""{TUNE} --reward property --reward_kwargs '{{"run": "newest", "target": 0.5}}'""",
    ),
    "discriminator": bash(
        "python agents/cryingan/train.py --training_data cuau.extxyz --weight_dist 0.05",
        "python examples/critic_as_reward.py",
    ),
    "molecule_valid": judged(
        '"Molecule-v0", formula="CH4O", reward="molecule_valid"',
        "python agents/gschnet/tune.py --reward molecule_valid",
    ),
    "target": judged(
        '"Molecule-v0", reward="target", reward_kwargs={"property": "gap", "target": 4.0}',
        """python agents/gschnet/tune.py --reward target --reward_kwargs '{"property": "gap", "target": 4.0}'""",
    ),
    "composition": judged(
        '"CrystalSlots-v0", template="rocksalt", free="species", reward="composition", reward_kwargs={"kind": "spread"}'
    ),
    "sum": judged(
        '"Cluster-v0", reward="sum", reward_kwargs={"rewards": ["emt", {"name": "contacts", "weight": 0.5}]}',
        f"{PPO} --env Cluster-v0 --formula Au13 --reward sum "
        """--reward_kwargs '{"rewards": ["emt", {"name": "contacts", "weight": 0.5}]}'""",
    ),
}

POLICY = {
    "covariant": python("""
from stable_baselines3 import PPO

from megen_gym.agents.covariant.policy import CovariantPolicy
from megen_gym.envs.sb3 import SB3VecEnv

env = SB3VecEnv.make("GaCluster-v0", num_envs=8, n=4)
model = PPO(CovariantPolicy, env, n_steps=16, batch_size=32, n_epochs=1, policy_kwargs={"lmax": 2})
model.learn(128)
""") + "\n\n" + bash(f"{PPO} --n 18", f"{PPO} --policy mlp --n 18"),
    "cryingan": bash(
        "python agents/cryingan/train.py --training_data cuau.extxyz --weight_dist 0.05",
        "python agents/cryingan/generate.py --n_struc 1000 --write_fname gen.extxyz",
    ) + "\n\n[Training, generating, limits](../cryingan.md).",
    "cryingan_refined": bash("python examples/generator_proposes.py"),
    "crystal_gpt": bash(
        "python agents/crystal_gpt/train.py --max_time 120",
        "python agents/crystal_gpt/sample.py --spacegroup 221 --composition BaTiO3 --output batio3.extxyz",
    ) + "\n\n[In an environment, conditions, limits](../crystal_gpt.md).",
    "gschnet": bash(
        "python agents/gschnet/train.py --max_time 300", "python agents/gschnet/generate.py --n_molecules 100"
    ) + "\n\n[In an environment, conditions, limits](../gschnet.md).",
    "random": played(
        '"GaCluster-v0", num_envs=8, n=6', "megen_gym.agents.baselines", "RandomValid(envs.task, seed=1)"
    ),
    "greedy": played(
        '"GaCluster-v0", num_envs=8, n=6', "megen_gym.agents.baselines", "Greedy(envs.task, envs.engine.reward, k=10)"
    ),
}  # fmt: skip
