"""Which atoms can be placed next to which, and molecules that cannot be built that way: found, said, left out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.storage import Cache
from megen_gym.errors import InputError
from megen_gym.near import within
from megen_gym.structure import BoolArray, FloatArray, IntArray

NAMED = 5
"""Molecules that a sentence names one by one."""

APART = 1.6
"""Times the sum of the covalent radii, beyond which two parts of a structure are separate molecules."""

_NUMBERS = 1 << 22

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connectivity:
    """What makes two atoms neighbours in a trajectory of placements.

    Attributes:
        placement_cutoff: Å, the longest distance.
        use_covalent_radii: Whether the distance is bounded by the covalent radii of ASE as well.
        covalent_radius_factor: Times the sum of the two radii.

    Raises:
        InputError: for numbers that are not positive.
    """

    placement_cutoff: float = 1.7
    use_covalent_radii: bool = True
    covalent_radius_factor: float = 1.1

    def __post_init__(self) -> None:
        for name in ("placement_cutoff", "covalent_radius_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; give a positive number such as {getattr(type(self), name)}")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Molecules that can be built atom by atom.

    Attributes:
        molecules: (M) those that are left.
        adjacency: (M, N, N) true where two atoms are neighbours.
        dropped: Rows in the source file of the molecules that are left out.
        sentence: What was left out, why, and what would help; "" if nothing was.
        cache: Where this is kept; call its ``finish`` when training has ended.
    """

    molecules: Molecules
    adjacency: BoolArray
    dropped: IntArray
    sentence: str
    cache: Cache | None = field(default=None)


def prepare(
    molecules: Molecules,
    settings: Connectivity = Connectivity(),
    cache_path: str | Path | None = None,
    keep_cache: bool = False,
    cache_workdir: str | Path | None = None,
) -> Prepared:
    """Leave out what is no connected molecule of two atoms or more, and say so.

    Args:
        molecules: At least one.
        settings: What makes atoms neighbours.
        cache_path: Folder (or a file that ends in ``.npz``) where the neighbours are kept, by content and settings.
        keep_cache: Whether they stay there when the run has finished.
        cache_workdir: Folder on fast storage that gets a copy for the time of the run.

    Raises:
        InputError: if no molecule is left, or a cache file holds the neighbours of other settings or molecules.
    """
    cache = Cache.of(cache_path, keep_cache, cache_workdir, {"molecules": molecules.fingerprint} | asdict(settings))
    stored = cache.read(molecules.numbers.shape[1], len(molecules)) if cache is not None else None
    adjacency = connect(molecules, **asdict(settings)) if stored is None else stored
    if cache is not None and stored is None:
        cache.write(adjacency)
    single = molecules.n_atoms < 2
    apart = disconnected(adjacency, molecules.n_atoms)
    sentence = " ".join(filter(None, (_singles(molecules[single]), advice(molecules[apart], len(molecules), settings))))
    good = ~single & ~apart
    if not good.any():
        raise InputError(f"none of the {len(molecules)} molecules can be trained on: {sentence or 'there are none'}")
    if sentence:
        _LOG.warning(sentence)
    return Prepared(molecules[good], adjacency[good], molecules.rows[~good], sentence, cache)


def connect(
    molecules: Molecules,
    placement_cutoff: float,
    use_covalent_radii: bool = True,
    covalent_radius_factor: float = 1.1,
) -> BoolArray:
    """(M, N, N) which atoms are neighbours, in periodic cells by any of their images; never an atom of itself.

    Args:
        molecules: (M) of up to N atoms.
        placement_cutoff: Å, the longest distance.
        use_covalent_radii: Whether distances are also at most `covalent_radius_factor` times the sum of the covalent
            radii (ASE's, Cordero et al., Dalton Trans. 2008, 2832).
        covalent_radius_factor: See there.
    """
    size = molecules.numbers.shape[1]
    found = np.zeros((len(molecules), size, size), dtype=bool)
    for part in _parts(molecules):
        some = molecules[part]
        limit: FloatArray | float = placement_cutoff
        if use_covalent_radii:
            limit = np.minimum(placement_cutoff, covalent_radius_factor * radii(some))
        found[part] = distances(some, placement_cutoff) <= limit
    return found


def radii(molecules: Molecules) -> FloatArray:
    """(M, N, N) Å, sums of the covalent radii of two atoms."""
    each = covalent_radii[molecules.numbers]
    return np.asarray(each[:, :, None] + each[:, None, :])


def distances(molecules: Molecules, reach: float) -> FloatArray:
    """(M, N, N) Å between the nearest images of two atoms; infinite on the diagonal, at empty places, and in periodic
    cells beyond `reach`."""
    size, mask = molecules.numbers.shape[1], molecules.mask
    pairs = mask[:, :, None] & mask[:, None, :] & ~np.eye(size, dtype=bool)
    if molecules.cells is not None and any(molecules.pbc):
        found = np.full(pairs.shape, np.inf)
        which, first, second = np.nonzero(pairs & np.tri(size, dtype=bool))
        vectors = molecules.positions[which, second] - molecules.positions[which, first]
        itself = np.zeros(len(which), dtype=bool)
        near, length = within(
            molecules.cells, molecules.pbc, which, vectors, itself, float(np.nextafter(reach, math.inf))
        )
        np.minimum.at(found, (which[near], first[near], second[near]), length)
        return np.asarray(np.minimum(found, found.transpose(0, 2, 1)))
    vectors = molecules.positions[:, :, None] - molecules.positions[:, None]
    return np.asarray(np.where(pairs, np.sqrt(np.einsum("mijx,mijx->mij", vectors, vectors)), np.inf))


