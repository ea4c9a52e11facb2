"""G-SchNet as it was published, plain and slow: ``python benchmarks/published_gschnet.py`` prints its rates.

Written from a description of schnetpack-gschnet 1.1 (unconditional), not from its code, to be the other side of
``benchmarks/gschnet.py`` and an oracle for tests: the same work in the same way. A molecule becomes a trajectory of
placements in a Python loop (:func:`build_trajectory`), SchNet runs on edge lists with filters of every edge
(:class:`PublishedGSchNet`), and molecules grow in lockstep, each new atom drawn from the whole grid (:func:`generate`).
It was published in doi 10.1038/s41467-022-28526-y (cG-SchNet) and 10.1063/5.0138367 (SchNetPack 2.0).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.collections import g2
from ase.data import atomic_masses, covalent_radii
from torch import Tensor, nn
from torch.nn import functional

ORIGIN, FOCUS, STOP = 121, 122, 123
ATOM_TYPES = (1, 6, 7, 8, 9)
MODEL_CUTOFF, PREDICTION_CUTOFF, PLACEMENT_CUTOFF, RADIUS_FACTOR = 10.0, 5.0, 1.7, 1.1
GRID_MIN, GRID_SPACING, TEMPERATURE = 0.7, 0.05, 0.1
MAX_DISTANCE = PREDICTION_CUTOFF + PLACEMENT_CUTOFF
BINS = math.ceil(30 * MAX_DISTANCE) + 1
BIN_WIDTH = MAX_DISTANCE / (BINS - 1)
FEATURES, INTERACTIONS, GAUSSIANS, HIDDEN, LAYERS, MAX_Z = 128, 9, 25, 256, 5, 130
GAUSSIAN_WIDTH, PARAMETERS = MODEL_CUTOFF / (GAUSSIANS - 1), 1_170_768
NAMES = ("types", "positions", "idx_i", "idx_j", "rows", "row_step", "next_type", "distances")

Batch = dict[str, Tensor]


def neighbour_lists(positions: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs ``idx_i, idx_j: (E,)`` within the model cut-off, and which of them count for prediction and placement."""
    distances = (positions[:, None] - positions[None]).norm(dim=-1)
    near = (distances < MODEL_CUTOFF) & ~torch.eye(len(numbers), dtype=torch.bool)
    idx_i, idx_j = near.nonzero(as_tuple=True)
    found = distances[idx_i, idx_j]
    radii = torch.from_numpy(covalent_radii)[numbers]
    placement = (found <= PLACEMENT_CUTOFF) & (found <= RADIUS_FACTOR * (radii[idx_i] + radii[idx_j]))
    return idx_i, idx_j, found <= PREDICTION_CUTOFF, placement


