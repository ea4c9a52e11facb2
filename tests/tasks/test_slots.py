"""The physics of the slot tasks and their templates, without shells or rewards."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100
from ase.io import write

from megen_gym.actions import FocalCodec, Placement, Site
from megen_gym.envs.crystals import crystal_slots
from megen_gym.errors import InputError
from megen_gym.prototypes import PROTOTYPES, prototype
from megen_gym.tasks.slots import FocalSlots, FractionalSlots, SlotState, SpeciesSlots
from megen_gym.tasks.template import Template

SHEARED = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]]) @ (4.0 * np.eye(3))


def task_of(**kwargs: object):
    return crystal_slots(**{"reward": "contacts", **kwargs})[0]


def start(task, size: int = 1) -> SlotState:
    return task.initial(np.random.default_rng(0).random((size, task.draws)), np.zeros(size, dtype=int))


def fractional(task: FractionalSlots, *fractions: float, element: int = 1) -> np.ndarray:
    return task.codec.encode(Site(np.array([element]), np.array([fractions])))


def slab() -> Atoms:
    atoms = fcc100("Cu", (2, 2, 3), vacuum=4.0)
    atoms.pbc = (True, True, False)
    atoms.info.clear()
    return atoms


@pytest.mark.parametrize("name", PROTOTYPES)
def test_every_prototype_is_a_template(name: str) -> None:
    atoms = prototype(name)
    template = Template.from_atoms(atoms)
    assert atoms.pbc.all()
    assert 1.5 < template.shortest <= template.widest < 4
    assert template.counts().sum() == len(atoms)


def test_prototypes_take_formulas() -> None:
    assert prototype("perovskite", {"formula": "O3BaTi", "a": 4.0}).get_chemical_formula() == "BaO3Ti"
    assert prototype("l12", {"formula": "AlNi3", "a": 3.57}).symbols.count("Ni") == 3
    assert len(prototype("rocksalt", {"formula": "MgO", "a": 4.2, "cubic": False})) == 2
    np.testing.assert_allclose(prototype("fcc", {"formula": "Al"}).cell.lengths(), 4.05)
    tetragonal = prototype("rutile", {"formula": "SnO2", "a": 4.7, "c": 3.2}).cell.lengths()
    np.testing.assert_allclose(tetragonal, [4.7, 4.7, 3.2])


def test_template_wraps_counts_and_puts_kept_atoms_first() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.translate([20, -7, 3])
    template = Template.from_atoms(atoms, keep=[5, 2])
    assert template.order[:2].tolist() == [5, 2]
    assert sorted(template.order.tolist()) == list(range(8))
    assert template.n_kept == 2
    assert template.counts(free=False).tolist() == [0, 4, 4]
    fractions = template.lattice.fractional(template.positions)
    assert (fractions > -1e-9).all()
    assert (fractions < 1 + 1e-9).all()
    assert template.shortest == pytest.approx(2.82)


def test_fractional_fills_the_slots_in_order() -> None:
    task = task_of(template="l12", min_distance=0)
    template, state = task.template, start(task)
    assert task.action_space.shape == (3,)
    for slot, fractions in enumerate(template.lattice.fractional(template.positions)):
        assert task.element_mask(state)[0].argmax() == template.species[slot]
        state, move = task.transition(state, fractional(task, *fractions))
        assert move.valid
    np.testing.assert_allclose(state.positions[0], template.positions, atol=1e-12)
    np.testing.assert_array_equal(state.species[0], template.species)
    assert task.terminal(state)[0]
    assert state.bag.sum() == 0
    atoms = task.structures(state).to_atoms()[0]
    assert atoms.pbc.all()
    np.testing.assert_array_equal(atoms.cell, np.eye(3) * 3.75)


def test_the_guard_sees_the_nearest_image_and_can_be_switched_off() -> None:
    guarded, open_ = task_of(min_distance=1.0), task_of(min_distance=0, on_refusal="end")
    for task in (guarded, open_):
        state, _ = task.transition(start(task), fractional(task, 0.02, 0.02, 0.02))
        _, move = task.transition(state, fractional(task, 0.98, 0.98, 0.98))
        assert bool(move.refused[0]) is (task is guarded)
        assert bool(move.placed[0]) is (task is open_)
        assert not move.valid[0]


def test_skip_keeps_the_slot() -> None:
    task = task_of(on_refusal="skip")
    state, _ = task.transition(start(task), fractional(task, 0, 0, 0))
    after, move = task.transition(state, fractional(task, 0, 0, 0))
    assert move.refused
    assert (after.site, after.n_atoms, after.steps) == (1, 1, 2)
    assert not task.terminal(after)[0]
    assert task.max_steps == 16


def test_both_takes_elements_from_the_bag_until_it_is_empty() -> None:
    task = task_of(template="l12", free="both", min_distance=0)
    assert task.action_space.shape == (6,)
    state = start(task)
    gold = task.symbols.index("Au")
    state, _ = task.transition(state, fractional(task, 0, 0, 0, element=gold))
    assert state.species[0, 0] == gold
    assert task.element_mask(state)[0].tolist() == [False, True, False]
    state, _ = task.transition(state, fractional(task, 0.5, 0.5, 0, element=gold))
    assert task.symbols[state.species[0, 1]] == "Cu", "the only gold atom is placed, so its score does not count"


def test_focal_is_the_cluster_codec_in_a_cell() -> None:
    task = task_of(template="fcc", action="focal", supercell=(2, 2, 2), distance_range=(2.2, 3.0))
    assert isinstance(task, FocalSlots)
    assert isinstance(task.codec, FocalCodec)
    state = start(task)
    state, move = task.transition(state, np.zeros((1, 6)))
    assert move.placed
    assert np.isclose(state.positions[0, 0], task.template.positions).all(1).any()
    edge = np.array([0.1, 0.1, 0.1])
    state.positions[0, 0] = edge
    choice = Placement(np.array([0]), np.array([1]), np.array([2.5]), np.array([[-1.0, 0, 0]]))
    action = task.codec.encode(choice, state.species > 0, task.element_mask(state))
    state, move = task.transition(state, action)
    assert move.valid
    np.testing.assert_allclose(state.positions[0, 1], [0.1 - 2.5 + 7.22, 0.1, 0.1], atol=1e-9)
    action = task.codec.encode(choice, state.species > 0, task.element_mask(state))
    _, again = task.transition(state, action)
    assert again.refused


def test_first_atoms_of_empty_cells_are_spread_over_their_slots() -> None:
    task = task_of(template="rocksalt", action="focal")
    state, _ = task.transition(start(task, 4000), np.tile([0, 1.0, 0, 0, 0, 0], (4000, 1)))
    kind = state.species[0, 0]
    own = task.template.positions[task.template.species == kind]
    apart = np.linalg.norm(state.positions[:, :1] - own, axis=-1)
    assert np.bincount(apart.argmin(1), minlength=4).min() > 900
    assert apart.min(1).max() < 1e-9


def test_outside_a_free_axis_is_refused_and_across_a_periodic_one_is_not(tmp_path) -> None:
    path = tmp_path / "slab.extxyz"
    write(path, slab())
    task = task_of(template=str(path), action="focal", keep=11, distance_range=(2.0, 5.0), on_refusal="skip")
    state = start(task)
    assert state.n_atoms == 11
    top = int(state.positions[0, :11, 2].argmax())

    def beside(direction: list[float], distance: float):
        choice = Placement(np.array([top]), np.array([1]), np.array([distance]), np.array([direction]))
        return task.codec.encode(choice, state.species > 0, task.element_mask(state))

    assert task.transition(state, beside([0, 0, 1.0], 4.1))[1].refused
    inside, move = task.transition(state, beside([0, 0, 1.0], 2.5))
    assert move.placed
    fractions = task.lattice.fractional(inside.positions[0, 11])
    assert 0 <= fractions[2] <= 1


def test_stop_only_with_an_atom_in_the_cell() -> None:
    task = task_of(action="focal", stop=True)
    state = start(task)
    assert not task.element_mask(state)[0, 0]
    state, _ = task.transition(state, np.zeros((1, 6)))
    assert task.element_mask(state)[0, 0]
    state, move = task.transition(state, np.array([[0, -1.0, 0, 0, 0, 1]]))
    assert move.stopped
    assert task.terminal(state)[0]
    assert state.n_atoms == 1


def test_species_with_a_fixed_composition() -> None:
    task = task_of(template="l12", free="species")
    assert isinstance(task, SpeciesSlots)
    gold, copper = task.symbols.index("Au"), task.symbols.index("Cu")
    state = start(task)
    assert task.observation(state)["next_site"][0].tolist() == [1, 0, 0, 0]
    state, move = task.transition(state, np.array([gold]))
    assert move.valid
    same, refused = task.transition(state, np.array([gold]))
    assert refused.refused
    assert task.terminal(same)[0]
    for _ in range(3):
        state, move = task.transition(state, np.array([copper]))
    np.testing.assert_allclose(state.positions[0], task.template.positions)
    assert task.terminal(state)[0]
    assert not move.refused[0]


def test_vacancies_leave_no_gap_on_the_canvas() -> None:
    task = task_of(template="l12", free="species", composition="free", vacancies=True, elements="Ag")
    assert task.symbols == ("X", "Cu", "Ag", "Au")
    state = start(task)
    assert task.element_mask(state)[0].tolist() == [True, False, True, False]
    moves = []
    for action in (0, 2, 0, 2):
        state, move = task.transition(state, np.array([action]))
        moves.append((bool(move.placed[0]), bool(move.refused[0]), bool(move.stopped[0])))
    assert moves == [(False, False, False), (True, False, False)] * 2
    assert state.species[0].tolist() == [2, 2, 0, 0]
    np.testing.assert_allclose(state.positions[0, :2], task.template.positions[[1, 3]])
    assert task.terminal(state)[0]
    assert task.max_steps == 4


def test_windows_count_images_in_a_sheared_cell(tmp_path) -> None:
    path = tmp_path / "sheared.extxyz"
    write(path, Atoms("Cu2", [[0, 0, 0], [2, 2, 2]], cell=SHEARED, pbc=True))
    task = task_of(template=str(path), min_distance=0.5)
    plain = Template.from_atoms(Atoms("Cu2", [[0, 0, 0], [2, 2, 2]], cell=np.eye(3) * 4, pbc=True))
    assert task.template.shortest == pytest.approx(plain.shortest)
    state, _ = task.transition(start(task), fractional(task, 0, 0, 0))
    near = task.lattice.fractional(np.array([3.9, 0.0, 3.9]))
    _, move = task.transition(state, fractional(task, *(near % 1)))
    assert move.refused


def test_read_gives_back_what_the_observation_shows() -> None:
    for kwargs in ({"keep": 2}, {"free": "species", "composition": "free", "vacancies": True}, {"action": "focal"}):
        task = task_of(**kwargs)
        state = start(task, 3)
        action = np.zeros(3, dtype=int) if task.action_space.shape == () else np.zeros((3, *task.action_space.shape))
        state, _ = task.transition(state, action)
        seen = task.read(task.observation(state))
        for name in ("species", "n_atoms", "site", "bag"):
            np.testing.assert_array_equal(getattr(seen, name), getattr(state, name), err_msg=name)
        np.testing.assert_allclose(seen.positions, state.positions, atol=1e-6)


def test_pure_functions_leave_their_input() -> None:
    task = task_of(free="both", composition="free")
    state = start(task, 3)
    before = {name: value.copy() for name, value in vars(state).items()}
    task.transition(state, np.random.default_rng(1).uniform(-1, 1, (3, 6)))
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(state, name), value)


def test_periodic_axes_by_letters() -> None:
    assert task_of(pbc="TTF").lattice.pbc == (True, True, False)
    assert task_of(pbc="FFF").lattice.pbc == (False, False, False)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"template": "rocksal"}, "did you mean 'rocksalt'"),
        ({"template": "missing.extxyz"}, "missing.extxyz"),
        ({"template": "FOLDER"}, "is a folder; give one structure file"),
        ({"template": "nocell.xyz"}, "no cell vector a and b and c"),
        ({"template": "flat.extxyz"}, "no cell vector c"),
        ({"template": "outside.extxyz"}, "atom 3 of the template lies outside the cell at 1.*axis c"),
        ({"template": "nan.extxyz"}, "NaN"),
        ({"template": "slab.extxyz", "prototype_kwargs": {"a": 4.0}}, "leave them out"),
        ({"prototype_kwargs": {"latice": 4.0}}, "no option 'latice'"),
        ({"prototype_kwargs": {"formula": "Cu2Au", "a": 4}}, "does not fit the prototype"),
        ({"prototype_kwargs": {"formula": "Ni3Al"}}, "give a in Å"),
        ({"template": "rocksalt", "prototype_kwargs": {"formula": "NaCl2", "a": 5}}, "cannot be built"),
        ({"free": "lattice"}, "free is 'lattice'"),
        ({"action": "focale"}, "did you mean 'focal'"),
        ({"free": "species", "action": "focal"}, "leave action out"),
        ({"composition": "free"}, "free='species' or 'both'"),
        ({"composition": "any"}, "composition is 'any'"),
        ({"elements": "Ag"}, "fixed composition"),
        ({"free": "species", "vacancies": True}, "need free='species' and composition='free'"),
        ({"free": "both", "composition": "free", "elements": "Ag,Qq"}, "unknown element 'Qq'"),
        ({"symbols": "X,Cu"}, "Au is not among symbols"),
        ({"keep": [0, 9]}, "indices from 0 to 3"),
        ({"keep": [1, 1]}, "each once"),
        ({"keep": -1}, "indices from 0 to 3"),
        ({"keep": 4}, "at least one slot free"),
        ({"supercell": (2, 0, 1)}, "three positive integers"),
        ({"supercell": 2}, "three positive integers"),
        ({"stop": True}, "belong to action='focal'"),
        ({"on_refusal": "shrug"}, "give 'end' or 'skip'"),
        ({"supercell": "222"}, "supercell is '222'; give three positive integers"),
        ({"supercell": (2, 1.5, 1)}, "three positive integers"),
        ({"pbc": (True, False)}, "pbc is .* three of them"),
        ({"pbc": ["T", "T", "F"]}, "three letters such as 'TTF'"),
        ({"template": None}, "template is None; give the path"),
        ({"windows": "x"}, "windows is 'x'; give pairs"),
        ({"windows": (2.3, 3.1)}, "windows is .*; give pairs"),
        ({"windows": 2.3}, "windows is .*; give pairs"),
        ({"min_distance": "a"}, "min_distance is 'a'; give a distance"),
        ({"min_distance": float("nan")}, "min_distance is nan; give a distance"),
        ({"action": "focal", "max_distance": "a"}, "max_distance is 'a'"),
        ({"action": "focal", "distance_range": (1,)}, "distance_range is .*; give .shortest, longest"),
        ({"action": "focal", "distance_range": (3, 1)}, "distance_range is .3, 1.*0 < shortest < longest"),
        ({"action": "focal", "distance_range": "ab"}, "distance_range is 'ab'"),
        ({"template": "fcc", "prototype_kwargs": {"a": -3}}, "a of the prototype 'fcc' is -3; give a positive"),
        ({"prototype_kwargs": {"a": -3}}, "a of the prototype 'l12' is -3"),
        ({"prototype_kwargs": {"a": "x"}}, "is 'x'; give a positive"),
        ({"prototype_kwargs": {"formula": "Xx"}}, "unknown element 'Xx'"),
        ({"template": "fcc", "prototype_kwargs": {"formula": "Xx"}}, "unknown element 'Xx'"),
        ({"template": "fcc", "prototype_kwargs": {"formula": "C("}}, "cannot be read; write it like Cu"),
        ({"template": "hcp", "reward": "emt"}, "'emt' does not know Mg; give reward='contacts'"),
        ({"reward": "emu"}, "did you mean 'emt'"),
    ],
)
def test_bad_input_gets_one_sentence(kwargs: dict, sentence: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    atoms = slab()
    write("slab.extxyz", atoms)
    write("nocell.xyz", Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]]))
    flat = atoms.copy()
    flat.cell[2] = 0
    write("flat.extxyz", flat)
    outside = atoms.copy()
    outside.positions[3, 2] += outside.cell[2, 2]
    write("outside.extxyz", outside)
    bad = atoms.copy()
    bad.positions[0, 0] = np.nan
    write("nan.extxyz", bad)
    with pytest.raises(InputError, match=sentence) as caught:
        task_of(**kwargs)
    assert "\n" not in str(caught.value)
