"""``python -m megen_gym report PATH``: the page of a run, a comparison, or a file of structures."""

from __future__ import annotations

from pathlib import Path

from megen_gym import runs
from megen_gym.errors import InputError
from megen_gym.report.files import is_structures
from megen_gym.report.folder import MOST_STRUCTURES, REPORT, report_of_run, report_of_structures
from megen_gym.report.page import write_report

COMPARISON = "comparison.json"
"""What makes a folder one of a comparison of policies."""


def report(path: Path = Path("runs"), output: Path | None = None, max_structures: int = MOST_STRUCTURES) -> Path:
    """Write one HTML page with tables, curves, and structures that turn in 3D; it opens without a network.

    Args:
        path: A run folder, a folder of runs (the newest is taken), the folder of a comparison, or a file of structures
            (.extxyz, .xyz, ...).
        output: The page; by default report.html in the folder, or the name of the file with .html.
        max_structures: Structures in the gallery at most, the lowest in energy of each group.

    Returns:
        Path of the page, which is also printed.

    Raises:
        InputError: if there is nothing to report.
    """
    path = Path(path)
    if max_structures < 1:
        raise InputError(f"max_structures is {max_structures}; give at least 1")
    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write a report to {output}; expected a name that ends in .html")
    if is_structures(path):
        content, place = report_of_structures(path, max_structures), path.with_name(f"{path.name.split('.')[0]}.html")
    elif path.is_file():
        raise InputError(f"{path} is no file of structures; give .extxyz, .xyz, .cif, a run folder or a folder of runs")
    elif (path / COMPARISON).is_file():
        from megen_gym.arena.page import report_of_comparison

        content, place = report_of_comparison(path, max_structures), path / REPORT
    else:
        run = runs.locate(path)
        content, place = report_of_run(run, max_structures), run.path / REPORT
    written = write_report(content, output or place)
    print(written)
    return written
