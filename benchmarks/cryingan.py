"""CryinGAN: seconds of CPU per training epoch and structures per second, beside a plain rendering of the published
recipe.

``python benchmarks/cryingan.py`` trains on random structures of the size of the Cu/Au interface (54 atoms, 800
structures). The baseline is what the published scripts do in every batch: one forward pass each for real, generated
and mixed structures, PyTorch's LeakyReLU, the generator's graph kept in the critic's step, distances to 27 images;
generation in one batch with gradients. All figures are CPU time of one thread, taken in turns in one run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym.agents.cryingan.networks import GAN
from megen_gym.agents.cryingan.published import PublishedCritic, PublishedGenerator
from megen_gym.agents.cryingan.settings import Settings, resolved
from megen_gym.agents.cryingan.sites import match, occupancies, statistics
from megen_gym.agents.cryingan.symmetry import Symmetry
from megen_gym.agents.cryingan.system import System
from megen_gym.agents.cryingan.training import Trainer, gradient_penalty
from megen_gym.cli import run


@dataclass
class Options:
    """Benchmark CryinGAN."""

    structures: int = 800
    """Structures of the data set."""
    batch_size: int = 32
    """Structures of a batch."""
    rounds: int = 2
    """Repetitions; the fastest counts."""
    generated: int = 2000
    """Structures that are generated."""
    memory: bool = True
    """Measure the peak memory of generating, in processes of their own."""


def crystal(count: int) -> tuple[System, np.ndarray]:
    """A slab of 3 x 3 x 6 atoms, half Cu, half Au, rattled; (B, N, 3) fractions."""
    cell = np.diag([8.156, 8.156, 17.45])
    layers = [[(i + 0.5 * (k % 2) + 0.25) / 3, (j + 0.5 * (k % 2) + 0.25) / 3, 0.23 + 0.108 * k]
              for k, i, j in product(range(6), range(3), range(3))]  # fmt: skip
    noise = np.random.default_rng(0).normal(scale=0.1, size=(count, 54, 3)) @ np.linalg.inv(cell)
    return System(np.repeat([29, 79], 27), cell, (True, True, True)), np.array(layers) + noise


def model(settings: Settings, system: System, fractions: np.ndarray) -> Trainer:
    """A trainer with fresh networks."""
    anchors, matched, moved = match(system, fractions)
    symmetry = Symmetry.identity(len(anchors))
    sites = statistics(system, anchors, occupancies(system, matched), moved, symmetry)
    torch.manual_seed(0)
    gan = GAN.build(settings, system, sites, 2.6)
    return Trainer(gan, fractions, matched, symmetry, "cpu")


class PlainGenerator(PublishedGenerator):
    """The published generator by transposed convolutions."""

    def forward(self, z: Tensor) -> Tensor:
        x = self.l1(z).view(len(z), self.channels, self.atoms, 1)
        return torch.sigmoid(self.map4(self.map3(self.map2(self.map1(x)))))[:, 0]


class PlainCritic(PublishedCritic):
    """The published critic by convolutions, with PyTorch's own activation."""

    def __init__(self, counts: tuple[int, ...], columns: int = 3) -> None:
        super().__init__(counts, columns)
        self.activation = nn.LeakyReLU(0.2)  # type: ignore[assignment]
        self.dense[1], self.dense[3] = nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)

    def forward(self, table: Tensor) -> Tensor:
        x = self.activation(self.conv1(table[:, None]))
        x = self.activation(self.conv3(self.activation(self.conv2(x))))
        pooled = torch.stack([part.mean((2, 3)) for part in torch.split(x, list(self.counts), 2)], -1)
        return self.output(self.dense(pooled.flatten(1)))


