"""Every test starts from the same random numbers."""

import pytest


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
