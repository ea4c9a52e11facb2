"""The write-up of the published G-SchNet that benchmarks compare with: it does what the published one is said to do."""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.collections import g2
from ase.data import covalent_radii
from scipy.spatial.transform import Rotation

NAME = "C3H9N"  # trimethylamine: 13 atoms


def _load() -> ModuleType:
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "published_gschnet.py"
    spec = importlib.util.spec_from_file_location("published_gschnet", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


published: Any = _load()


@pytest.fixture(scope="module")
def molecule() -> Atoms:
    """Slightly distorted, so that no two atoms are equally far from the centre of mass."""
    atoms = g2[NAME]
    atoms.rattle(0.02, seed=1)
    return atoms


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return published.PublishedGSchNet().double()


def _trajectory(atoms: Atoms, draw: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    return published.build_trajectory(atoms.positions, atoms.numbers, np.random.default_rng(seed), draw)


def test_it_has_the_published_number_of_parameters() -> None:
    parts = published.PublishedGSchNet().named_children()
    count = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts}
    assert count["embedding"] + count["interactions"] == 639_872
    assert (count["type_net"], count["distance_net"], count["next_type_embedding"]) == (231_942, 282_314, 16_640)
    assert sum(count.values()) == 1_170_768
    assert published.BINS == 202


def test_the_grid_has_the_published_number_of_points() -> None:
    for spacing, count in ((0.05, 153_058), (0.1, 19_114)):
        points = published.grid_points(spacing, torch.float64)
        assert len(points) == count
        assert len(points.unique(dim=0)) == count


def test_targets_have_the_published_entropy(model: Any) -> None:
    distances = torch.linspace(0.5, 6.0, 50, dtype=torch.float64)
    targets = model.smeared(distances)
    torch.testing.assert_close(targets.sum(-1), torch.ones_like(distances))
    assert torch.special.entr(targets).sum(-1).mean() == pytest.approx(1.62, abs=0.01)
    assert (model.smeared(torch.tensor([9.0], dtype=torch.float64)).argmax()) == 201


@pytest.mark.parametrize("seed", range(5))
def test_a_walk_places_each_atom_beside_its_focus_and_stops_only_without_neighbours(molecule: Atoms, seed: int) -> None:
    n, found = len(molecule), _trajectory(molecule, 0, seed)
    distances = molecule.get_all_distances()
    radii = covalent_radii[molecule.numbers]
    near = (distances <= 1.7) & (distances <= 1.1 * (radii[:, None] + radii)) & ~np.eye(n, dtype=bool)
    centre = np.linalg.norm(molecule.positions - molecule.get_center_of_mass(), axis=1)
    placed, stopped = [int(centre.argmin())], set()
    focuses, news = found["walk_focus"].tolist(), found["walk_new"].tolist()
    assert len(news) == 2 * n
    assert (focuses[0], news[0]) == (-1, placed[0])
    for focus, new in zip(focuses[1:], news[1:], strict=True):
        assert focus in placed
        assert focus not in stopped
        left = [k for k in np.flatnonzero(near[focus]) if k not in placed]
        if new < 0:
            assert not left
            stopped.add(focus)
        else:
            assert new == min(left, key=lambda k: centre[k])
            placed.append(new)
    assert sorted(placed) == sorted(stopped) == list(range(n))


def test_random_steps_are_distinct_steps_of_the_walk(molecule: Atoms) -> None:
    n, some = len(molecule), _trajectory(molecule, 7)
    assert len(some["drawn"].unique()) == len(some["next_type"]) == 7
    numbers = torch.tensor([*molecule.numbers, published.STOP])
    torch.testing.assert_close(some["next_type"], numbers[some["walk_new"][some["drawn"]]])
    assert (_trajectory(molecule, 2 * n)["drawn"] == torch.arange(2 * n)).all()
    tokens = [(some["types"] == token).sum() for token in (published.FOCUS, published.ORIGIN)]
    assert tokens == [7, 7]
    assert len(some["distances"]) == (some["next_type"][some["row_step"]] != published.STOP).sum()


def test_graphs_in_training_and_in_generation_are_the_same(molecule: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = molecule.copy()
    spread.positions *= [6.0, 1.0, 1.0]  # some atoms further apart than the cut-offs
    where, numbers = torch.tensor(spread.positions - spread.get_center_of_mass()), torch.tensor(spread.numbers)
    monkeypatch.setattr(published, "PLACEMENT_CUTOFF", 20.0)
    monkeypatch.setattr(published, "RADIUS_FACTOR", 20.0)
    found = _trajectory(spread)
    for step in range(0, 26, 5):
        atoms = found["walk_new"][:step]
        atoms = atoms[atoms >= 0]
        focus = (atoms == found["walk_focus"][step]).nonzero()[0] if step else torch.zeros(1, dtype=torch.long)
        grown = published.partial_graphs(numbers[atoms][None], where[atoms][None], focus)
        first = int((found["types"] == published.FOCUS).nonzero()[step])
        mine = (found["idx_i"] >= first) & (found["idx_i"] < first + len(atoms) + 2)
        pairs = torch.stack([found["idx_i"], found["idx_j"]])[:, mine].T - first
        expected = torch.stack([grown["idx_i"], grown["idx_j"]]).T
        assert sorted(map(tuple, pairs.tolist())) == sorted(map(tuple, expected.tolist()))
        assert sorted((found["rows"][found["row_step"] == step] - first).tolist()) == sorted(grown["rows"].tolist())
        torch.testing.assert_close(found["positions"][first : first + len(atoms) + 2], grown["positions"])
    assert len(pairs) < (len(atoms) + 2) * (len(atoms) + 1)


def test_unconnected_molecules_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 atoms"):
        published.build_trajectory(np.diag([0.0, 0.0, 3.0])[1:], [1, 1], np.random.default_rng(0))


def test_the_loss_does_not_change_with_order_rotation_and_place(molecule: Atoms, model: Any) -> None:
    rng = np.random.default_rng(3)
    order = rng.permutation(len(molecule))
    turned = Rotation.random(rng=rng).apply(molecule.positions) + np.array([1.0, 2.0, 3.0])
    other = Atoms(molecule.numbers[order], turned[order])
    with torch.no_grad():
        one, two = (
            torch.stack(
                model.loss(published.collate([_trajectory(atoms, 10), _trajectory(atoms, 5, 1)], torch.float64))
            )
            for atoms in (molecule, other)
        )
    assert one.isfinite().all()
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_a_batch_is_the_mean_of_its_molecules(molecule: Atoms, model: Any) -> None:
    parts = [_trajectory(molecule, 6, 0), _trajectory(g2["CH3OH"], 6, 1)]
    for averaged in (False, True):
        model.average_type_distributions = averaged
        with torch.no_grad():
            losses = [model.loss(published.collate([part], torch.float64)) for part in parts]
            both = model.loss(published.collate(parts, torch.float64))
        rows = [len(part["distances"]) for part in parts]
        assert float(both[0]) == pytest.approx(float(sum(types for types, _ in losses)) / 2)
        mean = sum(float(loss[1]) * count for loss, count in zip(losses, rows, strict=True)) / sum(rows)
        assert float(both[1]) == pytest.approx(mean)
    model.average_type_distributions = False


@pytest.mark.parametrize("combine", [False, True])
def test_type_distributions_are_normalised(model: Any, combine: bool) -> None:
    model.average_type_distributions = combine
    with torch.no_grad():
        log_probs = model.type_log_probs(torch.randn(5, 128).double(), torch.tensor([0, 0, 1, 1, 1]), 2)
    model.average_type_distributions = False
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, dtype=torch.float64))


