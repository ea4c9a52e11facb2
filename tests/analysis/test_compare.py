"""Comparison with a reference: known answers, the published figures, intervals that cover, and refusals."""

import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.stats import wasserstein_distance

from megen_gym.analysis.bootstrap import bootstrap, pivotal, resampling_weights
from megen_gym.analysis.compare import compare, quick_score
from megen_gym.analysis.ensemble import Ensemble, Reference
from megen_gym.analysis.metrics import Diversity, Wasserstein, wasserstein
from megen_gym.analysis.pairs import bin_edges, pair_counts, partial_rdf
from megen_gym.analysis.soap import soap_atoms, soap_structures
from megen_gym.errors import InputError
from megen_gym.io import read_structures
from megen_gym.structure import StructureBatch

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "megen_gym" / "data" / "cuau_interface.extxyz"
SHARED = ROOT.parent / "shared" / "reference" / "cuau_interface.extxyz.gz"


@pytest.fixture(scope="module")
def batch() -> StructureBatch:
    return StructureBatch.from_atoms(read_structures(BUNDLED))


def moved(batch: StructureBatch, delta: np.ndarray) -> StructureBatch:
    return StructureBatch(batch.positions + delta, batch.species, batch.symbols, batch.cell, batch.pbc)


def test_the_same_structures_are_at_no_distance(batch):
    result = compare(batch, batch, reps=50)
    for row in result.rows:
        if row.metric == "valid":
            assert row.value == row.low == row.high == row.floor == 1
        elif row.metric.startswith(("W1", "RDF", "SOAP novelty", "local")) or row.metric == "SOAP":
            assert row.value == pytest.approx(0, abs=1e-9), row
            assert row.low <= row.value, row
            assert row.floor > 0, row
    assert result["SOAP diversity"].value == pytest.approx(1)
    assert result["mean shortest distance"].value == pytest.approx(result["mean shortest distance"].floor)


def test_a_shift_is_measured_in_angstrom(batch):
    result = compare(moved(batch, np.array([0, 0, 0.3])), batch, soap=False, reps=50)
    for element in ("Cu", "Au"):
        row = result[f"W1 height {element}"]
        assert row.value == pytest.approx(0.3, abs=1e-6)
        assert row.low <= 0.3 + 1e-6
        assert row.high >= 0.3 - 0.02
    for name in ("W1 nearest neighbour", "W1 6 neighbours", "RDF L2", "W1 pairs Cu-Au"):
        assert result[name].value == pytest.approx(0, abs=2e-3), name
    sideways = compare(moved(batch, np.array([0.3, 0, 0])), batch, axis=0, soap=False, reps=2)
    assert sideways["W1 height Cu"].value == pytest.approx(0.3, abs=1e-6)


def test_order_of_the_atoms_and_whole_cells_do_not_matter(batch):
    rng = np.random.default_rng(0)
    order = rng.permutation(batch.species.shape[1])
    turns = rng.integers(-2, 3, size=batch.positions.shape) @ batch.cell[0]
    mixed = StructureBatch(
        batch.positions[:, order] + turns[:, order], batch.species[:, order], batch.symbols, batch.cell, batch.pbc
    )
    result = compare(mixed, batch, reps=2)
    for row in result.rows:
        if row.metric.startswith(("W1", "RDF")) or row.metric in ("SOAP", "local SOAP", "SOAP novelty"):
            assert row.value == pytest.approx(0, abs=1e-7), row


def test_a_pair_across_the_boundary():
    pair = Atoms("CuAu", [[0.3, 5, 5], [9.7, 5, 5]], cell=[10, 10, 10], pbc=True)
    found = Ensemble([pair])
    assert found.min_distances == pytest.approx([0.6])
    assert found.pairs_below(0.7).tolist() == [1]
    assert found.pairs_below(0.5).tolist() == [0]
    pair.pbc = False
    assert Ensemble([pair]).min_distances == pytest.approx([9.4])
    thin = Ensemble([Atoms("Cu", cell=[2.0, 9, 9], pbc=True)])
    assert thin.min_distances == pytest.approx([2.0])


@pytest.mark.parametrize(
    "atoms", [bulk("Cu", cubic=True), bulk("Cu"), bulk("NaCl", "rocksalt", a=5.6).repeat((1, 2, 1))]
)
def test_pair_counts_are_those_of_a_neighbour_list(atoms):
    from ase.neighborlist import neighbor_list

    atoms.rattle(0.1, seed=3)
    ensemble = Ensemble([atoms, atoms])
    counts = pair_counts(ensemble)
    i, j, d = neighbor_list("ijd", atoms, 8.0)
    assert counts.sum() == 2 * len(d)
    z = atoms.numbers
    for index, name in enumerate(("Na-Na", "Na-Cl", "Cl-Cl") if len(set(z)) == 2 else ("Cu-Cu",)):
        a, b = (Atoms(x).numbers[0] for x in name.split("-"))
        chosen = ((z[i] == a) & (z[j] == b)) | ((z[i] == b) & (z[j] == a))
        np.testing.assert_array_equal(counts[1, index], np.histogram(d[chosen], bin_edges())[0])


