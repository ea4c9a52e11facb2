"""The metrics of generated crystals one by one: known answers, what must not change them, and what cannot be judged."""

import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal

from megen_gym.analysis.crystal_composition import densities, element_counts, reduced_formula, valid_compositions
from megen_gym.analysis.crystal_matching import Tolerance, matches, unique
from megen_gym.analysis.crystal_symmetry import at_least, found_groups
from megen_gym.analysis.crystal_validity import valid_structures
from megen_gym.errors import InputError
from megen_gym.io import read_structures

REFERENCE = Path(os.environ.get("MEGEN_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))
PEROVSKITES = REFERENCE / "perov_5_val.extxyz.gz"

SALT = bulk("NaCl", "rocksalt", a=5.64)
CSCL = crystal(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=221, cellpar=[3.4] * 3 + [90] * 3)
PEROVSKITE = crystal(
    ["Ba", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[4.0] * 3 + [90] * 3
)
RUTILE = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90])


def moved(atoms: Atoms, seed: int = 0) -> Atoms:
    """The same crystal: turned, shifted, renumbered, in another cell that is larger and skewed."""
    rng = np.random.default_rng(seed)
    other = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [1, 0, 2]])
    other.positions += rng.uniform(-9, 9, 3)
    other.rotate(33, (1, 2, 3), rotate_cell=True)
    return other[rng.permutation(len(other))]


def broken() -> list[Atoms]:
    """Nothing that exists; none of these may raise."""
    nan, infinite, flat, huge, unknown = (SALT.copy() for _ in range(5))
    nan.positions[1, 2] = np.nan
    infinite.cell[0, 0] = np.inf
    flat.cell[2] = flat.cell[0] + flat.cell[1]
    huge.cell[:] *= 1e200
    unknown.numbers[0] = 0
    point = Atoms("NaCl", np.zeros((2, 3)), cell=np.zeros((3, 3)), pbc=True)
    return [nan, infinite, flat, huge, unknown, point, Atoms(cell=[4, 4, 4], pbc=True)]


class TestStructures:
    def test_shortest_distance_decides(self):
        def pair(distance):
            return Atoms("H2", [[0, 0, 0], [0, 0, distance]], cell=[6, 6, 6], pbc=True)

        assert valid_structures([pair(d) for d in (0.49, 0.51, 5.49, 5.51, 17.6)]).tolist() == [0, 1, 1, 0, 0]
        assert valid_structures([pair(0.9)], min_distance=1.0).tolist() == [False]
        assert valid_structures([pair(0.9)], min_volume=217).tolist() == [False]

    def test_own_images_count_in_any_cell(self):
        cells = [
            np.diag([0.4, 5, 5]),
            [[9, 0, 0], [9, 0.4, 0], [0, 0, 9]],
            np.diag([0.6, 5, 5]),
            np.diag([1e-9, 1e5, 1e5]),
        ]
        assert valid_structures([Atoms("H", cell=cell, pbc=True) for cell in cells]).tolist() == [0, 0, 1, 0]

    def test_narrow_skewed_cells_equal_a_search_through_many_images(self):
        rng = np.random.default_rng(0)
        crystals, wanted = [], []
        steps = np.array(list(itertools.product(range(-9, 10), repeat=3)))
        while len(crystals) < 40:
            cell = np.diag(rng.uniform(0.5, 1.1, 3)) + np.tril(rng.uniform(-2, 2, (3, 3)), -1)
            positions = rng.uniform(0, 1, (2, 3)) @ cell
            away = np.linalg.norm(steps @ cell, axis=1)
            apart = np.linalg.norm(positions[1] - positions[0] + steps @ cell, axis=1).min()
            crystals.append(Atoms("H2", positions, cell=cell, pbc=True))
            wanted.append(min(apart, away[away > 0].min()) >= 0.5 and abs(np.linalg.det(cell)) >= 0.1)
        assert 5 < sum(wanted) < 35
        assert valid_structures(crystals).tolist() == wanted

    def test_broken_ones_are_invalid(self):
        assert not valid_structures(broken()).any()
        assert valid_structures([]).shape == (0,)
        mixed = [SALT, *broken(), PEROVSKITE, moved(PEROVSKITE)]
        assert valid_structures(mixed).tolist() == [1, *[0] * len(broken()), 1, 1]

    def test_refusals(self):
        with pytest.raises(InputError, match=r"structure 1 has pbc=\[False, False, False\]"):
            valid_structures([SALT, Atoms("H")])
        with pytest.raises(InputError, match="above zero"):
            valid_structures([SALT], min_distance=0)


