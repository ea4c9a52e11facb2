"""Any ASE calculator is a reward; a penalty is added to it by name: ``python examples/own_calculator.py``."""

import gymnasium as gym

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid

reward = {
    "rewards": [
        {"name": "calculator", "calculator": "ase.calculators.emt.EMT", "relax_steps": 5},
        {"name": "contacts", "weight": 0.5, "cutoff": 2.4},
    ]
}
env = gym.make("Cluster-v0", formula="Au6Cu3", reward="sum", reward_kwargs=reward)
policy = RandomValid(env.unwrapped.task, seed=1)
observation, info = env.reset(seed=1)
done, total = False, 0.0
while not done:
    action, _ = policy.predict(observation)
    observation, value, terminated, truncated, info = env.step(action)
    total, done = total + value, terminated or truncated
terms = {name: round(value, 3) for name, value in info.items() if isinstance(value, float)}
print(env.unwrapped.structure.get_chemical_formula(), f"return {total:.2f} eV", terms)
