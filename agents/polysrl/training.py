"""Embeddings, one epoch at a time, continued to the bit from their state."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, optim
from torch.nn import functional

from megen_gym.agents.nn.epochs import EpochTrainer, Span
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.data import Pairs
from megen_gym.agents.polysrl.embedders import EMBEDDERS, Batch, Embedder
from megen_gym.agents.polysrl.graphs import Graphs
from megen_gym.agents.polysrl.network import CompositionNetwork
from megen_gym.agents.polysrl.settings import Settings, shape_of
from megen_gym.agents.polysrl.structure_network import GraphBatch
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray

ROWS = 2048
"""Compositions or crystals that are embedded at once."""


def build(settings: Settings) -> Embedder:
    """A new embedder, from torch's global random state.

    Args:
        settings: Resolved.
    """
    return EMBEDDERS[settings.embedder](CompositionNetwork(shape_of(settings)), settings)


def target_of(settings: Settings, pairs: Pairs) -> str | None:
    """The property that is learned, None where none is.

    Raises:
        InputError: where the data does not have it.
    """
    known = EMBEDDERS[settings.embedder].learns
    if not known:
        return None
    names = list(pairs.properties)
    if settings.property is not None:
        if settings.property not in names:
            raise InputError(f"property {settings.property!r} is not in the data; {nearest(settings.property, names)}")
        return settings.property
    found = next((name for name in known if name in names), None)
    if found is None:
        raise InputError(
            f"{settings.embedder} learns {' or '.join(known[:2])}, but the data has "
            f"{', '.join(names) or 'no numbers'}; name one with --property"
        )
    return found


def tensors_of(compositions: Compositions, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Atomic numbers and amounts, (B, E) each, without columns that are padding throughout."""
    wide = int((compositions.numbers > 0).sum(1).max())
    numbers = torch.from_numpy(compositions.numbers[:, :wide].copy()).to(device)
    return numbers, torch.from_numpy(compositions.amounts[:, :wide].copy()).to(device, torch.float32)


