"""What molecules are asked for: numbers, vectors and compositions, embedded beside the features of a canvas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym.agents.gschnet.layers import perceptron
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray

COMPOSITION = "composition"
WIDTH = 128
LAYERS = 5


@dataclass(frozen=True)
class Condition:
    """One condition and how it is embedded (published: 64 features by three layers).

    Attributes:
        name: Of the property.
        kind: A number, a vector, or the atoms of each type.
        unit: Of the property.
        low, high: Smallest and largest value that was trained on.
        condition_min, condition_max, grid_spacing: Of the Gaussians by which a number is seen; for the composition, of
            the number of atoms.
        n_in: Length of a vector, or number of elements.
        atom_types: Of the composition.
        skip_h: Leave hydrogen out of the composition.
        n_features, n_layers: Of the embedding.
    """

    name: str
    kind: Literal["scalar", "vector", "composition"]
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    condition_min: float = 0.0
    condition_max: float = 1.0
    grid_spacing: float = 0.25
    n_in: int = 1
    atom_types: tuple[int, ...] = ()
    skip_h: bool = False
    n_features: int = 64
    n_layers: int = 3

    @property
    def seen(self) -> str:
        """Smallest and largest value that was trained on, in words."""
        return f"{self.low:g} to {self.high:g} {self.unit}".strip()

    @property
    def centres(self) -> FloatArray:
        """Of the Gaussians."""
        count = math.ceil((self.condition_max - self.condition_min) / self.grid_spacing - 1e-9) + 1
        return np.linspace(self.condition_min, self.condition_max, count)

    @classmethod
    def of(
        cls,
        name: str,
        values: FloatArray,
        unit: str = "",
        atom_types: Sequence[int] = (),
        options: Mapping[str, float] | None = None,
    ) -> Condition:
        """Suited to training values (M,), (M, K), or (M, types) atoms of each type for the composition.

        Args:
            options: Fields to set on purpose, e.g. ``{"condition_min": 2, "condition_max": 11, "grid_spacing": 2.25}``.

        Raises:
            InputError: for options that are not there or span nothing.
        """
        given = dict(options or {})
        unknown = sorted(set(given) - set(cls.__dataclass_fields__) | set(given) & {"name", "kind", "unit", "n_in"})
        if unknown:
            known = ["condition_min", "condition_max", "grid_spacing", "n_features", "n_layers", "skip_h"]
            raise InputError(f"condition {name!r} has no option {unknown[0]!r}; {nearest(unknown[0], known)}")
        for option in {"n_features", "n_layers"} & set(given):
            if not 1 <= given[option] == int(given[option]):
                raise InputError(f"{option} of condition {name!r} is {given[option]}; give a whole number from 1")
            given[option] = int(given[option])
        if "skip_h" in given:
            given["skip_h"] = bool(given["skip_h"])
            if name == COMPOSITION and set(atom_types) == {1}:
                raise InputError("there is nothing but hydrogen in the composition, so that skip_h leaves nothing")
        fields: dict[str, object] = {"name": name, "unit": unit}
        if name == COMPOSITION:
            span = values.sum(1)
            fields |= {"kind": "composition", "atom_types": tuple(atom_types), "n_in": len(atom_types)}
            fields |= {"condition_min": 0.0, "condition_max": 1.25 * float(span.max())}
        elif values.ndim == 2 and values.shape[1] > 1:
            span = np.abs(values).max(1)
            fields |= {"kind": "vector", "n_in": values.shape[1]}
        else:
            span = values.reshape(len(values))
            low, high = np.quantile(span, [0.01, 0.99])
            fields |= {"kind": "scalar", "condition_min": float(low), "condition_max": float(max(high, low + 1e-6))}
        fields |= {"low": float(span.min()), "high": float(span.max())} | given
        reach = float(fields.get("condition_max", 1.0)) - float(fields.get("condition_min", 0.0))  # type: ignore[arg-type]
        fields.setdefault("grid_spacing", reach / 4)
        if reach <= 0 or not float(fields["grid_spacing"]) > 0:  # type: ignore[arg-type]
            raise InputError(f"the Gaussians of condition {name!r} span nothing; give condition_min < condition_max")
        return cls(**fields)  # type: ignore[arg-type]


class Gaussians(nn.Module):
    """A number seen by Gaussians as wide as they are apart, and three layers."""

    centres: Tensor

    def __init__(self, condition: Condition) -> None:
        super().__init__()
        centres = condition.centres
        self.register_buffer("centres", torch.tensor(centres, dtype=torch.get_default_dtype()), persistent=False)
        self.width = float(centres[1] - centres[0])
        self.layers = perceptron(len(centres), condition.n_features, condition.n_features, condition.n_layers)

    def forward(self, value: Tensor) -> Tensor:
        """(B, 64) from (B, 1)."""
        return self.layers(torch.exp(-0.5 * ((value - self.centres) / self.width) ** 2))  # type: ignore[no-any-return]


class Composition(nn.Module):
    """Elements weighted by their share, and the number of atoms."""

    def __init__(self, condition: Condition) -> None:
        super().__init__()
        types = [z for z in condition.atom_types if not (condition.skip_h and z == 1)]
        self.columns = [condition.atom_types.index(z) for z in types]
        self.register_buffer("types", torch.tensor(types), persistent=False)
        self.elements = nn.Embedding(max(types) + 1, 16)
        self.layers = perceptron(16 * len(types), condition.n_features, condition.n_features, condition.n_layers)
        self.size = Gaussians(condition)

    def forward(self, counts: Tensor) -> Tensor:
        """(B, 128) from (B, types) atoms of each type."""
        kept = counts[:, self.columns]
        share = kept / kept.sum(1, keepdim=True).clamp(min=1e-9)
        elements = (share[:, :, None] * self.elements(self.types)).flatten(1)
        return torch.cat([self.layers(elements), self.size(counts.sum(1, keepdim=True))], 1)


class Conditioning(nn.Module):
    """Embeds all conditions of a model together.

    Args:
        conditions: At least one.
    """

    features = WIDTH

    def __init__(self, conditions: Sequence[Condition]) -> None:
        super().__init__()
        self.conditions = tuple(conditions)
        self.each = nn.ModuleDict({c.name: self._embedding(c) for c in conditions})
        width = sum(c.n_features * (2 if c.kind == "composition" else 1) for c in conditions)
        self.layers = perceptron(width, WIDTH, WIDTH, LAYERS)

    @staticmethod
    def _embedding(condition: Condition) -> nn.Module:
        if condition.kind == "composition":
            return Composition(condition)
        if condition.kind == "vector":
            return perceptron(condition.n_in, condition.n_features, condition.n_features, condition.n_layers)
        return Gaussians(condition)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B, 128) from each condition's values (B, K)."""
        return self.layers(torch.cat([self.each[c.name](values[c.name]) for c in self.conditions], 1))  # type: ignore[no-any-return]


def tensors(conditions: Sequence[Condition], values: Mapping[str, FloatArray]) -> dict[str, Tensor]:
    """(B, K) float32 of each condition.

    Raises:
        InputError: for one that is missing or has another length.
    """
    out = {}
    for condition in conditions:
        if condition.name not in values:
            raise InputError(
                f"the model needs a value for {condition.name} ({condition.seen} was trained on); "
                f"give --condition {condition.name}=VALUE"
            )
        array = np.asarray(values[condition.name], dtype=np.float32)
        out[condition.name] = torch.from_numpy(array.reshape(len(array), -1))
        if out[condition.name].shape[1] != condition.n_in:
            raise InputError(
                f"condition {condition.name} has {out[condition.name].shape[1]} numbers; give {condition.n_in}"
            )
    return out
