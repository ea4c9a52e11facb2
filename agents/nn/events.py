"""TensorBoard events beside the metrics of a run."""

from __future__ import annotations

from collections.abc import Mapping

from megen_gym.runs import Run


class Events:
    """TensorBoard events in the run folder, where they are wanted."""

    def __init__(self, run: Run, wanted: bool) -> None:
        self.writer = None
        if wanted:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run.path / "tensorboard"))  # type: ignore[no-untyped-call]

    def add(self, epoch: int, row: Mapping[str, float]) -> None:
        """One point of each curve."""
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(name, value, epoch)  # type: ignore[no-untyped-call]
            self.writer.flush()  # type: ignore[no-untyped-call]
