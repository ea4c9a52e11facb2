"""Tune crystal_gpt by a reward: ``python agents/crystal_gpt/tune.py --run ID --reward volume_per_atom``.

A new run folder holds the tuned model, which sample.py and evaluate.py use like any other. A run that was killed goes
on with ``--resume ID``. Documentation: docs/crystal_gpt.md.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.crystal_gpt.tune_settings import RESUMABLE, Settings, resolved
from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.nn.resuming import again, given_on_command_line, reopened, settings_of, where
from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from megen_gym.agents.crystal_gpt.model import Model
    from megen_gym.agents.crystal_gpt.tuning import Tuner
    from megen_gym.crystals import CrystalBatch

KIND = Kind("tune", "tuned run", "agents/crystal_gpt/tune.py")

PRETRAINED = "pretrained.safetensors"
"""The weights that tuning started from, kept in the run folder."""


@user_errors
def tune(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Tune, and write everything into the run folder that comes back.

    Each row of its metrics is about the model before the steps of that epoch: row 0 is the pretrained model, the last
    row the tuned one. The weights that are kept are those of the best row.

    Args:
        settings: All settings.
        given: Names of those that were set on purpose; see :func:`megen_gym.agents.nn.resuming.continued`.
    """
    import torch
    from tqdm import tqdm

    from megen_gym.agents.crystal_gpt.model import Model, load_model
    from megen_gym.agents.crystal_gpt.training import PUBLISHED_FLOOR
    from megen_gym.agents.crystal_gpt.tune_logs import plot_tuning, row_of, summary, write_tuned
    from megen_gym.agents.nn.devices import device_of
    from megen_gym.agents.nn.fitting import stop
    from megen_gym.report.folder import report_run

    log = console_log()
    run, settings = reopened(KIND, resolved(settings), Settings(), given, RESUMABLE)
    torch.set_num_threads(settings.threads)
    device = device_of(settings.device)
    tensors: dict[str, torch.Tensor] = {}
    meta: dict[str, Any] = {}
    if run is not None:
        tensors, meta = run.load_state()
        model = Model.restore(run.load_weights(PRETRAINED), meta["model"])
        model.network.to(device)
        pretraining = run.settings["crystal_gpt"]
    else:
        model, source = load_model(settings.run, settings.dir, device)
        settings, pretraining = replace(settings, run=str(source.path)), source.settings["crystal_gpt"]
        meta["fingerprint"] = source.load_state()[1].get("fingerprint")
    seen = meta["fingerprint"]
    judges = held_out(settings, pretraining, seen, model, log)
    tuner = build(settings, model, pretraining, log)
    best, best_epoch, elapsed = float("-inf"), 0, 0.0
    if run is None:
        run = KIND.create(settings, crystal_gpt=pretraining)
        run.save_weights(tuner.pretrained.state_dict(), PRETRAINED)
        run.save_weights(tuner.pretrained.state_dict())
    else:
        tuner.load_state(tensors, meta)
        best = float("-inf") if meta["best"] is None else meta["best"]
        best_epoch, elapsed = meta["best_epoch"], meta["elapsed"]
    run.clean()
    run.truncate_metrics(tuner.epoch - 1)
    log.info(
        f"run {run.id}: {settings.method} on {model.describe()['shape']['layers']} layers, {settings.epochs} epochs of "
        f"{settings.batchsize} crystals, beta {settings.beta:g}"
    )

    def checkpoint() -> None:
        state, numbers = tuner.state()
        extra = {"best": best if best > float("-inf") else None, "best_epoch": best_epoch, "elapsed": elapsed}
        run.save_state(state, numbers | extra | {"model": model.describe(), "fingerprint": seen})

    if not tensors:
        checkpoint()
    steps = settings.ppo_epochs
    if tuner.pairs is not None:
        steps = -(-(len(tuner.pairs) // 2) // settings.batchsize)
    total, done = settings.epochs * (steps + 1) + 1, tuner.epoch * (steps + 1)
    with tqdm(total=total, initial=done, unit="step", disable=not settings.progress, smoothing=0.05) as bar:

        def report() -> None:
            bar.update()

        try:
            while True:
                begin, last = time.monotonic(), tuner.epoch >= settings.epochs
                draw = tuner.draw()
                report()
                row = row_of(draw) | {"beta": tuner.beta, "evaluations": float(tuner.scorer.evaluations)}
                if judges is not None and (last or tuner.epoch % settings.eval_freq == 0):
                    parts = model.log_prob(judges, None, PUBLISHED_FLOOR)
                    row["nll"] = -float(parts.total.mean())
                near = settings.max_kl is None or row["kl"] <= settings.max_kl
                if (row["score"] if settings.reward is not None else float(tuner.epoch)) > best and near:
                    best = row["score"] if settings.reward is not None else float(tuner.epoch)
                    best_epoch = tuner.epoch
                    run.save_weights(tuner.network.state_dict())
                bar.set_postfix_str(f"epoch {tuner.epoch} reward {row['reward']:.4g} kl {row['kl']:.2f}", refresh=False)
                epoch = tuner.epoch
                if not last:
                    row |= tuner.update(draw, report)
                elapsed += time.monotonic() - begin
                run.append_metrics(epoch, row | {"seconds": elapsed})
                if last:
                    break
                checkpoint()
        except KeyboardInterrupt:
            bar.close()
            stop(run, tuner.epoch, again(KIND, settings.dir))
    write_tuned(run, draw)
    plot_tuning(run, settings.minimise)
    report_run(run)
    log.info(summary(run, best_epoch, settings.batchsize))
    command = f"python agents/crystal_gpt/sample.py{where(settings.dir)} --run {run.id} --n 1000"
    log.info(f"everything is in {run.path}, see report.html; next: {command}")
    return run


def build(settings: Settings, model: Model, pretraining: dict[str, Any], log: logging.Logger) -> Tuner:
    """The tuner of a pretrained model, with its reward, what is asked of the crystals, and pairs from files.

    Raises:
        InputError: for anything that cannot be had.
    """
    from megen_gym.agents.crystal_gpt.asking import Request, parse_properties
    from megen_gym.agents.crystal_gpt.preferences import read_pairs
    from megen_gym.agents.crystal_gpt.rewarding import rewarded
    from megen_gym.agents.crystal_gpt.scoring import Scorer
    from megen_gym.agents.crystal_gpt.tuning import Tuner
    from megen_gym.envs.wyckoff import load_groups

    groups = [] if settings.spacegroup is None else [group.number for group in load_groups(settings.spacegroup)]
    foreign = [number for number in groups if number not in model.groups]
    if foreign:
        log.info(f"space group {', '.join(map(str, foreign))} is not among the training data; expect little")
    request = Request(
        settings.elements, settings.composition, settings.n_atoms, settings.max_atoms, settings.wyckoff,
        None, settings.remove_radioactive,
    )  # fmt: skip
    judge = None
    if settings.reward is not None:
        judge = rewarded(settings.reward, settings.reward_kwargs, settings.per_atom)
    pairs = None
    if settings.chosen is not None and settings.rejected is not None:
        how = (pretraining["symprec"], pretraining["cache"], settings.progress)
        pairs = read_pairs(settings.chosen, settings.rejected, model, *how)
    wanted, properties = request.wanted(model, groups), parse_properties(settings.conditions)
    return Tuner(model, settings, Scorer(judge, settings), groups, wanted, properties, pairs)


def held_out(
    settings: Settings, pretraining: dict[str, Any], seen: str | None, model: Model, log: logging.Logger
) -> CrystalBatch | None:
    """The crystals that judge the likelihood; None, and a sentence, where there are none.

    Args:
        settings: Resolved.
        pretraining: Settings of the training.
        seen: Fingerprint of the crystals that it was trained on.
        model: The pretrained model.
        log: Where the sentence goes.

    Raises:
        InputError: for a file of the user's that cannot be read.
    """
    from megen_gym.agents.crystal_gpt.data import load
    from megen_gym.agents.crystal_gpt.settings import Settings as Training
    from megen_gym.agents.crystal_gpt.train import fingerprint, prepare

    n_max = model.network.shape.n_max
    if settings.data is not None:
        crystals = load(settings.data, pretraining["symprec"], pretraining["cache"], settings.progress).crystals
    else:
        trained = replace(settings_of(Training, pretraining), progress=settings.progress)
        try:
            split = prepare(trained, logging.Logger("silent"))[1]
        except (InputError, OSError) as error:
            log.info(f"the data of training cannot be read any more, so no crystal judges the likelihood: {error}")
            return None
        if seen is not None and fingerprint(split.train.crystals) != seen:
            log.info("the data of training has changed, so no crystal judges the likelihood; give a file with --data")
            return None
        crystals = split.valid.crystals
    crystals = crystals[crystals.n_sites <= n_max]
    if not len(crystals):
        log.info("no crystal was held out in training, so none judges the likelihood; give a file with --data")
        return None
    return crystals.padded(n_max)


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    tune(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
