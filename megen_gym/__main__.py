"""``python -m megen_gym COMMAND ...``: the commands of the library."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from megen_gym.errors import InputError, nearest, user_errors


class Command(NamedTuple):
    """One command.

    Attributes:
        target: ``"module:function"``. The function's typed arguments are the options; words that stand before the first
            option are its first arguments, in order.
        purpose: What it does.
        example: Words after the command, for its help.
        rewrite: ``"module:function"`` that changes the words before they are read.
        plain: The function takes the words as they are, and has a help of its own.
    """

    target: str
    purpose: str
    example: str
    rewrite: str | None = None
    plain: bool = False


COMMANDS = {
    "envs": Command("megen_gym.listing:envs", "the environments, or the manual page of one", "GaCluster-v0"),
    "rewards": Command("megen_gym.listing:rewards", "the rewards, or the manual page of one", "dart"),
    "policies": Command("megen_gym.listing:policies", "the policies, or the manual page of one", "greedy"),
    "train": Command(
        "megen_gym.families:train", "train a policy or a generator", "ppo --n 18 --num_steps 60000", plain=True
    ),
    "generate": Command(
        "megen_gym.families:generate", "structures from a trained generator", "cryingan --n_struc 1000", plain=True
    ),
    "structures": Command(
        "megen_gym.analysis.export:export_structures",
        "write the structures that a run built",
        "runs --symbols X,Ga --unique --poscar poscars",
        rewrite="megen_gym.analysis.export:bare_flags",
    ),
    "analyse": Command(
        "megen_gym.analysis.analyse:analyse",
        "compare generated structures with a reference",
        "gen.extxyz --reference train.extxyz --out judged",
    ),
    "compare": Command(
        "megen_gym.arena.compare:compare",
        "let policies compete at the same budget",
        "LJCluster-v0 --n 13 --policies greedy,basin_hopping --budget 2000 --output lj13",
    ),
    "report": Command("megen_gym.report.command:report", "one HTML page about a run or a comparison", "runs"),
}
"""Name: what it runs."""

VALUELESS = ("--help", "--print_config")
"""Options without a value; all others have one."""


@user_errors
def main(words: Sequence[str]) -> None:
    """Run one command.

    Raises:
        SystemExit: with code 2 and one sentence for a command or an argument that does not exist.
    """
    if not words or words[0] in ("-h", "--help"):
        print("usage: python -m megen_gym COMMAND ...\n")
        for name, command in COMMANDS.items():
            print(f"  {name:12s}{command.purpose}")
        print("\npython -m megen_gym COMMAND --help lists its options and shows an example")
        return
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}; {nearest(name, COMMANDS)}")
    command = COMMANDS[name]
    if command.plain:
        _load(command.target)(rest)
        return
    try:
        _typed(name, command, rest)
    except SystemExit as end:
        if not end.code and {"-h", "--help"} & set(rest):
            print(f"\nexample:\n  python -m megen_gym {name} {command.example}")
        raise


def _typed(name: str, command: Command, words: Sequence[str]) -> None:
    from megen_gym.cli import run
    from megen_gym.families import command_line

    function = _load(command.target)
    if command.rewrite is not None:
        words = _load(command.rewrite)(words)
    options = named(words, list(inspect.signature(function).parameters))
    with command_line(f"python -m megen_gym {name}", options):
        run(function)


def _load(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]


def named(words: Sequence[str], parameters: Sequence[str]) -> list[str]:
    """The words before the first option as options.

    Raises:
        InputError: for more words than there are parameters, or a word after an option that is not its value.

    >>> named(["gen.xyz", "--axis", "1"], ["generated", "reference", "axis"])
    ['--generated=gen.xyz', '--axis', '1']
    """
    count = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    if count > len(parameters):
        raise InputError(f"{count} words stand before the first option; expected at most {len(parameters)}, see --help")
    for before, word in pairwise(words[count:]):
        takes_value = before.startswith("--") and "=" not in before and before not in VALUELESS
        if not word.startswith("-") and not takes_value:
            raise InputError(
                f"{word!r} stands after an option and is the value of none; put files first and the options after them"
            )
    return [*(f"--{name}={word}" for name, word in zip(parameters, words[:count], strict=False)), *words[count:]]


if __name__ == "__main__":
    main(sys.argv[1:])