def walk(n: int, idx_i: Tensor, idx_j: Tensor, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Focus and new atom of each of the 2n steps, -1 for none (no focus at the first step, no new atom at a stop).

    Atoms are ordered by their distance to the centre of mass; ``idx_i, idx_j`` are neighbours by the placement rule.
    """
    placed, available = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    focuses, news = [-1], [0]
    placed[0] = available[0] = True
    while available.any():
        choices = available.nonzero()[:, 0]
        focus = int(choices[rng.integers(len(choices))])
        neighbours = idx_j[idx_i == focus]
        unplaced = neighbours[~placed[neighbours]]
        new = int(unplaced.min()) if len(unplaced) else -1
        if new >= 0:
            placed[new] = available[new] = True
        else:
            available[focus] = False
        focuses.append(focus)
        news.append(new)
    if not placed.all():
        raise ValueError(f"{int((~placed).sum())} of {n} atoms are not connected by the placement rule")
    return focuses, news


def build_trajectory(positions: np.ndarray, numbers: np.ndarray, rng: np.random.Generator, draw: int = 0) -> Batch:
    """Graphs and targets of ``draw`` random steps (0 or >= 2n: all) of one random trajectory, float64 on the CPU.

    With S steps, N nodes (per step: focus token, origin token, placed atoms in the order of placement), E edges, R
    prediction rows, D rows of steps that are no stop:

    ============================  ============  ==================================================================
    ``types``, ``positions``      (N,), (N, 3)  122, 121 or atomic number; Å from the centre of mass
    ``idx_i``, ``idx_j``          (E,)          nodes: ``idx_i`` receives
    ``rows``, ``row_step``        (R,)          nodes whose features predict, and their step among the S
    ``next_type``                 (S,)          atomic number of the new atom, or 123
    ``distances``                 (D,)          Å from the row to the new atom, for rows with ``next_type`` != 123
    ``drawn``                     (S,)          which of the 2n steps these are
    ``walk_focus``, ``walk_new``  (2n,)         atoms of all 2n steps, by their index in ``numbers``; -1: none
    ============================  ============  ==================================================================
    """
    n = len(numbers)
    where, charges = torch.tensor(positions, dtype=torch.float64), torch.tensor(numbers, dtype=torch.long)
    masses = torch.from_numpy(atomic_masses)[charges]
    where = where - (masses[:, None] * where).sum(0) / masses.sum()
    order = where.norm(dim=-1).argsort()
    where, charges = where[order], charges[order]
    idx_i, idx_j, prediction, placement = neighbour_lists(where, charges)
    focuses, news = walk(n, idx_i[placement], idx_j[placement], rng)
    steps = np.sort(rng.choice(2 * n, draw, replace=False)) if 0 < draw < 2 * n else np.arange(2 * n)
    parts, offset = {name: list[Tensor]() for name in NAMES}, 0
    for number, step in enumerate(steps):
        focus, new = focuses[step], news[step]
        atoms = torch.tensor([atom for atom in news[:step] if atom >= 0], dtype=torch.long)
        node = torch.full((n,), -1)
        node[atoms] = torch.arange(2, len(atoms) + 2)
        kept = (node[idx_i] >= 0) & (node[idx_j] >= 0)
        sources, targets, ones = node[idx_i[kept]], node[idx_j[kept]], torch.ones_like(atoms)
        if focus >= 0:
            centre = node[focus : focus + 1]
            # the focus token has the neighbours of the focus atom, the origin among them, and the focus atom
            copied = torch.cat([targets[sources == centre], ones[:1], centre])
            near = node[idx_j[prediction & (idx_i == focus)]]
            rows = torch.cat([torch.tensor([0, 1]), centre, near[near >= 0]])
            place = where[focus : focus + 1]
        else:
            copied, rows, place = torch.ones(1, dtype=torch.long), torch.tensor([0, 1]), where.new_zeros(1, 3)
        copies, atom_nodes = torch.zeros_like(copied), node[atoms]
        nodes = torch.cat([place, where.new_zeros(1, 3), where[atoms]])
        parts["types"].append(torch.cat([torch.tensor([FOCUS, ORIGIN]), charges[atoms]]))
        parts["positions"].append(nodes)
        parts["idx_i"].append(torch.cat([sources, ones, atom_nodes, copies, copied]) + offset)
        parts["idx_j"].append(torch.cat([targets, atom_nodes, ones, copied, copies]) + offset)
        parts["rows"].append(rows + offset)
        parts["row_step"].append(torch.full_like(rows, number))
        parts["next_type"].append(charges[new : new + 1] if new >= 0 else torch.tensor([STOP]))
        parts["distances"].append((nodes[rows] - where[new]).norm(dim=-1) if new >= 0 else where.new_zeros(0))
        offset += len(nodes)
    trajectory = {name: torch.cat(tensors) for name, tensors in parts.items()}
    trajectory["drawn"] = torch.from_numpy(steps)
    given = torch.cat([order, torch.tensor([-1])])
    trajectory["walk_focus"], trajectory["walk_new"] = given[torch.tensor(focuses)], given[torch.tensor(news)]
    return trajectory


def collate(trajectories: Sequence[Batch], dtype: torch.dtype = torch.float32) -> Batch:
    """One batch of the graphs of several molecules; nodes and steps are renumbered, floats cast."""
    nodes, steps = np.cumsum([[0, 0]] + [[len(t["types"]), len(t["next_type"])] for t in trajectories], 0).T.tolist()
    shifts = {"idx_i": nodes, "idx_j": nodes, "rows": nodes, "row_step": steps}
    none, batch = [0] * len(trajectories), {}
    for name in NAMES:
        batch[name] = torch.cat([t[name] + k for t, k in zip(trajectories, shifts.get(name, none), strict=False)])
    batch["positions"], batch["distances"] = batch["positions"].to(dtype), batch["distances"].to(dtype)
    return batch


class ShiftedSoftplus(nn.Module):
    """ln(1 + e^x) - ln 2."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.softplus(x) - math.log(2.0)


def head(n_out: int) -> nn.Sequential:
    """128 -> 256 (four times) -> n_out, shifted softplus between."""
    layers: list[nn.Module] = []
    for n_in in [FEATURES] + [HIDDEN] * (LAYERS - 2):
        layers += [nn.Linear(n_in, HIDDEN), ShiftedSoftplus()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, n_out))