class Trainer(EpochTrainer[Embedder]):
    """Optimiser, moving average and data beside an embedder.

    Args:
        embedder: Trained in place.
        pairs: The training data.
        settings: Resolved.
        target: Name of the property that is learned, see :func:`target_of`.
    """

    def __init__(self, embedder: Embedder, pairs: Pairs, settings: Settings, target: str | None = None) -> None:
        self.settings = s = settings
        if target is not None:
            pairs = pairs.crystals(np.flatnonzero(np.isfinite(pairs.properties[target])))
            values = pairs.properties[target]
            if len(values) < 2 or np.ptp(values) == 0:
                raise InputError(f"property {target!r} does not vary in the data to train on; give another one")
            self.target: FloatArray | None = (values - values.mean()) / values.std()
        else:
            self.target = None
        self.pairs = pairs
        assert s.lr is not None
        assert s.ema is not None
        optimizer = optim.Adam(embedder.parameters(), s.lr, weight_decay=s.weight_decay, fused=True)
        span = Span(s.batch_size, s.epochs, s.max_time, s.lr, s.ema, s.seed)
        super().__init__(embedder, optimizer, torch.ones(len(pairs)), span)

    def learning_rate(self) -> float:
        """Of the next step."""
        return super().learning_rate() if self.settings.lr_schedule == "cosine" else self.budget.lr

    def shuffled(self) -> list[Tensor]:
        """Crystals of each batch of an epoch; those of one composition follow one another, if that is wanted."""
        if not self.settings.polymorph_batches:
            return super().shuffled()
        rank = torch.randperm(len(self.pairs.compositions), generator=self.rng)
        order = rank[torch.from_numpy(self.pairs.index)].argsort(stable=True)
        return list(torch.chunk(order, self.batches))

    def run_epoch(self, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Train on every crystal once, or until the time is over.

        Args:
            report: Called after each batch with its loss.

        Returns:
            Means over the epoch.
        """
        totals: dict[str, float] = {}
        seen, begin = 0, time.monotonic()
        self.trained.train()
        for rows in self.shuffled():
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            loss, told = self.trained.loss(self.batch(rows.numpy()))
            self.descend(loss, self.settings.max_grad if self.settings.grad_clip else float("inf"))
            row = {"loss": float(loss.detach())} | {name: float(value) for name, value in told.items()}
            for name, value in row.items():
                totals[name] = totals.get(name, 0.0) + value * len(rows)
            seen += len(rows)
            now = time.monotonic()
            self.elapsed, begin = self.elapsed + now - begin, now
            report(row)
            if self.late:
                break
        self.epoch += 1
        self.trained.eval()
        return {name: value / seen for name, value in totals.items()}

    def batch(self, rows: IntArray) -> Batch:
        """The crystals `rows` and their compositions, each of them once, or once for each crystal."""
        device, chosen = self.trained.composition.table.device, self.pairs.crystals(rows)
        compositions, index = chosen.compositions, chosen.index
        if self.settings.positives == "identity" or self.settings.preset == "published":
            compositions = compositions[index]
            same = index[:, None] == index if self.settings.positives == "formula" else np.eye(len(index), dtype=bool)
            index = np.arange(len(index))
        else:
            same = np.arange(len(compositions))[:, None] == index
        return Batch(
            *tensors_of(compositions, device),
            GraphBatch.of(chosen.graphs, device=device) if self.trained.sees_structures else None,
            torch.from_numpy(index).to(device),
            torch.from_numpy(same).to(device),
            None if self.target is None else torch.from_numpy(self.target[rows]).to(device, torch.float32),
        )


@torch.no_grad()
def embed(network: CompositionNetwork, compositions: Compositions) -> tuple[FloatArray, FloatArray]:
    """(B, H) means and (B, H) logarithms of standard deviations."""
    device = network.table.device
    parts = [network(*tensors_of(compositions[rows], device)) for rows in _rows(len(compositions))]
    mean, log_std = (torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True))
    return mean, log_std


@torch.no_grad()
def embed_means(network: CompositionNetwork, compositions: Compositions) -> FloatArray:
    """(B, H) means alone, in about two thirds of the time."""
    device = network.table.device
    parts = [network.summary(*tensors_of(compositions[rows], device)) for rows in _rows(len(compositions))]
    return np.asarray(functional.normalize(torch.cat(parts), dim=-1).double().cpu().numpy())


def _rows(size: int) -> list[IntArray]:
    return np.array_split(np.arange(size), -(-size // ROWS))


@torch.no_grad()
def embed_graphs(embedder: Embedder, graphs: Graphs) -> FloatArray:
    """(S, H) of crystals."""
    device, parts = embedder.composition.table.device, []
    for rows in _rows(len(graphs)):
        parts.append(embedder.structure(GraphBatch.of(graphs[rows], device=device)).cpu())
    return np.asarray(torch.cat(parts).double().numpy())


def judge(embedder: Embedder, pairs: Pairs) -> dict[str, float]:
    """How well held-out compositions find their own structures among all held-out ones.

    Returns:
        ``hit_1`` and ``hit_5``: share of the compositions with a structure of theirs among the nearest 1 or 5;
        ``miss`` = 1 - the mean reciprocal rank of the nearest own one; ``within`` mean distance to own structures.
    """
    mean = embed_means(embedder.composition, pairs.compositions)
    points = embed_graphs(embedder, pairs.graphs)
    square = (mean**2).sum(1)[:, None] + (points**2).sum(1) - 2 * mean @ points.T
    distance = np.sqrt(np.maximum(square, 0.0))
    own = np.arange(len(mean))[:, None] == pairs.index
    first = np.where(own, distance, np.inf).min(1)
    rank = ((distance <= first[:, None]) & ~own).sum(1)
    return {
        "hit_1": float((rank < 1).mean()),
        "hit_5": float((rank < 5).mean()),
        "miss": float(1 - (1 / (1 + rank)).mean()),
        "within": float(distance[own].mean()),
    }
