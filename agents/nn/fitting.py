"""Epoch after epoch: judging, keeping the best weights, checkpoints, progress, and stopping in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from torch import Tensor, nn
from tqdm import tqdm

from megen_gym.agents.nn.devices import gpu_memory
from megen_gym.runs import Run

Row = dict[str, float]


class Trains(Protocol):
    """An :class:`.epochs.EpochTrainer` that can go through its data."""

    epoch: int
    step: int
    elapsed: float

    @property
    def average(self) -> nn.Module:
        """Moving average of the network."""
        ...

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        ...

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        ...

    def run_epoch(self, report: Callable[[Row], None]) -> Row:
        """Once through the data."""
        ...

    def learning_rate(self) -> float:
        """Of the next step."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and numbers as JSON."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long, by what it is judged, and what is said.

    Attributes:
        epochs: At most.
        patience: Epochs without a better score after which training ends; None for never.
        key: Column of the score among what the judge says; small is good.
        again: Command that goes on with the run.
        progress: Show a bar.
        refresh: Batches between its updates.
        otherwise: Column of training that is the score where nothing is held out.
        eval_freq: Epochs between judgements; the last one is always judged.
        save_freq: Epochs between checkpoints; the last one always is.
    """

    epochs: int
    patience: int | None
    key: str
    again: str
    progress: bool = True
    refresh: int = 1
    otherwise: str = "loss"
    eval_freq: int = 1
    save_freq: int = 1


def fit(
    trainer: Trains,
    run: Run,
    plan: Plan,
    judge: Callable[[], Row] | None,
    told: Callable[[int, Row], None],
    extra: Mapping[str, Any],
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Train to the end; ``metrics.csv``, the best weights and checkpoints are written in between.

    Args:
        trainer: With its state loaded where the run goes on.
        run: Its folder.
        plan: See there.
        judge: Gives the row of the held-out examples; None where nothing is held out.
        told: Called with each epoch and its row.
        extra: Kept with every checkpoint.
        meta: Of the checkpoint that the run goes on from; None for a new run.

    Raises:
        SystemExit: 130 when stopped by Ctrl-C or SIGTERM; what is kept is said.
    """
    best: float = float("inf") if meta is None else meta["best"]
    best_epoch: int = 0 if meta is None else meta["best_epoch"]
    run.clean()
    run.truncate_metrics(trainer.epoch - 1)

    def checkpoint() -> None:
        tensors, numbers = trainer.state()
        run.save_state(tensors, numbers | {"best": best, "best_epoch": best_epoch} | dict(extra))

    def over() -> bool:
        idle = judge is not None and plan.patience is not None and trainer.epoch - best_epoch >= plan.patience
        return trainer.epoch >= plan.epochs or trainer.late or idle

    if meta is None:
        checkpoint()
        run.save_weights(trainer.average.state_dict())
    looks: dict[str, Any] = {"unit": "batch", "disable": not plan.progress, "smoothing": 0.05, "miniters": plan.refresh}
    with tqdm(total=plan.epochs * trainer.batches, initial=trainer.step, **looks) as bar:

        def report(row: Row) -> None:
            bar.update()
            bar.set_postfix_str(
                f"epoch {trainer.epoch} loss {row['loss']:.3f} best {best:.3f}{gpu_memory()}", refresh=False
            )

        try:
            while not over():
                row = trainer.run_epoch(report) | {"lr": trainer.learning_rate(), "seconds": trainer.elapsed}
                last, begin = over(), time.monotonic()
                if judge is not None and (last or trainer.epoch % plan.eval_freq == 0):
                    row |= judge()
                score = row[plan.otherwise] if judge is None else row.get(plan.key, float("inf"))
                if score < best:
                    best, best_epoch = score, trainer.epoch
                    run.save_weights(trainer.average.state_dict())
                run.append_metrics(trainer.epoch - 1, row)
                told(trainer.epoch, row)
                if last or over() or trainer.epoch % plan.save_freq == 0:
                    checkpoint()
                trainer.elapsed += time.monotonic() - begin
        except KeyboardInterrupt:
            bar.close()
            stop(run, trainer.epoch + 1, plan.again)


def stop(run: Run, epoch: int, again: str) -> NoReturn:
    """End the process as Ctrl-C and SIGTERM do, and say what is kept.

    Args:
        run: That was stopped.
        epoch: In which it was.
        again: Command that goes on with it, but for its id.

    Raises:
        SystemExit: 130.
    """
    kept = run.load_state()[1]["epoch"]
    logging.getLogger("megen_gym").info(
        f"stopped in epoch {epoch}, {kept} epochs are kept; go on with: {again} {run.id}"
    )
    raise SystemExit(130) from None
