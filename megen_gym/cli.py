"""Command lines from typed functions and dataclasses; what cannot be parsed is answered in one sentence."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from megen_gym.errors import InputError, user_errors


def console_log(level: str = "INFO") -> logging.Logger:
    """The library's log, shown as plain lines on standard output."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    return logging.getLogger("megen_gym")


def listed(text: str) -> list[str]:
    """What stands between the commas of an option.

    >>> listed("random, greedy,")
    ['random', 'greedy']
    """
    return [word.strip() for word in text.split(",") if word.strip()]


@user_errors
def run(component: Callable[..., Any], arguments: Sequence[str] | None = None) -> Any:
    """Call `component` with the arguments of the command line (``--name value``), exit code 2 for wrong ones.

    Args:
        component: A function, or a dataclass whose fields have a sentence each.
        arguments: Words of the command line; those of the process by default.
    """
    from jsonargparse import ArgumentError, auto_cli, set_parsing_settings

    if arguments is None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    words = None if arguments is None else list(arguments)
    try:
        return auto_cli(component, as_positional=False, args=words, exit_on_error=False)
    except ArgumentError as error:
        raise InputError(f"{sentence(str(error))}; see --help for what is accepted") from None


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "NoneType": "null",
    "dict": "JSON such as '{\"name\": 1}'",
    "list": "a list such as '[1, 2]'",
    "collections.abc.Sequence": "a list such as '[1, 2]'",
}
"""What a type is called in an answer."""


def sentence(message: str) -> str:
    r"""A message of the parser in the words of the library; what is not known stays as it is.

    >>> sentence('Parser key "jobs": Expected a <class \'int\'>. Got value: 2.5')
    'jobs is 2.5; give a whole number'
    """
    told = " ".join(message.split())
    key = re.match(r'Parser key "([^"]+)": ', told)
    value = re.search(r"(?:Got|Given) value: (.*)$", told)
    kinds = re.findall(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\])", told)
    if key is None or value is None or not kinds:
        return told[:400]
    words = [_KINDS.get(kind, kind) if kind else f"one of {literals}" for kind, literals in kinds]
    return f"{key[1]} is {value[1]}; give {' or '.join(dict.fromkeys(words))}"
