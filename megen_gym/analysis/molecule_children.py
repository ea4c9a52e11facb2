"""Child processes that read the bonds of molecules: one that hangs or crashes costs its molecule and nothing else.

A child is a plain Python process that speaks JSON lines (see :mod:`megen_gym.channel`). Before each molecule it sets
the alarm that will end it, so that it also ends when the parent has been killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ase import Atoms

from megen_gym.analysis.molecule_bonds import BondRules, Reading, read_bonds
from megen_gym.channel import open_channel

CHUNK = 16
"""Molecules that a child is given at a time."""

GRACE = 60.0
"""Seconds that a child may be late, for example because it is starting."""

_CODE = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from megen_gym.analysis.molecule_children import serve; serve()"
)

Numbered = tuple[int, Atoms]


def read_in_children(
    molecules: Sequence[Numbered], rules: BondRules, limit: float | None, workers: int = 1
) -> Iterator[tuple[int, Reading]]:
    """Read the bonds of molecules in `workers` processes.

    Args:
        molecules: Number and molecule.
        rules: What counts as valid.
        limit: Seconds per molecule; None for no limit.
        workers: Processes.

    Yields:
        The number of a molecule and its reading, as they are ready; ``timeout`` and ``crash`` among the reasons.
    """
    waiting = deque(molecules)
    children = [_Child(rules, limit) for _ in range(min(workers, -(-len(waiting) // CHUNK)))]
    try:
        for child in children:
            child.give(waiting)
        while busy := [child for child in children if child.given]:
            patience = None if limit is None else limit + GRACE
            ready = select.select(busy, [], [], patience)[0]
            for child in busy:
                if child in ready:
                    yield from child.collect()
                elif limit is not None and time.monotonic() - child.heard > limit + GRACE:
                    child.stop()
                if not child.given:
                    child.give(waiting)
    finally:
        for child in children:
            child.end()


class _Child:
    """One process, started when it is first given something and again after it died."""

    def __init__(self, rules: BondRules, limit: float | None) -> None:
        self.rules, self.limit = rules, limit
        self.given: deque[Numbered] = deque()
        self.process: subprocess.Popen[bytes] | None = None
        self.received = b""
        self.ready, self.late, self.heard = False, False, 0.0

    def fileno(self) -> int:
        """Where its answers come in."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def give(self, waiting: deque[Numbered]) -> None:
        """Take a chunk of what is waiting."""
        self.given.extend(waiting.popleft() for _ in range(min(CHUNK, len(waiting))))
        if self.given:
            self._send()

    def collect(self) -> Iterator[tuple[int, Reading]]:
        """The answers that have come in; for the molecule at which the process died, the reason."""
        data = os.read(self.fileno(), 1 << 16)
        self.heard = time.monotonic()
        *lines, self.received = (self.received + data).split(b"\n")
        for line in lines:
            if self.ready:
                yield self.given.popleft()[0], decode(json.loads(line))
            self.ready = True
        if not data:
            yield from self._bury()

    def _bury(self) -> Iterator[tuple[int, Reading]]:
        assert self.process is not None
        code = self.process.wait()
        self.end()
        if not self.ready:
            raise RuntimeError(f"a child process for bonds of molecules ended with exit code {code} before it started")
        late = self.late or code == -signal.SIGALRM
        reason = f"timeout ({self.limit:g} s)" if late and self.limit else f"crash (exit code {code})"
        yield self.given.popleft()[0], Reading(None, reason)
        if self.given:
            self._send()

    def _send(self) -> None:
        if self.process is None:
            command = [sys.executable, "-c", _CODE, json.dumps(sys.path)]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self.received, self.ready, self.late = b"", False, False
            self._write({"rules": asdict(self.rules), "limit": self.limit})
        chunk = [(atoms.numbers.tolist(), atoms.positions.tolist()) for _, atoms in self.given]
        self._write({"molecules": chunk})
        self.heard = time.monotonic()

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        """Kill a process that is late; its end then is the next thing to collect."""
        assert self.process is not None
        self.late = True
        self.process.kill()

    def end(self) -> None:
        """Kill and forget the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                with suppress(OSError, AttributeError):
                    stream.close()  # type: ignore[union-attr]
            self.process = None


def decode(fields: dict[str, Any]) -> Reading:
    """A reading from its JSON form."""
    bonds = tuple((int(i), int(j), float(order)) for i, j, order in fields["bonds"])
    rings = tuple((int(size), bool(aromatic), bool(fused)) for size, aromatic, fused in fields["rings"])
    return Reading(fields["smiles"], fields["reason"], bonds, rings)


def serve() -> None:
    """Child process: read rules and time limit, then chunks of molecules; answer for each molecule."""
    from rdkit.rdBase import BlockLogs

    messages, answer = open_channel()
    settings = messages.get()
    rules, limit = BondRules(**settings["rules"]), settings["limit"] or 0.0
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    answer({"ready": True})
    silence = BlockLogs()
    while silence:
        for numbers, positions in messages.get()["molecules"]:
            signal.setitimer(signal.ITIMER_REAL, limit)
            reading = read_bonds(numbers, positions, rules)
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            answer(asdict(reading))
