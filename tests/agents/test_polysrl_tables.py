"""Tables of formulas and properties: layouts, duplicates, folds, scales, and the trees to beat."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from megen_gym.agents.polysrl.columns import read_columns
from megen_gym.agents.polysrl.elements import element_table
from megen_gym.agents.polysrl.folds import Scaler, folds_of, leaks
from megen_gym.agents.polysrl.statistics import baselines, element_statistics, errors
from megen_gym.agents.polysrl.tables import PropertyTable, read_table
from megen_gym.errors import InputError

REFERENCE = Path(os.environ.get("MEGEN_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))
POLYSRL = REFERENCE / "polysrl"
needs_reference = pytest.mark.skipif(not (POLYSRL / "expt_gap.csv").exists(), reason="needs the shared reference")

ROWS = [("Fe2O3", 2.2), ("TiO2", 3.2), ("NaCl", 8.5)]

LAYOUTS = {
    "a.csv": "formula,target\nFe2O3,2.2\nTiO2,3.2\nNaCl,8.5\n",
    "semicolon.csv": "Formula;gap (eV)\nFe2O3;2.2\nTiO2;3.2\nNaCl;8.5\n",
    "bare.csv": "Fe2O3,2.2\nTiO2,3.2\nNaCl,8.5\n",
    "a.tsv": "id\tcomposition\tgap\n1\tFe2O3\t2.2\n2\tTiO2\t3.2\n3\tNaCl\t8.5\n",
    "records.json": json.dumps([{"pretty_formula": f, "gap": y} for f, y in ROWS]),
    "columns.json": json.dumps({"formula": [f for f, _ in ROWS], "gap": [y for _, y in ROWS]}),
    "pandas.json": json.dumps(
        {"formula": {i: f for i, (f, _) in enumerate(ROWS)}, "y": {i: y for i, (_, y) in enumerate(ROWS)}}
    ),
    "matbench.json": json.dumps({"index": [0, 1, 2], "columns": ["composition", "gap expt"], "data": ROWS}),
    "mapping.json": json.dumps(dict(ROWS)),
    "lists.json": json.dumps({"Fe2O3": [2.0, 2.4], "TiO2": [3.2], "NaCl": 8.5}),
    "by_formula.json": json.dumps({f: {"gap": y} for f, y in ROWS}),
    "by_id.json": json.dumps({f"mp-{i}": {"formula": f, "gap": y} for i, (f, y) in enumerate(ROWS)}),
    "pairs.json": json.dumps(ROWS),
}  # fmt: skip


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_layouts(name: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / (name + ".gz" if packed else name)
    data = LAYOUTS[name].encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    table = read_table(path)
    assert table.formulas == ("Fe2O3", "TiO2", "NaCl")
    np.testing.assert_allclose(table.target, [2.2, 3.2, 8.5])
    assert len(table) == 3
    assert table.fold is None


def test_excel(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [("composition", "Trg"), *ROWS, (None, None)]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    table = read_table(tmp_path / "a.xlsx")
    assert table.formulas == ("Fe2O3", "TiO2", "NaCl")
    assert table.name == "Trg"
    with pytest.raises(InputError, match="no complete Excel file"):
        read_table(write(tmp_path / "b.xlsx", "text"))


def test_excel_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"'openpyxl' is not installed .*megen-gym\[tables\]"):
        read_table(write(tmp_path / "a.xlsx", "text"))


def test_columns_are_chosen(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", "name,Compound,E_f,gap,note\nx,Fe2O3,-1,2.2,ok\ny,Ti O2,-2,3.2,ok\nz,NaCl,-3,8.5,\n"
    )
    assert read_table(path, "gap").target.tolist() == [2.2, 3.2, 8.5]
    assert read_table(path, "e f").name == "E_f"
    assert read_table(path, "gap", "Compound").formulas == ("Fe2O3", "TiO2", "NaCl")
    with pytest.raises(InputError, match=r"several columns with numbers: E_f, gap; name the one to predict"):
        read_table(path)
    with pytest.raises(InputError, match=r"has no column 'gab'; did you mean 'gap'\?"):
        read_table(path, "gab")
    with pytest.raises(InputError, match=r"has no column 'compond'; did you mean 'Compound'\?"):
        read_table(path, "gap", "compond")
    with pytest.raises(InputError, match=r"no cell of the column 'note' .*name the column of formulas"):
        read_table(path, "gap", "note")
    with pytest.raises(InputError, match=r"no row with a formula and a number in 'note'; 3 rows"):
        read_table(path, "note")
    with pytest.raises(InputError, match=r"has the columns a, b; name the one that holds formulas"):
        read_table(write(tmp_path / "b.csv", "a,b\n1,2\n"))
    with pytest.raises(InputError, match=r"none of them with numbers to predict"):
        read_table(write(tmp_path / "c.csv", "formula,b\nFe,x\n"))
    target = read_table(write(tmp_path / "d.csv", "formula,target,other\nFe,1,2\n"))
    assert target.name == "target"


def test_bad_rows_are_said(tmp_path: Path) -> None:
    text = "formula,gap\nFe2O3,2.2\nXx2,1\nNaCl,\nTiO2,metal\nFe2o3,1\nZnO,3.4\nMgO,inf\n"
    table = read_table(write(tmp_path / "a.csv", text))
    assert table.formulas == ("Fe2O3", "ZnO")
    assert len(table.skipped) == 2
    assert "2 rows are left out whose formula cannot be read, e.g. row 1: unknown element 'Xx'" in table.skipped[0]
    assert table.skipped[1] == "3 rows are left out without a number in 'gap', e.g. row 2: ''"


@pytest.mark.parametrize(
    ("duplicates", "target"),
    [("mean", [2.0, 5.0]), ("first", [3.0, 5.0]), ("lowest", [1.0, 5.0]), ("keep", [3.0, 5.0, 1.0, 2.0])],
)
def test_duplicates(duplicates: str, target: list[float], tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "formula,gap\nFe2O3,3\nTiO2,5\nO3Fe2,1\nFe0.4O0.6,2\n")
    table = read_table(path, duplicates=duplicates)
    assert table.target.tolist() == target
    assert table.formulas[:2] == ("Fe2O3", "TiO2")
    said = "2 of 4 rows repeat a composition (1 compositions, targets up to 2 apart)"
    assert [said in sentence for sentence in table.skipped] == ([] if duplicates == "keep" else [True])
    with pytest.raises(InputError, match=r"duplicates is 'avg'; .*Known: first, keep, lowest, mean"):
        read_table(path, duplicates="avg")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("none.csv", None, "does not exist; give an existing table"),
        ("a.dat", "x", "no known ending of a table; expected .csv"),
        ("a.csv", "", "is empty; expected a header and rows"),
        ("a.csv", "formula,gap\n", "holds no rows"),
        ("a.json", "{", "no complete JSON file"),
        ("a.json", "3", "holds no table; expected a list of records"),
        ("a.json", "[]", "holds no table"),
        ("a.json", '{"Fe": 1, "Ti": {"a": 2}}', "holds no table"),
        ("a.json", '{"formula": ["Fe", "Ti"], "gap": [1]}', "unequal lengths"),
        ("a.csv.gz", "x", "no complete gzip file"),
        ("a.csv", "formula,gap,fold\nFe,1,0\nTi,2,one\n", "the fold 'one' in row 1; give whole numbers"),
        ("a.csv", "formula,gap,fold\nFe,1,0\nTi,2,0.5\n", "the fold '0.5' in row 1"),
    ],
)
def test_files_that_are_refused(name: str, text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        write(tmp_path / name, text)
    with pytest.raises(InputError, match=sentence):
        read_table(tmp_path / name)


def test_other_encodings_and_short_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("formula,größe\nFe,1\nTi\n".encode("latin-1"))
    assert read_columns(tmp_path / "a.csv") == {"formula": ["Fe", "Ti"], "größe": ["1", None]}
    (tmp_path / "b.csv").write_bytes("\ufeffformula,gap\nCuSO4·5H2O,1\n".encode())
    assert read_table(tmp_path / "b.csv").formulas == ("CuSO4·5H2O",)


def elements(n: int) -> PropertyTable:
    """A table of `n` compositions, each a formula AO_k."""
    return PropertyTable(tuple(f"Fe{i + 1}O7" for i in range(n)), np.arange(1.0, n + 1), "y")


def test_fold_column(tmp_path: Path) -> None:
    text = "formula,gap,fold\nFe2O3,1,0\nTiO2,2,0\nNaCl,3,1\nZnO,4,1\nO3Fe2,5,1\nMgO,6,\nMg2O2,7,\n"
    table = read_table(write(tmp_path / "a.csv", text))
    assert table.fold is not None
    assert table.fold.tolist() == [0, 0, 1, 1, 1, -1]
    assert table.target[-1] == 6.5
    folds = folds_of(table, "official")
    assert [test.tolist() for _, test in folds] == [[0, 1], [2, 3, 4]]
    assert [train.tolist() for train, _ in folds] == [[2, 3, 5], [1, 5]]
    assert leaks(table, folds) == ()
    part = table[np.array([0, 5])]
    assert part.formulas == ("Fe2O3", "MgO")
    assert part.fold is not None
    assert part.fold.tolist() == [0, -1]


def test_folds_of_another_file() -> None:
    table = PropertyTable(("Fe2O3", "TiO2", "NaCl", "ZnO", "O3Fe2"), np.arange(5.0), "gap")
    official = PropertyTable(("Fe4O6", "NaCl"), np.zeros(2), "gap", np.array([0, 1]))
    folds = folds_of(table, "official", official)
    assert [test.tolist() for _, test in folds] == [[0, 4], [2]]
    assert [train.tolist() for train, _ in folds] == [[1, 2, 3], [0, 1, 3, 4]]
    strange = PropertyTable(("MgO",), np.zeros(1), "gap", np.array([0]))
    with pytest.raises(InputError, match=r"1 compositions of the official fold 0 are not in the table, e\.g\. MgO"):
        folds_of(table, "official", strange)
    with pytest.raises(InputError, match="the table has no official folds; give one with a column fold"):
        folds_of(table, "official")
    blank = PropertyTable(("Fe2O3",), np.zeros(1), "gap", np.array([-1]))
    with pytest.raises(InputError, match="official folds are all blank"):
        folds_of(table, "official", blank)
    everything = PropertyTable(("Fe", "Ti"), np.zeros(2), "gap", np.array([0, 0]))
    with pytest.raises(InputError, match="none is left to train"):
        folds_of(everything, "official")


def test_folder_of_folds(tmp_path: Path) -> None:
    for name, rows in {
        "train0": "Fe2O3,1\nTiO2,2\nTiO2,2\n", "val0": "NaCl,3\n", "test0": "ZnO,4\nTi2O4,2\n",
        "train1": "ZnO,4\n", "test1": "Fe2O3,1\nbad!,1\n",
    }.items():  # fmt: skip
        write(tmp_path / f"{name}.csv", "formula,target\n" + rows)
    table = read_table(tmp_path)
    folds = folds_of(table, "official")
    named = [[[table.formulas[row] for row in rows] for rows in fold] for fold in folds]
    assert named[0] == [["Fe2O3", "TiO2", "TiO2", "NaCl"], ["ZnO", "Ti2O4"]]
    assert named[1] == [["ZnO"], ["Fe2O3"]]
    assert len(table) == 6
    assert table.skipped[0].startswith("test1.csv: 1 rows are left out")
    said = leaks(table, folds)
    assert len(said) == 1
    assert said[0].startswith("fold 0: 1 of 2 tested rows have a composition that is also trained on, e.g. Ti2O4")
    (tmp_path / "train1.csv").unlink()
    with pytest.raises(InputError, match=r"lacks train1\.csv"):
        read_table(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no folds; expected files train0\.csv"):
        read_table(tmp_path / "empty")


@pytest.mark.parametrize("kind", ["matbench", "published", "random"])
def test_folds_part_the_rows(kind: str) -> None:
    table = elements(23)
    folds = folds_of(table, kind)
    assert len(folds) == 5
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(23))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(23))
    again = folds_of(table, kind)
    assert all((a == b).all() for one, two in zip(folds, again, strict=True) for a, b in zip(one, two, strict=True))


def test_folds_are_the_published_ones() -> None:
    from sklearn.model_selection import KFold

    table = elements(23)
    expected = np.array_split(np.random.RandomState(0).permutation(23), 5)
    assert all(set(test) == set(part) for (_, test), part in zip(folds_of(table), expected, strict=True))
    splitter = KFold(5, shuffle=True, random_state=18012019).split(np.zeros(23))
    for (train, test), (train_too, test_too) in zip(folds_of(table, "matbench"), splitter, strict=True):
        assert (train == train_too).all()
        assert (test == test_too).all()


def test_random_folds_keep_compositions_together() -> None:
    formulas = tuple(text for i in range(1, 12) for text in (f"Fe{i}O13", f"O{26}Fe{2 * i}"))
    table = PropertyTable(formulas, np.arange(22.0), "y")
    folds = folds_of(table, "random", n=4, seed=3)
    assert len(folds) == 4
    assert leaks(table, folds) == ()
    assert leaks(table, folds_of(table, "published")) != ()
    other = folds_of(table, "random", n=4, seed=4)
    assert any(set(a[1]) != set(b[1]) for a, b in zip(folds, other, strict=True))


def test_folds_refused() -> None:
    with pytest.raises(InputError, match=r"kind 'ofcial'; did you mean 'official'\?"):
        folds_of(elements(9), "ofcial")
    with pytest.raises(InputError, match="5 folds of 3 compositions were asked for; give from 2 to 3"):
        folds_of(elements(3))
    with pytest.raises(InputError, match="1 folds of 9"):
        folds_of(elements(9), "random", n=1)
    with pytest.raises(InputError, match="5 folds of 0"):
        folds_of(elements(0))


@pytest.mark.parametrize("kind", ["none", "standard", "log", "minmax"])
def test_scaler(kind: str) -> None:
    target = np.array([0.5, 2.0, 7.0, 3.0])
    scaler = Scaler.fit(target, kind)
    scaled = scaler.transform(target)
    np.testing.assert_allclose(scaler.inverse(scaled), target)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(np.array([9.0]))), [9.0])
    if kind in ("standard", "log"):
        assert scaled.mean() == pytest.approx(0)
        assert scaled.std() == pytest.approx(1)
    if kind == "minmax":
        assert (scaled.min(), scaled.max()) == (0, 1)
    constant = Scaler.fit(np.full(3, 4.0), kind)
    np.testing.assert_allclose(constant.inverse(constant.transform(np.full(3, 4.0))), 4.0)


def test_scaler_refuses() -> None:
    with pytest.raises(InputError, match=r"2 of 3 targets are not above 0, e\.g\. -1 in row 1, and have no logarithm"):
        Scaler.fit(np.array([1.0, -1.0, 0.0]), "log")
    with pytest.raises(InputError, match="not above 0"):
        Scaler.fit(np.array([1.0, 2.0]), "log").transform(np.array([0.0]))
    with pytest.raises(InputError, match=r"1 of 2 targets are NaN or infinite, e\.g\. row 1; leave them out"):
        Scaler.fit(np.array([1.0, np.nan]))
    with pytest.raises(InputError, match=r"no scaling 'logg'; did you mean 'log'\?"):
        Scaler.fit(np.array([1.0]), "logg")
    with pytest.raises(InputError, match="no targets to scale"):
        Scaler.fit(np.zeros(0))


def test_statistics_by_hand() -> None:
    found = element_statistics(
        np.array([[8, 26, 0], [26, 8, 0], [31, 0, 0]]), np.array([[6, 4, 0], [4, 6, 0], [3, 0, 0]])
    )
    assert found.shape == (3, 229)
    np.testing.assert_allclose(found[0], found[1])
    oxygen, iron = element_table("magpie")[[8, 26]]
    mean = 0.6 * oxygen + 0.4 * iron
    parts = np.split(found[0, :110], 5)
    np.testing.assert_allclose(parts[0], mean)
    np.testing.assert_allclose(parts[1], np.sqrt(0.6 * (oxygen - mean) ** 2 + 0.4 * (iron - mean) ** 2))
    np.testing.assert_allclose(parts[2], np.minimum(oxygen, iron))
    np.testing.assert_allclose(parts[3], np.maximum(oxygen, iron))
    np.testing.assert_allclose(parts[4], np.abs(oxygen - iron))
    assert found[:, 110].tolist() == [2, 2, 1]
    assert found[0, 111:].nonzero()[0].tolist() == [7, 25]
    np.testing.assert_allclose(found[:, 111:].sum(1), 1)


def test_statistics_where_a_property_is_unknown() -> None:
    table = np.array([[np.nan], [1.0], [3.0], [np.nan]])
    found = element_statistics(np.array([[1, 3], [118, 2]]), np.full((2, 2), 0.5), table)
    np.testing.assert_allclose(found[:, :5], [[1.5, 0.5, 1, 2, 1], [2.5, 0.5, 2, 3, 1]])
    assert element_statistics(np.zeros((0, 2)), np.zeros((0, 2)), table).shape == (0, 5 + 119)


@pytest.mark.parametrize(
    ("numbers", "fractions", "sentence"),
    [
        ([[1, 2]], [[1.0]], r"numbers have the shape \(1, 2\), fractions \(1, 1\); give \(B, E\)"),
        ([[1, 119]], [[0.5, 0.5]], "from 1 to 119; give 1 to 118"),
        ([[1, 2], [0, 0]], [[0.5, 0.5], [0, 0]], "composition 1 has no elements"),
    ],
)
def test_statistics_refused(numbers: list, fractions: list, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        element_statistics(np.array(numbers), np.array(fractions))


def test_baselines_learn() -> None:
    generator = np.random.default_rng(0)
    features = generator.random((200, 4))
    target = 3 * features[:, 0] - features[:, 2]
    table = elements(200)
    folds = folds_of(table, "random", n=2)
    found = baselines(features, target, folds)
    assert set(found) == {"extra_trees", "random_forest", "boosting", "ridge"}
    assert all((scores.r2 > 0.5).all() for scores in found.values())
    assert found["ridge"].mae.max() < 0.01
    assert str(found["ridge"]).startswith("MAE 0.00")
    mae, r2 = errors(target, found["ridge"].predicted)
    assert mae < 0.01 < r2
    assert np.isnan(errors(np.ones(2), np.ones(2))[1])
    with pytest.raises(InputError, match=r"no baseline 'rigde'; did you mean 'ridge'\?"):
        baselines(features, target, folds, ["rigde"])
    with pytest.raises(InputError, match="no folds, or one without rows"):
        baselines(features, target, [])


@needs_reference
def test_published_folds_of_matbench() -> None:
    """CrabNet's test folds are Matbench's, less the compositions that also stand in another fold."""
    table = read_table(POLYSRL / "castelli.csv")
    official = read_table(POLYSRL / "castelli_cv_test_folds.csv")
    assert len(table) == 9646
    assert "9282 of 18928 rows repeat a composition" in table.skipped[0]
    folds = folds_of(table, "official", official)
    assert [len(test) for _, test in folds] == [429, 443, 450, 455, 478]
    assert leaks(table, folds) == ()
    rows = read_table(POLYSRL / "castelli.csv", duplicates="keep")
    matbench = folds_of(rows, "matbench")
    assert len(leaks(rows, matbench)) == 5
    size = np.bincount(rows.groups)
    for (_, test), (_, tested) in zip(folds, matbench, strict=True):
        whole = np.flatnonzero(np.bincount(rows.groups[tested], minlength=len(size)) == size)
        assert {table.keys[row] for row in test} == {table.keys[group] for group in whole}
