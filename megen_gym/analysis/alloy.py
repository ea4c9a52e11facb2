"""Alloys on a lattice: probabilities of points and pairs, short-range order, cluster-expansion energies."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from megen_gym.analysis.metrics import Mean, Metric, OfMeans
from megen_gym.analysis.snap import Occupation
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray

SHELLS = 7
"""Pairs up to seventh neighbours, as in Dismai-Bench."""

_TOLERANCE = 0.05


@dataclass(frozen=True)
class Shells:
    """Pairs of sites by their distance.

    Attributes:
        radii: (K,) Å, ascending.
        pairs: K arrays (P, 2) of sites, each pair once, images counted separately.
        multiplicity: (K,) pairs per site.
    """

    radii: FloatArray
    pairs: tuple[IntArray, ...]
    multiplicity: FloatArray


def neighbour_shells(sites: Atoms, count: int = SHELLS) -> Shells:
    """The first shells of neighbours of a lattice in its periodic cell.

    Args:
        sites: The lattice, ideal: distances within 0.05 Å are one shell.
        count: Number of shells.

    Raises:
        InputError: if there are not so many shells.

    >>> from ase.build import bulk
    >>> neighbour_shells(bulk("Cu")).multiplicity.tolist()
    [6.0, 3.0, 12.0, 6.0, 12.0, 4.0, 24.0]
    """
    from ase.neighborlist import neighbor_list

    if count < 1 or not len(sites):
        raise InputError(f"cannot find {count} shells of {len(sites)} sites; give one or more of each")
    cutoff = 4.0
    while cutoff < 40:
        first, second, distance = neighbor_list("ijd", sites, cutoff)  # type: ignore[no-untyped-call]
        order = np.argsort(distance, kind="stable")
        first, second, distance = first[order], second[order], distance[order]
        shell = np.concatenate([[0], np.cumsum(np.diff(distance) > _TOLERANCE)]) if len(distance) else np.zeros(0)
        # The last shell may reach beyond the cut-off.
        if len(shell) and shell[-1] >= count:
            break
        cutoff *= 1.4
    else:
        raise InputError(
            f"the sites have no {count} shells of neighbours within 40 Å; ask for fewer, or make them periodic"
        )
    radii, pairs = [], []
    for index in range(count):
        here = shell == index
        both = np.stack([first[here], second[here]], axis=1)
        radii.append(float(distance[here].mean()))
        pairs.append(both)
    # Each pair is listed from both ends, also that of a site with its own image: half of them, weighted evenly.
    multiplicity = np.array([len(both) / 2 for both in pairs]) / len(sites)
    return Shells(np.array(radii), tuple(pairs), multiplicity)


def cluster_names(symbols: Sequence[str], shells: int = SHELLS) -> list[str]:
    """Names of points and pairs in the order of :func:`cluster_probabilities`, e.g. ``"0NN Cu"``, ``"1NN Cu-Au"``."""
    species = list(symbols[1:])
    pairs = [f"{a}-{b}" for a, b in itertools.combinations_with_replacement(species, 2)]
    return [*(f"0NN {a}" for a in species), *(f"{k}NN {pair}" for k in range(1, shells + 1) for pair in pairs)]


def cluster_probabilities(occupation: Occupation, shells: Shells) -> FloatArray:
    """(B, C) share of each species among the occupied sites, and of each kind of pair among the pairs of a shell.

    Pairs with a vacancy are left out. For three elements and seven shells C = 3 + 7 * 6 = 45.
    """
    count, species = len(occupation.species), len(occupation.symbols) - 1
    kinds = list(itertools.combinations_with_replacement(range(1, species + 1), 2))
    points = (occupation.species[:, :, None] == np.arange(1, species + 1)).sum(axis=1)
    parts = [points / np.maximum(points.sum(axis=1, keepdims=True), 1)]
    for pairs in shells.pairs:
        a, b = occupation.species[:, pairs[:, 0]], occupation.species[:, pairs[:, 1]]
        label = np.minimum(a, b) * (species + 1) + np.maximum(a, b)
        size = (species + 1) ** 2
        flat = np.bincount((label + size * np.arange(count)[:, None]).ravel(), minlength=size * count)
        found = flat.reshape(count, size)[:, [i * (species + 1) + j for i, j in kinds]]
        parts.append(found / np.maximum(found.sum(axis=1, keepdims=True), 1))
    return np.concatenate(parts, axis=1)


def warren_cowley(probabilities: FloatArray, symbols: Sequence[str], shells: int = SHELLS) -> dict[str, FloatArray]:
    """Short-range order alpha = 1 - P(ab) / (c_a c_b) of each kind of pair in each shell, from probabilities (B, C).

    P(ab) is the probability that the first site of a pair holds a and the second b. 0 is a random alloy; negative
    values say that a and b seek each other, positive ones that they avoid each other (Cowley, Phys. Rev. 77, 669).

    Returns:
        (B,) by name, e.g. ``"1NN Cu-Au"``; NaN where an element is missing.
    """
    names = cluster_names(symbols, shells)
    species = list(symbols[1:])
    at = {name: index for index, name in enumerate(names)}
    result = {}
    for k, (a, b) in itertools.product(range(1, shells + 1), list(itertools.combinations_with_replacement(species, 2))):
        name = f"{k}NN {a}-{b}"
        random = probabilities[:, at[f"0NN {a}"]] * probabilities[:, at[f"0NN {b}"]]
        ordered = probabilities[:, at[name]] / (1 if a == b else 2)
        ratio = np.divide(ordered, random, out=np.full(len(random), np.nan), where=random > 0)
        result[name] = 1 - ratio
    return result


def read_ecis(path: str | Path) -> dict[str, float]:
    """Effective cluster interactions, eV, from JSON (an object) or CSV (columns cluster, eci).

    Clusters are called ``constant``, ``0NN Cu`` or ``1NN Cu-Au``; the elements of a pair may be in either order.

    Raises:
        InputError: for a missing file, another format, or a number that is none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"the file {path} does not exist; give interactions as JSON or CSV")
    try:
        if path.suffix == ".json":
            pairs = list(json.loads(path.read_text()).items())
        else:
            with path.open(newline="") as file:
                pairs = [(row["cluster"], row["eci"]) for row in csv.DictReader(file)]
        ecis = {str(name).strip(): float(value) for name, value in pairs}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds no interactions ({type(error).__name__}: {error}); expected a JSON object of eV by cluster, "
            "or CSV with the columns cluster and eci"
        ) from None
    if not ecis or not np.isfinite(list(ecis.values())).all():
        raise InputError(f"{path} holds no finite interactions; expected eV by cluster")
    return ecis


