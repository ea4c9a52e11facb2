"""The run folder ``runs/<id>/``: everything of one training, whole on disk even if the process is killed at any moment.

====================== =============================================================================
file                   content
====================== =============================================================================
config.json            format, id, seed, all settings, versions of the packages; written once
metrics.csv            one row per iteration
weights.safetensors    the policy alone, for use and for sharing
resume.safetensors     all that training needs to go on, tensors and JSON together, so that one rename
                       makes a whole checkpoint
structures_*.extxyz    what was built (see :mod:`megen_gym.io`)
====================== =============================================================================

Nothing is pickled. A file is written under a temporary name in its own folder and renamed when complete, so that a full
disk or a SIGKILL leaves the previous file as it was.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import numpy as np

from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Version of the folder's layout; a folder of another one is refused."""

CONFIG, METRICS, WEIGHTS, STATE = "config.json", "metrics.csv", "weights.safetensors", "resume.safetensors"
TRAIN_FIRST = "train one first: python agents/ppo_train.py"
PACKAGES = ("megen-gym", "numpy", "ase", "gymnasium", "stable-baselines3", "torch", "e3nn", "dscribe")

_TEMPORARY = ".tmp-"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Write a file wholly or not at all: yields a temporary name in the same folder and renames it at the end.

    Raises:
        OSError: what the disk said, with the name of the wanted file; the temporary file is gone, the old one intact.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically, in UTF-8."""
    write_bytes(path, text.encode())


def make_folder(path: str | Path) -> None:
    """Make a folder that files can be written to, before the work whose results it is for.

    Raises:
        InputError: if there is a file of that name, or nothing can be written there.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"{path} cannot be a folder to write to ({error.strerror or error}); give another folder"
        ) from None


