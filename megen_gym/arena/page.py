"""The report of a comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from megen_gym.arena.curves import panels
from megen_gym.arena.measure import comparable, distinct
from megen_gym.arena.results import Played, grouped, load_comparison
from megen_gym.arena.tables import markdown_cells, notes
from megen_gym.report.content import Chart, Histogram, Report, Series, Table

SHOWN = 1000
"""Structures in the gallery."""


def report_of_comparison(folder: Path, max_structures: int = SHOWN) -> Report:
    """The page of a comparison: table, curves, energies, and the lowest distinct structures of every policy.

    Raises:
        InputError: if the folder holds no comparison.
    """
    settings, played = load_comparison(folder)
    header, *rows = markdown_cells(played)
    policies = dict.fromkeys(one.row.policy for one in played)
    summary = {
        "Environments": ", ".join(dict.fromkeys(one.row.task for one in played)),
        "Policies": ", ".join(policies),
        "Seeds": ", ".join(str(seed) for seed in dict.fromkeys(one.row.seed for one in played)),
        "Budget": f"{settings['budget']} energy evaluations for each policy and seed",
    }
    charts = [
        Chart(
            panel.title,
            "energy evaluations",
            panel.label,
            [Series(curve.label, curve.x, curve.middle, curve.low, curve.high) for curve in panel.curves],
            log_x=True,
        )
        for panel in panels(played)
    ]
    with io.StringIO((folder / "seeds.csv").read_text()) as text:
        every_header, *every = list(csv.reader(text))
    return Report(
        "Comparison of policies",
        summary,
        [
            Table("By policy", header, rows, "\n".join(notes(settings, played))),
            Table("By seed", every_header, every, folded=True),
        ],
        charts,
        _histograms(played),
        lowest(played, max_structures),
    )


def lowest(played: Sequence[Played], most: int = SHOWN) -> list[Atoms]:
    """Distinct valid structures, lowest first, the same number for each policy and task."""
    groups = grouped([one for one in played if len(one.finds) and not one.row.error])
    share = max(1, most // max(len(groups), 1))
    shown: list[Atoms] = []
    for (task, policy), cells in groups.items():
        atoms, values = [], []
        for one in cells:
            good = np.flatnonzero(one.finds.valid & np.isfinite(one.finds.value))
            good = good[np.argsort(comparable(one.finds, one.per_atom)[good], kind="stable")][: 2 * share]
            batch = one.finds.batch(one.outcome.symbols, one.outcome.pbc)[good]
            for row in distinct(batch)[:share]:
                value = float(one.finds.value[good[row]])
                made = batch[row : row + 1].to_atoms()[0]
                made.info = {"energy" if one.outcome.energy else "reward": value if one.outcome.energy else -value}
                made.info |= {"policy": policy, "seed": one.row.seed}
                if len({key[0] for key in groups}) > 1:
                    made.info["task"] = task
                made.info["evaluations"] = int(one.finds.evaluations[good[row]])
                atoms.append(made)
                values.append(value / (len(made) if one.per_atom else 1))
        shown += [atoms[index] for index in np.argsort(values, kind="stable")[:share]]
    return shown


def _histograms(played: Sequence[Played]) -> list[Histogram]:
    made = []
    tasks = list(dict.fromkeys(one.row.task for one in played if len(one.finds)))
    for task in tasks:
        groups: dict[str, list[float]] = {}
        cells = [one for one in played if one.row.task == task]
        for one in (one for one in cells if not one.row.error):
            value = comparable(one.finds, one.per_atom)[one.finds.valid]
            sign = 1 if one.outcome.energy else -1
            groups.setdefault(one.row.policy, []).extend((sign * value[np.isfinite(value)]).tolist())
        unit = ("energy (eV/atom)" if cells[0].per_atom else "energy (eV)") if cells[0].outcome.energy else "return"
        title = "Valid structures" + (f": {task}" if len(tasks) > 1 else "")
        made.append(Histogram(title, unit, {name: np.array(values) for name, values in groups.items()}))
    return made
