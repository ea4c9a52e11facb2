"""Where what was read from a file is kept for the next time, and how the file is known again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def folder(cache: bool | str | Path | None, name: str) -> Path | None:
    """Where results are kept: True for the user's own cache folder, None for nowhere.

    Args:
        cache: True, a folder, or nothing.
        name: Of the part of the user's cache folder.
    """
    if cache is None or cache is False:
        return None
    if cache is not True:
        return Path(cache)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "megen_gym" / name
    except RuntimeError:
        return None


def digest_of(path: Path, how: str) -> str:
    """Of a file's content, or of the names and contents of a folder, and of how it is read."""
    digest = hashlib.sha256(f"{how} {_kind(path)}".encode())
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"\n{len(file.name)} {file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:40]


def _kind(path: Path) -> str:
    """The same content is read in another way under another ending."""
    return "folder" if path.is_dir() else "".join(path.suffixes[-2:]).lower() or path.name[:6].lower()
