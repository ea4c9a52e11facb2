"""Where networks run."""

from __future__ import annotations

import ctypes
import sys

import torch

from megen_gym.errors import InputError


def device_of(name: str) -> str:
    """The device by name, tried out; "auto" is CUDA where there is a GPU.

    Raises:
        InputError: when it cannot be used.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used here ({reason}); use --device cpu") from error
    return name


def gpu_memory() -> str:
    """Memory in use on the GPU, for the progress line."""
    return f" {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if torch.cuda.is_available() else ""


def keep_memory() -> None:
    """Let the C library keep freed memory instead of handing it back to the system (glibc only).

    Large temporary tensors otherwise cost a page fault per 4 KiB, each time anew.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        threshold, trim = -3, -1
        mallopt(threshold, 1 << 30)
        mallopt(trim, (1 << 31) - 1)
