"""Generated crystals judged by the usual metrics, each beside what real crystals reach on the same metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from megen_gym.analysis.coverage import CUTOFFS, coverage, fingerprints, normalisation
from megen_gym.analysis.crystal_composition import States, densities, element_counts, valid_compositions
from megen_gym.analysis.crystal_matching import matches, unique
from megen_gym.analysis.crystal_symmetry import SYMPREC, at_least, found_groups, group_numbers
from megen_gym.analysis.crystal_table import CrystalReport, CrystalRow
from megen_gym.analysis.crystal_validity import valid_structures
from megen_gym.analysis.metrics import wasserstein
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray, IntArray

LOOSE = 0.1
"""Å, symprec that finds the groups which real crystals count as asked for; the Materials Project's."""


def crystal_report(
    generated: Sequence[Atoms],
    asked: Sequence[int | str] | None,
    training: Sequence[Atoms],
    held_out: Sequence[Atoms],
    *,
    held_out_groups: Sequence[int | str] | None = None,
    cutoffs: tuple[float, float] = CUTOFFS["mp_20"],
    scale: tuple[ArrayLike, ArrayLike] | None = None,
    symprec: float = SYMPREC,
    states: States = "smact14",
    cap: int | None = None,
    processes: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> CrystalReport:
    """Judge generated crystals by CDVAE's metrics (Xie et al., ICLR 2022, arXiv 2110.06197) and by their symmetry.

    A number alone says little: real crystals do not reach 100 % either. Beside each stands its floor, the same metric
    of real crystals. For shares, held-out crystals take the place of the generated ones, as many where there are that
    many; for distances and coverage, one random half of the held-out crystals is compared with the other half. Halves
    are smaller than the whole: the floors of coverage are somewhat too low, and those of distances too high.

    Args:
        generated: B crystals, periodic in three directions; keep those that are broken, they count.
        asked: (B,) space groups that were asked for, numbers or symbols; None leaves symmetry out.
        training: Crystals that the generator has seen.
        held_out: Crystals of the same kind that it has not seen; at least two.
        held_out_groups: Their space groups; by default those that spglib finds within 0.1 Å.
        cutoffs: Of coverage, structure and composition: :data:`~megen_gym.analysis.coverage.CUTOFFS`.
        scale: Of coverage, see :func:`~megen_gym.analysis.coverage.coverage`; by default of the held-out crystals.
        symprec: Å, within which atoms count as equivalent.
        states: Oxidation states of :func:`~megen_gym.analysis.crystal_composition.valid_compositions`.
        cap: Look at so many generated and held-out crystals at most, drawn at random, for uniqueness, novelty and
            coverage, which take up to a second per crystal.
        processes: How many share the fingerprints.
        seed: Of what is drawn at random.
        progress: Show progress bars.

    Returns:
        Rows ``structure valid``, ``composition valid``, ``valid`` (both); ``unique`` and ``novel`` (of the valid ones),
        ``valid, unique, novel`` (of all); ``COV-R``, ``COV-P``; ``W1 density``, ``W1 elements`` (of the valid ones);
        ``asked group``, ``asked group or more``. Metrics whose packages are missing are left out, with a sentence.

    Raises:
        InputError: for empty sets, groups that are not one per crystal, or structures that are not periodic.
    """
    if not len(generated) or not len(training) or len(held_out) < 2:
        raise InputError(
            f"there are {len(generated)} generated, {len(training)} training and {len(held_out)} held-out crystals; "
            "give at least one, one and two"
        )
    for name, groups, count in (("asked", asked, len(generated)), ("held_out_groups", held_out_groups, len(held_out))):
        if groups is not None and len(groups) != count:
            raise InputError(f"{name} has {len(groups)} space groups for {count} crystals; give one for each")
    if cap is not None and cap < 2:
        raise InputError(f"cannot judge at most {cap} crystals; give 2 or more, or None for all")
    random = np.random.default_rng(seed)
    drawn = _draw(random, len(held_out), len(generated))
    sets = (list(generated), [held_out[row] for row in drawn])
    left_out: list[str] = []

    def available(metrics: str, *packages: str) -> bool:
        missing = [name for name in packages if not _installed(name)]
        if missing:
            left_out.append(
                f"Left out: {metrics}; {' and '.join(missing)} is not installed, get it with: "
                "pip install 'megen-gym[crystals]'"
            )
        return not missing

    rows, valid = _validity(sets, states, available("composition validity", "smact"))
    few = [_draw(random, len(members), cap) for members in sets]
    if available("uniqueness and novelty", "pymatgen"):
        chosen = [[members[row] for row in index] for members, index in zip(sets, few, strict=True)]
        good = [mask[index] for mask, index in zip(valid, few, strict=True)]
        rows += _identity(chosen, good, training, progress)
    reference = list(held_out)
    if available("COV-R and COV-P", "matminer", "pymatgen"):
        own = [generated[row] for row in few[0]]
        data = [reference[row] for row in _draw(random, len(reference), cap)]
        rows += _coverage(own, data, cutoffs, scale, random, processes, progress)
    own = [atoms for atoms, good in zip(generated, valid[0], strict=True) if good]
    halves = np.array_split(random.permutation(len(reference)), 2)
    rows.append(_distance("W1 density", "g/cm³", densities, own, reference, halves))
    rows.append(_distance("W1 elements", "", element_counts, own, reference, halves))
    if asked is not None:
        wanted = group_numbers(asked)
        real = found_groups(sets[1], LOOSE) if held_out_groups is None else group_numbers(held_out_groups)[drawn]
        rows += _symmetry(sets, (wanted, real), symprec, available("asked group or more", "pymatgen"))
    return CrystalReport(tuple(rows), tuple(left_out))


def _draw(random: np.random.Generator, count: int, most: int | None) -> IntArray:
    """Sorted rows of at most `most` of `count`."""
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(random.choice(count, most, replace=False))


def _installed(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


Sets = Sequence[Sequence[Atoms]]
"""Generated crystals, and real ones in their place."""


def _share(mask: BoolArray) -> float:
    return float(np.mean(mask)) if len(mask) else float("nan")


def _row(metric: str, masks: Sequence[BoolArray], meaning: str) -> CrystalRow:
    return CrystalRow(metric, "%", _share(masks[0]), _share(masks[1]), meaning)


def _validity(sets: Sets, states: States, smact: bool) -> tuple[list[CrystalRow], list[BoolArray]]:
    valid = [valid_structures(members) for members in sets]
    meaning = "share in which no atoms are closer than 0.5 Å and the cell has at least 0.1 Å³"
    rows = [_row("structure valid", valid, meaning)]
    if smact:
        neutral = [valid_compositions(members, states=states) for members in sets]
        meaning = f"share that can be charge neutral by the rule of SMACT with the oxidation states {states}"
        rows.append(_row("composition valid", neutral, meaning))
        valid = [first & second for first, second in zip(valid, neutral, strict=True)]
        rows.append(_row("valid", valid, "share that is valid in structure and composition"))
    return rows, valid


def _identity(sets: Sets, valid: Sequence[BoolArray], training: Sequence[Atoms], progress: bool) -> list[CrystalRow]:
    firsts, novels, alls = [], [], []
    for members, mask in zip(sets, valid, strict=True):
        good = [atoms for atoms, kept in zip(members, mask, strict=True) if kept]
        firsts.append(unique(good, progress=progress) == np.arange(len(good)))
        novels.append(~matches(good, training, progress=progress))
        alls.append(mask.copy())
        alls[-1][mask] = firsts[-1] & novels[-1]
    return [
        _row("unique", firsts, "share of the valid ones that equal none before them; falls with their number"),
        _row("novel", novels, "share of the valid ones that equal none of the training crystals"),
        _row("valid, unique, novel", alls, "share of all that are valid, equal none before them, and none in training"),
    ]


def _coverage(
    generated: Sequence[Atoms],
    reference: Sequence[Atoms],
    cutoffs: tuple[float, float],
    scale: tuple[ArrayLike, ArrayLike] | None,
    random: np.random.Generator,
    processes: int,
    progress: bool,
) -> list[CrystalRow]:
    data = fingerprints(reference, processes=processes, progress=progress)
    scale = normalisation(data) if scale is None else scale
    made = coverage(fingerprints(generated, processes=processes, progress=progress), data, cutoffs, scale=scale)
    first, second = np.array_split(random.permutation(len(data)), 2)
    floor = coverage(data[first], data[second], cutoffs, scale=scale)
    near = f"within {cutoffs[0]:g} in structure and {cutoffs[1]:g} in composition; floor between halves"
    return [
        CrystalRow(
            "COV-R", "%", made.recall, floor.recall, f"share of the held-out crystals near a generated one, {near}"
        ),
        CrystalRow(
            "COV-P", "%", made.precision, floor.precision, f"share of the generated near a held-out one, {near}"
        ),
    ]


def _distance(
    name: str,
    unit: str,
    measure: Callable[[Sequence[Atoms]], FloatArray | IntArray],
    generated: Sequence[Atoms],
    reference: Sequence[Atoms],
    halves: Sequence[IntArray],
) -> CrystalRow:
    own, data = (np.asarray(measure(members), dtype=np.float64) for members in (generated, reference))
    own, data, *parts = (values[np.isfinite(values)] for values in (own, data, *(data[rows] for rows in halves)))
    value = wasserstein(own, data) if len(own) and len(data) else np.nan
    floor = wasserstein(parts[0], parts[1]) if all(map(len, parts)) else np.nan
    meaning = "Wasserstein-1 distance of the valid ones from the held-out crystals; floor between halves"
    return CrystalRow(name, unit, value, floor, meaning)


def _symmetry(sets: Sets, asked: Sequence[IntArray], symprec: float, pymatgen: bool) -> list[CrystalRow]:
    found = [found_groups(members, symprec) for members in sets]
    exact = [(own == goal) & (own > 0) for own, goal in zip(found, asked, strict=True)]
    rows = [_row("asked group", exact, f"share with exactly the space group asked for, within {symprec:g} Å")]
    if pymatgen:
        # 0 is where spglib finds no group in a real crystal: nothing can be asked of it.
        more = [at_least(own, np.maximum(goal, 1)) & (goal > 0) for own, goal in zip(found, asked, strict=True)]
        meaning = f"share that has all symmetry of the group asked for, or more, within {symprec:g} Å"
        rows.append(_row("asked group or more", more, meaning))
    return rows
