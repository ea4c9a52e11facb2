"""Units by the names that ASE and SchNetPack give them, with the check that one can be turned into the other."""

from __future__ import annotations

import math
import re
from typing import Any

from ase import units

from megen_gym.errors import InputError, nearest

NONE = ("", "1", "arb.unit", "arb.units", "none", "unitless", "dimensionless")
"""Names of no unit at all, without their blanks."""

Dimension = tuple[int, int, int, int, int, int]
"""Powers of energy, length, charge, time, mass and temperature; an amount (mol) has none, as in ASE."""

_PLAIN: Dimension = (0, 0, 0, 0, 0, 0)
_ENERGY: Dimension = (1, 0, 0, 0, 0, 0)
_LENGTH: Dimension = (0, 1, 0, 0, 0, 0)
_CHARGE: Dimension = (0, 0, 1, 0, 0, 0)
_DIPOLE: Dimension = (0, 1, 1, 0, 0, 0)
_TIME: Dimension = (0, 0, 0, 1, 0, 0)
_RATE: Dimension = (0, 0, 0, -1, 0, 0)
_MASS: Dimension = (0, 0, 0, 0, 1, 0)
_WARMTH: Dimension = (0, 0, 0, 0, 0, 1)
_PRESSURE: Dimension = (1, -3, 0, 0, 0, 0)

KNOWN: dict[str, tuple[float, Dimension]] = {
    "eV": (units.eV, _ENERGY), "meV": (1e-3 * units.eV, _ENERGY), "Ha": (units.Ha, _ENERGY),
    "Hartree": (units.Hartree, _ENERGY), "Eh": (units.Hartree, _ENERGY), "mHa": (1e-3 * units.Ha, _ENERGY),
    "Ry": (units.Ry, _ENERGY), "Rydberg": (units.Rydberg, _ENERGY), "J": (units.J, _ENERGY), "kJ": (units.kJ, _ENERGY),
    "kcal": (units.kcal, _ENERGY), "cal": (1e-3 * units.kcal, _ENERGY), "invcm": (units.invcm, _ENERGY),
    "Ang": (units.Ang, _LENGTH), "Angstrom": (units.Angstrom, _LENGTH), "A": (units.Ang, _LENGTH),
    "Å": (units.Ang, _LENGTH), "nm": (units.nm, _LENGTH), "pm": (1e-3 * units.nm, _LENGTH), "m": (units.m, _LENGTH),
    "Bohr": (units.Bohr, _LENGTH), "a0": (units.Bohr, _LENGTH), "e": (1.0, _CHARGE), "C": (units.C, _CHARGE),
    "Debye": (units.Debye, _DIPOLE), "eAng": (1.0, _DIPOLE), "mol": (units.mol, _PLAIN),
    "s": (units.s, _TIME), "second": (units.second, _TIME), "ps": (1e3 * units.fs, _TIME), "fs": (units.fs, _TIME),
    "Hz": (1 / units.s, _RATE), "MHz": (1e6 / units.s, _RATE), "GHz": (1e9 / units.s, _RATE),
    "kg": (units.kg, _MASS), "amu": (1.0, _MASS), "u": (1.0, _MASS), "K": (1.0, _WARMTH),
    "GPa": (units.GPa, _PRESSURE), "Pascal": (units.Pascal, _PRESSURE), "bar": (units.bar, _PRESSURE),
}  # fmt: skip
"""Size in ASE's units (eV, Å, e, amu) and dimension of each unit."""

_SPELLED = {name.lower(): name for name in KNOWN if len(name) > 1}

_PART = re.compile(r"(?P<name>[A-Za-zÅ][A-Za-zÅ0-9_]*|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?:(?:\^|\*\*)(?P<power>-?\d+))?")


def parse(unit: Any) -> tuple[float, Dimension]:
    """Size in ASE's units, and dimension.

    Args:
        unit: Names with powers, multiplied by ``*`` or a blank, each divided by if a ``/`` stands before it, as in
            SchNetPack: ``"kcal/mol"``, ``"eV/Ang"``, ``"a0 a0 a0"``, ``"Bohr^3"``, ``"cal/mol/K"``; None or
            ``"arb. unit"`` for none.

    Raises:
        InputError: for a name that is not known, or text that is no unit.

    >>> parse("kJ/mol")[1] == parse("eV")[1], parse("nm^2")[0]
    (True, 100.0)
    """
    text = "" if unit is None else str(unit).strip()
    if "".join(text.lower().split()) in NONE:
        return 1.0, _PLAIN
    size, powers, at, sign = 1.0, [0] * 6, 0, 1
    while at < len(text):
        if text[at] in " *·/":
            sign = -1 if text[at] == "/" else sign
            at += 1
            continue
        part = _PART.match(text, at)
        if part is None:
            raise InputError(
                f"the unit {text!r} cannot be understood from {text[at:]!r} on; write it like eV, kcal/mol or Bohr^3"
            )
        factor, dimension = _single(part["name"], text)
        power = sign * int(part["power"] or 1)
        size *= factor**power
        powers = [old + power * new for old, new in zip(powers, dimension, strict=True)]
        at, sign = part.end(), 1
    energy, length, charge, time, mass, warmth = powers
    return size, (energy, length, charge, time, mass, warmth)


def factor(source: Any, target: Any, what: str = "a property") -> float:
    """What a number in `source` is multiplied by to be one in `target`.

    Raises:
        InputError: for unknown units, or two that do not measure the same; the sentence begins with `what`.

    >>> round(factor("Ha", "eV"), 4), round(factor("kcal/mol", "kJ/mol"), 6)
    (27.2114, 4.184)
    """
    old, measures = parse(source)
    new, wanted = parse(target)
    if measures != wanted:
        raise InputError(
            f"{what} is in {_said(source)} and was asked for in {_said(target)}, which does not measure the same; "
            "give a unit of the same kind"
        )
    return 1.0 if str(source) == str(target) else old / new


def _single(name: str, text: str) -> tuple[float, Dimension]:
    if name[0].isdigit():
        value = float(name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"the unit {text!r} holds the number {name}; give one above zero, or none")
        return value, _PLAIN
    spelled = name if name in KNOWN else _SPELLED.get(name.lower())
    if spelled is None:
        in_text = f" in {text!r}" if text != name else ""
        raise InputError(f"unknown unit {name!r}{in_text}; {nearest(name, [key for key in KNOWN if key != 'Å'])}")
    return KNOWN[spelled]


def _said(unit: Any) -> str:
    text = "" if unit is None else str(unit)
    return repr(text) if text.strip() else "no unit"
