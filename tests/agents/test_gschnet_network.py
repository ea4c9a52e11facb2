"""The network against the published one (same weights, same steps), its symmetries, gradients, and periodic images."""

import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.collections import g2
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from megen_gym.agents.gschnet.collate import Reach, collate, draw_steps, packed, pairs_of
from megen_gym.agents.gschnet.conditions import Condition, Conditioning
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.network import GSchNet, Shape
from megen_gym.agents.gschnet.preparing import Connectivity, prepare
from megen_gym.agents.gschnet.steps import Canvas, Steps
from megen_gym.agents.gschnet.trajectories import Trajectories, build
from megen_gym.periodic import Lattice

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
published: Any = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "published_gschnet.py")))
TYPES = (1, 6, 7, 8, 9)
SMALL = Shape(TYPES, features=6, n_interactions=2, n_rbf=5, head_layers=2, head_hidden=7, n_bins=9)


def molecules_of(*names: str) -> Molecules:
    structures = [g2[name] for name in names]
    for index, atoms in enumerate(structures):
        atoms.rattle(0.01, seed=index)
    return Molecules.from_atoms(structures)


def walk_of(molecules: Molecules, seed: int = 0) -> Trajectories:
    return build(prepare(molecules).adjacency, molecules.n_atoms, np.random.default_rng(seed))


def steps_of(
    molecules: Molecules, walk: Trajectories, reach: Reach, draw: int = 0, seed: int = 0, lattices: Any = None
) -> Steps:
    chosen = draw_steps(walk.length, draw, np.random.default_rng(seed))
    steps = collate(molecules.positions, molecules.numbers, molecules.n_atoms, walk, chosen, reach, lattices)
    return steps if lattices is not None else in_double(steps, molecules, walk)


def in_double(steps: Steps, molecules: Molecules, walk: Trajectories) -> Steps:
    """The same steps with distances that were never rounded to single precision."""
    canvas, width = steps.canvas, int(molecules.n_atoms.max())
    order = walk.order[:, :width, None]
    nodes = torch.zeros(len(molecules), width + 1, 3, dtype=torch.float64)
    nodes[:, 1:] = torch.from_numpy(np.take_along_axis(molecules.positions, order, 1))
    assert canvas.pairs is not None
    pairs = canvas.pairs
    molecule, i, j = (pairs.index < len(pairs.distance)).nonzero(as_tuple=True)
    distance = torch.zeros(len(pairs.distance), dtype=torch.float64)
    distance[pairs.index[molecule, i, j]] = (nodes[molecule, i] - nodes[molecule, j]).norm(dim=1)
    node_of = torch.cat([canvas.row_node[canvas.focus_row], canvas.row_node])[canvas.seen_row]
    count = torch.bincount(canvas.row_canvas)
    at = canvas.seen_canvas[steps.target_row]
    new, old = nodes[canvas.molecule[at], count[at]], nodes[canvas.molecule[at], node_of[steps.target_row]]
    target = (new - old).norm(dim=1)
    torch.testing.assert_close(distance.float(), pairs.distance)
    torch.testing.assert_close(target.float(), steps.target, atol=1e-5, rtol=0)
    return replace(steps, canvas=replace(canvas, pairs=replace(pairs, distance=distance)), target=target)