def append_bytes(path: str | Path, data: bytes) -> None:
    """Append `data`; when the disk refuses, the file gets its old length back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        with suppress(OSError):
            os.truncate(path, before)
        raise


def _plain(value: Any) -> Any:
    """JSON form of a path or a NumPy scalar or array."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise InputError(f"a setting holds a {type(value).__name__}; give numbers, text, lists and dicts (JSON) only")


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: The folder; its name is the run's id.
        config: Content of ``config.json``.
    """

    path: Path
    config: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the run was created with."""
        settings: dict[str, Any] = self.config["settings"]
        return settings

    @property
    def seed(self) -> int:
        """The seed among the settings; 0 if there was none."""
        return int(self.config["seed"])

    def append_metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add a row to ``metrics.csv``; a column not seen before is added to the earlier rows as blank."""
        row = {"iteration": f"{int(iteration)}"} | {name: f"{float(value):.10g}" for name, value in values.items()}
        path = self.path / METRICS
        columns, rows, whole = self._rows()
        new = [name for name in row if name not in columns]
        if new or not whole:
            write_text(path, _csv([columns + new, *(old + [""] * len(new) for old in rows)]))
        append_bytes(path, _csv([[row.get(name, "") for name in columns + new]]).encode())

    def metrics(self) -> dict[str, FloatArray]:
        """The columns of ``metrics.csv``, NaN where blank; a torn last line is left out. Empty before the first row."""
        columns, rows, _ = self._rows()
        try:
            table = [[float(cell or "nan") for cell in row] for row in rows]
        except ValueError as error:
            raise InputError(f"{self.path / METRICS} holds something that is no number ({error}); repair it") from None
        array = np.array(table, dtype=float).reshape(len(rows), len(columns))
        return {name: array[:, index] for index, name in enumerate(columns)}

    def truncate_metrics(self, iteration: int) -> None:
        """Drop the rows after `iteration`, as when training goes on from a checkpoint, and a torn last line."""
        columns, rows, _ = self._rows()
        if columns:
            at = columns.index("iteration")
            write_text(self.path / METRICS, _csv([columns, *(row for row in rows if int(row[at]) <= iteration)]))

    def _rows(self) -> tuple[list[str], list[list[str]], bool]:
        """Header, complete rows, and whether the file ends with a complete row."""
        path = self.path / METRICS
        text = path.read_text() if path.exists() else ""
        header, *rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))) or [[]]
        if header and ("iteration" not in header or any(len(row) != len(header) for row in rows)):
            raise InputError(f"{path} is damaged: its rows do not fit a header with 'iteration'; repair or remove it")
        return header, rows, text.endswith("\n") or not text

    def save_weights(self, tensors: Mapping[str, Tensor], name: str = WEIGHTS) -> Path:
        """Write tensors by name as safetensors, atomically."""
        write_bytes(self.path / name, _pack(tensors, None))
        return self.path / name

    def load_weights(self, name: str = WEIGHTS, device: str = "cpu") -> dict[str, Tensor]:
        """The tensors of :meth:`save_weights`.

        Raises:
            InputError: if the file is missing or damaged.
        """
        return _unpack(self.path / name, device)[0]

    def save_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write a checkpoint in one atomic step: tensors, and `meta` (JSON: counters, generator states) beside them."""
        write_bytes(self.path / STATE, _pack(tensors, {"meta": json.dumps(meta, default=_plain)}))

    def load_state(self, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The last complete checkpoint: tensors and `meta`.

        Raises:
            InputError: if there is none yet or it is damaged.
        """
        tensors, header = _unpack(self.path / STATE, device)
        meta: dict[str, Any] = json.loads(header.get("meta", "{}"))
        return tensors, meta

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint was completed."""
        return (self.path / STATE).exists()

    def clean(self) -> None:
        """Remove temporary files that a killed process left; call it only where no other process writes the run."""
        for path in self.path.glob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _pack(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> bytes:
    from safetensors.torch import save

    data: bytes = save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, metadata)
    return data


def _unpack(path: Path, device: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise InputError(f"{path} does not exist: the run has not completed a checkpoint; start it anew")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is no complete safetensors file ({error}); restore it or train anew") from None


def _versions() -> dict[str, str]:
    found = {"python": python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def create(root: str | Path, settings: Mapping[str, Any], id: str | None = None) -> Run:
    """Make a new run folder below `root`.

    Args:
        root: Folder of the runs; made if missing.
        settings: Everything that defines the run (JSON). ``name`` (or ``env``) and ``seed`` appear in the id.
        id: Name of the folder; made from the date, the name and the seed by default.

    Raises:
        InputError: for a setting that JSON cannot hold, or an id that is no name of a folder.
        OSError: when the disk is full; nothing is left behind.
    """
    now, seed = datetime.now(UTC), int(settings.get("seed") or 0)
    label = re.sub(r"-v\d+$", "", str(settings.get("name") or settings.get("env") or "run").rpartition(":")[2])
    label = re.sub(r"[^a-z0-9]+", "", label.lower()) or "run"
    base = f"{now.astimezone():%Y%m%d-%H%M%S}-{label}-s{seed}" if id is None else id
    if not re.fullmatch(r"[\w.+=-]+", base) or base.startswith("."):
        raise InputError(f"the run's id {base!r} is no name of a folder; give letters, digits, dots and dashes")
    config = {"format": FORMAT, "id": base, "created": now.isoformat(), "seed": seed, "settings": dict(settings)}
    config |= {"versions": _versions()}
    json.dumps(config, default=_plain)
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        path = root / (base if attempt == 1 else f"{base}-{attempt}")
        with suppress(FileExistsError):
            path.mkdir()
            break
    else:
        raise InputError(f"{root} already holds a thousand runs called {base}; choose another name")
    config["id"] = path.name
    text = json.dumps(config, default=_plain, indent=2)
    try:
        write_text(path / CONFIG, text + "\n")
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return Run(path, json.loads(text))


def open(root: str | Path, id: str) -> Run:
    """The run `id` below `root`.

    Raises:
        InputError: if there is no such run, its config is damaged, or it has another format.
    """
    path = Path(root) / id
    if not (path / CONFIG).is_file():
        known = [run.name for run in _folders(root)]
        raise InputError(f"no run {id!r} in {root}; " + (nearest(id, known) if known else TRAIN_FIRST))
    try:
        config = json.loads((path / CONFIG).read_text())
        found = config["format"]
        complete = all(key in config for key in ("seed", "settings", "created"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / CONFIG} is no run configuration ({error!r}); restore it or train anew") from None
    if found != FORMAT:
        wrote = (config.get("versions") or {}).get("megen-gym", "another version")
        raise InputError(
            f"the run folder {path} has format {found} (written by megen-gym {wrote}), this version reads format "
            f"{FORMAT}; use the version that wrote it, or train anew"
        )
    if not complete:
        raise InputError(f"{path / CONFIG} lacks its seed, settings or date; restore it or train anew")
    return Run(path, config)


def _folders(root: str | Path) -> list[Path]:
    """Run folders below `root`, oldest first by the creation date in the config, then by id."""

    def created(path: Path) -> tuple[str, str]:
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads((path / CONFIG).read_text())["created"]), path.name
        return "", path.name

    root = Path(root)
    return sorted((p.parent for p in root.glob(f"*/{CONFIG}")), key=created) if root.is_dir() else []


def newest(root: str | Path) -> Run:
    """The run created last below `root`.

    Raises:
        InputError: if there is none.
    """
    folders = _folders(root)
    if not folders:
        what = "holds no run" if Path(root).is_dir() else "does not exist"
        raise InputError(f"the folder {root} {what}; expected run folders such as {root}/<id>/{CONFIG}; {TRAIN_FIRST}")
    return open(root, folders[-1].name)


def locate(folder: str | Path, name: str | None = None) -> Run:
    """The run that `folder` is, or the newest (or the one called `name`) below it."""
    path = Path(folder)
    if (path / CONFIG).is_file():
        path = path.resolve()
        if name not in (None, path.name):
            raise InputError(f"{folder} is the run {path.name}, not {name}; give the folder above it, or no --name")
        return open(path.parent, path.name)
    return newest(path) if name is None else open(path, name)


def every(folder: str | Path) -> list[Run]:
    """The run that `folder` is, or all runs below it, oldest first.

    Raises:
        InputError: if there is none.
    """
    path = Path(folder)
    if (path / CONFIG).is_file():
        return [locate(path)]
    newest(path)
    return [open(path, run.name) for run in _folders(path)]
