"""The reward of a composition: telescoping, size and cell do not matter, one evaluation per composition, bad input."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from megen_gym.agents.polysrl import model
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.elements import check_elements
from megen_gym.agents.polysrl.network import CompositionNetwork, Shape
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.rewards import composition, make_reward
from megen_gym.rewards.composition import CompositionReward
from megen_gym.structure import FloatArray, StructureBatch

from .conformance import check_reward, growth

METALS = ("X", "Ga", "Cu", "Au")


class Encoder:
    """Stands for a fitted encoder; counts what it is asked."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = CompositionNetwork(Shape(element_features="megnet16", hidden_dim=16))
        self.asked = 0

    def predict(self, compositions: Compositions) -> FloatArray:
        self.asked += len(compositions)
        with torch.no_grad():
            mean = self.network(torch.as_tensor(compositions.numbers), torch.as_tensor(compositions.amounts).float())[0]
        return 3 * mean[:, 0].double().numpy()

    def compositions(self, compositions: Compositions) -> Compositions:
        check_elements(compositions.numbers, "megnet16")
        return compositions

    def spread(self, compositions: Compositions) -> FloatArray:
        return np.abs(self.predict(compositions))


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.CompositionEncoder, "load", lambda where=None, dir="runs": Encoder())


def worth(reward: CompositionReward, *atoms: Atoms) -> FloatArray:
    return reward.worth(StructureBatch.from_atoms(list(atoms)))[0]


OPTIONS: list[dict[str, Any]] = [
    {"kind": "property", "run": "one"},
    {"kind": "property", "run": "one", "target": 1.5, "scale": 0.5},
    {"kind": "spread", "sign": -1},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_it_keeps_to_the_contract(options: dict[str, Any]) -> None:
    check_reward(lambda: make_reward("composition", **options), METALS)
    check_reward(lambda: make_reward("composition", **options), ("X", "Ga"))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_return_is_the_worth_of_the_last_composition(options: dict[str, Any]) -> None:
    chain, reward = growth(METALS), CompositionReward(**options)
    total = sum(reward(before, after).value for before, after in itertools.pairwise(chain))
    np.testing.assert_allclose(total, reward.worth(chain[-1])[0], atol=1e-6)
    value = reward.worth(chain[-1])[1][options["kind"]]
    target = options.get("target")
    expected = options.get("sign", 1) * value if target is None else -abs(value - target)
    np.testing.assert_allclose(total, expected / options.get("scale", 1), atol=1e-6)


def test_size_cell_and_places_do_not_matter() -> None:
    reward = CompositionReward("spread")
    salt = bulk("NaCl", "rocksalt", a=5.64)
    repeated = salt * (2, 1, 3)
    repeated.rattle(0.1, seed=1)
    values = worth(reward, salt, repeated, bulk("CsCl", "cesiumchloride", a=4.1))
    assert values[0] == values[1] != values[2]
    water = worth(reward, molecule("H2O"), Atoms("OH2OH2", np.random.default_rng(0).normal(size=(6, 3))))
    assert water[0] == water[1]
    assert worth(reward, Atoms("NaCl"))[0] == values[0]


def test_each_composition_costs_one_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = CompositionReward("spread")
    rng = np.random.default_rng(0)
    species = rng.integers(1, 3, size=(256, 4))
    batch = StructureBatch(rng.normal(size=(256, 4, 3)), species, ("X", "Cu", "Au"))
    first = reward.encoder.asked  # type: ignore[attr-defined]
    value = reward.worth(batch)[0]
    assert reward.encoder.asked - first == 5  # type: ignore[attr-defined]
    other = StructureBatch(batch.positions, species + 1, ("X", "Ni", "Cu", "Au"))
    np.testing.assert_array_equal(reward.worth(other)[0], value)
    assert reward.encoder.asked - first == 5  # type: ignore[attr-defined]
    swapped = StructureBatch(batch.positions, 3 - species, ("X", "Au", "Cu"))
    np.testing.assert_array_equal(reward.worth(swapped)[0], value)
    monkeypatch.setattr(composition, "MEMORY", 2)
    np.testing.assert_array_equal(reward.worth(batch)[0], value)
    reward.worth(StructureBatch.from_atoms([molecule("H2O")]))
    assert len(reward._remembered) == 2
    np.testing.assert_allclose(reward.worth(batch)[0], value, atol=1e-6)


def test_an_element_without_features_is_an_error_of_its_row() -> None:
    reward = CompositionReward("spread")
    after = StructureBatch.from_atoms([Atoms("CuAu"), Atoms("CuLr"), Atoms("Cu3")])
    before = StructureBatch(np.zeros((3, 0, 3)), np.zeros((3, 0), dtype=int), after.symbols)
    for _ in range(2):
        outcome = reward(before, after)
        assert list(outcome.errors) == [1]
        assert "Lr" in outcome.errors[1]
        assert np.isfinite(outcome.value).all()


def test_a_prediction_that_is_not_finite_is_an_error_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = CompositionReward("spread")
    monkeypatch.setattr(reward.encoder, "spread", lambda rows: np.full(len(rows), np.nan))
    for _ in range(2):
        assert "not finite" in reward.worth_errors(StructureBatch.from_atoms([Atoms("CuAu")]))[2][0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "sprea", "run": "one"}, "spread"),
        ({}, "no run"),
        ({"kind": "spread", "scale": 0.0}, "scale 0"),
        ({"kind": "spread", "target": float("nan")}, "target nan"),
        ({"kind": "spread", "sign": 2}, "sign 2"),
        ({"kind": "spread", "sign": -1, "target": 1.0}, "sign -1"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        make_reward("composition", **options)


@pytest.mark.parametrize(
    ("env", "options"),
    [("Cluster-v0", {"formula": "Cu2Au2"}), ("Molecule-v0", {"formula": "CH4O"}), ("CrystalSlots-v0", {})],
)
def test_environments_take_it(env: str, options: dict[str, Any]) -> None:
    vector = make_vec(env, 3, reward="composition", reward_kwargs={"kind": "spread"}, **options)
    vector.reset(seed=0)
    for _ in range(3):
        reward = vector.step(vector.action_space.sample())[1]
        assert np.isfinite(reward).all()


def test_a_fitted_encoder_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch.manual_seed(0)
    network = CompositionNetwork(Shape(element_features="megnet16", hidden_dim=8, sto_layers=1))
    encoder = model.CompositionEncoder(network, epochs=2, freeze=True)
    formulas = ["NaCl", "MgO", "KCl", "CaO", "Cu3Au", "CuAu", "NiAl", "TiO2", "SiO2", "GaAs"]
    encoder.fit(formulas, np.arange(10.0))
    encoder.save(tmp_path / "encoder.safetensors")
    reward = CompositionReward("property", str(tmp_path / "encoder.safetensors"), scale=2.0)
    expected = encoder.predict(["TiO2", "CuAu"])
    np.testing.assert_allclose(worth(reward, Atoms("O4Ti2"), Atoms("Cu2Au2")), expected / 2, rtol=1e-5)
    with pytest.raises(InputError, match="spread"):
        CompositionReward("spread", str(tmp_path / "encoder.safetensors"))
