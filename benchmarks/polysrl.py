"""Speed of PolySRL beside its published recipe, in one run: ``python benchmarks/polysrl.py``.

The recipe is written out below as it was published: all twelve edges of every atom, [x_i, x_j, e] joined before the
first layer, and a loss over a Python list of pairs. It computes the same loss; ratios are what counts, since the
machine may be shared.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor, nn

from megen_gym.agents.nn.devices import keep_memory
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.data import Pairs
from megen_gym.agents.polysrl.graphs import Graphs, graphs_of, neighbours
from megen_gym.agents.polysrl.losses import soft_contrastive
from megen_gym.agents.polysrl.model import CompositionEncoder
from megen_gym.agents.polysrl.settings import Settings, resolved
from megen_gym.agents.polysrl.structure_network import Block, GraphBatch
from megen_gym.agents.polysrl.training import Trainer, build

BATCH, STEPS = 256, 4
CATIONS = chemical_symbols[19:33] + chemical_symbols[37:51]


def perovskites(count: int) -> list[Atoms]:
    """Distorted cubic ABX3 with five atoms, as perov_5 has."""
    rng = np.random.default_rng(0)
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    found = []
    for _ in range(count):
        a, b = rng.choice(CATIONS, 2, replace=False)
        cell = np.diag(rng.uniform(3.8, 4.6) * rng.uniform(0.99, 1.01, 3))
        symbols = [a, b, *rng.choice(["O", "O", "O", "N", "F"], 3)]
        found.append(Atoms(symbols, scaled_positions=places, cell=cell, pbc=True))
    return found


def whole(structures: list[Atoms]) -> Graphs:
    """Graphs with every atom and every edge."""
    parts = []
    for atoms in structures:
        centre, other, distance, count = neighbours(atoms)
        sizes = np.array([len(atoms)]), np.array([len(centre)])
        share = np.full(len(atoms), 1 / len(atoms))
        parts.append(Graphs(atoms.numbers, share, centre, other, distance, count, *sizes))
    return Graphs.join(parts)


class JoinedBlock(nn.Module):
    """A block whose first layer sees [x_i, x_j, e] of every edge."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, e: Tensor, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        block = self.block
        weight = torch.cat([block.here.weight, block.there.weight, block.edge.weight], 1)
        joined = torch.cat([x[batch.centre], x[batch.other], e], -1)
        new = block.edge_out(nn.functional.linear(joined, weight, block.edge.bias))
        summed = torch.zeros_like(x).index_add(0, batch.centre, new * batch.times[:, None])
        return x + block.node(torch.cat([x, summed], -1)), e + new


def pair_list(samples: Tensor, structures: Tensor, same: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The published loss: a Python list of all pairs, and two gathers of (pairs, samples, H)."""
    pairs = [(i, j) for i in range(len(samples)) for j in range(len(structures))]
    left, right = (torch.tensor(each) for each in zip(*pairs, strict=True))
    distance = torch.sqrt(((samples[left] - structures[right][:, None]) ** 2).sum(-1) + 1e-6)
    sign = torch.where(same[left, right], 1.0, -1.0)[:, None]
    score = shift - scale * distance
    together = torch.logsumexp(sign * score - torch.logaddexp(score, -score), 1)
    return (math.log(samples.shape[1]) - together).sum()


def peak() -> float:
    """GB of memory so far at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def train(trainer: Trainer, steps: int) -> float:
    """Materials per CPU second."""
    rows = np.arange(BATCH)
    trainer.trained.train()
    begin = time.process_time()
    for _ in range(steps):
        loss, _ = trainer.trained.loss(trainer.batch(rows))
        trainer.descend(loss, 2.0)
    return BATCH * steps / (time.process_time() - begin)


def published(trainer: Trainer, steps: int) -> float:
    """The same by the recipe."""
    embedder = trainer.trained
    embedder.structure.blocks = nn.ModuleList(JoinedBlock(block) for block in embedder.structure.blocks)
    batch = trainer.batch(np.arange(BATCH))
    begin = time.process_time()
    for _ in range(steps):
        batch = trainer.batch(np.arange(BATCH))
        samples, points = embedder.samples(embedder.compose(batch)), embedder.crystals(batch)
        loss = pair_list(samples, points, batch.same, embedder.negative_scale, embedder.shift)
        with torch.no_grad():
            mine = soft_contrastive(samples, points, batch.same, embedder.negative_scale, embedder.shift).total
        assert torch.isclose(loss, mine, rtol=1e-3), (loss, mine)
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.optimizer.step()
    return BATCH * steps / (time.process_time() - begin)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    keep_memory()
    structures = perovskites(BATCH)
    begin = time.process_time()
    merged = graphs_of(structures)
    print(f"graphs: {1000 * (time.process_time() - begin) / BATCH:.1f} ms each, ", end="")
    print(f"{merged.nodes.mean():.1f} nodes and {merged.edges.mean():.1f} edges of 5 and 60")
    compositions = Compositions.parse([atoms.get_chemical_formula() for atoms in structures])
    first, index = compositions.unique()
    pairs = Pairs(compositions[first], merged, index)
    options = resolved(Settings(preset="published", batch_size=BATCH))
    torch.manual_seed(0)
    train(Trainer(build(options), pairs, options), 1)
    ours = train(Trainer(build(options), pairs, options), 4 * STEPS)
    memory = peak()
    everything = replace(pairs, graphs=whole(structures))
    recipe = published(Trainer(build(options), everything, options), STEPS)
    print("| what | recipe | ours | ratio |\n| --- | --- | --- | --- |")
    print(f"| training, hidden 200, batch {BATCH}, materials/cpu-s | {recipe:.0f} | {ours:.0f} | {ours / recipe:.1f} |")
    print(f"| memory at most, GB | {peak():.2f} | {memory:.2f} | {memory / peak():.2f} |")
    encoder, rng = CompositionEncoder(), np.random.default_rng(0)
    formulas = [
        "".join(f"{symbol}{amount}" for symbol, amount in zip(rng.choice(CATIONS, 3, replace=False), row, strict=True))
        for row in rng.integers(1, 9, (10_000, 3))
    ]
    begin = time.process_time()
    encoder.transform(formulas)
    print(f"10,000 formulas to vectors: {time.process_time() - begin:.2f} cpu-s")


if __name__ == "__main__":
    main()
