"""Generated molecules on disk: numbers, appending, metadata, failures, and reading them again."""

import errno
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from ase.build import molecule
from ase.db import connect

from megen_gym.agents.gschnet import outputs
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.outputs import metadata_of, output_path, write_molecules
from megen_gym.agents.gschnet.reading import available, load
from megen_gym.errors import InputError

NAMES = ["CH4", "CH3OH", "H2O"]
LOGS = np.array([-1.5, -2.5, -0.5])


def some():
    return [molecule(name) for name in NAMES]


def put(run, outputfile=None, properties=None, units=None, **options):
    properties = {"log_prob": LOGS} if properties is None else properties
    return write_molecules(run, some(), properties, units, outputfile=outputfile, **options)


def files(run):
    folder = run / "generated_molecules"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_numbers_and_names(tmp_path):
    assert put(tmp_path) == tmp_path / "generated_molecules" / "1.db"
    assert put(tmp_path).name == "2.db"
    assert put(tmp_path, "many").name == "many.db"
    assert put(tmp_path, 7).name == "7.db"
    assert put(tmp_path).name == "8.db"
    assert put(tmp_path, str(tmp_path / "there" / "a.db")) == tmp_path / "there" / "a.db"
    assert files(tmp_path) == ["1.db", "2.db", "7.db", "8.db", "many.db"]
    assert output_path(tmp_path) is None


def test_database_is_read_again(tmp_path):
    properties = {"log_prob": LOGS, "gap": np.array([0.1, 0.2, 0.3]), "moment": np.arange(9.0).reshape(3, 3)}
    path = put(tmp_path, properties=properties, units={"gap": "Hartree", "moment": "Debye"})
    assert available(path) == {"log_prob": "", "gap": "Hartree", "moment": "Debye"}
    found = load(path, [1, 6, 8], list(properties), {"gap": "eV"}, progress=False)
    np.testing.assert_allclose(found.positions, Molecules.from_atoms(some()).positions, atol=1e-10)
    np.testing.assert_array_equal(found.numbers, Molecules.from_atoms(some()).numbers)
    np.testing.assert_array_equal(found.properties["log_prob"], LOGS)
    np.testing.assert_allclose(found.properties["gap"], [2.7211386, 5.4422772, 8.1634158])
    np.testing.assert_array_equal(found.properties["moment"], properties["moment"])
    row = connect(path).get(2)
    assert row.key_value_pairs == {"log_prob": -2.5, "gap": 0.2}
    assert row.data["gap"].shape == (1,)
    assert row.data["moment"].shape == (3,)


def test_metadata_by_range_of_rows(tmp_path):
    put(tmp_path, conditions={"gap": np.float64(4)}, settings={"atom_types": [1, 6, 8], "seed": 1})
    path = put(tmp_path, 1, conditions={"gap": 5.0, "composition": np.array([4, 1, 0])}, settings={"temperature": 0.1})
    found = metadata_of(path)
    assert found["0-2"] == {"gap": 4.0}
    assert found["3-5"] == {"gap": 5.0, "composition": [4, 1, 0]}
    assert found["settings"] == {"0-2": {"atom_types": [1, 6, 8], "seed": 1}, "3-5": {"temperature": 0.1}}
    assert found["_distance_unit"] == "Ang"
    assert len(load(path, [1, 6, 8], ["log_prob"], progress=False)) == 6
    with pytest.raises(InputError, match="is a set"):
        put(tmp_path, settings={"seed": {1}})


def test_appending_other_properties_and_units(tmp_path):
    path = put(tmp_path, properties={"log_prob": LOGS, "gap": np.ones(3)}, units={"gap": "eV"})
    put(tmp_path, 1, {"gap": np.ones(3), "moment": np.ones((3, 3))}, {"gap": "Hartree", "moment": "Debye"})
    rows = list(connect(path).select())
    assert all(set(row.data) == {"log_prob", "gap", "moment"} for row in rows)
    np.testing.assert_allclose([row.data["gap"][0] for row in rows], [1] * 3 + [27.2113860] * 3)
    assert np.isnan(rows[0].data["moment"]).all()
    assert rows[0].data["moment"].shape == (3,)
    assert np.isnan(rows[4].data["log_prob"]).all()
    assert "log_prob" not in rows[4].key_value_pairs
    assert load(path, [1, 6, 8], ["moment"], progress=False).rows.tolist() == [3, 4, 5]


