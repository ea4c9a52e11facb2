"""Crystals by composition in one file: arrays without pickle, kept for the next time."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np

from megen_gym.agents.nn.caching import digest_of
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.data import Pairs
from megen_gym.agents.polysrl.graphs import Graphs
from megen_gym.runs import atomic

FORMAT = 1
"""Of the file, and of what is done to a structure before it gets there; a file of another one is not read."""

_BROKEN = (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def fingerprint(path: Path, element_features: str) -> str:
    """Of a file's content and of how it is read."""
    return digest_of(path, f"polysrl {FORMAT} {element_features}")


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write atomically, as compressed npz.

    Raises:
        OSError: what the disk said.
    """
    arrays = {each.name: getattr(pairs.graphs, each.name) for each in fields(Graphs)}
    arrays |= {"index": pairs.index, "elements": pairs.compositions.numbers, "amounts": pairs.compositions.amounts}
    arrays |= {"names": np.array(list(pairs.properties), dtype=np.str_)}
    arrays |= {f"property_{number}": values for number, values in enumerate(pairs.properties.values())}
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, skipped=np.array(pairs.skipped, dtype=np.str_), format=np.array(FORMAT), **arrays)


def read_pairs(path: Path) -> Pairs | None:
    """What :func:`write_pairs` wrote; None where there is nothing, or nothing whole, of this format."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT:
                return None
            graphs = Graphs(*(file[each.name] for each in fields(Graphs)))
            names = file["names"].tolist()
            properties = {name: file[f"property_{number}"] for number, name in enumerate(names)}
            compositions = Compositions(file["elements"], file["amounts"])
            pairs = Pairs(compositions, graphs, file["index"], properties, tuple(file["skipped"].tolist()))
    except _BROKEN:
        return None
    size = len(pairs.index)
    whole = [len(graphs), *(len(values) for values in properties.values())] == [size] * (1 + len(names))
    ends = len(graphs.numbers) == graphs.nodes.sum() and len(graphs.distance) == graphs.edges.sum()
    return pairs if size and whole and ends else None
