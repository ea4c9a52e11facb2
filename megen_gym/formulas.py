"""Chemical formulas as text: read with whole and fractional amounts, compared, and sorted by type."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping
from functools import reduce
from string import ascii_uppercase

from ase.data import chemical_symbols

from megen_gym.errors import InputError, nearest

EXAMPLE = "BaTiO3, Ca(OH)2 or Ag0.5Ge1Pb1.75S4"

SYMBOLS = frozenset(chemical_symbols[1:])
"""The 118 elements."""

DIGITS = 6
"""To which the fractions of two compositions are compared."""

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_PLAIN = re.compile(rf"(?:[A-Z][a-z]?(?:{_NUMBER})?)+")
_PAIR = re.compile(r"([A-Z][a-z]?)([0-9.]*)")
_TOKEN = re.compile(
    rf"(?P<blank>\s+)|(?P<symbol>[A-Z][a-z]?)|(?P<number>(?:{_NUMBER})(?:e[-+]?[0-9]+)?)|(?P<open>[(\[{{])"
    r"|(?P<close>[)\]}])|(?P<dot>[·•∙⋅‧*+])|(?P<strange>[a-z]+|.)",
    re.DOTALL,
)
_PARTNER = {")": "(", "]": "[", "}": "{"}
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉（）［］", "0123456789()[]")
_ISOTOPES = {"D": "H", "T": "H"}

_SHIFT = 1.23e-8
"""Added before rounding, so that no share such as 1/128 lies where rounding could go either way."""

_FACTORS = range(1, 21)
"""Factors by which fractional amounts are made whole exactly."""

_ATOMS = range(2, 25)
"""Sizes of the small formulas that amounts may stand for nearly, as Fe0.333O0.667 does for FeO2."""

_NEAR = 5e-4
"""How far the shares of the atoms may then be from theirs."""

_LETTERS = (*ascii_uppercase, *(first + second for first in "ABCDE" for second in ascii_uppercase.lower()))


def amounts_of(formula: str) -> dict[str, float]:
    """Atoms of each element, in the order of the formula.

    Brackets of three kinds may be nested, amounts may be fractional, subscripts may be those of Unicode, and a formula
    may be a sum: ``CuSO4·5H2O``, with ``·``, ``*`` or ``+``. A full stop is always a decimal point.

    Args:
        formula: Such as ``BaTiO3``, ``Ag(W3Br7)2`` or ``Ag0.5Ge1Pb1.75S4``.

    Raises:
        InputError: for a formula that is empty or cannot be read, an unknown element (with the nearest one) or an
            amount that is not above 0, and where in the formula.

    >>> amounts_of("Ag(W3Br7)2")
    {'Ag': 1.0, 'W': 6.0, 'Br': 14.0}
    >>> amounts_of("CuSO4·5H2O")
    {'Cu': 1.0, 'S': 1.0, 'O': 9.0, 'H': 10.0}
    """
    amounts = read_formula(formula, SYMBOLS)
    if not amounts:
        raise InputError(f"formula {formula!r} is empty; write it like {EXAMPLE}")
    for symbol, amount in amounts.items():
        if not 0 < amount < math.inf:
            raise InputError(f"formula {formula!r} has {amount:g} atoms of {symbol}; give amounts above 0")
    return amounts


def read_formula(formula: str, symbols: Container[str] | None = None) -> dict[str, float]:
    """Atoms of each element, in the order of the formula: as :func:`amounts_of`, but 0 atoms, or none, are no error.

    Args:
        formula: The text.
        symbols: Those that may occur; None for anything that looks like one.

    Raises:
        InputError: for a formula that cannot be read.
    """
    if not isinstance(formula, str):
        raise InputError(f"formula {formula!r} is no text; write it like {EXAMPLE}")
    if not _PLAIN.fullmatch(formula):
        return _structured(formula, symbols)
    amounts: dict[str, float] = {}
    for symbol, number in _PAIR.findall(formula):
        amounts[symbol] = amounts.get(symbol, 0.0) + (float(number) if number else 1.0)
    if symbols is not None and any(symbol not in symbols for symbol in amounts):
        return _structured(formula, symbols)
    return amounts


def reduced(amounts: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Elements by alphabet with their share of the atoms: the same for all formulas of one composition.

    >>> reduced(amounts_of("BaTiO3")) == reduced(amounts_of("O0.6Ti0.2Ba0.2"))
    True
    """
    total = sum(amounts.values())
    return tuple((symbol, round(amounts[symbol] / total + _SHIFT, DIGITS)) for symbol in sorted(amounts))


