"""One exception for everything that a user can mend, and the sentence that helps to mend it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class InputError(ValueError):
    """Something given by the user cannot be used; the message says what was given, what is expected, what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest known spelling and, unless it is long, the full choice.

    >>> nearest("drat", ["dart", "megen"])
    "did you mean 'dart'? Known: dart, megen"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(names) > 30:
        return hint.removesuffix(" ") or f"it is none of the {len(names)} that are known"
    return f"{hint}Known: {', '.join(names)}"


def require(module: str, extra: str) -> NoReturn:
    """Refuse with the name of the extra that brings a missing optional package."""
    raise InputError(
        f"the package {module!r} is not installed but needed here; install it with: pip install 'megen-gym[{extra}]'"
    )


def user_errors(main: Callable[P, R]) -> Callable[P, R]:
    """Turn :class:`InputError`, a full disk and the like into one sentence and exit code 2, and Ctrl-C into 130."""

    @wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
        except OSError as error:
            where = f" {error.filename!r}" if error.filename else ""
            print(
                f"error: cannot read or write{where} ({error.strerror or error}); "
                "check the path, its permissions and the free disk space, then run the same command again",
                file=sys.stderr,
            )
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            raise SystemExit(130) from None
        raise SystemExit(2)

    return wrapped
