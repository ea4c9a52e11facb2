"""Rotationally covariant actor-critic that places atoms one by one (MolGym's and MeGen's agent, made for the CPU)."""

from megen_gym.agents.covariant.agent import CovariantAgent, Verdict
from megen_gym.agents.covariant.policy import CovariantPolicy
from megen_gym.agents.covariant.settings import CovariantSettings

__all__ = ["CovariantAgent", "CovariantPolicy", "CovariantSettings", "Verdict"]