class Interaction(nn.Module):
    """x_i <- f2out(sum_j in2f(x_j) * filter(d_ij) * cutoff(d_ij))."""

    def __init__(self) -> None:
        super().__init__()
        self.in2f = nn.Linear(FEATURES, FEATURES, bias=False)
        self.filter = nn.Sequential(nn.Linear(GAUSSIANS, FEATURES), ShiftedSoftplus(), nn.Linear(FEATURES, FEATURES))
        self.f2out = nn.Sequential(nn.Linear(FEATURES, FEATURES), ShiftedSoftplus(), nn.Linear(FEATURES, FEATURES))

    def forward(self, x: Tensor, gaussians: Tensor, cutoff: Tensor, idx_i: Tensor, idx_j: Tensor) -> Tensor:
        """(N, 128) features and (E, 25) Gaussians give (N, 128)."""
        y = self.in2f(x)
        messages = y[idx_j] * (self.filter(gaussians) * cutoff[:, None])
        out: Tensor = self.f2out(torch.zeros_like(y).index_add(0, idx_i, messages))
        return out


class PublishedGSchNet(nn.Module):
    """SchNet with the two heads of G-SchNet, default sizes; 1,170,768 parameters with five types of atoms.

    Parameters, each weight (out, in) as in ``nn.Linear``:

    =====================================  ============================================================
    ``embedding.weight``                   (130, 128), by type of node
    ``interactions.K.in2f.weight``         (128, 128), K = 0..8
    ``interactions.K.filter.{0,2}.*``      (128, 25), (128, 128), with biases
    ``interactions.K.f2out.{0,2}.*``       (128, 128), (128, 128), with biases
    ``type_net.{0,2,4,6,8}.*``             (256, 128), 3 x (256, 256), (n_types + 1, 256); the last output is stop
    ``next_type_embedding.weight``         (130, 128), by type of the new atom
    ``distance_net.{0,2,4,6,8}.*``         (256, 128), 3 x (256, 256), (202, 256)
    =====================================  ============================================================
    """

    offsets: Tensor
    centres: Tensor
    classes: Tensor

    def __init__(self, atom_types: Sequence[int] = ATOM_TYPES, average_type_distributions: bool = False) -> None:
        super().__init__()
        self.atom_types, self.average_type_distributions = tuple(atom_types), average_type_distributions
        self.embedding = nn.Embedding(MAX_Z, FEATURES, padding_idx=0)
        self.interactions = nn.ModuleList(Interaction() for _ in range(INTERACTIONS))
        self.type_net = head(len(self.atom_types) + 1)
        self.next_type_embedding = nn.Embedding(MAX_Z, FEATURES)
        self.distance_net = head(BINS)
        self.register_buffer("offsets", torch.linspace(0.0, MODEL_CUTOFF, GAUSSIANS))
        self.register_buffer("centres", torch.linspace(0.0, MAX_DISTANCE, BINS))
        self.register_buffer("classes", torch.full((STOP + 1,), -1))  # the output of each atomic number
        self.classes[[*self.atom_types, STOP]] = torch.arange(len(self.atom_types) + 1)
        for layer in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        count = sum(parameter.numel() for parameter in self.parameters())
        assert count == PARAMETERS + (len(self.atom_types) - 5) * (HIDDEN + 1), count

    def features(self, batch: Batch) -> Tensor:
        """(N, 128) of all nodes."""
        idx_i, idx_j, positions = batch["idx_i"], batch["idx_j"], batch["positions"]
        distances = (positions[idx_j] - positions[idx_i]).norm(dim=-1)
        gaussians = torch.exp(-0.5 * ((distances[:, None] - self.offsets) / GAUSSIAN_WIDTH) ** 2)
        cutoff = 0.5 * (torch.cos(distances * math.pi / MODEL_CUTOFF) + 1.0) * (distances < MODEL_CUTOFF)
        x: Tensor = self.embedding(batch["types"])
        for interaction in self.interactions:
            x = x + interaction(x, gaussians, cutoff, idx_i, idx_j)
        return x

    def type_log_probs(self, x: Tensor, row_step: Tensor, n_steps: int) -> Tensor:
        """(S, n_types + 1) from the features (R, 128) of prediction rows: product of experts, or their average."""
        each = functional.log_softmax(self.type_net(x), -1)
        empty = each.new_zeros(n_steps, each.shape[1])
        if self.average_type_distributions:
            count = each.new_zeros(n_steps).index_add(0, row_step, each.new_ones(len(each)))
            return (empty.index_add(0, row_step, each.exp()) / count[:, None]).log()
        return functional.log_softmax(empty.index_add(0, row_step, each), -1)

    def distance_log_probs(self, x: Tensor, next_type: Tensor) -> Tensor:
        """(D, 202) from features (D, 128) and, for each row, the atomic number (D,) of the new atom."""
        return functional.log_softmax(self.distance_net(x * self.next_type_embedding(next_type)), -1)

    def smeared(self, distances: Tensor) -> Tensor:
        """(D, 202) target distributions: Gaussians about the distances, normalised."""
        clamped = distances.clamp(0.0, MAX_DISTANCE)
        weights = torch.exp(-((clamped[:, None] - self.centres) ** 2) / (0.1 * BIN_WIDTH))
        return weights / weights.sum(-1, keepdim=True)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of types (mean over steps) and of distances (mean over rows); their sum is what is trained."""
        next_type, row_step = batch["next_type"], batch["row_step"]
        x = self.features(batch)[batch["rows"]]
        types = self.type_log_probs(x, row_step, len(next_type))
        type_loss = functional.nll_loss(types, self.classes[next_type])
        row_type = next_type[row_step]
        placing = row_type != STOP
        if not placing.any():
            return type_loss, type_loss.new_zeros(())
        log_probs = self.distance_log_probs(x[placing], row_type[placing])
        return type_loss, functional.kl_div(log_probs, self.smeared(batch["distances"]), reduction="batchmean")


def grid_points(spacing: float = GRID_SPACING, dtype: torch.dtype = torch.float32) -> Tensor:
    """(G, 3) points of a cubic grid about the focus with 0.7 <= r <= 1.7 Å: 153,058 at 0.05 Å, 19,114 at 0.1 Å."""
    half = math.floor(PLACEMENT_CUTOFF / spacing + 1e-6)
    points = torch.cartesian_prod(*[torch.arange(-half, half + 1, dtype=torch.float64) * spacing] * 3)
    radii = points.norm(dim=-1)
    return points[(radii >= GRID_MIN - 1e-6) & (radii <= PLACEMENT_CUTOFF + 1e-6)].to(dtype)


def grid_sums(log_probs: Tensor, places: Tensor, owner: Tensor, n: int, grid: Tensor, grid_batch_size: int) -> Tensor:
    """(n, G) sums over the rows of each molecule of the log-probability of the bin nearest to the distance to a point.

    ``log_probs: (R, 202)``, ``places: (R, 3)`` relative to the focus, ``owner: (R,)``; rows in chunks (0: all at once).
    """
    sums = log_probs.new_zeros(n, len(grid))
    size = grid_batch_size or len(places)
    for start in range(0, len(places), size):
        chunk = slice(start, start + size)
        distances = (places[chunk, None] - grid).pow_(2).sum(-1).sqrt_()
        bins = (distances / BIN_WIDTH + 0.5).long().clamp_(0, BINS - 1)
        sums.index_add_(0, owner[chunk], log_probs[chunk].gather(1, bins))
    return sums


def tempered(sums: Tensor, temperature: float) -> Tensor:
    """Normalised, divided by the temperature, normalised again."""
    return functional.log_softmax(functional.log_softmax(sums, -1) / temperature, -1)


def full_grid_log_prob(
    log_probs: Tensor, row_positions: Tensor, focus: Tensor, spacing: float = GRID_SPACING,
    temperature: float = TEMPERATURE, grid_batch_size: int = 16,
) -> Tensor:  # fmt: skip
    """(G,) log-probabilities of ``focus + grid_points(spacing)``, all of them, for one molecule: an oracle.

    ``log_probs: (R, 202)`` of the bins of each prediction row, ``row_positions: (R, 3)`` and ``focus: (3,)`` in Å.
    """
    grid = grid_points(spacing, row_positions.dtype)
    owner = torch.zeros(len(log_probs), dtype=torch.long)
    return tempered(grid_sums(log_probs, row_positions - focus, owner, 1, grid, grid_batch_size), temperature)[0]


def partial_graphs(numbers: Tensor, positions: Tensor, focus: Tensor) -> Batch:
    """The graphs of P molecules of i atoms, ``numbers: (P, i)``; ``focus: (P,)``, an atom of each, unused if i = 0."""
    p, i = numbers.shape
    tokens = torch.tensor([FOCUS, ORIGIN]).expand(p, 2)
    places = positions[torch.arange(p), focus] if i else positions.new_zeros(p, 3)
    nodes = torch.cat([places[:, None], positions.new_zeros(p, 1, 3), positions], 1)
    distances = (nodes[:, :, None] - nodes[:, None]).norm(dim=-1)
    edges = distances < MODEL_CUTOFF
    edges[:, 1, 2:] = edges[:, 2:, 1] = True
    edges[:, 0, 1] = edges[:, 1, 0] = True  # the focus token has the neighbours of the focus atom
    edges &= ~torch.eye(i + 2, dtype=torch.bool)
    rows = distances[:, 0] <= PREDICTION_CUTOFF
    rows[:, :2] = True
    molecule, first, second = edges.nonzero(as_tuple=True)
    owner, row = rows.nonzero(as_tuple=True)
    return {
        "types": torch.cat([tokens, numbers], 1).flatten(), "positions": nodes.flatten(0, 1), "row_step": owner,
        "idx_i": molecule * (i + 2) + first, "idx_j": molecule * (i + 2) + second, "rows": owner * (i + 2) + row,
    }  # fmt: skip


def choose(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """One index for each row of log-probabilities."""
    return torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0]


def generate_batch(
    model: PublishedGSchNet, size: int, max_n_atoms: int, grid: Tensor, grid_batch_size: int, generator: torch.Generator
) -> list[Atoms]:
    """The finished ones of ``size`` molecules grown in lockstep: all unfinished ones have the same number of atoms."""
    dtype = model.centres.dtype
    shape, positions = (size, max_n_atoms), torch.zeros(size, max_n_atoms, 3, dtype=dtype)
    numbers, available = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    finished, length = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.long)
    vocabulary = torch.tensor([*model.atom_types, STOP])
    for i in range(max_n_atoms):
        pending, focus, kept = (~finished).nonzero()[:, 0], torch.zeros(size, dtype=torch.long), []
        while len(pending):
            if i:
                focus[pending] = torch.multinomial(available[pending].to(dtype), 1, generator=generator)[:, 0]
            graphs = partial_graphs(numbers[pending, :i], positions[pending, :i], focus[pending])
            x, owner = model.features(graphs)[graphs["rows"]], graphs["row_step"]
            types = vocabulary[choose(model.type_log_probs(x, owner, len(pending)), generator)]
            stopped = types == STOP
            numbers[pending[~stopped], i] = types[~stopped]
            places = graphs["positions"][graphs["rows"]]
            taken = ~stopped[owner]
            kept.append((x[taken], places[taken], pending[owner[taken]]))
            available[pending[stopped], focus[pending[stopped]]] = False
            finished[pending[stopped]] = ~available[pending[stopped]].any(1)
            pending = pending[stopped & ~finished[pending]]
        growing = (~finished).nonzero()[:, 0]
        if not len(growing):
            break
        x, places, molecule = (torch.cat(tensors) for tensors in zip(*kept, strict=True))
        rank = torch.full((size,), -1)
        rank[growing] = torch.arange(len(growing))
        log_probs, owner = model.distance_log_probs(x, numbers[molecule, i]), rank[molecule]
        if i:
            centre = positions[growing, focus[growing]]
            sums = grid_sums(log_probs, places - centre[owner], owner, len(growing), grid, grid_batch_size)
            positions[growing, i] = centre + grid[choose(tempered(sums, TEMPERATURE), generator)]
        else:
            sums = log_probs.new_zeros(len(growing), BINS).index_add(0, owner, log_probs)
            positions[growing, 0, 0] = model.centres[choose(functional.log_softmax(sums, -1), generator)]
        available[growing, i] = True
        length[growing] = i + 1
    return [Atoms(numbers[m, : length[m]].numpy(), positions[m, : length[m]].numpy()) for m in finished.nonzero()[:, 0]]


@torch.no_grad()
def generate(
    model: PublishedGSchNet, n: int, batch_size: int = 16, max_n_atoms: int = 35, grid_spacing: float = GRID_SPACING,
    grid_batch_size: int | None = None, rng: np.random.Generator | None = None,
) -> list[Atoms]:  # fmt: skip
    """Molecules of ``n`` attempts: those that are not finished after ``max_n_atoms`` atoms are left out.

    ``grid_batch_size`` rows of the network meet the grid at a time (None: as many as ``batch_size``, 0: all). A stop at
    the very first step gives a finished molecule without atoms, as in the published code.
    """
    generator = torch.Generator().manual_seed(int((rng or np.random.default_rng()).integers(2**31)))
    chunk = batch_size if grid_batch_size is None else grid_batch_size
    grid, found = grid_points(grid_spacing, model.centres.dtype), list[Atoms]()
    for start in range(0, n, batch_size):
        found += generate_batch(model, min(batch_size, n - start), max_n_atoms, grid, chunk, generator)
    return found


class Scripted(PublishedGSchNet):
    """Untrained, but of a given size: molecules do not stop below 20 atoms, and place no more afterwards."""

    def features(self, batch: Batch) -> Tensor:
        self.full = len(batch["types"]) >= 22 * int((batch["types"] == ORIGIN).sum())
        return super().features(batch)

    def type_log_probs(self, x: Tensor, row_step: Tensor, n_steps: int) -> Tensor:
        log_probs = super().type_log_probs(x, row_step, n_steps)
        log_probs[:, -1] += 1e9 if self.full else -1e9
        return functional.log_softmax(log_probs, -1)


def molecules(count: int = 500) -> list[Atoms]:
    """The first of the reference set if it is there, else ase's G2 set, without what training has to leave out."""
    file = Path(__file__).resolve().parents[2] / "shared" / "reference" / "molecules_train.extxyz.gz"
    found = ase.io.read(file, f":{count}") if file.exists() else [g2[name] for name in g2.names]
    kept = []
    for atoms in (atoms for atoms in found if len(atoms) > 1 and set(atoms.numbers) <= set(ATOM_TYPES)):
        with suppress(ValueError):
            build_trajectory(atoms.positions, atoms.numbers, np.random.default_rng(0), 1)
            kept.append(atoms)
    return kept


