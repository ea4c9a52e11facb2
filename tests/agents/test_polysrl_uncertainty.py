from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.formula import Formula
from ase.io import write

from megen_gym.agents.polysrl import polymorphs
from megen_gym.agents.polysrl.uncertainty import Settings, report
from megen_gym.agents.polysrl.uncertainty_measures import LEVELS, auroc, calibration, ranks
from megen_gym.cli import run
from megen_gym.errors import InputError


def test_calibration_tells_right_from_overconfident() -> None:
    rng = np.random.default_rng(0)
    std = rng.uniform(0.5, 3, 20_000)
    residual = std * rng.normal(size=20_000)
    right, sure = calibration(residual, std), calibration(residual, std / 3)
    assert right.error < 0.01
    assert np.abs(right.covered - LEVELS).max() < 0.02
    assert sure.error > 0.2
    assert sure.nll > right.nll
    assert right.nll == pytest.approx(0.5 + 0.5 * np.log(2 * np.pi) + np.log(std).mean(), abs=0.02)
    assert calibration(np.append(residual, np.nan), np.append(std, 1.0)).error == right.error
    with pytest.raises(InputError, match="above 0"):
        calibration(residual, 0 * std)
    with pytest.raises(InputError, match="0 rows"):
        calibration(residual[:0], std[:0])


def test_a_score_that_follows_the_size_of_a_formula_alone_ranks_nothing_within_types() -> None:
    rng = np.random.default_rng(1)
    kinds = np.repeat(["AB", "AB2", "AB3"], 200)
    size = np.repeat([1.0, 2.0, 3.0], 200)
    counts = rng.poisson(3 * size) + 1.0
    fooled, right = (
        ranks(size + 0.01 * rng.normal(size=600), counts, kinds.tolist()),
        ranks(counts, counts, kinds.tolist()),
    )
    assert fooled.overall > 0.5
    assert abs(fooled.within) < 0.12
    assert right.within == pytest.approx(1)
    assert {kind: number for kind, (_, number) in right.types.items()} == {"AB": 200, "AB2": 200, "AB3": 200}
    few = ranks(counts[:5], counts[:5], kinds[:5].tolist())
    assert np.isnan(few.within)


def test_the_area_under_roc_counts_pairs_of_one_type() -> None:
    score = np.array([1.0, 2.0, 30.0, 40.0])
    positive = np.array([0.0, 1.0, 1.0, 0.0])
    assert auroc(score, positive, ["A", "A", "B", "B"]) == 0.5
    assert auroc(score, positive, ["A"] * 4) == 0.5
    assert auroc(np.zeros(4), positive, ["A"] * 4) == 0.5
    assert auroc(score[:2], positive[:2], ["A", "A"]) == 1
    assert np.isnan(auroc(score[:2], positive[:2], ["A", "B"]))


def test_the_bundled_encoder_judges_other_crystals(tmp_path: Path) -> None:
    found = polymorphs.bundled()
    write(tmp_path / "some.extxyz", found.to_atoms(np.flatnonzero(found.composition < 40).tolist()), format="extxyz")
    made = report(Settings(model="bundle", data=str(tmp_path / "some.extxyz"), dir=tmp_path, progress=False))
    rows = list(csv.DictReader((made.path / "uncertainty.csv").read_text().splitlines()))
    told = {Formula(row["formula"]).format("hill") for row in rows}
    assert told == {Formula(formula).format("hill") for formula in found.formulas[:40]}
    assert np.isfinite([float(row["embedding"]) for row in rows]).all()
    assert sum(int(row["structures"]) for row in rows) == (found.composition < 40).sum()
    assert {"config.json", "ranks.csv", "uncertainty.png"} < {path.name for path in made.path.iterdir()}


@pytest.mark.slow
def test_the_bundled_encoder_is_judged_and_everything_is_written(tmp_path: Path) -> None:
    made = report(Settings(model="bundle", dir=tmp_path, progress=False))
    rows = list(csv.DictReader((made.path / "uncertainty.csv").read_text().splitlines()))
    assert len(rows) > 500
    assert list(rows[0]) == ["formula", "type", "structures", "embedding", "spread"]
    score, count = (np.array([float(row[name]) for row in rows]) for name in ("spread", "structures"))
    assert ranks(score, count, [row["type"] for row in rows]).within > 0.45
    kinds = list(csv.DictReader((made.path / "ranks.csv").read_text().splitlines()))
    assert {row["score"] for row in kinds} == {"embedding", "spread"}
    assert (made.path / "uncertainty.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_spread_ranks_polymorphs_of_held_out_compositions(tmp_path: Path) -> None:
    made = report(Settings(dir=tmp_path, progress=False))
    rows = list(csv.DictReader((made.path / "ranks.csv").read_text().splitlines()))
    found = [(float(row["rank_correlation"]), int(row["compositions"])) for row in rows if row["score"] == "spread"]
    value, weight = np.array(found).T
    assert np.average(value, weights=weight) > 0.45


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--folds", "1"], "folds is 1"),
        (["--model", "nothing"], "nothing"),
        (["--data", "missing.csv"], "does not exist"),
        (["--data", "single.extxyz"], "has one structure"),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("single.extxyz", [bulk("NaCl", "rocksalt", a=5.6), bulk("MgO", "rocksalt", a=4.2)])
    with pytest.raises(SystemExit) as stopped:
        report(run(Settings, words))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