def test_what_crystals_are_made_of():
    assert reduced_formula(moved(PEROVSKITE)) == (("Ba", 1), ("O", 3), ("Ti", 1))
    assert reduced_formula(Atoms()) == ()
    assert element_counts([SALT, bulk("Cu"), PEROVSKITE, Atoms()]).tolist() == [2, 1, 3, 0]
    dense = densities([bulk("Cu", a=3.615), SALT, moved(SALT), *broken()])
    np.testing.assert_allclose(dense[:3], [8.935, 2.164, 2.164], atol=2e-3)
    assert np.isnan(dense[3:]).tolist() == [False, True, True, True, False, True, False], "only the cell matters"


class TestCompositions:
    @pytest.fixture(autouse=True)
    def _smact(self):
        pytest.importorskip("smact")

    def test_known_answers(self):
        cases = {
            "NaCl": True, "Na2Cl": False, "BaTiO3": True, "Ba2O2Ti2O4": True, "TiO2": True, "Al2O3": True,
            "Fe3O4": False,  # one state per element
            "Cu": True, "S8": True, "CuAu": True, "GaBi7": True, "HeNe": False, "NaHe": False,
            "F3Cl9": False, "X2": False,
        }  # fmt: skip
        found = valid_compositions([Atoms(name) for name in cases])
        assert dict(zip(cases, found.tolist(), strict=True)) == cases
        assert valid_compositions([Atoms()]).tolist() == [False]
        assert valid_compositions([moved(PEROVSKITE)]).tolist() == [True]

    def test_the_anion_is_the_more_electronegative_one(self):
        assert not valid_compositions([Atoms("OF4")])[0], "F is never positive"
        assert valid_compositions([Atoms("OF2")])[0]

    @pytest.mark.parametrize("states", ["smact14", "icsd24"])
    def test_equals_all_combinations(self, states):
        """Against the rule written out over all combinations, with smact's own test of electronegativities."""
        import smact
        from smact.screening import pauling_test

        rng = np.random.default_rng(0)
        symbols = [s for s in smact.ordered_elements(1, 94) if s not in ("He", "Ne", "Ar")]
        crystals, wanted = [], []
        for _ in range(150):
            chosen, counts = rng.choice(symbols, rng.integers(2, 5), replace=False), rng.integers(1, 7, 4)
            counts = counts[: len(chosen)] // np.gcd.reduce(counts[: len(chosen)])
            elements = [smact.Element(s) for s in chosen]
            charges = [getattr(element, f"oxidation_states_{states}") or [] for element in elements]
            values = [element.pauling_eneg for element in elements]
            fits = (np.dot(c, counts) == 0 and pauling_test(c, values) for c in itertools.product(*charges))
            crystals.append(Atoms("".join(f"{s}{n}" for s, n in zip(chosen, counts, strict=True))))
            wanted.append(set(chosen) <= set(smact.metals) or any(fits))
        assert 20 < sum(wanted) < 130
        assert valid_compositions(crystals, states=states).tolist() == wanted

    def test_refusals(self, monkeypatch):
        with pytest.raises(InputError, match="did you mean 'smact14'"):
            valid_compositions([SALT], states="smact12")
        monkeypatch.setitem(sys.modules, "smact", None)
        with pytest.raises(InputError, match=r"pip install 'megen-gym\[crystals\]'"):
            valid_compositions([Atoms("KBr17")])


class TestMatching:
    @pytest.fixture(autouse=True)
    def _pymatgen(self):
        pytest.importorskip("pymatgen")

    def test_unique(self):
        scaled = CSCL.copy()
        scaled.set_cell(scaled.cell * 1.1, scale_atoms=True)
        crystals = [SALT, CSCL, moved(SALT), bulk("Cu"), scaled, RUTILE, moved(RUTILE, 1), PEROVSKITE, moved(CSCL, 2)]
        assert unique(crystals).tolist() == [0, 1, 0, 3, 1, 5, 5, 7, 1]
        assert unique(crystals, limit=1).tolist() == [0, 1, 0, 3, 4, 5, 5, 7, 1], "4 is nearest to 0 in volume"
        assert unique([]).tolist() == []

    def test_matches(self):
        swapped = CSCL.copy()
        swapped.numbers = swapped.numbers[::-1]
        reference = [*broken(), moved(SALT), moved(bulk("Cu")), moved(PEROVSKITE)]
        crystals = [SALT, CSCL, swapped, bulk("Cu"), bulk("Ag"), RUTILE, PEROVSKITE]
        assert matches(crystals, reference, limit=5).tolist() == [1, 0, 0, 1, 0, 0, 1]
        assert matches(crystals, [swapped]).tolist() == [0, 1, 1, 0, 0, 0, 0]
        assert not matches(crystals, []).any()

    def test_tolerance(self):
        strained = SALT.copy()
        strained.set_cell(strained.cell.array @ np.diag([1, 1, 1.12]), scale_atoms=True)
        assert unique([SALT, strained]).tolist() == [0, 0]
        assert unique([SALT, strained], tolerance=Tolerance(length=0.02, angle=1)).tolist() == [0, 1]

    def test_broken_ones_equal_nothing(self):
        crystals = [*broken(), *broken()]
        assert unique(crystals).tolist() == list(range(len(crystals)))
        assert not matches(crystals, crystals).any()

    def test_refusals(self, monkeypatch):
        with pytest.raises(InputError, match="at most 0 crystals"):
            unique([SALT], limit=0)
        with pytest.raises(InputError, match="above zero"):
            Tolerance(sites=0)
        monkeypatch.setitem(sys.modules, "pymatgen.analysis.structure_matcher", None)
        with pytest.raises(InputError, match=r"pip install 'megen-gym\[crystals\]'"):
            matches([SALT], [SALT])


