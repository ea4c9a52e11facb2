"""Processes that do one piece of work after another: what they say, how they die, and that none is left."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from megen_gym.channel import open_channel
from megen_gym.children import Child, shared
from megen_gym.errors import InputError


def serve() -> None:
    """Does what it is told."""
    messages, answer = open_channel()
    assert messages.get() == {"hello": 1}
    answer({"ready": True})
    while True:
        question = messages.get()
        if "exit" in question:
            os._exit(question["exit"])
        time.sleep(question.get("sleep", 0))
        answer({"pid": os.getpid()})


def serve_all_at_once() -> None:
    """Progress and answer come in one piece, as they do where the parent has no time to listen."""
    for reply in (b'{"ready": true}\n', b'{"progress": 1}\n{"progress": 2}\n{"done": true}\n'):
        os.read(0, 1000)
        os.write(1, reply)
    time.sleep(60)


def serve_nothing() -> None:
    raise SystemExit(3)


def child(name: str = "serve", **options: Any) -> Child:
    return Child(f"{__name__}:{name}", {"hello": 1}, **options)


def runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_child_lives_on_and_is_started_again_after_it_died() -> None:
    one = child()
    first = one.ask({})["pid"]
    assert one.ask({})["pid"] == first
    assert one.ask({"exit": 7}) == {"died": "the process died (exit code 7)", "code": 7}
    again = one.ask({})["pid"]
    assert again != first
    one.end()
    assert not runs(again)


def test_one_that_is_late_is_killed() -> None:
    one = child(time_limit=0.5)
    pid = one.ask({})["pid"]
    assert one.ask({"sleep": 60}) == {"died": "the process gave no answer within 0.5 s", "code": None}
    assert not runs(pid)


def test_messages_that_come_together_are_heard_one_by_one() -> None:
    heard: list[int] = []
    one = child("serve_all_at_once", time_limit=20.0, heard=heard.append)
    assert one.ask({}) == {"done": True}
    assert heard == [1, 2]
    one.end()


def test_one_that_does_not_start_is_refused() -> None:
    with pytest.raises(InputError, match=r"the process died \(exit code 3\)"):
        child("serve_nothing").ask({})


def test_work_that_nobody_waits_for_any_more_is_left() -> None:
    pool = [child(), child()]
    answers = shared(range(50), pool, lambda piece: {"sleep": 0.05})
    _, answer = next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert not runs(answer["pid"])
    time.sleep(0.3)
    assert all(one.process is None or one.process.poll() is not None for one in pool)
    assert pool[0].ask({}) == {"died": "the process was interrupted", "code": None}