def formula_type(amounts: Mapping[str, float]) -> str:
    """The formula without its elements: amounts in ascending order, with the letters A, B, C...

    Fractional amounts are made whole where they stand for a small formula, else they are shares of the atoms.

    >>> [formula_type(amounts_of(text)) for text in ("BaTiO3", "O6Al4", "Fe0.333O0.667", "Ga0.123As0.877")]
    ['ABC3', 'A2B3', 'AB2', 'A0.123B0.877']
    """
    numbers = sorted(amounts.values())
    whole = _whole(numbers)
    if whole is None:
        total = sum(numbers)
        return _lettered(f"{number / total:.3f}" for number in numbers)
    divisor = reduce(math.gcd, whole)
    return _lettered("" if number == divisor else str(number // divisor) for number in whole)


def _lettered(numbers: Iterable[str]) -> str:
    return "".join(letter + number for letter, number in zip(_LETTERS, numbers, strict=False))


def _whole(numbers: list[float]) -> list[int] | None:
    """Whole numbers in the same proportion, if there are any."""
    if all(number == int(number) for number in numbers):
        return [int(number) for number in numbers]
    for factor in _FACTORS:
        scaled = [number * factor for number in numbers]
        if all(abs(number - round(number)) < 1e-6 for number in scaled):
            return [round(number) for number in scaled]
    total = sum(numbers)
    for size in _ATOMS:
        small = [round(number / total * size) for number in numbers]
        if sum(small) == size and all(
            part and abs(number / total - part / size) < _NEAR for number, part in zip(numbers, small, strict=True)
        ):
            return small
    return None


def _structured(formula: str, symbols: Container[str] | None) -> dict[str, float]:
    """Formulas with brackets, blanks or sums, and the reason why others are none."""
    total: dict[str, float] = {}
    levels: list[dict[str, float]] = [{}]
    opened: list[tuple[str, int]] = []
    factor, begins = 1.0, True
    last: dict[str, float] | None = None
    text = formula if formula.isascii() else formula.translate(_SUBSCRIPTS)
    for token in _TOKEN.finditer(text):
        kind, word, at = token.lastgroup, token[0], token.start() + 1
        if kind == "blank":
            continue
        if kind == "number" and begins:
            factor, begins = float(word), False
            continue
        if last is not None:
            _add(levels[-1], last, float(word) if kind == "number" else 1.0)
            last = None
            if kind == "number":
                continue
        if kind == "symbol" and (symbols is None or word in symbols):
            last = {word: 1.0}
        elif kind == "open":
            opened.append((word, at))
            levels.append({})
        elif kind == "close" and opened and opened[-1][0] == _PARTNER[word] and levels[-1]:
            opened.pop()
            last = levels.pop()
        elif kind == "dot" and not opened and levels[0]:
            _add(total, levels[0], factor)
            levels, factor = [{}], 1.0
        else:
            raise InputError(_reason(formula, kind, word, at))
        begins = kind == "dot"
    if opened:
        raise InputError(f"formula {formula!r} opens {opened[-1][0]!r} at character {opened[-1][1]} for good; close it")
    _add(levels[0], last or {}, 1.0)
    if not levels[0] and (total or not begins):
        raise InputError(f"formula {formula!r} ends where an element was expected; write it like {EXAMPLE}")
    _add(total, levels[0], factor)
    return total


def _add(total: dict[str, float], part: Mapping[str, float], factor: float) -> None:
    for symbol, amount in part.items():
        total[symbol] = total.get(symbol, 0.0) + amount * factor


def _reason(formula: str, kind: str | None, word: str, at: int) -> str:
    where = f"at character {at} of formula {formula!r}"
    if kind == "symbol" or word[0].islower():
        close = _ISOTOPES.get(word) or (word.capitalize() if word.capitalize() in SYMBOLS else None)
        hint = f"did you mean {close!r}?" if close else nearest(word, SYMBOLS)
        return f"unknown element {word!r} {where}; {hint}"
    if kind == "close":
        return f"there is a bracket {word!r} that closes none, or an empty one, {where}; write it like Ca(OH)2"
    return f"there is {word!r} {where}, where an element or a bracket was expected; write it like {EXAMPLE}"
