"""Reports: what the page holds, that data cannot become markup, and what is refused."""

import json
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.singlepoint import SinglePointCalculator

from megen_gym import runs
from megen_gym.errors import InputError
from megen_gym.io import write_structures
from megen_gym.report import (
    Chart,
    Histogram,
    Report,
    Series,
    Table,
    report,
    report_of_run,
    report_run,
    write_report,
)
from megen_gym.report.axes import Axis
from megen_gym.report.curves import charts
from megen_gym.report.files import markdown_tables
from megen_gym.report.packing import chosen, pack
from megen_gym.report.page import html, table
from megen_gym.report.svg import bin_edges, chart, histogram

EVIL = '</script><script>alert("1")</script>&<!--'


def clusters(count: int, n: int = 18) -> list[Atoms]:
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        info = {"energy": float(rng.normal(-2.3 * n, 1.0)), "policy": ("a", "b")[index % 2], "valid": True}
        found.append(Atoms(f"Ga{n}", rng.normal(0, 3, (n, 3)), info=info))
    return found


def packed(page: str) -> dict[str, object]:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert text is not None
    found: dict[str, object] = json.loads(text[1])
    return found


def test_everything_from_data_is_escaped() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]], info={"energy": -1.0, "policy": EVIL, "note": EVIL, EVIL: 1})
    values = np.array([1.0, 2.0, 3.0])
    page = html(
        Report(
            EVIL,
            {EVIL: EVIL},
            [Table(EVIL, [EVIL, "b"], [[EVIL, EVIL]], EVIL), Table(EVIL, ["a"], [], folded=True)],
            [Chart(EVIL, EVIL, EVIL, [Series(EVIL, values, values)])],
            [Histogram(EVIL, EVIL, {EVIL: values})],
            [atoms],
        )
    )
    body = page[page.index("<body>") :]
    assert "alert(" in body
    assert "<script>alert" not in page
    assert body.count("</script>") == 3
    assert packed(page)["groups"] == [EVIL]


def test_the_page_loads_nothing() -> None:
    page = html(Report("t", structures=clusters(2)))
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "3Dmol.js" in page
    assert "University of Pittsburgh" in page


def test_structures_are_sorted_and_packed_exactly() -> None:
    first, second = clusters(2)
    first.info["energy"] = -1.0
    second.info.pop("energy")
    slab = fcc111("Cu", (1, 1, 2), vacuum=5.0)
    slab.calc = SinglePointCalculator(slab, energy=-7.25)
    data = packed(html(Report("t", structures=[second, first, slab])))

    def array(name: str, kind: str) -> np.ndarray:
        return np.frombuffer(b64decode(str(data[name])), kind)

    np.testing.assert_array_equal(array("energy", "<f8"), [-7.25, -1.0, np.nan])
    np.testing.assert_array_equal(array("count", "<u4"), [2, 18, 18])
    np.testing.assert_array_equal(array("pbc", "u1"), [3, 0, 0])
    np.testing.assert_array_equal(array("group", "<u2"), [2, 1, 0])
    wanted = np.concatenate([slab.positions, first.positions, second.positions])
    np.testing.assert_allclose(array("positions", "<f4").reshape(-1, 3), wanted, atol=1e-6)
    np.testing.assert_allclose(array("cells", "<f4").reshape(-1, 3, 3)[0], slab.cell.array, atol=1e-6)
    assert data["info"] == {"valid": [None, True, True]}


def test_a_slab_without_a_third_vector_gets_one() -> None:
    sheet = Atoms("C2", [[0, 0, 0], [1.4, 0, 0]], cell=[[2.4, 0, 0], [1.2, 2.1, 0], [0, 0, 0]], pbc=[True, True, False])
    cell = np.frombuffer(b64decode(json.loads(pack([sheet], ["structures"]))["cells"]), "<f4").reshape(3, 3)
    np.testing.assert_allclose(cell[2], [0, 0, 1])


@pytest.mark.parametrize("broken", [Atoms(), Atoms("H", [[np.nan, 0, 0]]), Atoms("H", pbc=True)])
def test_a_structure_that_cannot_be_drawn_is_refused(broken: Atoms) -> None:
    with pytest.raises(InputError, match="structure 0 of the report"):
        html(Report("t", structures=[broken]))


def test_a_thousand_structures_make_a_small_file(tmp_path: Path) -> None:
    path = write_report(Report("t", structures=clusters(1000)), tmp_path / "r.html")
    assert path.stat().st_size < 2_000_000


