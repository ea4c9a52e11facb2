"""Sites and a lattice that crystals have from the start: read from text or lists, and checked against their groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from megen_gym.errors import InputError, nearest
from megen_gym.lattices import FAMILIES, FREE, completed, family_index, from_free
from megen_gym.structure import FloatArray, IntArray
from megen_gym.wyckoff import LETTERS, SpaceGroup, wyckoff_table

SAME = 1e-3
"""Two fractional coordinates, or a length and another in parts of it, that are meant to be the same."""

HOW = "write sites as letter, element and up to three coordinates, e.g. 'a Ba 0 0 0; b Ti'"

Sites = str | Sequence[str | Sequence[str | float]]
"""How users give sites: one text, or a list whose entries are texts or lists."""


@dataclass(frozen=True)
class Site:
    """One site as it was given.

    Attributes:
        letter: Of the Wyckoff position.
        element: Its symbol.
        coordinates: Up to three, of the representative, fractional.
    """

    letter: str
    element: str
    coordinates: tuple[float, ...]

    def __str__(self) -> str:
        return " ".join([self.letter, self.element, *(f"{x:g}" for x in self.coordinates)])


@dataclass(frozen=True)
class Start:
    """Where episodes begin.

    Attributes:
        sites: The first sites, in the order of their letters.
        lattice: Six lattice parameters (Å, degrees), or the free ones of the family; none where it is not given.
    """

    sites: tuple[Site, ...] = ()
    lattice: tuple[float, ...] = ()

    @classmethod
    def read(cls, sites: Sites | None, lattice: Sequence[float] | None = None) -> Start:
        """From what a user gives.

        Raises:
            InputError: for what is no list of sites, or no list of positive numbers.

        >>> Start.read("a Ba 0 0 0; b Ti").sites[1].element, Start.read([["e", "O", "1/3"]]).sites[0].coordinates
        ('Ti', (0.3333333333333333,))
        """
        if sites is not None and not isinstance(sites, str | list | tuple):
            raise InputError(f"start is {sites!r}; {HOW}")
        parts = [part for part in sites.split(";") if part.strip()] if isinstance(sites, str) else list(sites or ())
        given: list[float] = []
        if lattice is not None:
            entries: list[Any] = list(lattice) if isinstance(lattice, list | tuple | np.ndarray) else [lattice]
            for number in entries:
                real = isinstance(number, int | float | np.number) and not isinstance(number, bool)
                if not real or not 0 < number < math.inf:
                    raise InputError(f"start_lattice is {lattice!r}; give positive numbers in Å and degrees")
                given.append(float(number))
            if not given:
                raise InputError("start_lattice is an empty list; give six numbers or the free ones, or leave it out")
        return cls(tuple(_site(part) for part in parts), tuple(given))

    def parameters(self, groups: Sequence[SpaceGroup]) -> FloatArray:
        """(G, 6) Å and degrees of the lattice in each group.

        Raises:
            InputError: for another number of parameters than six or the free ones, or six that a family does not have.
        """
        return np.stack([self._parameters(group) for group in groups])

    def checked(
        self, groups: Sequence[SpaceGroup], symbols: tuple[str, ...], n_max: int
    ) -> tuple[IntArray, IntArray, FloatArray]:
        """The K sites as letters (K,) and elements (K,), by index, and coordinates (K, 3).

        Args:
            groups: Space groups, all of which must have the sites.
            symbols: X and the elements.
            n_max: Sites at most.

        Raises:
            InputError: for a letter or an element that is not known, letters out of order, a full site that is taken
                twice, coordinates that the site does not have, or too many sites.
        """
        if len(self.sites) > n_max:
            raise InputError(f"start has {len(self.sites)} sites, but n_max is {n_max}; raise n_max")
        coordinates = np.array([[*site.coordinates, 0.0, 0.0, 0.0][:3] for site in self.sites]).reshape(-1, 3)
        for site in self.sites:
            if site.element not in symbols[1:]:
                hint = nearest(site.element, symbols[1:])
                raise InputError(f"start site {str(site)!r} holds {site.element!r}; {hint}")
        for group in groups:
            last = -1
            for site, point in zip(self.sites, coordinates, strict=True):
                last = _follow(group, site, point, last)
        letters = np.array([LETTERS.index(site.letter) for site in self.sites], dtype=np.int64)
        return letters, np.array([symbols.index(site.element) for site in self.sites], dtype=np.int64), coordinates

    def _parameters(self, group: SpaceGroup) -> FloatArray:
        family, given = group.family, np.array(self.lattice)
        free = FREE[family_index(family)]
        name = f"space group {group.number} ({group.symbol})"
        if len(given) == free.sum():
            return from_free(given, family)
        named = ", ".join(np.array(["a", "b", "c", "alpha", "beta", "gamma"])[free])
        if len(given) != 6:
            raise InputError(
                f"start_lattice has {len(given)} numbers, but {name} is {family} and free in {named}; give these, or "
                "all six"
            )
        whole = completed(given, np.array(FAMILIES.index(family)))
        if np.abs(whole / given - 1).max() > SAME:
            raise InputError(
                f"start_lattice {list(self.lattice)} (Å, degrees) is no {family} lattice as {name} needs it; "
                f"give {whole.round(4).tolist()}, or {named} alone"
            )
        return whole


def _site(entry: object) -> Site:
    parts = entry.replace(",", " ").split() if isinstance(entry, str) else entry
    if not isinstance(parts, list | tuple) or not 2 <= len(parts) <= 5:
        raise InputError(f"start has the entry {entry!r}, which is no site; {HOW}")
    letter, element, *numbers = parts
    try:
        place = tuple(float(Fraction(number) if isinstance(number, str) else number) for number in numbers)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"start has the entry {entry!r}, whose coordinates are no numbers; {HOW}") from error
    if not (isinstance(letter, str) and isinstance(element, str)) or not all(map(math.isfinite, place)):
        raise InputError(f"start has the entry {entry!r}, which is no site; {HOW}")
    return Site(letter, element, place)


def _follow(group: SpaceGroup, site: Site, point: FloatArray, last: int) -> int:
    """Index of the letter of a site that comes after letter `last`."""
    table, position = wyckoff_table(), group.position(site.letter)
    letter, where = position - int(group.positions.start), f"start site {str(site)!r} of space group {group.number}"
    if letter < last:
        raise InputError(f"{where} comes after letter {LETTERS[last]}; give the sites in the order of their letters")
    if letter == last and not table.free[position].any():
        raise InputError(f"{where} is taken twice, but has no free coordinates; give it once")
    place = table.representative(np.array(position), point)
    count = len(site.coordinates)
    off = np.abs(place - point - np.round(place - point))[:count]
    if (off > SAME).any():
        raise InputError(
            f"{where} is not at its place {table.formula[position]}; give coordinates of that form, or none"
        )
    return letter
