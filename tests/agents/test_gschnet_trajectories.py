"""Building orders and the steps made of them: the rules, their statistics, and the published code's graphs."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.collections import g2
from scipy.stats import chisquare

from megen_gym.agents.gschnet.collate import Reach, collate, draw_steps
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.preparing import Connectivity, Prepared, distances, prepare
from megen_gym.agents.gschnet.training import Material, StepMaker
from megen_gym.agents.gschnet.trajectories import Placement, Trajectories, build

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
published: Any = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "published_gschnet.py")))
REACH = Reach(10.0, 5.0)
NAMES = ["C3H9N", "CH4", "HCN", "C6H6", "CH3OH", "H2O", "CH3CONH2"]


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    structures = [g2[name] for name in NAMES]
    for index, atoms in enumerate(structures):
        atoms.rattle(0.03, seed=index)
    return prepare(Molecules.from_atoms(structures))


def walked(prepared: Prepared, seed: int = 0, placement: Placement = "closest_to_origin") -> Trajectories:
    far = distances(prepared.molecules, 20.0)
    return build(prepared.adjacency, prepared.molecules.n_atoms, np.random.default_rng(seed), placement, far)


@pytest.mark.parametrize("placement", ["closest_to_origin", "closest_to_focus", "random"])
@pytest.mark.parametrize("seed", range(5))
def test_every_atom_is_placed_beside_its_focus_and_finished_without_missing_neighbours(
    prepared: Prepared, placement: Placement, seed: int
) -> None:
    walk, far = walked(prepared, seed, placement), distances(prepared.molecules, 20.0)
    for row, n in enumerate(prepared.molecules.n_atoms.tolist()):
        near, order = prepared.adjacency[row], walk.order[row]
        assert walk.length[row] == 2 * n
        assert sorted(order[:n]) == list(range(n))
        assert (order[0], walk.focus[row, 0], walk.placed[row, 0], walk.places[row, 0]) == (0, 0, 0, True)
        closed: list[int] = []
        for step in range(1, 2 * n):
            count, focus = walk.placed[row, step], order[walk.focus[row, step] - 1]
            assert count == walk.places[row, :step].sum()
            assert 1 <= walk.focus[row, step] <= count
            assert focus not in closed
            missing = [atom for atom in np.flatnonzero(near[focus]) if atom not in order[:count]]
            if not walk.places[row, step]:
                assert not missing
                closed.append(focus)
                continue
            assert order[count] in missing
            if placement == "closest_to_origin":
                assert order[count] == min(missing)
            elif placement == "closest_to_focus":
                assert order[count] == min(missing, key=lambda atom: far[row, focus, atom])
        assert sorted(closed) == list(range(n))
        assert not walk.places[row, 2 * n :].any()


def test_the_seed_decides(prepared: Prepared) -> None:
    first, again, other = walked(prepared, 1), walked(prepared, 1), walked(prepared, 2)
    np.testing.assert_array_equal(first.focus, again.focus)
    np.testing.assert_array_equal(first.order, again.order)
    assert (first.focus != other.focus).any()
    np.testing.assert_array_equal(first[np.array([2, 0])].focus, first.focus[[2, 0]])


def test_the_focus_is_any_open_atom_alike() -> None:
    """A chain A-B-C from A: histories have the probabilities of fair choices, worked out by hand."""
    near = np.zeros((20000, 3, 3), dtype=bool)
    near[:, [0, 1, 1, 2], [1, 0, 2, 1]] = True
    walk = build(near, np.full(20000, 3), np.random.default_rng(3))
    assert (walk.focus[:, 1] == 1).all()
    found, count = np.unique(walk.focus[:, 2:], axis=0, return_counts=True)
    expected: dict[tuple[int, ...], float] = {}

    def go(history: tuple[int, ...], placed: int, open_: frozenset[int], chance: float) -> None:
        if not open_:
            expected[history] = chance
        for focus in open_:
            grows = focus == 2 and placed == 2
            left = open_ | {3} if grows else open_ - {focus}
            go((*history, focus), placed + grows, left, chance / len(open_))

    go((), 2, frozenset({1, 2}), 1.0)
    assert sum(expected.values()) == pytest.approx(1)
    assert {tuple(history) for history in found.tolist()} == set(expected)
    assert chisquare(count, [20000 * expected[tuple(history)] for history in found.tolist()]).pvalue > 1e-3


def test_random_placement_takes_each_missing_neighbour_alike() -> None:
    near = np.zeros((6000, 4, 4), dtype=bool)
    near[:, 0, 1:] = near[:, 1:, 0] = True
    far = np.broadcast_to(np.arange(4.0), (6000, 4, 4))
    second = build(near, np.full(6000, 4), np.random.default_rng(0), "random", far).order[:, 1]
    assert chisquare(np.bincount(second, minlength=4)[1:]).pvalue > 1e-3
    with pytest.raises(ValueError, match="distances"):
        build(near, np.full(6000, 4), np.random.default_rng(0), "closest_to_focus")


def test_the_first_atom_may_be_given(prepared: Prepared) -> None:
    start = prepared.molecules.n_atoms - 1
    walk = build(prepared.adjacency, prepared.molecules.n_atoms, np.random.default_rng(0), start=start)
    np.testing.assert_array_equal(walk.order[:, 0], start)
    for row, n in enumerate(prepared.molecules.n_atoms):
        assert sorted(walk.order[row, :n]) == list(range(n))


def test_random_steps_are_drawn_without_replacement_and_evenly() -> None:
    length, rng = np.array([4, 10, 26]), np.random.default_rng(0)
    times = np.zeros((3, 26))
    for _ in range(2000):
        which, step = draw_steps(length, 5, rng)
        assert np.bincount(which).tolist() == [4, 5, 5]
        assert (step < length[which]).all()
        np.add.at(times, (which, step), 1)
    assert times.max() <= 2000  # a step that came twice would be counted twice
    assert times[0, :4].tolist() == [2000] * 4
    for row in (1, 2):
        assert chisquare(times[row, : length[row]]).pvalue > 1e-3
    for all_ in (0, 26, 100):
        np.testing.assert_array_equal(np.bincount(draw_steps(length, all_, rng)[0]), length)


def graph(molecules: Molecules, walk: Trajectories, row: int) -> dict[str, Any]:
    """Nodes, rows, next types and distances of all steps of one molecule, as the published code counts them."""
    molecules, walk = molecules[[row]], walk[np.array([row])]
    steps = collate(
        molecules.positions, molecules.numbers, molecules.n_atoms, walk, draw_steps(walk.length, 0, None), REACH
    )  # type: ignore[arg-type]
    canvas = steps.canvas
    return {
        "nodes": canvas.n_canvases + len(canvas.row_node),
        "rows": np.bincount(canvas.seen_canvas),
        "next": np.where(steps.next_number == 0, published.STOP, steps.next_number),
        "distances": np.sort(steps.target.numpy()),
    }


@pytest.mark.parametrize("name", ["C3H9N", "C6H6", "CH3CONH2"])
def test_steps_are_those_of_the_published_code_for_the_same_walk(
    prepared: Prepared, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = NAMES.index(name)
    walk, one = walked(prepared, 5), prepared.molecules.to_atoms()[row]
    order, length = walk.order[row], walk.length[row]
    focus = [-1, *order[walk.focus[row, 1:length] - 1].tolist()]
    new = np.where(walk.places[row, :length], order[np.minimum(walk.placed[row, :length], length // 2 - 1)], -1)
    monkeypatch.setitem(published.build_trajectory.__globals__, "walk", lambda *_: (focus, new.tolist()))
    theirs = published.build_trajectory(one.positions, one.numbers, np.random.default_rng(0))
    mine = graph(prepared.molecules, walk, row)
    assert mine["nodes"] == len(theirs["types"])
    np.testing.assert_array_equal(mine["rows"], np.bincount(theirs["row_step"]))
    np.testing.assert_array_equal(mine["next"], theirs["next_type"])
    np.testing.assert_allclose(mine["distances"], np.sort(theirs["distances"].numpy()), atol=1e-6)


def test_walks_follow_the_law_of_the_published_code(prepared: Prepared) -> None:
    """Atoms on the canvas and steps that place, over many walks of both."""
    row = NAMES.index("CH3OH")
    n = int(prepared.molecules.n_atoms[row])
    many = build(np.repeat(prepared.adjacency[[row]], 3000, 0), np.full(3000, n), np.random.default_rng(1))
    idx_i, idx_j = (published.torch.from_numpy(index) for index in np.nonzero(prepared.adjacency[row]))
    rng = np.random.default_rng(2)
    theirs = np.array([np.array(published.walk(n, idx_i, idx_j, rng)[1]) >= 0 for _ in range(600)])
    mine = many.places[:, : 2 * n].mean(0)
    error = np.sqrt(np.maximum(mine * (1 - mine), 1e-9) * (1 / 3000 + 1 / 600))
    assert (np.abs(mine - theirs.mean(0)) < 4 * error + 1e-6).all()


def test_noise_moves_the_canvas_but_not_the_new_atom(prepared: Prepared) -> None:
    one = prepared.molecules[[0]]
    walk = walked(prepared)[np.array([0])]
    chosen, rng = draw_steps(walk.length, 0, np.random.default_rng(0)), np.random.default_rng(1)
    noise = 0.1 * rng.standard_normal(one.positions.shape)
    calm, loud = (
        collate(one.positions, one.numbers, one.n_atoms, walk, chosen, REACH, None, displaced)
        for displaced in (None, noise)
    )
    assert (calm.canvas.pairs.distance != loud.canvas.pairs.distance).all()  # type: ignore[union-attr]
    order, focus = walk.order[0], walk.focus[0, chosen[1]]
    places = walk.places[0, chosen[1]] & (focus > 0)
    shift = noise[0, order[focus[places] - 1]]
    np.testing.assert_allclose(calm.new_place.numpy()[places] - shift, loud.new_place.numpy()[places], atol=1e-6)


def test_periodic_neighbours_that_are_closest_to_the_focus_are_images() -> None:
    """Without its images, the atom across the boundary would come last."""
    atoms = bulk("Cu", "sc", a=4.0) * (4, 1, 1)
    atoms.positions[:, 0] = [0.0, 2.4, 6.5, 13.9]
    one = prepare(Molecules.from_atoms([atoms]), Connectivity(5.0, False))
    maker = StepMaker(Material(one.molecules, one.adjacency, {}), Reach(6.0, 5.0, False), 0, "closest_to_focus")
    far, seen = distances(one.molecules, 5.0)[0], 0
    for seed in range(20):
        walk = maker.trajectories(np.random.default_rng(seed))
        for step in np.flatnonzero(walk.places[0])[1:]:
            count, focus = walk.placed[0, step], walk.order[0, walk.focus[0, step] - 1]
            missing = np.setdiff1d(np.flatnonzero(one.adjacency[0, focus]), walk.order[0, :count])
            seen += len(missing) > 1
            assert far[focus, walk.order[0, count]] == far[focus, missing].min()
    assert seen > 10


def test_periodic_steps_start_at_any_atom_and_know_the_shortest_images() -> None:
    crystals = [bulk("NaCl", "rocksalt", a=5.6, cubic=True), bulk("Cu", "fcc", a=3.6, cubic=True)]
    found = prepare(Molecules.from_atoms(crystals), Connectivity(3.0, False))
    maker = StepMaker(Material(found.molecules, found.adjacency, {}), Reach(6.0, 5.0, False), 0)
    first = {int(maker.trajectories(np.random.default_rng(seed)).order[0, 0]) for seed in range(60)}
    assert first == set(range(8))
    steps = maker.steps(maker.trajectories(np.random.default_rng(0)), np.arange(2), np.random.default_rng(0))
    far = steps.new_place[steps.next_number > 0].norm(dim=1)
    assert int((far == 0).sum()) == 2  # the first atoms, at their own place
    assert float(far[far > 0].min()) > 2.5
    assert float(far.max()) < 3.0
