"""Crystals for PolySRL: every layout of the file, what is left out, and pickles that must not run."""

import gzip
import json
import math
import os
import pickle
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import write

from megen_gym.agents.polysrl.materials import read_materials
from megen_gym.agents.polysrl.plain_pickle import interpret, read_pickle
from megen_gym.errors import InputError


def cif(atoms: Atoms) -> str:
    buffer = BytesIO()
    write(buffer, atoms, format="cif")
    return buffer.getvalue().decode()


SALT, OXIDE, IRON = (
    bulk("NaCl", "rocksalt", a=5.64),
    bulk("MgO", "rocksalt", a=4.21, cubic=True),
    bulk("Fe", cubic=True),
)

RECORDS = {
    "mp-1": {"cif": cif(SALT), "pretty_formula": "NaCl", "energy_per_atom": -3.4, "band_gap": 5.0, "tags": ["a"]},
    "mp-2": {"cif": cif(OXIDE), "pretty_formula": "MgO", "energy_per_atom": -6.0, "band_gap": 4.5, "stable": True},
    "mp-3": {"cif": cif(IRON), "pretty_formula": "Fe", "energy_per_atom": -8.4, "band_gap": None},
}

COLUMNS = {name: [row.get(name) for row in RECORDS.values()] for name in ("cif", "pretty_formula", "band_gap")}

