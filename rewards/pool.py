"""Child processes that compute energies, and what happens when one of them raises, hangs or dies."""

from __future__ import annotations

import json
import os
import queue
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from ase import Atoms

from megen_gym.children import START_LIMIT
from megen_gym.errors import InputError
from megen_gym.processes import close, ending, kill, start
from megen_gym.rewards.worker import Settings, encode, greeting


class Answer(NamedTuple):
    """What became of one structure.

    Attributes:
        energy: eV, or None.
        why: Reason for its absence, or None.
        evaluations: Calculator evaluations spent.
        forces: (n, 3) eV/Å where they were asked for.
    """

    energy: float | None
    why: str | None = None
    evaluations: int = 0
    forces: list[list[float]] | None = None


class Child:
    """One child process with a thread that forwards its answers.

    Attributes:
        row: Structure that it works on, None when idle.
        deadline: When it is killed, in the clock of :func:`time.monotonic`.
    """

    def __init__(self, settings: Settings, answers: queue.SimpleQueue[Any], threads: int) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="megen-calculator-", ignore_cleanup_errors=True)
        self.process = start("megen_gym.rewards.worker:serve", threads)
        self.row: int | None = None
        self.ready = False
        self.deadline = time.monotonic() + START_LIMIT
        self._thread = threading.Thread(target=self._listen, args=(self.process.stdout, answers), daemon=True)
        self._thread.start()
        self.send(greeting(settings, self.directory.name))

    def _listen(self, stream: Any, answers: queue.SimpleQueue[Any]) -> None:
        for line in stream:
            answers.put((self, line))
        answers.put((self, None))

    def send(self, message: dict[str, Any]) -> bool:
        """Whether the message could be handed over."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            return False
        return True

    def kill(self) -> str:
        """End it and all that it started; returns how it ended, in words."""
        code = kill(self.process)
        self._thread.join()
        close(self.process)
        self.directory.cleanup()
        return ending(code)


def _kill_all(children: list[Child], owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of this process must leave them alone
        while children:
            children.pop().kill()


class Pool:
    """Up to `workers` children, started when there is work and restarted when they die.

    Args:
        settings: What each child computes.
        workers: Number of children.
        time_limit: Seconds per structure, relaxation included; None for no limit.
    """

    def __init__(self, settings: Settings, workers: int, time_limit: float | None) -> None:
        self.settings = settings
        self.workers = workers
        self.limit = float("inf") if time_limit is None else time_limit
        self.children: list[Child] = []
        self.owner = os.getpid()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._proven = False
        self.close = weakref.finalize(self, _kill_all, self.children, self.owner)

    @property
    def forked(self) -> bool:
        """Whether the children belong to another process, of which this one is a fork."""
        return os.getpid() != self.owner

    def run(self, structures: Sequence[Atoms], forces: bool = False) -> list[Answer]:
        """An answer per structure, in order, with forces if they are wanted; a bad structure costs only its own row.

        Raises:
            InputError: when the calculator cannot be built at all.
        """
        results = [Answer(None, "not computed")] * len(structures)
        pending = deque(range(len(structures)))
        try:
            while pending or any(child.row is not None for child in self.children):
                self._assign(pending, structures, forces)
                self._collect(results)
        except BaseException:
            _kill_all(self.children, self.owner)  # late answers must not meet the next call
            raise
        return results

    def _assign(self, pending: deque[int], structures: Sequence[Atoms], forces: bool) -> None:
        for child in list(self.children):
            if child.row is None and child.process.poll() is not None:
                self._drop(child)
        while pending:
            idle = [child for child in self.children if child.row is None]
            if idle:
                child = idle[0]
                child.deadline = time.monotonic() + self.limit
            elif len(self.children) >= self.workers:
                return
            else:
                child = Child(self.settings, self._answers, max(1, (os.cpu_count() or 1) // self.workers))
                self.children.append(child)
            if child.send({"atoms": encode(structures[pending[0]]), "forces": forces}):
                child.row = pending.popleft()
            elif child.ready:
                self._drop(child)  # it died while idle; the structure has not been tried
            else:
                child.row = pending.popleft()  # it died while starting: reported when its output ends

    def _collect(self, results: list[Answer]) -> None:
        deadline = min(child.deadline for child in self.children if child.row is not None)
        timeout = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        try:
            child, line = self._answers.get(timeout=timeout)
        except queue.Empty:
            for child in [c for c in self.children if c.row is not None and c.deadline <= time.monotonic()]:
                self._drop(child)
                assert child.row is not None
                limit = self.limit if child.ready else START_LIMIT
                doing = "gave no energy" if child.ready else "did not start"
                results[child.row] = Answer(None, f"the calculator {doing} within {limit:g} s and was stopped")
            return
        if child not in self.children:
            return
        row = child.row
        if line is None or not line.endswith(b"\n"):
            ended = self._drop(child)
            if row is not None:
                results[row] = Answer(None, f"the calculator's process died ({ended})")
            return
        reply = json.loads(line)
        if "ready" in reply:
            child.ready = self._proven = True
            child.deadline = time.monotonic() + self.limit
            return
        assert row is not None
        if "unusable" in reply:
            self._drop(child)
            if not self._proven:
                raise unusable(self.settings, reply["unusable"])
            results[row] = Answer(None, f"the calculator could not be built again: {reply['unusable']}")
        else:
            results[row] = Answer(reply.get("energy"), reply.get("error"), reply["evaluations"], reply.get("forces"))
            child.row = None

    def _drop(self, child: Child) -> str:
        self.children.remove(child)
        return child.kill()


def unusable(settings: Settings, why: str) -> InputError:
    """The refusal of a calculator that cannot be imported or built."""
    return InputError(
        f"the calculator {settings.calculator!r} with kwargs {settings.kwargs} cannot be built ({why}); "
        "check the import path, its kwargs and that its package is installed"
    )
