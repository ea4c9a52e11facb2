"""The budget is counted where energies are computed, and never exceeded."""

import numpy as np
import pytest

from megen_gym.agents.registry import make_policy, register
from megen_gym.arena.found import Finds
from megen_gym.arena.meter import Meter, Spent, metered
from megen_gym.arena.playing import enter
from megen_gym.arena.problem import Problem, goal_of
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.rewards import make_reward
from megen_gym.rewards.lennard_jones import GLOBAL_MINIMA
from megen_gym.structure import StructureBatch

LJ = {"n": 7}


def pairs(count: int) -> StructureBatch:
    positions = np.zeros((count, 2, 3))
    positions[:, 1, 0] = 2.65
    return StructureBatch(positions, np.ones((count, 2), dtype=np.int64), ("X", "Ar"))


def test_every_structure_is_counted_and_nothing_beyond_the_budget() -> None:
    meter = Meter(5)
    reward = metered(make_reward("lennard_jones"), meter)
    reward.energy(pairs(3))
    assert (meter.used, meter.left) == (3, 2)
    with pytest.raises(Spent):
        reward.energy(pairs(3))
    assert meter.used == 3
    reward.energy_forces(pairs(2))
    assert meter.left == 0
    empty = StructureBatch(np.zeros((2, 1, 3)), np.zeros((2, 1), dtype=np.int64), ("X", "Ar"))
    assert reward.energy(empty).tolist() == [0, 0]


def test_relaxations_within_an_energy_count_too() -> None:
    meter, inner = Meter(1000), make_reward("lj", relax_steps=5)
    metered(inner, meter).energy(pairs(1))
    assert meter.used == inner.evaluations
    assert meter.used > 1


def test_rewards_other_than_energies_are_counted_by_placement() -> None:
    meter = Meter(100)
    reward = metered(make_reward("sum", rewards=["contacts", "distance"]), meter)
    reward(pairs(4), pairs(4))
    assert meter.used == 4


def test_the_first_hit_is_the_evaluation_that_made_it() -> None:
    meter = Meter(100, goal=np.array([0, 2]), target=-0.999)
    reward = metered(make_reward("lennard_jones"), meter)
    stretched = pairs(4)
    stretched.positions[:3, 1, 0] = 4.0
    reward.energy(stretched[:2])
    assert meter.hit is None
    reward.energy(stretched)
    assert meter.hit == 6
    single = StructureBatch(np.zeros((1, 1, 3)), np.ones((1, 1), dtype=np.int64), ("X", "Ar"))
    other = Meter(100, goal=np.array([0, 2]), target=0.5)
    metered(make_reward("lennard_jones"), other).energy(single)
    assert other.hit is None, "a part of the structure is no hit"


@pytest.mark.parametrize(
    ("env", "kwargs", "goal"),
    [
        ("LJCluster-v0", {"n": 7}, [0, 7]),
        ("Cluster-v0", {"formula": "Cu3Au2"}, [0, 3, 2]),
        ("Cluster-v0", {"formula": "Cu2", "refills": 2}, [0, 6]),
        ("GaCluster-v0", {"n": 9, "start": "seeds"}, [0, 9]),
        ("Cluster-v0", {"formula": "Cu2,Cu3"}, None),
        ("GaCluster-v0", {"n": 5, "stop": True}, None),
        ("CrystalSlots-v0", {"template": "rocksalt"}, [0, 4, 4]),
        ("CrystalWyckoff-v0", {"reward": "contacts"}, None),
    ],
)
def test_what_all_episodes_end_with(env: str, kwargs: dict, goal: list[int] | None) -> None:
    found = goal_of(make_vec(env, 1, **kwargs).task)
    assert (None if found is None else found.tolist()) == goal


