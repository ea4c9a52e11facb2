"""Does the variance follow polymorphism? ``python agents/polysrl/uncertainty.py`` on the bundled polymorphs.

The embedding and the spread are trained on four fifths of the compositions and judged on the rest, five times. Rank
correlation counts within a formula type, since a variance that follows the size of a formula ranks polymorphs for no
reason. With ``--model`` a trained encoder is judged instead, on the data given. Documentation: docs/polysrl.md.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.nn.resuming import absolute
from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from megen_gym.agents.polysrl.compositions import Compositions
    from megen_gym.agents.polysrl.data import Pairs
    from megen_gym.agents.polysrl.model import CompositionEncoder
    from megen_gym.agents.polysrl.uncertainty_measures import Ranks
    from megen_gym.structure import FloatArray, IntArray


@dataclass
class Settings:
    """Judge the uncertainty of compositions by the number of their structures."""

    data: str | None = None
    """Structures, as for train.py; the bundled synthetic polymorphs by default."""
    model: str | None = None
    """Run of train.py, "newest", or "bundle", judged on all of the data; by default new ones are trained by fold."""
    cache: bool = True
    """Keep what was read from the data for the next time."""
    folds: int = 5
    """Parts of the compositions, each held out once."""
    embedding: bool = False
    """Also train the embedding in every fold, to judge the standard deviations of soft contrast (minutes)."""
    epochs: int = 60
    """Of the embedding."""
    hidden_dim: int = 64
    """Its width."""
    dir: Path = Path("runs")
    """Folder of the run folders."""
    name: str = "uncertainty"
    """Appears in the run's id."""
    seed: int = 0
    """Seed of everything that is random."""
    threads: int = 1
    """CPU threads of torch."""
    progress: bool = True
    """Show a progress bar."""


@user_errors
def report(settings: Settings) -> runs.Run:
    """Write ``uncertainty.csv`` (a row for each composition), ``ranks.csv`` and ``uncertainty.png``."""
    import numpy as np
    import torch

    from megen_gym.agents.nn.devices import keep_memory
    from megen_gym.agents.polysrl.data import load_pairs
    from megen_gym.agents.polysrl.pictures import plot_uncertainty
    from megen_gym.agents.polysrl.uncertainty_measures import auroc, calibration, ranks
    from megen_gym.formulas import amounts_of, formula_type

    log = console_log()
    s = settings
    if s.folds < 2 or s.epochs < 1 or s.threads < 1 or s.hidden_dim < 1 or s.seed < 0:
        raise InputError(f"folds is {s.folds}, epochs {s.epochs}, threads {s.threads}; give at least 2, 1 and 1")
    keep_memory()
    torch.set_num_threads(s.threads)
    encoder = encoder_of(s)
    features = "matscholar" if encoder is None else encoder.network.shape.element_features
    pairs = load_pairs(s.data, features, s.progress, s.cache)
    if pairs.counts.max() < 2:
        raise InputError("every composition of the data has one structure; give some with several")
    if s.folds > len(pairs.compositions) // 20 and s.model is None:
        raise InputError(f"{len(pairs.compositions)} compositions are too few for {s.folds} folds; give 20 for each")
    formulas = pairs.compositions.formulas()
    kinds = [formula_type(amounts_of(formula)) for formula in formulas]
    counts = pairs.counts.astype(np.float64)
    scores, held, residual, std = judged(s, pairs, encoder)
    run = runs.create(
        s.dir, {"name": s.name, "seed": s.seed, "polysrl_uncertainty": asdict(s) | {"data": absolute(s.data)}}
    )
    if encoder is not None:
        log.warning("compositions that the encoder was trained on are judged too; without --model none is")
    found: dict[str, list[Ranks]] = {
        name: [ranks(score[rows], counts[rows], [kinds[row] for row in rows]) for rows in held]
        for name, score in scores.items()
    }
    many = (counts > 1).astype(np.float64)
    areas = {
        name: np.mean([auroc(score[rows], many[rows], [kinds[row] for row in rows]) for rows in held])
        for name, score in scores.items()
    }
    for name, each in found.items():
        log.info(
            f"{name}: rank correlation with the number of structures {np.nanmean([r.within for r in each]):.3f} within "
            f"formula types (± {np.nanstd([r.within for r in each]):.3f} over {len(each)} parts), "
            f"{np.nanmean([r.overall for r in each]):.3f} over all; area under ROC for more than one {areas[name]:.3f}"
        )
    fit = calibration(residual, std)
    log.info(f"calibration error of the spread {fit.error:.3f}, {fit.nll:.3f} nats")
    write(run.path, formulas, kinds, counts, scores, found)
    plot_uncertainty(run.path / "uncertainty.png", scores["spread"], counts, kinds, fit)
    log.info(f"everything is in {run.path}")
    return run


