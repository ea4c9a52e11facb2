"""Properties by fold: frozen or fine-tuned embeddings beside element statistics with trees, on the same rows."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.elements import check_elements
from megen_gym.agents.polysrl.folds import Folds, Kind, folds_of, leaks
from megen_gym.agents.polysrl.network import CompositionNetwork
from megen_gym.agents.polysrl.regression import Fit, PropertyModel
from megen_gym.agents.polysrl.statistics import Scores, baselines, element_statistics, errors
from megen_gym.agents.polysrl.tables import PropertyTable, read_table
from megen_gym.agents.polysrl.uncertainty_measures import calibration
from megen_gym.errors import InputError
from megen_gym.runs import atomic, write_text
from megen_gym.structure import FloatArray

_TIE = 0.005
"""Weights whose error is by less than this share larger than the least are as good, and averaged."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """Of one way to predict.

    Attributes:
        name: Of it.
        scores: By fold.
        std: (N,) predicted standard deviation of each row, NaN where there is none.
        seconds: CPU time.
    """

    name: str
    scores: Scores
    std: FloatArray
    seconds: float

    def calibration(self, question: Question) -> float:
        """Calibration error of the standard deviations, see :func:`.uncertainty_measures.calibration`; NaN without."""
        known = np.isfinite(self.std)
        residual = (self.scores.predicted - question.table.target)[known]
        return calibration(residual, self.std[known]).error if known.any() else float("nan")


@dataclass(frozen=True, eq=False)
class Question:
    """A table, its folds, and its compositions.

    Attributes:
        table: Formulas and targets.
        folds: Rows.
        compositions: Of the formulas.
        told: Sentences about what was left out and what leaks.
    """

    table: PropertyTable
    folds: Folds
    compositions: Compositions
    told: tuple[str, ...] = field(default=())

    @classmethod
    def read(
        cls,
        data: str | Path | None,
        target: str | None = None,
        formula: str | None = None,
        fold_file: str | Path | None = None,
        kind: Kind | None = None,
        duplicates: Literal["mean", "first", "lowest", "keep"] = "mean",
        element_features: Sequence[str] = (),
    ) -> Question:
        """A table and its folds: official ones where there are any, else those of the published scripts.

        Args:
            data: Table, see :func:`.tables.read_table`.
            target, formula: Names of columns, where they are not clear.
            fold_file: Table with formulas and a column ``fold``: the official test folds.
            kind: See :func:`.folds.folds_of`.
            duplicates: What becomes of several rows of one composition; Matbench's folds keep them.
            element_features: Tables that have to know the elements; rows of others are left out.

        Raises:
            InputError: for what cannot be used.
        """
        if data is None:
            raise InputError("no table was given; give one with formulas and a property, e.g. --data expt_gap.csv")
        table = read_table(data, target, formula, "keep" if kind == "matbench" else duplicates)
        sentences = list(table.skipped)
        every = Compositions.parse(table.formulas)
        kept = np.ones(len(table), dtype=bool)
        for name in element_features:
            for row in np.flatnonzero(kept):
                try:
                    check_elements(every.numbers[row], name)
                except InputError as error:
                    kept[row] = False
                    sentences.append(f"row {row} ({table.formulas[row]}): {error}")
        if not kept.all():
            if table.splits is not None:
                raise InputError(f"{sentences[-1]}; take these rows out of the folds too")
            table, every = table[np.flatnonzero(kept)], every[np.flatnonzero(kept)]
        official = None if fold_file is None else read_table(fold_file, "fold", None, "keep")
        if kind is None:
            known = official is not None or table.splits is not None or table.fold is not None
            kind = "official" if known else "published"
        if kind == "matbench" and not kept.all():
            raise InputError(f"{sentences[-1]}; Matbench's folds are those of all rows: take other element features")
        folds = folds_of(table, kind, official)
        if kind == "official" and table.splits is None:
            for number, (train, test) in enumerate(folds):
                if missing := len(table) - len(train) - len(test):
                    sentences.append(
                        f"fold {number}: {missing} rows share a composition with tested ones and do not train"
                    )
        return cls(table, folds, every, (*sentences, *leaks(table, folds)))

    def fingerprint(self) -> str:
        """A hash of formulas, targets and folds, so that a run goes on with the same."""
        digest = hashlib.sha256("\n".join(self.table.formulas).encode() + self.table.target.tobytes())
        for train, test in self.folds:
            digest.update(train.astype(np.int64).tobytes() + b"|" + test.astype(np.int64).tobytes())
        return digest.hexdigest()[:16]


def judge_trees(question: Question, features: FloatArray, models: Sequence[str], seed: int) -> list[Judgement]:
    """Trees (or ridge) on features (N, D)."""
    found = []
    for name in models:
        begin = time.process_time()
        scores = baselines(features, question.table.target, question.folds, [name], seed)[name]  # type: ignore[list-item]
        found.append(Judgement(name, scores, np.full(len(question.table), np.nan), time.process_time() - begin))
    return found


def judge_network(
    question: Question,
    name: str,
    options: Fit,
    network: CompositionNetwork | None,
    folder: Path,
    report: Callable[[], None],
) -> Judgement:
    """A network trained on each fold, its targets scaled by its training rows alone.

    Args:
        question: See there.
        name: Of the judgement.
        options: Of the training.
        network: To start from, or to keep; new ones by default.
        folder: Where finished folds are kept, so that they are not trained again.
        report: Called after each epoch of each member of each fold.
    """
    target, seconds = question.table.target, 0.0
    predicted, std = np.full((2, len(target)), np.nan)
    mae, r2 = np.zeros((2, len(question.folds)))
    for fold, (train, test) in enumerate(question.folds):
        file = folder / f"fold_{fold}.npz"
        if not file.exists():
            begin = time.process_time()
            model = PropertyModel.fit(question.compositions[train], target[train], options, network, report)
            value, doubt = model.predict(question.compositions[test])
            with atomic(file) as temporary, temporary.open("wb") as stream:
                assert model.held is not None
                seconds_here, (held, kept) = time.process_time() - begin, model.held
                np.savez(stream, value=value, std=doubt, seconds=seconds_here, held=held, kept=kept)
        with np.load(file, allow_pickle=False) as stored:
            predicted[test], std[test] = stored["value"], stored["std"]
            seconds += float(stored["seconds"])
        mae[fold], r2[fold] = errors(target[test], predicted[test])
    return Judgement(name, Scores(mae, r2, predicted), std, seconds)


def stacked(question: Question, network: Judgement, trees: Sequence[Judgement], folder: Path, seed: int) -> Judgement:
    """A weighted mean of the network and trees, whose weights each fold finds on rows that its members were not shown.

    The trees are grown once more without these rows; tested rows play no part in the choice.

    Args:
        question: See there.
        network: As judged, with its folds in `folder`.
        trees: As judged.
        folder: Of the folds.
        seed: Of the trees.
    """
    target, features, begin = question.table.target, statistics_of(question), time.process_time()
    names: list[Any] = [each.name for each in trees]
    weights = _weights(1 + len(names))
    predicted = np.full(len(target), np.nan)
    mae, r2 = np.zeros((2, len(question.folds)))
    for fold, (train, test) in enumerate(question.folds):
        with np.load(folder / f"fold_{fold}.npz", allow_pickle=False) as kept:
            held, values = kept["held"], kept["kept"]
        inner = baselines(features, target, [(np.delete(train, held), train[held])], names, seed)
        guesses = np.stack([values, *(found.predicted[train[held]] for found in inner.values())])
        loss = np.abs(weights @ guesses - target[train[held]]).mean(1)
        best = weights[loss <= loss.min() * (1 + _TIE)].mean(0)
        predicted[test] = best @ np.stack([each.scores.predicted[test] for each in (network, *trees)])
        mae[fold], r2[fold] = errors(target[test], predicted[test])
    seconds = time.process_time() - begin + network.seconds + sum(each.seconds for each in trees)
    return Judgement("network and trees", Scores(mae, r2, predicted), np.full(len(target), np.nan), seconds)


def _weights(size: int) -> FloatArray:
    """(W, size) of at least 0 with a sum of 1, in steps of a tenth."""
    grid = np.array(list(itertools.product(range(11), repeat=size - 1))).reshape(-1, size - 1)
    grid = grid[grid.sum(1) <= 10]
    return np.concatenate([10 - grid.sum(1, keepdims=True), grid], 1) / 10


def statistics_of(question: Question) -> FloatArray:
    """(N, 229) of the compositions."""
    return element_statistics(question.compositions.numbers, question.compositions.fractions)


def write_judgements(folder: Path, question: Question, judgements: Sequence[Judgement]) -> str:
    """``results.csv`` (a row for each way), ``predictions.csv`` (a row for each formula); the table as Markdown."""
    rows = [["model", "mae", "mae_std", "r2", "r2_std", "folds", "calibration_error", "cpu_seconds"]]
    for each in judgements:
        scores = each.scores
        numbers = (scores.mae.mean(), scores.mae.std(), scores.r2.mean(), scores.r2.std())
        seconds, folds = f"{each.seconds:.1f}", str(len(scores.mae))
        rows.append(
            [each.name, *(f"{value:.6g}" for value in numbers), folds, _number(each.calibration(question)), seconds]
        )
    write_text(folder / "results.csv", _csv(rows))
    header = ["formula", "target"]
    for each in judgements:
        header += [each.name, f"{each.name}_std"] if np.isfinite(each.std).any() else [each.name]
    lines = [header]
    for row, (formula, value) in enumerate(zip(question.table.formulas, question.table.target, strict=True)):
        line = [formula, f"{value:.6g}"]
        for each in judgements:
            line.append(_number(each.scores.predicted[row]))
            if np.isfinite(each.std).any():
                line.append(_number(each.std[row]))
        lines.append(line)
    write_text(folder / "predictions.csv", _csv(lines))
    head = "| model | MAE | R² | calibration error | CPU s |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(
        f"| {each.name} | {each.scores.mae.mean():.4f} ± {each.scores.mae.std():.4f} "
        f"| {each.scores.r2.mean():.3f} ± {each.scores.r2.std():.3f} "
        f"| {_number(round(each.calibration(question), 3))} | {each.seconds:.0f} |\n"
        for each in judgements
    )


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
