"""Child processes that do one piece of work after another: what kills one of them costs the piece that it worked on.

A child is a plain Python process that speaks JSON lines over its standard input and output (see
:mod:`megen_gym.channel`), so that a user's script needs no ``if __name__ == "__main__"`` and nothing is pickled.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from megen_gym.errors import InputError

T = TypeVar("T")

START_LIMIT = 300.0
"""Seconds for a child to import what it needs."""

Message = dict[str, Any]


class Child:
    """One process, started when it is first asked and again after it died.

    Args:
        serve: ``"module:function"`` that the process runs: it opens a channel, reads `greeting`, answers ``{"ready":
            true}`` or ``{"unusable": why}``, and then each question with a message. A message ``{"progress": ...}``
            may come before the answer.
        greeting: What it is told first.
        time_limit: Seconds without a message after which it is killed; None for no limit.
        heard: What is done with the progress that it reports.
    """

    def __init__(
        self,
        serve: str,
        greeting: Mapping[str, Any],
        time_limit: float | None = None,
        heard: Callable[[Any], None] = lambda progress: None,
    ) -> None:
        module, _, function = serve.partition(":")
        self._code = (
            f"import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {module} import {function}; {function}()"
        )
        self.greeting, self.limit, self.heard = dict(greeting), time_limit, heard
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = False

    def ask(self, question: Mapping[str, Any]) -> Message:
        """The answer; ``{"died": how}`` where the process gave none.

        Raises:
            InputError: when the process says that it cannot be used, or does not start.
        """
        if self.process is None or self.process.poll() is not None:
            self._start()
        self._send(question)
        answer = self._receive(self.limit)
        while answer is not None and "progress" in answer:
            self.heard(answer["progress"])
            answer = self._receive(self.limit)
        if answer is not None:
            return answer
        late = "closed its output" if self.limit is None else f"gave no answer within {self.limit} s"
        return {"died": self._obituary(late)}

    def _start(self) -> None:
        command = [sys.executable, "-c", self._code, json.dumps(sys.path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            env={"OMP_NUM_THREADS": "1"} | dict(os.environ),
        )  # fmt: skip
        self._send(self.greeting)
        first = self._receive(START_LIMIT)
        if first is None or "ready" not in first:
            why = self._obituary("did not start") if first is None else first["unusable"]
            raise InputError(why)

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _receive(self, limit: float | None) -> Message | None:
        """The next message; None if the process died or took too long."""
        assert self.process is not None
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit)[0]:
            return None
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        message: Message = json.loads(line)
        return message

    def _obituary(self, late: str) -> str:
        """Bury the process; how it ended."""
        assert self.process is not None
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0 if self.limit is None else 0.5)
        code = self.process.poll()
        self._kill()
        if self.ended:
            return "the process was interrupted"
        if code is None:
            return f"the process {late}"
        return f"the process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

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


def shared(
    pieces: Sequence[T], children: Sequence[Child], question: Callable[[T], Mapping[str, Any]]
) -> Iterator[tuple[T, Message]]:
    """Let the children do all the pieces of work; when the iterator is closed, the children end.

    Args:
        pieces: Of work.
        children: Who does them; each takes the next one when it is done.
        question: What a child is asked for a piece.

    Yields:
        A piece and the answer, as they are ready.

    Raises:
        InputError: what a child that cannot be used says.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[T, Message] | BaseException] = queue.SimpleQueue()
    for piece in pieces:
        waiting.put(piece)

    def work(child: Child) -> None:
        try:
            while True:
                piece = waiting.get_nowait()
                answers.put((piece, child.ask(question(piece))))
        except queue.Empty:
            pass
        except BaseException as error:
            answers.put(error)

    threads = [threading.Thread(target=work, args=(child,), daemon=True) for child in children]
    try:
        for thread in threads:
            thread.start()
        for _ in pieces:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        for child in children:
            child.end()
