"""What the composition of a structure promises, wherever its atoms are: a property, or how polymorphic it is."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from megen_gym.errors import InputError, nearest
from megen_gym.rewards.base import WorthReward
from megen_gym.structure import FloatArray, IntArray, StructureBatch

if TYPE_CHECKING:
    from megen_gym.agents.polysrl.compositions import Compositions
    from megen_gym.agents.polysrl.model import CompositionEncoder

KINDS = ("property", "spread")

MEMORY = 65536
"""Compositions whose value is remembered."""


class CompositionReward(WorthReward):
    """A property predicted from the composition alone, or how many structures a composition is expected to have.

    worth = -\\|prediction - target\\| / scale, or sign x prediction / scale without a target. Nothing is worth 0; a
    placement is paid by the difference that it makes, so that the return of an episode is the worth of the last
    composition. Only the shares of the elements matter, not the size: Cu2Au and Cu4Au2 are worth the same, and so is
    a crystal in any cell. It judges clusters, molecules and crystals alike, where the bag leaves a choice.

    | kind | prediction | encoder |
    | --- | --- | --- |
    | property | of the property that the encoder was fitted to, in the unit of its data | `run`, a fitted one |
    | spread | spread of the structures of the composition, as a bonus for exploration | the bundled one, or `run` |

    Every different composition costs the network one evaluation, and none while it is remembered (the 65,536 used
    last).

    A structure with an element that the encoder has no features of is an error of its row alone. The encoder is that of
    PolySRL (Park et al., NeurIPS AI4Science workshop 2023).

    Args:
        kind: "property" or "spread".
        run: Run id or folder of a composition encoder, or "newest" (`python agents/polysrl/train.py`), or a file that
            its `save` wrote, which a fitted one is read from; None for the bundled one.
        dir: Folder of the run folders.
        target: In the unit of the prediction; None to pay for the prediction itself.
        scale: What is worth 1, in that unit.
        sign: 1, or -1 to pay for small values; without a target only.
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for an unknown kind, an encoder that does not predict it, or another argument that cannot be used.
    """

    name = "composition"

    def __init__(
        self,
        kind: str = "property",
        run: str | None = None,
        dir: str | Path = "runs",
        target: float | None = None,
        scale: float = 1.0,
        sign: int = 1,
        invalid: float = -1.0,
    ) -> None:
        from megen_gym.agents.polysrl.compositions import Compositions
        from megen_gym.agents.polysrl.model import CompositionEncoder

        if kind not in KINDS:
            raise InputError(f"the reward 'composition' was given the kind {kind!r}; {nearest(str(kind), KINDS)}")
        if kind == "property" and run is None:
            raise InputError(
                "the reward 'composition' of kind 'property' was given no run; name the file or run of an encoder that "
                "was fitted to a property, or choose kind='spread'"
            )
        if not (0 < scale < np.inf and (target is None or -np.inf < target < np.inf)):
            raise InputError(
                f"the reward 'composition' was given target {target} and scale {scale}; expected a finite number or "
                "null as target, and a scale above 0"
            )
        if sign not in ((1, -1) if target is None else (1,)):
            raise InputError(
                f"the reward 'composition' was given sign {sign} and target {target}; expected 1 or -1 without a "
                "target, and no sign with one"
            )
        self.encoder: CompositionEncoder = CompositionEncoder.load(run, dir)
        self.kind, self.target, self.scale, self.sign = kind, target, float(scale), int(sign)
        self.invalid = float(invalid)
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._refused: dict[int, bool] = {}
        self._predict(Compositions.parse(["NaCl"]))  # an encoder that cannot do it says so now

    def worth(self, structures: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray]]:
        """See :meth:`.base.WorthReward.worth`; the prediction is the term ``property`` or ``spread``."""
        return self.worth_errors(structures)[:2]

    def worth_errors(self, structures: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray], dict[int, str]]:
        """:meth:`worth` with the reason for each row that has none."""
        value, errors = self._values(structures)
        worth = self.sign * value if self.target is None else -np.abs(value - self.target)
        return worth / self.scale, {self.kind: value}, errors

    def _values(self, structures: StructureBatch) -> tuple[FloatArray, dict[int, str]]:
        """(B,) predictions, NaN where there is none, and why."""
        if not len(structures):
            return np.zeros(0), {}
        numbers = np.array([atomic_numbers[name] for name in structures.symbols[1:]])
        counts = (structures.species[:, :, None] == 1 + np.arange(len(numbers))).sum(1)
        order = np.argsort(numbers)
        numbers, counts = numbers[order], counts[:, order]
        reduced = counts // np.gcd.reduce(counts, axis=1)[:, None]
        kinds, which = np.unique(reduced, axis=0, return_inverse=True)
        which = which.reshape(-1)
        found, reasons = self._of_kinds(kinds, numbers)
        return found[which], {row: reasons[kind] for row, kind in enumerate(which.tolist()) if kind in reasons}

    def _of_kinds(self, counts: IntArray, numbers: IntArray) -> tuple[FloatArray, dict[int, str]]:
        """(K,) predictions for different reduced compositions (K, S), and why there is none."""
        from megen_gym.agents.polysrl.compositions import Compositions

        strange = (counts > 0) & np.array([self._strange(number) for number in numbers.tolist()], dtype=bool)
        reasons = {}
        for row in np.flatnonzero(strange.any(1)).tolist():
            names = ", ".join(chemical_symbols[number] for number in numbers[strange[row]])
            reasons[row] = f"the composition encoder has no features of {names}"
        keys = [_key(row, numbers) for row in counts]
        values = np.full(len(counts), np.nan)
        new = []
        for row, key in enumerate(keys):
            if key in self._remembered:
                values[row] = self._remembered[key]
                self._remembered.move_to_end(key)
            elif row not in reasons:
                new.append(row)
        if new:
            values[new] = self._predict(Compositions.of_counts(counts[new], numbers))
            for row in new:
                if np.isfinite(values[row]):
                    self._remembered[keys[row]] = float(values[row])
                else:
                    reasons[row] = "the composition encoder's prediction is not finite"
            while len(self._remembered) > MEMORY:
                self._remembered.popitem(last=False)
        return values, reasons

    def _strange(self, number: int) -> bool:
        """Whether the encoder refuses the element."""
        from megen_gym.agents.polysrl.compositions import Compositions

        if number not in self._refused:
            try:
                self.encoder.compositions(Compositions(np.array([[number]]), np.ones((1, 1))))
                self._refused[number] = False
            except InputError:
                self._refused[number] = True
        return self._refused[number]

    def _predict(self, compositions: Compositions) -> FloatArray:
        if self.kind == "spread":
            return np.asarray(self.encoder.spread(compositions), dtype=np.float64)
        return np.asarray(self.encoder.predict(compositions), dtype=np.float64)


def _key(counts: IntArray, numbers: IntArray) -> bytes:
    """Of a composition, whichever other symbols the task has."""
    there = counts > 0
    return np.stack([numbers[there], counts[there]]).astype(np.int64).tobytes()
