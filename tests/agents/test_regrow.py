"""Basin hopping whose moves a policy makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from megen_gym.agents.registry import make_policy
from megen_gym.agents.search import regrow
from megen_gym.agents.search.regrow import Regrow
from megen_gym.arena.found import Finds, valid_structures
from megen_gym.arena.meter import Spent
from megen_gym.arena.playing import enter
from megen_gym.arena.problem import Problem
from megen_gym.errors import InputError


def searched(env: str, arguments: dict[str, Any], budget: int, seed: int = 0, **options: Any) -> Problem:
    """A problem whose budget was spent."""
    problem = Problem.make(env, arguments, budget=budget, seed=seed)
    enter(make_policy("regrow", problem.env(1), seed=seed, **options), problem)
    return problem


@pytest.mark.parametrize("budget", [1, 37, 90])
def test_it_spends_the_budget_and_no_more(budget: int) -> None:
    problem = searched("LJCluster-v0", {"n": 9}, budget)
    assert problem.meter.used == budget
    assert all(found.evaluations <= budget for found in problem.found)


def test_a_seed_decides_everything() -> None:
    values = [[found.value for found in searched("LJCluster-v0", {"n": 9}, 200, seed).found] for seed in (3, 3, 4)]
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_the_composition_stays_and_two_elements_work() -> None:
    problem = searched("Cluster-v0", {"formula": "Cu4Au3", "reward": "emt"}, 120)
    assert len(problem.found) > 2
    counts = np.array([np.bincount(found.species, minlength=3) for found in problem.found])
    goal = problem.meter.goal
    assert goal is not None
    assert (counts == goal).all()
    assert sorted(goal.tolist()) == [0, 3, 4]


@pytest.mark.parametrize("seed", range(2))
def test_seven_atoms_are_soon_right(seed: int) -> None:
    hit = searched("LJCluster-v0", {"n": 7}, 600, seed).meter.hit
    assert hit is not None
    assert hit < 600


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_clusters_do_no_harm(count: int) -> None:
    assert searched("LJCluster-v0", {"n": count}, 20).found


@pytest.mark.parametrize(
    "options",
    [
        {"most": 0},
        {"patience": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"penalty": -1.0},
        {"penalty": float("inf")},
        {"policy": "basin_hopping"},
        {"policy": "nobody"},
        {"policy_kwargs": {"k": 3}},
        {"policy_kwargs": {"seed": 3}},
        {"share": 1.5},
        {"symmetric": -0.1},
        {"symmetric": float("nan")},
        {"moost": 3},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        searched("LJCluster-v0", {"n": 7}, 10, **options)


def test_policies_share_the_moves() -> None:
    problem = Problem.make("LJCluster-v0", {"n": 7}, budget=200, seed=0)
    search = Regrow(problem.env(1), policy="random", policy_kwargs={"tries": 32}, share=0.25, symmetric=0.0)
    calls = {"policy": 0, "other": 0}
    for name in calls:
        predict = getattr(search, name).predict

        def counted(*words: Any, name: str = name, predict: Any = predict) -> Any:
            calls[name] += 1
            return predict(*words)

        getattr(search, name).predict = counted
    with pytest.raises(Spent):
        search.search(problem)
    assert 0 < calls["policy"] < calls["other"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_a_share_of_the_evaluations_starts_from_symmetric_structures(share: float) -> None:
    problem = Problem.make("LJCluster-v0", {"n": 8}, budget=2500, seed=0)
    search = Regrow(problem.env(1), symmetric=share, patience=4)
    hop, spent = search._hop, {True: 0, False: 0}

    def counted(problem: Problem, structure: Any, energy: float, rng: Any, patience: int, visits: Any) -> None:
        before = problem.meter.used
        try:
            hop(problem, structure, energy, rng, patience, visits)
        finally:
            spent[patience == regrow.SHORT] += problem.meter.used - before

    search._hop = counted
    with pytest.raises(Spent):
        search.search(problem)
    assert spent[True] / sum(spent.values()) == pytest.approx(share, abs=0.15)
    assert (spent[True] > 0) == (share > 0)


def test_valid_structures_are_not_left_for_others() -> None:
    """Under soap_ridge many minima of gallium break the windows of the task."""
    problem = Problem.make("GaCluster-v0", {"n": 7, "reward": "soap_ridge"}, budget=150, seed=0)
    search = Regrow(problem.env(1), symmetric=0.0)
    left, moved = [], search._moved

    def seen(problem: Problem, structure: Any, rng: Any) -> Any:
        left.append(bool(valid_structures(problem.task, structure)[0]))
        return moved(problem, structure, rng)

    search._moved = seen
    built, starts = search._built, []

    def built_at(problem: Problem, number: int) -> Any:
        starts.append(len(left))
        return built(problem, number)

    search._built = built_at
    with pytest.raises(Spent):
        search.search(problem)
    for begin, end in zip(starts, [*starts[1:], len(left)], strict=True):
        run = left[begin:end]
        assert run == sorted(run)


def test_a_scaffold_is_kept_to() -> None:
    slab = [[x, y, z] for x in (-9, 9) for y in (-9, 9) for z in (-1.5, 1.5)]
    problem = Problem.make("GaCluster-v0", {"n": 5, "scaffold": slab}, budget=40, seed=0)
    enter(make_policy("regrow", problem.env(1), seed=0), problem)
    enter_again = Problem.make("GaCluster-v0", {"n": 5, "scaffold": slab}, budget=40, seed=0)
    enter(make_policy("symmetric_search", enter_again.env(1), seed=0), enter_again)
    for one in (problem, enter_again):
        finds = Finds.of(one)
        inside = (np.abs(finds.positions[..., 2]) <= 1.5 + 1e-6).all(1)
        assert not (finds.valid & ~inside).any()
        assert len(finds)


def test_an_incomplete_first_structure_is_not_searched_on() -> None:
    problem = Problem.make("LJCluster-v0", {"n": 6}, budget=120, seed=0)
    search = Regrow(problem.env(1))
    built, number = search._built, 0

    def cut(problem, begun):
        nonlocal number
        number += 1
        whole = built(problem, begun)
        return whole if number > 1 else type(whole)(whole.positions[:, :4], whole.species[:, :4], whole.symbols)

    search._built = cut
    with pytest.raises(Spent):
        search.search(problem)
    assert [len(found.species) for found in problem.found][:2] == [4, 6]
    assert {len(found.species) for found in problem.found[1:]} == {6}
