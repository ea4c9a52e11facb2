"""The state of optimisers as named tensors, as checkpoints hold it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, optim


def optimizer_tensors(optimizer: optim.Optimizer, name: str = "optimizer") -> dict[str, Tensor]:
    """The state of an optimiser as tensors by name."""
    state = optimizer.state_dict()["state"]
    return {f"{name}.{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def load_optimizer(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor], name: str = "optimizer") -> None:
    """The inverse of :func:`optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{name}."):
            index, field = key.removeprefix(f"{name}.").split(".")
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
