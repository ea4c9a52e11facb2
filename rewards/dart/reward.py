"""DART as a reward: the binding energy of gallium clusters from neighbour counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from megen_gym.errors import InputError, nearest
from megen_gym.rewards.base import EnergyReward
from megen_gym.rewards.dart.evaluate import Energies, Evaluator
from megen_gym.rewards.dart.weights import load_net
from megen_gym.structure import FloatArray, StructureBatch

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Dart(EnergyReward):
    """Pays the binding energy in eV that DART predicts for gallium clusters.

    DART is a network of integer neighbour counts (Modee et al., Phys. Chem. Chem. Phys. 23, 21995 (2021),
    doi 10.1039/d1cp02956h) that MeGen uses as its reward (doi 10.1088/2632-2153/acdc03). Its energy is piecewise
    constant in the positions. The bundled weights are guarded (:class:`~megen_gym.rewards.dart.net.DartNet`): a pair
    repulsion makes overlap expensive, and shrinking a bound cluster never lowers its energy. The published weights are
    blind to both.

    Args:
        weights: npz file; None for the bundled weights, trained on own PBE labels. The published weights give the
            published numbers.
        dtype: "float32" or "float64", arithmetic of the network.
        device: "cpu", "cuda" or any other device of torch.

    Raises:
        InputError: for unreadable weights, an unknown dtype or an absent device.
    """

    def __init__(self, weights: str | Path | None = None, dtype: str = "float32", device: str = "cpu") -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r} given; {nearest(dtype, DTYPES)}")
        net = load_net(weights)
        try:
            self._evaluate = Evaluator(net, DTYPES[dtype], device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"device {device!r} cannot be used ({reason}); give cpu, or cuda where there is one"
            ) from None

    def evaluate(self, batch: StructureBatch) -> Energies:
        """Atomic energies, repulsion and descriptors of a batch.

        Raises:
            InputError: for elements other than gallium and for periodic structures.
        """
        check_gallium(batch)
        return self._evaluate(torch.from_numpy(np.ascontiguousarray(batch.positions)), torch.from_numpy(batch.mask))

    def energy(self, batch: StructureBatch) -> FloatArray:
        """(B,) eV, negative for bound clusters; errors as :meth:`evaluate`."""
        return self.evaluate(batch).total.cpu().numpy()

    def kcal(self, batch: StructureBatch) -> FloatArray:
        """(B,) kcal/mol, the network alone, as published; errors as :meth:`evaluate`."""
        return self.evaluate(batch).atomic.sum(1, dtype=torch.float64).cpu().numpy()


def check_gallium(batch: StructureBatch) -> None:
    """Refuse a batch that DART knows nothing about.

    Raises:
        InputError: for elements other than gallium and for periodic structures.
    """
    if any(batch.pbc):
        raise InputError(
            "DART was given periodic structures but knows clusters only; give structures without periodicity"
        )
    present = np.unique(batch.species)
    others = {name for index, name in enumerate(batch.symbols) if index in present and index > 0} - {"Ga"}
    if others:
        raise InputError(f"DART was given {', '.join(sorted(others))} but knows gallium only; use another reward")
