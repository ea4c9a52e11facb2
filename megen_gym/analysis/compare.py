"""Generated structures beside a reference: every number with its bootstrap interval and what the data reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms

from megen_gym.analysis.bootstrap import CONFIDENCE, REPS, SEED, pivotal, resampling_weights
from megen_gym.analysis.ensemble import NEIGHBOURS, Ensemble, Reference
from megen_gym.analysis.metrics import (
    Diversity,
    Halves,
    Mean,
    Median,
    Metric,
    Novelty,
    OfMeans,
    Wasserstein,
    wasserstein,
)
from megen_gym.analysis.pairs import BIN, bin_edges, pair_counts, pair_names, partial_rdf
from megen_gym.analysis.soap import soap_atoms, soap_structures
from megen_gym.analysis.table import Style, render
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, StructureBatch

TOO_CLOSE = 1.5
"""Å; pairs below this are counted."""

MASKED = 0.5
"""Share of the reference's shortest distance below which an RDF is not compared: collapsed sets are boundless there."""


@dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Attributes:
        metric: Its name.
        unit: Å, "%" (the numbers are shares 0-1), or "".
        value: For the generated structures.
        low: Lower end of the interval.
        high: Upper end.
        floor: What the data reach: one random half of the reference against the other, or their own mean.
    """

    metric: str
    unit: str
    value: float
    low: float
    high: float
    floor: float


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`compare`.

    Attributes:
        rows: One per metric.
        confidence: Of the intervals.
    """

    rows: tuple[Row, ...]
    confidence: float = CONFIDENCE

    def __getitem__(self, metric: str) -> Row:
        return {row.metric: row for row in self.rows}[metric]

    def table(self, style: Style = "markdown") -> str:
        """The rows as Markdown, text or CSV; shares in percent, except in CSV."""
        interval = f"{100 * self.confidence:g} % interval"
        if style == "csv":
            cells = [["metric", "unit", "value", "low", "high", "floor"]]
            cells += [
                [r.metric, "1" if r.unit == "%" else r.unit, *(f"{x:.8g}" for x in (r.value, r.low, r.high, r.floor))]
                for r in self.rows
            ]
            return render(cells, "csv")
        cells = [["metric", "generated", interval, "floor (data)"]]
        for row in self.rows:
            name = f"{row.metric} ({row.unit})" if row.unit and row.unit != "%" else row.metric
            show = _percent if row.unit == "%" else _number
            cells.append([name, show(row.value), f"{show(row.low)} ... {show(row.high)}", show(row.floor)])
        return render(cells, style)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if np.isfinite(share) else "-"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}" if np.isfinite(value) else "-"


def compare(
    generated: Ensemble | StructureBatch | Sequence[Atoms],
    reference: Reference | StructureBatch | Sequence[Atoms],
    *,
    axis: int = 2,
    soap: bool = True,
    extra: Sequence[Metric] = (),
    reps: int = REPS,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
    progress: bool = False,
) -> Comparison:
    """Compare structures of one cell and one composition with a reference.

    Whole generated structures are resampled for the intervals (see :func:`~megen_gym.analysis.bootstrap.pivotal`); the
    reference is taken as it is. The metrics:

    ============================= ======================================================================================
    valid                         share whose distances all reach 80 % of the reference's shortest
    mean shortest distance        Å
    pairs < 1.5 Å                 per structure
    W1 nearest neighbour          Å, Wasserstein-1 distance of the distances from each atom to the nearest one
    W1 6 neighbours               the same for the six nearest ones
    W1 height *El*                the same for the heights along `axis`, per element; a periodic axis is cut where the
                                  reference leaves the widest gap, see
                                  :meth:`~megen_gym.analysis.ensemble.Ensemble.cut`
    RDF L2                        Å^(1/2), root of the integral of the squared difference of g_ab(r) up to 8 Å, mean
                                  over kinds of pairs; from half the reference's shortest distance on
    W1 pairs *A*-*B*              Å, of all distances up to 8 Å between two elements, with the same mask
    SOAP                          Euclidean distance of the two mean vectors of
                                  :func:`~megen_gym.analysis.soap.soap_structures`
    local SOAP                    the same for :func:`~megen_gym.analysis.soap.soap_atoms`: single atoms, per element,
                                  all elements end to end
    SOAP diversity                mean SOAP distance of two generated structures over that of two of the reference
    SOAP novelty                  mean SOAP distance from the nearest structure of the reference
    ============================= ======================================================================================

    Args:
        generated: B structures.
        reference: R structures; a :class:`~megen_gym.analysis.ensemble.Reference` is measured once for many calls.
        axis: Lattice vector that leaves the face above which heights are measured.
        soap: Whether to compute SOAP descriptors, some milliseconds per structure.
        extra: Further metrics, placed at the end of the table.
        reps: Resamples.
        confidence: Of the intervals.
        seed: Of the resamples and of the halves.
        progress: Show a progress bar.

    Raises:
        InputError: naming the structure, for other cells, compositions or periodicities than the reference has.
    """
    from tqdm import tqdm

    data = reference if isinstance(reference, Reference) else Reference(reference)
    made = generated if isinstance(generated, Ensemble) else data.ensemble(generated)
    if reps < 1:
        raise InputError(f"cannot make intervals of {reps} resamples; give 1 or more, e.g. {REPS}")
    rows, parts = [], _parts(made, data, axis, soap)
    with tqdm(total=5 if soap else 3, desc="comparing", disable=not progress, leave=False) as bar:
        for metrics in parts:
            rows += [judge(metric, reps, confidence, seed) for metric in metrics]
            bar.update()
    rows += [judge(metric, reps, confidence, seed) for metric in extra]
    return Comparison(tuple(rows), confidence)


