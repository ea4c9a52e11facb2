"""Epoch after epoch: the best weights, checkpoints, early stopping, interruptions, and going on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from megen_gym import runs
from megen_gym.agents.nn.fitting import Plan, Row, fit


class Counter:
    """Its weight is the epoch, its score is given."""

    def __init__(self, scores: list[float], stop_in: int | None = None, late_at: int = 10**6) -> None:
        self.average = nn.Linear(1, 1, bias=False)
        self.scores, self.stop_in, self.late_at = scores, stop_in, late_at
        self.epoch = self.step = 0
        self.elapsed = 0.0
        self.batches = 3

    @property
    def late(self) -> bool:
        return self.epoch >= self.late_at

    def run_epoch(self, report: Callable[[Row], None]) -> Row:
        if self.epoch == self.stop_in:
            raise KeyboardInterrupt
        for _ in range(self.batches):
            report({"loss": 1.0})
        self.epoch += 1
        self.step += self.batches
        nn.init.constant_(self.average.weight, float(self.epoch))
        return {"loss": -float(self.epoch)}

    def judge(self) -> Row:
        return {"val": self.scores[self.epoch - 1]}

    def learning_rate(self) -> float:
        return 0.1

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"weight": self.average.weight}, {"epoch": self.epoch, "step": self.step}


def fitted(
    folder: Path, trainer: Counter, epochs: int = 50, patience: int | None = None, judged: bool = True, meta: Any = None
) -> runs.Run:
    run = runs.create(folder, {"seed": 0}, "one") if meta is None else runs.open(folder, "one")
    told: list[int] = []
    plan = Plan(epochs, patience, "val", "go on", progress=False)
    judge = trainer.judge if judged else None
    fit(trainer, run, plan, judge, lambda epoch, _: told.append(epoch), {"model": "kept"}, meta)
    begun = 0 if meta is None else meta["epoch"]
    assert told == list(range(begun + 1, trainer.epoch + 1))
    return run


def weight(run: runs.Run) -> float:
    return float(run.load_weights()["weight"])


def test_the_weights_of_the_best_epoch_are_kept(tmp_path: Path) -> None:
    run = fitted(tmp_path, Counter([5.0, 3.0, 2.0, 4.0, 2.0, 6.0]), 6)
    assert weight(run) == 3
    tensors, meta = run.load_state()
    assert float(tensors["weight"]) == 6
    assert (meta["epoch"], meta["best"], meta["best_epoch"], meta["model"]) == (6, 2.0, 3, "kept")
    metrics = run.metrics()
    assert metrics["iteration"].tolist() == list(range(6))
    assert metrics["val"].tolist() == [5, 3, 2, 4, 2, 6]
    assert set(metrics) == {"iteration", "loss", "lr", "seconds", "val"}


@pytest.mark.parametrize(("patience", "epochs"), [(1, 4), (2, 5), (3, 9), (None, 12)])
def test_training_ends_after_so_many_epochs_without_a_better_one(
    tmp_path: Path, patience: int | None, epochs: int
) -> None:
    """As Lightning's EarlyStopping counts."""
    trainer = Counter([9.0, 8.0, 7.0, 7.0, 7.5, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0])
    fitted(tmp_path, trainer, 12, patience)
    assert trainer.epoch == epochs


def test_without_held_out_examples_the_loss_decides_and_nothing_ends_early(tmp_path: Path) -> None:
    trainer = Counter([], late_at=7)
    run = fitted(tmp_path, trainer, 50, 1, judged=False)
    assert trainer.epoch == 7
    assert weight(run) == 7
    assert "val" not in run.metrics()


def test_scores_that_are_no_numbers_are_never_the_best(tmp_path: Path) -> None:
    run = fitted(tmp_path, Counter([float("nan"), 3.0, float("nan"), 4.0]), 4)
    assert weight(run) == 2


def test_an_interrupted_run_says_so_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scores = [5.0, 2.0, 4.0, 3.0, 1.0]
    with pytest.raises(SystemExit) as end:
        fitted(tmp_path, Counter(scores, stop_in=3))
    assert end.value.code == 130
    assert "stopped in epoch 4, 3 epochs are kept; go on with: go on one" in caplog.text
    run = runs.open(tmp_path, "one")
    run.append_metrics(3, {"val": 99.0})  # as after a kill between the table and the checkpoint
    (run.path / ".tmp-1-old").write_text("torn")
    meta = run.load_state()[1]
    trainer = Counter(scores)
    trainer.epoch, trainer.step = meta["epoch"], meta["step"]
    fitted(tmp_path, trainer, 5, None, True, meta)
    np.testing.assert_array_equal(run.metrics()["val"], scores)
    assert weight(run) == 5
    assert not list(run.path.glob(".tmp-*"))


def test_a_run_that_was_over_stays_as_it_is(tmp_path: Path) -> None:
    run = fitted(tmp_path, Counter([3.0, 2.0, 4.0, 4.0]), 50, 2)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    trainer = Counter([])
    trainer.epoch = 4
    fitted(tmp_path, trainer, 50, 2, True, run.load_state()[1])
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_weights_are_there_before_the_first_epoch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = Counter([], stop_in=0)
    with pytest.raises(SystemExit):
        fitted(tmp_path, trainer)
    run = runs.open(tmp_path, "one")
    assert weight(run) == trainer.average.weight.item()
    assert run.load_state()[1]["best"] == float("inf")
