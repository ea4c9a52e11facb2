"""The covariant agent as a Stable-Baselines3 policy."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any, cast

from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from megen_gym.actions import FocalCodec
from megen_gym.agents.covariant.agent import CovariantAgent
from megen_gym.agents.covariant.bag_views import CompositionView
from megen_gym.agents.covariant.settings import CovariantSettings
from megen_gym.errors import InputError

KEYS = ("positions", "species", "bag", "focus_mask", "element_mask")


class NoFeatures(BaseFeaturesExtractor):
    """Stands where Stable-Baselines3 wants an extractor; the agent reads the observation itself."""

    def forward(self, observations: PyTorchObs) -> PyTorchObs:
        return observations


class CovariantPolicy(ActorCriticPolicy):
    """A rotationally covariant actor-critic for PPO and A2C: ``PPO(CovariantPolicy, env, policy_kwargs={"lmax": 4})``.

    Turn a structure, and the distribution of the places that the agent proposes turns with it. An e3nn network looks at
    the canvas; the agent then decides about focus, element, distance and direction, one after the other, within what
    the environment allows. After MolGym's covariant agent (Simm et al., ICLR 2021).

    Args:
        observation_space: Dict with positions, species, bag, focus_mask and element_mask; with cell and pbc too, atoms
            are seen at their nearest periodic images.
        action_space: Box(-1, 1, (6,)), the focal codec's.
        lr_schedule: Learning rate by remaining progress.
        **kwargs: The fields of :class:`CovariantSettings`, and what ActorCriticPolicy takes (`optimizer_class`, ...).

    Attributes:
        composition_shape: Of the frozen composition encoder, whose weights are part of the policy's; None without one.

    Raises:
        InputError: for spaces of another form, or settings that make no network.
    """

    composition_shape: dict[str, Any] | None = None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        **kwargs: Any,
    ) -> None:
        known = {field.name for field in fields(CovariantSettings)}
        self.settings = CovariantSettings(**{name: kwargs.pop(name) for name in known & set(kwargs)})
        if not isinstance(observation_space, spaces.Dict) or not set(KEYS) <= set(observation_space.spaces):
            raise InputError(
                f"observation space {observation_space} is not one that atoms are placed in; "
                f"it needs the entries {', '.join(KEYS)}"
            )
        if action_space.shape != (FocalCodec.size,):
            raise InputError(
                f"action space {action_space} is not the focal codec's; expected Box(-1, 1, ({FocalCodec.size},))"
            )
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """A placeholder."""
        return NoFeatures(self.observation_space, features_dim=1)

    def _build(self, lr_schedule: Schedule) -> None:
        symbols = cast(spaces.Dict, self.observation_space)["bag"].shape
        assert symbols is not None
        self.agent = CovariantAgent(symbols[0], self.settings)
        if isinstance(self.agent.view, CompositionView):
            self.composition_shape = asdict(self.agent.view.network.shape)
            self.settings = replace(self.settings, composition_shape=self.composition_shape)
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = self.optimizer_class(learned, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **asdict(self.settings)}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Actions (B, 6), values (B, 1) and log-probabilities (B,)."""
        verdict = self.agent(obs, None, deterministic)
        return verdict.action, verdict.value, verdict.log_prob

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities (B,) and entropies (B,)."""
        verdict = self.agent(obs, actions)
        return verdict.value, verdict.log_prob, verdict.entropy

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Expected returns (B, 1)."""
        return self.agent.value(cast(dict[str, Tensor], obs))

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        action: Tensor = self.agent(observation, None, deterministic).action
        return action

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Refused, since the four choices depend on one another."""
        raise InputError("the covariant policy has no one distribution; use log_prob(observation, action) or predict")

    def log_prob(self, observation: PyTorchObs, action: Tensor) -> Tensor:
        """(B,) nats of actions (B, 6): probabilities of focus and element, density in Å and steradian."""
        log_prob: Tensor = self.agent(observation, action).log_prob
        return log_prob
