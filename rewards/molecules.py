"""What a molecule is worth: whether it is possible at all, and how near a property of it is to a target."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np

from megen_gym.errors import InputError, nearest, require
from megen_gym.rewards.base import WorthReward
from megen_gym.rewards.calculator import calculator_reward
from megen_gym.structure import FloatArray, StructureBatch

PROPERTIES: Mapping[str, tuple[str, str]] = {
    "energy_per_atom": ("energy", "eV, binding energy per atom, below 0 where the molecule is bound"),
    "atomization_energy": ("energy", "eV, of the whole molecule, above 0 where it is bound"),
    "gap": ("gap", "eV, HOMO-LUMO"),
    "dipole": ("dipole", "e Å, size of the moment"),
}
"""Property: what is read of the calculator, and the unit."""


class MoleculeValidReward(WorthReward):
    """1 for a molecule that is chemically possible, 0 for any other.

    Possible is a molecule that is in one piece and whose atoms all have a valence that they can have, by
    :func:`megen_gym.analysis.molecule_validity.check` (RDKit; the published validity check of G-SchNet). A placement is
    paid by the difference that it makes: -1 where it spoils a possible molecule. The return of an episode is 1 if its
    last molecule is possible. The term `molecule_valid`, 1 or 0, is in the `info` of every step, the last one (the
    stop, or a refused move) included.

    Args:
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: if rdkit is missing; when called with periodic structures.
    """

    name = "molecule_valid"

    def __init__(self, invalid: float = -1.0) -> None:
        if importlib.util.find_spec("rdkit") is None:
            require("rdkit", "molecules")
        self.invalid = float(invalid)

    def worth(self, structures: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray]]:
        """See :meth:`.base.WorthReward.worth`."""
        from megen_gym.analysis.molecule_validity import check

        _refuse_crystals(self.name, structures)
        valid = check(structures.to_atoms()).valid if len(structures) else np.zeros(0)
        return valid.astype(np.float64), {"molecule_valid": valid.astype(np.float64)}


class TargetReward(WorthReward):
    """How near a property of a molecule is to a target, by a calculator.

    worth = -\\|property - target\\| / scale. Nothing is worth 0; a placement is paid by the difference that it makes,
    so that the return of an episode is the worth of its last molecule. Each placement costs one evaluation (and a
    relaxation of at most `relax_steps` steps), with the time limit and the child processes of
    :class:`.calculator.CalculatorReward`; a molecule that the calculator gives nothing for is an error of its row.

    | property | unit |
    | --- | --- |
    | energy_per_atom | eV, binding energy per atom, below 0 where the molecule is bound |
    | atomization_energy | eV, of the whole molecule, above 0 where it is bound |
    | gap | eV, HOMO-LUMO; of tblite, or any calculator with ``get_homo_lumo()`` |
    | dipole | e Å, size of the moment (1 D = 0.208 e Å) |

    Args:
        property: One of the table.
        target: In the unit of the property.
        scale: What is worth 1, in that unit.
        calculator: Short name or import path of an ASE calculator; GFN2-xTB by default.
        invalid: Reward of a move that the task refuses.
        options: Other arguments of :class:`.calculator.CalculatorReward` (relax_steps, time_limit, workers,
            atom_energies, ...) or of the calculator.

    Raises:
        InputError: for an unknown property, a target that is not finite, a scale that is not above 0, or a calculator
            that is missing or does not give the property; when called with periodic structures.
    """

    name = "target"

    def __init__(
        self,
        property: str,
        target: float,
        scale: float = 1.0,
        calculator: str = "gfn2",
        invalid: float = -1.0,
        **options: Any,
    ) -> None:
        if property not in PROPERTIES:
            raise InputError(
                f"the reward 'target' was given the property {property!r}; {nearest(str(property), PROPERTIES)}"
            )
        if not (0 < scale < np.inf and -np.inf < target < np.inf):
            raise InputError(
                f"the reward 'target' was given target {target} and scale {scale}; expected a finite number as target "
                f"({PROPERTIES[property][1]}) and a scale above 0"
            )
        if "quantity" in options:
            raise InputError(f"the reward 'target' was given quantity {options['quantity']!r}; the property says that")
        self.property, self.target, self.scale = property, float(target), float(scale)
        self.invalid = float(invalid)
        self.judge = calculator_reward(calculator, quantity=PROPERTIES[property][0], **options)

    def worth(self, structures: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray]]:
        """See :meth:`.base.WorthReward.worth`; the property is a term under its name."""
        return self.worth_errors(structures)[:2]

    def worth_errors(self, structures: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray], dict[int, str]]:
        """:meth:`worth` with the calculator's reason for each row that has none."""
        _refuse_crystals(self.name, structures)
        value, errors = self.judge.energy_errors(structures)
        if self.property == "energy_per_atom":
            value = value / np.maximum(structures.n_atoms, 1)
        elif self.property == "atomization_energy":
            value = -value
        return -np.abs(value - self.target) / self.scale, {self.property: value}, errors


def _refuse_crystals(name: str, structures: StructureBatch) -> None:
    if any(structures.pbc):
        raise InputError(
            f"the reward {name!r} was given periodic structures; use it for molecules, e.g. in Molecule-v0"
        )