def test_rdf_is_one_far_away():
    rng = np.random.default_rng(0)
    gas = [Atoms("Cu60Au40", rng.uniform(0, 12, (100, 3)), cell=[12, 12, 12], pbc=True) for _ in range(20)]
    ensemble = Ensemble(gas)
    curves = partial_rdf(ensemble, pair_counts(ensemble)).mean(axis=0)
    np.testing.assert_allclose(curves[:, 60:].mean(axis=1), [0.99, 1.0, 0.99], atol=0.02)


def test_wasserstein_is_scipys():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=301), rng.normal(0.4, 2, size=127)
    assert wasserstein(first, second) == pytest.approx(wasserstein_distance(first, second), rel=1e-12)
    metric = Wasserstein("", "", rng.normal(size=(50, 20)), rng.normal(0.2, 1.1, size=(400, 20)))
    centre, _ = metric.replicates(resampling_weights(50, 3))
    assert centre == pytest.approx(metric.value(), rel=5e-3)


def test_diversity_counts_pairs_of_different_structures():
    points = np.array([[0.0], [1.0], [3.0]])
    metric = Diversity("", "", points, points)
    assert metric.value() == pytest.approx(1)
    _, replicates = metric.replicates(np.array([[2, 1, 0], [0, 0, 3], [1, 1, 1]]) / 3)
    assert replicates[0] == pytest.approx(1 / 2)
    assert np.isnan(replicates[1])
    assert replicates[2] == pytest.approx(1)


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = [
        low <= 2.0 <= high
        for _, low, high in (bootstrap(rng.normal(2.0, 1.0, 60), reps=400, seed=seed) for seed in range(300))
    ]
    assert 0.90 <= np.mean(hits) <= 0.98
    assert pivotal(1.0, np.arange(101) / 100, 0.9) == pytest.approx((1.0, 1.05, 1.95))
    assert np.isnan(pivotal(1.0, [np.nan]).low)
    assert bootstrap([1.0, 2.0, 3.0]) == bootstrap([1.0, 2.0, 3.0])


def test_quick_score_agrees_with_the_table(batch):
    reference = Reference(batch)
    noisy = moved(batch, np.random.default_rng(0).normal(0, 0.2, batch.positions.shape))
    score, table = quick_score(noisy, reference), compare(noisy, reference, soap=False, reps=2)
    assert score["valid"] == table["valid"].value < 1
    assert score["w1_neighbour"] == pytest.approx(table["W1 nearest neighbour"].value)
    assert score["w1_height_Cu"] == pytest.approx(table["W1 height Cu"].value)
    assert score["w1_height"] == pytest.approx((score["w1_height_Cu"] + score["w1_height_Au"]) / 2)
    assert score["min_distance"] == pytest.approx(table["mean shortest distance"].value)


def test_soap_survives_coincident_and_distant_atoms(batch):
    ensemble = Ensemble(moved(batch[:2], -batch.positions[:2]))
    assert np.isfinite(soap_structures(ensemble)).all()
    assert np.isfinite(soap_atoms(ensemble)).all()
    far = Ensemble(moved(batch[:2], 40 * batch.cell[0].sum(axis=0)))
    np.testing.assert_allclose(soap_structures(far), soap_structures(Ensemble(batch[:2])), atol=1e-9)
    assert np.linalg.norm(soap_structures(far), axis=1) == pytest.approx([1, 1])


def test_tables(batch):
    result = compare(batch[:10], batch, soap=False, reps=20)
    lines = result.table().splitlines()
    assert lines[0].split("|")[1].strip() == "metric"
    assert len(lines) == len(result.rows) + 2
    assert "100.0 %" in lines[2]
    head, first = result.table("csv").splitlines()[:2]
    assert head == "metric,unit,value,low,high,floor"
    assert first == "valid,1,1,1,1,1"


def stretched(atoms: Atoms) -> None:
    atoms.cell[2, 2] += 0.1


def gilded(atoms: Atoms) -> None:
    atoms.symbols[0] = "Au"


def torn(atoms: Atoms) -> None:
    atoms.positions[3, 1] = np.nan


def shorter(atoms: Atoms) -> None:
    del atoms[-1]


