"""Python processes that serve this one, and their end.

A plain process that speaks JSON lines (see :mod:`megen_gym.channel`) needs no ``if __name__ == "__main__"`` in a user's
script, and nothing is pickled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress


def start(serve: str, threads: int = 1) -> subprocess.Popen[bytes]:
    """A process in a session of its own that runs ``"module:function"`` and sees the modules that this one sees."""
    module, _, function = serve.partition(":")
    code = f"import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {module} import {function}; {function}()"
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={"OMP_NUM_THREADS": str(threads)} | dict(os.environ),
    )


def kill(process: subprocess.Popen[bytes]) -> int:
    """End a process and all that it started; its exit code."""
    died = process.poll()
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif died is None:
        process.kill()
    return process.wait()


def close(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a process that has ended."""
    for stream in (process.stdin, process.stdout):
        with suppress(OSError, AttributeError):
            stream.close()  # type: ignore[union-attr]


def ending(code: int) -> str:
    """How a process ended, in words.

    >>> ending(-9), ending(3)
    ('SIGKILL', 'exit code 3')
    """
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