def test_appending_to_a_database_in_other_units(tmp_path):
    path = tmp_path / "generated_molecules" / "1.db"
    path.parent.mkdir()
    with connect(path) as database:
        database.metadata = {"_distance_unit": "Bohr", "_property_unit_dict": {}, "atomrefs": {}}
        database.write(molecule("CH4"))
    put(tmp_path, 1)
    assert metadata_of(path)["_distance_unit"] == "Bohr"
    found = load(path, [1, 6, 8], progress=False)
    np.testing.assert_allclose(found.positions[1:], Molecules.from_atoms(some()).positions, atol=1e-9)
    with connect(tmp_path / "plain.db") as database:
        database.write(molecule("CH4"), gap=3.0)
    put(tmp_path, str(tmp_path / "plain.db"))
    assert len(load(tmp_path / "plain.db", [1, 6, 8], progress=False)) == 4


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz"])
def test_extended_xyz(tmp_path, name):
    for _ in range(2):
        path = put(tmp_path, name, {"log_prob": LOGS, "v": np.ones((3, 2))}, {"v": "Debye"}, conditions={"gap": 4.0})
    found = load(path, [1, 6, 8], ["log_prob", "v"], {"v": "eAng"})
    assert found.properties["log_prob"].tolist() == [*LOGS, *LOGS]
    np.testing.assert_allclose(found.properties["v"], 0.2081943, rtol=1e-6)
    assert "condition_gap=4.0" in path.read_text()
    packed = put(tmp_path, "a.xyz.gz")
    assert len(load(packed, [1, 6, 8])) == 3
    with pytest.raises(InputError, match="is compressed"):
        put(tmp_path, "a.xyz.gz")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"properties": {"log_prob": LOGS[:2]}}, "give one each"),
        ({"outputfile": "a.cif"}, "expected a number or a name"),
        ({"settings": {"x": object()}}, "is a object"),
        ({"units": {"log_prob": "furlong"}, "properties": {"log_prob": LOGS}}, "unknown unit 'furlong'"),
    ],
)
def test_a_failed_call_leaves_nothing(tmp_path, options, sentence):
    with pytest.raises(InputError, match=sentence):
        put(tmp_path, **options)
    with pytest.raises(InputError, match="no molecules to write"):
        write_molecules(tmp_path, [])
    assert files(tmp_path) == []


def test_a_failed_append_leaves_the_file_as_it_was(tmp_path):
    path = put(tmp_path, properties={"gap": LOGS}, units={"gap": "eV"})
    before = path.read_bytes()
    with pytest.raises(InputError, match="does not measure the same"):
        put(tmp_path, 1, {"gap": LOGS}, {"gap": "Ang"})
    assert path.read_bytes() == before
    (path.parent / "2.db").write_bytes(b"no database" * 50)
    with pytest.raises(InputError, match="is no ASE database"):
        put(tmp_path, 2)
    assert (path.parent / "2.db").read_bytes() == b"no database" * 50


def test_full_disk(tmp_path, monkeypatch):
    path = put(tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(outputs, "_pairs", full)
    for name in (1, None, "new"):
        with pytest.raises(OSError, match="No space left") as error:
            put(tmp_path, name)
        assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert files(tmp_path) == ["1.db"]


def test_killed_while_appending(tmp_path):
    path = put(tmp_path)
    script = f"""
        import os, signal, ase.db.sqlite
        from ase.build import molecule
        from megen_gym.agents.gschnet import outputs
        ase.db.sqlite.SQLite3Database.managed_connection.__wrapped__.__defaults__ = (5,)
        calls = []
        def torn(data):
            calls.append(1)
            if len(calls) > 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return {{}}
        outputs._pairs = torn
        outputs.write_molecules({str(tmp_path)!r}, [molecule("H2")] * 30, outputfile=1)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert len(load(path, [1, 6, 8], ["log_prob"], progress=False)) == 3
    put(tmp_path, 1)
    assert len(load(path, [1, 6, 8], ["log_prob"], progress=False)) == 6
    assert sorted(key for key in metadata_of(path) if key[0].isdecimal()) == ["0-2", "3-5"]


def _put(run, outputfile):
    return put(run, outputfile).name


def test_processes_that_write_at_once(tmp_path):
    put(tmp_path, "all")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        names = pool.starmap(_put, [(tmp_path, None), (tmp_path, "all")] * 6)
    assert sorted(names[::2]) == sorted(f"{i}.db" for i in range(1, 7))
    path = tmp_path / "generated_molecules" / "all.db"
    assert len(load(path, [1, 6, 8], progress=False)) == 21
    assert len([key for key in metadata_of(path) if key[0].isdecimal()]) == 7
    assert len(load(path.with_name("6.db"), [1, 6, 8], ["log_prob"], progress=False)) == 3
