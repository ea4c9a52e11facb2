"""MeGen's published reward."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from megen_gym.rewards.base import KCAL_PER_MOL
from megen_gym.rewards.dart.net import DartNet
from megen_gym.rewards.dart.reward import Dart
from megen_gym.rewards.dart.weights import save_state
from megen_gym.rewards.megen import MegenReward, judge_placement
from megen_gym.structure import StructureBatch

REFERENCE = Path(os.environ.get("MEGEN_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))


def batch_of(structures: list[np.ndarray]) -> StructureBatch:
    return StructureBatch.from_atoms([Atoms(f"Ga{len(p)}", positions=p) for p in structures], ["X", "Ga"])


def test_formula(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_state(tmp_path / "w.npz", DartNet((8, 8, 8, 8, 8)).state_dict(), {})
    reward, dart = MegenReward(tmp_path / "w.npz"), Dart(tmp_path / "w.npz")
    triangle = np.array([[0, 0, 0], [2.6, 0, 0], [1.3, 2.2, 0]])
    apex = np.array([[1.3, 0.75, 2.2]])
    far = np.array([[1.3, 0.75, 9.0]])
    after = [np.vstack([triangle, apex]), np.vstack([triangle, far]), triangle, triangle[:1]]
    outcome = reward(batch_of([p[:-1] for p in after]), batch_of(after))
    hartree = dart.energy(batch_of(after)) / KCAL_PER_MOL * 0.001593601097421
    distance = [np.linalg.norm(p[-1] - p[:-1].mean(0)) for p in after[:3]] + [0.0]
    expected = -(hartree + 0.1 * np.array(distance)) - [0, 10, 0, 0]
    np.testing.assert_allclose(outcome.terms["raw"], expected)
    np.testing.assert_allclose(outcome.value, np.maximum(expected, -0.6))
    assert outcome.terms["in_windows"].tolist() == [1, 0, 1, 1]
    assert outcome.value[1] == reward.invalid == -0.6
    assert set(outcome.terms) == {"energy", "com_distance", "raw", "in_windows"}


def test_windows_are_judged_on_canvases_of_more_than_two_atoms() -> None:
    line = np.array([[0.0, 0, 0], [2.6, 0, 0], [5.2, 0, 0], [7.8, 0, 0]])
    assert judge_placement(batch_of([line[:1], line[:2], line[:3], line]))[1].tolist() == [True, True, True, False]


def test_padding_and_order_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    structures = [rng.normal(size=(n, 3)) * 3 for n in (4, 9, 2, 17)]
    together = judge_placement(batch_of(structures))
    for row, positions in enumerate(structures):
        alone = judge_placement(batch_of([positions]))
        np.testing.assert_allclose([part[0] for part in alone], [part[row] for part in together])


@pytest.mark.skipif(not (REFERENCE / "megen_reward_dev.json").is_file(), reason="no reference data")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_published_numbers(dtype: str) -> None:
    pairs = json.loads((REFERENCE / "megen_reward_dev.json").read_text())["pairs"]
    canvas = [np.array(pair["positions"]) for pair in pairs]
    after = [np.vstack([positions, pair["new_position"]]) for positions, pair in zip(canvas, pairs, strict=True)]
    reward = MegenReward(REFERENCE / "dart_megen_last.npz", dtype)
    outcome = reward(batch_of(canvas), batch_of(after))
    field = {name: np.array([pair[name] for pair in pairs]) for name in pairs[0] if name not in ("positions", "nn3")}
    np.testing.assert_allclose(outcome.terms["raw"], field["reward"], atol=1e-5)
    np.testing.assert_allclose(outcome.terms["energy"] / KCAL_PER_MOL, field["energy_raw"], atol=1e-3)
    np.testing.assert_allclose(outcome.terms["com_distance"], field["com_distance"], atol=1e-9)
    assert (outcome.terms["in_windows"] == field["valid"]).all()
    paid = np.where(field["env_atom_added"], outcome.value, reward.invalid)
    np.testing.assert_allclose(paid, field["env_step_reward"], atol=1e-5)
