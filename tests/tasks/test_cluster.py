"""The physics of the cluster task, without shells or rewards."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from megen_gym.actions import FocalCodec, Placement
from megen_gym.bags import Bags, formula_counts
from megen_gym.envs.clusters import cluster, gallium, hull_of, load_starts
from megen_gym.errors import InputError
from megen_gym.rules import GALLIUM_WINDOWS, PlacementRules
from megen_gym.tasks.cluster import ClusterTask

SYMBOLS = ("X", "Ga")
X = np.array([1.0, 0, 0])


def make(formula: str = "Ga4", canvas: int = 4, **kwargs: object) -> ClusterTask:
    rules = PlacementRules(2.0, 3.2, GALLIUM_WINDOWS)
    return ClusterTask(SYMBOLS, canvas, Bags.parse(formula, SYMBOLS), FocalCodec(2.3, 3.1), rules, **kwargs)


def start(task: ClusterTask, size: int = 1):
    return task.initial(np.random.default_rng(0).random((size, task.draws)), np.zeros(size, dtype=int))


def move(task: ClusterTask, state, focus: int, distance: float, direction, element: int = 1):
    obs = task.observation(state)
    placement = Placement(
        np.array([focus]), np.array([element]), np.array([distance]), np.array([direction], dtype=float)
    )
    return task.transition(state, task.codec.encode(placement, obs["focus_mask"], obs["element_mask"]))


def test_placements_guards_and_windows() -> None:
    task = make()
    state, first = move(task, start(task), 0, 2.6, X)
    assert first.placed
    assert first.valid
    assert (state.positions[0, 0] == 0).all()
    state, second = move(task, state, 0, 2.6, X)
    np.testing.assert_allclose(state.positions[0, 1], [2.6, 0, 0])
    assert second.valid
    far, chain = move(task, state, 1, 2.6, X)
    assert chain.placed
    assert not chain.valid, "a second neighbour at 5.2 Å breaks the second window"
    same, overlap = move(task, state, 0, 2.6, X)
    assert overlap.refused
    assert not overlap.placed
    assert task.terminal(same)[0]
    np.testing.assert_array_equal(same.positions, state.positions)
    up = np.array([0.5, np.sqrt(0.75), 0])
    third, triangle = move(task, state, 0, 2.6, up)
    assert triangle.valid
    assert not task.terminal(third)[0]
    assert far.n_atoms[0] == 3


def test_bag_empties_and_refills() -> None:
    task = make("Ga2", 6, refills=2)
    state = start(task)
    directions = np.eye(3)
    sizes = []
    for step in range(6):
        state, done = move(task, state, 0, 2.9, directions[(step - 1) % 3] * (1 if step < 4 else -1))
        assert done.placed
        sizes.append(int(state.bag.sum()))
    assert sizes == [1, 2, 1, 2, 1, 0]
    assert task.terminal(state)[0]


def test_stop_action_only_after_the_first_atom() -> None:
    task = make(stop=True)
    state = start(task)
    assert task.observation(state)["element_mask"].tolist() == [[0, 1]]
    state, _ = move(task, state, 0, 2.6, X)
    assert task.observation(state)["element_mask"].tolist() == [[1, 1]]
    state, stopped = move(task, state, 0, 2.6, X, element=0)
    assert stopped.stopped
    assert not stopped.refused
    assert task.terminal(state)[0]
    assert state.n_atoms[0] == 1


def test_nothing_moves_after_the_end() -> None:
    task = make("Ga1", 4)
    state, _ = move(task, start(task), 0, 2.6, X)
    again, after = task.transition(state, np.zeros((1, 6)))
    assert not (after.placed | after.refused | after.stopped)[0]
    np.testing.assert_array_equal(again.positions, state.positions)


def test_skip_goes_on() -> None:
    task = make(on_refusal="skip")
    state, _ = move(task, start(task), 0, 2.6, X)
    state, _ = move(task, state, 0, 2.6, X)
    state, refused = move(task, state, 0, 2.6, X)
    assert refused.refused
    assert not task.terminal(state)[0]
    assert task.max_steps == 16


def test_scaffold_confines() -> None:
    box = [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-3, 3)]
    task = make(scaffold=hull_of(box))
    state, _ = move(task, start(task), 0, 2.6, X)
    assert move(task, state, 0, 2.6, X)[1].refused
    assert move(task, state, 0, 2.6, np.array([0, 0, 1.0]))[1].placed
    with pytest.raises(InputError, match="span no volume"):
        hull_of([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])


def test_several_bags_are_cycled_and_random_bags_follow_the_range() -> None:
    bags = Bags.parse("Ga2, Ga3", SYMBOLS)
    assert bags.draw(np.zeros((4, 0)), np.arange(4))[:, 1].tolist() == [2, 3, 2, 3]
    mixed = Bags.parse("AuCu3", ("X", "Cu", "Au"), (2, 5))
    drawn = mixed.draw(np.random.default_rng(0).random((4000, mixed.draws)), np.zeros(4000, dtype=int))
    sizes = drawn.sum(1)
    assert set(sizes.tolist()) == {2, 3, 4, 5}
    assert np.bincount(sizes)[2:].min() > 900
    assert drawn[:, 1].sum() / drawn.sum() == pytest.approx(0.75, abs=0.02)
    assert (drawn[:, 0] == 0).all()


def test_pure_functions_leave_their_input() -> None:
    task = make()
    state = start(task, 3)
    before = state.positions.copy(), state.bag.copy(), state.over.copy()
    task.transition(state, np.random.default_rng(1).uniform(-1, 1, (3, 6)))
    for array, kept in zip((state.positions, state.bag, state.over), before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"formula": "Ga9", "canvas": 4}, "up to 9 atoms but the canvas holds 4"),
        ({"on_refusal": "shrug"}, "give 'end' or 'skip'"),
    ],
)
def test_refusals(kwargs: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make(**kwargs)


@pytest.mark.parametrize("formula", ["Xx3", "Ga!", "", "Ga0"])
def test_bad_formulas(formula: str) -> None:
    with pytest.raises(InputError, match="formula"):
        formula_counts(formula, SYMBOLS)


def test_gallium_arguments(tmp_path) -> None:
    seed = tmp_path / "seed.xyz"
    cluster_of_five = np.array([[0, 0, 0], [2.7, 0, 0], [1.35, 2.3, 0], [1.35, 0.8, 2.2], [1.35, 0.8, -2.2]])
    write(seed, Atoms("Ga5", cluster_of_five))
    task, _ = gallium(8, start=str(seed), reward="distance")
    state = start(task)
    assert state.n_atoms[0] == 5
    assert state.bag[0].tolist() == [0, 3]
    assert state.n_start[0] == 5
    np.testing.assert_allclose(state.positions[0, :5].mean(0), 0, atol=1e-12)
    for kwargs, sentence in [
        ({"n": 4, "start": str(seed)}, "n=4 cannot be reached"),
        ({"n": 5, "start": str(seed)}, "n=5 cannot be reached"),
        ({"n": 9, "start": str(seed), "grow": 1}, "n=9 cannot be reached"),
        ({"n": 0}, "at least 1"),
        ({"n": None}, "needs n"),
        ({"n": 8, "canvas_size": 6}, "the canvas holds 6"),
        ({"n": 4, "reward": "drat"}, "did you mean 'dart'"),
        ({"n": 4, "symbols": ("X", "Qq")}, "unknown element"),
        ({"n": 4, "distance_range": (3.0, 2.0)}, "shortest < longest"),
    ]:
        with pytest.raises(InputError, match=sentence):
            gallium(**{"reward": "distance", **kwargs})


def test_split_holds_out_every_fifth_of_a_size(tmp_path) -> None:
    path = tmp_path / "dimers.xyz"
    write(path, [Atoms("Ga2", [[0, 0, 0], [2.4 + 0.01 * i, 0, 0]]) for i in range(10)])
    train, held = load_starts(str(path), "train"), load_starts(str(path), "eval")
    assert (len(train), len(held)) == (8, 2)
    spread = {round(float(d), 3) for b in (train, held) for d in np.ptp(b.positions[..., 0], axis=1)}
    assert len(spread) == 10


def test_defaults_of_other_elements() -> None:
    task, _ = cluster("SiO2", reward="distance")
    assert task.symbols == ("X", "O", "Si")
    assert task.canvas_size == 3
    assert 0.9 < task.codec.shortest < 1.4
    assert 2.0 < task.codec.longest < 3.2
