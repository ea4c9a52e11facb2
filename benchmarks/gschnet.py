"""Speed of G-SchNet beside the published recipe, in one run: ``python benchmarks/gschnet.py``.

Both have the published sizes (1,170,768 weights) and, for growing, the same weights, which are trained for a minute
first. The recipe is written out in ``published_gschnet.py``. Ratios are what counts; the machine may be shared.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from benchmarks import published_gschnet as published
from megen_gym.agents.gschnet.generating import generate
from megen_gym.agents.gschnet.grid import Grid
from megen_gym.agents.gschnet.model import Model
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.network import GSchNet, Shape
from megen_gym.agents.gschnet.preparing import Connectivity, prepare
from megen_gym.agents.gschnet.sampling import Drawing
from megen_gym.agents.gschnet.settings import Settings, resolved
from megen_gym.agents.gschnet.training import Material, StepMaker, Trainer
from megen_gym.agents.nn.devices import keep_memory

TYPES = (1, 6, 7, 8, 9)


@dataclass
class Row:
    """A line of the table: molecules per CPU second, or milliseconds per molecule."""

    name: str
    theirs: float
    ours: float
    unit: str

    def __str__(self) -> str:
        ratio = self.theirs / self.ours if self.unit.startswith("ms") else self.ours / self.theirs
        return f"{self.name:44s} {self.theirs:9.2f} {self.ours:9.2f} {self.unit:16s} {ratio:6.1f}x"


def material(structures: list[Atoms]) -> Material:
    """Prepared molecules."""
    prepared = prepare(Molecules.from_atoms(structures), Connectivity())
    return Material(prepared.molecules, prepared.adjacency, {})


def trainer(data: Material, batch_size: int, draw: int, seconds: float, preset: str = "published") -> Trainer:
    """A new network and its optimiser."""
    settings = resolved(
        Settings(batch_size=batch_size, draw_random_samples=draw, max_time=seconds, preset=preset)  # type: ignore[arg-type]
    )
    assert settings.features and settings.n_interactions and settings.head_hidden  # noqa: PT018
    shape = Shape(
        TYPES,
        features=settings.features,
        n_interactions=settings.n_interactions,
        head_hidden=settings.head_hidden,
    )
    return Trainer(GSchNet(shape), data, settings)


def trained(
    data: Material, batch_size: int, draw: int, seconds: float, preset: str = "published"
) -> tuple[GSchNet, float]:
    """A network after some CPU seconds of training, and molecules per CPU second."""
    one = trainer(data, batch_size, draw, 1e9, preset)
    begin, steps = time.process_time(), 0

    class Enough(Exception):
        pass

    def report(_: dict[str, float]) -> None:
        nonlocal steps
        steps += 1
        if time.process_time() - begin > seconds:
            raise Enough

    try:
        while True:
            one.run_epoch(report)
    except Enough:
        return one.average.eval(), steps * batch_size / (time.process_time() - begin)


def building(data: Material, draw: int, seconds: float = 3.0) -> float:
    """Milliseconds per molecule from structures to batches of steps."""
    maker = StepMaker(data, trainer(data, 10, draw, 1.0).trained.reach, draw)
    begin, done, rng = time.process_time(), 0, np.random.default_rng(0)
    while time.process_time() - begin < seconds:
        trajectories = maker.trajectories(rng)
        for rows in np.array_split(rng.permutation(len(data)), len(data) // 10):
            maker.steps(trajectories, rows, rng)
            done += len(rows)
            if time.process_time() - begin > seconds:
                break
    return 1000 * (time.process_time() - begin) / done


def same_weights(ours: GSchNet) -> published.PublishedGSchNet:
    """The recipe's network with the weights of ours."""
    mine, theirs = ours.state_dict(), published.PublishedGSchNet(TYPES)
    renamed: dict[str, Tensor] = {
        "embedding.weight": mine["schnet.embedding.weight"],
        "next_type_embedding.weight": mine["next_type.weight"],
    }
    features = ours.shape.features
    for layer in range(ours.shape.n_interactions):
        part = slice(layer * features, (layer + 1) * features)
        to = f"interactions.{layer}."
        renamed[to + "in2f.weight"] = mine[f"schnet.in2f.{layer}.weight"]
        renamed[to + "filter.0.weight"] = mine["schnet.filters.first.weight"][part]
        renamed[to + "filter.0.bias"] = mine["schnet.filters.first.bias"][part]
        renamed[to + "filter.2.weight"] = mine["schnet.filters.second"][layer].T
        renamed[to + "filter.2.bias"] = mine["schnet.filters.bias"][layer, 0]
        for index in (0, 2):
            for kind in ("weight", "bias"):
                renamed[f"{to}f2out.{index}.{kind}"] = mine[f"schnet.f2out.{layer}.{index}.{kind}"]
    for index in range(0, 2 * ours.shape.head_layers - 1, 2):
        for kind in ("weight", "bias"):
            renamed[f"type_net.{index}.{kind}"] = mine[f"type_head.{index}.{kind}"]
            renamed[f"distance_net.{index}.{kind}"] = mine[f"distance_head.{index}.{kind}"]
    theirs.load_state_dict(renamed | dict(theirs.named_buffers()))
    return theirs.eval()


