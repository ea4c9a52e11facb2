"""Growing molecules: every decision recomputed from scratch, its law, refilled canvases, starts, and periodic cells."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor, nn

from megen_gym.agents.gschnet.collate import packed, pairs_of
from megen_gym.agents.gschnet.conditions import Condition, Conditioning
from megen_gym.agents.gschnet.generating import Start, generate
from megen_gym.agents.gschnet.grid import Grid
from megen_gym.agents.gschnet.model import Model
from megen_gym.agents.gschnet.network import GSchNet, Shape
from megen_gym.agents.gschnet.preparing import Connectivity
from megen_gym.agents.gschnet.sampling import Decisions, Drawing, Grower, Growth
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import BoolArray, IntArray

SHAPE = Shape((1, 6, 8), features=8, n_interactions=2, n_rbf=6, head_layers=2, head_hidden=16)
COARSE = Drawing(grid_spacing=0.25, temperature_term=1.0, tolerance=1e-6)
CRYSTAL = replace(SHAPE, atom_types=(29, 47), model_cutoff=5.5, placement_cutoff=3.0, origin=False)


def model_of(shape: Shape = SHAPE, stop: float = 0.0, seed: int = 0, conditioning: Conditioning | None = None) -> Model:
    """An untrained model that likes to stop by so much, and whose distances are far from even."""
    torch.manual_seed(seed)
    network = GSchNet(shape, conditioning).eval().requires_grad_(False)
    for head in (network.type_head, network.distance_head):
        nn.init.normal_(head[-1].bias, std=0.5)  # type: ignore[arg-type]
    network.type_head[-1].bias[-1] += stop  # type: ignore[index,operator]
    return Model(network, Connectivity(), 9, 1.0)


def log_probs(network: GSchNet, growth: Growth, row: int, focus: int) -> tuple[Tensor, Any, Tensor]:
    """What comes next on one canvas, computed as training does: types, rows and canvas."""
    nodes = growth.count[[row]] + 1
    lattices = None if growth.lattices is None else [growth.lattices[row]]
    positions, numbers = growth.positions[[row], : nodes[0]], growth.numbers[[row], : nodes[0]]
    pairs = pairs_of(positions, nodes, network.reach, lattices)
    canvas = packed(positions, numbers, np.zeros(1, int), nodes - 1, np.array([focus]), network.reach, lattices, pairs)
    rows = network.rows(canvas, None if growth.given is None else growth.given[[row]])
    return network.type_log_prob(rows, canvas.seen_canvas, 1)[0], canvas, rows


def recomputed(grower: Grower, growth: Growth, decisions: Decisions, index: int, last: int) -> float:
    """Log-probability of one decision on the canvases before it, without anything that was kept."""
    network, row, focus = grower.network, int(decisions.rows[index]), int(decisions.focus[index])
    types, canvas, rows = log_probs(network, growth, row, focus)
    kind, empty = int(decisions.kind[index]), growth.count[row] == 0
    if empty:
        types = types[:-1].log_softmax(0)
    total = float(types[kind]) - np.log(max(int(growth.open[row].sum()), 1))
    if kind == len(grower.types) or growth.count[row] == last:
        return total
    density = network.density(canvas, rows, torch.zeros(1, dtype=torch.long), torch.tensor([grower.types[kind]]))
    place = torch.from_numpy(decisions.place[index]).float()
    if empty:
        if not network.shape.origin:
            return total
        assert place[1:].tolist() == [0, 0]
        line = density.tables.sum(1).log_softmax(1)[0]
        return total + float(line[round(float(place[0]) / density.bins.width)])
    grid = Grid(grower.drawing.grid_spacing, grower.drawing.grid_distance_min, network.shape.placement_cutoff)
    at = torch.cdist(place[None], grid.voxels.flatten(0, 1)).masked_fill(~grid.inside.flatten(), torch.inf).argmin()
    torch.testing.assert_close(grid.voxels.flatten(0, 1)[at], place)
    return total + float(grid.all_log_prob(density, grower.drawing.temperature_term)[0, at])


def copied(growth: Growth) -> Growth:
    return replace(
        growth,
        **{n: getattr(growth, n).copy() for n in ("positions", "numbers", "count", "open", "log_prob", "failed")},
    )


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Growth, Decisions]]]:
    """Every decision of a generation, each compared with one from scratch."""
    seen: list[tuple[Growth, Decisions]] = []
    decide = Grower.decide

    def checked(self: Grower, growth: Growth, rows: IntArray, allowed: BoolArray | None = None) -> Decisions:
        before = copied(growth)
        made = decide(self, growth, rows, allowed)
        last = growth.numbers.shape[1] - 1
        found = [recomputed(self, before, made, index, last) for index in range(len(rows))]
        np.testing.assert_allclose(made.log_prob, found, atol=2e-4, rtol=1e-4)
        np.testing.assert_allclose(growth.log_prob[rows] - before.log_prob[rows], made.log_prob, atol=1e-9)
        seen.append((before, made))
        return made

    monkeypatch.setattr(Grower, "decide", checked)
    yield seen
    assert seen


def test_each_decision_is_what_the_network_says_from_scratch(watched: list[Any]) -> None:
    conditioning = Conditioning([Condition.of("gap", np.arange(9.0))])
    model = model_of(stop=0.9, conditioning=conditioning)
    values = {"gap": torch.arange(9.0)[:, None]}
    made = generate(model, 9, 5, batch_size=4, drawing=COARSE, seed=3, values=values)
    assert made.attempts == 9
    assert made.failed > 0
    assert len(made.structures) == 9 - made.failed > 3
    assert len({len(atoms) for atoms in made.structures}) > 1
    assert made.decisions == [2 * len(atoms) for atoms in made.structures]
    total = sum(float(decisions.log_prob.sum()) for _, decisions in watched)
    assert sum(made.log_prob) > total  # those that were not finished count as well


def test_periodic_decisions_are_what_the_network_says_from_scratch(watched: list[Any]) -> None:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    del atoms[3]
    model = model_of(CRYSTAL, stop=1.0)
    made = generate(model, 4, 6, batch_size=2, drawing=replace(COARSE, grid_spacing=0.4), start=Start.of(atoms))
    assert made.attempts == 4
    for grown in made.structures:
        assert grown.pbc.all()
        np.testing.assert_allclose(grown.cell[:], atoms.cell[:])
        np.testing.assert_allclose(grown.positions[:3], atoms.positions)
    empty = generate(model, 2, 3, drawing=COARSE, start=Start.of(Atoms(cell=[4.0, 4, 4], pbc=True)))
    for grown in empty.structures:
        np.testing.assert_array_equal(grown.positions[0], 0)


@pytest.mark.parametrize("crystal", [False, True])
def test_filters_that_are_kept_are_those_from_scratch(crystal: bool) -> None:
    model = model_of(CRYSTAL if crystal else SHAPE, stop=-2.0)
    grower = Grower(model.network, COARSE, np.random.default_rng(0))
    lattices = [Lattice(np.diag([3.0, 4.0, 5.0])), Lattice(np.eye(3) * 2.5, (True, True, False))] if crystal else None
    growth, reach = grower.begin(2, 6, None, lattices), model.network.reach
    for turn in range(9):
        if turn == 7:
            grower.clear(growth, np.array([1]))
        grower.decide(growth, np.flatnonzero(growth.unfinished))
        grower.update(growth)
        with torch.no_grad():
            pairs = pairs_of(growth.positions, growth.count + 1, reach, lattices)
            whole = model.network.schnet.tables(pairs)
        for row, n in enumerate(growth.count + 1):
            torch.testing.assert_close(growth.tables[:, row, :, :n, :n], whole[:, row, :, :n, :n], atol=1e-5, rtol=1e-4)
    assert growth.count[0] > 2


def test_focus_and_type_are_drawn_with_their_probabilities() -> None:
    model, size = model_of(), 2000
    grower = Grower(model.network, COARSE, np.random.default_rng(1))
    growth = grower.begin(size, 4)
    water = molecule("H2O")
    grower.put(growth, np.arange(size), water.positions, water.numbers, np.array([True, False, True]))
    before = copied(growth)
    made = grower.decide(growth, np.arange(size))
    shares = {}
    for focus in (1, 3):
        types, _, _ = log_probs(model.network, before, 0, focus)
        shares |= {(focus, kind): float(chance.exp()) / 2 for kind, chance in enumerate(types)}
    counts = [int(((made.focus == focus) & (made.kind == kind)).sum()) for focus, kind in shares]
    assert sum(counts) == size
    expected = np.array(list(shares.values()))
    assert chisquare(counts, size * expected / expected.sum()).pvalue > 1e-3
    stopped = made.kind == 3
    assert not growth.open[stopped, made.focus[stopped]].any()
    assert (growth.count == 3 + ~stopped).all()


def test_only_allowed_elements_are_placed() -> None:
    model = model_of(stop=-3.0)
    grower = Grower(model.network, COARSE, np.random.default_rng(1))
    growth, rows = grower.begin(200, 4), np.arange(200)
    allowed = np.tile([False, True, True], (200, 1))
    first = grower.decide(growth, rows, allowed)
    assert set(first.kind) == {1, 2}
    before = copied(growth)
    second = grower.decide(growth, rows, np.zeros((200, 3), dtype=bool))
    assert set(second.kind) == {3}
    np.testing.assert_array_equal(growth.count, before.count)
    np.testing.assert_allclose(second.log_prob, 0, atol=1e-6)


def test_an_empty_canvas_cannot_stop_and_one_atom_is_a_molecule() -> None:
    made = generate(model_of(stop=1e4), 20, 5, batch_size=7, drawing=COARSE)
    assert [len(atoms) for atoms in made.structures] == [1] * 20
    assert made.decisions == [2] * 20
    assert (made.attempts, made.failed) == (20, 0)
    assert len({atoms.get_chemical_formula() for atoms in made.structures}) > 1
    assert all(atoms.positions[0, 1:].tolist() == [0, 0] for atoms in made.structures)


def test_molecules_that_want_more_atoms_than_allowed_are_failed_attempts() -> None:
    made = generate(model_of(stop=-1e4), 9, 4, batch_size=4, drawing=COARSE)
    assert (made.structures, made.attempts, made.failed) == ([], 9, 9)
    exactly = generate(model_of(stop=1e4), 9, 1, batch_size=4, drawing=COARSE)
    assert exactly.failed == 0


def test_refilled_canvases_follow_the_same_law() -> None:
    """Sizes, elements and failures of many molecules grown four at a time, against all of them side by side."""
    model = model_of(stop=1.0)
    drawing, n = replace(COARSE, grid_spacing=0.5), 900
    few = generate(model, n, 6, batch_size=90, drawing=drawing, seed=1)
    many = generate(model, n, 6, batch_size=n, drawing=drawing, seed=2)
    assert few.attempts == many.attempts == n
    table = []
    for made in (few, many):
        assert made.failed + len(made.structures) == n
        sizes = np.bincount([len(atoms) for atoms in made.structures], minlength=7)[1:5]
        first = np.bincount([atoms.numbers[0] for atoms in made.structures], minlength=9)[[1, 6, 8]]
        table.append([*sizes, *first, made.failed])
    table_ = np.array(table)
    assert (table_.sum(0) > 20).sum() >= 4
    for part in (table_[:, :4], table_[:, 4:]):
        assert chi2_contingency(part[:, part.sum(0) > 0]).pvalue > 1e-3
    means = [np.mean(made.log_prob) for made in (few, many)]
    assert abs(means[0] - means[1]) < 4 * np.std(few.log_prob) * np.sqrt(2 / n)


def test_a_seed_gives_the_same_molecules() -> None:
    model = model_of(stop=0.5)
    first, again, other = (generate(model, 12, 6, batch_size=5, drawing=COARSE, seed=seed) for seed in (4, 4, 5))
    assert first.log_prob == again.log_prob
    assert first.structures == again.structures
    assert first.log_prob != other.log_prob


def test_each_molecule_gets_its_own_condition() -> None:
    class Says(nn.Module):
        """The type that the condition names, or stop."""

        def forward(self, rows: Tensor) -> Tensor:
            return rows[:, 8:12]

    conditioning = Conditioning([Condition.of("v", np.eye(4))])
    model = model_of(conditioning=conditioning)
    model.network.type_head = Says()  # type: ignore[assignment]
    conditioning.each["v"], conditioning.layers = nn.Identity(), nn.ConstantPad1d((0, 124), 0.0)
    which = np.random.default_rng(0).integers(0, 3, 40)
    logits = torch.full((40, 4), -40.0)
    logits[torch.arange(40), torch.from_numpy(which)] = 0.0
    logits[:, 3] = 0.2
    made = generate(model, 40, 60, batch_size=6, drawing=COARSE, values={"v": logits})
    assert made.failed == 0
    assert [set(atoms.numbers) for atoms in made.structures] == [{SHAPE.atom_types[kind]} for kind in which]
    assert max(len(atoms) for atoms in made.structures) > 1


def test_a_substructure_stays_and_its_finished_atoms_get_no_neighbours(watched: list[Any]) -> None:
    ring = molecule("CH3OH")
    start = Start.of(ring, closed=(0, 2, 5))
    made = generate(model_of(stop=1.0), 8, 9, batch_size=3, drawing=COARSE, start=start)
    assert made.structures
    for atoms in made.structures:
        np.testing.assert_array_equal(atoms.numbers[:6], ring.numbers)
        np.testing.assert_allclose(atoms.positions[:6], ring.positions - ring.get_center_of_mass())
    focus = np.concatenate([decisions.focus for _, decisions in watched])
    assert not np.isin(focus, [1, 3, 6]).any()
    assert np.isin(focus, [2, 4, 5]).any()
    for atoms, count in zip(made.structures, made.decisions, strict=True):
        assert count == 3 + 2 * (len(atoms) - 6)
    whole = generate(model_of(), 3, 6, start=Start.of(ring, tuple(range(6))))
    assert [len(atoms) for atoms in whole.structures] == [6] * 3
    assert whole.log_prob == [0.0] * 3
    kept = Start.of(ring, keep_origin=True)
    np.testing.assert_array_equal(kept.positions, ring.positions)


def test_the_likeliest_molecule_does_not_depend_on_the_seed() -> None:
    model = model_of(stop=-1.0)
    found = []
    for seed in (0, 1):
        grower = Grower(model.network, COARSE, np.random.default_rng(seed))
        growth = grower.begin(1, 4)
        kinds = [grower.decide(growth, np.array([0]), deterministic=True).kind[0] for _ in range(3)]
        expected = growth.positions[0, 1, 0]
        found.append((kinds, float(expected)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_molecules": 0}, "n_molecules is 0"),
        ({"max_n_atoms": 0}, "max_n_atoms 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"max_n_atoms": 2, "start": molecule("H2O")}, "the substructure has 3 atoms, max_n_atoms is 2"),
        ({"start": molecule("NH3")}, "contains N, which the model has never seen; it knows H, C, O"),
        ({"start": Atoms("C", cell=[5, 5, 5], pbc=True)}, "periodic, but the model was trained with an origin token"),
    ],
)
def test_what_cannot_be_grown_is_refused(options: dict[str, Any], sentence: str) -> None:
    given = {"n_molecules": 2, "max_n_atoms": 5} | options
    if "start" in given:
        given["start"] = Start.of(given["start"])
    with pytest.raises(InputError, match=sentence):
        generate(model_of(), **given)


def test_finished_atoms_that_are_not_there_are_refused() -> None:
    for index in (3, -1):
        with pytest.raises(InputError, match="of a structure of 3; give indices from 0"):
            Start.of(molecule("H2O"), (index,))


def test_nothing_is_placed_within_the_clearance_of_an_atom_or_its_images() -> None:
    model = model_of(CRYSTAL, stop=1.0)
    start = Start.of(Atoms(cell=[7.0, 7, 7], pbc=True))
    nearest = {}
    for clearance in (0.0, 1.8):
        drawing = replace(COARSE, grid_distance_min=1.8, clearance=clearance)
        made = generate(model, 40, 8, drawing=drawing, start=start, seed=2)
        assert made.structures
        distances = [atoms.get_all_distances(mic=True) + 9 * np.eye(len(atoms)) for atoms in made.structures]
        nearest[clearance] = min(float(each.min()) for each in distances)
    assert nearest[0.0] < 1.5
    assert nearest[1.8] >= 1.8 - 1e-6
