"""Relaxations in child processes: a calculator that dies or hangs costs the structure that it worked on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ase import Atoms

from megen_gym.channel import open_channel
from megen_gym.children import Child, shared
from megen_gym.errors import InputError


@dataclass(frozen=True)
class Job:
    """How structures are relaxed; the arguments of :func:`~megen_gym.analysis.relax.relax`."""

    calculator: str
    kwargs: dict[str, Any]
    fmax: float
    steps: int
    optimizer: str


def relax_in_children(
    structures: Sequence[tuple[int, Atoms]], job: Job, workers: int = 1, time_limit: float | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Relax structures in `workers` processes; answers come as they are ready.

    Args:
        structures: Number and structure.
        job: What is done to each.
        workers: Processes.
        time_limit: Seconds per structure; None for no limit.

    Yields:
        The number of a structure and its outcome: before and energy (eV), positions (Å), forces (eV/Å), steps,
        converged, error (None if there is none; else positions and forces are missing).

    Raises:
        InputError: when the calculator cannot be used.
    """
    count = min(workers, len(structures))
    children = [Child("megen_gym.analysis.children:serve", asdict(job), time_limit) for _ in range(count)]
    try:
        for (index, _), answer in shared(structures, children, lambda piece: _encode(piece[1])):
            yield index, answer if "died" not in answer else _failure(answer["died"])
    except InputError as error:
        raise InputError(
            f"the calculator {job.calculator!r} cannot be used in a child process ({error}); check it"
        ) from None


def _failure(died: str) -> dict[str, Any]:
    error = died.replace("the process was", "the relaxation was").replace("the process died", "its process died")
    return {"before": math.nan, "energy": math.nan, "steps": 0, "converged": False, "error": error}


def _encode(atoms: Atoms) -> dict[str, Any]:
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "constraint": [constraint.todict() for constraint in atoms.constraints],
    }


def serve() -> None:
    """Child process: read a job, then structures, answer each; end when the input ends."""
    from ase.constraints import dict2constraint

    from megen_gym.analysis.relax import relax_one

    messages, answer = open_channel()
    job = Job(**messages.get())
    try:
        relaxer = relax_one(job.calculator, job.kwargs, job.fmax, job.steps, job.optimizer)
    except (Exception, SystemExit) as error:
        answer({"unusable": " ".join(str(error).split())[:300]})
        return
    answer({"ready": True})
    while True:
        message = messages.get()
        constraint = [dict2constraint(one) for one in message.pop("constraint")]  # type: ignore[no-untyped-call]
        done = relaxer(Atoms(**message, constraint=constraint))
        reply: dict[str, Any] = {
            "before": done.before,
            "energy": done.energy,
            "steps": done.steps,
            "converged": done.converged,
        }
        reply["error"] = done.error
        if done.error is None:
            reply["positions"] = done.atoms.positions.tolist()
            reply["forces"] = done.atoms.get_forces().tolist()  # type: ignore[no-untyped-call]
        answer(reply)
