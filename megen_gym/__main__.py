"""``python -m megen_gym COMMAND ...``: the commands of the library."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from itertools import pairwise

from megen_gym.cli import run
from megen_gym.errors import InputError, nearest, user_errors

COMMANDS = {
    "analyse": ("megen_gym.analysis.analyse:analyse", "compare generated structures with a reference"),
}
"""Name: ``"module:function"``, and what it does. The function's typed arguments are the options; words that stand
before the first option are its first arguments, in order."""

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
        for name, (_, purpose) in COMMANDS.items():
            print(f"  {name:12s}{purpose}")
        print("\npython -m megen_gym COMMAND --help lists its options")
        return
    if words[0] not in COMMANDS:
        raise InputError(f"unknown command {words[0]!r}; {nearest(words[0], COMMANDS)}")
    module, _, function = COMMANDS[words[0]][0].partition(":")
    command = getattr(importlib.import_module(module), function)
    sys.argv[0] = f"python -m megen_gym {words[0]}"
    run(command, named(words[1:], list(inspect.signature(command).parameters)))


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
