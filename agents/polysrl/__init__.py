"""PolySRL: compositions as distributions, trained on the structures that they have."""

from __future__ import annotations

from typing import Any

__all__ = ["CompositionEncoder"]


def __getattr__(name: str) -> Any:
    if name != "CompositionEncoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from megen_gym.agents.polysrl.model import CompositionEncoder

    return CompositionEncoder
