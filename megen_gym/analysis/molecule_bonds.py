"""The bonds of a molecule, read from its geometry by RDKit, or the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from megen_gym.errors import InputError, require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MANY_CYCLES = 20
"""Independent cycles beyond which ring perception may take long."""


@dataclass(frozen=True)
class BondRules:
    """Which molecules count as valid; names and defaults of schnetpack-gschnet's check_validity.py.

    Attributes:
        allowed_charges: e, total charges, tried in this order; others than 0 only with charged fragments.
        allow_charged_fragments: Balance valences by formal charges, instead of by unpaired electrons.
        allow_radical_electrons: Accept unpaired electrons.
    """

    allowed_charges: tuple[int, ...] = (0,)
    allow_charged_fragments: bool = False
    allow_radical_electrons: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowed_charges", tuple(self.allowed_charges))
        if not self.allowed_charges or not all(float(charge).is_integer() for charge in self.allowed_charges):
            raise InputError(f"allowed_charges is {list(self.allowed_charges)}; give whole numbers, e.g. [0]")
        if not self.allow_charged_fragments and 0 not in self.allowed_charges:
            raise InputError(
                f"allowed_charges is {list(self.allowed_charges)} without charged fragments, where only 0 is possible; "
                "allow_charged_fragments too, or add 0"
            )


Bond = tuple[int, int, float]
"""Two atoms and the order of the bond between them: 1, 1.5 (aromatic), 2 or 3."""

Ring = tuple[int, bool, bool]
"""Atoms in a ring, whether it is aromatic, whether it shares a bond with another ring."""


@dataclass(frozen=True)
class Reading:
    """What RDKit made of one geometry.

    Attributes:
        smiles: Canonical SMILES with stereochemistry and without hydrogen; None where the molecule is not valid.
        reason: Why it is not valid, beginning with one of ``no atoms``, ``unknown element``, ``not finite``,
            ``disconnected``, ``valence``, ``charge``, ``radical``, ``refused``, ``timeout``, ``crash``; "" where it is.
        bonds: All bonds, hydrogen's too, of a valid molecule.
        rings: Its smallest rings (symmetrised set).
    """

    smiles: str | None
    reason: str = ""
    bonds: tuple[Bond, ...] = ()
    rings: tuple[Ring, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether there is no reason against it."""
        return not self.reason


class Undecided(Exception):
    """Reading these bonds may take long: do it where it can be stopped."""


def read_bonds(numbers: ArrayLike, positions: ArrayLike, rules: BondRules, tries: int = 0) -> Reading:
    """Bonds, SMILES and rings of one molecule.

    Connectivity and bond orders after xyz2mol (Kim and Kim, Bull. Korean Chem. Soc. 2015, 36, 1769), as RDKit has it in
    ``rdDetermineBonds``. Valid is what is in one piece, has a bond order for each bond, can be sanitised, and has
    neither charges nor unpaired electrons that `rules` exclude. For molecules with many atoms of several valences this
    may take hours; :func:`~megen_gym.analysis.molecule_validity.check` has a time limit.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Å.
        rules: What counts as valid.
        tries: Combinations of valences to look at before giving up; 0 for all.

    Raises:
        Undecided: when `tries` are used up, or there are so many cycles that finding the rings may take long.
        InputError: where RDKit is missing.
    """
    try:
        from rdkit import Chem
        from rdkit.Chem import rdDetermineBonds
    except ImportError:
        require("rdkit", "molecules")
    species, places = np.asarray(numbers), np.asarray(positions, dtype=np.float64)
    if not len(species):
        return Reading(None, "no atoms")
    if not ((species >= 1) & (species <= 118)).all():
        return Reading(None, "unknown element")
    if not np.isfinite(places).all():
        return Reading(None, "not finite")
    blank, conformer = Chem.RWMol(), Chem.Conformer(len(species))
    for index, (number, place) in enumerate(zip(species.tolist(), places.tolist(), strict=True)):
        blank.AddAtom(Chem.Atom(number))
        conformer.SetAtomPosition(index, place)
    blank.AddConformer(conformer)
    connected = blank.GetMol()
    rdDetermineBonds.DetermineConnectivity(connected)
    if (pieces := len(Chem.GetMolFrags(connected))) > 1:
        return Reading(None, f"disconnected ({pieces} pieces)")
    if tries and connected.GetNumBonds() - len(species) >= MANY_CYCLES:
        raise Undecided
    charges = rules.allowed_charges if rules.allow_charged_fragments else (0,)
    reading = Reading(None, "charge")
    for charge in charges:
        reading = _bond_orders(Chem.Mol(connected), charge, rules, tries)
        if reading.valid:
            break
    return reading


def _bond_orders(mol: Mol, charge: int, rules: BondRules, tries: int) -> Reading:
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    try:
        rdDetermineBonds.DetermineBondOrders(
            mol, charge=charge, allowChargedFragments=rules.allow_charged_fragments, embedChiral=True,
            maxIterations=tries,
        )  # fmt: skip
        radicals = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
        if radicals and not rules.allow_radical_electrons:
            return Reading(None, f"radical ({radicals} unpaired electrons)")
        smiles = Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol)))  # type: ignore[no-untyped-call]
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if tries and "Max Iterations" in text:
            raise Undecided from None
        kind = "charge" if "charge" in text else "valence" if "alence" in text else "refused"
        return Reading(None, f"{kind} ({text.partition('. ')[0][:100]})")
    bonds = tuple((b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in mol.GetBonds())
    info = mol.GetRingInfo()
    rings = tuple(
        (len(ring), all(mol.GetBondWithIdx(bond).GetIsAromatic() for bond in ring), bool(info.IsRingFused(index)))
        for index, ring in enumerate(info.BondRings())
    )
    return Reading(smiles, "", bonds, rings)
