"""Crystals as sites: descriptions of structures, batches, distances and CIF, for all space groups."""

import io
import re

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.io import read
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal as crystal_of

from megen_gym.cif import cif_text, operations_text
from megen_gym.crystals import CrystalBatch, describe
from megen_gym.errors import InputError
from megen_gym.lattices import cells_of, completed, family_of
from megen_gym.wyckoff import LETTERS, space_group, wyckoff_table

pytestmark = pytest.mark.filterwarnings(
    "ignore:Set OLD_ERROR_HANDLING", "ignore:crystal system", "ignore:dict interface"
)
QUICK = {1, 2, 5, 14, 43, 62, 99, 122, 146, 152, 155, 166, 178, 194, 199, 206, 220, 225, 227, 230}
NUMBERS = [number if number in QUICK else pytest.param(number, marks=pytest.mark.slow) for number in range(1, 231)]


def cubic(a: float) -> list[float]:
    return [a, a, a, 90, 90, 90]


def tall(a: float, c: float, gamma: float) -> list[float]:
    return [a, a, c, 90, 90, gamma]


def quartz(number: int) -> Atoms:
    z = 1 / 3 if number == 152 else 2 / 3
    x, y, w = 0.413, 0.266, 0.119 if number == 152 else 0.881
    basis = [(0.470, 0, z), (x, y, z + w - 1 / 3 if number == 152 else z + w - 2 / 3)]
    return crystal_of(["Si", "O"], basis, spacegroup=number, cellpar=[4.916, 4.916, 5.405, 90, 90, 120])


STRUCTURES: dict[str, tuple[Atoms, int, int]] = {
    "rocksalt": (crystal_of(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=cubic(5.64)), 225, 2),
    "zincblende": (bulk("ZnS", "zincblende", a=5.41, cubic=True), 216, 2),
    "diamond": (crystal_of(["C"], [(0, 0, 0)], spacegroup=227, cellpar=cubic(3.57)), 227, 1),
    "perovskite": (
        crystal_of(["Sr", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=cubic(3.9)),
        221, 3,
    ),
    "rutile": (
        crystal_of(["Ti", "O"], [(0, 0, 0), (0.3053, 0.3053, 0)], spacegroup=136, cellpar=tall(4.594, 2.959, 90)),
        136, 2,
    ),
    "wurtzite": (bulk("ZnO", "wurtzite", a=3.25, c=5.2, u=0.382), 186, 2),
    "hcp": (bulk("Mg", "hcp", a=3.21, c=5.21), 194, 1),
    "corundum": (
        crystal_of(["Al", "O"], [(0, 0, 0.352), (0.306, 0, 0.25)], spacegroup=167, cellpar=tall(4.76, 12.99, 120)),
        167, 2,
    ),
    "right quartz": (quartz(152), 152, 2),
    "left quartz": (quartz(154), 154, 2),
    "spinel": (
        crystal_of(
            ["Mg", "Al", "O"], [(0, 0, 0), (0.625, 0.625, 0.625), (0.3873, 0.3873, 0.3873)], spacegroup=227,
            setting=1, cellpar=cubic(8.08),
        ),
        227, 3,
    ),
}  # fmt: skip


def shells(atoms: Atoms, cutoff: float = 5.0) -> np.ndarray:
    """What no rotation, reflection, translation or order changes: element pairs and their distances, per atom."""
    primitive = len(atoms)
    first, second, distance = neighbor_list("ijd", atoms, cutoff)
    keys = np.stack([atoms.numbers[first], atoms.numbers[second], np.round(distance, 3)], 1)
    keys, counts = np.unique(keys, axis=0, return_counts=True)
    return np.concatenate([keys, counts[:, None] / primitive], 1)


def handedness(atoms: Atoms, cutoff: float = 3.5) -> float:
    """Mean of the signed volumes between each atom's three nearest shells of neighbours; its sign turns in a mirror."""
    first, distance, vector = neighbor_list("idD", atoms, cutoff)
    total = 0.0
    for atom in range(len(atoms)):
        v, d = vector[first == atom], distance[first == atom]
        triple = np.einsum("ai,bj,ck,ijk->abc", v, v, v, LEVI)
        weight = d[:, None, None] + 2 * d[:, None] ** 2 * d**3 / 30
        total += float((triple * weight * np.exp(-d[:, None, None] - d[:, None] - d)).sum())
    return total / len(atoms)


LEVI = np.zeros((3, 3, 3))
for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    LEVI[i, j, k], LEVI[k, j, i] = 1, -1


def same_crystal(a: Atoms, b: Atoms) -> None:
    """Both have the same density, composition and distances."""
    assert len(a) * b.cell.volume == pytest.approx(len(b) * a.cell.volume, rel=1e-6)
    mine, theirs = shells(a), shells(b)
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, atol=2e-3)


