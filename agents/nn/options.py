"""Settings of any family: presets filled in, numbers within their bounds, conditions named once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from megen_gym.cli import listed
from megen_gym.errors import InputError

S = TypeVar("S")


def filled(settings: S, preset: Mapping[str, Any]) -> S:
    """The settings with the preset's values for those that are null."""
    missing = {name: value for name, value in preset.items() if getattr(settings, name) is None}
    return replace(settings, **missing)  # type: ignore[type-var]


def check_bounds(settings: object, at_least: Mapping[int, str], above_zero: str = "", fractions: str = "") -> None:
    """Refuse numbers that cannot work; those that are null are left alone.

    Args:
        settings: Whose attributes are named, with spaces between the names.
        at_least: By the smallest value; infinity is too much.
        above_zero: Larger than 0, and finite.
        fractions: From 0 up to, but not, 1.

    Raises:
        InputError: naming the first one that is out of bounds.
    """
    first_above_zero = math.ulp(0.0)
    bounds: list[tuple[str, float, float, str]] = [
        *((names, least, math.inf, f"at least {least}") for least, names in at_least.items()),
        (above_zero, first_above_zero, math.inf, "a number above 0"),
        (fractions, 0, 1, "a number from 0 up to, but not, 1"),
    ]
    for names, low, high, wanted in bounds:
        for name in names.split():
            value = getattr(settings, name)
            if value is not None and not low <= value < high:
                raise InputError(f"{name} is {value}; give {wanted}")


def condition_names(text: str) -> list[str]:
    """The names in a list with commas.

    Raises:
        InputError: for one that is there twice.

    >>> condition_names("heat_all, n_atoms")
    ['heat_all', 'n_atoms']
    """
    names = listed(text)
    if len(set(names)) < len(names):
        raise InputError(f"a condition is named twice in {text}; name each once")
    return names
