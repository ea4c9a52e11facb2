"""Runs of a kind: made anew, or found by folder, by id, or as the newest."""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from megen_gym import runs
from megen_gym.errors import InputError


class RunSettings(Protocol):
    """A dataclass of settings that says where a run is to be, what it is called, and from which seed it starts."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    dir: Path
    name: str
    seed: int


@dataclass(frozen=True)
class Kind:
    """Runs that one script made.

    Attributes:
        key: Under which its settings are in a run's.
        name: What such a run is called in messages.
        script: That makes it.
        without: A key that such runs do not have.
    """

    key: str
    name: str
    script: str
    without: str | None = None

    def create(self, settings: RunSettings, id: str | None = None, **others: Any) -> runs.Run:
        """A new run folder with these settings.

        Args:
            settings: Kept under the key of the kind.
            id: Name of the folder; made from the date, the name and the seed by default.
            others: What is kept beside them, by key.

        Raises:
            InputError: for an `id` that is no name of a folder.
        """
        own = {"name": settings.name, "seed": settings.seed, self.key: asdict(settings)}
        return runs.create(settings.dir, own | others, id)

    def find(self, where: str | Path, root: str | Path = "runs") -> runs.Run:
        """The run of a folder, of an id below `root`, or the "newest" there.

        Raises:
            InputError: if there is no such run, or it is of another kind.
        """
        path = Path(where)
        if (path / runs.CONFIG).is_file():
            run = runs.locate(path)
        elif str(where) == "newest":
            return self.newest(root)
        else:
            try:
                run = runs.open(root, str(where))
            except InputError as error:
                mine = f"train one first: python {self.script}"
                raise InputError(str(error).replace(runs.TRAIN_FIRST, mine)) from None
        if not self._fits(run):
            raise InputError(f"run {run.id} is no {self.name}; give one that {self.script} made")
        return run

    def newest(self, root: str | Path) -> runs.Run:
        """The one created last below `root`, of those that have chosen weights if any has.

        Raises:
            InputError: if there is none.
        """
        try:
            found = [run for run in runs.every(root) if self._fits(run) and run.resumable]
        except InputError:
            found = []
        if not found:
            raise InputError(f"{root} holds no {self.name}; train one first: python {self.script}")
        return ([run for run in found if (run.path / runs.WEIGHTS).exists()] or found)[-1]

    def _fits(self, run: runs.Run) -> bool:
        return self.key in run.settings and (self.without is None or self.without not in run.settings)
