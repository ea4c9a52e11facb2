"""Pickles of plain data, read without unpickling: nothing is imported, called or built, whatever the file says."""

from __future__ import annotations

import gzip
import io
import pickletools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megen_gym.errors import InputError

_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8",
}  # fmt: skip
"""Opcodes whose argument is the value."""

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
"""Opcodes that push a new value."""

_COLLECTED: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": lambda items: items,
    "TUPLE": tuple,
    "FROZENSET": frozenset,
    "DICT": lambda items: _pairs(items),
}
"""Opcodes that make one value of all since the last mark."""


class _Refused(Exception):
    """An opcode that is not plain data."""


def read_pickle(path: str | Path) -> Any:
    """What a pickle of dicts, lists, tuples, sets, text, bytes, numbers, True, False and None holds.

    All protocols, 0 to 5; also gzipped (``.gz``). Only opcodes of data are known here, and none that imports, calls
    or builds anything: such a file is refused, not run. Python writes bytes and sets by a call below protocols 3 and 4,
    so that those are refused as well.

    Args:
        path: The file.

    Raises:
        InputError: for a file that is missing, damaged or cut short, and for one that holds anything but plain data. It
            never suggests to unpickle such a file, which is what would run the code in it.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"the file {path} does not exist; give an existing pickle")
    data = path.read_bytes()
    try:
        return interpret(gzip.decompress(data) if path.suffix.lower() == ".gz" else data)
    except _Refused as error:
        raise InputError(
            f"{path} holds {error}, more than plain data, and is not read, since that could run any code; write the "
            "data as JSON where they were made, with numbers and text only"
        ) from None
    except (
        EOFError, IndexError, KeyError, TypeError, ValueError, OverflowError, UnicodeError, MemoryError, zlib.error,
        OSError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path} is no complete pickle ({type(error).__name__}: {str(error)[:120]}); restore it"
        ) from None


def interpret(data: bytes) -> Any:
    """The value of a pickle, see :func:`read_pickle`; raises whatever is wrong with it."""
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}
    for opcode, found, place in pickletools.genops(io.BytesIO(data)):
        name = opcode.name
        argument: Any = found
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name in _COLLECTED:
            value = _COLLECTED[name](stack)
            stack = marked.pop()
            stack.append(value)
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK"):
            items, stack = stack, marked.pop()
            _extend(name, stack, items)
        elif name == "APPEND":
            items = [stack.pop()]
            _extend("APPENDS", stack, items)
        elif name == "SETITEM":
            items = [stack.pop(), stack.pop()][::-1]
            _extend("SETITEMS", stack, items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            if len(stack) < size:
                raise IndexError("a tuple of more than there is")
            stack[-size:] = [tuple(stack[-size:])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "BYTEARRAY8":
            stack.append(bytes(argument))
        elif name == "POP" and not stack:
            stack = marked.pop()
        elif name == "POP":
            stack.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"{_what(name, argument, stack)} (opcode {name} at byte {place})")
    raise EOFError("the end is missing")


def _extend(name: str, stack: list[Any], items: list[Any]) -> None:
    """Put items into the container on top."""
    if name == "POP_MARK":
        return
    top = stack[-1]
    if name == "APPENDS" and type(top) is list:
        top.extend(items)
    elif name == "SETITEMS" and type(top) is dict:
        top.update(_pairs(items))
    elif name == "ADDITEMS" and type(top) is set:
        top.update(items)
    else:
        raise ValueError(f"{name} on {type(top).__name__}")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _what(name: str, argument: Any, stack: list[Any]) -> str:
    """What an opcode wants to import or call."""
    if name in ("GLOBAL", "INST"):
        return ".".join(str(argument).split()[:2])
    if name == "STACK_GLOBAL" and len(stack) > 1:
        return f"{stack[-2]}.{stack[-1]}"
    return "an object"
