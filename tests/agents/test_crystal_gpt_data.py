"""Crystals to train on: every format, bad structures, the cache, duplicates, the split, and the bundled set."""

import csv
import gzip
import importlib.util
import io
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation

from megen_gym.agents.crystal_gpt import data as module
from megen_gym.agents.crystal_gpt.data import BUNDLE, Dataset, from_atoms, load, split
from megen_gym.agents.crystal_gpt.duplicates import first_equal
from megen_gym.agents.crystal_gpt.store import read_stored
from megen_gym.crystals import CrystalBatch, describe
from megen_gym.errors import InputError
from megen_gym.io import write_cifs, write_db, write_poscars, write_structures
from megen_gym.periodic import Lattice

REFERENCE = Path(os.environ.get("MEGEN_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))
CARBON = REFERENCE / "carbon_24_val.extxyz.gz"
needs_carbon = pytest.mark.skipif(not CARBON.exists(), reason="needs the shared reference")


def some() -> list[Atoms]:
    rutile = crystal(["Ti", "O"], [(0, 0, 0), (0.3, 0.3, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.95, 90, 90, 90])
    plain = Atoms(rutile.numbers, rutile.positions, cell=rutile.cell, pbc=True)
    return [bulk("NaCl", "rocksalt", a=5.64), bulk("Cu"), bulk("Si"), plain]


GROUPS = [225, 225, 227, 136]
GAPS = [8.5, 0.0, np.nan, 3.0]


def cif(atoms: Atoms) -> str:
    text = io.BytesIO()
    write(text, atoms, format="cif")
    return text.getvalue().decode()


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode()) if path.suffix == ".gz" else text.getvalue().encode())
    return path


def rows() -> list[dict[str, str]]:
    return [
        {
            "": str(i),
            "material_id": f"mp-{i}",
            "band_gap": "" if np.isnan(gap) else str(gap),
            "pretty_formula": "x",
            "cif": cif(a),
        }
        for i, (a, gap) in enumerate(zip(some(), GAPS, strict=True))
    ]


def read(path: Path | str, **options: object) -> Dataset:
    return load(path, cache=False, **options)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_table_of_cifs(tmp_path, name):
    data = read(table(tmp_path / name, rows()))
    assert data.crystals.group.tolist() == GROUPS
    assert data.names == ("band_gap",)
    np.testing.assert_array_equal(data.properties[:, 0], GAPS)
    assert data.ids.tolist() == ["mp-0", "mp-1", "mp-2", "mp-3"]
    assert data.skipped == ()
    assert data.path == tmp_path / name


def test_columns_of_a_table(tmp_path):
    given = [
        {"CIF": row["cif"], "energy_per_atom": "-1e0", "flag": "yes", "empty": "", "some": "inf"} for row in rows()
    ]
    data = read(table(tmp_path / "a.csv", given))
    assert data.names == ("energy_per_atom",)
    assert data.ids.tolist() == ["0", "1", "2", "3"]
    assert csv.field_size_limit() < 2**20
    long = [row | {"cif": row["cif"] + "#" + "x" * 200_000 + "\n"} for row in rows()]
    assert len(read(table(tmp_path / "b.csv", long))) == 4
    with pytest.raises(InputError, match="columns a, b, but none of CIFs"):
        read(table(tmp_path / "c.csv", [{"a": "1", "b": "2"}]))


def test_bad_rows_are_skipped(tmp_path, capfd):
    good = rows()
    near = bulk("Cu", cubic=True)
    near.positions[1] = near.positions[0] + 0.1
    half = good[1]["cif"].replace("1.0000", "0.5000") if "1.0000" in good[1]["cif"] else good[1]["cif"]
    bad = {"unreadable": "no cif at all", "blank": "", "near": cif(near), "partly": half}
    bad |= {"nan": good[1]["cif"].replace("_cell_length_a", "_cell_length_a nan #")}
    mixed = [good[0], *({**good[0], "material_id": key, "cif": text} for key, text in bad.items()), good[2]]
    data = read(table(tmp_path / "a.csv", mixed))
    assert data.ids.tolist() == ["mp-0", "mp-2"]
    assert [sentence.split(")")[0] for sentence in data.skipped] == [
        f"row {i} ({key}" for i, key in enumerate(bad, start=1)
    ]
    assert "has no CIF" in data.skipped[1]
    assert "apart" in data.skipped[2]
    assert "only partly occupied (Cu 0.5)" in data.skipped[3]
    assert all("\n" not in sentence for sentence in data.skipped)
    assert capfd.readouterr().err == ""
    with pytest.raises(InputError, match=r"no crystal that can be used; row 0 \(unreadable\)"):
        read(table(tmp_path / "b.csv", mixed[1:-1]))


def test_extended_xyz(tmp_path):
    structures = some()
    for atoms, gap in zip(structures, GAPS, strict=True):
        atoms.info |= {"gap": gap, "kind": "text", "material_id": 7, "good": True} if np.isfinite(gap) else {}
    for name in ("a.extxyz", "a.xyz", "a.extxyz.gz"):
        path = write_structures(tmp_path / name, structures, info={"energy": [-1.0, -2.0, -3.0, -4.0]})
        data = read(path)
        assert data.crystals.group.tolist() == GROUPS
        assert sorted(data.names) == ["energy", "gap"]
        np.testing.assert_array_equal(data.properties[:, data.names.index("gap")], GAPS)
        np.testing.assert_array_equal(data.properties[:, data.names.index("energy")], [-1, -2, -3, -4])
        assert data.ids.tolist() == ["7", "7", "2", "7"]


def test_bad_structures_in_extended_xyz(tmp_path):
    broken = bulk("Cu")
    broken.positions[0] = np.nan
    path = tmp_path / "a.extxyz"
    write(path, [bulk("Cu"), molecule("H2O"), broken, bulk("Si")], format="extxyz")
    path.write_text(path.read_text() + '1\nLattice="3 0 0 0 3 0 0 0 3"\nXq 0 0 0\n5\nonly\n')
    data = read(path)
    assert data.crystals.group.tolist() == [225, 227]
    assert len(data.skipped) == 4
    assert data.skipped[0].startswith("structure 1 is not periodic")
    assert "NaN" in data.skipped[1]
    assert "Xq" in data.skipped[2]
    assert "cut short" in data.skipped[3]
    path.write_text("5\nonly\n")
    with pytest.raises(InputError, match="cut short"):
        read(path)


def test_databases_and_trajectories(tmp_path):
    gaps = [8.5, 0.0, 1.1, 3.0]
    write_db(tmp_path / "a.db", some(), info={"gap": gaps, "energy": [-1.0, -2.0, -3.0, -4.0]})
    data = read(tmp_path / "a.db")
    assert data.crystals.group.tolist() == GROUPS
    assert {"gap", "energy"} <= set(data.names)
    assert data.properties[:, data.names.index("gap")].tolist() == gaps
    write(tmp_path / "a.traj", some())
    assert read(tmp_path / "a.traj").crystals.group.tolist() == GROUPS


def test_folders_and_single_files(tmp_path):
    write_cifs(tmp_path / "cifs", some())
    (tmp_path / "cifs" / "structure_0009.cif").write_text("data_x\n_atom_site_label nonsense\n")
    (tmp_path / "cifs" / "empty.cif").write_text("")
    data = read(tmp_path / "cifs")
    assert data.crystals.group.tolist() == GROUPS
    assert data.ids.tolist() == [f"structure_000{i}" for i in range(4)]
    assert len(data.skipped) == 2
    assert any("empty.cif" in sentence for sentence in data.skipped)
    assert read(tmp_path / "cifs" / "structure_0003.cif").crystals.group.tolist() == [136]
    write_poscars(tmp_path / "poscars", some())
    assert read(tmp_path / "poscars").crystals.group.tolist() == GROUPS
    assert read(tmp_path / "poscars" / "POSCAR_0002").crystals.group.tolist() == [227]
    (tmp_path / "many.cif").write_text(
        "".join(cif(atoms).replace("data_image0", f"data_{i}") for i, atoms in enumerate(some()))
    )
    assert read(tmp_path / "many.cif").crystals.group.tolist() == GROUPS


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "a.csv").write_text("cif,gap\n")
    (tmp_path / "b.csv.gz").write_bytes(b"no gzip")
    for end in ("csv", "extxyz", "cif"):
        (tmp_path / f"empty.{end}").write_text("")
        with pytest.raises(InputError, match="is empty"):
            read(tmp_path / f"empty.{end}")
    for name, match in {
        "none.csv": "does not exist", "notes.md": "no known ending", "folder": "holds no structure file",
        "a.csv": "no rows", "b.csv.gz": "restore it",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=match):
            read(tmp_path / name)
    for symprec in (0, -1, np.nan):
        with pytest.raises(InputError, match="symprec"):
            load(None, symprec)


