"""Runs that go on: which settings the user gave, and which of them may change."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from megen_gym.agents.nn.finding import Kind
from megen_gym.errors import InputError
from megen_gym.runs import Run

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S")


def given_on_command_line() -> set[str] | None:
    """Names of the options that the command line sets; None where a file sets them."""
    given = {word.removeprefix("--").partition("=")[0] for word in sys.argv[1:] if word.startswith("--")}
    return None if "config" in given else given


def settings_of(kind: type[S], data: Mapping[str, Any]) -> S:
    """The settings of a run's config; names that are not known any more are left out."""
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    known = {name: value for name, value in data.items() if name in names}
    return kind(**known | {"dir": Path(known.get("dir", "runs"))})


def reopened(
    kind: Kind, wanted: S, defaults: S, given: Collection[str] | None, free: Collection[str]
) -> tuple[Run | None, S]:
    """The run that `wanted.resume` names and its settings, with what the user may change taken from `wanted`.

    Where it names none, there is no run yet, and the settings are those that are wanted.

    Args:
        kind: Of the run.
        wanted: Settings that the user gives now.
        defaults: What a setting is that nobody set.
        given: See :func:`continued`.
        free: Names that may change.

    Raises:
        InputError: if there is no such run, or for a setting that cannot change any more.
    """
    if wanted.resume is None:  # type: ignore[attr-defined]
        return None, wanted
    run = kind.find(wanted.resume, wanted.dir)  # type: ignore[attr-defined]
    settings = continued(run.id, settings_of(type(wanted), run.settings[kind.key]), wanted, defaults, given, free)
    return run, replace(settings, resume=run.id, dir=run.path.parent)  # type: ignore[type-var]


def checkpoint_of(run: Run | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and numbers that a run goes on from; nothing for a new one, or one that had not come to a checkpoint."""
    return run.load_state() if run is not None and run.resumable else ({}, {})


def continued(run_id: str, kept: S, wanted: S, defaults: S, given: Collection[str] | None, free: Collection[str]) -> S:
    """The settings of a run that goes on.

    Args:
        run_id: For messages.
        kept: Settings of the run.
        wanted: Settings that the user gives now.
        defaults: What a setting is that nobody set.
        given: Names that were set on purpose; by default those that are not at their default.
        free: Names that may change.

    Raises:
        InputError: for a setting that cannot change any more.
    """
    if given is None:
        given = [name for name in asdict(wanted) if getattr(wanted, name) != getattr(defaults, name)]  # type: ignore[call-overload]
    for name in set(given) - set(free) - {"resume"}:
        if getattr(wanted, name, None) != getattr(kept, name, None):
            raise InputError(
                f"run {run_id} has {name} = {getattr(kept, name, None)}, which cannot become "
                f"{getattr(wanted, name, None)} on resuming; leave --{name} out, or train anew"
            )
    changed: dict[str, Any] = {name: getattr(wanted, name) for name in given if name in free}
    return replace(kept, **changed)  # type: ignore[type-var]


def absolute(path: str | None) -> str | None:
    """A path that means the same in every directory, as the settings of a run that goes on elsewhere need it."""
    return None if path is None else str(Path(path).resolve())


def again(kind: Kind, folder: Path) -> str:
    """The command that goes on with a run of a folder, but for the run's id at its end."""
    return f"python {kind.script}{where(folder)} --resume"


def where(folder: Path) -> str:
    """The option that says where the runs are, if they are not where they are looked for."""
    return "" if folder == Path("runs") else f" --dir {folder}"
