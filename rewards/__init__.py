"""What is good: rewards, one protocol and one module or package per reward.

>>> from megen_gym.rewards import make_reward
>>> make_reward("sum", rewards=["lj", {"name": "contacts", "weight": 0.1}]).invalid
-1.1
"""

from megen_gym.rewards.base import KCAL_PER_MOL, EnergyReward, Known, Outcome, Reward
from megen_gym.rewards.registry import make_reward, register, reward_from_spec, reward_names

__all__ = [
    "KCAL_PER_MOL",
    "EnergyReward",
    "Known",
    "Outcome",
    "Reward",
    "make_reward",
    "register",
    "reward_from_spec",
    "reward_names",
]
