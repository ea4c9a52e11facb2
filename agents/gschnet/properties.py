"""Properties that are computed from the molecules themselves, and the relative atomic energy, fitted once per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, IntArray

COMPOSITION, N_ATOMS, N_HEAVY, RELATIVE = "composition", "n_atoms", "n_heavy_atoms", "relative_atomic_energy"
COMPUTED = (COMPOSITION, N_ATOMS, N_HEAVY, RELATIVE)
"""Names of the properties that no file needs to hold."""

ENERGIES = ("energy", "energy_U0", "U0", "total_energy")
"""Names under which the total energy is looked for."""

POINTS = 5000
"""Training molecules that the regression sees at most."""


@dataclass(frozen=True)
class RelativeEnergy:
    """Energy per atom less what is expected of the composition: negative for the more stable of the isomers.

    Attributes:
        energy: Name of the property that holds the total energy.
        unit: Of that energy.
        atom_types: Atomic numbers.
        weights: Expected energy per atom at concentration one of each of them.
        bias: Added to what is expected.
    """

    energy: str
    unit: str
    atom_types: tuple[int, ...]
    weights: tuple[float, ...]
    bias: float = 0.0

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.atom_types):
            raise InputError(
                f"the relative atomic energy has {len(self.weights)} weights for {len(self.atom_types)} atom types; "
                "give one each"
            )

    @classmethod
    def fit(
        cls,
        molecules: Molecules,
        energy: str,
        atom_types: Sequence[int],
        seed: int = 0,
        max_points: int = POINTS,
    ) -> RelativeEnergy:
        """Least squares of the energy per atom on the concentrations; they sum to one, so that no bias is needed.

        Args:
            molecules: Those to train on, and no others.
            energy: Name of the total energy among their properties.
            atom_types: Atomic numbers.
            seed: Of the choice of molecules.
            max_points: Molecules to fit to, at random.

        Raises:
            InputError: without molecules, or without that property.
        """
        if energy not in molecules.properties:
            there = ", ".join(molecules.properties) or "none"
            raise InputError(f"the molecules have no property {energy} to fit energies to; they have {there}")
        if not len(molecules):
            raise InputError("no molecules were given to fit energies to; give at least one training molecule")
        chosen = np.random.default_rng(seed).permutation(len(molecules))[:max_points]
        some = molecules[np.sort(chosen)]
        target = some.properties[energy].reshape(-1) / some.n_atoms
        weights = np.linalg.lstsq(concentrations(some, atom_types), target, rcond=None)[0]
        return cls(energy, molecules.units.get(energy, ""), tuple(map(int, atom_types)), tuple(weights.tolist()))

    def of(self, molecules: Molecules) -> FloatArray:
        """(M,) relative atomic energy in :attr:`unit`.

        Raises:
            InputError: without the energy, or with it in another unit.
        """
        if self.energy not in molecules.properties:
            raise InputError(
                f"the relative atomic energy needs the property {self.energy}, which was not read; read it"
            )
        if molecules.units.get(self.energy, "") != self.unit:
            raise InputError(
                f"the relative atomic energy was fitted to {self.energy} in {self.unit or 'no unit'}, but the "
                f"molecules have it in {molecules.units.get(self.energy) or 'no unit'}; read them with the same "
                "property_units"
            )
        expected = concentrations(molecules, self.atom_types) @ np.array(self.weights) + self.bias
        return np.asarray(molecules.properties[self.energy].reshape(-1) / molecules.n_atoms - expected)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RelativeEnergy:
        """What :meth:`to_dict` gave.

        Raises:
            InputError: for anything else.
        """
        try:
            fields = dict(given) | {"atom_types": tuple(given["atom_types"]), "weights": tuple(given["weights"])}
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{dict(given)} is no fitted relative energy ({error}); train anew") from None


def counts(numbers: IntArray, atom_types: Sequence[int]) -> IntArray:
    """(M, T) atoms of each type from atomic numbers (M, N)."""
    return np.asarray((numbers[:, :, None] == np.asarray(atom_types)).sum(1))


def concentrations(molecules: Molecules, atom_types: Sequence[int]) -> FloatArray:
    """(M, T) share of each type among the atoms."""
    return np.asarray(counts(molecules.numbers, atom_types) / np.maximum(molecules.n_atoms, 1)[:, None])


def n_heavy_atoms(molecules: Molecules) -> IntArray:
    """(M,) atoms other than hydrogen."""
    return np.asarray((molecules.numbers > 1).sum(1))


def with_computed(
    molecules: Molecules, names: Sequence[str], atom_types: Sequence[int], relative: RelativeEnergy | None = None
) -> Molecules:
    """The molecules with computed properties beside their own; names that are not computed are passed over.

    Args:
        molecules: (M).
        names: Of conditions. ``composition`` is (M, T), the number of atoms of each type.
        atom_types: The T types.
        relative: What was fitted, for ``relative_atomic_energy``.

    Raises:
        InputError: for the relative atomic energy without a fit.
    """
    found: dict[str, FloatArray] = {}
    units = dict(molecules.units)
    for name in names:
        if name in molecules.properties and name != COMPOSITION:
            continue
        if name == COMPOSITION:
            found[name], units[name] = counts(molecules.numbers, atom_types).astype(np.float64), ""
        elif name == N_ATOMS:
            found[name], units[name] = molecules.n_atoms.astype(np.float64), ""
        elif name == N_HEAVY:
            found[name], units[name] = n_heavy_atoms(molecules).astype(np.float64), ""
        elif name == RELATIVE:
            if relative is None:
                raise InputError("the relative atomic energy was asked for without a fit; fit it to training molecules")
            found[name], units[name] = relative.of(molecules), relative.unit
    return replace(molecules, properties=molecules.properties | found, units=units)


def needed(names: Sequence[str], available: Mapping[str, str] | Sequence[str], energy: str | None = None) -> list[str]:
    """Properties to read from a file that has `available`, so that those of `names` are there or can be computed.

    Args:
        names: Of conditions, and of properties in filters.
        available: Names in the file.
        energy: Name of the total energy for the relative atomic energy; by default the first of `ENERGIES` that is
            there.

    Raises:
        InputError: if the relative atomic energy is asked for and there is no energy.
    """
    found = dict.fromkeys(name for name in names if name not in COMPUTED or (name in available and name != COMPOSITION))
    if RELATIVE in names and RELATIVE not in found:
        found[energy_name(available, energy)] = None
    return list(found)


def energy_name(available: Mapping[str, str] | Sequence[str], energy: str | None = None) -> str:
    """Name of the total energy among `available`, or `energy` where it is given.

    Raises:
        InputError: if it is not there.
    """
    wanted = (energy,) if energy is not None else ENERGIES
    for name in wanted:
        if name in available:
            return name
    there = ", ".join(available) or "none"
    raise InputError(
        f"relative_atomic_energy needs the total energy of each molecule, but there is no property "
        f"{' or '.join(wanted)} (there are {there}); name the one that is it"
    )
