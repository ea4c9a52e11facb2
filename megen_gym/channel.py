"""The child's end of a conversation in JSON lines that nothing which the child runs can disturb."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

Answer = Callable[[dict[str, Any]], None]


def open_channel(at_end: Callable[[], None] = lambda: None) -> tuple[queue.SimpleQueue[Any], Answer]:
    """Take over standard input and output, which then are the null device.

    When the input ends, the parent is gone and nobody waits for what is being computed: the process ends at once.

    Args:
        at_end: What to do just before.

    Returns:
        A queue of the messages as they come in, and a function that answers.
    """
    source = os.fdopen(os.dup(0), "r", encoding="utf-8")
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        for line in source:
            messages.put(json.loads(line))
        at_end()
        os._exit(0)

    def answer(reply: dict[str, Any]) -> None:
        sink.write(json.dumps(reply) + "\n")
        sink.flush()

    threading.Thread(target=listen, daemon=True).start()
    return messages, answer
