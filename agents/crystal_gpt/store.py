"""Described crystals in one file: arrays without pickle, and where they are kept for the next time."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np

from megen_gym.agents.nn.caching import digest_of
from megen_gym.crystals import CrystalBatch
from megen_gym.runs import atomic
from megen_gym.structure import FloatArray

FORMAT = 1
"""Of the file, and of what is done to a structure before it gets there; a file of another one is not read."""

Text = np.ndarray[tuple[int, ...], np.dtype[np.str_]]

Stored = tuple[CrystalBatch, tuple[str, ...], FloatArray, Text, tuple[str, ...]]
"""Crystals, names of the properties, (B, P) properties, (B,) ids, sentences about what was skipped."""


def fingerprint(path: Path, symprec: float) -> str:
    """Of a file's content, or of the names and contents of a folder, and of how it is read."""
    import spglib

    return digest_of(path, f"{FORMAT} {spglib.__version__} {float(symprec)!r}")


def write_stored(path: Path, data: Stored) -> None:
    """Write atomically, as compressed npz.

    Raises:
        OSError: what the disk said.
    """
    crystals, names, properties, ids, skipped = data
    arrays = {field.name: getattr(crystals, field.name) for field in fields(crystals)}
    arrays |= {"group": crystals.group.astype(np.int16), "letters": crystals.letters.astype(np.int8)}
    arrays |= {"elements": crystals.elements.astype(np.int16), "properties": properties}
    arrays |= {"names": np.array(names, dtype=np.str_), "ids": ids, "skipped": np.array(skipped, dtype=np.str_)}
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, format=np.array(FORMAT), **arrays)


def read_stored(path: Path) -> Stored | None:
    """What :func:`write_stored` wrote; None where there is nothing, or nothing whole, of this format."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT:
                return None
            arrays = {name: file[name] for name in file.files}
        crystals = CrystalBatch(
            *(arrays[name].astype(np.int64) for name in ("group", "letters", "elements")),
            *(arrays[name].astype(np.float64) for name in ("coordinates", "lattice")),
        )
        names, skipped = tuple(arrays["names"].tolist()), tuple(arrays["skipped"].tolist())
        properties, ids = arrays["properties"].astype(np.float64), arrays["ids"]
    except (OSError, KeyError, ValueError, TypeError, EOFError, IndexError, zipfile.BadZipFile, zlib.error):
        return None
    size, sites = len(crystals.group), crystals.letters.shape[1:]
    shapes = [crystals.elements.shape, crystals.coordinates.shape, crystals.lattice.shape, properties.shape, ids.shape]
    wanted = [(size, *sites), (size, *sites, 3), (size, 6), (size, len(names)), (size,)]
    return (crystals, names, properties, ids, skipped) if shapes == wanted and size else None
