"""Processes that play cells; one that dies costs the cell that it played."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megen_gym.arena.cell import Cell, Outcome, run_cell, save_outcome
from megen_gym.channel import open_channel
from megen_gym.children import Child, shared

INTERVAL = 0.5
"""Seconds between two reports of progress."""


def play_cells(cells: Sequence[tuple[Cell, Path]], jobs: int, told: Callable[[str, int], None]) -> None:
    """Play cells in `jobs` processes, each into its folder.

    Args:
        cells: What is played, and its folder.
        jobs: Processes.
        told: Hears the key of a cell and how many evaluations it has made.
    """

    def heard(progress: Any) -> None:
        told(progress["key"], progress["used"])

    children = [Child("megen_gym.arena.workers:serve", {}, heard=heard) for _ in range(min(jobs, len(cells)))]

    def question(piece: tuple[Cell, Path]) -> dict[str, Any]:
        return {"cell": asdict(piece[0]), "folder": str(piece[1])}

    for (cell, folder), answer in shared(cells, children, question):
        if "died" in answer:
            save_outcome(folder, Outcome(cell, error=answer["died"]))
        told(cell.key, cell.budget)


def serve() -> None:
    """Child process: play one cell after another."""
    import torch

    messages, answer = open_channel()
    messages.get()
    torch.set_num_threads(1)
    answer({"ready": True})
    while True:
        question = messages.get()
        cell, last = Cell(**question["cell"]), time.monotonic()

        def told(used: int, key: str = cell.key) -> None:
            nonlocal last
            if time.monotonic() - last > INTERVAL:
                last = time.monotonic()
                answer({"progress": {"key": key, "used": used}})

        run_cell(cell, Path(question["folder"]), told)
        answer({"done": cell.key})
