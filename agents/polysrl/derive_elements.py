"""Derive the bundled tables of element features from the files that come with matminer.

``python -m megen_gym.agents.polysrl.derive_elements`` writes ``bundle/elements.npz``; sources and licences are in
``bundle/README.md``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from megen_gym.agents.polysrl.elements import FILE, LAST, MAGPIE
from megen_gym.errors import require
from megen_gym.runs import atomic
from megen_gym.structure import FloatArray


def derive() -> dict[str, FloatArray]:
    """Tables (LAST + 1, D) by name, NaN where an element has no value.

    Raises:
        InputError: where matminer is not installed.
    """
    try:
        import matminer.utils
        from matminer.utils.data import MagpieData
        from pymatgen.core import Element
    except ImportError:
        require("matminer", "crystals")
    folder = Path(matminer.utils.__file__).parent / "data_files"
    words = json.loads((folder / "matscholar_els.json").read_text())
    bins = json.loads((folder / "cgcnn_atom_feature.json").read_text())
    learned = json.loads((folder / "megnet_elemental_embedding.json").read_text())
    tables = {
        "matscholar": {atomic_numbers[symbol]: row for symbol, row in words.items()},
        "cgcnn": {int(number): row for number, row in bins.items()},
        "megnet16": {number: row for number, row in enumerate(learned) if number},
    }
    magpie, known = MagpieData(impute_nan=False), {}
    for number in range(1, LAST + 1):
        element = Element.from_Z(number)
        known[number] = [magpie.get_elemental_property(element, name) for name in MAGPIE]
    tables["magpie"] = known
    return {name: _table(rows) for name, rows in tables.items()}


def _table(rows: dict[int, list[float]]) -> FloatArray:
    table = np.full((LAST + 1, len(next(iter(rows.values())))), np.nan)
    for number, row in rows.items():
        if number <= LAST:
            table[number] = row
    return table


if __name__ == "__main__":
    arrays: dict[str, Any] = {name: table.astype(np.float32) for name, table in derive().items()}
    FILE.parent.mkdir(exist_ok=True)
    with atomic(FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
