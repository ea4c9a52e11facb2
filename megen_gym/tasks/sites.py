"""Crystals that are being written: their sites so far, and what an action would add."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from megen_gym.actions import SiteChoice
from megen_gym.structure import BoolArray, FloatArray, IntArray


@dataclass
class WyckoffState:
    """B partly written crystals of up to K sites and N atoms.

    Attributes:
        group: (B,) index into the task's groups.
        letters: (B, K) index of the letter, -1 where there is no site yet.
        elements: (B, K) species index, 0 where there is no site yet.
        coordinates: (B, K, 3) representative of each site, fractional.
        n_sites: (B,) sites in the list.
        low: (B,) lowest letter that may come next.
        counts: (B, D) atoms placed along the axes of the goals.
        layers: (B, T) goals that the volume leaves possible.
        open: (B, 27, D) letters and axes that a site may take now.
        may_stop: (B,) the list may end here.
        lattice: (B, 6) Å and degrees; 0 until it is set.
        cell: (B, 3, 3) Å; the unit matrix until the lattice is set.
        has_lattice: (B,) it is set.
        fractions: (B, N, 3) coordinates of all atoms, site by site, in [0, 1).
        species: (B, N) index into the task's symbols.
        n_atoms: (B,) atoms of all sites.
        listed: (B,) the list of sites has ended.
        steps: (B,) moves made.
        over: (B,) ended by a refused move.
    """

    group: IntArray
    letters: IntArray
    elements: IntArray
    coordinates: FloatArray
    n_sites: IntArray
    low: IntArray
    counts: IntArray
    layers: BoolArray
    open: BoolArray
    may_stop: BoolArray
    lattice: FloatArray
    cell: FloatArray
    has_lattice: BoolArray
    fractions: FloatArray
    species: IntArray
    n_atoms: IntArray
    listed: BoolArray
    steps: IntArray
    over: BoolArray


@dataclass
class SiteProposal:
    """What a batch of actions would do.

    Attributes:
        choice: The decoded actions.
        lattice: (B, 6) what the lattice would be.
        orbit: (B, M, 3) fractional coordinates of the site's atoms.
        orbit_mask: (B, M) where there is one.
        sets: (B,) it is the lattice's turn.
        stops: (B,) X ends the list.
        allowed: (B,) the guard lets the site or the lattice be; what is masked is never allowed.
    """

    choice: SiteChoice
    lattice: FloatArray
    orbit: FloatArray
    orbit_mask: BoolArray
    sets: BoolArray
    stops: BoolArray
    allowed: BoolArray


def appended(state: WyckoffState, orbit: FloatArray, mask: BoolArray, element: IntArray) -> tuple[FloatArray, IntArray]:
    """Fractions (B, N, 3) and species (B, N) with the orbits (B, M, 3) behind the atoms that are there."""
    fractions, species = state.fractions.copy(), state.species.copy()
    row, atom = np.nonzero(mask)
    fractions[row, state.n_atoms[row] + atom] = orbit[row, atom]
    species[row, state.n_atoms[row] + atom] = element[row]
    return fractions, species


def rows_of(state: WyckoffState, rows: IntArray) -> WyckoffState:
    """The crystals of `rows` (B,), copied."""
    return WyckoffState(**{field.name: getattr(state, field.name)[rows] for field in fields(state)})
