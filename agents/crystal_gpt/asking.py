"""From what a user asks for, in words, to hard conditions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from megen_gym.agents.crystal_gpt.encoding import ELEMENTS
from megen_gym.agents.crystal_gpt.model import Model
from megen_gym.agents.crystal_gpt.wanted import Template, Wanted, composition_goals
from megen_gym.agents.nn.options import check_bounds
from megen_gym.crystals import SYMBOLS, CrystalBatch
from megen_gym.errors import InputError, nearest
from megen_gym.structure import BoolArray, FloatArray, check_symbols
from megen_gym.tasks.reach import Goals
from megen_gym.tasks.start import Start
from megen_gym.wyckoff import LETTERS, space_group

RADIOACTIVE = (43, 61, *range(84, ELEMENTS))
"""Atomic numbers of elements without a stable isotope (bismuth counts as stable)."""


@dataclass(frozen=True)
class Request:
    """Hard conditions in a user's words; nothing is asked by default.

    Attributes:
        elements: Such as "Ba,Ti,O", or a JSON file with ``atom_mask`` (allowed symbols or atomic numbers of each site)
            and ``constraints`` (pairs of sites, counted from 0, with the same element).
        composition: Such as "BaTiO3", in any number of formula units.
        n_atoms: Of the conventional cell.
        max_atoms: Of the conventional cell.
        wyckoff: Letters of all sites, such as "a b c".
        sites: First sites, such as "a Ba 0 0 0; b Ti"; coordinates that are not given are drawn.
        remove_radioactive: No elements without a stable isotope.
    """

    elements: str | None = None
    composition: str | None = None
    n_atoms: int | None = None
    max_atoms: int | None = None
    wyckoff: str | None = None
    sites: str | None = None
    remove_radioactive: bool = False

    def wanted(self, model: Model, groups: list[int]) -> Wanted:
        """The conditions for a model and space groups (all that the model knows, if none are given).

        Raises:
            InputError: for anything that cannot be understood or had.
        """
        mask, template = self._elements(model)
        if self.wyckoff is not None or self.sites is not None:
            if template is not None or (self.wyckoff is not None and self.sites is not None):
                raise InputError("wyckoff, sites, and a JSON file of elements were given together; give one of them")
            template = self._letters() if self.wyckoff is not None else self._sites(model, groups)
        check_bounds(self, {1: "n_atoms max_atoms"})
        most = self.max_atoms or max(model.max_atoms, self.n_atoms or 0)
        goals = None
        if self.composition is not None:
            goals = composition_goals(self.composition, self.n_atoms, most)
            for z in np.flatnonzero(goals.axis >= 0).tolist():
                _check_known(model, z)
                if mask is not None and not mask[z]:
                    raise InputError(
                        f"composition {self.composition} needs {SYMBOLS[z]}, not among elements {self.elements}; "
                        "add it, or leave elements out"
                    )
        elif self.n_atoms is not None or self.max_atoms is not None:
            goals = Goals.of_size(ELEMENTS, most, self.n_atoms)
        if self.remove_radioactive:
            mask = np.ones(ELEMENTS, dtype=bool) if mask is None else mask
            mask[list(RADIOACTIVE)] = False
            if not mask[model.elements].any():
                raise InputError("without radioactive elements none is left; allow others")
        return Wanted(mask, goals, template)

    def _elements(self, model: Model) -> tuple[BoolArray | None, Template | None]:
        if self.elements is None:
            return None, None
        if self.elements.endswith(".json"):
            return None, _template_of_json(Path(self.elements))
        mask = np.zeros(ELEMENTS, dtype=bool)
        for name in check_symbols(self.elements)[1:]:
            _check_known(model, atomic_numbers[name])
            mask[atomic_numbers[name]] = True
        return mask, None

    def _letters(self) -> Template:
        letters = (self.wyckoff or "").replace(",", " ").split()
        letters = list(letters[0]) if len(letters) == 1 else letters
        for letter in letters:
            if letter not in LETTERS or len(letter) != 1:
                raise InputError(
                    f"wyckoff holds {letter!r}, which is no letter from a to z or A; write them as in 'a b c'"
                )
        if not letters:
            raise InputError("wyckoff names no letter; write them as in 'a b c'")
        return Template.of_letters("".join(letters))

    def _sites(self, model: Model, groups: list[int]) -> Template:
        start, n_max = Start.read(self.sites), model.network.shape.n_max
        if groups:
            letters, elements, _ = start.checked([space_group(number) for number in groups], SYMBOLS, n_max)
        else:  # any group that has these sites; which ones is decided where groups are drawn
            for number in sorted(model.groups, key=lambda one: -model.groups[one]):
                try:
                    letters, elements, _ = start.checked([space_group(number)], SYMBOLS, n_max)
                    break
                except InputError as error:
                    reason = error
            else:
                raise InputError(f"no space group of the training data has these sites; the last one: {reason}")
        for z in elements.tolist():
            _check_known(model, z)
        given = np.full((len(letters), 3), np.nan)
        for row, site in enumerate(start.sites):
            given[row, : len(site.coordinates)] = site.coordinates
        allowed = np.arange(ELEMENTS) == elements[:, None]
        return Template(letters + 1, allowed, np.full(len(letters), -1), given)


def parse_lattice(text: str, group: int) -> FloatArray:
    """(6,) Å and degrees from "4,4,5,90,90,90", or from the free ones alone.

    Raises:
        InputError: for another number of them, or a lattice that the group cannot have.
    """
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise InputError(f"lattice is {text!r}; give a, b, c in Å and three angles in degrees") from None
    try:
        return np.asarray(Start.read(None, numbers).parameters([space_group(group)])[0])
    except InputError as error:
        raise InputError(str(error).replace("start_lattice", "lattice")) from None


def parse_properties(text: str) -> dict[str, float]:
    """Values by name.

    Raises:
        InputError: for what is no list of name=value.

    >>> parse_properties("heat_all=0.5,gap=2")
    {'heat_all': 0.5, 'gap': 2.0}
    """
    values = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            values[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"condition {part!r} cannot be read; write name=value, e.g. heat_all=0.5") from None
    return values


def template_of(crystals: CrystalBatch) -> Template:
    """The letters and free elements of one crystal, for swaps of elements: sites of one element stay alike."""
    count = int(crystals.n_sites[0])
    elements = crystals.elements[0, :count]
    first = np.array([int((elements == z).argmax()) for z in elements])
    same = np.where(first < np.arange(count), first, -1)
    return Template(
        crystals.letters[0, :count], np.ones((count, ELEMENTS), dtype=bool), same, crystals.coordinates[0, :count], True
    )


def _check_known(model: Model, z: int) -> None:
    if z not in model.elements:
        known = [SYMBOLS[number] for number in model.elements]
        raise InputError(f"the model was trained without {SYMBOLS[z]}; {nearest(SYMBOLS[z], known)}")


def _template_of_json(path: Path) -> Template:
    try:
        data: Any = json.loads(path.read_text())
        masks, pairs = data["atom_mask"], data.get("constraints", [])
        allowed = np.zeros((len(masks), ELEMENTS), dtype=bool)
        for row, entries in enumerate(masks):
            for entry in entries if isinstance(entries, list) else [entries]:
                number = atomic_numbers[entry] if isinstance(entry, str) else int(entry)
                if not 0 < number < ELEMENTS:
                    raise ValueError(f"no element has the number {number}")
                allowed[row, number] = True
            if not allowed[row].any():
                raise ValueError(f"site {row} may hold no element")
        same = np.full(len(masks), -1)
        for first, second in pairs:
            if first == second or min(first, second) < 0:
                raise ValueError(f"sites {first} and {second} cannot be told to be the same")
            same[max(first, second)] = min(first, second)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a JSON file of elements") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f'{path} is no description of elements ({error!r}); expected {{"atom_mask": [["Ba"], ["Ti"], ["O"]], '
            '"constraints": [[1, 2]]}'
        ) from None
    return Template(np.full(len(masks), -1), allowed, same, np.full((len(masks), 3), np.nan))