def test_a_smaller_symprec_is_tried(monkeypatch):
    asked = []

    def refuses(atoms: Atoms, symprec: float) -> CrystalBatch:
        asked.append(symprec)
        if symprec > 0.005:
            raise InputError("no symmetry of it is found; give another")
        return describe(atoms, symprec)

    monkeypatch.setattr(module, "describe", refuses)
    assert len(from_atoms([bulk("Cu")])) == 1
    assert asked == [0.01, 0.001]


def test_rows_and_memory():
    data = from_atoms([*some(), molecule("H2O")], {"gap": [*GAPS, 0.0]})
    assert data.skipped == ("structure 4 is not periodic in three directions",)
    part = data[[3, 0]]
    assert (len(part), part.ids.tolist(), part.properties[:, 0].tolist()) == (2, ["3", "0"], [3.0, 8.5])
    assert len(data[np.zeros(4, dtype=bool)]) == len(data[[]]) == 0
    with pytest.raises(InputError, match="2 values for 4 structures"):
        from_atoms(some(), {"gap": [1.0, 2.0]})


def test_cache(tmp_path, monkeypatch, caplog):
    path, cache = table(tmp_path / "a.csv", [*rows(), {**rows()[0], "cif": "bad"}]), tmp_path / "cache"
    first = load(path, cache=cache)
    (file,) = cache.iterdir()
    monkeypatch.setattr(module, "_read", lambda *_: pytest.fail("was read again"))
    again = load(path, cache=cache)
    np.testing.assert_array_equal(first.crystals.coordinates, again.crystals.coordinates)
    np.testing.assert_array_equal(first.crystals.lattice, again.crystals.lattice)
    np.testing.assert_array_equal(first.properties, again.properties)
    assert (again.names, again.skipped, again.ids.tolist()) == (first.names, first.skipped, first.ids.tolist())
    moved = path.rename(tmp_path / "b.csv")
    assert load(moved, cache=cache).path == moved
    monkeypatch.undo()
    for damage in (b"", b"PK nonsense", file.read_bytes()[:-200], file.read_bytes()[:500]):
        file.write_bytes(damage)
        assert load(moved, cache=cache).ids.tolist() == first.ids.tolist()
        assert read_stored(file) is not None
    load(moved, 0.02, cache=cache)
    table(moved, rows()[:2])
    assert len(load(moved, cache=cache)) == 2
    assert len(list(cache.iterdir())) == 3
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(load(moved, cache=tmp_path / "file" / "cache")) == 2
    assert "not kept" in caplog.text


