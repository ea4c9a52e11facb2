"""Weighted sums."""

import json

import numpy as np
import pytest

from megen_gym.errors import InputError
from megen_gym.rewards import Outcome, Reward, make_reward
from megen_gym.rewards.combine import SumReward
from megen_gym.rewards.penalties import ContactReward, DistanceReward

from .conformance import growth

CHAIN = growth()


class Failing(Reward):
    """Cannot judge the given rows."""

    def __init__(self, *rows):
        self.rows = rows

    def __call__(self, before, after, known=None):
        return Outcome(np.zeros(len(after)), errors=dict.fromkeys(self.rows, "no"))


def test_the_sum_is_the_weighted_sum_and_its_terms_add_up():
    spec = {"rewards": ["lj", {"name": "contacts", "weight": 0.1, "cutoff": 2.8}, "distance"], "weights": [2, 1, 0.5]}
    outcome = make_reward("sum", **json.loads(json.dumps(spec)))(CHAIN[-2], CHAIN[-1])
    parts = [make_reward("lj"), make_reward("contacts", cutoff=2.8), make_reward("distance")]
    values = [part(CHAIN[-2], CHAIN[-1]).value for part in parts]
    assert outcome.value == pytest.approx(2 * values[0] + 0.1 * values[1] + 0.5 * values[2])
    assert outcome.value == pytest.approx(sum(outcome.terms[name] for name in ("lj", "contacts", "distance")))
    assert outcome.terms["contacts.overlap"] == pytest.approx(values[1])
    assert list(outcome.known) == ["lj.energy"]


def test_sums_in_sums_are_flattened():
    inner = SumReward([ContactReward(), DistanceReward()], weights=[1.0, 2.0])
    outer = SumReward([inner, ContactReward()], weights=[0.5, 3.0])
    assert [(label, weight) for label, weight, _ in outer.parts] == [
        ("contact", 0.5), ("distance", 1.0), ("contact_2", 3.0)
    ]  # fmt: skip
    nested = make_reward("sum", rewards=[{"name": "sum", "weight": 2.0, "rewards": ["contacts", "distance"]}, "lj"])
    assert [(label, weight) for label, weight, _ in nested.parts] == [("contacts", 2.0), ("distance", 2.0), ("lj", 1.0)]


def test_an_invalid_move_keeps_its_relative_weight():
    assert SumReward(["contacts", "distance"], weights=[2.0, -0.5]).invalid == pytest.approx(-2.5)
    assert SumReward(["contacts"], invalid=-7.0).invalid == -7.0
    assert SumReward([SumReward(["contacts"], invalid=-7.0), "lj"], weights=[2.0, 1.0]).invalid == -15.0


def test_errors_are_merged_with_their_source():
    outcome = SumReward([Failing(0, 1), ContactReward(), Failing(1)])(CHAIN[1], CHAIN[2])
    assert outcome.errors == {0: "failing: no", 1: "failing: no; failing_2: no"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"rewards": []},
        {"rewards": "lj"},
        {"rewards": ["lj"], "weights": [1, 2]},
        {"rewards": ["lj"], "weights": [float("nan")]},
        {"rewards": [{"name": "lj", "weight": "much"}]},
        {"rewards": [{"weight": 1.0}]},
        {"rewards": ["lk"]},
    ],
    ids=str,
)
def test_bad_input_is_refused(arguments):
    with pytest.raises(InputError):
        make_reward("sum", **arguments)


@pytest.mark.skipif(not hasattr(Reward, "__add__"), reason="Reward has no operators")
def test_plus_and_times():
    total = 2 * ContactReward() + DistanceReward() * 0.5 + make_reward("lj")
    assert [(label, weight) for label, weight, _ in total.parts] == [
        ("contact", 2.0), ("distance", 0.5), ("calculator", 1.0)
    ]  # fmt: skip
    assert total.invalid == pytest.approx(-3.5)
    assert len(sum([ContactReward(), DistanceReward()]).parts) == 2
    with pytest.raises(TypeError):
        ContactReward() + "lj"
