"""Maximum likelihood of building steps, one epoch at a time, continued to the bit from its state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, optim

from megen_gym.agents.gschnet.collate import Reach, collate, draw_steps
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.network import GSchNet
from megen_gym.agents.gschnet.preparing import distances
from megen_gym.agents.gschnet.settings import Settings
from megen_gym.agents.gschnet.steps import Steps, moved
from megen_gym.agents.gschnet.trajectories import Placement, Trajectories, build
from megen_gym.agents.nn.epochs import EpochTrainer, Span
from megen_gym.periodic import Lattice, lattice_of
from megen_gym.structure import BoolArray, IntArray


@dataclass(frozen=True, eq=False)
class Material:
    """Molecules that steps are made of.

    Attributes:
        molecules: M of them.
        neighbours: (M, N, N) which atoms may be placed beside which.
        values: Of each condition, (M, K).
    """

    molecules: Molecules
    neighbours: BoolArray
    values: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.molecules)

    @property
    def lattices(self) -> list[Lattice] | None:
        """Of each molecule, where they are periodic."""
        cells, pbc = self.molecules.cells, self.molecules.pbc
        return None if cells is None or not any(pbc) else [lattice_of(cell.tobytes(), pbc) for cell in cells]


class StepMaker:
    """Batches of steps from molecules.

    Args:
        material: Molecules.
        reach: Cut-offs.
        draw: Random steps of each molecule; 0 for all.
        placement: See :func:`.trajectories.build`.
        noise: Å, see :func:`.collate.collate`.
    """

    def __init__(
        self,
        material: Material,
        reach: Reach,
        draw: int,
        placement: Placement = "closest_to_origin",
        noise: float = 0.0,
    ) -> None:
        self.material, self.reach, self.draw, self.placement, self.noise = material, reach, draw, placement, noise
        self.lattices = material.lattices

    def trajectories(self, rng: np.random.Generator) -> Trajectories:
        """A building order of every molecule."""
        molecules, far, start = self.material.molecules, None, None
        if self.placement == "closest_to_focus":
            far = distances(molecules, self.reach.prediction)
        if not self.reach.origin:
            start = (rng.random(len(molecules)) * molecules.n_atoms).astype(np.int64)
        return build(self.material.neighbours, molecules.n_atoms, rng, self.placement, far, start)

    def steps(self, trajectories: Trajectories, rows: IntArray, rng: np.random.Generator) -> Steps:
        """Steps of some of the molecules."""
        molecules, mine = self.material.molecules, trajectories[rows]
        noise = self.noise * rng.standard_normal(molecules.positions[rows].shape) if self.noise else None
        return collate(
            molecules.positions[rows],
            molecules.numbers[rows],
            molecules.n_atoms[rows],
            mine,
            draw_steps(mine.length, self.draw, rng),
            self.reach,
            None if self.lattices is None else [self.lattices[row] for row in rows],
            noise,
        )


class Plateau:
    """Learning rate that is reduced when the loss stands still, as published (ReduceLROnPlateau with a cool-down)."""

    def __init__(self, factor: float, patience: int, smallest: float) -> None:
        self.factor, self.patience, self.smallest = factor, patience, smallest
        self.scale, self.best, self.bad, self.rest = 1.0, float("inf"), 0, 0

    def tell(self, loss: float, lr: float) -> None:
        """A new validation loss."""
        if loss < self.best * (1 - 1e-4):
            self.best, self.bad = loss, 0
        else:
            self.bad = 0 if self.rest else self.bad + 1
        self.rest = max(self.rest - 1, 0)
        if self.bad > self.patience:
            self.scale = max(self.scale * self.factor, self.smallest / lr)
            self.bad, self.rest = 0, self.patience


class Trainer(EpochTrainer[GSchNet]):
    """Optimiser, moving average and steps beside a network.

    Args:
        network: Trained in place.
        material: The training molecules.
        settings: Resolved.
    """

    def __init__(self, network: GSchNet, material: Material, settings: Settings) -> None:
        self.settings, self.material = settings, material
        self.maker = StepMaker(
            material, network.reach, settings.draw_random_samples, settings.placement, settings.position_noise
        )
        self.plateau = Plateau(settings.lr_decay_factor, settings.lr_patience, settings.min_lr)
        assert settings.lr is not None
        self.lr = settings.lr
        optimizer = optim.AdamW(network.parameters(), self.lr, weight_decay=settings.weight_decay, fused=True)
        s = settings
        span = Span(s.batch_size, s.max_epochs, s.max_time, self.lr, s.ema, s.seed)
        super().__init__(network, optimizer, torch.from_numpy(material.molecules.n_atoms), span)

    def learning_rate(self) -> float:
        """Of the next step."""
        s = self.settings
        by_time = s.lr_schedule == "cosine" or (s.lr_schedule == "auto" and s.max_time is not None)
        return super().learning_rate() if by_time else self.warm() * self.plateau.scale

    def run_epoch(self, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Train on every molecule once, or until the time is over.

        Args:
            report: Called after each batch with its loss.

        Returns:
            Means over the epoch: both losses, and their sum.
        """
        network = self.trained.train()
        device, totals, seen = network.next_type.weight.device, np.zeros(2), 0
        begin = time.monotonic()
        for rows, steps in self._ahead():
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            given = {name: value[rows].to(device) for name, value in self.material.values.items()}
            kinds, places = network.losses(moved(steps, device), network.embed(given))
            limit = self.settings.gradient_clip_val or float("inf")
            self.descend(kinds + self.settings.distance_weight * places, limit)
            values = np.array([kinds.item(), places.item()])
            totals, seen = totals + values * len(rows), seen + len(rows)
            now = time.monotonic()
            self.elapsed, begin = self.elapsed + now - begin, now
            report({"loss": float(values.sum())})
            if self.late:
                break
        self.epoch += 1
        network.eval()
        kinds_mean, places_mean = (totals / max(seen, 1)).tolist()
        return {"loss": kinds_mean + places_mean, "loss_type": kinds_mean, "loss_dist": places_mean}

    def judged(self, material: Material) -> dict[str, float]:
        """What the moving average is worth, see :func:`judge`; the plateau is told."""
        row = judge(self.average, material, self.settings.placement)
        self.plateau.tell(row["val"], self.lr)
        return row

    def _ahead(self) -> Iterator[tuple[Tensor, Steps]]:
        """Batches of an epoch; with `num_workers` a few of them are made beside the network."""
        epoch = np.random.default_rng((self.settings.seed, self.epoch))
        trajectories, batches = self.maker.trajectories(epoch), self.shuffled()

        def make(index: int) -> Steps:
            rng = np.random.default_rng((self.settings.seed, self.epoch, index))
            return self.maker.steps(trajectories, batches[index].numpy(), rng)

        ahead = self.settings.num_workers
        if not ahead:
            yield from ((rows, make(index)) for index, rows in enumerate(batches))
            return
        with ThreadPoolExecutor(ahead) as pool:
            waiting = [pool.submit(make, index) for index in range(min(2 * ahead, len(batches)))]
            try:
                for index, rows in enumerate(batches):
                    if index + len(waiting) < len(batches):
                        waiting.append(pool.submit(make, index + len(waiting)))
                    yield rows, waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training goes on from."""
        tensors, numbers = super().state()
        return tensors, numbers | {"plateau": vars(self.plateau)}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        super().load_state(tensors, meta)
        vars(self.plateau).update(meta["plateau"])


@torch.no_grad()
def judge(network: GSchNet, material: Material, placement: Placement, batch_size: int = 10) -> dict[str, float]:
    """Published validation loss on all steps of one fixed building order of each molecule.

    Returns:
        ``val_type`` (nats per step), ``val_dist`` (nats of divergence per row) and their sum ``val``.
    """
    maker, rng = StepMaker(material, network.reach, 0, placement), np.random.default_rng(0)
    trajectories, sums = maker.trajectories(rng), np.zeros(2)
    device, counts = network.next_type.weight.device, np.zeros(2)
    for rows in np.array_split(material.molecules.n_atoms.argsort(kind="stable"), -(-len(material) // batch_size)):
        steps = moved(maker.steps(trajectories, rows, rng), device)
        given = {name: value[rows].to(device) for name, value in material.values.items()}
        losses = [loss.item() for loss in network.losses(steps, network.embed(given))]
        count = np.array([steps.canvas.n_canvases, network.n_targets(steps)])
        sums, counts = sums + count * losses, counts + count
    kinds, places = (sums / np.maximum(counts, 1)).tolist()
    return {"val": kinds + places, "val_type": kinds, "val_dist": places}