def expansion_energy(
    probabilities: FloatArray, symbols: Sequence[str], shells: Shells, ecis: Mapping[str, float]
) -> FloatArray:
    """(B,) eV per site: constant + sum over clusters of multiplicity times interaction times probability.

    Args:
        probabilities: (B, C) of :func:`cluster_probabilities`.
        symbols: Species, X first.
        shells: Of the lattice.
        ecis: eV per cluster, see :func:`read_ecis`; clusters that are not named have none.

    Raises:
        InputError: for a cluster that this alloy does not have.
    """
    names = cluster_names(symbols, len(shells.pairs))
    factor = np.concatenate([
        np.ones(len(symbols) - 1),
        np.repeat(shells.multiplicity, (len(names) - len(symbols) + 1) // len(shells.pairs)),
    ])  # fmt: skip
    at = {name: index for index, name in enumerate(names)} | {_turned(n): i for i, n in enumerate(names) if "-" in n}
    energy = np.zeros(len(probabilities))
    for name, value in ecis.items():
        if name == "constant":
            energy += value
        elif name in at:
            energy += value * factor[at[name]] * probabilities[:, at[name]]
        else:
            raise InputError(f"the interactions name the cluster {name!r}; {nearest(name, ['constant', *names])}")
    return energy


def _turned(name: str) -> str:
    shell, pair = name.split(" ")
    return f"{shell} {'-'.join(reversed(pair.split('-')))}"


def alloy_metrics(generated: Occupation, reference: Occupation, shells: Shells) -> list[Metric]:
    """Rejected share, vacancies among the accepted, and the distance of the mean probabilities of the accepted.

    Raises:
        InputError: if the two have other elements or sites.
    """
    if generated.symbols != reference.symbols or len(generated.sites) != len(reference.sites):
        raise InputError("the alloys to be compared have other elements or sites; snap both to one lattice")
    metrics: list[Metric] = [Mean("rejected by lattice", "%", ~generated.accepted, ~reference.accepted)]
    own, other = generated.accepted, reference.accepted
    if own.any() and other.any():
        metrics.append(
            Mean("accepted with vacancies", "%", generated.vacancies[own] > 0, reference.vacancies[other] > 0)
        )
        first, second = (
            cluster_probabilities(occupation, shells)[occupation.accepted] for occupation in (generated, reference)
        )
        metrics.append(OfMeans("cluster probabilities", "", first, second))
    return metrics