def encoder_of(settings: Settings) -> CompositionEncoder | None:
    """The one to judge, None where new ones are trained.

    Raises:
        InputError: where there is none, or none that knows the spread.
    """
    from megen_gym.agents.polysrl.model import CompositionEncoder

    if settings.model is None:
        return None
    encoder = CompositionEncoder.load(None if settings.model == "bundle" else settings.model, settings.dir)
    if encoder.structures is None:
        raise InputError(f"{settings.model} was trained without the spread; train one with --spread true")
    return encoder


def judged(
    settings: Settings, pairs: Pairs, encoder: CompositionEncoder | None
) -> tuple[dict[str, FloatArray], list[IntArray], FloatArray, FloatArray]:
    """(C,) scores by name, the compositions of each part that is judged by itself, and residuals with their std."""
    import numpy as np
    from tqdm import tqdm

    from megen_gym.agents.polysrl.spread import Spread

    s, size = settings, len(pairs.compositions)
    if encoder is not None:
        assert encoder.structures is not None
        scores = {"embedding": sigma(encoder, pairs.compositions), "spread": encoder.spread(pairs.compositions)}
        residual, std = encoder.structures.residuals(pairs)
        return scores, [np.arange(size)], residual.ravel(), std.ravel()
    parts: list[IntArray] = list(np.array_split(np.random.default_rng([s.seed, 11]).permutation(size), s.folds))
    names = ["spread", "forest"] + (["embedding"] if s.embedding else [])
    found: dict[str, FloatArray] = {name: np.zeros(size) for name in names}
    errors, stds = [], []
    for part in tqdm(parts, unit="part", disable=not s.progress):
        rest, asked = pairs.of(np.setdiff1d(np.arange(size), part)), pairs.compositions[part]
        spread = Spread.fit(rest, s.seed)
        found["spread"][part] = spread.std(asked)
        residual, std = spread.residuals(pairs.of(part))
        errors.append(residual.ravel())
        stds.append(std.ravel())
        found["forest"][part] = forest(rest, asked, s.seed)
        if s.embedding:
            found["embedding"][part] = sigma(trained(s, rest), asked)
    return found, parts, np.concatenate(errors), np.concatenate(stds)


def forest(pairs: Pairs, asked: Compositions, seed: int) -> FloatArray:
    """(B,) numbers of structures that extra trees predict which were told them: what can be known at all."""
    import numpy as np
    from sklearn.ensemble import ExtraTreesRegressor

    from megen_gym.agents.polysrl.statistics import element_statistics

    features = [element_statistics(some.numbers, some.fractions) for some in (pairs.compositions, asked)]
    trees = ExtraTreesRegressor(100, max_features=1 / 3, random_state=seed)
    return np.asarray(trees.fit(features[0], pairs.counts).predict(features[1]))


def trained(settings: Settings, pairs: Pairs) -> CompositionEncoder:
    """An encoder of the embedding alone."""
    import torch

    from megen_gym.agents.polysrl.model import CompositionEncoder
    from megen_gym.agents.polysrl.settings import Settings as Training
    from megen_gym.agents.polysrl.settings import resolved
    from megen_gym.agents.polysrl.training import Trainer, build

    options = resolved(Training(epochs=settings.epochs, hidden_dim=settings.hidden_dim, seed=settings.seed))
    torch.manual_seed(options.seed)
    trainer = Trainer(build(options), pairs, options)
    while trainer.epoch < options.epochs:
        trainer.run_epoch(lambda row: None)
    return CompositionEncoder(trainer.average.composition)


def sigma(encoder: CompositionEncoder, compositions: Compositions) -> FloatArray:
    """(B,) mean logarithm of the standard deviations of an embedding."""
    import numpy as np

    return np.asarray(np.log(encoder.transform(compositions, return_std=True)[1]).mean(1))


def write(
    folder: Path,
    formulas: list[str],
    kinds: list[str],
    counts: FloatArray,
    scores: dict[str, FloatArray],
    found: dict[str, list[Ranks]],
) -> None:
    """Both tables."""
    lines = [",".join(["formula", "type", "structures", *scores])]
    for row, formula in enumerate(formulas):
        values = [f"{score[row]:.5g}" for score in scores.values()]
        lines.append(",".join([formula, kinds[row], f"{counts[row]:.0f}", *values]))
    runs.write_text(folder / "uncertainty.csv", "\n".join(lines) + "\n")
    lines = ["score,part,type,rank_correlation,compositions"]
    for name, parts in found.items():
        for part, each in enumerate(parts):
            lines += [f"{name},{part},{kind},{value:.4f},{size}" for kind, (value, size) in each.types.items()]
    runs.write_text(folder / "ranks.csv", "\n".join(lines) + "\n")


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    report(run(Settings))


if __name__ == "__main__":
    main()
