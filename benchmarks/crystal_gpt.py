"""Speed of crystal_gpt beside the published recipe (CrystalFormer), in one run: ``python benchmarks/crystal_gpt.py``.

The recipe is written out below in PyTorch as it was published: five tokens for each of ``n_max`` sites, padding
included, one linear layer for all outputs, and sampling by ``5 x n_max`` passes over whole sequences, without a cache.
Ratios are what counts; the machine may be shared.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.network import CrystalGPT, Shape
from megen_gym.agents.crystal_gpt.periodic import Mixture, draw, log_density
from megen_gym.agents.crystal_gpt.sampling import Drawing, Sampler
from megen_gym.crystals import CrystalBatch

KX, KL, WAVES = 16, 4, 5
OUTPUTS = 119 + 4 + 2 * 6 * KL


@dataclass
class Sizes:
    """Of a network: the first ones of the table in the docs, or CrystalFormer's defaults."""

    layers: int = 4
    heads: int = 8
    key: int = 16
    width: int = 64
    embed: int = 32
    n_max: int = 6


class Recipe(nn.Module):
    """CrystalFormer's transformer, with rotary positions left out."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, embed, width = sizes, sizes.embed, sizes.width
        self.group, self.letter = nn.Embedding(231, embed), nn.Embedding(28, embed)
        self.element = nn.Embedding(119, embed)
        self.inward = nn.ModuleList(nn.Linear(embed + size, width) for size in (embed + 1, embed, *[2 * WAVES] * 3))
        inner = sizes.heads * sizes.key
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "first": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * inner), "out": nn.Linear(inner, width),
                    "second": nn.LayerNorm(width), "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(sizes.layers)
        )  # fmt: skip
        self.last, self.outward = nn.LayerNorm(width), nn.Linear(width, max(OUTPUTS, 3 * KX, 28))
        self.begin = nn.Sequential(nn.Linear(embed, 256), nn.GELU(), nn.Linear(256, 28))

    def forward(self, group: Tensor, letters: Tensor, elements: Tensor, angles: Tensor) -> Tensor:
        """(B, 5 n, outputs) of whole sequences."""
        size, n = letters.shape
        g = self.group(group)[:, None].expand(-1, n, -1)
        waves = angles[..., None] * torch.arange(1, WAVES + 1)
        waves = torch.cat([waves.sin(), waves.cos()], -1)
        parts = [
            torch.cat([g, self.letter(letters), letters[..., None].float()], -1),
            torch.cat([g, self.element(elements)], -1),
            *(torch.cat([g, waves[:, :, axis]], -1) for axis in range(3)),
        ]
        tokens = torch.stack([linear(part) for linear, part in zip(self.inward, parts, strict=True)], 2).flatten(1, 2)
        heads = self.sizes.heads
        for block in self.blocks:
            query, key, value = (
                part.view(size, 5 * n, heads, -1).transpose(1, 2)
                for part in block["qkv"](block["first"](tokens)).chunk(3, -1)
            )
            seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            tokens = tokens + block["out"](seen.transpose(1, 2).flatten(2))
            tokens = tokens + block["down"](functional.gelu(block["up"](block["second"](tokens))))
        out: Tensor = self.outward(self.last(tokens))
        return out

    def loss(self, sites: Sites) -> Tensor:
        """The published loss: all parts summed over sites, the lattice as a diagonal mixture."""
        out = self(sites.group, sites.letters, sites.elements, sites.angles)
        out = out.unflatten(1, (-1, 5))
        begin = self.begin(self.group(sites.group))[:, None]
        letters = torch.cat([begin, out[:, :-1, 4, :28]], 1)
        loss = functional.cross_entropy(letters.flatten(0, 1), sites.letters.flatten(), reduction="sum")
        loss = loss + functional.cross_entropy(
            out[:, :, 0, :119].flatten(0, 1), sites.elements.flatten(), reduction="sum"
        )
        for axis in range(3):
            logits, location, raw = out[:, :, 1 + axis, : 3 * KX].chunk(3, -1)
            mixture = Mixture(logits, location, functional.softplus(raw) ** -0.5)
            density = log_density("von_mises", sites.angles[:, :, axis], mixture)
            loss = loss - (density * (sites.letters > 0)).sum()
        first = (sites.letters > 0).sum(1).clamp(max=sites.letters.shape[1] - 1)
        cell = out[torch.arange(len(sites)), first, 1]
        logits, mean, raw = cell[:, 119:123], cell[:, 123 : 123 + 6 * KL], cell[:, 123 + 6 * KL : 123 + 12 * KL]
        normal = torch.distributions.Normal(mean.view(-1, KL, 6), functional.softplus(raw).view(-1, KL, 6) + 1e-3)
        each = normal.log_prob(sites.lattice.float()[:, None]) + torch.log_softmax(logits, -1)[..., None]
        return (loss - torch.logsumexp(each, 1).sum()) / len(sites)

    @torch.no_grad()
    def sample(self, group: Tensor, rng: np.random.Generator) -> None:
        """All sites of a batch: a pass over the whole sequence for each token."""
        size, n = len(group), self.sizes.n_max
        letters, elements = torch.zeros(size, n, dtype=torch.long), torch.zeros(size, n, dtype=torch.long)
        angles = torch.zeros(size, n, 3)
        for site in range(n):
            for token in range(5):
                out = self(group, letters, elements, angles).unflatten(1, (-1, 5))
                if token == 0:
                    logits = self.begin(self.group(group)) if site == 0 else out[:, site - 1, 4, :28]
                    letters[:, site] = torch.distributions.Categorical(logits=logits).sample()
                elif token == 1:
                    logits = out[:, site, 0, :119]
                    elements[:, site] = torch.distributions.Categorical(logits=logits).sample()
                else:
                    logits, location, raw = out[:, site, token - 1, : 3 * KX].chunk(3, -1)
                    mixture = Mixture(logits, location, functional.softplus(raw) ** -0.5)
                    angles[:, site, token - 2] = draw("von_mises", mixture, 1.0, rng)


def perovskites(count: int, n_max: int) -> Sites:
    """Distorted perovskites: the five sites of space groups 25 and 99 with random elements."""
    rng = np.random.default_rng(0)
    group = rng.choice([25, 99], count)
    letters = np.where(group[:, None] == 25, [1, 2, 3, 4, 4], [1, 2, 2, 3, 3])
    letters = np.where(group[:, None] == 99, [1, 2, 2, 3, 0], letters)
    elements = rng.integers(1, 84, letters.shape) * (letters > 0)
    coordinates = np.zeros((*letters.shape, 3))
    coordinates[..., 2] = rng.normal(0.5, 0.05, letters.shape) % 1.0
    lattice = np.concatenate([np.repeat(rng.normal(4.2, 0.2, (count, 1)), 3, 1), np.full((count, 3), 90.0)], 1)
    crystals = CrystalBatch(group, letters.astype(np.int64), elements, coordinates, lattice)
    return Sites.of(crystals.padded(n_max))


def rate(work: Callable[[], int], seconds: float = 6.0) -> float:
    """Crystals per CPU second."""
    work()
    begin, done = time.process_time(), 0
    while time.process_time() - begin < seconds:
        done += work()
    return done / (time.process_time() - begin)


def trainer(network: nn.Module, loss: Callable[[Sites], Tensor], data: Sites, batch: int) -> Callable[[], int]:
    """One step of Adam on random crystals."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    rng = np.random.default_rng(0)

    def step() -> int:
        optimizer.zero_grad(set_to_none=True)
        loss(data[rng.integers(0, len(data), batch)]).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return batch

    return step