@pytest.mark.parametrize("name", ["random", "greedy", "compact", "regrow", "scipy_basin_hopping", "basin_hopping"])
def test_entrants_keep_the_budget_and_repeat_themselves(name: str) -> None:
    runs = []
    for _ in range(2):
        problem = Problem.make("LJCluster-v0", LJ, budget=300, seed=3)
        enter(make_policy(name, problem.env(1), seed=3), problem)
        finds = Finds.of(problem)
        assert 200 < problem.meter.used <= 300
        assert len(finds)
        assert finds.evaluations.max() <= 300
        assert (np.diff(finds.evaluations) >= 0).all()
        assert (finds.value >= GLOBAL_MINIMA[7] - 1e-4).all()
        energies = make_reward("lennard_jones").energy(finds.batch(problem.task.symbols, (False,) * 3))
        np.testing.assert_allclose(energies, finds.value, atol=1e-9)
        runs.append(finds.value)
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("name", ["random_search", "minima_hopping", "covariant", "ppo"])
def test_slower_entrants_keep_the_budget(name: str) -> None:
    problem = Problem.make("LJCluster-v0", {"n": 5}, budget=150, seed=0)
    enter(make_policy(name, problem.env(1), seed=0), problem)
    assert 0 < problem.meter.used <= 150
    assert len(problem.found)


def test_looking_at_energies_is_paid_for() -> None:
    problem = Problem.make("LJCluster-v0", {"n": 5}, budget=100, relax=False)
    enter(make_policy("greedy", problem.env(1), k=4), problem)
    # Four candidates for each of five atoms, and the end.
    assert [found.evaluations for found in problem.found] == [21, 42, 63, 84]


def test_kept_atoms_stand_still() -> None:
    arguments = {
        "template": "fcc", "prototype_kwargs": {"formula": "Cu"}, "supercell": [2, 1, 1], "keep": 6, "reward": "emt",
    }  # fmt: skip
    for name in ("random", "random_search", "basin_hopping", "scipy_basin_hopping"):
        problem = Problem.make("CrystalSlots-v0", arguments, budget=50)
        assert problem.fixed == 6
        enter(make_policy(name, problem.env(1)), problem)
        kept = np.stack([found.positions[:6] for found in problem.found])
        np.testing.assert_allclose(kept, np.broadcast_to(problem.task.template.positions[:6], kept.shape), atol=1e-6)


@pytest.mark.parametrize("name", ["basin_hopping", "scipy_basin_hopping", "random_search"])
def test_searches_take_what_is_smaller_than_the_canvas(name: str) -> None:
    problem = Problem.make("LJCluster-v0", {"formula": "Ar", "size_range": (4, 5), "canvas_size": 7}, budget=80)
    enter(make_policy(name, problem.env(1)), problem)
    assert {len(found.species) for found in problem.found} <= {4, 5}
    assert problem.found


def test_what_a_calculator_refuses_is_no_energy() -> None:
    problem = Problem.make("Cluster-v0", {"formula": "Cu4", "reward": "emt"}, budget=200, seed=1)
    inner, asked = problem.reward.inner, 0
    honest = inner.energy_forces

    def failing(batch):
        nonlocal asked
        asked += 1
        if asked % 3:
            return honest(batch)
        return np.full(1, np.nan), np.full(batch.positions.shape, np.nan), {0: "no"}

    inner.energy_forces = failing
    enter(make_policy("basin_hopping", problem.env(1)), problem)
    values = np.array([found.value for found in problem.found])
    assert np.isnan(values).any()
    assert np.nanmax(values) < 100


def test_thresholds_follow_the_unit_of_energy() -> None:
    problem = Problem.make("LJCluster-v0", {"n": 6, "epsilon": 1e-3}, budget=50)
    assert problem.meter.target == pytest.approx(1e-3 * (GLOBAL_MINIMA[6] + 1e-3))
    assert problem.fmax == pytest.approx(5e-5)


def test_single_atoms_are_free() -> None:
    problem = Problem.make("Cluster-v0", {"formula": "Au3Cu2", "reward": "emt"}, budget=1, relax=False)
    enter(make_policy("random", problem.env(1)), problem)
    assert problem.meter.used == 1
    assert len(problem.found) == 1


def test_what_is_no_energy_is_judged_placement_by_placement() -> None:
    problem = Problem.make("LJCluster-v0", {"n": 5, "reward": "contacts"}, budget=50)
    enter(make_policy("random", problem.env(1)), problem)
    assert not problem.is_energy
    assert len(problem.found) == 10
    assert problem.meter.used == 50


