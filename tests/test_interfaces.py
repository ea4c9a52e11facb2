"""The recipe of the Cu/Au interfaces, and the script that can be killed at any time."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from megen_gym.errors import InputError
from megen_gym.interfaces import BOTTOM, INSERTION, SHUFFLE, Interface, insert_at_random, make_interfaces
from megen_gym.io import read_structures
from megen_gym.periodic import Lattice

ROOT = Path(__file__).resolve().parents[1]
SMALL = Interface(size=(2, 2, 4))


def test_mixed_slab():
    atoms = Interface().build(np.random.default_rng(0))
    assert atoms.get_chemical_formula() == "Au27Cu27"
    assert (atoms.numbers[:27] == 29).all()
    assert atoms.pbc.all()
    np.testing.assert_allclose(atoms.cell.lengths(), [8.1564767, 8.1564767, 17.45], atol=1e-6)
    heights = np.sort(atoms.positions[:18, 2])
    np.testing.assert_allclose(heights, np.repeat([BOTTOM, BOTTOM + 1.9225], 9), atol=1e-9)
    middle = np.concatenate([atoms.positions[18:27], atoms.positions[27:36]])[:, 2]
    assert middle.min() > BOTTOM + 2 * 1.9225 - SHUFFLE
    assert middle.max() < BOTTOM + 3 * 1.9225 + SHUFFLE


def test_disordered_slab_keeps_its_distances():
    for seed in range(5):
        atoms = Interface("disordered").build(np.random.default_rng(seed))
        assert atoms.get_chemical_formula() == "Au27Cu27"
        nearest = Lattice(atoms.cell.array, atoms.pbc).nearest(atoms.positions, 1)
        assert nearest.min() > INSERTION * 0.95**6
    crowded = insert_at_random(np.zeros((1, 3)), np.array([4.0, 4.0, 4.0]), 20, (0.0, 4.0), np.random.default_rng(0))
    assert crowded.shape == (20, 3)


def test_interrupted_file_becomes_the_same(tmp_path):
    make_interfaces(tmp_path / "whole.xyz", 4, 3, SMALL, steps=2, progress=False)
    path = tmp_path / "torn.xyz"
    make_interfaces(path, 2, 3, SMALL, steps=2, progress=False)
    whole = (tmp_path / "whole.xyz").read_bytes()
    assert whole.startswith(path.read_bytes())
    path.write_bytes(whole[: len(path.read_bytes()) + 300])
    made = make_interfaces(path, 4, 3, SMALL, steps=2, progress=False)
    assert path.read_bytes() == whole
    assert [atoms.info["index"] for atoms in made] == [0, 1, 2, 3]
    assert made[0].get_forces().shape == (16, 3)


def test_killed_script_goes_on(tmp_path):
    script = ROOT / "examples" / "make_interface.py"
    options = ["--n", "4", "--size", "[2,2,4]", "--steps", "20", "--progress", "false"]
    path = tmp_path / "killed.extxyz"
    command = [sys.executable, str(script), *options, "--out", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if path.exists() and path.stat().st_size:
                break
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.stat().st_size
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "4 mixed interfaces Au8Cu8" in done.stdout
    again = make_interfaces(tmp_path / "whole.extxyz", 4, 1, SMALL, steps=20, progress=False)
    assert path.read_bytes() == (tmp_path / "whole.extxyz").read_bytes()
    assert len(again) == 4


def test_bundled_set_is_what_the_recipe_makes(tmp_path):
    bundled = read_structures(ROOT / "megen_gym" / "data" / "cuau_interface.extxyz")
    made = make_interfaces(tmp_path / "a.extxyz", 1, 1, SMALL, progress=False)
    assert len(bundled) == 40
    np.testing.assert_allclose(made[0].positions, bundled[0].positions, atol=1e-5)
    assert made[0].get_potential_energy() == pytest.approx(bundled[0].get_potential_energy(), abs=1e-6)


def test_layers_of_the_interface_are_part_of_the_recipe(tmp_path):
    path = tmp_path / "a.xyz"
    make_interfaces(path, 1, 1, Interface(size=(2, 2, 6), interface=2), steps=0, progress=False)
    with pytest.raises(InputError, match="made with interface=2 instead of interface=4"):
        make_interfaces(path, 2, 1, Interface(size=(2, 2, 6), interface=4), steps=0, progress=False)


def test_bundled_set_can_be_continued(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_bytes((ROOT / "megen_gym" / "data" / "cuau_interface.extxyz").read_bytes())
    made = make_interfaces(path, 41, 1, SMALL, progress=False)
    assert [atoms.info["index"] for atoms in made] == list(range(41))


def test_refusals(tmp_path):
    path = tmp_path / "a.xyz"
    make_interfaces(path, 1, 1, SMALL, steps=0, progress=False)
    for other in (
        {"seed": 2, "recipe": SMALL},
        {"recipe": Interface()},
        {"recipe": Interface("disordered", size=(2, 2, 4))},
    ):
        with pytest.raises(InputError, match=r"structure 0 of .* is not number 0"):
            make_interfaces(path, 2, steps=0, progress=False, **other)
    for other, made in (
        ({"steps": 5}, "made with steps=0 instead of steps=5"),
        ({"steps": 0, "calculator": "lj"}, "made with calculator=emt instead of calculator=lj"),
        ({"steps": 5, "calculator": "lj"}, "made with calculator=emt, steps=0 instead of calculator=lj, steps=5"),
    ):
        with pytest.raises(InputError, match=f"structure 0 of .* was {made}"):
            make_interfaces(path, 2, 1, SMALL, progress=False, **other)
    assert len(read_structures(path)) == 1
    with pytest.raises(InputError, match=r"ends in \.xyz or \.extxyz"):
        make_interfaces(tmp_path / "a.extxyz.gz", 1, progress=False)
    with pytest.raises(InputError, match="cannot make 0"):
        make_interfaces(path, 0, progress=False)
    with pytest.raises(InputError, match="did you mean 'mixed'"):
        Interface("mix")
    with pytest.raises(InputError, match="'Fe' is no fcc metal"):
        Interface(elements=("Fe", "Au"))
    with pytest.raises(InputError, match="both sides"):
        Interface(elements=("Cu", "Cu"))
    with pytest.raises(InputError, match="shared equally"):
        Interface(size=(3, 3, 5))
