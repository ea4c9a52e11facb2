"""Child processes that relax structures: what kills one of them costs the structure that it worked on, nothing else.

The child is a plain Python process that speaks JSON lines over its standard input and output, so that a user's script
needs no ``if __name__ == "__main__"`` and nothing is pickled.
"""

from __future__ import annotations

import json
import math
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from ase import Atoms

from megen_gym.channel import open_channel
from megen_gym.errors import InputError

START_LIMIT = 300.0
"""Seconds for a child to import what it needs and to build its calculator."""

_CODE = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from megen_gym.analysis.children import serve; serve()"
)


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
    """
    waiting: queue.SimpleQueue[tuple[int, Atoms]] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[int, dict[str, Any]] | BaseException] = queue.SimpleQueue()
    for item in structures:
        waiting.put(item)
    children = [_Child(job, time_limit) for _ in range(min(workers, len(structures)))]

    def work(child: _Child) -> None:
        try:
            while True:
                index, atoms = waiting.get_nowait()
                answers.put((index, child.ask(atoms)))
        except queue.Empty:
            pass
        except BaseException as error:
            answers.put(error)

    threads = [threading.Thread(target=work, args=(child,), daemon=True) for child in children]
    try:
        for thread in threads:
            thread.start()
        for _ in structures:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        for child in children:
            child.end()


class _Child:
    """One process, started when it is first asked and again after it died."""

    def __init__(self, job: Job, time_limit: float | None) -> None:
        self.job, self.limit = job, time_limit
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = False

    def ask(self, atoms: Atoms) -> dict[str, Any]:
        """The outcome for one structure."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        self._send(_encode(atoms))
        answer = self._receive(self.limit)
        return answer if answer is not None else _failure(self._obituary(f"gave no answer within {self.limit} s"))

    def _start(self) -> None:
        command = [sys.executable, "-c", _CODE, json.dumps(sys.path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            env={"OMP_NUM_THREADS": "1"} | dict(os.environ),
        )  # fmt: skip
        self._send(asdict(self.job))
        greeting = self._receive(START_LIMIT)
        if greeting is None or "ready" not in greeting:
            why = self._obituary("did not start") if greeting is None else greeting["unusable"]
            raise InputError(
                f"the calculator {self.job.calculator!r} cannot be used in a child process ({why}); check it"
            )

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _receive(self, limit: float | None) -> dict[str, Any] | None:
        """The next message; None if the process died or took too long."""
        assert self.process is not None
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit)[0]:
            return None
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    def _obituary(self, late: str) -> str:
        """Bury the process; how it ended."""
        assert self.process is not None
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        code = self.process.poll()
        self._kill()
        if self.ended:
            return "the relaxation was interrupted"
        if code is None:
            return f"the calculator {late}"
        return f"the calculator's process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def _kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                with suppress(OSError, AttributeError):
                    stream.close()  # type: ignore[union-attr]
            self.process = None

    def end(self) -> None:
        """Stop it, and whatever it is doing."""
        self.ended = True
        process = self.process
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _failure(error: str) -> dict[str, Any]:
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
