"""Weighted sums of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from megen_gym.errors import InputError
from megen_gym.rewards.base import Known, Outcome, Reward
from megen_gym.rewards.registry import reward_from_spec
from megen_gym.structure import StructureBatch

Spec = Reward | str | Mapping[str, Any]


class SumReward(Reward):
    """Weighted sum of rewards: value = sum_i w_i value_i.

    Each part has a label, its name (a second "contacts" is "contacts_2"). Terms are the weighted value of each part
    under its label, so that they add up to the reward, and the part's own terms, as they are, under ``label.term``.
    A structure that one part cannot judge is an error of the sum, with every part's reason.

    A sum within a sum is flattened, its weights multiplied: ``0.5 * (a + 2 * b)`` has the parts 0.5 a and 1.0 b.

    Args:
        rewards: Names, descriptions ``{"name": ..., "weight": 0.1, **kwargs}``, or rewards.
        weights: One per reward, multiplied with the description's own weight; 1 by default.
        invalid: Reward of a move that the task refuses. By default the sum of \\|w_i\\| invalid_i, which keeps a
            refusal as bad relative to a placement as it was in the parts, whatever the signs of the weights.

    Attributes:
        parts: (label, weight, reward) of each part.

    Raises:
        InputError: for no reward, a weight that is not a finite number, or a wrong number of weights.

    >>> reward = SumReward(["lj", {"name": "contacts", "weight": 0.1}], weights=[2.0, 1.0])
    >>> [(label, weight) for label, weight, _ in reward.parts]
    [('lj', 2.0), ('contacts', 0.1)]
    """

    def __init__(
        self, rewards: Sequence[Spec], weights: Sequence[float] | None = None, invalid: float | None = None
    ) -> None:
        if isinstance(rewards, (str, Mapping)) or not rewards:
            raise InputError(f"a sum of rewards was given {rewards!r}; expected a list of one or more rewards")
        if weights is not None and len(weights) != len(rewards):
            raise InputError(f"{len(rewards)} rewards have {len(weights)} weights; give one weight per reward")
        self.parts: list[tuple[str, float, Reward]] = []
        self.invalid = 0.0
        for spec, factor in zip(rewards, weights if weights is not None else [1.0] * len(rewards), strict=True):
            label, weight, reward = _build(spec)
            weight = _number(weight, label) * _number(factor, label)
            self.invalid += abs(weight) * reward.invalid
            inner = reward.parts if isinstance(reward, SumReward) else [(label, 1.0, reward)]
            for name, share, part in inner:
                self.parts.append((self._free(name), weight * share, part))
        if invalid is not None:
            self.invalid = float(invalid)

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        total = Outcome(np.zeros(len(after)))
        for label, weight, reward in self.parts:
            prefix = f"{label}."
            remembered = {key.removeprefix(prefix): known[key] for key in known or {} if key.startswith(prefix)}  # type: ignore[index]
            outcome = reward(before, after, remembered or None)
            total.value = total.value + weight * outcome.value
            total.terms[label] = weight * outcome.value
            total.terms |= {prefix + key: value for key, value in outcome.terms.items()}
            total.known |= {prefix + key: value for key, value in outcome.known.items()}
            for row, why in outcome.errors.items():
                earlier = f"{total.errors[row]}; " if row in total.errors else ""
                total.errors[row] = f"{earlier}{label}: {why}"
        return total

    def _free(self, label: str) -> str:
        taken = {name for name, _, _ in self.parts}
        stem, count = label, 1
        while label in taken:
            count += 1
            label = f"{stem}_{count}"
        return label


def _build(spec: Spec) -> tuple[str, float, Reward]:
    if isinstance(spec, Reward):
        name = type(spec).__name__.removesuffix("Reward") or "reward"
        return name.lower(), 1.0, spec
    if isinstance(spec, str):
        return _label(spec), 1.0, reward_from_spec(spec)
    options = {key: value for key, value in spec.items() if key != "weight"}
    return _label(str(options.get("name"))), spec.get("weight", 1.0), reward_from_spec(options)


def _label(name: str) -> str:
    """The last word of an import path.

    >>> _label("ase.calculators.emt.EMT"), _label("mine:Ring"), _label("dart")
    ('EMT', 'Ring', 'dart')
    """
    return name.replace(":", ".").rpartition(".")[2]


def _number(weight: Any, label: str) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)) or not np.isfinite(weight):
        raise InputError(f"the weight of reward {label!r} is {weight!r}; expected a finite number")
    return float(weight)
