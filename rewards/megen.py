"""The reward that MeGen was published with, number for number, for comparison with its results."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megen_gym.rewards.base import KCAL_PER_MOL, Known, Outcome, Reward
from megen_gym.rewards.dart.reward import Dart
from megen_gym.rules import GALLIUM_WINDOWS
from megen_gym.structure import BoolArray, FloatArray, StructureBatch

HARTREE_PER_KCAL = 0.001593601097421
DISTANCE_PENALTY = 0.1  # per Å between the new atom and the centroid of the canvas
INVALID_PENALTY = 10.0
FLOOR = -0.6


class MegenReward(Reward):
    """MeGen's reward of one placement (Mach. Learn.: Sci. Technol. 4, 025032, doi 10.1088/2632-2153/acdc03).

    ``raw = -(E + 0.1 |centroid(canvas) - new|) - (10 if a window fails)`` with DART's *total* energy E of the new
    cluster in Hartree, then clipped from below at -0.6. The windows bound the distances of the new atom to its three
    nearest neighbours to 2.3-3.1, 2.5-3.0 and 2.5-5.5 Å, on canvases of more than two atoms. The published code
    refuses an atom closer than 2 Å to another with the reward -0.6; that is the task's guard, and `invalid` is its
    price here.

    The total energy grows with the cluster, so that this reward says more about the size of the canvas than about the
    placement: prefer ``dart``, which pays energy differences.

    Args:
        weights: npz file with DART weights; None for the bundled ones. The published weights give the published
            numbers.
        dtype: "float32" or "float64", arithmetic of the network.
        device: Where the network runs.

    Raises:
        InputError: as :class:`~megen_gym.rewards.dart.reward.Dart`.
    """

    invalid = FLOOR

    def __init__(self, weights: str | Path | None = None, dtype: str = "float32", device: str = "cpu") -> None:
        self._dart = Dart(weights, dtype, device)

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        """Clipped reward of each placement.

        Returns:
            `value` in published units; terms `energy` (eV, total), `com_distance` (Å), `raw` (not clipped),
            `in_windows` (0
            or 1).

        Raises:
            InputError: for elements other than gallium.
        """
        energy = self._dart.energy(after)
        com_distance, valid = judge_placement(after)
        hartree = energy / KCAL_PER_MOL * HARTREE_PER_KCAL
        raw = -(hartree + DISTANCE_PENALTY * com_distance) - INVALID_PENALTY * ~valid
        terms = {"energy": energy, "com_distance": com_distance, "raw": raw, "in_windows": valid.astype(float)}
        return Outcome(np.maximum(raw, FLOOR), terms)


def judge_placement(after: StructureBatch) -> tuple[FloatArray, BoolArray]:
    """Distance of the last atom from the centroid of the others, and whether it keeps MeGen's windows.

    Returns:
        (B,) Å, zero without other atoms, and (B,) bool, true with up to two other atoms.
    """
    positions = np.asarray(after.positions, dtype=np.float64)
    n_atoms = after.n_atoms
    new = positions[np.arange(len(after)), np.maximum(n_atoms, 1) - 1]
    canvas = np.arange(positions.shape[1]) < n_atoms[:, None] - 1
    centroid = (positions * canvas[..., None]).sum(1) / np.maximum(n_atoms - 1, 1)[:, None]
    com_distance = np.where(n_atoms > 1, np.linalg.norm(new - centroid, axis=1), 0.0)
    valid = np.ones(len(after), dtype=bool)
    judged = n_atoms > len(GALLIUM_WINDOWS)
    if judged.any():
        distances = np.linalg.norm(positions[judged] - new[judged, None], axis=-1)
        nearest = np.sort(np.where(canvas[judged], distances, np.inf), axis=1)[:, : len(GALLIUM_WINDOWS)]
        low, high = np.array(GALLIUM_WINDOWS).T
        valid[judged] = ((nearest >= low) & (nearest <= high)).all(axis=1)
    return com_distance, valid
