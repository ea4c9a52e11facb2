"""The physics of CrystalWyckoff-v0 without shells: masks that never end in a wall, exact compositions, symmetry."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.neighborlist import neighbor_list

from megen_gym.actions import SiteChoice, WyckoffCodec
from megen_gym.bags import formula_counts
from megen_gym.envs.wyckoff import crystal_wyckoff, load_groups
from megen_gym.errors import InputError
from megen_gym.lattices import cells_of
from megen_gym.structure import StructureBatch
from megen_gym.tasks.base import put
from megen_gym.tasks.contacts import apart
from megen_gym.tasks.reach import Goals, Reach
from megen_gym.tasks.wyckoff import WyckoffState, WyckoffTask
from megen_gym.wyckoff import LETTERS, space_group, wyckoff_table

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING")
ALL = load_groups(list(range(1, 231)))


def task_of(**kwargs: object) -> WyckoffTask:
    task = crystal_wyckoff(**kwargs)[0]
    assert isinstance(task, WyckoffTask)
    return task


def start(task: WyckoffTask, size: int) -> WyckoffState:
    return task.initial(np.random.default_rng(0).random((size, task.draws)), np.arange(size))


def play(task: WyckoffTask, size: int, seed: int = 0) -> WyckoffState:
    """Random actions until all crystals are complete; a state of an episode that goes on always offers a choice."""
    rng, state = np.random.default_rng(seed), start(task, size)
    for _ in range(task.max_steps):
        running = ~task.terminal(state)
        if not running.any():
            break
        choices = task.site_mask(state).any((1, 2)) | state.may_stop | task.lattice_next(state)
        assert choices[running].all(), "a dead end"
        state, move = task.transition(state, rng.uniform(-1, 1, (size, task.codec.size)))
        if task.min_distance == 0:
            assert not move.refused.any(), "what the masks allow is never refused"
    return state


def possible_groups(composition: str, max_atoms: int, n_max: int) -> list[int]:
    symbols = ("X", "A", "B", "C")
    counts = np.array([0, *(int(n) for n in composition)])
    found = []
    for group in ALL:
        try:
            Reach([group], Goals.of_formula(counts, max_atoms), n_max)
        except InputError:
            continue
        found.append(group.number)
    assert symbols
    return found


@pytest.mark.parametrize("lattice", ["first", "last"])
@pytest.mark.parametrize(
    ("units", "n_max"),
    [pytest.param("113", 12, marks=pytest.mark.slow), ("120", 7), pytest.param("235", 20, marks=pytest.mark.slow),
     ("100", 3)],
)  # fmt: skip
def test_every_sequence_inside_the_masks_ends_with_the_exact_composition(lattice: str, units: str, n_max: int) -> None:
    groups = possible_groups(units, 40, n_max)
    assert len(groups) > 100
    formula = "".join(f"{name}{n}" for name, n in zip(("Ba", "Ti", "O"), units, strict=True) if n != "0")
    task = task_of(spacegroup=groups, composition=formula, n_max=n_max, lattice=lattice, min_distance=0)
    state = play(task, 2 * len(groups), seed=int(units))
    assert task.terminal(state).all()
    kinds = np.arange(1, len(task.symbols))
    counts = (task.structures(state).species[:, :, None] == kinds).sum(1)
    ratio = counts / formula_counts(formula, task.symbols)[1:]
    np.testing.assert_array_equal(ratio, np.repeat(ratio[:, :1], len(kinds), axis=1))
    np.testing.assert_array_equal(ratio, np.rint(ratio))
    assert (counts.sum(1) <= 40).all()
    assert len(np.unique(counts.sum(1))) > 1, "the number of formula units is free"
    letters = state.letters
    here = letters >= 0
    assert (here.sum(1) == state.n_sites).all()
    later, earlier = letters[:, 1:], letters[:, :-1]
    assert (later >= earlier)[here[:, 1:]].all(), "letters never descend"
    full = task.reach.full[state.group[:, None], np.maximum(letters, 0)]
    assert (later > earlier)[here[:, 1:] & full[:, :-1]].all(), "a full site is taken once"
    density = np.linalg.det(state.cell) / state.n_atoms
    assert density.min() > 5 * (1 - 1e-4)
    assert density.max() < 60 * (1 + 1e-4)


@pytest.mark.parametrize("n_atoms", [20, None])
def test_sizes_are_exact_for_free_compositions(n_atoms: int | None) -> None:
    task = task_of(spacegroup=[1, 2, 62, 99, 141, 221], elements="C,N", n_atoms=n_atoms, n_max=20, min_distance=0)
    state = play(task, 120)
    assert task.terminal(state).all()
    sizes = task.structures(state).n_atoms
    assert set(sizes) == {20} if n_atoms else len(set(sizes)) > 10
    both = [set(row) >= {1, 2} for row in state.species]
    assert any(both)
    assert not all(both), "no proportion is asked for"


@pytest.mark.parametrize(
    ("number", "counts", "n_max"), [(47, (3, 2), 4), (10, (4, 3), 3), (123, (6, 2), 5), (1, (2, 1), 3)]
)
def test_masks_agree_with_a_search_of_all_lists(number: int, counts: tuple[int, int], n_max: int) -> None:
    """Every list of sites, enumerated: the masks allow a site exactly where some complete list goes on with it."""
    group = space_group(number)
    multiplicity, full = group.multiplicity, ~group.free.any(1)

    @cache
    def completes(low: int, left: int, rest: tuple[int, int]) -> bool:
        return rest == (0, 0) or any(completes(*after) for _, _, after in moves(low, left, rest))

    def moves(low: int, left: int, rest: tuple[int, int]) -> list:
        found = []
        for letter, kind in product(range(low, len(multiplicity)), (0, 1)):
            after = list(rest)
            after[kind] -= int(multiplicity[letter])
            if left and after[kind] >= 0:
                found.append((letter, kind, (letter + int(full[letter]), left - 1, tuple(after))))
        return found

    goals = Goals(np.array([counts]), np.array([-1, 0, 1]))
    reach = Reach([group], goals, n_max)
    frontier, seen = [(0, n_max, counts)], set()
    while frontier:
        state = frontier.pop()
        if state in seen:
            continue
        seen.add(state)
        low, left, rest = state
        placed = np.array([counts]) - np.array([rest])
        mask, stop = reach.masks(np.array([0]), np.array([low]), placed, np.array([left]), np.ones((1, 1), dtype=bool))
        good = [(letter, kind, after) for letter, kind, after in moves(*state) if completes(*after)]
        assert {(letter, kind) for letter, kind in np.argwhere(mask[0])} == {(a, b) for a, b, _ in good}
        assert stop[0] == (rest == (0, 0))
        frontier += [after for _, _, after in good]
    assert len(seen) > 5


@pytest.mark.parametrize("lattice", ["first", pytest.param("last", marks=pytest.mark.slow)])
def test_all_230_groups_give_crystals_with_their_symmetry(lattice: str) -> None:
    numbers = list(range(1, 231))
    task = task_of(
        spacegroup=numbers, elements="Na,Cl,O", n_max=6, max_atoms=100, lattice=lattice,
        volume_range=(15, 60), max_aspect=2.0, angle_range=(60, 120), min_distance=0.3,
    )  # fmt: skip
    rng, state = np.random.default_rng(3), start(task, 230)
    for _ in range(1000):
        refused = np.flatnonzero(state.over)
        state = put(state, refused, task.initial(np.zeros((len(refused), 0)), refused))
        if task.terminal(state).all():
            break
        state, _ = task.transition(state, rng.uniform(-1, 1, (230, task.codec.size)))
    assert task.terminal(state).all()
    for row, number in enumerate(numbers):
        rotations, translations = space_group(number).operations
        count = state.n_atoms[row]
        points, kinds, cell = state.fractions[row, :count], state.species[row, :count], state.cell[row]
        metric = cell @ cell.T
        np.testing.assert_allclose(
            rotations.transpose(0, 2, 1) @ metric @ rotations, np.tile(metric, (len(rotations), 1, 1)), atol=1e-8
        )
        images = np.einsum("oij,nj->oni", rotations, points) + translations[:, None]
        delta = images[:, :, None] - points
        same = np.abs(delta - np.rint(delta)).max(-1) < 1e-8
        assert (same & (kinds[:, None] == kinds)).any(2).all(), f"an operation of group {number} does not hold"
        found = spglib.get_symmetry((cell, points, kinds), symprec=1e-3)
        assert found is not None
        assert len(found["rotations"]) >= len(rotations), f"spglib sees less than group {number}"


def test_impossible_compositions_are_refused_with_what_would_do() -> None:
    with pytest.raises(InputError, match=r"no set of Wyckoff sites of space group 225 \(Fm-3m\) gives the composition"):
        task_of(spacegroup=225, composition="BaTiO3", max_atoms=15)
    with pytest.raises(InputError, match="give n_max=3 or more"):
        task_of(spacegroup=221, composition="BaTiO3", n_max=2)
    assert task_of(spacegroup=221, composition="BaTiO3", n_max=3)
    with pytest.raises(InputError, match="give a multiple of 5"):
        task_of(composition="BaTiO3", n_atoms=12)
    with pytest.raises(InputError, match="raise max_atoms"):
        task_of(composition="BaTiO3", max_atoms=4)
    with pytest.raises(InputError, match="space group 70"):
        task_of(spacegroup=list(range(1, 231)), composition="BaTiO3")
    with pytest.raises(InputError, match="n_max is 255"):
        task_of(n_max=255)
    with pytest.raises(InputError, match="lower max_atoms"):
        task_of(spacegroup=1, composition="HHeLiBeBC", max_atoms=300)


def test_where_the_lattice_comes_first_its_volume_limits_the_atoms() -> None:
    task = task_of(spacegroup=1, elements="C", n_max=30, max_atoms=30, volume_range=(10, 12), min_distance=0)
    state = start(task, 40)
    state, _ = task.transition(state, np.random.default_rng(0).uniform(-1, 1, (40, task.codec.size)))
    volume = np.linalg.det(state.cell)
    state = play_on(task, state)
    density = volume / state.n_atoms
    assert 10 * (1 - 1e-4) < density.min() <= density.max() < 12 * (1 + 1e-4)
    assert len(set(state.n_atoms)) > 10


def play_on(task: WyckoffTask, state: WyckoffState, seed: int = 1) -> WyckoffState:
    rng = np.random.default_rng(seed)
    while not task.terminal(state).all():
        state, _ = task.transition(state, rng.uniform(-1, 1, (len(state.group), task.codec.size)))
    return state


@pytest.mark.parametrize("lattice", ["first", "last"])
def test_a_known_crystal_is_written_exactly(lattice: str) -> None:
    """Rutile TiO2, from its published sites."""
    task = task_of(spacegroup=136, composition="TiO2", lattice=lattice)
    group, state = space_group(136), start(task, 1)
    sites = [("a", "Ti", (0.0, 0.0, 0.0)), ("f", "O", (0.305, 0.305, 0.0))]
    parameters = np.array([[4.594, 4.594, 2.959, 90, 90, 90]])

    def set_lattice(state: WyckoffState) -> WyckoffState:
        numbers = task.lattice_numbers(state, parameters)
        nothing = np.zeros(1, dtype=int)
        action = task.codec.encode(SiteChoice(nothing, nothing, np.zeros((1, 3)), numbers))
        state, move = task.transition(state, action)
        assert move.valid
        return state

    state = set_lattice(state) if lattice == "first" else state
    for letter, element, place in sites:
        at = np.array([LETTERS.index(letter)])
        choice = SiteChoice(at, np.array([task.symbols.index(element)]), np.array([place]), np.zeros((1, 6)))
        state, move = task.transition(state, task.codec.encode(choice))
        assert move.valid
        assert move.placed == (lattice == "first")
    assert state.may_stop == (lattice == "last"), "in this volume nothing can follow, and the list ends by itself"
    if lattice == "last":
        stop = SiteChoice(np.zeros(1, dtype=int), np.zeros(1, dtype=int), np.zeros((1, 3)), np.zeros((1, 6)))
        state, move = task.transition(state, task.codec.encode(stop))
        assert move.stopped
        assert not move.placed
    state = set_lattice(state) if lattice == "last" else state
    assert task.terminal(state)
    atoms = task.structures(state).to_atoms()[0]
    np.testing.assert_allclose(atoms.cell.cellpar(), parameters[0], rtol=1e-9)
    assert atoms.get_chemical_formula() == "O4Ti2"
    bond = np.hypot(np.sqrt(2) * (0.5 - 0.305) * 4.594, 2.959 / 2)
    assert np.sort(atoms.get_all_distances(mic=True)[0])[1] == pytest.approx(bond, rel=1e-9)
    seen = spglib.get_symmetry_dataset((np.asarray(atoms.cell), atoms.get_scaled_positions(), atoms.numbers))
    assert (seen.number, "".join(seen.wyckoffs)) == (136, "aaffff")
    assert group.formula[5] == "x,x,0"


@pytest.mark.parametrize("lattice", ["first", "last"])
def test_the_observation_holds_the_state(lattice: str) -> None:
    task = task_of(spacegroup=[1, 12, 99, 194, 221], composition="BaTiO3", lattice=lattice, min_distance=0)
    rng, state = np.random.default_rng(5), start(task, 50)
    for _ in range(4):
        seen = task.observation(state)
        for key, space in task.observation_space.spaces.items():
            assert all(space.contains(row) for row in seen[key]), key
        again = task.read(seen)
        running = ~task.terminal(state)
        for name in (
            "group",
            "letters",
            "elements",
            "n_sites",
            "low",
            "counts",
            "open",
            "may_stop",
            "species",
            "n_atoms",
        ):
            np.testing.assert_array_equal(getattr(again, name)[running], getattr(state, name)[running], err_msg=name)
        delta = again.fractions - state.fractions
        assert np.abs(delta - np.rint(delta))[running].max() < 1e-5
        np.testing.assert_allclose(again.cell[running], state.cell[running], rtol=1e-4, atol=1e-4)
        state, _ = task.transition(state, rng.uniform(-1, 1, (50, task.codec.size)))


def test_an_episode_that_is_over_stays_as_it_is() -> None:
    task = task_of(spacegroup=1, composition="C2", n_atoms=2, min_distance=0)
    state = play(task, 3)
    again, move = task.transition(state, np.ones((3, task.codec.size)))
    for name in ("letters", "fractions", "n_atoms", "lattice", "steps", "over", "listed"):
        np.testing.assert_array_equal(getattr(again, name), getattr(state, name))
    assert not (move.placed | move.refused | move.stopped | move.valid).any()


def test_the_guard_refuses_and_skips() -> None:
    action = np.zeros((1, 27 + 2 + 9))
    action[0, 27:29] = -1, 1
    for refusal, over in (("end", True), ("skip", False)):
        task = task_of(spacegroup=1, composition="C8", n_atoms=8, on_refusal=refusal)
        state, _ = task.transition(start(task, 1), np.zeros((1, task.codec.size)))
        state, move = task.transition(state, action)
        assert move.valid
        state, move = task.transition(state, action)
        assert move.refused, "two atoms in one place"
        assert task.terminal(state)[0] == over
        assert state.n_atoms == 1


def test_distances_agree_with_a_neighbour_list() -> None:
    rng = np.random.default_rng(7)
    size, atoms = 25, 4
    parameters = np.concatenate([rng.uniform(1.0, 6, (size, 3)), rng.uniform(45, 135, (size, 3))], 1)
    parameters[np.isnan(cells_of(parameters)).any((1, 2)) | (np.linalg.det(cells_of(parameters)) < 1)] = [
        3,
        3,
        3,
        90,
        90,
        90,
    ]
    cells, fractions = cells_of(parameters), rng.random((size, atoms, 3))
    mask = np.arange(atoms) < rng.integers(1, atoms + 1, size)[:, None]
    own = np.where(mask, np.arange(atoms), -1)
    for distance in (0.9, 1.5):
        good = apart(cells, fractions, own, fractions, mask, distance)
        for row in range(size):
            one = Atoms("H" * mask[row].sum(), scaled_positions=fractions[row, mask[row]], cell=cells[row], pbc=True)
            assert good[row] == (not len(neighbor_list("i", one, distance))), f"row {row} at {distance}"
        assert 0 < good.sum() < size


def test_codec_is_total_and_invertible() -> None:
    rng = np.random.default_rng(0)
    codec, size = WyckoffCodec(27, 4), 50
    mask = rng.random((size, 27, 4)) < 0.1
    mask[:, :, 0] = False
    mask[:5] = False
    stop = rng.random(size) < 0.5
    stop[:5] = False
    wild = rng.normal(size=(size, codec.size)) * 3
    wild[::7, ::3] = np.nan
    choice = codec.decode(wild, mask, stop)
    rows = np.arange(size)
    placed = choice.element > 0
    assert mask[rows, choice.letter, choice.element][placed].all()
    assert (stop | ~mask.any((1, 2)))[~placed].all()
    assert (choice.element[:5] == 0).all()
    assert np.isfinite(choice.coordinates).all()
    again = codec.decode(codec.encode(choice), mask, stop)
    for mine, theirs in zip(choice, again, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)
    torch = pytest.importorskip("torch")
    theirs = codec.decode(torch.tensor(wild), torch.tensor(mask), torch.tensor(stop))
    for mine, other in zip(choice, theirs, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), atol=1e-12)
    np.testing.assert_allclose(codec.encode(choice), codec.encode(theirs).numpy(), atol=1e-12)


def test_before_the_lattice_there_are_no_atoms() -> None:
    task = task_of(lattice="last")
    state, move = task.transition(start(task, 2), np.ones((2, task.codec.size)))
    assert move.valid.all()
    assert not move.placed.any()
    assert (state.n_atoms > 0).all()
    batch = task.structures(state)
    assert isinstance(batch, StructureBatch)
    assert not batch.n_atoms.any()
    assert wyckoff_table().multiplicity[task._position[0]] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lattice": "middle"}, "give 'first' or 'last'"),
        ({"draw": "shuffle"}, "'cycle' or 'random'"),
        ({"on_refusal": "wait"}, "'end' or 'skip'"),
        ({"min_distance": -1.0}, "0 for no guard"),
        ({"spacegroup": 300}, "number from 1 to 230"),
        ({"spacegroup": []}, "at least one"),
        ({"spacegroup": [1, "P1"]}, "named twice"),
        ({"composition": "Ba Ti?"}, "cannot be read"),
        ({"composition": "BaTiO3", "elements": "Ba,Ti"}, "unknown element O"),
        ({"elements": "Xx"}, "unknown element"),
        ({"n_max": 0}, "at least 1"),
        ({"max_atoms": 2.5}, "whole number"),
        ({"volume_range": (10, 5)}, "the smaller first"),
        ({"max_aspect": 0.5}, "aspect above 1"),
        ({"angle_range": (95, 100)}, "both sides of 90"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        task_of(**arguments)
    assert "\n" not in str(error.value)
