"""Crystals by name: the templates that need no file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ase import Atoms
from ase.data import chemical_symbols

from megen_gym.bags import parse_formula
from megen_gym.errors import InputError, nearest, require
from megen_gym.rules import is_number

BULK: dict[str, dict[str, Any]] = {
    "sc": {"formula": "Po", "a": 3.36, "cubic": True},
    "fcc": {"formula": "Cu", "a": 3.61, "cubic": True},
    "bcc": {"formula": "Fe", "a": 2.87, "cubic": True},
    "hcp": {"formula": "Mg", "a": 3.21, "c": 5.21},
    "diamond": {"formula": "Si", "a": 5.43, "cubic": True},
    "zincblende": {"formula": "GaAs", "a": 5.65, "cubic": True},
    "rocksalt": {"formula": "NaCl", "a": 5.64, "cubic": True},
    "cesiumchloride": {"formula": "CsCl", "a": 4.12, "cubic": True},
    "fluorite": {"formula": "CaF2", "a": 5.46, "cubic": True},
    "wurtzite": {"formula": "ZnO", "a": 3.25, "c": 5.21},
}
"""What ase.build.bulk builds: the default formula and its lattice parameters (Å)."""

SITES: dict[str, tuple[dict[str, Any], int, list[tuple[int, tuple[float, float, float]]]]] = {
    "perovskite": (
        {"formula": "SrTiO3", "a": 3.905},
        221,
        [(1, (0.5, 0.5, 0.5)), (1, (0.0, 0.0, 0.0)), (3, (0.5, 0.0, 0.0))],
    ),
    "l12": ({"formula": "Cu3Au", "a": 3.75}, 221, [(1, (0.0, 0.0, 0.0)), (3, (0.0, 0.5, 0.5))]),
    "l10": ({"formula": "CuAu", "a": 2.80, "c": 3.67}, 123, [(1, (0.0, 0.0, 0.0)), (1, (0.5, 0.5, 0.5))]),
    "rutile": ({"formula": "TiO2", "a": 4.59, "c": 2.96}, 136, [(1, (0.0, 0.0, 0.0)), (2, (0.305, 0.305, 0.0))]),
}
"""Default formula and lattice parameters (Å), space group, and the sites: atoms per formula unit, fractions."""

PROTOTYPES = (*BULK, *SITES)
"""All names."""


def prototype(name: str, options: Mapping[str, Any] | None = None) -> Atoms:
    """The conventional cell of a prototype, periodic along all axes.

    Args:
        name: One of `PROTOTYPES`.
        options: `formula` and the lattice parameters `a`, `c` (Å); for those of ``ase.build.bulk`` also its other
            arguments, e.g. ``{"formula": "MgO", "a": 4.21, "cubic": False}``. An element's own lattice constant is
            used where `formula` is an element and `a` is not given.

    Raises:
        InputError: for an unknown name or option, or a formula that does not fit.

    >>> prototype("perovskite", {"formula": "BaTiO3", "a": 4.0}).get_chemical_formula()
    'BaO3Ti'
    >>> len(prototype("rocksalt"))
    8
    """
    if name not in PROTOTYPES:
        raise InputError(f"unknown prototype {name!r}; {nearest(str(name), PROTOTYPES)}")
    given = dict(options or {})
    if name in BULK:
        return _bulk(name, given)
    defaults, group, sites = SITES[name]
    _check(name, given, list(defaults), str(defaults["formula"]))
    if "formula" in given and "a" not in given:
        raise InputError(f"prototype {name!r} of {given['formula']!r} needs its lattice constant; give a in Å")
    chosen = defaults | given
    from ase.spacegroup import crystal

    try:
        a = float(chosen["a"])
        c = float(chosen.get("c", a))
        return crystal(
            _elements(name, str(chosen["formula"]), [count for count, _ in sites]),
            [place for _, place in sites],
            spacegroup=group,
            cellpar=[a, a, c, 90, 90, 90],
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"prototype {name!r} cannot be built from {chosen} ({error}); give a and c in Å") from error


def _bulk(name: str, given: dict[str, Any]) -> Atoms:
    from ase.build import bulk

    known = ["formula", "a", "b", "c", "alpha", "covera", "u", "orthorhombic", "cubic"]
    _check(name, given, known, str(BULK[name]["formula"]))
    defaults = BULK[name]
    if "formula" in given:  # the default lattice constants are those of the default formula
        defaults = {key: value for key, value in defaults.items() if key == "cubic"}
    chosen = defaults | given
    formula = chosen.pop("formula")
    try:
        return bulk(formula, name, **chosen)
    except (ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"prototype {name!r} cannot be built from {formula!r} with {chosen} ({error}); "
            "give a formula with as many elements as the prototype has, and a in Å"
        ) from error


def _check(name: str, given: Mapping[str, Any], known: list[str], example: str) -> None:
    for key, value in given.items():
        if key not in known:
            raise InputError(f"prototype {name!r} has no option {key!r}; {nearest(str(key), known)}")
        if key == "formula":
            for element in parse_formula(value, example):
                if element not in chemical_symbols[1:]:
                    hint = nearest(element, chemical_symbols[1:])
                    raise InputError(f"formula {value!r} has the unknown element {element!r}; {hint}")
        elif key not in ("orthorhombic", "cubic") and not (is_number(value) and 0 < value < math.inf):
            unit = "degrees" if key == "alpha" else "no unit" if key in ("covera", "u") else "Å"
            raise InputError(f"{key} of the prototype {name!r} is {value!r}; give a positive number ({unit})")


def _elements(name: str, formula: str, counts: list[int]) -> list[str]:
    """The element of each site: the first of the formula, not used yet, that occurs as often as the site."""
    example = str(SITES[name][0]["formula"])
    left = parse_formula(formula, example)
    chosen = []
    for count in counts:
        fitting = [element for element, number in left.items() if number == count]
        if not fitting:
            raise InputError(f"formula {formula!r} does not fit the prototype {name!r}; write it like {example}")
        chosen.append(fitting[0])
        del left[fitting[0]]
    if left:
        raise InputError(f"formula {formula!r} has too many elements for {name!r}; write it like {example}")
    return chosen


def aflow_prototypes() -> Iterator[tuple[str, Any]]:
    """Label and structure (pymatgen's) of the ordered prototypes of the AFLOW library that pymatgen ships.

    Source: Mehl et al., Comput. Mater. Sci. 136, S1 (2017). A label can come several times.

    Raises:
        InputError: where pymatgen is not installed.
    """
    try:
        from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
    except ImportError:
        require("pymatgen", "crystals")
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        if entry["snl"].structure.is_ordered:
            yield entry["tags"]["aflow"], entry["snl"].structure
