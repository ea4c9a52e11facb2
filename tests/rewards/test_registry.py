"""Rewards by name."""

import json
import subprocess
import sys

import numpy as np
import pytest

from megen_gym.errors import InputError
from megen_gym.rewards import EnergyReward, Reward, make_reward, register, registry, reward_from_spec, reward_names

from .conformance import check_reward, growth

SPECS = [
    {"name": "lj"},
    {"name": "lj", "relax_steps": 3},
    {"name": "emt"},
    {"name": "calculator", "calculator": "emt", "relax_steps": 2, "optimizer": "BFGS"},
    {"name": "ase.calculators.morse.MorsePotential", "r0": 2.6, "rho0": 4.0},
    {"name": "contacts"},
    {"name": "contacts", "cutoff": 2.6, "neighbour": 0.1, "bond_distance": 3.0},
    {"name": "distance"},
    {"name": "distance", "max_solo": 2.6},
    {"name": "novelty", "n_max": 4, "l_max": 3},
    {"name": "sum", "rewards": ["lj", {"name": "contacts", "weight": 0.1}, "contacts"]},
    {"name": "dart"},
    {"name": "soap_ridge"},
    {"name": "lennard_jones", "epsilon": 0.5},
    {"name": "megen"},
]


def build(spec):
    try:
        return reward_from_spec(spec)
    except (ModuleNotFoundError, InputError) as error:
        if spec["name"] in ("dart", "megen"):
            pytest.skip(f"{spec['name']} cannot be made here: {error}")
        raise


@pytest.mark.parametrize("spec", SPECS, ids=json.dumps)
def test_every_reward_conforms(spec):
    build(spec)
    elements = ("X", "Al", "Cu") if "emt" in json.dumps(spec) else ("X", "Ga")
    tolerance = {"novelty": 1e-5, "dart": 1e-4, "megen": 1e-4, "soap_ridge": 1e-4}.get(spec["name"], 1e-6)
    check_reward(lambda: reward_from_spec(json.loads(json.dumps(spec))), elements, tolerance)


def test_every_name_is_tested():
    # an extra; judges what a trained run makes (tests/agents); for periodic crystals (test_crystal_rewards.py); for
    # molecules (test_molecule_rewards.py)
    elsewhere = {"tblite", "gfn2", "discriminator", "density", "valid", "volume_per_atom", "property", "composition"}
    elsewhere |= {"molecule_valid", "target"}
    assert set(reward_names()) - {spec["name"] for spec in SPECS} <= elsewhere


def test_unknown_name_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'dart'"):
        make_reward("drat")


@pytest.mark.parametrize("name", [3, None, {"name": "lj"}, ["lj"]])
def test_only_a_name_is_a_name(name):
    with pytest.raises(InputError, match="by its name"):
        make_reward(name)


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="did you mean 'cutoff'"):
        make_reward("contacts", cutof=2.0)
    with pytest.raises(InputError, match="needs calculator"):
        make_reward("calculator")
    with pytest.raises(InputError, match="did you mean 'time_limit'"):
        make_reward("emt", time_limt=3)
    with pytest.raises(InputError, match="no name"):
        reward_from_spec({"cutoff": 2.0})


def test_calculator_options_and_own_options_are_told_apart():
    reward = make_reward("lj", sigma=2.0, relax_steps=2, kwargs={"epsilon": 3.0})
    assert reward.settings.kwargs["sigma"] == 2.0
    assert reward.settings.kwargs["epsilon"] == 3.0
    assert reward.settings.relax_steps == 2


class Ring(EnergyReward):
    """A reward of a user."""

    def __init__(self, size: int = 5) -> None:
        self.size = size

    def energy(self, batch):
        return -1.0 * batch.n_atoms


def test_a_reward_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, "_users", {})
    register("ring", Ring)
    assert make_reward("ring", size=4).size == 4
    assert "ring" in reward_names()
    register("ring", f"{__name__}:Ring")
    assert isinstance(make_reward("ring"), Ring)
    assert isinstance(make_reward(f"{__name__}:Ring", size=7), Reward)
    check_reward(lambda: make_reward("ring"))
    with pytest.raises(InputError, match="no option 'sise'; did you mean 'size'"):
        make_reward("ring", sise=4)


def test_bad_registrations_are_refused(monkeypatch):
    monkeypatch.setattr(registry, "_users", {})
    for name, target in [("dart", Ring), ("a.b", Ring), ("", Ring), ("mine", "no colon")]:
        with pytest.raises(InputError):
            register(name, target)
    register("broken", "no_such_module:Thing")
    with pytest.raises(InputError, match="cannot be imported"):
        make_reward("broken")
    with pytest.raises(InputError, match=r"derive it from megen_gym\.rewards\.Reward"):
        make_reward("builtins:dict")


def test_the_import_is_light():
    code = "import sys, megen_gym.rewards; print(sorted({'torch', 'dscribe', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_growth_is_what_it_says():
    chain = growth()
    assert [batch.n_atoms.tolist() for batch in chain] == [[n] * 3 for n in range(7)]
    assert np.isfinite(chain[-1].positions).all()
