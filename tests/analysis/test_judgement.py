"""Atoms moved apart, bond angles, site motifs, lattices, short-range order: known answers."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from megen_gym.analysis.alloy import (
    alloy_metrics,
    cluster_names,
    cluster_probabilities,
    expansion_energy,
    neighbour_shells,
    read_ecis,
    warren_cowley,
)
from megen_gym.analysis.angles import angle_edges, bond_angles, bond_cutoff
from megen_gym.analysis.apart import move_apart
from megen_gym.analysis.ensemble import Ensemble, Reference
from megen_gym.analysis.metrics import Median, cosine, euclidean
from megen_gym.analysis.snap import snap
from megen_gym.errors import InputError
from megen_gym.structure import StructureBatch

A = 3.75
CU3AU = Atoms(
    "AuCu3", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], cell=[A] * 3, pbc=True
)


def periodic(symbols: str, positions: list[list[float]], edge: float = 10.0) -> StructureBatch:
    return StructureBatch.from_atoms([Atoms(symbols, positions, cell=[edge] * 3, pbc=True)])


class TestApart:
    def test_across_the_boundary(self):
        done = move_apart(periodic("Cu2", [[0.3, 5, 5], [9.7, 5, 5]]), min_distance=1.0)
        np.testing.assert_allclose(done.structures.positions[0, :, 0], [0.55, 9.45])
        assert done.pairs.tolist() == [1]
        assert done.iterations.tolist() == [1]
        assert not done.failed.any()

    def test_coincident_atoms(self):
        done = move_apart(periodic("Cu4", [[5, 5, 5]] * 4))
        assert not done.failed.any()
        assert done.pairs.tolist() == [6]
        assert Ensemble(done.structures).min_distances[0] >= 1.5
        again = move_apart(periodic("Cu4", [[5, 5, 5]] * 4))
        np.testing.assert_array_equal(done.structures.positions, again.structures.positions)

    def test_failures_come_back_as_given(self, tmp_path):
        crowd = np.random.default_rng(0).uniform(0, 3, (40, 3))
        small = Atoms("Cu40", crowd, cell=[3] * 3, pbc=True)
        fine = Atoms("Cu40", 3 * np.array(list(np.ndindex(4, 5, 2)), dtype=float), cell=[3] * 3, pbc=True)
        fine.cell[:] = np.diag([12, 15, 6])
        batch = StructureBatch.from_atoms([small, fine])
        done = move_apart(batch, max_iterations=20)
        assert done.failed.tolist() == [True, False]
        np.testing.assert_array_equal(done.structures.positions, batch.positions)
        assert len(done.accepted) == 1
        lines = done.write_counts(tmp_path).read_text().splitlines()
        assert lines[0] == "structure,pairs,iterations,failed"
        assert lines[1] == f"0,{done.pairs[0]},20,True"
        assert lines[2] == "1,0,0,False"

    def test_own_image_too_close(self):
        done = move_apart(StructureBatch.from_atoms([Atoms("Cu", cell=[1.2, 9, 9], pbc=True)]))
        assert done.failed.all()

    def test_clusters_of_several_sizes(self):
        batch = StructureBatch.from_atoms([Atoms("Cu2", [[0, 0, 0], [0.5, 0, 0]]), Atoms("Cu3", np.eye(3) * 9)])
        done = move_apart(batch)
        assert done.pairs.tolist() == [1, 0]
        assert np.linalg.norm(np.diff(done.structures.positions[0, :2], axis=0)) == pytest.approx(1.6)
        np.testing.assert_array_equal(done.structures.positions[1], batch.positions[1])

    def test_refusal(self):
        with pytest.raises(InputError, match="cannot move atoms -1 Å apart"):
            move_apart(periodic("Cu", [[0, 0, 0]]), -1)


class TestAngles:
    @pytest.mark.parametrize(
        ("atoms", "angles"),
        [
            (bulk("Si"), {109.47: 1.0}),
            (bulk("Si", cubic=True), {109.47: 1.0}),
            (bulk("Cu"), {60: 24 / 66, 90: 12 / 66, 120: 24 / 66, 180: 6 / 66}),
            (bulk("Po", "sc", a=3.35), {90: 12 / 15, 180: 3 / 15}),
        ],
        ids=["diamond", "diamond, cubic cell", "fcc", "simple cubic"],
    )
    def test_crystals(self, atoms, angles):
        reference = Reference([atoms, atoms])
        shares = bond_angles(reference, bond_cutoff(reference))
        expected = np.zeros(360)
        for angle, share in angles.items():
            expected[np.searchsorted(angle_edges(), min(angle, 179.99) + 1e-6, "right") - 1] = share
        np.testing.assert_allclose(shares, [expected, expected], atol=1e-12)

    def test_each_structure_has_its_own(self):
        straight = Atoms("Cu3", [[-2, 0, 0], [0, 0, 0], [2, 0, 0]])
        bent = Atoms("Cu3", [[-2, 0, 0], [0, 0, 0], [0, 2, 0]])
        far = Atoms("Cu3", [[-9, 0, 0], [0, 0, 0], [0, 9, 0]])
        shares = bond_angles(Ensemble([straight, bent, far]), 2.5)
        assert shares.sum(axis=1).tolist() == [1, 1, 0]
        assert shares[0, 359] == 1
        assert shares[1, 180] == 1

    def test_refusal(self):
        with pytest.raises(InputError, match="longest bond"):
            bond_angles(Ensemble([bulk("Cu")]), 0)


class TestLattice:
    def test_multiplicities_of_fcc(self):
        for sites in (bulk("Cu"), bulk("Cu", cubic=True), bulk("Cu", cubic=True).repeat(2)):
            shells = neighbour_shells(sites)
            assert [1, *shells.multiplicity.tolist()] == [1, 6, 3, 12, 6, 12, 4, 24]
            np.testing.assert_allclose(shells.radii / shells.radii[0], np.sqrt(np.arange(1, 8)))
        assert neighbour_shells(bulk("Fe"), 3).multiplicity.tolist() == [4, 3, 6]

    def test_order_of_cu3au(self):
        sites = CU3AU.repeat(2)
        occupation = snap(StructureBatch.from_atoms([sites, sites]), sites)
        probabilities = cluster_probabilities(occupation, neighbour_shells(sites))
        assert probabilities.shape == (2, 2 + 7 * 3)
        order = warren_cowley(probabilities, occupation.symbols)
        assert order["1NN Cu-Au"] == pytest.approx([-1 / 3, -1 / 3])
        assert order["2NN Cu-Au"] == pytest.approx([1, 1])
        assert order["1NN Au-Au"] == pytest.approx([1, 1])
        assert order["2NN Au-Au"] == pytest.approx([-3, -3])

    def test_random_alloy_has_no_order(self):
        rng, sites = np.random.default_rng(0), bulk("Cu", cubic=True).repeat(4)
        made = []
        for _ in range(60):
            atoms = sites.copy()
            atoms.symbols = rng.permutation(["Fe"] * 86 + ["Ni"] * 85 + ["Cr"] * 85)
            made.append(atoms)
        occupation = snap(StructureBatch.from_atoms(made), sites)
        probabilities = cluster_probabilities(occupation, neighbour_shells(sites))
        assert probabilities.shape == (60, 45)
        for name, values in warren_cowley(probabilities, occupation.symbols).items():
            assert values.mean() == pytest.approx(0, abs=0.02), name

    def test_snap(self):
        sites = CU3AU.repeat(3)
        atoms = sites.copy()
        atoms.rattle(0.1, seed=0)
        del atoms[[5, 9]]
        atoms.positions[0] += 1.2
        moved = atoms.copy()
        moved.positions += [1.3, 0.4, -0.8]
        batch = StructureBatch.from_atoms([atoms, moved])
        still = snap(batch, sites)
        assert still.vacancies[0] == 3
        assert still.removed[0] == 1
        assert still.accepted.tolist() == [True, False]
        found = snap(batch, sites, translate=True)
        assert found.vacancies.tolist() == [3, 3]
        assert found.removed.tolist() == [1, 1]
        kinds = np.array([found.symbols.index(symbol) for symbol in sites.symbols])
        assert ((found.species[0] == kinds) | (found.species[0] == 0)).all()
        order = warren_cowley(cluster_probabilities(found, neighbour_shells(sites)), found.symbols)
        assert order["1NN Cu-Au"] == pytest.approx([-1 / 3, -1 / 3], abs=0.05)
        assert not snap(batch, sites, max_vacancies=0.01, translate=True).accepted.any()

    def test_two_atoms_at_one_site(self):
        sites = bulk("Cu", cubic=True)
        atoms = sites.copy()
        atoms.symbols[1] = "Au"
        atoms.positions[1] = [0.3, 0, 0]
        found = snap(StructureBatch.from_atoms([atoms]), sites, max_vacancies=0.5)
        assert found.species[0].tolist() == [1, 0, 1, 1]
        assert found.removed.tolist() == [1]

    def test_energies_from_interactions(self, tmp_path):
        occupation = snap(StructureBatch.from_atoms([CU3AU]), CU3AU)
        shells = neighbour_shells(CU3AU)
        probabilities = cluster_probabilities(occupation, shells)
        ecis = {"constant": 0.5, "0NN Au": 2.0, "1NN Au-Cu": 0.1}
        (tmp_path / "a.json").write_text(json.dumps(ecis))
        (tmp_path / "a.csv").write_text("cluster,eci\n" + "\n".join(f"{k},{v}" for k, v in ecis.items()))
        assert read_ecis(tmp_path / "a.json") == read_ecis(tmp_path / "a.csv") == ecis
        energy = expansion_energy(probabilities, occupation.symbols, shells, ecis)
        assert energy == pytest.approx([0.5 + 2.0 / 4 + 0.1 * 6 * 0.5])
        assert "1NN Cu-Au" in cluster_names(occupation.symbols)
        with pytest.raises(InputError, match="did you mean '1NN Cu-Au'"):
            expansion_energy(probabilities, occupation.symbols, shells, {"1NN Cu-Ag": 1.0})
        (tmp_path / "b.json").write_text("[1, 2]")
        with pytest.raises(InputError, match="holds no interactions"):
            read_ecis(tmp_path / "b.json")
        with pytest.raises(InputError, match="does not exist"):
            read_ecis(tmp_path / "c.json")

    def test_metrics(self):
        sites = CU3AU.repeat(2)
        swapped = sites.copy()
        swapped.symbols[[0, 1]] = ["Cu", "Au"]
        own, other = (snap(StructureBatch.from_atoms([one, sites]), sites) for one in (swapped, sites))
        shells = neighbour_shells(sites)
        same = {m.name: m.value() for m in alloy_metrics(other, other, shells)}
        assert same == {"rejected by lattice": 0, "accepted with vacancies": 0, "cluster probabilities": 0}
        assert {m.name: m.value() for m in alloy_metrics(own, other, shells)}["cluster probabilities"] > 0.01

    def test_refusals(self):
        stretched = CU3AU.copy()
        stretched.cell[0, 0] += 0.5
        batch = StructureBatch.from_atoms([CU3AU, stretched])
        with pytest.raises(InputError, match=r"structure 1 has the cell .* lattice sites have"):
            snap(batch, CU3AU)
        with pytest.raises(InputError, match="margin"):
            snap(StructureBatch.from_atoms([CU3AU]), CU3AU, margin=0)
        with pytest.raises(InputError, match="no 7 shells"):
            neighbour_shells(Atoms("Cu2", [[0, 0, 0], [2, 0, 0]]))


class TestMotifs:
    @pytest.fixture(autouse=True)
    def _matminer(self):
        pytest.importorskip("matminer")

    @pytest.mark.parametrize(
        ("atoms", "motif"), [(bulk("Si"), "tetrahedral CN_4"), (bulk("Cu"), "cuboctahedral CN_12")], ids=["Si", "Cu"]
    )
    def test_crystals(self, atoms, motif):
        from megen_gym.analysis.motifs import motif_metrics, site_motifs

        found = site_motifs(Ensemble([atoms]))
        assert found.vectors.shape == (1, 1, 61)
        assert found.labels[found.likely[0, 0]] == motif
        assert found.vectors[0, 0, found.labels.index(motif)] == pytest.approx(1, abs=0.02)
        assert {m.name: m.value() for m in motif_metrics(found, found)}["motifs all"] == 0

    def test_ions_and_what_is_kept(self, tmp_path):
        from megen_gym.analysis.motifs import site_motifs

        salt = Ensemble([bulk("NaCl", "rocksalt", a=5.6)] * 2)
        options = {"neighbours": ["Cl"], "oxidation": {"Na": 1, "Cl": -1}, "keep": tmp_path / "keep.npz"}
        first = site_motifs(salt, **options)
        assert first.vectors.shape == (2, 2, 61 + 24)
        assert first.vectors[0, 0, first.labels.index("Cl CN_6")] == pytest.approx(1)
        assert first.vectors[0, 1, first.labels.index("Cl CN_6")] == 0
        assert first.shares()[:, 0].max(axis=1).tolist() == [1, 1]
        with np.load(tmp_path / "keep.npz", allow_pickle=False) as file:
            stored = dict(file)
        np.savez(tmp_path / "keep.npz", **{**stored, "vectors": stored["vectors"] * 2})
        np.testing.assert_array_equal(site_motifs(salt, **options).vectors, 2 * first.vectors)
        other = site_motifs(salt, **{**options, "neighbours": ["Na"]})
        assert other.vectors[0, 0, other.labels.index("Na CN_6")] == 0

    def test_failed_structures_are_counted(self):
        from megen_gym.analysis.motifs import motif_metrics, site_motifs

        collapsed = bulk("Cu", cubic=True)
        collapsed.positions[:] = 0
        found = site_motifs(Ensemble([bulk("Cu", cubic=True), collapsed]))
        metrics = {m.name: m.value() for m in motif_metrics(found, found)}
        assert metrics["motifs failed"] == found.failed.mean()
        assert np.isfinite(metrics["motifs all"])

    def test_refusal(self):
        from megen_gym.analysis.motifs import site_motifs

        with pytest.raises(InputError, match="do not fit the elements Cu"):
            site_motifs(Ensemble([bulk("Cu")]), neighbours=["O"])


def test_motifs_name_the_extra(monkeypatch):
    import sys

    from megen_gym.analysis.motifs import site_motifs

    monkeypatch.setitem(sys.modules, "matminer", None)
    with pytest.raises(InputError, match=r"pip install 'megen-gym\[motifs\]'"):
        site_motifs(Ensemble([bulk("Cu")]))


def test_median_of_resamples_is_numpys():
    values = np.array([3.0, np.nan, 1.0, 2.0, 10.0])
    metric = Median("", "", values, values)
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 1, 1], [0, 5, 0, 0, 0], [0, 0, 4, 0, 1]]) / 5
    _, replicates = metric.replicates(weights)
    assert metric.value() == 2.5
    np.testing.assert_allclose(replicates, [2.5, 3.0, np.nan, 1.0])


def test_vector_distances():
    means = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert euclidean(means, np.array([1.0, 0.0])).tolist() == pytest.approx([0, 5**0.5])
    assert cosine(means, np.array([1.0, 0.0])).tolist() == pytest.approx([0, 1])
