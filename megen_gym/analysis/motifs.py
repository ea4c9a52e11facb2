"""Site motifs: how much each atom's surroundings resemble ideal coordinations, by matminer's CrystalNN fingerprint.

Needs the extra ``motifs``. Some 30 ms per site: results are kept in a file from which a killed run goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megen_gym.analysis.crystalnn import COORDINATIONS, each, feature_labels
from megen_gym.analysis.ensemble import Ensemble
from megen_gym.analysis.metrics import Mean, Metric, OfMeans, cosine
from megen_gym.errors import InputError, require
from megen_gym.runs import write_bytes, write_text
from megen_gym.structure import BoolArray, FloatArray, IntArray

LENGTH = 61
"""Numbers per site: for coordinations 1-24 a weight, and for most up to 12 order parameters."""

_SAVE_EVERY = 8


@dataclass(frozen=True)
class Motifs:
    """Fingerprints of B structures with S elements, averaged over the sites of each element.

    Attributes:
        vectors: (B, S, F) means; NaN where the structure failed.
        likely: (B, N) index into `labels` of each site's most likely motif; -1 where there is none.
        labels: F names; the first 61 are coordinations ("wt CN_4") and motifs ("tetrahedral CN_4").
        elements: Names of the S elements.
        counts: (S,) atoms of each.
        columns: Atoms of each element, as in :class:`~megen_gym.analysis.ensemble.Ensemble`.
    """

    vectors: FloatArray
    likely: IntArray
    labels: tuple[str, ...]
    elements: tuple[str, ...]
    counts: tuple[int, ...]
    columns: tuple[IntArray, ...]

    @property
    def failed(self) -> BoolArray:
        """(B,) structures in which a site has no fingerprint."""
        return np.asarray(np.isnan(self.vectors).any(axis=(1, 2)))

    def shares(self) -> FloatArray:
        """(B, S, 61) share of the sites of each element that have each most likely motif."""
        result = np.zeros((len(self.likely), len(self.columns), LENGTH))
        for index, columns in enumerate(self.columns):
            hit = self.likely[:, columns, None] == np.arange(LENGTH)
            result[:, index] = hit.mean(axis=1)
        return result


def site_motifs(
    ensemble: Ensemble,
    *,
    neighbours: Sequence[str] = (),
    oxidation: Mapping[str, float] | None = None,
    processes: int = 1,
    keep: str | Path | None = None,
    progress: bool = False,
) -> Motifs:
    """CrystalNN fingerprints (Zimmermann & Jain, RSC Adv. 10, 6063; preset "ops") of all sites.

    Args:
        ensemble: B structures.
        neighbours: Elements whose share among the neighbours is added, times the weight of the coordination: 24 numbers
            for each.
        oxidation: Charge of each element; neighbours are then only sought among ions of opposite charge.
        processes: How many share the structures. More than one needs a script with ``if __name__ == "__main__"``.
        keep: A file (.npz) for what is done; a later call with the same structures and settings goes on from it.
        progress: Show a progress bar.

    Raises:
        InputError: if matminer is missing, or an element is unknown to the structures.
    """
    from tqdm import tqdm

    try:
        import matminer  # noqa: F401
    except ImportError:
        require("matminer", "motifs")
    names = {*neighbours, *(oxidation or {})}
    if names - set(ensemble.elements) or (oxidation and set(oxidation) != set(ensemble.elements)):
        raise InputError(
            f"neighbours {list(neighbours)} and oxidation {dict(oxidation or {})} do not fit the elements "
            f"{', '.join(ensemble.elements)}; name these, and give every one a charge"
        )
    if processes < 1:
        raise InputError(f"cannot work with {processes} processes; give 1 or more")
    settings = {"neighbours": list(neighbours), "oxidation": dict(oxidation or {})}
    structures = [
        (atoms.numbers.tolist(), atoms.positions.tolist(), atoms.cell.array.tolist(), settings)
        for atoms in ensemble.batch.to_atoms()
    ]
    width = LENGTH + COORDINATIONS * len(neighbours)
    size = (len(ensemble), len(ensemble.elements))
    vectors, likely = np.full((*size, width), np.nan), np.full((size[0], len(ensemble.numbers)), -1, dtype=np.int64)
    key = hashlib.sha256(json.dumps([settings, ensemble.numbers.tolist(), ensemble.lattice.cell.tolist()]).encode())
    key.update(np.round(ensemble.batch.positions, 6).tobytes())
    path = None if keep is None else Path(keep)
    done = _restore(path, key.hexdigest(), vectors, likely)
    with tqdm(total=len(ensemble), initial=done, desc="motifs", unit="structure", disable=not progress) as bar:
        for index, sites in enumerate(each(structures[done:], processes), start=done):
            if sites is not None:
                values = np.array(sites)
                vectors[index] = [values[columns].mean(axis=0) for columns in ensemble.columns]
                likely[index] = most_likely(values)
            bar.update()
            if path is not None and ((index + 1) % _SAVE_EVERY == 0 or index + 1 == len(ensemble)):
                _save(path, key.hexdigest(), vectors[: index + 1], likely[: index + 1])
    labels = (*feature_labels(), *(f"{name} CN_{k + 1}" for name in neighbours for k in range(COORDINATIONS)))
    counts = tuple(len(columns) for columns in ensemble.columns)
    return Motifs(vectors, likely, labels, ensemble.elements, counts, ensemble.columns)


def motif_metrics(generated: Motifs, reference: Motifs) -> list[Metric]:
    """Euclidean distance and 1 - cosine of the mean fingerprints per element and over all atoms, and the failed share.

    Failed structures are left out of the distances.
    """
    own, other = (m.vectors[~m.failed] for m in (generated, reference))
    metrics: list[Metric] = [Mean("motifs failed", "%", generated.failed, reference.failed)]
    if not len(own) or not len(other):
        return metrics
    weights = np.array(reference.counts)[:, None] / sum(reference.counts)
    parts = {name: (own[:, i], other[:, i]) for i, name in enumerate(reference.elements)}
    parts["all"] = ((own * weights).sum(axis=1), (other * weights).sum(axis=1))
    for name, (first, second) in parts.items():
        metrics.append(OfMeans(f"motifs {name}", "", first, second))
        metrics.append(OfMeans(f"motifs {name}, cosine", "", first, second, cosine))
    return metrics


def most_likely(sites: FloatArray) -> IntArray:
    """(N,) index of the best motif in the coordination of greatest weight, from fingerprints (N, 61 or more).

    Where a coordination has no motif, it is its weight itself.
    """
    labels = feature_labels()
    coordination = np.array([int(label.rpartition("_")[2]) for label in labels])
    weight = np.array([label.startswith("wt ") for label in labels])
    best = np.flatnonzero(weight)[np.argmax(sites[:, :LENGTH][:, weight], axis=1)]
    same = (coordination == coordination[best][:, None]) & ~weight
    motif = np.argmax(np.where(same, sites[:, :LENGTH], -np.inf), axis=1)
    return np.asarray(np.where(same.any(axis=1), motif, best))


def write_motifs(made: Motifs, data: Motifs, path: Path) -> Path:
    """Write the most likely motifs: element, motif, share of its sites in the generated structures and in the data."""
    own, other = (motifs.shares()[~motifs.failed].mean(axis=0) for motifs in (made, data))
    rows = ["element,motif,generated,reference"]
    for index, element in enumerate(data.elements):
        for motif in np.flatnonzero(own[index] + other[index]):
            rows.append(f"{element},{data.labels[motif]},{own[index, motif]:.6g},{other[index, motif]:.6g}")
    write_text(path, "\n".join(rows) + "\n")
    return path


def _restore(path: Path | None, key: str, vectors: FloatArray, likely: IntArray) -> int:
    """Fill in what an earlier call has done; how many structures that is."""
    if path is None or not path.exists():
        return 0
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return 0
            done = len(file["vectors"])
            vectors[:done], likely[:done] = file["vectors"], file["likely"]
    except (ValueError, OSError, KeyError):
        return 0
    return done


def _save(path: Path, key: str, vectors: FloatArray, likely: IntArray) -> None:
    data = io.BytesIO()
    np.savez(data, key=np.array(key), vectors=vectors, likely=likely)
    write_bytes(path, data.getvalue())