@pytest.mark.parametrize("name", STRUCTURES)
def test_known_structures(name: str) -> None:
    atoms, group, sites = STRUCTURES[name]
    found = describe(atoms)
    assert found.group.tolist() == [group]
    assert found.n_sites.tolist() == [sites]
    made = found.to_atoms()[0]
    assert made.info["spacegroup"] == group
    same_crystal(atoms, made)
    again = describe(made)
    assert again.group.tolist() == [group]
    np.testing.assert_array_equal(again.letters, found.letters)
    np.testing.assert_array_equal(again.elements, found.elements)
    np.testing.assert_allclose(again.coordinates, found.coordinates, atol=1e-5)
    np.testing.assert_allclose(again.lattice, found.lattice, atol=1e-5)


def turned(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    other = atoms.copy()
    other.rotate(float(rng.uniform(0, 360)), rng.normal(size=3), rotate_cell=True)
    return other


def mixed(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    return atoms[rng.permutation(len(atoms))]


def shifted(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    other = atoms.copy()
    other.translate(rng.normal(size=3) * 7)
    return other


def larger(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    return atoms.repeat(tuple(int(n) for n in rng.permutation([1, 1, 2])))


def skewed(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    return make_supercell(atoms, [[1, 0, 0], [1, 1, 0], [0, -1, 1]])


def left_handed(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell[[1, 0, 2]], pbc=True)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("change", [turned, mixed, shifted, larger, skewed, left_handed])
def test_descriptions_do_not_depend_on_how_a_structure_is_given(name: str, change: object) -> None:
    atoms, group, sites = STRUCTURES[name]
    other = change(atoms, np.random.default_rng(len(name)))  # type: ignore[operator]
    found, plain = describe(other), describe(atoms)
    assert found.group.tolist() == [group]
    assert found.n_sites.tolist() == [sites]
    assert found.n_atoms.tolist() == plain.n_atoms.tolist()
    np.testing.assert_allclose(found.lattice, plain.lattice, atol=1e-4)
    assert sorted(found.elements[0]) == sorted(plain.elements[0])
    same_crystal(atoms, found.to_atoms()[0])


def test_the_hands_of_quartz_are_kept() -> None:
    for name in ("right quartz", "left quartz"):
        atoms = STRUCTURES[name][0]
        hand = handedness(atoms)
        assert abs(hand) > 1e-3
        for other in (atoms, left_handed(atoms, np.random.default_rng(0)), larger(atoms, np.random.default_rng(0))):
            assert handedness(describe(other).to_atoms()[0]) == pytest.approx(hand, rel=1e-3)


def random_crystal(number: int, seed: int = 0, n_sites: int = 3) -> CrystalBatch:
    """A legal list of sites: a general one and the first letters, in a generic cell."""
    rng, group = np.random.default_rng([number, seed]), space_group(number)
    last = len(group.letters)
    letters = sorted({*rng.integers(1, last + 1, n_sites - 1).tolist(), last})
    letters += [last] * (2 if group.multiplicity[-1] <= 16 else 0)  # or few atoms have more symmetry than the group
    index = np.array([letters])
    elements = rng.permutation(np.arange(3, 60))[: len(letters)][None]
    table = wyckoff_table()
    row = group.positions.start + index - 1
    coordinates = table.representative(row, rng.random((1, len(letters), 3))) % 1.0
    generic = np.array([[6.1, 7.3, 8.9, 81.0, 97.0, 104.0]]) + rng.uniform(-0.4, 0.4, (1, 6))
    generic[:, :3] *= max(1.0, (group.multiplicity[index - 1].sum() / 30) ** (1 / 3))
    lattice = completed(generic, family_of(np.array([number])))
    return CrystalBatch(np.array([number]), index, elements, coordinates, lattice)


@pytest.mark.parametrize("number", NUMBERS)
def test_all_groups_are_found_again(number: int) -> None:
    for seed in range(60):  # spglib gives up on some unlucky crystals, and two atoms may be too near
        crystal = random_crystal(number, seed)
        if not crystal.apart(0.3)[0]:
            continue
        try:
            found = describe(crystal.to_atoms()[0], 1e-3)
        except InputError:
            continue
        break
    else:
        raise AssertionError("no crystal of this group can be described")
    assert len(space_group(int(found.group[0])).operations[0]) >= len(space_group(number).operations[0])
    assert found.group[0] == number
    assert found.n_atoms.tolist() == crystal.n_atoms.tolist()
    assert sorted(zip(found.elements[0], found.multiplicity[0], strict=True)) == sorted(
        zip(crystal.elements[0], crystal.multiplicity[0], strict=True)
    )
    volumes = [np.linalg.det(cells_of(one.lattice))[0] for one in (found, crystal)]
    assert volumes[0] == pytest.approx(volumes[1], rel=1e-5)
    place = wyckoff_table().representative(found.position, found.coordinates)
    np.testing.assert_allclose(place - found.coordinates - np.rint(place - found.coordinates), 0, atol=1e-9)
    atoms, made = crystal.to_atoms()[0], found.to_atoms()[0]
    if len(atoms) <= 60:
        np.testing.assert_allclose(*(np.sort(neighbor_list("d", one, 4.0)) for one in (atoms, made)), atol=1e-4)
    again = describe(made, 1e-3)
    assert again.group[0] == number
    assert sorted(again.elements[0]) == sorted(found.elements[0])


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (Atoms("OH2", [(0, 0, 0), (0, 0, 1), (0, 1, 0)]), "OH2|H2O"),
        (Atoms("C", cell=[3, 3, 3], pbc=(True, True, False)), "C is no crystal"),
        (Atoms("C", [(np.nan, 0, 0)], cell=[3, 3, 3], pbc=True), "C is no crystal"),
        (Atoms("C", cell=[3, 3, np.nan], pbc=True), "C is no crystal"),
        (Atoms("C", cell=[3, 3, np.inf], pbc=True), "C is no crystal"),
        (Atoms("C", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True), "C is no crystal"),
        (Atoms(cell=[3, 3, 3], pbc=True), "a structure without atoms is no crystal"),
        (Atoms("C2", [(0, 0, 0), (0, 0, 1e-4)], cell=[3, 3, 3], pbc=True), "look for atoms that lie on one another"),
    ],
)
def test_what_is_no_crystal_is_a_sentence(atoms: Atoms, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        describe(atoms)
    assert "\n" not in str(error.value)


def test_spglib_may_raise_or_return_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import spglib

    if not hasattr(spglib, "error"):
        pytest.skip("this spglib does not raise")
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", False)
    twice = Atoms("Na2", scaled_positions=[(0, 0, 0), (0, 0, 1e-6)], cell=[4, 4, 4], pbc=True)
    with pytest.raises(InputError, match="look for atoms that lie on one another"):
        describe(twice)


def batch() -> CrystalBatch:
    return CrystalBatch.from_atoms([atoms for atoms, _, _ in STRUCTURES.values()])


def test_batches_are_joined_padded_and_taken_apart() -> None:
    whole = batch()
    assert whole.letters.shape == (len(STRUCTURES), 3)
    for row, (atoms, group, sites) in enumerate(STRUCTURES.values()):
        one = whole[row]
        assert len(one) == 1
        assert one.group[0] == group
        assert one.n_sites[0] == sites
        assert not one.letters[0, sites:].any()
        assert not one.coordinates[0, sites:].any()
        same_crystal(atoms, whole.to_atoms()[row])
        assert len(one.names(0).split(",")) == sites
    wide = whole.padded(7)
    assert wide.letters.shape == (len(whole), 7)
    np.testing.assert_array_equal(wide.n_atoms, whole.n_atoms)
    back = wide.padded(3)
    np.testing.assert_array_equal(back.coordinates, whole.coordinates)
    with pytest.raises(InputError, match="give n_max=3"):
        whole.padded(2)
    with pytest.raises(InputError, match="no crystals were given"):
        CrystalBatch.join([])
    assert len(whole[[]]) == 0
    assert len(whole[whole.group == 227]) == 2
    joined = CrystalBatch.join([whole[:2], whole[[3]].padded(9), whole[4:]])
    assert joined.letters.shape[1] == 9
    assert len(joined) == len(whole) - 1


def test_sites_are_sorted_by_letter_element_and_place() -> None:
    rng = np.random.default_rng(0)
    letters = rng.integers(1, 4, (50, 5))
    letters[rng.random((50, 5)) < 0.1] = 27
    elements = rng.integers(1, 3, (50, 5))
    coordinates = rng.integers(0, 2, (50, 5, 3)) / 2
    count = rng.integers(1, 6, 50)
    there = np.arange(5) < count[:, None]
    one = CrystalBatch(
        np.full(50, 47), letters * there, elements * there, coordinates * there[..., None], np.ones((50, 6))
    )
    done = one.ordered()
    np.testing.assert_array_equal(done.n_sites, count)
    for row in range(50):
        plain = [(*a, *b) for a, b in zip(zip(letters[row], elements[row], strict=True), coordinates[row], strict=True)]
        found = zip(done.letters[row], done.elements[row], done.coordinates[row], strict=True)
        assert [(a, b, *c) for a, b, c in found][: count[row]] == sorted(plain[: count[row]])


@pytest.mark.parametrize("distance", [0.3, pytest.param(0.8, marks=pytest.mark.slow), 1.5, 4.0])
def test_apart_is_what_all_images_say(distance: float) -> None:
    crystals = [
        random_crystal(number, 3, 3) for number in (1, 2, 5, 14, 62, 99, 123, 146, 152, 166, 194, 198, 221, 225)
    ]
    crystals += [CrystalBatch(*(getattr(one, name) for name in ("group", "letters", "elements", "coordinates")),
                              one.lattice * np.array([0.3] * 3 + [1] * 3)) for one in crystals[:6]]  # fmt: skip
    whole = CrystalBatch.join(crystals)
    found = whole.apart(distance)
    expected = [not len(neighbor_list("i", atoms, distance)) for atoms in whole.to_atoms()]
    assert found.tolist() == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", NUMBERS)
def test_cif_files_are_read_back(number: int) -> None:
    for seed in range(20):
        crystal = random_crystal(number, seed)
        if crystal.apart(0.3)[0]:
            break
    text = cif_text(crystal)[0]
    atoms, made = crystal.to_atoms()[0], read(io.StringIO(text), format="cif")
    assert isinstance(made, Atoms)
    np.testing.assert_allclose(made.cell.cellpar(), atoms.cell.cellpar(), atol=1e-6)
    assert sorted(made.numbers) == sorted(atoms.numbers)
    delta = made.get_scaled_positions()[:, None] - atoms.get_scaled_positions()
    near = (np.abs(delta - np.rint(delta)) < 1e-5).all(-1) & (made.numbers[:, None] == atoms.numbers)
    assert near.any(0).all()
    assert near.any(1).all()
    found = spglib.get_symmetry_dataset((made.cell[:], made.get_scaled_positions(), made.numbers), 1e-3)
    if found is not None:
        assert len(found.rotations) * len(made) >= len(space_group(number).operations[0]) * len(made)


def test_cif_names_and_formulas() -> None:
    whole = batch()
    texts = cif_text(whole)
    blocks = [re.match(r"data_(\S+)\n_chemical_formula_sum '(.+)'\n", text) for text in texts]
    assert all(blocks)
    assert len({block[1] for block in blocks if block}) == len(whole)
    assert blocks[0] is not None
    assert set(blocks[0][2].split()) == {"Na4", "Cl4"}
    named = cif_text(whole[:2], ["a b", "c"])
    assert named[0].startswith("data_a_b\n")
    assert named[1].startswith("data_c\n")
    for row, text in enumerate(texts):
        sites = text.split("_atom_site_occupancy\n")[1].strip().splitlines()
        assert len(sites) == whole.n_sites[row]
        assert [line.split()[3] for line in sites] == [LETTERS[n - 1] for n in whole.letters[row] if n]


@pytest.mark.parametrize("number", [1, 2, 14, 92, 146, 152, 167, 194, 212, 227, 230])
def test_operations_as_text_are_the_operations(number: int) -> None:
    rotations, translations = space_group(number).operations
    point = np.array([0.1234, 0.3571, 0.7713])
    for text, rotation, translation in zip(
        operations_text(rotations, translations), rotations, translations, strict=True
    ):
        names = dict(zip("xyz", point, strict=True))
        place = [eval(part, {"__builtins__": {}}, names) for part in text.split(",")]
        np.testing.assert_allclose((rotation @ point + translation - place + 0.5) % 1.0, 0.5, atol=1e-9)
