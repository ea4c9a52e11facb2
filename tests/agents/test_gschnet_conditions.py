"""What molecules are asked for: embeddings, ranges and warnings, values that go without saying, wrong requests."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from megen_gym.agents.gschnet.asking import parse_conditions, values_of
from megen_gym.agents.gschnet.conditions import Condition, Conditioning, tensors
from megen_gym.errors import InputError

TYPES = (1, 6, 7, 8, 9)
GAP = Condition.of(
    "gap", np.linspace(2, 11, 50), "eV", options={"condition_min": 2, "condition_max": 11, "grid_spacing": 2.25}
)
VECTOR = Condition.of("fingerprint", np.eye(3))
COMPOSITION = Condition.of("composition", np.array([[4, 1, 0, 0, 0], [10, 7, 0, 2, 0]]), "", TYPES)
N_ATOMS = Condition.of("n_atoms", np.array([5.0, 19.0]))
N_HEAVY = Condition.of("n_heavy_atoms", np.array([1.0, 9.0]))


def test_numbers_are_seen_by_gaussians_as_wide_as_they_are_apart() -> None:
    np.testing.assert_allclose(GAP.centres, [2, 4.25, 6.5, 8.75, 11])
    module = Conditioning([GAP]).each["gap"]
    seen: list[torch.Tensor] = []
    module.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # type: ignore[index,union-attr,operator]
    module(torch.tensor([[4.25], [6.5]]))
    np.testing.assert_allclose(seen[0][0], np.exp(-0.5 * np.arange(-1, 4) ** 2.0), rtol=1e-5)
    np.testing.assert_allclose(seen[0][1], np.exp(-0.5 * np.arange(-2, 3) ** 2.0), rtol=1e-5)
    uneven = Condition("a", "scalar", condition_min=0.0, condition_max=1.0, grid_spacing=0.3)
    np.testing.assert_allclose(uneven.centres, np.linspace(0, 1, 5))


def test_ranges_come_from_the_data_without_its_outliers() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(5, 1, 10_000), [80.0, -3.0]])
    found = Condition.of("gap", values, "eV")
    assert (found.kind, found.low, found.high) == ("scalar", -3.0, 80.0)
    assert 2 < found.condition_min < 3
    assert 7 < found.condition_max < 8
    assert len(found.centres) == 5
    assert len(Condition.of("same", np.full(9, 3.0)).centres) > 1
    assert (VECTOR.kind, VECTOR.n_in, VECTOR.low, VECTOR.high) == ("vector", 3, 1.0, 1.0)
    assert (COMPOSITION.low, COMPOSITION.high, COMPOSITION.condition_max) == (5, 19, 1.25 * 19)


def test_a_composition_is_shares_of_elements_and_the_number_of_atoms() -> None:
    torch.manual_seed(0)
    whole, heavy = (
        Conditioning([Condition.of("composition", np.array([[10, 7, 0, 2, 0]]), "", TYPES, {"skip_h": skip})]).each[
            "composition"
        ]
        for skip in (False, True)
    )
    one, two, more = (torch.tensor([counts]).float() for counts in ([4, 2, 0, 0, 0], [8, 4, 0, 0, 0], [9, 2, 0, 0, 0]))
    assert torch.equal(whole(one)[:, :64], whole(two)[:, :64])
    assert not torch.equal(whole(one)[:, :64], whole(more)[:, :64])
    assert not torch.equal(whole(one)[:, 64:], whole(two)[:, 64:])
    assert torch.equal(heavy(one)[:, :64], heavy(more)[:, :64])
    assert heavy(torch.tensor([[2.0, 0, 0, 0, 0]])).isfinite().all()
    assert whole(one).shape == (1, 128)


def test_options_are_numbers_of_any_kind_and_survive_json() -> None:
    """The command line turns all of them into decimal numbers."""
    options = {"n_features": 8.0, "n_layers": 2.0, "grid_spacing": 1.0}
    condition = Condition.of("gap", np.arange(5.0), "eV", options=options)
    again = json.loads(json.dumps(asdict(condition)))
    assert Condition(**(again | {"atom_types": ()})) == condition
    module = Conditioning([condition])
    assert module.each["gap"](torch.ones(3, 1)).shape == (3, 8)
    assert module({"gap": torch.ones(3, 1)}).shape == (3, 128)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"grid_spacin": 1.0}, "no option 'grid_spacin'; did you mean 'grid_spacing'"),
        ({"name": 1.0}, "no option 'name'"),
        ({"condition_min": 5.0, "condition_max": 2.0}, "span nothing"),
        ({"grid_spacing": 0.0}, "span nothing"),
        ({"n_features": 0.0}, "n_features"),
        ({"n_layers": 0.5}, "n_layers"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Condition.of("gap", np.arange(9.0), options=options)


def test_all_conditions_are_embedded_together() -> None:
    torch.manual_seed(0)
    module = Conditioning([GAP, VECTOR, COMPOSITION])
    values = {
        "gap": torch.tensor([[3.0], [8.0]]),
        "fingerprint": torch.eye(3)[:2],
        "composition": torch.tensor([[4.0, 1, 0, 0, 0], [6, 6, 0, 0, 0]]),
    }
    found = module(values)
    assert found.shape == (2, 128)
    torch.testing.assert_close(module({name: value[[1]] for name, value in values.items()})[0], found[1])
    for name in values:
        other = module(values | {name: values[name].flip(0)})
        assert (other - found).abs().max() > 1e-4, name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("gap=4.0", {"gap": "4.0"}),
        (" gap = 4 , composition=C7H10O2,", {"gap": "4", "composition": "C7H10O2"}),
        ("fingerprint=[1,0, 2],gap=3", {"fingerprint": "[1,0, 2]", "gap": "3"}),
    ],
)
def test_words_are_conditions(text: str, found: dict[str, str]) -> None:
    assert parse_conditions(text) == found


@pytest.mark.parametrize("text", ["gap", "gap=", "=4", "gap=4,gap=5", "gap=4,5"])
def test_words_that_are_no_conditions(text: str) -> None:
    with pytest.raises(InputError, match=r"write name=value|given twice"):
        parse_conditions(text)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"gap": "4.0"}, {"gap": [4.0]}),
        ({"gap": 4}, {"gap": [4.0]}),
        ({"fingerprint": "[1,0,0]"}, {"fingerprint": [1.0, 0, 0]}),
        ({"fingerprint": [0.0, 1, 0]}, {"fingerprint": [0.0, 1, 0]}),
        ({"composition": "C7H10O2"}, {"composition": [10.0, 7, 0, 2, 0]}),
        ({"composition": "CH4"}, {"composition": [4.0, 1, 0, 0, 0]}),
    ],
)
def test_values_of_each_kind(asked: dict[str, object], found: dict[str, list[float]], caplog: Any) -> None:
    known = {each.name: each for each in (GAP, VECTOR, COMPOSITION)}
    values = values_of([known[name] for name in asked], asked)
    assert {name: value.tolist() for name, value in values.items()} == {name: [value] for name, value in found.items()}
    assert not caplog.records


def test_a_composition_says_the_numbers_of_atoms(caplog: pytest.LogCaptureFixture) -> None:
    values = values_of([COMPOSITION, N_ATOMS, N_HEAVY], {"composition": "C7H10O2"})
    assert (float(values["n_atoms"]), float(values["n_heavy_atoms"])) == (19, 9)
    said = values_of([COMPOSITION, N_ATOMS], {"composition": "C7H10O2", "n_atoms": "18"})
    assert float(said["n_atoms"]) == 18
    assert not caplog.records


@pytest.mark.parametrize(
    ("condition", "asked", "sentence"),
    [
        (GAP, "12", "gap 12 is outside of what the model was trained on: 2 to 11 eV"),
        (GAP, "1.5", "gap 1.5 is outside of what the model was trained on: 2 to 11 eV"),
        (COMPOSITION, "C40H20", "number of atoms 60 is outside of what the model was trained on: 5 to 19"),
        (VECTOR, "[0,0,7]", "fingerprint 7 is outside of what the model was trained on: 1 to 1"),
    ],
)
def test_values_outside_of_the_training_data_are_warned_about(
    condition: Condition, asked: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    values_of([condition], {condition.name: asked})
    assert [record.getMessage() for record in caplog.records] == [sentence]
    assert caplog.records[0].levelname == "WARNING"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"gep": "4", "fingerprint": "[1,0,0]"},
            r"no condition 'gep'; it was trained with gap, fingerprint, composition, did you mean 'gap'",
        ),
        (
            {"gap": "4", "composition": "CH4"},
            r"needs a value for fingerprint \(1 to 1 was trained on\); give --condition fingerprint=",
        ),
        ({"fingerprint": "[1,0,0]", "composition": "CH4"}, r"needs a value for gap \(2 to 11 eV was trained on\)"),
        ({"gap": "4", "fingerprint": "[1,0]", "composition": "CH4"}, "condition fingerprint has 2 numbers; give 3"),
        ({"gap": "high"}, r"condition gap is 'high'; give 1 number\(s\)"),
        ({"gap": "nan"}, "condition gap is 'nan'; give finite numbers"),
        ({"composition": "CH3Cl"}, "composition 'CH3Cl' contains Cl; the model knows H, C, N, O, F"),
        ({"composition": "methane"}, "formula 'methane' cannot be read; write it like C7H10O2"),
        ({"gap": "4", "fingerprint": "[1,0,0]", "composition": "C0"}, "contains no atoms"),
    ],
)
def test_wrong_requests_are_one_sentence(asked: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        values_of([GAP, VECTOR, COMPOSITION], asked)


def test_a_model_without_conditions_says_so() -> None:
    with pytest.raises(InputError, match="no condition 'gap'; it was trained without conditions"):
        values_of([], {"gap": "4"})
    assert values_of([], {}) == {}


def test_training_values_have_the_length_of_the_condition() -> None:
    with pytest.raises(InputError, match="gap has 2 numbers; give 1"):
        tensors([GAP], {"gap": np.zeros((4, 2))})
    assert tensors([GAP], {"gap": np.zeros(4)})["gap"].shape == (4, 1)
