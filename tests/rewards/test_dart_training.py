"""Data sets, splits, fitting and the training script of DART."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from scipy.spatial.distance import pdist

from megen_gym.errors import InputError
from megen_gym.rewards.dart import card, dataset
from megen_gym.rewards.dart.dataset import Labelled
from megen_gym.rewards.dart.evaluate import Evaluator
from megen_gym.rewards.dart.features import OVERLAPS, SCALES, exploits, references
from megen_gym.rewards.dart.fit import Fit, Settings, Task
from megen_gym.rewards.dart.reward import Dart
from megen_gym.rewards.dart.train import initial, main, make_task
from megen_gym.structure import StructureBatch

WIDTHS = (24, 24, 32, 24, 16)


def bonded(rng: np.random.Generator, n: int) -> np.ndarray:
    """Atoms at random, none closer than 2.4 Å."""
    points = np.zeros((1, 3))
    while len(points) < n:
        point = points[rng.integers(len(points))] + rng.normal(size=3) * 2
        if np.linalg.norm(points - point, axis=1).min() > 2.4:
            points = np.vstack([points, point])
    return points


def labelled(jobs: int = 12, images: int = 5, seed: int = 0) -> list[Atoms]:
    """Trajectories of slightly moving clusters with a synthetic energy: one eV per close pair, plus repulsion."""
    rng = np.random.default_rng(seed)
    structures = []
    for job in range(jobs):
        positions = bonded(rng, int(rng.integers(4, 8)))
        for _ in range(images):
            positions = positions + rng.normal(size=positions.shape) * 0.1
            distances = pdist(positions)
            energy = -0.5 * (distances < 3.49).sum() + 0.1 * np.exp(-9 * (distances / 2.7 - 1)).sum()
            info = {"binding_energy": energy, "job": job, "kind": "relax"}
            structures.append(Atoms(f"Ga{len(positions)}", positions=positions, info=info))
    return structures


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "labels.extxyz", labelled())
    return tmp_path / "labels.extxyz"


def a_task(file: Path) -> Task:
    data = dataset.deduplicate(dataset.load([file]))
    group = dataset.groups(data)
    return make_task(data, group, dataset.split(group, 0), 0)


def test_reading(tmp_path: Path, file: Path) -> None:
    data = dataset.load([file])
    assert len(data) == 60
    assert set(data.kinds) == {"relax"}
    assert len(np.unique(dataset.load([file, file]).jobs)) == 24
    total = [Atoms("Ga2", positions=[[0, 0, 0], [2.6, 0, d]]) for d in (0.0, 0.1)]
    for atoms in total:
        atoms.calc = SinglePointCalculator(atoms, energy=-3.0)
    write(tmp_path / "total.extxyz.gz", total, format="extxyz")
    assert dataset.load([tmp_path / "total.extxyz.gz"], atom_energy=-0.5).energies.tolist() == [-2.0, -2.0]
    with pytest.raises(InputError, match="atom_energy"):
        dataset.load([tmp_path / "total.extxyz.gz"])


def spoil(path: Path, how: str) -> None:
    atoms = Atoms("Ga2", positions=[[0, 0, 0], [2.6, 0, 0]], info={"binding_energy": -1.0})
    if how == "nan":
        atoms.info["binding_energy"] = float("nan")
    elif how == "element":
        atoms.numbers[0] = 33
    elif how == "coincide":
        atoms.positions[1] = 0
    elif how == "unlabelled":
        atoms.info.clear()
    write(path, atoms, format="extxyz")
    if how == "empty":
        path.write_text("")
    elif how == "broken":
        path.write_text("5\nProperties=species:S:1:pos:R:3\nGa 0 0\n")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "not finite"),
        ("element", "gallium"),
        ("coincide", "one place"),
        ("unlabelled", "no energy"),
        ("empty", "no structures|cannot be read"),
        ("broken", "cannot be read"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, how: str, message: str) -> None:
    spoil(tmp_path / "bad.extxyz", how)
    with pytest.raises(InputError, match=message):
        dataset.load([tmp_path / "bad.extxyz"])
    with pytest.raises(InputError, match="no file"):
        dataset.load([tmp_path / "absent.extxyz"])


@pytest.mark.parametrize("seed", range(5))
def test_split_does_not_leak(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = [bonded(rng, int(rng.integers(2, 7))) for _ in range(40)]
    positions, jobs = [], []
    for job in range(60):  # the same clusters turn up in several jobs, turned and shaken a little
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        for _ in range(int(rng.integers(1, 4))):
            chosen = base[rng.integers(len(base))]
            positions.append((chosen + rng.normal(size=chosen.shape) * 0.005) @ rotation)
            jobs.append(job if rng.random() < 0.3 else -1)
    data = Labelled(tuple(positions), rng.normal(size=len(jobs)), ("",) * len(jobs), np.array(jobs))
    group = dataset.groups(data)
    sides = dataset.split(group, seed)
    assert sorted(np.concatenate(sides).tolist()) == list(range(len(data)))
    assert all(len(side) for side in sides)
    side = np.zeros(len(data), dtype=int)
    for number, rows in enumerate(sides):
        side[rows] = number
    for job in range(60):
        assert len(np.unique(side[data.jobs == job])) <= 1
    for a in range(len(data)):
        for b in range(a):
            if len(positions[a]) == len(positions[b]):
                gap = np.abs(np.sort(pdist(positions[a])) - np.sort(pdist(positions[b]))).max()
                assert gap > dataset.SIMILAR or side[a] == side[b]


def test_split_keeps_the_shares_and_refuses_too_little() -> None:
    sides = dataset.split(np.repeat(np.arange(200), 5), 3)
    np.testing.assert_allclose([len(side) / 1000 for side in sides], [0.8, 0.1, 0.1], atol=0.01)
    with pytest.raises(InputError, match="at least 3"):
        dataset.split(np.array([0, 0, 1]), 0)
    with pytest.raises(InputError, match="fractions"):
        dataset.split(np.arange(9), 0, (0.5, 0.5, 0.5))


def test_duplicates_go() -> None:
    structures = [bonded(np.random.default_rng(seed), 5) for seed in (0, 1)]
    structures.append(structures[0][::-1] + 3.0)
    data = dataset.deduplicate(Labelled(tuple(structures), np.arange(3.0), ("",) * 3, np.full(3, -1)))
    assert data.energies.tolist() == [0.0, 1.0]


def test_exploits_and_references(file: Path) -> None:
    data = dataset.load([file])
    rows = references(data, dataset.groups(data))
    assert len(rows) == 12
    assert all(data.energies[row] == data.energies[data.jobs == data.jobs[row]].min() for row in rows)
    copies = exploits(np.random.default_rng(0), data.positions[0])
    assert len(copies) == len(SCALES) + len(OVERLAPS)
    assert all(copy.shape == data.positions[0].shape for copy in copies)
    for copy, distance in zip(copies[len(SCALES) :], OVERLAPS, strict=True):
        assert pdist(copy).min() <= distance + 1e-9


def test_scores() -> None:
    labels = np.array([0.0, 1, 2, 10, 11, 12])
    found = card.scores(np.array([2, 2, 2, 3, 3, 3]), np.array([1.0, 2, 3, 12, 11, 10]), labels)
    assert [score.size for score in found] == [2, 3, 0]
    assert [score.rank for score in found] == pytest.approx([1, -1, 0])
    assert found[0].mae == pytest.approx(1)
    assert found[0].within == pytest.approx(0)
    assert found[-1].floor == pytest.approx(2 / 3)


def test_learns_a_synthetic_target(file: Path) -> None:
    task = a_task(file)
    fit = Fit(initial(task, WIDTHS, 0), task, Settings(epochs=120, lr=3e-3, batch=16, patience=120))
    before = float(fit.loss(task.train, task.traps).detach())
    fit.run(bar=False)
    after = float(fit.loss(task.train, task.traps).detach())
    assert after < 0.25 * before
    assert fit.best_score < float("inf")
    free = card.predict(Evaluator(fit.net), [np.zeros((1, 3))])
    assert abs(free[0]) < 0.3


def test_resumed_training_equals_uninterrupted_training(file: Path, tmp_path: Path) -> None:
    task, settings, checkpoint = a_task(file), Settings(epochs=6, batch=16), tmp_path / "run.checkpoint"
    whole = Fit(initial(task, WIDTHS, 0), task, settings)
    whole.run(bar=False)
    Fit(initial(task, WIDTHS, 0), task, settings, checkpoint).run(bar=False, stop_at=3)
    resumed = Fit(initial(task, WIDTHS, 1), task, settings, checkpoint)
    resumed.load()
    resumed.run(bar=False)
    assert resumed.epoch == 6
    for name, value in whole.best.items():
        assert torch.equal(value, resumed.best[name])
    other = Fit(initial(task, WIDTHS, 0), task, Settings(epochs=7, batch=16), checkpoint)
    with pytest.raises(InputError, match="other settings"):
        other.load()
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be read"):
        resumed.load()


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="lr -1"):
        Settings(lr=-1)
    with pytest.raises(InputError, match="max_time"):
        Settings(max_time=0)


def test_script_from_file_to_reward(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "weights.npz"
    main(file, output, epochs=2, packings=3, widths=WIDTHS, external=file)
    text = output.with_suffix(".md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "rank correlation" in text
    assert "scaled by 0.3" in text
    assert not list(tmp_path.glob("*checkpoint*"))
    batch = StructureBatch.from_atoms(labelled(2, 1))
    assert np.isfinite(Dart(output).energy(batch)).all()


def test_script_refuses_with_a_sentence(file: Path, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "rewards" / "dart" / "train.py"
    (tmp_path / "w.npz.checkpoint").write_text("")
    command = [sys.executable, str(script), "--dataset", str(file), "--output", str(tmp_path / "w.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: an unfinished run lies at")