def plain_epoch(system: System, fractions: np.ndarray, batch_size: int, weight: float) -> Callable[[], None]:
    """The published recipe, one epoch of it."""
    torch.manual_seed(0)
    generator, critics = PlainGenerator(system.counts), [PlainCritic(system.counts)]
    cell = torch.tensor(system.cell, dtype=torch.float32)
    images = torch.tensor(list(product((0, -1, 1), repeat=3)), dtype=torch.float32) @ cell

    def distances(x: Tensor) -> Tensor:
        places = x @ cell
        everywhere = (places[:, None] + images[:, None]).flatten(1, 2)
        return torch.cdist(places, everywhere).topk(7, -1, largest=False).values[..., 1:]

    tables: list[Callable[[Tensor], Tensor]] = [lambda x: x]
    if weight:
        critics.append(PlainCritic(system.counts, 6))
        tables.append(distances)
    real = torch.tensor(fractions, dtype=torch.float32)
    known = [real] if not weight else [real, torch.cat([distances(part) for part in real.split(256)])]
    optimizers = [torch.optim.Adam(net.parameters(), 5e-5, betas=(0.5, 0.999)) for net in (generator, *critics)]

    def epoch() -> None:
        for number, rows in enumerate(torch.randperm(len(real)).split(batch_size)):
            fake = generator(torch.randn(len(rows), 64))
            cost = torch.zeros(())
            for critic, table, own, factor in zip(critics, tables, known, (1.0, weight), strict=False):
                made = table(fake).detach()
                alpha = torch.rand(len(rows), 1, 1)
                between = alpha * own[rows] + (1 - alpha) * made
                scores = critic(made).mean() - critic(own[rows]).mean()
                cost = cost + factor * (scores + 10 * gradient_penalty(critic, between))
            for optimizer in optimizers[1:]:
                optimizer.zero_grad()
            cost.backward()
            for optimizer in optimizers[1:]:
                optimizer.step()
            if number % 5 == 0:
                fake = generator(torch.randn(len(rows), 64))
                score = sum(f * c(t(fake)).mean() for f, c, t in zip((1.0, weight), critics, tables, strict=False))
                optimizers[0].zero_grad()
                (-score).backward()
                optimizers[0].step()

    return epoch


def unreported(batch: int, losses: dict[str, float]) -> None:
    """Report nothing."""


def cpu(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def fastest(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, function in candidates.items():
            times[name].append(cpu(function))
    return {name: min(values) for name, values in times.items()}


def peak(kind: str, count: int) -> float:
    """MiB of resident memory that generating 1,000 structures takes, over what the imports take."""
    command = [sys.executable, __file__, "--measure", kind, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure(kind: str, count: int) -> None:
    """Generate in this process and print its peak memory."""
    torch.set_num_threads(1)
    system, fractions = crystal(64)
    if kind == "plain":
        generator = PlainGenerator(system.counts).eval()
        generator(torch.randn(count, 64))
    else:
        gan = model(resolved(Settings(preset=kind)), system, fractions).gan  # type: ignore[arg-type]
        gan.calibrate()
        gan.sample(count)
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    system, fractions = crystal(options.structures)
    size = options.batch_size
    for weight, what in ((0.0, "coordinates only"), (0.05, "with distances")):
        chosen = resolved(Settings(weight_dist=weight, batch_size=size, preset="published"))
        ours = model(chosen, system, fractions)
        small = model(resolved(replace(Settings(weight_dist=weight, batch_size=size))), system, fractions)
        times = fastest(
            {
                "published recipe": plain_epoch(system, fractions, size, weight),
                "--preset published": lambda trainer=ours: trainer.run_epoch(unreported),
                "--preset default": lambda trainer=small: trainer.run_epoch(unreported),
            },
            options.rounds,
        )
        base = times["published recipe"]
        for name, seconds in times.items():
            ratio = f"{seconds / base:5.2f} x"
            print(f"epoch of {options.structures} structures, {what}: {name:19} {seconds:6.2f} cpu-s  {ratio}")
    generator = PlainGenerator(system.counts).eval()
    published = model(resolved(Settings(preset="published")), system, fractions).gan
    default = model(resolved(Settings()), system, fractions).gan
    default.calibrate()
    count = options.generated
    rates = fastest(
        {
            "published recipe": lambda: generator(torch.randn(count // 2, 64)),
            "--preset published": lambda: published.sample(count),
            "--preset default": lambda: default.sample(count),
        },
        options.rounds,
    )
    rates["published recipe"] *= 2
    kinds = {"published recipe": "plain", "--preset published": "published", "--preset default": "default"}
    for name, seconds in rates.items():
        memory = f"{peak(kinds[name], 1000):6.0f} MiB in all for 1,000" if options.memory else ""
        ratio = rates["published recipe"] / seconds
        print(f"generation: {name:19} {count / seconds:8.0f} structures/cpu-s  {ratio:5.2f} x  {memory}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]))
    else:
        main(run(Options))
