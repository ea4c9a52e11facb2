"""Calculators that work, and every way in which one can fail."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.optimize import FIRE

from megen_gym.errors import InputError
from megen_gym.rewards import make_reward
from megen_gym.rewards.calculator import CalculatorReward
from megen_gym.structure import StructureBatch


class Moody(Calculator):
    """-1 eV per atom; what else happens depends on the first atom's x coordinate."""

    implemented_properties = ("energy",)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        print("noise on standard output")
        mood = round(atoms.positions[0, 0])
        if mood == 1:
            raise RuntimeError("the SCF did\nnot converge")
        if mood == 2:
            time.sleep(60)
        if mood == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if mood == 4:
            sys.exit(7)
        if mood == 6:
            os.kill(os.getpid(), signal.SIGSEGV)
        self.results = {"energy": float("nan") if mood == 5 else -1.0 * len(atoms)}


class Unbuildable(Calculator):
    """Raises when it is made."""

    def __init__(self, flavour="sour"):
        raise RuntimeError(f"no licence for {flavour}")


class AllergicToAtoms(Moody):
    """Fails for single atoms."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if len(atoms) == 1:
            raise ValueError("needs two atoms")
        super().calculate(atoms, properties, system_changes)


MOODY = f"{__name__}.Moody"


def dimers(*moods):
    return StructureBatch.from_atoms([Atoms("Ga2", [(mood, 0, 0), (mood, 0, 2.6)]) for mood in moods])


def copper(n, seed=0):
    rng = np.random.default_rng(seed)
    return Atoms(f"Cu{n}", np.arange(n)[:, None] * [2.3, 0.3, 0.0] + rng.normal(scale=0.1, size=(n, 3)))


@pytest.mark.parametrize("limit", [None, 60])
def test_energies_are_those_of_the_calculator(limit):
    structures = [copper(n) for n in (1, 2, 4)]
    reward = make_reward("emt", time_limit=limit)
    energy = reward.energy(StructureBatch.from_atoms(structures))
    single = EMT().get_potential_energy(Atoms("Cu"))
    assert energy[0] == pytest.approx(0.0)
    for value, atoms in zip(energy, structures, strict=True):
        atoms.calc = EMT()
        assert value == pytest.approx(atoms.get_potential_energy() - len(atoms) * single, abs=1e-12)
    assert reward.evaluations == 4
    reward.close()


def test_energy_after_k_steps_of_relaxation():
    reward = make_reward("emt", relax_steps=4, atom_energies=None)
    batch = StructureBatch.from_atoms([copper(4)])
    atoms = copper(4)
    atoms.calc = EMT()
    FIRE(atoms, logfile=None).run(fmax=0.05, steps=4)
    assert reward.energy(batch)[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    assert reward.evaluations == 5
    np.testing.assert_array_equal(batch.positions[0], copper(4).positions)
    single_point = make_reward("emt", atom_energies=None).energy(batch)[0]
    assert reward.energy(batch)[0] < single_point


def test_one_that_raises_hangs_dies_or_returns_nan_costs_only_its_row():
    reward = CalculatorReward(MOODY, atom_energies=None, time_limit=1.0)
    batch = dimers(0, 1, 0, 2, 0, 3, 4, 5, 6, 0)
    energy, errors = reward.energy_errors(batch)
    assert energy[[0, 2, 4, 9]] == pytest.approx(-2.0)
    assert np.isnan(energy[[1, 3, 5, 6, 7, 8]]).all()
    assert errors == {
        1: "RuntimeError: the SCF did not converge",
        3: "the calculator gave no energy within 1 s and was stopped",
        5: "the calculator's process died (SIGKILL)",
        6: "SystemExit: 7",
        7: "ValueError: the calculator returned nan",
        8: "the calculator's process died (SIGSEGV)",
    }
    outcome = reward(dimers(0, 0), batch[[0, 1]])
    assert outcome.errors == {1: errors[1]}
    assert outcome.value.tolist() == [0.0, 0.0]
    reward.close()


def test_a_child_killed_from_outside_while_it_works_or_waits():
    reward = CalculatorReward(MOODY, atom_energies=None, time_limit=30.0)
    assert reward.energy(dimers(0)).tolist() == [-2.0]
    (child,) = reward._pool.children
    os.kill(child.process.pid, signal.SIGKILL)  # idle
    child.process.wait()
    assert reward.energy(dimers(0, 0)).tolist() == [-2.0, -2.0]
    (child,) = reward._pool.children
    killer = subprocess.Popen(
        [sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({child.process.pid}, 9)"]
    )
    started = time.monotonic()
    energy, errors = reward.energy_errors(dimers(0, 2, 0))  # the second sleeps for a minute
    assert time.monotonic() - started < 20
    assert energy[[0, 2]].tolist() == [-2.0, -2.0]
    assert errors == {1: "the calculator's process died (SIGKILL)"}
    killer.wait()
    reward.close()


def test_in_process_errors_cost_only_their_row():
    reward = CalculatorReward(MOODY, atom_energies=None, time_limit=None)
    energy, errors = reward.energy_errors(dimers(0, 1, 4, 5, 0))
    assert energy[[0, 4]].tolist() == [-2.0, -2.0]
    assert sorted(errors) == [1, 2, 3]


def test_several_workers_keep_the_order():
    reward = CalculatorReward("lj", workers=2)
    batch = StructureBatch.from_atoms([Atoms("Ga2", [(0, 0, 0), (0, 0, 2.3 + 0.1 * k)]) for k in range(12)])
    np.testing.assert_array_equal(reward.energy(batch), make_reward("lj").energy(batch))
    assert len(reward._pool.children) == 2
    reward.close()


def test_pickles_while_its_children_run():
    reward = CalculatorReward(MOODY, atom_energies="auto", time_limit=30.0)
    expected = reward.energy(dimers(0))
    copy = pickle.loads(pickle.dumps(reward))
    assert copy._pool is None
    assert copy.energy(dimers(0)) == expected
    copy.close()
    reward.close()


def test_atom_energies():
    assert CalculatorReward(MOODY, time_limit=None).energy(dimers(0)).tolist() == [0.0]
    assert CalculatorReward(MOODY, time_limit=None, atom_energies={"Ga": -0.25}).energy(dimers(0)).tolist() == [-1.5]
    with pytest.raises(InputError, match="not Ga"):
        CalculatorReward(MOODY, time_limit=None, atom_energies={"Cu": 1.0}).energy(dimers(0))
    with pytest.raises(InputError, match=r"single Ga atom \(ValueError: needs two atoms\).*give atom_energies"):
        CalculatorReward(f"{__name__}.AllergicToAtoms", time_limit=None).energy(dimers(0))


def test_a_calculator_that_cannot_be_built_is_refused():
    for limit in (None, 30.0):
        with pytest.raises(InputError, match="no licence for sweet"):
            CalculatorReward(f"{__name__}.Unbuildable", {"flavour": "sweet"}, time_limit=limit).energy(dimers(0))
    for path in ("no_such_package.Calc", "nonsense", "ase.calculators.emt.", ""):
        with pytest.raises(InputError, match="no ASE calculator"):
            CalculatorReward(path)
    with pytest.raises(InputError, match="has no attribute"):
        CalculatorReward("ase.calculators.emt.ETM", time_limit=None)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"megen-gym\[xtb\]"):
        make_reward("tblite")


@pytest.mark.parametrize(
    "arguments",
    [{"relax_steps": -1}, {"workers": 0}, {"fmax": 0}, {"optimizer": "ADAM"}, {"time_limit": 0}, {"time_limit": "soon"},
     {"atom_energies": "always"}],
    ids=str,
)  # fmt: skip
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(InputError):
        CalculatorReward("emt", **arguments)


def test_a_script_needs_no_main_guard_and_leaves_nothing_behind(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import ase, time
            from megen_gym.rewards import make_reward
            from megen_gym.structure import StructureBatch
            reward = make_reward("own.Still", time_limit=30)
            reward.energy(StructureBatch.from_atoms([ase.Atoms("Ga")]))
            print(reward._pool.children[0].process.pid, reward._pool.children[0].directory.name, flush=True)
            """
        )
    )
    (tmp_path / "own.py").write_text("from ase.calculators.lj import LennardJones as Still\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    pid, directory = done.stdout.split()
    assert done.stderr == ""
    assert not os.path.exists(directory)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_children_die_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "own.py").write_text(
        "import time\nfrom ase.calculators.lj import LennardJones\n"
        "class Sleeper(LennardJones):\n    def calculate(self, *a, **k):\n        time.sleep(100)\n"
    )
    code = textwrap.dedent(
        """
        import ase, threading, time
        from megen_gym.rewards import make_reward
        from megen_gym.structure import StructureBatch
        reward = make_reward("own.Sleeper", time_limit=300)
        batch = StructureBatch.from_atoms([ase.Atoms("Ga")])
        threading.Thread(target=reward.energy, args=(batch,), daemon=True).start()
        while reward._pool is None or not reward._pool.children or not reward._pool.children[0].ready:
            time.sleep(0.05)
        print(reward._pool.children[0].process.pid, flush=True)
        time.sleep(100)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return  # dead, waiting for whoever adopted it
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")
