"""SOAP descriptors of whole structures and of the atoms of each element, for comparing ensembles."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.analysis.ensemble import Ensemble
from megen_gym.structure import FloatArray, StructureBatch

SETTINGS: dict[str, Any] = {"r_cut": 5.0, "n_max": 6, "l_max": 4, "sigma": 0.5}
"""dscribe's parameters; Å."""

_CHUNK = 64


def _wrapped(ensemble: Ensemble) -> list[Atoms]:
    """Structures for dscribe, which looks for images around the cell only: all atoms inside it."""
    batch = ensemble.batch
    positions = ensemble.lattice.wrap(np.asarray(batch.positions, dtype=np.float64))
    return StructureBatch.trusted(positions, batch.species, batch.symbols, batch.cell, batch.pbc).to_atoms()


def _descriptor(ensemble: Ensemble, average: str) -> Any:
    from dscribe.descriptors import SOAP

    return SOAP(species=ensemble.elements, periodic=any(ensemble.batch.pbc), average=average, **SETTINGS)


def _unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-300))


def soap_structures(ensemble: Ensemble) -> FloatArray:
    """(B, D) one power spectrum of unit length per structure, of the density expansion averaged over its atoms.

    The order of averaging is dscribe's ``"inner"``: before the power spectrum is taken.
    """
    vectors = _descriptor(ensemble, "inner").create(_wrapped(ensemble))
    return _unit(np.asarray(vectors, dtype=np.float64).reshape(len(ensemble), -1))


def soap_atoms(ensemble: Ensemble) -> FloatArray:
    """(B, S * D) power spectra of single atoms, each of unit length, averaged over the atoms of each of S elements.

    The S mean vectors are put end to end, so that the Euclidean distance of two sets is the root of the sum of the
    squared distances of the elements.
    """
    descriptor, rows = _descriptor(ensemble, "off"), []
    structures = _wrapped(ensemble)
    for at in range(0, len(structures), _CHUNK):
        part = structures[at : at + _CHUNK]
        local = _unit(np.asarray(descriptor.create(part), dtype=np.float64).reshape(len(part), len(part[0]), -1))
        rows.append(np.concatenate([local[:, columns].mean(axis=1) for columns in ensemble.columns], axis=1))
    return np.concatenate(rows)