def test_the_lowest_of_each_group_are_chosen() -> None:
    structures = [
        Atoms("H", info={"energy": float(e), "policy": p})
        for p, e in [("a", 1), ("a", 2), ("a", 3), ("b", 9), ("b", 8)]
    ]
    assert [atoms.info["energy"] for atoms in chosen(structures, 3)] == [1, 2, 8]
    assert len(chosen(structures, 100)) == 5


def test_a_table_aligns_numbers() -> None:
    text = table(Table("T", ["name", "E", "text"], [["a", "-1.25 (–2, 3)", "x"], ["b", "87.5%", "4"]], "Note."))
    assert '<th scope="col" class="number">E</th>' in text
    assert '<td class="number">87.5%</td>' in text
    assert "<td>x</td>" in text
    assert "<caption>T</caption>" in text
    assert "Note." in text


def test_a_chart_has_band_legend_and_description() -> None:
    x = np.arange(1.0, 5.0)
    lines = [Series("a", x, x, x - 1, x + 1), Series("b", x, np.array([1, np.nan, 3, 4]))]
    text = chart(Chart("Title", "steps", "energy (eV)", lines), {"a": 0, "b": 1}.__getitem__)
    assert text.count('class="band"') == 1
    assert text.count('class="line"') == 2
    assert text.count('class="dot"') == 7
    assert 'aria-label="Title: energy (eV) over steps. a: 1 at 1 to 4 at 4; b: 1 at 1 to 4 at 4."' in text
    assert "legend" in text


def test_long_lines_are_thinned_but_keep_their_extremes() -> None:
    y = np.zeros(20_000)
    y[777], y[-1] = 5.0, 1.0
    text = chart(Chart("t", "x", "y", [Series("a", np.arange(20_000.0), y)]), lambda _: 0)
    points = re.search(r'class="line" points="([^"]*)"', text)
    assert points is not None
    assert 300 < len(points[1].split()) < 700
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert min(heights) < 25


def test_a_logarithmic_axis_leaves_zero_out() -> None:
    x = np.array([0.0, 1.0, 10.0, 1000.0])
    text = chart(Chart("t", "x", "y", [Series("a", x, x)], log_x=True), lambda _: 0)
    points = re.search(r'class="line" points="([^"]*)"', text)
    assert points is not None
    places = [float(point.split(",")[0]) for point in points[1].split()]
    assert len(places) == 3
    assert places[1] - places[0] == pytest.approx((places[2] - places[1]) / 2, abs=0.2)


@pytest.mark.parametrize("values", [[], [1.0], [3.0, 3.0], [np.nan, 1.0], [-1e9, 1e-9], [1e12, 1.1e12]])
def test_any_values_make_a_chart_and_a_histogram(values: list[float]) -> None:
    y = np.array(values, dtype=float)
    for log in (False, True):
        assert "<svg" in chart(Chart("t", "x", "y", [Series("", np.arange(len(y)), y)], log_x=log), lambda _: 0)
    text = histogram(Histogram("t", "x", {"a": y, "none": np.array([])}), lambda _: 0)
    assert "<svg" in text
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


def test_a_histogram_leaves_far_values_out_and_says_so() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=200), [1e6]])
    edges, beyond = bin_edges(values)
    assert beyond == 1
    assert edges[-1] < 10
    assert "1 of 201 values lie above" in histogram(Histogram("t", "x", {"a": values}), lambda _: 0)


def test_ticks_are_round() -> None:
    values, texts, factor = Axis(-40.3, -35.2, 0, 1).ticks()
    assert texts == ["−40", "−39", "−38", "−37", "−36"]
    assert factor == ""
    assert len(values) == 5


def test_training_and_evaluation_share_a_chart_and_loss_comes_first() -> None:
    n = np.arange(1.0, 4.0)
    nothing = np.full(3, np.nan)
    found = charts(
        {
            "iteration": n, "seconds": n, "learning_rate": np.ones(3), "return_mean": n, "return_std": n / 10,
            "eval/return_mean": n, "val": n, "loss": n, "loss/value_loss": n, "eval/empty": nothing, "valid": n / 3,
        }
    )  # fmt: skip
    assert [one.title for one in found] == ["Loss", "Return", "Valid", "Value loss", "Seconds", "Learning rate"]
    assert [series.label for series in found[0].series] == ["held out", "training"]
    assert [(series.label, series.low is None) for series in found[1].series] == [
        ("training", False),
        ("evaluation", True),
    ]
    assert found[2].y_range == (0, 1)
    assert charts({"other": n}) == []


def test_more_than_eight_charts_are_folded() -> None:
    x = np.arange(3.0)
    page = html(Report("t", charts=[Chart(f"c{index}", "x", "y", [Series("", x, x)]) for index in range(11)]))
    assert "3 more curves" in page
    assert "<script" not in page