_weights = lru_cache(maxsize=4)(resampling_weights)


def judge(metric: Metric, reps: int = REPS, confidence: float = CONFIDENCE, seed: int = SEED) -> Row:
    """One metric with its interval and its floor; a floor between halves needs two structures in the reference."""
    value = metric.value()
    centre, replicates = metric.replicates(_weights(len(metric.generated), reps, seed))
    interval = pivotal(value, replicates + (value - centre), confidence)
    order = np.random.default_rng(seed).permutation(len(metric.reference))
    halves: Halves = (order[: len(order) // 2], order[len(order) // 2 :])
    floor = metric.floor(halves) if len(halves[0]) or isinstance(metric, Mean | Median) else np.nan
    return Row(metric.name, metric.unit, *interval, floor=floor)


def _parts(made: Ensemble, data: Reference, axis: int, soap: bool) -> Iterator[Iterable[Metric]]:
    """Groups of metrics; the work is done as they are asked for."""
    yield _distances(made, data)
    yield _heights(made, data, axis)
    yield _radial(made, data)
    if soap:
        whole = data.measured("soap_structures", soap_structures)
        own = made.measured("soap_structures", soap_structures)
        yield [OfMeans("SOAP", "", own, whole)]
        local = data.measured("soap_atoms", soap_atoms)
        yield [
            OfMeans("local SOAP", "", made.measured("soap_atoms", soap_atoms), local),
            Diversity("SOAP diversity", "", own, whole),
            Novelty("SOAP novelty", "", own, whole),
        ]


def _distances(made: Ensemble, data: Reference) -> list[Metric]:
    limit = data.valid_distance
    six = [e.nearest.reshape(len(e), -1) for e in (made, data)]
    return [
        Mean("valid", "%", made.min_distances >= limit, data.min_distances >= limit),
        Mean("mean shortest distance", "Å", made.min_distances, data.min_distances),
        Mean(f"pairs < {TOO_CLOSE} Å", "", made.pairs_below(TOO_CLOSE), data.pairs_below(TOO_CLOSE)),
        Wasserstein("W1 nearest neighbour", "Å", made.nearest[:, :, 0], data.nearest[:, :, 0]),
        Wasserstein(f"W1 {NEIGHBOURS} neighbours", "Å", six[0], six[1]),
    ]


def _heights(made: Ensemble, data: Reference, axis: int) -> list[Metric]:
    cut = data.cut(axis)
    pairs = zip(data.elements, made.heights(axis, cut), data.heights(axis, cut), strict=True)
    return [Wasserstein(f"W1 height {element}", "Å", own, other) for element, own, other in pairs]


def _radial(made: Ensemble, data: Reference) -> list[Metric]:
    """RDFs and pair distances beyond the mask."""
    beyond = bin_edges()[:-1] >= MASKED * data.min_distance
    own, other = (e.measured("pair_counts", pair_counts) for e in (made, data))
    curve, goal = (partial_rdf(data, counts)[:, :, beyond] for counts in (own, other))
    names = pair_names(data)

    def l2(means: FloatArray, wanted: FloatArray) -> FloatArray:
        square = ((means - wanted) ** 2).reshape(len(means), len(names), -1).sum(axis=2)
        return np.asarray(np.sqrt(square * BIN).mean(axis=1))

    metrics: list[Metric] = [OfMeans("RDF L2", "Å^½", curve.reshape(len(curve), -1), goal.reshape(len(goal), -1), l2)]
    for index, name in enumerate(names):
        pair = own[:, index, beyond], other[:, index, beyond]
        metrics.append(OfMeans(f"W1 pairs {name}", "Å", *pair, histogram_wasserstein))
    return metrics


def histogram_wasserstein(means: FloatArray, other: FloatArray) -> FloatArray:
    """(K,) W1 between histograms with bins of `BIN` Å, each normalised to 1."""
    first = np.cumsum(means, axis=1) / np.maximum(means.sum(axis=1, keepdims=True), 1e-300)
    second = np.cumsum(other) / max(float(other.sum()), 1e-300)
    return np.asarray(np.abs(first - second).sum(axis=1) * BIN)


def quick_score(generated: Ensemble | StructureBatch | Sequence[Atoms], reference: Reference) -> dict[str, float]:
    """The cheap part of :func:`compare`, without intervals: for choosing a model while it trains.

    Args:
        generated: B structures.
        reference: Computed once; its sorted distances and heights are reused.

    Returns:
        ``valid`` (share, 0-1), ``min_distance`` (Å, mean of the shortest), ``w1_neighbour`` (Å), ``w1_height`` (Å, mean
        over elements, third axis) and ``w1_height_<element>``.

    Raises:
        InputError: naming the structure that does not belong to the system.
    """
    made = generated if isinstance(generated, Ensemble) else reference.ensemble(generated)
    shortest = made.min_distances
    heights = {
        f"w1_height_{element}": wasserstein(own, other)
        for element, own, other in zip(
            reference.elements, made.heights(2, reference.cut(2)), reference.sorted_heights, strict=True
        )
    }
    return {
        "valid": float(np.mean(shortest >= reference.valid_distance)),
        "min_distance": float(shortest.mean()),
        "w1_neighbour": wasserstein(made.nearest[:, :, 0], reference.sorted_nearest),
        "w1_height": float(np.mean(list(heights.values()))),
        **heights,
    }
