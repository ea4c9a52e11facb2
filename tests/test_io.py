"""Every format there and back, and every bad file refused with its name and the structure's number."""

import errno
import gzip
import os

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write

from megen_gym import io, runs
from megen_gym.errors import InputError
from megen_gym.structure import StructureBatch

TRIMER = Atoms("Ga3", [[0, 0, 0], [2.6, 0, 0], [1.3, 2.25, 0]])


def clusters() -> list[Atoms]:
    structures = [TRIMER.copy(), molecule("CH3CH2OH"), Atoms("Ga", [[1.0, 2.0, 3.0]])]
    for step, atoms in enumerate(structures):
        atoms.info |= {"energy": -1.5 * (step + 1), "valid": step != 1, "step": step, "policy": "random valid"}
    return structures


def same_shape(a: Atoms, b: Atoms, tol: float) -> bool:
    """Equal up to translation and a sort by element."""

    def sorted_distances(atoms: Atoms) -> np.ndarray:
        return np.sort(atoms.get_all_distances(mic=False).ravel())

    return sorted(a.numbers) == sorted(b.numbers) and np.allclose(sorted_distances(a), sorted_distances(b), atol=tol)


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.extxyz.gz", "a.xyz.gz"])
def test_xyz_round_trip(tmp_path, name):
    io.write_structures(tmp_path / name, clusters(), {"reward": [0.1, 0.2, 0.3]})
    back = io.read_structures(tmp_path / name)
    assert [len(atoms) for atoms in back] == [3, 9, 1]
    for old, new, reward in zip(clusters(), back, (0.1, 0.2, 0.3), strict=True):
        np.testing.assert_allclose(new.positions, old.positions, atol=1e-8)
        assert (new.numbers == old.numbers).all()
        assert io.energy_of(new) == old.info["energy"]
        assert {k: new.info[k] for k in ("valid", "step", "policy")} == {
            k: old.info[k] for k in ("valid", "step", "policy")
        }
        assert new.info["reward"] == reward
    io.write_structures(tmp_path / name, back)
    assert [io.energy_of(atoms) for atoms in io.read_structures(tmp_path / name)] == [-1.5, -3.0, -4.5]
    assert len(read(tmp_path / name, ":")) == 3


def test_batch_and_crystals_in_extxyz(tmp_path):
    batch = StructureBatch.from_atoms([bulk("GaAs", "zincblende", 5.65), bulk("GaAs", "zincblende", 5.7)])
    back = io.read_structures(io.write_structures(tmp_path / "c.extxyz", batch, {"energy": np.array([-1.0, np.nan])}))
    again = StructureBatch.from_atoms(back)
    np.testing.assert_allclose(again.positions, batch.positions, atol=1e-8)
    np.testing.assert_allclose(again.cell, batch.cell, atol=1e-8)
    assert io.energy_of(back[0]) == -1
    assert np.isnan(io.energy_of(back[1]))


def test_poscars(tmp_path):
    paths = io.write_poscars(tmp_path / "vasp", clusters())
    assert [path.name for path in paths] == ["POSCAR_0000", "POSCAR_0001", "POSCAR_0002"]
    back = io.read_structures(tmp_path / "vasp")
    for old, new in zip(clusters(), back, strict=True):
        assert same_shape(old, new, 1e-6)
        assert new.pbc.all()
        inside = new.positions.min(0), new.cell.lengths() - new.positions.max(0)
        assert np.min(inside) == pytest.approx(10, abs=1e-6)
    assert "energy=-1.5" in paths[0].read_text().splitlines()[0]
    assert paths[1].read_text().splitlines()[5].split() == ["C", "H", "O"]
    with pytest.raises(InputError, match="older files"):
        io.write_poscars(tmp_path / "vasp", clusters()[:2])
    io.write_poscars(tmp_path / "vasp", clusters())


def test_cifs(tmp_path):
    crystal = bulk("NaCl", "rocksalt", 5.6)
    io.write_cifs(tmp_path / "cif", [*clusters(), crystal])
    back = io.read_structures(tmp_path / "cif")
    assert all(same_shape(old, new, 1e-4) for old, new in zip(clusters(), back[:3], strict=True))
    np.testing.assert_allclose(back[3].cell.cellpar(), crystal.cell.cellpar(), atol=1e-4)


def test_traj_and_poscar_of_ase(tmp_path):
    write(tmp_path / "a.traj", clusters())
    assert [len(atoms) for atoms in io.read_structures(tmp_path / "a.traj")] == [3, 9, 1]
    write(tmp_path / "b.vasp", bulk("Cu"), format="vasp")
    assert str(io.read_structures(tmp_path / "b.vasp")[0].symbols) == "Cu"
    assert len(io.read_structures(tmp_path)) == 4


def test_db_appends_without_duplicates(tmp_path):
    path = tmp_path / "all.db"
    assert io.write_db(path, clusters(), run="a") == 3
    assert io.write_db(path, clusters(), run="a") == 0
    assert io.write_db(path, clusters()[:2], run="b") == 2
    back = io.read_structures(path)
    assert [len(atoms) for atoms in back] == [3, 9, 1, 3, 9]
    assert io.energy_of(back[1]) == -3
    assert back[0].info["policy"] == "random valid"
    assert back[4].info["run"] == "b"
    with pytest.raises(InputError, match=r"ends in \.db"):
        io.write_db(tmp_path / "all.json", clusters())
    (tmp_path / "bad.db").write_text("no database" * 100)
    for call in (lambda: io.read_structures(tmp_path / "bad.db"), lambda: io.write_db(tmp_path / "bad.db", clusters())):
        with pytest.raises(InputError, match=r"bad\.db"):
            call()


