"""PolySRL's networks and losses against slow, plain ones, and what must not change what they say."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn import functional

from megen_gym.agents.polysrl import losses
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.elements import TABLES, check_elements, element_table, network_features
from megen_gym.agents.polysrl.graphs import Graphs, graph_of, graphs_of, neighbours
from megen_gym.agents.polysrl.network import CompositionNetwork, Distribution, Set2Set, Shape
from megen_gym.agents.polysrl.structure_network import GraphBatch, StructureNetwork
from megen_gym.errors import InputError

REFERENCE = Path(os.environ.get("MEGEN_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))
POLYSRL = REFERENCE / "polysrl"
needs_reference = pytest.mark.skipif(not (POLYSRL / "golden.json").exists(), reason="needs the shared reference")
KINDS = ("GCN", "GAT", "GIN")
SAME = ["BaTiO3", "Ba2Ti2O6", "O3TiBa", "Ba0.2Ti0.2O0.6"]


def loud(network: nn.Module) -> Any:
    """In double precision, without parameters that are zero or one by default."""
    network.double().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if "bias" in name or parameter.ndim == 1:
            parameter.copy_(0.3 + 0.4 * torch.rand_like(parameter))
    return network


def small(kind: str, weighting: Any = "fractions", **changes: Any) -> CompositionNetwork:
    network: CompositionNetwork = loud(
        CompositionNetwork(
            Shape(**{"element_features": "magpie", "hidden_dim": 12} | changes, sto_gnns=kind, weighting=weighting)
        )
    )
    return network


def of(network: CompositionNetwork, compositions: Compositions) -> Distribution:
    found: Distribution = network(torch.from_numpy(compositions.numbers), torch.from_numpy(compositions.amounts))
    return found


def close(first: Any, second: Any, atol: float = 1e-12) -> None:
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two, atol=atol, rtol=0)


# --- compositions


@pytest.mark.parametrize("kind", KINDS)
def test_a_composition_is_one_distribution_however_it_is_written(kind: str) -> None:
    found = of(small(kind), Compositions.parse([*SAME, "SrTiO3"]))
    for part in found:
        for row in range(1, len(SAME)):
            torch.testing.assert_close(part[row], part[0], atol=1e-12, rtol=0)
        assert (part[4] - part[0]).abs().max() > 1e-3
    torch.testing.assert_close(found.mean.norm(dim=1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("weighting", ["fractions", "counts"])
@pytest.mark.parametrize("kind", KINDS)
def test_neither_padding_nor_the_order_of_elements_matters(kind: str, weighting: str) -> None:
    network, one = small(kind, weighting), Compositions.parse(["BaTiO3"])
    alone, beside = of(network, one), of(network, Compositions.parse(["BaTiO3", "K2NaAlF6LiCl"]))
    close(alone, (part[:1] for part in beside))
    turned = Compositions(one.numbers[:, [2, 0, 1]], one.amounts[:, [2, 0, 1]])
    close(alone, of(network, turned))
    middle = Compositions(np.insert(one.numbers, 1, 0, 1), np.insert(one.amounts, 1, 0.0, 1))
    close(alone, of(network, middle))


@pytest.mark.parametrize("kind", KINDS)
def test_an_element_that_vanishes_has_no_say(kind: str) -> None:
    network = small(kind)
    without, almost, more = (
        of(network, Compositions(np.array([[8, 22, 56, 79]]), np.array([[3.0, 1.0, 1.0, gold]])))
        for gold in (0.0, 5e-9, 0.5)
    )
    close(without, almost, 1e-6)
    assert (without.mean - more.mean).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_as_published_the_uncertainty_depends_on_the_formula_unit(kind: str) -> None:
    found = of(small(kind, "counts"), Compositions.parse(SAME))
    close((part[0] for part in found), (part[2] for part in found))
    for row in (1, 3):
        assert (found.log_std[row] - found.log_std[0]).abs().max() > 0.1
        assert (found.mean[row] - found.mean[0]).abs().max() > 1e-6


def test_formulas_become_sorted_arrays_and_unique_rows() -> None:
    found = Compositions.parse([*SAME, "Au", "NaCl", "BaTiO3"])
    assert found.numbers[0].tolist() == [8, 22, 56]
    assert found.numbers[4].tolist() == [79, 0, 0]
    first, index = found.unique()
    assert first.tolist() == [0, 4, 5]
    assert index.tolist() == [0, 0, 0, 0, 1, 2, 0]
    np.testing.assert_allclose(found.fractions.sum(1), 1)
    assert found[np.array([4, 0])].formulas() == ["Au1", "O3Ti1Ba1"]


def test_bags_become_the_same_compositions_as_their_formulas() -> None:
    numbers = np.array([56, 8, 22, 11])
    found = Compositions.of_counts(np.array([[1, 3, 1, 0], [0, 0, 0, 4], [0, 1, 0, 2]]), numbers)
    expected = Compositions.parse(["BaTiO3", "Na4", "Na2O"])
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    np.testing.assert_array_equal(found.amounts, expected.amounts)
    for row, counts in ((1, [[1, 0, 0, 0], [0, 0, 0, 0]]), (0, [[2, -1, 0, 0], [1, 0, 0, 0]])):
        with pytest.raises(InputError, match=f"composition {row} has no atoms, or a negative number"):
            Compositions.of_counts(np.array(counts), numbers)


@pytest.mark.parametrize(
    ("formulas", "sentence"),
    [
        ("NaCl", r"formulas are the text 'NaCl'; give a list, such as \['NaCl'\]"),
        ([], "no formulas were given"),
        (["NaCl", "Nacl"], "unknown element 'cl'.*did you mean 'Cl'"),
        ([""], "formula"),
    ],
)
def test_what_is_no_formula_is_refused(formulas: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Compositions.parse(formulas)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_knows_the_usual_elements_as_numbers(name: str) -> None:
    features, table = network_features(name), element_table(name)
    assert features.shape == table.shape
    assert np.isfinite(features).all()
    assert not features[0].any()
    check_elements(np.array([[1, 8, 26], [55, 79, 0]]), name)
    for number in (104, 118, 130):
        with pytest.raises(InputError, match=f"no element features in '{name}'"):
            check_elements(np.array([8, number]), name)
    assert len({tuple(row) for row in features[1:58].round(6)}) == 57


def test_an_unknown_table_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'magpie'"):
        element_table("magpi")


# --- the composition network against a plain one


def plain_read(set2set: Set2Set, x: Tensor) -> Tensor:
    """torch's own LSTM from zeros, twice."""
    size = x.shape[1]
    lstm = nn.LSTM(2 * size, size).double()
    lstm.load_state_dict({f"{name}_l0": value for name, value in set2set.lstm.state_dict().items()})
    state, told = (torch.zeros(1, 1, size).double(),) * 2, torch.zeros(1, 2 * size).double()
    for _ in range(2):
        query, state = lstm(told[None], state)
        attention = torch.softmax(x @ query[0, 0], 0)
        told = torch.cat([query[0, 0], (attention[:, None] * x).sum(0)])[None]
    return told[0].detach()