def test_cache_of_folders_and_places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_cifs(tmp_path / "cifs", some())
    assert len(load(tmp_path / "cifs", cache=False)) == 4
    assert not (tmp_path / "xdg").exists()
    load(tmp_path / "cifs")
    (tmp_path / "cifs" / "structure_0000.cif").rename(tmp_path / "cifs" / "other.cif")
    assert load(tmp_path / "cifs").ids.tolist()[0] == "other"
    assert len(list((tmp_path / "xdg" / "megen_gym" / "crystals").iterdir())) == 2


def disguised(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """The same crystal in another cell, turned, moved, mirrored and in another order."""
    other = atoms.repeat((2, 1, 1))
    other.set_cell(np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]]) @ other.cell[:])
    turn = Rotation.random(rng=rng).as_matrix() * rng.choice([-1, 1])
    order = rng.permutation(len(other))
    positions = (other.positions + rng.normal(0, 3, 3))[order] @ turn.T
    return Atoms(other.numbers[order], positions, cell=other.cell[:] @ turn.T, pbc=True)


def polymorphs() -> list[Atoms]:
    rng = np.random.default_rng(3)
    messy = Atoms("Si4O4", rng.random((8, 3)) * 0 + np.argwhere(np.ones((2, 2, 2))) * 2.2, cell=[4.4] * 3, pbc=True)
    messy.positions += rng.normal(0, 0.2, (8, 3))
    return [
        *some(), messy, bulk("NaCl", "cesiumchloride", a=3.5), bulk("ZnS", "zincblende", a=5.4),
        bulk("ZnS", "wurtzite", a=3.82), bulk("Cu", "hcp", a=2.55, c=4.164), bulk("NaCl", "rocksalt", a=5.8),
    ]  # fmt: skip