def disconnected(adjacency: BoolArray, n_atoms: IntArray) -> BoolArray:
    """(M,) which molecules fall into parts, by a search that spreads from the first atom of all of them at once.

    Args:
        adjacency: (M, N, N) which atoms are neighbours, symmetric.
        n_atoms: (M,); the atoms come first.
    """
    reached = np.zeros(adjacency.shape[:2], dtype=bool)
    reached[:, :1] = True
    active = np.flatnonzero(n_atoms > 1)
    while len(active):
        more = reached[active] | np.matmul(adjacency[active], reached[active, :, None])[..., 0]
        grown = (more != reached[active]).any(1)
        reached[active] = more
        active = active[grown & (more.sum(1) < n_atoms[active])]
    return np.asarray((reached.sum(1) < n_atoms) & (n_atoms > 1))


def advice(apart: Molecules, total: int, settings: Connectivity) -> str:
    """A sentence that counts and names disconnected molecules and says which cut-offs would connect them."""
    if not len(apart):
        return ""
    needed = bottlenecks(apart, radii(apart))
    bonded = needed <= APART
    rule = f"placement_cutoff={settings.placement_cutoff:g}"
    rule += f" and covalent_radius_factor={settings.covalent_radius_factor:g}" * settings.use_covalent_radii
    what = f"{len(apart)} of {total} molecules are disconnected under {rule} and left out ({names(apart)}); "
    if not bonded.any():
        return what + "no atoms of their parts are near enough for a bond, so that no cut-off is advised"
    share = "all" if bonded.all() else f"{bonded.sum()}"
    rest = "" if bonded.all() else f" ({(~bonded).sum()} have parts without any bond between them)"
    if not settings.use_covalent_radii:
        cutoff = bottlenecks(apart[bonded], np.ones_like(needed[bonded])[:, None, None])
        return what + f"placement_cutoff={_up(cutoff.max(), 0.05):g} would connect {share} of them{rest}"
    factor = max(_up(needed[bonded].max(), 0.05), settings.covalent_radius_factor)
    reach = bottlenecks(apart[bonded], np.ones_like(needed[bonded])[:, None, None], factor)
    longest = max(_up(reach.max(), 0.05), settings.placement_cutoff)
    choice = f"placement_cutoff={longest:g} with covalent_radius_factor={factor:g}"
    return what + f"{choice} would connect {share} of them{rest}"


def bottlenecks(molecules: Molecules, unit: FloatArray, factor: float = math.inf) -> FloatArray:
    """(M,) the smallest longest step, in `unit` (M, N, N), by which every atom can be reached; infinite if by none.

    Args:
        molecules: (M) of at least two atoms.
        unit: Å, what a distance is divided by.
        factor: Steps longer than this times the sum of the covalent radii do not count.
    """
    found = np.zeros(len(molecules))
    for part in _parts(molecules):
        some = molecules[part]
        sums = radii(some)
        longest = 2 * APART * sums.max()
        distance = distances(some, longest)
        which, first, second = np.nonzero((distance <= np.minimum(factor * sums, longest)) & np.isfinite(distance))
        size = distance.shape[1]
        weights = (distance / np.broadcast_to(unit[part], distance.shape))[which, first, second]
        shape = (distance[..., 0].size,) * 2
        tree = minimum_spanning_tree(coo_array((weights, (which * size + first, which * size + second)), shape=shape))
        tree = coo_array(tree)
        here = tree.coords[0] // size
        worst = np.zeros(len(some))
        np.maximum.at(worst, here, tree.data)
        whole = np.bincount(here, minlength=len(some)) >= some.n_atoms - 1
        found[part] = np.where(whole, worst, np.inf)
    return found


def names(molecules: Molecules) -> str:
    """Rows and formulas of the first few, e.g. ``"row 3 C2H6O, row 7 CH4 and 12 more"``."""
    few = molecules[:NAMED]
    formulas = [atoms.get_chemical_formula() for atoms in few.to_atoms()]  # type: ignore[no-untyped-call]
    text = ", ".join(f"row {row} {formula}" for row, formula in zip(few.rows.tolist(), formulas, strict=True))
    return text + (f" and {len(molecules) - NAMED} more" if len(molecules) > NAMED else "")


def _singles(single: Molecules) -> str:
    plural = "s" * (len(single) > 1)
    return f"{len(single)} molecule{plural} of one atom left out ({names(single)})." if len(single) else ""


def _up(value: float, step: float) -> float:
    return round(math.ceil(value / step - 1e-9) * step, 6)


def _parts(molecules: Molecules) -> Iterator[slice]:
    size = molecules.numbers.shape[1]
    step = max(1, _NUMBERS // (3 * size * size))
    return (slice(start, start + step) for start in range(0, len(molecules), step))
