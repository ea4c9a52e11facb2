"""Tune G-SchNet by a reward: ``python agents/gschnet/tune.py --run ID --reward gfn2``.

A new run folder holds the tuned model, which generate.py uses like any other. A run that was killed goes on with
``--resume ID``. Documentation: docs/gschnet.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from megen_gym import runs
from megen_gym.agents.gschnet.tune_settings import RESUMABLE, Settings, resolved
from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.nn.resuming import again, given_on_command_line, reopened, where
from megen_gym.cli import console_log
from megen_gym.errors import InputError, user_errors

if TYPE_CHECKING:
    from ase import Atoms

    from megen_gym.structure import FloatArray

TUNED = Kind("gschnet_tune", "tuning of G-SchNet", "agents/gschnet/tune.py")


@user_errors
def tune(settings: Settings, given: Collection[str] | None = None) -> runs.Run:
    """Tune, and write everything into the run folder that comes back.

    Each row of its metrics is about the model before the steps of that epoch.

    Args:
        settings: All settings.
        given: Names of those that were set on purpose; see :func:`megen_gym.agents.nn.resuming.continued`.
    """
    import torch
    from ase import Atoms
    from tqdm import tqdm

    from megen_gym.agents.gschnet.asking import parse_conditions, values_of
    from megen_gym.agents.gschnet.model import KIND, Model, load_model
    from megen_gym.agents.gschnet.splitting import FILE as SPLIT
    from megen_gym.agents.gschnet.tuning import Tuner
    from megen_gym.agents.nn.devices import device_of, keep_memory
    from megen_gym.agents.nn.epochs import part
    from megen_gym.io import write_structures
    from megen_gym.report.folder import report_run

    log = console_log()
    run, settings = reopened(TUNED, resolved(settings), Settings(), given, RESUMABLE)
    keep_memory()
    torch.set_num_threads(settings.threads)
    device = device_of("cuda" if settings.accelerator == "gpu" else settings.accelerator)
    judge = judge_of(settings)
    if run is None:
        model, source = load_model(settings.run, settings.dir, device)
        trained = source.settings[KIND.key]
        settings = replace(settings, run=str(source.path.resolve()))
    else:
        tensors, meta = run.load_state(device)
        model = Model.restore(part(tensors, "reference."), meta["model"])
        model.network.to(device)
    asked = parse_conditions(settings.condition)
    values = values_of(model.conditions, asked) if model.conditions or asked else None
    embedded = None if values is None else model.network.embed({k: v.to(device) for k, v in values.items()})
    tuner = Tuner(model, judge, settings, None if embedded is None else embedded.detach())
    if run is None:
        if any(model.pbc):
            raise InputError(f"run {source.id} is of periodic structures; tune a model of molecules or clusters")
        judge([Atoms(numbers=[number]) for number in model.network.shape.atom_types])
        run = TUNED.create(settings, gschnet=trained)
        if (source.path / SPLIT).is_file():
            runs.write_bytes(run.path / SPLIT, (source.path / SPLIT).read_bytes())
    else:
        tuner.load_state(tensors, meta)
    run.clean()
    run.truncate_metrics(tuner.epoch - 1)

    def checkpoint() -> None:
        state, numbers = tuner.state()
        run.save_state(state, numbers | {"model": model.describe()})
        run.save_weights(tuner.network.state_dict())

    if settings.resume is None:
        checkpoint()
    log.info(f"run {run.id}: {settings.reward} of molecules grown by {settings.run}")
    with tqdm(total=settings.epochs, initial=tuner.epoch, unit="epoch", disable=not settings.progress) as bar:
        try:
            while tuner.epoch < settings.epochs:
                row, structures = tuner.run_epoch()
                run.append_metrics(tuner.epoch - 1, row)
                if structures:
                    write_structures(run.path / "structures_last.extxyz", structures)
                checkpoint()
                bar.update()
                bar.set_postfix_str(f"reward {row['reward']:.3f} kl {row['kl']:.2f}", refresh=False)
        except KeyboardInterrupt:
            bar.close()
            kept = run.load_state()[1]["epoch"]
            log.info(f"stopped, {kept} epochs are kept; go on with: {again(TUNED, settings.dir)} {run.id}")
            raise SystemExit(130) from None
    finish(run, settings, log)
    report_run(run)
    return run


def judge_of(settings: Settings) -> Callable[[Sequence[Atoms]], FloatArray]:
    """A function from structures to (B,) rewards; NaN where one cannot be computed.

    Raises:
        InputError: for an unknown reward.
    """
    import numpy as np

    from megen_gym.rewards import make_reward
    from megen_gym.rewards.base import EnergyReward
    from megen_gym.structure import StructureBatch

    reward = make_reward(settings.reward, **settings.reward_kwargs)
    divide = settings.per_atom and isinstance(reward, EnergyReward)

    def judge(structures: Sequence[Atoms]) -> FloatArray:
        after = StructureBatch.from_atoms(structures)
        nothing = StructureBatch.trusted(np.zeros_like(after.positions), np.zeros_like(after.species), after.symbols)
        outcome = reward(nothing, after)
        value = np.array(outcome.value, dtype=float)
        value[list(outcome.errors)] = np.nan
        return value / np.maximum(after.n_atoms, 1) if divide else value

    return judge


def finish(run: runs.Run, settings: Settings, log: logging.Logger) -> None:
    """Say what tuning changed, and draw it."""
    from megen_gym.agents.nn.plots import plot_columns

    metrics = run.metrics()
    reward = metrics["reward"]
    log.info(
        f"reward {reward[0]:.3f} -> {reward[-1]:.3f}, finished {metrics['finished'][0]:.0%} -> "
        f"{metrics['finished'][-1]:.0%}, {int(metrics['evaluations'][-1])} molecules judged"
    )
    names = {"reward": settings.reward, "kl": "log-ratio to the start (nats)", "n_atoms": "atoms"}
    plot_columns(run, names, "tuning.png")
    command = f"python agents/gschnet/generate.py{where(settings.dir)} --run {run.id} --n_molecules 100"
    log.info(f"everything is in {run.path}, see report.html; next: {command}")


def main() -> None:
    """Command line."""
    from megen_gym.cli import run

    tune(run(Settings), given_on_command_line())


if __name__ == "__main__":
    main()