def test_duplicates_in_disguise():
    rng = np.random.default_rng(0)
    base = polymorphs()
    every = [*base, *(disguised(atoms, rng) for atoms in base)]
    expected = [*range(len(base))] * 2
    assert first_equal(every).tolist() == expected
    assert first_equal(CrystalBatch.from_atoms(every)).tolist() == expected
    assert first_equal(CrystalBatch.from_atoms(base)[[]]).tolist() == []


def test_duplicates_are_continuous():
    rng = np.random.default_rng(1)
    base = polymorphs()[4]
    near, far = base.copy(), base.copy()
    near.positions += rng.normal(0, 0.01, near.positions.shape)
    far.positions[0] += [0.3, 0.3, 0]
    assert first_equal([base, near, far]).tolist() == [0, 0, 2]
    assert first_equal([base, near, far], tolerance=0).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="tolerances"):
        first_equal([base], -1)


def test_elements_and_their_places_count():
    perovskite = Atoms("BaTiO3", [[0, 0, 0], [2, 2, 2], [2, 2, 0], [2, 0, 2], [0, 2, 2]], cell=[4] * 3, pbc=True)
    swapped = perovskite.copy()
    swapped.symbols = "TiBaO3"
    other = perovskite.copy()
    other.symbols = "SrTiO3"
    assert first_equal([perovskite, swapped, other, perovskite.repeat((1, 2, 3))]).tolist() == [0, 1, 2, 0]


def test_large_cells_take_the_linear_programme(monkeypatch):
    from megen_gym.agents.crystal_gpt import duplicates

    base = polymorphs()[4]
    rng = np.random.default_rng(2)
    near = base.copy()
    near.positions += rng.normal(0, 0.01, near.positions.shape)
    formula = ((8, 4), (14, 4))
    one, other = (duplicates._print(next(duplicates._points([atoms], [0])), formula) for atoms in (base, near))
    exact = duplicates._difference(one, other, np.array([0.5, 0.5]))
    monkeypatch.setattr(duplicates, "_ROWS", 0)
    assert duplicates._difference(one, other, np.array([0.5, 0.5])) == pytest.approx(exact, abs=1e-9)
    assert 0 < exact < 0.015


