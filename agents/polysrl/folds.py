"""Which rows of a table train and which test, by the published protocols, and targets on a scale for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from megen_gym.agents.polysrl.tables import PropertyTable
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray

Kind = Literal["official", "matbench", "published", "random"]

Folds = list[tuple[IntArray, IntArray]]
"""(train rows, test rows) of each fold."""

Scaling = Literal["none", "standard", "log", "minmax"]

MATBENCH_SEED = 18012019
"""By which Matbench v0.1 shuffles its five folds (Dunn et al., npj Comput. Mater. 6, 138), as scikit-learn's KFold."""


def folds_of(
    table: PropertyTable, kind: Kind = "published", official: PropertyTable | None = None, n: int = 5, seed: int = 0
) -> Folds:
    """Train and test rows.

    =============  ================================================================================================
    kind           folds
    =============  ================================================================================================
    ``official``   those of the table (or of `official`); all rows that share no composition with the test rows train
    ``matbench``   five, as Matbench shuffles the rows of its tables
    ``published``  five of a random permutation with seed 0, as the published test scripts of PolySRL
    ``random``     `n` of about one size by `seed`, rows of one composition always together
    =============  ================================================================================================

    Args:
        table: N rows.
        kind: See above.
        official: A table with a column ``fold`` whose rows are tested: where `table` itself does not say.
        n: Number of random folds.
        seed: Of the random folds.

    Raises:
        InputError: for an unknown kind, too few rows, or official folds that are not known or not in the table.
    """
    if kind not in get_args(Kind):
        raise InputError(f"there are no folds of the kind {kind!r}; {nearest(str(kind), get_args(Kind))}")
    if kind == "official":
        return _official(table, official)
    groups = table.groups if kind == "random" else np.arange(len(table))
    n = n if kind == "random" else 5
    amount = int(groups.max()) + 1 if len(table) else 0
    if not 2 <= n <= amount:
        raise InputError(f"{n} folds of {amount} compositions were asked for; give from 2 to {amount} folds")
    if kind == "random":
        order = np.random.default_rng(seed).permutation(amount)
    else:
        order = np.random.RandomState(MATBENCH_SEED if kind == "matbench" else 0).permutation(amount)
    parts = np.array_split(order, n)
    return [(np.flatnonzero(~np.isin(groups, part)), np.flatnonzero(np.isin(groups, part))) for part in parts]


def leaks(table: PropertyTable, folds: Sequence[tuple[IntArray, IntArray]]) -> tuple[str, ...]:
    """A sentence for every fold in which compositions are both trained on and tested."""
    sentences = []
    for number, (train, test) in enumerate(folds):
        seen = np.isin(table.groups[test], table.groups[train])
        if seen.any():
            row = int(test[np.argmax(seen)])
            twin = int(train[np.argmax(table.groups[train] == table.groups[row])])
            sentences.append(
                f"fold {number}: {int(seen.sum())} of {len(test)} tested rows have a composition that is also trained "
                f"on, e.g. {table.formulas[row]} (row {row}) and {table.formulas[twin]} (row {twin})"
            )
    return tuple(sentences)


def _official(table: PropertyTable, official: PropertyTable | None) -> Folds:
    if official is None and table.splits is not None:
        return [(train.copy(), test.copy()) for train, test in table.splits]
    source = table if official is None else official
    if source.fold is None:
        raise InputError(
            "the table has no official folds; give one with a column fold or a folder of folds, or choose another kind "
            f"of {', '.join(get_args(Kind)[1:])}"
        )
    row_fold: list[IntArray]
    if official is None:
        row_fold = [np.flatnonzero(table.fold == fold) for fold in np.unique(source.fold[source.fold >= 0])]
    else:
        row_fold = [_rows(table, source, fold) for fold in np.unique(source.fold[source.fold >= 0])]
    if not row_fold:
        raise InputError("the official folds are all blank; number the tested rows from 0")
    folds: Folds = [(np.flatnonzero(~np.isin(table.groups, table.groups[test])), test) for test in row_fold]
    if any(not len(train) for train, _ in folds):
        raise InputError("an official fold tests all compositions, so none is left to train; give the complete table")
    return folds


def _rows(table: PropertyTable, official: PropertyTable, fold: int) -> IntArray:
    """Rows of the table whose composition is in one official fold."""
    wanted = {
        key: formula
        for key, formula, at in zip(official.keys, official.formulas, official.fold, strict=True)  # type: ignore[arg-type]
        if at == fold
    }
    missing = wanted.keys() - set(table.keys)
    if missing:
        raise InputError(
            f"{len(missing)} compositions of the official fold {fold} are not in the table, e.g. "
            f"{wanted[min(missing)]}; give the table that belongs to the folds"
        )
    return np.flatnonzero([key in wanted for key in table.keys])


@dataclass(frozen=True)
class Scaler:
    """Targets on the scale of a network: ``(f(y) - shift) / scale``, where f is the logarithm or nothing.

    Attributes:
        kind: ``none``, ``standard`` (mean 0, standard deviation 1), ``log`` (the natural logarithm, standardised) or
            ``minmax`` (0 to 1).
        shift: In units of f(y).
        scale: In units of f(y), above 0.
    """

    kind: Scaling = "none"
    shift: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, target: FloatArray, kind: Scaling = "standard") -> Scaler:
        """From the targets of the train rows alone.

        Args:
            target: (N,).
            kind: See the class.

        Raises:
            InputError: for an unknown kind, no targets, targets that are not finite, or not positive for ``log``.
        """
        if kind not in get_args(Scaling):
            raise InputError(f"there is no scaling {kind!r}; {nearest(str(kind), get_args(Scaling))}")
        target = np.asarray(target, dtype=np.float64)
        if not target.size:
            raise InputError("there are no targets to scale; give at least one")
        values = cls(kind)._raw(target)
        shift, scale = 0.0, 1.0
        if kind in ("standard", "log"):
            shift, scale = float(values.mean()), float(values.std())
        elif kind == "minmax":
            shift, scale = float(values.min()), float(np.ptp(values))
        return cls(kind, shift, scale if scale > 1e-12 * max(1.0, abs(shift)) else 1.0)

    def transform(self, target: FloatArray) -> FloatArray:
        """(N,) targets as the network learns them.

        Raises:
            InputError: for targets that are not finite, or not positive for ``log``.
        """
        return (self._raw(np.asarray(target, dtype=np.float64)) - self.shift) / self.scale

    def inverse(self, scaled: FloatArray) -> FloatArray:
        """(N,) targets in their own units."""
        values = np.asarray(scaled, dtype=np.float64) * self.scale + self.shift
        return np.exp(values) if self.kind == "log" else values

    def _raw(self, target: FloatArray) -> FloatArray:
        bad = ~np.isfinite(target)
        if bad.any():
            raise InputError(
                f"{int(bad.sum())} of {target.size} targets are NaN or infinite, e.g. row {int(np.argmax(bad))}; "
                "leave them out"
            )
        low = target <= 0
        if self.kind == "log" and low.any():
            raise InputError(
                f"{int(low.sum())} of {target.size} targets are not above 0, e.g. {target[low][0]:g} in row "
                f"{int(np.argmax(low))}, and have no logarithm; leave them out, or scale by 'standard' or 'minmax'"
            )
        return np.log(target) if self.kind == "log" else target
