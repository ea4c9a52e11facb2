"""Every test starts from the same random numbers, and leaves the signals of its process as they were."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A script that was called in this process catches SIGTERM, which pools of processes end their children with."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