@needs_carbon
def test_duplicates_of_carbon():
    from megen_gym.io import read_structures

    structures = read_structures(CARBON, check=False)[:250]
    first = first_equal(structures)
    assert 120 < len(np.unique(first)) < 210
    assert (first <= np.arange(250)).all()
    assert (first[first] == first).all()


def several(copies: int = 3) -> Dataset:
    return from_atoms([bulk("Cu", a=3.2 + 0.1 * i) for i in range(12)] * copies)


def test_split_drops():
    data = several()
    parts = split(data, 0.25, seed=1)
    assert (len(parts.train), len(parts.valid), parts.n_duplicates) == (9, 3, 24)
    ids = {*parts.train.ids.tolist(), *parts.valid.ids.tolist()}
    assert ids == {str(i) for i in range(12)}
    again, other = split(data, 0.25, seed=1), split(data, 0.25, seed=2)
    assert again.valid.ids.tolist() == parts.valid.ids.tolist()
    assert other.valid.ids.tolist() != parts.valid.ids.tolist()


def test_split_groups_and_keeps():
    data = several()
    for seed in range(5):
        parts = split(data, 0.25, seed, "group")
        assert (len(parts.train), len(parts.valid)) == (27, 9)
        assert not {int(i) % 12 for i in parts.train.ids} & {int(i) % 12 for i in parts.valid.ids}
    parts = split(data, 0.25, 0, "keep")
    assert (len(parts.train), len(parts.valid), parts.n_duplicates) == (27, 9, 24)
    assert len(split(data, 0.01, 0, "group").valid) == 3


def test_split_of_few():
    data = several(1)
    assert [len(part) for part in (split(data[:2], 0.1).train, split(data[:2], 0.1).valid)] == [1, 1]
    assert [len(part) for part in (split(data[:2], 0.9).train, split(data[:2], 0.9).valid)] == [1, 1]
    assert [len(part) for part in (split(data[:1], 0.1).train, split(data[:1], 0.1).valid)] == [1, 0]
    assert [len(part) for part in (split(data, 0.0).train, split(data, 0.0).valid)] == [12, 0]
    for holdout in (-0.1, 1.0, np.nan):
        with pytest.raises(InputError, match="holdout"):
            split(data, holdout)
    with pytest.raises(InputError, match="did you mean 'drop'"):
        split(data, duplicates="dropp")
    with pytest.raises(InputError, match="empty"):
        split(data[[]])


def test_the_bundled_crystals():
    data = load()
    assert 2000 <= len(data) <= 3000
    assert BUNDLE.stat().st_size < 400_000
    assert len(np.unique(data.crystals.group)) >= 40
    assert len(np.unique(data.crystals.elements)) - 1 >= 50
    assert data.names == ("density", "volume_per_atom")
    assert np.isfinite(data.properties).all()
    assert len(np.unique(data.ids)) > 0.9 * len(data)
    for atoms in data.crystals[::40].to_atoms():
        assert Lattice(atoms.cell[:]).nearest(atoms.positions, 1).min() > 1
        assert describe(atoms).group[0] == atoms.info["spacegroup"]
    from megen_gym.agents.crystal_gpt.derive_bundle import properties

    np.testing.assert_allclose(properties(data.crystals), data.properties, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("pymatgen") is None, reason="needs pymatgen")
@pytest.mark.slow
def test_the_bundle_can_be_derived():
    from megen_gym.agents.crystal_gpt import derive_bundle

    data = load()
    for prototype in derive_bundle.prototypes()[5::60]:
        made = list(derive_bundle.decorations(prototype))
        there = np.flatnonzero([id.split()[0] == prototype.label for id in data.ids.tolist()])
        assert len(there) <= len(made)
        for row in there.tolist():
            alike = [one for name, one in made if name == data.ids[row] and one.group[0] == data.crystals.group[row]]
            assert any(np.allclose(one.lattice[0], data.crystals.lattice[row], atol=1e-4) for one in alike)
