"""The report of a run folder, of any family, and of a file of structures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.report import files
from megen_gym.report.axes import minus
from megen_gym.report.content import Histogram, Report, Table
from megen_gym.report.curves import charts
from megen_gym.report.packing import by_energy, chosen, drawable, energy
from megen_gym.report.page import write_report
from megen_gym.runs import CONFIG, Run
from megen_gym.structure import FloatArray

REPORT = "report.html"
"""Name of the page in a run folder."""

MOST_STRUCTURES = 1000
"""Structures in a gallery by default."""


def report_run(run: Run) -> Path:
    """Write ``report.html`` into a run folder, as training does at its end.

    It never fails: where the page cannot be written, a warning says why.

    Returns:
        The path of the page.
    """
    path = run.path / REPORT
    try:
        write_report(report_of_run(run), path)
    except Exception as error:
        logging.getLogger("megen_gym").warning(f"{path} could not be written ({error!r}); the run itself is complete")
    return path


def report_of_run(run: Run, max_structures: int = MOST_STRUCTURES) -> Report:
    """What a run folder holds: settings, curves of all metrics, tables, and structures.

    Args:
        run: The run.
        max_structures: Structures in the gallery at most, the lowest in energy of each group; the histogram has all.

    Returns:
        The report.
    """
    found = files.structures_of(run.path)
    metrics = run.metrics()
    curves: list[Mapping[str, FloatArray]] = [metrics]
    tables: list[Table] = []
    for path in sorted(run.path.glob("*.md")):
        tables += files.markdown_tables(path)
    for path in files.csv_files(run.path):
        columns = files.csv_curves(path)
        if columns is None:
            tables.append(files.csv_table(path))
        else:
            curves.append(columns)
    tables += _settings(run)
    summary = _facts(run, metrics) | _about(found.structures, found.left_out, max_structures)
    return Report(
        f"Run {run.id}",
        summary,
        tables,
        charts(*curves),
        _histogram(found.structures),
        chosen(found.structures, max_structures),
    )


def report_of_structures(path: Path, max_structures: int = MOST_STRUCTURES) -> Report:
    """The gallery and the energies of a file of structures.

    Raises:
        InputError: if the file is missing, empty or damaged.
    """
    from megen_gym.io import read_structures

    read = read_structures(path, check=False)
    good = [atoms for atoms in read if drawable(atoms)]
    left_out = [] if len(good) == len(read) else [f"{len(read) - len(good)} that cannot be drawn"]
    found = files.Found(files.grouped({path: good}), left_out)
    summary = {"file": path.name} | _about(found.structures, left_out, max_structures)
    return Report(path.name, summary, (), (), _histogram(found.structures), chosen(found.structures, max_structures))


def _histogram(structures: Sequence[Atoms]) -> list[Histogram]:
    groups = files.energies(structures)
    return [Histogram("Energies of the structures", "energy (eV)", groups)] if groups else []


def _facts(run: Run, metrics: Mapping[str, Any]) -> dict[str, str]:
    settings = run.settings
    families = [name for name, value in settings.items() if isinstance(value, dict) and not name.endswith("_kwargs")]
    facts = {"created": str(run.config["created"])[:16].replace("T", " ") + " UTC", "seed": str(run.seed)}
    if settings.get("env"):
        facts["environment"] = str(settings["env"])
    if families:
        facts["model"] = ", ".join(families)
    if len(metrics.get("iteration", ())):
        facts["last iteration"] = f"{int(metrics['iteration'][-1]):,}"
        for name, label, unit in (("steps", "environment steps", ""), ("seconds", "time of training", " s")):
            if name in metrics and np.isfinite(metrics[name]).any():
                facts[label] = f"{np.nanmax(metrics[name]):,.0f}{unit}"
    return facts


def _about(structures: Sequence[Atoms], left_out: Sequence[str], most: int) -> dict[str, str]:
    if not structures:
        return {"structures": "none"} | ({"left out": "; ".join(left_out)} if left_out else {})
    count = f"{len(structures):,}"
    if len(structures) > most:
        count += f", of which the gallery shows {most:,}: the lowest in energy of each group"
    facts = {"structures": count}
    best = by_energy(structures)[0]
    if np.isfinite(value := energy(best)):
        several = len({atoms.info["policy"] for atoms in structures}) > 1
        facts["lowest energy"] = minus(f"{value:.4f} eV") + (f" ({best.info['policy']})" if several else "")
    return facts | ({"left out": "; ".join(left_out)} if left_out else {})


def _settings(run: Run) -> list[Table]:
    rows = list(_flat(run.settings))
    versions = run.config.get("versions") or {}
    tables = [Table("Settings", ["setting", "value"], rows, f"As in {CONFIG}.", folded=True)]
    if versions:
        tables.append(
            Table("Versions", ["package", "version"], [[k, str(v)] for k, v in versions.items()], folded=True)
        )
    return tables


def _flat(settings: Mapping[str, Any], before: str = "") -> list[list[str]]:
    rows = []
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{before}{name}.")
        else:
            text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
            rows.append([f"{before}{name}", text])
    return rows