def test_the_grid_distribution_is_what_a_plain_loop_gives() -> None:
    log_probs = torch.randn(3, 202, dtype=torch.float64).log_softmax(-1)
    rows, focus = torch.randn(3, 3, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    found = published.full_grid_log_prob(log_probs, rows, focus, 0.1)
    assert float(found.exp().sum()) == pytest.approx(1.0)
    points = published.grid_points(0.1, torch.float64)
    chosen, expected = range(0, len(points), 997), []
    for k in chosen:
        bins = [round(float((points[k] + focus - row).norm()) / (6.7 / 201)) for row in rows]
        expected.append(sum(float(log_probs[row, bin_]) for row, bin_ in enumerate(bins)) / 0.1)
    differences = found[list(chosen)] - torch.tensor(expected, dtype=torch.float64)
    assert float(differences.std()) < 1e-9
    for chunk in (0, 1, 2):
        torch.testing.assert_close(found, published.full_grid_log_prob(log_probs, rows, focus, 0.1, 0.1, chunk))


def test_generated_atoms_lie_on_the_shell_of_another_atom() -> None:
    torch.manual_seed(0)
    model, rng = published.Scripted(), partial(np.random.default_rng, 5)
    found = published.generate(model, 2, 2, 21, 0.3, None, rng())
    assert [len(atoms) for atoms in found] == [20] * 2
    for atoms in found:
        distances = atoms.get_all_distances()
        for k in range(1, 20):
            assert ((distances[k, :k] > 0.699) & (distances[k, :k] < 1.701)).any()
    assert published.generate(model, 2, 2, 3, 0.2, None, rng()) == []
    stopping = published.PublishedGSchNet()
    stopping.type_net[-1].bias.data[-1] = 1e6  # stops at once: finished, without atoms
    assert [len(atoms) for atoms in published.generate(stopping, 3, 2, 10, 0.2, None, rng())] == [0, 0, 0]
