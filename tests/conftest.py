"""Every test starts from the same random numbers, and leaves the signals of its process as they were."""

import signal
from collections.abc import Iterator

import pytest
from matplotlib import get_cachedir
from matplotlib.figure import Figure


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


@pytest.fixture(autouse=True, scope="session")
def _pictures() -> Iterator[None]:
    """Everything is drawn, but with few pixels and where it falls: to arrange it takes a second for each picture."""
    savefig = Figure.savefig

    def coarse(self: Figure, *args: object, **kwargs: object) -> None:
        self.set_layout_engine("none")
        savefig(self, *args, **(kwargs | {"dpi": 40}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", coarse)
        yield


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is read from files is kept for the tests that follow, and never in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", get_cachedir())
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