GOOD = "2\n\nGa 0 0 0\nGa 2.6 0 0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "holds no structure"),
        ("hello\n", "structure 0 .*begins with 'hello'"),
        (GOOD + "2\n\nGa 0 0 0\n", "structure 1 .*has 1 of 2 atoms"),
        (GOOD + "2\n\nGa 0 0 0\nQq 1 0 0\n", "structure 1 .*unknown element 'Qq'"),
        (GOOD + "2\n\nGa 0 0 0\nX 3 0 0\n", "structure 1 .*unknown element X"),
        (GOOD + "2\n\nGa 0 0 0\nGa nan 0 0\n", "structure 1 .*NaN"),
        (GOOD + "2\n\nGa 0 0 0\nGa 0.4 0 0\n", "structure 1 .*atoms 0 and 1 only 0.40 Å apart"),
        (GOOD + "2\n\nGa 0 0 0\nGa one 0 0\n", "structure 1 .*cannot be read"),
        (GOOD + "0\n\n", "structure 1 .*has no atoms"),
    ],
)
def test_bad_xyz_names_file_and_structure(tmp_path, text, message):
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        io.read_structures(path)
    assert "bad.xyz" in str(caught.value)


def test_other_bad_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        io.read_structures(tmp_path / "none.xyz")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(InputError, match="no known ending"):
        io.read_structures(tmp_path / "notes.md")
    with pytest.raises(InputError, match="holds no structure file"):
        io.read_structures(tmp_path)
    for name in ("a.cif", "POSCAR", "a.traj"):
        (tmp_path / name).write_text("nonsense\n" * 3)
        with pytest.raises(InputError, match=name):
            io.read_structures(tmp_path / name)
    (tmp_path / "a.xyz.gz").write_bytes(gzip.compress(GOOD.encode())[:-12])
    with pytest.raises(InputError, match="no complete text file"):
        io.read_structures(tmp_path / "a.xyz.gz")
    with pytest.raises(InputError, match="expected a name that ends"):
        io.write_structures(tmp_path / "a.pdb", clusters())
    with pytest.raises(InputError, match="2 values for 3 structures"):
        io.write_structures(tmp_path / "a.xyz", clusters(), {"energy": [1, 2]})


def test_overlap_through_the_boundary():
    cell = [[6.0, 0, 0], [5.0, 3.0, 0], [0, 0, 7.0]]
    atoms = Atoms("Ga2", scaled_positions=[[0.01, 0.5, 0.5], [0.98, 0.5, 0.5]], cell=cell, pbc=True)
    assert "only 0.18 Å" in io.fault(atoms)
    atoms.pbc = (False, True, True)
    assert io.fault(atoms) is None
    assert "closer" in io.fault(Atoms("Ga", cell=[0.4, 5, 5], pbc=True))
    assert "no volume" in io.fault(Atoms("Ga", pbc=True))


@pytest.mark.parametrize("seed", range(5))
def test_close_pairs_agree_with_ase(seed):
    from ase.neighborlist import neighbor_list

    rng = np.random.default_rng(seed)
    atoms = Atoms("Ga60", cell=rng.normal(0, 2, (3, 3)) + 4 * np.eye(3), pbc=rng.random(3) < 0.7)
    atoms.set_scaled_positions(rng.random((60, 3)))
    expected = neighbor_list("d", atoms, io.CLOSEST)
    found = [distance for distance, _, _ in io._close_pairs(atoms)]
    assert len(expected)
    np.testing.assert_allclose(np.sort(found), np.sort(expected)[:: len(expected) // len(found)], atol=1e-9)


def test_append_truncate_and_torn_tail(tmp_path):
    path = tmp_path / "structures_train.extxyz"
    for step in (1, 2, 3):
        io.append_structures(path, [TRIMER, TRIMER], {"step": [step, step], "energy": [-1.0, np.nan]})
    with path.open("a") as file:
        file.write("3\nstep=4\nGa 0 0 0\nGa 2.6 0 0\nGa 1.3 2.")
    assert len(io.read_structures(path, tail="drop")) == 6
    io.truncate_structures(path, 2)
    assert [atoms.info["step"] for atoms in io.read_structures(path)] == [1, 1, 2, 2]


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = io.write_structures(tmp_path / "a.xyz", [TRIMER])
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs.os, "fsync", full)
    for call in (io.write_structures, io.append_structures):
        with pytest.raises(OSError, match="No space"):
            call(path, clusters())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_input_is_not_touched(tmp_path):
    structures = clusters()
    infos = [dict(atoms.info) for atoms in structures]
    io.write_db(tmp_path / "a.db", structures)
    io.write_poscars(tmp_path / "p", structures)
    io.write_structures(tmp_path / "a.xyz", structures, {"run": ["r"] * 3})
    assert [atoms.info for atoms in structures] == infos
    assert not structures[0].pbc.any()
