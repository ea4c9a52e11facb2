"""Structures as the page carries them: arrays in base64 and a little JSON, lowest energy first."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors

from megen_gym.errors import InputError
from megen_gym.io import energy_of

UNGROUPED = "structures"
"""Group of a structure that names none."""

MOST_COLUMNS = 12
"""Values shown beside a structure."""

MOST_LETTERS = 200
"""Longer texts are cut."""

SHOWN_ELSEWHERE = {"energy", "policy", "Lattice", "Properties", "pbc"}


def energy(atoms: Atoms) -> float:
    """The energy stored with a structure, eV; NaN if there is none or it is no number."""
    try:
        return energy_of(atoms)
    except (TypeError, ValueError):
        return float("nan")


def group(atoms: Atoms) -> str:
    """The group of a structure: its info "policy"."""
    return str(atoms.info.get("policy", UNGROUPED))


def drawable(atoms: Atoms) -> bool:
    """Whether there is something to draw: atoms, finite positions, and a cell where it is periodic."""
    cell = atoms.cell.array
    finite = bool(np.isfinite(atoms.positions).all() and np.isfinite(cell).all())
    return len(atoms) > 0 and finite and np.linalg.matrix_rank(cell[atoms.pbc]) == atoms.pbc.sum()


def by_energy(structures: Sequence[Atoms]) -> list[Atoms]:
    """Lowest energy first, those without energy last, otherwise in the given order.

    >>> [a.info["energy"] for a in by_energy([Atoms("H", info={"energy": e}) for e in (1.0, -2.0, np.nan, 0.5)])]
    [-2.0, 0.5, 1.0, nan]
    """
    order = np.argsort([energy(atoms) for atoms in structures], kind="stable")
    return [structures[index] for index in order]


def chosen(structures: Sequence[Atoms], most: int) -> list[Atoms]:
    """The lowest in energy, at most `most`, with equal parts for the groups as far as they go.

    Returns:
        Lowest energy first.
    """
    ordered, rank, seen = by_energy(structures), [], dict[str, int]()
    for atoms in ordered:
        name = group(atoms)
        rank.append(seen.get(name, 0))
        seen[name] = rank[-1] + 1
    keep = np.sort(np.argsort(rank, kind="stable")[:most])
    return [ordered[index] for index in keep]


def pack(structures: Sequence[Atoms], groups: Sequence[str]) -> str:
    """The structures as JSON that can stand inside a ``<script>`` element.

    Positions and cells are float32 (Å; relative error 6e-8), energies float64 (eV), all little-endian.

    Args:
        structures: In the order of the page.
        groups: Names of all groups; a structure has the number of its own.

    Raises:
        InputError: for a structure that cannot be drawn.
    """
    for index, atoms in enumerate(structures):
        if not drawable(atoms):
            raise InputError(
                f"structure {index} of the report has no atoms, or positions or a cell that cannot be drawn; "
                "repair or remove it"
            )
    numbers = np.concatenate([np.zeros(0, int), *(atoms.numbers for atoms in structures)])
    kinds, species = np.unique(numbers, return_inverse=True)
    periodic = [atoms for atoms in structures if atoms.pbc.any()]
    place = {name: index for index, name in enumerate(groups)}
    return script_json(
        {
            "elements": [_element(int(number)) for number in kinds],
            "groups": list(groups),
            "count": _base64(np.array([len(atoms) for atoms in structures], "<u4")),
            "species": _base64(species.astype("u1")),
            "positions": _base64(np.concatenate([np.zeros((0, 3)), *(a.positions for a in structures)]).astype("<f4")),
            "pbc": _base64(np.array([atoms.pbc @ [1, 2, 4] for atoms in structures], "u1")),
            "cells": _base64(np.array([_complete(atoms) for atoms in periodic], "<f4")),
            "energy": _base64(np.array([energy(atoms) for atoms in structures], "<f8")),
            "group": _base64(np.array([place[group(atoms)] for atoms in structures], "<u2")),
            "info": _columns(structures),
        }
    )


def script_json(content: Any) -> str:
    """JSON that no HTML parser takes for a tag.

    >>> print(script_json("</script>"))
    "\\u003c/script\\u003e"
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _complete(atoms: Atoms) -> Any:
    """(3, 3) cell vectors, Å; one that is missing, or spans no volume, stands upright on the others."""
    cell = atoms.cell.copy()
    if np.linalg.matrix_rank(cell.complete().array) < 3:
        cell[~atoms.pbc] = 0
    return cell.complete().array


def _base64(array: np.ndarray[Any, Any]) -> str:
    return b64encode(array.tobytes()).decode()


def _element(number: int) -> dict[str, Any]:
    red, green, blue = np.round(255 * jmol_colors[number]).astype(int)
    colour = f"#{red:02x}{green:02x}{blue:02x}"
    return {"symbol": chemical_symbols[number], "colour": colour, "radius": round(float(covalent_radii[number]), 3)}


def _columns(structures: Sequence[Atoms]) -> Mapping[str, list[Any]]:
    """Numbers, truth values and texts of the structures' info by name; None where one has none."""
    names: dict[str, None] = {}
    for atoms in structures:
        for name, value in atoms.info.items():
            if name not in SHOWN_ELSEWHERE and _plain(value) is not None:
                names.setdefault(str(name))
    shown = list(names)[:MOST_COLUMNS]
    return {name: [_plain(atoms.info.get(name)) for atoms in structures] for name in shown}


def _plain(value: Any) -> bool | int | float | str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.8g}") if np.isfinite(value) else None
    if isinstance(value, bool | int):
        return value
    return value[:MOST_LETTERS] if isinstance(value, str) else None
