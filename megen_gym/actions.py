"""The action codecs: the one place where box actions are encoded and decoded.

All functions take numpy arrays and torch tensors alike and answer in kind, so that the environment (numpy) and a
policy that scores stored actions on a GPU (torch) share them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from megen_gym.errors import InputError

Array = Any
"""numpy.ndarray or torch.Tensor"""


def namespace(array: Array) -> Any:
    """The module (numpy or torch) whose functions act on `array`."""
    return sys.modules[type(array).__module__.partition(".")[0]]


class Placement(NamedTuple):
    """A decoded focal action.

    Attributes:
        focus: (B,) slot of the atom that the new one is placed beside; 0 on an empty canvas.
        element: (B,) species index of the new atom; 0 (X) means stop.
        distance: (B,) Å from the focus.
        direction: (B, 3) unit vector from the focus.
    """

    focus: Array
    element: Array
    distance: Array
    direction: Array


class Site(NamedTuple):
    """A decoded fractional action.

    Attributes:
        element: (B,) species index of the new atom; 0 (X) means none.
        fractions: (B, 3) place in units of the cell vectors, in [0, 1].
    """

    element: Array
    fractions: Array


class SiteChoice(NamedTuple):
    """A decoded Wyckoff action.

    Attributes:
        letter: (B,) index of the Wyckoff letter, 0 for a.
        element: (B,) species index of the site; 0 (X) ends the list.
        coordinates: (B, 3) x, y, z in [0, 1], of which only the free ones count.
        lattice: (B, 6) numbers in [-1, 1] for :class:`megen_gym.lattices.LatticeRange`.
    """

    letter: Array
    element: Array
    coordinates: Array
    lattice: Array


def rank_to_index(rank: Array, mask: Array) -> Array:
    """Index of the `rank`-th true entry of each row of `mask` (B, M); 0 where a row has none."""
    xp = namespace(mask)
    return (1 * ((xp.cumsum(mask, -1) > rank[..., None]) & (mask > 0))).argmax(-1)


def index_to_rank(index: Array, mask: Array) -> Array:
    """How many true entries of each row of `mask` (B, M) come before `index`."""
    xp = namespace(mask)
    return xp.where(xp.arange(mask.shape[-1], device=index.device) < index[..., None], mask, 0).sum(-1)


def _bin(value: Array, count: Array) -> Array:
    """Bin 0 .. count-1 that a number in [-1, 1] falls in."""
    xp = namespace(value)
    return xp.clip(xp.floor((value + 1) / 2 * count), 0 * count, xp.clip(count - 1, 0, None))


@dataclass(frozen=True)
class FocalCodec:
    """Box(-1, 1, (6,)) actions: focus, element, distance, direction x, y, z.

    The first two are bins over what the masks allow *now*, so that every action names an atom that is there and an
    element that is left, and a random action lands at bonding distance of some atom.

    Attributes:
        shortest: Å, distance that -1 stands for.
        longest: Å, distance that +1 stands for.
    """

    shortest: float
    longest: float
    size = 6

    def __post_init__(self) -> None:
        if not 0 < self.shortest < self.longest:
            raise InputError(
                f"distance range {self.shortest} .. {self.longest} Å is not usable; give 0 < shortest < longest"
            )

    def decode(self, action: Array, focus_mask: Array, element_mask: Array) -> Placement:
        """What `action` (B, 6) means under the masks (B, C) and (B, S). Total: values outside the box are clamped, a
        zero direction is +z, and NaN counts as 0."""
        xp = namespace(action)
        action = xp.clip(xp.nan_to_num(action), -1.0, 1.0)
        focus = rank_to_index(_bin(action[..., 0], focus_mask.sum(-1)), focus_mask)
        element = rank_to_index(_bin(action[..., 1], element_mask.sum(-1)), element_mask)
        distance = self.shortest + (action[..., 2] + 1) / 2 * (self.longest - self.shortest)
        vector = action[..., 3:6]
        length = xp.sqrt((vector**2).sum(-1))[..., None]
        up = xp.zeros_like(vector)
        up[..., 2] = 1
        direction = xp.where(length > 1e-6, vector / xp.clip(length, 1e-6, None), up)
        return Placement(focus, element, distance, direction)

    def encode(self, placement: Placement, focus_mask: Array, element_mask: Array) -> Array:
        """The action (B, 6) at the centre of the bins that `placement` falls in; the inverse of :meth:`decode`."""
        xp = namespace(placement.direction)

        def centre(index: Array, mask: Array) -> Array:
            return (2 * index_to_rank(index, mask) + 1) / xp.clip(mask.sum(-1), 1, None) - 1

        scaled = 2 * (placement.distance - self.shortest) / (self.longest - self.shortest) - 1
        dtype = placement.direction.dtype
        parts = (centre(placement.focus, focus_mask), centre(placement.element, element_mask), scaled)
        head = xp.stack([xp.asarray(part, dtype=dtype) for part in parts], -1)
        return xp.concatenate([head, placement.direction], -1)


@dataclass(frozen=True)
class FractionalCodec:
    """Box(-1, 1, (scores + 3,)) actions: a score for every symbol where the element is free, and a place in the cell.

    The last three numbers are the fractional coordinates: -1 ... +1 stands for 0 ... 1 of each cell vector, along axes
    that are not periodic too, so that every action lies inside the cell. The element is the allowed one with the
    highest score; without scores it is the (first) one that the mask allows.

    Attributes:
        scores: Number of symbols, X included, where the element is part of the action; 0 where it is not.
    """

    scores: int = 0

    def __post_init__(self) -> None:
        if self.scores == 1 or self.scores < 0:
            raise InputError(f"scores is {self.scores}; give the number of symbols (X and at least one), or 0")

    @property
    def size(self) -> int:
        """Numbers in an action."""
        return self.scores + 3

    def decode(self, action: Array, element_mask: Array) -> Site:
        """What `action` (B, A) means under the mask (B, S). Total: values outside the box are clamped, NaN counts as 0,
        and where the mask allows nothing the element is X."""
        xp = namespace(action)
        action = xp.clip(xp.nan_to_num(action), -1.0, 1.0)
        allowed = element_mask > 0
        score = action[..., : self.scores] if self.scores else xp.zeros_like(allowed, dtype=action.dtype)
        element = xp.where(allowed, score, -2.0).argmax(-1)
        return Site(element, (action[..., self.scores :] + 1) / 2)

    def encode(self, site: Site) -> Array:
        """The action (B, A) of `site`: score 1 for its element, -1 for the others; the inverse of :meth:`decode`."""
        xp = namespace(site.fractions)
        place = 2 * site.fractions - 1
        if not self.scores:
            return place
        chosen = site.element[..., None] == xp.arange(self.scores, device=site.fractions.device)
        return xp.concatenate([xp.asarray(2 * chosen - 1, dtype=place.dtype), place], -1)


@dataclass(frozen=True)
class ElementCodec:
    """Discrete(symbols) actions: which element comes next; 0 (X) leaves the site empty.

    Attributes:
        symbols: Number of symbols, X included.
    """

    symbols: int

    def decode(self, action: Array, element_mask: Array) -> tuple[Array, Array]:
        """Species index (B,) of `action` (B,), and whether (B,) the mask (B, S) allows it.

        Total: what is no index of a symbol is X, and not allowed.
        """
        xp = namespace(action)
        known = (action >= 0) & (action < self.symbols)
        element = xp.asarray(xp.where(known, action, 0 * action), dtype=xp.int64)
        rows = xp.arange(len(element), device=action.device)
        return element, known & (element_mask[rows, element] > 0)


@dataclass(frozen=True)
class WyckoffCodec:
    """Box(-1, 1, (L + S + 9,)) actions: a score per letter and per symbol, three coordinates, six lattice numbers.

    The symbol (X included) is the allowed one with the highest score; the letter is the one with the highest score
    among those where that element may stand. Where the lattice is set, only the last six numbers count, elsewhere they
    do not.

    Attributes:
        letters: L.
        symbols: S, X included.
    """

    letters: int
    symbols: int

    @property
    def size(self) -> int:
        """Numbers in an action."""
        return self.letters + self.symbols + 9

    def decode(self, action: Array, site_mask: Array, may_stop: Array) -> SiteChoice:
        """What `action` (B, A) means under the masks (B, L, S) and (B,). Total: values outside the box are clamped, NaN
        counts as 0, and where the masks allow nothing the choice is letter a and X."""
        xp = namespace(action)
        action = xp.clip(xp.nan_to_num(action), -1.0, 1.0)
        split = self.letters + self.symbols
        sites = site_mask > 0
        elements = sites.any(-2)
        elements[..., 0] = may_stop > 0
        element = xp.where(elements, action[..., self.letters : split], -2.0).argmax(-1)
        here = xp.arange(self.symbols, device=action.device) == element[..., None]
        letters = (sites & here[..., None, :]).any(-1)
        letter = xp.where(letters, action[..., : self.letters], -2.0).argmax(-1)
        letter = xp.where(letters.any(-1), letter, 0 * letter)
        return SiteChoice(letter, element, (action[..., split : split + 3] + 1) / 2, action[..., split + 3 :])

    def encode(self, choice: SiteChoice) -> Array:
        """The action (B, A) of `choice`: score 1 for its letter and symbol, -1 for the others; the inverse of
        :meth:`decode`."""
        xp = namespace(choice.coordinates)
        place, device = 2 * choice.coordinates - 1, choice.coordinates.device
        one_hot = [
            index[..., None] == xp.arange(size, device=device)
            for index, size in ((choice.letter, self.letters), (choice.element, self.symbols))
        ]
        scores = [xp.asarray(2 * hot - 1, dtype=place.dtype) for hot in one_hot]
        return xp.concatenate([*scores, place, xp.asarray(choice.lattice, dtype=place.dtype)], -1)
