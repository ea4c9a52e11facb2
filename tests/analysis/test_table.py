"""The quality table: its numbers, its three styles."""

import csv
import io

import numpy as np
import pytest
from ase import Atoms

from megen_gym.analysis.table import quality, quality_table
from megen_gym.errors import InputError
from megen_gym.structure import StructureBatch

TRIMER = Atoms("Ga3", [[0, 0, 0], [2.6, 0, 0], [1.3, 2.25, 0]])
ISOSCELES = Atoms("Ga3", [[0, 0, 0], [2.9, 0, 0], [1.45, 2.2, 0]])
BROKEN = Atoms("Ga3", [[0, 0, 0], [1.0, 0, 0], [1.3, 2.25, 0]])


def test_numbers():
    batch = StructureBatch.from_atoms([TRIMER, TRIMER, ISOSCELES, BROKEN])
    row = quality(
        "ppo", batch, [-3.0, -3.0, -2.0, -99.0], best_known={"Ga3": -3.5}, evaluations=12, rewards=[1, 1, 1, -1]
    )
    assert (row.structures, row.valid, row.unique) == (4, 0.75, pytest.approx(2 / 3))
    assert row.best == -3
    assert row.mean == pytest.approx(-8 / 3)
    assert row.above == pytest.approx(0.5)
    assert row.reward == 0.5
    assert quality("ppo", batch, [np.nan, -3, -2, -1], best_known=-2.0).above == -1


def test_mixed_compositions_are_shown_per_atom():
    batch = StructureBatch.from_atoms([TRIMER, Atoms("Ga2", [[0, 0, 0], [2.6, 0, 0]])])
    row = quality("random", batch, [-3.0, -1.0], best_known={"Ga3": -3.5, "Ga2": -1.1})
    assert row.above == pytest.approx(0.1)
    text = quality_table([row, quality("agent", batch[:1], [-3.0])])
    assert "eV/atom" in text
    assert "-0.750" in text
    assert "evaluations" not in text


def test_nothing_valid():
    row = quality("none", StructureBatch.from_atoms([BROKEN]), [-1.0])
    assert np.isnan([row.best, row.mean, row.unique]).all()
    assert quality_table([row]).splitlines()[1].split() == ["none", "1", "0.0%", "-"]


def test_styles():
    batch = StructureBatch.from_atoms([TRIMER, BROKEN])
    rows = [quality(name, batch, [-1 / 3, 0], evaluations=7) for name in ("random", "greedy, best of 8")]
    text = quality_table(rows).splitlines()
    assert len({len(line) for line in text}) == 1
    markdown = quality_table(rows, "markdown").splitlines()
    assert len({len(line) for line in markdown}) == 1
    assert markdown[1].startswith("|:--")
    table = list(csv.DictReader(io.StringIO(quality_table(rows, "csv"))))
    assert table[1]["policy"] == "greedy, best of 8"
    assert float(table[0]["best E (eV)"]) == pytest.approx(-1 / 3)
    assert float(table[0]["valid"]) == 0.5
    with pytest.raises(InputError, match="did you mean 'csv'"):
        quality_table(rows, "csw")


def test_wrong_length_is_refused():
    with pytest.raises(InputError, match="one value for each of 1"):
        quality("a", StructureBatch.from_atoms([TRIMER]), [1.0, 2.0])
