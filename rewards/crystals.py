"""What a whole periodic crystal is worth: its density, its volume per atom, whether it is possible at all.

Each reward gives every crystal a worth, nothing being worth 0, and pays a placement by what the crystal is worth after
it less what it was worth before. The return of an episode is then the worth of its last crystal, wherever the lattice
comes.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import get_args

import numpy as np
from ase.data import atomic_masses

from megen_gym.analysis.crystal_composition import States, valid_compositions
from megen_gym.analysis.crystal_validity import MIN_DISTANCE, valid_structures
from megen_gym.errors import InputError, nearest
from megen_gym.rewards.base import Known, Outcome, WorthReward
from megen_gym.structure import FloatArray, StructureBatch

_GRAM_PER_CM3 = 1.66053906660
"""One atomic mass unit per Å³ (CODATA 2018)."""


class CrystalReward(WorthReward):
    """Pays what a crystal becomes worth by a placement. Subclasses give :meth:`.base.WorthReward.worth`."""

    why = "the cell has no volume"

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        for batch in (before, after):
            if batch.cell is None or not all(batch.pbc):
                raise InputError(
                    f"the reward {self.name!r} was given structures that are not periodic in three directions; use it "
                    "for crystals, e.g. in CrystalWyckoff-v0"
                )
        return super().__call__(before, after, known)


class _CellReward(CrystalReward):
    """A quantity of the cell, or how near it is to a target."""

    def __init__(self, target: float | None = None, scale: float = 1.0, invalid: float = -1.0) -> None:
        if not (0 < scale < np.inf and (target is None or 0 < target < np.inf)):
            raise InputError(
                f"the reward {self.name!r} was given target {target} and scale {scale}; expected numbers above 0, or "
                "null as target"
            )
        self.target, self.scale, self.invalid = target, scale, invalid

    @abstractmethod
    def quantity(self, crystals: StructureBatch, volume: FloatArray) -> FloatArray:
        """(B,) of crystals with volumes (B,) in Å³."""

    def worth(self, crystals: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray]]:
        """See :meth:`.base.WorthReward.worth`."""
        assert crystals.cell is not None
        volume = np.abs(np.linalg.det(crystals.cell.astype(np.float64)))
        value = self.quantity(crystals, np.where(volume > 0, volume, np.nan))
        worth = value / self.scale if self.target is None else -np.abs(value - self.target) / self.scale
        return worth, {self.name: value}


class DensityReward(_CellReward):
    """Mass per volume of a crystal, or how near it is to a target.

    worth = -\\|density - target\\| / scale, or density / scale without a target; density in g/cm³, from ASE's standard
    atomic masses. Nothing is worth 0; a placement is paid by the difference that it makes, so that the return of an
    episode is the worth of its last crystal.

    Args:
        target: g/cm³; None to pay for density itself.
        scale: g/cm³ that are worth 1.
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for a target or scale that is not above 0; when called with structures that are not periodic.

    >>> from ase.build import bulk
    >>> copper = StructureBatch.from_atoms([bulk("Cu", a=3.615)])
    >>> worth, terms = DensityReward(target=8.0).worth(copper)
    >>> worth.round(2).tolist(), terms["density"].round(2).tolist()
    ([-0.93], [8.93])
    """

    name = "density"

    def quantity(self, crystals: StructureBatch, volume: FloatArray) -> FloatArray:
        """(B,) g/cm³ of crystals with volumes (B,) in Å³."""
        mass = (atomic_masses[crystals.numbers] * crystals.mask).sum(1)
        return np.asarray(_GRAM_PER_CM3 * mass / volume)


class VolumeReward(_CellReward):
    """Volume per atom of a crystal, or how near it is to a target.

    worth = -\\|volume per atom - target\\| / scale, or volume per atom / scale without a target, in Å³. Nothing is
    worth 0; a placement is paid by the difference that it makes, so that the return of an episode is the worth of its
    last crystal.

    Args:
        target: Å³ per atom; None to pay for the volume itself.
        scale: Å³ per atom that are worth 1.
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for a target or scale that is not above 0; when called with structures that are not periodic.

    >>> from ase.build import bulk
    >>> copper = StructureBatch.from_atoms([bulk("Cu", a=4.0)])
    >>> VolumeReward(target=15.0).worth(copper)[0].round(6).tolist()
    [-1.0]
    """

    name = "volume_per_atom"

    def quantity(self, crystals: StructureBatch, volume: FloatArray) -> FloatArray:
        """(B,) Å³ of crystals with volumes (B,) in Å³."""
        return np.asarray(volume / crystals.n_atoms)


class ValidReward(CrystalReward):
    """1 for a crystal that is physically possible, 0 for any other.

    Possible is a crystal whose atoms are all at least `min_distance` apart and whose composition can be charge neutral:
    structure and composition validity as in CDVAE (Xie et al., ICLR 2022, arXiv 2110.06197), by
    :func:`megen_gym.analysis.crystal_validity.valid_structures` and
    :func:`megen_gym.analysis.crystal_composition.valid_compositions`. The two are the terms `structure_valid` and
    `composition_valid`. A placement is paid by the difference that it makes: -1 where it spoils a possible crystal.
    The return of an episode is 1 if its last crystal is possible.

    Args:
        min_distance: Å.
        states: Set of oxidation states: "smact14", "icsd16" or "icsd24".
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for a distance that is not above 0, an unknown set, or if smact is missing; when called with
            structures that are not periodic.

    >>> from ase.build import bulk
    >>> salt = StructureBatch.from_atoms([bulk("NaCl", "rocksalt", a=5.64)])
    >>> ValidReward().worth(salt)[0].tolist()
    [1.0]
    """

    name = "valid"

    def __init__(self, min_distance: float = MIN_DISTANCE, states: States = "smact14", invalid: float = -1.0) -> None:
        if not 0 < min_distance < np.inf:
            raise InputError(f"the reward 'valid' was given min_distance {min_distance}; expected Å above 0")
        if states not in get_args(States):
            raise InputError(
                f"the reward 'valid' was given an unknown set of states {states!r}; "
                f"{nearest(str(states), get_args(States))}"
            )
        self.min_distance, self.states, self.invalid = min_distance, states, invalid

    def worth(self, crystals: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray]]:
        """See :meth:`.base.WorthReward.worth`."""
        atoms = crystals.to_atoms()
        apart = valid_structures(atoms, min_distance=self.min_distance).astype(np.float64)
        neutral = valid_compositions(atoms, states=self.states).astype(np.float64)
        return apart * neutral, {"structure_valid": apart, "composition_valid": neutral}