LAYOUTS: dict[str, Any] = {
    "by id": RECORDS,
    "list": [{"material_id": name, **row} for name, row in RECORDS.items()],
    "columns": {"material_id": list(RECORDS), **COLUMNS},
    "pandas": {name: dict(zip(RECORDS, values, strict=True)) for name, values in COLUMNS.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", [".json", ".json.gz", ".pkl", ".pickle", ".pkl.gz"])
def test_materials_project(layout: str, ending: str, tmp_path: Path) -> None:
    data = LAYOUTS[layout]
    raw = json.dumps(data).encode() if "json" in ending else pickle.dumps(data)
    path = tmp_path / f"mp{ending}"
    path.write_bytes(gzip.compress(raw) if ending.endswith(".gz") else raw)
    materials = read_materials(path, progress=False)
    assert materials.ids == ("mp-1", "mp-2", "mp-3")
    assert materials.formulas == ("NaCl", "MgO", "Fe")
    assert [len(atoms) for atoms in materials.atoms] == [2, 8, 2]
    np.testing.assert_array_equal(materials.properties["band_gap"], [5.0, 4.5, np.nan])
    assert set(materials.properties) <= {"band_gap", "energy_per_atom"}
    assert materials.skipped == ()


def test_parts(tmp_path: Path) -> None:
    path = tmp_path / "mp.json"
    path.write_text(json.dumps(RECORDS))
    materials = read_materials(path)
    assert len(materials) == 3
    part = materials[np.array([2, 0])]
    assert part.ids == ("mp-3", "mp-1")
    assert part.formulas == ("Fe", "NaCl")
    assert part.properties["energy_per_atom"].tolist() == [-8.4, -3.4]
    assert len(materials[np.array([True, False, True])]) == len(materials[1:]) == 2
    assert len(materials[np.zeros(0, dtype=np.int64)]) == 0


def test_table_of_cifs(tmp_path: Path) -> None:
    import csv

    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", "formula", "gap", "group"])
        writer.writerows([["x", cif(SALT), "Cl2Na2", "5.0", "Fm-3m"], ["y", cif(IRON), "", "", "Im-3m"]])
    materials = read_materials(path)
    assert materials.ids == ("x", "y")
    assert materials.formulas == ("Cl2Na2", "Fe")
    assert list(materials.properties) == ["gap"]
    np.testing.assert_array_equal(materials.properties["gap"], [5.0, np.nan])


def test_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    database = connect(tmp_path / "a.db")
    stored = []
    for name, atoms in (("salt", SALT), ("oxide", OXIDE)):
        (folder / f"{name}.cif").write_text(cif(atoms))
        database.write(atoms, gap=5.0)
        copy = atoms.copy()
        copy.info = {"energy": -3.5, "material_id": name}
        stored.append(copy)
    write(tmp_path / "a.extxyz", stored)
    (tmp_path / "a.extxyz.gz").write_bytes(gzip.compress((tmp_path / "a.extxyz").read_bytes()))
    for name in ("a.extxyz", "a.extxyz.gz"):
        materials = read_materials(tmp_path / name)
        assert materials.formulas == ("NaCl", "MgO")
        assert materials.ids == ("salt", "oxide")
        assert materials.properties["energy"].tolist() == [-3.5, -3.5]
    assert read_materials(folder).ids == ("oxide", "salt")
    assert read_materials(folder / "salt.cif").formulas == ("NaCl",)
    assert read_materials(tmp_path / "a.db").properties["gap"].tolist() == [5.0, 5.0]


def test_bad_structures_are_said(tmp_path: Path) -> None:
    close = SALT.copy()
    close.positions[1] = close.positions[0] + 0.1
    records = RECORDS | {
        "none": {"pretty_formula": "Fe"},
        "number": 3,
        "torn": {"cif": cif(SALT)[:60]},
        "other": {"cif": cif(SALT), "pretty_formula": "NaCl2"},
        "unread": {"cif": cif(SALT), "pretty_formula": "Nacl"},
        "close": {"cif": cif(close)},
    }
    path = tmp_path / "mp.json"
    path.write_text(json.dumps(records))
    materials = read_materials(path)
    assert len(materials) == 3
    said = materials.skipped
    assert len(said) == 6
    assert said[0] == said[0].strip() == "material 3 (none) has no CIF"
    assert said[1] == "material 4 (number) has no CIF"
    assert said[2].startswith("material 5 (torn) ")
    assert said[3] == "material 6 (other) says that it is NaCl2, but its structure is NaCl"
    assert said[4].startswith("material 7 (unread): unknown element 'cl'")
    assert said[5].startswith("material 8 (close) has atoms")
    path.write_text(json.dumps({name: records[name] for name in ("torn", "none")}))
    with pytest.raises(InputError, match="holds no crystal that can be used; material 0 "):
        read_materials(path)


def test_many_show_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("megen_gym.agents.polysrl.materials.MANY", 3)
    path = tmp_path / "mp.json"
    path.write_text(json.dumps(RECORDS))
    read_materials(path, progress=False)
    assert capsys.readouterr().err == ""
    read_materials(path)
    assert "materials" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("none.json", None, "does not exist; give an existing file or folder"),
        ("none.csv", None, "does not exist"),
        ("a.txt", "x", r"no known ending; expected .csv, .csv.gz, .json, .json.gz, .pkl"),
        ("a.json", "{", "no complete JSON file"),
        ("a.json", "3", r"holds no CIFs; expected \{id: \{cif, pretty_formula"),
        ("a.json", '{"a": 1}', "holds no CIFs"),
        ("a.json", "[]", "holds no CIFs"),
        (
            "a.json",
            '{"cif": ["x", "y"], "id": ["1"]}',
            r"the columns of .* have unequal lengths \(id\); make them equal",
        ),
        ("a.pkl", "x", "no complete pickle"),
        ("a.csv", "", "is empty"),
        ("a.csv", "id,x\n1,2\n", "none of CIFs"),
    ],
)
def test_files_that_are_refused(name: str, text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_materials(tmp_path / name)


SHARED = ["twice", 1]
PLAIN: list[Any] = [
    None, True, False, 0, 1, -1, 255, 256, 65536, -(2**31), 2**31, 2**63, -(2**200), 10**700,
    0.0, -2.5, math.inf, "", "a",
    "ü\n\\", "x" * 300, "y" * 70000,
    (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], list(range(3000)), {}, {"a": 1},
    {"a": {"b": [1.5, None, ("c", True)]}, 3: "d"}, {f"mp-{i}": {"gap": i / 7} for i in range(1500)}, [SHARED, SHARED],
    ((), [()], {"k": ()}),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_plain_data(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    assert read_pickle(path) == PLAIN
    for value in PLAIN:
        found = interpret(pickle.dumps(value, protocol))
        assert found == value
        assert type(found) is type(value)
    shared = interpret(pickle.dumps([SHARED, SHARED], protocol))
    assert shared[0] is shared[1]
    assert math.isnan(interpret(pickle.dumps(math.nan, protocol)))


def test_bytes_and_sets() -> None:
    for protocol in (3, 4, 5):
        assert interpret(pickle.dumps([b"", b"abc", b"x" * 300], protocol)) == [b"", b"abc", b"x" * 300]
    for protocol in (4, 5):
        assert interpret(pickle.dumps([{1, 2}, frozenset("ab"), set()], protocol)) == [{1, 2}, frozenset("ab"), set()]
    assert interpret(pickle.dumps(bytearray(b"abc"), 5)) == b"abc"


def test_hand_made_opcodes() -> None:
    assert interpret(b"(I1\nI2\nt.") == (1, 2)
    assert interpret(b"(lp0\nI01\nag0\n0.") == [True]
    assert interpret(b"(S'a'\nI1\nd.") == {"a": 1}
    assert interpret(b"I1\n2\x86.") == (1, 1)
    assert interpret(b"I1\n(I2\nI3\n1.") == 1
    assert interpret(b"I1\n(0.") == 1


class Boom:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_pickles_do_not_run(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "mp.pkl"
    path.write_bytes(pickle.dumps({"mp-1": {"cif": Boom(f"touch {trace}")}}, protocol))
    for read in (read_pickle, read_materials):
        with pytest.raises(
            InputError, match=r"holds (posix|nt)\.system \(opcode (STACK_)?GLOBAL at byte \d+\)"
        ) as error:
            read(path)
        sentence = str(error.value)
        assert "is not read, since that could run any code; write the data as JSON where they were made" in sentence
        assert not re.search(r"python|load|open\(", sentence), "a refused file must not be opened on our advice"
    assert not trace.exists()


@pytest.mark.parametrize(
    ("data", "opcode"),
    [
        (b"cos\nsystem\n(S'touch trace'\ntR.", "GLOBAL"),
        (b"(S'touch trace'\nios\nsystem\n.", "INST"),
        (b"(cos\nsystem\nS'touch trace'\no.", "GLOBAL"),
        (b"(I1\nI2\no.", "OBJ"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch trace\x85R.", "STACK_GLOBAL"),
        (b"\x80\x04\x93.", "STACK_GLOBAL"),
        (b"I1\n)R.", "REDUCE"),
        (b"I1\n}b.", "BUILD"),
        (b"I1\n)\x81.", "NEWOBJ"),
        (b"I1\n)}\x92.", "NEWOBJ_EX"),
        (b"\x82\x01.", "EXT1"),
        (b"\x83\x01\x00.", "EXT2"),
        (b"\x84\x01\x00\x00\x00.", "EXT4"),
        (b"Pid\n.", "PERSID"),
        (b"S'id'\nQ.", "BINPERSID"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"\x98.", "READONLY_BUFFER"),
    ],
)
def test_every_opcode_that_builds_is_refused(
    data: bytes, opcode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pickle"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"opcode {opcode} at byte \d+\), more than plain data"):
        read_pickle(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pickle"]


def test_objects_of_numpy_are_refused_and_the_same_as_json_is_read(tmp_path: Path) -> None:
    records = {name: row | {"energy_per_atom": np.float64(row["energy_per_atom"])} for name, row in RECORDS.items()}
    (tmp_path / "mp.pkl").write_bytes(pickle.dumps(records))
    with pytest.raises(InputError, match="numpy") as error:
        read_materials(tmp_path / "mp.pkl")
    assert "write the data as JSON where they were made, with numbers and text only" in str(error.value)
    (tmp_path / "mp.json").write_text(json.dumps(records))
    assert read_materials(tmp_path / "mp.json").properties["energy_per_atom"].tolist() == [-3.4, -6.0, -8.4]


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_cut_short(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({"a": [1, 2.5, "text"], "b": (None, True)}, protocol)
    path = tmp_path / "a.pkl"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(InputError, match="is no complete pickle"):
            read_pickle(path)


@pytest.mark.parametrize(
    "data",
    [b".", b"0.", b"h\x01.", b"]I1\nI2\ns.", b"}]I1\ns.", b"(I1\nd.", b"I1\na.", b"\x85.", b"t.", b"e.", b"\xff", b"2.",
     b"q\x01.", b"}(I1\nu.", b"Ix\n.", b"\x8a\x05\x01.", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx."],
)  # fmt: skip
def test_damaged_pickles(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    with pytest.raises(InputError, match="is no complete pickle"):
        read_pickle(path)


def test_missing_and_packed_pickles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give an existing pickle"):
        read_pickle(tmp_path / "a.pkl")
    (tmp_path / "a.pkl.gz").write_bytes(gzip.compress(pickle.dumps([1])))
    assert read_pickle(tmp_path / "a.pkl.gz") == [1]
    (tmp_path / "b.pkl.gz").write_bytes(b"text")
    with pytest.raises(InputError, match="no complete pickle"):
        read_pickle(tmp_path / "b.pkl.gz")