class LeftOut:
    """Total variation between the voxels that are evaluated and the whole grid, for placements of a model."""

    def __init__(self, every: int = 5) -> None:
        self.every, self.calls = every, 0
        self.values: list[Tensor] = []

    def __enter__(self) -> LeftOut:
        self.masses, mine = Grid._masses, self

        def masses(grid: Grid, density: object, temperature: float) -> tuple[Tensor, Tensor]:
            found = self.masses(grid, density, temperature)  # type: ignore[arg-type]
            mine.calls += 1
            if mine.calls % mine.every == 0:
                every = torch.arange(len(grid.voxels)).expand(len(found[0]), -1)
                full = grid._logits(density, every, temperature).flatten(1).logsumexp(1).double()  # type: ignore[arg-type]
                mine.values.append(1 - (found[0].double().logsumexp(1) - full).exp())
            return found

        Grid._masses = masses  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *_: object) -> None:
        Grid._masses = self.masses  # type: ignore[method-assign]


def main(seconds: float = 20.0) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    keep_memory()
    torch.manual_seed(0)
    structures, rng = published.molecules(), np.random.default_rng(0)
    data = material(structures)
    whole = [structures[row] for row in data.molecules.rows]
    print(f"{len(data)} molecules of {data.molecules.n_atoms.mean():.1f} atoms; molecules per CPU second, one core")
    print(f"{'':44s} {'recipe':>9s} {'here':>9s}")
    for draw, size in ((10, 10), (0, 5)):
        built, rate = published.rates(whole, size, draw, rng, seconds)
        name = f"draw {draw}, batch {size}" if draw else f"all steps, batch {size}"
        network, mine = trained(data, size, draw, 3 * seconds if draw else seconds)
        print(Row(f"training, {name}", rate, mine, "molecules/cpu-s"), flush=True)
        print(Row(f"trajectories and batches, {name}", 1000 * built, building(data, draw), "ms/molecule"), flush=True)
        if draw:
            grower = network
    _, small = trained(data, 10, 10, seconds, "small")
    print(f"{'training, draw 10, batch 10, preset small':44s} {'':9s} {small:9.2f} molecules/cpu-s")
    theirs = same_weights(grower)
    begin = time.process_time()
    with torch.no_grad():
        count = len(published.generate(theirs, 16, 16, 35, 0.05, 16, np.random.default_rng(0)))
    rate = count / (time.process_time() - begin)
    model = Model(grower, Connectivity(), 27, 0.7)
    generate(model, 4, 35)
    for size in (16, 64):
        begin = time.process_time()
        made = generate(model, 64, 35, batch_size=size, drawing=Drawing(), seed=1)
        mine = made.attempts / (time.process_time() - begin)
        print(Row(f"growing, 0.05 Å, batch {size}", rate, mine, "molecules/cpu-s"), flush=True)
    with LeftOut() as left:
        generate(model, 16, 35, batch_size=16, seed=2)
    values = torch.cat(left.values)
    print(
        f"total variation to the whole grid, {len(values)} placements: mean {values.mean():.1e}, max {values.max():.1e}"
    )


if __name__ == "__main__":
    main()
