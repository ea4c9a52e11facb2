"""Neighbours kept on disk by content and settings, and copies on fast storage; safe to share between processes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megen_gym.errors import InputError
from megen_gym.runs import atomic, make_folder
from megen_gym.structure import BoolArray

FORMAT = 1

DAY = 86_400
"""s"""

_LOG = logging.getLogger(__name__)

_TORN = (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Cache:
    """One file of neighbours.

    Attributes:
        path: Where it lies; its name holds `key` unless the user chose the name.
        key: JSON of the content and the settings that it belongs to.
        keep: Whether it outlives the run.
        copy: Its copy on fast storage.
    """

    path: Path
    key: str
    keep: bool
    copy: Path | None

    @classmethod
    def of(
        cls, path: str | Path | None, keep: bool, workdir: str | Path | None, settings: Mapping[str, Any]
    ) -> Cache | None:
        """The cache of these settings in a folder, or in the file `path` that ends in ``.npz``; None without a path.

        Raises:
            InputError: if nothing can be written there.
        """
        if path is None:
            return None
        key = json.dumps({"format": FORMAT} | dict(settings), sort_keys=True)
        path = Path(path)
        name = f"neighbours-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
        file = path if path.suffix == ".npz" else path / name
        for folder in (file.parent, *([Path(workdir)] if workdir is not None else [])):
            make_folder(folder)
        return cls(file, key, keep, None if workdir is None else Path(workdir) / name)

    def read(self, width: int, count: int) -> BoolArray | None:
        """(M, N, N) neighbours; None where there are none yet, or none that are whole.

        Raises:
            InputError: if the file was named by the user and belongs to other settings or molecules.
        """
        for path in filter(None, (self.copy, self.path)):
            try:
                with np.load(path, allow_pickle=False) as file:
                    key, packed = str(file["key"]), file["packed"]
            except _TORN:
                continue
            if key == self.key and packed.shape == (count, (width * width + 7) // 8):
                if path == self.path:
                    self._copy()
                return _unpacked(packed, width)
            if path == self.path:
                raise InputError(f"the cache {path} {_difference(key, self.key)}; remove it or give another cache_path")
        return None

    def write(self, adjacency: BoolArray) -> None:
        """Keep the neighbours (M, N, N); a disk that refuses is said, and does no harm."""
        packed = np.packbits(adjacency.reshape(len(adjacency), -1), axis=1)
        try:
            with atomic(self.path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, key=np.array(self.key), packed=packed)
            self._copy()
        except OSError as error:
            _LOG.warning(f"the neighbours are not kept in {self.path} ({error.strerror or error})")

    def finish(self) -> None:
        """Remove the copy on fast storage, and the file itself unless it is to be kept."""
        for path in (self.copy, None if self.keep else self.path):
            if path is not None:
                path.unlink(missing_ok=True)

    def _copy(self) -> None:
        if self.copy is not None:
            with atomic(self.copy) as temporary:
                shutil.copyfile(self.path, temporary)


def _unpacked(packed: np.ndarray[Any, np.dtype[np.uint8]], width: int) -> BoolArray:
    bits = np.unpackbits(packed, axis=1, count=width * width)
    return bits.view(bool).reshape(len(packed), width, width)


def _difference(found: str, wanted: str) -> str:
    """How two keys differ, in words."""
    with suppress(ValueError):
        old, new = json.loads(found), json.loads(wanted)
        other = [f"{name}={old.get(name)} (now {new[name]})" for name in new if old.get(name) != new[name]]
        if other and old.get("molecules") == new["molecules"]:
            return f"was made with other settings: {', '.join(other)}"
        return "holds the neighbours of other molecules"
    return "holds no neighbours of molecules"


@contextmanager
def nearby(path: Path, workdir: str | Path | None) -> Iterator[Path]:
    """A file or folder, or the copy of a file in `workdir`, which is removed at the end.

    A copy that a killed run left behind is in nobody's way, and is removed when it is a day old.

    Raises:
        InputError: if nothing can be written there.
    """
    if workdir is None:
        yield path
        return
    make_folder(workdir)
    if path.is_dir():
        raise InputError(f"data_workdir copies a file, but {path} is a folder; give an archive, or no data_workdir")
    mark = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    for old in Path(workdir).glob(f"{mark}-*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > DAY:
                old.unlink()
    copy = Path(workdir) / f"{mark}-{os.getpid()}-{path.name}"
    try:
        with atomic(copy) as temporary:
            shutil.copyfile(path, temporary)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
