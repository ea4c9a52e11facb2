"""The commands that pages name: found in the text, and parsed by the scripts themselves, in this process."""

from __future__ import annotations

import argparse
import io
import re
import runpy
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jsonargparse import auto_cli, capture_parser

ROOT = Path(__file__).resolve().parent.parent

COMMAND_LINE = re.compile(r"^ *from (megen_gym\.cli|jsonargparse) import", re.M)
"""In a script that reads arguments."""

PARSERS: dict[tuple[str, str, str], argparse.ArgumentParser] = {}
"""By script, and by what it calls with its arguments: what it would parse them with."""


class Reached(BaseException):
    """The script has come to its command line."""

    def __init__(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        self.parser, self.words = parser, list(words)


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language; what follows its name after a space says how a test runs it."""
    return re.findall(rf"^```{language}(?: \w+)?\n(.*?)^```", text, re.S | re.M)


def commands(text: str) -> list[list[str]]:
    """Words of every ``python ...`` command of a page, in its blocks and within its lines."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    plain = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    lines += [span.replace("\\|", "|") for span in re.findall(r"`(python [^`]+)`", plain)]
    found = [shlex.split(line, comments=True) for line in lines if "python " in line]
    found = [words[words.index("python") + 1 :] for words in found if "python" in words]
    return [words for words in found if words[0].endswith(".py") or words[:2] == ["-m", "megen_gym"]]


def program(words: Sequence[str]) -> tuple[str, list[str]]:
    """What is run, and its arguments."""
    count = 3 if words[0] == "-m" else 1
    return " ".join(words[:count]), list(words[count:])


def check(words: Sequence[str]) -> None:
    """Parse a command as its script would, names, values and choices.

    Raises:
        ValueError: with the command and what is wrong with it.
    """
    if list(words) == ["-m", "megen_gym"]:
        return
    name, arguments = program(words)
    if not words[0].startswith("-") and not (ROOT / name).is_file():
        raise ValueError(f"there is no {name}")
    try:
        reached = arrive(words)
        if reached is None and arguments:
            raise ValueError(f"{name} takes no options")
        if reached is not None and arguments and reached.words != ["--help"]:
            reached.parser.parse_args(reached.words)
    except (SystemExit, argparse.ArgumentError, ImportError) as error:
        raise ValueError(f"{' '.join(words)}: {error}") from None


def options(name: str) -> set[str]:
    """The options of a script, such as ``"plot.py"`` or ``"-m megen_gym analyse"``."""
    reached = arrive([*name.split(), "--help"])
    return set() if reached is None else set(reached.parser._option_string_actions)


def arrive(words: Sequence[str]) -> Reached | None:
    """Run a script up to its command line; None for a script without one, which is not run at all."""
    name, arguments = program(words)
    module = words[0] == "-m"
    if not module and not re.search(
        r"^ *(from megen_gym\.cli|from jsonargparse) import", (ROOT / name).read_text(), re.M
    ):
        return None
    argv = ["-m megen_gym", words[2], *arguments] if module else [name, *arguments]
    with at_the_command_line(argv), redirect_stdout(io.StringIO()):
        try:
            if module:
                runpy.run_module("megen_gym", run_name="__main__")
            else:
                runpy.run_path(str(ROOT / name), run_name="__main__")
        except Reached as reached:
            return reached
    raise ValueError(f"{' '.join(words)} did not come to its command line")


@contextmanager
def at_the_command_line(argv: list[str]) -> Iterator[None]:
    """Scripts end where they would parse their arguments."""

    def parse(component: Callable[..., Any], args: Sequence[str] | None = None, **_: Any) -> None:
        key = (argv[0], component.__module__, component.__qualname__)
        if key not in PARSERS:
            PARSERS[key] = capture_parser(auto_cli, component, as_positional=False)
        raise Reached(PARSERS[key], sys.argv[1:] if args is None else args)

    path, handler = list(sys.path), signal.getsignal(signal.SIGTERM)
    try:
        with patch.object(sys, "argv", argv), patch("jsonargparse.auto_cli", parse):
            yield
    finally:
        sys.path[:] = path
        signal.signal(signal.SIGTERM, handler)
