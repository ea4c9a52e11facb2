"""Molecules that training must not see, by what is true of them: ``"gap>4.0 and n_atoms<=20"``."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from ase.formula import Formula

from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.properties import COMPOSITION, N_ATOMS, N_HEAVY, counts, n_heavy_atoms
from megen_gym.errors import InputError, nearest
from megen_gym.structure import BoolArray, FloatArray

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": operator.ne, "==": operator.eq, "=": operator.eq, "<=": operator.le, "<": operator.lt, ">=": operator.ge,
    ">": operator.gt,
}  # fmt: skip

_TERM = re.compile(r"\s*([A-Za-z_]\w*)\s*(!=|==|<=|>=|=|<|>)\s*(.+?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Term:
    """One comparison.

    Attributes:
        property: Of the molecule.
        operator: One of `OPERATORS`.
        value: A number, numbers for a vector (all of them must compare so), or a formula for the composition.
    """

    property: str
    operator: str
    value: float | tuple[float, ...] | str

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise InputError(f"unknown operator {self.operator!r} in a filter; {nearest(self.operator, OPERATORS)}")
        if self.property == COMPOSITION:
            formula_of(self.value)
        elif isinstance(self.value, str):
            raise InputError(f"the filter compares {self.property} with {self.value!r}; give a number")

    def of(self, molecules: Molecules) -> BoolArray:
        """(M,) where it is true."""
        if self.property == COMPOSITION:
            return self._composition(molecules)
        values = _values(molecules, self.property)
        wanted = np.asarray(self.value, dtype=np.float64).reshape(-1)
        flat = values.reshape(len(molecules), -1)
        if len(wanted) not in (1, flat.shape[1]):
            raise InputError(
                f"the filter compares {self.property}, which has {flat.shape[1]} numbers, with {len(wanted)}; "
                "give as many, or one for all"
            )
        return np.asarray(OPERATORS[self.operator](flat, wanted).all(1))

    def _composition(self, molecules: Molecules) -> BoolArray:
        formula = formula_of(self.value)
        types = sorted(set(formula) | set(np.unique(molecules.numbers).tolist()) - {0})
        here = counts(molecules.numbers, types)
        wanted = np.array([formula.get(number, 0) for number in types])
        if self.operator == "!=":
            return np.asarray((here != wanted).any(1))
        strict = self.operator in ("<", ">")
        found: BoolArray = OPERATORS[self.operator + "=" * strict](here, wanted).all(1)
        return found & (here != wanted).any(1) if strict else found


Filter = tuple[Term, ...]
"""Terms of which all must be true."""


def parse(given: Any) -> tuple[Filter, ...]:
    """Filters, of which one must be true for a molecule to be kept from training.

    Args:
        given: Text of terms joined by ``and``, and of filters joined by ``or``; or SchNetPack's form, as JSON text or
            as it is: a list of ``{"property": "gap", "operator": "<", "value": 4.0}``, whose entries may be lists of
            which all count; None or "" for none.

    Raises:
        InputError: for anything else.

    >>> [[(t.property, t.operator, t.value) for t in terms] for terms in parse("gap>4 and n_atoms<=20 or gap<1")]
    [[('gap', '>', 4.0), ('n_atoms', '<=', 20.0)], [('gap', '<', 1.0)]]
    """
    if given is None or (isinstance(given, str | list | tuple) and not len(given)):
        return ()
    if isinstance(given, str):
        if given.lstrip()[:1] not in ("[", "{"):
            parts = re.split(r"\s+or\s+", given.strip())
            return tuple(tuple(map(_term, re.split(r"\s+and\s+", part))) for part in parts)
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            raise InputError(f"the filters {given!r} are no JSON ({error}); write them like gap>4.0") from None
    entries = [given] if isinstance(given, Mapping) else list(given)
    return tuple(_filter(entry) for entry in entries)


def excluded(molecules: Molecules, filters: Sequence[Filter]) -> BoolArray:
    """(M,) which molecules at least one filter matches.

    Raises:
        InputError: for a property that the molecules do not have.
    """
    found = np.zeros(len(molecules), dtype=bool)
    for terms in filters:
        found |= np.logical_and.reduce([term.of(molecules) for term in terms])
    return found


def properties_of(filters: Sequence[Filter]) -> list[str]:
    """Names of the properties that filters look at."""
    return list(dict.fromkeys(term.property for terms in filters for term in terms))


def formula_of(value: Any) -> dict[int, int]:
    """Atoms of each atomic number in a formula.

    >>> formula_of("C7O2H10") == {6: 7, 8: 2, 1: 10}
    True
    """
    try:
        found = {atomic_numbers[symbol]: int(count) for symbol, count in Formula(str(value)).count().items()}
    except (ValueError, KeyError):
        found = {}
    if not found or not isinstance(value, str):
        raise InputError(f"the filter compares the composition with {value!r}; give a formula such as C7O2H10")
    return found


def _values(molecules: Molecules, name: str) -> FloatArray:
    if name in molecules.properties:
        return molecules.properties[name]
    computed: dict[str, Callable[[Molecules], Any]] = {N_ATOMS: lambda m: m.n_atoms, N_HEAVY: n_heavy_atoms}
    if name in computed:
        return np.asarray(computed[name](molecules), dtype=np.float64)
    hint = nearest(name, [*molecules.properties, *computed, COMPOSITION])
    raise InputError(f"a filter looks at {name!r}, which the molecules do not have; {hint}")


def _term(text: str) -> Term:
    match = _TERM.fullmatch(text)
    if match is None:
        raise InputError(f"the filter {text!r} is not understood; write it like gap>4.0 and n_atoms<=20")
    return _made(match[1], match[2], match[3])


def _made(name: Any, sign: Any, value: Any) -> Term:
    if name == COMPOSITION:
        return Term(str(name), str(sign), value if isinstance(value, str) else str(value))
    try:
        if isinstance(value, list | tuple):
            return Term(str(name), str(sign), tuple(map(float, value)))
        return Term(str(name), str(sign), float(value))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the filter compares {name} with {value!r}; give a number") from None


def _filter(entry: Any) -> Filter:
    if not isinstance(entry, Mapping) or not {"property", "operator", "value"} <= set(entry):
        raise InputError(f"the filter {entry!r} is not understood; give its property, operator and value")
    name, sign, value = entry["property"], entry["operator"], entry["value"]
    if isinstance(sign, str):
        return (_made(name, sign, value),)
    if not all(isinstance(part, list | tuple) for part in (name, sign, value)) or not len(name) == len(sign) == len(
        value
    ):
        raise InputError(f"the filter {entry!r} has lists of different lengths; give as many properties as values")
    return tuple(map(_made, name, sign, value))