class TestSymmetry:
    def test_found(self):
        distorted = PEROVSKITE.copy()
        distorted.positions[1, 2] += 0.05
        crystals = [SALT, CSCL, PEROVSKITE, RUTILE, distorted]
        assert found_groups(crystals).tolist() == [225, 221, 221, 136, 99]
        assert found_groups(crystals, symprec=0.2).tolist() == [225, 221, 221, 136, 221]
        assert found_groups([moved(atoms) for atoms in crystals]).tolist() == [225, 221, 221, 136, 99]
        assert found_groups(broken())[[0, 1, 2, 5, 6]].tolist() == [0] * 5

    def test_more_symmetry_is_symmetry(self):
        pytest.importorskip("pymatgen")
        cases = [
            (225, 225, True), (225, "P1", True), (221, "P4/mmm", True), (221, "Fm-3m", True), (225, 221, True),
            (123, "Fmmm", True), (62, "P2_1/c", True), (227, "F-43m", True), (225, 227, True),
            (1, 2, False), (225, 168, False), (225, 194, False), (99, 221, False), (0, 1, False),
            (3, 4, True), (4, 3, False),
        ]  # fmt: skip
        found, asked, wanted = zip(*cases, strict=True)
        assert at_least(np.array(found), asked).tolist() == list(wanted)

    @pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING")
    def test_subgroups_of_space_groups_are_known(self):
        """Of some groups, all operations whose rotations lie in a group that one or two of them generate."""
        pytest.importorskip("pymatgen")
        import spglib

        from megen_gym.lattices import cells_of, completed, family_of
        from megen_gym.wyckoff import space_group

        for number in (15, 62, 92, 136, 161, 167, 194, 205, 227):
            rotations, translations = (np.asarray(part) for part in space_group(number).operations)
            cell = cells_of(completed(np.array([5.1, 6.3, 7.9, 81.0, 97.0, 104.0]), family_of(np.array(number))))
            points = np.unique(rotations, axis=0)
            types = set()
            for pair in itertools.combinations(points[:12], 2):
                closed = {np.eye(3, dtype=int).tobytes(): np.eye(3, dtype=int)}
                while True:
                    more = {(a @ b).tobytes(): a @ b for a in closed.values() for b in pair}
                    if not more.keys() - closed.keys():
                        break
                    closed |= more
                chosen = [rotation.astype(int).tobytes() in closed for rotation in rotations]
                kind = spglib.get_spacegroup_type_from_symmetry(rotations[chosen], translations[chosen], lattice=cell)
                types.add(kind.number)
            assert len(types) > 1
            assert at_least(np.full(len(types), number), sorted(types)).all()

    def test_refusals(self, monkeypatch):
        with pytest.raises(InputError, match="symprec"):
            found_groups([SALT], symprec=0)
        with pytest.raises(InputError, match="unknown space group 'Fm3n'"):
            at_least(np.array([225]), ["Fm3n"])
        with pytest.raises(InputError, match="give one for each"):
            at_least(np.array([225, 1]), [225])


@pytest.mark.skipif(not PEROVSKITES.exists(), reason="needs the shared reference")
def test_perovskites():
    crystals = read_structures(PEROVSKITES, check=False)
    assert valid_structures(crystals).all()
    few = crystals[:60]
    assert found_groups(few).tolist() == [atoms.info["spacegroup"] for atoms in few]
    pytest.importorskip("smact")
    assert valid_compositions(crystals).mean() == pytest.approx(0.9873, abs=5e-5), "CDVAE's, with SMACT 2.2.1"
    assert valid_compositions(crystals, states="icsd24").mean() == pytest.approx(0.9852, abs=5e-5), "SMACT 4"
    copies = [moved(atoms) for atoms in few[:5]]
    assert matches(copies, few).all()
    assert unique([*few[:5], *copies]).tolist() == [*range(5), *range(5)]
