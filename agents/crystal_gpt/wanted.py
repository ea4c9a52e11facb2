"""What drawn crystals must have, exactly: elements, composition, number of atoms, or sites that are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megen_gym.agents.crystal_gpt.encoding import ELEMENTS
from megen_gym.agents.crystal_gpt.network import LETTERS
from megen_gym.bags import formula_counts
from megen_gym.crystals import SYMBOLS
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray, IntArray
from megen_gym.tasks.reach import Goals, Reach
from megen_gym.wyckoff import LETTERS as NAMES
from megen_gym.wyckoff import space_group


@dataclass(frozen=True, eq=False)
class Template:
    """The first `K` sites of a list, wholly or partly known.

    Attributes:
        letters: (K,) 1 for a ... 27 for A, -1 where any will do.
        elements: (K, 119) bool, elements that a site may have.
        same: (K,) earlier site with the same element, -1 for none.
        coordinates: (K, 3) fractional, NaN where they are to be drawn.
        closed: Whether the list ends behind them.
    """

    letters: IntArray
    elements: BoolArray
    same: IntArray
    coordinates: FloatArray
    closed: bool = False

    @classmethod
    def of_letters(cls, letters: str) -> Template:
        """A closed list of letters such as "abc" with any elements and coordinates."""
        count = len(letters)
        index = np.array([NAMES.index(letter) + 1 for letter in letters])
        any_element = np.ones((count, ELEMENTS), dtype=bool)
        return cls(index, any_element, np.full(count, -1), np.full((count, 3), np.nan), True)


@dataclass(frozen=True, eq=False)
class Wanted:
    """Hard conditions of a batch; nothing is wanted by default.

    Attributes:
        elements: (119,) bool, elements that may occur; None for all.
        goals: Compositions to end with; None for any.
        template: Sites to begin with.
    """

    elements: BoolArray | None = None
    goals: Goals | None = None
    template: Template | None = None

    def start(self, group: Tensor, n_max: int) -> Progress:
        """No site yet of crystals with space group numbers (B,).

        Raises:
            InputError: for a goal that a group cannot reach, or a template that a group or `n_max` has no room for.
        """
        numbers = group.numpy(force=True)
        if self.template is not None:
            _check_template(self.template, numbers, n_max)
        if self.goals is None:
            return Progress(self, None, numbers, numbers, np.zeros((len(numbers), 0), dtype=np.int64), n_max)
        known, index = np.unique(numbers, return_inverse=True)
        reach = Reach([space_group(int(number)) for number in known], self.goals, n_max)
        counts = np.zeros((len(numbers), self.goals.counts.shape[1]), dtype=np.int64)
        return Progress(self, reach, numbers, index.reshape(-1), counts, n_max)

    def can(self, number: int, n_max: int) -> bool:
        """Whether crystals of a space group can have what is wanted."""
        try:
            self.start(torch.tensor([number]), n_max)
        except InputError:
            return False
        return True


@dataclass(eq=False)
class Progress:
    """Unfinished lists under what is wanted.

    Attributes:
        wanted: Hard conditions.
        reach: Tables of what can still be completed, if there are goals.
        numbers: (B,) space groups.
        group: (B,) their index in `reach`.
        counts: (B, D) atoms placed, along the axes of the goals.
        n_max: Sites at most.
        step: Sites so far.
        stuck: (B,) lists that can no longer end with what is wanted: the tables of `reach` know neither the template
            nor the elements.
    """

    wanted: Wanted
    reach: Reach | None
    numbers: IntArray
    group: IntArray
    counts: IntArray
    n_max: int
    step: int = 0

    def __post_init__(self) -> None:
        self.low = np.zeros(len(self.numbers), dtype=np.int64)
        self.chosen = np.zeros((len(self.numbers), self.n_max), dtype=np.int64)
        self.stuck: BoolArray = np.zeros(len(self.numbers), dtype=bool)
        self._open: BoolArray | None = None

    def letters(self, allowed: Tensor) -> Tensor:
        """(B, 28) those of the `allowed` letters that may come next; X alone for lists that are stuck.

        Raises:
            InputError: where there is nothing to begin with.
        """
        mask = allowed.numpy(force=True).copy()
        template = self.wanted.template
        if self.reach is not None:
            self._masks()
            assert self._open is not None
            mask[:, 1:] &= self._open.any(2)
            mask[:, 0] = self._stop
        if template is not None and self.step < len(template.letters):
            mask[:, 0] = False
            if template.letters[self.step] > 0:
                mask[:, np.arange(LETTERS) != template.letters[self.step]] = False
            if self.reach is not None and self._open is not None:
                useful = (self._open[:, :, self.reach.goals.axis] & self._usable()).any(2)
                mask[:, 1:] &= useful
        elif template is not None and template.closed:
            mask[:, 1:] = False
        self.stuck = np.asarray(~mask.any(1))
        if self.step == 0 and self.stuck.any():
            number = int(self.numbers[self.stuck.argmax()])
            raise InputError(
                f"no site can be the first one in space group {number} and lead to what is wanted; give other sites, "
                "another composition, or a larger n_max"
            )
        mask[self.stuck, 0] = True
        return torch.from_numpy(mask).to(allowed.device)

    def elements(self, letter: Tensor) -> Tensor | None:
        """(B, 119) elements that the site may have; None for all."""
        wanted, template = self.wanted, self.wanted.template
        inside = template is not None and self.step < len(template.letters)
        if wanted.elements is None and self.reach is None and not inside:
            return None
        mask = np.broadcast_to(self._usable(), (len(self.numbers), ELEMENTS)).copy()
        if self.reach is not None:
            assert self._open is not None
            index = np.maximum(letter.numpy(force=True) - 1, 0)
            mask &= self._open[np.arange(len(index)), index][:, self.reach.goals.axis]
        if inside and template is not None and template.same[self.step] >= 0:
            like = self.chosen[:, template.same[self.step]]
            mask &= np.arange(ELEMENTS) == like[:, None]
        mask[letter.numpy(force=True) == 0] = True
        without = ~mask.any(1)
        if self.step == 0 and without.all():
            raise InputError("no element is left for site 1; allow more elements, or give other sites or composition")
        self.stuck |= without
        mask[without] = True
        return torch.from_numpy(mask).to(letter.device)

    def coordinates(self) -> FloatArray | None:
        """(3,) coordinates that are given for the next site, NaN for those to be drawn; None for all."""
        template = self.wanted.template
        if template is None or self.step >= len(template.letters):
            return None
        return np.asarray(template.coordinates[self.step])

    def add(self, letter: Tensor, element: Tensor, count: Tensor, full: Tensor) -> None:
        """Take note of a site, or of the end (letter 0), of each list.

        Args:
            letter, element: (B,).
            count: (B,) atoms of the site.
            full: (B,) whether its letter can occur once only.
        """
        index, kind = letter.numpy(force=True), element.numpy(force=True)
        self.low = np.where(index > 0, index - 1 + full.numpy(force=True), self.low)
        self.chosen[:, self.step] = kind
        if self.reach is not None:
            rows = np.flatnonzero(index > 0)
            self.counts = self.counts.copy()
            self.counts[rows, self.reach.goals.axis[kind[rows]]] += count.numpy(force=True)[rows]
        self.step += 1

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the lists."""
        index = rows.numpy(force=True)
        self.numbers, self.group, self.counts = self.numbers[index], self.group[index], self.counts[index]
        self.low, self.chosen = self.low[index], self.chosen[index]

    def _usable(self) -> BoolArray:
        """(119,) elements that the next site may have, whatever its letter."""
        usable = np.arange(ELEMENTS) > 0
        if self.wanted.elements is not None:
            usable = usable & self.wanted.elements
        template = self.wanted.template
        if template is not None and self.step < len(template.letters):
            usable = usable & template.elements[self.step]
        if self.reach is not None:
            usable = usable & (self.reach.goals.axis >= 0)
        return np.asarray(usable)

    def _masks(self) -> None:
        assert self.reach is not None
        left = np.full(len(self.numbers), self.n_max - self.step)
        layers = np.ones((len(self.numbers), 1), dtype=bool)
        open_, self._stop = self.reach.masks(self.group, self.low, self.counts, left, layers)
        self._open = open_


def composition_goals(composition: str, n_atoms: int | None, most: int) -> Goals:
    """Any number of formula units up to `most` atoms, or the one that makes `n_atoms`.

    Raises:
        InputError: for a formula that cannot be read, or where no number of units fits.
    """
    return Goals.of_formula(formula_counts(composition, SYMBOLS), most, n_atoms)


def _check_template(template: Template, numbers: IntArray, n_max: int) -> None:
    if len(template.letters) > n_max:
        raise InputError(f"{len(template.letters)} sites were given, but the model has n_max={n_max}; give fewer")
    letters = template.letters[template.letters > 0]
    for number in np.unique(numbers).tolist():
        group, previous = space_group(number), 0
        for letter in letters.tolist():
            row = group.position(NAMES[letter - 1]) - int(group.positions.start)
            if letter < previous or (letter == previous and not group.free[row].any()):
                raise InputError(
                    f"letter {NAMES[letter - 1]} comes behind {NAMES[previous - 1]} in the given sites of space group "
                    f"{number}; give letters in order, those without free coordinates once"
                )
            previous = letter