def in_published_names(network: GSchNet, of: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Name of each weight of the published network, and what it is called here; filters of all layers are one matrix
    here, and the second one is transposed."""
    schnet, size = network.schnet, network.shape.features
    filters = schnet.filters
    yield "embedding.weight", of(schnet.embedding.weight)
    yield "next_type_embedding.weight", of(network.next_type.weight)
    for k in range(network.shape.n_interactions):
        name, part = f"interactions.{k}", slice(k * size, (k + 1) * size)
        yield f"{name}.in2f.weight", of(schnet.in2f[k].weight)  # type: ignore[arg-type]
        yield f"{name}.filter.0.weight", of(filters.first.weight)[part]
        yield f"{name}.filter.0.bias", of(filters.first.bias)[part]
        yield f"{name}.filter.2.weight", of(filters.second)[k].T
        yield f"{name}.filter.2.bias", of(filters.bias)[k, 0]
        for layer, values in schnet.f2out[k].named_parameters():
            yield f"{name}.f2out.{layer}", of(values)
    for net, head in (("type_net", network.type_head), ("distance_net", network.distance_head)):
        for layer, values in head.named_parameters():
            yield f"{net}.{layer}", of(values)


def loudened(network: nn.Module) -> nn.Module:
    """In double precision, with offsets that are not zero."""
    for name, parameter in network.double().named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("draw", [0, 7])
def test_losses_and_gradients_are_those_of_the_published_network(
    averaged: bool, draw: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    molecules = molecules_of("C3H9N", "CH3CONH2") if draw else molecules_of("CH3CONH2")
    network = GSchNet(Shape(TYPES, average_type_distributions=averaged))
    loudened(network)
    theirs = published.PublishedGSchNet(average_type_distributions=averaged).double()
    there = dict(in_published_names(network, lambda tensor: tensor.detach().clone()))
    theirs.load_state_dict(there | dict(theirs.named_buffers()))
    assert set(there) == {name for name, _ in theirs.named_parameters()}
    walk = walk_of(molecules, 3)
    steps = steps_of(molecules, walk, network.reach, draw, 5)
    which, step = draw_steps(walk.length, draw, np.random.default_rng(5))
    graphs = []
    for row, atoms in enumerate(molecules.to_atoms()):
        order, length = walk.order[row], walk.length[row]
        focus = [-1, *order[walk.focus[row, 1:length] - 1].tolist()]
        new = np.where(walk.places[row, :length], order[np.minimum(walk.placed[row, :length], length // 2 - 1)], -1)
        drawn = SimpleNamespace(choice=lambda *_, mine=step[which == row], **__: mine)
        there_ = published.build_trajectory.__globals__
        monkeypatch.setitem(there_, "walk", lambda *_, focus=focus, new=new: (focus, new.tolist()))
        graphs.append(published.build_trajectory(atoms.positions, atoms.numbers, drawn, draw))
    expected = theirs.loss(published.collate(graphs, torch.float64))
    found = network.losses(steps)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-9, atol=1e-9)
    sum(found).backward()  # type: ignore[union-attr]
    sum(expected).backward()
    for name, gradient in in_published_names(network, lambda tensor: tensor.grad):  # type: ignore[arg-type,return-value]
        torch.testing.assert_close(gradient, theirs.get_parameter(name).grad, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ((), 1_170_768),
        (("gap", "relative_atomic_energy"), 1_336_272),
        (("composition", "relative_atomic_energy"), 1_358_128),
    ],
)
def test_it_has_the_published_number_of_weights(names: tuple[str, ...], count: int) -> None:
    conditions = []
    for name in names:
        values = np.ones((2, 5)) if name == "composition" else np.arange(2.0)
        options = {"condition_min": 2, "condition_max": 11, "grid_spacing": 2.25} if name == "gap" else None
        conditions.append(Condition.of(name, values, "", TYPES, options))
    network = GSchNet(Shape(TYPES), Conditioning(conditions) if conditions else None)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert network.shape.bins == 202


def losses(network: GSchNet, molecules: Molecules, walk: Trajectories) -> Tensor:
    with torch.no_grad():
        return torch.stack(network.losses(steps_of(molecules, walk, network.reach)))


@pytest.mark.parametrize("smooth", [True, False])
def test_losses_do_not_change_with_rotation_reflection_place_and_order(smooth: bool) -> None:
    network = loudened(GSchNet(replace(SMALL, smooth=smooth, model_cutoff=3.1, prediction_cutoff=2.0, n_bins=60)))
    assert isinstance(network, GSchNet)
    one = g2["CH3CONH2"]
    one.rattle(0.01, seed=1)
    molecules = Molecules.from_atoms([one])
    walk = walk_of(molecules)
    expected = losses(network, molecules, walk)
    assert expected.isfinite().all()
    turned = one.copy()
    turned.positions = -Rotation.random(rng=np.random.default_rng(0)).apply(one.positions) + [3.0, 1.0, -2.0]
    turned = turned[np.random.default_rng(1).permutation(len(one))]
    torch.testing.assert_close(losses(network, Molecules.from_atoms([turned]), walk), expected, rtol=0, atol=1e-10)
    order = np.random.default_rng(2).permutation(len(one))
    other = replace(molecules, positions=molecules.positions[:, order], numbers=molecules.numbers[:, order])
    renamed = replace(walk, order=np.argsort(order)[walk.order])
    torch.testing.assert_close(losses(network, other, renamed), expected, rtol=0, atol=1e-10)
    moved = replace(molecules, positions=molecules.positions + 0.3)
    assert (losses(network, moved, walk) - expected).abs().max() > 1e-4  # the origin token is seen


def test_what_comes_next_does_not_depend_on_the_order_of_placement() -> None:
    network = GSchNet(SMALL).eval()
    molecules, rng = molecules_of("C3H9N"), np.random.default_rng(0)
    positions = np.concatenate([np.zeros((1, 1, 3)), molecules.positions], 1)
    numbers = np.concatenate([[[121]], molecules.numbers], 1)
    found = []
    for order in (np.arange(13), rng.permutation(13)):
        nodes = np.concatenate([[0], order[order < 9] + 1])
        focus = np.flatnonzero(nodes == 3)
        pairs = pairs_of(positions[:, nodes], np.array([10]), network.reach)
        canvas = packed(
            positions[:, nodes], numbers[:, nodes], np.array([0]), np.array([9]), focus, network.reach, None, pairs
        )
        rows = network.rows(canvas, None)
        types = network.type_log_prob(rows, canvas.seen_canvas, 1)
        point = torch.tensor([[[0.9, 0.3, -0.2]]])
        density = network.density(canvas, rows, torch.tensor([0]), torch.tensor([6]))
        found.append(torch.cat([types[0], density.at(point)[0]]))
    torch.testing.assert_close(found[0], found[1])


class Losses(nn.Module):
    def __init__(self, network: GSchNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, steps: Steps) -> Tensor:
        return torch.stack(self.network.losses(steps))


def test_gradients_are_right() -> None:
    network = GSchNet(replace(SMALL, features=3, n_interactions=1, head_hidden=3, n_bins=40))
    whole, molecules = Losses(network), molecules_of("H2O")
    loudened(whole)
    steps = steps_of(molecules, walk_of(molecules), network.reach)
    assert steps.canvas.pairs is not None
    pairs, weights = steps.canvas.pairs, dict(whole.named_parameters())

    def both(distance: Tensor, *values: Tensor) -> Tensor:
        moved = replace(steps, canvas=replace(steps.canvas, pairs=replace(pairs, distance=distance)))
        return torch.func.functional_call(whole, dict(zip(weights, values, strict=True)), (moved,))  # type: ignore[no-any-return]

    inputs = [value.detach().clone().requires_grad_() for value in (pairs.distance, *weights.values())]
    assert torch.autograd.gradcheck(both, inputs, fast_mode=True)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_batch_is_the_mean_of_its_molecules(averaged: bool) -> None:
    network = GSchNet(
        replace(SMALL, average_type_distributions=averaged),
        Conditioning([Condition.of("gap", np.arange(9.0)), Condition.of("v", np.eye(3))]),
    ).double()
    molecules = molecules_of("C3H9N", "HCN", "CH4", "HCN")
    walk = walk_of(molecules)
    values = {"gap": torch.tensor([[1.0], [2.0], [7.0], [5.0]]).double(), "v": torch.randn(4, 3).double()}
    steps = steps_of(molecules, walk, network.reach)
    whole = network.losses(steps, network.embed(values))
    totals = np.zeros(4)
    for row in range(4):
        at = np.array([row])
        one = steps_of(molecules[at], walk[at], network.reach)
        given = network.embed({name: value[at] for name, value in values.items()})
        kind, place = (loss.item() for loss in network.losses(one, given))
        count, rows = one.canvas.n_canvases, network.n_targets(one)
        totals += [kind * count, place * rows, count, rows]
    assert totals[2] == steps.canvas.n_canvases == walk.length.sum()
    assert [loss.item() for loss in whole] == pytest.approx([totals[0] / totals[2], totals[1] / totals[3]], rel=1e-10)
    other = network.losses(steps, network.embed(values | {"gap": values["gap"].flip(0)}))
    for new, old in zip(other, whole, strict=True):
        assert abs((new - old).item()) > 1e-5


def test_random_steps_see_what_they_see_among_all_of_them() -> None:
    network = GSchNet(SMALL).double()
    molecules = molecules_of("C3H9N", "HCN", "CH3CONH2")
    walk = walk_of(molecules)
    every, some = (steps_of(molecules, walk, network.reach, draw, 1) for draw in (0, 4))
    which, step = draw_steps(walk.length, 4, np.random.default_rng(1))
    place = (np.concatenate([[0], np.cumsum(walk.length)[:-1]])[which] + step).tolist()
    whole, part = (
        network.type_log_prob(network.rows(each.canvas, None), each.canvas.seen_canvas, each.canvas.n_canvases)
        for each in (every, some)
    )
    torch.testing.assert_close(part, whole[place])
    torch.testing.assert_close(some.next_number, every.next_number[place])


@pytest.mark.parametrize("width", [0.1, 0.001])
def test_labels_are_distributions_around_the_distance(width: float) -> None:
    network = GSchNet(Shape(TYPES, features=4, n_interactions=1, label_width=width))
    labels = network.labels(torch.tensor([0.0, 1.4999, 3.02, 9.0]))
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    bins = network.shape.distance_bins
    assert labels.argmax(1).tolist() == [0, 45, round(3.02 / bins.width), 201]
    torch.testing.assert_close(bins.index(torch.tensor([0.0, 1.4999, 3.02, 9.0])), labels.argmax(1))
    entropy = torch.special.entr(labels).sum(1)
    assert float(entropy[1]) == pytest.approx(1.62 if width == 0.1 else 0.0, abs=0.01)


def test_steps_that_only_stop_have_no_distance_loss() -> None:
    network = GSchNet(SMALL)
    molecules = molecules_of("HCN")
    walk = walk_of(molecules)
    steps = collate(
        molecules.positions,
        molecules.numbers,
        molecules.n_atoms,
        walk,
        (np.zeros(1, int), np.array([5])),
        network.reach,
    )
    kinds, places = network.losses(steps)
    assert steps.next_number.tolist() == [0]
    assert places.item() == 0
    assert kinds.item() > 0
    (kinds + places).backward()  # type: ignore[no-untyped-call]


def slab(a: float = 3.6, size: int = 1) -> Atoms:
    """A distorted fcc crystal of two elements."""
    atoms = bulk("Cu", "fcc", a=a, cubic=True)
    atoms.numbers[1:3] = 47
    atoms.rattle(0.1, seed=0)
    return atoms * (size, 1, 1)


PERIODIC = Shape((29, 47), features=5, n_interactions=3, n_rbf=7, model_cutoff=5.5, placement_cutoff=3.2, origin=False)


def canvas_of(network: GSchNet, atoms: Atoms, focus: int, lattice: Lattice | None) -> Canvas:
    """One canvas with all atoms."""
    nodes = np.concatenate([atoms.positions[:1], atoms.positions])[None]
    numbers = np.concatenate([[121], atoms.numbers])[None]
    n, lattices = np.array([len(atoms)]), None if lattice is None else [lattice]
    pairs = pairs_of(nodes, n + 1, network.reach, lattices)
    return packed(nodes, numbers, np.array([0]), n, np.array([focus + 1]), network.reach, lattices, pairs)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False)])
def test_a_small_cell_sums_all_images(pbc: tuple[bool, bool, bool]) -> None:
    """Against edge lists of ASE's neighbours, with the focus token as one more atom of the crystal."""
    network = GSchNet(PERIODIC).eval()
    atoms, focus = slab(), 2
    atoms.pbc = pbc
    marked = atoms + Atoms([122], [atoms.positions[focus]])
    i, j, far = neighbor_list("ijd", marked, PERIODIC.model_cutoff)
    schnet = network.schnet
    with torch.no_grad():
        weights = schnet.filters(torch.from_numpy(far.astype(np.float32)))
        x = schnet.embedding(torch.from_numpy(marked.numbers))
        for layer, (into, out) in enumerate(zip(schnet.in2f, schnet.f2out, strict=True)):
            messages = into(x)[j] * weights[:, layer]
            x = x + out(torch.zeros_like(x).index_add(0, torch.from_numpy(i), messages))
        canvas = canvas_of(network, atoms, focus, Lattice(np.asarray(atoms.cell), pbc))
        found = schnet(canvas)
    assert (far < 1e-9).sum() == 2  # the focus and its token
    torch.testing.assert_close(found[2:], x[:-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0], x[-1], atol=1e-4, rtol=1e-4)


def test_a_large_cell_is_no_cell() -> None:
    network = GSchNet(PERIODIC).eval()
    atoms = slab()
    with torch.no_grad():
        free, boxed = (network.rows(canvas_of(network, atoms, 1, box), None) for box in (None, Lattice(40 * np.eye(3))))
    torch.testing.assert_close(free, boxed, atol=1e-6, rtol=1e-5)


def test_losses_do_not_change_when_atoms_are_wrapped() -> None:
    network = GSchNet(PERIODIC).eval()
    atoms = slab()
    lattice = Lattice(np.asarray(atoms.cell))
    near = prepare(Molecules.from_atoms([atoms]), Connectivity(3.2, False)).adjacency
    walk = build(near, np.array([4]), np.random.default_rng(0))
    found = []
    for shift in (np.zeros((4, 3)), np.random.default_rng(1).integers(-2, 3, (4, 3))):
        positions = (atoms.positions + shift @ lattice.cell)[None]
        chosen = draw_steps(walk.length, 0, np.random.default_rng(0))
        steps = collate(positions, atoms.numbers[None], np.array([4]), walk, chosen, network.reach, [lattice])
        found.append(torch.stack(network.losses(steps)))
        assert float(steps.target.max()) < PERIODIC.prediction_cutoff + 3.2
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
