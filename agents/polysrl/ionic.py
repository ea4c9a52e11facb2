"""Ions as charged, soft spheres: the energy of a decorated prototype at the volume that suits it best.

The Coulomb energy is an Ewald sum of formal charges; it goes with the inverse of the scale, so one sum serves every
decoration of a prototype by the same charges. Ions a and b of radii r repel each other with c exp((r_a + r_b - d)/rho),
rho = 0.30 Å (Born and Mayer, Z. Phys. 75, 1, 1932). For a cation and an anion c is such that rock salt with these
nearest neighbours alone sits at the sum of the radii; for equal signs it is what ions of charge one would have. Nothing
here was fitted to energies; rho is a round value within the usual 0.28 to 0.35 Å.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megen_gym.errors import InputError, require
from megen_gym.structure import FloatArray, IntArray

RHO = 0.30
"""Å, over which the repulsion falls to 1/e."""

COULOMB = 14.399645
"""eV Å: the energy of two elementary charges at 1 Å."""

MADELUNG = 1.7475646
"""Of rock salt, per ion pair and nearest distance."""

REACH = 3.0
"""Repulsion is summed up to so many of the nearest distances between a cation and an anion."""


@dataclass(frozen=True, eq=False)
class Motif:
    """A prototype with a charge on each of its roles, ready for decoration.

    Attributes:
        charges: (R,) of the roles.
        n_atoms: of the cell.
        coulomb: eV Å per cell, over the scale the Coulomb energy, negative.
        distances: (K,) between ions, at scale 1, ascending.
        weights: (K,) how many such pairs a cell has.
        pairs: (2, K) the roles at both ends.
    """

    charges: tuple[int, ...]
    n_atoms: int
    coulomb: float
    distances: FloatArray
    weights: FloatArray
    pairs: IntArray


def motif(structure: Any, roles: IntArray, charges: Sequence[int]) -> Motif | None:
    """The sums over a pymatgen structure whose site i has the role roles[i]; None where Coulomb's law repels.

    Args:
        structure: at scale 1, Å.
        roles: (N,).
        charges: (R,) of each role, neutral in total.

    Raises:
        InputError: where the charges do not add up to nothing, or pymatgen is not installed.
    """
    try:
        from pymatgen.analysis.ewald import EwaldSummation
    except ImportError:
        require("pymatgen", "crystals")
    site = np.asarray(charges, dtype=float)[roles]
    if site.sum():
        raise InputError(
            f"the charges {tuple(charges)} of the roles add up to {site.sum():g} but should to 0; change them"
        )
    bare = structure.copy()
    bare.add_oxidation_state_by_site(site.tolist())
    coulomb = float(EwaldSummation(bare, acc_factor=14.0).total_energy)
    if coulomb >= 0:
        return None
    reach = float(structure.lattice.abc[0] + structure.lattice.abc[1] + structure.lattice.abc[2])
    start, end, _, apart = structure.get_neighbor_list(reach / 2)
    near = apart[site[start] * site[end] < 0].min(initial=reach / 2 / REACH)
    start, end, _, apart = structure.get_neighbor_list(REACH * near)
    keys = np.stack([np.minimum(roles[start], roles[end]), np.maximum(roles[start], roles[end])], 1)
    rows, counts = np.unique(np.column_stack([np.round(apart, 5), keys]), axis=0, return_counts=True)
    return Motif(tuple(charges), len(roles), coulomb, rows[:, 0], counts / 2.0, rows[:, 1:].T.astype(np.int64))


def strengths(charges: IntArray, radii: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(D, K) repulsion in eV of two ions that touch, and the sum of their radii in Å.

    Args:
        charges: (2, K) of both ions.
        radii: (D, 2, K) Å.
    """
    contact = radii.sum(1)
    product = charges[0] * charges[1]
    return MADELUNG * COULOMB * RHO / 6.0 * np.where(product < 0, -product, 1) / contact**2, contact


def minimum(motif: Motif, radii: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Energy in eV per atom, scale, and the least ratio of a distance to the sum of the radii, all (D,).

    The stationary scale solves g(s) = -coulomb, where g = s² Σ w c d/rho exp((r_a + r_b - s d)/rho) falls with s beyond
    s d = 2 rho; Newton's steps for log g are monotone there and end within a dozen.

    Args:
        radii: (D, R) Å of the ions that take the roles.
    """
    charges = np.asarray(motif.charges)[motif.pairs]
    touch, contact = strengths(charges, radii[:, motif.pairs])
    unlike = charges[0] * charges[1] < 0
    scale = (contact[:, unlike] / motif.distances[unlike]).max(1) * 0.8
    factor = np.log(touch * motif.weights * motif.distances / RHO) + contact / RHO
    for _ in range(40):
        terms = factor - scale[:, None] * motif.distances / RHO
        top = terms.max(1, keepdims=True)
        parts = np.exp(terms - top)
        total = parts.sum(1)
        excess = 2 * np.log(scale) + top[:, 0] + np.log(total) - np.log(-motif.coulomb)
        slope = 2 / scale - (parts * motif.distances).sum(1) / total / RHO
        step = excess / np.minimum(slope, -1e-6)
        scale = np.clip(scale - step, scale * 0.8, scale * 1.25)
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    apart = scale[:, None] * motif.distances
    repulsion = (touch * motif.weights * np.exp((contact - apart) / RHO)).sum(1)
    return (motif.coulomb / scale + repulsion) / motif.n_atoms, scale, (apart / contact).min(1)