def ours(sizes: Sizes, hidden: int) -> CrystalGPT:
    """The network of this library with comparable sizes."""
    shape = Shape(
        n_max=sizes.n_max, layers=sizes.layers, width=sizes.width, heads=sizes.heads, key=sizes.key,
        hidden=hidden, dropout=0.0, order="last",
    )  # fmt: skip
    return CrystalGPT(shape)


def compare(sizes: Sizes, hidden: int, batch: int, train: bool) -> None:
    """Print the rates of both, in training and sampling, or in sampling only."""
    torch.manual_seed(0)
    recipe, mine = Recipe(sizes), ours(sizes, hidden)
    weights = [sum(p.numel() for p in network.parameters()) for network in (recipe, mine)]
    print(f"{sizes.layers} layers, n_max {sizes.n_max}: recipe {weights[0]} weights, this library {weights[1]}")
    data = perovskites(2000, sizes.n_max)
    if train:
        old = rate(trainer(recipe, recipe.loss, data, batch))
        new = rate(trainer(mine, lambda sites: -mine.log_prob(sites).total.mean(), data, batch))
        print(f"  training, batch {batch}: {old:.0f} and {new:.0f} crystals/cpu-s, {new / old:.1f}x")
    group, rng = torch.full((batch,), 99), np.random.default_rng(0)
    # trained until lists have the length of the data, as an untrained network writes lists of any length
    step = trainer(mine, lambda sites: -mine.log_prob(sites).total.mean(), data, 100)
    for _ in range(150 if train else 30):
        step()
    recipe.eval(), mine.eval()
    sampler = Sampler(mine, Drawing(), rng)

    def drawn() -> int:
        return len(sampler.sample(group))

    def by_recipe() -> int:
        recipe.sample(group, rng)
        return len(group)

    old, new = rate(by_recipe), rate(drawn)
    print(f"  sampling, batch {batch}: {old:.0f} and {new:.0f} crystals/cpu-s, {new / old:.1f}x")


def main() -> None:
    """Print all rows."""
    torch.set_num_threads(1)
    compare(Sizes(), 128, 100, train=True)
    compare(Sizes(layers=16, heads=16, key=64, width=64, embed=32, n_max=21), 256, 32, train=False)
    code = "import time; t = time.process_time(); import megen_gym.agents.crystal_gpt.generate; "
    code += "print(time.process_time() - t, int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)"
    seconds, memory = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    print(f"import: {float(seconds):.2f} cpu-s, {float(memory):.0f} MiB (published: 3.6 s, 760 MB)")
    print(f"peak of this benchmark: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