def run_folder(root: Path) -> runs.Run:
    run = runs.create(root, {"name": "mine", "seed": 3, "family": {"width": 8, "list": [1, 2]}})
    for iteration in range(4):
        run.append_metrics(iteration, {"loss": 1 / (iteration + 1), "val": 2.0, "seconds": iteration})
    (run.path / "table.md").write_text(
        "| policy | E (eV) |\n|:--|--:|\n| a \\| b | -1.5 |\n\nAnother:\n\n| x |\n|---|\n| 1 |\n"
    )
    (run.path / "losses.csv").write_text("epoch,D_real,D_fake\n0,1,2\n1,2,3\n")
    (run.path / "results.csv").write_text("data,mae\nfold,0.1\n")
    write_structures(run.path / "structures_eval.extxyz", clusters(6))
    write_structures(run.path / "structures_copy.xyz", clusters(6))
    folder = run.path / "generated_molecules"
    folder.mkdir()
    write_structures(folder / "1.extxyz", [bulk("Cu")])
    return run


def test_a_run_folder_becomes_a_report(tmp_path: Path) -> None:
    found = report_of_run(run_folder(tmp_path))
    assert found.title.startswith("Run ")
    assert found.summary["seed"] == "3"
    assert found.summary["model"] == "family"
    assert found.summary["structures"] == "7"
    assert [one.caption for one in found.tables] == ["Policies compared", "Another", "results", "Settings", "Versions"]
    assert list(found.tables[0].rows) == [["a | b", "-1.5"]]
    assert ["family.list", "[1, 2]"] in list(found.tables[3].rows)
    assert [one.title for one in found.charts] == ["Loss", "D", "Seconds"]
    assert len(found.structures) == 7
    assert {atoms.info["policy"] for atoms in found.structures} == {"a", "b", "generated molecules 1"}
    assert {name: len(values) for name, values in found.histograms[0].groups.items()} == {"a": 3, "b": 3}


def test_the_gallery_is_limited_and_the_histogram_is_not(tmp_path: Path) -> None:
    found = report_of_run(run_folder(tmp_path), max_structures=3)
    assert len(found.structures) == 3
    assert sum(len(values) for values in found.histograms[0].groups.values()) == 6
    assert "the gallery shows 3" in found.summary["structures"]


def test_a_damaged_file_of_structures_is_said_and_left_out(tmp_path: Path) -> None:
    run = runs.create(tmp_path, {"name": "mine"})
    (run.path / "bad.extxyz").write_text("not a structure\n")
    (run.path / "empty.extxyz").write_text("")
    write_structures(run.path / "good.extxyz", [*clusters(1), Atoms("H", cell=[[1, 0, 0]] * 3, pbc=True)])
    found = report_of_run(run)
    assert len(found.structures) == 1
    assert "bad.extxyz" in found.summary["left out"]
    assert "1 without atoms" in found.summary["left out"]


def test_a_run_without_anything_gets_a_page(tmp_path: Path) -> None:
    run = runs.create(tmp_path, {"name": "mine"})
    assert "Settings" in report_run(run).read_text()


def test_a_report_never_fails_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = runs.create(tmp_path, {"name": "mine"})
    (run.path / "metrics.csv").write_text("iteration,x\n1,word\n")
    path = report_run(run)
    assert not path.exists()
    assert "could not be written" in caplog.text


def test_markdown_without_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Title\n\n| no table |\n\ntext\n")
    assert markdown_tables(tmp_path / "a.md") == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path)
    assert report(tmp_path) == run.path / "report.html"
    assert str(run.path / "report.html") in capsys.readouterr().out
    assert report(run.path, tmp_path / "other.html").exists()
    path = report(run.path / "structures_eval.extxyz")
    assert path == run.path / "structures_eval.html"
    assert packed(path.read_text())["groups"] == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: report(folder), "holds no run"),
        (lambda folder: report(folder / "missing.extxyz"), "does not exist"),
        (lambda folder: report(Path(__file__)), "no file of structures"),
        (lambda folder: report(folder, folder / "page.txt"), "ends in .html"),
        (lambda folder: report(folder, None, 0), "give at least 1"),
        (lambda folder: write_report(Report("t"), folder / "page.pdf"), "ends in .html"),
        (lambda folder: Table("T", ["a"], [["1", "2"]]), "row 0 of the table 'T' has 2 cells"),
        (lambda folder: Series("s", np.zeros(3), np.zeros(2)), "one y for each x"),
        (lambda folder: Series("s", np.zeros(3), np.zeros(3), np.zeros(3)), "give low and high, or neither"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(tmp_path)  # type: ignore[operator]