def bulk_halves(shift: float) -> tuple[StructureBatch, StructureBatch]:
    """Two halves of a warm crystal whose first layer lies at the height `shift`."""
    made = []
    for seed in range(40):
        atoms = bulk("Cu", cubic=True).repeat((2, 2, 2))
        atoms.rattle(0.1, seed=seed)
        atoms.positions[:, 2] += shift
        made.append(atoms)
    whole = StructureBatch.from_atoms(made)
    return whole[:20], whole[20:]


def test_heights_do_not_depend_on_where_the_cell_begins():
    scores = [quick_score(first, Reference(second))["w1_height"] for first, second in map(bulk_halves, (0, 0.7, 1, 5))]
    assert 0 < scores[0] < 0.03
    np.testing.assert_allclose(scores, scores[0], atol=1e-9)
    rows = [compare(*bulk_halves(shift), soap=False, reps=2)["W1 height Cu"] for shift in (0, 1)]
    assert rows[0].value == pytest.approx(scores[0])
    assert rows[0].floor == pytest.approx(rows[1].floor, abs=1e-9)


def test_both_sets_are_cut_at_the_same_height():
    first, second = bulk_halves(0)
    alone = Ensemble(first[:1])
    assert quick_score(alone, Reference(second)) == quick_score(first[:1], Reference(second))


def test_heights_of_a_slab_are_those_in_its_cell(batch):
    reference = Reference(batch)
    inside = batch.positions[:, :, 2] % batch.cell[0, 2, 2]
    assert abs(reference.cut(2)) < 0.05
    found = np.concatenate(reference.heights(2), axis=1)
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(inside, axis=1), atol=1e-9)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared reference")
def test_heights_of_the_large_slab_are_those_in_its_cell():
    whole = StructureBatch.from_atoms(read_structures(SHARED)[:100])
    reference = Reference(whole[:50])
    rough = moved(whole[50:], np.random.default_rng(0).normal(0, 0.3, whole[50:].positions.shape))
    other = reference.ensemble(rough)
    for index, columns in enumerate(reference.columns):
        plain = [np.asarray(e.batch.positions[:, columns, 2] % e.batch.cell[0, 2, 2]) for e in (other, reference)]
        value = quick_score(other, reference)[f"w1_height_{reference.elements[index]}"]
        assert value == pytest.approx(wasserstein(*plain), abs=1e-9)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (stretched, "structure 1 of the generated structures has the cell"),
        (gilded, "structure 1 of the generated structures is Au9Cu7 instead of Au8Cu8"),
        (shorter, "structure 1 of the generated structures is Au7Cu8 instead of Au8Cu8"),
        (torn, "structure 1 of the generated structures has positions that are NaN"),
    ],
)
def test_a_structure_of_another_system_is_named(batch, spoil, message):
    structures = batch[:3].to_atoms()
    spoil(structures[1])
    with pytest.raises(InputError, match=message):
        quick_score(structures, Reference(batch))


def test_refusals(batch):
    reference = Reference(batch)
    slab = batch[:1].to_atoms()[0]
    slab.pbc = (True, True, False)
    with pytest.raises(InputError, match="there is no structure in the generated structures"):
        quick_score([], reference)
    with pytest.raises(InputError, match="periodicity"):
        quick_score([slab], reference)
    with pytest.raises(InputError, match="no axis 3"):
        compare(batch, reference, axis=3, soap=False)
    with pytest.raises(InputError, match="confidence"):
        compare(batch, reference, confidence=95, soap=False)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared reference structures")
def test_published_figures_and_speed():

    batch = StructureBatch.from_atoms(read_structures(SHARED))
    reference, rng = Reference(batch), np.random.default_rng(0)
    chosen = batch[rng.choice(800, 200, replace=False)]
    noisy = moved(chosen, rng.normal(0, 0.15, chosen.positions.shape))
    result = compare(noisy, reference, reps=100)
    published = {
        "valid": 0.88,
        "mean shortest distance": 2.049,
        "W1 nearest neighbour": 0.234,
        "W1 6 neighbours": 0.088,
        "W1 height Cu": 0.081,
        "W1 height Au": 0.080,
        "RDF L2": 4.62,
        "SOAP": 0.039,
        "local SOAP": 0.048,
        "SOAP diversity": 0.022 / 0.0118,
        "SOAP novelty": 0.038,
    }
    for name, value in published.items():
        assert result[name].value == pytest.approx(value, rel=0.1), name
    assert reference.valid_distance == pytest.approx(1.937, abs=1e-3)
    quick_score(noisy, reference)
    start = time.process_time()
    for _ in range(5):
        quick_score(noisy, reference)
    assert (time.process_time() - start) / 5 < 0.2
