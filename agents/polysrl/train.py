"""Train embeddings of compositions: ``python agents/polysrl/train.py --data structures.csv``.

The script reads from top to bottom: settings, data, networks, epochs, spread. A run that was killed goes on with
``--resume ID``. Documentation: docs/polysrl.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.nn.resuming import again, checkpoint_of, given_on_command_line, reopened, where
from megen_gym.agents.polysrl.settings import RESUMABLE, Settings, resolved
from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from megen_gym.agents.polysrl.data import Pairs


@user_errors
def train(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Train, and write everything into the run folder that comes back.

    Args:
        settings: All settings.
        given: Names of those that were set on purpose; see :func:`megen_gym.agents.nn.resuming.continued`.
    """
    import torch

    from megen_gym.agents.nn.devices import device_of, keep_memory
    from megen_gym.agents.nn.events import Events
    from megen_gym.agents.nn.fitting import Plan, fit
    from megen_gym.agents.polysrl.data import load_pairs
    from megen_gym.agents.polysrl.embedders import EMBEDDERS
    from megen_gym.agents.polysrl.logs import plot_training, summary
    from megen_gym.agents.polysrl.model import KIND, SPREAD
    from megen_gym.agents.polysrl.spread import Spread
    from megen_gym.agents.polysrl.training import Trainer, build, judge, target_of
    from megen_gym.report.folder import report_run

    log = console_log()
    usual = resolved(Settings(preset=settings.preset))
    run, settings = reopened(KIND, resolved(settings), usual, given, RESUMABLE)
    keep_memory()
    torch.set_num_threads(settings.threads)
    device = device_of(settings.device)
    pairs = load_pairs(settings.data, settings.element_features, settings.progress, settings.cache)
    tell(pairs, log)
    target = target_of(settings, pairs)
    if target == "energy_per_atom":
        log.warning("energy_per_atom is learned as it is: a total energy, unless the data means that of formation")
    sees = EMBEDDERS[settings.embedder].sees_structures and settings.holdout > 0
    trained, held_out = pairs.split(settings.holdout if sees else 0.0, settings.seed)
    torch.manual_seed(settings.seed)
    embedder = build(settings)
    embedder.to(device)
    trainer = Trainer(embedder, trained, settings, target)
    tensors, meta = checkpoint_of(run)
    if tensors:
        if meta["data"] != fingerprint(pairs):
            raise InputError(f"the data differs from that of run {settings.resume}; give the same, or train anew")
        trainer.load_state(tensors, meta)
    if run is None:
        run = KIND.create(settings)
    weights = sum(parameter.numel() for parameter in embedder.parameters())
    log.info(
        f"run {run.id}: {settings.embedder}, {weights} weights, {len(trained)} structures of "
        f"{len(trained.compositions)} compositions, {len(held_out)} of {len(held_out.compositions)} held out"
    )
    events = Events(run, settings.writer)
    fit(
        trainer,
        run,
        Plan(
            settings.epochs, settings.es, "miss", again(KIND, settings.dir), settings.progress,
            eval_freq=settings.eval_freq,
        ),
        (lambda: judge(trainer.average, held_out)) if sees else None,
        events.add,
        {"shape": asdict(embedder.composition.shape), "data": fingerprint(pairs)},
        meta or None,
    )  # fmt: skip
    if settings.spread and settings.embedder.startswith("PolySRL"):
        try:
            Spread.fit(trained, settings.seed).save(run.path / SPREAD)
        except InputError as error:
            log.warning(f"no spread: {error}")
    log.info(summary(run))
    plot_training(run)
    report_run(run)
    log.info(
        f"everything is in {run.path}, see report.html; next: python agents/polysrl/test_representation.py"
        f"{where(settings.dir)} --model {run.id} --data TABLE.csv"
    )
    return run


def tell(pairs: Pairs, log: logging.Logger) -> None:
    """What could not be used."""
    for sentence in pairs.skipped[:3]:
        log.warning(f"left out: {sentence}")
    if len(pairs.skipped) > 3:
        log.warning(f"left out: {len(pairs.skipped) - 3} more")


def fingerprint(pairs: Pairs) -> str:
    """A hash of everything that is learned from, so that a run goes on with the same."""
    import hashlib

    digest = hashlib.sha256()
    compositions, graphs = pairs.compositions, pairs.graphs
    arrays = [compositions.numbers, compositions.fractions, pairs.index, graphs.numbers, graphs.distance, graphs.count]
    for array in (*arrays, *pairs.properties.values()):
        digest.update(array.round(4).tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    train(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
