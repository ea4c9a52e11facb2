"""matminer's CrystalNN fingerprints of the sites of one structure, in this process or in several."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

COORDINATIONS = 24
"""Largest coordination that has numbers of its own."""


def feature_labels() -> tuple[str, ...]:
    """The 61 names of matminer, e.g. ``"tetrahedral CN_4"``."""
    return tuple(_featurizer(False).feature_labels())


_FEATURIZERS: dict[bool, Any] = {}


def _featurizer(ions: bool) -> Any:
    if ions not in _FEATURIZERS:
        from matminer.featurizers.site import CrystalNNFingerprint

        _FEATURIZERS[ions] = CrystalNNFingerprint.from_preset("ops", cation_anion=ions)
    return _FEATURIZERS[ions]


class _Told:
    """Neighbours of one site that were found before, where matminer would look for them again."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def get_nn_data(self, structure: Any, index: int) -> Any:
        return self.data


def sites_of(job: tuple[Any, ...]) -> list[list[float]] | None:
    """Fingerprints (N, F) of a structure; None if CrystalNN cannot do one of its sites.

    Args:
        job: Numbers, positions, cell and settings ("neighbours", "oxidation"), all of them plain lists and dicts.
    """
    from pymatgen.core import Lattice, Structure

    numbers, positions, cell, settings = job
    ions = bool(settings["oxidation"])
    featurizer = _featurizer(ions)
    finder = featurizer.cnn
    rows = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure(Lattice(cell), numbers, positions, coords_are_cartesian=True)
            if ions:
                structure.add_oxidation_state_by_element(settings["oxidation"])
            for index in range(len(numbers)):
                data = finder.get_nn_data(structure, index)
                featurizer.cnn = _Told(data)
                row = [float(value) for value in featurizer.featurize(structure, index)]
                for name in settings["neighbours"]:
                    row += _neighbour_shares(data, name)
                rows.append(row)
    except Exception:  # CrystalNN and its Voronoi tessellation raise anything for odd surroundings
        return None
    finally:
        featurizer.cnn = finder
    return rows if np.isfinite(rows).all() else None


def _neighbour_shares(data: Any, name: str) -> list[float]:
    shares = [0.0] * COORDINATIONS
    for coordination, found in data.cn_nninfo.items():
        if 1 <= coordination <= COORDINATIONS and found:
            hits = sum(neighbour["site"].specie.symbol == name for neighbour in found)
            shares[coordination - 1] = float(data.cn_weights[coordination]) * hits / len(found)
    return shares


def each(jobs: list[tuple[Any, ...]], processes: int) -> Iterator[list[list[float]] | None]:
    """The outcomes of :func:`sites_of` in order, by this process or by several."""
    if processes == 1 or len(jobs) < 2:
        yield from map(sites_of, jobs)
        return
    from multiprocessing import get_context

    with get_context("spawn").Pool(min(processes, len(jobs))) as pool:
        yield from pool.imap(sites_of, jobs)