def test_searches_move_the_atoms_of_a_cell_and_keep_it() -> None:
    arguments = {"template": "rocksalt", "reward": "lj", "free": "positions"}
    problem = Problem.make("CrystalSlots-v0", arguments, budget=150)
    enter(make_policy("basin_hopping", problem.env(1)), problem)
    cells = np.stack([found.cell for found in problem.found])
    np.testing.assert_allclose(cells, np.broadcast_to(problem.task.lattice.cell, cells.shape))
    finds = Finds.of(problem)
    assert finds.batch(problem.task.symbols, (True,) * 3).n_atoms.tolist() == [8] * len(finds)


class Idle:
    """Always the same move."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(observation["species"]), 6)), state


def test_a_policy_whose_structures_are_empty_is_given_up() -> None:
    problem = Problem.make("LJCluster-v0", {"n": 2}, budget=50)
    initial = problem.task.initial

    def nothing(uniform, episode):
        state = initial(uniform, episode)
        state.bag[:] = 0
        return state

    problem.task.initial = nothing
    with pytest.raises(InputError, match="without building anything"):
        enter(Idle(), problem)


@pytest.mark.parametrize(
    ("spec", "env", "kwargs", "words"),
    [
        ("gred", "LJCluster-v0", LJ, "did you mean 'greedy'"),
        ("gschnet", "LJCluster-v0", LJ, "has to be trained"),
        ("greedy@newest", "LJCluster-v0", LJ, "never trained"),
        ("covariant@", "LJCluster-v0", LJ, "names no run"),
        ("no_module:f", "LJCluster-v0", LJ, "cannot be imported"),
        ("minima_hopping", "GaCluster-v0", {"n": 5}, "needs forces, which Dart"),
        ("basin_hopping", "CrystalWyckoff-v0", {}, "moves atoms"),
        ("basin_hopping", "LJCluster-v0", {"n": 5, "reward": "contacts"}, "follows an energy"),
        ("basin_hopping", "CrystalSlots-v0", {"template": "rocksalt", "free": "species"}, "moves atoms"),
        ("compact", "CrystalSlots-v0", {"template": "rocksalt"}, "counts neighbours"),
        ("covariant", "LJCluster-v0", {"n": 5, "stop": True}, "one composition"),
        ("regrow", "CrystalSlots-v0", {"template": "rocksalt", "reward": "lj", "free": "positions"}, "takes atoms off"),
    ],
)
def test_what_does_not_fit_is_refused(spec: str, env: str, kwargs: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_policy(spec, Problem.make(env, kwargs).env(1))


def test_options_are_checked() -> None:
    env = make_vec("LJCluster-v0", 1, n=5)
    for spec, options in (("greedy", {"kk": 3}), ("covariant", {"learning": 1}), ("basin_hopping", {"step": -1})):
        with pytest.raises(InputError):
            make_policy(spec, env, **options)
    for values in ({"budget": 0}, {"seed": -1}, {"seed": 2**32}, {"fmax": 0}, {"tolerance": -1}):
        with pytest.raises(InputError, match=f"^{next(iter(values))} is .*; give"):
            Problem.make("LJCluster-v0", LJ, **values)
    with pytest.raises(InputError, match="one composition"):
        Problem.make("LJCluster-v0", {"formula": "Ar", "size_range": (4, 5)}, known_minimum=-6.0)
    for spec, options in (("greedy", {"k": 0}), ("random", {"tries": "many"})):
        with pytest.raises(InputError, match="whole number"):
            make_policy(spec, env, **options)


def test_nothing_is_built_for_a_budget_that_is_spent() -> None:
    problem = Problem.make("LJCluster-v0", LJ, budget=5)
    policy = make_policy("random", problem.env(1))
    problem.meter.charge(5)

    def predict(*_: object, **__: object) -> None:
        raise AssertionError("asked for a placement")

    policy.predict = predict
    enter(policy, problem)
    assert problem.found == []


def test_a_learner_takes_the_other_network() -> None:
    env = Problem.make("LJCluster-v0", LJ).env(1)
    for name in ("ppo", "covariant"):
        assert make_policy(name, env, policy="mlp").settings.policy == "mlp"


def test_names_that_mean_something_else_are_not_registered() -> None:
    with pytest.raises(InputError, match="= and commas"):
        register("fast=own", lambda env, seed: None)
