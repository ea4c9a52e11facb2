"""What molecules are asked for: from the words of a command line to values of each condition."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from megen_gym.agents.gschnet.conditions import COMPOSITION, Condition, tensors
from megen_gym.bags import parse_formula
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray

LOG = logging.getLogger("megen_gym")


def parse_conditions(text: str) -> dict[str, str]:
    """Names and values of ``gap=4.0,composition=C7H10O2``.

    Raises:
        InputError: for a part that is no ``name=value``, or a name that stands twice.

    >>> parse_conditions("gap=4.0, fingerprint=[0,1]")
    {'gap': '4.0', 'fingerprint': '[0,1]'}
    """
    found: dict[str, str] = {}
    for part in re.split(r",(?![^\[]*\])", text):
        if not part.strip():
            continue
        name, sign, value = (word.strip() for word in part.partition("="))
        if not sign or not name or not value:
            raise InputError(f"condition {part.strip()!r} cannot be read; write name=value, such as gap=4.0")
        if name in found:
            raise InputError(f"condition {name} is given twice; give it once")
        found[name] = value
    return found


def values_of(conditions: Sequence[Condition], asked: Mapping[str, object]) -> dict[str, Tensor]:
    """(1, K) of each condition of a model.

    A number of atoms that goes without saying from the composition is filled in.

    Args:
        conditions: Of the model.
        asked: Values by name: numbers, lists, formulas, or words that say them.

    Raises:
        InputError: for a condition that the model does not have or lacks, or a value of the wrong kind.
    """
    names = [condition.name for condition in conditions]
    for name in asked:
        if name not in names:
            known = f"; it was trained with {', '.join(names)}" if names else "; it was trained without conditions"
            hint = f", {nearest(name, names)}" if names else ""
            raise InputError(f"the model knows no condition {name!r}{known}{hint}")
    given = dict(asked)
    if COMPOSITION in given:
        given |= _implied(given[COMPOSITION], [name for name in names if name not in given])
    return tensors(conditions, {c.name: _value(c, given[c.name])[None] for c in conditions if c.name in given})


def _implied(composition: object, missing: Sequence[str]) -> dict[str, object]:
    """Conditions that a composition says."""
    counts = parse_formula(composition, "C7H10O2")
    total = sum(counts.values())
    said: dict[str, object] = {"n_atoms": total, "n_heavy_atoms": total - counts.get("H", 0)}
    return {name: value for name, value in said.items() if name in missing}


def _value(condition: Condition, asked: object) -> FloatArray:
    """(K,) numbers of one condition; a warning where they are outside of what was trained on."""
    if condition.kind == "composition":
        value = _composition(condition, asked)
        size = float(value.sum())
    else:
        words = asked.strip("[]() ").split(",") if isinstance(asked, str) else np.atleast_1d(np.asarray(asked))
        try:
            value = np.array([float(word) for word in words])
        except (TypeError, ValueError):
            raise InputError(f"condition {condition.name} is {asked!r}; give {condition.n_in} number(s)") from None
        size = float(value[0]) if condition.kind == "scalar" else float(np.abs(value).max())
    if not np.isfinite(value).all():
        raise InputError(f"condition {condition.name} is {asked!r}; give finite numbers")
    slack = 1e-6 * max(1.0, abs(condition.high))
    if not condition.low - slack <= size <= condition.high + slack:
        what = "number of atoms" if condition.kind == "composition" else condition.name
        LOG.warning(f"{what} {size:g} is outside of what the model was trained on: {condition.seen}")
    return value


def _composition(condition: Condition, asked: object) -> FloatArray:
    from ase.data import atomic_numbers, chemical_symbols

    counts = parse_formula(asked, "C7H10O2")
    known = [chemical_symbols[z] for z in condition.atom_types]
    strange = [name for name in counts if name not in known]
    if strange or not any(counts.values()):
        raise InputError(
            f"composition {asked!r} contains {', '.join(strange) or 'no atoms'}; the model knows {', '.join(known)}"
        )
    value = np.zeros(len(known))
    for name, count in counts.items():
        value[condition.atom_types.index(atomic_numbers[name])] = count
    return value
