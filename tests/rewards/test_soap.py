"""The SOAP model of gallium: fit, energies, refusals."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from scipy.spatial.distance import pdist

from megen_gym.errors import InputError
from megen_gym.rewards.dart.soap import SoapRidge
from megen_gym.rewards.dart.soap_train import main, spread
from megen_gym.structure import StructureBatch


def labelled(path: Path) -> list[Atoms]:
    """Clusters with a smooth synthetic pair energy."""
    rng, structures = np.random.default_rng(0), []
    while len(structures) < 60:
        n = int(rng.integers(2, 6))
        positions = rng.uniform(-1, 1, (n, 3)) * 2.2 * n ** (1 / 3)
        distances = pdist(positions)
        if distances.min() > 2.2:
            energy = float((((distances - 2.7) ** 2 - 1) * np.exp(-((distances - 2.7) ** 2))).sum())
            structures.append(Atoms(f"Ga{n}", positions=positions, info={"binding_energy": energy}))
    write(path, structures)
    return structures


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Atoms]]:
    folder = tmp_path_factory.mktemp("soap")
    structures = labelled(folder / "labels.extxyz")
    main(folder / "labels.extxyz", folder / "soap.npz", points=200)
    return folder / "soap.npz", structures


def test_fits_and_is_invariant(fitted: tuple[Path, list[Atoms]]) -> None:
    path, structures = fitted
    reward = SoapRidge(path)
    batch = StructureBatch.from_atoms(structures)
    energy = reward.energy(batch)
    labels = np.array([atoms.info["binding_energy"] for atoms in structures])
    assert np.abs(energy - labels).mean() < 0.3 * np.abs(labels - labels.mean()).mean()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = [Atoms(atoms.symbols, atoms.positions[::-1] @ rotation.T + 4.0) for atoms in structures]
    np.testing.assert_allclose(reward.energy(StructureBatch.from_atoms(turned)), energy, atol=1e-6)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(reward)).energy(batch), energy)
    assert path.with_suffix(".md").exists()


def test_free_and_absent_atoms_have_no_energy(fitted: tuple[Path, list[Atoms]]) -> None:
    species = np.array([[0, 0], [1, 0]])
    energy = SoapRidge(fitted[0]).energy(StructureBatch(np.zeros((2, 2, 3)), species, ("X", "Ga")))
    assert energy[0] == 0
    assert abs(energy[1]) < 0.05


def test_refusals(fitted: tuple[Path, list[Atoms]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gallium only"):
        SoapRidge(fitted[0]).energy(StructureBatch.from_atoms([Atoms("As")]))
    np.savez(tmp_path / "bad.npz", points=np.zeros((3, 4)))
    with pytest.raises(InputError, match="soap_train"):
        SoapRidge(tmp_path / "bad.npz")


def test_bundled_weights() -> None:
    dimer = StructureBatch.from_atoms([Atoms("Ga2", positions=[[0, 0, 0], [0, 0, d]]) for d in (2.6, 1.2)])
    energy = SoapRidge().energy(dimer)
    assert energy[0] < 0 < energy[1]


def test_sparse_points_are_distinct() -> None:
    pool = np.random.default_rng(0).normal(size=(40, 6))
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    chosen = spread(np.vstack([pool, pool]), 60, np.random.default_rng(0))
    assert len(chosen) == len(np.unique(chosen, axis=0)) == 40