def plain_layer(layer: Any, kind: str, x: Tensor, elements: float) -> Tensor:
    """Node by node, of nodes that all count the same and stand for so many elements."""
    size, rows = len(x), []
    for i in range(size):
        if kind == "GCN":
            norm = sum(layer.linear(x[j]) / math.sqrt(size * size) for j in range(size))
            rows.append(norm + layer.bias)
        elif kind == "GIN":
            rows.append(layer.mlp(x[i] + sum(x[j] for j in range(size)) * elements / size))
        else:
            y = layer.linear(x)
            score = torch.stack([layer.here(y[i])[0] + layer.there(y[j])[0] for j in range(size)])
            attention = torch.softmax(torch.where(score > 0, score, 0.2 * score), 0)
            rows.append(sum(attention[j] * y[j] for j in range(size)) + layer.bias)
    return torch.stack(rows)


def plain_composition(network: CompositionNetwork, numbers: list[int], counts: list[int]) -> tuple[Tensor, Tensor]:
    """As published; with shares of the atoms, the same where every atom is a node, and the mean instead of the sum."""
    counted, kind = network.shape.weighting == "counts", network.shape.sto_gnns
    nodes = numbers if counted else [z for z, count in zip(numbers, counts, strict=True) for _ in range(count)]
    h = network.enter(network.table[torch.tensor(nodes)])
    elements = len(numbers) if counted else sum(counts) ** 2 / sum(count**2 for count in counts)
    seen = [h]
    for layer in network.layers:
        h = functional.elu(plain_layer(layer, kind, h, elements)) + h
        seen.append(h)
    x = network.join(torch.cat(seen, 1))
    if counted:
        x = x * torch.tensor(counts)[:, None]
    total = x.sum(0) if counted else x.mean(0)
    mean = network.mean_out(plain_read(network.mean_set, x)) + total
    return mean / mean.norm(), network.std_out(plain_read(network.std_set, x)) + total


