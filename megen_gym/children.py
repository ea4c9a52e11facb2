"""Child processes that do one piece of work after another: what kills one of them costs the piece that it worked on.

A child is a plain Python process that speaks JSON lines over its standard input and output (see
:mod:`megen_gym.channel`), so that a user's script needs no ``if __name__ == "__main__"`` and nothing is pickled.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from megen_gym.errors import InputError
from megen_gym.processes import close, ending, kill, start

T = TypeVar("T")

START_LIMIT = 300.0
"""Seconds for a child to import what it needs; a machine-learned potential may have to load weights."""

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
        self.serve, self.greeting, self.limit, self.heard = serve, dict(greeting), time_limit, heard
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = self._late = False
        self._received = b""

    def ask(self, question: Mapping[str, Any]) -> Message:
        """The answer; ``{"died": how, "code": exit code}`` where the process gave none, without a code if it was late.

        Raises:
            InputError: when the process says that it cannot be used, or does not start.
        """
        if self.ended:
            return self._death()
        if self.process is not None and self.process.poll() is not None:
            self._kill()
        if self.process is None:
            self._start()
        self._send(question)
        answer = self._receive(self.limit)
        while answer is not None and "progress" in answer:
            self.heard(answer["progress"])
            answer = self._receive(self.limit)
        return self._death() if answer is None else answer

    def _start(self) -> None:
        self.process = start(self.serve)
        self._received, self._late = b"", False
        if self.ended:
            self._kill()
            return
        self._send(self.greeting)
        first = self._receive(START_LIMIT)
        if first is None or "ready" not in first:
            why = self._death("did not start")["died"] if first is None else first["unusable"]
            raise InputError(why)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _receive(self, limit: float | None) -> Message | None:
        """The next message; None if the process died or took too long."""
        if self.process is None:
            return None
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        while b"\n" not in self._received:
            if not select.select([pipe], [], [], limit)[0]:
                self._late = True
                return None
            data = os.read(pipe, 1 << 16)
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def _death(self, late: str | None = None) -> Message:
        """Bury the process; how it ended, and its exit code."""
        code = None
        if self.process is not None and not self._late:
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(5.0)
        self._kill()
        how = late if code is None else f"died ({ending(code)})"
        if how is None:
            how = f"gave no answer within {self.limit} s" if self._late else "closed its output"
        return {"died": f"the process {'was interrupted' if self.ended else how}", "code": code}

    def _kill(self) -> None:
        if self.process is not None:
            kill(self.process)
            close(self.process)
            self.process = None

    def bury(self) -> None:
        """Close what is left of it, when nobody waits for its answer any more."""
        self._kill()

    def end(self) -> None:
        """Stop it, and whatever it is doing."""
        self.ended = True
        process = self.process
        if process is not None:
            kill(process)


def shared(
    pieces: Sequence[T], children: Sequence[Child], question: Callable[[T], Mapping[str, Any]]
) -> Iterator[tuple[T, Message]]:
    """Let the children do all the pieces of work; when the iterator is closed, the children end.

    Args:
        pieces: Of work.
        children: Who does them, one at least if there is work; each takes the next one when it is done.
        question: What a child is asked for a piece.

    Yields:
        A piece and the answer, as they are ready.

    Raises:
        InputError: what a child that cannot be used says.
    """
    assert children or not pieces, "work for nobody"
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
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        for child in children:
            child.bury()
