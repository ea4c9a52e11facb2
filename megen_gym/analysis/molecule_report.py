"""Generated molecules judged by the usual metrics, each beside what real molecules reach on the same metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from megen_gym.analysis.metrics import wasserstein
from megen_gym.analysis.molecule_geometry import Kinds, angle_name, bond_name, by_kind
from megen_gym.analysis.molecule_identity import Identity, identify, keys
from megen_gym.analysis.molecule_measures import MEASURES, WIDTH, MoleculeSet, Pairs, draws, valid_ones
from megen_gym.analysis.molecule_property import Property
from megen_gym.analysis.molecule_rings import RINGS
from megen_gym.analysis.molecule_table import MoleculeReport, MoleculeRow
from megen_gym.analysis.molecule_validity import TIMEOUT, Validity, check
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray


@dataclass(frozen=True)
class Aim:
    """A property of which samples are to have a certain value.

    Attributes:
        property: From M molecules to (M,) numbers, NaN where there is none; recomputed, not predicted by the model.
        name: Of the property.
        unit: Of the property.
        target: The value that was asked for; None for the distribution alone.
        window: Largest difference from it that counts as a hit.
    """

    property: Property
    name: str = "property"
    unit: str = ""
    target: float | None = None
    window: float = 0.5

    def __post_init__(self) -> None:
        if not self.window > 0 or (self.target is not None and not np.isfinite(self.target)):
            raise InputError(f"the window {self.window} around the target {self.target} is empty; give one above 0")


def report(
    samples: Sequence[Atoms],
    reference: Sequence[Atoms],
    held_out: Sequence[Atoms] | None = None,
    *,
    validity: Validity | None = None,
    reference_validity: Validity | None = None,
    held_out_validity: Validity | None = None,
    splits: Mapping[str, ArrayLike] | None = None,
    aim: Aim | None = None,
    ignore_enantiomers: bool = False,
    ignore_isomerism: bool = False,
    repeats: int = 5,
    seed: int = 0,
    progress: bool = False,
    **rules: Any,
) -> MoleculeReport:
    """Judge generated molecules: valid, unique, novel, and as the data in composition, rings, bonds and angles.

    A number alone says little: real molecules are not all valid either, and two sets of real molecules differ. Beside
    each number stands its floor: real molecules take the place of the samples, as many as there are valid samples where
    there are that many. They are held-out ones, compared with all of `reference`; without those, molecules drawn from
    `reference`, compared with the rest of it. Floors that compare are means over `repeats` draws.

    Args:
        samples: M molecules; keep the broken ones, they count.
        reference: R molecules that the generator has seen.
        held_out: Molecules of the same kind that it has not seen.
        validity: Verdict on `samples`, by default that of :func:`~megen_gym.analysis.molecule_validity.check`.
        reference_validity: Verdict on `reference`.
        held_out_validity: Verdict on `held_out`.
        splits: Rows of `reference` by ``train``, ``val``, ``test``: novelty then is judged against these only, and
            ``unseen`` counts what is neither in train nor in val.
        aim: A property, recomputed for the valid samples and as many real molecules.
        ignore_enantiomers: Mirror images are the same molecule.
        ignore_isomerism: Stereoisomers are the same molecule.
        repeats: Draws behind a floor.
        seed: Of the draws.
        progress: Show progress bars.
        rules: Further arguments of :func:`~megen_gym.analysis.molecule_validity.check`.

    Returns:
        Rows ``valid`` (of all), ``unique`` (of the valid), ``novel``, ``unseen`` (of the unique), ``valid, unique,
        novel`` (of all); means per molecule: ``size``, elements by symbol, rings by name; distances ``JS elements``,
        ``W1 size``, ``JS rings``, ``W1 bonds``, ``MMD bonds``, ``W1 angles``, ``JS bonds``, ``JS environments``; of the
        aim's property ``hit``, ``mean``, ``spread``, ``W1``.

    Raises:
        InputError: without samples or with less than two real molecules, or for verdicts of other length.
    """
    if not len(samples) or len(reference) < 2 or repeats < 1:
        raise InputError(
            f"there are {len(samples)} samples, {len(reference)} reference molecules, {repeats} repeats; "
            "give at least one, two and one"
        )
    names = {"ignore_enantiomers": ignore_enantiomers, "ignore_isomerism": ignore_isomerism}
    verdicts = [
        _verdict(members, known, rules, progress)
        for members, known in (
            (samples, validity),
            (reference, reference_validity),
            (held_out or (), held_out_validity),
        )
    ]
    named = [keys(verdict.smiles, **names) for verdict in verdicts]
    own, data, other = (
        valid_ones(members, verdict, name)
        for members, verdict, name in zip((samples, reference, held_out or ()), verdicts, named, strict=True)
    )
    if len(data) < 2 or (held_out is not None and not len(other)):
        raise InputError(f"only {len(data)} of {len(reference)} reference molecules are valid; give real molecules")
    pairs = draws(own, data, other if held_out is not None else None, repeats, np.random.default_rng(seed))
    real = verdicts[1 if held_out is None else 2].valid
    rows = _identity_rows(identify(named[0], named[1], splits), real, pairs, splits is not None)
    rows += _mean_rows(own, data if held_out is None else other)
    for name, (unit, measure, meaning) in MEASURES.items():
        floor = float(np.mean([measure(*pair) for pair in pairs]))
        rows.append(MoleculeRow(name, float(measure(own, data)), floor, unit, len(own), meaning))
    values = None
    if aim is not None:
        first, second = (np.asarray(aim.property(some.atoms), dtype=np.float64) for some in (own, pairs[0][0]))
        values = first, second
        rows += _aim_rows(aim, first, second)
    return MoleculeReport(tuple(rows), _kind_rows(own, data, pairs), values)


def summary(
    samples: Sequence[Atoms],
    reference: Sequence[Atoms] | None = None,
    *,
    validity: Validity | None = None,
    reference_validity: Validity | None = None,
    splits: Mapping[str, ArrayLike] | None = None,
    ignore_enantiomers: bool = False,
    ignore_isomerism: bool = False,
    progress: bool = False,
    **rules: Any,
) -> str:
    """One line that says how many molecules are valid, unique (of the valid), and novel (of the unique).

    Args:
        samples: M molecules.
        reference: Molecules that the generator has seen; None leaves novelty out.
        validity: Verdict on `samples`.
        reference_validity: Verdict on `reference`.
        splits: Rows of `reference` by ``train``, ``val``, ``test``; only these count.
        ignore_enantiomers: Mirror images are the same molecule.
        ignore_isomerism: Stereoisomers are the same molecule.
        progress: Show progress bars.
        rules: Further arguments of :func:`~megen_gym.analysis.molecule_validity.check`.

    >>> from ase.build import molecule
    >>> summary([molecule("CH4"), molecule("CH4"), molecule("H2O"), molecule("CH3")], [molecule("H2O")])
    'valid 75.0 %  unique 66.7 %  novel 50.0 %  (n = 4)'
    """
    sets = [_verdict(samples, validity, rules, progress)]
    if reference is not None or reference_validity is not None:
        sets.append(_verdict(reference or (), reference_validity, rules, progress))
    names = {"ignore_enantiomers": ignore_enantiomers, "ignore_isomerism": ignore_isomerism}
    named = [keys(verdict.smiles, **names) for verdict in sets]
    found = identify(named[0], named[1] if len(named) > 1 else (), splits)
    shares = [_share(found.valid), _share(found.unique[found.valid])]
    shares += [_share(found.novel[found.unique])] if len(sets) > 1 else []
    texts = [f"{100 * share:.1f} %" if np.isfinite(share) else "-" for share in shares]
    words = [f"{name} {text}" for name, text in zip(("valid", "unique", "novel"), texts, strict=False)]
    return "  ".join([*words, f"(n = {len(samples)})"])


def _verdict(members: Sequence[Atoms], known: Validity | None, rules: dict[str, Any], progress: bool) -> Validity:
    if known is None:
        return check(members, progress=progress, **({"timeout": TIMEOUT} | rules))
    if len(members) and len(known) != len(members):
        raise InputError(f"there are verdicts on {len(known)} of {len(members)} molecules; give one for each")
    return known


def _share(mask: BoolArray) -> float:
    return float(np.mean(mask)) if len(mask) else float("nan")


def _identity_rows(found: Identity, real: BoolArray, pairs: Pairs, split: bool) -> list[MoleculeRow]:
    others = [identify(first.keys, second.keys) for first, second in pairs]
    unique = float(np.mean([_share(other.unique) for other in others]))
    novel = float(np.mean([_share(other.novel[other.unique]) for other in others]))
    valid, alone = int(found.valid.sum()), int(found.unique.sum())
    rows = [
        MoleculeRow("valid", _share(found.valid), _share(real), "%", len(found.first), "share with possible bonds"),
        MoleculeRow(
            "unique", _share(found.unique[found.valid]), unique, "%", valid,
            "share of the valid ones that equal none before them; falls with their number",
        ),
        MoleculeRow(
            "novel", _share(found.novel[found.unique]), novel, "%", alone,
            "share of the unique ones that are not in the reference",
        ),
    ]  # fmt: skip
    if split:
        share = _share(found.unseen[found.unique])
        rows.append(MoleculeRow("unseen", share, novel, "%", alone, "share of the unique ones not used for training"))
    meaning = "share of all that are valid, equal none before them, and are not in the reference"
    floor = _share(real) * unique * novel
    return [*rows, MoleculeRow("valid, unique, novel", _share(found.novel), floor, "%", len(found.first), meaning)]


def _mean_rows(own: MoleculeSet, real: MoleculeSet) -> list[MoleculeRow]:
    def row(name: str, first: NDArray[Any], second: NDArray[Any], meaning: str) -> MoleculeRow:
        means = [float(np.mean(part)) if len(part) else float("nan") for part in (first, second)]
        return MoleculeRow(name, means[0], means[1], "", len(own), meaning)

    rows = [row("size", own.sizes, real.sizes, "mean number of atoms")]
    for number in np.flatnonzero(own.elements.any(axis=0) | real.elements.any(axis=0)).tolist():
        symbol = chemical_symbols[number]
        rows.append(row(symbol, own.elements[:, number], real.elements[:, number], f"mean number of {symbol} atoms"))
    for column, name in enumerate(RINGS):
        meaning = f"mean number of {f'rings of {name[1:]} atoms' if name[0] == 'R' else f'{name} rings'}"
        rows.append(row(name, own.rings[:, column], real.rings[:, column], meaning))
    return rows


def _kind_rows(own: MoleculeSet, data: MoleculeSet, pairs: Pairs) -> tuple[MoleculeRow, ...]:
    rows: list[MoleculeRow] = []
    kinds: tuple[tuple[str, str, Callable[[int], str], Callable[[MoleculeSet], Kinds]], ...] = (
        ("bond", "Å", bond_name, lambda members: members.internal.bonds),
        ("angle", "°", angle_name, lambda members: members.internal.angles),
    )
    for what, unit, title, chosen in kinds:
        values = by_kind(chosen(own), chosen(data))
        floors = [by_kind(chosen(first), chosen(second)) for first, second in pairs]
        found, counts = np.unique(chosen(own).kind, return_counts=True)
        number = dict(zip(found.tolist(), counts.tolist(), strict=True))
        for kind in sorted(values, key=lambda kind: -number[kind]):
            known = [floor[kind] for floor in floors if kind in floor]
            floor = float(np.mean(known)) if known else float("nan")
            rows.append(MoleculeRow(f"{what} {title(kind)}", values[kind], floor, unit, number[kind]))
    return tuple(rows)


def _aim_rows(aim: Aim, values: FloatArray, others: FloatArray) -> list[MoleculeRow]:
    known, others_known = values[np.isfinite(values)], others[np.isfinite(others)]
    halves = np.array_split(np.random.default_rng(0).permutation(others_known), 2)
    rows = []
    if aim.target is not None:
        hits = [_share(np.abs(part - aim.target) <= aim.window) for part in (values, others)]
        meaning = f"share of the valid ones within {aim.window:g} {aim.unit} of {aim.target:g} {aim.unit}; floor: data"
        rows.append(MoleculeRow(f"{aim.name} hit", hits[0], hits[1], "%", len(values), meaning))
    for name, long, reduce in (("mean", "mean", np.mean), ("spread", "standard deviation", np.std)):
        numbers = [float(reduce(part)) if len(part) else float("nan") for part in (known, others_known)]
        rows.append(
            MoleculeRow(f"{aim.name} {name}", numbers[0], numbers[1], aim.unit, len(known), f"{long} of the {aim.name}")
        )
    distance = wasserstein(known, others_known) if len(known) and len(others_known) else float("nan")
    floor = wasserstein(*halves) if len(others_known) > 1 else float("nan")
    meaning = f"{WIDTH} of the {aim.name}; floor between halves of as many real molecules"
    return [*rows, MoleculeRow(f"{aim.name} W1", distance, floor, aim.unit, len(known), meaning)]
