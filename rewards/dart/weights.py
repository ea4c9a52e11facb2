"""DART weights on disk: one npz of plain arrays, read without pickle and refused with a sentence when it is wrong."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megen_gym.errors import InputError
from megen_gym.rewards.dart.net import DartNet

BUNDLED = Path(__file__).resolve().parent / "data" / "dart_ga.npz"
"""Weights that come with the library: own labels (PBE), Ga1 to Ga19, guarded against compression."""

METADATA = "metadata"


def load_state(path: str | Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Parameters by name and what the file says about itself.

    Args:
        path: npz file; None for :data:`BUNDLED`.

    Raises:
        InputError: when the file is missing, is no npz, or holds something other than finite numbers.
    """
    path = BUNDLED if path is None else Path(path)
    if not path.is_file():
        raise InputError(
            f"there is no weights file {str(path)!r}; give the path of an npz file, or none for the bundled one"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError, OSError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{str(path)!r} is no readable npz file of plain arrays ({reason}); give DART weights"
        ) from None
    text = arrays.pop(METADATA, None)
    try:
        metadata = {} if text is None else json.loads(str(text))
    except json.JSONDecodeError:
        raise InputError(
            f"the metadata in {str(path)!r} are not JSON; write the file anew with the training script"
        ) from None
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(
                f"weight {name} in {str(path)!r} holds something else than finite numbers; give another file"
            )
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, metadata


def load_net(path: str | Path | None = None) -> DartNet:
    """The network of a weights file, in the dtype of the file; errors as :func:`load_state`."""
    state, _ = load_state(path)
    try:
        return DartNet.from_state(state)
    except InputError as error:
        raise InputError(f"{str(path or BUNDLED)!r}: {error}") from None


def save_state(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write weights and metadata; the file appears complete or not at all."""
    path = Path(path)
    arrays = {name: value.detach().cpu().numpy() for name, value in state.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{METADATA: np.array(json.dumps(dict(metadata)))})
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
