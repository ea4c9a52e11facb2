"""A property that a trained regressor predicts of a whole periodic crystal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError
from megen_gym.rewards.base import Known, Outcome
from megen_gym.rewards.crystals import CrystalReward
from megen_gym.structure import FloatArray, StructureBatch

if TYPE_CHECKING:
    from megen_gym.agents.crystal_gpt.regression import PropertyModel
    from megen_gym.crystals import CrystalBatch


class PropertyReward(CrystalReward):
    """A predicted property of a crystal, or how near it is to a target.

    worth = -\\|prediction - target\\| / scale, or sign x prediction / scale without a target, in the unit of the data
    that the regressor was trained on (``python agents/crystal_gpt/regress.py``). Nothing is worth 0; a placement is
    paid by the difference that it makes, so that the return of an episode is the worth of its last crystal.

    A crystal is described by its symmetry first (:func:`megen_gym.crystals.describe`), so that turning it, repeating
    its cell, or another order of its sites does not matter. Which one of several equivalent origins it has (rock salt:
    the metal on a, or on b) does, as far as the regressor has not learned otherwise.

    The worth cannot be computed, which is an error of that row alone, for a crystal whose symmetry spglib cannot make
    out, one with an element that the regressor was not trained on, and one with more sites than it was made for.

    Args:
        run: Run id or folder of a regressor, or "newest".
        dir: Folder of the run folders.
        target: In the unit of the property; None to pay for the property itself.
        scale: What is worth 1, in that unit.
        sign: 1, or -1 to pay for small values; without a target only.
        symprec: Å, within which atoms count as equivalent; a tenth of it where that fails. By default that of the
            regressor's training.
        device: Where the network runs.
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for a run that is no regressor, or another argument that cannot be used; when called with
            structures that are not periodic.
    """

    name = "property"

    def __init__(
        self,
        run: str = "newest",
        dir: str | Path = "runs",
        target: float | None = None,
        scale: float = 1.0,
        sign: int = 1,
        symprec: float | None = None,
        device: str = "cpu",
        invalid: float = -1.0,
    ) -> None:
        from megen_gym.agents.crystal_gpt.regression import load_regressor
        from megen_gym.agents.nn.devices import device_of

        if not (0 < scale < np.inf and (target is None or -np.inf < target < np.inf)):
            raise InputError(
                f"the reward 'property' was given target {target} and scale {scale}; expected a finite number or null "
                "as target, and a scale above 0"
            )
        if sign not in ((1, -1) if target is None else (1,)):
            raise InputError(
                f"the reward 'property' was given sign {sign} and target {target}; expected 1 or -1 without a target, "
                "and no sign with one"
            )
        if symprec is not None and not 0 < symprec < np.inf:
            raise InputError(f"the reward 'property' was given symprec {symprec}; expected Å above 0")
        self.model: PropertyModel = load_regressor(run, dir, device_of(device))[0]
        self.model.network.eval().requires_grad_(False)
        self.target, self.scale, self.sign, self.invalid = target, float(scale), int(sign), float(invalid)
        self.symprec = self.model.symprec if symprec is None else float(symprec)

    def worth(self, crystals: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray]]:
        """See :meth:`.base.WorthReward.worth`; the prediction is the term ``property``."""
        from megen_gym.crystals import CrystalBatch

        value = np.full(len(crystals), np.nan)
        described = {}
        for row, atoms in enumerate(crystals.to_atoms()):
            found = self._described(atoms)
            if not isinstance(found, str):
                described[row] = found
        if described:
            value[list(described)] = self.model.predict(CrystalBatch.join(described.values()))
        worth = self.sign * value if self.target is None else -np.abs(value - self.target)
        return worth / self.scale, {"property": value}

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        outcome = super().__call__(before, after, known)
        for row in outcome.errors:
            reasons = (self._reason(batch[[row]]) for batch in (after, before))
            outcome.errors[row] = next(filter(None, reasons), "the regressor's prediction is not finite")
        return outcome

    def _reason(self, crystal: StructureBatch) -> str | None:
        if int(crystal.n_atoms[0]) == 0:
            return None
        found = self._described(crystal.to_atoms()[0])
        return found if isinstance(found, str) else None

    def _described(self, atoms: Atoms) -> CrystalBatch | str:
        """The sites of a crystal that the model can judge, or why it cannot."""
        from ase.data import chemical_symbols

        from megen_gym.crystals import describe

        try:
            try:
                crystal = describe(atoms, self.symprec)
            except InputError:
                crystal = describe(atoms, self.symprec / 10)
        except InputError as error:
            return str(error)
        strange = self.model.strangers(crystal)[0]
        if strange:
            names = ", ".join(chemical_symbols[number] for number in strange)
            return f"the regressor of {self.model.name} was trained on no crystal with {names}"
        if int(crystal.n_sites[0]) > self.model.n_max:
            return f"the crystal has {int(crystal.n_sites[0])} sites, the regressor was made for {self.model.n_max}"
        return crystal
