"""A second model of gallium's energy, to rank isomers: kernel ridge regression on SOAP, with the same pair repulsion.

DART sees three counts per atom and cannot tell most isomers of one size apart; this model sees the density of the
neighbours. The energy is a sum over atoms of kernels with M sparse points s_m, as in Bartók, Kondor, Csányi, Phys.
Rev. B 87, 184115 (2013), doi 10.1103/PhysRevB.87.184115:

    E = sum_i sum_m c_m (p_i . s_m)^zeta + repulsion,    p_i the normalised power spectrum of atom i
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from megen_gym.errors import InputError
from megen_gym.rewards.base import EnergyReward
from megen_gym.rewards.dart.net import PairRepulsion
from megen_gym.rewards.dart.reward import check_gallium
from megen_gym.rewards.dart.weights import load_state
from megen_gym.structure import FloatArray, StructureBatch

BUNDLED = Path(__file__).resolve().parent / "data" / "soap_ga.npz"
DESCRIPTOR: dict[str, Any] = {"r_cut": 5.5, "n_max": 8, "l_max": 6, "sigma": 0.5}
ZETA = 4
FARTHEST = 1e6
"""Å; the descriptor's library dies on coordinates that are far larger."""

Floats = NDArray[np.float64]


class Soap:
    """Normalised SOAP power spectra of gallium clusters.

    Args:
        settings: Of dscribe's SOAP; lengths in Å.
    """

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        from dscribe.descriptors import SOAP

        self._soap = SOAP(species=["Ga"], periodic=False, **(settings or DESCRIPTOR))

    def __call__(self, positions: Floats) -> Floats:
        """(n, F) spectra of the atoms of one cluster, (n, 3) Å."""
        spectra = np.asarray(self._soap.create(Atoms(f"Ga{len(positions)}", positions=positions)), dtype=np.float64)
        return np.asarray(spectra / np.linalg.norm(spectra, axis=1, keepdims=True))

    def with_derivatives(self, positions: Floats) -> tuple[Floats, Floats]:
        """Spectra (n, F), not normalised, and their derivatives (n, n, 3, F) with the moves of each atom, per Å."""
        derivatives, spectra = self._soap.derivatives(
            Atoms(f"Ga{len(positions)}", positions=positions), attach=True, method="analytical", return_descriptor=True
        )
        return np.asarray(spectra, dtype=np.float64), np.asarray(derivatives, dtype=np.float64)


def kernels(spectra: Floats, points: Floats, zeta: int = ZETA) -> Floats:
    """(M,) sum over the atoms of one cluster of its kernels with M sparse points."""
    return np.asarray(((spectra @ points.T) ** zeta).sum(0))


def repel(repulsion: PairRepulsion, positions: Floats) -> float:
    """Pair repulsion of one cluster in eV."""
    with torch.no_grad():
        return float(repulsion(torch.from_numpy(pdist(positions))).sum()) if len(positions) > 1 else 0.0


class SoapRidge(EnergyReward):
    """Pays the binding energy in eV by SOAP and kernel ridge regression; smooth in the positions, gallium only.

    It has forces, so that structures can be relaxed, and ranks isomers of one size much better than ``dart`` (see the
    model card beside its weights), but it is slower.

    Args:
        weights: npz file written by ``rewards/dart/soap_train.py``; None for the bundled one.

    Raises:
        InputError: for unreadable weights.
    """

    has_forces = True

    def __init__(self, weights: str | Path | None = None) -> None:
        path = BUNDLED if weights is None else weights
        state, metadata = load_state(path)
        try:
            self._points, self._coefficients = (state[name].double().numpy() for name in ("points", "coefficients"))
            strength, steepness = state["repulsion"].tolist()
            self._repulsion = PairRepulsion(strength, steepness)
            self._zeta, self._settings = int(metadata["zeta"]), dict(metadata["descriptor"])
            fits = self._points.shape == (len(self._coefficients), self._soap(np.zeros((1, 3))).shape[1])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{str(path)!r} lacks {error}; give weights written by rewards/dart/soap_train.py"
            ) from None
        if not fits:
            raise InputError(
                f"points {self._points.shape} and coefficients {self._coefficients.shape} in {str(path)!r} do not "
                "belong together; give weights written by rewards/dart/soap_train.py"
            )

    @cached_property
    def _soap(self) -> Soap:
        return Soap(self._settings)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_soap"}

    def energies(self, structures: Sequence[Floats]) -> Floats:
        """(B,) eV of clusters of any sizes, each (n, 3) Å."""
        found = np.zeros(len(structures))
        for row, positions in enumerate(structures):
            if len(positions):
                kernel = kernels(self._soap(positions), self._points, self._zeta)
                found[row] = kernel @ self._coefficients + repel(self._repulsion, positions)
        return found

    def energy(self, batch: StructureBatch) -> FloatArray:
        """(B,) eV, negative for bound clusters.

        Raises:
            InputError: for elements other than gallium and for periodic structures.
        """
        return self.energies(self._clusters(batch))

    def energy_forces(self, batch: StructureBatch) -> tuple[FloatArray, FloatArray, dict[int, str]]:
        """(B,) eV and (B, N, 3) eV/Å; errors as :meth:`energy`."""
        energy, forces = np.zeros(len(batch)), np.zeros(batch.positions.shape)
        for row, positions in enumerate(self._clusters(batch)):
            if len(positions):
                energy[row], forces[row, : len(positions)] = self._energy_forces(positions)
        return energy, forces, {}

    def _energy_forces(self, positions: Floats) -> tuple[float, Floats]:
        spectra, derivatives = self._soap.with_derivatives(positions)
        length = np.linalg.norm(spectra, axis=1, keepdims=True)
        unit = spectra / length
        products = unit @ self._points.T
        slope = self._zeta * (self._coefficients * products ** (self._zeta - 1)) @ self._points
        slope = (slope - unit * (unit * slope).sum(1, keepdims=True)) / length
        # dscribe: (centre, moved atom, x y z, feature)
        forces = -np.einsum("iaxf,if->ax", derivatives, slope)
        energy = float((products**self._zeta).sum(0) @ self._coefficients)
        if len(positions) > 1:
            first, second = np.triu_indices(len(positions), 1)
            moved = torch.from_numpy(positions).requires_grad_()
            repulsion = self._repulsion((moved[first] - moved[second]).norm(dim=1)).sum()
            repulsion.backward()  # type: ignore[no-untyped-call]
            energy += float(repulsion.detach())
            assert moved.grad is not None
            forces -= moved.grad.numpy()
        return energy, forces

    def _clusters(self, batch: StructureBatch) -> list[Floats]:
        """(n, 3) Å of each cluster."""
        check_gallium(batch)
        if batch.positions.size and np.abs(batch.positions).max() > FARTHEST:
            raise InputError(
                f"a structure reaches {np.abs(batch.positions).max():.3g} Å from the origin, SOAP takes up to "
                f"{FARTHEST:.0e}; centre it or remove stray atoms"
            )
        pairs = zip(batch.positions, batch.n_atoms, strict=True)
        return [np.asarray(positions[:count], dtype=np.float64) for positions, count in pairs]
