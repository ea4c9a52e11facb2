"""Rewards of whole molecules: hand-made numbers, the contract of rewards, Molecule-v0, and failing calculators."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.units import Bohr, Hartree

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.rewards import make_reward, reward_from_spec
from megen_gym.rewards.calculator import CalculatorReward
from megen_gym.rollout import rollout
from megen_gym.structure import StructureBatch

from .conformance import check_worth

EMT_SPECS = [
    {"name": "target", "property": "energy_per_atom", "target": -2.0, "calculator": "emt"},
    {"name": "target", "property": "atomization_energy", "target": 5.0, "scale": 0.5, "calculator": "emt"},
    {"name": "sum", "rewards": ["molecule_valid", {"name": "molecule_valid", "weight": -0.25}]},
    {"name": "molecule_valid"},
]
MOODY = f"{__name__}.Moody"


class Moody(Calculator):
    """Gives a dipole of the size of the first coordinate, and fails for more than two atoms."""

    implemented_properties = ["energy", "dipole"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if len(atoms) > 2:
            raise RuntimeError("too many atoms")
        self.results = {"energy": 0.0, "dipole": np.array([0.0, atoms.positions[-1, 0], 0.0])}


def molecules_that_grow() -> list[StructureBatch]:
    """Methane, formic acid and ketene of nothing, one, two ... atoms."""
    whole = StructureBatch.from_atoms([molecule(name) for name in ("CH4", "HCOOH", "H2CCO")])
    here = np.arange(5) < np.arange(6)[:, None]
    return [StructureBatch(whole.positions * k[:, None], whole.species * k, whole.symbols) for k in here]


def worth(spec: dict, *molecules: Atoms) -> list[float]:
    after = StructureBatch.from_atoms(list(molecules))
    nothing = StructureBatch(np.zeros((len(after), 0, 3)), np.zeros((len(after), 0), dtype=int), after.symbols)
    outcome = reward_from_spec(spec)(nothing, after)
    assert not outcome.errors
    return outcome.value.tolist()


@pytest.mark.parametrize("spec", EMT_SPECS, ids=json.dumps)
def test_they_keep_to_the_contract_and_return_the_worth_of_the_last_molecule(spec: dict) -> None:
    chain = molecules_that_grow()
    check_worth(spec, chain)
    assert (reward_from_spec(spec)(chain[0], chain[-1]).value != 0).all()


def test_possible_molecules_are_worth_one() -> None:
    apart = molecule("CH4") + Atoms("O", [(9.0, 0, 0)])
    spec = {"name": "molecule_valid"}
    assert worth(spec, molecule("CH3CH2OH"), molecule("C6H6"), molecule("CH3"), apart, Atoms("H")) == [1, 1, 0, 0, 0]


def test_numbers_by_hand() -> None:
    water = molecule("H2O")
    energies = []
    for atoms in (water, Atoms("H"), Atoms("O")):
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    bound = energies[0] - 2 * energies[1] - energies[2]
    emt = {"name": "target", "calculator": "emt", "target": 1.0}
    assert worth(emt | {"property": "energy_per_atom"}, water) == pytest.approx([-abs(bound / 3 - 1)])
    assert worth(emt | {"property": "atomization_energy", "scale": 2}, water) == pytest.approx([-abs(-bound - 1) / 2])
    moody = {"name": "target", "calculator": MOODY, "time_limit": None, "target": 0.5}
    assert worth(moody | {"property": "dipole"}, Atoms("H2", [(0, 0, 0), (-2, 0, 0)])) == pytest.approx([-1.5])


@pytest.mark.parametrize("time_limit", [None, 60.0])
def test_a_molecule_that_the_calculator_fails_for_is_an_error_of_its_row(time_limit: float | None) -> None:
    reward = make_reward("target", property="dipole", target=0.0, calculator=MOODY, time_limit=time_limit)
    pair, three = Atoms("H2", [(0, 0, 0), (1, 0, 0)]), Atoms("H3", [(0, 0, 0), (1, 0, 0), (2, 0, 0)])
    batch = StructureBatch.from_atoms([pair, three, pair])
    outcome = reward(batch[[0, 0, 0]], batch)
    assert outcome.errors == {1: "RuntimeError: too many atoms"}
    assert outcome.value.tolist() == [0.0, 0.0, 0.0]
    assert outcome.terms["dipole"][[0, 2]].tolist() == [1.0, 1.0]
    assert reward(batch, batch[[0, 0, 0]]).errors == {1: "RuntimeError: too many atoms"}


def test_molecules_are_paid_what_they_are_worth() -> None:
    env = make_vec("Molecule-v0", 4, formula="free", max_n_atoms=4, reward="molecule_valid")
    played = rollout(RandomValid(env.task, seed=0), env, 80, seed=0)
    expected = worth({"name": "molecule_valid"}, *played.structures.to_atoms())
    assert played.episode_return.tolist() == expected
    assert 0 < sum(expected) < 80


def test_gfn2_numbers() -> None:
    interface = pytest.importorskip("tblite.interface")
    molecules = [molecule(name) for name in ("CH3CH2OH", "C6H6", "CH3", "H2O")]
    gaps, dipoles = [], []
    for atoms in molecules:
        job = interface.Calculator("GFN2-xTB", atoms.numbers, atoms.positions / Bohr)
        job.set("verbosity", 0)
        result = job.singlepoint()
        top = -(-round(result.get("orbital-occupations").sum()) // 2)
        levels = result.get("orbital-energies") * Hartree
        gaps.append(levels[top] - levels[top - 1])
        dipoles.append(np.linalg.norm(result.get("dipole")) * Bohr)
    assert gaps[0] == pytest.approx(12.2758, abs=1e-3)
    for name, values in (("gap", gaps), ("dipole", dipoles)):
        found = worth({"name": "target", "property": name, "target": 1.0, "time_limit": None}, *molecules)
        np.testing.assert_allclose(found, -np.abs(np.array(values) - 1.0), atol=1e-5)


def test_a_hydrogen_atom_has_its_empty_orbital_at_the_vacuum_level() -> None:
    pytest.importorskip("tblite")
    (value,) = worth({"name": "target", "property": "gap", "target": 0.0, "time_limit": None}, Atoms("H"))
    assert value == pytest.approx(-10.7072, abs=1e-3)


def test_gfn2_properties_in_a_child_process_and_here() -> None:
    pytest.importorskip("tblite")
    batch = StructureBatch.from_atoms([molecule("CH4"), molecule("H2O")])
    energy = make_reward("gfn2").energy(batch)
    assert (energy < -10).all()
    for name, expected in (("atomization_energy", -energy), ("energy_per_atom", energy / batch.n_atoms)):
        value, terms = make_reward("target", property=name, target=2.0, time_limit=None).worth(batch)
        np.testing.assert_allclose(terms[name], expected)
        np.testing.assert_allclose(value, -np.abs(expected - 2.0))


def test_wrong_use_is_answered_in_a_sentence() -> None:
    copper = StructureBatch.from_atoms([bulk("Cu")])
    for reward in (make_reward("molecule_valid"), make_reward(**EMT_SPECS[0])):
        with pytest.raises(InputError, match=r"periodic structures.*Molecule-v0"):
            reward(copper, copper)
    with pytest.raises(InputError, match="needs property, target"):
        make_reward("target")
    with pytest.raises(InputError, match="did you mean 'dipole'"):
        make_reward("target", property="dipol", target=1.0)
    for options in ({"target": float("nan")}, {"target": 4.0, "scale": 0.0}):
        with pytest.raises(InputError, match=r"expected a finite number as target \(eV, HOMO-LUMO\)"):
            make_reward("target", property="gap", **options)
    with pytest.raises(InputError, match="gives no gap; use one that does"):
        make_reward("target", property="gap", target=1.0, calculator="emt")
    with pytest.raises(InputError, match="gives no dipole"):
        make_reward("target", property="dipole", target=1.0, calculator="lj")
    with pytest.raises(InputError, match="no option 'time_limt'; did you mean 'time_limit'"):
        make_reward("target", property="gap", target=1.0, time_limt=3)
    with pytest.raises(InputError, match="the property says that"):
        make_reward("target", property="gap", target=1.0, quantity="gap")
    with pytest.raises(InputError, match="'homo' is read of no calculator"):
        CalculatorReward("emt", quantity="homo")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"megen-gym\[molecules\]"):
        make_reward("molecule_valid")
    with pytest.raises(InputError, match=r"megen-gym\[xtb\]"):
        make_reward("target", property="gap", target=1.0)