def rates(data: Sequence[Atoms], size: int, draw: int, rng: np.random.Generator, seconds: float) -> tuple[float, float]:
    """CPU seconds per molecule of preprocessing, and molecules per CPU second of training with it."""
    model, spent, done = PublishedGSchNet(), np.zeros(2), -1
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.0)
    while spent.sum() < seconds:
        begin = time.process_time()
        chosen = [data[k] for k in rng.integers(0, len(data), size)]
        batch = collate([build_trajectory(atoms.positions, atoms.numbers, rng, draw) for atoms in chosen])
        built = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        torch.stack(model.loss(batch)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        done += 1
        spent += (built - begin, time.process_time() - built) if done else 0.0  # the first one warms up
    return spent[0] / (size * done), size * done / spent.sum()


def main(seconds: float = 8.0) -> None:
    """Print the rates; in brackets those of the published package, measured on another, faster machine."""
    torch.set_num_threads(1)
    data, rng, _ = molecules(), np.random.default_rng(0), torch.manual_seed(0)
    print(f"{len(data)} molecules of {np.mean([len(atoms) for atoms in data]):.1f} atoms, {PARAMETERS:,} parameters")
    for draw, size, built, trained in ((10, 10, "about 9", "18.7"), (0, 5, "13.8-17.5", "4.5-5.1")):
        load, trainings = rates(data, size, draw, rng, seconds)
        print(f"trajectory, draw {draw}: {1000 * load:.1f} ms/molecule ({built})")
        print(f"training, draw {draw}, batch {size}: {trainings:.1f} molecules/cpu-s ({trained})")
    for spacing, chunk, made in ((0.05, 16, "2.0-2.1"), (0.05, 0, "1.2-1.6"), (0.1, 16, "5.5")):
        begin = time.process_time()
        grown = len(generate(Scripted(), 16, 16, 35, spacing, chunk, rng)) / (time.process_time() - begin)
        print(f"generation, spacing {spacing}, grid batch {chunk}: {grown:.2f} molecules/cpu-s ({made})")


if __name__ == "__main__":
    main()
