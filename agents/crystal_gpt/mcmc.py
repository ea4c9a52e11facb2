"""Markov chains that start from known crystals: elements are swapped, places and lattices moved, letters stay.

The chains sample the model's density (to the power 1 / T) with the letters fixed, as the template mode of CrystalFormer
does; with a reward they anneal ``log p / T + weight x reward``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from megen_gym.agents.crystal_gpt.encoding import ELEMENTS
from megen_gym.agents.crystal_gpt.generate import Samples
from megen_gym.agents.crystal_gpt.model import Model
from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError
from megen_gym.lattices import FREE, completed, family_of, fullness
from megen_gym.structure import BoolArray, FloatArray, IntArray
from megen_gym.wyckoff import wyckoff_table


@dataclass(frozen=True)
class Chain:
    """How chains move.

    Attributes:
        sweeps: Times that every site and the lattice are tried.
        width: Radians, spread of the moves of coordinates; relative spread of edges and radians of angles are a tenth.
        start_temperature, end_temperature: The temperature goes from one to the other, by a factor per sweep.
        swap: Whether elements are swapped.
    """

    sweeps: int = 10
    width: float = 0.1
    start_temperature: float = 1.0
    end_temperature: float = 1.0
    swap: bool = True


def run_chains(
    model: Model,
    start: CrystalBatch,
    chain: Chain,
    *,
    elements: BoolArray | None = None,
    same: IntArray | None = None,
    reward: Callable[[CrystalBatch], FloatArray] | None = None,
    weight: float = 1.0,
    min_distance: float = 0.5,
    seed: int = 0,
    report: Callable[[float, float], None] = lambda accepted, logp: None,
) -> tuple[Samples, float]:
    """Move B crystals.

    Args:
        model: Whose density is sampled.
        start: (B) first crystals.
        chain: Moves and temperatures.
        elements: (K, 119) elements that each site may have; by default those that the model knows.
        same: (K,) an earlier site that has the same element, -1 for none.
        reward: Added to the logarithm of the density with `weight`.
        weight: Of the reward.
        min_distance: Å, moves that bring atoms nearer than this are refused.
        seed: Of the moves.
        report: Called after each sweep with the share of accepted moves and the mean log p.

    Returns:
        The last crystals, and the share of accepted moves.

    Raises:
        InputError: for a start without likelihood, such as letters out of order.
    """
    if chain.sweeps < 1 or min(chain.width, chain.start_temperature, chain.end_temperature) <= 0:
        raise InputError(f"{chain} cannot move; give at least 1 sweep, and widths and temperatures above 0")
    rng = np.random.default_rng(seed)
    bias: FloatArray
    crystals = model.check(start)
    size, sites = crystals.letters.shape
    allowed = np.zeros((sites, ELEMENTS), dtype=bool)
    allowed[:, model.elements] = True
    if elements is not None:
        allowed[: len(elements)] = elements
        allowed[:, 0] = False
    tied = np.full(sites, -1)
    if same is not None:
        tied[: len(same)] = same

    crystals = _begun(crystals, allowed, tied, rng)

    def judged(candidate: CrystalBatch) -> tuple[FloatArray, FloatArray]:
        logp = model.log_prob(candidate.ordered()).total.double().numpy()
        return logp, weight * reward(candidate) if reward is not None else np.zeros(len(logp))

    logp, extra = judged(crystals)
    if not np.isfinite(logp).all():
        row = int((~np.isfinite(logp)).argmax())
        raise InputError(f"the model gives crystal {row} ({crystals.names(row)}) no likelihood; give another start")
    accepted = tried = 0
    for sweep in range(chain.sweeps):
        share = sweep / max(chain.sweeps - 1, 1)
        temperature = chain.start_temperature * (chain.end_temperature / chain.start_temperature) ** share
        for site in [*range(int(crystals.n_sites.max())), -1]:
            here = crystals.letters[:, site] > 0
            if site >= 0:
                if not chain.swap and not _free(crystals)[:, site].any():
                    continue
                candidate, bias = _moved_site(crystals, site, allowed, tied, chain, rng), np.zeros(size)
            else:
                here = np.ones(size, dtype=bool)
                candidate, bias = _moved_lattice(crystals, chain, rng)
            new, gain = judged(candidate)
            odds = (new - logp) / temperature + bias + gain - extra
            take = here & (np.log(rng.random(size)) < odds)
            if min_distance > 0:
                take &= candidate.apart(min_distance)
            crystals = _chosen(crystals, candidate, take)
            logp, extra = np.where(take, new, logp), np.where(take, gain, extra)
            accepted, tried = accepted + int(take.sum()), tried + int(here.sum())
        report(accepted / tried, float(logp.mean()))
    crystals = crystals.ordered()
    parts = torch.stack(list(model.log_prob(crystals)), 1).double().numpy()
    return Samples(crystals, parts, size), accepted / max(tried, 1)


def _begun(crystals: CrystalBatch, allowed: BoolArray, tied: IntArray, rng: np.random.Generator) -> CrystalBatch:
    """The crystals with allowed elements, drawn, where they have others.

    Raises:
        InputError: where no element is allowed for all sites that are to have the same.
    """
    elements = crystals.elements.copy()
    for site in range(int(crystals.n_sites.max())):
        if tied[site] >= 0:
            elements[:, site] = np.where(crystals.letters[:, site] > 0, elements[:, tied[site]], 0)
            continue
        group = [other for other in range(len(tied)) if other == site or _leads(tied, other, site)]
        choices = np.flatnonzero(allowed[group].all(0))
        if not len(choices):
            raise InputError(
                f"no element is allowed for site {site} (counted from 0) and those that are to have the same, among "
                "those that the model knows; allow more elements"
            )
        other = ~np.isin(elements[:, site], choices) & (crystals.letters[:, site] > 0)
        elements[:, site] = np.where(other, rng.choice(choices, len(elements)), elements[:, site])
    return CrystalBatch(crystals.group, crystals.letters, elements, crystals.coordinates, crystals.lattice)


def _free(crystals: CrystalBatch) -> BoolArray:
    """(B, K, 3) coordinates that are free."""
    return wyckoff_table().free[crystals.position] & (crystals.letters > 0)[..., None]


def _moved_site(
    crystals: CrystalBatch, site: int, allowed: BoolArray, tied: IntArray, chain: Chain, rng: np.random.Generator
) -> CrystalBatch:
    size, count = crystals.letters.shape
    elements, coordinates = crystals.elements.copy(), crystals.coordinates.copy()
    leader = site
    while tied[leader] >= 0:
        leader = int(tied[leader])
    group = [other for other in range(count) if other == leader or _leads(tied, other, leader)]
    if chain.swap and leader == site:
        choices = np.flatnonzero(allowed[group].all(0))
        if len(choices):
            new = rng.choice(choices, size)
            for other in group:
                elements[:, other] = np.where(crystals.letters[:, other] > 0, new, 0)
    step = rng.vonmises(0.0, chain.width**-2, (size, 3)) / (2 * np.pi)
    old = coordinates[:, site]
    table, row = wyckoff_table(), crystals.position[:, site]
    free = table.coordinates(row, old) + step * _free(crystals)[:, site]
    coordinates[:, site] = np.where(
        (crystals.letters[:, site] > 0)[:, None], table.representative(row, free) % 1.0, 0.0
    )
    return CrystalBatch(crystals.group, crystals.letters, elements, coordinates, crystals.lattice)


def _leads(tied: IntArray, site: int, leader: int) -> bool:
    while tied[site] >= 0:
        site = int(tied[site])
        if site == leader:
            return True
    return False


def _moved_lattice(crystals: CrystalBatch, chain: Chain, rng: np.random.Generator) -> tuple[CrystalBatch, FloatArray]:
    """A move of the free parameters, and the logarithm of the ratio of its densities there and back."""
    family = family_of(crystals.group)
    step = rng.normal(0.0, chain.width / 10, (len(crystals), 6)) * FREE[family]
    lattice = crystals.lattice.copy()
    lattice[:, :3] *= np.exp(step[:, :3])
    lattice[:, 3:] += np.rad2deg(step[:, 3:])
    bad = (lattice[:, 3:] <= 1) | (lattice[:, 3:] >= 179)
    lattice[:, 3:] = np.where(bad, crystals.lattice[:, 3:], lattice[:, 3:])
    flat = ~(fullness(completed(lattice, family)[:, 3:]) > 1e-3)  # no cell has such angles
    lattice[flat, 3:] = crystals.lattice[flat, 3:]
    moved = CrystalBatch(
        crystals.group, crystals.letters, crystals.elements, crystals.coordinates, completed(lattice, family)
    )
    return moved, np.asarray(step[:, :3].sum(1))


def _chosen(old: CrystalBatch, new: CrystalBatch, take: BoolArray) -> CrystalBatch:
    wide = take[:, None]
    return CrystalBatch(
        old.group,
        old.letters,
        np.where(wide, new.elements, old.elements),
        np.where(wide[..., None], new.coordinates, old.coordinates),
        np.where(wide, new.lattice, old.lattice),
    )