@pytest.mark.parametrize("weighting", ["counts", "fractions"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_published_composition_network(kind: str, weighting: str) -> None:
    network = small(kind, weighting, sto_layers=2)
    rows = {"ZrSe3": ([34, 40], [3, 1]), "K2NaAlF6": ([9, 11, 13, 19], [6, 1, 1, 2]), "Si2": ([14], [2])}
    found = of(network, Compositions.parse(list(rows)))
    for row, (numbers, counts) in enumerate(rows.values()):
        mean, log_std = plain_composition(network, numbers, counts)
        torch.testing.assert_close(found.mean[row], mean, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(found.log_std[row], log_std, atol=1e-10, rtol=1e-10)


def test_it_is_the_published_composition_network_at_its_published_size() -> None:
    network = loud(CompositionNetwork(Shape(weighting="counts")))
    found = of(network, Compositions.parse(["CaTiO3"]))
    mean, log_std = plain_composition(network, [8, 20, 22], [3, 1, 1])
    torch.testing.assert_close(found.mean[0], mean, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(found.log_std[0], log_std, atol=1e-9, rtol=1e-10)


def test_the_networks_have_the_published_numbers_of_weights() -> None:
    composition = CompositionNetwork(Shape(weighting="counts"))
    structure = StructureNetwork(200, 3, None)
    assert sum(parameter.numel() for parameter in composition.parameters()) == 1_404_400
    assert sum(parameter.numel() for parameter in structure.parameters()) == 1_817_608


@needs_reference
def test_these_numbers_are_those_of_the_published_shapes_without_unused_ones() -> None:
    sizes = json.loads((POLYSRL / "state_sizes.json").read_text())
    for name, unused, expected in (
        ("Sto_Enc(PyG2 names)", ("gnn.bns.", "gnn.lin_ih."), 1_404_400),
        ("Structure", (".node_mlp_1.",), 1_817_608),
    ):
        there = [size for key, size in sizes[name].items() if not any(part in key for part in unused)]
        assert sum(math.prod(size) for size in there) == expected


def test_ours_begins_with_samples_near_their_mean() -> None:
    formulas = Compositions.parse(["NaCl", "BaTiO3", "Fe2O3"])
    numbers, amounts = torch.from_numpy(formulas.numbers), torch.from_numpy(formulas.amounts).float()
    for weighting, low, high in (("fractions", 0.2, 0.8), ("counts", 5.0, 100.0)):
        with torch.no_grad():
            log_std = CompositionNetwork(Shape(weighting=weighting))(numbers, amounts).log_std  # type: ignore[arg-type]
        distance = log_std.exp().square().sum(1).sqrt()
        assert (distance > low).all()
        assert (distance < high).all()


def test_without_its_edges_an_element_hears_itself_alone() -> None:
    network, pair = small("GCN"), Compositions.parse(["NaCl"])
    numbers, amounts = torch.from_numpy(pair.numbers), torch.from_numpy(pair.amounts)
    everything, own = torch.ones(1, 2, 2).double(), torch.eye(2).double()[None]
    close(network(numbers, amounts), network(numbers, amounts, everything))
    weight = own
    x = network.elements(numbers, weight)
    alone = torch.cat([network.elements(numbers[:, [at]], torch.ones(1, 1, 1).double()) for at in (0, 1)], 1)
    torch.testing.assert_close(x, alone)
    assert (network(numbers, amounts, own).mean - network(numbers, amounts).mean).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_composition_network_are_right(kind: str) -> None:
    network = small(kind, hidden_dim=4, sto_layers=1)
    numbers, amounts = (
        torch.tensor([[8, 26, 0], [8, 22, 56]]),
        torch.tensor([[3.0, 2.0, 0.0], [3.0, 1.0, 1.0]]).double(),
    )
    edges = torch.ones(2, 3, 3).double()
    edges[1, 0, 1] = 0
    table = network.table.clone().requires_grad_()

    def heard(values: Tensor) -> tuple[Tensor, Tensor]:
        network.table = values
        first, second = network(numbers, amounts), network(numbers, amounts, edges)
        return first.mean + second.mean, first.log_std + second.log_std

    assert torch.autograd.gradcheck(
        lambda rows: heard(table.detach().index_copy(0, torch.tensor([8, 56]), rows)),
        table[[8, 56]].detach().requires_grad_(),
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sto_gnns": "GCM"}, "sto_gnns is 'GCM'; did you mean 'GCN'"),
        ({"element_features": "cgcn"}, "element_features is 'cgcn'; did you mean 'cgcnn'"),
        ({"weighting": "count"}, "weighting is 'count'; did you mean 'counts'"),
        ({"sto_layers": 0}, "sto_layers is 0; give at least 1"),
        ({"hidden_dim": -1}, "hidden_dim is -1; give at least 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Shape(**options)


# --- graphs


def perovskite() -> Atoms:
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms("BaTiO3", scaled_positions=places, cell=[4.01] * 3, pbc=True)


def distorted() -> Atoms:
    atoms = perovskite()
    atoms.set_cell(atoms.cell[:] + np.array([[0, 0.1, 0.2], [0, 0.3, 0], [0.15, 0, 0.5]]), scale_atoms=True)
    atoms.rattle(0.15, seed=3)
    return atoms


def sparse() -> Atoms:
    """Eight neighbours within 8 Å."""
    return Atoms("NaCl", [[0, 0, 0], [0, 0, 2.5]], cell=[7.9] * 3, pbc=True)


def rutile() -> Atoms:
    return crystal(("Ti", "O"), [(0, 0, 0), (0.3, 0.3, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.95, 90, 90, 90])


CRYSTALS: dict[str, Callable[[], Atoms]] = {
    "perovskite": perovskite,
    "rock salt": lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True),
    "distorted": distorted,
    "sparse": sparse,
    "rutile": rutile,
}


def edges_of(atoms: Atoms) -> tuple[Any, Any, Any, Any]:
    """Centre, neighbour, distance and weight of every edge, by ASE's list of neighbours."""
    i, j, d = neighbor_list("ijd", atoms, 8.0)
    weight = np.zeros(len(i))
    for centre in range(len(atoms)):
        mine = i == centre
        if mine.sum() <= 12:
            weight[mine] = 1
            continue
        last = np.sort(d[mine])[11]
        inside, shell = mine & (d < last - 1e-6), mine & (np.abs(d - last) < 1e-6)
        weight[inside], weight[shell] = 1, (12 - inside.sum()) / shell.sum()
    kept = weight > 0
    return i[kept], j[kept], d[kept], weight[kept]


def plain_structure(network: StructureNetwork, atoms: Atoms) -> Tensor:
    """Every atom and every edge by itself."""
    i, j, d, weight = edges_of(atoms)
    if network.element_features is None:
        x = network.node_encoder(network.node_embedding.repeat(len(atoms), 1))
    else:
        x = network.node_encoder(network.enter(network.table[torch.from_numpy(atoms.numbers)]))
    centres = np.arange(41) * 0.2
    e = network.edge_encoder(torch.from_numpy(np.exp(-((d[:, None] - centres) ** 2) / 0.04)))
    for block in network.blocks:
        first: Any = nn.Linear(3 * x.shape[1], 2 * x.shape[1]).double()
        first.weight.data = torch.cat([block.here.weight, block.there.weight, block.edge.weight], 1)  # type: ignore[union-attr]
        first.bias.data = block.edge.bias.data  # type: ignore[union-attr]
        new = block.edge_out(first(torch.cat([x[i], x[j], e], 1)))  # type: ignore[operator]
        heard = torch.stack(
            [sum((weight[w] * new[w] for w in np.flatnonzero(i == a)), torch.zeros_like(x[0])) for a in range(len(x))]
        )
        x, e = x + block.node(torch.cat([x, heard], 1)), e + new  # type: ignore[operator]
    found = x.sum(0)
    return (found / found.norm()).detach()


def embedded(network: StructureNetwork, *atoms: Atoms) -> Tensor:
    found: Tensor = network(GraphBatch.of(graphs_of(atoms), torch.float64))
    return found


def sharp(table: str | None) -> StructureNetwork:
    """A small network in which much depends on every part."""
    network: StructureNetwork = loud(StructureNetwork(10, 3, table))
    return network


@pytest.mark.parametrize("table", [None, "magpie"])
@pytest.mark.parametrize("name", CRYSTALS)
def test_equivalent_atoms_are_one_node_without_any_error(name: str, table: str | None) -> None:
    network, atoms = sharp(table), CRYSTALS[name]()
    torch.testing.assert_close(embedded(network, atoms)[0], plain_structure(network, atoms), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("name", "nodes", "edges"), [("perovskite", 3, 6), ("rock salt", 2, 4), ("distorted", 5, None)]
)
def test_graphs_are_as_small_as_they_can_be(name: str, nodes: int, edges: int | None) -> None:
    graph = graph_of(CRYSTALS[name]())
    assert graph.nodes.tolist() == [nodes]
    if edges is not None:
        assert graph.edges.tolist() == [edges]
    assert graph.share.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", CRYSTALS)
def test_each_atom_has_twelve_neighbours_or_as_many_as_there_are(name: str) -> None:
    atoms = CRYSTALS[name]()
    centre, other, distance, weight = neighbours(atoms)
    there = np.bincount(neighbor_list("i", atoms, 8.0))
    np.testing.assert_allclose(np.bincount(centre, weight), np.minimum(12, there))
    i, j, d, expected = edges_of(atoms)
    for mine, theirs in ((np.c_[centre, other, distance.round(6), weight], np.c_[i, j, d.round(6), expected]),):
        np.testing.assert_allclose(mine[np.lexsort(mine.T)], theirs[np.lexsort(theirs.T)], atol=1e-5)
    graph = graph_of(atoms)
    np.testing.assert_allclose(np.bincount(graph.centre, graph.count), min(12, there[0]))
    assert graph.share.sum() == pytest.approx(1)


def moved(atoms: Atoms, how: str) -> Atoms:
    atoms = atoms.copy()
    if how == "supercell":
        return atoms.repeat((2, 1, 1))
    if how == "rotation":
        turn = Rotation.random(random_state=1).as_matrix()
        atoms.set_cell(atoms.cell[:] @ turn, scale_atoms=False)
        atoms.positions = atoms.positions @ turn
    elif how == "translation":
        atoms.positions += [0.3, -1.7, 22.2]
        atoms.wrap()
    elif how == "permutation":
        return atoms[np.random.default_rng(0).permutation(len(atoms))]
    elif how == "cell":
        return make_supercell(atoms, [[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    elif how == "mirror":
        atoms.set_cell(-atoms.cell[:], scale_atoms=True)
    return atoms


@pytest.mark.parametrize("how", ["supercell", "rotation", "translation", "permutation", "cell", "mirror"])
def test_a_crystal_is_one_point_however_it_is_written(how: str) -> None:
    network = sharp("magpie")
    first = [make() for make in CRYSTALS.values()]
    found, again = embedded(network, *first), embedded(network, *(moved(atoms, how) for atoms in first))
    torch.testing.assert_close(again, found, atol=1e-8, rtol=0)
    assert torch.pdist(found).min() > 1e-3
    if how == "supercell":
        for atoms in first:
            assert graph_of(moved(atoms, how)).nodes.tolist() == graph_of(atoms).nodes.tolist()


def test_without_features_only_distances_are_seen() -> None:
    blind, seeing = sharp(None), sharp("magpie")
    crystals = [bulk(name, "rocksalt", a=5.0) for name in ("NaCl", "MgO")]
    torch.testing.assert_close(*embedded(blind, *crystals))
    first, second = embedded(seeing, *crystals)
    assert (first - second).abs().max() > 1e-3
    first, second = embedded(blind, crystals[0], bulk("MgO", "rocksalt", a=4.2))
    assert (first - second).abs().max() > 1e-3


def test_graphs_are_joined_and_taken_apart_again() -> None:
    crystals = [make() for make in CRYSTALS.values()]
    whole = graphs_of(crystals)
    assert len(whole) == len(crystals)
    network, rows = sharp("magpie"), np.array([3, 0, 3, 4])
    some, each = whole[rows], Graphs.join([graph_of(crystals[row]) for row in rows])
    for name in ("numbers", "share", "centre", "other", "distance", "count", "nodes", "edges"):
        np.testing.assert_array_equal(getattr(some, name), getattr(each, name))
    assert some.structure.max() == 3
    together, apart = embedded(network, *crystals), torch.cat([embedded(network, atoms) for atoms in crystals])
    torch.testing.assert_close(together, apart, atol=1e-12, rtol=0)
    torch.testing.assert_close(network(GraphBatch.of(some, torch.float64)), together[rows], atol=1e-12, rtol=0)
    none = whole[np.array([], dtype=np.int64)]
    assert len(none) == len(none.numbers) == len(none.centre) == 0


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("Na", cell=[9] * 3, pbc=True),
        Atoms(cell=[5] * 3, pbc=True),
        Atoms("NaCl", [[0, 0, 0], [0, 0, 2]], pbc=True),
    ],
    ids=["alone", "empty", "no cell"],
)
def test_what_is_no_crystal_is_refused(atoms: Atoms) -> None:
    with pytest.raises(InputError):
        graphs_of([atoms])


def test_no_crystals_are_refused() -> None:
    with pytest.raises(InputError, match="no structures were given"):
        graphs_of([])


# --- losses


def slow_contrast(samples: Tensor, structures: Tensor, same: Tensor, scale: Tensor, shift: Tensor) -> tuple[Any, Any]:
    """Pair by pair, as the paper has it."""
    positive = negative = torch.zeros(()).double()
    for i, cloud in enumerate(samples):
        for j, point in enumerate(structures):
            sign = 1 if same[i, j] else -1
            chance = torch.zeros(()).double()
            for sample in cloud:
                s = -scale * torch.sqrt(((sample - point) ** 2).sum() + 1e-6) + shift
                chance = chance + torch.exp(sign * s) / (torch.exp(s) + torch.exp(-s)) / len(cloud)
            if same[i, j]:
                positive = positive - torch.log(chance)
            else:
                negative = negative - torch.log(chance)
    return positive, negative


def contrast_inputs() -> SimpleNamespace:
    """Four compositions with three samples each and five structures."""
    same = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.bool)
    samples, points = torch.randn(4, 3, 6).double(), functional.normalize(torch.randn(5, 6).double(), dim=1)
    scale, shift = torch.tensor(2.5).double(), torch.tensor(3.0).double()
    found = SimpleNamespace(samples=samples, points=points, scale=scale, shift=shift, same=same)
    for name in ("samples", "points", "scale", "shift"):
        getattr(found, name).requires_grad_()
    return found


def test_the_soft_contrast_is_that_of_the_paper() -> None:
    x = contrast_inputs()
    found = losses.soft_contrastive(x.samples, x.points, x.same, x.scale, x.shift, torch.tensor(3.0))
    positive, negative = slow_contrast(x.samples, x.points, x.same, x.scale, x.shift)
    torch.testing.assert_close(found.positive, positive)
    torch.testing.assert_close(found.negative, negative)
    torch.testing.assert_close(found.total, 3 * positive + negative)
    inputs = (x.samples, x.points, x.scale, x.shift)
    expected = torch.autograd.grad(3 * positive + negative, inputs)
    for mine, theirs in zip(torch.autograd.grad(found.total, inputs), expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    exact = torch.cdist(x.samples, x.points[None])
    torch.testing.assert_close(found.distance, torch.sqrt(exact**2 + 1e-6))


def test_gradients_of_the_soft_contrast_are_right() -> None:
    x = contrast_inputs()
    assert torch.autograd.gradcheck(
        lambda *given: losses.soft_contrastive(given[0], given[1], x.same, given[2], given[3], torch.tensor(2.0)).total,
        (x.samples, x.points, x.scale, x.shift),
    )


def test_a_sample_on_its_structure_has_finite_gradients() -> None:
    point = functional.normalize(torch.ones(1, 4), dim=1)
    sample = point[:, None].clone().requires_grad_()
    one = torch.tensor(20.0)
    losses.soft_contrastive(sample, point, torch.ones(1, 1, dtype=torch.bool), one, one, one).total.backward()
    assert torch.isfinite(sample.grad).all()  # type: ignore[arg-type]
    far = losses.soft_contrastive(1e3 * point[:, None], point, torch.ones(1, 1, dtype=torch.bool), one, one, one)
    assert far.total == pytest.approx(20 * 2 * 20 * 998, rel=1e-3)


@needs_reference
@pytest.mark.parametrize(("key", "scale", "shift"), [("loss_c20_d20", 20.0, 20.0), ("loss_c5_d3", 5.0, 3.0)])
def test_losses_are_those_of_the_published_code(key: str, scale: float, shift: float) -> None:
    golden = json.loads((POLYSRL / "golden.json").read_text())
    given, expected = golden["loss_inputs"], golden[key]
    samples, points, log_std = (torch.tensor(given[name]).double() for name in ("samples", "structures", "logsigma"))
    names = np.array(given["formula"])
    same = torch.from_numpy(names[:, None] == names)
    one = torch.tensor(1.0)
    found = losses.soft_contrastive(samples, points, same, torch.tensor(scale), torch.tensor(shift), one)
    assert float(found.positive) == pytest.approx(expected["pos"], rel=1e-6)
    assert float(found.negative) == pytest.approx(expected["neg"], rel=1e-6)
    assert float(found.total) == pytest.approx(expected["no_vib"], rel=1e-6)
    assert float(losses.kl_published(samples, log_std)) == pytest.approx(expected["kl"], rel=1e-6)


def test_the_divergence_from_the_normal_distribution_is_that_of_torch() -> None:
    mean, log_std = torch.randn(2, 5, 7).double()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, log_std.exp()), normal(0.0, 1.0)).sum()
    torch.testing.assert_close(losses.kl_to_normal(Distribution(mean, log_std)), expected)
    assert losses.kl_to_normal(Distribution(torch.zeros(2, 3), torch.zeros(2, 3))) == 0


def test_the_published_divergence_is_of_the_mean_of_the_samples() -> None:
    samples, log_std = torch.randn(3, 4, 2).double(), torch.randn(3, 2).double()
    expected = 0.0
    for n in range(3):
        for axis in range(2):
            middle = sum(float(samples[n, k, axis]) for k in range(4)) / 4
            s = float(log_std[n, axis])
            expected += -0.5 * (1 + s - middle**2 - math.exp(s))
    assert float(losses.kl_published(samples, log_std)) == pytest.approx(expected)


def test_with_one_partner_each_infonce_is_cross_entropy() -> None:
    left, right = functional.normalize(torch.randn(2, 6, 4).double(), dim=-1)
    order = torch.randperm(6)
    same = order[:, None] == torch.arange(6)
    expected = functional.cross_entropy(left @ right.T / 0.2, order)
    torch.testing.assert_close(losses.info_nce(left, right, same, 0.2), expected)


def test_several_partners_share_the_probability() -> None:
    left, right = (
        functional.normalize(torch.randn(3, 4).double(), dim=1),
        functional.normalize(torch.randn(5, 4).double(), dim=1),
    )
    owner = torch.tensor([0, 0, 1, 2, 1])
    chances = torch.softmax(left @ right.T / 0.3, 1)
    own = [sum(chances[row, at] for at in range(5) if owner[at] == row) for row in range(3)]
    expected = -torch.log(torch.stack(own)).mean()
    torch.testing.assert_close(losses.info_nce(left, right, torch.arange(3)[:, None] == owner, 0.3), expected)


def test_uniformity_is_a_mean_over_pairs() -> None:
    points = torch.randn(5, 3).double()
    pairs = [math.exp(-2 * float(((points[i] - points[j]) ** 2).sum())) for i in range(5) for j in range(i)]
    assert float(losses.uniformity(points)) == pytest.approx(math.log(sum(pairs) / len(pairs)))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_samples_have_the_mean_and_deviation_of_the_distribution(scale: float) -> None:
    mean, log_std = torch.randn(2, 3, 2).double()
    samples = losses.draw(Distribution(mean, log_std), 40_000, scale)
    assert samples.shape == (3, 40_000, 2)
    std = log_std.exp() * scale
    assert ((samples.mean(1) - mean).abs() < 5 * std / 200).all()
    torch.testing.assert_close(samples.std(1), std, rtol=0.02, atol=0)
    whitened = ((samples - mean[:, None]) / std[:, None]).transpose(1, 2).reshape(6, -1)
    assert (torch.corrcoef(whitened) - torch.eye(6)).abs().max() < 0.03
