"""Settings of any family: presets filled in, numbers within their bounds, conditions named once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    bounds: list[tuple[str, Callable[[float], bool], str]] = [
        (names, lambda value, least=least: least <= value < float("inf"), f"at least {least}")
        for least, names in at_least.items()
    ]
    bounds.append((above_zero, lambda value: 0 < value < float("inf"), "a number above 0"))
    bounds.append((fractions, lambda value: 0 <= value < 1, "a number from 0 up to, but not, 1"))
    for names, within, wanted in bounds:
        for name in names.split():
            value = getattr(settings, name)
            if value is not None and not within(value):
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
